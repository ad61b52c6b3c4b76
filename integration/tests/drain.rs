//! The end of the process: readiness first, then the connections, then the deadline; exit status 0.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tamis_integration::upstream::ok;
use tamis_integration::{DEADLINE, Gate, Proxy, Step, Upstream};

use crate::support::{Configuration, plain, wait_until};

/// An upstream whose first answer waits for the gate.
fn gated() -> (Upstream, Gate) {
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
    (upstream, gate)
}

fn wait_not_ready(proxy: &Proxy) {
    wait_until("not ready", || proxy.admin("GET", "/ready").status() == 503);
}

/// A balancer that polls readiness learns of the drain before anybody is turned away.
#[test]
fn readiness_says_no_before_the_listeners_close() {
    let upstream = Upstream::saying("ok");
    let with = |delay: &str| {
        let top = format!("drain_delay: {delay}");
        Configuration {
            top: &top,
            ..Default::default()
        }
        .to(&upstream)
    };
    let mut proxy = Proxy::start(&with("10m"));
    let mut kept = proxy.client();
    kept.get("/");
    proxy.signal(Signal::TERM);
    wait_not_ready(&proxy);
    for client in [&mut proxy.client(), &mut kept] {
        let answer = client.get("/");
        assert_eq!((answer.status(), answer.closes()), (200, false), "it serves as before");
    }
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit().code(), Some(0), "a second signal ends the delay too");

    let mut proxy = Proxy::start(&with("300ms"));
    let (address, start) = (proxy.address("web"), Instant::now());
    proxy.signal(Signal::TERM);
    wait_until("nobody listens any more", || address.connect(DEADLINE).is_err());
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

/// Fault 121.
#[test]
fn a_drain_lets_exchanges_finish() {
    let (upstream, gate) = gated();
    let mut proxy = Proxy::start(&plain(&upstream));
    assert_eq!(proxy.admin("GET", "/ready").status(), 200);
    let (mut busy, mut idle) = (proxy.client(), proxy.client());
    busy.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    assert_eq!(idle.get("/").text(), "ok");
    proxy.signal(Signal::TERM);
    wait_not_ready(&proxy);
    assert_eq!(proxy.admin("GET", "/live").status(), 200, "draining is alive");
    match idle.try_get("/") {
        Some(response) => assert!(response.closes(), "{response:?}"),
        None => assert!(idle.ending().bytes.is_empty()),
    }
    gate.open();
    let response = busy.response();
    assert_eq!(response.text(), "late");
    assert!(response.closes(), "no `connection: close`: {response:?}");
    busy.assert_closed("drained");
    assert_eq!(proxy.wait_exit().code(), Some(0));
    proxy.log().wait_end();
    assert!(proxy.log().lines().iter().any(|line| line.message() == "draining"));
}

/// A response that is on its way is sent to its end.
#[test]
fn a_drain_lets_long_responses_finish() {
    let gate = Gate::new();
    let chunk = "5\r\nhello\r\n";
    let upstream = Upstream::each([vec![
        Step::Message,
        Step::send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}")),
        Step::Pass(gate.clone()),
        Step::send(format!("{chunk}0\r\n\r\n")),
        Step::Hold,
    ]]);
    let mut proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    proxy.signal(Signal::TERM);
    wait_not_ready(&proxy);
    gate.open();
    assert_eq!(client.response().text(), "hellohello");
    client.assert_closed("drained");
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn a_drain_ends_at_its_deadline() {
    let (upstream, gate) = gated();
    let mut proxy = Proxy::start(
        &Configuration {
            top: "drain_timeout: 500ms",
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    let start = Instant::now();
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
    assert!(
        start.elapsed() >= Duration::from_millis(400),
        "it did not wait: {:?}",
        start.elapsed()
    );
    assert!(client.try_response().is_err(), "an answer out of nothing");
    gate.open();
}

#[test]
fn an_idle_proxy_ends_at_once() {
    let upstream = Upstream::saying("ok");
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut proxy = Proxy::start(&plain(&upstream));
        let mut idle = proxy.client();
        assert_eq!(idle.get("/").text(), "ok");
        let start = Instant::now();
        proxy.signal(signal);
        assert_eq!(proxy.wait_exit().code(), Some(0), "{signal:?}");
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{signal:?}: {:?}",
            start.elapsed()
        );
        idle.assert_closed("the process is gone");
        proxy.log().wait_end();
        let lines = proxy.log().lines();
        let says = lines
            .iter()
            .any(|line| line.message().starts_with("SIGINT: ending at once"));
        assert_eq!(says, signal == Signal::INT, "{signal:?}");
    }
}

#[test]
fn a_second_signal_ends_a_drain() {
    let (upstream, gate) = gated();
    let mut proxy = Proxy::start(
        &Configuration {
            top: "drain_timeout: 10m",
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    proxy.signal(Signal::TERM);
    wait_not_ready(&proxy);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
    gate.open();
}

#[test]
fn an_admin_request_drains_too() {
    let (upstream, gate) = gated();
    let mut proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    assert_eq!(proxy.admin("GET", "/drain").status(), 405);
    assert!([200, 202].contains(&proxy.admin("POST", "/drain").status()));
    wait_not_ready(&proxy);
    gate.open();
    assert_eq!(client.response().text(), "late");
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

/// Signals that mean nothing here do nothing.
#[test]
fn other_signals_are_harmless() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    proxy.signal(Signal::PIPE);
    for _ in 0..50 {
        proxy.signal(Signal::HUP);
    }
    assert_eq!(proxy.get("/").text(), "ok");
    assert_eq!(proxy.generation(), 1);
}

/// A connection that is to end may still be used for a second, because its next request may be on its way; the answer
/// to that one tells the client.
#[test]
fn a_drain_answers_the_request_that_is_on_its_way() {
    let upstream = Upstream::saying("ok");
    for fresh in [true, false] {
        let mut proxy = Proxy::start(&plain(&upstream));
        let mut held = proxy.client();
        if !fresh {
            assert_eq!(held.get("/").text(), "ok");
        }
        // It was accepted when a later one was answered.
        assert_eq!(proxy.get("/").text(), "ok");
        proxy.signal(Signal::TERM);
        proxy.log().wait_message("draining");
        let response = held.get("/");
        assert_eq!(
            (response.text().as_str(), response.closes()),
            ("ok", true),
            "fresh: {fresh}"
        );
        held.assert_closed("it was told");
        let start = Instant::now();
        assert_eq!(proxy.wait_exit().code(), Some(0));
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
}

/// A head that has begun is answered, and has its own deadline.
#[test]
fn a_drain_waits_for_the_rest_of_a_head() {
    let upstream = Upstream::saying("ok");
    let mut proxy = Proxy::start(&plain(&upstream));
    let mut slow = proxy.client();
    slow.send("GET / HTTP/1.1\r\nHo");
    assert_eq!(proxy.get("/").text(), "ok");
    proxy.signal(Signal::TERM);
    proxy.log().wait_message("draining");
    slow.assert_silent(Duration::from_millis(1500), "longer than an idle one is given");
    slow.send("st: a.example\r\n\r\n");
    let response = slow.response();
    assert_eq!((response.text().as_str(), response.closes()), ("ok", true));
    assert_eq!(proxy.wait_exit().code(), Some(0));
}
