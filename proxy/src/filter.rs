//! The contract inside the host: what a filter may answer, how it may fail, and the trait of a native one.
//!
//! Data plane. A filter is native Rust behind [`Native`] or a component behind `wasm`; `chain` walks both alike. It
//! names no foreign crate but `http` and `bytes`, so that native filters, guests and tests share one vocabulary.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::head::Message;

/// What becomes of the exchange after the request's head.
#[derive(Debug)]
pub enum RequestVerdict {
    Proceed,
    Reply(Box<Reply>),
    /// The head is held until the filter has seen the body.
    ReadBody(ReadBody),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadBody {
    /// Bytes.
    pub max: usize,
    pub over: OverMax,
}

/// What becomes of a body that is longer than the filter wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverMax {
    /// 413.
    Refuse,
    /// The filter sees its beginning; the rest follows as it comes.
    Continue,
}

/// What becomes of the exchange after the response's head.
#[derive(Debug)]
pub enum Verdict {
    Proceed,
    Reply(Box<Reply>),
}

/// What becomes of a body that was held.
#[derive(Debug)]
pub enum HeldVerdict {
    Proceed,
    /// In place of what the filter saw.
    Replace(Bytes),
    Reply(Box<Reply>),
}

/// What becomes of a piece of a body.
#[derive(Debug)]
pub enum BodyVerdict {
    Keep,
    Drop,
    /// In its place, one after the other.
    Pieces(Vec<Bytes>),
    /// Ends the exchange; in a response's body, where the head is gone, by cutting the connection.
    Reply(Box<Reply>),
}

/// What becomes of the end of a body.
#[derive(Debug)]
pub enum EndVerdict {
    Keep,
    Finish(Ending),
    Reply(Box<Reply>),
}

#[derive(Debug)]
pub struct Ending {
    /// Goes before the end.
    pub data: Bytes,
    /// Replaces the trailers; `None` keeps them.
    pub trailers: Option<HeaderMap>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Accept,
    Refuse,
}

/// What a completion hook is told.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// 499 when the client left before there was an answer.
    pub status: u16,
    /// Whether the response was handed over whole.
    pub complete: bool,
    pub reason: Option<&'static str>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub duration: Duration,
    pub upstream: Option<Duration>,
    pub cluster: Option<String>,
    pub endpoint: Option<String>,
}

/// An answer in the upstream's place; boxed in verdicts, as it is seldom there and verdicts are handed on. Framing is the host's: no length, no transfer coding in here.
#[derive(Debug)]
pub struct Reply {
    /// 200 to 599.
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A point at which filters are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Connection,
    RequestHead,
    HeldBody,
    RequestBody,
    ResponseHead,
    ResponseBody,
    Completion,
    Tick,
}

impl Hook {
    pub const ALL: [Hook; 8] = [
        Hook::Connection,
        Hook::RequestHead,
        Hook::HeldBody,
        Hook::RequestBody,
        Hook::ResponseHead,
        Hook::ResponseBody,
        Hook::Completion,
        Hook::Tick,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Hook::Connection => "connection",
            Hook::RequestHead => "request_head",
            Hook::HeldBody => "held_body",
            Hook::RequestBody => "request_body",
            Hook::ResponseHead => "response_head",
            Hook::ResponseBody => "response_body",
            Hook::Completion => "completion",
            Hook::Tick => "tick",
        }
    }
}

/// Which body of the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

impl Side {
    /// Who sees that body, its end included.
    pub fn hook(self) -> Hook {
        match self {
            Side::Request => Hook::RequestBody,
            Side::Response => Hook::ResponseBody,
        }
    }
}

/// Some of the hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hooks(u8);

impl Hooks {
    pub fn has(self, hook: Hook) -> bool {
        self.0 & 1 << hook as u8 != 0
    }

    pub fn add(&mut self, hook: Hook) {
        self.0 |= 1 << hook as u8;
    }

    pub fn remove(&mut self, hook: Hook) {
        self.0 &= !(1 << hook as u8);
    }

    /// Those of `hooks` that are in here too.
    pub fn among(self, hooks: &[Hook]) -> Self {
        let mut found = Self::default();
        hooks
            .iter()
            .filter(|hook| self.has(**hook))
            .for_each(|hook| found.add(*hook));
        found
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn is_only(self, hook: Hook) -> bool {
        self.0 == 1 << hook as u8
    }
}

/// How a filter failed an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The guest trapped: unreachable code, out of bounds, stack overflow, memory that could not grow.
    Trap,
    /// The guest trapped after it was refused memory beyond `limits.memory`.
    Memory,
    /// Over `limits.cpu` in one hook, or over `limits.exchange_cpu` in all of them.
    Cpu,
    /// Over `limits.wall` in one hook.
    Wall,
    /// All `limits.instances` were busy for `limits.wait`, or the process has no room for another one.
    NoInstance,
    /// Not called: it has failed too often, and its breaker is open.
    Breaker,
    /// A new instance did not start, or its `configure` refused what an earlier one accepted.
    Start,
    /// A reply with a status or field that may not be sent.
    BadReply,
    /// `read-body` from a filter that does not export `held-body`.
    BadVerdict,
    /// A middleware came to its end without an answer, or ended a body of its own by an error.
    Silent,
}

impl Failure {
    pub fn as_str(self) -> &'static str {
        match self {
            Failure::Trap => "trap",
            Failure::Memory => "memory",
            Failure::Cpu => "cpu",
            Failure::Wall => "wall",
            Failure::NoInstance => "no_instance",
            Failure::Breaker => "breaker",
            Failure::Start => "start",
            Failure::BadReply => "bad_reply",
            Failure::BadVerdict => "bad_verdict",
            Failure::Silent => "silent",
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
    fn on_request_head(&self, _message: &mut Message) -> RequestVerdict {
        RequestVerdict::Proceed
    }

    /// Called only with a response in the message. The request's fields may be gone by then.
    fn on_response_head(&self, _message: &mut Message) -> Verdict {
        Verdict::Proceed
    }
}
