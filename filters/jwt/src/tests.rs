//! The whole filter: tokens that another library has signed, forgeries, the vectors of the RFCs, and the fetching of keys.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tamis_filter::outbound::CallError;
use tamis_filter::testing::{self, Proxy, json};
use tamis_filter::{Reply, RequestVerdict};

use super::Jwt;
use crate::algorithm::Algorithm;
use crate::base64;
use crate::key::{Key, Read};

/// Made by `tests/make_tokens.py`, for the time at which the clock of the tests stands.
#[derive(Deserialize)]
struct Made {
    secret: String,
    jwks: Value,
    next_key: Value,
    small_key: Value,
    valid: BTreeMap<String, String>,
    /// By the word of the refusal.
    invalid: BTreeMap<String, BTreeMap<String, String>>,
    others: BTreeMap<String, String>,
}

static MADE: LazyLock<Made> =
    LazyLock::new(|| serde_json::from_str(include_str!("../tests/tokens.json")).expect("the script has made it"));

const SECOND: Duration = Duration::from_secs(1);

/// All algorithms, the keys of the fixtures, and more settings.
fn config(more: Value) -> Value {
    let mut config = json!({
        "algorithms": [
            "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
            "Ed25519",
        ],
        "jwks": MADE.jwks,
        "secrets": [{ "secret": MADE.secret, "kid": "secret" }],
        "iss": ["https://other.example", "https://issuer.example"],
        "aud": ["https://api.example"],
    });
    extend(&mut config, more);
    config
}

fn extend(config: &mut Value, more: Value) {
    let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) else {
        panic!("both are objects")
    };
    for (name, value) in more {
        match value {
            Value::Null => config.remove(&name),
            value => config.insert(name, value),
        };
    }
}

fn filter(more: Value) -> Jwt {
    testing::configure(config(more)).unwrap()
}

/// Of the default settings, with all keys.
fn jwt() -> Jwt {
    filter(json!({}))
}

fn other(name: &str) -> &'static str {
    &MADE.others[name]
}

fn valid(name: &str) -> &'static str {
    &MADE.valid[name]
}

fn bearer(token: &str) -> testing::Exchange {
    testing::Exchange::get("/items").with_header("authorization", format!("Bearer {token}"))
}

/// `valid` or `none`; or the refusal's word, with its status.
fn outcome(filter: &Jwt, exchange: &mut testing::Exchange) -> String {
    let verdict = exchange.request_head(filter);
    let word = exchange.attribute("jwt").expect("it is always there").to_owned();
    match verdict {
        RequestVerdict::Proceed => word,
        RequestVerdict::Reply(reply) => format!("{} {word}", reply.status),
        RequestVerdict::ReadBody { .. } => panic!("no body is of interest"),
    }
}

#[test]
fn good_tokens_pass_and_go_no_further() {
    let filter = jwt();
    for (name, token) in &MADE.valid {
        let mut exchange = bearer(token).with_header("accept", "*/*");
        assert_eq!(outcome(&filter, &mut exchange), "valid", "{name}");
        assert_eq!(exchange.request.header("authorization"), None, "{name}");
        assert_eq!(exchange.request.header("accept"), Some("*/*"), "{name}");
    }
}

#[test]
fn bad_tokens_are_refused_for_their_reason() {
    let filter = jwt();
    let mut count = 0;
    for (word, tokens) in &MADE.invalid {
        for (name, token) in tokens {
            let mut exchange = bearer(token);
            assert_eq!(outcome(&filter, &mut exchange), format!("401 {word}"), "{name}");
            count += 1;
        }
    }
    assert!(count > 100, "{count} forgeries");
}

#[test]
fn bad_tokens_are_refused_also_where_none_is_asked_for() {
    let filter = filter(json!({ "optional": true }));
    for (word, tokens) in &MADE.invalid {
        for (name, token) in tokens {
            assert_eq!(outcome(&filter, &mut bearer(token)), format!("401 {word}"), "{name}");
        }
    }
    assert_eq!(outcome(&filter, &mut testing::Exchange::get("/")), "none");
    assert_eq!(outcome(&filter, &mut bearer(valid("ES256"))), "valid");
}

/// Every one of the bits, the ends of the parts included: none is without a meaning.
#[test]
fn a_token_with_any_letter_changed_is_refused() {
    for name in ["HS256", "EdDSA"] {
        let allowed = if name == "HS256" {
            json!({ "algorithms": [name] })
        } else {
            json!({ "algorithms": [name], "secrets": [] })
        };
        let filter = filter(allowed);
        let token = valid(name);
        for index in 0..token.len() {
            let mut changed = token.as_bytes().to_vec();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            let outcome = outcome(&filter, &mut bearer(&changed));
            assert!(outcome.starts_with("401 "), "{name}, letter {index}: {outcome}");
        }
        for end in 0..token.len() {
            let outcome = outcome(&filter, &mut bearer(&token[..end]));
            assert!(outcome.starts_with("401 "), "{name}, cut at {end}: {outcome}");
        }
    }
}

#[test]
fn only_allowed_algorithms_are_used() {
    let all = ["RS256", "PS256", "ES256", "ES384", "EdDSA", "HS256"];
    for allowed in all {
        let secrets = if allowed == "HS256" {
            json!([{ "secret": MADE.secret }])
        } else {
            json!([])
        };
        let filter = filter(json!({ "algorithms": [allowed], "secrets": secrets }));
        for algorithm in all {
            let expected = if algorithm == allowed { "valid" } else { "401 algorithm" };
            assert_eq!(
                outcome(&filter, &mut bearer(valid(algorithm))),
                expected,
                "{algorithm} with {allowed}"
            );
        }
    }
}

/// RFC 7515 appendices A.1, A.2, A.3 and A.5, whose keys have no names.
#[test]
fn the_vectors_of_rfc_7515() {
    const PAYLOAD: &str =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let filter: Jwt = testing::configure(json!({
        "algorithms": ["HS256", "RS256", "ES256"],
        "secrets": [{
            "secret": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
            "encoding": "base64url",
        }],
        "jwks": { "keys": [
            { "kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4q\
                PCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHS\
                XndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvU\
                K-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ" },
            { "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
              "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" },
        ] },
    }))
    .unwrap();
    let cases = [
        (
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            "valid",
        ),
        (
            "eyJhbGciOiJSUzI1NiJ9",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9C\
             UAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn\
             6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrB\
             p0igcN_IoypGlUPQGe77Rw",
            "valid",
        ),
        (
            "eyJhbGciOiJFUzI1NiJ9",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            "valid",
        ),
        ("eyJhbGciOiJub25lIn0", "", "401 algorithm"),
    ];
    for (header, signature, expected) in cases {
        let mut exchange = bearer(&format!("{header}.{PAYLOAD}.{signature}"));
        exchange.proxy.set_now_ms(1_300_819_379_000);
        assert_eq!(outcome(&filter, &mut exchange), expected, "{header}");
        exchange.proxy.set_now_ms(1_300_819_380_000 + 30_000);
        let late = outcome(
            &filter,
            &mut exchange
                .proxy
                .get("/")
                .with_header("authorization", format!("Bearer {header}.{PAYLOAD}.{signature}")),
        );
        assert_eq!(late, expected.replace("valid", "401 expired"), "{header}");
    }
}

/// RFC 8037 appendix A.4, whose payload is no JSON.
#[test]
fn the_vector_of_rfc_8037() {
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    let Read::Key(key) = Key::from_jwk(jwk.as_object().unwrap(), &[Algorithm::EdDsa]) else {
        panic!("it is a good key")
    };
    let signed = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let signature = base64::decode(signature).unwrap();
    assert!(key.verify(Algorithm::EdDsa, signed, &signature));
    assert!(!key.verify(Algorithm::EdDsa, &signed[1..], &signature));
    assert!(
        !key.verify(Algorithm::Ed25519, signed, &signature),
        "it was not allowed"
    );
}

#[test]
fn a_request_carries_one_token_in_one_place() {
    let (token, other) = (valid("ES256"), valid("EdDSA"));
    let get = testing::Exchange::get;
    let header = |name: &str, value: String| get("/").with_header(name, value);
    let authorization = |value: String| header("authorization", value);
    let cases = [
        (json!({}), get("/"), "401 missing"),
        (json!({}), authorization(format!("Basic {token}")), "401 missing"),
        (json!({}), authorization(token.to_owned()), "401 missing"),
        (json!({}), authorization(String::new()), "401 missing"),
        (json!({}), authorization(format!("bEARER   {token}")), "valid"),
        (json!({}), authorization("Bearer".to_owned()), "401 malformed"),
        (json!({}), authorization("Bearer ".to_owned()), "401 malformed"),
        (json!({}), authorization("Bearer \u{e9}".to_owned()), "401 malformed"),
        (json!({}), authorization(format!("Bearer\t{token}")), "401 missing"),
        (
            json!({}),
            bearer(token).with_header("Authorization", format!("Bearer {other}")),
            "400 repeated",
        ),
        (
            json!({}),
            bearer(token).with_header("authorization", format!("Bearer {token}")),
            "400 repeated",
        ),
        (
            json!({}),
            bearer(token).with_header("authorization", "Basic eDp5"),
            "400 repeated",
        ),
        (json!({}), get(&format!("/?access_token={token}")), "401 missing"),
        (
            json!({ "token": { "header": "X-Token" } }),
            header("x-token", token.to_owned()),
            "valid",
        ),
        (
            json!({ "token": { "header": "X-Token" } }),
            header("x-token", format!("Bearer {token}")),
            "401 malformed",
        ),
        (
            json!({ "token": { "header": "x-token" } }),
            bearer(token),
            "401 missing",
        ),
        (
            json!({ "token": { "header": "x-token", "scheme": "JWT" } }),
            header("x-token", format!("jwt {token}")),
            "valid",
        ),
        (
            json!({ "token": { "cookie": "session" } }),
            header("cookie", format!("a=1; session={token} ;b=2")),
            "valid",
        ),
        (
            json!({ "token": { "cookie": "session" } }),
            header("cookie", format!("Session={token}")),
            "401 missing",
        ),
        (
            json!({ "token": { "cookie": "session" } }),
            header("cookie", format!("xsession={token}")),
            "401 missing",
        ),
        (
            json!({ "token": { "cookie": "session" } }),
            header("cookie", format!("session=\"{token}\"")),
            "401 malformed",
        ),
        (
            json!({ "token": { "cookie": "session" } }),
            header("cookie", format!("session={token}")).with_header("cookie", "session=x"),
            "400 repeated",
        ),
        (
            json!({ "token": { "query": "access_token" } }),
            get(&format!("/?a=1&access_token={token}&b")),
            "valid",
        ),
        (
            json!({ "token": { "query": "access_token" } }),
            get(&format!("/?access%5Ftoken={token}")),
            "valid",
        ),
        (
            json!({ "token": { "query": "access_token" } }),
            get("/?access_token"),
            "401 malformed",
        ),
        (
            json!({ "token": { "query": "access_token" } }),
            get(&format!("/?access_token={token}&access%5ftoken={other}")),
            "400 repeated",
        ),
        (json!({ "token": { "query": "access_token" } }), get("/"), "401 missing"),
        (json!({ "token": { "max_bytes": token.len() } }), bearer(token), "valid"),
        (
            json!({ "token": { "max_bytes": token.len() - 1 } }),
            bearer(token),
            "401 too-long",
        ),
        (json!({}), bearer(&"A".repeat(8193)), "401 too-long"),
        (json!({}), bearer(&"A".repeat(8192)), "401 malformed"),
    ];
    for (index, (more, mut exchange, expected)) in cases.into_iter().enumerate() {
        assert_eq!(
            outcome(&filter(more.clone()), &mut exchange),
            expected,
            "case {index}: {more}"
        );
    }
}

#[test]
fn the_rest_of_what_held_the_token_stays() {
    let token = valid("ES256");
    let cookie = json!({ "token": { "cookie": "session" } });
    let cases = [
        (format!("session={token}"), None),
        (format!("a=1; session={token}; b=2"), Some("a=1; b=2")),
        (
            format!("session={token};a=\"x y\"; novalue"),
            Some("a=\"x y\"; novalue"),
        ),
    ];
    for (sent, left) in cases {
        let mut exchange = testing::Exchange::get("/").with_header("cookie", &sent);
        assert_eq!(outcome(&filter(cookie.clone()), &mut exchange), "valid");
        assert_eq!(exchange.request.header("cookie"), left, "{sent}");
    }
    let query = json!({ "token": { "query": "jwt" } });
    let cases = [
        (format!("/?jwt={token}"), None),
        (format!("/?a=%20&jwt={token}&&b"), Some("a=%20&&b")),
        (format!("/?%6Awt={token}&jwt2=x"), Some("jwt2=x")),
    ];
    for (target, left) in cases {
        let mut exchange = testing::Exchange::get(&target);
        assert_eq!(outcome(&filter(query.clone()), &mut exchange), "valid");
        assert_eq!(exchange.request.query.as_deref(), left, "{target}");
    }
    for place in [
        json!({ "keep": true }),
        json!({ "cookie": "s", "keep": true }),
        json!({ "query": "q", "keep": true }),
    ] {
        let filter = filter(json!({ "token": place }));
        let mut exchange = testing::Exchange::get(&format!("/?q={token}"))
            .with_header("authorization", format!("Bearer {token}"))
            .with_header("cookie", format!("s={token}"));
        let before = exchange.request.clone();
        assert_eq!(outcome(&filter, &mut exchange), "valid");
        assert_eq!(exchange.request, before);
    }
}

#[test]
fn claims_go_on_as_fields_and_attributes() {
    let filter = filter(json!({
        "claim_headers": {
            "x-user": "sub", "x-level": "level", "x-big": "big", "x-staff": "staff", "x-name": "name", "x-empty": "empty",
            "x-roles": ["realm_access", "roles"], "x-none": "nothing", "x-absent": ["realm_access", "absent", "too"],
        },
        "claim_attributes": { "user": "sub", "roles": ["realm_access", "roles"], "absent": "absent" },
    }));
    let mut exchange = bearer(other("roles"));
    for name in ["x-user", "X-User", "x_user", "X_Roles", "x-absent", "x-none", "x-userx"] {
        exchange = exchange.with_header(name, "mallory");
    }
    assert_eq!(outcome(&filter, &mut exchange), "valid");
    let mut fields: Vec<String> = exchange
        .request
        .headers
        .iter()
        .map(|field| format!("{}: {}", field.name, field.value.to_str().unwrap()))
        .collect();
    fields.sort_unstable();
    let expected = [
        "x-big: 18446744073709551615",
        "x-empty: ",
        "x-level: 3",
        "x-name: J\u{fc}rgen",
        "x-roles: admin,audit",
        "x-staff: true",
        "x-user: alice",
        "x-userx: mallory",
    ];
    assert_eq!(fields, expected);
    assert_eq!(exchange.attribute("user"), Some("alice"));
    assert_eq!(exchange.attribute("roles"), Some("admin,audit"));
    assert_eq!(exchange.attribute("absent"), None);
}

#[test]
fn fields_of_claims_are_only_the_filters_to_write() {
    let filter = filter(json!({ "optional": true, "claim_headers": { "x-user": "sub" } }));
    let mut exchange = testing::Exchange::get("/")
        .with_header("x-user", "root")
        .with_header("X_USER", "root");
    assert_eq!(outcome(&filter, &mut exchange), "none");
    assert!(exchange.request.headers.is_empty(), "{:?}", exchange.request.headers);
}

#[test]
fn a_claim_that_would_arrive_as_another_refuses_the_token() {
    for claim in ["lines", "spaced", "commas", "nested", "long", "tab"] {
        for place in ["claim_headers", "claim_attributes"] {
            let filter = filter(json!({ place: { "x-claim": claim } }));
            let mut exchange = bearer(other("roles")).with_header("x-claim", "sent");
            assert_eq!(outcome(&filter, &mut exchange), "401 claim", "{claim} in {place}");
            assert_eq!(exchange.attribute("x-claim"), None);
        }
    }
}

#[test]
fn claims_scopes_and_types_must_be_those_asked_for() {
    let require = |claim: Value, values: Value| json!({ "require": [{ "claim": claim, "values": values }] });
    let scopes = |scopes: Value, claim: Value| json!({ "scopes": scopes, "scope_claim": claim });
    let roles = json!(["realm_access", "roles"]);
    let cases = [
        (
            require(json!("email"), json!(["b@example.com", "a@example.com"])),
            "roles",
            "valid",
        ),
        (require(json!("email"), json!([])), "roles", "valid"),
        (
            require(json!("email"), json!(["a@example.co"])),
            "roles",
            "403 insufficient",
        ),
        (require(json!("absent"), json!([])), "roles", "403 insufficient"),
        (require(json!("staff"), json!([true])), "roles", "valid"),
        (require(json!("staff"), json!(["true"])), "roles", "403 insufficient"),
        (require(json!("level"), json!([3])), "roles", "valid"),
        (require(roles.clone(), json!(["admin"])), "roles", "valid"),
        (require(roles.clone(), json!(["adm"])), "roles", "403 insufficient"),
        (
            require(json!("realm_access.roles"), json!(["admin"])),
            "roles",
            "403 insufficient",
        ),
        (json!({ "scopes": ["read"] }), "roles", "valid"),
        (json!({ "scopes": ["write", "read"] }), "roles", "valid"),
        (json!({ "scopes": ["read", "admin"] }), "roles", "403 insufficient"),
        (json!({ "scopes": ["rea"] }), "roles", "403 insufficient"),
        (json!({ "scopes": ["read"] }), "at+jwt", "403 insufficient"),
        (scopes(json!(["read"]), json!("scp")), "roles", "valid"),
        (
            scopes(json!(["read", "admin"]), json!("scp")),
            "roles",
            "403 insufficient",
        ),
        (scopes(json!(["admin"]), roles), "roles", "valid"),
        (scopes(json!(["3"]), json!("level")), "roles", "403 insufficient"),
        (json!({ "typ": ["at+jwt"] }), "at+jwt", "valid"),
        (json!({ "typ": ["at+jwt"] }), "application/at+JWT", "valid"),
        (json!({ "typ": ["application/AT+jwt", "x"] }), "at+jwt", "valid"),
        (json!({ "typ": ["at+jwt"] }), "roles", "401 type"),
        (json!({ "aud": null }), "without aud", "valid"),
        (json!({ "aud": null }), "roles", "401 audience"),
        (json!({ "iss": null }), "roles", "valid"),
        (json!({ "require_exp": false }), "without exp", "valid"),
        (json!({ "max_lifetime": "61m" }), "roles", "valid"),
        (json!({ "max_lifetime": "60m" }), "roles", "401 lifetime"),
        (json!({ "max_lifetime": "24h" }), "for ten years", "401 lifetime"),
        (json!({ "max_lifetime": "24h" }), "without iat", "401 lifetime"),
        (
            json!({ "max_lifetime": "24h", "require_exp": false }),
            "without exp",
            "401 lifetime",
        ),
        (json!({}), "for ten years", "valid"),
        (json!({}), "without iat", "valid"),
    ];
    for (more, token, expected) in cases {
        assert_eq!(
            outcome(&filter(more.clone()), &mut bearer(other(token))),
            expected,
            "{token} with {more}"
        );
    }
    let strict = filter(json!({ "clock_skew": "0s" }));
    let at = |milliseconds: u64| {
        let mut exchange = bearer(valid("times with fractions"));
        exchange.proxy.set_now_ms(1_735_689_600_000 + milliseconds);
        outcome(&strict, &mut exchange)
    };
    assert_eq!(
        (at(0), at(499), at(500)),
        ("valid".into(), "valid".into(), "401 expired".into())
    );
}

#[test]
fn replies_are_fixed_words() {
    let reply = |more: Value, mut exchange: testing::Exchange| {
        let RequestVerdict::Reply(reply) = exchange.request_head(&filter(more)) else {
            panic!("it went on")
        };
        let fields: Vec<String> = reply
            .headers
            .iter()
            .map(|field| format!("{}: {}", field.name, field.value.to_str().unwrap()))
            .collect();
        (reply.status, fields.join("\n"), String::from_utf8(reply.body).unwrap())
    };
    let json = "content-type: application/json";
    let missing = reply(json!({}), testing::Exchange::get("/"));
    let expected = format!("www-authenticate: Bearer\n{json}");
    assert_eq!(
        missing,
        (401, expected, "{\"error\":\"a token is missing\"}\n".to_owned())
    );
    let missing = reply(json!({ "realm": "the api" }), testing::Exchange::get("/"));
    assert_eq!(missing.1, format!("www-authenticate: Bearer realm=\"the api\"\n{json}"));

    let expired = reply(json!({ "realm": "api" }), bearer(&MADE.invalid["expired"]["expired"]));
    let challenge = "Bearer realm=\"api\", error=\"invalid_token\", error_description=\"the token has expired\"";
    assert_eq!(expired.1, format!("www-authenticate: {challenge}\n{json}"));
    assert_eq!(expired.2, "{\"error\":\"the token has expired\"}\n");

    let scopeless = reply(json!({ "scopes": ["top-secret"] }), bearer(valid("RS256")));
    let challenge = "Bearer error=\"insufficient_scope\", error_description=\"the token does not suffice\"";
    assert_eq!(
        (scopeless.0, scopeless.1),
        (403, format!("www-authenticate: {challenge}\n{json}"))
    );

    let twice = reply(json!({}), bearer("a").with_header("authorization", "Bearer b"));
    let challenge = "Bearer error=\"invalid_request\", error_description=\"more than one token\"";
    assert_eq!(
        (twice.0, twice.1),
        (400, format!("www-authenticate: {challenge}\n{json}"))
    );

    for tokens in MADE.invalid.values() {
        for token in tokens.values().filter(|token| token.len() > 12) {
            let (_, fields, body) = reply(json!({}), bearer(token));
            assert!(
                !fields.contains(&token[..12]) && !body.contains(&token[..12]),
                "{fields}\n{body}"
            );
        }
    }
}

/// A key set as a text, as `file:` brings it, and secrets in each of their spellings.
#[test]
fn keys_can_be_written_in_several_ways() {
    let set = filter(json!({ "jwks": MADE.jwks.to_string() }));
    assert_eq!(outcome(&set, &mut bearer(valid("RS256"))), "valid");
    assert_eq!(MADE.secret.len(), 64, "the secret is as long as HS512 asks for");
    for alg in [json!("HS512"), json!(null)] {
        let secrets = json!([{ "secret": "x".repeat(64) }, { "secret": MADE.secret, "alg": alg }]);
        let filter = filter(json!({ "algorithms": ["HS256", "HS512"], "secrets": secrets }));
        assert_eq!(outcome(&filter, &mut bearer(valid("HS512"))), "valid");
        let expected = if alg.is_null() { "valid" } else { "401 signature" };
        assert_eq!(outcome(&filter, &mut bearer(valid("HS256"))), expected);
    }
}

/// A token without a `kid` costs no more than two verifications.
#[test]
fn few_keys_are_tried_for_a_token() {
    let secrets = |before: usize| {
        let mut secrets = vec![json!({ "secret": "x".repeat(32) }); before];
        secrets.push(json!({ "secret": MADE.secret }));
        json!({ "algorithms": ["HS256"], "secrets": secrets })
    };
    assert_eq!(outcome(&filter(secrets(1)), &mut bearer(valid("HS256"))), "valid");
    assert_eq!(
        outcome(&filter(secrets(2)), &mut bearer(valid("HS256"))),
        "401 signature"
    );
}

#[test]
fn configurations_are_refused_with_the_reason() {
    let jwks = |key: Value| json!({ "algorithms": ["RS256", "ES256", "EdDSA", "HS256"], "jwks": { "keys": [key] } });
    let secrets = |secret: Value| json!({ "algorithms": ["HS256"], "secrets": [secret] });
    let fetched = |more: Value| {
        let mut config = json!({ "cluster": "issuer", "path": "/keys" });
        extend(&mut config, more);
        json!({ "algorithms": ["RS256"], "secrets": [], "jwks": config })
    };
    let mut rsa = MADE.next_key.clone();
    extend(&mut rsa, json!({ "n": "AQAB" }));
    let x = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    let cases = [
        (json!({ "algorithms": null }), "missing field `algorithms`"),
        (json!({ "algorithms": [] }), "algorithms: there is none"),
        (
            json!({ "algorithms": ["none"] }),
            "algorithms[0]: unknown variant `none`",
        ),
        (
            json!({ "algorithms": ["RS256"], "jwks": null, "secrets": [] }),
            "algorithms: there is no key for RS256",
        ),
        (
            json!({ "algorithms": ["RS256", "HS256"], "secrets": [] }),
            "algorithms: there is no key for HS256",
        ),
        (json!({ "algorithm": "RS256" }), "algorithm: unknown field `algorithm`"),
        (json!({ "jwks": 1 }), "jwks: a key set with its `keys`"),
        (json!({ "jwks": "{}" }), "jwks: its `keys` is not a list"),
        (json!({ "jwks": "nonsense" }), "jwks: not a JSON object"),
        (
            json!({ "jwks": "{\"keys\":[],\"keys\":[]}" }),
            "jwks: not a JSON object whose members stand once each",
        ),
        (
            jwks(MADE.small_key.clone()),
            "jwks: keys[0]: an RSA key of fewer than 2048 bits",
        ),
        (jwks(rsa), "jwks: keys[0]: an RSA key of fewer than 2048 bits"),
        (
            jwks(json!({ "kty": "RSA", "n": "_".repeat(1368), "e": "AQAB" })),
            "jwks: keys[0]: not an RSA key of 2048 to 4096",
        ),
        (
            jwks(json!({ "kty": "RSA", "n": "_".repeat(342), "e": "AQ" })),
            "jwks: keys[0]: ",
        ),
        (
            jwks(json!({ "kty": "RSA", "e": "AQAB" })),
            "jwks: keys[0]: a part of its key is missing",
        ),
        (
            jwks(json!({ "kty": "RSA", "n": "a=", "e": "AQAB" })),
            "jwks: keys[0]: a part of its key is not base64url",
        ),
        (
            jwks(json!({ "kty": "EC", "crv": "P-256", "x": x, "y": x })),
            "jwks: keys[0]: not a point of its curve",
        ),
        (
            jwks(json!({ "kty": "EC", "crv": "P-256", "x": "AQAB", "y": x })),
            "jwks: keys[0]: a coordinate is not of",
        ),
        (
            jwks(json!({ "kty": "OKP", "crv": "Ed25519", "x": "AQAB" })),
            "jwks: keys[0]: `x` is not of 32 bytes",
        ),
        (
            jwks(json!({ "kty": "OKP", "crv": "Ed25519", "x": format!("AQ{}", "A".repeat(41)) })),
            "jwks: keys[0]: a weak key",
        ),
        (
            jwks(json!({ "kty": "oct", "k": MADE.secret })),
            "jwks: keys[0]: a secret has no place in a key set",
        ),
        (jwks(json!({ "kid": "x" })), "jwks: keys[0]: `kty` is missing"),
        (jwks(json!("x")), "jwks: keys[0]: not an object"),
        (
            secrets(json!({ "secret": "x".repeat(31) })),
            "secrets[0]: 31 bytes; its algorithms ask for 32 at least",
        ),
        (
            secrets(json!({ "secret": "x" , "encoding": "base64url" })),
            "secrets[0]: not of its `encoding`",
        ),
        (
            secrets(json!({ "secret": "_w", "encoding": "base64" })),
            "secrets[0]: not of its `encoding`",
        ),
        (
            secrets(json!({ "secret": "x".repeat(64), "alg": "HS512" })),
            "secrets[0]: `algorithms` allows none",
        ),
        (
            secrets(json!({ "secret": "x", "hex": true })),
            "secrets[0].hex: unknown field `hex`",
        ),
        (
            fetched(json!({ "path": "keys" })),
            "jwks: path `keys` must start with `/`",
        ),
        (fetched(json!({ "path": null })), "jwks: missing field `path`"),
        (
            fetched(json!({ "refresh": "25h" })),
            "jwks: refresh: 90000s is out of bounds",
        ),
        (
            fetched(json!({ "refresh": "10s" })),
            "jwks: min_refresh: 30s is out of bounds; choose 1s to 10s",
        ),
        (
            fetched(json!({ "min_refresh": "0s" })),
            "jwks: min_refresh: 0ns is out of bounds",
        ),
        (
            fetched(json!({ "stale": 3 })),
            "jwks: invalid type: integer `3`, expected a duration",
        ),
        (json!({ "clock_skew": "11m" }), "clock_skew: 660s is out of bounds"),
        (
            json!({ "clock_skew": "1 s" }),
            "clock_skew: invalid value: string \"1 s\", expected a duration",
        ),
        (json!({ "max_lifetime": "0s" }), "max_lifetime: 0ns is out of bounds"),
        (json!({ "scopes": ["a b"] }), "scopes[0] `a b`: a scope is one word"),
        (
            json!({ "require": [{ "claim": [] }] }),
            "require[0]: a claim's name is empty",
        ),
        (
            json!({ "require": [{ "claim": 1 }] }),
            "require[0].claim: a claim's name, or a list of names",
        ),
        (
            json!({ "token": { "cookie": "a", "query": "b" } }),
            "token: one of `header`, `cookie` and `query`",
        ),
        (json!({ "token": { "cookie": "a b" } }), "token.cookie `a b`: "),
        (json!({ "token": { "query": "a%5f" } }), "token.query `a%5f`: "),
        (
            json!({ "token": { "query": "a", "scheme": "b" } }),
            "token.scheme: only a header has one",
        ),
        (json!({ "token": { "header": "te" } }), "token.header `te`: "),
        (json!({ "token": { "scheme": "a b" } }), "token.scheme `a b`: "),
        (
            json!({ "token": { "max_bytes": 0 } }),
            "token.max_bytes: choose 1 to 65536",
        ),
        (json!({ "realm": "a\"b" }), "realm `a\"b`: "),
        (json!({ "claim_headers": { "host": "sub" } }), "claim_headers `host`: "),
        (
            json!({ "claim_headers": { "Authorization": "sub" } }),
            "claim_headers `Authorization`: the token comes in it",
        ),
        (
            json!({ "claim_headers": { "x": "" } }),
            "claim_headers `x`: a claim's name is empty",
        ),
        (
            json!({ "claim_attributes": { "": "sub" } }),
            "claim_attributes: at most 16, each with a name",
        ),
    ];
    for (more, reason) in cases {
        let refusal = testing::configure::<Jwt>(config(more.clone()))
            .err()
            .unwrap_or_default();
        assert!(
            refusal.starts_with(reason),
            "{more}: {refusal:?} does not start with {reason:?}"
        );
    }
}

/// A filter whose keys come from the cluster `issuer`, which answers with `body`, and a count of the fetches.
struct Issuer {
    proxy: Proxy,
    filter: Jwt,
    fetches: Rc<Cell<u32>>,
    answer: Rc<std::cell::RefCell<Result<Reply, CallError>>>,
}

fn issuer() -> Issuer {
    let proxy = Proxy::new();
    let fetches = Rc::new(Cell::new(0));
    let answer = Rc::new(std::cell::RefCell::new(Ok(set(&MADE.jwks))));
    let (count, prepared) = (Rc::clone(&fetches), Rc::clone(&answer));
    proxy.on_call("issuer", move |call| {
        assert_eq!((call.method.as_str(), call.target.as_str()), ("GET", "/keys"));
        count.set(count.get() + 1);
        prepared.borrow().clone()
    });
    let filter = fetching(&proxy);
    Issuer {
        proxy,
        filter,
        fetches,
        answer,
    }
}

fn fetching(proxy: &Proxy) -> Jwt {
    let config = config(json!({ "jwks": { "cluster": "issuer", "path": "/keys" }, "clock_skew": "10m" }));
    proxy.configure(config).unwrap()
}

fn set(jwks: &Value) -> Reply {
    Reply::new(200).json(jwks)
}

impl Issuer {
    fn ask(&self, token: &str) -> String {
        let exchange = self
            .proxy
            .get("/")
            .with_header("authorization", format!("Bearer {token}"));
        outcome(&self.filter, &mut { exchange })
    }

    fn fails(&self, error: CallError) {
        *self.answer.borrow_mut() = Err(error);
    }

    fn answers(&self, reply: Reply) {
        *self.answer.borrow_mut() = Ok(reply);
    }

    fn pass(&self, seconds: u64) {
        // The time of day stays, so that no token expires.
        let now_ms = self.proxy.now_ms();
        self.proxy.advance(SECOND * u32::try_from(seconds).unwrap());
        self.proxy.set_now_ms(now_ms);
    }
}

#[test]
fn keys_are_fetched_once_for_all_instances_until_they_are_old() {
    let issuer = issuer();
    for name in ["RS256", "ES256", "EdDSA", "RS256"] {
        assert_eq!(issuer.ask(valid(name)), "valid");
    }
    let instance = fetching(&issuer.proxy);
    let mut exchange = issuer
        .proxy
        .get("/")
        .with_header("authorization", format!("Bearer {}", valid("ES384")));
    assert_eq!(outcome(&instance, &mut exchange), "valid");
    assert_eq!(issuer.fetches.get(), 1);
    issuer.pass(599);
    assert_eq!((issuer.ask(valid("RS256")), issuer.fetches.get()), ("valid".into(), 1));
    issuer.pass(1);
    assert_eq!((issuer.ask(valid("RS256")), issuer.fetches.get()), ("valid".into(), 2));
    issuer.proxy.forget();
    assert_eq!((issuer.ask(valid("RS256")), issuer.fetches.get()), ("valid".into(), 3));
}

#[test]
fn forgeries_fetch_nothing() {
    let issuer = issuer();
    assert_eq!(issuer.ask(valid("RS256")), "valid");
    for word in ["algorithm", "malformed", "signature"] {
        for (name, token) in &MADE.invalid[word] {
            assert_eq!(issuer.ask(token), format!("401 {word}"), "{name}");
        }
    }
    assert_eq!(issuer.fetches.get(), 1);
}

#[test]
fn secrets_are_not_fetched_and_public_keys_are_no_secrets() {
    let issuer = issuer();
    issuer.answers(set(
        &json!({ "keys": [{ "kty": "oct", "kid": "x", "k": "A".repeat(86) }] }),
    ));
    assert_eq!(issuer.ask(valid("HS256")), "valid");
    assert_eq!(
        issuer.fetches.get(),
        0,
        "a secret's algorithm has nothing to do with the issuer"
    );
    assert_eq!(issuer.ask(valid("RS256")), "401 unknown-key");
    assert!(
        issuer.proxy.log()[0].1.contains("a secret has no place in a key set"),
        "{:?}",
        issuer.proxy.log()
    );
}

#[test]
fn an_unknown_kid_fetches_at_most_once_in_its_time() {
    let issuer = issuer();
    assert_eq!(issuer.ask(valid("RS256")), "valid");
    // The fetch was just now.
    assert_eq!(
        (issuer.ask(other("next")), issuer.fetches.get()),
        ("401 unknown-key".into(), 1)
    );
    issuer.pass(30);
    for _ in 0..20 {
        assert_eq!(issuer.ask(other("next")), "401 unknown-key");
        assert_eq!(
            issuer.ask(&MADE.invalid["unknown-key"]["kid unknown"]),
            "401 unknown-key"
        );
    }
    assert_eq!(issuer.fetches.get(), 2);

    // The issuer begins to use a new key, and drops the others.
    issuer.answers(set(&json!({ "keys": [MADE.next_key] })));
    issuer.pass(29);
    assert_eq!(
        (issuer.ask(other("next")), issuer.fetches.get()),
        ("401 unknown-key".into(), 2)
    );
    issuer.pass(1);
    assert_eq!((issuer.ask(other("next")), issuer.fetches.get()), ("valid".into(), 3));
    assert_eq!(
        (issuer.ask(valid("RS256")), issuer.fetches.get()),
        ("401 unknown-key".into(), 3)
    );
}

#[test]
fn old_keys_serve_while_fetching_fails_but_not_for_ever() {
    let failures: [Result<Reply, CallError>; 5] = [
        Err(CallError::Unreachable),
        Ok(Reply::new(500)),
        Ok(Reply::new(200).body("<html>")),
        Ok(Reply::new(200).body("{\"keys\":1}")),
        Ok(Reply::new(200).body(vec![b' '; (256 << 10) + 1])),
    ];
    for failure in failures {
        let issuer = issuer();
        assert_eq!(issuer.ask(valid("RS256")), "valid");
        *issuer.answer.borrow_mut() = failure;
        issuer.pass(600);
        for _ in 0..10 {
            assert_eq!(issuer.ask(valid("RS256")), "valid");
        }
        assert_eq!(issuer.fetches.get(), 2, "a fetch that failed is not repeated at once");
        // Forged kids are no reason to, either.
        assert_eq!(
            (issuer.ask(other("next")), issuer.fetches.get()),
            ("401 unknown-key".into(), 2)
        );
        issuer.pass(30);
        assert_eq!((issuer.ask(valid("RS256")), issuer.fetches.get()), ("valid".into(), 3));
        assert_eq!(issuer.proxy.log().len(), 2, "{:?}", issuer.proxy.log());
        issuer.pass(3600);
        assert_eq!(issuer.ask(valid("RS256")), "503 no-keys");
    }
}

#[test]
fn without_keys_requests_are_put_off_and_the_issuer_is_not_flooded() {
    let issuer = issuer();
    issuer.fails(CallError::TimedOut);
    for _ in 0..10 {
        assert_eq!(issuer.ask(valid("RS256")), "503 no-keys");
    }
    assert_eq!(issuer.fetches.get(), 1);
    issuer.answers(set(&MADE.jwks));
    issuer.pass(1);
    assert_eq!((issuer.ask(valid("RS256")), issuer.fetches.get()), ("valid".into(), 2));

    let mut exchange = issuer.proxy.get("/");
    issuer.proxy.forget();
    issuer.fails(CallError::Broken);
    exchange = exchange.with_header("authorization", format!("Bearer {}", valid("RS256")));
    let RequestVerdict::Reply(reply) = exchange.request_head(&issuer.filter) else {
        panic!("it went on")
    };
    assert_eq!((reply.status, reply.headers.len()), (503, 1));
    assert_eq!(reply.body, b"{\"error\":\"tokens cannot be verified at present\"}\n");
}

#[test]
fn whoever_has_old_keys_does_not_wait_for_anothers_fetch() {
    let fresh = "jwks fresh issuer  /keys";
    let issuer = issuer();
    issuer.proxy.claim_elsewhere(fresh);
    let before_ms = issuer.proxy.now_ms();
    assert_eq!(issuer.ask(valid("RS256")), "503 no-keys");
    assert_eq!((issuer.fetches.get(), issuer.proxy.now_ms() - before_ms), (0, 2000));

    let issuer = self::issuer();
    assert_eq!(issuer.ask(valid("RS256")), "valid");
    issuer.pass(600);
    issuer.proxy.claim_elsewhere(fresh);
    let before_ms = issuer.proxy.now_ms();
    assert_eq!(issuer.ask(valid("RS256")), "valid");
    assert_eq!((issuer.fetches.get(), issuer.proxy.now_ms() - before_ms), (1, 0));
}

#[test]
fn a_tick_fetches_in_the_background() {
    let issuer = issuer();
    // At the start a request may come first, and is fetching.
    issuer.proxy.claim_elsewhere("jwks fresh issuer  /keys");
    let before_ms = issuer.proxy.now_ms();
    issuer.proxy.tick(&issuer.filter);
    assert_eq!((issuer.fetches.get(), issuer.proxy.now_ms() - before_ms), (0, 0));
    let issuer = self::issuer();
    issuer.proxy.tick(&issuer.filter);
    assert_eq!((issuer.ask(valid("RS256")), issuer.fetches.get()), ("valid".into(), 1));
    issuer.proxy.tick(&issuer.filter);
    assert_eq!(issuer.fetches.get(), 1, "not within `min_refresh`");
    for _ in 0..10 {
        issuer.pass(300);
        issuer.proxy.tick(&issuer.filter);
        issuer.pass(299);
        assert_eq!(issuer.ask(valid("RS256")), "valid");
    }
    assert_eq!(issuer.fetches.get(), 11, "no request had to fetch");
    issuer.fails(CallError::Unreachable);
    issuer.proxy.tick(&issuer.filter);
    issuer.pass(300);
    assert_eq!(issuer.ask(valid("RS256")), "valid");
    // There is nothing to fetch.
    testing::Proxy::new().tick(&jwt());
}

#[test]
fn a_fetched_sets_bad_keys_are_left_out() {
    let issuer = issuer();
    let keys = json!([MADE.small_key, "x", { "kid": "x" }, { "kty": "RSA" }, MADE.next_key]);
    issuer.answers(set(&json!({ "keys": keys })));
    assert_eq!(issuer.ask(other("next")), "valid");
    assert_eq!(issuer.ask(other("small")), "401 unknown-key");
    assert_eq!(issuer.proxy.log().len(), 4, "{:?}", issuer.proxy.log());
    // A set without keys is one: the issuer has withdrawn them.
    issuer.pass(600);
    issuer.answers(set(&json!({ "keys": [] })));
    assert_eq!(issuer.ask(other("next")), "401 unknown-key");
}

#[test]
fn it_exports_the_hooks_it_has() {
    let exports = <Jwt as tamis_filter::__Exports>::EXPORTS;
    assert_eq!(exports, ["RequestHead", "Tick"]);
}
