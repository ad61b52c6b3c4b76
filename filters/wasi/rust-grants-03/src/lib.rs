//! A service for WASI 0.3 that does what the path says with what it was granted.
//!
//! ../README.md says what each path does: those of `rust-grants-02`, whose drafts are the same in both, and of files and
//! sockets some.

// They name nothing of either WASI.
#[path = "../../rust-grants-02/src/config.rs"]
mod config;
mod files;
#[path = "../../rust-grants-02/src/key_value.rs"]
mod key_value;
mod sockets;

use exports::wasi::http::handler::Guest;
use wasi::http::types::{ErrorCode, Fields, Request, Response};

wit_bindgen::generate!({ path: "../wit/0.3", world: "grants", generate_all });

struct Service;

export!(Service);

/// What comes of a path.
enum Answer {
    Found(Vec<u8>),
    Nothing,
    /// The host's word.
    Refused(String),
}

/// What follows the question mark, as it is written.
struct Query<'a>(&'a str);

impl Query<'_> {
    /// Empty without one.
    fn text(&self, name: &str) -> &str {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        let mut values = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value);
        values.next().unwrap_or_default()
    }

    /// 0 without one.
    fn number(&self, name: &str) -> usize {
        self.text(name).parse().unwrap_or(0)
    }
}

impl Guest for Service {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (family, rest) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
        let query = Query(query);
        Ok(respond(match family {
            "config" => config::answer(rest),
            "files" => files::answer(rest, &query).await,
            "keyvalue" => key_value::answer(rest, &query),
            "sockets" => sockets::answer(rest, &query).await,
            _ => Answer::Nothing,
        }))
    }
}

fn respond(answer: Answer) -> Response {
    let (status, text) = match answer {
        Answer::Found(text) => (200, text),
        Answer::Nothing => (404, Vec::new()),
        Answer::Refused(word) => (403, word.into_bytes()),
    };
    let (mut body, contents) = wit_stream::new();
    let (trailers, after) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(contents), after);
    response.set_status_code(status).expect("a status has three digits");
    wit_bindgen::spawn_local(async move {
        body.write_all(text).await;
        drop(body);
        let _gone = trailers.write(Ok(None)).await;
    });
    response
}
