//! How reloads treat what they replace.
//!
//! Control plane. Knows no generation; the proxy keeps these bounds.

use std::time::Duration;

use super::or_default;
use crate::model::Reload;
use crate::shape::OffOr;
use crate::vocabulary;

/// Every exchange that ends by itself has ended; what is left are streams, whose clients connect again.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);
/// Each costs its tables and code, some MiB, so that these stay within some hundred.
const MAX_GENERATIONS: usize = 32;

pub(super) fn reload(reload: Option<vocabulary::Reload>) -> Reload {
    let reload = reload.unwrap_or_default();
    Reload {
        max_age: match reload.max_age {
            Some(OffOr::Off) => None,
            Some(OffOr::On(age)) => Some(or_default(Some(age), MAX_AGE)),
            None => Some(MAX_AGE),
        },
        max_generations: reload.max_generations.map_or(MAX_GENERATIONS, |count| count.as_usize()),
    }
}
