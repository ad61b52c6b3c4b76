//! Bodies on their way through: a closed set of shapes, no boxing.
//!
//! Data plane. A body is streamed frame by frame, pulled by whoever writes it, so back-pressure reaches from one
//! peer to the other and memory stays constant. Nothing here looks into the bytes.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::timer::Watchdog;
use crate::upstream::{Download, Failure};

/// One message's body.
#[derive(Debug)]
pub enum Body {
    Empty,
    Full(Bytes),
    /// An upstream's, as it comes.
    Download(Download),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Full(_) => match std::mem::replace(&mut *self, Body::Empty) {
                Body::Full(bytes) if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
            Body::Download(download) => Pin::new(download).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(bytes) => bytes.is_empty(),
            Body::Download(download) => download.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Download(download) => download.size_hint(),
        }
    }
}

/// How far a request's body has come; shared by the connection that sends it and the exchange that waits.
#[derive(Debug, Default)]
pub struct Upload {
    pub bytes: Cell<u64>,
    pub fault: Cell<Option<UploadFault>>,
    pub ended: Cell<bool>,
}

/// Why a request's body ended early; the client's doing in each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadFault {
    /// Not what its framing says (RFC 9112 7.1).
    Malformed,
    /// Nothing came for `limits.body_timeout`.
    TimedOut,
    /// The client closed the connection.
    Disconnected,
}

/// The request's body as the upstream connection pulls it, with the client's deadlines.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    Streamed(Box<Streamed>),
}

pub struct Streamed {
    incoming: Incoming,
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
    pub fn new(incoming: Incoming, upload: &Rc<Upload>, timeout: Duration) -> Self {
        if incoming.is_end_stream() {
            upload.ended.set(true);
            return Self::Empty;
        }
        Self::Streamed(Box::new(Streamed {
            incoming,
            upload: Rc::clone(upload),
            timeout,
            waiting_since: None,
            watchdog: Watchdog::default(),
        }))
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BrokenUpload;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenUpload>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streamed(streamed) => streamed.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed(streamed) => streamed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streamed(streamed) => streamed.incoming.size_hint(),
        }
    }
}

impl Streamed {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenUpload>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(context);
        if polled.is_pending() {
            return self.poll_deadline(context);
        }
        self.waiting_since = None;
        match ready!(polled) {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.upload.bytes.set(self.upload.bytes.get() + bytes);
                // Nothing follows trailers, and hyper does not ask.
                self.upload
                    .ended
                    .set(frame.is_trailers() || self.incoming.is_end_stream());
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(self.fail(fault_of(&error))))),
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
