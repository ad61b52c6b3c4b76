//! What a guest computes between two waits, and what it is charged for.
//!
//! Data plane. A guest is interrupted by ticks. Most never are; the first time costs a tick, however long the guest has
//! computed by then, and from then on what it computes is measured, by the clock of its thread: one that waits for a core
//! computes nothing. A tick that passed while the guest waited interrupts it as soon as it goes on, and is forgiven.
//! Whoever lets many pass is measured as well, or might compute between them for nothing.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::engine::{Engine, TICK};

/// Ticks that are forgiven before a guest is measured: an exchange that waits for its upstream, and for a body that is not
/// long, stays below.
const MAX_FORGIVEN: u32 = 8;

/// Shared by the guest, which is interrupted, and whoever polls it.
pub(super) struct Stint {
    engine: Engine,
    meter: Meter,
}

/// What a guest has computed since it was interrupted last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    /// In stints that are over.
    pub before: Duration,
    /// In this one.
    pub now: Duration,
    /// A tick fell into it, so it is time for others.
    pub is_long: bool,
}

impl Stint {
    pub fn new(engine: Engine) -> Self {
        let meter = Meter::default();
        Self { engine, meter }
    }

    /// The guest is about to run, or to run on.
    pub fn begin(&self) {
        self.engine.guest_runs();
        self.meter.begin(self.engine.ticks(), thread_time);
    }

    /// It waits.
    pub fn end(&self) {
        self.meter.end(thread_time);
    }

    /// Runs a guest: each time that it is polled, its next stint begins.
    pub async fn run<T>(&self, running: impl Future<Output = T>) -> T {
        let mut running = pin!(running);
        poll_fn(|context| {
            self.begin();
            let polled = running.as_mut().poll(context);
            self.end();
            polled
        })
        .await
    }

    /// It is interrupted.
    pub fn interrupted(&self) -> Spent {
        self.meter.interrupted(self.engine.ticks(), thread_time)
    }

    /// It was charged, and computes on.
    pub fn goes_on(&self) {
        self.engine.guest_runs_on();
    }

    /// Another exchange of the guest begins: what was spent on those before, as far as it is measured.
    pub fn settle(&self) -> Duration {
        let spent = self.meter.settle(thread_time);
        spent.before + spent.now
    }

    /// It has nothing to do.
    pub fn rest(&self) {
        self.meter.rest();
    }
}

/// Processor time of this thread, in nanoseconds.
fn thread_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // It begins with the thread, and neither part of it is negative.
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

#[derive(Default)]
struct Meter {
    /// The number of ticks when the stint began.
    since: AtomicU64,
    /// Ticks, since the guest last had nothing to do.
    forgiven: AtomicU32,
    is_measuring: AtomicBool,
    /// Until then it is settled, if that is measured.
    mark: AtomicU64,
    /// Of stints that are over, in nanoseconds.
    owed: AtomicU64,
}

impl Meter {
    fn begin(&self, ticks: u64, clock: impl Fn() -> u64) {
        self.since.store(ticks, Ordering::Relaxed);
        if self.is_measuring() {
            self.mark.store(clock(), Ordering::Relaxed);
        }
    }

    fn end(&self, clock: impl Fn() -> u64) {
        if self.is_measuring() {
            self.owed.fetch_add(self.since_mark(clock()), Ordering::Relaxed);
        }
    }

    fn interrupted(&self, ticks: u64, clock: impl Fn() -> u64) -> Spent {
        let is_long = self.since.load(Ordering::Relaxed) != ticks;
        if self.is_measuring() {
            let spent = self.settle(clock);
            return Spent { is_long, ..spent };
        }
        let is_forgiven = !is_long && self.forgiven.fetch_add(1, Ordering::Relaxed) + 1 < MAX_FORGIVEN;
        if !is_forgiven {
            self.mark.store(clock(), Ordering::Relaxed);
            self.is_measuring.store(true, Ordering::Relaxed);
        }
        Spent {
            before: Duration::ZERO,
            now: if is_long { TICK } else { Duration::ZERO },
            is_long,
        }
    }

    fn settle(&self, clock: impl Fn() -> u64) -> Spent {
        if !self.is_measuring() {
            return Spent::default();
        }
        let now = clock();
        let spent = Spent {
            before: Duration::from_nanos(self.owed.swap(0, Ordering::Relaxed)),
            now: Duration::from_nanos(self.since_mark(now)),
            is_long: false,
        };
        self.mark.store(now, Ordering::Relaxed);
        spent
    }

    fn rest(&self) {
        self.forgiven.store(0, Ordering::Relaxed);
        self.is_measuring.store(false, Ordering::Relaxed);
        self.owed.store(0, Ordering::Relaxed);
    }

    fn is_measuring(&self) -> bool {
        self.is_measuring.load(Ordering::Relaxed)
    }

    fn since_mark(&self, now: u64) -> u64 {
        now.saturating_sub(self.mark.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(before: u64, now: u64, is_long: bool) -> Spent {
        Spent {
            before: Duration::from_millis(before),
            now: Duration::from_millis(now),
            is_long,
        }
    }

    fn at(millis: u64) -> impl Fn() -> u64 {
        move || millis * 1_000_000
    }

    fn never() -> u64 {
        panic!("nobody looks at the clock")
    }

    #[test]
    fn a_tick_counts_if_it_fell_into_the_stint() {
        let meter = Meter::default();
        meter.begin(9, never);
        assert_eq!(meter.interrupted(9, never), millis(0, 0, false), "it passed in a wait");
        meter.end(never);
        meter.begin(10, never);
        assert_eq!(meter.interrupted(11, at(100)), millis(0, 1, true));
    }

    #[test]
    fn whoever_was_interrupted_is_measured() {
        let meter = Meter::default();
        meter.begin(5, never);
        meter.interrupted(6, at(100));
        assert_eq!(
            meter.interrupted(7, at(112)),
            millis(0, 12, true),
            "one long instruction"
        );
        meter.end(at(113));
        meter.begin(20, at(200));
        assert_eq!(
            meter.interrupted(20, at(200)),
            millis(1, 0, false),
            "what it waited is not counted"
        );
        assert_eq!(meter.interrupted(21, at(202)), millis(0, 2, true));
        meter.rest();
        meter.begin(30, never);
        meter.end(never);
    }

    #[test]
    fn whoever_always_waits_for_the_tick_is_measured() {
        let meter = Meter::default();
        for ticks in 0..u64::from(MAX_FORGIVEN) {
            meter.begin(ticks, never);
            assert_eq!(meter.interrupted(ticks, at(100)), Spent::default());
        }
        meter.end(at(103));
        meter.begin(100, at(200));
        meter.end(at(204));
        meter.begin(101, at(300));
        assert_eq!(meter.interrupted(101, at(300)), millis(7, 0, false));
    }

    #[test]
    fn what_is_settled_is_not_owed_any_more() {
        let meter = Meter::default();
        meter.begin(5, never);
        assert_eq!(meter.settle(never), Spent::default());
        meter.interrupted(6, at(100));
        meter.end(at(101));
        meter.begin(7, at(200));
        assert_eq!(meter.settle(at(203)), millis(1, 3, false));
        assert_eq!(meter.interrupted(8, at(204)), millis(0, 1, true));
    }
}
