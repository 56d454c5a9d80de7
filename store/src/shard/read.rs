//! Reads from the applied state.
//!
//! A point read that memory can answer is answered in place. Everything else becomes a task with a snapshot, so a long scan
//! sees one moment and holds the core only in slices.

use std::cmp;
use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;

use engine::lsm::{Cf, Direction, Lookup, Snapshot};
use scheduler::{Region, RegionId};

use super::reply::Reply;
use super::{Inner, Shard, State};
use crate::memory::{Charge, charged_bytes};
use crate::refusal::Refusal;
use crate::region::guard;
use crate::request::{Out, Outcome, Route, Scan};

const CF: Cf = Cf::Default;

/// What a pair of a scan costs beside its bytes.
const PAIR_BYTES: usize = 128;
/// A scan is charged in steps of this size, bytes.
const SCAN_STEP_BYTES: usize = 16 << 10;
/// Bytes of pairs above which a scan is refused. It cannot end early instead: clients take a short answer for the end of the
/// region and would skip what was left out.
const SCAN_BYTES_MAX: usize = 64 << 20;

impl Shard {
    /// What a `Get` of `key` comes to, if that takes no read from disk.
    pub fn get_now(&self, route: Option<&Route>, key: &[u8]) -> Option<Outcome> {
        let inner = &*self.inner;
        let region = match self.readable(route, key, |region| guard::covers(region, key)) {
            Ok(region) => region,
            Err(refusal) => {
                inner.counters.refused.add(&refusal);
                return Some(Err(refusal));
            }
        };
        let value = match inner.tree.get_now(CF, key) {
            Lookup::Found(value) => Some(value),
            Lookup::Absent => None,
            Lookup::NeedsIo => return None,
        };
        inner.counters.reads.add(1);
        inner.counts.read(region, 1, value.as_ref().map_or(0, |value| key.len() + value.len()));
        Some(Ok(Out::Value(value)))
    }

    pub(super) fn get(&self, route: Option<&Route>, key: Bytes, reply: Reply) {
        if let Some(outcome) = self.get_now(route, &key)
            && let Some(outcome) = self.inner.charge_outcome(outcome)
        {
            return reply.send(outcome);
        }
        self.inner.counters.reads.add(1);
        // It was admitted a moment ago, and is asked for its region again, because few reads come here.
        let region = self.inner.state.borrow_mut().admit(route, &key).map(|peer| peer.record.region.id);
        let shard = self.clone();
        self.spawn(reply, async move {
            let value = shard.inner.charged_value(&key).await?;
            if let Ok(region) = region {
                let bytes = value.as_ref().map_or(0, |value| key.len() + value.len());
                shard.inner.counts.read(region, 1, bytes);
            }
            Ok(Out::Value(value))
        });
    }

    pub(super) fn batch_get(&self, route: Option<&Route>, keys: Vec<Bytes>, reply: Reply) {
        if keys.is_empty() {
            return reply.send(Ok(Out::Values(Vec::new())));
        }
        let region = match self.readable_keys(route, &keys) {
            Ok(region) => region,
            Err(refusal) => return self.inner.refuse(reply, refusal),
        };
        let (snapshot, shard) = (self.inner.tree.snapshot(), self.clone());
        self.spawn(reply, async move {
            let inner = &*shard.inner;
            let (budget, bytes_max) = (inner.rt.budget(), inner.memory.answer_bytes_max());
            let (mut values, mut bytes) = (Vec::with_capacity(keys.len()), 0);
            let count = keys.len();
            for key in keys {
                let value = inner.charge(async || snapshot.get(CF, &key).await).await?;
                bytes += value.as_ref().map_or(0, Bytes::len);
                if bytes > bytes_max {
                    return Err(Refusal::AnswerTooLarge { bytes_max });
                }
                values.push(value);
                budget.tick().await;
            }
            inner.counts.read(region, count, bytes);
            Ok(Out::Values(values))
        });
    }

    /// The same key asked for again is not looked up again, because its value may have to be read from disk.
    pub(super) fn lengths(&self, route: Option<&Route>, keys: Vec<Bytes>, reply: Reply) {
        if keys.is_empty() {
            return reply.send(Ok(Out::Lengths(Vec::new())));
        }
        match self.readable_keys(route, &keys) {
            Ok(region) => self.inner.counts.read(region, keys.len(), 0),
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
            let mut known = HashMap::<Bytes, Option<usize>, foldhash::fast::RandomState>::default();
            for key in keys {
                let length = match known.get(&key) {
                    Some(length) => *length,
                    None => {
                        snapshot.length(CF, &key).await.map_err(|fault| shard.inner.unreadable(&fault))?
                    }
                };
                known.insert(key, length);
                lengths.push(length);
                budget.tick().await;
            }
            Ok(Out::Lengths(lengths))
        });
    }

    /// Checks and counts a read of at least one key.
    fn readable_keys(&self, route: Option<&Route>, keys: &[Bytes]) -> Result<RegionId, Refusal> {
        self.inner.counters.reads.add(keys.len() as u64);
        self.readable(route, &keys[0], |region| keys.iter().try_for_each(|key| guard::covers(region, key)))
    }

    pub(super) fn scan(&self, route: Option<&Route>, scan: Scan, reply: Reply) {
        let inner = &*self.inner;
        inner.counters.scans.add(1);
        let anchor = match (route, scan.reverse) {
            (None, true) => inner.state.borrow().start_before(&scan.end),
            (Some(_), _) | (None, false) => scan.start.clone(),
        };
        let mut clamped = None;
        let admitted = self.readable(route, &anchor, |region| {
            // A scan begins at one end and must do so inside the region that the client named, or it would miss what lies between;
            // it may reach out at the other end, where it is continued in the next region. Without a route the region was chosen
            // here, and may be entered anywhere.
            match (scan.reverse, route) {
                (false, _) => guard::covers(region, &scan.start)?,
                (true, Some(_)) => guard::covers_before(region, &scan.end)?,
                (true, None) => {}
            }
            clamped = clamp(region, &scan.start, &scan.end);
            Ok(())
        });
        let region = match admitted {
            Ok(region) => region,
            Err(refusal) => return inner.refuse(reply, refusal),
        };
        let Some(range) = clamped else { return reply.send(Ok(Out::Pairs(Vec::new()))) };
        let (snapshot, shard) = (inner.tree.snapshot(), self.clone());
        self.spawn(reply, async move {
            let pairs = shard.inner.collect(&snapshot, range, &scan).await?;
            let bytes = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
            shard.inner.counts.read(region, 1, bytes);
            Ok(Out::Pairs(pairs))
        });
    }

    /// Checks that the region leads, covers what is asked, and may be read now; returns which it is.
    fn readable(
        &self,
        route: Option<&Route>,
        key: &[u8],
        covers: impl FnOnce(&Region) -> Result<(), Refusal>,
    ) -> Result<RegionId, Refusal> {
        let mut state = self.inner.state.borrow_mut();
        let peer = state.admit(route, key)?;
        covers(&peer.record.region)?;
        let region = peer.record.region.id;
        if peer.may_read(|| raft::Time(self.inner.rt.now().0)) {
            return Ok(region);
        }
        Err(Refusal::not_current())
    }

    fn spawn(&self, reply: Reply, work: impl Future<Output = Outcome> + 'static) {
        let shard = self.clone();
        self.inner.rt.spawn(async move {
            match reply.unless_left(work).await {
                Some(outcome) => shard.inner.answer(reply, outcome),
                // A read has changed nothing, so whoever left is owed nothing, and neither memory nor the disk is busy for it.
                None => shard.inner.counters.reads_abandoned.add(1),
            }
        });
    }
}

impl State {
    /// The first key of the region that contains the greatest key below `end`; an empty `end` means the last region.
    fn start_before(&self, end: &[u8]) -> Bytes {
        use std::ops::Bound::{Excluded, Unbounded};
        let upper = if end.is_empty() { Unbounded } else { Excluded(end) };
        let found: Option<(&Vec<u8>, &RegionId)> =
            self.by_start.range::<[u8], _>((Unbounded, upper)).next_back();
        found.map_or_else(Bytes::new, |(start, _)| Bytes::copy_from_slice(start))
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

impl Inner {
    /// The value of `key`, charged to the core's answers.
    pub(super) async fn charged_value(&self, key: &[u8]) -> Result<Option<Bytes>, Refusal> {
        self.charge(async || self.tree.get(CF, key).await).await
    }

    /// What `read` finds, charged. A value for which there is no room is let go, so that those who wait hold nothing, and read
    /// again once there is.
    async fn charge(
        &self,
        read: impl AsyncFn() -> engine::error::Result<Option<Bytes>>,
    ) -> Result<Option<Bytes>, Refusal> {
        let output = &self.memory.output;
        let Some(value) = read().await.map_err(|fault| self.unreadable(&fault))? else { return Ok(None) };
        let mut bytes = charged_bytes(&value);
        if let Some(charge) = output.try_charge(bytes) {
            return Ok(Some(charge.wrap(value)));
        }
        drop(value);
        loop {
            let charge = output.wait(&self.rt, bytes).await?;
            let Some(value) = read().await.map_err(|fault| self.unreadable(&fault))? else { return Ok(None) };
            if charged_bytes(&value) <= bytes {
                return Ok(Some(charge.wrap(value)));
            }
            // It has been overwritten by a larger one meanwhile.
            bytes = charged_bytes(&value);
        }
    }

    /// Charges a value that memory had at once. Where there is no room it has to be read by those who can wait.
    pub(super) fn charge_now(&self, found: Lookup) -> Lookup {
        let Lookup::Found(value) = found else { return found };
        match self.memory.output.try_charge(charged_bytes(&value)) {
            Some(charge) => Lookup::Found(charge.wrap(value)),
            None => Lookup::NeedsIo,
        }
    }

    fn charge_outcome(&self, outcome: Outcome) -> Option<Outcome> {
        match outcome {
            Ok(Out::Value(Some(value))) => match self.charge_now(Lookup::Found(value)) {
                Lookup::Found(value) => Some(Ok(Out::Value(Some(value)))),
                Lookup::Absent | Lookup::NeedsIo => None,
            },
            other => Some(other),
        }
    }

    async fn collect(
        &self,
        snapshot: &Snapshot,
        range: Range<Bytes>,
        scan: &Scan,
    ) -> Result<Vec<(Bytes, Bytes)>, Refusal> {
        let direction = if scan.reverse { Direction::Reverse } else { Direction::Forward };
        let (budget, bytes_max) = (self.rt.budget(), SCAN_BYTES_MAX.min(self.memory.answer_bytes_max()));
        let mut iter = snapshot.iter(CF, &range.start, &range.end, direction);
        let mut pairs: Vec<(Bytes, Bytes)> = Vec::with_capacity(scan.limit.min(1024));
        let (mut bytes, mut charged) = (0, Charge::default());
        while pairs.len() < scan.limit {
            let Some((key, value)) = iter.next().await.map_err(|fault| self.unreadable(&fault))? else {
                break;
            };
            let value = if scan.key_only { Bytes::new() } else { value };
            bytes += key.len() + value.len();
            if bytes > bytes_max {
                return Err(Refusal::AnswerTooLarge { bytes_max });
            }
            pairs.push((key, value));
            // Charged in steps, because most pairs are small.
            let held = bytes + pairs.len() * PAIR_BYTES;
            if held > charged.bytes() {
                let step = (held - charged.bytes()).max(SCAN_STEP_BYTES);
                charged.join(self.memory.output.wait(&self.rt, step).await?);
            }
            budget.tick().await;
        }
        charged.set(bytes + pairs.len() * PAIR_BYTES);
        // The last pair carries the charge of all, because whoever takes them apart begins with the first.
        if let Some((key, _)) = pairs.last_mut() {
            *key = charged.wrap(std::mem::take(key));
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scheduler::{Epoch, KeyRange};

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
