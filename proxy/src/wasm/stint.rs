//! What a guest computes between two waits, and what it is charged for.
//!
//! Data plane. A guest is interrupted by ticks, and pays for those that came while it computed. One that passed while it
//! waited interrupts it as soon as it goes on, and is not its fault.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::engine::{Engine, TICK};

/// Shared by the guest, which is interrupted, and whoever polls it.
pub(super) struct Stint {
    engine: Engine,
    meter: Meter,
}

impl Stint {
    pub fn new(engine: Engine) -> Self {
        let meter = Meter::default();
        Self { engine, meter }
    }

    /// The guest is about to run, or to run on. When, if that matters.
    pub fn begin(&self) -> Option<Instant> {
        self.engine.guest_runs();
        self.meter.begin(self.engine.ticks()).then(Instant::now)
    }

    /// It waits.
    pub fn end(&self, begun: Option<Instant>) {
        if let Some(begun) = begun {
            self.meter.end(begun.elapsed());
        }
    }

    /// It is interrupted: how many ticks it is to be charged for.
    pub fn due(&self) -> u32 {
        self.meter.due(self.engine.ticks())
    }

    /// It was charged, and computes on.
    pub fn goes_on(&self) {
        self.engine.guest_runs_on();
    }

    /// It has nothing to do.
    pub fn rest(&self) {
        self.meter.rest();
    }
}

/// Ticks for which a guest is not charged before it is measured: an exchange that waits for its upstream, and for a body
/// that is not long, stays below.
const MAX_FORGIVEN: u32 = 8;

/// A tick counts if it fell into a stint; one that passed while the guest waited is forgiven. Whoever waits often might
/// compute between ticks and never be charged: after a few that were forgiven its stints are measured by the clock.
#[derive(Default)]
struct Meter {
    /// The number of ticks when the stint began.
    since: AtomicU64,
    /// Since the guest last had nothing to do.
    forgiven: AtomicU32,
    /// What was measured and is not charged yet, in nanoseconds; less than nothing in a stint that has been charged for and
    /// is not over.
    owed: AtomicI64,
}

impl Meter {
    /// Whether the stint is to be measured.
    fn begin(&self, ticks: u64) -> bool {
        self.since.store(ticks, Ordering::Relaxed);
        self.is_measuring()
    }

    fn is_measuring(&self) -> bool {
        self.forgiven.load(Ordering::Relaxed) >= MAX_FORGIVEN
    }

    fn end(&self, took: Duration) {
        let took = i64::try_from(took.as_nanos()).unwrap_or(i64::MAX);
        self.owed.fetch_add(took, Ordering::Relaxed);
    }

    /// How many ticks the guest is to be charged for when it finds that there was one.
    fn due(&self, ticks: u64) -> u32 {
        let tick = i64::try_from(TICK.as_nanos()).unwrap_or(i64::MAX);
        let owed = self.owed.load(Ordering::Relaxed);
        let mut due = owed.max(0) / tick;
        if self.since.load(Ordering::Relaxed) == ticks {
            self.forgiven.fetch_add(1, Ordering::Relaxed);
        } else {
            due += 1;
        }
        if self.is_measuring() {
            self.owed.store(owed.saturating_sub(due * tick), Ordering::Relaxed);
        }
        u32::try_from(due).unwrap_or(u32::MAX)
    }

    /// The guest has nothing to do.
    fn rest(&self) {
        self.forgiven.store(0, Ordering::Relaxed);
        self.owed.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_counts_if_it_fell_into_the_stint() {
        let meter = Meter::default();
        assert!(!meter.begin(5));
        assert_eq!((meter.due(6), meter.due(7)), (1, 1));
        meter.begin(9);
        assert_eq!(meter.due(9), 0, "they passed while the guest waited");
    }

    #[test]
    fn whoever_always_waits_for_the_tick_is_measured() {
        let meter = Meter::default();
        for ticks in 0..MAX_FORGIVEN {
            assert!(!meter.begin(ticks.into()));
            assert_eq!(meter.due(ticks.into()), 0);
        }
        assert!(meter.begin(10));
        meter.end(Duration::from_micros(3_500));
        meter.begin(11);
        assert_eq!(meter.due(11), 3);
        meter.end(Duration::from_micros(600));
        meter.begin(12);
        assert_eq!(meter.due(12), 1, "what is left of a tick is not lost");
        meter.rest();
        assert!(!meter.begin(13));
    }

    #[test]
    fn nobody_is_charged_twice() {
        let meter = Meter::default();
        for ticks in 0..MAX_FORGIVEN {
            meter.begin(ticks.into());
            meter.due(ticks.into());
        }
        meter.begin(10);
        assert_eq!((meter.due(11), meter.due(12)), (1, 1));
        meter.end(Duration::from_micros(2_500));
        meter.begin(13);
        assert_eq!(meter.due(13), 0);
    }
}
