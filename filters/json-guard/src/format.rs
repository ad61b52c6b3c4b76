//! `format`, as an assertion: what is named here is checked, and what is not here is refused.

use std::net::{Ipv4Addr, Ipv6Addr};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Date,
    DateTime,
    Email,
    Ipv4,
    Ipv6,
    Uuid,
}

impl Format {
    pub const NAMES: [&'static str; 6] = ["date", "date-time", "email", "ipv4", "ipv6", "uuid"];

    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "date" => Format::Date,
            "date-time" => Format::DateTime,
            "email" => Format::Email,
            "ipv4" => Format::Ipv4,
            "ipv6" => Format::Ipv6,
            "uuid" => Format::Uuid,
            _ => return None,
        })
    }

    pub fn holds(self, text: &str) -> bool {
        match self {
            Format::Date => is_date(text.as_bytes()),
            Format::DateTime => is_date_time(text),
            Format::Email => is_email(text),
            Format::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Format::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Format::Uuid => is_uuid(text.as_bytes()),
        }
    }
}

/// `full-date` of RFC 3339 section 5.6, a day that the calendar has (section 5.7).
fn is_date(text: &[u8]) -> bool {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *text else {
        return false;
    };
    let (Some(year), Some(month), Some(day)) = (number(&[y1, y2, y3, y4]), number(&[m1, m2]), number(&[d1, d2])) else {
        return false;
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return false,
    };
    (1..=days).contains(&day)
}

/// `date-time` of RFC 3339 section 5.6.
fn is_date_time(text: &str) -> bool {
    let Some((date, time)) = text.split_once(['T', 't']) else {
        return false;
    };
    is_date(date.as_bytes()) && is_time(time.as_bytes())
}

fn is_time(text: &[u8]) -> bool {
    let [h1, h2, b':', m1, m2, b':', s1, s2, ref rest @ ..] = *text else {
        return false;
    };
    let (Some(hour), Some(minute), Some(second)) = (number(&[h1, h2]), number(&[m1, m2]), number(&[s1, s2])) else {
        return false;
    };
    let offset = match rest {
        [b'.', fraction @ ..] => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 {
                return false;
            }
            &fraction[digits..]
        }
        rest => rest,
    };
    let Some(offset_minutes) = offset_minutes(offset) else {
        return false;
    };
    // RFC 3339 section 5.7: a leap second is the last one of a day in UTC.
    let minute_of_day = i64::from(60 * hour + minute) - offset_minutes;
    let leap = second == 60 && minute_of_day.rem_euclid(24 * 60) == 24 * 60 - 1;
    hour < 24 && minute < 60 && (second < 60 || leap)
}

fn offset_minutes(text: &[u8]) -> Option<i64> {
    match *text {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[h1, h2])?, number(&[m1, m2])?);
            let offset = i64::from(60 * hours + minutes);
            (hours < 24 && minutes < 60).then_some(if sign == b'-' { -offset } else { offset })
        }
        _ => None,
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    digits
        .iter()
        .try_fold(0, |sum, digit| Some(10 * sum + char::from(*digit).to_digit(10)?))
}

/// The common part of RFC 5321's `Mailbox`: dot-atoms within their lengths, and a domain of labels.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return false;
    };
    let is_atom = |atom: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
        !atom.is_empty() && atom.bytes().all(allowed)
    };
    let is_label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let hyphens = label.starts_with('-') || label.ends_with('-');
        (1..=63).contains(&label.len()) && !hyphens && label.bytes().all(allowed)
    };
    text.len() <= 254 && local.len() <= 64 && local.split('.').all(is_atom) && domain.split('.').all(is_label)
}

/// RFC 9562 section 4.
fn is_uuid(text: &[u8]) -> bool {
    text.len() == 36
        && text.iter().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_hold_of_what_they_name() {
        let cases: [(&str, &[&str], &[&str]); 6] = [
            (
                "date",
                &["2024-02-29", "2000-02-29", "0001-01-01", "2023-12-31"],
                &[
                    "2023-02-29",
                    "1900-02-29",
                    "2023-13-01",
                    "2023-00-01",
                    "2023-04-31",
                    "2023-01-00",
                    "2023-1-01",
                    "23-01-01",
                    "",
                ],
            ),
            (
                "date-time",
                &[
                    "2023-01-01T00:00:00Z",
                    "2023-01-01t23:59:59.999999999z",
                    "2023-01-01T12:00:00+05:30",
                    "2016-12-31T23:59:60Z",
                    "2016-12-31T15:59:60-08:00",
                    "2017-01-01T05:29:60+05:30",
                ],
                &[
                    "2023-01-01",
                    "2023-01-01 00:00:00Z",
                    "2023-01-01T00:00:00",
                    "2023-01-01T24:00:00Z",
                    "2023-01-01T00:60:00Z",
                    "2023-01-01T00:00:60Z",
                    "2023-01-01T00:00:61Z",
                    "2023-01-01T00:00:00.Z",
                    "2023-01-01T00:00:00+24:00",
                    "2023-01-01T00:00:00+0000",
                    "2023-01-01T00:00:00Zx",
                    "2016-12-31T23:59:60+01:00",
                ],
            ),
            (
                "email",
                &["a@b", "jane.doe+x@mail.example.org", "o'neil@example.org"],
                &[
                    "", "a", "@b", "a@", "a@b@c", ".a@b", "a.@b", "a..b@c", "a b@c", "a@-b", "a@b-", "a@b..c",
                    "a@[::1]", "\u{e9}@b",
                ],
            ),
            (
                "ipv4",
                &["192.0.2.7", "0.0.0.0"],
                &["192.0.2", "192.0.2.256", "192.0.2.07", "192.0.2.7 "],
            ),
            (
                "ipv6",
                &["::", "2001:db8::1", "::ffff:192.0.2.7"],
                &["192.0.2.7", "2001:db8::1::", "fe80::1%eth0", "[::1]"],
            ),
            (
                "uuid",
                &[
                    "00000000-0000-0000-0000-000000000000",
                    "018f6E2B-9d1c-7000-8000-0123456789aB",
                ],
                &[
                    "",
                    "018f6e2b9d1c700080000123456789ab",
                    "018f6e2b-9d1c-7000-8000-0123456789ag",
                    "{018f6e2b-9d1c-7000-8000-0123456789ab}",
                ],
            ),
        ];
        for (name, good, bad) in cases {
            let format = Format::named(name).unwrap();
            for text in good {
                assert!(format.holds(text), "{name} {text}");
            }
            for text in bad {
                assert!(!format.holds(text), "{name} {text}");
            }
        }
        assert!(Format::NAMES.iter().all(|name| Format::named(name).is_some()));
    }
}
