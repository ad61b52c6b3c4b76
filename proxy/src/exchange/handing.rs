//! An exchange in the hands of middlewares: components that get the whole request, and may pass it on.
//!
//! Data plane. What stands behind a middleware runs while the middleware waits for it, and ends where the middleware
//! answers before it. A middleware that fails is skipped, if it may fail open and nothing is missing of the bodies that it
//! had.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant as Clock;

use http::{StatusCode, header};
use tokio::time::Instant;

use super::Exchange;
use crate::body::{Body, RequestBody, Upload};
use crate::chain::Floor as _;
use crate::filter::{Failure, Hook, Reply};
use crate::h1;
use crate::hop;
use crate::reply::{Error, Kind};
use crate::service::Fault;
use crate::timer::Watchdog;
use crate::wasm::http::{Answered, Middleware, Session, Word, adopt};

/// An answer that came from a filter in the way of the request.
pub(super) enum Early {
    Reply(Box<Reply>),
    /// Of a middleware; the head is the exchange's already.
    Answer(Body),
}

/// What a guest had to say, or the end of its time.
enum Said<T> {
    Word(T),
    Fault(Fault),
}

impl Exchange {
    /// [`answer`](Exchange::answer), where a middleware that waits for it may be first.
    pub(super) async fn answer_in_hands(&mut self, upload: &mut RequestBody) -> Result<Body, Error> {
        let passage = Rc::clone(&self.passage);
        let early = {
            let mut walk = std::pin::pin!(self.answer(upload));
            poll_fn(|context| {
                if let Poll::Ready(answered) = walk.as_mut().poll(context) {
                    return Poll::Ready(Err(answered));
                }
                loop {
                    let Poll::Ready((turn, answered)) = passage.poll_early(context) else {
                        return Poll::Pending;
                    };
                    let fault = match answered {
                        Err(fault) if !matches!(fault, Fault::Code(_)) => fault,
                        answered => return Poll::Ready(Ok((turn, answered))),
                    };
                    drop(passage.take_session(turn));
                    // What it passed on is with others already, and whole.
                    let failed = passage.fell(turn, Hook::ResponseHead, told(fault), true);
                    if let Err(broken) = failed {
                        return Poll::Ready(Err(Err(broken.into())));
                    }
                }
            })
            .await
        };
        let (turn, answered) = match early {
            Ok(early) => early,
            Err(answered) => return answered,
        };
        passage.cut_behind(turn);
        let Some(session) = passage.take_session(turn) else {
            return Err(Kind::Reset.into());
        };
        match answered {
            Ok(answered) => self.give_back(turn, session, answered, Hook::ResponseHead),
            Err(fault) => Err(self.refusal(turn, fault.status())),
        }
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
                let failed = passage.fell(turn, Hook::RequestHead, (failure, &detail), true);
                return failed.map(|()| None).map_err(Error::from);
            }
        };
        let had_none = upload.is_empty();
        let body = std::mem::replace(upload, RequestBody::Empty);
        let Some(mut session) =
            (passage.message().as_ref()).map(|message| Session::begin(place, &message.request, body))
        else {
            return Err(Kind::Reset.into());
        };
        let word = self
            .wait_for(turn, |context| session.poll_word(&passage, context))
            .await;
        let fault = match word {
            Said::Word(Word::PassedOn(head, mut passing)) => {
                let adopted = (passage.message().as_mut()).map(|message| adopt(head, &mut message.request));
                match adopted.unwrap_or(Ok(None)) {
                    Ok(length) => passing.is_to_have(length),
                    Err(why) => passage.fell(turn, Hook::RequestHead, (Failure::BadReply, why), false)?,
                }
                let ours = Rc::clone(self.upload.get_or_insert_with(Upload::nothing));
                let mut body = RequestBody::passed(passing, &ours, &passage.step(turn).name);
                if had_none {
                    self.begin_body(turn, &mut body).await?;
                }
                *upload = body;
                passage.spoke(turn, Hook::RequestHead, clock);
                passage.keep_session(turn, session);
                return Ok(None);
            }
            Said::Word(Word::Answered(answered)) => {
                // What it has not read is read like any body that is answered early.
                *upload = session.take_request().unwrap_or(RequestBody::Empty);
                passage.spoke(turn, Hook::RequestHead, clock);
                return self.give_back(turn, session, answered, Hook::RequestHead).map(Some);
            }
            Said::Fault(Fault::Code(status)) => return Err(self.refusal(turn, status)),
            Said::Fault(fault) => fault,
        };
        if let Some(cut) = self.cut_short() {
            // What an earlier filter has done to the body is why.
            return cut.map(|reply| Some(self.local(*reply)));
        }
        let body = session.take_request();
        drop(session);
        passage.fell(turn, Hook::RequestHead, told(fault), body.is_some())?;
        *upload = body.unwrap_or(RequestBody::Empty);
        Ok(None)
    }

    /// A request that had no body is not to be sent with an empty one, which says another thing; a guest that makes its
    /// bodies of streams does not know before their end.
    async fn begin_body(&self, turn: usize, body: &mut RequestBody) -> Result<(), Error> {
        match self.wait_for(turn, |context| body.poll_begin(context).map(Ok)).await {
            Said::Word(Ok(())) => Ok(()),
            Said::Word(Err(broken)) => match self.cut_short() {
                Some(Err(error)) => Err(error),
                _ => Err(Kind::Upload(broken.0).into()),
            },
            Said::Fault(fault) => {
                self.passage.fell(turn, Hook::RequestHead, told(fault), false)?;
                Ok(())
            }
        }
    }

    /// Hands the response of what stands behind to a middleware, and takes what it makes of it.
    pub(super) async fn hand_back(
        &mut self,
        turn: usize,
        mut session: Session,
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
        let said = self
            .wait_for(turn, |context| session.poll_answer(&passage, context))
            .await;
        let returned = match said {
            Said::Word(answered) => {
                passage.spoke(turn, Hook::ResponseHead, clock);
                self.give_back(turn, session, answered, Hook::ResponseHead)
            }
            Said::Fault(Fault::Code(status)) => Err(self.refusal(turn, status)),
            Said::Fault(fault) => {
                let given = session.take_response();
                drop(session);
                let failed = passage.fell(turn, Hook::ResponseHead, told(fault), given.is_some());
                failed.map(|()| given.unwrap_or(Body::Empty)).map_err(Error::from)
            }
        };
        *body = match returned {
            Ok(returned) => returned,
            Err(error) => self.fail(error),
        };
    }

    /// Makes a middleware's answer the exchange's.
    fn give_back(&mut self, turn: usize, session: Session, answered: Answered, hook: Hook) -> Result<Body, Error> {
        let passage = Rc::clone(&self.passage);
        let name = Arc::clone(&passage.step(turn).name);
        let answers = hook == Hook::RequestHead || self.status_behind().is_none();
        let switches = !answers && self.status_behind() == Some(StatusCode::SWITCHING_PROTOCOLS);
        let (mut head, body) = match session.finish(answered, &passage, &name, switches) {
            Ok(finished) => finished,
            Err(fault) => {
                passage.fell(turn, hook, told(fault), false)?;
                return Ok(Body::Empty);
            }
        };
        if answers {
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
        self.passage.scene.replied(self.passage.step(turn), status);
        let name = &self.passage.step(turn).name;
        Error::new(
            Kind::FilterCode(status),
            format!("filter `{name}` answered with an error code"),
        )
    }

    /// Waits for a guest as long as it may take: while bodies move, its time begins anew with each piece.
    async fn wait_for<T>(
        &self,
        turn: usize,
        mut poll: impl FnMut(&mut std::task::Context<'_>) -> Poll<Result<T, Fault>>,
    ) -> Said<T> {
        let wall = self
            .passage
            .middleware(turn)
            .map(|middleware: &Arc<Middleware>| middleware.terms.wall);
        let Some(wall) = wall else {
            return Said::Fault(Fault::Ended);
        };
        let watchdog = Watchdog::default();
        let uploaded = || {
            self.upload
                .as_ref()
                .map_or((0, false), |upload| (upload.bytes.get(), upload.waits.get()))
        };
        let mut since = None;
        let mut seen = uploaded();
        poll_fn(|context| {
            if let Poll::Ready(said) = poll(context) {
                return Poll::Ready(match said {
                    Ok(word) => Said::Word(word),
                    Err(fault) => Said::Fault(fault),
                });
            }
            let now = uploaded();
            let begun = since.get_or_insert_with(Instant::now);
            // What waits for the client is bound by `limits.body_timeout`.
            if now.0 != seen.0 || now.1 {
                *begun = Instant::now();
            }
            seen = now;
            match watchdog.expired(context, *begun + wall) {
                true => Poll::Ready(Said::Fault(Fault::Ended)),
                false => Poll::Pending,
            }
        })
        .await
    }
}

/// For the log.
fn told(fault: Fault) -> (Failure, &'static str) {
    let detail = match fault {
        Fault::Code(_) => "an error code",
        Fault::Silent => "it came to its end without an answer",
        Fault::Malformed => "what it answered is not a response",
        Fault::Trap => "it trapped",
        Fault::Cpu => "over limits.cpu",
        Fault::Memory => "over limits.memory",
        Fault::Ended => "over limits.wall",
    };
    (fault.into(), detail)
}
