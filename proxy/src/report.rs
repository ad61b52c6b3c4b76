//! What came of a reload, for programs as JSON and for people as text.
//!
//! Control plane. The JSON is the answer to `POST /reload` and part of `GET /config`, and stays: fields are added,
//! never renamed or removed, and every report has all of them. It knows nothing of how a reload is done.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::difference::{Change, Changed, Difference, Hidden, Items, Permissions, State, shown};

/// Lines that one list takes in the text; a long list says how many more there are, and the JSON has all of them.
const MAX_LINES: usize = 20;
/// Characters of one value in the text.
const MAX_VALUE: usize = 60;

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Report {
    pub outcome: Outcome,
    /// The generation that is live now.
    pub generation: u64,
    /// The one that was live when the reload began; the same unless `outcome` is `applied`.
    pub previous: u64,
    /// Who asked first: `admin`, `SIGHUP`, `file` or `start`.
    pub cause: String,
    /// When the generation that is live now went live (RFC 3339, to a second), and who had asked for it.
    #[serde(default)]
    pub live_since: String,
    #[serde(default)]
    pub live_cause: String,
    pub took_ms: Took,
    /// Components that were compiled for it; those that were kept, or came from `wasm.cache`, were not.
    pub compiled: u64,
    /// Guests that were made and configured before the swap.
    pub warmed: u64,
    /// Empty unless `outcome` is `applied`.
    pub difference: Difference,
    /// What is odd about the configuration that is live now, each with its place, as `tamis check` says it. Empty when
    /// the files were not read, or are refused.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// All that is wrong, each with its place. Empty unless `outcome` is `refused`, `conflict` or `unavailable`.
    pub errors: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A new generation is live.
    Applied,
    /// The files say what is live already.
    Unchanged,
    /// The files are not sound; the generation before stays.
    Refused,
    /// Another generation is live than the one that was expected; nothing was read.
    Conflict,
    /// Too many wait already, or the process is ending; nothing was read.
    Unavailable,
}

/// A configuration beside the one that is live, for `tamis check --against`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Comparison {
    /// The generation that is live.
    pub generation: u64,
    pub difference: Difference,
    /// What a reload would refuse, because a running process cannot change it.
    pub needs_restart: Vec<String>,
    /// Filters, listeners and routes with settings from variables or files, which are never shown: whether these differ
    /// cannot be told from outside.
    pub not_compared: Vec<String>,
    pub warnings: Vec<String>,
}

/// In milliseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Took {
    /// Reading and checking the configuration.
    pub read: f64,
    /// Reading and compiling components, starting guests, opening sockets.
    pub build: f64,
    /// Finding out what is different.
    #[serde(default)]
    pub compare: f64,
    /// Making guests ready in the workers.
    pub warm: f64,
    /// From ready to live.
    pub swap: f64,
}

impl Took {
    pub fn total(&self) -> f64 {
        let total = self.read + self.build + self.compare + self.warm + self.swap;
        // A sum of such numbers has digits that none of them has.
        (total * 1e3).round() / 1e3
    }
}

/// To a microsecond: more digits are noise.
pub fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// To a millisecond.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e3).round() / 1e3
}

/// How a generation came to be live.
#[derive(Clone, Debug)]
pub struct Tenure {
    pub since: SystemTime,
    pub cause: String,
    /// Of its configuration.
    pub warnings: Vec<String>,
}

impl Comparison {
    pub fn between(running: &State, candidate: &State, warnings: Vec<String>) -> Self {
        let difference = Difference::between(running, candidate, &Hidden::default());
        Self {
            generation: running.generation,
            needs_restart: difference.needs_restart(),
            difference,
            not_compared: candidate.with_secrets(),
            warnings,
        }
    }
}

impl Report {
    /// Of a reload that has found, or done, nothing yet.
    pub fn new(outcome: Outcome, generation: u64, cause: &str) -> Self {
        Self {
            outcome,
            generation,
            previous: generation,
            cause: cause.to_owned(),
            live_since: String::new(),
            live_cause: String::new(),
            took_ms: Took::default(),
            compiled: 0,
            warmed: 0,
            difference: Difference::default(),
            warnings: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Of one that was not done.
    pub fn failed(outcome: Outcome, generation: u64, cause: &str, errors: Vec<String>) -> Self {
        Self {
            errors,
            ..Self::new(outcome, generation, cause)
        }
    }

    /// The same, and how the generation that is live came to be so.
    pub fn of(self, live: &Tenure) -> Self {
        Self {
            live_since: humantime::format_rfc3339_seconds(live.since).to_string(),
            live_cause: live.cause.clone(),
            warnings: if self.is_success() {
                live.warnings.clone()
            } else {
                Vec::new()
            },
            ..self
        }
    }

    /// Whether what the files say is live now.
    pub fn is_success(&self) -> bool {
        matches!(self.outcome, Outcome::Applied | Outcome::Unchanged)
    }
}

/// The first line says how it ended and what is live; then what is different, or all that is wrong.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let live = self.generation;
        match self.outcome {
            Outcome::Applied => {
                writeln!(f, "applied: generation {live} is live (before: {})", self.previous)?;
                writeln!(f, "{}", Times(self))?;
                write!(f, "{}", self.difference)?;
                warnings(f, &self.warnings)
            }
            Outcome::Unchanged => {
                write!(f, "unchanged: generation {live}{}", Since(self))?;
                writeln!(f, " stays live, because it is what the files say")?;
                warnings(f, &self.warnings)
            }
            Outcome::Refused => {
                writeln!(f, "REFUSED: generation {live} stays live and serves as before")?;
                errors(f, &self.errors)
            }
            Outcome::Conflict | Outcome::Unavailable => {
                writeln!(
                    f,
                    "NOT DONE: nothing was read; generation {live} stays live and serves as before"
                )?;
                errors(f, &self.errors)
            }
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "against generation {}, which is live and stays so:", self.generation)?;
        write!(f, "{}", self.difference)?;
        if !self.not_compared.is_empty() {
            writeln!(
                f,
                "not compared, because secrets are never shown: settings of {}",
                self.not_compared.join(", ")
            )?;
        }
        let refused = |line: &String| writeln!(f, "A RELOAD WOULD BE REFUSED: {line}");
        self.needs_restart.iter().try_for_each(refused)
    }
}

/// How the live generation came to be so, in commas; nothing when an older process has not said it.
struct Since<'a>(&'a Report);

impl fmt::Display for Since<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            live_since, live_cause, ..
        } = self.0;
        let cause = match live_cause.as_str() {
            "" => return Ok(()),
            "admin" => "POST /reload",
            "file" => "file change",
            "start" => "the start of the process",
            other => other,
        };
        write!(f, ", live since {live_since} by {cause},")
    }
}

fn warnings(f: &mut fmt::Formatter<'_>, warnings: &[String]) -> fmt::Result {
    some(f, warnings, |f, warning| writeln!(f, "warning: {warning}"))
}

fn errors(f: &mut fmt::Formatter<'_>, errors: &[String]) -> fmt::Result {
    let count = errors.len();
    writeln!(f, "{count} error{}:", if count == 1 { "" } else { "s" })?;
    errors.iter().try_for_each(|error| writeln!(f, "  {error}"))
}

/// A line of where the time went.
struct Times<'a>(&'a Report);

impl fmt::Display for Times<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Took {
            read,
            build,
            compare,
            warm,
            swap,
        } = self.0.took_ms;
        let (compiled, warmed) = (self.0.compiled, self.0.warmed);
        write!(
            f,
            "took {:.1} ms: read {read:.1}, build {build:.1} ({compiled} compiled), ",
            self.0.took_ms.total()
        )?;
        write!(
            f,
            "compare {compare:.1}, warm {warm:.1} ({warmed} instances), swap {swap:.3}"
        )
    }
}

/// What differs, kind by kind; permissions last and in words, because they are what one must not overlook.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(
                f,
                "nothing is different but what is not served: comments, names of files, or the order of keys"
            );
        }
        for change in &self.settings {
            writeln!(f, "~ {}", Line(change))?;
        }
        for (key, items) in self.sections() {
            section(f, key, items)?;
        }
        self.permissions
            .iter()
            .try_for_each(|permissions| permitted(f, permissions))
    }
}

fn section(f: &mut fmt::Formatter<'_>, key: &str, items: &Items) -> fmt::Result {
    let counts = [
        (items.added.len(), "added"),
        (items.changed.len(), "changed"),
        (items.removed.len(), "removed"),
        (items.unchanged, "unchanged"),
    ];
    let mut parts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if items.reordered {
        parts.push("in another order".to_owned());
    }
    if !parts.is_empty() {
        writeln!(f, "{key}: {}", parts.join(", "))?;
    }
    some(f, &items.added, |f, name| writeln!(f, "  + {name}"))?;
    some(f, &items.removed, |f, name| writeln!(f, "  - {name}"))?;
    some(f, &items.changed, |f, Changed { name, changes }| {
        writeln!(f, "  ~ {name}")?;
        some(f, changes, |f, change| writeln!(f, "      {}", Line(change)))
    })
}

/// The first of them, and how many more there are.
fn some<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    show: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    items.iter().take(MAX_LINES).try_for_each(|item| show(f, item))?;
    match items.len().saturating_sub(MAX_LINES) {
        0 => Ok(()),
        more => writeln!(f, "  ... and {more} more; --json has all"),
    }
}

fn permitted(f: &mut fmt::Formatter<'_>, permissions: &Permissions) -> fmt::Result {
    let filter = &permissions.filter;
    let mut lines = |names: &[String], what: &str| {
        names
            .iter()
            .try_for_each(|name| writeln!(f, "permissions of filter {filter}: {what} {name}"))
    };
    lines(&permissions.imports.added, "NEW import")?;
    lines(&permissions.grants.added, "NEW grant")?;
    lines(&permissions.imports.removed, "import gone:")?;
    lines(&permissions.grants.removed, "grant gone:")
}

/// `key: from -> to`.
struct Line<'a>(&'a Change);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Change { key, from, to } = self.0;
        if from == to {
            return write!(f, "{key}: another value, which is secret");
        }
        write!(f, "{key}: {} -> {}", short(from), short(to))
    }
}

fn short(value: &Value) -> String {
    let text = shown(value);
    match text.char_indices().nth(MAX_VALUE) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::difference::Delta;

    fn change(key: &str, from: &str, to: &str) -> Change {
        Change {
            key: key.to_owned(),
            from: from.into(),
            to: to.into(),
        }
    }

    #[test]
    fn an_applied_reload_reads_well() {
        let mut report = Report::new(Outcome::Applied, 8, "admin");
        report.previous = 7;
        report.compiled = 1;
        report.warmed = 2;
        report.took_ms = Took {
            read: 1.25,
            build: 20.0,
            compare: 0.25,
            warm: 0.5,
            swap: 0.0424,
        };
        let difference = &mut report.difference;
        difference.settings = vec![change("drain_timeout", "30s", "10s")];
        difference.clusters.unchanged = 3;
        difference.routes.added = vec!["beta".to_owned()];
        difference.routes.reordered = true;
        difference.filters.changed = vec![Changed {
            name: "tenant".to_owned(),
            changes: vec![
                change("config", "[redacted]", "[redacted]"),
                change("limits.cpu", "10ms", "20ms"),
            ],
        }];
        difference.permissions = vec![Permissions {
            filter: "tenant".to_owned(),
            imports: Delta {
                added: vec!["tamis:filter/clock@0.1.0".to_owned()],
                removed: Vec::new(),
            },
            grants: Delta {
                added: vec!["clock".to_owned()],
                removed: vec!["metrics".to_owned()],
            },
        }];
        assert_eq!(
            report.to_string(),
            "\
applied: generation 8 is live (before: 7)
took 22.0 ms: read 1.2, build 20.0 (1 compiled), compare 0.2, warm 0.5 (2 instances), swap 0.042
~ drain_timeout: 30s -> 10s
filters: 1 changed
  ~ tenant
      config: another value, which is secret
      limits.cpu: 10ms -> 20ms
clusters: 3 unchanged
routes: 1 added, in another order
  + beta
permissions of filter tenant: NEW import tamis:filter/clock@0.1.0
permissions of filter tenant: NEW grant clock
permissions of filter tenant: grant gone: metrics
"
        );
    }

    #[test]
    fn what_stays_says_since_when_and_by_whom_it_is_live() {
        let live = Tenure {
            since: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_694_463_999),
            cause: "file".into(),
            warnings: vec!["tamis.yaml:9:5: odd".into()],
        };
        let report = Report::new(Outcome::Unchanged, 8, "admin").of(&live);
        assert_eq!(
            report.to_string(),
            "unchanged: generation 8, live since 2026-11-26T12:01:03Z by file change, stays live, because it is what \
             the files say\nwarning: tamis.yaml:9:5: odd\n"
        );
        let refused = Report::failed(Outcome::Refused, 8, "admin", vec!["no".into()]).of(&live);
        assert_eq!(refused.live_cause, "file");
        assert_eq!(
            refused.warnings,
            Vec::<String>::new(),
            "they are not of what was refused"
        );
    }

    #[test]
    fn times_have_no_digits_that_mean_nothing() {
        assert_eq!(milliseconds(Duration::from_nanos(1_234_567)), 1.235);
        assert_eq!(seconds(Duration::from_micros(1_234_567)), 1.235);
        let took = Took {
            read: 0.1,
            build: 0.2,
            ..Took::default()
        };
        assert_eq!(took.total().to_string(), "0.3", "and not 0.30000000000000004");
    }

    #[test]
    fn a_refusal_says_first_that_nothing_has_happened() {
        let errors = vec!["tamis.yaml:3:5: no".to_owned(), "tamis.yaml:4:5: no".to_owned()];
        let report = Report::failed(Outcome::Refused, 7, "admin", errors);
        assert_eq!(
            report.to_string(),
            "REFUSED: generation 7 stays live and serves as before\n2 errors:\n  tamis.yaml:3:5: no\n  tamis.yaml:4:5: no\n"
        );
    }

    #[test]
    fn long_lists_and_values_are_cut_in_the_text() {
        let mut difference = Difference::default();
        difference.routes.added = (0..1000).map(|n| format!("r{n}")).collect();
        difference.settings = vec![change("x", &"é".repeat(100), "")];
        let text = difference.to_string();
        assert!(text.contains("... and 980 more"), "{text}");
        assert!(text.contains(&format!("{}...", "é".repeat(60))), "{text}");
    }

    /// Every key is there whatever the outcome, so that a program need not ask whether it is.
    #[test]
    fn the_shape_of_the_json_is_stable() {
        let report = Report::new(Outcome::Unchanged, 1, "start");
        let json = serde_json::to_value(&report).unwrap();
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(
            keys(&json),
            "outcome generation previous cause live_since live_cause took_ms compiled warmed difference warnings errors"
        );
        assert_eq!(
            keys(&json["difference"]),
            "settings listeners filters clusters routes permissions"
        );
        assert_eq!(
            keys(&json["difference"]["routes"]),
            "added removed changed unchanged reordered"
        );
        assert_eq!(json["outcome"], "unchanged");
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }
}
