//! The filter as a whole, on exchanges in memory.

use tamis_filter::testing::{self, Proxy, json};

use super::*;

fn filter(config: serde_json::Value) -> Redact {
    testing::configure(config).unwrap()
}

fn secrets(mut config: serde_json::Value) -> Redact {
    config["patterns"] = json!([{ "name": "secret", "literals": ["secret"], "replace": "***" }]);
    filter(config)
}

fn response(proxy: &Proxy) -> testing::Exchange {
    proxy.get("/").with_response_header("content-type", "text/plain")
}

fn lines(headers: &[Header]) -> Vec<String> {
    headers
        .iter()
        .map(|header| format!("{}: {}", header.name, header.value.to_str().unwrap()))
        .collect()
}

#[test]
fn a_response_is_redacted_across_its_pieces() {
    let proxy = Proxy::new();
    let mut exchange = response(&proxy)
        .with_response_body("a sec")
        .with_response_body("ret, ")
        .with_response_body("nothing, ")
        .with_response_body("se")
        .with_response_body("c")
        .with_response_trailer("x-trailer", "1");
    let response = exchange.run(&secrets(json!({}))).response;
    let pieces: Vec<&str> = response
        .pieces
        .iter()
        .map(|piece| std::str::from_utf8(piece).unwrap())
        .collect();
    assert_eq!(pieces, ["a ", "***, ", "nothing, ", "sec"]);
    assert_eq!(lines(&response.trailers), ["x-trailer: 1"]);
    assert_eq!(exchange.attribute("redactions"), Some("1"));
    assert_eq!(proxy.counter("redactions{pattern=\"secret\"}"), 1);
}

#[test]
fn the_first_byte_goes_out_before_the_last_comes_in() {
    let filter = secrets(json!({}));
    let mut exchange = response(&Proxy::new());
    exchange.response_head(&filter);
    assert_eq!(exchange.response_body(&filter, "hello"), BodyVerdict::Keep);
    assert_eq!(
        exchange.response_body(&filter, "a secr"),
        BodyVerdict::Replace(b"a ".to_vec())
    );
    assert_eq!(exchange.response_body(&filter, "e"), BodyVerdict::Drop);
    assert_eq!(
        exchange.response_body(&filter, "d"),
        BodyVerdict::Replace(b"secred".to_vec())
    );
    assert_eq!(exchange.response_end(&filter), EndVerdict::Keep);
}

#[test]
fn both_bodies_are_redacted_when_both_are_named() {
    let proxy = Proxy::new();
    let filter = secrets(json!({ "bodies": ["request", "response"] }));
    let mut exchange = proxy
        .exchange("POST", "/")
        .with_header("content-type", "application/json")
        .with_header("content-digest", "sha-256=:x:")
        .with_body("{\"a\":\"secret\"}")
        .with_trailer("Repr-Digest", "sha-256=:x:")
        .with_trailer("x-trailer", "1")
        .with_response_header("content-type", "text/html")
        .with_response_header("repr-digest", "sha-256=:x:")
        .with_response_header("accept-ranges", "bytes")
        .with_response_header("etag", "\"1\"")
        .with_response_body("<p>secret</p>secret");
    let transcript = exchange.run(&filter);
    let request = transcript.request.unwrap();
    assert_eq!(request.body(), b"{\"a\":\"***\"}");
    assert_eq!(
        lines(&request.headers),
        ["content-type: application/json", "accept-encoding: identity"]
    );
    assert_eq!(lines(&request.trailers), ["x-trailer: 1"]);
    assert_eq!(transcript.response.body(), b"<p>***</p>***");
    assert_eq!(
        lines(&transcript.response.headers),
        ["content-type: text/html", "etag: \"1\""]
    );
    assert_eq!(exchange.attribute("redactions"), Some("3"));
    assert_eq!(proxy.counter("redactions{pattern=\"secret\"}"), 3);
}

#[test]
fn what_is_not_searched_passes_with_its_length() {
    let get = || Proxy::new().get("/").with_response_body("secret");
    let typed = |content_type: &str| get().with_response_header("content-type", content_type);
    let mut no_content = typed("text/plain").with_response_header("content-encoding", "gzip");
    no_content.response.status = 304;
    let mut head = typed("text/plain").with_response_header("content-encoding", "gzip");
    head.request.method = "HEAD".to_owned();
    for mut exchange in [get(), typed("image/png"), no_content, head] {
        let strict = secrets(json!({ "on_encoded": "fail" }));
        let transcript = exchange.run(&strict);
        assert!(transcript.response.body_passed, "{:?}", exchange.response.headers);
        assert_ne!(transcript.response.status, 502);
    }
    let mut exchange = Proxy::new()
        .exchange("POST", "/")
        .with_header("content-type", "text/plain")
        .with_body("secret");
    let request = exchange.run(&secrets(json!({}))).request.unwrap();
    assert!(request.body_passed);
    assert_eq!(request.body(), b"secret");
}

#[test]
fn what_cannot_be_searched_passes_counted_or_fails() {
    let proxy = Proxy::new();
    let gzip = || {
        response(&proxy)
            .with_response_header("content-encoding", "gzip")
            .with_response_body("secret")
    };
    let skipped = gzip().run(&secrets(json!({})));
    assert_eq!((skipped.response.status, skipped.response.body_passed), (200, true));
    let failed = gzip().run(&secrets(json!({ "on_encoded": "fail" })));
    assert_eq!(
        (failed.response.status, failed.response.body().as_slice()),
        (502, &b"bad gateway\n"[..])
    );
    assert_eq!(proxy.counter("unreadable{body=\"response\"}"), 2);

    let config = |on_encoded: &str| secrets(json!({ "bodies": ["request"], "on_encoded": on_encoded }));
    let post = || {
        let post = proxy.exchange("POST", "/").with_header("content-type", "text/plain");
        post.with_header("content-encoding", "br").with_body("secret")
    };
    assert!(post().run(&config("skip")).request.unwrap().body_passed);
    let failed = post().run(&config("fail")).response;
    assert_eq!(
        (failed.status, failed.header("accept-encoding")),
        (415, Some("identity"))
    );
    assert_eq!(proxy.counter("unreadable{body=\"request\"}"), 2);
}

#[test]
fn upstreams_are_asked_for_whole_bodies_without_a_coding() {
    let request = |config: serde_json::Value| {
        let get = Proxy::new()
            .get("/")
            .with_header("accept-encoding", "gzip")
            .with_header("accept-encoding", "br");
        let mut get = get.with_header("range", "bytes=0-3").with_header("if-range", "\"1\"");
        lines(&get.run(&secrets(config)).request.unwrap().headers)
    };
    assert_eq!(request(json!({})), ["accept-encoding: identity"]);
    let as_it_came = [
        "accept-encoding: gzip",
        "accept-encoding: br",
        "range: bytes=0-3",
        "if-range: \"1\"",
    ];
    assert_eq!(request(json!({ "ask_plain": false })), as_it_came);
    assert_eq!(request(json!({ "bodies": ["request"] })), as_it_came);
}

#[test]
fn configurations_are_refused_with_the_reason() {
    let pattern = |pattern: serde_json::Value| json!({ "patterns": [pattern] });
    let with = |key: &str, value: serde_json::Value| {
        let mut config = pattern(json!({ "name": "p", "literals": ["x"] }));
        config[key] = value;
        config
    };
    let huge: Vec<String> = (0..20_000)
        .map(|number: u64| format!("{:020}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    let cases = [
        (json!(null), "missing field `patterns`"),
        (json!({ "patterns": [] }), "patterns: there must be 1 to 32, not 0"),
        (
            pattern(json!({ "name": "P", "literals": ["x"] })),
            "patterns[0]: name `P` is not",
        ),
        (
            pattern(json!({ "name": "p" })),
            "patterns[0]: `p`: needs `detect`, `literals` or `regex`",
        ),
        (
            pattern(json!({ "name": "p", "literals": ["x"], "regex": "x" })),
            "one of them",
        ),
        (
            pattern(json!({ "name": "p", "literals": ["x", ""] })),
            "`p`: literals: one is empty",
        ),
        (
            pattern(json!({ "name": "p", "literals": ["x".repeat(257)] })),
            "may need 257 bytes, over `max_match` of 256",
        ),
        (
            pattern(json!({ "name": "p", "regex": "a+" })),
            "`p`: regex: its matches have no longest one",
        ),
        (
            pattern(json!({ "name": "p", "regex": "a{257}" })),
            "the regex may need 257 bytes",
        ),
        (
            pattern(json!({ "name": "p", "detect": "phone" })),
            "patterns[0].detect: unknown variant `phone`",
        ),
        (
            pattern(json!({ "name": "p", "regex": "x", "replace": "", "mask": {} })),
            "has `replace` and `mask`",
        ),
        (
            pattern(json!({ "name": "p", "regex": "x", "mask": { "keep": 1 } })),
            "unknown field `keep`",
        ),
        (
            pattern(json!({ "name": "p", "literals": huge })),
            "together they need over",
        ),
        (
            json!({ "patterns": [{ "name": "p", "detect": "iban" }, { "name": "p", "regex": "x" }] }),
            "patterns[1]: the name `p` is there already",
        ),
        (
            json!({ "patterns": [{ "name": "p", "detect": "iban" }, { "name": "q", "detect": "iban" }] }),
            "patterns[1]: `iban` is detected by an earlier pattern",
        ),
        (
            json!({ "patterns": [{ "name": "p", "detect": "email" }], "max_match": 64 }),
            "email may need 254 bytes, over `max_match` of 64",
        ),
        (with("bodies", json!([])), "bodies: there is none"),
        (with("bodies", json!(["both"])), "bodies[0]: unknown variant `both`"),
        (with("content_types", json!([])), "content_types: there is none"),
        (
            with("content_types", json!(["json"])),
            "content_types: `json` is none of",
        ),
        (
            with("on_encoded", json!("decode")),
            "on_encoded: unknown variant `decode`",
        ),
        (with("max_match", json!(0)), "max_match: 0 is not 1 to 4096"),
        (with("max_match", json!(4097)), "max_match: 4097 is not 1 to 4096"),
    ];
    for (config, reason) in cases {
        let refusal = testing::configure::<Redact>(config.clone()).err().unwrap_or_default();
        assert!(
            refusal.contains(reason),
            "{config:.200}: {refusal:?} does not say {reason:?}"
        );
    }
}
