//! A service for WASI 0.2 that does what the path says with what it was granted.
//!
//! ../README.md says what each path does. What the host refuses is said with 403 and the host's own word for it.

mod answer;
mod config;
mod files;
mod key_value;
mod sockets;

use answer::{Answer, Query};
use exports::wasi::http::incoming_handler::Guest;
use wasi::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wit_bindgen::generate!({ path: "../wit/0.2", world: "grants", generate_all });

struct Service;

export!(Service);

/// What a blocking write takes at once, by WASI's definition.
const WRITE_BYTES: usize = 4096;

impl Guest for Service {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (family, rest) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
        let query = Query(query);
        match family {
            "config" => send(out, config::answer(rest)),
            "files" => send(out, files::answer(rest, &query)),
            "keyvalue" => send(out, key_value::answer(rest, &query)),
            "sockets" => send(out, sockets::answer(rest, &query)),
            _ => send(out, Answer::Nothing),
        }
    }
}

fn send(out: ResponseOutparam, answer: Answer) {
    let (status, text) = match answer {
        Answer::Found(text) => (200, text),
        Answer::Nothing => (404, Vec::new()),
        Answer::Refused(word) => (403, word.into_bytes()),
    };
    let response = OutgoingResponse::new(Fields::new());
    response.set_status_code(status).expect("a status has three digits");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("the stream is taken once");
    for piece in text.chunks(WRITE_BYTES) {
        if stream.blocking_write_and_flush(piece).is_err() {
            return;
        }
    }
    drop(stream);
    let _gone = OutgoingBody::finish(body, None);
}
