//! A service for WASI 0.3 that does what the path says with what it was granted.
//!
//! ../README.md says what each path does: those of `rust-grants-02`, whose drafts are the same in both, and of files and
//! sockets some.

// They name nothing of either WASI.
#[path = "../../rust-grants-02/src/answer.rs"]
mod answer;
#[path = "../../rust-grants-02/src/config.rs"]
mod config;
mod files;
#[path = "../../rust-grants-02/src/key_value.rs"]
mod key_value;
mod paths;
mod sockets;

use answer::{Answer, Query};
use exports::wasi::http::handler::Guest;
use wasi::http::types::{ErrorCode, Request, Response};

wit_bindgen::generate!({ path: "../wit/0.3", world: "grants", generate_all });

struct Service;

export!(Service);

impl Guest for Service {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let answer = paths::answer(&request).await;
        Ok(paths::respond(answer.unwrap_or(Answer::Nothing)))
    }
}
