//! Any text as a configuration: it is refused with places and reasons, or it is sound and can be told again.

use std::io;
use std::path::Path;

use serde_json::Value as Json;
use tamis_config::{Config, Environment, Errors};

/// A bound on what one run takes; nothing in a configuration begins to matter only beyond it.
const MAX_BYTES: usize = 64 << 10;

/// Parses and checks the text. Every error has a place and one line; what is accepted says the same when what it
/// describes is read again.
pub fn configuration(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    if text.len() > MAX_BYTES {
        return;
    }
    match parse(text) {
        Ok(config) => told_again(&config),
        Err(errors) => errors.iter().for_each(check_error),
    }
    // The same text as a file of endpoints.
    if let Err(errors) = tamis_config::parse_endpoints(text, Path::new("/etc/tamis.yaml")) {
        errors.iter().for_each(check_error);
    }
}

fn parse(text: &str) -> Result<Config, Errors> {
    tamis_config::parse(text, Path::new("/etc/tamis.yaml"), &Surroundings)
}

fn check_error(error: &tamis_config::Error) {
    let shown = error.to_string();
    assert!(shown.starts_with("/etc/tamis.yaml"), "no place: {shown:?}");
    assert!(!error.message.trim().is_empty(), "no reason: {shown:?}");
    assert!(!shown.contains(char::is_control), "more than one line: {shown:?}");
    let (line, column) = (error.place.line(), error.place.column());
    assert_eq!(line == 0, column == 0, "half a place: {shown:?}");
}

/// JSON is YAML, and a description has the words of the vocabulary; only secrets and what stands for nothing differ.
fn told_again(config: &Config) {
    let described = config.describe();
    if has_secret(&described) {
        return;
    }
    let again = parse(&without_nothing(described.clone()).to_string())
        .unwrap_or_else(|errors| panic!("refused when told again: {errors}\n{described:#}"));
    assert_eq!(again.describe(), described, "told again, it says another thing");
}

fn has_secret(value: &Json) -> bool {
    match value {
        Json::String(text) => text.contains("[redacted]"),
        Json::Array(items) => items.iter().any(has_secret),
        Json::Object(members) => members.values().any(has_secret),
        _ => false,
    }
}

/// What is not set is told as null; in a filter's own settings null is what was written.
fn without_nothing(value: Json) -> Json {
    match value {
        Json::Array(items) => items.into_iter().map(without_nothing).collect(),
        Json::Object(members) => {
            let set = members.into_iter().filter(|(_, value)| !value.is_null());
            let told = |(key, value)| match key {
                key if key == "config" => (key, value),
                key => (key, without_nothing(value)),
            };
            set.map(told).collect()
        }
        other => other,
    }
}

/// The same for each run: one variable, one file.
struct Surroundings;

impl Environment for Surroundings {
    fn variable(&self, name: &str) -> Result<Option<String>, String> {
        match name {
            "SET" => Ok(Some("value".to_owned())),
            "BROKEN" => Err("its value is not UTF-8".to_owned()),
            _ => Ok(None),
        }
    }

    fn read(&self, path: &Path, _max_bytes: u64) -> io::Result<Vec<u8>> {
        match path.file_name().and_then(|name| name.to_str()) {
            Some("secret") => Ok(b"secret\n".to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}
