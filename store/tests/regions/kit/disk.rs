//! What a store in memory keeps over a crash: the log of each group, durable when a write is carried out, and the tree, durable when it is
//! flushed.

use std::collections::BTreeMap;

use engine::lsm::{BatchOp, Cf, Mark, UNTIL_BYTES, WriteBatch};
use raft::{Entry, HardState, LogId};
use scheduler::{PeerId, Region};
use store::region::record::RegionRecord;
use store::region::split::SplitOrigin;

/// One group's log, durable.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(super) first: Vec<u8>,
    pub(super) hard: HardState,
    pub(super) base: LogId,
    pub(super) entries: Vec<Entry>,
    pub(super) origin: Option<SplitOrigin>,
}

impl Group {
    /// What the log has of a replica that comes into being with this record.
    pub(super) fn blank(first: Vec<u8>) -> Self {
        Self { first, hard: HardState::default(), base: LogId::ZERO, entries: Vec::new(), origin: None }
    }

    pub(super) fn peer(&self) -> PeerId {
        RegionRecord::decode(&self.first).expect("a record").me
    }
}

/// One store's tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) data: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) marks: BTreeMap<u64, u64>,
    pub(super) states: BTreeMap<u64, Vec<u8>>,
}

impl Tree {
    pub(super) fn write(&mut self, batch: &WriteBatch) {
        for op in batch.ops() {
            match op {
                BatchOp::Put { cf: Cf::Default, key, value } => {
                    self.data.insert(key.to_vec(), value.to_vec());
                }
                // When it expires is no matter of the region.
                BatchOp::PutUntil { cf: Cf::Default, key, dated } => {
                    self.data.insert(key.to_vec(), dated[UNTIL_BYTES..].to_vec());
                }
                BatchOp::Delete { cf: Cf::Default, key } => drop(self.data.remove(key)),
                BatchOp::DeleteRange { cf: Cf::Default, start, end } => {
                    self.data.retain(|key, _| &key[..] < start || &key[..] >= end);
                }
                BatchOp::Put { .. }
                | BatchOp::PutUntil { .. }
                | BatchOp::Delete { .. }
                | BatchOp::DeleteRange { .. } => {}
            }
        }
        for mark in batch.marks() {
            match mark {
                Mark::Applied { group, applied } => {
                    let known = self.marks.entry(*group).or_default();
                    *known = (*known).max(*applied);
                }
                Mark::Described { group, state } => drop(self.states.insert(*group, state.to_vec())),
                Mark::Forget { group } => {
                    self.marks.remove(group);
                    self.states.remove(group);
                }
            }
        }
    }

    /// What lies in a region's range.
    pub(crate) fn of(&self, region: &Region) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let inside = self.data.iter().filter(|(key, _)| region.range.contains(key));
        inside.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

impl Group {
    pub(super) fn last(&self) -> LogId {
        self.entries.last().map_or(self.base, Entry::id)
    }
}
