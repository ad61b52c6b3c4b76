//! What a guest computes between two waits, and what it is charged for.
//!
//! Data plane. A guest is interrupted by ticks. Most never are, or once, which costs a tick, however long the guest has
//! computed by then. A tick that passed while the guest waited interrupts it as soon as it goes on, and is forgiven. Whoever
//! computes through more of them, or lets many pass and might compute between them for nothing, is measured from then on,
//! by the clock of its thread: a thread that waits for a core computes nothing.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::engine::{Engine, TICK};

/// Ticks that are forgiven before a guest is measured: an exchange that waits for its upstream, and for a body that is not
/// long, stays below.
const MAX_FORGIVEN: u32 = 8;

/// Whether somebody is to be measured. Reading the clock at each step costs others, where they share an instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspicion {
    /// Ticks to compute through until then.
    ticks: u32,
    /// Ticks to be forgiven.
    forgiven: u32,
}

impl Suspicion {
    /// Of somebody who is measured after so many ticks.
    pub fn after(ticks: u32) -> Self {
        let forgiven = MAX_FORGIVEN;
        Self { ticks, forgiven }
    }

    /// Whether it is confirmed by this interruption.
    pub fn is_confirmed(&mut self, spent: &Spent) -> bool {
        let left = match spent.is_long {
            true => &mut self.ticks,
            false => &mut self.forgiven,
        };
        *left = left.saturating_sub(1);
        *left == 0
    }
}

/// Shared by the guest, which is interrupted, and whoever polls it.
pub(super) struct Stint {
    engine: Engine,
    meter: Meter,
}

/// What a guest has computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    /// Since it was interrupted last.
    pub measured: Duration,
    /// The tick that has interrupted it, if it is not measured yet.
    pub tick: Duration,
    /// A tick fell into its stint, so it is time for others.
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

    /// From now on it is measured what it computes, or is not any more.
    pub fn measure(&self, is_measured: bool) {
        self.meter.measure(is_measured, thread_time);
    }

    /// It was charged, and computes on.
    pub fn goes_on(&self) {
        self.engine.guest_runs_on();
    }

    /// What was spent until now, on a hook or on exchanges before another one begins, as far as it is measured.
    pub fn settle(&self) -> Duration {
        self.meter.settle(thread_time)
    }

    /// Whether it is measured what it computes.
    pub fn is_measured(&self) -> bool {
        self.meter.is_measuring()
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
            let now = clock();
            self.owed.fetch_add(self.since_mark(now), Ordering::Relaxed);
            self.mark.store(now, Ordering::Relaxed);
        }
    }

    fn interrupted(&self, ticks: u64, clock: impl Fn() -> u64) -> Spent {
        let is_long = self.since.load(Ordering::Relaxed) != ticks;
        if self.is_measuring() {
            return Spent {
                measured: self.settle(clock),
                tick: Duration::ZERO,
                is_long,
            };
        }
        Spent {
            measured: Duration::ZERO,
            tick: if is_long { TICK } else { Duration::ZERO },
            is_long,
        }
    }

    fn settle(&self, clock: impl Fn() -> u64) -> Duration {
        if !self.is_measuring() {
            return Duration::ZERO;
        }
        let now = clock();
        let spent = self.owed.swap(0, Ordering::Relaxed) + self.since_mark(now);
        self.mark.store(now, Ordering::Relaxed);
        Duration::from_nanos(spent)
    }

    fn measure(&self, is_measured: bool, clock: impl Fn() -> u64) {
        if is_measured && !self.is_measuring() {
            self.mark.store(clock(), Ordering::Relaxed);
            self.owed.store(0, Ordering::Relaxed);
        }
        self.is_measuring.store(is_measured, Ordering::Relaxed);
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

    fn ticked(is_long: bool) -> Spent {
        Spent {
            measured: Duration::ZERO,
            tick: if is_long { TICK } else { Duration::ZERO },
            is_long,
        }
    }

    fn measured(millis: u64, is_long: bool) -> Spent {
        Spent {
            measured: Duration::from_millis(millis),
            tick: Duration::ZERO,
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
        assert_eq!(meter.interrupted(9, never), ticked(false), "it passed in a wait");
        meter.end(never);
        meter.begin(10, never);
        assert_eq!(meter.interrupted(11, never), ticked(true));
    }

    #[test]
    fn what_is_measured_is_told_once() {
        let meter = Meter::default();
        meter.begin(5, never);
        assert_eq!(meter.settle(never), Duration::ZERO);
        meter.measure(true, at(100));
        meter.measure(true, never);
        assert_eq!(
            meter.interrupted(7, at(112)),
            measured(12, true),
            "one long instruction"
        );
        meter.end(at(113));
        assert_eq!(meter.settle(at(113)), Duration::from_millis(1), "once");
        meter.begin(14, at(150));
        meter.end(at(151));
        meter.begin(20, at(200));
        assert_eq!(meter.interrupted(20, at(200)), measured(1, false), "waiting is none");
        assert_eq!(meter.settle(at(203)), Duration::from_millis(3));
        assert_eq!(meter.interrupted(21, at(205)), measured(2, true));
        meter.measure(false, never);
        meter.end(never);
        meter.begin(30, never);
    }

    #[test]
    fn whoever_computes_long_or_waits_often_is_suspected() {
        let confirmed = |ticks, interruptions: &[bool]| {
            let mut suspicion = Suspicion::after(ticks);
            let mut after = 0;
            for is_long in interruptions {
                after += 1;
                if suspicion.is_confirmed(&ticked(*is_long)) {
                    return Some(after);
                }
            }
            None
        };
        assert_eq!(confirmed(1, &[false, true]), Some(2));
        assert_eq!(confirmed(2, &[true, false, true]), Some(3));
        assert_eq!(confirmed(2, &[false; 7]), None);
        assert_eq!(confirmed(2, &[false; 8]), Some(8));
    }
}
