//! The descriptor of a region: what it covers, who holds it, and under which epoch.
//!
//! A descriptor is a value. Nothing edits one in place: a change builds the next descriptor (see [`crate::change`])
//! and replaces the old one whole, so that an index ordered by range can never disagree with the ranges it orders.

use std::fmt;

use crate::epoch::Epoch;
use crate::id::{PeerId, RegionId, StoreId};
use crate::range::KeyRange;

/// What a peer counts for in its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Votes, and counts towards the quorum.
    #[default]
    Voter,
    /// Receives the log and counts for nothing.
    Learner,
    /// In a joint configuration: a voter of the incoming half that becomes a plain voter on leaving it.
    Incoming,
    /// In a joint configuration: a voter of the outgoing half that becomes a learner on leaving it.
    Outgoing,
}

/// One replica of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The replica's own identity, never used again after its removal.
    pub id: PeerId,
    /// The store that holds it.
    pub store: StoreId,
    /// What it counts for.
    pub role: Role,
}

impl Peer {
    /// A voting peer.
    #[must_use]
    pub const fn voter(id: PeerId, store: StoreId) -> Self {
        Self { id, store, role: Role::Voter }
    }

    /// A learner.
    #[must_use]
    pub const fn learner(id: PeerId, store: StoreId) -> Self {
        Self { id, store, role: Role::Learner }
    }

    /// Whether the peer votes now, in either half of a joint configuration.
    #[must_use]
    pub const fn votes(&self) -> bool {
        !matches!(self.role, Role::Learner)
    }

    /// Whether the peer votes once a joint configuration has been left.
    #[must_use]
    pub const fn will_vote(&self) -> bool {
        matches!(self.role, Role::Voter | Role::Incoming)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id.0, self.store.0)?;
        match self.role {
            Role::Voter => Ok(()),
            role @ (Role::Learner | Role::Incoming | Role::Outgoing) => write!(f, " ({role:?})"),
        }
    }
}

/// A region: a half-open key range, replicated by one group of peers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    /// Its identity. The left part of a split keeps it.
    pub id: RegionId,
    /// The keys it covers.
    pub range: KeyRange,
    /// The incarnation of membership and range.
    pub epoch: Epoch,
    /// Its replicas, in an order that is the same on all of them: a split hands out new peer ids by position.
    pub peers: Vec<Peer>,
}

impl Region {
    /// The peer with this id.
    #[must_use]
    pub fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.id == id)
    }

    /// The peer on this store.
    #[must_use]
    pub fn peer_on(&self, store: StoreId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.store == store)
    }

    /// The peers that vote now.
    pub fn voters(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.votes())
    }

    /// Whether a joint configuration has been entered and not left.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.peers.iter().any(|peer| matches!(peer.role, Role::Incoming | Role::Outgoing))
    }

    /// Whether the descriptor can be true: no peer id and no store occurs twice.
    ///
    /// # Errors
    /// [`RegionError`] naming the pair that contradicts itself.
    pub fn check(&self) -> Result<(), RegionError> {
        for (index, peer) in self.peers.iter().enumerate() {
            for other in &self.peers[..index] {
                if other.id == peer.id {
                    return Err(RegionError::SamePeerTwice { region: self.id, peer: peer.id });
                }
                if other.store == peer.store {
                    return Err(RegionError::SameStoreTwice { region: self.id, store: peer.store });
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} on", self.id, self.range, self.epoch)?;
        self.peers.iter().try_for_each(|peer| write!(f, " {peer}"))
    }
}

/// Why a descriptor contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionError {
    /// Two peers carry the same id.
    SamePeerTwice {
        /// The region described.
        region: RegionId,
        /// The repeated id.
        peer: PeerId,
    },
    /// Two peers are said to live on the same store.
    SameStoreTwice {
        /// The region described.
        region: RegionId,
        /// The repeated store.
        store: StoreId,
    },
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SamePeerTwice { region, peer } => write!(f, "{region} lists {peer} twice"),
            Self::SameStoreTwice { region, store } => write!(f, "{region} lists two peers on {store}"),
        }
    }
}

impl std::error::Error for RegionError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_with_a_repeated_id_or_store_is_refused() {
        let mut region = Region {
            id: RegionId(0),
            range: KeyRange::full(),
            epoch: Epoch::FIRST,
            peers: vec![Peer::voter(PeerId(0), StoreId(0)), Peer::voter(PeerId(1), StoreId(1))],
        };
        assert_eq!(region.check(), Ok(()));
        region.peers[1].id = PeerId(0);
        assert!(matches!(region.check(), Err(RegionError::SamePeerTwice { .. })));
        region.peers[1] = Peer::learner(PeerId(2), StoreId(0));
        assert!(matches!(region.check(), Err(RegionError::SameStoreTwice { .. })));
    }
}
