//! A filter's own `config` block: opaque here, JSON for the filter, and the one place for secrets.
//!
//! Control plane. Everything that came from a variable or a file is kept out of what may be shown.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value as Json;

use crate::expand::refers_to_variable;
use crate::node::{Node, Value};
use crate::reader::{FromNode, Reader, quote};

/// Keys, tokens and certificates are smaller; a list of thousands of them belongs elsewhere.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Stands for a secret wherever a configuration is shown.
pub(crate) const REDACTED: &str = "[redacted]";

/// A filter's `config` block as JSON, `null` when there is none.
#[derive(Clone, Default, PartialEq)]
pub struct Settings {
    /// For the filter: secrets are resolved.
    pub value: Json,
    /// For people: each string that came from a variable or a file is `[redacted]`.
    pub redacted: Json,
}

/// Shows the redacted form alone, so that no log can hold a secret by accident.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.redacted.fmt(f)
    }
}

impl FromNode for Settings {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::Null => Some(Self::plain(Json::Null)),
            Value::Bool(value) => Some(Self::plain(Json::Bool(*value))),
            Value::Number(number) => Some(Self::plain(Json::Number(number.clone()))),
            Value::Text(written) => text(node, written, reader),
            Value::List(items) => Some(list(items, reader)),
            Value::Map(entries) => Some(map(entries, reader)),
        }
    }
}

impl Settings {
    fn plain(value: Json) -> Self {
        Self {
            redacted: value.clone(),
            value,
        }
    }

    fn secret(text: String) -> Self {
        Self {
            value: Json::String(text),
            redacted: Json::String(REDACTED.to_owned()),
        }
    }
}

impl JsonSchema for Settings {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Settings".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!(true)
    }
}

/// Text from where [`Settings`] have theirs, for what takes nothing else. It is never shown.
pub(crate) struct SecretText(pub(crate) String);

impl FromNode for SecretText {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        // Says what was expected in the place of anything else.
        let Value::Text(written) = &node.value else {
            return String::from_node(node, reader).map(Self);
        };
        Some(Self(match source(node, written, reader)? {
            Source::Here(text) | Source::Elsewhere(text) => text,
        }))
    }
}

impl JsonSchema for SecretText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "SecretText".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

/// Where text came from.
enum Source {
    /// The configuration itself.
    Here(String),
    /// A variable or a file.
    Elsewhere(String),
}

fn text(node: &Node, written: &str, reader: &mut Reader) -> Option<Settings> {
    Some(match source(node, written, reader)? {
        Source::Here(text) => Settings::plain(Json::String(text)),
        Source::Elsewhere(text) => Settings::secret(text),
    })
}

/// `file:` counts only as written: a variable's value must not make the proxy read a file.
fn source(node: &Node, written: &str, reader: &mut Reader) -> Option<Source> {
    let expanded = reader.expanded(node, written)?;
    if written.starts_with("file:") {
        let path = expanded.strip_prefix("file:").unwrap_or(&expanded);
        let result = secret_file(path, reader);
        return result
            .map(Source::Elsewhere)
            .map_err(|message| reader.error(&reader.place(node), message))
            .ok();
    }
    Some(match refers_to_variable(written) {
        true => Source::Elsewhere(expanded),
        false => Source::Here(expanded),
    })
}

fn secret_file(path: &str, reader: &mut Reader) -> Result<String, String> {
    if path.is_empty() {
        return Err("`file:` without a path; write it as in `file:secrets/token`".to_owned());
    }
    let content = reader.file(path, MAX_SECRET_BYTES)?;
    let mut content = String::from_utf8(content).map_err(|_| format!("file {path}: not UTF-8"))?;
    // Editors end a file with a newline that is no part of the secret.
    if content.ends_with('\n') {
        content.pop();
        if content.ends_with('\r') {
            content.pop();
        }
    }
    Ok(content)
}

fn list(items: &[Node], reader: &mut Reader) -> Settings {
    let (mut values, mut redacted) = (Vec::new(), Vec::new());
    for (index, item) in items.iter().enumerate() {
        let settings = reader.within(format!("[{index}]"), |reader| Settings::from_node(item, reader));
        let settings = settings.unwrap_or_default();
        values.push(settings.value);
        redacted.push(settings.redacted);
    }
    Settings {
        value: values.into(),
        redacted: redacted.into(),
    }
}

fn map(entries: &[(crate::node::Key, Node)], reader: &mut Reader) -> Settings {
    let (mut values, mut redacted) = (serde_json::Map::new(), serde_json::Map::new());
    for (key, node) in entries {
        let settings = reader.within(quote(&key.text), |reader| Settings::from_node(node, reader));
        let settings = settings.unwrap_or_default();
        values.insert(key.text.clone(), settings.value);
        redacted.insert(key.text.clone(), settings.redacted);
    }
    Settings {
        value: values.into(),
        redacted: redacted.into(),
    }
}
