//! A component made ready to filter: an artifact with its configuration, its grants and its limits.
//!
//! Control plane makes it, once for each generation that changes it; workers only read it. What a component imports
//! beyond its grants, and a component without a hook, is refused here and never at a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};

use super::artifact::Artifact;
use super::bindings;
use super::engine::Engine;
use super::host;
use super::instance::{Instance, State};
use crate::filter::{Hook, OnFailure};

/// What a filter may use beyond configuration, log, and its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Capability {
    Metrics,
    Clock,
}

impl Capability {
    pub const ALL: [Capability; 2] = [Capability::Metrics, Capability::Clock];

    /// Its name among a filter's `grants`.
    pub fn as_str(self) -> &'static str {
        match self {
            Capability::Metrics => "metrics",
            Capability::Clock => "clock",
        }
    }

    fn interface(self) -> &'static str {
        match self {
            Capability::Metrics => bindings::METRICS,
            Capability::Clock => bindings::CLOCK,
        }
    }
}

/// Bounds of one filter; their defaults and reasons are the configuration's.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Linear memory of one instance, in bytes.
    pub memory: usize,
    /// Processor time of one hook, in ticks of a millisecond.
    pub cpu_ticks: u32,
    /// Wall time of one hook.
    pub wall: Duration,
    /// Instances alive at once in one worker.
    pub instances_per_worker: u32,
    /// Names and values that one hook may write.
    pub header_bytes: usize,
    /// Log lines a second.
    pub log_lines: u32,
    /// Exchanges that one instance serves.
    pub reuse: u32,
}

/// Shared by all workers of the generations that use it.
pub struct Filter {
    id: u64,
    name: Arc<str>,
    artifact: Arc<Artifact>,
    pub(super) engine: Engine,
    pub(super) pre: InstancePre<State>,
    pub(super) exports: Exports,
    /// JSON text for `configure`.
    pub(super) config: String,
    pub(super) limits: Limits,
    pub(super) on_failure: OnFailure,
    pub(super) log: Arc<LogBudget>,
}

/// Where a component's functions are.
pub(super) struct Exports {
    pub configure: Option<ComponentExportIndex>,
    pub request_head: Option<ComponentExportIndex>,
    pub response_head: Option<ComponentExportIndex>,
}

impl Filter {
    /// Links and type-checks the component, starts one instance and lets it read its configuration.
    pub async fn load(
        engine: &Engine,
        artifact: Arc<Artifact>,
        name: &str,
        config: String,
        grants: &[Capability],
        limits: Limits,
        on_failure: OnFailure,
    ) -> Result<Self, String> {
        check_imports(&artifact.imports(), grants)?;
        let component = artifact.component();
        let exports = Exports::find(component)?;
        let pre = link(engine, component, grants)
            .map_err(|error| format!("does not fit the interface tamis:filter@0.1.0: {error:#}"))?;
        let log = Arc::new(LogBudget::new(limits.log_lines));
        let filter = Self {
            id: next_id(),
            name: name.into(),
            artifact,
            engine: engine.clone(),
            pre,
            exports,
            config,
            limits,
            on_failure,
            log,
        };
        Instance::start(&filter, None)
            .await
            .map_err(|error| error.to_string())?;
        Ok(filter)
    }

    /// Unique in the process; what workers file their instances under.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub fn artifact(&self) -> &Arc<Artifact> {
        &self.artifact
    }

    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    pub fn has(&self, hook: Hook) -> bool {
        match hook {
            Hook::RequestHead => self.exports.request_head.is_some(),
            Hook::ResponseHead => self.exports.response_head.is_some(),
        }
    }
}

impl Exports {
    fn find(component: &Component) -> Result<Self, String> {
        let exports = Self {
            configure: function(component, bindings::CONFIGURE, "configure"),
            request_head: function(component, bindings::REQUEST_HEAD, "on-request-head"),
            response_head: function(component, bindings::RESPONSE_HEAD, "on-response-head"),
        };
        if exports.request_head.is_none() && exports.response_head.is_none() {
            return Err(format!(
                "exports no hook; a filter exports `{}` or `{}`",
                bindings::REQUEST_HEAD,
                bindings::RESPONSE_HEAD
            ));
        }
        Ok(exports)
    }
}

fn function(component: &Component, interface: &str, name: &str) -> Option<ComponentExportIndex> {
    let instance = component.get_export_index(None, interface)?;
    component.get_export_index(Some(&instance), name)
}

fn check_imports(imports: &[String], grants: &[Capability]) -> Result<(), String> {
    const ALWAYS: [&str; 5] = [
        bindings::TYPES,
        bindings::REQUEST,
        bindings::RESPONSE,
        bindings::EXCHANGE,
        bindings::LOG,
    ];
    let refusals: Vec<String> = imports
        .iter()
        .filter(|import| !ALWAYS.contains(&import.as_str()))
        .filter_map(|import| {
            match Capability::ALL
                .into_iter()
                .find(|capability| capability.interface() == import)
            {
                Some(capability) if grants.contains(&capability) => None,
                Some(capability) => Some(format!(
                    "imports `{import}` without the grant; add `{}` to its `grants`",
                    capability.as_str()
                )),
                None => Some(format!("imports `{import}`, which Tamis does not offer to filters")),
            }
        })
        .collect();
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(refusals.join("; "))
    }
}

fn link(engine: &Engine, component: &Component, grants: &[Capability]) -> wasmtime::Result<InstancePre<State>> {
    let mut linker = Linker::new(engine.inner());
    host::add_exchange(&mut linker)?;
    for capability in grants {
        match capability {
            Capability::Metrics => host::add_metrics(&mut linker)?,
            Capability::Clock => host::add_clock(&mut linker)?,
        }
    }
    linker.instantiate_pre(component)
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// How many lines a filter may still log in this second, over all its instances. Touched only when a line is logged.
pub(super) struct LogBudget {
    start: Instant,
    per_second: u32,
    second: AtomicU64,
    used: AtomicU32,
    dropped: AtomicU64,
}

impl LogBudget {
    fn new(per_second: u32) -> Self {
        Self {
            start: Instant::now(),
            per_second,
            second: AtomicU64::new(0),
            used: AtomicU32::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Whether one more line may be written now. Two workers that race over the turn of a second may grant a few
    /// lines more than the limit.
    pub fn spend(&self) -> bool {
        let second = self.start.elapsed().as_secs();
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.used.store(0, Ordering::Relaxed);
        }
        let granted = self.used.fetch_add(1, Ordering::Relaxed) < self.per_second;
        if !granted {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        granted
    }

    /// Lines dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Filter {
    pub fn log_lines_dropped(&self) -> u64 {
        self.log.dropped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_checked_against_the_grants() {
        let import = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(check_imports(&import(&[bindings::TYPES, bindings::LOG]), &[]), Ok(()));
        assert_eq!(check_imports(&import(&[bindings::CLOCK]), &[Capability::Clock]), Ok(()));
        let refused = check_imports(
            &import(&[bindings::CLOCK, "wasi:cli/environment@0.2.0"]),
            &[Capability::Metrics],
        );
        let message = refused.expect_err("neither is granted");
        assert!(message.contains("add `clock` to its `grants`"), "{message}");
        assert!(message.contains("`wasi:cli/environment@0.2.0`"), "{message}");
    }

    #[test]
    fn log_lines_are_bounded() {
        let budget = LogBudget::new(3);
        let granted = (0..10).filter(|_| budget.spend()).count();
        assert!(
            (3..=6).contains(&granted),
            "{granted} of 10 lines, with at most one turn of a second between"
        );
        assert_eq!(budget.dropped() as usize, 10 - granted);
    }
}
