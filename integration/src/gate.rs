//! A point where a scripted peer waits until the test lets it go on.
//!
//! It works both ways: the test can wait until somebody stands before the gate, which is how a test knows that a
//! request is in flight without guessing at times.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::DEADLINE;

#[derive(Clone, Debug, Default)]
pub struct Gate {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    open: bool,
    arrived: usize,
}

impl Gate {
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).open = true;
        self.shared.changed.notify_all();
    }

    /// Waits until `count` callers of [`Gate::pass`] have come, in total.
    pub fn wait_arrived(&self, count: usize) {
        let state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, waited) = self
            .shared
            .changed
            .wait_timeout_while(state, DEADLINE, |state| state.arrived < count)
            .unwrap_or_else(PoisonError::into_inner);
        let arrived = state.arrived;
        drop(state);
        assert!(!waited.timed_out(), "{arrived} of {count} came to the gate");
    }

    /// Waits until the gate is open; false when that took longer than the deadline.
    pub fn pass(&self) -> bool {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.arrived += 1;
        self.shared.changed.notify_all();
        let (_state, waited) = self
            .shared
            .changed
            .wait_timeout_while(state, DEADLINE * 2, |state| !state.open)
            .unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }
}
