//! The functions that the rest of the crate is written against, as the proxy implements them: on the thread's current
//! exchange, with the proxy's refusals.

use super::{CURRENT, Exchange, Hook};
use crate::header::{check_header, is_token};
use crate::log::Level;
use crate::{EditError, Header};

pub(crate) fn edited(result: Result<(), EditError>) -> Result<(), EditError> {
    result
}

pub(crate) fn headers(headers: Vec<Header>) -> Vec<Header> {
    headers
}

pub(crate) fn write_log(level: Level, line: &str) {
    current(|exchange| exchange.log.push((level, line.to_owned())));
}

fn current<T>(work: impl FnOnce(&mut Exchange) -> T) -> T {
    CURRENT.with_borrow_mut(work)
}

pub(crate) mod request {
    use super::*;

    pub(crate) fn method() -> String {
        current(|exchange| exchange.request.method.clone())
    }

    pub(crate) fn scheme() -> String {
        current(|exchange| exchange.request.scheme.clone())
    }

    pub(crate) fn authority() -> String {
        current(|exchange| exchange.request.authority.clone())
    }

    pub(crate) fn path() -> String {
        current(|exchange| exchange.request.path.clone())
    }

    pub(crate) fn query() -> Option<String> {
        current(|exchange| exchange.request.query.clone())
    }

    pub(crate) fn header(name: &str) -> Option<Vec<u8>> {
        header_values(name).into_iter().next()
    }

    pub(crate) fn header_values(name: &str) -> Vec<Vec<u8>> {
        current(|exchange| fields::values(&exchange.request.headers, name))
    }

    pub(crate) fn headers() -> Vec<Header> {
        current(|exchange| exchange.request.headers.clone())
    }

    pub(crate) fn set_method(method: &str) -> Result<(), EditError> {
        valid(!method.is_empty() && method.bytes().all(is_token) && method != "CONNECT")?;
        change(|request| request.method = method.to_owned())
    }

    pub(crate) fn set_authority(authority: &str) -> Result<(), EditError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(&byte);
        valid(!authority.is_empty() && authority.bytes().all(allowed))?;
        change(|request| request.authority = authority.to_owned())
    }

    pub(crate) fn set_path(path: &str) -> Result<(), EditError> {
        valid(
            path.starts_with('/')
                && path
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte)),
        )?;
        change(|request| request.path = path.to_owned())
    }

    pub(crate) fn set_query(query: Option<&str>) -> Result<(), EditError> {
        valid(query.is_none_or(|query| query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')))?;
        change(|request| request.query = query.map(str::to_owned))
    }

    pub(crate) fn set_header(name: &str, value: &[u8]) -> Result<(), EditError> {
        check_header(name, value)?;
        change(|request| fields::set(&mut request.headers, name, value))
    }

    pub(crate) fn append_header(name: &str, value: &[u8]) -> Result<(), EditError> {
        check_header(name, value)?;
        change(|request| fields::append(&mut request.headers, name, value))
    }

    pub(crate) fn remove_header(name: &str) -> Result<(), EditError> {
        check_header(name, "")?;
        change(|request| fields::remove(&mut request.headers, name))
    }

    fn change(edit: impl FnOnce(&mut crate::testing::Request)) -> Result<(), EditError> {
        current(|exchange| match exchange.hook {
            Hook::RequestHead => {
                edit(&mut exchange.request);
                Ok(())
            }
            Hook::None | Hook::ResponseHead => Err(EditError::TooLate),
        })
    }
}

pub(crate) mod response {
    use super::*;

    pub(crate) fn status() -> u16 {
        read(|response| response.status).unwrap_or(0)
    }

    pub(crate) fn header(name: &str) -> Option<Vec<u8>> {
        header_values(name).into_iter().next()
    }

    pub(crate) fn header_values(name: &str) -> Vec<Vec<u8>> {
        read(|response| fields::values(&response.headers, name)).unwrap_or_default()
    }

    pub(crate) fn headers() -> Vec<Header> {
        read(|response| response.headers.clone()).unwrap_or_default()
    }

    pub(crate) fn set_status(status: u16) -> Result<(), EditError> {
        valid((200..=599).contains(&status))?;
        change(|response| response.status = status)
    }

    pub(crate) fn set_header(name: &str, value: &[u8]) -> Result<(), EditError> {
        check_header(name, value)?;
        change(|response| fields::set(&mut response.headers, name, value))
    }

    pub(crate) fn append_header(name: &str, value: &[u8]) -> Result<(), EditError> {
        check_header(name, value)?;
        change(|response| fields::append(&mut response.headers, name, value))
    }

    pub(crate) fn remove_header(name: &str) -> Result<(), EditError> {
        check_header(name, "")?;
        change(|response| fields::remove(&mut response.headers, name))
    }

    fn read<T>(read: impl FnOnce(&crate::testing::Response) -> T) -> Option<T> {
        current(|exchange| (exchange.hook == Hook::ResponseHead).then(|| read(&exchange.response)))
    }

    fn change(edit: impl FnOnce(&mut crate::testing::Response)) -> Result<(), EditError> {
        current(|exchange| match exchange.hook {
            Hook::ResponseHead => {
                edit(&mut exchange.response);
                Ok(())
            }
            Hook::None | Hook::RequestHead => Err(EditError::TooLate),
        })
    }
}

pub(crate) mod exchange {
    use super::*;

    /// The contract's bounds for attributes.
    const ATTRIBUTES: usize = 32;
    const ATTRIBUTE_BYTES: usize = 4096;

    pub(crate) fn client_address() -> String {
        current(|exchange| exchange.client_address.clone())
    }

    pub(crate) fn listener() -> String {
        current(|exchange| exchange.listener.clone())
    }

    pub(crate) fn route() -> Option<String> {
        current(|exchange| exchange.route.clone())
    }

    pub(crate) fn request_id() -> String {
        current(|exchange| exchange.request_id.clone())
    }

    pub(crate) fn attribute(name: &str) -> Option<String> {
        current(|exchange| exchange.attributes.get(name).cloned())
    }

    pub(crate) fn set_attribute(name: &str, value: &str) -> Result<(), EditError> {
        current(|exchange| {
            let full = exchange.attributes.len() >= ATTRIBUTES && !exchange.attributes.contains_key(name);
            if full || name.len() + value.len() > ATTRIBUTE_BYTES {
                return Err(EditError::TooLarge);
            }
            exchange.attributes.insert(name.to_owned(), value.to_owned());
            Ok(())
        })
    }
}

pub(crate) mod metrics {
    use super::current;

    pub(crate) fn counter_add(name: &str, by: u64) {
        current(|exchange| *exchange.counters.entry(name.to_owned()).or_default() += by);
    }

    pub(crate) fn gauge_set(name: &str, value: f64) {
        current(|exchange| exchange.gauges.insert(name.to_owned(), value));
    }

    pub(crate) fn histogram_observe(name: &str, value: f64) {
        current(|exchange| exchange.histograms.entry(name.to_owned()).or_default().push(value));
    }
}

pub(crate) mod clock {
    use super::current;

    pub(crate) fn now_ms() -> u64 {
        current(|exchange| exchange.now_ms)
    }

    pub(crate) fn monotonic_ms() -> u64 {
        current(|exchange| exchange.monotonic_ms)
    }
}

fn valid(valid: bool) -> Result<(), EditError> {
    if valid { Ok(()) } else { Err(EditError::Invalid) }
}

/// A list of header fields.
mod fields {
    use crate::Header;

    pub(super) fn values(headers: &[Header], name: &str) -> Vec<Vec<u8>> {
        let named = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value.as_bytes().to_vec()).collect()
    }

    pub(super) fn set(headers: &mut Vec<Header>, name: &str, value: &[u8]) {
        remove(headers, name);
        append(headers, name, value);
    }

    pub(super) fn append(headers: &mut Vec<Header>, name: &str, value: &[u8]) {
        crate::testing::append(headers, name, value);
    }

    pub(super) fn remove(headers: &mut Vec<Header>, name: &str) {
        headers.retain(|header| !header.name.eq_ignore_ascii_case(name));
    }
}
