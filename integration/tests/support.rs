//! What the subjects share: a configuration with one cluster, tables of cases, a bystander.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use tamis_integration::socket::Address;
pub use tamis_integration::wait_until;
use tamis_integration::{Client, Folder, Message, Proxy, Upstream};

/// What the proxy adds to every request it sends upstream. Tables leave these out; `forwarding` looks at them.
pub const ADDED: [&str; 5] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-request-id",
    "via",
];

/// What the proxy may add to every response.
pub const ADDED_TO_RESPONSES: [&str; 2] = ["date", "via"];

/// Fields of a `Configuration` are YAML of the place that they name; empty is the default.
#[derive(Default)]
pub struct Configuration<'a> {
    /// Blocks at the top level.
    pub top: &'a str,
    /// Entries of the listener's `limits`.
    pub limits: &'a str,
    /// Names in the listener's `filters`.
    pub listener_filters: &'a str,
    /// Entries of the cluster `app` besides its endpoints.
    pub cluster: &'a str,
    /// Further clusters, indented by two.
    pub clusters: &'a str,
    /// Routes before the last one, indented by two.
    pub routes: &'a str,
    /// Entries of the last route, `all`, which takes everything to `app`.
    pub route: &'a str,
}

impl Configuration<'_> {
    /// One worker, so that pools and chains have one history; every port fresh.
    pub fn with(&self, endpoints: &[&Address]) -> String {
        let endpoints: Vec<_> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
        let endpoints = endpoints.join(", ");
        let Self {
            top,
            limits,
            listener_filters,
            clusters,
            routes,
            ..
        } = self;
        let (cluster, route) = (more(self.cluster), more(self.route));
        format!(
            "\
workers: 1
admin: {{ address: 127.0.0.1:0 }}
{top}
listeners:
  web:
    address: 127.0.0.1:0
    limits: {{ {limits} }}
    filters: [{listener_filters}]
clusters:
  app: {{ endpoints: [{endpoints}]{cluster} }}
{clusters}
routes:
{routes}
  - {{ name: all, cluster: app{route} }}
"
        )
    }

    pub fn to(&self, upstream: &Upstream) -> String {
        self.with(&[upstream.address()])
    }
}

fn more(entries: &str) -> String {
    if entries.is_empty() {
        String::new()
    } else {
        format!(", {entries}")
    }
}

/// A bundled component, as `make filters` leaves it.
pub fn component(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../filters/target/components/{name}.wasm"));
    assert!(
        path.exists(),
        "{}: run `make test`, or build the bundled filters first",
        path.display()
    );
    path
}

/// A component for WASI, of `filters/wasi`, where there is one: not every machine has the tools of every language, but
/// the one that decides has.
pub fn wasi_component(name: &str) -> Option<PathBuf> {
    let file = format!("wasi-{name}.wasm");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../filters/target/components/{file}"));
    if path.exists() {
        return Some(path);
    }
    assert_ne!(env::var("CI").as_deref(), Ok("true"), "{file}: run `make guests-all`");
    println!("skipped, because there is no {file}: run `make guests-all`");
    None
}

pub fn folder_with(components: &[&str]) -> Folder {
    let folder = Folder::new();
    for name in components {
        folder.copy(&component(name), &format!("{name}.wasm"));
    }
    folder
}

/// Answers everything with this text, by itself.
pub fn saying(body: &str) -> String {
    format!(
        "\
workers: 1
admin: {{ address: 127.0.0.1:0 }}
listeners:
  web: {{ address: 127.0.0.1:0 }}
routes:
  - {{ name: all, respond: {{ status: 200, body: \"{body}\" }} }}
"
    )
}

/// Everything to one upstream, all defaults.
pub fn plain(upstream: &Upstream) -> String {
    Configuration::default().to(upstream)
}

/// Runs every case, also after one has failed, and fails with the names of those that did.
pub fn each<T>(cases: impl IntoIterator<Item = T>, name: impl Fn(&T) -> String, run: impl Fn(&T)) {
    let mut failed = Vec::new();
    let mut count = 0;
    for case in cases {
        count += 1;
        if catch_unwind(AssertUnwindSafe(|| run(&case))).is_err() {
            failed.push(name(&case));
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {count} cases failed:\n  {}",
        failed.len(),
        failed.join("\n  ")
    );
}

/// The request as the upstream should see it, without what the proxy adds to every one.
pub fn forwarded(request: &Message) -> String {
    request.canonical(&ADDED)
}

/// The response as the client should see it, without what the proxy adds to every one.
pub fn relayed(response: &Message) -> String {
    response.canonical(&ADDED_TO_RESPONSES)
}

/// Panics unless the reply is the proxy's own: this status, plain text, whole.
pub fn assert_own_reply(response: &Message, status: u16, context: &str) {
    assert_eq!(response.status(), status, "{context}: {response:?}");
    let kind = response.value("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain"), "{context}: content-type `{kind}`");
    assert!(
        response.text().contains("request id: "),
        "{context}: {}",
        response.text()
    );
}

/// Has this configuration applied, and returns the report, whoever was first: the request for it, or the watch.
pub fn apply(proxy: &Proxy, yaml: &str) -> Value {
    let (status, report) = proxy.reload(yaml);
    assert_eq!(status, 200, "{report}");
    if report["outcome"] == "applied" {
        return report;
    }
    let shown: Value = serde_json::from_slice(&proxy.admin("GET", "/config").body).expect("JSON");
    let last = shown["last_reload"].clone();
    assert_eq!(
        (&last["outcome"], &last["generation"]),
        (&"applied".into(), &report["generation"])
    );
    last
}

/// The filter in the admin endpoint's list.
pub fn filter_state(proxy: &Proxy, name: &str) -> Value {
    let reply = proxy.admin("GET", "/filters");
    let filters: Vec<Value> = serde_json::from_slice(&reply.body).expect("a list");
    let found = filters.into_iter().find(|filter| filter["name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {}", reply.text()))
}

/// A client on another route that wants nothing but its answers, all the time.
pub struct Bystander {
    stop: Arc<AtomicBool>,
    /// How long each answer took, in their order.
    waits: Arc<Mutex<Vec<Duration>>>,
    thread: JoinHandle<()>,
}

impl Bystander {
    /// GETs the target on one keep-alive connection after the other until told to stop; anything but 200 fails the test.
    pub fn start(address: &Address, target: &str) -> Self {
        let (stop, waits) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<_>>>::default());
        let mut client = Client::connect(address);
        let (address, target) = (address.clone(), target.to_owned());
        let (stopped, waited) = (stop.clone(), waits.clone());
        let thread = thread::spawn(move || {
            let mut served = 0;
            while !stopped.load(Ordering::SeqCst) || served == 0 {
                let since = Instant::now();
                let response = client.get(&target);
                assert_eq!(response.status(), 200, "a bystander suffers: {response:?}");
                lock(&waited).push(since.elapsed());
                served += 1;
                if response.closes() {
                    client = Client::connect(&address);
                }
            }
        });
        Self { stop, waits, thread }
    }

    /// How many requests were answered so far.
    pub fn served(&self) -> usize {
        lock(&self.waits).len()
    }

    /// How long all but one in a hundred waited at most, of those from number `from` on.
    pub fn p99(&self, from: usize) -> Duration {
        let mut waits = lock(&self.waits)[from..].to_vec();
        waits.sort();
        waits[(waits.len() * 99).div_ceil(100) - 1]
    }

    /// Stops it; panics when it got anything but answers.
    pub fn finish(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("a bystander was harmed");
        lock(&self.waits).len()
    }
}

fn lock(waits: &Mutex<Vec<Duration>>) -> MutexGuard<'_, Vec<Duration>> {
    waits.lock().unwrap_or_else(PoisonError::into_inner)
}
