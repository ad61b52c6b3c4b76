//! When a generation is kept: once it has been live for long enough, off the workers.
//!
//! It looks at the files right after the swap, while they are those that were loaded, and checks that they are: the
//! configuration they say is the one that is live, and the components have its digests. Files that have changed since
//! are not kept; their own reload is under way, or will be refused.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tamis_config::{Config, Environment, Filter, FilterKind, System};
use tokio::sync::{Mutex, watch};

use super::disk;
use super::good::{Good, MAX_OBJECTS_BYTES, Store};
use crate::canary::candidate_name;
use crate::snapshot::Snapshot;
use crate::worker::Live;

/// What the configuration's file may have; see `tamis_config::load`.
const MAX_TEXT_BYTES: u64 = 16 << 20;

pub struct Keeper {
    store: Store<disk::System>,
    /// As it was given; relative paths count from its folder.
    file: PathBuf,
    absolute: PathBuf,
    good_after: Duration,
    live: Arc<Live>,
    /// Held while files are looked at and written: no swap takes place meanwhile, and none after a handover.
    turn: Arc<Mutex<()>>,
}

impl Keeper {
    pub fn new(
        folder: &Path,
        file: &Path,
        good_after: Duration,
        live: Arc<Live>,
        turn: Arc<Mutex<()>>,
    ) -> io::Result<Self> {
        Ok(Self {
            store: Store::new(folder, disk::System),
            file: file.to_owned(),
            absolute: std::path::absolute(file)?,
            good_after,
            live,
            turn,
        })
    }

    /// Keeps one generation after the other. Blocks its thread while it writes.
    pub async fn run(&self, mut generations: watch::Receiver<u64>) {
        loop {
            let generation = *generations.borrow_and_update();
            if let Some(good) = self.look(generation).await {
                let overtaken = tokio::time::timeout(self.good_after, generations.changed()).await;
                if overtaken.is_ok() {
                    // By the next one, or by the end.
                    continue;
                }
                self.keep(generation, &good).await;
            }
            if generations.changed().await.is_err() {
                return;
            }
        }
    }

    /// What is to be kept of the generation; its components are on disk then.
    async fn look(&self, generation: u64) -> Option<Good> {
        let _turn = self.turn.lock().await;
        let snapshot = self.live.load();
        if snapshot.generation != generation {
            return None;
        }
        match self.read(&snapshot) {
            Ok(Some(good)) => Some(good),
            Ok(None) => {
                tracing::debug!(generation, "the files are not those of this generation; it is not kept");
                None
            }
            Err(error) => {
                tracing::warn!(
                    generation,
                    error,
                    "the generation cannot be kept; the last good one stays"
                );
                None
            }
        }
    }

    fn read(&self, snapshot: &Snapshot) -> Result<Option<Good>, String> {
        let text = System
            .read(&self.file, MAX_TEXT_BYTES)
            .ok()
            .and_then(|text| String::from_utf8(text).ok());
        let Some(text) = text else { return Ok(None) };
        let Ok(config) = tamis_config::parse(&text, &self.file, &System) else {
            return Ok(None);
        };
        if config.describe() != *snapshot.description {
            return Ok(None);
        }
        let Some(components) = self.stage(&config, snapshot)? else {
            return Ok(None);
        };
        Ok(Some(Good {
            file: self.absolute.clone(),
            text,
            components,
            version: env!("CARGO_PKG_VERSION").into(),
        }))
    }

    /// Writes the components down; `None` when one is not what the generation has.
    fn stage(&self, config: &Config, snapshot: &Snapshot) -> Result<Option<BTreeMap<PathBuf, String>>, String> {
        let mut components = BTreeMap::new();
        let mut left = MAX_OBJECTS_BYTES;
        for (name, path) in config.filters.iter().flat_map(versions) {
            let Ok(bytes) = System.read(path, config.wasm.max_component) else {
                return Ok(None);
            };
            let digest = self.digest_in(snapshot, &name);
            if digest != Some(crate::wasm::Digest::of(&bytes)) {
                return Ok(None);
            }
            left = left.checked_sub(bytes.len() as u64).ok_or_else(|| {
                let most = MAX_OBJECTS_BYTES >> 30;
                format!("its components are larger than {most} GiB together, which is the most that is kept")
            })?;
            let staged = self.store.stage(&bytes).map_err(|error| error.to_string())?;
            components.insert(path.clone(), staged);
        }
        Ok(Some(components))
    }

    fn digest_in(&self, snapshot: &Snapshot, filter: &str) -> Option<crate::wasm::Digest> {
        let loaded = snapshot.guests.iter().find(|guest| **guest.name() == *filter)?;
        Some(loaded.artifact().digest())
    }

    async fn keep(&self, generation: u64, good: &Good) {
        let _turn = self.turn.lock().await;
        match self.store.save(good) {
            Ok(()) => tracing::info!(generation, "kept as the last good generation"),
            Err(error) => tracing::warn!(generation, %error, "the generation cannot be kept"),
        }
    }
}

/// The names and components of what a filter runs: itself, and its candidate.
fn versions(filter: &Filter) -> impl Iterator<Item = (String, &PathBuf)> {
    let stable = match &filter.kind {
        FilterKind::Component(path) => Some((filter.name.clone(), path)),
        FilterKind::Native(_) => None,
    };
    let candidate = filter
        .candidate
        .as_ref()
        .and_then(|candidate| candidate.component.as_ref());
    stable
        .into_iter()
        .chain(candidate.map(|path| (candidate_name(&filter.name), path)))
}
