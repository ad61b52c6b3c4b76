//! Any bytes as what an upstream sends.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tamis_oracles::codec(data));
