//! A filter's tests, native: a proxy and its exchanges in memory, which refuse what the real ones refuse.
//!
//! ```
//! # use tamis_filter::{Exchange, Failure, Filter, Request, RequestVerdict};
//! # #[derive(Clone)]
//! # struct Tenant;
//! # impl Filter for Tenant {
//! #     type Config = Option<serde_json::Value>;
//! #     fn configure(_: Self::Config) -> Result<Self, String> { Ok(Tenant) }
//! #     fn on_request_head(&mut self, request: &mut Request, _: &mut Exchange) -> Result<RequestVerdict, Failure> {
//! #         request.set_header("x-filter", "1")?;
//! #         Ok(RequestVerdict::Proceed)
//! #     }
//! # }
//! use tamis_filter::testing::{self, json};
//!
//! let tenant: Tenant = testing::configure(json!({ "allow": ["acme"] })).unwrap();
//! let mut exchange = testing::Exchange::get("/items?page=2").with_header("x-tenant", "acme");
//! assert_eq!(exchange.request_head(&tenant), RequestVerdict::Proceed);
//! assert_eq!(exchange.request.header("x-filter"), Some("1"));
//! ```
//!
//! [`Exchange`] runs single hooks, or all of them with [`run`](Exchange::run). [`Proxy`] is what exchanges share: the
//! clock, the table of `key_value`, the answers to outbound calls, the log. An exchange that is made without one has one
//! of its own.
//!
//! Not imitated: limits of the proxy's configuration (`limits.header_bytes`, `limits.body_bytes`, outbound calls, log
//! lines, metric names), and values that leave the table of `key_value` to make room for others.

mod exchange;
pub(crate) mod host;
mod message;
mod outbound;
mod proxy;
mod table;

pub use serde_json::json;

pub use exchange::{Exchange, Peer, Transcript};
pub use message::{Request, Response};
pub use proxy::Proxy;

use crate::{Filter, configuration};

/// Configures a filter as the proxy does; `Value::Null` stands for a filter without a `config`.
///
/// # Errors
///
/// What the proxy would show: the configuration does not fit `Config`, or the filter refuses it.
pub fn configure<F: Filter>(config: serde_json::Value) -> Result<F, String> {
    Proxy::new().within(|| configuration::configure(&config.to_string()))
}
