//! The scheduler's words in the protocol's form, and back.

use bytes::Bytes;
use scheduler::{Epoch, KeyRange, Peer, PeerId, RangeError, Region, RegionId, Role, StoreId};

use super::metapb;

impl From<&Peer> for metapb::Peer {
    fn from(peer: &Peer) -> Self {
        let role = match peer.role {
            Role::Voter => 0,
            Role::Learner => 1,
            Role::Incoming => 2,
            Role::Outgoing => 3,
        };
        Self { id: peer.id.get(), store_id: peer.store.get(), role }
    }
}

impl From<&metapb::Peer> for Peer {
    fn from(peer: &metapb::Peer) -> Self {
        let role = match peer.role {
            1 => Role::Learner,
            2 => Role::Incoming,
            3 => Role::Outgoing,
            _ => Role::Voter,
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
