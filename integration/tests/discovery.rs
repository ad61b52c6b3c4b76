//! Endpoints that are found: by names, with a DNS server that answers well, badly or not at all, and by a file.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;
use tamis_integration::dns::{Dns, Says};
use tamis_integration::nginx::Nginx;
use tamis_integration::proxy::check;
use tamis_integration::socket::Address;
use tamis_integration::upstream::{Refusing, Script, Step, ok};
use tamis_integration::{Folder, Gate, Proxy, Upstream};

use crate::certificates::site;
use crate::support::{Bystander, apply, assert_own_reply, wait_until};

/// Names are looked up again after a tenth of a second, at the latest after half a one.
const BRISK: &str = "min_ttl: 100ms, max_ttl: 500ms, timeout: 1s";

fn configuration(dns: &Dns, settings: &str, cluster: &str) -> String {
    format!(
        "\
workers: 1
admin: {{ address: 127.0.0.1:0 }}
dns: {{ servers: [\"{}\"], {settings} }}
listeners:
  web:
    address: 127.0.0.1:0
clusters:
  app: {{ {cluster} }}
routes:
  - {{ match: {{ path: {{ exact: /bystander }} }}, respond: {{ status: 200 }} }}
  - {{ cluster: app }}
",
        dns.address()
    )
}

fn by_name(dns: &Dns, port: u16) -> String {
    configuration(dns, BRISK, &format!("endpoints: [\"app.test:{port}\"]"))
}

fn port_of(upstream: &Upstream) -> u16 {
    match upstream.address() {
        Address::Tcp(address) => address.port(),
        Address::Unix(_) => panic!("a port was asked for"),
    }
}

/// Origins at 127.0.0.2 and so on, all on one port, each of which says its last byte.
fn neighbours<const N: usize>() -> (u16, [Upstream; N]) {
    let first = saying(Ipv4Addr::new(127, 0, 0, 2).into(), 0, "2");
    let port = port_of(&first);
    let mut first = Some(first);
    let all = std::array::from_fn(|index| {
        let last = index as u8 + 2;
        let of = || saying(Ipv4Addr::new(127, 0, 0, last).into(), port, &last.to_string());
        first.take().unwrap_or_else(of)
    });
    (port, all)
}

fn saying(address: IpAddr, port: u16, text: &str) -> Upstream {
    Upstream::start_at(
        SocketAddr::new(address, port),
        Script::Each(vec![vec![Step::serve(ok(text))]]),
    )
}

fn endpoints(proxy: &Proxy) -> Vec<Value> {
    let reply = proxy.admin("GET", "/clusters");
    let clusters: Vec<Value> = serde_json::from_slice(&reply.body).expect("a list");
    clusters[0]["endpoints"].as_array().expect("a list").clone()
}

fn addresses(proxy: &Proxy) -> BTreeSet<String> {
    let address = |endpoint: &Value| endpoint["address"].as_str().expect("text").to_owned();
    endpoints(proxy).iter().map(address).collect()
}

fn answers(proxy: &Proxy, count: usize) -> BTreeSet<String> {
    let mut client = proxy.client();
    let answer = |_| {
        let response = client.get("/");
        assert_eq!(response.status(), 200, "{response:?}");
        response.text()
    };
    (0..count).map(answer).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

fn resolutions(proxy: &Proxy, outcome: &str) -> f64 {
    let labels = [("cluster", "app"), ("outcome", outcome)];
    proxy.metrics().sum("tamis_upstream_resolutions_total", &labels)
}

#[test]
fn requests_follow_a_name_and_what_is_gone_is_drained() {
    let dns = Dns::start();
    let gate = Gate::new();
    let script = vec![Step::serve(ok("old"))];
    let held = vec![Step::Message, Step::Pass(gate.clone()), Step::Send(ok("held"))];
    let any = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0));
    let old = Upstream::start_at(any, Script::Each(vec![held, script]));
    let port = port_of(&old);
    let new = saying(Ipv4Addr::new(127, 0, 0, 3).into(), port, "new");
    dns.leads_to("app.test", 0, &[2]);
    let proxy = Proxy::start(&by_name(&dns, port));
    let mut under_way = proxy.client();
    under_way.send("GET /held HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    assert_eq!(answers(&proxy, 5), set(["old"]));
    assert_eq!(endpoints(&proxy)[0]["host"], "app.test");
    dns.leads_to("app.test", 0, &[3]);
    wait_until("the new address is known", || {
        addresses(&proxy) == set([&*format!("127.0.0.3:{port}")])
    });
    assert_eq!(answers(&proxy, 5), set(["new"]));
    // What was idle is closed; what is under way comes to its end, and is not kept.
    assert_eq!(old.wait_ended(1), "Fin");
    gate.open();
    assert_eq!(under_way.response().text(), "held");
    assert_eq!(old.wait_ended(0), "Fin");
    assert_eq!((proxy.generation(), new.connections()), (1, 1));
    assert!(resolutions(&proxy, "changed") >= 2.0);
    assert_eq!(proxy.log().wait_message("endpoints changed").field("cluster"), "app");
}

#[test]
fn one_more_address_takes_its_turns_and_the_others_keep_their_connections() {
    let dns = Dns::start();
    let (port, upstreams) = neighbours::<3>();
    dns.leads_to("app.test", 0, &[2, 3]);
    let proxy = Proxy::start(&by_name(&dns, port));
    assert_eq!(answers(&proxy, 6), set(["2", "3"]));
    dns.leads_to("app.test", 0, &[4, 3, 2]);
    wait_until("there are three", || endpoints(&proxy).len() == 3);
    assert_eq!(answers(&proxy, 9), set(["2", "3", "4"]));
    assert_eq!(upstreams.each_ref().map(Upstream::connections), [1, 1, 1]);
}

/// Fault 110: whatever goes wrong, the last good addresses are kept, asked for again, and left when there are others.
#[test]
fn the_last_good_addresses_are_kept() {
    let cases = [
        ("no such name", Says::Nothing),
        ("the server fails", Says::Failure),
        ("no answer", Says::Silence),
        ("no address", Says::Addresses(0, Vec::new())),
        ("a loop", Says::Alias("app.test".to_owned())),
        (
            "nothing that can be a server",
            Says::Addresses(
                0,
                vec![
                    Ipv4Addr::new(169, 254, 169, 254).into(),
                    Ipv4Addr::UNSPECIFIED.into(),
                    Ipv4Addr::BROADCAST.into(),
                    Ipv4Addr::new(224, 0, 0, 1).into(),
                ],
            ),
        ),
    ];
    for (name, bad) in cases {
        let dns = Dns::start();
        let (port, _upstreams) = neighbours::<2>();
        dns.leads_to("app.test", 0, &[2]);
        let proxy = Proxy::start(&by_name(&dns, port));
        assert_eq!(answers(&proxy, 2), set(["2"]), "{name}");
        let bystander = Bystander::start(&proxy.address("web"), "/bystander");
        dns.says("app.test", bad);
        wait_until(name, || resolutions(&proxy, "failed") >= 2.0);
        assert_eq!(answers(&proxy, 5), set(["2"]), "{name}");
        dns.leads_to("app.test", 0, &[3]);
        wait_until(name, || addresses(&proxy) == set([&*format!("127.0.0.3:{port}")]));
        assert_eq!(answers(&proxy, 5), set(["3"]), "{name}");
        bystander.finish();
        proxy.log().wait_message("a name leads somewhere again");
        let told = proxy.log().lines();
        let of = |message: &str| told.iter().filter(|line| line.message() == message).count();
        assert_eq!(
            of("a name leads nowhere; the last good addresses are kept"),
            1,
            "{name}: told once"
        );
        assert_eq!(of("a name leads somewhere again"), 1, "{name}");
    }
}

#[test]
fn a_family_whose_look_up_fails_keeps_its_addresses() {
    let dns = Dns::start();
    let (port, _upstreams) = neighbours::<1>();
    dns.says(
        "app.test",
        Says::Addresses(0, vec![Ipv4Addr::new(127, 0, 0, 2).into(), Ipv6Addr::LOCALHOST.into()]),
    );
    let proxy = Proxy::start(&by_name(&dns, port));
    let both = set([&*format!("127.0.0.2:{port}"), &*format!("[::1]:{port}")]);
    wait_until("both families are known", || addresses(&proxy) == both);
    // There is an answer about the one family, which has none any more.
    dns.leads_to("app.test", 0, &[2]);
    wait_until("the other family is gone", || {
        addresses(&proxy) == set([&*format!("127.0.0.2:{port}")])
    });
}

#[test]
fn an_address_of_version_six_alone_will_do() {
    let dns = Dns::start();
    let upstream = saying(Ipv6Addr::LOCALHOST.into(), 0, "six");
    dns.says("app.test", Says::Addresses(0, vec![Ipv6Addr::LOCALHOST.into()]));
    let proxy = Proxy::start(&by_name(&dns, port_of(&upstream)));
    assert_eq!(answers(&proxy, 3), set(["six"]));
}

#[test]
fn an_alias_is_followed() {
    let dns = Dns::start();
    let (port, _upstreams) = neighbours::<1>();
    dns.says("app.test", Says::Alias("real.test".to_owned()));
    dns.leads_to("real.test", 0, &[2]);
    let proxy = Proxy::start(&by_name(&dns, port));
    assert_eq!(answers(&proxy, 3), set(["2"]));
}

#[test]
fn a_name_that_leads_nowhere_yet_keeps_nobody_from_starting() {
    let dns = Dns::start();
    let (port, _upstreams) = neighbours::<1>();
    let proxy = Proxy::start(&by_name(&dns, port));
    assert_own_reply(&proxy.get("/"), 503, "no endpoint");
    assert_eq!(proxy.get("/bystander").status(), 200);
    dns.leads_to("app.test", 0, &[2]);
    wait_until("it leads somewhere", || endpoints(&proxy).len() == 1);
    assert_eq!(answers(&proxy, 3), set(["2"]));
}

#[test]
fn a_time_to_live_of_nothing_is_no_reason_to_ask_all_the_time() {
    let dns = Dns::start();
    let (port, _upstreams) = neighbours::<1>();
    dns.leads_to("app.test", 0, &[2]);
    let cluster = format!("endpoints: [\"app.test:{port}\"]");
    let proxy = Proxy::start(&configuration(&dns, "min_ttl: 1s", &cluster));
    let since = Instant::now();
    answers(&proxy, 500);
    // Two questions, one for each family, for each second that has begun, and the first two.
    let most = 2 * (since.elapsed().as_secs() as usize + 3);
    assert!(dns.asked("app.test") <= most, "{} of {most}", dns.asked("app.test"));
    let first = dns.asked("app.test");
    dns.wait_asked("app.test", first + 2);
}

#[test]
fn a_reload_asks_nobody_again() {
    let dns = Dns::start();
    let (port, _upstreams) = neighbours::<1>();
    dns.leads_to("app.test", 3600, &[2]);
    let cluster = format!("endpoints: [\"app.test:{port}\"]");
    let proxy = Proxy::start(&configuration(&dns, "max_ttl: 1h", &cluster));
    let asked = dns.asked("app.test");
    dns.says("app.test", Says::Silence);
    let since = Instant::now();
    apply(
        &proxy,
        &configuration(&dns, "max_ttl: 1h", &format!("{cluster}, load_balancing: random")),
    );
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    assert_eq!(answers(&proxy, 3), set(["2"]));
    assert_eq!(dns.asked("app.test"), asked);
}

#[test]
fn a_thousand_addresses_come_and_go() {
    let dns = Dns::start();
    let upstream = saying(Ipv4Addr::UNSPECIFIED.into(), 0, "any");
    let port = port_of(&upstream);
    let many = (0..1000_u16).map(|number| IpAddr::V4(Ipv4Addr::new(127, 1, (number >> 8) as u8, number as u8)));
    dns.says("app.test", Says::Addresses(0, many.collect()));
    let proxy = Proxy::start(&by_name(&dns, port));
    wait_until("all are known", || endpoints(&proxy).len() == 1000);
    answers(&proxy, 1000);
    let used = endpoints(&proxy)
        .iter()
        .filter(|endpoint| endpoint["idle_connections"] == 1)
        .count();
    assert_eq!(used, 1000, "each had its turn");
    dns.leads_to("app.test", 0, &[2]);
    wait_until("one is left", || endpoints(&proxy).len() == 1);
    assert_eq!(answers(&proxy, 3), set(["any"]));
    let metrics = || proxy.metrics();
    wait_until("their connections are closed, and their series gone", || {
        let metrics = metrics();
        let open = metrics.matching("tamis_upstream_connections", &[("cluster", "app")]);
        open.len() <= 2 && open.iter().map(|sample| sample.value).sum::<f64>() == 1.0
    });
    assert_eq!(metrics().sum("tamis_upstream_endpoints", &[("cluster", "app")]), 1.0);
}

#[test]
fn services_name_servers_with_ports_weights_and_priorities() {
    let dns = Dns::start();
    let heavy = saying(Ipv4Addr::LOCALHOST.into(), 0, "heavy");
    let light = saying(Ipv4Addr::LOCALHOST.into(), 0, "light");
    let spare = saying(Ipv4Addr::LOCALHOST.into(), 0, "spare");
    let record =
        |priority, weight, upstream: &Upstream| (priority, weight, port_of(upstream), "server.test".to_owned());
    dns.leads_to("server.test", 0, &[1]);
    dns.says(
        "_http._tcp.app.test",
        Says::Servers(
            0,
            vec![record(10, 3, &heavy), record(10, 1, &light), record(20, 1, &spare)],
        ),
    );
    let proxy = Proxy::start(&configuration(&dns, BRISK, "endpoints: [{ srv: _http._tcp.app.test }]"));
    let mut client = proxy.client();
    let answered: Vec<String> = (0..8).map(|_| client.get("/").text()).collect();
    let count = |name: &str| answered.iter().filter(|answer| *answer == name).count();
    assert_eq!(
        (count("heavy"), count("light"), count("spare")),
        (6, 2, 0),
        "{answered:?}"
    );
    dns.says("_http._tcp.app.test", Says::Servers(0, vec![record(20, 1, &spare)]));
    wait_until("the spare one is left", || endpoints(&proxy).len() == 1);
    assert_eq!(answers(&proxy, 3), set(["spare"]));
    assert_eq!(endpoints(&proxy)[0]["priority"], 20);
}

/// An endpoint that refuses is passed over at once, and the one whose name is not found does not count.
#[test]
fn names_and_addresses_stand_side_by_side() {
    let dns = Dns::start();
    let refusing = Refusing::new();
    let upstream = Upstream::saying("address");
    let cluster = format!(
        "endpoints: [\"missing.test:80\", \"{}\", \"{}\"]",
        refusing.address(),
        upstream.address()
    );
    let proxy = Proxy::start(&configuration(&dns, BRISK, &cluster));
    assert_eq!(answers(&proxy, 6), set(["address"]));
}

/// A certificate is for the name that led to its server, for requests and for health checks alike.
#[test]
fn a_server_that_was_found_by_name_is_verified_by_name() {
    for (name, status, health) in [("app.test", 200, "healthy"), ("other.test", 502, "unhealthy")] {
        let (folder, _) = site(&[name]);
        let tls = "ssl_protocols TLSv1.3; ssl_certificate site.pem; ssl_certificate_key site.key; \
                   add_header x-name $ssl_server_name always; location / { return 200 ok; }";
        let nginx = Nginx::start_with(&folder, "ssl", tls);
        let Address::Tcp(address) = nginx.address() else {
            panic!("nginx listens on a port")
        };
        let dns = Dns::start();
        dns.leads_to("app.test", 0, &[1]);
        let cluster = format!(
            "endpoints: [\"app.test:{}\"], tls: {{ ca: ca.pem }}, \
             health_check: {{ http: {{ path: /healthz }}, interval: 100ms, unhealthy_threshold: 1 }}",
            address.port()
        );
        let proxy = Proxy::start_in(&folder, &configuration(&dns, BRISK, &cluster));
        wait_until(name, || endpoints(&proxy)[0]["health"] == health);
        let response = proxy.get("/");
        assert_eq!(response.status(), status, "{name}: {response:?}");
        if status == 200 {
            assert_eq!(response.value("x-name"), Some("app.test"));
        }
    }
}

#[test]
fn requests_follow_a_file_without_a_reload() {
    let dns = Dns::start();
    let (port, [_two, _three, _four]) = neighbours::<3>();
    let folder = Folder::new();
    folder.write("endpoints.yaml", format!("- 127.0.0.2:{port}\n"));
    let proxy = Proxy::start_in(&folder, &configuration(&dns, BRISK, "endpoints_file: endpoints.yaml"));
    assert_eq!(answers(&proxy, 3), set(["2"]));
    // JSON is YAML.
    let json = format!("[\"127.0.0.2:{port}\", {{ \"address\": \"127.0.0.3:{port}\", \"weight\": 2 }}]");
    folder.replace("endpoints.yaml", json);
    wait_until("there are two", || endpoints(&proxy).len() == 2);
    assert_eq!(answers(&proxy, 6), set(["2", "3"]));
    for bad in [
        "",
        "- 127.0.0.2\n",
        "- [\n",
        "- { address: 127.0.0.2:1, wait: 1 }\n",
        "endpoints: []\n",
    ] {
        let failed = resolutions(&proxy, "failed");
        folder.replace("endpoints.yaml", bad);
        wait_until(&format!("{bad:?} is refused"), || {
            resolutions(&proxy, "failed") > failed
        });
        assert_eq!(answers(&proxy, 6), set(["2", "3"]), "{bad:?}");
    }
    let told = proxy
        .log()
        .wait_message("endpoints file refused; the last good endpoints are kept");
    assert!(told.field("errors").contains("endpoints.yaml"), "{}", told.text);
    folder.replace("endpoints.yaml", format!("- 127.0.0.4:{port}\n"));
    wait_until("it is mended", || endpoints(&proxy).len() == 1);
    assert_eq!(answers(&proxy, 3), set(["4"]));
    folder.replace("endpoints.yaml", "[]\n");
    wait_until("there is none", || endpoints(&proxy).is_empty());
    assert_own_reply(&proxy.get("/"), 503, "no endpoint");
    dns.leads_to("app.test", 0, &[3]);
    folder.replace("endpoints.yaml", format!("- app.test:{port}\n"));
    wait_until("a name in a file", || endpoints(&proxy).len() == 1);
    assert_eq!(answers(&proxy, 3), set(["3"]));
    assert_eq!(proxy.generation(), 1);
}

#[test]
fn a_file_that_is_not_there_is_a_mistake_of_the_configuration() {
    let dns = Dns::start();
    let folder = Folder::new();
    let yaml = configuration(&dns, BRISK, "endpoints_file: missing.yaml");
    let (code, printed) = check(&folder, &yaml);
    assert_eq!(code, 1, "{printed}");
    assert!(
        printed.contains("cluster `app`: endpoints_file: ") && printed.contains("missing.yaml"),
        "{printed}"
    );
    folder.write("missing.yaml", "- 127.0.0.1:1\n");
    let (code, printed) = check(&folder, &yaml);
    assert_eq!(code, 0, "{printed}");
}
