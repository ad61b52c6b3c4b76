//! What is left behind: exactly one access-log record for each request, metrics that no client can inflate, and an
//! admin endpoint that says how things are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use tamis_integration::metrics::Sample;
use tamis_integration::upstream::{Refusing, ok};
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Folder, Gate, Proxy, Step, Upstream};

use crate::support::{Configuration, plain, wait_until};

const LOG: &str = "access.log";
const TO_FILE: &str = "access_log: { file: access.log, format: json }";

/// The records once there are `count`, each line one whole object.
fn records(folder: &Folder, count: usize) -> Vec<Value> {
    let lines = folder.wait_lines(LOG, count);
    lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn a_record_says_what_happened() {
    let upstream = Upstream::answering(|request| ok(&request.text()));
    let proxy = Proxy::start(
        &Configuration {
            top: TO_FILE,
            ..Default::default()
        }
        .to(&upstream),
    );
    let body = "hello, world";
    let response = proxy.client().exchange(format!(
        "POST /a/b?c=d HTTP/1.1\r\nHost: a.example:81\r\nUser-Agent: test/1\r\nReferer: http://b.example/\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert_eq!(response.text(), body);
    let record = records(proxy.folder(), 1).remove(0);
    let object = record.as_object().expect("an object");
    let names: BTreeSet<_> = object.keys().map(String::as_str).collect();
    let expected = [
        "time",
        "request_id",
        "listener",
        "route",
        "cluster",
        "endpoint",
        "client",
        "method",
        "authority",
        "path",
        "protocol",
        "status",
        "reason",
        "request_bytes",
        "response_bytes",
        "duration_ms",
        "upstream_ms",
        "attempts",
        "user_agent",
        "referer",
        "attributes",
        "tls_version",
        "sni",
        "client_subject",
        "client_sans",
        "client_fingerprint",
        "grpc_status",
    ];
    assert_eq!(names, expected.into_iter().collect());
    let id = upstream
        .take_request("the one")
        .value("x-request-id")
        .expect("an id")
        .to_owned();
    let endpoint = upstream.address().to_string();
    for (name, value) in [
        ("request_id", id.as_str()),
        ("listener", "web"),
        ("route", "all"),
        ("cluster", "app"),
        ("endpoint", endpoint.as_str()),
        ("method", "POST"),
        ("authority", "a.example:81"),
        ("path", "/a/b?c=d"),
        ("protocol", "HTTP/1.1"),
        ("user_agent", "test/1"),
        ("referer", "http://b.example/"),
    ] {
        assert_eq!(record[name], value, "{name}");
    }
    assert!(
        record["client"]
            .as_str()
            .is_some_and(|client| client.starts_with("127.0.0.1")),
        "{record}"
    );
    assert_eq!(
        (&record["status"], &record["request_bytes"], &record["response_bytes"]),
        (&200.into(), &12.into(), &12.into())
    );
    assert_eq!(record["reason"], Value::Null);
    let milliseconds = |name: &str| record[name].as_f64().unwrap_or_else(|| panic!("{name}: {record}"));
    assert!((0.0..20_000.0).contains(&milliseconds("duration_ms")));
    assert!(milliseconds("upstream_ms") <= milliseconds("duration_ms"), "{record}");
    assert!(
        record["time"]
            .as_str()
            .is_some_and(|time| time.starts_with("20") && time.ends_with('Z')),
        "{record}"
    );
}

/// Every kind of request leaves exactly one record with its status, whatever became of it.
#[test]
fn every_request_leaves_one_record() {
    let gate = Gate::new();
    let good = Upstream::saying("ok");
    let garbage = Upstream::repeating("garbage\r\n\r\n");
    let slow = Upstream::each([vec![Step::Message, Step::Pass(gate.clone()), Step::Hold]]);
    let cut = Upstream::repeating("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 100\r\n\r\nhello");
    let refusing = Refusing::new();
    let folder = Folder::new();
    folder.write("trap.wasm", Guest::new().on_request([Trap]).build());
    folder.write(
        "reply.wasm",
        Guest::new().on_request([Reply(403, vec![], "no")]).build(),
    );
    let clusters = [
        ("garbage", garbage.address()),
        ("slow", slow.address()),
        ("cut", cut.address()),
        ("refusing", refusing.address()),
    ];
    let yaml = format!(
        r#"
workers: 1
admin: {{ address: 127.0.0.1:0 }}
{TO_FILE}
listeners:
  web: {{ address: 127.0.0.1:0, limits: {{ body_timeout: 300ms, head_timeout: 300ms }} }}
filters:
  trap: {{ component: trap.wasm }}
  reply: {{ component: reply.wasm }}
clusters:
  good: {{ endpoints: ["{}"] }}
{}
routes:
  - {{ name: ok, match: {{ path: {{ prefix: /ok }} }}, cluster: good }}
  - {{ name: trap, match: {{ path: {{ prefix: /trap }} }}, filters: [trap], cluster: good }}
  - {{ name: reply, match: {{ path: {{ prefix: /reply }} }}, filters: [reply], cluster: good }}
  - {{ name: static, match: {{ path: {{ prefix: /static }} }}, respond: {{ status: 200, body: hello }} }}
  - {{ name: redirect, match: {{ path: {{ prefix: /redirect }} }}, redirect: {{ path: /x }} }}
  - {{ name: garbage, match: {{ path: {{ prefix: /garbage }} }}, cluster: garbage }}
  - {{ name: slow, match: {{ path: {{ prefix: /slow }} }}, cluster: slow, timeout: 300ms }}
  - {{ name: cut, match: {{ path: {{ prefix: /cut }} }}, cluster: cut }}
  - {{ name: refusing, match: {{ path: {{ prefix: /refusing }} }}, cluster: refusing }}
"#,
        good.address(),
        clusters
            .map(|(name, address)| format!("  {name}: {{ endpoints: [\"{address}\"] }}\n"))
            .concat()
    );
    let proxy = Proxy::start_in(&folder, &yaml);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let post = |path: &str, length: usize| {
        format!("POST {path} HTTP/1.1\r\nHost: a.example\r\nContent-Length: {length}\r\n\r\nhello")
    };
    let large = "a".repeat(20_000);
    // Bytes, status in the record, whether the request was such that the record can say its path.
    let cases = [
        (get("/ok"), 200, true),
        (get("/none"), 404, true),
        (get("/trap"), 500, true),
        (get("/reply"), 403, true),
        (get("/static"), 200, true),
        (get("/redirect"), 302, true),
        (get("/garbage"), 502, true),
        (get("/refusing"), 502, true),
        (get("/slow"), 504, true),
        (get("/cut"), 200, true),
        (post("/ok", 5), 200, true),
        (post("/ok", 10), 408, true),
        ("GET /ok HTTP/1.1\r\n\r\n".into(), 400, true),
        (
            format!("GET /ok HTTP/1.1\r\nHost: a.example\r\nX-A: {large}\r\n\r\n"),
            431,
            true,
        ),
        (get(&format!("/{large}")), 414, true),
        (get(&format!("/{}", "a".repeat(70_000))), 414, false),
        (
            "GET /ok HTTP/1.1\r\nHost: a.example\r\nExpect: tea\r\n\r\n".into(),
            417,
            true,
        ),
        (
            "POST /ok HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na".into(),
            400,
            false,
        ),
        (
            "GET /ok HTTP/1.1\r\nHost: a.example\r\nbad header\r\n\r\n".into(),
            400,
            false,
        ),
        ("garbage\r\n\r\n".into(), 400, false),
        ("GET /ok HTTP/1.1\r\nHost: a".into(), 408, false),
    ];
    for (n, (bytes, status, whole)) in cases.iter().enumerate() {
        let mut client = proxy.client();
        client.send(bytes);
        client.try_response().ok();
        let records = records(&folder, n + 1);
        let record = &records[n];
        let shown = bytes.escape_debug().to_string();
        let shown = &shown[..shown.len().min(60)];
        assert_eq!(records.len(), n + 1, "{shown}: more than one record: {records:#?}");
        assert_eq!(record["status"], *status, "{shown}: {record}");
        assert_eq!(record["listener"], "web", "{shown}: {record}");
        let fault = *status >= 400 && ![403, 404].contains(status) || bytes.contains("/cut");
        assert!(
            !fault || record["reason"].as_str().is_some_and(|reason| !reason.is_empty()),
            "{shown}: no reason: {record}"
        );
        let path = record["path"].as_str().expect("a path");
        assert_eq!(!path.is_empty(), *whole, "{shown}: {record}");
        // Who failed, also where nothing was sent.
        if let Some((name, address)) = clusters.iter().find(|(name, _)| path == format!("/{name}")) {
            assert_eq!(record["cluster"], *name, "{shown}: {record}");
            assert_eq!(record["endpoint"], address.to_string(), "{shown}: {record}");
        }
    }
    gate.open();
}

/// A client that says behind its request that it will send no more is taken for one that leaves.
#[test]
fn requests_with_a_fin_behind_them_have_records() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(
        &Configuration {
            top: TO_FILE,
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut before = 0;
    for count in [1, 3] {
        let mut client = proxy.client();
        client
            .send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".repeat(count))
            .finish();
        before += count;
        let records = records(proxy.folder(), before);
        let last = records.last().expect("there is one");
        assert!(
            [200, 499].contains(&last["status"].as_u64().expect("a status")),
            "{last}"
        );
        client.ending();
    }
}

/// The preface of HTTP/2 where that is not spoken gets the answer that its record says.
#[test]
fn a_refused_preface_is_answered() {
    let upstream = Upstream::saying("ok");
    let configuration = Configuration {
        top: TO_FILE,
        ..Default::default()
    };
    let text = configuration.to(&upstream);
    let proxy = Proxy::start(&text.replacen("    limits:", "    protocols: [http1]\n    limits:", 1));
    let mut client = proxy.client();
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(client.response().status(), 400);
    let record = &records(proxy.folder(), 1)[0];
    assert_eq!(
        (&record["status"], &record["reason"]),
        (&400.into(), &"malformed".into())
    );
}

/// A client that leaves: one record, and it says so.
#[test]
fn aborted_requests_leave_one_record() {
    let gate = Gate::new();
    let upstream = Upstream::each([
        vec![Step::Message, Step::Pass(gate.clone()), Step::Hold],
        vec![
            Step::Message,
            Step::send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhello"),
            Step::Pass(gate.clone()),
            Step::Hold,
        ],
        vec![Step::serve(ok("ok"))],
    ]);
    let proxy = Proxy::start(
        &Configuration {
            top: TO_FILE,
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut before = proxy.client();
    before.send("GET /before HTTP/1.1\r\nHost: a.example\r\n\r\n");
    upstream.wait_requests(1);
    before.reset();
    let first = records(proxy.folder(), 1);
    assert_eq!(first[0]["path"], "/before", "{first:#?}");
    assert_eq!(first[0]["reason"], "client_closed", "{first:#?}");
    // Whom it waited for.
    assert_eq!(
        (&first[0]["cluster"], &first[0]["endpoint"], &first[0]["attempts"]),
        (&"app".into(), &upstream.address().to_string().into(), &1.into()),
        "{first:#?}"
    );
    let mut within = proxy.client();
    within.send("GET /within HTTP/1.1\r\nHost: a.example\r\n\r\n");
    within.read(40);
    within.reset();
    gate.open();
    let second = records(proxy.folder(), 2);
    assert_eq!(
        (&second[1]["path"], &second[1]["reason"]),
        (&"/within".into(), &"client_closed".into()),
        "{second:#?}"
    );
    assert_eq!(proxy.get("/after").text(), "ok");
    assert_eq!(records(proxy.folder(), 3).len(), 3);
}

/// A connection without a request, and one that is closed between two, leave no record.
#[test]
fn connections_leave_no_record() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(
        &Configuration {
            top: TO_FILE,
            ..Default::default()
        }
        .to(&upstream),
    );
    drop(proxy.client());
    proxy.client().reset();
    let mut client = proxy.client();
    assert_eq!(client.get("/1").text(), "ok");
    client.finish().assert_closed("end of input");
    assert_eq!(proxy.get("/2").text(), "ok");
    let records = records(proxy.folder(), 2);
    let paths: Vec<_> = records
        .iter()
        .map(|record| record["path"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(paths, ["/1", "/2"]);
}

/// Fault 36: nothing that a client sends breaks a line or reaches a terminal as a command.
#[test]
fn records_are_one_line_each() {
    let upstream = Upstream::saying("ok");
    for format in ["json", "'{method} {path} \"{user_agent}\" {status}'"] {
        let top = format!("access_log: {{ file: access.log, format: {format} }}");
        let proxy = Proxy::start(
            &Configuration {
                top: &top,
                ..Default::default()
            }
            .to(&upstream),
        );
        let hostile = [
            "GET /%0a%1b[31m HTTP/1.1\r\nHost: a.example\r\nUser-Agent: \"\\ {\"a\":1}\r\n\r\n",
            "GET /\" HTTP/1.1\r\nHost: a.example\r\nUser-Agent: tab\there\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.example\r\nUser-Agent: \u{9b}31m\u{2028}\u{202e}\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.example\r\nUser-Agent: a\0b\r\n\r\n",
            "GET /a\u{1b}b HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "\u{1b}[31m / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        ];
        for (n, bytes) in hostile.iter().enumerate() {
            proxy.client().exchange(bytes);
            let lines = proxy.folder().wait_lines(LOG, n + 1);
            assert_eq!(lines.len(), n + 1, "{format}: {lines:#?}");
            let line = &lines[n];
            let bad = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}');
            assert!(!line.contains(bad), "{format}: {}", line.escape_debug());
            if format == "json" {
                let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                assert!(record["status"].is_number(), "{line}");
            }
        }
        if format == "json" {
            let record: Value = serde_json::from_str(&proxy.folder().wait_lines(LOG, 1)[0]).expect("an object");
            assert_eq!(record["user_agent"], "\"\\ {\"a\":1}");
        }
    }
}

#[test]
fn the_log_is_reopened_at_a_hangup() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(
        &Configuration {
            top: TO_FILE,
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = proxy.client();
    client.get("/1");
    proxy.folder().wait_lines(LOG, 1);
    fs::rename(proxy.folder().path(LOG), proxy.folder().path("access.log.1")).expect("the log is there");
    proxy.signal(Signal::HUP);
    wait_until("the log is opened again", || proxy.folder().path(LOG).exists());
    client.get("/2");
    let fresh = records(proxy.folder(), 1);
    assert_eq!((fresh.len(), &fresh[0]["path"]), (1, &"/2".into()));
    assert_eq!(proxy.folder().wait_lines("access.log.1", 1).len(), 1);
}

/// The last records are written before the process ends.
#[test]
fn no_record_is_lost_at_the_end() {
    let upstream = Upstream::saying("ok");
    let mut proxy = Proxy::start(
        &Configuration {
            top: TO_FILE,
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = proxy.client();
    for n in 0..500 {
        client.get(&format!("/{n}"));
    }
    drop(client);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
    assert_eq!(proxy.folder().wait_lines(LOG, 500).len(), 500);
}

/// Fault 37: paths and hosts that match nothing make no series of their own.
#[test]
fn metrics_count_by_listener_route_and_code() {
    let upstream = Upstream::saying("ok");
    let yaml = Configuration {
        routes: "  - { name: static, match: { path: { prefix: /static } }, respond: { status: 204 } }",
        ..Default::default()
    }
    .to(&upstream)
    .replace("name: all,", "name: app, match: { path: { prefix: /app } },");
    let proxy = Proxy::start(&yaml);
    let mut client = proxy.client();
    let round = |client: &mut tamis_integration::Client, n: usize| {
        for _ in 0..3 {
            assert_eq!(client.get("/app").status(), 200);
        }
        for _ in 0..2 {
            assert_eq!(client.get("/static").status(), 204);
        }
        for path in 0..10 {
            let request = format!("GET /{n}/{path} HTTP/1.1\r\nHost: h{n}-{path}.example\r\n\r\n");
            assert_eq!(client.exchange(request).status(), 404);
        }
    };
    round(&mut client, 0);
    let before = proxy.metrics();
    for n in 1..10 {
        round(&mut client, n);
    }
    let metrics = proxy.metrics();
    let count = |route: &str, code: &str| {
        metrics.sum(
            "tamis_requests_total",
            &[("listener", "web"), ("route", route), ("code", code)],
        )
    };
    assert_eq!(count("app", "200"), 30.0);
    assert_eq!(count("static", "204"), 20.0);
    assert_eq!(
        metrics.sum("tamis_requests_total", &[("listener", "web"), ("code", "404")]),
        100.0
    );
    assert_eq!(metrics.sum("tamis_requests_total", &[]), 150.0);
    assert_eq!(metrics.samples.len(), before.samples.len(), "a client made new series");
    assert!(
        metrics.samples.iter().all(|sample| sample.name.starts_with("tamis_")),
        "{metrics:?}"
    );
}

/// Which requests took a connection that was there, and how many are open.
#[test]
fn connections_to_upstreams_are_counted() {
    let upstream = Upstream::answering(|request| match request.target() {
        "/last" => "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".into(),
        target => ok(target),
    });
    let proxy = Proxy::start(&plain(&upstream));
    let counts = || {
        let metrics = proxy.metrics();
        let endpoint = upstream.address().to_string();
        let labels = [("cluster", "app"), ("endpoint", endpoint.as_str())];
        ["", "_opened_total", "_reused_total"]
            .map(|name| metrics.sum(&format!("tamis_upstream_connections{name}"), &labels))
    };
    for (target, open, opened, reused) in [
        ("/first", 1.0, 1.0, 0.0),
        ("/again", 1.0, 1.0, 1.0),
        ("/last", 0.0, 1.0, 2.0),
        ("/anew", 1.0, 2.0, 2.0),
    ] {
        assert_eq!(proxy.get(target).status(), 200, "{target}");
        assert_eq!(counts(), [open, opened, reused], "{target}");
    }
}

/// A kind of failure that is counted was shown from zero, so that an alert on its increase sees the first one.
#[test]
fn the_first_failure_of_an_upstream_is_an_increase() {
    let upstream = Upstream::answering(|request| match request.target() {
        "/bad" => b"garbage\r\n\r\n".to_vec(),
        _ => ok("ok"),
    });
    let proxy = Proxy::start(&plain(&upstream));
    assert_eq!(proxy.get("/").status(), 200);
    let failures = || {
        let metrics = proxy.metrics();
        let samples = metrics.matching("tamis_upstream_failures_total", &[]);
        let kind = |sample: &Sample| (sample.labels["kind"].clone(), sample.value);
        samples.into_iter().map(kind).collect::<BTreeMap<_, _>>()
    };
    let mut expected = failures();
    assert_eq!(expected.insert("upstream_protocol".into(), 1.0), Some(0.0));
    assert_eq!(expected.get("connect_failed"), Some(&0.0));
    assert_eq!(proxy.get("/bad").status(), 502);
    assert_eq!(failures(), expected);
}

/// Row (e) of every fault: something rises.
#[test]
fn faults_show_in_the_metrics() {
    let upstream = Upstream::repeating("garbage\r\n\r\n");
    let folder = Folder::new();
    folder.write("trap.wasm", Guest::new().on_request([Trap]).build());
    let configuration = Configuration {
        top: "filters:\n  trap: { component: trap.wasm }",
        routes: "  - { name: trap, match: { path: { prefix: /trap } }, filters: [trap], cluster: app }",
        ..Default::default()
    };
    let proxy = Proxy::start_in(&folder, &configuration.to(&upstream));
    for _ in 0..3 {
        assert_eq!(proxy.get("/").status(), 502);
        assert_eq!(proxy.get("/trap").status(), 500);
    }
    assert_eq!(proxy.admin("POST", "/reload").status(), 200);
    proxy.folder().replace("tamis.yaml", "nonsense: 1\n");
    assert_eq!(proxy.admin("POST", "/reload").status(), 422);
    let metrics = proxy.metrics();
    let named = |part: &str| {
        metrics
            .samples
            .iter()
            .filter(|sample| sample.name.contains(part))
            .map(|sample| sample.value)
            .sum::<f64>()
    };
    assert_eq!(metrics.sum("tamis_requests_total", &[("code", "502")]), 3.0);
    assert_eq!(metrics.sum("tamis_requests_total", &[("code", "500")]), 3.0);
    assert!(named("upstream_failures") >= 3.0, "{metrics:?}");
    assert!(named("filter_failures") >= 3.0, "{metrics:?}");
    assert!(
        metrics.sum("tamis_reloads_total", &[("outcome", "refused")]) >= 1.0,
        "{metrics:?}"
    );
}

#[test]
fn the_admin_endpoint_says_how_things_are() {
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    folder.write("secret.txt", "hunter2");
    folder.write("guest.wasm", Guest::new().on_configure([]).on_request([]).build());
    let top = "filters:\n  guest: { component: guest.wasm, config: { password: \"file:secret.txt\" } }";
    let proxy = Proxy::start_in(
        &folder,
        &Configuration {
            top,
            route: "filters: [guest]",
            ..Default::default()
        }
        .to(&upstream),
    );
    assert_eq!(proxy.get("/").text(), "ok");
    for path in ["/ready", "/live"] {
        assert_eq!(proxy.admin("GET", path).status(), 200, "{path}");
    }
    for (path, part) in [
        ("/config", "guest"),
        ("/routes", "all"),
        ("/clusters", "app"),
        ("/filters", "guest"),
    ] {
        let reply = proxy.admin("GET", path);
        assert_eq!(reply.status(), 200, "{path}");
        let json: Value = serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(json.to_string().contains(part), "{path}: {json}");
        assert!(!json.to_string().contains("hunter2"), "{path}: a secret is shown");
    }
    assert_eq!(proxy.admin("GET", "/nothing").status(), 404);
    assert_eq!(proxy.admin("POST", "/ready").status(), 405);
    assert!(
        !proxy.log().lines().iter().any(|line| line.text.contains("hunter2")),
        "a secret is logged"
    );
}

/// Fault 130: a page of a stranger in a local browser can do nothing.
#[test]
fn the_admin_endpoint_refuses_strangers() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    let ask = |request: &str| {
        tamis_integration::Client::connect(&proxy.admin_address())
            .exchange(request)
            .status()
    };
    for (request, status) in [
        ("GET /config HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        (
            "POST /drain HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n\r\n",
            403,
        ),
        (
            "POST /reload HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n",
            403,
        ),
        ("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    ] {
        assert_eq!(ask(request), status, "{request}");
    }
    assert_eq!(proxy.admin("GET", "/ready").status(), 200);
}
