//! One body on its way: what is held back of it, and how often something was found. One an exchange and direction.
//!
//! What comes out does not depend on how the body is cut into pieces: at each place the scanner is asked only for what
//! no later byte can change, and waits for the rest.

use std::mem;
use std::rc::Rc;

use crate::patterns::Patterns;
use crate::scanner::Found;
use crate::window::End;

#[derive(Debug, Clone)]
pub struct Stream {
    patterns: Rc<Patterns>,
    /// Less than the scanner's reach: the beginning of what may become a match.
    held: Vec<u8>,
    /// The byte before `held`, as it came.
    before: Option<u8>,
    /// Matches by pattern, since they were last taken.
    counts: Vec<u64>,
}

/// What becomes of a piece.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// It goes on as it came.
    Same,
    Bytes(Vec<u8>),
}

impl Stream {
    pub fn new(patterns: Rc<Patterns>) -> Self {
        Stream {
            counts: vec![0; patterns.list().len()],
            patterns,
            held: Vec::new(),
            before: None,
        }
    }

    /// What goes on when this piece has come.
    pub fn push(&mut self, piece: Vec<u8>) -> Output {
        if self.held.is_empty() {
            let length = piece.len();
            return match self.scan(piece, End::Open) {
                Scanned::Untouched(bytes) if bytes.len() == length => Output::Same,
                Scanned::Untouched(bytes) | Scanned::Replaced(bytes) => Output::Bytes(bytes),
            };
        }
        let mut text = mem::take(&mut self.held);
        text.extend_from_slice(&piece);
        Output::Bytes(self.scan(text, End::Open).into_bytes())
    }

    /// What is left at the end of the body.
    pub fn finish(&mut self) -> Vec<u8> {
        let text = mem::take(&mut self.held);
        self.scan(text, End::Closed).into_bytes()
    }

    /// How often each pattern has matched since this was last called.
    pub fn take_counts(&mut self) -> impl Iterator<Item = (&str, u64)> {
        let names = self.patterns.list().iter().map(|pattern| pattern.name.as_str());
        let counts = self.counts.iter_mut().map(mem::take);
        names.zip(counts).filter(|(_, count)| *count > 0)
    }

    /// Replaces what there is in the text, and holds back its end if that may be the beginning of a match.
    fn scan(&mut self, mut text: Vec<u8>, end: End) -> Scanned {
        let mut output = Vec::new();
        let mut done = 0;
        let hold = loop {
            match self.patterns.scanner().find(&text, done, self.before, end) {
                Found::NothingBefore(hold) => break hold,
                Found::Match(found) => {
                    output.extend_from_slice(&text[done..found.begin]);
                    let pattern = &self.patterns.list()[found.pattern];
                    pattern.replacement.append(&text[found.begin..found.end], &mut output);
                    self.counts[found.pattern] += 1;
                    done = found.end;
                }
            }
        };
        self.before = text[..hold].last().copied().or(self.before);
        self.held = text.split_off(hold);
        debug_assert!(
            self.held.len() < self.patterns.scanner().reach().max(1),
            "too much is held back"
        );
        if done == 0 {
            return Scanned::Untouched(text);
        }
        output.extend_from_slice(&text[done..]);
        Scanned::Replaced(output)
    }
}

/// What of a text can go on.
enum Scanned {
    /// Nothing of it was replaced.
    Untouched(Vec<u8>),
    Replaced(Vec<u8>),
}

impl Scanned {
    fn into_bytes(self) -> Vec<u8> {
        match self {
            Scanned::Untouched(bytes) | Scanned::Replaced(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tamis_filter::testing::json;

    use super::*;
    use crate::patterns::MAX_MATCH;

    fn patterns(config: serde_json::Value) -> Rc<Patterns> {
        let configs = serde_json::from_value(config).unwrap();
        Rc::new(Patterns::new(configs, MAX_MATCH).unwrap())
    }

    fn everything() -> Rc<Patterns> {
        patterns(json!([
            { "name": "secret", "literals": ["secret", "secrets", "se", "cretin"], "replace": "<s>" },
            { "name": "token", "regex": "tok_[a-z0-9]{4,8}", "replace": "<t>" },
            { "name": "card", "detect": "credit_card", "mask": { "keep_last": 4 } },
            { "name": "iban", "detect": "iban", "replace": "<i>" },
            { "name": "mail", "detect": "email", "replace": "<m>" },
            { "name": "address", "detect": "ipv4", "replace": "<4>" },
        ]))
    }

    fn redacted(patterns: &Rc<Patterns>, pieces: &[&[u8]]) -> Vec<u8> {
        let mut stream = Stream::new(Rc::clone(patterns));
        let mut output = Vec::new();
        for piece in pieces {
            match stream.push(piece.to_vec()) {
                Output::Same => output.extend_from_slice(piece),
                Output::Bytes(bytes) => output.extend_from_slice(&bytes),
            }
        }
        output.extend_from_slice(&stream.finish());
        output
    }

    fn text(patterns: &Rc<Patterns>, text: &str) -> String {
        String::from_utf8(redacted(patterns, &[text.as_bytes()])).unwrap()
    }

    #[test]
    fn the_leftmost_longest_match_is_replaced() {
        let patterns = everything();
        let cases = [
            ("", ""),
            ("nothing here", "nothing here"),
            ("a secret, secrets; se", "a <s>, <s>; <s>"),
            ("sesecretin", "<s><s>in"),
            ("tok_abcd tok_abc tok_abcdefghij", "<t> tok_abc <t>ij"),
            ("card 4111 1111 1111 1111.", "card **** **** **** 1111."),
            ("DE89370400440532013000 jane@example.org 192.0.2.7", "<i> <m> <4>"),
            // The address begins first, and is longer than the literal in it.
            ("secret@example.org", "<m>"),
            ("secret@example", "<s>@example"),
            ("192.0.2.7secret", "192.0.2.7<s>"),
        ];
        for (before, after) in cases {
            assert_eq!(text(&patterns, before), after, "{before}");
        }
    }

    #[test]
    fn of_two_equal_matches_the_first_pattern_wins() {
        let both = |first: &str, second: &str| {
            let pattern = |name: &str| match name {
                "mail" => json!({ "name": "mail", "detect": "email", "replace": "<m>" }),
                _ => json!({ "name": "literal", "literals": ["a@b.cd"], "replace": "<l>" }),
            };
            text(&patterns(json!([pattern(first), pattern(second)])), "a@b.cd")
        };
        assert_eq!(both("mail", "literal"), "<m>");
        assert_eq!(both("literal", "mail"), "<l>");
    }

    #[test]
    fn matches_are_counted_once_by_their_pattern() {
        let mut stream = Stream::new(everything());
        stream.push(b"secret se 192.0.2.7 secr".to_vec());
        let counts = |stream: &mut Stream| -> Vec<(String, u64)> {
            stream
                .take_counts()
                .map(|(name, count)| (name.to_owned(), count))
                .collect()
        };
        assert_eq!(
            counts(&mut stream),
            [("secret".to_owned(), 2), ("address".to_owned(), 1)]
        );
        assert_eq!(counts(&mut stream), []);
        stream.push(b"et".to_vec());
        stream.finish();
        assert_eq!(counts(&mut stream), [("secret".to_owned(), 1)]);
    }

    #[test]
    fn only_what_may_become_a_match_is_held_back() {
        let patterns = everything();
        let cases: [(&str, Option<&str>, &str); 9] = [
            // A piece; what goes on at once, or none when it is the same; and what follows at the end.
            ("nothing here. ", None, ""),
            ("event: x\n\n", None, ""),
            // The beginning of an address of mail, or of its name.
            ("nothing here.", Some("nothing "), "here."),
            ("this is a secre", Some("this is a "), "<s>cre"),
            ("this is a secret ", Some("this is a <s> "), ""),
            ("pay 4111 1111", Some("pay "), "4111 1111"),
            ("from jane@example.org", Some("from "), "<m>"),
            ("from jane@example.org ", Some("from <m> "), ""),
            ("pay 9999 9999 ", None, ""),
        ];
        for (piece, first, last) in cases {
            let mut stream = Stream::new(Rc::clone(&patterns));
            let output = match first {
                None => Output::Same,
                Some(first) => Output::Bytes(first.into()),
            };
            assert_eq!(stream.push(piece.into()), output, "{piece}");
            assert_eq!(String::from_utf8(stream.finish()).unwrap(), last, "{piece}");
        }
    }

    /// Texts in which there is much to find, whole and in parts.
    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let parts = prop_oneof![
            "[a-z .@]{0,6}",
            "[0-9 .-]{0,9}",
            Just("secret".to_owned()),
            Just("cretin".to_owned()),
            Just("tok_".to_owned()),
            Just("4111 1111 1111 1111".to_owned()),
            Just("4111-1111".to_owned()),
            Just("DE89 3704 0044 0532 0130 00".to_owned()),
            Just("DE89 3704".to_owned()),
            Just("jane@example.org".to_owned()),
            Just("192.0.2.7".to_owned()),
            Just("\u{e9}".to_owned()),
        ];
        prop::collection::vec(parts, 0..12).prop_map(|parts| parts.concat().into_bytes())
    }

    /// Cuts a text at places that are given as parts of its length.
    fn cut<'a>(text: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        places.extend([0, text.len()]);
        places.sort_unstable();
        places.windows(2).map(|places| &text[places[0]..places[1]]).collect()
    }

    /// What the whole text becomes, by asking for each place anew: slow, and with nothing kept.
    fn reference(patterns: &Patterns, text: &[u8]) -> Vec<u8> {
        let (mut output, mut at) = (Vec::new(), 0);
        while at < text.len() {
            let before = text[..at].last().copied();
            match patterns.scanner().find(&text[at..], 0, before, End::Closed) {
                Found::Match(found) if found.begin == 0 => {
                    let matched = &text[at..at + found.end];
                    patterns.list()[found.pattern].replacement.append(matched, &mut output);
                    at += found.end;
                }
                _ => {
                    output.push(text[at]);
                    at += 1;
                }
            }
        }
        output
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn cuts_change_nothing(text in texts(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
            let patterns = everything();
            let whole = redacted(&patterns, &[&text]);
            prop_assert_eq!(&redacted(&patterns, &cut(&text, &cuts)), &whole);
            let bytes: Vec<&[u8]> = text.chunks(1).collect();
            prop_assert_eq!(&redacted(&patterns, &bytes), &whole);
            prop_assert_eq!(&reference(&patterns, &text), &whole);
        }

        #[test]
        fn nothing_that_is_whole_is_left(text in texts()) {
            let patterns = patterns(json!([
                { "name": "secret", "literals": ["secret"], "replace": "?" },
                { "name": "mail", "detect": "email", "replace": "?" },
            ]));
            let clean = redacted(&patterns, &[&text]);
            prop_assert!(!clean.windows(6).any(|window| window == b"secret"), "{}", clean.escape_ascii());
        }

        #[test]
        fn any_bytes_in_any_pieces(
            text in prop::collection::vec(any::<u8>(), 0..700),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) {
            let patterns = everything();
            prop_assert_eq!(redacted(&patterns, &cut(&text, &cuts)), redacted(&patterns, &[&text]));
        }

        /// The constant memory that is promised, and that bytes go on as soon as they can.
        #[test]
        fn less_than_the_reach_is_held(text in "[a-z0-9@. -]{0,900}") {
            let patterns = everything();
            let mut stream = Stream::new(Rc::clone(&patterns));
            for byte in text.bytes() {
                stream.push(vec![byte]);
                prop_assert!(stream.held.len() < patterns.scanner().reach());
            }
        }
    }
}
