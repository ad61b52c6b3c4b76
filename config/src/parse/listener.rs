//! Listeners, and the chains that listeners and routes have alike.
//!
//! Control plane.

use std::time::Duration;

use super::{Names, ceiling::Ceiling, or_default, tls};
use crate::model::{FilterUse, Listener, ListenerLimits};
use crate::reader::Reader;
use crate::shape::{At, ShortOr};
use crate::units::show_size;
use crate::vocabulary;

/// A handshake takes two round trips; 10 s is enough for the slowest link.
const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// At 100 ms each, 10,000 new connections a second; under 20 MB of half-made sessions.
const MAX_HANDSHAKES: usize = 1_000;
/// A head fits one packet or a few; 10 s is enough for the slowest link, and short for who sends a byte at a time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// What browsers and load balancers keep a connection for.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// A stalled upload is told from a slow one by half a minute of silence; the same for downloads.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Cookies and tokens stay below; the size of hyper's default read buffer is six times that.
const MAX_HEAD_BYTES: u64 = 64 << 10;
/// The largest cookie jars that browsers send.
const MAX_FIELD_BYTES: u64 = 16 << 10;
/// hyper's own default; browsers send about 20.
const MAX_FIELDS: usize = 100;
/// RFC 9112 section 3 asks for at least 8000 octets of request line.
const MAX_TARGET_BYTES: u64 = 8 << 10;
/// At 12 KiB for an idle connection, 120 MB.
const MAX_CONNECTIONS: usize = 10_000;

/// More than anyone reads; each filter costs time on every exchange.
const MAX_CHAIN: usize = 64;

pub(super) fn listener(
    name: &str,
    listener: At<vocabulary::Listener>,
    names: &Names,
    reader: &mut Reader,
) -> Option<Listener> {
    let At { value: listener, place } = listener;
    reader.within_item(format!("listener `{name}`"), |reader| {
        let filters = chain(listener.filters, names, reader);
        let limits = reader.within("limits", |reader| limits(listener.limits, reader));
        let redirect = tls::redirect(listener.redirect, listener.tls.is_some(), reader);
        let tls = reader.within("tls", |reader| tls::listener(listener.tls, reader));
        let address = listener.address.0?.value;
        Some(Listener {
            name: name.to_owned(),
            place,
            address,
            tls: tls?,
            redirect: redirect?,
            filters: filters?,
            limits: limits?,
        })
    })
}

/// The filters of a listener or route, in order.
pub(super) fn chain(
    uses: Option<Vec<vocabulary::FilterUse>>,
    names: &Names,
    reader: &mut Reader,
) -> Option<Vec<FilterUse>> {
    let uses = uses.unwrap_or_default();
    reader.within("filters", |reader| {
        if let Some(surplus) = uses.get(MAX_CHAIN) {
            let message = format!("more than {MAX_CHAIN} filters in one chain; join some of them");
            reader.error(&surplus.place, message);
            return None;
        }
        let converted: Vec<_> = uses
            .into_iter()
            .map(|filter| filter_use(filter, names, reader))
            .collect();
        converted.into_iter().collect()
    })
}

fn filter_use(filter: vocabulary::FilterUse, names: &Names, reader: &mut Reader) -> Option<FilterUse> {
    let (name, config) = match filter.value {
        ShortOr::Short(name) => (name, None),
        ShortOr::Block(block) => (block.filter.0?, block.config),
    };
    Some(FilterUse {
        filter: names.filter(&name, reader)?,
        config,
        place: name.place,
    })
}

fn limits(limits: Option<vocabulary::ListenerLimits>, reader: &mut Reader) -> Option<ListenerLimits> {
    let Some(limits) = limits else {
        return Some(ListenerLimits::default());
    };
    let head = Ceiling {
        setting: "limits.max_head_bytes",
        value: limits.max_head_bytes.map_or(MAX_HEAD_BYTES, |size| size.0),
        show: show_size,
    };
    let field = limits.max_field_bytes.map(|size| size.map(|size| size.0));
    let field = head.hold("max_field_bytes", field.as_ref(), MAX_FIELD_BYTES, reader);
    let target = limits.max_target_bytes.map(|size| size.map(|size| size.0));
    let target = head.hold("max_target_bytes", target.as_ref(), MAX_TARGET_BYTES, reader);
    Some(ListenerLimits {
        tls_handshake_timeout: or_default(limits.tls_handshake_timeout, TLS_HANDSHAKE_TIMEOUT),
        max_handshakes: limits.max_handshakes.map_or(MAX_HANDSHAKES, |count| count.as_usize()),
        head_timeout: or_default(limits.head_timeout, HEAD_TIMEOUT),
        idle_timeout: or_default(limits.idle_timeout, IDLE_TIMEOUT),
        body_timeout: or_default(limits.body_timeout, BODY_TIMEOUT),
        write_timeout: or_default(limits.write_timeout, WRITE_TIMEOUT),
        max_head_bytes: bytes(head.value),
        max_field_bytes: bytes(field?),
        max_fields: limits.max_fields.map_or(MAX_FIELDS, |count| count.as_usize()),
        max_target_bytes: bytes(target?),
        max_connections: limits.max_connections.map_or(MAX_CONNECTIONS, |count| count.as_usize()),
    })
}

/// Sizes here are at most 1 MiB.
fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            tls_handshake_timeout: TLS_HANDSHAKE_TIMEOUT,
            max_handshakes: MAX_HANDSHAKES,
            head_timeout: HEAD_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            body_timeout: BODY_TIMEOUT,
            write_timeout: WRITE_TIMEOUT,
            max_head_bytes: bytes(MAX_HEAD_BYTES),
            max_field_bytes: bytes(MAX_FIELD_BYTES),
            max_fields: MAX_FIELDS,
            max_target_bytes: bytes(MAX_TARGET_BYTES),
            max_connections: MAX_CONNECTIONS,
        }
    }
}
