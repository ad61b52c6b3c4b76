//! One exchange in memory: its hooks, one by one or all in their order.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::time::Duration;

use super::host::Turn;
use super::message::{Request, Response, fields};
use super::proxy::Proxy;
use crate::hook::Hook;
use crate::{
    Admission, BodyVerdict, Connection, EndVerdict, Failure, Filter, Header, HeldBody, HeldVerdict, Outcome, OverMax,
    Reply, RequestVerdict, Verdict, check_header,
};

/// One exchange in memory. What the filter changes can be read in the fields after each hook.
///
/// As in the proxy, the exchange's first hook clones the configured filter, and all its hooks share that clone. Filters
/// of several types may take part in one exchange, but only one of each.
#[derive(Debug, Default)]
pub struct Exchange {
    /// What this exchange shares with others.
    pub proxy: Proxy,
    /// The request, as the client sends it.
    pub request: Request,
    /// The response, as the upstream sends it before [`response_head`](Exchange::response_head).
    pub response: Response,
    /// The client's address and port; empty for a Unix socket.
    pub client_address: String,
    /// The client's connection.
    pub peer: Peer,
    /// The listener's name.
    pub listener: String,
    /// The chosen route's name.
    pub route: Option<String>,
    /// The clusters that the route names.
    pub clusters: Vec<String>,
    /// The cluster that a filter has chosen.
    pub cluster: Option<String>,
    /// The exchange's id.
    pub request_id: String,
    pub(super) attributes: BTreeMap<String, String>,
    filters: BTreeMap<TypeId, Box<dyn Any>>,
}

/// The client's connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// The address and port that the client connected to; empty for a Unix socket.
    pub local_address: String,
    /// The name that the client asked for in its TLS handshake.
    pub server_name: Option<String>,
    /// The protocol that was agreed on in the TLS handshake.
    pub alpn: Option<String>,
    /// The client's verified certificate, as DER.
    pub certificate: Option<Vec<u8>>,
}

/// What came of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// The request as the upstream got it; none when a filter or the proxy answered first.
    pub request: Option<Request>,
    /// The response as the client got it.
    pub response: Response,
    /// Whether the client got it whole; otherwise its connection was cut.
    pub complete: bool,
}

impl Exchange {
    /// An exchange for `METHOD target` over http to `test.example`, where the target is `/path` or `/path?query`, of a
    /// proxy of its own.
    pub fn new(method: &str, target: &str) -> Self {
        Exchange::of(Proxy::new(), method, target)
    }

    /// An exchange for `GET target`.
    pub fn get(target: &str) -> Self {
        Exchange::new("GET", target)
    }

    /// An exchange for `POST target` with a body in one piece.
    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Exchange::new("POST", target).with_body(body)
    }

    pub(super) fn of(proxy: Proxy, method: &str, target: &str) -> Self {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        Exchange {
            proxy,
            request: Request {
                method: method.to_owned(),
                scheme: "http".to_owned(),
                authority: "test.example".to_owned(),
                path: path.to_owned(),
                query,
                ..Request::default()
            },
            response: Response {
                status: 200,
                ..Response::default()
            },
            client_address: "192.0.2.7:50312".to_owned(),
            peer: Peer {
                local_address: "192.0.2.1:80".to_owned(),
                ..Peer::default()
            },
            listener: "test".to_owned(),
            route: Some("test".to_owned()),
            clusters: vec!["test".to_owned()],
            request_id: "00000000-0000-7000-8000-000000000000".to_owned(),
            ..Exchange::default()
        }
    }

    /// Adds a header to the request, as the client sends it.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        fields::append(&mut self.request.headers, name, value.as_ref());
        self
    }

    /// Adds a piece to the request's body.
    #[must_use]
    pub fn with_body(mut self, piece: impl Into<Vec<u8>>) -> Self {
        self.request.pieces.push(piece.into());
        self
    }

    /// Adds a trailer to the request.
    #[must_use]
    pub fn with_trailer(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        fields::append(&mut self.request.trailers, name, value.as_ref());
        self
    }

    /// Sets the response's status, as the upstream sends it; without this it is 200.
    #[must_use]
    pub fn with_response_status(mut self, status: u16) -> Self {
        self.response.status = status;
        self
    }

    /// Adds a header to the response, as the upstream sends it.
    #[must_use]
    pub fn with_response_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        fields::append(&mut self.response.headers, name, value.as_ref());
        self
    }

    /// Adds a piece to the response's body.
    #[must_use]
    pub fn with_response_body(mut self, piece: impl Into<Vec<u8>>) -> Self {
        self.response.pieces.push(piece.into());
        self
    }

    /// Adds a trailer to the response.
    #[must_use]
    pub fn with_response_trailer(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        fields::append(&mut self.response.trailers, name, value.as_ref());
        self
    }

    /// Sets an attribute, as an earlier filter leaves it.
    #[must_use]
    pub fn with_attribute(mut self, name: &str, value: &str) -> Self {
        self.attributes.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Sets the clusters that the route names; without this it is `test`.
    #[must_use]
    pub fn with_clusters(mut self, names: &[&str]) -> Self {
        self.clusters = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// What a filter has set.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    /// Runs the whole exchange through the filter, as the proxy does: from the request's head to completion.
    ///
    /// A held body that is cut at `max` gives the hook no more than that. A reply to a piece or to the end of the response's
    /// body cuts the response.
    ///
    /// # Panics
    ///
    /// When a hook fails: in the proxy it would trap.
    pub fn run<F: Filter>(&mut self, filter: &F) -> Transcript {
        let request = self.run_request(filter);
        let request = request.map_err(|reply| self.response = reply.into()).ok();
        let (response, complete) = self.run_response(filter);
        let outcome = Outcome {
            status: response.status,
            complete,
            request_bytes: self.request.body().len() as u64,
            response_bytes: response.body().len() as u64,
            ..self.outcome()
        };
        self.completion(filter, outcome);
        Transcript {
            request,
            response,
            complete,
        }
    }

    /// Calls the filter's connection hook.
    ///
    /// # Panics
    ///
    /// When the hook fails: in the proxy it would trap.
    pub fn connection<F: Filter>(&mut self, filter: &F) -> Admission {
        // What is known only of an exchange is not known yet.
        let request_id = std::mem::take(&mut self.request_id);
        let route = self.route.take();
        let admission = self.call(Hook::Connection, || filter.clone().on_connection(&mut Connection(())));
        self.request_id = request_id;
        self.route = route;
        admission
    }

    /// Calls the filter's request-head hook.
    ///
    /// # Panics
    ///
    /// When the hook fails: in the proxy it would trap.
    pub fn request_head<F: Filter>(&mut self, filter: &F) -> RequestVerdict {
        let verdict = self.hook(filter, Hook::RequestHead, |filter| {
            filter.on_request_head(&mut crate::Request(()), &mut crate::Exchange(()))
        });
        if let RequestVerdict::Reply(reply) = &verdict {
            check_reply(reply);
        }
        verdict
    }

    /// Calls the filter's hook for a held body.
    ///
    /// # Panics
    ///
    /// When the hook fails: in the proxy it would trap.
    pub fn held_body<F: Filter>(&mut self, filter: &F, body: HeldBody) -> HeldVerdict {
        let verdict = self.hook(filter, Hook::HeldBody, |filter| {
            filter.on_held_body(body, &mut crate::Request(()), &mut crate::Exchange(()))
        });
        if let HeldVerdict::Reply(reply) = &verdict {
            check_reply(reply);
        }
        verdict
    }

    /// Calls the filter's hook for a piece of the request's body.
    ///
    /// # Panics
    ///
    /// When the hook fails: in the proxy it would trap.
    pub fn request_body<F: Filter>(&mut self, filter: &F, chunk: impl Into<Vec<u8>>) -> BodyVerdict {
        let verdict = self.hook(filter, Hook::RequestBody, |filter| {
            filter.on_request_body(chunk.into(), &crate::Request(()), &mut crate::Exchange(()))
        });
        if let BodyVerdict::Reply(reply) = &verdict {
            check_reply(reply);
        }
        verdict
    }

    /// Calls the filter's hook for the end of the request's body, with the request's trailers.
    ///
    /// # Panics
    ///
    /// When the hook fails: in the proxy it would trap.
    pub fn request_end<F: Filter>(&mut self, filter: &F) -> EndVerdict {
        let trailers = self.request.trailers.clone();
        let verdict = self.hook(filter, Hook::RequestBody, |filter| {
            filter.on_request_end(trailers, &crate::Request(()), &mut crate::Exchange(()))
        });
        check_end(&verdict);
        verdict
    }

    /// Calls the filter's response-head hook.
    ///
    /// # Panics
    ///
    /// When the hook fails: in the proxy it would trap.
    pub fn response_head<F: Filter>(&mut self, filter: &F) -> Verdict {
        let verdict = self.hook(filter, Hook::ResponseHead, |filter| {
            filter.on_response_head(&crate::Request(()), &mut crate::Response(()), &mut crate::Exchange(()))
        });
        if let Verdict::Reply(reply) = &verdict {
            check_reply(reply);
        }
        verdict
    }

    /// Calls the filter's hook for a piece of the response's body.
    ///
    /// # Panics
    ///
    /// When the hook fails: in the proxy it would trap.
    pub fn response_body<F: Filter>(&mut self, filter: &F, chunk: impl Into<Vec<u8>>) -> BodyVerdict {
        let verdict = self.hook(filter, Hook::ResponseBody, |filter| {
            filter.on_response_body(
                chunk.into(),
                &crate::Request(()),
                &crate::Response(()),
                &mut crate::Exchange(()),
            )
        });
        if let BodyVerdict::Reply(reply) = &verdict {
            check_reply(reply);
        }
        verdict
    }

    /// Calls the filter's hook for the end of the response's body, with the response's trailers.
    ///
    /// # Panics
    ///
    /// When the hook fails: in the proxy it would trap.
    pub fn response_end<F: Filter>(&mut self, filter: &F) -> EndVerdict {
        let trailers = self.response.trailers.clone();
        let verdict = self.hook(filter, Hook::ResponseBody, |filter| {
            filter.on_response_end(
                trailers,
                &crate::Request(()),
                &crate::Response(()),
                &mut crate::Exchange(()),
            )
        });
        check_end(&verdict);
        verdict
    }

    /// Calls the filter's completion hook; with it the exchange ends. [`outcome`](Exchange::outcome) is one to begin with.
    ///
    /// # Panics
    ///
    /// When the hook fails: in the proxy it would trap.
    pub fn completion<F: Filter>(&mut self, filter: &F, outcome: Outcome) {
        self.hook(filter, Hook::Completion, |filter| {
            filter.on_completion(
                outcome,
                &crate::Request(()),
                &crate::Response(()),
                &mut crate::Exchange(()),
            )
        });
        self.filters.remove(&TypeId::of::<F>());
    }

    /// The outcome of an exchange that went well, with the status of the response as it is now.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            status: self.response.status,
            complete: true,
            reason: None,
            request_bytes: 0,
            response_bytes: 0,
            duration: Duration::from_millis(2),
            upstream_duration: Some(Duration::from_millis(1)),
            cluster: self.cluster.clone().or(self.clusters.first().cloned()),
            endpoint: Some("192.0.2.80:80".to_owned()),
        }
    }

    /// The request as it goes to the upstream, or the reply that goes to the client.
    fn run_request<F: Filter>(&mut self, filter: &F) -> Result<Request, Reply> {
        let mut body = self.request.pieces.clone();
        match self.request_head(filter) {
            RequestVerdict::Proceed => {}
            RequestVerdict::Reply(reply) => return Err(reply),
            RequestVerdict::ReadBody { max, over } => body = self.hold(filter, max, over, body.concat())?,
        }
        let mut trailers = self.request.trailers.clone();
        let bodiless = body.is_empty() && trailers.is_empty();
        if !bodiless && !self.request.body_passed {
            let mut sent = Sent::default();
            for piece in body {
                sent.piece(piece.clone(), self.request_body(filter, piece))?;
            }
            sent.end(&mut trailers, self.request_end(filter))?;
            body = sent.0;
        }
        Ok(Request {
            pieces: body,
            trailers,
            ..self.request.clone()
        })
    }

    /// The pieces that a held body is afterwards.
    fn hold<F: Filter>(&mut self, filter: &F, max: u64, over: OverMax, body: Vec<u8>) -> Result<Vec<Vec<u8>>, Reply> {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let (held, rest) = match over {
            _ if body.len() <= max => (HeldBody::whole(body), Vec::new()),
            OverMax::Refuse => return Err(Reply::new(413).text("content too large\n")),
            OverMax::Continue => (HeldBody::part(&body[..max]), body[max..].to_vec()),
        };
        let data = held.data.clone();
        let held = match self.held_body(filter, held) {
            HeldVerdict::Proceed => data,
            HeldVerdict::Replace(body) => body,
            HeldVerdict::Reply(reply) => return Err(reply),
        };
        Ok([held, rest].into_iter().filter(|piece| !piece.is_empty()).collect())
    }

    /// The response as it goes to the client, and whether it goes whole.
    fn run_response<F: Filter>(&mut self, filter: &F) -> (Response, bool) {
        if let Verdict::Reply(reply) = self.response_head(filter) {
            // The filter has just made it, so it is not shown to it again.
            self.response = reply.into();
            return (self.response.clone(), true);
        }
        let mut response = self.response.clone();
        // RFC 9110 section 6.4.1: these have no content.
        let bodiless = self.request.method == "HEAD" || matches!(response.status, 204 | 304);
        if bodiless {
            response.pieces.clear();
            response.trailers.clear();
        }
        if response.body_passed || (response.pieces.is_empty() && response.trailers.is_empty()) {
            return (response, true);
        }
        let mut sent = Sent::default();
        let ended = self.run_response_body(filter, &mut sent, &mut response.trailers);
        response.pieces = sent.0;
        // The head is gone, so no reply can take its place, be there a piece of the body already or not.
        if ended.is_err() {
            response.trailers.clear();
        }
        (response, ended.is_ok())
    }

    fn run_response_body<F: Filter>(
        &mut self,
        filter: &F,
        sent: &mut Sent,
        trailers: &mut Vec<Header>,
    ) -> Result<(), Reply> {
        for piece in self.response.pieces.clone() {
            sent.piece(piece.clone(), self.response_body(filter, piece))?;
        }
        sent.end(trailers, self.response_end(filter))
    }

    /// Runs a hook of the exchange's own clone of the filter.
    fn hook<F: Filter, T>(&mut self, filter: &F, hook: Hook, call: impl FnOnce(&mut F) -> Result<T, Failure>) -> T {
        let own = self.filters.remove(&TypeId::of::<F>());
        let mut own: Box<F> = match own.map(|own| own.downcast()) {
            Some(Ok(own)) => own,
            _ => Box::new(filter.clone()),
        };
        let result = self.call(hook, || call(&mut own));
        self.filters.insert(TypeId::of::<F>(), own);
        result
    }

    /// Makes this the thread's current exchange while the hook runs.
    fn call<T>(&mut self, hook: Hook, call: impl FnOnce() -> Result<T, Failure>) -> T {
        let turn = Turn::begin(Some(hook), self);
        let result = call();
        drop(turn);
        result.unwrap_or_else(|failure| panic!("the hook failed: {failure}"))
    }
}

/// The pieces of a body that go on.
#[derive(Default)]
struct Sent(Vec<Vec<u8>>);

impl Sent {
    fn piece(&mut self, piece: Vec<u8>, verdict: BodyVerdict) -> Result<(), Reply> {
        match verdict {
            BodyVerdict::Keep => self.push(piece),
            BodyVerdict::Drop => {}
            BodyVerdict::Replace(piece) => self.push(piece),
            BodyVerdict::Pieces(pieces) => pieces.into_iter().for_each(|piece| self.push(piece)),
            BodyVerdict::Reply(reply) => return Err(reply),
        }
        Ok(())
    }

    fn end(&mut self, trailers: &mut Vec<Header>, verdict: EndVerdict) -> Result<(), Reply> {
        match verdict {
            EndVerdict::Keep => Ok(()),
            EndVerdict::Finish { data, trailers: new } => {
                self.push(data);
                *trailers = new.unwrap_or_else(|| trailers.clone());
                Ok(())
            }
            EndVerdict::Reply(reply) => Err(reply),
        }
    }

    fn push(&mut self, piece: Vec<u8>) {
        if !piece.is_empty() {
            self.0.push(piece);
        }
    }
}

/// The proxy fails the exchange when it cannot send the reply.
fn check_reply(reply: &Reply) {
    assert!(
        (200..=599).contains(&reply.status),
        "status {} cannot be a reply's",
        reply.status
    );
    check_fields(&reply.headers);
}

fn check_end(verdict: &EndVerdict) {
    match verdict {
        EndVerdict::Keep | EndVerdict::Finish { trailers: None, .. } => {}
        EndVerdict::Finish {
            trailers: Some(trailers),
            ..
        } => check_fields(trailers),
        EndVerdict::Reply(reply) => check_reply(reply),
    }
}

fn check_fields(headers: &[Header]) {
    for Header { name, value } in headers {
        if let Err(error) = check_header(name, value) {
            panic!("the proxy refuses the field `{name}`: {error}");
        }
    }
}

#[cfg(test)]
mod tests;
