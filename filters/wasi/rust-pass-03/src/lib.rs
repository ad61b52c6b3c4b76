//! A middleware for WASI 0.3 that does nothing: what a middleware costs by being there.

use exports::wasi::http::handler::Guest;
use wasi::http::handler;
use wasi::http::types::{ErrorCode, Request, Response};

wit_bindgen::generate!({ path: "../wit/0.3", world: "middleware", generate_all });

struct Pass;

export!(Pass);

impl Guest for Pass {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        handler::handle(request).await
    }
}
