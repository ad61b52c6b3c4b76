//! What the process takes on in all, and which load it sheds while memory is short.
//!
//! Data plane. Counts are each worker's own, held against an equal part of the bound; the pressure is one number that is
//! read for each exchange and written only when it changes ([`memory`](crate::memory) is who looks). It knows nothing of
//! where the numbers come from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// The whole, in hundredths of a percent.
const WHOLE: u128 = 10_000;

/// See [`give_back`].
const LARGE_BLOCK: usize = 1 << 20;

/// One generation's bounds, and the pressure, which outlives generations.
pub struct Overload {
    pub connections_per_worker: usize,
    pub exchanges_per_worker: usize,
    /// `None`: nobody looks.
    pub memory: Option<Thresholds>,
    pub pressure: Arc<Pressure>,
}

/// How much of its memory is in use where a step begins, in hundredths of a percent. Each is at most the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Bytes; `None` is what the process is granted.
    pub limit: Option<u64>,
    pub disable_keep_alive: u32,
    pub stop_accepting_requests: u32,
    pub stop_accepting_connections: u32,
    /// How far below its beginning a step ends.
    pub recovery: u32,
}

/// What is shed; each step does what the one before it does, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    #[default]
    Normal,
    /// Connections end with their current exchange.
    DisableKeepAlive,
    /// Exchanges that begin are answered with 503.
    StopAcceptingRequests,
    /// Connections wait in the kernel.
    StopAcceptingConnections,
}

/// How short memory is. Lives as long as the process.
#[derive(Debug, Default)]
pub struct Pressure {
    level: AtomicU8,
    /// Bytes, for whoever looks.
    used: AtomicU64,
    limit: AtomicU64,
    /// How often each step began.
    begun: [AtomicU64; Level::ALL.len()],
}

/// Why an exchange is not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// As many as may be are under way.
    Exchanges,
    Memory,
}

/// Has this thread's allocator give back to the kernel what was freed a second ago or earlier. It looks for that when a
/// large block is asked for and at no other time: where nothing is served any more, memory that is free would count as used
/// for ever.
/// A block that nobody touches costs a microsecond. (Of 94 MiB that were freed, 94 were kept without this, 14 with it.)
pub fn give_back() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE_BLOCK)));
}

impl Level {
    pub const ALL: [Self; 4] = [
        Self::Normal,
        Self::DisableKeepAlive,
        Self::StopAcceptingRequests,
        Self::StopAcceptingConnections,
    ];

    /// The word for logs, metrics and the admin endpoint.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::DisableKeepAlive => "disable_keep_alive",
            Self::StopAcceptingRequests => "stop_accepting_requests",
            Self::StopAcceptingConnections => "stop_accepting_connections",
        }
    }
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exchanges => "max_exchanges",
            Self::Memory => "memory",
        }
    }
}

impl Thresholds {
    /// The level after `before` when so many of the limit's bytes are in use. A step begins at once, and ends only when
    /// there is some room again: else it would come and go with each request that it refuses.
    pub fn level(&self, before: Level, used: u64, limit: u64) -> Level {
        let part = u128::from(used) * WHOLE / u128::from(limit.max(1));
        let holds = |level: &Level| {
            let begins = u128::from(self.begins(*level));
            let ends = begins.saturating_sub(u128::from(self.recovery));
            part >= begins || (*level <= before && part >= ends)
        };
        let steps = Level::ALL.into_iter().skip(1);
        steps.take_while(holds).last().unwrap_or_default()
    }

    fn begins(&self, level: Level) -> u32 {
        match level {
            Level::Normal => 0,
            Level::DisableKeepAlive => self.disable_keep_alive,
            Level::StopAcceptingRequests => self.stop_accepting_requests,
            Level::StopAcceptingConnections => self.stop_accepting_connections,
        }
    }
}

// Relaxed throughout: the numbers guard no other memory.
impl Pressure {
    pub fn level(&self) -> Level {
        Level::ALL
            .get(usize::from(self.level.load(Ordering::Relaxed)))
            .copied()
            .unwrap_or_default()
    }

    /// Takes note of what is in use; the level before when it was another one. One writer only.
    pub fn set(&self, level: Level, used: u64, limit: u64) -> Option<Level> {
        self.used.store(used, Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
        let before = self.level();
        if before == level {
            return None;
        }
        self.level.store(level as u8, Ordering::Relaxed);
        for step in Level::ALL
            .into_iter()
            .filter(|step| (before..=level).contains(step) && *step != before)
        {
            self.begun[usize::from(step as u8)].fetch_add(1, Ordering::Relaxed);
        }
        Some(before)
    }

    /// Bytes in use, as of the last look.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes; 0 when nobody looks.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub fn begun(&self, level: Level) -> u64 {
        self.begun[usize::from(level as u8)].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn thresholds() -> Thresholds {
        Thresholds {
            limit: None,
            disable_keep_alive: 8_500,
            stop_accepting_requests: 9_000,
            stop_accepting_connections: 9_500,
            recovery: 500,
        }
    }

    #[test]
    fn steps_begin_at_once_and_end_with_some_room() {
        let mut level = Level::Normal;
        let expected = [
            (84, Level::Normal),
            (85, Level::DisableKeepAlive),
            (81, Level::DisableKeepAlive),
            (79, Level::Normal),
            (84, Level::Normal),
            (96, Level::StopAcceptingConnections),
            (91, Level::StopAcceptingConnections),
            (89, Level::StopAcceptingRequests),
            (85, Level::StopAcceptingRequests),
            (84, Level::DisableKeepAlive),
            (92, Level::StopAcceptingRequests),
            (200, Level::StopAcceptingConnections),
            (0, Level::Normal),
        ];
        for (used, next) in expected {
            level = thresholds().level(level, used, 100);
            assert_eq!(level, next, "{used}%");
        }
    }

    #[test]
    fn a_change_is_told_once() {
        let pressure = Pressure::default();
        assert_eq!(pressure.set(Level::Normal, 1, 100), None);
        assert_eq!(pressure.set(Level::StopAcceptingRequests, 90, 100), Some(Level::Normal));
        assert_eq!(pressure.set(Level::StopAcceptingRequests, 91, 100), None);
        assert_eq!(pressure.level(), Level::StopAcceptingRequests);
        assert_eq!((pressure.used(), pressure.limit()), (91, 100));
        // Milder again: no step has begun.
        assert_eq!(
            pressure.set(Level::DisableKeepAlive, 80, 100),
            Some(Level::StopAcceptingRequests)
        );
        assert_eq!(Level::ALL.map(|level| pressure.begun(level)), [0, 1, 1, 0]);
    }

    proptest! {
        /// More memory in use never sheds less, and no numbers are too large.
        #[test]
        fn more_in_use_sheds_no_less(before in 0_usize..4, used: u64, more: u64, limit: u64) {
            let (before, thresholds) = (Level::ALL[before], thresholds());
            let low = thresholds.level(before, used.min(more), limit);
            prop_assert!(low <= thresholds.level(before, used.max(more), limit));
        }
    }
}
