//! Any bytes as an EMM's answer.
#![no_main]

#[path = "../checks/emm_wire.rs"]
mod emm_wire;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| emm_wire::check(bytes));
