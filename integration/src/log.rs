//! The proxy's own log as it comes: JSON lines on a pipe, kept, searchable, and waited for.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::DEADLINE;

#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<Line>,
    ended: bool,
}

/// One line; `json` is null when the line is no JSON (a panic message, for one).
#[derive(Clone, Debug)]
pub struct Line {
    pub text: String,
    pub json: Value,
}

impl Line {
    fn new(text: String) -> Self {
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { text, json }
    }

    pub fn message(&self) -> &str {
        self.json["fields"]["message"].as_str().unwrap_or_default()
    }

    pub fn level(&self) -> &str {
        self.json["level"].as_str().unwrap_or_default()
    }

    /// A field's value as text, whether it was logged as text or as a number; empty when it is not there.
    pub fn field(&self, name: &str) -> String {
        match &self.json["fields"][name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

impl Log {
    /// Reads `source` in a thread of its own until it ends.
    pub fn follow(source: impl Read + Send + 'static) -> Self {
        let log = Self { shared: Arc::default() };
        let writer = log.clone();
        thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut bytes = Vec::new();
            while source.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
                writer.push(Line::new(
                    String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned(),
                ));
                bytes.clear();
            }
            writer.end();
        });
        log
    }

    pub fn lines(&self) -> Vec<Line> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .lines
            .clone()
    }

    pub fn len(&self) -> usize {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .lines
            .len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first line from number `from` on that `wanted` accepts, waiting for it; panics with `what` when it does not
    /// come, or can no more because the process is gone.
    pub fn wait_from(&self, from: usize, what: &str, wanted: impl Fn(&Line) -> bool) -> Line {
        self.wait_within(DEADLINE, from, what, wanted)
    }

    /// The same with another deadline.
    pub fn wait_within(&self, deadline: Duration, from: usize, what: &str, wanted: impl Fn(&Line) -> bool) -> Line {
        let find = |state: &State| state.lines.iter().skip(from).find(|line| wanted(line)).cloned();
        let state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, deadline, |state| find(state).is_none() && !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        let (found, ended) = (find(&state), state.ended);
        drop(state);
        found.unwrap_or_else(|| {
            panic!(
                "the log never said: {what}{}",
                if ended { " (the process is gone)" } else { "" }
            )
        })
    }

    /// The first line with this message, from the start.
    pub fn wait_message(&self, message: &str) -> Line {
        self.wait_from(0, message, |line| line.message() == message)
    }

    /// Waits until the source has ended, so that its last words are there too.
    pub fn wait_end(&self) {
        let state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.shared
                .changed
                .wait_timeout_while(state, DEADLINE, |state| !state.ended),
        );
    }

    fn push(&self, line: Line) {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .lines
            .push(line);
        self.shared.changed.notify_all();
    }

    fn end(&self) {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.shared.changed.notify_all();
    }
}
