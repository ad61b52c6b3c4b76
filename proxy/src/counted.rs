//! A place in a count, held as long as its holder lives: a request that is dropped half-way is counted no more.
//!
//! Data plane; one thread only. It knows nothing of what is counted.

use std::cell::Cell;

/// One more in a count, until it is dropped.
pub struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    pub fn among(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
