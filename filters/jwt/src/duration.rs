//! A duration as the proxy's configuration writes them: `500ms`, `30s`, `10m`, `1h`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// A duration of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    pub const fn from_secs(seconds: u64) -> Self {
        Span(Duration::from_secs(seconds))
    }

    /// The duration, if it is within the bounds.
    pub fn within(self, setting: &str, least: Duration, most: Duration) -> Result<Duration, String> {
        if (least..=most).contains(&self.0) {
            return Ok(self.0);
        }
        Err(format!(
            "{setting}: {:?} is out of bounds; choose {least:?} to {most:?}",
            self.0
        ))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        struct Text;

        impl de::Visitor<'_> for Text {
            type Value = Span;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a duration such as `10s`: a whole number and `ms`, `s`, `m` or `h`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        reader.deserialize_str(Text)
    }
}

fn parse(text: &str) -> Option<Span> {
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit())?);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    Some(Span(Duration::from_millis(number.checked_mul(milliseconds)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_with_its_unit_is_a_duration() {
        let cases = [
            ("0s", Some(0)),
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("10m", Some(600_000)),
            ("2h", Some(7_200_000)),
            ("", None),
            ("10", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("1d", None),
            ("1 s", None),
            ("99999999999999999999s", None),
            ("9999999999999999999h", None),
        ];
        for (text, milliseconds) in cases {
            let expected = milliseconds.map(|milliseconds| Span(Duration::from_millis(milliseconds)));
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
