//! What the proxy tells its operator: metrics and the access log.
//!
//! Data plane. Workers only ever count in memory of their own and hand finished lines over; nothing in here makes an
//! exchange wait. It knows nothing of configuration files, of routing, or of how a scrape reaches the workers.

pub mod access_log;
pub mod exposition;
pub mod histogram;
pub mod metrics;
pub mod record;

mod calls;
mod counts;
mod custom;
mod series;

pub use access_log::{AccessLog, Target};
pub use exposition::{CONTENT_TYPE, ProcessFacts, Reloads, UPSTREAM_FAILURES, encode};
pub use metrics::{EndpointSeries, FilterSeries, Hook, ListenerSeries, Live, Report, RouteSeries, Tally, UNMATCHED};
pub use record::{Field, Format, Part, Record};
