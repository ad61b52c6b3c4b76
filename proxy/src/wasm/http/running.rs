//! A guest's life, moved by a task of its own, or by whoever has just given it something to do.
//!
//! Data plane. An exchange that hands a guest a request would wake the guest's task, and be woken by it with the answer;
//! most guests answer at once, and the way through the scheduler and back costs more than they do. So the exchange moves
//! the guest itself. The guest knows the task's waker only, which is muted meanwhile. Invariants: a wake that nobody has
//! acted on reaches the task; nobody moves a guest that is being moved.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use tokio::task::AbortHandle;

type Life = Pin<Box<dyn Future<Output = ()>>>;

pub(super) struct Running {
    /// Not here while it is moved, and after its end.
    life: RefCell<Option<Life>>,
    is_moving: Cell<bool>,
    bell: Arc<Bell>,
    /// The bell, as the guest has it.
    waker: Waker,
}

impl Running {
    /// In a task of this worker. Aborted, the task drops the life.
    pub fn begin(life: Life) -> (Rc<Self>, AbortHandle) {
        let bell = Arc::<Bell>::default();
        let running = Rc::new(Self {
            life: RefCell::new(Some(life)),
            is_moving: Cell::new(false),
            waker: Waker::from(Arc::clone(&bell)),
            bell,
        });
        let task = tokio::task::spawn_local(Task(Rc::clone(&running)));
        (running, task.abort_handle())
    }

    /// Gives the guest something to do, and moves it if that has woken it.
    pub fn give<T>(&self, give: impl FnOnce() -> T) -> T {
        self.bell.mute();
        let given = give();
        match self.bell.has_rung() {
            true => self.run(),
            false => self.bell.unmute(),
        }
        given
    }

    /// Moves the guest as far as it comes at once.
    pub fn run(&self) {
        if self.poll().is_ready() {
            // So that it ends as well.
            self.bell.wake_by_ref();
        }
    }

    /// For its task.
    pub fn wake(&self) {
        self.bell.wake_by_ref();
    }

    fn poll(&self) -> Poll<()> {
        if self.is_moving.get() {
            return Poll::Pending;
        }
        let _moving = Moving::begin(self);
        let Some(mut life) = self.life.take() else {
            return Poll::Ready(());
        };
        // A panic takes the life with it.
        let polled = life.as_mut().poll(&mut Context::from_waker(&self.waker));
        if polled.is_pending() {
            *self.life.borrow_mut() = Some(life);
        }
        polled
    }
}

struct Moving<'a>(&'a Running);

impl<'a> Moving<'a> {
    fn begin(running: &'a Running) -> Self {
        running.is_moving.set(true);
        running.bell.mute();
        running.bell.hush();
        Self(running)
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.0.is_moving.set(false);
        self.0.bell.unmute();
    }
}

struct Task(Rc<Running>);

impl Future for Task {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.bell.task.register(context.waker());
        self.0.poll()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // Out of its place first: it tells others of its end.
        let life = self.0.life.take();
        drop(life);
    }
}

/// Wakes the task, or only notes that it is to be woken. Rung by other threads too, where a guest waits for a file.
#[derive(Default)]
struct Bell {
    task: AtomicWaker,
    is_muted: AtomicBool,
    has_rung: AtomicBool,
}

impl Bell {
    fn mute(&self) {
        self.is_muted.store(true, Ordering::SeqCst);
    }

    /// Whoever rings after this wakes the task, and whoever has rung before it is heard here.
    fn unmute(&self) {
        self.is_muted.store(false, Ordering::SeqCst);
        if self.has_rung() {
            self.task.wake();
        }
    }

    fn hush(&self) {
        self.has_rung.store(false, Ordering::SeqCst);
    }

    fn has_rung(&self) -> bool {
        self.has_rung.load(Ordering::SeqCst)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::SeqCst);
        if !self.is_muted.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::poll_fn;
    use tokio::task::{LocalSet, yield_now};

    /// A guest that takes what lies there each time that it is moved.
    #[derive(Default)]
    struct Guest {
        waker: RefCell<Option<Waker>>,
        lying: Cell<u32>,
        taken: Cell<u32>,
        may_end: Cell<bool>,
    }

    impl Guest {
        fn life(self: &Rc<Self>) -> Life {
            let guest = Rc::clone(self);
            Box::pin(poll_fn(move |context| {
                guest.taken.set(guest.taken.get() + guest.lying.take());
                guest.waker.replace(Some(context.waker().clone()));
                match guest.may_end.get() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            }))
        }

        fn put(&self) {
            self.lying.set(self.lying.get() + 1);
        }

        fn wake(&self) {
            self.waker.borrow().as_ref().expect("it was moved").wake_by_ref();
        }
    }

    /// A guest that its task has moved once.
    async fn guest() -> (Rc<Guest>, Rc<Running>, AbortHandle) {
        let guest = Rc::new(Guest::default());
        let (running, task) = Running::begin(guest.life());
        yield_now().await;
        (guest, running, task)
    }

    #[tokio::test]
    async fn whoever_gives_moves() {
        let test = async {
            let (guest, running, _) = guest().await;
            running.give(|| {
                guest.put();
                guest.wake();
            });
            assert_eq!(guest.taken.get(), 1);
            running.give(|| guest.put());
            yield_now().await;
            assert_eq!(guest.taken.get(), 1, "it did not wait for this");
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn any_other_wake_is_its_tasks() {
        let test = async {
            let (guest, running, _) = guest().await;
            guest.put();
            guest.wake();
            assert_eq!(guest.taken.get(), 0);
            yield_now().await;
            assert_eq!(guest.taken.get(), 1);
            guest.put();
            running.wake();
            yield_now().await;
            assert_eq!(guest.taken.get(), 2);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn what_it_does_for_itself_is_not_lost() {
        let test = async {
            let woken = Rc::new(Cell::new(0));
            let counted = Rc::clone(&woken);
            let (running, _task) = Running::begin(Box::pin(poll_fn(move |context| {
                counted.set(counted.get() + 1);
                if counted.get() < 5 {
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            })));
            running.run();
            assert_eq!(woken.get(), 1, "others have their turn");
            for _ in 0..10 {
                yield_now().await;
            }
            assert_eq!(woken.get(), 5);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn its_task_ends_with_it_and_it_with_its_task() {
        let test = async {
            let (first, running, task) = guest().await;
            first.may_end.set(true);
            running.run();
            assert_eq!(Rc::strong_count(&first), 1, "its life is dropped at once");
            yield_now().await;
            assert!(task.is_finished());
            running.run();
            running.give(|| first.put());

            let (second, _running, task) = guest().await;
            task.abort();
            yield_now().await;
            assert_eq!(Rc::strong_count(&second), 1);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_panic_ends_it_alone() {
        let test = async {
            let (running, task) = Running::begin(Box::pin(poll_fn(|_| panic!("on purpose"))));
            let moving = std::panic::AssertUnwindSafe(|| running.run());
            assert!(std::panic::catch_unwind(moving).is_err());
            running.run();
            yield_now().await;
            assert!(task.is_finished());
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn nobody_moves_it_while_it_is_moved() {
        let test = async {
            let slot = Rc::new(RefCell::new(None::<Rc<Running>>));
            let own = Rc::clone(&slot);
            let polls = Rc::new(Cell::new(0));
            let counted = Rc::clone(&polls);
            let (running, _task) = Running::begin(Box::pin(poll_fn(move |_| {
                counted.set(counted.get() + 1);
                if let Some(running) = &*own.borrow() {
                    running.run();
                }
                Poll::Pending
            })));
            slot.replace(Some(Rc::clone(&running)));
            running.run();
            assert_eq!(polls.get(), 1);
            slot.take();
        };
        LocalSet::new().run_until(test).await;
    }
}
