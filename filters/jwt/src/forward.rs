//! Claims that go on with the request, as header fields, or stay with the exchange, as attributes.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tamis_filter::{Exchange, Failure, Request, check_header};

use crate::claims::ClaimName;
use crate::refusal::{Invalid, Refusal};

/// What an attribute of the exchange holds; a header field of a claim needs no more.
const MAX_VALUE_BYTES: usize = 4096;
/// Half of the attributes that an exchange has; other filters need some.
const MAX_ATTRIBUTES: usize = 16;

/// Which claims go where.
#[derive(Debug)]
pub struct Forward {
    headers: Vec<(String, ClaimName)>,
    attributes: Vec<(String, ClaimName)>,
}

/// Claims as texts, each with the name of its field or attribute.
#[derive(Debug)]
pub struct Rendered<'a> {
    headers: Vec<(&'a str, String)>,
    attributes: Vec<(&'a str, String)>,
}

impl Forward {
    /// `taken` is the field that the token comes in.
    pub fn new(
        headers: BTreeMap<String, ClaimName>,
        attributes: BTreeMap<String, ClaimName>,
        taken: Option<&str>,
    ) -> Result<Self, String> {
        for (name, claim) in &headers {
            let setting = format!("claim_headers `{name}`");
            claim.check(&setting)?;
            check_header(name, "").map_err(|error| format!("{setting}: {error}"))?;
            if taken.is_some_and(|taken| is_same(taken, name)) {
                return Err(format!("{setting}: the token comes in it"));
            }
        }
        for (name, claim) in &attributes {
            claim.check(&format!("claim_attributes `{name}`"))?;
        }
        if attributes.len() > MAX_ATTRIBUTES || attributes.contains_key("") {
            return Err(format!("claim_attributes: at most {MAX_ATTRIBUTES}, each with a name"));
        }
        Ok(Forward {
            headers: headers.into_iter().collect(),
            attributes: attributes.into_iter().collect(),
        })
    }

    /// Removes the fields of those names: only this filter may say what a claim is. `x_user` goes as `x-user` does,
    /// since the many servers that hand fields on as variables (RFC 3875 section 4.1.18) cannot tell them apart.
    pub fn remove_sent(&self, request: &mut Request) -> Result<(), Failure> {
        if self.headers.is_empty() {
            return Ok(());
        }
        for header in request.headers() {
            if self.headers.iter().any(|(name, _)| is_same(name, &header.name)) {
                request.remove_header(&header.name)?;
            }
        }
        Ok(())
    }

    /// The claims that the token has. One that cannot be passed on as it is makes the token one that cannot be used.
    pub fn render(&self, claims: &Map<String, Value>) -> Result<Rendered<'_>, Refusal> {
        Ok(Rendered {
            headers: render(&self.headers, claims)?,
            attributes: render(&self.attributes, claims)?,
        })
    }
}

impl Rendered<'_> {
    pub fn apply(&self, request: &mut Request, exchange: &mut Exchange) -> Result<(), Failure> {
        for (name, value) in &self.headers {
            request.set_header(name, value)?;
        }
        for (name, value) in &self.attributes {
            exchange.set_attribute(name, value)?;
        }
        Ok(())
    }
}

fn render<'a>(
    names: &'a [(String, ClaimName)],
    claims: &Map<String, Value>,
) -> Result<Vec<(&'a str, String)>, Refusal> {
    let found = names
        .iter()
        .filter_map(|(name, claim)| Some((name.as_str(), claim.find(claims)?)));
    let rendered = found.filter(|(_, value)| !value.is_null()).map(|(name, value)| {
        let text = text(value).filter(|text| is_fit(text)).ok_or(Invalid::Claim)?;
        Ok((name, text))
    });
    rendered.collect()
}

/// A text, number or truth value as itself; a list of them with commas (RFC 9110 section 5.6.1); no objects.
fn text(value: &Value) -> Option<String> {
    let Value::Array(items) = value else {
        return scalar(value);
    };
    // A comma in an item would make two of one.
    let item = |item| scalar(item).filter(|text| !text.contains(',') && text.trim() == text);
    Some(items.iter().map(item).collect::<Option<Vec<_>>>()?.join(","))
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// RFC 9110 section 5.5: no control characters, and white space at the ends is no part of a value, so that a name with
/// some would arrive as another.
fn is_fit(text: &str) -> bool {
    text.len() <= MAX_VALUE_BYTES && text.trim() == text && check_header("x", text).is_ok() && !text.contains('\t')
}

/// Whether two fields are one to a server that turns `-` into `_`.
fn is_same(one: &str, other: &str) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    one.bytes().map(plain).eq(other.bytes().map(plain))
}
