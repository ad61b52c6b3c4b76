//! Generations that are no longer live, until the last who is on them has left.
//!
//! Control plane. The thread that reloads holds each of them longest, so that what a generation is made of (tables,
//! compiled code) is freed here and never in a worker. Whoever stays for too long, or keeps too many of them alive, is
//! to be ended. `now` is an argument, so that time can be tested.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::snapshot::Snapshot;
use crate::wasm;

/// When a generation that has been replaced is ended; defaults and reasons are the configuration's.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub max_age: Option<Duration>,
    /// The live one included.
    pub max_alive: usize,
}

/// Lives as long as the process.
#[derive(Default)]
pub struct Generations {
    past: Mutex<Vec<Past>>,
    /// Filters of generations that are gone, for which a worker may still have guests.
    filters: Mutex<HashMap<u64, Arc<wasm::Filter>>>,
}

struct Past {
    snapshot: Arc<Snapshot>,
    since: Instant,
    is_over: bool,
}

/// Generations that have had their time.
#[derive(Debug, PartialEq, Eq)]
pub struct Overdue {
    /// It and all before it.
    pub newest: u64,
    /// How many of them were not overdue when they were looked at before.
    pub more: usize,
}

impl Past {
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.snapshot) > 1
    }
}

impl Generations {
    /// A generation that has just been replaced.
    pub fn retire(&self, snapshot: Arc<Snapshot>, now: Instant) {
        self.past().push(Past {
            snapshot,
            since: now,
            is_over: false,
        });
    }

    /// Those that exchanges are still on, and the live one.
    pub fn alive(&self) -> usize {
        1 + self.past().iter().filter(|past| past.is_used()).count()
    }

    /// How long ago the oldest of those was replaced; zero when only the live one is left.
    pub fn oldest_age(&self, now: Instant) -> Duration {
        let past = self.past();
        let oldest = past.iter().filter(|past| past.is_used()).map(|past| past.since).min();
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Whether nothing is left to be swept.
    pub fn is_empty(&self) -> bool {
        self.past().is_empty() && self.filters().is_empty()
    }

    /// Frees what nobody uses any more, and says what has to be ended.
    pub fn sweep(&self, live: &Snapshot, bounds: Bounds, now: Instant) -> Option<Overdue> {
        let free: Vec<Past> = self.past().extract_if(.., |past| !past.is_used()).collect();
        self.free(free, live);
        let mut past = self.past();
        let too_many = (past.len() + 1).saturating_sub(bounds.max_alive);
        let mut overdue: Option<Overdue> = None;
        for (at, past) in past.iter_mut().enumerate() {
            let age = now.saturating_duration_since(past.since);
            if at < too_many || bounds.max_age.is_some_and(|max| age >= max) {
                let was_over = std::mem::replace(&mut past.is_over, true);
                let more = overdue.map_or(0, |overdue| overdue.more) + usize::from(!was_over);
                // They stand in the order in which they were replaced.
                overdue = Some(Overdue {
                    newest: past.snapshot.generation,
                    more,
                });
            }
        }
        overdue
    }

    /// A worker may still hold guests of filters that are gone: their code is freed by a later sweep.
    fn free(&self, free: Vec<Past>, live: &Snapshot) {
        let mut filters = self.filters();
        for past in &free {
            filters.extend(
                past.snapshot
                    .guests
                    .iter()
                    .map(|filter| (filter.id(), Arc::clone(filter))),
            );
        }
        drop(free);
        let is_live = |id: u64| live.guests.iter().any(|filter| filter.id() == id);
        filters.retain(|id, filter| Arc::strong_count(filter) > 1 && !is_live(*id));
    }

    fn past(&self) -> MutexGuard<'_, Vec<Past>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn filters(&self) -> MutexGuard<'_, HashMap<u64, Arc<wasm::Filter>>> {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overload::Overload;
    use crate::route::Table;

    fn generation(generation: u64) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            generation,
            listeners: Vec::new(),
            table: Table::build(Vec::new()).expect("no route is wrong"),
            routes: Vec::new(),
            clusters: Vec::new(),
            guests: Vec::new(),
            middlewares: Vec::new(),
            trials: Vec::new(),
            filters: Vec::new(),
            access_log: None,
            overload: Overload {
                connections_per_worker: 1,
                exchanges_per_worker: 1,
                memory: None,
                pressure: Arc::default(),
            },
            drain_timeout: Duration::ZERO,
            drain_delay: None,
            description: Arc::default(),
        })
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_nobody_is_on_is_freed_and_what_is_too_old_is_named() {
        let (generations, start) = (Generations::default(), Instant::now());
        let bounds = Bounds {
            max_age: Some(10 * SECOND),
            max_alive: 100,
        };
        let (live, held, unused) = (generation(3), generation(1), generation(2));
        generations.retire(Arc::clone(&held), start);
        generations.retire(unused, start + SECOND);
        assert_eq!(generations.alive(), 2, "nobody is on the second");
        assert_eq!(generations.oldest_age(start + 5 * SECOND), 5 * SECOND);
        assert_eq!(generations.sweep(&live, bounds, start + 9 * SECOND), None);
        assert_eq!(
            generations.sweep(&live, bounds, start + 10 * SECOND),
            Some(Overdue { newest: 1, more: 1 })
        );
        assert_eq!(
            generations.sweep(&live, bounds, start + 10 * SECOND),
            Some(Overdue { newest: 1, more: 0 })
        );
        assert!(!generations.is_empty(), "it is held until whoever is on it has left");
        drop(held);
        assert_eq!(generations.sweep(&live, bounds, start + 11 * SECOND), None);
        assert!(generations.is_empty());
        assert_eq!(
            (generations.alive(), generations.oldest_age(start)),
            (1, Duration::ZERO)
        );
    }

    #[test]
    fn the_oldest_of_too_many_are_ended_however_young() {
        let (generations, now) = (Generations::default(), Instant::now());
        let held: Vec<_> = (1..=5).map(generation).collect();
        for generation in &held {
            generations.retire(Arc::clone(generation), now);
        }
        let bounds = |max_alive| Bounds {
            max_age: None,
            max_alive,
        };
        let live = generation(6);
        assert_eq!(generations.sweep(&live, bounds(6), now), None);
        assert_eq!(
            generations.sweep(&live, bounds(4), now),
            Some(Overdue { newest: 2, more: 2 })
        );
    }
}
