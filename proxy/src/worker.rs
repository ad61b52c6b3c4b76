//! A worker: one thread, one runtime, and everything that its exchanges share.
//!
//! Data plane. Workers share nothing that is written per request: each has its own connections to upstreams, its own
//! guests, its own counts. They learn of a new generation by one atomic number, and of everything else by commands.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::census::household;
use crate::chain::{Chain, Floor, Step};
use crate::cluster::Cluster;
use crate::exchange::Remains;
use crate::filter::{Failure, Hook, OnFailure};
use crate::head::Clusters;
use crate::hop::Via;
use crate::listener;
use crate::outbound::{self, Desk};
use crate::outbox;
use crate::overload::{self, Level, Pressure};
use crate::pool::{self, ClusterPool, EndpointPool, EndpointUsage};
use crate::snapshot::{Action, Snapshot};
use crate::telemetry::UPSTREAM_FAILURES;
use crate::telemetry::metrics::{
    EndpointSeries, FilterSeries, Live as LiveNames, Report, RouteSeries, Tally, UNMATCHED,
};
use crate::tick;
use crate::tls;
use crate::wasm;
use crate::wasm::http::Middleware;

/// Tasks polled between two looks at the sockets when tasks never run out. An exchange takes four polls of some
/// microseconds each, so this is a fraction of a millisecond; a guest that computes lets the runtime look at once.
const EVENT_INTERVAL: u32 = 128;

/// How often idle connections and guests are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// The generation that new exchanges take. Written by `reload` only.
pub struct Live {
    snapshot: ArcSwap<Snapshot>,
    /// The snapshot's number, beside it, so that a request that finds nothing new touches no reference count.
    generation: AtomicU64,
    /// The same for whoever waits for the next one; never the data plane.
    generations: watch::Sender<u64>,
}

impl Live {
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            generation: AtomicU64::new(snapshot.generation),
            generations: watch::Sender::new(snapshot.generation),
            snapshot: ArcSwap::new(snapshot),
        }
    }

    pub fn load(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub fn store(&self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation;
        self.snapshot.store(snapshot);
        self.generation.store(generation, Ordering::Release);
        self.generations.send_replace(generation);
    }

    /// The number of the generation, and of each that follows.
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.generations.subscribe()
    }
}

/// Commands to the workers, by index.
pub type Workers = Vec<mpsc::UnboundedSender<Command>>;

/// What the control plane asks of a worker.
pub enum Command {
    /// There is a new generation: listen where it says, let go of what it dropped.
    Reconcile,
    /// Starts guests of these filters, and says how many.
    Warm(Vec<Arc<wasm::Filter>>, oneshot::Sender<u32>),
    /// Ends what is still on this generation or an older one.
    Outlive(u64),
    /// Memory is shorter, or less short, than it was.
    Relieve,
    Report(oneshot::Sender<WorkerReport>),
    /// Accept nothing more, end what is under way.
    Drain,
    /// Drop what is still under way and end.
    Stop,
}

/// A worker's answer to [`Command::Report`].
#[derive(Default)]
pub struct WorkerReport {
    pub counts: Report,
    pub endpoints: Vec<EndpointUsage>,
    /// What each filter has here.
    pub guests: Vec<(Arc<str>, wasm::Usage)>,
    /// Open ones, and exchanges that are over but not yet recorded.
    pub connections: usize,
    /// Under way.
    pub exchanges: usize,
}

/// One thread's world. Lives as long as the process.
pub struct Worker {
    pub index: usize,
    pub via: Via,
    pub tally: RefCell<Tally>,
    /// TLS handshakes of clients under way.
    pub handshakes: Rc<tls::queue::Queue>,
    live: Arc<Live>,
    pressure: Arc<Pressure>,
    upstreams: pool::Pools,
    guests: wasm::Pools,
    middlewares: wasm::http::Pools,
    /// Where guests leave their calls.
    desk: Desk,
    /// The background hooks that run here, by their filter.
    ticks: RefCell<HashMap<u64, JoinHandle<()>>>,
    pinned: RefCell<Rc<Pinned>>,
    /// What is on this generation or an older one is over.
    outlived: Cell<u64>,
    random: Cell<u64>,
    draining: Cell<bool>,
    connections: RefCell<slab::Slab<Entry>>,
    /// Open connections by the id of their sockets.
    open: RefCell<HashMap<u64, usize>>,
    /// Exchanges under way: all of them, and by the id of their connection's sockets.
    exchanges: Cell<usize>,
    exchanges_of: RefCell<HashMap<u64, Rc<Cell<usize>>>>,
    /// Streams under way by the address of their client, of those with a connection that speaks HTTP/2.
    streams: RefCell<HashMap<IpAddr, Rc<Cell<usize>>>>,
    /// What the gauges of guests were last set to, by filter.
    weighed: RefCell<HashMap<Arc<str>, wasm::Usage>>,
    /// The same of connections to upstreams, by cluster and endpoint.
    counted: RefCell<HashMap<(String, String), usize>>,
    /// Exchanges whose completion hooks are under way.
    settling: Cell<usize>,
}

/// One exchange whose completion hooks are under way, however they end.
struct Settling(Rc<Worker>);

impl Settling {
    fn begin(worker: &Rc<Worker>) -> Self {
        worker.settling.set(worker.settling.get() + 1);
        Self(Rc::clone(worker))
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.0.settling.set(self.0.settling.get() - 1);
    }
}

/// One open connection.
struct Entry {
    sockets: u64,
    waker: Option<Waker>,
}

/// Accept loops by the id of their sockets.
type Listening = HashMap<u64, JoinHandle<()>>;

/// One generation as one worker sees it, with what the worker looked up for it once.
pub struct Pinned {
    pub snapshot: Arc<Snapshot>,
    upstreams: Vec<OnceCell<Rc<ClusterPool>>>,
    guests: Vec<OnceCell<Rc<wasm::Pool>>>,
    middlewares: Vec<OnceCell<Rc<wasm::http::Pool>>>,
    filters: Vec<Cell<Option<FilterSeries>>>,
    /// By listener, then route; the last of a row is for requests without a route.
    routes: Vec<Cell<Option<RouteSeries>>>,
}

/// Runs a worker until it is drained or stopped.
pub fn run(
    index: usize,
    live: Arc<Live>,
    instance: &str,
    commands: mpsc::UnboundedReceiver<Command>,
) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread()
        .event_interval(EVENT_INTERVAL)
        .enable_all()
        .build_local(LocalOptions::default())?;
    let (desk, orders) = Desk::new();
    let worker = Rc::new(Worker::new(index, live, instance, desk));
    runtime.block_on(async {
        tokio::task::spawn_local(outbox::serve());
        tokio::task::spawn_local(outbound::serve(Rc::clone(&worker), orders));
        worker.obey(commands).await;
        // As the outbox's own task: all of it, however much that is.
        tokio::task::unconstrained(async { outbox::send_all() }).await;
    });
    Ok(())
}

impl Worker {
    /// `desk` takes what its guests order; somebody has to [serve](outbound::serve) them.
    pub fn new(index: usize, live: Arc<Live>, instance: &str, desk: Desk) -> Self {
        let pinned = Rc::new(Pinned::new(live.load()));
        Self {
            index,
            pressure: Arc::clone(&pinned.snapshot.overload.pressure),
            via: Via::new(instance),
            tally: RefCell::default(),
            handshakes: Rc::default(),
            live,
            upstreams: pool::Pools::new(desk.clone()),
            guests: wasm::Pools::new(desk.clone()),
            middlewares: wasm::http::Pools::new(desk.clone()),
            ticks: RefCell::default(),
            desk,
            pinned: RefCell::new(pinned),
            outlived: Cell::new(0),
            random: Cell::new(seed(index)),
            draining: Cell::new(false),
            connections: RefCell::default(),
            open: RefCell::default(),
            exchanges: Cell::new(0),
            exchanges_of: RefCell::default(),
            streams: RefCell::default(),
            weighed: RefCell::default(),
            counted: RefCell::default(),
            settling: Cell::new(0),
        }
    }

    async fn obey(self: Rc<Self>, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut listening = Listening::new();
        self.listen(&mut listening);
        self.tick();
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Reconcile) => self.reconcile(&mut listening),
                    Some(Command::Warm(filters, to)) => self.warm(filters, to),
                    Some(Command::Outlive(generation)) => self.outlive(generation),
                    Some(Command::Relieve) => self.relieve(&mut listening),
                    Some(Command::Report(to)) => {
                        // Whoever asked may have given up.
                        let _ = to.send(self.report());
                    }
                    Some(Command::Drain) => self.drain(&mut listening),
                    Some(Command::Stop) | None => return,
                },
                now = sweep.tick() => {
                    if self.upstreams.sweep(now) {
                        // Endpoints have come or gone without a new generation.
                        self.count_connections(&self.upstreams.usage());
                        self.tally.borrow_mut().retain(&names(&self.pin().snapshot));
                    }
                    self.guests.sweep(now);
                    self.middlewares.sweep(now);
                    if self.accepts() {
                        self.listen(&mut listening);
                    }
                    // Each thread has memory of its own.
                    overload::give_back();
                }
            }
        }
    }

    /// The generation for a new exchange.
    pub fn pin(&self) -> Rc<Pinned> {
        let pinned = self.pinned.borrow();
        if self.is_current(&pinned) {
            return Rc::clone(&pinned);
        }
        drop(pinned);
        self.renew()
    }

    /// Whether no newer generation is live.
    pub fn is_current(&self, pinned: &Pinned) -> bool {
        pinned.snapshot.generation == self.live.generation.load(Ordering::Acquire)
    }

    fn renew(&self) -> Rc<Pinned> {
        let pinned = Rc::new(Pinned::new(self.live.load()));
        *self.pinned.borrow_mut() = Rc::clone(&pinned);
        pinned
    }

    fn reconcile(self: &Rc<Self>, listening: &mut Listening) {
        let pinned = self.pin();
        let snapshot = &pinned.snapshot;
        if self.accepts() {
            self.listen(listening);
        }
        self.forget_exchanges_of(snapshot);
        self.upstreams.retain(&snapshot.clusters);
        let guests: HashSet<u64> = snapshot.guests.iter().map(|filter| filter.id()).collect();
        self.guests.retain(|id| guests.contains(&id));
        let wanted = |id: u64| snapshot.middlewares.iter().any(|middleware| middleware.id() == id);
        self.middlewares.retain(wanted);
        self.tick();
        self.tally.borrow_mut().retain(&names(snapshot));
        // Connections of a listener that is gone, and those that hold an old generation while they wait, look again.
        self.wake_connections();
    }

    /// In a task of its own: a guest may take long to start, and requests do not wait for it.
    fn warm(self: &Rc<Self>, filters: Vec<Arc<wasm::Filter>>, to: oneshot::Sender<u32>) {
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let made = worker.guests.warm(&filters).await;
            // Whoever asked may have gone on.
            let _ = to.send(made);
        });
    }

    fn outlive(&self, generation: u64) {
        self.outlived.set(generation);
        self.wake_connections();
    }

    /// Lets the kernel hold connections while memory is shortest, and accepts them when it is less so.
    fn relieve(self: &Rc<Self>, listening: &mut Listening) {
        if self.accepts() {
            self.listen(listening);
        } else {
            // The sockets stay as they are.
            for (_, task) in listening.drain() {
                task.abort();
            }
        }
        // Those that rest may be ones that are not kept now.
        self.wake_connections();
    }

    fn accepts(&self) -> bool {
        !self.draining.get() && self.pressure() < Level::StopAcceptingConnections
    }

    /// How short memory is.
    pub fn pressure(&self) -> Level {
        self.pressure.level()
    }

    /// Where exchanges of connections on the sockets with this id are counted.
    pub fn exchanges_of(&self, sockets: u64) -> Rc<Cell<usize>> {
        Rc::clone(self.exchanges_of.borrow_mut().entry(sockets).or_default())
    }

    /// Of sockets that are gone, once their last connection is.
    fn forget_exchanges_of(&self, snapshot: &Snapshot) {
        let is_there = |id: u64| snapshot.listeners.iter().any(|listener| listener.sockets.id() == id);
        let mut counts = self.exchanges_of.borrow_mut();
        counts.retain(|id, count| is_there(*id) || Rc::strong_count(count) > 1);
    }

    /// An exchange has begun; `of_sockets` is where those of its connection's sockets are counted.
    pub fn begin_exchange(&self, of_sockets: &Cell<usize>) {
        self.exchanges.set(self.exchanges.get() + 1);
        of_sockets.set(of_sockets.get() + 1);
    }

    pub fn end_exchange(&self, of_sockets: &Cell<usize>) {
        self.exchanges.set(self.exchanges.get().saturating_sub(1));
        of_sockets.set(of_sockets.get().saturating_sub(1));
    }

    /// Exchanges under way.
    pub fn exchanges(&self) -> usize {
        self.exchanges.get()
    }

    /// What is on this generation or an older one has had its time.
    pub fn outlived(&self) -> u64 {
        self.outlived.get()
    }

    /// How many streams of HTTP/2 this address has here; for whoever has some.
    pub fn streams_of(&self, address: IpAddr) -> Rc<Cell<usize>> {
        Rc::clone(self.streams.borrow_mut().entry(household(address)).or_default())
    }

    /// Nobody else may have to do with the address.
    pub fn forget_streams_of(&self, address: IpAddr) {
        let mut streams = self.streams.borrow_mut();
        let address = household(address);
        if streams.get(&address).is_some_and(|count| Rc::strong_count(count) == 1) {
            streams.remove(&address);
        }
    }

    /// Whether what is on this generation has had its time.
    pub fn is_outlived(&self, pinned: &Pinned) -> bool {
        pinned.snapshot.generation <= self.outlived.get()
    }

    /// Accepts on the sockets of the current generation, and on no others.
    fn listen(self: &Rc<Self>, listening: &mut Listening) {
        let pinned = self.pin();
        let wanted: HashSet<u64> = pinned
            .snapshot
            .listeners
            .iter()
            .map(|listener| listener.sockets.id())
            .collect();
        listening.retain(|id, task| {
            // One that could not accept, for want of a descriptor, tries again.
            let keep = wanted.contains(id) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        for listener in &pinned.snapshot.listeners {
            listening.entry(listener.sockets.id()).or_insert_with(|| {
                let (worker, sockets) = (Rc::clone(self), Arc::clone(&listener.sockets));
                tokio::task::spawn_local(async move {
                    if let Err(error) = listener::accept(worker, sockets).await {
                        tracing::error!(%error, "a worker cannot accept");
                    }
                })
            });
        }
    }

    /// Runs the background hooks of the current generation's filters, in the first worker, and no others.
    fn tick(self: &Rc<Self>) {
        if self.index != 0 {
            return;
        }
        let pinned = self.pin();
        let wanted = |id: u64| pinned.snapshot.guests.iter().any(|filter| filter.id() == id);
        let mut ticks = self.ticks.borrow_mut();
        ticks.retain(|id, task| {
            let keep = wanted(*id);
            if !keep {
                task.abort();
            }
            keep
        });
        for filter in &pinned.snapshot.guests {
            if let Some(every) = filter.tick() {
                ticks.entry(filter.id()).or_insert_with(|| {
                    let (worker, filter) = (Rc::clone(self), Arc::clone(filter));
                    tokio::task::spawn_local(tick::run(worker, filter, every))
                });
            }
        }
    }

    /// Where guests leave their calls.
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// The worker's connections to a cluster.
    pub fn upstreams(&self, cluster: &Arc<Cluster>) -> Rc<ClusterPool> {
        self.upstreams.of(cluster)
    }

    /// Runs the completion hooks of an exchange that is over, and writes its record.
    pub fn settle(self: &Rc<Self>, remains: Remains) {
        if tokio::runtime::Handle::try_current().is_err() {
            // The worker itself has ended, so no guest runs any more.
            return remains.write_record();
        }
        let settling = Settling::begin(self);
        tokio::task::spawn_local(async move {
            remains.settle().await;
            drop(settling);
        });
    }

    fn drain(&self, listening: &mut Listening) {
        self.draining.set(true);
        for (_, task) in listening.drain() {
            task.abort();
        }
        self.wake_connections();
    }

    fn wake_connections(&self) {
        for (_, entry) in self.connections.borrow().iter() {
            if let Some(waker) = &entry.waker {
                waker.wake_by_ref();
            }
        }
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Open connections on the sockets with this id.
    pub fn connections_of(&self, sockets: u64) -> usize {
        self.open.borrow().get(&sockets).copied().unwrap_or(0)
    }

    /// Counts a connection in; the key is for [`Worker::leave`].
    pub fn enter(&self, sockets: u64) -> usize {
        *self.open.borrow_mut().entry(sockets).or_default() += 1;
        self.connections.borrow_mut().insert(Entry { sockets, waker: None })
    }

    /// Who is to be woken when this connection has to look at the worker again.
    pub fn watch(&self, connection: usize, waker: &Waker) {
        if let Some(entry) = self.connections.borrow_mut().get_mut(connection) {
            entry.waker = Some(waker.clone());
        }
    }

    pub fn leave(&self, connection: usize) {
        let Some(Entry { sockets, .. }) = self.connections.borrow_mut().try_remove(connection) else {
            return;
        };
        let mut open = self.open.borrow_mut();
        if let Some(count) = open.get_mut(&sockets) {
            *count -= 1;
            if *count == 0 {
                open.remove(&sockets);
            }
        }
    }

    /// Uniform, fast, not for secrets (xorshift64*).
    pub fn random(&self) -> u64 {
        let mut state = self.random.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.random.set(state);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 32 hex digits. Unique, not secret.
    pub fn new_request_id(&self) -> HeaderValue {
        let mut text = [0; 32];
        for digits in text.as_chunks_mut::<16>().0 {
            *digits = hexadecimal(self.random());
        }
        HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&text)).unwrap_or(HeaderValue::from_static(""))
    }

    pub fn upstream_answered(&self, endpoint: &EndpointPool, status: StatusCode, took: Duration) {
        let series = self.endpoint(endpoint);
        self.tally
            .borrow_mut()
            .upstream_response(series, status.as_u16(), took.as_secs_f64());
        if let Some(rules) = &endpoint.terms.outlier {
            let in_a_row = endpoint.endpoint.answered(self.index, status);
            rules.ring(in_a_row, &endpoint.terms.standing);
        }
    }

    pub fn upstream_failed(&self, endpoint: &EndpointPool, kind: &'static str) {
        let is_shown = UPSTREAM_FAILURES.contains(&kind) || kind.starts_with("service_");
        debug_assert!(is_shown, "{kind} is not shown from zero");
        let series = self.endpoint(endpoint);
        self.tally.borrow_mut().upstream_failure(series, kind);
        if let Some(rules) = &endpoint.terms.outlier {
            let in_a_row = endpoint.endpoint.failed(self.index);
            rules.ring(in_a_row, &endpoint.terms.standing);
        }
    }

    /// A tunnel to the endpoint broke, which what passed through it may have made it do: it is counted, and speaks against
    /// nobody.
    pub fn tunnel_broke(&self, endpoint: &EndpointPool, kind: &'static str) {
        let series = self.endpoint(endpoint);
        self.tally.borrow_mut().upstream_failure(series, kind);
    }

    /// A try at the endpoint failed for this reason, and this came of it.
    pub fn upstream_retry(&self, endpoint: &EndpointPool, reason: &'static str, outcome: &'static str) {
        let series = self.endpoint(endpoint);
        self.tally.borrow_mut().upstream_retry(series, reason, outcome);
    }

    /// A copy of a request went to the cluster.
    pub fn mirrored(&self, cluster: &str, outcome: &'static str) {
        self.tally.borrow_mut().upstream_mirrored(cluster, outcome);
    }

    /// A request goes over this connection.
    pub fn upstream_taken(&self, endpoint: &EndpointPool, channel: &pool::Channel) {
        let series = self.endpoint(endpoint);
        let mut tally = self.tally.borrow_mut();
        match channel.is_reused() {
            true => tally.upstream_reused(series),
            false => tally.upstream_opened(series),
        }
    }

    fn endpoint(&self, endpoint: &EndpointPool) -> EndpointSeries {
        endpoint.series(|| {
            self.tally
                .borrow_mut()
                .endpoint(endpoint.terms.name(), &endpoint.endpoint.label)
        })
    }

    /// Whether the filter still takes exchanges: of two versions, one may have lost its office.
    pub fn uses(&self, filter: &wasm::Filter) -> bool {
        let pinned = self.pin();
        pinned.snapshot.trials.iter().all(|trial| trial.uses(filter.name()))
    }

    /// A background hook of a filter has come to its end.
    pub fn ticked(
        &self,
        filter: &wasm::Filter,
        hook: Hook,
        took: Duration,
        computed: Duration,
        metrics: Vec<wasm::GuestMetric>,
    ) {
        let mut tally = self.tally.borrow_mut();
        let series = tally.filter(filter.name());
        tally.filter_call(series, hook, took, computed);
        drop(tally);
        self.count(series, metrics);
    }

    pub fn tick_failed(&self, filter: &wasm::Filter, failure: Failure, detail: &str) {
        let mut tally = self.tally.borrow_mut();
        let series = tally.filter(filter.name());
        // No exchange is skipped or fails with it.
        tally.filter_failure(series, Hook::Tick, failure.as_str(), OnFailure::Open.as_str());
        tracing::warn!(
            filter = &**filter.name(),
            hook = Hook::Tick.as_str(),
            failure = failure.as_str(),
            detail,
            "filter failed"
        );
    }

    /// What a guest counted.
    fn count(&self, series: FilterSeries, metrics: Vec<wasm::GuestMetric>) {
        let mut tally = self.tally.borrow_mut();
        for wasm::GuestMetric { name, labels, change } in metrics {
            match change {
                wasm::Change::CounterAdd(by) => tally.filter_counter(series, &name, labels, by),
                wasm::Change::GaugeSet(value) => tally.filter_gauge(series, &name, labels, value),
                wasm::Change::HistogramObserve(value) => tally.filter_histogram(series, &name, labels, value),
            }
        }
    }

    fn report(&self) -> WorkerReport {
        let (mut guests, endpoints) = (self.guests.usage(), self.upstreams.usage());
        guests.extend(
            self.middlewares
                .usage()
                .into_iter()
                .map(|(name, usage)| (name, usage.into())),
        );
        self.weigh(&guests);
        self.count_connections(&endpoints);
        WorkerReport {
            counts: self.tally.borrow().report(),
            endpoints,
            guests,
            connections: self.connections() + self.settling.get(),
            exchanges: self.exchanges(),
        }
    }

    /// Brings the gauges of connections to upstreams up to date.
    fn count_connections(&self, endpoints: &[EndpointUsage]) {
        let mut now: HashMap<(String, String), usize> = HashMap::new();
        for usage in endpoints {
            *now.entry((usage.cluster.clone(), usage.endpoint.clone())).or_default() += usage.open;
        }
        let mut before = self.counted.borrow_mut();
        let names: HashSet<_> = before.keys().chain(now.keys()).cloned().collect();
        let mut tally = self.tally.borrow_mut();
        for name in names {
            let of = |counts: &HashMap<_, usize>| counts.get(&name).map_or(0, |count| *count as i64);
            let (old, new) = (of(&before), of(&now));
            if new != old {
                let series = tally.endpoint(&name.0, &name.1);
                tally.upstream_connections(series, new - old);
            }
        }
        *before = now;
    }

    /// Brings the gauges of guests up to date.
    fn weigh(&self, guests: &[(Arc<str>, wasm::Usage)]) {
        let mut now: HashMap<Arc<str>, wasm::Usage> = HashMap::new();
        for (filter, usage) in guests {
            let sum = now.entry(Arc::clone(filter)).or_default();
            sum.live += usage.live;
            sum.idle += usage.idle;
            sum.waiting += usage.waiting;
            sum.memory_bytes += usage.memory_bytes;
        }
        let mut before = self.weighed.borrow_mut();
        let names: HashSet<Arc<str>> = before.keys().chain(now.keys()).cloned().collect();
        let mut tally = self.tally.borrow_mut();
        for name in names {
            let (old, new) = (
                before.get(&name).copied().unwrap_or_default(),
                now.get(&name).copied().unwrap_or_default(),
            );
            let series = tally.filter(&name);
            let more = |new: usize, old: usize| new as i64 - old as i64;
            tally.filter_instances(series, more(new.live as usize, old.live as usize));
            tally.filter_memory(series, more(new.memory_bytes, old.memory_bytes));
            tally.filter_queue(series, more(new.idle, old.idle), more(new.waiting, old.waiting));
        }
        *before = now;
    }
}

impl Pinned {
    fn new(snapshot: Arc<Snapshot>) -> Self {
        let cells = |count| (0..count).map(|_| Cell::new(None)).collect();
        Self {
            upstreams: snapshot.clusters.iter().map(|_| OnceCell::new()).collect(),
            guests: snapshot.guests.iter().map(|_| OnceCell::new()).collect(),
            middlewares: snapshot.middlewares.iter().map(|_| OnceCell::new()).collect(),
            filters: (0..snapshot.filters.len()).map(|_| Cell::new(None)).collect(),
            routes: cells(snapshot.listeners.len() * (snapshot.routes.len() + 1)),
            snapshot,
        }
    }

    /// The worker's connections to the cluster with this number.
    pub fn upstreams(&self, worker: &Worker, cluster: usize) -> Rc<ClusterPool> {
        Rc::clone(self.upstreams[cluster].get_or_init(|| worker.upstreams.of(&self.snapshot.clusters[cluster])))
    }

    /// What requests of this listener and route are counted under.
    pub fn series(&self, worker: &Worker, listener: usize, route: Option<usize>) -> RouteSeries {
        let routes = self.snapshot.routes.len();
        let cell = &self.routes[listener * (routes + 1) + route.unwrap_or(routes)];
        cell.get().unwrap_or_else(|| {
            let route = route.map_or(UNMATCHED, |route| &self.snapshot.routes[route].name);
            let series = worker
                .tally
                .borrow_mut()
                .route(&self.snapshot.listeners[listener].name, route);
            cell.set(Some(series));
            series
        })
    }

    fn filter(&self, worker: &Worker, index: usize) -> FilterSeries {
        let cell = &self.filters[index];
        cell.get().unwrap_or_else(|| {
            let series = worker.tally.borrow_mut().filter(&self.snapshot.filters[index]);
            cell.set(Some(series));
            series
        })
    }
}

/// Where chains are walked: one worker, one generation, one listener and route.
pub struct Scene {
    pub worker: Rc<Worker>,
    pub pinned: Rc<Pinned>,
    /// Index of the listener.
    pub listener: usize,
    /// Index of the route, if one matched.
    pub route: Option<usize>,
}

impl Scene {
    /// The listener's chain, then the route's.
    pub fn chains(&self) -> [&Chain; 2] {
        static NONE: Chain = Chain { steps: Vec::new() };
        let snapshot = &self.pinned.snapshot;
        [
            &snapshot.listeners[self.listener].chain,
            self.route.map_or(&NONE, |route| &snapshot.routes[route].chain),
        ]
    }

    pub fn has_filters(&self) -> bool {
        self.chains().iter().any(|chain| !chain.steps.is_empty())
    }

    /// Those that the route names.
    pub fn clusters(&self) -> Clusters {
        let snapshot = &self.pinned.snapshot;
        match self.route.map(|route| &snapshot.routes[route].action) {
            Some(Action::Clusters { choices, .. }) => Clusters::new(choices.iter().map(|choice| choice.name)),
            _ => Clusters::default(),
        }
    }
}

impl Floor for Scene {
    fn guests(&self, filter: &Arc<wasm::Filter>, slot: usize) -> Rc<wasm::Pool> {
        Rc::clone(self.pinned.guests[slot].get_or_init(|| self.worker.guests.of(filter)))
    }

    fn instances(&self, middleware: &Middleware, slot: usize) -> Rc<wasm::http::Pool> {
        let pools = &self.worker.middlewares;
        Rc::clone(self.pinned.middlewares[slot].get_or_init(|| pools.of(&middleware.service)))
    }

    fn called(&self, step: &Step, hook: Hook, took: Duration, cpu: Duration) {
        let series = self.pinned.filter(&self.worker, step.index);
        let mut tally = self.worker.tally.borrow_mut();
        tally.filter_call(series, hook, took, cpu);
    }

    fn took(&self, step: &Step, hook: Hook, since: Instant, awaited: Duration) {
        if let Some(part) = &step.part
            && part.trial.is_open()
        {
            part.took(self.worker.index, hook, since.elapsed().saturating_sub(awaited));
        }
    }

    fn replied(&self, step: &Step, status: StatusCode) {
        if let Some(part) = &step.part {
            part.replied(self.worker.index);
        }
        let series = self.pinned.filter(&self.worker, step.index);
        self.worker.tally.borrow_mut().filter_reply(series, status.as_u16());
    }

    fn failed(&self, step: &Step, hook: Hook, policy: OnFailure, (failure, detail): (Failure, &str), request_id: &str) {
        if let Some(part) = &step.part {
            part.failed(self.worker.index);
        }
        let series = self.pinned.filter(&self.worker, step.index);
        self.worker
            .tally
            .borrow_mut()
            .filter_failure(series, hook, failure.as_str(), policy.as_str());
        if failure == Failure::Breaker {
            // It was not called, and what made it fail before has been told.
            return;
        }
        tracing::warn!(
            filter = &*step.name,
            hook = hook.as_str(),
            failure = failure.as_str(),
            policy = policy.as_str(),
            detail,
            request_id,
            "filter failed"
        );
    }

    fn counted(&self, step: &Step, metrics: Vec<wasm::GuestMetric>) {
        let series = self.pinned.filter(&self.worker, step.index);
        self.worker.count(series, metrics);
    }
}

fn names(snapshot: &Snapshot) -> LiveNames {
    let endpoints = |cluster: &crate::cluster::Cluster| {
        let members = cluster.members();
        let labels = members.list.iter().map(|member| member.endpoint.label.clone());
        labels.collect()
    };
    LiveNames {
        listeners: snapshot
            .listeners
            .iter()
            .map(|listener| listener.name.to_string())
            .collect(),
        routes: snapshot.routes.iter().map(|route| route.name.to_string()).collect(),
        clusters: snapshot
            .clusters
            .iter()
            .map(|cluster| (cluster.name().to_owned(), endpoints(cluster)))
            .collect(),
        filters: snapshot.filters.iter().map(|name| name.to_string()).collect(),
    }
}

/// All digits at once; one after the other, they took 1 % of a small request.
fn hexadecimal(number: u64) -> [u8; 16] {
    const ONES: u128 = u128::from_ne_bytes([1; 16]);
    let mut nibbles = u128::from(number);
    // Each group of bits gives its upper half to a group of its own, until every byte holds four bits.
    for (shift, kept) in [
        (32, 0x00000000_ffffffff_00000000_ffffffff),
        (16, 0x0000ffff_0000ffff_0000ffff_0000ffff),
        (8, 0x00ff00ff_00ff00ff_00ff00ff_00ff00ff),
        (4, 0x0f0f0f0f_0f0f0f0f_0f0f0f0f_0f0f0f0f),
    ] {
        nibbles = (nibbles | nibbles << shift) & kept;
    }
    let letters = ((nibbles + 6 * ONES) >> 4) & ONES;
    (nibbles + u128::from(b'0') * ONES + letters * u128::from(b'a' - b'9' - 1)).to_be_bytes()
}

/// Another one for each worker and each start; never zero, which xorshift cannot leave.
fn seed(index: usize) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one((index, SystemTime::now())) | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn digits_are_hexadecimal(number: u64) {
            prop_assert_eq!(hexadecimal(number).to_vec(), format!("{number:016x}").into_bytes());
        }
    }
}
