//! The functions that the rest of the crate is written against, as the proxy implements them. The linker drops the
//! imports that nobody calls.

use super::translate;
use crate::log::Level;
use crate::{EditError, Header};

mod imports {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package tamis:guest;
            world imports {
                import tamis:filter/types@0.1.0;
                import tamis:filter/request@0.1.0;
                import tamis:filter/response@0.1.0;
                import tamis:filter/exchange@0.1.0;
                import tamis:filter/peer@0.1.0;
                import tamis:filter/log@0.1.0;
                import tamis:filter/metrics@0.1.0;
                import tamis:filter/clock@0.1.0;
                import tamis:filter/random@0.1.0;
                import tamis:filter/key-value@0.1.0;
                import tamis:filter/outbound@0.1.0;
            }
        ",
        generate_all,
        generate_unused_types: true,
    });
}

pub use imports::tamis::filter::types;
pub(crate) use imports::tamis::filter::{clock, exchange, metrics, peer, random, request, response};

use imports::tamis::filter::log;

pub(crate) fn edited(result: Result<(), types::EditError>) -> Result<(), EditError> {
    result.map_err(|error| match error {
        types::EditError::Invalid => EditError::Invalid,
        types::EditError::Forbidden => EditError::Forbidden,
        types::EditError::TooLarge => EditError::TooLarge,
        types::EditError::TooLate => EditError::TooLate,
    })
}

pub(crate) fn headers(fields: Vec<types::Header>) -> Vec<Header> {
    translate::headers(fields)
}

pub(crate) fn write_log(level: Level, line: &str) {
    let level = match level {
        Level::Debug => log::Level::Debug,
        Level::Info => log::Level::Info,
        Level::Warn => log::Level::Warn,
        Level::Error => log::Level::Error,
    };
    log::write(level, line);
}

pub(crate) mod key_value {
    use super::imports::tamis::filter::key_value as table;
    use crate::key_value::StoreError;

    pub(crate) use table::{Claimed, claim, delete, get, release};

    pub(crate) fn set(key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), StoreError> {
        table::set(key, value, ttl_ms).map_err(refusal)
    }

    pub(crate) fn compare_and_swap(
        key: &str,
        expected: Option<&[u8]>,
        value: &[u8],
        ttl_ms: Option<u64>,
    ) -> Result<bool, StoreError> {
        table::compare_and_swap(key, expected, value, ttl_ms).map_err(refusal)
    }

    pub(crate) fn add(key: &str, by: i64, ttl_ms: Option<u64>) -> Result<i64, StoreError> {
        table::add(key, by, ttl_ms).map_err(refusal)
    }

    fn refusal(error: table::StoreError) -> StoreError {
        match error {
            table::StoreError::TooLarge => StoreError::TooLarge,
        }
    }
}

pub(crate) mod outbound {
    use super::imports::tamis::filter::outbound as calls;
    use super::translate::{fields, headers};
    use crate::outbound::{Answer, AnswerHead, Call, CallError};

    pub(crate) fn send(call: Call) -> Result<Answer, CallError> {
        let answer = calls::send(&plain(call)).map_err(failure)?;
        Ok(Answer {
            status: answer.status,
            headers: headers(answer.headers),
            body: answer.body,
        })
    }

    pub(crate) fn open(call: Call) -> Result<AnswerHead, CallError> {
        let head = calls::open(&plain(call)).map_err(failure)?;
        Ok(AnswerHead {
            id: head.id,
            status: head.status,
            headers: headers(head.headers),
        })
    }

    pub(crate) fn read(id: u32) -> Result<Option<Vec<u8>>, CallError> {
        calls::read(id).map_err(failure)
    }

    pub(crate) fn close(id: u32) {
        calls::close(id);
    }

    fn plain(call: Call) -> calls::Call {
        let timeout_ms = call.timeout.map(crate::key_value::milliseconds);
        calls::Call {
            cluster: call.cluster,
            method: call.method,
            authority: call.authority,
            target: call.target,
            headers: fields(call.headers),
            body: call.body,
            timeout_ms: timeout_ms.map(|timeout| u32::try_from(timeout).unwrap_or(u32::MAX)),
        }
    }

    fn failure(error: calls::CallError) -> CallError {
        match error {
            calls::CallError::NotGranted => CallError::NotGranted,
            calls::CallError::Invalid => CallError::Invalid,
            calls::CallError::TooMany => CallError::TooMany,
            calls::CallError::TooLarge => CallError::TooLarge,
            calls::CallError::TimedOut => CallError::TimedOut,
            calls::CallError::Unreachable => CallError::Unreachable,
            calls::CallError::Broken => CallError::Broken,
        }
    }
}
