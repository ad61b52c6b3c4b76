//! One client connection: hyper on one side, exchanges on the other.
//!
//! Data plane; the only place that names hyper's server types. It finds out what the client speaks, and gives HTTP/2 to
//! [`http2`]. For HTTP/1 it parses and frames through hyper, hands each request
//! to [`exchange::run`], and ends the connection: at a drain, at a deadline, when its generation has had its time, or
//! when what was received cannot be followed any further.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::time::Sleep;

use crate::body::Source;
use crate::connection::Connection;
use crate::exchange::{self, TunnelSlot};
use crate::handshake;
use crate::http2::{self, Parting};
use crate::panics;
use crate::scan::Position;
use crate::snapshot::Protocols;
use crate::stream::Stream;
use crate::wire::{Expired, Spoken};
use crate::worker::Worker;

/// hyper's own bound on fields costs nothing up to here; beyond, it allocates for each head.
const HYPER_MAX_FIELDS: usize = 100;
/// hyper reads no less at once.
const HYPER_MIN_BUFFER: usize = 8 << 10;
/// What the kernel holds for a client beyond what is on its way; enough to keep a fast one busy.
const UNSENT_BYTES: u32 = 128 << 10;
/// How long a connection that is to end may still begin an exchange, whose answer then tells the client so. Closing it
/// at once would cut the request that may be on its way; this is longer than that takes over any network.
const PATIENCE: Duration = Duration::from_secs(1);
/// hyper holds 16 KiB of buffers for a connection. One that has been idle for so long is taken from it until it speaks
/// again: long against the pauses of a busy client, short against how long idle ones stay.
const REST_AFTER: Duration = Duration::from_secs(1);
/// The answer to a head that did not come to its end in time (RFC 9110 15.5.9).
const REQUEST_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// The answer to the preface of HTTP/2 where that is not spoken.
const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Serves a connection that was accepted on the sockets with this id, in a task of its own.
pub fn open(worker: &Rc<Worker>, sockets: u64, stream: Stream, client: Option<SocketAddr>) {
    // Writable means room for more, as the client takes bytes: with the kernel's default, a slow reader of a large
    // response frees nothing for half a minute and looks like one that has stopped.
    stream.hurry(UNSENT_BYTES);
    if let Some(connection) = Connection::open(worker, sockets, stream, client) {
        tokio::task::spawn_local(serve(connection));
    }
}

async fn serve(connection: Rc<Connection>) {
    panics::point("connection");
    if !connection.is_introduced().await || !connection.has_its_share() {
        return;
    }
    // Boxed, as its future would make that of every other connection larger.
    if connection.server.is_some() && !Box::pin(handshake::run(&connection)).await {
        return;
    }
    if !connection.is_admitted().await {
        return;
    }
    match spoken(&connection).await {
        Some(Spoken::Http2) => {
            // Boxed, so that it takes no room in connections of HTTP/1.
            if Box::pin(http2::serve(&connection)).await == Parting::Linger {
                connection.wire.linger(b"").await;
            }
        }
        _ => serve_http1(&connection).await,
    }
}

/// What the client speaks, if that can be told: a connection that is to end, or one whose time is over before it has
/// said anything that decides it, is left to HTTP/1.
async fn spoken(connection: &Connection) -> Option<Spoken> {
    match (connection.protocols(), connection.tls()) {
        (Protocols::Http1, _) => return Some(Spoken::Http1),
        (Protocols::Http2, _) => return Some(Spoken::Http2),
        // What was agreed on, and not what the first bytes look like (RFC 9113 3.2).
        (Protocols::Both, Some(tls)) if tls.alpn.as_deref() == Some("h2") => return Some(Spoken::Http2),
        (Protocols::Both, Some(_)) => return Some(Spoken::Http1),
        (Protocols::Both, None) => {}
    }
    let mut spoken = pin!(connection.wire.spoken());
    std::future::poll_fn(|context| {
        connection.watch_worker(context.waker());
        match spoken.as_mut().poll(context) {
            Poll::Ready(spoken) => Poll::Ready(spoken.ok()),
            Poll::Pending if connection.is_closing() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn serve_http1(connection: &Rc<Connection>) {
    // Not the connection's: a tunnel holds on to that.
    let tunnels = TunnelSlot::default();
    let served = loop {
        if connection.wire.expired().is_some() {
            break Ok(Bytes::new());
        }
        // Boxed, so that it takes no room while the connection rests.
        match Box::pin(drive(connection, &tunnels)).await {
            Some(served) => break served,
            None => rest(connection).await,
        }
    };
    if let (Ok(unread), Some(tunnel)) = (&served, tunnels.take())
        && let Some((client, ahead)) = connection.wire.become_tunnel()
    {
        // Boxed like all that seldom happens.
        Box::pin(tunnel.run(client, [&**unread, &ahead].concat().into())).await;
        return;
    }
    let farewell = match (connection.wire.expired(), &served) {
        (Some(Expired::Head), _) => {
            exchange::record_refused(connection, StatusCode::REQUEST_TIMEOUT, "head_timeout");
            REQUEST_TIMEOUT
        }
        (Some(Expired::Idle), _) => {
            // All that was answered is whole.
            connection.wire.with(|stream| stream.part());
            return;
        }
        (Some(Expired::Write | Expired::Generation | Expired::Ping), _) => return,
        (None, Err(error)) if error.is_parse() => {
            let (status, farewell) = refusal(error, connection.protocols());
            exchange::record_refused(connection, status, "malformed");
            farewell
        }
        (None, Err(_)) => return,
        (None, Ok(_)) => b"".as_slice(),
    };
    connection.wire.linger(farewell).await;
}

/// Waits for more without hyper: for bytes, which it then finds read ahead, or a reason to end the connection.
async fn rest(connection: &Connection) {
    std::future::poll_fn(|context| {
        connection.watch_worker(context.waker());
        match connection.wire.poll_ahead(context) {
            // What went wrong, or came to its end, does so again for hyper.
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending if connection.is_closing() => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
}

/// Serves exchanges to the connection's end, and returns what hyper has read and not understood: it is the tunnel's, if
/// there is one. `None` when the connection has nothing to do and hyper holds nothing of it any more.
async fn drive(connection: &Rc<Connection>, tunnels: &TunnelSlot) -> Option<hyper::Result<Bytes>> {
    let limits = connection.limits();
    let mut builder = http1::Builder::new();
    // The wire keeps the deadlines: hyper's timer is made anew for each head. No `pipeline_flush`: with it, the last
    // answer before a close stays unwritten when further requests have already been read.
    builder
        .header_read_timeout(None)
        .max_buf_size(limits.max_head_bytes.max(HYPER_MIN_BUFFER));
    if limits.max_fields > HYPER_MAX_FIELDS {
        builder.max_headers(limits.max_fields);
    }
    let service = service_fn(|request: Request<Incoming>| {
        let (parts, incoming) = request.into_parts();
        let lane = Rc::clone(&connection.lane);
        exchange::run(Rc::clone(connection), lane, parts, Source::Http1(incoming), tunnels)
    });
    let mut serving = builder.serve_connection(connection.wire.end(), service);
    let mut told = false;
    let mut patience = None;
    let served = std::future::poll_fn(|context| {
        let mut serving = Pin::new(&mut serving);
        connection.watch_worker(context.waker());
        if connection.is_outlived() {
            connection.wire.expire(Expired::Generation);
            return Poll::Ready(Some(Ok(())));
        }
        let mut polled = serving.as_mut().poll(context);
        if polled.is_pending() && !told && connection.is_closing() && is_at_its_end(connection, context, &mut patience)
        {
            told = true;
            serving.as_mut().graceful_shutdown();
            polled = serving.as_mut().poll(context);
        }
        if polled.is_pending() && connection.wire.is_overdue(context) {
            return Poll::Ready(Some(Ok(())));
        }
        // One that is to end has no rest: it waits here until it may.
        let may_rest = polled.is_pending() && !connection.is_closing();
        if may_rest && connection.wire.is_at_rest(context, connection.heads(), REST_AFTER) {
            return Poll::Ready(None);
        }
        polled.map(Some)
    });
    let served = served.await?;
    Some(served.map(|()| serving.into_parts().read_buf))
}

/// Whether a connection that is to end takes no further exchange. One under way ends it by the head of its answer, if
/// that is still to come.
fn is_at_its_end(connection: &Connection, context: &mut Context<'_>, patience: &mut Option<Pin<Box<Sleep>>>) -> bool {
    if connection.wire.is_busy() {
        return false;
    }
    match connection.wire.position() {
        _ if connection.wire.is_lost() => true,
        Position::Idle => {
            let patience = patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
            patience.as_mut().poll(context).is_ready()
        }
        // It has its own deadline.
        Position::Head => false,
        Position::Body => true,
    }
}

/// The status of a head that hyper could not parse, and what is left to say: it has answered all but the preface of
/// HTTP/2. Where that is spoken the connection was at its end, and the client may try again.
fn refusal(error: &hyper::Error, protocols: Protocols) -> (StatusCode, &'static [u8]) {
    match () {
        () if error.is_parse_version_h2() && protocols == Protocols::Http1 => (StatusCode::BAD_REQUEST, BAD_REQUEST),
        // It tells these two apart in words alone.
        () if error.to_string() == "URI too long" => (StatusCode::URI_TOO_LONG, b""),
        () if error.is_parse_too_large() => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, b""),
        () => (StatusCode::BAD_REQUEST, b""),
    }
}
