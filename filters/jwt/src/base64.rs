//! base64url without padding (RFC 7515 section 2): one spelling for each sequence of bytes.

use base64ct::{Base64UrlUnpadded, Encoding};

/// The bytes; none for padding, line breaks, bits that are left over, and letters of another alphabet.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    Base64UrlUnpadded::decode_vec(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_spelling_is_read() {
        let good = [
            ("", ""),
            ("Zg", "f"),
            ("Zm8", "fo"),
            ("Zm9v", "foo"),
            ("-_8", "\u{fb}\u{ff}"),
        ];
        for (text, bytes) in good {
            let bytes: Vec<u8> = bytes.chars().map(|letter| letter as u8).collect();
            assert_eq!(decode(text), Some(bytes), "{text}");
        }
        for text in [
            "Zg==",
            "Zg=",
            "Zh",
            "Zm9",
            "Z",
            "Zm9vZ",
            "+/8",
            "Zm 8",
            "Zm8\n",
            " Zm8",
            "Zm8.",
            "Zm8\u{e9}",
        ] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
