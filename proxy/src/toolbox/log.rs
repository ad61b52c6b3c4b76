//! What guests write into the proxy's log, kept for whoever runs them by hand.
//!
//! Control plane. A guest's lines are events of tracing like all others, and are caught there.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// Where guests' lines are found.
const TARGET: &str = "tamis::guest";

/// The lines so far, each with its level: `info: hello`.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Runs `work` in this thread, and catches what guests log meanwhile.
    pub fn catch<T>(&self, work: impl FnOnce() -> T) -> T {
        let subscriber = tracing_subscriber::registry().with(self.clone());
        tracing::subscriber::with_default(subscriber, work)
    }

    /// Since the last time.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != TARGET {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let line = format!("{}: {}", event.metadata().level().as_str().to_lowercase(), text.0);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_guests_are_heard() {
        let lines = Lines::default();
        lines.catch(|| {
            tracing::info!(target: "tamis::guest", filter = "f", "{}", "hello");
            tracing::warn!("not a guest");
        });
        assert_eq!(lines.take(), ["info: hello"]);
        assert!(lines.take().is_empty());
    }
}
