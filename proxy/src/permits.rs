//! Counting permits: how many of one thing may be under way at once in the whole process.
//!
//! Data plane; shared by all workers. Nobody waits here: whoever finds none left is told so at once. It knows nothing of
//! what it counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Lives as long as what it bounds, or the last permit.
#[derive(Debug)]
pub struct Permits {
    limit: AtomicUsize,
    taken: AtomicUsize,
}

/// The right to do one of what is counted; given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    permits: Arc<Permits>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

// Relaxed throughout: the numbers guard no other memory.
impl Permits {
    pub fn new(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            taken: AtomicUsize::new(0),
        }
    }

    /// `None` when as many as the limit are taken.
    pub fn try_take(self: &Arc<Self>) -> Option<Permit> {
        let limit = self.limit();
        let one_more = |taken| (taken < limit).then_some(taken + 1);
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(Permit {
            permits: Arc::clone(self),
        })
    }

    /// Permits that were taken before stay valid, even when they are more than the new limit.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// How many are taken now.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_more_than_the_limit_are_taken_and_each_comes_back() {
        let permits = Arc::new(Permits::new(2));
        let first = permits.try_take().unwrap();
        let second = permits.try_take().unwrap();
        assert!(permits.try_take().is_none());
        assert_eq!(permits.taken(), 2);
        drop(first);
        assert_eq!(permits.taken(), 1);
        let third = permits.try_take().unwrap();
        assert!(permits.try_take().is_none());
        drop((second, third));
        assert_eq!(permits.taken(), 0);
    }

    #[test]
    fn a_limit_of_zero_lets_nobody_in() {
        assert!(Arc::new(Permits::new(0)).try_take().is_none());
    }

    #[test]
    fn a_lower_limit_holds_once_the_surplus_is_back() {
        let permits = Arc::new(Permits::new(3));
        let mut taken: Vec<_> = (0..3).map(|_| permits.try_take().unwrap()).collect();
        permits.set_limit(1);
        for left in [2, 1] {
            drop(taken.pop());
            assert_eq!(permits.taken(), left);
            assert!(permits.try_take().is_none(), "{left} of 1 taken");
        }
        drop(taken.pop());
        assert!(permits.try_take().is_some());
    }

    #[test]
    fn threads_together_never_exceed_the_limit() {
        let permits = Arc::new(Permits::new(3));
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        if let Some(permit) = permits.try_take() {
                            assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(permit);
                        }
                    }
                });
            }
        });
        assert_eq!(permits.taken(), 0);
    }

    proptest! {
        /// `true` takes one, `false` gives the oldest back.
        #[test]
        fn the_count_is_that_of_the_permits_alive(limit in 0_usize..5, steps in prop::collection::vec(any::<bool>(), 0..64)) {
            let permits = Arc::new(Permits::new(limit));
            let mut alive = Vec::new();
            for take in steps {
                if take {
                    let got = permits.try_take();
                    prop_assert_eq!(got.is_some(), alive.len() < limit);
                    alive.extend(got);
                } else if !alive.is_empty() {
                    alive.remove(0);
                }
                prop_assert_eq!(permits.taken(), alive.len());
            }
        }
    }
}
