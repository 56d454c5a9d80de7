//! Reads from the applied state.
//!
//! A point read that memory can answer is answered in place. Everything else becomes a task with a snapshot, so a long scan
//! sees one moment and holds the core only in slices. Whether a region may be read is decided here; what is read, and the room for
//! it, is in [`super::values`].

use std::cmp;
use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use engine::lsm::{Cf, Until};
use scheduler::{Region, RegionId};

use super::reply::Reply;
use super::values::Admits;
use super::{Asked, Inner, Queued, Shard};
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::region::guard;
use crate::region::reads::Access;
use crate::region::samples::Touched;
use crate::request::{KeyExpiry, Op, Out, Outcome, Route, Scan};

const CF: Cf = Cf::Default;

impl Shard {
    pub(super) fn read(&self, route: Option<Route>, op: Op, reply: Reply, asked: Asked) {
        match op {
            Op::Get { key } => self.get(route, key, reply, asked),
            Op::Expiry { key } => self.expiry(route, key, reply, asked),
            Op::BatchGet { keys, at_once } => self.batch_get(route, keys, at_once, reply, asked),
            Op::Lengths { keys, ahead } => self.lengths(route, keys, ahead, reply, asked),
            Op::Scan(scan) => self.scan(route, scan, reply, asked),
            op @ (Op::Put { .. }
            | Op::Delete { .. }
            | Op::BatchPut { .. }
            | Op::PutTimed { .. }
            | Op::PutAbsent { .. }
            | Op::Copy { .. }
            | Op::BatchDelete { .. }
            | Op::DeleteRange { .. }
            | Op::Modify { .. }
            | Op::Atomic(_)
            | Op::Watch { .. }) => unreachable!("{op:?} is not a read"),
        }
    }

    /// A read that has to wait for its index is due once its region says so.
    fn ask(&self, route: Option<Route>, op: Op, reply: Reply, key: &[u8]) {
        let inner = &*self.inner;
        let refused = {
            let mut state = inner.state.borrow_mut();
            let asked = match state.admit_read(route.as_ref(), key) {
                Ok(replica) => {
                    let id = replica.id();
                    replica.ask(Queued { route, op, reply }).map(|()| id)
                }
                Err(refusal) => Err((Queued { route, op, reply }, refusal)),
            };
            match asked {
                Ok(id) => {
                    state.table.mark_dirty(id);
                    inner.bell.ring();
                    None
                }
                Err(refused) => Some(refused),
            }
        };
        if let Some((queued, refusal)) = refused {
            inner.refuse(queued.reply, refusal);
        }
    }

    /// What a `Get` of `key` comes to, if that takes no read from disk and no waiting, and if whoever asks can keep it: it counts as
    /// a read only then.
    pub fn get_now(
        &self,
        route: Option<&Route>,
        key: &[u8],
        keep: impl FnOnce(Outcome) -> Option<Outcome>,
    ) -> Option<Outcome> {
        let inner = &*self.inner;
        match self.readable(route, key, Asked::Now, |region| guard::covers(region, key)) {
            Ok((region, Access::Now)) => inner.look_up(region, key, keep),
            Ok((_, Access::Ask)) => None,
            Err(refusal) => {
                inner.counters.refused.add(&refusal);
                Some(Err(refusal))
            }
        }
    }

    fn get(&self, route: Option<Route>, key: Bytes, reply: Reply, asked: Asked) {
        let inner = &*self.inner;
        let region = match self.readable(route.as_ref(), &key, asked, |region| guard::covers(region, &key)) {
            Ok((region, Access::Now)) => region,
            Ok((_, Access::Ask)) => return self.ask(route, Op::Get { key: key.clone() }, reply, &key),
            Err(refusal) => return inner.refuse(reply, refusal),
        };
        if let Some(outcome) = inner.look_up(region, &key, |outcome| inner.charge_outcome(outcome)) {
            return reply.send(outcome);
        }
        inner.counters.reads.add(1);
        // As of now: what its connection writes after it is no business of this read, however long it waits for room and for the disk.
        let (snapshot, shard) = (inner.tree.snapshot(), self.clone());
        self.spawn(reply, async move {
            let found = shard
                .inner
                .charge(async |admits: Admits<'_>| snapshot.timed_within(CF, &key, admits).await)
                .await?;
            let value = found.map(|timed| timed.value);
            let bytes = value.as_ref().map_or(0, |value| key.len() + value.len());
            shard.inner.counts.read(region, 1, bytes, |_| Touched::Key(&key));
            Ok(Out::Value(value))
        });
    }

    /// When a value goes costs no copy of it.
    fn expiry(&self, route: Option<Route>, key: Bytes, reply: Reply, asked: Asked) {
        let inner = &*self.inner;
        match self.readable(route.as_ref(), &key, asked, |region| guard::covers(region, &key)) {
            Ok((region, Access::Now)) => {
                inner.counters.reads.add(1);
                inner.counts.read(region, 1, 0, |_| Touched::Key(&key));
            }
            Ok((_, Access::Ask)) => return self.ask(route, Op::Expiry { key: key.clone() }, reply, &key),
            Err(refusal) => return inner.refuse(reply, refusal),
        }
        let said = |inner: &Inner, sized: Option<(usize, Until)>| {
            Ok(Out::Expiry(KeyExpiry::of(sized.map(|(_, until)| until), inner.wall())))
        };
        if let Some(sized) = inner.tree.sized_now(CF, &key) {
            return reply.send(said(inner, sized));
        }
        let (snapshot, shard) = (inner.tree.snapshot(), self.clone());
        self.spawn(reply, async move {
            let sized = shard.inner.sized(&snapshot, &key).await?;
            said(&shard.inner, sized)
        });
    }

    fn batch_get(&self, route: Option<Route>, keys: Vec<Bytes>, at_once: bool, reply: Reply, asked: Asked) {
        let Some(first) = keys.first().cloned() else { return reply.send(Ok(Out::Values(Vec::new()))) };
        let region = match self.readable_keys(route.as_ref(), &keys, asked) {
            Ok((region, Access::Now)) => region,
            Ok((_, Access::Ask)) => return self.ask(route, Op::BatchGet { keys, at_once }, reply, &first),
            Err(refusal) => return self.inner.refuse(reply, refusal),
        };
        let (snapshot, shard) = (self.inner.tree.snapshot(), self.clone());
        self.spawn(reply, async move {
            let inner = &*shard.inner;
            let values = match inner.values_at_once(&snapshot, &keys).await? {
                Some(values) => values,
                None if at_once => return Ok(Out::NoRoom),
                None => inner.values_in_turn(&snapshot, &keys).await?,
            };
            // What finds no room is asked for again, and counts then.
            inner.counters.reads.add(keys.len() as u64);
            let bytes = values.iter().flatten().map(Bytes::len).sum();
            inner.counts.read(region, keys.len(), bytes, |n| Touched::Key(&keys[n]));
            Ok(Out::Values(values))
        });
    }

    /// The same key asked for again is not looked up again, because its value may have to be read from disk.
    fn lengths(&self, route: Option<Route>, keys: Vec<Bytes>, ahead: bool, reply: Reply, asked: Asked) {
        let Some(first) = keys.first().cloned() else { return reply.send(Ok(Out::Lengths(Vec::new()))) };
        match self.readable_keys(route.as_ref(), &keys, asked) {
            Ok((_, Access::Now)) if ahead => {}
            Ok((region, Access::Now)) => {
                self.inner.counters.reads.add(keys.len() as u64);
                self.inner.counts.read(region, keys.len(), 0, |n| Touched::Key(&keys[n]));
            }
            Ok((_, Access::Ask)) => return self.ask(route, Op::Lengths { keys, ahead }, reply, &first),
            Err(refusal) => return self.inner.refuse(reply, refusal),
        }
        if let [key] = &keys[..]
            && let Some(length) = self.inner.tree.length_now(CF, key)
        {
            return reply.send(Ok(Out::Lengths(vec![length])));
        }
        let (snapshot, shard) = (self.inner.tree.snapshot(), self.clone());
        self.spawn(reply, async move {
            let budget = shard.inner.rt.budget();
            let mut lengths = Vec::with_capacity(keys.len());
            let mut known = BTreeMap::<Bytes, Option<usize>>::new();
            for key in keys {
                let length = match known.get(&key) {
                    Some(length) => *length,
                    None => shard.inner.length(&snapshot, &key).await?,
                };
                known.insert(key, length);
                lengths.push(length);
                budget.tick().await;
            }
            Ok(Out::Lengths(lengths))
        });
    }

    /// Checks a read of at least one key.
    fn readable_keys(
        &self,
        route: Option<&Route>,
        keys: &[Bytes],
        asked: Asked,
    ) -> Result<(RegionId, Access), Refusal> {
        let covers = |region: &Region| keys.iter().try_for_each(|key| guard::covers(region, key));
        self.readable(route, &keys[0], asked, covers)
    }

    fn scan(&self, route: Option<Route>, scan: Scan, reply: Reply, asked: Asked) {
        let inner = &*self.inner;
        if asked == Asked::Now {
            inner.counters.scans.add(1);
        }
        let anchor = match (&route, scan.reverse) {
            (None, true) => {
                let state = inner.state.borrow();
                state.table.start_before(&scan.end).map_or_else(Bytes::new, Bytes::copy_from_slice)
            }
            (None, false) | (Some(_), _) => scan.start.clone(),
        };
        let mut clamped = None;
        let admitted = self.readable(route.as_ref(), &anchor, asked, |region| {
            // A scan begins at one end and must do so inside the region that the client named, or it would miss what lies between;
            // it may reach out at the other end, where it is continued in the next region. Without a route the region was chosen
            // here, and may be entered anywhere.
            match (scan.reverse, &route) {
                (false, _) => guard::covers(region, &scan.start)?,
                (true, Some(_)) => guard::covers_before(region, &scan.end)?,
                (true, None) => {}
            }
            clamped = clamp(region, &scan.start, &scan.end);
            Ok(())
        });
        let region = match admitted {
            Ok((region, Access::Now)) => region,
            Ok((_, Access::Ask)) => return self.ask(route, Op::Scan(scan), reply, &anchor),
            Err(refusal) => return inner.refuse(reply, refusal),
        };
        let Some(range) = clamped else { return reply.send(Ok(Out::Pairs(Vec::new()))) };
        let (snapshot, shard) = (inner.tree.snapshot(), self.clone());
        self.spawn(reply, async move {
            let Some(pairs) = shard.inner.collect(&snapshot, range, &scan).await? else {
                return Ok(Out::NoRoom);
            };
            let bytes = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
            // Pairs of a scan backwards come backwards.
            let ends = pairs
                .first()
                .zip(pairs.last())
                .map(|((one, _), (other, _))| (one.min(other), one.max(other)));
            let touched =
                ends.map_or(Touched::Key(&scan.start), |(first, last)| Touched::Range(first, Some(last)));
            shard.inner.counts.read(region, 1, bytes, |_| touched);
            Ok(Out::Pairs(pairs))
        });
    }

    /// Checks that the region leads and covers what is asked; says which region it is, and whether it may be read now.
    fn readable(
        &self,
        route: Option<&Route>,
        key: &[u8],
        asked: Asked,
        covers: impl FnOnce(&Region) -> Result<(), Refusal>,
    ) -> Result<(RegionId, Access), Refusal> {
        let mut state = self.inner.state.borrow_mut();
        let replica = state.admit_read(route, key)?;
        covers(replica.region())?;
        let region = replica.id();
        match asked {
            Asked::Due => {
                self.inner.counters.replica_reads.add(u64::from(!replica.is_leader()));
                Ok((region, Access::Now))
            }
            Asked::Now if planted(Bug::ReplicaUnasked) && !replica.is_leader() => Ok((region, Access::Now)),
            Asked::Now if planted(Bug::ReadUnasked) => Ok((region, Access::Now)),
            Asked::Now => Ok((region, replica.access(|| raft::Time(self.inner.rt.boot_time().0))?)),
        }
    }

    fn spawn(&self, reply: Reply, work: impl Future<Output = Outcome> + 'static) {
        let (shard, running) = (self.clone(), self.inner.memory.begin_read());
        self.inner.rt.spawn(async move {
            let _running = running;
            match reply.unless_left(work).await {
                Some(outcome) => shard.inner.answer(reply, outcome),
                // A read has changed nothing, so whoever left is owed nothing, and neither memory nor the disk is busy for it.
                None => shard.inner.counters.reads_abandoned.add(1),
            }
        });
    }
}

/// The part of `[start, end)` inside the region, if there is one; an empty end means no bound.
fn clamp(region: &Region, start: &[u8], end: &[u8]) -> Option<Range<Bytes>> {
    let from = cmp::max(start, region.range.start().as_bytes());
    let region_end = region.range.end().as_bytes();
    let to = match (end.is_empty(), region_end.is_empty()) {
        (true, _) => region_end,
        (false, true) => end,
        (false, false) => cmp::min(end, region_end),
    };
    (to.is_empty() || from < to).then(|| Bytes::copy_from_slice(from)..Bytes::copy_from_slice(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use scheduler::{Epoch, KeyRange, RegionId};

    #[test]
    fn a_scan_is_clamped_to_its_region() {
        let region = Region {
            id: RegionId(1),
            range: KeyRange::new("c", "m").unwrap(),
            epoch: Epoch::FIRST,
            peers: Vec::new(),
        };
        let cases = [
            ("a", "z", Some(("c", "m"))),
            ("d", "e", Some(("d", "e"))),
            ("d", "", Some(("d", "m"))),
            ("", "c", None),
            ("m", "", None),
        ];
        for (start, end, expected) in cases {
            let clamped = clamp(&region, start.as_bytes(), end.as_bytes());
            let expected =
                expected.map(|(from, to): (&'static str, &'static str)| Bytes::from(from)..Bytes::from(to));
            assert_eq!(clamped, expected, "[{start}, {end})");
        }
    }
}
