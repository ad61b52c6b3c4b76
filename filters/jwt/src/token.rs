//! A token in the compact serialization (RFC 7515 section 7.1), taken apart and not yet believed.

use serde_json::{Map, Value};

use crate::algorithm::Algorithm;
use crate::refusal::{Invalid, Refusal};
use crate::{base64, json};

/// What a token says of itself. Of its header only these members count: a key or the address of one that comes with a
/// token (`jwk`, `jku`, `x5c`, `x5u`) is the sender's word (RFC 8725 section 3.10).
#[derive(Debug)]
pub struct Token<'a> {
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    pub kind: Option<String>,
    /// Header and payload, as they are signed.
    pub signed: &'a str,
    pub signature: Vec<u8>,
    payload: Vec<u8>,
}

impl<'a> Token<'a> {
    pub fn parse(text: &'a str) -> Result<Self, Refusal> {
        let parts: Vec<&str> = text.splitn(4, '.').collect();
        let [header, payload, signature] = parts[..] else {
            return Err(Invalid::Malformed.into());
        };
        let signed = &text[..header.len() + 1 + payload.len()];
        let header = base64::decode(header).ok_or(Invalid::Malformed)?;
        let mut header = json::object(&header).ok_or(Invalid::Malformed)?;
        // RFC 7515 section 4.1.11: an extension that is not understood makes the token invalid. None is understood, and
        // an empty list is not allowed.
        if header.contains_key("crit") {
            return Err(Invalid::Malformed.into());
        }
        let algorithm = text_member(&mut header, "alg")?.ok_or(Invalid::Malformed)?;
        Ok(Token {
            algorithm: Algorithm::named(&algorithm).ok_or(Invalid::Algorithm)?,
            kid: text_member(&mut header, "kid")?,
            kind: text_member(&mut header, "typ")?,
            signed,
            signature: base64::decode(signature).ok_or(Invalid::Malformed)?,
            payload: base64::decode(payload).ok_or(Invalid::Malformed)?,
        })
    }

    /// The claims. Only for a token whose signature was verified.
    pub fn claims(&self) -> Result<Map<String, Value>, Refusal> {
        Ok(json::object(&self.payload).ok_or(Invalid::Malformed)?)
    }
}

fn text_member(header: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Refusal> {
    match header.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Invalid::Malformed.into()),
    }
}
