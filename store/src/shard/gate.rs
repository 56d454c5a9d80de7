//! Who waits for a key that is being read from disk, and where.
//!
//! An operation on one key waits in the queue of that key. One on many keys cannot: while it waited in one queue, later
//! writes of its other keys would overtake it. So it closes the gate of the store, and every write that comes later queues
//! behind it, in order, until none of its keys is loading. Behind a closed gate nothing begins to load, so the wait is that
//! for the reads already under way.
//!
//! Invariants: the first operation behind the gate is one on many keys that has to wait; whatever waits in the queue of a key
//! came before everything behind the gate; the end of every load looks at the gate again.

use bytes::Bytes;

use super::{Inner, Queued, Shard, State};
use crate::request::Op;

/// What an operation has to wait for.
enum Wait {
    Nothing,
    /// The value of its only key.
    Key(Bytes),
    /// Values of some of its keys.
    Keys,
}

impl Shard {
    /// Starts a write that has just come, or lets it wait its turn.
    pub(super) fn arrive(&self, queued: Queued) {
        let mut state = self.inner.state.borrow_mut();
        if state.gate.is_empty() {
            drop(state);
            return self.begin_or_wait(queued);
        }
        state.gate.push_back(queued);
    }

    /// The load of `key` has ended: starts what queued behind it, then what is behind the gate.
    pub(super) fn loaded(&self, key: &[u8]) {
        let queued = self.inner.state.borrow_mut().inflight.end_load(key);
        queued.into_iter().for_each(|queued| self.begin_or_wait(queued));
        while let Some(queued) = self.inner.next_through_the_gate() {
            self.begin_or_wait(queued);
        }
    }

    /// Starts a write that everything before it has passed, unless it has to wait itself.
    fn begin_or_wait(&self, queued: Queued) {
        let mut state = self.inner.state.borrow_mut();
        match wait(&state, &queued.op) {
            Wait::Nothing => {
                drop(state);
                self.begin(queued);
            }
            Wait::Key(key) => state.inflight.queue(&key, queued),
            Wait::Keys => state.gate.push_front(queued),
        }
    }
}

impl Inner {
    fn next_through_the_gate(&self) -> Option<Queued> {
        let mut state = self.state.borrow_mut();
        match wait(&state, &state.gate.front()?.op) {
            Wait::Keys => None,
            Wait::Nothing | Wait::Key(_) => state.gate.pop_front(),
        }
    }
}

fn wait(state: &State, op: &Op) -> Wait {
    let loading = |key: &Bytes| state.inflight.is_loading(key);
    let many = |waits| if waits { Wait::Keys } else { Wait::Nothing };
    match op {
        Op::Put { key, .. } | Op::Delete { key, .. } | Op::Modify { key, .. } if loading(key) => {
            Wait::Key(key.clone())
        }
        Op::BatchPut { pairs } => many(pairs.iter().any(|(key, _)| loading(key))),
        Op::BatchDelete { keys } => many(keys.iter().any(loading)),
        Op::DeleteRange { start, end } => many(state.inflight.is_loading_within(start, end)),
        _ => Wait::Nothing,
    }
}
