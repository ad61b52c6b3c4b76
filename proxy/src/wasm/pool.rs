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
use super::instance::{GuestMetric, HookTime, Instance, Loan, Outcome};
use super::question::Question;
use crate::counted::Counted;
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

    /// A guest at rest, for one exchange. `None` when there is none: [`Pool::lease_slowly`] finds one.
    pub fn lease(self: &Rc<Self>) -> Option<Lease> {
        let Rested { mut instance, .. } = self.idle.borrow_mut().pop()?;
        instance.begin_exchange(&self.filter);
        Some(Lease {
            instance: Some(instance),
            pool: Rc::clone(self),
            is_counted: true,
        })
    }

    /// A new guest for one exchange, or, when there are as many as allowed, the next that is free within `limits.wait`.
    pub async fn lease_slowly(self: Rc<Self>) -> Outcome<Lease> {
        let since = Instant::now();
        let mut lease = self.wait_or_start().await?;
        if let Some(instance) = &mut lease.instance {
            instance.begin_exchange(&self.filter);
            instance.awaited = since.elapsed();
        }
        Ok(lease)
    }

    async fn wait_or_start(self: &Rc<Self>) -> Outcome<Lease> {
        let wait = self.filter.limits.wait;
        let _waiting = Counted::among(&self.waiting);
        let waited = tokio::time::timeout(wait, async {
            while self.live.get() >= self.filter.limits.instances_per_worker {
                self.freed.notified().await;
                if let Some(lease) = self.lease() {
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
            instance: None,
            pool: Rc::clone(self),
            is_counted: true,
        };
        let seat = seat(&self.filter)?;
        let instance = Instance::start(&self.filter, Some(seat), Some(&self.desk))
            .await
            .map_err(|error| (error.failure, error.to_string()))?;
        lease.instance = Some(instance);
        lease.weigh();
        Ok(lease)
    }

    /// A guest that does not start will say so to the exchange that needs it.
    async fn warm(self: &Rc<Self>, wanted: u32) -> u32 {
        let mut made = 0;
        while self.live.get() < wanted.min(self.filter.limits.instances_per_worker)
            && self.filter.engine.has_ample_room()
        {
            let Ok(lease) = self.start().await else { break };
            lease.rest();
            made += 1;
        }
        made
    }

    /// One guest fewer.
    fn forget(&self) {
        self.live.set(self.live.get() - 1);
        self.tell_waiting();
    }

    /// One who waits looks again.
    fn tell_waiting(&self) {
        if self.waiting.get() > 0 {
            self.freed.notify_one();
        }
    }

    fn retire(&self) {
        self.retired.set(true);
        self.release(|_| true);
    }

    /// Drops the guests at rest that are `unwanted`.
    fn release(&self, unwanted: impl Fn(&Rested) -> bool) {
        for rested in self.idle.borrow_mut().extract_if(.., |rested| unwanted(rested)) {
            self.memory.set(self.memory.get() - rested.instance.weighed);
            self.forget();
        }
    }
}

/// A guest at work for one exchange. Dropped without [`Lease::put_back`], the guest goes with it.
pub struct Lease {
    /// `None` only while it starts.
    instance: Option<Box<Instance>>,
    pool: Rc<Pool>,
    /// The pool still counts it among those alive.
    is_counted: bool,
}

impl Lease {
    /// Runs one hook. After an error the lease must be dropped; whoever drops the future half-way drops the lease too.
    pub async fn ask<Q: Question>(&mut self, question: Q, loan: Loan<'_>) -> Outcome<Q::Verdict> {
        match self.instance.as_deref_mut() {
            Some(instance) => instance.ask(question, loan, &self.pool.filter).await,
            None => Err(unheld()),
        }
    }

    /// As [`Lease::ask`], of a filter that is brief.
    pub fn ask_in_place<Q: Question>(&mut self, question: Q, loan: Loan<'_>) -> Outcome<Q::Verdict> {
        match self.instance.as_deref_mut() {
            Some(instance) => instance.ask_in_place(question, loan, &self.pool.filter),
            None => Err(unheld()),
        }
    }

    /// What the guest counted in its last hook.
    pub fn take_metrics(&mut self) -> Vec<GuestMetric> {
        self.instance
            .as_mut()
            .map(|instance| instance.take_metrics())
            .unwrap_or_default()
    }

    /// How long the guest was waited for, until [`Lease::spent`] was asked.
    pub fn awaited(&self) -> Duration {
        self.instance
            .as_ref()
            .map_or(Duration::ZERO, |instance| instance.awaited)
    }

    /// What became of the time of the last hook.
    pub fn spent(&mut self) -> HookTime {
        self.instance
            .as_mut()
            .map_or(HookTime::NONE, |instance| instance.spent())
    }

    /// Ends the exchange of a guest that did nothing wrong.
    pub fn put_back(mut self) {
        self.weigh();
        let reuse = self.pool.filter.limits.reuse;
        let again = self
            .instance
            .as_mut()
            .is_some_and(|instance| instance.served_one(reuse));
        if again {
            self.rest();
        }
    }

    /// Files the guest for the next exchange.
    fn rest(mut self) {
        if self.pool.retired.get() {
            return;
        }
        let Some(instance) = self.instance.take() else {
            return;
        };
        self.is_counted = false;
        self.pool.idle.borrow_mut().push(Rested {
            instance,
            since: self.pool.swept.get(),
        });
        self.pool.tell_waiting();
    }

    /// Brings the pool's total up to date.
    fn weigh(&mut self) {
        let Some(instance) = &mut self.instance else { return };
        let bytes = instance.memory_bytes();
        let before = std::mem::replace(&mut instance.weighed, bytes);
        self.pool.memory.set(self.pool.memory.get() - before + bytes);
    }
}

fn unheld() -> (Failure, String) {
    (Failure::Trap, "no guest is held".to_owned())
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

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_counted {
            let weighed = self.instance.as_ref().map_or(0, |instance| instance.weighed);
            self.pool.memory.set(self.pool.memory.get() - weighed);
            self.pool.forget();
        }
    }
}
