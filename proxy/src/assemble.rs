//! From a configuration to a snapshot, reusing every part that did not change.
//!
//! Control plane. Assembling is all or nothing: whatever fails, the parts in use stay as they are, and every failure
//! is reported with its place. Reading, compiling and starting filters happens here and nowhere else.

mod candidates;
mod clusters;
mod habits;
mod middlewares;
mod routes;
mod services;
mod tls;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tamis_config as config;
use tamis_config::Config;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::address::Address;
use crate::assemble::clusters::Planned;
use crate::assemble::middlewares::MiddlewareKey;
use crate::assemble::services::ServiceKey;
use crate::breaker;
use crate::canary::Version;
use crate::chain::{Chain, Step, StepKind};
use crate::cluster::{Cluster, Seat};
use crate::difference::{self, Component, Delta, Files};
use crate::discovery;
use crate::filter::OnFailure;
use crate::identity::Peers;
use crate::listener::Sockets;
use crate::name::Name;
use crate::native;
use crate::overload::{Overload, Pressure, Thresholds};
use crate::route;
use crate::snapshot::{self, Snapshot};
use crate::store::{self, Table, TableName, Tables};
use crate::telemetry::access_log::{AccessLog, Target};
use crate::telemetry::record;
use crate::tls::Server;
use crate::tls::server::Ticketer;
use crate::trial::Trial;
use crate::wasm::http::{Middleware, Service};
use crate::wasm::{self, Artifact, Compiler, Digest, Engine, Grant};

/// Makes snapshots; keeps the parts of the last one that was accepted.
pub struct Assembler {
    compiler: Arc<Compiler>,
    workers: usize,
    /// What filters keep outlives the generations that they are in.
    tables: Tables,
    /// Rung by trials whose candidate fails, and when there are new ones.
    alarm: Arc<Notify>,
    /// Of the process, whatever its generation.
    pressure: Arc<Pressure>,
    parts: Parts,
}

/// What the generation in use is made of, by what makes each part the same.
#[derive(Clone, Default)]
struct Parts {
    artifacts: HashMap<Digest, Arc<Artifact>>,
    guests: HashMap<GuestKey, Arc<wasm::Filter>>,
    middlewares: HashMap<MiddlewareKey, Arc<Middleware>>,
    services: HashMap<ServiceKey, Arc<Service>>,
    /// Of services and middlewares: compiled for another engine than filters.
    service_artifacts: HashMap<Digest, Arc<Artifact>>,
    /// With the digest of the files of their TLS.
    clusters: HashMap<String, (config::Cluster, String, Arc<Cluster>)>,
    /// TLS by listener, with the digest of its files.
    servers: HashMap<String, (config::ListenerTls, String, Arc<Server>)>,
    /// Keys of session tickets, by the listener's sockets and what it asks of clients.
    tickets: HashMap<(SocketKey, String), Ticketer>,
    sockets: HashMap<SocketKey, Arc<Sockets>>,
    log: Option<(config::LogTarget, usize, AccessLog)>,
    /// Key-value tables, and the size that this generation gives them.
    tables: HashMap<TableName, (Arc<Table>, store::Bounds)>,
    /// Each filter's trials: that of its candidate, then those of earlier ones that were rolled back.
    trials: HashMap<String, Vec<Arc<Trial>>>,
}

/// See [`socket_key`].
pub type SocketKey = (String, Address);

/// Two uses of a component with the same key are one loaded filter.
#[derive(Clone, PartialEq, Eq, Hash)]
struct GuestKey {
    name: String,
    component: Digest,
    config: String,
    /// Grants, the clusters that may be called by their ids, bounds, breaker and tick, spelled out.
    terms: String,
    on_failure: OnFailure,
}

/// Everything that is wrong, each with its place.
#[derive(Debug)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join("\n"))
    }
}

/// A snapshot that is not in use yet.
pub struct Assembled {
    pub snapshot: Snapshot,
    /// What is odd about the configuration, each with its place.
    pub warnings: Vec<String>,
    compiler: Arc<Compiler>,
    parts: Parts,
}

/// A configuration that would load.
pub struct Checked {
    pub warnings: Vec<String>,
    /// By the filter's name.
    pub components: BTreeMap<String, Component>,
    pub listener_files: Files,
    pub cluster_files: Files,
}

impl Assembler {
    pub fn new(compiler: Compiler, workers: usize) -> Self {
        Self {
            compiler: Arc::new(compiler),
            workers,
            tables: Tables::default(),
            alarm: Arc::default(),
            pressure: Arc::default(),
            parts: Parts::default(),
        }
    }

    /// From now on there are exchanges to be served; what is assembled takes little from them.
    pub fn yield_to_exchanges(&self) {
        self.compiler.yield_to_exchanges();
    }

    /// What wakes the [court](crate::court).
    pub fn alarm(&self) -> Arc<Notify> {
        Arc::clone(&self.alarm)
    }

    /// What the pooling allocator has to set aside for this configuration.
    pub fn reservation(config: &Config) -> wasm::Reservation {
        wasm::Reservation {
            instances: config.wasm.max_instances,
            memory_bytes: config.wasm.max_memory,
            stack_bytes: config.wasm.max_stack,
            table_elements: config.wasm.max_table_elements,
        }
    }

    /// What compiles this configuration's components. Reserves what its guests will need.
    pub fn compiler(config: &Config) -> Result<Compiler, String> {
        let engine = Engine::new(Self::reservation(config))?;
        let cache = config.wasm.cache.as_deref().map(wasm::Cache::open).transpose()?;
        Compiler::new(engine, compiler_settings(config), cache)
    }

    /// The compiler in use, or another one for the same engine when its settings have changed.
    fn compiler_for(&self, config: &Config) -> Result<Arc<Compiler>, Faults> {
        let (settings, folder) = (compiler_settings(config), config.wasm.cache.as_deref());
        if self.compiler.is(&settings, folder) {
            return Ok(Arc::clone(&self.compiler));
        }
        let cache = folder.map(wasm::Cache::open).transpose();
        let compiler = cache.and_then(|cache| self.compiler.with(settings, cache));
        compiler.map(Arc::new).map_err(|fault| Faults(vec![fault]))
    }

    /// What was made of components so far.
    pub fn compiler_counts(&self) -> &Arc<wasm::CompilerCounts> {
        self.compiler.counts()
    }

    /// Worker threads that the configuration asks for.
    pub fn workers(config: &Config) -> usize {
        config
            .workers
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZeroUsize::get))
    }

    /// Everything but opening sockets and log files, which may be another process's.
    pub async fn check(&self, config: &Config) -> Result<Checked, Faults> {
        let mut build = Build::new(self, config)?;
        build.make_clusters(Names::AsKnown).await;
        build.make_servers();
        build.load_filters().await;
        build.check_log_folder();
        let table = build.table();
        let warnings = build.warnings(table.as_ref());
        let listeners = config.listeners.iter().map(|listener| listener.name.as_str());
        let listener_files = difference::listener_files(listeners.zip(build.servers.iter().map(Option::as_deref)));
        let cluster_files = difference::cluster_files(&build.clusters);
        let middlewares = build.middlewares.clone();
        let (_, guests) = build.finish()?;
        Ok(Checked {
            warnings,
            components: difference::components(&guests, &middlewares),
            listener_files,
            cluster_files,
        })
    }

    /// Builds generation `generation`, sockets bound; it is not in use until it is [accepted](Assembler::accept).
    pub async fn assemble(&self, config: &Config, generation: u64) -> Result<Assembled, Faults> {
        let mut build = Build::new(self, config)?;
        build.make_clusters(Names::LookUp).await;
        build.make_servers();
        build.load_filters().await;
        build.assembled(generation)
    }

    /// The same, or `None` when it would be what is in use: this configuration, and these parts of it.
    pub async fn assemble_anew(
        &self,
        config: &Config,
        in_use: (&Config, &Snapshot),
        generation: u64,
    ) -> Result<Option<Assembled>, Faults> {
        let mut build = Build::new(self, config)?;
        build.make_clusters(Names::LookUp).await;
        build.make_servers();
        build.load_filters().await;
        let (old, snapshot) = in_use;
        if build.faults.is_empty() && config == old && build.is_of(snapshot) {
            return Ok(None);
        }
        build.assembled(generation).map(Some)
    }

    /// From now on these are the parts to reuse; what only the generation before had is let go.
    pub fn accept(&mut self, assembled: Assembled) -> Snapshot {
        let now = std::time::Instant::now();
        for (table, bounds) in assembled.parts.tables.values() {
            table.resize(*bounds, now);
        }
        let services = assembled.parts.services.values();
        services.for_each(|service| service.meet(&assembled.snapshot.clusters));
        let middlewares = assembled.snapshot.middlewares.iter();
        middlewares.for_each(|middleware| middleware.service.meet(&assembled.snapshot.clusters));
        candidates::announce(&self.parts.trials, &assembled.snapshot.trials);
        self.alarm.notify_one();
        self.compiler = assembled.compiler;
        self.parts = assembled.parts;
        assembled.snapshot
    }

    /// Sockets that are there before the first generation is; see [`socket_key`].
    pub fn adopt(&mut self, sockets: HashMap<SocketKey, Arc<Sockets>>) {
        self.parts.sockets = sockets;
    }

    /// SIGHUP: a log that was moved away is opened anew.
    pub fn reopen_log(&self) {
        if let Some((_, _, log)) = &self.parts.log {
            log.reopen();
        }
    }
}

/// One assembly under way.
struct Build<'a> {
    assembler: &'a Assembler,
    compiler: Arc<Compiler>,
    config: &'a Config,
    parts: Parts,
    clusters: Vec<Arc<Cluster>>,
    /// TLS by listener.
    servers: Vec<Option<Arc<Server>>>,
    guests: Vec<Arc<wasm::Filter>>,
    middlewares: Vec<Arc<Middleware>>,
    /// What each use of a filter became, by the filter's index and the settings it is used with.
    kinds: HashMap<(usize, String), StepSource>,
    /// The same for candidates.
    candidates: HashMap<(usize, String), StepSource>,
    /// By filter, in the order of the configuration.
    trials: BTreeMap<usize, Arc<Trial>>,
    warnings: Vec<String>,
    faults: Vec<String>,
}

/// What becomes of names that nobody has looked up yet.
#[derive(Clone, Copy)]
enum Names {
    LookUp,
    AsKnown,
}

#[derive(Clone)]
enum StepSource {
    Native(Arc<dyn crate::filter::Native>),
    Wasm(usize),
    Middleware(usize),
}

impl<'a> Build<'a> {
    fn new(assembler: &'a Assembler, config: &'a Config) -> Result<Self, Faults> {
        Ok(Self {
            assembler,
            compiler: assembler.compiler_for(config)?,
            config,
            parts: Parts::default(),
            clusters: Vec::new(),
            servers: Vec::new(),
            guests: Vec::new(),
            middlewares: Vec::new(),
            kinds: HashMap::new(),
            candidates: HashMap::new(),
            trials: BTreeMap::new(),
            warnings: Vec::new(),
            faults: Vec::new(),
        })
    }

    /// Whether all that was read from files is what the generation has.
    fn is_of(&self, snapshot: &Snapshot) -> bool {
        let guests = self.guests.iter().map(|guest| guest.id());
        let clusters = self.clusters.iter().map(|cluster| cluster.id());
        let same_server = |(new, listener): (&Option<Arc<Server>>, &snapshot::Listener)| {
            new.as_ref().map(Arc::as_ptr) == listener.tls.as_ref().map(Arc::as_ptr)
        };
        let middlewares = self.middlewares.iter().map(|middleware| middleware.id());
        guests.eq(snapshot.guests.iter().map(|guest| guest.id()))
            && middlewares.eq(snapshot.middlewares.iter().map(|middleware| middleware.id()))
            && clusters.eq(snapshot.clusters.iter().map(|cluster| cluster.id()))
            && self.servers.iter().zip(&snapshot.listeners).all(same_server)
    }

    /// Everything else, of filters that are loaded.
    fn assembled(mut self, generation: u64) -> Result<Assembled, Faults> {
        let config = self.config;
        let table = self.table();
        let clusters = self.clusters.clone();
        let routes = self.routes();
        let listeners = self.listeners();
        let access_log = self.access_log();
        let trials = self.trials.values().cloned().collect();
        let filters = self.names();
        let compiler = Arc::clone(&self.compiler);
        let warnings = self.warnings(table.as_ref());
        let overload = overload(&config.overload, self.assembler);
        let middlewares = self.middlewares.clone();
        let (parts, guests) = self.finish()?;
        let table = table.ok_or_else(|| Faults(vec!["the routes do not compile".into()]))?;
        let snapshot = Snapshot {
            generation,
            listeners,
            table,
            routes,
            clusters,
            guests,
            middlewares,
            filters,
            trials,
            access_log,
            overload,
            drain_timeout: config.drain_timeout,
            drain_delay: config.drain_delay,
            description: Arc::new(config.describe()),
        };
        Ok(Assembled {
            snapshot,
            warnings,
            compiler,
            parts,
        })
    }

    fn finish(self) -> Result<(Parts, Vec<Arc<wasm::Filter>>), Faults> {
        if self.faults.is_empty() {
            Ok((self.parts, self.guests))
        } else {
            Err(Faults(self.faults))
        }
    }

    /// Of filters that were loaded, then of routes.
    fn warnings(&self, table: Option<&route::Table>) -> Vec<String> {
        let routes = table.map(|table| shadowed(self.config, table)).unwrap_or_default();
        let habits = habits::habits(self.config);
        self.warnings.iter().cloned().chain(routes).chain(habits).collect()
    }

    /// A component that cannot take them goes on without its settings, which is not what was meant.
    fn check_settings(&mut self, slot: usize, settings: &serde_json::Value, place: &config::Place, filter: &str) {
        let is_empty = settings.is_null() || settings.as_object().is_some_and(serde_json::Map::is_empty);
        if is_empty || self.guests[slot].takes_settings() {
            return;
        }
        self.warnings.push(format!(
            "{place}: filter `{filter}`: its `config` is read by nobody, because the component does not export \
             `configure`; remove `config`, or have the component export it"
        ));
    }

    fn fault(&mut self, place: &config::Place, what: &str, name: &str, message: impl fmt::Display) {
        self.faults.push(format!("{place}: {what} `{name}`: {message}"));
    }

    /// Every filter is loaded, used or not, so that a mistake shows when it is made; and once more for every use with
    /// settings of its own.
    async fn load_filters(&mut self) {
        let config = self.config;
        for (index, filter) in config.filters.iter().enumerate() {
            self.load_filter(index, &filter.config.value, &filter.place).await;
        }
        let uses = config.listeners.iter().flat_map(|listener| &listener.filters);
        for used in uses.chain(config.routes.iter().flat_map(|route| &route.filters)) {
            if let Some(settings) = &used.config {
                self.load_filter(used.filter, &settings.value, &used.place).await;
            }
        }
        self.load_candidates().await;
        self.open_trials();
    }

    async fn load_filter(&mut self, index: usize, settings: &serde_json::Value, place: &config::Place) {
        let filter = &self.config.filters[index];
        let key = (index, settings.to_string());
        if self.kinds.contains_key(&key) {
            return;
        }
        let loaded = match &filter.kind {
            config::FilterKind::Native(name) => native::build(name, settings).map(StepSource::Native),
            config::FilterKind::Component(path) => self.load_component(filter, &filter.name, path, settings).await,
        };
        match loaded {
            Ok(source) => {
                if let StepSource::Wasm(slot) = source {
                    self.check_settings(slot, settings, place, &filter.name);
                }
                self.kinds.insert(key, source);
            }
            Err(message) => self.fault(place, "filter", &filter.name, message),
        }
    }

    /// One version of the filter, under its own `name`, by what its component is.
    async fn load_component(
        &mut self,
        filter: &config::Filter,
        name: &str,
        path: &Path,
        settings: &serde_json::Value,
    ) -> Result<StepSource, String> {
        let bytes = self.read_component(path)?;
        let is_middleware = self.is_middleware(filter, &bytes);
        if is_middleware.map_err(|message| format!("component {}: {message}", path.display()))? {
            let loaded = self.load_middleware(filter, name, path, bytes, settings).await;
            return loaded.map(StepSource::Middleware);
        }
        let loaded = self.load_guest(filter, name, path, bytes, settings).await;
        loaded.map(StepSource::Wasm)
    }

    fn read_component(&self, path: &Path) -> Result<Vec<u8>, String> {
        let max = self.compiler.max_component();
        Artifact::read(path, max).map_err(|message| format!("component: {message}"))
    }

    async fn load_guest(
        &mut self,
        filter: &config::Filter,
        name: &str,
        path: &Path,
        bytes: Vec<u8>,
        settings: &serde_json::Value,
    ) -> Result<usize, String> {
        let of_file = |message: String| format!("component {}: {message}", path.display());
        let artifact = self.artifact(bytes).await.map_err(of_file)?;
        let key = GuestKey {
            name: name.to_owned(),
            component: artifact.digest(),
            config: settings.to_string(),
            terms: self.terms(filter),
            on_failure: on_failure(filter.on_failure),
        };
        let kept = self
            .assembler
            .parts
            .guests
            .get(&key)
            .or_else(|| self.parts.guests.get(&key))
            .cloned();
        let guest = match kept {
            Some(guest) => guest,
            None => {
                let engine = self.compiler.engine().clone();
                let grants = self.grants(filter);
                self.check_permissions(&filter.name, &artifact, &grants)
                    .map_err(of_file)?;
                let settings = wasm::Settings {
                    name: name.to_owned(),
                    config: key.config.clone(),
                    grants,
                    limits: limits(filter, self.assembler.workers),
                    on_failure: key.on_failure,
                    breaker: filter.breaker.as_ref().map(breaker_settings),
                    tick: filter.tick,
                };
                Arc::new(wasm::Filter::load(&engine, artifact, settings).await.map_err(of_file)?)
            }
        };
        self.keep_table(filter);
        self.parts.guests.insert(key, Arc::clone(&guest));
        self.guests.push(guest);
        Ok(self.guests.len() - 1)
    }

    /// A new version of a component that asks for more than the one that runs is told so in words: whoever replaced the
    /// file may not know it.
    fn check_permissions(&self, name: &str, artifact: &Artifact, grants: &[Grant]) -> Result<(), String> {
        let imports = artifact.imports();
        let refused = wasm::ungranted(&imports, grants);
        if refused.is_empty() {
            return Ok(());
        }
        let message = refused.join("; ");
        let running = self.assembler.parts.guests.values();
        let Some(running) = running
            .map(|guest| guest.as_ref())
            .find(|guest| &**guest.name() == name)
        else {
            return Err(message);
        };
        let more = Delta::between(&running.artifact().imports(), &imports).added;
        if more.is_empty() {
            return Err(message);
        }
        Err(format!(
            "{message}; this version asks for more than the one that runs (sha256 {:.12}): `{}` {} new",
            running.artifact().digest().to_string(),
            more.join("`, `"),
            if more.len() == 1 { "is" } else { "are" },
        ))
    }

    async fn artifact(&mut self, bytes: Vec<u8>) -> Result<Arc<Artifact>, String> {
        let digest = Digest::of(&bytes);
        let kept = self
            .assembler
            .parts
            .artifacts
            .get(&digest)
            .or_else(|| self.parts.artifacts.get(&digest))
            .cloned();
        let artifact = match kept {
            Some(artifact) => artifact,
            None => Arc::new(self.compiler.compile(bytes).await?),
        };
        self.parts.artifacts.insert(digest, Arc::clone(&artifact));
        Ok(artifact)
    }

    fn chain(&self, uses: &[config::FilterUse]) -> Chain {
        let step = |used: &config::FilterUse| {
            let filter = &self.config.filters[used.filter];
            let settings = used.config.as_ref().unwrap_or(&filter.config);
            let key = (used.filter, settings.value.to_string());
            // One that is missing is a fault already.
            let source = self.kinds.get(&key)?;
            Some(Step {
                name: filter.name.as_str().into(),
                index: used.filter,
                kind: self.step_kind(source),
                part: self.part(used.filter, Version::Stable),
                candidate: self.candidate(&key),
            })
        };
        Chain {
            steps: uses.iter().filter_map(step).collect(),
        }
    }

    fn step_kind(&self, source: &StepSource) -> StepKind {
        match source {
            StepSource::Native(native) => StepKind::Native(Arc::clone(native)),
            StepSource::Wasm(slot) => StepKind::Wasm(Arc::clone(&self.guests[*slot]), *slot),
            StepSource::Middleware(slot) => StepKind::Middleware(Arc::clone(&self.middlewares[*slot]), *slot),
        }
    }

    fn table(&mut self) -> Option<route::Table> {
        let patterns = self.config.routes.iter().map(|route| pattern(&route.matches)).collect();
        match route::Table::build(patterns) {
            Ok(table) => Some(table),
            Err(error) => {
                let route = &self.config.routes[error.index];
                self.fault(&route.place, "route", &route.name, &error.source);
                None
            }
        }
    }

    /// What makes two uses of a component the same, besides its settings.
    fn terms(&self, filter: &config::Filter) -> String {
        let grant = |grant: &config::Grant| match grant {
            config::Grant::Outbound(clusters) => {
                let ids: Vec<u64> = clusters.iter().map(|index| self.clusters[*index].id()).collect();
                format!("outbound {ids:?}")
            }
            other => format!("{other:?}"),
        };
        let mut grants: Vec<String> = filter.grants.iter().map(grant).collect();
        grants.sort_unstable();
        let limits = limits(filter, self.assembler.workers);
        format!("{grants:?} {limits:?} {:?} {:?}", filter.breaker, filter.tick)
    }

    fn grants(&mut self, filter: &config::Filter) -> Vec<Grant> {
        let grant = |grant: &config::Grant| match grant {
            config::Grant::Metrics => Grant::Metrics,
            config::Grant::Clock => Grant::Clock,
            config::Grant::Random => Grant::Random,
            config::Grant::KeyValue(_) => {
                let (name, bounds) = table_of(filter).unwrap_or_else(|| own_table(filter));
                Grant::KeyValue(self.assembler.tables.open(&name, bounds))
            }
            config::Grant::Outbound(clusters) => {
                let cluster = |index: &usize| Arc::clone(&self.clusters[*index]);
                Grant::Outbound(clusters.iter().map(cluster).collect())
            }
            config::Grant::Wasi => Grant::Wasi,
        };
        filter.grants.iter().map(grant).collect()
    }

    /// Holds on to the filter's table, also when the filter itself is kept from the generation before.
    fn keep_table(&mut self, filter: &config::Filter) {
        if let Some((name, bounds)) = table_of(filter) {
            let table = self.assembler.tables.open(&name, bounds);
            self.parts.tables.insert(name, (table, bounds));
        }
    }

    /// A cluster that is as it was stays the same object, with the endpoints that it has found meanwhile. One that has
    /// changed goes on with what is known of its endpoints.
    async fn make_clusters(&mut self, names: Names) {
        let config = self.config;
        let dns = clusters::dns(&config.dns);
        let services = self.load_services().await;
        let mut planned = Vec::with_capacity(config.clusters.len());
        for (cluster, service) in config.clusters.iter().zip(services) {
            let (tls, digest) = self.client(cluster).unzip();
            let old = self.assembler.parts.clusters.get(&cluster.name);
            let digest = digest.unwrap_or_default();
            let plan = Planned::new(cluster, &dns, old, digest, service, self.assembler.workers);
            planned.push((plan, tls));
        }
        let mut looking = JoinSet::new();
        for (index, (plan, _)) in planned.iter().enumerate() {
            if let Planned::New(fresh) = plan {
                let (standing, origin) = (Arc::clone(&fresh.standing), fresh.origin.clone());
                match names {
                    Names::LookUp if !origin.is_fixed() => {
                        looking.spawn(async move { (index, discovery::first(origin, standing).await) });
                    }
                    _ => drop(looking.spawn(async move { (index, origin.known(&standing)) })),
                }
            }
        }
        let mut seats: HashMap<usize, Result<Vec<Seat>, String>> = HashMap::new();
        while let Some(found) = looking.join_next().await {
            // Nothing in there panics; if it does, its cluster has no endpoints and says so.
            seats.extend(found);
        }
        for (index, ((plan, tls), cluster)) in planned.into_iter().zip(&config.clusters).enumerate() {
            let found = seats.remove(&index).unwrap_or_else(|| Ok(Vec::new()));
            let found = found.unwrap_or_else(|message| {
                self.fault(
                    &cluster.place,
                    "cluster",
                    &cluster.name,
                    format!("endpoints_file: {message}"),
                );
                Vec::new()
            });
            let tls = match (plan.needs_tls(), tls) {
                (true, Some(tls)) => self.build_client(cluster, tls),
                _ => None,
            };
            let (built, digest) = plan.build(cluster, found, tls);
            let made = (cluster.clone(), digest, Arc::clone(&built));
            self.parts.clusters.insert(cluster.name.clone(), made);
            self.clusters.push(built);
        }
    }

    fn routes(&mut self) -> Vec<snapshot::Route> {
        let config = self.config;
        config
            .routes
            .iter()
            .map(|route| {
                let action = action(&route.action, &config.clusters).unwrap_or_else(|message| {
                    self.fault(&route.place, "route", &route.name, message);
                    snapshot::Action::Clusters {
                        choices: Vec::new(),
                        total: 0,
                    }
                });
                let changes = routes::rewrite(route).and_then(|rewrite| {
                    let edits = routes::edits(&route.response_headers)?;
                    Ok((rewrite, edits))
                });
                let (rewrite, response_edits) = changes.unwrap_or_else(|message| {
                    self.fault(&route.place, "route", &route.name, message);
                    (None, None)
                });
                snapshot::Route {
                    rewrite: rewrite.map(Box::new),
                    mirror: route.mirror.as_ref().map(routes::mirror),
                    response_edits: response_edits.map(Box::new),
                    name: route.name.as_str().into(),
                    short_name: Name::new(&route.name),
                    chain: self.chain(&route.filters),
                    action,
                    timeout: route.timeout,
                    retry: route.retry.as_ref().map(|retry| Box::new(routes::retry(retry))),
                    grpc_timeout: match route.grpc_timeout {
                        config::GrpcTimeout::Honor => snapshot::GrpcTimeout::Honor,
                        config::GrpcTimeout::Ignore => snapshot::GrpcTimeout::Ignore,
                    },
                    upgrades: route.upgrades.iter().map(|protocol| protocol.as_str().into()).collect(),
                }
            })
            .collect()
    }

    fn listeners(&mut self) -> Vec<snapshot::Listener> {
        let config = self.config;
        let mut listeners = Vec::with_capacity(config.listeners.len());
        for (index, listener) in config.listeners.iter().enumerate() {
            match self.sockets(listener) {
                Ok(sockets) => listeners.push(snapshot::Listener {
                    name: listener.name.as_str().into(),
                    short_name: Name::new(&listener.name),
                    authority: authority(&sockets.bound),
                    sockets,
                    tls: self.servers[index].clone(),
                    redirect: listener.redirect.as_ref().and_then(https_redirect),
                    protocols: protocols(&listener.protocols),
                    chain: self.chain(&listener.filters),
                    limits: listener_limits(&listener.limits, self.assembler.workers),
                    introducers: peers(&listener.proxy_protocol),
                    trusted: peers(&listener.trusted_proxies),
                }),
                Err(error) => {
                    let bound = address(&listener.address);
                    let message = format!("address {bound}: cannot listen: {error}{}", way_out(&bound, &error));
                    self.fault(&listener.place, "listener", &listener.name, message);
                }
            }
        }
        listeners
    }

    fn sockets(&mut self, listener: &config::Listener) -> std::io::Result<Arc<Sockets>> {
        let key = socket_key(&listener.name, &address(&listener.address));
        let kept = self.assembler.parts.sockets.get(&key).cloned();
        let sockets = match kept {
            Some(sockets) => sockets,
            None => Arc::new(Sockets::bind(&key.1, self.assembler.workers)?),
        };
        self.parts.sockets.insert(key, Arc::clone(&sockets));
        Ok(sockets)
    }

    /// Without opening the log, which may be another process's.
    fn check_log_folder(&mut self) {
        let config::LogTarget::File(path) = &self.config.access_log.target else {
            return;
        };
        let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
            return;
        };
        if !folder.is_dir() {
            let folder = folder.display();
            self.faults
                .push(format!("access_log: {folder}: there is no such folder; create it"));
        }
    }

    fn access_log(&mut self) -> Option<snapshot::AccessLog> {
        let settings = &self.config.access_log;
        let target = match &settings.target {
            config::LogTarget::Off => return None,
            config::LogTarget::Stdout => Target::Stdout,
            config::LogTarget::File(path) => Target::File(path.clone()),
        };
        let old = self.assembler.parts.log.as_ref();
        let kept = old.filter(|(target, queue, _)| *target == settings.target && *queue == settings.queue);
        let writer = match kept {
            Some((_, _, writer)) => writer.clone(),
            None => match AccessLog::start(target, settings.queue) {
                Ok(writer) => writer,
                Err(error) => {
                    let path = match &settings.target {
                        config::LogTarget::File(path) => path.display().to_string(),
                        _ => "standard output".to_owned(),
                    };
                    self.faults
                        .push(format!("access_log: {path} cannot be written: {error}"));
                    return None;
                }
            },
        };
        self.parts.log = Some((settings.target.clone(), settings.queue, writer.clone()));
        Some(snapshot::AccessLog {
            writer,
            format: log_format(&settings.format),
        })
    }
}

/// A line for each route that can never match.
fn shadowed(config: &Config, table: &route::Table) -> Vec<String> {
    let warning = |(route, by): (usize, usize)| {
        let (route, by) = (&config.routes[route], &config.routes[by]);
        format!(
            "{}: route `{}` can never match: `{}` before it takes every such request; move it up or remove it",
            route.place, route.name, by.name
        )
    };
    table.shadowed().into_iter().map(warning).collect()
}

/// Sockets follow their address, so that a listener can be renamed; with port 0 each listener has its own.
pub fn socket_key(listener: &str, address: &Address) -> SocketKey {
    let name = match address {
        Address::Tcp(tcp) if tcp.port() == 0 => listener,
        _ => "",
    };
    (name.to_owned(), address.clone())
}

fn authority(bound: &Address) -> HeaderValue {
    let text = match bound {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(_) | Address::Component(_) => "localhost".to_owned(),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("localhost"))
}

/// What helps where there is something to be done about it.
fn way_out(bound: &Address, error: &std::io::Error) -> &'static str {
    let is_low = matches!(bound, Address::Tcp(address) if address.port() < 1024);
    match error.kind() {
        std::io::ErrorKind::PermissionDenied if is_low => {
            "; a port below 1024 needs CAP_NET_BIND_SERVICE (`AmbientCapabilities=` of the service, or `setcap` on the \
             program)"
        }
        std::io::ErrorKind::AddrInUse => "; another process listens there (`ss -ltnp` says which)",
        _ => "",
    }
}

fn compiler_settings(config: &Config) -> wasm::CompilerSettings {
    wasm::CompilerSettings {
        threads: config.wasm.compile_threads,
        timeout: config.wasm.compile_timeout,
        max_component: config.wasm.max_component,
    }
}

/// What one filter may take, in one of so many workers.
pub fn limits(filter: &config::Filter, workers: usize) -> wasm::Limits {
    let limits = &filter.limits;
    let share = limits.instances.div_ceil(u32::try_from(workers).unwrap_or(1)).max(1);
    wasm::Limits {
        memory: usize::try_from(limits.memory).unwrap_or(usize::MAX),
        table_elements: limits.table_elements,
        cpu_ticks: wasm::ticks(limits.cpu),
        exchange_cpu: limits.exchange_cpu,
        wall: limits.wall,
        wait: limits.wait,
        body_bytes: limits.body_bytes,
        lifted_bytes: limits.lifted_bytes,
        outbound_calls: limits.outbound_calls,
        outbound_concurrent: usize::try_from(limits.outbound_concurrent).unwrap_or(usize::MAX),
        instances_per_worker: share,
        header_bytes: limits.header_bytes,
        log_lines: limits.log_lines,
        reuse: filter.instance_reuse,
    }
}

/// The table that a filter is granted, and its size.
fn table_of(filter: &config::Filter) -> Option<(TableName, store::Bounds)> {
    let granted = filter.grants.iter().find_map(|grant| match grant {
        config::Grant::KeyValue(name) => Some(name.clone()),
        _ => None,
    })?;
    let (own, bounds) = own_table(filter);
    Some((granted.map_or(own, TableName::Shared), bounds))
}

fn own_table(filter: &config::Filter) -> (TableName, store::Bounds) {
    let bounds = store::Bounds {
        bytes: filter.limits.key_value_bytes,
        keys: filter.limits.key_value_keys,
        ..store::Bounds::default()
    };
    (TableName::Own(filter.name.clone()), bounds)
}

fn breaker_settings(breaker: &config::Breaker) -> breaker::Settings {
    breaker::Settings {
        failures: breaker.failures,
        within: breaker.within,
        backoff: breaker.backoff,
        max_backoff: breaker.max_backoff,
    }
}

fn on_failure(on_failure: config::OnFailure) -> OnFailure {
    match on_failure {
        config::OnFailure::Closed => OnFailure::Closed,
        config::OnFailure::Open => OnFailure::Open,
    }
}

pub fn address(address: &config::Address) -> Address {
    match address {
        config::Address::Tcp(address) => Address::Tcp(*address),
        config::Address::Unix(path) => Address::Unix(path.clone()),
    }
}

fn peers(peers: &config::Peers) -> Peers {
    Peers {
        networks: peers.networks.clone(),
        unix: peers.unix,
    }
}

fn https_redirect(redirect: &config::HttpsRedirect) -> Option<snapshot::Redirect> {
    Some(snapshot::Redirect {
        // One that redirects, as the configuration knows.
        status: StatusCode::from_u16(redirect.status).ok()?,
        scheme: Some("https".to_owned()),
        host: None,
        port: Some(redirect.port),
        path: None,
    })
}

fn listener_limits(limits: &config::ListenerLimits, workers: usize) -> snapshot::Limits {
    snapshot::Limits {
        tls_handshake_timeout: limits.tls_handshake_timeout,
        handshakes_per_worker: limits.max_handshakes.div_ceil(workers),
        head_timeout: limits.head_timeout,
        idle_timeout: limits.idle_timeout,
        body_timeout: limits.body_timeout,
        write_timeout: limits.write_timeout,
        tunnel_idle_timeout: limits.tunnel_idle_timeout,
        max_head_bytes: limits.max_head_bytes,
        max_field_bytes: limits.max_field_bytes,
        max_fields: limits.max_fields,
        max_target_bytes: limits.max_target_bytes,
        connections_per_worker: limits.max_connections.div_ceil(workers),
        connections_per_address: limits.max_connections_per_address,
        // What one client of HTTP/2 may have under way is on one worker.
        exchanges_per_worker: limits
            .max_exchanges
            .div_ceil(workers)
            .max(limits.max_exchanges.min(limits.http2.max_streams as usize)),
        max_requests: limits.max_requests,
        http2: http2_limits(&limits.http2),
    }
}

fn overload(overload: &config::Overload, assembler: &Assembler) -> Overload {
    let share = |count: Option<usize>| count.map_or(usize::MAX, |count| count.div_ceil(assembler.workers));
    let thresholds = |memory: &config::MemoryPressure| Thresholds {
        limit: memory.limit,
        disable_keep_alive: memory.disable_keep_alive,
        stop_accepting_requests: memory.stop_accepting_requests,
        stop_accepting_connections: memory.stop_accepting_connections,
        recovery: memory.recovery,
    };
    Overload {
        connections_per_worker: share(overload.max_connections),
        exchanges_per_worker: share(overload.max_exchanges),
        memory: overload.memory.as_ref().map(thresholds),
        pressure: Arc::clone(&assembler.pressure),
    }
}

fn http2_limits(limits: &config::Http2Limits) -> snapshot::Http2Limits {
    snapshot::Http2Limits {
        max_streams: limits.max_streams,
        max_streams_per_address: limits.max_streams_per_address,
        stream_window: limits.stream_window,
        connection_window: limits.connection_window,
        send_buffer: limits.send_buffer,
        max_header_list: limits.max_header_list,
        max_resets: limits.max_resets,
        max_control_frames: limits.max_control_frames,
        min_progress: limits.min_progress,
        ping_interval: limits.ping_interval,
        ping_timeout: limits.ping_timeout,
    }
}

fn protocols(protocols: &[config::Protocol]) -> snapshot::Protocols {
    let speaks = |protocol| protocols.contains(&protocol);
    match (speaks(config::Protocol::Http1), speaks(config::Protocol::Http2)) {
        (false, true) => snapshot::Protocols::Http2,
        (true, false) => snapshot::Protocols::Http1,
        _ => snapshot::Protocols::Both,
    }
}

fn action(action: &config::Action, known: &[config::Cluster]) -> Result<snapshot::Action, String> {
    Ok(match action {
        config::Action::Clusters(clusters) => snapshot::Action::Clusters {
            choices: clusters
                .iter()
                .map(|choice| snapshot::Choice {
                    cluster: choice.cluster,
                    name: Name::new(&known[choice.cluster].name),
                    weight: choice.weight,
                })
                .collect(),
            total: clusters.iter().map(|choice| u64::from(choice.weight)).sum(),
        },
        config::Action::Redirect(redirect) => snapshot::Action::Redirect(snapshot::Redirect {
            status: status(redirect.status)?,
            scheme: redirect.scheme.clone(),
            host: redirect.host.clone(),
            port: redirect.port,
            path: redirect.path.clone(),
        }),
        config::Action::Respond(respond) => snapshot::Action::Respond(snapshot::Respond {
            status: status(respond.status)?,
            headers: fields(&respond.headers)?,
            body: respond.body.clone().into(),
        }),
    })
}

fn status(status: u16) -> Result<StatusCode, String> {
    StatusCode::from_u16(status).map_err(|error| format!("status {status}: {error}"))
}

fn fields(fields: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        let field = HeaderName::from_bytes(name.as_bytes()).map_err(|error| format!("header `{name}`: {error}"))?;
        headers.append(
            field,
            HeaderValue::from_str(value).map_err(|error| format!("header `{name}`: {error}"))?,
        );
    }
    Ok(headers)
}

fn pattern(matches: &config::RouteMatch) -> route::Pattern {
    route::Pattern {
        hosts: matches.hosts.iter().map(host).collect(),
        path: matches.path.as_ref().map(path),
        methods: matches.methods.clone(),
        headers: matches
            .headers
            .iter()
            .map(|header| route::HeaderPattern {
                name: header.name.clone(),
                value: value(&header.value),
            })
            .collect(),
        query: matches
            .query
            .iter()
            .map(|query| route::QueryPattern {
                name: query.name.clone(),
                value: value(&query.value),
            })
            .collect(),
        certificate: matches.certificate.as_ref().map(certificate),
    }
}

fn certificate(pattern: &config::CertificatePattern) -> route::CertificatePattern {
    route::CertificatePattern {
        subject: pattern.subject.as_ref().map(value),
        name: pattern.name.as_ref().map(value),
        fingerprints: pattern.fingerprints.clone(),
    }
}

fn host(host: &config::HostPattern) -> route::HostPattern {
    match host {
        config::HostPattern::Exact(name) => route::HostPattern::Exact(name.clone()),
        config::HostPattern::Suffix(name) => route::HostPattern::Suffix(name.clone()),
    }
}

fn path(path: &config::PathPattern) -> route::PathPattern {
    match path {
        config::PathPattern::Exact(text) => route::PathPattern::Exact(text.clone()),
        config::PathPattern::Prefix(text) => route::PathPattern::Prefix(text.clone()),
        config::PathPattern::Regex(text) => route::PathPattern::Regex(text.clone()),
    }
}

fn value(value: &config::ValuePattern) -> route::ValuePattern {
    match value {
        config::ValuePattern::Present => route::ValuePattern::Present,
        config::ValuePattern::Exact(text) => route::ValuePattern::Exact(text.clone()),
        config::ValuePattern::Regex(text) => route::ValuePattern::Regex(text.clone()),
    }
}

fn log_format(format: &config::LogFormat) -> record::Format {
    match format {
        config::LogFormat::Json => record::Format::Json,
        config::LogFormat::Text(parts) => record::Format::Text(parts.iter().map(log_part).collect()),
    }
}

fn log_part(part: &config::LogPart) -> record::Part {
    use config::LogField as From;
    use record::Field as To;
    let field = match part {
        config::LogPart::Literal(text) => return record::Part::Literal(text.clone()),
        config::LogPart::Attribute(name) => return record::Part::Attribute(name.clone()),
        config::LogPart::Field(field) => field,
    };
    record::Part::Field(match field {
        From::Time => To::Time,
        From::RequestId => To::RequestId,
        From::Listener => To::Listener,
        From::Route => To::Route,
        From::Cluster => To::Cluster,
        From::Endpoint => To::Endpoint,
        From::Client => To::Client,
        From::Method => To::Method,
        From::Authority => To::Authority,
        From::Path => To::Path,
        From::Protocol => To::Protocol,
        From::Status => To::Status,
        From::Reason => To::Reason,
        From::RequestBytes => To::RequestBytes,
        From::ResponseBytes => To::ResponseBytes,
        From::DurationMs => To::DurationMs,
        From::UpstreamMs => To::UpstreamMs,
        From::Attempts => To::Attempts,
        From::UserAgent => To::UserAgent,
        From::Referer => To::Referer,
        From::Attributes => To::Attributes,
        From::TlsVersion => To::TlsVersion,
        From::Sni => To::Sni,
        From::ClientSubject => To::ClientSubject,
        From::ClientSans => To::ClientSans,
        From::ClientFingerprint => To::ClientFingerprint,
        From::GrpcStatus => To::GrpcStatus,
    })
}

/// Every file that a change of which should be looked at: components, secrets, the configuration itself.
pub fn watched(file: &Path, config: &Config) -> Vec<PathBuf> {
    std::iter::once(file.to_owned())
        .chain(config.files.iter().cloned())
        .collect()
}
