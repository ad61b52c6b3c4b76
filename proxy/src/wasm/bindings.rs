//! The shapes of `tamis:filter@0.1.0` that cross the border between guest and host.
//!
//! Data plane. Source: `filter-abi/wit/tamis.wit`. wasmtime checks them against a component's own types when it is
//! loaded, so a difference is a load error and never a surprise in a request.

use wasmtime::component::{ComponentType, Lift, Lower};

use crate::head;

pub const TYPES: &str = "tamis:filter/types@0.1.0";
pub const REQUEST: &str = "tamis:filter/request@0.1.0";
pub const RESPONSE: &str = "tamis:filter/response@0.1.0";
pub const EXCHANGE: &str = "tamis:filter/exchange@0.1.0";
pub const LOG: &str = "tamis:filter/log@0.1.0";
pub const METRICS: &str = "tamis:filter/metrics@0.1.0";
pub const CLOCK: &str = "tamis:filter/clock@0.1.0";

pub const CONFIGURE: &str = "tamis:filter/configure@0.1.0";
pub const REQUEST_HEAD: &str = "tamis:filter/request-head@0.1.0";
pub const RESPONSE_HEAD: &str = "tamis:filter/response-head@0.1.0";

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
pub struct Header {
    #[component(name = "name")]
    pub name: String,
    #[component(name = "value")]
    pub value: Vec<u8>,
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
pub enum Verdict {
    #[component(name = "proceed")]
    Proceed,
    #[component(name = "reply")]
    Reply(Reply),
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
