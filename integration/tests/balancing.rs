//! Which endpoint takes a request, as clients and origins see it: health, fail-over, sticky cookies, consistent hashes,
//! limits, and what of all that survives a reload.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tamis_integration::nginx::Nginx;
use tamis_integration::socket::Address;
use tamis_integration::upstream::{BlackHole, Refusing, Step, ok};
use tamis_integration::{Client, Gate, Message, Proxy, Upstream};

use crate::support::{Bystander, Configuration, apply, assert_own_reply, wait_until};

/// Asks often, so that tests are short, and gives a busy machine time to answer.
const CHECK: &str = "health_check: { http: { path: /healthz }, interval: 200ms, timeout: 200ms, \
                     healthy_threshold: 1, unhealthy_threshold: 2 }";

/// An origin that says its name, and at `/healthz` whether it is well.
struct Server {
    upstream: Upstream,
    is_well: Arc<AtomicBool>,
}

impl Server {
    fn named(name: &'static str) -> Self {
        let is_well = Arc::new(AtomicBool::new(true));
        let well = is_well.clone();
        let upstream = Upstream::answering(move |request| match request.target() {
            "/healthz" if !well.load(Ordering::SeqCst) => status(503),
            "/healthz" => ok("well"),
            _ => ok(name),
        });
        Self { upstream, is_well }
    }

    fn set_well(&self, is_well: bool) {
        self.is_well.store(is_well, Ordering::SeqCst);
    }

    fn address(&self) -> &Address {
        self.upstream.address()
    }
}

fn status(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

/// One worker, the cluster `app` with these endpoints (YAML) and settings, and a route that needs no cluster.
fn configuration(endpoints: &[String], cluster: &str) -> String {
    let endpoints = endpoints.join(", ");
    format!(
        "\
workers: 1
admin: {{ address: 127.0.0.1:0 }}
listeners:
  web:
    address: 127.0.0.1:0
clusters:
  app: {{ endpoints: [{endpoints}], {cluster} }}
routes:
  - {{ match: {{ path: {{ exact: /bystander }} }}, respond: {{ status: 200 }} }}
  - {{ cluster: app }}
"
    )
}

fn plain(address: &Address) -> String {
    format!("\"{address}\"")
}

fn with(address: &Address, more: &str) -> String {
    format!("{{ address: \"{address}\", {more} }}")
}

/// `GET /clusters`, the endpoints of `app` by their address.
fn endpoints(proxy: &Proxy) -> BTreeMap<String, Value> {
    let reply = proxy.admin("GET", "/clusters");
    let clusters: Vec<Value> = serde_json::from_slice(&reply.body).expect("a list");
    let app = clusters.into_iter().find(|cluster| cluster["name"] == "app");
    let endpoints = app.expect("app")["endpoints"].as_array().expect("a list").clone();
    let named = endpoints
        .into_iter()
        .map(|it| (it["address"].as_str().expect("text").to_owned(), it));
    named.collect()
}

fn health(proxy: &Proxy, address: &Address) -> String {
    let endpoints = endpoints(proxy);
    endpoints[&address.to_string()]["health"]
        .as_str()
        .expect("text")
        .to_owned()
}

fn wait_health(proxy: &Proxy, address: &Address, expected: &str) {
    wait_until(&format!("{address} is {expected}"), || {
        health(proxy, address) == expected
    });
}

/// Who answered so many requests.
fn answers(proxy: &Proxy, count: usize) -> BTreeMap<String, usize> {
    let mut client = proxy.client();
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        let response = client.get("/");
        *answers
            .entry(format!("{} {}", response.status(), response.text()))
            .or_default() += 1;
    }
    answers
}

fn only(name: &str, count: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([(format!("200 {name}"), count)])
}

/// Fault 111.
#[test]
fn all_down_means_all_are_tried_or_none_as_configured() {
    for (threshold, status, reason) in [("50%", 502, "connect_failed"), ("0%", 503, "no_endpoint")] {
        let (first, second) = (Refusing::new(), Refusing::new());
        let check = "health_check: { tcp: true, interval: 50ms, timeout: 50ms }";
        let yaml = configuration(
            &[plain(first.address()), plain(second.address())],
            &format!("panic_threshold: {threshold}, {check}"),
        );
        let log = "access_log: { file: access.log }\n";
        let proxy = Proxy::start(&(log.to_owned() + &yaml));
        let bystander = Bystander::start(&proxy.address("web"), "/bystander");
        for refusing in [&first, &second] {
            wait_health(&proxy, refusing.address(), "unhealthy");
        }
        assert_own_reply(&proxy.get("/"), status, threshold);
        wait_until("the record is written", || {
            proxy
                .folder()
                .read("access.log")
                .lines()
                .any(|line| line.contains(&format!("\"{reason}\"")))
        });
        assert_eq!(
            proxy
                .metrics()
                .sum("tamis_upstream_endpoint_usable", &[("cluster", "app")]),
            0.0
        );
        bystander.finish();
    }
}

#[test]
fn the_spare_takes_over_and_gives_back() {
    let (main, spare) = (Server::named("main"), Server::named("spare"));
    let yaml = configuration(&[plain(main.address()), with(spare.address(), "priority: 1")], CHECK);
    let proxy = Proxy::start(&yaml);
    wait_health(&proxy, main.address(), "healthy");
    let address = main.address().to_string();
    let labels = [("cluster", "app"), ("endpoint", &*address)];
    let changes = || proxy.metrics().sum("tamis_upstream_health_changes_total", &labels);
    let before = changes();
    assert_eq!(answers(&proxy, 20), only("main", 20));
    for _ in 0..2 {
        main.set_well(false);
        wait_health(&proxy, main.address(), "unhealthy");
        assert_eq!(answers(&proxy, 20), only("spare", 20));
        main.set_well(true);
        wait_health(&proxy, main.address(), "healthy");
        assert_eq!(answers(&proxy, 20), only("main", 20));
    }
    assert_eq!(changes() - before, 4.0);
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("tamis_upstream_endpoint_usable", &labels), 1.0);
    let bad = [labels[0], labels[1], ("outcome", "bad")];
    assert!(metrics.sum("tamis_upstream_checks_total", &bad) >= 4.0);
}

#[test]
fn an_nginx_that_goes_is_left_for_the_spare() {
    let (nginx, spare) = (Nginx::start(), Server::named("spare"));
    let check = "health_check: { http: { path: /small }, interval: 500ms, timeout: 500ms, unhealthy_threshold: 1 }";
    let yaml = configuration(&[plain(nginx.address()), with(spare.address(), "priority: 1")], check);
    let proxy = Proxy::start(&yaml);
    wait_health(&proxy, nginx.address(), "healthy");
    assert_eq!(proxy.get("/small").text(), "ok");
    let address = nginx.address().clone();
    drop(nginx);
    wait_health(&proxy, &address, "unhealthy");
    assert_eq!(proxy.get("/small").text(), "spare");
}

/// Fault 111.
#[test]
fn an_endpoint_that_flaps_within_its_thresholds_is_left_in_peace() {
    let turn = AtomicUsize::new(0);
    let flapping = Upstream::answering(move |request| match request.target() {
        "/healthz" if turn.fetch_add(1, Ordering::SeqCst) % 2 == 1 => status(500),
        _ => ok("flapping"),
    });
    let check = "health_check: { http: { path: /healthz }, interval: 300ms, timeout: 300ms, unhealthy_threshold: 2 }";
    let proxy = Proxy::start(&configuration(&[plain(flapping.address())], check));
    let checks = |outcome| {
        proxy
            .metrics()
            .sum("tamis_upstream_checks_total", &[("outcome", outcome)])
    };
    wait_until("many checks", || checks("good") >= 6.0 && checks("bad") >= 6.0);
    assert_eq!(proxy.metrics().sum("tamis_upstream_health_changes_total", &[]), 1.0);
    assert_eq!(answers(&proxy, 5), only("flapping", 5));
}

/// Fault 111.
#[test]
fn a_check_that_hangs_keeps_no_other_waiting() {
    let hung = Upstream::each([vec![Step::Hold]]);
    let black_hole = BlackHole::new();
    let good = Server::named("good");
    let check = "health_check: { http: { path: /healthz }, interval: 1s, timeout: 1s, jitter: 0% }";
    let yaml = configuration(
        &[
            plain(hung.address()),
            plain(black_hole.address()),
            plain(good.address()),
        ],
        check,
    );
    let since = Instant::now();
    let proxy = Proxy::start(&yaml);
    let bystander = Bystander::start(&proxy.address("web"), "/bystander");
    // Known while the other checks still hang.
    wait_health(&proxy, good.address(), "healthy");
    assert!(since.elapsed() < Duration::from_secs(10) && health(&proxy, hung.address()) != "healthy");
    wait_health(&proxy, hung.address(), "unhealthy");
    wait_health(&proxy, black_hole.address(), "unhealthy");
    bystander.finish();
}

#[test]
fn an_outlier_is_left_alone_for_a_while() {
    let is_bad = Arc::new(AtomicBool::new(true));
    let bad = is_bad.clone();
    let outlier = Upstream::answering(move |_| match bad.load(Ordering::SeqCst) {
        true => status(503),
        false => ok("mended"),
    });
    let good = Server::named("good");
    let ejection = "outlier_ejection: { consecutive_failures: 3, ejection_time: 5s }";
    let yaml = configuration(&[plain(outlier.address()), plain(good.address())], ejection);
    let proxy = Proxy::start(&yaml);
    let is_ejected = || endpoints(&proxy)[&outlier.address().to_string()]["ejected"] == true;
    answers(&proxy, 6);
    wait_until("it is ejected", is_ejected);
    assert_eq!(answers(&proxy, 20), only("good", 20));
    let labels = [
        ("endpoint", &*outlier.address().to_string()),
        ("reason", "consecutive_failures"),
    ];
    assert_eq!(proxy.metrics().sum("tamis_upstream_ejections_total", &labels), 1.0);
    // What is known of it survives a reload that changes the cluster.
    apply(
        &proxy,
        &yaml.replace("ejection_time: 5s", "ejection_time: 5s, interval: 5s"),
    );
    assert!(is_ejected());
    is_bad.store(false, Ordering::SeqCst);
    wait_until("it is back", || !is_ejected());
    let answered = answers(&proxy, 20);
    assert_eq!(
        answered.keys().collect::<Vec<_>>(),
        ["200 good", "200 mended"],
        "{answered:?}"
    );
}

#[test]
fn no_more_are_ejected_than_may_be() {
    let bad = [(); 4].map(|()| Upstream::repeating(status(502)));
    let listed: Vec<String> = bad.iter().map(|upstream| plain(upstream.address())).collect();
    let ejection = "outlier_ejection: { consecutive_failures: 2, max_ejected: 50% }, panic_threshold: 0%";
    let proxy = Proxy::start(&configuration(&listed, ejection));
    let ejected = || {
        endpoints(&proxy)
            .values()
            .filter(|endpoint| endpoint["ejected"] == true)
            .count()
    };
    answers(&proxy, 8);
    wait_until("two are ejected", || ejected() == 2);
    let answered = answers(&proxy, 20);
    assert_eq!((answered.get("502 "), ejected()), (Some(&20), 2), "{answered:?}");
}

fn cookie_of(response: &Message) -> Option<String> {
    let field = response.value("set-cookie")?;
    Some(field.split(';').next().expect("a first part").to_owned())
}

fn get_with(client: &mut Client, cookie: &str) -> Message {
    client.exchange(format!(
        "GET / HTTP/1.1\r\nHost: a.example\r\nCookie: theme=dark; {cookie}\r\n\r\n"
    ))
}

#[test]
fn a_client_stays_with_its_endpoint_through_reloads_until_that_is_gone() {
    let servers = ["one", "two", "three"].map(Server::named);
    let [one, two, three] = &servers;
    let sticky = "sticky: { cookie: s, max_age: 1h }";
    let yaml = configuration(&[plain(one.address()), plain(two.address())], sticky);
    let proxy = Proxy::start(&yaml);
    let mut client = proxy.client();
    let first = client.get("/");
    let field = first.value("set-cookie").expect("a cookie").to_owned();
    assert!(
        field.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"),
        "{field}"
    );
    let (cookie, name) = (cookie_of(&first).expect("a cookie"), first.text());
    assert_eq!(name, "one");
    let stays = |client: &mut Client, context: &str| {
        for _ in 0..10 {
            let response = get_with(client, &cookie);
            assert_eq!(
                (response.text(), response.value("set-cookie")),
                (name.clone(), None),
                "{context}"
            );
        }
    };
    stays(&mut client, "at once");
    // The proxy's cookie stands beside the origin's own.
    assert!(
        one.upstream
            .requests()
            .iter()
            .any(|request| request.value("cookie").is_some())
    );
    let all = servers.each_ref().map(|server| plain(server.address()));
    apply(&proxy, &configuration(&all, &format!("{sticky}, connect_timeout: 1s")));
    stays(&mut client, "after a reload");
    let drained = [
        with(one.address(), "weight: 0"),
        plain(two.address()),
        plain(three.address()),
    ];
    apply(&proxy, &configuration(&drained, sticky));
    stays(&mut client, "while it is drained");
    let answered = answers(&proxy, 10);
    assert!(!answered.contains_key("200 one"), "{answered:?}");
    apply(&proxy, &configuration(&all[1..], sticky));
    let moved = get_with(&mut client, &cookie);
    let other = cookie_of(&moved).expect("another cookie");
    assert!(moved.text() != "one" && other != cookie, "{moved:?}");
    for _ in 0..5 {
        assert_eq!(get_with(&mut client, &other).text(), moved.text());
    }
    let forged = get_with(&mut client, "s=00000000000000000000000000000000");
    assert!(forged.status() == 200 && cookie_of(&forged).is_some(), "{forged:?}");
}

#[test]
fn a_sticky_client_of_an_unhealthy_endpoint_gets_another() {
    let (one, two) = (Server::named("one"), Server::named("two"));
    let yaml = configuration(
        &[plain(one.address()), plain(two.address())],
        &format!("sticky: {{}}, {CHECK}"),
    );
    let proxy = Proxy::start(&yaml);
    let first = proxy.get("/");
    let cookie = cookie_of(&first).expect("a cookie");
    assert_eq!(
        (first.text().as_str(), cookie.starts_with("tamis-endpoint=")),
        ("one", true)
    );
    one.set_well(false);
    wait_health(&proxy, one.address(), "unhealthy");
    let moved = get_with(&mut proxy.client(), &cookie);
    assert_eq!((moved.text().as_str(), cookie_of(&moved).is_some()), ("two", true));
}

/// Which server each key goes to.
fn owners(proxy: &Proxy, keys: usize) -> Vec<String> {
    let mut client = proxy.client();
    let get = |key| {
        client
            .exchange(format!("GET / HTTP/1.1\r\nHost: a.example\r\nX-Key: key-{key}\r\n\r\n"))
            .text()
    };
    (0..keys).map(get).collect()
}

#[test]
fn one_more_endpoint_takes_its_share_of_the_keys_from_the_others() {
    const KEYS: usize = 400;
    for policy in ["ring_hash", "maglev"] {
        let servers = ["a", "b", "c", "d", "e"].map(Server::named);
        let listed = servers.each_ref().map(|server| plain(server.address()));
        let hash = format!("load_balancing: {policy}, hash_key: {{ header: x-key }}");
        let proxy = Proxy::start(&configuration(&listed[..4], &hash));
        let before = owners(&proxy, KEYS);
        assert_eq!(before, owners(&proxy, KEYS), "{policy}");
        assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 4, "{policy}");
        apply(&proxy, &configuration(&listed, &hash));
        let after = owners(&proxy, KEYS);
        let moved: Vec<_> = before
            .iter()
            .zip(&after)
            .filter(|(before, after)| before != after)
            .collect();
        let needless = moved.iter().filter(|(_, after)| *after != "e").count();
        // A fifth, give or take what ports do to a ring.
        assert!(
            (KEYS / 10..KEYS / 3).contains(&moved.len()),
            "{policy}: {} of {KEYS} moved",
            moved.len()
        );
        assert!(needless <= KEYS / 20, "{policy}: {needless} moved for nothing");
    }
}

#[test]
fn a_client_without_the_key_is_served_all_the_same() {
    let servers = ["a", "b"].map(Server::named);
    let listed = servers.each_ref().map(|server| plain(server.address()));
    let hash = "load_balancing: ring_hash, hash_key: { cookie: user }";
    let proxy = Proxy::start(&configuration(&listed, hash));
    let answered = answers(&proxy, 60);
    assert_eq!(answered.keys().collect::<Vec<_>>(), ["200 a", "200 b"], "{answered:?}");
    let mut client = proxy.client();
    let of_user: BTreeSet<String> = (0..20).map(|_| get_with(&mut client, "user=7").text()).collect();
    assert_eq!(of_user.len(), 1);
}

#[test]
fn an_endpoint_that_is_back_is_given_more_and_more() {
    let (old, back) = (Server::named("old"), Server::named("back"));
    back.set_well(false);
    let yaml = configuration(
        &[plain(old.address()), plain(back.address())],
        &format!("slow_start: 4s, {CHECK}"),
    );
    let proxy = Proxy::start(&yaml);
    wait_health(&proxy, old.address(), "healthy");
    wait_health(&proxy, back.address(), "unhealthy");
    wait_until("the other has had its slow start", || {
        age(&proxy, old.address()) > Duration::from_secs(4)
    });
    back.set_well(true);
    wait_health(&proxy, back.address(), "healthy");
    let share = || answers(&proxy, 100).get("200 back").copied().unwrap_or(0);
    let mut shares = vec![share()];
    assert!(shares[0] < 35, "{shares:?}");
    wait_until("it has its whole share", || {
        shares.push(share());
        shares.last().is_some_and(|share| *share >= 49)
    });
    assert!(shares.iter().any(|share| (20..45).contains(share)), "{shares:?}");
}

/// How long the endpoint has been as it is.
fn age(proxy: &Proxy, address: &Address) -> Duration {
    let since = endpoints(proxy)[&address.to_string()]["since"]
        .as_str()
        .expect("text")
        .to_owned();
    let output = std::process::Command::new("date")
        .args(["+%s.%N", "-d", &since])
        .output()
        .expect("date is there");
    let then: f64 = String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .expect("a number");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    now.saturating_sub(Duration::from_secs_f64(then))
}

#[test]
fn requests_over_the_limit_are_told_so_at_once() {
    let gate = Gate::new();
    let upstream = Upstream::each([vec![
        Step::Message,
        Step::Pass(gate.clone()),
        Step::Send(ok("done")),
        Step::serve(ok("more")),
    ]]);
    let log = "access_log: { file: access.log }\n".to_owned();
    let yaml = log + &configuration(&[plain(upstream.address())], "limits: { max_requests: 1 }");
    let proxy = Proxy::start(&yaml);
    let mut held = proxy.client();
    held.send("GET /held HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    assert_own_reply(&proxy.get("/over"), 503, "over the limit");
    let over = [("cluster", "app"), ("limit", "requests")];
    assert_eq!(proxy.metrics().sum("tamis_upstream_overflows_total", &over), 1.0);
    gate.open();
    assert_eq!(held.response().text(), "done");
    assert_eq!(proxy.get("/after").text(), "more");
    let lines = proxy.folder().wait_lines("access.log", 3);
    assert!(lines.iter().any(|line| line.contains("\"overload\"")), "{lines:?}");
}

#[test]
fn a_request_waits_for_a_connection_to_be_given_back() {
    let gate = Gate::new();
    let upstream = Upstream::each([vec![
        Step::Message,
        Step::Pass(gate.clone()),
        Step::Send(ok("one")),
        Step::serve(ok("two")),
    ]]);
    let yaml = configuration(&[plain(upstream.address())], "limits: { max_connections: 1 }");
    let proxy = Proxy::start(&yaml);
    let (mut first, mut second) = (proxy.client(), proxy.client());
    first.send("GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    second.send("GET /2 HTTP/1.1\r\nHost: a.example\r\n\r\n");
    second.assert_silent(Duration::from_millis(200), "there is no connection for it");
    gate.open();
    assert_eq!(
        (first.response().text().as_str(), second.response().text().as_str()),
        ("one", "two")
    );
    assert_eq!(upstream.connections(), 1);
    assert_eq!(proxy.metrics().sum("tamis_upstream_overflows_total", &[]), 0.0);
}

#[test]
fn a_request_that_waits_too_long_for_a_connection_is_told_so() {
    let gate = Gate::new();
    let upstream = Upstream::each([vec![Step::Message, Step::Pass(gate.clone()), Step::Send(ok("one"))]]);
    let limits = "limits: { max_connections: 1 }, connect_timeout: 100ms";
    let proxy = Proxy::start(&configuration(&[plain(upstream.address())], limits));
    let mut first = proxy.client();
    first.send("GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    assert_own_reply(&proxy.get("/2"), 503, "no connection in time");
    let over = [("limit", "connections")];
    assert_eq!(proxy.metrics().sum("tamis_upstream_overflows_total", &over), 1.0);
    gate.open();
    assert_eq!(first.response().text(), "one");
}

#[test]
fn an_idle_connection_makes_room_for_one_to_another_endpoint() {
    let (one, two) = (Server::named("one"), Server::named("two"));
    let yaml = configuration(
        &[plain(one.address()), plain(two.address())],
        "limits: { max_connections: 1 }",
    );
    let proxy = Proxy::start(&yaml);
    let answered = answers(&proxy, 10);
    assert_eq!((answered["200 one"], answered["200 two"]), (5, 5));
}

#[test]
fn those_who_wait_for_a_connection_are_bounded() {
    let black_hole = BlackHole::new();
    let limits = "limits: { max_pending: 1 }, connect_timeout: 20s";
    let proxy = Proxy::start(&configuration(&[plain(black_hole.address())], limits));
    let mut waiting = proxy.client();
    waiting.send("GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\n");
    wait_until("one waits", || {
        endpoints(&proxy)
            .values()
            .any(|endpoint| endpoint["requests_in_flight"] == 1)
    });
    let since = Instant::now();
    assert_own_reply(&proxy.get("/2"), 503, "one waits already");
    assert!(since.elapsed() < Duration::from_secs(10));
    assert_eq!(
        proxy
            .metrics()
            .sum("tamis_upstream_overflows_total", &[("limit", "pending")]),
        1.0
    );
}

#[test]
fn what_is_known_of_an_endpoint_and_its_connections_survive_a_reload() {
    let (one, two, three) = (Server::named("one"), Server::named("two"), Server::named("three"));
    two.set_well(false);
    let listed = [plain(one.address()), plain(two.address())];
    let proxy = Proxy::start(&configuration(&listed, CHECK));
    wait_health(&proxy, one.address(), "healthy");
    wait_health(&proxy, two.address(), "unhealthy");
    assert_eq!(answers(&proxy, 5), only("one", 5));
    let since = endpoints(&proxy)[&two.address().to_string()]["since"].clone();
    let of_clients = || {
        let requests = one.upstream.requests();
        requests.iter().filter(|request| request.target() == "/").count()
    };
    assert_eq!(of_clients(), 5);
    let idle = |proxy: &Proxy| endpoints(proxy)[&one.address().to_string()]["idle_connections"].clone();
    assert_eq!(idle(&proxy), 1);
    let more = [
        plain(one.address()),
        plain(two.address()),
        with(three.address(), "priority: 1"),
    ];
    apply(&proxy, &configuration(&more, CHECK));
    // At once, before anybody could have asked again.
    assert_eq!(health(&proxy, two.address()), "unhealthy");
    assert_eq!(endpoints(&proxy)[&two.address().to_string()]["since"], since);
    assert_eq!(answers(&proxy, 5), only("one", 5));
    assert_eq!(idle(&proxy), 1, "the connection is the one that it was");
    assert_eq!(proxy.metrics().sum("tamis_upstream_connections_opened_total", &[]), 1.0);
}

/// Health changes under load, and only clients could tell.
/// What checks have found out holds no longer where nobody checks.
#[test]
fn what_checks_found_is_forgotten_with_them() {
    let (one, two) = (Server::named("one"), Server::named("two"));
    two.set_well(false);
    let listed = [plain(one.address()), plain(two.address())];
    let proxy = Proxy::start(&configuration(&listed, CHECK));
    wait_health(&proxy, two.address(), "unhealthy");
    apply(&proxy, &configuration(&listed, ""));
    wait_health(&proxy, two.address(), "unknown");
}

/// A client that gives its calls no time says nothing of who does not answer in it.
#[test]
fn the_haste_of_a_client_ejects_nobody() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let silent = Address::Tcp(listener.local_addr().unwrap());
    thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    let ejection = "outlier_ejection: { consecutive_failures: 3 }";
    let proxy = Proxy::start(&configuration(&[plain(&silent)], ejection));
    let call = "POST / HTTP/1.1\r\nHost: a.example\r\ncontent-type: application/grpc\r\ngrpc-timeout: 20m\r\n\
                content-length: 0\r\n\r\n";
    for _ in 0..10 {
        let answer = proxy.client().exchange(call);
        assert_eq!((answer.status(), answer.value("grpc-status")), (200, Some("4")));
    }
    assert_eq!(endpoints(&proxy)[&silent.to_string()]["ejected"], false);
}

#[test]
fn no_request_is_lost_between_two_that_take_turns_at_failing() {
    let (one, two) = (Server::named("one"), Server::named("two"));
    let yaml = configuration(&[plain(one.address()), plain(two.address())], CHECK);
    let proxy = Proxy::start(&yaml);
    let stop = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    // A connection has so many requests and no more.
                    let mut client = proxy.client();
                    for _ in 0..100 {
                        assert_eq!(client.get("/").status(), 200);
                        served.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        for round in 0..6 {
            let (bad, good) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
            good.set_well(true);
            bad.set_well(false);
            wait_health(&proxy, good.address(), "healthy");
            wait_health(&proxy, bad.address(), "unhealthy");
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert!(served.into_inner() > 100);
}

#[test]
fn one_endpoint_costs_no_more_than_before() {
    let upstream = Upstream::saying("one");
    let proxy = Proxy::start(&Configuration::default().to(&upstream));
    assert_eq!(answers(&proxy, 50), only("one", 50));
    assert_eq!(upstream.connections(), 1);
}

/// An example of the configuration, with these endpoints in the place of its own, on ports of the test.
pub fn example(name: &str, endpoints: &[(&str, &Address)]) -> String {
    let path = format!("{}/../config/examples/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut yaml = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    for (written, address) in endpoints {
        assert!(yaml.contains(written), "{name}: {written}");
        yaml = yaml.replace(written, &address.to_string());
    }
    yaml = yaml.replace("127.0.0.1:8080", "127.0.0.1:0");
    format!("workers: 1\nadmin: {{ address: 127.0.0.1:0 }}\n{yaml}")
}

#[test]
fn the_example_of_a_pool_with_health_checks_does_what_it_says() {
    let servers = ["one", "two", "half", "spare"].map(Server::named);
    let [one, two, half, spare] = servers.each_ref().map(Server::address);
    let places = [
        ("127.0.0.1:9000", one),
        ("127.0.0.1:9001", two),
        ("127.0.0.1:9002", half),
        ("127.0.0.1:9010", spare),
    ];
    let proxy = Proxy::start(&example("health-checked-pool.yaml", &places));
    for (_, address) in places {
        wait_health(&proxy, address, "healthy");
    }
    let answered = answers(&proxy, 100);
    assert!(
        !answered.contains_key("200 spare") && answered.len() == 3,
        "{answered:?}"
    );
    servers[..3].iter().for_each(|server| server.set_well(false));
    wait_until("the spare one takes over", || answers(&proxy, 5) == only("spare", 5));
}

#[test]
fn the_example_of_sticky_sessions_does_what_it_says() {
    let servers = ["shop 1", "shop 2", "images 1", "images 2", "images 3"].map(Server::named);
    let [shop_1, shop_2, images_1, images_2, images_3] = servers.each_ref().map(Server::address);
    let places = [
        ("127.0.0.1:9000", shop_1),
        ("127.0.0.1:9001", shop_2),
        ("127.0.0.1:9100", images_1),
        ("127.0.0.1:9101", images_2),
        ("127.0.0.1:9102", images_3),
    ];
    let yaml = example("sticky-sessions.yaml", &places);
    let proxy = Proxy::start(&yaml);
    let mut client = proxy.client();
    let first = client.get("/");
    let cookie = cookie_of(&first).expect("a cookie");
    assert!(cookie.starts_with("shop-server="), "{cookie}");
    // To be stopped: it keeps its clients, and takes no new ones.
    let at = servers[..2]
        .iter()
        .position(|server| server.upstream.requests().iter().any(|it| it.target() == "/"));
    let served = [shop_1, shop_2][at.expect("one of them answered")];
    let written = format!("{{ address: {served}, weight: 1 }}");
    assert!(yaml.contains(&written), "{yaml}");
    apply(
        &proxy,
        &yaml.replace(&written, &format!("{{ address: {served}, weight: 0 }}")),
    );
    for _ in 0..5 {
        assert_eq!(get_with(&mut client, &cookie).text(), first.text());
        assert_ne!(client.get("/").text(), first.text());
    }
    for picture in ["/images/1", "/images/2", "/images/3"] {
        let from: BTreeSet<String> = (0..5).map(|_| client.get(picture).text()).collect();
        assert_eq!(from.len(), 1, "{picture}: {from:?}");
    }
}
