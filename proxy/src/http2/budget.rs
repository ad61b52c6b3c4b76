//! An account of what a peer does for nothing. Data plane; pure.
//!
//! Useful traffic earns, time forgives. The clock is read only when the account is overdrawn.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub struct Budget {
    /// What there is at the beginning, and what time gives back.
    capacity: u32,
    /// What can be saved of what is earned.
    most: u32,
    /// Given back in each second.
    per_second: u32,
    left: u32,
    /// Until when time has given.
    since: Instant,
}

impl Budget {
    /// `most` is at least `capacity`.
    pub fn new(capacity: u32, most: u32, per_second: u32, now: Instant) -> Self {
        Self {
            capacity,
            most,
            per_second,
            left: capacity,
            since: now,
        }
    }

    pub fn earn(&mut self, count: u32) {
        self.left = self.left.saturating_add(count).min(self.most);
    }

    /// Whether there was enough for it; if not, nothing is left.
    pub fn spend(&mut self, count: u32, now: impl FnOnce() -> Instant) -> bool {
        if self.left < count {
            self.forgive(now());
        }
        let is_enough = self.left >= count;
        self.left = self.left.saturating_sub(count);
        is_enough
    }

    /// What is left of a second is forgiven later.
    fn forgive(&mut self, now: Instant) {
        let elapsed = now.duration_since(self.since).as_secs();
        self.since += Duration::from_secs(elapsed);
        let count = elapsed.saturating_mul(self.per_second.into());
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(count).min(self.capacity.max(self.left));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_and_comes_back() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut budget = Budget::new(3, 3, 2, start);
        assert!((0..3).all(|_| budget.spend(1, || panic!("the clock is not needed"))));
        assert!(!budget.spend(1, || after(999)));
        budget.earn(1);
        assert!(budget.spend(1, || panic!("the clock is not needed")));
        assert!(!budget.spend(1, || after(999)));
        assert!(budget.spend(1, || after(1_000)), "two are forgiven in a second");
        assert!(budget.spend(1, || panic!("the clock is not needed")));
        assert!(!budget.spend(1, || after(1_999)));
        assert!(
            (0..3).all(|_| budget.spend(1, || after(60_000))),
            "no more than there was at first"
        );
        assert!(!budget.spend(1, || after(60_000)));
    }

    #[test]
    fn savings_have_an_end() {
        let start = Instant::now();
        let mut budget = Budget::new(1, 5, 1, start);
        budget.earn(1_000);
        assert!(budget.spend(5, || start));
        assert!(!budget.spend(1, || start));
    }
}
