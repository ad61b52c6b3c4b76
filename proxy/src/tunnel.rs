//! A connection that has changed its protocol: bytes both ways, as they come, until both sides have ended.
//!
//! Data plane. Nothing looks into the bytes. Each side is read only when the other has taken what was read before, so that
//! back-pressure passes through, and what waits is at most one read for each direction; a tunnel that rests holds no
//! buffer. The end of one side is passed on as that, and the other direction goes on. It knows no HTTP, no clock and no
//! settings; deadlines are the exchange's.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one read takes; shared by all tunnels of a worker.
const READ: usize = 64 << 10;
/// Reads and writes of one direction before others have their turn: at most half a MiB.
const MAX_STEPS: usize = 16;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// Both directions. Lives from the change of protocol to the end of both connections.
pub struct Relay<C, U> {
    client: C,
    upstream: U,
    up: Flow,
    down: Flow,
}

/// How far a tunnel has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes from the client.
    pub received: u64,
    /// Bytes that the client has taken.
    pub sent: u64,
    /// Bytes that the upstream has sent and has taken.
    upstream: u64,
}

/// Whose connection broke.
#[derive(Debug)]
pub enum Broken {
    Client(io::Error),
    Upstream(io::Error),
}

/// One direction.
struct Flow {
    /// Read and not written yet.
    left: Bytes,
    course: Course,
    read: u64,
    written: u64,
}

enum Course {
    Open,
    /// No more will come, which the other side is to be told.
    Ending,
    Ended,
    /// The other side takes no more: what comes is read, so that this side can hear what it is told, and dropped.
    Unheard,
}

/// What broke one direction.
enum Fault {
    Reading(io::Error),
    Writing(io::Error),
}

impl<C, U> Relay<C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    /// `from_client` and `from_upstream` have been read already.
    pub fn new(client: C, upstream: U, from_client: Bytes, from_upstream: Bytes) -> Self {
        Self {
            client,
            upstream,
            up: Flow::new(from_client),
            down: Flow::new(from_upstream),
        }
    }

    /// Moves what can be moved. Ready when both sides have ended and know it of each other. An upstream that takes no more
    /// may still have said something: the client gets that, and what it sends meanwhile is dropped.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let up = match self.up.poll(&mut self.client, &mut self.upstream, context) {
            Poll::Ready(Err(Fault::Reading(error))) => return Poll::Ready(Err(Broken::Client(error))),
            Poll::Ready(Err(Fault::Writing(_))) => {
                self.up.drop_the_rest();
                self.up.poll(&mut self.client, &mut self.upstream, context)
            }
            up => up,
        };
        let up = up.map_err(|fault| match fault {
            Fault::Reading(error) | Fault::Writing(error) => Broken::Client(error),
        })?;
        let down = self.down.poll(&mut self.upstream, &mut self.client, context);
        let down = down.map_err(|fault| match fault {
            Fault::Reading(error) => Broken::Upstream(error),
            Fault::Writing(error) => Broken::Client(error),
        })?;
        match up.is_ready() && down.is_ready() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    pub fn progress(&self) -> Progress {
        Progress {
            received: self.up.read,
            sent: self.down.written,
            upstream: self.up.written + self.down.read,
        }
    }

    /// Whether all was said to a client that goes on speaking to nobody.
    pub fn is_said(&self) -> bool {
        matches!((&self.up.course, &self.down.course), (Course::Unheard, Course::Ended))
    }

    /// Whether something waits for the client to take it.
    pub fn waits_for_client(&self) -> bool {
        !self.down.left.is_empty()
    }
}

impl Flow {
    fn new(left: Bytes) -> Self {
        Self {
            read: left.len() as u64,
            left,
            course: Course::Open,
            written: 0,
        }
    }

    fn poll(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        for _ in 0..MAX_STEPS {
            if !self.left.is_empty() {
                let count = ready!(self.poll_write(&self.left, to, context))?;
                self.left.advance(count);
                self.written += count as u64;
                continue;
            }
            match self.course {
                Course::Open => {
                    if self.poll_pass(from, to, context)?.is_pending() {
                        // A failure of what was written last is told here.
                        let _ = Pin::new(to).poll_flush(context).map_err(Fault::Writing)?;
                        return Poll::Pending;
                    }
                }
                Course::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(context)).map_err(Fault::Writing)?;
                    self.course = Course::Ended;
                }
                Course::Ended => return Poll::Ready(Ok(())),
                Course::Unheard => ready!(self.poll_drop(from, context))?,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn drop_the_rest(&mut self) {
        self.left = Bytes::new();
        self.course = Course::Unheard;
    }

    fn poll_drop(&mut self, from: &mut (impl AsyncRead + Unpin), context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(from).poll_read(context, &mut buffer)).map_err(Fault::Reading)?;
            self.read += buffer.filled().len() as u64;
            if buffer.filled().is_empty() {
                self.course = Course::Ended;
            }
            Poll::Ready(Ok(()))
        })
    }

    /// One read, and as much of it written as the other side takes now.
    fn poll_pass(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(from).poll_read(context, &mut buffer)).map_err(Fault::Reading)?;
            let filled = buffer.filled();
            if filled.is_empty() {
                self.course = Course::Ending;
                return Poll::Ready(Ok(()));
            }
            self.read += filled.len() as u64;
            let count = match self.poll_write(filled, to, context)? {
                Poll::Ready(count) => count,
                Poll::Pending => 0,
            };
            self.written += count as u64;
            self.left = Bytes::copy_from_slice(&filled[count..]);
            Poll::Ready(Ok(()))
        })
    }

    fn poll_write(
        &self,
        bytes: &[u8],
        to: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<Result<usize, Fault>> {
        match ready!(Pin::new(to).poll_write(context, bytes)) {
            Ok(0) => Poll::Ready(Err(Fault::Writing(io::ErrorKind::WriteZero.into()))),
            written => Poll::Ready(written.map_err(Fault::Writing)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    /// Room in each pipe of a test.
    const PIPE: usize = 1 << 10;

    /// The far ends of client and upstream, and the relay between them.
    fn relay(
        ahead: &'static str,
        behind: &'static str,
    ) -> (DuplexStream, DuplexStream, Relay<DuplexStream, DuplexStream>) {
        let ((client, near), (upstream, far)) = (duplex(PIPE), duplex(PIPE));
        let relay = Relay::new(near, far, Bytes::from(ahead), Bytes::from(behind));
        (client, upstream, relay)
    }

    async fn drive(relay: &mut Relay<DuplexStream, DuplexStream>) -> Result<(), Broken> {
        poll_fn(|context| relay.poll(context)).await
    }

    async fn read_all(stream: &mut DuplexStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("text");
        text
    }

    #[tokio::test]
    async fn what_came_early_comes_first() {
        let (mut client, mut upstream, mut relay) = relay("early, ", "hello, ");
        client.write_all(b"late").await.expect("there is room");
        upstream.write_all(b"you").await.expect("there is room");
        client.shutdown().await.expect("shut down");
        upstream.shutdown().await.expect("shut down");
        drive(&mut relay).await.expect("both have ended");
        let progress = relay.progress();
        assert_eq!((progress.received, progress.sent), (11, 10));
        drop(relay);
        assert_eq!(read_all(&mut upstream).await, "early, late");
        assert_eq!(read_all(&mut client).await, "hello, you");
    }

    /// The one side has said all that it will; the other goes on.
    #[tokio::test]
    async fn the_end_of_one_side_is_passed_on() {
        let (mut client, mut upstream, mut relay) = relay("", "");
        client.write_all(b"question").await.expect("there is room");
        client.shutdown().await.expect("shut down");
        let answer = async {
            assert_eq!(read_all(&mut upstream).await, "question");
            upstream.write_all(b"answer").await.expect("there is room");
            upstream.shutdown().await.expect("shut down");
            read_all(&mut client).await
        };
        let (driven, answer) = tokio::join!(drive(&mut relay), answer);
        driven.expect("both have ended");
        assert_eq!(answer, "answer");
    }

    #[tokio::test]
    async fn no_more_is_read_than_the_other_side_takes() {
        let (mut client, mut upstream, mut relay) = relay("", "");
        let mut fed = 0;
        let stalled = poll_fn(|context| {
            while let Poll::Ready(written) = Pin::new(&mut upstream).poll_write(context, &[b'x'; 100]) {
                fed += written.expect("it is open");
                assert!(relay.poll(context).is_pending());
            }
            Poll::Ready(relay.waits_for_client())
        });
        assert!(stalled.await);
        // Two pipes and one read.
        assert!(fed <= 3 * PIPE, "{fed}");
        upstream.shutdown().await.expect("shut down");
        let mut text = Vec::new();
        let read = async {
            client.read_to_end(&mut text).await.expect("it ends");
            client.shutdown().await.expect("shut down");
        };
        let (driven, ()) = tokio::join!(drive(&mut relay), read);
        driven.expect("both have ended");
        assert_eq!(text.len(), fed);
    }

    /// A server that closes while the client still speaks: its last words arrive.
    #[tokio::test]
    async fn last_words_are_heard() {
        let (mut client, mut upstream, mut relay) = relay("", "");
        upstream.write_all(b"last words").await.expect("there is room");
        drop(upstream);
        client.write_all(b"to nobody").await.expect("there is room");
        let ending = async {
            assert_eq!(read_all(&mut client).await, "last words");
            client.write_all(b"still to nobody").await.expect("there is room");
            client.shutdown().await.expect("shut down");
        };
        let said = async {
            poll_fn(|context| match relay.poll(context) {
                Poll::Pending if relay.is_said() => Poll::Ready(Ok(())),
                polled => polled,
            })
            .await
            .expect("nothing broke");
            drive(&mut relay).await.expect("nothing broke");
        };
        tokio::join!(ending, said);
        assert_eq!(relay.progress().received, 24);
    }

    #[tokio::test]
    async fn whose_connection_broke_is_told() {
        let (client, mut upstream, mut relay) = relay("", "");
        drop(client);
        upstream.write_all(b"to nobody").await.expect("there is room");
        assert!(matches!(drive(&mut relay).await, Err(Broken::Client(_))));
    }
}
