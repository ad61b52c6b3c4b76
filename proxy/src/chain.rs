//! Chains of filters, native and wasm alike, and what they need of whoever walks them.
//!
//! Data plane. How an exchange walks a chain is `passage`'s. It names no foreign crate but `http` and `bytes`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::filter::{Failure, Hook, Native, OnFailure};
use crate::wasm;

/// One filter in a chain. Shared by all workers.
pub struct Step {
    pub name: Arc<str>,
    /// The configured filter's number in its generation; what counters are filed under.
    pub index: usize,
    pub kind: StepKind,
}

pub enum StepKind {
    Native(Arc<dyn Native>),
    /// The loaded component, and its number in its generation.
    Wasm(Arc<wasm::Filter>, usize),
}

/// The filters of a listener or a route, in the order in which requests meet them.
#[derive(Default)]
pub struct Chain {
    pub steps: Vec<Step>,
}

impl Chain {
    /// Whether a filter in it wants to see connections.
    pub fn asks_about_connections(&self) -> bool {
        self.steps.iter().any(|step| match &step.kind {
            StepKind::Wasm(filter, _) => filter.hooks().has(Hook::Connection),
            StepKind::Native(_) => false,
        })
    }
}

/// What a chain needs of the worker that walks it.
pub trait Floor {
    /// The worker's guests of the component with this number.
    fn guests(&self, filter: &Arc<wasm::Filter>, slot: usize) -> Rc<wasm::Pool>;
    /// One call is over; a guest computed for `cpu` of the time that it took.
    fn called(&self, step: &Step, hook: Hook, took: Duration, cpu: Duration);
    /// A filter has answered in the upstream's place.
    fn replied(&self, step: &Step, status: StatusCode);
    /// A filter failed its exchange, or was skipped.
    fn failed(&self, step: &Step, hook: Hook, policy: OnFailure, failure: Failure, detail: &str);
    /// A guest counted something.
    fn counted(&self, step: &Step, metrics: Vec<wasm::GuestMetric>);
}

/// A filter that failed closed.
#[derive(Debug)]
pub struct Broken {
    pub filter: Arc<str>,
    pub failure: Failure,
}
