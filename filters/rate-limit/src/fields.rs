//! What a client is told: `RateLimit-Policy`, `RateLimit` and `Retry-After`. Pure.
//!
//! Limits' names are of `[a-z0-9_-]`, so they are Strings of structured fields as they are (RFC 9651 section 3.3.3).

use crate::bucket::State;
use crate::rate::Rate;

const SECOND_NS: u64 = 1_000_000_000;

/// A member of `RateLimit-Policy`. `q` is a full bucket and `w` the time in which it fills, so that `r` of `RateLimit`
/// is never more than `q`, and `q` by `w` is the rate.
pub fn policy(name: &str, rate: &Rate) -> String {
    format!("\"{name}\";q={};w={}", rate.burst(), seconds(rate.capacity_ns()))
}

/// A member of `RateLimit`. `t` is the time until the bucket is full, which is never before `Retry-After`.
pub fn rate_limit(name: &str, state: State) -> String {
    format!("\"{name}\";r={};t={}", state.remaining, seconds(state.refill_ns))
}

/// RFC 9110 section 10.2.3: whole seconds. Rounded up, as a client that comes a moment too early is refused again.
pub fn seconds(time_ns: u64) -> u64 {
    time_ns.div_ceil(SECOND_NS)
}
