//! Doors, as far as they can be decided without opening any: whether a wish is admitted
//! ([`admit`]), what is told of it ([`tell`]) and whom it is announced to ([`announce`]). Pure: no
//! clock, no I/O; [`crate::delivery::doors`] acts.

pub mod admit;
pub mod announce;
pub mod tell;

pub use admit::{At, Memory, Why, admit};
pub use announce::announce;
