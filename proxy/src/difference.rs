//! What tells two generations apart, in the words of the configuration.
//!
//! Control plane; pure. Both sides are what `GET /config` shows, so that a reload and `tamis check --against` say the
//! same. Its JSON is part of the administration endpoint and stays: fields are added, never renamed or removed. It
//! knows nothing of files, sockets and how a generation is made.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use tamis_config::{Config, Endpoints, FilterUse, ServiceGrant};

use crate::canary::candidate_name;
use crate::cluster::Cluster;
use crate::snapshot::Snapshot;
use crate::tls;
use crate::wasm;
use crate::wasm::http::Middleware;

/// What cannot change while the process runs, and why.
const FIXED: [(&str, &str); 8] = [
    ("workers", "its threads are started with it"),
    ("wasm.max_instances", ROOM),
    ("wasm.max_memory", ROOM),
    ("wasm.max_table_elements", ROOM),
    ("wasm.max_stack", ROOM),
    ("wasm.max_service_instances", ROOM),
    ("wasm.max_service_memory", ROOM),
    ("admin", "the endpoint that you ask is opened with it"),
];
/// As `tamis_config` shows what came from a variable or a file.
const REDACTED: &str = "[redacted]";
const ROOM: &str = "its room for guests is set aside when it starts";
/// What has names; all else in a configuration is a setting of the process.
const SECTIONS: [&str; 4] = ["listeners", "filters", "clusters", "routes"];

/// One generation as it can be shown: secrets in filters' settings are `[redacted]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct State {
    pub generation: u64,
    /// The configuration, every default filled in. Shared: of ten thousand routes a copy takes longer than all that is
    /// done with it.
    #[serde(serialize_with = "shared", deserialize_with = "unshared")]
    pub config: Arc<Value>,
    /// By the filter's name.
    pub components: BTreeMap<String, Component>,
    /// What TLS is made of.
    #[serde(default)]
    pub listener_files: Files,
    #[serde(default)]
    pub cluster_files: Files,
}

/// By the item's name, then by the file's key under it: the SHA-256 of the file. Those of keys are not shown.
pub type Files = BTreeMap<String, BTreeMap<String, String>>;

/// The key of a cluster's component; all others are files of TLS.
const COMPONENT: &str = "component";

/// What a filter that is a component runs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Component {
    pub sha256: String,
    /// What it asks of its host.
    pub imports: Vec<String>,
}

/// From one [`State`] to another.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Difference {
    /// Of the process as a whole: `drain_timeout`, `access_log` and the like.
    pub settings: Vec<Change>,
    pub listeners: Items,
    pub filters: Items,
    pub clusters: Items,
    pub routes: Items,
    /// Filters that may do more or less than before, new ones included.
    pub permissions: Vec<Permissions>,
}

/// One kind of thing that has names.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Items {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<Changed>,
    /// How many are as they were.
    pub unchanged: usize,
    /// Those that are in both stand in another order. Only where order counts, which is among routes.
    pub reordered: bool,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Changed {
    pub name: String,
    /// Never empty.
    pub changes: Vec<Change>,
}

/// One value, named as in the YAML with dots between the keys. `null` stands for one that is not there. Two equal
/// values are secrets that differ.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Change {
    pub key: String,
    pub from: Value,
    pub to: Value,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Permissions {
    pub filter: String,
    /// What the component asks for.
    pub imports: Delta,
    /// What the configuration allows it.
    pub grants: Delta,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Delta {
    pub added: Vec<String>,
    pub removed: Vec<String>,
}

/// Where filters have settings with another value than before, although both are shown as `[redacted]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hidden {
    pub listeners: HashSet<String>,
    pub filters: HashSet<String>,
    pub clusters: HashSet<String>,
    pub routes: HashSet<String>,
}

impl Hidden {
    /// Only of things that are in both; the others are new or gone anyhow.
    pub fn between(old: &Config, new: &Config) -> Self {
        let filters = old
            .filters
            .iter()
            .map(|filter| (&*filter.name, (&filter.config, values(&filter.middleware.grants))))
            .collect();
        let listeners = old
            .listeners
            .iter()
            .map(|listener| (&*listener.name, uses(&listener.filters)))
            .collect();
        let clusters = old
            .clusters
            .iter()
            .map(|cluster| (&*cluster.name, values(granted(cluster))))
            .collect();
        let routes = old
            .routes
            .iter()
            .map(|route| (&*route.name, uses(&route.filters)))
            .collect();
        Self {
            filters: differing(
                filters,
                new.filters
                    .iter()
                    .map(|filter| (&*filter.name, (&filter.config, values(&filter.middleware.grants)))),
            ),
            listeners: differing(
                listeners,
                new.listeners
                    .iter()
                    .map(|listener| (&*listener.name, uses(&listener.filters))),
            ),
            clusters: differing(
                clusters,
                new.clusters
                    .iter()
                    .map(|cluster| (&*cluster.name, values(granted(cluster)))),
            ),
            routes: differing(
                routes,
                new.routes.iter().map(|route| (&*route.name, uses(&route.filters))),
            ),
        }
    }
}

/// The settings of a chain.
fn uses(chain: &[FilterUse]) -> Vec<Option<&tamis_config::Settings>> {
    chain.iter().map(|used| used.config.as_ref()).collect()
}

fn granted(cluster: &tamis_config::Cluster) -> &[ServiceGrant] {
    match &cluster.endpoints {
        Endpoints::Component(service) => &service.grants,
        _ => &[],
    }
}

/// What a component is given that is never shown.
fn values(grants: &[ServiceGrant]) -> Vec<&[(String, String)]> {
    let given = grants.iter().filter_map(|grant| match grant {
        ServiceGrant::Env(values) | ServiceGrant::Config(values) => Some(values.as_slice()),
        _ => None,
    });
    given.collect()
}

fn differing<'a, T: PartialEq>(old: HashMap<&str, T>, new: impl Iterator<Item = (&'a str, T)>) -> HashSet<String> {
    new.filter(|(name, new)| old.get(name).is_some_and(|old| old != new))
        .map(|(name, _)| name.to_owned())
        .collect()
}

impl State {
    pub fn of(snapshot: &Snapshot) -> Self {
        Self {
            generation: snapshot.generation,
            config: Arc::clone(&snapshot.description),
            components: components(&snapshot.guests, &snapshot.middlewares),
            listener_files: listener_files(snapshot.listeners.iter().map(|of| (&*of.name, of.tls.as_deref()))),
            cluster_files: cluster_files(&snapshot.clusters),
        }
    }

    /// Things whose settings hold secrets, as `filter a`.
    pub fn with_secrets(&self) -> Vec<String> {
        let named = |(key, noun)| {
            let hides = |(_, item): &(&str, &Value)| holds_secret(item);
            let items = self.section(key).into_iter().filter(hides);
            items.map(|(name, _)| format!("{noun} {name}")).collect::<Vec<_>>()
        };
        [
            ("filters", "filter"),
            ("listeners", "listener"),
            ("clusters", "cluster"),
            ("routes", "route"),
        ]
        .into_iter()
        .flat_map(named)
        .collect()
    }

    fn section(&self, key: &str) -> Vec<(&str, &Value)> {
        match self.config.get(key) {
            Some(Value::Object(items)) => items.iter().map(|(name, item)| (name.as_str(), item)).collect(),
            Some(Value::Array(items)) => items.iter().map(|item| (name_of(item), item)).collect(),
            _ => Vec::new(),
        }
    }

    /// As words: `outbound` once for each cluster, so that one more of them is one more grant.
    fn grants(&self, filter: &str) -> Vec<String> {
        let grants = self.config["filters"][filter]["grants"].as_array();
        grants.into_iter().flatten().flat_map(grant_words).collect()
    }

    fn imports(&self, filter: &str) -> Vec<String> {
        let component = self.components.get(filter);
        component.map(|component| component.imports.clone()).unwrap_or_default()
    }
}

/// Of the listeners that speak TLS.
pub fn listener_files<'a>(servers: impl Iterator<Item = (&'a str, Option<&'a tls::Server>)>) -> Files {
    servers
        .filter_map(|(name, server)| Some((name.to_owned(), without_keys(&server?.files))))
        .collect()
}

/// Of the clusters that are spoken to through TLS, or are components.
pub fn cluster_files(clusters: &[Arc<Cluster>]) -> Files {
    let files = |cluster: &Arc<Cluster>| {
        let files = match (&cluster.terms.tls, &cluster.terms.service) {
            (Some(tls), _) => without_keys(&tls.files),
            (None, Some(service)) => BTreeMap::from([(COMPONENT.to_owned(), service.artifact().digest().to_string())]),
            (None, None) => return None,
        };
        Some((cluster.name().to_owned(), files))
    };
    clusters.iter().filter_map(files).collect()
}

fn without_keys(files: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let shown = files.iter().filter(|(key, _)| !key.ends_with(".key"));
    shown.map(|(key, digest)| (key.clone(), digest.clone())).collect()
}

/// By the filter's name.
pub fn components(guests: &[Arc<wasm::Filter>], middlewares: &[Arc<Middleware>]) -> BTreeMap<String, Component> {
    let guests = guests.iter().map(|guest| (guest.name(), guest.artifact()));
    let middlewares = middlewares.iter().map(|one| (one.name(), one.service.artifact()));
    let component = |(name, artifact): (&Arc<str>, &Arc<wasm::Artifact>)| {
        let component = Component {
            sha256: artifact.digest().to_string(),
            imports: artifact.imports(),
        };
        (name.to_string(), component)
    };
    guests.chain(middlewares).map(component).collect()
}

fn holds_secret(value: &Value) -> bool {
    match value {
        Value::String(text) => text == REDACTED,
        Value::Array(items) => items.iter().any(holds_secret),
        Value::Object(entries) => entries.values().any(holds_secret),
        _ => false,
    }
}

fn name_of(item: &Value) -> &str {
    item["name"].as_str().unwrap_or_default()
}

fn shared<S: Serializer>(value: &Arc<Value>, serializer: S) -> Result<S::Ok, S::Error> {
    Value::serialize(value, serializer)
}

fn unshared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Value>, D::Error> {
    Value::deserialize(deserializer).map(Arc::new)
}

fn grant_words(grant: &Value) -> Vec<String> {
    match grant {
        Value::String(word) => vec![word.clone()],
        Value::Object(block) => block.iter().flat_map(|(word, of)| grants_of(word, of)).collect(),
        _ => Vec::new(),
    }
}

fn grants_of(word: &str, of: &Value) -> Vec<String> {
    match of {
        Value::String(name) => vec![format!("{word}: {name}")],
        Value::Array(names) if names.is_empty() => vec![word.to_owned()],
        Value::Array(names) => names
            .iter()
            .map(|name| format!("{word}: {}", name.as_str().unwrap_or_default()))
            .collect(),
        _ => Vec::new(),
    }
}

impl Difference {
    /// `hidden` is what the two descriptions cannot show. Where a component lies is no difference, as long as it is the
    /// same one: the two may have been loaded from different folders, or one of them from the last good generation.
    pub fn between(old: &State, new: &State, hidden: &Hidden) -> Self {
        let mut difference = Self {
            settings: settings(&old.config, &new.config),
            listeners: Items::between(old, new, "listeners", &hidden.listeners),
            filters: Items::between(old, new, "filters", &hidden.filters),
            clusters: Items::between(old, new, "clusters", &hidden.clusters),
            routes: Items::between(old, new, "routes", &hidden.routes),
            permissions: permissions(old, new),
        };
        difference.routes.reordered = is_reordered(old, new);
        difference.ignore_moved_components(old, new);
        difference.note_components(old, new);
        note_files(&mut difference.listeners, &old.listener_files, &new.listener_files);
        note_files(&mut difference.clusters, &old.cluster_files, &new.cluster_files);
        difference
    }

    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.sections().iter().all(|(_, items)| items.is_empty())
    }

    /// By the YAML's key.
    pub fn sections(&self) -> [(&'static str, &Items); 4] {
        [
            ("listeners", &self.listeners),
            ("filters", &self.filters),
            ("clusters", &self.clusters),
            ("routes", &self.routes),
        ]
    }

    /// A line for each change that a running process cannot make.
    pub fn needs_restart(&self) -> Vec<String> {
        restart_lines(&self.settings)
    }

    fn ignore_moved_components(&mut self, old: &State, new: &State) {
        let is_same = |name: &str| {
            let digest = |state: &'_ State| state.components.get(name).map(|component| component.sha256.clone());
            digest(old).is_some_and(|digest_of_old| digest(new) == Some(digest_of_old))
        };
        for Changed { name, changes } in &mut self.filters.changed {
            changes.retain(|change| match change.key.as_str() {
                "component" => !is_same(name),
                "candidate.component" => !is_same(&candidate_name(name)),
                _ => true,
            });
        }
        let before = self.filters.changed.len();
        self.filters.changed.retain(|changed| !changed.changes.is_empty());
        self.filters.unchanged += before - self.filters.changed.len();
    }

    /// One line for the log: `filters ~1, routes +2 -1`.
    pub fn summary(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        if !self.settings.is_empty() {
            parts.push(format!("settings ~{}", self.settings.len()));
        }
        let counts = |(key, items): (&str, &Items)| {
            let signs = [
                ('+', items.added.len()),
                ('-', items.removed.len()),
                ('~', items.changed.len()),
            ];
            let shown = signs.iter().filter(|(_, count)| *count > 0);
            let mut counts: String = shown.map(|(sign, count)| format!(" {sign}{count}")).collect();
            if items.reordered {
                counts.push_str(" reordered");
            }
            (!counts.is_empty()).then(|| format!("{key}{counts}"))
        };
        parts.extend(self.sections().into_iter().filter_map(counts));
        parts.join(", ")
    }

    /// A component that was replaced under its filter's name.
    fn note_components(&mut self, old: &State, new: &State) {
        for (name, component) in &new.components {
            let was = old.components.get(name).map(|was| &was.sha256);
            let Some(was) = was.filter(|was| **was != component.sha256) else {
                continue;
            };
            let change = Change {
                key: "component.sha256".to_owned(),
                from: was.as_str().into(),
                to: component.sha256.as_str().into(),
            };
            self.filters.note(name, change);
        }
    }
}

/// Files that were replaced under their names.
fn note_files(items: &mut Items, old: &Files, new: &Files) {
    for (name, files) in new {
        let Some(were) = old.get(name) else { continue };
        for (key, digest) in files {
            let Some(was) = were.get(key).filter(|was| *was != digest) else {
                continue;
            };
            let change = Change {
                key: match key.as_str() {
                    COMPONENT => format!("{key}.sha256"),
                    _ => format!("tls.{key}.sha256"),
                },
                from: was.as_str().into(),
                to: digest.as_str().into(),
            };
            items.note(name, change);
        }
    }
}

/// A line for each of these changes that a running process cannot make.
fn restart_lines(changes: &[Change]) -> Vec<String> {
    let line = |change: &Change| {
        let is_it = |key: &str| change.key == key || change.key.starts_with(&format!("{key}."));
        let (_, why) = FIXED.iter().find(|(key, _)| is_it(key))?;
        let Change { key, from, to } = change;
        Some(format!(
            "{key}: cannot change from {} to {} while the process runs, because {why}; `tamis upgrade` (or SIGUSR2) \
             changes it without losing a connection; else take the change back",
            or_default(from),
            or_default(to)
        ))
    };
    changes.iter().filter_map(line).collect()
}

fn or_default(value: &Value) -> String {
    if value.is_null() {
        "its default".to_owned()
    } else {
        shown(value)
    }
}

/// Of two descriptions: what must be taken back before anything else is looked at.
pub fn needs_restart(old: &Value, new: &Value) -> Vec<String> {
    restart_lines(&settings(old, new))
}

/// A value as one writes it in YAML on one line.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn settings(old: &Value, new: &Value) -> Vec<Change> {
    let of = |config: &'_ Value| -> Value {
        let keys = config.as_object().into_iter().flatten();
        let settings = keys.filter(|(key, _)| !SECTIONS.contains(&key.as_str()));
        settings.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    changes(&of(old), &of(new))
}

/// Every value that differs, objects taken apart.
fn changes(old: &Value, new: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    collect(String::new(), old, new, &mut found);
    found
}

fn collect(key: String, old: &Value, new: &Value, found: &mut Vec<Change>) {
    if old == new {
        return;
    }
    let (Value::Object(was), Value::Object(is)) = (old, new) else {
        return found.push(Change {
            key,
            from: old.clone(),
            to: new.clone(),
        });
    };
    let under = |part: &str| {
        if key.is_empty() {
            part.to_owned()
        } else {
            format!("{key}.{part}")
        }
    };
    for (part, value) in is {
        collect(under(part), was.get(part).unwrap_or(&Value::Null), value, found);
    }
    for (part, value) in was.iter().filter(|(part, _)| !is.contains_key(*part)) {
        collect(under(part), value, &Value::Null, found);
    }
}

/// Whether the routes of both stand in another order; those that came or went do not count.
fn is_reordered(old: &State, new: &State) -> bool {
    let (was, is) = (old.section("routes"), new.section("routes"));
    let names = |routes: &[(&'_ str, &Value)]| -> HashSet<String> {
        routes.iter().map(|(name, _)| (*name).to_owned()).collect()
    };
    let (before, after) = (names(&was), names(&is));
    let stayed = was.iter().map(|(name, _)| *name).filter(|name| after.contains(*name));
    !stayed.eq(is.iter().map(|(name, _)| *name).filter(|name| before.contains(*name)))
}

fn permissions(old: &State, new: &State) -> Vec<Permissions> {
    let of = |(filter, _): (&str, &Value)| {
        let permissions = Permissions {
            imports: Delta::between(&old.imports(filter), &new.imports(filter)),
            grants: Delta::between(&old.grants(filter), &new.grants(filter)),
            filter: filter.to_owned(),
        };
        let differs = !permissions.imports.is_empty() || !permissions.grants.is_empty();
        differs.then_some(permissions)
    };
    new.section("filters").into_iter().filter_map(of).collect()
}

impl Delta {
    pub fn between(old: &[String], new: &[String]) -> Self {
        let missing = |from: &[String], of: &[String]| -> Vec<String> {
            of.iter().filter(|name| !from.contains(name)).cloned().collect()
        };
        Self {
            added: missing(old, new),
            removed: missing(new, old),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

impl Items {
    fn between(old: &State, new: &State, key: &str, hidden: &HashSet<String>) -> Self {
        let (was, is) = (old.section(key), new.section(key));
        let mut before: HashMap<&str, &Value> = was.iter().copied().collect();
        let mut items = Self::default();
        for (name, item) in is {
            let Some(old) = before.remove(name) else {
                items.added.push(name.to_owned());
                continue;
            };
            let mut changes = changes(old, item);
            if changes.is_empty() && hidden.contains(name) {
                changes.push(secret());
            }
            if changes.is_empty() {
                items.unchanged += 1;
            } else {
                let name = name.to_owned();
                items.changed.push(Changed { name, changes });
            }
        }
        // In the order in which they stood.
        let gone = was.into_iter().map(|(name, _)| name);
        items.removed = gone
            .filter(|name| before.contains_key(name))
            .map(str::to_owned)
            .collect();
        items
    }

    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty() && !self.reordered
    }

    /// Of an item that is in both.
    fn note(&mut self, name: &str, change: Change) {
        if let Some(changed) = self.changed.iter_mut().find(|changed| changed.name == name) {
            return changed.changes.push(change);
        }
        self.unchanged = self.unchanged.saturating_sub(1);
        self.changed.push(Changed {
            name: name.to_owned(),
            changes: vec![change],
        });
    }
}

fn secret() -> Change {
    Change {
        key: "config".to_owned(),
        from: REDACTED.into(),
        to: REDACTED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn state(config: Value, components: &[(&str, &str, &[&str])]) -> State {
        let component = |(name, sha256, imports): &(&str, &str, &[&str])| {
            let imports = imports.iter().map(|import| (*import).to_owned()).collect();
            let sha256 = (*sha256).to_owned();
            ((*name).to_owned(), Component { sha256, imports })
        };
        State {
            generation: 1,
            config: Arc::new(config),
            components: components.iter().map(component).collect(),
            listener_files: Files::new(),
            cluster_files: Files::new(),
        }
    }

    #[test]
    fn a_file_that_was_replaced_is_a_change() {
        let with = |cert: &str| {
            let files = [("certificates[0].cert", cert), ("client_ca", "same")];
            let files = files.map(|(key, digest)| (key.to_owned(), digest.to_owned()));
            State {
                listener_files: [("web".to_owned(), files.into())].into(),
                ..state(json!({ "listeners": { "web": {}, "other": {} } }), &[])
            }
        };
        assert!(Difference::between(&with("a"), &with("a"), &Hidden::default()).is_empty());
        let difference = Difference::between(&with("a"), &with("b"), &Hidden::default());
        assert_eq!(difference.summary(), "listeners ~1");
        assert_eq!(difference.listeners.unchanged, 1);
        let change = &difference.listeners.changed[0].changes[0];
        assert_eq!(change.key, "tls.certificates[0].cert.sha256");
        assert_eq!((&change.from, &change.to), (&json!("a"), &json!("b")));
    }

    fn between(old: Value, new: Value) -> Difference {
        Difference::between(&state(old, &[]), &state(new, &[]), &Hidden::default())
    }

    #[test]
    fn what_came_went_and_changed_is_named() {
        let difference = between(
            json!({
                "drain_timeout": "30s",
                "clusters": { "a": { "endpoints": [1] }, "b": {}, "c": { "limits": { "x": 1, "y": 2 } } },
            }),
            json!({
                "drain_timeout": "10s",
                "clusters": { "d": {}, "b": {}, "c": { "limits": { "x": 1, "y": 3 } } },
            }),
        );
        let change = |key: &str, from: Value, to: Value| Change {
            key: key.to_owned(),
            from,
            to,
        };
        assert_eq!(
            difference.settings,
            [change("drain_timeout", "30s".into(), "10s".into())]
        );
        let clusters = &difference.clusters;
        assert_eq!(
            (&*clusters.added, &*clusters.removed),
            (&["d".to_owned()][..], &["a".to_owned()][..])
        );
        assert_eq!(clusters.unchanged, 1);
        assert_eq!(clusters.changed[0].name, "c");
        assert_eq!(clusters.changed[0].changes, [change("limits.y", 2.into(), 3.into())]);
        assert_eq!(difference.summary(), "settings ~1, clusters +1 -1 ~1");
        assert!(!difference.is_empty());
    }

    #[test]
    fn the_order_of_routes_counts_and_that_of_nothing_else() {
        let routes =
            |names: &[&str]| json!({ "routes": names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>() });
        assert!(between(routes(&["a", "b"]), routes(&["b", "a"])).routes.reordered);
        let inserted = between(routes(&["a", "b"]), routes(&["x", "a", "b"]));
        assert!(!inserted.routes.reordered);
        assert_eq!((inserted.routes.added.len(), inserted.routes.unchanged), (1, 2));
        let clusters = between(
            json!({ "clusters": { "a": 1, "b": 2 } }),
            json!({ "clusters": { "b": 2, "a": 1 } }),
        );
        assert!(clusters.is_empty(), "{clusters:?}");
    }

    #[test]
    fn a_replaced_component_is_a_change_and_says_what_it_may_do_more() {
        let config = |grants: Value| json!({ "filters": { "a": { "grants": grants }, "b": { "grants": [] } } });
        let old = state(config(json!(["metrics"])), &[("a", "1", &["log"]), ("b", "5", &[])]);
        let grants = json!(["metrics", { "outbound": ["x", "y"] }, { "key_value": "t" }]);
        let new = state(config(grants), &[("a", "2", &["log", "clock"]), ("b", "5", &[])]);
        let difference = Difference::between(&old, &new, &Hidden::default());
        let keys: Vec<_> = difference.filters.changed[0]
            .changes
            .iter()
            .map(|change| &*change.key)
            .collect();
        assert_eq!(keys, ["grants", "component.sha256"]);
        let [permissions] = &*difference.permissions else {
            panic!("one filter: {difference:?}")
        };
        assert_eq!(permissions.imports.added, ["clock"]);
        assert_eq!(permissions.grants.added, ["outbound: x", "outbound: y", "key_value: t"]);
    }

    #[test]
    fn a_secret_that_changed_is_said_and_not_shown() {
        let config = json!({ "filters": { "a": { "config": { "token": "[redacted]" } }, "b": {} } });
        let (old, new) = (state(config.clone(), &[]), state(config, &[]));
        let hidden = Hidden {
            filters: ["a".to_owned()].into(),
            ..Hidden::default()
        };
        let difference = Difference::between(&old, &new, &hidden);
        assert_eq!(difference.filters.changed[0].name, "a");
        assert_eq!(difference.filters.unchanged, 1);
    }

    #[test]
    fn a_component_that_only_lies_elsewhere_is_no_change() {
        let config = |folder: &str| {
            let candidate = json!({ "component": format!("{folder}/b.wasm"), "share": "5%" });
            json!({ "filters": { "a": { "component": format!("{folder}/a.wasm"), "candidate": candidate } } })
        };
        let tried = candidate_name("a");
        let none: &[&str] = &[];
        let components = |of_a, of_tried| [("a", of_a, none), (tried.as_str(), of_tried, none)];
        let old = state(config("etc"), &components("1", "2"));
        let moved = Difference::between(&old, &state(config("/etc"), &components("1", "2")), &Hidden::default());
        assert!(moved.is_empty(), "{moved:?}");
        assert_eq!(moved.filters.unchanged, 1);
        let replaced = Difference::between(&old, &state(config("/etc"), &components("1", "3")), &Hidden::default());
        let keys: Vec<_> = replaced.filters.changed[0]
            .changes
            .iter()
            .map(|change| &*change.key)
            .collect();
        assert_eq!(keys, ["candidate.component"], "{replaced:?}");
    }

    #[test]
    fn what_needs_a_restart_is_refused_with_its_reason() {
        let old = json!({ "workers": 1, "wasm": { "max_stack": "512KiB", "max_component": "1MiB" }, "admin": "off" });
        let new = json!({ "workers": 2, "wasm": { "max_stack": "1MiB", "max_component": "2MiB" }, "admin": "off" });
        let lines = needs_restart(&old, &new);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!(
            lines[0],
            "workers: cannot change from 1 to 2 while the process runs, because its threads are started with it; \
             `tamis upgrade` (or SIGUSR2) changes it without losing a connection; else take the change back"
        );
    }
}
