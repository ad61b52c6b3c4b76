//! Any edits of a guest.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tamis_oracles::edits(data));
