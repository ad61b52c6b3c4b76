//! A live guest: its store, its hooks, and the bounds of each call.
//!
//! Data plane. An instance belongs to one worker and serves one exchange at a time. A call that ends in any other way
//! than by returning (a trap, a deadline, a dropped future) leaves the guest in an unknown state, so such an instance
//! is never used again; the message that was lent to it always comes back.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use wasmtime::component::TypedFunc;
use wasmtime::{ResourceLimiter, Store, StoreContextMut, UpdateDeadline};

use super::bindings;
use super::engine::{Engine, Seat, TICK};
use super::filter::{Filter, LogBudget};
use crate::filter::{Failure, Hook, Reply, Verdict};
use crate::head::{self, Message};

/// Processor time for instantiation and `configure`. Interpreters need some hundred milliseconds; a guest that loops
/// here is refused when it is loaded.
const START_TICKS: u32 = 1000;
/// Wall time for the same.
const START_WALL: Duration = Duration::from_secs(5);
/// Bytes that one host call may copy out of a guest: a reply's body above all.
const HOSTCALL_FUEL: usize = 16 << 20;

type HookFunction = TypedFunc<(), (bindings::Verdict,)>;

pub struct Instance {
    store: Store<State>,
    request_head: Option<HookFunction>,
    response_head: Option<HookFunction>,
    served: u32,
    /// Counts it among the process's instances; one that is started only to be tried has none.
    _seat: Option<Seat>,
}

/// What the host keeps for one guest.
pub struct State {
    /// The exchange whose hook is running.
    pub(super) message: Option<Box<Message>>,
    pub(super) filter: Arc<str>,
    engine: Engine,
    pub(super) log: Arc<LogBudget>,
    /// Bytes that the running hook may still write into heads.
    pub(super) header_bytes_left: usize,
    /// What the guest counted in the running hook; taken by the worker afterwards.
    pub(super) metrics: Vec<GuestMetric>,
    memory: MemoryLimit,
    ticks_left: u32,
}

/// A guest's own metric, on its way to the worker's tally.
#[derive(Debug)]
pub enum GuestMetric {
    CounterAdd(String, u64),
    GaugeSet(String, f64),
    HistogramObserve(String, f64),
}

impl Instance {
    /// Instantiates and configures. The error's text is for the operator.
    pub async fn start(filter: &Filter, seat: Option<Seat>) -> Result<Box<Self>, StartError> {
        let mut store = new_store(filter);
        store.data_mut().ticks_left = START_TICKS;
        filter.engine.guest_runs();
        let started = tokio::time::timeout(START_WALL, async {
            let instance = filter
                .pre
                .instantiate_async(&mut store)
                .await
                .map_err(StartError::instantiate)?;
            let function =
                |store: &mut Store<State>, index| instance.get_typed_func::<(), (bindings::Verdict,)>(store, index);
            let request_head = filter
                .exports
                .request_head
                .as_ref()
                .map(|index| function(&mut store, index))
                .transpose();
            let response_head = filter
                .exports
                .response_head
                .as_ref()
                .map(|index| function(&mut store, index))
                .transpose();
            if let Some(index) = &filter.exports.configure {
                let configure = instance
                    .get_typed_func::<(&str,), (Result<(), String>,)>(&mut store, index)
                    .map_err(StartError::mismatch)?;
                let (verdict,) = configure
                    .call_async(&mut store, (&filter.config,))
                    .await
                    .map_err(StartError::trapped)?;
                verdict.map_err(StartError::refused)?;
            }
            Ok((
                request_head.map_err(StartError::mismatch)?,
                response_head.map_err(StartError::mismatch)?,
            ))
        });
        let (request_head, response_head) = started.await.map_err(|_| StartError::timed_out())??;
        Ok(Box::new(Self {
            store,
            request_head,
            response_head,
            served: 0,
            _seat: seat,
        }))
    }

    /// Runs one hook with `message`, which is back in its place whatever happens, also when the future is dropped.
    /// After a failure the instance must be dropped.
    pub async fn call(
        &mut self,
        hook: Hook,
        message: &mut Option<Box<Message>>,
        filter: &Filter,
    ) -> Result<Verdict, (Failure, String)> {
        let function = match hook {
            Hook::RequestHead => self.request_head,
            Hook::ResponseHead => self.response_head,
        };
        let Some(function) = function else {
            return Ok(Verdict::Proceed);
        };
        let turn = Turn::begin(&mut self.store, message, filter);
        let called = within(filter.limits.wall, function.call_async(&mut *turn.store, ())).await;
        let (verdict,) = match called {
            Some(Ok(verdict)) => verdict,
            Some(Err(error)) => return Err(turn.store.data().classify(&error)),
            None => return Err((Failure::Wall, format!("over limits.wall of {:?}", filter.limits.wall))),
        };
        checked(verdict, filter.limits.header_bytes).map_err(|reason| (Failure::BadReply, reason))
    }

    /// Counts an exchange; whether the instance may serve another.
    pub fn served_one(&mut self, reuse: u32) -> bool {
        self.served += 1;
        self.served < reuse
    }

    pub fn memory_bytes(&self) -> usize {
        self.store.data().memory.used
    }

    pub fn take_metrics(&mut self) -> Vec<GuestMetric> {
        std::mem::take(&mut self.store.data_mut().metrics)
    }
}

fn new_store(filter: &Filter) -> Store<State> {
    let state = State {
        message: None,
        filter: Arc::clone(filter.name()),
        engine: filter.engine.clone(),
        log: Arc::clone(&filter.log),
        header_bytes_left: 0,
        metrics: Vec::new(),
        memory: MemoryLimit {
            used: 0,
            limit: filter.limits.memory,
            denied: false,
        },
        ticks_left: 0,
    };
    let mut store = Store::new(filter.pre.engine(), state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(HOSTCALL_FUEL);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(on_tick);
    store
}

/// Runs each millisecond that a guest computes: gives the worker back to its other tasks, or ends the guest.
fn on_tick(mut store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    let state = store.data_mut();
    match state.ticks_left.checked_sub(1) {
        Some(left) => {
            state.ticks_left = left;
            state.engine.guest_runs();
            // Woken by the runtime only after it has looked at its sockets: a guest that wakes itself would be polled
            // many times before anybody else's bytes are.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        }
        None => Err(OutOfTime.into()),
    }
}

/// One hook's loan of the message to the guest.
struct Turn<'a> {
    store: &'a mut Store<State>,
    home: &'a mut Option<Box<Message>>,
}

impl<'a> Turn<'a> {
    fn begin(store: &'a mut Store<State>, home: &'a mut Option<Box<Message>>, filter: &Filter) -> Self {
        let state = store.data_mut();
        state.message = home.take();
        state.ticks_left = filter.limits.cpu_ticks;
        state.header_bytes_left = filter.limits.header_bytes;
        store.set_epoch_deadline(1);
        filter.engine.guest_runs();
        Self { store, home }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.home = self.store.data_mut().message.take();
    }
}

/// Most hooks end in their first poll; only one that does not pays for a timer.
async fn within<F: Future>(wall: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let first = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
    match first {
        Poll::Ready(output) => Some(output),
        Poll::Pending => tokio::time::timeout(wall, future).await.ok(),
    }
}

/// What a guest answers is held to the same rules as what it writes into a head.
fn checked(verdict: bindings::Verdict, header_bytes: usize) -> Result<Verdict, String> {
    let reply = match verdict {
        bindings::Verdict::Proceed => return Ok(Verdict::Proceed),
        bindings::Verdict::Reply(reply) => reply,
    };
    let status =
        head::final_status(reply.status).map_err(|_| format!("status {} cannot be a reply's", reply.status))?;
    let written: usize = reply
        .headers
        .iter()
        .map(|header| header.name.len() + header.value.len())
        .sum();
    if written > header_bytes {
        return Err(format!("{written} bytes of fields, more than limits.header_bytes"));
    }
    let mut headers = HeaderMap::with_capacity(reply.headers.len().min(head::MAX_FIELDS));
    for header in &reply.headers {
        head::writable(header.name.as_bytes(), &header.value)
            .and_then(|field| head::append(&mut headers, field))
            .map_err(|error| format!("header {:?} of a reply is refused: {error:?}", header.name))?;
    }
    Ok(Verdict::Reply(Reply {
        status,
        headers,
        body: Bytes::from(reply.body),
    }))
}

impl State {
    fn classify(&self, error: &wasmtime::Error) -> (Failure, String) {
        let failure = match () {
            () if error.downcast_ref::<OutOfTime>().is_some() => Failure::Cpu,
            () if self.memory.denied => Failure::Memory,
            () => Failure::Trap,
        };
        (failure, format!("{error:#}"))
    }
}

#[derive(Debug)]
struct OutOfTime;

impl fmt::Display for OutOfTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "over the limit of processor time, counted in ticks of {TICK:?}"
        )
    }
}

impl std::error::Error for OutOfTime {}

/// Linear memory of one guest, over all its memories.
struct MemoryLimit {
    used: usize,
    limit: usize,
    /// Whether the guest was refused memory; tells a trap for want of it from any other.
    denied: bool,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        if used > self.limit {
            self.denied = true;
            return Ok(false);
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(maximum.is_none_or(|maximum| desired <= maximum))
    }
}

/// Why a guest did not start.
#[derive(Debug)]
pub struct StartError {
    pub failure: Failure,
    text: String,
}

impl StartError {
    fn instantiate(error: wasmtime::Error) -> Self {
        let failure = if error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some() {
            Failure::NoInstance
        } else {
            Failure::Start
        };
        Self {
            failure,
            text: format!("does not start: {error:#}"),
        }
    }

    fn mismatch(error: wasmtime::Error) -> Self {
        Self {
            failure: Failure::Start,
            text: format!("does not fit the interface tamis:filter@0.1.0: {error:#}"),
        }
    }

    fn trapped(error: wasmtime::Error) -> Self {
        Self {
            failure: Failure::Start,
            text: format!("`configure` failed: {error:#}"),
        }
    }

    fn refused(message: String) -> Self {
        Self {
            failure: Failure::Start,
            text: format!("its configuration is refused: {message}"),
        }
    }

    fn timed_out() -> Self {
        Self {
            failure: Failure::Start,
            text: format!("did not start within {START_WALL:?}"),
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}
