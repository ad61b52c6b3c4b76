//! One client connection: hyper on one side, exchanges on the other.
//!
//! Data plane; the only place that names hyper's server types. It parses and frames through hyper, hands each request
//! to [`exchange::run`], and ends the connection: at a drain, at a deadline, or when what was received cannot be
//! followed any further.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use http::{HeaderValue, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::time::Instant;

use crate::exchange;
use crate::stream::Stream;
use crate::telemetry::metrics::ListenerSeries;
use crate::timer::Watchdog;
use crate::wire::{Deadlines, Expired, Wire};
use crate::worker::{Pinned, Worker};

/// hyper's own bound on fields costs nothing up to here; beyond, it allocates for each head.
const HYPER_MAX_FIELDS: usize = 100;
/// hyper reads no less at once.
const HYPER_MIN_BUFFER: usize = 8 << 10;
/// The answer to a head that did not come to its end in time (RFC 9110 15.5.9).
const REQUEST_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Lives from accept to close.
pub struct Connection {
    pub worker: Rc<Worker>,
    pub wire: Rc<Wire>,
    /// For the deadlines of the exchange under way.
    pub watchdog: Watchdog,
    /// `None` on a Unix socket.
    pub client: Option<SocketAddr>,
    /// The client's address as `x-forwarded-for` says it.
    pub client_field: Option<HeaderValue>,
    sockets: u64,
    /// The generation of the latest exchange, and this connection's listener in it.
    pinned: RefCell<Rc<Pinned>>,
    listener: Cell<usize>,
    heads: Cell<u64>,
    /// Its listener is gone from the current generation.
    orphaned: Cell<bool>,
    key: usize,
    series: ListenerSeries,
}

/// Takes a connection that was accepted on the sockets with this id.
pub fn open(worker: &Rc<Worker>, sockets: u64, stream: Stream, client: Option<SocketAddr>) {
    let pinned = worker.pin();
    let Some(listener) = position(&pinned, sockets) else { return };
    let settings = &pinned.snapshot.listeners[listener];
    let series = worker.tally.borrow_mut().listener(&settings.name);
    if worker.connections_of(sockets) >= settings.limits.connections_per_worker {
        worker.tally.borrow_mut().connection_refused(series, "max_connections");
        return;
    }
    if let Stream::Tcp(stream) = &stream {
        // An answer waits for no further one; without it each would take a delayed acknowledgement.
        let _ = stream.set_nodelay(true);
    }
    let limits = &settings.limits;
    let deadlines = Deadlines { head: limits.head_timeout, idle: limits.idle_timeout, write: limits.write_timeout };
    let wire = Wire::new(stream, limits.max_head_bytes, deadlines);
    let connection = Rc::new(Connection {
        wire,
        watchdog: Watchdog::default(),
        client,
        client_field: client.and_then(|client| HeaderValue::try_from(client.ip().to_canonical().to_string()).ok()),
        sockets,
        listener: Cell::new(listener),
        heads: Cell::new(0),
        orphaned: Cell::new(false),
        key: worker.enter(sockets),
        series,
        worker: Rc::clone(worker),
        pinned: RefCell::new(Rc::clone(&pinned)),
    });
    worker.tally.borrow_mut().connection(series, 1);
    tokio::task::spawn_local(serve(connection));
}

async fn serve(connection: Rc<Connection>) {
    let served = drive(&connection).await;
    let farewell = match (connection.wire.expired(), &served) {
        (Some(Expired::Head), _) => {
            connection.record_refused(StatusCode::REQUEST_TIMEOUT, "head_timeout");
            REQUEST_TIMEOUT
        }
        (Some(Expired::Idle | Expired::Write), _) => return,
        (None, Err(error)) if error.is_parse() => {
            // hyper has answered it already.
            connection.record_refused(status_of(error), "malformed");
            b""
        }
        (None, Err(_)) => return,
        (None, Ok(())) => b"".as_slice(),
    };
    connection.wire.linger(farewell).await;
}

async fn drive(connection: &Rc<Connection>) -> hyper::Result<()> {
    let limits = connection.limits();
    let mut builder = http1::Builder::new();
    // The wire keeps the deadlines: hyper's timer is made anew for each head.
    builder.header_read_timeout(None).max_buf_size(limits.max_head_bytes.max(HYPER_MIN_BUFFER)).pipeline_flush(true);
    if limits.max_fields > HYPER_MAX_FIELDS {
        builder.max_headers(limits.max_fields);
    }
    let service = service_fn(|request| exchange::run(Rc::clone(connection), request));
    let mut serving = pin!(builder.serve_connection(connection.wire.end(), service));
    let mut told = false;
    std::future::poll_fn(|context| {
        connection.worker.watch(connection.key, context.waker());
        connection.rest();
        if !told && connection.is_closing() {
            told = true;
            serving.as_mut().graceful_shutdown();
        }
        serving.as_mut().poll(context)
    })
    .await
}

/// What hyper answered a head that it could not parse with.
fn status_of(error: &hyper::Error) -> StatusCode {
    if error.is_parse_too_large() { StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE } else { StatusCode::BAD_REQUEST }
}

fn position(pinned: &Pinned, sockets: u64) -> Option<usize> {
    pinned.snapshot.listeners.iter().position(|listener| listener.sockets.id() == sockets)
}

impl Connection {
    /// Pins the generation for the next exchange: the current one, or the last that still has this listener.
    pub fn begin_exchange(&self) -> (Rc<Pinned>, usize) {
        self.renew();
        self.wire.begin_exchange();
        (Rc::clone(&self.pinned.borrow()), self.listener.get())
    }

    pub fn end_exchange(&self, now: Instant) {
        self.wire.end_exchange(now);
    }

    /// The number of the head that hyper has just parsed, from 1.
    pub fn next_head(&self) -> u64 {
        self.heads.set(self.heads.get() + 1);
        self.heads.get()
    }

    /// Whether the connection is to end with its current exchange.
    pub fn is_closing(&self) -> bool {
        self.worker.is_draining() || self.orphaned.get()
    }

    /// Between exchanges a connection holds on to no old generation.
    fn rest(&self) {
        if !self.wire.is_busy() {
            self.renew();
        }
    }

    fn renew(&self) {
        let current = self.worker.pin();
        if Rc::ptr_eq(&current, &self.pinned.borrow()) {
            return;
        }
        match position(&current, self.sockets) {
            Some(listener) => {
                self.listener.set(listener);
                *self.pinned.borrow_mut() = current;
            }
            None => self.orphaned.set(true),
        }
    }

    fn limits(&self) -> crate::snapshot::Limits {
        self.pinned.borrow().snapshot.listeners[self.listener.get()].limits.clone()
    }

    /// A request that never became an exchange is counted and logged all the same.
    fn record_refused(&self, status: StatusCode, reason: &'static str) {
        let pinned = self.pinned.borrow();
        exchange::record_refused(self, &pinned, self.listener.get(), status, reason);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.worker.leave(self.key);
        let mut tally = self.worker.tally.borrow_mut();
        tally.connection(self.series, -1);
        tally.bytes(self.series, self.wire.bytes_in.get(), self.wire.bytes_out.get());
    }
}
