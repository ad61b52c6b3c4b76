//! The contract inside the host: what a filter may answer, how it may fail, and the trait of a native one.
//!
//! Data plane. A filter is native Rust behind [`Native`] or a component behind `wasm`; `chain` walks both alike. It
//! names no foreign crate but `http` and `bytes`, so that native filters, guests and tests share one vocabulary.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::head::Message;

/// What becomes of the exchange after a head hook.
#[derive(Debug)]
pub enum Verdict {
    Proceed,
    Reply(Reply),
}

/// An answer in the upstream's place. Framing is the host's: no length, no transfer coding in here.
#[derive(Debug)]
pub struct Reply {
    /// 200 to 599.
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A point of the exchange at which filters are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    RequestHead,
    ResponseHead,
}

impl Hook {
    pub fn as_str(self) -> &'static str {
        match self {
            Hook::RequestHead => "request_head",
            Hook::ResponseHead => "response_head",
        }
    }
}

/// How a filter failed an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The guest trapped: unreachable code, out of bounds, stack overflow, memory that could not grow.
    Trap,
    /// The guest trapped after it was refused memory beyond `limits.memory`.
    Memory,
    /// Over `limits.cpu` in one hook.
    Cpu,
    /// Over `limits.wall` in one hook.
    Wall,
    /// All `limits.instances` were busy for `limits.wall`, or the process has no room for another one.
    NoInstance,
    /// A new instance did not start, or its `configure` refused what an earlier one accepted.
    Start,
    /// A reply with a status or field that may not be sent.
    BadReply,
}

impl Failure {
    pub fn as_str(self) -> &'static str {
        match self {
            Failure::Trap => "trap",
            Failure::Memory => "memory",
            Failure::Cpu => "cpu",
            Failure::Wall => "wall",
            Failure::NoInstance => "no_instance",
            Failure::Start => "start",
            Failure::BadReply => "bad_reply",
        }
    }
}

/// What a filter's failure means for its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnFailure {
    /// The exchange is answered with 500 or 503.
    Closed,
    /// The exchange goes on as if the filter were not there.
    Open,
}

impl OnFailure {
    pub fn as_str(self) -> &'static str {
        match self {
            OnFailure::Closed => "closed",
            OnFailure::Open => "open",
        }
    }
}

/// A filter in Rust, built into the proxy. Shared by all workers; state of an exchange goes into its attributes.
pub trait Native: Send + Sync {
    fn on_request_head(&self, _message: &mut Message) -> Verdict {
        Verdict::Proceed
    }

    /// Called only with a response in the message. The request's fields may be gone by then.
    fn on_response_head(&self, _message: &mut Message) -> Verdict {
        Verdict::Proceed
    }
}
