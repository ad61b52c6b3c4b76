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
//! * The component exports the hooks that are written in the `impl` block, and no others: a hook that is not there
//!   costs nothing, not even a call. (The attribute [`#[filter]`](macro@filter) tells of the one exception.)
//! * An instance serves one exchange (a request and its response) at a time. Each exchange begins with a clone of what
//!   [`configure`](Filter::configure) has made, so a field of the struct may hold a client's data: the next exchange
//!   does not find it. What is configured is best kept in an `Rc`, so that the clone costs next to nothing.
//! * A hook that returns a [`Failure`] or panics leaves a line in the proxy's log and fails its exchange, as the
//!   filter's `on_failure` says; the proxy drops the instance and makes a new one.
//! * [`log`] is always there. What else goes beyond the exchange is linked into the component only when called, and
//!   then must be granted in the configuration: [`metrics`], [`clock`], [`random`], [`key_value`], [`outbound`].
//!
//! # The hooks of an exchange
//!
//! | hook | is called | decides |
//! |---|---|---|
//! | [`on_connection`](Filter::on_connection) | once a connection, in a listener's chain | [`Admission`] |
//! | [`on_request_head`](Filter::on_request_head) | with the request's head | [`RequestVerdict`]: go on, reply, or read the body first |
//! | [`on_held_body`](Filter::on_held_body) | with the body that was asked for | [`HeldVerdict`] |
//! | [`on_request_body`](Filter::on_request_body), [`on_request_end`](Filter::on_request_end) | for each piece on its way, and at the end | [`BodyVerdict`], [`EndVerdict`] |
//! | [`on_response_head`](Filter::on_response_head) | with the response's head | [`Verdict`] |
//! | [`on_response_body`](Filter::on_response_body), [`on_response_end`](Filter::on_response_end) | for each piece on its way, and at the end | [`BodyVerdict`], [`EndVerdict`] |
//! | [`on_completion`](Filter::on_completion) | when it is over | |
//! | [`on_tick`](Filter::on_tick) | every `tick` of the configuration, in no exchange | |
//!
//! A [`Reply`] becomes the verdict of any of them by `into()`.

#[cfg(any(target_family = "wasm", test))]
mod answer;
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
mod period;
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
pub use period::Period;
pub use reply::Reply;
pub use request::Request;
pub use response::Response;
pub use verdict::{Admission, BodyVerdict, EndVerdict, HeldVerdict, OverMax, RequestVerdict, Verdict};

/// Makes a component of an `impl Filter for ...` block: the component exports the hooks that are in the block.
///
/// A filter with hooks for bodies and none for their heads exports a head's hook besides, which goes on: in it the
/// exchange begins, and what the filter kept of the one before is dropped. (A body could not tell: some messages have
/// none, others are cut off.)
///
/// Natively it changes nothing, so that the filter can be tested with plain `cargo test`. One crate holds one filter. A
/// filter without a hook does not compile:
///
/// ```compile_fail
/// #[derive(Clone)]
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
///
/// Nor does one that waits for a body which it cannot ask for:
///
/// ```compile_fail
/// # use tamis_filter::{Exchange, Failure, HeldBody, HeldVerdict, Request};
/// #[derive(Clone)]
/// struct Waits;
///
/// #[tamis_filter::filter]
/// impl tamis_filter::Filter for Waits {
///     type Config = ();
///
///     fn configure((): ()) -> Result<Self, String> {
///         Ok(Waits)
///     }
///
///     fn on_held_body(&mut self, _: HeldBody, _: &mut Request, _: &mut Exchange) -> Result<HeldVerdict, Failure> {
///         Ok(HeldVerdict::Proceed)
///     }
/// }
/// ```
pub use tamis_filter_macros::filter;

/// What `#[filter]` becomes natively: a use of the filter, so that it is not called dead code, and a list of what its
/// component would export, so that this can be tested.
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __guest {
    ($filter:ty: $($hook:ident),+) => {
        const _: fn(<$filter as $crate::Filter>::Config) -> ::std::result::Result<$filter, ::std::string::String> =
            <$filter as $crate::Filter>::configure;

        impl $crate::__Exports for $filter {
            const EXPORTS: &'static [&'static str] = &[$(stringify!($hook)),+];
        }
    };
}

/// What a filter's component exports, besides `configure`.
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
pub trait __Exports {
    const EXPORTS: &'static [&'static str];
}
