//! A filter's place in the way of a body: pieces in, pieces out.
//!
//! Data plane. A stage wraps the body that comes to it, and is pulled like one: it asks for the next piece only when what
//! it has made of the last one is gone, so back-pressure passes through and one piece is in memory at a time. A body
//! that breaks off, and a filter that fails, are never followed by a clean end. It knows nothing of engines and sockets.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};

use crate::chain::Broken;
use crate::filter::{BodyVerdict, EndVerdict, Reply, Side};
use crate::passage::Passage;

/// A body behind a filter's stage. `E` is how the body itself can break.
pub struct Filtered<E> {
    pump: Pin<Box<dyn Future<Output = Result<(), Cut<E>>>>>,
    outlet: Rc<Outlet>,
    passage: Rc<Passage>,
    is_over: bool,
}

/// Why a filtered body ends before its end.
pub enum Cut<E> {
    /// What comes to the stage has broken off.
    Source(E),
    Filter(Broken),
    /// The filter has ended the exchange.
    Replied(Box<Reply>),
}

/// What has come through and was not taken yet; one frame at most.
#[derive(Default)]
struct Outlet(RefCell<Option<Frame<Bytes>>>);

impl<E: 'static> Filtered<E> {
    /// `turn` is the filter's in this passage.
    pub fn new<S>(source: S, passage: &Rc<Passage>, turn: usize, side: Side) -> Self
    where
        S: Body<Data = Bytes, Error = E> + Unpin + 'static,
    {
        let outlet = Rc::new(Outlet::default());
        let filter = Stage {
            passage: Rc::clone(passage),
            turn,
            side,
        };
        Self {
            pump: Box::pin(pump(source, filter, Rc::clone(&outlet))),
            outlet,
            passage: Rc::clone(passage),
            is_over: false,
        }
    }

    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut<E>>>> {
        loop {
            if let Some(frame) = self.outlet.0.take() {
                // Nothing follows trailers, and nobody asks.
                self.is_over |= frame.is_trailers();
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            match self.pump.as_mut().poll(context) {
                Poll::Ready(Ok(())) => self.is_over = true,
                Poll::Ready(Err(cut)) => {
                    self.is_over = true;
                    return Poll::Ready(Some(Err(cut)));
                }
                Poll::Pending if self.outlet.0.borrow().is_some() => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Whether a filter's hook was parked on its way when this was polled last.
    pub fn is_in_hook(&self) -> bool {
        self.passage.is_in_hook()
    }

    pub fn is_over(&self) -> bool {
        self.is_over && self.outlet.0.borrow().is_none()
    }
}

impl<E> fmt::Debug for Filtered<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Filtered")
            .field("is_over", &self.is_over)
            .finish_non_exhaustive()
    }
}

impl Outlet {
    /// Done when the frame was taken. Nobody has to be woken: who takes it polls again. A stage that went on before could be
    /// parked in its next hook, with the exchange's message, when the frame reaches the next stage, which would wait for
    /// the message and poll this one no more.
    async fn put(&self, frame: Frame<Bytes>) {
        *self.0.borrow_mut() = Some(frame);
        std::future::poll_fn(|_| match &*self.0.borrow() {
            Some(_) => Poll::Pending,
            None => Poll::Ready(()),
        })
        .await;
    }
}

async fn pump<S>(mut source: S, filter: Stage, outlet: Rc<Outlet>) -> Result<(), Cut<S::Error>>
where
    S: Body<Data = Bytes> + Unpin,
{
    let mut trailers = None;
    while let Some(frame) = next(&mut source).await {
        match frame.map_err(Cut::Source)?.into_data() {
            Ok(piece) => filter.pass(piece, &outlet).await?,
            Err(other) => trailers = other.into_trailers().ok(),
        }
    }
    filter.end(trailers, &outlet).await
}

async fn next<S>(source: &mut S) -> Option<Result<Frame<Bytes>, S::Error>>
where
    S: Body<Data = Bytes> + Unpin,
{
    std::future::poll_fn(|context| Pin::new(&mut *source).poll_frame(context)).await
}

/// One filter's hooks for one body.
struct Stage {
    passage: Rc<Passage>,
    turn: usize,
    side: Side,
}

impl Stage {
    async fn pass<E>(&self, piece: Bytes, outlet: &Outlet) -> Result<(), Cut<E>> {
        let verdict = self.passage.body(self.turn, self.side, &piece).await;
        match verdict.map_err(Cut::Filter)? {
            BodyVerdict::Keep => outlet.put(Frame::data(piece)).await,
            BodyVerdict::Drop => {}
            BodyVerdict::Pieces(pieces) => {
                for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
                    outlet.put(Frame::data(piece)).await;
                }
            }
            BodyVerdict::Reply(reply) => return Err(Cut::Replied(reply)),
        }
        Ok(())
    }

    async fn end<E>(&self, trailers: Option<HeaderMap>, outlet: &Outlet) -> Result<(), Cut<E>> {
        let verdict = self.passage.end(self.turn, self.side, trailers.as_ref()).await;
        let trailers = match verdict.map_err(Cut::Filter)? {
            EndVerdict::Keep => trailers,
            EndVerdict::Finish(ending) => {
                if !ending.data.is_empty() {
                    outlet.put(Frame::data(ending.data)).await;
                }
                ending.trailers.or(trailers)
            }
            EndVerdict::Reply(reply) => return Err(Cut::Replied(reply)),
        };
        if let Some(trailers) = trailers.filter(|trailers| !trailers.is_empty()) {
            outlet.put(Frame::trailers(trailers)).await;
        }
        Ok(())
    }
}
