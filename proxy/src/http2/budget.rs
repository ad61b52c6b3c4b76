//! An account of what a client does for nothing. Data plane; pure.
//!
//! Useful traffic earns, time forgives. The clock is read only when the account is overdrawn.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub struct Budget {
    /// So many may be spent beyond what was earned and forgiven.
    capacity: u32,
    /// Forgiven in each second.
    per_second: u32,
    spent: u32,
    /// Until when time has forgiven.
    since: Instant,
}

impl Budget {
    pub fn new(capacity: u32, per_second: u32, now: Instant) -> Self {
        Self {
            capacity,
            per_second,
            spent: 0,
            since: now,
        }
    }

    pub fn earn(&mut self, count: u32) {
        self.spent = self.spent.saturating_sub(count);
    }

    /// Whether there was enough for it.
    pub fn spend(&mut self, count: u32, now: impl FnOnce() -> Instant) -> bool {
        self.spent = self.spent.saturating_add(count);
        if self.spent > self.capacity {
            self.forgive(now());
        }
        self.spent <= self.capacity
    }

    /// What is left of a second is forgiven later.
    fn forgive(&mut self, now: Instant) {
        let elapsed = now.duration_since(self.since).as_secs();
        self.since += Duration::from_secs(elapsed);
        let count = elapsed.saturating_mul(self.per_second.into());
        self.earn(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_and_comes_back() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut budget = Budget::new(3, 2, start);
        assert!((0..3).all(|_| budget.spend(1, || panic!("the clock is not needed"))));
        assert!(!budget.spend(1, || after(999)));
        budget.earn(2);
        assert!(budget.spend(1, || panic!("the clock is not needed")));
        assert!(!budget.spend(1, || after(999)));
        assert!(budget.spend(1, || after(1_000)), "two are forgiven in a second");
        assert!(!budget.spend(1, || after(1_999)));
        assert!(budget.spend(1, || after(2_000)));
    }

    #[test]
    fn what_was_not_spent_is_not_earned() {
        let start = Instant::now();
        let mut budget = Budget::new(1, 1, start);
        budget.earn(1_000);
        assert!(budget.spend(1, || start));
        assert!(!budget.spend(1, || start));
    }
}
