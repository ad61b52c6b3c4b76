//! One request over an upstream connection, from its first byte to the last of its response.
//!
//! Data plane. A [`Call`] over HTTP/2 is a stream that [`http2`] knows all about, one to a component that serves is
//! [`wasm::http`](crate::wasm::http)'s; the rest of this file is HTTP/1.1, which has a connection to itself. No task and no channel: a connection moves only while its exchange polls it. The request goes on being
//! sent while the response comes (RFC 9112 9.3 and 9.5 allow a response at any time), with back-pressure both ways: the
//! request's body is asked for more only when what it gave before is written. Invariant: a connection goes back to its
//! pool after a response that ended where its framing says and a request that was sent whole, and is cut in every
//! other case. Bytes become heads and bodies in [`h1`]; deadlines are the exchange's.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::body::RequestBody;
use crate::h1::{self, Decoder, Encoder, Fault, Framing, Head, Parsed, Piece, RequestLines};
use crate::hop;
use crate::http2;
use crate::pool::{Channel, Connection};
use crate::service;
use crate::stream::Stream;
use crate::wasm;

/// What one read takes while a head is waited for. Most responses come whole in it, and what came is copied out of it
/// once; shared by all connections of a worker, so that one that waits holds no buffer.
const HEAD_READ: usize = 32 << 10;
/// What one read of a body takes at most; as much as the server's side takes from a client.
const MAX_READ: usize = 64 << 10;
/// What the first one takes when the length is not known; doubled whenever a read fills it.
const FIRST_READ: usize = 8 << 10;
/// Pieces of a request's body up to here are copied behind what stands before them, so that they leave in one write.
const SMALL_PIECE: usize = 4 << 10;
/// The request's body is not asked for more while so many bytes wait to be written.
const MAX_UNSENT: usize = 16 << 10;
/// Interim responses to one request. Nobody sends more than a few; a hundred thousand are an attack.
pub const MAX_INTERIMS: u8 = 64;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; HEAD_READ].into_boxed_slice());
}

/// Why a response did not come, or not to its end.
#[derive(Debug)]
pub enum Failure {
    /// Nothing of the request was sent, or the server has done nothing with it (RFC 9113 8.7), and its body is whole: it
    /// can be sent again (RFC 9110 9.2.2), see [`Call::into_body`].
    Unsent,
    /// The connection broke, or ended too early.
    Broken(io::Error),
    /// What came is not a response that may be relayed.
    Malformed(Fault),
    /// The same in HTTP/2.
    MalformedHttp2(http2::Fault),
    /// The server has reset the stream, for the reason with this code (RFC 9113 7).
    Reset(u32),
    /// The connection was ended for what was too much on it altogether, of many exchanges: nobody's fault that is known.
    Worn,
    /// The request's own body broke off, or was not as long as its head said.
    Upload,
    /// A component gave no answer, or not all of one.
    Service(service::Fault),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Unsent => formatter.write_str("the server took nothing of the request"),
            Failure::Broken(error) => write!(formatter, "the connection broke: {error}"),
            Failure::Malformed(fault) => write!(formatter, "not a response: {fault}"),
            Failure::MalformedHttp2(fault) => write!(formatter, "not a response: {fault}"),
            Failure::Reset(code) => write!(formatter, "the server has reset the stream: code {code}"),
            Failure::Worn => formatter.write_str("the connection was ended for what its streams did together"),
            Failure::Upload => formatter.write_str("the request's body broke off"),
            Failure::Service(fault) => fault.fmt(formatter),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Failure::Malformed(fault)
    }
}

impl From<http2::Fault> for Failure {
    fn from(fault: http2::Fault) -> Self {
        Failure::MalformedHttp2(fault)
    }
}

/// A request under way, until the head of its response is there. It is boxed because it is handed on nine times, and to
/// move its 288 bytes as often takes longer than an allocation.
pub enum Call {
    Http1(Box<Http1Call>),
    Http2(Box<http2::Call>),
    Service(Box<wasm::http::Call>),
}

impl Call {
    pub fn new(channel: Channel, lines: &RequestLines<'_>, body: RequestBody) -> Self {
        match channel {
            Channel::Http1(connection) => Self::Http1(Box::new(Http1Call::new(connection, lines, body))),
            Channel::Http2(slot) => Self::Http2(Box::new(http2::Call::new(slot, lines, body))),
            Channel::Service(place) => Self::Service(Box::new(wasm::http::Call::new(place, lines, body))),
        }
    }

    /// One whose head asks to change the protocol, and which may be answered so.
    pub fn switching(channel: Channel, lines: &RequestLines<'_>, offer: Offer) -> Self {
        match channel {
            Channel::Http1(connection) => {
                let mut call = Box::new(Http1Call::new(connection, lines, RequestBody::Empty));
                call.offer = Some(Box::new(offer));
                Self::Http1(call)
            }
            Channel::Http2(slot) => Self::Http2(Box::new(http2::Call::switching(slot, lines, &offer.protocol))),
            Channel::Service(place) => Self::Service(Box::new(wasm::http::Call::new(place, lines, RequestBody::Empty))),
        }
    }

    /// Sends what can be sent; the head of the response as soon as it is there. Not to be polled again after an end.
    #[inline]
    pub fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Head, Failure>> {
        match self {
            Self::Http1(call) => call.poll_head(context),
            Self::Http2(call) => call.poll_head(context),
            Self::Service(call) => call.poll_head(context),
        }
    }

    /// The response's body. An HTTP/1.1 connection is kept, if it can be, as soon as that is whole.
    #[inline]
    pub fn into_download(self, head: &Head, now: Instant) -> Download {
        match self {
            Self::Http1(call) => call.into_download(head, now),
            Self::Http2(call) => match call.into_receiving(head) {
                Some(receiving) => Download::Http2(receiving),
                None => Download::Whole(Bytes::new()),
            },
            Self::Service(call) => match call.into_receiving(head) {
                Some(receiving) => Download::Service(receiving),
                None => Download::Whole(Bytes::new()),
            },
        }
    }

    /// After a 101: the connection, which is nobody else's any more.
    pub fn into_switched(self) -> Option<Switched> {
        match self {
            Self::Http1(call) => Some(Switched::Http1 {
                connection: call.connection,
                input: call.input,
            }),
            Self::Http2(call) => call.into_duplex().map(Switched::Http2),
            Self::Service(_) => None,
        }
    }

    /// Nothing more of the request is sent.
    pub fn abandon(&self) {
        if let Self::Http1(call) = self {
            call.connection.stream.discard();
        }
    }

    /// What [`Failure::Unsent`] gives back; nothing of the request is sent any more.
    pub fn into_body(self) -> RequestBody {
        self.abandon();
        match self {
            Self::Http1(call) => call.sending.body,
            Self::Http2(call) => call.into_body(),
            // The guest has it, and never gives it back.
            Self::Service(_) => RequestBody::Empty,
        }
    }
}

/// A request that has a connection to itself.
pub struct Http1Call {
    connection: Connection,
    sending: Sending,
    method: Method,
    /// What the request offers to change to.
    offer: Option<Box<Offer>>,
    /// What came of the response and is not taken yet.
    input: Bytes,
    interims: u8,
}

/// The protocol that a request asks to change to.
pub struct Offer {
    pub protocol: HeaderValue,
    /// What the server has to say as `Sec-WebSocket-Accept`, when the client is not the one who will look at it.
    pub accept: Option<HeaderValue>,
}

/// What has changed its protocol.
pub enum Switched {
    /// A connection, and what has come on it since.
    Http1 {
        connection: Connection,
        input: Bytes,
    },
    Http2(http2::Duplex),
}

impl Http1Call {
    fn new(connection: Connection, lines: &RequestLines<'_>, body: RequestBody) -> Self {
        let mut buffer = Vec::new();
        let encoder = Encoder::begin(lines, body.size_hint().exact(), &mut buffer);
        let sent_before = connection.stream.sent();
        Self {
            connection,
            sending: Sending {
                buffer,
                written: 0,
                piece: Bytes::new(),
                tail: b"",
                encoder,
                body,
                state: State::Untouched,
                sent_before,
            },
            method: lines.method.clone(),
            offer: None,
            input: Bytes::new(),
            interims: 0,
        }
    }

    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Head, Failure>> {
        let stream = &mut self.connection.stream;
        match self.sending.poll(stream, context) {
            Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
            Poll::Pending if self.sending.is_in_hook() => return Poll::Pending,
            _ => {}
        }
        loop {
            let seen = self.input.len();
            if let Err(error) = ready!(self.poll_read(context)) {
                return Poll::Ready(Err(match self.sending.is_unsent(&self.connection.stream) {
                    true => Failure::Unsent,
                    false => self.sending.cause(error),
                }));
            }
            // A slow peer's head is not parsed anew for each of its bytes.
            if seen > 0 && self.input.len() <= h1::MAX_HEAD && !h1::ends_a_head(&self.input, seen) {
                continue;
            }
            if let Some(head) = self.parse()? {
                return Poll::Ready(Ok(head));
            }
        }
    }

    fn into_download(mut self: Box<Self>, head: &Head, now: Instant) -> Download {
        if let Framing::Sized(length) = head.framing
            && length <= self.input.len() as u64
        {
            // The connection is free before the client has the response.
            let body = self.input.split_to(length as usize);
            if head.persistent && self.input.is_empty() && self.sending.is_complete(&self.connection.stream) {
                self.connection.put_back(now);
            }
            return Download::Whole(body);
        }
        Download::Streamed(Box::new(Receiving {
            connection: Some(self.connection),
            sending: self.sending,
            decoder: Decoder::new(head.framing),
            input: self.input,
            ahead: None,
            buffer: BytesMut::new(),
            read_size: FIRST_READ,
            persistent: head.persistent,
        }))
    }

    fn parse(&mut self) -> Result<Option<Head>, Fault> {
        loop {
            match h1::parse(&mut self.input, &self.method)? {
                Parsed::Partial => return Ok(None),
                Parsed::Final(head) => return Ok(Some(head)),
                Parsed::Switching(head) if self.is_asked_for(&head) => return Ok(Some(head)),
                Parsed::Switching(_) => return Err(Fault::Upgrade),
                Parsed::Interim if self.interims == MAX_INTERIMS => return Err(Fault::Interims),
                Parsed::Interim => self.interims += 1,
            }
        }
    }

    /// Bytes of the new protocol that came before the whole request was sent would be for another one.
    fn is_asked_for(&self, switching: &Head) -> bool {
        let Some(offer) = &self.offer else { return false };
        let said = switching.headers.get_all(header::SEC_WEBSOCKET_ACCEPT);
        hop::switches_to(&switching.headers, &offer.protocol)
            && offer.accept.as_ref().is_none_or(|accept| said.iter().eq([accept]))
            && self.sending.is_complete(&self.connection.stream)
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.connection.stream).poll_read(context, &mut buffer))?;
            let filled = buffer.filled();
            if filled.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.input = if self.input.is_empty() {
                Bytes::copy_from_slice(filled)
            } else {
                [&self.input, filled].concat().into()
            };
            Poll::Ready(Ok(()))
        })
    }
}

/// The response's body; owns the connection as long as it needs it.
#[derive(Debug)]
pub enum Download {
    /// All of it came with the head.
    Whole(Bytes),
    Streamed(Box<Receiving>),
    Http2(Box<http2::Receiving>),
    Service(Box<wasm::http::Receiving>),
}

impl HttpBody for Download {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Streamed(receiving) => receiving.poll_frame(context),
            Self::Http2(receiving) => receiving.poll_frame(context),
            Self::Service(receiving) => receiving.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Streamed(receiving) => receiving.is_ended(),
            Self::Http2(receiving) => receiving.is_ended(),
            Self::Service(receiving) => receiving.is_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let left = match self {
            Self::Whole(bytes) => Some(bytes.len() as u64),
            Self::Streamed(receiving) => receiving.decoder.left().filter(|_| receiving.ahead.is_none()),
            Self::Http2(receiving) => receiving.left(),
            Self::Service(receiving) => receiving.left(),
        };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A response's body on its way, and the rest of its request.
pub struct Receiving {
    /// `None` when it is back in its pool or cut.
    connection: Option<Connection>,
    sending: Sending,
    decoder: Decoder,
    input: Bytes,
    /// What was found behind the piece that was handed over last.
    ahead: Option<Result<Piece, Fault>>,
    buffer: BytesMut,
    read_size: usize,
    persistent: bool,
}

impl std::fmt::Debug for Receiving {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Receiving")
            .field("decoder", &self.decoder)
            .finish_non_exhaustive()
    }
}

impl Receiving {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let polled = self.poll_piece(context);
        if let Poll::Ready(Some(Err(_))) = polled {
            self.connection = None;
        }
        polled
    }

    /// Has the rest of the request go on while nobody takes anything of the response.
    pub fn poll_upload(&mut self, context: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection {
            // What comes of it is seen when the response is asked for more.
            let _ = self.sending.poll(&mut connection.stream, context);
        }
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if let Some(connection) = &mut self.connection {
            match self.sending.poll(&mut connection.stream, context) {
                Poll::Ready(Err(failure)) => return Poll::Ready(Some(Err(failure))),
                Poll::Pending if self.sending.is_in_hook() => return Poll::Pending,
                _ => {}
            }
        }
        loop {
            let piece = match self.ahead.take() {
                Some(piece) => piece?,
                None => self.decoder.decode(&mut self.input)?,
            };
            match piece {
                Piece::Data(bytes) => {
                    self.look_ahead();
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Piece::Trailers(trailers) => {
                    self.end();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Piece::End => {
                    self.end();
                    return Poll::Ready(None);
                }
                Piece::More => ready!(self.poll_read(context))?,
            }
        }
    }

    /// Whether the body ends here can often be told without waiting: then the last piece and the end leave in one
    /// write, and the connection is free at once.
    fn look_ahead(&mut self) {
        match self.decoder.decode(&mut self.input) {
            Ok(Piece::More) => {}
            Ok(Piece::End) => self.end(),
            piece => self.ahead = Some(piece),
        }
    }

    fn is_ended(&self) -> bool {
        self.ahead.is_none() && self.decoder.left() == Some(0)
    }

    fn end(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        // What is left belongs to no request (RFC 9112 9.2): a connection that carries it is of no more use. Neither is
        // one whose request was overtaken by its response.
        if self.persistent && self.input.is_empty() && self.sending.is_complete(&connection.stream) {
            connection.put_back(Instant::now());
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(Err(Failure::Broken(io::ErrorKind::NotConnected.into())));
        };
        let wanted = match self.decoder.left() {
            // One more than is due: it is seen at once when the peer sends too much.
            Some(left) => usize::try_from(left).map_or(MAX_READ, |left| left.saturating_add(1).min(MAX_READ)),
            None => self.read_size,
        };
        if self.buffer.capacity() < wanted.div_ceil(4) {
            self.buffer.reserve(wanted);
        }
        let room = wanted.min(self.buffer.capacity());
        let mut limited = (&mut self.buffer).limit(room);
        let read = match ready!(pin!(connection.stream.read_buf(&mut limited)).poll(context)) {
            Ok(read) => read,
            Err(error) => return Poll::Ready(Err(self.sending.cause(error))),
        };
        if read == 0 {
            return Poll::Ready(
                self.decoder
                    .close()
                    .map_err(|fault| self.sending.cause(io::Error::other(fault))),
            );
        }
        if read >= self.read_size {
            self.read_size = (self.read_size * 2).min(MAX_READ);
        }
        self.input = self.buffer.split().freeze();
        Poll::Ready(Ok(()))
    }
}

/// A request on its way out.
struct Sending {
    /// The head, chunk lines and small pieces, of which the first `written` bytes are written to the stream.
    buffer: Vec<u8>,
    written: usize,
    /// A large piece of the body, behind the buffer.
    piece: Bytes,
    /// Behind the piece.
    tail: &'static [u8],
    encoder: Encoder,
    body: RequestBody,
    state: State,
    /// What the connection had sent before this request.
    sent_before: u64,
}

enum State {
    /// Nothing was taken from the body.
    Untouched,
    Begun,
    /// The peer takes no more. It may have answered before, so this is told only when no answer comes.
    Refused(io::Error),
}

impl Sending {
    /// Ready when nothing is left to do.
    fn poll(&mut self, stream: &mut Stream, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        // While the peer takes nothing there may still be something to take from the body.
        if let Poll::Ready(Err(error)) = Pin::new(&mut *stream).poll_flush(context) {
            return Poll::Ready(self.give_up(error, stream));
        }
        loop {
            let waiting = self.poll_fill(context)?.is_pending();
            if self.is_flushed() {
                return if waiting { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            match ready!(self.poll_write(stream, context)) {
                Ok(count) => self.advance(count),
                Err(error) => return Poll::Ready(self.give_up(error, stream)),
            }
        }
    }

    fn give_up(&mut self, error: io::Error, stream: &Stream) -> Result<(), Failure> {
        if self.is_unsent(stream) {
            return Err(Failure::Unsent);
        }
        self.refuse(error);
        Ok(())
    }

    /// Not a byte has left, and nothing was taken from the body.
    fn is_unsent(&self, stream: &Stream) -> bool {
        matches!(self.state, State::Untouched) && stream.sent() == self.sent_before
    }

    /// Whether a request hook was parked on its way. Until its end it has the exchange's message, and it is this that
    /// drives it: whoever went on with an answer now would miss the one and stop the other.
    fn is_in_hook(&self) -> bool {
        self.body.is_in_hook()
    }

    /// The request was sent whole.
    fn is_complete(&self, stream: &Stream) -> bool {
        let is_written = self.encoder.is_ended() && self.is_flushed() && !matches!(self.state, State::Refused(_));
        is_written && stream.is_clear()
    }

    /// Why there is no response: what the peer did first.
    fn cause(&mut self, error: io::Error) -> Failure {
        match std::mem::replace(&mut self.state, State::Begun) {
            State::Refused(first) => Failure::Broken(first),
            _ => Failure::Broken(error),
        }
    }

    /// Takes from the body what there is room for; pending while more is to come.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while !self.encoder.is_ended() && !matches!(self.state, State::Refused(_)) {
            if !self.piece.is_empty() || !self.tail.is_empty() || self.buffer.len() >= MAX_UNSENT {
                return Poll::Pending;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    self.state = State::Begun;
                    self.take(frame).ok_or(Failure::Upload)?;
                }
                Some(Err(_)) => return Poll::Ready(Err(Failure::Upload)),
                None => self.encoder.end(None, &mut self.buffer).ok_or(Failure::Upload)?,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Option<()> {
        match frame.into_data() {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => {
                let tail = self.encoder.frame(bytes.len(), &mut self.buffer)?;
                if bytes.len() <= SMALL_PIECE {
                    self.buffer.extend_from_slice(&bytes);
                    self.buffer.extend_from_slice(tail);
                } else {
                    (self.piece, self.tail) = (bytes, tail);
                }
            }
            Err(frame) => {
                let mut trailers: Option<HeaderMap> = frame.into_trailers().ok();
                if let Some(trailers) = &mut trailers {
                    hop::strip_trailers(trailers);
                }
                self.encoder.end(trailers.as_ref(), &mut self.buffer)?;
            }
        }
        Some(())
    }

    fn is_flushed(&self) -> bool {
        self.written == self.buffer.len() && self.piece.is_empty() && self.tail.is_empty()
    }

    fn poll_write(&mut self, stream: &mut Stream, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let before = &self.buffer[self.written..];
        let polled = if self.piece.is_empty() && self.tail.is_empty() {
            Pin::new(stream).poll_write(context, before)
        } else if before.is_empty() && self.tail.is_empty() {
            Pin::new(stream).poll_write(context, &self.piece)
        } else {
            let slices = [IoSlice::new(before), IoSlice::new(&self.piece), IoSlice::new(self.tail)];
            Pin::new(stream).poll_write_vectored(context, &slices)
        };
        match ready!(polled) {
            Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => Poll::Ready(written),
        }
    }

    fn advance(&mut self, count: usize) {
        let from_buffer = count.min(self.buffer.len() - self.written);
        let from_piece = (count - from_buffer).min(self.piece.len());
        self.written += from_buffer;
        if self.written == self.buffer.len() {
            (self.buffer, self.written) = (Vec::new(), 0);
        }
        self.piece = self.piece.split_off(from_piece);
        self.tail = &self.tail[count - from_buffer - from_piece..];
    }

    /// Lets go of what will never be sent, so that the client is asked for no more of it.
    fn refuse(&mut self, error: io::Error) {
        self.state = State::Refused(error);
        self.body = RequestBody::Empty;
        (self.buffer, self.written) = (Vec::new(), 0);
        (self.piece, self.tail) = (Bytes::new(), b"");
    }
}
