//! Any bytes as a component: refused with a reason, or compiled, linked and described. Nothing of it runs.

use std::cell::LazyCell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tamis::assemble::{self, Assembler};
use tamis::filter::OnFailure;
use tamis::store::{Bounds, Table};
use tamis::wasm::{Access, Artifact, Engine, Filter, Grant, Settings};
use tamis_config::System;

/// Compiling takes time in proportion to the code; what the loader itself does is all there in a small component.
const MAX_BYTES: usize = 16 << 10;

const CONFIGURATION: &str = "
wasm: { max_instances: 4 }
listeners: { web: { address: 127.0.0.1:0 } }
filters: { filter: { component: filter.wasm } }
routes: [{ respond: { status: 200 } }]
";

/// Loads the bytes as the proxy does. A refusal has a reason; what is accepted imports only what is offered, and exports
/// a hook.
pub fn artifact(bytes: &[u8]) {
    thread_local! {
        static BENCH: LazyCell<Bench> = LazyCell::new(Bench::new);
    }
    if bytes.len() <= MAX_BYTES {
        BENCH.with(|bench| bench.load(bytes));
    }
}

struct Bench {
    engine: Engine,
    limits: tamis::wasm::Limits,
}

impl Bench {
    fn new() -> Self {
        let config = tamis_config::parse(CONFIGURATION, Path::new("bench.yaml"), &System).expect("the text is good");
        Self {
            engine: Engine::new(Assembler::reservation(&config)).expect("there is room for four instances"),
            limits: assemble::limits(&config.filters[0], 1),
        }
    }

    fn load(&self, bytes: &[u8]) {
        let artifact = match Artifact::compile(&self.engine, bytes) {
            Ok(artifact) => Arc::new(artifact),
            Err(reason) => return assert!(!reason.is_empty(), "refused without a reason"),
        };
        assert_eq!(artifact.size(), bytes.len());
        let imports = artifact.imports();
        match Filter::link(&self.engine, Arc::clone(&artifact), self.settings()) {
            Ok(filter) => {
                let offered = |import: &String| Access::to(import) != Access::NotOffered;
                assert!(imports.iter().all(offered), "one is not offered: {imports:?}");
                assert!(!filter.hooks().is_empty(), "no hook: {:?}", artifact.exports());
            }
            Err(reason) => assert!(!reason.is_empty(), "refused without a reason"),
        }
    }

    /// Whatever can be granted without another cluster.
    fn settings(&self) -> Settings {
        let table = Table::new(Bounds::default());
        Settings {
            name: "filter".to_owned(),
            config: "null".to_owned(),
            grants: vec![
                Grant::Metrics,
                Grant::Clock,
                Grant::Random,
                Grant::KeyValue(Arc::new(table)),
                Grant::Outbound(Vec::new()),
                Grant::Wasi,
            ],
            limits: self.limits.clone(),
            on_failure: OnFailure::Closed,
            breaker: None,
            tick: None::<Duration>,
        }
    }
}
