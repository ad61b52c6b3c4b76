//! A guest's own requests: to the clusters that it is granted, over the worker's own connections.
//!
//! Data plane. The authority names the cluster; its port says nothing. A call goes to the worker's desk as a value, with
//! its body as a stream, and its answer comes back piece by piece, with back-pressure both ways.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::service::{Callees, Service};
use super::state::{Speaker, is_forbidden};
use crate::body::{BrokenUpload, Made, UploadFault};
use crate::cluster::Cluster;
use crate::head;
use crate::native::REQUEST_ID;
use crate::outbound::{Awaited, Desk, Failed, Incoming, Order};
use crate::permits::Permits;

/// One instance's calls.
pub(super) struct Calls {
    callees: Arc<Callees>,
    desk: Desk,
    permits: Arc<Permits>,
    timeout: Duration,
    speaker: Arc<Speaker>,
}

impl Calls {
    pub fn new(service: &Service, desk: &Desk, speaker: &Arc<Speaker>) -> Self {
        let at_once = usize::try_from(service.instances.at_once()).unwrap_or(1);
        Self {
            callees: Arc::clone(&service.callees),
            desk: desk.clone(),
            permits: Arc::new(Permits::new(service.limits.calls.saturating_mul(at_once))),
            timeout: service.limits.call_timeout,
            speaker: Arc::clone(speaker),
        }
    }

    /// Gives the call to the worker.
    pub fn place(&self, request: http::Request<WasiBody>, options: Option<RequestOptions>) -> Result<Awaited, Error> {
        let (parts, body) = request.into_parts();
        let authority = parts.uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let cluster = self.callee(authority.host()).ok_or(Error::HttpRequestDenied)?;
        if parts.method == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let mut headers = parts.headers;
        headers.insert(
            header::HOST,
            HeaderValue::from_str(authority.as_str()).map_err(|_| Error::HttpRequestUriInvalid)?,
        );
        // Framing is the host's, but for the length, which is the body's.
        let hop: Vec<_> = headers
            .keys()
            .filter(|name| is_forbidden(name) && **name != header::HOST)
            .cloned()
            .collect();
        for name in hop {
            headers.remove(name);
        }
        if headers.len() > head::MAX_FIELDS {
            return Err(Error::HttpRequestHeaderSectionSize(None));
        }
        if let Some(request_id) = self.speaker.field() {
            headers.insert(REQUEST_ID, request_id);
        }
        let target = parts.uri.path_and_query().cloned();
        let order = Order {
            cluster,
            method: parts.method,
            target: target.unwrap_or_else(|| PathAndQuery::from_static("/")),
            headers,
        };
        let permit = self.permits.try_take().ok_or(Error::ConnectionLimitReached)?;
        let wanted = options.and_then(|options| options.first_byte_timeout);
        let timeout = wanted.map_or(self.timeout, |wanted| wanted.min(self.timeout));
        let body = body.map_err(|_| BrokenUpload(UploadFault::Disconnected)).boxed_unsync();
        Ok(self.desk.place_streamed(order, Made::new(body), timeout, permit))
    }

    fn callee(&self, name: &str) -> Option<Arc<Cluster>> {
        let callees = self.callees.load();
        callees.iter().find(|cluster| cluster.name() == name).cloned()
    }
}

/// The answer's head, with its body behind it.
pub(super) async fn answer(awaited: Awaited) -> Result<http::Response<WasiBody>, Error> {
    let mut incoming = awaited.head().await.map_err(error)?;
    let mut response = http::Response::new(());
    *response.status_mut() = incoming.status;
    *response.headers_mut() = std::mem::take(&mut incoming.headers);
    Ok(response.map(|()| Answer(incoming).boxed_unsync()))
}

fn error(failed: Failed) -> Error {
    match failed {
        Failed::TimedOut => Error::HttpResponseTimeout,
        Failed::Unreachable => Error::DestinationUnavailable,
        Failed::Broken => Error::ConnectionTerminated,
    }
}

struct Answer(Incoming);

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = self.0.poll_frame(context);
        polled.map(|frame| frame.map(|frame| frame.map_err(error)))
    }
}
