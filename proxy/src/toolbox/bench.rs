//! `tamis filter bench`: what a filter costs, by hooks.
//!
//! Control plane. Times are wall times of one thread with nothing else to do; each includes what the proxy does around
//! a call to lend the message and to bound the guest.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::cases::Cases;
use super::inspect::bytes;
use super::stand::{self, Room, Stand};
use super::walk::{self, Script};
use crate::head::Attributes;
use crate::outbound::Desk;

/// Both bodies of the exchange that is measured unless a case says otherwise.
const BODY: &[u8] = &[b'a'; 4096];
/// Starting takes a hundred to a thousand times as long as a hook; so many are enough for a 99th percentile.
const STARTS: u32 = 200;
/// The order of the report.
const CALLS: [&str; 8] = [
    "on-request-head",
    "on-held-body",
    "on-request-body",
    "on-request-end",
    "on-response-head",
    "on-response-body",
    "on-response-end",
    "on-completion",
];

pub fn run(file: &Path, config: Option<&str>, cases: Option<&Path>, rounds: u32) -> Result<(), String> {
    let config = config.map(stand::json).transpose()?;
    let cases = cases.map(Cases::read).transpose()?;
    let (room, case) = match cases {
        Some(cases) => (Room::AsConfigured(cases.limits), cases.cases.into_iter().next()),
        None => (Room::Ample, None),
    };
    if case.as_ref().is_some_and(|case| !case.calls.is_empty()) {
        return Err("a case with `calls` cannot be measured: its answers are not there a second time".to_owned());
    }
    let (script, configured) = case.map_or_else(|| (exchange(), "null".to_owned()), |case| (case.script, case.config));
    let stand = Stand::set_up(file, room)?;
    let measured = stand::runtime()?.block_on(measure(&stand, &config.unwrap_or(configured), &script, rounds));
    crate::tell!(
        "{}",
        measured
            .map_err(|error| format!("{}: {error}", file.display()))?
            .shown(&stand)
    );
    Ok(())
}

struct Measured {
    starts: Vec<Duration>,
    calls: HashMap<&'static str, Vec<Duration>>,
    rounds: u32,
    ending: &'static str,
    fresh_bytes: usize,
    used_bytes: usize,
}

async fn measure(stand: &Stand, config: &str, script: &Script, rounds: u32) -> Result<Measured, String> {
    let filter = stand.link(config, &[])?;
    // Nobody takes orders: a filter that calls others without a case finds them unreachable.
    let (desk, orders) = Desk::new();
    drop(orders);
    let mut starts = Vec::new();
    for _ in 0..STARTS.min(rounds) {
        let since = Instant::now();
        let started = stand.start(&filter, &desk).await;
        starts.push(since.elapsed());
        drop(started.map_err(|error| error.to_string())?);
    }
    let mut instance = stand.start(&filter, &desk).await.map_err(|error| error.to_string())?;
    let fresh_bytes = instance.memory_bytes();
    let mut calls: HashMap<&str, Vec<Duration>> = HashMap::new();
    let mut ending = "";
    for _ in 0..rounds {
        let seen = walk::exchange(&filter, &mut instance, script, Attributes::default()).await;
        if let Some(fault) = seen.fault {
            let (hook, failure) = (fault.hook.as_str(), fault.failure.as_str());
            return Err(format!("failed in {hook} ({failure}): {}", fault.detail));
        }
        ending = seen.ending.as_str();
        for (call, took) in seen.laps {
            calls.entry(call).or_default().push(took);
        }
    }
    Ok(Measured {
        starts,
        calls,
        rounds,
        ending,
        fresh_bytes,
        used_bytes: instance.memory_bytes(),
    })
}

impl Measured {
    fn shown(mut self, stand: &Stand) -> String {
        let mut text = format!("{:<18} {:>10} {:>10} {:>8}\n", "", "median", "p99", "calls");
        let mut line = |name: &str, times: &mut Vec<Duration>| {
            times.sort_unstable();
            let (median, tail) = (percentile(times, 50), percentile(times, 99));
            text += &format!(
                "{name:<18} {:>10} {:>10} {:>8}\n",
                shown(median),
                shown(tail),
                times.len()
            );
        };
        line("start an instance", &mut self.starts);
        for call in CALLS {
            if let Some(times) = self.calls.get_mut(call) {
                line(call, times);
            }
        }
        let (fresh, used) = (bytes(self.fresh_bytes), bytes(self.used_bytes));
        text += &format!(
            "memory of an instance: {fresh} fresh, {used} after {} exchanges\n",
            self.rounds
        );
        text += &format!(
            "compiled in {:.1?}; the exchanges ended with: {}\n",
            stand.compiled_in, self.ending
        );
        if cfg!(debug_assertions) {
            text += "this is a debug build of Tamis: the times are too long\n";
        }
        text
    }
}

/// Of times in order; the smallest that at least so many percent are no longer than.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}

/// In microseconds, which is what hooks take.
fn shown(time: Duration) -> String {
    format!("{:.2} us", time.as_secs_f64() * 1e6)
}

fn exchange() -> Script {
    Script {
        method: Method::POST,
        scheme: "http",
        target: PathAndQuery::from_static("/path?query=1"),
        headers: HeaderMap::from_iter([
            (header::HOST, HeaderValue::from_static("test.example")),
            (header::ACCEPT, HeaderValue::from_static("*/*")),
            (header::USER_AGENT, HeaderValue::from_static("tamis")),
        ]),
        client: std::net::SocketAddr::from(([192, 0, 2, 1], 50000)),
        route: Some("test".to_owned()),
        clusters: Vec::new(),
        body: vec![Bytes::from_static(BODY)],
        status: StatusCode::OK,
        response_headers: HeaderMap::new(),
        response_body: vec![Bytes::from_static(BODY)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(percentile(&times, 50), Duration::from_micros(100));
        assert_eq!(percentile(&times, 99), Duration::from_micros(198));
        assert_eq!(percentile(&times[..1], 99), Duration::from_micros(1));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}
