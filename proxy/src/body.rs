//! Bodies on their way through: a closed set of shapes, no boxing.
//!
//! Data plane. A body is streamed frame by frame, pulled by whoever writes it, so back-pressure reaches from one
//! peer to the other and memory stays constant. Nothing here looks into the bytes; a filter does, from its `stage`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::chain::Broken;
use crate::filter::{Reply, Side};
use crate::http2;
use crate::mirror::{Copied, Teed};
use crate::passage::Passage;
use crate::replay::Reader;
use crate::stage::{Cut, Filtered};
use crate::timer::Watchdog;
use crate::upstream::{Download, Failure};
use crate::wasm::http::{Passing, Returned};

/// A response's body.
#[derive(Debug)]
pub enum Body {
    Empty,
    Full(Bytes),
    /// An upstream's, as it comes.
    Download(Download),
    /// Behind a filter's stage.
    Filtered(Box<Filtered<BodyFault>>),
    /// A middleware's.
    Returned(Box<Returned>),
}

/// Why a response's body ends before its end.
#[derive(Debug)]
pub enum BodyFault {
    Upstream(Failure),
    Filter(Broken),
    /// A filter has ended the exchange.
    Replied,
}

impl fmt::Display for BodyFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream(failure) => failure.fmt(formatter),
            Self::Filter(broken) => write!(formatter, "filter `{}`: {}", broken.filter, broken.failure.as_str()),
            Self::Replied => formatter.write_str("a filter has ended the exchange"),
        }
    }
}

impl std::error::Error for BodyFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Upstream(failure) => failure.source(),
            Self::Filter(_) | Self::Replied => None,
        }
    }
}

impl From<Cut<BodyFault>> for BodyFault {
    fn from(cut: Cut<BodyFault>) -> Self {
        match cut {
            Cut::Source(fault) => fault,
            Cut::Filter(broken) => Self::Filter(broken),
            Cut::Replied(_) => Self::Replied,
        }
    }
}

impl Body {
    /// Has the rest of the request go on while the client takes nothing of the response; as far as an upstream's connection
    /// can, and no filter is in between.
    pub fn poll_upload(&mut self, context: &mut Context<'_>) {
        match self {
            Self::Download(Download::Http2(receiving)) => receiving.poll_upload(context),
            Self::Download(Download::Service(receiving)) => receiving.poll_upload(context),
            Self::Download(Download::Streamed(receiving)) => receiving.poll_upload(context),
            Self::Returned(returned) => returned.poll_upload(context),
            _ => {}
        }
    }

    /// Puts a filter's stage in the way.
    pub fn filter(&mut self, passage: &Rc<Passage>, turn: usize) {
        let source = std::mem::replace(self, Body::Empty);
        *self = Body::Filtered(Box::new(Filtered::new(source, passage, turn, Side::Response)));
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Full(_) => match std::mem::replace(&mut *self, Body::Empty) {
                Body::Full(bytes) if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
            Body::Download(download) => Pin::new(download)
                .poll_frame(context)
                .map(|frame| frame.map(|frame| frame.map_err(BodyFault::Upstream))),
            Body::Filtered(filtered) => filtered
                .poll(context)
                .map(|frame| frame.map(|frame| frame.map_err(BodyFault::from))),
            Body::Returned(returned) => returned.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(bytes) => bytes.is_empty(),
            Body::Download(download) => download.is_end_stream(),
            Body::Filtered(filtered) => filtered.is_over(),
            Body::Returned(returned) => returned.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Download(download) => download.size_hint(),
            Body::Filtered(_) => SizeHint::default(),
            Body::Returned(returned) => returned.size_hint(),
        }
    }
}

/// How far a request's body has come; shared by the connection that sends it and the exchange that waits.
#[derive(Debug, Default)]
pub struct Upload {
    pub bytes: Cell<u64>,
    pub fault: Cell<Option<UploadFault>>,
    pub ended: Cell<bool>,
    /// The client waits to be told to go on, which it is when more of it is asked for.
    pub expects_continue: Cell<bool>,
    /// When a piece of it came last.
    pub at: Cell<Option<Instant>>,
    /// More of it was asked for and is not there: whatever takes its time, it is the client.
    pub waits: Cell<bool>,
    /// The same, and it is a filter that takes its time.
    pub in_filter: Cell<bool>,
    /// What a filter in its way did, when that is the fault.
    pub cut: RefCell<Option<UploadCut>>,
}

impl Upload {
    /// Of a request to which a filter gave a body.
    pub fn nothing() -> Rc<Self> {
        Rc::new(Self {
            ended: Cell::new(true),
            ..Self::default()
        })
    }
}

/// Pieces of a body that are kept at once, for a mirror or for another try: a client that sends byte by byte must not
/// have each of them cost what a piece costs.
pub const MAX_KEPT_PIECES: usize = 1 << 10;
/// From here on a piece fills most of the buffer that it was read to.
const LARGE_PIECE: usize = 16 << 10;

/// The same bytes, to be kept for a while: a small piece would keep all of the buffer that it was read to.
pub fn detached(piece: &Bytes) -> Bytes {
    match piece.len() < LARGE_PIECE {
        true => Bytes::copy_from_slice(piece),
        false => piece.clone(),
    }
}

/// How a filter broke off a request's body.
#[derive(Debug)]
pub enum UploadCut {
    Broken(Broken),
    Replied(Box<Reply>),
}

/// Why a request's body ended early; the client's doing unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadFault {
    /// Not what its framing says (RFC 9112 7.1).
    Malformed,
    /// Nothing came for `limits.body_timeout`.
    TimedOut,
    /// The client closed the connection.
    Disconnected,
    /// A filter in its way failed, or has ended the exchange: see [`Upload::cut`].
    Filter,
}

/// The request's body as the upstream connection pulls it, with the client's deadlines.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    Full(Bytes),
    Streamed(Box<Streamed>),
    Held(Box<Held>),
    /// Behind a filter's stage.
    Filtered(Box<FilteredUpload>),
    /// One that can be sent once more.
    Kept(Box<Reader>),
    /// One that is copied for a mirror, and the copy.
    Teed(Box<Teed>),
    Copied(Box<Copied>),
    /// One that a guest sends with a call of its own.
    Made(Box<Made>),
    /// One that a middleware has passed on.
    Passed(Box<Passed>),
}

#[derive(Debug)]
pub struct Passed {
    passing: Passing,
    upload: Rc<Upload>,
    /// The middleware's.
    turn: usize,
}

/// What has come of a body that nobody has asked for.
#[derive(Default)]
struct Ahead {
    frames: VecDeque<Result<Frame<Bytes>, UploadFault>>,
    bytes: usize,
    is_over: bool,
}

/// What is read of a request whose component does not: a client that leaves is noticed, if it had sent no more.
const MAX_AHEAD: usize = 64 << 10;

/// What comes from elsewhere, in whatever shape.
pub struct Made(UnsyncBoxBody<Bytes, BrokenUpload>);

impl Made {
    pub fn new(body: UnsyncBoxBody<Bytes, BrokenUpload>) -> Self {
        Self(body)
    }

    pub fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

impl fmt::Debug for Made {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Made").finish_non_exhaustive()
    }
}

/// What a filter has seen of a body, or put in its place, and the rest.
#[derive(Debug)]
pub struct Held {
    seen: Bytes,
    /// `Empty` once it is all.
    rest: RequestBody,
    trailers: Option<HeaderMap>,
}

#[derive(Debug)]
pub struct FilteredUpload {
    filtered: Filtered<BrokenUpload>,
    upload: Rc<Upload>,
}

/// Where a request's body comes from.
#[derive(Debug)]
pub enum Source {
    /// There is none: what follows the head is another protocol's.
    Nothing,
    Http1(Incoming),
    Http2(http2::Incoming),
}

impl Source {
    pub fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Http1(incoming) => incoming.size_hint(),
            Self::Http2(incoming) => incoming.size_hint(),
        }
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        match self {
            Self::Nothing => Poll::Ready(None),
            Self::Http1(incoming) => Pin::new(incoming)
                .poll_frame(context)
                .map(|frame| frame.map(|frame| frame.map_err(|error| fault_of(&error)))),
            Self::Http2(incoming) => incoming.poll_frame(context),
        }
    }
}

pub struct Streamed {
    incoming: Source,
    ahead: Option<Box<Ahead>>,
    upload: Rc<Upload>,
    timeout: Duration,
    waiting_since: Option<Instant>,
    watchdog: Watchdog,
}

impl std::fmt::Debug for Streamed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Streamed")
            .field("upload", &self.upload)
            .finish_non_exhaustive()
    }
}

impl RequestBody {
    pub fn new(incoming: Source, upload: &Rc<Upload>, timeout: Duration) -> Self {
        if incoming.is_end_stream() {
            upload.ended.set(true);
            return Self::Empty;
        }
        Self::Streamed(Box::new(Streamed {
            incoming,
            ahead: None,
            upload: Rc::clone(upload),
            timeout,
            waiting_since: None,
            watchdog: Watchdog::default(),
        }))
    }

    pub fn passed(passing: Passing, upload: &Rc<Upload>, turn: usize) -> Self {
        Self::Passed(Box::new(Passed {
            passing,
            upload: Rc::clone(upload),
            turn,
        }))
    }

    /// Whether there is nothing of it, not even a length of zero that a filter gave it.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Whether a filter's hook was parked on its way when this was polled last.
    pub fn is_in_hook(&self) -> bool {
        match self {
            Self::Filtered(filtered) => filtered.filtered.is_in_hook(),
            Self::Held(held) => held.rest.is_in_hook(),
            Self::Kept(reader) => reader.is_in_hook(),
            Self::Teed(teed) => teed.source().is_in_hook(),
            Self::Passed(passed) => passed.passing.is_in_hook(),
            Self::Empty | Self::Full(_) | Self::Streamed(_) | Self::Copied(_) | Self::Made(_) => false,
        }
    }

    /// Puts a filter's stage in the way; without effect where there is nothing to filter.
    pub fn filter(&mut self, passage: &Rc<Passage>, turn: usize, upload: &Rc<Upload>) {
        let source = std::mem::replace(self, Self::Empty);
        *self = Self::Filtered(Box::new(FilteredUpload {
            filtered: Filtered::new(source, passage, turn, Side::Request),
            upload: Rc::clone(upload),
        }));
    }

    /// Reads the first `max` bytes; whether that is all of it. They go on with [`RequestBody::put`].
    pub async fn hold(&mut self, max: usize) -> Result<(Bytes, bool), BrokenUpload> {
        let mut seen = BytesMut::new();
        let mut trailers = None;
        loop {
            let frame = std::future::poll_fn(|context| Pin::new(&mut *self).poll_frame(context)).await;
            let Some(frame) = frame else { break };
            match frame?.into_data() {
                Ok(mut piece) if seen.len() + piece.len() > max => {
                    seen.extend_from_slice(&piece.split_to(max - seen.len()));
                    self.put(piece, None);
                    return Ok((seen.freeze(), false));
                }
                Ok(piece) => seen.extend_from_slice(&piece),
                Err(other) => trailers = other.into_trailers().ok(),
            }
        }
        if trailers.is_some() {
            self.put(Bytes::new(), trailers);
        }
        Ok((seen.freeze(), true))
    }

    /// While a component does not ask for more of it: whether the client has left, as far as what is read of it for nobody
    /// says so.
    pub fn poll_ahead(&mut self, context: &mut Context<'_>) -> bool {
        match self {
            Self::Streamed(streamed) => streamed.poll_ahead(context),
            _ => false,
        }
    }

    /// Of one that is answered before its end: reads what has come of it, because its connection can be kept if that is all.
    /// Whether there may be more in a moment. A client that waits to be told to go on is not, unless `asks`.
    pub fn read_ahead(&mut self, context: &mut Context<'_>, asks: bool) -> bool {
        match self {
            Self::Streamed(streamed) => streamed.read_ahead(context, asks),
            _ => false,
        }
    }

    /// Ready when it has begun, which nothing is lost of, or has come to its end; it is [`RequestBody::Empty`] then. Not to
    /// be polled again after an end.
    pub fn poll_begin(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BrokenUpload>> {
        if self.is_end_stream() {
            *self = Self::Empty;
            return Poll::Ready(Ok(()));
        }
        match ready!(Pin::new(&mut *self).poll_frame(context))
            .transpose()?
            .map(Frame::into_data)
        {
            Some(Ok(bytes)) => self.put(bytes, None),
            Some(Err(frame)) => self.put(Bytes::new(), frame.into_trailers().ok()),
            None => *self = Self::Empty,
        }
        Poll::Ready(Ok(()))
    }

    /// Puts bytes before what is left of it.
    pub fn put(&mut self, seen: Bytes, trailers: Option<HeaderMap>) {
        let rest = std::mem::replace(self, Self::Empty);
        *self = match rest {
            Self::Held(mut held) if held.seen.is_empty() => {
                held.seen = seen;
                Self::Held(held)
            }
            Self::Empty if trailers.is_none() => Self::Full(seen),
            rest => Self::Held(Box::new(Held { seen, rest, trailers })),
        };
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BrokenUpload;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenUpload>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Streamed(streamed) => streamed.poll(context),
            Self::Held(held) => held.poll(context),
            Self::Filtered(filtered) => filtered.poll(context),
            Self::Kept(reader) => reader.poll(context),
            Self::Teed(teed) => teed.poll(context),
            Self::Copied(copied) => copied.poll(context),
            Self::Made(made) => Pin::new(&mut made.0).poll_frame(context),
            Self::Passed(passed) => passed.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Kept(reader) => reader.is_end_stream(),
            Self::Teed(teed) => teed.source().is_end_stream(),
            Self::Copied(copied) => copied.is_end_stream(),
            Self::Made(made) => made.0.is_end_stream(),
            Self::Passed(passed) => passed.passing.is_end_stream(),
            Self::Streamed(streamed) => streamed.is_end_stream(),
            Self::Held(held) => held.seen.is_empty() && held.trailers.is_none() && held.rest.is_end_stream(),
            Self::Filtered(filtered) => filtered.filtered.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Streamed(streamed) => streamed.size_hint(),
            Self::Held(held) if held.trailers.is_some() => SizeHint::default(),
            Self::Held(held) => match held.rest.size_hint().exact() {
                Some(rest) => SizeHint::with_exact(held.seen.len() as u64 + rest),
                None => SizeHint::default(),
            },
            Self::Filtered(_) => SizeHint::default(),
            Self::Kept(reader) => reader.size_hint(),
            Self::Teed(teed) => teed.source().size_hint(),
            Self::Copied(copied) => copied.size_hint(),
            Self::Made(made) => made.0.size_hint(),
            Self::Passed(passed) => passed.passing.size_hint(),
        }
    }
}

impl Held {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenUpload>>> {
        if !self.seen.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.seen)))));
        }
        match ready!(Pin::new(&mut self.rest).poll_frame(context)) {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
        }
    }
}

impl FilteredUpload {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenUpload>>> {
        let cut = match ready!(self.filtered.poll(context)) {
            Some(Ok(frame)) => return Poll::Ready(Some(Ok(frame))),
            None => return Poll::Ready(None),
            Some(Err(Cut::Source(broken))) => return Poll::Ready(Some(Err(broken))),
            Some(Err(Cut::Filter(broken))) => UploadCut::Broken(broken),
            Some(Err(Cut::Replied(reply))) => UploadCut::Replied(reply),
        };
        *self.upload.cut.borrow_mut() = Some(cut);
        self.upload.fault.set(Some(UploadFault::Filter));
        Poll::Ready(Some(Err(BrokenUpload(UploadFault::Filter))))
    }
}

impl Passed {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenUpload>>> {
        self.upload.in_filter.set(false);
        let polled = self.passing.poll_frame(context);
        // However the guest goes on with what it makes of a body that broke off, there is no more of it.
        if let Some(fault) = self.upload.fault.get() {
            return Poll::Ready(Some(Err(BrokenUpload(fault))));
        }
        if polled.is_pending() && self.passing.is_guests() {
            self.upload.in_filter.set(true);
        }
        Poll::Ready(match ready!(polled) {
            Some(Ok(frame)) => Some(Ok(frame)),
            None => None,
            Some(Err(fault)) => {
                let cut = self.passing.fail(self.turn, fault).map(UploadCut::Broken);
                *self.upload.cut.borrow_mut() = cut;
                self.upload.fault.set(Some(UploadFault::Filter));
                Some(Err(BrokenUpload(UploadFault::Filter)))
            }
        })
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        self.upload.in_filter.set(false);
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.upload.waits.set(false);
    }
}

impl Streamed {
    /// Reads it to its end; whether there was one.
    pub async fn discard(&mut self) -> bool {
        loop {
            match std::future::poll_fn(|context| self.poll(context)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) => return false,
                None => return true,
            }
        }
    }

    pub fn size_hint(&self) -> SizeHint {
        let left = self.incoming.size_hint();
        match &self.ahead {
            Some(ahead) => left.exact().map_or_else(SizeHint::default, |left| {
                SizeHint::with_exact(left + ahead.bytes as u64)
            }),
            None => left,
        }
    }

    fn is_end_stream(&self) -> bool {
        let has_none_ahead = self.ahead.as_ref().is_none_or(|ahead| ahead.frames.is_empty());
        has_none_ahead && self.incoming.is_end_stream()
    }

    /// Reads some of it for whoever does not ask, and says whether it has broken off. HTTP/2 tells by itself.
    fn poll_ahead(&mut self, context: &mut Context<'_>) -> bool {
        matches!(self.incoming, Source::Http1(_)) && self.fill_ahead(context)
    }

    fn read_ahead(&mut self, context: &mut Context<'_>, asks: bool) -> bool {
        let is_asked = !self.upload.expects_continue.get();
        let is_of_use = match self.incoming {
            Source::Http1(_) => asks || is_asked,
            // A stream ends without its connection.
            Source::Http2(_) => asks && !is_asked,
            Source::Nothing => false,
        };
        if !is_of_use || self.upload.ended.get() {
            return false;
        }
        let (is_first, before) = (self.ahead.is_none(), self.upload.bytes.get());
        let is_broken = self.fill_ahead(context);
        let has_come = self.upload.bytes.get() > before;
        (is_first || has_come) && !is_broken && !self.upload.ended.get()
    }

    /// Whether it has broken off.
    fn fill_ahead(&mut self, context: &mut Context<'_>) -> bool {
        self.upload.expects_continue.set(false);
        let mut ahead = self.ahead.take().unwrap_or_default();
        while ahead.bytes < MAX_AHEAD
            && !ahead.is_over
            && let Poll::Ready(frame) = self.incoming.poll_frame(context)
        {
            match frame {
                Some(Ok(frame)) => {
                    self.note(&frame);
                    ahead.bytes += frame.data_ref().map_or(0, Bytes::len);
                    ahead.frames.push_back(Ok(frame));
                }
                Some(Err(fault)) => {
                    self.fail(fault);
                    ahead.frames.push_back(Err(fault));
                    ahead.is_over = true;
                }
                None => {
                    self.upload.ended.set(true);
                    ahead.is_over = true;
                }
            }
        }
        let is_broken = ahead.frames.back().is_some_and(Result::is_err);
        self.ahead = Some(ahead);
        is_broken
    }

    fn take_ahead(&mut self) -> Option<Option<Result<Frame<Bytes>, BrokenUpload>>> {
        let ahead = self.ahead.as_mut()?;
        match ahead.frames.pop_front() {
            Some(Ok(frame)) => {
                ahead.bytes -= frame.data_ref().map_or(0, Bytes::len);
                Some(Some(Ok(frame)))
            }
            Some(Err(fault)) => Some(Some(Err(BrokenUpload(fault)))),
            None => ahead.is_over.then_some(None),
        }
    }

    fn note(&self, frame: &Frame<Bytes>) {
        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
        self.upload.bytes.set(self.upload.bytes.get() + bytes);
        self.upload.at.set(Some(Instant::now()));
        // Nothing follows trailers, and hyper does not ask.
        let is_last = frame.is_trailers() || self.incoming.is_end_stream();
        self.upload.ended.set(is_last);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenUpload>>> {
        if let Some(frame) = self.take_ahead() {
            return Poll::Ready(frame);
        }
        self.upload.expects_continue.set(false);
        let polled = self.incoming.poll_frame(context);
        self.upload.waits.set(polled.is_pending());
        if polled.is_pending() {
            return self.poll_deadline(context);
        }
        self.waiting_since = None;
        match ready!(polled) {
            Some(Ok(frame)) => {
                self.note(&frame);
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(fault)) => Poll::Ready(Some(Err(self.fail(fault)))),
            None => {
                self.upload.ended.set(true);
                Poll::Ready(None)
            }
        }
    }

    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenUpload>>> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        if self.watchdog.expired(context, since + self.timeout) {
            return Poll::Ready(Some(Err(self.fail(UploadFault::TimedOut))));
        }
        Poll::Pending
    }

    fn fail(&self, fault: UploadFault) -> BrokenUpload {
        self.upload.waits.set(false);
        self.upload.fault.set(Some(fault));
        BrokenUpload(fault)
    }
}

/// hyper reports malformed chunks as `InvalidData` or `InvalidInput`, and a body that is cut short by the end of the
/// connection as incomplete.
fn fault_of(error: &hyper::Error) -> UploadFault {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return match error.kind() {
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput => UploadFault::Malformed,
                std::io::ErrorKind::TimedOut => UploadFault::TimedOut,
                _ => UploadFault::Disconnected,
            };
        }
        source = cause.source();
    }
    if error.is_parse() {
        UploadFault::Malformed
    } else {
        UploadFault::Disconnected
    }
}

/// The client's body broke off.
#[derive(Debug)]
pub struct BrokenUpload(pub UploadFault);

impl std::fmt::Display for BrokenUpload {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "the request's body broke off: {:?}", self.0)
    }
}

impl std::error::Error for BrokenUpload {}
