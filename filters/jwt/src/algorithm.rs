//! The algorithms of RFC 7518 section 3.1, RFC 8037 and RFC 9864 that a configuration can allow.

use serde::Deserialize;

/// How a token is signed. `none` is no algorithm, so it can be neither allowed nor met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    #[serde(rename = "HS256")]
    Hs256,
    #[serde(rename = "HS384")]
    Hs384,
    #[serde(rename = "HS512")]
    Hs512,
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "RS384")]
    Rs384,
    #[serde(rename = "RS512")]
    Rs512,
    #[serde(rename = "PS256")]
    Ps256,
    #[serde(rename = "PS384")]
    Ps384,
    #[serde(rename = "PS512")]
    Ps512,
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "ES384")]
    Es384,
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// The name that RFC 9864 gives what `EdDSA` with this curve is.
    Ed25519,
}

/// The kind of key that an algorithm works with: each has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Secret,
    Rsa,
    P256,
    P384,
    Ed25519,
}

const ALL: [Algorithm; 13] = [
    Algorithm::Hs256,
    Algorithm::Hs384,
    Algorithm::Hs512,
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::EdDsa,
    Algorithm::Ed25519,
];

impl Algorithm {
    /// The algorithm of that name, whose case counts (RFC 7515 section 4.1.1).
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Hs256 => "HS256",
            Algorithm::Hs384 => "HS384",
            Algorithm::Hs512 => "HS512",
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
            Algorithm::Ed25519 => "Ed25519",
        }
    }

    pub fn family(self) -> Family {
        match self {
            Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => Family::Secret,
            Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512 => Family::Rsa,
            Algorithm::Ps256 | Algorithm::Ps384 | Algorithm::Ps512 => Family::Rsa,
            Algorithm::Es256 => Family::P256,
            Algorithm::Es384 => Family::P384,
            Algorithm::EdDsa | Algorithm::Ed25519 => Family::Ed25519,
        }
    }

    /// The shortest secret: as long as the digest (RFC 7518 section 3.2).
    pub fn least_secret(self) -> usize {
        match self {
            Algorithm::Hs384 => 48,
            Algorithm::Hs512 => 64,
            _ => 32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_configuration_and_their_case_counts() {
        for algorithm in ALL {
            let read: Algorithm = serde_json::from_value(algorithm.name().into()).unwrap();
            assert_eq!((read, Algorithm::named(algorithm.name())), (algorithm, Some(algorithm)));
        }
        for name in ["none", "None", "NONE", "", "rs256", "RS256 ", "eddsa", "ES256K", "HS1"] {
            assert_eq!(Algorithm::named(name), None, "{name}");
        }
    }
}
