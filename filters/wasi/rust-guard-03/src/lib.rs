//! A middleware for WASI 0.3 that answers some requests itself, and changes both bodies as they pass.
//!
//! Without `authorization`, `/private` and what is below it is 401, and nothing behind sees the request. Letters of the
//! request's body become lower case, letters of the response's become upper case, piece by piece: a body of any length
//! takes the memory of one piece.

use exports::wasi::http::handler::Guest;
use wasi::http::handler;
use wasi::http::types::{ErrorCode, Fields, Request, Response};
use wit_bindgen::{FutureReader, StreamReader, StreamResult};

wit_bindgen::generate!({ path: "../wit/0.3", world: "middleware", generate_all });

struct Guard;

export!(Guard);

const SAME: &str = "what one message had another can have";

/// What a body is read and written by.
const PIECE_BYTES: usize = 64 << 10;
const REFUSAL: &[u8] = b"who are you?\n";

type Trailers = FutureReader<Result<Option<Fields>, ErrorCode>>;

impl Guest for Guard {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        if is_private(&request) && !request.get_headers().has("authorization") {
            return Ok(refusal());
        }
        let response = handler::handle(lower_case(request)).await?;
        Ok(upper_case(response))
    }
}

fn is_private(request: &Request) -> bool {
    let target = request.get_path_with_query().unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    path.strip_prefix("/private")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn refusal() -> Response {
    let fields = [
        ("www-authenticate".to_owned(), b"Basic realm=\"private\"".to_vec()),
        ("content-length".to_owned(), REFUSAL.len().to_string().into_bytes()),
    ];
    let headers = Fields::from_list(&fields).expect("they are well-formed and allowed");
    let (mut body, contents) = wit_stream::new();
    let (trailers, after) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(contents), after);
    response.set_status_code(401).expect("a status has three digits");
    wit_bindgen::spawn_local(async move {
        body.write_all(REFUSAL.to_vec()).await;
        drop(body);
        let _gone = trailers.write(Ok(None)).await;
    });
    response
}

fn lower_case(request: Request) -> Request {
    let headers = request.get_headers().clone();
    let method = request.get_method();
    let scheme = request.get_scheme();
    let authority = request.get_authority();
    let target = request.get_path_with_query();
    let options = request.get_options().map(|options| options.clone());
    let (_done, results) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, results);
    let (body, trailers) = changed(body, trailers, <[u8]>::make_ascii_lowercase);
    let (request, _sent) = Request::new(headers, Some(body), trailers, options);
    request.set_method(&method).expect(SAME);
    request.set_scheme(scheme.as_ref()).expect(SAME);
    request.set_authority(authority.as_deref()).expect(SAME);
    request.set_path_with_query(target.as_deref()).expect(SAME);
    request
}

fn upper_case(response: Response) -> Response {
    let headers = response.get_headers().clone();
    let status = response.get_status_code();
    let (_done, results) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(response, results);
    let (body, trailers) = changed(body, trailers, <[u8]>::make_ascii_uppercase);
    let (response, _sent) = Response::new(headers, Some(body), trailers);
    response.set_status_code(status).expect(SAME);
    response
}

/// A body that is the given one with each piece changed, then its trailers.
fn changed(mut from: StreamReader<u8>, trailers: Trailers, change: fn(&mut [u8])) -> (StreamReader<u8>, Trailers) {
    let (mut to, body) = wit_stream::new();
    let (last, after) = wit_future::new(|| Ok(None));
    wit_bindgen::spawn_local(async move {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        loop {
            let (result, mut read) = from.read(piece).await;
            if !matches!(result, StreamResult::Complete(_)) {
                break;
            }
            change(&mut read);
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
