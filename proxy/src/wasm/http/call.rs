//! One request to a guest, from its head to the last byte of its response.
//!
//! Data plane. The exchange's side: it feeds the guest the request's body as the guest takes it, and takes the response's
//! as the client does. Invariant: a response is whole only if the guest said so, and was of the length that it announced;
//! framing and hop-by-hop fields are the host's.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::{Body as _, Frame};
use tokio::sync::oneshot;
use wasmtime_wasi_http::WasiBody;

use super::instance::{Answer, Job};
use super::pipe::{Given, Writer, pipe};
use super::pool::Place;
use super::state::is_forbidden;
use crate::body::RequestBody;
use crate::h1::{self, Framing, Head, RequestLines};
use crate::native::REQUEST_ID;
use crate::service::Fault;
use crate::upstream::Failure;

/// What is read of a body that nobody is to see (an answer to HEAD), so that the instance can be kept.
const MAX_DISCARD: u64 = 64 << 10;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// A request under way, until the head of its response is there.
pub struct Call {
    place: Place,
    upload: Upload,
    answer: oneshot::Receiver<Answer>,
    body: Option<WasiBody>,
    method: Method,
    /// The request's body was asked for.
    has_asked: bool,
}

impl Call {
    pub fn new(mut place: Place, lines: &RequestLines<'_>, body: RequestBody) -> Self {
        let (request_body, upload) = Upload::begin(body);
        let length = request_body.size_hint().exact();
        let is_secure = lines
            .headers
            .get("x-forwarded-proto")
            .is_some_and(|scheme| scheme == "https");
        let (answered, answer) = oneshot::channel();
        place.begin(Job {
            request: request(lines, length, is_secure).map(|()| request_body),
            is_secure,
            request_id: lines.headers.get(REQUEST_ID).cloned(),
            answer: answered,
            onward: None,
            turn: place.turn(),
        });
        Self {
            place,
            upload,
            answer,
            body: None,
            method: lines.method.clone(),
            has_asked: false,
        }
    }

    /// The head of the response as soon as it is there; until then the request's body goes on. Not to be polled again
    /// after an end.
    pub fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Head, Failure>> {
        match self.place.give(|| self.upload.poll(context)) {
            Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
            Poll::Pending if self.upload.body.is_in_hook() => return Poll::Pending,
            Poll::Pending if !std::mem::replace(&mut self.has_asked, true) => {
                // A client that waits to be told to go on is told so before it is answered.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            _ => {}
        }
        if self.upload.reads_on(context) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let answered = ready!(Pin::new(&mut self.answer).poll(context));
        let answered = answered.unwrap_or_else(|_| Err(self.place.failure().unwrap_or(Fault::Ended)));
        // A guest that has failed by now is told of like one that failed before: nothing of its answer was sent.
        let answered = match self.place.failure() {
            Some(fault) => Err(fault),
            None => answered,
        };
        Poll::Ready(match answered {
            Ok(response) => self.take(response).map_err(Failure::Service),
            Err(fault) => {
                // It has said all that it has to say.
                self.place.complete();
                Err(Failure::Service(fault))
            }
        })
    }

    fn take(&mut self, response: Response<WasiBody>) -> Result<Head, Fault> {
        let (head, body) = response.into_parts();
        if head.status.is_informational() {
            return Err(Fault::Malformed);
        }
        let head = judge(head, &self.method)?;
        self.body = Some(body);
        Ok(head)
    }

    /// The response's body, with the rest of the request; `None` when there is none.
    pub fn into_receiving(self, head: &Head) -> Option<Box<Receiving>> {
        Receiving::begin(self.place, self.upload, self.body?, head, &self.method)
    }
}

/// The head of a response as it may be relayed.
pub(super) fn judge(head: http::response::Parts, method: &Method) -> Result<Head, Fault> {
    let mut headers = head.headers;
    trim(&mut headers);
    if headers.len() > h1::MAX_FIELDS {
        return Err(Fault::Malformed);
    }
    headers.remove(header::TRANSFER_ENCODING);
    let framing = match length(&headers)? {
        _ if ends_with_head(method, head.status) => Framing::Sized(0),
        Some(length) => Framing::Sized(length),
        None => Framing::Chunked,
    };
    Ok(Head {
        status: head.status,
        headers,
        framing,
        persistent: true,
    })
}

/// Blanks around a value are no part of it (RFC 9110 5.5), and HTTP/2 has none.
pub(super) fn trim(headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        let bytes = value.as_bytes();
        let trimmed = bytes.trim_ascii();
        if trimmed.len() != bytes.len()
            && let Ok(trimmed) = HeaderValue::from_bytes(trimmed)
        {
            *value = trimmed;
        }
    }
}

/// RFC 9110 6.4.1: some responses end with their head.
pub(super) fn ends_with_head(method: &Method, status: StatusCode) -> bool {
    let bare = [
        StatusCode::SWITCHING_PROTOCOLS,
        StatusCode::NO_CONTENT,
        StatusCode::NOT_MODIFIED,
    ];
    *method == Method::HEAD || bare.contains(&status)
}

/// The head of a request as `wasi:http` has it: no field of the connection, and the length that the body has.
fn request(lines: &RequestLines<'_>, length: Option<u64>, is_secure: bool) -> Request<()> {
    let mut headers = HeaderMap::with_capacity(lines.headers.len() + 2);
    let mut has_length = false;
    for (name, value) in lines.headers {
        match *name {
            header::CONTENT_LENGTH => has_length = true,
            header::HOST | header::CONNECTION | header::UPGRADE | header::TRANSFER_ENCODING => {}
            _ => {
                headers.append(name, value.clone());
            }
        }
    }
    headers.append(header::VIA, lines.via.clone());
    if let Some(length) = length.filter(|length| *length > 0 || has_length) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let mut request = Request::new(());
    *request.method_mut() = lines.method.clone();
    *request.uri_mut() = uri(lines.headers.get(header::HOST), lines.target, is_secure);
    *request.headers_mut() = headers;
    request
}

/// With the authority that `host` says.
pub(super) fn uri(host: Option<&HeaderValue>, target: &PathAndQuery, is_secure: bool) -> Uri {
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = Parts::default();
    parts.scheme = Some(if is_secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority.unwrap_or_else(|| Authority::from_static("localhost")));
    parts.path_and_query = Some(target.clone());
    Uri::from_parts(parts).unwrap_or_default()
}

/// One number, of digits alone (RFC 9110 8.6).
pub(super) fn length(headers: &HeaderMap) -> Result<Option<u64>, Fault> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let is_digits = value.as_bytes().iter().all(u8::is_ascii_digit);
    let length = value.to_str().ok().filter(|_| is_digits && values.next().is_none());
    let length = length.and_then(|digits| digits.parse().ok());
    length.map(Some).ok_or(Fault::Malformed)
}

/// A request's body on its way in.
pub(super) struct Upload {
    /// `None` when nothing more is sent.
    pipe: Option<Writer>,
    body: RequestBody,
    /// More of the body was asked for.
    has_begun: bool,
}

impl Upload {
    /// None.
    pub fn nothing() -> Self {
        Self {
            pipe: None,
            body: RequestBody::Empty,
            has_begun: false,
        }
    }

    /// And what the guest gets of it.
    fn begin(body: RequestBody) -> (Given, Self) {
        match body {
            RequestBody::Empty => (Given::Whole(None), Self::nothing()),
            RequestBody::Full(bytes) => (Given::whole(bytes), Self::nothing()),
            body => {
                let (writer, reader) = pipe(body.size_hint().exact());
                let upload = Self {
                    pipe: Some(writer),
                    body,
                    has_begun: false,
                };
                (Given::Piped(reader), upload)
            }
        }
    }

    /// Ready when nothing is left to do. That the guest wants no more is no failure: it may answer all the same.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while let Some(pipe) = &self.pipe {
            let Poll::Ready(room) = pipe.poll_room(context) else {
                if self.body.poll_ahead(context) {
                    self.pipe = None;
                    return Poll::Ready(Err(Failure::Upload));
                }
                return Poll::Pending;
            };
            if room.is_err() {
                self.pipe = None;
                if self.has_begun {
                    self.body = RequestBody::Empty;
                }
                break;
            }
            self.has_begun = true;
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => pipe.put(frame),
                Some(Err(_)) => {
                    self.pipe = None;
                    return Poll::Ready(Err(Failure::Upload));
                }
                None => {
                    if let Some(pipe) = self.pipe.take() {
                        pipe.end();
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What the guest has not wanted at all: see [`RequestBody::read_ahead`].
    fn reads_on(&mut self, context: &mut Context<'_>) -> bool {
        self.pipe.is_none() && self.body.read_ahead(context, false)
    }
}

/// A response's body on its way, and the rest of its request.
pub struct Receiving {
    place: Place,
    upload: Upload,
    body: WasiBody,
    /// Bytes that are still to come, where the guest has said how many.
    left: Option<u64>,
    is_ended: bool,
}

impl std::fmt::Debug for Receiving {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Receiving")
            .field("left", &self.left)
            .field("is_ended", &self.is_ended)
            .finish_non_exhaustive()
    }
}

impl Receiving {
    /// `None` for a response that ends with its head.
    pub(super) fn begin(
        place: Place,
        upload: Upload,
        body: WasiBody,
        head: &Head,
        method: &Method,
    ) -> Option<Box<Self>> {
        let is_bare = ends_with_head(method, head.status);
        let receiving = Box::new(Self {
            place,
            upload,
            body,
            left: match head.framing {
                Framing::Sized(length) if !is_bare => Some(length),
                _ => None,
            },
            is_ended: false,
        });
        if is_bare {
            receiving.discard();
            return None;
        }
        Some(receiving)
    }

    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match self.place.give(|| self.upload.poll(context)) {
            Poll::Ready(Err(failure)) => return Poll::Ready(Some(Err(failure))),
            Poll::Pending if self.upload.body.is_in_hook() => return Poll::Pending,
            _ => {}
        }
        self.poll_answer(context)
    }

    /// The same without the request, of which there is nothing more.
    pub(super) fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.poll_body(context)
            .map(|frame| frame.map(|frame| frame.map_err(Failure::Service)))
    }

    /// Has the rest of the request go on while the client takes nothing of the response.
    pub fn poll_upload(&mut self, context: &mut Context<'_>) {
        // What comes of it is seen when the response is asked for more.
        let _ = self.upload.poll(context);
    }

    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        let frame = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                return self
                    .place
                    .fault(context)
                    .map_or(Poll::Pending, |fault| Poll::Ready(Some(Err(fault))));
            }
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(self.relay(frame)),
            Some(Err(error)) => {
                tracing::debug!(%error, "a service's response broke off");
                Some(Err(self.place.failure().unwrap_or(Fault::Silent)))
            }
            // A guest that failed has let go of its body like one that has ended it.
            None => match self.place.failure() {
                Some(fault) => Some(Err(fault)),
                None if self.left.is_some_and(|left| left > 0) => Some(Err(Fault::Malformed)),
                None => {
                    self.end();
                    None
                }
            },
        })
    }

    fn relay(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Fault> {
        match frame.into_data() {
            Ok(data) => {
                if let Some(left) = &mut self.left {
                    *left = left.checked_sub(data.len() as u64).ok_or(Fault::Malformed)?;
                }
                Ok(Frame::data(data))
            }
            Err(frame) => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                self.end();
                let forbidden: Vec<_> = trailers
                    .keys()
                    .filter(|name| is_forbidden(name) || [header::CONTENT_LENGTH, header::TRAILER].contains(name))
                    .cloned()
                    .collect();
                for name in forbidden {
                    trailers.remove(name);
                }
                Ok(Frame::trailers(trailers))
            }
        }
    }

    fn end(&mut self) {
        self.is_ended = true;
        self.place.complete();
    }

    /// See [`Place::give`].
    pub(super) fn give<T>(&self, give: impl FnOnce() -> T) -> T {
        self.place.give(give)
    }

    /// How the guest has failed, if it has.
    pub(super) fn failure(&self) -> Option<Fault> {
        self.place.failure()
    }

    pub fn is_ended(&self) -> bool {
        self.is_ended || self.left == Some(0)
    }

    /// Bytes that are still to come.
    pub fn left(&self) -> Option<u64> {
        match self.is_ended {
            true => Some(0),
            false => self.left,
        }
    }

    /// Has the guest say what nobody is to hear, so that its instance can be kept. Nobody waits for it.
    fn discard(mut self: Box<Self>) {
        tokio::task::spawn_local(async move {
            let discard = async {
                let mut read = 0;
                while read <= MAX_DISCARD {
                    let frame = std::future::poll_fn(|context| self.poll_frame(context)).await;
                    let Some(Ok(frame)) = frame else {
                        // A length without the bytes is what an answer to HEAD has.
                        if self.place.failure().is_none() {
                            self.end();
                        }
                        return;
                    };
                    read += frame.data_ref().map_or(0, |data| data.len() as u64);
                }
            };
            // The instance is ended or kept either way.
            let _ = tokio::time::timeout(DISCARD_TIMEOUT, discard).await;
        });
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        // Nobody asks for more once a length is reached.
        if self.left == Some(0) {
            self.place.complete();
        }
    }
}
