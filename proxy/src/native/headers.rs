//! `native: headers`: sets, appends and removes fields of requests and responses.
//!
//! Data plane, made by the control plane. The same [`Edits`] as a route's.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::edits::{Edits, Refused};
use crate::filter::{Native, RequestVerdict, Verdict};
use crate::head::Message;

pub struct Headers {
    request: Edits,
    response: Edits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    request: EditsConfig,
    #[serde(default)]
    response: EditsConfig,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EditsConfig {
    set: BTreeMap<String, String>,
    append: BTreeMap<String, String>,
    remove: Vec<String>,
}

impl Headers {
    pub fn configure(config: &Value) -> Result<Self, String> {
        let config: Config = super::parse(config)?;
        Ok(Self {
            request: config.request.edits("request")?,
            response: config.response.edits("response")?,
        })
    }
}

impl Native for Headers {
    fn on_request_head(&self, message: &mut Message) -> RequestVerdict {
        self.request.apply(&mut message.request.headers);
        RequestVerdict::Proceed
    }

    fn on_response_head(&self, message: &mut Message) -> Verdict {
        if let Some(response) = &mut message.response {
            self.response.apply(&mut response.headers);
        }
        Verdict::Proceed
    }
}

impl EditsConfig {
    fn edits(&self, half: &str) -> Result<Edits, String> {
        Edits::new(&self.remove, &self.set, &self.append)
            .map_err(|Refused { name, error }| format!("{half}: field `{name}` cannot be written: {error:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn removes_then_sets_then_appends() {
        let filter = Headers::configure(
            &json!({"request": {"remove": ["a"], "set": {"b": "2"}, "append": {"b": "3", "c": "4"}}}),
        )
        .unwrap();
        let mut headers = http::HeaderMap::new();
        headers.insert("a", "1".parse().unwrap());
        headers.insert("b", "1".parse().unwrap());
        filter.request.apply(&mut headers);
        let fields: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(fields, [("b", "2"), ("b", "3"), ("c", "4")]);
    }

    #[test]
    fn refuses_what_belongs_to_the_host() {
        for name in ["content-length", "Connection", "host", "bad name", ""] {
            let refused = Headers::configure(&json!({"response": {"set": {name: "x"}}}));
            assert!(
                refused.is_err_and(|error| error.starts_with("response: field")),
                "{name}"
            );
        }
        assert!(Headers::configure(&json!({"answer": {}})).is_err_and(|error| error.contains("answer")));
    }
}
