//! A client's connection as its exchanges know it: where it came in, which generation it is on, when it is to end.
//!
//! Data plane. It knows nothing of parsing and framing; that is the gateway's and the wire's.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Version};
use tokio::time::Instant;

use crate::head::{Attributes, Clusters, Facts, Message, RequestHead, Stage};
use crate::lane::Lane;
use crate::listener::Sockets;
use crate::name::Name;
use crate::overload::{Cause, Level};
use crate::passage;
use crate::peer::Tls;
use crate::proxy_protocol::{self, Header, Parsed};
use crate::snapshot::{Limits, Listener, Protocols};
use crate::stream::Stream;
use crate::telemetry::metrics::ListenerSeries;
use crate::tls;
use crate::wire::{Deadlines, Wire};
use crate::worker::{Pinned, Scene, Worker};

/// Lives from accept to close.
pub struct Connection {
    pub worker: Rc<Worker>,
    pub wire: Rc<Wire>,
    /// What its exchanges go along on, as long as there is one at a time.
    pub lane: Rc<Lane>,
    client: Cell<Option<SocketAddr>>,
    local: Cell<Option<SocketAddr>>,
    /// What its TLS is made by, from its acceptance on; `None` for plain text.
    pub server: Option<Arc<tls::Server>>,
    /// Set once by the handshake.
    tls: OnceCell<Arc<Tls>>,
    /// What filters of connections have set; every exchange begins with them.
    pub attributes: RefCell<Attributes>,
    client_field: OnceCell<Option<HeaderValue>>,
    sockets: u64,
    /// Where its address is counted, if it is.
    counted: RefCell<Option<(Arc<Sockets>, IpAddr)>>,
    /// The generation of the latest exchange, and this connection's listener in it.
    pinned: RefCell<Rc<Pinned>>,
    listener: Cell<usize>,
    heads: Cell<u64>,
    /// Its listener is gone from the current generation.
    orphaned: Cell<bool>,
    /// Exchanges under way on the same sockets.
    exchanges: Rc<Cell<usize>>,
    key: usize,
    watched: Cell<bool>,
    series: ListenerSeries,
}

/// `None` when there is none, or not the whole of it; `bytes` are what came.
async fn introduction(wire: &Wire, bytes: &mut Vec<u8>) -> Option<Header> {
    loop {
        match proxy_protocol::parse(bytes).ok()? {
            Parsed::Whole(header) => return Some(header),
            Parsed::Needs(count) => wire.read_ahead(bytes, count).await.ok()?,
        }
    }
}

fn position(pinned: &Pinned, sockets: u64) -> Option<usize> {
    pinned
        .snapshot
        .listeners
        .iter()
        .position(|listener| listener.sockets.id() == sockets)
}

impl Connection {
    /// Takes a connection that was accepted on the sockets with this id; `None` when its listener has enough.
    pub fn open(worker: &Rc<Worker>, sockets: u64, stream: Stream, client: Option<SocketAddr>) -> Option<Rc<Self>> {
        let pinned = worker.pin();
        let listener = position(&pinned, sockets)?;
        let settings = &pinned.snapshot.listeners[listener];
        let series = worker.tally.borrow_mut().listener(&settings.name);
        if worker.connections_of(sockets) >= settings.limits.connections_per_worker {
            worker.tally.borrow_mut().connection_refused(series, "max_connections");
            return None;
        }
        if worker.connections() >= pinned.snapshot.overload.connections_per_worker {
            let mut tally = worker.tally.borrow_mut();
            tally.connection_refused(series, "overload_max_connections");
            return None;
        }
        let limits = &settings.limits;
        let deadlines = Deadlines {
            head: limits.head_timeout,
            idle: limits.idle_timeout,
            write: limits.write_timeout,
        };
        worker.tally.borrow_mut().connection(series, 1);
        let local = stream.local();
        Some(Rc::new(Self {
            local: Cell::new(local),
            server: settings.tls.clone(),
            tls: OnceCell::new(),
            attributes: RefCell::default(),
            wire: Wire::new(stream, limits.max_head_bytes, deadlines),
            lane: Rc::default(),
            client: Cell::new(client),
            client_field: OnceCell::new(),
            sockets,
            counted: RefCell::default(),
            listener: Cell::new(listener),
            heads: Cell::new(0),
            orphaned: Cell::new(false),
            exchanges: worker.exchanges_of(sockets),
            key: worker.enter(sockets),
            watched: Cell::new(false),
            series,
            worker: Rc::clone(worker),
            pinned: RefCell::new(Rc::clone(&pinned)),
        }))
    }

    /// Takes note of what the handshake has told; there is one.
    pub fn secured(&self, facts: Arc<Tls>) {
        let _ = self.tls.set(facts);
    }

    pub fn handshake_ended(&self, outcome: &'static str, took: Duration) {
        let version = self.tls().map_or("", |tls| tls.version);
        let mut tally = self.worker.tally.borrow_mut();
        tally.handshake(self.series, version, outcome, took.as_secs_f64());
    }

    /// What the TLS handshake has told of the client; `None` on a connection of plain text.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.get()
    }

    pub fn scheme(&self) -> &'static str {
        match self.server {
            Some(_) => "https",
            None => "http",
        }
    }

    /// Whether the certificate that the client was shown is for this host, a name in lower case or an address without a
    /// port. If it is not, 421 is due where a client may use one connection for several hosts (RFC 9113 9.1.1). In
    /// plain text every host is as good.
    pub fn fits(&self, host: &str) -> bool {
        let shown = self.server.as_ref().zip(self.tls());
        shown.is_none_or(|(server, tls)| server.fits(tls, host))
    }

    /// The id of the sockets that it was accepted on.
    pub fn sockets(&self) -> u64 {
        self.sockets
    }

    /// Whom the connection is for; `None` on a Unix socket.
    pub fn client(&self) -> Option<SocketAddr> {
        self.client.get()
    }

    /// What the client connected to; `None` on a Unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        self.local.get()
    }

    /// The client's address as `x-forwarded-for` says it.
    pub fn client_field(&self) -> Option<&HeaderValue> {
        let field = || HeaderValue::try_from(self.client()?.ip().to_canonical().to_string()).ok();
        self.client_field.get_or_init(field).as_ref()
    }

    /// Learns from a balancer in front for whom the connection is, before all else; whether it may stay.
    pub async fn is_introduced(&self) -> bool {
        let timeout = {
            let (pinned, listener) = self.place();
            let settings = &pinned.snapshot.listeners[listener];
            if !settings.introducers.have(self.client().map(|client| client.ip())) {
                return true;
            }
            settings.limits.head_timeout
        };
        let mut bytes = Vec::new();
        // Boxed, as its future would make that of every other connection larger.
        let introduced = Box::pin(tokio::time::timeout(timeout, introduction(&self.wire, &mut bytes))).await;
        match introduced {
            Ok(Some(Header::Own)) => true,
            Ok(Some(Header::Proxied { client, local })) => {
                self.client.set(Some(client));
                self.local.set(Some(local));
                true
            }
            // It looked whether somebody listens.
            Ok(None) if bytes.is_empty() => false,
            Ok(None) | Err(_) => {
                tracing::debug!(peer = ?self.client(), "no header of the PROXY protocol");
                let mut tally = self.worker.tally.borrow_mut();
                tally.connection_refused(self.series, "proxy_protocol");
                false
            }
        }
    }

    /// The client, if it is one that has a share of its own: a trusted proxy has many behind it.
    pub fn household(&self) -> Option<IpAddr> {
        let (pinned, listener) = self.place();
        let trusted = &pinned.snapshot.listeners[listener].trusted;
        let address = self.client()?.ip();
        (!trusted.have(Some(address))).then_some(address)
    }

    /// Takes its place among the connections of its address; whether there is one.
    pub fn has_its_share(&self) -> bool {
        let (pinned, listener) = self.place();
        let settings = &pinned.snapshot.listeners[listener];
        let (Some(most), Some(address)) = (settings.limits.connections_per_address, self.household()) else {
            return true;
        };
        if !settings.sockets.census.enter(address, most) {
            let mut tally = self.worker.tally.borrow_mut();
            tally.connection_refused(self.series, "max_connections_per_address");
            return false;
        }
        *self.counted.borrow_mut() = Some((Arc::clone(&settings.sockets), address));
        true
    }

    /// Asks the listener's filters about it, before its first exchange; whether it may stay.
    pub async fn is_admitted(&self) -> bool {
        let (pinned, listener) = self.place();
        let settings = &pinned.snapshot.listeners[listener];
        if !settings.chain.asks_about_connections() {
            return true;
        }
        let message = Box::new(self.introduction(settings.short_name));
        let scene = Scene {
            worker: Rc::clone(&self.worker),
            pinned: Rc::clone(&pinned),
            listener,
            route: None,
        };
        match passage::admit(scene, message).await {
            Some(attributes) => {
                *self.attributes.borrow_mut() = attributes;
                true
            }
            None => {
                let mut tally = self.worker.tally.borrow_mut();
                tally.connection_refused(self.series, "filter");
                false
            }
        }
    }

    /// What is known before there is a request.
    fn introduction(&self, listener: Name) -> Message {
        Message {
            request: RequestHead {
                method: Method::GET,
                scheme: self.scheme(),
                target: PathAndQuery::from_static("/"),
                version: Version::HTTP_11,
                headers: HeaderMap::new(),
            },
            response: None,
            stage: Stage::Connection,
            facts: Facts {
                client: self.client(),
                local: self.local(),
                tls: self.tls().cloned(),
                listener,
                route: None,
                request_id: HeaderValue::from_static(""),
            },
            attributes: Attributes::default(),
            clusters: Clusters::default(),
            passes_body: false,
            client_request_id: None,
        }
    }

    /// Looks at the worker again whenever `waker` is woken by it.
    pub fn watch_worker(&self, waker: &Waker) {
        if !self.watched.replace(true) {
            // A task's waker stays the same.
            self.worker.watch(self.key, waker);
        }
        self.rest();
    }

    /// Pins the generation for the next exchange: the current one, or the last that still has this listener.
    pub fn begin_exchange(&self) -> (Rc<Pinned>, usize) {
        self.renew();
        self.wire.begin_exchange();
        self.worker.begin_exchange(&self.exchanges);
        (Rc::clone(&self.pinned.borrow()), self.listener.get())
    }

    /// Why the exchange that has begun, and is counted, is more than can be taken on.
    pub fn overload(&self, pinned: &Pinned, listener: usize) -> Option<Cause> {
        if self.worker.pressure() >= Level::StopAcceptingRequests {
            return Some(Cause::Memory);
        }
        let of_listener = pinned.snapshot.listeners[listener].limits.exchanges_per_worker;
        let of_all = pinned.snapshot.overload.exchanges_per_worker;
        let is_over = self.exchanges.get() > of_listener || self.worker.exchanges() > of_all;
        is_over.then_some(Cause::Exchanges)
    }

    /// An exchange was not taken on.
    pub fn count_shed(&self, cause: Cause) {
        let mut tally = self.worker.tally.borrow_mut();
        tally.shed(self.series, cause.as_str());
    }

    pub fn end_exchange(&self, now: Instant) {
        self.wire.end_exchange(now);
        self.worker.end_exchange(&self.exchanges);
        // Nothing may wake an idle connection for long.
        self.rest();
    }

    /// The number of the head that was just parsed, from 1.
    pub fn next_head(&self) -> u64 {
        self.heads.set(self.heads.get() + 1);
        self.heads.get()
    }

    /// Heads so far.
    pub fn heads(&self) -> u64 {
        self.heads.get()
    }

    /// What its client may speak.
    pub fn protocols(&self) -> Protocols {
        self.pinned.borrow().snapshot.listeners[self.listener.get()].protocols
    }

    /// A stream of HTTP/2 was reset before its end.
    pub fn count_reset(&self, reason: &'static str) {
        self.worker.tally.borrow_mut().http2_reset(self.series, reason);
    }

    /// A connection that speaks HTTP/2 is cut for what its client does.
    pub fn count_cut(&self, reason: &'static str) {
        self.worker.tally.borrow_mut().http2_cut(self.series, reason);
    }

    /// Whether the connection is to end with its current exchange.
    pub fn is_closing(&self) -> bool {
        self.worker.is_draining()
            || self.orphaned.get()
            || (!self.wire.is_busy() && self.wire.is_lost())
            || self.is_kept_no_longer()
    }

    /// Whether it has had an exchange, and memory is too short to wait for another one.
    fn is_kept_no_longer(&self) -> bool {
        self.worker.pressure() >= Level::DisableKeepAlive && self.heads.get() > 0
    }

    /// Whether its exchange has been on a generation that was replaced for as long as it may.
    pub fn is_outlived(&self) -> bool {
        self.wire.is_busy() && self.worker.is_outlived(&self.pinned.borrow())
    }

    /// Between exchanges a connection holds on to no old generation.
    fn rest(&self) {
        if !self.wire.is_busy() && !self.worker.is_current(&self.pinned.borrow()) {
            self.renew();
        }
    }

    fn renew(&self) {
        let current = self.worker.pin();
        if Rc::ptr_eq(&current, &self.pinned.borrow()) {
            return;
        }
        match position(&current, self.sockets) {
            Some(listener) if !self.is_on_terms_of(&current.snapshot.listeners[listener]) => self.orphaned.set(true),
            Some(listener) => {
                self.listener.set(listener);
                *self.pinned.borrow_mut() = current;
            }
            None => self.orphaned.set(true),
        }
    }

    /// Whether it may go on under these settings: one that was made while less was asked of clients may not.
    fn is_on_terms_of(&self, listener: &Listener) -> bool {
        match (&self.server, &listener.tls) {
            (Some(made_by), Some(now)) => now.has_terms_of(made_by),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Of its listener, as of now.
    pub fn limits(&self) -> Limits {
        self.pinned.borrow().snapshot.listeners[self.listener.get()]
            .limits
            .clone()
    }

    /// The pinned generation and the listener in it, between exchanges.
    pub fn place(&self) -> (Rc<Pinned>, usize) {
        (Rc::clone(&self.pinned.borrow()), self.listener.get())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.worker.leave(self.key);
        if let Some((sockets, address)) = self.counted.take() {
            sockets.census.leave(address);
        }
        let mut tally = self.worker.tally.borrow_mut();
        tally.connection(self.series, -1);
        tally.bytes(self.series, self.wire.bytes_in.get(), self.wire.bytes_out.get());
    }
}
