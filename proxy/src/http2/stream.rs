//! One stream: carries an exchange from its request to the last byte of its response, in a task of its own.
//!
//! Data plane. Whatever ends the stream ends the exchange: the client's reset, the end of the connection, a client that
//! takes nothing.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use tokio::time::Instant;

use super::duplex::{Duplex, Owner};
use super::incoming::Incoming;
use super::session::Seat;
use crate::body::Source;
use crate::exchange::{self, Abandoned, Connects, ResponseBody, Tunnel, TunnelEnd, TunnelSlot};
use crate::reply::Kind;
use crate::tunnel::Broken;
use crate::wire::Expired;

thread_local! {
    /// The date, as of this second since 1970.
    static DATE: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// What came of a request.
enum Answer {
    Response(Response<ResponseBody>),
    Abandoned(Abandoned),
    /// The client has reset the stream, or the connection is over.
    Reset,
    /// Its generation has had its time.
    Outlived,
}

pub async fn serve(seat: Seat, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (mut parts, stream) = request.into_parts();
    let is_head = parts.method == Method::HEAD;
    let (incoming, other) = match parts.extensions.remove::<Protocol>() {
        None => (Source::Http2(Incoming::new(stream, &parts.headers, &seat.lane)), None),
        Some(protocol) => {
            ask_for(&protocol, &mut parts);
            (Source::Nothing, Some(stream))
        }
    };
    let tunnels = TunnelSlot::default();
    let answer = {
        let connection = Rc::clone(&seat.session.connection);
        let mut exchange = pin!(exchange::run(
            connection,
            Rc::clone(&seat.lane),
            parts,
            incoming,
            &tunnels
        ));
        std::future::poll_fn(|context| {
            seat.lane.carry(context.waker());
            let polled = exchange.as_mut().poll(context);
            poll_answer(&seat, context, &mut respond, polled)
        })
        .await
    };
    match answer {
        Answer::Response(response) => match tunnels.take().zip(other) {
            Some((tunnel, stream)) => Box::pin(switch(&seat, response, respond, stream, *tunnel)).await,
            None => send(&seat, response, respond, is_head).await,
        },
        Answer::Reset => seat.session.spend_reset(),
        Answer::Abandoned(Abandoned::Left) => seat.session.spend_reset(),
        Answer::Abandoned(Abandoned::Malformed) => reset(&seat, Reason::PROTOCOL_ERROR, "malformed", |reason| {
            respond.send_reset(reason)
        }),
        Answer::Outlived => reset(&seat, Reason::CANCEL, "generation_max_age", |reason| {
            respond.send_reset(reason)
        }),
    }
}

/// Makes of a request for another protocol what it is in HTTP/1.1 (RFC 8441 5).
fn ask_for(protocol: &Protocol, parts: &mut http::request::Parts) {
    parts.method = Method::GET;
    parts.headers.remove(header::CONTENT_LENGTH);
    // What cannot be a name is none that a route lists.
    let name = HeaderValue::from_str(protocol.as_str()).unwrap_or_else(|_| HeaderValue::from_static(""));
    parts.extensions.insert(Connects(name));
}

/// Tells the client that it has the protocol, and carries that to its end.
async fn switch(
    seat: &Seat,
    response: Response<ResponseBody>,
    mut respond: SendResponse<Bytes>,
    stream: RecvStream,
    tunnel: Tunnel,
) {
    let (mut head, _) = response.into_parts();
    head.status = StatusCode::OK;
    for name in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT] {
        head.headers.remove(name);
    }
    head.headers.entry(header::DATE).or_insert_with(date);
    let Ok(sink) = respond.send_response(Response::from_parts(head, ()), false) else {
        return seat.session.spend_reset();
    };
    seat.session.earn_frame(0);
    let mut client = Duplex::new(stream, sink, Owner::Client(Rc::clone(&seat.session)));
    let end = tunnel.run(&mut client, Bytes::new()).await;
    let reason = match end {
        TunnelEnd::Closed => return seat.session.earn_reset(),
        TunnelEnd::Broken(Broken::Client(_)) => return seat.session.spend_reset(),
        // RFC 9113 8.5.
        TunnelEnd::Broken(Broken::Upstream(_)) => Reason::CONNECT_ERROR,
        TunnelEnd::Idle | TunnelEnd::Stalled | TunnelEnd::Outlived => Reason::CANCEL,
    };
    reset(seat, reason, end.reason(), |reason| client.reset(reason));
}

fn reset(seat: &Seat, reason: Reason, word: &'static str, send: impl FnOnce(Reason)) {
    send(reason);
    seat.session.connection.count_reset(word);
}

fn poll_answer(
    seat: &Seat,
    context: &mut Context<'_>,
    respond: &mut SendResponse<Bytes>,
    polled: Poll<Result<Response<ResponseBody>, Abandoned>>,
) -> Poll<Answer> {
    match polled {
        Poll::Ready(Ok(response)) => return Poll::Ready(Answer::Response(response)),
        Poll::Ready(Err(abandoned)) => return Poll::Ready(Answer::Abandoned(abandoned)),
        Poll::Pending => {}
    }
    if seat.lane.take_continue() {
        let mut interim = Response::new(());
        *interim.status_mut() = StatusCode::CONTINUE;
        // A stream that takes it no more says so below.
        let _ = respond.send_informational(interim);
    }
    if seat.lane.broken().is_some() {
        return Poll::Ready(Answer::Outlived);
    }
    respond.poll_reset(context).map(|_| Answer::Reset)
}

async fn send(seat: &Seat, response: Response<ResponseBody>, mut respond: SendResponse<Bytes>, is_head: bool) {
    let (mut head, mut body) = response.into_parts();
    // The framing of the upstream's connection (RFC 9113 8.2.2).
    head.headers.remove(header::TRANSFER_ENCODING);
    head.headers.entry(header::DATE).or_insert_with(date);
    let length = body.size_hint().exact();
    if let Some(length) = length.filter(|length| *length > 0) {
        head.headers
            .entry(header::CONTENT_LENGTH)
            .or_insert_with(|| HeaderValue::from(length));
    }
    let is_bare = is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let ends = is_bare || body.is_end_stream();
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), ends) else {
        body.break_off("client_closed");
        return seat.session.spend_reset();
    };
    seat.session.earn_frame(0);
    if ends {
        return seat.session.earn_reset();
    }
    let mut pipe = Pipe {
        seat,
        stream,
        body,
        piece: Bytes::new(),
        is_last: false,
        stalled: None,
    };
    std::future::poll_fn(|context| pipe.poll(context)).await;
}

/// A response's body on its way to the client, no faster than that takes it.
struct Pipe<'a> {
    seat: &'a Seat,
    stream: SendStream<Bytes>,
    body: ResponseBody,
    /// Taken from the body, and not sent yet.
    piece: Bytes,
    /// Nothing follows it.
    is_last: bool,
    /// Since when the client takes too little, and how much it took.
    stalled: Option<(Instant, usize)>,
}

impl Pipe<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.piece.is_empty() {
                match self.poll_body(context) {
                    Poll::Ready(false) => {}
                    Poll::Ready(true) => return Poll::Ready(()),
                    Poll::Pending => {
                        self.stalled = None;
                        return self.poll_end(context);
                    }
                }
            }
            match self.poll_send(context) {
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Ok(true)) => return self.finish(),
                Poll::Ready(Err(())) => return self.leave(),
                Poll::Pending => {
                    self.body.poll_upload(context);
                    return self.poll_end(context);
                }
            }
        }
    }

    /// Takes the next piece; whether there is nothing to send any more.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let sent = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(piece) => {
                    self.piece = piece;
                    self.is_last = self.body.is_end_stream();
                    if !self.piece.is_empty() || !self.is_last {
                        return Poll::Ready(false);
                    }
                    self.stream.send_data(Bytes::new(), true)
                }
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => self.stream.send_trailers(trailers),
                    Err(_) => return Poll::Ready(false),
                },
            },
            None => self.stream.send_data(Bytes::new(), true),
            Some(Err(error)) => {
                // Never like a whole one (RFC 9113 8.1).
                let stream = &mut self.stream;
                reset(self.seat, reason_for(error.kind), "response_broken", |reason| {
                    stream.send_reset(reason)
                });
                return Poll::Ready(true);
            }
        };
        Poll::Ready(match sent {
            Ok(()) => self.finish().is_ready(),
            Err(_) => self.leave().is_ready(),
        })
    }

    /// Sends as much of the piece as the client takes; whether that was the last of the body.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<bool, ()>> {
        while !self.piece.is_empty() {
            self.stream.reserve_capacity(self.piece.len());
            let mut room = self.stream.capacity();
            while room == 0 {
                room = match ready!(self.stream.poll_capacity(context)) {
                    Some(Ok(room)) => room,
                    Some(Err(_)) | None => return Poll::Ready(Err(())),
                };
            }
            let piece = self.piece.split_to(room.min(self.piece.len()));
            let took = piece.len();
            let is_last = self.is_last && self.piece.is_empty();
            if self.stream.send_data(piece, is_last).is_err() {
                return Poll::Ready(Err(()));
            }
            self.seat.session.earn_frame(took);
            self.progress(took);
            if is_last {
                return Poll::Ready(Ok(true));
            }
        }
        Poll::Ready(Ok(false))
    }

    /// A client that takes byte by byte makes none.
    fn progress(&mut self, took: usize) {
        if let Some((_, taken)) = &mut self.stalled {
            *taken += took;
            if *taken >= self.seat.session.limits.min_progress {
                self.stalled = None;
            }
        }
    }

    /// Nothing moves: whether the stream is over all the same.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.stream.poll_reset(context).is_ready() {
            return self.leave();
        }
        if self.seat.lane.broken().is_some() {
            return self.cut("generation_max_age");
        }
        if self.piece.is_empty() {
            return Poll::Pending;
        }
        let (since, _) = *self.stalled.get_or_insert_with(|| (Instant::now(), 0));
        let deadline = since + self.seat.session.write_timeout;
        if !self.seat.lane.watchdog.expired(context, deadline) {
            return Poll::Pending;
        }
        self.cut(reason_of(Expired::Write))
    }

    fn finish(&mut self) -> Poll<()> {
        self.seat.session.earn_frame(0);
        self.seat.session.earn_reset();
        self.piece = Bytes::new();
        Poll::Ready(())
    }

    /// The client has left, or the connection is over.
    fn leave(&mut self) -> Poll<()> {
        let why = self.seat.session.connection.wire.expired();
        self.body.break_off(why.map_or("client_closed", reason_of));
        self.seat.session.spend_reset();
        Poll::Ready(())
    }

    fn cut(&mut self, word: &'static str) -> Poll<()> {
        self.body.break_off(word);
        let stream = &mut self.stream;
        reset(self.seat, Reason::CANCEL, word, |reason| stream.send_reset(reason));
        Poll::Ready(())
    }
}

impl Drop for Pipe<'_> {
    /// What was taken from the body and not sent makes the response incomplete, however whole the body is.
    fn drop(&mut self) {
        if !self.piece.is_empty() {
            self.body.break_off("client_closed");
        }
    }
}

/// What a client learns of a response that broke off. An upstream's own reason is handed on where it says something of
/// this request.
fn reason_for(kind: Kind) -> Reason {
    match kind {
        Kind::ResetBy(code) if [Reason::CANCEL, Reason::ENHANCE_YOUR_CALM].contains(&code.into()) => code.into(),
        _ => Reason::INTERNAL_ERROR,
    }
}

fn reason_of(expired: Expired) -> &'static str {
    exchange::broken_reason(Some(expired))
}

/// RFC 9110 6.6.1 asks for one in every response.
fn date() -> HeaderValue {
    let now = SystemTime::now();
    let second = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(at, value)| {
        if *at != second {
            let text = httpdate::fmt_http_date(now);
            *value = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
            *at = second;
        }
        value.clone()
    })
}
