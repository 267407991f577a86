//! Any bytes as an answer of a VMS.
#![no_main]

#[path = "../checks/vms_wire.rs"]
mod vms_wire;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vms_wire::check(bytes));
