//! What one store holds: the slots of its peers by kind, and the sums over them.
//!
//! A peer is in exactly one of three arrays (leaders, followers, learners) and knows its place there, so that adding,
//! removing and drawing one at random take constant time. Peers that lag are few; they are in a sorted array besides.

use super::arena::Slot;
use crate::id::PeerId;
use crate::load::Load;
use crate::region::{Peer, Role};

/// Which array of its store a peer is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The region's leader.
    Leader,
    /// Any other peer that votes.
    Follower,
    /// A peer that does not vote.
    Learner,
}

impl Kind {
    /// The kind of this peer in a region led by `leader`.
    #[must_use]
    pub fn of(peer: &Peer, leader: Option<PeerId>) -> Self {
        if leader == Some(peer.id) {
            Self::Leader
        } else if peer.role == Role::Learner {
            Self::Learner
        } else {
            Self::Follower
        }
    }
}

/// How a peer stands in its region.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) kind: Kind,
    /// Whether the region's leader is known.
    pub(crate) led: bool,
    pub(crate) pending: bool,
}

/// What a region costs each store that has a peer of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Burden {
    pub(crate) size_bytes: u64,
    pub(crate) weight_bytes: u64,
    pub(crate) write: u64,
    pub(crate) read: u64,
}

impl Burden {
    pub(crate) fn new(size_bytes: u64, load: &Load, floor_bytes: u64) -> Self {
        let weight_bytes = size_bytes.max(floor_bytes);
        Self { size_bytes, weight_bytes, write: load.write_score(), read: load.read_score() }
    }
}

/// Sums over the peers of a store, as the region reports have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Regions that it leads.
    pub leaders: u64,
    /// Regions in which it votes and does not lead.
    pub followers: u64,
    /// Regions that it learns.
    pub learners: u64,
    /// Its peers that are said to lag.
    pub pending: u64,
    /// Its peers in regions whose leader is known.
    pub led: u64,
    /// Bytes of the regions that it leads.
    pub leader_bytes: u64,
    /// Bytes of all regions it has a peer of.
    pub region_bytes: u64,
    /// The same with every region counted as no less than the map's floor, which is what balancing compares.
    pub weight_bytes: u64,
    /// [`Load::read_score`] of the regions that it leads.
    pub read_load: u64,
    /// [`Load::write_score`] of all regions it has a peer of.
    pub write_load: u64,
}

impl Counters {
    /// Regions it has a peer of.
    #[must_use]
    pub const fn regions(&self) -> u64 {
        self.leaders + self.followers + self.learners
    }

    /// The store's whole load: reads where it leads and writes of every peer.
    #[must_use]
    pub const fn load(&self) -> u64 {
        self.read_load.saturating_add(self.write_load)
    }

    pub(crate) fn add(&mut self, peer: Standing, burden: Burden) {
        *self.count_of(peer.kind) += 1;
        self.led += u64::from(peer.led);
        self.pending += u64::from(peer.pending);
        self.add_burden(peer.kind, burden);
    }

    pub(crate) fn subtract(&mut self, peer: Standing, burden: Burden) {
        *self.count_of(peer.kind) -= 1;
        self.led -= u64::from(peer.led);
        self.pending -= u64::from(peer.pending);
        self.subtract_burden(peer.kind, burden);
    }

    pub(crate) fn add_burden(&mut self, kind: Kind, burden: Burden) {
        self.region_bytes += burden.size_bytes;
        self.weight_bytes += burden.weight_bytes;
        self.write_load += burden.write;
        if kind == Kind::Leader {
            self.leader_bytes += burden.size_bytes;
            self.read_load += burden.read;
        }
    }

    pub(crate) fn subtract_burden(&mut self, kind: Kind, burden: Burden) {
        self.region_bytes -= burden.size_bytes;
        self.weight_bytes -= burden.weight_bytes;
        self.write_load -= burden.write;
        if kind == Kind::Leader {
            self.leader_bytes -= burden.size_bytes;
            self.read_load -= burden.read;
        }
    }

    fn count_of(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Leader => &mut self.leaders,
            Kind::Follower => &mut self.followers,
            Kind::Learner => &mut self.learners,
        }
    }
}

/// The peers of one store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holding {
    pub(crate) counters: Counters,
    leaders: Vec<Slot>,
    followers: Vec<Slot>,
    learners: Vec<Slot>,
    pending: Vec<Slot>,
}

impl Holding {
    pub(crate) fn of_kind(&self, kind: Kind) -> &[Slot] {
        match kind {
            Kind::Leader => &self.leaders,
            Kind::Follower => &self.followers,
            Kind::Learner => &self.learners,
        }
    }

    fn of_kind_mut(&mut self, kind: Kind) -> &mut Vec<Slot> {
        match kind {
            Kind::Leader => &mut self.leaders,
            Kind::Follower => &mut self.followers,
            Kind::Learner => &mut self.learners,
        }
    }

    pub(crate) fn pending(&self) -> &[Slot] {
        &self.pending
    }

    /// Adds a peer and answers its place.
    pub(crate) fn push(&mut self, kind: Kind, slot: Slot) -> u32 {
        let array = self.of_kind_mut(kind);
        array.push(slot);
        u32::try_from(array.len() - 1).expect("a store holds fewer than 2^32 peers")
    }

    /// Removes the peer at `place`. Answers the slot that was moved into its place, if one was.
    pub(crate) fn swap_remove(&mut self, kind: Kind, place: u32) -> Option<Slot> {
        let array = self.of_kind_mut(kind);
        array.swap_remove(place as usize);
        // A store that was drained, or that lost the election of many regions, gives its memory back.
        if array.len() < array.capacity() / 4 {
            array.shrink_to(array.len() * 2);
        }
        array.get(place as usize).copied()
    }

    pub(crate) fn set_pending(&mut self, slot: Slot, pending: bool) {
        match (self.pending.binary_search(&slot), pending) {
            (Err(place), true) => self.pending.insert(place, slot),
            (Ok(place), false) => drop(self.pending.remove(place)),
            _ => {}
        }
    }
}
