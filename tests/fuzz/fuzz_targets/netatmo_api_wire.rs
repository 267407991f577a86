//! Any bytes as an answer of Netatmo's cloud.
#![no_main]

#[path = "../checks/netatmo_api_wire.rs"]
mod netatmo_api_wire;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| netatmo_api_wire::check(bytes));
