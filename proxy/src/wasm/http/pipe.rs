//! A body on its way from its exchange to a guest: whole, or one frame at a time.
//!
//! Data plane. The exchange asks its body for more only when the guest has taken what there was, so that back-pressure
//! reaches the client. The exchange's bodies belong to one thread and a store's need not, so what they share is this slot,
//! behind a lock that nobody ever waits for: both sides are on one thread in fact.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::Error;

#[derive(Default)]
struct Slot {
    frame: Option<Frame<Bytes>>,
    end: Option<End>,
    /// The guest has asked for a first one.
    is_wanted: bool,
    /// The guest wants no more.
    is_unread: bool,
    /// It has taken some of it itself.
    was_read: bool,
    /// Who asks now is the host, for a body that the guest has handed on.
    is_hosts: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Broken,
}

/// The exchange's end. Dropped before [`Writer::end`], the body is broken.
pub(super) struct Writer(Arc<Mutex<Slot>>);

/// For whoever has to know whom the body is read by.
#[derive(Clone)]
pub(super) struct Watch(Arc<Mutex<Slot>>);

impl Watch {
    /// From now on the host asks for what the guest has handed on, or no longer does.
    pub fn host_reads(&self, is_hosts: bool) {
        lock(&self.0).is_hosts = is_hosts;
    }

    pub fn is_unread(&self) -> bool {
        lock(&self.0).is_unread
    }
}

/// The guest's end.
pub(super) struct Reader {
    slot: Arc<Mutex<Slot>>,
    /// Bytes to come, where that is known.
    length: Option<u64>,
}

/// A body as a guest is given it.
pub(super) enum Given {
    /// All of it, if there is any.
    Whole(Option<Bytes>),
    Piped(Reader),
}

impl Given {
    pub fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

/// The guest wants no more of it.
pub(super) struct Unread;

pub(super) fn pipe(length: Option<u64>) -> (Writer, Reader) {
    let slot = Arc::<Mutex<Slot>>::default();
    let writer = Writer(Arc::clone(&slot));
    (writer, Reader { slot, length })
}

fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    pub fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.0))
    }

    /// Ready when the guest has asked for the first frame.
    pub fn poll_wanted(&self, context: &mut Context<'_>) -> Poll<Result<(), Unread>> {
        let mut slot = lock(&self.0);
        match (slot.is_wanted, slot.is_unread) {
            (_, true) => Poll::Ready(Err(Unread)),
            (true, _) => Poll::Ready(Ok(())),
            _ => {
                slot.writer = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Ready when the next frame may be put.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<Result<(), Unread>> {
        let mut slot = lock(&self.0);
        if slot.is_unread {
            return Poll::Ready(Err(Unread));
        }
        if slot.frame.is_none() {
            return Poll::Ready(Ok(()));
        }
        slot.writer = Some(context.waker().clone());
        Poll::Pending
    }

    pub fn put(&self, frame: Frame<Bytes>) {
        let mut slot = lock(&self.0);
        slot.frame = Some(frame);
        wake(slot.reader.take());
    }

    pub fn end(self) {
        self.close(End::Whole);
    }

    fn close(&self, end: End) {
        let mut slot = lock(&self.0);
        slot.end.get_or_insert(end);
        wake(slot.reader.take());
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close(End::Broken);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut slot = lock(&self.slot);
        slot.is_unread = true;
        slot.frame = None;
        wake(slot.writer.take());
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Body for Reader {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut slot = lock(&self.slot);
        if slot.is_hosts && slot.was_read {
            // The engine keeps what a guest has not taken of a piece, and hands on the rest without it.
            let why = "a body was handed on that the guest had begun to read";
            return Poll::Ready(Some(Err(Error::InternalError(Some(why.to_owned())))));
        }
        if let Some(frame) = slot.frame.take() {
            slot.was_read |= !slot.is_hosts;
            wake(slot.writer.take());
            return Poll::Ready(Some(Ok(frame)));
        }
        match slot.end {
            Some(End::Whole) => Poll::Ready(None),
            Some(End::Broken) => Poll::Ready(Some(Err(Error::ConnectionTerminated))),
            None => {
                slot.reader = Some(context.waker().clone());
                if !std::mem::replace(&mut slot.is_wanted, true) {
                    wake(slot.writer.take());
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let slot = lock(&self.slot);
        slot.frame.is_none() && slot.end == Some(End::Whole)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Body for Given {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Piped(reader) => Pin::new(reader).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Piped(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Piped(reader) => reader.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn data(bytes: &'static [u8]) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(bytes))
    }

    #[test]
    fn there_is_room_for_one_frame_and_the_end_comes_after_it() {
        let (writer, mut reader) = pipe(None);
        assert!(matches!(writer.poll_room(&mut context()), Poll::Ready(Ok(()))));
        writer.put(data(b"a"));
        assert!(writer.poll_room(&mut context()).is_pending());
        writer.end();
        let frame = Pin::new(&mut reader).poll_frame(&mut context());
        let Poll::Ready(Some(Ok(frame))) = frame else {
            panic!("no frame")
        };
        assert_eq!(frame.into_data().ok(), Some(Bytes::from_static(b"a")));
        assert!(matches!(
            Pin::new(&mut reader).poll_frame(&mut context()),
            Poll::Ready(None)
        ));
    }

    #[test]
    fn whoever_leaves_first_is_heard() {
        let (writer, mut reader) = pipe(Some(3));
        drop(writer);
        assert!(matches!(
            Pin::new(&mut reader).poll_frame(&mut context()),
            Poll::Ready(Some(Err(Error::ConnectionTerminated)))
        ));
        let (writer, reader) = pipe(None);
        drop(reader);
        assert!(matches!(writer.poll_room(&mut context()), Poll::Ready(Err(_))));
    }
}
