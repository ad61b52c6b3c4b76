//! What is heard of a peer on its way to the engine: that it lives, where its bytes stand, and what it sends for nothing.
//! Data plane; one for each connection, of clients and of servers alike.

use std::cell::{Cell, RefCell};

use tokio::time::Instant;

use super::budget::Budget;
use super::frames::{FrameScanner, Position};

/// Frames that carry nothing, forgiven in a second: keep-alive pings.
const CONTROL_FRAMES_PER_SECOND: u32 = 10;
/// What a frame with content that we send earns: peers answer it with updates of two windows, and with a ping.
const EARNED_BY_FRAME: u32 = 3;
/// And so many bytes of it earn one more: Go's client updates both windows for every 4 KiB that it has read.
const BYTES_PER_EARNED: usize = 1 << 10;
/// What is saved of that: a peer with a window of 64 MiB may read all of it before it says so.
const SAVED_CONTROL_FRAMES: u32 = 64 << 10;

pub struct Ear {
    frames: RefCell<FrameScanner>,
    control_frames: RefCell<Budget>,
    heard: Cell<Instant>,
    unfinished: Cell<Option<(u64, Instant)>>,
}

impl Ear {
    /// `max_control_frames` may come without being earned.
    pub fn new(frames: FrameScanner, max_control_frames: u32, now: Instant) -> Self {
        Self {
            frames: RefCell::new(frames),
            control_frames: RefCell::new(Budget::new(
                max_control_frames,
                max_control_frames.saturating_add(SAVED_CONTROL_FRAMES),
                CONTROL_FRAMES_PER_SECOND,
                now,
            )),
            heard: Cell::new(now),
            unfinished: Cell::new(None),
        }
    }

    /// Takes what has come; false when too much of it carries nothing.
    pub fn hear(&self, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let now = Instant::now();
        self.heard.set(now);
        let mut frames = self.frames.borrow_mut();
        let empty = frames.feed(bytes);
        let unfinished = match frames.position() {
            Position::Unfinished(number) => Some(number),
            Position::Opening | Position::Steady => None,
        };
        self.unfinished
            .set(unfinished.map(|number| match self.unfinished.get() {
                Some((before, since)) if before == number => (number, since),
                _ => (number, now),
            }));
        empty == 0 || self.control_frames.borrow_mut().spend(empty, || now)
    }

    /// When the peer was heard last.
    pub fn heard(&self) -> Instant {
        self.heard.get()
    }

    pub fn position(&self) -> Position {
        self.frames.borrow().position()
    }

    /// Since when a header block, or a frame that is no body, is unfinished.
    pub fn unfinished_since(&self) -> Option<Instant> {
        self.unfinished.get().map(|(_, since)| since)
    }

    /// A request goes to the peer, which will have a head for it.
    pub fn earn_answer(&self) {
        self.control_frames.borrow_mut().earn(EARNED_BY_FRAME + 1);
    }

    /// So many bytes of content go to the peer in a frame, or more of them.
    pub fn earn_frame(&self, bytes: usize) {
        // A piece is no larger than a window, which is less than 2^31.
        let earned = EARNED_BY_FRAME + (bytes / BYTES_PER_EARNED) as u32;
        self.control_frames.borrow_mut().earn(earned);
    }
}
