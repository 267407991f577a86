//! Any bytes as what an Indigo server's feeds and command service say.
#![no_main]

#[path = "../checks/indigo_wire.rs"]
mod indigo_wire;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| indigo_wire::check(bytes));
