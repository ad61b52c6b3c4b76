//! A middleware for WASI 0.3 that answers the paths of `rust-grants-03` by itself, and passes all others on.

#[path = "../../rust-grants-02/src/answer.rs"]
mod answer;
#[path = "../../rust-grants-02/src/config.rs"]
mod config;
#[path = "../../rust-grants-03/src/files.rs"]
mod files;
#[path = "../../rust-grants-02/src/key_value.rs"]
mod key_value;
#[path = "../../rust-grants-03/src/paths.rs"]
mod paths;
#[path = "../../rust-grants-03/src/sockets.rs"]
mod sockets;

use answer::{Answer, Query};
use exports::wasi::http::handler::Guest;
use wasi::http::handler;
use wasi::http::types::{ErrorCode, Request, Response};

wit_bindgen::generate!({ path: "../wit/0.3", world: "grants-middleware", generate_all });

struct Middleware;

export!(Middleware);

impl Guest for Middleware {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        match paths::answer(&request).await {
            Some(answer) => Ok(paths::respond(answer)),
            None => handler::handle(request).await,
        }
    }
}
