//! How it is found out which endpoints can answer: by asking them, and by what came of requests.
//!
//! Control plane.

use std::time::Duration;

use crate::model::{HealthCheck, OutlierEjection, Probe, SuccessRate, UpstreamProtocol};
use crate::parse::ceiling::{Ceiling, at_least};
use crate::parse::{or_default, pattern};
use crate::reader::{Reader, quote};
use crate::shape::{At, OffOr};
use crate::units::show_duration;
use crate::vocabulary;

/// With three bad checks, an endpoint that fails is found within fifteen seconds, and costs it a request in five.
const INTERVAL: Duration = Duration::from_secs(5);
/// Spreads the checks of many proxies within a few of them.
const JITTER: u32 = 1_000;
/// A health page that takes longer is not healthy.
const TIMEOUT: Duration = Duration::from_secs(2);
/// One may be an accident.
const HEALTHY_THRESHOLD: u32 = 2;
/// Two may be a restart.
const UNHEALTHY_THRESHOLD: u32 = 3;

/// Envoy's: rare among endpoints that are well, soon there with one that is not.
const CONSECUTIVE_FAILURES: u32 = 5;
/// Long enough for a hundred requests to an endpoint that has something to do.
const OUTLIER_INTERVAL: Duration = Duration::from_secs(10);
/// A restart takes less.
const EJECTION_TIME: Duration = Duration::from_secs(30);
/// Once it is mended, an endpoint is back within minutes.
const MAX_EJECTION_TIME: Duration = Duration::from_secs(5 * 60);
/// With more of them gone, the rest would fail for want of capacity; the panic threshold's half.
const MAX_EJECTED: u32 = 5_000;
/// Envoy's: of endpoints that are alike, one in thirty-five is farther off by chance.
const DEVIATIONS: u32 = 19_000;
/// Of fewer, chance says more than the endpoint.
const MIN_REQUESTS: u32 = 100;
/// Of fewer there is no deviation to speak of.
const MIN_ENDPOINTS: usize = 5;

/// The inner `None` is "off".
pub(super) fn health_check(
    check: Option<OffOr<vocabulary::HealthCheck>>,
    protocol: UpstreamProtocol,
    reader: &mut Reader,
) -> Option<Option<HealthCheck>> {
    let Some(OffOr::On(check)) = check else {
        return Some(None);
    };
    reader.within("health_check", |reader| {
        let probe = match (check.http, check.grpc, check.tcp) {
            (Some(http), _, _) => reader.within("http", |reader| http_probe(http, reader)),
            (None, Some(grpc), _) => grpc_probe(grpc, protocol, reader),
            (None, None, Some(_)) => Some(Probe::Tcp),
            // Noted when the block was read.
            (None, None, None) => None,
        };
        let interval = or_default(check.interval, INTERVAL);
        let ceiling = Ceiling {
            setting: "health_check.interval",
            value: interval,
            show: show_duration,
        };
        let timeout = check.timeout.map(|period| period.map(|period| period.0));
        let timeout = ceiling.hold("timeout", timeout.as_ref(), TIMEOUT, reader);
        Some(Some(HealthCheck {
            probe: probe?,
            interval,
            jitter: check.jitter.map_or(JITTER, |part| part.as_u32()),
            timeout: timeout?,
            healthy_threshold: check
                .healthy_threshold
                .map_or(HEALTHY_THRESHOLD, |count| count.as_u32()),
            unhealthy_threshold: check
                .unhealthy_threshold
                .map_or(UNHEALTHY_THRESHOLD, |count| count.as_u32()),
        }))
    })
}

fn grpc_probe(
    At { place, value: grpc }: At<vocabulary::GrpcProbe>,
    protocol: UpstreamProtocol,
    reader: &mut Reader,
) -> Option<Probe> {
    if protocol == UpstreamProtocol::Http1 {
        let message = "gRPC needs HTTP/2; write `protocol: http2` in the cluster, or check with `http` or `tcp`";
        reader.error_at(&place, "grpc", message);
        return None;
    }
    Some(Probe::Grpc {
        service: grpc.service.unwrap_or_default(),
    })
}

fn http_probe(http: vocabulary::HttpProbe, reader: &mut Reader) -> Option<Probe> {
    let path = match http.path {
        Some(path) => target(path, reader),
        None => Some("/".to_owned()),
    };
    let host = match http.host {
        Some(host) => authority(host, reader).map(Some),
        None => Some(None),
    };
    let statuses = http.statuses.unwrap_or_default();
    Some(Probe::Http {
        path: path?,
        host: host?,
        statuses: statuses
            .iter()
            .filter_map(|status| u16::try_from(status.0).ok())
            .collect(),
    })
}

/// RFC 9112 3.2.1: path and query, as they are sent.
fn target(path: At<String>, reader: &mut Reader) -> Option<String> {
    if path.value.starts_with('/')
        && path
            .value
            .bytes()
            .all(|byte| matches!(byte, b'!'..=b'~' if byte != b'#'))
    {
        return Some(path.value);
    }
    let message = format!("`{}` is not a path; write it as in `/healthz`", quote(&path.value));
    reader.error_at(&path.place, "path", message);
    None
}

/// A host, with a port or without.
fn authority(host: At<String>, reader: &mut Reader) -> Option<String> {
    let lower = host.value.to_ascii_lowercase();
    let name = match lower.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && port.parse::<u16>().is_ok() => name,
        _ => lower.as_str(),
    };
    match pattern::check_host(&host.value, name) {
        Ok(()) => Some(host.value),
        Err(message) => {
            reader.error_at(&host.place, "host", message);
            None
        }
    }
}

/// The inner `None` is "off".
pub(super) fn outlier_ejection(
    outlier: Option<OffOr<vocabulary::OutlierEjection>>,
    reader: &mut Reader,
) -> Option<Option<OutlierEjection>> {
    let Some(OffOr::On(outlier)) = outlier else {
        return Some(None);
    };
    let ejection_time = outlier.ejection_time.map(|period| period.map(|period| period.0));
    let ceiling = Ceiling {
        setting: "outlier_ejection.max_ejection_time",
        value: or_default(
            outlier.max_ejection_time,
            at_least(MAX_EJECTION_TIME, ejection_time.as_ref()),
        ),
        show: show_duration,
    };
    let ejection_time = reader.within("outlier_ejection", |reader| {
        ceiling.hold("ejection_time", ejection_time.as_ref(), EJECTION_TIME, reader)
    });
    Some(Some(OutlierEjection {
        consecutive_failures: match outlier.consecutive_failures {
            None => Some(CONSECUTIVE_FAILURES),
            Some(OffOr::Off) => None,
            Some(OffOr::On(count)) => Some(count.as_u32()),
        },
        success_rate: match outlier.success_rate {
            None | Some(OffOr::Off) => None,
            Some(OffOr::On(rate)) => Some(success_rate(&rate)),
        },
        interval: or_default(outlier.interval, OUTLIER_INTERVAL),
        ejection_time: ejection_time?,
        max_ejection_time: ceiling.value,
        max_ejected: outlier.max_ejected.map_or(MAX_EJECTED, |part| part.as_u32()),
    }))
}

fn success_rate(rate: &vocabulary::SuccessRate) -> SuccessRate {
    SuccessRate {
        deviations: rate.deviations.map_or(DEVIATIONS, |part| part.as_u32()),
        min_requests: rate.min_requests.map_or(MIN_REQUESTS, |count| count.as_u32()),
        min_endpoints: rate.min_endpoints.map_or(MIN_ENDPOINTS, |count| count.as_usize()),
    }
}
