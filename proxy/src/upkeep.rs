//! Keeps the clusters of the running generation in order: where their endpoints are, how they are, which are left alone.
//!
//! Control plane, in a thread of its own, so that neither a compilation nor an exchange waits for it. A cluster has its
//! tasks as long as a running generation has the cluster; what they find out is the endpoints' and outlives them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::endpoint::Health;
use crate::worker::Live;
use crate::{discovery, health, outbox, outlier};

/// Until `ended` is told, or its other end is gone.
pub fn run(live: Arc<Live>, ended: oneshot::Receiver<()>) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async {
        // Checks go over connections like those of workers.
        tokio::task::spawn_local(outbox::serve());
        tokio::select! {
            () = keep(live) => {}
            _ = ended => {}
        }
    });
    Ok(())
}

async fn keep(live: Arc<Live>) {
    let mut generations = live.generations();
    let mut kept: HashMap<u64, Vec<Task>> = HashMap::new();
    loop {
        // In this order: one that comes in between is found at the next look.
        generations.mark_unchanged();
        let snapshot = live.load();
        kept.retain(|id, _| snapshot.clusters.iter().any(|cluster| cluster.id() == *id));
        for cluster in &snapshot.clusters {
            kept.entry(cluster.id()).or_insert_with(|| tasks(cluster));
        }
        // A generation that is over must not be held until the next one.
        drop(snapshot);
        if generations.changed().await.is_err() {
            return;
        }
    }
}

fn tasks(cluster: &Arc<Cluster>) -> Vec<Task> {
    let mut tasks = Vec::new();
    // What was found out by asking, or from answers, holds no longer where nobody does that any more.
    let now = Instant::now();
    for member in &cluster.members().list {
        if cluster.terms.check.is_none() {
            member.endpoint.set_health(Health::Unknown, now);
        }
        if cluster.terms.outlier.is_none() {
            member.endpoint.set_ejected(false, now);
        }
    }
    if !cluster.origin.is_fixed() {
        tasks.push(Task(tokio::task::spawn_local(discovery::keep(Arc::clone(cluster)))));
    }
    if cluster.terms.check.is_some() {
        tasks.push(Task(tokio::task::spawn_local(health::keep(Arc::clone(cluster)))));
    }
    if cluster.terms.outlier.is_some() {
        tasks.push(Task(tokio::task::spawn_local(outlier::keep(Arc::clone(cluster)))));
    }
    tasks
}

/// Ends with its handle.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
