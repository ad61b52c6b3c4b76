//! The harness without a proxy: scripted peers, clients and nginx against each other, so that a failure elsewhere is
//! the proxy's.

use std::time::{Duration, Instant};

use tamis_integration::message::Cause;
use tamis_integration::nginx::Nginx;
use tamis_integration::socket::Found;
use tamis_integration::upstream::{BlackHole, Refusing, Script, ok};
use tamis_integration::wasmtime::Wasmtime;
use tamis_integration::{Client, Folder, Gate, Step, Upstream};

use crate::support::wasi_component;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

#[test]
fn an_upstream_answers_and_remembers() {
    let folder = Folder::new();
    let script = || Script::Each(vec![vec![Step::serve(ok("ok"))]]);
    for upstream in [
        Upstream::start(script()),
        Upstream::start_unix(&folder.path("a.sock"), script()),
    ] {
        let mut client = Client::connect(upstream.address());
        assert_eq!(
            (client.get("/1").text(), client.get("/2").text()),
            ("ok".into(), "ok".into())
        );
        let post =
            "POST /3 HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx: y\r\n\r\n";
        assert_eq!(client.exchange(post).text(), "ok");
        let requests = upstream.take_requests();
        let targets: Vec<_> = requests.iter().map(|request| request.target()).collect();
        assert_eq!(targets, ["/1", "/2", "/3"]);
        assert_eq!(
            (requests[2].text().as_str(), requests[2].trailers[0].value.as_str()),
            ("ab", "y")
        );
        assert!(upstream.received(0).ends_with(post.as_bytes()));
        assert_eq!(upstream.connections(), 1);
        client.finish();
        assert_eq!(upstream.wait_ended(0), "Fin");
        client.assert_closed("an upstream closes after its client");
    }
}

#[test]
fn endings_can_be_told_apart() {
    for (last, cause) in [
        (Step::Close, Cause::Fin),
        (Step::Reset, Cause::Reset),
        (Step::Finish, Cause::Fin),
    ] {
        let half = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe";
        let upstream = Upstream::each([vec![Step::Head, Step::send(half), last, Step::Hold]]);
        let broken = Client::connect(upstream.address())
            .send(GET)
            .try_response()
            .expect_err("half a response");
        assert_eq!(broken.cause, cause);
        // An RST may overtake what was sent before it.
        assert!(cause == Cause::Reset || broken.bytes == half.as_bytes(), "{broken}");
    }
}

#[test]
fn a_client_resets_too() {
    let upstream = Upstream::each([vec![Step::Head, Step::Hold]]);
    let mut client = Client::connect(upstream.address());
    client.send(GET);
    upstream.wait_connections(1);
    client.reset();
    assert_eq!(upstream.wait_ended(0), "Reset");
}

#[test]
fn a_script_waits_where_it_is_told() {
    let gate = Gate::new();
    let upstream = Upstream::each([vec![
        Step::Bytes(4),
        Step::Pass(gate.clone()),
        Step::send("x"),
        Step::Hold,
    ]]);
    let mut client = Client::connect(upstream.address());
    client.send("four");
    gate.wait_arrived(1);
    client.assert_silent(Duration::from_millis(50), "before the gate is open");
    gate.open();
    assert_eq!(client.read(1), b"x");
    upstream.send_unasked(0, b"y");
    assert_eq!(client.read(1), b"y");
    upstream.close(0);
    assert!(client.ending().is_clean());
}

#[test]
fn pouring_stops_when_nobody_reads() {
    let upstream = Upstream::each([vec![Step::Head, Step::Pour(1 << 30), Step::Hold]]);
    let mut client = Client::connect(upstream.address());
    client.send(GET);
    assert_eq!(client.read(100_000), vec![0; 100_000]);
    client.reset();
    upstream.wait_ended(0);
    assert!(
        (100_000..1 << 30).contains(&upstream.poured(0)),
        "{}",
        upstream.poured(0)
    );
}

#[test]
fn refusing_ports_refuse_and_black_holes_are_silent() {
    let refusing = Refusing::new();
    let refused = refusing
        .address()
        .connect(Duration::from_secs(5))
        .expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let hole = BlackHole::new();
    let start = Instant::now();
    let silent = hole
        .address()
        .connect(Duration::from_millis(300))
        .expect_err("nobody accepts");
    assert_eq!(silent.kind(), std::io::ErrorKind::TimedOut);
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn nginx_serves_and_stores() {
    let nginx = Nginx::start();
    let mut client = Client::connect(nginx.address());
    assert_eq!(client.get("/small").text(), "ok");
    let put = "PUT /upload/a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(client.exchange(put).status(), 201);
    assert_eq!(client.get("/upload/a").text(), "hello");
    assert_eq!(nginx.folder().read("www/upload/a"), "hello");
    drop(nginx);
    assert_ne!(client.ending().how, Found::Nothing);
}

/// What the other tests compare Tamis to.
#[test]
fn wasmtime_serves_components() {
    for name in ["rust-service-02", "rust-service-03"] {
        let Some(component) = wasi_component(name) else {
            continue;
        };
        let Some(wasmtime) = Wasmtime::serve(&component) else {
            return;
        };
        let mut client = Client::connect(wasmtime.address());
        assert_eq!(client.get("/hello").text(), "hello\n", "{name}");
        let post = "POST /echo HTTP/1.1\r\nHost: a.example\r\nTrailer: x\r\nTE: trailers\r\n\
                    Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx: y\r\n\r\n";
        let echo = client.exchange(post);
        assert_eq!(
            (echo.text().as_str(), echo.trailers[0].value.as_str()),
            ("ab", "y"),
            "{name}"
        );
    }
}
