//! A connection to an upstream that speaks HTTP/2: what its calls share, and how it ends.
//!
//! Data plane; one thread only. A task of its own, the [`Driver`], moves the bytes of all calls. A connection is used when
//! the server's SETTINGS have come, so that no more streams are begun than it allows, and takes no more calls from the
//! moment that it is told to go away; those under way end as they would. Bounded: what the server sends for nothing, header
//! blocks without an end, silence while it is waited for. Invariant: the window of the connection is that of all its
//! streams together, so that a client who does not read keeps no other waiting.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{PingPong, SendStream};
use http::Request;
use http::uri::Scheme;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ear::Ear;
use super::frames::FrameScanner;
use crate::stream::Stream;
use crate::timer::Watchdog;

/// From the first byte of a header block to its last: as long as a listener gives clients by default. Nothing else passes
/// meanwhile (RFC 9113 4.3).
const BLOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server is given to take our farewell.
const LEAVE: Duration = Duration::from_secs(2);
/// How long frames for a stream that we have broken off may still come, and so many times the streams at once of such
/// streams are remembered meanwhile.
const IN_FLIGHT: Duration = Duration::from_secs(30);
const FORGOTTEN: usize = 100;
/// Frames that come later than that, over a connection's life.
const MAX_LATE_FRAMES: usize = 64 << 10;
/// The largest window (RFC 9113 6.9.1).
const MAX_WINDOW: u64 = (1 << 31) - 1;

/// What one connection may take. Defaults and reasons are the configuration's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    /// The server may allow fewer.
    pub max_streams: usize,
    /// Bytes.
    pub stream_window: u32,
    /// Bytes of one request.
    pub send_buffer: usize,
    /// Bytes, with 32 for each field.
    pub max_header_list: u32,
    /// Streams that faults of the server end.
    pub max_resets: usize,
    pub max_control_frames: u32,
    /// `None` is never.
    pub ping_interval: Option<Duration>,
    pub ping_timeout: Duration,
}

/// What calls share. Lives until the last of them is over.
pub struct Client {
    terms: Terms,
    scheme: Scheme,
    /// `None` when it takes no more calls.
    sender: RefCell<Option<SendRequest<Bytes>>>,
    /// Under way.
    streams: Cell<usize>,
    /// Streams that faults of the server have ended.
    faults: Cell<usize>,
    /// Whether there was a call before.
    used: Cell<bool>,
    /// When it became busy, or idle.
    turned: Cell<Instant>,
    ear: Ear,
    cut: Cell<Option<Cut>>,
    told: Told,
}

/// Who is told of what changes.
#[derive(Clone)]
pub struct Told {
    /// That a call is over.
    pub vacancy: Rc<Notify>,
    /// That no call is left: the connection could be closed for another one.
    pub idle: Rc<Notify>,
}

/// Why we end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    ControlFrames,
    /// A header block without an end.
    Unfinished,
    /// The server does not answer a ping.
    Gone,
}

impl Cut {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ControlFrames => "the server sends too many frames that carry nothing",
            Self::Unfinished => "the server does not finish a header block",
            Self::Gone => "the server does not answer a ping",
        }
    }
}

/// What a connection has for one more call.
pub enum Offer {
    Slot(Slot),
    /// Nothing now.
    Full,
    /// Nothing any more.
    Over,
}

/// Connects over a stream whose server is known to speak HTTP/2; done when it has said what it allows.
pub async fn open(stream: Stream, scheme: Scheme, terms: &Terms, told: Told) -> io::Result<(Rc<Client>, Driver)> {
    let client = Rc::new(Client::new(scheme, terms, told));
    let wire = Wire {
        stream,
        client: Rc::clone(&client),
    };
    let (sender, mut engine) = builder(terms).handshake(wire).await.map_err(broken)?;
    *client.sender.borrow_mut() = Some(sender);
    let mut driver = Driver {
        pings: engine.ping_pong().map(|line| Pings { line, sent: None }),
        engine,
        client: Rc::clone(&client),
        pinging: Watchdog::default(),
        finishing: Watchdog::default(),
        leaving: Watchdog::default(),
        left: None,
    };
    std::future::poll_fn(|context| driver.poll_opening(context)).await?;
    Ok((client, driver))
}

fn builder(terms: &Terms) -> Builder {
    let window = (terms.max_streams as u64 * u64::from(terms.stream_window)).clamp(65_535, MAX_WINDOW);
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        // Until its SETTINGS are there.
        .initial_max_send_streams(0)
        .initial_window_size(terms.stream_window)
        // At most `MAX_WINDOW`.
        .initial_connection_window_size(window as u32)
        .max_header_list_size(terms.max_header_list)
        .max_send_buffer_size(terms.send_buffer)
        // What is on its way on a stream that we have broken off is no fault. The engine forgets which ones these are, and
        // holds against the server what comes on them then: the faults that count are counted here.
        .max_concurrent_reset_streams(terms.max_streams.saturating_mul(FORGOTTEN))
        .reset_stream_duration(IN_FLIGHT)
        .max_local_error_reset_streams(Some(terms.max_resets + terms.max_streams + MAX_LATE_FRAMES));
    builder
}

pub(super) fn broken(error: h2::Error) -> io::Error {
    let text = error.to_string();
    error.into_io().unwrap_or_else(|| io::Error::other(text))
}

impl Client {
    fn new(scheme: Scheme, terms: &Terms, told: Told) -> Self {
        let now = Instant::now();
        Self {
            terms: terms.clone(),
            scheme,
            sender: RefCell::default(),
            streams: Cell::new(0),
            faults: Cell::new(0),
            used: Cell::new(false),
            turned: Cell::new(now),
            ear: Ear::new(FrameScanner::of_server(), terms.max_control_frames, now),
            cut: Cell::new(None),
            told,
        }
    }

    /// A place for one more call, if there is one.
    pub fn offer(self: &Rc<Self>) -> Offer {
        let mut sender = self.sender.borrow_mut();
        let Some(ready) = sender.as_mut() else {
            return Offer::Over;
        };
        // It waits for nothing: it tells whether the server has said farewell.
        let is_over = matches!(
            ready.poll_ready(&mut Context::from_waker(Waker::noop())),
            Poll::Ready(Err(_))
        );
        if is_over {
            *sender = None;
            return Offer::Over;
        }
        if self.streams.get() >= self.terms.max_streams.min(ready.current_max_send_streams()) {
            return Offer::Full;
        }
        if self.streams.get() == 0 {
            self.turned.set(Instant::now());
        }
        self.streams.set(self.streams.get() + 1);
        Offer::Slot(Slot {
            sender: Some(ready.clone()),
            client: Rc::clone(self),
            is_reused: self.used.replace(true),
        })
    }

    /// Takes no more calls, and is closed when the last one is over.
    pub fn part(&self) {
        self.sender.take();
    }

    /// Since when there is no call; `None` while there is one.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.streams.get() == 0).then(|| self.turned.get())
    }

    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Why we have ended the connection, if we have.
    pub fn cut(&self) -> Option<Cut> {
        self.cut.get()
    }

    /// A response was none. With too many of them it takes no more calls: others find another connection before `h2` ends
    /// this one with all that is on it.
    pub fn fault(&self) {
        self.faults.set(self.faults.get() + 1);
        if self.faults.get() >= self.terms.max_resets {
            self.part();
        }
    }

    /// So many bytes of content go to the server in a frame, or more of them.
    pub fn earn_frame(&self, bytes: usize) {
        self.ear.earn_frame(bytes);
    }

    /// Bytes on their way to the engine.
    fn look_at(&self, bytes: &[u8]) {
        if !self.ear.hear(bytes) {
            self.cut.set(Some(Cut::ControlFrames));
        }
    }

    fn release(&self) {
        self.streams.set(self.streams.get() - 1);
        if self.streams.get() == 0 {
            self.turned.set(Instant::now());
            self.told.idle.notify_one();
        }
        self.told.vacancy.notify_one();
    }
}

/// A call's place on its connection, until it is dropped.
pub struct Slot {
    /// Until the call has begun.
    sender: Option<SendRequest<Bytes>>,
    client: Rc<Client>,
    is_reused: bool,
}

impl Slot {
    /// Begins a stream with this head; `None` when the connection takes it no more.
    pub fn send(&mut self, request: Request<()>, end: End) -> Option<(ResponseFuture, SendStream<Bytes>)> {
        self.client.ear.earn_answer();
        let sent = self.sender.take()?.send_request(request, end == End::Here);
        sent.ok()
    }

    /// Whether a stream may carry another protocol (RFC 8441 3).
    pub fn takes_protocols(&self) -> bool {
        let sender = self.sender.as_ref();
        sender.is_some_and(SendRequest::is_extended_connect_protocol_enabled)
    }

    /// Whether the connection has carried a call before.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    pub fn client(&self) -> &Rc<Client> {
        &self.client
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.client.release();
    }
}

/// Whether anything follows a request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Here,
    Later,
}

/// Moves a connection's bytes until its end.
pub struct Driver {
    client: Rc<Client>,
    engine: h2::client::Connection<Wire, Bytes>,
    pings: Option<Pings>,
    pinging: Watchdog,
    finishing: Watchdog,
    leaving: Watchdog,
    /// Since when there is nothing to do for it any more.
    left: Option<Instant>,
}

/// Whether the server is there.
struct Pings {
    line: PingPong,
    /// When the one under way was sent.
    sent: Option<Instant>,
}

impl Driver {
    /// The error is for the log; calls learn of their own.
    pub async fn run(mut self) -> io::Result<()> {
        let end = std::future::poll_fn(|context| self.poll(context)).await;
        self.client.part();
        // Whoever waits for a place on it waits for another one.
        self.client.told.vacancy.notify_one();
        end
    }

    /// Whether the server has said what it allows, which may be nothing yet.
    fn poll_opening(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.engine).poll(context) {
            Poll::Ready(Ok(())) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(error))),
            Poll::Pending => {}
        }
        if let Some(cut) = self.client.cut.get() {
            return Poll::Ready(Err(io::Error::other(cut.as_str())));
        }
        match self.engine.max_concurrent_send_streams() {
            0 => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(end) = Pin::new(&mut self.engine).poll(context) {
            return Poll::Ready(end.map_err(broken));
        }
        if self.is_unfinished(context) {
            self.client.cut.set(Some(Cut::Unfinished));
        } else if self.is_gone(context) {
            self.client.cut.set(Some(Cut::Gone));
        }
        match self.client.cut.get() {
            Some(cut) => Poll::Ready(Err(io::Error::other(cut.as_str()))),
            None if self.has_left(context) => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }

    /// Whether a server does not even take our farewell.
    fn has_left(&mut self, context: &mut Context<'_>) -> bool {
        let is_over = self.client.streams.get() == 0 && self.client.sender.borrow().is_none();
        if !is_over {
            return false;
        }
        let since = *self.left.get_or_insert_with(Instant::now);
        self.leaving.expired(context, since + LEAVE)
    }

    fn is_unfinished(&self, context: &mut Context<'_>) -> bool {
        let since = self.client.ear.unfinished_since();
        since.is_some_and(|since| self.finishing.expired(context, since + BLOCK_TIMEOUT))
    }

    /// Asks a server that is silent while it is waited for whether it is there; whether it has not answered for too long.
    fn is_gone(&mut self, context: &mut Context<'_>) -> bool {
        let terms = &self.client.terms;
        let (Some(pings), Some(interval)) = (&mut self.pings, terms.ping_interval) else {
            return false;
        };
        if pings.sent.is_some() && pings.line.poll_pong(context).is_ready() {
            pings.sent = None;
        }
        if self.client.streams.get() == 0 {
            return false;
        }
        // One that was left alone has had no reason to speak.
        let heard = self.client.ear.heard().max(self.client.turned.get());
        match pings.sent {
            // Whatever comes is a sign of life, and the answer may be behind it.
            Some(sent) => self.pinging.expired(context, sent.max(heard) + terms.ping_timeout),
            None => {
                if self.pinging.expired(context, heard + interval) && pings.line.send_ping(h2::Ping::opaque()).is_ok() {
                    let now = Instant::now();
                    pings.sent = Some(now);
                    return self.pinging.expired(context, now + terms.ping_timeout);
                }
                false
            }
        }
    }
}

/// `h2`'s end of the stream: what it reads is looked at on the way. Nothing more is read once the connection is to be cut.
struct Wire {
    stream: Stream,
    client: Rc<Client>,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.client.cut.get().is_some() {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.client.look_at(&buffer.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
