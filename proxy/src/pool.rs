//! A worker's connections to upstream endpoints.
//!
//! Data plane; one thread only. An idle connection has no task and no buffer: before it is handed out, and once in every
//! sweep, it is asked whether the peer has closed it or spoken out of turn; such a connection is never used again. The
//! one that was used last is used next. Nothing here chooses an endpoint or reads HTTP.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::cluster::{Cluster, Turns};
use crate::stream::Stream;
use crate::telemetry::metrics::EndpointSeries;
use crate::tls;

/// Between two words on handshakes that fail, for one cluster and worker.
const COMPLAINT: std::time::Duration = std::time::Duration::from_secs(10);

/// Everything that one worker keeps for upstreams.
#[derive(Default)]
pub struct Pools {
    clusters: RefCell<HashMap<u64, Rc<ClusterPool>>>,
}

impl Pools {
    /// The cluster's pool, made at its first use.
    pub fn of(&self, cluster: &Arc<Cluster>) -> Rc<ClusterPool> {
        let mut clusters = self.clusters.borrow_mut();
        Rc::clone(
            clusters
                .entry(cluster.id())
                .or_insert_with(|| Rc::new(ClusterPool::new(Arc::clone(cluster)))),
        )
    }

    /// Closes the idle connections of clusters that are no longer wanted; busy ones end with their exchange.
    pub fn retain(&self, wanted: impl Fn(u64) -> bool) {
        self.clusters.borrow_mut().retain(|id, _| wanted(*id));
    }

    /// Closes connections that were idle for too long, and forgets those that the peer closed.
    pub fn sweep(&self, now: Instant) {
        for pool in self.clusters.borrow().values() {
            for idle in &pool.idle {
                let keep =
                    |idle: &Idle| now.duration_since(idle.since) < pool.cluster.idle_timeout && idle.stream.is_quiet();
                idle.borrow_mut().retain(keep);
            }
        }
    }

    /// Each endpoint with its idle connections and requests in flight.
    pub fn usage(&self) -> Vec<EndpointUsage> {
        self.clusters.borrow().values().flat_map(|pool| pool.usage()).collect()
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
}

/// One cluster's connections and turns in one worker.
pub struct ClusterPool {
    pub cluster: Arc<Cluster>,
    pub turns: Turns,
    /// By endpoint.
    idle: Vec<RefCell<Vec<Idle>>>,
    /// By endpoint.
    open: Vec<Rc<Cell<usize>>>,
    series: Vec<OnceCell<EndpointSeries>>,
    /// When a handshake that failed was last told of.
    complained: Cell<Option<Instant>>,
}

struct Idle {
    stream: Stream,
    open: Open,
    since: Instant,
}

/// Counts a connection among those of its endpoint until it is closed.
struct Open(Rc<Cell<usize>>);

impl Open {
    fn among(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A connection to an endpoint, for one request at a time. Dropped rather than put back, it is cut: a body that is still
/// being written to it, or read from it, belongs to an exchange that is over.
pub struct Connection {
    pub stream: Stream,
    /// Whether it has carried a request before, so that the peer may be closing it right now.
    pub reused: bool,
    open: Open,
    home: Rc<ClusterPool>,
    endpoint: usize,
}

impl Connection {
    /// Keeps it for another request, if there is room.
    pub fn put_back(self, now: Instant) {
        let mut idle = self.home.idle[self.endpoint].borrow_mut();
        if idle.len() < self.home.cluster.max_idle {
            idle.push(Idle {
                stream: self.stream,
                open: self.open,
                since: now,
            });
        }
    }
}

impl ClusterPool {
    fn new(cluster: Arc<Cluster>) -> Self {
        let turns = Turns::new(&cluster);
        let idle = cluster.endpoints.iter().map(|_| RefCell::default()).collect();
        let open = cluster.endpoints.iter().map(|_| Rc::default()).collect();
        let series = cluster.endpoints.iter().map(|_| OnceCell::new()).collect();
        Self {
            cluster,
            turns,
            idle,
            open,
            series,
            complained: Cell::new(None),
        }
    }

    /// What the endpoint's requests are counted under; looked up once.
    pub fn series(&self, endpoint: usize, look_up: impl FnOnce() -> EndpointSeries) -> EndpointSeries {
        *self.series[endpoint].get_or_init(look_up)
    }

    /// The idle connection that was used last and is still good; the others that are looked at are closed.
    pub fn idle(self: &Rc<Self>, endpoint: usize) -> Option<Connection> {
        let mut idle = self.idle[endpoint].borrow_mut();
        let Idle { stream, open, .. } = std::iter::from_fn(|| idle.pop()).find(|idle| idle.stream.is_quiet())?;
        Some(Connection {
            stream,
            reused: true,
            open,
            home: Rc::clone(self),
            endpoint,
        })
    }

    /// For this client, who connected to this address; both are only for those clusters that want to know.
    pub async fn connect(
        self: &Rc<Self>,
        endpoint: usize,
        client: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> io::Result<Connection> {
        let opening = self.open_stream(endpoint, client, local);
        let connected = tokio::time::timeout(self.cluster.connect_timeout, opening);
        let stream = connected
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Connection {
            stream,
            reused: false,
            open: Open::among(&self.open[endpoint]),
            home: Rc::clone(self),
            endpoint,
        })
    }

    /// Connected, and through with the handshake if there is one.
    async fn open_stream(
        &self,
        endpoint: usize,
        client: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> io::Result<Stream> {
        let address = &self.cluster.endpoints[endpoint].address;
        let mut stream = Stream::connect(address).await?;
        if let Some(version) = self.cluster.proxy_protocol {
            stream.write_all(&version.header(client, local)).await?;
        }
        if let Some(tls) = &self.cluster.tls {
            let shaken = stream.request_tls(tls, address).await;
            shaken.inspect_err(|error| self.complain(endpoint, error))?;
        }
        Ok(stream)
    }

    /// What is wrong with an endpoint's TLS is for the operator to mend, so it is told at the usual level of the log, but
    /// not for every request.
    fn complain(&self, endpoint: usize, error: &io::Error) {
        let now = Instant::now();
        let last = self.complained.get();
        if !tls::is_fault(error) || last.is_some_and(|last| now.duration_since(last) < COMPLAINT) {
            return;
        }
        self.complained.set(Some(now));
        let (cluster, endpoint) = (&*self.cluster.name, &*self.cluster.endpoints[endpoint].label);
        tracing::warn!(cluster, endpoint, %error, "a TLS handshake with an upstream failed");
    }

    fn usage(&self) -> impl Iterator<Item = EndpointUsage> {
        self.cluster
            .endpoints
            .iter()
            .enumerate()
            .map(|(index, endpoint)| EndpointUsage {
                cluster: self.cluster.name.clone(),
                endpoint: endpoint.label.clone(),
                idle: self.idle[index].borrow().len(),
                in_flight: self.turns.in_flight(index),
                open: self.open[index].get(),
            })
    }
}
