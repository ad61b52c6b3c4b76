//! Middlewares of `wasi:http` as filters: what they see, what they change, and what they cannot do to others.

use std::io::Write as _;
use std::time::Duration;

use serde_json::Value;
use tamis_integration::gate::Gate;
use tamis_integration::proxy::check;
use tamis_integration::upstream::{Script, Step, ok};
use tamis_integration::wat::{Act, Guest};
use tamis_integration::{DEADLINE, Folder, Proxy, Upstream};

use crate::support::{
    apply, assert_own_reply, component, each, filter_state, forwarded, relayed, wait_until, wasi_component,
};

/// A chain of these filters before one upstream; `filters` are entries of the block, each a line.
fn configuration(upstream: &Upstream, chain: &str, filters: &[String]) -> String {
    let filters: String = filters.iter().map(|filter| format!("  {filter}\n")).collect();
    format!(
        "\
workers: 1
admin: {{ address: 127.0.0.1:0 }}
access_log: {{ file: access.log }}
listeners:
  web: {{ address: 127.0.0.1:0 }}
clusters:
  servers: {{ endpoints: [\"{}\"] }}
filters:
{filters}routes:
  - {{ match: {{ path: {{ prefix: /plain }} }}, cluster: servers }}
  - {{ name: all, filters: [{chain}], cluster: servers, upgrades: [websocket, own] }}
",
        upstream.address()
    )
}

fn middleware(name: &str, component: &str, settings: &str) -> String {
    let path = wasi_component(component).expect("`make wasi` builds those in Rust");
    format!("{name}: {{ component: {}{settings} }}", path.display())
}

fn one(upstream: &Upstream, component: &str, settings: &str) -> Proxy {
    Proxy::start(&configuration(upstream, "it", &[middleware("it", component, settings)]))
}

fn odd(upstream: &Upstream, settings: &str) -> Proxy {
    one(
        upstream,
        "rust-odd-03",
        &format!(", grants: [clocks, {{ http: [servers] }}]{settings}"),
    )
}

fn echoing() -> Upstream {
    Upstream::answering(|request| ok(&format!("{} {} {}", request.method(), request.target(), request.text())))
}

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")
}

fn post(target: &str, fields: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n{body}")
}

fn does(odd: &str) -> String {
    get("/", &format!("X-Odd: {odd}\r\n"))
}

fn records(proxy: &Proxy, count: usize) -> Vec<Value> {
    let lines = proxy.folder().wait_lines("access.log", count);
    lines
        .iter()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn one_that_does_nothing_changes_not_a_byte() {
    let upstream = Upstream::saying("answer");
    let proxy = one(&upstream, "rust-pass-03", "");
    let requests = [
        get("/a?b=c", "X-Own: 1\r\nTE: trailers\r\nCookie: a=b\r\n"),
        "HEAD /head HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(),
        "DELETE /gone HTTP/1.1\r\nHost: a.example:81\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(),
        post("/sized", "Content-Length: 4\r\n", "four"),
        post(
            "/chunked",
            "Transfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n0\r\nX-Last: 1\r\n\r\n",
        ),
    ];
    for request in &requests {
        let through = |target: &str| {
            let request = request.replacen(" /", &format!(" {target}/"), 1);
            let mut client = proxy.client();
            client.send(&request);
            let response = match request.starts_with("HEAD") {
                true => client.response_to_head(),
                false => client.response(),
            };
            let strip = |text: String| text.replacen(&format!(" {target}/"), " /", 2);
            let sent = strip(forwarded(&upstream.take_request(&request)));
            (sent, strip(relayed(&response)))
        };
        let (with, without) = (through(""), through("/plain"));
        assert_eq!(with, without, "{request}");
    }
    assert_eq!(filter_state(&proxy, "it")["kind"], "middleware");
}

#[test]
fn one_changes_both_heads_and_hands_the_bodies_on() {
    let upstream = echoing();
    let proxy = one(&upstream, "rust-stamp-03", "");
    let response = proxy
        .client()
        .exchange(post("/p", "Content-Length: 4\r\nX-Own: a\r\nX-Own: b\r\n", "four"));
    assert_eq!((response.status(), response.text().as_str()), (200, "POST /p four"));
    assert_eq!(response.value("x-stamp"), Some("rust"));
    assert_eq!(response.value("content-length"), Some("12"));
    let request = upstream.take_request("it was passed on");
    assert_eq!(request.value("x-stamp"), Some("rust"));
    assert_eq!(request.value("content-length"), Some("4"));
    assert_eq!(request.values("x-own"), ["a", "b"]);
    assert_eq!(request.value("host"), Some("a.example"));
    // A request that has no body is sent with none.
    proxy.client().get("/nothing");
    let request = upstream.take_request("it was passed on");
    assert_eq!(request.value("transfer-encoding"), None, "{request:?}");
    assert_eq!(request.value("content-length"), None);
}

#[test]
fn one_answers_by_itself_and_changes_bodies_as_they_pass() {
    let upstream = echoing();
    let proxy = one(&upstream, "rust-guard-03", "");
    let mut client = proxy.client();
    let refused = client.exchange(post("/private/x", "Content-Length: 4\r\n", "four"));
    assert_eq!((refused.status(), refused.text().as_str()), (401, "who are you?\n"));
    assert_eq!(refused.value("www-authenticate"), Some("Basic realm=\"private\""));
    assert_eq!(upstream.requests().len(), 0, "nobody behind it was asked");
    let changed = client.exchange(post(
        "/Path",
        "Transfer-Encoding: chunked\r\n",
        "4\r\nFoUr\r\n0\r\n\r\n",
    ));
    assert_eq!(changed.status(), 200);
    assert_eq!(upstream.take_request("it was passed on").text(), "four");
    let nothing = client.get("/nothing");
    assert_eq!(nothing.text(), "GET /NOTHING ");
    let request = upstream.take_request("it was passed on");
    assert_eq!(
        request.value("transfer-encoding"),
        None,
        "a request without a body has none"
    );
}

/// One that componentize-py made, with all that its runtime imports.
#[test]
fn one_in_another_language_stands_beside_them() {
    if wasi_component("python-middleware-03").is_none() {
        return;
    }
    let upstream = echoing();
    let filters = [
        middleware("python", "python-middleware-03", ", grants: [clocks, random]"),
        middleware("stamp", "rust-stamp-03", ""),
    ];
    let yaml = configuration(&upstream, "python, stamp", &filters);
    let proxy = Proxy::start_within(&Folder::new(), &yaml, Duration::from_secs(120));
    let answer = proxy.client().exchange(post("/", "Content-Length: 4\r\n", "four"));
    assert_eq!((answer.status(), answer.text().as_str()), (200, "POST / four"));
    assert_eq!(
        (answer.value("x-python"), answer.value("x-stamp")),
        (Some("3.0"), Some("rust"))
    );
    let request = upstream.take_request("it was passed on");
    assert_eq!(
        (request.value("x-python"), request.value("x-stamp")),
        (Some("3.0"), Some("rust"))
    );
}

/// It has something to do for itself whenever it is moved, between any two pieces.
#[test]
fn one_that_yields_between_pieces_loses_none() {
    const PIECES: usize = 200;
    let chunks: String = (0..PIECES).map(|number| format!("4\r\n{number:04}\r\n")).collect();
    let whole: String = (0..PIECES).map(|number| format!("{number:04}")).collect();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nTrailer: x-last\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\nX-Last: 1\r\n\r\n"
    );
    let upstream = Upstream::answering(move |_| answer.clone().into_bytes());
    let proxy = odd(&upstream, "");
    let body = format!("{chunks}0\r\n\r\n");
    let mut client = proxy.client();
    for _ in 0..20 {
        let answer = client.exchange(post("/", "X-Odd: copy\r\nTransfer-Encoding: chunked\r\n", &body));
        assert_eq!((answer.status(), answer.text()), (200, whole.clone()));
        assert_eq!(upstream.take_request("it was passed on").text(), whole);
    }
}

/// Processor time is what it computes: waiting for pieces takes none, however many there are.
#[test]
fn one_is_not_charged_for_what_it_waits_for() {
    let upstream = echoing();
    let proxy = one(&upstream, "rust-stamp-03", ", limits: { cpu: 50ms }");
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..120 {
        client.send("1\r\na\r\n");
        // As slow as its network is, so that ticks pass while it waits; nothing is waited for.
        std::thread::sleep(Duration::from_millis(6));
    }
    client.send("0\r\n\r\n");
    let answer = client.response();
    assert_eq!(
        (answer.status(), answer.text()),
        (200, format!("POST / {}", "a".repeat(120)))
    );
}

/// Pieces come through as they are sent, both ways at the same time.
#[test]
fn bodies_stream() {
    let upstream = Upstream::each([vec![
        Step::Head,
        Step::Bytes(10),
        Step::send("HTTP/1.1 200 OK\r\nTrailer: x-last\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"),
        Step::Bytes(14),
        Step::send("3\r\ntwo\r\n0\r\nX-Last: 1\r\n\r\n"),
        Step::Hold,
    ]]);
    for name in ["rust-guard-03", "rust-stamp-03"] {
        let proxy = one(&upstream, name, "");
        let mut client = proxy.client();
        client.send(post(
            "/",
            "Transfer-Encoding: chunked\r\nTE: trailers\r\n",
            "5\r\nfirst\r\n",
        ));
        assert_eq!(client.read_head().status(), 200, "{name}");
        assert_eq!(client.read(8).to_ascii_lowercase(), b"3\r\none\r\n", "{name}");
        client.send("4\r\nmore\r\n0\r\n\r\n");
        let rest = client.read(24).to_ascii_lowercase();
        assert_eq!(
            rest,
            b"3\r\ntwo\r\n0\r\nx-last: 1\r\n\r\n",
            "{name}: {}",
            rest.escape_ascii()
        );
    }
    for connection in 0..2 {
        let received = upstream.received(connection);
        assert!(
            received.ends_with(b"5\r\nfirst\r\n4\r\nmore\r\n0\r\n\r\n"),
            "{}",
            received.escape_ascii()
        );
    }
}

#[test]
fn they_stand_in_a_chain_in_the_written_order() {
    let upstream = echoing();
    let filters = [
        middleware("stamp", "rust-stamp-03", ""),
        "native: { native: headers, config: { request: { set: { x-stamp: native } }, response: { append: { x-trace: native } } } }"
            .to_owned(),
        middleware("guard", "rust-guard-03", ""),
        format!("own: {{ component: {}, grants: [wasi] }}", component("touch").display()),
    ];
    let orders = [
        ("stamp, native, guard, own", Some("native")),
        ("native, own, guard, stamp", Some("rust")),
    ];
    for (chain, last) in orders {
        let proxy = Proxy::start(&configuration(&upstream, chain, &filters));
        let answer = proxy.client().exchange(post("/x", "Content-Length: 4\r\n", "FOUR"));
        assert_eq!(
            (answer.status(), answer.text().as_str()),
            (200, "POST /X FOUR"),
            "{chain}"
        );
        let request = upstream.take_request("it was passed on");
        assert_eq!(request.text(), "four", "{chain}");
        assert_eq!(request.values("x-stamp").last().copied(), last, "{chain}");
        assert_eq!(answer.values("x-stamp"), ["rust"], "{chain}");
        // What one of them answers by itself passes those before it, and not those behind.
        let refused = proxy.client().get("/private");
        assert_eq!(refused.status(), 401, "{chain}");
        assert_eq!(
            refused.value("x-stamp").is_some(),
            chain.starts_with("stamp"),
            "{chain}"
        );
        assert_eq!(upstream.requests().len(), 0, "{chain}");
    }
}

#[test]
fn what_it_passes_on_is_checked() {
    let upstream = echoing();
    let proxy = odd(&upstream, "");
    let mut client = proxy.client();
    let moved = client.exchange(post("/here", "X-Odd: elsewhere\r\nContent-Length: 1\r\n", "x"));
    assert_eq!(moved.text(), "PUT /else?where x");
    assert_eq!(
        upstream.take_request("it was passed on").value("host"),
        Some("elsewhere.example:81")
    );
    let outside = client.exchange(does("outside"));
    assert_eq!(outside.status(), 500, "{outside:?}");
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(client.exchange(does("ask")).text(), "GET / ");
    let requests = upstream.take_requests();
    let [asked, request] = requests.as_slice() else {
        panic!("{requests:?}")
    };
    assert_eq!((asked.target(), asked.value("transfer-encoding")), ("/asked", None));
    assert_eq!(request.value("x-asked"), Some("200"));
    assert_eq!(asked.value("x-request-id"), request.value("x-request-id"));
    let whole = client.exchange(post("/", "X-Odd: whole\r\nContent-Length: 5\r\n", "bytes"));
    assert_eq!(whole.text(), "5 bytes\n");
    assert_eq!(
        client.exchange(does("nothing")).text(),
        "GET / ",
        "the connection goes on"
    );
}

/// The proxy's own answer comes back through all of them, however late it is by then.
#[test]
fn a_time_out_is_told_through_a_chain() {
    let upstream = Upstream::each([vec![Step::Message, Step::Hold]]);
    let filters = [
        middleware("one", "rust-stamp-03", ""),
        middleware("two", "rust-guard-03", ""),
        middleware("three", "rust-pass-03", ""),
    ];
    let yaml =
        configuration(&upstream, "one, two, three", &filters).replace("name: all,", "name: all, timeout: 300ms,");
    let proxy = Proxy::start(&yaml);
    let late = proxy.client().exchange(post("/", "Content-Length: 4\r\n", "four"));
    assert_eq!((late.status(), late.value("x-stamp")), (504, Some("rust")), "{late:?}");
    assert!(late.text().starts_with("504 GATEWAY TIMEOUT"), "{}", late.text());
}

/// Whoever leaves in the middle of a body that nobody reads takes the guest along, who is not to blame.
#[test]
fn a_client_that_leaves_is_noticed() {
    let upstream = echoing();
    let proxy = odd(&upstream, ", limits: { wall: 20s }");
    for sent in ["", "some"] {
        let mut client = proxy.client();
        client.send(post("/", "X-Odd: never\r\nContent-Length: 5000\r\n", sent));
        wait_until("it is under way", || filter_state(&proxy, "it")["instances_idle"] == 0);
        client.reset();
        wait_until("it is over", || filter_state(&proxy, "it")["instances"] == 0);
    }
    for record in records(&proxy, 2) {
        assert_eq!(
            (&record["status"], &record["reason"]),
            (&499.into(), &"client_closed".into()),
            "{record}"
        );
    }
    assert_eq!(proxy.metrics().sum("tamis_filter_failures_total", &[]), 0.0);
}

#[test]
fn those_who_wait_for_an_instance_are_told_of_every_place() {
    let upstream = echoing();
    let proxy = odd(
        &upstream,
        ", kind: middleware, breaker: off, instances: { concurrent: 4 }, \
         limits: { instances: 1, wait: 20s, wall: 2s, cpu: 5s }",
    );
    let mut busy: Vec<_> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut busy {
        client.send(does("never"));
    }
    wait_until("all places are taken", || {
        filter_state(&proxy, "it")["instances_idle"] == 0
    });
    let mut leaving: Vec<_> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut leaving {
        client.send(does("nothing"));
    }
    let mut waiting: Vec<_> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut waiting {
        client.send(does("nothing"));
    }
    wait_until("they wait", || filter_state(&proxy, "it")["waiting"] == 8);
    drop(leaving);
    wait_until("those who left do not", || filter_state(&proxy, "it")["waiting"] == 4);
    for client in &mut waiting {
        assert_eq!(
            client.response().text(),
            "GET / ",
            "a place is free when the others' time is over"
        );
    }
    wait_until("nobody waits", || filter_state(&proxy, "it")["waiting"] == 0);
}

#[test]
fn what_stands_behind_runs_once() {
    let upstream = echoing();
    let proxy = odd(&upstream, "");
    let answer = proxy.client().exchange(does("twice"));
    assert_eq!((answer.status(), answer.value("x-second")), (200, Some("refused")));
    assert_eq!(upstream.take_requests().len(), 1);
}

#[test]
fn one_that_does_not_wait_answers_first() {
    let upstream = Upstream::each([vec![Step::Message, Step::Hold]]);
    let proxy = odd(&upstream, "");
    let answer = proxy.client().exchange(does("impatient"));
    assert_eq!((answer.status(), answer.text().as_str()), (504, "impatient\n"));
    upstream.wait_ended(0);
    let record = &records(&proxy, 1)[0];
    assert_eq!(
        (&record["status"], &record["reason"]),
        (&504.into(), &Value::Null),
        "{record}"
    );
}

/// What fails, as whom, and whether nobody else suffers.
#[test]
fn a_bad_one_hurts_its_own_exchange_alone() {
    let cases = [
        ("trap", 500, "trap"),
        ("error", 403, "filter_error"),
        ("spin", 500, "cpu"),
        ("trap-back", 500, "trap"),
        ("error-back", 503, "filter_error"),
        ("trap-upload", 500, "trap"),
        ("outside", 500, "bad_reply"),
    ];
    hurts_itself_alone("limits: { cpu: 50ms, wall: 20s }", &cases);
    let cases = [("never", 500, "wall"), ("never-back", 500, "wall")];
    hurts_itself_alone("limits: { cpu: 50ms, wall: 300ms }", &cases);
}

fn hurts_itself_alone(limits: &str, cases: &[(&str, u16, &str)]) {
    let upstream = echoing();
    let proxy = odd(&upstream, &format!(", breaker: off, {limits}"));
    let mut other = proxy.client();
    for (number, &(odd, status, reason)) in cases.iter().enumerate() {
        let fields = format!("X-Odd: {odd}\r\nContent-Length: 4\r\n");
        let reply = proxy.client().exchange(post("/", &fields, "four"));
        assert_own_reply(&reply, status, odd);
        let record = &records(&proxy, 2 * number + 1)[2 * number];
        assert_eq!(record["reason"], reason, "{record}");
        assert_eq!(other.get("/").text(), "GET / ", "{odd}: the others go on");
    }
}

#[test]
fn the_requests_own_body_may_be_the_answer() {
    let upstream = echoing();
    let proxy = odd(&upstream, "");
    let mut client = proxy.client();
    for _ in 0..3 {
        let echoed = client.exchange(post("/", "X-Odd: echo\r\nContent-Length: 4\r\n", "four"));
        assert_eq!((echoed.status(), echoed.text().as_str()), (200, "four"));
        if echoed.closes() {
            client = proxy.client();
        }
    }
    let made = proxy.client().exchange(does("make"));
    assert_eq!(made.text(), "POST / bytes");
    assert_eq!(upstream.take_request("passed on").value("content-length"), Some("5"));
    // What it has begun to read it cannot hand on whole.
    let chunked = "X-Odd: peek\r\nTransfer-Encoding: chunked\r\n";
    let peeked = proxy.client().exchange(post("/", chunked, "4\r\nfour\r\n0\r\n\r\n"));
    assert_own_reply(&peeked, 500, "peek");
}

/// RFC 9112 9.3: what came with the head is no reason to end the connection, read by the guest or not.
#[test]
fn a_small_request_that_is_answered_early_keeps_its_connection() {
    let upstream = echoing();
    let proxy = odd(&upstream, ", breaker: off");
    let mut client = proxy.client();
    for (odd, status) in [("echo", 200), ("make", 200), ("error", 403), ("outside", 500)] {
        let fields = format!("X-Odd: {odd}\r\nContent-Length: 4\r\n");
        let answer = client.exchange(post("/", &fields, "four"));
        assert_eq!((answer.status(), answer.closes()), (status, false), "{odd}");
    }
    assert_eq!(client.get("/next").text(), "GET /next ");
}

/// The answer is what the client sends, which waits to be told to.
#[test]
fn a_client_goes_on_before_it_is_answered_with_what_it_sends() {
    let upstream = echoing();
    let proxy = odd(&upstream, "");
    let mut client = proxy.client();
    client.send(post(
        "/",
        "X-Odd: echo\r\nExpect: 100-continue\r\nContent-Length: 4\r\n",
        "",
    ));
    let interim = client.next_response(DEADLINE).expect("a 100");
    assert_eq!(interim.start, "HTTP/1.1 100 Continue");
    assert_eq!(client.exchange("four").text(), "four");
}

/// A body that a guest holds up is its own failure, within its own time, and no endpoint's.
#[test]
fn a_body_that_never_comes_is_the_guests_fault() {
    let upstream = echoing();
    let proxy = odd(&upstream, ", breaker: off, limits: { wall: 300ms }");
    assert_own_reply(
        &proxy
            .client()
            .exchange(post("/up", "X-Odd: stall\r\nContent-Length: 4\r\n", "four")),
        500,
        "up",
    );
    let mut client = proxy.client();
    client.send(does("stall"));
    assert_eq!(client.read_head().status(), 200);
    assert!(!client.ending().bytes.ends_with(b"0\r\n\r\n"));
    for record in records(&proxy, 2) {
        assert_eq!(record["reason"], "wall", "{record}");
    }
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("tamis_upstream_failures_total", &[]), 0.0);
    let failures = |hook| metrics.sum("tamis_filter_failures_total", &[("filter", "it"), ("hook", hook)]);
    assert_eq!((failures("request_body"), failures("response_body")), (1.0, 1.0));
}

/// A filter of the contract before it works on the request's body when the middleware has its answer already.
#[test]
fn a_hook_under_way_comes_to_its_end_first() {
    let upstream = echoing();
    let folder = Folder::new();
    let slow = Guest::new()
        .on_request_body([Act::Compute(40)])
        .on_response([Act::SetResponseHeader("x-slow", b"yes".to_vec())]);
    folder.write("slow.wasm", slow.build());
    let yaml = configuration(
        &upstream,
        "slow, it",
        &[
            "slow: { component: slow.wasm, limits: { cpu: 5s, exchange_cpu: 5s, wall: 5s } }".to_owned(),
            middleware("it", "rust-odd-03", ", grants: [clocks, { http: [servers] }]"),
        ],
    );
    let proxy = Proxy::start_in(&folder, &yaml);
    for number in 0..5 {
        let fields = "X-Odd: early\r\nTransfer-Encoding: chunked\r\n";
        let pieces = "4\r\nfour\r\n".repeat(20);
        let early = proxy
            .client()
            .exchange(post("/", fields, &format!("{pieces}0\r\n\r\n")));
        assert_eq!(
            (early.status(), early.text().as_str()),
            (403, "early\n"),
            "{number}: {early:?}"
        );
        assert_eq!(
            (early.value("x-early"), early.value("x-slow")),
            (Some("yes"), Some("yes")),
            "{number}"
        );
    }
}

/// Filters of the contract before and behind it change what bodies are, and how long.
#[test]
fn lengths_are_those_of_the_bodies_that_are_there() {
    let upstream = echoing();
    let folder = Folder::new();
    let holds = Guest::new().on_request([Act::ReadBody(1 << 20)]).on_held_body([]);
    folder.write("holds.wasm", holds.build());
    folder.copy(&component("redact"), "redact.wasm");
    let redact = "redact: { component: redact.wasm, grants: [metrics], config: { patterns: [{ name: four, literals: [four], replace: fourteen }], bodies: [request], content_types: [text/plain] } }".to_owned();
    let filters = [
        "holds: { component: holds.wasm }".to_owned(),
        redact,
        middleware("it", "rust-pass-03", ""),
        middleware("other", "rust-stamp-03", ""),
    ];
    for chain in ["it, holds", "holds, it", "it, other", "it, holds, other"] {
        let proxy = Proxy::start_in(&folder, &configuration(&upstream, chain, &filters));
        let answer = proxy.client().exchange(post("/", "Content-Length: 4\r\n", "four"));
        assert_eq!(
            (answer.status(), answer.text().as_str()),
            (200, "POST / four"),
            "{chain}: {answer:?}"
        );
        let request = upstream.take_request("it was passed on");
        assert_eq!(
            (request.value("content-length"), request.text().as_str()),
            (Some("4"), "four"),
            "{chain}"
        );
    }
}

#[test]
fn one_that_may_fail_open_is_skipped() {
    let upstream = echoing();
    let proxy = odd(
        &upstream,
        ", on_failure: open, breaker: off, limits: { cpu: 50ms, wall: 300ms }",
    );
    for odd in ["trap", "never", "spin", "trap-back", "never-back"] {
        let fields = format!("X-Odd: {odd}\r\nContent-Length: 4\r\n");
        let reply = proxy.client().exchange(post("/", &fields, "four"));
        assert_eq!((reply.status(), reply.text().as_str()), (200, "POST / four"), "{odd}");
    }
    // What it has taken of a body is gone, and so is the exchange.
    let fields = "X-Odd: trap-upload\r\nContent-Length: 4\r\n";
    assert_own_reply(&proxy.client().exchange(post("/", fields, "four")), 500, "trap-upload");
}

#[test]
fn a_body_that_breaks_off_has_no_end() {
    let upstream = echoing();
    let proxy = odd(&upstream, ", breaker: off");
    for odd in ["trap-body", "short"] {
        let mut client = proxy.client();
        assert_eq!(client.send(does(odd)).read_head().status(), 200, "{odd}");
        let rest = client.ending();
        assert!(!rest.bytes.ends_with(b"0\r\n\r\n"), "{odd}: {rest:?}");
    }
    // Of the response behind, however the middleware ends what it makes of it.
    for name in ["rust-pass-03", "rust-stamp-03", "rust-guard-03"] {
        let broken = Upstream::each([vec![
            Step::Message,
            Step::send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"),
            Step::Reset,
        ]]);
        let proxy = one(&broken, name, "");
        let answer = proxy.client().send(get("/", "")).try_response();
        assert!(answer.is_err(), "{name}: {answer:?}");
        let record = &records(&proxy, 1)[0];
        assert_eq!(record["reason"], "upstream_reset", "{name}: {record}");
    }
    // And of the request.
    for name in ["rust-pass-03", "rust-stamp-03", "rust-guard-03"] {
        let upstream = echoing();
        let proxy = one(&upstream, name, "");
        let mut client = proxy.client();
        client.send(post("/", "Transfer-Encoding: chunked\r\n", "3\r\none\r\n"));
        wait_until("it is passed on", || {
            String::from_utf8_lossy(&upstream.received_all()).contains("3\r\none\r\n")
        });
        client.reset();
        upstream.wait_ended(0);
        assert!(!upstream.received_all().ends_with(b"0\r\n\r\n"), "{name}");
    }
}

/// 64 MiB each way, through a middleware that takes both bodies apart.
#[test]
fn a_large_body_takes_no_room() {
    const BYTES: usize = 64 << 20;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
    let small = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nfour";
    let upstream = Upstream::each([
        vec![Step::Message, Step::send(small)],
        vec![
            Step::Head,
            Step::Bytes(BYTES),
            Step::send(head),
            Step::Pour(BYTES as u64),
        ],
    ]);
    let proxy = one(&upstream, "rust-guard-03", ", kind: middleware, limits: { cpu: 60s }");
    // What the first of them takes, both ways, is taken once.
    let first = proxy.client().exchange(post("/", "Content-Length: 4\r\n", "four"));
    assert_eq!(first.text().to_lowercase(), "four");
    let before = proxy.resident();
    let mut client = proxy.client();
    let mut sender = client.sender();
    client.send(post("/", &format!("Content-Length: {BYTES}\r\n"), ""));
    let sending = std::thread::spawn(move || {
        let piece = vec![b'x'; 64 << 10];
        for _ in 0..BYTES / piece.len() {
            sender.write_all(&piece).expect("it is taken");
        }
    });
    assert_eq!(client.read_head().status(), 200);
    let (mut read, mut most) = (0, 0);
    while read < BYTES {
        read += client.read(1 << 20).len();
        most = most.max(proxy.resident());
    }
    sending.join().expect("it was sent");
    let growth = most.saturating_sub(before);
    assert!(growth < 16 << 20, "{growth} bytes");
}

/// What is sent again, and what a mirror gets, is what the middleware made.
#[test]
fn what_it_made_is_sent_again_and_mirrored() {
    let upstream = Upstream::each([
        vec![Step::Message, Step::Reset],
        vec![Step::Message, Step::send(ok("second")), Step::Hold],
    ]);
    let mirror = echoing();
    let yaml = configuration(&upstream, "it", &[middleware("it", "rust-guard-03", "")])
        .replace(
            "filters: [it],",
            "filters: [it], retry: { on: [reset], methods: [POST] }, mirror: { cluster: shadow },",
        )
        .replace(
            "clusters:\n",
            &format!("clusters:\n  shadow: {{ endpoints: [\"{}\"] }}\n", mirror.address()),
        );
    let proxy = Proxy::start(&yaml);
    let answer = proxy
        .client()
        .exchange(post("/", "Transfer-Encoding: chunked\r\n", "4\r\nBODY\r\n0\r\n\r\n"));
    assert_eq!((answer.status(), answer.text().as_str()), (200, "SECOND"));
    let requests = upstream.take_requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.text() == "body"), "{requests:?}");
    mirror.wait_requests(1);
    assert_eq!(mirror.take_request("the copy").text(), "body");
}

/// The handshake is an exchange like any other; then the tunnel passes by.
#[test]
fn an_upgrade_passes_by() {
    let upstream = Upstream::each([vec![
        Step::Head,
        Step::send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: own\r\nX-Theirs: 1\r\n\r\n"),
        Step::Bytes(4),
        Step::send("pong"),
        Step::Hold,
    ]]);
    let proxy = one(&upstream, "rust-stamp-03", "");
    let mut client = proxy.client();
    client.send(get("/", "Connection: upgrade\r\nUpgrade: own\r\n"));
    let head = client.read_head();
    assert_eq!(head.status(), 101);
    assert_eq!(
        (head.value("x-stamp"), head.value("x-theirs")),
        (Some("rust"), Some("1"))
    );
    assert_eq!(
        (head.value("upgrade"), head.value("content-length")),
        (Some("own"), None)
    );
    client.send("ping");
    assert_eq!(client.read(4), b"pong");
    let request = String::from_utf8_lossy(&upstream.received(0)).to_lowercase();
    assert!(
        request.contains("\r\nupgrade: own\r\n") && request.contains("\r\nx-stamp: rust\r\n"),
        "{request}"
    );
}

#[test]
fn instances_are_shared_as_it_is_written() {
    // The next request may come before the instance of the last one is at rest; then there is a second one.
    for (settings, left) in [
        ("", 1..=2),
        (", instances: fresh", 0..=0),
        (", instance_reuse: 1", 0..=0),
        (", instances: { concurrent: 4 }", 1..=1),
    ] {
        let upstream = echoing();
        let proxy = one(&upstream, "rust-stamp-03", settings);
        let mut client = proxy.client();
        for _ in 0..40 {
            assert_eq!(client.get("/hello").text(), "GET /hello ", "{settings}");
        }
        wait_until(&format!("{settings}: {left:?} are left"), || {
            let instances = filter_state(&proxy, "it")["instances"].as_u64();
            instances.is_some_and(|instances| left.contains(&instances))
        });
    }
}

/// Sixteen exchanges in one instance, all under way at once; each has its own rest of the chain.
#[test]
fn exchanges_in_one_instance_are_not_mixed_up() {
    let upstream = echoing();
    let proxy = one(&upstream, "rust-guard-03", ", instances: { concurrent: 16 }");
    // Many at first would each start one.
    proxy.client().get("/");
    let mut clients: Vec<_> = (0..16).map(|_| proxy.client()).collect();
    for round in 0..4 {
        for (index, client) in clients.iter_mut().enumerate() {
            client.send(post(
                &format!("/{round}-{index}"),
                "Transfer-Encoding: chunked\r\n",
                "1\r\nA\r\n",
            ));
        }
        for client in &mut clients {
            client.send("0\r\n\r\n");
        }
        for (index, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.response().text(), format!("POST /{round}-{index} A"));
        }
    }
    assert_eq!(filter_state(&proxy, "it")["instances"], 1);
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let path = |name: &str| wasi_component(name).expect("it is built").display().to_string();
    let (pass, odd, service) = (path("rust-pass-03"), path("rust-odd-03"), path("rust-service-03"));
    let filter = component("pass").display().to_string();
    let cases = [
        (format!("component: {pass}, kind: filter"), "but `kind` is `filter`"),
        (
            format!("component: {filter}, kind: middleware"),
            "but `kind` is `middleware`",
        ),
        (
            format!("component: {pass}, limits: {{ exchange_cpu: 1s }}, tick: 1s"),
            "these say nothing; remove them: `tick`, `limits.exchange_cpu`",
        ),
        (
            format!("component: {filter}, limits: {{ handles: 100 }}"),
            "to which `limits.handles` says nothing; remove it",
        ),
        (format!("component: {pass}, grants: [metrics]"), "`grants: metrics`"),
        (format!("component: {filter}, grants: [clocks]"), "`grants: clocks`"),
        (format!("component: {odd}"), "add `clocks` to the filter's `grants`"),
        (
            format!("component: {odd}, grants: [clocks]"),
            "add `http: [CLUSTER]` to the filter's `grants`",
        ),
        (
            format!("component: {pass}, config: {{ a: b }}"),
            "to which `config` says nothing",
        ),
        (format!("component: {service}"), "is a service"),
        (
            format!("component: {filter}, candidate: {{ component: {pass} }}"),
            "candidate: is a middleware, and the version in use is none",
        ),
        (
            format!("component: {pass}, candidate: {{ component: {filter} }}"),
            "candidate: is no middleware, and the version in use is one",
        ),
        (
            format!("component: {pass}, candidate: {{ component: {service} }}"),
            "is a service",
        ),
        (
            format!("component: {pass}, candidate: {{ config: {{ a: b }} }}"),
            "to which `config` says nothing",
        ),
    ];
    each(
        cases,
        |(settings, _)| settings.clone(),
        |(settings, expected)| {
            let yaml = format!(
                "listeners: {{ web: {{ address: 127.0.0.1:0 }} }}\nfilters: {{ f: {{ {settings} }} }}\nroutes: [{{ respond: {{ status: 204 }} }}]\n"
            );
            let (status, errors) = check(&Folder::new(), &yaml);
            assert_eq!(status, 1, "{settings}: {errors}");
            assert!(errors.contains(expected), "{settings}: {errors}");
        },
    );
}

/// Of two versions both are measured, and one remains.
#[test]
fn a_new_version_of_one_is_tried() {
    let upstream = echoing();
    let cases = [
        ("rust-stamp-03", "promoted", Some("rust")),
        ("rust-odd-03", "rolled_back", None),
    ];
    for (tried, verdict, stamp) in cases {
        let path = wasi_component(tried).expect("it is built");
        let settings = format!(
            ", breaker: off, grants: [clocks, {{ http: [servers] }}], \
             candidate: {{ component: {}, share: 50%, window: 300ms, min_calls: 20 }}",
            path.display()
        );
        let proxy = one(&upstream, "rust-pass-03", &settings);
        let mut client = proxy.client();
        let mut ask = || {
            let answer = client.exchange(does("trap"));
            if answer.closes() {
                client = proxy.client();
            }
            answer
        };
        let candidate = || filter_state(&proxy, "it")["candidate"].clone();
        wait_until(verdict, || {
            (0..20).for_each(|_| drop(ask()));
            candidate()["state"] == verdict
        });
        for _ in 0..20 {
            let answer = ask();
            assert_eq!((answer.status(), answer.value("x-stamp")), (200, stamp), "{tried}");
        }
        let state = candidate();
        let measured = &state["p99_ms"]["request_head"];
        assert!(measured["stable"].is_number(), "{state}");
        let metrics = proxy.metrics();
        let verdicts = "tamis_filter_candidate_verdicts_total";
        assert_eq!(metrics.sum(verdicts, &[("filter", "it"), ("verdict", verdict)]), 1.0);
        let calls = |version| metrics.sum("tamis_filter_calls_total", &[("filter", "it"), ("version", version)]);
        assert!(calls("stable") > 0.0 && calls("candidate") > 0.0, "{tried}");
    }
}

#[test]
fn a_reload_replaces_it_while_exchanges_go_on() {
    let folder = Folder::new();
    folder.copy(&wasi_component("rust-pass-03").expect("it is built"), "it.wasm");
    let (gate, upstream) = (Gate::new(), echoing());
    let slow = Upstream::start(Script::Each(vec![vec![
        Step::Message,
        Step::Pass(gate.clone()),
        Step::send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold"),
    ]]));
    let yaml = |upstream: &Upstream| configuration(upstream, "it", &["it: { component: it.wasm }".to_owned()]);
    let proxy = Proxy::start_in(&folder, &yaml(&slow));
    let mut waiting = proxy.client();
    waiting.send(get("/", ""));
    slow.wait_requests(1);
    folder.copy(&wasi_component("rust-stamp-03").expect("it is built"), "it.wasm");
    apply(&proxy, &yaml(&upstream));
    assert_eq!(proxy.get("/").value("x-stamp"), Some("rust"));
    gate.open();
    let answer = waiting.response();
    assert_eq!((answer.text().as_str(), answer.value("x-stamp")), ("old", None));
}
