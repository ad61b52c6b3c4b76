//! A byte stream to a peer: TCP or a Unix socket, plain or through TLS, one type without boxing.
//!
//! Data plane. It knows nothing of HTTP. Whoever reads and writes need not know of TLS: what is promised here of bytes
//! that are kept, sent and waited for holds for its records alike. A small write is not sent at once but kept for the worker's [outbox], so that
//! all that the tasks of one round write is sent in one go. To whoever writes it looks as if the kernel had taken the
//! bytes: that sending them failed is told once, by whichever comes next of a write, a flush, [`Stream::poll_sent`] and
//! a shutdown. Invariant: while bytes are kept nothing overtakes them, and they are sent (or their failure is told)
//! before the socket is shut down.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustix::net::{self, RecvFlags, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::address::Address;
use crate::descriptors::{self, Taker};
use crate::outbox;
use crate::peer::Tls;
use crate::tls::{self, Session};

/// Up to here the pieces of a write are copied together and sent as one; beyond, the copy would cost more than the
/// kernel's walk over a vector of them.
const GATHER_BYTES: usize = 4 << 10;

/// One end of a connection; belongs to the worker that made it.
#[derive(Debug)]
pub struct Stream {
    line: Rc<RefCell<Line>>,
    /// `None` for plain text.
    session: Option<Box<RefCell<Session>>>,
}

/// A socket and what is kept for it. Shared with the outbox while something is.
#[derive(Debug)]
pub(crate) struct Line {
    socket: Socket,
    /// Written to the stream, of which the first `gone` bytes are written to the socket.
    kept: Vec<u8>,
    gone: usize,
    /// The outbox knows of it and will send what is kept.
    is_listed: bool,
    /// Whoever wrote what is kept: woken when the socket does not take it.
    writer: Option<Waker>,
    failed: Option<io::Error>,
    sent: u64,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Most heads come and go by these two. The C library's functions for it are points where a thread can be cancelled, at two
/// locked instructions for each call, 0.08 us of an exchange; these are plain system calls.
impl Socket {
    fn poll_send(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_io(context, Interest::WRITABLE, bytes.len(), |socket| {
            net::send(socket, bytes, SendFlags::NOSIGNAL)
        })
    }

    /// `buffer` is initialized.
    fn poll_receive(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buffer.initialize_unfilled();
        let read = self.poll_io(context, Interest::READABLE, room.len(), |socket| {
            net::recv(socket, &mut *room, RecvFlags::empty()).map(|(count, _)| count)
        });
        let count = ready!(read)?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }

    /// Ready with the bytes that went through, of as many as `asked`.
    fn poll_io(
        &self,
        context: &mut Context<'_>,
        interest: Interest,
        asked: usize,
        mut call: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_ready(context, interest))?;
            let mut passed = None;
            let tried = self.try_io(interest, || {
                let count = call(self.as_fd())?;
                passed = Some(count);
                // So much and no more, for now. The runtime waits for an event before the next call, as if this one had
                // been told to.
                match count > 0 && count < asked {
                    true => Err(io::ErrorKind::WouldBlock.into()),
                    false => Ok(()),
                }
            });
            match (passed, tried) {
                (Some(count), _) => return Poll::Ready(Ok(count)),
                (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                (None, _) => {}
            }
        }
    }

    fn poll_ready(&self, context: &mut Context<'_>, interest: Interest) -> Poll<io::Result<()>> {
        match (self, interest.is_readable()) {
            (Self::Tcp(socket), true) => socket.poll_read_ready(context),
            (Self::Tcp(socket), false) => socket.poll_write_ready(context),
            (Self::Unix(socket), true) => socket.poll_read_ready(context),
            (Self::Unix(socket), false) => socket.poll_write_ready(context),
        }
    }

    fn try_io(&self, interest: Interest, call: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.try_io(interest, call),
            Self::Unix(socket) => socket.try_io(interest, call),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::new(Socket::Tcp(socket))
    }
}

impl From<UnixStream> for Stream {
    fn from(socket: UnixStream) -> Self {
        Self::new(Socket::Unix(socket))
    }
}

impl Stream {
    fn new(socket: Socket) -> Self {
        Self {
            line: Rc::new(RefCell::new(Line {
                socket,
                kept: Vec::new(),
                gone: 0,
                is_listed: false,
                writer: None,
                failed: None,
                sent: 0,
            })),
            session: None,
        }
    }

    pub async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let socket = TcpStream::connect(address).await?;
                descriptors::leave_some(&socket, Taker::Upstream)?;
                socket.set_nodelay(true)?;
                Ok(socket.into())
            }
            Address::Unix(path) => {
                let socket = UnixStream::connect(path).await?;
                descriptors::leave_some(&socket, Taker::Upstream)?;
                Ok(socket.into())
            }
            Address::Component(_) => Err(address.no_socket()),
        }
    }

    /// Speaks TLS with a client from now on; the handshake is still to come.
    pub fn serve_tls(&mut self, server: &tls::Server) -> io::Result<()> {
        self.session = Some(Box::new(RefCell::new(server.session()?)));
        Ok(())
    }

    /// Speaks TLS with the server at this address, to which that name led, and shakes hands with it.
    pub async fn request_tls(&mut self, client: &tls::Client, address: &Address, name: Option<&str>) -> io::Result<()> {
        let address = match address {
            Address::Tcp(address) => Some(address.ip()),
            Address::Unix(_) | Address::Component(_) => None,
        };
        self.session = Some(Box::new(RefCell::new(client.session(address, name)?)));
        std::future::poll_fn(|context| self.poll_handshake(context)).await
    }

    /// Ready at once without TLS.
    pub fn poll_handshake(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.session {
            Some(session) => session.borrow_mut().poll_handshake(&self.line, context),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Whether anything of a handshake has come.
    pub fn has_heard(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.borrow().has_heard())
    }

    /// What the handshake has told; `None` without TLS.
    pub fn tls(&self) -> Option<Handshake> {
        let session = self.session.as_ref()?.borrow();
        Some(Handshake {
            facts: session.facts(),
            is_resumed: session.is_resumed(),
        })
    }

    /// The protocol that the handshake has agreed on.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        let session = self.session.as_ref()?.borrow();
        session.alpn().map(<[u8]>::to_vec)
    }

    /// Goes on in plain text: the peer has never spoken TLS.
    pub fn forgo_tls(&mut self) {
        self.session = None;
    }

    /// Tells the peer that nothing more will come, if it can be told now. Without this, or a shutdown, a peer has to
    /// take what it has for cut off.
    pub fn part(&self) {
        if let Some(session) = &self.session {
            session.borrow_mut().part_now(&self.line);
        }
    }

    /// `None` for a Unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        match &self.line.borrow().socket {
            Socket::Tcp(socket) => socket.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Whether the peer has neither sent anything nor closed. Costs no system call as long as the runtime has seen no
    /// event; a byte that there is is lost.
    pub fn is_quiet(&self) -> bool {
        if let Some(session) = &self.session {
            return session.borrow_mut().is_quiet(&self.line);
        }
        let read = self.line.borrow().try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Bytes that the socket has taken so far, without those that are kept.
    pub fn sent(&self) -> u64 {
        self.line.borrow().sent
    }

    /// Whether the socket has taken all that was written.
    pub fn is_clear(&self) -> bool {
        let line = self.line.borrow();
        let session_is_clear = || self.session.as_ref().is_none_or(|session| session.borrow().is_clear());
        line.kept.is_empty() && line.failed.is_none() && session_is_clear()
    }

    /// Ready when the socket has taken all that was written, and the outbox has nothing to send any more.
    pub fn poll_sent(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(session) = &self.session {
            ready!(session.borrow_mut().poll_send(&self.line, context))?;
        }
        self.line.borrow_mut().poll_settled(context)
    }

    /// Throws away what is kept; the connection is of no more use.
    pub fn discard(&self) {
        self.line.borrow_mut().forget_kept();
    }

    /// The peer is to see that the connection breaks, where it would take its end for the end of what was sent: once this
    /// is dropped. Best effort.
    pub fn reset(&self) {
        if let Socket::Tcp(socket) = &self.line.borrow().socket {
            let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// Sends small writes soon rather than waiting for acknowledgements (TCP only), and is writable only when the kernel
    /// holds less than `unsent` bytes. Best effort.
    pub fn hurry(&self, unsent: u32) {
        if let Socket::Tcp(socket) = &self.line.borrow().socket {
            let _ = socket.set_nodelay(true);
            let _ = socket2::SockRef::from(socket).set_tcp_notsent_lowat(unsent);
        }
    }
}

/// What came of a handshake.
pub struct Handshake {
    pub facts: Arc<Tls>,
    pub is_resumed: bool,
}

impl Line {
    /// For the outbox: the time has come. Whoever wrote is woken when it did not go well.
    pub fn send_kept(&mut self) {
        self.is_listed = false;
        let Some(writer) = self.writer.take() else { return };
        match self.poll_kept(&mut Context::from_waker(&writer)) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                self.failed = Some(error);
                writer.wake();
            }
            Poll::Pending => writer.wake(),
        }
    }

    /// Writes what is kept to the socket.
    fn poll_kept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.gone < self.kept.len() {
            match ready!(self.socket.poll_send(context, &self.kept[self.gone..])) {
                Ok(0) => return self.fail(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.gone += count;
                    self.sent += count as u64;
                }
                Err(error) => return self.fail(error),
            }
        }
        self.forget_kept();
        Poll::Ready(Ok(()))
    }

    fn fail(&mut self, error: io::Error) -> Poll<io::Result<()>> {
        self.forget_kept();
        Poll::Ready(Err(error))
    }

    fn forget_kept(&mut self) {
        outbox::take_back(std::mem::take(&mut self.kept));
        self.gone = 0;
    }

    /// What was kept has gone to the socket, as far as it is not the outbox's to send.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_listed && self.failed.is_none() {
            return Poll::Ready(Ok(()));
        }
        self.poll_settled(context)
    }

    /// What was kept has gone to the socket, whosever it was to send; tells a failure of the outbox first.
    fn poll_settled(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.failed.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => self.poll_kept(context),
        }
    }

    /// Takes what is written: a little of it to keep, more of it to send.
    pub(crate) fn poll_write(
        line: &Rc<RefCell<Self>>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let shared = line;
        let line = &mut *shared.borrow_mut();
        ready!(line.poll_flush(context))?;
        let bytes = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if line.kept.len() + bytes > GATHER_BYTES || !outbox::is_open() {
            ready!(line.poll_kept(context))?;
            return line.poll_send(context, slices);
        }
        if line.kept.capacity() == 0 {
            line.kept = outbox::buffer(GATHER_BYTES);
        }
        slices.iter().for_each(|slice| line.kept.extend_from_slice(slice));
        if line
            .writer
            .as_ref()
            .is_none_or(|writer| !writer.will_wake(context.waker()))
        {
            line.writer = Some(context.waker().clone());
        }
        if !std::mem::replace(&mut line.is_listed, true) {
            outbox::list(shared);
        }
        Poll::Ready(Ok(bytes))
    }

    pub(crate) fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.initialized().len() == buffer.capacity() {
            return self.socket.poll_receive(context, buffer);
        }
        match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_read(context, buffer),
            Socket::Unix(socket) => Pin::new(socket).poll_read(context, buffer),
        }
    }

    /// What there is now. Costs no system call as long as the runtime has seen no event.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.socket {
            Socket::Tcp(socket) => socket.try_read(buffer),
            Socket::Unix(socket) => socket.try_read(buffer),
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let sent = match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_write_vectored(context, slices),
            Socket::Unix(socket) => Pin::new(socket).poll_write_vectored(context, slices),
        };
        if let Poll::Ready(Ok(count)) = &sent {
            self.sent += *count as u64;
        }
        sent
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        match &mut stream.session {
            None => stream.line.borrow_mut().poll_read(context, buffer),
            Some(session) => session.get_mut().poll_read(&stream.line, context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        match &mut stream.session {
            None => Line::poll_write(&stream.line, context, slices),
            Some(session) => session.get_mut().poll_write(&stream.line, context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Ready also while bytes wait for the outbox, which sends them without being asked.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if let Some(session) = &mut stream.session {
            ready!(session.get_mut().poll_send(&stream.line, context))?;
        }
        stream.line.borrow_mut().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if let Some(session) = &mut stream.session {
            session.get_mut().part();
            ready!(session.get_mut().poll_send(&stream.line, context))?;
        }
        let line = &mut *stream.line.borrow_mut();
        ready!(line.poll_settled(context))?;
        match &mut line.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_shutdown(context),
            Socket::Unix(socket) => Pin::new(socket).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::{LocalSet, spawn_local, yield_now};

    /// A stream and its peer, on a thread with an outbox.
    async fn with_outbox<F: Future>(test: impl FnOnce(Stream, UnixStream) -> F) -> F::Output {
        let (ours, peer) = UnixStream::pair().expect("a pair of sockets");
        let round = async {
            spawn_local(outbox::serve());
            yield_now().await;
            test(ours.into(), peer).await
        };
        LocalSet::new().run_until(round).await
    }

    fn nothing_to_read(peer: &UnixStream) -> bool {
        let read = peer.try_read(&mut [0; 1]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    #[tokio::test]
    async fn small_writes_leave_together_at_the_end_of_the_round() {
        with_outbox(|mut stream, mut peer| async move {
            stream.write_all(b"one, ").await.unwrap();
            stream.write_all(b"two").await.unwrap();
            stream.flush().await.unwrap();
            assert!(nothing_to_read(&peer) && stream.sent() == 0 && !stream.is_clear());
            let mut text = [0; 8];
            peer.read_exact(&mut text).await.unwrap();
            assert_eq!(&text, b"one, two");
            assert!(stream.sent() == 8 && stream.is_clear());
        })
        .await;
    }

    /// Of several a next look at the sockets may find more; one alone leaves with its round.
    #[tokio::test]
    async fn several_wait_for_another_look_and_one_does_not() {
        with_outbox(|mut one, mut peer_of_one| async move {
            let (other, mut peer_of_other) = UnixStream::pair().expect("a pair of sockets");
            let mut other = Stream::from(other);
            one.write_all(b"a").await.unwrap();
            yield_now().await;
            assert_eq!(one.sent(), 1);
            one.write_all(b"b").await.unwrap();
            other.write_all(b"c").await.unwrap();
            yield_now().await;
            assert_eq!((one.sent(), other.sent()), (1, 0), "there may be more");
            yield_now().await;
            assert_eq!((one.sent(), other.sent()), (2, 1), "there was no more");
            let mut text = [0; 2];
            peer_of_one.read_exact(&mut text).await.unwrap();
            assert_eq!(&text, b"ab");
            peer_of_other.read_exact(&mut text[..1]).await.unwrap();
            assert_eq!(text[0], b'c');
        })
        .await;
    }

    #[tokio::test]
    async fn nothing_overtakes_what_is_kept() {
        with_outbox(|mut stream, mut peer| async move {
            let large = vec![b'x'; GATHER_BYTES + 1];
            stream.write_all(b"first").await.unwrap();
            stream.write_all(&large).await.unwrap();
            assert_eq!(stream.sent(), 5 + large.len() as u64, "a large write waits for nothing");
            stream.write_all(b"last").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut text = Vec::new();
            peer.read_to_end(&mut text).await.unwrap();
            assert_eq!(text, [b"first", large.as_slice(), b"last"].concat());
        })
        .await;
    }

    type Operation = fn(&mut Stream, &mut Context<'_>) -> Poll<io::Result<()>>;

    /// What may come next after a write.
    const OPERATIONS: [(&str, Operation); 4] = [
        ("write", |stream, context| {
            let written = Pin::new(stream).poll_write(context, b"more");
            written.map_ok(drop)
        }),
        ("flush", |stream, context| Pin::new(stream).poll_flush(context)),
        ("sent", |stream, context| stream.poll_sent(context)),
        ("shutdown", |stream, context| Pin::new(stream).poll_shutdown(context)),
    ];

    #[tokio::test]
    async fn a_failure_is_told_once_by_whatever_comes_next() {
        for (name, operation) in OPERATIONS {
            with_outbox(|mut stream, peer| async move {
                drop(peer);
                stream.write_all(b"lost").await.unwrap();
                yield_now().await;
                assert!(!stream.is_clear(), "{name}: it has failed and is not told yet");
                let told = poll_fn(|context| operation(&mut stream, context)).await;
                let error = told.expect_err("the peer is gone");
                assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{name}");
                assert_eq!(stream.sent(), 0, "{name}");
                let again = poll_fn(|context| stream.poll_sent(context)).await;
                assert!(again.is_ok(), "{name}: nothing is kept any more");
            })
            .await;
        }
    }

    #[tokio::test]
    async fn what_is_discarded_is_not_sent() {
        with_outbox(|mut stream, mut peer| async move {
            stream.write_all(b"never").await.unwrap();
            stream.discard();
            drop(stream);
            let mut text = Vec::new();
            peer.read_to_end(&mut text).await.unwrap();
            assert_eq!(text, b"");
        })
        .await;
    }

    /// What is written last is not lost with the stream: the outbox still has it.
    #[tokio::test]
    async fn what_is_kept_outlives_the_stream() {
        with_outbox(|mut stream, mut peer| async move {
            stream.write_all(b"farewell").await.unwrap();
            drop(stream);
            let mut text = Vec::new();
            peer.read_to_end(&mut text).await.unwrap();
            assert_eq!(text, b"farewell");
        })
        .await;
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_waited_for() {
        with_outbox(|mut stream, mut peer| async move {
            // Until the socket is full and one more write is kept.
            let mut written = 0;
            let filled = poll_fn(|context| {
                let filled = Pin::new(&mut stream).poll_write(context, &[b'x'; 1 << 10]);
                match filled {
                    Poll::Ready(Ok(count)) => {
                        written += count;
                        outbox::send_all();
                        context.waker().wake_by_ref();
                        Poll::Pending
                    }
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    Poll::Pending => Poll::Ready(Ok(())),
                }
            });
            filled.await.unwrap();
            let blocked = poll_fn(|context| Poll::Ready(Pin::new(&mut stream).poll_flush(context).is_pending()));
            assert!(blocked.await, "not all that was written is sent");
            let mut text = vec![0; written];
            let (flushed, read) = tokio::join!(stream.flush(), peer.read_exact(&mut text));
            flushed.unwrap();
            read.unwrap();
            assert_eq!(stream.sent(), written as u64);
        })
        .await;
    }

    #[tokio::test]
    async fn without_an_outbox_nothing_is_kept() {
        let (ours, mut peer) = UnixStream::pair().expect("a pair of sockets");
        let mut stream = Stream::from(ours);
        stream.write_all(b"now").await.unwrap();
        assert_eq!(stream.sent(), 3);
        let mut text = [0; 3];
        peer.read_exact(&mut text).await.unwrap();
    }
}
