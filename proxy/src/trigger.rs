//! Who asks for a reload: the queue in front of the one who does it.
//!
//! Control plane. A request carries no content, only "read again", so any number of them are one. Whoever waits for
//! what comes of it may name the generation that it expects to be live; two who do are never answered by one reload, because
//! only one of them can be right. Bounded: what does not wait takes no room, and of those who wait there are so many.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as Turn, Notify, oneshot};

use crate::report::Report;

/// Who may wait at once: as many as the administration endpoint has connections.
const MAX_WAITING: usize = 64;

/// Asks for a reload; cheap to clone.
#[derive(Clone)]
pub struct Trigger {
    queue: Arc<Queue>,
    /// Held by whoever changes the running generation, or needs it to stay as it is.
    turn: Arc<Turn<()>>,
}

/// The other end. When it is dropped, nobody is kept waiting.
pub struct Requests {
    queue: Arc<Queue>,
}

/// What is asked for, all that one reload answers.
#[derive(Default)]
pub struct Batch {
    /// Why it is to be done whoever waits; `None` when only those want it who do.
    pub pulled: Option<&'static str>,
    pub reopens_log: bool,
    pub waiting: Vec<Waiting>,
}

/// One who wants to know what comes of it.
pub struct Waiting {
    pub cause: &'static str,
    /// The generation that must be live for it.
    pub expects: Option<u64>,
    pub tell: oneshot::Sender<Report>,
}

#[derive(Default)]
struct Queue {
    asked: Mutex<Asked>,
    wake: Notify,
}

#[derive(Default)]
struct Asked {
    pulled: Option<&'static str>,
    reopens_log: bool,
    waiting: VecDeque<Waiting>,
    has_ended: bool,
}

/// The two ends of a new queue.
pub fn queue() -> (Trigger, Requests) {
    let queue = Arc::new(Queue::default());
    let trigger = Trigger {
        queue: Arc::clone(&queue),
        turn: Arc::default(),
    };
    (trigger, Requests { queue })
}

impl Trigger {
    /// While this is held, no reload takes place; those that are asked for wait.
    pub fn turn(&self) -> Arc<Turn<()>> {
        Arc::clone(&self.turn)
    }

    /// Reads again, some time soon; `cause` is for the log.
    pub fn pull(&self, cause: &'static str) {
        self.queue.lock().pulled.get_or_insert(cause);
        self.queue.wake.notify_one();
    }

    /// Reads again and says what came of it; an error says why nobody will.
    pub async fn pull_and_wait(&self, cause: &'static str, expects: Option<u64>) -> Result<Report, &'static str> {
        const ENDING: &str = "the process is ending";
        let (tell, told) = oneshot::channel();
        {
            let mut asked = self.queue.lock();
            if asked.has_ended {
                return Err(ENDING);
            }
            if asked.waiting.len() >= MAX_WAITING {
                return Err("too many wait for a reload already; ask again when the one under way has ended");
            }
            asked.waiting.push_back(Waiting { cause, expects, tell });
        }
        self.queue.wake.notify_one();
        told.await.map_err(|_| ENDING)
    }

    pub fn reopen_log(&self) {
        self.queue.lock().reopens_log = true;
        self.queue.wake.notify_one();
    }
}

impl Requests {
    /// Waits until something is asked for.
    pub async fn next(&self) -> Batch {
        loop {
            let notified = self.queue.wake.notified();
            if let Some(batch) = self.queue.lock().take() {
                return batch;
            }
            notified.await;
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        let mut asked = self.queue.lock();
        asked.has_ended = true;
        asked.waiting.clear();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    /// Everything but those who expect a generation after the first who does.
    fn take(&mut self) -> Option<Batch> {
        let mut batch = Batch {
            pulled: self.pulled.take(),
            reopens_log: std::mem::take(&mut self.reopens_log),
            waiting: Vec::new(),
        };
        let mut is_conditional = false;
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.expects.is_some() && std::mem::replace(&mut is_conditional, true) {
                self.waiting.push_back(waiting);
            } else {
                batch.waiting.push(waiting);
            }
        }
        let is_asked = batch.pulled.is_some() || batch.reopens_log || !batch.waiting.is_empty();
        is_asked.then_some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Outcome;

    fn waiting(expects: Option<u64>) -> Waiting {
        Waiting {
            cause: "admin",
            expects,
            tell: oneshot::channel().0,
        }
    }

    #[test]
    fn many_are_one_but_for_those_who_expect_something() {
        let mut asked = Asked {
            pulled: Some("file"),
            waiting: [None, Some(1), None, Some(1), Some(2)].map(waiting).into(),
            ..Asked::default()
        };
        let mut batches = std::iter::from_fn(|| asked.take());
        let shape = |batch: Batch| -> (Option<&str>, Vec<Option<u64>>) {
            (
                batch.pulled,
                batch.waiting.iter().map(|waiting| waiting.expects).collect(),
            )
        };
        assert_eq!(
            batches.next().map(shape),
            Some((Some("file"), vec![None, Some(1), None]))
        );
        assert_eq!(batches.next().map(shape), Some((None, vec![Some(1)])));
        assert_eq!(batches.next().map(shape), Some((None, vec![Some(2)])));
        assert!(batches.next().is_none());
    }

    #[tokio::test]
    async fn whoever_waits_is_answered_whatever_happens() {
        let (trigger, requests) = queue();
        let asking = trigger.clone();
        let first = tokio::spawn(async move { asking.pull_and_wait("admin", None).await });
        let mut batch = requests.next().await;
        let report = Report::new(Outcome::Unchanged, 1, "admin");
        assert!(batch.waiting.remove(0).tell.send(report.clone()).is_ok());
        assert_eq!(first.await.unwrap(), Ok(report));
        let asking = trigger.clone();
        let second = tokio::spawn(async move { asking.pull_and_wait("admin", None).await });
        while requests.queue.lock().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        drop(requests);
        assert_eq!(second.await.unwrap(), Err("the process is ending"));
        assert_eq!(trigger.pull_and_wait("admin", None).await, Err("the process is ending"));
    }

    #[tokio::test]
    async fn those_who_wait_are_bounded() {
        let (trigger, requests) = queue();
        requests.queue.lock().waiting = (0..MAX_WAITING).map(|_| waiting(None)).collect();
        let refused = trigger.pull_and_wait("admin", None).await.unwrap_err();
        assert!(refused.contains("too many"), "{refused}");
        trigger.pull("file");
        assert_eq!(requests.next().await.waiting.len(), MAX_WAITING);
    }
}
