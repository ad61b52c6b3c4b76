//! Small writes of a worker, sent together at the end of a round, or of some.
//!
//! Data plane; one thread only. A round is what the runtime polls between two looks at the sockets. A send to a peer that
//! sleeps wakes its processor, which costs the sender more than all else that it does for the bytes; one send after
//! another, each finds the peer asleep again. Sent in one go, the first wakes it and the others find it awake. Measured
//! with 64 clients and the peers on one other core: 3 us of system time less for each exchange. A round is as long as
//! the work that waits, so a write that is alone waits for nothing; those of several exchanges wait for another look, and
//! for as many as find more to do, of which there are few: the origin then slept in 19 of 1,000 requests, not in 29. A
//! filter that computes for long does not make others wait, as everything is sent before it goes on and when it is done.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::stream::Line;

/// Rounds that a write may wait for. Each takes a fraction of a millisecond at most.
const MAX_ROUNDS: u32 = 4;
/// Lines that are sent without waiting for more: most of 64 connections and of those behind them.
const ENOUGH: usize = 48;

/// Buffers kept for the next round; more are in use at once only in a burst.
const SPARE_BUFFERS: usize = 64;

#[derive(Default)]
struct Outbox {
    waiting: RefCell<Vec<Rc<RefCell<Line>>>>,
    spare: RefCell<Vec<Vec<u8>>>,
    /// The task that sends; nothing is kept while there is none.
    sender: RefCell<Option<Waker>>,
}

thread_local! {
    static OUTBOX: Outbox = Outbox::default();
}

/// Sends what the streams of this thread keep, until it is dropped. It is woken by the first write of a round, and so
/// polled after all tasks that were to be polled then.
pub async fn serve() {
    struct Closing;
    impl Drop for Closing {
        fn drop(&mut self) {
            // At the thread's end there may be no outbox any more.
            let _ = OUTBOX.try_with(|outbox| outbox.sender.take());
        }
    }

    let _closing = Closing;
    let rounds = async {
        loop {
            poll_fn(poll_listed).await;
            gather().await;
            send_all();
        }
    };
    // The runtime's budget is for a task that serves one peer.
    tokio::task::unconstrained(rounds).await;
}

/// Ready when something is kept.
fn poll_listed(context: &mut Context<'_>) -> Poll<()> {
    OUTBOX.with(|outbox| {
        let mut sender = outbox.sender.borrow_mut();
        if sender.is_none() {
            *sender = Some(context.waker().clone());
        }
    });
    match waiting() {
        0 => Poll::Pending,
        _ => Poll::Ready(()),
    }
}

/// Under load there is more to do than one look at the sockets has shown: as long as each finds more, what it leads to is
/// sent along. One write alone waits for nothing.
async fn gather() {
    let mut kept = waiting();
    for _ in 1..MAX_ROUNDS {
        if !(2..ENOUGH).contains(&kept) {
            return;
        }
        // Comes back when the runtime has looked, and polled whom that has woken.
        tokio::task::yield_now().await;
        let now = waiting();
        if now <= kept {
            return;
        }
        kept = now;
    }
}

fn waiting() -> usize {
    OUTBOX.with(|outbox| outbox.waiting.borrow().len())
}

/// Sends everything now.
pub fn send_all() {
    OUTBOX.with(|outbox| {
        let mut waiting = outbox.waiting.borrow_mut();
        waiting.iter().for_each(|line| line.borrow_mut().send_kept());
        waiting.clear();
    });
}

/// Whether writes may be kept for the end of the round.
pub(crate) fn is_open() -> bool {
    OUTBOX.with(|outbox| outbox.sender.borrow().is_some())
}

/// Takes note that a line keeps something.
pub(crate) fn list(line: &Rc<RefCell<Line>>) {
    OUTBOX.with(|outbox| {
        let mut waiting = outbox.waiting.borrow_mut();
        waiting.push(Rc::clone(line));
        if waiting.len() == 1
            && let Some(sender) = &*outbox.sender.borrow()
        {
            sender.wake_by_ref();
        }
    });
}

/// An empty buffer for so many bytes.
pub(crate) fn buffer(bytes: usize) -> Vec<u8> {
    let spare = OUTBOX.with(|outbox| outbox.spare.borrow_mut().pop());
    spare.unwrap_or_else(|| Vec::with_capacity(bytes))
}

/// A buffer that is not needed any more.
pub(crate) fn take_back(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 {
        return;
    }
    OUTBOX.with(|outbox| {
        let mut spare = outbox.spare.borrow_mut();
        if spare.len() < SPARE_BUFFERS {
            buffer.clear();
            spare.push(buffer);
        }
    });
}
