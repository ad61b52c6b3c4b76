//! A worker's connections to upstream endpoints.
//!
//! Data plane; one thread only. An idle connection that speaks HTTP/1.1 has no task and no buffer: before it is handed
//! out, and once in every sweep, it is asked whether the peer has closed it or spoken out of turn; such a connection is
//! never used again. The one that was used last is used next. One that speaks HTTP/2 carries many requests, and has a task
//! that moves it; another one is opened only when all are full, one at a time. An endpoint's connections are kept as long as any cluster with the same terms has
//! the endpoint, whatever else changes about it. How an endpoint is chosen is [`balance`](crate::balance)'s; nothing here
//! reads HTTP.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::uri::Scheme;
use http::{HeaderValue, Version};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::balance::Lineup;
use crate::cluster::{Asker, Cluster, Limit, Protocol, Roll, Terms};
use crate::counted::Counted;
use crate::endpoint::Endpoint;
use crate::http2::{self, Offer, Told};
use crate::outbound::Desk;
use crate::retry::budget::Account;
use crate::stream::Stream;
use crate::telemetry::metrics::EndpointSeries;
use crate::tls;
use crate::wasm;
use crate::wasm::http::Unplaced;

/// Between two words on connections that fail, for one endpoint and worker.
const COMPLAINT: std::time::Duration = std::time::Duration::from_secs(10);

/// A request that a server refuses for want of room is not sent to it for ever.
const MAX_REPEATS: u32 = 1;

/// Everything that one worker keeps for upstreams.
pub struct Pools {
    /// Where components that serve leave their own calls.
    desk: Desk,
    clusters: RefCell<HashMap<u64, Rc<ClusterPool>>>,
    /// By the id of their terms.
    shares: RefCell<HashMap<u64, Rc<Share>>>,
}

impl Pools {
    pub fn new(desk: Desk) -> Self {
        Self {
            desk,
            clusters: RefCell::default(),
            shares: RefCell::default(),
        }
    }

    /// The cluster's pool, made at its first use.
    pub fn of(&self, cluster: &Arc<Cluster>) -> Rc<ClusterPool> {
        let mut clusters = self.clusters.borrow_mut();
        let pool = clusters.entry(cluster.id()).or_insert_with(|| {
            let mut shares = self.shares.borrow_mut();
            let share = shares
                .entry(cluster.terms.id())
                .or_insert_with(|| Rc::new(Share::new(Arc::clone(&cluster.terms), self.desk.clone())));
            Rc::new(ClusterPool::new(Arc::clone(cluster), Rc::clone(share)))
        });
        Rc::clone(pool)
    }

    /// Closes the idle connections of clusters that are no longer wanted; busy ones end with their exchange. A cluster
    /// that takes the place of another one of the same terms takes over its connections.
    pub fn retain(&self, wanted: &[Arc<Cluster>]) {
        for cluster in wanted {
            let takes_over = self.shares.borrow().contains_key(&cluster.terms.id());
            if takes_over {
                self.of(cluster);
            }
        }
        let wanted: HashSet<u64> = wanted.iter().map(|cluster| cluster.id()).collect();
        self.clusters.borrow_mut().retain(|id, _| wanted.contains(id));
        self.prune();
    }

    /// Closes connections that were idle for too long, and forgets those that the peer closed. True when endpoints were
    /// let go of.
    pub fn sweep(&self, now: Instant) -> bool {
        for pool in self.clusters.borrow().values() {
            pool.refresh(now);
        }
        let is_stale = self.shares.borrow().values().any(|share| share.is_stale.get());
        if is_stale {
            self.prune();
        }
        for share in self.shares.borrow().values() {
            for pool in share.endpoints.borrow().values() {
                let keep =
                    |idle: &Idle| now.duration_since(idle.since) < share.terms.idle_timeout && idle.stream.is_quiet();
                pool.idle.borrow_mut().retain(keep);
                pool.sweep_shared(now);
            }
        }
        is_stale
    }

    /// Lets go of endpoints that no cluster has any more.
    fn prune(&self) {
        let clusters = self.clusters.borrow();
        self.shares.borrow_mut().retain(|_, share| {
            let users = clusters.values().filter(|pool| Rc::ptr_eq(&pool.share, share));
            let wanted: HashSet<u64> = users.flat_map(|pool| pool.endpoint_ids()).collect();
            let mut endpoints = share.endpoints.borrow_mut();
            let gone = endpoints.extract_if(|id, _| !wanted.contains(id));
            gone.for_each(|(_, pool)| pool.retire());
            share.is_stale.set(false);
            !endpoints.is_empty() || clusters.values().any(|pool| Rc::ptr_eq(&pool.share, share))
        });
    }

    /// Each endpoint with its idle connections and requests in flight.
    pub fn usage(&self) -> Vec<EndpointUsage> {
        let shares = self.shares.borrow();
        shares.values().flat_map(|share| share.usage()).collect()
    }
}

/// What one worker has at one endpoint.
#[derive(Clone, Debug)]
pub struct EndpointUsage {
    pub cluster: String,
    pub endpoint: String,
    pub idle: usize,
    pub in_flight: u32,
    /// Connections, idle ones and others.
    pub open: usize,
    /// Of a component.
    pub instances: Option<wasm::http::Usage>,
}

/// What clusters of the same terms have in common in one worker.
struct Share {
    terms: Arc<Terms>,
    desk: Desk,
    /// By the endpoint's id.
    endpoints: RefCell<HashMap<u64, Rc<EndpointPool>>>,
    counts: Rc<Counts>,
    retries: Rc<Account>,
    /// Endpoints have come, or lineups have changed, since it was last pruned.
    is_stale: Cell<bool>,
}

/// What is under way to a cluster.
#[derive(Default)]
struct Counts {
    requests: Cell<usize>,
    connections: Cell<usize>,
    /// Requests that wait for a connection, and those of them that wait for another to be given back.
    pending: Cell<usize>,
    waiting: Cell<usize>,
    freed: Rc<Notify>,
}

impl Share {
    fn new(terms: Arc<Terms>, desk: Desk) -> Self {
        Self {
            desk,
            retries: Rc::new(Account::new(terms.limits.retries, Instant::now())),
            terms,
            endpoints: RefCell::default(),
            counts: Rc::default(),
            is_stale: Cell::new(false),
        }
    }

    fn endpoint(self: &Rc<Self>, endpoint: &Arc<Endpoint>) -> Rc<EndpointPool> {
        let mut endpoints = self.endpoints.borrow_mut();
        let pool = endpoints.entry(endpoint.id()).or_insert_with(|| {
            Rc::new(EndpointPool {
                terms: Arc::clone(&self.terms),
                endpoint: Arc::clone(endpoint),
                idle: RefCell::default(),
                shared: RefCell::default(),
                is_opening: Cell::new(false),
                opened: Notify::new(),
                vacancy: Rc::default(),
                speaks_http1: Cell::new(false),
                instances: self
                    .terms
                    .service
                    .as_ref()
                    .map(|service| Rc::new(wasm::http::Pool::new(service, &self.desk))),
                open: Rc::default(),
                in_flight: Cell::new(0),
                series: OnceCell::new(),
                complained: Cell::new(None),
                is_retired: Cell::new(false),
                counts: Rc::clone(&self.counts),
            })
        });
        Rc::clone(pool)
    }

    /// Closes the idle connection that has waited longest of its endpoint's. One that speaks HTTP/2 takes leave first, so
    /// that its place is free only a moment later.
    fn evict(&self) -> bool {
        let endpoints = self.endpoints.borrow();
        let mut idle = endpoints.values().map(|pool| &pool.idle);
        let found = idle.find(|idle| !idle.borrow().is_empty());
        let Some(idle) = found else {
            endpoints.values().any(|pool| pool.part_idle());
            return false;
        };
        let closed = idle.borrow_mut().remove(0);
        drop(closed);
        true
    }

    fn usage(&self) -> Vec<EndpointUsage> {
        let endpoints = self.endpoints.borrow();
        let usage = |pool: &Rc<EndpointPool>| EndpointUsage {
            cluster: self.terms.name().to_owned(),
            endpoint: pool.endpoint.label.clone(),
            idle: pool.idle.borrow().len() + pool.idle_shared(),
            in_flight: pool.in_flight.get(),
            open: pool.open.get(),
            instances: pool.instances.as_ref().map(|instances| instances.usage()),
        };
        endpoints.values().map(usage).collect()
    }
}

/// One cluster's connections and turns in one worker.
pub struct ClusterPool {
    pub cluster: Arc<Cluster>,
    share: Rc<Share>,
    view: RefCell<View>,
}

/// What an epoch looks like from here.
struct View {
    epoch: u64,
    roll: Arc<Roll>,
    lineup: Lineup,
    /// By member.
    endpoints: Vec<Rc<EndpointPool>>,
    /// When weights change by themselves.
    holds_until: Option<Instant>,
}

/// An endpoint for a request.
pub struct Picked {
    pub endpoint: Rc<EndpointPool>,
    /// `Set-Cookie`, by which the client will come back to it.
    pub cookie: Option<HeaderValue>,
}

impl ClusterPool {
    fn new(cluster: Arc<Cluster>, share: Rc<Share>) -> Self {
        let view = View::new(&cluster, &share, None, Instant::now());
        Self {
            view: RefCell::new(view),
            cluster,
            share,
        }
    }

    /// An endpoint, none of `tried` (their ids); `random` gives uniform numbers. `asker` is there when the cluster
    /// [asks](Cluster::asks).
    pub fn pick(&self, asker: Option<&Asker<'_>>, tried: &[u64], random: impl FnMut() -> u64) -> Option<Picked> {
        self.keep_up();
        let view = self.view.borrow();
        let Some(asker) = asker else {
            let member = view.pick(None, tried, random)?;
            return Some(Picked {
                endpoint: Rc::clone(&view.endpoints[member]),
                cookie: None,
            });
        };
        let sticky = self.cluster.sticky.as_ref();
        let remembered = sticky.and_then(|sticky| sticky.member(&view.roll.tokens, asker.headers));
        let can_take =
            |member: &usize| view.lineup.is_usable(*member) && !tried.contains(&view.endpoints[*member].endpoint.id());
        if let Some(member) = remembered.filter(can_take) {
            return Some(Picked {
                endpoint: Rc::clone(&view.endpoints[member]),
                cookie: None,
            });
        }
        let member = view.pick(self.cluster.hash(asker), tried, random)?;
        Some(Picked {
            endpoint: Rc::clone(&view.endpoints[member]),
            cookie: sticky.and_then(|sticky| sticky.field(&view.roll.tokens, member, asker.is_secure)),
        })
    }

    /// What of the cluster's requests was sent once more.
    pub fn retries(&self) -> &Rc<Account> {
        &self.share.retries
    }

    /// Looks at the epoch, which is all that a request does here when nothing has changed.
    #[inline]
    fn keep_up(&self) {
        let view = self.view.borrow();
        if view.epoch == self.cluster.epoch().number() && view.holds_until.is_none() {
            return;
        }
        drop(view);
        self.refresh(Instant::now());
    }

    #[cold]
    fn refresh(&self, now: Instant) {
        let mut view = self.view.borrow_mut();
        let is_due = view.holds_until.is_some_and(|until| until <= now);
        if view.epoch != self.cluster.epoch().number() || is_due {
            *view = View::new(&self.cluster, &self.share, Some(&view), now);
        }
    }

    fn endpoint_ids(&self) -> Vec<u64> {
        let view = self.view.borrow();
        view.endpoints.iter().map(|pool| pool.endpoint.id()).collect()
    }
}

impl View {
    fn new(cluster: &Cluster, share: &Rc<Share>, before: Option<&Self>, now: Instant) -> Self {
        // The number first: what changes after it was read moves it once more.
        let epoch = cluster.epoch().number();
        let roll = match before {
            Some(before) if Arc::ptr_eq(&before.roll, &cluster.roll()) => Arc::clone(&before.roll),
            _ => cluster.roll(),
        };
        let lineup = Lineup::new(
            Arc::clone(&roll.members),
            cluster.rules,
            before.map(|before| &before.lineup),
            now.into_std(),
        );
        let endpoints = match before {
            Some(before) if Arc::ptr_eq(&before.roll, &roll) => before.endpoints.clone(),
            _ => {
                share.is_stale.set(true);
                let members = roll.members.list.iter();
                members.map(|member| share.endpoint(&member.endpoint)).collect()
            }
        };
        Self {
            epoch,
            holds_until: lineup.holds_for.map(|period| now + period),
            roll,
            lineup,
            endpoints,
        }
    }

    fn pick(&self, key: Option<u64>, tried: &[u64], random: impl FnMut() -> u64) -> Option<usize> {
        let load = |member: usize| self.endpoints[member].in_flight.get();
        self.lineup.pick(key, tried, load, random)
    }
}

/// One worker's connections to one endpoint.
pub struct EndpointPool {
    pub terms: Arc<Terms>,
    pub endpoint: Arc<Endpoint>,
    idle: RefCell<Vec<Idle>>,
    /// Those that speak HTTP/2, busy or not, as long as they take requests.
    shared: RefCell<Vec<Rc<http2::Client>>>,
    /// One that may turn out to speak HTTP/2 is being opened, and who is told when it is there.
    is_opening: Cell<bool>,
    opened: Notify,
    /// A place on one of them is free.
    vacancy: Rc<Notify>,
    /// What was agreed on last, where that is open.
    speaks_http1: Cell<bool>,
    /// Of a component that serves.
    instances: Option<Rc<wasm::http::Pool>>,
    open: Rc<Cell<usize>>,
    /// Requests that this worker has under way.
    in_flight: Cell<u32>,
    series: OnceCell<EndpointSeries>,
    /// No cluster has it any more: what is under way ends, and nothing is kept.
    is_retired: Cell<bool>,
    counts: Rc<Counts>,
    /// When a connection that failed was last told of.
    complained: Cell<Option<Instant>>,
}

struct Idle {
    stream: Stream,
    open: Open,
    since: Instant,
}

/// Counts a connection among those of its endpoint and its cluster until it is closed.
struct Open {
    endpoint: Rc<Cell<usize>>,
    counts: Rc<Counts>,
}

impl Open {
    fn among(pool: &EndpointPool) -> Self {
        pool.open.set(pool.open.get() + 1);
        pool.counts.connections.set(pool.counts.connections.get() + 1);
        Self {
            endpoint: Rc::clone(&pool.open),
            counts: Rc::clone(&pool.counts),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.endpoint.set(self.endpoint.get() - 1);
        self.counts.connections.set(self.counts.connections.get() - 1);
        self.counts.free();
    }
}

impl Counts {
    /// A connection may be had now that could not before.
    fn free(&self) {
        if self.waiting.get() > 0 {
            self.freed.notify_one();
        }
    }
}

/// A way to an endpoint, for one request.
pub enum Channel {
    Http1(Connection),
    Http2(http2::Slot),
    /// A place in an instance of a component.
    Service(wasm::http::Place),
}

impl Channel {
    /// Whether its connection has carried a request before.
    pub fn is_reused(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.reused,
            Self::Http2(slot) => slot.is_reused(),
            Self::Service(place) => place.is_reused(),
        }
    }

    /// What is spoken over it.
    pub fn version(&self) -> Version {
        match self {
            Self::Http1(_) | Self::Service(_) => Version::HTTP_11,
            Self::Http2(_) => Version::HTTP_2,
        }
    }

    /// Whether a request of which the server took nothing may try once more, after so many tries. In HTTP/1.1 that tells
    /// of an idle connection that was closed just now, and each such connection is gone; in HTTP/2 the server says so,
    /// and may say so again.
    pub fn may_repeat(&self, repeats: u32) -> bool {
        match self {
            Self::Http1(connection) => connection.reused,
            Self::Http2(_) => repeats < MAX_REPEATS,
            Self::Service(_) => false,
        }
    }
}

/// What keeps a connection from being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    /// One that may do for all is being opened.
    Opening,
    /// There are as many as there may be.
    Limit,
}

/// Until an opening is over, however it ends.
struct Opening<'a>(&'a EndpointPool);

impl<'a> Opening<'a> {
    fn begin(pool: &'a EndpointPool) -> Self {
        pool.is_opening.set(true);
        Self(pool)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.is_opening.set(false);
        self.0.opened.notify_waiters();
    }
}

/// A connection to an endpoint, for one request at a time. Dropped rather than put back, it is cut: a body that is still
/// being written to it, or read from it, belongs to an exchange that is over.
pub struct Connection {
    pub stream: Stream,
    /// Whether it has carried a request before, so that the peer may be closing it right now.
    pub reused: bool,
    open: Open,
    home: Rc<EndpointPool>,
}

impl Connection {
    /// Keeps it for another request, if there is room.
    pub fn put_back(self, now: Instant) {
        let mut idle = self.home.idle.borrow_mut();
        if idle.len() < self.home.terms.max_idle && !self.home.is_retired.get() {
            idle.push(Idle {
                stream: self.stream,
                open: self.open,
                since: now,
            });
            self.home.counts.free();
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Unconnected {
    Failed(io::Error),
    /// The cluster has as many of these as it may have.
    Overload(Limit),
}

/// Whether a connection failed for want of something on this side: ports, descriptors, memory.
pub fn is_ours(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let ours = [
        Errno::ADDRNOTAVAIL,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
    ];
    ours.iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl From<io::Error> for Unconnected {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// A request that is under way to an endpoint until this is dropped.
pub struct Turn(Rc<EndpointPool>);

impl Turn {
    pub fn endpoint(&self) -> &Rc<EndpointPool> {
        &self.0
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        let requests = &self.0.counts.requests;
        requests.set(requests.get() - 1);
    }
}

impl EndpointPool {
    /// `None` when the cluster has as many requests under way as it may have, besides one whose place this may take.
    pub fn begin(self: Rc<Self>, instead_of: Option<&Turn>) -> Option<Turn> {
        let requests = &self.counts.requests;
        if requests.get() - usize::from(instead_of.is_some()) >= self.terms.limits.requests {
            self.terms.standing.overflowed(Limit::Requests);
            return None;
        }
        requests.set(requests.get() + 1);
        self.in_flight.set(self.in_flight.get() + 1);
        Some(Turn(self))
    }

    /// What the endpoint's requests are counted under; looked up once.
    pub fn series(&self, look_up: impl FnOnce() -> EndpointSeries) -> EndpointSeries {
        *self.series.get_or_init(look_up)
    }

    /// A way that is open already.
    #[inline]
    pub fn ready(self: &Rc<Self>) -> Option<Channel> {
        match self.terms.protocol {
            Protocol::Http1 => self.idle().map(Channel::Http1),
            Protocol::Http2 | Protocol::Agreed => self.ready_shared(),
            Protocol::Component => self.instances.as_ref()?.ready().map(Channel::Service),
        }
    }

    #[cold]
    fn ready_shared(self: &Rc<Self>) -> Option<Channel> {
        let mut found = None;
        self.shared.borrow_mut().retain(|client| match found {
            Some(_) => true,
            None => match client.offer() {
                Offer::Slot(slot) => {
                    found = Some(Channel::Http2(slot));
                    true
                }
                Offer::Full => true,
                Offer::Over => false,
            },
        });
        found.or_else(|| self.idle().map(Channel::Http1))
    }

    /// Whether requests wait for a connection that another one opens, because it may be for all of them.
    fn shares(&self) -> bool {
        match self.terms.protocol {
            Protocol::Http1 | Protocol::Component => false,
            Protocol::Http2 => true,
            Protocol::Agreed => !self.speaks_http1.get(),
        }
    }

    /// Whether there was an idle one that speaks HTTP/2, which is closed now.
    fn part_idle(&self) -> bool {
        let mut shared = self.shared.borrow_mut();
        let idle = shared.iter().position(|client| client.idle_since().is_some());
        idle.is_some_and(|index| {
            shared.remove(index).part();
            true
        })
    }

    fn sweep_shared(&self, now: Instant) {
        if let Some(instances) = &self.instances {
            instances.sweep(now);
        }
        let keep = |client: &Rc<http2::Client>| {
            let keep = client
                .idle_since()
                .is_none_or(|since| now.duration_since(since) < self.terms.idle_timeout);
            if !keep {
                client.part();
            }
            keep
        };
        self.shared.borrow_mut().retain(keep);
    }

    fn idle_shared(&self) -> usize {
        let shared = self.shared.borrow();
        shared.iter().filter(|client| client.idle_since().is_some()).count()
    }

    /// The idle connection that was used last and is still good; the others that are looked at are closed.
    fn idle(self: &Rc<Self>) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let Idle { stream, open, .. } = std::iter::from_fn(|| idle.pop()).find(|idle| idle.stream.is_quiet())?;
        Some(Connection {
            stream,
            reused: true,
            open,
            home: Rc::clone(self),
        })
    }

    /// A connection within the cluster's limits: a new one, or one that was given back meanwhile. Waits for either when
    /// there are as many as there may be. `until` bounds both beside the cluster's own time for connecting. It is for this
    /// client, who connected to this address; both are only for those clusters that want to know.
    pub async fn connect(
        self: &Rc<Self>,
        pool: &ClusterPool,
        client: Option<SocketAddr>,
        local: Option<SocketAddr>,
        until: Option<Instant>,
    ) -> Result<Channel, Unconnected> {
        if self.counts.pending.get() >= self.terms.limits.pending {
            return Err(self.overload(Limit::Pending));
        }
        let _pending = Counted::among(&self.counts.pending);
        if let Some(instances) = &self.instances {
            return self.place(instances).await;
        }
        let deadline = Instant::now() + self.terms.connect_timeout;
        let deadline = until.map_or(deadline, |until| until.min(deadline));
        while let Some(obstacle) = self.obstacle(pool) {
            let _waiting = Counted::among(&self.counts.waiting);
            if tokio::time::timeout_at(deadline, self.way_free(obstacle))
                .await
                .is_err()
            {
                return Err(match obstacle {
                    Obstacle::Opening => io::Error::from(io::ErrorKind::TimedOut).into(),
                    Obstacle::Limit => self.overload(Limit::Connections),
                });
            }
            if let Some(ready) = self.ready() {
                return Ok(ready);
            }
        }
        let opened = tokio::time::timeout_at(deadline, self.open(client, local)).await;
        let opened = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        Ok(opened.inspect_err(|error| self.complain(error))?)
    }

    /// A new connection.
    async fn open(self: &Rc<Self>, client: Option<SocketAddr>, local: Option<SocketAddr>) -> io::Result<Channel> {
        let _opening = self.shares().then(|| Opening::begin(self));
        // Counted before it is open: others see at once that there is one more.
        let open = Open::among(self);
        let stream = open_stream(&self.terms, &self.endpoint, client, local).await?;
        if self.terms.protocol != Protocol::Http1 && speaks_http2(&self.terms, &stream)? {
            return Box::pin(self.share(stream, open)).await;
        }
        self.speaks_http1.set(true);
        Ok(Channel::Http1(Connection {
            stream,
            reused: false,
            open,
            home: Rc::clone(self),
        }))
    }

    /// A place in an instance of the component.
    async fn place(&self, instances: &Rc<wasm::http::Pool>) -> Result<Channel, Unconnected> {
        let placed = instances.place(self.terms.connect_timeout).await;
        placed.map(Channel::Service).map_err(|unplaced| match unplaced {
            Unplaced::Busy(_) | Unplaced::NoRoom => self.overload(Limit::Connections),
            Unplaced::Failed(why) => Unconnected::Failed(io::Error::other(why)),
        })
    }

    /// Why no connection may be opened now.
    fn obstacle(&self, pool: &ClusterPool) -> Option<Obstacle> {
        if self.shares() && self.is_opening.get() {
            return Some(Obstacle::Opening);
        }
        let is_full = self.counts.connections.get() >= self.terms.limits.connections;
        (is_full && !pool.share.evict()).then_some(Obstacle::Limit)
    }

    /// Until it is worth looking again.
    async fn way_free(&self, obstacle: Obstacle) {
        match obstacle {
            Obstacle::Opening => self.opened.notified().await,
            Obstacle::Limit => tokio::select! {
                () = self.counts.freed.notified() => {}
                () = self.vacancy.notified() => {}
            },
        }
    }

    /// Speaks HTTP/2 over a new connection, for this request and for others.
    async fn share(self: &Rc<Self>, stream: Stream, open: Open) -> io::Result<Channel> {
        let scheme = match self.terms.tls {
            Some(_) => Scheme::HTTPS,
            None => Scheme::HTTP,
        };
        let told = Told {
            vacancy: Rc::clone(&self.vacancy),
            idle: Rc::clone(&self.counts.freed),
        };
        let (client, driver) = http2::open(stream, scheme, &self.terms.http2, told).await?;
        self.speaks_http1.set(false);
        if !self.is_retired.get() {
            self.shared.borrow_mut().push(Rc::clone(&client));
        }
        let offer = client.offer();
        if self.is_retired.get() {
            client.part();
        }
        let (home, driven) = (Rc::clone(self), client);
        tokio::task::spawn_local(async move {
            let end = driver.run().await;
            home.shared.borrow_mut().retain(|client| !Rc::ptr_eq(client, &driven));
            drop(open);
            if let Err(error) = end {
                home.lost(&error);
            }
        });
        match offer {
            Offer::Slot(slot) => Ok(Channel::Http2(slot)),
            // It has gone away meanwhile.
            Offer::Full | Offer::Over => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// An HTTP/2 connection has broken; its requests say so for themselves.
    fn lost(&self, error: &io::Error) {
        let (cluster, endpoint) = (self.terms.name(), &*self.endpoint.label);
        tracing::debug!(cluster, endpoint, %error, "an HTTP/2 connection with an upstream broke");
    }

    fn overload(&self, limit: Limit) -> Unconnected {
        self.terms.standing.overflowed(limit);
        Unconnected::Overload(limit)
    }

    /// Closes what is idle, and keeps nothing that is given back.
    fn retire(&self) {
        self.is_retired.set(true);
        if let Some(instances) = &self.instances {
            instances.retire();
        }
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().drain(..).for_each(|client| client.part());
    }

    /// Why there is no connection is for the operator to mend, so it is told at the usual level of the log, but not for
    /// every request.
    fn complain(&self, error: &io::Error) {
        let now = Instant::now();
        let last = self.complained.get();
        if last.is_some_and(|last| now.duration_since(last) < COMPLAINT) {
            return;
        }
        self.complained.set(Some(now));
        let (cluster, endpoint) = (self.terms.name(), &*self.endpoint.label);
        match tls::is_fault(error) {
            true => {
                let error = tls::explain(error);
                tracing::warn!(cluster, endpoint, error, "a TLS handshake with an upstream failed");
            }
            false => tracing::warn!(cluster, endpoint, %error, "no connection with an upstream"),
        }
    }
}

/// Whether a connection with the cluster's endpoint speaks HTTP/2; fails where it has to and does not.
pub fn speaks_http2(terms: &Terms, stream: &Stream) -> io::Result<bool> {
    let is_agreed = || stream.alpn().is_some_and(|protocol| protocol == b"h2");
    match terms.protocol {
        Protocol::Http1 | Protocol::Component => Ok(false),
        Protocol::Agreed => Ok(is_agreed()),
        Protocol::Http2 if terms.tls.is_none() || is_agreed() => Ok(true),
        Protocol::Http2 => Err(io::Error::other(
            "the server does not agree to speak HTTP/2 (ALPN `h2`)",
        )),
    }
}

/// Connected, and through with the handshake if there is one.
pub async fn open_stream(
    terms: &Terms,
    endpoint: &Endpoint,
    client: Option<SocketAddr>,
    local: Option<SocketAddr>,
) -> io::Result<Stream> {
    let mut stream = Stream::connect(&endpoint.address).await?;
    if let Some(version) = terms.proxy_protocol {
        stream.write_all(&version.header(client, local)).await?;
    }
    if let Some(tls) = &terms.tls {
        stream
            .request_tls(tls, &endpoint.address, endpoint.host.as_deref())
            .await?;
    }
    Ok(stream)
}
