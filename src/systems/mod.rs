//! The systems Portero listens to, one module each. Every one turns its vendor's words into
//! [`crate::event::Event`]s; none of them knows the rules, the journal or each other.

pub mod netatmo;
