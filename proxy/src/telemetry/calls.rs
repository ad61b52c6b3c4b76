//! The calls of one filter: how long they took, by hook, and what its guests computed.
//!
//! Data plane. A call that computed all the time, as nearly all do, is only noted at first, and counted with some others of
//! the same hook: by itself it would cost 0.04 us, as much as a twentieth of a small hook.

use std::time::Duration;

use super::histogram::{HOOK_SECONDS, Histogram};
use crate::filter::Hook;

/// Notes of one hook: with how many there are, a cache line's worth.
const NOTES: usize = 15;

#[derive(Clone, Debug)]
pub struct Calls {
    /// In the order of [`Hook::ALL`].
    by_hook: [Histogram; Hook::ALL.len()],
    cpu: Duration,
    noted: Notes,
}

#[derive(Clone, Debug)]
struct Notes {
    nanos: [u32; NOTES],
    count: u8,
    hook: Hook,
}

impl Calls {
    /// `cpu`: what guests computed of it; none of a native filter's is told apart.
    #[inline]
    pub fn add(&mut self, hook: Hook, took: Duration, cpu: Duration) {
        match u32::try_from(took.as_nanos()) {
            Ok(nanos) if cpu == took => self.note(hook, nanos),
            _ => self.count(hook, took, cpu),
        }
    }

    fn note(&mut self, hook: Hook, nanos: u32) {
        if self.noted.hook != hook || usize::from(self.noted.count) == NOTES {
            self.settle();
            self.noted.hook = hook;
        }
        if let Some(place) = self.noted.nanos.get_mut(usize::from(self.noted.count)) {
            *place = nanos;
            self.noted.count += 1;
        }
    }

    /// Counts what is only noted.
    pub fn settle(&mut self) {
        let Notes { nanos, count, hook } = self.noted.clone();
        self.noted.count = 0;
        for nanos in nanos.into_iter().take(count.into()) {
            let took = Duration::from_nanos(nanos.into());
            self.count(hook, took, took);
        }
    }

    fn count(&mut self, hook: Hook, took: Duration, cpu: Duration) {
        if let Some(calls) = self.by_hook.get_mut(hook as usize) {
            calls.observe(took.as_secs_f64());
        }
        self.cpu += cpu;
    }

    /// Each hook's, as far as it was [settled](Self::settle).
    pub fn by_hook(&self) -> impl Iterator<Item = (Hook, &Histogram)> {
        Hook::ALL.into_iter().zip(&self.by_hook)
    }

    /// What guests computed in all hooks, likewise.
    pub fn cpu(&self) -> Duration {
        self.cpu
    }

    /// Adds what another worker counted. Both are settled.
    pub fn absorb(&mut self, other: &Self) {
        debug_assert_eq!((self.noted.count, other.noted.count), (0, 0));
        for (calls, more) in self.by_hook.iter_mut().zip(&other.by_hook) {
            calls.absorb(more);
        }
        self.cpu += other.cpu;
    }
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            by_hook: [const { Histogram::new(&HOOK_SECONDS) }; Hook::ALL.len()],
            cpu: Duration::ZERO,
            noted: Notes {
                nanos: [0; NOTES],
                count: 0,
                hook: Hook::RequestHead,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(calls: &Calls, hook: Hook) -> (u64, f64) {
        let mut settled = calls.clone();
        settled.settle();
        let found = settled.by_hook().find(|(of, _)| *of == hook);
        let (_, histogram) = found.expect("it is one of all");
        (histogram.count(), histogram.sum())
    }

    #[test]
    fn whatever_is_noted_is_counted_once() {
        let mut calls = Calls::default();
        let long = Duration::from_secs(5);
        for _ in 0..100 {
            calls.add(Hook::RequestHead, Duration::from_nanos(500), Duration::from_nanos(500));
        }
        calls.add(Hook::ResponseHead, Duration::from_micros(2), Duration::from_micros(2));
        calls.add(Hook::RequestHead, long, long);
        calls.add(Hook::RequestHead, Duration::from_micros(3), Duration::ZERO);
        for _ in 0..2 {
            let (count, sum) = counts(&calls, Hook::RequestHead);
            assert_eq!(count, 102);
            assert!((sum - 5.000_053).abs() < 1e-9, "{sum}");
            assert_eq!(counts(&calls, Hook::ResponseHead).0, 1);
        }
        calls.settle();
        assert_eq!(calls.cpu(), long + Duration::from_micros(52));
    }
}
