//! A live guest: its store, its hooks, and the bounds of each call.
//!
//! Data plane. An instance belongs to one worker and serves one exchange at a time. A call that ends in any other way
//! than by returning (a trap, a deadline, a dropped future) leaves the guest in an unknown state, so such an instance
//! is never used again; the message that was lent to it always comes back. A call has a stack of its own, on which it can
//! be interrupted, but for those of filters that are known to be short: these run on their worker's.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use wasmtime::component::{self, ComponentExportIndex, ComponentNamedList, Func, Lift, Lower, TypedFunc};
use wasmtime::{ResourceLimiter, Store, StoreContextMut, UpdateDeadline};

use super::bindings;
use super::engine::{CALM_TICK, Seat, TICK};
use super::filter::{Exports, Filter, LogBudget};
use super::host::told;
use super::names::Names;
use super::outbound::Outbound;
use super::question::Question;
use super::stint::{Stint, Suspicion};
use super::wasi::World;
use crate::filter::Failure;
use crate::head::Message;
use crate::outbound::Desk;
use crate::outbox;
use crate::store::{Claim, Table};

/// Processor time for instantiation and `configure`. Interpreters need some hundred milliseconds; a guest that loops
/// here is refused when it is loaded.
const START_CPU: Duration = Duration::from_secs(1);
/// Wall time for the same.
const START_WALL: Duration = Duration::from_secs(5);

pub struct Instance {
    store: Store<State>,
    stint: Arc<Stint>,
    pub(super) functions: Functions,
    served: u32,
    /// How long the last hook was parked: in a call that waits, or while others had their turn.
    waited: Duration,
    /// How long its exchange waited for it, until that is told.
    pub(super) awaited: Duration,
    /// Linear memory that its pool's total counts for it.
    pub(super) weighed: usize,
    /// Counts it among the process's instances; one that is started only to be tried has none.
    _seat: Option<Seat>,
}

/// The hooks that the component exports.
#[derive(Default)]
pub struct Functions {
    pub connection: Option<TypedFunc<(), (bindings::Admission,)>>,
    pub request_head: Option<TypedFunc<(), (bindings::RequestVerdict,)>>,
    /// These three borrow the bytes that they are given, so they are typed anew for each call.
    pub held_body: Option<Func>,
    pub request_body: Option<Func>,
    pub response_body: Option<Func>,
    pub request_end: Option<EndFunction>,
    pub response_head: Option<TypedFunc<(), (bindings::Verdict,)>>,
    pub response_end: Option<EndFunction>,
    pub completion: Option<TypedFunc<(bindings::Outcome,), ()>>,
    pub tick: Option<TypedFunc<(), ()>>,
}

type EndFunction = TypedFunc<(Vec<bindings::Header>,), (bindings::EndVerdict,)>;
type HeldFunction<'a> = TypedFunc<(&'a [u8], bool), (bindings::HeldVerdict,)>;
type BodyFunction<'a> = TypedFunc<(&'a [u8],), (bindings::BodyVerdict,)>;

/// What the host keeps for one guest.
pub struct State {
    /// The exchange whose hook is running.
    pub(super) message: Option<Box<Message>>,
    pub(super) filter: Arc<str>,
    pub(super) log: Arc<LogBudget>,
    /// Bytes that the running hook may still write into heads.
    pub(super) header_bytes_left: usize,
    /// Of fields that it has written.
    pub(super) names: Names,
    /// What the guest counted in the running hook; taken by the worker afterwards.
    pub(super) metrics: Vec<GuestMetric>,
    pub(super) store: Option<Arc<Table>>,
    /// Values that the guest has promised to make, until the end of its hook.
    pub(super) claims: Vec<Claim>,
    pub(super) outbound: Option<Outbound>,
    pub(super) wasi: Option<Box<World>>,
    memory: MemoryLimit,
    stint: Arc<Stint>,
    /// Processor time, in the running hook: what it was given, and what it has left.
    cpu_given: Duration,
    cpu_left: Duration,
    suspicion: Suspicion,
    /// The running hook has no stack of its own: it ends before anybody else goes on.
    is_in_place: bool,
    /// In the running hook, if that is so. The first may come at once.
    ticks_seen: u32,
}

/// A guest's own metric, on its way to the worker's tally.
#[derive(Debug)]
pub struct GuestMetric {
    pub name: String,
    /// Names and values.
    pub labels: Vec<(String, String)>,
    pub change: Change,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    CounterAdd(u64),
    GaugeSet(f64),
    HistogramObserve(f64),
}

/// A hook's result, or how it failed and what the log should say.
pub type Outcome<T> = Result<T, (Failure, String)>;

impl Instance {
    /// Instantiates and configures. The error's text is for the operator. `desk` takes the calls of a guest that is
    /// granted some; without one they fail.
    pub async fn start(filter: &Filter, seat: Option<Seat>, desk: Option<&Desk>) -> Result<Box<Self>, StartError> {
        let mut store = new_store(filter, desk);
        let stint = Arc::clone(&store.data().stint);
        store.data_mut().cpu_left = START_CPU;
        let starting = stint.run(async {
            let instance = filter
                .pre
                .instantiate_async(&mut store)
                .await
                .map_err(StartError::instantiate)?;
            let functions = Functions::find(&mut store, instance, &filter.exports).map_err(StartError::mismatch)?;
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
            Ok(functions)
        });
        let started = tokio::time::timeout(START_WALL, starting).await;
        let functions = started.map_err(|_| StartError::timed_out())??;
        store.data_mut().end_hook();
        Ok(Box::new(Self {
            store,
            stint,
            functions,
            served: 0,
            waited: Duration::ZERO,
            awaited: Duration::ZERO,
            weighed: 0,
            _seat: seat,
        }))
    }

    /// Asks on the stack of whoever asks: nothing else goes on until the guest has answered. Only of filters that are
    /// [brief](Filter::is_brief); if it turns out in another worker just now that this one takes long, the hook is the last
    /// in place. `home`'s message is back in its place whatever happens. After a failure the instance must be dropped.
    pub(super) fn ask_in_place<Q: Question>(
        &mut self,
        question: Q,
        loan: Loan<'_>,
        filter: &Filter,
    ) -> Outcome<Q::Verdict> {
        let Some(function) = question.function(self)? else {
            return Ok(Q::UNASKED);
        };
        self.waited = Duration::ZERO;
        let given = question.given();
        let turn = Turn::begin(&mut self.store, loan, filter, true);
        let called = function.call(&mut *turn.store, given);
        let state = turn.store.data();
        let called = called.map_err(|error| state.classify(&error));
        if state.ticks_seen > 1 || matches!(called, Err((Failure::Cpu, _))) {
            filter.takes_long();
        }
        drop(turn);
        Q::verdict(called?, &self.functions, filter)
    }

    /// Asks a guest of any filter: a brief one [in place](Self::ask_in_place), others on a stack of their own, where they
    /// give way to others, within `limits.wall`. `home`'s message is back in its place whatever happens, also when the
    /// future is dropped. After a failure the instance must be dropped.
    pub async fn ask<Q: Question>(&mut self, question: Q, loan: Loan<'_>, filter: &Filter) -> Outcome<Q::Verdict> {
        if filter.is_brief() {
            return self.ask_in_place(question, loan, filter);
        }
        let Some(function) = question.function(self)? else {
            return Ok(Q::UNASKED);
        };
        let given = question.given();
        let turn = Turn::begin(&mut self.store, loan, filter, false);
        let (called, waited) = {
            // Pinned where it is made: it is not small, and would be moved for nothing.
            let call = pin!(function.call_async(&mut *turn.store, given));
            within(filter.limits.wall, &self.stint, call).await
        };
        self.waited = waited;
        let answer = match called {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => return Err(turn.store.data().classify(&error)),
            None => return Err((Failure::Wall, format!("over limits.wall of {:?}", filter.limits.wall))),
        };
        drop(turn);
        Q::verdict(answer, &self.functions, filter)
    }

    /// One of the functions that borrow what they are given.
    pub(super) fn typed<P, R>(&self, function: Func) -> Outcome<TypedFunc<P, R>>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let typed = function.typed(&self.store);
        typed.map_err(|error| (Failure::Trap, told(&error)))
    }

    /// A new exchange begins.
    pub fn begin_exchange(&mut self, filter: &Filter) {
        if let Some(outbound) = &mut self.store.data_mut().outbound {
            outbound.calls_left = filter.limits.outbound_calls;
        }
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

    /// Of the last hook, and of the wait for the guest if it was the first one.
    pub fn spent(&mut self) -> HookTime {
        let state = self.store.data();
        HookTime {
            waited: self.waited + std::mem::take(&mut self.awaited),
            charged: state.cpu_given.saturating_sub(state.cpu_left) + state.stint.settle(),
        }
    }
}

/// What became of the time that a hook took.
#[derive(Clone, Copy, Debug)]
pub struct HookTime {
    /// It was parked, or its guest was waited for.
    waited: Duration,
    /// Its guest was interrupted for computing so long.
    charged: Duration,
}

impl HookTime {
    /// There was no guest.
    pub const NONE: Self = Self {
        waited: Duration::MAX,
        charged: Duration::ZERO,
    };

    /// What the guest has computed in a hook that took so long. Nobody computes for longer than until the next tick without
    /// being charged for it: what is more was the wait of the worker for a core.
    pub fn computed(self, took: Duration) -> Duration {
        took.saturating_sub(self.waited).min(self.charged + CALM_TICK)
    }
}

impl Functions {
    fn find(store: &mut Store<State>, instance: component::Instance, exports: &Exports) -> wasmtime::Result<Self> {
        fn typed<P, R>(
            store: &mut Store<State>,
            instance: component::Instance,
            index: &Option<ComponentExportIndex>,
        ) -> wasmtime::Result<Option<TypedFunc<P, R>>>
        where
            P: ComponentNamedList + Lower,
            R: ComponentNamedList + Lift,
        {
            index
                .as_ref()
                .map(|index| instance.get_typed_func(&mut *store, index))
                .transpose()
        }
        let held: Option<HeldFunction> = typed(store, instance, &exports.held_body)?;
        let request: Option<BodyFunction> = typed(store, instance, &exports.request_body)?;
        let response: Option<BodyFunction> = typed(store, instance, &exports.response_body)?;
        Ok(Self {
            connection: typed(store, instance, &exports.connection)?,
            request_head: typed(store, instance, &exports.request_head)?,
            held_body: held.map(|function| *function.func()),
            request_body: request.map(|function| *function.func()),
            response_body: response.map(|function| *function.func()),
            request_end: typed(store, instance, &exports.request_end)?,
            response_head: typed(store, instance, &exports.response_head)?,
            response_end: typed(store, instance, &exports.response_end)?,
            completion: typed(store, instance, &exports.completion)?,
            tick: typed(store, instance, &exports.tick)?,
        })
    }
}

fn new_store(filter: &Filter, desk: Option<&Desk>) -> Store<State> {
    let state = State {
        message: None,
        filter: Arc::clone(filter.name()),
        log: Arc::clone(&filter.log),
        header_bytes_left: 0,
        names: Names::default(),
        metrics: Vec::new(),
        store: filter.store.clone(),
        claims: Vec::new(),
        outbound: filter
            .outbound
            .as_ref()
            .map(|granted| Outbound::new(granted, desk, &filter.limits)),
        wasi: filter.wasi.then(|| World::new(filter.name(), &filter.log)),
        memory: MemoryLimit::new(filter.limits.memory, filter.limits.table_elements),
        stint: Arc::new(Stint::new(filter.engine.clone())),
        cpu_given: Duration::ZERO,
        cpu_left: Duration::ZERO,
        suspicion: Suspicion::after(1),
        is_in_place: false,
        ticks_seen: 0,
    };
    let mut store = Store::new(filter.pre.engine(), state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(filter.limits.lifted_bytes);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(on_tick);
    store
}

/// Runs each millisecond that a guest computes: gives the worker back to its other tasks, if the guest has a stack to wait
/// on, or ends the guest.
fn on_tick(mut store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    let state = store.data_mut();
    let spent = state.stint.interrupted();
    state.cpu_left = state
        .cpu_left
        .checked_sub(spent.measured + spent.tick)
        .ok_or(OutOfTime)?;
    if state.suspicion.is_confirmed(&spent) {
        state.stint.measure(true);
    }
    if !spent.is_long {
        return Ok(UpdateDeadline::Continue(1));
    }
    state.stint.goes_on();
    // Whoever was served before this guest does not wait for its end, or for that of all guests in this round.
    outbox::send_all();
    if state.is_in_place {
        state.ticks_seen += 1;
        return Ok(UpdateDeadline::Continue(1));
    }
    // Woken by the runtime only after it has looked at its sockets: a guest that wakes itself would be polled
    // many times before anybody else's bytes are.
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
}

/// What a hook is lent.
pub struct Loan<'a> {
    /// Where the message lies when no hook has it.
    pub home: &'a mut Option<Box<Message>>,
    /// Processor time that the exchange has left for this filter.
    pub cpu: Duration,
}

/// One hook's loan, until it is given back.
struct Turn<'a> {
    store: &'a mut Store<State>,
    home: &'a mut Option<Box<Message>>,
}

impl<'a> Turn<'a> {
    fn begin(store: &'a mut Store<State>, loan: Loan<'a>, filter: &Filter, is_in_place: bool) -> Self {
        let state = store.data_mut();
        state.message = loan.home.take();
        state.cpu_given = (TICK * filter.limits.cpu_ticks).min(loan.cpu);
        state.cpu_left = state.cpu_given;
        state.header_bytes_left = filter.limits.header_bytes;
        state.is_in_place = is_in_place;
        state.ticks_seen = 0;
        state.suspicion = Suspicion::after(1);
        state.stint.measure(false);
        state.stint.begin();
        store.set_epoch_deadline(1);
        Self { store, home: loan.home }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let state = self.store.data_mut();
        *self.home = state.message.take();
        state.end_hook();
    }
}

/// Whole ticks, the last one begun.
pub fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u32::MAX)
}

/// Also how long the future was not being polled. Most hooks end in their first poll; only one that does not pays for
/// a timer and looks at the clock.
async fn within<F: Future>(wall: Duration, stint: &Stint, mut future: Pin<&mut F>) -> (Option<F::Output>, Duration) {
    let first = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
    match first {
        Poll::Ready(output) => (Some(output), Duration::ZERO),
        // Boxed, so that the usual call does not carry a timer around.
        Poll::Pending => Box::pin(rest_within(wall, stint, future)).await,
    }
}

async fn rest_within<F: Future>(
    wall: Duration,
    stint: &Stint,
    mut future: Pin<&mut F>,
) -> (Option<F::Output>, Duration) {
    let since = Instant::now();
    let mut busy = Duration::ZERO;
    let rest = std::future::poll_fn(|context| {
        let since = Instant::now();
        stint.begin();
        let polled = future.as_mut().poll(context);
        stint.end();
        busy += since.elapsed();
        polled
    });
    let output = tokio::time::timeout(wall, rest).await.ok();
    (output, since.elapsed().saturating_sub(busy))
}

impl State {
    /// Nothing that a hook began outlives it.
    fn end_hook(&mut self) {
        self.claims.clear();
        if let Some(outbound) = &mut self.outbound {
            outbound.answers.clear();
        }
    }

    fn classify(&self, error: &wasmtime::Error) -> (Failure, String) {
        let failure = match () {
            () if error.downcast_ref::<OutOfTime>().is_some() => Failure::Cpu,
            () if self.memory.denied => Failure::Memory,
            () => Failure::Trap,
        };
        (failure, told(error))
    }
}

#[derive(Debug)]
pub(super) struct OutOfTime;

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
pub(super) struct MemoryLimit {
    used: usize,
    limit: usize,
    /// Entries of one table.
    table_elements: usize,
    /// Whether the guest was refused memory; tells a trap for want of it from any other.
    denied: bool,
}

impl MemoryLimit {
    /// Bytes of all memories together, and entries of one table.
    pub fn new(limit: usize, table_elements: usize) -> Self {
        Self {
            used: 0,
            limit,
            table_elements,
            denied: false,
        }
    }

    pub fn used(&self) -> usize {
        self.used
    }

    /// Whether the guest was refused some.
    pub fn was_denied(&self) -> bool {
        self.denied
    }
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
        Ok(desired <= self.table_elements && maximum.is_none_or(|maximum| desired <= maximum))
    }
}

/// Why a guest did not start.
#[derive(Debug)]
pub struct StartError {
    pub failure: Failure,
    text: String,
    /// Its own `configure` said no; it would start with another configuration.
    pub is_refusal: bool,
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
            text: format!("does not start: {}", told(&error)),
            is_refusal: false,
        }
    }

    fn mismatch(error: wasmtime::Error) -> Self {
        Self {
            failure: Failure::Start,
            text: format!("does not fit the interface tamis:filter@0.1.0: {error:#}"),
            is_refusal: false,
        }
    }

    fn trapped(error: wasmtime::Error) -> Self {
        Self {
            failure: Failure::Start,
            text: format!("`configure` failed: {}", told(&error)),
            is_refusal: false,
        }
    }

    fn refused(message: String) -> Self {
        Self {
            failure: Failure::Start,
            text: format!("its configuration is refused: {message}"),
            is_refusal: true,
        }
    }

    fn timed_out() -> Self {
        Self {
            failure: Failure::Start,
            text: format!("did not start within {START_WALL:?}"),
            is_refusal: false,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use futures_util::FutureExt as _;

    use crate::filter::OnFailure;
    use crate::wasm::engine::{Engine, Reservation};
    use crate::wasm::filter::{Limits, Settings};
    use crate::wasm::{Artifact, OnTick};

    /// Returns at once the first time, and never after that.
    const TURNS_LONG: &str = r#"(component
        (core module $guest
            (global $calls (mut i32) (i32.const 0))
            (func (export "on-tick")
                (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
                (if (i32.gt_u (global.get $calls) (i32.const 1)) (then (loop $again (br $again))))))
        (core instance $guest (instantiate $guest))
        (func $tick (canon lift (core func $guest "on-tick")))
        (instance $hooks (export "on-tick" (func $tick)))
        (export "tamis:filter/tick@0.1.0" (instance $hooks)))"#;

    #[test]
    fn a_wait_for_a_core_is_not_computed() {
        for (waited, charged, took, computed) in [
            (0, 0, 2, 2),
            (0, 0, 500, 4),
            (300, 0, 302, 2),
            (300, 50, 352, 52),
            (300, 50, 900, 54),
            (5, 0, 3, 0),
        ] {
            let time = HookTime {
                waited: Duration::from_millis(waited),
                charged: Duration::from_millis(charged),
            };
            assert_eq!(
                time.computed(Duration::from_millis(took)),
                Duration::from_millis(computed),
                "{time:?}, {took}"
            );
        }
        assert_eq!(HookTime::NONE.computed(Duration::from_secs(1)), Duration::ZERO);
    }

    fn filter() -> Filter {
        let engine = Engine::new(Reservation {
            instances: 2,
            memory_bytes: 1 << 20,
            table_elements: 10,
            stack_bytes: 64 << 10,
        });
        let engine = engine.expect("it is little");
        let bytes = wat::parse_str(TURNS_LONG).expect("it is well-formed");
        let artifact = Artifact::compile(&engine, &bytes).expect("it compiles");
        let settings = Settings {
            name: "turns-long".to_owned(),
            config: "{}".to_owned(),
            grants: Vec::new(),
            limits: Limits {
                memory: 1 << 20,
                table_elements: 10,
                cpu_ticks: 10,
                exchange_cpu: Duration::from_secs(1),
                wall: Duration::from_secs(1),
                wait: Duration::from_secs(1),
                instances_per_worker: 2,
                header_bytes: 100,
                body_bytes: 100,
                lifted_bytes: 1000,
                outbound_calls: 0,
                outbound_concurrent: 0,
                log_lines: 0,
                reuse: 10,
            },
            on_failure: OnFailure::Closed,
            breaker: None,
            tick: Some(Duration::from_secs(1)),
        };
        Filter::link(&engine, Arc::new(artifact), settings).expect("it is a filter")
    }

    #[tokio::test]
    async fn who_takes_long_once_is_interrupted_from_then_on() {
        let filter = filter();
        let mut home = None;
        let mut ask = async |instance: &mut Instance| {
            let cpu = Duration::from_secs(1);
            instance.ask(OnTick, Loan { home: &mut home, cpu }, &filter).await
        };
        let mut first = Instance::start(&filter, None, None).await.expect("it starts");
        let mut second = Instance::start(&filter, None, None).await.expect("it starts");
        ask(&mut first).await.expect("it returns");
        assert!(filter.is_brief());
        let stuck = ask(&mut first).now_or_never().expect("nothing interrupts it");
        assert_eq!(stuck.expect_err("it does not return").0, Failure::Cpu);
        assert!(!filter.is_brief());
        ask(&mut second).await.expect("it returns");
        assert!(ask(&mut second).now_or_never().is_none(), "others have their turn");
    }
}
