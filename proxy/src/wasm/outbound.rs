//! The guest's side of `tamis:filter/outbound`: what it may call, what it has called, and the answers that it is reading.
//!
//! Data plane. A guest runs on a fiber that may be parked, but must not hold anything of its worker, which belongs to
//! one thread: what it wants goes to the worker's desk and comes back through a channel.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, header};

use super::bindings::{Answer, AnswerHead, Call, CallError, Header};
use super::filter::Limits;
use crate::cluster::Cluster;
use crate::head;
use crate::outbound::{Desk, Failed, Incoming, Order};
use crate::permits::Permits;

/// What a filter is granted; shared by all its instances.
pub struct Granted {
    pub clusters: Vec<Arc<Cluster>>,
    /// Calls under way at once.
    pub permits: Arc<Permits>,
}

/// One guest's calls.
pub(super) struct Outbound {
    granted: Arc<Granted>,
    /// None while the filter is only tried.
    desk: Option<Desk>,
    /// In the present exchange.
    pub calls_left: u32,
    wall: Duration,
    body_bytes: usize,
    pub answers: HashMap<u32, Incoming>,
    next_id: u32,
}

impl Outbound {
    pub fn new(granted: &Arc<Granted>, desk: Option<&Desk>, limits: &Limits) -> Self {
        Self {
            granted: Arc::clone(granted),
            desk: desk.cloned(),
            calls_left: limits.outbound_calls,
            wall: limits.wall,
            body_bytes: limits.body_bytes,
            answers: HashMap::new(),
            next_id: 0,
        }
    }

    /// Gives the call to the worker. What comes back is awaited apart from the guest's state, which the guest's store
    /// keeps to itself.
    pub fn place(&mut self, call: Call) -> Result<Placed, CallError> {
        let cluster = self
            .granted
            .clusters
            .iter()
            .find(|cluster| cluster.name() == call.cluster);
        let cluster = Arc::clone(cluster.ok_or(CallError::NotGranted)?);
        let order = order(&call, cluster)?;
        let desk = self.desk.as_ref().ok_or(CallError::Unreachable)?;
        let permit = self.granted.permits.try_take().ok_or(CallError::TooMany)?;
        self.calls_left = self.calls_left.checked_sub(1).ok_or(CallError::TooMany)?;
        let timeout = call
            .timeout_ms
            .map_or(self.wall, |ms| Duration::from_millis(ms.into()).min(self.wall));
        Ok(Placed {
            answer: desk.place(order, call.body.into(), timeout, permit),
            body_bytes: self.body_bytes,
        })
    }

    /// Keeps an answer whose body the guest will read.
    pub fn keep(&mut self, answer: Incoming) -> AnswerHead {
        self.next_id = self.next_id.wrapping_add(1);
        let head = AnswerHead {
            id: self.next_id,
            status: answer.status.as_u16(),
            headers: Header::all_of(&answer.headers),
        };
        self.answers.insert(self.next_id, answer);
        head
    }
}

/// A call that is under way.
pub(super) struct Placed {
    answer: crate::outbound::Awaited,
    body_bytes: usize,
}

impl Placed {
    pub async fn head(self) -> Result<Incoming, CallError> {
        self.answer.head().await.map_err(CallError::from)
    }

    pub async fn whole(self) -> Result<Answer, CallError> {
        let limit = self.body_bytes;
        let mut answer = self.head().await?;
        let mut body = Vec::new();
        while let Some(piece) = answer.read().await.map_err(CallError::from)? {
            if body.len() + piece.len() > limit {
                return Err(CallError::TooLarge);
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer {
            status: answer.status.as_u16(),
            headers: Header::all_of(&answer.headers),
            body,
        })
    }
}

impl From<Failed> for CallError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::TimedOut => Self::TimedOut,
            Failed::Unreachable => Self::Unreachable,
            Failed::Broken => Self::Broken,
        }
    }
}

/// What a guest wants to send is held to the rules for what it writes into a head.
fn order(call: &Call, cluster: Arc<Cluster>) -> Result<Order, CallError> {
    let method = Method::from_bytes(call.method.as_bytes()).map_err(|_| CallError::Invalid)?;
    if method == Method::CONNECT || !head::is_target(&call.target) {
        return Err(CallError::Invalid);
    }
    let target = PathAndQuery::from_maybe_shared(Bytes::from(call.target.clone().into_bytes()));
    let authority = call.authority.as_deref().unwrap_or(cluster.name());
    let authority = crate::guard::check_authority(authority.as_bytes()).or_else(|_| {
        // A cluster's name need not be one that a host may have.
        match call.authority {
            Some(_) => Err(CallError::Invalid),
            None => Ok(HeaderValue::from_static("localhost")),
        }
    })?;
    let mut headers = HeaderMap::with_capacity(call.headers.len().min(head::MAX_FIELDS) + 4);
    headers.insert(header::HOST, authority);
    for field in &call.headers {
        head::writable(field.name.as_bytes(), &field.value)
            .and_then(|field| head::append(&mut headers, field))
            .map_err(|_| CallError::Invalid)?;
    }
    Ok(Order {
        cluster,
        method,
        target: target.map_err(|_| CallError::Invalid)?,
        headers,
    })
}
