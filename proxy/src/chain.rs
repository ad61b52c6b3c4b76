//! Chains of filters, native and wasm alike, and what they need of whoever walks them.
//!
//! Data plane. How an exchange walks a chain is `passage`'s. It names no foreign crate but `http` and `bytes`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::canary::Version;
use crate::filter::{Failure, Hook, Native, OnFailure};
use crate::trial::Part;
use crate::wasm;
use crate::wasm::http::{self as wasi_http, Middleware};

/// One filter in a chain. Shared by all workers.
pub struct Step {
    pub name: Arc<str>,
    /// The configured filter's number in its generation; what counters are filed under.
    pub index: usize,
    pub kind: StepKind,
    /// Its part in a trial, if there is one.
    pub part: Option<Part>,
    /// The version on trial, in the step of the one in use.
    pub candidate: Option<Box<Step>>,
}

impl Step {
    /// The step for an exchange that has drawn this version.
    pub fn version(&self, version: Version) -> &Self {
        match (&self.candidate, version) {
            (Some(candidate), Version::Candidate) => candidate,
            _ => self,
        }
    }

    /// Whether the filter, in one version or the other, wants to see connections.
    pub fn asks_about_connections(&self) -> bool {
        self.has(Hook::Connection)
            || self
                .candidate
                .as_ref()
                .is_some_and(|candidate| candidate.has(Hook::Connection))
    }

    pub fn has(&self, hook: Hook) -> bool {
        match &self.kind {
            StepKind::Wasm(filter, _) => filter.hooks().has(hook),
            StepKind::Native(_) | StepKind::Middleware(..) => false,
        }
    }
}

pub enum StepKind {
    Native(Arc<dyn Native>),
    /// The loaded component, and its number in its generation.
    Wasm(Arc<wasm::Filter>, usize),
    /// The same of one that passes requests on.
    Middleware(Arc<Middleware>, usize),
}

/// The filters of a listener or a route, in the order in which requests meet them.
#[derive(Default)]
pub struct Chain {
    pub steps: Vec<Step>,
}

impl Chain {
    pub fn has_middlewares(&self) -> bool {
        let is_one = |step: &Step| matches!(step.kind, StepKind::Middleware(..));
        self.steps.iter().any(is_one)
    }

    /// Whether a filter in it wants to see connections.
    pub fn asks_about_connections(&self) -> bool {
        let candidates = self.steps.iter().filter_map(|step| step.candidate.as_deref());
        self.steps
            .iter()
            .chain(candidates)
            .any(|step| step.has(Hook::Connection))
    }
}

/// What a chain needs of the worker that walks it.
pub trait Floor {
    /// The worker's guests of the component with this number.
    fn guests(&self, filter: &Arc<wasm::Filter>, slot: usize) -> Rc<wasm::Pool>;
    /// The worker's instances of the middleware with this number.
    fn instances(&self, middleware: &Middleware, slot: usize) -> Rc<wasi_http::Pool>;
    /// One call is over; a guest computed for `cpu` of the time that it took.
    fn called(&self, step: &Step, hook: Hook, took: Duration, cpu: Duration);
    /// One call has succeeded, and took so long without what was waited for the guest.
    fn took(&self, step: &Step, hook: Hook, since: Instant, awaited: Duration);
    /// A filter has answered in the upstream's place.
    fn replied(&self, step: &Step, status: StatusCode);
    /// A filter failed this request's exchange, or was skipped.
    fn failed(&self, step: &Step, hook: Hook, policy: OnFailure, failure: (Failure, &str), request_id: &str);
    /// A guest counted something.
    fn counted(&self, step: &Step, metrics: Vec<wasm::GuestMetric>);
}

/// A filter that failed closed.
#[derive(Debug)]
pub struct Broken {
    pub filter: Arc<str>,
    pub failure: Failure,
}
