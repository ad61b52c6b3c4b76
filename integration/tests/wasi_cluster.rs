//! Components take part in what clusters do: retries, mirrors, limits, weights, gRPC.

use http::HeaderMap;
use serde_json::Value;
use tamis_integration::http2::{END_STREAM, Frames, HEADERS, Http2, request};
use tamis_integration::upstream::ok;
use tamis_integration::{Client, Proxy, Upstream};

use crate::support::{apply, assert_own_reply, each, wait_until, wasi_component};
use crate::wasi_http::{RUST, configuration, post, start, state};

/// A message of gRPC, of two bytes.
const MESSAGE: &[u8] = b"\0\0\0\0\x02hi";

/// `attempts` of the access log's lines, in their order.
fn attempts(proxy: &Proxy, count: usize) -> Vec<Value> {
    let lines = proxy.folder().wait_lines("access.log", count);
    let parse = |line: &String| serde_json::from_str::<Value>(line).expect("JSON");
    lines.iter().map(|line| parse(line)["attempts"].clone()).collect()
}

/// The route `/path`, to `app`, with these entries.
fn route(path: &str, entries: &str) -> String {
    format!("  - {{ match: {{ path: {{ prefix: {path} }} }}, cluster: app, {entries} }}")
}

#[test]
fn what_failed_is_tried_again_in_another_instance() {
    let retry = "retry: { attempts: 3, backoff: { base: 1ms }, on: [reset, 503] }";
    for name in RUST {
        let budget = ", retry_budget: { min_per_second: 100 }";
        let proxy = Proxy::start(&configuration(name, budget, "", &route("/", retry)));
        let mut client = proxy.client();
        assert_own_reply(&client.get("/trap"), 502, "each try traps");
        // What a guest says in so many words it says again.
        assert_own_reply(&client.get("/error"), 500, name);
        assert_eq!(
            client.get("/status/503").status(),
            503,
            "{name}: the last answer is the answer"
        );
        assert_eq!(
            client.exchange(post("/trap", "Content-Length: 0\r\n", "")).status(),
            502
        );
        assert_eq!(attempts(&proxy, 4), [3, 1, 3, 1], "{name}");
        assert_eq!(client.get("/hello").text(), "hello\n");
    }
}

#[test]
fn a_try_that_succeeds_has_the_whole_body() {
    let no = "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n";
    let upstream = Upstream::answering({
        let asked = std::sync::atomic::AtomicUsize::new(0);
        move |request| match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 | 1 => no.into(),
            _ => ok(&request.text()),
        }
    });
    let clusters = format!("  servers: {{ endpoints: [\"{}\"] }}", upstream.address());
    let retry = route("/", "retry: { attempts: 3, backoff: { base: 1ms }, on: [503] }");
    let granted = ", grants: [{ http: [servers] }], retry_budget: { min_per_second: 100 }";
    let proxy = Proxy::start(&configuration("rust-caller-03", granted, &clusters, &retry));
    let put = "PUT /call/servers/x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nbody";
    let answer = proxy.client().exchange(put);
    assert_eq!((answer.status(), answer.text().as_str()), (200, "body"));
    let bodies: Vec<_> = upstream.requests().iter().map(|request| request.text()).collect();
    assert_eq!(bodies, ["body", "body", "body"]);
    assert_eq!(attempts(&proxy, 1), [3]);
}

#[test]
fn a_component_may_be_a_mirror() {
    let upstream = Upstream::saying("real");
    let behind = Upstream::saying("behind the mirror");
    let component = wasi_component("rust-caller-03").expect("it is built");
    let proxy = Proxy::start(&format!(
        "\
workers: 1
admin: {{ address: 127.0.0.1:0 }}
listeners:
  web: {{ address: 127.0.0.1:0 }}
clusters:
  real: {{ endpoints: [\"{}\"] }}
  behind: {{ endpoints: [\"{}\"] }}
  mirror: {{ component: {}, grants: [{{ http: [behind] }}] }}
routes:
  - {{ name: all, cluster: real, mirror: {{ cluster: mirror }} }}
",
        upstream.address(),
        behind.address(),
        component.display()
    ));
    let answer = proxy
        .client()
        .exchange(post("/call/behind/x", "Content-Length: 4\r\n", "copy"));
    assert_eq!(answer.text(), "real");
    assert_eq!(upstream.take_request("the real one").value("x-tamis-mirror"), None);
    behind.wait_requests(1);
    let copy = behind.take_request("what the mirror calls");
    assert_eq!((copy.target(), copy.text().as_str()), ("/x", "copy"));
    assert_eq!(copy.value("x-tamis-mirror"), Some("true"));
    let labels = [("cluster", "mirror"), ("outcome", "answered")];
    wait_until("it has answered", || {
        proxy.metrics().sum("tamis_upstream_mirrored_total", &labels) == 1.0
    });
    // One that traps is nobody's trouble.
    assert_eq!(proxy.get("/call/nobody/x").text(), "real");
}

/// Begins an exchange that goes on until it is told to end.
fn begin(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    client.send(post("/echo", "Transfer-Encoding: chunked\r\n", "1\r\na\r\n"));
    assert_eq!(client.read_head().status(), 200);
    assert_eq!(client.read(6), b"1\r\na\r\n");
    client
}

#[test]
fn one_more_waits_for_an_instance_and_not_for_ever() {
    each(
        RUST,
        |name| (*name).to_owned(),
        |name| {
            let proxy = start(name, ", limits: { instances: 1 }, connect_timeout: 20s");
            let mut first = begin(&proxy);
            let mut second = proxy.client();
            second.send("GET /hello HTTP/1.1\r\nHost: a.example\r\n\r\n");
            second.assert_silent(std::time::Duration::from_millis(100), "there is one instance");
            first.send("0\r\n\r\n");
            assert_eq!(second.response().text(), "hello\n");
            let proxy = start(name, ", limits: { instances: 1 }, connect_timeout: 50ms");
            let _first = begin(&proxy);
            let refused = proxy.get("/hello");
            assert!([503, 504].contains(&refused.status()), "{refused:?}");
            assert_eq!(state(&proxy)["instances"], 1);
        },
    );
}

/// Its guest answers, and then waits for what does not come.
#[test]
fn what_goes_on_with_nobody_waiting_is_ended_after_a_reload_too() {
    let other = wasi_component("rust-service-02").expect("`make wasi` builds those in Rust");
    let clusters = format!("  other: {{ component: {} }}", other.display());
    let routes = "  - { name: other, match: { path: { exact: /hello } }, cluster: other }";
    let within = |wall: &str| {
        let limits = format!(", limits: {{ wall: {wall} }}");
        let app = configuration("rust-service-03", &limits, &clusters, routes);
        format!("wasm: {{ max_service_instances: 1 }}\n{app}")
    };
    let proxy = Proxy::start(&within("2s"));
    let relayed = proxy.client().exchange(post("/relay", "Content-Length: 2\r\n", "ab"));
    assert_eq!(relayed.text(), "ab");
    assert_eq!(
        proxy.get("/hello").status(),
        503,
        "there is one instance, and it goes on"
    );
    apply(&proxy, &within("3s"));
    wait_until("the instance is gone", || proxy.get("/hello").status() == 200);
}

#[test]
fn shares_go_to_a_component_and_to_servers_as_written() {
    let upstream = Upstream::saying("server\n");
    let clusters = format!("  servers: {{ endpoints: [\"{}\"] }}", upstream.address());
    let routes = "  - { name: split, match: { path: { exact: /hello } }, \
                  clusters: [{ name: app, weight: 3 }, { name: servers, weight: 1 }] }";
    let proxy = Proxy::start(&configuration("rust-service-02", "", &clusters, routes));
    let mut client = proxy.client();
    let of = |answers: &[String], text: &str| answers.iter().filter(|answer| *answer == text).count();
    let answers: Vec<_> = (0..400).map(|_| client.get("/hello").text()).collect();
    let (app, servers) = (of(&answers, "hello\n"), of(&answers, "server\n"));
    assert_eq!(app + servers, 400);
    // Of 400 draws with a chance of one in four, the odds of more than 6 standard deviations are below 1 in 10^8.
    assert!((48..=152).contains(&servers), "{servers}");
    assert_eq!(upstream.requests().len(), servers);
}

/// A call to `/echo`, whose request has this status in its trailers: the answer's status and trailers.
fn call(proxy: &Proxy, path: &str) -> (http::StatusCode, HeaderMap, Vec<u8>, Option<HeaderMap>) {
    let mut http2 = Http2::connect(&proxy.address("web"));
    let mut asked = request("POST", path);
    let headers = asked.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
    headers.insert("te", http::HeaderValue::from_static("trailers"));
    headers.insert("trailer", http::HeaderValue::from_static("grpc-status"));
    let mut sender = http2.sender.clone();
    let (response, mut stream) = sender.send_request(asked, false).expect("it is sent");
    stream.send_data(bytes::Bytes::from_static(MESSAGE), false).ok();
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static("0"),
    )]);
    stream.send_trailers(trailers).ok();
    let answer = http2.finish(response);
    http2.sender = sender;
    (answer.status, answer.headers, answer.body, answer.trailers)
}

#[test]
fn grpc_goes_through_a_component() {
    each(
        RUST,
        |name| (*name).to_owned(),
        |name| {
            let proxy = start(name, "");
            let (status, _, body, trailers) = call(&proxy, "/echo");
            assert_eq!((status.as_u16(), &*body), (200, MESSAGE), "{name}");
            let trailers = trailers.expect("there are trailers");
            assert_eq!(
                trailers.get("grpc-status").map(|status| status.as_bytes()),
                Some(&b"0"[..])
            );
            // What goes wrong before the head is a status in a head alone.
            let (status, headers, body, trailers) = call(&proxy, "/trap");
            assert_eq!((status.as_u16(), body.len(), trailers), (200, 0, None), "{name}");
            assert_eq!(
                headers.get("grpc-status").map(|status| status.as_bytes()),
                Some(&b"14"[..])
            );
        },
    );
}

/// Many exchanges of one connection in one instance, or in one each.
#[test]
fn streams_of_one_connection_are_exchanges_of_their_own() {
    for instances in [", instances: { concurrent: 16 }", ", instances: exclusive"] {
        let proxy = start("rust-service-03", instances);
        let mut frames = Frames::connect(&proxy.address("web"));
        for stream in (1..32).step_by(2) {
            frames.get(stream, "/trailers");
        }
        let mut ended = 0;
        while ended < 16 {
            let frame = frames.next_frame().expect("all are answered");
            ended += usize::from(frame.kind == HEADERS && frame.flags & END_STREAM != 0);
        }
        assert_eq!(proxy.get("/hello").text(), "hello\n", "{instances}");
    }
}
