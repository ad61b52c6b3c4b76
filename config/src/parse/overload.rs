//! What the process takes on in all, and what it does when its memory runs short.
//!
//! Control plane.

use super::ceiling::{Ceiling, at_least};
use crate::model::{MemoryPressure, Overload};
use crate::reader::Reader;
use crate::shape::{At, OffOr};
use crate::units::{Count, Percent, show_percent};
use crate::vocabulary;

/// In hundredths of a percent, like all that follow. From here on memory is better spent on requests under way than on
/// clients that may come back.
const DISABLE_KEEP_ALIVE: u32 = 8_500;
/// What is left has to do for the answers under way, whose bodies and guests still grow.
const STOP_ACCEPTING_REQUESTS: u32 = 9_000;
/// Even a connection that is refused costs some KiB, and the kernel can hold it as well.
const STOP_ACCEPTING_CONNECTIONS: u32 = 9_500;
/// Each step down is where the one below it begins, so that what one step sheds does not end it at once.
const RECOVERY: u32 = 500;

impl Default for MemoryPressure {
    fn default() -> Self {
        Self {
            limit: None,
            disable_keep_alive: DISABLE_KEEP_ALIVE,
            stop_accepting_requests: STOP_ACCEPTING_REQUESTS,
            stop_accepting_connections: STOP_ACCEPTING_CONNECTIONS,
            recovery: RECOVERY,
        }
    }
}

impl Default for Overload {
    fn default() -> Self {
        Self {
            // Listeners have bounds of their own, and what all of them are too much for is memory, which is watched.
            max_connections: None,
            max_exchanges: None,
            memory: Some(MemoryPressure::default()),
        }
    }
}

pub(super) fn overload(overload: Option<vocabulary::Overload>, reader: &mut Reader) -> Option<Overload> {
    let Some(overload) = overload else {
        return Some(Overload::default());
    };
    let memory = match overload.memory {
        Some(OffOr::Off) => None,
        Some(OffOr::On(memory)) => {
            let memory = reader.within("overload", |reader| {
                reader.within("memory", |reader| self::memory(memory, reader))
            });
            Some(memory?)
        }
        None => Some(MemoryPressure::default()),
    };
    Some(Overload {
        max_connections: count(overload.max_connections),
        max_exchanges: count(overload.max_exchanges),
        memory,
    })
}

fn count<const MIN: u64, const MAX: u64>(given: Option<OffOr<Count<MIN, MAX>>>) -> Option<usize> {
    match given {
        Some(OffOr::On(count)) => Some(count.as_usize()),
        Some(OffOr::Off) | None => None,
    }
}

/// The steps stand one above the other: one that came before a milder one would leave that without a use.
fn memory(memory: vocabulary::MemoryPressure, reader: &mut Reader) -> Option<MemoryPressure> {
    let (first, second, third) = (
        share(memory.disable_keep_alive),
        share(memory.stop_accepting_requests),
        share(memory.stop_accepting_connections),
    );
    let highest = third.as_ref().map_or(
        at_least(at_least(STOP_ACCEPTING_CONNECTIONS, second.as_ref()), first.as_ref()),
        |third| third.value,
    );
    let third = Ceiling {
        setting: "overload.memory.stop_accepting_connections",
        value: highest,
        show: show_percent,
    };
    let default = at_least(STOP_ACCEPTING_REQUESTS, first.as_ref());
    let second = third.hold("stop_accepting_requests", second.as_ref(), default, reader)?;
    let second = Ceiling {
        setting: "overload.memory.stop_accepting_requests",
        value: second,
        show: show_percent,
    };
    let first = second.hold("disable_keep_alive", first.as_ref(), DISABLE_KEEP_ALIVE, reader)?;
    let first = Ceiling {
        setting: "overload.memory.disable_keep_alive",
        value: first,
        show: show_percent,
    };
    let recovery = first.hold("recovery", share(memory.recovery).as_ref(), RECOVERY, reader)?;
    Some(MemoryPressure {
        limit: memory.limit.map(|size| size.0),
        disable_keep_alive: first.value,
        stop_accepting_requests: second.value,
        stop_accepting_connections: third.value,
        recovery,
    })
}

fn share<const MIN: u64, const MAX: u64>(given: Option<At<Percent<MIN, MAX>>>) -> Option<At<u32>> {
    given.map(|share| share.map(Percent::as_u32))
}
