//! One connection: what its streams share, and how it ends.
//!
//! Data plane. The engine says what a client may not do and how the flow goes; a session says when enough is enough.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{PingPong, Reason, RecvStream};
use http::Request;
use slab::Slab;
use tokio::time::Instant;

use super::budget::Budget;
use super::ear::Ear;
use super::end::End;
use super::frames::{FrameScanner, Position};
use super::intake::{self, Intake};
use super::stream;
use crate::connection::Connection;
use crate::lane::Lane;
use crate::snapshot::{Http2Limits, Limits};
use crate::timer::Watchdog;
use crate::wire::Expired;

/// Resets that time forgives in a second: a client that leaves one page after the other.
const RESETS_PER_SECOND: u32 = 1;
/// How long a client without a request under way is given to take leave once it was told that the connection ends.
const LEAVE: Duration = Duration::from_secs(2);
/// Streams refused or reset before they were accepted, waiting for the session at once; `h2`'s default.
const MAX_PENDING_RESETS: usize = 20;
/// Lanes kept for further streams; more are in use only in a burst.
const SPARE_LANES: usize = 16;

type Engine = h2::server::Connection<End, Bytes>;

/// Lives from the preface to the close.
pub struct Session {
    pub connection: Rc<Connection>,
    pub limits: Http2Limits,
    head_timeout: Duration,
    idle_timeout: Duration,
    /// A response of which too little is taken for so long is broken off.
    pub write_timeout: Duration,
    max_requests: u64,
    /// Streams begun.
    begun: Cell<u64>,
    ear: Ear,
    resets: RefCell<Budget>,
    cut: Cell<Option<Cut>>,
    lanes: RefCell<Slab<Rc<Lane>>>,
    spare: RefCell<Vec<Rc<Lane>>>,
    /// Streams of the client's address; `None` on a Unix socket, and for a proxy that has many clients.
    of_address: Option<Rc<Cell<usize>>>,
    outlived: Cell<u64>,
    task: RefCell<Option<Waker>>,
    watchdog: Watchdog,
    pinging: Watchdog,
}

/// Why a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// No SETTINGS.
    Opening,
    /// A header block without an end.
    Unfinished,
    ControlFrames,
    Resets,
    Idle,
    /// The client does not answer a ping.
    Gone,
}

impl Cut {
    fn reason(self) -> Reason {
        match self {
            Self::Opening => Reason::SETTINGS_TIMEOUT,
            Self::Unfinished | Self::ControlFrames | Self::Resets => Reason::ENHANCE_YOUR_CALM,
            Self::Idle | Self::Gone => Reason::NO_ERROR,
        }
    }

    /// The word for metrics; an idle client has done nothing wrong.
    fn word(self) -> Option<&'static str> {
        match self {
            Self::Opening => Some("settings_timeout"),
            Self::Unfinished => Some("head_timeout"),
            Self::ControlFrames => Some("control_frames"),
            Self::Resets => Some("resets"),
            Self::Gone => Some("ping_timeout"),
            Self::Idle => None,
        }
    }
}

/// Whether the client may still have something to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    Linger,
    Gone,
}

/// How far the end of a connection is.
#[derive(Default)]
struct Farewell {
    /// When the client was told to begin no more.
    told: Option<Instant>,
    is_cut: bool,
}

/// Whether the client is there.
struct Pings {
    line: PingPong,
    /// When the one under way was sent.
    sent: Option<Instant>,
}

/// Serves a connection to its end.
pub async fn serve(connection: &Rc<Connection>) -> Parting {
    let limits = connection.limits();
    let session = Rc::new(Session::new(connection, &limits));
    let handshake = builder(&limits.http2).handshake::<_, Bytes>(End(Rc::clone(&session)));
    let deadline = connection.wire.waiting_since() + limits.head_timeout;
    let mut engine = match session.watchdog.watch(Some(deadline), handshake).await {
        Some(Ok(engine)) => engine,
        Some(Err(error)) => return session.failed(&error),
        None => return session.count_cut(Cut::Opening),
    };
    let mut farewell = Farewell::default();
    let mut pings = engine.ping_pong().map(|line| Pings { line, sent: None });
    std::future::poll_fn(|context| session.poll(context, &mut engine, &mut farewell, pings.as_mut())).await
}

fn builder(limits: &Http2Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.max_streams)
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_header_list_size(limits.max_header_list)
        .max_send_buffer_size(limits.send_buffer)
        // MadeYouReset: faults of a client for which the engine resets streams are counted like its own resets.
        .max_local_error_reset_streams(Some(limits.max_resets as usize))
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        // What is on its way on a stream that has had its answer is no fault, however many have.
        .max_concurrent_reset_streams(limits.max_streams as usize)
        .data_frame_budget(intake::BUDGET)
        // Which protocols may be asked for is the route's to say.
        .enable_connect_protocol();
    builder
}

impl Session {
    fn new(connection: &Rc<Connection>, limits: &Limits) -> Self {
        let now = Instant::now();
        let worker = &connection.worker;
        Self {
            head_timeout: limits.head_timeout,
            idle_timeout: limits.idle_timeout,
            write_timeout: limits.write_timeout,
            max_requests: limits.max_requests,
            begun: Cell::new(0),
            ear: Ear::new(FrameScanner::default(), limits.http2.max_control_frames, now),
            resets: RefCell::new(Budget::new(
                limits.http2.max_resets,
                limits.http2.max_resets,
                RESETS_PER_SECOND,
                now,
            )),
            cut: Cell::new(None),
            lanes: RefCell::default(),
            spare: RefCell::default(),
            of_address: connection.household().map(|client| worker.streams_of(client)),
            outlived: Cell::new(worker.outlived()),
            task: RefCell::default(),
            watchdog: Watchdog::default(),
            pinging: Watchdog::default(),
            limits: limits.http2.clone(),
            connection: Rc::clone(connection),
        }
    }

    fn poll(
        self: &Rc<Self>,
        context: &mut Context<'_>,
        engine: &mut Engine,
        farewell: &mut Farewell,
        mut pings: Option<&mut Pings>,
    ) -> Poll<Parting> {
        self.connection.watch_worker(context.waker());
        self.task.borrow_mut().get_or_insert_with(|| context.waker().clone());
        self.end_outlived();
        loop {
            match engine.poll_accept(context) {
                Poll::Ready(Some(Ok((request, respond)))) => self.begin(request, respond, farewell),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(self.failed(&error)),
                Poll::Ready(None) => return Poll::Ready(Parting::Linger),
                Poll::Pending => {
                    let told = self.take_leave(context, engine, farewell, pings.as_deref_mut());
                    if !told {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Says what there is to say about the end of the connection; whether something was said, which the engine has to
    /// send.
    fn take_leave(
        &self,
        context: &mut Context<'_>,
        engine: &mut Engine,
        farewell: &mut Farewell,
        pings: Option<&mut Pings>,
    ) -> bool {
        if farewell.is_cut {
            return false;
        }
        let pinged = pings.is_some_and(|pings| self.is_gone(context, pings));
        if pinged {
            self.cut.set(Some(Cut::Gone));
            self.connection.wire.expire(Expired::Ping);
        }
        if let Some(cut) = self.cut.get().or_else(|| self.overdue(context, farewell.told)) {
            self.cut.set(Some(cut));
            self.count_cut(cut);
            farewell.is_cut = true;
            engine.abrupt_shutdown(cut.reason());
            return true;
        }
        let is_spent = self.begun.get() >= self.max_requests || self.ear.inbox().is_worn();
        if farewell.told.is_none() && (is_spent || self.connection.is_closing()) {
            farewell.told = Some(Instant::now());
            engine.graceful_shutdown();
            return true;
        }
        false
    }

    /// The deadline that has passed, of those that hold now. Streams have their own.
    fn overdue(&self, context: &mut Context<'_>, told: Option<Instant>) -> Option<Cut> {
        let wire = &self.connection.wire;
        let position = self.ear.position();
        let (deadline, cut) = match (position, self.ear.unfinished_since()) {
            (Position::Opening, _) => (wire.waiting_since() + self.head_timeout, Cut::Opening),
            (Position::Unfinished(_), Some(since)) => (since + self.head_timeout, Cut::Unfinished),
            _ if wire.is_busy() || wire.is_blocked() => return None,
            _ => {
                let idle = wire.waiting_since() + self.idle_timeout;
                let leave = told.map(|told| told.max(wire.waiting_since()) + LEAVE);
                (leave.map_or(idle, |leave| leave.min(idle)), Cut::Idle)
            }
        };
        self.watchdog.expired(context, deadline).then_some(cut)
    }

    /// Asks a client that is silent while it waits whether it is there; whether it has not answered for too long.
    fn is_gone(&self, context: &mut Context<'_>, pings: &mut Pings) -> bool {
        let Some(interval) = self.limits.ping_interval else {
            return false;
        };
        if pings.sent.is_some() && pings.line.poll_pong(context).is_ready() {
            pings.sent = None;
        }
        if !self.connection.wire.is_busy() {
            return false;
        }
        let heard = self.ear.heard();
        match pings.sent {
            // Whatever comes is a sign of life, and the answer may be behind it.
            Some(sent) => {
                let deadline = sent.max(heard) + self.limits.ping_timeout;
                self.pinging.expired(context, deadline)
            }
            None => {
                if self.pinging.expired(context, heard + interval) && pings.line.send_ping(h2::Ping::opaque()).is_ok() {
                    let now = Instant::now();
                    pings.sent = Some(now);
                    return self.pinging.expired(context, now + self.limits.ping_timeout);
                }
                false
            }
        }
    }

    fn begin(self: &Rc<Self>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, farewell: &Farewell) {
        if self.is_cut() {
            return;
        }
        let had_time = farewell.told.is_none_or(|told| told.elapsed() < self.head_timeout);
        if !had_time || !self.has_room() {
            // Safe to send again, elsewhere or later (RFC 9113 8.7).
            respond.send_reset(Reason::REFUSED_STREAM);
            self.connection
                .count_reset(if had_time { "max_streams_per_address" } else { "closing" });
            return;
        }
        self.begun.set(self.begun.get() + 1);
        let seat = Seat::take(self);
        let request = request.map(|stream| Intake::new(stream, self.ear.inbox()));
        tokio::task::spawn_local(stream::serve(seat, request, respond));
    }

    fn has_room(&self) -> bool {
        let taken = self.of_address.as_ref().map_or(0, |streams| streams.get());
        taken < self.limits.max_streams_per_address
    }

    /// Ends exchanges whose generation has had its time.
    fn end_outlived(&self) {
        let outlived = self.connection.worker.outlived();
        if self.outlived.replace(outlived) == outlived {
            return;
        }
        for (_, lane) in &*self.lanes.borrow() {
            if (1..=outlived).contains(&lane.generation()) {
                lane.break_off(Expired::Generation);
            }
        }
    }

    /// Bytes on their way to the engine.
    pub fn look_at(&self, bytes: &[u8]) {
        if !self.ear.hear(bytes) {
            self.cut.set(Some(Cut::ControlFrames));
        }
    }

    /// To be asked before more is read.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        self.ear.inbox().poll_room(context)
    }

    pub fn is_cut(&self) -> bool {
        self.cut.get().is_some()
    }

    /// So many bytes of content go to the client in a frame, or more of them.
    pub fn earn_frame(&self, bytes: usize) {
        self.ear.earn_frame(bytes);
    }

    /// A response went to its end.
    pub fn earn_reset(&self) {
        self.resets.borrow_mut().earn(1);
    }

    /// The client has broken off an exchange.
    pub fn spend_reset(&self) {
        if self.is_cut() {
            return;
        }
        self.connection.count_reset("client");
        if !self.resets.borrow_mut().spend(1, Instant::now) {
            self.cut.set(Some(Cut::Resets));
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    fn count_cut(&self, cut: Cut) -> Parting {
        if let Some(word) = cut.word() {
            self.connection.count_cut(word);
        }
        Parting::Linger
    }

    /// The engine gives up: the client's fault, or the connection's.
    fn failed(&self, error: &h2::Error) -> Parting {
        if self.connection.wire.expired() == Some(Expired::Write) || error.is_io() {
            return Parting::Gone;
        }
        if error.is_library() {
            let is_flood = error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
            self.connection
                .count_cut(if is_flood { "flood" } else { "protocol_error" });
        }
        Parting::Linger
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(client) = self.connection.client() {
            self.of_address = None;
            self.connection.worker.forget_streams_of(client.ip());
        }
    }
}

/// A stream's place in its session, until it is dropped.
pub struct Seat {
    pub session: Rc<Session>,
    pub lane: Rc<Lane>,
    key: usize,
}

impl Seat {
    fn take(session: &Rc<Session>) -> Self {
        let lane = session.spare.borrow_mut().pop().unwrap_or_default();
        if let Some(streams) = &session.of_address {
            streams.set(streams.get() + 1);
        }
        Self {
            key: session.lanes.borrow_mut().insert(Rc::clone(&lane)),
            lane,
            session: Rc::clone(session),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let session = &self.session;
        session.lanes.borrow_mut().try_remove(self.key);
        if let Some(streams) = &session.of_address {
            streams.set(streams.get() - 1);
        }
        let mut spare = session.spare.borrow_mut();
        if spare.len() < SPARE_LANES && Rc::strong_count(&self.lane) == 1 {
            self.lane.clear();
            spare.push(Rc::clone(&self.lane));
        }
        if !session.connection.wire.is_busy() {
            // The connection has a deadline of its own again.
            session.wake();
        }
    }
}
