//! What is live, and where. Pure.
//!
//! The index is a function of the records in their order: a write applies its own record with the same code with which
//! recovery applies it later. Per group it holds where each entry lies, the small states and the compaction mark, and per
//! segment how much of the group is still live there.
//!
//! Invariants (`check`):
//! * Outside of replay a group's entries are consecutive. Replay may see holes for a while, because an entry that was moved
//!   to the tail comes after entries behind it.
//! * `uses` counts exactly the slots, states and marks that lie in each segment.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::format::{ENTRY_HEADER_BYTES, Item, Malformed, RecordAt, Run, SegmentNo, Span, items};

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

/// The first index of a group and the one behind its last.
#[derive(Clone, Copy, Default)]
struct Ends {
    first: Option<u64>,
    next: Option<u64>,
}

/// All groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    groups: BTreeMap<u64, Group>,
}

/// Everything live of one group in one segment: what must move before the segment can go.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Live {
    pub(crate) mark: Option<Position>,
    pub(crate) states: Vec<(u8, Bytes)>,
    pub(crate) entries: Vec<(u64, Slot)>,
}

impl Index {
    /// Applies the record at `at`.
    pub(crate) fn apply(&mut self, at: RecordAt, body: &[u8]) -> Result<(), Malformed> {
        for item in items(body) {
            match item? {
                Item::Append { group, run } => self.group_mut(group).append(at, &run)?,
                Item::Moved { group, run } => self.group_mut(group).moved(at, &run)?,
                Item::State { group, tag, span } => {
                    self.group_mut(group).put_state(at, tag, Bytes::copy_from_slice(&body[span.range()]));
                }
                Item::Compact { group, index, term } => {
                    self.group_mut(group).compact(at, Position { index, term });
                }
                Item::Reset { group, index, term } => {
                    self.group_mut(group).reset(at, Position { index, term });
                }
                Item::Remove { group } => {
                    self.groups.remove(&group);
                }
            }
        }
        Ok(())
    }

    /// What is wrong with applying this body: an append or a compaction that would leave a hole. Such a record must never be
    /// written, because replay would take the hole for damage.
    pub(crate) fn misuse(&self, body: &[u8]) -> Option<String> {
        let mut ends = BTreeMap::<u64, Ends>::new();
        for item in items(body).flatten() {
            let of = |group| ends.get(&group).copied().unwrap_or_else(|| self.ends(group));
            let (group, end) = match item {
                Item::Append { group, run } => {
                    let Ends { first, next } = of(group);
                    if let Some(next) = next.filter(|next| run.first > *next) {
                        let gap = format!("group {group} goes on at index {next}, not at {}", run.first);
                        return Some(gap);
                    }
                    let first = first.filter(|first| *first < run.first).unwrap_or(run.first);
                    (group, Ends { first: Some(first), next: Some(run.first + u64::from(run.count)) })
                }
                Item::Compact { group, index, .. } => {
                    let Ends { first, next } = of(group);
                    if let Some(first) = first.filter(|first| index + 1 < *first && next > Some(*first)) {
                        let gap = format!(
                            "group {group} begins at index {first}; it cannot be compacted to {index}"
                        );
                        return Some(gap);
                    }
                    let next = next.unwrap_or(0).max(index + 1);
                    (group, Ends { first: Some(index + 1), next: Some(next) })
                }
                Item::Reset { group, index, .. } => (group, Ends { first: None, next: Some(index + 1) }),
                Item::Remove { group } => (group, Ends::default()),
                Item::Moved { .. } | Item::State { .. } => continue,
            };
            ends.insert(group, end);
        }
        None
    }

    fn ends(&self, group: u64) -> Ends {
        let group = self.groups.get(&group);
        Ends { first: group.and_then(Group::first_index), next: group.and_then(Group::next_index) }
    }

    fn group_mut(&mut self, group: u64) -> &mut Group {
        self.groups.entry(group).or_default()
    }

    /// One group.
    pub(crate) fn group(&self, group: u64) -> Option<&Group> {
        self.groups.get(&group)
    }

    /// All groups, by id.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (u64, &Group)> {
        self.groups.iter().map(|(id, group)| (*id, group))
    }

    /// How much is live in each segment. Segments with nothing live are absent.
    pub(crate) fn uses(&self) -> BTreeMap<SegmentNo, Use> {
        let mut sum = BTreeMap::<SegmentNo, Use>::new();
        for (segment, used) in self.groups.values().flat_map(|group| &group.uses) {
            let total = sum.entry(*segment).or_default();
            total.items += used.items;
            total.bytes += used.bytes;
        }
        sum
    }

    /// The first group that is not whole, with the index that is missing.
    pub(crate) fn first_hole(&self) -> Option<(u64, u64)> {
        self.groups().find_map(|(id, group)| Some((id, group.first_hole()?)))
    }
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

    /// The index behind the last entry or the mark; `None` for a group that has neither.
    fn next_index(&self) -> Option<u64> {
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

    fn append(&mut self, at: RecordAt, run: &Run<'_>) -> Result<(), Malformed> {
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
    fn moved(&mut self, at: RecordAt, run: &Run<'_>) -> Result<(), Malformed> {
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

    fn put_state(&mut self, at: RecordAt, tag: u8, value: Bytes) {
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

    fn compact(&mut self, at: RecordAt, to: Position) {
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

    fn reset(&mut self, at: RecordAt, to: Position) {
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

    fn first_hole(&self) -> Option<u64> {
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

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
