//! `tamis-config`: the text of one YAML file to a validated [`Config`].
//!
//! Control plane. Pure but for [`load`]: [`parse`] takes the text and an [`Environment`], and the same arguments always
//! give the same result. It may take its time and fail with a list.
//!
//! The way: text -> `node` (a tree with places) -> `vocabulary` (every key and its type) -> `parse` (cross references,
//! defaults, rules) -> `model`. The first step stops at the first fault, because behind a syntax error nothing can be
//! trusted; from there on all faults are collected, and each is reported once.
//!
//! Invariants:
//! - A [`Config`] is sound: every index points into its list, every number is within its bounds, every pattern compiles.
//! - Every error names the file, the place, the key and the fix.
//! - No input panics or takes unbounded time or memory.
//! - What came from a variable or a file into a filter's settings is never shown.
//!
//! Deliberately absent: sockets, threads, wasm, and any knowledge of what a filter does.

mod address;
mod choice;
mod describe;
mod environment;
mod error;
mod expand;
mod model;
mod node;
mod parse;
mod place;
mod reader;
mod settings;
mod shape;
mod suggest;
mod units;
mod vocabulary;
mod word;

use std::path::Path;

pub use environment::{Environment, System};
pub use error::{Error, Errors};
pub use model::*;
pub use place::Place;
pub use settings::Settings;
pub use units::parse_duration;

/// Reads, parses and checks a configuration file of at most 16 MiB.
///
/// Anything but a regular file is refused before it is read. Blocks on the file system.
pub fn load(path: &Path) -> Result<Config, Errors> {
    let text = read(path).map_err(|message| Error {
        place: Place::file(path),
        message,
    })?;
    parse(&text, path, &System)
}

/// Parses and checks the text of a configuration. `file` is its name in errors, and its folder is what relative paths
/// count from; it need not exist.
pub fn parse(text: &str, file: &Path, environment: &dyn Environment) -> Result<Config, Errors> {
    parse::parse(text, file, environment)
}

/// Reads, parses and checks a file of endpoints of at most 16 MiB: a list in the form of `endpoints` of a cluster, without
/// variables.
///
/// Blocks on the file system.
pub fn endpoints(path: &Path) -> Result<Vec<Endpoint>, Errors> {
    let text = read(path).map_err(|message| Error {
        place: Place::file(path),
        message,
    })?;
    parse_endpoints(&text, path)
}

/// The same of a text. `file` is its name in errors, and its folder is what relative paths count from.
pub fn parse_endpoints(text: &str, file: &Path) -> Result<Vec<Endpoint>, Errors> {
    parse::cluster::endpoints_file(text, file)
}

/// The JSON Schema (draft 2020-12) of a configuration file, for editors and other tools.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(vocabulary::Document).to_value()
}

fn read(path: &Path) -> Result<String, String> {
    let content = System
        .read(path, node::MAX_FILE_BYTES as u64)
        .map_err(|error| format!("cannot be read: {error}"))?;
    String::from_utf8(content).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        format!("not UTF-8 from byte {offset} on; save it as UTF-8")
    })
}
