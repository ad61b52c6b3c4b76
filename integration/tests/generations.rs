//! Generations that were replaced: they last as long as what is on them, within bounds, and leave nothing.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use tamis_integration::socket::Found;
use tamis_integration::upstream::ok;
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Client, DEADLINE, Folder, Gate, Proxy, Step, Upstream};

use crate::support::{Configuration, wait_until};

/// An upstream whose first connections send the beginning of an answer, and its end when their gates open.
fn streaming(count: usize) -> (Upstream, Vec<Gate>) {
    let gates: Vec<Gate> = (0..count).map(|_| Gate::new()).collect();
    let stream = |gate: &Gate| {
        vec![
            Step::Message,
            Step::send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
            Step::Pass(gate.clone()),
            Step::send("world"),
            Step::serve(ok("ok")),
        ]
    };
    let mut scripts: Vec<_> = gates.iter().map(stream).collect();
    scripts.push(vec![Step::serve(ok("ok"))]);
    (Upstream::each(scripts), gates)
}

/// A request whose answer has begun.
fn in_flight(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    client.send("GET /stream HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.read_head().status(), 200);
    assert_eq!(client.read(5), b"hello");
    client
}

fn yaml(upstream: &Upstream, reload: &str, n: u32) -> String {
    let top = format!("access_log: {{ file: access.log, format: json }}\nreload: {{ {reload} }}\ndrain_timeout: {n}s");
    Configuration {
        top: &top,
        ..Default::default()
    }
    .to(upstream)
}

fn alive(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("tamis_generations", &[])
}

fn oldest(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("tamis_generation_oldest_seconds", &[])
}

/// Fault 66, and its gauges: a stream goes on through any number of generations, and every byte of it arrives.
#[test]
fn a_stream_outlives_many_reloads() {
    let (upstream, gates) = streaming(1);
    let proxy = Proxy::start(&yaml(&upstream, "", 1));
    assert_eq!((alive(&proxy), oldest(&proxy)), (1.0, 0.0));
    let mut client = in_flight(&proxy);
    for n in 2..=20 {
        assert_eq!(proxy.reload(&yaml(&upstream, "", n)).0, 200);
    }
    assert_eq!(alive(&proxy), 2.0, "those between were used by nobody");
    let first = oldest(&proxy);
    assert!(first > 0.0);
    wait_until("its age grows", || oldest(&proxy) > first);
    gates[0].open();
    assert_eq!(client.read(5), b"world");
    wait_until("it ends with its last exchange", || alive(&proxy) == 1.0);
    assert_eq!(oldest(&proxy), 0.0);
    assert_eq!(client.get("/").text(), "ok", "the connection goes on, on the newest");
}

/// Fault 68: a stream that never ends is ended with its generation, cut and not closed as if it were whole; what is on
/// the new one does not notice.
#[test]
fn a_generation_is_ended_at_its_maximum_age() {
    let (upstream, _gates) = streaming(2);
    let proxy = Proxy::start(&yaml(&upstream, "max_age: 1s", 1));
    let mut old = in_flight(&proxy);
    let replaced = Instant::now();
    assert_eq!(proxy.reload(&yaml(&upstream, "max_age: 1s", 2)).0, 200);
    let mut new = in_flight(&proxy);
    let ending = old.ending();
    assert_ne!(ending.how, Found::Nothing, "it goes on for ever");
    assert!(
        ending.bytes.is_empty() && replaced.elapsed() >= Duration::from_secs(1),
        "{ending:?}"
    );
    new.assert_silent(Duration::from_millis(100), "it is on the newest generation");
    wait_until("nothing of it is left", || alive(&proxy) == 1.0);
    let records = proxy.folder().wait_lines("access.log", 1);
    let record: Value = serde_json::from_str(&records[0]).expect("a record is JSON");
    assert_eq!(
        (&record["reason"], &record["path"]),
        (&"generation_max_age".into(), &"/stream".into())
    );
    assert_eq!(proxy.metrics().sum("tamis_generations_ended_total", &[]), 1.0);
    let line = proxy.log().wait_from(0, "is ended", |line| {
        line.message().contains("or an older one is ended")
    });
    assert_eq!(line.field("generation"), "1");
}

/// Fault 68: there are never more than so many, however young they are; the oldest goes first.
#[test]
fn generations_alive_are_bounded() {
    let (upstream, gates) = streaming(3);
    let bounded = |n| yaml(&upstream, "max_generations: 3, max_age: off", n);
    let proxy = Proxy::start(&bounded(1));
    let mut first = in_flight(&proxy);
    assert_eq!(proxy.reload(&bounded(2)).0, 200);
    let mut second = in_flight(&proxy);
    assert_eq!(proxy.reload(&bounded(3)).0, 200);
    let mut third = in_flight(&proxy);
    assert_eq!(alive(&proxy), 3.0);
    assert_eq!(proxy.reload(&bounded(4)).0, 200);
    assert_ne!(first.ending().how, Found::Nothing, "the oldest goes");
    gates.iter().for_each(Gate::open);
    assert_eq!((second.read(5), third.read(5)), (b"world".to_vec(), b"world".to_vec()));
}

/// Fault 66: a request that a filter has parked, because it waits for another service, goes on with the filter and the
/// clusters that it began with.
#[test]
fn a_parked_outbound_call_ends_on_its_own_generation() {
    let gate = Gate::new();
    let judge = Upstream::each([vec![
        Step::Message,
        Step::Pass(gate.clone()),
        Step::send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ]]);
    let upstream = Upstream::saying("ok");
    let folder = crate::support::folder_with(&["ext-auth"]);
    let clusters = format!("  judge: {{ endpoints: [\"{}\"] }}", judge.address());
    let with = Configuration {
        top: "filters:\n  auth:\n    component: ext-auth.wasm\n    grants: [key_value, { outbound: [judge] }]\n    \
              limits: { wall: 30s }\n    config: { cluster: judge, path: /verify, timeout: 20s }",
        clusters: &clusters,
        route: "filters: [auth]",
        ..Default::default()
    };
    // It is a large component.
    let proxy = Proxy::start_within(&folder, &with.to(&upstream), 6 * DEADLINE);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    assert_eq!(proxy.reload(&Configuration::default().to(&upstream)).0, 200);
    assert_eq!(proxy.get("/").text(), "ok", "without the filter");
    client.assert_silent(Duration::from_millis(100), "it still waits to be judged");
    gate.open();
    assert_eq!(client.response().text(), "ok");
    wait_until("nothing of it is left", || alive(&proxy) == 1.0);
}

/// Fault 68: the code of filters that were replaced is not only unused, it is gone.
#[test]
fn code_of_replaced_filters_is_unmapped() {
    let folder = Folder::new();
    let upstream = Upstream::saying("ok");
    let top = "filters:\n  guest: { component: guest.wasm }";
    let configuration = Configuration {
        top,
        route: "filters: [guest]",
        ..Default::default()
    };
    let guest = |n: u32| {
        let mark = n.to_string().into_bytes();
        Guest::new().on_response([SetResponseHeader("x-mark", mark)]).build()
    };
    folder.write("guest.wasm", guest(0));
    let proxy = Proxy::start_in(&folder, &configuration.to(&upstream));
    let executable = || {
        let maps = fs::read_to_string(format!("/proc/{}/maps", proxy.id())).expect("the process has mappings");
        maps.lines().filter(|line| line.contains("r-xp")).count()
    };
    assert_eq!(proxy.get("/").value("x-mark"), Some("0"));
    let before = executable();
    for n in 1..=20 {
        folder.replace("guest.wasm", guest(n));
        proxy.wait_generation(u64::from(n) + 1);
        assert_eq!(proxy.get("/").value("x-mark"), Some(&*n.to_string()));
    }
    wait_until("as many mappings as before", || executable() <= before + 1);
}
