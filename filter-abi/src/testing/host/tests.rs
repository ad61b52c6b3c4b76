//! What a filter can read and change, and when.

use super::*;
use crate::testing::Exchange;
use crate::{Connection, Failure, Filter, HeldBody, HeldVerdict, Outcome, Request, RequestVerdict, Response, Verdict};

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
            ("Content_Length", "1", Forbidden),
            ("X_Forwarded-For", "192.0.2.1", Forbidden),
        ] {
            assert_eq!(request.set_header(name, value), Err(error), "{name}: {value:?}");
            assert_eq!(request.append_header(name, value), Err(error), "{name}: {value:?}");
        }
        assert_eq!(request.remove_header("keep-alive"), Err(Forbidden));
        assert_eq!(request.set_header("x-forwarded-for", "192.0.2.1"), Ok(()));
        assert_eq!(request.set_header("x", " tab\tand \u{e9}\t"), Ok(()));
        assert_eq!(request.header("x").expect("it is set"), "tab\tand \u{e9}");
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
#[should_panic(expected = "the hook failed: filter-abi/src/testing/host/tests.rs:")]
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
