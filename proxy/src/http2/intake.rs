//! Content that has come and is not taken yet: of one stream its [`Intake`], of all streams of a connection the [`Inbox`].
//!
//! Data plane; one thread only. `h2` keeps each frame as it came, charges small ones with the memory that they cost, and ends
//! a connection that owes too much: somebody who does not read would end the streams of all others. So what waits is
//! [gathered](Inbox::poll_room) before it comes to that, on behalf of whoever does not take it, and costs no more than its
//! bytes then. Bounded by the windows, which open only for what is taken ([`Intake::release`]). Invariant: but for what came
//! for streams that are gone, nothing small waits in `h2` beyond [`GATHER_FROM`] and one read.

use std::cell::{Cell, RefCell};
use std::ops::AddAssign;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;
use slab::Slab;

/// What a frame with less content is charged with: the bytes that it lacks. As `h2` has it.
const SMALL: usize = 256;
/// So much of it sets off the gathering: a thousand frames of one byte. Peers who read are seldom so far behind.
const GATHER_FROM: usize = 256 << 10;
/// With so much that came for streams that were gone, and is charged for ever, a connection is worn out: it goes on with
/// the streams that it has, which leaves each of a hundred more than 100 KiB.
const MAX_LOST: usize = 4 << 20;
/// What `h2` bears of all that. Beyond `MAX_LOST` there is room for whatever one read brings, which is some tens of KiB
/// and costs 26 times as much in frames of one byte. About as many bytes of memory can a connection cost beyond its windows.
pub const BUDGET: usize = 16 << 20;
/// Empty frames. `h2` bears a hundred in a connection's life.
const MAX_EMPTY: u32 = 50;
/// A piece of what was gathered: about as large as a frame usually is.
const PIECE: usize = 16 << 10;

/// What frames bring that are charged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// Bytes that small frames lack.
    pub small: usize,
    /// Frames without content.
    pub empty: u32,
}

impl Charge {
    /// Of a frame of content with so many bytes, which is not the last of its stream. With padding it may carry as little
    /// as one.
    pub fn of(length: usize, is_padded: bool) -> Self {
        let length = if is_padded { length.min(1) } else { length };
        Self {
            small: lacks(length),
            empty: u32::from(length == 0),
        }
    }
}

impl AddAssign for Charge {
    fn add_assign(&mut self, other: Self) {
        self.small += other.small;
        self.empty += other.empty;
    }
}

fn lacks(length: usize) -> usize {
    if length == 0 { 0 } else { SMALL.saturating_sub(length) }
}

/// What waits on one connection. Lifetime: the connection, and the last of its streams.
#[derive(Default)]
pub struct Inbox {
    streams: RefCell<Slab<Rc<RefCell<Waiting>>>>,
    /// What small frames owe that have come and were not taken.
    owed: Cell<usize>,
    /// Of that, what cannot be taken any more.
    lost: Cell<usize>,
    /// Over the connection's life.
    empty: Cell<u32>,
    has_yielded: Cell<bool>,
}

impl Inbox {
    /// Takes account of frames on their way to `h2`.
    pub fn charge(&self, charge: Charge) {
        self.owed.set(self.owed.get().saturating_add(charge.small));
        self.empty.set(self.empty.get().saturating_add(charge.empty));
    }

    /// Whether the connection should take no more streams: `h2` would end it, with all that is on it, before long.
    pub fn is_worn(&self) -> bool {
        self.lost.get() >= MAX_LOST || self.empty.get() >= MAX_EMPTY
    }

    /// To be asked before more is read, when all that was read before is where it belongs. Pending once, so that those
    /// who read can take what is theirs, and streams that have just begun are known.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.owed.get().saturating_sub(self.lost.get()) < GATHER_FROM {
            self.has_yielded.set(false);
            return Poll::Ready(());
        }
        if !self.has_yielded.replace(true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.has_yielded.set(false);
        for (_, waiting) in &*self.streams.borrow() {
            waiting.borrow_mut().gather(self);
        }
        self.lost.set(self.owed.get());
        Poll::Ready(())
    }

    /// A frame was taken out of `h2`.
    fn settle(&self, length: usize, source: &RecvStream) {
        // The last frame of a stream is not charged.
        if lacks(length) > 0 && !source.is_end_stream() {
            self.owed.set(self.owed.get().saturating_sub(lacks(length)));
            self.lost.set(self.lost.get().min(self.owed.get()));
        }
    }
}

/// What waits of one stream.
struct Waiting {
    source: RecvStream,
    gathered: BytesMut,
    /// Who was told to wait for more.
    reader: Waker,
}

impl Waiting {
    /// Takes all that has come; ends and errors stay, and are told again.
    fn gather(&mut self, inbox: &Inbox) {
        // Who waits for more goes on waiting.
        let mut context = Context::from_waker(&self.reader);
        while let Poll::Ready(Some(Ok(bytes))) = self.source.poll_data(&mut context) {
            inbox.settle(bytes.len(), &self.source);
            self.gathered.extend_from_slice(&bytes);
        }
    }
}

/// The content of one stream, as far as it has come. Lifetime: until nothing more of it is wanted.
pub struct Intake {
    waiting: Rc<RefCell<Waiting>>,
    inbox: Rc<Inbox>,
    key: usize,
}

impl Intake {
    pub fn new(source: RecvStream, inbox: &Rc<Inbox>) -> Self {
        let waiting = Rc::new(RefCell::new(Waiting {
            source,
            gathered: BytesMut::new(),
            reader: Waker::noop().clone(),
        }));
        Self {
            key: inbox.streams.borrow_mut().insert(Rc::clone(&waiting)),
            waiting,
            inbox: Rc::clone(inbox),
        }
    }

    /// The next piece. The peer may send as much more only when it is [released](Self::release).
    pub fn poll_data(&self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let waiting = &mut *self.waiting.borrow_mut();
        if !waiting.gathered.is_empty() {
            let length = waiting.gathered.len().min(PIECE);
            return Poll::Ready(Some(Ok(waiting.gathered.split_to(length).freeze())));
        }
        let polled = waiting.source.poll_data(context);
        match &polled {
            Poll::Ready(Some(Ok(bytes))) => self.inbox.settle(bytes.len(), &waiting.source),
            Poll::Ready(_) => {}
            Poll::Pending => waiting.reader.clone_from(context.waker()),
        }
        polled
    }

    /// After all content.
    pub fn poll_trailers(&self, context: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        let waiting = &mut *self.waiting.borrow_mut();
        let polled = waiting.source.poll_trailers(context);
        if polled.is_pending() {
            waiting.reader.clone_from(context.waker());
        }
        polled
    }

    /// So many bytes were taken.
    pub fn release(&self, count: usize) {
        // It fails only for more than there is.
        let _ = self.waiting.borrow_mut().source.flow_control().release_capacity(count);
    }

    pub fn is_end_stream(&self) -> bool {
        let waiting = self.waiting.borrow();
        waiting.gathered.is_empty() && waiting.source.is_end_stream()
    }
}

impl Drop for Intake {
    /// What waits is not wanted.
    fn drop(&mut self) {
        self.inbox.streams.borrow_mut().try_remove(self.key);
        let mut waiting = self.waiting.borrow_mut();
        if self.inbox.owed.get() > self.inbox.lost.get() {
            waiting.gather(&self.inbox);
        }
        let unwanted = waiting.gathered.len();
        drop(waiting);
        if unwanted > 0 {
            self.release(unwanted);
        }
    }
}
