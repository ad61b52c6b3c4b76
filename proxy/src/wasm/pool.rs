//! A worker's guests at rest, filed under their filters.
//!
//! Data plane; one thread only. The guest that was used last is used next, while its memory is in the cache. A guest
//! that failed, that served its `instance_reuse`, or whose filter is gone is dropped instead of being put back.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::engine::Seat;
use super::filter::Filter;
use super::instance::{GuestMetric, Instance, Loan, Outcome};
use super::question::Question;
use crate::filter::Failure;
use crate::outbound::Desk;

/// A guest at rest for so long is dropped, so that a burst's memory is given back.
const IDLE: Duration = Duration::from_secs(60);

/// All pools of one worker.
pub struct Pools {
    pools: RefCell<HashMap<u64, Rc<Pool>>>,
    desk: Desk,
}

impl Pools {
    /// `desk` takes what guests order.
    pub fn new(desk: Desk) -> Self {
        Self {
            pools: RefCell::default(),
            desk,
        }
    }

    /// The filter's pool, made at its first use.
    pub fn of(&self, filter: &Arc<Filter>) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        Rc::clone(
            pools
                .entry(filter.id())
                .or_insert_with(|| Rc::new(Pool::new(Arc::clone(filter), self.desk.clone()))),
        )
    }

    /// Starts guests of filters that are to be used soon: as many as the filter of the same name has here, at least
    /// one, and only as long as there is ample room. Returns how many.
    pub async fn warm(&self, filters: &[Arc<Filter>]) -> u32 {
        let mut made = 0;
        for filter in filters {
            let before = self.live_of(filter.name());
            let pool = self.of(filter);
            made += pool.warm(before.max(1)).await;
        }
        made
    }

    fn live_of(&self, name: &str) -> u32 {
        let pools = self.pools.borrow();
        let named = pools.values().filter(|pool| &**pool.filter.name() == name);
        named.map(|pool| pool.live.get()).max().unwrap_or(0)
    }

    /// Drops the guests at rest of filters that are no longer wanted; those at work are dropped when they are done.
    pub fn retain(&self, wanted: impl Fn(u64) -> bool) {
        self.pools.borrow_mut().retain(|id, pool| {
            let keep = wanted(*id);
            if !keep {
                pool.retire();
            }
            keep
        });
    }

    /// Drops guests that have been at rest for a minute.
    pub fn sweep(&self, now: Instant) {
        for pool in self.pools.borrow().values() {
            // Looking here now and then is cheaper than at a clock for every exchange.
            pool.swept.set(now);
            pool.release(|rested| now.duration_since(rested.since) >= IDLE);
        }
    }

    /// What each filter has in this worker.
    pub fn usage(&self) -> Vec<(Arc<str>, Usage)> {
        let usage = |pool: &Rc<Pool>| Usage {
            live: pool.live.get(),
            idle: pool.idle.borrow().len(),
            waiting: pool.waiting.get(),
            memory_bytes: pool.memory.get(),
        };
        let pools = self.pools.borrow();
        pools
            .values()
            .map(|pool| (Arc::clone(pool.filter.name()), usage(pool)))
            .collect()
    }
}

/// One filter's guests in one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// At rest and at work.
    pub live: u32,
    pub idle: usize,
    /// Exchanges that wait for one.
    pub waiting: usize,
    pub memory_bytes: usize,
}

/// One filter's guests in one worker.
pub struct Pool {
    filter: Arc<Filter>,
    idle: RefCell<Vec<Rested>>,
    desk: Desk,
    /// Guests alive, at rest and at work.
    live: Cell<u32>,
    waiting: Cell<usize>,
    /// Linear memory of all of them, as of the last time that each was put back.
    memory: Cell<usize>,
    freed: Notify,
    swept: Cell<Instant>,
    retired: Cell<bool>,
}

struct Rested {
    instance: Box<Instance>,
    /// The last sweep before it was put here.
    since: Instant,
}

impl Pool {
    fn new(filter: Arc<Filter>, desk: Desk) -> Self {
        Self {
            filter,
            idle: RefCell::default(),
            desk,
            live: Cell::new(0),
            waiting: Cell::new(0),
            memory: Cell::new(0),
            freed: Notify::new(),
            swept: Cell::new(Instant::now()),
            retired: Cell::new(false),
        }
    }

    /// A guest for one exchange: one at rest, a new one, or, when there are as many as allowed, the next that is free
    /// within `limits.wait`.
    pub async fn lease(self: &Rc<Self>) -> Outcome<Lease> {
        let mut lease = match self.rested() {
            Some(lease) => lease,
            // Boxed: what seldom happens must not make the future of what always happens larger, as it is moved.
            None => Box::pin(self.lease_slowly()).await?,
        };
        if let Some(instance) = lease.instance() {
            instance.begin_exchange(&self.filter);
        }
        Ok(lease)
    }

    fn rested(self: &Rc<Self>) -> Option<Lease> {
        let Rested { instance, .. } = self.idle.borrow_mut().pop()?;
        let memory = instance.memory_bytes();
        Some(Lease {
            held: Some(Held {
                instance: Some(instance),
                memory,
            }),
            pool: Rc::clone(self),
            awaited: Duration::ZERO,
        })
    }

    async fn lease_slowly(self: &Rc<Self>) -> Outcome<Lease> {
        let since = Instant::now();
        let mut lease = self.wait_or_start().await?;
        lease.awaited = since.elapsed();
        Ok(lease)
    }

    async fn wait_or_start(self: &Rc<Self>) -> Outcome<Lease> {
        let wait = self.filter.limits.wait;
        let _waiting = Waiting::among(&self.waiting);
        let waited = tokio::time::timeout(wait, async {
            while self.live.get() >= self.filter.limits.instances_per_worker {
                self.freed.notified().await;
                if let Some(lease) = self.rested() {
                    return Some(lease);
                }
            }
            None
        });
        match waited.await {
            Ok(Some(lease)) => Ok(lease),
            Ok(None) => self.start().await,
            Err(_) => Err((
                Failure::NoInstance,
                format!("all {} instances were busy for {wait:?}", self.live.get()),
            )),
        }
    }

    async fn start(self: &Rc<Self>) -> Outcome<Lease> {
        self.live.set(self.live.get() + 1);
        // Made first, so that the count is right again if starting fails or is given up.
        let mut lease = Lease {
            held: Some(Held {
                instance: None,
                memory: 0,
            }),
            pool: Rc::clone(self),
            awaited: Duration::ZERO,
        };
        let seat = seat(&self.filter)?;
        let instance = Instance::start(&self.filter, Some(seat), Some(&self.desk))
            .await
            .map_err(|error| (error.failure, error.to_string()))?;
        if let Some(held) = &mut lease.held {
            held.instance = Some(instance);
            held.weigh(self);
        }
        Ok(lease)
    }

    /// A guest that does not start will say so to the exchange that needs it.
    async fn warm(self: &Rc<Self>, wanted: u32) -> u32 {
        let mut made = 0;
        while self.live.get() < wanted.min(self.filter.limits.instances_per_worker)
            && self.filter.engine.has_ample_room()
        {
            let Ok(lease) = self.start().await else { break };
            lease.rest(self);
            made += 1;
        }
        made
    }

    /// One guest fewer.
    fn forget(&self) {
        self.live.set(self.live.get() - 1);
        self.freed.notify_one();
    }

    fn retire(&self) {
        self.retired.set(true);
        self.release(|_| true);
    }

    /// Drops the guests at rest that are `unwanted`.
    fn release(&self, unwanted: impl Fn(&Rested) -> bool) {
        for rested in self.idle.borrow_mut().extract_if(.., |rested| unwanted(rested)) {
            self.memory.set(self.memory.get() - rested.instance.memory_bytes());
            self.forget();
        }
    }
}

/// A guest at work for one exchange. Dropped without [`Lease::put_back`], the guest goes with it.
pub struct Lease {
    held: Option<Held>,
    pool: Rc<Pool>,
    /// How long it was waited for, which is nobody's computing.
    awaited: Duration,
}

struct Held {
    /// `None` only while it starts.
    instance: Option<Box<Instance>>,
    /// What the pool's total counts for this guest.
    memory: usize,
}

impl Lease {
    /// Runs one hook. After an error the lease must be dropped; whoever drops the future half-way drops the lease too.
    pub async fn ask<Q: Question>(&mut self, question: Q, loan: Loan<'_>) -> Outcome<Q::Verdict> {
        match self.held.as_mut().and_then(|held| held.instance.as_deref_mut()) {
            Some(instance) => question.ask(instance, loan, &self.pool.filter).await,
            None => Err((Failure::Trap, "no guest is held".into())),
        }
    }

    /// What the guest counted in its last hook.
    pub fn take_metrics(&mut self) -> Vec<GuestMetric> {
        self.instance().map(Instance::take_metrics).unwrap_or_default()
    }

    /// How long the last hook was parked, and, for the first one, the guest was waited for.
    pub fn waited(&mut self) -> Duration {
        let awaited = std::mem::take(&mut self.awaited);
        self.instance().map_or(awaited, |instance| instance.waited() + awaited)
    }

    fn instance(&mut self) -> Option<&mut Instance> {
        self.held.as_mut()?.instance.as_deref_mut()
    }

    /// Ends the exchange of a guest that did nothing wrong.
    pub fn put_back(mut self) {
        let pool = Rc::clone(&self.pool);
        let reuse = pool.filter.limits.reuse;
        let Some(held) = &mut self.held else { return };
        held.weigh(&pool);
        let again = held
            .instance
            .as_mut()
            .is_some_and(|instance| instance.served_one(reuse));
        if again {
            self.rest(&pool);
        }
    }

    /// Files the guest for the next exchange.
    fn rest(mut self, pool: &Pool) {
        if pool.retired.get() {
            return;
        }
        if let Some(instance) = self.held.take().and_then(|held| held.instance) {
            pool.idle.borrow_mut().push(Rested {
                instance,
                since: pool.swept.get(),
            });
            pool.freed.notify_one();
        }
    }
}

/// A guest that belongs to no exchange; it takes one of the process's places all the same.
pub async fn start_apart(filter: &Arc<Filter>, desk: &Desk) -> Outcome<Box<Instance>> {
    let started = Instance::start(filter, Some(seat(filter)?), Some(desk)).await;
    started.map_err(|error| (error.failure, error.to_string()))
}

fn seat(filter: &Filter) -> Outcome<Seat> {
    let reason = "all instances of the process (wasm.max_instances) are in use";
    filter
        .engine
        .seat()
        .ok_or_else(|| (Failure::NoInstance, reason.to_owned()))
}

/// Counts one who waits, as long as it does.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn among(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Held {
    fn weigh(&mut self, pool: &Pool) {
        let bytes = self.instance.as_ref().map_or(0, |instance| instance.memory_bytes());
        pool.memory.set(pool.memory.get() - self.memory + bytes);
        self.memory = bytes;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.pool.memory.set(self.pool.memory.get() - held.memory);
            self.pool.forget();
        }
    }
}
