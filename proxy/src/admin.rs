//! The administration endpoint: what an operator asks the process over HTTP.
//!
//! Control plane; on a runtime of its own, never a worker's. Its invariant: only who sits on this machine is answered,
//! a browser that a stranger's page steers is not, and nobody can hold it up: connections, heads, bodies and time are
//! bounded. What there is to know and to do is behind [`Operations`].

mod client;
mod guard;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinError;
use tokio::time::{sleep, timeout};

pub use client::{get, post, unreachable};
use guard::{Door, Refusal};

use crate::report::{Outcome, Report};
use crate::telemetry::CONTENT_TYPE as METRICS;

/// What the process can be asked for. Each call runs in a task of its own and is never broken off half way.
#[async_trait::async_trait]
pub trait Operations: Send + Sync + 'static {
    async fn ready(&self) -> Readiness;
    /// In the text exposition format.
    async fn metrics(&self) -> String;
    /// Without secrets: whatever is in here is shown.
    async fn config(&self) -> Value;
    async fn routes(&self) -> Value;
    async fn clusters(&self) -> Value;
    async fn filters(&self) -> Value;
    /// What came of reading the files again, if the generation that is `expected` is live, or whichever.
    async fn reload(&self, expected: Option<u64>) -> Report;
    /// Begins a drain and returns.
    async fn drain(&self);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    Starting,
    Ready,
    /// It takes traffic, with the last good generation: the current files do not load.
    LastGood,
    Draining,
}

/// Bound already; who binds a Unix socket answers for its mode.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    /// More wait in the kernel. Operators, probes and a scraper or two need a handful.
    connections: usize,
    /// For the whole head, and again for the whole body. Both are a few hundred bytes from the same machine.
    read: Duration,
    /// For one connection, which carries one exchange. A reload compiles filters and may take a minute.
    exchange: Duration,
    /// Nothing that is asked for here needs a body at all.
    body_bytes: usize,
    /// Request line and fields.
    head_bytes: usize,
    /// For exchanges that are under way when the endpoint is stopped.
    stop: Duration,
}

const LIMITS: Limits = Limits {
    connections: 64,
    read: Duration::from_secs(5),
    exchange: Duration::from_secs(120),
    body_bytes: 64 << 10,
    head_bytes: 16 << 10,
    stop: Duration::from_secs(1),
};

/// After an accept that failed, mostly for want of descriptors: trying again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers until `shutdown` says `true` or its sender is gone. A drain does not stop it: the caller does, last.
pub async fn serve(listener: Listener, operations: Arc<dyn Operations>, shutdown: watch::Receiver<bool>) {
    serve_within(LIMITS, listener, operations, shutdown).await;
}

async fn serve_within(
    limits: Limits,
    listener: Listener,
    operations: Arc<dyn Operations>,
    mut shutdown: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    loop {
        let accepted = tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((connection, permit)) => {
                let exchange = Exchange {
                    limits,
                    door: listener.door(),
                    operations: operations.clone(),
                };
                tokio::spawn(exchange.run(connection, permit));
            }
            Err(error) => {
                tracing::warn!(%error, "the administration endpoint cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    if timeout(limits.stop, permits.acquire_many(all)).await.is_err() {
        tracing::debug!("the administration endpoint was stopped with connections open");
    }
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// The permit first: a connection that may not be served yet stays in the kernel.
async fn accept(
    listener: &Listener,
    permits: &Arc<Semaphore>,
) -> io::Result<(Box<dyn Connection>, OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
    Ok(match listener {
        Listener::Tcp(listener) => (Box::new(listener.accept().await?.0), permit),
        Listener::Unix(listener) => (Box::new(listener.accept().await?.0), permit),
    })
}

impl Listener {
    fn door(&self) -> Door {
        match self {
            Self::Tcp(_) => Door::Tcp,
            Self::Unix(_) => Door::Unix,
        }
    }
}

/// One connection, which carries one exchange: a bound on its time is then a bound on both.
struct Exchange {
    limits: Limits,
    door: Door,
    operations: Arc<dyn Operations>,
}

type Reply = Response<Full<Bytes>>;

impl Exchange {
    async fn run(self, connection: Box<dyn Connection>, permit: OwnedSemaphorePermit) {
        let (limits, exchange) = (self.limits, &self);
        let service = service_fn(move |request| async move { Ok::<_, Infallible>(exchange.reply(request).await) });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.read)
            .max_buf_size(limits.head_bytes)
            .keep_alive(false)
            .serve_connection(TokioIo::new(connection), service);
        match timeout(limits.exchange, served).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "an administration connection failed"),
            Err(_) => tracing::debug!("an administration connection took too long"),
        }
        drop(permit);
    }

    async fn reply(&self, request: Request<Incoming>) -> Reply {
        if let Err(refusal) = guard::check(self.door, request.method(), request.uri(), request.headers()) {
            return refused(refusal);
        }
        let Some(page) = PAGES.iter().find(|page| page.path == request.uri().path()) else {
            return text(StatusCode::NOT_FOUND, "not found; GET / lists what there is\n");
        };
        if !page.verb.allows(request.method()) {
            let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
            reply
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static(page.verb.allowed()));
            return reply;
        }
        let query = request.uri().query().map(str::to_owned);
        if page.verb == Verb::Post
            && let Err(reply) = self.discard(request.into_body()).await
        {
            return reply;
        }
        let question = match page.content.question(query.as_deref()) {
            Ok(question) => question,
            Err(fault) => return text(StatusCode::BAD_REQUEST, fault),
        };
        // A task of its own: a client that goes away in the middle must not break off a reload.
        let answered = tokio::spawn(answer(question, self.operations.clone())).await;
        answered.unwrap_or_else(|error| failed(&error))
    }

    /// Reads a body that nothing is asked of, so that its end is not taken for the next request, within its bounds.
    async fn discard(&self, body: Incoming) -> Result<(), Reply> {
        // A length that is declared needs no reading.
        if body.size_hint().lower() > self.limits.body_bytes as u64 {
            return Err(too_large());
        }
        let mut body = Limited::new(body, self.limits.body_bytes);
        let read = timeout(self.limits.read, async {
            while let Some(frame) = body.frame().await {
                frame?;
            }
            Ok(())
        });
        match read.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(unreadable(error)),
            Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "the body took too long\n")),
        }
    }
}

struct Page {
    path: &'static str,
    verb: Verb,
    content: Content,
    about: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Get,
    Post,
}

/// What is asked of a page.
#[derive(Clone, Copy, Debug)]
struct Question {
    content: Content,
    /// Only of a reload.
    expected: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Index,
    Live,
    Ready,
    Metrics,
    Config,
    Routes,
    Clusters,
    Filters,
    Reload,
    Drain,
}

const PAGES: [Page; 10] = [
    Page {
        path: "/",
        verb: Verb::Get,
        content: Content::Index,
        about: "this list",
    },
    Page {
        path: "/live",
        verb: Verb::Get,
        content: Content::Live,
        about: "200 while the process runs",
    },
    Page {
        path: "/ready",
        verb: Verb::Get,
        content: Content::Ready,
        about: "200 while it takes traffic, else 503",
    },
    Page {
        path: "/metrics",
        verb: Verb::Get,
        content: Content::Metrics,
        about: "metrics for Prometheus",
    },
    Page {
        path: "/config",
        verb: Verb::Get,
        content: Content::Config,
        about: "the configuration that is live",
    },
    Page {
        path: "/routes",
        verb: Verb::Get,
        content: Content::Routes,
        about: "routes in the order they are tried",
    },
    Page {
        path: "/clusters",
        verb: Verb::Get,
        content: Content::Clusters,
        about: "clusters and their endpoints",
    },
    Page {
        path: "/filters",
        verb: Verb::Get,
        content: Content::Filters,
        about: "filters and their instances",
    },
    Page {
        path: "/reload",
        verb: Verb::Post,
        content: Content::Reload,
        about: "read the configuration again; ?expect=N only if generation N is live",
    },
    Page {
        path: "/drain",
        verb: Verb::Post,
        content: Content::Drain,
        about: "take no new traffic, finish the rest, end the process",
    },
];

impl Content {
    /// Pages that only show something ignore a query. One that a reload does not know is refused: a condition that was
    /// misspelt must not be taken for none.
    fn question(self, query: Option<&str>) -> Result<Question, &'static str> {
        const FAULT: &str = "the query of /reload is nothing, or expect=N with the number of a generation\n";
        let expected = match query.filter(|_| self == Self::Reload) {
            None | Some("") => None,
            Some(query) => {
                let number = query.strip_prefix("expect=").ok_or(FAULT)?;
                Some(number.parse().map_err(|_| FAULT)?)
            }
        };
        Ok(Question {
            content: self,
            expected,
        })
    }
}

impl Verb {
    /// HEAD goes wherever GET does (RFC 9110 9.1).
    fn allows(self, method: &Method) -> bool {
        match self {
            Self::Get => method == Method::GET || method == Method::HEAD,
            Self::Post => method == Method::POST,
        }
    }

    fn allowed(self) -> &'static str {
        match self {
            Self::Get => "GET, HEAD",
            Self::Post => "POST",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

async fn answer(question: Question, operations: Arc<dyn Operations>) -> Reply {
    match question.content {
        Content::Index => text(StatusCode::OK, index()),
        Content::Live => text(StatusCode::OK, "live\n"),
        Content::Ready => match operations.ready().await {
            Readiness::Ready => text(StatusCode::OK, "ready\n"),
            Readiness::LastGood => text(StatusCode::OK, LAST_GOOD),
            Readiness::Starting => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            Readiness::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        },
        Content::Metrics => reply(StatusCode::OK, METRICS, operations.metrics().await),
        Content::Config => json_reply(StatusCode::OK, &operations.config().await),
        Content::Routes => json_reply(StatusCode::OK, &operations.routes().await),
        Content::Clusters => json_reply(StatusCode::OK, &operations.clusters().await),
        Content::Filters => json_reply(StatusCode::OK, &operations.filters().await),
        Content::Reload => reloaded(&operations.reload(question.expected).await),
        Content::Drain => {
            operations.drain().await;
            text(StatusCode::ACCEPTED, "draining\n")
        }
    }
}

const LAST_GOOD: &str = "ready, but with the last good generation: the current files do not load; \
                         GET /config says why\n";

fn reloaded(report: &Report) -> Reply {
    let status = match report.outcome {
        Outcome::Applied | Outcome::Unchanged => StatusCode::OK,
        Outcome::Refused => StatusCode::UNPROCESSABLE_ENTITY,
        Outcome::Conflict => StatusCode::CONFLICT,
        Outcome::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    json_reply(status, &json!(report))
}

fn index() -> String {
    let line = |page: &Page| format!("{:<4} {:<9} {}\n", page.verb.name(), page.path, page.about);
    PAGES.iter().map(line).collect()
}

fn refused(refusal: Refusal) -> Reply {
    text(StatusCode::FORBIDDEN, refusal.message())
}

fn unreadable(error: Box<dyn std::error::Error + Send + Sync>) -> Reply {
    if error.is::<LengthLimitError>() {
        return too_large();
    }
    text(StatusCode::BAD_REQUEST, "the body cannot be read\n")
}

fn too_large() -> Reply {
    text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n")
}

/// An operation that panicked. The endpoint lives on; what happened is for the log.
fn failed(error: &JoinError) -> Reply {
    tracing::error!(%error, "an administration request failed");
    text(StatusCode::INTERNAL_SERVER_ERROR, "failed; the log says why\n")
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    reply(status, TEXT, body)
}

fn json_reply(status: StatusCode, value: &Value) -> Reply {
    reply(status, JSON, format!("{value:#}\n"))
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

#[cfg(test)]
mod tests;
