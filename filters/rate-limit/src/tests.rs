//! The filter as a whole: exchanges of one proxy, whose clock stands still until a test moves it.

use std::time::Duration;

use tamis_filter::testing::{self, Proxy, json};

use super::*;

fn filter(config: serde_json::Value) -> RateLimit {
    testing::configure(config).unwrap()
}

fn one(limit: serde_json::Value) -> RateLimit {
    filter(json!({ "limits": [limit] }))
}

/// The status of a whole exchange, and its `RateLimit` and `Retry-After`.
fn run(exchange: &mut testing::Exchange, filter: &RateLimit) -> (u16, Option<String>, Option<String>) {
    let response = exchange.run(filter).response;
    let field = |name: &str| response.header(name).map(str::to_owned);
    (response.status, field("ratelimit"), field("retry-after"))
}

fn passes(exchange: testing::Exchange, filter: &RateLimit) -> bool {
    let mut exchange = exchange;
    run(&mut exchange, filter).0 == 200
}

#[test]
fn over_the_limit_is_429_until_a_token_is_back() {
    let proxy = Proxy::new();
    let filter = one(json!({ "name": "client", "rate": "2/1m" }));
    let seen = |rate_limit: &str, retry_after: Option<&str>| {
        let status = if retry_after.is_some() { 429 } else { 200 };
        (status, Some(rate_limit.to_owned()), retry_after.map(str::to_owned))
    };
    let cases = [
        (0, seen("\"client\";r=1;t=30", None)),
        (0, seen("\"client\";r=0;t=60", None)),
        (0, seen("\"client\";r=0;t=60", Some("30"))),
        (29_500, seen("\"client\";r=0;t=31", Some("1"))),
        (500, seen("\"client\";r=0;t=60", None)),
        (3_600_000, seen("\"client\";r=1;t=30", None)),
    ];
    for (pause_ms, expected) in cases {
        proxy.advance(Duration::from_millis(pause_ms));
        let mut exchange = proxy.get("/");
        assert_eq!(run(&mut exchange, &filter), expected, "at {} ms", proxy.now_ms());
        let refused = expected.2.is_some().then_some("client");
        assert_eq!(exchange.attribute("rate-limit"), refused);
    }
    assert_eq!(proxy.counter("allowed{limit=\"client\"}"), 4);
    assert_eq!(proxy.counter("limited{limit=\"client\"}"), 2);
}

#[test]
fn a_refusal_is_a_problem_that_no_cache_keeps() {
    let proxy = Proxy::new();
    let filter = one(json!({ "name": "client", "rate": "1/1s" }));
    assert!(passes(proxy.get("/"), &filter));
    let RequestVerdict::Reply(reply) = proxy.get("/").request_head(&filter) else {
        panic!("it went on")
    };
    let fields: Vec<String> = reply
        .headers
        .iter()
        .map(|header| format!("{}: {}", header.name, header.value.to_str().unwrap()))
        .collect();
    assert_eq!(
        fields,
        [
            "retry-after: 1",
            "content-type: application/problem+json",
            "cache-control: no-store"
        ]
    );
    let problem: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(
        problem,
        json!({ "type": "about:blank", "title": "Too Many Requests", "status": 429 })
    );
}

#[test]
fn keys_have_buckets_of_their_own() {
    let get = |proxy: &Proxy| {
        proxy
            .get("/a?k=1")
            .with_header("x-user", "u")
            .with_attribute("tenant", "acme")
    };
    type Change = fn(testing::Exchange) -> testing::Exchange;
    let other_client: Change = |mut exchange| {
        exchange.client_address = "192.0.2.8:1".to_owned();
        exchange
    };
    let other_port: Change = |mut exchange| {
        exchange.client_address = "192.0.2.7:1".to_owned();
        exchange
    };
    let other_path: Change = |mut exchange| {
        exchange.request.path = "/b".to_owned();
        exchange
    };
    let other_query: Change = |mut exchange| {
        exchange.request.query = Some("k=2".to_owned());
        exchange
    };
    let other_method: Change = |mut exchange| {
        exchange.request.method = "HEAD".to_owned();
        exchange
    };
    let other_route: Change = |mut exchange| {
        exchange.route = Some("other".to_owned());
        exchange
    };
    let other_listener: Change = |mut exchange| {
        exchange.listener = "other".to_owned();
        exchange
    };
    let other_user: Change = |mut exchange| {
        exchange.request.headers[0].value = "v".into();
        exchange
    };
    let other_tenant: Change = |exchange| exchange.with_attribute("tenant", "globex");
    // The key, a request with another one, and one with the same.
    let cases: [(serde_json::Value, Change, Change); 10] = [
        (json!(["client_address"]), other_client, other_port),
        (
            json!([{ "client_network": { "ipv4": 24 } }, "path"]),
            other_path,
            other_client,
        ),
        (json!([{ "header": "x-user" }]), other_user, other_client),
        (json!([{ "query": "k" }]), other_query, other_path),
        (json!([{ "attribute": "tenant" }]), other_tenant, other_user),
        (json!(["path"]), other_path, other_query),
        (json!(["method"]), other_method, other_path),
        (json!(["route"]), other_route, other_method),
        (json!(["listener"]), other_listener, other_route),
        (json!([{ "literal": "all" }, "path"]), other_path, other_tenant),
    ];
    for (key, other, same) in cases {
        let proxy = Proxy::new();
        let filter = one(json!({ "name": "l", "rate": "1/1m", "key": key }));
        assert!(passes(get(&proxy), &filter), "{key}");
        assert!(!passes(same(get(&proxy)), &filter), "{key}: it is the same");
        assert!(passes(other(get(&proxy)), &filter), "{key}: it is another");
        assert!(!passes(other(get(&proxy)), &filter), "{key}: it is the other");
    }
}

#[test]
fn a_missing_part_is_shared_or_skipped() {
    let limit = |on_missing: &str| {
        let key = json!([{ "header": "x-user" }]);
        one(json!({ "name": "l", "rate": "1/1m", "key": key, "on_missing_key": on_missing }))
    };
    let proxy = Proxy::new();
    let share = limit("share");
    assert!(passes(proxy.get("/"), &share));
    assert!(!passes(proxy.get("/"), &share));
    assert!(
        passes(proxy.get("/").with_header("x-user", ""), &share),
        "empty is not missing"
    );

    let proxy = Proxy::new();
    let skip = limit("skip");
    for _ in 0..3 {
        assert_eq!(run(&mut proxy.get("/"), &skip), (200, None, None));
    }
    assert_eq!(proxy.counter("allowed{limit=\"l\"}"), 0);
    // Twice is neither missing nor a choice of buckets.
    let twice = |first: &str| proxy.get("/").with_header("x-user", first).with_header("x-user", "u");
    assert!(passes(twice("a"), &skip));
    assert!(!passes(twice("b"), &skip));

    let mut socket = proxy.get("/");
    socket.client_address.clear();
    assert!(passes(
        socket,
        &one(json!({ "name": "l", "rate": "1/1m", "on_missing_key": "skip" }))
    ));
}

#[test]
fn a_limit_applies_to_what_it_matches() {
    let filter = one(
        json!({ "name": "l", "rate": "1/1h", "key": [{ "literal": "all" }], "match": {
            "methods": ["POST", "PUT"], "path_prefixes": ["/v1", "/admin/"], "headers": { "x-tier": "free" },
        }}),
    );
    let cases = [
        ("POST", "/v1", "free", true),
        ("PUT", "/v1/items", "free", true),
        ("POST", "/admin", "free", true),
        ("GET", "/v1", "free", false),
        ("POST", "/v10", "free", false),
        ("POST", "/", "free", false),
        ("POST", "/v1", "paid", false),
    ];
    for (method, path, tier, applies) in cases {
        let proxy = Proxy::new();
        let request = || {
            proxy
                .exchange(method, path)
                .with_header("x-tier", "x")
                .with_header("x-tier", tier)
        };
        assert!(passes(request(), &filter));
        assert_eq!(passes(request(), &filter), !applies, "{method} {path} {tier}");
    }
}

#[test]
fn every_limit_counts_and_a_refused_request_costs_nothing() {
    let proxy = Proxy::new();
    let filter = filter(json!({ "limits": [
        { "name": "wide", "rate": "10/1m", "key": [{ "literal": "all" }] },
        { "name": "narrow", "rate": "1/1s", "burst": 2, "key": ["path"] },
    ]}));
    let mut exchange = proxy.get("/a");
    let response = exchange.run(&filter).response;
    assert_eq!(
        response.header("ratelimit-policy"),
        Some("\"wide\";q=10;w=60, \"narrow\";q=2;w=2")
    );
    assert_eq!(response.header("ratelimit"), Some("\"narrow\";r=1;t=1"));
    assert!(passes(proxy.get("/a"), &filter));
    for _ in 0..20 {
        let refused = (429, Some("\"narrow\";r=0;t=2".to_owned()), Some("1".to_owned()));
        assert_eq!(run(&mut proxy.get("/a"), &filter), refused);
    }
    let count = |series: &str| proxy.counter(series);
    assert_eq!(
        (count("allowed{limit=\"wide\"}"), count("limited{limit=\"wide\"}")),
        (2, 0)
    );
    assert_eq!(
        (count("allowed{limit=\"narrow\"}"), count("limited{limit=\"narrow\"}")),
        (2, 20)
    );
    for path in ["/b", "/c", "/d", "/e", "/f", "/g", "/h", "/i"] {
        assert!(passes(proxy.get(path), &filter), "{path}");
    }
    assert_eq!(
        run(&mut proxy.get("/j"), &filter),
        (429, Some("\"wide\";r=0;t=60".to_owned()), Some("6".to_owned()))
    );
}

#[test]
fn dry_run_counts_and_lets_through() {
    let proxy = Proxy::new();
    let filter = filter(json!({ "limits": [
        { "name": "new", "rate": "1/1m", "dry_run": true },
        { "name": "old", "rate": "3/1m" },
    ]}));
    for remaining in ["2", "1", "0"] {
        let response = proxy.get("/").run(&filter).response;
        assert_eq!(response.status, 200);
        assert_eq!(response.header("ratelimit-policy"), Some("\"old\";q=3;w=60"));
        assert!(
            response
                .header("ratelimit")
                .unwrap()
                .starts_with(&format!("\"old\";r={remaining};"))
        );
    }
    assert!(!passes(proxy.get("/"), &filter));
    let count = |series: &str| proxy.counter(series);
    assert_eq!(
        (count("allowed{limit=\"new\"}"), count("dry_run{limit=\"new\"}")),
        (1, 3)
    );
    assert_eq!(
        (count("allowed{limit=\"old\"}"), count("limited{limit=\"old\"}")),
        (3, 1)
    );
}

#[test]
fn a_request_costs_what_is_said_of_it() {
    let header = json!({ "header": "x-cost" });
    // What the request says it costs, and how many tokens of 10 are left.
    let cases = [
        (json!({ "fixed": 4 }), "9", "6"),
        (header.clone(), "3", "7"),
        (header.clone(), "0", "9"),
        (header.clone(), "", "9"),
        (header.clone(), "-5", "9"),
        (header.clone(), "+5", "9"),
        (header.clone(), "10", "0"),
        (header.clone(), "11", "0"),
        (header.clone(), "18446744073709551615", "0"),
        (header, "99999999999999999999", "9"),
        (json!({ "attribute": "cost" }), "2", "8"),
    ];
    for (cost, said, remaining) in cases {
        let proxy = Proxy::new();
        let filter = one(json!({ "name": "l", "rate": "10/1m", "cost": cost }));
        let mut exchange = proxy.get("/").with_header("x-cost", said).with_attribute("cost", said);
        let (status, rate_limit, _) = run(&mut exchange, &filter);
        assert_eq!(status, 200);
        assert!(
            rate_limit.unwrap().starts_with(&format!("\"l\";r={remaining};")),
            "{cost} {said}"
        );
    }
}

#[test]
fn fields_are_appended_or_not_sent() {
    let limit = json!({ "name": "l", "rate": "2/1m" });
    let mut exchange = Proxy::new()
        .get("/")
        .with_response_header("ratelimit", "\"theirs\";r=7");
    let response = exchange.run(&one(limit.clone())).response;
    let values: Vec<_> = response
        .headers
        .iter()
        .filter(|header| header.name == "ratelimit")
        .collect();
    assert_eq!(values.len(), 2);

    let silent = filter(json!({ "limits": [limit], "announce": false }));
    let proxy = Proxy::new();
    assert_eq!(run(&mut proxy.get("/"), &silent), (200, None, None));
    assert_eq!(run(&mut proxy.get("/"), &silent), (200, None, None));
    assert_eq!(run(&mut proxy.get("/"), &silent), (429, None, Some("30".to_owned())));
}

#[test]
fn a_bucket_lives_until_it_is_full_and_a_forgotten_one_is_full() {
    let proxy = Proxy::new();
    let filter = one(json!({ "name": "l", "rate": "2/1m" }));
    assert!(passes(proxy.get("/"), &filter));
    assert!(proxy.value("l@30000000000x2=9:192.0.2.7").is_some());
    proxy.advance(Duration::from_secs(30));
    assert_eq!(proxy.value("l@30000000000x2=9:192.0.2.7"), None);
    assert!(passes(proxy.get("/"), &filter) && passes(proxy.get("/"), &filter));
    assert!(!passes(proxy.get("/"), &filter));
    proxy.forget();
    assert!(passes(proxy.get("/"), &filter));
}

#[test]
fn a_reload_with_another_rate_begins_with_full_buckets() {
    let proxy = Proxy::new();
    let limit = |rate: &str| one(json!({ "name": "l", "rate": rate }));
    for rate in ["1/1h", "2/2h", "1/1s"] {
        assert!(passes(proxy.get("/"), &limit(rate)), "{rate}");
    }
    assert!(!passes(proxy.get("/"), &limit("1/1h")), "and the same one goes on");
}

#[test]
fn configurations_are_refused_with_the_reason() {
    let limits = |limit: serde_json::Value| json!({ "limits": [limit] });
    let with = |key: &str, value: serde_json::Value| {
        let mut limit = json!({ "name": "l", "rate": "1/1s" });
        limit[key] = value;
        limits(limit)
    };
    let limit = json!({ "name": "l", "rate": "1/1s" });
    let cases = [
        (json!(null), "missing field `limits`"),
        (json!({ "limits": [] }), "limits: there must be 1 to 32, not 0"),
        (
            json!({ "limits": vec![limit.clone(); 33] }),
            "limits: there must be 1 to 32, not 33",
        ),
        (
            json!({ "limits": [limit, limit] }),
            "limits[1]: the name `l` is there already",
        ),
        (limits(json!({ "name": "l" })), "limits[0]: missing field `rate`"),
        (with("name", json!("")), "limits[0]: name `` is not"),
        (with("name", json!("L")), "limits[0]: name `L` is not"),
        (with("name", json!("x".repeat(65))), "is not 1 to 64 bytes"),
        (with("rate", json!("1")), "limits[0]: `l`: rate `1` is not"),
        (with("burst", json!(0)), "limits[0]: `l`: burst"),
        (with("key", json!([])), "`l`: key: there is no part"),
        (
            with("key", json!(["cookie"])),
            "limits[0].key[0]: unknown variant `cookie`",
        ),
        (
            with("key", json!(["path", { "header": "a b" }])),
            "`l`: key[1]: header `a b`",
        ),
        (with("key", json!([{ "query": "" }])), "`l`: key[0]: its name is empty"),
        (
            with("key", json!([{ "client_network": { "ipv4": 33 } }])),
            "`l`: key[0]: client_network",
        ),
        (
            with("on_missing_key", json!("refuse")),
            "limits[0].on_missing_key: unknown variant `refuse`",
        ),
        (
            with("match", json!({ "path_prefixes": ["v1"] })),
            "`l`: match.path_prefixes: `v1`",
        ),
        (with("match", json!({ "methods": [""] })), "`l`: match.methods"),
        (
            with("match", json!({ "headers": { "a b": "1" } })),
            "`l`: match.headers: `a b`",
        ),
        (
            with("match", json!({ "path": "/" })),
            "limits[0].match.path: unknown field `path`",
        ),
        (with("cost", json!({ "fixed": 0 })), "`l`: cost: a request for nothing"),
        (
            with("cost", json!({ "fixed": 2 })),
            "`l`: cost: 2 is more than the bucket of 1",
        ),
        (with("cost", json!({ "header": "" })), "`l`: cost: ``"),
        (
            with("cost", json!({ "attribute": "" })),
            "`l`: cost: the attribute's name",
        ),
    ];
    for (config, reason) in cases {
        let refusal = testing::configure::<RateLimit>(config.clone())
            .err()
            .unwrap_or_default();
        assert!(
            refusal.contains(reason),
            "{config}: {refusal:?} does not say {reason:?}"
        );
    }
}
