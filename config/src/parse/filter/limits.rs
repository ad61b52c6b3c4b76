//! What a component may take.
//!
//! Control plane. Every bound of a filter is here, with its default and the reason for it.

use std::time::Duration;

use crate::model::{FilterLimits, Grant, Wasm};
use crate::parse::ceiling::{Ceiling, at_least};
use crate::parse::or_default;
use crate::reader::Reader;
use crate::shape::At;
use crate::units::{Count, Size, show_duration, show_size};
use crate::vocabulary;

/// A filter that keeps no tables needs 1 to 2 MiB; garbage-collected guests some more.
const MEMORY: u64 = 16 << 20;
/// Compiled languages need hundreds to a few thousand, interpreters about 10,000.
const TABLE_ELEMENTS: usize = 16_384;
/// A thousand times what a header filter takes, and still no stall that a client would notice.
const CPU: Duration = Duration::from_millis(10);
/// Ten hooks that each take all they may; pieces of a body are many, and each of them short.
const EXCHANGE_CPU: Duration = Duration::from_millis(100);
/// Leaves room for waiting on top of computing.
const WALL: Duration = Duration::from_millis(100);
/// A filter with outbound calls waits for other servers; as long as a cluster's `connect_timeout`.
const OUTBOUND_WALL: Duration = Duration::from_secs(5);
/// As long as one hook may take; a queue that is not through by then will not be soon.
const WAIT: Duration = Duration::from_millis(100);
/// A quarter of what the process may have alive.
const INSTANCES: u32 = 256;
/// As much as a whole head may have by default.
const HEADER_BYTES: usize = 64 << 10;
/// API requests and tokens stay below; with all instances busy it is 256 MiB.
const BODY_BYTES: usize = 1 << 20;
/// All that a guest with the default memory can hold, once.
const LIFTED_BYTES: usize = 16 << 20;
/// One for a token, one for a decision, each with retries; more is a loop.
const OUTBOUND_CALLS: u32 = 8;
/// Four for each instance.
const OUTBOUND_CONCURRENT: u32 = 1_024;
/// As much as one instance may have, for all of them together.
const KEY_VALUE_BYTES: usize = 16 << 20;
/// At 160 bytes each they fill the table.
const KEY_VALUE_KEYS: usize = 100_000;
/// Enough to follow what happens, not enough to fill a disk.
const LOG_LINES: u32 = 100;

impl Default for FilterLimits {
    fn default() -> Self {
        Self {
            memory: MEMORY,
            table_elements: TABLE_ELEMENTS,
            cpu: CPU,
            exchange_cpu: EXCHANGE_CPU,
            wall: WALL,
            wait: WAIT,
            instances: INSTANCES,
            header_bytes: HEADER_BYTES,
            body_bytes: BODY_BYTES,
            lifted_bytes: LIFTED_BYTES,
            outbound_calls: OUTBOUND_CALLS,
            outbound_concurrent: OUTBOUND_CONCURRENT,
            key_value_bytes: KEY_VALUE_BYTES,
            key_value_keys: KEY_VALUE_KEYS,
            log_lines: LOG_LINES,
        }
    }
}

/// Of grants with a fault (`None`) the longer, so that it has no second one here.
pub(super) fn default_wall(grants: Option<&[Grant]>) -> Duration {
    let outbound = |grants: &[Grant]| grants.iter().any(|grant| matches!(grant, Grant::Outbound(_)));
    if grants.is_none_or(outbound) {
        OUTBOUND_WALL
    } else {
        WALL
    }
}

pub(super) fn wait(limits: Option<&vocabulary::FilterLimits>) -> Duration {
    limits
        .and_then(|limits| limits.wait.as_ref())
        .map_or(WAIT, |wait| wait.0)
}

pub(super) fn limits(
    limits: Option<vocabulary::FilterLimits>,
    default_wall: Duration,
    wasm: &Wasm,
    reader: &mut Reader,
) -> Option<FilterLimits> {
    let limits = limits.unwrap_or_default();
    reader.within("limits", |reader| {
        let memory = memory(limits.memory, wasm, reader);
        let table_elements = table_elements(limits.table_elements, wasm, reader);
        let instances = instances(limits.instances, wasm, reader);
        let wall = or_default(limits.wall, default_wall);
        let cpu = limits.cpu.map(|cpu| cpu.map(|cpu| cpu.0));
        let exchange_cpu = or_default(limits.exchange_cpu, at_least(EXCHANGE_CPU, cpu.as_ref()));
        let cpu = self::cpu(cpu.as_ref(), wall, exchange_cpu, reader);
        let body = limits.body_bytes.map(|size| size.map(|size| size.as_usize()));
        let lifted = limits.lifted_bytes.map(|size| size.as_usize());
        let lifted_bytes = lifted.unwrap_or_else(|| at_least(LIFTED_BYTES, body.as_ref()));
        let body_bytes = body_bytes(body.as_ref(), lifted_bytes, reader);
        Some(FilterLimits {
            memory: memory?,
            table_elements: table_elements?,
            cpu: cpu?,
            exchange_cpu,
            wall,
            wait: or_default(limits.wait, WAIT),
            instances: instances?,
            header_bytes: limits.header_bytes.map_or(HEADER_BYTES, |size| size.as_usize()),
            body_bytes: body_bytes?,
            lifted_bytes,
            outbound_calls: limits.outbound_calls.map_or(OUTBOUND_CALLS, |count| count.as_u32()),
            outbound_concurrent: limits
                .outbound_concurrent
                .map_or(OUTBOUND_CONCURRENT, |count| count.as_u32()),
            key_value_bytes: limits.key_value_bytes.map_or(KEY_VALUE_BYTES, |size| size.as_usize()),
            key_value_keys: limits.key_value_keys.map_or(KEY_VALUE_KEYS, |count| count.as_usize()),
            log_lines: limits.log_lines.map_or(LOG_LINES, |count| count.as_u32()),
        })
    })
}

fn memory<const MIN: u64, const MAX: u64>(
    given: Option<At<Size<MIN, MAX>>>,
    wasm: &Wasm,
    reader: &mut Reader,
) -> Option<u64> {
    let ceiling = Ceiling {
        setting: "wasm.max_memory",
        value: wasm.max_memory,
        show: show_size,
    };
    let given = given.map(|size| size.map(|size| size.0));
    ceiling.hold("memory", given.as_ref(), MEMORY, reader)
}

fn table_elements<const MIN: u64, const MAX: u64>(
    given: Option<At<Count<MIN, MAX>>>,
    wasm: &Wasm,
    reader: &mut Reader,
) -> Option<usize> {
    let ceiling = Ceiling {
        setting: "wasm.max_table_elements",
        value: wasm.max_table_elements,
        show: |count| count.to_string(),
    };
    let given = given.map(|count| count.map(|count| count.as_usize()));
    ceiling.hold("table_elements", given.as_ref(), TABLE_ELEMENTS, reader)
}

fn instances<const MIN: u64, const MAX: u64>(
    given: Option<At<Count<MIN, MAX>>>,
    wasm: &Wasm,
    reader: &mut Reader,
) -> Option<u32> {
    let ceiling = Ceiling {
        setting: "wasm.max_instances",
        value: wasm.max_instances,
        show: |count| count.to_string(),
    };
    let given = given.map(|count| count.map(|count| count.as_u32()));
    ceiling.hold("instances", given.as_ref(), INSTANCES, reader)
}

/// Processor time passes within wall time, and one hook's within that of all.
fn cpu(given: Option<&At<Duration>>, wall: Duration, exchange_cpu: Duration, reader: &mut Reader) -> Option<Duration> {
    let within_wall = Ceiling {
        setting: "limits.wall",
        value: wall,
        show: show_duration,
    };
    let within_exchange = Ceiling {
        setting: "limits.exchange_cpu",
        value: exchange_cpu,
        show: show_duration,
    };
    let within_wall = within_wall.hold("cpu", given, CPU, reader);
    let within_exchange = within_exchange.hold("cpu", given, CPU, reader);
    Some(within_wall?.min(within_exchange?))
}

/// A body that was held comes back in one call, if it is replaced.
fn body_bytes(given: Option<&At<usize>>, lifted_bytes: usize, reader: &mut Reader) -> Option<usize> {
    let ceiling = Ceiling {
        setting: "limits.lifted_bytes",
        value: lifted_bytes,
        show: |bytes| show_size(bytes as u64),
    };
    ceiling.hold("body_bytes", given, BODY_BYTES, reader)
}
