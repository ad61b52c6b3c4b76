//! What the exchanges of one proxy share, in memory: the clock, the table of `key_value`, the answers to outbound calls,
//! and what filters write: log lines and metrics.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::exchange::Exchange;
use super::host::Turn;
use super::outbound::{Cluster, Outbound, Prepared};
use super::table::{Claimer, Table};
use crate::hook::Hook;
use crate::log::Level;
use crate::metrics::Label;
use crate::outbound::{Call, CallError};
use crate::{Filter, Reply, configuration};

/// 2025-01-01T00:00:00Z.
const START_MS: u64 = 1_735_689_600_000;

/// A proxy in memory. A clone is another handle of the same proxy.
///
/// ```
/// use std::time::Duration;
/// use tamis_filter::{Reply, key_value, outbound, testing::Proxy};
///
/// let proxy = Proxy::new();
/// proxy.answer("auth", Reply::new(200).text("acme"));
/// proxy.within(|| {
///     let answer = outbound::get("auth", "/whoami").header("x-token", "7").send().unwrap();
///     key_value::set("7", answer.body, Some(Duration::from_secs(60))).unwrap();
/// });
/// assert_eq!(proxy.calls()[0].target, "/whoami");
/// assert_eq!(proxy.value("7").as_deref(), Some(&b"acme"[..]));
/// proxy.advance(Duration::from_secs(60));
/// assert_eq!(proxy.value("7"), None);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Proxy(Rc<RefCell<State>>);

#[derive(Debug)]
pub(super) struct State {
    pub(super) log: Vec<(Level, String)>,
    counters: BTreeMap<String, u64>,
    gauges: BTreeMap<String, f64>,
    histograms: BTreeMap<String, Vec<f64>>,
    pub(super) now_ms: u64,
    pub(super) monotonic_ms: u64,
    random: u64,
    pub(super) table: Table,
    pub(super) outbound: Outbound,
}

impl Default for State {
    fn default() -> Self {
        State {
            log: Vec::new(),
            counters: BTreeMap::new(),
            gauges: BTreeMap::new(),
            histograms: BTreeMap::new(),
            now_ms: START_MS,
            monotonic_ms: 0,
            random: 0,
            table: Table::default(),
            outbound: Outbound::default(),
        }
    }
}

impl Proxy {
    /// A proxy whose clock stands at the beginning of 2025, whose table is empty, and which grants no cluster.
    pub fn new() -> Self {
        Proxy::default()
    }

    /// Configures a filter as [`configure`](super::configure) does, with this proxy at hand.
    ///
    /// # Errors
    ///
    /// What the proxy would show: the configuration does not fit `Config`, or the filter refuses it.
    pub fn configure<F: Filter>(&self, config: serde_json::Value) -> Result<F, String> {
        self.within(|| configuration::configure(&config.to_string()))
    }

    /// An exchange of this proxy, as [`Exchange::new`] makes one.
    pub fn exchange(&self, method: &str, target: &str) -> Exchange {
        Exchange::of(self.clone(), method, target)
    }

    /// An exchange for `GET target`.
    pub fn get(&self, target: &str) -> Exchange {
        self.exchange("GET", target)
    }

    /// Calls the filter's tick hook.
    ///
    /// # Panics
    ///
    /// When the hook fails: in the proxy it would trap.
    pub fn tick<F: Filter>(&self, filter: &F) {
        let mut nothing = Exchange::of(self.clone(), "GET", "/");
        let turn = Turn::begin(Some(Hook::Tick), &mut nothing);
        let result = filter.clone().on_tick();
        drop(turn);
        result.unwrap_or_else(|failure| panic!("the hook failed: {failure}"));
    }

    /// Runs code that calls the proxy and is no hook, such as a function that hooks use.
    pub fn within<T>(&self, run: impl FnOnce() -> T) -> T {
        let mut nothing = Exchange::of(self.clone(), "GET", "/");
        let _turn = Turn::begin(None, &mut nothing);
        run()
    }

    /// Milliseconds since 1970. The time stands still until a test moves it.
    pub fn now_ms(&self) -> u64 {
        self.state().now_ms
    }

    /// Sets the time of day; it may go back.
    pub fn set_now_ms(&self, now_ms: u64) {
        self.state_mut().now_ms = now_ms;
    }

    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        let time_ms = crate::key_value::milliseconds(time);
        let mut state = self.state_mut();
        state.now_ms = state.now_ms.saturating_add(time_ms);
        state.monotonic_ms = state.monotonic_ms.saturating_add(time_ms);
    }

    /// Sets what `random` gives from now on: the same for the same seed.
    pub fn set_seed(&self, seed: u64) {
        self.state_mut().random = seed;
    }

    /// The lines that filters have written.
    pub fn log(&self) -> Vec<(Level, String)> {
        self.state().log.clone()
    }

    /// A counter, as `name` or `name{label="value",other="value"}` with its labels in the order of their names; 0 when
    /// nobody has counted.
    pub fn counter(&self, series: &str) -> u64 {
        self.state().counters.get(series).copied().unwrap_or(0)
    }

    /// A gauge; named as [`counter`](Proxy::counter)s are.
    pub fn gauge(&self, series: &str) -> Option<f64> {
        self.state().gauges.get(series).copied()
    }

    /// What a histogram has observed, in order; named as [`counter`](Proxy::counter)s are.
    pub fn histogram(&self, series: &str) -> Vec<f64> {
        self.state().histograms.get(series).cloned().unwrap_or_default()
    }

    /// The value of that key in the table of `key_value`.
    pub fn value(&self, key: &str) -> Option<Vec<u8>> {
        let mut state = self.state_mut();
        let now_ms = state.monotonic_ms;
        state.table.get(key, now_ms)
    }

    /// The count of that key, as `key_value::add` keeps one; 0 when there is none.
    pub fn count(&self, key: &str) -> i64 {
        let bytes = self.value(key).and_then(|value| value.try_into().ok());
        bytes.map_or(0, i64::from_le_bytes)
    }

    /// Claims a key as another instance does, which comes to no end: whoever claims it waits in vain.
    pub fn claim_elsewhere(&self, key: &str) {
        self.state_mut().table.claim(key, Claimer::Elsewhere);
    }

    /// Empties the table of `key_value`, which is a cache and may forget at any time.
    pub fn forget(&self) {
        self.state_mut().table = Table::default();
    }

    /// Grants outbound calls to a cluster, and answers the next one that finds no earlier answer waiting.
    pub fn answer(&self, cluster: &str, reply: Reply) {
        self.prepare(cluster, Prepared::whole(Ok(reply)));
    }

    /// As [`answer`](Proxy::answer), with a body that comes in pieces, or breaks off with an error as the last of them.
    pub fn answer_in_pieces(
        &self,
        cluster: &str,
        head: Reply,
        pieces: impl IntoIterator<Item = Result<Vec<u8>, CallError>>,
    ) {
        let pieces = pieces.into_iter().collect();
        self.prepare(cluster, Prepared { head: Ok(head), pieces });
    }

    /// As [`answer`](Proxy::answer), with a call that fails.
    pub fn fail(&self, cluster: &str, error: CallError) {
        self.prepare(cluster, Prepared::whole(Err(error)));
    }

    /// Grants outbound calls to a cluster, and answers each that finds no prepared answer. The closure may use a handle
    /// of the proxy, to let time pass for instance.
    pub fn on_call(&self, cluster: &str, answering: impl FnMut(&Call) -> Result<Reply, CallError> + 'static) {
        self.cluster(cluster).answering = Some(Box::new(answering));
    }

    /// The outbound calls that could be sent, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.state().outbound.calls.clone()
    }

    /// How many answers are being read; none outside of a hook, whose end closes them.
    pub fn open_calls(&self) -> usize {
        self.state().outbound.open.len()
    }

    fn prepare(&self, cluster: &str, prepared: Prepared) {
        self.cluster(cluster).queue.push_back(prepared);
    }

    fn cluster(&self, name: &str) -> RefMut<'_, Cluster> {
        RefMut::map(self.state_mut(), |state| {
            state.outbound.clusters.entry(name.to_owned()).or_default()
        })
    }

    pub(super) fn state(&self) -> Ref<'_, State> {
        self.0.borrow()
    }

    pub(super) fn state_mut(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }

    /// The answer to a call: the next that is prepared, or what the cluster's closure says.
    pub(super) fn call(&self, call: Call) -> Result<Prepared, CallError> {
        super::outbound::check(&call)?;
        let answering = {
            let mut state = self.state_mut();
            let Outbound { clusters, calls, .. } = &mut state.outbound;
            let cluster = clusters.get_mut(&call.cluster).ok_or(CallError::NotGranted)?;
            calls.push(call.clone());
            if let Some(prepared) = cluster.queue.pop_front() {
                return Ok(prepared);
            }
            cluster.answering.take()
        };
        // The closure may come back to the proxy, so nothing of that is borrowed.
        let Some(mut answering) = answering else {
            panic!(
                "a call to `{}` for which the test has no answer: {call:?}",
                call.cluster
            )
        };
        let answer = answering(&call);
        self.cluster(&call.cluster).answering.get_or_insert(answering);
        Ok(Prepared::whole(answer))
    }
}

impl State {
    /// Claims and open answers end with the hook.
    pub(super) fn end_hook(&mut self) {
        self.table.release_all();
        self.outbound.open.clear();
    }

    pub(super) fn count(&mut self, name: &str, labels: &[Label], by: u64) {
        let counter = self.counters.entry(series(name, labels)).or_default();
        *counter = counter.saturating_add(by);
    }

    pub(super) fn set_gauge(&mut self, name: &str, labels: &[Label], value: f64) {
        self.gauges.insert(series(name, labels), value);
    }

    pub(super) fn observe(&mut self, name: &str, labels: &[Label], value: f64) {
        self.histograms.entry(series(name, labels)).or_default().push(value);
    }

    /// SplitMix64: few lines, and good enough to look random.
    pub(super) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// `name` or `name{label="value"}`.
fn series(name: &str, labels: &[Label]) -> String {
    if labels.is_empty() {
        return name.to_owned();
    }
    let mut pairs: Vec<String> = labels
        .iter()
        .map(|label| format!("{}={:?}", label.name, label.value))
        .collect();
    pairs.sort_unstable();
    format!("{name}{{{}}}", pairs.join(","))
}
