//! One request, from its head to its log line.
//!
//! Data plane. The steps stand in [`run`] in the order in which they happen. An exchange pins one generation, owns the
//! message that filters see, and is dropped exactly once: with the last byte of the response, or wherever the exchange
//! breaks off. That drop returns what was borrowed and writes the record.

mod handing;
mod retrying;

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Response, StatusCode, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::body::{Body, BodyFault, RequestBody, Source, Upload, UploadCut, UploadFault};
use crate::chain::Broken;
use crate::cluster::Asker;
use crate::connection::Connection;
use crate::filter::{HeldVerdict, Hook, Outcome, OverMax, ReadBody, Reply, Verdict};
use crate::grpc;
use crate::guard::{self, Admitted};
use crate::h1::{self, RequestLines};
use crate::head::{Clusters, Facts, Message, RequestHead, ResponseHead, Stage};
use crate::hop;
use crate::identity::{self, Claim};
use crate::lane::Lane;
use crate::mirror::{self, Mirror, Shadow};
use crate::native::REQUEST_ID;
use crate::overload;
use crate::panics;
use crate::passage::{Forward, Passage};
use crate::pool::{self, ClusterPool, EndpointPool, Picked, Turn, Unconnected};
use crate::reply::{self, Error, Kind};
use crate::retry::budget::Running;
use crate::retry::{Cause, RETRIED, UNSENT};
use crate::rewrite::Outgoing;
use crate::route::Target;
use crate::snapshot::{Action, Choice, GrpcTimeout, Listener, Redirect, Route};
use crate::telemetry::record::Record;
use crate::tls;
use crate::tunnel::{Broken as TunnelBroken, Relay};
use crate::upstream::{Call, Failure, Offer, Switched};
use crate::websocket;
use crate::wire::Expired;
use crate::worker::{Pinned, Scene, Worker};

use handing::Early;

/// A request's body of at most so many bytes is read to its end after an early answer, so that the connection can be
/// kept; the connection of a larger one is closed.
const MAX_DISCARD: u64 = 64 << 10;
/// How long a client may go on speaking through a tunnel whose upstream has closed it: closed at once, the connection
/// would be reset, and the upstream's last words be lost with that (RFC 9112 9.6).
const FAREWELL: Duration = Duration::from_secs(2);
/// A status of our own for the log: the client left before there was one (nginx's convention).
const CLIENT_CLOSED: u16 = 499;

/// Ends the client's connection, or its stream, without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// There is nobody to answer.
    Left,
    /// The request is none (RFC 9113 8.1.1).
    Malformed,
}

impl std::fmt::Display for Abandoned {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the exchange was abandoned")
    }
}

impl std::error::Error for Abandoned {}

/// The protocol that a client of HTTP/2 asks for on its stream (RFC 8441 4); among the extensions of a request that is a GET
/// otherwise.
#[derive(Clone)]
pub struct Connects(pub HeaderValue);

/// Where an exchange that makes a tunnel leaves it, for whoever has the connection when the answer is written.
pub type TunnelSlot = Cell<Option<Box<Tunnel>>>;

/// The walk of one request. A panic in it is an answer too: the exchange has been dropped then, and with it all that it
/// held.
pub fn run(
    connection: Rc<Connection>,
    lane: Rc<Lane>,
    parts: http::request::Parts,
    incoming: Source,
    tunnels: &TunnelSlot,
) -> impl Future<Output = Result<Response<ResponseBody>, Abandoned>> {
    let (version, worker) = (parts.version, Rc::clone(&connection.worker));
    // Pin the generation; judge and normalise the head; find the route. Not when it is first polled: of a client that has
    // closed its half behind the request, hyper drops it before that, and there would be no record.
    let begun = catch_unwind(AssertUnwindSafe(|| Exchange::begin(connection, lane, parts)));
    async move {
        let Ok((exchange, refused)) = begun else {
            return Ok(answer_to_panic(&worker, version));
        };
        let mut walk = std::pin::pin!(walk(exchange, refused, incoming, tunnels));
        std::future::poll_fn(|context| {
            let polled = catch_unwind(AssertUnwindSafe(|| walk.as_mut().poll(context)));
            polled.unwrap_or_else(|_| Poll::Ready(Ok(answer_to_panic(&worker, version))))
        })
        .await
    }
}

async fn walk(
    mut exchange: Box<Exchange>,
    refused: Option<Error>,
    incoming: Source,
    tunnels: &TunnelSlot,
) -> Result<Response<ResponseBody>, Abandoned> {
    let mut upload = exchange.request_body(incoming);
    // Request filters, then the route's action: an upstream, a redirect, a fixed answer.
    let answered = match refused {
        Some(refusal) => Err(refusal),
        None if exchange.passage.has_middlewares() => Box::pin(exchange.answer_in_hands(&mut upload)).await,
        None => exchange.answer(&mut upload).await,
    };
    // Whatever went wrong becomes an answer too.
    let mut body = match answered {
        Ok(body) => body,
        Err(error) => match exchange.abandons(error.kind) {
            Some(abandoned) => return Err(exchange.abandon(error, abandoned)),
            None => exchange.fail(error),
        },
    };
    // Response filters in reverse order, for every answer.
    exchange.respond(&mut body).await;
    if exchange.misleads() {
        body = exchange.fail(Kind::NotSwitched.into());
    }
    // An early answer leaves a request unread.
    exchange.discard(upload).await;
    Ok(exchange.finish_head(body, tunnels))
}

/// Nobody knows what of the request was read, so that the connection of HTTP/1 ends.
#[cold]
fn answer_to_panic(worker: &Worker, version: Version) -> Response<ResponseBody> {
    let Reply { status, headers, body } = reply::reply(Kind::Panic, &worker.new_request_id());
    let mut response = Response::new(ResponseBody {
        body: Body::Full(body),
        exchange: None,
        waiting_since: None,
        is_unsent: true,
        late: None,
    });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if version != Version::HTTP_2 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// Lives from the end of the request's head to the end of the response's body.
pub struct Exchange {
    begun: Begun,
    connection: Rc<Connection>,
    lane: Rc<Lane>,
    pinned: Rc<Pinned>,
    /// Index of the listener in the pinned generation.
    listener: usize,
    /// Index of the route; `None` when none matched.
    route: Option<usize>,
    /// The message, and its way through the filters.
    passage: Rc<Passage>,
    started: Instant,
    /// The route's timeout.
    deadline: Option<Instant>,
    /// The deadline is the client's own, or the client is why it passes: the endpoint is not to blame.
    is_hurried: bool,
    upload: Option<Rc<Upload>>,
    /// How often the request was sent, or tried to be.
    attempts: u32,
    /// Where it was sent last, or tried to be; for the record, also when nobody waits for what comes of it.
    tried: Option<Rc<EndpointPool>>,
    /// What it gets in place of the message's request, if its route rewrites that.
    outgoing: Option<Box<Outgoing>>,
    upstream: Option<Upstream>,
    /// The protocol that a client of HTTP/2 asks for.
    connects: Option<Box<HeaderValue>>,
    /// The protocol that the upstream is asked to change to.
    offer: Option<HeaderValue>,
    /// The upstream's connection after it has, until the client is told.
    switched: Option<Box<Switched>>,
    /// The request is a call of gRPC.
    call: Option<Box<grpc::Call>>,
    reason: &'static str,
    /// What a trusted proxy says of the client.
    claim: Option<Box<Claim>>,
    client: Option<SocketAddr>,
    /// The client waits for `100 Continue` before it sends its body.
    expects_continue: bool,
    /// The client's connection ends with this answer.
    closes: bool,
    /// It is also how the client, of HTTP/1.0, is told where the answer ends.
    ends_by_close: bool,
    /// A filter of bodies would see the answer, were it not one to HEAD: its length is not known.
    hides_length: bool,
    status: u16,
    response_bytes: u64,
    /// The response was handed over whole.
    complete: bool,
    /// For the access log only, as the client sent them.
    authority: Option<HeaderValue>,
    agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
}

/// Where the request went; counted as under way there until this is dropped.
struct Upstream {
    turn: Turn,
    /// `Set-Cookie`, by which the client will come back to it.
    cookie: Option<HeaderValue>,
    /// What is spoken with it.
    version: Cell<Version>,
    time_to_head: Option<Duration>,
    /// It is not the first one.
    _retry: Option<Running>,
}

impl Exchange {
    fn begin(
        connection: Rc<Connection>,
        lane: Rc<Lane>,
        mut parts: http::request::Parts,
    ) -> (Box<Self>, Option<Error>) {
        let started = Instant::now();
        let (pinned, listener) = connection.begin_exchange();
        let begun = Begun::new(&connection);
        panics::point("head");
        let connects = match parts.version {
            Version::HTTP_2 => parts.extensions.remove(),
            _ => None,
        };
        lane.pin(pinned.snapshot.generation);
        let head = connection.next_head();
        let snapshot = Rc::clone(&pinned);
        let settings = &snapshot.snapshot.listeners[listener];
        let judged = judge(&connection, settings, &mut parts, head).and_then(|admitted| {
            let overload = connection.overload(&pinned, listener);
            overload.map_or(Ok(admitted), |cause| Err(shed(&connection, cause)))
        });
        // Where all are sent elsewhere, no route is asked.
        let asked = judged.as_ref().ok().filter(|_| settings.redirect.is_none());
        let route = asked.and_then(|admitted| {
            let target = Target {
                host: admitted.host.as_str(),
                path: admitted.target.path(),
                query: admitted.target.query(),
                method: &parts.method,
                headers: &parts.headers,
                certificate: connection.tls().and_then(|tls| tls.certificate.as_ref()),
            };
            snapshot.snapshot.table.find(&target)
        });
        let found = route.map(|index| &snapshot.snapshot.routes[index]);
        let (target, refused) = match judged {
            Ok(admitted) => (admitted.target, None),
            Err(error) => (parts.uri.path_and_query().cloned().unwrap_or_else(root), Some(error)),
        };
        let logs = snapshot.snapshot.access_log.is_some();
        let field = |name| if logs { parts.headers.get(name).cloned() } else { None };
        let (authority, agent, referer) = (field(header::HOST), field(header::USER_AGENT), field(header::REFERER));
        let expects_continue = parts.headers.contains_key(header::EXPECT);
        let mut deadline = found.and_then(|route| route.timeout).map(|timeout| started + timeout);
        // All calls are POST.
        let is_call = parts.method == Method::POST && grpc::wire(&parts.headers).is_some();
        let of_route = deadline;
        if is_call {
            let honors = found.is_some_and(|route| route.grpc_timeout == GrpcTimeout::Honor);
            let timeout = grpc::timeout(&parts.headers).filter(|_| honors);
            deadline = timeout
                .map(|timeout| started + timeout)
                .into_iter()
                .chain(deadline)
                .min();
        }
        if refused.is_none() && !parts.headers.contains_key(header::HOST) {
            // HTTP/1.0 needs none; upstreams are spoken to in HTTP/1.1, which does (RFC 9112 3.2).
            parts.headers.insert(header::HOST, settings.authority.clone());
        }
        let claim = match settings.trusted.is_empty() {
            true => None,
            false => identity::claim(&parts.headers, connection.client(), &settings.trusted),
        };
        let client = claim.as_ref().map_or_else(|| connection.client(), |claim| claim.client);
        let mut message = Box::new(Message {
            client_request_id: parts.headers.remove(REQUEST_ID),
            request: RequestHead {
                method: parts.method,
                scheme: claim
                    .as_ref()
                    .and_then(|claim| claim.scheme)
                    .unwrap_or_else(|| connection.scheme()),
                target,
                version: parts.version,
                headers: parts.headers,
            },
            response: None,
            stage: Stage::Request,
            facts: Facts {
                client,
                local: connection.local(),
                tls: connection.tls().cloned(),
                listener: settings.short_name,
                route: found.map(|route| route.short_name),
                request_id: connection.worker.new_request_id(),
            },
            attributes: connection.attributes.borrow().clone(),
            clusters: Clusters::default(),
            passes_body: false,
        });
        let scene = Scene {
            worker: Rc::clone(&connection.worker),
            pinned: Rc::clone(&pinned),
            listener,
            route,
        };
        if scene.has_filters() {
            message.clusters = scene.clusters();
        }
        let exchange = Box::new(Self {
            begun,
            connection,
            lane,
            pinned,
            listener,
            route,
            passage: Rc::new(Passage::new(scene, message)),
            started,
            is_hurried: deadline != of_route,
            deadline,
            upload: None,
            attempts: 0,
            tried: None,
            outgoing: None,
            upstream: None,
            connects: connects.map(|Connects(protocol)| Box::new(protocol)),
            offer: None,
            switched: None,
            call: is_call.then(Box::default),
            reason: "",
            claim,
            client,
            expects_continue,
            closes: false,
            ends_by_close: false,
            hides_length: false,
            status: CLIENT_CLOSED,
            response_bytes: 0,
            complete: false,
            authority,
            agent,
            referer,
        });
        (exchange, refused)
    }

    async fn answer(&mut self, upload: &mut RequestBody) -> Result<Body, Error> {
        let pinned = Rc::clone(&self.pinned);
        let route = self.route.map(|index| &pinned.snapshot.routes[index]);
        self.prepare_request(upload)?;
        panics::point("request");
        match self.filter_request(upload).await? {
            Some(Early::Reply(reply)) => return Ok(self.local(*reply)),
            Some(Early::Answer(body)) => return Ok(body),
            None => {}
        }
        if let Some(redirect) = &pinned.snapshot.listeners[self.listener].redirect {
            return Ok(self.redirect(redirect));
        }
        let route = route.ok_or(Kind::NoRoute)?;
        match &route.action {
            Action::Respond(respond) => Ok(self.local(respond.reply())),
            Action::Redirect(redirect) => Ok(self.redirect(redirect)),
            Action::Clusters { choices, total } => {
                let pool = pinned.upstreams(&self.connection.worker, self.choose(choices, *total));
                let upload = std::mem::replace(upload, RequestBody::Empty);
                match self.forward(&pool, upload, route).await {
                    Err(error) => match self.cut_short() {
                        Some(cut) => Ok(self.local(*cut?)),
                        None => Err(error),
                    },
                    answered => answered,
                }
            }
        }
    }

    /// The cluster that a filter chose, or one by weight.
    fn choose(&self, choices: &[Choice], total: u64) -> usize {
        let chosen = self
            .passage
            .message()
            .as_ref()
            .and_then(|message| message.clusters.chosen());
        match chosen {
            Some(chosen) => choices[chosen].cluster,
            None if choices.len() == 1 => choices[0].cluster,
            None => Action::choose(choices, total, self.connection.worker.random()),
        }
    }

    /// What a filter in the way of the request's body did to it: its reply, or its failure.
    fn cut_short(&self) -> Option<Result<Box<Reply>, Error>> {
        match self.upload.as_ref()?.cut.take()? {
            UploadCut::Replied(reply) => Some(Ok(reply)),
            UploadCut::Broken(broken) => Some(Err(broken.into())),
        }
    }

    /// Sets what every filter and every upstream finds in a request, and removes what concerns this connection only.
    fn prepare_request(&mut self, upload: &RequestBody) -> Result<(), Error> {
        let mut message = self.passage.message();
        let Some(message) = &mut *message else { return Ok(()) };
        let headers = &mut message.request.headers;
        let upgrade = hop::strip_request(headers);
        let route = self.route.map(|route| &self.pinned.snapshot.routes[route]);
        self.offer = match (route, &self.connects) {
            (Some(route), Some(asked)) => {
                let listed = Some(&**asked).filter(|asked| hop::lists_protocol(&route.upgrades, asked.as_bytes()));
                Some(listed.ok_or(Kind::UpgradeNotListed)?.clone())
            }
            // RFC 9110 7.8: one in HTTP/1.0 is ignored.
            (Some(route), None) if message.request.version == Version::HTTP_11 => upgrade.first_of(&route.upgrades),
            _ => None,
        };
        // A WebSocket begins with a GET (RFC 6455 4.1); what a server makes of another request is its own affair.
        let is_get = message.request.method == Method::GET;
        self.offer.take_if(|protocol| !is_get && websocket::is_it(protocol));
        if let Some(protocol) = &self.offer {
            // On a stream the length of nothing holds the other protocol to it.
            let has_length = self.connects.is_some() && headers.contains_key(header::CONTENT_LENGTH);
            if has_length || !upload.is_empty() {
                return Err(Kind::UpgradeWithBody.into());
            }
            hop::switch(headers, protocol.clone());
            if self.connects.is_some() && websocket::is_it(protocol) {
                let worker = &self.connection.worker;
                let nonce = u128::from(worker.random()) << 64 | u128::from(worker.random());
                headers.insert(header::SEC_WEBSOCKET_KEY, websocket::key(nonce.to_be_bytes()));
            }
        }
        if self.expects_continue {
            headers.remove(header::EXPECT);
        }
        let (route, host) = match self.claim.take() {
            Some(claim) => (claim.route, claim.host),
            None => (self.connection.client_field().cloned(), None),
        };
        let host = host.or_else(|| headers.get(header::HOST).cloned());
        hop::forwarded(headers, route, message.request.scheme, host);
        if let Some(certificate) = message.facts.tls.as_ref().and_then(|tls| tls.certificate.as_ref()) {
            hop::forwarded_certificate(headers, &certificate.forwarded);
        }
        headers.insert(REQUEST_ID, message.facts.request_id.clone());
        Ok(())
    }

    /// A filter that waits for the client's body is bound by the route's timeout like an upstream.
    async fn filter_request(&mut self, upload: &mut RequestBody) -> Result<Option<Early>, Error> {
        if !self.passage.has_filters() {
            return Ok(None);
        }
        let passage = Rc::clone(&self.passage);
        let mut clock = std::time::Instant::now();
        let mut steps = passage.steps();
        // The first of them, as far as they go without a future; then the rest.
        while let Some(step) = steps.next() {
            let Some(answered) = passage.forward_at_once(step, &mut clock) else {
                let (lane, deadline) = (Rc::clone(&self.lane), self.deadline);
                let rest = std::iter::once(step).chain(steps);
                let walk = std::pin::pin!(self.walk_forward(rest, clock, upload));
                let walked = lane.watchdog.watch(deadline, walk).await;
                return walked.unwrap_or_else(|| Err(Kind::RouteTimeout.into()));
            };
            if let Some(reply) = answered? {
                return Ok(Some(Early::Reply(reply)));
            }
        }
        Ok(None)
    }

    async fn walk_forward(
        &mut self,
        steps: impl Iterator<Item = (usize, usize)>,
        mut clock: std::time::Instant,
        upload: &mut RequestBody,
    ) -> Result<Option<Early>, Error> {
        let passage = Rc::clone(&self.passage);
        for step in steps {
            let stage = match passage.forward(step, &mut clock).await? {
                Forward::Proceed { stage } => stage,
                Forward::Reply(reply) => return Ok(Some(Early::Reply(reply))),
                Forward::Hold(turn, wish) => {
                    // Boxed like all that seldom happens: the future of an exchange is moved, and its size costs.
                    if let Some(reply) = Box::pin(self.hold(turn, wish, upload, &mut clock)).await? {
                        return Ok(Some(Early::Reply(reply)));
                    }
                    passage.stage_of(turn, Hook::RequestBody)
                }
                Forward::Hand(turn) => {
                    if let Some(body) = Box::pin(self.hand(turn, upload, &mut clock)).await? {
                        return Ok(Some(Early::Answer(body)));
                    }
                    continue;
                }
            };
            match (stage, &self.upload) {
                (Some(turn), Some(ours)) if !upload.is_empty() => upload.filter(&passage, turn, ours),
                (Some(turn), _) => passage.forgo(turn, &[Hook::HeldBody, Hook::RequestBody]),
                (None, _) => {}
            }
        }
        Ok(None)
    }

    /// Lets a filter see the body before anything of the request is sent.
    async fn hold(
        &mut self,
        turn: usize,
        wish: ReadBody,
        upload: &mut RequestBody,
        clock: &mut std::time::Instant,
    ) -> Result<Option<Box<Reply>>, Error> {
        let had_none = upload.is_empty();
        let (seen, complete) = match upload.hold(wish.max).await {
            Ok(held) => held,
            Err(broken) => {
                let fault = Error::from(Kind::Upload(broken.0));
                return self.cut_short().unwrap_or(Err(fault)).map(Some);
            }
        };
        if !complete && wish.over == OverMax::Refuse {
            return Err(Kind::BodyTooLarge.into());
        }
        match self.passage.held(turn, &seen, complete, clock).await? {
            HeldVerdict::Proceed if had_none => {}
            HeldVerdict::Proceed => upload.put(seen, None),
            HeldVerdict::Replace(bytes) => {
                upload.put(bytes, None);
                // What the client sent, if anything, is another matter.
                self.upload.get_or_insert_with(Upload::nothing);
            }
            HeldVerdict::Reply(reply) => return Ok(Some(reply)),
        }
        Ok(None)
    }

    fn redirect(&mut self, redirect: &Redirect) -> Body {
        let location = self.passage.message().as_ref().map(|message| {
            let authority = String::from_utf8_lossy(message.request.authority());
            redirect.location(message.request.scheme, &authority, message.request.target.as_str())
        });
        let mut headers = http::HeaderMap::with_capacity(4);
        if let Some(Ok(location)) = location.map(HeaderValue::try_from) {
            headers.insert(header::LOCATION, location);
        }
        self.local(Reply {
            status: redirect.status,
            headers,
            body: Bytes::new(),
        })
    }

    /// Sends the request to an endpoint of the cluster and waits for the head of its response.
    async fn forward(&mut self, pool: &ClusterPool, mut body: RequestBody, route: &Route) -> Result<Body, Error> {
        self.passage.set_stage(Stage::Sent);
        if let Some(rewrite) = &route.rewrite
            && let Some(message) = &*self.passage.message()
        {
            let outgoing = rewrite.apply(&message.request).map_err(Kind::Rewrite)?;
            self.outgoing = Some(Box::new(outgoing));
        }
        if let Some(mirror) = &route.mirror {
            body = self.mirror(mirror, route.timeout, body);
        }
        if let Some(policy) = &route.retry {
            // Boxed like all that seldom happens.
            return Box::pin(self.forward_with(policy, pool, body)).await;
        }
        let mut upstream = self.pick(pool, &[], None)?;
        loop {
            self.attempts += 1;
            match self.attempt(&upstream, pool, &mut body, None).await {
                Ok(answered) => return Ok(self.take(upstream, answered)),
                // Nothing was sent: another endpoint may have it, once.
                Err(Failed::Unconnected(error)) if self.attempts == 1 && Cause::of(error.kind).is_some() => {
                    let tried = [upstream.endpoint().endpoint.id()];
                    let failed = Rc::clone(upstream.endpoint());
                    // Its place among the requests is free for the other one.
                    drop(upstream);
                    upstream = self.pick(pool, &tried, None).map_err(|_| error)?;
                    let worker = &self.connection.worker;
                    worker.upstream_retry(&failed, Cause::ConnectFailure.as_str(), RETRIED);
                }
                Err(Failed::Unconnected(error) | Failed::Sent(error)) => return Err(error),
            }
        }
    }

    /// Sends a copy of the request on its way, if it falls into the mirror's share; what comes back is sent as ever.
    #[cold]
    fn mirror(&self, mirror: &Mirror, timeout: Option<Duration>, body: RequestBody) -> RequestBody {
        let worker = &self.connection.worker;
        let message = self.passage.message();
        // What follows a change of protocols cannot be copied, as nobody answers there.
        let Some(request) = message.as_ref().map(|message| &message.request) else {
            return body;
        };
        if self.offer.is_some() || !mirror.takes(worker.random()) {
            return body;
        }
        let (target, headers) = match &self.outgoing {
            Some(outgoing) => (&outgoing.target, &outgoing.headers),
            None => (&request.target, &request.headers),
        };
        let (body, copy, cut) = mirror::split(body, mirror.buffer);
        let shadow = Shadow {
            method: request.method.clone(),
            target: target.clone(),
            headers: headers.clone(),
            via: worker.via.entry(request.version).clone(),
            body: copy,
            cut,
            client: self.client,
            local: self.connection.local(),
            is_secure: request.scheme == "https",
            timeout,
        };
        let pool = self.pinned.upstreams(worker, mirror.cluster);
        tokio::task::spawn_local(mirror::send(Rc::clone(worker), pool, shadow));
        body
    }

    /// One try at one endpoint, which may wait so long for its connection, and then for its response. The body is taken
    /// once there is a connection.
    async fn attempt(
        &mut self,
        upstream: &Upstream,
        pool: &ClusterPool,
        body: &mut RequestBody,
        patience: Option<Duration>,
    ) -> Result<Answered, Failed> {
        let mut repeats = 0;
        self.tried = Some(Rc::clone(upstream.endpoint()));
        loop {
            let connected = self.connected(upstream, pool, patience).await;
            let channel = connected.map_err(Failed::Unconnected)?;
            let may_repeat = channel.may_repeat(repeats);
            self.connection.worker.upstream_taken(upstream.endpoint(), &channel);
            upstream.version.set(channel.version());
            let call = self.call(channel, std::mem::replace(body, RequestBody::Empty));
            let mut call = call.map_err(Failed::Sent)?;
            let sent = Instant::now();
            panics::point("upstream");
            match self.send(upstream, &mut call, sent, patience).await {
                Ok(Sent::Answered(head)) => {
                    let now = Instant::now();
                    let waited = now.duration_since(sent);
                    let worker = &self.connection.worker;
                    worker.upstream_answered(upstream.endpoint(), head.status, waited);
                    return Ok(Answered {
                        call,
                        head,
                        waited,
                        now,
                    });
                }
                // The peer closed an idle connection before it took anything of this request, or says that it took
                // nothing.
                Ok(Sent::Nothing) if may_repeat => {
                    repeats += 1;
                    let worker = &self.connection.worker;
                    worker.upstream_retry(upstream.endpoint(), UNSENT, RETRIED);
                    *body = call.into_body();
                }
                failed => {
                    call.abandon();
                    let error = failed.err();
                    let error = error.unwrap_or_else(|| self.upstream_failed(upstream, Kind::Reset, Failure::Unsent));
                    return Err(Failed::Sent(error));
                }
            }
        }
    }

    /// Makes an upstream's response the answer.
    fn take(&mut self, mut upstream: Upstream, answered: Answered) -> Body {
        let Answered {
            call,
            head,
            waited,
            now,
        } = answered;
        upstream.time_to_head = Some(waited);
        self.outgoing = None;
        let cookie = upstream.cookie.take();
        self.upstream = Some(upstream);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            self.switched = call.into_switched().map(Box::new);
            self.accept(head, cookie);
            return Body::Empty;
        }
        let download = call.into_download(&head, now);
        self.accept(head, cookie);
        Body::Download(download)
    }

    fn request_body(&mut self, incoming: Source) -> RequestBody {
        if incoming.is_end_stream() {
            return RequestBody::Empty;
        }
        let upload = self.upload.get_or_insert_default();
        upload.expects_continue.set(self.expects_continue);
        let timeout = self.pinned.snapshot.listeners[self.listener].limits.body_timeout;
        RequestBody::new(incoming, upload, timeout)
    }

    fn call(&mut self, channel: pool::Channel, body: RequestBody) -> Result<Call, Error> {
        let mut message = self.passage.message();
        let Some(message) = &mut *message else {
            return Err(Kind::Reset.into());
        };
        let request = &mut message.request;
        let (target, headers) = match &mut self.outgoing {
            Some(outgoing) => (&outgoing.target, &mut outgoing.headers),
            None => (&request.target, &mut request.headers),
        };
        if self.offer.is_some() && !body.is_empty() {
            // A filter has put one there.
            self.offer = None;
            hop::stay(headers);
        }
        let lines = RequestLines {
            method: &request.method,
            target,
            headers,
            via: self.connection.worker.via.entry(request.version),
        };
        let Some(protocol) = &self.offer else {
            return Ok(Call::new(channel, &lines, body));
        };
        let asks = self.connects.as_ref();
        let offer = Offer {
            accept: asks.and_then(|_| websocket::accept(protocol, lines.headers)),
            protocol: protocol.clone(),
        };
        Ok(Call::switching(channel, &lines, offer))
    }

    /// An endpoint, none of `tried`.
    fn pick(&self, pool: &ClusterPool, tried: &[u64], instead_of: Option<&Turn>) -> Result<Upstream, Error> {
        let worker = &self.connection.worker;
        let picked = match pool.cluster.asks() {
            true => self.pick_for_this(pool, tried),
            false => pool.pick(None, tried, || worker.random()),
        };
        let Picked { endpoint, cookie } = picked.ok_or(Kind::NoEndpoint)?;
        Ok(Upstream {
            turn: endpoint.begin(instead_of).ok_or(Kind::Overload)?,
            cookie,
            version: Cell::new(Version::HTTP_11),
            time_to_head: None,
            _retry: None,
        })
    }

    /// Where the choice depends on the request.
    #[cold]
    fn pick_for_this(&self, pool: &ClusterPool, tried: &[u64]) -> Option<Picked> {
        let message = self.passage.message();
        let request = &message.as_ref()?.request;
        let asker = Asker {
            client: self.client.map(|client| client.ip()),
            path: request.target.path(),
            headers: &request.headers,
            is_secure: request.scheme == "https",
        };
        pool.pick(Some(&asker), tried, || self.connection.worker.random())
    }

    async fn connected(
        &self,
        upstream: &Upstream,
        pool: &ClusterPool,
        patience: Option<Duration>,
    ) -> Result<pool::Channel, Error> {
        let endpoint = upstream.endpoint();
        if let Some(ready) = endpoint.ready() {
            return Ok(ready);
        }
        let local = self.connection.local();
        let until = patience.map(|patience| Instant::now() + patience);
        let connecting = Box::pin(endpoint.connect(pool, self.client, local, until));
        let Some(connected) = self.lane.watchdog.watch(self.deadline, connecting).await else {
            return Err(Kind::RouteTimeout.into());
        };
        connected.map_err(|unconnected| {
            let error = match unconnected {
                Unconnected::Overload(limit) => {
                    let detail = format!("{}: max_{}", endpoint.terms.name(), limit.as_str());
                    return Error::new(Kind::Overload, detail);
                }
                Unconnected::Failed(error) => error,
            };
            let kind = match error.kind() {
                _ if tls::is_fault(&error) => Kind::UpstreamTls,
                std::io::ErrorKind::TimedOut => Kind::ConnectTimeout,
                // No port or no descriptor is left: the endpoint has nothing to do with it.
                _ if pool::is_ours(&error) => {
                    return Error::new(Kind::Overload, format!("{}: {error}", upstream.label()));
                }
                _ => Kind::ConnectFailed,
            };
            self.connection.worker.upstream_failed(endpoint, kind.reason());
            Error::new(kind, format!("{}: {error}", upstream.label()))
        })
    }

    /// Waits for the response's head. While a body is being sent, the wait begins anew with each piece of it.
    async fn send(
        &self,
        upstream: &Upstream,
        call: &mut Call,
        sent: Instant,
        patience: Option<Duration>,
    ) -> Result<Sent, Error> {
        let read_timeout = upstream.endpoint().terms.read_timeout;
        let patience = patience.map_or(read_timeout, |patience| patience.min(read_timeout));
        let uploaded = || self.upload.as_ref().map_or(0, |upload| upload.bytes.get());
        let mut progress = (uploaded(), sent);
        let mut answer = std::future::poll_fn(|context| call.poll_head(context));
        let answered = loop {
            let until = progress.1 + patience;
            let earliest = self.deadline.map_or(until, |deadline| deadline.min(until));
            if let Some(answered) = self.lane.watchdog.watch(Some(earliest), &mut answer).await {
                break answered;
            }
            let uploaded = uploaded();
            // Or for a middleware, which has its own bound too.
            let upload = self.upload.as_ref();
            let waits_for_client = upload.is_some_and(|upload| upload.waits.get() || upload.in_filter.get());
            if self.deadline.is_some_and(|deadline| deadline <= earliest) {
                if self.is_hurried || waits_for_client {
                    return Err(Error::new(
                        Kind::RouteTimeout,
                        "the time is over that the client has, or takes",
                    ));
                }
                return Err(self.upstream_failed(upstream, Kind::RouteTimeout, "the route's timeout is over"));
            }
            // Its own bound is that of a request's body.
            if waits_for_client {
                progress = (uploaded, Instant::now());
                continue;
            }
            if uploaded == progress.0 {
                return Err(self.upstream_failed(upstream, Kind::UpstreamTimeout, "no response"));
            }
            let at = self.upload.as_ref().and_then(|upload| upload.at.get());
            progress = (uploaded, at.unwrap_or_else(Instant::now));
        };
        match answered {
            Ok(head) => Ok(Sent::Answered(head)),
            Err(Failure::Unsent) => Ok(Sent::Nothing),
            Err(failure) => Err(self.send_failed(upstream, &failure)),
        }
    }

    fn send_failed(&self, upstream: &Upstream, failure: &Failure) -> Error {
        if let Some(fault) = self.upload.as_ref().and_then(|upload| upload.fault.get()) {
            return Kind::Upload(fault).into();
        }
        let kind = match failure {
            Failure::Unsent | Failure::Broken(_) => Kind::Reset,
            Failure::Reset(code) => Kind::ResetBy(*code),
            Failure::Worn => return Error::new(Kind::Worn, format!("{}: {failure}", upstream.label())),
            Failure::Service(fault) => Kind::Service(*fault),
            Failure::Malformed(_) | Failure::MalformedHttp2(_) | Failure::Upload => Kind::Protocol,
        };
        self.upstream_failed(upstream, kind, failure)
    }

    fn upstream_failed(&self, upstream: &Upstream, kind: Kind, detail: impl std::fmt::Display) -> Error {
        self.connection
            .worker
            .upstream_failed(upstream.endpoint(), kind.reason());
        Error::new(kind, format!("{}: {detail}", upstream.label()))
    }

    /// Takes over the head of an upstream's response.
    fn accept(&mut self, mut head: h1::Head, cookie: Option<HeaderValue>) {
        hop::strip_response(&mut head.headers);
        if let Some(cookie) = cookie {
            head.headers.append(header::SET_COOKIE, cookie);
        }
        if let (StatusCode::SWITCHING_PROTOCOLS, Some(protocol)) = (head.status, &self.offer) {
            // What frames a body has no place here (RFC 9112 6.1, RFC 9110 8.6).
            head.headers.remove(header::TRANSFER_ENCODING);
            head.headers.remove(header::CONTENT_LENGTH);
            hop::switch(&mut head.headers, protocol.clone());
        }
        let needs_heads = self.passage.needs_heads();
        if let Some(message) = &mut *self.passage.message() {
            if !needs_heads {
                // Nobody will read the request's fields any more; its bytes are free for the next one.
                message.request.headers = http::HeaderMap::new();
            }
            message.response = Some(ResponseHead {
                status: head.status,
                headers: head.headers,
            });
        }
    }

    /// Makes `reply` the answer. An upstream's response, if there was one, is dropped with the body that this replaces.
    fn local(&mut self, mut reply: Reply) -> Body {
        if self.call.is_some() {
            grpc::translate(&mut reply);
        }
        if let Some(message) = &mut *self.passage.message() {
            message.response = Some(ResponseHead {
                status: reply.status,
                headers: reply.headers,
            });
        }
        Body::Full(reply.body)
    }

    fn fail(&mut self, error: Error) -> Body {
        self.reason = error.kind.reason();
        self.closes |= error.kind.closes();
        if error.kind == Kind::RouteTimeout {
            // The answer to that is not held to it: a middleware may still look at it.
            self.deadline = None;
        }
        let facts = self.passage.message().as_ref().map(|message| message.facts.clone());
        let Some(Facts { request_id, route, .. }) = facts else {
            return Body::Empty;
        };
        if error.kind.is_ours() {
            let id = String::from_utf8_lossy(request_id.as_bytes());
            let route = route.as_ref().map(|route| route.as_str());
            tracing::debug!(
                request_id = &*id,
                route,
                reason = self.reason,
                detail = error.detail,
                "exchange failed"
            );
        }
        self.local(match self.call {
            Some(_) => grpc::failure(error.kind, &request_id),
            None => reply::reply(error.kind, &request_id),
        })
    }

    /// Whether there is nobody to answer, or nothing.
    fn abandons(&self, kind: Kind) -> Option<Abandoned> {
        match kind {
            Kind::Upload(UploadFault::Disconnected) => Some(Abandoned::Left),
            Kind::Refused(refusal) if refusal.is_malformed() && self.is_http2() => Some(Abandoned::Malformed),
            _ => None,
        }
    }

    fn abandon(&mut self, error: Error, abandoned: Abandoned) -> Abandoned {
        self.reason = error.kind.reason();
        if abandoned == Abandoned::Malformed {
            // What the client would be told if there were an answer.
            self.status = error.kind.status().as_u16();
        }
        abandoned
    }

    fn is_http2(&self) -> bool {
        let message = self.passage.message();
        message
            .as_ref()
            .is_some_and(|message| message.request.version == Version::HTTP_2)
    }

    async fn respond(&mut self, body: &mut Body) {
        panics::point("response");
        if !self.passage.has_filters() {
            return;
        }
        let passage = Rc::clone(&self.passage);
        passage.set_stage(Stage::ResponseHead);
        let mut clock = None;
        while let Some(turn) = passage.next_back() {
            if let Some(session) = passage.take_session(turn) {
                Box::pin(self.hand_back(turn, session, body, &mut clock)).await;
                passage.set_stage(Stage::ResponseHead);
                continue;
            }
            let verdict = passage.backward(turn, &mut clock).await;
            passage.forgo(turn, &[Hook::ResponseHead]);
            match verdict {
                Ok(Verdict::Proceed) => self.filter_response(turn, body),
                Ok(Verdict::Reply(reply)) => {
                    *body = self.local(*reply);
                    passage.forgo(turn, &[Hook::ResponseBody]);
                }
                Err(broken) => *body = self.fail(broken.into()),
            }
            passage.set_stage(Stage::ResponseHead);
        }
        passage.set_stage(Stage::Answered);
    }

    /// Whether a client that has asked for another protocol would take the answer for that (RFC 8441 5).
    fn misleads(&self) -> bool {
        let has_success = || {
            let message = self.passage.message();
            let head = message.as_ref().and_then(|message| message.response.as_ref());
            head.is_some_and(|head| head.status.is_success())
        };
        self.connects.is_some() && has_success()
    }

    /// Puts the filter's stage in the way of the response's body, if there is one and the filter wants to see it.
    fn filter_response(&mut self, turn: usize, body: &mut Body) {
        if self.passage.stage_of(turn, Hook::ResponseBody).is_none() {
            return;
        }
        self.hides_length = true;
        if self.has_response_body() && !body.is_end_stream() {
            body.filter(&self.passage, turn);
        } else {
            self.passage.forgo(turn, &[Hook::ResponseBody]);
        }
    }

    /// RFC 9112 6.3: some responses end with their head.
    fn has_response_body(&self) -> bool {
        let message = self.passage.message();
        let Some(message) = &*message else { return false };
        let bare = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
        let ends_with_head = message
            .response
            .as_ref()
            .is_some_and(|head| bare.contains(&head.status));
        message.request.method != Method::HEAD && !ends_with_head
    }

    /// Reads a small unread body to its end; else the connection closes after the answer (RFC 9112 9.3). In HTTP/2 the
    /// stream alone ends with it (RFC 9113 8.1).
    async fn discard(&mut self, unread: RequestBody) {
        let is_unread = self.upload.as_ref().is_some_and(|upload| !upload.ended.get());
        if self.closes || !is_unread || unread.is_empty() || self.is_http2() {
            return;
        }
        let RequestBody::Streamed(mut unread) = unread else {
            self.closes = true;
            return;
        };
        // A client that waits for `100 Continue` gets the answer instead, and sends nothing.
        let small = unread.size_hint().upper().is_some_and(|bytes| bytes <= MAX_DISCARD);
        if !small || self.expects_continue {
            self.closes = true;
            return;
        }
        let timeout = self.pinned.snapshot.listeners[self.listener].limits.body_timeout;
        let read = Box::pin(unread.discard());
        let deadline = Some(Instant::now() + timeout);
        self.closes = self.lane.watchdog.watch(deadline, read).await != Some(true);
    }

    /// Turns the message into a response; the exchange goes on in its body.
    fn finish_head(mut self: Box<Self>, mut body: Body, tunnels: &TunnelSlot) -> Response<ResponseBody> {
        let mut response = Response::new(());
        let is_http2 = self.is_http2();
        if let Some(head) = self
            .passage
            .message()
            .as_mut()
            .and_then(|message| message.response.as_mut())
        {
            *response.status_mut() = head.status;
            *response.headers_mut() = match self.passage.needs_heads() {
                true => head.headers.clone(),
                false => std::mem::take(&mut head.headers),
            };
        }
        let status = response.status();
        if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) && !body.is_end_stream() {
            // A filter has made that of another answer.
            body = Body::Empty;
        }
        let headers = response.headers_mut();
        let route = self.route.map(|route| &self.pinned.snapshot.routes[route]);
        if let Some(edits) = route.and_then(|route| route.response_edits.as_ref()) {
            edits.apply(headers);
        }
        let has_length = matches!(body, Body::Download(_) | Body::Returned(_)) && !self.hides_length;
        // Never of a 204, whoever says it (RFC 9110 8.6).
        if !has_length || status == StatusCode::NO_CONTENT {
            headers.remove(header::CONTENT_LENGTH);
        }
        let received = self
            .upstream
            .as_ref()
            .map_or(Version::HTTP_11, |upstream| upstream.version.get());
        self.connection.worker.via.append(headers, received);
        let has_switched = self.switched.is_some();
        if let Some(upstream) = self.switched.take()
            && response.status() == StatusCode::SWITCHING_PROTOCOLS
        {
            self.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
            tunnels.set(Some(Box::new(Tunnel::new(self, *upstream))));
            return response.map(|()| ResponseBody::empty());
        }
        let headers = response.headers_mut();
        if has_switched {
            // A filter has made another answer of it.
            hop::stay(headers);
            headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        }
        let is_http10 = self.is_http10();
        self.ends_by_close = is_http10 && body.size_hint().exact().is_none();
        if !is_http2 && (self.is_last() || self.ends_by_close) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            if is_http10 {
                // hyper would promise to keep the connection besides.
                *response.version_mut() = Version::HTTP_10;
            }
        }
        self.status = response.status().as_u16();
        if let Some(call) = &mut self.call {
            let trailers = match is_http2 && response.status() == StatusCode::OK {
                true => grpc::Trailers::Reach,
                false => grpc::Trailers::Lost,
            };
            call.begin_response(response.headers(), trailers);
        }
        response.map(|()| ResponseBody {
            body,
            exchange: Some(self),
            waiting_since: None,
            is_unsent: true,
            late: None,
        })
    }

    fn is_http10(&self) -> bool {
        let message = self.passage.message();
        message
            .as_ref()
            .is_some_and(|message| message.request.version == Version::HTTP_10)
    }

    /// Whether the client's HTTP/1 connection is to end with this answer.
    fn is_last(&self) -> bool {
        let limits = &self.pinned.snapshot.listeners[self.listener].limits;
        let heads = self.connection.heads();
        let is_spent = heads >= limits.max_requests;
        // Behind its head; a fault of a request behind this one is for that to tell.
        let is_lost = self.connection.wire.fault(heads).is_some();
        is_spent || is_lost || self.closes || self.is_overtaken() || self.connection.is_closing()
    }

    /// An answer that overtakes its request leaves bytes that nobody will read (RFC 9112 9.3): neither connection can
    /// carry another exchange.
    fn is_overtaken(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| !upload.ended.get())
    }

    /// What is left to do when it is over.
    fn remains(&mut self, duration: Duration) -> Remains {
        let (upstream, tried) = (self.upstream.as_ref(), self.tried.as_ref());
        Remains {
            outcome: Outcome {
                status: self.status,
                complete: self.complete,
                reason: (!self.reason.is_empty()).then_some(self.reason),
                request_bytes: self.upload.as_ref().map_or(0, |upload| upload.bytes.get()),
                response_bytes: self.response_bytes,
                duration,
                upstream: upstream.and_then(|upstream| upstream.time_to_head),
                cluster: tried.map(|tried| tried.terms.name().to_owned()),
                endpoint: tried.map(|tried| tried.endpoint.label.clone()),
            },
            attempts: self.attempts,
            passage: Rc::clone(&self.passage),
            pinned: Rc::clone(&self.pinned),
            listener: self.listener,
            route: self.route,
            client: self.client.map(|client| client.ip().to_canonical()),
            authority: self.authority.take(),
            agent: self.agent.take(),
            referer: self.referer.take(),
            grpc_status: self.call.as_ref().and_then(|call| call.status),
        }
    }
}

/// An exchange that is over: its completion hooks and its record are still to come.
pub struct Remains {
    outcome: Outcome,
    attempts: u32,
    passage: Rc<Passage>,
    pinned: Rc<Pinned>,
    listener: usize,
    route: Option<usize>,
    client: Option<IpAddr>,
    authority: Option<HeaderValue>,
    agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    grpc_status: Option<grpc::Status>,
}

impl Remains {
    /// Runs the completion hooks, then writes the record, however they ended.
    pub async fn settle(self) {
        let unwritten = Unwritten(self);
        panics::point("completion");
        unwritten.0.passage.complete(unwritten.0.outcome.clone()).await;
    }

    /// The record alone.
    pub fn write_record(&self) {
        let snapshot = &self.pinned.snapshot;
        let Some(log) = &snapshot.access_log else { return };
        let message = self.passage.message();
        let message = message.as_deref();
        let request = message.map(|message| &message.request);
        let outcome = &self.outcome;
        log.write(&Record {
            time: SystemTime::now(),
            request_id: message
                .and_then(|message| message.facts.request_id.to_str().ok())
                .unwrap_or_default(),
            listener: &snapshot.listeners[self.listener].name,
            route: self.route.map(|index| &*snapshot.routes[index].name),
            cluster: outcome.cluster.as_deref(),
            endpoint: outcome.endpoint.as_deref(),
            client: self.client,
            method: request.map_or(b"", |request| request.method.as_str().as_bytes()),
            authority: self.authority.as_ref().map(HeaderValue::as_bytes),
            path: request.map_or(b"", |request| request.target.as_str().as_bytes()),
            protocol: request.map_or("", |request| match request.version {
                Version::HTTP_10 => "HTTP/1.0",
                Version::HTTP_2 => "HTTP/2",
                _ => "HTTP/1.1",
            }),
            status: Some(outcome.status),
            reason: outcome.reason,
            request_bytes: outcome.request_bytes,
            response_bytes: outcome.response_bytes,
            duration: outcome.duration,
            upstream: outcome.upstream,
            attempts: self.attempts,
            user_agent: self.agent.as_ref().map(HeaderValue::as_bytes),
            referer: self.referer.as_ref().map(HeaderValue::as_bytes),
            attributes: message.map(|message| &message.attributes),
            tls: message.and_then(|message| message.facts.tls.as_deref()),
            grpc_status: self.grpc_status.map(grpc::Status::code),
        });
    }
}

/// Is written when it is dropped.
struct Unwritten(Remains);

impl Drop for Unwritten {
    fn drop(&mut self) {
        self.0.write_record();
    }
}

/// An exchange whose connection changes its protocol, from the answer that says so to the end of both connections.
pub struct Tunnel {
    exchange: Box<Exchange>,
    upload: Rc<Upload>,
    upstream: Switched,
}

/// How a tunnel ends.
#[derive(Debug)]
pub enum TunnelEnd {
    /// Both sides have ended it.
    Closed,
    Broken(TunnelBroken),
    /// Nothing has moved for too long.
    Idle,
    /// The client has taken nothing for too long.
    Stalled,
    /// Its generation was replaced too long ago.
    Outlived,
}

impl TunnelEnd {
    /// A word for the log; empty when both sides have ended it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "",
            Self::Broken(TunnelBroken::Client(_)) => "client_closed",
            Self::Broken(TunnelBroken::Upstream(_)) => Kind::Reset.reason(),
            Self::Idle => "tunnel_idle",
            Self::Stalled => "write_timeout",
            Self::Outlived => "generation_max_age",
        }
    }
}

impl Tunnel {
    fn new(mut exchange: Box<Exchange>, upstream: Switched) -> Self {
        Self {
            upload: Rc::clone(exchange.upload.get_or_insert_with(Upload::nothing)),
            exchange,
            upstream,
        }
    }

    /// The client is told, and `ahead` are the bytes that it has sent since it asked.
    pub async fn run(self, client: impl AsyncRead + AsyncWrite + Unpin, ahead: Bytes) -> TunnelEnd {
        let Self {
            mut exchange,
            upload,
            upstream,
        } = self;
        let end = match upstream {
            Switched::Http1 { mut connection, input } => {
                let relay = Relay::new(client, &mut connection.stream, ahead, input);
                exchange.relay(relay, &upload).await
            }
            Switched::Http2(stream) => {
                exchange
                    .relay(Relay::new(client, stream, ahead, Bytes::new()), &upload)
                    .await
            }
        };
        exchange.end_tunnel(&end);
        end
    }
}

impl Exchange {
    async fn relay<C, U>(&mut self, mut relay: Relay<C, U>, upload: &Upload) -> TunnelEnd
    where
        C: AsyncRead + AsyncWrite + Unpin,
        U: AsyncRead + AsyncWrite + Unpin,
    {
        let connection = Rc::clone(&self.connection);
        let limits = connection.limits();
        // A stream of HTTP/2 has not the connection to itself.
        let has_stream = self.is_http2();
        // The wire has counted these.
        let (mut before, mut since, mut said) = (relay.progress(), Instant::now(), None);
        upload.bytes.set(before.received);
        std::future::poll_fn(|context| {
            let is_outlived = match has_stream {
                true => {
                    self.lane.carry(context.waker());
                    self.lane.broken().is_some()
                }
                false => {
                    connection.watch_worker(context.waker());
                    connection.is_outlived()
                }
            };
            if is_outlived {
                return Poll::Ready(TunnelEnd::Outlived);
            }
            let polled = relay.poll(context);
            let progress = relay.progress();
            if progress != before {
                if !has_stream {
                    let (received, sent) = (progress.received - before.received, progress.sent - before.sent);
                    connection.wire.count(received, sent);
                }
                upload.bytes.set(progress.received);
                self.response_bytes = progress.sent;
                (before, since) = (progress, Instant::now());
            }
            match polled {
                Poll::Ready(Ok(())) => return Poll::Ready(TunnelEnd::Closed),
                Poll::Ready(Err(broken)) => return Poll::Ready(TunnelEnd::Broken(broken)),
                Poll::Pending => {}
            }
            if relay.is_said() {
                let said = *said.get_or_insert_with(Instant::now);
                return match self.lane.watchdog.expired(context, said + FAREWELL) {
                    true => Poll::Ready(TunnelEnd::Closed),
                    false => Poll::Pending,
                };
            }
            let (wait, end) = match relay.waits_for_client() && limits.write_timeout < limits.tunnel_idle_timeout {
                true => (limits.write_timeout, TunnelEnd::Stalled),
                false => (limits.tunnel_idle_timeout, TunnelEnd::Idle),
            };
            match self.lane.watchdog.expired(context, since + wait) {
                true => Poll::Ready(end),
                false => Poll::Pending,
            }
        })
        .await
    }

    fn end_tunnel(&mut self, end: &TunnelEnd) {
        self.reason = end.reason();
        self.complete = self.reason.is_empty();
        if let (TunnelEnd::Broken(TunnelBroken::Upstream(_)), Some(upstream)) = (end, &self.upstream) {
            let worker = &self.connection.worker;
            worker.tunnel_broke(upstream.endpoint(), Kind::Reset.reason());
        }
    }
}

impl Drop for Exchange {
    /// Runs exactly once for every request that hyper could parse.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.reason = Kind::Panic.reason();
            if self.status == CLIENT_CLOSED {
                self.status = Kind::Panic.status().as_u16();
            }
        }
        self.passage.end_sessions();
        if !self.complete && self.reason.is_empty() {
            self.reason = broken_reason(self.lane.broken().or(self.connection.wire.expired()));
        }
        if !self.complete && self.ends_by_close {
            // A mere end would be that of a whole answer.
            self.connection.wire.with(|stream| stream.reset());
        }
        let now = Instant::now();
        let duration = now.duration_since(self.started);
        let series = self.pinned.series(&self.connection.worker, self.listener, self.route);
        self.connection
            .worker
            .tally
            .borrow_mut()
            .request(series, self.status, duration.as_secs_f64());
        if let Some(status) = self.call.as_ref().and_then(|call| call.status) {
            self.connection.worker.tally.borrow_mut().call(series, status.as_str());
        }
        if self.passage.awaits_completion() {
            let remains = self.remains(duration);
            self.connection.worker.settle(remains);
        } else if self.pinned.snapshot.access_log.is_some() {
            self.remains(duration).write_record();
        }
        self.begun.ended.set(Some(now));
    }
}

/// An exchange is under way on the connection as long as this is there, whether it came to be an [`Exchange`] or a panic
/// was before that.
struct Begun {
    connection: Rc<Connection>,
    /// Set where the exchange has been recorded.
    ended: Cell<Option<Instant>>,
}

impl Begun {
    fn new(connection: &Rc<Connection>) -> Self {
        Self {
            connection: Rc::clone(connection),
            ended: Cell::new(None),
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let ended = self.ended.get().unwrap_or_else(|| {
            record_refused(&self.connection, Kind::Panic.status(), Kind::Panic.reason());
            Instant::now()
        });
        self.connection.end_exchange(ended);
    }
}

/// Why an exchange did not come to its end, for the log, when nothing else has been said.
pub fn broken_reason(expired: Option<Expired>) -> &'static str {
    match expired {
        Some(Expired::Write) => "write_timeout",
        Some(Expired::Generation) => "generation_max_age",
        _ => "client_closed",
    }
}

impl Upstream {
    fn endpoint(&self) -> &Rc<EndpointPool> {
        self.turn.endpoint()
    }

    fn label(&self) -> &str {
        &self.endpoint().endpoint.label
    }
}

/// A try that was answered.
struct Answered {
    call: Call,
    head: h1::Head,
    /// For the head.
    waited: Duration,
    now: Instant,
}

/// A try that was not.
enum Failed {
    /// Nothing was sent.
    Unconnected(Error),
    Sent(Error),
}

/// What came of sending a request to one connection.
enum Sent {
    Answered(h1::Head),
    /// Not a byte of it was taken.
    Nothing,
}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        Error::new(Kind::Filter(broken.failure), format!("filter `{}`", broken.filter))
    }
}

/// Counts and logs a request whose head hyper could not parse, or that never came to an end.
pub fn record_refused(connection: &Connection, status: StatusCode, reason: &'static str) {
    let worker = &connection.worker;
    let (pinned, listener) = connection.place();
    let series = pinned.series(worker, listener, None);
    worker.tally.borrow_mut().request(series, status.as_u16(), 0.0);
    let Some(log) = &pinned.snapshot.access_log else { return };
    let request_id = worker.new_request_id();
    log.write(&Record {
        time: SystemTime::now(),
        request_id: request_id.to_str().unwrap_or_default(),
        listener: &pinned.snapshot.listeners[listener].name,
        route: None,
        cluster: None,
        endpoint: None,
        client: connection.client().map(|client| client.ip()),
        method: b"",
        authority: None,
        path: b"",
        protocol: "HTTP/1.1",
        status: Some(status.as_u16()),
        reason: Some(reason),
        request_bytes: 0,
        response_bytes: 0,
        duration: Duration::ZERO,
        upstream: None,
        attempts: 0,
        user_agent: None,
        referer: None,
        attributes: None,
        tls: connection.tls().map(|tls| &**tls),
        grpc_status: None,
    });
}

/// Whether a head may be forwarded, in one normal form.
fn judge(
    connection: &Connection,
    listener: &Listener,
    parts: &mut http::request::Parts,
    head: u64,
) -> Result<Admitted, Error> {
    if let Some(fault) = connection.wire.fault(head) {
        return Err(Kind::Ambiguous(fault).into());
    }
    let limits = guard::Limits {
        max_target_bytes: listener.limits.max_target_bytes,
        max_field_bytes: listener.limits.max_field_bytes,
        max_fields: listener.limits.max_fields,
    };
    let admitted = guard::admit(parts, &limits).map_err(Kind::Refused)?;
    // A client of HTTP/2 may take a connection for one host to be good for others (RFC 9113 9.1.2).
    if parts.version == Version::HTTP_2 && !connection.fits(admitted.host.as_str()) {
        return Err(Kind::Misdirected.into());
    }
    if connection.worker.via.seen(&parts.headers) {
        return Err(Kind::Loop.into());
    }
    Ok(admitted)
}

/// No filter is asked, and nothing is sent anywhere.
#[cold]
fn shed(connection: &Connection, cause: overload::Cause) -> Error {
    connection.count_shed(cause);
    Error::new(Kind::Shed, cause.as_str())
}

fn root() -> PathAndQuery {
    PathAndQuery::from_static("/")
}

fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The response's body on its way to the client, and the rest of the exchange with it.
pub struct ResponseBody {
    body: Body,
    exchange: Option<Box<Exchange>>,
    waiting_since: Option<Instant>,
    /// The head, or a piece, was handed over since whoever writes them had to wait for more.
    is_unsent: bool,
    /// How it has broken off, until whoever writes them has had a turn to do so.
    late: Option<Box<Error>>,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(error) = self.late.take() {
            return Poll::Ready(Some(Err(*error)));
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_pending() {
            self.is_unsent = false;
            return self.poll_deadline(context);
        }
        self.waiting_since = None;
        panics::point("body");
        match ready!(polled) {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    hop::strip_trailers(trailers);
                }
                if let Some(late) = self.overtime() {
                    let broken = self.broken(late, &Abandoned::Left);
                    return self.tell(broken, context);
                }
                self.is_unsent = true;
                if let Some(exchange) = &mut self.exchange {
                    exchange.response_bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                    if let Some(call) = &mut exchange.call {
                        note(call, &mut frame);
                        if call.lacked_status() {
                            exchange.reason = Kind::NoStatus.reason();
                        }
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(fault)) => {
                let kind = match &fault {
                    BodyFault::Upstream(Failure::Upload) => self.upload_fault(),
                    BodyFault::Upstream(Failure::Reset(code)) => Kind::ResetBy(*code),
                    BodyFault::Upstream(Failure::Worn) => Kind::Worn,
                    BodyFault::Upstream(Failure::Service(fault)) => Kind::Service(*fault),
                    BodyFault::Upstream(_) => Kind::Reset,
                    BodyFault::Filter(broken) => Kind::Filter(broken.failure),
                    BodyFault::Replied => Kind::Cut,
                };
                let broken = self.broken(kind, &fault);
                self.tell(broken, context)
            }
            None if self.owes_status() => {
                let broken = self.broken(Kind::NoStatus, &Kind::NoStatus);
                self.tell(broken, context)
            }
            None => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && !self.owes_status() && self.late.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a piece of the response says of the call.
fn note(call: &mut grpc::Call, frame: &mut Frame<Bytes>) {
    if let Some(bytes) = frame.data_ref() {
        call.take_data(bytes);
    }
    if let Some(trailers) = frame.trailers_mut() {
        call.take_trailers(trailers);
    }
}

impl ResponseBody {
    /// Of an answer whose exchange goes on elsewhere.
    fn empty() -> Self {
        Self {
            body: Body::Empty,
            exchange: None,
            waiting_since: None,
            is_unsent: true,
            late: None,
        }
    }

    /// hyper throws away what it has not written when a body breaks off, so it writes that first.
    fn tell(
        &mut self,
        broken: Result<Frame<Bytes>, Error>,
        context: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match broken {
            Err(error) if std::mem::take(&mut self.is_unsent) => {
                self.late = Some(Box::new(error));
                context.waker().wake_by_ref();
                Poll::Pending
            }
            broken => Poll::Ready(Some(broken)),
        }
    }

    /// A client that takes little at a time has the route's time for all of it. Not asked of the last piece, which is
    /// there: most answers have no other.
    fn overtime(&mut self) -> Option<Kind> {
        let exchange = self.exchange.as_mut()?;
        let is_over = !self.body.is_end_stream() && Instant::now() >= exchange.deadline?;
        exchange.is_hurried |= is_over;
        is_over.then_some(Kind::RouteTimeout)
    }

    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let Some(exchange) = &self.exchange else {
            return Poll::Pending;
        };
        // One that a middleware holds up is bound by its `wall`.
        let is_upstreams = !matches!(&self.body, Body::Returned(returned) if returned.is_guests());
        let patience = (exchange.upstream.as_ref())
            .filter(|_| is_upstreams)
            .map(|upstream| since + upstream.endpoint().terms.read_timeout);
        let Some(earliest) = patience.into_iter().chain(exchange.deadline).min() else {
            return Poll::Pending;
        };
        if !exchange.lane.watchdog.expired(context, earliest) {
            return Poll::Pending;
        }
        let kind = if exchange.deadline == Some(earliest) {
            Kind::RouteTimeout
        } else {
            Kind::UpstreamTimeout
        };
        Poll::Ready(Some(self.broken(kind, &Abandoned::Left)))
    }

    /// A call's response has no status yet, and is not to end without.
    fn owes_status(&self) -> bool {
        let call = self.exchange.as_ref().and_then(|exchange| exchange.call.as_ref());
        call.is_some_and(|call| call.owes_status())
    }

    /// Why the request broke off after its answer had begun.
    fn upload_fault(&self) -> Kind {
        let upload = self.exchange.as_ref().and_then(|exchange| exchange.upload.as_ref());
        let Some(upload) = upload else { return Kind::Reset };
        match (&*upload.cut.borrow(), upload.fault.get()) {
            (Some(UploadCut::Broken(broken)), _) => Kind::Filter(broken.failure),
            (Some(UploadCut::Replied(_)), _) => Kind::Cut,
            (None, Some(fault)) => Kind::Upload(fault),
            (None, None) => Kind::Reset,
        }
    }

    /// The head is gone, so the client can only be shown a connection that breaks, or the status of a call.
    fn broken(&mut self, kind: Kind, error: &dyn std::error::Error) -> Result<Frame<Bytes>, Error> {
        let mut trailers = None;
        if let Some(mut exchange) = self.exchange.take() {
            exchange.reason = kind.reason();
            if kind.is_upstreams()
                && !(exchange.is_hurried && matches!(kind, Kind::RouteTimeout))
                && let Some(upstream) = &exchange.upstream
            {
                exchange
                    .connection
                    .worker
                    .upstream_failed(upstream.endpoint(), kind.reason());
            }
            let call = exchange.call.as_mut();
            trailers = call.and_then(|call| call.end(grpc::Status::of_failure(kind), kind.reason()));
            // Nothing more comes of it.
            self.body = Body::Empty;
        }
        trailers
            .map(Frame::trailers)
            .ok_or_else(|| Error::new(kind, chain_of(error)))
    }

    /// While the client takes nothing of it.
    pub fn poll_upload(&mut self, context: &mut Context<'_>) {
        self.body.poll_upload(context);
    }

    /// It will not be sent to its end, however much of it was taken.
    pub fn break_off(&mut self, reason: &'static str) {
        if let Some(mut exchange) = self.exchange.take()
            && exchange.reason.is_empty()
        {
            exchange.reason = reason;
        }
    }

    /// The answer to HEAD has a body only in its length.
    fn is_for_head(&self) -> bool {
        let is_head = |exchange: &Exchange| {
            let message = exchange.passage.message();
            message
                .as_ref()
                .is_some_and(|message| message.request.method == Method::HEAD)
        };
        matches!(self.body, Body::Full(_)) && self.exchange.as_deref().is_some_and(is_head)
    }

    fn finish(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.complete = true;
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // hyper asks no more once a length is reached.
        if self.body.is_end_stream() || self.is_for_head() {
            self.finish();
        }
    }
}
