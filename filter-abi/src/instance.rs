//! An instance's filter, as it was configured and as its current exchange has left it. One an instance.
//!
//! An instance serves one exchange after the other. Each begins with a clone of the configured filter, so no field that
//! a hook has changed outlives its exchange, whatever became of that: also one that was cut off, of which the filter
//! heard no end. Hence an exchange's beginning counts and not its end.

use crate::hook::Hook;

/// The filter, and which of its hooks begins an exchange.
#[derive(Debug)]
pub(crate) struct Instance<F> {
    configured: F,
    /// None before the first exchange, and after an exchange's completion.
    exchange: Option<F>,
    first: Hook,
}

impl<F: Clone> Instance<F> {
    /// An instance before its first exchange. `exports` are the filter's hooks in the contract's order.
    ///
    /// `#[filter]` sees to it that the first one which belongs to an exchange is one that no exchange skips: the head
    /// of the request or of the response, or completion. A body is not always there.
    pub(crate) fn new(configured: F, exports: &[Hook]) -> Self {
        let of_exchange = |hook: &&Hook| !matches!(hook, Hook::Connection | Hook::Tick);
        Instance {
            configured,
            exchange: None,
            first: *exports.iter().find(of_exchange).unwrap_or(&Hook::RequestHead),
        }
    }

    /// Runs a hook on the filter of its exchange, connection or tick.
    pub(crate) fn run<T>(&mut self, hook: Hook, run: impl FnOnce(&mut F) -> T) -> T {
        if matches!(hook, Hook::Connection | Hook::Tick) {
            return run(&mut self.configured.clone());
        }
        if hook == self.first {
            self.exchange = None;
        }
        let result = run(self.exchange.get_or_insert_with(|| self.configured.clone()));
        if hook == Hook::Completion {
            self.exchange = None;
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::hook::Hook::*;

    /// Counts its clones, and the hooks that its exchange has run.
    struct Counter {
        clones: Rc<Cell<u32>>,
        hooks: u32,
    }

    impl Clone for Counter {
        fn clone(&self) -> Self {
            self.clones.set(self.clones.get() + 1);
            Counter {
                clones: Rc::clone(&self.clones),
                hooks: self.hooks,
            }
        }
    }

    /// Runs the hooks, and gives what each found of its exchange's earlier ones.
    fn found(exports: &[Hook], hooks: &[Hook]) -> (Vec<u32>, u32) {
        let clones = Rc::new(Cell::new(0));
        let counter = Counter {
            clones: Rc::clone(&clones),
            hooks: 0,
        };
        let mut instance = Instance::new(counter, exports);
        let hook = |counter: &mut Counter| {
            counter.hooks += 1;
            counter.hooks - 1
        };
        let found = hooks.iter().map(|name| instance.run(*name, hook)).collect();
        (found, clones.get())
    }

    #[test]
    fn each_exchange_begins_with_a_clone_of_its_own() {
        type Case<'a> = (&'a [Hook], &'a [Hook], &'a [u32], u32);
        let all = [
            RequestHead,
            HeldBody,
            RequestBody,
            ResponseHead,
            ResponseBody,
            Completion,
        ];
        let cases: [Case; 6] = [
            // Two whole exchanges.
            (
                &all,
                &[RequestHead, HeldBody, Completion, RequestHead, ResponseHead],
                &[0, 1, 2, 0, 1],
                2,
            ),
            // The first was cut off in its body, the second has none.
            (
                &all,
                &[RequestHead, RequestBody, RequestBody, RequestHead, ResponseHead],
                &[0, 1, 2, 0, 1],
                2,
            ),
            (&all[..1], &[RequestHead, RequestHead], &[0, 0], 2),
            (
                &all[3..5],
                &[ResponseHead, ResponseBody, ResponseHead, ResponseBody],
                &[0, 1, 0, 1],
                2,
            ),
            (&all[5..], &[Completion, Completion], &[0, 0], 2),
            // Should the first hook ever be missing, the completion still ends the exchange.
            (&all, &[ResponseHead, Completion, ResponseHead], &[0, 1, 0], 2),
        ];
        for (exports, hooks, expected, clones) in cases {
            assert_eq!(
                found(exports, hooks),
                (expected.to_vec(), clones),
                "{hooks:?} of {exports:?}"
            );
        }
    }

    #[test]
    fn connections_and_ticks_stand_alone() {
        let exports = [Connection, ResponseHead, ResponseBody, Tick];
        let hooks = [Connection, ResponseHead, Tick, Connection, ResponseBody, ResponseHead];
        assert_eq!(found(&exports, &hooks), (vec![0, 0, 0, 0, 1, 0], 5));
    }
}
