//! A client's connection as hyper reads and writes it, with what hyper leaves to a proxy.
//!
//! Data plane. Three things happen on the way through: request heads are looked at before hyper parses them (`scan`),
//! reads and writes are held to their deadlines, and bytes are counted. It frames nothing itself. Before all that, the
//! first bytes may be asked for the protocol; [`http2`](crate::http2) has an end of its own, and deadlines of its own
//! for what it reads.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use crate::scan::{Fault, HeadScanner, Position};
use crate::stream::Stream;
use crate::timer::Watchdog;

/// What one read takes from the socket; shared by all connections of a worker, so that an idle one holds no buffer.
const SCRATCH: usize = 64 << 10;
/// What a client of HTTP/2 sends first (RFC 9113 3.4); no HTTP/1 request begins like that.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What is read at most to find out about it; as much as hyper's first read takes.
const FIRST_READ: usize = 8 << 10;
/// How much of an unread request is thrown away after the last response, so that the client reads the response before
/// it meets a reset.
const LINGER_BYTES: u64 = 1 << 20;
/// For how long.
const LINGER: Duration = Duration::from_secs(2);

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// The deadlines of one connection; see [`Limits`](crate::snapshot::Limits).
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    pub head: Duration,
    pub idle: Duration,
    pub write: Duration,
}

/// Which deadline ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    Idle,
    Head,
    Write,
    /// The exchange's generation was replaced too long ago.
    Generation,
    /// The client does not answer whether it is there.
    Ping,
}

/// What a client has begun to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    Http1,
    Http2,
}

/// Shared by hyper's end of the connection and ours.
pub struct Wire {
    /// Taken out for the last words of the connection, when hyper is done with its end.
    stream: RefCell<Option<Stream>>,
    scanner: RefCell<HeadScanner>,
    /// Read to find out the protocol, and still to be read by whoever speaks it.
    ahead: RefCell<Bytes>,
    deadlines: Cell<Deadlines>,
    /// Since when the connection waits for a head, or is in the middle of one.
    waiting_since: Cell<Instant>,
    /// Exchanges under way. Their own deadlines hold, not the connection's.
    busy: Cell<u32>,
    blocked_since: Cell<Option<Instant>>,
    expired: Cell<Option<Expired>>,
    reading: Watchdog,
    writing: Watchdog,
    pub bytes_in: Cell<u64>,
    pub bytes_out: Cell<u64>,
}

impl Wire {
    pub fn new(stream: Stream, max_head_bytes: usize, deadlines: Deadlines) -> Rc<Self> {
        Rc::new(Self {
            stream: RefCell::new(Some(stream)),
            scanner: RefCell::new(HeadScanner::new(max_head_bytes)),
            ahead: RefCell::default(),
            deadlines: Cell::new(deadlines),
            waiting_since: Cell::new(Instant::now()),
            busy: Cell::new(0),
            blocked_since: Cell::new(None),
            expired: Cell::new(None),
            reading: Watchdog::default(),
            writing: Watchdog::default(),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
        })
    }

    /// The stream, between what hyper does with it; `None` once the last words were said.
    pub fn with<T>(&self, act: impl FnOnce(&mut Stream) -> T) -> Option<T> {
        self.stream.borrow_mut().as_mut().map(act)
    }

    /// From now on a head is waited for.
    pub fn begin_waiting(&self, now: Instant) {
        self.waiting_since.set(now);
    }

    pub fn end(self: &Rc<Self>) -> WireEnd {
        WireEnd(Rc::clone(self))
    }

    /// Waits until it is clear what the client speaks. Whatever is not the preface of HTTP/2 is HTTP/1.
    pub async fn spoken(&self) -> io::Result<Spoken> {
        std::future::poll_fn(|context| self.poll_spoken(context)).await
    }

    fn poll_spoken(&self, context: &mut Context<'_>) -> Poll<io::Result<Spoken>> {
        loop {
            let read = self.poll_read_ahead(context);
            let ahead = self.ahead.borrow();
            let read = match read {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    let expired = if ahead.is_empty() { Expired::Idle } else { Expired::Head };
                    return self.poll_until(context, self.waiting_since.get() + self.deadlines.get().head, expired);
                }
            };
            let known = ahead.len().min(PREFACE.len());
            if ahead[..known] != PREFACE[..known] || read == 0 {
                return Poll::Ready(Ok(Spoken::Http1));
            }
            if known == PREFACE.len() {
                return Poll::Ready(Ok(Spoken::Http2));
            }
        }
    }

    /// Waits for the next request as its reader would, when there is none. What comes is kept for the next one.
    pub fn poll_ahead(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_read_ahead(context) {
            Poll::Ready(read) => Poll::Ready(read.map(drop)),
            Poll::Pending => self.poll_waiting(context).map_ok(drop),
        }
    }

    fn poll_read_ahead(&self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(&mut buffer[..FIRST_READ]);
            ready!(self.with_stream(|stream| stream.poll_read(context, &mut buffer)))?;
            let mut ahead = self.ahead.borrow_mut();
            *ahead = match ahead.is_empty() {
                true => Bytes::copy_from_slice(buffer.filled()),
                false => [&ahead, buffer.filled()].concat().into(),
            };
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    /// Whether the connection has been idle for so long, and its reader, who has taken `heads` requests, holds nothing of
    /// it: neither bytes that came nor bytes that the client has not taken.
    pub fn is_at_rest(&self, context: &mut Context<'_>, heads: u64, after: Duration) -> bool {
        if self.is_busy() || self.is_lost() || self.is_blocked() {
            return false;
        }
        let scanner = self.scanner.borrow();
        scanner.position() == Position::Idle
            && scanner.heads() == heads
            && self.reading.expired(context, self.waiting_since.get() + after)
    }

    /// The head of a request is there.
    pub fn begin_exchange(&self) {
        self.busy.set(self.busy.get() + 1);
    }

    pub fn end_exchange(&self, now: Instant) {
        self.busy.set(self.busy.get().saturating_sub(1));
        self.waiting_since.set(now);
    }

    pub fn is_busy(&self) -> bool {
        self.busy.get() > 0
    }

    /// The client has not taken what was written.
    pub fn is_blocked(&self) -> bool {
        self.blocked_since.get().is_some()
    }

    /// When the last exchange ended, or the client had taken its answer, or the connection began.
    pub fn waiting_since(&self) -> Instant {
        self.waiting_since.get()
    }

    pub fn deadlines(&self) -> Deadlines {
        self.deadlines.get()
    }

    /// What hyper does not show of the head with this number, counted from 1.
    pub fn fault(&self, head: u64) -> Option<Fault> {
        self.scanner
            .borrow()
            .fault()
            .filter(|(at, _)| *at <= head)
            .map(|(_, fault)| fault)
    }

    /// Whether the rest of a request whose exchange is over has been waited for long enough. hyper does not read while it
    /// cannot hand a body on, so reading alone would not find out.
    pub fn is_overdue(&self, context: &mut Context<'_>) -> bool {
        let is_waiting = !self.is_busy() && !self.is_blocked();
        let unread = is_waiting && self.scanner.borrow().position() == Position::Body;
        let overdue = unread
            && self
                .reading
                .expired(context, self.waiting_since.get() + self.deadlines.get().idle);
        if overdue {
            self.expired.set(Some(Expired::Idle));
        }
        overdue
    }

    /// The next bytes, behind which none are taken, before anything of HTTP has come. Fails when the connection ends.
    pub async fn read_ahead(&self, bytes: &mut Vec<u8>, count: usize) -> io::Result<()> {
        let from = bytes.len();
        bytes.resize(from + count, 0);
        let mut buffer = ReadBuf::new(&mut bytes[from..]);
        while buffer.remaining() > 0 {
            let before = buffer.filled().len();
            std::future::poll_fn(|context| self.with_stream(|stream| stream.poll_read(context, &mut buffer))).await?;
            if buffer.filled().len() == before {
                bytes.truncate(from + before);
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Where in what the client sends the connection stands.
    pub fn position(&self) -> Position {
        self.scanner.borrow().position()
    }

    /// Whether bytes came that nobody can follow: no further request of this connection will be served.
    pub fn is_lost(&self) -> bool {
        self.scanner.borrow().fault().is_some()
    }

    pub fn expire(&self, by: Expired) {
        self.expired.set(Some(by));
    }

    pub fn expired(&self) -> Option<Expired> {
        self.expired.get()
    }

    /// Sends `farewell`, closes our half, and throws away what still comes, within bounds.
    pub async fn linger(&self, farewell: &[u8]) {
        let Some(mut stream) = self.stream.take() else { return };
        let drained = tokio::time::timeout(LINGER, async {
            stream.write_all(farewell).await?;
            stream.shutdown().await?;
            // What still comes is thrown away as it is.
            stream.forgo_tls();
            let mut unread = (&mut stream).take(LINGER_BYTES);
            tokio::io::copy(&mut unread, &mut tokio::io::sink()).await
        });
        // Bounded on purpose; the connection closes either way.
        let _ = drained.await;
    }

    /// The connection has become a tunnel: from here on its bytes are nobody's HTTP. With those that hyper was not given
    /// yet; `None` when it was taken before.
    pub fn become_tunnel(&self) -> Option<(Stream, Bytes)> {
        self.scanner.borrow_mut().stop();
        Some((self.stream.take()?, self.ahead.take()))
    }

    /// Counts what passes without going through hyper.
    pub fn count(&self, bytes_in: u64, bytes_out: u64) {
        self.bytes_in.set(self.bytes_in.get() + bytes_in);
        self.bytes_out.set(self.bytes_out.get() + bytes_out);
    }

    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        match self.poll_stream(context, &mut buffer) {
            Poll::Ready(Ok(())) => {
                self.look_at(buffer.filled());
                Poll::Ready(Ok(buffer.filled().len()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_waiting(context),
        }
    }

    /// What was read ahead, then what the client sends.
    fn poll_stream(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut ahead = self.ahead.borrow_mut();
        if ahead.is_empty() {
            return self.with_stream(|stream| stream.poll_read(context, buffer));
        }
        let taken = ahead.len().min(buffer.remaining());
        buffer.put_slice(&ahead.split_to(taken));
        if ahead.is_empty() {
            *ahead = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }

    /// For [`http2`](crate::http2), which looks at the bytes and keeps the deadlines itself.
    pub fn poll_receive(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = self.poll_stream(context, buffer);
        let read = buffer.filled().len() - before;
        self.bytes_in.set(self.bytes_in.get() + read as u64);
        polled
    }

    pub fn poll_send(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = self.with_stream(|stream| stream.poll_write(context, bytes));
        self.written(context, polled)
    }

    pub fn poll_send_vectored(&self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = self.with_stream(|stream| stream.poll_write_vectored(context, slices));
        self.written(context, polled)
    }

    pub fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.with_stream(|stream| stream.poll_flush(context));
        self.watch_write(context, polled)
    }

    /// Only sees to it that all is sent, which a slow client is given its deadline for. The rest is left to
    /// [`Wire::linger`] and to the drop of the stream: a shutdown here would be the end of the answer for a client that
    /// is still sending.
    pub fn poll_sent(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.with_stream(|stream| stream.poll_sent(context));
        self.watch_write(context, polled)
    }

    fn with_stream<T>(&self, poll: impl FnOnce(Pin<&mut Stream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.stream.borrow_mut().as_mut() {
            Some(stream) => poll(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn look_at(&self, bytes: &[u8]) {
        let mut scanner = self.scanner.borrow_mut();
        let was_idle = scanner.position() == Position::Idle;
        scanner.feed(bytes);
        if was_idle && scanner.position() == Position::Head {
            self.waiting_since.set(Instant::now());
        }
        self.bytes_in.set(self.bytes_in.get() + bytes.len() as u64);
    }

    fn poll_waiting(&self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // A client that has not taken its answer yet has the deadline for that.
        if self.is_busy() || self.is_blocked() {
            return Poll::Pending;
        }
        let Deadlines { head, idle, .. } = self.deadlines.get();
        let (wait, expired) = match self.scanner.borrow().position() {
            // A connection that never says anything is given no longer than one that says it slowly.
            Position::Idle if self.bytes_in.get() == 0 => (head, Expired::Idle),
            Position::Idle => (idle, Expired::Idle),
            Position::Head => (head, Expired::Head),
            Position::Body => return Poll::Pending,
        };
        self.poll_until(context, self.waiting_since.get() + wait, expired)
    }

    fn poll_until<T>(&self, context: &mut Context<'_>, deadline: Instant, expired: Expired) -> Poll<io::Result<T>> {
        if self.reading.expired(context, deadline) {
            self.expired.set(Some(expired));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }

    fn written(&self, context: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &polled {
            self.bytes_out.set(self.bytes_out.get() + *bytes as u64);
        }
        self.watch_write(context, polled)
    }

    /// Holds the client to the deadline for taking what is written.
    fn watch_write<T>(&self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(done) => {
                if self.blocked_since.take().is_some() && !self.is_busy() {
                    // From now on the client is waited for, which whoever reads has to see to.
                    self.waiting_since.set(Instant::now());
                    context.waker().wake_by_ref();
                }
                Poll::Ready(done)
            }
            Poll::Pending => {
                let since = self.blocked_since.get().unwrap_or_else(Instant::now);
                self.blocked_since.set(Some(since));
                if self.writing.expired(context, since + self.deadlines.get().write) {
                    self.expired.set(Some(Expired::Write));
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Pending
            }
        }
    }
}

/// hyper's end of a [`Wire`].
pub struct WireEnd(Rc<Wire>);

impl hyper::rt::Read for WireEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let room = cursor.remaining().min(buffer.len());
            self.0
                .poll_read(context, &mut buffer[..room])
                .map_ok(|read| cursor.put_slice(&buffer[..read]))
        })
    }
}

impl hyper::rt::Write for WireEnd {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_send(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_send_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_sent(context)
    }
}
