//! `redact`: replaces what must not go on in bodies, as they pass.
//!
//! ```yaml
//! filters:
//!   redact:
//!     component: filters/target/components/redact.wasm
//!     grants: [metrics]
//!     config:
//!       patterns:
//!         - { name: card, detect: credit_card, mask: { keep_last: 4 } }
//!         - { name: mail, detect: email }
//!         - { name: host, literals: [db1.internal, db2.internal], replace: "[host]" }
//!         - { name: token, regex: "tok_[A-Za-z0-9]{20,40}", replace: "[token]" }
//! ```
//!
//! | field | default | meaning |
//! |---|---|---|
//! | `patterns` | | 1 to 32 of them |
//! | `patterns[].name` | | 1 to 64 of `[a-z0-9_-]`, for metrics |
//! | `patterns[].detect` | | a built-in detector, see below; this, `literals` or `regex` |
//! | `patterns[].literals` | | texts, byte for byte |
//! | `patterns[].regex` | | a regular expression, see below |
//! | `patterns[].replace` | `[redacted]` | what stands in the match's place; this or `mask` |
//! | `patterns[].mask.character` | `*` | stands for each letter and digit; what is between them stays |
//! | `patterns[].mask.keep_last` | 0 | so many letters and digits stay at the end, but never more than half of them |
//! | `bodies` | `[response]` | of them `request` and `response` |
//! | `content_types` | `text/*`, `application/json`, `+json`, `application/xml`, `+xml` | bodies of these types; `*/*` is all, also those without a type |
//! | `on_encoded` | `skip` | what becomes of a body that cannot be searched: `skip` lets it pass and counts it, `fail` answers 502, or 415 to a request |
//! | `ask_plain` | `true` | ask the upstream for whole bodies without a coding |
//! | `max_match` | 256 | 1 to 4096; bytes of the longest match, and one more than is ever held back |
//!
//! # What is found
//!
//! At each place the longest match of all patterns, and of two that are equally long the one that is configured first;
//! the search goes on behind it. It sees bytes: not what JSON or HTML write as escapes (`\u0034`), not texts in UTF-16.
//! A replacement is written as it is, so it must be one that may stand there: in JSON, a number becomes a text that is
//! no JSON any more.
//!
//! | detector | finds |
//! |---|---|
//! | `credit_card` | 13 to 19 digits, with a space or dash between any two, by issuer, length and check digit |
//! | `iban` | as it is stored or printed, by country, length and checksum |
//! | `email` | `local@domain.tld` of letters, digits and `._%+-` |
//! | `ipv4` | four octets in decimals |
//!
//! A `regex` is of bytes: classes (`[a-z]`, `\d`, `.`), groups, alternatives, `(?i)`, and repetitions with an upper
//! bound, `{1,64}` in place of `+`. Nothing looks around, as `^` and `\b` do. It is compiled to an automaton, so no
//! expression is slow. Literals become part of the same automaton. Its tables are bounded: 200 random literals of 20
//! characters are within them, a thousand are not; an instance takes up to some tens of milliseconds to compile them
//! before its first exchange, which a larger `instance_reuse` makes rarer.
//!
//! # How it passes
//!
//! A body goes on as it comes. Held back are only the last bytes that may be the beginning of a match, always fewer
//! than `max_match`, until the next piece or the end tells; how the body is cut into pieces changes nothing of the
//! result. Trailers stay, except for digests of the body.
//!
//! With `ask_plain`, requests go to the upstream with `accept-encoding: identity` and without `range` and `if-range`: a
//! client could else fetch a secret in two halves. A body that is coded all the same, is a part of the whole
//! (206), or is in UTF-16 or UTF-32, is what `on_encoded` is for. Of a body that is searched, the fields
//! `content-digest`, `repr-digest`, `digest`, `content-md5` and `accept-ranges` are removed, as they are not true of
//! what goes on (RFC 9530 section 2). The `etag` stays: the same body is always replaced in the same way.
//!
//! For operators: the counters `redactions` with the label `pattern`, and `unreadable` with the label `body`; and the
//! attribute `redactions` with the number in both bodies, when a body that is searched ends.

mod automaton;
mod card;
mod detector;
mod email;
mod iban;
mod ipv4;
mod media;
mod patterns;
mod replacement;
mod scanner;
mod stream;
mod window;

use std::rc::Rc;

use serde::Deserialize;
use tamis_filter::{
    BodyVerdict, EndVerdict, Exchange, Failure, Filter, Header, Reply, Request, RequestVerdict, Response, Verdict,
    filter, metrics,
};

use media::{CONTENT_TYPES, ContentType, Readability, readability};
use patterns::{MAX_MATCH, MAX_MAX_MATCH, PatternConfig, Patterns};
use stream::{Output, Stream};

/// Fields, also in trailers, that tell of bytes which are no more the same.
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    patterns: Vec<PatternConfig>,
    #[serde(default = "responses")]
    bodies: Vec<Body>,
    #[serde(default = "content_types")]
    content_types: Vec<String>,
    #[serde(default)]
    on_encoded: OnEncoded,
    #[serde(default = "yes")]
    ask_plain: bool,
    #[serde(default = "max_match")]
    max_match: usize,
}

fn responses() -> Vec<Body> {
    vec![Body::Response]
}

fn content_types() -> Vec<String> {
    CONTENT_TYPES.map(str::to_owned).into()
}

fn yes() -> bool {
    true
}

fn max_match() -> usize {
    MAX_MATCH
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Body {
    Request,
    Response,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OnEncoded {
    #[default]
    Skip,
    Fail,
}

#[derive(Debug, Clone)]
struct Redact {
    settings: Rc<Settings>,
    patterns: Rc<Patterns>,
    /// The bodies of this exchange that are searched.
    request: Option<Stream>,
    response: Option<Stream>,
    /// In both bodies of this exchange.
    redactions: u64,
}

#[derive(Debug)]
struct Settings {
    bodies: Vec<Body>,
    content_types: Vec<ContentType>,
    on_encoded: OnEncoded,
    ask_plain: bool,
}

/// What becomes of a body, by its head.
enum Decision {
    Pass,
    Search,
    Fail,
}

#[filter]
impl Filter for Redact {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        if config.bodies.is_empty() {
            return Err("bodies: there is none, so nothing would be searched".to_owned());
        }
        if config.max_match == 0 || config.max_match > MAX_MAX_MATCH {
            return Err(format!("max_match: {} is not 1 to {MAX_MAX_MATCH}", config.max_match));
        }
        let content_types = config.content_types.iter().map(|text| ContentType::parse(text));
        let content_types: Result<Vec<_>, String> = content_types.collect();
        let content_types = content_types.map_err(|error| format!("content_types: {error}"))?;
        if content_types.is_empty() {
            return Err("content_types: there is none, so nothing would be searched".to_owned());
        }
        Ok(Redact {
            patterns: Rc::new(Patterns::new(config.patterns, config.max_match)?),
            settings: Rc::new(Settings {
                bodies: config.bodies,
                content_types,
                on_encoded: config.on_encoded,
                ask_plain: config.ask_plain,
            }),
            request: None,
            response: None,
            redactions: 0,
        })
    }

    fn on_request_head(&mut self, request: &mut Request, _: &mut Exchange) -> Result<RequestVerdict, Failure> {
        if self.settings.ask_plain && self.settings.bodies.contains(&Body::Response) {
            // RFC 9110 section 12.5.3: without the field, any coding would be acceptable.
            request.set_header("accept-encoding", "identity")?;
            request.remove_header("range")?;
            request.remove_header("if-range")?;
        }
        match self.settings.decide(Body::Request, request) {
            Decision::Pass => request.pass_body(),
            // RFC 9110 section 15.5.16: the reply says which codings would do.
            Decision::Fail => return Ok(Reply::new(415).header("accept-encoding", "identity").into()),
            Decision::Search => {
                for name in DIGESTS {
                    request.remove_header(name)?;
                }
                self.request = Some(Stream::new(Rc::clone(&self.patterns)));
            }
        }
        Ok(RequestVerdict::Proceed)
    }

    fn on_request_body(&mut self, chunk: Vec<u8>, _: &Request, _: &mut Exchange) -> Result<BodyVerdict, Failure> {
        Ok(push(&mut self.request, chunk, &mut self.redactions))
    }

    fn on_request_end(
        &mut self,
        trailers: Vec<Header>,
        _: &Request,
        exchange: &mut Exchange,
    ) -> Result<EndVerdict, Failure> {
        finish(&mut self.request, trailers, &mut self.redactions, exchange)
    }

    fn on_response_head(
        &mut self,
        request: &Request,
        response: &mut Response,
        _: &mut Exchange,
    ) -> Result<Verdict, Failure> {
        // RFC 9110 section 6.4.1: these have no content, whatever their fields say.
        if request.method() == "HEAD" || matches!(response.status(), 204 | 304) {
            response.pass_body();
            return Ok(Verdict::Proceed);
        }
        match self.settings.decide(Body::Response, response) {
            Decision::Pass => response.pass_body(),
            Decision::Fail => return Ok(Reply::new(502).text("bad gateway\n").into()),
            Decision::Search => {
                for name in DIGESTS {
                    response.remove_header(name)?;
                }
                response.remove_header("accept-ranges")?;
                self.response = Some(Stream::new(Rc::clone(&self.patterns)));
            }
        }
        Ok(Verdict::Proceed)
    }

    fn on_response_body(
        &mut self,
        chunk: Vec<u8>,
        _: &Request,
        _: &Response,
        _: &mut Exchange,
    ) -> Result<BodyVerdict, Failure> {
        Ok(push(&mut self.response, chunk, &mut self.redactions))
    }

    fn on_response_end(
        &mut self,
        trailers: Vec<Header>,
        _: &Request,
        _: &Response,
        exchange: &mut Exchange,
    ) -> Result<EndVerdict, Failure> {
        finish(&mut self.response, trailers, &mut self.redactions, exchange)
    }
}

impl Settings {
    fn decide(&self, body: Body, head: &impl media::Head) -> Decision {
        if !self.bodies.contains(&body) {
            return Decision::Pass;
        }
        match (readability(head, &self.content_types), self.on_encoded) {
            (Readability::Other, _) => Decision::Pass,
            (Readability::Readable, _) => Decision::Search,
            (Readability::Unreadable, on_encoded) => {
                let name = match body {
                    Body::Request => "request",
                    Body::Response => "response",
                };
                metrics::labels(&[("body", name)]).counter_add("unreadable", 1);
                match on_encoded {
                    OnEncoded::Skip => Decision::Pass,
                    OnEncoded::Fail => Decision::Fail,
                }
            }
        }
    }
}

fn push(stream: &mut Option<Stream>, chunk: Vec<u8>, redactions: &mut u64) -> BodyVerdict {
    let Some(stream) = stream else {
        return BodyVerdict::Keep;
    };
    let output = stream.push(chunk);
    *redactions += count(stream);
    match output {
        Output::Same => BodyVerdict::Keep,
        Output::Bytes(bytes) if bytes.is_empty() => BodyVerdict::Drop,
        Output::Bytes(bytes) => BodyVerdict::Replace(bytes),
    }
}

fn finish(
    stream: &mut Option<Stream>,
    mut trailers: Vec<Header>,
    redactions: &mut u64,
    exchange: &mut Exchange,
) -> Result<EndVerdict, Failure> {
    let Some(stream) = stream else {
        return Ok(EndVerdict::Keep);
    };
    let data = stream.finish();
    *redactions += count(stream);
    exchange.set_attribute("redactions", &redactions.to_string())?;
    let count = trailers.len();
    trailers.retain(|trailer| !DIGESTS.iter().any(|name| trailer.name.eq_ignore_ascii_case(name)));
    if data.is_empty() && trailers.len() == count {
        return Ok(EndVerdict::Keep);
    }
    Ok(EndVerdict::Finish {
        data,
        trailers: (trailers.len() < count).then_some(trailers),
    })
}

/// Counts what has been found since the last time; how much.
fn count(stream: &mut Stream) -> u64 {
    let mut sum = 0;
    for (pattern, count) in stream.take_counts() {
        metrics::labels(&[("pattern", pattern)]).counter_add("redactions", count);
        sum += count;
    }
    sum
}

#[cfg(test)]
mod tests;
