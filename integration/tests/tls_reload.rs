//! Certificates that change while the proxy serves, and what is said of those that are no good. Row 115 of the faults.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use serde_json::Value;
use tamis_integration::proxy::{CONFIGURATION, check, run_to_end};
use tamis_integration::{Folder, Proxy, Upstream};

use crate::certificates::{Pair, TlsClient, Trust, Wish, openssl, self_signed, site};
use crate::support::{each, wait_until};
use crate::tls::{SITE, listening};

fn der(folder: &Folder, name: &str) -> Vec<u8> {
    let file = format!("{name}.pem");
    openssl(folder, &["x509", "-in", &file, "-outform", "der"], "").stdout
}

fn last_reload(proxy: &Proxy) -> Value {
    let shown: Value = serde_json::from_slice(&proxy.admin("GET", "/config").body).unwrap();
    shown["last_reload"].clone()
}

#[test]
fn a_new_pair_is_for_new_connections() {
    let (folder, authority) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start_in(&folder, &listening(&upstream, SITE, "", ""));
    let (address, old) = (proxy.address("web"), der(&folder, "site"));
    // Each with a store of its own: a resumed session shows no certificate.
    let connect = || TlsClient::connect(&address, "a.example", &Trust::in_authority(&authority));
    let mut before = connect();
    assert_eq!((before.get("/").unwrap().0, before.shown()), (200, old.clone()));
    let generation = proxy.generation();
    authority.issue(&["a.example"]).put(&folder, "site");
    proxy.wait_generation(generation + 1);
    wait_until("both files are in", || {
        let mut client = connect();
        client.get("/").unwrap();
        client.shown() == der(&folder, "site")
    });
    assert_eq!((before.get("/").unwrap().0, before.shown()), (200, old));
    let report = last_reload(&proxy);
    let changes = &report["difference"]["listeners"]["changed"][0];
    assert_eq!(
        (&changes["name"], &changes["changes"][0]["key"]),
        (&"web".into(), &"tls.certificates[0].cert.sha256".into())
    );
    assert!(!report["difference"].to_string().contains(".key"), "{report}");
}

/// What is wrong with a pair, and what is said of it.
#[test]
fn a_bad_pair_changes_nothing() {
    let (folder, authority) = site(&["a.example"]);
    let good = authority.issue(&["a.example"]);
    good.put(&folder, "site");
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start_in(&folder, &listening(&upstream, SITE, "", ""));
    let address = proxy.address("web");
    let old = der(&folder, "site");
    let stranger = authority.issue(&["a.example"]);
    let half = good.cert[..good.cert.len() / 2].to_owned();
    each(
        [
            (
                "the key of another",
                good.cert.clone(),
                stranger.key.clone(),
                "certificates[0].key: ",
            ),
            ("half a certificate", half, good.key.clone(), "certificates[0].cert: "),
            (
                "half a key",
                good.cert.clone(),
                good.key[..40].to_owned(),
                "certificates[0].key: ",
            ),
            ("nothing", String::new(), good.key.clone(), "no certificate in it"),
            ("no key", good.cert.clone(), String::new(), "no private key in it"),
            (
                "the wrong way round",
                good.key.clone(),
                good.cert.clone(),
                "no certificate in it",
            ),
            (
                "garbage",
                "\0\u{1}garbage".to_owned(),
                good.key.clone(),
                "site.pem: no certificate in it",
            ),
        ],
        |(name, ..)| (*name).to_owned(),
        |(_, cert, key, says)| {
            let refused = || proxy.metrics().sum("tamis_reloads_total", &[("outcome", "refused")]);
            let before = refused();
            let pair = Pair {
                cert: cert.clone(),
                key: key.clone(),
            };
            pair.put(&folder, "site");
            let (_, report) = proxy.reload(&folder.read(CONFIGURATION));
            let errors = report["errors"].to_string();
            assert!(errors.contains(says) && errors.contains("tamis.yaml:7:"), "{errors}");
            assert!(errors.contains("listener `web`: tls.certificates[0]."), "{errors}");
            assert!(refused() > before, "there is an alarm");
            let mut client = TlsClient::connect(&address, "a.example", &Trust::in_authority(&authority));
            assert_eq!((client.get("/").unwrap().0, client.shown()), (200, old.clone()));
            good.put(&folder, "site");
        },
    );
    std::fs::remove_file(folder.path("site.key")).unwrap();
    let (_, report) = proxy.reload(&folder.read(CONFIGURATION));
    assert!(report["errors"].to_string().contains("No such file"), "{report}");
    good.put(&folder, "site");
    let mut client = TlsClient::connect(&address, "a.example", &Trust::in_authority(&authority));
    assert_eq!(client.get("/").unwrap().0, 200);
}

#[test]
fn a_hundred_new_pairs_under_load_lose_nothing() {
    let (folder, authority) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let yaml = listening(&upstream, SITE, "", "").replace("workers: 1", "workers: 2");
    let proxy = Proxy::start_in(&folder, &yaml);
    let address = proxy.address("web");
    let (stop, served, shaken) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let trust = Trust::in_authority(&authority);
    let generation = proxy.generation();
    thread::scope(|scope| {
        for requests in [1, 10, usize::MAX] {
            let trust = if requests == 10 {
                Trust::in_authority(&authority)
            } else {
                trust.clone()
            };
            let (address, stop, served, shaken) = (&address, &stop, &served, &shaken);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let mut client = TlsClient::connect(address, "a.example", &trust);
                    shaken.fetch_add(1, Ordering::SeqCst);
                    for _ in 0..requests {
                        let (status, head, body) = client.get("/").expect("a request was lost");
                        assert_eq!((status, &*body), (200, &b"ok"[..]));
                        served.fetch_add(1, Ordering::SeqCst);
                        // After so many requests it is told to come anew.
                        let is_last = head.to_ascii_lowercase().contains("connection: close");
                        if is_last || stop.load(Ordering::SeqCst) {
                            break;
                        }
                    }
                }
            });
        }
        let pairs: Vec<Pair> = (0..100).map(|_| authority.issue(&["a.example"])).collect();
        for pair in &pairs {
            // Together, as whoever renews them does it: between the two, the pair is none, and nothing is taken.
            pair.put(&folder, "site");
            let (status, report) = proxy.reload(&yaml);
            assert_eq!(status, 200, "{report}");
            let before = served.load(Ordering::SeqCst);
            wait_until("more is served", || served.load(Ordering::SeqCst) > before);
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert!(proxy.generation() >= generation + 100, "{}", proxy.generation());
    let (served, shaken) = (served.into_inner(), shaken.into_inner());
    assert!(
        served > 1_000 && shaken > 100,
        "{served} requests over {shaken} connections"
    );
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("tamis_requests_total", &[("code", "200")]), served as f64);
    assert_eq!(metrics.sum("tamis_tls_handshakes_total", &[]), shaken as f64);
}

/// Neither keeps anybody from being served.
#[test]
fn what_will_soon_be_wrong_is_a_warning() {
    let (folder, authority) = site(&["a.example"]);
    for (name, days) in [("expired", -1), ("soon", 10), ("late", 20)] {
        authority.grant(&Wish::of(&[name]).ends_in(days)).put(&folder, name);
    }
    for name in ["expired", "soon", "late"] {
        let mode = if name == "late" { 0o644 } else { 0o600 };
        let key = folder.path(&format!("{name}.key"));
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let pairs = ["expired", "soon", "late"].map(|name| format!("{{ cert: {name}.pem, key: {name}.key }}"));
    let upstream = Upstream::saying("ok");
    let yaml = listening(&upstream, &format!("certificates: [{}]", pairs.join(", ")), "", "");
    let (code, printed) = check(&folder, &yaml);
    assert_eq!(code, 0, "{printed}");
    let lines: Vec<_> = printed
        .lines()
        .filter(|line| line.contains("listener `web`: tls."))
        .collect();
    assert_eq!(lines.len(), 3, "{printed}");
    assert!(
        lines[0].contains("certificates[0].cert") && lines[0].contains("expired at 20"),
        "{printed}"
    );
    assert!(
        lines[1].contains("certificates[1].cert") && lines[1].contains("expires at 20"),
        "{printed}"
    );
    assert!(
        lines[2].contains("certificates[2].key") && lines[2].contains("chmod 600"),
        "{printed}"
    );
    let proxy = Proxy::start_in(&folder, &yaml);
    let warned = proxy.log().lines().into_iter().filter(|line| line.level() == "WARN");
    assert_eq!(
        warned
            .filter(|line| line.field("warning").contains("tls.certificates"))
            .count(),
        3
    );
    let metrics = proxy.metrics();
    let until = metrics.matching("tamis_tls_certificate_not_after_seconds", &[("listener", "web")]);
    assert_eq!(until.len(), 3, "{until:?}");
}

#[test]
fn faults_of_files_have_places() {
    let (folder, authority) = site(&["a.example"]);
    let pair = self_signed(&["b.example"]);
    pair.put(&folder, "b");
    folder.write("folder/inside", "");
    folder.write("clients.pem", authority.pem());
    let cluster = |tls: &str| {
        let upstream = Upstream::saying("ok");
        let yaml = listening(&upstream, SITE, "", "");
        yaml.replace("] }\nroutes", &format!("], tls: {{ {tls} }} }}\nroutes"))
    };
    let listener = |tls: &str| listening(&Upstream::saying("ok"), tls, "", "");
    each(
        [
            (
                listener("certificates: [{ cert: site.pem, key: b.key }]"),
                "7:",
                "is not the key of this certificate",
            ),
            (
                listener("certificates: [{ cert: no.pem, key: site.key }]"),
                "7:",
                "no.pem: No such file",
            ),
            (
                listener("certificates: [{ cert: folder, key: site.key }]"),
                "7:",
                "is a directory",
            ),
            (
                listener("certificates: [{ cert: /dev/zero, key: site.key }]"),
                "7:",
                "is not a regular file",
            ),
            (listener("certificates: []"), "7:", "empty"),
            (
                listener(&format!("{SITE}, client_ca: site.key")),
                "7:",
                "tls.client_ca: ",
            ),
            (
                listener(&format!("{SITE}, client_auth: required")),
                "7:",
                "needs `client_ca`",
            ),
            (
                listener(&format!("{SITE}, client_ca: clients.pem, client_crl: ca.pem")),
                "7:",
                "no revocation list",
            ),
            (cluster("ca: no.pem"), "11:", "tls.ca: "),
            (
                cluster("ca: ca.pem, unsafe_skip_verify: true"),
                "11:",
                "keep one of them",
            ),
            (cluster("server_name: 'a b'"), "11:", "is not a host name"),
            (
                cluster("client_certificate: { cert: site.pem, key: b.key }"),
                "11:",
                "tls.client_certificate.key: ",
            ),
            (
                cluster("{}")
                    .replace("endpoints: [\"127", "endpoints: [\"unix:x\", \"127")
                    .replace("{ {} }", "{}"),
                "11:",
                "server_name: missing",
            ),
        ],
        |(yaml, _, says)| format!("{says}: {yaml}"),
        |(yaml, place, says)| {
            let (code, printed) = check(&folder, yaml);
            assert_eq!(code, 1, "{printed}");
            assert!(
                printed.contains(says) && printed.contains(&format!("tamis.yaml:{place}")),
                "{printed}"
            );
        },
    );
}

#[test]
fn all_files_that_are_missing_are_named_at_once() {
    let tls = "certificates: [{ cert: a.pem, key: a.key }, { cert: b.pem, key: b.key }], \
               client_ca: ca.pem, client_crl: crl.pem, client_auth: required";
    let yaml = listening(&Upstream::saying("ok"), tls, "", "");
    let towards = "tls: { ca: up.pem, client_certificate: { cert: up.crt, key: up.key } }";
    let yaml = yaml.replace("] }\nroutes", &format!("], {towards} }}\nroutes"));
    let (code, printed) = check(&Folder::new(), &yaml);
    assert_eq!(code, 1, "{printed}");
    for file in [
        "a.pem", "a.key", "b.pem", "b.key", "ca.pem", "crl.pem", "up.pem", "up.crt", "up.key",
    ] {
        let named = |line: &str| line.contains(&format!(": {file}: No such file"));
        assert_eq!(
            printed.lines().filter(|line| named(line)).count(),
            1,
            "{file}: {printed}"
        );
    }
}

/// A new process in the place of this one.
#[test]
fn a_listener_survives_an_upgrade() {
    let (folder, authority) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    folder.write(CONFIGURATION, listening(&upstream, SITE, "", ""));
    let proxy = Proxy::launch(&folder, &["--state", "state", "--good-after", "0s"]);
    let (address, trust) = (proxy.address("web"), Trust::in_authority(&authority));
    let connect = || TlsClient::connect(&address, "a.example", &trust);
    let mut before = connect();
    assert_eq!(before.get("/").unwrap().0, 200);
    let output = run_to_end(&folder, &["upgrade", "--state", "state"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut rest = Vec::new();
    assert!(
        before.read_to_end(&mut rest).is_ok() && rest.is_empty(),
        "the old process says farewell"
    );
    let mut after = connect();
    assert_eq!(after.get("/").unwrap().0, 200);
    wait_until("the log says so", || proxy.heirs().len() == 1);
    let mut proxy = proxy;
    assert_eq!(proxy.wait_exit().code(), Some(0));
}
