//! Whether a request's body is JSON, by its fields.

use tamis_filter::Request;

/// An entry of `content_types`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentType {
    /// `application/json`.
    Exact(String),
    /// `+json`; any type that ends so (RFC 6839 section 3.1).
    Suffix(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    Json,
    Other,
}

impl ContentType {
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*');
        match lower.split_once('/') {
            Some((family, kind)) if plain(family) && plain(kind) => Ok(ContentType::Exact(lower)),
            None if lower.strip_prefix('+').is_some_and(plain) => Ok(ContentType::Suffix(lower)),
            _ => Err(format!("`{text}` is neither `type/subtype` nor `+suffix`")),
        }
    }

    fn matches(&self, essence: &str) -> bool {
        match self {
            ContentType::Exact(exact) => essence == exact,
            ContentType::Suffix(suffix) => essence.ends_with(suffix),
        }
    }
}

/// Two types are none: the upstream might take the other one.
pub fn media_type(request: &Request, types: &[ContentType]) -> MediaType {
    let values = request.header_values("content-type");
    let [value] = values.as_slice() else {
        return MediaType::Other;
    };
    let value = String::from_utf8_lossy(value).to_ascii_lowercase();
    // RFC 9110 section 8.3.1: the type ends at the parameters, and case does not matter. JSON has none (RFC 8259
    // section 11), so a charset changes nothing: the body must be UTF-8.
    let essence = value.split(';').next().unwrap_or_default().trim();
    match types.iter().any(|content_type| content_type.matches(essence)) {
        true => MediaType::Json,
        false => MediaType::Other,
    }
}

/// RFC 9110 section 8.4.1: codings are a list; `identity` is none.
pub fn is_encoded(request: &Request) -> bool {
    let identity = |coding: &[u8]| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity");
    let values = request.header_values("content-encoding");
    values.iter().any(|value| {
        !value
            .split(|byte| *byte == b',')
            .all(|coding| identity(coding.trim_ascii()))
    })
}
