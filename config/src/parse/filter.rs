//! Filters: what they are and what they may take.
//!
//! Control plane. Whether a component loads, and whether a built-in filter exists, is for the proxy to say.

mod breaker;
mod candidate;
mod grant;
mod limits;
mod middleware;

use std::path::PathBuf;
use std::time::Duration;

pub(super) use candidate::refuse_two_configurations;

use super::{Names, all};
use crate::model::{ComponentKind, Filter, FilterKind, FilterLimits, OnFailure, Wasm};
use crate::reader::Reader;
use crate::shape::{At, Named, check_name};
use crate::units::{Period, show_duration};
use crate::vocabulary;

/// Instantiation is spread over so many exchanges that it no longer shows.
const INSTANCE_REUSE: u32 = 1_000;

/// Each takes an instance; what must happen more often than ten times a second belongs to exchanges.
const MIN_TICK: Duration = Duration::from_millis(100);

pub(super) fn filters(
    filters: Option<Named<vocabulary::Filter>>,
    names: &Names,
    wasm: &Wasm,
    reader: &mut Reader,
) -> Option<Vec<Filter>> {
    let filters = all(filters, |name, value| filter(name, value, names, wasm, reader))?;
    grant::refuse_unequal_tables(&filters, reader);
    Some(filters)
}

fn filter(
    name: &str,
    filter: At<vocabulary::Filter>,
    names: &Names,
    wasm: &Wasm,
    reader: &mut Reader,
) -> Option<Filter> {
    let At { place, value: filter } = filter;
    reader.within_item(format!("filter `{name}`"), |reader| {
        let kind = kind(&filter, reader);
        let is_middleware = filter.kind == Some(ComponentKind::Middleware);
        let terms = middleware::Given::of(&filter);
        let granted = reader.within("grants", |reader| grant::grants(filter.grants, names, reader));
        let (grants, of_middleware) = granted.unzip();
        let limits_of_both = filter.limits.map(|limits| limits.value);
        let middleware = terms.middleware(
            of_middleware,
            filter.instances,
            limits_of_both.as_ref(),
            (&place, wasm),
            reader,
        );
        let wall = limits::default_wall(grants.as_deref());
        let limits = match is_middleware {
            true => Some(FilterLimits {
                wait: limits::wait(limits_of_both.as_ref()),
                ..FilterLimits::default()
            }),
            false => limits::limits(limits_of_both, wall, wasm, reader),
        };
        let breaker = breaker::breaker(filter.breaker.map(|breaker| breaker.value), reader);
        let tick = tick(filter.tick, reader);
        let candidate = candidate::candidate(filter.candidate, reader);
        let kind = kind?;
        Some(Filter {
            name: name.to_owned(),
            place,
            config: filter.config.unwrap_or_default(),
            grants: grants?,
            limits: limits?,
            breaker: breaker?.filter(|_| matches!(kind, FilterKind::Component(_))),
            tick: tick?,
            kind,
            instance_reuse: filter
                .instance_reuse
                .map_or(INSTANCE_REUSE, |count| count.value.as_u32()),
            on_failure: filter.on_failure.unwrap_or(OnFailure::Closed),
            candidate: candidate?,
            wanted: filter.kind,
            middleware: middleware?,
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
    component_path(component, reader).map(FilterKind::Component)
}

fn component_path(component: &At<String>, reader: &mut Reader) -> Option<PathBuf> {
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
    Some(path)
}

/// They would have no effect, and whoever wrote them believes otherwise.
fn refuse_sandbox_settings(filter: &vocabulary::Filter, reader: &mut Reader) {
    let given = [
        ("grants", filter.grants.as_ref().map(|grants| &grants.place)),
        ("limits", filter.limits.as_ref().map(|limits| &limits.place)),
        ("instances", filter.instances.as_ref().map(|instances| &instances.place)),
        (
            "instance_reuse",
            filter.instance_reuse.as_ref().map(|count| &count.place),
        ),
        ("breaker", filter.breaker.as_ref().map(|breaker| &breaker.place)),
        ("tick", filter.tick.as_ref().map(|tick| &tick.place)),
        ("candidate", filter.candidate.as_ref().map(|candidate| &candidate.place)),
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

/// The inner `None` is "never".
fn tick(tick: Option<At<Period>>, reader: &mut Reader) -> Option<Option<Duration>> {
    let Some(tick) = tick else { return Some(None) };
    if tick.value.0 >= MIN_TICK {
        return Some(Some(tick.value.0));
    }
    let message = format!(
        "{} is too often; choose `{}` to `24h`",
        show_duration(tick.value.0),
        show_duration(MIN_TICK)
    );
    reader.error_at(&tick.place, "tick", message);
    None
}
