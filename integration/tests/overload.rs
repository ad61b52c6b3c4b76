//! More than the proxy can take on: what is shed, in which order, and that all else goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tamis_integration::http2::{END_STREAM, End, Frames, GOAWAY, Http2};
use tamis_integration::proxy::CONFIGURATION;
use tamis_integration::upstream::ok;
use tamis_integration::{Client, Folder, Gate, Proxy, Step, Upstream, wait_until};

use crate::support::{Configuration, apply, assert_own_reply};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// Steps far apart, so that what the process needs more or less than at the last look is none.
const STEPS: &str = "disable_keep_alive: 20%, stop_accepting_requests: 50%, stop_accepting_connections: 80%";

fn held() -> (Gate, Upstream) {
    let gate = Gate::new();
    let script = vec![
        Step::Message,
        Step::Pass(gate.clone()),
        Step::send(ok("late")),
        Step::serve(ok("late")),
    ];
    (gate, Upstream::each([script]))
}

/// Marks every answer whose request a filter has seen.
const MARK: &str = "\
filters:
  mark: { native: headers, config: { response: { set: { x-mark: seen } } } }
";

#[test]
fn exchanges_beyond_a_listeners_limit_are_shed_before_any_filter() {
    let (gate, upstream) = held();
    let configuration = Configuration {
        top: &format!("{MARK}access_log: {{ file: access.log }}\n"),
        limits: "max_exchanges: 2",
        listener_filters: "mark",
        ..Default::default()
    };
    let proxy = Proxy::start(&configuration.to(&upstream));
    let mut served: Vec<Client> = (0..2).map(|_| proxy.client()).collect();
    for client in &mut served {
        client.send(GET);
    }
    gate.wait_arrived(2);
    let mut shed = proxy.client();
    for _ in 0..2 {
        let answer = shed.get("/shed");
        assert_own_reply(&answer, 503, "one too many");
        assert_eq!((answer.value("retry-after"), answer.value("x-mark")), (Some("1"), None));
        assert!(!answer.closes(), "another try costs no connection");
    }
    let metrics = proxy.metrics();
    let labels = [("listener", "web"), ("cause", "max_exchanges")];
    assert_eq!(metrics.sum("tamis_requests_shed_total", &labels), 2.0);
    assert_eq!(metrics.sum("tamis_exchanges", &[]), 2.0);
    gate.open();
    for client in &mut served {
        let answer = client.response();
        assert_eq!((answer.status(), answer.value("x-mark")), (200, Some("seen")));
    }
    assert_eq!(shed.get("/again").text(), "late");
    let lines = proxy.folder().wait_lines("access.log", 5);
    let of_shed = lines.iter().filter(|line| line.contains(r#""reason":"overload""#));
    assert_eq!(of_shed.count(), 2, "{lines:?}");
    assert_eq!(upstream.requests().len(), 3);
    wait_until("nothing is under way", || {
        proxy.metrics().sum("tamis_exchanges", &[]) == 0.0
    });
}

fn two_listeners(overload: &str, upstream: &Upstream) -> String {
    let other = "  other: { address: 127.0.0.1:0 }\nclusters:\n";
    let configuration = Configuration {
        top: &format!("overload: {{ {overload} }}"),
        ..Default::default()
    };
    configuration.to(upstream).replacen("clusters:\n", other, 1)
}

#[test]
fn exchanges_beyond_the_processs_limit_are_shed_on_every_listener_and_protocol() {
    let (gate, upstream) = held();
    let proxy = Proxy::start(&two_listeners("max_exchanges: 2", &upstream));
    let (mut web, mut other) = (proxy.client(), Client::connect(&proxy.address("other")));
    web.send(GET);
    other.send(GET);
    gate.wait_arrived(2);
    let mut streams = Http2::connect(&proxy.address("other"));
    for path in ["/1", "/2"] {
        let answer = streams.get(path);
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(answer.headers["retry-after"], "1");
        assert!(
            answer.text().starts_with("503 service unavailable\nrequest id: "),
            "{answer:?}"
        );
    }
    assert_eq!(proxy.get("/3").status(), 503);
    gate.open();
    assert_eq!(
        (web.response().text(), other.response().text()),
        ("late".into(), "late".into())
    );
    let labels = |listener| [("listener", listener), ("cause", "max_exchanges")];
    let metrics = proxy.metrics();
    let shed = |listener| metrics.sum("tamis_requests_shed_total", &labels(listener));
    assert_eq!((shed("web"), shed("other")), (1.0, 2.0));
}

#[test]
fn connections_beyond_the_processs_limit_are_closed_on_every_listener() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&two_listeners("max_connections: 2", &upstream));
    let (mut web, mut other) = (proxy.client(), Client::connect(&proxy.address("other")));
    assert_eq!(
        (web.get("/1").text(), other.get("/2").text()),
        ("ok".into(), "ok".into())
    );
    proxy.client().assert_closed("the third of two");
    let refused = [("listener", "web"), ("reason", "overload_max_connections")];
    assert_eq!(proxy.metrics().sum("tamis_connections_refused_total", &refused), 1.0);
    drop(other);
    wait_until("its place is free", || proxy.client().try_get("/3").is_some());
    assert_eq!(web.get("/4").text(), "ok");
}

/// Everything to the upstream, with a limit of memory of which what the process has is so many hundredths.
fn limited(upstream: &Upstream, proxy: &Proxy, percent: u64) -> String {
    let limit = proxy.resident() * 100 / percent;
    let top = format!("overload: {{ memory: {{ limit: {limit}B, {STEPS} }} }}");
    Configuration {
        top: &top,
        ..Default::default()
    }
    .to(upstream)
}

fn wait_step(proxy: &Proxy, step: &str, holds: f64) {
    wait_until(&format!("{step} is {holds}"), || {
        proxy.metrics().sum("tamis_overload", &[("step", step)]) == holds
    });
}

fn unlimited(upstream: &Upstream) -> String {
    Configuration {
        top: "overload: { memory: off }",
        ..Default::default()
    }
    .to(upstream)
}

fn level(proxy: &Proxy) -> String {
    let shown: serde_json::Value = serde_json::from_slice(&proxy.admin("GET", "/config").body).expect("JSON");
    shown["overload"]["level"].as_str().expect("a word").to_owned()
}

/// Row 124, step by step: what each step sheds, and that all of it ends when there is room again.
#[test]
fn what_is_shed_while_memory_is_short() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&unlimited(&upstream));
    assert_eq!(level(&proxy), "normal");
    let mut idle = proxy.client();
    assert_eq!(idle.get("/idle").text(), "ok");
    let mut streams = Frames::connect(&proxy.address("web"));
    streams.get(1, "/stream");
    assert_eq!(streams.end_of(1).0, End::Stream);

    apply(&proxy, &limited(&upstream, &proxy, 35));
    wait_step(&proxy, "disable_keep_alive", 1.0);
    assert_eq!(level(&proxy), "disable_keep_alive");
    idle.assert_closed("who rests makes room");
    streams.wait_goaway();
    let answer = proxy.get("/last");
    assert_eq!((answer.text(), answer.closes()), ("ok".into(), true));
    // Who comes has one request on any protocol, however late that is told.
    let mut streams = Frames::connect(&proxy.address("web"));
    streams.get(1, "/stream");
    let (mut is_answered, mut is_told) = (false, false);
    while !is_answered || !is_told {
        let frame = streams.next_frame().expect("both come, in whatever order");
        is_answered |= frame.stream == 1 && frame.flags & END_STREAM != 0;
        is_told |= frame.kind == GOAWAY;
    }

    apply(&proxy, &limited(&upstream, &proxy, 65));
    wait_step(&proxy, "stop_accepting_requests", 1.0);
    upstream.take_requests();
    let answer = proxy.get("/shed");
    assert_own_reply(&answer, 503, "memory");
    assert_eq!((answer.value("retry-after"), answer.closes()), (Some("1"), true));
    assert_eq!(upstream.take_requests().len(), 0);
    let labels = [("listener", "web"), ("cause", "memory")];
    assert_eq!(proxy.metrics().sum("tamis_requests_shed_total", &labels), 1.0);

    apply(&proxy, &limited(&upstream, &proxy, 200));
    wait_step(&proxy, "stop_accepting_connections", 1.0);
    let accepted = proxy.metrics().sum("tamis_connections_total", &[]);
    let mut waiting = proxy.client();
    waiting.send(GET);
    waiting.assert_silent(Duration::from_millis(300), "nobody accepts");
    assert_eq!(proxy.metrics().sum("tamis_connections_total", &[]), accepted);

    // The administration endpoint answers throughout, and so does a reload.
    apply(&proxy, &unlimited(&upstream));
    let answer = waiting.response();
    assert_eq!(
        (answer.text(), answer.closes()),
        ("ok".into(), false),
        "it has only waited"
    );
    assert_eq!(level(&proxy), "normal");
    let begun = |step| proxy.metrics().sum("tamis_overload_steps_total", &[("step", step)]);
    let steps = [
        "disable_keep_alive",
        "stop_accepting_requests",
        "stop_accepting_connections",
    ];
    assert_eq!(steps.map(begun), [1.0; 3]);
    let told = || {
        let lines = proxy.log().lines();
        let changes = lines.iter().filter(|line| line.message().starts_with("memory is"));
        changes.map(|line| line.field("level")).collect::<Vec<_>>()
    };
    wait_until("each change is told, once", || {
        told() == [steps[0], steps[1], steps[2], "normal"]
    });
}

/// Room above for what comes between two looks, and below for what the allocator keeps.
const FLOOD_STEPS: &str = "disable_keep_alive: 55%, stop_accepting_requests: 60%, stop_accepting_connections: 65%";

/// Row 124 by a flood: heads that never end fill the memory that is granted and no more, and when they are gone all is
/// as before.
#[test]
fn a_flood_fills_the_memory_that_is_granted_and_no_more() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&unlimited(&upstream));
    let limit = proxy.resident() + (96 << 20);
    let memory = format!("limit: {limit}B, {FLOOD_STEPS}");
    apply(&proxy, &flooded(&upstream, &memory));
    flood(&proxy);
    assert!(proxy.resident() < limit, "{} of {limit} bytes", proxy.resident());
    recovers(&proxy);
}

/// Row 124 where the kernel means it: the process is in a control group that kills what takes more.
#[test]
fn a_flood_does_not_get_the_process_killed_in_its_control_group() {
    let Some(group) = Group::of(112 << 20) else {
        println!("skipped, because no control group can be made here");
        return;
    };
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    folder.write(CONFIGURATION, flooded(&upstream, FLOOD_STEPS));
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", group.0.display());
    let proxy = Proxy::launch_through(&["sh", "-c", &enter], &folder, &[]);
    flood(&proxy);
    let shown: serde_json::Value = serde_json::from_slice(&proxy.admin("GET", "/config").body).expect("JSON");
    assert_eq!(shown["overload"]["memory_limit_bytes"], 112 << 20, "{shown}");
    recovers(&proxy);
}

/// A control group for memory of its own, in version 1 or 2 of the interface.
struct Group(PathBuf);

impl Group {
    /// `None` where nobody lets us make one that has a limit.
    fn of(bytes: u64) -> Option<Self> {
        let name = format!("tamis-test-{}", std::process::id());
        let versions = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        versions.into_iter().find_map(|(parent, limit)| {
            // Only where there is the interface: any folder can be made in a tree that is none.
            Path::new(parent).join("cgroup.procs").exists().then_some(())?;
            let group = Self(Path::new(parent).join(&name));
            fs::create_dir(&group.0).ok()?;
            fs::write(group.0.join(limit), bytes.to_string()).ok().map(|()| group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its last process may not be gone in this moment.
        wait_until("the control group is empty", || fs::remove_dir(&self.0).is_ok());
    }
}

fn flooded(upstream: &Upstream, memory: &str) -> String {
    let top = format!("overload: {{ memory: {{ {memory} }} }}");
    Configuration {
        top: &top,
        limits: "head_timeout: 60s",
        ..Default::default()
    }
    .to(upstream)
}

/// As many fill what the floods' configurations leave, and fit into what a process may open by default.
const FLOOD: usize = 900;

/// Clients that send heads without an end, until no more are let in.
fn flood(proxy: &Proxy) {
    // What the kernel takes also of a connection that is not accepted.
    let fields: String = (0..4).map(|n| format!("X-{n}: {}\r\n", "a".repeat(15_000))).collect();
    let head = format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}");
    let mut flood = Vec::new();
    let is_short = || {
        proxy
            .metrics()
            .sum("tamis_overload", &[("step", "stop_accepting_connections")])
            == 1.0
    };
    while flood.len() < FLOOD && !is_short() {
        let mut client = proxy.client();
        client.send(&head);
        flood.push(client);
    }
    // Memory is looked at now and then, and they may all have come in between.
    wait_until("they do not all fit", is_short);
}

/// Whoever tries again and again is served as before.
fn recovers(proxy: &Proxy) {
    wait_until("nothing is shed any more", || {
        let answer = proxy.get("/");
        answer.status() == 200 && !answer.closes()
    });
}
