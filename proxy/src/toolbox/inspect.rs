//! What a component is, as a report: for people, and as JSON.
//!
//! Control plane. The report is made first and judged afterwards, so that a component that does not load is described
//! all the same.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::stand::{self, Room, Stand};
use crate::filter::Hook;
use crate::outbound::Desk;
use crate::wasm::{Access, Digest};

/// What the contract's names begin with.
const PACKAGE: &str = "tamis:filter/";
/// `limits.memory` of a filter that sets none.
const DEFAULT_MEMORY_BYTES: usize = 16 << 20;

pub struct Report {
    file: String,
    digest: Digest,
    size_bytes: usize,
    compiled_bytes: usize,
    compiled_in: Duration,
    /// Of the contract; more than one is a mixture, none is no filter.
    versions: Vec<String>,
    hooks: Vec<&'static str>,
    imports: Vec<(String, Access)>,
    start: Start,
}

enum Start {
    Started {
        within: Duration,
        memory_bytes: usize,
    },
    /// It loads, with another configuration.
    Unconfigured(String),
    Refused(String),
}

/// Fails when the file is no component at all; else the report says whether it loads.
pub fn inspect(file: &Path, config: Option<&str>) -> Result<Report, String> {
    let config = config.map(stand::json).transpose()?;
    let stand = Stand::set_up(file, Room::Ample)?;
    let artifact = &stand.artifact;
    let imports = artifact.imports();
    let names = imports.iter().cloned().chain(artifact.exports());
    Ok(Report {
        file: file.display().to_string(),
        digest: artifact.digest(),
        size_bytes: artifact.size(),
        compiled_bytes: artifact.compiled_size()?,
        compiled_in: stand.compiled_in,
        versions: versions(names),
        hooks: hooks(&artifact.exports()),
        imports: imports
            .into_iter()
            .map(|import| (import.clone(), Access::to(&import)))
            .collect(),
        start: start(&stand, config.as_deref())?,
    })
}

fn start(stand: &Stand, config: Option<&str>) -> Result<Start, String> {
    let filter = match stand.link(config.unwrap_or("null"), &[]) {
        Ok(filter) => filter,
        Err(reason) => return Ok(Start::Refused(reason)),
    };
    let (desk, _orders) = Desk::new();
    let since = Instant::now();
    Ok(match stand::runtime()?.block_on(stand.start(&filter, &desk)) {
        Ok(instance) => Start::Started {
            within: since.elapsed(),
            memory_bytes: instance.memory_bytes(),
        },
        Err(error) if error.is_refusal && config.is_none() => Start::Unconfigured(error.to_string()),
        Err(error) => Start::Refused(error.to_string()),
    })
}

/// `tamis:filter/clock@0.1.0` gives `0.1.0`.
fn versions(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut versions: Vec<String> = names
        .filter(|name| name.starts_with(PACKAGE))
        .filter_map(|name| name.rsplit_once('@').map(|(_, version)| version.to_owned()))
        .collect();
    versions.sort_unstable();
    versions.dedup();
    versions
}

fn hooks(exports: &[String]) -> Vec<&'static str> {
    let exported = |hook: &Hook| {
        let interface = format!("{PACKAGE}{}@", hook.as_str().replace('_', "-"));
        exports.iter().any(|export| export.starts_with(&interface))
    };
    Hook::ALL
        .into_iter()
        .filter(exported)
        .map(|hook| hook.as_str())
        .collect()
}

impl Report {
    /// The reason why it would not be loaded.
    pub fn verdict(&self) -> Result<(), String> {
        match &self.start {
            Start::Started { .. } | Start::Unconfigured(_) => Ok(()),
            Start::Refused(reason) => Err(format!("{}: {reason}", self.file)),
        }
    }

    pub fn to_json(&self) -> Value {
        let imports: Vec<Value> = self
            .imports
            .iter()
            .map(|(name, access)| match access {
                Access::Always => json!({ "name": name, "offered": true, "grant": null }),
                Access::Grant(grant) => json!({ "name": name, "offered": true, "grant": grant }),
                Access::NotOffered => json!({ "name": name, "offered": false, "grant": null }),
            })
            .collect();
        let (loads, reason) = match &self.start {
            Start::Started { .. } => (true, None),
            Start::Unconfigured(reason) => (true, Some(reason)),
            Start::Refused(reason) => (false, Some(reason)),
        };
        let (started_us, memory_bytes) = match self.start {
            Start::Started { within, memory_bytes } => (Some(micros(within)), Some(memory_bytes)),
            Start::Unconfigured(_) | Start::Refused(_) => (None, None),
        };
        json!({
            "file": self.file,
            "sha256": self.digest.to_string(),
            "size_bytes": self.size_bytes,
            "compiled_bytes": self.compiled_bytes,
            "compiled_us": micros(self.compiled_in),
            "wit": self.versions,
            "hooks": self.hooks,
            "imports": imports,
            "grants": self.grants(),
            "loads": loads,
            "reason": reason,
            "started_us": started_us,
            "memory_bytes": memory_bytes,
        })
    }

    /// What its configuration has to grant.
    fn grants(&self) -> Vec<&'static str> {
        let mut grants: Vec<&str> = self
            .imports
            .iter()
            .filter_map(|(_, access)| match access {
                Access::Grant(grant) => Some(*grant),
                Access::Always | Access::NotOffered => None,
            })
            .collect();
        grants.sort_unstable();
        grants.dedup();
        grants
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |words: &[&str]| match words {
            [] => "none".to_owned(),
            words => words.join(", "),
        };
        let versions: Vec<String> = self.versions.iter().map(|v| format!("tamis:filter@{v}")).collect();
        let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
        writeln!(formatter, "{}", self.file)?;
        writeln!(formatter, "  sha256    {}", self.digest)?;
        writeln!(
            formatter,
            "  size      {}; {} compiled, in {:.1?}",
            bytes(self.size_bytes),
            bytes(self.compiled_bytes),
            self.compiled_in
        )?;
        writeln!(formatter, "  contract  {}", list(&versions))?;
        writeln!(formatter, "  hooks     {}", list(&self.hooks))?;
        writeln!(formatter, "  grants    [{}]", self.grants().join(", "))?;
        for (index, (name, access)) in self.imports.iter().enumerate() {
            let title = if index == 0 { "imports" } else { "" };
            let access = match access {
                Access::Always => "open to every filter".to_owned(),
                Access::Grant(grant) => format!("grant `{grant}`"),
                Access::NotOffered => "not offered".to_owned(),
            };
            writeln!(formatter, "  {title:<9} {name:<34} {access}")?;
        }
        match &self.start {
            Start::Started { within, memory_bytes } => {
                let memory = bytes(*memory_bytes);
                writeln!(
                    formatter,
                    "  loads     yes, in {within:.1?}; {memory} of memory an instance"
                )?;
                if *memory_bytes > DEFAULT_MEMORY_BYTES {
                    writeln!(formatter, "            more than the default: set `limits.memory`")?;
                }
                Ok(())
            }
            Start::Unconfigured(reason) => {
                writeln!(
                    formatter,
                    "  loads     yes, but wants a configuration (`--config JSON`): {reason}"
                )
            }
            Start::Refused(_) => writeln!(formatter, "  loads     no"),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Binary units, one decimal.
pub fn bytes(count: usize) -> String {
    let count = count as f64;
    match count {
        small if small < 1024.0 => format!("{small} B"),
        medium if medium < 1024.0 * 1024.0 => format!("{:.1} KiB", medium / 1024.0),
        large => format!("{:.1} MiB", large / (1024.0 * 1024.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_hooks_and_versions() {
        let names = [
            "tamis:filter/request-head@0.1.0",
            "tamis:filter/tick@0.1.0",
            "wasi:cli/run@0.2.0",
        ]
        .map(str::to_owned);
        assert_eq!(hooks(&names), ["request_head", "tick"]);
        assert_eq!(versions(names.into_iter()), ["0.1.0"]);
    }

    #[test]
    fn sizes_are_readable() {
        for (count, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB")] {
            assert_eq!(bytes(count), text);
        }
    }
}
