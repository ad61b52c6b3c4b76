//! A component made ready to serve: an artifact with its grants and its limits.
//!
//! Control plane makes it, once for each generation that changes it; workers only read it. What a component imports
//! beyond its grants, a component that serves nothing, and one that does not start, is refused here and never at a request.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use wasmtime::component::{InstancePre, Linker};
use wasmtime_wasi_http::{p2, p3};

use super::grants::{Grant, Kind, ungranted};
use super::instance;
use super::key_value;
use super::state::{self, State};
use crate::cluster::Cluster;
use crate::store::Table;
use crate::wasm::artifact::Artifact;
use crate::wasm::engine::Engine;
use crate::wasm::filter::LogBudget;

/// Everything about a service but its component.
pub struct Settings {
    /// As the cluster's endpoint, or the filter, is called in logs and metrics.
    pub name: String,
    pub role: Role,
    pub grants: Vec<Grant>,
    pub limits: Limits,
    /// `None` is what the component's kind is made for.
    pub instances: Option<Instances>,
    /// Where that is to serve several exchanges.
    pub instance_reuse: u32,
}

/// Where a component stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// In the place of servers: it answers.
    Service,
    /// In a chain: it may pass requests on.
    Middleware,
}

/// How exchanges share instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instances {
    /// Each has one of its own.
    Fresh,
    /// One at a time; so many, then the instance is replaced.
    Exclusive { reuse: u32 },
    /// Up to so many at once, and so many in all. WASI 0.3 only.
    Concurrent { at_once: u32, reuse: u32 },
}

impl Instances {
    pub(super) fn at_once(self) -> u32 {
        match self {
            Self::Fresh | Self::Exclusive { .. } => 1,
            Self::Concurrent { at_once, .. } => at_once,
        }
    }

    pub(super) fn reuse(self) -> u32 {
        match self {
            Self::Fresh => 1,
            Self::Exclusive { reuse } | Self::Concurrent { reuse, .. } => reuse,
        }
    }
}

/// Bounds of one service; their defaults and reasons are the configuration's.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Linear memory of one instance, in bytes.
    pub memory: usize,
    /// Entries of one table.
    pub table_elements: usize,
    /// Processor time of one exchange, in ticks of a millisecond.
    pub cpu_ticks: u32,
    /// How long a guest may go on when nobody waits for it any more.
    pub wall: Duration,
    /// Instances alive at once in one worker.
    pub instances_per_worker: u32,
    /// Names and values of one set of fields, as the guest builds it.
    pub header_bytes: usize,
    /// Resources of one exchange: requests, responses, bodies, streams.
    pub handles: usize,
    /// Calls of its own at once, for one exchange.
    pub calls: usize,
    /// For the head of an answer to one of them, and for each piece of its body.
    pub call_timeout: Duration,
    /// What one call across the border may copy out of the guest.
    pub lifted_bytes: usize,
    /// Log lines a second.
    pub log_lines: u32,
}

/// Shared by all workers of the generations that use it.
pub struct Service {
    id: u64,
    name: Arc<str>,
    artifact: Arc<Artifact>,
    pub(super) engine: Engine,
    pub(super) pre: Pre,
    pub(super) grants: Vec<Grant>,
    pub(super) limits: Limits,
    pub(super) instances: Instances,
    pub(super) log: Arc<LogBudget>,
    /// The clusters that it may call; those of the generation in use.
    pub(super) callees: Arc<Callees>,
}

/// Clusters that a service may call, by their names.
pub(super) type Callees = ArcSwap<Vec<Arc<Cluster>>>;

/// A linked component of either kind.
pub(super) enum Pre {
    P2(p2::bindings::ProxyPre<State>),
    P3(p3::bindings::ServicePre<State>),
}

impl Service {
    /// Links and type-checks the component, and starts one instance.
    pub async fn load(engine: &Engine, artifact: Arc<Artifact>, settings: Settings) -> Result<Self, String> {
        let service = Self::link(engine, artifact, settings)?;
        instance::start(&service, None, None)
            .await
            .map_err(|error| error.to_string())?;
        Ok(service)
    }

    fn link(engine: &Engine, artifact: Arc<Artifact>, settings: Settings) -> Result<Self, String> {
        let imports = artifact.imports();
        let kind = match settings.role {
            Role::Service => Kind::of(&imports, &artifact.exports())?,
            Role::Middleware => Kind::P3,
        };
        let (owner, behind) = match settings.role {
            Role::Service => ("cluster", None),
            Role::Middleware => ("filter", Some("wasi:http/handler@0.3.")),
        };
        let asked: Vec<_> = (imports.into_iter())
            .filter(|import| behind.is_none_or(|behind| !import.starts_with(behind)))
            .collect();
        let refused = ungranted(&asked, &settings.grants, owner);
        if !refused.is_empty() {
            return Err(refused.join("; "));
        }
        let instances = settings.instances.unwrap_or(match kind {
            // Some do not stand a second exchange: the standard's hosts give them none.
            Kind::P2 => Instances::Fresh,
            Kind::P3 => Instances::Exclusive {
                reuse: settings.instance_reuse,
            },
        });
        if kind == Kind::P2 && matches!(instances, Instances::Concurrent { .. }) {
            return Err("is of WASI 0.2, whose instances serve one exchange at a time; \
                        use `instances: exclusive`, or build it for 0.3"
                .to_owned());
        }
        let pre = link(engine, &artifact, kind, (settings.role, instances))
            .map_err(|error| format!("does not fit {}: {error:#}", kind.as_str()))?;
        Ok(Self {
            id: next_id(),
            name: settings.name.into(),
            artifact,
            engine: engine.clone(),
            pre,
            grants: settings.grants,
            log: Arc::new(LogBudget::new(settings.limits.log_lines)),
            callees: Arc::default(),
            limits: settings.limits,
            instances,
        })
    }

    /// From now on these are the clusters; it calls those that it is granted.
    pub fn meet(&self, clusters: &[Arc<Cluster>]) {
        let granted = self.grants.iter().find_map(|grant| match grant {
            Grant::Http(names) => Some(names),
            _ => None,
        });
        let Some(granted) = granted else { return };
        let callees = clusters
            .iter()
            .filter(|cluster| granted.iter().any(|name| name == cluster.name()));
        self.callees.store(Arc::new(callees.cloned().collect()));
    }

    /// Unique in the process.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub fn artifact(&self) -> &Arc<Artifact> {
        &self.artifact
    }

    /// What it remembers, if it is granted to.
    pub fn table(&self) -> Option<&Arc<Table>> {
        key_value::granted(&self.grants)
    }

    pub fn log_lines_dropped(&self) -> u64 {
        self.log.dropped()
    }

    /// What it speaks, for operators.
    pub fn kind(&self) -> &'static str {
        match self.pre {
            Pre::P2(_) => Kind::P2.as_str(),
            Pre::P3(_) => Kind::P3.as_str(),
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Service")
            .field("name", &self.name)
            .field("artifact", &self.artifact.digest())
            .finish_non_exhaustive()
    }
}

/// The same service, not one like it.
impl PartialEq for Service {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

fn link(
    engine: &Engine,
    artifact: &Artifact,
    kind: Kind,
    (role, instances): (Role, Instances),
) -> wasmtime::Result<Pre> {
    let mut linker = Linker::new(engine.inner());
    state::link(&mut linker, role, instances)?;
    let pre: InstancePre<State> = linker.instantiate_pre(artifact.component())?;
    Ok(match kind {
        Kind::P2 => Pre::P2(p2::bindings::ProxyPre::new(pre)?),
        Kind::P3 => Pre::P3(p3::bindings::ServicePre::new(pre)?),
    })
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
