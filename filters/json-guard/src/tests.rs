//! The filter as a whole, on exchanges in memory; and the schema, by what clients are told.

use serde_json::Value as Json;
use tamis_filter::testing::{self, Proxy, json};

use super::*;

fn filter(config: Json) -> JsonGuard {
    testing::configure(config).unwrap()
}

fn post(body: impl Into<Vec<u8>>) -> testing::Exchange {
    testing::Exchange::post("/", body).with_header("content-type", "application/json")
}

/// What an exchange is refused with: status, rule and pointer; none when it goes on.
fn refused(exchange: &mut testing::Exchange, filter: &JsonGuard) -> Option<(u16, String, Option<String>)> {
    let transcript = exchange.run(filter);
    if transcript.request.is_some() {
        return None;
    }
    let response = transcript.response;
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    let problem: Json = serde_json::from_slice(&response.body()).unwrap();
    let text = |key: &str| problem[key].as_str().map(str::to_owned);
    assert_eq!(
        (text("type").as_deref(), problem["status"].as_u64()),
        (Some("about:blank"), Some(response.status.into()))
    );
    assert_eq!(exchange.attribute("json-guard"), text("rule").as_deref());
    Some((response.status, text("rule").unwrap(), text("pointer")))
}

fn is(status: u16, rule: &str, pointer: Option<&str>) -> Option<(u16, String, Option<String>)> {
    Some((status, rule.to_owned(), pointer.map(str::to_owned)))
}

#[test]
fn json_goes_on_as_it_came() {
    let body = " { \"b\" : 1.0, \"a\" : \"\\u0041\" } ";
    let mut exchange = post(&body[..5]).with_body(&body[5..]);
    let request = exchange.run(&filter(json!(null))).request.unwrap();
    assert_eq!(request.body(), body.as_bytes());
}

#[test]
fn a_normal_form_leaves_nothing_to_choose() {
    let normal = filter(json!({ "normalise": true, "duplicate_keys": "last" }));
    let mut exchange = post(" { \"b\" : 1.0, \"a\" : \"\\u0041\\/\", \"b\": [ ] } ")
        .with_header("content-digest", "sha-256=:x:")
        .with_header("x-other", "1");
    let request = exchange.run(&normal).request.unwrap();
    assert_eq!(request.body(), b"{\"a\":\"A/\",\"b\":[]}");
    assert_eq!(
        (request.header("content-digest"), request.header("x-other")),
        (None, Some("1"))
    );
}

#[test]
fn a_reply_tells_the_place_and_the_rule_and_not_the_value() {
    let proxy = Proxy::new();
    let filter = filter(json!({ "schema": { "properties": { "name": { "maxLength": 3 } } } }));
    let exchange = proxy
        .exchange("POST", "/")
        .with_header("content-type", "application/json");
    let response = exchange.with_body("{\"name\":\"secret\"}").run(&filter).response;
    assert_eq!(response.status, 422);
    let body = String::from_utf8(response.body()).unwrap();
    let expected = json!({
        "type": "about:blank", "title": "Unprocessable Content", "status": 422, "rule": "maxLength", "pointer": "/name",
    });
    assert_eq!(serde_json::from_str::<Json>(&body).unwrap(), expected);
    assert!(!body.contains("secret"));
    assert_eq!(proxy.counter("refused{status=\"422\"}"), 1);
}

#[test]
fn bodies_are_refused_by_their_head_and_bytes() {
    let small = || filter(json!({ "max_bytes": 10 }));
    let typed =
        |content_type: &str, body: &str| testing::Exchange::post("/", body).with_header("content-type", content_type);
    let length = |exchange: testing::Exchange| {
        let length = exchange.request.body().len().to_string();
        exchange.with_header("content-length", length)
    };
    let other_type = is(415, "content-type", None);
    let coded = is(415, "content-encoding", None);
    let too_large = is(413, "max_bytes", Some(""));
    let cases = [
        (typed("application/json", "[]"), None),
        (typed("Application/JSON; charset=utf-8", "[]"), None),
        (typed("application/merge-patch+json", "[]"), None),
        (typed("application/json", "[12345678]"), None),
        (typed("application/json", "[123456789]"), too_large.clone()),
        (length(typed("application/json", "[123456789]")), too_large),
        (typed("text/plain", "[]"), other_type.clone()),
        (length(typed("text/plain", "[]")), other_type.clone()),
        (typed("application/jsonp", "[]"), other_type.clone()),
        (testing::Exchange::post("/", "[]"), other_type.clone()),
        (
            typed("application/json", "[]").with_header("content-type", "application/json"),
            other_type,
        ),
        (
            typed("application/json", "[]").with_header("content-encoding", "gzip"),
            coded.clone(),
        ),
        (
            length(typed("application/json", "[]").with_header("content-encoding", "identity, br")),
            coded,
        ),
        (
            typed("application/json", "[]").with_header("content-encoding", "Identity"),
            None,
        ),
        (typed("application/json", "[1,]"), is(400, "syntax", Some("/1"))),
        (
            typed("application/json", "\u{feff}1"),
            is(400, "byte-order-mark", Some("")),
        ),
        (typed("application/json", " "), is(400, "syntax", Some(""))),
    ];
    for (mut exchange, expected) in cases {
        let body = String::from_utf8(exchange.request.body()).unwrap();
        assert_eq!(
            refused(&mut exchange, &small()),
            expected,
            "{body} {:?}",
            exchange.request.headers
        );
    }
    let refusal = typed("text/plain", "[]").run(&small()).response;
    assert_eq!(refusal.header("accept"), Some("application/json"));
    let refusal = post("[]")
        .with_header("content-encoding", "gzip")
        .run(&small())
        .response;
    assert_eq!(refusal.header("accept-encoding"), Some("identity"));
}

#[test]
fn what_is_not_asked_for_passes_unseen() {
    let lenient = filter(json!({ "methods": ["PUT"], "on_other_type": "pass", "max_bytes": 4 }));
    let request = |method: &str, content_type: &str| {
        let exchange = testing::Exchange::new(method, "/").with_header("content-type", content_type);
        exchange.with_body("not json")
    };
    assert_eq!(refused(&mut request("POST", "application/json"), &lenient), None);
    assert_eq!(refused(&mut request("PUT", "text/plain"), &lenient), None);
    let with_length = request("PUT", "text/plain").with_header("content-length", "8");
    assert_eq!({ with_length }.request_head(&lenient), RequestVerdict::Proceed);
    assert_eq!(
        refused(&mut request("PUT", "application/json"), &lenient),
        is(413, "max_bytes", Some(""))
    );
}

#[test]
fn a_missing_body_passes_unless_one_is_required() {
    let bodiless = || testing::Exchange::new("POST", "/");
    assert_eq!(refused(&mut bodiless(), &filter(json!({}))), None);
    assert_eq!(
        refused(&mut bodiless().with_header("content-length", "0"), &filter(json!({}))),
        None
    );
    let required = filter(json!({ "body": "required" }));
    assert_eq!(refused(&mut bodiless(), &required), is(400, "body", Some("")));
    assert_eq!(refused(&mut testing::Exchange::get("/"), &required), None);
}

/// A schema, and bodies with the rule and pointer that they break; none for those that hold.
type SchemaCase<'a> = (Json, &'a [(&'a str, Option<(&'a str, &'a str)>)]);

fn check_schemas(cases: &[SchemaCase]) {
    for (schema, bodies) in cases {
        let filter = filter(json!({ "schema": schema }));
        for (body, expected) in *bodies {
            let expected = expected.and_then(|(rule, pointer)| is(422, rule, Some(pointer)));
            assert_eq!(refused(&mut post(*body), &filter), expected, "{schema} {body}");
        }
    }
}

#[test]
fn schemas_of_single_values() {
    check_schemas(&[
        (json!(true), &[("1", None)]),
        (json!(false), &[("1", Some(("false", "")))]),
        (json!({}), &[("null", None)]),
        (
            json!({ "type": "integer" }),
            &[
                ("1", None),
                ("1.0", None),
                ("1e2", None),
                ("1.5", Some(("type", ""))),
                ("\"1\"", Some(("type", ""))),
            ],
        ),
        (
            json!({ "type": ["null", "boolean", "array"] }),
            &[("null", None), ("true", None), ("[]", None), ("{}", Some(("type", "")))],
        ),
        (
            json!({ "type": ["number", "object", "string"] }),
            &[("1", None), ("{}", None), ("\"\"", None), ("[]", Some(("type", "")))],
        ),
        (
            json!({ "const": { "a": [1, 2.50] } }),
            &[("{\"a\":[1.0,2.5]}", None), ("{\"a\":[1]}", Some(("const", "")))],
        ),
        (
            json!({ "enum": ["a", 1, null] }),
            &[
                ("\"a\"", None),
                ("1.0", None),
                ("null", None),
                ("false", Some(("enum", ""))),
            ],
        ),
        (
            json!({ "minimum": 1, "maximum": 2.5 }),
            &[
                ("1", None),
                ("2.5", None),
                ("0.999", Some(("minimum", ""))),
                ("2.51", Some(("maximum", ""))),
                ("\"\"", None),
            ],
        ),
        (
            json!({ "exclusiveMinimum": -1, "exclusiveMaximum": 1 }),
            &[
                ("0", None),
                ("-1", Some(("exclusiveMinimum", ""))),
                ("1.0", Some(("exclusiveMaximum", ""))),
            ],
        ),
        (
            json!({ "multipleOf": 0.01 }),
            &[("19.99", None), ("0", None), ("19.995", Some(("multipleOf", "")))],
        ),
        (
            json!({ "minLength": 2, "maxLength": 3 }),
            &[
                ("\"\u{1f600}\u{e9}\"", None),
                ("\"a\"", Some(("minLength", ""))),
                ("\"abcd\"", Some(("maxLength", ""))),
                ("1", None),
            ],
        ),
        (
            json!({ "pattern": "b+c" }),
            &[("\"abbcd\"", None), ("\"abd\"", Some(("pattern", ""))), ("1", None)],
        ),
        (
            json!({ "format": "date-time" }),
            &[
                ("\"2024-02-29T00:00:00Z\"", None),
                ("\"2023-02-29T00:00:00Z\"", Some(("format", ""))),
                ("1", None),
            ],
        ),
        (
            json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "t", "default": 1 }),
            &[("[]", None)],
        ),
    ]);
}

#[test]
fn schemas_of_arrays_and_objects() {
    check_schemas(&[
        (
            json!({ "minItems": 1, "maxItems": 2 }),
            &[
                ("[1]", None),
                ("[]", Some(("minItems", ""))),
                ("[1,2,3]", Some(("maxItems", ""))),
                ("{}", None),
            ],
        ),
        (
            json!({ "uniqueItems": true }),
            &[
                ("[1,2,\"1\"]", None),
                ("[1,2,1.0,2]", Some(("uniqueItems", "/2"))),
                ("[{\"a\":1,\"b\":2},{\"b\":2,\"a\":1}]", Some(("uniqueItems", "/1"))),
            ],
        ),
        (json!({ "uniqueItems": false }), &[("[1,1]", None)]),
        (
            json!({ "items": { "type": "string" } }),
            &[("[\"a\"]", None), ("[\"a\",1]", Some(("type", "/1")))],
        ),
        (
            json!({ "prefixItems": [{ "type": "string" }, true], "items": false }),
            &[
                ("[]", None),
                ("[\"a\",1]", None),
                ("[1]", Some(("type", "/0"))),
                ("[\"a\",1,2]", Some(("items", "/2"))),
            ],
        ),
        (
            json!({ "prefixItems": [true, false] }),
            &[("[1]", None), ("[1,2]", Some(("prefixItems", "/1")))],
        ),
        (
            json!({ "required": ["a", "b"] }),
            &[
                ("{\"a\":1,\"b\":2}", None),
                ("{\"a\":1}", Some(("required", ""))),
                ("[]", None),
            ],
        ),
        (
            json!({ "dependentRequired": { "a": ["b"] } }),
            &[
                ("{\"b\":1}", None),
                ("{\"a\":1,\"b\":1}", None),
                ("{\"a\":1}", Some(("dependentRequired", ""))),
            ],
        ),
        (
            json!({ "minProperties": 1, "maxProperties": 1 }),
            &[
                ("{\"a\":1}", None),
                ("{}", Some(("minProperties", ""))),
                ("{\"a\":1,\"b\":1}", Some(("maxProperties", ""))),
            ],
        ),
        (
            json!({ "propertyNames": { "maxLength": 1 } }),
            &[("{\"a\":1}", None), ("{\"ab\":1}", Some(("maxLength", "/ab")))],
        ),
        (
            json!({
                "properties": { "a": { "type": "string" }, "n/~": false },
                "patternProperties": { "^x-": { "type": "number" } },
                "additionalProperties": false,
            }),
            &[
                ("{\"a\":\"\",\"x-1\":1}", None),
                ("{\"a\":1}", Some(("type", "/a"))),
                ("{\"x-1\":\"\"}", Some(("type", "/x-1"))),
                ("{\"b\":1}", Some(("additionalProperties", "/b"))),
                ("{\"n/~\":1}", Some(("properties", "/n~1~0"))),
            ],
        ),
        (
            json!({ "additionalProperties": { "items": { "type": "null" } } }),
            &[("{\"a\":[null]}", None), ("{\"a\":[null,1]}", Some(("type", "/a/1")))],
        ),
        (
            json!({ "patternProperties": { "a": false } }),
            &[
                ("{\"b\":1}", None),
                ("{\"cat\":1}", Some(("patternProperties", "/cat"))),
            ],
        ),
    ]);
}

#[test]
fn schemas_of_schemas() {
    let tree = json!({
        "type": "object",
        "properties": {
            "children": { "type": "array", "items": { "$ref": "#" } },
            "name": { "$ref": "#/$defs/a~1name" },
        },
        "required": ["name"],
        "$defs": { "a/name": { "type": "string" } },
    });
    check_schemas(&[
        (
            json!({ "allOf": [{ "minimum": 1 }, { "maximum": 2 }] }),
            &[("1", None), ("3", Some(("maximum", "")))],
        ),
        (json!({ "allOf": [true, false] }), &[("1", Some(("allOf", "")))]),
        (
            json!({ "anyOf": [{ "type": "string" }, { "minimum": 5 }] }),
            &[("\"\"", None), ("5", None), ("4", Some(("anyOf", "")))],
        ),
        (
            json!({ "oneOf": [{ "multipleOf": 2 }, { "multipleOf": 3 }] }),
            &[
                ("2", None),
                ("3", None),
                ("6", Some(("oneOf", ""))),
                ("5", Some(("oneOf", ""))),
            ],
        ),
        (
            json!({ "not": { "type": "null" } }),
            &[("1", None), ("null", Some(("not", "")))],
        ),
        (
            json!({ "if": { "required": ["a"] }, "then": { "required": ["b"] }, "else": { "maxProperties": 1 } }),
            &[
                ("{\"a\":1,\"b\":1}", None),
                ("{\"a\":1}", Some(("required", ""))),
                ("{\"c\":1}", None),
                ("{\"c\":1,\"d\":1}", Some(("maxProperties", ""))),
            ],
        ),
        (json!({ "if": false, "then": false }), &[("1", None)]),
        (
            tree,
            &[
                ("{\"name\":\"\",\"children\":[{\"name\":\"\",\"children\":[]}]}", None),
                (
                    "{\"name\":\"\",\"children\":[{\"name\":\"\",\"children\":[{}]}]}",
                    Some(("required", "/children/0/children/0")),
                ),
                ("{\"name\":1}", Some(("type", "/name"))),
            ],
        ),
        (
            json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/b" }, "b": false } }),
            &[("1", Some(("$ref", "")))],
        ),
    ]);
}

#[test]
fn a_schema_that_never_ends_with_a_value_is_cut_off() {
    // Each level asks both, so the number of evaluations doubles with the depth.
    let both = json!({
        "anyOf": [{ "$ref": "#/$defs/a" }, { "$ref": "#/$defs/a" }],
        "$defs": { "a": { "type": "array", "items": { "$ref": "#" }, "maxItems": 1, "minItems": 1 } },
    });
    let deep = format!("{}{}", "[".repeat(30), "]".repeat(30));
    let filter_of = |evaluations: u32| filter(json!({ "schema": both, "limits": { "evaluations": evaluations } }));
    assert_eq!(
        refused(&mut post(deep), &filter_of(10_000)),
        is(413, "limits.evaluations", Some(""))
    );
    assert_eq!(
        refused(&mut post("[[]]"), &filter_of(10_000)),
        is(422, "anyOf", Some(""))
    );

    // As deep as schemas may go in one another, on the stack of a test's thread.
    let mut defs = serde_json::Map::new();
    for number in 0..2_000 {
        defs.insert(
            format!("d{number}"),
            json!({ "$ref": format!("#/$defs/d{}", number + 1) }),
        );
    }
    defs.insert("d2000".to_owned(), json!(true));
    let chain = filter(json!({ "schema": { "$ref": "#/$defs/d0", "$defs": defs } }));
    assert_eq!(refused(&mut post("1"), &chain), is(413, "limits.evaluations", Some("")));
}

#[test]
fn configurations_are_refused_with_the_reason() {
    let schema = |schema: Json| json!({ "schema": schema });
    let cases = [
        (json!({ "methods": [] }), "methods: there is none"),
        (json!({ "content_types": [] }), "content_types: there is none"),
        (json!({ "content_types": ["json"] }), "content_types: `json` is neither"),
        (
            json!({ "on_other_type": "skip" }),
            "on_other_type: unknown variant `skip`",
        ),
        (json!({ "max_bytes": 0 }), "max_bytes: 0"),
        (json!({ "limits": { "depth": 129 } }), "limits.depth: 129 is over 128"),
        (
            json!({ "limits": { "number_exponent": 1_000_001 } }),
            "limits.number_exponent: 1000001 is over",
        ),
        (json!({ "limits": { "keys": 1 } }), "limits.keys: unknown field `keys`"),
        (json!({ "duplicate_keys": "last" }), "`last` needs `normalise: true`"),
        (json!({ "strict": true }), "unknown field `strict`"),
        (schema(json!([])), "schema#: a schema is a map, `true` or `false`"),
        (
            schema(json!({ "unevaluatedProperties": false })),
            "schema#: `unevaluatedProperties` is not supported",
        ),
        (
            schema(json!({ "properties": { "a/b": { "contains": true } } })),
            "schema#/properties/a~1b: `contains` is not supported",
        ),
        (schema(json!({ "$id": "x" })), "`$id` is not supported"),
        (
            schema(json!({ "definitions": {} })),
            "`definitions` is `$defs` in draft 2020-12",
        ),
        (
            schema(json!({ "dependencies": {} })),
            "`dependencies` is `dependentRequired`",
        ),
        (
            schema(json!({ "$schema": "http://json-schema.org/draft-07/schema#" })),
            "`$schema` is not `https://json-schema.org/draft/2020-12/schema`",
        ),
        (
            schema(json!({ "type": "int" })),
            "schema#: `type` is none of null, boolean, integer",
        ),
        (schema(json!({ "type": [] })), "`type` is none of"),
        (schema(json!({ "type": ["string", 1, "x"] })), "`type` is none of"),
        (schema(json!({ "enum": [] })), "`enum` is not a list with a value"),
        (schema(json!({ "minimum": "1" })), "`minimum` is not a number"),
        (schema(json!({ "multipleOf": 0 })), "`multipleOf` must be over 0"),
        (schema(json!({ "minLength": -1 })), "`minLength` is not a whole number"),
        (schema(json!({ "minItems": 1.5 })), "`minItems` is not a whole number"),
        (schema(json!({ "pattern": "(" })), "`pattern` `(`: "),
        (schema(json!({ "pattern": "(?=a)" })), "`pattern` `(?=a)`: "),
        (
            schema(json!({ "pattern": "(a{500}){500}" })),
            "`pattern` `(a{500}){500}`: ",
        ),
        (
            schema(json!({ "patternProperties": { "[": true } })),
            "`patternProperties` `[`: ",
        ),
        (
            schema(json!({ "format": "uri" })),
            "`format` is none of date, date-time",
        ),
        (schema(json!({ "items": [true] })), "schema#/items: a schema is a map"),
        (schema(json!({ "prefixItems": [] })), "`prefixItems` is not a list"),
        (
            schema(json!({ "uniqueItems": 1 })),
            "`uniqueItems` is not true or false",
        ),
        (
            schema(json!({ "required": ["a", 1] })),
            "`required` is not a list of strings",
        ),
        (
            schema(json!({ "dependentRequired": { "a": true } })),
            "schema#/dependentRequired: `a` is not a list of strings",
        ),
        (schema(json!({ "properties": [] })), "`properties` is not a map"),
        (schema(json!({ "allOf": [] })), "`allOf` is not a list"),
        (schema(json!({ "then": true })), "`then` or `else` is without `if`"),
        (
            schema(json!({ "$ref": "https://example.org/x" })),
            "`$ref` is not of this schema",
        ),
        (schema(json!({ "$ref": "#name" })), "`$ref` is not of this schema"),
        (
            schema(json!({ "items": { "$ref": "#/$defs/x" } })),
            "schema#/items/$ref: there is no schema at `#/$defs/x`",
        ),
        (schema(json!({ "$ref": "#" })), "schema#: refers to itself"),
        (
            schema(json!({ "$defs": {
                    "a": { "not": { "$ref": "#/$defs/b" } },
                    "b": { "anyOf": [true, { "$ref": "#/$defs/a" }] },
                } })),
            "refers to itself for the same value",
        ),
    ];
    for (config, reason) in cases {
        let refusal = testing::configure::<JsonGuard>(config.clone())
            .err()
            .unwrap_or_default();
        assert!(
            refusal.contains(reason),
            "{config}: {refusal:?} does not say {reason:?}"
        );
    }
}
