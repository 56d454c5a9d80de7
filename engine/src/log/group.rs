//! One group's part of the index: where its entries lie, its states and its compaction mark. Pure.
//!
//! Each change says in which segment something became live and in which it ceased to be, so that `uses` always knows what
//! keeps a segment from being reused.
//!
//! Invariants (`check`):
//! * Outside of replay a group's entries are consecutive. Replay may see holes for a while, because an entry that was moved
//!   to the tail comes after entries with higher indexes.
//! * `uses` counts exactly the slots, states and marks that lie in each segment.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::format::{ENTRY_HEADER_BYTES, Malformed, RecordAt, Run, SegmentNo, Span};

/// An index and the term of the entry there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// The index.
    pub index: u64,
    /// The term.
    pub term: u64,
}

/// Where one entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) term: u64,
    pub(crate) at: RecordAt,
    pub(crate) payload: Span,
    pub(crate) kind: u8,
}

/// Stands for an entry that replay has not seen yet. Segment numbers begin at 1.
const HOLE: Slot = Slot {
    term: 0,
    at: RecordAt { segment: SegmentNo(0), block: 0 },
    payload: Span { offset: 0, len: 0 },
    kind: 0,
};

impl Slot {
    fn is_hole(&self) -> bool {
        self.at.segment == HOLE.at.segment
    }

    fn bytes(&self) -> u64 {
        ENTRY_HEADER_BYTES as u64 + u64::from(self.payload.len)
    }
}

/// How much of something is live in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Use {
    /// Entries, states and marks.
    pub(crate) items: u64,
    /// Their encoded bytes, about.
    pub(crate) bytes: u64,
}

/// Entries whose bytes are counted one by one.
const COUNTED_MAX: u64 = 1024;

/// What a state or a mark costs in a record, about.
const SMALL_ITEM_BYTES: u64 = 25;

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    tag: u8,
    at: RecordAt,
    value: Bytes,
}

/// One group's part of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    mark: Option<(Position, RecordAt)>,
    /// Index of the first slot; without slots, the next index.
    first: u64,
    slots: VecDeque<Slot>,
    states: Vec<State>,
    uses: Vec<(SegmentNo, Use)>,
}

/// Everything live of one group in one segment: what must move before the segment can go.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Live {
    pub(crate) mark: Option<Position>,
    pub(crate) states: Vec<(u8, Bytes)>,
    pub(crate) entries: Vec<(u64, Slot)>,
}

impl Group {
    /// The compaction mark: entries up to it are gone.
    pub(crate) fn mark(&self) -> Option<Position> {
        self.mark.map(|(position, _)| position)
    }

    /// Index of the first entry, if there is one.
    pub(crate) fn first_index(&self) -> Option<u64> {
        (!self.slots.is_empty()).then_some(self.first)
    }

    /// Index of the last entry, if there is one.
    pub(crate) fn last_index(&self) -> Option<u64> {
        (!self.slots.is_empty()).then(|| self.first + self.slots.len() as u64 - 1)
    }

    /// The index after the last entry or the mark; `None` for a group that has neither.
    pub(super) fn next_index(&self) -> Option<u64> {
        self.last_index().or(self.mark().map(|mark| mark.index)).map(|last| last + 1)
    }

    /// The entry at `index`.
    pub(crate) fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// All entries, in order.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (u64, &Slot)> {
        (self.first..).zip(&self.slots)
    }

    /// The first index from which on the entries have at most `bytes_max` bytes; nothing if all of them have no more.
    pub(crate) fn first_within(&self, bytes_max: u64) -> Option<u64> {
        let all: u64 = self.uses.iter().map(|(_, used)| used.bytes).sum();
        if all <= bytes_max {
            return None;
        }
        let mut bytes = 0;
        let outside = self.slots.iter().rposition(|slot| {
            bytes += slot.bytes();
            bytes > bytes_max
        });
        outside.map(|place| self.first + place as u64 + 1)
    }

    /// Bytes on disk of the entries after `index`: counted where few follow it, else their share of all by their number, so that it takes
    /// little time however many there are.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        let missing = (self.first + self.slots.len() as u64).saturating_sub(index.saturating_add(1));
        let missing = missing.min(self.slots.len() as u64);
        if missing <= COUNTED_MAX {
            return self.slots.iter().rev().take(missing as usize).map(Slot::bytes).sum();
        }
        let all: u64 = self.uses.iter().map(|(_, used)| used.bytes).sum();
        let share = u128::from(all) * u128::from(missing) / self.slots.len().max(1) as u128;
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// The value of a state.
    pub(crate) fn state(&self, tag: u8) -> Option<&Bytes> {
        self.states.iter().find(|state| state.tag == tag).map(|state| &state.value)
    }

    /// All states.
    pub(crate) fn states(&self) -> impl Iterator<Item = (u8, &Bytes)> {
        self.states.iter().map(|state| (state.tag, &state.value))
    }

    /// How much of the group is live, by segment, in no order.
    pub(crate) fn uses(&self) -> &[(SegmentNo, Use)] {
        &self.uses
    }

    /// What of the group is live in `segment`.
    pub(crate) fn live_in(&self, segment: SegmentNo) -> Live {
        let here = |at: RecordAt| at.segment == segment;
        Live {
            mark: self.mark.filter(|(_, at)| here(*at)).map(|(position, _)| position),
            states: self.states.iter().filter(|s| here(s.at)).map(|s| (s.tag, s.value.clone())).collect(),
            entries: self.slots().filter(|(_, slot)| here(slot.at)).map(|(i, slot)| (i, *slot)).collect(),
        }
    }

    pub(super) fn append(&mut self, at: RecordAt, run: &Run<'_>) -> Result<(), Malformed> {
        self.truncate_from(run.first);
        if self.slots.is_empty() {
            self.first = self.mark().map_or(run.first, |mark| mark.index + 1).max(run.first);
        }
        while self.first + (self.slots.len() as u64) < run.first {
            self.slots.push_back(HOLE);
        }
        let mut gained = Use::default();
        for (index, entry) in (run.first..).zip(run.entries()) {
            let entry = entry?;
            let slot = Slot { term: entry.term, at, payload: entry.payload, kind: entry.kind };
            if self.mark().is_none_or(|mark| index > mark.index) {
                gained.items += 1;
                gained.bytes += slot.bytes();
                self.slots.push_back(slot);
            }
        }
        self.gain(at.segment, gained);
        Ok(())
    }

    /// The same entries at a new place. Only replay meets indexes that are not there yet.
    pub(super) fn moved(&mut self, at: RecordAt, run: &Run<'_>) -> Result<(), Malformed> {
        if self.slots.is_empty() {
            self.first = run.first;
        }
        while self.first > run.first {
            self.slots.push_front(HOLE);
            self.first -= 1;
        }
        while self.first + (self.slots.len() as u64) < run.first + u64::from(run.count) {
            self.slots.push_back(HOLE);
        }
        for (index, entry) in (run.first..).zip(run.entries()) {
            let entry = entry?;
            let slot = Slot { term: entry.term, at, payload: entry.payload, kind: entry.kind };
            let place = usize::try_from(index - self.first).expect("room was made above");
            let before = std::mem::replace(&mut self.slots[place], slot);
            self.lose_slot(&before);
            self.gain(at.segment, Use { items: 1, bytes: slot.bytes() });
        }
        Ok(())
    }

    pub(super) fn put_state(&mut self, at: RecordAt, tag: u8, value: Bytes) {
        let gained = Use { items: 1, bytes: SMALL_ITEM_BYTES + value.len() as u64 };
        let state = State { tag, at, value };
        match self.states.iter().position(|known| known.tag == tag) {
            Some(place) => {
                let before = std::mem::replace(&mut self.states[place], state);
                let lost = Use { items: 1, bytes: SMALL_ITEM_BYTES + before.value.len() as u64 };
                self.lose(before.at.segment, lost);
            }
            None => self.states.push(state),
        }
        self.gain(at.segment, gained);
    }

    pub(super) fn compact(&mut self, at: RecordAt, to: Position) {
        if self.mark().is_some_and(|mark| mark.index > to.index) {
            return;
        }
        self.set_mark(at, to);
        while !self.slots.is_empty() && self.first <= to.index {
            let slot = self.slots.pop_front().expect("checked above");
            self.lose_slot(&slot);
            self.first += 1;
        }
    }

    pub(super) fn reset(&mut self, at: RecordAt, to: Position) {
        self.truncate_from(0);
        self.set_mark(at, to);
    }

    fn set_mark(&mut self, at: RecordAt, to: Position) {
        let small = Use { items: 1, bytes: SMALL_ITEM_BYTES };
        if let Some((_, before)) = self.mark.replace((to, at)) {
            self.lose(before.segment, small);
        }
        self.gain(at.segment, small);
    }

    fn truncate_from(&mut self, index: u64) {
        while self.last_index().is_some_and(|last| last >= index) {
            let slot = self.slots.pop_back().expect("there is a last index");
            self.lose_slot(&slot);
        }
    }

    fn lose_slot(&mut self, slot: &Slot) {
        if !slot.is_hole() {
            self.lose(slot.at.segment, Use { items: 1, bytes: slot.bytes() });
        }
    }

    fn gain(&mut self, segment: SegmentNo, gained: Use) {
        if gained.items == 0 {
            return;
        }
        // New things go to the newest segment, which is the last one here.
        match self.uses.iter_mut().rev().find(|(of, _)| *of == segment) {
            Some((_, used)) => {
                used.items += gained.items;
                used.bytes += gained.bytes;
            }
            None => self.uses.push((segment, gained)),
        }
    }

    fn lose(&mut self, segment: SegmentNo, lost: Use) {
        let place = self.uses.iter().position(|(of, _)| *of == segment).expect("what is lost was gained");
        let used = &mut self.uses[place].1;
        used.items -= lost.items;
        used.bytes -= lost.bytes;
        if used.items == 0 {
            self.uses.remove(place);
        }
    }

    pub(super) fn first_hole(&self) -> Option<u64> {
        let missing_behind_mark = self
            .mark()
            .zip(self.first_index())
            .and_then(|(mark, first)| (first > mark.index + 1).then_some(mark.index + 1));
        missing_behind_mark.or_else(|| self.slots().find(|(_, slot)| slot.is_hole()).map(|(index, _)| index))
    }

    /// The invariants at the head of this file.
    pub(crate) fn check(&self) {
        assert_eq!(self.first_hole(), None, "entries are consecutive");
        let mut counted = BTreeMap::<SegmentNo, u64>::new();
        let places = self.slots.iter().map(|slot| slot.at);
        let places =
            places.chain(self.states.iter().map(|state| state.at)).chain(self.mark.map(|(_, at)| at));
        for at in places {
            *counted.entry(at.segment).or_default() += 1;
        }
        let known: BTreeMap<_, _> = self.uses.iter().map(|(segment, used)| (*segment, used.items)).collect();
        assert_eq!(known, counted, "uses count what is live");
    }
}
