//! Another version of a component, on trial beside the one in use.
//!
//! Control plane. How the two are compared is for the proxy to say.

use std::time::Duration;

use super::component_path;
use crate::model::{Candidate, CandidateKey, Filter, FilterUse, Tolerance, WhenGood};
use crate::parse::{or_default, pattern};
use crate::reader::{Reader, quote};
use crate::shape::{At, OffOr, ShortOr};
use crate::units::Percent;
use crate::vocabulary::{self, CandidateKeyBlock};
use crate::word::KeyWord;

/// One user in twenty meets what may be a mistake, and four requests a second are enough for a judgement in the window.
const SHARE: u32 = 500;
/// Spans what comes round every few minutes: caches that expire, keys that are fetched anew, scheduled jobs.
const WINDOW: Duration = Duration::from_secs(10 * 60);
/// Of fewer there is no 99th percentile.
const MIN_CALLS: u32 = 100;
/// A filter that fails one exchange in a hundred has a defect; what fails less often is told from chance only slowly.
const FAILURES: u32 = 100;
/// Versions that answer one exchange in twenty otherwise do not mean the same by their rules.
const REPLIES: u32 = 500;
/// Twice as long: a change of version rarely costs so much by intent.
const P99: u32 = 10_000;
/// Half of what one hook may compute by default. What is faster nobody notices, and a busy machine makes it look slow.
const P99_FLOOR: Duration = Duration::from_millis(5);

impl Default for Tolerance {
    fn default() -> Self {
        Self {
            failures: Some(FAILURES),
            replies: Some(REPLIES),
            p99: Some(P99),
            p99_floor: P99_FLOOR,
        }
    }
}

/// The inner `None` is "no candidate".
pub(super) fn candidate(
    candidate: Option<At<vocabulary::Candidate>>,
    reader: &mut Reader,
) -> Option<Option<Candidate>> {
    let Some(At {
        place,
        value: candidate,
    }) = candidate
    else {
        return Some(None);
    };
    reader.within("candidate", |reader| {
        let component = match &candidate.component {
            Some(component) => Some(component_path(component, reader)?),
            None => None,
        };
        Some(Some(Candidate {
            place,
            component,
            config: candidate.config,
            share: candidate.share.map_or(SHARE, Percent::as_u32),
            key: reader.within("key", |reader| key(candidate.key, reader))?,
            window: or_default(candidate.window, WINDOW),
            min_calls: candidate.min_calls.map_or(MIN_CALLS, |count| count.as_u32()),
            tolerate: tolerance(candidate.tolerate.unwrap_or_default()),
            when_good: candidate.when_good.unwrap_or(WhenGood::Promote),
        }))
    })
}

fn key(key: Option<vocabulary::CandidateKey>, reader: &mut Reader) -> Option<CandidateKey> {
    match key {
        None | Some(ShortOr::Short(KeyWord::RequestId)) => Some(CandidateKey::RequestId),
        Some(ShortOr::Short(KeyWord::ClientAddress)) => Some(CandidateKey::ClientAddress),
        Some(ShortOr::Block(CandidateKeyBlock { header, cookie })) => match (header, cookie) {
            (Some(name), _) => token(&name, "header", reader).map(CandidateKey::Header),
            // A cookie's name is a token too (RFC 6265 4.1.1), but its case counts.
            (_, Some(name)) => token(&name, "cookie", reader).map(|_| CandidateKey::Cookie(name.value)),
            // Noted when the block was read.
            (None, None) => None,
        },
    }
}

/// In lower case.
fn token(name: &At<String>, key: &str, reader: &mut Reader) -> Option<String> {
    pattern::header_name(&name.value)
        .map_err(|message| reader.error_at(&name.place, key, message))
        .ok()
}

fn tolerance(tolerance: vocabulary::Tolerance) -> Tolerance {
    fn given<const MIN: u64, const MAX: u64>(part: Option<OffOr<Percent<MIN, MAX>>>, default: u32) -> Option<u32> {
        match part {
            None => Some(default),
            Some(OffOr::Off) => None,
            Some(OffOr::On(percent)) => Some(percent.as_u32()),
        }
    }
    Tolerance {
        failures: given(tolerance.failures, FAILURES),
        replies: given(tolerance.replies, REPLIES),
        p99: given(tolerance.p99, P99),
        p99_floor: or_default(tolerance.p99_floor, P99_FLOOR),
    }
}

/// Both would replace the filter's own, and which of them a candidate gets nobody could tell.
pub(crate) fn refuse_two_configurations<'a>(
    filters: &[Filter],
    uses: impl Iterator<Item = &'a FilterUse>,
    reader: &mut Reader,
) {
    for used in uses.filter(|used| used.config.is_some()) {
        let filter = &filters[used.filter];
        if filter
            .candidate
            .as_ref()
            .is_some_and(|candidate| candidate.config.is_some())
        {
            let message = format!(
                "filter `{}` has a `config` here, and its `candidate` has another; keep one of them",
                quote(&filter.name)
            );
            reader.error(&used.place, message);
        }
    }
}
