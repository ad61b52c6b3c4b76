//! Request bodies (rule 7), expectations, responses without a body, old clients, pipelines, early answers (rule 11).

use std::time::Duration;

use tamis_integration::http2::Http2;
use tamis_integration::message::Cause;
use tamis_integration::upstream::{Refusing, ok};
use tamis_integration::{Gate, Proxy, Step, Upstream};

use crate::support::{Configuration, each, plain, relayed};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A route that answers by itself, and never reads a body.
const STATIC: &str =
    "  - { name: static, match: { path: { prefix: /static } }, respond: { status: 200, body: hello } }";

fn sized(target: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {target} HTTP/1.1\r\nHost: a.example\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
}

/// Fault 80.
#[test]
fn rule_7_a_malformed_chunked_body_is_the_clients_fault() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    let cases: &[(&str, &str)] = &[
        ("no digits", "zz\r\nhello\r\n0\r\n\r\n"),
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("plus", "+5\r\nhello\r\n0\r\n\r\n"),
        ("minus", "-5\r\nhello\r\n0\r\n\r\n"),
        ("hexadecimal prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
        ("beyond 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("space in front", " 5\r\nhello\r\n0\r\n\r\n"),
        ("bare LF behind the size", "5\nhello\r\n0\r\n\r\n"),
        ("bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("longer than its size", "5\r\nhelloX\r\n0\r\n\r\n"),
        ("no CRLF behind the data", "5\r\nhello0\r\n\r\n"),
        ("bare LF behind the data", "5\r\nhello\n0\r\n\r\n"),
        ("later chunk", "5\r\nhello\r\nzz\r\n0\r\n\r\n"),
        ("trailer without colon", "5\r\nhello\r\n0\r\nx\r\n\r\n"),
        ("trailer with space before colon", "5\r\nhello\r\n0\r\nx : 1\r\n\r\n"),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, body)| {
            let mut client = proxy.client();
            client.send(format!("{CHUNKED}{body}{SMUGGLED}"));
            let response = client.response();
            assert_eq!(response.status(), 400, "{name}: {response:?}");
            assert!(response.closes(), "{name}: {response:?}");
            client.assert_closed(name);
            assert_eq!(
                upstream.take_requests(),
                [],
                "{name}: a whole request reached the upstream"
            );
        },
    );
    assert_eq!(proxy.get("/after").status(), 200);
    assert_eq!(upstream.take_request("after").target(), "/after");
}

/// Odd but harmless, as long as it is not passed on: refused, or sent upstream as five plain bytes.
#[test]
fn odd_chunks_are_refused_or_written_anew() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    let zeroes = format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(100_000));
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(100_000));
    let cases: &[(&str, &str)] = &[
        ("extension", "5;a=b\r\nhello\r\n0;c\r\n\r\n"),
        ("quoted extension", "5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n"),
        ("NUL in an extension", "5;a\0b\r\nhello\r\n0\r\n\r\n"),
        ("space behind the size", "5 \r\nhello\r\n0\r\n\r\n"),
        ("leading zero", "05\r\nhello\r\n0\r\n\r\n"),
        ("many leading zeroes", &zeroes),
        ("endless extension", &extension),
        ("upper and lower case", "5\r\nhello\r\n00\r\n\r\n"),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, body)| {
            upstream.take_requests();
            let mut client = proxy.client();
            client.try_send(format!("{CHUNKED}{body}"));
            let response = client.response();
            match response.status() {
                400 => assert_eq!(upstream.take_requests(), [], "{name}: refused, and forwarded"),
                200 => assert_eq!(upstream.take_request(name).text(), "hello", "{name}"),
                other => panic!("{name}: {other}"),
            }
        },
    );
}

/// Fault 81, in responses: to a client of HTTP/2 all trailers go that may, and no others.
#[test]
fn trailers_of_a_response_are_held_to_the_same() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\n\
                  x-sum: 1\r\nset-cookie: a=1\r\nconnection: x-sum\r\nte: trailers\r\n\r\n";
    let upstream = Upstream::repeating(answer);
    let proxy = Proxy::start(&plain(&upstream));
    let response = Http2::connect(&proxy.address("web")).get("/");
    assert_eq!(response.text(), "hello");
    let trailers = response.trailers.expect("trailers");
    let names: Vec<_> = trailers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["x-sum"]);
}

/// Fault 81: a trailer is never taken for a field of the head, and one that frames or routes is dropped.
#[test]
fn trailers_stay_trailers() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    for field in [
        "X-Sum: 1",
        "Content-Length: 3",
        "Transfer-Encoding: chunked",
        "Host: evil.example",
        "Authorization: evil",
    ] {
        upstream.take_requests();
        let mut client = proxy.client();
        let response = client.exchange(format!(
            "POST / HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\n{field}\r\n\r\n"
        ));
        if response.status() == 400 {
            continue;
        }
        let request = upstream.take_request(field);
        assert_eq!(request.text(), "hello", "{field}");
        assert_eq!(request.values("host"), ["a.example"], "{field}");
        assert_eq!(
            (request.values("x-sum"), request.values("authorization")),
            (vec![], vec![]),
            "{field}"
        );
        let foreign = request
            .trailers
            .iter()
            .find(|trailer| !trailer.name.eq_ignore_ascii_case("x-sum"));
        assert_eq!(foreign, None, "{field}");
        assert_eq!(client.get("/next").status(), 200, "{field}");
    }
}

#[test]
fn endless_trailers_are_refused() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    client.try_send(format!(
        "{CHUNKED}5\r\nhello\r\n0\r\n{}\r\n",
        "a: b\r\n".repeat(200_000)
    ));
    let status = client.response().status();
    assert!([400, 431].contains(&status), "{status}");
    assert_eq!(upstream.take_requests(), []);
}

/// The upstream must be able to tell a body that broke off from one that ended.
#[test]
fn a_body_that_breaks_off_never_ends_upstream() {
    for (name, request) in [
        (
            "sized",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\nhello".to_owned(),
        ),
        ("chunked", format!("{CHUNKED}5\r\nhello\r\n")),
        ("in a chunk", format!("{CHUNKED}a\r\nhello")),
        ("before the last line", format!("{CHUNKED}5\r\nhello\r\n0\r\n")),
    ] {
        for reset in [false, true] {
            let upstream = Upstream::saying("ok");
            let proxy = Proxy::start(&plain(&upstream));
            let mut client = proxy.client();
            client.send(&request);
            upstream.wait_connections(1);
            if reset {
                client.reset();
            } else {
                client.finish();
                if let Ok(response) = client.try_response() {
                    assert_eq!(response.status(), 400, "{name}");
                }
            }
            upstream.wait_ended(0);
            assert_eq!(upstream.take_requests(), [], "{name}, reset {reset}");
            let received = upstream.received(0);
            assert!(
                !received.ends_with(b"0\r\n\r\n"),
                "{name}, reset {reset}: {}",
                received.escape_ascii()
            );
        }
    }
}

#[test]
fn bodies_arrive_whole_and_in_pieces_of_any_size() {
    let upstream = Upstream::answering(|request| ok(&request.text()));
    let proxy = Proxy::start(&plain(&upstream));
    let body: String = (0..100_000).map(|n: u32| char::from(b'a' + (n % 26) as u8)).collect();
    for piece in [1, 7, 4096, 65_536, body.len()] {
        let part = &body[..body.len().min(piece * 2000)];
        let mut client = proxy.client();
        client.send(CHUNKED);
        for chunk in part.as_bytes().chunks(piece) {
            client.send(format!("{:x}\r\n", chunk.len())).send(chunk).send("\r\n");
        }
        client.send("0\r\n\r\n");
        assert!(client.response().text() == part, "chunks of {piece} bytes");
        client.send(sized("/", "", part));
        assert!(client.response().text() == part, "one body of {} bytes", part.len());
    }
}

#[test]
fn expectation_is_met_when_the_body_is_wanted() {
    let upstream = Upstream::answering(|request| ok(&request.text()));
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let interim = client.next_response(Duration::from_secs(10)).expect("a 100");
    assert_eq!(interim.start, "HTTP/1.1 100 Continue");
    assert_eq!(client.exchange("hello").text(), "hello");
    assert_eq!(client.interim, [], "100 came twice");
    assert_eq!(client.get("/next").status(), 200);
}

/// A client that does not wait: its body is there already.
#[test]
fn expectation_with_an_early_body() {
    let upstream = Upstream::answering(|request| ok(&request.text()));
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    let response = client.exchange(sized("/", "Expect: 100-continue\r\n", "hello"));
    assert_eq!(response.text(), "hello");
    assert!(client.interim.len() <= 1, "{:?}", client.interim);
    assert_eq!(client.get("/next").status(), 200);
}

/// Fault 79.
#[test]
fn no_continue_when_nobody_reads_the_body() {
    let upstream = Upstream::saying("ok");
    let nobody = Refusing::new();
    let clusters = format!("  gone: {{ endpoints: [\"{}\"] }}", nobody.address());
    let routes = format!("{STATIC}\n  - {{ name: gone, match: {{ path: {{ prefix: /gone }} }}, cluster: gone }}");
    let proxy = Proxy::start(
        &Configuration {
            clusters: &clusters,
            routes: &routes,
            ..Default::default()
        }
        .to(&upstream),
    );
    for (target, status) in [("/static", 200), ("/gone", 502)] {
        let mut client = proxy.client();
        let response = client.exchange(format!(
            "POST {target} HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        ));
        assert_eq!(response.status(), status, "{target}");
        assert_eq!(client.interim, [], "{target}");
    }
    // RFC 9110 10.1.1: an expectation of an HTTP/1.0 client is ignored.
    let mut client = proxy.client();
    client.send("POST / HTTP/1.0\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.response().status(), 200);
    assert_eq!(client.interim, [], "HTTP/1.0");
}

#[test]
fn unknown_expectations_fail() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    for expectation in ["cookies", "y 100-continue", "100-continue, cookies", "100-continued"] {
        let mut client = proxy.client();
        let response = client.exchange(sized("/", &format!("Expect: {expectation}\r\n"), "hello"));
        assert_eq!(response.status(), 417, "{expectation}");
        assert_eq!(upstream.take_requests(), [], "{expectation}");
    }
}

/// Responses that end with their head, and the exact head that the client gets.
#[test]
fn responses_without_a_body() {
    let cases: &[(&str, &str, &str, &str)] = &[
        (
            "HEAD with length",
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\ncontent-length: 5",
        ),
        (
            "HEAD, chunked",
            "HEAD",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\ntransfer-encoding: chunked",
        ),
        (
            "204",
            "GET",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 204 No Content",
        ),
        (
            "204 with length",
            "GET",
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 204 No Content",
        ),
        (
            "HEAD, 204 with length",
            "HEAD",
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 204 No Content",
        ),
        (
            "304 with length",
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n",
            "HTTP/1.1 304 Not Modified\ncontent-length: 5\netag: \"a\"",
        ),
        (
            "200 of nothing",
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\ncontent-length: 0",
        ),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, method, answer, expected)| {
            let upstream = Upstream::repeating(answer);
            let proxy = Proxy::start(&plain(&upstream));
            let mut client = proxy.client();
            for _ in 0..2 {
                client.send(format!("{method} / HTTP/1.1\r\nHost: a.example\r\n\r\n"));
                let response = if *method == "HEAD" {
                    client.response_to_head()
                } else {
                    client.response()
                };
                // RFC 9110 8.6 and 9.3.2: a response without a body may say what framing another would have had.
                let optional = |text: &str| {
                    let kept =
                        |line: &&str| !line.starts_with("transfer-encoding:") && !line.starts_with("content-length: 5");
                    text.lines().filter(kept).collect::<Vec<_>>().join("\n")
                };
                let (got, expected) = (relayed(&response), optional(expected));
                assert!(optional(&got) == expected, "{name}: {got}");
            }
            assert_eq!(upstream.connections(), 1, "{name}: the upstream connection is kept");
        },
    );
}

/// The proxy's own answers to HEAD carry the length of what GET would have got, and no body.
#[test]
fn own_replies_to_head_have_no_body() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(
        &Configuration {
            routes: STATIC,
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = proxy.client();
    client.send("HEAD /static HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let response = client.response_to_head();
    assert_eq!((response.status(), response.value("content-length")), (200, Some("5")));
    assert_eq!(client.get("/static").text(), "hello");
}

#[test]
fn http_1_0_clients() {
    let upstream = Upstream::repeating("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let proxy = Proxy::start(&plain(&upstream));
    for request in ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nHost: a.example\r\n\r\n"] {
        let mut client = proxy.client();
        let response = client.exchange(request);
        assert_eq!(
            (response.status(), response.text().as_str()),
            (200, "hello"),
            "{request}"
        );
        assert_eq!(response.values("transfer-encoding"), Vec::<&str>::new(), "{request}");
        client.assert_closed(request);
        let sent = upstream.take_request(request);
        assert!(
            sent.start.ends_with("HTTP/1.1"),
            "a proxy speaks its own version: {}",
            sent.start
        );
        assert_eq!(sent.values("host").len(), 1, "RFC 9112 3.2: {sent:?}");
    }
    let mut client = proxy.client();
    client.send("POST / HTTP/1.0\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.response().status(), 200);
    assert_eq!(upstream.take_request("1.0 with a body").text(), "hello");
}

#[test]
fn http_1_0_keep_alive_is_all_or_nothing() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    let request = "GET / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n";
    let response = client.exchange(request);
    let keeps = response
        .list("connection")
        .iter()
        .any(|option| option.eq_ignore_ascii_case("keep-alive"));
    if keeps {
        assert!(
            response.value("content-length").is_some(),
            "kept alive without an end: {response:?}"
        );
        assert_eq!(client.exchange(request).status(), 200);
    } else {
        client.assert_closed("no keep-alive was promised");
    }
}

#[test]
fn an_upstream_that_ends_its_body_by_closing() {
    let upstream = Upstream::each([vec![
        Step::Message,
        Step::send("HTTP/1.0 200 OK\r\nX-A: 1\r\n\r\nhello"),
        Step::Close,
    ]]);
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    let response = client.get("/");
    assert_eq!(response.text(), "hello");
    assert!(
        response.start.starts_with("HTTP/1.1"),
        "a proxy speaks its own version: {}",
        response.start
    );
    assert_eq!(
        response.values("transfer-encoding"),
        ["chunked"],
        "the client can tell the end"
    );
    assert_eq!(client.get("/").text(), "hello", "and its connection lives on");
    assert_eq!(upstream.connections(), 2);
    let mut old = proxy.client();
    assert_eq!(old.exchange("GET / HTTP/1.0\r\n\r\n").text(), "hello");
    old.assert_closed("HTTP/1.0");
}

#[test]
fn close_is_honoured() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    for option in ["close", "Close", "foo, close"] {
        let mut client = proxy.client();
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: {option}\r\n\r\n{SMUGGLED}"
        ));
        assert!(client.response().closes(), "{option}");
        client.assert_closed(option);
        assert_eq!(upstream.take_request(option).target(), "/", "{option}");
    }
    assert_eq!(upstream.connections(), 1, "the client's wish is not the upstream's");
}

/// Fault 85.
#[test]
fn a_thousand_pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::answering(|request| ok(request.target()));
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    let target = |n: usize| format!("/{n}");
    let requests: String = (0..1000)
        .map(|n| format!("GET {} HTTP/1.1\r\nHost: a.example\r\n\r\n", target(n)))
        .collect();
    client.send(requests);
    for n in 0..1000 {
        assert_eq!(client.response().text(), target(n));
    }
    let targets: Vec<_> = upstream
        .requests()
        .iter()
        .map(|request| request.target().to_owned())
        .collect();
    assert_eq!(targets, (0..1000).map(target).collect::<Vec<_>>());
}

#[test]
fn a_pipeline_ends_at_its_first_error() {
    let upstream = Upstream::answering(|request| ok(request.target()));
    let proxy = Proxy::start(&plain(&upstream));
    for (name, broken) in [
        ("no host", "GET /2 HTTP/1.1\r\n\r\n".to_owned()),
        (
            "two lengths",
            "POST /2 HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na".to_owned(),
        ),
        (
            "malformed head",
            "GET /2 HTTP/1.1\r\nHost: a.example\r\nX A: 1\r\n\r\n".to_owned(),
        ),
        ("malformed chunk", format!("{CHUNKED}zz\r\n")),
    ] {
        upstream.take_requests();
        let mut client = proxy.client();
        client.send(format!("GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\n{broken}{SMUGGLED}"));
        assert_eq!(client.response().text(), "/1", "{name}");
        assert_eq!(client.response().status(), 400, "{name}");
        client.assert_closed(name);
        let targets: Vec<_> = upstream
            .take_requests()
            .iter()
            .map(|request| request.target().to_owned())
            .collect();
        assert_eq!(targets, ["/1"], "{name}");
    }
}

/// Rule 11, fault 78: an answer before the body's end, with a body that looks like a request.
#[test]
fn rule_11_unread_bodies_are_never_requests() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(
        &Configuration {
            routes: STATIC,
            ..Default::default()
        }
        .to(&upstream),
    );
    let small = SMUGGLED.repeat(3);
    let large = SMUGGLED.repeat(20_000);
    for (name, body) in [("small", &small), ("large", &large)] {
        for request in [
            sized("/static", "", body),
            format!(
                "POST /static HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            ),
        ] {
            let mut client = proxy.client();
            let sent = client.try_send(&request);
            assert_eq!(
                client.response().text(),
                "hello",
                "{name}: the answer can be read whatever was sent"
            );
            if sent && client.try_send("GET /static?next HTTP/1.1\r\nHost: a.example\r\n\r\n") {
                match client.try_response() {
                    Ok(response) => assert_eq!(response.text(), "hello", "{name}"),
                    Err(broken) => assert_eq!(broken.bytes, b"", "{name}: {broken}"),
                }
            }
            assert_eq!(upstream.take_requests(), [], "{name}: a body became a request");
        }
    }
}

/// Rule 11: the upstream answers before it has the body; both connections end or stay in step.
#[test]
fn rule_11_an_early_upstream_answer() {
    let early = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    let gate = Gate::new();
    let upstream = Upstream::each([
        vec![Step::Head, Step::send(early), Step::Pass(gate.clone()), Step::Hold],
        vec![Step::serve(ok("fine"))],
    ]);
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000000\r\n\r\nbegin");
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (403, "no"));
    gate.open();
    let other = proxy.get("/other");
    assert_eq!(
        other.text(),
        "fine",
        "another request took the half-used upstream connection"
    );
    // The client goes on with its body: taken as that, or the connection ends.
    let rest = SMUGGLED.repeat(40_000);
    if client.try_send(&rest.as_bytes()[..1_000_000 - 5]) {
        match client.try_send(SMUGGLED).then(|| client.try_response()) {
            Some(Ok(response)) => assert_eq!(response.text(), "fine"),
            Some(Err(broken)) => assert!(matches!(broken.cause, Cause::Fin | Cause::Reset), "{broken}"),
            None => (),
        }
    }
    let smuggled = upstream
        .take_requests()
        .iter()
        .filter(|request| request.target() == "/smuggled")
        .count();
    assert!(smuggled <= 1, "bytes of a body became {smuggled} requests");
}

#[test]
fn trailers_of_a_response_do_not_disturb() {
    let upstream = Upstream::repeating(
        "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n",
    );
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    for _ in 0..2 {
        let response = client.exchange("GET / HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
        assert_eq!((response.text().as_str(), response.values("x-sum")), ("hello", vec![]));
        let foreign = response
            .trailers
            .iter()
            .find(|trailer| !trailer.name.eq_ignore_ascii_case("x-sum"));
        assert_eq!(foreign, None);
    }
}
