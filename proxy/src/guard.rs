//! The guard: judges a parsed request head before anything is forwarded. Data plane; pure.
//!
//! Invariant: after [`admit`] the host and the path have one form, and routing, filters and upstream see that one; there
//! is at most one Host, the framing fields do not contradict each other, and every size is within [`Limits`]. What
//! hyper hides of the head (fragments, raw lengths, line ends) is `scan`'s to judge.
//!
//! Must not know: hyper, configuration, routes. An HTTP/2 head comes with `:authority` as that of an absolute target, and
//! the rules are the same; what RFC 9113 asks for besides is at the end.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use http::header::HeaderValue;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, Uri, Version, header, request};

/// The longest registered method name has 17 bytes (`UPDATEREDIRECTREF`).
pub const MAX_METHOD_BYTES: usize = 32;

/// What a filter may make of a target: the default bound of a client's.
pub const MAX_WRITTEN_TARGET_BYTES: usize = 8 << 10;

/// RFC 3986 3.2.2: a name within DNS has at most 255.
const MAX_HOST_BYTES: usize = 255;

/// The listener's bounds on a head. Lifetime: a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The whole request target, as it came.
    pub max_target_bytes: usize,
    /// Name and value of one field, without colon, spaces and line end.
    pub max_field_bytes: usize,
    /// Field lines.
    pub max_fields: usize,
}

/// What the rest of the exchange goes by.
#[derive(Clone, Debug)]
pub struct Admitted {
    pub host: Host,
    /// Origin form, normalised; `*` only for OPTIONS. `parts.uri` still has the client's spelling.
    pub target: PathAndQuery,
}

/// The host for routing: lower case, no port, no trailing dot, brackets kept around IPv6; empty when an HTTP/1.0
/// client named none. Shares the bytes of the Host field.
#[derive(Clone, Debug)]
pub struct Host {
    /// The Host field as it goes upstream; begins with the host.
    authority: HeaderValue,
    host_bytes: usize,
}

/// Why a request is refused. The connection is closed after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Other than HTTP/1.0, 1.1 and 2 (RFC 9110 15.6.6).
    Version,
    /// CONNECT: a reverse proxy makes no tunnels on request (RFC 9110 9.3.6).
    Connect,
    /// Longer than any known method (RFC 9112 3).
    MethodTooLong,
    /// Over `max_target_bytes` (RFC 9112 3, RFC 9110 15.5.15).
    TargetTooLong,
    /// A byte outside `!` to `~`, or a raw backslash in the path (RFC 9112 3.2, RFC 3986 2).
    TargetByte,
    /// A `#` (RFC 9112 3.2: no form of the target has a fragment).
    Fragment,
    /// Authority form without CONNECT, `*` without OPTIONS, a path without its first `/` (RFC 9112 3.2).
    TargetForm,
    /// An absolute target that is neither `http` nor `https` (RFC 9110 4.2, 7.4).
    Scheme,
    /// A `%` without two hexadecimal digits (RFC 3986 2.1), or `%00`, which ends strings elsewhere (RFC 3986 7.3).
    PercentEncoding,
    /// `..` above the root (RFC 3986 5.2.4 would drop it; only attacks send it).
    AboveRoot,
    /// No Host in HTTP/1.1, or an empty one (RFC 9112 3.2; an empty host names no resource, RFC 9110 4.2.1).
    HostMissing,
    /// More than one Host field, also with the same value (RFC 9112 3.2).
    HostRepeated,
    /// Not `uri-host [":" port]` (RFC 9110 7.2): userinfo, path, list, percent-encoding, port 0 or over 65535.
    HostInvalid,
    /// An absolute target that names another authority than Host (RFC 9112 3.2.2).
    HostDisagrees,
    /// An Expect other than `100-continue` (RFC 9110 10.1.1).
    Expectation,
    /// Over `max_fields` (RFC 6585 5).
    TooManyFields,
    /// Over `max_field_bytes` (RFC 6585 5).
    FieldTooLarge,
    /// A name that CGI-like upstreams take for a framing, hop-by-hop or X-Forwarded field (RFC 9110 16.3.2.1).
    UnderscoreTwin,
    /// A Content-Length that is no plain decimal number, or differing ones (RFC 9112 6.3).
    LengthInvalid,
    /// Other than one Transfer-Encoding field `chunked` (RFC 9112 6.1).
    TransferEncoding,
    /// Both framing fields (RFC 9112 6.1).
    LengthWithTransferEncoding,
    /// A value in HTTP/2 that begins or ends with a blank, which HTTP/1 would drop (RFC 9113 8.2.1).
    ValueBlank,
    /// A field in HTTP/2 that belongs to a connection (RFC 9113 8.2.2).
    ConnectionField,
    /// CONNECT in HTTP/2 without an authority (RFC 9113 8.5).
    ConnectAuthority,
}

/// Judges a request head and makes its host and target normal. On success `parts.headers` has exactly one Host with the
/// normalised authority, or, for HTTP/1.0 only, none.
///
/// Order: what can be told without the fields, then one pass over the fields, then the authority, then the path.
pub fn admit(parts: &mut request::Parts, limits: &Limits) -> Result<Admitted, Refusal> {
    check_version(parts.version)?;
    if parts.version == Version::HTTP_2 {
        check_http2(parts)?;
    }
    check_method(&parts.method)?;
    check_target_size(&parts.uri, limits)?;
    let fields = Fields::read(&parts.headers, limits)?;
    let named = match fields.host {
        Some(value) => Some(Authority::parse(value.as_bytes())?),
        None if parts.version == Version::HTTP_11 => return Err(Refusal::HostMissing),
        None => None,
    };
    let wanted = target_authority(&parts.uri, named.as_ref())?;
    if wanted.is_none() && named.is_none() && parts.version == Version::HTTP_2 {
        return Err(Refusal::HostMissing);
    }
    let target = target(&parts.method, &parts.uri)?;
    let Some(authority) = wanted.or(named) else {
        return Ok(Admitted {
            host: Host::default(),
            target,
        });
    };
    let host = authority.into_host(fields.host)?;
    if fields.host != Some(&host.authority) {
        parts.headers.insert(header::HOST, host.authority.clone());
    }
    if parts.version == Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    Ok(Admitted { host, target })
}

/// The authority rules, also for authorities that filters write; gives the one normal spelling.
pub fn check_authority(authority: &[u8]) -> Result<HeaderValue, Refusal> {
    Authority::parse(authority)?.into_host(None).map(|host| host.authority)
}

/// The path rules (RFC 3986 6.2.2), also for paths that filters write: percent-encoded unreserved characters are
/// decoded, other encodings get upper-case digits, then empty segments are dropped, then dot segments resolved.
/// `%2F` and `%5C` stay encoded, `;` has no meaning. Idempotent; a normal path is borrowed.
pub fn normalise_path(path: &str) -> Result<Cow<'_, str>, Refusal> {
    if !path.starts_with('/') {
        return Err(Refusal::TargetForm);
    }
    if is_normal(path.as_bytes())? {
        return Ok(Cow::Borrowed(path));
    }
    rewrite(path).map(Cow::Owned)
}

impl Host {
    pub fn as_str(&self) -> &str {
        let host = self.authority.as_bytes().get(..self.host_bytes).unwrap_or_default();
        // Only ASCII gets here; the check is the price of no `unsafe`.
        std::str::from_utf8(host).unwrap_or_default()
    }
}

impl Default for Host {
    /// No host named.
    fn default() -> Self {
        Self {
            authority: HeaderValue::from_static(""),
            host_bytes: 0,
        }
    }
}

impl Refusal {
    /// What the client is told.
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Refusal::Connect | Refusal::MethodTooLong => StatusCode::NOT_IMPLEMENTED,
            Refusal::TargetTooLong => StatusCode::URI_TOO_LONG,
            Refusal::Expectation => StatusCode::EXPECTATION_FAILED,
            Refusal::TooManyFields | Refusal::FieldTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// One word for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::Version => "version",
            Refusal::Connect => "connect",
            Refusal::MethodTooLong => "method_too_long",
            Refusal::TargetTooLong => "target_too_long",
            Refusal::TargetByte => "target_byte",
            Refusal::Fragment => "fragment",
            Refusal::TargetForm => "target_form",
            Refusal::Scheme => "scheme",
            Refusal::PercentEncoding => "percent_encoding",
            Refusal::AboveRoot => "above_root",
            Refusal::HostMissing => "host_missing",
            Refusal::HostRepeated => "host_repeated",
            Refusal::HostInvalid => "host_invalid",
            Refusal::HostDisagrees => "host_disagrees",
            Refusal::Expectation => "expectation",
            Refusal::TooManyFields => "too_many_fields",
            Refusal::FieldTooLarge => "field_too_large",
            Refusal::UnderscoreTwin => "underscore_twin",
            Refusal::LengthInvalid => "length_invalid",
            Refusal::TransferEncoding => "transfer_encoding",
            Refusal::LengthWithTransferEncoding => "length_with_transfer_encoding",
            Refusal::ValueBlank => "value_blank",
            Refusal::ConnectionField => "connection_field",
            Refusal::ConnectAuthority => "connect_authority",
        }
    }

    /// Whether HTTP/2 calls such a request malformed, which ends its stream without an answer (RFC 9113 8.1.1).
    pub fn is_malformed(self) -> bool {
        matches!(
            self,
            Refusal::HostRepeated
                | Refusal::HostDisagrees
                | Refusal::LengthInvalid
                | Refusal::TransferEncoding
                | Refusal::LengthWithTransferEncoding
                | Refusal::ValueBlank
                | Refusal::ConnectionField
                | Refusal::ConnectAuthority
        )
    }
}

fn check_version(version: Version) -> Result<(), Refusal> {
    match version {
        Version::HTTP_10 | Version::HTTP_11 | Version::HTTP_2 => Ok(()),
        _ => Err(Refusal::Version),
    }
}

/// What would mean something else, or nothing, once it is written as HTTP/1. The engine has judged names, pseudo-header
/// fields and control characters.
fn check_http2(parts: &request::Parts) -> Result<(), Refusal> {
    if parts.method == Method::CONNECT && parts.uri.authority().is_none() {
        return Err(Refusal::ConnectAuthority);
    }
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    for (name, value) in &parts.headers {
        let bytes = value.as_bytes();
        if is_blank(bytes.first()) || is_blank(bytes.last()) {
            return Err(Refusal::ValueBlank);
        }
        match name.as_str() {
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" => {
                return Err(Refusal::ConnectionField);
            }
            "te" if bytes != b"trailers" => return Err(Refusal::ConnectionField),
            _ => {}
        }
    }
    Ok(())
}

/// RFC 9113 8.2.3: a cookie may come in pieces, for the sake of compression; HTTP/1 and filters know one field.
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let Some(first) = crumbs.next() else { return };
    let mut whole = first.as_bytes().to_vec();
    for crumb in crumbs {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(crumb.as_bytes());
    }
    if whole.len() > first.len()
        && let Ok(value) = HeaderValue::try_from(whole)
    {
        headers.insert(header::COOKIE, value);
    }
}

fn check_method(method: &Method) -> Result<(), Refusal> {
    match method {
        &Method::CONNECT => Err(Refusal::Connect),
        method if method.as_str().len() > MAX_METHOD_BYTES => Err(Refusal::MethodTooLong),
        _ => Ok(()),
    }
}

fn check_target_size(uri: &Uri, limits: &Limits) -> Result<(), Refusal> {
    let scheme = uri.scheme_str().map_or(0, |scheme| scheme.len() + "://".len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    (scheme + authority + path <= limits.max_target_bytes)
        .then_some(())
        .ok_or(Refusal::TargetTooLong)
}

/// What one pass over the fields finds; the sizes need the pass anyway.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a HeaderValue>,
    length: Option<&'a HeaderValue>,
    is_chunked: bool,
}

impl<'a> Fields<'a> {
    fn read(headers: &'a HeaderMap, limits: &Limits) -> Result<Self, Refusal> {
        if headers.len() > limits.max_fields {
            return Err(Refusal::TooManyFields);
        }
        let mut fields = Self::default();
        for (name, value) in headers {
            let name = name.as_str();
            if name.len() + value.len() > limits.max_field_bytes {
                return Err(Refusal::FieldTooLarge);
            }
            fields.read_one(name, value)?;
        }
        Ok(fields)
    }

    /// The length of a name rules most fields out.
    #[inline]
    fn read_one(&mut self, name: &str, value: &'a HeaderValue) -> Result<(), Refusal> {
        match name.len() {
            4 if name == "host" => self.read_host(value),
            6 if name == "expect" => check_expectation(value),
            14 if name == "content-length" => self.read_length(value),
            17 if name == "transfer-encoding" => self.read_coding(value),
            10 | 14..=19 | 23 | 25 if is_twin(name) => Err(Refusal::UnderscoreTwin),
            _ => Ok(()),
        }
    }

    fn read_host(&mut self, value: &'a HeaderValue) -> Result<(), Refusal> {
        self.host
            .replace(value)
            .is_none()
            .then_some(())
            .ok_or(Refusal::HostRepeated)
    }

    fn read_length(&mut self, value: &'a HeaderValue) -> Result<(), Refusal> {
        let digits = value.as_bytes();
        let is_number = matches!(digits, [b'0'] | [b'1'..=b'9', ..]) && digits.iter().all(u8::is_ascii_digit);
        match self.length.replace(value) {
            _ if self.is_chunked => Err(Refusal::LengthWithTransferEncoding),
            Some(earlier) if earlier != value => Err(Refusal::LengthInvalid),
            _ if !is_number => Err(Refusal::LengthInvalid),
            _ => Ok(()),
        }
    }

    fn read_coding(&mut self, value: &HeaderValue) -> Result<(), Refusal> {
        if self.length.is_some() {
            return Err(Refusal::LengthWithTransferEncoding);
        }
        if std::mem::replace(&mut self.is_chunked, true) || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::TransferEncoding);
        }
        Ok(())
    }
}

fn check_expectation(value: &HeaderValue) -> Result<(), Refusal> {
    value
        .as_bytes()
        .eq_ignore_ascii_case(b"100-continue")
        .then_some(())
        .ok_or(Refusal::Expectation)
}

/// The fields with a `-` that only a proxy may state: framing, hop-by-hop, X-Forwarded. Names in a `HeaderMap` are
/// lower case.
pub fn is_twin(name: &str) -> bool {
    const DASHED: [&[u8]; 12] = [
        b"keep-alive",
        b"http2-settings",
        b"content-length",
        b"proxy-connection",
        b"transfer-encoding",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-authentication-info",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-client-cert",
    ];
    let name = name.as_bytes();
    let matches = |known: &&[u8]| {
        known.len() == name.len()
            && name
                .iter()
                .zip(*known)
                .all(|(a, b)| a == b || (*a == b'_' && *b == b'-'))
    };
    // Most names of these lengths begin with `accept-` or `sec-`.
    let may_be_known = matches!(name.first(), Some(b'c' | b'h' | b'k' | b'p' | b't' | b'x'));
    may_be_known && name.contains(&b'_') && DASHED.iter().any(matches)
}

/// `uri-host [":" port]` (RFC 9110 7.2), parsed.
struct Authority<'a> {
    /// Lower case, no trailing dot, IPv6 in the one form of RFC 5952.
    host: Cow<'a, str>,
    /// None also for an empty one (RFC 3986 6.2.3).
    port: Option<u16>,
    /// As it came, if that is `host` and `port` in their normal form.
    normal: Option<&'a str>,
}

impl<'a> Authority<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        if bytes.is_empty() {
            return Err(Refusal::HostMissing);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Refusal::HostInvalid)?;
        let (host, rest) = if bytes[0] == b'[' {
            parse_ip_literal(text)?
        } else {
            parse_name(text)?
        };
        let port = match rest.strip_prefix(':') {
            Some("") | None => None,
            Some(port) => Some(parse_port(port)?),
        };
        let is_as_it_came = matches!(host, Cow::Borrowed(host) if host.len() + rest.len() == text.len());
        let normal = (is_as_it_came && rest != ":").then_some(text);
        Ok(Self { host, port, normal })
    }

    /// Shares the field's bytes when they are already normal.
    fn into_host(self, field: Option<&HeaderValue>) -> Result<Host, Refusal> {
        let host_bytes = self.host.len();
        let text = match (self.normal, self.port) {
            (Some(text), _) => Cow::Borrowed(text),
            (None, Some(port)) => Cow::Owned(format!("{}:{port}", self.host)),
            (None, None) => self.host,
        };
        let authority = match field {
            Some(value) if value.as_bytes() == text.as_bytes() => value.clone(),
            _ => HeaderValue::try_from(text.into_owned()).map_err(|_| Refusal::HostInvalid)?,
        };
        Ok(Host { authority, host_bytes })
    }

    fn port_or(&self, default_port: u16) -> u16 {
        self.port.unwrap_or(default_port)
    }
}

/// The registered name or IPv4 address, normalised, and what follows it.
fn parse_name(text: &str) -> Result<(Cow<'_, str>, &str), Refusal> {
    let end = text.bytes().position(|byte| !is_host_byte(byte)).unwrap_or(text.len());
    let (spelling, rest) = text.split_at(end);
    let host = spelling.strip_suffix('.').unwrap_or(spelling);
    let ends_well = rest.is_empty() || rest.starts_with(':');
    if !ends_well || host.is_empty() || host.ends_with('.') || host.len() > MAX_HOST_BYTES {
        return Err(Refusal::HostInvalid);
    }
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok((Cow::Owned(host.to_ascii_lowercase()), rest));
    }
    Ok((Cow::Borrowed(host), rest))
}

/// `[IPv6]`, normalised, and what follows it. Zones (RFC 6874) mean nothing here; IPvFuture does not exist.
fn parse_ip_literal(text: &str) -> Result<(Cow<'_, str>, &str), Refusal> {
    let end = text.find(']').ok_or(Refusal::HostInvalid)?;
    let address: Ipv6Addr = text[1..end].parse().map_err(|_| Refusal::HostInvalid)?;
    let (spelling, rest) = text.split_at(end + 1);
    if !rest.is_empty() && !rest.starts_with(':') {
        return Err(Refusal::HostInvalid);
    }
    let normal = format!("[{address}]");
    if normal == spelling {
        return Ok((Cow::Borrowed(spelling), rest));
    }
    Ok((Cow::Owned(normal), rest))
}

/// 1 to 65535, without leading zeros: one port has one spelling.
fn parse_port(digits: &str) -> Result<u16, Refusal> {
    if digits.starts_with('0') || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::HostInvalid);
    }
    digits.parse().map_err(|_| Refusal::HostInvalid)
}

/// The authority of an absolute target; it must be the one of Host (RFC 9112 3.2.2).
fn target_authority<'a>(uri: &'a Uri, named: Option<&Authority>) -> Result<Option<Authority<'a>>, Refusal> {
    let default_port = match uri.scheme_str() {
        None => return Ok(None),
        Some("http") => 80,
        Some("https") => 443,
        Some(_) => return Err(Refusal::Scheme),
    };
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let wanted = Authority::parse(authority.as_bytes())?;
    let agrees =
        |named: &Authority| named.host == wanted.host && named.port_or(default_port) == wanted.port_or(default_port);
    named
        .is_none_or(agrees)
        .then_some(Some(wanted))
        .ok_or(Refusal::HostDisagrees)
}

fn target(method: &Method, uri: &Uri) -> Result<PathAndQuery, Refusal> {
    let Some(target) = uri.path_and_query() else {
        return Err(Refusal::TargetForm);
    };
    if target.as_str() == "*" {
        return if method == Method::OPTIONS {
            Ok(target.clone())
        } else {
            Err(Refusal::TargetForm)
        };
    }
    check_query(target.query().unwrap_or_default())?;
    match normalise_path(target.path())? {
        // `http://host?query` has no path of its own (RFC 9112 3.2.1: then it is `/`).
        Cow::Borrowed(_) if target.as_str().starts_with('/') => Ok(target.clone()),
        path => join(&path, target.query()),
    }
}

fn join(path: &str, query: Option<&str>) -> Result<PathAndQuery, Refusal> {
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    PathAndQuery::try_from(text).map_err(|_| Refusal::TargetByte)
}

fn check_query(query: &str) -> Result<(), Refusal> {
    match query.bytes().find(|byte| !matches!(byte, b'!'..=b'"' | b'$'..=b'~')) {
        None => Ok(()),
        Some(b'#') => Err(Refusal::Fragment),
        Some(_) => Err(Refusal::TargetByte),
    }
}

/// One scan that answers for nearly every path. Refuses, or says `false`, at the first byte that decides.
fn is_normal(path: &[u8]) -> Result<bool, Refusal> {
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        at += match PATH_BYTES[usize::from(byte)] {
            PathByte::Plain => 1,
            PathByte::Slash if vanishes(&path[at + 1..]) => return Ok(false),
            PathByte::Slash => 1,
            PathByte::Percent if is_normal_encoding(&path[at..])? => 3,
            PathByte::Percent => return Ok(false),
            PathByte::Hash => return Err(Refusal::Fragment),
            PathByte::Refused => return Err(Refusal::TargetByte),
        };
    }
    Ok(true)
}

/// Whether the segment that begins here is a dot segment, or empty and not the last.
fn vanishes(rest: &[u8]) -> bool {
    match rest {
        [b'/', ..] => true,
        [b'.', b'.', rest @ ..] | [b'.', rest @ ..] => matches!(rest, [] | [b'/', ..]),
        _ => false,
    }
}

fn is_normal_encoding(encoding: &[u8]) -> Result<bool, Refusal> {
    let byte = decode(encoding)?;
    let is_lower = encoding.iter().take(3).any(u8::is_ascii_lowercase);
    Ok(!is_lower && !is_unreserved(byte))
}

/// The path segment by segment; `out` is normal after each one, without a last slash.
fn rewrite(path: &str) -> Result<String, Refusal> {
    let mut out = String::with_capacity(path.len());
    let mut ends_in_directory = false;
    for segment in path.split('/').skip(1) {
        let start = out.len();
        out.push('/');
        push_decoded(&mut out, segment.as_bytes())?;
        let parent = match &out[start + 1..] {
            "" | "." => start,
            ".." => out[..start].rfind('/').ok_or(Refusal::AboveRoot)?,
            _ => out.len(),
        };
        ends_in_directory = parent <= start;
        out.truncate(parent);
    }
    if ends_in_directory {
        out.push('/');
    }
    Ok(out)
}

fn push_decoded(out: &mut String, segment: &[u8]) -> Result<(), Refusal> {
    let mut at = 0;
    while let Some(&byte) = segment.get(at) {
        at += match PATH_BYTES[usize::from(byte)] {
            PathByte::Plain | PathByte::Slash => {
                out.push(char::from(byte));
                1
            }
            PathByte::Percent => {
                push_encoding(out, decode(&segment[at..])?);
                3
            }
            PathByte::Hash => return Err(Refusal::Fragment),
            PathByte::Refused => return Err(Refusal::TargetByte),
        };
    }
    Ok(())
}

fn push_encoding(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    if is_unreserved(byte) {
        return out.push(char::from(byte));
    }
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// The byte that `%XX` at the start stands for.
fn decode(encoding: &[u8]) -> Result<u8, Refusal> {
    let digit = |at: usize| {
        let digit = encoding.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        digit
            .and_then(|value| u8::try_from(value).ok())
            .ok_or(Refusal::PercentEncoding)
    };
    let byte = digit(1)? << 4 | digit(2)?;
    if byte == 0 {
        Err(Refusal::PercentEncoding)
    } else {
        Ok(byte)
    }
}

/// RFC 3986 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 3.2.2 `reg-name` without percent-encodings, and without the comma, which means a list of hosts elsewhere.
const fn is_host_byte(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'!' | b'$' | b'&'..=b'+' | b';' | b'=')
}

#[derive(Clone, Copy)]
enum PathByte {
    Plain,
    Slash,
    Percent,
    Hash,
    Refused,
}

static PATH_BYTES: [PathByte; 256] = {
    let mut table = [PathByte::Refused; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        table[byte as usize] = match byte {
            b'/' => PathByte::Slash,
            b'%' => PathByte::Percent,
            b'#' => PathByte::Hash,
            b'\\' | b'?' => PathByte::Refused,
            _ => PathByte::Plain,
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        max_target_bytes: 60,
        max_field_bytes: 50,
        max_fields: 8,
    };

    type HostCase<'a> = (&'a str, Result<(&'a str, &'a str), Refusal>);
    type TargetCase<'a> = (&'a str, &'a str, &'a str, Result<(&'a str, &'a str), Refusal>);
    type VersionCase<'a> = (Version, &'a str, Result<(&'a str, Option<&'a str>), Refusal>);
    type FieldsCase<'a> = (&'a [(&'a str, &'a str)], Result<(), Refusal>);

    fn parts(version: Version, method: &str, target: &str, fields: &[(&str, &str)]) -> request::Parts {
        let mut builder = http::Request::builder().version(version).method(method).uri(target);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    /// Host for routing, Host field, target.
    fn admitted(mut parts: request::Parts) -> Result<(String, Option<String>, String), Refusal> {
        let Admitted { host, target } = admit(&mut parts, &LIMITS)?;
        let mut fields = parts.headers.get_all(header::HOST).iter();
        let field = fields.next().map(|value| value.to_str().unwrap().to_owned());
        assert!(fields.next().is_none());
        Ok((host.as_str().to_owned(), field, target.as_str().to_owned()))
    }

    #[test]
    fn hosts() {
        let cases: &[HostCase] = &[
            ("a", Ok(("a", "a"))),
            ("a.example:8080", Ok(("a.example", "a.example:8080"))),
            ("A.Example", Ok(("a.example", "a.example"))),
            ("A.:80", Ok(("a", "a:80"))),
            ("a.", Ok(("a", "a"))),
            ("a:", Ok(("a", "a"))),
            ("a_b-c~d", Ok(("a_b-c~d", "a_b-c~d"))),
            ("127.0.0.1:65535", Ok(("127.0.0.1", "127.0.0.1:65535"))),
            ("[::1]", Ok(("[::1]", "[::1]"))),
            ("[::1]:81", Ok(("[::1]", "[::1]:81"))),
            ("[2001:DB8:0::1]:", Ok(("[2001:db8::1]", "[2001:db8::1]"))),
            ("", Err(Refusal::HostMissing)),
            (".", Err(Refusal::HostInvalid)),
            ("a..", Err(Refusal::HostInvalid)),
            (":80", Err(Refusal::HostInvalid)),
            ("a:0", Err(Refusal::HostInvalid)),
            ("a:080", Err(Refusal::HostInvalid)),
            ("a:65536", Err(Refusal::HostInvalid)),
            ("a:+80", Err(Refusal::HostInvalid)),
            ("a:80:80", Err(Refusal::HostInvalid)),
            ("a:b", Err(Refusal::HostInvalid)),
            ("u@a", Err(Refusal::HostInvalid)),
            ("u:p@a", Err(Refusal::HostInvalid)),
            ("a/b", Err(Refusal::HostInvalid)),
            ("a?b", Err(Refusal::HostInvalid)),
            ("a#b", Err(Refusal::HostInvalid)),
            ("a\\b", Err(Refusal::HostInvalid)),
            ("a,b", Err(Refusal::HostInvalid)),
            ("a b", Err(Refusal::HostInvalid)),
            ("a%2eb", Err(Refusal::HostInvalid)),
            ("\u{e9}", Err(Refusal::HostInvalid)),
            ("::1", Err(Refusal::HostInvalid)),
            ("[::1", Err(Refusal::HostInvalid)),
            ("[::1]a", Err(Refusal::HostInvalid)),
            ("[::1%25eth0]", Err(Refusal::HostInvalid)),
            ("[v1.a]", Err(Refusal::HostInvalid)),
            ("[a]", Err(Refusal::HostInvalid)),
        ];
        for (field, expected) in cases {
            let expected = expected.map(|(host, field)| (host.to_owned(), Some(field.to_owned()), "/".to_owned()));
            assert_eq!(
                admitted(parts(Version::HTTP_11, "GET", "/", &[("host", field)])),
                expected,
                "{field:?}"
            );
        }
        assert_eq!(check_authority(b"A.:80").unwrap(), "a:80");
        let long = "a".repeat(256);
        assert_eq!(Authority::parse(long.as_bytes()).err(), Some(Refusal::HostInvalid));
        assert_eq!(Authority::parse(&long.as_bytes()[1..]).err(), None);
    }

    #[test]
    fn targets() {
        let cases: &[TargetCase] = &[
            ("GET", "/a?b", "h", Ok(("h", "/a?b"))),
            ("GET", "/a/../b/?/../x", "h", Ok(("h", "/b/?/../x"))),
            ("OPTIONS", "*", "h", Ok(("h", "*"))),
            // RFC 9112 3.2.4 asks for `*`, but `http::Uri` reads `http://h` and `http://h/` alike.
            ("OPTIONS", "http://h", "h", Ok(("h", "/"))),
            ("OPTIONS", "http://h/", "h", Ok(("h", "/"))),
            ("GET", "*", "h", Err(Refusal::TargetForm)),
            ("GET", "h:80", "h", Err(Refusal::TargetForm)),
            ("GET", "index.html", "h", Err(Refusal::TargetForm)),
            ("CONNECT", "h:80", "h", Err(Refusal::Connect)),
            ("CONNECT", "/", "h", Err(Refusal::Connect)),
            ("GET", "http://H/a//b?c", "h", Ok(("h", "/a/b?c"))),
            ("GET", "http://h?c", "h", Ok(("h", "/?c"))),
            ("GET", "http://h", "h:80", Ok(("h", "/"))),
            ("GET", "http://h:80/", "h", Ok(("h:80", "/"))),
            ("GET", "https://h:443/", "H.", Ok(("h:443", "/"))),
            ("GET", "https://h:80/", "h", Err(Refusal::HostDisagrees)),
            ("GET", "http://a/", "b", Err(Refusal::HostDisagrees)),
            ("GET", "http://u@h/", "h", Err(Refusal::HostInvalid)),
            ("GET", "ftp://h/", "h", Err(Refusal::Scheme)),
            ("GET", "/a\u{e9}", "h", Err(Refusal::TargetByte)),
            ("GET", "/a?\u{e9}", "h", Err(Refusal::TargetByte)),
            ("GET", "/a%zz", "h", Err(Refusal::PercentEncoding)),
            ("GET", "/a?%zz", "h", Ok(("h", "/a?%zz"))),
            ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF", "/", "h", Ok(("h", "/"))),
            (
                "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG",
                "/",
                "h",
                Err(Refusal::MethodTooLong),
            ),
        ];
        for (method, target, host, expected) in cases {
            let result = admitted(parts(Version::HTTP_11, method, target, &[("host", host)]));
            let result = result.map(|(_, field, target)| (field.unwrap(), target));
            let expected = expected.map(|(host, target)| (host.to_owned(), target.to_owned()));
            assert_eq!(result, expected, "{method} {target} {host}");
        }
    }

    #[test]
    fn versions_decide_whether_host_may_be_missing() {
        let cases: &[VersionCase] = &[
            (Version::HTTP_10, "/", Ok(("", None))),
            (Version::HTTP_10, "http://h:81/", Ok(("h", Some("h:81")))),
            (Version::HTTP_11, "/", Err(Refusal::HostMissing)),
            (Version::HTTP_11, "http://h/", Err(Refusal::HostMissing)),
            (Version::HTTP_09, "/", Err(Refusal::Version)),
            (Version::HTTP_2, "http://h/", Ok(("h", Some("h")))),
            (Version::HTTP_2, "/", Err(Refusal::HostMissing)),
            (Version::HTTP_3, "http://h/", Err(Refusal::Version)),
        ];
        for (version, target, expected) in cases {
            let expected = expected.map(|(host, field)| (host.to_owned(), field.map(str::to_owned), "/".to_owned()));
            assert_eq!(
                admitted(parts(*version, "GET", target, &[])),
                expected,
                "{version:?} {target}"
            );
        }
    }

    /// What the engine does not refuse by itself, and what it does, in case it stops.
    #[test]
    fn http2() {
        let cases: &[FieldsCase] = &[
            (&[("host", "H:80")], Ok(())),
            (&[("host", "b")], Err(Refusal::HostDisagrees)),
            (&[("x", "a b")], Ok(())),
            (&[("x", " a")], Err(Refusal::ValueBlank)),
            (&[("x", "a\t")], Err(Refusal::ValueBlank)),
            (&[("te", "trailers")], Ok(())),
            (&[("te", "gzip")], Err(Refusal::ConnectionField)),
            (&[("connection", "close")], Err(Refusal::ConnectionField)),
            (&[("keep-alive", "1")], Err(Refusal::ConnectionField)),
            (&[("proxy-connection", "close")], Err(Refusal::ConnectionField)),
            (&[("upgrade", "h2c")], Err(Refusal::ConnectionField)),
            (&[("transfer-encoding", "chunked")], Err(Refusal::ConnectionField)),
        ];
        for (fields, expected) in cases {
            let admitted = admitted(parts(Version::HTTP_2, "GET", "http://h/", fields));
            assert_eq!(admitted.map(|_| ()), *expected, "{fields:?}");
            let refusal = expected.err();
            assert!(refusal.is_none_or(Refusal::is_malformed), "{fields:?}");
        }
        let tunnel = admitted(parts(Version::HTTP_2, "CONNECT", "h:80", &[]));
        assert_eq!(tunnel, Err(Refusal::Connect));
        assert_eq!(
            admitted(parts(Version::HTTP_2, "CONNECT", "/", &[])),
            Err(Refusal::ConnectAuthority)
        );
    }

    #[test]
    fn crumbs_become_one_cookie() {
        let fields = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3")];
        for (version, expected) in [
            (Version::HTTP_2, &["a=1; b=2; c=3"][..]),
            (Version::HTTP_11, &["a=1", "b=2", "c=3"]),
        ] {
            let mut parts = parts(version, "GET", "http://h/", &fields);
            parts.headers.insert("host", HeaderValue::from_static("h"));
            admit(&mut parts, &LIMITS).unwrap();
            let cookies: Vec<_> = parts.headers.get_all("cookie").iter().collect();
            assert_eq!(cookies, expected, "{version:?}");
        }
        let crumbs = [("cookie", "a=1"); 9];
        let refused = admitted(parts(Version::HTTP_2, "GET", "http://h/", &crumbs));
        assert_eq!(refused, Err(Refusal::TooManyFields), "each counts");
    }

    #[test]
    fn fields() {
        let cases: &[FieldsCase] = &[
            (&[("host", "h")], Err(Refusal::HostRepeated)),
            (&[("expect", "100-Continue")], Ok(())),
            (&[("expect", "y 100-continue")], Err(Refusal::Expectation)),
            (&[("expect", "")], Err(Refusal::Expectation)),
            (
                &[("expect", "100-continue"), ("expect", "x")],
                Err(Refusal::Expectation),
            ),
            (&[("content-length", "0")], Ok(())),
            (&[("content-length", "10"), ("content-length", "10")], Ok(())),
            (
                &[("content-length", "10"), ("content-length", "11")],
                Err(Refusal::LengthInvalid),
            ),
            (&[("content-length", "+1")], Err(Refusal::LengthInvalid)),
            (&[("content-length", "01")], Err(Refusal::LengthInvalid)),
            (&[("content-length", "1, 1")], Err(Refusal::LengthInvalid)),
            (&[("content-length", "")], Err(Refusal::LengthInvalid)),
            (&[("transfer-encoding", "CHUNKED")], Ok(())),
            (
                &[("transfer-encoding", "gzip, chunked")],
                Err(Refusal::TransferEncoding),
            ),
            (
                &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                Err(Refusal::TransferEncoding),
            ),
            (
                &[("transfer-encoding", "chunked"), ("content-length", "1")],
                Err(Refusal::LengthWithTransferEncoding),
            ),
            (
                &[("content-length", "1"), ("transfer-encoding", "chunked")],
                Err(Refusal::LengthWithTransferEncoding),
            ),
            (&[("content_length", "1")], Err(Refusal::UnderscoreTwin)),
            (&[("Transfer_Encoding", "x")], Err(Refusal::UnderscoreTwin)),
            (&[("keep_alive", "x")], Err(Refusal::UnderscoreTwin)),
            (&[("proxy_connection", "x")], Err(Refusal::UnderscoreTwin)),
            (&[("x_forwarded-for", "x")], Err(Refusal::UnderscoreTwin)),
            (
                &[("x_request_id", "x"), ("keep_aliv", "x"), ("content_lengt_", "1")],
                Ok(()),
            ),
            (&[("x", "0123456789012345678901234567890123456789012345678")], Ok(())),
            (
                &[("x", "01234567890123456789012345678901234567890123456789")],
                Err(Refusal::FieldTooLarge),
            ),
            (&[("x", ""); 7], Ok(())),
            (&[("x", ""); 8], Err(Refusal::TooManyFields)),
        ];
        for (fields, expected) in cases {
            let fields = [&[("host", "h")], *fields].concat();
            let result = admitted(parts(Version::HTTP_11, "POST", "/", &fields));
            assert_eq!(result.map(|_| ()), *expected, "{fields:?}");
        }
    }

    #[test]
    fn target_size_is_exact() {
        for (target, fits) in [
            ("/".to_owned() + &"a".repeat(59), true),
            ("/".to_owned() + &"a".repeat(60), false),
        ] {
            let result = admitted(parts(Version::HTTP_11, "GET", &target, &[("host", "h")]));
            assert_eq!(result.err(), (!fits).then_some(Refusal::TargetTooLong));
        }
        let absolute = "http://h/".to_owned() + &"a".repeat(52);
        let result = admitted(parts(Version::HTTP_11, "GET", &absolute, &[("host", "h")]));
        assert_eq!(result.err(), Some(Refusal::TargetTooLong));
    }

    #[test]
    fn what_is_normal_is_shared() {
        let mut parts = parts(Version::HTTP_11, "GET", "/.well-known/x?y", &[("host", "a:80")]);
        let before = (
            parts.uri.path().as_ptr(),
            parts.headers[header::HOST].as_bytes().as_ptr(),
        );
        let Admitted { host, target } = admit(&mut parts, &LIMITS).unwrap();
        assert_eq!((target.path().as_ptr(), host.as_str().as_ptr()), before);
        assert_eq!(parts.headers[header::HOST].as_bytes().as_ptr(), before.1);
    }

    #[test]
    fn paths() {
        let cases: &[(&str, Result<&str, Refusal>)] = &[
            ("/", Ok("/")),
            ("/a/b;c=d/e:f@g", Ok("/a/b;c=d/e:f@g")),
            ("/.well-known/..a/...", Ok("/.well-known/..a/...")),
            ("//", Ok("/")),
            ("/a//b///", Ok("/a/b/")),
            ("/.", Ok("/")),
            ("/a/.", Ok("/a/")),
            ("/a/./b", Ok("/a/b")),
            ("/a/..", Ok("/")),
            ("/a/../b", Ok("/b")),
            ("/a/b/..", Ok("/a/")),
            ("/a//../b", Ok("/b")),
            ("/a/%2e%2E/b", Ok("/b")),
            ("/a/.%2e", Ok("/")),
            ("/a/..;/b", Ok("/a/..;/b")),
            ("/a/..%2fb", Ok("/a/..%2Fb")),
            ("/%2f%5c%3B", Ok("/%2F%5C%3B")),
            ("/%41%7e%2D", Ok("/A~-")),
            ("/%252e", Ok("/%252e")),
            ("/%2541", Ok("/%2541")),
            ("/%c3%A9", Ok("/%C3%A9")),
            ("/%0a", Ok("/%0A")),
            ("/..", Err(Refusal::AboveRoot)),
            ("/a/../..", Err(Refusal::AboveRoot)),
            ("/%2e%2e/a", Err(Refusal::AboveRoot)),
            ("//..", Err(Refusal::AboveRoot)),
            ("/%", Err(Refusal::PercentEncoding)),
            ("/%4", Err(Refusal::PercentEncoding)),
            ("/%4/1", Err(Refusal::PercentEncoding)),
            ("/%+1", Err(Refusal::PercentEncoding)),
            ("/a/../%g0", Err(Refusal::PercentEncoding)),
            ("/%00", Err(Refusal::PercentEncoding)),
            ("/./%00", Err(Refusal::PercentEncoding)),
            ("/a\\b", Err(Refusal::TargetByte)),
            ("/./a\\b", Err(Refusal::TargetByte)),
            ("/a b", Err(Refusal::TargetByte)),
            ("/a\tb", Err(Refusal::TargetByte)),
            ("/a\x7f", Err(Refusal::TargetByte)),
            ("/\u{e9}", Err(Refusal::TargetByte)),
            ("/./\u{e9}", Err(Refusal::TargetByte)),
            ("/a?b", Err(Refusal::TargetByte)),
            ("/a#b", Err(Refusal::Fragment)),
            ("/./a#b", Err(Refusal::Fragment)),
            ("", Err(Refusal::TargetForm)),
            ("a", Err(Refusal::TargetForm)),
        ];
        for (path, expected) in cases {
            assert_eq!(normalise_path(path).as_deref(), expected.as_deref(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn normal_paths_stay(path in "(/|\\.|\\.\\.|%2e|%2F|%41|%25|a|;|~){0,12}") {
            let path = format!("/{path}");
            if let Ok(once) = normalise_path(&path) {
                let again = normalise_path(&once);
                prop_assert!(matches!(again, Ok(Cow::Borrowed(same)) if same == once), "{} then {:?}", once, again);
                prop_assert!(!once.contains("//") && !once.contains("%2e"));
                prop_assert!(!once.split('/').any(|segment| segment == "." || segment == ".."));
            }
        }

        #[test]
        fn any_path_is_survived(path in "/\\PC{0,30}") {
            if let Ok(once) = normalise_path(&path) {
                prop_assert!(once.bytes().all(|byte| (b'!'..=b'~').contains(&byte)));
                prop_assert!(matches!(normalise_path(&once), Ok(Cow::Borrowed(_))));
            }
        }

        #[test]
        fn normal_hosts_stay(host in "[a-zA-Z0-9.:\\[\\],@%_-]{0,12}") {
            if let Ok(Ok(once)) = Authority::parse(host.as_bytes()).map(|authority| authority.into_host(None)) {
                let again = Authority::parse(once.authority.as_bytes()).unwrap();
                prop_assert!(again.normal.is_some());
                prop_assert_eq!(&*again.host, once.as_str());
            }
        }
    }
}
