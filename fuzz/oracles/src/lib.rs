//! What must hold for any input: one function for each fuzz target, which panics when it does not.
//!
//! Each takes the bytes that a fuzzer makes, and reads them in a form that a person can write down, so that a corpus
//! file says what it is about. `fuzz/fuzz_targets` calls them with new bytes, `tests/corpus.rs` with those of
//! `fuzz/corpus`. Whatever is not for them to judge (bytes that are no script) they let pass.

mod artifact;
mod body;
mod codec;
mod configuration;
mod edits;
mod guest;
mod head;

pub use artifact::artifact;
pub use body::body;
pub use codec::codec;
pub use configuration::configuration;
pub use edits::edits;

/// Stands between the records of a script (RS).
const RECORD: u8 = 0x1e;
/// Stands between the parts of a record (US).
const UNIT: u8 = 0x1f;

/// Records of one script that are read: enough to pass every bound that counts them.
const MAX_RECORDS: usize = 512;

fn records(script: &[u8]) -> impl Iterator<Item = &[u8]> {
    script.split(|byte| *byte == RECORD).take(MAX_RECORDS)
}
