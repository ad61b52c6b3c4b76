//! `tamis demo`: a configuration, an origin and filters, all from the binary itself.
//!
//! Control plane. Everything is written into a folder of its own, so that the demo is an ordinary configuration with
//! files that can be edited while it runs; the folder goes when the demo ends.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::serve::{in_arguments, socket_address};
use crate::server::{self, Interrupt};

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

/// What to do about an address that is taken.
const WAYS_OUT: [(&str, &str); 2] = [
    ("listener `web`: address ", "; `--listen IP:PORT` names another"),
    ("admin: address ", " (`--admin IP:PORT`, `--admin off`)"),
];

/// Where the demo's operators ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    Off,
    At(SocketAddr),
}

impl FromStr for Admin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            text => socket_address(text)
                .map(Self::At)
                .map_err(|error| format!("{error}; or `off`")),
        }
    }
}

impl Admin {
    fn configuration(self) -> String {
        match self {
            Self::Off => "admin: off".to_owned(),
            Self::At(address) => format!("admin: {{ address: \"{address}\" }}"),
        }
    }

    fn greeting(self) -> String {
        match self {
            Self::Off => "There is no admin endpoint (`--admin off`).".to_owned(),
            Self::At(address) if address.port() == 0 => {
                "The admin endpoint (try /filters and /metrics) is where the log says.".to_owned()
            }
            Self::At(address) => format!("The admin endpoint is http://{address} (try /filters and /metrics)."),
        }
    }
}

/// Serves on `listen` until a signal ends it.
pub fn run(listen: SocketAddr, admin: Admin) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("demo: cannot lay out its files: {error}");
    // Removed with it.
    let folder = tempfile::Builder::new()
        .prefix("tamis-demo-")
        .tempdir()
        .map_err(failed)?;
    let origin = start_origin().map_err(|error| format!("demo: its origin cannot listen: {error}"))?;
    let file = lay_out(folder.path(), &configuration(listen, admin, origin)).map_err(failed)?;
    let options = server::Options {
        interrupt: Interrupt::Drains,
        ..server::Options::new(&file)
    };
    server::run_then(&options, |bound| {
        crate::tell!("{}", greeting(bound.unwrap_or(listen), admin, origin, &file))
    })
    .map_err(|errors| in_arguments(&errors, &file, &WAYS_OUT))
}

fn configuration(listen: SocketAddr, admin: Admin, origin: SocketAddr) -> String {
    let mut digest = String::new();
    for byte in Sha256::digest(KEY) {
        // Writing to a string cannot fail.
        let _ = write!(digest, "{byte:02x}");
    }
    let configuration = include_str!("demo.yaml")
        .replace("@LISTEN@", &format!("\"{listen}\""))
        .replace("@ORIGIN@", &origin.to_string())
        .replace("@KEY@", &digest);
    format!("{configuration}\n{}\n", admin.configuration())
}

fn greeting(listen: SocketAddr, admin: Admin, origin: SocketAddr, file: &Path) -> String {
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
{admin} Ctrl-C ends the demo.

",
        file = file.display(),
        admin = admin.greeting()
    )
}

fn lay_out(folder: &Path, configuration: &str) -> std::io::Result<PathBuf> {
    for (name, bytes) in COMPONENTS {
        std::fs::write(folder.join(name), bytes)?;
    }
    let file = folder.join("tamis.yaml");
    std::fs::write(&file, configuration)?;
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
