//! The regions that splits bring into being, from the applied entry to their place in the table. Pure, as the table itself.
//!
//! Applying a split touches two regions of a store and is one step of their one owner: the entry is judged, one batch of the tree takes
//! the parent's descriptor, its applied index and the descriptors of the new regions, and the table publishes all of them before
//! anything else is looked at. No reservation lies between, because nothing comes between.
//!
//! | what a new region meets here | what becomes of it |
//! |---|---|
//! | nothing | its replica begins with what the parent had of its range |
//! | [`Expected`]: its log, from before a restart | the replica goes on with that log |
//! | a tombstone of the same peer or a later one | it was removed before the split came here: its range is emptied |
//! | a replica that waits for a snapshot | a message of a leader was faster: its range is emptied, the snapshot brings the data |
//!
//! The first row says why a replica that waits may keep waiting: a message creates a replica only where no region has the range, so the
//! parent had none here, and what a quorum of the parent's members has is elsewhere.
//!
//! Votes that are asked of a replica whose split is not applied here yet are kept, a few of them, and handed to it when it comes: its
//! leader asks at once, and would wait for its election timer otherwise.
//!
//! Invariants, asserted by [`Table::check`]: what is expected has neither a replica nor a place in the order of first keys; no more than
//! [`VOTES_MAX`] messages are kept.

use std::collections::{BTreeMap, VecDeque};

use engine::lsm::WriteBatch;
use raft::{Index, Membership, Start};
use scheduler::RegionId;

use super::table::Table;
use crate::plant::{Bug, planted};
use crate::region::apply::{describe_half, erase};
use crate::region::message::{Body, PeerMessage};
use crate::region::replica::{Replica, Stored};
use crate::region::split::{FIRST_BASE, Half, SplitOrigin};

/// Messages of candidates that are kept for replicas to come.
const VOTES_MAX: usize = 64;

/// What waits for splits to be applied, and what has come of those that were.
#[derive(Debug, Default)]
pub(super) struct Halves {
    expected: BTreeMap<RegionId, Expected>,
    votes: VecDeque<PeerMessage>,
    /// The last split of a region that was applied since the start.
    applied: BTreeMap<RegionId, Index>,
}

/// The log of a replica whose split the tree did not have when the store started.
#[derive(Debug)]
pub struct Expected {
    /// What its core starts from.
    pub stored: Stored,
    /// Where it comes from.
    pub origin: SplitOrigin,
}

/// A replica that has come into the table.
#[derive(Debug)]
pub struct Begun {
    /// Its region.
    pub region: RegionId,
    /// Where it comes from, if the log has to learn that.
    pub unlogged: Option<SplitOrigin>,
    /// What candidates had asked of it before.
    pub votes: Vec<PeerMessage>,
}

impl<W, R> Table<W, R> {
    /// Keeps the log of a replica until the split that brought it into being is applied once more.
    pub fn expect(&mut self, expected: Expected) {
        self.halves.expected.insert(expected.stored.record.region.id, expected);
    }

    /// What is expected.
    pub fn expected(&self) -> impl Iterator<Item = &Expected> {
        self.halves.expected.values()
    }

    /// Whether a region is expected itself.
    pub fn expects(&self, region: RegionId) -> bool {
        self.halves.expected.contains_key(&region)
    }

    /// Whether a new region begins on this store with what its parent had.
    fn begins(&self, half: &Half) -> bool {
        let id = half.record.region.id;
        let removed = self.tombstone(id).is_some_and(|record| record.me >= half.record.me);
        self.get(id).is_none() && (!removed || planted(Bug::RemovedComesBack))
    }

    /// Completes the batch of an apply that has splits.
    pub fn describe_halves(&self, halves: &[Half], batch: &mut WriteBatch) {
        for half in halves {
            match self.begins(half) {
                true if planted(Bug::HalfNotDescribed) => {}
                true => describe_half(batch, half),
                false => erase(batch, &half.record.region),
            }
        }
    }

    /// The tree has the batch: publishes the region that was split and those that it was split into, in one step. `make` makes a
    /// replica of what it starts from.
    ///
    /// # Errors
    /// Those of `make`.
    ///
    /// # Panics
    /// If another region has part of the range that the parent had: that is a bug.
    pub fn split_region<E>(
        &mut self,
        parent: RegionId,
        halves: Vec<Half>,
        mut make: impl FnMut(Stored) -> Result<Replica<W, R>, E>,
    ) -> Result<Vec<Begun>, E> {
        self.publish_region(parent);
        self.mark_dirty(parent);
        let mut begun = Vec::new();
        for half in halves {
            self.halves.applied.insert(parent, half.origin.at.index);
            let region = half.record.region.id;
            if !self.begins(&half) {
                continue;
            }
            let (start, unlogged) = match self.halves.expected.remove(&region) {
                Some(Expected { stored, origin: _ }) => (stored.start, None),
                None => (Start::bootstrap(FIRST_BASE, Membership::default()), Some(half.origin)),
            };
            let replica = make(Stored { record: half.record, in_tree: true, start })?;
            if let Err(refused) = self.enter_region(replica) {
                panic!("{} is in the way of {region}, which {parent} was split into", refused.by);
            }
            let kept = std::mem::take(&mut self.halves.votes);
            let (votes, rest): (VecDeque<_>, VecDeque<_>) =
                kept.into_iter().partition(|kept| kept.region == region);
            self.halves.votes = rest;
            begun.push(Begun { region, unlogged, votes: votes.into() });
        }
        Ok(begun)
    }

    /// Keeps what a candidate asks of a replica that is not here, in case a split brings it. Whether it is of that kind.
    pub fn keep_vote(&mut self, message: &PeerMessage) -> bool {
        let Body::Raft(inner) = &message.body else { return false };
        let asks = matches!(inner.body, raft::Body::PreVote(_) | raft::Body::Vote(_));
        if !asks || planted(Bug::EarlyVotesLost) || self.get(message.region).is_some() {
            return false;
        }
        let votes = &mut self.halves.votes;
        // What a candidate asks now is what it still wants to know.
        votes.retain(|kept| (kept.region, kept.from.id) != (message.region, message.from.id));
        if votes.len() == VOTES_MAX {
            votes.pop_front();
        }
        votes.push_back(message.clone());
        true
    }

    /// Whether regions that this one was split into rest on its log still, because the tables, which have everything of it up to
    /// `flushed`, do not have the split.
    pub fn is_needed_by_halves(&self, region: RegionId, flushed: Index) -> bool {
        let split = self.halves.applied.get(&region);
        (split.is_some_and(|index| flushed < *index) || self.is_awaited(region))
            && !planted(Bug::DestroyedUnflushed)
    }

    /// Whether something is expected that the log of `region` has to bring, so that no snapshot may overtake it.
    pub fn is_awaited(&self, region: RegionId) -> bool {
        self.expected().any(|expected| expected.origin.parent == region)
    }

    pub(super) fn check_halves(&self) {
        for id in self.halves.expected.keys() {
            assert!(self.get(*id).is_none(), "{id} is here and expected");
        }
        assert!(self.halves.votes.len() <= VOTES_MAX, "too many votes are kept");
    }
}
