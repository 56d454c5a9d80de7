//! Who waits for a key that is being read from disk, and where.
//!
//! An operation on one key waits in the queue of that key. One on many keys cannot: while it waited in one queue, later
//! writes of its other keys would overtake it. So it closes the gate of the store, and every write that comes later queues
//! behind it, in order, until none of its keys is loading. Behind a closed gate nothing begins to load, so the wait is that
//! for the reads already in flight.
//!
//! Invariants: the first operation in the gate's queue is one on many keys that has to wait, or a task is about to begin it;
//! whatever waits in the queue of a key came before everything behind the gate; the end of every load looks at the gate again;
//! `waiting_bytes` are those of all that waits here, and count against what the store takes in.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Inner, Queued, Shard, State};
use crate::request::{Atomic, Change, Op};

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
        state.waiting_bytes += queued.bytes();
        state.gate.push_back(queued);
    }

    /// The load of `key` has ended: starts what queued behind it, then, as it has time, what is behind the gate.
    pub(super) async fn loaded(&self, key: &[u8]) {
        let queued = self.inner.end_load(key);
        queued.into_iter().for_each(|queued| self.begin_or_wait(queued));
        self.let_through_the_gate().await;
    }

    /// The loads of `keys` have ended. The gate is looked at once, because that may cost a step per key.
    pub(super) async fn loaded_all(&self, keys: &[Bytes]) {
        let budget = self.inner.rt.budget();
        for key in keys {
            let queued = self.inner.end_load(key);
            queued.into_iter().for_each(|queued| self.begin_or_wait(queued));
            budget.tick().await;
        }
        self.let_through_the_gate().await;
    }

    async fn let_through_the_gate(&self) {
        let budget = self.inner.rt.budget();
        while let Some(queued) = self.inner.next_through_the_gate() {
            self.begin_or_wait(queued);
            budget.tick().await;
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
            Wait::Key(key) => {
                state.waiting_bytes += queued.bytes();
                state.loads.queue(&key, queued);
            }
            Wait::Keys => {
                state.waiting_bytes += queued.bytes();
                state.gate.push_front(queued);
            }
        }
    }
}

impl Inner {
    fn end_load(&self, key: &[u8]) -> VecDeque<Queued> {
        let state = &mut *self.state.borrow_mut();
        let queued = state.loads.end(key);
        state.waiting_bytes -= queued.iter().map(Queued::bytes).sum::<usize>();
        queued
    }

    fn next_through_the_gate(&self) -> Option<Queued> {
        let state = &mut *self.state.borrow_mut();
        if let Wait::Keys = wait(state, &state.gate.front()?.op) {
            return None;
        }
        let next = state.gate.pop_front()?;
        state.waiting_bytes -= next.bytes();
        Some(next)
    }
}

impl Queued {
    /// Of the keys and values in it.
    fn bytes(&self) -> usize {
        op_bytes(&self.op)
    }
}

/// Bytes of keys and values that a write brings along.
pub(super) fn op_bytes(op: &Op) -> usize {
    match op {
        Op::Put { key, value } => key.len() + value.len(),
        Op::Delete { key, count: _ } => key.len(),
        Op::Modify { key, change } => key.len() + change_bytes(change),
        Op::BatchPut { pairs } | Op::PutAbsent { pairs } => {
            pairs.iter().map(|(key, value)| key.len() + value.len()).sum()
        }
        Op::PutTimed { puts } => puts.iter().map(|(key, value, _)| key.len() + value.len()).sum(),
        Op::Copy { from, to, remove: _, replace: _ } => from.len() + to.len(),
        Op::BatchDelete { keys } | Op::Watch { keys } => keys.iter().map(Bytes::len).sum(),
        Op::DeleteRange { start, end } => start.len() + end.len(),
        Op::Atomic(Atomic { watched, steps }) => {
            let watched: usize = watched.iter().map(|(key, _)| key.len()).sum();
            watched + steps.iter().map(op_bytes).sum::<usize>()
        }
        Op::Get { .. } | Op::Expiry { .. } | Op::BatchGet { .. } | Op::Lengths { .. } | Op::Scan(_) => 0,
    }
}

fn change_bytes(change: &Change) -> usize {
    match change {
        Change::SetIf { value, when: _ } | Change::SetTimed { value, when: _, expiry: _ } => value.len(),
        Change::Append { suffix: part } | Change::SetRange { offset: _, value: part } => part.len(),
        Change::AddFloat { delta } => delta.len(),
        Change::Take | Change::Remove | Change::Add { delta: _ } | Change::SetBit { .. } => 0,
        Change::Expire { .. } | Change::GetTimed { .. } => 0,
    }
}

fn wait(state: &State, op: &Op) -> Wait {
    let loading = |key: &Bytes| state.loads.contains(key);
    let many = |waits| if waits { Wait::Keys } else { Wait::Nothing };
    match op {
        Op::Put { key, .. } | Op::Delete { key, .. } | Op::Modify { key, .. } => match loading(key) {
            true => Wait::Key(key.clone()),
            false => Wait::Nothing,
        },
        Op::BatchPut { pairs } | Op::PutAbsent { pairs } => many(pairs.iter().any(|(key, _)| loading(key))),
        Op::PutTimed { puts } => match &puts[..] {
            [(key, ..)] if loading(key) => Wait::Key(key.clone()),
            puts => many(puts.iter().any(|(key, ..)| loading(key))),
        },
        Op::Copy { from, to, remove: _, replace: _ } => many(loading(from) || loading(to)),
        Op::BatchDelete { keys } | Op::Watch { keys } => many(keys.iter().any(loading)),
        Op::Atomic(atomic) => many(atomic.keys().iter().any(loading)),
        Op::DeleteRange { start, end } => many(state.loads.any_within(start, end)),
        // Reads do not come here.
        Op::Get { .. } | Op::Expiry { .. } | Op::BatchGet { .. } | Op::Lengths { .. } | Op::Scan(_) => {
            Wait::Nothing
        }
    }
}
