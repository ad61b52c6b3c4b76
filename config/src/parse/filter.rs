//! Filters: what they are and what they may take.
//!
//! Control plane. Whether a component loads, and whether a built-in filter exists, is for the proxy to say.

use std::time::Duration;

use crate::model::{Filter, FilterKind, FilterLimits, Grant, OnFailure, Wasm};
use crate::reader::Reader;
use crate::shape::{At, check_name};
use crate::units::{Period, show_duration, show_size};
use crate::vocabulary;
use crate::word::Word as _;

/// A filter that keeps no tables needs 1 to 2 MiB; garbage-collected guests some more.
const MEMORY: u64 = 16 << 20;
/// A thousand times what a header filter takes, and still no stall that a client would notice.
const CPU: Duration = Duration::from_millis(10);
/// Leaves room for waiting on top of computing.
const WALL: Duration = Duration::from_millis(100);
/// A quarter of what the process may have alive.
const INSTANCES: u32 = 256;
/// As much as a whole head may have by default.
const HEADER_BYTES: usize = 64 << 10;
/// Enough to follow what happens, not enough to fill a disk.
const LOG_LINES: u32 = 100;
/// Instantiation is spread over so many exchanges that it no longer shows.
const INSTANCE_REUSE: u32 = 1_000;

pub(super) fn filter(name: &str, filter: At<vocabulary::Filter>, wasm: &Wasm, reader: &mut Reader) -> Option<Filter> {
    let At { place, value: filter } = filter;
    reader.within_item(format!("filter `{name}`"), |reader| {
        let kind = kind(&filter, reader);
        let limits = limits(filter.limits.as_ref().map(|limits| &limits.value), wasm, reader);
        let grants = grants(filter.grants.as_ref(), reader);
        Some(Filter {
            name: name.to_owned(),
            place,
            kind: kind?,
            config: filter.config.unwrap_or_default(),
            grants: grants?,
            limits: limits?,
            instance_reuse: filter
                .instance_reuse
                .map_or(INSTANCE_REUSE, |count| count.value.as_u32()),
            on_failure: filter.on_failure.unwrap_or(OnFailure::Closed),
        })
    })
}

fn kind(filter: &vocabulary::Filter, reader: &mut Reader) -> Option<FilterKind> {
    if let Some(component) = &filter.component {
        return component_kind(component, reader);
    }
    let native = filter.native.as_ref()?;
    refuse_sandbox_settings(filter, reader);
    match check_name(&native.value) {
        Ok(()) => Some(FilterKind::Native(native.value.clone())),
        Err(message) => {
            reader.error_at(&native.place, "native", message);
            None
        }
    }
}

fn component_kind(component: &At<String>, reader: &mut Reader) -> Option<FilterKind> {
    if component.value.is_empty() {
        reader.error_at(
            &component.place,
            "component",
            "an empty path; write the path of a component",
        );
        return None;
    }
    let path = reader.resolve(&component.value);
    reader.depend_on(path.clone());
    Some(FilterKind::Component(path))
}

/// They would have no effect, and whoever wrote them believes otherwise.
fn refuse_sandbox_settings(filter: &vocabulary::Filter, reader: &mut Reader) {
    let given = [
        ("grants", filter.grants.as_ref().map(|grants| &grants.place)),
        ("limits", filter.limits.as_ref().map(|limits| &limits.place)),
        (
            "instance_reuse",
            filter.instance_reuse.as_ref().map(|count| &count.place),
        ),
    ];
    for (key, place) in given {
        if let Some(place) = place {
            reader.error_at(
                place,
                key,
                "only components run in a sandbox, built-in filters do not; remove it",
            );
        }
    }
}

fn grants(grants: Option<&At<Vec<At<Grant>>>>, reader: &mut Reader) -> Option<Vec<Grant>> {
    let mut granted = Vec::new();
    for grant in grants.map(|grants| grants.value.as_slice()).unwrap_or_default() {
        if granted.contains(&grant.value) {
            reader.error_at(
                &grant.place,
                "grants",
                format!("`{}` stands here twice; remove one", grant.value.word()),
            );
            return None;
        }
        granted.push(grant.value);
    }
    Some(granted)
}

fn limits(limits: Option<&vocabulary::FilterLimits>, wasm: &Wasm, reader: &mut Reader) -> Option<FilterLimits> {
    let defaults = defaults(wasm);
    let Some(limits) = limits else { return Some(defaults) };
    reader.within("limits", |reader| {
        let memory = memory(limits, wasm, reader);
        let instances = instances(limits, wasm, reader);
        let time = time(limits.cpu.as_ref(), limits.wall.as_ref(), reader);
        let (cpu, wall) = time?;
        Some(FilterLimits {
            memory: memory?.unwrap_or(defaults.memory),
            cpu,
            wall,
            instances: instances?.unwrap_or(defaults.instances),
            header_bytes: limits.header_bytes.map_or(defaults.header_bytes, |size| {
                usize::try_from(size.0).unwrap_or(usize::MAX)
            }),
            log_lines: limits.log_lines.map_or(defaults.log_lines, |count| count.as_u32()),
        })
    })
}

fn defaults(wasm: &Wasm) -> FilterLimits {
    let defaults = FilterLimits::default();
    FilterLimits {
        memory: defaults.memory.min(wasm.max_memory),
        instances: defaults.instances.min(wasm.max_instances),
        ..defaults
    }
}

impl Default for FilterLimits {
    fn default() -> Self {
        Self {
            memory: MEMORY,
            cpu: CPU,
            wall: WALL,
            instances: INSTANCES,
            header_bytes: HEADER_BYTES,
            log_lines: LOG_LINES,
        }
    }
}

/// The inner `None` is "not given".
fn memory(limits: &vocabulary::FilterLimits, wasm: &Wasm, reader: &mut Reader) -> Option<Option<u64>> {
    let Some(memory) = &limits.memory else {
        return Some(None);
    };
    if memory.value.0 <= wasm.max_memory {
        return Some(Some(memory.value.0));
    }
    let message = format!(
        "more than wasm.max_memory, {}; lower it, or raise that",
        show_size(wasm.max_memory)
    );
    reader.error_at(&memory.place, "memory", message);
    None
}

/// The inner `None` is "not given".
fn instances(limits: &vocabulary::FilterLimits, wasm: &Wasm, reader: &mut Reader) -> Option<Option<u32>> {
    let Some(instances) = &limits.instances else {
        return Some(None);
    };
    let count = instances.value.as_u32();
    if count <= wasm.max_instances {
        return Some(Some(count));
    }
    let message = format!(
        "more than wasm.max_instances, {}; lower it, or raise that",
        wasm.max_instances
    );
    reader.error_at(&instances.place, "instances", message);
    None
}

/// Processor time and wall time: the former passes within the latter.
fn time(cpu: Option<&At<Period>>, wall: Option<&At<Period>>, reader: &mut Reader) -> Option<(Duration, Duration)> {
    let cpu_time = cpu.map(|cpu| cpu.value.0);
    let wall_time = wall.map(|wall| wall.value.0);
    let (place, key, message) = match (cpu, wall) {
        (Some(cpu), _) if cpu.value.0 > wall_time.unwrap_or(WALL) => {
            let wall = show_duration(wall_time.unwrap_or(WALL));
            (
                &cpu.place,
                "cpu",
                format!("more than limits.wall, {wall}; lower it, or raise that"),
            )
        }
        (None, Some(wall)) if wall.value.0 < CPU => return Some((wall.value.0, wall.value.0)),
        _ => return Some((cpu_time.unwrap_or(CPU), wall_time.unwrap_or(WALL))),
    };
    reader.error_at(place, key, message);
    None
}
