//! How an exchange ended, as its record in the access log will say.

use std::time::Duration;

/// How an exchange ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What the client was sent; 499 when it left before there was an answer.
    pub status: u16,
    /// Whether the response was handed over whole.
    pub complete: bool,
    /// Why not, or why the proxy answered itself; as in the access log.
    pub reason: Option<String>,
    /// The length of the request's body, as it was received.
    pub request_bytes: u64,
    /// The length of the response's body, as it was sent.
    pub response_bytes: u64,
    /// From the request's head to the end; of a precision of microseconds.
    pub duration: Duration,
    /// From the end of the request's head to the upstream's response; none when there was none.
    pub upstream_duration: Option<Duration>,
    /// The cluster that the request went to.
    pub cluster: Option<String>,
    /// The endpoint that the request went to.
    pub endpoint: Option<String>,
}
