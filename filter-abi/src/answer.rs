//! The answers to hooks on heads, laid out as the host reads them.
//!
//! What owns memory, as a reply does, is freed by a second call into the guest where `wit_bindgen` lays it out: after every
//! hook that could have replied, at 0.08 us, nearly a tenth of what a small hook costs. So these answers are laid out
//! here, and have no such function: an answer lives until the next hook. Those to hooks on bodies, which may be large,
//! are freed at once.

use crate::{OverMax, Reply, RequestVerdict, Verdict};

/// The answer that the host reads, and what it points at.
///
/// The layout is that of the component model's canonical ABI, "Storing", for a memory of 32 bits: of
/// `request-verdict` and `verdict` in `wit/tamis.wit`, in words of four bytes.
#[repr(C, align(8))]
pub struct Answer {
    words: [u32; 8],
    /// Of each field of the reply: where its name lies, how long it is, and the same of its value.
    fields: Vec<[u32; 4]>,
    reply: Option<Reply>,
}

impl Answer {
    /// None yet.
    pub const fn new() -> Self {
        Answer {
            words: [0; 8],
            fields: Vec::new(),
            reply: None,
        }
    }

    /// After `on-request-head`. What it gives is good until the next one.
    pub fn after_request(&mut self, verdict: RequestVerdict) -> *const u32 {
        // The number of the case; what the case holds begins at a multiple of eight, for `max`.
        match verdict {
            RequestVerdict::Proceed => self.words[0] = 0,
            RequestVerdict::Reply(reply) => self.reply(reply, 2),
            RequestVerdict::ReadBody { max, over } => {
                self.words[0] = 2;
                let [low, high] = halves(max);
                let over = match over {
                    OverMax::Refuse => 0,
                    OverMax::Continue => 1,
                };
                self.words[2..5].copy_from_slice(&[low, high, over]);
            }
        }
        self.words.as_ptr()
    }

    /// After `on-response-head`. What it gives is good until the next one.
    pub fn after_response(&mut self, verdict: Verdict) -> *const u32 {
        match verdict {
            Verdict::Proceed => self.words[0] = 0,
            Verdict::Reply(reply) => self.reply(reply, 1),
        }
        self.words.as_ptr()
    }

    /// Frees what the last one holds: at the beginning of each hook, as the host has read it then.
    pub fn forget(&mut self) {
        self.fields = Vec::new();
        self.reply = None;
    }

    /// The second case of both verdicts, whose words begin there.
    fn reply(&mut self, reply: Reply, at: usize) {
        let reply = self.reply.insert(reply);
        let fields = reply.headers.iter().map(|header| {
            let (name, value) = (header.name.as_bytes(), header.value.as_bytes());
            [address(name), count(name), address(value), count(value)]
        });
        self.fields = fields.collect();
        self.words[0] = 1;
        self.words[at..at + 5].copy_from_slice(&[
            reply.status.into(),
            address(&self.fields),
            count(&self.fields),
            address(&reply.body),
            count(&reply.body),
        ]);
    }
}

/// Where the slice lies, for the host to read it there. In a guest this is the whole address.
fn address<T>(slice: &[T]) -> u32 {
    halves(slice.as_ptr().expose_provenance() as u64)[0]
}

fn count<T>(slice: &[T]) -> u32 {
    halves(slice.len() as u64)[0]
}

/// The lower half first, as in memory.
fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_proceed_is_the_first_case() {
        let mut answer = Answer::new();
        answer.after_request(Reply::new(403).into());
        answer.after_request(RequestVerdict::Proceed);
        assert_eq!(answer.words[0], 0);
        answer.after_response(Reply::new(403).into());
        answer.after_response(Verdict::Proceed);
        assert_eq!(answer.words[0], 0);
    }

    #[test]
    fn a_reply_points_at_what_is_kept() {
        let reply = Reply::new(403).header("x-a", "1").text("no");
        let mut answer = Answer::new();
        for first in [2, 1] {
            match first {
                2 => answer.after_request(reply.clone().into()),
                _ => answer.after_response(reply.clone().into()),
            };
            assert_eq!(answer.reply.as_ref(), Some(&reply));
            let Some(kept) = &answer.reply else { continue };
            assert_eq!(answer.words[0], 1);
            let expected = [
                403,
                address(&answer.fields),
                count(&kept.headers),
                address(&kept.body),
                2,
            ];
            assert_eq!(answer.words[first..first + 5], expected);
            for (field, header) in answer.fields.iter().zip(&kept.headers) {
                let (name, value) = (header.name.as_bytes(), header.value.as_bytes());
                assert_eq!(*field, [address(name), count(name), address(value), count(value)]);
            }
            assert_eq!(answer.fields.len(), kept.headers.len());
        }
    }

    #[test]
    fn a_wish_for_the_body_holds_both_halves_of_its_bound() {
        let mut answer = Answer::new();
        for (over, number) in [(OverMax::Refuse, 0), (OverMax::Continue, 1)] {
            let max = (7 << 32) + 9;
            answer.after_request(RequestVerdict::ReadBody { max, over });
            assert_eq!(answer.words[0], 2);
            assert_eq!(answer.words[2..5], [9, 7, number]);
        }
    }

    #[test]
    fn what_is_forgotten_is_not_held_any_more() {
        let mut answer = Answer::new();
        answer.after_request(Reply::new(403).header("x-a", "1").into());
        answer.forget();
        assert!(answer.reply.is_none());
        assert_eq!(answer.fields.capacity(), 0);
    }
}
