//! What stands in a match's place.

use serde::Deserialize;

/// What stands in a match's place when nothing is said.
const DEFAULT: &str = "[redacted]";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replacement {
    Text(String),
    Mask(Mask),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mask {
    character: char,
    keep_last: usize,
}

impl Default for Mask {
    fn default() -> Self {
        Mask {
            character: '*',
            keep_last: 0,
        }
    }
}

impl Default for Replacement {
    fn default() -> Self {
        Replacement::Text(DEFAULT.to_owned())
    }
}

impl Replacement {
    /// Appends what stands in the place of `matched`.
    pub fn append(&self, matched: &[u8], output: &mut Vec<u8>) {
        match self {
            Replacement::Text(text) => output.extend_from_slice(text.as_bytes()),
            Replacement::Mask(mask) => mask.append(matched, output),
        }
    }
}

impl Mask {
    /// Masks letters and digits and keeps what stands between them, so that the form stays. It never keeps more than
    /// half of them: a short match would otherwise be shown whole.
    fn append(&self, matched: &[u8], output: &mut Vec<u8>) {
        let count = matched.iter().filter(|byte| begins_character(**byte)).count();
        let masked = count - self.keep_last.min(count / 2);
        let mut seen = 0;
        for byte in matched {
            seen += usize::from(begins_character(*byte));
            let hidden = seen <= masked && (seen > 0 || !byte.is_ascii());
            match (begins_character(*byte), byte.is_ascii()) {
                (true, _) if hidden => output.extend_from_slice(self.character.encode_utf8(&mut [0; 4]).as_bytes()),
                // The rest of a character that is masked.
                (false, false) if hidden => {}
                _ => output.push(*byte),
            }
        }
    }
}

/// A letter or digit, or the first byte of a character that is not ASCII.
fn begins_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0xc0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_keep_the_form_and_the_end() {
        let cases: [(char, usize, &[u8], &str); 11] = [
            ('*', 4, b"4111 1111 1111 1234", "**** **** **** 1234"),
            ('*', 0, b"4111-1111", "****-****"),
            ('x', 2, b"jane@example.org", "xxxx@xxxxxxx.xrg"),
            ('*', 4, b"abcd", "**cd"),
            ('*', 100, b"abcde", "***de"),
            ('*', 4, b"a", "*"),
            ('*', 4, b"", ""),
            ('*', 0, b"--", "--"),
            ('\u{2022}', 1, b"abc", "\u{2022}\u{2022}c"),
            ('*', 1, "\u{e9}\u{e8}\u{1f600}".as_bytes(), "**\u{1f600}"),
            ('*', 0, b"\x80\xbfa", "*"),
        ];
        for (character, keep_last, matched, expected) in cases {
            let mut output = Vec::new();
            Replacement::Mask(Mask { character, keep_last }).append(matched, &mut output);
            assert_eq!(String::from_utf8(output).unwrap(), expected);
        }
    }
}
