//! One immutable generation: everything that a request needs to know, built whole and swapped whole.
//!
//! Made by the control plane (`build`), read by the data plane through one atomic pointer. Unchanged parts (clusters,
//! loaded filters, sockets) are the same objects from one generation to the next, so that what workers keep for them
//! survives. It does not know how it is made, nor who reads it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

use crate::chain::Chain;
use crate::cluster::Cluster;
use crate::edits::Edits;
use crate::filter::Reply;
use crate::identity::Peers;
use crate::listener::Sockets;
use crate::mirror::Mirror;
use crate::name::Name;
use crate::overload::Overload;
use crate::retry;
use crate::rewrite::Rewrite;
use crate::route::Table;
use crate::telemetry::access_log::AccessLog as Writer;
use crate::telemetry::record::{Format, Record};
use crate::tls;
use crate::trial::Trial;
use crate::wasm;
use crate::wasm::http::Middleware;

/// A usual record; a longer one grows its buffer.
const LINE_BYTES: usize = 512;

pub struct Snapshot {
    /// 1 for the first; never goes back.
    pub generation: u64,
    pub listeners: Vec<Listener>,
    pub table: Table,
    /// By the table's positions.
    pub routes: Vec<Route>,
    pub clusters: Vec<Arc<Cluster>>,
    /// Every loaded component; a chain's wasm steps carry an index into this.
    pub guests: Vec<Arc<wasm::Filter>>,
    /// Filters that pass requests on, each once for every settings that it is used with.
    pub middlewares: Vec<Arc<Middleware>>,
    /// Names of the configured filters, then of candidates; [`Step::index`](crate::chain::Step::index) is an index into
    /// this.
    pub filters: Vec<Arc<str>>,
    /// The candidates of filters, open or decided.
    pub trials: Vec<Arc<Trial>>,
    pub access_log: Option<AccessLog>,
    pub overload: Overload,
    pub drain_timeout: Duration,
    /// How long readiness says no before the listeners close.
    pub drain_delay: Option<Duration>,
    /// The configuration as `GET /config` shows it, without secrets.
    pub description: Arc<serde_json::Value>,
}

pub struct AccessLog {
    pub writer: Writer,
    pub format: Format,
}

/// A listener's settings in one generation.
pub struct Listener {
    pub name: Arc<str>,
    pub short_name: Name,
    pub sockets: Arc<Sockets>,
    /// The host of a request that names none.
    pub authority: HeaderValue,
    /// `None` for plain text.
    pub tls: Option<Arc<tls::Server>>,
    /// Where all its clients are sent.
    pub redirect: Option<Redirect>,
    pub protocols: Protocols,
    pub chain: Chain,
    pub limits: Limits,
    /// Who begins connections with a header of the PROXY protocol.
    pub introducers: Peers,
    /// Whose word about the client is believed.
    pub trusted: Peers,
}

/// What clients may speak on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    Http1,
    Http2,
    Both,
}

/// What a listener grants a connection and a request; defaults and reasons are the configuration's.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    pub tls_handshake_timeout: Duration,
    pub handshakes_per_worker: usize,
    pub head_timeout: Duration,
    pub idle_timeout: Duration,
    pub body_timeout: Duration,
    pub write_timeout: Duration,
    pub tunnel_idle_timeout: Duration,
    pub max_head_bytes: usize,
    pub max_field_bytes: usize,
    pub max_fields: usize,
    pub max_target_bytes: usize,
    pub connections_per_worker: usize,
    /// Over all workers.
    pub connections_per_address: Option<u32>,
    pub exchanges_per_worker: usize,
    /// Of one connection.
    pub max_requests: u64,
    pub http2: Http2Limits,
}

/// What a listener grants an HTTP/2 connection besides.
#[derive(Clone, Debug, PartialEq)]
pub struct Http2Limits {
    pub max_streams: u32,
    /// Of one client address in one worker.
    pub max_streams_per_address: usize,
    /// Bytes, like all that follow.
    pub stream_window: u32,
    pub connection_window: u32,
    pub send_buffer: usize,
    pub max_header_list: u32,
    /// Resets beyond responses.
    pub max_resets: u32,
    /// Frames that carry nothing, beyond what the traffic explains.
    pub max_control_frames: u32,
    /// Bytes of a response that are taken within `write_timeout`.
    pub min_progress: usize,
    pub ping_interval: Option<Duration>,
    pub ping_timeout: Duration,
}

pub struct Route {
    pub name: Arc<str>,
    pub short_name: Name,
    pub chain: Chain,
    pub action: Action,
    pub timeout: Option<Duration>,
    /// `None`: only what was never sent goes to another endpoint, once.
    pub retry: Option<Box<retry::Policy>>,
    /// What its upstreams get in place of what clients send.
    pub rewrite: Option<Box<Rewrite>>,
    /// Who gets copies of its requests.
    pub mirror: Option<Mirror>,
    /// Of all its answers.
    pub response_edits: Option<Box<Edits>>,
    pub grpc_timeout: GrpcTimeout,
    /// Protocols that a connection may change to, in lower case.
    pub upgrades: Vec<Box<str>>,
}

/// What the deadline that a client of gRPC sets for itself (`grpc-timeout`) is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcTimeout {
    /// The route's too, if it is the shorter one.
    Honor,
    Ignore,
}

pub enum Action {
    /// Never empty, total weight never zero.
    Clusters {
        choices: Vec<Choice>,
        total: u64,
    },
    Redirect(Redirect),
    Respond(Respond),
}

#[derive(Clone, Copy)]
pub struct Choice {
    /// Index into [`Snapshot::clusters`].
    pub cluster: usize,
    pub name: Name,
    pub weight: u32,
}

/// Parts not given are the request's.
pub struct Redirect {
    pub status: StatusCode,
    pub scheme: Option<String>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: Option<String>,
}

pub struct Respond {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: bytes::Bytes,
}

impl AccessLog {
    pub fn write(&self, record: &Record<'_>) {
        let mut line = String::with_capacity(LINE_BYTES);
        self.format.render(record, &mut line);
        self.writer.write(line);
    }
}

impl Action {
    /// The cluster that `draw`, a uniform number, falls on.
    pub fn choose(choices: &[Choice], total: u64, draw: u64) -> usize {
        let mut left = draw % total.max(1);
        for choice in choices {
            match left.checked_sub(u64::from(choice.weight)) {
                Some(rest) => left = rest,
                None => return choice.cluster,
            }
        }
        choices[0].cluster
    }
}

impl Respond {
    pub fn reply(&self) -> Reply {
        Reply {
            status: self.status,
            headers: self.headers.clone(),
            body: self.body.clone(),
        }
    }
}

impl Redirect {
    /// `Location` (RFC 9110 10.2.2) for a request to `authority` and `target`.
    pub fn location(&self, scheme: &str, authority: &str, target: &str) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(scheme);
        let (host, port) = split_authority(authority);
        let host = self.host.as_deref().unwrap_or(host);
        // Another scheme has another port; the request's own would be wrong there.
        let port = match (self.port, &self.scheme) {
            (Some(port), _) => Some(port),
            (None, None) if self.host.is_none() => port.and_then(|port| port.parse().ok()),
            (None, _) => None,
        };
        let path = self.path.as_deref().unwrap_or(target);
        match port {
            Some(port) if !is_default(scheme, port) => format!("{scheme}://{host}:{port}{path}"),
            _ => format!("{scheme}://{host}{path}"),
        }
    }
}

fn is_default(scheme: &str, port: u16) -> bool {
    matches!((scheme, port), ("http", 80) | ("https", 443))
}

fn split_authority(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        // The colon of `[::1]` is not a port's.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirect() -> Redirect {
        Redirect {
            status: StatusCode::FOUND,
            scheme: None,
            host: None,
            port: None,
            path: None,
        }
    }

    #[test]
    fn locations() {
        let https = Redirect {
            scheme: Some("https".into()),
            ..redirect()
        };
        assert_eq!(
            https.location("http", "a.example:8080", "/x?y=1"),
            "https://a.example/x?y=1"
        );
        let port = Redirect {
            port: Some(8443),
            ..redirect()
        };
        assert_eq!(port.location("https", "a.example", "/"), "https://a.example:8443/");
        let host = Redirect {
            host: Some("b.example".into()),
            ..redirect()
        };
        assert_eq!(host.location("http", "[::1]:81", "/"), "http://b.example/");
        let path = Redirect {
            path: Some("/new".into()),
            ..redirect()
        };
        assert_eq!(path.location("http", "[::1]:81", "/old?q"), "http://[::1]:81/new");
    }

    #[test]
    fn weights_decide() {
        let choice = |cluster, weight| Choice {
            cluster,
            name: Name::new("app"),
            weight,
        };
        let choices = [choice(4, 1), choice(5, 0), choice(6, 3)];
        let chosen: Vec<_> = (0..5).map(|draw| Action::choose(&choices, 4, draw)).collect();
        assert_eq!(chosen, [4, 6, 6, 6, 4]);
    }
}
