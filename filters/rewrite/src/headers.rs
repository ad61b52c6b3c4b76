//! `request_headers` and `response_headers`: edits of header fields, checked once and applied in order.

use std::collections::BTreeMap;

use serde::Deserialize;
use tamis_filter::check_header;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadersConfig {
    set: BTreeMap<String, String>,
    append: BTreeMap<String, String>,
    remove: Vec<String>,
}

/// One edit of a header field, known to be allowed.
pub enum Edit {
    Remove(String),
    Set(String, String),
    Append(String, String),
}

impl HeadersConfig {
    /// Checks the edits and brings them into order; an error names its edit. `key` is where they stand.
    pub fn edits(self, key: &str) -> Result<Vec<Edit>, String> {
        let remove = self.remove.into_iter().map(Edit::Remove);
        let set = self.set.into_iter().map(|(name, value)| Edit::Set(name, value));
        let append = self.append.into_iter().map(|(name, value)| Edit::Append(name, value));
        remove.chain(set).chain(append).map(|edit| edit.checked(key)).collect()
    }
}

impl Edit {
    fn checked(self, key: &str) -> Result<Self, String> {
        let (verb, name, value) = match &self {
            Edit::Remove(name) => ("remove", name, ""),
            Edit::Set(name, value) => ("set", name, value.as_str()),
            Edit::Append(name, value) => ("append", name, value.as_str()),
        };
        match check_header(name, value) {
            Ok(()) => Ok(self),
            Err(error) => Err(format!("{key}.{verb} `{name}`: {error}")),
        }
    }
}
