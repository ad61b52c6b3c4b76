//! One request over a connection that speaks HTTP/2, from its head to the last byte of its response.
//!
//! Data plane. No task: it moves only while its exchange polls it, and what it gives up, or is dropped with, is reset
//! (CANCEL). Back-pressure both ways: the request's body is asked for more only when the server has taken what it gave
//! before, and the server may send as much more as is taken from the response. Invariant: only a response that may be
//! relayed comes out of here (RFC 9113 8.1.1); of the rest `h2` refuses what is wrong in its frames.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::uri::{Authority, Parts};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::{Body as _, Frame};

use super::client::{End, Slot};
use super::duplex::{Duplex, Owner};
use super::intake::Intake;
use crate::body::RequestBody;
use crate::h1::{self, Framing, Head, RequestLines};
use crate::hop;
use crate::upstream::{Failure, MAX_INTERIMS};
use crate::websocket;

/// Why what came is not a response that may be relayed; the upstream's doing in each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Against the rules of frames, of header blocks or of messages, as `h2` sees it; its code.
    Protocol(u32),
    /// More fields than [`h1::MAX_FIELDS`].
    Fields,
    /// A value that begins or ends with a blank (RFC 9113 8.2.1).
    Value,
    /// 101, which HTTP/2 does not have (RFC 9113 8.6).
    Upgrade,
    /// More interim responses than anybody has a use for.
    Interims,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Protocol(code) => return write!(formatter, "malformed HTTP/2: {}", Reason::from(*code)),
            Self::Fields => "too many fields",
            Self::Value => "a value with blanks around it",
            Self::Upgrade => "an upgrade, which HTTP/2 does not have",
            Self::Interims => "too many interim responses",
        })
    }
}

impl std::error::Error for Fault {}

/// A request under way, until the head of its response is there.
pub struct Call {
    /// `None` when the connection took none of it.
    response: Option<ResponseFuture>,
    /// Of the response, once its head is there.
    stream: Option<Intake>,
    upload: Upload,
    method: Method,
    interims: u8,
    switch: Option<Switch>,
    slot: Slot,
}

/// Of a request for another protocol.
struct Switch {
    sink: SendStream<Bytes>,
    /// What the client of HTTP/1.1 has to hear.
    accept: Option<HeaderValue>,
}

impl Call {
    pub fn new(mut slot: Slot, lines: &RequestLines<'_>, body: RequestBody) -> Self {
        let length = body.size_hint().exact();
        let request = request(lines, length, slot.client().scheme());
        let end = if length == Some(0) { End::Here } else { End::Later };
        let (response, stream) = slot.send(request, end).unzip();
        Self {
            response,
            stream: None,
            upload: Upload {
                stream: stream.filter(|_| end == End::Later),
                body,
                piece: Bytes::new(),
                is_last: false,
                taken: Taken::Nothing,
            },
            method: lines.method.clone(),
            interims: 0,
            switch: None,
            slot,
        }
    }

    /// Asks for another protocol on the stream, or sends the request as one like others where the server has none.
    pub fn switching(mut slot: Slot, lines: &RequestLines<'_>, protocol: &HeaderValue) -> Self {
        // The method is lost on the way.
        let is_possible = slot.takes_protocols() && *lines.method == Method::GET;
        let name = protocol.to_str().ok().filter(|_| is_possible);
        let Some(name) = name.map(str::to_owned) else {
            return Self::new(slot, lines, RequestBody::Empty);
        };
        let mut request = request(lines, None, slot.client().scheme());
        *request.method_mut() = Method::CONNECT;
        request.headers_mut().remove(header::SEC_WEBSOCKET_KEY);
        request.extensions_mut().insert(Protocol::from(name.as_str()));
        let (response, sink) = slot.send(request, End::Later).unzip();
        let accept = websocket::accept(protocol, lines.headers);
        Self {
            response,
            stream: None,
            upload: Upload::default(),
            method: Method::CONNECT,
            interims: 0,
            switch: sink.map(|sink| Switch { sink, accept }),
            slot,
        }
    }

    /// Sends what can be sent; the head of the response as soon as it is there. Not to be polled again after an end.
    pub fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Head, Failure>> {
        match self.upload.poll(&self.slot, context) {
            Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
            Poll::Pending if self.upload.body.is_in_hook() => return Poll::Pending,
            _ => {}
        }
        let Some(response) = &mut self.response else {
            return Poll::Ready(Err(self.unprocessed()));
        };
        while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(context) {
            if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(Fault::Upgrade.into()));
            }
            if self.interims == MAX_INTERIMS {
                return Poll::Ready(Err(Fault::Interims.into()));
            }
            self.interims += 1;
        }
        let response = match ready!(Pin::new(response).poll(context)) {
            Ok(response) => response,
            Err(error) if is_unprocessed(&error) => {
                self.slot.settle();
                return Poll::Ready(Err(self.unprocessed()));
            }
            Err(error) => return Poll::Ready(Err(failure(error, &self.slot))),
        };
        Poll::Ready(self.take(response))
    }

    fn take(&mut self, response: Response<RecvStream>) -> Result<Head, Failure> {
        let (head, stream) = response.into_parts();
        let mut headers = head.headers;
        if headers.len() > h1::MAX_FIELDS {
            return Err(Fault::Fields.into());
        }
        if headers.values().any(has_blanks) {
            return Err(Fault::Value.into());
        }
        // `h2` has seen that they are the same number.
        if headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_some()
            && let Some(length) = headers.get(header::CONTENT_LENGTH).cloned()
        {
            headers.insert(header::CONTENT_LENGTH, length);
        }
        let mut status = head.status;
        match &mut self.switch {
            Some(switch) if status.is_success() => {
                status = StatusCode::SWITCHING_PROTOCOLS;
                // It has no content, whatever it says (RFC 9110 9.3.6).
                headers.remove(header::CONTENT_LENGTH);
                if let Some(accept) = switch.accept.take() {
                    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
                }
            }
            Some(switch) => {
                // It fails where the server has closed it already.
                let _ = switch.sink.send_data(Bytes::new(), true);
                self.switch = None;
            }
            None => {}
        }
        let framing = match length(&headers) {
            _ if self.switch.is_some() || self.is_bare(status) || stream.is_end_stream() => Framing::Sized(0),
            Some(length) => Framing::Sized(length),
            None => Framing::UntilClose,
        };
        if stream.is_end_stream() && self.upload.stream.is_none() {
            self.slot.settle();
        }
        self.stream = Some(Intake::new(stream, self.slot.client().inbox()));
        Ok(Head {
            status,
            headers,
            framing,
            persistent: true,
        })
    }

    /// The response's body, with the rest of the request; `None` when there is no body.
    pub fn into_receiving(self, head: &Head) -> Option<Box<Receiving>> {
        let is_bare = self.is_bare(head.status);
        let stream = self.stream.filter(|stream| !is_bare && !stream.is_end_stream())?;
        Some(Box::new(Receiving {
            open: Some(Open {
                stream,
                upload: self.upload,
                slot: self.slot,
            }),
            left: match head.framing {
                Framing::Sized(length) => Some(length),
                Framing::Chunked | Framing::UntilClose => None,
            },
            is_in_trailers: false,
            broken: None,
        }))
    }

    /// The stream, when it carries another protocol now.
    pub fn into_duplex(self) -> Option<Duplex> {
        let (source, switch) = self.stream.zip(self.switch)?;
        Some(Duplex::new(source, switch.sink, Owner::Upstream(self.slot)))
    }

    /// RFC 9110 6.4.1: some responses end with their head.
    fn is_bare(&self, status: StatusCode) -> bool {
        self.method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }

    /// What [`Failure::Unsent`] gives back.
    pub fn into_body(self) -> RequestBody {
        let mut body = self.upload.body;
        if let Taken::First(piece) = self.upload.taken {
            body.put(piece, None);
        }
        body
    }

    /// The server has done nothing with it (RFC 9113 8.7), so it can be sent again, if it is still whole.
    fn unprocessed(&self) -> Failure {
        match self.upload.taken {
            Taken::Nothing | Taken::First(_) => Failure::Unsent,
            Taken::More => Failure::Reset(Reason::REFUSED_STREAM.into()),
        }
    }
}

/// The head of a request as HTTP/2 has it: no field of the connection, and Host in its place (RFC 9113 8.2.2, 8.3.1).
fn request(lines: &RequestLines<'_>, length: Option<u64>, scheme: &http::uri::Scheme) -> Request<()> {
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
    // A method that usually has a body says that this one is empty (RFC 9110 8.6), if the client did.
    if let Some(length) = length.filter(|length| *length > 0 || has_length) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let host = lines.headers.get(header::HOST).map(HeaderValue::as_bytes);
    let authority = host.and_then(|host| Authority::try_from(host).ok());
    let mut parts = Parts::default();
    parts.scheme = Some(scheme.clone());
    parts.authority = Some(authority.unwrap_or_else(|| Authority::from_static("localhost")));
    parts.path_and_query = Some(lines.target.clone());
    let mut request = Request::new(());
    *request.method_mut() = lines.method.clone();
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.headers_mut() = headers;
    request
}

fn has_blanks(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    matches!(bytes.first(), Some(b' ' | b'\t')) || matches!(bytes.last(), Some(b' ' | b'\t'))
}

/// `h2` holds the server to it (RFC 9113 8.1.1).
fn length(headers: &HeaderMap) -> Option<u64> {
    let digits = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?;
    digits.parse().ok()
}

/// Refused, or begun after the last one that the server will answer before it goes away.
fn is_unprocessed(error: &h2::Error) -> bool {
    let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (is_refused || error.is_go_away())
}

fn failure(error: h2::Error, slot: &Slot) -> Failure {
    slot.settle();
    if let Some(cut) = slot.client().cut() {
        return Failure::Broken(std::io::Error::other(cut.as_str()));
    }
    // Ended for what was too much on it altogether, which is nothing that the server can be blamed for.
    let is_calmed = error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
    if !error.is_reset() && (is_calmed || slot.client().is_worn()) {
        return Failure::Worn;
    }
    match error.reason() {
        Some(reason) if error.is_library() => {
            slot.client().fault();
            Fault::Protocol(reason.into()).into()
        }
        Some(reason) => Failure::Reset(reason.into()),
        None => {
            let text = error.to_string();
            Failure::Broken(error.into_io().unwrap_or_else(|| std::io::Error::other(text)))
        }
    }
}

/// A request's body on its way out.
struct Upload {
    /// `None` when nothing more is sent.
    stream: Option<SendStream<Bytes>>,
    body: RequestBody,
    /// Taken from the body, and not sent yet.
    piece: Bytes,
    /// Nothing follows it.
    is_last: bool,
    taken: Taken,
}

impl Default for Upload {
    /// Of a request without a body.
    fn default() -> Self {
        Self {
            stream: None,
            body: RequestBody::Empty,
            piece: Bytes::new(),
            is_last: false,
            taken: Taken::Nothing,
        }
    }
}

/// What was taken from a body; the first piece is kept until there is an answer, so that it can go back.
enum Taken {
    Nothing,
    First(Bytes),
    More,
}

impl Upload {
    /// Ready when nothing is left to do. That the server takes no more is no failure: it may answer all the same.
    fn poll(&mut self, slot: &Slot, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while self.stream.is_some() {
            if self.piece.is_empty() {
                ready!(self.poll_body(context))?;
            }
            ready!(self.poll_send(slot, context));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Ok(()));
        };
        let sent = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(piece) => {
                    self.taken = match self.taken {
                        Taken::Nothing => Taken::First(piece.clone()),
                        Taken::First(_) | Taken::More => Taken::More,
                    };
                    self.piece = piece;
                    self.is_last = self.body.is_end_stream();
                    if !self.piece.is_empty() || !self.is_last {
                        return Poll::Ready(Ok(()));
                    }
                    stream.send_data(Bytes::new(), true)
                }
                Err(frame) => {
                    self.taken = Taken::More;
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    hop::strip_trailers(&mut trailers);
                    stream.send_trailers(trailers)
                }
            },
            None => stream.send_data(Bytes::new(), true),
            Some(Err(_)) => {
                // Never like a whole one (RFC 9113 8.1).
                stream.send_reset(Reason::CANCEL);
                self.stream = None;
                return Poll::Ready(Err(Failure::Upload));
            }
        };
        match sent {
            Ok(()) => self.stream = None,
            Err(_) => self.give_up(),
        }
        Poll::Ready(Ok(()))
    }

    /// Sends the piece, as fast as the server takes it.
    fn poll_send(&mut self, slot: &Slot, context: &mut Context<'_>) -> Poll<()> {
        while !self.piece.is_empty() {
            let Some(stream) = &mut self.stream else {
                return Poll::Ready(());
            };
            stream.reserve_capacity(self.piece.len());
            let mut room = stream.capacity();
            while room == 0 {
                room = match ready!(stream.poll_capacity(context)) {
                    Some(Ok(room)) => room,
                    Some(Err(_)) | None => {
                        self.give_up();
                        return Poll::Ready(());
                    }
                };
            }
            let piece = self.piece.split_to(room.min(self.piece.len()));
            let is_end = self.is_last && self.piece.is_empty();
            slot.client().earn_frame(piece.len());
            match stream.send_data(piece, is_end) {
                Ok(()) if is_end => self.stream = None,
                Ok(()) => {}
                Err(_) => self.give_up(),
            }
        }
        Poll::Ready(())
    }

    /// Lets go of what will never be sent, so that the client is asked for no more of it. What was taken first stays.
    fn give_up(&mut self) {
        self.stream = None;
        self.piece = Bytes::new();
        if matches!(self.taken, Taken::More) {
            self.body = RequestBody::Empty;
        }
    }
}

/// A response's body on its way, and the rest of its request.
pub struct Receiving {
    /// `None` when it is over.
    open: Option<Open>,
    /// What is still to come, if the head said how much it is.
    left: Option<u64>,
    is_in_trailers: bool,
    /// What became of the request's body, until it is told.
    broken: Option<Failure>,
}

struct Open {
    stream: Intake,
    upload: Upload,
    slot: Slot,
}

impl Open {
    /// The response is there to its end.
    fn settle(&self) {
        if self.upload.stream.is_none() {
            self.slot.settle();
        }
    }
}

impl fmt::Debug for Receiving {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Receiving")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl Receiving {
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let polled = self.poll_piece(context);
        if matches!(&polled, Poll::Ready(None | Some(Err(_)))) {
            self.open = None;
        }
        polled
    }

    /// Sends what can be sent of the request, while nothing of the response can be taken.
    pub fn poll_upload(&mut self, context: &mut Context<'_>) {
        if let Some(open) = &mut self.open
            && let Poll::Ready(Err(failure)) = open.upload.poll(&open.slot, context)
        {
            // Told with the response.
            self.broken = Some(failure);
        }
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let Some(open) = &mut self.open else {
            return Poll::Ready(None);
        };
        if let Some(failure) = self.broken.take() {
            return Poll::Ready(Some(Err(failure)));
        }
        match open.upload.poll(&open.slot, context) {
            Poll::Ready(Err(failure)) => return Poll::Ready(Some(Err(failure))),
            Poll::Pending if open.upload.body.is_in_hook() => return Poll::Pending,
            _ => {}
        }
        while !self.is_in_trailers {
            match ready!(open.stream.poll_data(context)) {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => {
                    open.stream.release(bytes.len());
                    self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                    if open.stream.is_end_stream() {
                        open.settle();
                        self.open = None;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(failure(error, &open.slot)))),
                None => self.is_in_trailers = true,
            }
        }
        let trailers = match ready!(open.stream.poll_trailers(context)) {
            Ok(Some(trailers)) if trailers.len() > h1::MAX_FIELDS => Some(Err(Fault::Fields.into())),
            Ok(Some(trailers)) if trailers.values().any(has_blanks) => Some(Err(Fault::Value.into())),
            Ok(Some(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(None) => None,
            Err(error) => Some(Err(failure(error, &open.slot))),
        };
        open.settle();
        self.open = None;
        Poll::Ready(trailers)
    }

    pub fn is_ended(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.stream.is_end_stream())
    }

    /// Bytes that are still to come, if the head said how many.
    pub fn left(&self) -> Option<u64> {
        self.left
    }
}
