//! A token bucket as one number: the generic cell rate algorithm (ITU-T I.371). Pure; the time is an argument.
//!
//! The state is the *theoretical arrival time*: when the bucket will be full again. It needs no timer that refills the
//! bucket, and is small enough for one compare-and-swap. Times are nanoseconds of the proxy's monotonic clock, which
//! has milliseconds: what is left of a millisecond must not be lost at a thousand requests a second.

use crate::rate::Rate;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Allowed(State),
    Limited {
        /// As it is, since nothing is taken.
        state: State,
        /// Until the request would be allowed, if nobody else came.
        wait_ns: u64,
    },
}

/// A bucket at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Tokens that are left, whole ones.
    pub remaining: u64,
    /// Until the bucket is full.
    pub refill_ns: u64,
    /// When the bucket is full: what is stored.
    pub full_at_ns: u64,
}

/// Takes `cost` tokens, at most a full bucket's, if they are there. `full_at_ns` is what is stored; none is a full
/// bucket.
pub fn take(rate: &Rate, full_at_ns: Option<u64>, now_ns: u64, cost: u64) -> Decision {
    let present = present(rate, full_at_ns, now_ns);
    let taken_ns = rate.interval_ns() * cost.min(rate.burst());
    let full_at_ns = present + taken_ns;
    let over_ns = (full_at_ns - now_ns).saturating_sub(rate.capacity_ns());
    if over_ns > 0 {
        Decision::Limited {
            state: state(rate, present, now_ns),
            wait_ns: over_ns,
        }
    } else {
        Decision::Allowed(state(rate, full_at_ns, now_ns))
    }
}

/// Gives back what [`take`] took.
pub fn give_back(rate: &Rate, full_at_ns: Option<u64>, now_ns: u64, cost: u64) -> State {
    let present = present(rate, full_at_ns, now_ns);
    let taken_ns = rate.interval_ns() * cost.min(rate.burst());
    state(rate, present.saturating_sub(taken_ns).max(now_ns), now_ns)
}

/// A bucket that is fuller than full is full. One that is emptier than empty cannot be ours: somebody else has left a
/// value in a shared table. It is full too, or its clients would wait for as long as the value lives.
fn present(rate: &Rate, full_at_ns: Option<u64>, now_ns: u64) -> u64 {
    let ours = full_at_ns.filter(|full_at_ns| *full_at_ns <= now_ns + rate.capacity_ns());
    ours.unwrap_or(0).max(now_ns)
}

fn state(rate: &Rate, full_at_ns: u64, now_ns: u64) -> State {
    let refill_ns = full_at_ns - now_ns;
    State {
        remaining: (rate.capacity_ns() - refill_ns) / rate.interval_ns(),
        refill_ns,
        full_at_ns,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn a_burst_goes_at_once_and_then_the_rate_holds() {
        let rate = Rate::parse("2/1s", Some(3)).unwrap();
        // When it comes, its cost, and what is left or the wait.
        let cases: [(u64, u64, Result<u64, u64>); 8] = [
            (0, 1, Ok(2)),
            (0, 1, Ok(1)),
            (0, 1, Ok(0)),
            (0, 1, Err(500)),
            (499, 1, Err(1)),
            (500, 1, Ok(0)),
            (2000, 4, Ok(0)),
            (2000, 4, Err(1500)),
        ];
        let mut stored = None;
        for (now_ms, cost, expected) in cases {
            match take(&rate, stored, now_ms * 1_000_000, cost) {
                Decision::Allowed(state) => {
                    assert_eq!(Ok(state.remaining), expected, "at {now_ms} ms");
                    stored = Some(state.full_at_ns);
                }
                Decision::Limited { wait_ns, .. } => assert_eq!(Err(wait_ns / 1_000_000), expected, "at {now_ms} ms"),
            }
        }
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let rate = Rate::parse("1/1s", Some(2)).unwrap();
        let Decision::Allowed(taken) = take(&rate, None, SECOND_NS, 2) else {
            panic!("the bucket was full")
        };
        assert_eq!(taken.remaining, 0);
        let back = give_back(&rate, Some(taken.full_at_ns), SECOND_NS, 1);
        assert_eq!((back.remaining, back.refill_ns), (1, SECOND_NS));
        let full = give_back(&rate, Some(back.full_at_ns), SECOND_NS, 2);
        assert_eq!((full.remaining, full.refill_ns), (2, 0), "and no more than full");
    }

    #[test]
    fn a_value_that_is_none_of_ours_is_a_full_bucket() {
        let rate = Rate::parse("1/1s", Some(2)).unwrap();
        for (stored, remaining) in [(2 * SECOND_NS, 0), (2 * SECOND_NS + 1, 1), (u64::MAX, 1)] {
            let remains = match take(&rate, Some(stored), 0, 1) {
                Decision::Allowed(state) => state.remaining,
                Decision::Limited { state, .. } => state.remaining,
            };
            assert_eq!(remains, remaining, "{stored}");
        }
    }

    proptest! {
        /// Whatever comes when: in no window is more let through than the burst and what the rate refills in it.
        #[test]
        fn no_window_has_more_than_burst_and_rate(
            amount in 1u64..50,
            burst in 1u64..20,
            requests in prop::collection::vec((0u64..200, 1u64..4), 1..100),
        ) {
            let rate = Rate::parse(&format!("{amount}/1s"), Some(burst)).unwrap();
            let (mut now_ns, mut stored, mut allowed) = (0, None, Vec::new());
            for (pause_ms, cost) in requests {
                now_ns += pause_ms * 1_000_000;
                match take(&rate, stored, now_ns, cost) {
                    Decision::Allowed(state) => {
                        stored = Some(state.full_at_ns);
                        allowed.push((now_ns, cost.min(burst)));
                    }
                    Decision::Limited { wait_ns, state } => {
                        prop_assert!(wait_ns <= state.refill_ns, "it waits for no more than a full bucket");
                        let later = take(&rate, stored, now_ns + wait_ns, cost);
                        prop_assert!(matches!(later, Decision::Allowed(_)), "the wait is enough");
                        let sooner = take(&rate, stored, now_ns + wait_ns - 1, cost);
                        let too_soon = matches!(sooner, Decision::Limited { .. });
                        prop_assert!(too_soon, "the wait is no longer than it must be");
                    }
                }
            }
            for (first, &(begin_ns, _)) in allowed.iter().enumerate() {
                let mut sum = 0;
                for &(end_ns, cost) in &allowed[first..] {
                    sum += cost;
                    let refilled = (end_ns - begin_ns) as f64 / rate.interval_ns() as f64;
                    prop_assert!(sum as f64 <= burst as f64 + refilled + 1e-6);
                }
            }
        }
    }
}
