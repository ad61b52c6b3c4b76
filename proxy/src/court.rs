//! The court: has every trial of the running generation looked at, and tells what came of it.
//!
//! Control plane; one task of the process, on a thread of its own, so that nothing that compiles or reads files keeps a
//! bad candidate in office. How a candidate is judged is `canary`'s to know.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::canary::Verdict;
use crate::trial::Trial;
use crate::worker::Live;

/// While trials are open: what comes to light slowly is found within a tenth of a second.
const LOOK: Duration = Duration::from_millis(100);

/// Otherwise: a new trial rings the alarm, so this only bounds what a lost alarm could do.
const IDLE: Duration = Duration::from_secs(1);

/// Between two looks, however loud the alarm is. A look takes some tens of microseconds.
const REST: Duration = Duration::from_millis(1);

/// Until the task is dropped.
pub async fn sit(live: Arc<Live>, alarm: Arc<Notify>) {
    loop {
        let open = live.load().trials.iter().any(|trial| trial.is_open());
        // Woken or not, it is time to look.
        let _ = timeout(if open { LOOK } else { IDLE }, alarm.notified()).await;
        for trial in &live.load().trials {
            if let Some(verdict) = trial.look(Instant::now()) {
                tell(trial, &verdict);
            }
        }
        sleep(REST).await;
    }
}

fn tell(trial: &Trial, verdict: &Verdict) {
    let (filter, sha256) = (trial.filter(), trial.component());
    match verdict {
        Verdict::Promote => tracing::info!(
            filter,
            sha256,
            "candidate promoted: it takes all exchanges; make it the filter's own"
        ),
        Verdict::Hold => tracing::info!(filter, sha256, "candidate held: it was good, and keeps its share"),
        Verdict::RollBack(reason) => tracing::error!(filter, sha256, %reason, "candidate rolled back"),
    }
}
