//! The priority of threads that work for nobody who waits.
//!
//! Control plane. Whatever reads, compiles and assembles a generation competes for the same cores as the workers; with
//! less weight it takes what they leave, and a share when they leave nothing, so that a change comes through in the end.

use rustix::process::{getpid, getpriority_process, nice};

/// Added to the process's niceness: beside a busy worker, such a thread gets about a tenth of a core.
const NICENESS: i32 = 10;

/// Has the calling thread, and those that it starts from now on, give way to exchanges. Best effort: without the right
/// to, it competes as an equal.
pub fn yield_to_exchanges() {
    let is_equal = match (getpriority_process(None), getpriority_process(Some(getpid()))) {
        (Ok(own), Ok(main)) => own <= main,
        _ => true,
    };
    // A thread that was started by one that gives way does so already.
    if is_equal {
        let _ = nice(NICENESS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn giving_way_twice_or_in_a_thread_of_a_thread_is_giving_way_once() {
        let own = || getpriority_process(None).expect("it is known");
        let before = own();
        let after = std::thread::spawn(move || {
            yield_to_exchanges();
            yield_to_exchanges();
            let inner = std::thread::spawn(move || {
                yield_to_exchanges();
                own()
            });
            (own(), inner.join().expect("it does not panic"))
        });
        let expected = (before + NICENESS).min(19);
        assert_eq!(after.join().expect("it does not panic"), (expected, expected));
        assert_eq!(own(), before);
    }
}
