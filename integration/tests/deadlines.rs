//! Rules 6, 10 and 11 over time: whoever is slow, or greedy, meets an end, and nobody else notices.
//!
//! Timeouts are short here and the harness's deadline is long, so a case can only fail when an end does not come at
//! all, or comes although it must not.

use std::thread;
use std::time::{Duration, Instant};

use tamis_integration::client::Ending;
use tamis_integration::socket::{Address, Found, Socket};
use tamis_integration::upstream::ok;
use tamis_integration::{Client, Gate, Proxy, Step, Upstream};

use crate::endurance::with_small_buffer;
use crate::support::{Bystander, Configuration, assert_own_reply, plain};

/// A pace below every timeout that is used here.
const DRIP: Duration = Duration::from_millis(30);

/// Sends byte after byte until all are sent or the proxy takes no more; whether all were.
fn drip(client: &mut Client, bytes: &[u8]) -> bool {
    bytes.chunks(1).all(|byte| {
        thread::sleep(DRIP);
        client.try_send(byte)
    })
}

/// The connection is over, with nothing on it or with one reply of this status.
fn assert_over(ending: &Ending, status: u16, context: &str) {
    assert_ne!(ending.how, Found::Nothing, "{context}: still open");
    let shown = ending.bytes.escape_ascii().to_string();
    assert!(
        shown.is_empty() || shown.starts_with(&format!("HTTP/1.1 {status} ")),
        "{context}: {shown}"
    );
}

/// Fault 100: each byte comes in time, the head never does.
#[test]
fn rule_10_a_head_that_drips() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(
        &Configuration {
            limits: "head_timeout: 500ms",
            ..Default::default()
        }
        .to(&upstream),
    );
    let bystander = Bystander::start(&proxy.address("web"), "/");
    let endless = format!("GET /slow HTTP/1.1\r\nHost: a.example\r\nX-A: {}", "a".repeat(600));
    for (name, before) in [
        ("first head", ""),
        ("second head", "GET /first HTTP/1.1\r\nHost: a.example\r\n\r\n"),
    ] {
        let mut client = proxy.client();
        if !before.is_empty() {
            assert_eq!(client.exchange(before).status(), 200);
        }
        let start = Instant::now();
        drip(&mut client, endless.as_bytes());
        assert_over(&client.ending(), 408, name);
        assert!(
            start.elapsed() > Duration::from_millis(400),
            "{name}: {:?}",
            start.elapsed()
        );
    }
    bystander.finish();
    assert!(upstream.requests().iter().all(|request| request.target() != "/slow"));
}

#[test]
fn rule_10_a_head_that_stops() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(
        &Configuration {
            limits: "head_timeout: 300ms",
            ..Default::default()
        }
        .to(&upstream),
    );
    for bytes in [
        "G",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r",
    ] {
        let mut client = proxy.client();
        client.send(bytes);
        assert_over(&client.ending(), 408, bytes);
    }
    assert_eq!(upstream.connections(), 0);
}

/// Empty lines in front of a request (RFC 9112 2.2) are no request, and do not keep a connection.
#[test]
fn rule_10_endless_empty_lines() {
    let upstream = Upstream::saying("ok");
    let limits = "idle_timeout: 500ms, head_timeout: 500ms";
    let proxy = Proxy::start(
        &Configuration {
            limits,
            ..Default::default()
        }
        .to(&upstream),
    );
    for served in [false, true] {
        let mut client = proxy.client();
        if served {
            assert_eq!(client.get("/").text(), "ok");
        }
        assert!(!drip(&mut client, &b"\r\n".repeat(100)), "all of them were taken");
        assert_over(&client.ending(), 408, "empty lines");
    }
}

/// A head that is slow, but within the time, is served.
#[test]
fn rule_10_a_slow_head_in_time() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    assert!(drip(&mut client, b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"));
    assert_eq!(client.response().text(), "ok");
}

#[test]
fn idle_connections_are_closed() {
    let upstream = Upstream::saying("ok");
    let limits = "idle_timeout: 300ms, head_timeout: 300ms";
    let proxy = Proxy::start(
        &Configuration {
            limits,
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut silent = proxy.client();
    let mut served = proxy.client();
    let start = Instant::now();
    assert_eq!(served.get("/").text(), "ok");
    for (name, client) in [("after a response", &mut served), ("from the start", &mut silent)] {
        let ending = client.ending();
        assert_over(&ending, 408, name);
        assert!(ending.is_clean(), "{name}: {:?}", ending.how);
    }
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
}

/// The idle timeout starts anew with each exchange.
#[test]
fn a_connection_in_use_is_not_idle() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(
        &Configuration {
            limits: "idle_timeout: 2s",
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = proxy.client();
    for _ in 0..8 {
        assert_eq!(client.get("/").text(), "ok");
        thread::sleep(Duration::from_millis(300));
    }
}

/// Fault 101: a body that stops is the client's fault.
#[test]
fn rule_10_a_body_that_stops_is_408() {
    for (name, request) in [
        (
            "sized",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\nhello",
        ),
        (
            "sized, nothing of it",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\n",
        ),
        (
            "chunked",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ),
        (
            "in a chunk size",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1",
        ),
        (
            "before the last CRLF",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        ),
        (
            "bare LF in a trailer",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: b\n\n",
        ),
        (
            "expectation",
            "POST / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n",
        ),
    ] {
        let upstream = Upstream::saying("ok");
        let proxy = Proxy::start(
            &Configuration {
                limits: "body_timeout: 300ms",
                ..Default::default()
            }
            .to(&upstream),
        );
        let mut client = proxy.client();
        let response = client.exchange(request);
        let expected: &[u16] = if name.contains("bare LF") { &[400, 408] } else { &[408] };
        assert!(expected.contains(&response.status()), "{name}: {response:?}");
        assert!(response.closes(), "{name}: {response:?}");
        client.assert_closed(name);
        if upstream.connections() > 0 {
            upstream.wait_ended(0);
        }
        assert_eq!(
            upstream.take_requests(),
            [],
            "{name}: a whole request reached the upstream"
        );
        assert_eq!(proxy.get("/after").text(), "ok", "{name}");
    }
}

/// Each piece comes in time: the route's timeout still holds for the whole.
#[test]
fn rule_10_a_body_that_drips_ends_at_the_routes_timeout() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(
        &Configuration {
            route: "timeout: 500ms",
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000\r\n\r\n");
    drip(&mut client, &[b'a'; 60]);
    let ending = client.ending();
    assert_ne!(ending.how, Found::Nothing);
    let shown = ending.bytes.escape_ascii().to_string();
    assert!(
        ["HTTP/1.1 408 ", "HTTP/1.1 504 "]
            .iter()
            .any(|start| shown.starts_with(start)),
        "{shown}"
    );
    assert_eq!(upstream.take_requests(), []);
}

#[test]
fn the_routes_timeout_is_504() {
    let gate = Gate::new();
    let upstream = Upstream::each([
        vec![
            Step::Message,
            Step::Pass(gate.clone()),
            Step::send(ok("late")),
            Step::Hold,
        ],
        vec![Step::serve(ok("ok"))],
    ]);
    let routes = "  - { name: slow, match: { path: { exact: /slow } }, cluster: app, timeout: 300ms }";
    let proxy = Proxy::start(
        &Configuration {
            routes,
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = proxy.client();
    assert_own_reply(&client.get("/slow"), 504, "timeout");
    gate.open();
    upstream.wait_ended(0);
    assert_eq!(client.get("/").text(), "ok", "the client's connection is still in step");
    assert_eq!(upstream.connections(), 2, "the late answer went to nobody");
}

/// The route's timeout runs to the end of the response.
#[test]
fn the_routes_timeout_cuts_a_response_that_drips() {
    let drips = (0..100).flat_map(|_| [Step::send("1\r\na\r\n"), Step::Pass(slow_gate())]);
    let steps = [
        Step::Message,
        Step::send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ]
    .into_iter()
    .chain(drips);
    let upstream = Upstream::each([steps.collect::<Vec<_>>()]);
    let proxy = Proxy::start(
        &Configuration {
            route: "timeout: 500ms",
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let broken = client
        .try_response()
        .expect_err("the response takes longer than its route allows");
    assert!(!broken.bytes.ends_with(b"0\r\n\r\n"), "{broken}");
}

/// Opens by itself after a while.
fn slow_gate() -> Gate {
    let gate = Gate::new();
    let opener = gate.clone();
    thread::spawn(move || {
        opener.wait_arrived(1);
        thread::sleep(DRIP);
        opener.open();
    });
    gate
}

#[test]
fn no_timeout_means_none() {
    let gate = Gate::new();
    let upstream = Upstream::each([vec![
        Step::Message,
        Step::Pass(gate.clone()),
        Step::send(ok("late")),
        Step::Hold,
    ]]);
    let proxy = Proxy::start(
        &Configuration {
            route: "timeout: off",
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    client.assert_silent(Duration::from_millis(800), "no timeout");
    gate.open();
    assert_eq!(client.response().text(), "late");
}

/// Fault 103: a client that reads nothing stops the upstream, and then loses its connection.
#[test]
fn rule_10_a_client_that_does_not_read() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10737418240\r\n\r\n";
    let upstream = Upstream::each([
        vec![Step::Message, Step::send(head), Step::Pour(10 << 30), Step::Hold],
        vec![Step::serve(ok("ok"))],
    ]);
    let configuration = Configuration {
        limits: "write_timeout: 1s",
        route: "timeout: 60s",
        ..Default::default()
    };
    let proxy = Proxy::start(&configuration.to(&upstream));
    let before = proxy.resident();
    let mut greedy = proxy.client();
    greedy.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    upstream.wait_requests(1);
    let bystander = Bystander::start(&proxy.address("web"), "/");
    upstream.wait_ended(0);
    bystander.finish();
    let (poured, grown) = (upstream.poured(0), proxy.resident().saturating_sub(before));
    assert!(poured < 64 << 20, "{poured} bytes were taken for nobody");
    assert!(grown < 32 << 20, "{grown} bytes of growth");
    assert!(greedy.try_response().is_err(), "the response was cut");
}

/// Fault 101: a client that takes a little now and then has the route's time for all of it, whatever the upstream has
/// ready.
#[test]
fn a_client_that_reads_slowly_has_the_routes_time() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n";
    let upstream = Upstream::each([
        vec![Step::Message, Step::send(head), Step::Pour(1 << 30), Step::Hold],
        vec![Step::serve(ok("ok"))],
    ]);
    let configuration = Configuration {
        limits: "write_timeout: 5s",
        route: "timeout: 1s",
        ..Default::default()
    };
    let proxy = Proxy::start(&configuration.to(&upstream));
    let mut slow = proxy.client();
    let begun = Instant::now();
    slow.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    // Each piece is more than one of the kernel's, so that the proxy sees that some of it was taken.
    let mut taken = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        taken += slow.read(64 << 10).len();
        thread::sleep(DRIP);
        if upstream.wait_ended_within(0, Duration::ZERO) {
            break;
        }
    }
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{taken} bytes in {:?}",
        begun.elapsed()
    );
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
    assert!(slow.try_response().is_err(), "it was cut");
    assert_eq!(proxy.get("/").text(), "ok");
}

/// An answer of which the proxy holds the rest is not over: its client is not idle until it has taken that.
#[test]
fn a_client_that_reads_slowly_is_not_idle() {
    let length = 260_000;
    let upstream = Upstream::repeating(ok(&"a".repeat(length)));
    let configuration = Configuration {
        limits: "idle_timeout: 300ms, write_timeout: 20s",
        ..Default::default()
    };
    let proxy = Proxy::start(&configuration.to(&upstream));
    let Address::Tcp(address) = proxy.address("web") else {
        panic!("the listener is TCP");
    };
    let mut slow = Client::over(Socket::Tcp(with_small_buffer(&address)));
    slow.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    slow.read_head();
    // Of what the proxy and its kernel hold in the end, much is left after three times the idle timeout.
    let mut taken = 0;
    while taken < length {
        let piece = slow.read((length - taken).min(4_000));
        assert!(!piece.is_empty(), "cut after {taken} bytes");
        taken += piece.len();
        thread::sleep(DRIP);
    }
    slow.assert_closed("now it is idle");
}

/// Fault 101: a request for a thousand ranges is one request, and what comes back is what the upstream says.
#[test]
fn ranges_are_not_amplified() {
    let upstream = Upstream::repeating(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/10000\r\nContent-Length: 4\r\n\r\ngood",
    );
    let proxy = Proxy::start(&plain(&upstream));
    let ranges = vec!["0-"; 1_000].join(",");
    let request = format!("GET / HTTP/1.1\r\nHost: a.example\r\nRange: bytes={ranges}\r\n\r\n");
    let answer = proxy.client().exchange(request);
    assert_eq!((answer.status(), answer.text()), (206, "good".to_owned()));
    let sent = upstream.take_request("one");
    assert_eq!(sent.value("range"), Some(&*format!("bytes={ranges}")));
}

/// Fault 104: an upstream that does not read stops the client, and memory stays as it is.
#[test]
fn an_upstream_that_does_not_read() {
    let gate = Gate::new();
    let upstream = Upstream::each([vec![Step::Head, Step::Pass(gate.clone()), Step::Close]]);
    let proxy = Proxy::start(
        &Configuration {
            route: "timeout: 1s",
            ..Default::default()
        }
        .to(&upstream),
    );
    let before = proxy.resident();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1073741824\r\n\r\n");
    let piece = vec![b'a'; 1 << 20];
    let taken = (0..1024).take_while(|_| client.try_send(&piece)).count();
    assert!(taken < 64, "{taken} MiB were taken for nobody");
    let grown = proxy.resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes of growth");
    gate.open();
}

/// Rule 11: the refusal can be read although the client is still sending (a close with unread bytes is an RST, which
/// throws the refusal away).
#[test]
fn rule_11_a_refusal_can_be_read_while_sending() {
    let upstream = Upstream::saying("ok");
    let routes = "  - { name: static, match: { path: { exact: /static } }, respond: { status: 403, body: no } }";
    let proxy = Proxy::start(
        &Configuration {
            routes,
            ..Default::default()
        }
        .to(&upstream),
    );
    let megabyte = "a".repeat(1 << 20);
    for (name, request, status) in [
        (
            "field too large",
            format!("GET / HTTP/1.1\r\nHost: a.example\r\nX-A: {megabyte}\r\n\r\n"),
            431,
        ),
        (
            "no host, large body",
            format!(
                "POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{megabyte}",
                megabyte.len()
            ),
            400,
        ),
        (
            "refused route, large body",
            format!(
                "POST /static HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n{megabyte}",
                megabyte.len()
            ),
            403,
        ),
        (
            "expectation, large body",
            format!(
                "POST / HTTP/1.1\r\nHost: a.example\r\nExpect: tea\r\nContent-Length: {}\r\n\r\n{megabyte}",
                megabyte.len()
            ),
            417,
        ),
    ] {
        for _ in 0..5 {
            let mut client = proxy.client();
            client.try_send(&request);
            assert_eq!(client.response().status(), status, "{name}");
        }
    }
    assert_eq!(upstream.connections(), 0);
}

/// Rule 11: the proxy does not swallow an endless body after its answer.
#[test]
fn rule_11_draining_is_bounded() {
    let upstream = Upstream::saying("ok");
    let routes = "  - { name: static, match: { path: { exact: /static } }, respond: { status: 403, body: no } }";
    let proxy = Proxy::start(
        &Configuration {
            routes,
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = proxy.client();
    client.send("POST /static HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.response().status(), 403);
    let chunk = format!("10000\r\n{}\r\n", "a".repeat(0x10000));
    let taken = (0..8192).take_while(|_| client.try_send(&chunk)).count();
    assert!(taken < 2048, "{taken} chunks of 64 KiB were taken for nobody");
}

#[test]
fn connections_over_the_limit_do_not_harm_those_within() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(
        &Configuration {
            limits: "max_connections: 4",
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut within: Vec<_> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut within {
        assert_eq!(client.get("/").text(), "ok");
    }
    let mut over = proxy.client();
    over.try_send("GET /over HTTP/1.1\r\nHost: a.example\r\n\r\n");
    over.assert_silent_or_closed(Duration::from_millis(300));
    for client in &mut within {
        assert_eq!(client.get("/").text(), "ok");
    }
    assert!(upstream.requests().iter().all(|request| request.target() != "/over"));
    drop(within);
    let deadline = Instant::now() + tamis_integration::DEADLINE;
    while Client::connect(&proxy.address("web")).try_get("/again").is_none() {
        assert!(Instant::now() < deadline, "places do not become free");
    }
}
