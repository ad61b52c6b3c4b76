//! The one way to wait for what changes by itself: to look again and again, until a deadline.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

use crate::DEADLINE;

/// Between the first two looks; each further pause is twice as long, so that a short wait ends soon and a long one
/// leaves the processor to what is waited for.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Looks again until it is so; panics with what was never so.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(what, DEADLINE, || is_so().then_some(()).ok_or("it is not so"));
}

/// Looks again until there is what is looked for; panics with what was there instead when it did not come `within` that
/// time.
pub fn wait_for<T, Instead: Debug>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, Instead>) -> T {
    let deadline = Instant::now() + within;
    let mut pause = FIRST_PAUSE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(instead) => assert!(Instant::now() < deadline, "never: {what}: {instead:?}"),
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
