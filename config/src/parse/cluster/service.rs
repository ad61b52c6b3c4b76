//! A component that serves, in place of servers.
//!
//! Control plane. Whether the component loads, and what it needs, is for the proxy to say.

use std::collections::HashSet;
use std::time::Duration;

use crate::model::{FilterLimits, Instances, Service, ServiceGrant, ServiceLimits, Wasm};
use crate::parse::Names;
use crate::parse::ceiling::Ceiling;
use crate::place::Place;
use crate::reader::{Reader, quote};
use crate::settings::SecretText;
use crate::shape::{At, Pairs, ShortOr};
use crate::units::show_size;
use crate::vocabulary::{self, InstancesBlock, ServiceGrantBlock};
use crate::word::{InstancesWord, ServiceGrantWord};

/// Instantiation is spread over so many exchanges that it no longer shows.
const INSTANCE_REUSE: u32 = 1_000;
/// Compiled languages need 1 to 2 MiB, JavaScript some ten, CPython some thirty; and what an exchange takes.
const MEMORY: u64 = 128 << 20;
/// A page that takes longer to compute is a mistake, or wants a setting of its own.
const CPU: Duration = Duration::from_secs(1);
/// For what is left to do after an answer: a line to be written, a cache to be filled.
const WALL: Duration = Duration::from_secs(10);
/// A quarter of what the process may have alive.
const INSTANCES: u32 = 256;
/// wasmtime's: the largest head that a listener takes, and what each field takes besides.
const HEADER_BYTES: usize = 128 << 10;
/// A dozen for an exchange, and as many for each of some ten calls of its own.
const HANDLES: usize = 256;
/// A page that is put together of several others.
const CALLS: usize = 16;
/// Half of what the proxy itself gives a server.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Enough to follow what happens, not enough to fill a disk.
const LOG_LINES: u32 = 100;

pub(super) fn service(
    component: At<String>,
    cluster: &mut vocabulary::Cluster,
    place: &Place,
    (names, wasm): (&Names, &Wasm),
    reader: &mut Reader,
) -> Option<Service> {
    refuse_of_servers(cluster, place, reader);
    let path = match component.value.is_empty() {
        true => {
            let message = "an empty path; write the path of a component";
            reader.error_at(&component.place, "component", message);
            None
        }
        false => {
            let path = reader.resolve(&component.value);
            reader.depend_on(path.clone());
            Some(path)
        }
    };
    let grants = reader.within("grants", |reader| grants(cluster.grants.take(), names, reader));
    let is_reused = cluster.instance_reuse.is_some();
    let instances = instances(cluster.instances.take()).or(is_reused.then_some(Instances::Exclusive));
    let reuse = instance_reuse(cluster.instance_reuse.take(), instances, reader);
    let limits = reader.within("limits", |reader| limits(cluster.limits.as_mut(), wasm, reader));
    Some(Service {
        component: path?,
        grants: grants?,
        instances,
        instance_reuse: reuse?,
        limits: limits?,
    })
}

/// They would have no effect, and whoever wrote them believes otherwise.
pub(super) fn refuse_without_component(cluster: &vocabulary::Cluster, reader: &mut Reader) {
    fn place<T>(given: &Option<At<T>>) -> Option<&Place> {
        given.as_ref().map(|given| &given.place)
    }
    let mut given = vec![
        ("grants", place(&cluster.grants)),
        ("instances", place(&cluster.instances)),
        ("instance_reuse", place(&cluster.instance_reuse)),
    ];
    if let Some(limits) = &cluster.limits {
        given.extend([
            ("limits.memory", place(&limits.memory)),
            ("limits.cpu", place(&limits.cpu)),
            ("limits.wall", place(&limits.wall)),
            ("limits.instances", place(&limits.instances)),
            ("limits.header_bytes", place(&limits.header_bytes)),
            ("limits.handles", place(&limits.handles)),
            ("limits.calls", place(&limits.calls)),
            ("limits.call_timeout", place(&limits.call_timeout)),
            ("limits.key_value_bytes", place(&limits.key_value_bytes)),
            ("limits.key_value_keys", place(&limits.key_value_keys)),
            ("limits.log_lines", place(&limits.log_lines)),
        ]);
    }
    for (key, place) in given {
        if let Some(place) = place {
            reader.error_at(
                place,
                key,
                "is about a `component`, and this cluster has none; remove it",
            );
        }
    }
}

/// The same for what is about servers.
fn refuse_of_servers(cluster: &vocabulary::Cluster, place: &Place, reader: &mut Reader) {
    let given = [
        ("load_balancing", cluster.load_balancing.is_some()),
        ("hash_key", cluster.hash_key.is_some()),
        ("slow_start", cluster.slow_start.is_some()),
        ("panic_threshold", cluster.panic_threshold.is_some()),
        ("sticky", cluster.sticky.is_some()),
        ("health_check", cluster.health_check.is_some()),
        // Of one endpoint none ever is.
        ("outlier_ejection", cluster.outlier_ejection.is_some()),
        ("idle_timeout", cluster.idle_timeout.is_some()),
        ("max_idle", cluster.max_idle.is_some()),
        ("protocol", cluster.protocol.is_some()),
        ("http2", cluster.http2.is_some()),
        ("proxy_protocol", cluster.proxy_protocol.is_some()),
        ("tls", cluster.tls.is_some()),
    ];
    for (key, _) in given.iter().filter(|(_, is_given)| *is_given) {
        reader.error_at(
            place,
            key,
            "is about servers, and this cluster is a component; remove it",
        );
    }
}

fn grants(
    grants: Option<At<Vec<vocabulary::ServiceGrant>>>,
    names: &Names,
    reader: &mut Reader,
) -> Option<Vec<ServiceGrant>> {
    let mut seen = HashSet::new();
    let mut convert = |At { place, value }: vocabulary::ServiceGrant| {
        let grant = match value {
            ShortOr::Short(ServiceGrantWord::Clocks) => ServiceGrant::Clocks,
            ShortOr::Short(ServiceGrantWord::Random) => ServiceGrant::Random,
            ShortOr::Short(ServiceGrantWord::Stdio) => ServiceGrant::Stdio,
            ShortOr::Short(ServiceGrantWord::KeyValue) => ServiceGrant::KeyValue,
            ShortOr::Short(ServiceGrantWord::UnsafeSockets) => ServiceGrant::UnsafeSockets,
            ShortOr::Block(block) => with_object(block, names, reader)?,
        };
        if seen.insert(grant.word()) {
            return Some(grant);
        }
        reader.error(&place, format!("`{}` stands here twice; remove one", grant.word()));
        None
    };
    let listed = grants.map(|grants| grants.value).unwrap_or_default();
    let converted: Vec<_> = listed.into_iter().map(&mut convert).collect();
    converted.into_iter().collect()
}

pub(in crate::parse) fn with_object(
    block: ServiceGrantBlock,
    names: &Names,
    reader: &mut Reader,
) -> Option<ServiceGrant> {
    match block {
        ServiceGrantBlock { env: Some(env), .. } => Some(ServiceGrant::Env(values(env))),
        ServiceGrantBlock {
            config: Some(config), ..
        } => Some(ServiceGrant::Config(values(config))),
        ServiceGrantBlock { dir: Some(dir), .. } => reader.within("dir", |reader| folders(dir, reader)),
        block => reader.within("http", |reader| http(block.http?, names, reader)),
    }
}

fn values(pairs: Pairs<SecretText>) -> Vec<(String, String)> {
    let pairs = pairs.0.into_iter();
    pairs.map(|(key, value)| (key.value, value.0)).collect()
}

/// Whether they are there is for the proxy to say.
fn folders(pairs: Pairs<At<String>>, reader: &mut Reader) -> Option<ServiceGrant> {
    let mut convert = |(guest, host): (At<String>, At<String>)| {
        if !is_absolute(&guest.value) {
            let message = "is no plain absolute path; write it as the component is to find it, as in `/data`";
            reader.error(&guest.place, format!("`{}` {message}", quote(&guest.value)));
            return None;
        }
        if host.value.is_empty() {
            reader.error_at(&host.place, &guest.value, "an empty path; write the path of a folder");
            return None;
        }
        Some((guest.value, reader.resolve(&host.value)))
    };
    let converted: Vec<_> = pairs.0.into_iter().map(&mut convert).collect();
    converted.into_iter().collect::<Option<_>>().map(ServiceGrant::Dir)
}

/// With nothing in it that names another path, so that each folder has one name.
fn is_absolute(path: &str) -> bool {
    let is_plain = |part: &str| !["", ".", ".."].contains(&part) && !part.contains('\0');
    path == "/"
        || path
            .strip_prefix('/')
            .is_some_and(|parts| parts.split('/').all(is_plain))
}

fn http(clusters: At<Vec<At<String>>>, names: &Names, reader: &mut Reader) -> Option<ServiceGrant> {
    let mut seen = HashSet::new();
    let mut find = |name: At<String>| {
        names.cluster(&name, reader)?;
        if seen.insert(name.value.clone()) {
            return Some(name.value);
        }
        reader.error(&name.place, format!("`{}` stands here twice; remove one", name.value));
        None
    };
    let found: Vec<_> = clusters.value.into_iter().map(&mut find).collect();
    found.into_iter().collect::<Option<_>>().map(ServiceGrant::Http)
}

impl ServiceGrant {
    /// The capability's name in YAML, without its object.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Clocks => "clocks",
            Self::Random => "random",
            Self::Stdio => "stdio",
            Self::Env(_) => "env",
            Self::Config(_) => "config",
            Self::KeyValue => "keyvalue",
            Self::Dir(_) => "dir",
            Self::UnsafeSockets => "unsafe_sockets",
            Self::Http(_) => "http",
        }
    }
}

pub(in crate::parse) fn instances(instances: Option<At<vocabulary::Instances>>) -> Option<Instances> {
    Some(match instances?.value {
        ShortOr::Short(InstancesWord::Exclusive) => Instances::Exclusive,
        ShortOr::Short(InstancesWord::Fresh) => Instances::Fresh,
        ShortOr::Block(InstancesBlock { concurrent }) => {
            // A block without it was noted when it was read.
            concurrent.map_or(Instances::Exclusive, |count| Instances::Concurrent(count.as_u32()))
        }
    })
}

fn instance_reuse<const MIN: u64, const MAX: u64>(
    given: Option<At<crate::units::Count<MIN, MAX>>>,
    instances: Option<Instances>,
    reader: &mut Reader,
) -> Option<u32> {
    match given {
        Some(given) if instances == Some(Instances::Fresh) => {
            let message = "with `instances: fresh` each exchange has an instance of its own; remove one of them";
            reader.error_at(&given.place, "instance_reuse", message);
            None
        }
        Some(given) => Some(given.value.as_u32()),
        None if instances == Some(Instances::Fresh) => Some(1),
        None => Some(INSTANCE_REUSE),
    }
}

pub(in crate::parse) fn limits(
    limits: Option<&mut vocabulary::ClusterLimits>,
    wasm: &Wasm,
    reader: &mut Reader,
) -> Option<ServiceLimits> {
    let mut none = vocabulary::ClusterLimits::default();
    let limits = limits.unwrap_or(&mut none);
    let memory = Ceiling {
        setting: "wasm.max_service_memory",
        value: wasm.max_service_memory,
        show: show_size,
    };
    let instances = Ceiling {
        setting: "wasm.max_service_instances",
        value: wasm.max_service_instances,
        show: |count: u32| count.to_string(),
    };
    let given = limits.memory.take().map(|size| size.map(|size| size.0));
    let memory = memory.hold("memory", given.as_ref(), MEMORY, reader);
    let given = limits.instances.take().map(|count| count.map(|count| count.as_u32()));
    let instances = instances.hold("instances", given.as_ref(), INSTANCES, reader);
    // Wherever a component stands, it remembers as much.
    let of_filters = FilterLimits::default();
    let period = |given: &Option<At<crate::units::Period>>, default| given.as_ref().map_or(default, |at| at.value.0);
    Some(ServiceLimits {
        memory: memory?,
        cpu: period(&limits.cpu, CPU),
        wall: period(&limits.wall, WALL),
        instances: instances?,
        header_bytes: limits
            .header_bytes
            .as_ref()
            .map_or(HEADER_BYTES, |size| size.value.as_usize()),
        handles: limits.handles.as_ref().map_or(HANDLES, |count| count.value.as_usize()),
        calls: limits.calls.as_ref().map_or(CALLS, |count| count.value.as_usize()),
        call_timeout: period(&limits.call_timeout, CALL_TIMEOUT),
        key_value_bytes: limits
            .key_value_bytes
            .as_ref()
            .map_or(of_filters.key_value_bytes, |size| size.value.as_usize()),
        key_value_keys: limits
            .key_value_keys
            .as_ref()
            .map_or(of_filters.key_value_keys, |count| count.value.as_usize()),
        log_lines: limits
            .log_lines
            .as_ref()
            .map_or(LOG_LINES, |count| count.value.as_u32()),
    })
}
