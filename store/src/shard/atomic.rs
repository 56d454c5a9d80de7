//! Transactions: many reads and writes of one region as one step.
//!
//! All values are known before the first step runs: from the writes in flight, from memory or from disk. The steps run against
//! those values, and what they come to is gathered as one command, so it reaches the log as one entry and is applied whole or
//! not at all. A step that refuses (an addition to a text) fails alone, as it does in Redis; whatever else is in the way
//! refuses the transaction whole, and nothing takes effect.
//!
//! A small transaction whose values are in memory runs in place. Any other one takes all of its keys first, as if it were
//! reading them from disk: what comes for them meanwhile queues behind it, so it may read and pause as often as it has to.
//!
//! Bounds: [`STEPS_MAX`] steps, [`KEYS_MAX`] keys, [`VALUES_BYTES_MAX`](super::steps::VALUES_BYTES_MAX) of values looked at, answered and made, what one log entry holds,
//! and of values that are read the bound of an answer. Room for all of these is taken at once.

use bytes::Bytes;

use engine::lsm::{Cf, Lookup, TimedValue};

use super::reply::Reply;
use super::steps::{Values, no_step};
use super::{Due, Inner, Shard, State};
use crate::memory::{Charge, charged_bytes, charged_length};
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::region::guard;
use crate::region::inflight::Known;
use crate::region::submit::Edit;
use crate::request::{Atomic, Change, Op, Out, Outcome, Route, VALUE_BYTES_MAX};

const CF: Cf = Cf::Default;

/// Steps of one transaction.
const STEPS_MAX: usize = 16 << 10;
/// Keys of one transaction, watched ones included, counted as often as they are named.
const KEYS_MAX: usize = 16 << 10;
/// What runs in place, without a pause: keys and steps together, and bytes of values.
const IN_PLACE_MAX: usize = 128;
const IN_PLACE_BYTES_MAX: usize = 1 << 20;

impl Shard {
    /// Says which of the keys' writes have been seen, once those that are in flight are applied.
    pub(super) fn watch(&self, route: Option<Route>, keys: Vec<Bytes>, reply: Reply) {
        let inner = &*self.inner;
        let mut state = inner.state.borrow_mut();
        let term = match leading_all(&mut state, route.as_ref(), &keys) {
            Ok(term) => term,
            Err(refusal) => {
                drop(state);
                return inner.refuse(reply, refusal);
            }
        };
        let seen = keys.iter().map(|key| state.watched.watch(key, term)).collect();
        drop(state);
        inner.answer_behind_all(route.as_ref(), &keys, reply, Out::Seen(seen));
    }

    /// Starts a transaction none of whose keys is being read from disk.
    pub(super) fn atomic(&self, route: Option<Route>, atomic: Atomic, reply: Reply) {
        let inner = &*self.inner;
        let keys = atomic.keys();
        let filled: usize = atomic.steps.iter().map(filled_bytes).fold(0, usize::saturating_add);
        let small = keys.len() + atomic.steps.len() <= IN_PLACE_MAX && filled <= IN_PLACE_BYTES_MAX;
        let admitted = leading_all(&mut inner.state.borrow_mut(), route.as_ref(), &keys);
        let term = match admitted {
            Ok(term) => term,
            Err(refusal) => return inner.refuse(reply, refusal),
        };
        match small.then(|| inner.values_in_memory(&keys)).flatten() {
            Some(mut values) if values.bytes <= IN_PLACE_BYTES_MAX => {
                if !inner.watched_holds(&atomic, term) {
                    return inner.answer_behind_all(route.as_ref(), &keys, reply, Out::Atomic(None));
                }
                match atomic.steps.into_iter().map(|step| values.run(step)).collect() {
                    Ok(outcomes) => inner.finish(route.as_ref(), &keys, values, outcomes, reply),
                    Err(refusal) => inner.refuse(reply, refusal),
                }
            }
            Some(_) | None => self.atomic_behind_loads(route, atomic, keys, term, reply),
        }
    }

    /// Takes all keys, reads what has to be read, runs, and lets go of the keys.
    fn atomic_behind_loads(
        &self,
        route: Option<Route>,
        atomic: Atomic,
        mut keys: Vec<Bytes>,
        term: u64,
        reply: Reply,
    ) {
        keys.sort_unstable();
        keys.dedup();
        let mut state = self.inner.state.borrow_mut();
        let holds = self.inner.watched_holds_in(&state, &atomic, term);
        keys.iter().for_each(|key| state.loads.begin(key.clone()));
        drop(state);
        let shard = self.clone();
        self.inner.rt.clone().spawn(async move {
            let inner = &*shard.inner;
            let ran = match holds {
                false => Ok(None),
                true => inner.run_behind_loads(atomic, &keys).await.map(Some),
            };
            // Another leader may have written the keys in a term between.
            let still = leading_all(&mut inner.state.borrow_mut(), route.as_ref(), &keys);
            match (ran, still) {
                (Err(refusal), _) | (_, Err(refusal)) => inner.refuse(reply, refusal),
                (_, Ok(now)) if now != term => inner.refuse(reply, Refusal::StaleCommand),
                (Ok(None), Ok(_)) => inner.answer_behind_all(route.as_ref(), &keys, reply, Out::Atomic(None)),
                (Ok(Some((values, outcomes))), Ok(_)) => {
                    inner.finish(route.as_ref(), &keys, values, outcomes, reply)
                }
            }
            shard.loaded_all(&keys).await;
        });
    }
}

impl Inner {
    fn watched_holds(&self, atomic: &Atomic, term: u64) -> bool {
        self.watched_holds_in(&self.state.borrow(), atomic, term)
    }

    fn watched_holds_in(&self, state: &State, atomic: &Atomic, term: u64) -> bool {
        atomic.watched.iter().all(|(key, seen)| state.watched.holds(key, *seen, term))
    }

    /// The values of all keys, if no disk is needed for them.
    fn values_in_memory(&self, keys: &[Bytes]) -> Option<Values> {
        let mut state = self.state.borrow_mut();
        let mut values = Values::new(self.memory.answer_bytes_max(), self.wall());
        for key in keys {
            let now = match self.value_in_memory(&mut state, key) {
                Lookup::Found(value) => Some(value),
                Lookup::Absent => None,
                Lookup::NeedsIo => return None,
            };
            values.add(key, now);
        }
        Some(values)
    }

    fn value_in_memory(&self, state: &mut State, key: &[u8]) -> Lookup<TimedValue> {
        match state.known(key) {
            Known::Absent => Lookup::Absent,
            Known::Value(value) => Lookup::Found(value),
            Known::Nothing => self.charge_now(self.timed_now(key)),
        }
    }

    /// Room for the values of those `keys` that no write in flight knows. They are no answer, so there may be more of them than one may
    /// have, and always two: any value can be moved to the place of any other.
    async fn room_for_values(&self, keys: &[Bytes]) -> Result<Charge, Refusal> {
        let (budget, snapshot) = (self.rt.budget(), self.tree.snapshot());
        let bytes_max = self.memory.output.bytes_max().max(2 * charged_length(VALUE_BYTES_MAX));
        let mut looked_at = 0;
        for key in keys {
            let is_unknown = self.state.borrow_mut().known(key) == Known::Nothing;
            if is_unknown && let Some(length) = self.length(&snapshot, key).await? {
                looked_at += charged_length(length);
            }
            if looked_at > bytes_max {
                return Err(Refusal::Invalid(format!(
                    "the values of the keys come to more than the {bytes_max} bytes that there is room for: take fewer keys at a time"
                )));
            }
            budget.tick().await;
        }
        match looked_at {
            0 => Ok(Charge::default()),
            bytes => self.memory.output.wait(&self.rt, bytes).await,
        }
    }

    /// Reads and runs with pauses. Nothing changes the keys meanwhile.
    async fn run_behind_loads(
        &self,
        atomic: Atomic,
        keys: &[Bytes],
    ) -> Result<(Values, Vec<Outcome>), Refusal> {
        let budget = self.rt.budget();
        let mut room = self.room_for_values(keys).await?;
        let mut values = Values::new(self.memory.answer_bytes_max(), self.wall());
        for key in keys {
            let known = self.state.borrow_mut().known(key);
            let now = match known {
                Known::Value(value) => Some(value),
                Known::Absent => None,
                Known::Nothing => {
                    let found = self.tree.timed(CF, key).await.map_err(|fault| self.unreadable(&fault))?;
                    // A write that was in flight before may have been applied since; its value is charged as it is.
                    found.map(|TimedValue { value, until }| TimedValue {
                        value: self.charge_from(&mut room, value),
                        until,
                    })
                }
            };
            values.add(key, now);
            values.check_bytes()?;
            budget.tick().await;
        }
        drop(room);
        // That of the steps, not of the reads before them.
        values.moment = self.wall();
        let mut outcomes = Vec::with_capacity(atomic.steps.len());
        for step in atomic.steps {
            outcomes.push(values.run(step)?);
            budget.tick().await;
        }
        Ok((values, outcomes))
    }

    fn charge_from(&self, room: &mut Charge, value: Bytes) -> Bytes {
        let mut charge = room.split_off(charged_bytes(&value));
        if charge.bytes() < charged_bytes(&value) {
            charge.join(self.memory.output.charge(charged_bytes(&value) - charge.bytes()));
        }
        charge.wrap(value)
    }

    /// Gathers what the steps have come to; the answer is due when that is applied.
    fn finish(
        &self,
        route: Option<&Route>,
        keys: &[Bytes],
        values: Values,
        outcomes: Vec<Outcome>,
        reply: Reply,
    ) {
        self.counters.reads.add(keys.len() as u64);
        let out = Out::Atomic(Some(outcomes));
        let Values { mut by_key, written, appended, bytes: _, answer: _, moment: _ } = values;
        appended.iter().for_each(|(key, value)| self.memory.appended.note(key, value));
        let Some(first) = written.first().cloned() else {
            return self.answer_behind_all(route, keys, reply, out);
        };
        let left: Vec<(Bytes, Option<TimedValue>)> = written
            .into_iter()
            .map(|key| {
                let value = by_key.remove(&key).and_then(|value| value.now);
                (key, value)
            })
            .collect();
        let made =
            left.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, TimedValue::len)).sum();
        if let Err(refusal) = self.has_room_for(made) {
            return self.refuse(reply, refusal);
        }
        let due = Due { reply, out, since: self.rt.recent() };
        let gathered = self.gather(&mut self.state.borrow_mut(), route, &first, due, Edit::Many(left));
        if let Err((reply, refusal)) = gathered {
            self.refuse(reply, refusal);
        }
    }

    /// Answers at once if nothing is in flight for the keys, else together with what is.
    fn answer_behind_all(&self, route: Option<&Route>, keys: &[Bytes], reply: Reply, out: Out) {
        let busy = {
            let state = &mut *self.state.borrow_mut();
            let busy = keys.iter().find(|key| state.known(key) != Known::Nothing);
            let busy = busy.or_else(|| keys.first().filter(|key| !self.is_latest(state, route, key)));
            busy.cloned()
        };
        match busy {
            Some(key) => self.answer_behind(route, &key, reply, out),
            None => self.answer(reply, Ok(out)),
        }
    }
}

/// Bytes that a step may have to put before what it brings along.
fn filled_bytes(step: &Op) -> usize {
    match step {
        Op::Modify { change: Change::SetRange { offset, value: _ }, key: _ } => *offset,
        Op::Modify { change: Change::SetBit { offset, on: _ }, key: _ } => offset / 8,
        Op::Modify {
            change:
                Change::SetIf { .. }
                | Change::SetTimed { .. }
                | Change::Expire { .. }
                | Change::GetTimed { .. }
                | Change::Take
                | Change::Remove
                | Change::Append { .. }
                | Change::Add { .. }
                | Change::AddFloat { .. },
            ..
        } => 0,
        Op::Get { .. }
        | Op::Expiry { .. }
        | Op::PutTimed { .. }
        | Op::BatchGet { .. }
        | Op::Lengths { .. }
        | Op::Put { .. }
        | Op::BatchPut { .. }
        | Op::PutAbsent { .. }
        | Op::Copy { .. }
        | Op::Delete { .. }
        | Op::BatchDelete { .. }
        | Op::DeleteRange { .. }
        | Op::Scan(_)
        | Op::Atomic(_)
        | Op::Watch { .. } => 0,
    }
}

/// The leadership in which we lead the one region of all `keys`.
fn leading_all(state: &mut State, route: Option<&Route>, keys: &[Bytes]) -> Result<u64, Refusal> {
    let Some(first) = keys.first() else {
        return Err(Refusal::Invalid("a transaction without keys".to_owned()));
    };
    let replica = state.admit(route, first)?;
    keys.iter().try_for_each(|key| guard::covers(replica.region(), key))?;
    if !replica.is_current() && !planted(Bug::ComputedEarly) {
        return Err(Refusal::not_current());
    }
    Ok(replica.leadership())
}

/// Refuses what no transaction may hold, before anything is done for it.
pub(super) fn check(atomic: &Atomic) -> Result<(), Refusal> {
    let ranges =
        |step: &Op| matches!(step, Op::DeleteRange { .. } | Op::Scan(_) | Op::Atomic(_) | Op::Watch { .. });
    if atomic.steps.iter().any(ranges) {
        return Err(no_step());
    }
    if atomic.steps.len() > STEPS_MAX {
        return Err(Refusal::Invalid(format!("a transaction of more than {STEPS_MAX} steps")));
    }
    if atomic.keys().len() > KEYS_MAX {
        return Err(Refusal::Invalid(format!("a transaction of more than {KEYS_MAX} keys")));
    }
    Ok(())
}
