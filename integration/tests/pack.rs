//! The hostile pack against the real proxy: every guest of `integration/hostile` does its worst, on a route of its own,
//! while somebody on another route makes requests all the time.
//!
//! What is asked of every file, whatever it does: the process lives and has not panicked; the bystander sees no error
//! and hardly waits; what the guest took is given back; each request leaves one record with its reason; the metrics
//! say so; and the upstream got what the records say, to the byte.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::ops::RangeInclusive;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tamis_integration::message::Message;
use tamis_integration::metrics::Metrics;
use tamis_integration::pack::{Answer, Expected, Hostile};
use tamis_integration::upstream::BlackHole;
use tamis_integration::wat::Act::Reply;
use tamis_integration::wat::Guest;
use tamis_integration::{Client, DEADLINE, Folder, Proxy, Step, Upstream, wait_for};

use crate::support::{ADDED, Bystander, assert_own_reply, each, wait_until};

/// Rows without a file.
const WITHOUT: [(u32, &str); 2] = [
    (
        5,
        "it is the process that is stopped, not a guest: `a_stopped_process_kills_nobody`",
    ),
    (52, "there are no retries after a request's body has been read"),
];

/// The last row that speaks of guests.
const ROWS: u32 = 56;

/// With every request: a value that is no UTF-8, which the upstream must see as it is.
const BYTES: &[u8] = b"\xe9\xff\x80";

/// A bystander may wait twice as long as it did before, or for this: a round trip takes a fraction of a millisecond, and
/// on a busy machine of two cores its thread alone may be kept waiting for longer than twice that.
const WAIT_FLOOR: Duration = Duration::from_millis(50);

/// What each guest at work may add to it. The pack's proxy has one worker, which has its neighbours on it, and to which
/// an exchange comes back three times: with the request, to its upstream, with the response. Each time every guest has
/// its turn first, of a tick of at most 4 ms. All of it is stretched by what others take of the machine meanwhile.
const TURNS: Duration = Duration::from_millis(3 * 4);

/// Answers that a bystander gets before its wait is known.
const ENOUGH: usize = 200;

/// Within this time, everything is given back.
const GIVEN_BACK: Duration = Duration::from_secs(10);

/// What the process keeps after a guest's first round: an instance's slot, and the heap of the largest thing that a guest
/// may hand over, `limits.lifted_bytes`.
const KEPT_BYTES: u64 = 24 << 20;
/// And after any other: what allocators do.
const JITTER_BYTES: u64 = 4 << 20;
/// For each guest at once, its memory and its stack, which are set aside once.
const MAPPINGS: usize = 4;

#[test]
fn every_row_has_a_file_or_a_reason() {
    let files = Hostile::all();
    let has =
        |row: &u32| files.iter().any(|file| file.row == *row) != WITHOUT.iter().any(|(without, _)| without == row);
    let missing: Vec<_> = (1..=ROWS).filter(|row| !has(row)).collect();
    assert_eq!(
        missing,
        Vec::<u32>::new(),
        "rows with neither a file nor a reason, or with both"
    );
    assert!(files.iter().all(|file| file.row <= ROWS));
}

#[test]
fn every_file_is_a_valid_component() {
    each(
        Hostile::all(),
        |file| file.name.clone(),
        |file| {
            let valid = wasmparser::Validator::new().validate_all(&file.build());
            assert!(valid.is_ok(), "{}: {:?}", file.name, valid.err());
        },
    );
}

#[test]
fn rows_1_to_8_time() {
    contained(1..=8);
}

#[test]
fn rows_9_to_19_room() {
    contained(9..=19);
}

#[test]
fn rows_20_to_27_what_crosses_the_border() {
    contained(20..=27);
}

#[test]
fn rows_28_to_31_lies_about_memory_and_handles() {
    contained(28..=31);
}

#[test]
fn rows_32_to_40_what_a_guest_asks_for() {
    contained(32..=40);
}

#[test]
fn rows_41_to_56_how_a_guest_ends() {
    contained(41..=56);
}

/// Every file of these rows that is loaded, one after the other, in one proxy.
fn contained(rows: RangeInclusive<u32>) {
    let mut files = Hostile::all();
    files.retain(|file| rows.contains(&file.row) && !file.answers().is_empty());
    let bed = Bed::start(&files);
    each(&files, |file| file.name.clone(), |file| bed.contains(file));
    bed.finish();
}

/// Rows 2, 10, 12, 38 and 47: the refusal says why, and the old set stays.
#[test]
fn what_must_not_be_loaded() {
    let folder = Folder::new();
    folder.write(
        "guest.wasm",
        Guest::new().on_request([Reply(200, vec![], "first")]).build(),
    );
    let proxy = Proxy::start_in(&folder, REFUSING);
    let bystander = Bystander::start(&proxy.address("web"), "/");
    let quiet = quiet(&bystander);
    let files = Hostile::all();
    let refused = files.iter().filter_map(|file| match &file.expected {
        Expected::Refused(said) => Some((file, said)),
        Expected::Answered(_) => None,
    });
    let refused: Vec<_> = refused.collect();
    // What compiling takes for good is not the guest's.
    let (last, said) = refused.last().expect("some must not be loaded");
    assert_refused(&proxy, last, said);
    each(
        &refused,
        |(file, _)| file.name.clone(),
        |(file, said)| {
            let watch = Watch::start(&proxy, &bystander, quiet);
            let before = Levels::of(&proxy);
            assert_refused(&proxy, file, said);
            before.wait_returned(&proxy, 1, JITTER_BYTES);
            watch.end(1);
        },
    );
    bystander.finish();
    assert_eq!(proxy.generation(), 1);
    // The watcher tries for itself what it sees change.
    let counted = proxy.metrics().sum("tamis_reloads_total", &[("outcome", "refused")]);
    assert!(counted > refused.len() as f64, "{counted}");
}

/// The watcher may be trying the same, or the file before, and each try may take its 5 s and some compiling, which has a
/// low priority.
const SLOW_LOAD: Duration = Duration::from_secs(60);

const REFUSING: &str = "\
workers: 1
admin: { address: 127.0.0.1:0 }
listeners:
  web: { address: 127.0.0.1:0 }
filters:
  suspect: { component: guest.wasm, grants: [metrics, clock, random, key_value, { outbound: [] }] }
routes:
  - { filters: [suspect], respond: { status: 404 } }
";

fn assert_refused(proxy: &Proxy, file: &Hostile, said: &[String]) {
    proxy.folder().replace("guest.wasm", file.build());
    let mut admin = Client::connect(&proxy.admin_address());
    admin.send("POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let answer = admin.next_response(SLOW_LOAD).expect("an answer to the reload");
    assert_eq!(answer.status(), 422, "{}: {answer:?}", file.name);
    let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let errors = answer["errors"].to_string();
    assert!(errors.contains("suspect"), "{}: {errors}", file.name);
    for part in said {
        let is_said = part.split(" | ").any(|either| errors.contains(either));
        assert!(is_said, "{}: `{part}` is not said: {errors}", file.name);
    }
    assert_eq!(proxy.get("/").text(), "first", "{}", file.name);
}

/// Row 5: what was in flight may have run out of wall time meanwhile; nothing that comes afterwards is held to have.
#[test]
fn a_stopped_process_kills_nobody() {
    let mut files = Hostile::all();
    files.retain(|file| file.name == "08-under-its-budget");
    let [file] = &mut files[..] else { panic!("it is there") };
    file.settings = "limits: { cpu: 90ms, wall: 500ms }".into();
    let file = &*file;
    let bed = Bed::start(std::slice::from_ref(file));
    let mut client = bed.proxy.client();
    for _ in 0..3 {
        let from = bed.bystander.served();
        wait_until("a bystander's answer", || bed.bystander.served() > from);
        client.send(request(file));
        bed.proxy.signal(Signal::STOP);
        // That it stands still is the fault; longer than the wall time of what is in flight.
        thread::sleep(Duration::from_millis(700));
        bed.proxy.signal(Signal::CONT);
        let in_flight = client.response().status();
        assert!([200, 500].contains(&in_flight), "{in_flight}");
        for _ in 0..10 {
            assert_eq!(client.exchange(request(file)).status(), 200);
        }
    }
    bed.finish();
}

/// One proxy with some files of the pack, all that they can reach, and a bystander.
struct Bed {
    proxy: Proxy,
    bystander: Bystander,
    /// The bystander's wait before any guest has run.
    quiet: Duration,
    /// Of requests without a body.
    app: Upstream,
    /// Of requests with one.
    bodies: Upstream,
    /// Of those whose answer is to be cut: it is long enough for its beginning to have gone out.
    large: Upstream,
    records: RefCell<Records>,
    _others: ([Upstream; 3], BlackHole),
}

impl Bed {
    fn start(files: &[Hostile]) -> Self {
        let folder = Folder::new();
        let endless = [
            Step::Message,
            Step::send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhello"),
            Step::Hold,
        ];
        let [app, bodies, calm, side] = [(); 4].map(|()| Upstream::saying("ok"));
        let large = Upstream::saying(&"x".repeat(LARGE));
        let (endless, hole) = (Upstream::each([endless.to_vec()]), BlackHole::new());
        let own = format!("unix:{}", folder.path("own.sock").display());
        let mut yaml = format!(
            "\
workers: 1
admin: {{ address: 127.0.0.1:0 }}
access_log: {{ file: {LOG}, format: json }}
listeners:
  web: {{ address: 127.0.0.1:0 }}
  own: {{ address: \"{own}\" }}
clusters:
  app: {{ endpoints: [\"{}\"] }}
  bodies: {{ endpoints: [\"{}\"] }}
  large: {{ endpoints: [\"{}\"] }}
  calm: {{ endpoints: [\"{}\"] }}
  side: {{ endpoints: [\"{}\"] }}
  endless: {{ endpoints: [\"{}\"] }}
  hole: {{ endpoints: [\"{}\"] }}
  own: {{ endpoints: [\"{own}\"] }}
filters:
",
            app.address(),
            bodies.address(),
            large.address(),
            calm.address(),
            side.address(),
            endless.address(),
            hole.address(),
        );
        for file in files {
            folder.write(&format!("{}.wasm", file.name), file.build());
            yaml += &filter(file);
        }
        yaml += "routes:\n  - { name: calm, match: { path: { exact: /calm } }, cluster: calm }\n";
        files.iter().for_each(|file| yaml += &route(file));
        // Dozens of components, compiled at a low priority.
        let proxy = Proxy::start_within(&folder, &yaml, 3 * DEADLINE);
        let bystander = Bystander::start(&proxy.address("web"), "/calm");
        let quiet = quiet(&bystander);
        Self {
            bystander,
            quiet,
            app,
            bodies,
            large,
            records: RefCell::new(Records::follow(&folder)),
            proxy,
            _others: ([calm, side, endless], hole),
        }
    }

    /// Two rounds of requests, and all that is asked of them.
    fn contains(&self, file: &Hostile) {
        let metrics = self.proxy.metrics();
        let watch = Watch::start(&self.proxy, &self.bystander, self.quiet);
        let before = Levels::of(&self.proxy);
        let mut statuses = self.round(file, 0);
        before.wait_returned(&self.proxy, file.at_once, KEPT_BYTES);
        let between = Levels::of(&self.proxy);
        statuses.extend(self.round(file, statuses.len()));
        between.wait_returned(&self.proxy, file.at_once, JITTER_BYTES);
        watch.end(file.at_once);
        let records = self.records.borrow_mut().wait(&file.path(), statuses.len());
        assert_recorded(file, statuses, &records);
        self.assert_counted(file, &metrics, &records);
        self.assert_sent(file, &records);
        if let Some(also) = &file.also {
            let records = self.records.borrow_mut().wait(&also.path, records.len());
            assert!(records.iter().all(|record| record.answer == also.answer), "{records:?}");
        }
    }

    /// The statuses in their order; none for one that was cut. Ends when each has left its record.
    fn round(&self, file: &Hostile, earlier: usize) -> Vec<Option<u16>> {
        let mut statuses = Vec::new();
        let mut clients: Vec<Client> = (0..file.at_once).map(|_| self.proxy.client()).collect();
        while statuses.len() < file.times {
            for client in &mut clients {
                client.try_send(request(file));
            }
            if let Some(line) = &file.leaves_at {
                let count = earlier + statuses.len() + clients.len();
                wait_until(line, || self.logged(&file.name, line) == count);
                statuses.extend(clients.drain(..).map(|client| {
                    client.reset();
                    Some(499)
                }));
                clients.extend((0..file.at_once).map(|_| self.proxy.client()));
                continue;
            }
            for client in &mut clients {
                let answer = assert_answer(file, client);
                if answer.as_ref().is_none_or(Message::closes) {
                    *client = self.proxy.client();
                }
                statuses.push(answer.map(|answer| answer.status()));
            }
        }
        self.records.borrow_mut().wait(&file.path(), earlier + statuses.len());
        statuses
    }

    fn logged(&self, filter: &str, message: &str) -> usize {
        let lines = self.proxy.log().lines();
        let is_it = |line: &&tamis_integration::log::Line| line.message() == message && line.field("filter") == filter;
        lines.iter().filter(is_it).count()
    }

    /// The metrics of the route and of the filter have risen by what the records say.
    fn assert_counted(&self, file: &Hostile, before: &Metrics, records: &[Record]) {
        let name = file.name.as_str();
        let risen = |metric: &str, labels: &[(&str, &str)]| {
            self.proxy.metrics().sum(metric, labels) - before.sum(metric, labels)
        };
        let count = records.len() as f64;
        wait_until("the route's requests", || {
            risen("tamis_requests_total", &[("route", name)]) == count
        });
        for answer in file.answers() {
            let of_it = records.iter().filter(|record| record.answer == *answer).count() as f64;
            match (&answer.reason, answer.status) {
                (Some(reason), Some(500 | 503)) => {
                    let failures = risen("tamis_filter_failures_total", &[("filter", name), ("kind", reason)]);
                    assert_eq!(failures, of_it, "{name}: failures of kind {reason}");
                }
                (None, _) => assert!(
                    risen("tamis_filter_calls_total", &[("filter", name)]) >= of_it,
                    "{name}: the filter was not called"
                ),
                _ => (),
            }
        }
        if let Some(metric) = &file.metric {
            assert!(
                risen(metric, &[("filter", name)]) > 0.0,
                "{name}: {metric} has not risen"
            );
        }
    }

    /// The upstream has seen the requests that it answered, by the records, and each as it was or should have become.
    fn assert_sent(&self, file: &Hostile, records: &[Record]) {
        let upstream = match cluster(file) {
            "bodies" => &self.bodies,
            "large" => &self.large,
            _ => &self.app,
        };
        let requests = upstream.requests();
        let seen: Vec<_> = requests
            .iter()
            .filter(|request| request.target() == file.path())
            .collect();
        let answered = records.iter().filter(|record| record.is_upstreams).count();
        assert_eq!(seen.len(), answered, "{}: {seen:#?}", file.name);
        let without = [&ADDED[..], &["content-length", "transfer-encoding"]].concat();
        let bytes: String = BYTES.iter().map(|byte| char::from(*byte)).collect();
        let start = format!("{} {} HTTP/1.1", file.method(), file.path());
        let mut expected = format!("{start}\nhost: a.example\nx-bytes: {bytes}");
        if let Some(length) = file.body {
            expected += &format!("\n\n{}", file.seen.clone().unwrap_or("a".repeat(length)));
        }
        for request in seen {
            assert_eq!(request.canonical(&without), expected, "{}", file.name);
        }
    }

    fn finish(self) {
        let served = self.bystander.finish();
        let mut records = self.records.borrow_mut();
        wait_until("a record of each of the bystander's requests", || {
            records.read_on();
            records.calm >= served
        });
        assert_eq!(records.calm, served, "records of the bystander");
        wait_until("no guest at work", || {
            let metrics = self.proxy.metrics();
            let now = |metric: &str| metrics.sum(metric, &[]);
            let at_work = now("tamis_filter_instances") - now("tamis_filter_instances_idle");
            at_work + now("tamis_filter_waiting") + now("tamis_filter_outbound_calls") == 0.0
        });
        let dropped = self.proxy.metrics().sum("tamis_access_log_dropped_total", &[]);
        assert_eq!(dropped, 0.0, "records were dropped");
        let sent: usize = self.app.requests().iter().map(wire_bytes).sum();
        assert_eq!(self.app.received_all().len(), sent, "bytes that belong to no request");
        for line in self.proxy.log().lines() {
            assert!(!line.json.is_null(), "no JSON: {}", line.text);
            assert!(!line.text.contains(char::is_control), "{:?}", line.text);
            assert_ne!(line.message(), "forged");
        }
    }
}

/// Bytes of a long answer: more than all buffers on its way take.
const LARGE: usize = 4 << 20;

const LOG: &str = "access.log";

/// The filter's entry in the configuration. A breaker would keep the guest from failing as often as it is asked to.
fn filter(file: &Hostile) -> String {
    let name = &file.name;
    let wasi = if file.wasi { ", wasi" } else { "" };
    let breaker = if file.settings.contains("breaker") {
        ""
    } else {
        ", breaker: off"
    };
    let settings = if file.settings.is_empty() {
        String::new()
    } else {
        format!(", {}", file.settings)
    };
    format!(
        "  {name}: {{ component: {name}.wasm, grants: [metrics, clock, random, key_value, \
         {{ outbound: [side, endless, hole, own] }}{wasi}]{breaker}{settings} }}\n"
    )
}

fn route(file: &Hostile) -> String {
    let cluster = cluster(file);
    let chain = vec![file.name.as_str(); file.chain].join(", ");
    format!(
        "  - {{ name: {}, match: {{ path: {{ exact: {} }} }}, filters: [{chain}], cluster: {cluster} }}\n",
        file.name,
        file.path()
    )
}

fn cluster(file: &Hostile) -> &'static str {
    let is_cut = file.answers().iter().any(|answer| answer.status.is_none());
    match file.body {
        Some(_) => "bodies",
        None if is_cut => "large",
        None => "app",
    }
}

fn request(file: &Hostile) -> Vec<u8> {
    let mut bytes = format!(
        "{} {} HTTP/1.1\r\nHost: a.example\r\nX-Bytes: ",
        file.method(),
        file.path()
    )
    .into_bytes();
    bytes.extend(BYTES);
    if let Some(length) = file.body {
        bytes.extend(format!("\r\nContent-Length: {length}\r\n\r\n").bytes());
        bytes.resize(bytes.len() + length, b'a');
    } else {
        bytes.extend(b"\r\n\r\n");
    }
    bytes
}

/// The next answer, whose body must be the right one; none when it is cut.
fn assert_answer(file: &Hostile, client: &mut Client) -> Option<Message> {
    let response = match client.try_response() {
        Ok(response) => response,
        Err(broken) => {
            assert!(broken.bytes.starts_with(b"HTTP/1.1 200 "), "{}: {broken:?}", file.name);
            return None;
        }
    };
    match (&file.got, response.status()) {
        (Some(body), 200..=499) => assert_eq!(response.text(), *body, "{}", file.name),
        (None, 200) => assert_eq!(response.text(), "ok", "{}", file.name),
        (_, status) => assert_own_reply(&response, status, &file.name),
    }
    Some(response)
}

/// The records tell of each request what its client saw, with one of the expected reasons; and each of these occurs.
fn assert_recorded(file: &Hostile, mut statuses: Vec<Option<u16>>, records: &[Record]) {
    let mut recorded: Vec<_> = records.iter().map(|record| record.answer.status).collect();
    statuses.sort();
    recorded.sort();
    assert_eq!(recorded, statuses, "{}: records beside what the clients saw", file.name);
    let mut found: Vec<_> = records.iter().map(|record| record.answer.clone()).collect();
    found.sort();
    found.dedup();
    let mut expected = file.answers().to_vec();
    expected.sort();
    assert_eq!(found, expected, "{}", file.name);
}

/// What a request took on the wire; it had no body.
fn wire_bytes(request: &Message) -> usize {
    let text = |text: &str| text.chars().count();
    let field = |field: &tamis_integration::message::Field| text(&field.name) + text(": \r\n") + text(&field.value);
    text(&request.start) + text("\r\n\r\n") + request.fields.iter().map(field).sum::<usize>()
}

fn quiet(bystander: &Bystander) -> Duration {
    wait_until("answers for a bystander", || bystander.served() >= ENOUGH);
    bystander.p99(0)
}

/// What a bystander's wait is measured against.
struct Watch<'a> {
    proxy: &'a Proxy,
    bystander: &'a Bystander,
    /// The bystander's wait before any guest has run.
    quiet: Duration,
    from: usize,
    run_and_wait: (Duration, Duration),
}

impl<'a> Watch<'a> {
    fn start(proxy: &'a Proxy, bystander: &'a Bystander, quiet: Duration) -> Self {
        Self {
            proxy,
            bystander,
            quiet,
            from: bystander.served(),
            run_and_wait: proxy.run_and_wait(),
        }
    }

    /// Panics when the bystander has waited for longer than so many guests at once explain.
    fn end(self, guests: usize) {
        let Self { bystander, from, .. } = self;
        wait_until("answers for a bystander", || bystander.served() >= from + ENOUGH);
        let guests = u32::try_from(guests).expect("a handful");
        let (p99, most) = (bystander.p99(from), WAIT_FLOOR.max(2 * self.quiet) + guests * TURNS);
        let most = most.mul_f64(self.stretch());
        assert!(
            p99 <= most,
            "a bystander waits: p99 {p99:?}, more than {most:?}; {:?} in quiet times",
            self.quiet
        );
    }

    /// How many times longer everything takes because the machine has other things to do than this proxy.
    fn stretch(&self) -> f64 {
        let ((ran, waited), since) = (self.proxy.run_and_wait(), self.run_and_wait);
        let (ran, waited) = (ran.saturating_sub(since.0), waited.saturating_sub(since.1));
        1.0 + waited.div_duration_f64(ran.max(Duration::from_millis(1)))
    }
}

/// What the process has taken of the machine.
#[derive(Debug)]
struct Levels {
    resident: u64,
    descriptors: usize,
    threads: u64,
    mappings: usize,
}

impl Levels {
    fn of(proxy: &Proxy) -> Self {
        Self {
            resident: proxy.resident(),
            descriptors: proxy.descriptors(),
            threads: proxy.threads(),
            mappings: proxy.mappings(),
        }
    }

    /// Waits until the process is back at these; `at_once` exchanges may have left a connection each in a pool, of which
    /// both ends are here when it is to the proxy itself.
    fn wait_returned(&self, proxy: &Proxy, at_once: usize, kept: u64) {
        let is_back = |now: &Self| {
            now.resident <= self.resident + kept
                && now.descriptors <= self.descriptors + 2 * at_once
                && now.threads <= self.threads
                && now.mappings <= self.mappings + MAPPINGS * at_once
        };
        wait_for(&format!("back at {self:?}"), GIVEN_BACK, || {
            let now = Self::of(proxy);
            is_back(&now).then_some(()).ok_or(now)
        });
    }
}

/// One line of the access log.
#[derive(Clone, Debug)]
struct Record {
    path: String,
    answer: Answer,
    /// Whether an upstream has answered.
    is_upstreams: bool,
}

impl Record {
    fn parse(line: &str) -> Self {
        let json: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let reason = json["reason"].as_str().map(str::to_owned);
        let status = json["status"].as_u64().and_then(|status| u16::try_from(status).ok());
        Self {
            path: json["path"].as_str().expect("a record has a path").to_owned(),
            answer: Answer {
                status: status.filter(|status| *status != 200 || reason.is_none()),
                reason,
            },
            is_upstreams: !json["upstream_ms"].is_null(),
        }
    }
}

/// The access log as it grows.
struct Records {
    file: BufReader<File>,
    /// Those of all but the bystander.
    read: Vec<Record>,
    /// How many are the bystander's.
    calm: usize,
}

impl Records {
    fn follow(folder: &Folder) -> Self {
        let file = File::open(folder.path(LOG)).expect("the access log is there");
        Self {
            file: BufReader::new(file),
            read: Vec::new(),
            calm: 0,
        }
    }

    /// The records of this path, once there are so many; panics when there are more.
    fn wait(&mut self, path: &str, count: usize) -> Vec<Record> {
        let mut found = Vec::new();
        wait_until(&format!("{count} records of {path}"), || {
            self.read_on();
            found = self.read.iter().filter(|record| record.path == path).cloned().collect();
            found.len() >= count
        });
        assert_eq!(found.len(), count, "{path}: {found:?}");
        found
    }

    fn read_on(&mut self) {
        let mut line = String::new();
        while self.file.read_line(&mut line).is_ok_and(|length| length > 0) {
            // Half of a line is read again.
            if !line.ends_with('\n') {
                let half = i64::try_from(line.len()).expect("a line is short");
                self.file
                    .seek(SeekFrom::Current(-half))
                    .expect("a file can be sought in");
                return;
            }
            if line.contains("\"path\":\"/calm\"") {
                self.calm += 1;
            } else {
                self.read.push(Record::parse(&line));
            }
            line.clear();
        }
    }
}
