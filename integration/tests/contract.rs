//! What a filter may rely on, and what everybody else may rely on when it fails: hook by hook, with a component that has
//! all of them and with guests that fail in just one.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tamis_integration::proxy::check;
use tamis_integration::socket::Found;
use tamis_integration::upstream::ok;
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Client, DEADLINE, Folder, Gate, Message, Proxy, Step, Upstream};

use crate::support::{Configuration, assert_own_reply, each, filter_state, folder_with, wait_until};

const LOG: &str = "access.log";
const TO_FILE: &str = "access_log: { file: access.log, format: json }";
const EVERYTHING: &str = "component: everything.wasm, tick: 100ms, \
                          grants: [metrics, clock, random, key_value, { outbound: [side] }]";
const POST: &str = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\n";

/// `everything` with more settings in front of everything else; calls to the cluster `side` go to `side`.
fn everything(settings: &str, upstream: &Upstream, side: &Upstream) -> Proxy {
    let top = format!("{TO_FILE}\nfilters:\n  everything: {{ {EVERYTHING}{settings} }}");
    let configuration = Configuration {
        top: &top,
        clusters: &format!("  side: {{ endpoints: [\"{}\"] }}", side.address()),
        route: "filters: [everything]",
        ..Default::default()
    };
    Proxy::start_in(&folder_with(&["everything"]), &configuration.to(upstream))
}

/// One guest, in the chain of the last route, with one worker.
fn guest(guest: &Guest, settings: &str, upstream: &Upstream) -> Proxy {
    let folder = Folder::new();
    folder.write("guest.wasm", guest.build());
    let top = format!("{TO_FILE}\nfilters:\n  guest: {{ component: guest.wasm{settings} }}");
    let configuration = Configuration {
        top: &top,
        route: "filters: [guest]",
        ..Default::default()
    };
    Proxy::start_in(&folder, &configuration.to(upstream))
}

fn act(client: &mut Client, target: &str, acts: &[&str]) -> Message {
    client.exchange(acting("GET", target, acts))
}

fn acting(method: &str, target: &str, acts: &[&str]) -> String {
    let acts: String = acts.iter().map(|act| format!("X-Act: {act}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nHost: a.example\r\n{acts}\r\n")
}

fn record(folder: &Folder, number: usize) -> Value {
    let line = &folder.wait_lines(LOG, number + 1)[number];
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn hooks_run_in_order_and_every_import_answers() {
    let (upstream, side) = (Upstream::saying("ok"), Upstream::saying("hello."));
    let proxy = everything("", &upstream, &side);
    let mut client = proxy.client();
    let cases = [
        ("cluster app", "app"),
        ("cluster other", "edit refused: not a valid name or value"),
        ("random 4", "8 digits"),
        ("get k", "none"),
        ("set k v", "set"),
        ("get k", "v"),
        ("swap k v w", "true"),
        ("swap k v x", "false"),
        ("delete k", "true"),
        ("compute k y", "y"),
        ("add n -2", "-2"),
        ("call side /x", "200 hello."),
        ("stream side /x", "hello."),
    ];
    let acts: Vec<_> = cases.iter().map(|(act, _)| *act).collect();
    let response = act(&mut client, "/", &acts);
    for (result, (act, expected)) in response.values("x-result").into_iter().zip(cases) {
        let shown = match act.starts_with("random") {
            true => format!("{} digits", result.len()),
            false => result.to_owned(),
        };
        assert_eq!(shown, expected, "{act}");
    }
    assert_eq!(response.values("x-result").len(), cases.len());
    let peer = act(&mut client, "/", &["peer"]);
    let address = proxy.address("web");
    assert_eq!(peer.value("x-result"), Some(format!("{address} None None 0").as_str()));

    let body = client.exchange(
        "POST / HTTP/1.1\r\nHost: a.example\r\nX-Act: capitals\r\nX-Act: hold 3\r\nContent-Length: 3\r\n\r\nabc",
    );
    assert_eq!(body.text(), "OK.");
    assert_eq!(upstream.requests().last().expect("it came").text(), "ABC.");
    assert_eq!(
        record(proxy.folder(), 2)["attributes"]["trail"],
        "request-head held-body request-body request-end response-head response-body response-end completion"
    );
    let completed = proxy.metrics().sum(
        "tamis_filter_custom_exchanges",
        &[("filter", "everything"), ("status", "200")],
    );
    assert_eq!(completed, 3.0);
}

/// The connection's attributes are where its exchanges begin; what an exchange sets is its own.
#[test]
fn the_connection_hook_admits_and_sets_attributes() {
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    let accept = Guest::new()
        .on_connection([SetAttribute("who", "me".into())])
        .on_request([SetAttribute("exchange", "1".into())]);
    folder.write("accept.wasm", accept.build());
    folder.write("refuse.wasm", Guest::new().on_connection([RefuseConnection]).build());
    folder.write("trap.wasm", Guest::new().on_connection([Trap]).build());
    let yaml = format!(
        "workers: 1\nadmin: {{ address: 127.0.0.1:0 }}\n{TO_FILE}\nlisteners:\n  \
         web: {{ address: 127.0.0.1:0, filters: [accept] }}\n  \
         refused: {{ address: 127.0.0.1:0, filters: [accept, refuse] }}\n  \
         trapped: {{ address: 127.0.0.1:0, filters: [trap] }}\n  \
         open: {{ address: 127.0.0.1:0, filters: [open] }}\n\
         filters:\n  accept: {{ component: accept.wasm }}\n  refuse: {{ component: refuse.wasm }}\n  \
         trap: {{ component: trap.wasm }}\n  open: {{ component: trap.wasm, on_failure: open }}\n\
         clusters:\n  app: {{ endpoints: [\"{}\"] }}\nroutes:\n  - {{ cluster: app }}\n",
        upstream.address()
    );
    let proxy = Proxy::start_in(&folder, &yaml);
    let mut client = proxy.client();
    for number in 0..2 {
        assert_eq!(client.get("/").text(), "ok");
        assert_eq!(
            record(&folder, number)["attributes"],
            serde_json::json!({ "who": "me", "exchange": "1" })
        );
    }
    for listener in ["refused", "trapped"] {
        let mut client = Client::connect(&proxy.address(listener));
        client.try_send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        client.assert_closed(listener);
    }
    assert_eq!(Client::connect(&proxy.address("open")).get("/").text(), "ok");
    assert_eq!(upstream.requests().len(), 3, "nothing of a refused connection went on");
}

#[test]
fn completion_is_told_what_came_of_it() {
    let gate = Gate::new();
    let upstream = Upstream::each([
        vec![Step::Message, Step::send(ok("hello"))],
        vec![Step::Message, Step::Pass(gate.clone()), Step::Hold],
        vec![
            Step::Message,
            Step::send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
            Step::Close,
        ],
    ]);
    let told = Guest::new().on_request([]).on_completion([TellRecord]);
    let proxy = guest(&told, "", &upstream);
    let folder = proxy.folder().clone();
    let close = "Connection: close\r\n";
    let whole = proxy.client().exchange(format!(
        "POST / HTTP/1.1\r\nHost: a.example\r\n{close}Content-Length: 3\r\n\r\nabc"
    ));
    assert_eq!(whole.text(), "hello");
    upstream.close(0);
    upstream.wait_ended(0);

    let mut gone = proxy.client();
    gone.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    gone.reset();
    let second = record(&folder, 1);

    let mut cut = proxy.client();
    cut.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    cut.ending();
    for (record, status, reason, request, response) in [
        (record(&folder, 0), "200", "", "3", "5"),
        (second, "499", "client_closed", "0", "0"),
        (record(&folder, 2), "200", "upstream_reset", "0", "5"),
    ] {
        let expected = serde_json::json!({
            "status": status, "reason": reason, "request-bytes": request, "response-bytes": response
        });
        assert_eq!(record["attributes"], expected, "{record}");
    }
}

#[test]
fn ticks_write_into_the_table() {
    let upstream = Upstream::saying("ok");
    let proxy = everything("", &upstream, &upstream);
    let mut client = proxy.client();
    let mut ticks = 0;
    wait_until("three ticks", || {
        let response = act(&mut client, "/", &["add ticks 0"]);
        let now = response
            .value("x-result")
            .and_then(|sum| sum.parse().ok())
            .expect("a sum");
        assert!(now >= ticks, "{now} after {ticks}");
        ticks = now;
        ticks >= 3
    });
}

#[test]
fn outbound_calls_are_bounded() {
    let long = "x".repeat(2000);
    let side = Upstream::answering(move |request| match request.target() {
        "/long" => ok(&long),
        "/short" => ok("short"),
        _ => b"garbage\r\n\r\n".to_vec(),
    });
    let upstream = Upstream::saying("ok");
    let proxy = everything(", limits: { body_bytes: 1KiB, outbound_calls: 3 }", &upstream, &side);
    let mut client = proxy.client();
    let cases: &[(&[&str], &[&str])] = &[
        (&["call app /x"], &["outbound call: the cluster is not granted"]),
        (&["call nowhere /x"], &["outbound call: the cluster is not granted"]),
        (
            &["call side /long"],
            &["outbound call: the answer is over limits.body_bytes"],
        ),
        (
            &["call side x"],
            &["outbound call: a method, target or field that cannot be sent"],
        ),
        (
            &["call side /garbage"],
            &["outbound call: the answer broke off, or is no HTTP"],
        ),
        (
            &[
                "call side /short",
                "call side /short",
                "call side /short",
                "call side /short",
            ],
            &["200 short", "200 short", "200 short", "outbound call: too many"],
        ),
    ];
    for (acts, results) in cases {
        let response = act(&mut client, "/", acts);
        assert_eq!(response.values("x-result"), *results, "{acts:?}");
    }
    assert_eq!(upstream.requests().len(), cases.len());
}

/// Processor time is what it computes: calls that wait take none.
#[test]
fn a_hook_is_not_charged_for_its_calls() {
    let side = Upstream::answering(|_| {
        // As slow as a network is, so that ticks pass; nothing is waited for.
        std::thread::sleep(Duration::from_millis(10));
        ok("at last")
    });
    let upstream = Upstream::saying("ok");
    let proxy = everything(", limits: { cpu: 4ms, outbound_calls: 8 }", &upstream, &side);
    let response = act(&mut proxy.client(), "/", &["call side /"; 8]);
    assert_eq!(response.values("x-result"), ["200 at last"; 8]);
}

/// The call is bounded by the hook, and ends with it.
#[test]
fn an_outbound_call_without_an_answer_ends_with_its_hook() {
    let side = Upstream::each([vec![Step::Message, Step::Hold]]);
    let upstream = Upstream::saying("ok");
    let proxy = everything(", limits: { wall: 300ms }", &upstream, &side);
    assert_own_reply(&act(&mut proxy.client(), "/", &["call side /"]), 500, "no answer");
    assert_eq!(record(proxy.folder(), 0)["reason"], "wall");
    assert_eq!(side.wait_ended(0), "Fin");
    assert_eq!(proxy.get("/").text(), "ok");
}

/// RFC 9110 7.6.3: a call that comes back to this process is known by its Via field.
#[test]
fn an_outbound_call_into_the_proxy_is_a_loop() {
    let folder = folder_with(&["everything"]);
    let socket = format!("unix:{}", folder.path("self.sock").display());
    let yaml = format!(
        "workers: 1\nadmin: {{ address: 127.0.0.1:0 }}\n{TO_FILE}\nlisteners:\n  \
         web: {{ address: 127.0.0.1:0 }}\n  own: {{ address: \"{socket}\" }}\n\
         filters:\n  everything: {{ {EVERYTHING} }}\nclusters:\n  side: {{ endpoints: [\"{socket}\"] }}\n\
         routes:\n  - {{ filters: [everything], respond: {{ status: 200, body: ok }} }}\n"
    );
    let proxy = Proxy::start_in(&folder, &yaml);
    // The refusal's text has more than one line, so the filter cannot show it in a field, and fails.
    assert_own_reply(
        &act(&mut proxy.client(), "/", &["call side /again"]),
        500,
        "not a field's value",
    );
    let again = record(&folder, 0);
    assert_eq!(
        (&again["path"], &again["status"], &again["reason"]),
        (&"/again".into(), &508.into(), &"loop".into())
    );
}

/// What has begun to go upstream does not end there as if it were whole, and no other request follows on it.
#[test]
fn a_failure_in_a_request_body() {
    for (name, acts, status) in [
        ("trap", vec![From(1), Trap], 500),
        ("reply", vec![From(1), Reply(403, vec![("x-from", "guest")], "no")], 403),
    ] {
        let gate = Gate::new();
        let cut = vec![
            Step::Head,
            Step::Bytes("5\r\naaaaa\r\n".len()),
            Step::Pass(gate.clone()),
            Step::Hold,
        ];
        let upstream = Upstream::each([cut, vec![Step::serve(ok("ok"))]]);
        let proxy = guest(&Guest::new().on_request_body(acts), "", &upstream);
        let mut client = proxy.client();
        client.send(format!("{POST}aaaaa"));
        gate.wait_arrived(1);
        gate.open();
        client.send("bbbbb");
        let response = client.response();
        assert_eq!(response.status(), status, "{name}: {response:?}");
        match status {
            500 => assert_own_reply(&response, 500, name),
            _ => assert_eq!(
                (response.value("x-from"), response.text().as_str()),
                (Some("guest"), "no")
            ),
        }
        upstream.wait_ended(0);
        let received = upstream.received(0);
        assert!(
            received.ends_with(b"\r\n\r\n5\r\naaaaa\r\n"),
            "{name}: {}",
            received.escape_ascii()
        );
        assert_eq!(proxy.get("/").text(), "ok");
        assert_eq!(upstream.connections(), 2, "{name}: a broken connection was used again");
    }
}

#[test]
fn a_failure_in_a_response_body() {
    for (name, acts, settings) in [
        ("trap", vec![From(1), Trap], ""),
        ("reply", vec![From(1), Reply(403, vec![], "no")], ", instance_reuse: 1"),
        ("open", vec![From(1), Trap], ", on_failure: open"),
    ] {
        let (gate, rest) = (Gate::new(), Gate::new());
        let upstream = Upstream::each([
            vec![
                Step::Message,
                Step::send("HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\naaaaa"),
                Step::Pass(gate.clone()),
                Step::send("bbbbb"),
                Step::Pass(rest.clone()),
                Step::send("ccccc"),
                Step::serve(ok("again")),
            ],
            vec![Step::serve(ok("other"))],
        ]);
        let proxy = guest(&Guest::new().on_response_body(acts), settings, &upstream);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let head = client.read_head();
        assert_eq!(
            (head.status(), head.list("transfer-encoding")),
            (200, vec!["chunked".into()])
        );
        let first = b"5\r\naaaaa\r\n";
        assert_eq!(client.read(first.len()), first, "{name}");
        gate.open();
        if name == "open" {
            let second = b"5\r\nbbbbb\r\n";
            assert_eq!(client.read(second.len()), second, "{name}");
            rest.open();
            let end = b"5\r\nccccc\r\n0\r\n\r\n";
            assert_eq!(client.read(end.len()), end, "{name}");
            assert_eq!(proxy.get("/").text(), "again");
            continue;
        }
        let ending = client.ending();
        assert!(ending.bytes.is_empty(), "{name}: {}", ending.bytes.escape_ascii());
        assert_ne!(ending.how, Found::Nothing, "{name}: the connection stays");
        rest.open();
        upstream.wait_ended(0);
        assert_eq!(proxy.get("/").text(), "other", "{name}");
        let record = record(proxy.folder(), 0);
        let reason = if name == "trap" { "trap" } else { "filter_cut" };
        assert_eq!((&record["status"], &record["reason"]), (&200.into(), &reason.into()));
    }
}

/// An upstream may answer before it has the whole request. A hook that is on its way just then comes to its end first,
/// and neither the answer's head nor its pieces get lost meanwhile.
#[test]
fn an_answer_comes_while_a_request_hook_works() {
    let gate = Gate::new();
    let upstream = Upstream::each([vec![
        Step::Head,
        Step::Bytes("5\r\naaaaa\r\n".len()),
        Step::Pass(gate.clone()),
        Step::send("HTTP/1.1 200 OK\r\nX-Early: 1\r\nContent-Length: 10\r\n\r\nccccc"),
        Step::Bytes("5\r\nbbbbb\r\n".len()),
        Step::send("ddddd"),
        Step::Bytes("0\r\n\r\n".len()),
    ]]);
    let works = Guest::new()
        .on_request_body([Compute(200_000_000)])
        .on_response([SetResponseHeader("x-from", b"guest".to_vec())])
        .on_response_body([Compute(1000)]);
    let limits = ", limits: { cpu: 5s, wall: 10s, exchange_cpu: 20s }";
    let proxy = guest(&works, limits, &upstream);
    let mut client = proxy.client();
    client.send(format!("{POST}aaaaa"));
    gate.wait_arrived(1);
    client.send("bbbbb");
    gate.open();
    let response = client.response();
    assert_eq!(
        (response.status(), response.value("x-early"), response.value("x-from")),
        (200, Some("1"), Some("guest")),
        "{response:?}"
    );
    assert_eq!(response.text(), "cccccddddd");
    assert!(upstream.received(0).ends_with(b"5\r\naaaaa\r\n5\r\nbbbbb\r\n0\r\n\r\n"));
}

/// The first filter's hook is parked with the second piece while the first piece may be on its way to the second filter,
/// which has to have its turn.
#[test]
fn a_filter_that_works_does_not_stop_the_next_one() {
    let chunks = "2\r\naa\r\n2\r\nbb\r\n2\r\ncc\r\n0\r\n\r\n";
    let upstream = Upstream::answering(move |_| {
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}").into_bytes()
    });
    let works = Guest::new()
        .on_request_body([Compute(50_000_000)])
        .on_response_body([Compute(50_000_000)]);
    let folder = Folder::new();
    folder.write("guest.wasm", works.build());
    let limits = "limits: { cpu: 5s, wall: 10s, exchange_cpu: 30s }";
    let configuration = Configuration {
        top: &format!("filters:\n  guest: {{ component: guest.wasm, {limits} }}"),
        route: "filters: [guest, guest]",
        ..Default::default()
    };
    let proxy = Proxy::start_in(&folder, &configuration.to(&upstream));
    let head = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let response = proxy.client().exchange(format!("{head}{chunks}"));
    assert_eq!((response.status(), response.text().as_str()), (200, "aabbcc"));
    assert_eq!(upstream.take_request("the one").text(), "aabbcc");
}

/// The answer has begun, so there is no other; whose fault it was is in the record, and it is not the upstream's.
#[test]
fn a_request_hook_fails_after_the_answer_has_begun() {
    for (name, acts, reason) in [
        ("trap", vec![From(1), Trap], "trap"),
        ("reply", vec![From(1), Reply(403, vec![], "no")], "filter_cut"),
    ] {
        let gate = Gate::new();
        let upstream = Upstream::each([vec![
            Step::Head,
            Step::Bytes("5\r\naaaaa\r\n".len()),
            Step::send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nccccc"),
            Step::Pass(gate.clone()),
            Step::Hold,
        ]]);
        let proxy = guest(&Guest::new().on_request_body(acts), "", &upstream);
        let mut client = proxy.client();
        client.send(format!("{POST}aaaaa"));
        assert_eq!(client.read_head().status(), 200);
        assert_eq!(client.read(5), b"ccccc", "{name}");
        client.send("bbbbb");
        let ending = client.ending();
        assert!(ending.bytes.is_empty(), "{name}: {}", ending.bytes.escape_ascii());
        assert_ne!(ending.how, Found::Nothing, "{name}: the connection stays");
        gate.open();
        upstream.wait_ended(0);
        let record = record(proxy.folder(), 0);
        assert_eq!(
            (&record["status"], &record["reason"]),
            (&200.into(), &reason.into()),
            "{name}"
        );
        let failures = proxy
            .metrics()
            .sum("tamis_upstream_failures_total", &[("cluster", "app")]);
        assert_eq!(failures, 0.0, "{name}: the upstream did nothing wrong");
    }
}

#[test]
fn a_request_body_passes_a_filter_that_fails_open() {
    let gate = Gate::new();
    let upstream = Upstream::each([vec![
        Step::Head,
        Step::Bytes("5\r\naaaaa\r\n".len()),
        Step::Pass(gate.clone()),
        Step::Bytes("5\r\nbbbbb\r\n0\r\n\r\n".len()),
        Step::send(ok("done")),
    ]]);
    let trap = Guest::new().on_request_body([From(1), Trap]);
    let proxy = guest(&trap, ", on_failure: open", &upstream);
    let mut client = proxy.client();
    client.send(format!("{POST}aaaaa"));
    gate.wait_arrived(1);
    gate.open();
    client.send("bbbbb");
    assert_eq!(client.response().text(), "done");
    assert!(upstream.received(0).ends_with(b"5\r\naaaaa\r\n5\r\nbbbbb\r\n0\r\n\r\n"));
}

/// Without a request that went on there is no connection to cut: the answer is all that there is.
#[test]
fn held_bodies_are_refused_replied_to_and_fail() {
    let upstream = Upstream::saying("ok");
    for (name, held, body, status) in [
        ("too long", vec![], "abcdef", 413),
        ("fits", vec![], "abcde", 200),
        ("reply", vec![Reply(409, vec![], "no")], "abc", 409),
        ("trap", vec![Trap], "abc", 500),
    ] {
        let wants = Guest::new().on_request([ReadBody(5)]).on_held_body(held);
        let proxy = guest(&wants, "", &upstream);
        let length = body.len();
        let response = proxy.client().exchange(format!(
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        assert_eq!(response.status(), status, "{name}: {response:?}");
        let seen = upstream.take_requests();
        assert_eq!(seen.len(), usize::from(status == 200), "{name}");
        assert!(seen.iter().all(|request| request.text() == body), "{name}");
    }
    // A wish that cannot be granted is the filter's failure.
    let proxy = guest(&Guest::new().on_request([ReadBody(5)]), "", &upstream);
    assert_own_reply(&proxy.get("/"), 500, "no held-body");
    assert_eq!(record(proxy.folder(), 0)["reason"], "bad_verdict");
}

/// The upstream's body is not waited for, and what is left of it goes with its connection.
#[test]
fn a_reply_replaces_the_whole_response() {
    let upstream = Upstream::each([
        vec![
            Step::Message,
            Step::send("HTTP/1.1 200 OK\r\nX-Secret: 1\r\nContent-Length: 1000000\r\n\r\nsecret"),
            Step::Hold,
        ],
        vec![Step::serve(ok("ok"))],
    ]);
    let replies = Guest::new().on_response([Reply(502, vec![("x-from", "guest")], "gone")]);
    let proxy = guest(&replies, "", &upstream);
    let mut client = proxy.client();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!(
            (response.status(), response.value("x-from"), response.text().as_str()),
            (502, Some("guest"), "gone")
        );
        assert_eq!(response.value("x-secret"), None);
    }
    upstream.wait_ended(0);
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_breaker_opens_and_closes_by_a_probe() {
    let (upstream, side) = (Upstream::saying("ok"), Upstream::saying("side"));
    let proxy = everything(
        ", breaker: { failures: 2, within: 60s, backoff: 2s, max_backoff: 2s }",
        &upstream,
        &side,
    );
    assert_eq!(filter_state(&proxy, "everything")["breaker"]["state"], "closed");
    let mut client = proxy.client();
    for _ in 0..2 {
        assert_own_reply(&act(&mut client, "/", &["nonsense"]), 500, "it fails");
    }
    assert_own_reply(&client.get("/"), 503, "it is left alone");
    let reasons: Vec<_> = (0..3)
        .map(|number| record(proxy.folder(), number)["reason"].clone())
        .collect();
    assert_eq!(reasons, ["trap", "trap", "breaker"]);
    assert_eq!(upstream.requests().len(), 0);
    let breaker = filter_state(&proxy, "everything")["breaker"].clone();
    assert_eq!((&breaker["state"], &breaker["openings"]), (&"open".into(), &1.into()));
    wait_until("the breaker closes", || client.get("/").status() == 200);
    assert_eq!(filter_state(&proxy, "everything")["breaker"]["state"], "closed");
}

/// An exchange that finds all instances busy waits for as long as it may, and no longer.
#[test]
fn an_exchange_waits_for_an_instance() {
    let gate = Gate::new();
    let upstream = Upstream::each([vec![
        Step::Message,
        Step::Pass(gate.clone()),
        Step::send(ok("slow")),
        Step::serve(ok("ok")),
    ]]);
    let proxy = everything(", limits: { instances: 1, wait: 200ms }", &upstream, &upstream);
    let mut first = proxy.client();
    first.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    assert_own_reply(&proxy.get("/"), 503, "busy");
    assert_eq!(record(proxy.folder(), 0)["reason"], "no_instance");
    gate.open();
    assert_eq!(first.response().text(), "slow");
    assert_eq!(proxy.get("/").text(), "ok");
}

#[test]
fn a_filter_chooses_among_the_routes_clusters() {
    let (app, canary, side) = (
        Upstream::saying("app"),
        Upstream::saying("canary"),
        Upstream::saying("side"),
    );
    let top = format!("filters:\n  everything: {{ {EVERYTHING} }}");
    let configuration = Configuration {
        top: &top,
        clusters: &format!(
            "  canary: {{ endpoints: [\"{}\"] }}\n  side: {{ endpoints: [\"{}\"] }}",
            canary.address(),
            side.address()
        ),
        routes: "  - { name: split, match: { path: { exact: /split } }, filters: [everything],\n      \
                 clusters: [{ name: app, weight: 1 }, { name: canary, weight: 0 }] }",
        ..Default::default()
    };
    let proxy = Proxy::start_in(&folder_with(&["everything"]), &configuration.to(&app));
    let mut client = proxy.client();
    let refused = "edit refused: not a valid name or value";
    for (acts, result, body) in [
        (vec![], None, "app"),
        (vec!["cluster canary"], Some("canary"), "canary"),
        (vec!["cluster app"], Some("app"), "app"),
        (vec!["cluster side"], Some(refused), "app"),
        (vec!["cluster nowhere"], Some(refused), "app"),
    ] {
        let response = act(&mut client, "/split", &acts);
        assert_eq!(
            (response.value("x-result"), response.text().as_str()),
            (result, body),
            "{acts:?}"
        );
    }
}

/// RFC 9112 6.3: these end with their head, whatever a filter of bodies would make of them.
#[test]
fn responses_without_a_body_stay_so() {
    let upstream = Upstream::answering(|request| match request.target() {
        "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec(),
    });
    let proxy = everything("", &upstream, &upstream);
    each(
        [
            ("HEAD", "/", 200),
            ("GET", "/204", 204),
            ("GET", "/304", 304),
            ("HEAD", "/204", 204),
        ],
        |(method, target, _)| format!("{method} {target}"),
        |(method, target, status)| {
            let mut client = proxy.client();
            // What followed would be taken for the head of the next response.
            for _ in 0..2 {
                client.send(acting(method, target, &["capitals"]));
                let response = client.response_to_head();
                assert_eq!(response.status(), *status, "{response:?}");
                let framing = [response.values("content-length"), response.values("transfer-encoding")].concat();
                assert!(framing.iter().all(|value| *value == "chunked"), "{response:?}");
                assert!(*status == 200 || framing.is_empty(), "{response:?}");
            }
        },
    );
}

#[test]
fn what_is_not_granted_is_refused_with_the_way_to_grant_it() {
    let all = ["metrics", "clock", "random", "key_value", "{ outbound: [app] }"];
    let folder = folder_with(&["everything"]);
    let refused = |grants: &[&str], more: &str| {
        let yaml = format!(
            "listeners:\n  web: {{ address: 127.0.0.1:0 }}\nfilters:\n  \
             f: {{ component: everything.wasm, grants: [{}]{more} }}\n\
             clusters:\n  app: {{ endpoints: [\"127.0.0.1:9\"] }}\n\
             routes:\n  - {{ filters: [f], cluster: app }}\n",
            grants.join(", ")
        );
        check(&folder, &yaml)
    };
    for missing in all {
        let grants: Vec<_> = all.into_iter().filter(|grant| *grant != missing).collect();
        let (code, printed) = refused(&grants, ", tick: 1s");
        let fix = missing.replace("app", "CLUSTER");
        let fix = format!("add `{}` to its `grants`", fix.trim_matches(['{', '}', ' ']));
        let fix_with_braces = format!("add `{}` to its `grants`", missing.replace("app", "CLUSTER, ..."));
        assert_eq!(code, 1, "{missing}: {printed}");
        assert!(
            printed.contains(&fix) || printed.contains(&fix_with_braces),
            "{missing}: {printed}"
        );
        assert!(printed.contains("tamis.yaml:4:"), "{printed}");
    }
    // A tick hook that nobody gave a time is never called.
    for tick in ["", ", tick: 1s"] {
        let (code, printed) = refused(&all, tick);
        assert_eq!(code, 0, "{printed}");
    }
}

/// The request meets the filters forward, the response in reverse, and so do their bodies.
#[test]
fn bodies_pass_the_filters_in_order() {
    let upstream = Upstream::saying("banana");
    let top = format!(
        "filters:\n  everything: {{ {EVERYTHING} }}\n  redact: {{ component: redact.wasm, grants: [metrics], config: \
         {{ bodies: [request, response], content_types: [\"*/*\"], \
         patterns: [{{ name: fruit, literals: [BANANA], replace: kiwi }}] }} }}"
    );
    let configuration = Configuration {
        top: &top,
        clusters: &format!("  side: {{ endpoints: [\"{}\"] }}", upstream.address()),
        route: "filters: [everything, redact]",
        ..Default::default()
    };
    let proxy = Proxy::start_in(&folder_with(&["everything", "redact"]), &configuration.to(&upstream));
    let mut client = proxy.client();
    for _ in 0..2 {
        let response =
            client.exchange("POST / HTTP/1.1\r\nHost: a.example\r\nX-Act: capitals\r\nContent-Length: 6\r\n\r\nbanana");
        assert_eq!(response.text(), "BANANA.");
        assert_eq!(upstream.take_request("in order").text(), "kiwi.");
    }
    assert_eq!(upstream.connections(), 1, "a connection behind filters is used again");
}

/// As far as they are announced (RFC 9110 6.6.2): others go no further, whoever they are from.
#[test]
fn filters_see_and_replace_trailers() {
    let upstream = Upstream::repeating(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Bytes\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
    );
    let proxy = everything("", &upstream, &upstream);
    let response = proxy.client().exchange(
        "POST / HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nTrailer: X-Sum, X-Bytes\r\nX-Act: capitals\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
    );
    let trailers = |message: &Message| -> Vec<String> {
        let line =
            |field: &tamis_integration::message::Field| format!("{}: {}", field.name.to_ascii_lowercase(), field.value);
        message.trailers.iter().map(line).collect()
    };
    assert_eq!(response.text(), "OK.");
    let request = upstream.take_request("trailers");
    assert_eq!(
        (request.text().as_str(), trailers(&request)),
        ("ABC.", vec!["x-sum: 1".to_owned(), "x-bytes: 3".into()])
    );
    assert_eq!(trailers(&response), ["x-sum: 1", "x-bytes: 2"]);
}

/// RFC 9110 10.1.1: the client is asked for its body when a filter wants it, and not when it is refused before.
#[test]
fn a_filter_that_wants_the_body_asks_for_it() {
    let upstream = Upstream::saying("ok");
    let proxy = everything("", &upstream, &upstream);
    let head = |act: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: a.example\r\nX-Act: {act}\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        )
    };
    let mut client = proxy.client();
    client.send(head("hold 3"));
    let interim = client.next_response(DEADLINE).expect("100 before the body");
    assert_eq!(interim.status(), 100);
    assert_eq!(client.exchange("abc").text(), "ok");
    let request = upstream.take_request("held");
    assert_eq!(
        (request.value("x-held"), request.text().as_str()),
        (Some("whole 3"), "abc")
    );

    let mut refused = proxy.client();
    let response = refused.exchange(head("reply 403"));
    assert_eq!((response.status(), refused.interim.len()), (403, 0));
    refused.assert_closed("nobody knows whether the body comes");
    assert_eq!(upstream.requests(), []);
}

/// Wherever the client leaves, its guest is told, and the connection to the upstream is not used again.
#[test]
fn completion_is_told_that_the_client_has_left() {
    let (gate, stay) = (Gate::new(), Gate::new());
    let upstream = Upstream::each([vec![
        Step::Message,
        Step::send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\nhello"),
        Step::Pass(gate.clone()),
        Step::Pour(99_999_995),
        Step::Pass(stay.clone()),
    ]]);
    let holds = Guest::new()
        .on_request([ReadBody(5)])
        .on_held_body([])
        .on_response_body([])
        .on_completion([TellRecord]);
    let proxy = guest(&holds, "", &upstream);
    let mut client = proxy.client();
    client.send(format!("{POST}abc"));
    // The other half of the connection says that nothing more comes.
    client.finish();
    client.ending();
    let held = record(proxy.folder(), 0);
    assert_eq!(
        (&held["attributes"]["status"], &held["attributes"]["reason"]),
        (&"499".into(), &"client_closed".into()),
        "{held}"
    );

    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    client.read_head();
    assert_eq!(client.read(10), b"5\r\nhello\r\n");
    client.reset();
    gate.open();
    let left = record(proxy.folder(), 1);
    assert_eq!(
        (&left["attributes"]["status"], &left["attributes"]["reason"]),
        (&"200".into(), &"client_closed".into()),
        "{left}"
    );
    stay.open();
}

/// A worker that waits for a core while a guest computes charges the exchange nothing for it.
#[test]
fn an_exchange_is_not_charged_for_a_stall() {
    let upstream = Upstream::saying("ok");
    let computes = Guest::new()
        .on_request([Log("it computes"), Compute(300_000_000)])
        .on_response([]);
    let limits = ", limits: { cpu: 3s, exchange_cpu: 3s, wall: 10s }";
    let proxy = guest(&computes, limits, &upstream);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    proxy.log().wait_message("it computes");
    proxy.signal(Signal::STOP);
    // That it stands still is the fault; longer than what the exchange may compute.
    thread::sleep(Duration::from_millis(3500));
    proxy.signal(Signal::CONT);
    assert_eq!(client.response().text(), "ok");
}

/// What breaks off before its end goes on as what breaks off, though a filter was between.
#[test]
fn a_body_that_breaks_off_has_no_end_behind_a_filter() {
    let gate = Gate::new();
    let upstream = Upstream::each([
        vec![
            Step::Message,
            Step::send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
            Step::Pass(gate.clone()),
            Step::Close,
        ],
        vec![Step::Hold],
    ]);
    let passes = Guest::new().on_request_body([]).on_response_body([]);
    let proxy = guest(&passes, "", &upstream);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.read_head().status(), 200);
    assert_eq!(client.read(10), b"5\r\nhello\r\n");
    gate.open();
    client.assert_closed("no last chunk");
    assert_eq!(record(proxy.folder(), 0)["reason"], "upstream_reset");

    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n");
    let response = client.response();
    assert_eq!((response.status(), response.closes()), (400, true), "{response:?}");
    assert_eq!(record(proxy.folder(), 1)["reason"], "chunk_framing");
    if upstream.connections() == 2 {
        upstream.wait_ended(1);
        assert!(!upstream.received(1).ends_with(b"0\r\n\r\n"));
    }
}

/// RFC 9112 6.1: a client of HTTP/1.0 knows no chunks, so a body of unknown length ends with its connection.
#[test]
fn an_old_client_gets_a_filtered_body_until_the_end() {
    let upstream = Upstream::saying("banana");
    let proxy = everything("", &upstream, &upstream);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\nHost: a.example\r\nX-Act: capitals\r\n\r\n");
    let head = client.read_head();
    assert_eq!(
        (head.values("transfer-encoding"), head.values("content-length")),
        (vec![], vec![])
    );
    let ending = client.ending();
    assert!(ending.is_clean());
    assert_eq!(ending.bytes, b"BANANA.");
}
