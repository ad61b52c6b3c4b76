//! The one table from error to HTTP response.
//!
//! Data plane. Whatever goes wrong in an exchange is an [`Error`]: at which stage, of which kind, and why. The client
//! learns a status, the fixed text of that status and the request's id; the log learns everything. No text from an
//! upstream, a filter or the configuration ever reaches a client from here.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::body::UploadFault;
use crate::filter::{Failure, Reply};
use crate::guard::Refusal;
use crate::scan::Fault;
use crate::service;

/// Seconds after which a request that was shed may come again (RFC 9110 10.2.3); memory is looked at several times in
/// one.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Why an exchange could not be answered as asked.
#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    /// For the log only.
    pub detail: Option<String>,
}

/// Every way to fail; the variants are grouped by whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    // The client's.
    /// The head is not one that may be forwarded.
    Refused(Refusal),
    /// The head's bytes show what hyper's parser lets pass.
    Ambiguous(Fault),
    /// The request came through this process before.
    Loop,
    /// The connection's certificate is not for the request's host.
    Misdirected,
    Upload(UploadFault),
    /// A request to change the protocol has a body: no telling where that ends and the other protocol begins.
    UpgradeWithBody,
    /// The protocol that a client of HTTP/2 asks for is not among the route's `upgrades` (RFC 9220 3 has the status).
    UpgradeNotListed,
    /// A filter wants to see the whole body, and it is longer than that filter allows.
    BodyTooLarge,
    /// What the route's `rewrite` makes of the path is none.
    Rewrite(Refusal),
    // The operator's.
    NoRoute,
    NoEndpoint,
    /// A limit of the cluster, or of this machine.
    Overload,
    /// The process has taken on as much as it can.
    Shed,
    /// A defect of ours.
    Panic,
    // A filter's.
    Filter(Failure),
    /// A filter has answered with an error code, which is this status.
    FilterCode(StatusCode),
    /// A filter has ended the exchange in the middle of its response.
    Cut,
    // The upstream's.
    ConnectFailed,
    ConnectTimeout,
    /// The endpoint's TLS is not one that is believed or understood.
    UpstreamTls,
    /// The connection broke before there was a response.
    Reset,
    /// The same, for what all exchanges on it did together: it does not speak against the endpoint.
    Worn,
    /// The upstream has reset the stream, for the reason with this code (RFC 9113 7).
    ResetBy(u32),
    /// What came back is not a response (RFC 9112), or not one to this request.
    Protocol,
    /// The response to a call of gRPC ended without a status.
    NoStatus,
    /// A client of HTTP/2 has asked for another protocol, and the answer would tell it that it has that.
    NotSwitched,
    /// No byte of the response for `read_timeout`.
    UpstreamTimeout,
    /// The route's `timeout` is over.
    RouteTimeout,
    /// A component that serves gave no answer.
    Service(service::Fault),
}

impl Error {
    pub fn new(kind: Kind, detail: impl fmt::Display) -> Self {
        Self {
            kind,
            detail: Some(detail.to_string()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.kind.reason())
    }
}

impl std::error::Error for Error {}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Self { kind, detail: None }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.reason())
    }
}

impl std::error::Error for Kind {}

impl Kind {
    pub fn status(self) -> StatusCode {
        match self {
            Kind::Refused(refusal) => refusal.status(),
            Kind::Ambiguous(fault) => fault.status(),
            Kind::Upload(UploadFault::Malformed | UploadFault::Disconnected) => StatusCode::BAD_REQUEST,
            Kind::Upload(UploadFault::TimedOut) => StatusCode::REQUEST_TIMEOUT,
            Kind::UpgradeWithBody | Kind::Rewrite(_) => StatusCode::BAD_REQUEST,
            Kind::UpgradeNotListed => StatusCode::NOT_IMPLEMENTED,
            Kind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::Loop => StatusCode::LOOP_DETECTED,
            Kind::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Kind::NoRoute => StatusCode::NOT_FOUND,
            Kind::NoEndpoint | Kind::Overload | Kind::Shed | Kind::Filter(Failure::NoInstance | Failure::Breaker) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Kind::Filter(_) | Kind::Cut | Kind::Upload(UploadFault::Filter) | Kind::Panic => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Kind::ConnectFailed
            | Kind::UpstreamTls
            | Kind::Reset
            | Kind::Worn
            | Kind::ResetBy(_)
            | Kind::Protocol
            | Kind::NoStatus
            | Kind::NotSwitched => StatusCode::BAD_GATEWAY,
            Kind::ConnectTimeout | Kind::UpstreamTimeout | Kind::RouteTimeout => StatusCode::GATEWAY_TIMEOUT,
            Kind::Service(fault) => fault.status(),
            Kind::FilterCode(status) => status,
        }
    }

    /// A word for the log and for metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Kind::Refused(refusal) => refusal.reason(),
            Kind::Ambiguous(fault) => fault.reason(),
            Kind::Upload(UploadFault::Malformed) => "body_malformed",
            Kind::Upload(UploadFault::TimedOut) => "body_timeout",
            Kind::Upload(UploadFault::Disconnected) => "client_closed",
            Kind::Upload(UploadFault::Filter) | Kind::Cut => "filter_cut",
            Kind::UpgradeWithBody => "upgrade_with_body",
            Kind::UpgradeNotListed => "upgrade_not_listed",
            Kind::BodyTooLarge => "body_too_large",
            Kind::Rewrite(_) => "rewrite",
            Kind::Loop => "loop",
            Kind::Misdirected => "misdirected",
            Kind::NoRoute => "no_route",
            Kind::NoEndpoint => "no_endpoint",
            Kind::Panic => "panic",
            Kind::Overload | Kind::Shed => "overload",
            Kind::Filter(failure) => failure.as_str(),
            Kind::FilterCode(_) => "filter_error",
            Kind::ConnectFailed => "connect_failed",
            Kind::ConnectTimeout => "connect_timeout",
            Kind::UpstreamTls => "upstream_tls",
            Kind::Reset | Kind::Worn | Kind::ResetBy(_) => "upstream_reset",
            Kind::Protocol => "upstream_protocol",
            Kind::NoStatus => "grpc_no_status",
            Kind::NotSwitched => "not_switched",
            Kind::UpstreamTimeout => "upstream_timeout",
            Kind::RouteTimeout => "route_timeout",
            Kind::Service(fault) => fault.as_str(),
        }
    }

    /// Whether the client's connection can carry no further request, because what follows on it is not understood.
    pub fn closes(self) -> bool {
        matches!(
            self,
            Kind::Refused(_) | Kind::Ambiguous(_) | Kind::UpgradeWithBody | Kind::Upload(_)
        )
    }

    /// Whether a log line at warning level is due; the rest is the daily noise of a public listener.
    pub fn is_ours(self) -> bool {
        !matches!(
            self,
            Kind::Refused(_)
                | Kind::Ambiguous(_)
                | Kind::Misdirected
                | Kind::UpgradeWithBody
                | Kind::UpgradeNotListed
                | Kind::Upload(_)
                | Kind::BodyTooLarge
                | Kind::Rewrite(_)
                | Kind::NoRoute
                | Kind::Shed
        )
    }

    /// Whether it counts against the endpoint.
    pub fn is_upstreams(self) -> bool {
        !matches!(
            self,
            Kind::Filter(_) | Kind::FilterCode(_) | Kind::Cut | Kind::Upload(_) | Kind::Worn
        )
    }
}

/// What the client is told.
pub fn reply(kind: Kind, request_id: &HeaderValue) -> Reply {
    let status = kind.status();
    let phrase = status.canonical_reason().unwrap_or("Error").to_ascii_lowercase();
    let mut text = format!("{} {phrase}\nrequest id: ", status.as_u16()).into_bytes();
    text.extend_from_slice(request_id.as_bytes());
    text.push(b'\n');
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    if kind == Kind::Shed {
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    Reply {
        status,
        headers,
        body: Bytes::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_learns_status_text_and_id_only() {
        let reply = reply(Kind::ConnectFailed, &HeaderValue::from_static("abc"));
        assert_eq!(reply.status, 502);
        assert_eq!(reply.body, "502 bad gateway\nrequest id: abc\n");
    }
}
