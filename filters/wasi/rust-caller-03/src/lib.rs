//! A service for WASI 0.3 that answers with what others say.
//!
//! `/call/HOST/PATH` says the value of `x-mark` on standard output, sends the request on to `http://HOST/PATH` with its
//! body, and the answer back. `/many/HOST?count=N` makes N calls at once, none of which is looked at before all are made,
//! and says how many were answered.

use std::cell::Cell;
use std::rc::Rc;

use exports::wasi::http::handler::Guest;
use wasi::cli::stdout;
use wasi::http::client;
use wasi::http::types::{ErrorCode, Fields, Request, Response, Scheme};

wit_bindgen::generate!({ path: "../wit/0.3", world: "service", generate_all });

struct Service;

export!(Service);

impl Guest for Service {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        if let Some((host, path)) = target.strip_prefix("/call/").and_then(|rest| rest.split_once('/')) {
            say(&request).await;
            let path = format!("/{path}");
            return Ok(relay(client::send(onward(request, host, &path)).await?));
        }
        let many = target
            .strip_prefix("/many/")
            .and_then(|rest| rest.split_once("?count="));
        let (host, count) = many.unwrap_or(("", "0"));
        Ok(answer(&many_calls(host, count.parse().unwrap_or(0)).await))
    }
}

/// A line on standard output.
async fn say(request: &Request) {
    let marks = request.get_headers().get("x-mark");
    let Some(mark) = marks.first() else { return };
    let line = [mark.as_slice(), b"\n"].concat();
    let (mut to, from) = wit_stream::new();
    let written = stdout::write_via_stream(from);
    to.write_all(line).await;
    drop(to);
    let _dropped = written.await;
}

/// The request, for somebody else.
fn onward(request: Request, host: &str, path: &str) -> Request {
    let (method, headers) = (request.get_method(), request.get_headers().clone());
    let (_done, results) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, results);
    let (onward, _sent) = Request::new(headers, Some(body), trailers, None);
    onward.set_method(&method).expect("it came like that");
    address(&onward, host, path);
    onward
}

fn address(request: &Request, host: &str, path: &str) {
    request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    request.set_authority(Some(host)).expect("a host");
    request.set_path_with_query(Some(path)).expect("a path");
}

/// The answer, passed on.
fn relay(upstream: Response) -> Response {
    let (status, headers) = (upstream.get_status_code(), upstream.get_headers().clone());
    let (_done, results) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(upstream, results);
    let (response, _sent) = Response::new(headers, Some(body), trailers);
    response.set_status_code(status).expect("it came like that");
    response
}

async fn many_calls(host: &str, count: u32) -> String {
    let (answered, failed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let mut ended = Vec::new();
    for _ in 0..count {
        // Its end is told by the stream's.
        let (end, wait) = wit_stream::new::<u8>();
        ended.push(wait);
        let (host, answered, failed) = (host.to_owned(), Rc::clone(&answered), Rc::clone(&failed));
        wit_bindgen::spawn_local(async move {
            let (trailers, after) = wit_future::new(|| Ok(None));
            let (request, _sent) = Request::new(Fields::new(), None, after, None);
            address(&request, &host, "/");
            drop(trailers);
            let tally = match client::send(request).await {
                Ok(_) => answered,
                Err(_) => failed,
            };
            tally.set(tally.get() + 1);
            drop(end);
        });
    }
    for mut wait in ended {
        let _ended = wait.read(Vec::with_capacity(1)).await;
    }
    format!("{} answered, {} failed\n", answered.get(), failed.get())
}

/// A whole text.
fn answer(text: &str) -> Response {
    let text = text.as_bytes().to_vec();
    let (mut body, contents) = wit_stream::new();
    let (trailers, after) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(contents), after);
    wit_bindgen::spawn_local(async move {
        body.write_all(text).await;
        drop(body);
        let _gone = trailers.write(Ok(None)).await;
    });
    response
}
