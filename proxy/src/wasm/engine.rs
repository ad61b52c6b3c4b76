//! The wasm engines of the process: compiler settings, the pooling allocator, and the clock that bounds guests.
//!
//! Control plane makes them; the data plane only instantiates through them. The one for filters is there from the start,
//! without what makes components asynchronous, which would treble the cost of every call. The other one, for components
//! that speak `wasi:http`, has it, and is made when the first such component is. Guests run on fibers and are interrupted
//! by epochs: a thread of its own advances the epoch of both each millisecond or few, whatever the workers do.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

/// The unit of a guest's processor time, and how often one that computes gives its worker back.
pub const TICK: Duration = Duration::from_millis(1);

/// Between two ticks as long as none fell into a guest's computing: nearly all hooks end within microseconds, and waking a
/// thread each millisecond for them took 4 % of a busy core's requests. The first tick of a guest that runs on may so
/// come later by the difference, and it may compute for as much longer than its limit; from then on it is held to it.
pub(super) const CALM_TICK: Duration = Duration::from_millis(4);

/// Ticks between two looks at whether any guest has run. One that runs on says so at each tick, so it is never left
/// without them.
const REST_AFTER: u32 = 250;

/// Room that exchanges cannot take, so that a new configuration can be tried while every instance is in use.
const CONTROL_RESERVE: u32 = 8;
/// Core instances for one component: three for a small guest (its own module, and the shims that `wit-component` puts
/// around it), 13 for one that QuickJS runs and 38 for CPython, whose libraries are modules of their own. Only counted:
/// nothing is set aside for one.
const CORE_INSTANCES_PER_COMPONENT: u32 = 64;
/// A component's own memory, and one for an adapter; one that QuickJS runs has three. Each takes a slot, so that fewer
/// such guests fit.
const MEMORIES_PER_COMPONENT: u32 = 4;
const TABLES_PER_COMPONENT: u32 = 8;
/// Stacks for one component of `wasi:http`: each of its tasks that waits in the middle of a call has one.
const STACKS_PER_SERVICE: u32 = 4;
/// Of a thread that nobody has set a size for.
const THREAD_STACK_BYTES: usize = 2 << 20;
/// What host functions that run on top of a guest's stack may take.
const HOST_STACK_BYTES: usize = 512 << 10;
/// Pages of a slot that stay resident between guests, so that a fresh instance costs no page fault for the first of
/// them: 64 KiB covers the data and stack of a small guest.
const KEEP_RESIDENT_BYTES: usize = 64 << 10;

/// What the allocator sets aside at start-up. Address space, not memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub instances: u32,
    pub memory_bytes: u64,
    /// A guest's own stack; deep recursion traps at it.
    pub stack_bytes: usize,
    /// Entries of one table.
    pub table_elements: usize,
}

/// Cheap to clone; the ticker stops with the last clone.
#[derive(Clone)]
pub struct Engine {
    inner: wasmtime::Engine,
    ticker: Arc<Ticker>,
    seats: Arc<AtomicU32>,
    stack_bytes: usize,
    all_seats: u32,
    /// The other one, for components that speak `wasi:http`.
    services: Arc<OnceLock<Engine>>,
}

/// What an engine is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Filters,
    Services,
}

/// Room for one of the process's instances on the data plane; free again when it is dropped.
pub struct Seat(Arc<AtomicU32>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Engine {
    /// Fails when the address space cannot be had, with what to change.
    pub fn new(reservation: Reservation) -> Result<Self, String> {
        let inner = reserve(reservation, Purpose::Filters)?;
        let ticker =
            Ticker::start(inner.clone()).map_err(|error| format!("wasm: cannot start the epoch thread: {error}"))?;
        Ok(Self {
            inner,
            ticker: Arc::new(ticker),
            seats: Arc::new(AtomicU32::new(reservation.instances)),
            all_seats: reservation.instances,
            stack_bytes: reservation.stack_bytes,
            services: Arc::default(),
        })
    }

    /// The engine for components that speak `wasi:http`; made when it is first asked for, and kept as long as this one.
    pub fn services(&self, reservation: Reservation) -> Result<Self, String> {
        if let Some(made) = self.services.get() {
            return Ok(made.clone());
        }
        let inner = reserve(reservation, Purpose::Services)?;
        let made = self.services.get_or_init(|| Self {
            inner,
            ticker: Arc::clone(&self.ticker),
            seats: Arc::new(AtomicU32::new(reservation.instances)),
            all_seats: reservation.instances,
            stack_bytes: reservation.stack_bytes,
            services: Arc::default(),
        });
        self.ticker.state.services.get_or_init(|| made.inner.clone());
        Ok(made.clone())
    }

    /// `None` when as many instances as configured are alive.
    pub(super) fn seat(&self) -> Option<Seat> {
        let take = |free: u32| free.checked_sub(1);
        let taken = self.seats.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.ok().map(|_| Seat(Arc::clone(&self.seats)))
    }

    /// Whether instances can be made that no exchange waits for: a quarter of all is left to those that do.
    pub(super) fn has_ample_room(&self) -> bool {
        self.seats.load(Ordering::Relaxed) > self.all_seats / 4
    }

    /// A guest is about to run.
    pub(super) fn guest_runs(&self) {
        self.ticker.needed();
    }

    /// A guest was interrupted, and runs on.
    pub(super) fn guest_runs_on(&self) {
        self.ticker.state.is_pressed.store(true, Ordering::Relaxed);
        self.ticker.needed();
    }

    /// Whether a guest can run on the stack of any thread, those of std's default size included, and the host functions that
    /// it calls on top of it.
    pub(super) fn fits_any_stack(&self) -> bool {
        self.stack_bytes <= THREAD_STACK_BYTES / 2
    }

    /// Ticks so far: none has passed since a guest began to compute as long as the number is the same.
    pub(super) fn ticks(&self) -> u64 {
        self.ticker.state.ticks.load(Ordering::Relaxed)
    }

    pub(super) fn inner(&self) -> &wasmtime::Engine {
        &self.inner
    }
}

fn reserve(reservation: Reservation, purpose: Purpose) -> Result<wasmtime::Engine, String> {
    wasmtime::Engine::new(&settings(reservation, purpose)).map_err(|error| {
        let setting = match purpose {
            Purpose::Filters => "wasm.max_instances",
            Purpose::Services => "wasm.max_service_instances",
        };
        format!(
            "wasm: cannot reserve room for {} instances of {} bytes ({error:#}); lower `{setting}` or raise the limit on address space (`ulimit -v`)",
            reservation.instances, reservation.memory_bytes
        )
    })
}

fn settings(reservation: Reservation, purpose: Purpose) -> Config {
    // Async component features add a task table to every store and three times the cost to every call.
    let is_concurrent = purpose == Purpose::Services;
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(reservation.stack_bytes)
        .async_stack_size(reservation.stack_bytes + HOST_STACK_BYTES)
        .concurrency_support(is_concurrent)
        .wasm_component_model_async(is_concurrent)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(16))
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(reservation, purpose)));
    config
}

fn pool(reservation: Reservation, purpose: Purpose) -> PoolingAllocationConfig {
    let stacks = match purpose {
        Purpose::Filters => 1,
        Purpose::Services => STACKS_PER_SERVICE,
    };
    let instances = reservation.instances.saturating_add(CONTROL_RESERVE);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        .total_memories(instances)
        .total_tables(instances.saturating_mul(4))
        .total_stacks(instances.saturating_mul(stacks))
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .table_elements(reservation.table_elements)
        .max_memory_size(usize::try_from(reservation.memory_bytes).unwrap_or(usize::MAX))
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        // Only pages that a guest has touched are reset, where the kernel can tell which they are (6.7 and later).
        .pagemap_scan(Enabled::Auto);
    pool
}

/// The thread that advances the epoch, as long as guests are called: each millisecond while one computes for so long.
///
/// With nothing to bound it rests, so that an idle proxy, or one without components, is not woken a thousand times a
/// second. A call finds out with one load of a flag that hardly ever changes.
struct Ticker {
    state: Arc<TickerState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct TickerState {
    /// A guest has run since the thread last looked.
    needed: AtomicBool,
    /// A guest was interrupted since the last tick.
    is_pressed: AtomicBool,
    resting: AtomicBool,
    stop: AtomicBool,
    ticks: AtomicU64,
    /// The engine that came later.
    services: OnceLock<wasmtime::Engine>,
}

impl Ticker {
    fn start(engine: wasmtime::Engine) -> std::io::Result<Self> {
        let state = Arc::new(TickerState::default());
        let shared = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("tamis-epoch".into())
            .spawn(move || shared.tick(&engine))?;
        Ok(Self {
            state,
            thread: Some(thread),
        })
    }

    fn needed(&self) {
        // Read first: a store would take the line from every other worker.
        if !self.state.needed.load(Ordering::Relaxed) {
            self.state.needed.store(true, Ordering::SeqCst);
            if self.state.resting.load(Ordering::SeqCst)
                && let Some(thread) = &self.thread
            {
                thread.thread().unpark();
            }
        }
    }
}

impl TickerState {
    fn tick(&self, engine: &wasmtime::Engine) {
        let mut quiet = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let pressed = self.is_pressed.swap(false, Ordering::Relaxed);
            std::thread::sleep(if pressed { TICK } else { CALM_TICK });
            self.ticks.fetch_add(1, Ordering::Relaxed);
            engine.increment_epoch();
            if let Some(services) = self.services.get() {
                services.increment_epoch();
            }
            quiet += 1;
            if quiet < REST_AFTER {
                continue;
            }
            quiet = 0;
            if !self.needed.swap(false, Ordering::SeqCst) {
                self.rest();
            }
        }
    }

    /// Until a guest is called. The flag is up before the last look at `needed`, and a caller looks at it after it has
    /// set `needed`: one of the two sees the other.
    fn rest(&self) {
        self.resting.store(true, Ordering::SeqCst);
        while !self.needed.load(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        self.resting.store(false, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the ticker has been reported by its own thread.
            let _ = thread.join();
        }
    }
}
