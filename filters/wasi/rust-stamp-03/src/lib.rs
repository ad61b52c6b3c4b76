//! A middleware for WASI 0.3 that adds a field to the request and one to the response, and hands their bodies over.

use exports::wasi::http::handler::Guest;
use wasi::http::handler;
use wasi::http::types::{ErrorCode, Fields, Request, Response};

wit_bindgen::generate!({ path: "../wit/0.3", world: "middleware", generate_all });

struct Stamp;

export!(Stamp);

const SAME: &str = "what one message had another can have";
const NAME: &str = "x-stamp";
const VALUE: &[u8] = b"rust";

impl Guest for Stamp {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let response = handler::handle(stamped_request(request)).await?;
        Ok(stamped_response(response))
    }
}

/// A received message is not to be changed: another takes its place.
fn stamped_request(request: Request) -> Request {
    let headers = stamped(&request.get_headers());
    let method = request.get_method();
    let scheme = request.get_scheme();
    let authority = request.get_authority();
    let target = request.get_path_with_query();
    let options = request.get_options().map(|options| options.clone());
    let (done, results) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, results);
    let (request, sent) = Request::new(headers, Some(body), trailers, options);
    wit_bindgen::spawn_local(async move {
        let _gone = done.write(sent.await).await;
    });
    request.set_method(&method).expect(SAME);
    request.set_scheme(scheme.as_ref()).expect(SAME);
    request.set_authority(authority.as_deref()).expect(SAME);
    request.set_path_with_query(target.as_deref()).expect(SAME);
    request
}

fn stamped_response(response: Response) -> Response {
    let headers = stamped(&response.get_headers());
    let status = response.get_status_code();
    let (done, results) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(response, results);
    let (response, sent) = Response::new(headers, Some(body), trailers);
    wit_bindgen::spawn_local(async move {
        let _gone = done.write(sent.await).await;
    });
    response.set_status_code(status).expect(SAME);
    response
}

fn stamped(headers: &Fields) -> Fields {
    let headers = headers.clone();
    headers.append(NAME, VALUE).expect("the field is well-formed");
    headers
}
