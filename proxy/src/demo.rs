//! `tamis demo`: a configuration, an origin and filters, all from the binary itself.
//!
//! Control plane. Everything is written into a folder of its own, so that the demo is an ordinary configuration with
//! files that can be edited while it runs; the folder goes when the demo ends.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::server;

/// The key that the demo's `api-key` filter knows.
const KEY: &str = "demo";
/// The origin repeats a request's body up to here.
const MAX_ECHO: usize = 64 << 10;

const COMPONENTS: [(&str, &[u8]); 3] = [
    (
        "api-key.wasm",
        include_bytes!(concat!(env!("TAMIS_COMPONENTS"), "/api-key.wasm")),
    ),
    (
        "tenant.wasm",
        include_bytes!(concat!(env!("TAMIS_COMPONENTS"), "/tenant.wasm")),
    ),
    (
        "rewrite.wasm",
        include_bytes!(concat!(env!("TAMIS_COMPONENTS"), "/rewrite.wasm")),
    ),
];

/// Serves on `listen` until a signal ends it.
pub fn run(listen: SocketAddr) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("demo: cannot lay out its files: {error}");
    // Removed with it.
    let folder = tempfile::Builder::new()
        .prefix("tamis-demo-")
        .tempdir()
        .map_err(failed)?;
    let origin = start_origin().map_err(|error| format!("demo: its origin cannot listen: {error}"))?;
    let file = lay_out(folder.path(), listen, origin).map_err(failed)?;
    server::run_then(&server::Options::new(&file), |bound| {
        crate::tell!("{}", greeting(bound.unwrap_or(listen), origin, &file))
    })
}

fn configuration(listen: SocketAddr, origin: SocketAddr) -> String {
    let mut digest = String::new();
    for byte in Sha256::digest(KEY) {
        // Writing to a string cannot fail.
        let _ = write!(digest, "{byte:02x}");
    }
    include_str!("demo.yaml")
        .replace("@LISTEN@", &listen.to_string())
        .replace("@ORIGIN@", &origin.to_string())
        .replace("@KEY@", &digest)
}

fn greeting(listen: SocketAddr, origin: SocketAddr, file: &Path) -> String {
    format!(
        "
Tamis listens on http://{listen} and forwards to an origin on http://{origin} that answers with what it got.
Requests to /api/ pass three sandboxed components: api-key, tenant and rewrite. Try:

  curl -i http://{listen}/api/hello
      401: the api-key filter answers, the origin never sees the request
  curl -i -H 'x-api-key: {KEY}' -H 'x-tenant: nobody' http://{listen}/api/hello
      403: the tenant filter knows acme and globex only
  curl -i -H 'x-api-key: {KEY}' -H 'x-tenant: acme' http://{listen}/api/hello
      200: the origin got /v1/hello, without the key, and with the header x-demo

Edit {file} (add a tenant, say) while it runs: the next request sees it.
The admin endpoint is http://127.0.0.1:9901 (try /filters and /metrics). Ctrl-C ends the demo.

",
        file = file.display()
    )
}

fn lay_out(folder: &Path, listen: SocketAddr, origin: SocketAddr) -> std::io::Result<PathBuf> {
    for (name, bytes) in COMPONENTS {
        std::fs::write(folder.join(name), bytes)?;
    }
    let file = folder.join("tamis.yaml");
    std::fs::write(&file, configuration(listen, origin))?;
    Ok(file)
}

/// Answers every request with a description of it, from a thread of its own.
fn start_origin() -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("tamis-origin".into()).spawn(move || {
        runtime.block_on(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
                return;
            };
            while let Ok((stream, _)) = listener.accept().await {
                let serving =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(echo));
                tokio::spawn(serving);
            }
        });
    })?;
    Ok(address)
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = http_body_util::Limited::new(body, MAX_ECHO).collect().await;
    let body = body.map_or_else(
        |_| "(more than 64 KiB)".into(),
        |body| String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    );
    let headers: serde_json::Map<String, Value> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    let seen =
        json!({ "method": parts.method.as_str(), "path": parts.uri.to_string(), "headers": headers, "body": body });
    let mut response = Response::new(Full::new(Bytes::from(format!("{seen:#}\n"))));
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    Ok(response)
}
