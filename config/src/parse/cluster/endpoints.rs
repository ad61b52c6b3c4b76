//! The endpoints of a cluster: listed in the configuration, or in a file of their own.
//!
//! Control plane.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use crate::address::{EndpointAddress, host_name};
use crate::environment::Environment;
use crate::error::{Error, Errors};
use crate::model::{Address, Endpoint, Target};
use crate::node::{Node, Value};
use crate::place::Place;
use crate::reader::{FromNode as _, Reader};
use crate::shape::{At, ShortOr};
use crate::vocabulary;

/// What a worker can look through within microseconds, and a health check within its interval.
const MAX_ENDPOINTS: usize = 10_000;

pub(super) fn listed(listed: At<Vec<At<vocabulary::Endpoint>>>, reader: &mut Reader) -> Option<Vec<Endpoint>> {
    if listed.value.is_empty() {
        reader.error(&listed.place, "empty, so no request could be answered; add an endpoint");
        return None;
    }
    Some(endpoints(listed, reader))
}

/// The text of an endpoints file. It may say that there are none; a file without any content says nothing.
pub(crate) fn file(text: &str, file: &Path) -> Result<Vec<Endpoint>, Errors> {
    let node = Node::parse(text, &Place::file(file))?;
    let mut reader = Reader::new(file, &Nothing);
    if matches!(node.value, Value::Null) {
        let message = "empty; write `[]` when there are no endpoints".to_owned();
        return Err(Error {
            place: Place::file(file),
            message,
        }
        .into());
    }
    let place = reader.place(&node);
    let listed = Vec::from_node(&node, &mut reader);
    let endpoints = endpoints(
        At {
            place,
            value: listed.unwrap_or_default(),
        },
        &mut reader,
    );
    match Errors::collect(reader.finish().0) {
        None => Ok(endpoints),
        Some(errors) => Err(errors),
    }
}

/// Whoever writes an endpoints file need not be who starts the proxy, and learns nothing of its surroundings.
struct Nothing;

impl Environment for Nothing {
    fn variable(&self, _: &str) -> Result<Option<String>, String> {
        Ok(None)
    }

    fn read(&self, _: &Path, _: u64) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn endpoints(listed: At<Vec<At<vocabulary::Endpoint>>>, reader: &mut Reader) -> Vec<Endpoint> {
    if listed.value.len() > MAX_ENDPOINTS {
        reader.error(&listed.place, format!("more than {MAX_ENDPOINTS} endpoints; use fewer"));
        return Vec::new();
    }
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(listed.value.len());
    let mut seen = HashSet::new();
    for (index, At { place, value }) in listed.value.into_iter().enumerate() {
        let read = reader.within(format!("[{index}]"), |reader| endpoint(value, reader));
        let Some(endpoint) = read else { continue };
        if let Target::Address(Address::Tcp(_)) | Target::Host { .. } = &endpoint.target
            && port(&endpoint.target) == Some(0)
        {
            reader.error(
                &place,
                format!("{}: no server listens on port 0; write its port", endpoint.target),
            );
        }
        if !seen.insert(endpoint.target.clone()) {
            reader.error(
                &place,
                format!("{} stands here twice; use `weight` instead", endpoint.target),
            );
        }
        endpoints.push(endpoint);
    }
    endpoints
}

fn port(target: &Target) -> Option<u16> {
    match target {
        Target::Address(Address::Tcp(address)) => Some(address.port()),
        Target::Host { port, .. } => Some(*port),
        Target::Address(Address::Unix(_)) | Target::Service(_) => None,
    }
}

fn endpoint(endpoint: vocabulary::Endpoint, reader: &mut Reader) -> Option<Endpoint> {
    let block = match endpoint {
        ShortOr::Short(EndpointAddress(target)) => {
            return Some(Endpoint {
                target,
                weight: 1,
                priority: 0,
            });
        }
        ShortOr::Block(block) => block,
    };
    let target = match (block.address, block.srv) {
        (Some(EndpointAddress(target)), _) => target,
        (None, Some(name)) => {
            for (key, place) in [
                ("weight", block.weight.as_ref().map(|weight| &weight.place)),
                ("priority", block.priority.as_ref().map(|priority| &priority.place)),
            ] {
                if let Some(place) = place {
                    reader.error_at(place, key, "SRV records have their own; remove it");
                }
            }
            let name = host_name(&name.value).map_err(|message| reader.error_at(&name.place, "srv", message));
            Target::Service(name.ok()?)
        }
        // Noted when the block was read.
        (None, None) => return None,
    };
    Some(Endpoint {
        target,
        weight: block.weight.map_or(1, |weight| weight.value.as_u32()),
        priority: block.priority.map_or(0, |priority| priority.value.as_u32()),
    })
}
