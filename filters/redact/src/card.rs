//! Numbers of payment cards (ISO/IEC 7812-1): by issuer, length and check digit.

use crate::window::{More, Window};

const MIN_DIGITS: usize = 13;
const MAX_DIGITS: usize = 19;
/// The digits, a separator between any two, and the byte behind them, which must be no digit.
pub const REACH: usize = 2 * MAX_DIGITS;
/// Digits that tell the issuer.
const ISSUER_DIGITS: usize = 4;

/// The first and last of an issuer's numbers by their first four digits, and the lengths that it gives out. One number
/// in ten has a right check digit by chance; issuers and lengths rule most of those out, among them times since 1970.
const ISSUERS: [(u16, u16, &[usize]); 18] = [
    (2200, 2204, &[16, 17, 18, 19]),             // Mir
    (2221, 2720, &[16]),                         // Mastercard
    (3000, 3059, &[14, 15, 16, 17, 18, 19]),     // Diners Club
    (3095, 3095, &[14, 15, 16, 17, 18, 19]),     // Diners Club
    (3400, 3499, &[15]),                         // American Express
    (3528, 3589, &[16, 17, 18, 19]),             // JCB
    (3600, 3699, &[14, 15, 16, 17, 18, 19]),     // Diners Club
    (3700, 3799, &[15]),                         // American Express
    (3800, 3999, &[14, 15, 16, 17, 18, 19]),     // Diners Club
    (4000, 4999, &[13, 16, 19]),                 // Visa
    (5000, 5099, &[13, 14, 15, 16, 17, 18, 19]), // Maestro
    (5100, 5599, &[16]),                         // Mastercard
    (5600, 5899, &[13, 14, 15, 16, 17, 18, 19]), // Maestro
    (6000, 6199, &[16, 17, 18, 19]),             // Discover, RuPay
    (6200, 6299, &[16, 17, 18, 19]),             // UnionPay
    (6300, 6999, &[13, 14, 15, 16, 17, 18, 19]), // Maestro, Discover, RuPay
    (8100, 8199, &[16, 17, 18, 19]),             // UnionPay
    (9792, 9792, &[16]),                         // Troy
];

pub fn begins(byte: u8) -> bool {
    matches!(byte, b'2'..=b'6' | b'8' | b'9')
}

/// Behind a digit it would be the end of a longer number, behind a point the fraction of one.
pub fn follows(byte: u8) -> bool {
    !byte.is_ascii_digit() && byte != b'.'
}

/// The longest one: 13 to 19 digits with at most one space or dash between any two, and no digit behind them.
pub fn find(window: Window) -> Result<Option<usize>, More> {
    let mut digits = [0; MAX_DIGITS];
    let (mut count, mut at, mut longest) = (0, 0, None);
    while let Some(digit @ b'0'..=b'9') = window.at(at)? {
        digits[count] = digit - b'0';
        (count, at) = (count + 1, at + 1);
        if count == ISSUER_DIGITS && issuer(&digits).is_none() {
            return Ok(None);
        }
        let next = window.at(at)?;
        let ends = !next.is_some_and(|byte| byte.is_ascii_digit());
        if ends && count >= MIN_DIGITS && is_card(&digits[..count]) {
            longest = Some(at);
        }
        if count == MAX_DIGITS {
            break;
        }
        if let Some(b' ' | b'-') = next {
            at += 1;
        }
    }
    Ok(longest)
}

fn is_card(digits: &[u8]) -> bool {
    issuer(digits).is_some_and(|lengths| lengths.contains(&digits.len())) && luhn(digits)
}

/// The lengths of the issuer's numbers.
fn issuer(digits: &[u8]) -> Option<&'static [usize]> {
    let first = digits[..ISSUER_DIGITS]
        .iter()
        .fold(0, |sum, digit| 10 * sum + u16::from(*digit));
    let found = ISSUERS.iter().find(|(from, to, _)| (*from..=*to).contains(&first));
    found.map(|(_, _, lengths)| *lengths)
}

/// ISO/IEC 7812-1 annex B: from the right, every second digit counts twice.
fn luhn(digits: &[u8]) -> bool {
    let weighed = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, 2 * digit) {
            (0, _) => u32::from(*digit),
            (_, double) => u32::from(double / 10 + double % 10),
        });
    weighed.sum::<u32>() % 10 == 0
}

#[cfg(test)]
mod tests {
    use crate::detector::Detector;
    use crate::detector::tests::check;

    #[test]
    fn cards_are_found_by_issuer_length_and_check_digit() {
        check(
            Detector::CreditCard,
            &[
                // The issuers' own test numbers.
                ("4111111111111111", &["4111111111111111"]),
                ("4222222222222", &["4222222222222"]),
                ("5555555555554444", &["5555555555554444"]),
                ("2223003122003222", &["2223003122003222"]),
                ("378282246310005", &["378282246310005"]),
                ("30569309025904", &["30569309025904"]),
                ("6011111111111117", &["6011111111111117"]),
                ("3530111333300000", &["3530111333300000"]),
                ("6304000000000000", &["6304000000000000"]),
                ("4111 1111 1111 1111", &["4111 1111 1111 1111"]),
                ("4111-1111-1111-1111", &["4111-1111-1111-1111"]),
                ("3782 822463 10005", &["3782 822463 10005"]),
                ("4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", &["4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"]),
                ("{\"n\":\"4111111111111111\"}", &["4111111111111111"]),
                (
                    "pay 4111111111111111, 378282246310005.",
                    &["4111111111111111", "378282246310005"],
                ),
                ("4111111111111111 2027", &["4111111111111111"]),
                ("12 4111111111111111", &["4111111111111111"]),
                ("no4111111111111111x", &["4111111111111111"]),
                // A wrong check digit, length, issuer or separator; a part of a longer number; a fraction.
                ("4111111111111112", &[]),
                ("411111111111111", &[]),
                ("1700000000000", &[]),
                ("0000000000000000", &[]),
                ("4111  1111 1111 1111", &[]),
                ("4111.1111.1111.1111", &[]),
                ("94111111111111111", &[]),
                ("41111111111111110", &[]),
                ("0.4111111111111111", &[]),
                ("41111111111111111111111", &[]),
                ("4111", &[]),
                ("", &[]),
            ],
        );
    }
}
