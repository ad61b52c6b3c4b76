//! A circuit breaker: spares the exchanges the attempt to use what has failed again and again.
//!
//! Data plane; one for each filter, shared by all workers. While it is closed and nothing fails, an exchange costs it two
//! relaxed loads of a cache line that nobody writes. It knows nothing of filters, and not what time it is.
//!
//! A success makes up for one failure: what fails for one client only, but works for the others, must not be taken from
//! them. So it opens when, within the window, the failures outnumber the successes by `failures`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// The most failures that are remembered (16 bytes each); who tolerates more wants no breaker.
const MAX_FAILURES: u32 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// 1 to 1,000; what is outside counts as the nearer end.
    pub failures: u32,
    /// How long a failure counts.
    pub within: Duration,
    /// How long the first opening lasts. Each probe that fails doubles it.
    pub backoff: Duration,
    pub max_backoff: Duration,
}

/// Lives as long as a generation names its filter unchanged, or an exchange uses it.
pub struct Breaker {
    settings: Settings,
    /// Copies of what `circuit` says, for those who need not lock. Written under its lock only.
    open: AtomicBool,
    /// Whether it is closed, and a success has failures to make up for.
    troubled: AtomicBool,
    openings: AtomicU64,
    circuit: Mutex<Circuit>,
}

/// What becomes of one exchange.
pub enum Admission {
    /// Its verdict is told to the breaker.
    Pass,
    /// As `Pass`, but the verdict is told to the probe, and decides.
    Probe(Probe),
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Closed,
    Open {
        /// Until a probe may pass.
        remaining: Duration,
    },
    /// A probe is under way, or the next exchange will be one.
    HalfOpen,
}

/// The right to find out whether things work again. Dropped without a verdict, it is free for the next exchange; kept
/// for another back-off without one, it loses its say to the next that asks: a client that is slow must not keep
/// everybody else out.
pub struct Probe {
    breaker: Arc<Breaker>,
    id: u64,
}

struct Circuit {
    phase: Phase,
    /// What the next probe is called.
    next_probe: u64,
}

enum Phase {
    /// When things failed, oldest first; fewer than would open it.
    Closed(VecDeque<Instant>),
    Open(Opening),
}

struct Opening {
    since: Instant,
    backoff: Duration,
    /// The probe that counts, and when it began.
    probe: Option<(u64, Instant)>,
}

enum Verdict {
    Succeeded,
    Failed(Instant),
}

impl Probe {
    /// Closes the breaker; the next opening is a first one again.
    pub fn succeeded(self) {
        self.breaker.settle(self.id, Verdict::Succeeded);
    }

    /// Opens the breaker again, for twice as long.
    pub fn failed(self, now: Instant) {
        self.breaker.settle(self.id, Verdict::Failed(now));
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // After a verdict there is nothing left by this id.
        if let Phase::Open(opening) = &mut self.breaker.circuit().phase
            && opening.is_probed_by(self.id)
        {
            opening.probe = None;
        }
    }
}

impl Breaker {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings: Settings {
                failures: settings.failures.clamp(1, MAX_FAILURES),
                ..settings
            },
            open: AtomicBool::new(false),
            troubled: AtomicBool::new(false),
            openings: AtomicU64::new(0),
            circuit: Mutex::new(Circuit {
                phase: Phase::Closed(VecDeque::new()),
                next_probe: 0,
            }),
        }
    }

    /// Asked once for each exchange, but by those who found that it [is closed](Self::is_closed), whom it would let pass and
    /// note nothing. One relaxed load while that is so.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Admission {
        if self.is_closed() {
            return Admission::Pass;
        }
        let mut circuit = match self.circuit.try_lock() {
            Ok(circuit) => circuit,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Nearly all are refused now; they need not queue up to hear it.
            Err(TryLockError::WouldBlock) => return Admission::Refused,
        };
        let id = circuit.next_probe;
        match &mut circuit.phase {
            Phase::Closed(_) => return Admission::Pass,
            Phase::Open(opening) if opening.remaining(now).is_zero() && !opening.is_probed(now) => {
                opening.probe = Some((id, now));
            }
            Phase::Open(_) => return Admission::Refused,
        }
        circuit.next_probe += 1;
        Admission::Probe(Probe {
            breaker: Arc::clone(self),
            id,
        })
    }

    /// Whether every exchange passes, and nothing else happens to it. One relaxed load.
    pub fn is_closed(&self) -> bool {
        !self.open.load(Ordering::Relaxed)
    }

    /// An exchange that passed has come to a good end. One relaxed load, but for as many as there were failures.
    pub fn succeeded(&self, now: Instant) {
        if !self.troubled.load(Ordering::Relaxed) {
            return;
        }
        if let Phase::Closed(failures) = &mut self.circuit().phase {
            self.forget_old(failures, now);
            failures.pop_front();
            self.troubled.store(!failures.is_empty(), Ordering::Relaxed);
        }
    }

    /// An exchange that passed has failed. Changes nothing while the breaker is open: that exchange began before.
    pub fn failed(&self, now: Instant) {
        let mut circuit = self.circuit();
        let Phase::Closed(failures) = &mut circuit.phase else {
            return;
        };
        self.forget_old(failures, now);
        failures.push_back(now);
        if failures.len() < self.settings.failures as usize {
            self.troubled.store(true, Ordering::Relaxed);
        } else {
            let backoff = self.settings.backoff.min(self.settings.max_backoff);
            self.open(&mut circuit, now, backoff);
        }
    }

    pub fn state(&self, now: Instant) -> State {
        match &self.circuit().phase {
            Phase::Closed(_) => State::Closed,
            Phase::Open(opening) if opening.remaining(now).is_zero() => State::HalfOpen,
            Phase::Open(opening) => State::Open {
                remaining: opening.remaining(now),
            },
        }
    }

    /// How often it has opened, probes that failed included.
    pub fn openings(&self) -> u64 {
        self.openings.load(Ordering::Relaxed)
    }

    fn settle(&self, probe: u64, verdict: Verdict) {
        let mut circuit = self.circuit();
        let doubled = match &circuit.phase {
            Phase::Open(opening) if opening.is_probed_by(probe) => opening.backoff.saturating_mul(2),
            // Another probe has the say, or has had it.
            _ => return,
        };
        match verdict {
            Verdict::Succeeded => self.close(&mut circuit),
            Verdict::Failed(now) => self.open(&mut circuit, now, doubled.min(self.settings.max_backoff)),
        }
    }

    fn open(&self, circuit: &mut Circuit, now: Instant, backoff: Duration) {
        circuit.phase = Phase::Open(Opening {
            since: now,
            backoff,
            probe: None,
        });
        self.openings.fetch_add(1, Ordering::Relaxed);
        self.troubled.store(false, Ordering::Relaxed);
        self.open.store(true, Ordering::Relaxed);
    }

    fn close(&self, circuit: &mut Circuit) {
        circuit.phase = Phase::Closed(VecDeque::new());
        self.open.store(false, Ordering::Relaxed);
    }

    fn forget_old(&self, failures: &mut VecDeque<Instant>, now: Instant) {
        let is_old = |failure: &Instant| now.saturating_duration_since(*failure) > self.settings.within;
        while failures.front().is_some_and(is_old) {
            failures.pop_front();
        }
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// Spans are compared, not points in time: a back-off of any length cannot overflow.
impl Opening {
    fn remaining(&self, now: Instant) -> Duration {
        self.backoff.saturating_sub(now.saturating_duration_since(self.since))
    }

    fn is_probed(&self, now: Instant) -> bool {
        self.probe
            .is_some_and(|(_, since)| now.saturating_duration_since(since) < self.backoff)
    }

    fn is_probed_by(&self, id: u64) -> bool {
        self.probe.is_some_and(|(probe, _)| probe == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETTINGS: Settings = Settings {
        failures: 3,
        within: Duration::from_secs(10),
        backoff: Duration::from_secs(1),
        max_backoff: Duration::from_secs(5),
    };

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn breaker() -> (Arc<Breaker>, Instant) {
        (Arc::new(Breaker::new(SETTINGS)), Instant::now())
    }

    fn opened() -> (Arc<Breaker>, Instant) {
        let (breaker, start) = breaker();
        for _ in 0..SETTINGS.failures {
            breaker.failed(start);
        }
        assert_eq!(breaker.openings(), 1);
        (breaker, start)
    }

    fn probe(breaker: &Arc<Breaker>, now: Instant) -> Probe {
        match breaker.admit(now) {
            Admission::Probe(probe) => probe,
            other => panic!("no probe but {}", name(&other)),
        }
    }

    fn name(admission: &Admission) -> &'static str {
        match admission {
            Admission::Pass => "pass",
            Admission::Probe(_) => "probe",
            Admission::Refused => "refused",
        }
    }

    fn admitted(breaker: &Arc<Breaker>, now: Instant) -> &'static str {
        name(&breaker.admit(now))
    }

    fn open(remaining: u64) -> State {
        State::Open {
            remaining: seconds(remaining),
        }
    }

    #[test]
    fn opens_at_the_last_failure_that_it_tolerates_and_not_before() {
        let (breaker, start) = breaker();
        for _ in 1..SETTINGS.failures {
            breaker.failed(start);
            assert_eq!(admitted(&breaker, start), "pass");
        }
        assert_eq!(breaker.openings(), 0);
        breaker.failed(start + seconds(10));
        assert_eq!(breaker.openings(), 1);
        assert_eq!(breaker.state(start + seconds(10)), open(1));
        assert_eq!(admitted(&breaker, start + seconds(10)), "refused");
    }

    #[test]
    fn failures_that_are_too_far_apart_do_not_open_it() {
        let (breaker, start) = breaker();
        for second in (0..100).step_by(6) {
            breaker.failed(start + seconds(second));
        }
        assert_eq!(breaker.state(start + seconds(100)), State::Closed);
        assert_eq!(breaker.openings(), 0);
    }

    #[test]
    fn one_client_that_fails_does_not_take_the_filter_from_the_others() {
        let (breaker, start) = breaker();
        for _ in 0..1_000 {
            breaker.failed(start);
            breaker.succeeded(start);
        }
        assert_eq!(breaker.openings(), 0);
    }

    #[test]
    fn a_filter_that_mostly_fails_opens_it() {
        let start = Instant::now();
        let breaker = Breaker::new(Settings {
            failures: 5,
            ..SETTINGS
        });
        let verdicts = [false, false, true, false, false, true, false, false, false];
        for success in verdicts {
            assert_eq!(breaker.openings(), 0);
            if success {
                breaker.succeeded(start);
            } else {
                breaker.failed(start);
            }
        }
        assert_eq!(breaker.openings(), 1);
    }

    #[test]
    fn successes_are_not_saved_up() {
        let (breaker, start) = breaker();
        for _ in 0..1_000 {
            breaker.succeeded(start);
        }
        for _ in 0..SETTINGS.failures {
            breaker.failed(start);
        }
        assert_eq!(breaker.openings(), 1);
    }

    #[test]
    fn one_probe_passes_when_the_back_off_is_over() {
        let (breaker, start) = opened();
        assert_eq!(admitted(&breaker, start + Duration::from_millis(999)), "refused");
        let now = start + seconds(1);
        assert_eq!(breaker.state(now), State::HalfOpen);
        let probe = probe(&breaker, now);
        assert_eq!(admitted(&breaker, now), "refused");
        assert_eq!(breaker.state(now), State::HalfOpen);
        probe.succeeded();
        assert_eq!(breaker.state(now), State::Closed);
        assert_eq!(admitted(&breaker, now), "pass");
    }

    #[test]
    fn a_probe_that_fails_doubles_the_back_off_up_to_its_maximum() {
        let (breaker, mut now) = opened();
        let mut waited = vec![1];
        for backoff in [2, 4, 5, 5] {
            now += seconds(*waited.last().unwrap());
            probe(&breaker, now).failed(now);
            assert_eq!(breaker.state(now), open(backoff));
            waited.push(backoff);
        }
        assert_eq!(breaker.openings(), 5);
    }

    #[test]
    fn a_probe_that_succeeds_resets_back_off_and_failures() {
        let (breaker, start) = opened();
        let mut now = start + seconds(1);
        probe(&breaker, now).failed(now);
        now += seconds(2);
        probe(&breaker, now).succeeded();
        for _ in 1..SETTINGS.failures {
            breaker.failed(now);
        }
        assert_eq!(breaker.state(now), State::Closed);
        breaker.failed(now);
        assert_eq!(breaker.state(now), open(1));
    }

    #[test]
    fn a_probe_without_a_verdict_is_free_again() {
        let (breaker, start) = opened();
        let now = start + seconds(1);
        for _ in 0..10 {
            drop(probe(&breaker, now));
            assert_eq!(breaker.state(now), State::HalfOpen);
        }
        assert_eq!(breaker.openings(), 1);
    }

    #[test]
    fn a_probe_that_takes_too_long_loses_its_say() {
        let (breaker, start) = opened();
        let now = start + seconds(1);
        let slow = probe(&breaker, now);
        assert_eq!(admitted(&breaker, now + Duration::from_millis(999)), "refused");
        let now = now + seconds(1);
        let second = probe(&breaker, now);
        slow.failed(now);
        assert_eq!(breaker.openings(), 1);
        assert_eq!(
            admitted(&breaker, now),
            "refused",
            "the slow one freed the other's place"
        );
        second.failed(now);
        assert_eq!(breaker.state(now), open(2));
    }

    #[test]
    fn a_slow_probe_has_no_say_in_a_later_opening() {
        let (breaker, start) = opened();
        let now = start + seconds(1);
        let slow = probe(&breaker, now);
        let now = now + seconds(1);
        probe(&breaker, now).failed(now);
        slow.succeeded();
        assert_eq!(breaker.state(now), open(2));
    }

    #[test]
    fn stragglers_have_no_say() {
        let (breaker, start) = opened();
        breaker.failed(start + seconds(1));
        breaker.succeeded(start + seconds(1));
        assert_eq!(breaker.state(start + seconds(1)), State::HalfOpen);
        let probe = probe(&breaker, start + seconds(1));
        breaker.succeeded(start + seconds(1));
        breaker.failed(start + seconds(1));
        assert_eq!(admitted(&breaker, start + seconds(1)), "refused");
        probe.succeeded();
        assert_eq!(breaker.openings(), 1);
        assert_eq!(breaker.state(start + seconds(1)), State::Closed);
    }

    #[test]
    fn settings_at_their_ends_hold() {
        let start = Instant::now();
        let endless = Settings {
            failures: 0,
            within: Duration::MAX,
            backoff: Duration::MAX,
            max_backoff: Duration::MAX,
        };
        let breaker = Arc::new(Breaker::new(endless));
        breaker.failed(start);
        assert_eq!(
            breaker.state(start),
            State::Open {
                remaining: Duration::MAX
            }
        );
        assert_eq!(admitted(&breaker, start + seconds(1 << 30)), "refused");

        let many = Settings {
            failures: u32::MAX,
            ..endless
        };
        let breaker = Arc::new(Breaker::new(many));
        for _ in 0..MAX_FAILURES {
            assert_eq!(breaker.openings(), 0);
            breaker.failed(start);
        }
        assert_eq!(breaker.openings(), 1);

        let short = Settings {
            max_backoff: Duration::from_millis(1),
            ..SETTINGS
        };
        let breaker = Arc::new(Breaker::new(short));
        (0..3).for_each(|_| breaker.failed(start));
        assert_eq!(admitted(&breaker, start + Duration::from_millis(1)), "probe");
    }

    #[test]
    fn a_clock_that_is_behind_in_one_worker_does_no_harm() {
        let (breaker, start) = opened();
        let now = start + seconds(1);
        let _probe = probe(&breaker, now);
        for before in [start, now] {
            assert_eq!(admitted(&breaker, before), "refused");
        }
        assert_eq!(breaker.state(start), open(1));
    }

    #[test]
    fn of_many_threads_one_gets_the_probe() {
        for _ in 0..50 {
            let (breaker, start) = opened();
            let now = start + seconds(1);
            let admissions: Vec<_> = std::thread::scope(|scope| {
                let ask = || (0..50).map(|_| breaker.admit(now)).collect::<Vec<_>>();
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            });
            let count = |wanted| admissions.iter().filter(|admission| name(admission) == wanted).count();
            assert_eq!((count("probe"), count("pass")), (1, 0));
        }
    }

    #[test]
    fn threads_that_fail_and_succeed_at_once_leave_flags_that_tell_the_truth() {
        let breaker = Arc::new(Breaker::new(Settings {
            failures: 4,
            backoff: Duration::ZERO,
            ..SETTINGS
        }));
        let now = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..4_usize {
                let breaker = Arc::clone(&breaker);
                scope.spawn(move || {
                    for step in 0..2_000 {
                        let fails = (step * 7 + thread) % 3 == 0;
                        match breaker.admit(now) {
                            Admission::Pass if fails => breaker.failed(now),
                            Admission::Pass => breaker.succeeded(now),
                            Admission::Probe(probe) if fails => probe.failed(now),
                            Admission::Probe(probe) => probe.succeeded(),
                            Admission::Refused => (),
                        }
                    }
                });
            }
        });
        audit(&breaker);
    }

    /// The flags say what the circuit does.
    fn audit(breaker: &Breaker) {
        let (open, troubled) = match &breaker.circuit().phase {
            Phase::Closed(failures) => (false, !failures.is_empty()),
            Phase::Open(_) => (true, false),
        };
        assert_eq!(breaker.open.load(Ordering::Relaxed), open);
        assert_eq!(breaker.troubled.load(Ordering::Relaxed), troubled);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Admit,
        Succeed,
        Fail,
        /// Of the probes that are held, the one at this index modulo their number.
        ProbeSucceeds(usize),
        ProbeFails(usize),
        ProbeDropped(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0_u64..7).prop_map(Step::Wait),
            4 => Just(Step::Admit),
            2 => Just(Step::Succeed),
            6 => Just(Step::Fail),
            1 => any::<usize>().prop_map(Step::ProbeSucceeds),
            2 => any::<usize>().prop_map(Step::ProbeFails),
            1 => any::<usize>().prop_map(Step::ProbeDropped),
        ]
    }

    /// The rules as prose has them, in whole seconds, with nothing shared and nothing saved.
    #[derive(Default)]
    struct Model {
        now: u64,
        failures: Vec<u64>,
        /// Since when, and for how long; `None` while closed.
        open: Option<(u64, u64)>,
        /// Number of the probe that counts, and since when.
        probe: Option<(usize, u64)>,
        probes: usize,
        openings: u64,
    }

    impl Model {
        fn admit(&mut self) -> &'static str {
            let Some((since, lasts)) = self.open else {
                return "pass";
            };
            let probed = self.probe.is_some_and(|(_, began)| self.now < began + lasts);
            if self.now < since + lasts || probed {
                return "refused";
            }
            self.probe = Some((self.probes, self.now));
            self.probes += 1;
            "probe"
        }

        fn in_window(&mut self) -> &mut Vec<u64> {
            let now = self.now;
            self.failures.retain(|at| at + SETTINGS.within.as_secs() >= now);
            &mut self.failures
        }

        fn succeed(&mut self) {
            if self.open.is_none() && !self.in_window().is_empty() {
                self.failures.remove(0);
            }
        }

        fn fail(&mut self) {
            let now = self.now;
            if self.open.is_none() {
                self.in_window().push(now);
                if self.failures.len() == SETTINGS.failures as usize {
                    self.trip(SETTINGS.backoff.as_secs());
                }
            }
        }

        fn trip(&mut self, lasts: u64) {
            self.open = Some((self.now, lasts));
            self.probe = None;
            self.failures.clear();
            self.openings += 1;
        }

        /// `None` is a probe that was dropped.
        fn settle(&mut self, probe: usize, success: Option<bool>) {
            if self.probe.is_none_or(|(current, _)| current != probe) {
                return;
            }
            self.probe = None;
            match success {
                Some(true) => self.open = None,
                Some(false) => {
                    let (_, lasts) = self.open.expect("a probe counts only while open");
                    self.trip((lasts * 2).min(SETTINGS.max_backoff.as_secs()));
                }
                None => (),
            }
        }

        fn state(&self) -> State {
            match self.open {
                None => State::Closed,
                Some((since, lasts)) if self.now >= since + lasts => State::HalfOpen,
                Some((since, lasts)) => open(since + lasts - self.now),
            }
        }
    }

    proptest! {
        #[test]
        fn it_does_what_the_rules_say(steps in prop::collection::vec(step(), 0..200)) {
            let (breaker, start) = breaker();
            let mut model = Model::default();
            let mut held: Vec<(usize, Probe)> = Vec::new();
            for step in steps {
                let now = start + seconds(model.now);
                let chosen = match step {
                    Step::ProbeSucceeds(index) | Step::ProbeFails(index) | Step::ProbeDropped(index)
                        if !held.is_empty() => Some(held.remove(index % held.len())),
                    _ => None,
                };
                match (step, chosen) {
                    (Step::Wait(time), _) => model.now += time,
                    (Step::Admit, _) => {
                        let number = model.probes;
                        let admission = breaker.admit(now);
                        prop_assert_eq!(name(&admission), model.admit());
                        if let Admission::Probe(probe) = admission {
                            held.push((number, probe));
                        }
                    }
                    (Step::Succeed, _) => {
                        breaker.succeeded(now);
                        model.succeed();
                    }
                    (Step::Fail, _) => {
                        breaker.failed(now);
                        model.fail();
                    }
                    (Step::ProbeSucceeds(_), Some((number, probe))) => {
                        probe.succeeded();
                        model.settle(number, Some(true));
                    }
                    (Step::ProbeFails(_), Some((number, probe))) => {
                        probe.failed(now);
                        model.settle(number, Some(false));
                    }
                    (Step::ProbeDropped(_), Some((number, probe))) => {
                        drop(probe);
                        model.settle(number, None);
                    }
                    (_, None) => (),
                }
                prop_assert_eq!(breaker.state(start + seconds(model.now)), model.state());
                prop_assert_eq!(breaker.openings(), model.openings);
                audit(&breaker);
            }
        }
    }
}
