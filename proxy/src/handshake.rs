//! The TLS handshake of one client's connection, before its first byte of HTTP.
//!
//! Data plane. It has its deadline, its place among the handshakes of its listener, and its counts; whatever becomes of it
//! harms no other connection. It knows nothing of HTTP but how to tell somebody who speaks it unasked that this is TLS.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::connection::Connection;
use crate::tls::queue::Place;
use crate::tls::{Fault, Server};

/// The answer to a client that speaks plain HTTP where TLS is spoken; what others answer too.
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 24\r\n\r\nthis port speaks HTTPS\r\n";

/// Why there is no session.
enum Failed {
    TimedOut,
    /// A later one took its place.
    CrowdedOut,
    /// The listener goes, and the client has said nothing yet.
    Leaving,
    Broken(io::Error),
}

/// Whether the connection may go on.
pub async fn run(connection: &Connection) -> bool {
    let Some(server) = &connection.server else { return true };
    let begun = Instant::now();
    let limits = connection.limits();
    let place = connection
        .worker
        .handshakes
        .enter(connection.sockets(), limits.handshakes_per_worker);
    let shaken = tokio::time::timeout(limits.tls_handshake_timeout, shake(connection, server, place));
    let outcome = match shaken.await.unwrap_or(Err(Failed::TimedOut)) {
        Ok(outcome) => {
            connection.handshake_ended(outcome, begun.elapsed());
            return true;
        }
        Err(Failed::TimedOut) => "timeout",
        Err(Failed::CrowdedOut) => "crowded_out",
        Err(Failed::Leaving) => "leaving",
        Err(Failed::Broken(error)) => {
            connection.handshake_ended(Fault::of(&error).as_str(), begun.elapsed());
            dismiss(connection, &error).await;
            return false;
        }
    };
    connection.handshake_ended(outcome, begun.elapsed());
    false
}

/// How it went, for metrics.
async fn shake(connection: &Connection, server: &Server, mut place: Place) -> Result<&'static str, Failed> {
    let begun = connection.wire.with(|stream| stream.serve_tls(server));
    begun.unwrap_or(Ok(())).map_err(Failed::Broken)?;
    poll_fn(|context| poll_shake(connection, &mut place, context)).await?;
    connection.wire.begin_waiting(tokio::time::Instant::now());
    let Some(Some(handshake)) = connection.wire.with(|stream| stream.tls()) else {
        return Ok("full");
    };
    connection.secured(handshake.facts);
    Ok(if handshake.is_resumed { "resumed" } else { "full" })
}

fn poll_shake(connection: &Connection, place: &mut Place, context: &mut Context<'_>) -> Poll<Result<(), Failed>> {
    connection.watch_worker(context.waker());
    if Pin::new(&mut place.crowded_out).poll(context).is_ready() {
        return Poll::Ready(Err(Failed::CrowdedOut));
    }
    let shaken = connection.wire.with(|stream| match stream.poll_handshake(context) {
        Poll::Pending if connection.is_closing() && !stream.has_heard() => Poll::Ready(Err(Failed::Leaving)),
        polled => polled.map_err(Failed::Broken),
    });
    shaken.unwrap_or(Poll::Ready(Err(Failed::Broken(io::ErrorKind::NotConnected.into()))))
}

/// Lets the client read why, within bounds: closing at once would take it away again.
async fn dismiss(connection: &Connection, error: &io::Error) {
    let fault = Fault::of(error);
    let client = connection.client();
    tracing::debug!(?client, reason = fault.as_str(), %error, "a TLS handshake failed");
    match fault {
        Fault::Closed => {}
        Fault::PlainHttp => {
            connection.wire.with(|stream| stream.forgo_tls());
            connection.wire.linger(PLAIN_HTTP).await;
        }
        _ => connection.wire.linger(b"").await,
    }
}
