//! What one HTTP/2 connection to an upstream server may take.
//!
//! Control plane.

use std::time::Duration;

use crate::model::{UpstreamHttp2, UpstreamProtocol};
use crate::parse::or_default;
use crate::reader::Reader;
use crate::shape::{At, OffOr};
use crate::vocabulary;

/// What servers usually allow, and the least that RFC 9113 6.5.2 recommends.
const MAX_STREAMS: u32 = 100;
/// The protocol's own first window, rounded: what waits here for a client that does not read. With 100 streams, 6.25 MiB
/// for a connection, all of which each stream needs to have for itself, or slow clients would keep others waiting.
const STREAM_WINDOW: u32 = 64 << 10;
/// A server that does not read costs so much for each request.
const SEND_BUFFER: usize = 64 << 10;
/// The head of an HTTP/1.1 response may be as large.
const MAX_HEADER_LIST: u32 = 64 << 10;
/// One bad page may be asked for again and again; a server all of whose responses are bad is not asked for long.
const MAX_RESETS: u32 = 100;
/// Servers send a handful for each stream; what they send because of our own frames is not counted.
const MAX_CONTROL_FRAMES: u32 = 1_000;
/// A server that is gone holds its requests no longer than a quarter of a minute.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn http2(
    given: Option<At<vocabulary::UpstreamHttp2>>,
    protocol: UpstreamProtocol,
    reader: &mut Reader,
) -> Option<UpstreamHttp2> {
    let default = UpstreamHttp2::default();
    let Some(At { place, value: given }) = given else {
        return Some(default);
    };
    if protocol == UpstreamProtocol::Http1 {
        let message = "without effect; write `protocol: http2` or `auto` beside it, or remove it";
        reader.error_at(&place, "http2", message);
        return None;
    }
    Some(UpstreamHttp2 {
        max_streams: given.max_streams.map_or(default.max_streams, |count| count.as_u32()),
        stream_window: given.stream_window.map_or(default.stream_window, |size| narrow(size.0)),
        send_buffer: given
            .send_buffer
            .map_or(default.send_buffer, |size| narrow(size.0) as usize),
        max_header_list: given
            .max_header_list
            .map_or(default.max_header_list, |size| narrow(size.0)),
        max_resets: given.max_resets.map_or(default.max_resets, |count| count.as_u32()),
        max_control_frames: given
            .max_control_frames
            .map_or(default.max_control_frames, |count| count.as_u32()),
        ping_interval: match given.ping_interval {
            Some(OffOr::Off) => None,
            Some(OffOr::On(period)) => Some(period.0),
            None => default.ping_interval,
        },
        ping_timeout: or_default(given.ping_timeout, default.ping_timeout),
    })
}

/// Sizes here are at most 16 MiB.
fn narrow(size: u64) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

impl Default for UpstreamHttp2 {
    fn default() -> Self {
        Self {
            max_streams: MAX_STREAMS,
            stream_window: STREAM_WINDOW,
            send_buffer: SEND_BUFFER,
            max_header_list: MAX_HEADER_LIST,
            max_resets: MAX_RESETS,
            max_control_frames: MAX_CONTROL_FRAMES,
            ping_interval: Some(PING_INTERVAL),
            ping_timeout: PING_TIMEOUT,
        }
    }
}
