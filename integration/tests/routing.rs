//! Routes through the whole proxy: which one is taken, and what those answer that need no upstream.

use std::time::{Duration, Instant};

use tamis_integration::proxy::check_within;
use tamis_integration::{DEADLINE, Folder, Message, Proxy, Upstream};

use crate::support::{Bystander, Configuration, assert_own_reply, each, relayed};

/// Each route answers with its own name.
const ROUTES: &str = r#"
  - { name: exact, match: { path: { exact: /exact } }, respond: { status: 200, body: exact } }
  - { name: host, match: { hosts: [one.example, "*.many.example"] }, respond: { status: 200, body: host } }
  - { name: post, match: { path: { prefix: /v1 }, methods: [POST, PUT] }, respond: { status: 200, body: post } }
  - { name: prefix, match: { path: { prefix: /v1/ } }, respond: { status: 200, body: prefix } }
  - { name: regex, match: { path: { regex: "/item/[0-9]+" } }, respond: { status: 200, body: regex } }
  - { name: header, match: { headers: { x-a: one, x-b: { regex: "[0-9]+" }, x-c: { present: true } } }, respond: { status: 200, body: header } }
  - { name: query, match: { query: { a: one, b: { present: true } } }, respond: { status: 200, body: query } }
  - { name: first, match: { path: { prefix: /twice } }, respond: { status: 200, body: first } }
  - { name: second, match: { path: { prefix: /twice/more } }, respond: { status: 200, body: second } }
"#;

fn request(method: &str, target: &str, host: &str, fields: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")
}

#[test]
fn the_first_route_that_matches_wins() {
    let upstream = Upstream::saying("all");
    let proxy = Proxy::start(
        &Configuration {
            routes: ROUTES,
            ..Default::default()
        }
        .to(&upstream),
    );
    let get = |target: &str| request("GET", target, "a.example", "");
    let host = |host: &str| request("GET", "/", host, "");
    let header = |fields: &str| request("GET", "/", "a.example", fields);
    each(
        [
            (get("/exact"), "exact"),
            (get("/exact?query"), "exact"),
            (get("/exact/"), "all"),
            (get("/Exact"), "all"),
            (host("one.example"), "host"),
            (host("ONE.example"), "host"),
            (host("one.example:8080"), "host"),
            (host("one.example."), "host"),
            (host("a.many.example"), "host"),
            (host("a.b.many.example"), "host"),
            (host("many.example"), "all"),
            (host("notmany.example"), "all"),
            (host("one.example.evil.example"), "all"),
            (request("POST", "/v1/x", "a.example", "Content-Length: 0\r\n"), "post"),
            (request("PUT", "/v1", "a.example", "Content-Length: 0\r\n"), "post"),
            (request("post", "/v1/x", "a.example", "Content-Length: 0\r\n"), "prefix"),
            (get("/v1"), "prefix"),
            (get("/v1/"), "prefix"),
            (get("/v1/x"), "prefix"),
            (get("/v10"), "all"),
            (get("/item/12"), "regex"),
            (get("/item/12/x"), "all"),
            (get("/x/item/12"), "all"),
            (header("X-A: one\r\nX-B: 12\r\nX-C: x\r\n"), "header"),
            (header("x-a: one\r\nx-b: 1\r\nx-c: \r\n"), "header"),
            (header("X-A: two\r\nX-B: 12\r\nX-C: x\r\n"), "all"),
            (header("X-A: one\r\nX-B: 12a\r\nX-C: x\r\n"), "all"),
            (header("X-A: one\r\nX-B: 12\r\n"), "all"),
            (get("/?a=one&b"), "query"),
            (get("/?b=x&a=one"), "query"),
            (get("/?a=one"), "all"),
            (get("/?a=two&b"), "all"),
            (get("/twice/more"), "first"),
        ],
        |case| format!("{} -> {}", case.0.escape_debug(), case.1),
        |(bytes, expected)| {
            let response = proxy.client().exchange(bytes);
            assert_eq!(
                (response.status(), response.text().as_str()),
                (200, *expected),
                "{}",
                bytes.escape_debug()
            );
        },
    );
}

#[test]
fn no_route_is_404() {
    let yaml = "\
workers: 1
admin: { address: 127.0.0.1:0 }
listeners:
  web: { address: 127.0.0.1:0 }
routes:
  - { name: only, match: { path: { exact: /only } }, respond: { status: 204 } }
";
    let proxy = Proxy::start(yaml);
    let mut client = proxy.client();
    assert_own_reply(&client.get("/other"), 404, "no route");
    let response = client.get("/only");
    assert_eq!(relayed(&response), "HTTP/1.1 204 No Content");
    assert_own_reply(
        &client.exchange("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        404,
        "OPTIONS *",
    );
}

/// The text of the proxy's own replies, in one place.
#[test]
fn own_replies_say_little() {
    let upstream = Upstream::repeating("garbage\r\n\r\n");
    let proxy = Proxy::start(&Configuration::default().to(&upstream));
    for (bytes, status, phrase) in [
        ("GET / HTTP/1.1\r\n\r\n", 400, "bad request"),
        ("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", 502, "bad gateway"),
        (
            "GET / HTTP/1.1\r\nHost: a.example\r\nExpect: tea\r\n\r\n",
            417,
            "expectation failed",
        ),
    ] {
        let response = proxy.client().exchange(bytes);
        assert_own_reply(&response, status, phrase);
        let text = response.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0].trim_start_matches(|digit: char| digit.is_ascii_digit() || digit == ' '),
            phrase
        );
        let id = lines[1].strip_prefix("request id: ").expect("an id");
        assert!(
            id.len() == 32 && id.chars().all(|digit| digit.is_ascii_hexdigit()),
            "{text}"
        );
        assert_eq!(lines.len(), 2, "{text}");
        assert!(text.ends_with('\n'), "{text}");
        assert_eq!(response.value("content-length"), Some(text.len().to_string().as_str()));
    }
}

#[test]
fn fixed_responses() {
    let upstream = Upstream::saying("ok");
    let routes = r#"
  - { match: { path: { exact: /teapot } }, respond: { status: 418, headers: { content-type: text/html, x-a: "1" }, body: "<p>é</p>" } }
  - { match: { path: { exact: /empty } }, respond: { status: 200 } }
"#;
    let proxy = Proxy::start(
        &Configuration {
            routes,
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = proxy.client();
    let teapot: Message = client.get("/teapot");
    assert_eq!((teapot.status(), teapot.body.as_slice()), (418, "<p>é</p>".as_bytes()));
    assert_eq!(
        (teapot.value("content-type"), teapot.value("x-a")),
        (Some("text/html"), Some("1"))
    );
    assert_eq!(client.get("/empty").value("content-length"), Some("0"));
    client.send("HEAD /teapot HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.response_to_head().status(), 418);
    assert_eq!(client.get("/empty").status(), 200);
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn redirects() {
    let upstream = Upstream::saying("ok");
    let routes = r#"
  - { match: { path: { prefix: /scheme } }, redirect: { scheme: https } }
  - { match: { path: { prefix: /host } }, redirect: { status: 301, host: b.example } }
  - { match: { path: { prefix: /port } }, redirect: { status: 307, port: 8443 } }
  - { match: { path: { prefix: /path } }, redirect: { status: 308, path: "/new?x=1" } }
  - { match: { path: { prefix: /all } }, redirect: { status: 303, scheme: https, host: b.example, port: 444, path: /z } }
"#;
    let proxy = Proxy::start(
        &Configuration {
            routes,
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = proxy.client();
    for (host, target, status, location) in [
        ("a.example", "/scheme/x?y=z", 302, "https://a.example/scheme/x?y=z"),
        ("a.example", "/host/x?y=z", 301, "http://b.example/host/x?y=z"),
        ("a.example", "/port", 307, "http://a.example:8443/port"),
        ("a.example:8080", "/path/x?y=z", 308, "http://a.example:8080/new?x=1"),
        ("a.example", "/all/x?y=z", 303, "https://b.example:444/z"),
    ] {
        let response = client.exchange(request("GET", target, host, ""));
        assert_eq!(
            (response.status(), response.value("location")),
            (status, Some(location)),
            "{target}"
        );
    }
    // A path that a browser would read as a host (`//evil`), and one that tries to end the line.
    for target in ["/scheme//evil.example", "/scheme/%0d%0aSet-Cookie:a"] {
        let response = client.get(target);
        if response.status() == 302 {
            let location = response.value("location").expect("a redirect has a location");
            assert!(location.starts_with("https://a.example/scheme"), "{location}");
        }
        assert_eq!(response.values("set-cookie"), Vec::<&str>::new());
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn weighted_clusters_share_the_requests() {
    let names = ["one", "three", "none"];
    let upstreams = names.map(Upstream::saying);
    let cluster = |at: usize| format!("  {}: {{ endpoints: [\"{}\"] }}\n", names[at], upstreams[at].address());
    let clusters: String = (0..names.len()).map(cluster).collect();
    let routes = "  - { name: split, clusters: [{ name: one, weight: 1 }, { name: three, weight: 3 }, { name: none, weight: 0 }] }";
    let configuration = Configuration {
        clusters: &clusters,
        routes,
        ..Default::default()
    };
    let proxy = Proxy::start(&configuration.to(&upstreams[0]));
    let mut client = proxy.client();
    for _ in 0..400 {
        assert_eq!(client.get("/").status(), 200);
    }
    let counts = upstreams.each_ref().map(|upstream| upstream.requests().len());
    assert_eq!(counts.iter().sum::<usize>(), 400);
    assert_eq!(counts[2], 0, "{counts:?}");
    // A fair draw of 400 leaves 60 to 140 in all but one of a million runs.
    assert!((60..=140).contains(&counts[0]), "{counts:?}");
}

#[test]
fn endpoints_share_the_requests() {
    let (one, two) = (Upstream::saying("one"), Upstream::saying("two"));
    let weighted = format!("{{ address: \"{}\", weight: 3 }}", two.address());
    let yaml = Configuration::default().to(&one).replace(
        &format!("[\"{}\"]", one.address()),
        &format!("[\"{}\", {weighted}]", one.address()),
    );
    let proxy = Proxy::start(&yaml);
    let mut client = proxy.client();
    for _ in 0..400 {
        assert_eq!(client.get("/").status(), 200);
    }
    let counts = (one.requests().len(), two.requests().len());
    assert_eq!(counts.0 + counts.1, 400);
    assert!((60..=140).contains(&counts.0), "{counts:?}");
}

/// Listeners share routes and clusters, and each is where it says.
#[test]
fn several_listeners() {
    let upstream =
        Upstream::answering(|request| tamis_integration::upstream::ok(request.value("x-listener").unwrap_or("none")));
    let yaml = format!(
        r#"
workers: 2
admin: {{ address: 127.0.0.1:0 }}
listeners:
  web: {{ address: 127.0.0.1:0 }}
  other:
    address: 127.0.0.1:0
    filters: [{{ filter: mark, config: {{ request: {{ set: {{ x-listener: other }} }} }} }}]
filters:
  mark: {{ native: headers }}
clusters:
  app: {{ endpoints: ["{}"] }}
routes:
  - {{ cluster: app }}
"#,
        upstream.address()
    );
    let proxy = Proxy::start(&yaml);
    assert_ne!(proxy.address("web"), proxy.address("other"));
    for _ in 0..4 {
        assert_eq!(proxy.get("/").text(), "none");
        assert_eq!(
            tamis_integration::Client::connect(&proxy.address("other"))
                .get("/")
                .text(),
            "other"
        );
    }
}

/// Longer than any of these takes in a build without optimisation, and far less than one step of an engine that tries
/// again and again.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Fault 74: expressions on which other engines take longer than the universe lasts. What they are tried on is as long
/// as it may be.
#[test]
fn no_regex_takes_more_than_linear_time() {
    let slow = [
        "/(a+)+b",
        "/(a|aa)*b",
        "/(a*)*(a*)*b",
        "/(.*.*)*b",
        "/([a-z]+[a-z]+)*b",
        "/a{0,200}a{0,200}b",
    ];
    let route = |(n, regex): (usize, &&str)| {
        let path = format!("path: {{ regex: \"{regex}\" }}");
        let field = format!("headers: {{ x-slow: {{ regex: \"{}\" }} }}", &regex[1..]);
        let query = format!("query: {{ q: {{ regex: \"{}\" }} }}", &regex[1..]);
        [path, field, query].map(|part| {
            let name = part.split(':').next().unwrap_or_default();
            format!("  - {{ name: {name}-{n}, match: {{ {part} }}, respond: {{ status: 418 }} }}\n")
        })
    };
    let routes: String = slow.iter().enumerate().flat_map(route).collect();
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(
        &Configuration {
            routes: &routes,
            ..Default::default()
        }
        .to(&upstream),
    );
    let bystander = Bystander::start(&proxy.address("web"), "/x");
    let (path, query, field) = ("a".repeat(3500), "a".repeat(3500), "a".repeat(7000));
    let target = format!("/{path}?q={query}");
    let start = Instant::now();
    let mut client = proxy.client();
    for _ in 0..10 {
        let fields = format!("X-Slow: {field}\r\n");
        let answer = client.exchange(request("GET", &target, "a.example", &fields));
        assert_eq!(answer.text(), "ok", "none of them matches");
    }
    assert!(start.elapsed() < 2 * AT_ONCE, "{:?}", start.elapsed());
    bystander.finish();
}

/// Fault 74: what would take too much memory or time to build is refused with its place, all of it at once; a table as
/// large as anybody's is built, and its report comes with it.
#[test]
fn large_tables_are_built_and_larger_ones_refused() {
    let head = "listeners:\n  web: { address: 127.0.0.1:0 }\nroutes:\n";
    let route =
        |n: usize, part: &str| format!("  - {{ name: r{n}, match: {{ {part} }}, respond: {{ status: 200 }} }}\n");
    let many = |count: usize, part: &dyn Fn(usize) -> String| -> String {
        head.to_owned() + &(0..count).map(|n| route(n, &part(n))).collect::<String>()
    };
    let long = "a".repeat(5 << 10);
    let cases = [
        (
            "repetitions",
            many(1, &|_| r"path: { regex: '/(\w{100}){100}' }".into()),
            "smaller repetitions",
        ),
        (
            "depth",
            many(1, &|_| {
                format!("path: {{ regex: '/{}a{}' }}", "(".repeat(500), ")".repeat(500))
            }),
            "regex",
        ),
        (
            "length",
            many(1, &|_| format!("path: {{ regex: '/{long}' }}")),
            "longer than",
        ),
        (
            "count",
            many(1001, &|n| format!("path: {{ regex: '/{n}/[0-9]+' }}")),
            "more than 1000 regular expressions",
        ),
        (
            "bytes",
            many(1, &|_| format!("path: {{ exact: '/{}' }}", "a".repeat(17 << 20))),
            "tamis.yaml",
        ),
    ];
    let folder = Folder::new();
    for (name, yaml, said) in cases {
        let start = Instant::now();
        let (code, printed) = check_within(&folder, &yaml, DEADLINE);
        assert_eq!(code, 1, "{name}");
        assert!(
            printed.contains("tamis.yaml") && printed.contains(said),
            "{name}: {printed:.300}"
        );
        assert!(start.elapsed() < AT_ONCE, "{name}: {:?}", start.elapsed());
    }
    let large = many(10_000, &|n| {
        format!("hosts: [\"{n}.example\"], path: {{ prefix: /{n} }}")
    });
    let (code, printed) = check_within(&folder, &large, 3 * DEADLINE);
    assert_eq!((code, printed.as_str()), (0, "tamis.yaml: ok\n"), "{printed:.300}");
}
