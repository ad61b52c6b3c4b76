//! When a component that fails again and again is left alone for a while.
//!
//! Control plane.

use std::time::Duration;

use crate::model::Breaker;
use crate::parse::ceiling::{Ceiling, at_least};
use crate::parse::or_default;
use crate::reader::Reader;
use crate::shape::OffOr;
use crate::units::show_duration;
use crate::vocabulary;

/// One is an accident of its exchange; five more than successes are a defect of the filter, or of what it depends on.
const FAILURES: u32 = 5;
/// Failures that come more slowly cost too little to be worth an interruption.
const WITHIN: Duration = Duration::from_secs(10);
/// So a passing trouble costs little more time than it lasts.
const BACKOFF: Duration = Duration::from_secs(1);
/// Once the trouble is mended, the filter is back within a minute, and until then costs one attempt a minute.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: FAILURES,
            within: WITHIN,
            backoff: BACKOFF,
            max_backoff: MAX_BACKOFF,
        }
    }
}

/// The inner `None` is `off`.
pub(super) fn breaker(breaker: Option<OffOr<vocabulary::Breaker>>, reader: &mut Reader) -> Option<Option<Breaker>> {
    let breaker = match breaker {
        Some(OffOr::Off) => return Some(None),
        Some(OffOr::On(breaker)) => breaker,
        None => return Some(Some(Breaker::default())),
    };
    let backoff = breaker.backoff.map(|period| period.map(|period| period.0));
    let ceiling = Ceiling {
        setting: "breaker.max_backoff",
        value: or_default(breaker.max_backoff, at_least(MAX_BACKOFF, backoff.as_ref())),
        show: show_duration,
    };
    let backoff = reader.within("breaker", |reader| {
        ceiling.hold("backoff", backoff.as_ref(), BACKOFF, reader)
    });
    Some(Some(Breaker {
        failures: breaker.failures.map_or(FAILURES, |count| count.as_u32()),
        within: or_default(breaker.within, WITHIN),
        backoff: backoff?,
        max_backoff: ceiling.value,
    }))
}
