//! Compiles components, within bounds, off the workers.
//!
//! Control plane. Compiling takes milliseconds to seconds and uses every thread that it is given: it is given a few of
//! its own, at low priority once there are exchanges, so that a reload does not take the processor from them. What is
//! in the cache is not compiled at all.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::artifact::{Artifact, Digest};
use super::cache::Cache;
use super::engine::Engine;
use crate::priority;

/// Components that took too long and are still being compiled, beyond which the next one waits for them: a compilation
/// cannot be broken off, and each keeps threads of its own.
const MAX_OVERDUE: usize = 2;
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

/// What was made of components since the process started.
#[derive(Debug, Default)]
pub struct Counts {
    compiled: AtomicU64,
    cached: AtomicU64,
    /// There are exchanges to be served.
    serving: AtomicBool,
}

impl Counts {
    /// Components that were compiled.
    pub fn compiled(&self) -> u64 {
        self.compiled.load(Ordering::Relaxed)
    }

    /// Components whose code came from the cache.
    pub fn cached(&self) -> u64 {
        self.cached.load(Ordering::Relaxed)
    }
}

/// Lives until its settings change.
pub struct Compiler {
    engine: Engine,
    settings: Settings,
    /// Replaced when a component holds them up.
    threads: Mutex<Arc<rayon::ThreadPool>>,
    /// Compilations that nobody waits for any more.
    overdue: Arc<AtomicUsize>,
    cache: Option<Arc<Cache>>,
    counts: Arc<Counts>,
}

impl Compiler {
    pub fn new(engine: Engine, settings: Settings, cache: Option<Cache>) -> Result<Self, String> {
        Self::counting(engine, settings, cache, Arc::default())
    }

    /// Another one for the same engine, which goes on counting.
    pub fn with(&self, settings: Settings, cache: Option<Cache>) -> Result<Self, String> {
        Self::counting(self.engine.clone(), settings, cache, Arc::clone(&self.counts))
    }

    /// Whether it is what these settings would make.
    pub fn is(&self, settings: &Settings, cache: Option<&Path>) -> bool {
        self.settings == *settings && self.cache.as_deref().map(Cache::folder) == cache
    }

    fn counting(engine: Engine, settings: Settings, cache: Option<Cache>, counts: Arc<Counts>) -> Result<Self, String> {
        let threads = Mutex::new(start_threads(settings.threads, &counts)?);
        Ok(Self {
            engine,
            settings,
            threads,
            overdue: Arc::default(),
            cache: cache.map(Arc::new),
            counts,
        })
    }

    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub fn max_component(&self) -> u64 {
        self.settings.max_component
    }

    /// From now on there are exchanges to be served, which go first.
    pub fn yield_to_exchanges(&self) {
        self.counts.serving.store(true, Ordering::Relaxed);
        let threads = Arc::clone(&self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        threads.broadcast(|_| priority::yield_to_exchanges());
    }

    /// The artifact of these bytes for filters, from the cache or anew.
    pub async fn compile(&self, bytes: Vec<u8>) -> Result<Artifact, String> {
        self.compile_for(&self.engine, bytes).await
    }

    /// The same for another engine.
    pub async fn compile_for(&self, engine: &Engine, bytes: Vec<u8>) -> Result<Artifact, String> {
        let (done, compiled) = oneshot::channel();
        let (engine, cache, counts) = (engine.clone(), self.cache.clone(), Arc::clone(&self.counts));
        let watched = Arc::new(Watched::default());
        let (job, overdue) = (Arc::clone(&watched), Arc::clone(&self.overdue));
        let threads = Arc::clone(&self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        threads.spawn(move || {
            // Whoever waited may have given up.
            let _ = done.send(obtain(&engine, cache.as_deref(), &counts, &bytes));
            if job.end() {
                overdue.fetch_sub(1, Ordering::Relaxed);
            }
        });
        match tokio::time::timeout(self.settings.timeout, compiled).await {
            Ok(Ok(compiled)) => compiled,
            Ok(Err(_)) => Err("the compiler panicked on it".into()),
            Err(_) => {
                self.give_up(&watched);
                Err(format!(
                    "does not compile within wasm.compile_timeout of {:?}",
                    self.settings.timeout
                ))
            }
        }
    }

    /// The next component is not to wait for one that takes too long.
    fn give_up(&self, watched: &Watched) {
        if !watched.give_up() || self.overdue.fetch_add(1, Ordering::Relaxed) >= MAX_OVERDUE {
            return;
        }
        match start_threads(self.settings.threads, &self.counts) {
            Ok(threads) => *self.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads,
            Err(error) => tracing::warn!("{error}; the next component waits for the one before"),
        }
    }
}

/// Whether a compilation has ended, and whether somebody has given it up, whichever came first.
#[derive(Default)]
struct Watched(AtomicU8);

impl Watched {
    const ENDED: u8 = 1;
    const GIVEN_UP: u8 = 2;

    /// Whether it was given up before.
    fn end(&self) -> bool {
        self.0.swap(Self::ENDED, Ordering::Relaxed) == Self::GIVEN_UP
    }

    /// Whether it goes on.
    fn give_up(&self) -> bool {
        self.0.swap(Self::GIVEN_UP, Ordering::Relaxed) != Self::ENDED
    }
}

fn start_threads(count: usize, counts: &Counts) -> Result<Arc<rayon::ThreadPool>, String> {
    let is_serving = counts.serving.load(Ordering::Relaxed);
    rayon::ThreadPoolBuilder::new()
        .num_threads(count)
        .stack_size(STACK_BYTES)
        .thread_name(|index| format!("tamis-compile-{index}"))
        .start_handler(move |_| {
            if is_serving {
                priority::yield_to_exchanges();
            }
        })
        .build()
        .map(Arc::new)
        .map_err(|error| format!("wasm: cannot start the compiling threads: {error}"))
}

fn obtain(engine: &Engine, cache: Option<&Cache>, counts: &Counts, bytes: &[u8]) -> Result<Artifact, String> {
    let digest = Digest::of(bytes);
    if let Some(component) = cache.and_then(|cache| cache.load(engine, digest)) {
        counts.cached.fetch_add(1, Ordering::Relaxed);
        return Ok(Artifact::ready(digest, component, bytes.len()));
    }
    counts.compiled.fetch_add(1, Ordering::Relaxed);
    let artifact = Artifact::compile(engine, bytes)?;
    if let Some(cache) = cache {
        cache.store(engine, &artifact);
    }
    Ok(artifact)
}
