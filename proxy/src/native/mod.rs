//! Built-in filters: the same contract as a component's, in the proxy's own binary.
//!
//! Control plane makes them from a name and a configuration; the data plane sees [`Native`] only.

mod headers;
mod request_id;

use std::sync::Arc;

pub use request_id::DEFAULT_FIELD as REQUEST_ID;

use crate::filter::Native;

/// Every built-in filter by its name in `native:`.
pub const NAMES: [&str; 2] = ["headers", "request-id"];

/// The built-in filter of that name; the error says what is wrong with the name or the configuration.
pub fn build(name: &str, config: &serde_json::Value) -> Result<Arc<dyn Native>, String> {
    match name {
        "headers" => Ok(Arc::new(headers::Headers::configure(config)?)),
        "request-id" => Ok(Arc::new(request_id::RequestId::configure(config)?)),
        _ => Err(format!(
            "there is no built-in filter `{name}`; there are: {}",
            NAMES.join(", ")
        )),
    }
}

/// A filter's `config` as `T`; `null` is an empty mapping.
fn parse<T: serde::de::DeserializeOwned>(config: &serde_json::Value) -> Result<T, String> {
    let config = if config.is_null() {
        serde_json::json!({})
    } else {
        config.clone()
    };
    serde_json::from_value(config).map_err(|error| error.to_string())
}
