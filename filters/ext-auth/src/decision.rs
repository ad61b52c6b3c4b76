//! What the service has decided, and how it is kept.

use serde::Deserialize;
use tamis_filter::outbound::{Answer, CallError};
use tamis_filter::{Header, Reply};

use crate::fields;

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It goes on.
    Allow {
        /// For the upstream.
        request: Vec<Header>,
        /// For the client.
        response: Vec<Header>,
    },
    /// The client gets the service's answer.
    Deny(Reply),
}

/// How an answer is read.
#[derive(Debug)]
pub struct Reading {
    pub upstream_headers: Vec<String>,
    pub response_headers: Vec<String>,
    pub deny_statuses: Vec<u16>,
    pub deny_headers: Vec<String>,
    pub redirects: Redirects,
}

/// What becomes of an answer that sends the client elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Redirects {
    /// It is no decision.
    #[default]
    Refuse,
    /// The client gets it.
    Pass,
}

/// Why there is no decision. For the log; a client is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undecided {
    Call(CallError),
    Status(u16),
    /// Another request asks the same, and has had no answer in time.
    Waited,
}

impl std::fmt::Display for Undecided {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Undecided::Call(error) => error.fmt(formatter),
            Undecided::Status(status) => write!(formatter, "answered with {status}"),
            Undecided::Waited => formatter.write_str("another request has asked the same, and waits"),
        }
    }
}

impl Reading {
    pub fn read(&self, answer: Answer) -> Result<Decision, Undecided> {
        let status = answer.status;
        let redirected = matches!(status, 301 | 302 | 303 | 307 | 308) && self.redirects == Redirects::Pass;
        match status {
            200..=299 => Ok(Decision::Allow {
                request: fields::chosen(&answer.headers, &self.upstream_headers),
                response: fields::chosen(&answer.headers, &self.response_headers),
            }),
            _ if redirected || self.deny_statuses.contains(&status) => Ok(Decision::Deny(Reply {
                status,
                headers: fields::chosen(&answer.headers, &self.deny_headers),
                body: answer.body,
            })),
            _ => Err(Undecided::Status(status)),
        }
    }
}

/// Whether an answer may serve other requests, too. A cookie is for the one that was asked about, and
/// `cache-control` is the service's word (RFC 9111 section 5.2.2).
pub fn may_be_kept(answer: &Answer) -> bool {
    let forbids = |header: &Header| {
        let value = header.value.to_ascii_lowercase();
        let mut directives = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        directives.any(|directive| directive.starts_with(b"no-store") || directive.starts_with(b"no-cache"))
    };
    answer
        .headers
        .iter()
        .all(|header| match header.name.to_ascii_lowercase().as_str() {
            "set-cookie" => false,
            "cache-control" => !forbids(header),
            _ => true,
        })
}

/// Tags of what is kept.
const ALLOW: u8 = 1;
const DENY: u8 = 2;

impl Decision {
    /// As bytes: a tag, then lists and texts, each after its length in 4 bytes, little end first.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Decision::Allow { request, response } => {
                bytes.push(ALLOW);
                put_headers(&mut bytes, request);
                put_headers(&mut bytes, response);
            }
            Decision::Deny(reply) => {
                bytes.push(DENY);
                bytes.extend(reply.status.to_le_bytes());
                put_headers(&mut bytes, &reply.headers);
                put(&mut bytes, &reply.body);
            }
        }
        bytes
    }

    /// None for what `encode` has not made.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, mut rest) = bytes.split_first()?;
        let decision = match *tag {
            ALLOW => Decision::Allow {
                request: take_headers(&mut rest)?,
                response: take_headers(&mut rest)?,
            },
            DENY => Decision::Deny(Reply {
                status: u16::from_le_bytes(*take_array(&mut rest)?),
                headers: take_headers(&mut rest)?,
                body: take(&mut rest)?.to_vec(),
            }),
            _ => return None,
        };
        rest.is_empty().then_some(decision)
    }
}

fn put(bytes: &mut Vec<u8>, text: &[u8]) {
    put_length(bytes, text.len());
    bytes.extend_from_slice(text);
}

/// What is longer than the address space of a component does not occur.
fn put_length(bytes: &mut Vec<u8>, length: usize) {
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_headers(bytes: &mut Vec<u8>, headers: &[Header]) {
    put_length(bytes, headers.len());
    for header in headers {
        put(bytes, header.name.as_bytes());
        put(bytes, &header.value);
    }
}

fn take_array<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (array, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(array)
}

fn take_length(rest: &mut &[u8]) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*take_array(rest)?)).ok()
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_length(rest)?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(text)
}

fn take_headers(rest: &mut &[u8]) -> Option<Vec<Header>> {
    let count = take_length(rest)?;
    let header = |_| {
        let name = std::str::from_utf8(take(rest)?).ok()?;
        Some(Header::new(name, take(rest)?))
    };
    (0..count).map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(headers: &[(&str, &str)]) -> Answer {
        Answer {
            status: 200,
            headers: headers.iter().map(|(name, value)| Header::new(name, value)).collect(),
            body: Vec::new(),
        }
    }

    #[test]
    fn what_is_kept_comes_back_and_nothing_else_does() {
        let decisions = [
            Decision::Allow {
                request: vec![],
                response: vec![],
            },
            Decision::Allow {
                request: vec![Header::new("x-user", "a"), Header::new("x-user", b"\xff")],
                response: vec![Header::new("x-a", "")],
            },
            Decision::Deny(Reply::new(401).header("www-authenticate", "Basic").body("no\n")),
        ];
        for decision in decisions {
            let bytes = decision.encode();
            assert_eq!(Decision::decode(&bytes), Some(decision));
            for end in 0..bytes.len() {
                assert_eq!(Decision::decode(&bytes[..end]), None, "cut at {end}");
            }
            assert_eq!(Decision::decode(&[&bytes[..], &[0]].concat()), None);
        }
        assert_eq!(Decision::decode(&[3, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(Decision::decode(&[ALLOW, 255, 255, 255, 255]), None);
    }

    #[test]
    fn cookies_and_what_the_service_forbids_is_not_kept() {
        let cases: [(&[(&str, &str)], bool); 6] = [
            (&[], true),
            (&[("x", "no-store"), ("cache-control", "private, max-age=5")], true),
            (&[("Set-Cookie", "a=1")], false),
            (&[("Cache-Control", "No-Store")], false),
            (&[("cache-control", "private,no-cache=\"x\"")], false),
            (&[("cache-control", "private"), ("cache-control", "no-store")], false),
        ];
        for (headers, kept) in cases {
            assert_eq!(may_be_kept(&answer(headers)), kept, "{headers:?}");
        }
    }
}
