//! Clusters and their endpoints.
//!
//! Control plane.

use std::time::Duration;

use super::{or_default, tls};
use crate::model::{Address, Cluster, Endpoint, LoadBalancing};
use crate::reader::Reader;
use crate::shape::{At, ShortOr};
use crate::vocabulary;

/// Three lost SYNs (1 s, 2 s, 4 s later) are a dead host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shorter than the 75 s of nginx, so that we close first and never send into a closing connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The field's usual value for "the upstream hangs".
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Covers a worker's usual concurrency to one server; a burst above it opens connections and closes them again.
const MAX_IDLE: usize = 128;

pub(super) fn cluster(name: &str, cluster: At<vocabulary::Cluster>, reader: &mut Reader) -> Option<Cluster> {
    let At { place, value: cluster } = cluster;
    reader.within_item(format!("cluster `{name}`"), |reader| {
        let endpoints = reader.within("endpoints", |reader| endpoints(cluster.endpoints.0?, reader));
        let has_paths = |endpoints: &Vec<Endpoint>| {
            let is_path = |endpoint: &Endpoint| matches!(endpoint.address, Address::Unix(_));
            endpoints.iter().any(is_path)
        };
        let nameless = endpoints.as_ref().is_some_and(has_paths);
        let tls = reader.within("tls", |reader| tls::cluster(cluster.tls, nameless, reader));
        Some(Cluster {
            name: name.to_owned(),
            place,
            endpoints: endpoints?,
            load_balancing: cluster.load_balancing.unwrap_or(LoadBalancing::RoundRobin),
            connect_timeout: or_default(cluster.connect_timeout, CONNECT_TIMEOUT),
            idle_timeout: or_default(cluster.idle_timeout, IDLE_TIMEOUT),
            max_idle: cluster.max_idle.map_or(MAX_IDLE, |count| count.as_usize()),
            read_timeout: or_default(cluster.read_timeout, READ_TIMEOUT),
            tls: tls?,
            proxy_protocol: cluster.proxy_protocol,
        })
    })
}

fn endpoints(listed: At<Vec<At<vocabulary::Endpoint>>>, reader: &mut Reader) -> Option<Vec<Endpoint>> {
    if listed.value.is_empty() {
        reader.error(&listed.place, "empty, so no request could be answered; add an endpoint");
        return None;
    }
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(listed.value.len());
    let mut seen = std::collections::HashSet::new();
    for At { place, value } in listed.value {
        let Some(endpoint) = endpoint(value) else { continue };
        if matches!(endpoint.address, Address::Tcp(address) if address.port() == 0) {
            reader.error(
                &place,
                format!("{}: no server listens on port 0; write its port", endpoint.address),
            );
        }
        if !seen.insert(endpoint.address.clone()) {
            reader.error(
                &place,
                format!("{} stands here twice; use `weight` instead", endpoint.address),
            );
        }
        endpoints.push(endpoint);
    }
    Some(endpoints)
}

fn endpoint(endpoint: vocabulary::Endpoint) -> Option<Endpoint> {
    match endpoint {
        ShortOr::Short(address) => Some(Endpoint { address, weight: 1 }),
        ShortOr::Block(block) => {
            let weight = block.weight.map_or(1, |weight| weight.as_u32());
            Some(Endpoint {
                address: block.address.0?,
                weight,
            })
        }
    }
}
