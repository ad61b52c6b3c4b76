//! What a route compares: hosts, paths, methods, header fields, query parameters.
//!
//! Control plane. A pattern that no request can match is refused here: requests are compared in normal form, so a
//! pattern in any other form is a mistake. Knows nothing of routes.

use crate::model::{HostPattern, PathPattern};
use crate::reader::quote;

/// RFC 1035 section 2.3.4.
const MAX_HOST_BYTES: usize = 253;

/// Longer patterns are tables, and tables are routes.
const MAX_REGEX_BYTES: usize = 4_096;

/// Compiled size. With [`super::route::MAX_REGEXES`] it bounds what a configuration can cost in time and memory.
const MAX_REGEX_COMPILED_BYTES: usize = 256 << 10;

/// As deep as people write; the parser recurses.
const MAX_REGEX_DEPTH: u32 = 64;

/// `example.com`, `*.example.com`, `192.0.2.1`, `[2001:db8::1]`.
pub(super) fn host(text: &str) -> Result<HostPattern, String> {
    let lower = text.to_ascii_lowercase();
    if lower == "*" {
        return Err("`*` would match every host; leave `hosts` out instead".to_owned());
    }
    match lower.strip_prefix("*.") {
        Some(parent) => check_host(text, parent).map(|()| HostPattern::Suffix(parent.to_owned())),
        None => check_host(text, &lower).map(|()| HostPattern::Exact(lower)),
    }
}

/// A host as it stands in a request, in lower case.
pub(super) fn check_host(written: &str, host: &str) -> Result<(), String> {
    let written = quote(written);
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let sound = address.parse::<std::net::Ipv6Addr>().is_ok();
        return if sound {
            Ok(())
        } else {
            Err(format!("`{written}` is not an IPv6 address in brackets"))
        };
    }
    if host.contains(':') {
        return Err(format!("`{written}` has a port or scheme; write the host name alone"));
    }
    if host.contains('*') {
        return Err(format!("`{written}`: `*.` may stand in front only, for whole labels"));
    }
    if host.ends_with('.') {
        return Err(format!("`{written}` ends with a dot; remove it"));
    }
    let sound = host.len() <= MAX_HOST_BYTES && host.split('.').all(is_label);
    if sound {
        return Ok(());
    }
    Err(format!(
        "`{written}` is not a host name; use letters, digits, `-` and `.`, and `xn--` forms for other scripts"
    ))
}

/// RFC 1035 section 2.3.1, and the `_` that is in use.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

pub(super) fn exact_path(text: &str) -> Result<PathPattern, String> {
    check_path(text).map(|()| PathPattern::Exact(text.to_owned()))
}

pub(super) fn path_prefix(text: &str) -> Result<PathPattern, String> {
    check_path(text).map(|()| PathPattern::Prefix(text.to_owned()))
}

/// RFC 3986 section 3.3, in the normal form of section 6.2.2.
fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("`{}` does not start with `/`; add it", quote(path)));
    }
    if let Some(mark) = path.chars().find(|c| matches!(c, '?' | '#')) {
        return Err(format!(
            "`{mark}` is no part of a path; for the query use `match.query`"
        ));
    }
    check_path_text(path)
}

/// Part of a path in normal form.
pub(super) fn check_path_text(path: &str) -> Result<(), String> {
    if path.contains("//") {
        return Err("`//` never occurs in a normalised path; write one `/`".to_owned());
    }
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err("`.` and `..` segments never occur in a normalised path; write the path without them".to_owned());
    }
    if let Some(odd) = path.chars().find(|c| !is_path_char(*c)) {
        return Err(format!(
            "`{}` cannot stand in a path; percent-encode it",
            odd.escape_debug()
        ));
    }
    check_percent_encoding(path)
}

/// RFC 3986 section 3.3: `pchar` and `/`.
fn is_path_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@%/".contains(c)
}

fn check_percent_encoding(path: &str) -> Result<(), String> {
    for (index, _) in path.match_indices('%') {
        let digits = path.as_bytes().get(index + 1..index + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err("`%` without two hexadecimal digits; write `%25` for a plain `%`".to_owned());
        }
    }
    Ok(())
}

/// `DNS:web.example`: without its kind a name would never be found.
pub(super) fn check_subject_name(name: &str) -> Result<(), String> {
    let kinds = ["DNS:", "URI:", "email:", "IP:"];
    match kinds.iter().any(|kind| name.starts_with(kind)) {
        true => Ok(()),
        false => Err(format!(
            "`{}` does not say what kind of name it is; begin it with `DNS:`, `URI:`, `email:` or `IP:`",
            quote(name)
        )),
    }
}

/// SHA-256 in hexadecimal digits, in lower case and without the colons that `openssl` puts in between.
pub(super) fn fingerprint(text: &str) -> Result<String, String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(digits.to_ascii_lowercase());
    }
    Err(format!(
        "`{}` is not a SHA-256 fingerprint; write its 64 hexadecimal digits, as `openssl x509 -noout -fingerprint \
         -sha256` prints them",
        quote(text)
    ))
}

/// Compiles the pattern as the proxy will, to see that it can be.
pub(super) fn check_regex(pattern: &str) -> Result<(), String> {
    if pattern.len() > MAX_REGEX_BYTES {
        return Err(format!("longer than {MAX_REGEX_BYTES} bytes; split it between routes"));
    }
    let anchored = format!("^(?:{pattern})$");
    let compiled = regex::RegexBuilder::new(&anchored)
        .size_limit(MAX_REGEX_COMPILED_BYTES)
        .nest_limit(MAX_REGEX_DEPTH)
        .build();
    match compiled {
        Ok(_) => Ok(()),
        Err(regex::Error::CompiledTooBig(limit)) => Err(format!(
            "needs more than {limit} bytes when compiled; use smaller repetitions, or `(?-u)` classes"
        )),
        Err(error) => Err(format!("not a regular expression: {}", last_line(&error.to_string()))),
    }
}

/// The library draws the pattern with a caret below; its last line says what is wrong.
fn last_line(message: &str) -> &str {
    let line = message.lines().last().unwrap_or(message);
    line.strip_prefix("error: ").unwrap_or(line)
}

/// RFC 9110 section 9.1.
pub(super) fn check_method(method: &str) -> Result<(), String> {
    if http::Method::from_bytes(method.as_bytes()).is_err() {
        return Err(format!("`{}` is not a method; write it as in `GET`", quote(method)));
    }
    if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        let upper = method.to_ascii_uppercase();
        return Err(format!(
            "methods are compared exactly and are in upper case; write `{}`",
            quote(&upper)
        ));
    }
    Ok(())
}

/// RFC 9110 section 5.1; in lower case, as HTTP/2 has it.
pub(super) fn header_name(name: &str) -> Result<String, String> {
    let fault = |_| format!("`{}` is not a header name", quote(name));
    http::HeaderName::from_bytes(name.as_bytes())
        .map(|name| name.as_str().to_owned())
        .map_err(fault)
}

/// RFC 9110 section 5.5.
pub(super) fn check_header_value(value: &str) -> Result<(), String> {
    let sound = http::HeaderValue::from_str(value).is_ok() && value.trim_matches([' ', '\t']) == value;
    if sound {
        return Ok(());
    }
    Err("not a header value; use visible ASCII characters, and spaces between them only".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_follow_the_table() {
        let exact = |host: &str| Ok(HostPattern::Exact(host.to_owned()));
        let cases = [
            ("example.com", exact("example.com")),
            ("API.Example.COM", exact("api.example.com")),
            ("localhost", exact("localhost")),
            ("192.0.2.1", exact("192.0.2.1")),
            ("[2001:db8::1]", exact("[2001:db8::1]")),
            ("*.example.org", Ok(HostPattern::Suffix("example.org".to_owned()))),
            ("*", Err("leave `hosts` out")),
            ("*example.org", Err("in front only")),
            ("a.*.example.org", Err("in front only")),
            ("*.*.example.org", Err("in front only")),
            ("example.com:80", Err("has a port")),
            ("http://example.com", Err("has a port or scheme")),
            ("example.com.", Err("ends with a dot")),
            ("", Err("not a host name")),
            ("a..b", Err("not a host name")),
            ("-a.b", Err("not a host name")),
            ("exämple.com", Err("xn--")),
            ("a b", Err("not a host name")),
            ("[::g]", Err("not an IPv6 address")),
            ("*.", Err("not a host name")),
        ];
        for (text, expected) in cases {
            match (host(text), expected) {
                (Ok(pattern), Ok(expected)) => assert_eq!(pattern, expected),
                (Err(message), Err(part)) => assert!(message.contains(part), "{text}: {message}"),
                (result, _) => panic!("{text}: {result:?}"),
            }
        }
    }

    #[test]
    fn paths_follow_the_table() {
        for path in ["/", "/a", "/a/", "/a/b.c/..d", "/%2F", "/a;b=c,d@e:f!g$h&i'(j)*+~_-"] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
        for (path, part) in [
            ("", "does not start with `/`"),
            ("a", "does not start with `/`"),
            ("/a?b", "match.query"),
            ("/a#b", "no part of a path"),
            ("//", "write one `/`"),
            ("/a//b", "write one `/`"),
            ("/.", "without them"),
            ("/a/../b", "without them"),
            ("/a/..", "without them"),
            ("/a b", "percent-encode"),
            ("/é", "percent-encode"),
            ("/a\\b", "percent-encode"),
            ("/%", "two hexadecimal digits"),
            ("/%4", "two hexadecimal digits"),
            ("/%zz", "two hexadecimal digits"),
        ] {
            let message = check_path(path).unwrap_err();
            assert!(message.contains(part), "{path}: {message}");
        }
    }

    #[test]
    fn regular_expressions_are_bounded() {
        assert_eq!(check_regex("/v[0-9]+/.*"), Ok(()));
        let long = "a".repeat(MAX_REGEX_BYTES + 1);
        let deep = format!("{}a{}", "(".repeat(500), ")".repeat(500));
        for (pattern, part) in [
            ("(", "unclosed group"),
            ("(?<!a)b", "look-around"),
            (r"\w{1000}", "smaller repetitions"),
            ("((a{100}){100}){100}", "smaller repetitions"),
            (long.as_str(), "longer than"),
            (deep.as_str(), "not a regular expression"),
        ] {
            let message = check_regex(pattern).unwrap_err();
            assert!(message.contains(part), "{pattern:.20}: {message}");
        }
    }
}
