//! Origins that others wrote, Apache and Node: what comes through the proxy is what they say to one's face.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tamis_integration::apache::Apache;
use tamis_integration::socket::Address;
use tamis_integration::{Client, Message, Proxy};

use crate::support::{Configuration, each};

/// Of a connection, or of the moment. The end of a connection may become that of chunks.
const OF_THE_HOP: [&str; 5] = ["date", "via", "connection", "keep-alive", "transfer-encoding"];
/// No buffer on the way holds so much.
const LARGE: usize = 8 << 20;

struct Node {
    child: Child,
    address: Address,
}

impl Node {
    fn start() -> Self {
        let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers/origin.cjs");
        let mut child = Command::new("node")
            .arg(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is installed");
        let mut port = String::new();
        let output = child.stdout.as_mut().expect("it is a pipe");
        BufReader::new(output).read_line(&mut port).expect("it is text");
        let port = port.trim().parse().expect("it says its port");
        Self {
            child,
            address: Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn request(line: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{line} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
    [head.as_bytes(), body].concat()
}

fn sized(line: &str, body: &[u8]) -> Vec<u8> {
    request(line, &format!("Content-Length: {}\r\n", body.len()), body)
}

fn chunked(line: &str, body: &[u8]) -> Vec<u8> {
    let mut framed = Vec::new();
    for piece in body.chunks(100_000) {
        framed.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        framed.extend_from_slice(piece);
        framed.extend_from_slice(b"\r\n");
    }
    framed.extend_from_slice(b"0\r\n\r\n");
    request(line, "Transfer-Encoding: chunked\r\n", &framed)
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count as u64)
        .map(|index| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8)
        .collect()
}

fn answer(address: &Address, request: &[u8]) -> Message {
    let mut client = Client::connect(address);
    // An origin may answer before it has read all of it.
    client.try_send(request);
    match request.starts_with(b"HEAD") {
        true => client.response_to_head(),
        false => client.response(),
    }
}

/// But for the reason phrase, which is nobody's to pass on (RFC 9112 4).
fn form(message: &Message) -> String {
    let form = message.canonical(&OF_THE_HOP);
    let (_, rest) = form.split_once('\n').unwrap_or_default();
    format!("{}\n{rest}", message.status())
}

fn assert_same(proxy: &Proxy, origin: &Address, request: &[u8]) {
    let (direct, through) = (answer(origin, request), answer(&proxy.address("web"), request));
    let forms = [form(&direct), form(&through)];
    let shown = forms.each_ref().map(|form| form.get(..1000).unwrap_or(form));
    assert!(forms[0] == forms[1], "{shown:#?}");
    assert_eq!(direct.trailers, through.trailers);
}

fn proxy_to(origin: &Address) -> Proxy {
    Proxy::start(&Configuration::default().with(&[origin]))
}

#[test]
fn node_says_the_same_through_the_proxy() {
    let node = Node::start();
    let proxy = proxy_to(&node.address);
    let cases = [
        ("sized", request("GET /sized", "", b"")),
        ("chunked", request("GET /chunked", "", b"")),
        ("trailers", request("GET /trailers", "TE: trailers\r\n", b"")),
        ("204", request("GET /empty", "", b"")),
        ("304", request("GET /fresh", "If-None-Match: \"one\"\r\n", b"")),
        ("cookies", request("GET /cookies", "Cookie: c=3; d=4\r\n", b"")),
        ("not found", request("GET /nothing?a=b", "", b"")),
        ("HEAD, sized", request("HEAD /sized", "", b"")),
        ("HEAD, chunked", request("HEAD /chunked", "", b"")),
        ("103 first", request("GET /hints", "", b"")),
        (
            "100 first",
            request("POST /sum", "Expect: 100-continue\r\nContent-Length: 3\r\n", b"abc"),
        ),
        ("sum of a sized body", sized("POST /sum", &bytes(LARGE))),
        ("sum of a chunked body", chunked("PUT /sum", &bytes(LARGE))),
        ("sum of nothing", sized("POST /sum", b"")),
        ("echo", chunked("POST /echo", &bytes(100_000))),
        ("a DELETE with a body", sized("DELETE /sum", b"what to delete")),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(_, request)| assert_same(&proxy, &node.address, request),
    );
}

/// Large in both directions at once.
#[test]
fn node_echoes_while_it_is_sent_to() {
    let node = Node::start();
    let proxy = proxy_to(&node.address);
    let body = bytes(LARGE);
    let mut client = proxy.client();
    let mut sender = client.sender();
    let head = format!("POST /echo HTTP/1.1\r\nHost: a.example\r\nContent-Length: {LARGE}\r\n\r\n");
    let request = [head.as_bytes(), &body].concat();
    let echo = std::thread::scope(|scope| {
        scope.spawn(move || sender.write_all(&request).expect("the proxy takes the bytes"));
        client.response()
    });
    assert!(echo.body == body, "{} bytes came back changed", echo.body.len());
    assert_eq!(proxy.client().get("/sized").text(), "hello");
}

/// An answer that overtakes its request: the client has it, and nobody else gets what is left of either.
#[test]
fn node_may_answer_before_it_has_read() {
    let node = Node::start();
    let proxy = proxy_to(&node.address);
    for _ in 0..20 {
        let mut client = proxy.client();
        client.send("POST /early HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000000\r\n\r\n");
        client.send(vec![b'x'; 10_000]);
        let answer = client.response();
        assert_eq!((answer.status(), answer.text().as_str()), (413, "too large"));
        assert!(answer.closes());
        assert_eq!(proxy.client().get("/sized").text(), "hello");
    }
}

#[test]
fn apache_says_the_same_through_the_proxy() {
    let apache = Apache::start();
    let proxy = proxy_to(apache.address());
    let cases = [
        ("a file", request("GET /small", "", b"")),
        ("HEAD", request("HEAD /small", "", b"")),
        (
            "a range",
            request("GET /packed/text.txt", "Range: bytes=16-31\r\n", b""),
        ),
        (
            "a range beyond the end",
            request("GET /small", "Range: bytes=5-\r\n", b""),
        ),
        (
            "compressed, chunked",
            request("GET /packed/text.txt", "Accept-Encoding: gzip\r\n", b""),
        ),
        ("a redirect", request("GET /old/place?x=1", "", b"")),
        ("not found", request("GET /nothing", "", b"")),
        ("not allowed", sized("POST /small", b"x")),
        ("OPTIONS", request("OPTIONS /upload/", "", b"")),
        ("too large, announced", sized("PUT /small-only/file", &bytes(2_000))),
        (
            "no range",
            request("GET /small", "If-Range: \"x\"\r\nRange: bytes=0-0\r\n", b""),
        ),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(_, request)| assert_same(&proxy, apache.address(), request),
    );
}

/// Put, fetched and removed; and three requests a connection are all that this origin grants.
#[test]
fn apache_keeps_what_is_put() {
    let apache = Apache::start();
    let proxy = proxy_to(apache.address());
    let mut client = proxy.client();
    let body = bytes(LARGE);
    let puts = [
        sized("PUT /upload/file", &body),
        chunked("PUT /upload/file", &body[..LARGE / 3]),
    ];
    for (put, (expected, length)) in puts.iter().zip([(201, LARGE), (204, LARGE / 3)]) {
        assert_eq!(client.exchange(put).status(), expected);
        let fetched = client.get("/upload/file");
        let tag = fetched.value("etag").expect("Apache gives one").to_owned();
        assert!(fetched.body == body[..length], "it came back changed");
        let again = client.exchange(request("GET /upload/file", &format!("If-None-Match: {tag}\r\n"), b""));
        assert_eq!((again.status(), again.body.len()), (304, 0));
    }
    assert_eq!(client.exchange(request("DELETE /upload/file", "", b"")).status(), 204);
    assert_eq!(client.get("/upload/file").status(), 404);
    for _ in 0..60 {
        assert_eq!(client.get("/small").text(), "ok");
    }
    let failed = proxy.metrics().sum("tamis_upstream_failures_total", &[]);
    assert_eq!(failed, 0.0);
}
