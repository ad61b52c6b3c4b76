//! What a guest can be asked: its hooks, each with what it is given and what it answers.
//!
//! Data plane. Every question is a type, so that an answer cannot be mistaken for another's. What a guest answers is held
//! to the same rules as what it writes into a head.

use bytes::Bytes;
use http::HeaderMap;
use wasmtime::component::{ComponentNamedList, Lift, Lower, TypedFunc};

use super::bindings::{self, Header};
use super::filter::Filter;
use super::instance::{Functions, Instance, Outcome};
use crate::filter::{
    self, Admission, BodyVerdict, EndVerdict, Ending, Failure, HeldVerdict, Hook, OverMax, ReadBody, Reply,
    RequestVerdict, Side, Verdict,
};
use crate::head;

/// One hook with its arguments.
pub trait Question: Sized {
    /// Of a component that does not export the hook.
    const UNASKED: Self::Verdict;
    type Verdict;
    /// What the guest's function takes and gives: a tuple each.
    type Given: ComponentNamedList + Lower + Send + Sync;
    type Answer: ComponentNamedList + Lift + Send + Sync + 'static;

    fn hook(&self) -> Hook;

    /// The guest's function, if it has one.
    fn function(&self, instance: &Instance) -> Outcome<Option<Function<Self>>>;

    fn given(self) -> Self::Given;

    /// Checks what the guest has answered.
    fn verdict(answer: Self::Answer, functions: &Functions, filter: &Filter) -> Outcome<Self::Verdict>;
}

pub type Function<Q> = TypedFunc<<Q as Question>::Given, <Q as Question>::Answer>;

/// `on-connection`.
pub struct OnConnection;

impl Question for OnConnection {
    const UNASKED: Admission = Admission::Accept;
    type Verdict = Admission;
    type Given = ();
    type Answer = (bindings::Admission,);

    fn hook(&self) -> Hook {
        Hook::Connection
    }

    fn function(&self, instance: &Instance) -> Outcome<Option<Function<Self>>> {
        Ok(instance.functions.connection)
    }

    fn given(self) {}

    fn verdict((admission,): Self::Answer, _: &Functions, _: &Filter) -> Outcome<Admission> {
        Ok(match admission {
            bindings::Admission::Accept => Admission::Accept,
            bindings::Admission::Refuse => Admission::Refuse,
        })
    }
}

/// `on-request-head`.
pub struct OnRequestHead;

impl Question for OnRequestHead {
    const UNASKED: RequestVerdict = RequestVerdict::Proceed;
    type Verdict = RequestVerdict;
    type Given = ();
    type Answer = (bindings::RequestVerdict,);

    fn hook(&self) -> Hook {
        Hook::RequestHead
    }

    fn function(&self, instance: &Instance) -> Outcome<Option<Function<Self>>> {
        Ok(instance.functions.request_head)
    }

    fn given(self) {}

    fn verdict((verdict,): Self::Answer, functions: &Functions, filter: &Filter) -> Outcome<RequestVerdict> {
        match verdict {
            bindings::RequestVerdict::Proceed => Ok(RequestVerdict::Proceed),
            bindings::RequestVerdict::Reply(reply) => checked(reply, filter).map(RequestVerdict::Reply),
            bindings::RequestVerdict::ReadBody(_) if functions.held_body.is_none() => {
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

impl<'a> Question for OnHeldBody<'a> {
    const UNASKED: HeldVerdict = HeldVerdict::Proceed;
    type Verdict = HeldVerdict;
    type Given = (&'a [u8], bool);
    type Answer = (bindings::HeldVerdict,);

    fn hook(&self) -> Hook {
        Hook::HeldBody
    }

    fn function(&self, instance: &Instance) -> Outcome<Option<Function<Self>>> {
        instance
            .functions
            .held_body
            .map(|function| instance.typed(function))
            .transpose()
    }

    fn given(self) -> Self::Given {
        (self.body, self.complete)
    }

    fn verdict((verdict,): Self::Answer, _: &Functions, filter: &Filter) -> Outcome<HeldVerdict> {
        match verdict {
            bindings::HeldVerdict::Proceed => Ok(HeldVerdict::Proceed),
            bindings::HeldVerdict::Replace(bytes) => Ok(HeldVerdict::Replace(bytes.into())),
            bindings::HeldVerdict::Reply(reply) => checked(reply, filter).map(HeldVerdict::Reply),
        }
    }
}

/// `on-request-body` or `on-response-body`.
pub struct OnBody<'a> {
    pub side: Side,
    pub piece: &'a [u8],
}

impl<'a> Question for OnBody<'a> {
    const UNASKED: BodyVerdict = BodyVerdict::Keep;
    type Verdict = BodyVerdict;
    type Given = (&'a [u8],);
    type Answer = (bindings::BodyVerdict,);

    fn hook(&self) -> Hook {
        self.side.hook()
    }

    fn function(&self, instance: &Instance) -> Outcome<Option<Function<Self>>> {
        let function = match self.side {
            Side::Request => instance.functions.request_body,
            Side::Response => instance.functions.response_body,
        };
        function.map(|function| instance.typed(function)).transpose()
    }

    fn given(self) -> Self::Given {
        (self.piece,)
    }

    fn verdict((verdict,): Self::Answer, _: &Functions, filter: &Filter) -> Outcome<BodyVerdict> {
        match verdict {
            bindings::BodyVerdict::Keep => Ok(BodyVerdict::Keep),
            bindings::BodyVerdict::Drop => Ok(BodyVerdict::Drop),
            bindings::BodyVerdict::Replace(bytes) => Ok(BodyVerdict::Pieces(vec![bytes.into()])),
            bindings::BodyVerdict::Pieces(pieces) => {
                Ok(BodyVerdict::Pieces(pieces.into_iter().map(Bytes::from).collect()))
            }
            bindings::BodyVerdict::Reply(reply) => checked(reply, filter).map(BodyVerdict::Reply),
        }
    }
}

/// `on-request-end` or `on-response-end`.
pub struct OnEnd<'a> {
    pub side: Side,
    pub trailers: Option<&'a HeaderMap>,
}

impl Question for OnEnd<'_> {
    const UNASKED: EndVerdict = EndVerdict::Keep;
    type Verdict = EndVerdict;
    type Given = (Vec<Header>,);
    type Answer = (bindings::EndVerdict,);

    fn hook(&self) -> Hook {
        self.side.hook()
    }

    fn function(&self, instance: &Instance) -> Outcome<Option<Function<Self>>> {
        Ok(match self.side {
            Side::Request => instance.functions.request_end,
            Side::Response => instance.functions.response_end,
        })
    }

    fn given(self) -> Self::Given {
        (self.trailers.map(Header::all_of).unwrap_or_default(),)
    }

    fn verdict((verdict,): Self::Answer, _: &Functions, filter: &Filter) -> Outcome<EndVerdict> {
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
}

/// `on-response-head`.
pub struct OnResponseHead;

impl Question for OnResponseHead {
    const UNASKED: Verdict = Verdict::Proceed;
    type Verdict = Verdict;
    type Given = ();
    type Answer = (bindings::Verdict,);

    fn hook(&self) -> Hook {
        Hook::ResponseHead
    }

    fn function(&self, instance: &Instance) -> Outcome<Option<Function<Self>>> {
        Ok(instance.functions.response_head)
    }

    fn given(self) {}

    fn verdict((verdict,): Self::Answer, _: &Functions, filter: &Filter) -> Outcome<Verdict> {
        match verdict {
            bindings::Verdict::Proceed => Ok(Verdict::Proceed),
            bindings::Verdict::Reply(reply) => checked(reply, filter).map(Verdict::Reply),
        }
    }
}

/// `on-completion`.
pub struct OnCompletion(pub filter::Outcome);

impl Question for OnCompletion {
    const UNASKED: () = ();
    type Verdict = ();
    type Given = (bindings::Outcome,);
    type Answer = ();

    fn hook(&self) -> Hook {
        Hook::Completion
    }

    fn function(&self, instance: &Instance) -> Outcome<Option<Function<Self>>> {
        Ok(instance.functions.completion)
    }

    fn given(self) -> Self::Given {
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        (bindings::Outcome {
            status: self.0.status,
            complete: self.0.complete,
            reason: self.0.reason.map(str::to_owned),
            request_bytes: self.0.request_bytes,
            response_bytes: self.0.response_bytes,
            duration_us: micros(self.0.duration),
            upstream_us: self.0.upstream.map(micros),
            cluster: self.0.cluster,
            endpoint: self.0.endpoint,
        },)
    }

    fn verdict((): (), _: &Functions, _: &Filter) -> Outcome<()> {
        Ok(())
    }
}

/// `on-tick`.
pub struct OnTick;

impl Question for OnTick {
    const UNASKED: () = ();
    type Verdict = ();
    type Given = ();
    type Answer = ();

    fn hook(&self) -> Hook {
        Hook::Tick
    }

    fn function(&self, instance: &Instance) -> Outcome<Option<Function<Self>>> {
        Ok(instance.functions.tick)
    }

    fn given(self) {}

    fn verdict((): (), _: &Functions, _: &Filter) -> Outcome<()> {
        Ok(())
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
