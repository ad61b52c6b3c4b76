//! Between the crate's types and the contract's, as `wit_bindgen` writes them.

use std::time::Duration;

use super::completion::exports::tamis::filter::completion::Outcome;
use super::connection::exports::tamis::filter::connection::Admission;
use super::types;
use crate::{BodyVerdict, EndVerdict, Header, HeldVerdict, Reply};

pub(super) fn headers(fields: Vec<types::Header>) -> Vec<Header> {
    let header = |field: types::Header| Header {
        name: field.name,
        value: field.value.into(),
    };
    fields.into_iter().map(header).collect()
}

pub(super) fn fields(headers: Vec<Header>) -> Vec<types::Header> {
    let field = |header: Header| types::Header {
        name: header.name,
        value: header.value.into_bytes(),
    };
    headers.into_iter().map(field).collect()
}

impl From<Reply> for types::Reply {
    fn from(reply: Reply) -> Self {
        types::Reply {
            status: reply.status,
            headers: fields(reply.headers),
            body: reply.body,
        }
    }
}

impl From<crate::Admission> for Admission {
    fn from(admission: crate::Admission) -> Self {
        match admission {
            crate::Admission::Accept => Admission::Accept,
            crate::Admission::Refuse => Admission::Refuse,
        }
    }
}

impl From<HeldVerdict> for types::HeldVerdict {
    fn from(verdict: HeldVerdict) -> Self {
        match verdict {
            HeldVerdict::Proceed => Self::Proceed,
            HeldVerdict::Replace(body) => Self::Replace(body),
            HeldVerdict::Reply(reply) => Self::Reply(reply.into()),
        }
    }
}

impl From<BodyVerdict> for types::BodyVerdict {
    fn from(verdict: BodyVerdict) -> Self {
        match verdict {
            BodyVerdict::Keep => Self::Keep,
            BodyVerdict::Drop => Self::Drop,
            BodyVerdict::Replace(data) => Self::Replace(data),
            BodyVerdict::Pieces(pieces) => Self::Pieces(pieces),
            BodyVerdict::Reply(reply) => Self::Reply(reply.into()),
        }
    }
}

impl From<EndVerdict> for types::EndVerdict {
    fn from(verdict: EndVerdict) -> Self {
        match verdict {
            EndVerdict::Keep => Self::Keep,
            EndVerdict::Finish { data, trailers } => Self::Finish(types::Ending {
                data,
                trailers: trailers.map(fields),
            }),
            EndVerdict::Reply(reply) => Self::Reply(reply.into()),
        }
    }
}

impl From<Outcome> for crate::Outcome {
    fn from(outcome: Outcome) -> Self {
        crate::Outcome {
            status: outcome.status,
            complete: outcome.complete,
            reason: outcome.reason,
            request_bytes: outcome.request_bytes,
            response_bytes: outcome.response_bytes,
            duration: Duration::from_micros(outcome.duration_us),
            upstream_duration: outcome.upstream_us.map(Duration::from_micros),
            cluster: outcome.cluster,
            endpoint: outcome.endpoint,
        }
    }
}
