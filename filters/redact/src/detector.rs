//! The built-in detectors: what a regular expression cannot say, since a checksum decides.

use serde::Deserialize;

use crate::window::{More, Window};
use crate::{card, email, iban, ipv4};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detector {
    CreditCard,
    Iban,
    Email,
    Ipv4,
}

impl Detector {
    pub fn name(self) -> &'static str {
        match self {
            Detector::CreditCard => "credit_card",
            Detector::Iban => "iban",
            Detector::Email => "email",
            Detector::Ipv4 => "ipv4",
        }
    }

    /// Bytes that it looks at, at most: its longest match, and what must stand behind it.
    pub fn reach(self) -> usize {
        match self {
            Detector::CreditCard => card::REACH,
            Detector::Iban => iban::REACH,
            Detector::Email => email::REACH,
            Detector::Ipv4 => ipv4::REACH,
        }
    }

    /// Whether a match may begin with `byte`.
    pub fn begins(self, byte: u8) -> bool {
        match self {
            Detector::CreditCard => card::begins(byte),
            Detector::Iban => byte.is_ascii_alphabetic(),
            Detector::Email => email::begins(byte),
            Detector::Ipv4 => byte.is_ascii_digit(),
        }
    }

    /// Whether a match may stand behind `byte`.
    pub fn follows(self, byte: u8) -> bool {
        match self {
            Detector::CreditCard => card::follows(byte),
            Detector::Iban => !byte.is_ascii_alphanumeric(),
            Detector::Email => email::follows(byte),
            Detector::Ipv4 => ipv4::follows(byte),
        }
    }

    /// The length of the longest match that begins here.
    pub fn find(self, window: Window) -> Result<Option<usize>, More> {
        match self {
            Detector::CreditCard => card::find(window),
            Detector::Iban => iban::find(window),
            Detector::Email => email::find(window),
            Detector::Ipv4 => ipv4::find(window),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::window::End;

    const ALL: [Detector; 4] = [Detector::CreditCard, Detector::Iban, Detector::Email, Detector::Ipv4];

    /// Holds a detector to a table: a text, and what of it is found, first to last.
    pub fn check(detector: Detector, cases: &[(&str, &[&str])]) {
        for (text, expected) in cases {
            assert_eq!(all(detector, text), *expected, "{text}");
            // Nothing that is said before the end may be taken back.
            for cut in 0..text.len() {
                let early = Window {
                    bytes: &text.as_bytes()[..cut],
                    end: End::Open,
                };
                let whole = Window {
                    bytes: text.as_bytes(),
                    end: End::Closed,
                };
                if let Ok(found) = detector.find(early) {
                    assert_eq!(Ok(found), detector.find(whole), "{text} cut at {cut}");
                }
            }
        }
    }

    fn all(detector: Detector, text: &str) -> Vec<&str> {
        let bytes = text.as_bytes();
        let (mut at, mut found) = (0, Vec::new());
        while at < bytes.len() {
            let possible = detector.begins(bytes[at]) && (at == 0 || detector.follows(bytes[at - 1]));
            let window = Window {
                bytes: &bytes[at..],
                end: End::Closed,
            };
            match possible.then(|| detector.find(window)) {
                Some(Ok(Some(length))) => {
                    found.push(&text[at..at + length]);
                    at += length;
                }
                _ => at += 1,
            }
        }
        found
    }

    /// A detector decides with what it may look at.
    #[test]
    fn no_detector_waits_for_more_than_its_reach() {
        let longest = [b'1', b'4', b'.', b'-', b' ', b'a', b'@'].map(|byte| vec![byte; 600]);
        let mixed: Vec<Vec<u8>> = ["4 ", "a.", "a@", "1.", "4-", "de12 ", "a@b.c."]
            .map(|text| text.repeat(300).into_bytes())
            .into();
        for bytes in longest.iter().chain(&mixed) {
            for detector in ALL {
                let window = Window {
                    bytes: &bytes[..detector.reach()],
                    end: End::Open,
                };
                assert!(
                    detector.find(window).is_ok(),
                    "{detector:?} {:?}",
                    &bytes[..8].escape_ascii().to_string()
                );
            }
        }
    }
}
