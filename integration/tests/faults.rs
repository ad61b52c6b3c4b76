//! Rule 9: upstreams that fail in every way; the client gets 502 or 504 or a broken connection, the next one nothing
//! of it.

use std::time::Duration;

use tamis_integration::message::latin1;
use tamis_integration::socket::Found;
use tamis_integration::upstream::{BlackHole, Refusing, ok};
use tamis_integration::{Gate, Proxy, Step, Upstream};

use crate::support::{Bystander, Configuration, assert_own_reply, each, plain};

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";

/// Its first connection answers badly, then holds; all others answer well.
fn bad_then_good(answer: impl AsRef<[u8]>) -> Upstream {
    Upstream::each([
        vec![Step::Message, Step::send(answer), Step::Hold],
        vec![Step::serve(GOOD)],
    ])
}

/// Every answer is the upstream's fault: 502, the connection dropped, and never used again. Faults 107 and 109.
#[test]
fn rule_9_bad_answers() {
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nok");
    let cases: Vec<(&str, Vec<u8>)> = [
        ("garbage", "hello, world\r\n\r\n".to_owned()),
        ("another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned()),
        ("HTTP/0.9", "<html>hello</html>\r\n\r\n".to_owned()),
        ("no version", "200 OK\r\n\r\n".to_owned()),
        (
            "version 2.0",
            "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        ),
        (
            "version 1.2",
            "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        ),
        (
            "lower-case version",
            "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        ),
        (
            "status of letters",
            "HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        ),
        (
            "status of two digits",
            "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        ),
        (
            "status of four digits",
            "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        ),
        (
            "status 000",
            "HTTP/1.1 000 No\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        ),
        (
            "status 099",
            "HTTP/1.1 099 No\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        ),
        ("no status", "HTTP/1.1\r\nContent-Length: 2\r\n\r\nok".to_owned()),
        (
            "control character in the reason",
            "HTTP/1.1 200 O\u{1}K\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        ),
        ("length with plus", head("Content-Length: +2")),
        ("length with letters", head("Content-Length: 2x")),
        ("negative length", head("Content-Length: -2")),
        ("length beyond 64 bits", head("Content-Length: 18446744073709551618")),
        ("lengths that differ", head("Content-Length: 2\r\nContent-Length: 3")),
        ("lengths that differ in one field", head("Content-Length: 2, 3")),
        (
            "length and coding",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".into(),
        ),
        (
            "coding and length",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n".into(),
        ),
        ("unknown coding", head("Transfer-Encoding: cow")),
        ("gzip without chunked", head("Transfer-Encoding: gzip")),
        (
            "chunked twice",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        ("chunked, then identity", head("Transfer-Encoding: chunked, identity")),
        (
            "chunked in HTTP/1.0",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".into(),
        ),
        ("NUL in a value", head("Content-Length: 2\r\nX-A: a\0b")),
        ("bare CR in a value", head("Content-Length: 2\r\nX-A: a\rb")),
        (
            "control character in a value",
            head("Content-Length: 2\r\nX-A: a\u{1}b"),
        ),
        ("folded field", head("Content-Length: 2\r\nX-A: a\r\n b")),
        ("space in a name", head("Content-Length: 2\r\nX A: a")),
        ("space before the colon", head("Content-Length: 2\r\nX-A : a")),
        ("space before the colon of a length", head("Content-Length : 2")),
        ("no name", head("Content-Length: 2\r\n: a")),
        ("no colon", head("Content-Length: 2\r\nX-A")),
        (
            "unasked 101",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".into(),
        ),
        ("fields without end", head(&"X-A: a\r\n".repeat(20_000))),
        (
            "field too large",
            head(&format!("X-A: {}", "a".repeat(2 * 1024 * 1024))),
        ),
    ]
    .into_iter()
    .map(|(name, answer)| (name, answer.into_bytes()))
    .collect();
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, answer)| {
            let upstream = bad_then_good(answer);
            let proxy = Proxy::start(&plain(&upstream));
            let mut client = proxy.client();
            assert_own_reply(&client.get("/1"), 502, name);
            upstream.wait_ended(0);
            assert_eq!(proxy.get("/2").text(), "good", "{name}: the next client");
            assert_eq!(upstream.requests().len(), 2, "{name}: sent once each");
        },
    );
}

/// A chunked body that goes wrong after its head went out: the client's connection breaks, and never looks complete.
/// Faults 106 and 109.
#[test]
fn rule_9_bad_chunks() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    each(
        [
            ("no digits", "zz\r\n"),
            ("beyond 64 bits", "10000000000000000\r\n"),
            ("longer than its size", "2\r\nokX\r\n"),
            ("bare LF", "2\nok\r\n"),
            ("endless extension", &format!("2;{}", "a".repeat(1_000_000))),
            ("endless trailers", &format!("0\r\n{}", "a: b\r\n".repeat(200_000))),
        ],
        |case| case.0.to_owned(),
        |(name, rest)| {
            let upstream = bad_then_good(format!("{head}{rest}"));
            let proxy = Proxy::start(&plain(&upstream));
            let mut client = proxy.client();
            client.send("GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\n");
            match client.try_response() {
                Ok(response) => assert_eq!(response.status(), 502, "{name}: {response:?}"),
                Err(broken) => assert!(!broken.bytes.ends_with(b"0\r\n\r\n"), "{name}: {broken}"),
            }
            upstream.wait_ended(0);
            assert_eq!(proxy.get("/2").text(), "good", "{name}: the next client");
        },
    );
}

/// Fault 106: the first `count` bytes of an answer, then the end of the connection, at every possible place.
#[test]
fn rule_9_an_answer_cut_at_each_byte() {
    let answers = [
        ("sized", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"),
        (
            "chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
        ),
    ];
    for (framing, answer) in answers {
        let head = answer.find("\r\n\r\n").expect("a head") + 4;
        for (ending, last) in [("FIN", Step::Close), ("RST", Step::Reset)] {
            let lists: Vec<_> = (0..answer.len())
                .map(|count| vec![Step::Message, Step::send(&answer[..count]), last.clone()])
                .collect();
            let upstream = Upstream::each(lists);
            let proxy = Proxy::start(&plain(&upstream));
            each(
                0..answer.len(),
                |count| format!("{framing}, {ending} after {count} bytes"),
                |count| {
                    let mut client = proxy.client();
                    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
                    match client.try_response() {
                        Ok(response) => assert_eq!(response.status(), 502, "{framing} {ending} {count}: {response:?}"),
                        Err(broken) => assert!(*count >= head, "{framing} {ending} {count}: no answer: {broken}"),
                    }
                },
            );
            assert_eq!(
                upstream.connections(),
                answer.len(),
                "{framing} {ending}: one attempt each, none reused"
            );
        }
    }
}

/// A body that the upstream ends early must not look complete to the client.
#[test]
fn rule_9_a_long_body_cut_in_the_middle() {
    for last in [Step::Close, Step::Reset] {
        let gate = Gate::new();
        let upstream = Upstream::each([vec![
            Step::Message,
            Step::send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
            Step::Pass(gate.clone()),
            last.clone(),
        ]]);
        let proxy = Proxy::start(&plain(&upstream));
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let head = client.read(b"HTTP/1.1 200 OK\r\n".len());
        assert_eq!(head.escape_ascii().to_string(), "HTTP/1.1 200 OK\\r\\n");
        gate.open();
        let ending = client.ending();
        let shown = ending.bytes.escape_ascii().to_string();
        assert!(shown.contains("hello"), "{last:?}: what came is passed on: {shown}");
        assert!(
            !ending.bytes.ends_with(b"0\r\n\r\n"),
            "{last:?}: a broken body got an end: {shown}"
        );
    }
}

/// Fault 106, like those that follow.
#[test]
fn refused_connections_are_502_at_once() {
    let refusing = Refusing::new();
    let proxy = Proxy::start(&Configuration::default().with(&[refusing.address()]));
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_own_reply(&client.get("/"), 502, "refused");
    }
    let why = proxy.log().wait_message("no connection with an upstream");
    assert_eq!(
        (why.level(), why.field("cluster"), why.field("endpoint")),
        ("WARN", "app".to_owned(), refusing.address().to_string())
    );
    assert!(why.field("error").contains("refused"), "{}", why.text);
    let lines = proxy.log().lines();
    let told = lines.iter().filter(|line| line.message() == why.message()).count();
    assert_eq!(told, 1, "not for every request");
}

/// Nothing was sent to the endpoint that refused, so the other one can be asked, also for a POST with a body.
#[test]
fn another_endpoint_is_tried_when_one_refuses() {
    let refusing = Refusing::new();
    let upstream = Upstream::answering(|request| ok(&request.text()));
    for balancing in ["round_robin", "least_request"] {
        let cluster = format!("load_balancing: {balancing}");
        let configuration = Configuration {
            cluster: &cluster,
            ..Default::default()
        };
        let proxy = Proxy::start(&configuration.with(&[refusing.address(), upstream.address()]));
        for n in 0..10 {
            let body = format!("body {n}");
            let request = format!(
                "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            assert_eq!(proxy.client().exchange(request).text(), body, "{balancing}");
        }
        assert_eq!(upstream.take_requests().len(), 10, "{balancing}: none twice");
    }
}

#[test]
fn a_black_hole_is_504_at_the_connect_timeout() {
    let hole = BlackHole::new();
    let cluster = "connect_timeout: 300ms";
    let proxy = Proxy::start(
        &Configuration {
            cluster,
            ..Default::default()
        }
        .with(&[hole.address()]),
    );
    let response = proxy.get("/");
    assert_own_reply(&response, 504, "black hole");
}

#[test]
fn a_silent_upstream_is_504_at_the_read_timeout() {
    let upstream = Upstream::each([vec![Step::Message, Step::Hold]]);
    let proxy = Proxy::start(
        &Configuration {
            cluster: "read_timeout: 300ms",
            ..Default::default()
        }
        .to(&upstream),
    );
    assert_own_reply(&proxy.get("/"), 504, "silent");
    upstream.wait_ended(0);
}

#[test]
fn a_body_that_stalls_is_cut_at_the_read_timeout() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let upstream = Upstream::each([vec![Step::Message, Step::send(answer), Step::Hold]]);
        let proxy = Proxy::start(
            &Configuration {
                cluster: "read_timeout: 300ms",
                ..Default::default()
            }
            .to(&upstream),
        );
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let broken = client.try_response().expect_err("a stalled body is not whole");
        assert!(broken.bytes.windows(5).any(|window| window == b"hello"), "{broken}");
        upstream.wait_ended(0);
    }
}

/// Fault 109: what is packed is passed on as it is. A bomb of 64 MiB stays the 64 KiB that it is.
#[test]
fn a_packed_bomb_is_passed_on_packed() {
    let mut gzip = std::process::Command::new("gzip")
        .arg("-9c")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("gzip is installed");
    let mut input = gzip.stdin.take().expect("it is a pipe");
    let writer = std::thread::spawn(move || {
        let zeros = vec![0; 1 << 20];
        (0..64).all(|_| std::io::Write::write_all(&mut input, &zeros).is_ok())
    });
    let bomb = gzip.wait_with_output().expect("it ends").stdout;
    assert!(
        writer.join().expect("it only writes") && bomb.len() < 128 << 10,
        "{}",
        bomb.len()
    );
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
        bomb.len()
    );
    let upstream = Upstream::repeating([head.as_bytes(), &bomb].concat());
    let proxy = Proxy::start(&plain(&upstream));
    let (mut client, before) = (proxy.client(), proxy.resident());
    for _ in 0..10 {
        let request = "GET / HTTP/1.1\r\nHost: a.example\r\nAccept-Encoding: gzip\r\n\r\n";
        let answer = client.exchange(request);
        assert_eq!(answer.value("content-encoding"), Some("gzip"));
        assert!(answer.body == bomb, "it was changed");
    }
    let grown = proxy.resident().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes of growth");
}

/// Bytes behind a response: the client gets the clean response, and the connection goes (fault 107).
#[test]
fn rule_9_bytes_behind_a_response() {
    let second = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    each(
        [
            ("second response", format!("{GOOD}{second}")),
            ("garbage", format!("{GOOD}garbage")),
            ("one CRLF", format!("{GOOD}\r\n")),
            (
                "behind chunks",
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n{second}"),
            ),
            ("behind 204", format!("HTTP/1.1 204 No Content\r\n\r\n{second}")),
            (
                "body of 204",
                "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\npoison".to_owned(),
            ),
            (
                "behind 304",
                format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n{second}"),
            ),
        ],
        |case| case.0.to_owned(),
        |(name, answer)| {
            let upstream = bad_then_good(answer);
            let proxy = Proxy::start(&plain(&upstream));
            let mut client = proxy.client();
            let first = client.get("/1");
            assert!([200, 204, 304, 502].contains(&first.status()), "{name}: {first:?}");
            assert!(!first.text().contains("poison"), "{name}: {first:?}");
            let second = client.get("/2");
            assert_eq!(second.text(), "good", "{name}: {second:?}");
            assert_eq!(proxy.get("/3").text(), "good", "{name}: the next client");
        },
    );
}

/// The body of a response to HEAD is bytes behind a response.
#[test]
fn rule_9_a_body_behind_a_head_response() {
    let upstream = bad_then_good("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    client.send("HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.response_to_head().value("content-length"), Some("6"));
    assert_eq!(client.get("/2").text(), "good");
}

/// Fault 108: what arrives on an idle connection belongs to no request.
#[test]
fn rule_9_bytes_on_an_idle_connection() {
    let upstream = Upstream::each([
        vec![Step::Message, Step::send(GOOD), Step::Hold],
        vec![Step::serve(GOOD)],
    ]);
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    assert_eq!(client.get("/1").text(), "good");
    upstream.send_unasked(0, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
    upstream.wait_ended(0);
    assert_eq!(client.get("/2").text(), "good");
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn rule_9_interim_responses_are_relayed_or_skipped() {
    each(
        [
            ("100", "HTTP/1.1 100 Continue\r\n\r\n".to_owned()),
            ("102", "HTTP/1.1 102 Processing\r\n\r\n".to_owned()),
            (
                "103",
                "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n".to_owned(),
            ),
            (
                "several",
                "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n".to_owned(),
            ),
            ("many", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(20)),
        ],
        |case| case.0.to_owned(),
        |(name, interim)| {
            let upstream = Upstream::repeating(format!("{interim}{GOOD}"));
            let proxy = Proxy::start(&plain(&upstream));
            let mut client = proxy.client();
            for _ in 0..2 {
                let response = client.get("/");
                assert_eq!((response.status(), response.text().as_str()), (200, "good"), "{name}");
            }
            // RFC 9110 15.2: never to a client of HTTP/1.0.
            let mut old = proxy.client();
            assert_eq!(old.exchange("GET / HTTP/1.0\r\n\r\n").text(), "good", "{name}");
            assert_eq!(old.interim, [], "{name}");
        },
    );
}

/// Fault 107: a storm of 1xx is not an answer for ever.
#[test]
fn rule_9_endless_interim_responses_end() {
    let storm = "HTTP/1.1 103 Early Hints\r\nX-A: a\r\n\r\n".repeat(10_000);
    let steps = [vec![Step::Message], vec![Step::send(storm); 50], vec![Step::Hold]].concat();
    let upstream = Upstream::each([steps]);
    let configuration = Configuration {
        cluster: "read_timeout: 1s",
        route: "timeout: 2s",
        ..Default::default()
    };
    let proxy = Proxy::start(&configuration.to(&upstream));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    if let Ok(response) = client.try_response() {
        assert!([502, 504].contains(&response.status()), "{response:?}");
    }
    assert!(proxy.resident() < 256 << 20, "{} bytes resident", proxy.resident());
}

/// A pooled connection that the upstream has closed meanwhile costs the client nothing.
#[test]
fn a_stale_connection_is_replaced() {
    let once = vec![Step::Message, Step::send(GOOD), Step::Hold];
    let upstream = Upstream::each([once]);
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    for n in 0..20 {
        let method = if n % 2 == 0 { "GET" } else { "POST" };
        let request = format!("{method} /{n} HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!(client.exchange(request).text(), "good", "request {n}");
        upstream.close(n);
    }
    assert_eq!(upstream.requests().len(), 20, "none was sent twice");
}

/// Once bytes of a request were sent, nobody can know what came of it: it is never sent again.
#[test]
fn a_sent_request_is_never_sent_again() {
    for method in ["GET", "POST"] {
        for last in [Step::Close, Step::Reset] {
            let upstream = Upstream::each([
                vec![Step::Message, Step::send(GOOD), Step::Message, last.clone()],
                vec![Step::Message, Step::send(GOOD), Step::Hold],
            ]);
            let proxy = Proxy::start(&plain(&upstream));
            let mut client = proxy.client();
            let request = |n: u8| format!("{method} /{n} HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx");
            assert_eq!(client.exchange(request(1)).text(), "good");
            assert_own_reply(&client.exchange(request(2)), 502, &format!("{method} {last:?}"));
            let targets: Vec<_> = upstream
                .take_requests()
                .iter()
                .map(|request| request.target().to_owned())
                .collect();
            assert_eq!(targets, ["/1", "/2"], "{method} {last:?}");
            assert_eq!(
                client.exchange(request(3)).text(),
                "good",
                "{method} {last:?}: afterwards"
            );
        }
    }
}

#[test]
fn an_empty_reply_is_502() {
    let upstream = Upstream::each([
        vec![Step::Message, Step::Close],
        vec![Step::Message, Step::send(GOOD), Step::Hold],
    ]);
    let proxy = Proxy::start(&plain(&upstream));
    assert_own_reply(&proxy.get("/1"), 502, "empty");
    assert_eq!(proxy.get("/2").text(), "good");
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn an_upstream_that_closes_is_not_kept() {
    let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ngood";
    let upstream = Upstream::each([vec![Step::Message, Step::send(answer), Step::Hold]]);
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    for n in 0..3 {
        assert_eq!(client.get("/").text(), "good");
        upstream.wait_ended(n);
    }
    assert_eq!(upstream.connections(), 3);
}

/// An upstream connection that a client leaves in the middle of a response is of no more use.
#[test]
fn a_client_that_leaves_takes_its_upstream_connection_along() {
    let gate = Gate::new();
    let upstream = Upstream::each([
        vec![
            Step::Message,
            Step::send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhello"),
            Step::Pass(gate.clone()),
            Step::Hold,
        ],
        vec![Step::Message, Step::send(GOOD), Step::Hold],
    ]);
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    client.read(20);
    client.reset();
    gate.open();
    upstream.wait_ended(0);
    assert_eq!(proxy.get("/").text(), "good");
}

/// A client that leaves before there is any answer.
#[test]
fn a_client_that_leaves_early_harms_nobody() {
    let gate = Gate::new();
    let upstream = Upstream::each([
        vec![Step::Message, Step::Pass(gate.clone()), Step::Hold],
        vec![Step::serve(GOOD)],
    ]);
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    upstream.wait_requests(1);
    let bystander = Bystander::start(&proxy.address("web"), "/");
    client.reset();
    gate.open();
    upstream.wait_ended(0);
    bystander.finish();
}

/// A table of what kinds of faults look like to bystanders: not at all.
#[test]
fn bystanders_of_a_broken_upstream() {
    let good = Upstream::saying("ok");
    let broken = Upstream::each([vec![Step::Message, Step::send("garbage\r\n\r\n"), Step::Reset]]);
    let hole = BlackHole::new();
    let clusters = format!(
        "  broken: {{ endpoints: [\"{}\"] }}\n  hole: {{ endpoints: [\"{}\"], connect_timeout: 100ms }}",
        broken.address(),
        hole.address()
    );
    let routes = "  - { match: { path: { prefix: /broken } }, cluster: broken }\n  - { match: { path: { prefix: /hole } }, cluster: hole }";
    let proxy = Proxy::start(
        &Configuration {
            clusters: &clusters,
            routes,
            ..Default::default()
        }
        .to(&good),
    );
    let bystander = Bystander::start(&proxy.address("web"), "/");
    let round = || {
        for _ in 0..20 {
            assert_eq!(proxy.get("/broken").status(), 502);
        }
        for _ in 0..5 {
            assert_eq!(proxy.get("/hole").status(), 504);
        }
    };
    // The first round opens what stays open.
    round();
    let descriptors = proxy.descriptors();
    round();
    bystander.finish();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while proxy.descriptors() > descriptors + 2 {
        assert!(
            std::time::Instant::now() < deadline,
            "{} descriptors, {descriptors} before",
            proxy.descriptors()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What came before the end is the client's: one that gets nothing at all may repeat what was done.
#[test]
fn the_first_bytes_of_a_response_that_breaks_off_reach_the_client() {
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok";
    let upstream = Upstream::each([vec![Step::Message, Step::send(begun), Step::Close]]);
    let proxy = Proxy::start(&plain(&upstream));
    for round in 0..20 {
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nab");
        let broken = client.try_response().expect_err("it breaks off");
        let text = broken.bytes.escape_ascii().to_string();
        assert!(
            text.starts_with("HTTP/1.1 200 OK") && text.ends_with("ok"),
            "{round}: {text}"
        );
    }
}

/// Row 42: to a client of HTTP/1.0 the end of the connection is that of the body.
#[test]
fn fault_42_an_old_client_sees_that_a_response_breaks_off() {
    let cut = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let upstream = Upstream::each([vec![Step::Message, Step::send(cut), Step::Close]]);
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n");
    let ending = client.ending();
    assert_eq!(ending.how, Found::Reset, "{}", ending.bytes.escape_ascii());
    assert!(!latin1(&ending.bytes).to_lowercase().contains("keep-alive"));
}
