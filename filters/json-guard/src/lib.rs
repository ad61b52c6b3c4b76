//! `json-guard`: only well-formed JSON of a schema goes on to the upstream.
//!
//! ```yaml
//! filters:
//!   json-guard:
//!     component: filters/target/components/json-guard.wasm
//!     grants: [metrics]
//!     limits: { body_bytes: 1MiB }
//!     config:
//!       max_bytes: 262144
//!       schema:
//!         type: object
//!         required: [name, price]
//!         additionalProperties: false
//!         properties:
//!           name: { type: string, minLength: 1, maxLength: 80 }
//!           price: { type: number, minimum: 0, multipleOf: 0.01 }
//!           tags: { type: array, maxItems: 10, uniqueItems: true, items: { $ref: "#/$defs/tag" } }
//!         $defs:
//!           tag: { type: string, pattern: "^[a-z]+$" }
//! ```
//!
//! | field | default | meaning |
//! |---|---|---|
//! | `methods` | `[POST, PUT, PATCH]` | requests with other methods pass unseen |
//! | `content_types` | `[application/json, +json]` | what is JSON: `type/subtype`, or `+suffix` |
//! | `on_other_type` | `refuse` | what becomes of a body of another type: `refuse` with 415, or `pass` unseen |
//! | `body` | `optional` | whether a request without a body passes: `optional`, or `required` |
//! | `max_bytes` | 1048576 | bytes of a body; the filter's `limits.body_bytes` bounds it |
//! | `limits.depth` | 32 | arrays and objects in one another; at most 128 |
//! | `limits.members` | 1000 | members of an object |
//! | `limits.items` | 10000 | items of an array |
//! | `limits.string_bytes` | 65536 | bytes of a string or a member's name, without its escapes |
//! | `limits.number_digits` | 40 | digits of a number before its exponent |
//! | `limits.number_exponent` | 308 | a number's exponent, without its sign; at most 1000000 |
//! | `limits.evaluations` | 100000 | how often schemas are applied to values of one body |
//! | `duplicate_keys` | `refuse` | what becomes of an object that has a name twice: `refuse`, or the `last` one stands, which needs `normalise` |
//! | `normalise` | `false` | forward the body in one form, see below |
//! | `schema` | none | a JSON Schema; without it, any JSON will do |
//!
//! # What is JSON
//!
//! RFC 8259 to the letter: UTF-8 without a byte order mark, no `NaN`, no comments or trailing commas, nothing behind
//! the value, and no half pairs of surrogates. A name that is twice in an object is refused by default, as two readers
//! would see two objects.
//!
//! With `normalise` the upstream gets the value as this filter read it, so that no two readings are possible: without
//! space, members by the bytes of their names, strings with the fewest escapes, numbers as they came (to write them
//! anew could change them). Fields with a digest of the body are removed then.
//!
//! # The schema
//!
//! A subset of JSON Schema draft 2020-12. A keyword that is not in it is an error of configuration that names it.
//!
//! | of | keywords |
//! |---|---|
//! | any value | `type`, `enum`, `const`, `allOf`, `anyOf`, `oneOf`, `not`, `if`, `then`, `else`, `$ref`, `$defs` |
//! | numbers | `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`, `multipleOf` |
//! | strings | `minLength`, `maxLength`, `pattern`, `format` |
//! | arrays | `prefixItems`, `items`, `minItems`, `maxItems`, `uniqueItems` |
//! | objects | `properties`, `patternProperties`, `additionalProperties`, `propertyNames`, `required`, `dependentRequired`, `minProperties`, `maxProperties` |
//! | nothing | `$schema` (of this draft), `$comment`, `title`, `description`, `default`, `examples`, `deprecated`, `readOnly`, `writeOnly` |
//!
//! - Numbers are compared exactly, as decimals, whatever their length; `1.0` is an integer.
//! - `$ref` names a schema of this schema: `#`, or `#/$defs/NAME`. One that leads back to itself without going down in
//!   the value is an error of configuration; one that goes down goes as deep as the value does.
//! - `pattern` and `patternProperties` are regular expressions without look-around and back-references, whose time is
//!   linear in the text; `\d`, `\w`, `\s` and `\b` are those of ASCII. As in the draft, they match anywhere: write `^`
//!   and `$`.
//! - `format` is checked: `date`, `date-time`, `email`, `ipv4`, `ipv6`, `uuid`.
//!
//! # What a client gets
//!
//! A body of application/problem+json (RFC 9457) with the first thing that is wrong: its rule, and the place as a JSON
//! Pointer (RFC 6901), at most 256 bytes of it; never what stands there.
//!
//! ```json
//! {"type":"about:blank","title":"Unprocessable Content","status":422,"rule":"maxLength","pointer":"/name"}
//! ```
//!
//! | status | rules |
//! |---|---|
//! | 400 | `body` (there is none), `syntax`, `utf-8`, `byte-order-mark`, `surrogate`, `trailing-data`, `duplicate-key` |
//! | 413 | `max_bytes`, and the names of `limits` |
//! | 415 | `content-type`; `content-encoding`, as a coded body cannot be read |
//! | 422 | the schema's keyword, or `false` for that schema |
//!
//! For operators: the counter `refused` with the label `status`; and the attribute `json-guard` with the rule.

mod fault;
mod format;
mod json;
mod media;
mod number;
mod schema;
mod validate;

use std::rc::Rc;

use serde::Deserialize;
use tamis_filter::{
    Exchange, Failure, Filter, HeldBody, HeldVerdict, OverMax, Reply, Request, RequestVerdict, filter, metrics,
};

use fault::{Fault, Kind};
use json::{DuplicateKeys, Limits, MAX_DEPTH};
use media::{ContentType, MediaType};
use schema::Schema;

/// The default of `max_bytes`: far more than most calls of an API, and little enough to be held for many at once.
const MAX_BYTES: u64 = 1 << 20;
/// The most that `limits.number_exponent` can be, so that sums of exponents and lengths stay far inside of 64 bits.
const MAX_NUMBER_EXPONENT: u32 = 1_000_000;
/// Fields that tell of the bytes of a body.
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    methods: Vec<String>,
    content_types: Vec<String>,
    on_other_type: OnOtherType,
    body: Body,
    max_bytes: u64,
    limits: Limits,
    duplicate_keys: DuplicateKeys,
    normalise: bool,
    schema: Option<serde_json::Value>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            methods: ["POST", "PUT", "PATCH"].map(str::to_owned).into(),
            content_types: ["application/json", "+json"].map(str::to_owned).into(),
            on_other_type: OnOtherType::Refuse,
            body: Body::Optional,
            max_bytes: MAX_BYTES,
            limits: Limits::default(),
            duplicate_keys: DuplicateKeys::Refuse,
            normalise: false,
            schema: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OnOtherType {
    Refuse,
    Pass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Body {
    Optional,
    Required,
}

/// In what form a body goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    AsItCame,
    Normal,
}

#[derive(Debug, Clone)]
struct JsonGuard(Rc<Settings>);

#[derive(Debug)]
struct Settings {
    methods: Vec<String>,
    content_types: Vec<ContentType>,
    on_other_type: OnOtherType,
    body: Body,
    max_bytes: u64,
    limits: Limits,
    duplicate_keys: DuplicateKeys,
    form: Form,
    schema: Option<Schema>,
}

#[filter]
impl Filter for JsonGuard {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        check(&config)?;
        let content_types = config.content_types.iter().map(|text| ContentType::parse(text));
        let content_types: Result<Vec<_>, String> = content_types.collect();
        Ok(JsonGuard(Rc::new(Settings {
            content_types: content_types.map_err(|error| format!("content_types: {error}"))?,
            schema: config.schema.as_ref().map(Schema::new).transpose()?,
            methods: config.methods,
            on_other_type: config.on_other_type,
            body: config.body,
            max_bytes: config.max_bytes,
            limits: config.limits,
            duplicate_keys: config.duplicate_keys,
            form: if config.normalise { Form::Normal } else { Form::AsItCame },
        })))
    }

    fn on_request_head(&mut self, request: &mut Request, exchange: &mut Exchange) -> Result<RequestVerdict, Failure> {
        let settings = &self.0;
        if !settings.methods.contains(&request.method()) {
            return Ok(RequestVerdict::Proceed);
        }
        // What its length says of a body need not wait for the body. Without a length there may still be one.
        let length = request
            .header("content-length")
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > 0) {
            match settings.judge_head(request) {
                Ok(MediaType::Other) => return Ok(RequestVerdict::Proceed),
                Ok(MediaType::Json) if length > Some(settings.max_bytes) => {
                    return Ok(refusal(&Fault::new(Kind::TooLarge, "max_bytes"), exchange)?.into());
                }
                Ok(MediaType::Json) => {}
                Err(fault) => return Ok(refusal(&fault, exchange)?.into()),
            }
        }
        Ok(RequestVerdict::ReadBody {
            max: settings.max_bytes,
            // The proxy's own refusal would be no problem+json.
            over: OverMax::Continue,
        })
    }

    fn on_held_body(
        &mut self,
        body: HeldBody,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<HeldVerdict, Failure> {
        let settings = &self.0;
        match settings.judge(&body, request) {
            Ok(None) => Ok(HeldVerdict::Proceed),
            Ok(Some(form)) => {
                for name in DIGESTS {
                    request.remove_header(name)?;
                }
                Ok(HeldVerdict::Replace(form.into_bytes()))
            }
            Err(fault) => Ok(refusal(&fault, exchange)?.into()),
        }
    }
}

impl Settings {
    /// What the fields say of a body.
    fn judge_head(&self, request: &Request) -> Result<MediaType, Fault> {
        match media::media_type(request, &self.content_types) {
            MediaType::Other if self.on_other_type == OnOtherType::Refuse => {
                Err(Fault::new(Kind::MediaType, "content-type"))
            }
            MediaType::Other => Ok(MediaType::Other),
            MediaType::Json if media::is_encoded(request) => Err(Fault::new(Kind::MediaType, "content-encoding")),
            MediaType::Json => Ok(MediaType::Json),
        }
    }

    /// The form in which the body goes on; none for the one in which it came.
    fn judge(&self, body: &HeldBody, request: &Request) -> Result<Option<String>, Fault> {
        if body.is_empty() && body.complete {
            return match self.body {
                Body::Optional => Ok(None),
                Body::Required => Err(Fault::new(Kind::Malformed, "body")),
            };
        }
        if self.judge_head(request)? == MediaType::Other {
            return Ok(None);
        }
        if !body.complete {
            return Err(Fault::new(Kind::TooLarge, "max_bytes"));
        }
        let value = json::read(body, &self.limits, self.duplicate_keys)?;
        if let Some(schema) = &self.schema {
            validate::validate(schema, &value, self.limits.evaluations)?;
        }
        Ok((self.form == Form::Normal).then(|| {
            let mut form = String::with_capacity(body.len());
            value.write(&mut form);
            form
        }))
    }
}

/// What can be wrong with single settings.
fn check(config: &Config) -> Result<(), String> {
    let depth = config.limits.depth;
    let exponent = config.limits.number_exponent;
    if config.methods.is_empty() || config.methods.iter().any(String::is_empty) {
        return Err("methods: there is none, or an empty one".to_owned());
    }
    if config.content_types.is_empty() {
        return Err("content_types: there is none, so every body would be refused".to_owned());
    }
    if config.max_bytes == 0 {
        return Err("max_bytes: 0 would refuse every body".to_owned());
    }
    if depth > MAX_DEPTH {
        return Err(format!("limits.depth: {depth} is over {MAX_DEPTH}"));
    }
    if exponent > MAX_NUMBER_EXPONENT {
        return Err(format!(
            "limits.number_exponent: {exponent} is over {MAX_NUMBER_EXPONENT}"
        ));
    }
    if config.duplicate_keys == DuplicateKeys::Last && !config.normalise {
        let why = "the upstream might take the first one, which was not checked";
        return Err(format!("duplicate_keys: `last` needs `normalise: true`: {why}"));
    }
    Ok(())
}

fn refusal(fault: &Fault, exchange: &mut Exchange) -> Result<Reply, Failure> {
    let status = fault.kind.status();
    metrics::labels(&[("status", &status.to_string())]).counter_add("refused", 1);
    exchange.set_attribute("json-guard", fault.rule)?;
    let mut problem = serde_json::json!({
        "type": "about:blank",
        "title": fault.kind.title(),
        "status": status,
        "rule": fault.rule,
    });
    // A pointer into a body that was not read would say that all of it is wrong.
    if fault.kind != Kind::MediaType {
        problem["pointer"] = fault.pointer().into();
    }
    let reply = Reply::new(status).header("content-type", "application/problem+json");
    // RFC 9110 section 15.5.16: a 415 says what would do.
    let reply = match fault.rule {
        "content-type" => reply.header("accept", "application/json"),
        "content-encoding" => reply.header("accept-encoding", "identity"),
        _ => reply,
    };
    Ok(reply.body(format!("{problem}\n")))
}

#[cfg(test)]
mod tests;
