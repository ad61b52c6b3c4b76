//! A component on the work bench: compiled once, linked and started as often as wanted, with no proxy around it.
//!
//! Control plane. It is granted whatever it imports, if Tamis offers that at all. Its limits are a configuration's: the
//! configuration that would name it is written here and read by the reader of all configurations.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tamis_config::{Config, System};

use super::component::refuse_core;
use super::graph::Graph;
use super::world::World;
use crate::assemble::{self, Assembler};
use crate::cluster::Cluster;
use crate::filter::OnFailure;
use crate::outbound::Desk;
use crate::store::{Bounds, Table};
use crate::wasm::{self, Access, Artifact, Engine, Grant};

/// Instances alive at once: one at work, one for its connection, and room to start another.
const INSTANCES: u32 = 4;

/// Memory and tables of one instance while nobody has set a limit: enough for any language's runtime.
const ROOMY_MEMORY: &str = "256MiB";

/// Ample for `tick`, which nothing here waits for.
const TICK: Duration = Duration::from_secs(3600);

pub struct Stand {
    engine: Engine,
    pub artifact: Arc<Artifact>,
    limits: wasm::Limits,
    table: Bounds,
    name: String,
    pub compiled_in: Duration,
}

/// How much the filter may take.
pub enum Room {
    /// What a configuration with these `limits` gives, the defaults included.
    AsConfigured(Map<String, Value>),
    /// So much memory that no component fails for want of it.
    Ample,
}

impl Stand {
    /// Reads and compiles the component, if it is a filter of the contract or nothing known.
    pub fn set_up(file: &Path, room: Room) -> Result<Self, String> {
        let of_file = |error: String| format!("{}: {error}", file.display());
        let config = configuration(room)?;
        let bytes = Artifact::read(file, config.wasm.max_component)?;
        refuse_core(&bytes).map_err(of_file)?;
        refuse_foreign(&bytes).map_err(of_file)?;
        let engine = Engine::new(Assembler::reservation(&config))?;
        let since = Instant::now();
        let artifact = Artifact::compile(&engine, &bytes).map_err(of_file)?;
        let compiled_in = since.elapsed();
        let filter = config.filters.first().ok_or("limits: no filter has them")?;
        Ok(Self {
            engine,
            artifact: Arc::new(artifact),
            limits: assemble::limits(filter, 1),
            table: Bounds {
                bytes: filter.limits.key_value_bytes,
                keys: filter.limits.key_value_keys,
                ..Bounds::default()
            },
            name: file
                .file_stem()
                .map_or_else(|| "filter".into(), |stem| stem.to_string_lossy().into_owned()),
            compiled_in,
        })
    }

    /// With a fresh table. `clusters` are those that it may call.
    pub fn link(&self, config: &str, clusters: &[String]) -> Result<wasm::Filter, String> {
        let settings = |tick| wasm::Settings {
            name: self.name.clone(),
            config: config.to_owned(),
            grants: self.grants(clusters),
            limits: self.limits.clone(),
            on_failure: OnFailure::Closed,
            breaker: None,
            tick,
        };
        let ticks = self
            .artifact
            .exports()
            .iter()
            .any(|export| export.starts_with("tamis:filter/tick@"));
        wasm::Filter::link(
            &self.engine,
            Arc::clone(&self.artifact),
            settings(ticks.then_some(TICK)),
        )
    }

    pub async fn start(&self, filter: &wasm::Filter, desk: &Desk) -> Result<Box<wasm::Instance>, wasm::StartError> {
        wasm::Instance::start(filter, None, Some(desk)).await
    }

    fn grants(&self, clusters: &[String]) -> Vec<Grant> {
        let mut names: Vec<&str> = self
            .artifact
            .imports()
            .iter()
            .filter_map(|import| match Access::to(import) {
                Access::Grant(grant) => Some(grant),
                Access::Always | Access::NotOffered => None,
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        let grant = |name| match name {
            "metrics" => Some(Grant::Metrics),
            "clock" => Some(Grant::Clock),
            "random" => Some(Grant::Random),
            "key_value" => Some(Grant::KeyValue(Arc::new(Table::new(self.table)))),
            "wasi" => Some(Grant::Wasi),
            name if name.starts_with("outbound") => {
                Some(Grant::Outbound(clusters.iter().map(|name| unreachable(name)).collect()))
            }
            _ => None,
        };
        names.into_iter().filter_map(grant).collect()
    }
}

/// Before it is compiled, which may take long only to fail in the words of the engine.
fn refuse_foreign(bytes: &[u8]) -> Result<(), String> {
    let graph = Graph::read(bytes).unwrap_or_default();
    let world = World::of(&graph.imports, &graph.exports);
    let instead = match world {
        World::Service(_) => "`tamis serve` serves it",
        World::Middleware(_) => "name it under `filters` of a configuration for `tamis run -c`",
        World::Filter | World::Other => return Ok(()),
    };
    let is = world.described();
    Err(format!(
        "is a {is}; only filters of the contract are tested and measured here; {instead}"
    ))
}

/// One thread is enough for one guest.
pub fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| format!("cannot start a runtime: {error}"))
}

/// A filter's `config`, as it is handed to the guest.
pub fn json(text: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("--config: not JSON: {error}"))?;
    Ok(value.to_string())
}

/// A cluster by name only: its calls are answered before anybody connects.
fn unreachable(name: &str) -> Arc<Cluster> {
    Arc::new(Cluster::without_endpoints(name))
}

fn configuration(room: Room) -> Result<Config, String> {
    let mut limits = match room {
        Room::AsConfigured(limits) => limits,
        Room::Ample => Map::from_iter([("memory".to_owned(), json!(ROOMY_MEMORY))]),
    };
    // Here nobody waits for an instance, so how many there may be is of no concern.
    limits.insert("instances".to_owned(), json!(INSTANCES));
    let document = json!({
        "wasm": { "max_instances": INSTANCES, "max_memory": ROOMY_MEMORY },
        "listeners": { "none": { "address": "127.0.0.1:0" } },
        "filters": { "filter": { "component": "filter.wasm", "limits": limits } },
        "routes": [{ "respond": { "status": 200 } }],
    });
    // JSON is YAML too.
    tamis_config::parse(&document.to_string(), Path::new("limits"), &System).map_err(|errors| errors.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_a_configurations() {
        let limits = |text: &str| {
            let limits = serde_json::from_str(text).expect("it is JSON");
            configuration(Room::AsConfigured(limits)).map(|config| assemble::limits(&config.filters[0], 1))
        };
        assert_eq!(limits("{}").expect("the defaults").memory, 16 << 20);
        assert_eq!(limits(r#"{"memory":"32MiB"}"#).expect("within bounds").memory, 32 << 20);
        let refused = limits(r#"{"memry":"32MiB"}"#).expect_err("it is misspelt");
        assert!(refused.contains("memory"), "{refused}");
    }

    #[test]
    fn a_configuration_is_json() {
        assert_eq!(json(r#" {"a": 1} "#).as_deref(), Ok(r#"{"a":1}"#));
        assert!(json("a: 1").is_err_and(|error| error.starts_with("--config")));
    }
}
