//! A component that stands in a chain and may pass requests on.
//!
//! Control plane makes it; workers only read it. What it is made of, may use and take is its service's.

use std::sync::Arc;
use std::time::Duration;

use super::service::Service;
use crate::breaker::Breaker;
use crate::filter::OnFailure;

/// Shared by all workers of the generations that use it.
pub struct Middleware {
    pub service: Arc<Service>,
    pub terms: Terms,
}

/// What its failures mean, and how long it is waited for.
pub struct Terms {
    pub on_failure: OnFailure,
    /// For its next word, while nothing of a body moves.
    pub wall: Duration,
    /// For an instance when all are busy.
    pub wait: Duration,
    pub breaker: Option<Arc<Breaker>>,
}

impl Middleware {
    pub fn id(&self) -> u64 {
        self.service.id()
    }

    pub fn name(&self) -> &Arc<str> {
        self.service.name()
    }
}
