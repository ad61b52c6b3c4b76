//! TLS towards upstreams: nginx as origin and as client, and servers that are not to be believed. Row 113 of the faults.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use tamis_integration::nginx::Nginx;
use tamis_integration::socket::Address;
use tamis_integration::{Folder, Proxy, Step, Upstream};

use crate::certificates::{Authority, Pair, Wish, openssl, self_signed, site};
use crate::support::{Configuration, each};
use crate::tls::{SITE, listening};

const NGINX_SITE: &str = "ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate site.pem; ssl_certificate_key site.key;";

fn over_tls(endpoint: &Address, tls: &str) -> String {
    let cluster = format!("tls: {{ {tls} }}");
    let configuration = Configuration {
        top: "access_log: { file: access.log }",
        cluster: &cluster,
        ..Default::default()
    };
    configuration.with(&[endpoint])
}

#[test]
fn nginx_answers_through_tls_and_its_sessions_are_resumed() {
    let (folder, _) = site(&["origin.example"]);
    let server = format!(
        "{NGINX_SITE} keepalive_requests 2; ssl_session_cache shared:s:1m;
         add_header x-reused $ssl_session_reused; add_header x-name $ssl_server_name;
         add_header x-protocol $ssl_protocol; add_header x-alpn $ssl_alpn_protocol; location / {{ return 200 ok; }}"
    );
    let nginx = Nginx::start_with(&folder, "ssl", &server);
    let proxy = Proxy::start_in(
        &folder,
        &over_tls(nginx.address(), "ca: ca.pem, server_name: origin.example"),
    );
    let mut client = proxy.client();
    for number in 0..6 {
        let response = client.get("/");
        assert_eq!((response.status(), &*response.text()), (200, "ok"), "{number}");
        assert_eq!(response.value("x-name"), Some("origin.example"));
        assert_eq!(response.value("x-protocol"), Some("TLSv1.3"));
        assert_eq!(response.value("x-alpn"), Some("http/1.1"));
        let resumed = if number < 2 { "." } else { "r" };
        assert_eq!(response.value("x-reused"), Some(resumed), "{number}");
    }
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("tamis_upstream_connections_opened_total", &[]), 3.0);
    assert_eq!(metrics.sum("tamis_upstream_connections_reused_total", &[]), 3.0);
}

#[test]
fn a_cluster_shows_its_own_certificate() {
    let (folder, authority) = site(&["origin.example"]);
    authority.issue(&["tamis.example"]).put(&folder, "client");
    let server = format!(
        "{NGINX_SITE} ssl_client_certificate ca.pem; ssl_verify_client on;
         add_header x-subject $ssl_client_s_dn; location / {{ return 200 ok; }}"
    );
    let nginx = Nginx::start_with(&folder, "ssl", &server);
    let tls = "ca: ca.pem, server_name: origin.example";
    let shown = format!("{tls}, client_certificate: {{ cert: client.pem, key: client.key }}");
    let proxy = Proxy::start_in(&folder, &over_tls(nginx.address(), &shown));
    let response = proxy.get("/");
    assert_eq!(
        (response.status(), response.value("x-subject")),
        (200, Some("CN=tamis.example"))
    );
    // Another certificate is another cluster: connections of the one before are not used for it.
    let generation = proxy.generation();
    authority.issue(&["next.example"]).put(&folder, "client");
    proxy.wait_generation(generation + 1);
    crate::support::wait_until("the new pair is in", || {
        proxy.get("/").value("x-subject") == Some("CN=next.example")
    });
    crate::support::apply(&proxy, &over_tls(nginx.address(), tls));
    assert_eq!(proxy.get("/").status(), 400, "nginx asks for one");
}

/// nginx on both sides, bodies of some megabytes both ways, two pieces of TLS in between.
#[test]
fn large_bodies_pass_unchanged_both_ways() {
    let (folder, _) = site(&["a.example", "origin.example"]);
    let server = format!("{NGINX_SITE} location /upload/ {{ dav_methods PUT; }}");
    let origin = Nginx::start_with(&folder, "ssl", &server);
    let yaml = listening(&Upstream::saying(""), SITE, "", "");
    let at = yaml.find("endpoints: ").unwrap();
    let end = at + yaml[at..].find(']').unwrap() + 1;
    let cluster = format!(
        "endpoints: [\"{}\"], tls: {{ ca: ca.pem, server_name: origin.example }}",
        origin.address()
    );
    let yaml = [&yaml[..at], &cluster, &yaml[end..]].concat();
    let proxy = Proxy::start_in(&folder, &yaml);
    let front_folder = Folder::new();
    front_folder.copy(&folder.path("ca.pem"), "ca.pem");
    let front = format!(
        "location / {{ proxy_pass https://{}; proxy_ssl_name a.example; proxy_ssl_server_name on; proxy_ssl_verify on;
         proxy_ssl_trusted_certificate ca.pem; proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off;
         proxy_set_header Connection ''; proxy_set_header Host a.example; }}",
        proxy.address("web")
    );
    let nginx = Nginx::start_with(&front_folder, "", &front);
    let body: Vec<u8> = (0..1_500_000u64)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    let input = folder.write("input", &body);
    for (round, direct) in [false, true].into_iter().enumerate() {
        let (url, folder) = match direct {
            false => (format!("http://{}/upload/file{round}", nginx.address()), &folder),
            true => (
                format!(
                    "https://a.example:{}/upload/file{round}",
                    crate::certificates::port(&proxy.address("web"))
                ),
                &folder,
            ),
        };
        let resolve = format!(
            "a.example:{}:127.0.0.1",
            crate::certificates::port(&proxy.address("web"))
        );
        let common = ["--cacert", "ca.pem", "--resolve", &resolve, "--fail"];
        let put = [&common[..], &["--upload-file", input.to_str().unwrap(), &url]].concat();
        let (code, printed) = crate::certificates::curl(folder, &put);
        assert_eq!(code, 0, "{printed}");
        let (code, printed) = crate::certificates::curl(folder, &[&common[..], &["--output", "output", &url]].concat());
        assert_eq!(code, 0, "{printed}");
        let got = std::fs::read(folder.path("output")).unwrap();
        assert!(got == body, "round {round}: {} bytes", got.len());
    }
}

/// A server that somebody else wrote, on a port of its own choice.
struct OpensslServer {
    child: Child,
    address: Address,
}

impl OpensslServer {
    fn start(folder: &Folder, arguments: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-www"])
            .args(arguments)
            .current_dir(folder.root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed");
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "openssl ended: {arguments:?}");
            if let Some(address) = line.trim().strip_prefix("ACCEPT ") {
                break Address::parse(address);
            }
        };
        thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Self { child, address }
    }
}

impl Drop for OpensslServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Row 113.
#[test]
fn who_is_not_to_be_believed_is_a_502() {
    let (folder, authority) = site(&["origin.example"]);
    let stranger = Authority::new("Test Authority");
    let put = |name: &str, pair: Pair| pair.put(&folder, name);
    put("expired", authority.grant(&Wish::of(&["origin.example"]).ends_in(-1)));
    put("wrong", authority.issue(&["other.example", "*.origin.example"]));
    put("self", self_signed(&["origin.example"]));
    put("stranger", stranger.issue(&["origin.example"]));
    let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=a -addext subjectAltName=DNS:origin.example";
    let made = |name: &str, more: &str| {
        let command = format!("{new} -keyout {name}.key -out {name}.pem {more}");
        let made = openssl(&folder, &command.split_whitespace().collect::<Vec<_>>(), "");
        assert!(made.status.success(), "{made:?}");
    };
    made("authority", "");
    made("own", "-addext basicConstraints=critical,CA:FALSE");
    let trusted = ["ca", "authority", "own"].map(|name| folder.read(&format!("{name}.pem")));
    folder.write("ca.pem", trusted.concat());
    let tls = "ca: ca.pem, server_name: origin.example";
    let pair = |name: &str| {
        vec![
            "-cert".to_owned(),
            format!("{name}.pem"),
            "-key".to_owned(),
            format!("{name}.key"),
        ]
    };
    let with = |name: &str, more: &[&str]| {
        let more = more.iter().map(|word| (*word).to_owned());
        pair(name).into_iter().chain(more).collect::<Vec<_>>()
    };
    each(
        [
            ("good", with("site", &[]), 200, ""),
            ("expired", with("expired", &[]), 502, "xpired"),
            ("wrong name", with("wrong", &[]), 502, "name"),
            ("self-signed", with("self", &[]), 502, ""),
            ("unknown authority", with("stranger", &[]), 502, ""),
            ("an authority's own", with("authority", &[]), 502, "CA:FALSE"),
            ("self-signed and trusted", with("own", &[]), 200, ""),
            (
                "TLS 1.0",
                with("site", &["-tls1", "-cipher", "ALL:@SECLEVEL=0"]),
                502,
                "rotocol",
            ),
            ("ALPN mismatch", with("site", &["-alpn", "spdy/3"]), 502, "rotocol"),
        ],
        |(name, ..)| (*name).to_owned(),
        |(name, arguments, status, says)| {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let server = OpensslServer::start(&folder, &arguments);
            let home = Folder::new();
            home.copy(&folder.path("ca.pem"), "ca.pem");
            let yaml = over_tls(&server.address, tls);
            home.write("tamis.yaml", &yaml);
            let proxy = Proxy::start_in(&home, &yaml);
            let response = proxy.get("/");
            assert_eq!(response.status(), *status, "{response:?}");
            let lines = home.wait_lines("access.log", 1);
            let record: Value = serde_json::from_str(&lines[0]).unwrap();
            let failures = proxy
                .metrics()
                .sum("tamis_upstream_failures_total", &[("kind", "upstream_tls")]);
            if *status == 200 {
                assert_eq!((&record["reason"], failures), (&Value::Null, 0.0));
                return;
            }
            assert_eq!((&record["reason"], failures), (&"upstream_tls".into(), 1.0), "{record}");
            assert!(!response.text().contains("ertificate"), "{}", response.text());
            let why = proxy.log().wait_message("a TLS handshake with an upstream failed");
            assert!(why.field("error").contains(says), "{}", why.text);
            // Only a name or an authority can be forgiven.
            let believes = !["TLS 1.0", "ALPN mismatch"].contains(name);
            let careless = over_tls(&server.address, "unsafe_skip_verify: true, server_name: origin.example");
            crate::support::apply(&proxy, &careless);
            assert_eq!(proxy.get("/").status(), if believes { 200 } else { 502 });
        },
    );
}

#[test]
fn who_speaks_no_tls_is_a_502() {
    let (folder, _) = site(&["origin.example"]);
    // As servers answer what they take for a request.
    let plain = Upstream::each([vec![
        Step::Bytes(5),
        Step::send("HTTP/1.1 400 Bad Request\r\n\r\n"),
        Step::Hold,
    ]]);
    let proxy = Proxy::start_in(
        &folder,
        &over_tls(plain.address(), "ca: ca.pem, server_name: origin.example"),
    );
    assert_eq!(proxy.get("/").status(), 502);
    assert!(plain.requests().is_empty());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(silent.local_addr().unwrap());
    let yaml = over_tls(&address, "ca: ca.pem, server_name: origin.example");
    let yaml = yaml.replace(", tls:", ", connect_timeout: 300ms, tls:");
    crate::support::apply(&proxy, &yaml);
    assert_eq!(proxy.get("/").status(), 504, "the handshake is part of connecting");
}

/// By default the name is the endpoint's own address, and the authorities are the system's.
#[test]
fn verification_is_on_by_default() {
    let (folder, authority) = site(&["127.0.0.1"]);
    let server = format!("{NGINX_SITE} location / {{ return 200 ok; }}");
    let nginx = Nginx::start_with(&folder, "ssl", &server);
    let proxy = Proxy::start_in(&folder, &over_tls(nginx.address(), "ca: ca.pem"));
    assert_eq!(proxy.get("/").status(), 200);
    if std::path::Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        crate::support::apply(&proxy, &over_tls(nginx.address(), ""));
        assert_eq!(proxy.get("/").status(), 502, "the system trusts nobody of ours");
    }
    drop(authority);
}

/// A server of one answer, which goes without saying that this was all.
fn abrupt(pair: &Pair, answer: &'static [u8]) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    thread::spawn(move || {
        for socket in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, socket.unwrap());
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
                request.push(byte[0]);
            }
            stream.write_all(answer).unwrap();
            stream.flush().unwrap();
        }
    });
    address
}

/// RFC 9112 section 9.8.
#[test]
fn an_answer_that_was_cut_off_is_not_whole() {
    let (folder, authority) = site(&["origin.example"]);
    let pair = authority.issue(&["origin.example"]);
    let tls = "ca: ca.pem, server_name: origin.example";
    let sized = abrupt(&pair, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhalf");
    let proxy = Proxy::start_in(&folder, &over_tls(&sized, tls));
    assert_eq!(proxy.get("/").text(), "half", "its length says that it is whole");
    let open = abrupt(&pair, b"HTTP/1.1 200 OK\r\n\r\nhalf");
    crate::support::apply(&proxy, &over_tls(&open, tls));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let ending = client.ending();
    let text = ending.bytes.escape_ascii().to_string();
    assert!(!text.ends_with("0\\r\\n\\r\\n"), "{text}");
}
