//! `api-key`: only requests with a known key pass.
//!
//! ```yaml
//! config:
//!   header: x-api-key
//!   keys:
//!     - { name: ci, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 }
//! ```
//!
//! The configuration holds the keys' SHA-256 (`printf %s "$KEY" | sha256sum`), not the keys; they must be long and
//! random, as a plain hash of a guessable key can be guessed. A request without a known key gets 401. The key is
//! removed from the request; its name becomes the exchange's attribute `api-key`.

use std::rc::Rc;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tamis_filter::{Exchange, Failure, Filter, Reply, Request, RequestVerdict, check_header, filter};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    header: String,
    keys: Vec<KeyConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyConfig {
    name: String,
    sha256: String,
}

#[derive(Clone)]
struct ApiKey {
    header: Rc<str>,
    keys: Rc<[Key]>,
}

struct Key {
    name: String,
    sha256: [u8; 32],
}

#[filter]
impl Filter for ApiKey {
    type Config = Config;

    fn configure(Config { header, keys }: Config) -> Result<Self, String> {
        check_header(&header, "").map_err(|error| format!("header `{header}`: {error}"))?;
        let keys: Vec<Key> = keys.into_iter().enumerate().map(key).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err("keys: there is none, so every request would be refused".to_owned());
        }
        match first_repeated(&keys) {
            Some(index) => Err(format!(
                "keys[{index}] `{}`: its name or its sha256 is there already",
                keys[index].name
            )),
            None => Ok(ApiKey {
                header: header.into(),
                keys: keys.into(),
            }),
        }
    }

    fn on_request_head(&mut self, request: &mut Request, exchange: &mut Exchange) -> Result<RequestVerdict, Failure> {
        match request.header_values(&self.header).as_slice() {
            [] => Ok(refusal("API key missing")),
            [presented] => match self.find(presented) {
                Some(key) => {
                    request.remove_header(&self.header)?;
                    exchange.set_attribute("api-key", &key.name)?;
                    Ok(RequestVerdict::Proceed)
                }
                None => Ok(refusal("API key unknown")),
            },
            _ => Ok(refusal("more than one API key")),
        }
    }
}

impl ApiKey {
    /// Compares with every key, so that the time taken tells nothing of which keys there are.
    fn find(&self, presented: &[u8]) -> Option<&Key> {
        let digest: [u8; 32] = Sha256::digest(presented).into();
        let mut any = Choice::from(0);
        let mut found = 0u32;
        for (index, key) in (0u32..).zip(self.keys.iter()) {
            let equal = key.sha256.ct_eq(&digest);
            found.conditional_assign(&index, equal);
            any |= equal;
        }
        if bool::from(any) {
            self.keys.get(found as usize)
        } else {
            None
        }
    }
}

fn key((index, KeyConfig { name, sha256 }): (usize, KeyConfig)) -> Result<Key, String> {
    if name.is_empty() {
        return Err(format!("keys[{index}]: its name is empty"));
    }
    match parse_hex(&sha256) {
        Some(sha256) => Ok(Key { name, sha256 }),
        None => Err(format!("keys[{index}] `{name}`: sha256 is not 64 hexadecimal digits")),
    }
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

fn first_repeated(keys: &[Key]) -> Option<usize> {
    let same = |one: &Key, other: &Key| one.name == other.name || one.sha256 == other.sha256;
    (0..keys.len()).find(|&index| keys[..index].iter().any(|earlier| same(earlier, &keys[index])))
}

fn refusal(error: &str) -> RequestVerdict {
    let body = format!("{{\"error\":\"{error}\"}}\n");
    // RFC 9110 section 11.6.1: a 401 carries a challenge.
    let reply = Reply::new(401).header("www-authenticate", "ApiKey realm=\"api\"");
    reply.header("content-type", "application/json").body(body).into()
}

#[cfg(test)]
mod tests {
    use tamis_filter::testing::{self, json};

    use super::*;

    /// SHA-256 of `test`, and of `other` in capitals.
    const TEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    const OTHER: &str = "D9298A10D1B0735837DC4BD85DAC641B0F3CEF27A47E5D53A54F2F3F5B2FCFFA";

    fn api_key() -> ApiKey {
        let keys = json!([{ "name": "ci", "sha256": TEST }, { "name": "shop", "sha256": OTHER }]);
        testing::configure(json!({ "header": "x-api-key", "keys": keys })).unwrap()
    }

    fn refused(mut exchange: testing::Exchange) -> String {
        let RequestVerdict::Reply(reply) = exchange.request_head(&api_key()) else {
            panic!("it went on")
        };
        assert_eq!(reply.status, 401);
        let names: Vec<&str> = reply.headers.iter().map(|header| header.name.as_str()).collect();
        assert_eq!(names, ["www-authenticate", "content-type"]);
        assert_eq!(exchange.attribute("api-key"), None);
        String::from_utf8(reply.body).unwrap()
    }

    #[test]
    fn known_keys_pass_and_go_no_further() {
        for (key, name) in [("test", "ci"), ("other", "shop")] {
            let mut exchange = testing::Exchange::get("/")
                .with_header("X-Api-Key", key)
                .with_header("accept", "*/*");
            assert_eq!(exchange.request_head(&api_key()), RequestVerdict::Proceed);
            assert_eq!(exchange.attribute("api-key"), Some(name));
            assert_eq!(exchange.request.header("x-api-key"), None);
            assert_eq!(exchange.request.header("accept"), Some("*/*"));
        }
    }

    #[test]
    fn all_others_are_refused() {
        let get = || testing::Exchange::get("/");
        assert_eq!(refused(get()), "{\"error\":\"API key missing\"}\n");
        for unknown in ["", "Test", "test test", TEST] {
            assert_eq!(
                refused(get().with_header("x-api-key", unknown)),
                "{\"error\":\"API key unknown\"}\n"
            );
        }
        let twice = get().with_header("x-api-key", "test").with_header("x-api-key", "test");
        assert_eq!(refused(twice), "{\"error\":\"more than one API key\"}\n");
    }

    #[test]
    fn configurations_are_refused_with_the_reason() {
        let key = |name: &str, sha256: &str| json!({ "name": name, "sha256": sha256 });
        let config = |keys: serde_json::Value| json!({ "header": "x-api-key", "keys": keys });
        let cases = [
            (config(json!([])), "keys: there is none"),
            (
                config(json!([key("ci", TEST), { "name": "shop" }])),
                "keys[1]: missing field `sha256`",
            ),
            (config(json!([key("", TEST)])), "keys[0]: its name is empty"),
            (
                config(json!([key("ci", TEST), key("shop", &TEST[1..])])),
                "keys[1] `shop`: sha256 is not 64",
            ),
            (
                config(json!([key("ci", &TEST.replace('9', "g"))])),
                "keys[0] `ci`: sha256 is not 64",
            ),
            (
                config(json!([key("ci", &TEST.replacen("9f", "+f", 1))])),
                "keys[0] `ci`: sha256 is not 64",
            ),
            (
                config(json!([key("ci", TEST), key("ci", OTHER)])),
                "keys[1] `ci`: its name or its sha256",
            ),
            (
                config(json!([key("ci", TEST), key("shop", TEST)])),
                "keys[1] `shop`: its name or its sha256",
            ),
            (json!({ "header": "", "keys": [key("ci", TEST)] }), "header ``: "),
            (json!(null), "missing field `header`"),
        ];
        for (config, reason) in cases {
            let refusal = testing::configure::<ApiKey>(config.clone()).err().unwrap_or_default();
            assert!(
                refusal.contains(reason),
                "{config}: {refusal:?} does not say {reason:?}"
            );
        }
    }
}
