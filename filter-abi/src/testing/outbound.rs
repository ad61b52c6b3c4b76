//! The answers that a test has ready for outbound calls.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::outbound::{AnswerHead, Call, CallError};
use crate::{Reply, check_header, header};

/// What answers a call when nothing is queued.
pub(super) type Answering = Box<dyn FnMut(&Call) -> Result<Reply, CallError>>;
/// The pieces of an answer's body, as they come; an error is the last.
pub(super) type Pieces = VecDeque<Result<Vec<u8>, CallError>>;

/// An answer that stands ready.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) head: Result<Reply, CallError>,
    pub(super) pieces: Pieces,
}

impl Prepared {
    pub(super) fn whole(mut answer: Result<Reply, CallError>) -> Self {
        let body = answer.as_mut().map(|reply| std::mem::take(&mut reply.body));
        let pieces = body.into_iter().filter(|body| !body.is_empty()).map(Ok);
        Prepared {
            pieces: pieces.collect(),
            head: answer,
        }
    }
}

/// The clusters that the filter is granted, the calls that it has made, and those whose answers are still being read.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    pub(super) clusters: BTreeMap<String, Cluster>,
    pub(super) calls: Vec<Call>,
    pub(super) open: BTreeMap<u32, Pieces>,
    opened: u32,
}

#[derive(Default)]
pub(super) struct Cluster {
    pub(super) queue: VecDeque<Prepared>,
    /// None while it answers.
    pub(super) answering: Option<Answering>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.queue, formatter)
    }
}

impl Outbound {
    /// Notes an answer whose head was given and whose body will be read.
    pub(super) fn opened(&mut self, head: Reply, pieces: Pieces) -> AnswerHead {
        self.opened += 1;
        self.open.insert(self.opened, pieces);
        AnswerHead {
            id: self.opened,
            status: head.status,
            headers: head.headers,
        }
    }

    pub(super) fn read(&mut self, id: u32) -> Result<Option<Vec<u8>>, CallError> {
        self.open.get_mut(&id).and_then(VecDeque::pop_front).transpose()
    }
}

/// Whether the proxy could send it.
pub(super) fn check(call: &Call) -> Result<(), CallError> {
    let sendable = !call.method.is_empty()
        && call.method.bytes().all(header::is_token)
        && call.method != "CONNECT"
        && call.target.starts_with('/')
        && call.target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
        && call.authority.as_deref().is_none_or(is_authority)
        && call
            .headers
            .iter()
            .all(|header| check_header(&header.name, &header.value).is_ok());
    if sendable { Ok(()) } else { Err(CallError::Invalid) }
}

pub(super) fn is_authority(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}
