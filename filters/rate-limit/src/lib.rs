//! `rate-limit`: how often somebody may call, over all workers of the proxy.
//!
//! ```yaml
//! filters:
//!   rate-limit:
//!     component: filters/target/components/rate-limit.wasm
//!     grants: [clock, key_value, metrics]
//!     config:
//!       limits:
//!         - { name: client, rate: 100/1m }
//!         - name: writes
//!           rate: 10/1s
//!           burst: 20
//!           key: [{ attribute: tenant }, method]
//!           on_missing_key: skip
//!           match: { methods: [POST, PUT, DELETE], path_prefixes: [/api] }
//! ```
//!
//! | field | default | meaning |
//! |---|---|---|
//! | `limits` | | 1 to 32 limits; a request must be within each that applies to it |
//! | `limits[].name` | | 1 to 64 of `[a-z0-9_-]`: in the response's fields, in metrics and in keys |
//! | `limits[].rate` | | `AMOUNT/WINDOW`, such as `100/1m`; units `ms`, `s`, `m`, `h`, `d`; the window at most 31d |
//! | `limits[].burst` | the amount | tokens of a full bucket: what may come at once after a pause |
//! | `limits[].key` | `[client_address]` | the parts of what is counted under, see below |
//! | `limits[].on_missing_key` | `share` | what a request without one of the parts is: `share` one bucket, or `skip` the limit |
//! | `limits[].match.methods` | all | only these methods |
//! | `limits[].match.path_prefixes` | all | only paths under one of these, by whole segments: `/v1` is not `/v10` |
//! | `limits[].match.headers` | none | only requests with all of these values, `NAME: VALUE` |
//! | `limits[].cost` | `{ fixed: 1 }` | tokens a request takes: `{ fixed: N }`, or the number in `{ header: NAME }` or `{ attribute: NAME }` |
//! | `limits[].dry_run` | `false` | count what would be refused, and let it through; clients see nothing of the limit |
//! | `announce` | `true` | `RateLimit` and `RateLimit-Policy` on responses |
//!
//! The parts of a key:
//!
//! | part | counts by |
//! |---|---|
//! | `client_address` | the address; of IPv6 the /64, since a host can choose among all of its addresses |
//! | `{ client_network: { ipv4: 24, ipv6: 56 } }` | the network; 32 and 64 when not given |
//! | `{ header: NAME }`, `{ query: NAME }` | the one value; a parameter is decoded first |
//! | `{ attribute: NAME }` | what an earlier filter has found out, such as the tenant |
//! | `path`, `method`, `route`, `listener` | those of the request |
//! | `{ literal: TEXT }` | nothing: one bucket for all |
//!
//! A header or parameter that is there more than once counts in a bucket that all such requests share, whatever
//! `on_missing_key` says: the upstream may read another of the values than this filter would. A header or a parameter
//! that a client can choose freely is no limit at all; count by what an earlier filter has verified. The same goes for
//! a cost from a header: an earlier filter must have set it. A cost that is no number is 1, so is 0, and a cost over
//! the burst takes a full bucket.
//!
//! # How it counts
//!
//! Each key has a bucket of `burst` tokens, refilled at `rate`. It is one value in the table of `key_value`, changed by
//! compare-and-swap, so all workers count together; a table that is granted by name is shared with whoever else has it.
//! A value lives until its bucket is full again; a reload that changes a rate or burst begins with full buckets. Keys
//! of more than 128 bytes, or that are no text, are stored as their SHA-256. When the table is full, the bucket that
//! was not used for longest is forgotten, which means full again: a bucket takes about 400 bytes of
//! `limits.key_value_bytes`, so the default has room for some 40,000.
//!
//! A request takes its tokens only when every limit allows it: a refused one costs nothing. A swap that fails, because
//! another request of the same key was quicker, is tried again on the new value, 8 times at most; a request that the
//! last value allows then passes uncounted (metric `contended`). So under contention a limit may let a little too much
//! through while there are tokens, and nothing when there are none; it never refuses what is within the limit.
//!
//! # What a client gets
//!
//! Over a limit: 429 (RFC 6585 section 4) with `Retry-After` in seconds, rounded up, and a body of
//! application/problem+json (RFC 9457). All responses carry the fields of draft-ietf-httpapi-ratelimit-headers-11,
//! Lists of structured fields: `RateLimit-Policy` has each limit that applies, `RateLimit` the one with the longest
//! wait, or else the fewest tokens left:
//!
//! ```text
//! RateLimit-Policy: "client";q=100;w=60, "writes";q=20;w=2
//! RateLimit: "writes";r=19;t=1
//! ```
//!
//! `q` is the burst and `w` the seconds in which it is refilled; `r` are the tokens left, `t` the seconds until all are
//! there again. The partition key `pk` is not sent, as it would tell of the client. Fields of the upstream's stay: ours
//! are appended.
//!
//! For operators: the counters `allowed`, `limited`, `dry_run` (would have been limited) and `contended`, each with the
//! label `limit`; and the attribute `rate-limit` with the name of the limit that refused.

mod bucket;
mod fields;
mod key;
mod limit;
mod rate;

use std::rc::Rc;

use serde::Deserialize;
use tamis_filter::{
    Exchange, Failure, Filter, Reply, Request, RequestVerdict, Response, Verdict, clock, filter, metrics,
};

use bucket::Decision;
use limit::{Check, KeyValue, Limit, LimitConfig, Mode, Taken};

/// Each is read and written in the table for each request; and a metric has at most 32 sets of label values.
const MAX_LIMITS: usize = 32;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    limits: Vec<LimitConfig>,
    #[serde(default = "yes")]
    announce: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone)]
struct RateLimit {
    limits: Rc<[Limit]>,
    announce: bool,
    /// Of this exchange; none until a limit applies.
    announced: Option<Announced>,
}

/// The fields that the exchange's response gets.
#[derive(Debug, Clone)]
struct Announced {
    policy: String,
    rate_limit: String,
}

#[filter]
impl Filter for RateLimit {
    type Config = Config;

    fn configure(Config { limits, announce }: Config) -> Result<Self, String> {
        if limits.is_empty() || limits.len() > MAX_LIMITS {
            return Err(format!("limits: there must be 1 to {MAX_LIMITS}, not {}", limits.len()));
        }
        let mut checked: Vec<Limit> = Vec::with_capacity(limits.len());
        for (index, config) in limits.into_iter().enumerate() {
            let limit = Limit::new(config).map_err(|error| format!("limits[{index}]: {error}"))?;
            if checked.iter().any(|earlier| earlier.name == limit.name) {
                return Err(format!("limits[{index}]: the name `{}` is there already", limit.name));
            }
            checked.push(limit);
        }
        Ok(RateLimit {
            limits: checked.into(),
            announce,
            announced: None,
        })
    }

    fn on_request_head(&mut self, request: &mut Request, exchange: &mut Exchange) -> Result<RequestVerdict, Failure> {
        let now_ns = clock::monotonic_ms().saturating_mul(1_000_000);
        let limits = Rc::clone(&self.limits);
        let applying = limits.iter().filter_map(|limit| limit.check(request, exchange, now_ns));
        let mut checks: Vec<Check> = applying.collect();
        let taken = take(&mut checks, now_ns)?;
        count(&checks, &taken);
        let enforced = || checks.iter().filter(|check| check.limit.mode == Mode::Enforce);
        if self.announce {
            self.announced = announced(enforced());
        }
        match enforced().max_by_key(|check| wait_ns(check)) {
            Some(check) if wait_ns(check) > 0 => {
                exchange.set_attribute("rate-limit", &check.limit.name)?;
                Ok(refusal(fields::seconds(wait_ns(check))).into())
            }
            _ => Ok(RequestVerdict::Proceed),
        }
    }

    fn on_response_head(&mut self, _: &Request, response: &mut Response, _: &mut Exchange) -> Result<Verdict, Failure> {
        if let Some(Announced { policy, rate_limit }) = self.announced.take() {
            response.append_header("ratelimit-policy", policy)?;
            response.append_header("ratelimit", rate_limit)?;
        }
        Ok(Verdict::Proceed)
    }
}

/// Takes the tokens from all limits or, if one that is enforced refuses, from none. None is for limits that were not
/// asked any more. A limit in dry run takes what it would take if it stood alone.
fn take(checks: &mut [Check], now_ns: u64) -> Result<Vec<Option<Taken>>, Failure> {
    let mut taken = vec![None; checks.len()];
    if checks.iter().any(refuses) {
        return Ok(taken);
    }
    for index in 0..checks.len() {
        taken[index] = Some(checks[index].take(now_ns, &KeyValue)?);
        if refuses(&checks[index]) {
            for earlier in 0..index {
                if taken[earlier].take() == Some(Taken::Counted) {
                    checks[earlier].give_back(now_ns, &KeyValue)?;
                }
            }
            break;
        }
    }
    Ok(taken)
}

fn refuses(check: &Check) -> bool {
    check.limit.mode == Mode::Enforce && wait_ns(check) > 0
}

/// 0 when the limit allows the request.
fn wait_ns(check: &Check) -> u64 {
    match check.decision {
        Decision::Allowed(_) => 0,
        Decision::Limited { wait_ns, .. } => wait_ns,
    }
}

/// Counts each limit's own decision: one that would have allowed a request which another refuses counts nothing.
fn count(checks: &[Check], taken: &[Option<Taken>]) {
    for (check, taken) in checks.iter().zip(taken) {
        let labels = metrics::labels(&[("limit", &check.limit.name)]);
        match (check.decision, check.limit.mode) {
            (Decision::Limited { .. }, Mode::Enforce) => labels.counter_add("limited", 1),
            (Decision::Limited { .. }, Mode::DryRun) => labels.counter_add("dry_run", 1),
            (Decision::Allowed(_), _) if taken.is_some() => labels.counter_add("allowed", 1),
            (Decision::Allowed(_), _) => {}
        }
        if *taken == Some(Taken::Uncounted) {
            labels.counter_add("contended", 1);
        }
    }
}

fn announced<'a>(enforced: impl Iterator<Item = &'a Check<'a>> + Clone) -> Option<Announced> {
    // The longest wait first, then the fewest tokens, then the longest time to a full bucket.
    let tightness = |check: &&Check| {
        let state = check.state();
        (wait_ns(check), u64::MAX - state.remaining, state.refill_ns)
    };
    let tightest = enforced.clone().max_by_key(tightness)?;
    let policies: Vec<String> = enforced
        .map(|check| fields::policy(&check.limit.name, &check.limit.rate))
        .collect();
    Some(Announced {
        policy: policies.join(", "),
        rate_limit: fields::rate_limit(&tightest.limit.name, tightest.state()),
    })
}

fn refusal(retry_after_s: u64) -> Reply {
    Reply::new(429)
        .header("retry-after", retry_after_s.to_string())
        .header("content-type", "application/problem+json")
        // RFC 6585 section 4: such a response must not be stored by a cache.
        .header("cache-control", "no-store")
        .body("{\"type\":\"about:blank\",\"title\":\"Too Many Requests\",\"status\":429}\n")
}

#[cfg(test)]
mod tests;
