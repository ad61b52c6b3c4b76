//! The access log: where it goes and what a line looks like.
//!
//! Control plane. A text format is split here, once, so that writing a record needs no parsing.

use super::template;
use crate::model::{AccessLog, LogField, LogFormat, LogPart, LogTarget};
use crate::reader::Reader;
use crate::shape::{At, OffOr};
use crate::vocabulary;
use crate::word::Word as _;

/// A second's worth at 8,000 exchanges a second, some megabytes.
const QUEUE: usize = 8_192;

/// Longer lines are JSON's job.
const MAX_FORMAT_BYTES: usize = 4_096;

pub(super) fn access_log(log: Option<OffOr<vocabulary::AccessLog>>, reader: &mut Reader) -> Option<AccessLog> {
    let Some(OffOr::On(log)) = log else {
        return Some(AccessLog {
            target: LogTarget::Off,
            format: LogFormat::Json,
            queue: QUEUE,
        });
    };
    reader.within("access_log", |reader| {
        let format = match &log.format {
            None => Some(LogFormat::Json),
            Some(format) => read_format(format, reader),
        };
        let target = target(&log, reader);
        Some(AccessLog {
            target: target?,
            format: format?,
            queue: log.queue.map_or(QUEUE, |queue| queue.as_usize()),
        })
    })
}

fn target(log: &vocabulary::AccessLog, reader: &mut Reader) -> Option<LogTarget> {
    match (&log.file, &log.stdout) {
        (Some(file), _) if file.value.is_empty() => {
            reader.error_at(&file.place, "file", "an empty path; write the path of a file");
            None
        }
        (Some(file), _) => Some(LogTarget::File(reader.resolve(&file.value))),
        (None, Some(_)) => Some(LogTarget::Stdout),
        (None, None) => None,
    }
}

fn read_format(format: &At<String>, reader: &mut Reader) -> Option<LogFormat> {
    if format.value == "json" {
        return Some(LogFormat::Json);
    }
    let parts = split(&format.value);
    parts
        .map(LogFormat::Text)
        .map_err(|message| reader.error_at(&format.place, "format", message))
        .ok()
}

fn split(format: &str) -> Result<Vec<LogPart>, String> {
    if format.len() > MAX_FORMAT_BYTES {
        return Err(format!("longer than {MAX_FORMAT_BYTES} bytes; use `json`"));
    }
    if format.chars().any(char::is_control) {
        return Err("a control character, which would break the log into wrong lines; remove it".to_owned());
    }
    let parts = template::split(format, LogPart::Literal, part)?;
    if parts.iter().all(|part| matches!(part, LogPart::Literal(_))) {
        return Err("no `{field}` in it; write `json`, or text such as \"{method} {path} {status}\"".to_owned());
    }
    Ok(parts)
}

/// What stands between braces.
fn part(name: &str) -> Result<LogPart, String> {
    match name.strip_prefix("attribute:") {
        Some("") => Err("`{attribute:}` without a name; write it as in `{attribute:tenant}`".to_owned()),
        Some(attribute) => Ok(LogPart::Attribute(attribute.to_owned())),
        None if name == "attribute" => {
            Err("`{attribute}` without a name; write `{attribute:NAME}`, or `{attributes}` for all of them".to_owned())
        }
        None => LogField::parse(name).map(LogPart::Field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> LogPart {
        LogPart::Literal(text.to_owned())
    }

    #[test]
    fn a_text_format_is_split_into_its_parts() {
        let expected = vec![
            literal("a {b} "),
            LogPart::Field(LogField::Method),
            LogPart::Field(LogField::Path),
            literal(" é"),
        ];
        assert_eq!(split("a {{b}} {method}{path} é"), Ok(expected));
        let expected = vec![
            LogPart::Attribute("x:y z".to_owned()),
            literal(" "),
            LogPart::Field(LogField::Attributes),
        ];
        assert_eq!(split("{attribute:x:y z} {attributes}"), Ok(expected));
    }

    #[test]
    fn a_wrong_text_format_says_why() {
        for (format, part) in [
            ("{methd}", "did you mean `method`"),
            ("{method", "without its partner"),
            ("method}", "without its partner"),
            ("{attribute:}", "as in `{attribute:tenant}`"),
            ("{attribute}", "write `{attribute:NAME}`, or `{attributes}`"),
            ("{attribut}", "did you mean `attributes`"),
            ("plain", "no `{field}`"),
            ("", "no `{field}`"),
            ("{method}\n", "control character"),
        ] {
            let message = split(format).unwrap_err();
            assert!(message.contains(part), "{format}: {message}");
        }
    }
}
