//! Values and pairs as reads find them, charged to the core's answers before they are kept.
//!
//! Invariant: whoever waits for room holds nothing meanwhile, neither a value nor room for another.

use std::ops::Range;

use bytes::Bytes;

use engine::lsm::{Cf, Direction, Lookup, Snapshot};
use scheduler::RegionId;

use super::Inner;
use crate::memory::{AnswerBytes, Charge, SMALL_BYTES, charged_bytes, charged_length, charged_pair_bytes};
use crate::refusal::Refusal;
use crate::request::{Out, Outcome, Scan};

const CF: Cf = Cf::Default;

/// A scan is charged in steps of this size, bytes.
const SCAN_STEP_BYTES: usize = 16 << 10;
/// Bytes of pairs above which a scan is refused. It cannot end early instead: clients take a short answer for the end of the
/// region and would skip what was left out.
const SCAN_BYTES_MAX: usize = 64 << 20;

impl Inner {
    /// What memory knows of `key`, a key of `region`, counted if `keep` has room for it.
    pub(super) fn look_up(
        &self,
        region: RegionId,
        key: &[u8],
        keep: impl FnOnce(Outcome) -> Option<Outcome>,
    ) -> Option<Outcome> {
        let value = match self.value_now(key) {
            Lookup::Found(value) => Some(value),
            Lookup::Absent => None,
            Lookup::NeedsIo => return None,
        };
        let bytes = value.as_ref().map_or(0, |value| key.len() + value.len());
        let kept = keep(Ok(Out::Value(value)))?;
        self.counters.reads.add(1);
        self.counts.read(region, 1, bytes);
        Some(kept)
    }

    /// What memory knows of `key`. A large value for which there is no room is not copied: it is for those who can wait.
    pub(super) fn value_now(&self, key: &[u8]) -> Lookup {
        let output = &self.memory.output;
        self.tree.get_now_if(CF, key, |bytes| bytes <= SMALL_BYTES || output.has_room(charged_length(bytes)))
    }

    /// The value of `key`, charged to the core's answers.
    pub(super) async fn charged_value(&self, key: &[u8]) -> Result<Option<Bytes>, Refusal> {
        self.charge(async || self.tree.get(CF, key).await).await
    }

    /// What `read` finds, charged. A value for which there is no room is let go, so that those who wait hold nothing, and read
    /// again once there is.
    pub(super) async fn charge(
        &self,
        read: impl AsyncFn() -> engine::error::Result<Option<Bytes>>,
    ) -> Result<Option<Bytes>, Refusal> {
        let output = &self.memory.output;
        let room = self.memory.room_to_read(&self.rt).await?;
        let value = read().await.map_err(|fault| self.unreadable(&fault))?;
        self.memory.has_read(value.as_ref().map_or(0, Bytes::len));
        let Some(value) = value else { return Ok(None) };
        let mut bytes = charged_bytes(&value);
        if let Some(charge) = output.try_charge(bytes) {
            return Ok(Some(charge.wrap(value)));
        }
        drop((value, room));
        loop {
            let charge = output.wait(&self.rt, bytes).await?;
            let _room = self.memory.room_to_read(&self.rt).await?;
            let Some(value) = read().await.map_err(|fault| self.unreadable(&fault))? else { return Ok(None) };
            if charged_bytes(&value) <= bytes {
                return Ok(Some(charge.wrap(value)));
            }
            // It has been overwritten by a larger one meanwhile.
            bytes = charged_bytes(&value);
        }
    }

    /// The length of the value of `key`, which may have to be read for it.
    pub(super) async fn length(&self, snapshot: &Snapshot, key: &[u8]) -> Result<Option<usize>, Refusal> {
        let _room = self.memory.room_to_read(&self.rt).await?;
        let length = snapshot.length(CF, key).await.map_err(|fault| self.unreadable(&fault))?;
        self.memory.has_read(length.unwrap_or(0));
        Ok(length)
    }

    /// Charges a value that memory had at once. Where there is no room it has to be read by those who can wait.
    pub(super) fn charge_now(&self, found: Lookup) -> Lookup {
        let Lookup::Found(value) = found else { return found };
        match self.memory.output.try_charge(charged_bytes(&value)) {
            Some(charge) => Lookup::Found(charge.wrap(value)),
            None => Lookup::NeedsIo,
        }
    }

    pub(super) fn charge_outcome(&self, outcome: Outcome) -> Option<Outcome> {
        match outcome {
            Ok(Out::Value(Some(value))) => match self.charge_now(Lookup::Found(value)) {
                Lookup::Found(value) => Some(Ok(Out::Value(Some(value)))),
                Lookup::Absent | Lookup::NeedsIo => None,
            },
            other => Some(other),
        }
    }

    /// The values of `keys`, charged one by one; nothing if there is not room for all of them now. No large value is copied before
    /// it is known, as far as memory knows, that all of them together are not too large.
    pub(super) async fn values_at_once(
        &self,
        snapshot: &Snapshot,
        keys: &[Bytes],
    ) -> Result<Option<Vec<Option<Bytes>>>, Refusal> {
        let mut answer = AnswerBytes::new(self.memory.answer_bytes_max(), 0);
        let (budget, mut values) = (self.rt.budget(), Vec::with_capacity(keys.len()));
        let mut looked_ahead = false;
        for (at, key) in keys.iter().enumerate() {
            let mut value = match snapshot.get_now_if(CF, key, |bytes| bytes <= SMALL_BYTES) {
                Lookup::Found(value) => Some(value),
                Lookup::Absent => None,
                Lookup::NeedsIo => {
                    if !std::mem::replace(&mut looked_ahead, true) {
                        self.look_ahead(snapshot, &keys[at..], answer).await?;
                    }
                    if !self.has_room_for_known(snapshot, key) {
                        return Ok(None);
                    }
                    let _room = self.memory.room_to_read(&self.rt).await?;
                    let value = snapshot.get(CF, key).await.map_err(|fault| self.unreadable(&fault))?;
                    self.memory.has_read(value.as_ref().map_or(0, Bytes::len));
                    value
                }
            };
            if let Some(found) = value.take() {
                answer.add(charged_bytes(&found))?;
                let Some(charge) = self.memory.output.try_charge(charged_bytes(&found)) else {
                    return Ok(None);
                };
                value = Some(charge.wrap(found));
            }
            values.push(value);
            budget.tick().await;
        }
        Ok(Some(values))
    }

    /// Refuses values that come to too much with `answer`, as far as memory knows their lengths.
    async fn look_ahead(
        &self,
        snapshot: &Snapshot,
        keys: &[Bytes],
        mut answer: AnswerBytes,
    ) -> Result<(), Refusal> {
        let budget = self.rt.budget();
        for key in keys {
            if let Some(Some(bytes)) = snapshot.length_now(CF, key) {
                answer.add(charged_length(bytes))?;
            }
            budget.tick().await;
        }
        Ok(())
    }

    /// Whether a value has room for a copy; yes if memory does not know it.
    fn has_room_for_known(&self, snapshot: &Snapshot, key: &[u8]) -> bool {
        let length = snapshot.length_now(CF, key).flatten();
        length.is_none_or(|bytes| self.memory.output.has_room(charged_length(bytes)))
    }

    /// The same once there is room for all of them, in the order in which they were asked for.
    pub(super) async fn values_in_turn(
        &self,
        snapshot: &Snapshot,
        keys: &[Bytes],
    ) -> Result<Vec<Option<Bytes>>, Refusal> {
        let mut answer = AnswerBytes::new(self.memory.answer_bytes_max(), 0);
        let budget = self.rt.budget();
        for key in keys {
            let length = self.length(snapshot, key).await?;
            if let Some(length) = length {
                answer.add(charged_length(length))?;
            }
            budget.tick().await;
        }
        let mut charge = self.memory.output.wait(&self.rt, answer.bytes()).await?;
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            let _room = self.memory.room_to_read(&self.rt).await?;
            let value = snapshot.get(CF, key).await.map_err(|fault| self.unreadable(&fault))?;
            values.push(value.map(|value| charge.split_off(charged_bytes(&value)).wrap(value)));
            budget.tick().await;
        }
        Ok(values)
    }

    /// The pairs of a scan; nothing if there is no room for them and the scan asks not to wait.
    pub(super) async fn collect(
        &self,
        snapshot: &Snapshot,
        range: Range<Bytes>,
        scan: &Scan,
    ) -> Result<Option<Vec<(Bytes, Bytes)>>, Refusal> {
        let bytes_max = SCAN_BYTES_MAX.min(self.memory.answer_bytes_max());
        if let Some(pairs) = self.collect_within(snapshot, &range, scan, bytes_max, None).await? {
            return Ok(Some(pairs));
        }
        if scan.at_once {
            return Ok(None);
        }
        // How much it will be is not known before it is read, so it waits for as much as it may be.
        let room = self.memory.output.wait(&self.rt, bytes_max.saturating_sub(scan.held_bytes)).await?;
        let pairs = self.collect_within(snapshot, &range, scan, bytes_max, Some(room)).await?;
        Ok(Some(pairs.expect("room was made for any answer")))
    }

    /// The pairs of a scan; nothing if there is no room for them now and none was made before.
    async fn collect_within(
        &self,
        snapshot: &Snapshot,
        range: &Range<Bytes>,
        scan: &Scan,
        bytes_max: usize,
        room: Option<Charge>,
    ) -> Result<Option<Vec<(Bytes, Bytes)>>, Refusal> {
        let direction = if scan.reverse { Direction::Reverse } else { Direction::Forward };
        let mut answer = AnswerBytes::new(bytes_max, scan.held_bytes);
        let budget = self.rt.budget();
        let mut iter = snapshot.iter(CF, &range.start, &range.end, direction);
        let mut pairs: Vec<(Bytes, Bytes)> = Vec::with_capacity(scan.limit.min(1024));
        let (made, mut charged) = (room.is_some(), room.unwrap_or_default());
        // For the blocks that the walk has open, all the way.
        let _room = self.memory.room_to_scan(&self.rt).await?;
        while pairs.len() < scan.limit {
            let Some((key, value)) = iter.next().await.map_err(|fault| self.unreadable(&fault))? else {
                break;
            };
            self.memory.has_read(value.len());
            let value = if scan.key_only { Bytes::new() } else { value };
            answer.add(charged_pair_bytes(&key, &value))?;
            pairs.push((key, value));
            // Charged in steps, because most pairs are small.
            let held = answer.bytes() - scan.held_bytes;
            if held > charged.bytes() && !made {
                let step = (held - charged.bytes()).max(SCAN_STEP_BYTES);
                let Some(charge) = self.memory.output.try_charge(step) else { return Ok(None) };
                charged.join(charge);
            }
            budget.tick().await;
        }
        charged.set(answer.bytes() - scan.held_bytes);
        // The last pair carries the charge of all, because whoever takes them apart begins with the first.
        if let Some((key, _)) = pairs.last_mut() {
            *key = charged.wrap(std::mem::take(key));
        }
        Ok(Some(pairs))
    }
}
