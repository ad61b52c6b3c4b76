//! One exchange's part in a middleware, from the request that it is handed to the response that it gives back.
//!
//! Data plane. The exchange's side: it hands over a head and a body, hears whether the guest passes the request on or
//! answers it, and hands over the response of what stands behind. Invariant: no body of a guest that has failed, and none
//! that stands for one that broke off, comes to a clean end.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::Instant;
use wasmtime_wasi_http::WasiBody;

use super::call::{Receiving, Upload, ends_with_head, judge, length, trim, uri};
use super::instance::{Answer, Job};
use super::lent::Lent;
use super::onward::Onward;
use super::pipe::Given;
use super::pool::{Place, Turn};
use super::state::is_forbidden;
use crate::body::{Body, BodyFault, RequestBody};
use crate::chain::Broken;
use crate::filter::Hook;
use crate::guard;
use crate::h1::Head;
use crate::head::{MAX_FIELDS, RequestHead};
use crate::native::REQUEST_ID;
use crate::passage::Passage;
use crate::service::Fault;
use crate::timer::Watchdog;
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
    rest: Option<oneshot::Sender<Response<Given>>>,
    /// Its status, when it is there.
    behind: Option<StatusCode>,
    /// Whether nothing is missing of what it passed on.
    is_passed: Rc<Cell<bool>>,
    wall: Duration,
    request: Rc<Lent<RequestBody>>,
    /// The request's body was asked for.
    has_asked: Cell<bool>,
    response: Option<Rc<Lent<Body>>>,
}

/// What a guest does with a request.
pub enum Word {
    PassedOn(Box<http::request::Parts>, Passing),
    Answered(Answered),
}

/// An answer that nobody has looked at.
pub struct Answered(Response<WasiBody>);

impl Session {
    /// Hands the request over.
    pub fn begin(mut place: Place, head: &RequestHead, body: RequestBody, wall: Duration) -> Box<Self> {
        let length = body.size_hint().exact();
        let whole = match &body {
            RequestBody::Empty => Some(Bytes::new()),
            RequestBody::Full(bytes) => Some(bytes.clone()),
            _ => None,
        };
        let (given, request) = Lent::lend(body, whole);
        let (answered, answer) = oneshot::channel();
        let (passed, onward) = oneshot::channel();
        place.begin(Job {
            request: handed(head, length).map(|()| given),
            is_secure: head.scheme == "https",
            request_id: head.headers.get(REQUEST_ID).cloned(),
            answer: answered,
            onward: Some(passed),
            turn: place.turn(),
        });
        Box::new(Self {
            place,
            method: head.method.clone(),
            answer,
            onward: Some(onward),
            rest: None,
            behind: None,
            is_passed: Rc::new(Cell::new(true)),
            wall,
            request,
            has_asked: Cell::new(false),
            response: None,
        })
    }

    /// What the guest does with the request. Not to be polled again after an end.
    pub fn poll_word(&mut self, passage: &Rc<Passage>, context: &mut Context<'_>) -> Poll<Result<Word, Fault>> {
        ready!(self.poll_bodies(passage, context));
        if let Some(onward) = &mut self.onward
            && let Poll::Ready(passed) = Pin::new(onward).poll(context)
        {
            self.onward = None;
            if let Ok(Onward { head, body, answer }) = passed {
                self.rest = Some(answer);
                self.is_passed.set(false);
                let passing = Passing {
                    body,
                    left: None,
                    turn: self.place.turn(),
                    request: Rc::clone(&self.request),
                    passage: Rc::clone(passage),
                    is_passed: Rc::clone(&self.is_passed),
                    patience: Patience::new(self.wall),
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

    /// Whether the client has left, which nobody would be told who does not read.
    pub fn is_left(&self, context: &mut Context<'_>) -> bool {
        self.request.look_ahead(|body| body.poll_ahead(context))
    }

    /// Moves what the guest reads. Pending while a filter's hook is parked on its way: whoever goes on would want the
    /// message that the hook has.
    fn poll_bodies(&self, passage: &Passage, context: &mut Context<'_>) -> Poll<()> {
        self.place.give(|| {
            self.request.poll(context);
            if let Some(response) = &self.response {
                response.poll(context);
            }
        });
        if self.request.waits() && !self.has_asked.replace(true) {
            // A client that waits to be told to go on is told so before it is answered.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        match passage.is_in_hook() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    /// Hands over the response of what stands behind.
    pub fn resume(&mut self, status: StatusCode, headers: &HeaderMap, body: Body) {
        let mut headers = allowed(headers);
        if !ends_with_head(&self.method, status) {
            // What a filter has done to the body may have changed it.
            set_length(&mut headers, body.size_hint().exact());
        }
        let whole = match &body {
            Body::Empty => Some(Bytes::new()),
            Body::Full(bytes) | Body::Download(Download::Whole(bytes)) => Some(bytes.clone()),
            _ => None,
        };
        let (given, lent) = Lent::lend(body, whole);
        self.response = Some(lent);
        let mut response = Response::new(given);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        self.behind = Some(status);
        if let Some(rest) = self.rest.take() {
            // A guest may have made up its mind before.
            self.place.give(|| drop(rest.send(response)));
        }
    }

    /// The request's body, if the guest has taken none of it; it gets nothing of it then.
    pub fn take_request(&self) -> Option<RequestBody> {
        self.request.take_back()
    }

    /// The same, if the guest has no use for it.
    pub fn take_unread(&self) -> Option<RequestBody> {
        self.request.take_unread()
    }

    /// Whether the guest has no use for the request's body.
    pub fn is_unread(&self) -> bool {
        self.request.is_unread()
    }

    /// Of a request that is answered before its end: see [`RequestBody::read_ahead`]. A guest that keeps its body may make
    /// its own of it.
    pub fn reads_on(&self, context: &mut Context<'_>) -> bool {
        let asks = !self.is_unread();
        self.request.look_ahead(|body| body.read_ahead(context, asks))
    }

    /// Whether all that it has passed on is with others.
    pub fn has_passed(&self) -> bool {
        self.is_passed.get()
    }

    /// What moves of its bodies, so that hooks on their way come to their ends.
    pub fn movers(&self) -> Movers {
        Movers(Rc::clone(&self.request), self.response.clone())
    }

    /// Pieces that it was given, and whether it has asked for one that is not there.
    pub fn progress(&self) -> (u64, bool) {
        let response = self.response.as_ref();
        let moved = response.map_or(0, |response| response.moved());
        let waits = response.is_some_and(|response| response.waits());
        (self.request.moved() + moved, self.request.waits() || waits)
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
        turn: usize,
        switches: bool,
    ) -> Result<(Head, Body), Fault> {
        let (head, body) = response.into_parts();
        if head.status.is_informational() && !(switches && head.status == StatusCode::SWITCHING_PROTOCOLS) {
            return Err(Fault::Malformed);
        }
        let head = judge(head, &self.method)?;
        let is_same = self.behind == Some(head.status);
        let receiving = Receiving::begin(self.place, Upload::nothing(), body, &head, &self.method);
        let body = match receiving {
            Some(receiving) => Body::Returned(Box::new(Returned {
                receiving,
                forgives: !is_same && self.response.as_ref().is_some_and(|response| response.is_broken()),
                turn,
                patience: Patience::new(self.wall),
                response: self.response,
                request: self.request,
                passage: Rc::clone(passage),
            })),
            None => Body::Download(Download::Whole(Bytes::new())),
        };
        Ok((head, body))
    }
}

/// What moves of a middleware's bodies.
pub struct Movers(Rc<Lent<RequestBody>>, Option<Rc<Lent<Body>>>);

impl Movers {
    pub fn poll(&self, context: &mut Context<'_>) {
        self.0.poll(context);
        if let Some(response) = &self.1 {
            response.poll(context);
        }
    }
}

/// How long a guest may leave whoever waits for its body without a piece, while it has all that it has asked for.
struct Patience {
    wall: Duration,
    watchdog: Watchdog,
    since: Option<Instant>,
    /// Pieces that it had been given by then.
    moved: u64,
}

impl Patience {
    fn new(wall: Duration) -> Self {
        Self {
            wall,
            watchdog: Watchdog::default(),
            since: None,
            moved: 0,
        }
    }

    /// There was a piece.
    fn renew(&mut self) {
        self.since = None;
    }

    fn is_over(&mut self, context: &mut Context<'_>, (moved, waits): (u64, bool)) -> bool {
        if waits || moved != self.moved {
            self.moved = moved;
            self.since = None;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        self.watchdog.expired(context, since + self.wall)
    }
}

fn set_length(headers: &mut HeaderMap, length: Option<u64>) {
    match length {
        Some(length) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        None => {
            headers.remove(header::CONTENT_LENGTH);
        }
    }
}

/// The request's head as `wasi:http` has it.
fn handed(head: &RequestHead, length: Option<u64>) -> Request<()> {
    let host = head.headers.get(header::HOST);
    let target = match head.target.as_str() {
        "*" => &SERVER,
        _ => &head.target,
    };
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri(host, target, head.scheme == "https");
    let mut headers = allowed(&head.headers);
    // A filter may have put another body there. None at all is another thing than an empty one.
    let had_length = headers.contains_key(header::CONTENT_LENGTH);
    set_length(&mut headers, length.filter(|length| *length > 0 || had_length));
    *request.headers_mut() = headers;
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
    let mut headers = match head.headers.keys().any(is_forbidden) {
        true => allowed(&head.headers),
        false => head.headers,
    };
    trim(&mut headers);
    if headers.len() > MAX_FIELDS {
        return Err("it passed on too many fields");
    }
    if headers.keys().any(|name| guard::is_twin(name.as_str())) {
        return Err("it passed on a field that could be taken for another");
    }
    let length = length(&headers).map_err(|_| "it passed on a malformed content-length")?;
    let is_for_server = request.target == "*" && head.method == Method::OPTIONS;
    if head.method != request.method {
        let edited = request.set_method(head.method.as_str());
        edited.map_err(|_| "it passed on a method that is none")?;
    }
    for (name, value) in request.headers.iter().filter(|(name, _)| is_forbidden(name)) {
        headers.append(name, value.clone());
    }
    let target = head.uri.path_and_query().unwrap_or(&ROOT);
    if *target != request.target && !(is_for_server && *target == *SERVER) {
        let edited = request
            .set_path(target.path())
            .and_then(|()| request.set_query(target.query()));
        edited.map_err(|_| "it passed on a path that is none")?;
    }
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
    /// Bytes that are still to come, where the guest says how many.
    left: Option<u64>,
    turn: Rc<Turn>,
    /// What the guest makes it of.
    request: Rc<Lent<RequestBody>>,
    passage: Rc<Passage>,
    is_passed: Rc<Cell<bool>>,
    patience: Patience,
}

impl fmt::Debug for Passing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Passing").finish_non_exhaustive()
    }
}

impl Passing {
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.turn.give(|| self.request.poll(context));
        if self.is_in_hook() {
            return Poll::Pending;
        }
        let body = Pin::new(&mut self.body);
        let Poll::Ready(frame) = self.request.for_host(|| body.poll_frame(context)) else {
            let progress = (self.request.moved(), self.request.waits());
            let fault = self.turn.fault(context);
            let over = || self.patience.is_over(context, progress).then_some(Fault::Ended);
            return fault
                .or_else(over)
                .map_or(Poll::Pending, |fault| Poll::Ready(Some(Err(fault))));
        };
        self.patience.renew();
        Poll::Ready(match frame {
            Some(Err(error)) => {
                tracing::debug!(%error, "a request's body broke off in a filter");
                Some(Err(self.turn.failure().unwrap_or(Fault::Silent)))
            }
            Some(Ok(frame)) if frame.is_data() => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.left = self.left.map(|left| left.saturating_sub(length));
                Some(Ok(frame))
            }
            // Nothing follows trailers.
            Some(Ok(trailers)) => Some(self.end().map_or(Ok(trailers), Err)),
            None => self.end().map(Err),
        })
    }

    /// A guest that failed has let go of its body like one that has ended it, or has trailers for it.
    fn end(&self) -> Option<Fault> {
        let is_short = self.left.is_some_and(|left| left > 0);
        let fault = self.turn.failure().or(is_short.then_some(Fault::Malformed));
        self.is_passed.set(fault.is_none());
        fault
    }

    /// The guest itself is what holds it up.
    pub fn is_guests(&self) -> bool {
        !self.request.waits()
    }

    /// The failure is the middleware's, who has no further part in the exchange.
    pub fn fail(&self, turn: usize, fault: Fault) -> Option<Broken> {
        drop(self.passage.take_session(turn));
        self.passage
            .fell(turn, Hook::RequestBody, fault.of_filter(), (None, false))
            .err()
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
        self.left = length;
        if self.body.is_end_stream() {
            self.is_passed.set(length.is_none_or(|length| length == 0));
        }
    }

    pub fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(|| self.body.size_hint(), SizeHint::with_exact)
    }
}

/// The body of a response that a guest gives back.
pub struct Returned {
    receiving: Box<Receiving>,
    /// Of what stands behind, which the guest may still read.
    response: Option<Rc<Lent<Body>>>,
    /// That had broken off when the guest answered, and its answer is another one.
    forgives: bool,
    /// The guest may answer while it reads the request.
    request: Rc<Lent<RequestBody>>,
    passage: Rc<Passage>,
    /// Of the middleware.
    turn: usize,
    patience: Patience,
}

impl fmt::Debug for Returned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Returned")
            .field("receiving", &self.receiving)
            .finish_non_exhaustive()
    }
}

impl Returned {
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.receiving.give(|| self.poll_lent(context));
        if self.passage.is_in_hook() {
            return Poll::Pending;
        }
        let (request, response) = (Rc::clone(&self.request), self.response.clone());
        // The guest does not move meanwhile, or what it reads would be taken for the host's.
        let mut poll = || self.receiving.poll_answer(context);
        let polled = request.for_host(|| match &response {
            Some(response) => response.for_host(poll),
            None => poll(),
        });
        let Poll::Ready(frame) = polled else {
            let moved = self.request.moved() + self.response.as_ref().map_or(0, |response| response.moved());
            return match self.patience.is_over(context, (moved, !self.is_guests())) {
                true => Poll::Ready(Some(Err(self.broken(Fault::Ended)))),
                false => Poll::Pending,
            };
        };
        self.patience.renew();
        let end = match frame {
            Some(Ok(frame)) if frame.is_data() => return Poll::Ready(Some(Ok(frame))),
            Some(Ok(trailers)) => Ok(Some(trailers)),
            None => Ok(None),
            Some(Err(Failure::Service(fault))) => Err(fault),
            // There is no other.
            Some(Err(_)) => Err(Fault::Silent),
        };
        let behind = self.response.as_ref();
        let behind = behind.filter(|response| !self.forgives && response.is_broken());
        let fault = match (end, self.receiving.failure()) {
            (Ok(end), None) if behind.is_none() => return Poll::Ready(end.map(Ok)),
            // It stands for none: what is behind broke off, or the guest has failed and let go of it.
            (Ok(_), failure) => failure,
            (Err(fault), _) => Some(fault),
        };
        let of_behind = behind.and_then(|response| response.take_fault());
        Poll::Ready(Some(Err(
            of_behind.unwrap_or_else(|| self.broken(fault.unwrap_or(Fault::Silent)))
        )))
    }

    fn poll_lent(&self, context: &mut Context<'_>) {
        self.request.poll(context);
        if let Some(response) = &self.response {
            response.poll(context);
        }
    }

    /// Has the rest of the request go on while the client takes nothing of the response.
    pub fn poll_upload(&mut self, context: &mut Context<'_>) {
        self.request.poll(context);
        if let Some(response) = &self.response {
            response.with(|body| body.poll_upload(context));
        }
    }

    /// The guest itself is what holds it up.
    pub fn is_guests(&self) -> bool {
        let waits = self.response.as_ref().is_some_and(|response| response.waits());
        !waits && !self.request.waits()
    }

    /// The failure is the middleware's, and there is nothing more to be had of it.
    fn broken(&self, fault: Fault) -> BodyFault {
        let broken = self
            .passage
            .fell(self.turn, Hook::ResponseBody, fault.of_filter(), (None, false));
        match broken {
            Err(broken) => BodyFault::Filter(broken),
            // It is never skipped here.
            Ok(()) => BodyFault::Replied,
        }
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
