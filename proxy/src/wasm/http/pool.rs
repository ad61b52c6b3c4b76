//! A worker's instances of one service.
//!
//! Data plane; one thread only. The instance that was used last is used next, while its memory is in the cache. An
//! exchange has a place in an instance; it is given back when both its sides are done with it, the host's and the
//! guest's. An exchange that breaks off ends an instance that it has to itself, and leaves one that it shares to the
//! others. Instances of a service that is gone, that have served their share, or that failed take no more.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::instance::{self, Job, StartError};
use super::running::Running;
use super::service::Service;
use crate::counted::Counted;
use crate::outbound::Desk;
use crate::service::Fault;
use crate::wasm;

/// An instance at rest for so long is dropped, so that a burst's memory is given back.
const IDLE: Duration = Duration::from_secs(60);

/// How often what is left of a service that is gone is looked at.
const SWEEP: Duration = Duration::from_secs(1);

pub struct Pool {
    service: Arc<Service>,
    desk: Desk,
    /// Instances with room for an exchange.
    open: RefCell<Vec<Rc<Handle>>>,
    /// All of them, those without room too.
    all: RefCell<Vec<Rc<Handle>>>,
    /// Instances that are starting.
    starting: Cell<usize>,
    /// Exchanges that hope for room in one of these.
    hoping: Cell<usize>,
    started: Notify,
    /// Exchanges that wait for one to be freed, because there are as many as there may be.
    waiting: Cell<usize>,
    freed: Notify,
    is_retired: Cell<bool>,
    swept: Cell<Instant>,
}

/// A worker's instances of all middlewares.
pub struct Pools {
    pools: RefCell<HashMap<u64, Rc<Pool>>>,
    desk: Desk,
}

impl Pools {
    /// `desk` takes what the guests call.
    pub fn new(desk: Desk) -> Self {
        Self {
            pools: RefCell::default(),
            desk,
        }
    }

    /// The service's pool, made at its first use.
    pub fn of(&self, service: &Arc<Service>) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(service.id());
        Rc::clone(pool.or_insert_with(|| Rc::new(Pool::new(service, &self.desk))))
    }

    /// Lets go of services that are no longer wanted; what is under way there ends.
    pub fn retain(&self, wanted: impl Fn(u64) -> bool) {
        self.pools.borrow_mut().retain(|id, pool| {
            let keep = wanted(*id);
            if !keep {
                pool.retire();
            }
            keep
        });
    }

    /// See [`Pool::sweep`].
    pub fn sweep(&self, now: Instant) {
        let pools: Vec<_> = self.pools.borrow().values().cloned().collect();
        pools.iter().for_each(|pool| pool.sweep(now));
    }

    /// What each service has in this worker.
    pub fn usage(&self) -> Vec<(Arc<str>, Usage)> {
        let pools = self.pools.borrow();
        pools
            .values()
            .map(|pool| (Arc::clone(pool.service.name()), pool.usage()))
            .collect()
    }
}

/// What one worker has of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// At rest and at work.
    pub live: usize,
    pub idle: usize,
    /// Exchanges that wait for one.
    pub waiting: usize,
    pub memory_bytes: usize,
}

impl Usage {
    /// Of another worker.
    pub fn add(&mut self, other: Self) {
        self.live += other.live;
        self.idle += other.idle;
        self.waiting += other.waiting;
        self.memory_bytes += other.memory_bytes;
    }
}

/// In the terms of filters.
impl From<Usage> for wasm::Usage {
    fn from(usage: Usage) -> Self {
        Self {
            live: u32::try_from(usage.live).unwrap_or(u32::MAX),
            idle: usage.idle,
            waiting: usage.waiting,
            memory_bytes: usage.memory_bytes,
        }
    }
}

/// Why there is no place.
#[derive(Debug)]
pub enum Unplaced {
    /// All instances were busy for so long.
    Busy(Duration),
    /// The process has as many instances as it may have.
    NoRoom,
    Failed(String),
}

impl Pool {
    /// `desk` takes what the guests call.
    pub fn new(service: &Arc<Service>, desk: &Desk) -> Self {
        Self {
            service: Arc::clone(service),
            desk: desk.clone(),
            open: RefCell::default(),
            all: RefCell::default(),
            starting: Cell::new(0),
            hoping: Cell::new(0),
            started: Notify::new(),
            waiting: Cell::new(0),
            freed: Notify::new(),
            is_retired: Cell::new(false),
            swept: Cell::new(Instant::now()),
        }
    }

    /// A place in an instance that is there.
    pub fn ready(&self) -> Option<Place> {
        let mut open = self.open.borrow_mut();
        let handle = open.last()?;
        let place = Place::take(handle);
        if !handle.has_room() {
            handle.is_open.set(false);
            open.pop();
        }
        Some(place)
    }

    /// A place in a new instance, or in one that is freed before the deadline.
    pub async fn place(self: &Rc<Self>, patience: Duration) -> Result<Place, Unplaced> {
        let deadline = Instant::now() + patience;
        // Once: whoever finds none behind a start, because it failed or others were quicker, depends on nobody else's.
        if self.is_room_to_come() {
            let hoping = Counted::among(&self.hoping);
            // In time or not, what comes of it is the same.
            let _ = tokio::time::timeout_at(deadline, self.started.notified()).await;
            drop(hoping);
            if let Some(place) = self.ready() {
                return Ok(place);
            }
        }
        while self.live() >= self.service.limits.instances_per_worker as usize {
            let waiting = Counted::among(&self.waiting);
            let freed = tokio::time::timeout_at(deadline, self.freed.notified()).await;
            drop(waiting);
            if freed.is_err() {
                return Err(Unplaced::Busy(patience));
            }
            if let Some(place) = self.ready() {
                self.tell_others();
                return Ok(place);
            }
        }
        let started = self.start().await;
        self.tell_others();
        started
    }

    /// One is told of an instance at a time, which may have room for more.
    fn tell_others(&self) {
        if !self.open.borrow().is_empty() {
            self.tell_waiting();
        }
    }

    async fn start(self: &Rc<Self>) -> Result<Place, Unplaced> {
        let seat = self.service.engine.seat().ok_or(Unplaced::NoRoom)?;
        let handle = Rc::new(Handle::new(self));
        self.all.borrow_mut().push(Rc::clone(&handle));
        if self.is_retired.get() && self.live() == 1 {
            // For an exchange of a generation that was replaced.
            tokio::task::spawn_local(Rc::clone(self).see_off());
        }
        // Until it runs, this future is what keeps it among the living.
        let unstarted = Unstarted::begin(self, &handle);
        let started = instance::start(&self.service, Some(seat), Some(&self.desk)).await;
        let started = started.map_err(|error| match error {
            StartError::NoRoom => Unplaced::NoRoom,
            StartError::Failed(_) => Unplaced::Failed(format!("{}: {error}", self.service.name())),
        })?;
        unstarted.has_started();
        handle.memory.set(started.memory_bytes());
        let place = Place::take(&handle);
        if handle.has_room() {
            self.open(&handle);
        }
        let running = Running::begin(Box::pin(started.run(Rc::clone(&handle))));
        handle.running.replace(Some(running));
        Ok(place)
    }

    /// Whether instances that are starting for others will have room for one more than those who hope for it.
    fn is_room_to_come(&self) -> bool {
        let instances = &self.service.instances;
        let others = instances.at_once().min(instances.reuse()) - 1;
        !self.is_retired.get() && self.hoping.get() < self.starting.get() * others as usize
    }

    fn live(&self) -> usize {
        self.all.borrow().len()
    }

    pub fn usage(&self) -> Usage {
        let all = self.all.borrow();
        Usage {
            live: all.len(),
            waiting: self.waiting.get() + self.hoping.get(),
            idle: all.iter().filter(|handle| handle.is_at_rest()).count(),
            memory_bytes: all.iter().map(|handle| handle.memory.get()).sum(),
        }
    }

    /// Drops instances that have been at rest for a minute, and ends those that go on with nobody waiting.
    pub fn sweep(&self, now: Instant) {
        self.swept.set(now);
        // Apart from the list, which those that end leave.
        let all = self.all.borrow().clone();
        for handle in all {
            handle.sweep(now, self.service.limits.wall);
        }
    }

    /// The service is gone: what is under way ends, and nothing is kept.
    pub fn retire(self: &Rc<Self>) {
        self.is_retired.set(true);
        let all = self.all.borrow().clone();
        all.iter().for_each(|handle| handle.retire());
        if !all.is_empty() {
            tokio::task::spawn_local(Rc::clone(self).see_off());
        }
    }

    /// Nobody knows of it any more who would end what goes on with nobody waiting.
    async fn see_off(self: Rc<Self>) {
        let mut sweep = tokio::time::interval(SWEEP);
        while self.live() > 0 {
            let now = sweep.tick().await;
            self.sweep(now);
        }
    }

    fn open(&self, handle: &Rc<Handle>) {
        if !handle.is_open.replace(true) {
            self.open.borrow_mut().push(Rc::clone(handle));
        }
        self.tell_waiting();
    }

    fn close(&self, handle: &Handle) {
        if handle.is_open.replace(false) {
            self.open.borrow_mut().retain(|open| !std::ptr::eq(&**open, handle));
        }
    }

    fn forget(&self, handle: &Handle) {
        self.close(handle);
        self.all.borrow_mut().retain(|one| !std::ptr::eq(&**one, handle));
        self.tell_waiting();
    }

    fn tell_waiting(&self) {
        if self.waiting.get() > 0 {
            self.freed.notify_one();
        }
    }
}

/// An instance that is starting; dropped before [`Unstarted::has_started`], it has come to its end.
struct Unstarted<'a> {
    pool: &'a Pool,
    handle: Option<&'a Handle>,
    _starting: Counted<'a>,
}

impl<'a> Unstarted<'a> {
    fn begin(pool: &'a Pool, handle: &'a Handle) -> Self {
        Self {
            pool,
            handle: Some(handle),
            _starting: Counted::among(&pool.starting),
        }
    }

    fn has_started(mut self) {
        self.handle = None;
    }
}

impl Drop for Unstarted<'_> {
    fn drop(&mut self) {
        if let Some(handle) = self.handle {
            handle.ended();
        }
        // They look when this one has had its turn, and it has opened the instance.
        self.pool.started.notify_waiters();
    }
}

/// An instance, as its pool, its exchanges and its task share it.
pub(super) struct Handle {
    pool: Weak<Pool>,
    component: Arc<str>,
    at_once: u32,
    reuse: u32,
    jobs: RefCell<VecDeque<Job>>,
    running: RefCell<Option<Rc<Running>>>,
    taken: Cell<u32>,
    served: Cell<u32>,
    /// Nothing goes on in the guest.
    is_quiet: Cell<bool>,
    is_open: Cell<bool>,
    is_retired: Cell<bool>,
    fault: Cell<Option<Fault>>,
    /// Those who take part in it, to be told of its end.
    turns: RefCell<Vec<Weak<Turn>>>,
    /// The last sweep before its last exchange left.
    since: Cell<Instant>,
    memory: Cell<usize>,
}

impl Handle {
    fn new(pool: &Rc<Pool>) -> Self {
        let service = &pool.service;
        Self {
            pool: Rc::downgrade(pool),
            component: Arc::clone(service.name()),
            at_once: service.instances.at_once(),
            reuse: service.instances.reuse(),
            jobs: RefCell::default(),
            running: RefCell::default(),
            taken: Cell::new(0),
            served: Cell::new(0),
            is_quiet: Cell::new(true),
            is_open: Cell::new(false),
            is_retired: Cell::new(pool.is_retired.get()),
            fault: Cell::new(None),
            turns: RefCell::default(),
            since: Cell::new(pool.swept.get()),
            memory: Cell::new(0),
        }
    }

    pub fn component(&self) -> &str {
        &self.component
    }

    /// Exchanges that it may have at a time.
    pub fn at_once(&self) -> u32 {
        self.at_once
    }

    /// The next exchange; else the guest is moved when there is one, or something else to look at.
    pub fn next(&self) -> Option<Job> {
        self.jobs.borrow_mut().pop_front()
    }

    pub fn is_quiet(&self) -> bool {
        self.is_quiet.get()
    }

    /// Nobody has a part in it, and what they had begun is done.
    fn is_at_rest(&self) -> bool {
        self.taken.get() == 0 && self.is_quiet.get()
    }

    /// Nothing goes on in the guest, which has so much memory.
    pub fn rest(self: &Rc<Self>, memory_bytes: usize) {
        self.is_quiet.set(true);
        self.memory.set(memory_bytes);
        self.settle();
    }

    /// Whether its task has nothing to stay for.
    pub fn is_over(&self) -> bool {
        let is_last = self.is_retired.get() || self.served.get() >= self.reuse;
        is_last && self.taken.get() == 0 && self.is_quiet.get()
    }

    /// The guest has come to a bad end.
    pub fn fail(&self, fault: Fault) {
        if self.fault.get().is_none() {
            self.fault.set(Some(fault));
        }
        self.retire();
        let turns = self.turns.take();
        turns.iter().filter_map(Weak::upgrade).for_each(|turn| turn.wake());
    }

    /// Its task is gone, and the guest with it.
    pub fn ended(&self) {
        self.is_quiet.set(true);
        self.fail(Fault::Ended);
        let left = self.jobs.take();
        drop(left);
        if let Some(pool) = self.pool.upgrade() {
            pool.forget(self);
        }
    }

    /// Takes no more; ends when it is done with what it has.
    fn retire(&self) {
        self.is_retired.set(true);
        if let Some(pool) = self.pool.upgrade() {
            pool.close(self);
        }
        self.wake();
    }

    /// Ends it now.
    fn kill(&self) {
        self.fail(Fault::Ended);
        if let Some(running) = self.running() {
            running.abort();
        }
    }

    fn sweep(&self, now: Instant, wall: Duration) {
        if self.taken.get() == 0 {
            match now.duration_since(self.since.get()) {
                rested if self.is_quiet.get() && rested >= IDLE => self.retire(),
                unattended if !self.is_quiet.get() && unattended >= wall => self.kill(),
                _ => {}
            }
            return;
        }
        let (mut overdue, mut attended) = (false, false);
        self.turns.borrow_mut().retain(|turn| {
            let Some(turn) = turn.upgrade() else { return false };
            match turn.left.get() {
                Some(left) => overdue |= now.duration_since(left) >= wall,
                None => attended = true,
            }
            true
        });
        match (overdue, attended) {
            // Those who are still waited for come to their end first.
            (true, true) => self.retire(),
            (true, false) => self.kill(),
            (false, _) => {}
        }
    }

    fn has_room(&self) -> bool {
        let is_usable = !self.is_retired.get() && self.served.get() < self.reuse;
        let is_free = self.at_once > 1 || self.is_quiet.get();
        is_usable && is_free && self.taken.get() < self.at_once
    }

    /// Somebody has left it, or it has come to rest.
    fn settle(self: &Rc<Self>) {
        let pool = self.pool.upgrade();
        if let Some(pool) = &pool
            && self.taken.get() == 0
        {
            self.since.set(pool.swept.get());
        }
        match pool {
            Some(pool) if self.has_room() => pool.open(self),
            _ if self.is_over() => self.wake(),
            _ => {}
        }
    }

    fn wake(&self) {
        if let Some(running) = self.running() {
            running.wake();
        }
    }

    /// As a part of its own: what moves the guest may end it.
    fn running(&self) -> Option<Rc<Running>> {
        self.running.borrow().clone()
    }
}

/// An exchange's part in an instance, which both its sides hold.
pub(super) struct Turn {
    handle: Rc<Handle>,
    /// Of those who wait for what the guest says.
    wakers: RefCell<Vec<Waker>>,
    /// What the guest has not said by now it will not say.
    is_silent: Cell<bool>,
    /// When the host's side left.
    left: Cell<Option<Instant>>,
}

impl Turn {
    pub fn fall_silent(&self) {
        self.is_silent.set(true);
        self.wake();
    }

    fn wake(&self) {
        self.wakers.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Gives the guest something that it may wait for; it goes on with that as far as it comes.
    pub fn give<T>(&self, give: impl FnOnce() -> T) -> T {
        match self.handle.running() {
            Some(running) => running.give(give),
            None => give(),
        }
    }

    /// Why the guest says no more: it has failed, or it has come to its end. To be asked only while there is no more of
    /// it; whoever asks is woken when there is something to be told.
    pub fn fault(&self, context: &Context<'_>) -> Option<Fault> {
        let silent = self.is_silent.get().then_some(Fault::Silent);
        let fault = self.failure().or(silent);
        if fault.is_none() {
            let mut wakers = self.wakers.borrow_mut();
            // An exchange waits in few places.
            if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
        }
        fault
    }

    /// How the guest failed, if it has.
    pub fn failure(&self) -> Option<Fault> {
        self.handle.fault.get()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.handle.taken.set(self.handle.taken.get() - 1);
        self.handle.settle();
    }
}

/// The host's side of an exchange's part in an instance. Dropped before [`Place::complete`], it ends an instance that it
/// has to itself.
pub struct Place {
    turn: Rc<Turn>,
    is_reused: bool,
    is_begun: bool,
    is_complete: bool,
}

impl Place {
    fn take(handle: &Rc<Handle>) -> Self {
        let served = handle.served.get();
        handle.taken.set(handle.taken.get() + 1);
        handle.served.set(served + 1);
        let turn = Rc::new(Turn {
            handle: Rc::clone(handle),
            wakers: RefCell::default(),
            is_silent: Cell::new(false),
            left: Cell::new(None),
        });
        let mut turns = handle.turns.borrow_mut();
        // As many as may be at once, and those that are gone.
        turns.retain(|turn| turn.strong_count() > 0);
        turns.push(Rc::downgrade(&turn));
        Self {
            turn,
            is_reused: served > 0,
            is_begun: false,
            is_complete: false,
        }
    }

    /// Whether its instance has served before.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    pub(super) fn turn(&self) -> Rc<Turn> {
        Rc::clone(&self.turn)
    }

    /// Hands the exchange to the guest, which goes on with it as far as it comes.
    pub(super) fn begin(&mut self, job: Job) {
        self.is_begun = true;
        let handle = &self.turn.handle;
        handle.is_quiet.set(false);
        handle.jobs.borrow_mut().push_back(job);
        if let Some(running) = handle.running() {
            running.run();
        }
    }

    /// See [`Turn::give`].
    pub(super) fn give<T>(&self, give: impl FnOnce() -> T) -> T {
        self.turn.give(give)
    }

    /// See [`Turn::fault`].
    pub(super) fn fault(&self, context: &Context<'_>) -> Option<Fault> {
        self.turn.fault(context)
    }

    /// How the guest failed, if it has.
    pub(super) fn failure(&self) -> Option<Fault> {
        self.turn.failure()
    }

    /// There was an answer, to its end.
    pub(super) fn complete(&mut self) {
        self.is_complete = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.turn.left.set(Some(Instant::now()));
        if self.is_begun && !self.is_complete && self.turn.handle.at_once == 1 {
            self.turn.handle.kill();
        }
    }
}
