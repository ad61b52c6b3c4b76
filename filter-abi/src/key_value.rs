//! A table that all instances of the filter share; needs the grant `key_value`.
//!
//! With `key_value: NAME` it is shared by all filters that are granted that name. It is a cache: it is bounded
//! (`limits.key_value_bytes`), and what was not used for longest makes room, so what is kept here can be gone at any
//! time.
//!
//! ```no_run
//! # use std::time::Duration;
//! use tamis_filter::key_value::{self, Computed};
//! use tamis_filter::{Failure, outbound};
//!
//! const MINUTE: Duration = Duration::from_secs(60);
//!
//! /// At most 100 calls a minute.
//! fn within_limit(client: &str) -> Result<bool, Failure> {
//!     Ok(key_value::add(client, 1, Some(MINUTE))? <= 100)
//! }
//!
//! /// Asks once a minute, however many requests come at once; after a failure, in which there are no keys, once a second.
//! fn keys() -> Result<Option<Vec<u8>>, Failure> {
//!     key_value::get_or_compute("keys", Duration::from_secs(2), || {
//!         let answer = outbound::get("auth", "/keys").send()?;
//!         Ok(Some(match answer.status {
//!             200 => Computed::new(answer.body).kept_for(MINUTE),
//!             _ => Computed::new("").kept_for(Duration::from_secs(1)),
//!         }))
//!     })
//! }
//! ```

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::Failure;
use crate::host::key_value;

/// Why the table did not take a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreError {
    /// Key and value together are over an eighth of the table.
    TooLarge,
}

impl fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            StoreError::TooLarge => "not stored: key and value are over an eighth of the table",
        })
    }
}

impl Error for StoreError {}

/// The value of that key.
pub fn get(key: &str) -> Option<Vec<u8>> {
    key_value::get(key)
}

/// Sets a value. Without a time to live it stays until it has to make room.
///
/// # Errors
///
/// `TooLarge`.
pub fn set(key: &str, value: impl AsRef<[u8]>, ttl: Option<Duration>) -> Result<(), StoreError> {
    key_value::set(key, value.as_ref(), ttl.map(milliseconds))
}

/// Removes a value; whether there was one.
pub fn delete(key: &str) -> bool {
    key_value::delete(key)
}

/// Sets `value` if the present value is `expected` (none: if there is none); whether it did.
///
/// # Errors
///
/// `TooLarge`.
pub fn compare_and_swap(
    key: &str,
    expected: Option<&[u8]>,
    value: impl AsRef<[u8]>,
    ttl: Option<Duration>,
) -> Result<bool, StoreError> {
    key_value::compare_and_swap(key, expected, value.as_ref(), ttl.map(milliseconds))
}

/// Adds to a counter and gives the sum, which stops at the ends of its range.
///
/// A counter begins at 0 and is stored as 8 bytes, little end first; another value counts as 0. The time to live is set
/// when the counter begins.
///
/// # Errors
///
/// `TooLarge`.
pub fn add(key: &str, by: i64, ttl: Option<Duration>) -> Result<i64, StoreError> {
    key_value::add(key, by, ttl.map(milliseconds))
}

/// What a claim found.
#[derive(Debug)]
pub enum Claimed<'a> {
    /// There is a value.
    Value(Vec<u8>),
    /// There is no value, and this filter is to make it, while all others wait for it.
    Yours(Claim<'a>),
    /// Somebody else is making it, and has not come to an end in time.
    TimedOut,
}

/// The value; or, for one guest at a time, the duty to make it, for which all others wait up to `wait`.
pub fn claim(key: &str, wait: Duration) -> Claimed<'_> {
    let wait = u32::try_from(milliseconds(wait)).unwrap_or(u32::MAX);
    match key_value::claim(key, wait) {
        key_value::Claimed::Value(value) => Claimed::Value(value),
        key_value::Claimed::Yours => Claimed::Yours(Claim { key, settled: false }),
        key_value::Claimed::TimedOut => Claimed::TimedOut,
    }
}

/// The duty to make a value: [`set`](Claim::set) hands it to whoever waits; dropping the claim gives up, and the next
/// one who waits gets the duty. It ends with the hook at the latest.
#[derive(Debug)]
pub struct Claim<'a> {
    key: &'a str,
    /// Whether the claim has come to its end: what others claim afterwards is not ours to release.
    settled: bool,
}

impl Claim<'_> {
    /// Sets the value, and hands it to whoever waits.
    ///
    /// # Errors
    ///
    /// `TooLarge`; the claim is given up then.
    pub fn set(mut self, value: impl AsRef<[u8]>, ttl: Option<Duration>) -> Result<(), StoreError> {
        let stored = set(self.key, value, ttl);
        self.settled = stored.is_ok();
        stored
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.settled {
            key_value::release(self.key);
        }
    }
}

/// What was computed for the table, and how long it is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Computed {
    value: Vec<u8>,
    ttl: Option<Duration>,
}

impl Computed {
    /// A value that stays until it has to make room.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Computed {
            value: value.into(),
            ttl: None,
        }
    }

    /// Gives it a time to live.
    #[must_use]
    pub fn kept_for(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// The value of that key; when there is none, what `compute` makes of it, which is stored for as long as `compute` says.
/// While one guest computes, all others that ask for the same key wait up to `wait` for its result.
///
/// When `compute` gives nothing or fails, nothing is stored, and the next one who waits computes. A value that is too
/// large for the table is given, but not stored.
///
/// # Errors
///
/// What `compute` fails with; and a failure when the wait was in vain. (Whoever would rather go on without the value
/// uses [`claim`].)
pub fn get_or_compute(
    key: &str,
    wait: Duration,
    compute: impl FnOnce() -> Result<Option<Computed>, Failure>,
) -> Result<Option<Vec<u8>>, Failure> {
    let claim = match claim(key, wait) {
        Claimed::Value(value) => return Ok(Some(value)),
        Claimed::TimedOut => return Err(Failure::new(format!("nobody has computed `{key}` within {wait:?}"))),
        Claimed::Yours(claim) => claim,
    };
    let Some(Computed { value, ttl }) = compute()? else {
        return Ok(None);
    };
    let _too_large = claim.set(&value, ttl);
    Ok(Some(value))
}

/// Rounded up: a time to live that is not nothing must not become nothing.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Proxy;

    const MINUTE: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_computed_value_is_kept_for_its_time() {
        let proxy = Proxy::new();
        let compute = |value: &'static str, ttl: Option<Duration>| {
            let computed = Computed::new(value);
            let computed = ttl.into_iter().fold(computed, Computed::kept_for);
            let value = proxy.within(|| get_or_compute("k", SECOND, || Ok(Some(computed))));
            String::from_utf8(value.expect("it computes").expect("a value")).expect("a text")
        };
        assert_eq!(compute("one", Some(MINUTE)), "one");
        proxy.advance(MINUTE - SECOND);
        assert_eq!(compute("two", Some(MINUTE)), "one");
        proxy.advance(SECOND);
        // Each value has its own time.
        assert_eq!(compute("failure", Some(SECOND)), "failure");
        proxy.advance(SECOND);
        assert_eq!(compute("three", None), "three");
        proxy.advance(1000 * MINUTE);
        assert_eq!(compute("four", None), "three");
    }

    #[test]
    fn whoever_computes_nothing_lets_the_next_one_try() {
        let proxy = Proxy::new();
        proxy.within(|| {
            let compute = |result: Result<Option<Vec<u8>>, Failure>| {
                get_or_compute("k", SECOND, || result.map(|value| value.map(Computed::new)))
            };
            assert_eq!(compute(Ok(None)).expect("it computes"), None);
            assert!(compute(Err(Failure::new("no"))).is_err());
            let large = vec![0; 16 << 20];
            assert_eq!(compute(Ok(Some(large.clone()))).expect("it computes"), Some(large));
            assert_eq!(get("k"), None);
            assert_eq!(compute(Ok(Some(vec![1]))).expect("it computes"), Some(vec![1]));
            assert_eq!(get("k"), Some(vec![1]));
        });
        assert_eq!(proxy.now_ms(), Proxy::new().now_ms(), "nobody has waited");
    }

    #[test]
    fn who_waits_in_vain_is_told() {
        let proxy = Proxy::new();
        proxy.claim_elsewhere("k");
        let before_ms = proxy.now_ms();
        proxy.within(|| {
            assert!(matches!(claim("k", SECOND), Claimed::TimedOut));
            let computed = get_or_compute("k", SECOND, || panic!("another computes it"));
            let failure = computed.expect_err("nobody came to an end").to_string();
            assert!(failure.ends_with("nobody has computed `k` within 1s"), "{failure}");
        });
        assert_eq!(proxy.now_ms() - before_ms, 2000);
    }

    #[test]
    fn a_claim_ends_when_it_is_set_or_dropped_or_its_hook_ends() {
        let proxy = Proxy::new();
        proxy.within(|| {
            let Claimed::Yours(claim) = claim("k", SECOND) else {
                panic!("nobody else wants it")
            };
            assert!(matches!(super::claim("k", SECOND), Claimed::TimedOut));
            drop(claim);
            let Claimed::Yours(claim) = super::claim("k", SECOND) else {
                panic!("it was dropped")
            };
            claim.set("v", None).expect("it is small");
            assert!(matches!(super::claim("k", SECOND), Claimed::Value(value) if value == b"v"));
            let Claimed::Yours(claim) = super::claim("other", SECOND) else {
                panic!("nobody else wants it")
            };
            std::mem::forget(claim);
        });
        proxy.within(|| assert!(matches!(claim("other", SECOND), Claimed::Yours(_))));
    }

    #[test]
    fn times_are_rounded_up_to_milliseconds() {
        let cases = [
            (Duration::ZERO, 0),
            (Duration::from_nanos(1), 1),
            (Duration::from_micros(1001), 2),
            (MINUTE, 60_000),
            (Duration::MAX, u64::MAX),
        ];
        for (duration, expected) in cases {
            assert_eq!(milliseconds(duration), expected, "{duration:?}");
        }
    }
}
