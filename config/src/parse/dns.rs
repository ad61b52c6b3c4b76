//! How names of endpoints are looked up.
//!
//! Control plane.

use std::net::SocketAddr;
use std::time::Duration;

use super::ceiling::{Ceiling, at_least};
use super::or_default;
use crate::model::{Address, Dns};
use crate::reader::Reader;
use crate::shape::At;
use crate::units::show_duration;
use crate::vocabulary;

/// That of the system's own resolver.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A time to live of nothing means "do not cache", not "ask me all the time".
const MIN_TTL: Duration = Duration::from_secs(1);
/// A server that has moved is found within minutes, however long its old address may be kept.
const MAX_TTL: Duration = Duration::from_secs(5 * 60);

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: None,
            timeout: TIMEOUT,
            min_ttl: MIN_TTL,
            max_ttl: MAX_TTL,
        }
    }
}

pub(super) fn dns(dns: Option<vocabulary::Dns>, reader: &mut Reader) -> Option<Dns> {
    let dns = dns.unwrap_or_default();
    reader.within("dns", |reader| {
        let servers = match dns.servers {
            Some(listed) => Some(reader.within("servers", |reader| servers(listed, reader))?),
            None => None,
        };
        let min_ttl = dns.min_ttl.map(|period| period.map(|period| period.0));
        let ceiling = Ceiling {
            setting: "dns.max_ttl",
            value: or_default(dns.max_ttl, at_least(MAX_TTL, min_ttl.as_ref())),
            show: show_duration,
        };
        Some(Dns {
            servers,
            timeout: or_default(dns.timeout, TIMEOUT),
            min_ttl: ceiling.hold("min_ttl", min_ttl.as_ref(), MIN_TTL, reader)?,
            max_ttl: ceiling.value,
        })
    })
}

fn servers(listed: At<Vec<At<Address>>>, reader: &mut Reader) -> Option<Vec<SocketAddr>> {
    if listed.value.is_empty() {
        reader.error(&listed.place, "empty, so no name could be looked up; add a server");
        return None;
    }
    let server = |server: At<Address>| match server.value {
        Address::Tcp(address) if address.port() != 0 => Some(address),
        other => {
            let message = format!("`{other}` is not the address of a DNS server; write it as in `10.0.0.2:53`");
            reader.error(&server.place, message);
            None
        }
    };
    listed.value.into_iter().map(server).collect()
}
