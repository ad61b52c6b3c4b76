//! Any bytes as a component.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tamis_oracles::artifact(data));
