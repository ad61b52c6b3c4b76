//! The handshakes that one worker has under way, by listener.
//!
//! Data plane; one thread only. A handshake costs memory and may last as long as its deadline, so their number is bounded.
//! For one more, the one that has taken longest makes room: who fills the queue to keep others out keeps out himself.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use tokio::sync::oneshot;

/// Lives as long as its worker.
#[derive(Default)]
pub struct Queue {
    /// By the id of the listener's sockets, then in the order of arrival.
    lanes: RefCell<HashMap<u64, BTreeMap<u64, oneshot::Sender<()>>>>,
    next: Cell<u64>,
}

/// One handshake's; given up when it is dropped.
pub struct Place {
    queue: Rc<Queue>,
    lane: u64,
    number: u64,
    /// Ready when the place is another's.
    pub crowded_out: oneshot::Receiver<()>,
}

impl Queue {
    /// At most `most` at once, at least one.
    pub fn enter(self: &Rc<Self>, lane: u64, most: usize) -> Place {
        let number = self.next.get();
        self.next.set(number + 1);
        let (crowd_out, crowded_out) = oneshot::channel();
        let mut lanes = self.lanes.borrow_mut();
        let places = lanes.entry(lane).or_default();
        while places.len() >= most.max(1)
            && let Some((_, oldest)) = places.pop_first()
        {
            // One that has come to its end just now needs no telling.
            let _ = oldest.send(());
        }
        places.insert(number, crowd_out);
        Place {
            queue: Rc::clone(self),
            lane,
            number,
            crowded_out,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lanes = self.queue.lanes.borrow_mut();
        let Some(places) = lanes.get_mut(&self.lane) else {
            return;
        };
        places.remove(&self.number);
        if places.is_empty() {
            lanes.remove(&self.lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_crowded_out(place: &mut Place) -> bool {
        place.crowded_out.try_recv().is_ok()
    }

    #[test]
    fn the_oldest_makes_room() {
        let queue = Rc::new(Queue::default());
        let mut places: Vec<Place> = (0..3).map(|_| queue.enter(1, 3)).collect();
        let mut other = queue.enter(2, 3);
        assert!(!places.iter_mut().any(is_crowded_out));
        drop(places.remove(1));
        let mut third = queue.enter(1, 3);
        assert!(!places.iter_mut().any(is_crowded_out));
        let mut fourth = queue.enter(1, 3);
        let crowded: Vec<bool> = places.iter_mut().map(is_crowded_out).collect();
        assert_eq!(crowded, [true, false]);
        assert!(!is_crowded_out(&mut third) && !is_crowded_out(&mut fourth) && !is_crowded_out(&mut other));
        drop((places, third, fourth, other));
        assert!(queue.lanes.borrow().is_empty());
    }
}
