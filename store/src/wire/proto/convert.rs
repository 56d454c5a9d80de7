//! The scheduler's words in the protocol's form, and back.

use bytes::Bytes;
use scheduler::{Epoch, KeyRange, Peer, PeerId, RangeError, Region, RegionId, Role, StoreId};

use super::metapb::{self, PeerRole};
use super::pdpb;

impl From<&Peer> for metapb::Peer {
    fn from(peer: &Peer) -> Self {
        let role = match peer.role {
            Role::Voter => PeerRole::Voter,
            Role::Learner => PeerRole::Learner,
            Role::Incoming => PeerRole::IncomingVoter,
            Role::Outgoing => PeerRole::DemotingVoter,
        };
        Self { id: peer.id.get(), store_id: peer.store.get(), role: role.into() }
    }
}

impl From<&metapb::Peer> for Peer {
    fn from(peer: &metapb::Peer) -> Self {
        // A role that is not known reads as a voter, as the encoding has it.
        let role = match peer.role() {
            PeerRole::Voter => Role::Voter,
            PeerRole::Learner => Role::Learner,
            PeerRole::IncomingVoter => Role::Incoming,
            PeerRole::DemotingVoter => Role::Outgoing,
        };
        Self { id: PeerId(peer.id), store: StoreId(peer.store_id), role }
    }
}

impl From<&Region> for metapb::Region {
    fn from(region: &Region) -> Self {
        let epoch = metapb::RegionEpoch { conf_ver: region.epoch.conf_ver, version: region.epoch.version };
        Self {
            id: region.id.get(),
            start_key: Bytes::copy_from_slice(region.range.start()),
            end_key: Bytes::copy_from_slice(region.range.end()),
            region_epoch: Some(epoch),
            peers: region.peers.iter().map(metapb::Peer::from).collect(),
        }
    }
}

impl TryFrom<&metapb::Region> for Region {
    type Error = RangeError;

    fn try_from(region: &metapb::Region) -> Result<Self, RangeError> {
        let epoch = region.region_epoch.unwrap_or_default();
        Ok(Self {
            id: RegionId(region.id),
            range: KeyRange::new(&*region.start_key, &*region.end_key)?,
            epoch: Epoch::new(epoch.conf_ver, epoch.version),
            peers: region.peers.iter().map(Peer::from).collect(),
        })
    }
}

/// The two have the same fields under two names.
impl From<pdpb::Region> for pdpb::RegionResponse {
    fn from(known: pdpb::Region) -> Self {
        let pdpb::Region { region, leader, down_peers, pending_peers } = known;
        Self { region, leader, down_peers, pending_peers }
    }
}
