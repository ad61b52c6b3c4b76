//! A filter's tests, native: an exchange in memory, which refuses what the proxy refuses.
//!
//! ```
//! # use tamis_filter::{Exchange, Failure, Filter, Request, Verdict};
//! # struct Tenant;
//! # impl Filter for Tenant {
//! #     type Config = Option<serde_json::Value>;
//! #     fn configure(_: Self::Config) -> Result<Self, String> { Ok(Tenant) }
//! #     fn on_request_head(&mut self, request: &mut Request, _: &mut Exchange) -> Result<Verdict, Failure> {
//! #         request.set_header("x-filter", "1")?;
//! #         Ok(Verdict::Proceed)
//! #     }
//! # }
//! use tamis_filter::testing::{self, json};
//!
//! let mut tenant: Tenant = testing::configure(json!({ "allow": ["acme"] })).unwrap();
//! let mut exchange = testing::Exchange::get("/items?page=2").with_header("x-tenant", "acme");
//! assert_eq!(exchange.request_head(&mut tenant), Verdict::Proceed);
//! assert_eq!(exchange.request.header("x-filter"), Some("1"));
//! ```
//!
//! Not imitated: limits of the proxy's configuration (`limits.header_bytes`, log lines, metric names).

pub(crate) mod host;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::mem;

use crate::log::Level;
use crate::{Failure, Filter, Header, Verdict, configuration};

pub use serde_json::json;

/// Configures a filter as the proxy does; `Value::Null` stands for a filter without a `config`.
///
/// # Errors
///
/// What the proxy would show: the configuration does not fit `Config`, or the filter refuses it.
pub fn configure<F: Filter>(config: serde_json::Value) -> Result<F, String> {
    configuration::configure(&config.to_string())
}

/// One exchange in memory. What the filter changes can be read in the fields after each hook.
#[derive(Debug, Clone, Default)]
pub struct Exchange {
    /// The request's head.
    pub request: Request,
    /// The response's head, as the upstream sends it before [`response_head`](Exchange::response_head).
    pub response: Response,
    /// The client's address and port; empty for a Unix socket.
    pub client_address: String,
    /// The listener's name.
    pub listener: String,
    /// The chosen route's name.
    pub route: Option<String>,
    /// The exchange's id.
    pub request_id: String,
    /// The filter's lines in the log.
    pub log: Vec<(Level, String)>,
    /// The filter's counters.
    pub counters: BTreeMap<String, u64>,
    /// The filter's gauges.
    pub gauges: BTreeMap<String, f64>,
    /// What the filter's histograms observed, in order.
    pub histograms: BTreeMap<String, Vec<f64>>,
    /// The time: milliseconds since 1970. It stands still; a test moves it.
    pub now_ms: u64,
    /// The time that never goes back. It stands still; a test moves it.
    pub monotonic_ms: u64,
    attributes: BTreeMap<String, String>,
    hook: Hook,
}

/// Which hook is running, and so what can still be changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Hook {
    #[default]
    None,
    RequestHead,
    ResponseHead,
}

impl Exchange {
    /// An exchange for `METHOD target` over http to `test.example`, where the target is `/path` or `/path?query`.
    pub fn new(method: &str, target: &str) -> Self {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        Exchange {
            request: Request {
                method: method.to_owned(),
                scheme: "http".to_owned(),
                authority: "test.example".to_owned(),
                path: path.to_owned(),
                query,
                headers: Vec::new(),
            },
            response: Response {
                status: 200,
                headers: Vec::new(),
            },
            client_address: "192.0.2.7:50312".to_owned(),
            listener: "test".to_owned(),
            route: Some("test".to_owned()),
            request_id: "00000000-0000-7000-8000-000000000000".to_owned(),
            ..Exchange::default()
        }
    }

    /// An exchange for `GET target`.
    pub fn get(target: &str) -> Self {
        Exchange::new("GET", target)
    }

    /// Adds a header to the request, as the client sends it.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        append(&mut self.request.headers, name, value.as_ref());
        self
    }

    /// Sets the response's status, as the upstream sends it; without this it is 200.
    #[must_use]
    pub fn with_response_status(mut self, status: u16) -> Self {
        self.response.status = status;
        self
    }

    /// Adds a header to the response, as the upstream sends it.
    #[must_use]
    pub fn with_response_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        append(&mut self.response.headers, name, value.as_ref());
        self
    }

    /// Sets an attribute, as an earlier filter leaves it.
    #[must_use]
    pub fn with_attribute(mut self, name: &str, value: &str) -> Self {
        self.attributes.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Calls the filter's request-head hook.
    ///
    /// # Panics
    ///
    /// When the hook fails: in the proxy it would trap.
    pub fn request_head(&mut self, filter: &mut impl Filter) -> Verdict {
        self.run(Hook::RequestHead, || {
            filter.on_request_head(&mut crate::Request(()), &mut crate::Exchange(()))
        })
    }

    /// Calls the filter's response-head hook.
    ///
    /// # Panics
    ///
    /// When the hook fails: in the proxy it would trap.
    pub fn response_head(&mut self, filter: &mut impl Filter) -> Verdict {
        self.run(Hook::ResponseHead, || {
            filter.on_response_head(&crate::Request(()), &mut crate::Response(()), &mut crate::Exchange(()))
        })
    }

    /// What a filter has set.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    /// Makes this the thread's current exchange while the hook runs.
    fn run(&mut self, hook: Hook, call: impl FnOnce() -> Result<Verdict, Failure>) -> Verdict {
        let current = Current::enter(self, hook);
        let result = call();
        drop(current);
        result.unwrap_or_else(|failure| panic!("the hook failed: {failure}"))
    }
}

/// A request's head in memory.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `GET`, `POST`, ...
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Host and port.
    pub authority: String,
    /// Without the query.
    pub path: String,
    /// Without the question mark.
    pub query: Option<String>,
    /// The header fields, in order.
    pub headers: Vec<Header>,
}

impl Request {
    /// The first value of that name.
    ///
    /// # Panics
    ///
    /// When it is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        text(&self.headers, name)
    }
}

/// A response's head in memory.
#[derive(Debug, Clone, Default)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    /// The header fields, in order.
    pub headers: Vec<Header>,
}

impl Response {
    /// The first value of that name.
    ///
    /// # Panics
    ///
    /// When it is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        text(&self.headers, name)
    }
}

thread_local! {
    /// The exchange whose hook is running on this thread. An instance serves one at a time, so does a test's thread.
    static CURRENT: RefCell<Exchange> = RefCell::default();
}

/// Puts the current exchange back into the test's, also when the hook panics.
struct Current<'a>(&'a mut Exchange);

impl<'a> Current<'a> {
    fn enter(exchange: &'a mut Exchange, hook: Hook) -> Self {
        exchange.hook = hook;
        CURRENT.set(mem::take(exchange));
        Current(exchange)
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        *self.0 = CURRENT.take();
    }
}

fn append(headers: &mut Vec<Header>, name: &str, value: &[u8]) {
    headers.push(Header {
        name: name.to_ascii_lowercase(),
        value: value.to_vec().into(),
    });
}

fn text<'a>(headers: &'a [Header], name: &str) -> Option<&'a str> {
    let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    Some(
        header
            .value
            .to_str()
            .expect("a header that a test reads as text is UTF-8"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EditError, Request, Response};

    /// Runs closures as hooks.
    struct Hooks<Q, S>(Q, S);

    impl<Q, S> Filter for Hooks<Q, S>
    where
        Q: FnMut(&mut Request, &mut crate::Exchange) + 'static,
        S: FnMut(&Request, &mut Response, &mut crate::Exchange) + 'static,
    {
        type Config = ();

        fn configure((): ()) -> Result<Self, String> {
            Err("it is made of closures".to_owned())
        }

        fn on_request_head(
            &mut self,
            request: &mut Request,
            exchange: &mut crate::Exchange,
        ) -> Result<Verdict, Failure> {
            (self.0)(request, exchange);
            Ok(Verdict::Proceed)
        }

        fn on_response_head(
            &mut self,
            request: &Request,
            response: &mut Response,
            exchange: &mut crate::Exchange,
        ) -> Result<Verdict, Failure> {
            (self.1)(request, response, exchange);
            Ok(Verdict::Proceed)
        }
    }

    fn request_hook(exchange: &mut Exchange, hook: impl FnMut(&mut Request, &mut crate::Exchange) + 'static) {
        exchange.request_head(&mut Hooks(
            hook,
            |_: &Request, _: &mut Response, _: &mut crate::Exchange| {},
        ));
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
        let lines: Vec<_> = exchange
            .request
            .headers
            .iter()
            .map(|header| (&*header.name, &*header.value))
            .collect();
        assert_eq!(lines, [("x-b", &b"2"[..]), ("x-b", b"4"), ("x-a", b"5")]);
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
    fn a_response_hook_reads_the_request_and_edits_the_response() {
        let mut exchange = Exchange::get("/a")
            .with_response_status(404)
            .with_response_header("server", "x");
        let hook = |request: &Request, response: &mut Response, _: &mut crate::Exchange| {
            assert_eq!(request.path(), "/a");
            assert_eq!((response.status(), response.headers().len()), (404, 1));
            response.set_status(410).expect("it is allowed");
            response.remove_header("Server").expect("it is allowed");
            assert_eq!(response.set_status(101), Err(EditError::Invalid));
            assert_eq!(response.set_status(600), Err(EditError::Invalid));
            assert_eq!(response.set_header("content-length", "1"), Err(EditError::Forbidden));
            // Not possible in a filter, where nobody can make a `Request` of his own.
            assert_eq!(Request(()).set_path("/b"), Err(EditError::TooLate));
        };
        exchange.response_head(&mut Hooks(|_: &mut Request, _: &mut crate::Exchange| {}, hook));
        assert_eq!((exchange.response.status, exchange.response.headers.len()), (410, 0));
    }

    #[test]
    fn logs_metrics_and_the_clock_are_the_exchanges() {
        let mut exchange = Exchange::get("/");
        exchange.now_ms = 7;
        request_hook(&mut exchange, |_, _| {
            crate::metrics::counter_add("seen", 2);
            crate::metrics::counter_add("seen", 1);
            crate::log::warn!("at {}", crate::clock::now_ms());
        });
        assert_eq!(exchange.counters["seen"], 3);
        assert_eq!(exchange.log, [(Level::Warn, "at 7".to_owned())]);
    }

    #[test]
    #[should_panic(expected = "the hook failed: filter-abi/src/testing.rs:")]
    fn a_failure_says_where_it_happened() {
        struct Fails;
        impl Filter for Fails {
            type Config = ();
            fn configure((): ()) -> Result<Self, String> {
                Ok(Fails)
            }
            fn on_request_head(&mut self, request: &mut Request, _: &mut crate::Exchange) -> Result<Verdict, Failure> {
                request.set_header("connection", "close")?;
                Ok(Verdict::Proceed)
            }
        }
        Exchange::get("/").request_head(&mut Fails);
    }
}
