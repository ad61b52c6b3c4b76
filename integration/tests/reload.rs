//! One generation after another, while traffic flows: every trigger, every way to replace a file, nothing lost.

use rustix::process::Signal;
use tamis_integration::proxy::CONFIGURATION;
use tamis_integration::socket::Found;
use tamis_integration::upstream::ok;
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Client, DEADLINE, Folder, Gate, Proxy, Step, Upstream};

use crate::support::{Bystander, Configuration, saying, wait_until};

#[test]
fn a_renamed_file_is_noticed() {
    let proxy = Proxy::start(&saying("one"));
    assert_eq!(proxy.get("/").text(), "one");
    for (generation, body) in [(2, "two"), (3, "three"), (4, "four")] {
        proxy.folder().replace(CONFIGURATION, saying(body));
        proxy.wait_generation(generation);
        assert_eq!(proxy.get("/").text(), body);
    }
    assert_eq!(proxy.generation(), 4, "each change is one generation");
}

#[test]
fn a_file_written_in_place_is_noticed() {
    let proxy = Proxy::start(&saying("one"));
    for (generation, body) in [(2, "two"), (3, "three")] {
        proxy.folder().write(CONFIGURATION, saying(body));
        proxy.wait_generation(generation);
        assert_eq!(proxy.get("/").text(), body);
    }
}

/// As Kubernetes swaps a mounted ConfigMap: the folder behind a symbolic link changes.
#[test]
fn a_swapped_link_is_noticed() {
    let folder = Folder::new();
    folder.write("first/tamis.yaml", saying("one"));
    folder.write("second/tamis.yaml", saying("two"));
    std::os::unix::fs::symlink("first", folder.path("data")).expect("a link can be made");
    std::os::unix::fs::symlink("data/tamis.yaml", folder.path(CONFIGURATION)).expect("a link can be made");
    let proxy = Proxy::start_in(&folder, &saying("one"));
    assert_eq!(proxy.get("/").text(), "one");
    std::os::unix::fs::symlink("second", folder.path("data.new")).expect("a link can be made");
    std::fs::rename(folder.path("data.new"), folder.path("data")).expect("a link can be replaced");
    proxy.wait_generation(2);
    assert_eq!(proxy.get("/").text(), "two");
}

#[test]
fn a_hangup_reloads() {
    let proxy = Proxy::start(&saying("one"));
    proxy.folder().replace(CONFIGURATION, saying("two"));
    proxy.signal(Signal::HUP);
    proxy.wait_generation(2);
    assert_eq!(proxy.get("/").text(), "two");
}

#[test]
fn an_admin_request_reloads_and_says_what_came_of_it() {
    let proxy = Proxy::start(&saying("one"));
    let (status, answer) = proxy.reload(&saying("two"));
    assert_eq!((status, &answer["generation"]), (200, &2.into()));
    assert_eq!(proxy.get("/").text(), "two");
    let (status, answer) = proxy.reload(&saying("three").replace("respond:", "respnd:"));
    assert_eq!(status, 422, "{answer}");
    let errors = answer["errors"].as_array().expect("a list of errors");
    let says = |part: &str| {
        errors
            .iter()
            .filter_map(|error| error.as_str())
            .any(|error| error.contains(part))
    };
    assert!(says("respnd") && says("tamis.yaml:6:"), "{answer}");
    assert_eq!(proxy.get("/").text(), "two");
    assert_eq!(proxy.admin("GET", "/reload").status(), 405, "a GET changes nothing");
}

#[test]
fn a_bad_file_leaves_the_old_generation() {
    let proxy = Proxy::start(&saying("one"));
    for bad in [
        "",
        "listeners: [",
        "listeners: {}\nroutes: []\n",
        "a: &a [*a]\n",
        "routes:\n  - { respond: { status: 99 } }\n",
        "\0\0\0",
        "listeners:\n  web: { address: nowhere }\nroutes: []\n",
    ] {
        let before = proxy.log().len();
        proxy.folder().replace(CONFIGURATION, bad);
        proxy.admin("POST", "/reload");
        let line = proxy
            .log()
            .wait_from(before, "reload refused", |line| line.message() == "reload refused");
        assert_eq!(line.level(), "ERROR");
        assert_eq!(proxy.get("/").text(), "one", "{bad:?}");
        assert_eq!(proxy.admin("GET", "/ready").status(), 200);
    }
    assert_eq!(proxy.generation(), 1);
    assert_eq!(proxy.reload(&saying("two")).0, 200);
    assert_eq!(proxy.get("/").text(), "two");
}

/// Fault 57: half of a file is refused or does not count; the whole of it does.
#[test]
fn a_missing_file_leaves_the_old_generation() {
    let proxy = Proxy::start(&saying("one"));
    std::fs::remove_file(proxy.folder().path(CONFIGURATION)).expect("the file is there");
    assert_eq!(proxy.admin("POST", "/reload").status(), 422);
    assert_eq!(proxy.get("/").text(), "one");
    proxy.folder().write(CONFIGURATION, saying("two"));
    proxy.wait_generation(2);
    assert_eq!(proxy.get("/").text(), "two");
}

#[test]
fn a_replaced_component_is_noticed() {
    let guest = |body| Guest::new().on_request([Reply(200, vec![], body)]).build();
    let folder = Folder::new();
    folder.write("guest.wasm", guest("one"));
    let yaml = saying("route").replace("routes:", "filters:\n  guest: { component: guest.wasm }\nroutes:");
    let yaml = yaml.replace("name: all,", "name: all, filters: [guest],");
    let proxy = Proxy::start_in(&folder, &yaml);
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "one");
    folder.replace("guest.wasm", guest("two"));
    proxy.wait_generation(2);
    assert_eq!(client.get("/").text(), "two");
    folder.write("guest.wasm", guest("three"));
    proxy.wait_generation(3);
    assert_eq!(client.get("/").text(), "three");
}

/// Fault 72: a change of nothing but a filter's settings is a change.
#[test]
fn a_changed_filter_configuration_is_a_new_generation() {
    let yaml = |value: &str| {
        let filters = format!(
            "filters:\n  mark: {{ native: headers, config: {{ response: {{ set: {{ x-mark: {value} }} }} }} }}\nroutes:"
        );
        saying("ok")
            .replace("routes:", &filters)
            .replace("name: all,", "name: all, filters: [mark],")
    };
    let proxy = Proxy::start(&yaml("a"));
    let mut client = proxy.client();
    assert_eq!(client.get("/").value("x-mark"), Some("a"));
    assert_eq!(proxy.reload(&yaml("b")).0, 200);
    assert_eq!(client.get("/").value("x-mark"), Some("b"));
}

/// Fault 67.
#[test]
fn a_connection_takes_the_new_generation_at_its_next_request() {
    let proxy = Proxy::start(&saying("1"));
    let mut client = proxy.client();
    let mut idle = proxy.client();
    assert_eq!(client.get("/").text(), "1");
    for n in 2..=20_u64 {
        let (status, answer) = proxy.reload(&saying(&n.to_string()));
        assert_eq!((status, answer["generation"].as_u64()), (200, Some(n)));
        assert_eq!(client.get("/").text(), n.to_string());
    }
    assert_eq!(idle.get("/").text(), "20");
}

/// Fault 66: what has begun ends as it began.
#[test]
fn an_exchange_ends_on_its_own_generation() {
    let gate = Gate::new();
    let upstream = Upstream::each([
        vec![
            Step::Message,
            Step::Pass(gate.clone()),
            Step::send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
            Step::send("world"),
            Step::serve(ok("ok")),
        ],
        vec![Step::serve(ok("ok"))],
    ]);
    let yaml = |mark: &str| {
        let top =
            format!("filters:\n  mark: {{ native: headers, config: {{ response: {{ set: {{ x-mark: {mark} }} }} }} }}");
        Configuration {
            top: &top,
            route: "filters: [mark]",
            ..Default::default()
        }
        .to(&upstream)
    };
    let proxy = Proxy::start(&yaml("old"));
    let mut slow = proxy.client();
    slow.send("GET /slow HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    assert_eq!(proxy.reload(&yaml("new")).0, 200);
    assert_eq!(proxy.get("/").value("x-mark"), Some("new"));
    assert!(
        proxy.metrics().sum("tamis_generations", &[]) >= 2.0,
        "the old one lives while it is used"
    );
    gate.open();
    let response = slow.response();
    assert_eq!(
        (response.value("x-mark"), response.text().as_str()),
        (Some("old"), "helloworld")
    );
    let next = slow.get("/next");
    assert_eq!((next.status(), next.value("x-mark")), (200, Some("new")));
    assert_eq!(proxy.get("/").value("x-mark"), Some("new"));
    assert_eq!(
        proxy.metrics().sum("tamis_generations", &[]),
        1.0,
        "and ends with its last exchange"
    );
}

/// A cluster that did not change keeps its connections.
#[test]
fn unchanged_clusters_keep_their_connections() {
    let upstream = Upstream::saying("ok");
    let yaml = |name: &str| {
        let routes =
            format!("  - {{ name: {name}, match: {{ path: {{ exact: /{name} }} }}, respond: {{ status: 200 }} }}");
        Configuration {
            routes: &routes,
            ..Default::default()
        }
        .to(&upstream)
    };
    let proxy = Proxy::start(&yaml("a"));
    let mut client = proxy.client();
    for name in ["b", "c", "d"] {
        assert_eq!(client.get("/").text(), "ok");
        assert_eq!(proxy.reload(&yaml(name)).0, 200);
        assert_eq!(client.get(&format!("/{name}")).status(), 200);
    }
    assert_eq!(client.get("/").text(), "ok");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn an_unchanged_file_is_no_new_generation() {
    let proxy = Proxy::start(&saying("one"));
    for _ in 0..3 {
        let (status, answer) = proxy.reload(&saying("one"));
        assert_eq!((status, answer["generation"].as_u64()), (200, Some(1)));
    }
    assert_eq!(proxy.generation(), 1);
}

/// Fault 65: many triggers are few reloads, and the last state wins.
#[test]
fn a_storm_of_hangups_is_coalesced() {
    let proxy = Proxy::start(&saying("0"));
    let bystander = Bystander::start(&proxy.address("web"), "/");
    for n in 1..=200 {
        proxy.folder().replace(CONFIGURATION, saying(&n.to_string()));
        proxy.signal(Signal::HUP);
    }
    let (status, answer) = proxy.reload(&saying("last"));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(proxy.get("/").text(), "last");
    bystander.finish();
    assert!(proxy.generation() <= 202);
}

/// A hundred generations under load: no request fails, and nothing of the old ones stays.
#[test]
fn a_hundred_reloads_under_load_lose_nothing() {
    let upstream = Upstream::answering(|request| ok(request.target()));
    let folder = Folder::new();
    folder.write(
        "guest.wasm",
        Guest::new()
            .on_request([SetRequestHeader("x-a", b"1".to_vec())])
            .on_response([])
            .build(),
    );
    let yaml = |n: u64| {
        let top = format!("filters:\n  guest: {{ component: guest.wasm, config: {{ n: {n} }} }}");
        Configuration {
            top: &top,
            route: "filters: [guest]",
            ..Default::default()
        }
        .to(&upstream)
    };
    let proxy = Proxy::start_in(&folder, &yaml(0));
    let address = proxy.address("web");
    let bystanders = [0, 1, 2].map(|n| Bystander::start(&address, &format!("/{n}")));
    let mut resident = 0;
    let mut n = 0;
    while n < 100 || bystanders.iter().map(Bystander::served).sum::<usize>() < 300 {
        n += 1;
        let (status, answer) = proxy.reload(&yaml(n));
        assert_eq!((status, answer["generation"].as_u64()), (200, Some(n + 1)), "{answer}");
        if n == 30 {
            resident = proxy.resident();
        }
    }
    for bystander in bystanders {
        bystander.finish();
    }
    let grown = proxy.resident().saturating_sub(resident);
    assert!(grown < 24 << 20, "{grown} bytes of growth over {} reloads", n - 30);
}

#[test]
fn listeners_come_and_go() {
    let two = |extra: &str| {
        saying("ok").replace(
            "  web: { address: 127.0.0.1:0 }",
            &format!("  web: {{ address: 127.0.0.1:0 }}{extra}"),
        )
    };
    let proxy = Proxy::start(&two(""));
    let web = proxy.address("web");
    let mut kept = proxy.client();
    assert_eq!(kept.get("/").text(), "ok");
    assert_eq!(proxy.reload(&two("\n  extra: { address: 127.0.0.1:0 }")).0, 200);
    let extra = proxy.address("extra");
    let mut client = Client::connect(&extra);
    assert_eq!(client.get("/").text(), "ok");
    assert_eq!(kept.get("/").text(), "ok", "the other listener did not notice");
    assert_eq!(proxy.address("web"), web);
    assert_eq!(proxy.reload(&two("")).0, 200);
    let gone = match client.try_get("/") {
        None => true,
        Some(response) => response.closes() && client.ending().how != Found::Nothing,
    };
    assert!(gone, "a connection of a removed listener goes on for ever");
    wait_until("the removed listener does not listen", || {
        extra.connect(DEADLINE).is_err()
    });
    assert_eq!(kept.get("/").text(), "ok");
}

/// A listener whose address is taken: the whole generation is refused, and the old one stays.
#[test]
fn an_address_in_use_is_refused() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it has an address");
    let proxy = Proxy::start(&saying("one"));
    let yaml = saying("two").replace(
        "  web: { address: 127.0.0.1:0 }",
        &format!("  web: {{ address: 127.0.0.1:0 }}\n  extra: {{ address: \"{address}\" }}"),
    );
    let (status, answer) = proxy.reload(&yaml);
    assert_eq!(status, 422, "{answer}");
    assert!(answer["errors"].to_string().contains("extra"), "{answer}");
    assert_eq!(proxy.get("/").text(), "one");
}

/// Limits of a listener change without its socket.
#[test]
fn changed_limits_apply_to_the_next_request() {
    let upstream = Upstream::saying("ok");
    let yaml = |size: &str| {
        let limits = format!("max_target_bytes: {size}");
        Configuration {
            limits: &limits,
            ..Default::default()
        }
        .to(&upstream)
    };
    let proxy = Proxy::start(&yaml("8KiB"));
    let address = proxy.address("web");
    let target = format!("/{}", "a".repeat(1000));
    let mut client = proxy.client();
    assert_eq!(client.get(&target).status(), 200);
    assert_eq!(proxy.reload(&yaml("256B")).0, 200);
    assert_eq!(client.get(&target).status(), 414);
    assert_eq!(proxy.address("web"), address);
}
