//! One filter in five languages, and in two at once: the same table of cases against each component, so that the contract means the same in
//! every language. What the filter does is in `filters/battery/README.md`.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tamis_integration::proxy::{check_within, run_to_end};
use tamis_integration::upstream::ok;
use tamis_integration::{Client, Folder, Message, Proxy, Upstream};

use crate::support::{Configuration, assert_own_reply, each, forwarded, relayed};

const LOG: &str = "access.log";
/// An interpreter has many megabytes of code, and tests are run on busy machines without optimisation.
const COMPILE: Duration = Duration::from_secs(300);
/// An interpreter needs some hundred times the processor time of compiled code, more on a busy machine, and all of the
/// memory that a filter may be given.
const LIMITS: &str = "limits: { memory: 64MiB, cpu: 2s, exchange_cpu: 20s, wall: 5s, wait: 5s }";

#[test]
fn battery_in_rust() {
    battery("rust");
}

#[test]
fn battery_in_c() {
    battery("c");
}

#[test]
fn battery_in_go() {
    battery("go");
}

#[test]
fn battery_in_js() {
    battery("js");
}

#[test]
fn battery_in_python() {
    battery("python");
}

/// Rust takes what it does to bodies from JavaScript: two components made one.
#[test]
fn battery_in_two_languages() {
    let (Some(two), Some(words)) = (component("two"), component("words")) else {
        return;
    };
    let folder = Folder::new();
    let composed = folder.path("composed.wasm");
    let paths = [&two, &words, &composed].map(|path| path.to_string_lossy());
    let output = run_to_end(&folder, &["filter", "compose", &paths[0], &paths[1], "-o", &paths[2]]);
    assert!(output.status.success(), "{output:?}");
    passes("two languages", &composed);
}

/// The component, where there is one: not every machine has the tools of every language, but the one that decides has.
fn component(language: &str) -> Option<PathBuf> {
    let name = format!("battery-{language}.wasm");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../filters/target/components/{name}"));
    if path.exists() {
        return Some(path);
    }
    assert_ne!(env::var("CI").as_deref(), Ok("true"), "{name}: run `make guests-all`");
    println!("{language} is skipped, because there is no {name}: run `make guests-all`");
    None
}

/// What comes to a client.
enum Answer {
    /// Start line, fields and body, without what the proxy adds to every response.
    Whole(String),
    /// The proxy's own.
    Own(u16),
}

use Answer::{Own, Whole};

/// One exchange on a connection of its own.
struct Case {
    name: &'static str,
    request: String,
    /// The request at the upstream; none where none may come.
    sent: Option<String>,
    answer: Answer,
}

fn battery(language: &str) {
    let Some(component) = component(language) else { return };
    passes(language, &component);
}

fn passes(language: &str, component: &Path) {
    let folder = Folder::new();
    folder.copy(component, "battery.wasm");
    let side = Upstream::saying("hello");
    let upstream = Upstream::answering(answer);
    let yaml = configuration(&upstream, &side);
    let proxy = Proxy::start_within(&folder, &yaml, COMPILE);
    each(
        cases(),
        |case| format!("{language}: {}", case.name),
        |case| case.run(&proxy, &upstream),
    );
    each(
        WIRE,
        |case| format!("{language}: on the wire: {} {}", case.0, case.1),
        |(fields, body, request, response)| on_the_wire(&proxy, &upstream, fields, body, request, response),
    );
    state_is_of_one_exchange(&proxy, &upstream);
    counts_over_exchanges(&proxy, &upstream);
    calls_the_side(&side);
    leaves_its_mark(&proxy);
    records_what_it_leaves(&folder, &upstream);
    refuses_configurations(&folder);
}

fn configuration(upstream: &Upstream, side: &Upstream) -> String {
    let top = format!(
        "access_log: {{ file: {LOG}, format: json }}\n\
         wasm: {{ cache: code, compile_timeout: 5m }}\n\
         filters:\n  \
           battery: {{ component: battery.wasm, config: {{ mark: M }}, {LIMITS},\n    \
             grants: [metrics, clock, random, key_value, {{ outbound: [side] }}] }}\n  \
           elsewhere: {{ component: battery.wasm, config: {{ mark: E }}, {LIMITS},\n    \
             grants: [metrics, clock, random, key_value, {{ outbound: [app] }}] }}"
    );
    Configuration {
        top: &top,
        clusters: &format!("  side: {{ endpoints: [\"{}\"] }}", side.address()),
        routes: "  - { name: elsewhere, match: { path: { exact: /elsewhere } }, filters: [elsewhere], cluster: app }",
        route: "filters: [battery]",
        ..Default::default()
    }
    .to(upstream)
}

/// What the upstream says depends on the path alone.
fn answer(request: &Message) -> Vec<u8> {
    match request.target() {
        "/299" => b"HTTP/1.1 299 Odd\r\nContent-Length: 3\r\n\r\nodd".to_vec(),
        "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\nEtag: \"a\"\r\n\r\n".to_vec(),
        "/chunked" => {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nbanana\r\n0\r\nX-Sum: 1\r\n\r\n".to_vec()
        }
        _ if request.method() == "HEAD" => b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n".to_vec(),
        _ => ok("banana"),
    }
}

fn request(line: &str, fields: &[&str], body: &str) -> String {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    format!("{line} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n{body}")
}

/// A message in the form of `Message::canonical`.
fn message(start: &str, fields: &[&str], body: &str) -> String {
    let mut fields: Vec<_> = fields.to_vec();
    fields.sort_unstable();
    let head = [&[start], fields.as_slice()].concat().join("\n");
    match body {
        "" => head,
        body => format!("{head}\n\n{body}"),
    }
}

fn sent(line: &str, fields: &[&str], body: &str) -> Option<String> {
    let fields = [&["host: a.example", "x-battery: M"], fields].concat();
    Some(message(&format!("{line} HTTP/1.1"), &fields, body))
}

/// The upstream's answer, when nothing happens to it.
fn banana() -> Answer {
    Whole(message(
        "HTTP/1.1 200 OK",
        &["content-length: 6", "x-battery-seen: 1:M"],
        "banana",
    ))
}

fn answered(status: &str, fields: &[&str], body: &str) -> Answer {
    Whole(message(&format!("HTTP/1.1 {status}"), fields, body))
}

/// A GET with this `x-battery-do`, which reaches the upstream with these fields.
fn get(does: &'static str, fields: &[&str]) -> Case {
    Case {
        name: does,
        request: request("GET /", &[&format!("X-Battery-Do: {does}")], ""),
        sent: sent("GET /", fields, ""),
        answer: banana(),
    }
}

fn post(name: &'static str, fields: &[&str], body: &str, forwarded: Option<(&[&str], &str)>) -> Case {
    let length = format!("Content-Length: {}", body.len());
    Case {
        name,
        request: request("POST /", &[fields, &[&length]].concat(), body),
        sent: forwarded.and_then(|(fields, body)| sent("POST /", fields, body)),
        answer: banana(),
    }
}

const CHUNKED: &str = "transfer-encoding: chunked";

fn cases() -> Vec<Case> {
    let mut cases = heads();
    cases.extend(held_bodies());
    cases.extend(request_bodies());
    cases.extend(response_bodies());
    cases
}

fn heads() -> Vec<Case> {
    vec![
        Case {
            name: "proceed",
            request: request("GET /a?b=c", &[], ""),
            sent: sent("GET /a?b=c", &[], ""),
            answer: banana(),
        },
        Case {
            name: "echo",
            request: request("GET /", &["X-Battery-Do: echo", "X-Multi: a", "x-multi: b, c"], ""),
            sent: sent("GET /", &["x-joined: a|b, c", "x-multi: a", "x-multi: b, c"], ""),
            answer: banana(),
        },
        get("unknown", &[]),
        get("attr", &[]),
        get("log", &[]),
        get("metrics", &[]),
        get("time", &["x-time-ok: 1"]),
        get("random", &["x-random-len: 16"]),
        get("forbidden", &["x-edit: forbidden"]),
        get("call", &["x-side: 200:hello"]),
        Case {
            name: "call elsewhere",
            request: request("GET /elsewhere", &["X-Battery-Do: call"], ""),
            sent: Some(message(
                "GET /elsewhere HTTP/1.1",
                &["host: a.example", "x-battery: E", "x-side: error:not-granted"],
                "",
            )),
            answer: answered("200 OK", &["content-length: 6", "x-battery-seen: 1:E"], "banana"),
        },
        Case {
            name: "reply",
            request: request("GET /", &["X-Battery-Do: reply"], ""),
            sent: None,
            answer: answered(
                "418 I'm a teapot",
                &["content-length: 16", "x-battery-seen: 1:M", "x-from: M"],
                "short and stout\n",
            ),
        },
        Case {
            name: "trap",
            request: request("GET /", &["X-Battery-Do: trap"], ""),
            sent: None,
            answer: Own(500),
        },
        Case {
            name: "after the trap",
            request: request("GET /", &[], ""),
            sent: sent("GET /", &[], ""),
            answer: banana(),
        },
        Case {
            name: "a response replaced",
            request: request("GET /299", &[], ""),
            sent: sent("GET /299", &[], ""),
            answer: answered("503 Service Unavailable", &["content-length: 9"], "replaced\n"),
        },
    ]
}

fn held_bodies() -> Vec<Case> {
    const READ: &str = "X-Battery-Do: read";
    const READ_ON: &str = "X-Battery-Do: read-on";
    let most = "a".repeat(65536);
    let more = "a".repeat(65537);
    vec![
        post(
            "held",
            &[READ],
            "hello, w\u{0}rld",
            Some((&["content-length: 12", "x-held: 12:true"], "HELLO, W\u{0}RLD")),
        ),
        post(
            "as much as may be held",
            &[READ],
            &most,
            Some((&["content-length: 65536", "x-held: 65536:true"], &most.to_uppercase())),
        ),
        Case {
            answer: Own(413),
            ..post("more than may be held", &[READ], &more, None)
        },
        Case {
            name: "held, in chunks",
            request: request(
                "POST /",
                &[READ, "Transfer-Encoding: chunked"],
                "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
            ),
            sent: sent("POST /", &[CHUNKED, "x-held: 5:true"], "HELLO"),
            answer: banana(),
        },
        Case {
            name: "nothing to hold",
            request: request("GET /", &[READ], ""),
            sent: sent("GET /", &["x-held: 0:true"], ""),
            answer: banana(),
        },
        Case {
            name: "held, and streamed then",
            request: request("POST /", &[READ, "X-Battery-Body: swap", "Content-Length: 6"], "banana"),
            sent: sent("POST /", &[CHUNKED, "x-held: 6:true"], "BANANA[6]"),
            answer: banana(),
        },
        post(
            "the beginning held",
            &[READ_ON],
            "abcdefghijklmnopqrstuvwxyz",
            Some((
                &["content-length: 26", "x-held: 16:false"],
                "ABCDEFGHIJKLMNOPqrstuvwxyz",
            )),
        ),
        post(
            "all of it is no more than the beginning",
            &[READ_ON],
            "abc",
            Some((&["content-length: 3", "x-held: 3:true"], "ABC")),
        ),
    ]
}

fn request_bodies() -> Vec<Case> {
    vec![
        post("a body passes", &[], "banana", Some((&["content-length: 6"], "banana"))),
        post(
            "a body is kept, and loses its length",
            &["X-Battery-Body: keep"],
            "banana",
            Some((&[CHUNKED], "banana")),
        ),
        post(
            "swap",
            &["X-Battery-Body: swap"],
            "banana",
            Some((&[CHUNKED], "bbnbnb[6]")),
        ),
        post("drop", &["X-Battery-Body: drop"], "banana", Some((&[CHUNKED], ""))),
        Case {
            name: "no body to swap",
            request: request("GET /", &["X-Battery-Body: swap"], ""),
            sent: sent("GET /", &[], ""),
            answer: banana(),
        },
    ]
}

fn response_bodies() -> Vec<Case> {
    let case = |name, line: &str, mode, status, fields: &[&str], body| {
        let seen = [fields, &["x-battery-seen: 1:M"]].concat();
        Case {
            name,
            request: request(line, &[&format!("X-Battery-Response: {mode}")], ""),
            sent: sent(line, &[], ""),
            answer: answered(status, &seen, body),
        }
    };
    vec![
        case(
            "an answer is swapped",
            "GET /",
            "swap",
            "200 OK",
            &[CHUNKED],
            "bbnbnb<end>",
        ),
        case("an answer is split", "GET /", "split", "200 OK", &[CHUNKED], "banana"),
        case("an answer is kept", "GET /", "keep", "200 OK", &[CHUNKED], "banana"),
        case("204 has no body", "GET /204", "swap", "204 No Content", &[], ""),
        case(
            "304 has no body",
            "GET /304",
            "swap",
            "304 Not Modified",
            &["etag: \"a\""],
            "",
        ),
        Case {
            name: "an answer in chunks passes",
            request: request("GET /chunked", &[], ""),
            sent: sent("GET /chunked", &[], ""),
            answer: answered("200 OK", &[CHUNKED, "x-battery-seen: 1:M"], "banana"),
        },
    ]
}

impl Case {
    fn run(&self, proxy: &Proxy, upstream: &Upstream) {
        upstream.take_requests();
        let mut client = proxy.client();
        client.try_send(&self.request);
        let response = client.response();
        match &self.answer {
            Whole(expected) => assert_eq!(relayed(&response), *expected, "{}", self.name),
            Own(status) => assert_own_reply(&response, *status, self.name),
        }
        let seen: Vec<_> = upstream.take_requests().iter().map(forwarded).collect();
        let expected: Vec<_> = self.sent.iter().cloned().collect();
        assert_eq!(seen, expected, "{}", self.name);
    }
}

/// Fields of a POST with a body; the bytes behind the heads, at the upstream and at the client.
const WIRE: [(&str, &str, &str, &str); 4] = [
    ("", "banana", "banana", "banana"),
    (
        "X-Battery-Body: swap\r\nX-Battery-Response: swap\r\n",
        "banana",
        "6\r\nbbnbnb\r\n3\r\n[6]\r\n0\r\n\r\n",
        "6\r\nbbnbnb\r\n5\r\n<end>\r\n0\r\n\r\n",
    ),
    (
        "X-Battery-Body: drop\r\nX-Battery-Response: split\r\n",
        "banana",
        "0\r\n\r\n",
        "3\r\nban\r\n3\r\nana\r\n0\r\n\r\n",
    ),
    (
        "X-Battery-Do: read\r\nX-Battery-Body: swap\r\n",
        "a",
        "1\r\nA\r\n3\r\n[1]\r\n0\r\n\r\n",
        "banana",
    ),
];

fn on_the_wire(proxy: &Proxy, upstream: &Upstream, fields: &str, body: &str, request: &str, response: &str) {
    let length = body.len();
    let before = upstream.received_all().len();
    let mut client = proxy.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
    ));
    let received = client.ending().bytes;
    assert_eq!(behind_head(&received), response, "at the client");
    // One worker has one connection to the upstream at a time, so what is new stands at the end.
    let all = upstream.received_all();
    assert_eq!(behind_head(&all[before..]), request, "at the upstream");
}

fn behind_head(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let (_, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
    body.to_owned()
}

/// The guest's variables last from hook to hook, and not to the next exchange of the same connection.
fn state_is_of_one_exchange(proxy: &Proxy, upstream: &Upstream) {
    upstream.take_requests();
    let mut client = proxy.client();
    for (body, expected) in [("aaa", "bbb[3]"), ("a", "b[1]"), ("aa", "bb[2]")] {
        let length = format!("Content-Length: {}", body.len());
        let response = client.exchange(request("POST /", &["X-Battery-Body: swap", &length], body));
        assert_eq!(response.value("x-battery-seen"), Some("1:M"));
        assert_eq!(upstream.take_request("state").text(), expected);
    }
}

fn counts_over_exchanges(proxy: &Proxy, upstream: &Upstream) {
    upstream.take_requests();
    let mut client: Client = proxy.client();
    for count in ["1", "2", "3"] {
        client.exchange(request("GET /", &["X-Battery-Do: count"], ""));
        assert_eq!(upstream.take_request("count").value("x-count"), Some(count));
    }
}

/// The one call that was granted.
fn calls_the_side(side: &Upstream) {
    let call = side.take_request("the call");
    let added: Vec<_> = call
        .fields
        .iter()
        .map(|field| field.name.to_ascii_lowercase())
        .collect();
    assert_eq!(call.start, "GET /side?from=M HTTP/1.1");
    assert_eq!(
        (call.value("host"), call.values("via").len(), call.body.len()),
        (Some("side"), 1, 0),
        "{added:?}"
    );
}

fn leaves_its_mark(proxy: &Proxy) {
    let line = proxy.log().wait_message("battery says M");
    assert_eq!((line.level(), line.field("filter").as_str()), ("INFO", "battery"));
    let metrics = proxy.metrics();
    let labels = [("filter", "battery"), ("kind", "head")];
    assert_eq!(metrics.sum("tamis_filter_custom_battery_calls", &labels), 1.0);
    let filter = [("filter", "battery")];
    assert_eq!(metrics.sum("tamis_filter_custom_battery_seconds_count", &filter), 1.0);
    assert_eq!(metrics.sum("tamis_filter_custom_battery_seconds_sum", &filter), 0.25);
}

/// Every record has what the completion hook has found out, and the one with the attribute has that too.
fn records_what_it_leaves(folder: &Folder, upstream: &Upstream) {
    let proxy = Proxy::start_in(folder, &configuration(upstream, upstream));
    // The log is continued; what is there is told from what is new by its path.
    let mut client = proxy.client();
    for (target, fields) in [
        ("/record/attr", "X-Battery-Do: attr"),
        ("/record/swap", "X-Battery-Response: swap"),
        ("/record/reply", "X-Battery-Do: reply"),
        ("/record/trap", "X-Battery-Do: trap"),
    ] {
        client.exchange(request(&format!("GET {target}"), &[fields], ""));
    }
    for (path, attributes, bytes) in [
        (
            "/record/attr",
            serde_json::json!({ "battery": "M", "battery-bytes": "6" }),
            Some(6),
        ),
        ("/record/swap", serde_json::json!({ "battery-bytes": "11" }), Some(11)),
        ("/record/reply", serde_json::json!({ "battery-bytes": "16" }), Some(16)),
        ("/record/trap", serde_json::json!({}), None),
    ] {
        let record = wait_record(folder, path);
        assert_eq!(record["attributes"], attributes, "{record}");
        assert!(bytes.is_none_or(|bytes| record["response_bytes"] == bytes), "{record}");
    }
}

fn wait_record(folder: &Folder, path: &str) -> Value {
    let mut count = 1;
    loop {
        let lines = folder.wait_lines(LOG, count);
        let mut records = lines
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).expect("a record"));
        if let Some(record) = records.find(|record| record["path"] == path) {
            return record;
        }
        count = lines.len() + 1;
    }
}

fn refuses_configurations(folder: &Folder) {
    let refused = "battery: config.mark must be a non-empty string";
    each(
        ["{ mark: \"\" }", "{ mark: 7 }", "{}", "[]", "text"],
        |config| format!("refused: {config}"),
        |config| {
            let yaml = format!(
                "wasm: {{ cache: code, compile_timeout: 5m }}\nlisteners:\n  web: {{ address: 127.0.0.1:0 }}\nfilters:\n  \
                 f: {{ component: battery.wasm, config: {config}, {LIMITS}, \
                 grants: [metrics, clock, random, key_value, {{ outbound: [side] }}] }}\n\
                 clusters:\n  side: {{ endpoints: [\"127.0.0.1:9\"] }}\n\
                 routes:\n  - {{ filters: [f], respond: {{ status: 200 }} }}\n"
            );
            let (code, printed) = check_within(folder, &yaml, COMPILE);
            assert_eq!(code, 1, "{printed}");
            assert!(
                printed.contains(refused) && printed.contains("tamis.yaml:5:"),
                "{printed}"
            );
        },
    );
}
