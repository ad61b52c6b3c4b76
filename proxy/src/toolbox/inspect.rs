//! What a component is, as a report: for people, and as JSON.
//!
//! Control plane. The report is made first and judged afterwards, so that a component that does not load is described
//! all the same. Filters of the contract are compiled and started; of components for WASI the names are judged.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::graph::Graph;
use super::stand::{self, Room, Stand};
use super::world::{Needs, PACKAGE, World};
use crate::filter::Hook;
use crate::outbound::Desk;
use crate::wasm::Digest;

/// `limits.memory` of a filter that sets none.
const DEFAULT_MEMORY_BYTES: usize = 16 << 20;

pub struct Report {
    file: String,
    digest: Digest,
    size_bytes: usize,
    world: World,
    /// Bytes of machine code, and how long they took; none where it was not tried.
    compiled: Option<(usize, Duration)>,
    /// Of the contract; more than one is a mixture, none is no filter.
    versions: Vec<String>,
    hooks: Vec<&'static str>,
    imports: Vec<(String, Needs)>,
    graph: Graph,
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
    /// Names alone do not say it.
    Untried,
}

/// Fails when the file is no component at all; else the report says whether it loads.
pub fn inspect(file: &Path, config: Option<&str>) -> Result<Report, String> {
    let config = config.map(stand::json).transpose()?;
    // What is no component is refused by the stand, in its words.
    let bytes = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let graph = Graph::read(&bytes).unwrap_or_default();
    let world = World::of(&graph.imports, &graph.exports);
    let (compiled, start) = match &world {
        World::Filter | World::Other => tried(file, config.as_deref())?,
        World::Service(_) | World::Middleware(_) => (None, judged(&world, &graph)),
    };
    Ok(Report {
        file: file.display().to_string(),
        digest: Digest::of(&bytes),
        size_bytes: bytes.len(),
        compiled,
        versions: versions(graph.imports.iter().chain(&graph.exports)),
        hooks: hooks(&graph.exports),
        imports: graph
            .imports
            .iter()
            .map(|import| (import.clone(), world.needs(import)))
            .collect(),
        world,
        graph,
        start,
    })
}

type Compiled = (usize, Duration);

fn tried(file: &Path, config: Option<&str>) -> Result<(Option<Compiled>, Start), String> {
    let stand = Stand::set_up(file, Room::Ample)?;
    let compiled = (stand.artifact.compiled_size()?, stand.compiled_in);
    Ok((Some(compiled), start(&stand, config)?))
}

fn judged(world: &World, graph: &Graph) -> Start {
    let not_offered = |import: &&String| world.needs(import) == Needs::NotOffered;
    match graph.imports.iter().find(not_offered) {
        Some(import) => Start::Refused(format!("imports `{import}`, which Tamis does not offer")),
        None => Start::Untried,
    }
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
fn versions<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
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
            Start::Started { .. } | Start::Unconfigured(_) | Start::Untried => Ok(()),
            Start::Refused(reason) => Err(format!("{}: {reason}", self.file)),
        }
    }

    pub fn to_json(&self) -> Value {
        let imports: Vec<Value> = self
            .imports
            .iter()
            .map(|(name, needs)| {
                let (offered, grant, option) = match needs {
                    Needs::Nothing | Needs::Chain => (true, None, None),
                    Needs::Grant(grant) => (true, Some(grant), None),
                    Needs::Option(option) => (true, None, Some(option)),
                    Needs::NotOffered => (false, None, None),
                };
                json!({ "name": name, "offered": offered, "grant": grant, "option": option })
            })
            .collect();
        let (loads, reason) = match &self.start {
            Start::Started { .. } => (Some(true), None),
            Start::Unconfigured(reason) => (Some(true), Some(reason)),
            Start::Refused(reason) => (Some(false), Some(reason)),
            Start::Untried => (None, None),
        };
        let (started_us, memory_bytes) = match self.start {
            Start::Started { within, memory_bytes } => (Some(micros(within)), Some(memory_bytes)),
            Start::Unconfigured(_) | Start::Refused(_) | Start::Untried => (None, None),
        };
        json!({
            "file": self.file,
            "sha256": self.digest.to_string(),
            "size_bytes": self.size_bytes,
            "kind": self.world.as_str(),
            "wasi": self.world.wasi(),
            "compiled_bytes": self.compiled.map(|(bytes, _)| bytes),
            "compiled_us": self.compiled.map(|(_, within)| micros(within)),
            "wit": self.versions,
            "hooks": self.hooks,
            "imports": imports,
            "grants": self.grants(),
            "parts": self.graph.to_json(),
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
            .filter_map(|(_, needs)| match needs {
                Needs::Grant(grant) => Some(*grant),
                Needs::Nothing | Needs::Option(_) | Needs::Chain | Needs::NotOffered => None,
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
        let compiled = self
            .compiled
            .map(|(size, within)| format!("; {} compiled, in {within:.1?}", bytes(size)));
        writeln!(
            formatter,
            "  size      {}{}",
            bytes(self.size_bytes),
            compiled.unwrap_or_default()
        )?;
        writeln!(formatter, "  kind      {}", self.world.described())?;
        if self.world.wasi().is_none() {
            writeln!(formatter, "  contract  {}", list(&versions))?;
            writeln!(formatter, "  hooks     {}", list(&self.hooks))?;
        }
        writeln!(formatter, "  grants    [{}]", self.grants().join(", "))?;
        for (index, (name, needs)) in self.imports.iter().enumerate() {
            let title = if index == 0 { "imports" } else { "" };
            let needs = match needs {
                Needs::Nothing => "open to every component".to_owned(),
                Needs::Grant(grant) => format!("grant `{grant}`"),
                Needs::Option(grant) => format!("empty without the grant `{grant}`"),
                Needs::Chain => "what stands behind it".to_owned(),
                Needs::NotOffered => "not offered".to_owned(),
            };
            writeln!(formatter, "  {title:<9} {name:<34} {needs}")?;
        }
        write!(formatter, "{}", self.graph)?;
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
            Start::Untried => writeln!(
                formatter,
                "  loads     not tried here: `tamis check` says so of a configuration that names it"
            ),
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
        assert_eq!(versions(names.iter()), ["0.1.0"]);
    }

    #[test]
    fn sizes_are_readable() {
        for (count, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB")] {
            assert_eq!(bytes(count), text);
        }
    }
}
