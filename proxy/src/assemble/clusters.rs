//! Clusters of a configuration, with what is known of those of the generation before.
//!
//! Control plane. Opens nothing.

use std::sync::Arc;

use http::{HeaderName, StatusCode};
use tamis_config as config;

use crate::balance::{Balancing, Rules};
use crate::cluster::{Cluster, HashKey, Limits, Protocol, Seat, Settings, Standing, TermSettings, Terms};
use crate::discovery::{Dns, Origin, Place, Source};
use crate::health::{Check, Probe};
use crate::http2;
use crate::outlier;
use crate::proxy_protocol;
use crate::retry::budget::Allowance;
use crate::sticky::Sticky;
use crate::tls;
use crate::wasm::http::Service;

/// Hundredths of a percent in the whole.
const WHOLE: f64 = 10_000.0;

/// A cluster of the generation before, with the digest of its TLS files.
type Old = (config::Cluster, String, Arc<Cluster>);

/// What becomes of a cluster.
pub(super) enum Planned {
    /// With the digest of its TLS files.
    Kept(Arc<Cluster>, String),
    New(Box<Fresh>),
}

/// One that is to be built.
pub(super) struct Fresh {
    pub(super) standing: Arc<Standing>,
    pub(super) origin: Origin,
    settings: TermSettings,
    /// Of the cluster of that name before, if they are the same: then its connections are kept.
    terms: Option<Arc<Terms>>,
    digest: String,
}

impl Planned {
    /// `digest` is that of the TLS files as they are now.
    pub(super) fn new(
        cluster: &config::Cluster,
        dns: &Dns,
        old: Option<&Old>,
        digest: String,
        service: Option<Arc<Service>>,
        workers: usize,
    ) -> Self {
        let origin = Origin {
            place: match &cluster.endpoints {
                config::Endpoints::Listed(listed) => Place::Listed(listed.iter().map(Into::into).collect()),
                config::Endpoints::File(path) => Place::File(path.clone()),
                config::Endpoints::Component(service) => Place::Listed(vec![Source::component(&service.component)]),
            },
            dns: dns.clone(),
        };
        let settings = term_settings(cluster, service, workers);
        let (standing, terms) = match old {
            None => (Arc::new(Standing::new(&cluster.name, workers)), None),
            Some((was, with, old)) => {
                let has_same_tls = *with == digest && was.tls == cluster.tls;
                let has_same_terms = has_same_tls && old.terms.are(&settings);
                if has_same_terms && was == cluster && (old.origin == origin || origin.is_fixed()) {
                    return Self::Kept(Arc::clone(old), digest);
                }
                (
                    Arc::clone(&old.terms.standing),
                    has_same_terms.then(|| Arc::clone(&old.terms)),
                )
            }
        };
        Self::New(Box::new(Fresh {
            standing,
            origin,
            settings,
            terms,
            digest,
        }))
    }

    /// Whether its TLS is not there yet.
    pub(super) fn needs_tls(&self) -> bool {
        matches!(self, Self::New(fresh) if fresh.terms.is_none())
    }

    /// The cluster, and the digest of its TLS files.
    pub(super) fn build(
        self,
        cluster: &config::Cluster,
        seats: Vec<Seat>,
        tls: Option<Arc<tls::Client>>,
    ) -> (Arc<Cluster>, String) {
        let fresh = match self {
            Self::Kept(kept, digest) => return (kept, digest),
            Self::New(fresh) => *fresh,
        };
        let build = || Arc::new(Terms::new(fresh.standing, fresh.settings, tls));
        let terms = fresh.terms.unwrap_or_else(build);
        let settings = Settings {
            rules: rules(cluster),
            hash_key: hash_key(&cluster.hash_key),
            sticky: cluster.sticky.as_ref().map(sticky),
            origin: fresh.origin,
            seats,
        };
        (Arc::new(Cluster::new(terms, settings)), fresh.digest)
    }
}

pub(super) fn dns(dns: &config::Dns) -> Dns {
    Dns {
        servers: dns.servers.clone(),
        timeout: dns.timeout,
        min_ttl: dns.min_ttl,
        max_ttl: dns.max_ttl,
    }
}

fn part(hundredths: u32) -> f64 {
    f64::from(hundredths) / WHOLE
}

fn rules(cluster: &config::Cluster) -> Rules {
    Rules {
        balancing: match cluster.load_balancing {
            config::LoadBalancing::RoundRobin => Balancing::RoundRobin,
            config::LoadBalancing::LeastRequest => Balancing::LeastRequest,
            config::LoadBalancing::Random => Balancing::Random,
            config::LoadBalancing::RingHash => Balancing::RingHash,
            config::LoadBalancing::Maglev => Balancing::Maglev,
        },
        slow_start: cluster.slow_start,
        panic_threshold: part(cluster.panic_threshold),
    }
}

fn hash_key(key: &config::HashKey) -> HashKey {
    match key {
        config::HashKey::ClientAddress => HashKey::ClientAddress,
        config::HashKey::Path => HashKey::Path,
        // The configuration has checked it.
        config::HashKey::Header(name) => {
            HeaderName::from_bytes(name.as_bytes()).map_or(HashKey::ClientAddress, HashKey::Header)
        }
        config::HashKey::Cookie(name) => HashKey::Cookie(name.clone()),
    }
}

fn sticky(sticky: &config::Sticky) -> Sticky {
    Sticky {
        cookie: sticky.cookie.clone(),
        path: sticky.path.clone(),
        max_age: sticky.max_age,
        secret: sticky.secret.clone(),
    }
}

fn term_settings(cluster: &config::Cluster, service: Option<Arc<Service>>, workers: usize) -> TermSettings {
    TermSettings {
        connect_timeout: cluster.connect_timeout,
        idle_timeout: cluster.idle_timeout,
        read_timeout: cluster.read_timeout,
        // A connection that names a client is for no other one.
        max_idle: match cluster.proxy_protocol {
            Some(_) => 0,
            None => cluster.max_idle,
        },
        proxy_protocol: cluster.proxy_protocol.map(|version| match version {
            config::ProxyVersion::V1 => proxy_protocol::Version::V1,
            config::ProxyVersion::V2 => proxy_protocol::Version::V2,
        }),
        limits: Limits {
            connections: cluster.limits.max_connections.div_ceil(workers),
            pending: cluster.limits.max_pending.div_ceil(workers),
            requests: cluster.limits.max_requests.div_ceil(workers),
            retries: allowance(cluster, workers),
        },
        protocol: match service {
            Some(_) => Protocol::Component,
            None => protocol(cluster),
        },
        service,
        http2: http2::Terms {
            max_streams: cluster.http2.max_streams as usize,
            stream_window: cluster.http2.stream_window,
            send_buffer: cluster.http2.send_buffer,
            max_header_list: cluster.http2.max_header_list,
            max_resets: cluster.http2.max_resets as usize,
            max_control_frames: cluster.http2.max_control_frames,
            ping_interval: cluster.http2.ping_interval,
            ping_timeout: cluster.http2.ping_timeout,
        },
        check: cluster.health_check.as_ref().map(check),
        outlier: cluster.outlier_ejection.as_ref().map(outlier_rules),
    }
}

fn allowance(cluster: &config::Cluster, workers: usize) -> Allowance {
    let workers_or_all = u32::try_from(workers).unwrap_or(u32::MAX);
    Allowance {
        share: cluster.retry_budget.share,
        per_second: cluster.retry_budget.min_per_second.div_ceil(workers_or_all),
        retries: cluster.limits.max_retries.div_ceil(workers),
    }
}

fn protocol(cluster: &config::Cluster) -> Protocol {
    match cluster.protocol {
        config::UpstreamProtocol::Http1 => Protocol::Http1,
        config::UpstreamProtocol::Http2 => Protocol::Http2,
        config::UpstreamProtocol::Auto if cluster.tls.is_some() => Protocol::Agreed,
        // There is nothing to agree by.
        config::UpstreamProtocol::Auto => Protocol::Http1,
    }
}

fn check(check: &config::HealthCheck) -> Check {
    Check {
        probe: match &check.probe {
            config::Probe::Tcp => Probe::Tcp,
            config::Probe::Grpc { service } => Probe::Grpc {
                service: service.clone(),
            },
            config::Probe::Http { path, host, statuses } => Probe::Http {
                path: path.clone(),
                host: host.clone(),
                statuses: statuses
                    .iter()
                    .filter_map(|status| StatusCode::from_u16(*status).ok())
                    .collect(),
            },
        },
        interval: check.interval,
        jitter: part(check.jitter),
        timeout: check.timeout,
        healthy_threshold: check.healthy_threshold,
        unhealthy_threshold: check.unhealthy_threshold,
    }
}

fn outlier_rules(outlier: &config::OutlierEjection) -> outlier::Rules {
    outlier::Rules {
        in_a_row: outlier.consecutive_failures,
        success_rate: outlier.success_rate.as_ref().map(|rate| outlier::SuccessRate {
            deviations: part(rate.deviations),
            min_requests: u64::from(rate.min_requests),
            min_endpoints: rate.min_endpoints,
        }),
        interval: outlier.interval,
        time: outlier.ejection_time,
        max_time: outlier.max_ejection_time,
        max_part: part(outlier.max_ejected),
    }
}
