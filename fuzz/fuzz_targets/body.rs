//! Any body through guests that do anything with it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tamis_oracles::body(data));
