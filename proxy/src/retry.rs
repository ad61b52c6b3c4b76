//! Whether a request is sent once more, and when.
//!
//! Data plane; pure: what happened, the time that is left and the dice are arguments. A request is sent twice only
//! where the route says so, where nothing of a response has gone to the client, and where a repetition does no harm:
//! nothing of it was sent, or its method is one that may be repeated (RFC 9110 9.2.2). How many of a cluster's requests
//! may be, is the [`budget`]'s to say. It knows no socket, no body and no filter: these are not asked again.

pub mod budget;

use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};

use crate::reply::Kind;

/// What a retry that was made counts as, beside the words of [`Refusal`].
pub const RETRIED: &str = "retried";

/// The cause of one more try that needs no policy: the server took nothing of the request.
pub const UNSENT: &str = "unsent";

/// A route's settings; defaults and reasons are the configuration's.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub on: Vec<Condition>,
    /// Tries in all.
    pub attempts: u32,
    pub per_try_timeout: Option<Duration>,
    /// Those that may be sent twice.
    pub methods: Vec<Method>,
    /// The longest wait before the second try.
    pub backoff: Duration,
    pub max_backoff: Duration,
    /// Bytes of a body.
    pub max_body: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    ConnectFailure,
    Reset,
    Timeout,
    Statuses(RangeInclusive<u16>),
}

/// What came of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nothing was sent.
    ConnectFailure,
    Reset,
    Timeout,
    Status(StatusCode),
}

/// A try that has come to its end.
#[derive(Clone, Debug)]
pub struct Tried<'a> {
    pub cause: Cause,
    pub method: &'a Method,
    /// How many there were, this one included.
    pub attempts: u32,
    pub body: Copy,
    /// What the response asks for.
    pub retry_after: Option<Duration>,
    /// Of the route's timeout.
    pub left: Option<Duration>,
}

/// Whether the request's body can be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    Whole,
    /// It was longer than what is kept.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to try again for.
    Settled,
    Refused(Refusal),
    /// After this wait.
    Again(Duration),
}

/// Why a request is not sent once more although its route tries again for what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There were as many tries as there may be.
    Attempts,
    /// The method does not bear it.
    Method,
    Body,
    /// The server asks for a longer pause than is waited.
    RetryAfter,
    /// The route's timeout would be over.
    Deadline,
    /// Too many of the cluster's requests are sent twice already.
    Budget,
    /// `max_retries` are under way.
    Limit,
    /// There is no endpoint for it, or no room there.
    NoEndpoint,
}

impl Refusal {
    /// A word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Method => "method",
            Self::Body => "body",
            Self::RetryAfter => "retry_after",
            Self::Deadline => "deadline",
            Self::Budget => "budget",
            Self::Limit => "limit",
            Self::NoEndpoint => "no_endpoint",
        }
    }
}

impl Cause {
    /// `None` for what another try would not mend.
    pub fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::ConnectFailed | Kind::ConnectTimeout | Kind::UpstreamTls => Some(Self::ConnectFailure),
            Kind::Reset | Kind::Worn | Kind::ResetBy(_) | Kind::Protocol => Some(Self::Reset),
            Kind::UpstreamTimeout => Some(Self::Timeout),
            Kind::Service(fault) if fault.is_reset() => Some(Self::Reset),
            _ => None,
        }
    }

    /// A word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectFailure => "connect_failure",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status(_) => "status",
        }
    }
}

impl Condition {
    fn holds(&self, cause: Cause) -> bool {
        match (self, cause) {
            (Self::ConnectFailure, Cause::ConnectFailure)
            | (Self::Reset, Cause::Reset)
            | (Self::Timeout, Cause::Timeout) => true,
            (Self::Statuses(range), Cause::Status(status)) => range.contains(&status.as_u16()),
            _ => false,
        }
    }
}

impl Policy {
    /// `draw` is a uniform number.
    pub fn decide(&self, tried: &Tried<'_>, draw: u64) -> Verdict {
        if !self.on.iter().any(|condition| condition.holds(tried.cause)) {
            return Verdict::Settled;
        }
        let was_sent = tried.cause != Cause::ConnectFailure;
        let wait = self
            .wait(tried.attempts, draw)
            .max(tried.retry_after.unwrap_or_default());
        if tried.attempts >= self.attempts {
            Verdict::Refused(Refusal::Attempts)
        } else if was_sent && !self.methods.contains(tried.method) {
            Verdict::Refused(Refusal::Method)
        } else if tried.body == Copy::Lost {
            Verdict::Refused(Refusal::Body)
        } else if tried.retry_after.is_some_and(|pause| pause > self.max_backoff) {
            Verdict::Refused(Refusal::RetryAfter)
        } else if tried.left.is_some_and(|left| left <= wait) {
            Verdict::Refused(Refusal::Deadline)
        } else {
            Verdict::Again(wait)
        }
    }

    /// Any time up to a ceiling that doubles with each try: requests that failed together do not come back together.
    fn wait(&self, attempts: u32, draw: u64) -> Duration {
        let doublings = attempts.saturating_sub(1).min(u32::BITS - 1);
        let ceiling = self.backoff.saturating_mul(1 << doublings).min(self.max_backoff);
        let nanoseconds = (ceiling.as_nanos() * u128::from(draw)) >> u64::BITS;
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

/// The pause that a response asks for, when it says so in seconds (RFC 9110 10.2.3). A date is for clients: what is
/// waited here is far shorter than what clocks differ by.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim_ascii();
    let is_number = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| Duration::from_secs(seconds.parse().unwrap_or(u64::from(u32::MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn policy() -> Policy {
        Policy {
            on: vec![
                Condition::ConnectFailure,
                Condition::Reset,
                Condition::Timeout,
                Condition::Statuses(502..=504),
            ],
            attempts: 3,
            per_try_timeout: None,
            methods: vec![Method::GET, Method::PUT],
            backoff: Duration::from_millis(25),
            max_backoff: Duration::from_millis(250),
            max_body: 64 << 10,
        }
    }

    fn tried(cause: Cause, method: &Method) -> Tried<'_> {
        Tried {
            cause,
            method,
            attempts: 1,
            body: Copy::Whole,
            retry_after: None,
            left: Some(Duration::from_secs(15)),
        }
    }

    fn status(status: u16) -> Cause {
        Cause::Status(StatusCode::from_u16(status).unwrap())
    }

    #[test]
    fn the_table() {
        use Refusal::{Attempts, Body, Deadline, Method as Bad, RetryAfter};
        use Verdict::{Again, Refused, Settled};
        let (get, post) = (Method::GET, Method::POST);
        let now = Again(Duration::ZERO);
        let seconds = Duration::from_secs;
        let of = |cause, method| tried(cause, method);
        let cases = [
            (of(Cause::ConnectFailure, &get), now),
            (of(Cause::ConnectFailure, &post), now),
            (of(Cause::Reset, &get), now),
            (of(Cause::Reset, &Method::PUT), now),
            (of(Cause::Reset, &post), Refused(Bad)),
            (of(Cause::Timeout, &get), now),
            (of(Cause::Timeout, &Method::PATCH), Refused(Bad)),
            (of(status(503), &get), now),
            (of(status(503), &post), Refused(Bad)),
            (of(status(500), &get), Settled),
            (of(status(500), &post), Settled),
            (of(status(200), &get), Settled),
            (of(status(101), &get), Settled),
            (
                Tried {
                    attempts: 2,
                    ..of(Cause::Reset, &get)
                },
                now,
            ),
            (
                Tried {
                    attempts: 3,
                    ..of(Cause::Reset, &get)
                },
                Refused(Attempts),
            ),
            (
                Tried {
                    body: Copy::Lost,
                    ..of(status(503), &get)
                },
                Refused(Body),
            ),
            (
                Tried {
                    left: Some(Duration::ZERO),
                    ..of(status(503), &get)
                },
                Refused(Deadline),
            ),
            (
                Tried {
                    left: None,
                    ..of(status(503), &get)
                },
                now,
            ),
            (
                Tried {
                    retry_after: Some(seconds(1)),
                    ..of(status(503), &get)
                },
                Refused(RetryAfter),
            ),
            (
                Tried {
                    retry_after: Some(seconds(0)),
                    ..of(status(503), &get)
                },
                now,
            ),
        ];
        for (tried, verdict) in cases {
            assert_eq!(policy().decide(&tried, 0), verdict, "{tried:?}");
        }
    }

    #[test]
    fn a_pause_within_bounds_is_kept() {
        let patient = Policy {
            max_backoff: Duration::from_secs(5),
            ..policy()
        };
        let get = Method::GET;
        let asked = Tried {
            retry_after: Some(Duration::from_secs(2)),
            ..tried(status(503), &get)
        };
        assert_eq!(patient.decide(&asked, u64::MAX), Verdict::Again(Duration::from_secs(2)));
    }

    #[test]
    fn pauses_in_seconds_are_read() {
        for (value, pause) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("", None),
            ("-1", None),
            ("1.5", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(value));
            assert_eq!(retry_after(&headers), pause.map(Duration::from_secs), "{value}");
        }
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        headers.insert(
            header::RETRY_AFTER,
            HeaderValue::from_static("Fri, 31 Dec 1999 23:59:59 GMT"),
        );
        assert_eq!(retry_after(&headers), None);
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("99999999999999999999999"));
        assert!(retry_after(&headers).is_some_and(|pause| pause > Duration::from_secs(1 << 30)));
    }

    proptest! {
        /// Whatever happens: no method is repeated that must not be, no wait is longer than it may be, and tries end.
        #[test]
        fn never_what_does_harm(
            attempts in 1_u32..40,
            draw: u64,
            code in 100_u16..600,
            left_ms in 0_u64..30_000,
            is_post: bool,
            is_lost: bool,
        ) {
            let method = if is_post { Method::POST } else { Method::GET };
            let tried = Tried {
                attempts,
                body: if is_lost { Copy::Lost } else { Copy::Whole },
                left: Some(Duration::from_millis(left_ms)),
                ..tried(status(code), &method)
            };
            if let Verdict::Again(wait) = policy().decide(&tried, draw) {
                prop_assert!(!is_post && !is_lost && attempts < 3 && (502..=504).contains(&code));
                prop_assert!(wait <= Duration::from_millis(25 << (attempts - 1)));
                prop_assert!(wait < Duration::from_millis(left_ms));
            }
        }

        #[test]
        fn waits_double_up_to_their_bound(attempts in 1_u32..80, draw: u64) {
            let wait = policy().wait(attempts, draw);
            let ceiling = 25_u64.saturating_mul(1 << (attempts - 1).min(32)).min(250);
            prop_assert!(wait <= Duration::from_millis(ceiling));
            prop_assert!(policy().wait(attempts, u64::MAX) >= Duration::from_millis(ceiling) - Duration::from_nanos(1));
        }
    }
}
