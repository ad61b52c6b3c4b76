//! For whom the last descriptors of the process are.
//!
//! Data plane. The kernel gives the lowest number that is free, so that the number of a new descriptor says how many are
//! open, and nobody has to count. Invariant: clients leave some for upstreams, and both leave some for the administration
//! endpoint, logs and files: whoever looks into an overload, or ends it by a reload, is not shut out by it. Guests leave
//! most to all of them.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Whose connection, or file, takes a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    Client,
    Upstream,
    /// A component, for a file.
    Guest,
}

/// Lets the process have as many as it may: shells and service managers begin with 1024 for the sake of programs that use
/// `select`. How many that are; `None` is without a limit.
pub fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        // Where that is forbidden, it is as many as before.
        Err(_) => current,
    }
}

/// Fails as the kernel does when there are none left, if this is one of those that are kept for others. One system call,
/// for each connection that is made.
pub fn leave_some(opened: impl AsFd, taker: Taker) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile).current;
    let number = opened.as_fd().as_raw_fd();
    match limit.is_some_and(|limit| is_kept(u64::from(number.unsigned_abs()), limit, taker)) {
        true => Err(Errno::MFILE.into()),
        false => Ok(()),
    }
}

fn is_kept(number: u64, limit: u64, taker: Taker) -> bool {
    let kept = match taker {
        // What the requests under way need to be answered.
        Taker::Client => (limit / 8).min(64),
        Taker::Upstream => (limit / 16).min(16),
        // Whatever guests do, as many clients come through as with half the limit.
        Taker::Guest => limit / 2,
    };
    number + kept >= limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept() {
        let first = |limit: u64, taker: Taker| (0..limit).find(|number| is_kept(*number, limit, taker));
        assert_eq!(
            (first(64, Taker::Client), first(64, Taker::Upstream)),
            (Some(56), Some(60))
        );
        assert_eq!(
            (first(4096, Taker::Client), first(4096, Taker::Upstream)),
            (Some(4032), Some(4080))
        );
        assert_eq!(first(4096, Taker::Guest), Some(2048));
        assert_eq!(first(4, Taker::Client), None, "with next to none, nothing is kept");
        let file = tempfile::tempfile().expect("a file");
        assert!(leave_some(&file, Taker::Client).is_ok());
    }
}
