//! What an exchange goes along on, and shares with whoever carries it to and from the client.
//!
//! Data plane. On HTTP/1 a connection has one, which its exchanges use one after the other; on HTTP/2 each stream has
//! one for as long as its exchange takes. It knows nothing of protocols.

use std::cell::{Cell, RefCell};
use std::task::Waker;

use crate::timer::Watchdog;
use crate::wire::Expired;

#[derive(Default)]
pub struct Lane {
    /// For the deadlines of the exchange under way.
    pub watchdog: Watchdog,
    /// Why the exchange under way is broken off, when it is not the whole connection that ends.
    broken: Cell<Option<Expired>>,
    /// The number of the exchange's generation; 0 before it is pinned.
    generation: Cell<u64>,
    /// The client waits for `100 Continue`, and its body is wanted.
    wants_continue: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

impl Lane {
    /// Makes it ready for another exchange, in another task.
    pub fn clear(&self) {
        self.watchdog.change_task();
        self.broken.set(None);
        self.generation.set(0);
        self.wants_continue.set(false);
        self.task.take();
    }

    pub fn pin(&self, generation: u64) {
        self.generation.set(generation);
    }

    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Asks whoever carries the exchange to drop it.
    pub fn break_off(&self, why: Expired) {
        self.broken.set(Some(why));
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    pub fn broken(&self) -> Option<Expired> {
        self.broken.get()
    }

    /// Who is woken when the exchange is broken off.
    pub fn carry(&self, task: &Waker) {
        let mut known = self.task.borrow_mut();
        if known.is_none() {
            *known = Some(task.clone());
        }
    }

    pub fn want_continue(&self) {
        self.wants_continue.set(true);
    }

    /// Whether `100 Continue` is to be sent now; once.
    pub fn take_continue(&self) -> bool {
        self.wants_continue.replace(false)
    }
}
