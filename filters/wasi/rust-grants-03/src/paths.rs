//! From a request to what is done, and to the response that says it.

use crate::wasi::http::types::{Fields, Request, Response};
use crate::{Answer, Query, config, files, key_value, sockets, wit_future, wit_stream};

/// `None` for paths of others.
pub async fn answer(request: &Request) -> Option<Answer> {
    let target = request.get_path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let path = path.trim_start_matches('/');
    let (family, rest) = path.split_once('/').unwrap_or((path, ""));
    let query = Query(query);
    Some(match family {
        "config" => config::answer(rest),
        "files" => files::answer(rest, &query).await,
        "keyvalue" => key_value::answer(rest, &query),
        "sockets" => sockets::answer(rest, &query).await,
        _ => return None,
    })
}

pub fn respond(answer: Answer) -> Response {
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
