//! Requests that guests make: from a guest's fiber to its worker, and the answer back.
//!
//! Data plane. A guest must hold nothing that belongs to its worker's thread, so its call crosses over as a value, is
//! performed in a task of the worker with the worker's own connections, and comes back piece by piece. Whoever drops
//! its end ends the call, and the connection with it. It knows nothing of wasm.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body as _, Frame};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::body::{Made, RequestBody};
use crate::cluster::{Asker, Cluster};
use crate::h1::{Head, RequestLines};
use crate::permits::Permit;
use crate::pool::{self, ClusterPool, Turn, Unconnected};
use crate::upstream::{Call, Download, Failure};
use crate::worker::Worker;

/// Pieces of an answer that wait for the guest; further ones wait in the kernel.
const PIECES: usize = 2;

/// What to send, beside the body. The fields are those that may be sent, `host` among them.
#[derive(Debug)]
pub struct Order {
    pub cluster: Arc<Cluster>,
    pub method: Method,
    pub target: PathAndQuery,
    pub headers: HeaderMap,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    TimedOut,
    /// Nothing of it was processed.
    Unreachable,
    Broken,
}

/// Where guests leave their orders; one for each worker.
#[derive(Clone)]
pub struct Desk(mpsc::UnboundedSender<Placed>);

/// An order with what belongs to it.
pub struct Placed {
    order: Order,
    body: Body,
    patience: Patience,
    reply: oneshot::Sender<Result<Incoming, Failed>>,
    /// As many orders as there are permits; that bounds the desk too.
    permit: Permit,
}

/// What is sent along.
enum Body {
    Whole(Bytes),
    Streamed(Box<Made>),
}

/// How long a call may take.
#[derive(Clone, Copy)]
enum Patience {
    /// For all of it.
    Until(Instant),
    /// For the head, and then for each piece of the body.
    Each(Duration),
}

impl Patience {
    fn deadline(self) -> Instant {
        match self {
            Self::Until(deadline) => deadline,
            Self::Each(period) => Instant::now() + period,
        }
    }
}

/// An answer that is still to come.
pub struct Awaited(oneshot::Receiver<Result<Incoming, Failed>>);

/// An answer whose head is there.
#[derive(Debug)]
pub struct Incoming {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: mpsc::Receiver<Result<Frame<Bytes>, Failed>>,
}

impl Desk {
    /// And the end at which the worker takes the orders.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Placed>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    pub fn place(&self, order: Order, body: Bytes, timeout: Duration, permit: Permit) -> Awaited {
        let patience = Patience::Until(Instant::now() + timeout);
        self.send(order, Body::Whole(body), patience, permit)
    }

    /// The same with a body that streams, as the answer's does, each piece within the timeout.
    pub fn place_streamed(&self, order: Order, body: Made, timeout: Duration, permit: Permit) -> Awaited {
        self.send(order, Body::Streamed(Box::new(body)), Patience::Each(timeout), permit)
    }

    fn send(&self, order: Order, body: Body, patience: Patience, permit: Permit) -> Awaited {
        let (reply, awaited) = oneshot::channel();
        // A worker that has ended takes no more orders, and the answer says so.
        let _ = self.0.send(Placed {
            order,
            body,
            patience,
            reply,
            permit,
        });
        Awaited(awaited)
    }
}

impl Placed {
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// Empty for one that streams.
    pub fn body(&self) -> &[u8] {
        match &self.body {
            Body::Whole(bytes) => bytes,
            Body::Streamed(_) => &[],
        }
    }

    /// Answers in the cluster's place, for whoever has no connections.
    pub fn answer(self, answer: Result<Given, Failed>) {
        let (pieces, incoming) = mpsc::channel(PIECES);
        let head = answer.map(|given| {
            if !given.body.is_empty() {
                // There is room for it, and whoever reads is still to come.
                let _ = pieces.try_send(Ok(Frame::data(given.body)));
            }
            Incoming {
                status: given.status,
                headers: given.headers,
                body: incoming,
            }
        });
        // Whoever asked may be gone by now.
        let _ = self.reply.send(head);
    }
}

/// An answer that was there before the call.
#[derive(Clone, Debug)]
pub struct Given {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Awaited {
    pub async fn head(self) -> Result<Incoming, Failed> {
        self.0.await.unwrap_or(Err(Failed::Broken))
    }
}

impl Incoming {
    /// The next piece of the body; `None` at its end. Trailers are left out.
    pub async fn read(&mut self) -> Result<Option<Bytes>, Failed> {
        while let Some(frame) = self.body.recv().await.transpose()? {
            if let Ok(piece) = frame.into_data() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// The next piece of the body, or its trailers.
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        self.body.poll_recv(context)
    }
}

/// Methods whose requests seldom have a body, so that an empty one would say another thing than none.
const BARE: [Method; 5] = [
    Method::GET,
    Method::HEAD,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
];

/// Performs what guests order, each order in a task of its own.
pub async fn serve(worker: Rc<Worker>, mut orders: mpsc::UnboundedReceiver<Placed>) {
    while let Some(placed) = orders.recv().await {
        tokio::task::spawn_local(perform(Rc::clone(&worker), placed));
    }
}

/// Performs one order, unless nobody waits for it any more: its client left, or its hook was ended.
async fn perform(worker: Rc<Worker>, placed: Placed) {
    let Placed {
        order,
        body,
        patience,
        mut reply,
        permit: _permit,
    } = placed;
    let body = match body {
        Body::Whole(bytes) if bytes.is_empty() => RequestBody::Empty,
        Body::Whole(bytes) => RequestBody::Full(bytes),
        Body::Streamed(made) if made.is_end_stream() => RequestBody::Empty,
        Body::Streamed(made) => RequestBody::Made(made),
    };
    let sent = tokio::select! {
        sent = tokio::time::timeout_at(patience.deadline(), send(&worker, &order, body)) => sent.unwrap_or(Err(Failed::TimedOut)),
        () = reply.closed() => return,
    };
    let (head, answer) = match sent {
        Ok(sent) => sent,
        Err(failed) => {
            // Whoever asked may be gone by now.
            let _ = reply.send(Err(failed));
            return;
        }
    };
    let (pieces, incoming) = mpsc::channel(PIECES);
    let head = Incoming {
        status: head.status,
        headers: head.headers,
        body: incoming,
    };
    if reply.send(Ok(head)).is_ok() {
        relay(answer, patience, pieces).await;
    }
}

/// An answer's body, and the call's place at its endpoint.
struct Answer {
    body: Download,
    _turn: Turn,
}

async fn send(worker: &Worker, order: &Order, mut body: RequestBody) -> Result<(Head, Answer), Failed> {
    let pool = worker.upstreams(&order.cluster);
    if BARE.contains(&order.method) {
        // Guests make bodies of streams, also where there are none.
        let begun = std::future::poll_fn(|context| body.poll_begin(context)).await;
        begun.map_err(|_| Failed::Broken)?;
    }
    let (mut tried, mut repeats) = (Vec::new(), 0);
    loop {
        let turn = pick(worker, &pool, order, &tried).ok_or(Failed::Unreachable)?;
        let endpoint = turn.endpoint();
        let connected = match endpoint.ready() {
            Some(ready) => Ok(ready),
            // No client asks, but the guest.
            None => endpoint.connect(&pool, None, None, None).await,
        };
        let channel = match connected {
            Ok(channel) => channel,
            Err(Unconnected::Overload(_)) => return Err(Failed::Unreachable),
            Err(Unconnected::Failed(error)) => {
                if !pool::is_ours(&error) {
                    worker.upstream_failed(endpoint, "connect_failed");
                }
                tracing::debug!(cluster = pool.cluster.name(), %error, "an outbound call found no way");
                // Nothing was sent: another endpoint may have it, once.
                if !tried.is_empty() {
                    return Err(Failed::Unreachable);
                }
                tried.push(endpoint.endpoint.id());
                continue;
            }
        };
        worker.upstream_taken(endpoint, &channel);
        let (may_repeat, since) = (channel.may_repeat(repeats), Instant::now());
        let mut call = Call::new(channel, &lines(worker, order), body);
        match std::future::poll_fn(|context| call.poll_head(context)).await {
            Ok(head) => {
                worker.upstream_answered(endpoint, head.status, since.elapsed());
                let body = call.into_download(&head, Instant::now());
                return Ok((head, Answer { body, _turn: turn }));
            }
            // The peer closed an idle connection before it took anything of this request, or says that it took nothing.
            Err(Failure::Unsent) if may_repeat => {
                repeats += 1;
                body = call.into_body();
            }
            Err(failure) => {
                if !matches!(failure, Failure::Worn) {
                    worker.upstream_failed(endpoint, "upstream_reset");
                }
                tracing::debug!(cluster = pool.cluster.name(), %failure, "an outbound call broke off");
                return Err(Failed::Broken);
            }
        }
    }
}

/// An endpoint for the call; a guest keeps no cookies but its own.
fn pick(worker: &Worker, pool: &ClusterPool, order: &Order, tried: &[u64]) -> Option<Turn> {
    let asker = Asker {
        client: None,
        path: order.target.path(),
        headers: &order.headers,
        is_secure: false,
    };
    let asker = pool.cluster.asks().then_some(&asker);
    pool.pick(asker, tried, || worker.random())?.endpoint.begin(None)
}

/// A call that comes back to this process is a loop, found out by its Via field like any other.
fn lines<'a>(worker: &'a Worker, order: &'a Order) -> RequestLines<'a> {
    RequestLines {
        method: &order.method,
        target: &order.target,
        headers: &order.headers,
        via: worker.via.entry(http::Version::HTTP_11),
    }
}

/// Hands the body over, piece by piece, as the guest takes it.
async fn relay(mut answer: Answer, patience: Patience, pieces: mpsc::Sender<Result<Frame<Bytes>, Failed>>) {
    loop {
        let next = std::future::poll_fn(|context| Pin::new(&mut answer.body).poll_frame(context));
        let piece = tokio::select! {
            next = tokio::time::timeout_at(patience.deadline(), next) => match next {
                Err(_) => Err(Failed::TimedOut),
                Ok(None) => return,
                Ok(Some(Err(_))) => Err(Failed::Broken),
                Ok(Some(Ok(frame))) => Ok(frame),
            },
            () = pieces.closed() => return,
        };
        let failed = piece.is_err();
        if pieces.send(piece).await.is_err() || failed {
            return;
        }
    }
}
