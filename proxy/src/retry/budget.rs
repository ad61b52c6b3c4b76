//! How many of the requests to a cluster may be sent once more.
//!
//! Data plane; one worker's own. Servers that fail are asked no more than a part more often than they would be anyhow:
//! retries never multiply an outage. Invariant: of the requests that were ever counted, no more than `share` were
//! retried, and `per_second` for each second beyond. No request stands in for two retries: it leaves the window before
//! they do.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::time::Instant;

use crate::retry::Refusal;

/// Seconds of which requests are remembered. As in Finagle: long enough that a short outage meets a full budget, short
/// enough that the traffic of an hour ago allows nothing.
const WINDOW: usize = 10;
/// Hundredths of a percent in the whole.
const WHOLE: u64 = 10_000;

/// One worker's part of a cluster's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Of the requests of the window, in hundredths of a percent.
    pub share: u32,
    pub per_second: u32,
    /// At once.
    pub retries: usize,
}

/// What one worker has retried of a cluster's requests. Lives as long as its connections.
#[derive(Debug)]
pub struct Account {
    allowance: Allowance,
    since: Instant,
    seconds: RefCell<[Second; WINDOW]>,
    running: Cell<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    number: u64,
    requests: u64,
    retries: u64,
}

/// A request that was sent once more, until this is dropped.
#[derive(Debug)]
pub struct Running(Rc<Account>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}

impl Account {
    pub fn new(allowance: Allowance, now: Instant) -> Self {
        Self {
            allowance,
            since: now,
            seconds: RefCell::default(),
            running: Cell::new(0),
        }
    }

    /// A request has come that may have to be retried.
    pub fn requested(&self, now: Instant) {
        self.with_second(now, |second, _| second.requests += 1);
    }

    /// Takes one retry off the budget.
    pub fn retry(self: &Rc<Self>, now: Instant) -> Result<Running, Refusal> {
        if self.running.get() >= self.allowance.retries {
            return Err(Refusal::Limit);
        }
        let Allowance { share, per_second, .. } = self.allowance;
        let granted = self.with_second(now, |second, (requests, retries)| {
            let in_share = (retries + 1) * WHOLE <= requests * u64::from(share);
            let granted = in_share || second.retries < u64::from(per_second);
            second.retries += u64::from(granted);
            granted
        });
        if !granted {
            return Err(Refusal::Budget);
        }
        self.running.set(self.running.get() + 1);
        Ok(Running(Rc::clone(self)))
    }

    /// With the current second, and the requests and retries of the window.
    fn with_second<T>(&self, now: Instant, update: impl FnOnce(&mut Second, (u64, u64)) -> T) -> T {
        let number = now.saturating_duration_since(self.since).as_secs();
        let mut seconds = self.seconds.borrow_mut();
        let slot = (number % WINDOW as u64) as usize;
        if seconds[slot].number != number {
            seconds[slot] = Second {
                number,
                ..Second::default()
            };
        }
        let recent = seconds
            .iter()
            .filter(|second| number - second.number.min(number) < WINDOW as u64);
        let sums = recent.fold((0, 0), |(requests, retries), second| {
            (requests + second.requests, retries + second.retries)
        });
        update(&mut seconds[slot], sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn account(share: u32, per_second: u32, retries: usize) -> (Rc<Account>, Instant) {
        let start = Instant::now();
        let allowance = Allowance {
            share,
            per_second,
            retries,
        };
        (Rc::new(Account::new(allowance, start)), start)
    }

    #[test]
    fn a_fifth_of_what_was_asked() {
        let (account, start) = account(2_000, 0, 1_000);
        for _ in 0..100 {
            account.requested(start);
        }
        let granted: Vec<_> = (0..30).map_while(|_| account.retry(start).ok()).collect();
        assert_eq!(granted.len(), 20);
        assert_eq!(account.retry(start).err(), Some(Refusal::Budget));
        // What is over gives nothing back but its place among those at once.
        drop(granted);
        assert_eq!(account.retry(start).err(), Some(Refusal::Budget));
        let later = start + Duration::from_secs(WINDOW as u64);
        assert_eq!(account.retry(later).err(), Some(Refusal::Budget));
        (0..5).for_each(|_| account.requested(later));
        assert!(account.retry(later).is_ok());
    }

    #[test]
    fn a_few_each_second_anyhow() {
        let (account, start) = account(2_000, 3, 1_000);
        for second in 0..3 {
            let now = start + Duration::from_secs(second);
            let granted = (0..10).filter(|_| account.retry(now).is_ok()).count();
            assert_eq!(granted, 3, "second {second}");
        }
    }

    #[test]
    fn so_many_at_once() {
        let (account, start) = account(10_000, 1_000, 2);
        let first = account.retry(start).unwrap();
        let _second = account.retry(start).unwrap();
        assert_eq!(account.retry(start).err(), Some(Refusal::Limit));
        drop(first);
        assert!(account.retry(start).is_ok());
    }

    proptest! {
        /// However requests and retries come: no more than the share of all, and the floor of each second.
        #[test]
        fn never_more_than_the_share_and_the_floor(
            steps in proptest::collection::vec((0_u64..3_000, 0_usize..20, 0_usize..20), 1..60),
            share in 0_u32..=10_000,
            floor in 0_u32..5,
        ) {
            let (account, start) = account(share, floor, usize::MAX);
            let (mut now, mut requests, mut retries) = (start, 0_u64, 0_u64);
            for (pause_ms, asked, retried) in steps {
                now += Duration::from_millis(pause_ms);
                (0..asked).for_each(|_| account.requested(now));
                requests += asked as u64;
                retries += (0..retried).filter(|_| account.retry(now).is_ok()).count() as u64;
                let seconds = (now - start).as_secs() + 1;
                prop_assert!(retries <= requests * u64::from(share) / WHOLE + u64::from(floor) * seconds);
            }
        }
    }
}
