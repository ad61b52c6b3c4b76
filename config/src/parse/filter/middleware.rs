//! What holds for a filter that turns out to be a middleware.
//!
//! Control plane. Whether it is one, only its component says; what was given that says nothing to it is kept by name, for
//! whoever finds out. Its bounds are those of a component that serves.

use crate::model::{ComponentKind, Instances, Middleware, ServiceGrant, Wasm};
use crate::parse::cluster::service;
use crate::place::Place;
use crate::reader::Reader;
use crate::shape::{At, ShortOr};
use crate::units::{Count, Size};
use crate::vocabulary;

/// What was given, before it is taken apart.
pub(super) struct Given {
    kind: Option<ComponentKind>,
    /// Where `instance_reuse` stands.
    reuse: Option<Place>,
    foreign: Vec<String>,
    own: Vec<String>,
}

impl Given {
    pub fn of(filter: &vocabulary::Filter) -> Self {
        let none = vocabulary::FilterLimits::default();
        let limits = filter.limits.as_ref().map_or(&none, |limits| &limits.value);
        let foreign = [
            ("tick", filter.tick.is_some()),
            ("limits.table_elements", limits.table_elements.is_some()),
            ("limits.exchange_cpu", limits.exchange_cpu.is_some()),
            ("limits.body_bytes", limits.body_bytes.is_some()),
            ("limits.lifted_bytes", limits.lifted_bytes.is_some()),
            ("limits.outbound_calls", limits.outbound_calls.is_some()),
            ("limits.outbound_concurrent", limits.outbound_concurrent.is_some()),
        ];
        let own = [
            ("instances", filter.instances.is_some()),
            ("limits.handles", limits.handles.is_some()),
            ("limits.calls", limits.calls.is_some()),
            ("limits.call_timeout", limits.call_timeout.is_some()),
        ];
        let mut given = Self {
            kind: filter.kind,
            reuse: filter.instance_reuse.as_ref().map(|reuse| reuse.place.clone()),
            foreign: named(&foreign),
            own: named(&own),
        };
        for grant in filter.grants.iter().flat_map(|grants| &grants.value) {
            match &grant.value {
                ShortOr::Short(word) => match word.means() {
                    (Some(grant), None) => given.foreign.push(format!("grants: {}", grant.word())),
                    (None, Some(grant)) => given.own.push(format!("grants: {}", grant.word())),
                    _ => {}
                },
                ShortOr::Block(block) if block.key_value.is_some() => {
                    given.foreign.push("grants: key_value".to_owned())
                }
                ShortOr::Block(block) if block.outbound.is_some() => given.foreign.push("grants: outbound".to_owned()),
                ShortOr::Block(block) if block.env.is_some() => given.own.push("grants: env".to_owned()),
                ShortOr::Block(block) if block.config.is_some() => given.own.push("grants: config".to_owned()),
                ShortOr::Block(block) if block.dir.is_some() => given.own.push("grants: dir".to_owned()),
                ShortOr::Block(_) => given.own.push("grants: http".to_owned()),
            }
        }
        given
    }

    pub fn middleware(
        self,
        grants: Option<Vec<ServiceGrant>>,
        instances: Option<At<vocabulary::Instances>>,
        limits: Option<&vocabulary::FilterLimits>,
        (place, wasm): (&Place, &Wasm),
        reader: &mut Reader,
    ) -> Option<Middleware> {
        let is_default_wall = limits.is_none_or(|limits| limits.wall.is_none());
        let mut limits = limits.map(|limits| as_of_service(limits, place));
        if let Some(limits) = limits.as_mut().filter(|_| self.kind != Some(ComponentKind::Middleware)) {
            // Whether it is one is not known, and the ceilings of filters are asked for it: no more than there may be.
            let (memory, instances) = (wasm.max_service_memory, wasm.max_service_instances);
            if let Some(given) = &mut limits.memory {
                given.value.0 = given.value.0.min(memory);
            }
            if let Some(given) = &mut limits.instances {
                given.value.0 = given.value.0.min(instances.into());
            }
        }
        let limits = reader.within("limits", |reader| service::limits(limits.as_mut(), wasm, reader));
        let ways = service::instances(instances);
        if let (Some(Instances::Fresh), Some(reuse)) = (ways, &self.reuse) {
            let message = "with `instances: fresh` each exchange has an instance of its own; remove one of them";
            reader.error_at(reuse, "instance_reuse", message);
        }
        let (grants, mut limits) = (grants?, limits?);
        if is_default_wall && grants.iter().any(|grant| matches!(grant, ServiceGrant::Http(_))) {
            // It waits for others as long as they may take.
            limits.wall = limits.wall.max(limits.call_timeout);
        }
        Some(Middleware {
            grants,
            instances: ways,
            limits,
            foreign: self.foreign,
            own: self.own,
        })
    }
}

fn named(keys: &[(&str, bool)]) -> Vec<String> {
    let given = keys.iter().filter(|(_, is_given)| *is_given);
    given.map(|(key, _)| (*key).to_owned()).collect()
}

/// The bounds that both have, where those of a service are asked for.
fn as_of_service(limits: &vocabulary::FilterLimits, place: &Place) -> vocabulary::ClusterLimits {
    fn at<T>(place: &Place, value: T) -> At<T> {
        At {
            place: place.clone(),
            value,
        }
    }
    vocabulary::ClusterLimits {
        memory: limits.memory.clone(),
        cpu: limits.cpu.clone(),
        wall: limits.wall.map(|wall| at(place, wall)),
        instances: limits.instances.clone(),
        header_bytes: limits.header_bytes.map(|size| at(place, Size(size.0))),
        handles: limits.handles.map(|count| at(place, count)),
        calls: limits.calls.map(|count| at(place, count)),
        call_timeout: limits.call_timeout.map(|timeout| at(place, timeout)),
        key_value_bytes: limits.key_value_bytes.map(|size| at(place, size)),
        key_value_keys: limits.key_value_keys.map(|count| at(place, count)),
        log_lines: limits.log_lines.map(|count: Count<0, 100_000>| at(place, count)),
        ..vocabulary::ClusterLimits::default()
    }
}
