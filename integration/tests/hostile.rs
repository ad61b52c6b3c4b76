//! What a guest is told when it writes what it must not, what comes of its failures when they are skipped, and which
//! components are never loaded. What harms others or takes what it should not have is in [`pack`](crate::pack).

use std::time::{Duration, Instant};

use tamis_integration::proxy::check;
use tamis_integration::wat::Act::*;
use tamis_integration::wat::{Act, Guest};
use tamis_integration::{Folder, Proxy, Upstream};

use crate::support::{Bystander, Configuration, assert_own_reply, each};

/// One guest on a route of its own: `/NAME` runs it, everything else goes to the upstream unfiltered.
struct Case {
    name: &'static str,
    guest: Guest,
    /// Entries of the filter besides its component.
    settings: &'static str,
}

fn case(name: &'static str, guest: Guest) -> Case {
    Case {
        name,
        guest,
        settings: "",
    }
}

/// A proxy with all these guests, before one upstream.
fn proxy_with(cases: &[Case], upstream: &Upstream) -> Proxy {
    let folder = Folder::new();
    let mut filters = String::from("access_log: { file: access.log }\nfilters:\n");
    let mut routes = String::new();
    for Case { name, guest, settings } in cases {
        folder.write(&format!("{name}.wasm"), guest.build());
        let settings = if settings.is_empty() {
            String::new()
        } else {
            format!(", {settings}")
        };
        filters += &format!("  {name}: {{ component: {name}.wasm{settings} }}\n");
        routes += &format!(
            "  - {{ name: {name}, match: {{ path: {{ prefix: /{name} }} }}, filters: [{name}], cluster: app }}\n"
        );
    }
    Proxy::start_in(
        &folder,
        &Configuration {
            top: &filters,
            routes: &routes,
            ..Default::default()
        }
        .to(upstream),
    )
}

/// Failing acts, each in a request hook.
fn failures(settings: &'static str) -> Vec<Case> {
    [("loop", Loop), ("trap", Trap), ("recurse", Recurse)]
        .map(|(name, act)| Case {
            name,
            guest: Guest::new().on_request([act]),
            settings,
        })
        .into()
}

#[test]
fn a_failing_guest_is_skipped_when_open() {
    // On a stack of its own, and on its worker's.
    for settings in [
        "on_failure: open, limits: { cpu: 50ms }",
        "on_failure: open, limits: { cpu: 10ms }",
    ] {
        failing_guests_are_skipped(settings);
    }
}

fn failing_guests_are_skipped(settings: &'static str) {
    let upstream = Upstream::saying("ok");
    let cases = failures(settings);
    let proxy = proxy_with(&cases, &upstream);
    let bystander = Bystander::start(&proxy.address("web"), "/innocent");
    for case in &cases {
        for _ in 0..3 {
            assert_eq!(proxy.get(&format!("/{}", case.name)).text(), "ok", "{}", case.name);
        }
    }
    bystander.finish();
    let count = upstream
        .requests()
        .iter()
        .filter(|request| request.target() == "/trap")
        .count();
    assert_eq!(count, 3);
}

/// What a filter asks for is its own affair: others see the bodies all the same.
#[test]
fn a_body_passes_only_the_filter_that_asked_for_it() {
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    let write = |name: &str, guest: Guest| folder.write(&format!("{name}.wasm"), guest.build());
    let refusal = Reply(403, Vec::new(), "seen");
    write("passes", Guest::new().on_request([PassBody]));
    write("fails", Guest::new().on_request([From(1), PassBody, Trap]));
    write("refuses", Guest::new().on_request_body([refusal]));
    write("sees", Guest::new().on_response_body([]));
    write(
        "replies",
        Guest::new().on_request([PassBody, Reply(200, Vec::new(), "own")]),
    );
    // On a stack of its own, and on its worker's.
    for cpu in ["50ms", "10ms"] {
        let filter = |name: &str, component: &str, policy: &str| {
            let limits = format!("breaker: off, limits: {{ cpu: {cpu} }}");
            format!("  {name}: {{ component: {component}.wasm, on_failure: {policy}, {limits} }}\n")
        };
        let top = [
            "filters:\n",
            &filter("passes", "passes", "open"),
            &filter("fails", "fails", "open"),
            &filter("refuses", "refuses", "closed"),
            &filter("sees", "sees", "closed"),
            &filter("replies", "replies", "closed"),
            &filter("breaks", "fails", "closed"),
        ]
        .concat();
        let configuration = Configuration {
            top: &top,
            routes: "  - { name: own, match: { path: { exact: /own } }, filters: [sees, replies], cluster: app }\n  \
                     - { name: broken, match: { path: { exact: /broken } }, filters: [sees, breaks], cluster: app }\n  \
                     - { name: body, filters: [passes, fails, refuses], cluster: app }\n",
            ..Default::default()
        };
        let proxy = Proxy::start_in(&folder, &configuration.to(&upstream));
        // The first time there are no guests yet; one that has failed makes room for another.
        for round in 1..=4 {
            let request = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc";
            let reply = proxy.client().exchange(request);
            assert_eq!((reply.status(), &*reply.text()), (403, "seen"), "{cpu}, {round}");
            assert_eq!(proxy.get("/own").text(), "own", "{cpu}, {round}");
            let broken = if round % 2 == 1 { 200 } else { 500 };
            assert_eq!(proxy.get("/broken").status(), broken, "{cpu}, {round}");
            let seen = [("filter", "sees"), ("hook", "response_body")];
            let calls = proxy.metrics().sum("tamis_filter_calls_total", &seen);
            // A piece and the end of each of the two.
            assert_eq!(calls, f64::from(4 * round), "{cpu}, {round}");
        }
    }
}

/// A call that may wait is none that ends what a guest has computed.
#[test]
fn a_guest_that_calls_the_host_for_ever_is_ended() {
    let upstream = Upstream::saying("ok");
    let claims = Case {
        name: "claims",
        guest: Guest::new().on_request([Claims]),
        settings: "grants: [key_value], limits: { cpu: 20ms, wall: 60s }",
    };
    let proxy = proxy_with(&[claims], &upstream);
    let bystander = Bystander::start(&proxy.address("web"), "/innocent");
    let since = Instant::now();
    let reply = proxy.get("/claims");
    assert_own_reply(&reply, 500, "no answer");
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    bystander.finish();
    let id = proxy.log().wait_message("filter failed").field("request_id");
    assert!(!id.is_empty() && reply.text().contains(&id), "{id}: {}", reply.text());
    let failures = [("filter", "claims"), ("kind", "cpu")];
    assert_eq!(proxy.metrics().sum("tamis_filter_failures_total", &failures), 1.0);
}

/// The answer is there already: closed means that it does not go out, open that it does.
#[test]
fn a_failing_response_hook() {
    let upstream = Upstream::saying("ok");
    let guest = || Guest::new().on_response([SetResponseHeader("x-a", b"1".to_vec()), Trap]);
    let cases = [
        case("closed", guest()),
        Case {
            name: "open",
            guest: guest(),
            settings: "on_failure: open",
        },
    ];
    let proxy = proxy_with(&cases, &upstream);
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_own_reply(&client.get("/closed"), 500, "closed");
        assert_eq!(client.get("/open").text(), "ok");
    }
    assert_eq!(upstream.requests().len(), 6);
}

/// What a guest tries to write, and what it is told; the digits are those of [`Act::TellUpstream`]. More of what is
/// refused is in the pack.
#[test]
fn edits_are_checked_like_bytes_from_the_network() {
    let value = |value: &[u8]| SetRequestHeader("x-evil", value.to_vec());
    let cases: Vec<(&str, Act, &str)> = vec![
        ("plain", value(b"1"), "0"),
        ("obs-text", value(b"\xe9\xff"), "0"),
        ("tab", value(b"a\tb"), "0"),
        ("empty value", value(b""), "0"),
        ("appended", AppendRequestHeader("content-length", b"1".to_vec()), "2"),
        ("removed", RemoveRequestHeader("transfer-encoding"), "2"),
        ("method", SetMethod("PUT"), "0"),
        ("method with space", SetMethod("GET /"), "1"),
        ("method with CR LF", SetMethod("GET\r\n"), "1"),
        ("no method", SetMethod(""), "1"),
        ("CONNECT", SetMethod("CONNECT"), "1"),
        ("authority", SetAuthority("b.example"), "0"),
        ("authority with userinfo", SetAuthority("u@b.example"), "1"),
        ("authority with path", SetAuthority("b.example/x"), "1"),
        ("authority with CR LF", SetAuthority("b.example\r\nx-injected: 1"), "1"),
        ("no authority", SetAuthority(""), "1"),
        ("path", SetPath("/edits/b".into()), "0"),
        ("query", SetQuery("a=b&c=%20"), "0"),
        ("query with space", SetQuery("a b"), "1"),
        ("query with fragment", SetQuery("a#b"), "1"),
        ("query with CR LF", SetQuery("a\r\nb"), "1"),
        ("huge path", SetPath(format!("/{}", "a".repeat(40_000))), "3"),
        ("huge value", value(&[b'a'; 70_000]), "3"),
        (
            "response, before there is one",
            SetResponseHeader("x-a", b"1".to_vec()),
            "4",
        ),
        ("status, before there is one", SetStatus(201), "4"),
        ("attribute", SetAttribute("k", "v".into()), "0"),
        ("huge attribute", SetAttribute("k", "v".repeat(5000)), "3"),
    ];
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    let mut filters = String::from("filters:\n");
    let mut routes = String::new();
    for (n, (_, act, _)) in cases.iter().enumerate() {
        folder.write(
            &format!("{n}.wasm"),
            Guest::new().on_request([act.clone(), TellUpstream]).build(),
        );
        filters += &format!("  f{n}: {{ component: {n}.wasm }}\n");
        routes += &format!("  - {{ match: {{ path: {{ exact: /edits/{n} }} }}, filters: [f{n}], cluster: app }}\n");
    }
    let configuration = Configuration {
        top: &filters,
        routes: &routes,
        ..Default::default()
    };
    let proxy = Proxy::start_in(&folder, &configuration.to(&upstream));
    each(
        cases.iter().enumerate(),
        |(_, case)| case.0.to_owned(),
        |(n, (name, _, outcome))| {
            upstream.take_requests();
            let response = proxy.get(&format!("/edits/{n}"));
            assert_eq!(response.status(), 200, "{name}: {response:?}");
            let request = upstream.take_request(name);
            // A value that was too large leaves no room to say so.
            let told = request.value("x-outcomes");
            assert!(
                told == Some(*outcome) || (told.is_none() && *outcome == "3"),
                "{name}: {request:?}"
            );
            assert_eq!(request.values("x-injected"), Vec::<&str>::new(), "{name}");
            assert_eq!(request.values("host").len(), 1, "{name}");
            assert!(
                *outcome == "0" || request.target() == format!("/edits/{n}"),
                "{name}: {}",
                request.target()
            );
        },
    );
}

#[test]
fn edits_of_responses_are_checked_too() {
    let upstream = Upstream::saying("ok");
    let header = |name, value: &[u8]| SetResponseHeader(name, value.to_vec());
    let cases = vec![
        ("plain", header("x-a", b"1"), "0"),
        ("cr-lf", header("x-a", b"1\r\nset-cookie: evil"), "1"),
        ("length", header("content-length", b"1"), "2"),
        ("coding", header("transfer-encoding", b"chunked"), "2"),
        ("connection", header("connection", b"close"), "2"),
        ("status", SetStatus(201), "0"),
        ("request", SetRequestHeader("x-a", b"1".to_vec()), "4"),
        ("path", SetPath("/b".into()), "4"),
    ];
    let guests: Vec<Case> = cases
        .iter()
        .map(|(name, act, _)| case(name, Guest::new().on_response([act.clone(), TellClient])))
        .collect();
    let proxy = proxy_with(&guests, &upstream);
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, _, outcome)| {
            let mut client = proxy.client();
            let response = client.get(&format!("/{name}"));
            assert_eq!(response.value("x-outcomes"), Some(*outcome), "{name}: {response:?}");
            assert_eq!(response.status(), if *name == "status" { 201 } else { 200 }, "{name}");
            assert_eq!(
                (response.text().as_str(), response.values("set-cookie").len()),
                ("ok", 0),
                "{name}"
            );
            assert_eq!(client.get("/after").text(), "ok", "{name}");
        },
    );
}

/// RFC 9110 8.6 and 15.3.5: what has no content has no length, and the connection goes on.
#[test]
fn a_status_without_content_takes_the_content_away() {
    let upstream = Upstream::saying("hello");
    let made = |name: &'static str, status: u16| case(name, Guest::new().on_response([SetStatus(status)]));
    let proxy = proxy_with(&[made("none", 204), made("same", 304)], &upstream);
    let mut client = proxy.client();
    for (target, status) in [("/none", 204), ("/same", 304)] {
        let response = client.get(target);
        assert_eq!(
            (response.status(), response.value("content-length")),
            (status, None),
            "{response:?}"
        );
        assert_eq!(response.value("transfer-encoding"), None, "{response:?}");
    }
    assert_eq!(client.get("/other").text(), "hello");
    for line in proxy.folder().wait_lines("access.log", 3) {
        assert!(line.contains(r#""reason":null"#), "{line}");
    }
}

/// Faults 32 and 33: a guest's reply is checked whole, and its framing is the host's.
#[test]
fn replies_of_guests_are_checked() {
    let upstream = Upstream::saying("ok");
    let reply = |status, headers: &[(&'static str, &'static str)]| {
        Guest::new().on_request([Reply(status, headers.to_vec(), "hello")])
    };
    let cases = vec![
        ("good", reply(403, &[("x-a", "1")]), &[403][..]),
        ("status-0", reply(0, &[]), &[500]),
        ("status-99", reply(99, &[]), &[500]),
        ("status-101", reply(101, &[]), &[500]),
        ("status-199", reply(199, &[]), &[500]),
        ("status-600", reply(600, &[]), &[500]),
        ("status-65535", reply(65535, &[]), &[500]),
        ("cr-lf", reply(200, &[("x-a", "1\r\nset-cookie: evil")]), &[500]),
        ("bad-name", reply(200, &[("x a", "1")]), &[500]),
        // Refused, or left out: what must not happen is that they are believed.
        ("length", reply(200, &[("content-length", "1")]), &[200, 500]),
        ("coding", reply(200, &[("transfer-encoding", "chunked")]), &[200, 500]),
        ("close", reply(200, &[("connection", "close, x-a")]), &[200, 500]),
    ];
    let guests: Vec<Case> = cases.iter().map(|(name, guest, _)| case(name, guest.clone())).collect();
    let proxy = proxy_with(&guests, &upstream);
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, _, statuses)| {
            let mut client = proxy.client();
            let response = client.get(&format!("/{name}"));
            assert!(statuses.contains(&response.status()), "{name}: {response:?}");
            assert!(
                response.status() == 500 || response.text() == "hello",
                "{name}: {response:?}"
            );
            assert_eq!(response.values("set-cookie"), Vec::<&str>::new(), "{name}");
            client.send(format!("HEAD /{name} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
            client.response_to_head();
            assert_eq!(client.get("/after").text(), "ok", "{name}: the connection is in step");
        },
    );
    assert!(upstream.requests().iter().all(|request| request.target() == "/after"));
}

/// Faults 17 and 36.
#[test]
fn guests_cannot_break_or_flood_the_log() {
    let upstream = Upstream::saying("ok");
    let evil = "one\ntwo\r\n{\"level\":\"ERROR\",\"fields\":{\"message\":\"forged\"}}\u{1b}[31mred\0";
    let flood = vec![Log("flood"); 200];
    let proxy = proxy_with(
        &[
            case("evil", Guest::new().on_request([Log(evil)])),
            Case {
                name: "flood",
                guest: Guest::new().on_request(flood),
                settings: "limits: { log_lines: 10, cpu: 90ms }",
            },
        ],
        &upstream,
    );
    assert_eq!(proxy.get("/evil").status(), 200);
    let line = proxy.log().wait_from(0, "the guest's line", |line| {
        line.text.contains("one") && line.text.contains("two")
    });
    assert!(line.text.contains("forged"), "one line: {}", line.text);
    assert!(
        !line.text.contains('\u{1b}') && !line.message().contains('\n'),
        "{:?}",
        line.text
    );
    assert!(proxy.log().lines().iter().all(|line| line.message() != "forged"));
    for _ in 0..20 {
        assert_eq!(proxy.get("/flood").status(), 200);
    }
    let lines = proxy
        .log()
        .lines()
        .iter()
        .filter(|line| line.message() == "flood")
        .count();
    // 4,000 were written; the first second may be cut in two by the clock.
    assert!(lines < 400, "{lines} lines");
}

/// Fault 37: names that a guest makes up are bounded.
#[test]
fn guests_cannot_flood_the_metrics() {
    let upstream = Upstream::saying("ok");
    let settings = "grants: [metrics], limits: { cpu: 90ms }";
    let guests = [
        Case {
            name: "few",
            guest: Guest::new().on_request([Count(3)]),
            settings,
        },
        Case {
            name: "many",
            guest: Guest::new().on_request([Count(1000)]),
            settings,
        },
    ];
    let proxy = proxy_with(&guests, &upstream);
    for _ in 0..5 {
        assert_eq!((proxy.get("/few").status(), proxy.get("/many").status()), (200, 200));
    }
    let metrics = proxy.metrics();
    let of = |filter: &str| {
        let custom = metrics
            .samples
            .iter()
            .filter(|sample| sample.name.starts_with("tamis_filter_custom_"));
        custom
            .filter(|sample| sample.labels.get("filter").is_some_and(|name| name == filter))
            .count()
    };
    assert_eq!(of("few"), 3);
    assert!((1..=64).contains(&of("many")), "{}", of("many"));
    assert_eq!(metrics.sum("tamis_filter_custom_m0", &[("filter", "few")]), 5.0);
}

#[test]
fn a_grant_opens_what_it_names() {
    let upstream = Upstream::saying("ok");
    let guest = Guest::new().on_request([Clock]);
    let proxy = proxy_with(
        &[Case {
            name: "clock",
            guest,
            settings: "grants: [clock]",
        }],
        &upstream,
    );
    assert_eq!(proxy.get("/clock").text(), "ok");
}

/// What the host makes at once nothing interrupts.
#[test]
fn random_bytes_of_wasi_are_had_in_portions() {
    let upstream = Upstream::saying("ok");
    let asking = |name: &'static str, count: u64| Case {
        name,
        guest: Guest::new().on_request([Random(count)]),
        settings: "grants: [wasi]",
    };
    let proxy = proxy_with(&[asking("few", 16), asking("many", (64 << 10) + 1)], &upstream);
    assert_eq!(proxy.get("/few").text(), "ok");
    assert_own_reply(&proxy.get("/many"), 500, "too many at once");
    let failed = proxy.log().wait_message("filter failed");
    assert!(
        failed.field("detail").contains("exceeds limit 65536"),
        "{}",
        failed.text
    );
}

/// A component of many large functions, which takes a compiler minutes; nothing is wrong with it.
fn compile_bomb() -> Vec<u8> {
    fn number(mut value: usize, bytes: &mut Vec<u8>) {
        while value >= 0x80 {
            bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
    }
    fn section(id: u8, content: &[u8], bytes: &mut Vec<u8>) {
        bytes.push(id);
        number(content.len(), bytes);
        bytes.extend(content);
    }
    const FUNCTIONS: usize = 5_000;
    // One local of i32, then `local.get 0; i32.const 1; i32.add; local.tee 0; drop` again and again.
    let mut body = vec![1, 1, 0x7f];
    (0..800).for_each(|_| body.extend([0x20, 0, 0x41, 1, 0x6a, 0x22, 0, 0x1a]));
    body.push(0x0b);
    let (mut functions, mut code) = (Vec::new(), Vec::new());
    number(FUNCTIONS, &mut functions);
    number(FUNCTIONS, &mut code);
    functions.extend([0; FUNCTIONS]);
    for _ in 0..FUNCTIONS {
        number(body.len(), &mut code);
        code.extend(&body);
    }
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    section(1, &[1, 0x60, 0, 0], &mut module);
    section(3, &functions, &mut module);
    section(10, &code, &mut module);
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    section(1, &module, &mut component);
    component
}

/// Fault 64: a component that takes minutes to compile is refused in time, neighbours do not notice, and the next one
/// does not wait for it.
#[test]
fn a_compile_bomb_is_refused_in_time() {
    let folder = Folder::new();
    folder.write("guest.wasm", Guest::new().on_request([]).build());
    let upstream = Upstream::saying("ok");
    let yaml = |component: &str| {
        let top = format!("wasm: {{ compile_timeout: 5s }}\nfilters:\n  guest: {{ component: {component} }}");
        Configuration {
            top: &top,
            route: "filters: [guest]",
            ..Default::default()
        }
        .to(&upstream)
    };
    let proxy = Proxy::start_in(&folder, &yaml("guest.wasm"));
    let bystander = Bystander::start(&proxy.address("web"), "/");
    folder.write("bomb.wasm", compile_bomb());
    let (status, report) = proxy.reload(&yaml("bomb.wasm"));
    assert_eq!(status, 422, "{report}");
    let error = report["errors"][0].to_string();
    assert!(
        error.contains("does not compile within wasm.compile_timeout of 5s"),
        "{error}"
    );
    folder.write("next.wasm", Guest::new().on_request([Log("next")]).build());
    let (status, report) = proxy.reload(&yaml("next.wasm"));
    assert_eq!(status, 200, "it waited for the one before: {report}");
    bystander.finish();
}

/// Components that must not be loaded, and what the refusal must say. Faults 61 and 62; more of them are in the pack.
fn unloadable() -> Vec<(&'static str, Vec<u8>, &'static [&'static str])> {
    let good = Guest::new().on_request([]);
    let text = |text: &str| wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"));
    let import = |interface, function| Guest::new().on_request([]).importing(interface, function).build();
    let whole = good.build();
    vec![
        ("empty file", vec![], &[]),
        ("garbage", b"#!/bin/sh\necho hello\n".to_vec(), &[]),
        ("truncated", whole[..whole.len() / 2].to_vec(), &[]),
        (
            "core module",
            text("(module (func (export \"on-request-head\")))"),
            &["component"],
        ),
        (
            "ungranted",
            Guest::new().on_request([Clock]).build(),
            &["tamis:filter/clock@0.1.0", "grants"],
        ),
        (
            "unknown import",
            import("tamis:filter/teleport@0.1.0", "go"),
            &["tamis:filter/teleport@0.1.0"],
        ),
        (
            "unknown function",
            import("tamis:filter/exchange@0.1.0", "steal"),
            &["tamis:filter/exchange"],
        ),
        (
            "another version",
            import("tamis:filter/request@9.9.9", "method"),
            &["tamis:filter/request@9.9.9"],
        ),
        ("no hook", Guest::new().build(), &["hook"]),
        ("only configure", Guest::new().on_configure([]).build(), &["hook"]),
        (
            "configure refuses",
            Guest::new()
                .on_configure([Refuse("not like this")])
                .on_request([])
                .build(),
            &["not like this"],
        ),
        (
            "configure traps",
            Guest::new().on_configure([Trap]).on_request([]).build(),
            &["configure"],
        ),
    ]
}

#[test]
fn check_refuses_what_cannot_be_loaded() {
    each(
        unloadable(),
        |case| case.0.to_owned(),
        |(name, component, said)| {
            let folder = Folder::new();
            folder.write("guest.wasm", component);
            let (code, printed) = check(&folder, &with_guest("respond: { status: 200 }"));
            assert_eq!(code, 1, "{name}: {printed}");
            assert!(
                printed.contains("suspect"),
                "{name}: the filter is not named: {printed}"
            );
            assert!(
                printed.contains(&format!("tamis.yaml:{GUEST_LINE}:")),
                "{name}: no place: {printed}"
            );
            for part in *said {
                assert!(printed.contains(part), "{name}: `{part}` is not said: {printed}");
            }
        },
    );
}

#[test]
fn check_refuses_missing_and_odd_files() {
    for odd in ["missing", "folder"] {
        let folder = Folder::new();
        if odd == "folder" {
            folder.write("guest.wasm/inside", "");
        }
        let (code, printed) = check(&folder, &with_guest("respond: { status: 200 }"));
        assert_eq!(code, 1, "{odd}: {printed}");
        assert!(
            printed.contains("suspect") && printed.contains("guest.wasm"),
            "{odd}: {printed}"
        );
    }
}

#[test]
fn check_accepts_a_sound_guest() {
    let folder = Folder::new();
    folder.write(
        "guest.wasm",
        Guest::new().on_configure([]).on_request([]).on_response([]).build(),
    );
    let (code, printed) = check(&folder, &with_guest("respond: { status: 200 }"));
    assert_eq!(code, 0, "{printed}");
}

#[test]
fn a_reload_refuses_what_cannot_be_loaded_and_serves_on() {
    let folder = Folder::new();
    folder.write(
        "guest.wasm",
        Guest::new().on_request([Reply(200, vec![], "first")]).build(),
    );
    let yaml = with_guest("respond: { status: 404 }");
    let proxy = Proxy::start_in(&folder, &yaml);
    let bystander = Bystander::start(&proxy.address("web"), "/");
    each(
        unloadable(),
        |case| case.0.to_owned(),
        |(name, component, said)| {
            folder.replace("guest.wasm", component);
            let (status, answer) = proxy.reload(&yaml);
            assert_eq!(status, 422, "{name}: {answer}");
            let errors = answer["errors"].to_string();
            assert!(errors.contains("suspect"), "{name}: {errors}");
            assert!(said.iter().all(|part| errors.contains(part)), "{name}: {errors}");
            assert_eq!(proxy.get("/").text(), "first", "{name}");
        },
    );
    bystander.finish();
    assert_eq!(proxy.generation(), 1);
    folder.replace(
        "guest.wasm",
        Guest::new().on_request([Reply(200, vec![], "second")]).build(),
    );
    assert_eq!(proxy.reload(&yaml).0, 200);
    assert_eq!(proxy.get("/").text(), "second");
}

/// Where `suspect` begins in [`with_guest`].
const GUEST_LINE: usize = 6;

fn with_guest(action: &str) -> String {
    format!(
        "\
workers: 1
admin: {{ address: 127.0.0.1:0 }}
listeners:
  web: {{ address: 127.0.0.1:0 }}
filters:
  suspect: {{ component: guest.wasm }}
routes:
  - {{ name: all, filters: [suspect], {action} }}
"
    )
}
