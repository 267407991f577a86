//! Any bytes as a frame of a FIBARO Intercom.
#![no_main]

#[path = "../checks/fibaro_wire.rs"]
mod fibaro_wire;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fibaro_wire::check(bytes));
