//! Clients that show certificates: who comes in, what is known of them, and that no ticket opens a door. Rows 118 and 119
//! of the faults.

use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tamis_integration::{DEADLINE, Folder, Proxy, Upstream};

use crate::certificates::{Authority, Kind, Pair, TlsClient, Trust, Wish, curl, openssl, port, self_signed, site};
use crate::support::{apply, each, folder_with, wait_until};
use crate::tls::{SITE, listening};

const REQUIRED: &str = "certificates: [{ cert: site.pem, key: site.key }], client_ca: clients.pem";
const OPTIONAL: &str =
    "certificates: [{ cert: site.pem, key: site.key }], client_ca: clients.pem, client_auth: optional";

struct Scene {
    folder: Folder,
    site: Authority,
    clients: Authority,
    upstream: Upstream,
    proxy: Proxy,
}

/// A listener that asks for certificates of the authority of clients.
fn scene(tls: &str) -> Scene {
    let (folder, site) = site(&["a.example"]);
    let clients = Authority::new("Clients");
    folder.write("clients.pem", clients.pem());
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start_in(&folder, &listening(&upstream, tls, "", ""));
    Scene {
        folder,
        site,
        clients,
        upstream,
        proxy,
    }
}

impl Scene {
    /// What `curl` makes of it with this client's certificate: its exit code, and the body.
    fn curl(&self, shown: Option<&Pair>) -> (i32, String) {
        if let Some(pair) = shown {
            pair.put(&self.folder, "client");
        }
        let port = port(&self.proxy.address("web"));
        let (resolve, url) = (
            format!("a.example:{port}:127.0.0.1"),
            format!("https://a.example:{port}/"),
        );
        let mut arguments = vec!["--cacert", "ca.pem", "--resolve", &resolve, &url];
        if shown.is_some() {
            arguments.extend(["--cert", "client.pem", "--key", "client.key"]);
        }
        curl(&self.folder, &arguments)
    }

    fn fingerprint(&self) -> String {
        let arguments = ["x509", "-in", "client.pem", "-noout", "-fingerprint", "-sha256"];
        let printed = openssl(&self.folder, &arguments, "").stdout;
        let printed = String::from_utf8(printed).unwrap();
        printed
            .split_once('=')
            .unwrap()
            .1
            .trim()
            .replace(':', "")
            .to_lowercase()
    }
}

fn web_client() -> Wish {
    Wish {
        subject: "web 1, \"quoted\"".to_owned(),
        uris: vec!["spiffe://acme/web".to_owned()],
        ..Wish::of(&["web.acme.example", "127.0.0.1"])
    }
}

#[test]
fn who_shows_a_certificate_is_known_by_it() {
    let scene = scene(REQUIRED);
    let pair = scene.clients.grant(&web_client());
    assert_eq!(scene.curl(Some(&pair)), (0, "ok".to_owned()));
    let request = scene.upstream.take_request("one request");
    let fingerprint = scene.fingerprint();
    let shown = request.value("x-forwarded-client-cert").unwrap();
    let expected = format!(
        "Hash={fingerprint};Subject=\"CN=web 1\\\\, \\\\\\\"quoted\\\\\\\"\";DNS=web.acme.example;URI=spiffe://acme/web"
    );
    assert_eq!(shown, expected);
    let lines = scene.folder.wait_lines("access.log", 1);
    let record: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(record["client_fingerprint"], *fingerprint);
    assert_eq!(record["client_subject"], "CN=web 1\\, \\\"quoted\\\"");
    assert_eq!(
        record["client_sans"],
        "DNS:web.acme.example,IP:127.0.0.1,URI:spiffe://acme/web"
    );
}

/// Row 119.
#[test]
fn who_has_none_that_counts_stays_outside() {
    let scene = scene(REQUIRED);
    let other = Authority::new("Clients");
    let rsa = Wish {
        kind: Kind::Rsa,
        ..web_client()
    };
    each(
        [
            ("none", None, None),
            ("good", Some(scene.clients.grant(&web_client())), Some("")),
            ("RSA", Some(scene.clients.grant(&rsa)), Some("")),
            ("expired", Some(scene.clients.grant(&web_client().ends_in(-1))), None),
            (
                "another authority of the same name",
                Some(other.grant(&web_client())),
                None,
            ),
            ("self-signed", Some(self_signed(&["web.acme.example"])), None),
            ("the server's authority", Some(scene.site.grant(&web_client())), None),
        ],
        |(name, ..)| (*name).to_owned(),
        |(_, pair, good)| {
            let (code, body) = scene.curl(pair.as_ref());
            assert_eq!(code == 0, good.is_some(), "{code} {body}");
            assert_eq!(body == "ok", good.is_some(), "{code} {body}");
        },
    );
    assert_eq!(scene.upstream.requests().len(), 2, "nobody else has got through");
    let outcome = |outcome| {
        scene
            .proxy
            .metrics()
            .sum("tamis_tls_handshakes_total", &[("outcome", outcome)])
    };
    assert_eq!((outcome("no_certificate"), outcome("bad_certificate")), (1.0, 4.0));
}

#[test]
fn where_it_is_optional_filters_and_upstreams_decide() {
    let scene = scene(OPTIONAL);
    assert_eq!(scene.curl(None), (0, "ok".to_owned()));
    assert_eq!(
        scene.upstream.take_request("without").value("x-forwarded-client-cert"),
        None
    );
    assert_eq!(
        scene.curl(Some(&scene.clients.grant(&web_client()))),
        (0, "ok".to_owned())
    );
    let request = scene.upstream.take_request("with");
    assert!(
        request
            .value("x-forwarded-client-cert")
            .is_some_and(|value| value.starts_with("Hash="))
    );
    let (code, _) = scene.curl(Some(&self_signed(&["web.acme.example"])));
    assert_ne!(code, 0, "one that is shown has to be good");
}

#[test]
fn filters_see_the_certificate() {
    let (folder, site) = site(&["a.example"]);
    let components = folder_with(&["everything"]);
    folder.copy(&components.path("everything.wasm"), "everything.wasm");
    let clients = Authority::new("Clients");
    folder.write("clients.pem", clients.pem());
    let upstream = Upstream::saying("ok");
    let yaml = listening(&upstream, REQUIRED, "", "filters: [everything]").replace(
        "clusters:\n",
        "filters:\n  everything: { component: everything.wasm, grants: [metrics, clock, random, key_value, \
         { outbound: [] }] }\nclusters:\n",
    );
    let proxy = Proxy::start_in(&folder, &yaml);
    let pair = clients.grant(&web_client());
    let mut client = TlsClient::connect(&proxy.address("web"), "a.example", &Trust::showing(&site, &pair));
    let (status, head, _) = client
        .exchange(b"GET / HTTP/1.1\r\nHost: a.example\r\nX-Act: peer\r\n\r\n")
        .unwrap();
    pair.put(&folder, "client");
    let der = openssl(&folder, &["x509", "-in", "client.pem", "-outform", "der"], "").stdout;
    let expected = format!("Some(\"a.example\") None {}", der.len());
    assert!(status == 200 && head.contains(&expected), "{expected}: {head}");
}

/// Where a request goes says its client's certificate, and nothing that the client can write.
#[test]
fn routes_ask_for_certificates() {
    let scene = scene(OPTIONAL);
    let pinned = scene.clients.grant(&Wish {
        subject: "pinned".to_owned(),
        ..Wish::of(&["pinned.example"])
    });
    pinned.put(&scene.folder, "client");
    let said = |name: &str, asked: &str| {
        format!(
            "  - {{ name: {name}, match: {{ client_certificate: {{ {asked} }} }}, respond: {{ status: 200, body: {name} }} }}\n"
        )
    };
    let routes = [
        said(
            "pinned",
            &format!("fingerprint: [{}, {}]", "0".repeat(64), scene.fingerprint()),
        ),
        said("both", "subject: \"CN=both\", san: \"DNS:both.example\""),
        said("subject", "subject: { regex: \"CN=sub.*\" }"),
        said("uri", "san: { regex: \"URI:spiffe://acme/.+\" }"),
        said("dns", "san: \"DNS:dns.example\""),
        said("any", "present: true"),
    ];
    let yaml = listening(&scene.upstream, OPTIONAL, "", "");
    apply(
        &scene.proxy,
        &yaml.replace("routes:\n", &format!("routes:\n{}", routes.concat())),
    );
    let wish = |subject: &str, names: &[&str], uri: Option<&str>| Wish {
        subject: subject.to_owned(),
        uris: uri.map(str::to_owned).into_iter().collect(),
        ..Wish::of(names)
    };
    let granted = |wish: Wish| Some(scene.clients.grant(&wish));
    each(
        [
            ("pinned", Some(pinned)),
            ("both", granted(wish("both", &["other.example", "both.example"], None))),
            // Half of it is none of it.
            ("any", granted(wish("both", &["other.example"], None))),
            ("any", granted(wish("other", &["both.example"], None))),
            ("subject", granted(wish("subway", &["a.example"], None))),
            ("any", granted(wish("a sub", &["a.example"], None))),
            ("uri", granted(wish("a", &["a.example"], Some("spiffe://acme/web")))),
            ("any", granted(wish("a", &["a.example"], Some("spiffe://other/web")))),
            ("dns", granted(wish("a", &["dns.example"], None))),
            // A name of one kind is not one of another.
            (
                "any",
                granted(wish("dns.example", &["a.example"], Some("DNS:dns.example"))),
            ),
            ("ok", None),
        ],
        |(route, _)| (*route).to_owned(),
        |(route, pair)| assert_eq!(scene.curl(pair.as_ref()), (0, (*route).to_owned())),
    );
    // Nobody believes a client that writes down what it would have shown.
    let mut liar = TlsClient::connect(
        &scene.proxy.address("web"),
        "a.example",
        &Trust::in_authority(&scene.site),
    );
    let claim = "GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-Client-Cert: Subject=\"CN=subway\"\r\n\r\n";
    let (status, _, body) = liar.exchange(claim.as_bytes()).unwrap();
    assert_eq!((status, body), (200, b"ok".to_vec()));
}

/// Row 119.
#[test]
fn who_was_revoked_stays_outside() {
    let scene = scene(REQUIRED);
    let numbered = |serial| Wish { serial, ..web_client() };
    let (good, bad) = (scene.clients.grant(&numbered(5)), scene.clients.grant(&numbered(6)));
    for pair in [&good, &bad] {
        assert_eq!(scene.curl(Some(pair)).0, 0);
    }
    scene.folder.write("revoked.pem", scene.clients.revoke(&[6, 9]));
    let tls = format!("{REQUIRED}, client_crl: revoked.pem");
    apply(&scene.proxy, &listening(&scene.upstream, &tls, "", ""));
    assert_eq!(scene.curl(Some(&good)).0, 0);
    assert_ne!(scene.curl(Some(&bad)).0, 0);
    // The list is watched like everything else.
    let generation = scene.proxy.generation();
    scene.folder.replace("revoked.pem", scene.clients.revoke(&[5]));
    scene.proxy.wait_generation(generation + 1);
    assert_ne!(scene.curl(Some(&good)).0, 0);
    assert_eq!(scene.curl(Some(&bad)).0, 0);
}

/// Row 118: a session that was begun on other terms is not resumed, whoever has its ticket.
#[test]
fn a_ticket_opens_no_other_door() {
    let scene = scene(REQUIRED);
    let yaml = listening(&scene.upstream, REQUIRED, "", "");
    let doors = format!(
        "  open: {{ address: 127.0.0.1:0, tls: {{ {SITE} }} }}\n  \
         ajar: {{ address: 127.0.0.1:0, tls: {{ {OPTIONAL} }} }}\nclusters:\n"
    );
    apply(&scene.proxy, &yaml.replace("clusters:\n", &doors));
    for begun in ["open", "ajar"] {
        // One client, and so one store of tickets for the name.
        let trust = Trust::in_authority(&scene.site);
        let ask = |listener: &str| {
            let mut client = TlsClient::connect(&scene.proxy.address(listener), "a.example", &trust);
            let answer = client.get("/");
            (answer.is_ok(), client.is_resumed())
        };
        assert_eq!(ask(begun), (true, false), "{begun}");
        assert_eq!(ask(begun), (true, true), "{begun}");
        assert_eq!(ask("web"), (false, false), "{begun}");
    }
}

/// Row 118: what a listener asks for holds for all who have not asked yet, and for those who have at their next request.
#[test]
fn another_authority_is_another_door() {
    let scene = scene(REQUIRED);
    let trust = Trust::showing(&scene.site, &scene.clients.grant(&web_client()));
    let address = scene.proxy.address("web");
    let connect = || TlsClient::connect(&address, "a.example", &trust);
    let mut idle = connect();
    assert_eq!(idle.get("/").unwrap().0, 200);
    let mut second = connect();
    assert_eq!((second.get("/").unwrap().0, second.is_resumed()), (200, true));
    let others = Authority::new("Others");
    let generation = scene.proxy.generation();
    scene.folder.replace("clients.pem", others.pem());
    scene.proxy.wait_generation(generation + 1);
    let mut late = connect();
    assert!(late.get("/").is_err() && !late.is_resumed());
    // A request that was on its way may still be answered, with word of the end.
    let mut rest = Vec::new();
    assert!(
        idle.read_to_end(&mut rest).is_ok() && rest.is_empty(),
        "it is told to go"
    );
    let newcomer = Trust::showing(&scene.site, &others.grant(&web_client()));
    assert_eq!(
        TlsClient::connect(&address, "a.example", &newcomer).get("/").unwrap().0,
        200
    );
}

/// A session outlives no certificate.
#[test]
fn an_expired_certificate_resumes_nothing() {
    let scene = scene(REQUIRED);
    let soon = SystemTime::now() + Duration::from_secs(6);
    let wish = Wish {
        until: soon,
        ..web_client()
    };
    let trust = Trust::showing(&scene.site, &scene.clients.grant(&wish));
    let ask = || {
        let mut client = TlsClient::connect(&scene.proxy.address("web"), "a.example", &trust);
        client.get("/").is_ok()
    };
    assert!(ask() && ask(), "it holds still");
    wait_until("it is over", || SystemTime::now() > soon + Duration::from_secs(1));
    assert!(!ask(), "it is over");
}

/// Row 119: an authority that may vouch for one domain vouches for no other.
#[test]
fn an_authority_of_one_domain_vouches_for_no_other() {
    let scene = scene(REQUIRED);
    let bound = scene.clients.subordinate_for("Acme", "acme.example");
    let grant = |names: &[&str]| {
        let mut pair = bound.issue(names);
        pair.cert.push_str(&bound.pem());
        pair
    };
    assert_eq!(scene.curl(Some(&grant(&["web.acme.example"]))), (0, "ok".to_owned()));
    for names in [
        &["other.example"][..],
        &["web.acme.example", "other.example"],
        &["acme.example.other"],
    ] {
        let (code, body) = scene.curl(Some(&grant(names)));
        assert_ne!((code, &*body), (0, "ok"), "{names:?}");
    }
}

/// Row 119: a chain that is long costs no more than another.
#[test]
fn a_chain_of_fifty_is_refused_quickly() {
    let scene = scene(REQUIRED);
    let mut chain = Vec::new();
    let mut last = scene.clients.subordinate("1");
    for number in 2..=50 {
        let next = last.subordinate(&number.to_string());
        chain.insert(0, std::mem::replace(&mut last, next).pem());
    }
    let mut pair = last.grant(&web_client());
    pair.cert = [pair.cert, last.pem(), chain.concat()].concat();
    let begun = Instant::now();
    let (code, _) = scene.curl(Some(&pair));
    assert_ne!(code, 0);
    assert!(begun.elapsed() < DEADLINE / 4, "{:?}", begun.elapsed());
    let short = scene.clients.subordinate("1");
    let mut pair = short.grant(&web_client());
    pair.cert = [pair.cert, short.pem()].concat();
    assert_eq!(scene.curl(Some(&pair)), (0, "ok".to_owned()));
}
