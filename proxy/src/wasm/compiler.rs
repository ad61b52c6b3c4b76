//! Compiles components, within bounds, off the workers.
//!
//! Control plane. Compiling takes milliseconds to seconds and uses every thread that it is given: it is given a few of
//! its own, at low priority once there are exchanges, so that a reload does not take the processor from them. What is
//! in the cache is not compiled at all.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::artifact::{Artifact, Digest};
use super::cache::Cache;
use super::engine::Engine;

/// Added to the niceness of compiling threads: with the workers busy, they get about a tenth of a core.
const NICENESS: i32 = 10;
/// Deeply nested code takes stack while it is compiled; as much as rustc gives its own threads.
const STACK_BYTES: usize = 8 << 20;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub threads: usize,
    /// For one component. It goes on in its thread to its end, but nobody waits for it any more.
    pub timeout: Duration,
    /// Bytes of a component.
    pub max_component: u64,
}

/// Lives as long as the process.
pub struct Compiler {
    engine: Engine,
    settings: Settings,
    threads: rayon::ThreadPool,
    cache: Option<Arc<Cache>>,
}

impl Compiler {
    pub fn new(engine: Engine, settings: Settings, cache: Option<Cache>) -> Result<Self, String> {
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(settings.threads)
            .stack_size(STACK_BYTES)
            .thread_name(|index| format!("tamis-compile-{index}"))
            .build()
            .map_err(|error| format!("wasm: cannot start the compiling threads: {error}"))?;
        Ok(Self {
            engine,
            settings,
            threads,
            cache: cache.map(Arc::new),
        })
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub fn max_component(&self) -> u64 {
        self.settings.max_component
    }

    /// From now on there are exchanges to be served, which go first.
    pub fn yield_to_exchanges(&self) {
        self.threads.broadcast(|_| {
            // Best effort: without the right to, the threads compete as equals.
            let _ = rustix::process::nice(NICENESS);
        });
    }

    /// The artifact of these bytes, from the cache or anew.
    pub async fn compile(&self, bytes: Vec<u8>) -> Result<Artifact, String> {
        let (done, compiled) = oneshot::channel();
        let (engine, cache) = (self.engine.clone(), self.cache.clone());
        self.threads.spawn(move || {
            // Whoever waited may have given up.
            let _ = done.send(obtain(&engine, cache.as_deref(), &bytes));
        });
        match tokio::time::timeout(self.settings.timeout, compiled).await {
            Ok(Ok(compiled)) => compiled,
            Ok(Err(_)) => Err("the compiler panicked on it".into()),
            Err(_) => Err(format!(
                "does not compile within wasm.compile_timeout of {:?}",
                self.settings.timeout
            )),
        }
    }
}

fn obtain(engine: &Engine, cache: Option<&Cache>, bytes: &[u8]) -> Result<Artifact, String> {
    let digest = Digest::of(bytes);
    if let Some(component) = cache.and_then(|cache| cache.load(engine, digest)) {
        return Ok(Artifact::ready(digest, component, bytes.len()));
    }
    let artifact = Artifact::compile(engine, bytes)?;
    if let Some(cache) = cache {
        cache.store(engine, &artifact);
    }
    Ok(artifact)
}
