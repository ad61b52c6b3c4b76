//! Whether a body is one that can be searched: by its content type and its coding. The same for both heads.

use tamis_filter::{HeaderValue, Request, Response};

/// What is searched when nothing is said.
pub const CONTENT_TYPES: [&str; 5] = ["text/*", "application/json", "+json", "application/xml", "+xml"];

/// An entry of `content_types`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentType {
    /// `*/*`: also a body that does not say what it is.
    Any,
    /// `text/*`; the part with the slash.
    Family(String),
    /// `+json`; any type that ends so.
    Suffix(String),
    /// `application/json`.
    Exact(String),
}

/// A message's head.
pub trait Head {
    fn values(&self, name: &str) -> Vec<HeaderValue>;
}

impl Head for Request {
    fn values(&self, name: &str) -> Vec<HeaderValue> {
        self.header_values(name)
    }
}

impl Head for Response {
    fn values(&self, name: &str) -> Vec<HeaderValue> {
        self.header_values(name)
    }
}

/// What can be done with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readability {
    /// Its type is none of those that are searched.
    Other,
    Readable,
    /// It would have to be searched, but is coded, a part of the whole, or in units of more than a byte.
    Unreadable,
}

impl ContentType {
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*');
        match lower.split_once('/') {
            Some(("*", "*")) => Ok(ContentType::Any),
            Some((family, "*")) if plain(family) => Ok(ContentType::Family(format!("{family}/"))),
            Some((family, kind)) if plain(family) && plain(kind) => Ok(ContentType::Exact(lower)),
            None if lower.strip_prefix('+').is_some_and(plain) => Ok(ContentType::Suffix(lower)),
            _ => Err(format!(
                "`{text}` is none of `type/subtype`, `type/*`, `+suffix` and `*/*`"
            )),
        }
    }

    fn matches(&self, essence: Option<&str>) -> bool {
        let of = |test: &dyn Fn(&str) -> bool| essence.is_some_and(test);
        match self {
            ContentType::Any => true,
            ContentType::Family(family) => of(&|essence| essence.starts_with(family)),
            ContentType::Suffix(suffix) => of(&|essence| essence.ends_with(suffix)),
            ContentType::Exact(exact) => of(&|essence| essence == exact),
        }
    }
}

/// What can be done with the body that this head announces.
pub fn readability(head: &impl Head, types: &[ContentType]) -> Readability {
    let content_type = text(head, "content-type");
    // RFC 9110 section 8.3.1: the type ends at the parameters, and case does not matter.
    let mut parts = content_type.split(';').map(str::trim);
    let essence = parts.next().filter(|essence| !essence.is_empty());
    if !types.iter().any(|content_type| content_type.matches(essence)) {
        return Readability::Other;
    }
    let wide = parts.any(|parameter| {
        let charset = parameter
            .strip_prefix("charset=")
            .map(|charset| charset.trim_start_matches('"'));
        charset.is_some_and(|charset| charset.starts_with("utf-16") || charset.starts_with("utf-32"))
    });
    // RFC 9110 section 14.4: a part may begin or end within a match.
    let partial = !head.values("content-range").is_empty();
    match wide || partial || is_encoded(head) {
        true => Readability::Unreadable,
        false => Readability::Readable,
    }
}

/// RFC 9110 section 8.4.1: codings are a list; `identity` is none.
fn is_encoded(head: &impl Head) -> bool {
    let codings = text(head, "content-encoding");
    codings
        .split(',')
        .any(|coding| !matches!(coding.trim(), "" | "identity"))
}

/// All values of the field as one, in lower case. What is not ASCII is no name that is known here.
fn text(head: &impl Head, name: &str) -> String {
    let values = head.values(name);
    let values: Vec<String> = values
        .iter()
        .map(|value| String::from_utf8_lossy(value).to_ascii_lowercase())
        .collect();
    values.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fields(Vec<(&'static str, &'static str)>);

    impl Head for Fields {
        fn values(&self, name: &str) -> Vec<HeaderValue> {
            let of_name = self.0.iter().filter(|(field, _)| *field == name);
            of_name.map(|(_, value)| HeaderValue::from(*value)).collect()
        }
    }

    fn types(texts: &[&str]) -> Vec<ContentType> {
        texts.iter().map(|text| ContentType::parse(text).unwrap()).collect()
    }

    #[test]
    fn a_body_is_readable_by_its_type_and_coding() {
        use Readability::{Other, Readable, Unreadable};
        let json = ("content-type", "application/json");
        let cases = [
            (vec![json], Readable),
            (vec![("content-type", "TEXT/HTML; Charset=UTF-8")], Readable),
            (vec![("content-type", "application/problem+json;x=\"y\"")], Readable),
            (vec![("content-type", "image/svg+xml")], Readable),
            (vec![json, ("content-encoding", "identity")], Readable),
            (vec![json, ("content-encoding", "")], Readable),
            (vec![json, ("content-encoding", "GZIP")], Unreadable),
            (vec![json, ("content-encoding", "identity, br")], Unreadable),
            (
                vec![json, ("content-encoding", "identity"), ("content-encoding", "br")],
                Unreadable,
            ),
            (vec![json, ("content-range", "bytes 0-1/2")], Unreadable),
            (vec![("content-type", "text/plain; charset=UTF-16LE")], Unreadable),
            (vec![("content-type", "text/plain; charset=\"utf-32\"")], Unreadable),
            (vec![("content-type", "image/png")], Other),
            (vec![("content-type", "application/jsonp")], Other),
            (vec![("content-type", "image/png"), ("content-encoding", "gzip")], Other),
            (vec![], Other),
        ];
        for (fields, expected) in cases {
            let head = Fields(fields);
            assert_eq!(readability(&head, &types(&CONTENT_TYPES)), expected, "{:?}", head.0);
        }
        assert_eq!(readability(&Fields(vec![]), &types(&["*/*"])), Readable);
        assert_eq!(
            readability(&Fields(vec![("content-type", "image/png")]), &types(&["*/*"])),
            Readable
        );
    }

    #[test]
    fn content_types_are_of_four_forms() {
        for text in [
            "",
            "text",
            "text/",
            "/html",
            "*/html",
            "te*t/html",
            "+",
            "text/html; charset=x",
            "*",
        ] {
            assert!(ContentType::parse(text).is_err(), "{text}");
        }
    }
}
