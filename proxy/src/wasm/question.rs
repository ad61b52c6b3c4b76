//! What a guest can be asked: its hooks, each with what it is given and what it answers.
//!
//! Data plane. Every question is a type, so that an answer cannot be mistaken for another's. What a guest answers is held
//! to the same rules as what it writes into a head. A run is pinned where it is made: an `await` would move it into its
//! place first, twice, which took 150 of the 8,400 instructions of a small hook.

use std::pin::pin;

use bytes::Bytes;
use http::HeaderMap;

use super::bindings::{self, Header};
use super::filter::Filter;
use super::instance::{BodyFunction, HeldFunction, Instance, Loan, Outcome};
use crate::filter::{
    self, Admission, BodyVerdict, EndVerdict, Ending, Failure, HeldVerdict, Hook, OverMax, ReadBody, Reply,
    RequestVerdict, Verdict,
};
use crate::head;

/// One hook with its arguments.
#[expect(async_fn_in_trait, reason = "workers are single threads; nothing of it is ever sent")]
pub trait Question {
    const HOOK: Hook;
    type Verdict;

    /// Asked of a component that does not export the hook, it answers as if it were not there.
    async fn ask(self, instance: &mut Instance, loan: Loan<'_>, filter: &Filter) -> Outcome<Self::Verdict>;
}

/// `on-connection`.
pub struct OnConnection;

impl Question for OnConnection {
    const HOOK: Hook = Hook::Connection;
    type Verdict = Admission;

    async fn ask(self, instance: &mut Instance, loan: Loan<'_>, filter: &Filter) -> Outcome<Admission> {
        let Some(function) = instance.functions.connection else {
            return Ok(Admission::Accept);
        };
        let (admission,) = pin!(instance.run(function, (), loan, filter)).await?;
        Ok(match admission {
            bindings::Admission::Accept => Admission::Accept,
            bindings::Admission::Refuse => Admission::Refuse,
        })
    }
}

/// `on-request-head`.
pub struct OnRequestHead;

impl Question for OnRequestHead {
    const HOOK: Hook = Hook::RequestHead;
    type Verdict = RequestVerdict;

    async fn ask(self, instance: &mut Instance, loan: Loan<'_>, filter: &Filter) -> Outcome<RequestVerdict> {
        let Some(function) = instance.functions.request_head else {
            return Ok(RequestVerdict::Proceed);
        };
        let (verdict,) = pin!(instance.run(function, (), loan, filter)).await?;
        match verdict {
            bindings::RequestVerdict::Proceed => Ok(RequestVerdict::Proceed),
            bindings::RequestVerdict::Reply(reply) => checked(reply, filter).map(RequestVerdict::Reply),
            bindings::RequestVerdict::ReadBody(_) if instance.functions.held_body.is_none() => {
                Err((Failure::BadVerdict, "read-body, without the export held-body".into()))
            }
            bindings::RequestVerdict::ReadBody(wish) => Ok(RequestVerdict::ReadBody(ReadBody {
                max: usize::try_from(wish.max)
                    .unwrap_or(usize::MAX)
                    .min(filter.limits.body_bytes),
                over: match wish.over {
                    bindings::OverMax::Refuse => OverMax::Refuse,
                    bindings::OverMax::Continue => OverMax::Continue,
                },
            })),
        }
    }
}

/// `on-held-body`.
pub struct OnHeldBody<'a> {
    pub body: &'a [u8],
    pub complete: bool,
}

impl Question for OnHeldBody<'_> {
    const HOOK: Hook = Hook::HeldBody;
    type Verdict = HeldVerdict;

    async fn ask(self, instance: &mut Instance, loan: Loan<'_>, filter: &Filter) -> Outcome<HeldVerdict> {
        let Some(function) = instance.functions.held_body else {
            return Ok(HeldVerdict::Proceed);
        };
        let function: HeldFunction = instance.typed(function)?;
        let (verdict,) = pin!(instance.run(function, (self.body, self.complete), loan, filter)).await?;
        match verdict {
            bindings::HeldVerdict::Proceed => Ok(HeldVerdict::Proceed),
            bindings::HeldVerdict::Replace(bytes) => Ok(HeldVerdict::Replace(bytes.into())),
            bindings::HeldVerdict::Reply(reply) => checked(reply, filter).map(HeldVerdict::Reply),
        }
    }
}

/// `on-request-body`.
pub struct OnRequestBody<'a>(pub &'a [u8]);

impl Question for OnRequestBody<'_> {
    const HOOK: Hook = Hook::RequestBody;
    type Verdict = BodyVerdict;

    async fn ask(self, instance: &mut Instance, loan: Loan<'_>, filter: &Filter) -> Outcome<BodyVerdict> {
        let function = instance.functions.request_body;
        chunk(function, self.0, instance, loan, filter).await
    }
}

/// `on-response-body`.
pub struct OnResponseBody<'a>(pub &'a [u8]);

impl Question for OnResponseBody<'_> {
    const HOOK: Hook = Hook::ResponseBody;
    type Verdict = BodyVerdict;

    async fn ask(self, instance: &mut Instance, loan: Loan<'_>, filter: &Filter) -> Outcome<BodyVerdict> {
        let function = instance.functions.response_body;
        chunk(function, self.0, instance, loan, filter).await
    }
}

async fn chunk(
    function: Option<wasmtime::component::Func>,
    bytes: &[u8],
    instance: &mut Instance,
    loan: Loan<'_>,
    filter: &Filter,
) -> Outcome<BodyVerdict> {
    let Some(function) = function else {
        return Ok(BodyVerdict::Keep);
    };
    let function: BodyFunction = instance.typed(function)?;
    let (verdict,) = pin!(instance.run(function, (bytes,), loan, filter)).await?;
    match verdict {
        bindings::BodyVerdict::Keep => Ok(BodyVerdict::Keep),
        bindings::BodyVerdict::Drop => Ok(BodyVerdict::Drop),
        bindings::BodyVerdict::Replace(bytes) => Ok(BodyVerdict::Pieces(vec![bytes.into()])),
        bindings::BodyVerdict::Pieces(pieces) => Ok(BodyVerdict::Pieces(pieces.into_iter().map(Bytes::from).collect())),
        bindings::BodyVerdict::Reply(reply) => checked(reply, filter).map(BodyVerdict::Reply),
    }
}

/// `on-request-end`.
pub struct OnRequestEnd<'a>(pub Option<&'a HeaderMap>);

impl Question for OnRequestEnd<'_> {
    const HOOK: Hook = Hook::RequestBody;
    type Verdict = EndVerdict;

    async fn ask(self, instance: &mut Instance, loan: Loan<'_>, filter: &Filter) -> Outcome<EndVerdict> {
        let function = instance.functions.request_end;
        end(function, self.0, instance, loan, filter).await
    }
}

/// `on-response-end`.
pub struct OnResponseEnd<'a>(pub Option<&'a HeaderMap>);

impl Question for OnResponseEnd<'_> {
    const HOOK: Hook = Hook::ResponseBody;
    type Verdict = EndVerdict;

    async fn ask(self, instance: &mut Instance, loan: Loan<'_>, filter: &Filter) -> Outcome<EndVerdict> {
        let function = instance.functions.response_end;
        end(function, self.0, instance, loan, filter).await
    }
}

async fn end(
    function: Option<super::instance::EndFunction>,
    trailers: Option<&HeaderMap>,
    instance: &mut Instance,
    loan: Loan<'_>,
    filter: &Filter,
) -> Outcome<EndVerdict> {
    let Some(function) = function else {
        return Ok(EndVerdict::Keep);
    };
    let trailers = trailers.map(Header::all_of).unwrap_or_default();
    let (verdict,) = pin!(instance.run(function, (trailers,), loan, filter)).await?;
    match verdict {
        bindings::EndVerdict::Keep => Ok(EndVerdict::Keep),
        bindings::EndVerdict::Finish(ending) => {
            let trailers = ending.trailers.map(|trailers| fields(&trailers, filter)).transpose();
            Ok(EndVerdict::Finish(Ending {
                data: ending.data.into(),
                trailers: trailers.map_err(|reason| (Failure::BadReply, reason))?,
            }))
        }
        bindings::EndVerdict::Reply(reply) => checked(reply, filter).map(EndVerdict::Reply),
    }
}

/// `on-response-head`.
pub struct OnResponseHead;

impl Question for OnResponseHead {
    const HOOK: Hook = Hook::ResponseHead;
    type Verdict = Verdict;

    async fn ask(self, instance: &mut Instance, loan: Loan<'_>, filter: &Filter) -> Outcome<Verdict> {
        let Some(function) = instance.functions.response_head else {
            return Ok(Verdict::Proceed);
        };
        let (verdict,) = pin!(instance.run(function, (), loan, filter)).await?;
        match verdict {
            bindings::Verdict::Proceed => Ok(Verdict::Proceed),
            bindings::Verdict::Reply(reply) => checked(reply, filter).map(Verdict::Reply),
        }
    }
}

/// `on-completion`.
pub struct OnCompletion(pub filter::Outcome);

impl Question for OnCompletion {
    const HOOK: Hook = Hook::Completion;
    type Verdict = ();

    async fn ask(self, instance: &mut Instance, loan: Loan<'_>, filter: &Filter) -> Outcome<()> {
        let Some(function) = instance.functions.completion else {
            return Ok(());
        };
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let outcome = bindings::Outcome {
            status: self.0.status,
            complete: self.0.complete,
            reason: self.0.reason.map(str::to_owned),
            request_bytes: self.0.request_bytes,
            response_bytes: self.0.response_bytes,
            duration_us: micros(self.0.duration),
            upstream_us: self.0.upstream.map(micros),
            cluster: self.0.cluster,
            endpoint: self.0.endpoint,
        };
        pin!(instance.run(function, (outcome,), loan, filter)).await
    }
}

/// `on-tick`.
pub struct OnTick;

impl Question for OnTick {
    const HOOK: Hook = Hook::Tick;
    type Verdict = ();

    async fn ask(self, instance: &mut Instance, loan: Loan<'_>, filter: &Filter) -> Outcome<()> {
        match instance.functions.tick {
            Some(function) => pin!(instance.run(function, (), loan, filter)).await,
            None => Ok(()),
        }
    }
}

fn checked(reply: bindings::Reply, filter: &Filter) -> Outcome<Box<Reply>> {
    let status = head::final_status(reply.status).map_err(|_| {
        (
            Failure::BadReply,
            format!("status {} cannot be a reply's", reply.status),
        )
    })?;
    let headers = fields(&reply.headers, filter).map_err(|reason| (Failure::BadReply, reason))?;
    Ok(Box::new(Reply {
        status,
        headers,
        body: Bytes::from(reply.body),
    }))
}

fn fields(fields: &[Header], filter: &Filter) -> Result<HeaderMap, String> {
    let written: usize = fields.iter().map(|field| field.name.len() + field.value.len()).sum();
    if written > filter.limits.header_bytes {
        return Err(format!("{written} bytes of fields, more than limits.header_bytes"));
    }
    let mut headers = HeaderMap::with_capacity(fields.len().min(head::MAX_FIELDS));
    for field in fields {
        head::writable(field.name.as_bytes(), &field.value)
            .and_then(|field| head::append(&mut headers, field))
            .map_err(|error| format!("field {:?} is refused: {error:?}", field.name))?;
    }
    Ok(headers)
}
