//! A service for WASI 0.3: asynchronous, any number of exchanges at once in one instance.
//!
//! ../README.md says what each path does. Where a client has gone away, the rest of the response is left unwritten: that
//! is no failure of the service's.

use std::fmt::Write as _;

use exports::wasi::http::handler::Guest;
use wasi::http::types::{ErrorCode, Fields, Method, Request, Response, Scheme, Trailers};
use wit_bindgen::{StreamReader, StreamResult, StreamWriter};

wit_bindgen::generate!({ path: "../wit/0.3", world: "service", generate_all });

struct Service;

export!(Service);

/// What a body is read and written by.
const PIECE_BYTES: usize = 64 << 10;
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
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/hello" => Ok(answer(200, "hello\n")),
            "/headers" => Ok(answer(200, &seen(&request))),
            "/echo" => Ok(echo(request)),
            "/relay" => Ok(relay(request)),
            "/trailers" => Ok(trailers()),
            "/large" => Ok(large(bytes_of(query))),
            "/forbidden" => Ok(answer(200, &tried())),
            "/short" => Ok(unkept(10)),
            "/long" => Ok(unkept(2)),
            "/error" => Err(ErrorCode::InternalError(Some("as wished".to_owned()))),
            "/trap" => panic!("as the request wished"),
            "/trap-late" => Ok(trap_late()),
            "/silent" => silent().await,
            "/spin" => spin(),
            _ => Ok(match status(path) {
                Some(status) => answer(status, ""),
                None => answer(404, "no such path\n"),
            }),
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
fn answer(status: u16, text: &str) -> Response {
    let headers = fields(&[
        ("content-type", "text/plain"),
        ("content-length", &text.len().to_string()),
    ]);
    let text = text.as_bytes().to_vec();
    respond(status, headers, async |body| {
        body.write_all(text).await;
        Ok(None)
    })
}

/// The request's body comes back as it comes in, its trailers after it, through this guest's memory.
fn echo(request: Request) -> Response {
    let headers = echoed(&request);
    let (_done, done) = wit_future::new(|| Ok(()));
    let (mut incoming, trailers) = Request::consume_body(request, done);
    respond(200, headers, async move |body| {
        copy(&mut incoming, body).await;
        // It has ended, or the client has gone away; only without it do the trailers come.
        drop(incoming);
        trailers.await
    })
}

async fn copy(from: &mut StreamReader<u8>, to: &mut StreamWriter<u8>) {
    let mut buffer = Vec::with_capacity(PIECE_BYTES);
    loop {
        let (result, read) = from.read(buffer).await;
        if !matches!(result, StreamResult::Complete(_)) {
            return;
        }
        buffer = to.write_all(read).await;
        if !buffer.is_empty() {
            return;
        }
    }
}

/// The same with the streams handed over, past this guest's memory.
fn relay(request: Request) -> Response {
    let headers = echoed(&request);
    let (done, results) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, results);
    let (response, sent) = Response::new(headers, Some(body), trailers);
    wit_bindgen::spawn_local(async move {
        let _gone = done.write(sent.await).await;
    });
    response
}

fn echoed(request: &Request) -> Fields {
    let headers = Fields::new();
    for name in ECHOED {
        for value in request.get_headers().get(name) {
            headers.append(name, &value).expect("the host let it in");
        }
    }
    headers
}

fn trailers() -> Response {
    respond(200, fields(&[("trailer", "x-last")]), async |body| {
        body.write_all(b"trailed\n".to_vec()).await;
        Ok(Some(fields(&[("x-last", "1")])))
    })
}

fn large(length: u64) -> Response {
    let headers = fields(&[("content-length", &length.to_string())]);
    respond(200, headers, async move |body| {
        let mut piece = DIGITS.repeat(PIECE_BYTES / DIGITS.len());
        let mut left = length;
        while left > 0 {
            let count = left.min(PIECE_BYTES as u64);
            piece.truncate(count as usize);
            if !body.write_all(piece.clone()).await.is_empty() {
                break;
            }
            left -= count;
        }
        Ok(None)
    })
}

/// Says another length than it has, which is 6.
fn unkept(length: u64) -> Response {
    respond(200, fields(&[("content-length", &length.to_string())]), async |body| {
        body.write_all(b"begun\n".to_vec()).await;
        Ok(None)
    })
}

fn trap_late() -> Response {
    respond(200, Fields::new(), async |body| {
        body.write_all(b"begun\n".to_vec()).await;
        panic!("as the request wished");
    })
}

/// Waits for what nobody sends.
async fn silent() -> ! {
    let (_never, wait) = wit_future::new::<Result<(), ErrorCode>>(|| Ok(()));
    let _never_comes = wait.await;
    unreachable!("the other end is held");
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// The head now, and the body by `write` when the head is out; what that gives are the trailers.
fn respond(
    status: u16,
    headers: Fields,
    write: impl AsyncFnOnce(&mut StreamWriter<u8>) -> Result<Option<Trailers>, ErrorCode> + 'static,
) -> Response {
    let (mut body, contents) = wit_stream::new();
    let (trailers, after) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(contents), after);
    response.set_status_code(status).expect("a status has three digits");
    wit_bindgen::spawn_local(async move {
        let last = write(&mut body).await;
        drop(body);
        let _gone = trailers.write(last).await;
    });
    response
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
fn seen(request: &Request) -> String {
    let mut text = format!(
        "{} {}\nscheme: {}\nauthority: {}\n\n",
        method(&request.get_method()),
        request.get_path_with_query().unwrap_or_default(),
        request.get_scheme().map_or_else(String::new, scheme),
        request.get_authority().unwrap_or_default(),
    );
    for (name, value) in request.get_headers().copy_all() {
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
