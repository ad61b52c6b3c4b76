//! Clusters.
//!
//! Control plane.

mod endpoints;
mod health;
mod http2;
pub(in crate::parse) mod service;
mod sticky;

use std::time::Duration;

use super::{Names, or_default, pattern, tls};
use crate::model::{
    Address, Cluster, ClusterLimits, Endpoint, Endpoints, HashKey, LoadBalancing, ProxyVersion, RetryBudget, Target,
    UpstreamProtocol, Wasm,
};
use crate::reader::Reader;
use crate::shape::{At, OffOr, ShortOr};
use crate::vocabulary::{self, HashKeyBlock};
use crate::word::{HashWord, Word as _};

pub(crate) use endpoints::file as endpoints_file;

/// Three lost SYNs (1 s, 2 s, 4 s later) are a dead host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shorter than the 75 s of nginx, so that we close first and never send into a closing connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The field's usual value for "the upstream hangs".
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Covers a worker's concurrency to one server: above it connections are opened and closed all the time, which doubled the
/// cost of a request when 64 clients had ten streams of HTTP/2 each. One that is idle has no buffer.
const MAX_IDLE: usize = 1024;
/// Envoy's. Half of the servers under the load of all are overloaded as well, and a check that is wrong about most of
/// them is more likely than that most of them have failed.
const PANIC_THRESHOLD: u32 = 5_000;
/// As many as a listener has connections: what one listener lets in finds room.
const MAX_REQUESTS: usize = 10_000;
/// In HTTP/1.1 each request under way has one.
const MAX_CONNECTIONS: usize = 10_000;
/// After a rest all of them may begin at once, each with a connection to be opened.
const MAX_PENDING: usize = 10_000;
/// What the retry budget allows when as many requests as may be are under way.
const MAX_RETRIES: usize = 2_000;
/// GEP-3388's, Envoy's and Finagle's: servers that are down get no more than a fifth on top of what they cannot take.
const RETRY_SHARE: u32 = 2_000;
/// Envoy's `min_retry_concurrency`: with a request now and then, a fifth of them is none.
const MIN_RETRIES_PER_SECOND: u32 = 3;

pub(super) fn cluster(
    name: &str,
    cluster: At<vocabulary::Cluster>,
    names: &Names,
    wasm: &Wasm,
    reader: &mut Reader,
) -> Option<Cluster> {
    let At {
        place,
        value: mut cluster,
    } = cluster;
    reader.within_item(format!("cluster `{name}`"), |reader| {
        let component = cluster.component.take();
        if component.is_none() {
            service::refuse_without_component(&cluster, reader);
        }
        let endpoints = match (cluster.endpoints.take(), cluster.endpoints_file.take()) {
            (None, None) if let Some(component) = component => {
                let service = service::service(component, &mut cluster, &place, (names, wasm), reader);
                service.map(|service| Endpoints::Component(Box::new(service)))
            }
            (Some(listed), _) => {
                let listed = reader.within("endpoints", |reader| endpoints::listed(listed, reader));
                listed.map(Endpoints::Listed)
            }
            (None, Some(path)) if path.value.is_empty() => {
                reader.error_at(&path.place, "endpoints_file", "empty; write a path");
                None
            }
            (None, Some(path)) => Some(Endpoints::File(reader.resolve(&path.value))),
            // Noted when the block was read.
            (None, None) => None,
        };
        let load_balancing = cluster
            .load_balancing
            .as_ref()
            .map_or(LoadBalancing::RoundRobin, |given| given.value);
        let hash_key = hash_key(cluster.hash_key, load_balancing, reader);
        let slow_start = slow_start(cluster.slow_start, load_balancing, reader);
        let sticky = sticky::sticky(cluster.sticky, reader);
        let protocol = cluster.protocol.unwrap_or(UpstreamProtocol::Http1);
        let health_check = health::health_check(cluster.health_check, protocol, reader);
        let outlier_ejection = health::outlier_ejection(cluster.outlier_ejection, reader);
        let is_path = |endpoint: &Endpoint| matches!(endpoint.target, Target::Address(Address::Unix(_)));
        let nameless = match &endpoints {
            Some(Endpoints::Listed(listed)) => listed.iter().any(is_path),
            Some(Endpoints::File(_) | Endpoints::Component(_)) | None => false,
        };
        let tls = reader.within("tls", |reader| tls::cluster(cluster.tls, protocol, nameless, reader));
        let proxy_protocol = proxy_protocol(cluster.proxy_protocol, protocol, reader);
        let http2 = http2::http2(cluster.http2, protocol, reader);
        Some(Cluster {
            name: name.to_owned(),
            place,
            endpoints: endpoints?,
            load_balancing,
            hash_key: hash_key?,
            slow_start: slow_start?,
            panic_threshold: cluster.panic_threshold.map_or(PANIC_THRESHOLD, |part| part.as_u32()),
            sticky: sticky?,
            health_check: health_check?,
            outlier_ejection: outlier_ejection?,
            limits: limits(cluster.limits),
            retry_budget: retry_budget(cluster.retry_budget),
            connect_timeout: or_default(cluster.connect_timeout, CONNECT_TIMEOUT),
            idle_timeout: or_default(cluster.idle_timeout, IDLE_TIMEOUT),
            max_idle: cluster.max_idle.map_or(MAX_IDLE, |count| count.as_usize()),
            read_timeout: or_default(cluster.read_timeout, READ_TIMEOUT),
            tls: tls?,
            protocol,
            http2: http2?,
            proxy_protocol: proxy_protocol?,
        })
    })
}

fn is_hash(balancing: LoadBalancing) -> bool {
    matches!(balancing, LoadBalancing::RingHash | LoadBalancing::Maglev)
}

fn hash_key(key: Option<At<vocabulary::HashKey>>, balancing: LoadBalancing, reader: &mut Reader) -> Option<HashKey> {
    let Some(At { place, value: key }) = key else {
        return Some(HashKey::ClientAddress);
    };
    if !is_hash(balancing) {
        let message = format!(
            "`{}` has no key; remove it, or use `ring_hash` or `maglev`",
            balancing.word()
        );
        reader.error_at(&place, "hash_key", message);
        return None;
    }
    reader.within("hash_key", |reader| match key {
        ShortOr::Short(HashWord::ClientAddress) => Some(HashKey::ClientAddress),
        ShortOr::Short(HashWord::Path) => Some(HashKey::Path),
        ShortOr::Block(HashKeyBlock { header, cookie }) => match (header, cookie) {
            (Some(name), _) => token(&name, "header", reader).map(HashKey::Header),
            // A cookie's name is a token too (RFC 6265 4.1.1), but its case counts.
            (_, Some(name)) => token(&name, "cookie", reader).map(|_| HashKey::Cookie(name.value)),
            // Noted when the block was read.
            (None, None) => None,
        },
    })
}

/// In lower case.
fn token(name: &At<String>, key: &str, reader: &mut Reader) -> Option<String> {
    pattern::header_name(&name.value)
        .map_err(|message| reader.error_at(&name.place, key, message))
        .ok()
}

/// The inner `None` is "off".
fn slow_start(
    period: Option<At<OffOr<crate::units::Period>>>,
    balancing: LoadBalancing,
    reader: &mut Reader,
) -> Option<Option<Duration>> {
    match period {
        None => Some(None),
        Some(At { value: OffOr::Off, .. }) => Some(None),
        Some(At { place, .. }) if is_hash(balancing) => {
            let message = format!(
                "with `{}` keys would move all the while; remove it, or use another `load_balancing`",
                balancing.word()
            );
            reader.error_at(&place, "slow_start", message);
            None
        }
        Some(At {
            value: OffOr::On(period),
            ..
        }) => Some(Some(period.0)),
    }
}

/// The inner `None` is no header.
fn proxy_protocol(
    version: Option<At<ProxyVersion>>,
    protocol: UpstreamProtocol,
    reader: &mut Reader,
) -> Option<Option<ProxyVersion>> {
    match version {
        Some(At { place, .. }) if protocol != UpstreamProtocol::Http1 => {
            let message = format!(
                "names one client, and a connection with `protocol: {}` carries the requests of many; keep one of them",
                protocol.word()
            );
            reader.error_at(&place, "proxy_protocol", message);
            None
        }
        version => Some(version.map(|version| version.value)),
    }
}

fn limits(limits: Option<vocabulary::ClusterLimits>) -> ClusterLimits {
    let defaults = ClusterLimits::default();
    let Some(limits) = limits else { return defaults };
    ClusterLimits {
        max_connections: limits
            .max_connections
            .map_or(defaults.max_connections, |count| count.as_usize()),
        max_pending: limits
            .max_pending
            .map_or(defaults.max_pending, |count| count.as_usize()),
        max_requests: limits
            .max_requests
            .map_or(defaults.max_requests, |count| count.as_usize()),
        max_retries: limits
            .max_retries
            .map_or(defaults.max_retries, |count| count.as_usize()),
    }
}

fn retry_budget(budget: Option<vocabulary::RetryBudget>) -> RetryBudget {
    let defaults = RetryBudget::default();
    let Some(budget) = budget else { return defaults };
    RetryBudget {
        share: budget.share.map_or(defaults.share, |share| share.as_u32()),
        min_per_second: budget
            .min_per_second
            .map_or(defaults.min_per_second, |count| count.as_u32()),
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            share: RETRY_SHARE,
            min_per_second: MIN_RETRIES_PER_SECOND,
        }
    }
}

impl Default for ClusterLimits {
    fn default() -> Self {
        Self {
            max_connections: MAX_CONNECTIONS,
            max_pending: MAX_PENDING,
            max_requests: MAX_REQUESTS,
            max_retries: MAX_RETRIES,
        }
    }
}
