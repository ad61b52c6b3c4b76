//! HTTP requests to clusters of the configuration; needs the grant `outbound: [CLUSTER, ...]`.
//!
//! A call waits for its answer like any function; the proxy serves others meanwhile.
//!
//! ```no_run
//! use std::time::Duration;
//! use tamis_filter::{Failure, outbound};
//!
//! fn is_known(token: &str) -> Result<bool, Failure> {
//!     let answer = outbound::post("auth", "/introspect")
//!         .header("content-type", "application/x-www-form-urlencoded")
//!         .body(format!("token={token}"))
//!         .timeout(Duration::from_millis(500))
//!         .send()?;
//!     Ok(answer.status == 200)
//! }
//!
//! fn lines_of_list() -> Result<usize, Failure> {
//!     let mut lines = 0;
//!     for piece in outbound::get("lists", "/blocked").open()? {
//!         lines += piece?.iter().filter(|byte| **byte == b'\n').count();
//!     }
//!     Ok(lines)
//! }
//! ```

use std::error::Error;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::host::outbound;
use crate::{Header, HeaderValue, header};

/// A `GET` of a target, `/path` or `/path?query`, from a cluster.
pub fn get(cluster: &str, target: &str) -> Call {
    Call::new("GET", cluster, target)
}

/// A `POST` to a target of a cluster.
pub fn post(cluster: &str, target: &str) -> Call {
    Call::new("POST", cluster, target)
}

/// A request that is yet to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a call does nothing until it is sent"]
pub struct Call {
    /// The cluster's name.
    pub cluster: String,
    /// `GET`, `POST`, ...
    pub method: String,
    /// The `host` field; by default the cluster's name.
    pub authority: Option<String>,
    /// Path and query.
    pub target: String,
    /// The header fields, in order.
    pub headers: Vec<Header>,
    /// The body.
    pub body: Vec<u8>,
    /// For the whole call; by default, and at most, what is left of the hook's `limits.wall`.
    pub timeout: Option<Duration>,
}

impl Call {
    /// A call without header fields or body.
    pub fn new(method: &str, cluster: &str, target: &str) -> Self {
        Call {
            cluster: cluster.to_owned(),
            method: method.to_owned(),
            authority: None,
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: None,
        }
    }

    /// Adds a header field, also when there is one of that name.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push(Header::new(name, value));
        self
    }

    /// Sets the `host` field.
    pub fn authority(mut self, authority: &str) -> Self {
        self.authority = Some(authority.to_owned());
        self
    }

    /// Sets the body, without a content-type.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body to a value as JSON, and the content-type.
    ///
    /// # Panics
    ///
    /// If the value's own `Serialize` fails, or it is a map whose keys are not strings.
    pub fn json(self, value: &impl Serialize) -> Self {
        let body = serde_json::to_vec(value).expect("a call's value can be written as JSON");
        self.header("content-type", "application/json").body(body)
    }

    /// Bounds the whole call.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends it, and waits for the whole answer.
    ///
    /// # Errors
    ///
    /// Any [`CallError`]. An answer of whatever status is no error.
    pub fn send(self) -> Result<Answer, CallError> {
        outbound::send(self)
    }

    /// Sends it, and waits for the answer's head.
    ///
    /// # Errors
    ///
    /// Any [`CallError`]. An answer of whatever status is no error.
    pub fn open(self) -> Result<Reader, CallError> {
        let head = outbound::open(self)?;
        Ok(Reader {
            status: head.status,
            headers: head.headers,
            id: Some(head.id),
        })
    }
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header fields, in order.
    pub headers: Vec<Header>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first value of that name.
    pub fn header(&self, name: &str) -> Option<&HeaderValue> {
        header::first(&self.headers, name)
    }
}

/// An answer's head, and what its body is asked for with.
pub(crate) struct AnswerHead {
    pub(crate) id: u32,
    pub(crate) status: u16,
    pub(crate) headers: Vec<Header>,
}

/// An answer whose body is still coming: an iterator over its pieces. Dropping it closes the call, and so does the end of
/// the hook.
#[derive(Debug)]
pub struct Reader {
    /// The status.
    pub status: u16,
    /// The header fields, in order.
    pub headers: Vec<Header>,
    /// None when the body has ended.
    id: Option<u32>,
}

impl Reader {
    /// The first value of that name.
    pub fn header(&self, name: &str) -> Option<&HeaderValue> {
        header::first(&self.headers, name)
    }

    /// Waits for the next piece of the body; none at its end.
    ///
    /// # Errors
    ///
    /// Any [`CallError`]; the body has ended then.
    pub fn read(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        let Some(id) = self.id else { return Ok(None) };
        let piece = outbound::read(id);
        if !matches!(piece, Ok(Some(_))) {
            self.close();
        }
        piece
    }

    fn close(&mut self) {
        if let Some(id) = self.id.take() {
            outbound::close(id);
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Vec<u8>, CallError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.close();
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallError {
    /// Not a cluster that was granted.
    NotGranted,
    /// A method, target or field that cannot be sent.
    Invalid,
    /// Over `limits.outbound_calls` in this exchange, or `limits.outbound_concurrent` in all; or this proxy stands in the
    /// way of its own call too often.
    TooMany,
    /// The answer is longer than `limits.body_bytes`.
    TooLarge,
    /// Not within the call's timeout, or what was left of the hook's `limits.wall`.
    TimedOut,
    /// No endpoint took the call; nothing of it was processed.
    Unreachable,
    /// The connection broke off, or what came is no HTTP.
    Broken,
}

impl fmt::Display for CallError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            CallError::NotGranted => "outbound call: the cluster is not granted",
            CallError::Invalid => "outbound call: a method, target or field that cannot be sent",
            CallError::TooMany => "outbound call: too many",
            CallError::TooLarge => "outbound call: the answer is over limits.body_bytes",
            CallError::TimedOut => "outbound call: timed out",
            CallError::Unreachable => "outbound call: no endpoint took it",
            CallError::Broken => "outbound call: the answer broke off, or is no HTTP",
        })
    }
}

impl Error for CallError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reply;
    use crate::testing::Proxy;

    #[test]
    fn a_call_goes_out_as_it_was_built() {
        let proxy = Proxy::new();
        let handle = proxy.clone();
        proxy.on_call("auth", move |call| {
            handle.advance(Duration::from_secs(1));
            Ok(Reply::new(200).text(format!("{} {}", call.method, call.target)))
        });
        let before_ms = proxy.now_ms();
        let call = post("auth", "/a?b=1")
            .authority("auth.example")
            .header("x-a", "1")
            .json(&[1, 2])
            .timeout(Duration::from_millis(5));
        let answer = proxy.within(|| call.clone().send()).expect("it is answered");
        assert_eq!((answer.status, answer.body), (200, b"POST /a?b=1".to_vec()));
        assert_eq!(proxy.now_ms() - before_ms, 1000);
        assert_eq!(proxy.calls(), [call]);
        let [call] = &proxy.calls()[..] else { panic!("one call") };
        let expected = [Header::new("x-a", "1"), Header::new("content-type", "application/json")];
        assert_eq!((&call.headers[..], &call.body[..]), (&expected[..], &b"[1,2]"[..]));
    }

    #[test]
    fn what_cannot_be_sent_is_not_sent() {
        let proxy = Proxy::new();
        proxy.on_call("auth", |_| Ok(Reply::new(200)));
        let cases = [
            (get("other", "/"), CallError::NotGranted),
            (get("auth", ""), CallError::Invalid),
            (get("auth", "x"), CallError::Invalid),
            (get("auth", "/a b"), CallError::Invalid),
            (get("auth", "/a#b"), CallError::Invalid),
            (Call::new("CONNECT", "auth", "/"), CallError::Invalid),
            (Call::new("", "auth", "/"), CallError::Invalid),
            (get("auth", "/").header("te", "x"), CallError::Invalid),
            (get("auth", "/").header("x", "a\r\nb"), CallError::Invalid),
            (get("auth", "/").authority("a b"), CallError::Invalid),
        ];
        for (call, error) in cases {
            assert_eq!(proxy.within(|| call.clone().send()), Err(error), "{call:?}");
        }
        assert!(proxy.calls().is_empty());
    }

    #[test]
    fn an_answer_can_be_read_in_pieces() {
        let proxy = Proxy::new();
        let pieces = || ["ab", "c"].map(|piece| Ok(piece.into()));
        let broken = pieces().into_iter().chain([Err(CallError::Broken)]);
        proxy.answer_in_pieces("lists", Reply::new(200).header("x-a", "1"), pieces());
        proxy.answer_in_pieces("lists", Reply::new(200), broken);
        proxy.fail("lists", CallError::Unreachable);
        proxy.within(|| {
            let mut reader = get("lists", "/").open().expect("it is answered");
            assert_eq!(
                (reader.status, reader.header("X-A").map(|value| value == "1")),
                (200, Some(true))
            );
            assert_eq!(reader.read(), Ok(Some(b"ab".to_vec())));
            assert_eq!(reader.read(), Ok(Some(b"c".to_vec())));
            assert_eq!((reader.read(), reader.read()), (Ok(None), Ok(None)));

            let reader = get("lists", "/").open().expect("it is answered");
            let read: Vec<_> = reader.collect();
            assert_eq!(read, [Ok(b"ab".to_vec()), Ok(b"c".to_vec()), Err(CallError::Broken)]);

            assert_eq!(get("lists", "/").open().err(), Some(CallError::Unreachable));
        });
    }

    #[test]
    fn a_reader_closes_at_its_end_and_when_it_is_dropped() {
        let proxy = Proxy::new();
        proxy.answer_in_pieces("lists", Reply::new(200), [Ok(b"a".to_vec())]);
        proxy.answer_in_pieces("lists", Reply::new(200), [Ok(b"a".to_vec())]);
        proxy.within(|| {
            let mut read = get("lists", "/").open().expect("it is answered");
            let dropped = get("lists", "/").open().expect("it is answered");
            assert_eq!(proxy.open_calls(), 2);
            drop(dropped);
            assert_eq!(proxy.open_calls(), 1);
            assert_eq!((&mut read).count(), 1);
            assert_eq!(proxy.open_calls(), 0);
        });
    }
}
