//! Addresses of IPv4 in dotted decimals.

use crate::window::{More, Window};

/// Fifteen, and the point and digit behind them that would make it something else, such as a longer version number.
pub const REACH: usize = 17;

/// Behind these it would be the end of something else.
pub fn follows(byte: u8) -> bool {
    !byte.is_ascii_alphanumeric() && byte != b'.' && byte != b'_'
}

/// The address that begins here.
pub fn find(window: Window) -> Result<Option<usize>, More> {
    let mut at = 0;
    for octet in 0..4 {
        if octet > 0 {
            if window.at(at)? != Some(b'.') {
                return Ok(None);
            }
            at += 1;
        }
        match octet_length(window, at)? {
            Some(length) => at += length,
            None => return Ok(None),
        }
    }
    let ends = match window.at(at)? {
        Some(b'.') => !window.at(at + 1)?.is_some_and(|byte| byte.is_ascii_digit()),
        Some(byte) => !byte.is_ascii_alphanumeric() && byte != b'_',
        None => true,
    };
    Ok(ends.then_some(at))
}

/// 0 to 255 without leading zeros (RFC 3986 section 3.2.2).
fn octet_length(window: Window, at: usize) -> Result<Option<usize>, More> {
    let (mut value, mut length) = (0, 0);
    while let Some(digit @ b'0'..=b'9') = window.at(at + length)? {
        value = 10 * value + u32::from(digit - b'0');
        length += 1;
        if value > 255 || (length > 1 && value < 10) {
            return Ok(None);
        }
    }
    Ok((length > 0).then_some(length))
}

#[cfg(test)]
mod tests {
    use crate::detector::Detector;
    use crate::detector::tests::check;

    #[test]
    fn addresses_are_four_octets_and_nothing_else() {
        check(
            Detector::Ipv4,
            &[
                ("192.0.2.7", &["192.0.2.7"]),
                ("0.0.0.0 255.255.255.255", &["0.0.0.0", "255.255.255.255"]),
                ("at 192.0.2.7.", &["192.0.2.7"]),
                ("http://192.0.2.7:80/", &["192.0.2.7"]),
                ("192.0.2.7/24", &["192.0.2.7"]),
                ("192.0.2.7. 5", &["192.0.2.7"]),
                ("256.0.2.7", &[]),
                ("192.0.2", &[]),
                ("192.0.2.", &[]),
                ("192.0.2.7.5", &[]),
                ("1.192.0.2.7", &[]),
                ("v192.0.2.7", &[]),
                ("192.0.2.7a", &[]),
                ("192.0.2.1000", &[]),
                ("192.00.2.7", &[]),
                ("192.0.02.7", &[]),
                ("192..2.7", &[]),
                ("", &[]),
            ],
        );
    }
}
