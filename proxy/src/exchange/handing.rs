//! An exchange in the hands of middlewares: components that get the whole request, and may pass it on.
//!
//! Data plane. What stands behind a middleware runs while the middleware waits for it, and ends where the middleware
//! answers before it. A middleware that fails is skipped, if it may fail open and nothing is missing of the bodies that it
//! had. Invariant: whoever goes on with the exchange has its message; a hook that is parked on the way of a body that a
//! middleware reads comes to its end first.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant as Clock};

use http::{StatusCode, header};
use tokio::time::Instant;

use super::Exchange;
use crate::body::{Body, RequestBody, Upload, UploadFault};
use crate::chain::{Broken, Floor as _};
use crate::filter::{Failure, Hook, Reply};
use crate::h1;
use crate::hop;
use crate::reply::{Error, Kind};
use crate::service::Fault;
use crate::timer::Watchdog;
use crate::wasm::http::{Answered, Middleware, Movers, Session, Word, adopt};

/// An answer that came from a filter in the way of the request.
pub(super) enum Early {
    Reply(Box<Reply>),
    /// Of a middleware; the head is the exchange's already.
    Answer(Body),
}

/// How the walk of an exchange with middlewares ended.
enum End {
    /// Behind all of them.
    Walked(Result<Body, Error>),
    /// A middleware was first.
    Answered(usize, Result<Answered, Fault>),
    Fell(usize, Broken),
}

/// What a guest had to say, or the end of its time.
enum Said<T> {
    Word(T),
    Fault(Fault),
    /// It is not the guest who takes so long, but the upstream whose response it reads.
    Stalled,
    /// The request has broken off, and nobody waits any more.
    Left,
}

/// Pieces that a guest was given, and whether it has asked for one that is not there.
type Progress = (u64, bool);

impl Exchange {
    /// [`answer`](Exchange::answer), where a middleware that waits for it may be first.
    pub(super) async fn answer_in_hands(&mut self, upload: &mut RequestBody) -> Result<Body, Error> {
        let passage = Rc::clone(&self.passage);
        let end = {
            let mut walk = std::pin::pin!(self.answer(upload));
            poll_fn(|context| {
                if let Poll::Ready(walked) = walk.as_mut().poll(context) {
                    return Poll::Ready(End::Walked(walked));
                }
                loop {
                    let Poll::Ready((turn, answered)) = passage.poll_early(context) else {
                        return Poll::Pending;
                    };
                    let fault = match answered {
                        Err(fault) if !matches!(fault, Fault::Code(_)) => fault,
                        answered => return Poll::Ready(End::Answered(turn, answered)),
                    };
                    let has_passed = passage.take_session(turn).is_some_and(|session| session.has_passed());
                    let fell = passage.fell(turn, Hook::ResponseHead, fault.of_filter(), (None, has_passed));
                    if let Err(broken) = fell {
                        return Poll::Ready(End::Fell(turn, broken));
                    }
                }
            })
            .await
        };
        self.settle_hooks(None).await;
        if !matches!(upload, RequestBody::Streamed(_)) {
            // Nobody reads what a guest has made of it.
            *upload = RequestBody::Empty;
        }
        match end {
            End::Walked(walked) => walked,
            End::Fell(turn, broken) => {
                passage.cut_behind(turn);
                Err(broken.into())
            }
            End::Answered(turn, answered) => {
                passage.cut_behind(turn);
                let session = passage.take_session(turn).ok_or(Kind::Reset)?;
                match answered {
                    Ok(answered) => {
                        read_on(&session).await;
                        self.give_back(turn, *session, answered, Hook::ResponseHead)
                    }
                    Err(fault) => Err(self.refusal(turn, fault.status())),
                }
            }
        }
    }

    /// Has hooks that are parked on the way of what middlewares read come to their ends, which their own limits bound.
    async fn settle_hooks(&self, of: Option<&Session>) {
        if !self.passage.is_in_hook() {
            return;
        }
        let mut movers: Vec<Movers> = self.passage.movers();
        movers.extend(of.map(Session::movers));
        poll_fn(|context| {
            movers.iter().for_each(|mover| mover.poll(context));
            match self.passage.is_in_hook() && !movers.is_empty() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
    }

    /// Hands the request to a middleware; its answer, if it does not pass the request on.
    pub(super) async fn hand(
        &mut self,
        turn: usize,
        upload: &mut RequestBody,
        clock: &mut Clock,
    ) -> Result<Option<Body>, Error> {
        let passage = Rc::clone(&self.passage);
        let place = match passage.enter(turn, *clock).await {
            Ok(place) => place,
            Err((failure, detail)) => {
                let fell = passage.fell(turn, Hook::RequestHead, (failure, &detail), (Some(clock), true));
                return fell.map(|()| None).map_err(Error::from);
            }
        };
        let wall = self.wall(turn);
        let had_none = upload.is_empty();
        let body = std::mem::replace(upload, RequestBody::Empty);
        let Some(mut session) =
            (passage.message().as_ref()).map(|message| Session::begin(place, &message.request, body, wall))
        else {
            return Err(Kind::Reset.into());
        };
        let said = self
            .wait_for(turn, None, |context| {
                let word = session.poll_word(&passage, context);
                let is_left = word.is_pending() && session.is_left(context);
                (word, session.progress(), is_left)
            })
            .await;
        self.settle_hooks(Some(&session)).await;
        let fault = match said {
            Said::Word(Word::PassedOn(head, mut passing)) => {
                if let Some(cut) = self.broken_upload() {
                    return cut;
                }
                let adopted = (passage.message().as_mut()).map(|message| adopt(*head, &mut message.request));
                match adopted.unwrap_or(Ok(None)) {
                    Ok(length) => passing.is_to_have(length),
                    Err(why) => {
                        *upload = session.take_request().unwrap_or(RequestBody::Empty);
                        let what = (Failure::BadReply, why);
                        passage.fell(turn, Hook::RequestHead, what, (Some(clock), false))?;
                    }
                }
                if session.is_unread() {
                    read_on(&session).await;
                }
                let ours = Rc::clone(self.upload.get_or_insert_with(Upload::nothing));
                passage.keep_session(turn, session);
                let mut body = RequestBody::passed(passing, &ours, turn);
                if had_none {
                    self.begin_body(&mut body).await?;
                }
                *upload = body;
                passage.spoke(turn, Hook::RequestHead, clock);
                return Ok(None);
            }
            Said::Word(Word::Answered(answered)) => {
                // What it has no use for is read like any body that is answered early.
                *upload = session.take_unread().unwrap_or(RequestBody::Empty);
                passage.spoke(turn, Hook::RequestHead, clock);
                read_on(&session).await;
                return self.give_back(turn, *session, answered, Hook::RequestHead).map(Some);
            }
            Said::Fault(Fault::Code(status)) => {
                *upload = session.take_request().unwrap_or(RequestBody::Empty);
                passage.spoke(turn, Hook::RequestHead, clock);
                return Err(self.refusal(turn, status));
            }
            Said::Fault(fault) => fault,
            Said::Stalled | Said::Left => Fault::Ended,
        };
        if let Some(cut) = self.broken_upload() {
            // Why is known.
            return cut;
        }
        let body = session.take_request();
        drop(session);
        let is_whole = body.is_some();
        *upload = body.unwrap_or(RequestBody::Empty);
        passage.fell(turn, Hook::RequestHead, fault.of_filter(), (Some(clock), is_whole))?;
        Ok(None)
    }

    /// What became of a request's body that has broken off.
    fn broken_upload(&mut self) -> Option<Result<Option<Body>, Error>> {
        let fault = self.upload.as_ref()?.fault.get()?;
        Some(match self.cut_short() {
            Some(cut) => cut.map(|reply| Some(self.local(*reply))),
            None => Err(Kind::Upload(fault).into()),
        })
    }

    /// A request that had no body is not to be sent with an empty one, which says another thing; a guest that makes its
    /// bodies of streams does not know before their end. Its own bound is that of a body.
    async fn begin_body(&self, body: &mut RequestBody) -> Result<(), Error> {
        let begun = poll_fn(|context| body.poll_begin(context)).await;
        begun.map_err(|broken| match self.cut_short() {
            Some(Err(error)) => error,
            _ => Kind::Upload(broken.0).into(),
        })
    }

    /// Hands the response of what stands behind to a middleware, and takes what it makes of it.
    pub(super) async fn hand_back(
        &mut self,
        turn: usize,
        mut session: Box<Session>,
        body: &mut Body,
        clock: &mut Option<Clock>,
    ) {
        let passage = Rc::clone(&self.passage);
        let clock = clock.get_or_insert_with(Clock::now);
        let given = std::mem::replace(body, Body::Empty);
        if let Some(message) = &*passage.message()
            && let Some(response) = &message.response
        {
            session.resume(response.status, &response.headers, given);
        }
        let read_timeout = (self.upstream.as_ref()).map(|upstream| upstream.endpoint().terms.read_timeout);
        let said = self
            .wait_for(turn, read_timeout, |context| {
                let answer = session.poll_answer(&passage, context);
                let is_left = answer.is_pending() && session.is_left(context);
                (answer, session.progress(), is_left)
            })
            .await;
        self.settle_hooks(Some(&session)).await;
        let returned = match said {
            Said::Word(answered) => {
                passage.spoke(turn, Hook::ResponseHead, clock);
                read_on(&session).await;
                self.give_back(turn, *session, answered, Hook::ResponseHead)
            }
            Said::Fault(Fault::Code(status)) => {
                passage.spoke(turn, Hook::ResponseHead, clock);
                Err(self.refusal(turn, status))
            }
            Said::Fault(fault) => {
                let given = session.take_response();
                drop(session);
                let may_go_on = (Some(clock), given.is_some());
                let fell = passage.fell(turn, Hook::ResponseHead, fault.of_filter(), may_go_on);
                fell.map(|()| given.unwrap_or(Body::Empty)).map_err(Error::from)
            }
            Said::Left => Err(Kind::Upload(UploadFault::Disconnected).into()),
            Said::Stalled => Err(match &self.upstream {
                Some(upstream) => self.upstream_failed(upstream, Kind::UpstreamTimeout, "its response has stopped"),
                None => Kind::UpstreamTimeout.into(),
            }),
        };
        *body = match returned {
            Ok(returned) => returned,
            Err(error) => self.fail(error),
        };
    }

    /// Makes a middleware's answer the exchange's.
    fn give_back(&mut self, turn: usize, session: Session, answered: Answered, hook: Hook) -> Result<Body, Error> {
        let passage = Rc::clone(&self.passage);
        let behind = self.status_behind();
        let switches = behind == Some(StatusCode::SWITCHING_PROTOCOLS);
        let (mut head, body) = match session.finish(answered, &passage, turn, switches) {
            Ok(finished) => finished,
            Err(fault) => {
                passage.fell(turn, hook, fault.of_filter(), (None, false))?;
                return Ok(Body::Empty);
            }
        };
        if behind.is_none() {
            passage.scene.replied(passage.step(turn), head.status);
        }
        hop::strip_response(&mut head.headers);
        if let (true, StatusCode::SWITCHING_PROTOCOLS, Some(protocol)) = (switches, head.status, &self.offer) {
            head.headers.remove(header::CONTENT_LENGTH);
            hop::switch(&mut head.headers, protocol.clone());
        }
        self.set_response(head);
        Ok(body)
    }

    /// Of the response that stands behind, if there is one.
    fn status_behind(&self) -> Option<StatusCode> {
        let message = self.passage.message();
        message.as_ref()?.response.as_ref().map(|response| response.status)
    }

    fn set_response(&self, head: h1::Head) {
        if let Some(message) = &mut *self.passage.message() {
            message.response = Some(crate::head::ResponseHead {
                status: head.status,
                headers: head.headers,
            });
        }
    }

    /// A middleware's error code, as an answer.
    fn refusal(&self, turn: usize, status: StatusCode) -> Error {
        let step = self.passage.step(turn);
        self.passage.scene.replied(step, status);
        Error::new(
            Kind::FilterCode(status),
            format!("filter `{}` answered with an error code", step.name),
        )
    }

    fn wall(&self, turn: usize) -> Duration {
        let middleware = self.passage.middleware(turn);
        middleware.map_or(Duration::ZERO, |middleware: &Arc<Middleware>| middleware.terms.wall)
    }

    /// Waits for a guest as long as it may take: while bodies move, its time begins anew with each piece. For a piece of a
    /// request it does not count, which has bounds of its own; for one of a response it may wait for `of_response`.
    async fn wait_for<T>(
        &self,
        turn: usize,
        of_response: Option<Duration>,
        mut poll: impl FnMut(&mut Context<'_>) -> (Poll<Result<T, Fault>>, Progress, bool),
    ) -> Said<T> {
        let wall = self.wall(turn);
        let watchdog = Watchdog::default();
        let mut since = None;
        let mut seen = (0, false);
        poll_fn(|context| {
            let (said, progress, is_left) = poll(context);
            if let Poll::Ready(said) = said {
                return Poll::Ready(match said {
                    Ok(word) => Said::Word(word),
                    Err(fault) => Said::Fault(fault),
                });
            }
            if is_left {
                return Poll::Ready(Said::Left);
            }
            let begun = since.get_or_insert_with(Instant::now);
            let waits = progress.1 && of_response.is_none();
            if progress != seen || waits || self.passage.is_in_hook() {
                *begun = Instant::now();
            }
            seen = progress;
            let (bound, end) = match (progress.1, of_response) {
                (true, Some(of_response)) => (of_response, Said::Stalled),
                _ => (wall, Said::Fault(Fault::Ended)),
            };
            match watchdog.expired(context, *begun + bound) {
                true => Poll::Ready(end),
                false => Poll::Pending,
            }
        })
        .await
    }
}

/// See [`Session::reads_on`].
async fn read_on(session: &Session) {
    poll_fn(|context| match session.reads_on(context) {
        true => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
        false => Poll::Ready(()),
    })
    .await;
}
