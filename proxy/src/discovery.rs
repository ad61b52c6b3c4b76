//! Where the endpoints of a cluster are: addresses, names that are looked up, a file that is watched.
//!
//! Control plane; never on a worker. One task for each cluster whose endpoints can change. What was last good is kept
//! whatever fails, and asked for again; an endpoint that is gone takes no new requests, and those under way come to their
//! end. What names led to is known by the cluster's name, so a reload asks nobody again.

mod dns;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tamis_config as config;
use tokio::sync::Notify;

use crate::address::Address;
use crate::cluster::{Cluster, Seat, Standing};
use crate::watch::Watcher;

pub use dns::{Dns, Known};

/// How long a new generation waits for names that nobody has looked up yet; it goes live without the rest then.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
/// A file that could not be read is looked at again this often, whatever its watcher says.
const FILE_RETRY: Duration = Duration::from_secs(5);
/// What a worker can look through within microseconds; further addresses are left out.
const MAX_ENDPOINTS: usize = 10_000;

/// Where a cluster's endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    pub place: Place,
    pub dns: Dns,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Listed(Vec<Source>),
    File(PathBuf),
}

/// What may be one endpoint or many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub target: Target,
    pub weight: u32,
    pub priority: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Address(Address),
    /// Each of its addresses.
    Host {
        name: String,
        port: u16,
    },
    /// Each server that its SRV records name (RFC 2782).
    Service(String),
}

impl Origin {
    pub fn nowhere() -> Self {
        Self {
            place: Place::Listed(Vec::new()),
            dns: Dns {
                servers: None,
                timeout: Duration::ZERO,
                min_ttl: Duration::ZERO,
                max_ttl: Duration::ZERO,
            },
        }
    }

    /// Whether the endpoints stay the same for as long as the configuration does.
    pub fn is_fixed(&self) -> bool {
        match &self.place {
            Place::Listed(sources) => sources.iter().all(Source::is_fixed),
            Place::File(_) => false,
        }
    }

    /// Those that need no look-up, or were looked up before.
    pub fn known(&self, standing: &Standing) -> Result<Vec<Seat>, String> {
        Ok(seats(&self.sources()?, &standing.known))
    }

    /// Blocks on the file system.
    fn sources(&self) -> Result<Vec<Source>, String> {
        match &self.place {
            Place::Listed(sources) => Ok(sources.clone()),
            Place::File(path) => read(path),
        }
    }
}

impl Source {
    fn is_fixed(&self) -> bool {
        matches!(self.target, Target::Address(_))
    }
}

impl Source {
    /// A component in this process, called by its file's name.
    pub fn component(path: &Path) -> Self {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self {
            target: Target::Address(Address::Component(name.into())),
            weight: 1,
            priority: 0,
        }
    }
}

impl From<&config::Endpoint> for Source {
    fn from(endpoint: &config::Endpoint) -> Self {
        Self {
            target: match &endpoint.target {
                config::Target::Address(config::Address::Tcp(address)) => Target::Address(Address::Tcp(*address)),
                config::Target::Address(config::Address::Unix(path)) => Target::Address(Address::Unix(path.clone())),
                config::Target::Host { name, port } => Target::Host {
                    name: name.clone(),
                    port: *port,
                },
                config::Target::Service(name) => Target::Service(name.clone()),
            },
            weight: endpoint.weight,
            priority: endpoint.priority,
        }
    }
}

fn read(path: &Path) -> Result<Vec<Source>, String> {
    let endpoints = config::endpoints(path).map_err(|errors| errors.to_string())?;
    Ok(endpoints.iter().map(Source::from).collect())
}

/// The endpoints that a new cluster begins with. An error is the operator's: a file that cannot be read. Names that lead
/// nowhere are none, because they may lead somewhere later.
pub async fn first(origin: Origin, standing: Arc<Standing>) -> Result<Vec<Seat>, String> {
    let sources = origin.sources()?;
    let asked = dns::look_up(&sources, &standing, &origin.dns, Instant::now());
    if tokio::time::timeout(FIRST_PATIENCE, asked).await.is_err() {
        let cluster = &*standing.name;
        tracing::warn!(
            cluster,
            "names are still being looked up; the cluster begins without them"
        );
    }
    Ok(seats(&sources, &standing.known))
}

/// Has the cluster follow its names and its file. Until it is dropped.
pub async fn keep(cluster: Arc<Cluster>) {
    let mut follower = Follower::new(Arc::clone(&cluster));
    loop {
        let next = follower.follow().await;
        let rest = next.map(|next| tokio::time::sleep_until(next.into()));
        match rest {
            Some(rest) => tokio::select! {
                () = rest => {}
                () = follower.changed.notified() => {}
            },
            None => follower.changed.notified().await,
        }
    }
}

struct Follower {
    cluster: Arc<Cluster>,
    sources: Vec<Source>,
    /// The last error of the file, which is told once.
    fault: Option<String>,
    changed: Arc<Notify>,
    _watcher: Option<Watcher>,
}

impl Follower {
    fn new(cluster: Arc<Cluster>) -> Self {
        let changed = Arc::<Notify>::default();
        let (sources, watcher) = match &cluster.origin.place {
            Place::Listed(sources) => (sources.clone(), None),
            Place::File(path) => {
                let told = Arc::clone(&changed);
                let watcher = Watcher::start(move || told.notify_one());
                if let Err(error) = &watcher {
                    tracing::warn!(%error, path = %path.display(), "an endpoints file cannot be watched");
                }
                let watcher = watcher.ok();
                if let Some(watcher) = &watcher {
                    watcher.set(vec![path.clone()]);
                }
                (Vec::new(), watcher)
            }
        };
        Self {
            cluster,
            sources,
            fault: None,
            changed,
            _watcher: watcher,
        }
    }

    /// Brings the cluster up to date; when to look again, if time alone is a reason.
    async fn follow(&mut self) -> Option<Instant> {
        let retry = self.read().await;
        let standing = &self.cluster.terms.standing;
        let next = dns::look_up(&self.sources, standing, &self.cluster.origin.dns, Instant::now()).await;
        // What could not be read says nothing about the endpoints.
        if self.fault.is_none() {
            // Here and not where they are looked up: a configuration that is refused later has names of its own.
            standing.known.retain(&self.sources);
            self.enrol();
        }
        next.into_iter().chain(retry).min()
    }

    async fn read(&mut self) -> Option<Instant> {
        let Place::File(path) = &self.cluster.origin.place else {
            return None;
        };
        let path = path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        let counts = &self.cluster.terms.standing.resolutions;
        match read.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(sources) => {
                let count = match sources == self.sources {
                    true => &counts.unchanged,
                    false => &counts.changed,
                };
                count.fetch_add(1, Ordering::Relaxed);
                (self.sources, self.fault) = (sources, None);
                None
            }
            Err(fault) => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                if self.fault.as_ref() != Some(&fault) {
                    let cluster = self.cluster.name();
                    tracing::error!(
                        cluster,
                        errors = fault.replace('\n', "; "),
                        "endpoints file refused; the last good endpoints are kept"
                    );
                }
                self.fault = Some(fault);
                Some(Instant::now() + FILE_RETRY)
            }
        }
    }

    fn enrol(&self) {
        let seats = seats(&self.sources, &self.cluster.terms.standing.known);
        let old = self.cluster.members();
        let is_same = old.list.len() == seats.len()
            && old.list.iter().zip(&seats).all(|(member, seat)| {
                let endpoint = &member.endpoint;
                (&endpoint.address, &endpoint.host, member.weight, member.priority)
                    == (&seat.address, &seat.host, seat.weight, seat.priority)
            });
        if is_same {
            return;
        }
        self.cluster.enrol(&seats);
        let new = self.cluster.members();
        let labels = |members: &crate::balance::Members| -> HashSet<String> {
            members
                .list
                .iter()
                .map(|member| member.endpoint.label.clone())
                .collect()
        };
        let (old, new) = (labels(&old), labels(&new));
        let (added, removed) = (new.difference(&old).count(), old.difference(&new).count());
        tracing::info!(
            cluster = self.cluster.name(),
            endpoints = new.len(),
            added,
            removed,
            "endpoints changed"
        );
    }
}

/// What is known of where the sources lead, each address once, in a stable order.
fn seats(sources: &[Source], known: &Known) -> Vec<Seat> {
    let mut seen = HashSet::new();
    let seats = sources.iter().flat_map(|source| match &source.target {
        Target::Address(address) => vec![Seat {
            address: address.clone(),
            host: None,
            weight: source.weight,
            priority: source.priority,
        }],
        Target::Host { name, port } => known.host(name, *port, source.weight, source.priority),
        Target::Service(name) => known.service(name),
    });
    seats
        .filter(|seat| seen.insert(seat.address.clone()))
        .take(MAX_ENDPOINTS)
        .collect()
}
