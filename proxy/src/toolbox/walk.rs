//! One exchange through one filter: its hooks in the order of a proxy, on a message that comes from a script.
//!
//! Control plane. `passage` and `exchange` walk many filters with the worker's pools, deadlines and streams around
//! them; this walks one guest in hand, with bodies that are there already. Guest, message and checks are the same.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use crate::filter::{
    Admission, BodyVerdict, EndVerdict, Failure, HeldVerdict, Hook, Outcome, OverMax, Reply, RequestVerdict, Side,
    Verdict,
};
use crate::head::{Attributes, Clusters, Facts, Message, RequestHead, ResponseHead, Stage};
use crate::name::Name;
use crate::wasm::{self, Instance, Question};

/// What comes from outside in one exchange.
#[derive(Clone, Debug)]
pub struct Script {
    pub method: Method,
    pub scheme: &'static str,
    pub target: PathAndQuery,
    /// With exactly one `host`.
    pub headers: HeaderMap,
    pub client: std::net::SocketAddr,
    pub route: Option<String>,
    /// Those that the route names.
    pub clusters: Vec<String>,
    pub body: Vec<Bytes>,
    pub status: StatusCode,
    pub response_headers: HeaderMap,
    pub response_body: Vec<Bytes>,
}

/// What came of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The upstream would have got it.
    Proceeded,
    /// The filter answered.
    Replied,
    /// The body was longer than the filter wants to read.
    TooLarge,
    /// The filter gave up in the middle of the response's body.
    Cut,
    /// The connection hook refused the client.
    ConnectionRefused,
    Failed,
}

impl Ending {
    pub fn as_str(self) -> &'static str {
        match self {
            Ending::Proceeded => "proceed",
            Ending::Replied => "reply",
            Ending::TooLarge => "too-large",
            Ending::Cut => "cut",
            Ending::ConnectionRefused => "refuse-connection",
            Ending::Failed => "failure",
        }
    }
}

/// Why the exchange failed.
#[derive(Debug)]
pub struct Fault {
    pub hook: Hook,
    pub failure: Failure,
    pub detail: String,
}

#[derive(Debug)]
pub struct Seen {
    pub ending: Ending,
    pub fault: Option<Fault>,
    /// `None` only if it was lost to a bug of the host.
    pub message: Option<Box<Message>>,
    /// What the upstream would have got.
    pub request_body: Bytes,
    /// What the client would have got.
    pub response_body: Bytes,
    /// What each call took, in order.
    pub laps: Vec<(&'static str, Duration)>,
}

/// The filter's word on the client, and the attributes that its exchanges begin with.
pub async fn admit(
    filter: &wasm::Filter,
    instance: &mut Instance,
    script: &Script,
) -> Result<(Admission, Attributes), Fault> {
    let mut walk = Walk::begin(filter, instance, script, Attributes::default());
    walk.set_stage(Stage::Connection);
    let admission = walk.ask("on-connection", wasm::OnConnection).await?;
    let attributes = walk.home.map(|message| message.attributes).unwrap_or_default();
    Ok((admission, attributes))
}

/// A whole exchange. After a fault the instance must be dropped.
pub async fn exchange(filter: &wasm::Filter, instance: &mut Instance, script: &Script, attributes: Attributes) -> Seen {
    instance.begin_exchange(filter);
    let mut walk = Walk::begin(filter, instance, script, attributes);
    let (ending, fault) = match walk.run(script).await {
        Ok(ending) => (ending, None),
        Err(fault) => {
            walk.answer(StatusCode::INTERNAL_SERVER_ERROR, HeaderMap::new(), Bytes::new());
            (Ending::Failed, Some(fault))
        }
    };
    Seen {
        ending,
        fault,
        message: walk.home,
        request_body: walk.request_body,
        response_body: walk.response_body,
        laps: walk.laps,
    }
}

struct Walk<'a> {
    filter: &'a wasm::Filter,
    instance: &'a mut Instance,
    home: Option<Box<Message>>,
    cpu: Duration,
    request_body: Bytes,
    response_body: Bytes,
    laps: Vec<(&'static str, Duration)>,
}

/// What came of a body on its way past the filter.
enum Passed {
    Through(Bytes),
    Reply(Box<Reply>),
}

impl<'a> Walk<'a> {
    fn begin(filter: &'a wasm::Filter, instance: &'a mut Instance, script: &Script, attributes: Attributes) -> Self {
        Self {
            filter,
            instance,
            home: Some(Box::new(script.message(attributes))),
            cpu: Duration::ZERO,
            request_body: Bytes::new(),
            response_body: Bytes::new(),
            laps: Vec::new(),
        }
    }

    async fn run(&mut self, script: &Script) -> Result<Ending, Fault> {
        let mut ending = match self.request(script).await? {
            Step::On => Ending::Proceeded,
            Step::Answered(ending) => ending,
        };
        if ending == Ending::Proceeded {
            self.answer(
                script.status,
                script.response_headers.clone(),
                script.response_body.concat().into(),
            );
        }
        let pieces = match ending {
            Ending::Proceeded => script.response_body.clone(),
            _ => vec![self.response_body.clone()],
        };
        match self.response(&pieces).await? {
            Ending::Proceeded => {}
            own => ending = own,
        }
        self.complete(ending).await?;
        Ok(ending)
    }

    async fn request(&mut self, script: &Script) -> Result<Step, Fault> {
        self.request_body = script.body.concat().into();
        let mut pieces = script.body.clone();
        match self.ask("on-request-head", wasm::OnRequestHead).await? {
            RequestVerdict::Proceed => {}
            RequestVerdict::Reply(reply) => return Ok(self.reply(*reply)),
            RequestVerdict::ReadBody(wish) => {
                let complete = self.request_body.len() <= wish.max;
                if !complete && wish.over == OverMax::Refuse {
                    self.answer(StatusCode::PAYLOAD_TOO_LARGE, HeaderMap::new(), Bytes::new());
                    return Ok(Step::Answered(Ending::TooLarge));
                }
                let body = self.request_body.slice(..self.request_body.len().min(wish.max));
                let rest = self.request_body.slice(body.len()..);
                let held = wasm::OnHeldBody { body: &body, complete };
                match self.ask("on-held-body", held).await? {
                    HeldVerdict::Proceed => {}
                    HeldVerdict::Replace(bytes) => pieces = vec![bytes, rest],
                    HeldVerdict::Reply(reply) => return Ok(self.reply(*reply)),
                }
            }
        }
        self.set_stage(Stage::Sent);
        pieces.retain(|piece| !piece.is_empty());
        match self.body(Side::Request, &pieces).await? {
            Passed::Through(body) => self.request_body = body,
            Passed::Reply(reply) => return Ok(self.reply(*reply)),
        }
        Ok(Step::On)
    }

    /// The hooks on the response, whoever made it.
    async fn response(&mut self, pieces: &[Bytes]) -> Result<Ending, Fault> {
        self.set_stage(Stage::ResponseHead);
        if let Some(message) = &mut self.home {
            // What it meant was the request's body.
            message.passes_body = false;
        }
        if let Verdict::Reply(reply) = self.ask("on-response-head", wasm::OnResponseHead).await? {
            self.answer(reply.status, reply.headers, reply.body);
            self.set_stage(Stage::Answered);
            return Ok(Ending::Replied);
        }
        self.set_stage(Stage::Answered);
        let pieces: &[Bytes] = if self.has_response_body() { pieces } else { &[] };
        match self.body(Side::Response, pieces).await? {
            Passed::Through(body) => self.response_body = body,
            // The head is gone, so there is nothing else to send in its place.
            Passed::Reply(_) => return Ok(Ending::Cut),
        }
        Ok(Ending::Proceeded)
    }

    /// Only a body that is there passes the filter, and only if the filter wants to see it.
    async fn body(&mut self, side: Side, pieces: &[Bytes]) -> Result<Passed, Fault> {
        let (call, end) = match side {
            Side::Request => ("on-request-body", "on-request-end"),
            Side::Response => ("on-response-body", "on-response-end"),
        };
        let passes = self.home.as_ref().is_some_and(|message| message.passes_body);
        if passes || !self.filter.hooks().has(side.hook()) || pieces.iter().all(Bytes::is_empty) {
            return Ok(Passed::Through(pieces.concat().into()));
        }
        let mut through = Vec::new();
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            match self.ask(call, wasm::OnBody { side, piece }).await? {
                BodyVerdict::Keep => through.extend_from_slice(piece),
                BodyVerdict::Drop => {}
                BodyVerdict::Pieces(pieces) => pieces.iter().for_each(|piece| through.extend_from_slice(piece)),
                BodyVerdict::Reply(reply) => return Ok(Passed::Reply(reply)),
            }
        }
        match self.ask(end, wasm::OnEnd { side, trailers: None }).await? {
            EndVerdict::Keep => {}
            EndVerdict::Finish(ending) => through.extend_from_slice(&ending.data),
            EndVerdict::Reply(reply) => return Ok(Passed::Reply(reply)),
        }
        Ok(Passed::Through(through.into()))
    }

    async fn complete(&mut self, ending: Ending) -> Result<(), Fault> {
        let status = self.home.as_ref().and_then(|message| message.response.as_ref());
        let outcome = Outcome {
            status: status.map_or(0, |response| response.status.as_u16()),
            complete: ending != Ending::Cut,
            reason: None,
            request_bytes: self.request_body.len() as u64,
            response_bytes: self.response_body.len() as u64,
            duration: self.laps.iter().map(|(_, took)| *took).sum(),
            upstream: None,
            cluster: None,
            endpoint: None,
        };
        self.ask("on-completion", wasm::OnCompletion(outcome)).await
    }

    /// One hook, if the component has it, within what the exchange has left of processor time.
    async fn ask<Q: Question>(&mut self, call: &'static str, question: Q) -> Result<Q::Verdict, Fault> {
        let loan = wasm::Loan {
            home: &mut self.home,
            cpu: self.filter.exchange_cpu().saturating_sub(self.cpu),
        };
        let hook = question.hook();
        let since = Instant::now();
        let asked = self.instance.ask(question, loan, self.filter).await;
        let took = since.elapsed();
        if self.filter.hooks().has(hook) {
            self.cpu += self.instance.spent().computed(took);
            self.laps.push((call, took));
        }
        self.instance.take_metrics();
        asked.map_err(|(failure, detail)| Fault { hook, failure, detail })
    }

    fn reply(&mut self, reply: Reply) -> Step {
        self.answer(reply.status, reply.headers, reply.body);
        Step::Answered(Ending::Replied)
    }

    fn answer(&mut self, status: StatusCode, headers: HeaderMap, body: Bytes) {
        self.response_body = body;
        if let Some(message) = &mut self.home {
            message.response = Some(ResponseHead { status, headers });
        }
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(message) = &mut self.home {
            message.stage = stage;
        }
    }

    /// RFC 9112 6.3: some responses end with their head.
    fn has_response_body(&self) -> bool {
        let Some(message) = &self.home else { return false };
        let bare = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
        let status = message.response.as_ref().map(|response| response.status);
        message.request.method != Method::HEAD && !status.is_some_and(|status| bare.contains(&status))
    }
}

enum Step {
    On,
    Answered(Ending),
}

impl Script {
    fn message(&self, attributes: Attributes) -> Message {
        Message {
            request: RequestHead {
                method: self.method.clone(),
                scheme: self.scheme,
                target: self.target.clone(),
                version: Version::HTTP_11,
                headers: self.headers.clone(),
            },
            response: None,
            stage: Stage::Request,
            facts: Facts {
                client: Some(self.client),
                local: None,
                tls: None,
                listener: Name::new("test"),
                route: self.route.as_deref().map(Name::new),
                request_id: HeaderValue::from_static("test"),
            },
            attributes,
            clusters: Clusters::new(self.clusters.iter().map(|name| Name::new(name))),
            passes_body: false,
            client_request_id: None,
        }
    }
}

impl Seen {
    /// There was no exchange.
    pub fn without(ending: Ending, fault: Option<Fault>) -> Self {
        Self {
            ending,
            fault,
            message: None,
            request_body: Bytes::new(),
            response_body: Bytes::new(),
            laps: Vec::new(),
        }
    }
}
