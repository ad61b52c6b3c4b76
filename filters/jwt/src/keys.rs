//! A set of keys, and which of them a token may be signed with.

use serde_json::Value;

use crate::algorithm::Algorithm;
use crate::json;
use crate::key::{Key, Read};
use crate::refusal::{Invalid, Refusal};
use crate::token::Token;

/// More than any issuer has at a time; the rest of a set is not read.
const MAX_KEYS: usize = 64;
/// How many keys are tried for one token: a key and its successor. Each trial takes up to 5 ms, and a token without a
/// `kid` costs its sender nothing.
const MAX_TRIALS: usize = 2;

/// Keys, in the order in which they are tried.
#[derive(Debug, Default)]
pub struct KeySet(Vec<Key>);

/// Who wrote a set: in one of the configuration, a faulty key is a fault of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Configured,
    Fetched,
}

impl KeySet {
    /// A JSON Web Key Set (RFC 7517 section 5), of which those keys are kept that may verify an allowed algorithm.
    pub fn from_jwks(text: &[u8], allowed: &[Algorithm], origin: Origin) -> Result<Self, String> {
        let set = json::object(text).ok_or("not a JSON object whose members stand once each")?;
        let Some(Value::Array(jwks)) = set.get("keys") else {
            return Err("its `keys` is not a list".to_owned());
        };
        let mut keys = Vec::new();
        for (index, jwk) in jwks.iter().take(MAX_KEYS).enumerate() {
            let read = match jwk {
                Value::Object(jwk) => Key::from_jwk(jwk, allowed),
                _ => Read::Faulty("not an object"),
            };
            match read {
                Read::Key(key) => keys.push(*key),
                Read::OfNoUse => {}
                Read::Faulty(fault) if origin == Origin::Configured => return Err(format!("keys[{index}]: {fault}")),
                Read::Faulty(fault) => tamis_filter::log::warn!("keys[{index}] of the fetched set: {fault}"),
            }
        }
        Ok(KeySet(keys))
    }

    /// These keys before its own.
    #[must_use]
    pub fn after(self, mut keys: Vec<Key>) -> Self {
        keys.extend(self.0);
        KeySet(keys)
    }

    /// Whether some key may verify this algorithm.
    pub fn serves(&self, algorithm: Algorithm) -> bool {
        self.0.iter().any(|key| key.may_verify(algorithm))
    }

    /// Whether a key has the name that the token gives. A token or a key without a name fits all.
    pub fn knows(&self, token: &Token) -> bool {
        self.0.iter().any(|key| key.is_named(token.kid.as_deref()))
    }

    /// Whether the token is signed with one of the keys that it may be signed with.
    pub fn verify(&self, token: &Token) -> Result<(), Refusal> {
        let suits = |key: &&Key| key.is_named(token.kid.as_deref()) && key.may_verify(token.algorithm);
        let mut any = false;
        for key in self.0.iter().filter(suits).take(MAX_TRIALS) {
            any = true;
            if key.verify(token.algorithm, token.signed.as_bytes(), &token.signature) {
                return Ok(());
            }
        }
        Err(if any { Invalid::Signature } else { Invalid::UnknownKey }.into())
    }
}
