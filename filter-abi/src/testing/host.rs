//! The functions that the rest of the crate is written against, as the proxy implements them: on the exchange whose hook
//! is running on this thread, with the proxy's refusals.

use std::cell::RefCell;
use std::mem;

use super::exchange::Exchange;
use super::message::{self, fields};
use super::proxy::State;
use crate::header::{check_header, is_token};
use crate::hook::Hook;
use crate::log::Level;
use crate::{EditError, Header};

thread_local! {
    /// An instance serves one exchange at a time, so does a test's thread.
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

struct Current {
    /// None in `configure` and outside of hooks.
    hook: Option<Hook>,
    exchange: Exchange,
}

/// A hook's turn: its exchange is the current one. At the end, also when the hook panics, the exchange is back in its
/// place, and what was current before is current again.
pub(super) struct Turn<'a> {
    home: &'a mut Exchange,
    before: Option<Current>,
}

impl<'a> Turn<'a> {
    pub(super) fn begin(hook: Option<Hook>, home: &'a mut Exchange) -> Self {
        let exchange = mem::take(home);
        let before = CURRENT.replace(Some(Current { hook, exchange }));
        Turn { home, before }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let ended = CURRENT.replace(self.before.take());
        *self.home = ended.map(|current| current.exchange).unwrap_or_default();
        self.home.proxy.state_mut().end_hook();
    }
}

fn current<T>(work: impl FnOnce(Option<Hook>, &mut Exchange) -> T) -> T {
    CURRENT.with_borrow_mut(|current| {
        let current = current
            .as_mut()
            .expect("a filter calls the proxy in a hook; elsewhere a test uses `testing::Proxy::within`");
        work(current.hook, &mut current.exchange)
    })
}

fn proxy<T>(work: impl FnOnce(&mut State) -> T) -> T {
    current(|_, exchange| work(&mut exchange.proxy.state_mut()))
}

pub(crate) fn edited(result: Result<(), EditError>) -> Result<(), EditError> {
    result
}

pub(crate) fn headers(headers: Vec<Header>) -> Vec<Header> {
    headers
}

/// Lines from outside of a hook go nowhere: a test of a function that happens to write one needs no proxy.
pub(crate) fn write_log(level: Level, line: &str) {
    CURRENT.with_borrow(|current| {
        if let Some(Current { exchange, .. }) = current {
            exchange.proxy.state_mut().log.push((level, line.to_owned()));
        }
    });
}

pub(crate) mod request {
    use super::*;

    pub(crate) fn method() -> String {
        read(|request| request.method.clone())
    }

    pub(crate) fn scheme() -> String {
        read(|request| request.scheme.clone())
    }

    pub(crate) fn authority() -> String {
        read(|request| request.authority.clone())
    }

    pub(crate) fn path() -> String {
        read(|request| request.path.clone())
    }

    pub(crate) fn query() -> Option<String> {
        read(|request| request.query.clone())
    }

    pub(crate) fn header(name: &str) -> Option<Vec<u8>> {
        header_values(name).into_iter().next()
    }

    pub(crate) fn header_values(name: &str) -> Vec<Vec<u8>> {
        read(|request| fields::values(&request.headers, name))
    }

    pub(crate) fn headers() -> Vec<Header> {
        read(|request| request.headers.clone())
    }

    pub(crate) fn set_method(method: &str) -> Result<(), EditError> {
        valid(!method.is_empty() && method.bytes().all(is_token) && method != "CONNECT")?;
        change(|request| request.method = method.to_owned())
    }

    pub(crate) fn set_authority(authority: &str) -> Result<(), EditError> {
        valid(crate::testing::outbound::is_authority(authority))?;
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

    pub(crate) fn pass_body() {
        current(|hook, exchange| exchange.request.body_passed |= hook == Some(Hook::RequestHead));
    }

    fn read<T>(read: impl FnOnce(&message::Request) -> T) -> T {
        current(|_, exchange| read(&exchange.request))
    }

    fn change(edit: impl FnOnce(&mut message::Request)) -> Result<(), EditError> {
        current(|hook, exchange| match hook {
            Some(Hook::RequestHead | Hook::HeldBody) => {
                edit(&mut exchange.request);
                Ok(())
            }
            _ => Err(EditError::TooLate),
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

    pub(crate) fn pass_body() {
        current(|hook, exchange| exchange.response.body_passed |= hook == Some(Hook::ResponseHead));
    }

    fn read<T>(read: impl FnOnce(&message::Response) -> T) -> Option<T> {
        current(|hook, exchange| match hook {
            Some(Hook::ResponseHead | Hook::ResponseBody | Hook::Completion) => Some(read(&exchange.response)),
            _ => None,
        })
    }

    fn change(edit: impl FnOnce(&mut message::Response)) -> Result<(), EditError> {
        current(|hook, exchange| match hook {
            Some(Hook::ResponseHead) => {
                edit(&mut exchange.response);
                Ok(())
            }
            _ => Err(EditError::TooLate),
        })
    }
}

pub(crate) mod exchange {
    use super::*;

    /// The contract's bounds for attributes.
    const ATTRIBUTES: usize = 32;
    const ATTRIBUTE_BYTES: usize = 4096;

    pub(crate) fn client_address() -> String {
        current(|_, exchange| exchange.client_address.clone())
    }

    pub(crate) fn listener() -> String {
        current(|_, exchange| exchange.listener.clone())
    }

    pub(crate) fn route() -> Option<String> {
        current(|_, exchange| exchange.route.clone())
    }

    pub(crate) fn request_id() -> String {
        current(|_, exchange| exchange.request_id.clone())
    }

    pub(crate) fn attribute(name: &str) -> Option<String> {
        current(|_, exchange| exchange.attributes.get(name).cloned())
    }

    pub(crate) fn set_attribute(name: &str, value: &str) -> Result<(), EditError> {
        current(|_, exchange| {
            let full = exchange.attributes.len() >= ATTRIBUTES && !exchange.attributes.contains_key(name);
            if full || name.len() + value.len() > ATTRIBUTE_BYTES {
                return Err(EditError::TooLarge);
            }
            exchange.attributes.insert(name.to_owned(), value.to_owned());
            Ok(())
        })
    }

    pub(crate) fn cluster() -> Option<String> {
        current(|_, exchange| exchange.cluster.clone())
    }

    pub(crate) fn set_cluster(name: &str) -> Result<(), EditError> {
        current(|hook, exchange| {
            valid(exchange.clusters.iter().any(|cluster| cluster == name))?;
            match hook {
                Some(Hook::RequestHead | Hook::HeldBody) => {
                    exchange.cluster = Some(name.to_owned());
                    Ok(())
                }
                _ => Err(EditError::TooLate),
            }
        })
    }
}

pub(crate) mod peer {
    use super::*;

    pub(crate) fn local_address() -> String {
        current(|_, exchange| exchange.peer.local_address.clone())
    }

    pub(crate) fn server_name() -> Option<String> {
        current(|_, exchange| exchange.peer.server_name.clone())
    }

    pub(crate) fn alpn() -> Option<String> {
        current(|_, exchange| exchange.peer.alpn.clone())
    }

    pub(crate) fn certificate() -> Option<Vec<u8>> {
        current(|_, exchange| exchange.peer.certificate.clone())
    }
}

pub(crate) mod metrics {
    use super::proxy;

    /// The contract's record.
    #[derive(Debug)]
    pub(crate) struct Label {
        pub(crate) name: String,
        pub(crate) value: String,
    }

    pub(crate) fn counter_add(name: &str, labels: &[Label], by: u64) {
        proxy(|proxy| proxy.count(name, labels, by));
    }

    pub(crate) fn gauge_set(name: &str, labels: &[Label], value: f64) {
        proxy(|proxy| proxy.set_gauge(name, labels, value));
    }

    pub(crate) fn histogram_observe(name: &str, labels: &[Label], value: f64) {
        proxy(|proxy| proxy.observe(name, labels, value));
    }
}

pub(crate) mod clock {
    use super::proxy;

    pub(crate) fn now_ms() -> u64 {
        proxy(|proxy| proxy.now_ms)
    }

    pub(crate) fn monotonic_ms() -> u64 {
        proxy(|proxy| proxy.monotonic_ms)
    }
}

pub(crate) mod random {
    use super::proxy;

    pub(crate) fn bytes(length: u32) -> Vec<u8> {
        assert!(length <= 4096, "a longer wish traps");
        let length = length as usize;
        let words = proxy(|proxy| Vec::from_iter((0..length.div_ceil(8)).map(|_| proxy.random().to_le_bytes())));
        words.into_iter().flatten().take(length).collect()
    }
}

pub(crate) mod key_value {
    use super::super::table::Claimer;
    use super::{current, proxy};
    use crate::key_value::StoreError;
    use std::time::Duration;

    /// The contract's variant.
    pub(crate) enum Claimed {
        Value(Vec<u8>),
        Yours,
        TimedOut,
    }

    pub(crate) fn get(key: &str) -> Option<Vec<u8>> {
        proxy(|proxy| proxy.table.get(key, proxy.monotonic_ms))
    }

    pub(crate) fn set(key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), StoreError> {
        proxy(|proxy| proxy.table.set(key, value, ttl_ms, proxy.monotonic_ms))
    }

    pub(crate) fn delete(key: &str) -> bool {
        proxy(|proxy| proxy.table.delete(key, proxy.monotonic_ms))
    }

    pub(crate) fn compare_and_swap(
        key: &str,
        expected: Option<&[u8]>,
        value: &[u8],
        ttl_ms: Option<u64>,
    ) -> Result<bool, StoreError> {
        proxy(|proxy| {
            let now_ms = proxy.monotonic_ms;
            proxy.table.compare_and_swap(key, expected, value, ttl_ms, now_ms)
        })
    }

    pub(crate) fn add(key: &str, by: i64, ttl_ms: Option<u64>) -> Result<i64, StoreError> {
        proxy(|proxy| proxy.table.add(key, by, ttl_ms, proxy.monotonic_ms))
    }

    pub(crate) fn claim(key: &str, wait_ms: u32) -> Claimed {
        if let Some(value) = get(key) {
            return Claimed::Value(value);
        }
        if proxy(|proxy| proxy.table.claim(key, Claimer::Hook)) {
            return Claimed::Yours;
        }
        // Nobody else runs here who could come to an end, so the whole time passes.
        let proxy = current(|_, exchange| exchange.proxy.clone());
        proxy.advance(Duration::from_millis(wait_ms.into()));
        Claimed::TimedOut
    }

    pub(crate) fn release(key: &str) {
        proxy(|proxy| proxy.table.release(key));
    }
}

pub(crate) mod outbound {
    use super::super::outbound::Prepared;
    use super::{current, proxy};
    use crate::outbound::{Answer, AnswerHead, Call, CallError};

    pub(crate) fn send(call: Call) -> Result<Answer, CallError> {
        let Prepared { head, pieces } = answer(call)?;
        let head = head?;
        let pieces: Vec<Vec<u8>> = pieces.into_iter().collect::<Result<_, _>>()?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: pieces.concat(),
        })
    }

    pub(crate) fn open(call: Call) -> Result<AnswerHead, CallError> {
        let Prepared { head, pieces } = answer(call)?;
        let head = head?;
        Ok(proxy(|proxy| proxy.outbound.opened(head, pieces)))
    }

    pub(crate) fn read(id: u32) -> Result<Option<Vec<u8>>, CallError> {
        proxy(|proxy| proxy.outbound.read(id))
    }

    pub(crate) fn close(id: u32) {
        proxy(|proxy| proxy.outbound.open.remove(&id));
    }

    /// The current exchange is let go before the test's closure runs, which may run exchanges itself.
    fn answer(call: Call) -> Result<Prepared, CallError> {
        current(|_, exchange| exchange.proxy.clone()).call(call)
    }
}

fn valid(valid: bool) -> Result<(), EditError> {
    if valid { Ok(()) } else { Err(EditError::Invalid) }
}

#[cfg(test)]
mod tests;
