//! Requests that guests make: from a guest's fiber to its worker, and the answer back.
//!
//! Data plane. A guest must hold nothing that belongs to its worker's thread, so its call crosses over as a value, is
//! performed in a task of the worker with the worker's own connections, and comes back piece by piece. Whoever drops
//! its end ends the call, and the connection with it. It knows nothing of wasm.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::body::RequestBody;
use crate::cluster::Cluster;
use crate::permits::Permit;
use crate::pool::{self, ClusterPool};
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
    body: Bytes,
    deadline: Instant,
    reply: oneshot::Sender<Result<Incoming, Failed>>,
    /// As many orders as there are permits; that bounds the desk too.
    permit: Permit,
}

/// An answer that is still to come.
pub struct Awaited(oneshot::Receiver<Result<Incoming, Failed>>);

/// An answer whose head is there.
#[derive(Debug)]
pub struct Incoming {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: mpsc::Receiver<Result<Bytes, Failed>>,
}

impl Desk {
    /// And the end at which the worker takes the orders.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Placed>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    pub fn place(&self, order: Order, body: Bytes, timeout: Duration, permit: Permit) -> Awaited {
        let (reply, awaited) = oneshot::channel();
        let deadline = Instant::now() + timeout;
        // A worker that has ended takes no more orders, and the answer says so.
        let _ = self.0.send(Placed {
            order,
            body,
            deadline,
            reply,
            permit,
        });
        Awaited(awaited)
    }
}

impl Awaited {
    pub async fn head(self) -> Result<Incoming, Failed> {
        self.0.await.unwrap_or(Err(Failed::Broken))
    }
}

impl Incoming {
    /// The next piece of the body; `None` at its end.
    pub async fn read(&mut self) -> Result<Option<Bytes>, Failed> {
        self.body.recv().await.transpose()
    }
}

/// Performs what guests order, each order in a task of its own.
pub async fn serve(worker: Rc<Worker>, mut orders: mpsc::UnboundedReceiver<Placed>) {
    while let Some(placed) = orders.recv().await {
        tokio::task::spawn_local(perform(Rc::clone(&worker), placed));
    }
}

/// What a call came to, before its deadline.
async fn perform(worker: Rc<Worker>, placed: Placed) {
    let Placed {
        order,
        body,
        deadline,
        mut reply,
        permit: _permit,
    } = placed;
    // A guest that is gone (its client left, its hook was ended) wants no answer, and its call ends here.
    let sent = tokio::select! {
        sent = tokio::time::timeout_at(deadline, send(&worker, order, body)) => sent.unwrap_or(Err(Failed::TimedOut)),
        () = reply.closed() => return,
    };
    let (response, answered) = match sent {
        Ok(sent) => sent,
        Err(failed) => {
            // Whoever asked may be gone by now.
            let _ = reply.send(Err(failed));
            return;
        }
    };
    let (parts, body) = response.into_parts();
    let (pieces, incoming) = mpsc::channel(PIECES);
    let head = Incoming {
        status: parts.status,
        headers: parts.headers,
        body: incoming,
    };
    if reply.send(Ok(head)).is_ok() {
        relay(body, answered, deadline, pieces).await;
    }
}

/// The call's place at its endpoint, and the connection that it used.
struct Answered {
    pool: Rc<ClusterPool>,
    endpoint: usize,
    connection: Option<pool::Connection>,
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.pool.turns.end(self.endpoint);
    }
}

async fn send(worker: &Worker, order: Order, body: Bytes) -> Result<(Response<hyper::body::Incoming>, Answered), Failed> {
    let pool = worker.upstreams(&order.cluster);
    let mut tried = None;
    let mut request = request(worker, order, body);
    loop {
        let endpoint = pool.turns.pick(pool.cluster.balancing, tried, || worker.random());
        let endpoint = endpoint.ok_or(Failed::Unreachable)?;
        pool.turns.begin(endpoint);
        let mut answered = Answered {
            pool: Rc::clone(&pool),
            endpoint,
            connection: None,
        };
        let connected = match pool.idle(endpoint) {
            Some(idle) => Ok(idle),
            None => pool.connect(endpoint).await,
        };
        let mut connection = match connected {
            Ok(connection) => connection,
            Err(error) => {
                worker.upstream_failed(&pool, endpoint, "connect_failed");
                tracing::debug!(cluster = pool.cluster.name, %error, "an outbound call found no way");
                match tried {
                    // Nothing was sent: another endpoint may have it, once.
                    None if pool.cluster.endpoints.len() > 1 => tried = Some(endpoint),
                    _ => return Err(Failed::Unreachable),
                }
                continue;
            }
        };
        let (reused, sent) = (connection.reused, Instant::now());
        match connection.sender.try_send_request(request).await {
            Ok(response) => {
                worker.upstream_answered(&pool, endpoint, response.status(), sent.elapsed());
                answered.connection = Some(connection);
                return Ok((response, answered));
            }
            Err(mut error) => match error.take_message() {
                // The peer closed an idle connection before it took anything of this request.
                Some(returned) if reused => request = returned,
                _ => {
                    worker.upstream_failed(&pool, endpoint, "reset");
                    return Err(Failed::Broken);
                }
            },
        }
    }
}

fn request(worker: &Worker, order: Order, body: Bytes) -> Request<RequestBody> {
    let body = if body.is_empty() {
        RequestBody::Empty
    } else {
        RequestBody::Full(body)
    };
    let mut request = Request::new(body);
    *request.method_mut() = order.method;
    *request.uri_mut() = Uri::from(order.target);
    *request.headers_mut() = order.headers;
    // A call that comes back to this process is a loop, found out like any other.
    worker.via.append(request.headers_mut());
    request
}

/// Hands the body over, piece by piece, as the guest takes it; then the connection can serve another call.
async fn relay(
    mut body: hyper::body::Incoming,
    mut answered: Answered,
    deadline: Instant,
    pieces: mpsc::Sender<Result<Bytes, Failed>>,
) {
    loop {
        let next = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let piece = tokio::select! {
            next = tokio::time::timeout_at(deadline, next) => match next {
                Err(_) => Err(Failed::TimedOut),
                Ok(Some(Err(_))) => Err(Failed::Broken),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(piece) => Ok(piece),
                    // Trailers are not handed on.
                    Err(_) => continue,
                },
                Ok(None) => break,
            },
            () = pieces.closed() => return,
        };
        let failed = piece.is_err();
        if pieces.send(piece).await.is_err() || failed {
            return;
        }
    }
    if let Some(connection) = answered.connection.take() {
        answered.pool.put_back(answered.endpoint, connection, Instant::now());
    }
}
