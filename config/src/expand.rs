//! `${NAME}` inside a string.
//!
//! Control plane. Works on one string after the document has been parsed, so that no value of a variable can change
//! the structure of the document. Knows nothing of YAML.

use std::borrow::Cow;

use crate::environment::Environment;

/// A variable's name as POSIX has it: letters, digits and `_`, no digit in front.
const MAX_NAME_BYTES: usize = 128;

/// Replaces `${NAME}` and `${NAME:-default}` by the variable's value and `$$` by `$`; every other `$` stands for
/// itself, so that regular expressions need no escapes. The default is taken when the variable is unset or empty.
///
/// Borrowed when nothing was replaced. An error says what is wrong and the fix.
pub(crate) fn expand<'a>(text: &'a str, environment: &dyn Environment) -> Result<Cow<'a, str>, String> {
    if !text.contains("${") && !text.contains("$$") {
        return Ok(Cow::Borrowed(text));
    }
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        if let Some(after) = rest.strip_prefix("$$") {
            expanded.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let (reference, after) = after
                .split_once('}')
                .ok_or("`${` without `}`; write `$$` for a plain `$`")?;
            expanded.push_str(&lookup(reference, environment)?);
            rest = after;
        } else {
            expanded.push('$');
            rest = &rest[1..];
        }
    }
    expanded.push_str(rest);
    Ok(Cow::Owned(expanded))
}

/// Whether a string takes anything from the environment.
pub(crate) fn refers_to_variable(text: &str) -> bool {
    text.replace("$$", "").contains("${")
}

fn lookup(reference: &str, environment: &dyn Environment) -> Result<String, String> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if !is_name(name) {
        return Err(format!(
            "`${{{reference}}}` does not name a variable; write `${{NAME}}`, `${{NAME:-default}}`, or `$$` for a plain `$`"
        ));
    }
    let value = environment
        .variable(name)
        .map_err(|reason| format!("variable `{name}`: {reason}"))?;
    match (value, default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!(
            "variable `{name}` is not set; set it, or write `${{{name}:-default}}`"
        )),
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One;

    impl Environment for One {
        fn variable(&self, name: &str) -> Result<Option<String>, String> {
            Ok(match name {
                "HOME" => Some("/home/me".to_owned()),
                "EMPTY" => Some(String::new()),
                "TRICK" => Some("${HOME}".to_owned()),
                _ => None,
            })
        }

        fn read(&self, _: &std::path::Path, _: u64) -> std::io::Result<Vec<u8>> {
            Err(std::io::ErrorKind::NotFound.into())
        }
    }

    #[test]
    fn expansion_follows_the_table() {
        let cases = [
            ("plain", Ok("plain")),
            ("", Ok("")),
            ("${HOME}/x", Ok("/home/me/x")),
            ("a${HOME}b${HOME}", Ok("a/home/meb/home/me")),
            ("${NONE:-d}", Ok("d")),
            ("${NONE:-}", Ok("")),
            ("${EMPTY}", Ok("")),
            ("${EMPTY:-d}", Ok("d")),
            ("${HOME:-d}", Ok("/home/me")),
            ("$$", Ok("$")),
            ("$${HOME}", Ok("${HOME}")),
            ("$$$$", Ok("$$")),
            ("$$${HOME}", Ok("$/home/me")),
            ("^/a$", Ok("^/a$")),
            ("$1 $x $", Ok("$1 $x $")),
            ("é${HOME}é$", Ok("é/home/meé$")),
            // A value is never expanded again.
            ("${TRICK}", Ok("${HOME}")),
            ("${NONE}", Err("variable `NONE` is not set")),
            ("${HOME", Err("without `}`")),
            ("${}", Err("does not name a variable")),
            ("${1}", Err("does not name a variable")),
            ("${A-B}", Err("does not name a variable")),
        ];
        for (text, expected) in cases {
            match (expand(text, &One), expected) {
                (Ok(value), Ok(expected)) => assert_eq!(value, expected, "{text}"),
                (Err(message), Err(part)) => assert!(message.contains(part), "{text}: {message}"),
                (result, _) => panic!("{text}: {result:?}"),
            }
        }
    }
}
