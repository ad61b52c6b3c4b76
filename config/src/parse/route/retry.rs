//! When a route's requests are sent once more.
//!
//! Control plane.

use std::time::Duration;

use crate::model::{Retry, RetryOn};
use crate::parse::pattern;
use crate::reader::Reader;
use crate::shape::At;
use crate::units::{Period, show_duration};
use crate::vocabulary;
use crate::word::RetryCondition;

/// What is worth another try at another server, and no answer to what was asked.
const ON: [RetryOn; 4] = [
    RetryOn::ConnectFailure,
    RetryOn::Reset,
    RetryOn::Timeout,
    RetryOn::GatewayError,
];
/// Two servers that fail at once are an accident; three are an outage.
const ATTEMPTS: u32 = 3;
/// RFC 9110 section 9.2.2.
const METHODS: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
/// Envoy's: some round trips, so that what made a server stumble may have passed, and nobody notices.
const BACKOFF: Duration = Duration::from_millis(25);
/// Envoy's.
const MAX_BACKOFF_FACTOR: u32 = 10;
/// Forms and API calls fit; of ten thousand at once it is 640 MiB, were all of them so long.
const MAX_BODY: usize = 64 << 10;
/// Nobody has more of their own.
const MAX_METHODS: usize = 32;

/// The inner `None` is a route that does not retry. `timeout` is the route's own.
pub(super) fn retry(
    retry: Option<At<vocabulary::Retry>>,
    timeout: Option<Duration>,
    reader: &mut Reader,
) -> Option<Option<Retry>> {
    let Some(At { value: retry, .. }) = retry else {
        return Some(None);
    };
    let on = reader.within("on", |reader| conditions(retry.on, reader));
    let methods = reader.within("methods", |reader| methods(retry.methods, reader));
    let per_try_timeout = per_try_timeout(retry.per_try_timeout, timeout, reader);
    let backoff = reader.within("backoff", |reader| backoff(retry.backoff, reader));
    let (backoff, max_backoff) = backoff?;
    Some(Some(Retry {
        on: on?,
        attempts: retry.attempts.map_or(ATTEMPTS, |count| count.as_u32()),
        per_try_timeout: per_try_timeout?,
        methods: methods?,
        backoff,
        max_backoff,
        max_body: retry.max_body.map_or(MAX_BODY, |size| size.as_usize()),
    }))
}

fn conditions(listed: Option<At<Vec<At<RetryCondition>>>>, reader: &mut Reader) -> Option<Vec<RetryOn>> {
    let Some(At { place, value: listed }) = listed else {
        return Some(ON.to_vec());
    };
    if listed.is_empty() {
        reader.error(
            &place,
            "empty, so nothing would be tried again; add a condition, or remove `retry`",
        );
        return None;
    }
    let mut conditions = Vec::with_capacity(listed.len());
    for At { place, value } in listed {
        if conditions.contains(&value.0) {
            reader.error(&place, "stands here twice; remove one");
            return None;
        }
        conditions.push(value.0);
    }
    Some(conditions)
}

fn methods(listed: Option<At<Vec<At<String>>>>, reader: &mut Reader) -> Option<Vec<String>> {
    let Some(At { place, value: listed }) = listed else {
        return Some(METHODS.map(str::to_owned).to_vec());
    };
    if listed.len() > MAX_METHODS {
        reader.error(&place, format!("more than {MAX_METHODS} methods; remove some"));
        return None;
    }
    let mut sound = true;
    let mut methods = Vec::with_capacity(listed.len());
    for At { place, value } in listed {
        if let Err(message) = pattern::check_method(&value) {
            reader.error(&place, message);
            sound = false;
        }
        methods.push(value);
    }
    sound.then_some(methods)
}

/// The inner `None` is "the cluster's".
fn per_try_timeout(
    given: Option<At<Period>>,
    timeout: Option<Duration>,
    reader: &mut Reader,
) -> Option<Option<Duration>> {
    let Some(At { place, value }) = given else {
        return Some(None);
    };
    match timeout {
        Some(timeout) if value.0 > timeout => {
            let message = format!(
                "longer than the route's `timeout` of {}, which spans all tries; shorten one or lengthen the other",
                show_duration(timeout)
            );
            reader.error_at(&place, "per_try_timeout", message);
            None
        }
        _ => Some(Some(value.0)),
    }
}

fn backoff(given: Option<vocabulary::Backoff>, reader: &mut Reader) -> Option<(Duration, Duration)> {
    let (base, max) = given.map_or((None, None), |given| (given.base, given.max));
    let base = base.map_or(BACKOFF, |base| base.value.0);
    match max {
        None => Some((base, base.saturating_mul(MAX_BACKOFF_FACTOR))),
        Some(max) if max.value.0 < base => {
            let message = format!("shorter than `base` of {}; lengthen it", show_duration(base));
            reader.error_at(&max.place, "max", message);
            None
        }
        Some(max) => Some((base, max.value.0)),
    }
}
