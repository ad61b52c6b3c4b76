//! Where the keys come from: secrets and a key set of the configuration, or a set that is fetched.

use std::rc::Rc;

use base64ct::{Base64, Encoding as _};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use crate::algorithm::{Algorithm, Family};
use crate::base64;
use crate::fetched::{Fetched, FetchedConfig};
use crate::key::Key;
use crate::keys::{KeySet, Origin};
use crate::refusal::Refusal;
use crate::token::Token;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretConfig {
    secret: String,
    #[serde(default)]
    encoding: Encoding,
    kid: Option<String>,
    alg: Option<Algorithm>,
}

/// How the bytes of a secret are written.
#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    /// The text itself is the secret.
    #[default]
    Text,
    Base64,
    Base64url,
}

/// A key set, or what one is fetched with.
pub enum JwksConfig {
    Set(String),
    Fetched(FetchedConfig),
}

impl<'de> Deserialize<'de> for JwksConfig {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        match Value::deserialize(reader)? {
            Value::String(set) => Ok(JwksConfig::Set(set)),
            Value::Object(members) if members.contains_key("keys") => {
                Ok(JwksConfig::Set(Value::from(members).to_string()))
            }
            Value::Object(members) if members.contains_key("cluster") => {
                let fetched = FetchedConfig::deserialize(Value::from(members));
                fetched.map(JwksConfig::Fetched).map_err(de::Error::custom)
            }
            _ => Err(de::Error::custom(
                "a key set with its `keys`, the same as a text, or `cluster` and `path`",
            )),
        }
    }
}

/// The keys. One an instance; clones are handles.
#[derive(Debug, Clone)]
pub struct Source {
    /// Of the configuration; with a fetched set, secrets only.
    own: Rc<KeySet>,
    /// Never holds a secret.
    fetched: Option<Rc<Fetched>>,
}

impl Source {
    pub fn new(secrets: Vec<SecretConfig>, jwks: Option<JwksConfig>, algorithms: &[Algorithm]) -> Result<Self, String> {
        let (set, fetched) = match jwks {
            None => (KeySet::default(), None),
            Some(JwksConfig::Set(text)) => {
                let set = KeySet::from_jwks(text.as_bytes(), algorithms, Origin::Configured);
                (set.map_err(|fault| format!("jwks: {fault}"))?, None)
            }
            Some(JwksConfig::Fetched(config)) => {
                let fetched = Fetched::new(config, algorithms).map_err(|fault| format!("jwks: {fault}"))?;
                (KeySet::default(), Some(Rc::new(fetched)))
            }
        };
        let secret = |(index, config)| secret(config, algorithms).map_err(|fault| format!("secrets[{index}]: {fault}"));
        let secrets = secrets.into_iter().enumerate().map(secret).collect::<Result<_, _>>()?;
        let source = Source {
            own: Rc::new(set.after(secrets)),
            fetched,
        };
        match algorithms.iter().find(|algorithm| !source.serves(**algorithm)) {
            Some(idle) => Err(format!("algorithms: there is no key for {}", idle.name())),
            None => Ok(source),
        }
    }

    /// Whether the token is signed with one of the keys. A fetched set is never asked for a secret's algorithm.
    pub fn verify(&self, token: &Token) -> Result<(), Refusal> {
        match &self.fetched {
            Some(fetched) if token.algorithm.family() != Family::Secret => fetched.verify(token),
            _ => self.own.verify(token),
        }
    }

    pub fn refresh(&self) {
        if let Some(fetched) = &self.fetched {
            fetched.refresh();
        }
    }

    fn serves(&self, algorithm: Algorithm) -> bool {
        let fetched = self.fetched.is_some() && algorithm.family() != Family::Secret;
        fetched || self.own.serves(algorithm)
    }
}

fn secret(config: SecretConfig, allowed: &[Algorithm]) -> Result<Key, String> {
    let bytes = match config.encoding {
        Encoding::Text => Some(config.secret.into_bytes()),
        Encoding::Base64 => Base64::decode_vec(&config.secret).ok(),
        Encoding::Base64url => base64::decode(&config.secret),
    };
    let bytes = bytes.ok_or("not of its `encoding`")?;
    let suits =
        |algorithm: &Algorithm| algorithm.family() == Family::Secret && config.alg.is_none_or(|own| own == *algorithm);
    let algorithms = allowed.iter().copied().filter(suits).collect();
    Key::from_secret(config.kid, bytes, algorithms)
}
