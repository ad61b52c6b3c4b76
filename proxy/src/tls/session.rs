//! One connection's TLS: what is read and written is plain, what the line below carries is not.
//!
//! Data plane. rustls keeps the state and is given bytes; the socket, the outbox and all waiting are the [`Line`]'s. What
//! is written becomes records at once, and a small answer's leave in one write like plain bytes do. Invariant: what was
//! read from the line is never lost: it is handed over, or waits in `ahead`.

use std::cell::RefCell;
use std::io::{self, BufRead as _, IoSlice, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::SystemTime;

use rustls::{Connection, HandshakeKind, ProtocolVersion};
use tokio::io::ReadBuf;

use super::{Server, broken, certificate};
use crate::peer::Tls;
use crate::stream::Line;

/// What one read takes from the line at most: four records, each of which costs its header and tag.
const SCRATCH: usize = (64 << 10) + RECORD_OVERHEAD;
/// Of four records, with room to spare.
const RECORD_OVERHEAD: usize = 256;
/// What one read takes at least, however little room there is: a handshake message, a ticket.
const MIN_READ: usize = 4 << 10;
/// The content type of a handshake record (RFC 8446 5.1), with which every connection begins.
const HANDSHAKE: u8 = 22;

thread_local! {
    /// Shared by all sessions of a worker, so that an idle one holds no buffer.
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// The client speaks, but not TLS.
#[derive(Debug)]
pub(super) struct PlainHttp;

impl std::fmt::Display for PlainHttp {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the client speaks plain HTTP")
    }
}

impl std::error::Error for PlainHttp {}

/// Lives as long as its stream.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Connection,
    /// Came, and was not given to rustls yet: whoever reads has no room for what is in it.
    ahead: Vec<u8>,
    /// Ended the session behind bytes that were still good.
    failed: Option<io::Error>,
    has_heard: bool,
    has_parted: bool,
}

impl Session {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection,
            ahead: Vec::new(),
            failed: None,
            has_heard: false,
            has_parted: false,
        }
    }

    /// Ready when both sides are sure of each other. What failed is told to the peer, as far as it takes it.
    pub fn poll_handshake(&mut self, line: &Rc<RefCell<Line>>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.connection.is_handshaking() {
            // What the peer does not take now it takes while we wait for what it says.
            if let Poll::Ready(Err(error)) = self.poll_send(line, context) {
                return Poll::Ready(Err(error));
            }
            let shaken = READ_BUFFER.with_borrow_mut(|buffer| {
                let count = ready!(read(line, context, &mut buffer[..MIN_READ]))?;
                Poll::Ready(self.shake(&buffer[..count]))
            });
            if let Err(error) = ready!(shaken) {
                self.speak(line);
                return Poll::Ready(Err(error));
            }
        }
        // Tickets, or our last message; the first write would send them too.
        match self.poll_send(line, context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(self.check_age()),
        }
    }

    fn shake(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Some(first) = bytes.first() else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        if !self.has_heard && self.is_server() && *first != HANDSHAKE && first.is_ascii_uppercase() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, PlainHttp));
        }
        self.has_heard = true;
        while !bytes.is_empty() && self.connection.is_handshaking() {
            self.connection.read_tls(&mut bytes)?;
            self.connection.process_new_packets().map_err(broken)?;
        }
        self.ahead.extend_from_slice(bytes);
        Ok(())
    }

    /// A resumed session was verified when it was begun.
    fn check_age(&self) -> io::Result<()> {
        let resumed = self.is_server() && self.is_resumed();
        let shown = self.connection.peer_certificates().and_then(<[_]>::first);
        match shown {
            Some(shown) if resumed && !Server::is_current(shown, SystemTime::now()) => Err(broken(
                rustls::Error::InvalidCertificate(rustls::CertificateError::Expired),
            )),
            _ => Ok(()),
        }
    }

    /// Whether anything has come from the peer.
    pub fn has_heard(&self) -> bool {
        self.has_heard
    }

    pub fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    fn is_server(&self) -> bool {
        matches!(self.connection, Connection::Server(_))
    }

    /// What the handshake has told of the peer.
    pub fn facts(&self) -> Arc<Tls> {
        let server_name = match &self.connection {
            Connection::Server(server) => server.server_name().map(str::to_ascii_lowercase),
            Connection::Client(_) => None,
        };
        let shown = self.connection.peer_certificates().and_then(<[_]>::first);
        Arc::new(Tls {
            version: self.version(),
            server_name,
            alpn: self.alpn().map(|alpn| String::from_utf8_lossy(alpn).into_owned()),
            certificate: shown.map(certificate::of_client),
        })
    }

    pub fn version(&self) -> &'static str {
        match self.connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "",
        }
    }

    /// The protocol that was agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    pub fn poll_read(
        &mut self,
        line: &Rc<RefCell<Line>>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let room = buffer.remaining();
        if room == 0 {
            return Poll::Ready(Ok(()));
        }
        let ahead = std::mem::take(&mut self.ahead);
        self.decrypt(&ahead, buffer);
        while buffer.filled().len() == before {
            if let Some(end) = self.end() {
                return Poll::Ready(end);
            }
            let taken = READ_BUFFER.with_borrow_mut(|scratch| {
                let most = (room + RECORD_OVERHEAD).clamp(MIN_READ, SCRATCH);
                let count = ready!(read(line, context, &mut scratch[..most]))?;
                self.take(&scratch[..count], buffer);
                Poll::Ready(Ok::<(), io::Error>(()))
            });
            ready!(taken)?;
            self.speak(line);
        }
        Poll::Ready(Ok(()))
    }

    /// What came; nothing is the end.
    fn take(&mut self, bytes: &[u8], buffer: &mut ReadBuf<'_>) {
        if bytes.is_empty() {
            // rustls is told of the end by a read of nothing, and then tells whether it was a proper one.
            let _ = self.connection.read_tls(&mut io::empty());
        }
        self.decrypt(bytes, buffer);
    }

    /// Hands over what is in these bytes, as far as there is room.
    fn decrypt(&mut self, mut bytes: &[u8], buffer: &mut ReadBuf<'_>) {
        loop {
            self.hand_over(buffer);
            if bytes.is_empty() || buffer.remaining() == 0 || self.failed.is_some() {
                break;
            }
            match self.connection.read_tls(&mut bytes) {
                // Behind the peer's farewell nothing counts.
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => self.failed = Some(error),
            }
            if let Err(error) = self.connection.process_new_packets() {
                self.failed = Some(broken(error));
            }
        }
        self.ahead.extend_from_slice(bytes);
    }

    fn hand_over(&mut self, buffer: &mut ReadBuf<'_>) {
        let mut reader = self.connection.reader();
        while buffer.remaining() > 0 {
            let Ok(plain) = reader.fill_buf() else { return };
            if plain.is_empty() {
                return;
            }
            let count = plain.len().min(buffer.remaining());
            buffer.put_slice(&plain[..count]);
            reader.consume(count);
        }
    }

    /// How it ended, when nothing more will come. A client that leaves without a farewell is gone all the same; an
    /// upstream that does may have been cut off (RFC 9112 section 9.8).
    fn end(&mut self) -> Option<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        let is_server = self.is_server();
        match self.connection.reader().fill_buf() {
            Ok(_) => Some(Ok(())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) if is_server => Some(Ok(())),
            Err(error) => Some(Err(error)),
        }
    }

    /// As [`Stream::is_quiet`](crate::stream::Stream::is_quiet): tickets and other talk of TLS do not count.
    pub fn is_quiet(&mut self, line: &Rc<RefCell<Line>>) -> bool {
        let ahead = std::mem::take(&mut self.ahead);
        let quiet = READ_BUFFER.with_borrow_mut(|scratch| {
            let mut quiet = self.is_talk(&ahead);
            while quiet {
                let read = line.borrow().try_read(scratch);
                quiet = match read {
                    Ok(count) if count > 0 => self.is_talk(&scratch[..count]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Ok(_) | Err(_) => false,
                };
            }
            quiet
        });
        self.speak(line);
        quiet && self.end().is_none()
    }

    /// Whether there is nothing in it for whoever reads.
    fn is_talk(&mut self, bytes: &[u8]) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        self.decrypt(bytes, &mut buffer);
        buffer.filled().is_empty() && self.ahead.is_empty()
    }

    pub fn poll_write(
        &mut self,
        line: &Rc<RefCell<Line>>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(line, context))?;
        let taken = self.connection.writer().write_vectored(slices)?;
        // What the line does not take now goes before the next write.
        match self.poll_send(line, context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    /// Gives all records to the line.
    pub fn poll_send(&mut self, line: &Rc<RefCell<Line>>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            let mut outgoing = Outgoing {
                line,
                context: &mut *context,
            };
            match self.connection.write_tls(&mut outgoing) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Says what TLS itself has to say, as far as the line takes it now; that it broke is told by the next operation.
    fn speak(&mut self, line: &Rc<RefCell<Line>>) {
        if self.connection.wants_write() {
            let _ = self.poll_send(line, &mut Context::from_waker(Waker::noop()));
        }
    }

    /// Whether the line has all records.
    pub fn is_clear(&self) -> bool {
        !self.connection.wants_write()
    }

    /// Tells the peer that nothing more will come: what it has is whole.
    pub fn part(&mut self) {
        if !std::mem::replace(&mut self.has_parted, true) {
            self.connection.send_close_notify();
        }
    }

    /// The same at once, as far as the line takes it.
    pub fn part_now(&mut self, line: &Rc<RefCell<Line>>) {
        self.part();
        self.speak(line);
    }
}

fn read(line: &Rc<RefCell<Line>>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    ready!(line.borrow_mut().poll_read(context, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

/// The line as rustls writes to it.
struct Outgoing<'a, 'b> {
    line: &'a Rc<RefCell<Line>>,
    context: &'a mut Context<'b>,
}

impl Write for Outgoing<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match Line::poll_write(self.line, self.context, slices) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
