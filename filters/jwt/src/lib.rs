//! `jwt`: only requests with a valid JSON Web Token pass (RFC 7519, RFC 7515, with the advice of RFC 8725).
//!
//! Keys that the issuer publishes, fetched when they are needed and kept for all workers:
//!
//! ```yaml
//! filters:
//!   jwt:
//!     component: filters/target/components/jwt.wasm
//!     grants: [clock, key_value, { outbound: [issuer] }]
//!     tick: 5m                       # optional: fetches in the background, so that no request waits
//!     limits: { cpu: 50ms }          # for slow signatures on slow machines
//!     config:
//!       algorithms: [RS256, ES256]
//!       jwks: { cluster: issuer, path: /.well-known/jwks.json }
//!       iss: [https://issuer.example]
//!       aud: [https://api.example]
//!       claim_headers: { x-user: sub }
//! ```
//!
//! Keys of the configuration (the component imports what the first form needs, so it must be granted all the same):
//!
//! ```yaml
//!     config:
//!       algorithms: [EdDSA, HS256]
//!       jwks: file:keys/jwks.json
//!       secrets: [{ secret: file:keys/hmac, encoding: base64 }]
//!       aud: [https://api.example]
//!       scopes: [orders.read]
//! ```
//!
//! # What can be configured
//!
//! | field | default | |
//! |---|---|---|
//! | `algorithms` | required | of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA, Ed25519 (EdDSA by its newer name); each must have a key |
//! | `jwks` | none | a key set: as it is, as a text (`file:PATH`), or fetched (below) |
//! | `secrets` | none | `{ secret, encoding, kid, alg }`: for HS256, HS384, HS512. `encoding` is `text` (the default), `base64` or `base64url`; without `kid` it stands for any, without `alg` for all that are allowed. As long as the digest at least: 32, 48 or 64 bytes |
//! | `iss` | any | the issuers; a token must be of one of them |
//! | `aud` | none | the names of this audience; a token must be for one of them. When this is not configured, a token for an audience is refused (RFC 7519 section 4.1.3) |
//! | `typ` | any | the types of the header, such as `at+jwt` (RFC 9068); a token must be of one of them |
//! | `require_exp` | `true` | whether a token must end |
//! | `clock_skew` | `30s` | how far the issuer's clock may be off, 0 to 10m, for `exp`, `nbf`, `iat` |
//! | `max_lifetime` | none | from `iat` to `exp`, which a token then must have |
//! | `require` | none | `[{ claim, values }]`: a claim that a token must have, with one of the values; without values any does. `claim` is a name, or names from the outside in: `[realm_access, roles]`. Of a list, one item must be one of the values |
//! | `scopes` | none | what `scope_claim` must hold, all of it |
//! | `scope_claim` | `scope` | a text of words, or a list |
//! | `token` | `{ header: authorization }` | where the token is (below) |
//! | `optional` | `false` | whether a request without a token passes; one with a bad token never does |
//! | `realm` | none | for the challenge |
//! | `claim_headers` | none | header fields with the claims that they get: `{ x-user: sub, x-roles: [realm_access, roles] }` |
//! | `claim_attributes` | none | the exchange's attributes, for later filters and the access log, likewise; at most 16 |
//!
//! `jwks`, fetched:
//!
//! | field | default | |
//! |---|---|---|
//! | `cluster`, `path` | required | the cluster must be granted |
//! | `authority` | the cluster's name | the call's `host` |
//! | `refresh` | `10m` | how long a set is used before it is fetched again, 1s to 24h |
//! | `min_refresh` | `30s` | a token whose `kid` is not in the set makes one fetch within this time, however many such tokens there are; 1s to `refresh` |
//! | `stale` | `1h` | how long beyond `refresh` a set is used when fetching fails, 0s to 24h |
//! | `timeout` | `2s` | for a fetch, and for who waits for another's; below the filter's `limits.wall` |
//!
//! `token`, one of the places, and exactly one token in it:
//!
//! | field | default | |
//! |---|---|---|
//! | `header`, `scheme` | `authorization`, `Bearer` | another field than `authorization` has no scheme unless it is given one |
//! | `cookie` | | the cookie's name |
//! | `query` | | the parameter's name; tokens in addresses end up in logs, so this is for where nothing else will do |
//! | `keep` | `false` | whether the upstream gets the token; else it is removed |
//! | `max_bytes` | `8192` | a longer token is refused |
//!
//! # What holds
//!
//! * A key verifies only what its type and its own `alg` and `use` allow. Public keys are never secrets, `none` is no
//!   algorithm, and keys that come with a token are not looked at.
//! * A key set's keys of other uses, types and algorithms are ignored. A bad key (such as RSA under 2048 bits; over 4096
//!   would take too long) refuses the configuration; in a fetched set it is left out, and the log tells. Secrets in key
//!   sets are bad keys.
//! * A token without `kid` is tried with the first two keys that suit its algorithm, and so is one whose `kid` two keys
//!   have.
//! * Header fields of `claim_headers` that a client sends are removed first, also with `_` for `-`, and also without a
//!   token. A claim becomes text: numbers and truth values as JSON, lists joined with commas. What cannot be told from
//!   another value that way (an object, control characters, white space at an end, a comma in a list) refuses the token.
//! * A fetched set is kept in the table of `key_value`: give it one of its own, as whoever can write it can choose keys.
//! * The attribute `jwt` says what came of it: `valid`, `none` (passed without a token), or why not.
//! * To verify takes a few microseconds of processor time with a secret, 0.2 ms with EdDSA, about 1 ms with ES256 and RSA
//!   of 2048 bits, 2.5 ms with 4096 bits, and 5 ms with ES384: for that give `limits.cpu` room.
//! * Leave the filter's `on_failure` at `closed`: with `open`, a request that makes it fail would pass.
//!
//! # Replies
//!
//! 401 without a token or with a bad one, 403 for a good one without the scopes and claims that are asked for, 400 for
//! more than one, each with `www-authenticate` as RFC 6750 section 3 wants it; 503 when there are no keys. The words are
//! fixed.

mod algorithm;
mod base64;
mod claims;
mod fetched;
mod forward;
mod json;
mod key;
mod keys;
mod place;
mod refusal;
mod source;
#[cfg(test)]
mod tests;
mod token;

use std::collections::BTreeMap;
use std::rc::Rc;

use serde::Deserialize;
use serde_json::{Map, Value};
use tamis_filter::{Exchange, Failure, Filter, Period, Request, RequestVerdict, filter};

use algorithm::Algorithm;
use claims::{ClaimName, ClaimsConfig, Required, Rules};
use forward::Forward;
use place::{Place, PlaceConfig};
use refusal::{Invalid, Refusal};
use source::{JwksConfig, SecretConfig, Source};
use token::Token;

/// The attribute that says what came of it.
const ATTRIBUTE: &str = "jwt";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    algorithms: Vec<Algorithm>,
    jwks: Option<JwksConfig>,
    #[serde(default)]
    secrets: Vec<SecretConfig>,
    #[serde(default)]
    iss: Vec<String>,
    #[serde(default)]
    aud: Vec<String>,
    #[serde(default)]
    typ: Vec<String>,
    #[serde(default = "yes")]
    require_exp: bool,
    clock_skew: Option<Period>,
    max_lifetime: Option<Period>,
    #[serde(default)]
    require: Vec<Required>,
    #[serde(default)]
    scopes: Vec<String>,
    scope_claim: Option<ClaimName>,
    #[serde(default)]
    token: PlaceConfig,
    #[serde(default)]
    optional: bool,
    realm: Option<String>,
    #[serde(default)]
    claim_headers: BTreeMap<String, ClaimName>,
    #[serde(default)]
    claim_attributes: BTreeMap<String, ClaimName>,
}

fn yes() -> bool {
    true
}

#[derive(Clone)]
struct Jwt {
    source: Source,
    settings: Rc<Settings>,
}

/// What is configured, except for the keys.
struct Settings {
    algorithms: Vec<Algorithm>,
    place: Place,
    kinds: Vec<String>,
    rules: Rules,
    forward: Forward,
    without_token: WithoutToken,
    realm: Option<String>,
}

/// What becomes of a request without a token.
#[derive(Clone, Copy)]
enum WithoutToken {
    Passes,
    IsRefused,
}

#[filter]
impl Filter for Jwt {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        if config.algorithms.is_empty() {
            return Err("algorithms: there is none, so every token would be refused".to_owned());
        }
        let source = Source::new(config.secrets, config.jwks, &config.algorithms)?;
        let place = Place::new(config.token)?;
        let forward = Forward::new(config.claim_headers, config.claim_attributes, place.field())?;
        let rules = Rules::new(ClaimsConfig {
            iss: config.iss,
            aud: config.aud,
            require_exp: config.require_exp,
            clock_skew: config.clock_skew,
            max_lifetime: config.max_lifetime,
            require: config.require,
            scopes: config.scopes,
            scope_claim: config.scope_claim,
        })?;
        let settings = Settings {
            algorithms: config.algorithms,
            place,
            kinds: config.typ.iter().map(|kind| plain_kind(kind)).collect(),
            rules,
            forward,
            without_token: if config.optional {
                WithoutToken::Passes
            } else {
                WithoutToken::IsRefused
            },
            realm: config.realm.map(checked_realm).transpose()?,
        };
        Ok(Jwt {
            source,
            settings: Rc::new(settings),
        })
    }

    fn on_request_head(&mut self, request: &mut Request, exchange: &mut Exchange) -> Result<RequestVerdict, Failure> {
        let settings = Rc::clone(&self.settings);
        settings.forward.remove_sent(request)?;
        let claims = settings.place.find(request).and_then(|token| self.claims(token));
        let rendered = claims.and_then(|claims| claims.map(|claims| settings.forward.render(&claims)).transpose());
        let word = match rendered {
            Ok(None) => "none",
            Ok(Some(rendered)) => {
                settings.place.remove(request)?;
                rendered.apply(request, exchange)?;
                "valid"
            }
            Err(refusal) => {
                exchange.set_attribute(ATTRIBUTE, refusal.word())?;
                return Ok(refusal.reply(settings.realm.as_deref()).into());
            }
        };
        exchange.set_attribute(ATTRIBUTE, word)?;
        Ok(RequestVerdict::Proceed)
    }

    /// Fetches the keys before they are needed.
    fn on_tick(&mut self) -> Result<(), Failure> {
        self.source.refresh();
        Ok(())
    }
}

impl Jwt {
    /// The claims of a token that is good; none for a request that may pass without.
    fn claims(&self, token: Option<String>) -> Result<Option<Map<String, Value>>, Refusal> {
        let settings = &self.settings;
        let Some(text) = token else {
            return match settings.without_token {
                WithoutToken::Passes => Ok(None),
                WithoutToken::IsRefused => Err(Refusal::Missing),
            };
        };
        let token = Token::parse(&text)?;
        // RFC 8725 section 3.1: what is allowed is for the configuration to say, before any key is looked for.
        if !settings.algorithms.contains(&token.algorithm) {
            return Err(Invalid::Algorithm.into());
        }
        if !settings.takes_kind(token.kind.as_deref()) {
            return Err(Invalid::Kind.into());
        }
        self.source.verify(&token)?;
        let claims = token.claims()?;
        settings.rules.check(&claims)?;
        Ok(Some(claims))
    }
}

impl Settings {
    fn takes_kind(&self, kind: Option<&str>) -> bool {
        self.kinds.is_empty() || kind.is_some_and(|kind| self.kinds.contains(&plain_kind(kind)))
    }
}

/// RFC 7515 section 4.1.9: a media type, whose case does not count, and whose `application/` may be left out.
fn plain_kind(kind: &str) -> String {
    let kind = kind.to_ascii_lowercase();
    kind.strip_prefix("application/").map(str::to_owned).unwrap_or(kind)
}

/// It stands between quotation marks.
fn checked_realm(realm: String) -> Result<String, String> {
    let plain = |byte: u8| (byte.is_ascii_graphic() || byte == b' ') && !b"\"\\".contains(&byte);
    if realm.bytes().all(plain) {
        return Ok(realm);
    }
    Err(format!(
        "realm `{realm}`: letters of ASCII, without quotation marks and backslashes"
    ))
}
