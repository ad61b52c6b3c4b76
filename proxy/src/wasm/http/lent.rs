//! A body on loan to a guest.
//!
//! Data plane. What is whole in memory is handed over at once. Anything else stays where it is until the guest asks for its
//! first piece, and can be taken back as long as it has not; from then on it moves when its exchange polls it, at the
//! guest's pace. How it breaks off is kept, because a guest may end its own body well after that.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Body;

use super::pipe::{Given, Watch, Writer, pipe};

/// The exchange's end, for all who move it. Dropped, the guest is given no more.
pub(super) struct Lent<B: Body> {
    place: RefCell<Place<B>>,
    fault: RefCell<Option<B::Error>>,
    is_broken: Cell<bool>,
    /// `None` for what the guest has whole.
    watch: Option<Watch>,
    /// Pieces that the guest was given.
    moved: Cell<u64>,
    /// The guest has asked for a piece that is not there.
    waits: Cell<bool>,
}

/// Where the body is.
enum Place<B> {
    /// Here, because the guest has all of it, or has not asked.
    Here(B, Option<Writer>),
    Moving(B, Writer),
    /// It has come to its end, or was taken back.
    Gone,
}

impl<B> Lent<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// `whole` is all of it, where that is in memory.
    pub fn lend(body: B, whole: Option<Bytes>) -> (Given, Rc<Self>) {
        let (given, writer) = match whole {
            Some(whole) => (Given::whole(whole), None),
            None => {
                let (writer, reader) = pipe(body.size_hint().exact());
                (Given::Piped(reader), Some(writer))
            }
        };
        let lent = Self {
            watch: writer.as_ref().map(Writer::watch),
            moved: Cell::new(0),
            waits: Cell::new(false),
            place: RefCell::new(Place::Here(body, writer)),
            fault: RefCell::default(),
            is_broken: Cell::new(false),
        };
        (given, Rc::new(lent))
    }

    /// Moves what can be moved.
    pub fn poll(&self, context: &mut Context<'_>) {
        let mut place = self.place.borrow_mut();
        if let Place::Here(_, Some(writer)) = &*place
            && matches!(writer.poll_wanted(context), Poll::Ready(Ok(())))
        {
            *place = match std::mem::replace(&mut *place, Place::Gone) {
                Place::Here(body, Some(writer)) => Place::Moving(body, writer),
                other => other,
            };
        }
        if let Place::Moving(body, writer) = &mut *place
            && let Poll::Ready(is_whole) = self.poll_moving(body, writer, context)
            && let Place::Moving(_, writer) = std::mem::replace(&mut *place, Place::Gone)
            && is_whole
        {
            writer.end();
        }
    }

    /// While the guest does not ask for more: whether the body has broken off, as far as that can be told.
    pub fn look_ahead(&self, look: impl FnOnce(&mut B) -> bool) -> bool {
        match &mut *self.place.borrow_mut() {
            Place::Here(body, Some(_)) | Place::Moving(body, _) if !self.waits.get() => look(body),
            _ => false,
        }
    }

    /// Whether it has come to its end.
    fn poll_moving(&self, body: &mut B, writer: &Writer, context: &mut Context<'_>) -> Poll<bool> {
        self.waits.set(false);
        while std::task::ready!(writer.poll_room(context)).is_ok() {
            let polled = Pin::new(&mut *body).poll_frame(context);
            self.waits.set(polled.is_pending());
            match std::task::ready!(polled) {
                Some(Ok(frame)) => {
                    writer.put(frame);
                    self.moved.set(self.moved.get() + 1);
                }
                Some(Err(fault)) => {
                    self.is_broken.set(true);
                    self.fault.replace(Some(fault));
                    return Poll::Ready(false);
                }
                None => return Poll::Ready(true),
            }
        }
        Poll::Ready(false)
    }

    /// Runs `with` on the body, as long as it is not at its end.
    pub fn with(&self, with: impl FnOnce(&mut B)) {
        match &mut *self.place.borrow_mut() {
            Place::Here(body, _) | Place::Moving(body, _) => with(body),
            Place::Gone => {}
        }
    }

    /// Has the host ask for what the guest has handed on, while `poll` runs.
    pub fn for_host<T>(&self, poll: impl FnOnce() -> T) -> T {
        let Some(watch) = &self.watch else { return poll() };
        watch.host_reads(true);
        let polled = poll();
        watch.host_reads(false);
        polled
    }

    /// All of it, if the guest has let go of it without taking any.
    pub fn take_unread(&self) -> Option<B> {
        self.is_unread().then(|| self.take_back()).flatten()
    }

    /// Whether the guest has let go of it.
    pub fn is_unread(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::is_unread)
    }

    /// Pieces that the guest was given.
    pub fn moved(&self) -> u64 {
        self.moved.get()
    }

    /// Whether the guest has asked for a piece that is not there.
    pub fn waits(&self) -> bool {
        self.waits.get()
    }

    /// All of it, if the guest has taken none; the guest gets nothing of it then.
    pub fn take_back(&self) -> Option<B> {
        let mut place = self.place.borrow_mut();
        match std::mem::replace(&mut *place, Place::Gone) {
            Place::Here(body, _) => Some(body),
            other => {
                *place = other;
                None
            }
        }
    }

    pub fn is_broken(&self) -> bool {
        self.is_broken.get()
    }

    /// How it broke off.
    pub fn take_fault(&self) -> Option<B::Error> {
        self.fault.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    use crate::body::RequestBody;

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn next(given: &mut Given) -> Poll<Option<Bytes>> {
        Pin::new(given).poll_frame(&mut context()).map(|frame| {
            let frame = frame?.expect("it does not break off");
            frame.into_data().ok()
        })
    }

    fn bytes() -> Bytes {
        Bytes::from_static(b"abc")
    }

    #[test]
    fn it_moves_when_it_is_asked_for() {
        let (mut given, lent) = Lent::lend(RequestBody::Full(bytes()), None);
        lent.poll(&mut context());
        assert!(next(&mut given).is_pending());
        lent.poll(&mut context());
        assert_eq!(next(&mut given), Poll::Ready(Some(bytes())));
        assert!(lent.take_back().is_none(), "the guest has had some");
        lent.poll(&mut context());
        assert_eq!(next(&mut given), Poll::Ready(None));
    }

    #[test]
    fn what_the_guest_has_begun_is_not_handed_on() {
        let (mut given, lent) = Lent::lend(RequestBody::Full(bytes()), None);
        assert!(lent.for_host(|| next(&mut given)).is_pending(), "the host may begin");
        lent.poll(&mut context());
        assert_eq!(next(&mut given), Poll::Ready(Some(bytes())));
        let handed_on = lent.for_host(|| Pin::new(&mut given).poll_frame(&mut context()));
        assert!(matches!(handed_on, Poll::Ready(Some(Err(_)))));
    }

    #[test]
    fn it_can_be_taken_back_until_then() {
        let (mut given, lent) = Lent::lend(RequestBody::Full(bytes()), None);
        lent.poll(&mut context());
        assert!(matches!(lent.take_back(), Some(RequestBody::Full(_))));
        assert!(matches!(
            Pin::new(&mut given).poll_frame(&mut context()),
            Poll::Ready(Some(Err(_)))
        ));
        let (mut given, lent) = Lent::lend(RequestBody::Full(bytes()), Some(bytes()));
        assert_eq!(next(&mut given), Poll::Ready(Some(bytes())));
        assert!(lent.take_back().is_some(), "it is in memory all the same");
    }
}
