//! Why a component that serves gave no answer: the vocabulary between the engine and the exchange.
//!
//! Data plane. Knows no engine. What a guest says in an error code of `wasi:http` has become a status already, by the one
//! table in `wasm/http`.

use std::fmt;

use http::StatusCode;

use crate::filter::Failure;

/// What there was in place of a response, or of the rest of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An error code, and the status that it stands for.
    Code(StatusCode),
    /// Nothing: the guest came to its end without an answer, or without the end of one.
    Silent,
    /// What is not a response that may be relayed.
    Malformed,
    Trap,
    /// Over the limit of processor time.
    Cpu,
    /// Over the limit of memory.
    Memory,
    /// Ended from outside: it went on for too long with nobody waiting.
    Ended,
}

impl Fault {
    pub fn status(self) -> StatusCode {
        match self {
            Self::Code(status) => status,
            Self::Cpu => StatusCode::GATEWAY_TIMEOUT,
            Self::Silent | Self::Malformed | Self::Trap | Self::Memory | Self::Ended => StatusCode::BAD_GATEWAY,
        }
    }

    /// A word for the log and for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Code(_) => "service_error",
            Self::Silent => "service_silent",
            Self::Malformed => "service_malformed",
            Self::Trap => "service_trap",
            Self::Cpu => "service_cpu",
            Self::Memory => "service_memory",
            Self::Ended => "service_ended",
        }
    }

    /// What it is of a component that stands in a chain, and for the log.
    pub fn of_filter(self) -> (Failure, &'static str) {
        match self {
            Self::Trap => (Failure::Trap, "it trapped"),
            Self::Cpu => (Failure::Cpu, "over limits.cpu"),
            Self::Memory => (Failure::Memory, "over limits.memory"),
            Self::Ended => (Failure::Wall, "over limits.wall"),
            Self::Malformed => (Failure::BadReply, "what it made is not a message"),
            Self::Silent | Self::Code(_) => (
                Failure::Silent,
                "it came to its end without an answer, or without one of a body",
            ),
        }
    }

    /// Whether another try may mend it. What a guest says in so many words, it says again.
    pub fn is_reset(self) -> bool {
        !matches!(self, Self::Code(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(status) => write!(
                formatter,
                "the component answered with an error code, which is {status}"
            ),
            Self::Silent => formatter.write_str("the component came to its end without an answer"),
            Self::Malformed => formatter.write_str("what the component answered is not a response"),
            Self::Trap => formatter.write_str("the component trapped"),
            Self::Cpu => formatter.write_str("the component computed for longer than limits.cpu"),
            Self::Memory => formatter.write_str("the component wanted more than limits.memory"),
            Self::Ended => formatter.write_str("the component was ended"),
        }
    }
}

impl std::error::Error for Fault {}
