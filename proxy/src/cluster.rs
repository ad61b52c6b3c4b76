//! A cluster: the endpoints that can answer for a route, and how they are used.
//!
//! Data plane; built by the control plane, shared by all workers. Its settings never change. Its members do, when names
//! lead elsewhere or a file says so: they are one pointer, swapped whole by [`discovery`](crate::discovery), and the
//! [`Epoch`] tells workers of it. What is written for requests (turns, requests in flight) is each worker's own, so that
//! choosing an endpoint touches no shared cache line.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, header};
use tokio::sync::Notify;
use twox_hash::XxHash3_64;

use crate::address::Address;
pub use crate::balance::Balancing;
use crate::balance::{Member, Members, Rules};
use crate::discovery::{Known, Origin};
use crate::endpoint::{Endpoint, Epoch};
use crate::health::Check;
use crate::http2;
use crate::outlier;
use crate::proxy_protocol;
use crate::retry::budget::Allowance;
use crate::sticky::{Sticky, Tokens};
use crate::tls;
use crate::wasm::http::Service;

/// Lives as long as a generation names it unchanged, or an exchange uses it.
#[derive(Debug)]
pub struct Cluster {
    /// Unique in the process.
    id: u64,
    pub terms: Arc<Terms>,
    pub rules: Rules,
    pub hash_key: HashKey,
    pub sticky: Option<Sticky>,
    pub origin: Origin,
    roll: ArcSwap<Roll>,
}

/// What does not depend on the endpoints. Clusters that have the same terms share connections.
#[derive(Debug)]
pub struct Terms {
    /// Unique in the process; what workers file their connections under.
    id: u64,
    pub standing: Arc<Standing>,
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
    pub read_timeout: Duration,
    /// Idle connections for each endpoint and worker.
    pub max_idle: usize,
    pub limits: Limits,
    pub check: Option<Check>,
    pub outlier: Option<outlier::Rules>,
    /// `None` for plain text.
    pub tls: Option<Arc<tls::Client>>,
    pub protocol: Protocol,
    /// The component, with [`Protocol::Component`].
    pub service: Option<Arc<Service>>,
    pub http2: http2::Terms,
    /// Connections begin with a header that names the client; then none of them is ever idle.
    pub proxy_protocol: Option<proxy_protocol::Version>,
}

/// What is spoken to the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    /// What the TLS handshake agrees on: HTTP/2, or else HTTP/1.1.
    Agreed,
    /// A component answers, in this process.
    Component,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Agreed => "auto",
            Self::Component => "component",
        }
    }
}

/// What may be under way to the cluster at once, for each worker: a worker's own counts cost a request nothing, and one
/// worker's idle connections never keep another from opening one. Those of the configuration, divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub connections: usize,
    /// Requests that wait for a connection.
    pub pending: usize,
    pub requests: usize,
    /// Requests that are sent once more.
    pub retries: Allowance,
}

/// A bound of a cluster that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Connections,
    Pending,
    Requests,
    Retries,
}

impl Limit {
    pub const ALL: [Self; 4] = [Self::Connections, Self::Pending, Self::Requests, Self::Retries];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Pending => "pending",
            Self::Requests => "requests",
            Self::Retries => "retries",
        }
    }
}

/// Endpoints by address, and the name that led to it.
type Roster = HashMap<(Address, Option<Arc<str>>), Weak<Endpoint>>;

/// What is known of a cluster by its name: it outlives generations, as long as each has a cluster of that name.
#[derive(Debug)]
pub struct Standing {
    pub name: String,
    workers: usize,
    epoch: Arc<Epoch>,
    endpoints: Mutex<Roster>,
    /// What names led to.
    pub known: Known,
    /// Rung by workers when an endpoint fails too often in a row.
    pub alarm: Notify,
    overflows: [AtomicU64; Limit::ALL.len()],
    pub resolutions: Resolutions,
}

/// Looks at where endpoints are (names, files), by what came of them.
#[derive(Debug, Default)]
pub struct Resolutions {
    pub changed: AtomicU64,
    pub unchanged: AtomicU64,
    pub failed: AtomicU64,
}

/// The members, and what their cookies say.
#[derive(Debug)]
pub struct Roll {
    pub members: Arc<Members>,
    pub tokens: Tokens,
}

/// An endpoint as a configuration, a name or a file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    pub address: Address,
    /// The name that led to it.
    pub host: Option<Arc<str>>,
    pub weight: u32,
    pub priority: u32,
}

/// What requests have in common that go to the same endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    ClientAddress,
    Path,
    /// Its first value.
    Header(HeaderName),
    Cookie(String),
}

/// What of a request decides its endpoint.
pub struct Asker<'a> {
    pub client: Option<IpAddr>,
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    /// Whether the client speaks TLS.
    pub is_secure: bool,
}

/// Everything of a cluster that the control plane decides, but for what belongs to its terms.
pub struct Settings {
    pub rules: Rules,
    pub hash_key: HashKey,
    pub sticky: Option<Sticky>,
    pub origin: Origin,
    pub seats: Vec<Seat>,
}

/// Everything of its [`Terms`].
#[derive(Clone, Debug, PartialEq)]
pub struct TermSettings {
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
    pub read_timeout: Duration,
    pub max_idle: usize,
    pub limits: Limits,
    pub check: Option<Check>,
    pub outlier: Option<outlier::Rules>,
    pub protocol: Protocol,
    pub service: Option<Arc<Service>>,
    pub http2: http2::Terms,
    pub proxy_protocol: Option<proxy_protocol::Version>,
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Cluster {
    pub fn new(terms: Arc<Terms>, settings: Settings) -> Self {
        let roll = Roll::new(
            &terms.standing,
            &settings.seats,
            settings.rules,
            settings.sticky.as_ref(),
        );
        Self {
            id: next_id(),
            terms,
            rules: settings.rules,
            hash_key: settings.hash_key,
            sticky: settings.sticky,
            origin: settings.origin,
            roll: ArcSwap::from_pointee(roll),
        }
    }

    /// For whoever answers in its place.
    pub fn without_endpoints(name: &str) -> Self {
        let rules = Rules {
            balancing: Balancing::RoundRobin,
            slow_start: None,
            panic_threshold: 0.0,
        };
        let terms = TermSettings {
            connect_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            read_timeout: Duration::ZERO,
            max_idle: 0,
            limits: Limits {
                connections: 0,
                pending: 0,
                requests: 0,
                retries: Allowance {
                    share: 0,
                    per_second: 0,
                    retries: 0,
                },
            },
            check: None,
            outlier: None,
            protocol: Protocol::Http1,
            service: None,
            http2: http2::Terms::default(),
            proxy_protocol: None,
        };
        let settings = Settings {
            rules,
            hash_key: HashKey::ClientAddress,
            sticky: None,
            origin: Origin::nowhere(),
            seats: Vec::new(),
        };
        Self::new(
            Arc::new(Terms::new(Arc::new(Standing::new(name, 1)), terms, None)),
            settings,
        )
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn name(&self) -> &str {
        &self.terms.standing.name
    }

    pub fn epoch(&self) -> &Epoch {
        &self.terms.standing.epoch
    }

    /// For whoever was told by the [`Epoch`].
    pub fn roll(&self) -> Arc<Roll> {
        self.roll.load_full()
    }

    pub fn members(&self) -> Arc<Members> {
        Arc::clone(&self.roll.load().members)
    }

    /// From now on these are its endpoints; those that it has already stay the same.
    pub fn enrol(&self, seats: &[Seat]) {
        let roll = Roll::new(&self.terms.standing, seats, self.rules, self.sticky.as_ref());
        self.roll.store(Arc::new(roll));
        self.epoch().advance();
    }

    /// Whether the choice of an endpoint depends on the request.
    pub fn asks(&self) -> bool {
        self.sticky.is_some() || self.rules.balancing.is_hash()
    }

    /// `None` when the request has nothing of it.
    pub fn hash(&self, asker: &Asker<'_>) -> Option<u64> {
        if !self.rules.balancing.is_hash() {
            return None;
        }
        match &self.hash_key {
            HashKey::ClientAddress => asker.client.map(|client| match client {
                IpAddr::V4(address) => XxHash3_64::oneshot(&address.octets()),
                IpAddr::V6(address) => XxHash3_64::oneshot(&address.octets()),
            }),
            HashKey::Path => Some(XxHash3_64::oneshot(asker.path.as_bytes())),
            HashKey::Header(name) => asker
                .headers
                .get(name)
                .map(|value| XxHash3_64::oneshot(value.as_bytes())),
            HashKey::Cookie(name) => cookie(asker.headers, name.as_bytes()).map(XxHash3_64::oneshot),
        }
    }
}

impl Terms {
    pub fn new(standing: Arc<Standing>, settings: TermSettings, tls: Option<Arc<tls::Client>>) -> Self {
        Self {
            id: next_id(),
            standing,
            connect_timeout: settings.connect_timeout,
            idle_timeout: settings.idle_timeout,
            read_timeout: settings.read_timeout,
            max_idle: settings.max_idle,
            limits: settings.limits,
            check: settings.check,
            outlier: settings.outlier,
            protocol: settings.protocol,
            service: settings.service,
            http2: settings.http2,
            proxy_protocol: settings.proxy_protocol,
            tls,
        }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn name(&self) -> &str {
        &self.standing.name
    }

    /// Whether a cluster with these settings, and the same TLS, may go on with the same terms.
    pub fn are(&self, settings: &TermSettings) -> bool {
        let own = TermSettings {
            connect_timeout: self.connect_timeout,
            idle_timeout: self.idle_timeout,
            read_timeout: self.read_timeout,
            max_idle: self.max_idle,
            limits: self.limits,
            check: self.check.clone(),
            outlier: self.outlier.clone(),
            protocol: self.protocol,
            service: self.service.clone(),
            http2: self.http2.clone(),
            proxy_protocol: self.proxy_protocol,
        };
        own == *settings
    }
}

impl Standing {
    pub fn new(name: &str, workers: usize) -> Self {
        Self {
            name: name.to_owned(),
            workers,
            epoch: Arc::default(),
            endpoints: Mutex::default(),
            known: Known::default(),
            alarm: Notify::new(),
            overflows: Default::default(),
            resolutions: Resolutions::default(),
        }
    }

    /// What is known of the endpoint already, or a fresh one.
    fn endpoint(&self, seat: &Seat) -> Arc<Endpoint> {
        let key = (seat.address.clone(), seat.host.clone());
        let mut endpoints = self.endpoints();
        if let Some(known) = endpoints.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let (address, host) = key.clone();
        let fresh = Arc::new(Endpoint::new(address, host, Arc::clone(&self.epoch), self.workers));
        endpoints.insert(key, Arc::downgrade(&fresh));
        fresh
    }

    fn endpoints(&self) -> MutexGuard<'_, Roster> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request met a limit.
    pub fn overflowed(&self, limit: Limit) {
        self.overflows[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn overflows(&self, limit: Limit) -> u64 {
        self.overflows[limit as usize].load(Ordering::Relaxed)
    }
}

impl Roll {
    /// Of seats with the same address the first counts.
    fn new(standing: &Standing, seats: &[Seat], rules: Rules, sticky: Option<&Sticky>) -> Self {
        let mut seen = std::collections::HashSet::new();
        let member = |seat: &Seat| Member {
            endpoint: standing.endpoint(seat),
            weight: seat.weight,
            priority: seat.priority,
        };
        let list: Vec<Member> = seats
            .iter()
            .filter(|seat| seen.insert(seat.address.clone()))
            .map(member)
            .collect();
        standing.endpoints().retain(|_, endpoint| endpoint.strong_count() > 0);
        let labels = list.iter().map(|member| &*member.endpoint.label);
        Self {
            tokens: sticky
                .map(|sticky| sticky.tokens(&standing.name, labels))
                .unwrap_or_default(),
            members: Arc::new(Members::new(list, rules.balancing)),
        }
    }
}

/// The value of the first cookie of that name (RFC 6265 4.2.1).
pub fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    let pairs = headers.get_all(header::COOKIE).iter();
    let mut pairs = pairs.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="))
}
