//! What the service is asked about a request.

use serde::Deserialize;
use tamis_filter::outbound::Call;
use tamis_filter::{Exchange, Header, HeldBody, Request, check_header};

use crate::fields::{self, Pattern};

/// Paths of the field have under 100 bytes.
const MAX_PATH_BYTES: usize = 1024;

/// The fields that say what the request was; one that a client sends under such a name is not passed on.
pub const ORIGINAL: &str = "x-original-";

/// Who is asked, and how.
#[derive(Debug)]
pub struct Asking {
    pub cluster: String,
    pub authority: Option<String>,
    pub target: Target,
    pub method: Method,
    pub timeout: std::time::Duration,
    pub sent: Vec<Pattern>,
}

#[derive(Debug)]
pub enum Target {
    /// The same for all requests.
    Fixed(String),
    /// In front of the request's own path and query.
    Before(String),
}

#[derive(Debug)]
pub enum Method {
    Fixed(String),
    Original,
}

/// The request's body, as far as it is sent along.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyConfig {
    pub max: u64,
    #[serde(default)]
    pub over: Over,
}

/// What becomes of a longer body.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Over {
    /// The client gets 413: a service that judges bodies must see all of them.
    #[default]
    Refuse,
    Cut,
}

impl Target {
    pub fn new(path: Option<String>, prefix: Option<String>) -> Result<Self, String> {
        match (path, prefix) {
            (Some(path), None) => Ok(Target::Fixed(checked("path", path)?)),
            (None, Some(prefix)) => {
                let prefix = checked("path_prefix", prefix)?;
                if prefix.contains('?') {
                    return Err(format!("path_prefix `{prefix}`: has a query"));
                }
                Ok(Target::Before(prefix.trim_end_matches('/').to_owned()))
            }
            _ => Err("needs `path` or `path_prefix`, one of them".to_owned()),
        }
    }
}

impl Method {
    pub fn new(method: Option<String>, body: Option<BodyConfig>) -> Result<Self, String> {
        match method {
            None if body.is_some() => Ok(Method::Fixed("POST".to_owned())),
            None => Ok(Method::Fixed("GET".to_owned())),
            Some(method) if method == "original" => Ok(Method::Original),
            Some(method)
                if !method.is_empty()
                    && method != "CONNECT"
                    && method.bytes().all(|byte| byte.is_ascii_uppercase()) =>
            {
                Ok(Method::Fixed(method))
            }
            Some(method) => Err(format!(
                "method `{method}`: such as `GET`, or `original`; not `CONNECT`"
            )),
        }
    }
}

impl Asking {
    pub fn call(&self, request: &Request, exchange: &Exchange, body: Option<HeldBody>) -> Call {
        let (method, uri) = (request.method(), uri(request));
        let target = match &self.target {
            Target::Fixed(path) => path.clone(),
            Target::Before(prefix) => format!("{prefix}{uri}"),
        };
        let asked_with = match &self.method {
            Method::Fixed(method) => method,
            Method::Original => &method,
        };
        let mut call = Call::new(asked_with, &self.cluster, &target).timeout(self.timeout);
        call.authority = self.authority.clone();
        call.headers = self.copied(request, body.is_some());
        let mut original =
            |name: &str, value: &str| call.headers.push(Header::new(&format!("{ORIGINAL}{name}"), value));
        original("method", &method);
        original("scheme", &request.scheme());
        original("host", &request.authority());
        original("uri", &uri);
        original("address", &exchange.client_address());
        if let Some(body) = body {
            original("body", if body.complete { "whole" } else { "cut" });
            call.body = body.data;
        }
        call
    }

    /// The chosen fields, except for framing and whatever would pass for one of ours.
    fn copied(&self, request: &Request, with_body: bool) -> Vec<Header> {
        let is_chosen = |header: &Header| {
            let chosen = self.sent.iter().any(|pattern| pattern.matches(&header.name));
            let of_body = with_body && header.name.eq_ignore_ascii_case("content-type");
            (chosen || of_body) && !fields::begins(&header.name, ORIGINAL) && check_header(&header.name, "").is_ok()
        };
        let mut headers = request.headers();
        headers.retain(is_chosen);
        headers
    }
}

/// Path and query, as they are.
pub fn uri(request: &Request) -> String {
    match request.query() {
        Some(query) => format!("{}?{query}", request.path()),
        None => request.path(),
    }
}

fn checked(setting: &str, path: String) -> Result<String, String> {
    let sound = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if sound && path.len() <= MAX_PATH_BYTES {
        return Ok(path);
    }
    Err(format!(
        "{setting} `{path}` must start with `/` and be a path, at most {MAX_PATH_BYTES} bytes"
    ))
}
