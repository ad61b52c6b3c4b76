//! A copy of a request for another cluster, whose answer nobody waits for.
//!
//! Data plane. The copy is made of what passes on its way to the upstream, and waits in a bounded queue for a task of
//! the worker's own that sends it. Invariant: the exchange never waits for its copy, and nothing that becomes of the
//! copy shows in it. A mirror that is too slow loses the rest of the body, and with it its connection; it is never
//! tried again. It counts among the requests of its cluster like any other.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;

use crate::body::{self, BrokenUpload, RequestBody, UploadFault};
use crate::cluster::Asker;
use crate::h1::RequestLines;
use crate::pool::{self, ClusterPool, Turn, Unconnected};
use crate::upstream::{Call, Download, Failure};
use crate::worker::Worker;

/// Says to whoever gets a copy that it is one. Host and path are those of the request itself.
const MARK: HeaderName = HeaderName::from_static("x-tamis-mirror");
/// Where the route has no timeout: the time that an upstream has by default between two pieces.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Hundredths of a percent in the whole.
const WHOLE: u64 = 10_000;

/// A route's; lives as long as its generation.
#[derive(Clone, Copy, Debug)]
pub struct Mirror {
    /// Index into [`Snapshot::clusters`](crate::snapshot::Snapshot::clusters).
    pub cluster: usize,
    /// In hundredths of a percent.
    pub share: u32,
    /// Bytes of a body that may wait for the mirror.
    pub buffer: usize,
}

impl Mirror {
    /// Whether `draw`, a uniform number, falls into the share.
    pub fn takes(&self, draw: u64) -> bool {
        draw % WHOLE < u64::from(self.share)
    }
}

/// A request for a mirror.
pub struct Shadow {
    pub method: Method,
    pub target: PathAndQuery,
    pub headers: HeaderMap,
    pub via: HeaderValue,
    pub body: RequestBody,
    /// When there is no more of it to be had.
    pub cut: Option<Cut>,
    pub client: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    pub is_secure: bool,
    pub timeout: Option<Duration>,
}

/// What became of a copy; a word for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    NoEndpoint,
    Overload,
    ConnectFailed,
    /// It took the body too slowly, or the request itself broke off.
    Cut,
    Reset,
    TimedOut,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NoEndpoint => "no_endpoint",
            Self::Overload => "overload",
            Self::ConnectFailed => "connect_failed",
            Self::Cut => "cut",
            Self::Reset => "reset",
            Self::TimedOut => "timeout",
        }
    }
}

/// Sends a copy, reads its answer to the end, and counts what became of it.
pub async fn send(worker: Rc<Worker>, pool: Rc<ClusterPool>, mut shadow: Shadow) {
    shadow.headers.insert(MARK, HeaderValue::from_static("true"));
    let limit = shadow.timeout.unwrap_or(TIMEOUT);
    let cut = shadow.cut.take();
    let cut = async move {
        match cut {
            Some(cut) => cut.await,
            None => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        biased;
        sent = tokio::time::timeout(limit, exchange(&worker, &pool, shadow)) => sent.unwrap_or(Outcome::TimedOut),
        () = cut => Outcome::Cut,
    };
    worker.mirrored(pool.cluster.name(), outcome.as_str());
}

async fn exchange(worker: &Worker, pool: &ClusterPool, shadow: Shadow) -> Outcome {
    let turn = match pick(worker, pool, &shadow) {
        Ok(turn) => turn,
        Err(outcome) => return outcome,
    };
    let endpoint = turn.endpoint();
    let (mut body, mut repeats) = (shadow.body, 0);
    loop {
        let connected = match endpoint.ready() {
            Some(ready) => Ok(ready),
            None => endpoint.connect(pool, shadow.client, shadow.local, None).await,
        };
        let channel = match connected {
            Ok(channel) => channel,
            Err(Unconnected::Overload(_)) => return Outcome::Overload,
            Err(Unconnected::Failed(error)) => {
                if !pool::is_ours(&error) {
                    worker.upstream_failed(endpoint, "connect_failed");
                }
                return Outcome::ConnectFailed;
            }
        };
        worker.upstream_taken(endpoint, &channel);
        let lines = RequestLines {
            method: &shadow.method,
            target: &shadow.target,
            headers: &shadow.headers,
            via: &shadow.via,
        };
        let (may_repeat, since) = (channel.may_repeat(repeats), Instant::now());
        let mut call = Call::new(channel, &lines, body);
        match std::future::poll_fn(|context| call.poll_head(context)).await {
            Ok(head) => {
                worker.upstream_answered(endpoint, head.status, since.elapsed());
                return read(call.into_download(&head, Instant::now())).await;
            }
            // The peer closed an idle connection before it took anything of this request, or says that it took nothing.
            Err(Failure::Unsent) if may_repeat => {
                repeats += 1;
                body = call.into_body();
            }
            Err(Failure::Upload) => return Outcome::Cut,
            Err(_) => {
                worker.upstream_failed(endpoint, "upstream_reset");
                return Outcome::Reset;
            }
        }
    }
}

fn pick(worker: &Worker, pool: &ClusterPool, shadow: &Shadow) -> Result<Turn, Outcome> {
    let asker = Asker {
        client: shadow.client.map(|client| client.ip()),
        path: shadow.target.path(),
        headers: &shadow.headers,
        is_secure: shadow.is_secure,
    };
    let asker = pool.cluster.asks().then_some(&asker);
    let picked = pool.pick(asker, &[], || worker.random()).ok_or(Outcome::NoEndpoint)?;
    picked.endpoint.begin(None).ok_or(Outcome::Overload)
}

async fn read(mut body: Download) -> Outcome {
    loop {
        match std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            Some(Ok(_)) => {}
            Some(Err(Failure::Upload)) => return Outcome::Cut,
            Some(Err(_)) => return Outcome::Reset,
            None => return Outcome::Answered,
        }
    }
}

/// Splits a body: one to be sent as ever, and a copy of it, of which up to `buffer` bytes may wait.
pub fn split(body: RequestBody, buffer: usize) -> (RequestBody, RequestBody, Option<Cut>) {
    if body.is_empty() {
        return (RequestBody::Empty, RequestBody::Empty, None);
    }
    let queue = Rc::new(RefCell::new(Queue {
        pieces: VecDeque::new(),
        bytes: 0,
        buffer,
        state: State::Open,
        waker: None,
    }));
    let copied = Copied {
        left: body.size_hint().exact(),
        queue: Rc::clone(&queue),
    };
    let cut = Cut(Rc::clone(&queue));
    let teed = Teed { source: body, queue };
    (
        RequestBody::Teed(Box::new(teed)),
        RequestBody::Copied(Box::new(copied)),
        Some(cut),
    )
}

/// A body that is copied as it passes.
#[derive(Debug)]
pub struct Teed {
    source: RequestBody,
    queue: Rc<RefCell<Queue>>,
}

/// The copy.
#[derive(Debug)]
pub struct Copied {
    /// Of all of it, when that is known.
    left: Option<u64>,
    queue: Rc<RefCell<Queue>>,
}

/// Done when there is no more of a copy to be had. Whoever waits for a mirror to take a piece does not look for the
/// next one. For the task that has the copy.
#[derive(Debug)]
pub struct Cut(Rc<RefCell<Queue>>);

impl Future for Cut {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.0.borrow_mut();
        if queue.state == State::Cut {
            return Poll::Ready(());
        }
        queue.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[derive(Debug)]
struct Queue {
    pieces: VecDeque<Piece>,
    bytes: usize,
    buffer: usize,
    state: State,
    waker: Option<Waker>,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// All of it has passed.
    Ended,
    /// The rest is not to be had.
    Cut,
}

impl Teed {
    pub fn source(&self) -> &RequestBody {
        &self.source
    }

    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenUpload>>> {
        let polled = ready!(Pin::new(&mut self.source).poll_frame(context));
        let mut queue = self.queue.borrow_mut();
        match &polled {
            // Nobody takes the copy any more.
            _ if Rc::strong_count(&self.queue) == 1 => {}
            Some(Ok(frame)) => {
                queue.push(frame);
                // Whoever knows the length does not ask for the end.
                if frame.is_trailers() || self.source.is_end_stream() {
                    queue.close(State::Ended);
                }
            }
            Some(Err(_)) => queue.close(State::Cut),
            None => queue.close(State::Ended),
        }
        drop(queue);
        Poll::Ready(polled)
    }
}

impl Drop for Teed {
    /// What has not passed by now will not.
    fn drop(&mut self) {
        self.queue.borrow_mut().close(State::Cut);
    }
}

impl Copied {
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenUpload>>> {
        let mut queue = self.queue.borrow_mut();
        let Some(piece) = queue.pieces.pop_front() else {
            return match queue.state {
                State::Ended => Poll::Ready(None),
                State::Cut => Poll::Ready(Some(Err(BrokenUpload(UploadFault::Disconnected)))),
                State::Open => {
                    queue.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            };
        };
        Poll::Ready(Some(Ok(match piece {
            Piece::Data(bytes) => {
                queue.bytes -= bytes.len();
                self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                Frame::data(bytes)
            }
            Piece::Trailers(trailers) => Frame::trailers(trailers),
        })))
    }

    pub fn is_end_stream(&self) -> bool {
        let queue = self.queue.borrow();
        queue.pieces.is_empty() && queue.state == State::Ended
    }

    pub fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Queue {
    /// A single piece always finds room: what waits is bounded by the buffer and what one read gives.
    fn push(&mut self, frame: &Frame<Bytes>) {
        if self.state != State::Open {
            return;
        }
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(bytes), _) if self.is_full(bytes.len()) => {
                self.pieces.clear();
                return self.close(State::Cut);
            }
            (Some(bytes), _) => {
                self.bytes += bytes.len();
                Piece::Data(body::detached(bytes))
            }
            (None, Some(trailers)) => Piece::Trailers(trailers.clone()),
            (None, None) => return,
        };
        self.pieces.push_back(piece);
        self.wake();
    }

    fn is_full(&self, more: usize) -> bool {
        let pieces = self.pieces.len();
        pieces >= body::MAX_KEPT_PIECES || (pieces > 0 && self.bytes + more > self.buffer)
    }

    /// The first word stands.
    fn close(&mut self, state: State) {
        if self.state == State::Open {
            self.state = state;
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Polled = Poll<Option<Result<Bytes, UploadFault>>>;

    fn poll(body: &mut RequestBody) -> Polled {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(body).poll_frame(&mut context).map(|polled| {
            polled.map(|frame| match frame {
                Ok(frame) => Ok(frame.into_data().expect("data")),
                Err(BrokenUpload(fault)) => Err(fault),
            })
        })
    }

    fn data(text: &'static str) -> Polled {
        Poll::Ready(Some(Ok(Bytes::from_static(text.as_bytes()))))
    }

    /// In two pieces.
    fn source() -> RequestBody {
        let mut body = RequestBody::Full(Bytes::from_static(b"world"));
        body.put(Bytes::from_static(b"hello "), None);
        body
    }

    #[test]
    fn a_copy_is_as_long_and_comes_with_what_passes() {
        let (mut body, mut copy, _) = split(source(), 6);
        assert_eq!(
            (body.size_hint().exact(), copy.size_hint().exact()),
            (Some(11), Some(11))
        );
        assert_eq!(poll(&mut copy), Poll::Pending);
        assert_eq!(poll(&mut body), data("hello "));
        assert_eq!(poll(&mut copy), data("hello "));
        assert_eq!(poll(&mut copy), Poll::Pending);
        assert_eq!(poll(&mut body), data("world"));
        drop(body);
        assert_eq!(poll(&mut copy), data("world"));
        assert_eq!(poll(&mut copy), Poll::Ready(None));
    }

    #[test]
    fn a_slow_mirror_loses_the_rest_and_the_request_nothing() {
        let (mut body, mut copy, cut) = split(source(), 10);
        let mut cut = std::pin::pin!(cut.unwrap());
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(cut.as_mut().poll(&mut context), Poll::Pending);
        assert_eq!((poll(&mut body), poll(&mut body)), (data("hello "), data("world")));
        assert_eq!(cut.as_mut().poll(&mut context), Poll::Ready(()));
        assert_eq!(poll(&mut copy), Poll::Ready(Some(Err(UploadFault::Disconnected))));
        let (mut body, copy, cut) = split(source(), 10);
        drop((copy, cut));
        assert_eq!((poll(&mut body), poll(&mut body)), (data("hello "), data("world")));
        assert_eq!(poll(&mut body), Poll::Ready(None));
    }

    #[test]
    fn what_breaks_off_breaks_off_in_the_copy() {
        let (mut body, mut copy, _) = split(source(), 100);
        assert_eq!(poll(&mut body), data("hello "));
        drop(body);
        assert_eq!(poll(&mut copy), data("hello "));
        assert_eq!(poll(&mut copy), Poll::Ready(Some(Err(UploadFault::Disconnected))));
        let (body, copy, _) = split(RequestBody::Empty, 1);
        assert!(body.is_empty() && copy.is_empty());
    }

    #[test]
    fn a_share_is_drawn() {
        let mirror = |share| Mirror {
            cluster: 0,
            share,
            buffer: 0,
        };
        let taken = |share| (0..10_000).filter(|draw| mirror(share).takes(*draw)).count();
        assert_eq!([0, 1, 500, 10_000].map(taken), [0, 1, 500, 10_000]);
    }
}
