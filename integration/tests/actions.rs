//! What routes do with requests and responses: rewritten paths and hosts, header fields, copies for a mirror.

use serde_json::Value;
use tamis_integration::{Proxy, Upstream};

use crate::support::{Configuration, apply, assert_own_reply, forwarded, relayed};

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
    let routes = "\
  - { match: { path: { prefix: /strip/ } }, cluster: app, rewrite: { path: { prefix: / } } }
  - { match: { path: { prefix: /api/v1 } }, cluster: app, rewrite: { path: { prefix: /v2 } } }
  - { match: { path: { prefix: /users } }, cluster: app, rewrite: { path: { regex: '/users/(?<id>[0-9]+)(/.*)?', to: '/u/{id}{2}' } } }
  - { match: { path: { prefix: /add } }, cluster: app, rewrite: { path: { to: '/site{path}' } } }
  - { match: { path: { prefix: /odd } }, cluster: app, rewrite: { path: { regex: '/odd/(.*)-(.*)', to: '/in/{1}{2}' } } }";
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
    let upstream = Upstream::repeating("HTTP/1.1 200 OK\r\nServer: origin\r\nX-Inner: 1\r\nContent-Length: 2\r\n\r\nok");
    let top = "access_log: { file: access.log }\n\
               filters:\n  echo: { native: headers, config: { response: { set: { server: filter, x-late: filter } } } }\n";
    let routes = "\
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
    assert_eq!((&record["path"], &record["authority"]), (&"/api/a?b".into(), &"shop.example:81".into()));
}

#[test]
fn what_is_rewritten_is_sent_again_as_it_was() {
    let upstream = Upstream::each([vec![
        tamis_integration::upstream::Step::Message,
        tamis_integration::upstream::Step::send("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
        tamis_integration::upstream::Step::serve(tamis_integration::upstream::ok("ok")),
    ]]);
    let routes = "  - { cluster: app, rewrite: { path: { to: '/x{path}' } }, retry: { backoff: { base: 1ms } }, \
                  request_headers: { append: { x-once: a } } }";
    let proxy = proxy(&upstream, "", routes);
    assert_eq!(proxy.get("/a").text(), "ok");
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].canonical(&[]), requests[1].canonical(&[]));
    assert_eq!((requests[1].target(), requests[1].values("x-once")), ("/x/a", vec!["a"]));
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
    let keys: Vec<_> = changes.iter().map(|change| change["key"].as_str().expect("text")).collect();
    assert!(keys.iter().any(|key| key.starts_with("rewrite")), "{report}");
    assert!(keys.iter().any(|key| key.starts_with("response_headers")), "{report}");
    assert_eq!(proxy.get("/").text(), "ok");
    assert_eq!(upstream.take_request("after").values("host"), ["b.example"]);
}
