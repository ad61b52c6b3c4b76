//! A service for WASI 0.2: one call an exchange, on streams that are waited for.
//!
//! ../README.md says what each path does. Where a client has gone away, the rest of the response is left unwritten: that
//! is no failure of the service's.

use std::fmt::Write as _;

use exports::wasi::http::incoming_handler::Guest;
use wasi::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam, Scheme,
};
use wasi::io::streams::{InputStream, OutputStream, StreamError};

wit_bindgen::generate!({ path: "../wit/0.2", world: "service", generate_all });

struct Service;

export!(Service);

/// What a blocking write takes at once, by WASI's definition.
const WRITE_BYTES: usize = 4096;
/// What is asked of the host at once when a body is copied.
const READ_BYTES: u64 = 64 << 10;
/// The body of `/large` is this, again and again.
const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// The fields of a request that its echo has too: what the body is, and which trailers come, without which HTTP/1.1
/// hosts send none.
const ECHOED: [&str; 2] = ["content-type", "trailer"];
/// Fields that hosts may keep to themselves, and two that are the guest's.
const TRIED: [&str; 12] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "host",
    "http2-settings",
    "te",
    "content-length",
    "x-own",
];

impl Guest for Service {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/hello" => answer(out, 200, "hello\n"),
            "/headers" => answer(out, 200, &seen(&request)),
            "/echo" => echo(request, out, copy),
            "/relay" => echo(request, out, splice),
            "/trailers" => trailers(out),
            "/large" => large(out, bytes_of(query)),
            "/forbidden" => answer(out, 200, &tried()),
            "/short" => unkept(out, 10),
            "/long" => unkept(out, 2),
            "/error" => ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some("as wished".to_owned())))),
            "/trap" => panic!("as the request wished"),
            "/trap-late" => trap_late(out),
            "/silent" => (),
            "/spin" => spin(),
            _ => match status(path) {
                Some(status) => answer(out, status, ""),
                None => answer(out, 404, "no such path\n"),
            },
        }
    }
}

fn status(path: &str) -> Option<u16> {
    path.strip_prefix("/status/")?.parse().ok()
}

/// `bytes=12` gives 12.
fn bytes_of(query: &str) -> u64 {
    let bytes = query.split('&').find_map(|pair| pair.strip_prefix("bytes="));
    bytes.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

/// A whole text, with its length.
fn answer(out: ResponseOutparam, status: u16, text: &str) {
    let headers = fields(&[
        ("content-type", "text/plain"),
        ("content-length", &text.len().to_string()),
    ]);
    let (body, stream) = start(out, status, headers);
    if write(&stream, text.as_bytes()).is_ok() {
        drop(stream);
        let _gone = OutgoingBody::finish(body, None);
    }
}

/// The request's body comes back as it comes in, its trailers after it.
fn echo(
    request: IncomingRequest,
    out: ResponseOutparam,
    pass: fn(&InputStream, &OutputStream) -> Result<(), StreamError>,
) {
    let headers = fields(&[]);
    for name in ECHOED {
        for value in request.headers().get(name) {
            headers.append(name, &value).expect("the host let it in");
        }
    }
    let incoming = request.consume().expect("the body is taken once");
    let input = incoming.stream().expect("the stream is taken once");
    let (body, output) = start(out, 200, headers);
    if pass(&input, &output).is_err() {
        // Dropped unfinished, so that the client sees that it is cut.
        return;
    }
    drop((input, output));
    let trailers = IncomingBody::finish(incoming);
    trailers.subscribe().block();
    let trailers = trailers.get().expect("it is ready").expect("it is taken once");
    // They are the host's, and not to be handed back.
    let trailers = trailers.ok().flatten().map(|trailers| trailers.clone());
    let _gone = OutgoingBody::finish(body, trailers);
}

/// Through this guest's memory.
fn copy(input: &InputStream, output: &OutputStream) -> Result<(), StreamError> {
    loop {
        match input.blocking_read(READ_BYTES) {
            Ok(bytes) => write(output, &bytes)?,
            Err(StreamError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Past this guest's memory.
fn splice(input: &InputStream, output: &OutputStream) -> Result<(), StreamError> {
    loop {
        match output.blocking_splice(input, READ_BYTES) {
            Ok(_) => (),
            Err(StreamError::Closed) => return output.blocking_flush(),
            Err(error) => return Err(error),
        }
    }
}

fn trailers(out: ResponseOutparam) {
    let (body, stream) = start(out, 200, fields(&[("trailer", "x-last")]));
    if write(&stream, b"trailed\n").is_ok() {
        drop(stream);
        let _gone = OutgoingBody::finish(body, Some(fields(&[("x-last", "1")])));
    }
}

fn large(out: ResponseOutparam, length: u64) {
    let (body, stream) = start(out, 200, fields(&[("content-length", &length.to_string())]));
    let piece = DIGITS.repeat(WRITE_BYTES / DIGITS.len());
    let mut left = length;
    while left > 0 {
        let count = left.min(WRITE_BYTES as u64);
        if stream.blocking_write_and_flush(&piece[..count as usize]).is_err() {
            return;
        }
        left -= count;
    }
    drop(stream);
    let _gone = OutgoingBody::finish(body, None);
}

/// Says another length than it has, which is 6.
fn unkept(out: ResponseOutparam, length: u64) {
    let (body, stream) = start(out, 200, fields(&[("content-length", &length.to_string())]));
    let _refused = write(&stream, b"begun\n");
    drop(stream);
    let _refused = OutgoingBody::finish(body, None);
}

fn trap_late(out: ResponseOutparam) {
    let (_body, stream) = start(out, 200, fields(&[]));
    let _gone = write(&stream, b"begun\n");
    panic!("as the request wished");
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// Sends the head.
fn start(out: ResponseOutparam, status: u16, headers: Fields) -> (OutgoingBody, OutputStream) {
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).expect("a status has three digits");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("the stream is taken once");
    (body, stream)
}

fn write(stream: &OutputStream, bytes: &[u8]) -> Result<(), StreamError> {
    bytes
        .chunks(WRITE_BYTES)
        .try_for_each(|piece| stream.blocking_write_and_flush(piece))
}

fn fields(fields: &[(&str, &str)]) -> Fields {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
        .collect();
    Fields::from_list(&fields).expect("they are well-formed and allowed")
}

/// Which fields the host lets this guest set.
fn tried() -> String {
    let is_allowed = |name: &str| Fields::new().append(name, b"1").is_ok();
    TRIED
        .map(|name| format!("{name}: {}\n", if is_allowed(name) { "allowed" } else { "refused" }))
        .concat()
}

/// The request's head as this guest sees it.
fn seen(request: &IncomingRequest) -> String {
    let mut text = format!(
        "{} {}\nscheme: {}\nauthority: {}\n\n",
        method(&request.method()),
        request.path_with_query().unwrap_or_default(),
        request.scheme().map_or_else(String::new, scheme),
        request.authority().unwrap_or_default(),
    );
    for (name, value) in request.headers().entries() {
        writeln!(text, "{name}: {}", String::from_utf8_lossy(&value)).expect("a string takes it");
    }
    text
}

fn method(method: &Method) -> &str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(other) => other,
    }
}

fn scheme(scheme: Scheme) -> String {
    match scheme {
        Scheme::Http => "http".to_owned(),
        Scheme::Https => "https".to_owned(),
        Scheme::Other(other) => other,
    }
}
