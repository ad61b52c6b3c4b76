//! Whether another version of a filter is as good as the one in use: the rules, and nothing else.
//!
//! Both planes. Pure: what was counted and what time it is are arguments, so that tests choose both. It knows no filter,
//! no thread and no clock.
//!
//! The two versions are compared over the same time, because what troubles both (a service that both call, a client that
//! sends nonsense) says nothing of either. What counts against the candidate must be worse than the other's by what is
//! tolerated, have happened five times more often than it should have, and be no chance. All that takes a minimum of
//! exchanges of both. One rule does without: a candidate that fails half of its exchanges, while the other does not, is
//! hopeless.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use crate::filter::Hook;

/// Shares are parts of this.
pub const WHOLE: u32 = 10_000;

/// What is held against a candidate must have happened so much more often than the other version lets expect. Less is an
/// accident, whatever its share.
const MIN_EXCESS: f64 = 5.0;

/// So many standard deviations are no chance: once in 30,000 looks, and there are some thousands in a window, most of
/// them at nearly the same.
const DEVIATIONS: f64 = 4.0;

/// Of its calls, the part beyond the 99th percentile.
const BEYOND_P99: f64 = 0.01;

/// A candidate is hopeless that has failed so often.
const HOPELESS_FAILURES: u64 = 5;

/// ... while of the other version's exchanges at most one in so many fails.
const SOUND: u64 = 20;

/// A candidate that was good for long may become hopeless all at once.
const RECENT: Duration = Duration::from_secs(1);

/// How finely the last second is remembered.
const RECENT_STEP: Duration = Duration::from_millis(100);

/// What stands behind the name of a filter in that of its candidate. No configured name has an `@` in it.
const CANDIDATE_SUFFIX: &str = "@candidate";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// The one in use.
    Stable,
    Candidate,
}

impl Version {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Candidate => "candidate",
        }
    }

    /// The filter of that name, and which version of it is meant.
    pub fn of(name: &str) -> (&str, Self) {
        match name.strip_suffix(CANDIDATE_SUFFIX) {
            Some(filter) => (filter, Self::Candidate),
            None => (name, Self::Stable),
        }
    }
}

/// What logs and counts call the candidate of a filter.
pub fn candidate_name(filter: &str) -> String {
    format!("{filter}{CANDIDATE_SUFFIX}")
}

/// How a candidate is judged; defaults and reasons are the configuration's.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Of [`WHOLE`]; neither 0 nor all.
    pub share: u32,
    pub window: Duration,
    /// Exchanges of either version.
    pub min_calls: u64,
    /// How many more of its exchanges may fail, as a part of all; `None` is any number.
    pub failures: Option<f64>,
    /// How many more or fewer exchanges it may answer itself, likewise.
    pub replies: Option<f64>,
    pub pace: Option<Pace>,
    pub when_good: WhenGood,
}

/// How slow its hooks may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Times the other version's 99th percentile.
    pub factor: f64,
    /// Up to here no call is slow.
    pub floor: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenGood {
    Promote,
    Hold,
}

/// What both versions have done since some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    pub stable: Account,
    pub candidate: Account,
}

/// What one version has done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// Begun; connections are counted among them, where a filter is asked about these.
    pub exchanges: u64,
    pub failed: u64,
    /// Answered by the filter itself.
    pub replied: u64,
    /// In the order of [`Hook::ALL`].
    pub times: [Times; Hook::ALL.len()],
}

/// How long the calls of one hook took: counts in four steps an octave, from 64 us to 16 s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times(pub [u64; Times::STEPS]);

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Promote,
    /// It was good for the whole window, and stays at its share.
    Hold,
    RollBack(Reason),
}

/// What was held against a candidate; numbers are parts and wholes.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// Half of its exchanges failed.
    Hopeless {
        candidate: (u64, u64),
        stable: (u64, u64),
    },
    Failures {
        candidate: (u64, u64),
        stable: (u64, u64),
    },
    Replies {
        candidate: (u64, u64),
        stable: (u64, u64),
    },
    Slow {
        hook: Hook,
        candidate: Duration,
        stable: Duration,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// There is nothing to try: it is the version in use.
    Identical,
    Trying,
    /// Good so far, and judged on.
    Held,
    Promoted,
    RolledBack(Reason),
}

/// One candidate's judge. Lives as long as its trial.
pub struct Judge {
    rules: Rules,
    phase: Phase,
    /// `None` before the first look.
    window: Option<Window>,
    /// Counts of exchanges a second ago and since, oldest first.
    recent: VecDeque<(Instant, Exchanges)>,
}

struct Window {
    since: Instant,
    /// What had been counted when it began.
    before: Evidence,
    /// What has been counted in it, as of the last look.
    within: Evidence,
    /// Of the last look.
    until: Instant,
}

/// The part of the evidence that is kept for every tenth of a second: exchanges and failures.
#[derive(Clone, Copy, Debug, Default)]
struct Exchanges {
    stable: (u64, u64),
    candidate: (u64, u64),
}

impl Judge {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            phase: Phase::Trying,
            window: None,
            recent: VecDeque::new(),
        }
    }

    /// One who has nothing to judge.
    pub fn idle(rules: Rules) -> Self {
        Self {
            phase: Phase::Identical,
            ..Self::new(rules)
        }
    }

    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// What the last look found in the window, and how long that window is by now.
    pub fn window(&self) -> Option<(Duration, &Evidence)> {
        let window = self.window.as_ref()?;
        Some((window.until - window.since, &window.within))
    }

    /// Looks at all that was counted since the trial was opened. A verdict is pronounced once; after one that is final
    /// nothing is looked at any more.
    pub fn look(&mut self, now: Instant, total: &Evidence) -> Option<Verdict> {
        if self.is_settled() {
            return None;
        }
        let window = self.window.get_or_insert_with(|| Window {
            since: now,
            before: Evidence::default(),
            within: Evidence::default(),
            until: now,
        });
        window.within = total.since(&window.before);
        window.until = now;
        let verdict = self.verdict(now, Exchanges::of(total))?;
        self.phase = match &verdict {
            Verdict::Promote => Phase::Promoted,
            Verdict::RollBack(reason) => Phase::RolledBack(reason.clone()),
            Verdict::Hold => {
                self.window = Some(Window {
                    since: now,
                    before: total.clone(),
                    within: Evidence::default(),
                    until: now,
                });
                match std::mem::replace(&mut self.phase, Phase::Held) {
                    // It was told when it began.
                    Phase::Held => return None,
                    _ => Phase::Held,
                }
            }
        };
        Some(verdict)
    }

    fn is_settled(&self) -> bool {
        !matches!(self.phase, Phase::Trying | Phase::Held)
    }

    fn verdict(&mut self, now: Instant, counted: Exchanges) -> Option<Verdict> {
        let recent = self.recent(now, counted);
        let window = self.window.as_ref()?;
        let evidence = &window.within;
        if self.rules.failures.is_some()
            && let Some(reason) = hopeless(Exchanges::of(evidence)).or_else(|| hopeless(recent))
        {
            return Some(Verdict::RollBack(reason));
        }
        let least = evidence.stable.exchanges.min(evidence.candidate.exchanges);
        if least < self.rules.min_calls {
            return None;
        }
        if let Some(reason) = self.rules.broken_by(evidence) {
            return Some(Verdict::RollBack(reason));
        }
        let is_over = now.saturating_duration_since(window.since) >= self.rules.window;
        is_over.then_some(match self.rules.when_good {
            WhenGood::Promote => Verdict::Promote,
            WhenGood::Hold => Verdict::Hold,
        })
    }

    /// What was counted in the last second, or since the first look.
    fn recent(&mut self, now: Instant, counted: Exchanges) -> Exchanges {
        let age = |at: &Instant| now.saturating_duration_since(*at);
        if self.recent.back().is_none_or(|(at, _)| age(at) >= RECENT_STEP) {
            self.recent.push_back((now, counted));
        }
        while self.recent.get(1).is_some_and(|(at, _)| age(at) >= RECENT) {
            self.recent.pop_front();
        }
        let before = self.recent.front().map_or(counted, |(_, before)| *before);
        counted.since(&before)
    }
}

impl Rules {
    /// What of the evidence is worse than they tolerate.
    fn broken_by(&self, evidence: &Evidence) -> Option<Reason> {
        let Evidence { stable, candidate } = evidence;
        let of_failed = |account: &Account| (account.failed, account.exchanges);
        let of_replied = |account: &Account| (account.replied, account.exchanges);
        if let Some(tolerated) = self.failures
            && exceeds(of_failed(candidate), of_failed(stable), tolerated)
        {
            return Some(Reason::Failures {
                candidate: of_failed(candidate),
                stable: of_failed(stable),
            });
        }
        if let Some(tolerated) = self.replies
            && (exceeds(of_replied(candidate), of_replied(stable), tolerated)
                || exceeds(rest(of_replied(candidate)), rest(of_replied(stable)), tolerated))
        {
            return Some(Reason::Replies {
                candidate: of_replied(candidate),
                stable: of_replied(stable),
            });
        }
        let pace = self.pace?;
        let slow = |hook: Hook| pace.missed(hook, evidence, self.min_calls);
        Hook::ALL.into_iter().find_map(slow)
    }
}

impl Pace {
    /// The hook, if the candidate is too slow in it. One that the other version does not have may take as long as that
    /// one's slowest: work may move from one hook to another.
    fn missed(&self, hook: Hook, evidence: &Evidence, min_calls: u64) -> Option<Reason> {
        let Evidence { stable, candidate } = evidence;
        let (ours, theirs) = (&candidate.times[hook as usize], &stable.times[hook as usize]);
        let (theirs, calls) = match theirs.count() {
            0 => (stable.times.iter().max_by_key(|times| times.p99())?, stable.exchanges),
            calls => (theirs, calls),
        };
        if ours.count().min(calls) < min_calls {
            return None;
        }
        let limit = theirs.p99().mul_f64(self.factor).max(self.floor);
        let slow = |times: &Times, of| (times.beyond(limit).min(of), of);
        exceeds(slow(ours, ours.count()), slow(theirs, calls), BEYOND_P99).then(|| Reason::Slow {
            hook,
            candidate: ours.p99(),
            stable: theirs.p99(),
        })
    }
}

/// Whether the candidate's part is larger than the other's by more than what is tolerated, and not by chance.
fn exceeds(candidate: (u64, u64), stable: (u64, u64), tolerated: f64) -> bool {
    let (bad, of) = (candidate.0 as f64, candidate.1 as f64);
    let (other_bad, other_of) = (stable.0 as f64, stable.1 as f64);
    if of == 0.0 || other_of == 0.0 {
        return false;
    }
    let excess = bad - of * (other_bad / other_of);
    let difference = excess / of;
    let pooled = (bad + other_bad) / (of + other_of);
    let deviation = (pooled * (1.0 - pooled) * (1.0 / of + 1.0 / other_of)).max(0.0).sqrt();
    difference > tolerated && excess >= MIN_EXCESS && difference >= DEVIATIONS * deviation
}

fn rest((part, of): (u64, u64)) -> (u64, u64) {
    (of.saturating_sub(part), of)
}

fn hopeless(exchanges: Exchanges) -> Option<Reason> {
    let Exchanges { stable, candidate } = exchanges;
    let fails = candidate.0 >= HOPELESS_FAILURES && candidate.0 * 2 >= candidate.1;
    let other_is_sound = stable.0 * SOUND <= stable.1;
    (fails && other_is_sound).then_some(Reason::Hopeless { candidate, stable })
}

impl Exchanges {
    fn of(evidence: &Evidence) -> Self {
        let of = |account: &Account| (account.failed, account.exchanges);
        Self {
            stable: of(&evidence.stable),
            candidate: of(&evidence.candidate),
        }
    }

    fn since(&self, before: &Self) -> Self {
        let since = |now: (u64, u64), then: (u64, u64)| (now.0.saturating_sub(then.0), now.1.saturating_sub(then.1));
        Self {
            stable: since(self.stable, before.stable),
            candidate: since(self.candidate, before.candidate),
        }
    }
}

impl Evidence {
    fn since(&self, before: &Self) -> Self {
        Self {
            stable: self.stable.since(&before.stable),
            candidate: self.candidate.since(&before.candidate),
        }
    }
}

impl Account {
    // What is read from several threads may be a little older than what was read before.
    fn since(&self, before: &Self) -> Self {
        let times = std::array::from_fn(|hook| self.times[hook].since(&before.times[hook]));
        Self {
            exchanges: self.exchanges.saturating_sub(before.exchanges),
            failed: self.failed.saturating_sub(before.failed),
            replied: self.replied.saturating_sub(before.replied),
            times,
        }
    }
}

impl Default for Times {
    fn default() -> Self {
        Self([0; Self::STEPS])
    }
}

impl Times {
    /// One below 64 us, four for each of 18 octaves; the last takes what is longer.
    pub const STEPS: usize = 1 + 4 * 18;

    /// Where a call that took so long is counted.
    pub fn step(time: Duration) -> usize {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let Some(octave) = micros.checked_ilog2().and_then(|log| log.checked_sub(6)) else {
            return 0;
        };
        let quarter = (micros >> (octave + 4)) & 3;
        (1 + 4 * octave as usize + quarter as usize).min(Self::STEPS - 1)
    }

    /// The shortest time that is counted there.
    fn bound(step: usize) -> Duration {
        match step.checked_sub(1) {
            None => Duration::ZERO,
            Some(step) => Duration::from_micros((4 + step as u64 % 4) << (4 + step / 4)),
        }
    }

    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Rounded up to the next step; nothing of nothing.
    pub fn p99(&self) -> Duration {
        let beyond = self.count() / 100;
        let mut longer = 0;
        for step in (0..Self::STEPS).rev() {
            longer += self.0[step];
            if longer > beyond {
                return Self::bound(step + 1);
            }
        }
        Duration::ZERO
    }

    /// Calls that certainly took longer.
    fn beyond(&self, limit: Duration) -> u64 {
        let longer = (0..Self::STEPS).filter(|step| Self::bound(*step) >= limit);
        longer.map(|step| self.0[step]).sum()
    }

    fn since(&self, before: &Self) -> Self {
        Self(std::array::from_fn(|step| self.0[step].saturating_sub(before.0[step])))
    }
}

impl Phase {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Identical => "identical",
            Self::Trying => "trying",
            Self::Held => "held",
            Self::Promoted => "promoted",
            Self::RolledBack(_) => "rolled_back",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = |formatter: &mut fmt::Formatter<'_>, what, candidate: &(u64, u64), stable: &(u64, u64)| {
            write!(
                formatter,
                "{what} {} of its {} exchanges; the version in use {} of {}",
                candidate.0, candidate.1, stable.0, stable.1
            )
        };
        match self {
            Self::Hopeless { candidate, stable } | Self::Failures { candidate, stable } => {
                parts(formatter, "failed", candidate, stable)
            }
            Self::Replies { candidate, stable } => parts(formatter, "answered", candidate, stable),
            Self::Slow {
                hook,
                candidate,
                stable,
            } => write!(
                formatter,
                "p99 of {} is {candidate:?}; of the version in use {stable:?}",
                hook.as_str()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn rules() -> Rules {
        Rules {
            share: 500,
            window: WINDOW,
            min_calls: 100,
            failures: Some(0.01),
            replies: Some(0.05),
            pace: Some(Pace {
                factor: 2.0,
                floor: milliseconds(5),
            }),
            when_good: WhenGood::Promote,
        }
    }

    fn milliseconds(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// Exchanges, failures and replies.
    fn account(exchanges: u64, failed: u64, replied: u64) -> Account {
        Account {
            exchanges,
            failed,
            replied,
            ..Account::default()
        }
    }

    /// The same with calls of the hook for a request's head: how many took how long.
    fn timed(exchanges: u64, calls: &[(u64, Duration)]) -> Account {
        let mut account = account(exchanges, 0, 0);
        for (count, time) in calls {
            account.times[Hook::RequestHead as usize].0[Times::step(*time)] += count;
        }
        account
    }

    fn evidence(candidate: Account, stable: Account) -> Evidence {
        Evidence { stable, candidate }
    }

    fn word(verdict: Option<Verdict>) -> &'static str {
        match verdict {
            None => "none",
            Some(Verdict::Promote) => "promote",
            Some(Verdict::Hold) => "hold",
            Some(Verdict::RollBack(Reason::Hopeless { .. })) => "hopeless",
            Some(Verdict::RollBack(Reason::Failures { .. })) => "failures",
            Some(Verdict::RollBack(Reason::Replies { .. })) => "replies",
            Some(Verdict::RollBack(Reason::Slow { .. })) => "slow",
        }
    }

    /// What a judge says who looks for the first time when a trial is opened, and then once.
    fn judged(rules: Rules, after: Duration, evidence: &Evidence) -> &'static str {
        let (mut judge, start) = (Judge::new(rules), Instant::now());
        assert_eq!(judge.look(start, &Evidence::default()), None);
        word(judge.look(start + after, evidence))
    }

    #[test]
    fn failures_count_against_the_other_versions() {
        let cases = [
            // Candidate and stable: exchanges, failures.
            ((100, 0), (1_900, 0), "none"),
            ((100, 4), (1_900, 0), "none"),     // an accident
            ((100, 5), (1_900, 0), "failures"), // five, and 5 %
            ((99, 20), (1_900, 0), "none"),     // too few to say
            ((100, 20), (99, 0), "none"),       // of the other as well
            ((99, 50), (1_900, 0), "hopeless"), // half of them: no doubt
            ((4, 4), (76, 0), "none"),
            ((5, 5), (95, 0), "hopeless"),
            ((5, 5), (0, 0), "hopeless"),
            ((10, 5), (190, 9), "hopeless"),
            ((10, 5), (190, 10), "none"),      // the other fails as well
            ((100, 40), (1_900, 760), "none"), // both fail alike: it is not the filter
            ((100, 40), (1_900, 95), "failures"),
            ((10_000, 90), (190_000, 0), "none"), // tolerated
            ((10_000, 110), (190_000, 0), "failures"),
            ((10_000, 200), (190_000, 1_900), "none"),
            ((10_000, 220), (190_000, 1_900), "failures"),
            ((100, 6), (100, 0), "none"), // could be chance
            ((100, 16), (100, 0), "failures"),
        ];
        for (candidate, stable, expected) in cases {
            let evidence = evidence(account(candidate.0, candidate.1, 0), account(stable.0, stable.1, 0));
            let said = judged(rules(), milliseconds(100), &evidence);
            assert_eq!(said, expected, "{candidate:?} {stable:?}");
            let indifferent = Rules {
                failures: None,
                ..rules()
            };
            assert_eq!(judged(indifferent, milliseconds(100), &evidence), "none");
        }
    }

    #[test]
    fn replies_count_in_both_directions() {
        let cases = [
            ((100, 10), (1_900, 190), "none"),
            ((100, 14), (1_900, 190), "none"),
            ((100, 25), (1_900, 190), "replies"),
            ((100, 0), (1_900, 190), "none"), // few: could be chance
            ((1_000, 40), (19_000, 1_900), "replies"),
            ((1_000, 0), (19_000, 1_900), "replies"), // lets all pass
            ((1_000, 60), (19_000, 1_900), "none"),
            ((100, 0), (1_900, 1_900), "replies"),
            ((99, 99), (1_900, 0), "none"),
        ];
        for (candidate, stable, expected) in cases {
            let evidence = evidence(account(candidate.0, 0, candidate.1), account(stable.0, 0, stable.1));
            let said = judged(rules(), milliseconds(100), &evidence);
            assert_eq!(said, expected, "{candidate:?} {stable:?}");
            let indifferent = Rules {
                replies: None,
                ..rules()
            };
            assert_eq!(judged(indifferent, milliseconds(100), &evidence), "none");
        }
    }

    #[test]
    fn hooks_are_slow_by_a_factor_and_above_a_floor() {
        let (fast, slow) = (milliseconds(1), milliseconds(30));
        let cases: [(&[_], &[_], _); 8] = [
            (&[(100, fast)], &[(1_900, fast)], "none"),
            (&[(100, slow)], &[(1_900, fast)], "slow"),
            (&[(96, fast), (4, slow)], &[(1_900, fast)], "none"), // an accident
            (&[(95, fast), (5, slow)], &[(1_900, fast)], "slow"),
            (&[(990, fast), (9, slow)], &[(1_900, fast)], "none"), // beyond the 99th
            (&[(100, milliseconds(4))], &[(1_900, fast)], "none"), // under the floor
            (&[(100, milliseconds(50))], &[(1_900, slow)], "none"), // under twice
            (&[(100, milliseconds(90))], &[(1_900, slow)], "slow"),
        ];
        for (candidate, stable, expected) in cases {
            let evidence = evidence(timed(1_000, candidate), timed(1_900, stable));
            let said = judged(rules(), milliseconds(100), &evidence);
            assert_eq!(said, expected, "{candidate:?} {stable:?}");
            let indifferent = Rules { pace: None, ..rules() };
            assert_eq!(judged(indifferent, milliseconds(100), &evidence), "none");
        }
    }

    #[test]
    fn a_hook_that_only_the_candidate_has_is_as_slow_as_the_slowest_at_most() {
        for (new, known, expected) in [(4, 1, "none"), (50, 1, "slow"), (50, 30, "none"), (90, 30, "slow")] {
            let mut stable = account(1_900, 0, 0);
            stable.times[Hook::ResponseHead as usize].0[Times::step(milliseconds(known))] = 1_900;
            let evidence = evidence(timed(100, &[(100, milliseconds(new))]), stable);
            assert_eq!(judged(rules(), milliseconds(100), &evidence), expected, "{new} {known}");
        }
    }

    #[test]
    fn a_window_ends_with_its_time_and_enough_exchanges() {
        let hold = Rules {
            when_good: WhenGood::Hold,
            ..rules()
        };
        let cases = [
            (rules(), WINDOW - milliseconds(1), (100, 1_900), "none"),
            (rules(), WINDOW, (100, 1_900), "promote"),
            (rules(), WINDOW, (99, 1_900), "none"),
            (rules(), WINDOW, (1_900, 99), "none"),
            (rules(), WINDOW * 100, (99, 1_900), "none"),
            (rules(), WINDOW * 100, (100, 100), "promote"),
            (hold, WINDOW, (100, 1_900), "hold"),
        ];
        for (rules, after, (candidate, stable), expected) in cases {
            let evidence = evidence(account(candidate, 0, 0), account(stable, 0, 0));
            let said = judged(rules, after, &evidence);
            assert_eq!(said, expected, "{after:?} {candidate} {stable}");
        }
    }

    #[test]
    fn a_verdict_that_is_final_stays() {
        let start = Instant::now();
        for (failed, expected) in [(0, "promoted"), (100, "rolled_back")] {
            let mut judge = Judge::new(rules());
            judge.look(start, &Evidence::default());
            let first = evidence(account(100, failed, 0), account(1_900, 0, 0));
            assert_ne!(judge.look(start + WINDOW, &first), None);
            assert_eq!(judge.phase().as_str(), expected);
            let later = evidence(account(200, 100, 0), account(3_800, 0, 0));
            assert_eq!(judge.look(start + 2 * WINDOW, &later), None);
            assert_eq!(judge.phase().as_str(), expected);
            let (elapsed, shown) = judge.window().expect("it was looked at");
            assert_eq!(
                (elapsed, shown),
                (WINDOW, &first),
                "what it was judged by stays to be seen"
            );
        }
    }

    #[test]
    fn one_that_is_held_is_judged_by_new_windows() {
        let start = Instant::now();
        let mut judge = Judge::new(Rules {
            when_good: WhenGood::Hold,
            ..rules()
        });
        judge.look(start, &Evidence::default());
        let mut total = evidence(account(10_000, 0, 0), account(190_000, 0, 0));
        assert_eq!(judge.look(start + WINDOW, &total), Some(Verdict::Hold));
        total.candidate.exchanges += 10_000;
        total.stable.exchanges += 190_000;
        assert_eq!(judge.look(start + 2 * WINDOW, &total), None, "that is known already");
        assert_eq!(judge.phase(), &Phase::Held);
        // Of all exchanges these would be few; of the window's they are many.
        total.candidate.exchanges += 100;
        total.candidate.failed += 10;
        total.stable.exchanges += 1_900;
        assert_eq!(
            word(judge.look(start + 2 * WINDOW + milliseconds(100), &total)),
            "failures"
        );
    }

    /// Ten thousand good exchanges are no excuse for five bad ones in a row.
    #[test]
    fn what_was_good_for_long_is_hopeless_within_a_second() {
        let start = Instant::now();
        let mut judge = Judge::new(rules());
        let mut total = Evidence::default();
        let mut now = start;
        for _ in 0..100 {
            assert_eq!(judge.look(now, &total), None);
            now += milliseconds(100);
            total.candidate.exchanges += 100;
            total.stable.exchanges += 1_900;
        }
        assert_eq!(judge.look(now, &total), None);
        now += milliseconds(1_000);
        assert_eq!(judge.look(now, &total), None);
        total.candidate.exchanges += 5;
        total.candidate.failed += 5;
        total.stable.exchanges += 95;
        assert_eq!(word(judge.look(now + milliseconds(10), &total)), "hopeless");
    }

    #[test]
    fn slow_failures_are_not_those_of_a_second() {
        let mut judge = Judge::new(rules());
        let (mut now, mut total) = (Instant::now(), evidence(account(10_000, 0, 0), account(190_000, 0, 0)));
        judge.look(now, &total);
        for _ in 0..20 {
            now += milliseconds(300);
            total.candidate.exchanges += 1;
            total.candidate.failed += 1;
            assert_eq!(judge.look(now, &total), None, "{:?}", total.candidate.failed);
        }
    }

    #[test]
    fn steps_hold_what_they_say() {
        for step in 0..Times::STEPS - 1 {
            let (from, to) = (Times::bound(step), Times::bound(step + 1));
            assert!(from < to);
            assert_eq!(Times::step(from), step);
            assert_eq!(Times::step(to - Duration::from_micros(1)), step);
        }
        assert_eq!(Times::step(Duration::MAX), Times::STEPS - 1);
        assert_eq!(Times::step(Duration::ZERO), 0);
    }

    #[test]
    fn percentiles() {
        for (calls, least, most) in [
            (vec![], 0, 0),
            (vec![(1, 10)], 10, 13),
            (vec![(99, 1), (1, 100)], 1, 2),
            (vec![(98, 1), (2, 100)], 100, 125),
            (vec![(1_000, 1), (10, 100)], 1, 2),
            (vec![(1_000, 1), (11, 100)], 100, 125),
        ] {
            let calls: Vec<_> = calls
                .iter()
                .map(|(count, time)| (*count, milliseconds(*time)))
                .collect();
            let p99 = timed(0, &calls).times[Hook::RequestHead as usize].p99();
            assert!(
                (milliseconds(least)..=milliseconds(most)).contains(&p99),
                "{calls:?}: {p99:?}"
            );
        }
    }

    #[test]
    fn names_of_candidates_lead_back() {
        assert_eq!(Version::of("tenant"), ("tenant", Version::Stable));
        assert_eq!(Version::of(&candidate_name("tenant")), ("tenant", Version::Candidate));
    }

    #[test]
    fn reasons_say_what_was_seen() {
        let reason = Reason::Failures {
            candidate: (5, 100),
            stable: (0, 1_900),
        };
        assert_eq!(
            reason.to_string(),
            "failed 5 of its 100 exchanges; the version in use 0 of 1900"
        );
        let reason = Reason::Slow {
            hook: Hook::RequestHead,
            candidate: milliseconds(20),
            stable: milliseconds(1),
        };
        assert_eq!(
            reason.to_string(),
            "p99 of request_head is 20ms; of the version in use 1ms"
        );
    }
}
