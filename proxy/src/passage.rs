//! An exchange's passage through its chains: forward with the request, in reverse with the response, along both bodies.
//!
//! Data plane. Shared by the exchange and the stages of its bodies, on one thread. Within one exchange one hook runs at a
//! time: whoever has the message has the turn, and all others wait for it. Only a filter whose request half ran sees the
//! rest, and it sees every response: the upstream's, a later filter's reply, the proxy's own error. A guest is leased at
//! its filter's first hook, and given back after the last one that can still come.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;

use crate::breaker::{Admission, Breaker, Probe};
use crate::canary::Version;
use crate::chain::{Broken, Floor, Step, StepKind};
use crate::filter::{
    self, BodyVerdict, EndVerdict, Failure, HeldVerdict, Hook, Hooks, OnFailure, Outcome, ReadBody, Reply,
    RequestVerdict, Side, Verdict,
};
use crate::head::{Attributes, Message, Stage};
use crate::outbox;
use crate::service;
use crate::trial::Trial;
use crate::wasm::http::{Answered, Middleware, Movers, Place as Seat, Session, Unplaced};
use crate::wasm::{self, HookTime, Question};
use crate::worker::Scene;

/// Hooks that come after the request's head, for each exchange.
const LATER: [Hook; 5] = [
    Hook::HeldBody,
    Hook::RequestBody,
    Hook::ResponseHead,
    Hook::ResponseBody,
    Hook::Completion,
];

/// After a hook of so long, what others have written in this round is sent at once: a round of many exchanges with such
/// hooks would keep the first ones' bytes for long. Most hooks take some microseconds.
const LONG_HOOK: Duration = Duration::from_micros(200);

/// Lives as long as its exchange, and as its bodies.
pub struct Passage {
    pub scene: Scene,
    /// Not here only while a hook has it.
    message: RefCell<Option<Box<Message>>>,
    /// Those who wait for it.
    waiting: RefCell<Vec<Waker>>,
    /// In the order in which their request halves ran; without those that were [done at once](Self::forward_at_once).
    turns: RefCell<Vec<Turn>>,
    /// How many of them are still to see the response's head.
    to_come: Cell<usize>,
}

/// One filter's part in the exchange.
struct Turn {
    at: Position,
    /// The guest, between its hooks.
    lease: Option<wasm::Lease>,
    /// A middleware's part, from the request that it passed on to the response that it is to see. Apart, because it is
    /// large and most filters have none.
    session: Option<Box<Session>>,
    /// The hooks that are still to come.
    ahead: Hooks,
    /// Processor time so far.
    cpu: Duration,
    /// Whether the breaker closes again is found out with this exchange.
    probe: Option<Probe>,
    /// It failed open: the exchange goes on without it.
    is_skipped: bool,
}

/// Which chain, and where in it; of a filter on trial, which version. The listener's chain runs before the route's.
#[derive(Clone, Copy)]
struct Position {
    chain: usize,
    step: usize,
    version: Version,
}

/// The message, lent to one hook; back with the passage when it is dropped.
struct Loan<'a> {
    passage: &'a Passage,
    message: Option<Box<Message>>,
}

/// Whose hook is called, and since when.
struct Place<'a> {
    /// `None` of a filter that sees nothing but this hook.
    turn: Option<usize>,
    step: &'a Step,
    filter: &'a Arc<wasm::Filter>,
    /// The filter's number in its generation.
    slot: usize,
    hook: Hook,
    now: Instant,
}

/// What a hook of a brief filter is called with.
struct Ready<'a> {
    lease: wasm::Lease,
    loan: Loan<'a>,
    /// Processor time that the exchange has left for the filter.
    cpu: Duration,
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        *self.passage.message.borrow_mut() = self.message.take();
        let mut waiting = self.passage.waiting.borrow_mut();
        if !waiting.is_empty() {
            waiting.drain(..).for_each(Waker::wake);
        }
    }
}

/// What comes of one step of the way forward.
pub enum Forward {
    /// The filter's stage stands in the way of the request's body, if it has one.
    Proceed {
        stage: Option<usize>,
    },
    Reply(Box<Reply>),
    /// The filter of this turn wants to see the body first.
    Hold(usize, ReadBody),
    /// The filter of this turn is handed the whole request.
    Hand(usize),
}

impl Passage {
    pub fn new(scene: Scene, message: Box<Message>) -> Self {
        Self {
            scene,
            message: RefCell::new(Some(message)),
            waiting: RefCell::default(),
            turns: RefCell::default(),
            to_come: Cell::new(0),
        }
    }

    /// The message as it is now; `None` while a hook has it.
    pub fn message(&self) -> std::cell::RefMut<'_, Option<Box<Message>>> {
        self.message.borrow_mut()
    }

    /// Whether a hook has the message, so that nobody else may look at it.
    pub fn is_in_hook(&self) -> bool {
        self.message.borrow().is_none()
    }

    pub fn set_stage(&self, stage: Stage) {
        if let Some(message) = &mut *self.message.borrow_mut() {
            message.stage = stage;
        }
    }

    /// Every step of both chains, as chain and position in it, in the order in which a request meets them.
    pub fn steps(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let lengths = self.scene.chains().map(|chain| chain.steps.len());
        (0..lengths.len()).flat_map(move |chain| (0..lengths[chain]).map(move |step| (chain, step)))
    }

    pub fn has_filters(&self) -> bool {
        self.scene.chains().iter().any(|chain| !chain.steps.is_empty())
    }

    /// The request half of a brief filter that sees nothing of the rest, and its reply if it gives one: without a future,
    /// and without a turn, as nothing is left to be done for it afterwards. `None`, and nothing was done, if it is no such
    /// filter or not all that it needs is there.
    pub fn forward_at_once(
        &self,
        (chain, step): (usize, usize),
        clock: &mut Instant,
    ) -> Option<Result<Option<Box<Reply>>, Broken>> {
        let step = &self.scene.chains()[chain].steps[step];
        let StepKind::Wasm(filter, slot) = &step.kind else {
            return None;
        };
        // What was drawn for a trial is remembered with the turn.
        if !filter.hooks().is_only(Hook::RequestHead) || step.part.is_some() {
            return None;
        }
        let place = Place {
            turn: None,
            step,
            filter,
            slot: *slot,
            hook: Hook::RequestHead,
            now: *clock,
        };
        let ready = self.ready(&place)?;
        let (asked, spent) = self.ask_in_place(&place, ready, wasm::OnRequestHead);
        let asked = self.judge(&place, asked, clock, spent);
        Some(asked.map(|verdict| match verdict {
            Some(RequestVerdict::Reply(reply)) => {
                self.scene.replied(step, reply.status);
                Some(reply)
            }
            // Without a hook for the body, to ask for it is a failure.
            Some(RequestVerdict::Proceed | RequestVerdict::ReadBody(_)) | None => None,
        }))
    }

    /// The request half of one filter.
    pub async fn forward(&self, (chain, step): (usize, usize), clock: &mut Instant) -> Result<Forward, Broken> {
        let (at, step) = self.draw(chain, step);
        match &step.kind {
            StepKind::Native(native) => {
                let mut loan = self.borrow().await;
                let verdict = loan.message.as_mut().map(|message| native.on_request_head(message));
                drop(loan);
                self.add(Turn::new(at, Hooks::default()));
                self.lap(step, Hook::RequestHead, clock, HookTime::NONE);
                Ok(match verdict {
                    Some(RequestVerdict::Reply(reply)) => {
                        self.scene.replied(step, reply.status);
                        Forward::Reply(reply)
                    }
                    // Whoever is built in and wants a body says so when there is one to do it.
                    _ => Forward::Proceed { stage: None },
                })
            }
            StepKind::Wasm(filter, _) => {
                let hooks = filter.hooks();
                let turn = self.add(Turn::new(at, hooks.among(&LATER)));
                let asked = match hooks.has(Hook::RequestHead) {
                    true => self.ask(turn, step, wasm::OnRequestHead, clock).await,
                    false => Ok(Some(RequestVerdict::Proceed)),
                };
                self.after_request_head(turn, asked)
            }
            StepKind::Middleware(..) => Ok(Forward::Hand(self.add(Turn::new(at, Hooks::default())))),
        }
    }

    fn after_request_head(
        &self,
        turn: usize,
        asked: Result<Option<RequestVerdict>, Broken>,
    ) -> Result<Forward, Broken> {
        match asked {
            Ok(Some(RequestVerdict::Proceed)) => Ok(Forward::Proceed {
                stage: self.stage_of(turn, Hook::RequestBody),
            }),
            Ok(Some(RequestVerdict::Reply(reply))) => {
                self.scene.replied(self.step(turn), reply.status);
                self.forgo(turn, &[Hook::HeldBody, Hook::RequestBody]);
                Ok(Forward::Reply(reply))
            }
            Ok(Some(RequestVerdict::ReadBody(wish))) => Ok(Forward::Hold(turn, wish)),
            // A filter whose request half did not run sees nothing of the rest.
            Ok(None) => {
                self.pop();
                Ok(Forward::Proceed { stage: None })
            }
            Err(broken) => {
                self.pop();
                Err(broken)
            }
        }
    }

    /// After [`Forward::Hold`]: the filter sees the body.
    pub async fn held(
        &self,
        turn: usize,
        body: &Bytes,
        complete: bool,
        clock: &mut Instant,
    ) -> Result<HeldVerdict, Broken> {
        let question = wasm::OnHeldBody { body, complete };
        let verdict = self.ask(turn, self.step(turn), question, clock).await?;
        let verdict = verdict.unwrap_or(HeldVerdict::Proceed);
        if let HeldVerdict::Reply(reply) = &verdict {
            self.scene.replied(self.step(turn), reply.status);
        }
        Ok(verdict)
    }

    /// The turn itself, when its filter's stage is to stand in the way of a body.
    pub fn stage_of(&self, turn: usize, hook: Hook) -> Option<usize> {
        let wanted = self.turns.borrow()[turn].ahead.has(hook);
        if !wanted {
            self.forgo(turn, &[Hook::HeldBody, hook]);
        }
        wanted.then_some(turn)
    }

    /// What a filter has asked to pass does not come to it, nor concerns any other.
    fn let_pass(&self, turn: Option<usize>, hook: Hook) {
        let mut message = self.message.borrow_mut();
        let asked = message.as_mut().map(|message| &mut message.passes_body);
        let passes = asked.is_some_and(std::mem::take);
        let body = match hook {
            Hook::RequestHead | Hook::HeldBody => Hook::RequestBody,
            Hook::ResponseHead => Hook::ResponseBody,
            _ => return,
        };
        drop(message);
        if let (true, Some(turn)) = (passes, turn) {
            self.forgo(turn, &[body]);
        }
    }

    /// The last turn that has not seen the response's head yet, of those that want to see anything of a response.
    pub fn next_back(&self) -> Option<usize> {
        let turns = self.turns.borrow();
        while let Some(turn) = self.to_come.get().checked_sub(1) {
            self.to_come.set(turn);
            let Turn { at, ahead, session, .. } = &turns[turn];
            let is_native = matches!(self.at(*at).kind, StepKind::Native(_));
            if is_native || session.is_some() || ahead.has(Hook::ResponseHead) || ahead.has(Hook::ResponseBody) {
                return Some(turn);
            }
        }
        None
    }

    /// The response half of one filter; the end of the one before it is the start of this one.
    pub async fn backward(&self, turn: usize, clock: &mut Option<Instant>) -> Result<Verdict, Broken> {
        let verdict = self.response_half(turn, clock).await?;
        if let Verdict::Reply(reply) = &verdict {
            self.scene.replied(self.step(turn), reply.status);
        }
        Ok(verdict)
    }

    async fn response_half(&self, turn: usize, clock: &mut Option<Instant>) -> Result<Verdict, Broken> {
        let step = self.step(turn);
        match &step.kind {
            StepKind::Native(native) => {
                let mut loan = self.borrow().await;
                let clock = clock.get_or_insert_with(Instant::now);
                let verdict = loan.message.as_mut().map(|message| native.on_response_head(message));
                drop(loan);
                self.lap(step, Hook::ResponseHead, clock, HookTime::NONE);
                Ok(verdict.unwrap_or(Verdict::Proceed))
            }
            StepKind::Wasm(filter, _) if filter.hooks().has(Hook::ResponseHead) => {
                let clock = clock.get_or_insert_with(Instant::now);
                let verdict = self.ask(turn, step, wasm::OnResponseHead, clock).await?;
                Ok(verdict.unwrap_or(Verdict::Proceed))
            }
            StepKind::Wasm(..) | StepKind::Middleware(..) => Ok(Verdict::Proceed),
        }
    }

    pub async fn body(&self, turn: usize, side: Side, piece: &[u8]) -> Result<BodyVerdict, Broken> {
        let (step, mut clock) = (self.step(turn), Instant::now());
        let verdict = self.ask(turn, step, wasm::OnBody { side, piece }, &mut clock).await?;
        Ok(verdict.unwrap_or(BodyVerdict::Keep))
    }

    pub async fn end(&self, turn: usize, side: Side, trailers: Option<&HeaderMap>) -> Result<EndVerdict, Broken> {
        let (step, mut clock) = (self.step(turn), Instant::now());
        let question = wasm::OnEnd { side, trailers };
        let verdict = self.ask(turn, step, question, &mut clock).await?;
        self.forgo(turn, &[side.hook()]);
        Ok(verdict.unwrap_or(EndVerdict::Keep))
    }

    /// Whether a filter wants to know how the exchange came out.
    pub fn awaits_completion(&self) -> bool {
        self.turns.borrow().iter().any(|turn| turn.ahead.has(Hook::Completion))
    }

    /// The last hook of every filter, in reverse order. A failure here no longer concerns the client.
    pub async fn complete(&self, outcome: Outcome) {
        let turns = self.turns.borrow().len();
        for turn in (0..turns).rev() {
            if self.turns.borrow()[turn].ahead.has(Hook::Completion) {
                let mut clock = Instant::now();
                let question = wasm::OnCompletion(outcome.clone());
                // Counted and logged where it was found.
                let _ = self.ask(turn, self.step(turn), question, &mut clock).await;
            }
        }
    }

    /// These hooks of the filter will not be called any more.
    pub fn forgo(&self, turn: usize, hooks: &[Hook]) {
        let mut turns = self.turns.borrow_mut();
        let turn = &mut turns[turn];
        hooks.iter().for_each(|hook| turn.ahead.remove(*hook));
        if turn.ahead.is_empty()
            && let Some(lease) = turn.lease.take()
        {
            lease.put_back();
        }
    }

    /// Whether a guest may still ask for a head after it is sent.
    pub fn needs_heads(&self) -> bool {
        self.turns.borrow().iter().any(|turn| turn.lease.is_some())
    }

    /// One hook of a guest; `None` when it failed and its filter is skipped from then on.
    async fn ask<Q: Question>(
        &self,
        turn: usize,
        step: &Step,
        question: Q,
        clock: &mut Instant,
    ) -> Result<Option<Q::Verdict>, Broken> {
        let StepKind::Wasm(filter, slot) = &step.kind else {
            return Ok(None);
        };
        let mut place = Place {
            turn: Some(turn),
            step,
            filter,
            slot: *slot,
            hook: question.hook(),
            now: *clock,
        };
        if let Some(ready) = self.ready(&place) {
            let (asked, spent) = self.ask_in_place(&place, ready, question);
            return self.judge(&place, asked, clock, spent);
        }
        let mut loan = match self.message.take() {
            Some(message) => self.loan(message),
            None => {
                let loan = Box::pin(self.wait()).await;
                // What passed while another hook had its turn is not this one's.
                *clock = Instant::now();
                place.now = *clock;
                loan
            }
        };
        if self.turns.borrow()[turn].is_skipped {
            return Ok(None);
        }
        let mut spent = HookTime::NONE;
        let asked = self
            .try_ask((turn, &place), question, &mut loan.message, &mut spent)
            .await;
        drop(loan);
        self.judge(&place, asked, clock, spent)
    }

    /// What a hook of a brief filter needs, if all of it is there. If not, nothing was taken, and nothing asked of the
    /// breaker.
    fn ready(&self, place: &Place<'_>) -> Option<Ready<'_>> {
        if !place.filter.is_brief() {
            return None;
        }
        let mut message = self.message.borrow_mut();
        let mut turns = self.turns.borrow_mut();
        let turn = place.turn.map(|turn| &mut turns[turn]);
        let spent = turn.as_ref().map_or(Duration::ZERO, |turn| turn.cpu);
        let cpu = place.filter.exchange_cpu().saturating_sub(spent);
        let is_skipped = turn.as_ref().is_some_and(|turn| turn.is_skipped);
        if message.is_none() || is_skipped || cpu.is_zero() {
            return None;
        }
        let lease = match turn.and_then(|turn| turn.lease.take()) {
            Some(lease) => lease,
            None if place.filter.breaker().is_none_or(|breaker| breaker.is_closed()) => {
                self.scene.guests(place.filter, place.slot).lease()?
            }
            None => return None,
        };
        let loan = self.loan(message.take()?);
        Some(Ready { lease, loan, cpu })
    }

    /// Without a future: its state would be written and read for each hook. Nobody waits here, neither for the guest nor in
    /// it.
    fn ask_in_place<Q: Question>(
        &self,
        place: &Place<'_>,
        ready: Ready<'_>,
        question: Q,
    ) -> (wasm::Outcome<Q::Verdict>, HookTime) {
        let Ready {
            mut lease,
            mut loan,
            cpu,
        } = ready;
        let home = &mut loan.message;
        let asked = lease.ask_in_place(question, wasm::Loan { home, cpu });
        drop(loan);
        let spent = lease.spent();
        if asked.is_ok() {
            self.keep(place, lease, Duration::ZERO);
        }
        (asked, spent)
    }

    /// The guest is out of its place while it works, so that it goes with the future when that is dropped half-way.
    async fn try_ask<Q: Question>(
        &self,
        (turn, place): (usize, &Place<'_>),
        question: Q,
        home: &mut Option<Box<Message>>,
        spent: &mut HookTime,
    ) -> wasm::Outcome<Q::Verdict> {
        let (lease, before) = {
            let turn = &mut self.turns.borrow_mut()[turn];
            (turn.lease.take(), turn.cpu)
        };
        let cpu = place.filter.exchange_cpu().saturating_sub(before);
        if cpu.is_zero() {
            return Err((
                Failure::Cpu,
                format!("over limits.exchange_cpu of {:?}", place.filter.exchange_cpu()),
            ));
        }
        let mut lease = match lease {
            Some(lease) => lease,
            None => match self.lease(turn, place)? {
                Some(lease) => lease,
                // Boxed like all that seldom happens.
                None => Box::pin(self.scene.guests(place.filter, place.slot).lease_slowly()).await?,
            },
        };
        let awaited = lease.awaited();
        let verdict = lease.ask(question, wasm::Loan { home, cpu }).await;
        *spent = lease.spent();
        let verdict = verdict?;
        self.keep(place, lease, awaited);
        Ok(verdict)
    }

    /// The guest has answered, and waits for its next hook if there is one.
    fn keep(&self, place: &Place<'_>, mut lease: wasm::Lease, awaited: Duration) {
        self.scene.took(place.step, place.hook, place.now, awaited);
        let metrics = lease.take_metrics();
        if !metrics.is_empty() {
            self.scene.counted(place.step, metrics);
        }
        match place.turn {
            Some(turn) => self.turns.borrow_mut()[turn].lease = Some(lease),
            None => lease.put_back(),
        }
    }

    /// What the answer, or the want of one, means to the exchange and to the filter's breaker.
    fn judge<V>(
        &self,
        place: &Place<'_>,
        asked: wasm::Outcome<V>,
        clock: &mut Instant,
        spent: HookTime,
    ) -> Result<Option<V>, Broken> {
        let Place {
            turn,
            step,
            filter,
            hook,
            ..
        } = *place;
        let computed = self.lap(step, hook, clock, spent);
        self.let_pass(turn, hook);
        let breaker = filter.breaker();
        let probe = turn.and_then(|turn| {
            let turn = &mut self.turns.borrow_mut()[turn];
            turn.cpu += computed;
            turn.probe.take()
        });
        match asked {
            Ok(verdict) => {
                match (probe, breaker) {
                    (Some(probe), _) => probe.succeeded(),
                    (None, Some(breaker)) => breaker.succeeded(*clock),
                    (None, None) => {}
                }
                Ok(Some(verdict))
            }
            Err((failure, detail)) => {
                match (failure, probe, breaker) {
                    // Not called, so nothing was found out.
                    (Failure::Breaker | Failure::NoInstance, ..) => {}
                    (_, Some(probe), _) => probe.failed(*clock),
                    (_, None, Some(breaker)) => breaker.failed(*clock),
                    (_, None, None) => {}
                }
                self.tell_failure(step, hook, filter.on_failure(), (failure, &detail));
                if let Some(turn) = turn {
                    self.skip(turn);
                }
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

    /// A guest for the filter's first hook, if one is at rest and the filter may be called at all.
    fn lease(&self, turn: usize, place: &Place<'_>) -> wasm::Outcome<Option<wasm::Lease>> {
        if let Some(breaker) = place.filter.breaker() {
            self.admit(turn, breaker, place.now)?;
        }
        Ok(self.scene.guests(place.filter, place.slot).lease())
    }

    fn admit(&self, turn: usize, breaker: &Arc<Breaker>, now: Instant) -> wasm::Outcome<()> {
        match breaker.admit(now) {
            Admission::Pass => {}
            Admission::Probe(probe) => self.turns.borrow_mut()[turn].probe = Some(probe),
            Admission::Refused => return Err((Failure::Breaker, "it has failed too often".into())),
        }
        Ok(())
    }

    async fn borrow(&self) -> Loan<'_> {
        match self.message.take() {
            Some(message) => self.loan(message),
            None => self.wait().await,
        }
    }

    fn loan(&self, message: Box<Message>) -> Loan<'_> {
        Loan {
            message: Some(message),
            passage: self,
        }
    }

    /// For the hook that has the message.
    async fn wait(&self) -> Loan<'_> {
        let message = std::future::poll_fn(|context| match self.message.take() {
            Some(message) => Poll::Ready(message),
            None => {
                self.waiting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        });
        self.loan(message.await)
    }

    pub fn step(&self, turn: usize) -> &Step {
        self.at(self.turns.borrow()[turn].at)
    }

    fn at(&self, Position { chain, step, version }: Position) -> &Step {
        self.scene.chains()[chain].steps[step].version(version)
    }

    /// Which version of the filter the exchange meets there.
    fn draw(&self, chain: usize, step: usize) -> (Position, &Step) {
        let met = &self.scene.chains()[chain].steps[step];
        let version = match &met.part {
            Some(part) => self.draw_version(&part.trial),
            None => Version::Stable,
        };
        (Position { chain, step, version }, met.version(version))
    }

    /// A filter that stands in both chains is of one version in an exchange.
    fn draw_version(&self, trial: &Trial) -> Version {
        let same = |turn: &Turn| {
            let part = self.at(turn.at).part.as_ref()?;
            std::ptr::eq(&*part.trial, trial).then_some(part.version)
        };
        if let Some(version) = self.turns.borrow().iter().find_map(same) {
            return version;
        }
        let mut message = self.message.borrow_mut();
        let Some(message) = &mut *message else {
            return Version::Stable;
        };
        let worker = &self.scene.worker;
        let version = trial.draw(worker.index, message, || worker.random());
        if version == Version::Candidate {
            trial.sign(&mut message.attributes);
        }
        version
    }

    fn add(&self, turn: Turn) -> usize {
        let mut turns = self.turns.borrow_mut();
        turns.push(turn);
        self.to_come.set(turns.len());
        turns.len() - 1
    }

    /// The filter of the last turn has no part in the exchange.
    fn pop(&self) {
        let mut turns = self.turns.borrow_mut();
        turns.pop();
        self.to_come.set(turns.len());
    }

    fn tell_failure(&self, step: &Step, hook: Hook, policy: OnFailure, failure: (Failure, &str)) {
        // Whoever fails while somebody looks at the message is told of without it.
        let message = self.message.try_borrow().ok();
        let message = message.as_ref().and_then(|message| message.as_ref());
        let id = message.map(|message| message.facts.request_id.as_bytes());
        let id = String::from_utf8_lossy(id.unwrap_or_default());
        self.scene.failed(step, hook, policy, failure, &id);
    }

    fn skip(&self, turn: usize) {
        let mut turns = self.turns.borrow_mut();
        turns[turn].is_skipped = true;
        turns[turn].ahead = Hooks::default();
    }

    /// Charges the time since `clock` to one call; the end of one call is the start of the next. Gives what a guest has
    /// computed of it.
    fn lap(&self, step: &Step, hook: Hook, clock: &mut Instant, spent: HookTime) -> Duration {
        let now = Instant::now();
        let took = now - *clock;
        let cpu = spent.computed(took);
        self.scene.called(step, hook, took, cpu);
        *clock = now;
        if took >= LONG_HOOK {
            outbox::send_all();
        }
        cpu
    }
}

/// Of middlewares: who has the exchange while what stands behind them is walked.
impl Passage {
    pub fn has_middlewares(&self) -> bool {
        self.scene.chains().iter().any(|chain| chain.has_middlewares())
    }

    /// The middleware of this turn.
    pub fn middleware(&self, turn: usize) -> Option<&Arc<Middleware>> {
        match &self.step(turn).kind {
            StepKind::Middleware(middleware, _) => Some(middleware),
            _ => None,
        }
    }

    /// A place in an instance of this turn's middleware, if it may be called at all.
    pub async fn enter(&self, turn: usize, now: Instant) -> wasm::Outcome<Seat> {
        let StepKind::Middleware(middleware, slot) = &self.step(turn).kind else {
            return Err((Failure::Start, "it is no middleware".into()));
        };
        if let Some(breaker) = &middleware.terms.breaker {
            self.admit(turn, breaker, now)?;
        }
        let pool = self.scene.instances(middleware, *slot);
        if let Some(seat) = pool.ready() {
            return Ok(seat);
        }
        let placed = Box::pin(pool.place(middleware.terms.wait)).await;
        placed.map_err(|unplaced| match unplaced {
            Unplaced::Busy(waited) => (
                Failure::NoInstance,
                format!("all limits.instances are busy, for {waited:?}"),
            ),
            Unplaced::NoRoom => (
                Failure::NoInstance,
                "the process has wasm.max_service_instances".to_owned(),
            ),
            Unplaced::Failed(why) => (Failure::Start, why),
        })
    }

    /// This turn's middleware has passed the request on.
    pub fn keep_session(&self, turn: usize, session: Box<Session>) {
        self.turns.borrow_mut()[turn].session = Some(session);
    }

    pub fn take_session(&self, turn: usize) -> Option<Box<Session>> {
        self.turns.borrow_mut()[turn].session.take()
    }

    /// Lets go of those that have not seen a response. Their bodies may hold this passage.
    pub fn end_sessions(&self) {
        let sessions: Vec<_> = (self.turns.borrow_mut().iter_mut())
            .filter_map(|turn| turn.session.take())
            .collect();
        drop(sessions);
    }

    /// What moves of the bodies of all that wait.
    pub fn movers(&self) -> Vec<Movers> {
        let turns = self.turns.borrow();
        turns
            .iter()
            .filter_map(|turn| Some(turn.session.as_ref()?.movers()))
            .collect()
    }

    /// The first middleware that has an answer, or none any more, before there is a response from behind it.
    pub fn poll_early(&self, context: &mut Context<'_>) -> Poll<(usize, Result<Answered, service::Fault>)> {
        let mut turns = self.turns.borrow_mut();
        for (number, turn) in turns.iter_mut().enumerate() {
            if let Some(session) = &mut turn.session
                && let Poll::Ready(answered) = session.poll_early(context)
            {
                return Poll::Ready((number, answered));
            }
        }
        Poll::Pending
    }

    /// Filters behind this turn see nothing more but the end.
    pub fn cut_behind(&self, turn: usize) {
        let last = self.turns.borrow().len();
        for behind in turn + 1..last {
            drop(self.take_session(behind));
            self.forgo(
                behind,
                &[
                    Hook::HeldBody,
                    Hook::RequestBody,
                    Hook::ResponseHead,
                    Hook::ResponseBody,
                ],
            );
        }
        self.to_come.set(turn);
    }

    /// One word of a middleware was to the point.
    pub fn spoke(&self, turn: usize, hook: Hook, clock: &mut Instant) {
        let step = self.step(turn);
        self.scene.took(step, hook, *clock, Duration::ZERO);
        self.lap(step, hook, clock, HookTime::NONE);
        let probe = self.turns.borrow_mut()[turn].probe.take();
        let breaker = self.middleware(turn).and_then(|one| one.terms.breaker.as_ref());
        match (probe, breaker) {
            (Some(probe), _) => probe.succeeded(),
            (None, Some(breaker)) => breaker.succeeded(*clock),
            (None, None) => {}
        }
    }

    /// A middleware has failed. `may_go_on` is whether the exchange can: nothing is missing of its bodies. With a clock, it
    /// has failed in what it was asked since then.
    pub fn fell(
        &self,
        turn: usize,
        hook: Hook,
        (failure, detail): (Failure, &str),
        (clock, may_go_on): (Option<&mut Instant>, bool),
    ) -> Result<(), Broken> {
        let step = self.step(turn);
        let now = Instant::now();
        if let Some(clock) = clock {
            self.lap(step, hook, clock, HookTime::NONE);
        }
        let terms = self.middleware(turn).map(|one| &one.terms);
        let probe = self.turns.borrow_mut()[turn].probe.take();
        match (failure, probe, terms.and_then(|terms| terms.breaker.as_ref())) {
            // Not called, so nothing was found out.
            (Failure::Breaker | Failure::NoInstance, ..) => {}
            (_, Some(probe), _) => probe.failed(now),
            (_, None, Some(breaker)) => breaker.failed(now),
            (_, None, None) => {}
        }
        let policy = match terms.map(|terms| terms.on_failure) {
            Some(OnFailure::Open) if may_go_on => OnFailure::Open,
            _ => OnFailure::Closed,
        };
        self.tell_failure(step, hook, policy, (failure, detail));
        self.skip(turn);
        match policy {
            OnFailure::Open => Ok(()),
            OnFailure::Closed => Err(Broken {
                filter: Arc::clone(&step.name),
                failure,
            }),
        }
    }
}

impl Drop for Passage {
    /// A guest between two hooks is as good as new: the next exchange begins anew.
    fn drop(&mut self) {
        let turns = self.turns.get_mut().iter_mut();
        turns
            .filter_map(|turn| turn.lease.take())
            .for_each(wasm::Lease::put_back);
    }
}

impl Turn {
    fn new(at: Position, ahead: Hooks) -> Self {
        Self {
            at,
            lease: None,
            session: None,
            ahead,
            cpu: Duration::ZERO,
            probe: None,
            is_skipped: false,
        }
    }
}

/// Asks the filters of a listener about a connection: the attributes that its exchanges begin with, or `None` when one
/// refuses it.
pub async fn admit(scene: Scene, message: Box<Message>) -> Option<Attributes> {
    let passage = Passage::new(scene, message);
    let mut clock = Instant::now();
    for (chain, step) in passage.steps() {
        if !passage.scene.chains()[chain].steps[step].asks_about_connections() {
            continue;
        }
        let (at, step) = passage.draw(chain, step);
        if !step.has(Hook::Connection) {
            continue;
        }
        let turn = passage.add(Turn::new(at, Hooks::default()));
        match passage.ask(turn, step, wasm::OnConnection, &mut clock).await {
            Ok(Some(filter::Admission::Accept) | None) => {}
            Ok(Some(filter::Admission::Refuse)) | Err(_) => return None,
        }
    }
    let message = passage.message.take()?;
    Some(message.attributes)
}
