//! A middleware for WASI 0.3 that does what the field `x-odd` of a request says, and what few middlewares should.
//!
//! `trap`, `error`, `never` and `spin` before the request is passed on; `trap-back`, `error-back` and `never-back` when the
//! response is there; `trap-upload` and `trap-body` in the middle of a body that it makes; `twice` passes the request on a
//! second time; `impatient` answers 504 without waiting for the response; `short` says that its body is longer than it is;
//! `elsewhere` passes on another method, authority and path; `outside` a path that leads out; `ask` first asks
//! `http://servers/asked`; `whole` reads the request's body before it answers by itself with its length; `copy` takes both
//! bodies through its memory, unchanged, and lets others go first before each piece; `echo` answers with the request's own body; `early` answers 403 while it reads the
//! request's body; `stall` passes on, or gives back, a body that never comes, as the path `/up` or another says; `peek`
//! hands on a body of which it has read one byte; `make` gives a request without a body one of five bytes.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use exports::wasi::http::handler::Guest;
use wasi::clocks::monotonic_clock;
use wasi::http::types::{ErrorCode, Fields, Method, Request, Response, Scheme};
use wasi::http::{client, handler};
use wit_bindgen::{FutureReader, StreamReader, StreamResult};

wit_bindgen::generate!({ path: "../wit/0.3", world: "middleware", generate_all });

struct Odd;

export!(Odd);

const SAME: &str = "what one message had another can have";
const PATIENCE_NANOSECONDS: u64 = 50_000_000;
/// What a body is read and written by.
const PIECE_BYTES: usize = 16 << 10;

impl Guest for Odd {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let odd = request.get_headers().get("x-odd");
        let odd = odd.first().map(|value| String::from_utf8_lossy(value).into_owned());
        match odd.as_deref() {
            Some("trap") => std::process::abort(),
            Some("error") => Err(ErrorCode::HttpRequestDenied),
            Some("never") => never().await,
            Some("spin") => loop {
                std::hint::black_box(());
            },
            Some("twice") => twice(request).await,
            Some("impatient") => impatient(request).await,
            Some("elsewhere") => handler::handle(elsewhere(request)).await,
            Some("outside") => {
                let request = made(request, Fields::clone, None);
                request.set_path_with_query(Some("/a/../../b")).expect("it parses");
                handler::handle(request).await
            }
            Some("trap-upload") => handler::handle(made(request, Fields::clone, Some("begun"))).await,
            Some("ask") => ask(request).await,
            Some("whole") => whole(request).await,
            Some("echo") => Ok(echo(request)),
            Some("early") => early(request).await,
            Some("stall") => stall(request).await,
            Some("peek") => peek(request).await,
            Some("make") => handler::handle(with_body(&request)).await,
            Some("copy") => Ok(copied_response(handler::handle(copied_request(request)).await?)),
            Some("never-back") => {
                let _response = handler::handle(request).await?;
                never().await
            }
            Some("trap-back") => {
                let _response = handler::handle(request).await?;
                std::process::abort()
            }
            Some("error-back") => {
                let _response = handler::handle(request).await?;
                Err(ErrorCode::ConnectionLimitReached)
            }
            Some("trap-body") => {
                let response = handler::handle(request).await?;
                Ok(answer(response.get_status_code(), &Fields::new(), "begun", After::Trap))
            }
            Some("short") => {
                let fields = [("content-length".to_owned(), b"100".to_vec())];
                let fields = Fields::from_list(&fields).expect("they are allowed");
                Ok(answer(200, &fields, "short", After::End))
            }
            _ => handler::handle(request).await,
        }
    }
}

/// A guest that waits for nothing at all would be ended at once.
async fn never() -> Result<Response, ErrorCode> {
    loop {
        monotonic_clock::wait_for(PATIENCE_NANOSECONDS).await;
    }
}

/// The first response, and what came of the second try in `x-second`.
async fn twice(request: Request) -> Result<Response, ErrorCode> {
    let second = made_empty();
    let first = handler::handle(request).await?;
    let said = match handler::handle(second).await {
        Ok(_) => "answered",
        Err(_) => "refused",
    };
    let fields = Fields::from_list(&[("x-second".to_owned(), said.into())]).expect("they are allowed");
    Ok(answer(first.get_status_code(), &fields, "", After::End))
}

/// 504 unless the response is there soon.
async fn impatient(request: Request) -> Result<Response, ErrorCode> {
    let mut response = pin!(handler::handle(request));
    let mut patience = pin!(monotonic_clock::wait_for(PATIENCE_NANOSECONDS));
    poll_fn(|context| {
        if let Poll::Ready(response) = response.as_mut().poll(context) {
            return Poll::Ready(response);
        }
        let late = patience.as_mut().poll(context);
        late.map(|()| Ok(answer(504, &Fields::new(), "impatient\n", After::End)))
    })
    .await
}

fn elsewhere(request: Request) -> Request {
    let request = made(request, Fields::clone, None);
    request.set_method(&Method::Put).expect("a method");
    request
        .set_authority(Some("elsewhere.example:81"))
        .expect("an authority");
    request.set_path_with_query(Some("/else?where")).expect("a path");
    request
}

async fn ask(request: Request) -> Result<Response, ErrorCode> {
    let question = made_empty();
    question.set_authority(Some("servers")).expect("a host");
    question.set_path_with_query(Some("/asked")).expect("a path");
    let asked = client::send(question).await?.get_status_code();
    let request = made(
        request,
        |fields| {
            let fields = fields.clone();
            fields
                .append("x-asked", asked.to_string().as_bytes())
                .expect("it is allowed");
            fields
        },
        None,
    );
    handler::handle(request).await
}

async fn whole(request: Request) -> Result<Response, ErrorCode> {
    let (_done, results) = wit_future::new(|| Ok(()));
    let (mut body, _trailers) = Request::consume_body(request, results);
    let mut length = 0;
    loop {
        let (result, piece) = body.read(Vec::with_capacity(4096)).await;
        if !matches!(result, StreamResult::Complete(_)) {
            break;
        }
        length += piece.len();
    }
    Ok(answer(200, &Fields::new(), &format!("{length} bytes\n"), After::End))
}

fn echo(request: Request) -> Response {
    let (_done, results) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, results);
    let (response, _sent) = Response::new(Fields::new(), Some(body), trailers);
    response
}

async fn early(request: Request) -> Result<Response, ErrorCode> {
    let (_done, results) = wit_future::new(|| Ok(()));
    let (mut body, _trailers) = Request::consume_body(request, results);
    wit_bindgen::spawn_local(async move {
        let _piece = body.read(Vec::with_capacity(PIECE_BYTES)).await;
        drop(body);
    });
    monotonic_clock::wait_for(PATIENCE_NANOSECONDS).await;
    let fields = Fields::from_list(&[("x-early".to_owned(), b"yes".to_vec())]).expect("they are allowed");
    Ok(answer(403, &fields, "early\n", After::End))
}

async fn stall(request: Request) -> Result<Response, ErrorCode> {
    let (mut never, body) = wit_stream::new();
    wit_bindgen::spawn_local(async move {
        never.write_all(b"begun".to_vec()).await;
        let _never = self::never().await;
        drop(never);
    });
    if request.get_path_with_query().as_deref() == Some("/up") {
        return handler::handle(with(&request, body, None)).await;
    }
    let response = handler::handle(request).await?;
    let (trailers, last) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(response.get_headers().clone(), Some(body), last);
    drop(trailers);
    Ok(response)
}

/// What a request's head says beside its fields.
struct Line {
    method: Method,
    scheme: Option<Scheme>,
    authority: Option<String>,
    target: Option<String>,
}

impl Line {
    fn of(request: &Request) -> Self {
        Self {
            method: request.get_method(),
            scheme: request.get_scheme(),
            authority: request.get_authority(),
            target: request.get_path_with_query(),
        }
    }

    fn say(&self, request: &Request) {
        request.set_method(&self.method).expect(SAME);
        request.set_scheme(self.scheme.as_ref()).expect(SAME);
        request.set_authority(self.authority.as_deref()).expect(SAME);
        request.set_path_with_query(self.target.as_deref()).expect(SAME);
    }
}

/// The request with another body, of this length if that is to be said.
fn with(request: &Request, body: StreamReader<u8>, length: Option<&str>) -> Request {
    let headers = request.get_headers().clone();
    headers.delete("content-length").expect("it may be");
    if let Some(length) = length {
        headers
            .append("content-length", length.as_bytes())
            .expect("it is allowed");
    }
    let (trailers, last) = wit_future::new(|| Ok(None));
    let (made, _sent) = Request::new(headers, Some(body), last, None);
    drop(trailers);
    Line::of(request).say(&made);
    made
}

fn with_body(request: &Request) -> Request {
    let (mut to, body) = wit_stream::new();
    wit_bindgen::spawn_local(async move {
        to.write_all(b"bytes".to_vec()).await;
        drop(to);
    });
    let made = with(request, body, Some("5"));
    made.set_method(&Method::Post).expect("a method");
    made
}

async fn peek(request: Request) -> Result<Response, ErrorCode> {
    let headers = request.get_headers().clone();
    let line = Line::of(&request);
    let (_done, results) = wit_future::new(|| Ok(()));
    let (mut body, trailers) = Request::consume_body(request, results);
    let _first = body.read(Vec::with_capacity(1)).await;
    let (request, _sent) = Request::new(headers, Some(body), trailers, None);
    line.say(&request);
    handler::handle(request).await
}

fn copied_request(request: Request) -> Request {
    let headers = request.get_headers().clone();
    let line = Line::of(&request);
    let (_done, results) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, results);
    let (body, trailers) = copied(body, trailers);
    let (request, _sent) = Request::new(headers, Some(body), trailers, None);
    line.say(&request);
    request
}

fn copied_response(response: Response) -> Response {
    let headers = response.get_headers().clone();
    let status = response.get_status_code();
    let (_done, results) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(response, results);
    let (body, trailers) = copied(body, trailers);
    let (response, _sent) = Response::new(headers, Some(body), trailers);
    response.set_status_code(status).expect(SAME);
    response
}

type Trailers = FutureReader<Result<Option<Fields>, ErrorCode>>;

fn copied(mut from: StreamReader<u8>, trailers: Trailers) -> (StreamReader<u8>, Trailers) {
    let (mut to, body) = wit_stream::new();
    let (last, after) = wit_future::new(|| Ok(None));
    wit_bindgen::spawn_local(async move {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        loop {
            wit_bindgen::yield_async().await;
            let (result, read) = from.read(piece).await;
            if !matches!(result, StreamResult::Complete(_)) {
                break;
            }
            piece = to.write_all(read).await;
            if !piece.is_empty() {
                break;
            }
        }
        drop((from, to));
        let _gone = last.write(trailers.await).await;
    });
    (body, after)
}

/// The request with other fields; with its own body, or with one that begins so and is never ended, because it traps.
fn made(request: Request, fields: impl Fn(&Fields) -> Fields, begins: Option<&str>) -> Request {
    let headers = fields(&request.get_headers());
    let line = Line::of(&request);
    let (_done, results) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, results);
    let (request, _sent) = match begins {
        None => Request::new(headers, Some(body), trailers, None),
        Some(begins) => {
            headers.delete("content-length").expect("it may be");
            let (mut to, contents) = wit_stream::new();
            let begins = begins.as_bytes().to_vec();
            wit_bindgen::spawn_local(async move {
                to.write_all(begins).await;
                monotonic_clock::wait_for(PATIENCE_NANOSECONDS).await;
                std::process::abort()
            });
            Request::new(headers, Some(contents), trailers, None)
        }
    };
    line.say(&request);
    request
}

fn made_empty() -> Request {
    let (trailers, after) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(Fields::new(), None, after, None);
    drop(trailers);
    request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    request.set_authority(Some("second.example")).expect("a host");
    request
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    End,
    Trap,
}

fn answer(status: u16, fields: &Fields, text: &str, after: After) -> Response {
    let text = text.as_bytes().to_vec();
    let (mut body, contents) = wit_stream::new();
    let (trailers, last) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(fields.clone(), Some(contents), last);
    response.set_status_code(status).expect("a status");
    wit_bindgen::spawn_local(async move {
        body.write_all(text).await;
        if after == After::Trap {
            monotonic_clock::wait_for(PATIENCE_NANOSECONDS).await;
            std::process::abort();
        }
        drop(body);
        let _gone = trailers.write(Ok(None)).await;
    });
    response
}
