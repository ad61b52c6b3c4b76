//! A component made ready to filter: an artifact with its configuration, its grants and its limits.
//!
//! Control plane makes it, once for each generation that changes it; workers only read it. What a component imports
//! beyond its grants, and a component without a hook, is refused here and never at a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};

use super::artifact::Artifact;
use super::bindings;
use super::engine::Engine;
use super::host;
use super::instance::{Instance, State};
use super::outbound::Granted;
use super::wasi;
use crate::breaker::{self, Breaker};
use crate::cluster::Cluster;
use crate::filter::{Hook, Hooks, OnFailure};
use crate::permits::Permits;
use crate::store::Table;

/// What a filter may use beyond configuration, log, and its exchange.
#[derive(Clone)]
pub enum Grant {
    Metrics,
    Clock,
    Random,
    /// The table that the filter sees.
    KeyValue(Arc<Table>),
    /// The clusters that it may call.
    Outbound(Vec<Arc<Cluster>>),
    /// The inert part of WASI 0.2.
    Wasi,
}

/// What opens an import to a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every filter has it.
    Always,
    /// The grant, as a configuration spells it.
    Grant(&'static str),
    NotOffered,
}

impl Access {
    const ALWAYS: [&str; 6] = [
        bindings::TYPES,
        bindings::REQUEST,
        bindings::RESPONSE,
        bindings::EXCHANGE,
        bindings::PEER,
        bindings::LOG,
    ];

    pub fn to(import: &str) -> Self {
        let granted = Grant::INTERFACES.iter().find(|(_, interface)| *interface == import);
        match granted {
            _ if Self::ALWAYS.contains(&import) => Self::Always,
            Some((grant, _)) => Self::Grant(grant),
            None if wasi::offers(import) => Self::Grant("wasi"),
            None => Self::NotOffered,
        }
    }
}

impl Grant {
    /// Names among a filter's `grants`, and the interfaces that they open.
    const INTERFACES: [(&str, &str); 5] = [
        ("metrics", bindings::METRICS),
        ("clock", bindings::CLOCK),
        ("random", bindings::RANDOM),
        ("key_value", bindings::KEY_VALUE),
        ("outbound: [CLUSTER]", bindings::OUTBOUND),
    ];

    fn opens(&self, import: &str) -> bool {
        match self {
            Grant::Metrics => import == bindings::METRICS,
            Grant::Clock => import == bindings::CLOCK,
            Grant::Random => import == bindings::RANDOM,
            Grant::KeyValue(_) => import == bindings::KEY_VALUE,
            Grant::Outbound(_) => import == bindings::OUTBOUND,
            Grant::Wasi => wasi::offers(import),
        }
    }
}

/// Everything about a filter but its component.
pub struct Settings {
    pub name: String,
    /// JSON text for `configure`.
    pub config: String,
    pub grants: Vec<Grant>,
    pub limits: Limits,
    pub on_failure: OnFailure,
    pub breaker: Option<breaker::Settings>,
    /// How often `on-tick` is called.
    pub tick: Option<Duration>,
}

/// The most that a hook may hold up its worker once, before it is known to take long. The default of `limits.cpu`.
const BRIEF_TICKS: u32 = 10;

/// Bounds of one filter; their defaults and reasons are the configuration's.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Linear memory of one instance, in bytes.
    pub memory: usize,
    /// Entries of one table.
    pub table_elements: usize,
    /// Processor time of one hook, in ticks of a millisecond.
    pub cpu_ticks: u32,
    /// Processor time of all hooks of one exchange.
    pub exchange_cpu: Duration,
    /// Wall time of one hook.
    pub wall: Duration,
    /// How long an exchange waits for an instance.
    pub wait: Duration,
    /// Instances alive at once in one worker.
    pub instances_per_worker: u32,
    /// Names and values that one hook may write.
    pub header_bytes: usize,
    /// A body that is held, and an outbound call's whole answer.
    pub body_bytes: usize,
    /// What one call across the border may copy out of the guest.
    pub lifted_bytes: usize,
    /// In one exchange.
    pub outbound_calls: u32,
    /// Under way at once in the process.
    pub outbound_concurrent: usize,
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
    hooks: Hooks,
    /// JSON text for `configure`.
    pub(super) config: String,
    pub(super) limits: Limits,
    pub(super) on_failure: OnFailure,
    pub(super) log: Arc<LogBudget>,
    pub(super) store: Option<Arc<Table>>,
    pub(super) outbound: Option<Arc<Granted>>,
    pub(super) wasi: bool,
    breaker: Option<Arc<Breaker>>,
    tick: Option<Duration>,
    is_brief: AtomicBool,
}

/// Where a component's functions are.
pub(super) struct Exports {
    pub configure: Option<ComponentExportIndex>,
    pub connection: Option<ComponentExportIndex>,
    pub request_head: Option<ComponentExportIndex>,
    pub held_body: Option<ComponentExportIndex>,
    pub request_body: Option<ComponentExportIndex>,
    pub request_end: Option<ComponentExportIndex>,
    pub response_head: Option<ComponentExportIndex>,
    pub response_body: Option<ComponentExportIndex>,
    pub response_end: Option<ComponentExportIndex>,
    pub completion: Option<ComponentExportIndex>,
    pub tick: Option<ComponentExportIndex>,
}

impl Filter {
    /// Links and type-checks the component, starts one instance and lets it read its configuration.
    pub async fn load(engine: &Engine, artifact: Arc<Artifact>, settings: Settings) -> Result<Self, String> {
        let filter = Self::link(engine, artifact, settings)?;
        Instance::start(&filter, None, None)
            .await
            .map_err(|error| error.to_string())?;
        Ok(filter)
    }

    /// Links and type-checks the component. Nothing of it has run yet.
    pub fn link(engine: &Engine, artifact: Arc<Artifact>, settings: Settings) -> Result<Self, String> {
        check_imports(&artifact.imports(), &settings.grants)?;
        let component = artifact.component();
        let exports = Exports::find(component);
        let hooks = exports.hooks()?;
        check_tick(hooks, settings.tick)?;
        let pre = link(engine, component, &settings.grants)
            .map_err(|error| format!("does not fit the interface tamis:filter@0.1.0: {error:#}"))?;
        let log = Arc::new(LogBudget::new(settings.limits.log_lines));
        let mut filter = Self {
            id: next_id(),
            name: settings.name.into(),
            artifact,
            engine: engine.clone(),
            pre,
            exports,
            hooks,
            config: settings.config,
            limits: settings.limits,
            on_failure: settings.on_failure,
            log,
            store: None,
            outbound: None,
            wasi: false,
            breaker: settings.breaker.map(|settings| Arc::new(Breaker::new(settings))),
            tick: settings.tick,
            is_brief: AtomicBool::new(false),
        };
        for grant in settings.grants {
            match grant {
                Grant::KeyValue(table) => filter.store = Some(table),
                Grant::Outbound(clusters) => {
                    let permits = Arc::new(Permits::new(filter.limits.outbound_concurrent));
                    filter.outbound = Some(Arc::new(Granted { clusters, permits }));
                }
                Grant::Wasi => filter.wasi = true,
                Grant::Metrics | Grant::Clock | Grant::Random => {}
            }
        }
        let may_wait = filter.store.is_some() || filter.outbound.is_some() || filter.wasi;
        let is_brief = !may_wait && filter.limits.cpu_ticks <= BRIEF_TICKS && engine.fits_any_stack();
        filter.is_brief = AtomicBool::new(is_brief);
        Ok(filter)
    }

    /// Whether its hooks run on the stack of whoever calls them. One that reads a field and sets one takes 0.71 us that way,
    /// 0.83 on a stack of its own. Nothing can interrupt it, so it is over with the first one that computes for long.
    pub fn is_brief(&self) -> bool {
        self.is_brief.load(Ordering::Relaxed)
    }

    /// A hook has computed for more than a tick.
    pub(super) fn takes_long(&self) {
        self.is_brief.store(false, Ordering::Relaxed);
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

    pub fn hooks(&self) -> Hooks {
        self.hooks
    }

    pub fn breaker(&self) -> Option<&Arc<Breaker>> {
        self.breaker.as_ref()
    }

    /// The key-value table that it sees.
    pub fn table(&self) -> Option<&Arc<Table>> {
        self.store.as_ref()
    }

    /// Outbound calls of all its guests; `None` when it may make none.
    pub fn calls_under_way(&self) -> Option<usize> {
        self.outbound.as_ref().map(|granted| granted.permits.taken())
    }

    /// Whether it has a function that reads its configuration.
    pub fn takes_settings(&self) -> bool {
        self.exports.configure.is_some()
    }

    pub fn tick(&self) -> Option<Duration> {
        self.tick
    }

    /// Processor time that one exchange may use in all its hooks.
    pub fn exchange_cpu(&self) -> Duration {
        self.limits.exchange_cpu
    }

    pub fn log_lines_dropped(&self) -> u64 {
        self.log.dropped()
    }
}

impl Exports {
    fn find(component: &Component) -> Self {
        let at = |interface, name| function(component, interface, name);
        Self {
            configure: at(bindings::CONFIGURE, "configure"),
            connection: at(bindings::CONNECTION, "on-connection"),
            request_head: at(bindings::REQUEST_HEAD, "on-request-head"),
            held_body: at(bindings::HELD_BODY, "on-held-body"),
            request_body: at(bindings::REQUEST_BODY, "on-request-body"),
            request_end: at(bindings::REQUEST_BODY, "on-request-end"),
            response_head: at(bindings::RESPONSE_HEAD, "on-response-head"),
            response_body: at(bindings::RESPONSE_BODY, "on-response-body"),
            response_end: at(bindings::RESPONSE_BODY, "on-response-end"),
            completion: at(bindings::COMPLETION, "on-completion"),
            tick: at(bindings::TICK, "on-tick"),
        }
    }

    fn hooks(&self) -> Result<Hooks, String> {
        let exported = [
            (Hook::Connection, &self.connection),
            (Hook::RequestHead, &self.request_head),
            (Hook::HeldBody, &self.held_body),
            (Hook::RequestBody, &self.request_body),
            (Hook::ResponseHead, &self.response_head),
            (Hook::ResponseBody, &self.response_body),
            (Hook::Completion, &self.completion),
            (Hook::Tick, &self.tick),
        ];
        let mut hooks = Hooks::default();
        for (hook, index) in exported {
            if index.is_some() {
                hooks.add(hook);
            }
        }
        if hooks.is_empty() {
            return Err(format!(
                "exports no hook; a filter exports `{}`, `{}` or another of tamis:filter@0.1.0",
                bindings::REQUEST_HEAD,
                bindings::RESPONSE_HEAD
            ));
        }
        Ok(hooks)
    }
}

/// A tick without a hook is not what was meant; a hook without a tick is never called.
fn check_tick(hooks: Hooks, tick: Option<Duration>) -> Result<(), String> {
    if tick.is_some() && !hooks.has(Hook::Tick) {
        return Err(format!(
            "has a `tick`, but exports no `{}`; remove `tick`",
            bindings::TICK
        ));
    }
    Ok(())
}

fn function(component: &Component, interface: &str, name: &str) -> Option<ComponentExportIndex> {
    let instance = component.get_export_index(None, interface)?;
    component.get_export_index(Some(&instance), name)
}

fn check_imports(imports: &[String], grants: &[Grant]) -> Result<(), String> {
    let refusals = ungranted(imports, grants);
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(refusals.join("; "))
    }
}

/// A sentence for each import that the grants do not open.
pub fn ungranted(imports: &[String], grants: &[Grant]) -> Vec<String> {
    imports
        .iter()
        .filter(|import| !grants.iter().any(|grant| grant.opens(import)))
        .filter_map(|import| match Access::to(import) {
            Access::Always => None,
            Access::Grant("wasi") => Some(format!(
                "imports `{import}` without the grant; add `wasi` to its `grants`, or build it without WASI"
            )),
            Access::Grant(grant) => Some(format!(
                "imports `{import}` without the grant; add `{grant}` to its `grants`"
            )),
            Access::NotOffered => Some(format!("imports `{import}`, which Tamis does not offer to filters")),
        })
        .collect()
}

fn link(engine: &Engine, component: &Component, grants: &[Grant]) -> wasmtime::Result<InstancePre<State>> {
    let mut linker = Linker::new(engine.inner());
    host::add_exchange(&mut linker)?;
    for grant in grants {
        match grant {
            Grant::Metrics => host::add_metrics(&mut linker)?,
            Grant::Clock => host::add_clock(&mut linker)?,
            Grant::Random => host::add_random(&mut linker)?,
            Grant::KeyValue(_) => host::add_key_value(&mut linker)?,
            Grant::Outbound(_) => host::add_outbound(&mut linker)?,
            Grant::Wasi => wasi::add(&mut linker)?,
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
    pub fn new(per_second: u32) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_checked_against_the_grants() {
        let import = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(check_imports(&import(&[bindings::TYPES, bindings::LOG]), &[]), Ok(()));
        assert_eq!(check_imports(&import(&[bindings::CLOCK]), &[Grant::Clock]), Ok(()));
        let refused = check_imports(
            &import(&[bindings::CLOCK, "wasi:cli/environment@0.2.0"]),
            &[Grant::Metrics],
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
