//! The example configurations, run: each file's own text, with other ports, files and addresses alone, in front of real
//! servers, and requests that show what it is for. Those of TLS sites are in `tls`, those of pools in `balancing`.

use std::fs;
use std::sync::Arc;

use tamis_integration::nginx::Nginx;
use tamis_integration::socket::Address;
use tamis_integration::upstream::{Refusing, Script, ok};
use tamis_integration::{Client, Folder, Message, Proxy, Step, Upstream};

use crate::certificates::{Authority, TlsClient, Trust};
use crate::support::{component, filter_state, wait_until};

/// The example's text with each of these replaced, which it has to hold, and its listeners on free ports.
fn example(name: &str, places: &[(&str, &str)]) -> String {
    let path = format!("{}/../config/examples/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut yaml = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    for (written, ours) in places {
        assert!(yaml.contains(written), "{name}: {written}");
        yaml = yaml.replace(written, ours);
    }
    for port in ["8080", "8081", "8082", "8443"] {
        yaml = yaml.replace(&format!("address: 127.0.0.1:{port}"), "address: 127.0.0.1:0");
    }
    format!("workers: 1\nadmin: {{ address: 127.0.0.1:0 }}\n{yaml}")
}

/// The folder of the bundled components, as the examples write it.
const COMPONENTS: &str = "../../filters/target/components";

fn components() -> String {
    let tenant = component("tenant");
    let folder = tenant.parent().expect("a folder");
    folder.to_str().expect("a path of text").to_owned()
}

/// Says its name and the target.
fn named(name: &'static str) -> Upstream {
    Upstream::answering(move |request| ok(&format!("{name} {}", request.target())))
}

fn ask(proxy: &Proxy, host: &str, target: &str, fields: &str) -> Message {
    proxy
        .client()
        .exchange(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"))
}

#[test]
fn quickstart_forwards_everything_to_one_server() {
    let nginx = Nginx::start();
    let endpoint = nginx.address().to_string();
    let proxy = Proxy::start(&example("quickstart.yaml", &[("127.0.0.1:9000", &endpoint)]));
    let mut client = proxy.client();
    for _ in 0..3 {
        let answer = client.get("/small");
        assert_eq!((answer.status(), answer.text()), (200, "ok".to_owned()));
    }
    assert_eq!(client.get("/nothing").status(), 404);
}

#[test]
fn websocket_passes_where_it_may() {
    let switching = |protocol: &str| {
        let switch = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n");
        Upstream::each([vec![
            Step::Message,
            Step::send(switch),
            Step::Bytes(4),
            Step::send("pong"),
            Step::Hold,
        ]])
    };
    let (chat, twin) = (switching("websocket"), switching("websocket"));
    let (agents, app) = (switching("tcp"), named("app"));
    let [to_chat, to_twin, to_agents, to_app] =
        [&chat, &twin, &agents, &app].map(|upstream| upstream.address().to_string());
    let places = [
        ("127.0.0.1:9000", &*to_chat),
        ("127.0.0.1:9001", &*to_twin),
        ("127.0.0.1:9100", &*to_agents),
        ("127.0.0.1:9200", &*to_app),
    ];
    let proxy = Proxy::start(&example("websocket.yaml", &places));
    let begin = |target: &str, protocol: &str| {
        let mut client = proxy.client();
        client.send(format!(
            "GET {target} HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        ));
        let head = client.read_head();
        (client, head)
    };
    for (target, protocol) in [("/chat/room", "websocket"), ("/attach", "tcp")] {
        let (mut client, head) = begin(target, protocol);
        assert_eq!(
            (head.status(), head.value("upgrade")),
            (101, Some(protocol)),
            "{target}"
        );
        client.send("ping");
        assert_eq!(client.read(4), b"pong", "{target}");
    }
    for (target, protocol) in [("/chat/room", "tcp"), ("/rest", "websocket")] {
        let (_, head) = begin(target, protocol);
        assert_ne!(head.status(), 101, "{target}");
    }
    let request = app.take_request("without a word of another protocol");
    assert_eq!((request.value("upgrade"), request.value("connection")), (None, None));
}

#[test]
fn routing_matches_in_every_way_and_answers_in_every_way() {
    let folder = Folder::new();
    let (one, two, canary) = (named("one"), named("two"), named("canary"));
    let socket = folder.path("sidecar.sock");
    let answer = |request: &Message| ok(&format!("sidecar {}", request.target()));
    let _sidecar = Upstream::start_unix(&socket, Script::Answer(Arc::new(answer)));
    let [to_one, to_two, to_canary] = [&one, &two, &canary].map(|upstream| upstream.address().to_string());
    let places = [
        ("127.0.0.1:9000", &*to_one),
        ("127.0.0.1:9001", &*to_two),
        ("[::1]:9100", &*to_canary),
        ("/run/sidecar.sock", socket.to_str().expect("a path of text")),
    ];
    let proxy = Proxy::start_in(&folder, &example("routing.yaml", &places));
    let answered = |host: &str, target: &str, fields: &str| ask(&proxy, host, target, fields);
    assert_eq!(answered("a.example", "/healthz", "").text(), "ok\n");
    for (host, target, location) in [
        ("example.net", "/x?y", "https://www.example.com/x?y"),
        ("deep.example.net", "/x", "https://www.example.com/x"),
        ("a.example", "/blog", "http://a.example/news?from=blog"),
    ] {
        assert_eq!(
            answered(host, target, "").value("location"),
            Some(location),
            "{host}{target}"
        );
    }
    let beta = "X-Beta: 1\r\nUser-Agent: Mozilla/5.0\r\nX-Account: 7\r\n";
    assert_eq!(answered("www.example.com", "/x", beta).text(), "canary /x");
    let by_app = |message: &Message| message.text().starts_with("one ") || message.text().starts_with("two ");
    assert!(by_app(&answered(
        "www.example.com",
        "/x",
        &beta.replace("X-Beta: 1", "X-Beta: 2")
    )));
    let query = "/q?debug=1&trace=full&user=&version=42";
    assert_eq!(answered("a.example", query, "").text(), format!("sidecar {query}"));
    assert!(by_app(&answered("a.example", "/q?debug=1&trace=full&user=", "")));
    assert!(by_app(&answered("a.example", "/items/42", "")));
    assert!(by_app(&answered("a.example", "/events", "")));
    // One in ten: of three hundred at least one, and never most of them.
    let split = (0..300).filter(|_| answered("api.example.com", "/v1/x", "").text() == "canary /v1/x");
    let split = split.count();
    assert!((1..100).contains(&split), "{split} of 300");
}

/// All that connects here is on loopback, so loopback is the balancers' network.
#[test]
fn behind_a_balancer_the_client_is_who_trusted_proxies_say() {
    let app = named("app");
    let header = [
        0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x21, 0x11, 0, 12,
    ];
    let mail = Upstream::each([vec![Step::Bytes(28), Step::Message, Step::send(ok("mail")), Step::Hold]]);
    let [to_app, to_mail] = [&app, &mail].map(|upstream| upstream.address().to_string());
    let places = [
        ("10.0.0.0/8", "127.0.0.0/8"),
        ("127.0.0.1:9000", &*to_app),
        ("127.0.0.1:9100", &*to_mail),
    ];
    let proxy = Proxy::start(&example("behind-a-balancer.yaml", &places));
    let ask = |listener: &str, bytes: &str| Client::connect(&proxy.address(listener)).exchange(bytes);
    let forwarded = "GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 198.51.100.7, 203.0.113.9\r\n\r\n";
    assert_eq!(ask("web", forwarded).text(), "app /");
    let route = app.take_request("web").value("x-forwarded-for").map(str::to_owned);
    assert_eq!(route.as_deref(), Some("198.51.100.7, 203.0.113.9, 127.0.0.1"));
    let introduced = "PROXY TCP4 198.51.100.8 10.0.0.1 5000 80\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    assert_eq!(ask("tcp", introduced).text(), "app /");
    assert_eq!(app.take_request("tcp").value("x-forwarded-for"), Some("198.51.100.8"));
    assert_eq!(ask("direct", forwarded).text(), "app /");
    assert_eq!(app.take_request("direct").value("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(
        ask("direct", "GET /mail HTTP/1.1\r\nHost: a.example\r\n\r\n").text(),
        "mail"
    );
    let received = mail.received(0);
    assert_eq!((&received[..16], &received[16..20]), (&header[..], &[127, 0, 0, 1][..]));
}

#[test]
fn filters_check_change_and_rewrite() {
    let app = Upstream::answering(|request| {
        let target = request.target();
        format!(
            "HTTP/1.1 200 OK\r\nServer: secret\r\nContent-Length: {}\r\n\r\n{target}",
            target.len()
        )
        .into()
    });
    let to_app = app.address().to_string();
    let proxy = Proxy::start(&example(
        "filters.yaml",
        &[(COMPONENTS, &components()), ("127.0.0.1:9000", &to_app)],
    ));
    let site = ask(&proxy, "a.example", "/", "X-Debug: 1\r\n");
    assert_eq!(
        (site.value("x-content-type-options"), site.value("server")),
        (Some("nosniff"), None)
    );
    assert_eq!(app.take_request("site").value("x-debug"), None);
    let old = ask(&proxy, "a.example", "/old/x", "Cookie: a=b\r\n");
    assert_eq!(
        (old.text(), old.value("x-served-by"), old.value("x-deprecated")),
        ("/new/x".into(), Some("tamis"), Some("true"))
    );
    let request = app.take_request("old");
    assert_eq!(
        (request.value("x-proxy"), request.value("cookie")),
        (Some("tamis"), None)
    );
    for fields in [
        "",
        "X-Tenant: acme\r\n",
        "X-Tenant: acme\r\nX-Api-Key: wrong\r\n",
        "X-Tenant: other\r\n",
    ] {
        let status = ask(&proxy, "a.example", "/api/x", fields).status();
        assert!((400..500).contains(&status), "{fields}: {status}");
    }
    assert!(app.take_requests().is_empty());
}

#[test]
fn canary_puts_new_versions_on_trial() {
    let app = named("app");
    let to_app = app.address().to_string();
    let proxy = Proxy::start(&example(
        "canary.yaml",
        &[(COMPONENTS, &components()), ("127.0.0.1:9000", &to_app)],
    ));
    // Who is known to the candidate alone comes through now and then, who is known to both always.
    for _ in 0..20 {
        assert_eq!(ask(&proxy, "a.example", "/", "X-Tenant: acme\r\n").text(), "app /");
    }
    let exchanges = |filter: &str| filter_state(&proxy, filter)["candidate"]["exchanges"]["stable"].clone();
    wait_until("the trials are under way", || exchanges("tenant").as_u64() > Some(0));
    for filter in ["tenant", "quota"] {
        assert_eq!(filter_state(&proxy, filter)["candidate"]["state"], "trying", "{filter}");
    }
}

/// On both sides: nginx asks the proxy for its certificate, and says whose it saw.
#[test]
fn mtls_api_shows_certificates_to_clients_and_servers() {
    let (site, callers, internal) = (
        Authority::new("Site"),
        Authority::new("Callers"),
        Authority::new("Internal"),
    );
    let folder = Folder::new();
    site.issue(&["api.example"]).put(&folder, "certificates/api");
    internal.issue(&["tamis.internal"]).put(&folder, "certificates/tamis");
    folder.write("certificates/callers.pem", callers.pem());
    folder.write("certificates/internal.pem", internal.pem());
    let home = Folder::new();
    internal.issue(&["app.internal"]).put(&home, "site");
    home.write("ca.pem", internal.pem());
    let nginx = Nginx::start_with(
        &home,
        "ssl",
        "ssl_certificate site.pem; ssl_certificate_key site.key; ssl_client_certificate ca.pem; ssl_verify_client on; \
         location / { return 200 \"$ssl_client_s_dn for $http_x_forwarded_client_cert\"; }",
    );
    let endpoint = nginx.address().to_string();
    // Nobody is there in the other one's place.
    let nobody = Refusing::new();
    let other = nobody.address().to_string();
    let places = [("127.0.0.1:9443", &*endpoint), ("127.0.0.1:9444", &*other)];
    let proxy = Proxy::start_in(&folder, &example("mtls-api.yaml", &places));
    let address: Address = proxy.address("api");
    let mut nobody = TlsClient::connect(&address, "api.example", &Trust::in_authority(&site));
    assert!(nobody.get("/v1/x").is_err());
    let caller = Trust::showing(&site, &callers.issue(&["caller.example"]));
    let (status, _, body) = TlsClient::connect(&address, "api.example", &caller)
        .get("/v1/x")
        .expect("an answer");
    let body = String::from_utf8_lossy(&body);
    assert_eq!(status, 200, "{body}");
    assert!(body.starts_with("CN=tamis.internal for Hash="), "{body}");
    assert!(body.contains("DNS=caller.example"), "{body}");
}
