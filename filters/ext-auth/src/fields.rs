//! Names of header fields, and lists of them.

use tamis_filter::{Header, check_header};

/// A field's name; or, with `*` at its end, how names begin.
#[derive(Debug)]
pub enum Pattern {
    Name(String),
    Prefix(String),
}

impl Pattern {
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Pattern::Name(own) => own.eq_ignore_ascii_case(name),
            Pattern::Prefix(prefix) => {
                let begin = name.as_bytes().get(..prefix.len());
                begin.is_some_and(|begin| begin.eq_ignore_ascii_case(prefix.as_bytes()))
            }
        }
    }
}

/// Checks patterns; an error names its place.
pub fn patterns(setting: &str, patterns: Vec<String>) -> Result<Vec<Pattern>, String> {
    let pattern = |(index, text): (usize, String)| match text.strip_suffix('*') {
        Some("") => Err(format!(
            "{setting}[{index}] `*`: name the fields; each is a copy of the client's data"
        )),
        Some(prefix) if check_header(&format!("{prefix}x"), "").is_ok() => Ok(Pattern::Prefix(prefix.to_owned())),
        None if check_header(&text, "").is_ok() => Ok(Pattern::Name(text)),
        _ => Err(format!("{setting}[{index}] `{text}`: not a field that can be sent")),
    };
    patterns.into_iter().enumerate().map(pattern).collect()
}

/// Checks names; an error names its place.
pub fn names(setting: &str, names: Vec<String>) -> Result<Vec<String>, String> {
    for (index, name) in names.iter().enumerate() {
        check_header(name, "").map_err(|error| format!("{setting}[{index}] `{name}`: {error}"))?;
    }
    Ok(names)
}

/// The fields of those names, in order.
pub fn chosen(headers: &[Header], names: &[String]) -> Vec<Header> {
    let is_chosen = |header: &&Header| names.iter().any(|name| name.eq_ignore_ascii_case(&header.name));
    headers.iter().filter(is_chosen).cloned().collect()
}

/// Whether two fields are one to a server that hands fields on as variables (RFC 3875 section 4.1.18), where `-` and `_`
/// are the same.
pub fn is_same(one: &str, other: &str) -> bool {
    one.len() == other.len() && begins(one, other)
}

/// Whether the name begins so, likewise.
pub fn begins(name: &str, prefix: &str) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    let begin = name.as_bytes().get(..prefix.len());
    begin.is_some_and(|begin| begin.iter().copied().map(plain).eq(prefix.bytes().map(plain)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_names_or_beginnings() {
        let list = ["Cookie", "x-forwarded-*"].map(str::to_owned).to_vec();
        let list = patterns("p", list).unwrap();
        let matches = |name: &str| list.iter().any(|pattern| pattern.matches(name));
        for name in ["cookie", "X-Forwarded-For", "x-forwarded-"] {
            assert!(matches(name), "{name}");
        }
        for name in ["cookies", "x-forwarded", "forwarded", ""] {
            assert!(!matches(name), "{name}");
        }
    }

    #[test]
    fn names_are_compared_as_variables_would_be() {
        assert!(is_same("X_User-Id", "x-user_id") && !is_same("x-user", "x-users") && !is_same("x-users", "x-user"));
        assert!(begins("X_Original_Uri", "x-original-") && !begins("x-origin", "x-original-"));
    }
}
