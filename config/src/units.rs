//! Numbers as people write them: durations (`10s`), sizes (`16MiB`), counts.
//!
//! Control plane. Whole numbers with one unit, so that each quantity has few spellings and none is rounded; a duration
//! always has its unit, because `30` has meant both seconds and milliseconds too often.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::node::{Node, Value};
use crate::reader::{FromNode, Reader, quote, within_bounds};

/// Longer than any exchange should last, short enough that no timer overflows.
const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// Numbers may come from the environment, as text.
const VARIABLE_PATTERN: &str = r"\$\{.*\}";

/// `10s`, `500ms`, `5m`, `24h`. More than nothing and at most a day.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let fault = || {
        format!(
            "`{}` is not a duration; write a whole number and `ms`, `s`, `m` or `h`, as in `10s`",
            quote(text)
        )
    };
    let (number, unit) = split_unit(text).ok_or_else(fault)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(fault()),
    };
    let duration = Duration::from_millis(number.checked_mul(milliseconds).ok_or_else(fault)?);
    if duration.is_zero() || duration > MAX_DURATION {
        return Err(format!("{text} is out of bounds; choose `1ms` to `24h`"));
    }
    Ok(duration)
}

/// Bytes: `16MiB`, `64KiB`, `1GiB`, `512B`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let fault = || {
        format!(
            "`{}` is not a size; write a whole number and `B`, `KiB`, `MiB` or `GiB`, as in `16MiB`",
            quote(text)
        )
    };
    let (number, unit) = split_unit(text).ok_or_else(fault)?;
    let bytes = match unit {
        "B" | "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(fault()),
    };
    number.checked_mul(bytes).ok_or_else(fault)
}

/// The shortest exact spelling, as [`parse_duration`] reads it.
pub(crate) fn show_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match [(3_600_000, "h"), (60_000, "m"), (1_000, "s")]
        .into_iter()
        .find(|(unit, _)| milliseconds.is_multiple_of(*unit))
    {
        Some((unit, name)) if milliseconds > 0 => format!("{}{name}", milliseconds / unit),
        _ => format!("{milliseconds}ms"),
    }
}

/// The shortest exact spelling, as [`parse_size`] reads it.
pub(crate) fn show_size(bytes: u64) -> String {
    match [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(unit, _)| bytes.is_multiple_of(*unit))
    {
        Some((unit, name)) if bytes > 0 => format!("{}{name}", bytes / unit),
        _ => format!("{bytes}B"),
    }
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start_matches(' ')))
}

/// A duration as it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Period(pub(crate) Duration);

impl FromNode for Period {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        if let Value::Number(number) = &node.value {
            reader.error(
                &reader.place(node),
                format!("a duration needs a unit; write `{number}s` for seconds"),
            );
            return None;
        }
        reader.parsed(node, "a duration as in `10s`", parse_duration).map(Self)
    }
}

/// A part of something: `5%`, `0.25%`. In hundredths of a percent.
pub(crate) fn parse_percent(text: &str) -> Result<u64, String> {
    let fault = || {
        format!(
            "`{}` is not a percentage; write a number with at most two decimals and `%`, as in `5%`",
            quote(text)
        )
    };
    let number = text.strip_suffix('%').ok_or_else(fault)?.trim_end_matches(' ');
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(decimals) || decimals.len() > 2 {
        return Err(fault());
    }
    let whole: u64 = whole.parse().map_err(|_| fault())?;
    let hundredths: u64 = format!("{decimals:0<2}").parse().map_err(|_| fault())?;
    let scaled = whole.checked_mul(100).ok_or_else(fault)?;
    scaled.checked_add(hundredths).ok_or_else(fault)
}

/// The shortest exact spelling, as [`parse_percent`] reads it.
pub(crate) fn show_percent(hundredths: u32) -> String {
    let (whole, decimals) = (hundredths / 100, hundredths % 100);
    match decimals {
        0 => format!("{whole}%"),
        _ if decimals % 10 == 0 => format!("{whole}.{}%", decimals / 10),
        _ => format!("{whole}.{decimals:02}%"),
    }
}

/// A percentage between two bounds, both allowed; all three in hundredths of a percent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Percent<const MIN: u64, const MAX: u64>(pub(crate) u64);

impl<const MIN: u64, const MAX: u64> Percent<MIN, MAX> {
    /// Never cut short: the bounds of each such field lie within 32 bits.
    pub(crate) fn as_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> FromNode for Percent<MIN, MAX> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        if let Value::Number(number) = &node.value {
            reader.error(
                &reader.place(node),
                format!("a percentage needs its sign; write `{number}%`"),
            );
            return None;
        }
        reader.parsed(node, "a percentage as in `5%`", |text| {
            let hundredths = parse_percent(text)?;
            if (MIN..=MAX).contains(&hundredths) {
                return Ok(Self(hundredths));
            }
            let show = |bound: u64| show_percent(u32::try_from(bound).unwrap_or(u32::MAX));
            Err(format!(
                "{text} is out of bounds; choose {} to {}",
                show(MIN),
                show(MAX)
            ))
        })
    }
}

/// Bytes between two bounds, both allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size<const MIN: u64, const MAX: u64>(pub(crate) u64);

impl<const MIN: u64, const MAX: u64> Size<MIN, MAX> {
    /// Never cut short: the bounds of each such field lie within 32 bits.
    pub(crate) fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> FromNode for Size<MIN, MAX> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        if let Value::Number(number) = &node.value {
            return whole_number(node, number, MIN, MAX, reader).map(Self);
        }
        reader.parsed(node, "a size as in `16MiB`", |text| {
            let bytes = parse_size(text)?;
            let fault = || {
                format!(
                    "{text} is out of bounds; choose {} to {}",
                    show_size(MIN),
                    show_size(MAX)
                )
            };
            if (MIN..=MAX).contains(&bytes) {
                Ok(Self(bytes))
            } else {
                Err(fault())
            }
        })
    }
}

/// A whole number between two bounds, both allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count<const MIN: u64, const MAX: u64>(pub(crate) u64);

impl<const MIN: u64, const MAX: u64> Count<MIN, MAX> {
    /// Never cut short: the bounds of each such field lie within 32 bits.
    pub(crate) fn as_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    /// Never cut short: the bounds of each such field lie within 32 bits.
    pub(crate) fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> FromNode for Count<MIN, MAX> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::Number(number) => whole_number(node, number, MIN, MAX, reader).map(Self),
            Value::Text(written) if crate::expand::refers_to_variable(written) => {
                reader.parsed(node, "a whole number", parse_count::<MIN, MAX>).map(Self)
            }
            _ => {
                reader.mismatch(node, "a whole number");
                None
            }
        }
    }
}

fn whole_number(node: &Node, number: &serde_json::Number, min: u64, max: u64, reader: &mut Reader) -> Option<u64> {
    let result = match number.as_u64() {
        Some(value) => within_bounds(value, min, max),
        None => Err(format!("{number} is not a whole number; choose {min} to {max}")),
    };
    result
        .map_err(|message| reader.error(&reader.place(node), message))
        .ok()
}

fn parse_count<const MIN: u64, const MAX: u64>(text: &str) -> Result<u64, String> {
    let value = text
        .parse()
        .map_err(|_| format!("`{}` is not a whole number; choose {MIN} to {MAX}", quote(text)))?;
    within_bounds(value, MIN, MAX)
}

/// Text of a form, or with a variable in it.
pub(crate) fn text_schema(description: &str, pattern: &str) -> Schema {
    json_schema!({
        "type": "string",
        "description": description,
        "pattern": format!("{pattern}|{VARIABLE_PATTERN}"),
    })
}

impl JsonSchema for Period {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        text_schema(
            "A whole number and `ms`, `s`, `m` or `h`, as in `10s`; at most `24h`.",
            "^[0-9]+ *(ms|s|m|h)$",
        )
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Percent<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn schema_id() -> Cow<'static, str> {
        format!("Percent_{MIN}_{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        text_schema("A percentage, as in `5%` or `0.25%`.", r"^[0-9]+(\.[0-9]{1,2})? *%$")
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Size<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn schema_id() -> Cow<'static, str> {
        format!("Size_{MIN}_{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let description = format!("{} to {}.", show_size(MIN), show_size(MAX));
        let text = text_schema(&description, "^[0-9]+ *(B|KiB|MiB|GiB)$");
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": MIN, "maximum": MAX }, text] })
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Count<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn schema_id() -> Cow<'static, str> {
        format!("Count_{MIN}_{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": MIN, "maximum": MAX },
                { "type": "string", "pattern": VARIABLE_PATTERN },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_follow_the_table() {
        for (text, milliseconds) in [
            ("1ms", 1),
            ("1500ms", 1_500),
            ("10s", 10_000),
            ("2 m", 120_000),
            ("24h", 86_400_000),
        ] {
            let duration = parse_duration(text);
            assert_eq!(duration, Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "+1s",
            "1d",
            "1S",
            "1s ",
            " 1s",
            "1h30m",
            "0s",
            "25h",
            "18446744073709551615h",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_follow_the_table() {
        for (text, bytes) in [
            ("0", 0),
            ("512B", 512),
            ("64KiB", 65_536),
            ("16 MiB", 16_777_216),
            ("4GiB", 4_294_967_296),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "1.5MiB",
            "-1B",
            "1MB",
            "1kib",
            "1TiB",
            "18446744073709551615GiB",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn percentages_follow_the_table() {
        for (text, hundredths) in [
            ("5%", 500),
            ("0.25%", 25),
            ("12.5 %", 1_250),
            ("100.00%", 10_000),
            ("0%", 0),
        ] {
            assert_eq!(parse_percent(text), Ok(hundredths), "{text}");
        }
        for text in [
            "",
            "%",
            "5",
            ".5%",
            "5.%",
            "0.125%",
            "-1%",
            "+1%",
            "1e2%",
            "5 %x",
            "18446744073709551615%",
        ] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for hundredths in [0, 1, 10, 25, 100, 105, 1_250, 10_000] {
            assert_eq!(parse_percent(&show_percent(hundredths)), Ok(u64::from(hundredths)));
        }
        for milliseconds in [1, 999, 1_000, 1_500, 60_000, 90_000, 3_600_000, 86_400_000] {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
        for bytes in [0, 1, 1_023, 1_024, 1_536, 1 << 20, (1 << 20) + 1, 1 << 30, 4 << 30] {
            assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }
        assert_eq!(
            (show_duration(Duration::from_secs(60)), show_size(65_536)),
            ("1m".to_owned(), "64KiB".to_owned())
        );
    }
}
