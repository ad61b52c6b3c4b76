//! Where a request carries its token: a header field, a cookie, or a parameter of the query. One place, one token.

use serde::Deserialize;
use tamis_filter::{EditError, Request, check_header};

use crate::refusal::{Invalid, Refusal};

/// Larger than tokens of the field, which have under 4 KiB, and no larger than most servers take a field.
const MAX_BYTES: usize = 8 << 10;
/// As much as a whole head by default.
const MOST_BYTES: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceConfig {
    header: Option<String>,
    scheme: Option<String>,
    cookie: Option<String>,
    query: Option<String>,
    #[serde(default)]
    keep: bool,
    #[serde(default = "max_bytes")]
    max_bytes: usize,
}

fn max_bytes() -> usize {
    MAX_BYTES
}

impl Default for PlaceConfig {
    fn default() -> Self {
        PlaceConfig {
            header: None,
            scheme: None,
            cookie: None,
            query: None,
            keep: false,
            max_bytes: MAX_BYTES,
        }
    }
}

#[derive(Debug)]
pub struct Place {
    kind: Kind,
    /// What becomes of the token once it is verified.
    after: After,
    max_bytes: usize,
}

#[derive(Debug)]
enum Kind {
    /// After a scheme such as `Bearer`, or as the whole value.
    Header {
        name: String,
        scheme: Option<String>,
    },
    Cookie(String),
    Query(String),
}

#[derive(Debug, PartialEq)]
enum After {
    Remove,
    Keep,
}

impl Place {
    pub fn new(config: PlaceConfig) -> Result<Self, String> {
        let PlaceConfig {
            header,
            scheme,
            cookie,
            query,
            ..
        } = config;
        let kind = match (header, cookie, query) {
            (None, None, None) => Kind::header("authorization".to_owned(), scheme)?,
            (Some(name), None, None) => Kind::header(name, scheme)?,
            _ if scheme.is_some() => return Err("token.scheme: only a header has one".to_owned()),
            (None, Some(name), None) => Kind::Cookie(checked("cookie", name)?),
            (None, None, Some(name)) => Kind::Query(checked("query", name)?),
            _ => return Err("token: one of `header`, `cookie` and `query`".to_owned()),
        };
        if !(1..=MOST_BYTES).contains(&config.max_bytes) {
            return Err(format!("token.max_bytes: choose 1 to {MOST_BYTES}"));
        }
        Ok(Place {
            kind,
            after: if config.keep { After::Keep } else { After::Remove },
            max_bytes: config.max_bytes,
        })
    }

    /// The header field that holds it, unless that is the query.
    pub fn field(&self) -> Option<&str> {
        match &self.kind {
            Kind::Header { name, .. } => Some(name),
            Kind::Cookie(_) => Some("cookie"),
            Kind::Query(_) => None,
        }
    }

    /// The request's one token.
    pub fn find(&self, request: &Request) -> Result<Option<String>, Refusal> {
        let mut found = match &self.kind {
            Kind::Header { name, scheme } => in_header(request, name, scheme.as_deref())?,
            Kind::Cookie(name) => in_cookies(request, name),
            Kind::Query(name) => in_query(request, name),
        };
        let Some(token) = found.pop() else { return Ok(None) };
        // RFC 6750 section 3.1: the upstream could take another one than was verified here.
        if !found.is_empty() {
            return Err(Refusal::Repeated);
        }
        if token.len() > self.max_bytes {
            return Err(Invalid::TooLong.into());
        }
        // Whatever is not ASCII is no token, and is said to be malformed by whoever takes it apart.
        Ok(Some(String::from_utf8(token).map_err(|_| Invalid::Malformed)?))
    }

    /// Takes a verified token out of the request, unless it is to be kept.
    pub fn remove(&self, request: &mut Request) -> Result<(), EditError> {
        match &self.kind {
            _ if self.after == After::Keep => Ok(()),
            Kind::Header { name, .. } => request.remove_header(name),
            Kind::Cookie(name) => remove_cookie(request, name),
            Kind::Query(name) => remove_parameter(request, name),
        }
    }
}

impl Kind {
    fn header(name: String, scheme: Option<String>) -> Result<Self, String> {
        check_header(&name, "").map_err(|error| format!("token.header `{name}`: {error}"))?;
        // RFC 9110 section 11.6.2: `authorization` always has a scheme.
        let own = name.eq_ignore_ascii_case("authorization").then(|| "Bearer".to_owned());
        let scheme = scheme.or(own);
        if let Some(scheme) = &scheme
            && (scheme.contains(' ') || check_header(scheme, "").is_err())
        {
            return Err(format!("token.scheme `{scheme}`: not a scheme's name"));
        }
        Ok(Kind::Header { name, scheme })
    }
}

/// A name that needs no encoding, neither in a cookie nor in a query.
fn checked(place: &str, name: String) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(format!("token.{place} `{name}`: letters, digits and `-._~`"));
    }
    Ok(name)
}

/// A field with another scheme carries no token; two fields are two tokens, whatever they hold, because one reader would
/// take the first and another the last.
fn in_header(request: &Request, name: &str, scheme: Option<&str>) -> Result<Vec<Vec<u8>>, Refusal> {
    let values = request.header_values(name);
    if values.len() > 1 {
        return Err(Refusal::Repeated);
    }
    let token = |value: &[u8]| match scheme {
        None => Some(value.to_vec()),
        Some(scheme) => {
            let end = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
            let (own, rest) = value.split_at(end);
            // RFC 9110 section 11.1: without regard to case; section 11.4: one space or more.
            own.eq_ignore_ascii_case(scheme.as_bytes())
                .then(|| rest.trim_ascii_start().to_vec())
        }
    };
    Ok(values.iter().filter_map(|value| token(value)).collect())
}

fn in_cookies(request: &Request, name: &str) -> Vec<Vec<u8>> {
    let values = request.header_values("cookie");
    let pairs = values.iter().flat_map(|value| cookies(value));
    pairs
        .filter_map(|pair| cookie_named(pair, name))
        .map(<[u8]>::to_vec)
        .collect()
}

/// The pairs of a cookie field (RFC 6265 section 5.4).
fn cookies(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
}

fn cookie_named<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    (pair[..equals].trim_ascii() == name.as_bytes()).then(|| pair[equals + 1..].trim_ascii())
}

/// One field is left of however many there were; HTTP/2 splits it at will (RFC 9113 section 8.2.3).
fn remove_cookie(request: &mut Request, name: &str) -> Result<(), EditError> {
    let values = request.header_values("cookie");
    let others: Vec<&[u8]> = values
        .iter()
        .flat_map(|value| cookies(value))
        .filter(|pair| cookie_named(pair, name).is_none())
        .collect();
    if others.is_empty() {
        return request.remove_header("cookie");
    }
    request.set_header("cookie", others.join(&b"; "[..]))
}

fn in_query(request: &Request, name: &str) -> Vec<Vec<u8>> {
    let query = request.query().unwrap_or_default();
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let named = pairs.filter(|(own, _)| is_named(own, name));
    named.map(|(_, token)| token.as_bytes().to_vec()).collect()
}

fn remove_parameter(request: &mut Request, name: &str) -> Result<(), EditError> {
    let query = request.query().unwrap_or_default();
    let own = |pair: &&str| !is_named(pair.split('=').next().unwrap_or_default(), name);
    let others: Vec<&str> = query.split('&').filter(own).collect();
    let query = others.join("&");
    request.set_query((!query.is_empty()).then_some(&query))
}

/// Decoded: the upstream would find `access%5ftoken` under the name `access_token`.
fn is_named(encoded: &str, name: &str) -> bool {
    let mut rest = encoded.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                decoded.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            _ => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    decoded == name.as_bytes()
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
