//! A worker's connections to upstream endpoints.
//!
//! Data plane; one thread only. Each connection is a hyper client with a task of its own, which notices when the peer
//! closes it or speaks out of turn; such a connection is never handed out again. The one that was used last is used
//! next. Nothing here chooses an endpoint.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::body::RequestBody;
use crate::cluster::{Cluster, Turns};
use crate::stream::Stream;
use crate::telemetry::metrics::EndpointSeries;

/// The head of a response; more is the upstream's fault. As generous as the default for clients (64 KiB).
const MAX_RESPONSE_HEAD: usize = 64 << 10;

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
                let keep = |idle: &Idle| {
                    !idle.connection.sender.is_closed() && now.duration_since(idle.since) < pool.cluster.idle_timeout
                };
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
}

/// One cluster's connections and turns in one worker.
pub struct ClusterPool {
    pub cluster: Arc<Cluster>,
    pub turns: Turns,
    /// By endpoint.
    idle: Vec<RefCell<Vec<Idle>>>,
    series: Vec<OnceCell<EndpointSeries>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection to an endpoint. Dropped anywhere but in its pool, it is cut at once: a body that is still being written
/// to it, or read from it, belongs to an exchange that is over.
pub struct Connection {
    pub sender: SendRequest<RequestBody>,
    /// Whether it has carried a request before, so that the peer may be closing it right now.
    pub reused: bool,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ClusterPool {
    fn new(cluster: Arc<Cluster>) -> Self {
        let turns = Turns::new(&cluster);
        let idle = cluster.endpoints.iter().map(|_| RefCell::default()).collect();
        let series = cluster.endpoints.iter().map(|_| OnceCell::new()).collect();
        Self {
            cluster,
            turns,
            idle,
            series,
        }
    }

    /// What the endpoint's requests are counted under; looked up once.
    pub fn series(&self, endpoint: usize, look_up: impl FnOnce() -> EndpointSeries) -> EndpointSeries {
        *self.series[endpoint].get_or_init(look_up)
    }

    /// The idle connection that was used last and is still open.
    pub fn idle(&self, endpoint: usize) -> Option<Connection> {
        let mut idle = self.idle[endpoint].borrow_mut();
        // One that is not ready yet has just been put back; its task will get there.
        let ready = idle.iter().rposition(|idle| idle.connection.sender.is_ready())?;
        let mut connection = idle.swap_remove(ready).connection;
        connection.reused = true;
        Some(connection)
    }

    pub async fn connect(&self, endpoint: usize) -> io::Result<Connection> {
        let address = &self.cluster.endpoints[endpoint].address;
        let connected = tokio::time::timeout(self.cluster.connect_timeout, Stream::connect(address));
        let stream = connected
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_RESPONSE_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let task = tokio::task::spawn_local(async move {
            // Its exchange learns of an error through the sender; an idle connection has nobody to tell.
            let _ = connection.await;
        });
        Ok(Connection {
            sender,
            reused: false,
            task: task.abort_handle(),
        })
    }

    /// Keeps a connection whose exchange is over, if there is room.
    pub fn put_back(&self, endpoint: usize, connection: Connection, now: Instant) {
        let mut idle = self.idle[endpoint].borrow_mut();
        if !connection.sender.is_closed() && idle.len() < self.cluster.max_idle {
            idle.push(Idle { connection, since: now });
        }
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
            })
    }
}
