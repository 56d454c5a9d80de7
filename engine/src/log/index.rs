//! What is live, and where. Pure.
//!
//! The index is a function of the records in their order: a write applies its own record with the same code with which
//! recovery applies it later. What one group holds is in [`super::group`], with the invariants; here the items of a record are
//! given to their groups, and a record that would leave a hole is refused before it is written.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::format::{Item, Malformed, RecordAt, SegmentNo, items};
use super::group::{Group, Position, Use};

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
        for (segment, used) in self.groups.values().flat_map(Group::uses) {
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

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
