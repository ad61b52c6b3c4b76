//! The whole filter, with a service that answers as the test says.

use std::time::Duration;

use serde_json::Value;
use tamis_filter::log::Level;
use tamis_filter::outbound::{Call, CallError};
use tamis_filter::testing::{self, Proxy, json};
use tamis_filter::{Header, HeldBody, HeldVerdict, OverMax, Reply, RequestVerdict, Verdict};

use super::ExtAuth;

const SECOND: Duration = Duration::from_secs(1);

fn config(more: Value) -> Value {
    let mut config = json!({ "cluster": "auth", "path": "/verify" });
    let (Some(settings), Value::Object(more)) = (config.as_object_mut(), more) else {
        panic!("both are objects")
    };
    for (name, value) in more {
        match value {
            Value::Null => settings.remove(&name),
            value => settings.insert(name, value),
        };
    }
    config
}

fn filter(more: Value) -> ExtAuth {
    testing::configure(config(more)).unwrap()
}

/// A proxy whose cluster `auth` answers all calls alike.
fn answering(reply: Reply) -> Proxy {
    let proxy = Proxy::new();
    proxy.on_call("auth", move |_| Ok(reply.clone()));
    proxy
}

fn lines(headers: &[Header]) -> Vec<String> {
    headers
        .iter()
        .map(|header| format!("{}: {}", header.name, header.value.to_str().unwrap()))
        .collect()
}

fn last_call(proxy: &Proxy) -> Call {
    proxy.calls().pop().expect("there was a call")
}

fn reply(verdict: RequestVerdict) -> Reply {
    match verdict {
        RequestVerdict::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_service_is_asked_with_the_chosen_fields() {
    let proxy = answering(Reply::new(200));
    let mut exchange = proxy
        .exchange("DELETE", "/a%20b?c=d&e")
        .with_header("authorization", "Basic eDp5")
        .with_header("cookie", "a=1")
        .with_header("cookie", "b=2")
        .with_header("accept", "*/*")
        .with_header("x-forwarded-for", "198.51.100.1")
        .with_header("x-forwarded-forged", "x")
        .with_header("content-length", "3")
        .with_header("x-original-uri", "/public")
        .with_header("X_Original_Method", "GET");
    assert_eq!(exchange.request_head(&filter(json!({}))), RequestVerdict::Proceed);
    let call = last_call(&proxy);
    assert_eq!(
        (call.method.as_str(), call.target.as_str(), &call.authority),
        ("GET", "/verify", &None)
    );
    assert_eq!((call.timeout, call.body.len()), (Some(SECOND), 0));
    let expected = [
        "authorization: Basic eDp5",
        "cookie: a=1",
        "cookie: b=2",
        "x-forwarded-for: 198.51.100.1",
        "x-forwarded-forged: x",
        "x-original-method: DELETE",
        "x-original-scheme: http",
        "x-original-host: test.example",
        "x-original-uri: /a%20b?c=d&e",
        "x-original-address: 192.0.2.7:50312",
    ];
    assert_eq!(lines(&call.headers), expected);
    assert_eq!(exchange.attribute("ext-auth"), Some("allowed"));
    // The upstream gets all of it.
    assert_eq!(exchange.request.header("authorization"), Some("Basic eDp5"));
}

#[test]
fn method_path_and_fields_can_be_chosen() {
    let all = json!({ "request_headers": ["x-*", "Accept"] });
    let cases = [
        (json!({ "method": "HEAD" }), "HEAD", "/verify"),
        (json!({ "method": "original" }), "PUT", "/verify"),
        (json!({ "path": "/verify?for=proxy" }), "GET", "/verify?for=proxy"),
        (
            json!({ "path": null, "path_prefix": "/auth/" }),
            "GET",
            "/auth/items?page=2",
        ),
        (json!({ "path": null, "path_prefix": "/" }), "GET", "/items?page=2"),
        (all, "GET", "/verify"),
    ];
    for (more, method, target) in cases {
        let proxy = answering(Reply::new(204));
        let mut exchange = proxy
            .exchange("PUT", "/items?page=2")
            .with_header("accept", "*/*")
            .with_header("x-a", "1");
        let filter = filter(more.clone());
        assert_eq!(exchange.request_head(&filter), RequestVerdict::Proceed, "{more}");
        let call = last_call(&proxy);
        assert_eq!((call.method.as_str(), call.target.as_str()), (method, target), "{more}");
        let copied = call
            .headers
            .iter()
            .filter(|header| !header.name.starts_with("x-original-"))
            .count();
        assert_eq!(
            copied,
            if more.get("request_headers").is_some() { 2 } else { 0 },
            "{more}"
        );
    }
    let proxy = answering(Reply::new(200));
    let filter = filter(json!({ "authority": "auth.example", "timeout": "250ms" }));
    assert_eq!(proxy.get("/").request_head(&filter), RequestVerdict::Proceed);
    let call = last_call(&proxy);
    assert_eq!(
        (call.authority.as_deref(), call.timeout),
        (Some("auth.example"), Some(SECOND / 4))
    );
}

#[test]
fn an_allowed_request_gets_the_services_fields_and_no_clients() {
    let filter = filter(json!({
        "upstream_headers": ["x-user", "x-roles"], "remove_headers": ["authorization", "x-absent"],
        "request_headers": ["x-*", "authorization"],
    }));
    let service = Reply::new(200)
        .header("X-User", "alice")
        .header("x-roles", "a")
        .header("x-roles", "b");
    let proxy = answering(service.header("x-other", "1").body("ignored"));
    let mut exchange = proxy
        .get("/")
        .with_header("authorization", "Bearer x")
        .with_header("accept", "*/*");
    for name in ["x-user", "X_USER", "x_roles"] {
        exchange = exchange.with_header(name, "mallory");
    }
    assert_eq!(exchange.request_head(&filter), RequestVerdict::Proceed);
    assert_eq!(
        lines(&exchange.request.headers),
        ["accept: */*", "x-user: alice", "x-roles: a", "x-roles: b"]
    );
    let asked = lines(&last_call(&proxy).headers);
    assert!(!asked.iter().any(|line| line.contains("mallory")), "{asked:?}");
    // A service that says nothing of the user leaves none.
    let mut exchange = answering(Reply::new(200)).get("/").with_header("x-user", "mallory");
    assert_eq!(exchange.request_head(&filter), RequestVerdict::Proceed);
    assert_eq!(exchange.request.header("x-user"), None);
}

#[test]
fn fields_for_the_client_come_with_the_upstreams_response() {
    let filter = filter(json!({ "response_headers": ["set-cookie", "X-Session"] }));
    let service = Reply::new(200)
        .header("set-cookie", "a=1")
        .header("Set-Cookie", "b=2")
        .header("x-session", "new");
    let proxy = answering(service.header("x-other", "1"));
    let mut exchange = proxy
        .get("/")
        .with_response_header("set-cookie", "c=3")
        .with_response_header("x-session", "old")
        .with_response_body("hello");
    let transcript = exchange.run(&filter);
    let expected = [
        "set-cookie: c=3",
        "set-cookie: a=1",
        "set-cookie: b=2",
        "x-session: new",
    ];
    assert_eq!(lines(&transcript.response.headers), expected);
    assert_eq!(transcript.response.body(), b"hello");
    // Nothing of it is left for the next exchange.
    let proxy = answering(Reply::new(200));
    let mut exchange = proxy.get("/").with_response_header("x-session", "old");
    assert_eq!(lines(&exchange.run(&filter).response.headers), ["x-session: old"]);
    let mut exchange = proxy.get("/");
    assert_eq!(exchange.response_head(&filter), Verdict::Proceed);
}

#[test]
fn a_denial_is_the_services_answer() {
    let service = |status: u16| {
        Reply::new(status)
            .header("content-type", "text/html")
            .header("www-authenticate", "Basic realm=\"a\"")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .header("Location", "/login")
            .header("server", "auth/1.0")
            .body("<p>no</p>")
    };
    let denied = |status: u16| Some((status, 5, "<p>no</p>"));
    let cases = [
        (json!({}), 401, denied(401)),
        (json!({}), 403, denied(403)),
        (json!({}), 404, None),
        (json!({}), 302, None),
        (json!({}), 500, None),
        (json!({}), 304, None),
        (json!({ "deny_statuses": [404, 429] }), 404, denied(404)),
        (json!({ "deny_statuses": [404] }), 403, None),
        (json!({ "redirects": "pass" }), 302, denied(302)),
        (json!({ "redirects": "pass" }), 308, denied(308)),
        (json!({ "redirects": "pass" }), 304, None),
        (json!({ "redirects": "pass" }), 300, None),
        (
            json!({ "deny_headers": ["LOCATION"] }),
            403,
            Some((403, 1, "<p>no</p>")),
        ),
    ];
    for (more, status, expected) in cases {
        let proxy = answering(service(status));
        let mut exchange = proxy.get("/");
        let transcript = exchange.run(&filter(more.clone()));
        let body = String::from_utf8(transcript.response.body()).unwrap();
        let response = (
            transcript.response.status,
            transcript.response.headers.len(),
            body.as_str(),
        );
        let undecided = (503, 1, "{\"error\":\"the request cannot be judged at present\"}\n");
        assert_eq!(response, expected.unwrap_or(undecided), "{status} with {more}");
        assert_eq!(transcript.request, None);
        let word = if expected.is_some() { "denied" } else { "undecided" };
        assert_eq!(exchange.attribute("ext-auth"), Some(word), "{status} with {more}");
    }
}

#[test]
fn without_a_decision_requests_are_denied_or_pass_unjudged() {
    let failures = [
        Err(CallError::TimedOut),
        Err(CallError::Unreachable),
        Err(CallError::Broken),
        Err(CallError::TooLarge),
        Err(CallError::TooMany),
        Ok(Reply::new(500).header("x-user", "root")),
        Ok(Reply::new(302).header("location", "/")),
    ];
    for failure in failures {
        let proxy = Proxy::new();
        let answer = failure.clone();
        proxy.on_call("auth", move |_| answer.clone());
        let get = || {
            proxy
                .get("/")
                .with_header("x-user", "mallory")
                .with_header("authorization", "Bearer x")
        };
        for (status, more) in [(503, json!({})), (403, json!({ "error_status": 403 }))] {
            let mut exchange = get();
            let reply = reply(exchange.request_head(&filter(more)));
            assert_eq!(reply.status, status, "{failure:?}");
            assert_eq!(lines(&reply.headers), ["content-type: application/json"]);
            assert_eq!(exchange.attribute("ext-auth"), Some("undecided"));
        }
        let headers =
            json!({ "upstream_headers": ["x-user"], "remove_headers": ["authorization"], "on_error": "allow" });
        let mut exchange = get();
        assert_eq!(
            exchange.request_head(&filter(headers)),
            RequestVerdict::Proceed,
            "{failure:?}"
        );
        assert!(exchange.request.headers.is_empty(), "{:?}", exchange.request.headers);
        assert_eq!(exchange.attribute("ext-auth"), Some("undecided"));
        assert_eq!(proxy.log().len(), 3);
        assert!(
            proxy
                .log()
                .iter()
                .all(|(level, line)| *level == Level::Warn && line.starts_with("no decision of `auth`: "))
        );
    }
    // A cluster that is not granted, and a target that cannot be sent.
    assert_eq!(
        reply(Proxy::new().get("/").request_head(&filter(json!({})))).status,
        503
    );
    let proxy = answering(Reply::new(200));
    let prefixed = filter(json!({ "path": null, "path_prefix": "/auth" }));
    assert_eq!(reply(proxy.get("/\u{e9}").request_head(&prefixed)).status, 503);
}

#[test]
fn a_body_is_sent_along() {
    let refuse = filter(json!({ "body": { "max": 4 } }));
    let proxy = answering(Reply::new(200));
    let mut exchange = proxy
        .exchange("POST", "/")
        .with_header("content-type", "text/plain")
        .with_body("ab")
        .with_body("cd");
    let transcript = exchange.run(&refuse);
    assert_eq!(transcript.request.map(|request| request.body()), Some(b"abcd".to_vec()));
    let call = last_call(&proxy);
    assert_eq!((call.method.as_str(), &call.body[..]), ("POST", &b"abcd"[..]));
    let asked = lines(&call.headers);
    assert!(asked.contains(&"content-type: text/plain".to_owned()), "{asked:?}");
    assert!(asked.contains(&"x-original-body: whole".to_owned()), "{asked:?}");

    let mut exchange = proxy.exchange("POST", "/").with_body("abcde");
    assert_eq!(exchange.run(&refuse).response.status, 413);
    assert_eq!(
        proxy.calls().len(),
        1,
        "the service is not asked about what it cannot see"
    );

    let cut = filter(json!({ "body": { "max": 4, "over": "cut" }, "method": "PUT" }));
    let mut exchange = proxy.exchange("POST", "/").with_body("abcde");
    assert_eq!(
        exchange.run(&cut).request.map(|request| request.body()),
        Some(b"abcde".to_vec())
    );
    let call = last_call(&proxy);
    assert_eq!((call.method.as_str(), &call.body[..]), ("PUT", &b"abcd"[..]));
    assert!(lines(&call.headers).contains(&"x-original-body: cut".to_owned()));

    let mut exchange = answering(Reply::new(403).body("virus"))
        .exchange("POST", "/")
        .with_body("ab");
    let expected = RequestVerdict::ReadBody {
        max: 4,
        over: OverMax::Refuse,
    };
    assert_eq!(exchange.request_head(&refuse), expected);
    let verdict = exchange.held_body(&refuse, HeldBody::whole("ab"));
    assert_eq!(verdict, HeldVerdict::Reply(Reply::new(403).body("virus")));
}

/// How many calls these requests make, each with what it came to.
fn asked(proxy: &Proxy, filter: &ExtAuth, exchanges: Vec<testing::Exchange>) -> usize {
    let before = proxy.calls().len();
    for mut exchange in exchanges {
        exchange.request_head(filter);
    }
    proxy.calls().len() - before
}

#[test]
fn kept_decisions_serve_those_who_ask_the_same() {
    let cache = |more: Value| {
        let mut cache = json!({ "headers": ["Cookie", "authorization"] });
        cache.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        filter(json!({ "cache": cache, "upstream_headers": ["x-user"] }))
    };
    let alike = cache(json!({}));
    let proxy = answering(Reply::new(200).header("x-user", "alice"));
    let get = |target: &str, token: &str| proxy.get(target).with_header("authorization", token);
    assert_eq!(
        asked(
            &proxy,
            &alike,
            vec![get("/", "a"), get("/", "a").with_header("x-request-id", "7")]
        ),
        1
    );
    let mut exchange = get("/", "a").with_header("x-user", "mallory");
    assert_eq!(exchange.request_head(&alike), RequestVerdict::Proceed);
    assert_eq!(exchange.request.header("x-user"), Some("alice"));
    assert_eq!(exchange.attribute("ext-auth"), Some("allowed"));
    let different = vec![
        get("/", "A"),
        get("/", "a").with_header("authorization", ""),
        get("/", "a").with_header("cookie", "b"),
        get("/", "").with_header("cookie", "a"),
        proxy.get("/").with_header("cookie", "a"),
        proxy.get("/"),
        get("/x", "a"),
        get("/?", "a"),
        get("/?x", "a"),
        proxy.exchange("POST", "/").with_header("authorization", "a"),
    ];
    let count = different.len();
    assert_eq!(asked(&proxy, &alike, different), count);
    let mut other_host = get("/", "a");
    other_host.request.authority = "other.example".to_owned();
    let mut other_scheme = get("/", "a");
    other_scheme.request.scheme = "https".to_owned();
    assert_eq!(asked(&proxy, &alike, vec![other_host, other_scheme]), 2);
    // Another configuration, with the same table.
    assert_eq!(
        asked(
            &proxy,
            &filter(json!({ "cache": { "headers": ["cookie", "authorization"] } })),
            vec![get("/", "a")]
        ),
        1
    );

    let ignored = cache(json!({ "uri": "ignored" }));
    assert_eq!(
        asked(&proxy, &ignored, vec![get("/", "a"), get("/x?y", "a"), get("/", "b")]),
        2
    );
    proxy.advance(30 * SECOND - Duration::from_millis(1));
    assert_eq!(asked(&proxy, &ignored, vec![get("/", "a")]), 0);
    proxy.advance(Duration::from_millis(1));
    assert_eq!(asked(&proxy, &ignored, vec![get("/", "a")]), 1);
    proxy.forget();
    assert_eq!(asked(&proxy, &ignored, vec![get("/", "a")]), 1);
}

#[test]
fn denials_are_kept_for_a_shorter_time_and_failures_not_at_all() {
    let cached =
        |more: &str| filter(json!({ "cache": { "headers": ["authorization", "cookie"], "denied_ttl": more } }));
    let service = Reply::new(401).header("www-authenticate", "Basic").body("no");
    let proxy = answering(service.clone());
    for _ in 0..3 {
        assert_eq!(reply(proxy.get("/").request_head(&cached("5s"))), service);
    }
    assert_eq!(proxy.calls().len(), 1);
    proxy.advance(5 * SECOND);
    assert_eq!(asked(&proxy, &cached("5s"), vec![proxy.get("/"), proxy.get("/")]), 1);
    proxy.forget();
    assert_eq!(asked(&proxy, &cached("0s"), vec![proxy.get("/"), proxy.get("/")]), 2);

    let proxy = answering(Reply::new(500));
    assert_eq!(asked(&proxy, &cached("5s"), vec![proxy.get("/"), proxy.get("/")]), 2);
}

#[test]
fn answers_for_one_client_serve_no_other_and_keep_no_one_waiting() {
    let filter = filter(json!({
        "cache": { "headers": ["authorization", "cookie"] }, "response_headers": ["set-cookie"],
    }));
    let services = [
        Reply::new(200).header("set-cookie", "a=1"),
        Reply::new(403).header("cache-control", "no-store"),
    ];
    for service in services {
        let proxy = answering(service);
        assert_eq!(
            asked(&proxy, &filter, vec![proxy.get("/"), proxy.get("/"), proxy.get("/")]),
            3
        );
    }
}

#[test]
fn who_waits_in_vain_has_no_decision() {
    let filter = filter(json!({ "cache": { "headers": ["authorization", "cookie"] }, "timeout": "2s" }));
    let proxy = answering(Reply::new(200));
    assert_eq!(proxy.get("/").request_head(&filter), RequestVerdict::Proceed);
    let table = format!("{proxy:?}");
    let key = &table[table.find("ext-auth ").expect("it is kept")..][.."ext-auth ".len() + 64];
    proxy.forget();
    proxy.claim_elsewhere(key);
    let before_ms = proxy.now_ms();
    assert_eq!(reply(proxy.get("/").request_head(&filter)).status, 503);
    assert_eq!((proxy.calls().len(), proxy.now_ms() - before_ms), (1, 2000));
}

#[test]
fn no_credential_stands_in_the_table_as_it_is() {
    let filter = filter(json!({ "cache": { "headers": ["authorization", "cookie"] } }));
    let proxy = answering(Reply::new(200));
    assert_eq!(
        proxy
            .get("/")
            .with_header("authorization", "Bearer sesame")
            .request_head(&filter),
        RequestVerdict::Proceed
    );
    let table = format!("{proxy:?}").replace("\"Bearer sesame\"", "").to_lowercase();
    let of_table = table.split("table:").nth(1).unwrap();
    let of_table = of_table.split("outbound:").next().unwrap();
    assert!(
        of_table.contains("ext-auth ") && !of_table.contains("sesame"),
        "{of_table}"
    );
}

#[test]
fn configurations_are_refused_with_the_reason() {
    let cases = [
        (json!({ "cluster": null }), "missing field `cluster`"),
        (json!({ "path": null }), "needs `path` or `path_prefix`, one of them"),
        (
            json!({ "path_prefix": "/" }),
            "needs `path` or `path_prefix`, one of them",
        ),
        (json!({ "path": "verify" }), "path `verify` must start with `/`"),
        (json!({ "path": "/a b" }), "path `/a b` must start with `/`"),
        (json!({ "path": format!("/{}", "a".repeat(1024)) }), "path `/aaa"),
        (
            json!({ "path": null, "path_prefix": "/a?b" }),
            "path_prefix `/a?b`: has a query",
        ),
        (json!({ "method": "CONNECT" }), "method `CONNECT`: "),
        (json!({ "method": "get" }), "method `get`: "),
        (json!({ "timeout": "0s" }), "timeout: 0ns is out of bounds"),
        (
            json!({ "timeout": 1 }),
            "timeout: invalid type: integer `1`, expected a duration",
        ),
        (
            json!({ "request_headers": ["*"] }),
            "request_headers[0] `*`: name the fields",
        ),
        (
            json!({ "request_headers": ["a", "host"] }),
            "request_headers[1] `host`: ",
        ),
        (
            json!({ "request_headers": ["a(b*"] }),
            "request_headers[0] `a(b*`: not a field",
        ),
        (json!({ "upstream_headers": ["te"] }), "upstream_headers[0] `te`: "),
        (json!({ "remove_headers": ["a b"] }), "remove_headers[0] `a b`: "),
        (json!({ "response_headers": [""] }), "response_headers[0] ``: "),
        (
            json!({ "deny_headers": ["content-length"] }),
            "deny_headers[0] `content-length`: ",
        ),
        (
            json!({ "deny_statuses": [401, 200] }),
            "deny_statuses: 200 is not 400 to 599",
        ),
        (json!({ "error_status": 302 }), "error_status: 302 is not 400 to 599"),
        (json!({ "on_error": "ignore" }), "on_error: unknown variant `ignore`"),
        (json!({ "redirects": true }), "redirects: "),
        (json!({ "body": { "over": "cut" } }), "body: missing field `max`"),
        (
            json!({ "body": { "max": 1 }, "cache": { "headers": [] } }),
            "cache: with `body`, no two",
        ),
        (json!({ "cache": {} }), "cache: missing field `headers`"),
        (
            json!({ "cache": { "headers": [] } }),
            "cache.headers: `authorization` is sent",
        ),
        (
            json!({ "cache": { "headers": ["Authorization"] } }),
            "cache.headers: `cookie` is sent",
        ),
        (
            json!({ "request_headers": ["cook*"], "cache": { "headers": [] } }),
            "cache.headers: `cookie` is sent",
        ),
        (
            json!({ "cache": { "headers": ["authorization", "cookie", "a b"] } }),
            "cache.headers `a b`: ",
        ),
        (
            json!({ "cache": { "headers": ["authorization", "cookie"], "ttl": "0s" } }),
            "cache.ttl: 0ns is out of bounds",
        ),
        (json!({ "retries": 3 }), "retries: unknown field `retries`"),
    ];
    for (more, reason) in cases {
        let refusal = testing::configure::<ExtAuth>(config(more.clone()))
            .err()
            .unwrap_or_default();
        assert!(
            refusal.starts_with(reason),
            "{more}: {refusal:?} does not start with {reason:?}"
        );
    }
    let without_credentials = json!({ "request_headers": ["x-a"], "cache": { "headers": ["x-a"] } });
    assert!(testing::configure::<ExtAuth>(config(without_credentials)).is_ok());
}

#[test]
fn it_exports_the_hooks_it_has() {
    let exports = <ExtAuth as tamis_filter::__Exports>::EXPORTS;
    assert_eq!(exports, ["RequestHead", "HeldBody", "ResponseHead"]);
}
