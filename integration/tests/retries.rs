//! What is sent once more, what is not, and how often: exact bytes at the origins. Rows 52, 106 and 112 of the faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tamis_integration::upstream::{BlackHole, Refusing, Step, ok};
use tamis_integration::{Gate, Message, Proxy, Upstream};

use crate::support::{Configuration, apply, assert_own_reply, folder_with, relayed};

const LOG: &str = "access_log: { file: access.log }";
/// As short as waits get, so that tests are.
const QUICK: &str = "backoff: { base: 1ms }";

fn status(status: u16, more: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Whatever\r\n{more}Content-Length: 0\r\n\r\n").into_bytes()
}

/// Answers the first `failing` requests with this, and then with `ok`.
fn failing(failing: usize, response: Vec<u8>) -> Upstream {
    let count = AtomicUsize::new(0);
    Upstream::answering(move |_| match count.fetch_add(1, Ordering::SeqCst) < failing {
        true => response.clone(),
        false => ok("ok"),
    })
}

fn retrying(upstream: &Upstream, retry: &str) -> Proxy {
    let retry = format!("retry: {{ {retry} }}");
    let configuration = Configuration {
        top: LOG,
        route: &retry,
        ..Configuration::default()
    };
    Proxy::start(&configuration.to(upstream))
}

fn with(entries: &str) -> String {
    format!("{QUICK}, {entries}")
}

fn retries(proxy: &Proxy, reason: &str, outcome: &str) -> f64 {
    let labels = [("cluster", "app"), ("reason", reason), ("outcome", outcome)];
    proxy.metrics().sum("tamis_upstream_retries_total", &labels)
}

/// `attempts` of the access log's lines.
fn attempts(proxy: &Proxy, count: usize) -> Vec<u64> {
    let lines = proxy.folder().wait_lines("access.log", count);
    let attempts = |line: &String| serde_json::from_str::<Value>(line).expect("JSON")["attempts"].as_u64();
    lines.iter().map(|line| attempts(line).expect("a number")).collect()
}

/// The bytes of each request of one connection, which all are as long as the first.
fn equal_requests(upstream: &Upstream, connection: usize, count: usize) {
    let received = upstream.received(connection);
    let length = received.len() / count;
    let mut requests = received.chunks(length);
    let first = requests.next().expect("a request");
    assert!(
        first.starts_with(b"GET ") || first.starts_with(b"P"),
        "{}",
        first.escape_ascii()
    );
    for request in requests {
        assert_eq!(request.escape_ascii().to_string(), first.escape_ascii().to_string());
    }
}

#[test]
fn a_gateway_error_goes_to_another_endpoint() {
    let (bad, good) = (Upstream::repeating(status(503, "")), Upstream::saying("good"));
    let retry = format!("retry: {{ {QUICK} }}");
    let configuration = Configuration {
        top: LOG,
        cluster: "retry_budget: { share: 100% }",
        route: &retry,
        ..Configuration::default()
    };
    let proxy = Proxy::start(&configuration.with(&[bad.address(), good.address()]));
    let mut client = proxy.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "good");
    }
    assert_eq!((bad.requests().len(), good.requests().len()), (5, 10));
    assert_eq!(retries(&proxy, "status", "retried"), 5.0);
    let mut counts = attempts(&proxy, 10);
    counts.sort_unstable();
    assert_eq!(counts, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
    // Each try is counted where it was.
    let address = bad.address().to_string();
    let failed = [("cluster", "app"), ("endpoint", &*address), ("code", "503")];
    assert_eq!(proxy.metrics().sum("tamis_upstream_requests_total", &failed), 5.0);
}

/// One connection to the origin serves all tries, because what it said first was short.
#[test]
fn each_try_has_the_same_bytes() {
    let long = "x".repeat(40_000);
    let bodies = [
        ("GET", "", String::new()),
        ("PUT", "Content-Length: 0\r\n", String::new()),
        ("PUT", "Content-Length: 5\r\n", "hello".to_owned()),
        ("PUT", "Content-Length: 40000\r\n", long.clone()),
        (
            "PUT",
            "Transfer-Encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n".to_owned(),
        ),
        (
            "PUT",
            "Trailer: x-sum\r\nTransfer-Encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n".to_owned(),
        ),
    ];
    for (method, fields, body) in bodies {
        let upstream = failing(2, status(503, ""));
        let proxy = retrying(&upstream, QUICK);
        let response = proxy.client().exchange(format!(
            "{method} /a?b HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n{body}"
        ));
        assert_eq!(
            relayed(&response),
            "HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
            "{fields}"
        );
        assert_eq!((upstream.connections(), upstream.requests().len()), (1, 3), "{fields}");
        equal_requests(&upstream, 0, 3);
        assert_eq!(attempts(&proxy, 1), [3]);
    }
}

#[test]
fn what_must_not_be_repeated_is_not() {
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello";
    let long = format!(
        "PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 9\r\n\r\n{}",
        "x".repeat(9)
    );
    let get = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let cases = [
        ("a method that is not idempotent", "", post, status(503, ""), "method"),
        (
            "a body that is too long",
            "max_body: 8B",
            &*long,
            status(503, ""),
            "body",
        ),
        (
            "a server that asks for a pause",
            "",
            get,
            status(503, "Retry-After: 60\r\n"),
            "retry_after",
        ),
        ("another status", "", get, status(500, ""), ""),
        (
            "a status that is not named",
            "on: [connect_failure, reset, 502]",
            get,
            status(503, ""),
            "",
        ),
        ("no time", "backoff: { base: 24h }", get, status(503, ""), "deadline"),
    ];
    for (name, retry, request, response, outcome) in cases {
        let upstream = failing(1, response.clone());
        let retry = if retry.starts_with("backoff") {
            retry.to_owned()
        } else {
            with(retry)
        };
        let proxy = retrying(&upstream, &retry);
        let answer = proxy.client().exchange(request);
        let written = String::from_utf8_lossy(&response);
        assert!(
            written.starts_with(&format!("HTTP/1.1 {} ", answer.status())),
            "{name}: {}",
            answer.start
        );
        assert_eq!(
            answer.value("retry-after").is_some(),
            written.contains("Retry-After"),
            "{name}"
        );
        assert_eq!(upstream.requests().len(), 1, "{name}");
        let counted = if outcome.is_empty() { 0.0 } else { 1.0 };
        assert_eq!(retries(&proxy, "status", outcome), counted, "{name}");
        assert_eq!(attempts(&proxy, 1), [1], "{name}");
    }
}

#[test]
fn what_may_be_repeated_is_a_setting() {
    let upstream = failing(1, status(429, ""));
    let proxy = retrying(&upstream, &with("on: [429, 5xx], methods: [POST]"));
    let mut client = proxy.client();
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(client.exchange(post).text(), "ok");
    assert_eq!(upstream.requests().len(), 2);
    equal_requests(&upstream, 0, 2);
}

/// Row 106: the connection breaks at each place.
#[test]
fn a_broken_connection_is_tried_again_until_there_is_a_response() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n";
    let broken = [
        ("reset before a byte is read", vec![Step::Reset]),
        ("reset after the head", vec![Step::Head, Step::Reset]),
        ("reset after the request", vec![Step::Message, Step::Reset]),
        ("closed after the request", vec![Step::Message, Step::Close]),
        (
            "half a status line",
            vec![Step::Message, Step::send("HTTP/1.1 20"), Step::Close],
        ),
        ("half a head", vec![Step::Message, Step::send(half), Step::Reset]),
        (
            "not a response",
            vec![Step::Message, Step::send("SSH-2.0-x\r\n\r\n"), Step::Close],
        ),
    ];
    for (name, steps) in broken {
        let upstream = Upstream::each([steps, vec![Step::serve(ok("second"))]]);
        let proxy = retrying(&upstream, QUICK);
        let put = "PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(proxy.client().exchange(put).text(), "second", "{name}");
        let request = upstream.requests().pop().expect("the second one");
        assert_eq!(request.text(), "hello", "{name}");
        assert_eq!((upstream.connections(), attempts(&proxy, 1)), (2, vec![2]), "{name}");
    }
}

/// Something of it has gone to the client, which is shown that it breaks, and nothing more.
#[test]
fn a_response_that_breaks_off_is_not_tried_again() {
    let gate = Gate::new();
    let upstream = Upstream::each([
        vec![
            Step::Message,
            Step::send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
            Step::Pass(gate.clone()),
            Step::Close,
        ],
        vec![Step::serve(ok("second"))],
    ]);
    let proxy = retrying(&upstream, QUICK);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.read_head().status(), 200);
    assert_eq!(client.read(5), b"hello");
    gate.open();
    client.assert_closed("it broke off");
    assert_eq!((upstream.connections(), attempts(&proxy, 1)), (1, vec![1]));
}

#[test]
fn without_settings_a_broken_connection_is_not_tried_again() {
    let upstream = Upstream::each([vec![Step::Message, Step::Close], vec![Step::serve(ok("second"))]]);
    let proxy = Proxy::start(&Configuration::default().to(&upstream));
    assert_own_reply(&proxy.get("/"), 502, "no retry");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn any_method_goes_elsewhere_when_nothing_was_sent() {
    let (refusing, hole, good) = (Refusing::new(), BlackHole::new(), Upstream::saying("good"));
    let retry = format!("retry: {{ {} }}", with("max_body: 1B, per_try_timeout: 200ms"));
    let configuration = Configuration {
        top: LOG,
        route: &retry,
        ..Configuration::default()
    };
    let proxy = Proxy::start(&configuration.with(&[refusing.address(), hole.address(), good.address()]));
    let body = "x".repeat(100_000);
    let request = format!("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100000\r\n\r\n{body}");
    assert_eq!(proxy.client().exchange(request).text(), "good");
    assert_eq!(good.take_request("the one").body.len(), 100_000);
    assert_eq!(attempts(&proxy, 1), [3]);
    assert_eq!(retries(&proxy, "connect_failure", "retried"), 2.0);
}

#[test]
fn a_silent_server_is_given_up_and_the_timeout_of_the_route_spans_all_tries() {
    let silent = || Upstream::each([vec![Step::Hold]]);
    let (first, good) = (silent(), Upstream::saying("good"));
    let retry = format!("timeout: 10s, retry: {{ {} }}", with("per_try_timeout: 100ms"));
    let configuration = Configuration {
        route: &retry,
        ..Configuration::default()
    };
    let proxy = Proxy::start(&configuration.with(&[first.address(), good.address()]));
    for _ in 0..4 {
        assert_eq!(proxy.get("/").text(), "good");
    }
    assert_eq!((first.connections(), retries(&proxy, "timeout", "retried")), (2, 2.0));

    let upstream = silent();
    let retry = format!(
        "timeout: 2900ms, retry: {{ {} }}",
        with("per_try_timeout: 1s, attempts: 10")
    );
    let configuration = Configuration {
        top: LOG,
        route: &retry,
        ..Configuration::default()
    };
    let proxy = Proxy::start(&configuration.to(&upstream));
    let began = Instant::now();
    assert_own_reply(&proxy.get("/"), 504, "the route's timeout");
    assert!(began.elapsed() >= Duration::from_millis(2900), "{:?}", began.elapsed());
    assert_eq!(attempts(&proxy, 1), [3]);
}

/// Who waits for a connection within the cluster's own limits has learned nothing about the endpoint.
#[test]
fn the_want_of_a_connection_speaks_against_no_endpoint() {
    let gate = Gate::new();
    let upstream = Upstream::each([vec![
        Step::Message,
        Step::Pass(gate.clone()),
        Step::send(ok("first")),
        Step::Hold,
    ]]);
    let patient = format!("retry: {{ {} }}", with("per_try_timeout: 200ms"));
    let configuration = Configuration {
        top: LOG,
        cluster: "limits: { max_connections: 1 }",
        routes: "  - { match: { path: { exact: /first } }, cluster: app }",
        route: &patient,
        ..Configuration::default()
    };
    let proxy = Proxy::start(&configuration.to(&upstream));
    let mut first = proxy.client();
    first.send("GET /first HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    assert_own_reply(&proxy.get("/"), 503, "there is no connection for it");
    gate.open();
    assert_eq!(first.response().text(), "first");
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("tamis_upstream_failures_total", &[]), 0.0);
    assert_eq!(metrics.sum("tamis_upstream_retries_total", &[]), 0.0);
}

/// The client still sends while the first try is answered already.
#[test]
fn a_body_that_is_under_way_goes_on_to_the_next_endpoint() {
    let first = Upstream::each([vec![
        Step::Head,
        Step::Bytes(6),
        Step::send(status(503, "")),
        Step::Hold,
    ]]);
    let second = Upstream::each([vec![Step::Head, Step::Bytes(6), Step::Hold]]);
    let retry = format!("retry: {{ {QUICK} }}");
    let configuration = Configuration {
        route: &retry,
        ..Configuration::default()
    };
    let proxy = Proxy::start(&configuration.with(&[first.address(), second.address()]));
    let mut client = proxy.client();
    client.send("PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 11\r\n\r\nhello ");
    second.wait_connections(1);
    // A request that will not be sent whole is cut.
    first.wait_ended(0);
    client.send("world");
    let all = |upstream: &Upstream| String::from_utf8_lossy(&upstream.received(0)).into_owned();
    crate::support::wait_until("all of it is there", || all(&second).ends_with("\r\n\r\nhello world"));
    assert!(all(&first).ends_with("\r\n\r\nhello "), "{}", all(&first));
}

#[test]
fn a_long_response_that_nobody_wants_is_cut_and_a_short_one_read() {
    let long = format!(
        "HTTP/1.1 503 No\r\nContent-Length: 1000000\r\n\r\n{}",
        "x".repeat(1_000_000)
    );
    let endless = format!(
        "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        "5\r\nxxxxx\r\n".repeat(20_000)
    );
    let late = vec![
        Step::Message,
        Step::send("HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Step::send("5\r\nxxxxx\r\n0\r\n\r\n"),
        Step::serve(ok("ok")),
    ];
    let cases = [
        ("long", vec![Step::Message, Step::send(long), Step::Hold], 2),
        ("without end", vec![Step::Message, Step::send(endless), Step::Hold], 2),
        (
            "short",
            vec![Step::Message, Step::send(status(503, "")), Step::serve(ok("ok"))],
            1,
        ),
    ];
    for (name, steps, connections) in cases {
        let upstream = Upstream::each([steps, vec![Step::serve(ok("ok"))]]);
        let proxy = retrying(&upstream, QUICK);
        assert_eq!(proxy.get("/").text(), "ok", "{name}");
        if connections == 2 {
            upstream.wait_ended(0);
        }
        assert_eq!(upstream.connections(), connections, "{name}");
        assert_eq!(proxy.get("/").text(), "ok", "{name}");
        assert_eq!(upstream.connections(), connections, "{name}");
    }
    // One that is read besides serves a later request, if not this one.
    let upstream = Upstream::each([late, vec![Step::serve(ok("ok"))]]);
    let proxy = retrying(&upstream, QUICK);
    assert_eq!(proxy.get("/").text(), "ok");
    upstream.wait_requests(2);
    assert!(upstream.connections() <= 2);
}

/// Row 112.
#[test]
fn a_storm_reaches_failing_servers_no_more_than_a_fifth_more_often() {
    for (floor, most) in [(0, 0), (3, 3)] {
        let upstream = Upstream::repeating(status(503, ""));
        let retry = format!("retry: {{ {} }}", with("attempts: 10"));
        let budget = format!("retry_budget: {{ min_per_second: {floor} }}");
        let configuration = Configuration {
            cluster: &budget,
            route: &retry,
            ..Configuration::default()
        };
        let proxy = Arc::new(Proxy::start(&configuration.to(&upstream)));
        let began = Instant::now();
        let clients = (0..8).map(|_| {
            let proxy = Arc::clone(&proxy);
            thread::spawn(move || {
                let mut client = proxy.client();
                for _ in 0..50 {
                    assert_eq!(client.get("/").status(), 503);
                }
            })
        });
        clients
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|client| client.join().expect("it got its answers"));
        let seconds = began.elapsed().as_secs() as usize + 2;
        let sent = upstream.requests().len();
        assert!(
            sent > 400 && sent <= 480 + most * seconds,
            "{sent} requests, floor {floor}"
        );
        assert!(retries(&proxy, "status", "budget") > 0.0);
    }
}

#[test]
fn only_so_many_are_retried_at_once() {
    let gate = Gate::new();
    let upstream = Upstream::each([
        vec![
            Step::Message,
            Step::send(status(503, "")),
            Step::Message,
            Step::Pass(gate.clone()),
            Step::Send(ok("late")),
        ],
        vec![Step::serve(status(503, ""))],
    ]);
    let retry = format!("retry: {{ {QUICK} }}");
    let configuration = Configuration {
        cluster: "limits: { max_retries: 1 }",
        route: &retry,
        ..Configuration::default()
    };
    let proxy = Proxy::start(&configuration.to(&upstream));
    let mut held = proxy.client();
    held.send("GET /held HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    assert_eq!(proxy.get("/over").status(), 503);
    assert_eq!(retries(&proxy, "status", "limit"), 1.0);
    let over = [("cluster", "app"), ("limit", "retries")];
    assert_eq!(proxy.metrics().sum("tamis_upstream_overflows_total", &over), 1.0);
    gate.open();
    assert_eq!(held.response().text(), "late");
}

/// Row 52: filters see the request and its body once, and of the responses only the last.
#[test]
fn filters_are_not_asked_again() {
    let count = AtomicUsize::new(0);
    let upstream = Upstream::answering(move |request: &Message| {
        assert_eq!(request.values("x-seen"), ["once"], "a filter ran again");
        match count.fetch_add(1, Ordering::SeqCst) {
            0 => status(503, "x-try: 1\r\n"),
            _ => ok("ok"),
        }
    });
    let retry = format!("filters: [seen, redact], retry: {{ {} }}", with("methods: [POST]"));
    let configuration = Configuration {
        top: "
filters:
  seen: { native: headers, config: { request: { append: { x-seen: once } }, response: { append: { x-seen: once } } } }
  redact:
    component: redact.wasm
    grants: [metrics]
    config: { patterns: [{ name: mail, detect: email }], bodies: [request] }
",
        route: &retry,
        ..Configuration::default()
    };
    let proxy = Proxy::start_in(&folder_with(&["redact"]), &configuration.to(&upstream));
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Type: text/plain\r\nContent-Length: 19\r\n\r\n\
                mail a@b.example, !";
    let response = proxy.client().exchange(post);
    assert_eq!(
        (response.text().as_str(), response.values("x-seen")),
        ("ok", vec!["once"])
    );
    assert_eq!(response.value("x-try"), None);
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].canonical(&[]), requests[1].canonical(&[]));
    assert_eq!(requests[0].text(), "mail [redacted], !");
    let calls = [("filter", "redact"), ("hook", "request_head")];
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("tamis_filter_calls_total", &calls), 1.0, "asked again");
}

#[test]
fn a_reload_tells_of_it_and_keeps_what_did_not_change() {
    let upstream = failing(0, Vec::new());
    let yaml = |retry: &str| {
        let configuration = Configuration {
            route: retry,
            ..Configuration::default()
        };
        configuration.to(&upstream)
    };
    let proxy = Proxy::start(&yaml("retry: {}"));
    assert_eq!(proxy.get("/").text(), "ok");
    let report = apply(&proxy, &yaml("retry: { attempts: 2, on: [5xx, 429] }"));
    let changes = &report["difference"]["routes"]["changed"][0]["changes"];
    let keys: Vec<_> = changes
        .as_array()
        .expect("a list")
        .iter()
        .map(|change| change["key"].clone())
        .collect();
    assert_eq!(keys, ["retry.on", "retry.attempts"], "{report}");
    assert_eq!(report["difference"]["clusters"]["unchanged"], 1, "{report}");
    assert_eq!(proxy.get("/").text(), "ok");
    assert_eq!(upstream.connections(), 1);
}
