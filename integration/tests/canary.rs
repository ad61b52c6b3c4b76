//! Two versions of one filter at once: who meets which, and what comes of a candidate that is good, broken, slow, or of
//! another mind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tamis_integration::proxy::check;
use tamis_integration::upstream::ok;
use tamis_integration::wat::Act::{self, *};
use tamis_integration::wat::Guest;
use tamis_integration::{Client, Folder, Gate, Proxy, Upstream};

use crate::support::{Configuration, each, filter_state, wait_until};

/// From the evidence to the end of a bad candidate.
const PROMISE: Duration = Duration::from_secs(1);

/// No verdict for want of exchanges, so that both versions stay.
const UNDECIDED: &str = "share: 50%, min_calls: 1000000";

/// A verdict as soon as there can be one.
const QUICK: &str = "share: 50%, window: 300ms, min_calls: 20";

/// Says in each response which version it is.
fn version(number: &str) -> Guest {
    let sign = SetResponseHeader("x-version", number.into());
    Guest::new().on_request([]).on_response([sign])
}

/// Also a version 2, but for what it does to requests.
fn broken(acts: impl Into<Vec<Act>>) -> Guest {
    version("2").on_request(acts)
}

fn folder(v2: &Guest) -> Folder {
    let folder = Folder::new();
    folder.write("v1.wasm", version("1").build());
    folder.write("v2.wasm", v2.build());
    folder
}

/// The filter `f` before everything, with this candidate.
fn yaml(upstream: &Upstream, filter: &str) -> String {
    let top = format!(
        "access_log: {{ file: access.log }}\nfilters:\n  f: {{ limits: {{ cpu: 1s, exchange_cpu: 1s, wall: 5s }}, {filter} }}"
    );
    Configuration {
        top: &top,
        route: "filters: [f]",
        ..Default::default()
    }
    .to(upstream)
}

fn on_trial(upstream: &Upstream, settings: &str) -> String {
    let filter = format!("component: v1.wasm, candidate: {{ component: v2.wasm, {settings} }}");
    yaml(upstream, &filter)
}

fn candidate(proxy: &Proxy) -> Value {
    filter_state(proxy, "f")["candidate"].clone()
}

fn seen(client: &mut Client) -> Option<String> {
    client.get("/").value("x-version").map(str::to_owned)
}

/// Asks until the candidate is in that state.
fn ask_until(proxy: &Proxy, state: &str) {
    let mut client = proxy.client();
    wait_until(state, || {
        (0..20).for_each(|_| drop(client.get("/")));
        candidate(proxy)["state"] == state
    });
}

fn assert_all_meet(proxy: &Proxy, version: &str) {
    let mut client = proxy.client();
    for _ in 0..50 {
        let response = client.get("/");
        assert_eq!((response.status(), response.value("x-version")), (200, Some(version)));
    }
}

struct Answer {
    at: Instant,
    status: u16,
    version: Option<String>,
}

/// What three clients get that ask all the time until the log says `message`, and when it did.
fn crowd(proxy: &Proxy, message: &str) -> (Vec<Answer>, Instant) {
    let stop = AtomicBool::new(false);
    let ask = || {
        let (mut client, mut answers) = (proxy.client(), Vec::new());
        while !stop.load(Ordering::Relaxed) {
            let response = client.get("/");
            answers.push(Answer {
                at: Instant::now(),
                status: response.status(),
                version: response.value("x-version").map(str::to_owned),
            });
            if response.closes() {
                // It has had its requests.
                client = proxy.client();
            }
        }
        answers
    };
    std::thread::scope(|scope| {
        let clients = [0, 1, 2].map(|_| scope.spawn(ask));
        let line = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| proxy.log().wait_message(message)));
        let at = Instant::now();
        stop.store(true, Ordering::Relaxed);
        let answers = clients.into_iter().flat_map(|client| client.join().expect("a client"));
        let mut answers: Vec<_> = answers.collect();
        answers.sort_by_key(|answer| answer.at);
        line.expect("a verdict");
        (answers, at)
    })
}

#[test]
fn a_good_candidate_is_promoted_and_stays() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start_in(&folder(&version("2")), &on_trial(&upstream, QUICK));
    let state = candidate(&proxy);
    assert_eq!((&state["state"], &state["share"]), (&"trying".into(), &0.5.into()));
    let (answers, _) = crowd(
        &proxy,
        "candidate promoted: it takes all exchanges; make it the filter's own",
    );
    assert!(answers.iter().all(|answer| answer.status == 200), "nobody noticed");
    assert!(answers.iter().any(|answer| answer.version.as_deref() == Some("1")));
    assert_all_meet(&proxy, "2");
    let state = candidate(&proxy);
    assert_eq!((&state["state"], &state["share"]), (&"promoted".into(), &1.0.into()));
    let metrics = proxy.metrics();
    let filter = ("filter", "f");
    assert_eq!(metrics.sum("tamis_filter_candidate_share", &[filter]), 1.0);
    let verdicts = "tamis_filter_candidate_verdicts_total";
    assert_eq!(metrics.sum(verdicts, &[filter, ("verdict", "promoted")]), 1.0);
    assert_eq!(metrics.sum(verdicts, &[filter]), 1.0);

    // A reload for another reason changes nothing.
    let (status, answer) = proxy.reload(&on_trial(&upstream, QUICK).replace("name: all", "name: every"));
    assert_eq!((status, &answer["generation"]), (200, &2.into()), "{answer}");
    assert_all_meet(&proxy, "2");
    // Named in both places, it is the filter itself; then the trial is taken out.
    let both = on_trial(&upstream, QUICK).replace("v1.wasm", "v2.wasm");
    assert_eq!(proxy.reload(&both).0, 200);
    assert_eq!(candidate(&proxy)["state"], "identical");
    assert_all_meet(&proxy, "2");
    assert_eq!(proxy.reload(&yaml(&upstream, "component: v2.wasm")).0, 200);
    assert_eq!(candidate(&proxy), Value::Null);
    assert_all_meet(&proxy, "2");
}

#[test]
fn a_good_candidate_is_held_if_so_configured() {
    let upstream = Upstream::saying("ok");
    let settings = format!("{QUICK}, when_good: hold");
    let proxy = Proxy::start_in(&folder(&version("2")), &on_trial(&upstream, &settings));
    ask_until(&proxy, "held");
    let mut client = proxy.client();
    let versions: Vec<_> = (0..100).filter_map(|_| seen(&mut client)).collect();
    for version in ["1", "2"] {
        assert!(versions.iter().any(|seen| seen == version), "{version}: {versions:?}");
    }
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("tamis_filter_candidate_share", &[("filter", "f")]), 0.5);
    let verdict = [("filter", "f"), ("verdict", "held")];
    assert_eq!(metrics.sum("tamis_filter_candidate_verdicts_total", &verdict), 1.0);
}

/// Fault 69.
#[test]
fn bad_candidates_are_rolled_back_within_a_second() {
    let (twenty, five) = (20, 5);
    let cases = [
        ("trap", broken([Trap]), five, 500..=503, "failed"),
        (
            "slow",
            broken([Compute(60_000_000)]),
            twenty,
            200..=200,
            "p99 of request_head",
        ),
        (
            "replies",
            broken([Reply(403, vec![], "no")]),
            twenty,
            403..=403,
            "answered",
        ),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, guest, enough, statuses, reason)| {
            let upstream = Upstream::saying("ok");
            let settings = "share: 40%, min_calls: 20";
            let proxy = Proxy::start_in(&folder(guest), &on_trial(&upstream, settings));
            let (answers, at) = crowd(&proxy, "candidate rolled back");
            let (good, bad): (Vec<_>, Vec<_>) = answers
                .iter()
                .partition(|answer| answer.version.as_deref() == Some("1"));
            assert!(
                good.iter().all(|answer| answer.status == 200),
                "{name}: the others suffer"
            );
            assert!(bad.iter().all(|answer| statuses.contains(&answer.status)), "{name}");
            // By then the last exchange has ended that it takes to know.
            let known = |answers: &[&Answer], count: usize| answers.get(count - 1).map_or(at, |answer| answer.at);
            let evidence = match name {
                &"trap" => known(&bad, *enough),
                _ => known(&bad, *enough).max(known(&good, *enough)),
            };
            let took = at.saturating_duration_since(evidence);
            eprintln!(
                "{name}: {} of {} exchanges bad, rolled back after {took:?}",
                bad.len(),
                answers.len()
            );
            assert!(took < PROMISE, "{name}: {took:?}");

            let calls = |version| {
                let labels = [("filter", "f"), ("version", version), ("hook", "request_head")];
                proxy.metrics().sum("tamis_filter_calls_total", &labels)
            };
            let before = ["stable", "candidate"].map(calls);
            assert_all_meet(&proxy, "1");
            let after = ["stable", "candidate"].map(calls);
            assert_eq!(after, [before[0] + 50.0, before[1]], "{name}");
            let state = candidate(&proxy);
            let expected = (&"rolled_back".into(), &0.0.into());
            assert_eq!((&state["state"], &state["share"]), expected, "{name}");
            let says = |part| state["reason"].as_str().is_some_and(|said| said.contains(part));
            assert!(says(*reason), "{state}");
            assert!(
                state["exchanges"]["candidate"].as_u64() >= Some(*enough as u64),
                "{state}"
            );
            let verdict = [("filter", "f"), ("verdict", "rolled_back")];
            let verdicts = proxy.metrics().sum("tamis_filter_candidate_verdicts_total", &verdict);
            assert_eq!(verdicts, 1.0);
        },
    );
}

#[test]
fn both_versions_are_measured_side_by_side() {
    let upstream = Upstream::saying("ok");
    let settings = format!("{UNDECIDED}, tolerate: {{ failures: off }}");
    let proxy = Proxy::start_in(&folder(&broken([From(1), Trap])), &on_trial(&upstream, &settings));
    let mut client = proxy.client();
    let answers: Vec<_> = (0..100).map(|_| client.get("/")).collect();
    let of_stable = answers
        .iter()
        .filter(|answer| answer.value("x-version") == Some("1"))
        .count() as f64;
    let metrics = proxy.metrics();
    let sum = |name: &str, version| metrics.sum(name, &[("filter", "f"), ("version", version)]);
    let calls = |version| {
        let labels = [("filter", "f"), ("version", version), ("hook", "request_head")];
        metrics.sum("tamis_filter_calls_total", &labels)
    };
    let of_candidate = 100.0 - of_stable;
    assert_eq!((calls("stable"), calls("candidate")), (of_stable, of_candidate));
    assert_eq!(sum("tamis_filter_failures_total", "stable"), 0.0);
    assert!(sum("tamis_filter_failures_total", "candidate") > 0.0);
    assert!(sum("tamis_filter_instances", "stable") > 0.0);
    wait_until("both are shown", || {
        let shown = &candidate(&proxy)["exchanges"];
        shown["stable"] == of_stable as u64 && shown["candidate"] == of_candidate as u64
    });
    // The log says whose work an exchange was.
    let lines = proxy.folder().wait_lines("access.log", 100);
    let signed = lines
        .iter()
        .filter(|line| line.contains("\"attributes\":{\"candidate\":\"f\"}"));
    assert_eq!(signed.count() as f64, of_candidate, "{lines:#?}");
}

/// A user keeps to one version on every connection, and not all users to the same.
#[test]
fn a_key_keeps_its_version() {
    let cases = [
        ("header", "{ header: x-user }", "X-User: USER"),
        ("cookie", "{ cookie: sid }", "Cookie: a=b; sid=USER"),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, key, field)| {
            let upstream = Upstream::saying("ok");
            let settings = format!("{UNDECIDED}, key: {key}");
            let proxy = Proxy::start_in(&folder(&version("2")), &on_trial(&upstream, &settings));
            let meets = |user: usize| {
                let field = field.replace("USER", &user.to_string());
                let request = format!("GET / HTTP/1.1\r\nHost: a.example\r\n{field}\r\n\r\n");
                let response = proxy.client().exchange(request);
                response.value("x-version").expect("a version").to_owned()
            };
            let first: Vec<_> = (0..30).map(meets).collect();
            for _ in 0..3 {
                assert_eq!((0..30).map(meets).collect::<Vec<_>>(), first, "{name}");
            }
            assert!(
                first.contains(&"1".to_owned()) && first.contains(&"2".to_owned()),
                "{name}: {first:?}"
            );
        },
    );
}

#[test]
fn a_client_keeps_its_version() {
    let upstream = Upstream::saying("ok");
    let settings = format!("{UNDECIDED}, key: client_address");
    let proxy = Proxy::start_in(&folder(&version("2")), &on_trial(&upstream, &settings));
    let first = seen(&mut proxy.client());
    assert!((0..30).all(|_| seen(&mut proxy.client()) == first));
}

#[test]
fn a_candidate_that_was_rolled_back_is_not_tried_again_until_it_changes() {
    let upstream = Upstream::saying("ok");
    let folder = folder(&broken([Trap]));
    let proxy = Proxy::start_in(&folder, &on_trial(&upstream, QUICK));
    ask_until(&proxy, "rolled_back");

    // Neither for another reason, nor for other rules, nor with another version in use.
    let renamed = on_trial(&upstream, QUICK).replace("name: all", "name: every");
    let ruled = renamed.replace("share: 50%", "share: 90%");
    folder.write("v0.wasm", version("1").on_completion([]).build());
    for (changed, generation) in [(&renamed, 2), (&ruled, 3), (&ruled.replace("v1.wasm", "v0.wasm"), 4)] {
        let (status, answer) = proxy.reload(changed);
        assert_eq!((status, &answer["generation"]), (200, &generation.into()), "{answer}");
        proxy.log().wait_message("candidate is unchanged, and not tried again");
        assert_all_meet(&proxy, "1");
        assert_eq!(candidate(&proxy)["state"], "rolled_back");
    }
    // Another component is another candidate.
    folder.replace("v2.wasm", version("2").build());
    proxy.wait_generation(5);
    assert_eq!(candidate(&proxy)["state"], "trying");
    ask_until(&proxy, "promoted");
    assert_all_meet(&proxy, "2");
    // The bad one is still known to be bad.
    folder.replace("v2.wasm", broken([Trap]).build());
    proxy.wait_generation(6);
    assert_eq!(candidate(&proxy)["state"], "rolled_back");
    // Who wants to know takes it out and puts it back.
    assert_eq!(proxy.reload(&yaml(&upstream, "component: v1.wasm")).0, 200);
    assert_eq!(proxy.reload(&on_trial(&upstream, QUICK)).0, 200);
    assert_eq!(candidate(&proxy)["state"], "trying");
    ask_until(&proxy, "rolled_back");
    let verdict = [("filter", "f"), ("verdict", "rolled_back")];
    let verdicts = proxy.metrics().sum("tamis_filter_candidate_verdicts_total", &verdict);
    assert_eq!(verdicts, 1.0, "a filter without a candidate has no memory");
}

/// New settings are tried like a new component, in every chain that has none of its own.
#[test]
fn settings_alone_can_be_a_candidate() {
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    let guest = version("1").on_configure([]);
    folder.write("v1.wasm", guest.build());
    let filter = format!("component: v1.wasm, config: 1, candidate: {{ config: 2, {QUICK} }}");
    let proxy = Proxy::start_in(&folder, &yaml(&upstream, &filter));
    ask_until(&proxy, "promoted");
    assert_all_meet(&proxy, "1");
    let calls = [("filter", "f"), ("version", "candidate")];
    assert!(proxy.metrics().sum("tamis_filter_calls_total", &calls) >= 50.0);
}

/// What has begun with a candidate ends with it, also when it is no more.
#[test]
fn an_exchange_in_flight_ends_with_the_version_it_began_with() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::answering(move |request| {
        if request.target() == "/slow" {
            held.pass();
        }
        ok("ok")
    });
    let settings = format!("{QUICK}, window: 1h, key: {{ header: x-user }}").replace("window: 300ms, ", "");
    // Good to those who have no body.
    let guest = version("2").on_request_body([Trap]);
    let proxy = Proxy::start_in(&folder(&guest), &on_trial(&upstream, &settings));
    let get = |target: &str, user: usize| {
        let mut client = proxy.client();
        client.send(format!(
            "GET {target} HTTP/1.1\r\nHost: a.example\r\nX-User: {user}\r\n\r\n"
        ));
        client
    };
    let meets_candidate = |user: &usize| get("/", *user).response().value("x-version") == Some("2");
    let user = (0..).find(meets_candidate).expect("half of all users");
    let mut slow = get("/slow", user);
    gate.wait_arrived(1);
    wait_until("the candidate is rolled back", || {
        for _ in 0..10 {
            let post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx";
            proxy.client().exchange(post);
        }
        candidate(&proxy)["state"] == "rolled_back"
    });
    gate.open();
    assert_eq!(slow.response().value("x-version"), Some("2"));
    assert_eq!(get("/", user).response().value("x-version"), Some("1"));
}

#[test]
fn a_candidate_is_refused_like_any_filter() {
    let upstream = Upstream::saying("ok");
    let needy = folder(&version("2").on_request([Clock]));
    let yaml = on_trial(&upstream, UNDECIDED);
    let (code, printed) = check(&needy, &yaml);
    assert_eq!(code, 1, "{printed}");
    for part in [
        "filter `f`: candidate: component ",
        "v2.wasm",
        "add `clock` to its `grants`",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let missing = Folder::new();
    missing.write("v1.wasm", version("1").build());
    let (code, printed) = check(&missing, &yaml);
    assert!(code == 1 && printed.contains("v2.wasm"), "{printed}");
    // In a running proxy, the whole generation is.
    let good = folder(&version("2"));
    let proxy = Proxy::start_in(&good, &yaml);
    good.replace("v2.wasm", version("2").on_request([Clock]).build());
    let (status, answer) = proxy.reload(&yaml);
    assert!(
        status == 422 && answer["errors"].to_string().contains("clock"),
        "{answer}"
    );
    assert_eq!(candidate(&proxy)["state"], "trying");
}
