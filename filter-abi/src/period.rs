//! A duration as people write it in a configuration.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// A duration of a filter's configuration, written as in the proxy's own: a whole number and `ms`, `s`, `m` or `h`, as in
/// `500ms` or `10m`.
///
/// ```
/// # use std::time::Duration;
/// use serde::Deserialize;
/// use tamis_filter::Period;
///
/// #[derive(Deserialize)]
/// struct Config {
///     #[serde(default = "ten_seconds")]
///     timeout: Period,
/// }
///
/// fn ten_seconds() -> Period {
///     Period::from_secs(10)
/// }
///
/// fn timeout(config: &Config) -> Result<Duration, String> {
///     config.timeout.within("timeout", Duration::from_millis(1), Duration::from_secs(60))
/// }
///
/// let config: Config = serde_json::from_str(r#"{ "timeout": "2m" }"#).unwrap();
/// assert_eq!(timeout(&config), Err("timeout: 120s is out of bounds; choose 1ms to 60s".to_owned()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(pub Duration);

impl Period {
    /// So many seconds; for defaults.
    pub const fn from_secs(seconds: u64) -> Self {
        Period(Duration::from_secs(seconds))
    }

    /// The duration, if it is within the bounds; `setting` is its name in the configuration.
    ///
    /// # Errors
    ///
    /// It is not, with what to choose instead.
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

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        struct Text;

        impl de::Visitor<'_> for Text {
            type Value = Period;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a duration such as `10s`: a whole number and `ms`, `s`, `m` or `h`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
                parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        reader.deserialize_str(Text)
    }
}

fn parse(text: &str) -> Option<Period> {
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit())?);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    Some(Period(Duration::from_millis(number.checked_mul(milliseconds)?)))
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
            let expected = milliseconds.map(|milliseconds| Period(Duration::from_millis(milliseconds)));
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
