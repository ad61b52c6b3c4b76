//! International bank account numbers (ISO 13616): by country, length and checksum.

use crate::window::{More, Window};

const MAX_CHARACTERS: usize = 34;
/// The characters, a space between any two groups of four, and the byte behind them.
pub const REACH: usize = MAX_CHARACTERS + (MAX_CHARACTERS - 1) / 4 + 1;
/// The country and the check digits, which the checksum takes last.
const HEAD: usize = 4;

/// The lengths in the countries of the registry of ISO 13616, as SWIFT publishes it.
const LENGTHS: [(&[u8; 2], usize); 89] = [
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
    (b"YE", 30),
];

/// The one that begins here: as it is stored, or as it is printed, in groups of four.
pub fn find(window: Window) -> Result<Option<usize>, More> {
    let (Some(first), Some(second)) = (window.at(0)?, window.at(1)?) else {
        return Ok(None);
    };
    // Of most words this is seen at once; the countries take some steps.
    if window.bytes.get(2).is_some_and(|byte| !byte.is_ascii_digit()) {
        return Ok(None);
    }
    let country = [first.to_ascii_uppercase(), second.to_ascii_uppercase()];
    let Ok(index) = LENGTHS.binary_search_by(|(name, _)| (*name).cmp(&country)) else {
        return Ok(None);
    };
    let length = LENGTHS[index].1;
    let mut characters = [0; MAX_CHARACTERS];
    let mut at = 0;
    for (count, character) in characters[..length].iter_mut().enumerate() {
        if count > 0 && count % 4 == 0 && window.at(at)? == Some(b' ') {
            at += 1;
        }
        match window.at(at)? {
            Some(byte) if belongs(count, byte) => *character = byte,
            _ => return Ok(None),
        }
        at += 1;
    }
    let ends = !window.at(at)?.is_some_and(|byte| byte.is_ascii_alphanumeric());
    Ok((ends && checksum(&characters[..length]) == 1).then_some(at))
}

fn belongs(index: usize, byte: u8) -> bool {
    match index {
        0 | 1 => byte.is_ascii_alphabetic(),
        2 | 3 => byte.is_ascii_digit(),
        _ => byte.is_ascii_alphanumeric(),
    }
}

/// ISO/IEC 7064 mod 97-10 of the number that it becomes with the head last and 10 to 35 for letters; 1 is right.
fn checksum(characters: &[u8]) -> u32 {
    let (head, rest) = characters.split_at(HEAD);
    rest.iter()
        .chain(head)
        .fold(0, |sum, byte| match char::from(*byte).to_digit(36) {
            Some(digit @ 0..=9) => (10 * sum + digit) % 97,
            Some(letter) => (100 * sum + letter) % 97,
            None => sum,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detector::Detector;
    use crate::detector::tests::check;

    #[test]
    fn the_countries_are_in_order() {
        assert!(LENGTHS.is_sorted_by(|(one, _), (other, _)| one < other));
        assert!(LENGTHS.iter().all(|(_, length)| (15..=MAX_CHARACTERS).contains(length)));
    }

    #[test]
    fn accounts_are_found_by_country_length_and_checksum() {
        check(
            Detector::Iban,
            &[
                ("DE89370400440532013000", &["DE89370400440532013000"]),
                ("DE89 3704 0044 0532 0130 00", &["DE89 3704 0044 0532 0130 00"]),
                ("de89 3704 0044 0532 0130 00.", &["de89 3704 0044 0532 0130 00"]),
                ("GB29NWBK60161331926819", &["GB29NWBK60161331926819"]),
                ("NO9386011117947", &["NO9386011117947"]),
                ("MT84MALT011000012345MTLCAST001S", &["MT84MALT011000012345MTLCAST001S"]),
                (
                    "FR14 2004 1010 0505 0001 3M02 606",
                    &["FR14 2004 1010 0505 0001 3M02 606"],
                ),
                (
                    "CH9300762011623852957,AT611904300234573201",
                    &["CH9300762011623852957", "AT611904300234573201"],
                ),
                // A wrong checksum, country or grouping; too short; a part of something longer.
                ("DE88370400440532013000", &[]),
                ("ZZ89370400440532013000", &[]),
                ("DE89 370400440532013000", &["DE89 370400440532013000"]),
                ("DE893 70400440532013000", &[]),
                ("DE89  3704 0044 0532 0130 00", &[]),
                ("DE8937040044053201300", &[]),
                ("DE893704004405320130001", &[]),
                ("XDE89370400440532013000", &[]),
                ("D", &[]),
                ("", &[]),
            ],
        );
    }
}
