//! What routes do with requests and responses: rewritten paths and hosts, header fields, copies for a mirror.

use serde_json::Value;
use tamis_integration::socket::Address;
use tamis_integration::upstream::{BlackHole, Refusing, Step, ok};
use tamis_integration::{Gate, Proxy, Upstream};

use crate::balancing::example;
use crate::support::{Configuration, apply, assert_own_reply, forwarded, relayed, wait_until};

fn proxy(upstream: &Upstream, top: &str, routes: &str) -> Proxy {
    let configuration = Configuration {
        top,
        routes,
        ..Configuration::default()
    };
    Proxy::start(&configuration.to(upstream))
}

#[test]
fn paths_are_rewritten_and_made_normal() {
    let upstream = Upstream::saying("ok");
    let routes = "
  - { match: { path: { prefix: /strip/ } }, cluster: app, rewrite: { path: { prefix: / } } }
  - { match: { path: { prefix: /api/v1 } }, cluster: app, rewrite: { path: { prefix: /v2 } } }
  - match: { path: { prefix: /users } }
    cluster: app
    rewrite: { path: { regex: '/users/(?<id>[0-9]+)(/.*)?', to: '/u/{id}{2}' } }
  - { match: { path: { prefix: /add } }, cluster: app, rewrite: { path: { to: '/site{path}' } } }
  - match: { path: { prefix: /odd } }
    cluster: app
    rewrite: { path: { regex: '/odd/(.*)-(.*)', to: '/in/{1}{2}' } }";
    let proxy = proxy(&upstream, "", routes);
    let cases = [
        ("/strip/a/b?c=/strip/", Some("/a/b?c=/strip/")),
        ("/strip", Some("/")),
        ("/api/v1/x%2fy?q", Some("/v2/x%2Fy?q")),
        ("/api//./v1/x", Some("/v2/x")),
        ("/api/v1", Some("/v2")),
        ("/api/v10", Some("/api/v10")),
        ("/users/7/posts?a", Some("/u/7/posts?a")),
        ("/users/x", Some("/users/x")),
        ("/add/a?b", Some("/site/add/a?b")),
        ("/odd/a-b", Some("/in/ab")),
        ("/odd/.-.", None),
        ("/odd/a/.-./etc", None),
        ("/odd/%-00", None),
        ("/other?x", Some("/other?x")),
    ];
    for (target, expected) in cases {
        let response = proxy.get(target);
        match expected {
            Some(expected) => assert_eq!(upstream.take_request(target).target(), expected, "{target}"),
            None => {
                assert_own_reply(&response, 400, target);
                assert_eq!(upstream.requests().len(), 0, "{target}");
            }
        }
    }
}

/// Filters, the log and what comes back go by what the client sent.
#[test]
fn only_the_upstream_sees_what_is_rewritten() {
    let upstream =
        Upstream::repeating("HTTP/1.1 200 OK\r\nServer: origin\r\nX-Inner: 1\r\nContent-Length: 2\r\n\r\nok");
    let top = "
access_log: { file: access.log }
filters:
  echo: { native: headers, config: { response: { set: { server: filter, x-late: filter } } } }
";
    let routes = "
  - name: api
    match: { path: { prefix: /api } }
    filters: [echo]
    cluster: app
    rewrite: { path: { prefix: /v2 }, host: App.Internal:8080 }
    request_headers: { remove: [x-secret], set: { x-tenant: acme }, append: { x-list: b } }
    response_headers: { remove: [x-inner], set: { x-late: route, strict-transport-security: max-age=1 } }
  - name: own
    match: { path: { prefix: /own } }
    respond: { status: 404, body: gone }
    response_headers: { set: { strict-transport-security: max-age=1 } }
  - name: broken
    match: { path: { prefix: /broken } }
    cluster: nobody
    response_headers: { set: { strict-transport-security: max-age=1 } }";
    let configuration = Configuration {
        top,
        routes,
        clusters: "  nobody: { endpoints: [127.0.0.1:1] }",
        ..Configuration::default()
    };
    let proxy = Proxy::start(&configuration.to(&upstream));
    let mut client = proxy.client();
    let response = client.exchange(
        "GET /api/a?b HTTP/1.1\r\nHost: shop.example:81\r\nX-Secret: 1\r\nX-Tenant: evil\r\nX-List: a\r\n\r\n",
    );
    let request = upstream.take_request("rewritten");
    assert_eq!(
        forwarded(&request),
        "GET /v2/a?b HTTP/1.1\nhost: app.internal:8080\nx-list: a\nx-list: b\nx-tenant: acme"
    );
    assert_eq!(request.values("x-forwarded-host"), ["shop.example:81"]);
    assert_eq!(
        relayed(&response),
        "HTTP/1.1 200 OK\ncontent-length: 2\nserver: filter\nstrict-transport-security: max-age=1\nx-late: route\n\nok"
    );
    // Whoever answers.
    for (target, status) in [("/own", 404), ("/broken", 502)] {
        let response = client.get(target);
        assert_eq!(response.status(), status, "{target}");
        assert_eq!(response.values("strict-transport-security"), ["max-age=1"], "{target}");
    }
    let lines = proxy.folder().wait_lines("access.log", 3);
    let record: Value = serde_json::from_str(&lines[0]).expect("JSON");
    assert_eq!(
        (&record["path"], &record["authority"]),
        (&"/api/a?b".into(), &"shop.example:81".into())
    );
}

#[test]
fn what_is_rewritten_is_sent_again_as_it_was() {
    let upstream = Upstream::each([vec![
        Step::Message,
        Step::send("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
        Step::serve(ok("ok")),
    ]]);
    let routes = "  - { cluster: app, rewrite: { path: { to: '/x{path}' } }, retry: { backoff: { base: 1ms } }, \
                  request_headers: { append: { x-once: a } } }";
    let proxy = proxy(&upstream, "", routes);
    assert_eq!(proxy.get("/a").text(), "ok");
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].canonical(&[]), requests[1].canonical(&[]));
    assert_eq!(
        (requests[1].target(), requests[1].values("x-once")),
        ("/x/a", vec!["a"])
    );
}

#[test]
fn a_reload_tells_what_a_route_does_otherwise() {
    let upstream = Upstream::saying("ok");
    let yaml = |route: &str| {
        let configuration = Configuration {
            route,
            ..Configuration::default()
        };
        configuration.to(&upstream)
    };
    let proxy = Proxy::start(&yaml(""));
    let report = apply(
        &proxy,
        &yaml("rewrite: { host: b.example }, response_headers: { remove: [server] }"),
    );
    let changes = report["difference"]["routes"]["changed"][0]["changes"].clone();
    let changes = changes.as_array().expect("a list");
    let keys: Vec<_> = changes
        .iter()
        .map(|change| change["key"].as_str().expect("text"))
        .collect();
    assert!(keys.iter().any(|key| key.starts_with("rewrite")), "{report}");
    assert!(keys.iter().any(|key| key.starts_with("response_headers")), "{report}");
    assert_eq!(proxy.get("/").text(), "ok");
    assert_eq!(upstream.take_request("after").values("host"), ["b.example"]);
}

fn mirrored(proxy: &Proxy, outcome: &str) -> f64 {
    let labels = [("cluster", "mirror"), ("outcome", outcome)];
    proxy.metrics().sum("tamis_upstream_mirrored_total", &labels)
}

fn wait_mirrored(proxy: &Proxy, outcome: &str, count: f64) {
    wait_until(&format!("{count} copies {outcome}"), || {
        mirrored(proxy, outcome) == count
    });
}

/// Everything to `upstream`, and copies to the cluster `mirror` at this address.
fn mirroring(upstream: &Upstream, mirror: &Address, cluster: &str, mirror_settings: &str) -> Proxy {
    let (clusters, route) = (
        format!("  mirror: {{ endpoints: [\"{mirror}\"]{cluster} }}"),
        format!("mirror: {{ cluster: mirror{mirror_settings} }}, rewrite: {{ path: {{ to: '/in{{path}}' }} }}"),
    );
    let configuration = Configuration {
        clusters: &clusters,
        route: &route,
        ..Configuration::default()
    };
    Proxy::start(&configuration.to(upstream))
}

#[test]
fn a_mirror_gets_the_same_and_says_nothing() {
    let (upstream, mirror) = (
        Upstream::saying("real"),
        Upstream::repeating("HTTP/1.1 500 No\r\nX-Mirror: 1\r\nContent-Length: 6\r\n\r\nmirror"),
    );
    let proxy = mirroring(&upstream, mirror.address(), "", "");
    let mut client = proxy.client();
    let bodies = [
        "GET /a?b HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(),
        "POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        "POST /a HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned(),
        format!(
            "POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 200000\r\n\r\n{}",
            "x".repeat(200_000)
        ),
    ];
    for (index, request) in bodies.iter().enumerate() {
        let response = client.exchange(request);
        assert_eq!((response.status(), response.text().as_str()), (200, "real"));
        assert_eq!(response.value("x-mirror"), None);
        // Its connection is free for the next copy then.
        wait_mirrored(&proxy, "answered", (index + 1) as f64);
        let (real, copy) = (&upstream.requests()[index], &mirror.requests()[index]);
        assert_eq!(real.canonical(&[]), copy.canonical(&["x-tamis-mirror"]));
        assert_eq!(
            (real.value("x-tamis-mirror"), copy.value("x-tamis-mirror")),
            (None, Some("true"))
        );
        assert!(real.target().starts_with("/in/a"));
    }
    assert_eq!(mirror.connections(), 1);
}

#[test]
fn no_mirror_holds_anybody_up() {
    let upstream = Upstream::saying("real");
    let get = |proxy: &Proxy| assert_eq!(proxy.get("/").text(), "real");
    let refusing = Refusing::new();
    let proxy = mirroring(&upstream, refusing.address(), "", "");
    get(&proxy);
    wait_mirrored(&proxy, "connect_failed", 1.0);

    let hole = BlackHole::new();
    let proxy = mirroring(&upstream, hole.address(), ", connect_timeout: 100ms", "");
    get(&proxy);
    wait_mirrored(&proxy, "connect_failed", 1.0);

    // It answers never; one at once is all that its cluster takes.
    let silent = Upstream::each([vec![Step::Hold]]);
    let proxy = mirroring(&upstream, silent.address(), ", limits: { max_requests: 1 }", "");
    get(&proxy);
    silent.wait_connections(1);
    get(&proxy);
    wait_mirrored(&proxy, "overload", 1.0);

    let broken = Upstream::each([vec![Step::Message, Step::Close]]);
    let proxy = mirroring(&upstream, broken.address(), "", "");
    get(&proxy);
    wait_mirrored(&proxy, "reset", 1.0);
    assert_eq!(broken.connections(), 1, "a copy is never tried again");
}

/// It takes the head and then nothing, while the request has 64 MiB to send.
#[test]
fn a_mirror_that_is_too_slow_loses_the_rest_of_the_body() {
    const LENGTH: usize = 64 << 20;
    let gate = Gate::new();
    let upstream = Upstream::saying("real");
    let slow = Upstream::each([vec![Step::Head, Step::Pass(gate.clone()), Step::Hold]]);
    let proxy = mirroring(&upstream, slow.address(), "", ", buffer: 64KiB");
    let before = proxy.resident();
    let mut client = proxy.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {LENGTH}\r\n\r\n"
    ));
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..LENGTH / piece.len() {
        client.send(&piece);
    }
    assert_eq!(client.response().text(), "real");
    assert_eq!(upstream.take_request("whole").body.len(), LENGTH);
    wait_mirrored(&proxy, "cut", 1.0);
    assert!(proxy.resident() < before + (24 << 20), "the copy is kept");
    gate.open();
    slow.wait_ended(0);
}

#[test]
fn a_share_of_the_requests_is_copied() {
    let (upstream, mirror) = (Upstream::saying("real"), Upstream::saying("mirror"));
    let proxy = mirroring(&upstream, mirror.address(), "", ", percent: 20%");
    let mut client = proxy.client();
    (0..500).for_each(|_| assert_eq!(client.get("/").text(), "real"));
    // Of 500 draws with a chance of one in five, the odds of more than 8 standard deviations are below 1 in 10^15.
    let copied = || (28..=172).contains(&mirror.requests().len());
    wait_until("a fifth is copied", copied);
    assert_eq!(upstream.requests().len(), 500);
}

#[test]
fn what_is_tried_again_is_copied_once() {
    let upstream = Upstream::each([vec![
        Step::Message,
        Step::send("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
        Step::serve(ok("real")),
    ]]);
    let mirror = Upstream::saying("mirror");
    let proxy = mirroring(&upstream, mirror.address(), "", "}, retry: { backoff: { base: 1ms }");
    let put = "PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(proxy.client().exchange(put).text(), "real");
    assert_eq!(upstream.requests().len(), 2);
    wait_mirrored(&proxy, "answered", 1.0);
    assert_eq!(mirror.take_request("one copy").text(), "hello");
}

#[test]
fn the_example_of_a_split_does_what_it_says() {
    let (stable, canary) = (Upstream::saying("stable"), Upstream::saying("canary"));
    let places = [
        ("127.0.0.1:9000", stable.address()),
        ("127.0.0.1:9100", canary.address()),
    ];
    let proxy = Proxy::start(&example("canary-split.yaml", &places));
    let mut client = proxy.client();
    let asked = client.exchange("GET / HTTP/1.1\r\nHost: a.example\r\nX-Canary: yes\r\n\r\n");
    assert_eq!(asked.text(), "canary");
    let (mut from_stable, mut from_canary) = (0, 0);
    for _ in 0..400 {
        let response = client.get("/");
        assert_eq!(response.values("x-served-by"), ["split"]);
        match response.text().as_str() {
            "stable" => from_stable += 1,
            _ => from_canary += 1,
        }
    }
    // Of 400 with one in twenty, the odds of none, or of more than 80, are below 1 in 10^8.
    assert!(
        (1..80).contains(&from_canary) && from_stable > 300,
        "{from_stable} {from_canary}"
    );
    (0..200).for_each(|_| assert_eq!(client.get("/catalogue/a").text(), "stable"));
    let is_copy = |request: &tamis_integration::Message| request.value("x-tamis-mirror") == Some("true");
    wait_until("some are copied", || canary.requests().iter().any(is_copy));
}

#[test]
fn the_example_of_retries_does_what_it_says() {
    let no = "HTTP/1.1 503 No\r\nServer: x\r\nContent-Length: 0\r\n\r\n";
    let (bad, good) = (
        Upstream::repeating(no),
        Upstream::repeating("HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\n\r\nok"),
    );
    let places = [("127.0.0.1:9000", bad.address()), ("127.0.0.1:9001", good.address())];
    let proxy = Proxy::start(&example("retries.yaml", &places));
    let mut client = proxy.client();
    for _ in 0..4 {
        let response = client.get("/v1/users?a");
        assert_eq!((response.text().as_str(), response.value("server")), ("ok", None));
        let order =
            "POST /v1/orders HTTP/1.1\r\nHost: a.example\r\nIdempotency-Key: 1\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(client.exchange(order).text(), "ok");
    }
    let requests = good.requests();
    assert_eq!(requests.len(), 8);
    let users = requests.iter().find(|request| request.method() == "GET").expect("one");
    assert_eq!(
        (users.target(), users.values("host")),
        ("/users?a", vec!["api.internal"])
    );
    assert_eq!(users.values("x-api-version"), ["1"]);
    assert!(!bad.requests().is_empty());
    // An order without a key is sent once.
    let order = "POST /v1/else HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello";
    let statuses: Vec<_> = (0..2).map(|_| client.exchange(order).status()).collect();
    assert!(
        statuses.iter().all(|status| [200, 503].contains(status)),
        "{statuses:?}"
    );
}
