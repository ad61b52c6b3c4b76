//! A request's body that can be sent more than once.
//!
//! Data plane. It streams through as ever, and what has passed is kept beside, up to a bound; each try reads what is
//! kept and then goes on with the rest. It stands outside of all filters' stages: what they have seen, they are not
//! shown again. Invariant: only the last reader reads, whatever becomes of the others.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use crate::body::{self, BrokenUpload, RequestBody, UploadFault};
use crate::retry::Copy;

/// Lives until the request is answered.
#[derive(Debug)]
pub struct Replay(Option<Rc<RefCell<Kept>>>);

/// One try's view of it.
#[derive(Debug)]
pub struct Reader {
    kept: Rc<RefCell<Kept>>,
    number: u32,
}

#[derive(Debug)]
struct Kept {
    source: RequestBody,
    /// The source has come to its end.
    is_over: bool,
    /// Of all of it, when that was known before.
    length: Option<u64>,
    max: usize,
    keeping: Keeping,
    pieces: Vec<Piece>,
    /// Of the pieces.
    bytes: usize,
    /// The reader that may read, the piece that is its next, and how many bytes it has had.
    reader: u32,
    next: usize,
    passed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeping {
    All,
    /// There was more than may be kept, or nobody will ask again.
    Nothing,
}

#[derive(Clone, Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl From<Piece> for Frame<Bytes> {
    fn from(piece: Piece) -> Self {
        match piece {
            Piece::Data(bytes) => Frame::data(bytes),
            Piece::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

impl Replay {
    /// Keeps up to `max` bytes of it.
    pub fn of(source: RequestBody, max: usize) -> Self {
        if source.is_empty() {
            return Self(None);
        }
        Self(Some(Rc::new(RefCell::new(Kept {
            length: source.size_hint().exact(),
            source,
            is_over: false,
            max,
            keeping: Keeping::All,
            pieces: Vec::new(),
            bytes: 0,
            reader: 0,
            next: 0,
            passed: 0,
        }))))
    }

    pub fn copy(&self) -> Copy {
        match &self.0 {
            Some(kept) if kept.borrow().keeping == Keeping::Nothing => Copy::Lost,
            _ => Copy::Whole,
        }
    }

    /// For another try; readers before this one read no more.
    pub fn again(&self) -> RequestBody {
        let Some(kept) = &self.0 else {
            return RequestBody::Empty;
        };
        let mut inner = kept.borrow_mut();
        inner.reader += 1;
        (inner.next, inner.passed) = (0, 0);
        RequestBody::Kept(Box::new(Reader {
            kept: Rc::clone(kept),
            number: inner.reader,
        }))
    }

    /// There will be no other try: what is kept is needed no longer than until the last reader has had it.
    pub fn settle(self) {
        if let Some(kept) = self.0 {
            kept.borrow_mut().forget();
        }
    }
}

impl Reader {
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenUpload>>> {
        let mut kept = self.kept.borrow_mut();
        if kept.reader != self.number {
            return Poll::Ready(Some(Err(BrokenUpload(UploadFault::Disconnected))));
        }
        kept.poll(context)
    }

    pub fn is_end_stream(&self) -> bool {
        let kept = self.kept.borrow();
        kept.is_caught_up() && (kept.is_over || kept.source.is_end_stream())
    }

    /// The same for each try: they are framed alike.
    pub fn size_hint(&self) -> SizeHint {
        let kept = self.kept.borrow();
        let left = kept.length.and_then(|length| length.checked_sub(kept.passed));
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    pub fn is_in_hook(&self) -> bool {
        let kept = self.kept.borrow();
        kept.reader == self.number && kept.is_caught_up() && kept.source.is_in_hook()
    }
}

impl Kept {
    fn is_caught_up(&self) -> bool {
        self.next == self.pieces.len()
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenUpload>>> {
        if let Some(piece) = self.pieces.get(self.next).cloned() {
            self.next += 1;
            self.pass(&piece);
            if self.keeping == Keeping::Nothing {
                self.forget();
            }
            return Poll::Ready(Some(Ok(piece.into())));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.source).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(broken)) => return Poll::Ready(Some(Err(broken))),
            None => {
                self.is_over = true;
                return Poll::Ready(None);
            }
        };
        let piece = match frame.into_data() {
            Ok(bytes) => Piece::Data(bytes),
            // Nothing follows trailers.
            Err(frame) => {
                self.is_over = true;
                Piece::Trailers(frame.into_trailers().unwrap_or_default())
            }
        };
        self.pass(&piece);
        self.keep(&piece);
        Poll::Ready(Some(Ok(piece.into())))
    }

    fn pass(&mut self, piece: &Piece) {
        if let Piece::Data(bytes) = piece {
            self.passed += bytes.len() as u64;
        }
    }

    fn keep(&mut self, piece: &Piece) {
        if self.keeping == Keeping::Nothing {
            return;
        }
        if let Piece::Data(bytes) = piece {
            self.bytes += bytes.len();
        }
        if self.bytes > self.max || self.pieces.len() >= body::MAX_KEPT_PIECES {
            return self.forget();
        }
        self.pieces.push(match piece {
            Piece::Data(bytes) => Piece::Data(body::detached(bytes)),
            Piece::Trailers(trailers) => Piece::Trailers(trailers.clone()),
        });
        self.next += 1;
    }

    /// Lets go of what the reader has had.
    fn forget(&mut self) {
        self.keeping = Keeping::Nothing;
        self.pieces.drain(..self.next);
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn next(body: &mut RequestBody) -> Option<Result<Bytes, UploadFault>> {
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(polled) = Pin::new(body).poll_frame(&mut context) else {
            panic!("a body that is there is not waited for");
        };
        polled.map(|frame| match frame {
            Ok(frame) => Ok(frame.into_data().expect("data")),
            Err(BrokenUpload(fault)) => Err(fault),
        })
    }

    /// In two pieces.
    fn source() -> RequestBody {
        let mut body = RequestBody::Full(Bytes::from_static(b"world"));
        body.put(Bytes::from_static(b"hello "), None);
        body
    }

    fn all(body: &mut RequestBody) -> Vec<u8> {
        let pieces = std::iter::from_fn(|| next(body));
        pieces.flat_map(|piece| piece.expect("nothing breaks")).collect()
    }

    #[test]
    fn each_try_reads_all_of_it_and_is_framed_alike() {
        let replay = Replay::of(source(), 11);
        for _ in 0..3 {
            let mut body = replay.again();
            assert_eq!(body.size_hint().exact(), Some(11));
            assert_eq!(all(&mut body), b"hello world");
            assert_eq!(replay.copy(), Copy::Whole);
        }
    }

    #[test]
    fn a_try_that_broke_off_does_not_read_on() {
        let replay = Replay::of(source(), 11);
        let mut first = replay.again();
        assert_eq!(next(&mut first), Some(Ok(Bytes::from_static(b"hello "))));
        let mut second = replay.again();
        assert_eq!(next(&mut first), Some(Err(UploadFault::Disconnected)));
        assert_eq!(all(&mut second), b"hello world");
    }

    #[test]
    fn a_longer_one_passes_and_is_not_kept() {
        let replay = Replay::of(source(), 10);
        let mut body = replay.again();
        assert_eq!(all(&mut body), b"hello world");
        assert_eq!(replay.copy(), Copy::Lost);
    }

    #[test]
    fn nothing_is_kept_for_nobody() {
        let replay = Replay::of(source(), 11);
        assert_eq!(all(&mut replay.again()), b"hello world");
        let mut last = replay.again();
        assert_eq!(next(&mut last), Some(Ok(Bytes::from_static(b"hello "))));
        let kept = replay.0.clone().unwrap();
        replay.settle();
        assert_eq!(kept.borrow().pieces.len(), 1);
        assert_eq!(all(&mut last), b"world");
        assert_eq!(kept.borrow().pieces.len(), 0);
        assert!(Replay::of(RequestBody::Empty, 1).again().is_empty());
    }
}
