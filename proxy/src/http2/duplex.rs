//! A stream that carries another protocol (RFC 8441): bytes both ways, as a [`tunnel`](crate::tunnel) has them.
//!
//! Data plane. The peer may send as much more as is read here, and is sent as much as it takes. Dropped before both sides
//! have ended, the stream is reset (CANCEL).

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client::{Slot, broken};
use super::session::Session;

pub struct Duplex {
    source: RecvStream,
    /// Taken from it, and not read yet.
    unread: Bytes,
    sink: SendStream<Bytes>,
    owner: Owner,
}

/// Whose connection it is on, which keeps account of frames; holds its place there.
pub(super) enum Owner {
    Client(Rc<Session>),
    Upstream(Slot),
}

impl Owner {
    fn earn_frame(&self, bytes: usize) {
        match self {
            Self::Client(session) => session.earn_frame(bytes),
            Self::Upstream(slot) => slot.client().earn_frame(bytes),
        }
    }
}

impl Duplex {
    pub(super) fn new(source: RecvStream, sink: SendStream<Bytes>, owner: Owner) -> Self {
        Self {
            source,
            unread: Bytes::new(),
            sink,
            owner,
        }
    }

    /// Tells the peer why there is no more.
    pub(super) fn reset(&mut self, reason: Reason) {
        self.sink.send_reset(reason);
    }
}

impl AsyncRead for Duplex {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // An empty frame is no end.
        while this.unread.is_empty() {
            match ready!(this.source.poll_data(context)) {
                Some(Ok(bytes)) => this.unread = bytes,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = this.unread.len().min(buffer.remaining());
        buffer.put_slice(&this.unread[..count]);
        this.unread.advance(count);
        // It fails only for more than there is.
        let _ = this.source.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.sink.reserve_capacity(bytes.len());
        let mut room = this.sink.capacity();
        while room == 0 {
            room = match ready!(this.sink.poll_capacity(context)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let count = room.min(bytes.len());
        let piece = Bytes::copy_from_slice(&bytes[..count]);
        this.sink.send_data(piece, false).map_err(broken)?;
        this.owner.earn_frame(count);
        Poll::Ready(Ok(count))
    }

    /// Fails when the peer has reset the stream since.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut().sink.poll_reset(context) {
            Poll::Ready(Ok(reason)) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                reason.description(),
            ))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(broken(error))),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.owner.earn_frame(0);
        Poll::Ready(this.sink.send_data(Bytes::new(), true).map_err(broken))
    }
}
