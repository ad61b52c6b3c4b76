//! A filter's background hook: called again and again, in an instance of its own.
//!
//! Data plane, in the first worker only. A call that fails costs the instance, is counted and logged, and the next one
//! comes when it is due; calls never overlap. Which filters have such a hook is the worker's to know.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use crate::filter::Hook;
use crate::wasm::{self, Instance, Loan, OnTick};
use crate::worker::Worker;

/// Until the task is aborted.
pub async fn run(worker: Rc<Worker>, filter: Arc<wasm::Filter>, every: Duration) {
    let mut instance = None;
    let mut due = tokio::time::interval(every);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        if !worker.uses(&filter) {
            instance = None;
            continue;
        }
        if let Err((kind, detail)) = call(&worker, &filter, &mut instance).await {
            instance = None;
            worker.tick_failed(&filter, kind, &detail);
        }
    }
}

async fn call(worker: &Worker, filter: &Arc<wasm::Filter>, held: &mut Option<Box<Instance>>) -> wasm::Outcome<()> {
    let since = Instant::now();
    let mut instance = match held.take() {
        Some(instance) => instance,
        None => wasm::start_apart(filter, worker.desk()).await?,
    };
    let loan = Loan {
        home: &mut None,
        cpu: filter.exchange_cpu(),
    };
    instance.begin_exchange(filter);
    let called = instance.ask(OnTick, loan, filter).await;
    let took = since.elapsed();
    let computed = instance.spent().computed(took);
    worker.ticked(filter, Hook::Tick, took, computed, instance.take_metrics());
    called?;
    *held = Some(instance);
    Ok(())
}
