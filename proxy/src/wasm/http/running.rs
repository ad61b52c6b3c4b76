//! A guest's life, moved by a task of its own, or by whoever has just given it something to do.
//!
//! Data plane. An exchange that hands a guest a request would wake the guest's task, and be woken by it with the answer;
//! most guests answer at once, and the way through the scheduler and back costs more than they do. So the exchange moves
//! the guest itself. The guest knows the task's waker only, which is muted meanwhile. Invariants: a wake that nobody has
//! acted on reaches the task; nobody moves a guest that is being moved.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
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
    task: OnceLock<AbortHandle>,
}

impl Running {
    /// In a task of this worker.
    pub fn begin(life: Life) -> Rc<Self> {
        let bell = Arc::<Bell>::default();
        let running = Rc::new(Self {
            life: RefCell::new(Some(life)),
            is_moving: Cell::new(false),
            waker: Waker::from(Arc::clone(&bell)),
            bell,
            task: OnceLock::new(),
        });
        let task = tokio::task::spawn_local(Task(Rc::clone(&running)));
        running.task.get_or_init(|| task.abort_handle());
        running
    }

    /// Gives the guest something to do, and moves it if that has woken it.
    pub fn give<T>(&self, give: impl FnOnce() -> T) -> T {
        let muted = Muted::begin(&self.bell);
        // Whoever rings from here on is heard below, whatever thread it is on.
        let had_rung = self.bell.hush();
        let given = give();
        match self.bell.has_rung() {
            true => self.run(),
            // The task has been woken for that, or is by the end of the silence.
            false if had_rung => self.bell.note(),
            false => {}
        }
        drop(muted);
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

    /// Its task drops the life, when it has its turn.
    pub fn abort(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    fn poll(&self) -> Poll<()> {
        if self.is_moving.replace(true) {
            self.bell.note();
            return Poll::Pending;
        }
        let muted = Muted::begin(&self.bell);
        self.bell.hush();
        let life = self.life.take();
        let polled = life.map_or(Poll::Ready(()), |life| self.poll_life(life));
        self.is_moving.set(false);
        drop(muted);
        polled
    }

    /// A panic is the end of the guest, and not of whoever moves it; all who wait for it are told.
    fn poll_life(&self, mut life: Life) -> Poll<()> {
        let mut context = Context::from_waker(&self.waker);
        let polled = catch_unwind(AssertUnwindSafe(|| life.as_mut().poll(&mut context)));
        let polled = polled.unwrap_or(Poll::Ready(()));
        if polled.is_pending() {
            *self.life.borrow_mut() = Some(life);
        }
        polled
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

/// Wakes the task, or, muted, only notes that it is to be woken. Rung by other threads too, where a guest waits for a file.
#[derive(Default)]
struct Bell {
    task: AtomicWaker,
    is_muted: AtomicBool,
    has_rung: AtomicBool,
}

impl Bell {
    fn note(&self) {
        self.has_rung.store(true, Ordering::SeqCst);
    }

    /// Whether it had rung. Whoever rang sees what is done for it from here on.
    fn hush(&self) -> bool {
        self.has_rung.swap(false, Ordering::SeqCst)
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
        self.note();
        if !self.is_muted.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

/// As long as it lives, the bell is muted; within another one it has no effect.
struct Muted<'a>(Option<&'a Bell>);

impl<'a> Muted<'a> {
    fn begin(bell: &'a Bell) -> Self {
        let was_muted = bell.is_muted.swap(true, Ordering::SeqCst);
        Self((!was_muted).then_some(bell))
    }
}

impl Drop for Muted<'_> {
    /// Whoever rings after this wakes the task, and whoever has rung before it is heard here.
    fn drop(&mut self) {
        if let Some(bell) = self.0 {
            bell.is_muted.store(false, Ordering::SeqCst);
            if bell.has_rung() {
                bell.task.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::poll_fn;
    use std::sync::atomic::AtomicU32;
    use std::time::{Duration, Instant};

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
    async fn guest() -> (Rc<Guest>, Rc<Running>) {
        let guest = Rc::new(Guest::default());
        let running = Running::begin(guest.life());
        yield_now().await;
        (guest, running)
    }

    fn is_finished(running: &Running) -> bool {
        running.task.get().is_some_and(AbortHandle::is_finished)
    }

    #[tokio::test]
    async fn whoever_gives_moves() {
        let test = async {
            let (guest, running) = guest().await;
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
            let (guest, running) = guest().await;
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
            let running = Running::begin(Box::pin(poll_fn(move |context| {
                counted.set(counted.get() + 1);
                if counted.get() < 5 {
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            })));
            running.run();
            assert_eq!(woken.get(), 1, "others have their turn");
            running.give(|| ());
            assert_eq!(woken.get(), 1, "it was given nothing");
            for _ in 0..10 {
                yield_now().await;
            }
            assert_eq!(woken.get(), 5);
        };
        LocalSet::new().run_until(test).await;
    }

    /// Rung by a thread that waits until it is heard, while somebody gives things that wake nobody.
    /// On a busy machine a ring takes milliseconds: then there are fewer of them.
    #[tokio::test]
    async fn a_wake_of_another_thread_is_not_lost() {
        const RINGS: u32 = 50_000;
        const LONG_ENOUGH: Duration = Duration::from_secs(5);
        let test = async {
            let (rung, heard) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
            let waker = Arc::new(OnceLock::<Waker>::new());
            let life: Life = {
                let (rung, heard, waker) = (Arc::clone(&rung), Arc::clone(&heard), Arc::clone(&waker));
                Box::pin(poll_fn(move |context| {
                    waker.get_or_init(|| context.waker().clone());
                    heard.store(rung.load(Ordering::SeqCst), Ordering::SeqCst);
                    Poll::Pending
                }))
            };
            let running = Running::begin(life);
            running.run();
            let ringer = {
                let (heard, waker) = (Arc::clone(&heard), waker.get().expect("it was moved").clone());
                std::thread::spawn(move || {
                    let begun = Instant::now();
                    for ring in (1..=RINGS).take_while(|_| begun.elapsed() < LONG_ENOUGH) {
                        rung.store(ring, Ordering::SeqCst);
                        waker.wake_by_ref();
                        let deadline = Instant::now() + Duration::from_secs(30);
                        while heard.load(Ordering::SeqCst) < ring {
                            assert!(Instant::now() < deadline, "{ring} was not heard");
                            std::thread::yield_now();
                        }
                    }
                })
            };
            while !ringer.is_finished() {
                (0..10).for_each(|_| running.give(|| ()));
                yield_now().await;
            }
            ringer.join().expect("all were heard");
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn its_task_ends_with_it_and_it_with_its_task() {
        let test = async {
            let (first, running) = guest().await;
            first.may_end.set(true);
            running.run();
            assert_eq!(Rc::strong_count(&first), 1, "its life is dropped at once");
            yield_now().await;
            assert!(is_finished(&running));
            running.run();
            running.give(|| first.put());

            let (second, running) = guest().await;
            running.abort();
            yield_now().await;
            assert_eq!(Rc::strong_count(&second), 1);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_panic_ends_it_alone() {
        let test = async {
            let running = Running::begin(Box::pin(poll_fn(|_| panic!("on purpose"))));
            running.run();
            running.run();
            yield_now().await;
            assert!(is_finished(&running));
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn what_broke_off_while_it_gave_leaves_the_bell_as_it_was() {
        let test = async {
            let (guest, running) = guest().await;
            let giving = AssertUnwindSafe(|| running.give(|| panic!("on purpose")));
            assert!(catch_unwind(giving).is_err());
            guest.put();
            guest.wake();
            yield_now().await;
            assert_eq!(guest.taken.get(), 1);
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
            let running = Running::begin(Box::pin(poll_fn(move |_| {
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
