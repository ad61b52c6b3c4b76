//! The shapes of `tamis:filter@0.1.0` that cross the border between guest and host.
//!
//! Data plane. Source: `filter-abi/wit/tamis.wit`. wasmtime checks them against a component's own types when it is
//! loaded, so a difference is a load error and never a surprise in a request.

use http::HeaderMap;
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::head;

pub const TYPES: &str = "tamis:filter/types@0.1.0";
pub const REQUEST: &str = "tamis:filter/request@0.1.0";
pub const RESPONSE: &str = "tamis:filter/response@0.1.0";
pub const EXCHANGE: &str = "tamis:filter/exchange@0.1.0";
pub const PEER: &str = "tamis:filter/peer@0.1.0";
pub const LOG: &str = "tamis:filter/log@0.1.0";
pub const METRICS: &str = "tamis:filter/metrics@0.1.0";
pub const CLOCK: &str = "tamis:filter/clock@0.1.0";
pub const RANDOM: &str = "tamis:filter/random@0.1.0";
pub const KEY_VALUE: &str = "tamis:filter/key-value@0.1.0";
pub const OUTBOUND: &str = "tamis:filter/outbound@0.1.0";

pub const CONFIGURE: &str = "tamis:filter/configure@0.1.0";
pub const CONNECTION: &str = "tamis:filter/connection@0.1.0";
pub const REQUEST_HEAD: &str = "tamis:filter/request-head@0.1.0";
pub const HELD_BODY: &str = "tamis:filter/held-body@0.1.0";
pub const REQUEST_BODY: &str = "tamis:filter/request-body@0.1.0";
pub const RESPONSE_HEAD: &str = "tamis:filter/response-head@0.1.0";
pub const RESPONSE_BODY: &str = "tamis:filter/response-body@0.1.0";
pub const COMPLETION: &str = "tamis:filter/completion@0.1.0";
pub const TICK: &str = "tamis:filter/tick@0.1.0";

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
pub struct Header {
    #[component(name = "name")]
    pub name: String,
    #[component(name = "value")]
    pub value: Vec<u8>,
}

impl Header {
    pub fn all_of(headers: &HeaderMap) -> Vec<Self> {
        headers
            .iter()
            .map(|(name, value)| Self {
                name: name.as_str().to_owned(),
                value: value.as_bytes().to_vec(),
            })
            .collect()
    }
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct Reply {
    #[component(name = "status")]
    pub status: u16,
    #[component(name = "headers")]
    pub headers: Vec<Header>,
    #[component(name = "body")]
    pub body: Vec<u8>,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
pub enum RequestVerdict {
    #[component(name = "proceed")]
    Proceed,
    #[component(name = "reply")]
    Reply(Reply),
    #[component(name = "read-body")]
    ReadBody(ReadBody),
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct ReadBody {
    #[component(name = "max")]
    pub max: u64,
    #[component(name = "over")]
    pub over: OverMax,
}

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub enum OverMax {
    #[component(name = "refuse")]
    Refuse,
    #[component(name = "continue")]
    Continue,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
pub enum HeldVerdict {
    #[component(name = "proceed")]
    Proceed,
    #[component(name = "replace")]
    Replace(Vec<u8>),
    #[component(name = "reply")]
    Reply(Reply),
}

#[derive(ComponentType, Lift)]
#[component(variant)]
pub enum BodyVerdict {
    #[component(name = "keep")]
    Keep,
    #[component(name = "drop")]
    Drop,
    #[component(name = "replace")]
    Replace(Vec<u8>),
    #[component(name = "pieces")]
    Pieces(Vec<Vec<u8>>),
    #[component(name = "reply")]
    Reply(Reply),
}

#[derive(ComponentType, Lift)]
#[component(variant)]
pub enum EndVerdict {
    #[component(name = "keep")]
    Keep,
    #[component(name = "finish")]
    Finish(Ending),
    #[component(name = "reply")]
    Reply(Reply),
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct Ending {
    #[component(name = "data")]
    pub data: Vec<u8>,
    #[component(name = "trailers")]
    pub trailers: Option<Vec<Header>>,
}

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub enum Admission {
    #[component(name = "accept")]
    Accept,
    #[component(name = "refuse")]
    Refuse,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub struct Outcome {
    #[component(name = "status")]
    pub status: u16,
    #[component(name = "complete")]
    pub complete: bool,
    #[component(name = "reason")]
    pub reason: Option<String>,
    #[component(name = "request-bytes")]
    pub request_bytes: u64,
    #[component(name = "response-bytes")]
    pub response_bytes: u64,
    #[component(name = "duration-us")]
    pub duration_us: u64,
    #[component(name = "upstream-us")]
    pub upstream_us: Option<u64>,
    #[component(name = "cluster")]
    pub cluster: Option<String>,
    #[component(name = "endpoint")]
    pub endpoint: Option<String>,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
pub enum Verdict {
    #[component(name = "proceed")]
    Proceed,
    #[component(name = "reply")]
    Reply(Reply),
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct Label {
    #[component(name = "name")]
    pub name: String,
    #[component(name = "value")]
    pub value: String,
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum StoreError {
    #[component(name = "too-large")]
    TooLarge,
}

#[derive(ComponentType, Lower)]
#[component(variant)]
pub enum Claimed {
    #[component(name = "value")]
    Value(Vec<u8>),
    #[component(name = "yours")]
    Yours,
    #[component(name = "timed-out")]
    TimedOut,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct Call {
    #[component(name = "cluster")]
    pub cluster: String,
    #[component(name = "method")]
    pub method: String,
    #[component(name = "authority")]
    pub authority: Option<String>,
    #[component(name = "target")]
    pub target: String,
    #[component(name = "headers")]
    pub headers: Vec<Header>,
    #[component(name = "body")]
    pub body: Vec<u8>,
    #[component(name = "timeout-ms")]
    pub timeout_ms: Option<u32>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub struct Answer {
    #[component(name = "status")]
    pub status: u16,
    #[component(name = "headers")]
    pub headers: Vec<Header>,
    #[component(name = "body")]
    pub body: Vec<u8>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub struct AnswerHead {
    #[component(name = "id")]
    pub id: u32,
    #[component(name = "status")]
    pub status: u16,
    #[component(name = "headers")]
    pub headers: Vec<Header>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum CallError {
    #[component(name = "not-granted")]
    NotGranted,
    #[component(name = "invalid")]
    Invalid,
    #[component(name = "too-many")]
    TooMany,
    #[component(name = "too-large")]
    TooLarge,
    #[component(name = "timed-out")]
    TimedOut,
    #[component(name = "unreachable")]
    Unreachable,
    #[component(name = "broken")]
    Broken,
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum EditError {
    #[component(name = "invalid")]
    Invalid,
    #[component(name = "forbidden")]
    Forbidden,
    #[component(name = "too-large")]
    TooLarge,
    #[component(name = "too-late")]
    TooLate,
}

impl From<head::EditError> for EditError {
    fn from(error: head::EditError) -> Self {
        match error {
            head::EditError::Invalid => Self::Invalid,
            head::EditError::Forbidden => Self::Forbidden,
            head::EditError::TooLarge => Self::TooLarge,
            head::EditError::TooLate => Self::TooLate,
        }
    }
}

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "made by lifting only")]
pub enum LogLevel {
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}
