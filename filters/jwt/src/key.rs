//! One key: what it may verify, and the verification.
//!
//! A key is of one type, and an algorithm works with one type of key: a public key can never become an HMAC's secret
//! (RFC 8725 sections 2.1 and 3.1), because it is never stored as one.

use ed25519_dalek as ed25519;
use hmac::{Hmac, KeyInit, Mac};
use rsa::signature::Verifier;
use rsa::{BoxedUint, pkcs1v15, pss};
use serde_json::{Map, Value};
use sha2::{Sha256, Sha384, Sha512};

use crate::algorithm::{Algorithm, Family};
use crate::base64;

/// RFC 7518 section 3.3 asks for at least 2048 bits.
const MIN_RSA_BITS: usize = 2048;
/// The time to verify grows with the square of the size: 2.5 ms at 4096 bits, a quarter of the default `limits.cpu`.
const MAX_RSA_BITS: usize = 4096;

/// A key. One of a key set, so one of an instance.
#[derive(Debug)]
pub struct Key {
    /// None for a key without a name, which stands for any.
    pub kid: Option<String>,
    /// What it may verify; never empty, and all of its own type.
    algorithms: Vec<Algorithm>,
    material: Material,
}

enum Material {
    Secret(Vec<u8>),
    Rsa(rsa::PublicKey),
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
    Ed25519(ed25519::VerifyingKey),
}

/// Tells the type only: a secret must not get into a log.
impl std::fmt::Debug for Material {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.family().fmt(formatter)
    }
}

/// Whether a JSON Web Key is of use here.
#[derive(Debug)]
pub enum Read {
    Key(Box<Key>),
    /// Of another use, type or algorithm: such keys are to be ignored (RFC 7517 section 5).
    OfNoUse,
    /// Of a known type, and not a good key.
    Faulty(&'static str),
}

impl Key {
    /// A key from a JSON Web Key (RFC 7517), if it may verify one of the allowed algorithms.
    pub fn from_jwk(jwk: &Map<String, Value>, allowed: &[Algorithm]) -> Read {
        match parse(jwk, allowed) {
            Ok(Some(key)) => Read::Key(Box::new(key)),
            Ok(None) => Read::OfNoUse,
            Err(fault) => Read::Faulty(fault),
        }
    }

    /// An HMAC's secret for these algorithms. A secret must be as long as the digest (RFC 7518 section 3.2).
    pub fn from_secret(kid: Option<String>, secret: Vec<u8>, algorithms: Vec<Algorithm>) -> Result<Self, String> {
        let least = algorithms.iter().map(|algorithm| algorithm.least_secret()).max();
        match least {
            Some(least) if secret.len() >= least => Ok(Key {
                kid,
                algorithms,
                material: Material::Secret(secret),
            }),
            Some(least) => Err(format!(
                "{} bytes; its algorithms ask for {least} at least",
                secret.len()
            )),
            None => Err("`algorithms` allows none that works with a secret".to_owned()),
        }
    }

    pub fn is_named(&self, kid: Option<&str>) -> bool {
        match (&self.kid, kid) {
            (Some(own), Some(kid)) => own == kid,
            _ => true,
        }
    }

    pub fn may_verify(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether the signature over this text is by this key, with that algorithm.
    pub fn verify(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        if !self.may_verify(algorithm) {
            return false;
        }
        match (&self.material, algorithm) {
            (Material::Secret(secret), Algorithm::Hs256) => verify_mac::<Hmac<Sha256>>(secret, signed, signature),
            (Material::Secret(secret), Algorithm::Hs384) => verify_mac::<Hmac<Sha384>>(secret, signed, signature),
            (Material::Secret(secret), Algorithm::Hs512) => verify_mac::<Hmac<Sha512>>(secret, signed, signature),
            (Material::Rsa(key), algorithm) => verify_rsa(key, algorithm, signed, signature),
            // The signature is R and S, one after the other (RFC 7518 section 3.4); neither may be zero.
            (Material::P256(key), Algorithm::Es256) => {
                p256::ecdsa::Signature::from_slice(signature).is_ok_and(|rs| key.verify(signed, &rs).is_ok())
            }
            (Material::P384(key), Algorithm::Es384) => {
                p384::ecdsa::Signature::from_slice(signature).is_ok_and(|rs| key.verify(signed, &rs).is_ok())
            }
            // Strict: a key or signature of small order would verify more than one text.
            (Material::Ed25519(key), Algorithm::EdDsa | Algorithm::Ed25519) => {
                ed25519::Signature::from_slice(signature).is_ok_and(|rs| key.verify_strict(signed, &rs).is_ok())
            }
            _ => false,
        }
    }
}

impl Material {
    fn family(&self) -> Family {
        match self {
            Material::Secret(_) => Family::Secret,
            Material::Rsa(_) => Family::Rsa,
            Material::P256(_) => Family::P256,
            Material::P384(_) => Family::P384,
            Material::Ed25519(_) => Family::Ed25519,
        }
    }
}

/// Whole MACs only; compared in a time that does not depend on where they differ.
fn verify_mac<M: Mac + KeyInit>(secret: &[u8], signed: &[u8], signature: &[u8]) -> bool {
    let mac = <M as KeyInit>::new_from_slice(secret);
    mac.is_ok_and(|mac| mac.chain_update(signed).verify_slice(signature).is_ok())
}

/// PKCS #1 v1.5, or PSS with a salt as long as the digest (RFC 7518 sections 3.3 and 3.5).
fn verify_rsa(key: &rsa::PublicKey, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
    let v15 = pkcs1v15::Signature::try_from(signature);
    let salted = pss::Signature::try_from(signature);
    let (Ok(v15), Ok(salted)) = (v15, salted) else {
        return false;
    };
    let key = key.clone();
    let verified = match algorithm {
        Algorithm::Rs256 => pkcs1v15::VerifyingKey::<Sha256>::new(key).verify(signed, &v15),
        Algorithm::Rs384 => pkcs1v15::VerifyingKey::<Sha384>::new(key).verify(signed, &v15),
        Algorithm::Rs512 => pkcs1v15::VerifyingKey::<Sha512>::new(key).verify(signed, &v15),
        Algorithm::Ps256 => pss::VerifyingKey::<Sha256>::new(key).verify(signed, &salted),
        Algorithm::Ps384 => pss::VerifyingKey::<Sha384>::new(key).verify(signed, &salted),
        Algorithm::Ps512 => pss::VerifyingKey::<Sha512>::new(key).verify(signed, &salted),
        _ => return false,
    };
    verified.is_ok()
}

fn parse(jwk: &Map<String, Value>, allowed: &[Algorithm]) -> Result<Option<Key>, &'static str> {
    let Some(family) = family(jwk)? else { return Ok(None) };
    let algorithms = algorithms(jwk, family, allowed)?;
    if algorithms.is_empty() || !is_for_signatures(jwk)? {
        return Ok(None);
    }
    let material = match family {
        Family::Secret => return Err("a secret has no place in a key set; write it under `secrets`"),
        Family::Rsa => Material::Rsa(rsa_key(jwk)?),
        Family::P256 => Material::P256(
            p256::ecdsa::VerifyingKey::from_sec1_bytes(&point::<32>(jwk)?).map_err(|_| "not a point of its curve")?,
        ),
        Family::P384 => Material::P384(
            p384::ecdsa::VerifyingKey::from_sec1_bytes(&point::<48>(jwk)?).map_err(|_| "not a point of its curve")?,
        ),
        Family::Ed25519 => Material::Ed25519(ed25519_key(jwk)?),
    };
    Ok(Some(Key {
        kid: text(jwk, "kid")?.map(str::to_owned),
        algorithms,
        material,
    }))
}

fn family(jwk: &Map<String, Value>) -> Result<Option<Family>, &'static str> {
    Ok(match (text(jwk, "kty")?, text(jwk, "crv")?) {
        (None, _) => return Err("`kty` is missing"),
        (Some("RSA"), _) => Some(Family::Rsa),
        (Some("EC"), Some("P-256")) => Some(Family::P256),
        (Some("EC"), Some("P-384")) => Some(Family::P384),
        (Some("OKP"), Some("Ed25519")) => Some(Family::Ed25519),
        (Some("oct"), _) => Some(Family::Secret),
        _ => None,
    })
}

/// The allowed algorithms of the key's type; only its own, when it names one.
fn algorithms(jwk: &Map<String, Value>, family: Family, allowed: &[Algorithm]) -> Result<Vec<Algorithm>, &'static str> {
    let own = text(jwk, "alg")?;
    let suits = |algorithm: &Algorithm| {
        algorithm.family() == family && own.is_none_or(|own| Algorithm::named(own) == Some(*algorithm))
    };
    Ok(allowed.iter().copied().filter(suits).collect())
}

/// RFC 7517 sections 4.2 and 4.3.
fn is_for_signatures(jwk: &Map<String, Value>) -> Result<bool, &'static str> {
    if text(jwk, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Ok(false);
    }
    match jwk.get("key_ops") {
        None => Ok(true),
        Some(Value::Array(operations)) => Ok(operations.iter().any(|operation| operation == "verify")),
        Some(_) => Err("`key_ops` is not a list"),
    }
}

fn rsa_key(jwk: &Map<String, Value>) -> Result<rsa::PublicKey, &'static str> {
    let modulus = unsigned(jwk, "n")?;
    let exponent = unsigned(jwk, "e")?;
    if modulus.bit_width_vartime() < MIN_RSA_BITS as u32 {
        return Err("an RSA key of fewer than 2048 bits");
    }
    rsa::PublicKey::new_with_size_limits(modulus, exponent, MIN_RSA_BITS..=MAX_RSA_BITS)
        .map_err(|_| "not an RSA key of 2048 to 4096 bits")
}

/// A number, high byte first (RFC 7518 section 2). Zeros in front, which are against the rule and met all the same, are
/// not counted.
fn unsigned(jwk: &Map<String, Value>, name: &str) -> Result<BoxedUint, &'static str> {
    let bytes = bytes(jwk, name)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    match &bytes[zeros..] {
        [] => Err("a number of its key is zero"),
        // Bounded before any arithmetic.
        digits if digits.len() > MAX_RSA_BITS / 8 => Err("not an RSA key of 2048 to 4096 bits"),
        digits => Ok(BoxedUint::from_be_slice_vartime(digits)),
    }
}

/// An uncompressed point of SEC 1, whose coordinates have their full length (RFC 7518 section 6.2.1.2).
fn point<const N: usize>(jwk: &Map<String, Value>) -> Result<Vec<u8>, &'static str> {
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != N || y.len() != N {
        return Err("a coordinate is not of its curve's length");
    }
    Ok([&[4], &x[..], &y[..]].concat())
}

fn ed25519_key(jwk: &Map<String, Value>) -> Result<ed25519::VerifyingKey, &'static str> {
    let bytes: [u8; 32] = bytes(jwk, "x")?.try_into().map_err(|_| "`x` is not of 32 bytes")?;
    let key = ed25519::VerifyingKey::from_bytes(&bytes).map_err(|_| "not a point of its curve")?;
    if key.is_weak() {
        return Err("a weak key");
    }
    Ok(key)
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    let text = text(jwk, name)?.ok_or("a part of its key is missing")?;
    base64::decode(text).ok_or("a part of its key is not base64url without padding")
}

fn text<'a>(jwk: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, &'static str> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err("a member that must be a text is none"),
    }
}
