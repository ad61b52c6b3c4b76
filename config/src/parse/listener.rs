//! Listeners, and the chains that listeners and routes have alike.
//!
//! Control plane.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::{Names, ceiling::Ceiling, or_default, tls};
use crate::model::{FilterUse, Http2Limits, Listener, ListenerLimits, Peers, Protocol};
use crate::reader::{Reader, quote};
use crate::shape::{At, OffOr, ShortOr};
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
/// Libraries for WebSocket ping every 20 to 60 s, and phones that wish to save their battery every few minutes.
const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_secs(10 * 60);
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

/// One for each connection, or a hundred connections of HTTP/2 with all their streams; what a cluster takes, too. With
/// more connections it is one for each of them, too: who raises one number need not think of the other.
const MAX_EXCHANGES: usize = 10_000;

/// All of them are looked through for each exchange. The longest lists that anyone publishes, of content networks, have
/// some hundreds.
const MAX_PEERS: usize = 1_000;

/// nginx's number: rare enough to cost nothing, often enough that clients follow when instances come and go.
const MAX_REQUESTS: u64 = 1_000;

/// The least that RFC 9113 6.5.2 recommends, and what browsers are content with.
const MAX_STREAMS: u32 = 100;
/// Ten connections' worth, as proxies in front and offices behind one address have.
const MAX_STREAMS_PER_ADDRESS: usize = 1_000;
/// The protocol's own first window, rounded: what is lost when an upstream does not read.
const STREAM_WINDOW: u32 = 64 << 10;
/// Sixteen uploads at full speed; all bodies of one connection together.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// A client that does not read costs so much for each of its streams.
const SEND_BUFFER: usize = 64 << 10;
/// As `max_head_bytes`.
const MAX_HEADER_LIST: u32 = 64 << 10;
/// A browser that leaves a page resets all that is under way, once; each response that is served earns one back.
const MAX_RESETS: u32 = 100;
/// Clients send a handful for each stream; what they send because of our own frames is not counted.
const MAX_CONTROL_FRAMES: u32 = 1_000;
/// With `write_timeout` 34 bytes a second: no link is as slow as that.
const MIN_PROGRESS: usize = 1 << 10;
/// A client that is gone holds its streams no longer than a quarter of a minute.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

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
        let protocols = protocols(listener.protocols, reader);
        let filters = chain(listener.filters, names, reader);
        let limits = reader.within("limits", |reader| limits(listener.limits, reader));
        let redirect = tls::redirect(listener.redirect, listener.tls.is_some(), reader);
        let tls = reader.within("tls", |reader| tls::listener(listener.tls, reader));
        let proxy_protocol = reader.within("proxy_protocol", |reader| {
            proxy_protocol(listener.proxy_protocol, reader)
        });
        let trusted_proxies = reader.within("trusted_proxies", |reader| match listener.trusted_proxies {
            Some(listed) => peers(listed, reader),
            None => Some(Peers::default()),
        });
        let address = listener.address.0?.value;
        Some(Listener {
            name: name.to_owned(),
            place,
            address,
            tls: tls?,
            redirect: redirect?,
            protocols: protocols?,
            filters: filters?,
            limits: limits?,
            proxy_protocol: proxy_protocol?,
            trusted_proxies: trusted_proxies?,
        })
    })
}

fn protocols(given: Option<At<Vec<Protocol>>>, reader: &mut Reader) -> Option<Vec<Protocol>> {
    let Some(given) = given else {
        return Some(vec![Protocol::Http1, Protocol::Http2]);
    };
    let named = given.value;
    let is_repeated = named
        .iter()
        .enumerate()
        .any(|(at, protocol)| named[..at].contains(protocol));
    if named.is_empty() || is_repeated {
        let message = "name each protocol once, and at least one: `http1`, `http2`, or leave the field out";
        reader.error_at(&given.place, "protocols", message);
        return None;
    }
    Some(named)
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

fn proxy_protocol(block: Option<vocabulary::ProxyProtocol>, reader: &mut Reader) -> Option<Peers> {
    let Some(block) = block else {
        return Some(Peers::default());
    };
    let At { place, value } = block.from.0?;
    reader.within("from", |reader| {
        if value.is_empty() {
            reader.error(
                &place,
                "empty, so nobody would be listened to; add an address, or leave `proxy_protocol` out",
            );
            return None;
        }
        peers(value, reader)
    })
}

fn peers(listed: Vec<At<String>>, reader: &mut Reader) -> Option<Peers> {
    if let Some(surplus) = listed.get(MAX_PEERS) {
        reader.error(&surplus.place, format!("more than {MAX_PEERS} entries; join networks"));
        return None;
    }
    let mut peers = Peers::default();
    let mut sound = true;
    for At { place, value } in listed {
        match network(&value) {
            _ if value == "unix" => peers.unix = true,
            Ok(network) => peers.networks.push(network),
            Err(message) => {
                reader.error(&place, message);
                sound = false;
            }
        }
    }
    sound.then_some(peers)
}

fn network(text: &str) -> Result<IpNet, String> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().map_err(|_| {
            let text = quote(text);
            format!("`{text}` is neither an address, nor a network as in `10.0.0.0/8`, nor `unix`")
        })?,
    };
    if network.trunc() != network {
        return Err(format!(
            "{network} has bits behind its prefix; write {}",
            network.trunc()
        ));
    }
    match network {
        // Such peers are known by their IPv4 addresses.
        IpNet::V6(mapped) if mapped.prefix_len() >= 96 && mapped.addr().to_ipv4_mapped().is_some() => {
            Err(format!("{network} holds addresses of IPv4; write them as such"))
        }
        network => Ok(network),
    }
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
    let max_connections = limits.max_connections.map_or(MAX_CONNECTIONS, |count| count.as_usize());
    Some(ListenerLimits {
        tls_handshake_timeout: or_default(limits.tls_handshake_timeout, TLS_HANDSHAKE_TIMEOUT),
        max_handshakes: limits.max_handshakes.map_or(MAX_HANDSHAKES, |count| count.as_usize()),
        head_timeout: or_default(limits.head_timeout, HEAD_TIMEOUT),
        idle_timeout: or_default(limits.idle_timeout, IDLE_TIMEOUT),
        body_timeout: or_default(limits.body_timeout, BODY_TIMEOUT),
        write_timeout: or_default(limits.write_timeout, WRITE_TIMEOUT),
        tunnel_idle_timeout: or_default(limits.tunnel_idle_timeout, TUNNEL_IDLE_TIMEOUT),
        max_head_bytes: bytes(head.value),
        max_field_bytes: bytes(field?),
        max_fields: limits.max_fields.map_or(MAX_FIELDS, |count| count.as_usize()),
        max_target_bytes: bytes(target?),
        max_connections,
        max_connections_per_address: match limits.max_connections_per_address {
            Some(OffOr::On(count)) => Some(count.as_u32()),
            // Behind a balancer, or a company's one address, all clients are one.
            Some(OffOr::Off) | None => None,
        },
        max_exchanges: limits
            .max_exchanges
            .map_or(MAX_EXCHANGES.max(max_connections), |count| count.as_usize()),
        max_requests: limits.max_requests.map_or(MAX_REQUESTS, |count| count.0),
        http2: http2(limits.http2.unwrap_or_default()),
    })
}

fn http2(limits: vocabulary::Http2Limits) -> Http2Limits {
    let default = Http2Limits::default();
    Http2Limits {
        max_streams: limits.max_streams.map_or(default.max_streams, |count| count.as_u32()),
        max_streams_per_address: limits
            .max_streams_per_address
            .map_or(default.max_streams_per_address, |count| count.as_usize()),
        stream_window: limits
            .stream_window
            .map_or(default.stream_window, |size| window(size.0)),
        connection_window: limits
            .connection_window
            .map_or(default.connection_window, |size| window(size.0)),
        send_buffer: limits.send_buffer.map_or(default.send_buffer, |size| bytes(size.0)),
        max_header_list: limits
            .max_header_list
            .map_or(default.max_header_list, |size| window(size.0)),
        max_resets: limits.max_resets.map_or(default.max_resets, |count| count.as_u32()),
        max_control_frames: limits
            .max_control_frames
            .map_or(default.max_control_frames, |count| count.as_u32()),
        min_progress: limits.min_progress.map_or(default.min_progress, |size| bytes(size.0)),
        ping_interval: match limits.ping_interval {
            Some(OffOr::Off) => None,
            Some(OffOr::On(period)) => Some(period.0),
            None => default.ping_interval,
        },
        ping_timeout: or_default(limits.ping_timeout, default.ping_timeout),
    }
}

/// Windows are at most 256 MiB.
fn window(size: u64) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
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
            tunnel_idle_timeout: TUNNEL_IDLE_TIMEOUT,
            max_head_bytes: bytes(MAX_HEAD_BYTES),
            max_field_bytes: bytes(MAX_FIELD_BYTES),
            max_fields: MAX_FIELDS,
            max_target_bytes: bytes(MAX_TARGET_BYTES),
            max_connections: MAX_CONNECTIONS,
            max_connections_per_address: None,
            max_exchanges: MAX_EXCHANGES,
            max_requests: MAX_REQUESTS,
            http2: Http2Limits::default(),
        }
    }
}

impl Default for Http2Limits {
    fn default() -> Self {
        Self {
            max_streams: MAX_STREAMS,
            max_streams_per_address: MAX_STREAMS_PER_ADDRESS,
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            send_buffer: SEND_BUFFER,
            max_header_list: MAX_HEADER_LIST,
            max_resets: MAX_RESETS,
            max_control_frames: MAX_CONTROL_FRAMES,
            min_progress: MIN_PROGRESS,
            ping_interval: Some(PING_INTERVAL),
            ping_timeout: PING_TIMEOUT,
        }
    }
}
