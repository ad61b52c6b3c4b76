//! Write a Tamis filter in Rust: a struct, one trait and one attribute.
//!
//! ```
//! use std::rc::Rc;
//!
//! use serde::Deserialize;
//! use tamis_filter::{Exchange, Failure, Filter, Reply, Request, RequestVerdict, Response, Verdict, filter};
//!
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     version: String,
//! }
//!
//! /// Serves one version of an API, and says which.
//! #[derive(Clone)]
//! struct ApiVersion {
//!     version: Rc<str>,
//! }
//!
//! #[filter]
//! impl Filter for ApiVersion {
//!     type Config = Config;
//!
//!     fn configure(config: Config) -> Result<Self, String> {
//!         Ok(ApiVersion { version: config.version.into() })
//!     }
//!
//!     fn on_request_head(&mut self, request: &mut Request, exchange: &mut Exchange) -> Result<RequestVerdict, Failure> {
//!         if request.header("x-version").is_some_and(|version| version != *self.version) {
//!             return Ok(Reply::new(404).text("there is no such version\n").into());
//!         }
//!         request.remove_header("x-version")?;
//!         exchange.set_attribute("version", &self.version)?;
//!         Ok(RequestVerdict::Proceed)
//!     }
//!
//!     fn on_response_head(&mut self, _: &Request, response: &mut Response, _: &mut Exchange) -> Result<Verdict, Failure> {
//!         response.set_header("x-version", &*self.version)?;
//!         Ok(Verdict::Proceed)
//!     }
//! }
//!
//! // In a filter these lines are its `#[test]`, and run with plain `cargo test`: no proxy, no wasm.
//! use tamis_filter::testing::{self, json};
//!
//! let filter: ApiVersion = testing::configure(json!({ "version": "2" })).unwrap();
//! let mut exchange = testing::Exchange::get("/items").with_header("x-version", "2");
//! assert_eq!(exchange.request_head(&filter), RequestVerdict::Proceed);
//! assert_eq!(exchange.request.header("x-version"), None);
//! assert_eq!(exchange.attribute("version"), Some("2"));
//! assert_eq!(exchange.response_head(&filter), Verdict::Proceed);
//! assert_eq!(exchange.response.header("x-version"), Some("2"));
//! ```
//!
//! Its `Cargo.toml`:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [dependencies]
//! tamis-filter = { path = "../../filter-abi" }
//! serde = { version = "1", features = ["derive"] }
//!
//! [profile.release]
//! opt-level = "s"
//! lto = true
//! codegen-units = 1
//! panic = "abort"
//! strip = true
//! ```
//!
//! A folder `filters/api-version` with these two files becomes `filters/target/components/api-version.wasm` by
//! `make filters` (the profile is the workspace's there). Elsewhere, build it for `wasm32-unknown-unknown`, which gives a
//! core module, and make a component of that with this crate's program `componentize`:
//!
//! ```sh
//! cargo install --path filter-abi --features componentize
//! cargo build --release --target wasm32-unknown-unknown
//! componentize target/wasm32-unknown-unknown/release/api_version.wasm -o api-version.wasm
//! ```
//!
//! # What holds for every filter
//!
//! * The component exports exactly the hooks that are written in the `impl` block. A hook that is not there costs
//!   nothing, not even a call.
//! * An instance serves one exchange (a request and its response) at a time and then the next one: what a filter
//!   keeps in `self` outlives the exchange, until the proxy drops the instance. Never keep a client's data there.
//! * A hook that returns a [`Failure`] or panics leaves a line in the proxy's log and fails its exchange, as the
//!   filter's `on_failure` says; the proxy drops the instance and makes a new one.
//! * [`log`] is always there; [`metrics`] and [`clock`] are linked into the component only when called, and then must
//!   be granted in the configuration.

mod body;
mod configuration;
mod connection;
mod exchange;
mod failure;
mod filter;
mod header;
mod hook;
#[cfg(any(target_family = "wasm", test))]
mod instance;
mod outcome;
mod reply;
mod request;
mod response;
mod verdict;

pub mod clock;
pub mod key_value;
pub mod log;
pub mod metrics;
pub mod outbound;
pub mod random;

#[cfg(not(target_family = "wasm"))]
pub mod testing;

/// The guest's side of the WIT: what the proxy offers.
#[cfg(target_family = "wasm")]
#[doc(hidden)]
#[path = "guest.rs"]
pub mod __guest;

#[cfg(target_family = "wasm")]
use __guest::host;
#[cfg(not(target_family = "wasm"))]
use testing::host;

pub use body::HeldBody;
pub use connection::{Connection, Peer};
pub use exchange::Exchange;
pub use failure::{EditError, Failure};
pub use filter::Filter;
pub use header::{Header, HeaderValue, check_header};
pub use outcome::Outcome;
pub use reply::Reply;
pub use request::Request;
pub use response::Response;
pub use verdict::{Admission, BodyVerdict, EndVerdict, HeldVerdict, OverMax, RequestVerdict, Verdict};

/// Makes a component of an `impl Filter for ...` block: the component exports exactly the hooks that are in the block.
///
/// Natively it changes nothing, so that the filter can be tested with plain `cargo test`. One crate holds one filter. A
/// filter without a hook does not compile:
///
/// ```compile_fail
/// struct Idle;
///
/// #[tamis_filter::filter]
/// impl tamis_filter::Filter for Idle {
///     type Config = ();
///
///     fn configure((): ()) -> Result<Self, String> {
///         Ok(Idle)
///     }
/// }
/// ```
pub use tamis_filter_macros::filter;

/// What `#[filter]` becomes natively: nothing but a use of the filter, so that it is not called dead code.
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __guest {
    ($filter:ty: $($hook:ident),+) => {
        const _: fn(<$filter as $crate::Filter>::Config) -> ::std::result::Result<$filter, ::std::string::String> =
            <$filter as $crate::Filter>::configure;
    };
}
