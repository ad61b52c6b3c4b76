//! A watchdog: one lazily armed timer that serves a long row of deadlines.
//!
//! Data plane. A connection has a new deadline for every exchange, and nearly none of them ever fires. Arming a runtime
//! timer for each costs more than routing does; a watchdog is armed once, is left alone while deadlines move further
//! away, and looks again when it fires. It knows nothing of what it guards.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// Lives as long as its connection; at most one deadline is watched at a time, and by the same task until
/// [`Watchdog::change_task`].
#[derive(Default)]
pub struct Watchdog {
    sleep: RefCell<Option<Pin<Box<Sleep>>>>,
    /// The timer knows the waker of another task.
    is_strange: Cell<bool>,
}

impl Watchdog {
    /// From now on another task watches.
    pub fn change_task(&self) {
        self.is_strange.set(true);
    }

    /// Whether `deadline` has passed; if not, the task is woken when it does, or earlier.
    pub fn expired(&self, context: &mut Context<'_>, deadline: Instant) -> bool {
        let mut slot = self.sleep.borrow_mut();
        let mut is_armed = slot.is_some();
        let sleep = slot.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
            is_armed = false;
        }
        if is_armed && !sleep.is_elapsed() && !self.is_strange.get() {
            // It knows the task's waker, which stays the same.
            return false;
        }
        self.is_strange.set(false);
        while sleep.as_mut().poll(context).is_ready() {
            if Instant::now() >= deadline {
                return true;
            }
            sleep.as_mut().reset(deadline);
        }
        false
    }

    /// Drives `future` until it is done or `deadline` passes; `None` when it passed. No deadline never passes.
    pub async fn watch<F: Future>(&self, deadline: Option<Instant>, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => match deadline {
                Some(deadline) if self.expired(context, deadline) => Poll::Ready(None),
                _ => Poll::Pending,
            },
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_later_deadline_outlives_an_earlier_one() {
        let watchdog = Watchdog::default();
        let start = Instant::now();
        let first = start + Duration::from_secs(1);
        assert_eq!(watchdog.watch(Some(first), async { 7 }).await, Some(7));
        let second = start + Duration::from_secs(5);
        assert_eq!(watchdog.watch(Some(second), std::future::pending::<()>()).await, None);
        assert!(
            Instant::now() >= second,
            "fired at the first deadline instead of the second"
        );
        let third = start + Duration::from_secs(6);
        assert_eq!(watchdog.watch(Some(third), std::future::pending::<()>()).await, None);
        assert!(Instant::now() >= third);
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_deadline_shortens_the_wait() {
        let watchdog = Watchdog::default();
        let start = Instant::now();
        let waited = tokio::time::timeout(
            Duration::ZERO,
            watchdog.watch(Some(start + Duration::from_secs(60)), std::future::pending::<()>()),
        );
        assert!(waited.await.is_err());
        assert_eq!(
            watchdog
                .watch(Some(start + Duration::from_secs(1)), std::future::pending::<()>())
                .await,
            None
        );
        assert!(Instant::now() < start + Duration::from_secs(2));
    }
}
