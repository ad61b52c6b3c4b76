//! `native: headers`: sets, appends and removes fields of requests and responses.
//!
//! Data plane, made by the control plane. Fields are checked when the configuration is loaded, so an exchange only
//! clones them.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::Value;

use crate::filter::{Native, RequestVerdict, Verdict};
use crate::head::{self, Field, Message};

pub struct Headers {
    request: Edits,
    response: Edits,
}

/// Applied in this order: removed, set, appended.
struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<Field>,
    append: Vec<Field>,
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
            request: Edits::new(config.request, "request")?,
            response: Edits::new(config.response, "response")?,
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

impl Edits {
    fn new(config: EditsConfig, half: &str) -> Result<Self, String> {
        let refused = |name: &str, error| format!("{half}: field `{name}` cannot be written: {error:?}");
        let fields = |fields: BTreeMap<String, String>| {
            fields
                .into_iter()
                .map(|(name, value)| {
                    head::writable(name.as_bytes(), value.as_bytes()).map_err(|error| refused(&name, error))
                })
                .collect::<Result<Vec<_>, _>>()
        };
        let remove = config
            .remove
            .iter()
            .map(|name| head::writable_name(name.as_bytes()).map_err(|error| refused(name, error)));
        Ok(Self {
            remove: remove.collect::<Result<_, _>>()?,
            set: fields(config.set)?,
            append: fields(config.append)?,
        })
    }

    /// A head that is full keeps what it has; the same bound holds for guests.
    fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for field in &self.set {
            let _ = head::insert(headers, field.clone());
        }
        for field in &self.append {
            let _ = head::append(headers, field.clone());
        }
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
        let mut headers = HeaderMap::new();
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
