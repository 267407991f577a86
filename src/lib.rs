//! Portero, the doorkeeper of a home or building.
//!
//! # Layout
//!
//! Modules stand in the order in which an event meets them, which is also the order to read them
//! in. A module imports only from its own block and the blocks above it; `tests/tidy.rs` checks.
#![forbid(unsafe_code)]

// Words: the vocabulary.
pub mod event;
pub mod action;
pub mod record;
pub mod clock;
pub mod secret;

// A text with positions, for config and rules.
pub mod node;

// Pure: rule files to decisions.
pub mod rules;

// Systems: what the vendors say, made into events.
pub mod systems;
