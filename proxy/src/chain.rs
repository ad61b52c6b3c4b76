//! The walk of an exchange through its filters: forward with the request, in reverse with the response.
//!
//! Data plane. A chain is a list of steps, native and wasm alike. Only a filter whose request half ran sees the
//! response, and it sees every response: the upstream's, a later filter's reply, the proxy's own error. It names no
//! foreign crate but `http` and `bytes`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::filter::{Failure, Hook, Native, OnFailure, Reply, Verdict};
use crate::head::Message;
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

/// What a chain needs of the worker that walks it.
pub trait Floor {
    /// The worker's guests of the component with this number.
    fn guests(&self, filter: &Arc<wasm::Filter>, slot: usize) -> Rc<wasm::Pool>;
    /// One call is over.
    fn called(&self, step: &Step, hook: Hook, took: Duration);
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

/// An exchange's way through its chains: the filters whose response half is still to come, and their guests.
#[derive(Default)]
pub struct Walk {
    /// In the order in which their request halves ran.
    turns: Vec<Turn>,
}

struct Turn {
    at: Position,
    /// The guest that ran the request half.
    lease: Option<wasm::Lease>,
}

/// Which chain, and where in it. The listener's chain runs before the route's.
#[derive(Clone, Copy)]
struct Position {
    chain: usize,
    step: usize,
}

impl Walk {
    /// Request hooks, forward through `chains`, until one replies.
    pub async fn forward(
        &mut self,
        floor: &impl Floor,
        chains: [&Chain; 2],
        message: &mut Option<Box<Message>>,
    ) -> Result<Option<Reply>, Broken> {
        let mut clock = Instant::now();
        for (chain, filters) in chains.iter().enumerate() {
            for (index, step) in filters.steps.iter().enumerate() {
                let verdict = self
                    .request_half(floor, Position { chain, step: index }, step, message)
                    .await;
                lap(floor, step, Hook::RequestHead, &mut clock);
                if let Verdict::Reply(reply) = verdict? {
                    return Ok(Some(reply));
                }
            }
        }
        Ok(None)
    }

    /// The next response hook, in reverse order of the request halves that ran; what it replies replaces the answer.
    pub async fn backward(
        &mut self,
        floor: &impl Floor,
        chains: [&Chain; 2],
        message: &mut Option<Box<Message>>,
    ) -> Result<Option<Reply>, Broken> {
        let Some(Turn { at, lease }) = self.turns.pop() else {
            return Ok(None);
        };
        let step = &chains[at.chain].steps[at.step];
        let mut clock = Instant::now();
        let verdict = response_half(floor, step, lease, message).await;
        lap(floor, step, Hook::ResponseHead, &mut clock);
        match verdict? {
            Verdict::Proceed => Ok(None),
            Verdict::Reply(reply) => Ok(Some(reply)),
        }
    }

    /// Whether no response hook is left to run.
    pub fn is_over(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether a guest may still ask for the request when the response is there.
    pub fn needs_request(&self) -> bool {
        self.turns.iter().any(|turn| turn.lease.is_some())
    }

    async fn request_half(
        &mut self,
        floor: &impl Floor,
        at: Position,
        step: &Step,
        message: &mut Option<Box<Message>>,
    ) -> Result<Verdict, Broken> {
        let (filter, slot) = match &step.kind {
            StepKind::Native(native) => {
                self.turns.push(Turn { at, lease: None });
                return Ok(message
                    .as_mut()
                    .map_or(Verdict::Proceed, |message| native.on_request_head(message)));
            }
            StepKind::Wasm(filter, slot) => (filter, *slot),
        };
        if !filter.has(Hook::RequestHead) {
            self.turns.push(Turn { at, lease: None });
            return Ok(Verdict::Proceed);
        }
        match guest_call(floor, step, filter, slot, None, Hook::RequestHead, message).await? {
            None => Ok(Verdict::Proceed),
            Some((verdict, lease)) if filter.has(Hook::ResponseHead) => {
                self.turns.push(Turn { at, lease: Some(lease) });
                Ok(verdict)
            }
            Some((verdict, lease)) => {
                lease.put_back();
                Ok(verdict)
            }
        }
    }
}

async fn response_half(
    floor: &impl Floor,
    step: &Step,
    lease: Option<wasm::Lease>,
    message: &mut Option<Box<Message>>,
) -> Result<Verdict, Broken> {
    match &step.kind {
        StepKind::Native(native) => Ok(message
            .as_mut()
            .map_or(Verdict::Proceed, |message| native.on_response_head(message))),
        StepKind::Wasm(filter, slot) => {
            let called = guest_call(floor, step, filter, *slot, lease, Hook::ResponseHead, message).await?;
            Ok(called.map_or(Verdict::Proceed, |(verdict, lease)| {
                lease.put_back();
                verdict
            }))
        }
    }
}

/// One hook of a guest; `None` when it failed and its filter is skipped.
async fn guest_call(
    floor: &impl Floor,
    step: &Step,
    filter: &Arc<wasm::Filter>,
    slot: usize,
    lease: Option<wasm::Lease>,
    hook: Hook,
    message: &mut Option<Box<Message>>,
) -> Result<Option<(Verdict, wasm::Lease)>, Broken> {
    let called = async {
        let mut lease = match lease {
            Some(lease) => lease,
            None => floor.guests(filter, slot).lease().await?,
        };
        let verdict = lease.call(hook, message).await?;
        let metrics = lease.take_metrics();
        if !metrics.is_empty() {
            floor.counted(step, metrics);
        }
        Ok((verdict, lease))
    };
    match called.await {
        Ok(called) => Ok(Some(called)),
        Err((failure, detail)) => {
            let detail: String = detail;
            floor.failed(step, hook, filter.on_failure(), failure, &detail);
            match filter.on_failure() {
                OnFailure::Open => Ok(None),
                OnFailure::Closed => Err(Broken {
                    filter: Arc::clone(&step.name),
                    failure,
                }),
            }
        }
    }
}

/// Charges the time since `clock` to one call; the end of one call is the start of the next.
fn lap(floor: &impl Floor, step: &Step, hook: Hook, clock: &mut Instant) {
    let now = Instant::now();
    floor.called(step, hook, now - *clock);
    *clock = now;
}
