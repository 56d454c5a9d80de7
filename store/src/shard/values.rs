//! Values and pairs as reads find them, charged to the core's answers before they are kept.
//!
//! Invariant: whoever waits for room holds nothing meanwhile, neither a value nor room for another.

use std::cell::{Cell, RefCell};
use std::mem;
use std::ops::Range;

use bytes::Bytes;

use engine::lsm::{Cf, Direction, Fetched, LongBlock, Lookup, Snapshot, TimedValue, Until, WalkLimits};
use scheduler::RegionId;

use super::Inner;
use crate::memory::{AnswerBytes, Charge, SMALL_BYTES, charged_bytes, charged_length, charged_pair_bytes};
use crate::refusal::Refusal;
use crate::region::samples::Touched;
use crate::request::{Out, Outcome, Scan, VALUE_BYTES_MAX};

const CF: Cf = Cf::Default;

/// A scan is charged in steps of this size, bytes.
const SCAN_STEP_BYTES: usize = 16 << 10;
/// Bytes of pairs above which a scan is refused. It cannot end early instead: clients take a short answer for the end of the
/// region and would skip what was left out.
const SCAN_BYTES_MAX: usize = 64 << 20;
/// Pairs of a scan that are packed at a time, at most.
const PACKED_PAIRS: usize = 128;
/// A walk that had room for too short a block begins again with this many times as much, at least.
const GROWTH: usize = 4;

/// What says whether a long block may be read and opened.
pub(super) type Admits<'a> = &'a dyn Fn(LongBlock) -> bool;

/// A look-up that turns down long blocks for which there is no room, and may be repeated.
pub(super) trait Read: AsyncFn(Admits<'_>) -> engine::error::Result<Fetched> {}

impl<T: AsyncFn(Admits<'_>) -> engine::error::Result<Fetched>> Read for T {}

/// What a read with room came to.
enum Reading {
    /// The value, and the room that it takes as long as it is not charged as an answer.
    Found {
        timed: TimedValue,
        room: Charge,
    },
    Absent,
    /// A value of about this length, which was turned down.
    Unwanted {
        value_bytes: usize,
    },
}

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
        self.counts.read(region, 1, bytes, |_| Touched::Key(key));
        Some(kept)
    }

    /// What memory knows of `key`. A large value for which there is no room is not copied: it is for those who can wait.
    pub(super) fn value_now(&self, key: &[u8]) -> Lookup {
        let output = &self.memory.output;
        self.tree.get_now_if(CF, key, |bytes| bytes <= SMALL_BYTES || output.has_room(charged_length(bytes)))
    }

    /// The same, with the moment at which the value goes.
    pub(super) fn timed_now(&self, key: &[u8]) -> Lookup<TimedValue> {
        let output = &self.memory.output;
        self.tree
            .timed_now_if(CF, key, |bytes| bytes <= SMALL_BYTES || output.has_room(charged_length(bytes)))
    }

    /// The value of `key`, charged to the core's answers.
    pub(super) async fn charged_value(&self, key: &[u8]) -> Result<Option<TimedValue>, Refusal> {
        self.charge(async |admits| self.tree.timed_within(CF, key, admits).await).await
    }

    /// What `read` finds, charged. A value for which there is no room is not read, or let go, so that those who wait hold nothing, and
    /// read again once there is.
    pub(super) async fn charge(&self, read: impl Read) -> Result<Option<TimedValue>, Refusal> {
        let output = &self.memory.output;
        let has_room = |value_bytes: usize| output.has_room(charged_length(value_bytes));
        let mut bytes = match self.read_within(&read, &has_room).await? {
            Reading::Absent => return Ok(None),
            Reading::Found { timed: TimedValue { value, until }, room: _room } => {
                match output.try_charge(charged_bytes(&value)) {
                    Some(charge) => return Ok(Some(TimedValue { value: charge.wrap(value), until })),
                    None => charged_bytes(&value),
                }
            }
            Reading::Unwanted { value_bytes } => charged_length(value_bytes),
        };
        loop {
            let mut charge = output.wait(&self.rt, bytes).await?;
            let fits = |value_bytes: usize| charged_length(value_bytes) <= bytes;
            bytes = match self.read_within(&read, &fits).await? {
                Reading::Absent => return Ok(None),
                Reading::Found { timed: TimedValue { value, until }, room: _room }
                    if charged_bytes(&value) <= bytes =>
                {
                    charge.set(charged_bytes(&value));
                    return Ok(Some(TimedValue { value: charge.wrap(value), until }));
                }
                // It has been overwritten by a larger one meanwhile.
                Reading::Found { timed, room: _room } => charged_bytes(&timed.value),
                Reading::Unwanted { value_bytes } => charged_length(value_bytes),
            };
        }
    }

    /// What `read` finds, with the room that it takes until it is charged as an answer; nothing if it comes to a long block and `wanted`
    /// turns down a value of its length.
    async fn read_within(
        &self,
        read: &impl Read,
        wanted: &dyn Fn(usize) -> bool,
    ) -> Result<Reading, Refusal> {
        let mut room = self.memory.room_to_read(&self.rt).await?;
        loop {
            let (held, unwanted) = (RefCell::new(room), Cell::new(false));
            let admits = |block: LongBlock| {
                unwanted.set(!wanted(block.opened_bytes.min(VALUE_BYTES_MAX)));
                !unwanted.get() && held.borrow_mut().grow(block.packed_bytes + block.opened_bytes)
            };
            let fetched = read(&admits).await.map_err(|fault| self.unreadable(&fault))?;
            room = held.into_inner();
            let block = match fetched {
                Fetched::Value(Some(timed)) => {
                    self.memory.has_read(timed.len());
                    return Ok(Reading::Found { timed, room });
                }
                Fetched::Value(None) => {
                    self.memory.has_read(0);
                    return Ok(Reading::Absent);
                }
                Fetched::TooLong(block) => block,
            };
            self.memory.has_read(block.opened_bytes);
            if unwanted.get() {
                return Ok(Reading::Unwanted { value_bytes: block.opened_bytes.min(VALUE_BYTES_MAX) });
            }
            // Whoever waits for more room has none meanwhile.
            drop(room);
            room = self.memory.reading.wait(&self.rt, block.packed_bytes + block.opened_bytes).await?;
        }
    }

    /// The value of `key` at the moment of `snapshot`, with the room that it takes until it is charged.
    async fn read_of(
        &self,
        snapshot: &Snapshot,
        key: &[u8],
        wanted: &dyn Fn(usize) -> bool,
    ) -> Result<Reading, Refusal> {
        self.read_within(&async |admits: Admits<'_>| snapshot.timed_within(CF, key, admits).await, wanted)
            .await
    }

    /// The length of the value of `key`, which may have to be read for it.
    pub(super) async fn length(&self, snapshot: &Snapshot, key: &[u8]) -> Result<Option<usize>, Refusal> {
        Ok(self.sized(snapshot, key).await?.map(|(bytes, _)| bytes))
    }

    /// The same, with the moment at which the value goes.
    pub(super) async fn sized(
        &self,
        snapshot: &Snapshot,
        key: &[u8],
    ) -> Result<Option<(usize, Until)>, Refusal> {
        if let Some(sized) = snapshot.sized_now(CF, key) {
            return Ok(sized);
        }
        match self.read_of(snapshot, key, &|_| true).await? {
            Reading::Found { timed, room: _room } => Ok(Some((timed.len(), timed.until))),
            Reading::Absent => Ok(None),
            Reading::Unwanted { value_bytes } => unreachable!("{value_bytes} bytes were wanted"),
        }
    }

    /// Charges a value that memory had at once. Where there is no room it has to be read by those who can wait.
    pub(super) fn charge_now(&self, found: Lookup<TimedValue>) -> Lookup<TimedValue> {
        let Lookup::Found(TimedValue { value, until }) = found else { return found };
        match self.memory.output.try_charge(charged_bytes(&value)) {
            Some(charge) => Lookup::Found(TimedValue { value: charge.wrap(value), until }),
            None => Lookup::NeedsIo,
        }
    }

    pub(super) fn charge_outcome(&self, outcome: Outcome) -> Option<Outcome> {
        match outcome {
            Ok(Out::Value(Some(value))) => {
                let charge = self.memory.output.try_charge(charged_bytes(&value))?;
                Some(Ok(Out::Value(Some(charge.wrap(value)))))
            }
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
                    if !mem::replace(&mut looked_ahead, true) {
                        self.look_ahead(snapshot, &keys[at..], answer).await?;
                    }
                    if !self.has_room_for_known(snapshot, key) {
                        return Ok(None);
                    }
                    let has_room =
                        |value_bytes: usize| self.memory.output.has_room(charged_length(value_bytes));
                    match self.read_of(snapshot, key, &has_room).await? {
                        Reading::Found { timed, room: _room } => Some(timed.value),
                        Reading::Absent => None,
                        Reading::Unwanted { value_bytes: _ } => return Ok(None),
                    }
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
            values.push(match self.read_of(snapshot, key, &|_| true).await? {
                Reading::Found { timed: TimedValue { value, until: _ }, room: _room } => {
                    Some(charge.split_off(charged_bytes(&value)).wrap(value))
                }
                Reading::Absent => None,
                Reading::Unwanted { value_bytes } => unreachable!("{value_bytes} bytes were wanted"),
            });
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
    ///
    /// How long the blocks are that the walk has to hold is not known before it comes to them, either: a walk that comes to one for
    /// which it has no room lets go of everything, waits for more room and begins again.
    async fn collect_within(
        &self,
        snapshot: &Snapshot,
        range: &Range<Bytes>,
        scan: &Scan,
        bytes_max: usize,
        room: Option<Charge>,
    ) -> Result<Option<Vec<(Bytes, Bytes)>>, Refusal> {
        let (made, mut charged) = (room.is_some(), room.unwrap_or_default());
        let mut block_bytes_max = SMALL_BYTES;
        loop {
            let room = self.memory.room_to_scan(&self.rt, block_bytes_max).await?;
            let answer = AnswerBytes::new(bytes_max, scan.held_bytes);
            match self.walk((snapshot, range), scan, block_bytes_max, answer, (made, &mut charged)).await? {
                Walked::Pairs(pairs) => return Ok(Some(pairs)),
                Walked::NoRoom => return Ok(None),
                Walked::TooLarge(bytes) => block_bytes_max = bytes.max(GROWTH * block_bytes_max),
            }
            if !made {
                charged = Charge::default();
            }
            drop(room);
        }
    }

    /// One walk, which holds no block longer than `block_bytes_max`. Room for the answer is `charged` as it grows, unless it was `made`
    /// before.
    async fn walk(
        &self,
        (snapshot, range): (&Snapshot, &Range<Bytes>),
        scan: &Scan,
        block_bytes_max: usize,
        mut answer: AnswerBytes,
        (made, charged): (bool, &mut Charge),
    ) -> Result<Walked, Refusal> {
        let direction = if scan.reverse { Direction::Reverse } else { Direction::Forward };
        let limits = WalkLimits { keys_only: scan.key_only, block_bytes_max };
        let mut iter = snapshot.walk(CF, &range.start, &range.end, direction, limits);
        let mut pairs = Pairs::with_capacity(scan.limit.min(1024));
        let budget = self.rt.budget();
        while pairs.len() < scan.limit {
            let Some((key, value)) = iter.next().await.map_err(|fault| self.unreadable(&fault))? else {
                break;
            };
            if !scan.key_only {
                self.memory.has_read(value.len());
            }
            answer.add(charged_pair_bytes(&key, &value))?;
            pairs.push(key, value);
            // Charged in steps, because most pairs are small.
            let held = answer.bytes() - scan.held_bytes;
            if held > charged.bytes() && !made {
                let step = (held - charged.bytes()).max(SCAN_STEP_BYTES);
                let Some(charge) = self.memory.output.try_charge(step) else { return Ok(Walked::NoRoom) };
                charged.join(charge);
            }
            budget.tick().await;
        }
        if let Some(bytes) = iter.too_large() {
            return Ok(Walked::TooLarge(bytes));
        }
        charged.set(answer.bytes() - scan.held_bytes);
        let mut pairs = pairs.finish();
        // The last pair carries the charge of all, because whoever takes them apart begins with the first.
        if let Some((key, _)) = pairs.last_mut() {
            *key = mem::take(charged).wrap(mem::take(key));
        }
        Ok(Walked::Pairs(pairs))
    }
}

/// How a walk ended.
enum Walked {
    Pairs(Vec<(Bytes, Bytes)>),
    /// There is no room for the answer.
    NoRoom,
    /// It came to a block of this many bytes, and may not hold one.
    TooLarge(usize),
}

/// Pairs that keep no more than they are charged for. As a walk finds them they are slices of what it copied or read, and keep all of
/// that, values that are not theirs included. So they are packed: some at a time are moved to a buffer of their own.
#[derive(Default)]
struct Pairs {
    pairs: Vec<(Bytes, Bytes)>,
    /// Those from here on are not packed yet.
    packed: usize,
    /// How long those are, large values left out.
    loose_bytes: usize,
}

impl Pairs {
    fn with_capacity(pairs: usize) -> Self {
        Self { pairs: Vec::with_capacity(pairs), ..Self::default() }
    }

    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn push(&mut self, key: Bytes, value: Bytes) {
        self.loose_bytes += key.len() + packed_bytes(&value);
        self.pairs.push((key, value));
        if self.loose_bytes >= SCAN_STEP_BYTES || self.len() - self.packed >= PACKED_PAIRS {
            self.pack();
        }
    }

    fn pack(&mut self) {
        let loose = &mut self.pairs[self.packed..];
        let mut buffer = Vec::with_capacity(self.loose_bytes);
        for (key, value) in &*loose {
            buffer.extend_from_slice(key);
            buffer.extend_from_slice(&value[..packed_bytes(value)]);
        }
        let mut buffer = Bytes::from(buffer);
        for (key, value) in loose {
            *key = buffer.split_to(key.len());
            if packed_bytes(value) == value.len() {
                *value = buffer.split_to(value.len());
            }
        }
        (self.packed, self.loose_bytes) = (self.pairs.len(), 0);
    }

    fn finish(mut self) -> Vec<(Bytes, Bytes)> {
        self.pack();
        self.pairs
    }
}

/// How many bytes of a value are packed: all, or none of one that is most of what it keeps.
fn packed_bytes(value: &Bytes) -> usize {
    if value.len() <= SMALL_BYTES { value.len() } else { 0 }
}
