//! The bundled filters that need more than a head: tables, calls, bodies. What each decides is tested beside its source;
//! here it decides in a whole proxy, with real servers and real time.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tamis_integration::upstream::{Refusing, ok};
use tamis_integration::{Client, Folder, Gate, Message, Proxy, Step, Upstream};

use crate::support::{Configuration, each, filter_state, folder_with, wait_until};

const LOG: &str = "access.log";
const TO_FILE: &str = "access_log: { file: access.log, format: json }";

/// The filter `name` with these entries, in the chain of every route, on two workers. An exchange has all the time that a
/// busy machine takes.
fn start(name: &str, entries: &str, upstream: &Upstream, clusters: &str) -> Proxy {
    let top = format!("{TO_FILE}\nfilters:\n  {name}: {{ component: {name}.wasm, {entries} }}");
    let configuration = Configuration {
        top: &top,
        clusters,
        route: &format!("filters: [{name}], timeout: off"),
        ..Default::default()
    };
    let yaml = configuration.to(upstream).replace("workers: 1", "workers: 2");
    Proxy::start_in(&folder_with(&[name]), &yaml)
}

fn get(client: &mut Client, fields: &str) -> Message {
    client.exchange(format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"))
}

fn attribute(folder: &Folder, number: usize, name: &str) -> Value {
    let line = &folder.wait_lines(LOG, number + 1)[number];
    let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    record["attributes"][name].clone()
}

/// Keys and tokens that another library has made; `for ten years` is good until 2035.
fn tokens() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../filters/jwt/tests/tokens.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

const JWT: &str = "tick: 5m, grants: [clock, key_value, { outbound: [issuer] }], limits: { cpu: 500ms, exchange_cpu: 5s }, \
                   config: { algorithms: [RS256], jwks: { cluster: issuer, path: /jwks.json }, \
                   iss: [https://issuer.example], aud: [https://api.example], claim_headers: { x-user: sub } }";

#[test]
fn jwt_fetches_keys_and_lets_good_tokens_pass() {
    let tokens = tokens();
    let keys = serde_json::json!({ "keys": tokens["jwks"]["keys"] }).to_string();
    let (issuer, upstream) = (Upstream::saying(&keys), Upstream::saying("ok"));
    let cluster = format!("  issuer: {{ endpoints: [\"{}\"] }}", issuer.address());
    let proxy = start("jwt", JWT, &upstream, &cluster);
    let bearer = |token: &Value| format!("Authorization: Bearer {}\r\n", token.as_str().expect("a token"));
    let good = bearer(&tokens["others"]["for ten years"]);
    let cases = [
        ("good", good.clone(), 200, "valid"),
        (
            "good again, with a field of its own",
            format!("{good}X-User: mallory\r\n"),
            200,
            "valid",
        ),
        ("none", String::new(), 401, "missing"),
        ("two", format!("{good}{good}"), 400, "repeated"),
        ("expired", bearer(&tokens["valid"]["RS256"]), 401, "expired"),
        (
            "forged",
            bearer(&tokens["invalid"]["signature"]["by a stranger"]),
            401,
            "signature",
        ),
        ("no end", bearer(&tokens["others"]["without exp"]), 401, "lifetime"),
    ];
    let mut seen = Vec::new();
    // Each on a connection of its own, so that both workers have some.
    for (number, (name, fields, status, _)) in cases.iter().enumerate() {
        let response = get(&mut proxy.client(), fields);
        assert_eq!(response.status(), *status, "{name}: {response:?}");
        assert_eq!(
            response.values("www-authenticate").len(),
            usize::from(*status != 200),
            "{name}"
        );
        seen.push(attribute(proxy.folder(), number, "jwt"));
    }
    assert_eq!(seen, cases.map(|(_, _, _, attribute)| attribute));
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(
            (request.value("x-user"), request.value("authorization")),
            (Some("alice"), None)
        );
    }
    // The first tick and the first request may each find nothing; whichever comes first fetches, for all.
    let fetches = issuer.requests();
    let [fetch] = &fetches[..] else { panic!("{fetches:?}") };
    assert_eq!(
        (fetch.method(), fetch.target(), fetch.value("host")),
        ("GET", "/jwks.json", Some("issuer"))
    );
}

#[test]
fn jwt_without_keys_lets_nobody_pass() {
    let (refusing, upstream) = (Refusing::new(), Upstream::saying("ok"));
    let cluster = format!("  issuer: {{ endpoints: [\"{}\"] }}", refusing.address());
    let proxy = start("jwt", JWT, &upstream, &cluster);
    let token = tokens()["others"]["for ten years"]
        .as_str()
        .expect("a token")
        .to_owned();
    let response = get(&mut proxy.client(), &format!("Authorization: Bearer {token}\r\n"));
    assert_eq!(response.status(), 503, "{response:?}");
    assert_eq!(upstream.requests(), []);
}

/// The bucket is one for both workers. It fills too slowly for the test to notice.
#[test]
fn rate_limit_counts_over_all_workers() {
    let upstream = Upstream::saying("ok");
    let entries = "grants: [clock, key_value, metrics], config: { limits: [{ name: client, rate: 5/1d }] }";
    let proxy = start("rate-limit", entries, &upstream, "");
    let mut clients: Vec<_> = (0..20).map(|_| proxy.client()).collect();
    let responses: Vec<_> = clients.iter_mut().map(|client| client.get("/")).collect();
    let (passed, limited) = responses.split_at(5);
    for (left, response) in (0..5).rev().zip(passed) {
        assert_eq!(response.status(), 200, "{response:?}");
        let field = response.value("ratelimit").unwrap_or_default();
        assert!(field.starts_with(&format!("\"client\";r={left};")), "{field}");
        assert_eq!(response.value("ratelimit-policy"), Some("\"client\";q=5;w=86400"));
    }
    for response in limited {
        assert_eq!(response.status(), 429, "{response:?}");
        assert_eq!(response.value("content-type"), Some("application/problem+json"));
        let seconds: u64 = response
            .value("retry-after")
            .and_then(|text| text.parse().ok())
            .expect("seconds");
        assert!((1..=86400 / 5).contains(&seconds), "{seconds}");
    }
    assert_eq!(upstream.requests().len(), 5);
    let metrics = proxy.metrics();
    let labels = [("filter", "rate-limit"), ("limit", "client")];
    let counted = ["allowed", "limited"].map(|name| metrics.sum(&format!("tamis_filter_custom_{name}"), &labels));
    assert_eq!(counted, [5.0, 15.0]);
}

fn ext_auth(more: &str, auth: &Upstream, upstream: &Upstream) -> Proxy {
    let entries = format!(
        "grants: [key_value, {{ outbound: [auth] }}], config: {{ cluster: auth, path: /verify, \
         upstream_headers: [x-user], remove_headers: [authorization], response_headers: [x-session]{more} }}"
    );
    let cluster = format!("  auth: {{ endpoints: [\"{}\"] }}", auth.address());
    start("ext-auth", &entries, upstream, &cluster)
}

#[test]
fn ext_auth_asks_and_does_as_it_is_told() {
    let upstream = Upstream::saying("ok");
    let auth = Upstream::answering(|request| match request.value("authorization") {
        Some("good") => b"HTTP/1.1 200 OK\r\nX-User: alice\r\nX-Session: 7\r\nContent-Length: 0\r\n\r\n".to_vec(),
        Some("bad") => {
            b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nX-Secret: 1\r\nContent-Length: 4\r\n\r\nno!\n"
                .to_vec()
        }
        _ => b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n".to_vec(),
    });
    let proxy = ext_auth("", &auth, &upstream);
    let mut client = proxy.client();

    let allowed = get(&mut client, "Authorization: good\r\nX-User: mallory\r\n");
    assert_eq!((allowed.text().as_str(), allowed.value("x-session")), ("ok", Some("7")));
    let request = upstream.take_request("allowed");
    assert_eq!(
        (request.value("x-user"), request.value("authorization")),
        (Some("alice"), None)
    );
    let question = auth.take_request("the question");
    assert_eq!(
        (question.target(), question.value("x-original-uri")),
        ("/verify", Some("/"))
    );
    assert_eq!(question.value("x-user"), None);

    let denied = get(&mut client, "Authorization: bad\r\n");
    assert_eq!(
        (denied.status(), denied.text().as_str(), denied.value("x-secret")),
        (403, "no!\n", None)
    );
    assert_eq!(get(&mut client, "").status(), 503);
    assert_eq!(upstream.requests(), []);
    let told: Vec<_> = (0..3)
        .map(|number| attribute(proxy.folder(), number, "ext-auth"))
        .collect();
    assert_eq!(told, ["allowed", "denied", "undecided"]);
}

#[test]
fn ext_auth_does_not_wait_for_ever() {
    let upstream = Upstream::saying("ok");
    let auth = Upstream::each([vec![Step::Message, Step::Hold]]);
    let proxy = ext_auth(", timeout: 200ms", &auth, &upstream);
    assert_eq!(proxy.get("/").status(), 503);
    assert_eq!(attribute(proxy.folder(), 0, "ext-auth"), "undecided");
    auth.wait_ended(0);
    assert_eq!(upstream.requests(), []);
}

/// A hundred misses at once, over both workers, are one question: the others wait for the answer to the first.
#[test]
fn ext_auth_asks_once_for_many() {
    const CLIENTS: u64 = 100;
    let upstream = Upstream::saying("ok");
    let gate = Gate::new();
    let passed = gate.clone();
    let auth = Upstream::answering(move |_| {
        passed.pass();
        ok("")
    });
    let cache = ", timeout: 4s, cache: { headers: [authorization, cookie], ttl: 60s }";
    let proxy = ext_auth(cache, &auth, &upstream);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\nAuthorization: good\r\n\r\n");
    }
    gate.wait_arrived(1);
    // Each that waits has an instance, so all are there when there are as many.
    wait_until("all wait", || {
        filter_state(&proxy, "ext-auth")["instances"].as_u64() >= Some(CLIENTS)
    });
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().status(), 200);
    }
    assert_eq!(auth.requests().len(), 1);
    assert_eq!(upstream.requests().len(), 100);
}

#[test]
fn json_guard_lets_only_its_schema_pass() {
    let upstream = Upstream::saying("ok");
    let entries = "grants: [metrics], config: { max_bytes: 100, schema: { type: object, required: [name], \
                   properties: { name: { type: string, maxLength: 5 } } } }";
    let proxy = start("json-guard", entries, &upstream, "");
    let long = format!("{{\"name\":\"a\",\"more\":\"{}\"}}", "x".repeat(100));
    let cases = [
        ("application/json", " { \"name\" : \"\\u0041\" } ", 200, ""),
        ("application/problem+json", "{\"name\":\"a\"}", 200, ""),
        ("application/json", "{\"name\":", 400, "syntax"),
        (
            "application/json",
            "{\"name\":\"a\",\"name\":\"b\"}",
            400,
            "duplicate-key",
        ),
        ("application/json", "{\"name\":\"abcdef\"}", 422, "maxLength"),
        ("application/json", "{}", 422, "required"),
        ("application/json", &long, 413, "max_bytes"),
        ("text/plain", "{\"name\":\"a\"}", 415, "content-type"),
    ];
    each(
        cases,
        |(kind, body, status, _)| format!("{kind} {body} {status}"),
        |(kind, body, status, rule)| {
            upstream.take_requests();
            let length = body.len();
            let response = proxy.client().exchange(format!(
                "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
            assert_eq!(response.status(), *status, "{}", response.text());
            if *status == 200 {
                let request = upstream.take_request("good");
                assert_eq!(
                    (request.text().as_str(), request.value("content-length")),
                    (*body, Some(length.to_string().as_str()))
                );
                return;
            }
            assert_eq!(upstream.requests(), []);
            let told = response.text();
            // A body over the maximum of the wish for it is refused by the proxy, in its own words.
            assert!(
                *status == 413 || told.contains(&format!("\"rule\":\"{rule}\"")),
                "{told}"
            );
        },
    );
    assert_eq!(proxy.get("/").text(), "ok");
}

/// A body that is far longer than what may be kept of it: the first byte is out long before the last is in, and the
/// proxy does not grow.
#[test]
fn redact_streams_what_is_longer_than_memory() {
    const POURED: u64 = 1 << 30;
    const PIECE: usize = 1 << 20;
    const GROWTH: u64 = 8 << 20;
    let (first, last) = ("card 4111 1111 1111 1111;", "mail alice@a.example;");
    let length = POURED + (first.len() + last.len()) as u64;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{first}");
    let upstream = Upstream::each([vec![
        Step::Message,
        Step::send(head),
        Step::Pour(POURED),
        Step::send(last),
    ]]);
    let entries = "grants: [metrics], limits: { cpu: 1s, wall: 5s, exchange_cpu: 10m }, config: { patterns: [\
                   { name: card, detect: credit_card, mask: { keep_last: 4 } }, { name: mail, detect: email }] }";
    let proxy = start("redact", entries, &upstream, "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n");
    assert_eq!(client.read_head().list("transfer-encoding"), ["chunked"]);
    let beginning = String::from_utf8_lossy(&client.read(PIECE)).into_owned();
    // What follows may come as a piece of its own.
    assert!(beginning.contains("card **** **** **** 1111;"), "{}", &beginning[..64]);
    assert!(upstream.poured(0) < POURED, "the first byte came after the last");

    let (before, mut most) = (proxy.resident(), 0);
    let mut end = Vec::new();
    loop {
        let piece = client.read(PIECE);
        most = most.max(proxy.resident());
        if piece.len() < PIECE {
            end.extend(piece);
            break;
        }
        end = piece;
    }
    let end = String::from_utf8_lossy(&end).into_owned();
    assert!(end.ends_with("\r\n0\r\n\r\n"), "no last chunk");
    assert!(end.contains("mail [redacted];"), "{}", &end[end.len() - 100..]);
    let grown = most.saturating_sub(before);
    assert!(grown < GROWTH, "{grown} bytes of growth");
    assert_eq!(attribute(proxy.folder(), 0, "redactions"), "2");
}

/// Each refusal takes its guest's memory only until the next hook: here, a thousand of them would take more than there is.
#[test]
fn tenant_refuses_as_often_as_it_has_to() {
    let upstream = Upstream::saying("ok");
    let limits = "instance_reuse: 1000000, limits: { memory: 1280KiB }";
    let entries = format!("{limits}, config: {{ header: x-tenant, allow: [acme] }}");
    let proxy = start("tenant", &entries, &upstream, "");
    for connection in 0..10 {
        let mut client = proxy.client();
        for number in 0..500 {
            assert_eq!(get(&mut client, "").status(), 403, "{connection}, {number}");
        }
    }
    assert_eq!(get(&mut proxy.client(), "X-Tenant: acme\r\n").text(), "ok");
}

#[test]
fn redact_answers_in_place_of_what_it_cannot_search() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nok";
    let upstream = Upstream::repeating(head);
    let entries = "grants: [metrics], config: { on_encoded: fail, patterns: [{ name: mail, detect: email }] }";
    let proxy = start("redact", entries, &upstream, "");
    let mut client = proxy.client();
    for _ in 0..3 {
        let reply = get(&mut client, "");
        assert_eq!((reply.status(), &*reply.text()), (502, "bad gateway\n"));
        assert!(reply.values("content-encoding").is_empty());
    }
}
