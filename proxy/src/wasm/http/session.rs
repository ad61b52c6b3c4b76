//! One exchange's part in a middleware, from the request that it is handed to the response that it gives back.
//!
//! Data plane. The exchange's side: it hands over a head and a body, hears whether the guest passes the request on or
//! answers it, and hands over the response of what stands behind. Invariant: no body of a guest that has failed, and none
//! that stands for one that broke off, comes to a clean end.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::oneshot;
use wasmtime_wasi_http::WasiBody;

use super::call::{Receiving, Upload, judge, length, uri};
use super::instance::{Answer, Job};
use super::lent::Lent;
use super::onward::Onward;
use super::pool::{Place, Turn};
use super::state::is_forbidden;
use crate::body::{Body, BodyFault, RequestBody};
use crate::chain::Broken;
use crate::guard;
use crate::h1::Head;
use crate::head::{MAX_FIELDS, RequestHead};
use crate::native::REQUEST_ID;
use crate::passage::Passage;
use crate::service::Fault;
use crate::upstream::{Download, Failure};

static ROOT: LazyLock<PathAndQuery> = LazyLock::new(|| PathAndQuery::from_static("/"));
/// What a request for no resource, but for the server (RFC 9110 7.1), is shown as: `wasi:http` has nothing for it.
static SERVER: LazyLock<PathAndQuery> = LazyLock::new(|| PathAndQuery::from_static("/*"));

pub struct Session {
    place: Place,
    /// Of the request that it was handed.
    method: Method,
    answer: oneshot::Receiver<Answer>,
    /// Until it has passed the request on, or will not.
    onward: Option<oneshot::Receiver<Onward>>,
    /// Where the response of what stands behind goes.
    rest: Option<oneshot::Sender<Response<WasiBody>>>,
    request: Rc<Lent<RequestBody>>,
    response: Option<Rc<Lent<Body>>>,
}

/// What a guest does with a request.
pub enum Word {
    PassedOn(http::request::Parts, Passing),
    Answered(Answered),
}

/// An answer that nobody has looked at.
pub struct Answered(Response<WasiBody>);

impl Session {
    /// Hands the request over.
    pub fn begin(mut place: Place, head: &RequestHead, body: RequestBody) -> Self {
        let whole = match &body {
            RequestBody::Empty => Some(Bytes::new()),
            RequestBody::Full(bytes) => Some(bytes.clone()),
            _ => None,
        };
        let (given, request) = Lent::lend(body, whole);
        let (answered, answer) = oneshot::channel();
        let (passed, onward) = oneshot::channel();
        place.begin(Job {
            request: handed(head).map(|()| given),
            is_secure: head.scheme == "https",
            request_id: head.headers.get(REQUEST_ID).cloned(),
            answer: answered,
            onward: Some(passed),
            turn: place.turn(),
        });
        Self {
            place,
            method: head.method.clone(),
            answer,
            onward: Some(onward),
            rest: None,
            request,
            response: None,
        }
    }

    /// What the guest does with the request. Not to be polled again after an end.
    pub fn poll_word(&mut self, passage: &Rc<Passage>, context: &mut Context<'_>) -> Poll<Result<Word, Fault>> {
        ready!(self.poll_bodies(passage, context));
        if let Some(onward) = &mut self.onward
            && let Poll::Ready(passed) = Pin::new(onward).poll(context)
        {
            self.onward = None;
            if let Ok(Onward { request, answer }) = passed {
                self.rest = Some(answer);
                let (head, body) = request.into_parts();
                let passing = Passing {
                    body,
                    length: None,
                    turn: self.place.turn(),
                    request: Rc::clone(&self.request),
                    passage: Rc::clone(passage),
                };
                return Poll::Ready(Ok(Word::PassedOn(head, passing)));
            }
        }
        self.poll_answer(passage, context)
            .map(|answered| answered.map(Word::Answered))
    }

    /// The guest's answer. Not to be polled again after an end.
    pub fn poll_answer(&mut self, passage: &Passage, context: &mut Context<'_>) -> Poll<Result<Answered, Fault>> {
        ready!(self.poll_bodies(passage, context));
        self.poll_said(context)
    }

    fn poll_said(&mut self, context: &mut Context<'_>) -> Poll<Result<Answered, Fault>> {
        let answered = ready!(Pin::new(&mut self.answer).poll(context));
        let answered = answered.unwrap_or_else(|_| Err(self.place.failure().unwrap_or(Fault::Ended)));
        // Nothing of the answer of a guest that has failed by now was sent.
        Poll::Ready(match (self.place.failure(), answered) {
            (Some(fault), _) => Err(fault),
            (None, Ok(response)) => Ok(Answered(response)),
            (None, Err(fault)) => {
                // It has said all that it has to say.
                self.place.complete();
                Err(fault)
            }
        })
    }

    /// The guest's answer before it has a response from behind: nothing is to be moved for it then.
    pub fn poll_early(&mut self, context: &mut Context<'_>) -> Poll<Result<Answered, Fault>> {
        self.poll_said(context)
    }

    /// Moves what the guest reads. Pending while a filter's hook is parked on its way: whoever goes on would want the
    /// message that the hook has.
    fn poll_bodies(&self, passage: &Passage, context: &mut Context<'_>) -> Poll<()> {
        self.request.poll(context);
        if let Some(response) = &self.response {
            response.poll(context);
        }
        match passage.is_in_hook() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    /// Hands over the response of what stands behind.
    pub fn resume(&mut self, status: StatusCode, headers: &HeaderMap, body: Body) {
        let whole = match &body {
            Body::Empty => Some(Bytes::new()),
            Body::Full(bytes) | Body::Download(Download::Whole(bytes)) => Some(bytes.clone()),
            _ => None,
        };
        let (given, lent) = Lent::lend(body, whole);
        self.response = Some(lent);
        let mut response = Response::new(given);
        *response.status_mut() = status;
        *response.headers_mut() = allowed(headers);
        if let Some(rest) = self.rest.take() {
            // A guest may have made up its mind before.
            let _ = rest.send(response);
        }
    }

    /// The request's body, if the guest has taken none of it; it gets nothing of it then.
    pub fn take_request(&self) -> Option<RequestBody> {
        self.request.take_back()
    }

    /// The same of the response of what stands behind.
    pub fn take_response(&self) -> Option<Body> {
        self.response.as_ref().and_then(|response| response.take_back())
    }

    /// Makes the guest's answer one that may be relayed. `switches` is whether the connection is to change its protocol,
    /// which no guest can say by itself.
    pub fn finish(
        self,
        Answered(response): Answered,
        passage: &Rc<Passage>,
        filter: &Arc<str>,
        switches: bool,
    ) -> Result<(Head, Body), Fault> {
        let (head, body) = response.into_parts();
        if head.status.is_informational() && !(switches && head.status == StatusCode::SWITCHING_PROTOCOLS) {
            return Err(Fault::Malformed);
        }
        let head = judge(head, &self.method)?;
        let receiving = Receiving::begin(self.place, Upload::nothing(), body, &head, &self.method);
        let body = match receiving {
            Some(receiving) => Body::Returned(Box::new(Returned {
                receiving,
                was_broken: self.response.as_ref().is_some_and(|response| response.is_broken()),
                response: self.response,
                request: self.request,
                passage: Rc::clone(passage),
                filter: Arc::clone(filter),
            })),
            None => Body::Download(Download::Whole(Bytes::new())),
        };
        Ok((head, body))
    }
}

/// The request's head as `wasi:http` has it.
fn handed(head: &RequestHead) -> Request<()> {
    let host = head.headers.get(header::HOST);
    let target = match head.target.as_str() {
        "*" => &SERVER,
        _ => &head.target,
    };
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri(host, target, head.scheme == "https");
    *request.headers_mut() = allowed(&head.headers);
    request
}

/// Without the fields that are the host's.
fn allowed(headers: &HeaderMap) -> HeaderMap {
    let mut allowed = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers.iter().filter(|(name, _)| !is_forbidden(name)) {
        allowed.append(name, value.clone());
    }
    allowed
}

/// Makes what a guest passes on the request; what is the host's stays as it is. Gives the length that the body is to have,
/// if that is said; the error is for the log.
pub fn adopt(head: http::request::Parts, request: &mut RequestHead) -> Result<Option<u64>, &'static str> {
    let mut headers = allowed(&head.headers);
    if headers.len() > MAX_FIELDS {
        return Err("it passed on too many fields");
    }
    if headers.keys().any(|name| guard::is_twin(name.as_str())) {
        return Err("it passed on a field that could be taken for another");
    }
    let length = length(&headers).map_err(|_| "it passed on a malformed content-length")?;
    if head.method == Method::CONNECT {
        return Err("it passed on a CONNECT");
    }
    for (name, value) in request.headers.iter().filter(|(name, _)| is_forbidden(name)) {
        headers.append(name, value.clone());
    }
    let target = head.uri.path_and_query().unwrap_or(&ROOT);
    if *target != request.target && !(request.target == "*" && *target == *SERVER) {
        let edited = request
            .set_path(target.path())
            .and_then(|()| request.set_query(target.query()));
        edited.map_err(|_| "it passed on a path that is none")?;
    }
    request.method = head.method;
    request.headers = headers;
    let authority = head.uri.authority().ok_or("it passed on no authority")?;
    if request.authority() != authority.as_str().as_bytes() {
        let edited = request.set_authority(authority.as_str());
        edited.map_err(|_| "it passed on an authority that is none")?;
    }
    Ok(length)
}

/// The body of a request that a guest passes on.
pub struct Passing {
    body: WasiBody,
    /// As the guest says it.
    length: Option<u64>,
    turn: Rc<Turn>,
    /// What the guest makes it of.
    request: Rc<Lent<RequestBody>>,
    passage: Rc<Passage>,
}

impl fmt::Debug for Passing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Passing").finish_non_exhaustive()
    }
}

impl Passing {
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.request.poll(context);
        if self.is_in_hook() {
            return Poll::Pending;
        }
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "a request's body broke off in a filter");
                Poll::Ready(Some(Err(self.turn.failure().unwrap_or(Fault::Silent))))
            }
            // A guest that failed has let go of its body like one that has ended it.
            Poll::Ready(None) => Poll::Ready(self.turn.failure().map(Err)),
            Poll::Pending => match self.turn.fault(context) {
                Some(fault) => Poll::Ready(Some(Err(fault))),
                None => Poll::Pending,
            },
        }
    }

    /// Whether a filter's hook was parked on its way when this was polled last.
    pub fn is_in_hook(&self) -> bool {
        self.passage.is_in_hook()
    }

    pub fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// `length` is what the head says of it, which the engine holds it to.
    pub fn is_to_have(&mut self, length: Option<u64>) {
        self.length = length;
    }

    /// Before anything of it was read.
    pub fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(|| self.body.size_hint(), SizeHint::with_exact)
    }
}

/// The body of a response that a guest gives back.
pub struct Returned {
    receiving: Box<Receiving>,
    /// Of what stands behind, which the guest may still read.
    response: Option<Rc<Lent<Body>>>,
    /// It had broken off when the guest answered, who knew.
    was_broken: bool,
    /// The guest may answer while it reads the request.
    request: Rc<Lent<RequestBody>>,
    passage: Rc<Passage>,
    filter: Arc<str>,
}

impl fmt::Debug for Returned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Returned")
            .field("filter", &self.filter)
            .field("receiving", &self.receiving)
            .finish_non_exhaustive()
    }
}

impl Returned {
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.request.poll(context);
        if let Some(response) = &self.response {
            response.poll(context);
        }
        if self.passage.is_in_hook() {
            return Poll::Pending;
        }
        let frame = ready!(self.receiving.poll_frame(context));
        let fault = match frame {
            Some(Ok(frame)) => return Poll::Ready(Some(Ok(frame))),
            None => None,
            Some(Err(Failure::Service(fault))) => Some(fault),
            // There is no other.
            Some(Err(_)) => Some(Fault::Silent),
        };
        let behind = self.response.as_ref().filter(|_| !self.was_broken);
        if let Some(fault) = behind.and_then(|behind| behind.take_fault()) {
            return Poll::Ready(Some(Err(fault)));
        }
        Poll::Ready(fault.map(|fault| {
            Err(BodyFault::Filter(Broken {
                filter: Arc::clone(&self.filter),
                failure: fault.into(),
            }))
        }))
    }

    pub fn is_end_stream(&self) -> bool {
        self.receiving.is_ended()
    }

    pub fn size_hint(&self) -> SizeHint {
        self.receiving
            .left()
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
