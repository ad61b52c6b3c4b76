//! All that is looked for, compiled once for an instance. It finds the first match of a text: of those that begin
//! first the longest, and of these the pattern that is configured first.

use crate::automaton::Automaton;
use crate::detector::Detector;
use crate::window::{End, More, Window};

/// What may begin at a byte: one bit for the automaton, and one for each detector.
type Candidates = u8;
const AUTOMATON: Candidates = 1;
const NOTHING: Candidates = 0;

#[derive(Debug)]
pub struct Scanner {
    automaton: Option<Automaton>,
    /// The detectors, and the patterns that they are.
    detectors: Vec<(Detector, usize)>,
    /// What may begin with a byte.
    begins: [Candidates; 256],
    /// What may begin behind a byte.
    follows: [Candidates; 256],
    /// The bytes with which anything begins, if they are so few that `memchr` finds them faster.
    rare: Option<Vec<u8>>,
    reach: usize,
}

/// A match in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    pub begin: usize,
    pub end: usize,
    pub pattern: usize,
}

/// What a search has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Match(Match),
    /// Nothing before this place; what begins there cannot be told yet, or is the end.
    NothingBefore(usize),
}

impl Scanner {
    pub fn new(automaton: Option<Automaton>, detectors: Vec<(Detector, usize)>) -> Self {
        let mut begins = [NOTHING; 256];
        let mut follows = [NOTHING; 256];
        for (byte, (begins, follows)) in (0..=u8::MAX).zip(begins.iter_mut().zip(&mut follows)) {
            let starts = automaton.as_ref().is_some_and(|automaton| automaton.begins(byte));
            *begins = if starts { AUTOMATON } else { NOTHING };
            // Of what stands before them, literals and expressions know nothing.
            *follows = AUTOMATON;
            for (detector, _) in &detectors {
                *begins |= if detector.begins(byte) { bit(*detector) } else { NOTHING };
                *follows |= if detector.follows(byte) {
                    bit(*detector)
                } else {
                    NOTHING
                };
            }
        }
        let first: Vec<u8> = (0..=u8::MAX)
            .filter(|byte| begins[usize::from(*byte)] != NOTHING)
            .collect();
        let reaches = detectors.iter().map(|(detector, _)| detector.reach());
        Scanner {
            reach: reaches
                .chain(automaton.as_ref().map(Automaton::reach))
                .max()
                .unwrap_or(0),
            automaton,
            detectors,
            begins,
            follows,
            rare: (first.len() <= 3).then_some(first),
        }
    }

    /// The bytes that must be there to tell what begins at a place: one less may have to be held back.
    pub fn reach(&self) -> usize {
        self.reach
    }

    /// The first match from `from` on. `before` is the byte before the text, if there is one.
    pub fn find(&self, text: &[u8], from: usize, before: Option<u8>, end: End) -> Found {
        let mut at = from;
        loop {
            let previous = if at == 0 { before } else { Some(text[at - 1]) };
            let Some((begin, candidates)) = self.candidate(text, at, previous) else {
                return Found::NothingBefore(text.len());
            };
            let window = Window {
                bytes: &text[begin..],
                end,
            };
            match self.longest(window, candidates) {
                Err(More) => return Found::NothingBefore(begin),
                Ok(None) => at = begin + 1,
                Ok(Some((length, pattern))) => {
                    return Found::Match(Match {
                        begin,
                        end: begin + length,
                        pattern,
                    });
                }
            }
        }
    }

    /// The next place at which something may begin, and what.
    fn candidate(&self, text: &[u8], from: usize, mut previous: Option<u8>) -> Option<(usize, Candidates)> {
        let mut at = from;
        if let Some(rare) = &self.rare {
            let skipped = match *rare.as_slice() {
                [one] => memchr::memchr(one, &text[at..]),
                [one, two] => memchr::memchr2(one, two, &text[at..]),
                [one, two, three] => memchr::memchr3(one, two, three, &text[at..]),
                _ => None,
            }?;
            if skipped > 0 {
                at += skipped;
                previous = Some(text[at - 1]);
            }
        }
        let mut possible = previous.map_or(Candidates::MAX, |byte| self.follows[usize::from(byte)]);
        for (index, byte) in text[at..].iter().enumerate() {
            let candidates = possible & self.begins[usize::from(*byte)];
            if candidates != NOTHING {
                return Some((at + index, candidates));
            }
            possible = self.follows[usize::from(*byte)];
        }
        None
    }

    /// The longest match at the window's first byte, and its pattern.
    fn longest(&self, window: Window, candidates: Candidates) -> Result<Option<(usize, usize)>, More> {
        let mut longest: Option<(usize, usize)> = None;
        let mut offer = |length: usize, pattern: usize| {
            let better = |(present, earlier)| length > present || (length == present && pattern < earlier);
            if longest.is_none_or(better) {
                longest = Some((length, pattern));
            }
        };
        if let Some(automaton) = self.automaton.as_ref().filter(|_| candidates & AUTOMATON != NOTHING)
            && let Some((length, pattern)) = automaton.find(window)?
        {
            offer(length, pattern);
        }
        for (detector, pattern) in &self.detectors {
            if candidates & bit(*detector) != NOTHING
                && let Some(length) = detector.find(window)?
            {
                offer(length, *pattern);
            }
        }
        Ok(longest)
    }
}

fn bit(detector: Detector) -> Candidates {
    match detector {
        Detector::CreditCard => 1 << 1,
        Detector::Iban => 1 << 2,
        Detector::Email => 1 << 3,
        Detector::Ipv4 => 1 << 4,
    }
}
