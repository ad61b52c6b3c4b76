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
mod tests {
    use super::*;
    use crate::testing::Exchange;
    use crate::{
        Connection, Failure, Filter, HeldBody, HeldVerdict, Outcome, Request, RequestVerdict, Response, Verdict,
    };

    type OnRequest = fn(&mut Request, &mut crate::Exchange);
    type OnResponse = fn(&Request, &mut Response, &mut crate::Exchange);

    /// Functions as hooks.
    #[derive(Clone)]
    struct Hooks {
        request_head: OnRequest,
        held_body: OnRequest,
        response_head: OnResponse,
    }

    const NOTHING: Hooks = Hooks {
        request_head: |_, _| {},
        held_body: |_, _| {},
        response_head: |_, _, _| {},
    };

    impl Filter for Hooks {
        type Config = ();

        fn configure((): ()) -> Result<Self, String> {
            Ok(NOTHING)
        }

        fn on_request_head(
            &mut self,
            request: &mut Request,
            exchange: &mut crate::Exchange,
        ) -> Result<RequestVerdict, Failure> {
            (self.request_head)(request, exchange);
            Ok(RequestVerdict::Proceed)
        }

        fn on_held_body(
            &mut self,
            _: HeldBody,
            request: &mut Request,
            exchange: &mut crate::Exchange,
        ) -> Result<HeldVerdict, Failure> {
            (self.held_body)(request, exchange);
            Ok(HeldVerdict::Proceed)
        }

        fn on_response_head(
            &mut self,
            request: &Request,
            response: &mut Response,
            exchange: &mut crate::Exchange,
        ) -> Result<Verdict, Failure> {
            (self.response_head)(request, response, exchange);
            Ok(Verdict::Proceed)
        }
    }

    fn request_hook(exchange: &mut Exchange, request_head: OnRequest) {
        let hooks = Hooks {
            request_head,
            ..NOTHING
        };
        assert_eq!(exchange.request_head(&hooks), RequestVerdict::Proceed);
    }

    fn response_hook(exchange: &mut Exchange, response_head: OnResponse) {
        let hooks = Hooks {
            response_head,
            ..NOTHING
        };
        assert_eq!(exchange.response_head(&hooks), Verdict::Proceed);
    }

    #[test]
    fn headers_are_found_without_regard_to_case_and_edited_in_order() {
        let mut exchange = Exchange::get("/")
            .with_header("X-A", "1")
            .with_header("x-b", "2")
            .with_header("x-a", "3");
        request_hook(&mut exchange, |request, _| {
            assert_eq!(request.header("x-A").expect("it is there"), "1");
            assert_eq!(request.header_values("X-A").len(), 2);
            request.append_header("X-B", "4").expect("it is allowed");
            request.set_header("x-a", "5").expect("it is allowed");
            request.remove_header("x-none").expect("it is allowed");
        });
        let expected = [("x-b", "2"), ("x-b", "4"), ("x-a", "5")];
        assert_eq!(
            exchange.request.headers,
            expected.map(|(name, value)| Header::new(name, value))
        );
    }

    #[test]
    fn what_the_proxy_refuses_is_refused() {
        use EditError::{Forbidden, Invalid, TooLarge};
        let mut exchange = Exchange::get("/a?b=1");
        request_hook(&mut exchange, |request, exchange| {
            for (name, value, error) in [
                ("", "", Invalid),
                ("x y", "", Invalid),
                ("x\u{e9}", "", Invalid),
                ("x", "a\r\nb", Invalid),
                ("x", "a\0", Invalid),
                ("x", "a\u{7f}", Invalid),
                ("Content-Length", "1", Forbidden),
                ("transfer-encoding", "chunked", Forbidden),
                ("Connection", "x", Forbidden),
                ("te", "trailers", Forbidden),
                ("upgrade", "h2c", Forbidden),
                ("host", "evil.example", Forbidden),
            ] {
                assert_eq!(request.set_header(name, value), Err(error), "{name}: {value:?}");
                assert_eq!(request.append_header(name, value), Err(error), "{name}: {value:?}");
            }
            assert_eq!(request.remove_header("keep-alive"), Err(Forbidden));
            assert_eq!(request.set_header("x", "tab\tand \u{e9}"), Ok(()));
            for path in ["", "a", "/a?b", "/a#b", "/a b", "/\n"] {
                assert_eq!(request.set_path(path), Err(Invalid), "{path:?}");
            }
            assert_eq!(request.set_query(Some("a b")), Err(Invalid));
            assert_eq!(request.set_method("GET /"), Err(Invalid));
            assert_eq!(request.set_method("CONNECT"), Err(Invalid));
            assert_eq!(request.set_authority("a b"), Err(Invalid));
            assert_eq!(exchange.set_cluster("unknown"), Err(Invalid));
            assert_eq!(exchange.set_attribute("big", &"x".repeat(4094)), Err(TooLarge));
            for index in 0..32 {
                assert_eq!(exchange.set_attribute(&index.to_string(), ""), Ok(()));
            }
            assert_eq!(exchange.set_attribute("one more", ""), Err(TooLarge));
            assert_eq!(exchange.set_attribute("31", "again"), Ok(()));
        });
        assert_eq!(
            (exchange.request.path.as_str(), exchange.request.query.as_deref()),
            ("/a", Some("b=1"))
        );
        assert_eq!(exchange.attribute("31"), Some("again"));
    }

    #[test]
    fn a_held_body_leaves_the_head_and_the_cluster_open() {
        let mut exchange = Exchange::post("/", "canary").with_clusters(&["app", "canary"]);
        let hooks = Hooks {
            held_body: |request, exchange| {
                assert_eq!(exchange.cluster(), None);
                exchange.set_cluster("canary").expect("the route names it");
                request.set_path("/canary").expect("it is allowed");
            },
            ..NOTHING
        };
        assert_eq!(
            exchange.held_body(&hooks, HeldBody::whole("canary")),
            HeldVerdict::Proceed
        );
        assert_eq!(
            (exchange.cluster.as_deref(), &*exchange.request.path),
            (Some("canary"), "/canary")
        );
    }

    #[test]
    fn a_response_hook_reads_the_request_and_edits_the_response() {
        let mut exchange = Exchange::get("/a")
            .with_response_status(404)
            .with_response_header("server", "x");
        response_hook(&mut exchange, |request, response, exchange| {
            assert_eq!(request.path(), "/a");
            assert_eq!((response.status(), response.headers().len()), (404, 1));
            response.set_status(410).expect("it is allowed");
            response.remove_header("Server").expect("it is allowed");
            response.pass_body();
            assert_eq!(response.set_status(101), Err(EditError::Invalid));
            assert_eq!(response.set_status(600), Err(EditError::Invalid));
            assert_eq!(response.set_header("content-length", "1"), Err(EditError::Forbidden));
            assert_eq!(exchange.set_cluster("test"), Err(EditError::TooLate));
            // Not possible in a filter, where nobody can make a `Request` of his own.
            assert_eq!(Request(()).set_path("/b"), Err(EditError::TooLate));
        });
        assert_eq!((exchange.response.status, exchange.response.headers.len()), (410, 0));
        assert_eq!(
            (exchange.response.body_passed, exchange.request.body_passed),
            (true, false)
        );
    }

    #[test]
    fn what_has_passed_can_be_read_and_not_changed() {
        /// Tries to change the heads after they have gone on.
        #[derive(Clone)]
        struct Late;

        impl Filter for Late {
            type Config = ();

            fn configure((): ()) -> Result<Self, String> {
                Ok(Late)
            }

            fn on_connection(&mut self, connection: &mut Connection) -> Result<crate::Admission, Failure> {
                assert_eq!(crate::Exchange(()).request_id(), "");
                assert_eq!(crate::Exchange(()).route(), None);
                assert_eq!(connection.listener(), "test");
                assert_eq!(connection.peer().local_address(), "192.0.2.1:80");
                Ok(crate::Admission::Refuse)
            }

            fn on_response_body(
                &mut self,
                _: Vec<u8>,
                request: &Request,
                response: &Response,
                _: &mut crate::Exchange,
            ) -> Result<crate::BodyVerdict, Failure> {
                assert_eq!((request.method(), response.status()), ("GET".to_owned(), 200));
                assert_eq!(Response(()).set_status(404), Err(EditError::TooLate));
                Ok(crate::BodyVerdict::Keep)
            }

            fn on_completion(
                &mut self,
                outcome: Outcome,
                _: &Request,
                response: &Response,
                exchange: &mut crate::Exchange,
            ) -> Result<(), Failure> {
                assert_eq!((outcome.status, response.status()), (200, 200));
                exchange.set_attribute("seen", &outcome.response_bytes.to_string())?;
                Ok(())
            }
        }

        let mut exchange = Exchange::get("/").with_response_body("abc");
        assert_eq!(exchange.connection(&Late), crate::Admission::Refuse);
        exchange.run(&Late);
        assert_eq!(exchange.attribute("seen"), Some("3"));
        assert_eq!(exchange.route.as_deref(), Some("test"));
    }

    #[test]
    fn a_hook_writes_to_its_own_proxy() {
        let (one, other) = (crate::testing::Proxy::new(), crate::testing::Proxy::new());
        one.set_now_ms(7);
        request_hook(&mut one.get("/"), |_, _| {
            crate::metrics::counter_add("seen", 2);
            crate::metrics::counter_add("seen", 1);
            crate::log::warn!("at {}", crate::clock::now_ms());
        });
        assert_eq!(one.counter("seen"), 3);
        assert_eq!(one.log(), [(Level::Warn, "at 7".to_owned())]);
        assert_eq!((other.counter("seen"), other.log()), (0, vec![]));
    }

    #[test]
    #[should_panic(expected = "the hook failed: filter-abi/src/testing/host.rs:")]
    fn a_failure_says_where_it_happened() {
        #[derive(Clone)]
        struct Fails;
        impl Filter for Fails {
            type Config = ();
            fn configure((): ()) -> Result<Self, String> {
                Ok(Fails)
            }
            fn on_request_head(
                &mut self,
                request: &mut Request,
                _: &mut crate::Exchange,
            ) -> Result<RequestVerdict, Failure> {
                request.set_header("connection", "close")?;
                Ok(RequestVerdict::Proceed)
            }
        }
        Exchange::get("/").request_head(&Fails);
    }

    #[test]
    #[should_panic(expected = "elsewhere a test uses `testing::Proxy::within`")]
    fn outside_of_a_hook_there_is_no_proxy() {
        crate::clock::now_ms();
    }
}
