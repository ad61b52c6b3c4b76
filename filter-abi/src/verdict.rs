//! What a hook decides. Each kind of hook has its own closed set of decisions; a [`Reply`] is one of most, and becomes
//! any of them by `into()`.

use crate::{Header, Reply};

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is served.
    Accept,
    /// It is closed.
    Refuse,
}

/// What becomes of the exchange after the request's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestVerdict {
    /// Go on with the next filter.
    Proceed,
    /// Send this instead; no later filter and no upstream sees the request.
    Reply(Reply),
    /// Hold the head, collect the body, and call [`on_held_body`](crate::Filter::on_held_body).
    ReadBody {
        /// Bytes; no more than the filter's `limits.body_bytes`, which bounds it.
        max: u64,
        /// What becomes of a longer body.
        over: OverMax,
    },
}

/// What becomes of a body that is longer than `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverMax {
    /// The client gets 413, without the hook being called.
    Refuse,
    /// The hook gets what has come; the rest follows as it comes.
    Continue,
}

/// What becomes of a body that was held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeldVerdict {
    /// Go on, with the body as it came.
    Proceed,
    /// Go on, with this in place of what the hook got.
    Replace(Vec<u8>),
    /// Send this instead; no later filter and no upstream sees the request.
    Reply(Reply),
}

/// What becomes of the exchange after the response's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on with the next filter.
    Proceed,
    /// Send this instead of the whole response.
    Reply(Reply),
}

/// What becomes of a piece of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyVerdict {
    /// It goes on as it came; nothing is copied back.
    Keep,
    /// It goes no further.
    Drop,
    /// This goes on in its place.
    Replace(Vec<u8>),
    /// These go on in its place, one after the other.
    Pieces(Vec<Vec<u8>>),
    /// The exchange ends. The client gets this if no answer has begun; else its connection is cut, as after a failure.
    Reply(Reply),
}

/// What becomes of the end of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndVerdict {
    /// It goes on as it came.
    Keep,
    /// More bytes before the end, and other trailers.
    Finish {
        /// The last bytes of the body; may be empty.
        data: Vec<u8>,
        /// Replaces the trailers; none keeps them as they are.
        trailers: Option<Vec<Header>>,
    },
    /// As in [`BodyVerdict::Reply`].
    Reply(Reply),
}

impl EndVerdict {
    /// More bytes before the end; the trailers stay.
    pub fn with_data(data: impl Into<Vec<u8>>) -> Self {
        EndVerdict::Finish {
            data: data.into(),
            trailers: None,
        }
    }
}

/// A request hook and a response hook may share a function that gives the smaller verdict.
impl From<Verdict> for RequestVerdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Proceed => RequestVerdict::Proceed,
            Verdict::Reply(reply) => RequestVerdict::Reply(reply),
        }
    }
}

impl From<Reply> for RequestVerdict {
    fn from(reply: Reply) -> Self {
        RequestVerdict::Reply(reply)
    }
}

impl From<Reply> for HeldVerdict {
    fn from(reply: Reply) -> Self {
        HeldVerdict::Reply(reply)
    }
}

impl From<Reply> for Verdict {
    fn from(reply: Reply) -> Self {
        Verdict::Reply(reply)
    }
}

impl From<Reply> for BodyVerdict {
    fn from(reply: Reply) -> Self {
        BodyVerdict::Reply(reply)
    }
}

impl From<Reply> for EndVerdict {
    fn from(reply: Reply) -> Self {
        EndVerdict::Reply(reply)
    }
}
