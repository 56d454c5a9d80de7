//! Writes on their way into the next turn.
//!
//! A blind write is admitted, remembered as in flight, and gathered. A read-modify-write first learns the value: from the
//! writes in flight, from memory, or from disk; in the last case the key is loading, and what arrives for it waits ([`gate`]).
//!
//! [`gate`]: super::gate

use std::cell::Cell;

use bytes::Bytes;

use engine::lsm::{Lookup, TimedValue, Until, WallMs};
use scheduler::RegionId;

use super::gate::op_bytes;
use super::long_double::TEXT_BYTES_MAX;
use super::modify::{Modified, check_change, edits, modify};
use super::reply::Reply;
use super::steps::step_alone;
use super::{Due, Inner, Queued, Shard, State};
use crate::memory::{SMALL_BYTES, charged_length};
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::region::command::Cf;
use crate::region::guard;
use crate::region::inflight::Known;
use crate::region::reads::Access;
use crate::region::submit::Edit;
use crate::request::{Change, Expiry, KEY_BYTES_MAX, Op, Out, Route, VALUE_BYTES_MAX};

const CF: Cf = Cf::Default;

/// A write of at most this many bytes is small.
const SMALL_WRITE_BYTES_MAX: usize = 4 << 10;

/// The share of the bound on bytes in flight that small writes may use beyond it: clients of large values fill the bound, and
/// those of small ones beside them are still served.
const SMALL_WRITES_SHARE: usize = 8;

const TOO_MANY_BYTES: Refusal =
    Refusal::Busy { reason: "too many bytes of writes are in flight", backoff_ms: 20 };

const SHORT: Refusal = Refusal::Busy {
    reason: "log or tree of the store wait for descriptors or memory of the kernel, see its health",
    backoff_ms: 500,
};

impl Shard {
    pub(super) fn write(&self, route: Option<Route>, op: Op, reply: Reply) {
        if let Err(refusal) = self.may_write(&op) {
            return self.inner.refuse(reply, refusal);
        }
        self.arrive(Queued { route, op, reply });
    }

    /// Starts a write that waits for nothing.
    pub(super) fn begin(&self, Queued { route, op, reply }: Queued) {
        match op {
            Op::Modify { key, change } => self.modify(route, key, change, reply),
            Op::Delete { key, count: true } => self.modify(route, key, Change::Remove, reply),
            Op::Atomic(atomic) => self.atomic(route, atomic, reply),
            Op::Watch { keys } => self.watch(route, keys, reply),
            Op::PutAbsent { .. } | Op::Copy { .. } => self.inner.refuse(reply, step_alone()),
            op => {
                let mut state = self.inner.state.borrow_mut();
                if let Err((reply, refusal)) = self.inner.blind(&mut state, route.as_ref(), op, reply) {
                    drop(state);
                    self.inner.refuse(reply, refusal);
                }
            }
        }
    }

    /// The checks that need no region.
    fn may_write(&self, op: &Op) -> Result<(), Refusal> {
        check_sizes(op)?;
        let inner = &*self.inner;
        // Before the bounds: a store that has stopped never gets below them again, and must not say "try again".
        inner.health.check_running()?;
        let deletes = match op {
            Op::Delete { .. } | Op::BatchDelete { .. } | Op::DeleteRange { .. } | Op::Watch { .. } => true,
            Op::Atomic(atomic) => atomic.only_deletes(),
            Op::Put { .. } | Op::BatchPut { .. } | Op::PutTimed { .. } | Op::Modify { .. } => false,
            Op::PutAbsent { .. } | Op::Copy { .. } => false,
            Op::Get { .. } | Op::Expiry { .. } | Op::BatchGet { .. } | Op::Lengths { .. } | Op::Scan(_) => {
                false
            }
        };
        let admits = deletes && !inner.is_out_of_room();
        if !inner.openings.is_counted() || (inner.health.refuses_writes() && !admits) {
            return Err(inner.no_space());
        }
        if inner.waits_long.get() {
            return Err(SHORT);
        }
        let state = inner.state.borrow();
        let (before, bytes) = (state.inflight_bytes + state.waiting_bytes, op_bytes(op));
        if before > inner.inflight_bytes_max(before, bytes) {
            return Err(TOO_MANY_BYTES);
        }
        inner.note_beyond(before, bytes);
        Ok(())
    }

    fn modify(&self, route: Option<Route>, key: Bytes, change: Change, reply: Reply) {
        let (known, leadership) = {
            let mut state = self.inner.state.borrow_mut();
            match current_leadership(&mut state, route.as_ref(), &key) {
                Ok(leadership) => (state.known(&key), leadership),
                Err(refusal) => {
                    drop(state);
                    return self.inner.refuse(reply, refusal);
                }
            }
        };
        let now = match known {
            Known::Absent => Lookup::Absent,
            Known::Value(value) => Lookup::Found(value),
            Known::Nothing => match self.inner.changeable_now(&key, &change) {
                Ok(now) => now,
                Err(refusal) => return self.inner.refuse(reply, refusal),
            },
        };
        match now {
            Lookup::Found(value) => self.inner.step(route.as_ref(), key, Some(value), change, reply),
            Lookup::Absent => self.inner.step(route.as_ref(), key, None, change, reply),
            Lookup::NeedsIo => self.load(route, key, change, reply, leadership),
        }
    }

    /// Reads the key from disk, then goes on; what else arrives for the key waits meanwhile, so nothing changes it.
    /// Under another `leadership` the value may be old.
    fn load(&self, route: Option<Route>, key: Bytes, change: Change, reply: Reply, leadership: u64) {
        self.inner.state.borrow_mut().loads.begin(key.clone());
        let shard = self.clone();
        self.inner.rt.clone().spawn(async move {
            let loaded = shard.inner.charged_value(&key).await;
            let now = current_leadership(&mut shard.inner.state.borrow_mut(), route.as_ref(), &key);
            match loaded {
                Ok(value) => match now {
                    Ok(now) if now == leadership => {
                        shard.inner.step(route.as_ref(), key.clone(), value, change, reply)
                    }
                    Ok(_) => shard.inner.refuse(reply, Refusal::StaleCommand),
                    Err(refusal) => shard.inner.refuse(reply, refusal),
                },
                Err(refusal) => shard.inner.refuse(reply, refusal),
            }
            shard.loaded(&key).await;
        });
    }
}

impl Inner {
    /// What memory knows of a key that is to be changed, charged. A large value is not copied for a change that has no room: a
    /// pipeline of changes to it would cost the core a copy each.
    fn changeable_now(&self, key: &[u8], change: &Change) -> Result<Lookup<TimedValue>, Refusal> {
        let refusal = Cell::new(None);
        let wanted = |bytes: usize| {
            if bytes <= SMALL_BYTES {
                return true;
            }
            let room = self.has_room_for(made_bytes(bytes, change));
            let fits = room.is_ok() && self.memory.output.has_room(charged_length(bytes));
            refusal.set(room.err());
            fits
        };
        let now = self.tree.timed_now_if(CF, key, wanted);
        match refusal.take() {
            Some(refusal) => Err(refusal),
            None => Ok(self.charge_now(now)),
        }
    }

    /// Computes one read-modify-write from the value before it, and gathers what it writes.
    ///
    /// A value that it makes counts against the bound before it is made: what waited for a load was small when it came.
    fn step(
        &self,
        route: Option<&Route>,
        key: Bytes,
        before: Option<TimedValue>,
        change: Change,
        reply: Reply,
    ) {
        let now = self.wall();
        let before = before.and_then(|timed| timed.live(now));
        if let Err(refusal) =
            self.has_room_for(made_bytes(before.as_ref().map_or(0, TimedValue::len), &change))
        {
            return self.refuse(reply, refusal);
        }
        let edits = edits(before.as_ref().map(|timed| &timed.value), &change);
        let Modified { write, out } = match modify(before, change, now) {
            Ok(modified) => modified,
            Err(refusal) => return self.refuse(reply, refusal),
        };
        let Some(value) = write else {
            // Nothing to write, but the answer rests on writes in flight and must not overtake them.
            return self.answer_behind(route, &key, reply, out);
        };
        let due = Due { reply, out, since: self.rt.recent() };
        let edit = match value {
            Some(value) => {
                if edits {
                    self.memory.appended.note(&key, &value.value);
                }
                Edit::Put(key.clone(), value)
            }
            None => Edit::Delete(key.clone()),
        };
        let gathered = self.gather(&mut self.state.borrow_mut(), route, &key, due, edit);
        if let Err((reply, refusal)) = gathered {
            self.refuse(reply, refusal);
        }
    }

    /// The wall clock now, by which it is decided what has expired and what will.
    pub(super) fn wall(&self) -> WallMs {
        self.rt.wall().into()
    }

    /// Whether a write of `bytes` may begin: it fits beside those in flight, or there are none. What waits for a key does not keep it out,
    /// because it may wait for this very write, but counts as what small writes have their reserve beyond.
    pub(super) fn has_room_for(&self, bytes: usize) -> Result<(), Refusal> {
        let (in_flight, waiting) = {
            let state = self.state.borrow();
            (state.inflight_bytes, state.waiting_bytes)
        };
        let before = in_flight + waiting;
        let bytes_max = self.inflight_bytes_max(before, bytes);
        if in_flight > 0 && in_flight + bytes > bytes_max {
            return Err(TOO_MANY_BYTES);
        }
        self.note_beyond(before, bytes);
        Ok(())
    }

    /// Bytes that may be in flight beside a write of `bytes`, where there are `before`.
    fn inflight_bytes_max(&self, before: usize, bytes: usize) -> usize {
        let bound = self.limits.inflight_bytes_max;
        if before <= bound {
            self.beyond_bytes.set(0);
        }
        match bytes <= SMALL_WRITE_BYTES_MAX {
            true => bound + self.beyond_bytes.get() + bound / SMALL_WRITES_SHARE,
            false => bound,
        }
    }

    /// The last large write that is taken goes beyond the bound, by up to its length; the reserve of small ones begins there.
    fn note_beyond(&self, before: usize, bytes: usize) {
        if bytes > SMALL_WRITE_BYTES_MAX {
            let beyond = (before + bytes).saturating_sub(self.limits.inflight_bytes_max);
            self.beyond_bytes.set(self.beyond_bytes.get().max(beyond));
        }
    }

    /// Whether what the applied state said just now is still the latest, as far as that can be known without the log: a leader that
    /// was deposed and has not heard of it must not answer.
    pub(super) fn is_latest(&self, state: &mut State, route: Option<&Route>, key: &[u8]) -> bool {
        let now = || raft::Time(self.rt.boot_time().0);
        planted(Bug::ComparedUnasked)
            || !self.outbox.is_in_use()
            || state.admit(route, key).is_ok_and(|replica| replica.access(now) == Ok(Access::Now))
    }

    /// Answers at once if nothing is in flight for the key, else together with what is. Where a leader cannot vouch for its state, the
    /// answer waits for an entry of its own.
    pub(super) fn answer_behind(&self, route: Option<&Route>, key: &Bytes, reply: Reply, out: Out) {
        let mut state = self.state.borrow_mut();
        if state.known(key) == Known::Nothing && self.is_latest(&mut state, route, key) {
            drop(state);
            return self.answer(reply, Ok(out));
        }
        let due = Due { reply, out, since: self.rt.recent() };
        if let Err((reply, refusal)) = self.gather(&mut state, route, key, due, Edit::Nothing) {
            drop(state);
            self.refuse(reply, refusal);
        }
    }

    /// Gathers a write that does not depend on what was there.
    fn blind(
        &self,
        state: &mut State,
        route: Option<&Route>,
        op: Op,
        reply: Reply,
    ) -> Result<(), (Reply, Refusal)> {
        let due = Due { reply, out: Out::Done, since: self.rt.recent() };
        let first = match &op {
            Op::Put { key, .. } | Op::Delete { key, .. } | Op::DeleteRange { start: key, .. } => Some(key),
            Op::BatchPut { pairs } => pairs.first().map(|(key, _)| key),
            Op::PutTimed { puts } => puts.first().map(|(key, ..)| key),
            Op::BatchDelete { keys } => keys.first(),
            op => unreachable!("{op:?} is a read or depends on what was there"),
        };
        let Some(first) = first else { return self.nothing_to_do(due) };
        let region = match state.admit(route, first) {
            Ok(replica) => replica.id(),
            Err(refusal) => return Err((due.reply, refusal)),
        };
        let edit = match op {
            Op::Put { key, value } => Edit::Put(key, value.into()),
            Op::Delete { key, count: _ } => Edit::Delete(key),
            Op::BatchPut { pairs } => {
                Edit::Many(pairs.into_iter().map(|(key, value)| (key, Some(value.into()))).collect())
            }
            Op::PutTimed { puts } => Edit::Many(self.made_until(puts)),
            Op::BatchDelete { keys } => Edit::Many(keys.into_iter().map(|key| (key, None)).collect()),
            Op::DeleteRange { start, end } => Edit::DeleteRange(start, end),
            op => unreachable!("{op:?} is a read or depends on what was there"),
        };
        self.gather_for(state, region, due, edit)
    }

    /// With their moments; what would be over at once is a delete.
    fn made_until(&self, puts: Vec<(Bytes, Bytes, Expiry)>) -> Vec<(Bytes, Option<TimedValue>)> {
        let now = self.wall();
        let timed = |(key, value, expiry): (Bytes, Bytes, Expiry)| {
            (key, TimedValue { value, until: expiry.until(Until::NEVER, now) }.live(now))
        };
        puts.into_iter().map(timed).collect()
    }

    fn nothing_to_do(&self, due: Due) -> Result<(), (Reply, Refusal)> {
        self.answer(due.reply, Ok(due.out));
        Ok(())
    }

    /// Adds writes to the next command of the region that `route` or `key` leads to.
    pub(super) fn gather(
        &self,
        state: &mut State,
        route: Option<&Route>,
        key: &[u8],
        due: Due,
        edit: Edit,
    ) -> Result<(), (Reply, Refusal)> {
        match state.admit(route, key).map(|replica| replica.id()) {
            Ok(region) => self.gather_for(state, region, due, edit),
            Err(refusal) => Err((due.reply, refusal)),
        }
    }

    /// Adds writes to the next command of a region that has been admitted just now.
    fn gather_for(
        &self,
        state: &mut State,
        region: RegionId,
        due: Due,
        edit: Edit,
    ) -> Result<(), (Reply, Refusal)> {
        // A write that is refused takes numbers of watched keys back without need, which does no harm.
        state.watched.edited(&edit);
        let replica = state.table.get_mut(region).expect("it was admitted just now");
        let writes = edit.count();
        self.counts.sample_edit(region, &edit);
        let bytes = replica.submit(edit, due).map_err(|(due, refusal)| (due.reply, refusal))?;
        state.inflight_bytes += bytes;
        state.table.mark_dirty(region);
        self.counts.write(region, writes, bytes);
        self.bell.ring();
        Ok(())
    }
}

/// The leadership in which the region that `route` or `key` leads to may be computed from its state.
fn current_leadership(state: &mut State, route: Option<&Route>, key: &[u8]) -> Result<u64, Refusal> {
    let replica = state.admit(route, key)?;
    guard::covers(replica.region(), key)?;
    if !replica.is_current() && !planted(Bug::ComputedEarly) {
        return Err(Refusal::not_current());
    }
    Ok(replica.leadership())
}

/// Bytes of the value that `change` makes of one of `before` bytes.
fn made_bytes(before: usize, change: &Change) -> usize {
    match change {
        Change::SetIf { value, when: _ } | Change::SetTimed { value, when: _, expiry: _ } => value.len(),
        Change::Expire { .. } | Change::GetTimed { .. } => before,
        Change::Append { suffix } => before + suffix.len(),
        Change::SetRange { offset: _, value } if value.is_empty() => 0,
        Change::SetRange { offset, value } => before.max(offset.saturating_add(value.len())),
        Change::SetBit { offset, on: _ } => before.max(offset / 8 + 1),
        // An integer has at most twenty digits.
        Change::Add { delta: _ } => 20,
        Change::AddFloat { delta: _ } => TEXT_BYTES_MAX,
        Change::Take | Change::Remove => 0,
    }
}

/// Refuses keys and values above the limits, naming the limit.
fn check_sizes(op: &Op) -> Result<(), Refusal> {
    match op {
        Op::Put { key, value } => check_key(key).and_then(|()| check_value(value)),
        Op::BatchPut { pairs } => {
            pairs.iter().try_for_each(|(key, value)| check_key(key).and_then(|()| check_value(value)))
        }
        Op::PutAbsent { pairs } => {
            pairs.iter().try_for_each(|(key, value)| check_key(key).and_then(|()| check_value(value)))
        }
        Op::PutTimed { puts } => {
            puts.iter().try_for_each(|(key, value, _)| check_key(key).and_then(|()| check_value(value)))
        }
        Op::Copy { from, to, remove: _, replace: _ } => check_key(from).and_then(|()| check_key(to)),
        Op::Delete { key, .. } => check_key(key),
        Op::BatchDelete { keys } => keys.iter().try_for_each(|key| check_key(key)),
        Op::DeleteRange { start, end } => check_key(start).and_then(|()| check_key(end)),
        Op::Modify { key, change } => check_key(key).and_then(|()| match change {
            Change::SetIf { value, .. } | Change::SetTimed { value, .. } => check_value(value),
            Change::Append { suffix } => check_value(suffix),
            Change::SetRange { .. } | Change::SetBit { .. } | Change::AddFloat { .. } => check_change(change),
            Change::Expire { .. } | Change::GetTimed { .. } => Ok(()),
            Change::Take | Change::Remove | Change::Add { .. } => Ok(()),
        }),
        Op::Atomic(atomic) => {
            super::atomic::check(atomic)?;
            atomic.watched.iter().try_for_each(|(key, _)| check_key(key))?;
            atomic.steps.iter().try_for_each(check_sizes)
        }
        Op::Watch { keys } => keys.iter().try_for_each(|key| check_key(key)),
        Op::Get { .. } | Op::Expiry { .. } | Op::BatchGet { .. } | Op::Lengths { .. } | Op::Scan(_) => Ok(()),
    }
}

fn check_key(key: &[u8]) -> Result<(), Refusal> {
    if key.len() <= KEY_BYTES_MAX {
        return Ok(());
    }
    Err(Refusal::Invalid(format!("key of {} bytes is longer than {KEY_BYTES_MAX}", key.len())))
}

fn check_value(value: &[u8]) -> Result<(), Refusal> {
    if value.len() <= VALUE_BYTES_MAX {
        return Ok(());
    }
    Err(Refusal::Invalid(format!("value of {} bytes is longer than {VALUE_BYTES_MAX}", value.len())))
}
