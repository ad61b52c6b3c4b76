//! The corpora of `fuzz/corpus`, through the same functions as the fuzzer's own inputs.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Every file of a corpus; those that fail are named together.
fn replay(target: &str, oracle: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it is read").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}: empty", folder.display());
    let fails = |path: &Path| {
        let bytes = fs::read(path).expect("a file of the corpus");
        catch_unwind(AssertUnwindSafe(|| oracle(&bytes))).is_err()
    };
    paths.retain(|path| fails(path));
    assert!(paths.is_empty(), "these fail: {paths:#?}");
}

#[test]
fn artifact() {
    replay("artifact", tamis_oracles::artifact);
}

#[test]
fn body() {
    replay("body", tamis_oracles::body);
}

#[test]
fn codec() {
    replay("codec", tamis_oracles::codec);
}

#[test]
fn configuration() {
    replay("configuration", tamis_oracles::configuration);
}

#[test]
fn edits() {
    replay("edits", tamis_oracles::edits);
}
