//! `native: request-id`: says where an exchange's id comes from and where it is shown.
//!
//! Data plane, made by the control plane. Every exchange has an id of its own, 32 hex digits, sent upstream as
//! `x-request-id`. This filter renames the field, believes a client's id if told to, and returns the id to the client.

use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;

use crate::filter::{Native, RequestVerdict, Verdict};
use crate::head::{self, Message};

/// The field that carries the id when nothing else is said.
pub const DEFAULT_FIELD: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id of a client that is believed.
const MAX_CLIENT_ID: usize = 128;

pub struct RequestId {
    field: HeaderName,
    trust_client: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default = "default_field")]
    header: String,
    #[serde(default)]
    trust_client: bool,
}

fn default_field() -> String {
    DEFAULT_FIELD.as_str().to_owned()
}

impl RequestId {
    pub fn configure(config: &Value) -> Result<Self, String> {
        let Config { header, trust_client } = super::parse(config)?;
        let field = head::writable_name(header.as_bytes())
            .map_err(|error| format!("header: `{header}` cannot be written: {error:?}"))?;
        Ok(Self { field, trust_client })
    }
}

impl Native for RequestId {
    fn on_request_head(&self, message: &mut Message) -> RequestVerdict {
        if self.trust_client
            && let Some(id) = message
                .client_request_id
                .take()
                .or_else(|| message.request.headers.get(&self.field).cloned())
            && believable(&id)
        {
            message.facts.request_id = id;
        }
        if self.field != DEFAULT_FIELD {
            message.request.headers.remove(DEFAULT_FIELD);
        }
        message
            .request
            .headers
            .insert(self.field.clone(), message.facts.request_id.clone());
        RequestVerdict::Proceed
    }

    fn on_response_head(&self, message: &mut Message) -> Verdict {
        if let Some(response) = &mut message.response {
            response
                .headers
                .insert(self.field.clone(), message.facts.request_id.clone());
        }
        Verdict::Proceed
    }
}

/// Letters, digits and `-_.:` only, so that an id can stand in any log.
fn believable(id: &HeaderValue) -> bool {
    let bytes = id.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= MAX_CLIENT_ID
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn believes_plain_ids_only() {
        for (id, expected) in [("abc-1.2_3:4", true), ("", false), ("a b", false), ("a\"b", false)] {
            assert_eq!(believable(&HeaderValue::from_static(id)), expected, "{id:?}");
        }
        assert!(!believable(&HeaderValue::from_str(&"a".repeat(129)).unwrap()));
    }
}
