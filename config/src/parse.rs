//! From the vocabulary to the model: cross references, defaults, and every rule that takes more than one value.
//!
//! Control plane. Goes on after a fault like the reader does; the model exists only when there was none.

mod access_log;
mod ceiling;
pub(crate) mod cluster;
mod dns;
mod filter;
mod listener;
mod overload;
mod pattern;
mod reload;
mod route;
mod template;
mod tls;
mod wasm;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::environment::Environment;
use crate::error::Errors;
use crate::model::{Address, Cluster, Config, Listener};
use crate::node::{Node, Value};
use crate::place::Place;
use crate::reader::{FromNode, Reader, quote};
use crate::shape::{At, Named, OffOr};
use crate::suggest::suggestion;
use crate::units::Period;
use crate::vocabulary::{self, Document};

/// Long enough for most exchanges, short enough for supervisors, which kill after 30 to 90 s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Loopback, because the endpoint can drain the proxy.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9901);

pub(crate) fn parse(text: &str, file: &Path, environment: &dyn Environment) -> Result<Config, Errors> {
    let mut node = Node::parse(text, &Place::file(file))?;
    if matches!(node.value, Value::Null) {
        // An empty document lacks what an empty map lacks.
        node.value = Value::Map(Vec::new());
    }
    let mut reader = Reader::new(file, environment);
    let config = Document::from_node(&node, &mut reader).and_then(|document| config(document, &mut reader));
    let (errors, files) = reader.finish();
    match (Errors::collect(errors), config) {
        (None, Some(config)) => Ok(Config { files, ..config }),
        (Some(errors), _) => Err(errors),
        (None, None) => Err(unexplained(file)),
    }
}

fn config(document: Document, reader: &mut Reader) -> Option<Config> {
    let wasm = wasm::wasm(document.wasm, reader);
    let names = Names {
        filters: names(document.filters.as_ref()),
        clusters: names(document.clusters.as_ref()),
    };
    let admin = admin(document.admin, reader);
    let access_log = access_log::access_log(document.access_log, reader);
    let dns = dns::dns(document.dns, reader);
    let overload = overload::overload(document.overload, reader);
    let filters = filter::filters(document.filters, &names, &wasm, reader);
    let clusters: Option<Vec<Cluster>> = all(document.clusters, |name, value| {
        cluster::cluster(name, value, &names, &wasm, reader)
    });
    let listeners = listeners(document.listeners.0, &names, reader);
    let routes = route::routes(document.routes.0, &names, reader);
    let (listeners, admin) = (listeners?, admin?);
    refuse_shared_addresses(&listeners, admin.as_ref(), reader);
    let (filters, routes) = (filters?, routes?);
    route::refuse_unshown_certificates(&routes, &listeners, reader);
    let uses = listeners.iter().flat_map(|listener| &listener.filters);
    let uses = uses.chain(routes.iter().flat_map(|route| &route.filters));
    filter::refuse_two_configurations(&filters, uses, reader);
    Some(Config {
        workers: document.workers.map(|workers| workers.as_usize()),
        drain_timeout: or_default(document.drain_timeout, DRAIN_TIMEOUT),
        drain_delay: match document.drain_delay {
            Some(OffOr::On(delay)) => Some(delay.0),
            // Whoever is not asked by a balancer would only end later.
            Some(OffOr::Off) | None => None,
        },
        reload: reload::reload(document.reload),
        wasm,
        admin: admin.map(|admin| admin.value),
        access_log: access_log?,
        dns: dns?,
        overload: overload?,
        listeners,
        filters,
        clusters: clusters?,
        routes,
        files: Vec::new(),
    })
}

/// Every rule notes its fault before it gives up, so this is a defect of Tamis; said plainly rather than by a panic.
fn unexplained(file: &Path) -> Errors {
    let message = "refused without a reason; please report this as a defect of Tamis".to_owned();
    crate::error::Error {
        place: Place::file(file),
        message,
    }
    .into()
}

/// What can be referred to, in file order: a position here is the index in the model.
struct Names {
    filters: HashMap<String, usize>,
    clusters: HashMap<String, usize>,
}

impl Names {
    fn filter(&self, name: &At<String>, reader: &mut Reader) -> Option<usize> {
        find("filter", &self.filters, name, reader)
    }

    fn cluster(&self, name: &At<String>, reader: &mut Reader) -> Option<usize> {
        find("cluster", &self.clusters, name, reader)
    }
}

fn find(noun: &str, names: &HashMap<String, usize>, name: &At<String>, reader: &mut Reader) -> Option<usize> {
    let found = names.get(&name.value).copied();
    // Comparing with every name takes time, so it ends with the last error that is kept.
    if found.is_none() && !reader.is_full() {
        let suggestion = suggestion(&name.value, names.keys().map(String::as_str));
        let fix = if suggestion.is_empty() {
            format!("; add it under `{noun}s`")
        } else {
            suggestion
        };
        reader.error(&name.place, format!("there is no {noun} `{}`{fix}", quote(&name.value)));
    }
    found
}

fn names<T>(items: Option<&Named<T>>) -> HashMap<String, usize> {
    let items = items.map(|items| items.0.as_slice()).unwrap_or_default();
    items
        .iter()
        .enumerate()
        .map(|(index, item)| (item.name.clone(), index))
        .collect()
}

/// Converts every item, also after one has failed.
fn all<T, M>(items: Option<Named<T>>, mut convert: impl FnMut(&str, At<T>) -> Option<M>) -> Option<Vec<M>> {
    let Some(Named(items)) = items else {
        return Some(Vec::new());
    };
    let converted: Vec<_> = items
        .into_iter()
        .map(|item| {
            convert(
                &item.name,
                At {
                    place: item.place,
                    value: item.value?,
                },
            )
        })
        .collect();
    converted.into_iter().collect()
}

/// The inner `None` is `off`.
fn admin(admin: Option<OffOr<vocabulary::Admin>>, reader: &mut Reader) -> Option<Option<At<Address>>> {
    let synthetic = At {
        place: Place::synthetic(),
        value: Address::Tcp(ADMIN),
    };
    let address = match admin {
        Some(OffOr::Off) => return Some(None),
        None => synthetic,
        Some(OffOr::On(admin)) => admin.address.unwrap_or(synthetic),
    };
    if let Address::Tcp(tcp) = address.value
        && !tcp.ip().is_loopback()
    {
        let message = format!(
            "{tcp} is not a loopback address, and whoever reaches the admin endpoint can stop the proxy; \
             use 127.0.0.1, [::1] or `unix:` and a path"
        );
        reader.within("admin", |reader| reader.error_at(&address.place, "address", message));
        return None;
    }
    Some(Some(address))
}

fn listeners(
    listeners: Option<At<Named<vocabulary::Listener>>>,
    names: &Names,
    reader: &mut Reader,
) -> Option<Vec<Listener>> {
    let listeners = listeners?;
    if listeners.value.0.is_empty() {
        reader.error_at(
            &listeners.place,
            "listeners",
            "empty, so no client could connect; add a listener",
        );
        return None;
    }
    all(Some(listeners.value), |name, value| {
        listener::listener(name, value, names, reader)
    })
}

/// Port 0 is a fresh port each time, so only others can clash.
fn refuse_shared_addresses(listeners: &[Listener], admin: Option<&At<Address>>, reader: &mut Reader) {
    let admin = admin.map(|admin| (&admin.value, "the admin endpoint".to_owned()));
    let mut holders: HashMap<&Address, String> = admin.into_iter().collect();
    for listener in listeners {
        if matches!(listener.address, Address::Tcp(address) if address.port() == 0) {
            continue;
        }
        let label = format!("listener `{}`", listener.name);
        if let Some(holder) = holders.get(&listener.address) {
            let message = format!("{} belongs to {holder} already; choose another", listener.address);
            reader.within_item(label, |reader| reader.error_at(&listener.place, "address", message));
            continue;
        }
        holders.insert(&listener.address, label);
    }
}

fn or_default(period: Option<Period>, default: Duration) -> Duration {
    period.map_or(default, |period| period.0)
}
