//! The body of a request that came over HTTP/2.
//!
//! Data plane. The client may send as much more as is taken here: what an upstream does not read closes the window.

use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Frame, SizeHint};

use super::intake::Intake;
use crate::body::UploadFault;
use crate::lane::Lane;

pub struct Incoming {
    stream: Intake,
    /// What is still to come, if the head said how much it is. `h2` holds the client to it (RFC 9113 8.1.1).
    left: Option<u64>,
    stage: Stage,
    /// Whom to tell that the client, which waits for it, may send.
    waiting: Option<Rc<Lane>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Data,
    Trailers,
    Over,
}

impl Incoming {
    pub fn new(stream: Intake, headers: &HeaderMap, lane: &Rc<Lane>) -> Self {
        let length = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok());
        Self {
            stream,
            left: length.and_then(|digits| digits.parse().ok()),
            stage: Stage::Data,
            waiting: headers.contains_key(header::EXPECT).then(|| Rc::clone(lane)),
        }
    }

    pub fn is_end_stream(&self) -> bool {
        self.stage == Stage::Over || self.stream.is_end_stream()
    }

    pub fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        if let Some(lane) = self.waiting.take() {
            lane.want_continue();
        }
        if self.stage == Stage::Data {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(bytes)) => return Poll::Ready(Some(Ok(self.take(bytes)))),
                Some(Err(error)) => return Poll::Ready(Some(Err(fault_of(&error)))),
                None => self.stage = Stage::Trailers,
            }
        }
        if self.stage == Stage::Over {
            return Poll::Ready(None);
        }
        let trailers = ready!(self.stream.poll_trailers(context));
        self.stage = Stage::Over;
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(fault_of(&error))),
        })
    }

    fn take(&mut self, bytes: Bytes) -> Frame<Bytes> {
        self.stream.release(bytes.len());
        self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
        Frame::data(bytes)
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Incoming")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

/// A stream that `h2` itself has reset was not what its framing says.
fn fault_of(error: &h2::Error) -> UploadFault {
    if error.is_library() && error.is_reset() {
        UploadFault::Malformed
    } else {
        UploadFault::Disconnected
    }
}
