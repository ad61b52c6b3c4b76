//! Acts on heads: what a filter can read of one, and every way to change it.

use tamis_filter::{EditError, Exchange, Request, Response};

/// Acts on the request's head; none for other words.
pub fn act(words: &[&str], request: &mut Request) -> Option<String> {
    let edited = match *words {
        ["request"] => return Some(told(request)),
        ["method", method] => request.set_method(method),
        ["authority", authority] => request.set_authority(authority),
        ["path", path] => request.set_path(path),
        ["query", query] => request.set_query(Some(query)),
        ["put", name, value] => request.set_header(name, value),
        ["append", name, value] => request.append_header(name, value),
        ["remove", name] => request.remove_header(name),
        _ => return None,
    };
    Some(outcome(edited))
}

fn told(request: &Request) -> String {
    let (method, scheme, authority) = (request.method(), request.scheme(), request.authority());
    let (path, query) = (request.path(), request.query().unwrap_or_default());
    let host = request.header("host").is_some();
    let fields = request.headers().len();
    format!("{method} {scheme}://{authority}{path}?{query} {host} {fields}")
}

pub fn facts(exchange: &Exchange) -> String {
    let (client, listener) = (exchange.client_address(), exchange.listener());
    let (route, id) = (exchange.route().unwrap_or_default(), exchange.request_id());
    let connection = exchange.attribute("connection").unwrap_or("none".to_owned());
    format!("{client} {listener} {route} {connection} {id}")
}

/// Another status, a field less, the body as it is; and what was there before.
pub fn rewrite(response: &mut Response, status: u16) -> String {
    let told = format!(
        "{} {} {} {}",
        response.status(),
        response.header_values("x-gone").len(),
        response.header("content-length").is_some(),
        response.headers().len()
    );
    let edited = response
        .set_status(status)
        .and_then(|()| response.remove_header("x-gone"));
    response.pass_body();
    format!("{told} {}", outcome(edited))
}

fn outcome(edited: Result<(), EditError>) -> String {
    edited.map_or_else(|error| error.to_string(), |()| "done".to_owned())
}
