//! Any body through the stages of guests that do anything with it: what comes out is what they say, and never ends
//! cleanly after a failure.

use std::cell::LazyCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tamis::body::{BrokenUpload, RequestBody, Upload, UploadCut};
use tamis::filter::{Failure, Hook, Side};
use tamis::h1::{Decoder, Encoder, Framing, Piece, RequestLines};
use tamis::head;
use tamis::passage::{Forward, Passage};
use tamis::stage::{Cut, Filtered};

use crate::guest::{self, Bench};
use crate::records;

/// A bound on what one run takes.
const MAX_BYTES: usize = 16 << 10;

/// Far more than any body of that size takes, on any machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The routes are told apart by how many filters are in their chains, and by what follows a failure.
const CONFIGURATION: &str = "
wasm: { max_instances: 8 }
listeners: { web: { address: 127.0.0.1:0 } }
filters:
  closed: { GUEST, on_failure: closed }
  open: { GUEST, on_failure: open }
routes:
  - { name: c1, match: { path: { exact: /c1 } }, filters: [closed], respond: { status: 200 } }
  - { name: c2, match: { path: { exact: /c2 } }, filters: [closed, closed], respond: { status: 200 } }
  - { name: c3, match: { path: { exact: /c3 } }, filters: [closed, closed, closed], respond: { status: 200 } }
  - { name: o1, match: { path: { exact: /o1 } }, filters: [open], respond: { status: 200 } }
  - { name: o2, match: { path: { exact: /o2 } }, filters: [open, open], respond: { status: 200 } }
  - { name: o3, match: { path: { exact: /o3 } }, filters: [open, open, open], respond: { status: 200 } }
";

/// The first record says how: `q` a request's or `p` a response's body; `1` to `3` filters; that fail `c` closed or `o`
/// open; and the body's end, `.` clean, `t` with trailers, `b` broken off. With a fifth byte, pieces are waited for.
///
/// Each other record is a piece of the body. A filter does what the first byte of a piece says: `d` drops it, `r` puts
/// the rest in its place, `p` the rest in pieces, `y` replies (status in two bytes, then a body), `t` traps, `x` gives the
/// rest as the verdict itself, `e` drops it and does what the rest says at the end of the body: `f` more data, `w` more
/// data and no trailers, `h` a trailer, `y`, `t`, `x` as before. Everything else is kept, `c` after
/// some milliseconds, in which the guest is parked.
pub fn body(script: &[u8]) {
    thread_local! {
        static BENCH: LazyCell<Bench> =
            LazyCell::new(|| Bench::new(include_str!("guest/body.wat"), CONFIGURATION));
    }
    if script.len() > MAX_BYTES {
        return;
    }
    let mut records = records(script);
    let Some(plan) = records.next().and_then(Plan::read) else {
        return;
    };
    let pieces: Vec<Bytes> = records.map(Bytes::copy_from_slice).collect();
    let expected = Model::of(&plan, &pieces);
    let mut ways = vec![Way::Scripted];
    if plan.side == Side::Request && plan.end != SourceEnd::Broken {
        ways.push(Way::Uploaded);
    }
    for way in ways {
        let got = BENCH.with(|bench| {
            let through = through(bench, &plan, pieces.clone(), way);
            let timed = async { tokio::time::timeout(PATIENCE, through).await };
            bench.runtime.block_on(timed).expect("it comes to an end")
        });
        expected.check(&got);
    }
}

struct Plan {
    side: Side,
    filters: usize,
    is_open: bool,
    end: SourceEnd,
    waits: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SourceEnd {
    Clean,
    Trailers,
    Broken,
}

/// What the body comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A source of ours, which may wait and break.
    Scripted,
    /// The request's own body, as if it had been held.
    Uploaded,
}

impl Plan {
    fn read(record: &[u8]) -> Option<Self> {
        let [side, filters, failure, end, waits @ ..] = record else {
            return None;
        };
        Some(Self {
            side: match side {
                b'q' => Side::Request,
                b'p' => Side::Response,
                _ => return None,
            },
            filters: match filters {
                b'1'..=b'3' => usize::from(filters - b'0'),
                _ => return None,
            },
            is_open: match failure {
                b'c' => false,
                b'o' => true,
                _ => return None,
            },
            end: match end {
                b'.' => SourceEnd::Clean,
                b't' => SourceEnd::Trailers,
                b'b' => SourceEnd::Broken,
                _ => return None,
            },
            waits: !waits.is_empty(),
        })
    }

    fn route(&self) -> usize {
        self.filters - 1 + if self.is_open { 3 } else { 0 }
    }

    fn trailers(&self) -> Option<HeaderMap> {
        let sum = (HeaderName::from_static("x-sum"), HeaderValue::from_static("1"));
        (self.end == SourceEnd::Trailers).then(|| HeaderMap::from_iter([sum]))
    }
}

/// What came out, and how it ended.
#[derive(Debug)]
struct Outcome {
    data: Vec<u8>,
    end: Result<Option<HeaderMap>, Why>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Source,
    Filter(Failure),
    Replied(u16),
    /// A guest has answered with bytes of which nobody knows what they mean.
    Unknown,
}

async fn through(bench: &Bench, plan: &Plan, pieces: Vec<Bytes>, way: Way) -> Outcome {
    let passage = bench.passage(plan.route());
    let hook = match plan.side {
        Side::Request => Hook::RequestBody,
        Side::Response => Hook::ResponseBody,
    };
    let turns = guest::forward(&passage).await;
    let turns = turns.into_iter().enumerate().map(|(turn, forward)| match forward {
        Forward::Proceed { stage: Some(stage) } if hook == Hook::RequestBody => stage,
        Forward::Proceed { .. } => passage.stage_of(turn, hook).expect("the guest wants every body"),
        _ => panic!("the guest says nothing about heads"),
    });
    let turns: Vec<usize> = turns.collect();
    match way {
        Way::Scripted => {
            let source = Source {
                pieces: pieces.into_iter(),
                trailers: plan.trailers(),
                breaks: plan.end == SourceEnd::Broken,
                waits: plan.waits,
                has_waited: false,
            };
            collect(layered(Box::pin(source), &passage, &turns, plan.side)).await
        }
        Way::Uploaded => uploaded(plan, pieces, &passage, &turns).await,
    }
}

type Dynamic = Pin<Box<dyn HttpBody<Data = Bytes, Error = Why>>>;

fn layered(source: Dynamic, passage: &Rc<Passage>, turns: &[usize], side: Side) -> Dynamic {
    turns.iter().fold(source, |source, turn| {
        Box::pin(Layer(Filtered::new(source, passage, *turn, side)))
    })
}

/// One stage as a body.
struct Layer(Filtered<Why>);

impl HttpBody for Layer {
    type Data = Bytes;
    type Error = Why;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Why>>> {
        let polled = self.0.poll(context);
        polled.map(|frame| {
            frame.map(|frame| {
                frame.map_err(|cut| match cut {
                    Cut::Source(why) => why,
                    Cut::Filter(broken) => Why::Filter(broken.failure),
                    Cut::Replied(reply) => Why::Replied(reply.status.as_u16()),
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_over()
    }
}

struct Source {
    pieces: std::vec::IntoIter<Bytes>,
    trailers: Option<HeaderMap>,
    breaks: bool,
    waits: bool,
    has_waited: bool,
}

impl HttpBody for Source {
    type Data = Bytes;
    type Error = Why;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Why>>> {
        if self.waits && !std::mem::replace(&mut self.has_waited, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.has_waited = false;
        Poll::Ready(match self.pieces.next() {
            Some(piece) => Some(Ok(Frame::data(piece))),
            None if self.breaks => Some(Err(Why::Source)),
            None => self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
        })
    }
}

/// The request's own body and its own stages, with what the upstream's side would write of it.
async fn uploaded(plan: &Plan, pieces: Vec<Bytes>, passage: &Rc<Passage>, turns: &[usize]) -> Outcome {
    let mut body = RequestBody::Empty;
    if let Some(trailers) = plan.trailers() {
        body.put(Bytes::new(), Some(trailers));
    }
    for piece in pieces.into_iter().rev() {
        body.put(piece, None);
    }
    let upload = Rc::new(Upload::default());
    for turn in turns {
        body.filter(passage, *turn, &upload);
    }
    let collected = collect(Box::pin(Uploaded { body, upload })).await;
    if collected.end.is_ok() {
        check_framing(&collected);
    }
    collected
}

struct Uploaded {
    body: RequestBody,
    upload: Rc<Upload>,
}

impl HttpBody for Uploaded {
    type Data = Bytes;
    type Error = Why;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Why>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        polled.map(|frame| {
            frame.map(|frame| {
                frame.map_err(|BrokenUpload(_)| match self.upload.cut.take() {
                    Some(UploadCut::Broken(broken)) => Why::Filter(broken.failure),
                    Some(UploadCut::Replied(reply)) => Why::Replied(reply.status.as_u16()),
                    None => Why::Source,
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Pulls a body to its end, and holds it to what it says of itself on the way.
async fn collect(mut body: Dynamic) -> Outcome {
    let mut data = Vec::new();
    let mut trailers = None;
    loop {
        assert_eq!(body.size_hint().exact(), None, "behind a filter no length is known");
        let was_over = body.is_end_stream();
        let frame = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await;
        assert!(!was_over || frame.is_none(), "more behind the end: {frame:?}");
        let frame = match frame {
            None => {
                return Outcome {
                    data,
                    end: Ok(trailers),
                };
            }
            Some(Err(why)) => {
                assert!(trailers.is_none(), "a failure behind the trailers: {why:?}");
                return Outcome { data, end: Err(why) };
            }
            Some(Ok(frame)) => frame,
        };
        assert!(trailers.is_none(), "more behind the trailers: {frame:?}");
        match frame.into_data() {
            Ok(piece) => data.extend_from_slice(&piece),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
}

/// What is written of a whole body is read as the same body.
fn check_framing(outcome: &Outcome) {
    let Ok(trailers) = &outcome.end else { return };
    let names = trailers.iter().flat_map(HeaderMap::keys);
    let announced: Vec<&str> = names.map(HeaderName::as_str).collect();
    let announced = HeaderValue::try_from(announced.join(", ")).expect("names make a value");
    let lines = RequestLines {
        method: &Method::POST,
        target: &http::uri::PathAndQuery::from_static("/"),
        headers: &HeaderMap::from_iter([(http::header::TRAILER, announced)]),
        via: &HeaderValue::from_static("1.1 tamis-bench"),
    };
    let mut bytes = Vec::new();
    let mut encoder = Encoder::begin(&lines, None, &mut bytes);
    bytes.clear();
    for piece in outcome.data.chunks(7) {
        let tail = encoder.frame(piece.len(), &mut bytes).expect("chunks have no bound");
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(tail);
    }
    encoder
        .end(trailers.as_ref(), &mut bytes)
        .expect("chunks can always end");
    let (mut decoder, mut input) = (Decoder::new(Framing::Chunked), Bytes::from(bytes));
    let (mut data, mut found) = (Vec::new(), None);
    loop {
        match decoder.decode(&mut input).expect("it is well-formed") {
            Piece::Data(piece) => data.extend_from_slice(&piece),
            Piece::Trailers(trailers) => found = Some(trailers),
            Piece::End => break,
            Piece::More => panic!("it has no end"),
        }
    }
    assert_eq!(data, outcome.data);
    // Some names are never sent as trailers, whoever announces them.
    for (name, value) in found.iter().flatten() {
        assert_eq!(trailers.as_ref().and_then(|trailers| trailers.get(name)), Some(value));
    }
}

/// What the filters are to make of a body, told in a few lines: piece by piece, each through all of them.
struct Model {
    stages: Vec<Guest>,
    is_open: bool,
    data: Vec<u8>,
    end: Result<Option<HeaderMap>, Why>,
}

/// What one guest remembers.
#[derive(Clone, Default)]
struct Guest {
    end: Bytes,
    is_skipped: bool,
}

enum Answer {
    Pieces(Vec<Bytes>),
    Ending(Vec<Bytes>, Option<HeaderMap>),
    Keep,
    Cut(Why),
}

impl Model {
    fn of(plan: &Plan, pieces: &[Bytes]) -> Self {
        let mut model = Self {
            stages: vec![Guest::default(); plan.filters],
            is_open: plan.is_open,
            data: Vec::new(),
            end: Ok(None),
        };
        model.end = model.run(plan, pieces);
        model
    }

    fn run(&mut self, plan: &Plan, pieces: &[Bytes]) -> Result<Option<HeaderMap>, Why> {
        for piece in pieces {
            self.pass(0, piece.clone())?;
        }
        if plan.end == SourceEnd::Broken {
            return Err(Why::Source);
        }
        let mut trailers = plan.trailers();
        for stage in 0..self.stages.len() {
            trailers = self.end(stage, trailers)?;
        }
        Ok(trailers)
    }

    fn pass(&mut self, stage: usize, piece: Bytes) -> Result<(), Why> {
        let Some(guest) = self.stages.get_mut(stage) else {
            self.data.extend_from_slice(&piece);
            return Ok(());
        };
        let pieces = match guest.settle(self.is_open, |guest| guest.piece(&piece)) {
            Answer::Keep => vec![piece],
            Answer::Pieces(pieces) | Answer::Ending(pieces, _) => pieces,
            Answer::Cut(why) => return Err(why),
        };
        let mut pieces = pieces.into_iter();
        pieces.try_for_each(|piece| self.pass(stage + 1, piece))
    }

    fn end(&mut self, stage: usize, trailers: Option<HeaderMap>) -> Result<Option<HeaderMap>, Why> {
        match self.stages[stage].settle(self.is_open, Guest::end) {
            Answer::Cut(why) => Err(why),
            Answer::Ending(pieces, other) => {
                for piece in pieces {
                    self.pass(stage + 1, piece)?;
                }
                Ok(other.or(trailers).filter(|trailers| !trailers.is_empty()))
            }
            Answer::Keep | Answer::Pieces(_) => Ok(trailers),
        }
    }

    /// What came before a failure has come out, too.
    fn check(&self, got: &Outcome) {
        if self.end != Err(Why::Unknown) {
            assert_eq!(got.end, self.end);
            assert_eq!(got.data, self.data);
        }
    }
}

impl Guest {
    /// A guest that fails open has no part in the rest.
    fn settle(&mut self, is_open: bool, ask: impl FnOnce(&mut Self) -> Answer) -> Answer {
        if self.is_skipped {
            return Answer::Keep;
        }
        match ask(self) {
            Answer::Cut(Why::Filter(_)) if is_open => {
                self.is_skipped = true;
                Answer::Keep
            }
            answer => answer,
        }
    }

    fn piece(&mut self, piece: &Bytes) -> Answer {
        let Some(act) = piece.first() else { return Answer::Keep };
        let rest = piece.slice(1..);
        match act {
            b'd' => Answer::Pieces(Vec::new()),
            b'r' => Answer::Pieces(sound(vec![rest])),
            b'p' => Answer::Pieces(sound(split(&rest))),
            b'e' => {
                self.end = rest;
                Answer::Pieces(Vec::new())
            }
            b'y' => reply(&rest),
            b't' => Answer::Cut(Why::Filter(Failure::Trap)),
            b'x' => Answer::Cut(Why::Unknown),
            _ => Answer::Keep,
        }
    }

    fn end(&mut self) -> Answer {
        let Some(act) = self.end.first() else {
            return Answer::Keep;
        };
        let rest = self.end.slice(1..);
        match act {
            b'f' => Answer::Ending(sound(vec![rest]), None),
            b'w' => Answer::Ending(sound(vec![rest]), Some(HeaderMap::new())),
            b'h' => trailer(&rest),
            b'y' => reply(&rest),
            b't' => Answer::Cut(Why::Filter(Failure::Trap)),
            b'x' => Answer::Cut(Why::Unknown),
            _ => Answer::Keep,
        }
    }
}

/// Empty pieces are nothing.
fn sound(pieces: Vec<Bytes>) -> Vec<Bytes> {
    pieces.into_iter().filter(|piece| !piece.is_empty()).collect()
}

fn split(bytes: &Bytes) -> Vec<Bytes> {
    match bytes.first().map(|width| usize::from(width & 7)) {
        None => Vec::new(),
        Some(0) => vec![bytes.slice(1..)],
        Some(width) => {
            let most = bytes.len().min(1 + 255 * width);
            let mut pieces: Vec<Bytes> = (1..most)
                .step_by(width)
                .map(|at| bytes.slice(at..(at + width).min(most)))
                .collect();
            pieces.push(bytes.slice(most..));
            pieces
        }
    }
}

fn reply(bytes: &Bytes) -> Answer {
    let Some([low, high]) = bytes.get(..2) else {
        return Answer::Cut(Why::Filter(Failure::Trap));
    };
    let status = u16::from_le_bytes([*low, *high]);
    Answer::Cut(match head::final_status(status) {
        Ok(_) => Why::Replied(status),
        Err(_) => Why::Filter(Failure::BadReply),
    })
}

fn trailer(bytes: &Bytes) -> Answer {
    let mut trailers = HeaderMap::new();
    if let Some((length, rest)) = bytes.split_first() {
        let (name, value) = rest.split_at(usize::from(length & 15).min(rest.len()));
        if std::str::from_utf8(name).is_err() {
            return Answer::Cut(Why::Filter(Failure::Trap));
        }
        match head::writable(name, value) {
            Ok((name, value)) => trailers.append(name, value),
            Err(_) => return Answer::Cut(Why::Filter(Failure::BadReply)),
        };
    }
    Answer::Ending(Vec::new(), Some(trailers))
}
