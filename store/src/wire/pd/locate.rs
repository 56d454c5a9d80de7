//! Where regions are, as messages: both directions, for the scheduler and for the nodes that ask it.

use scheduler::{Peer, Region, StoreId};

use super::beats::Malformed;
use super::nodes::other_cluster;
use super::{Pd, Status};
use crate::control::locate::{REGIONS_MAX, Regions};
use crate::wire::proto::{metapb, ringkeep};

impl Pd {
    /// Says where a key is.
    pub(super) fn locate(
        &self,
        request: ringkeep::LocateRequest,
    ) -> Result<ringkeep::LocateResponse, Status> {
        let ringkeep::LocateRequest { cluster_id, key, limit } = request;
        let ours = self.control.cluster_id();
        if cluster_id != ours {
            return Err(other_cluster(cluster_id, ours));
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).clamp(1, REGIONS_MAX);
        Ok(message(&self.control.locate(&key, limit)))
    }
}

fn message(Regions { regions, addresses }: &Regions) -> ringkeep::LocateResponse {
    let located = |(region, leader): &(Region, Option<Peer>)| ringkeep::LocatedRegion {
        region: Some(metapb::Region::from(region)),
        leader: leader.as_ref().map(metapb::Peer::from),
    };
    let address = |(store, address): &(StoreId, String)| ringkeep::StoreAddress {
        store: store.0,
        address: address.clone(),
    };
    ringkeep::LocateResponse {
        regions: regions.iter().map(located).collect(),
        addresses: addresses.iter().map(address).collect(),
    }
}

/// What a response says.
///
/// # Errors
/// A region is missing or its range is inverted.
pub(super) fn regions(response: ringkeep::LocateResponse) -> Result<Regions, Malformed> {
    let ringkeep::LocateResponse { regions, addresses } = response;
    let located = |ringkeep::LocatedRegion { region, leader }| {
        let region = region.ok_or("an answer names no region")?;
        let region = Region::try_from(&region).map_err(|_| "the range of a region is inverted")?;
        Ok((region, leader.as_ref().map(Peer::from)))
    };
    let address = |ringkeep::StoreAddress { store, address }| (StoreId(store), address);
    let regions: Result<Vec<(Region, Option<Peer>)>, Malformed> = regions.into_iter().map(located).collect();
    Ok(Regions { regions: regions?, addresses: addresses.into_iter().map(address).collect() })
}

#[cfg(test)]
mod tests {
    use scheduler::{Epoch, KeyRange, PeerId, RegionId};

    use super::*;

    #[test]
    fn what_is_known_of_regions_arrives_as_it_left() {
        let region = |id, start, end| Region {
            id: RegionId(id),
            range: KeyRange::new(start, end).unwrap(),
            epoch: Epoch::new(4, id),
            peers: vec![Peer::voter(PeerId(10 + id), StoreId(1)), Peer::learner(PeerId(20 + id), StoreId(2))],
        };
        let (first, second) = (region(5, "b", "m"), region(6, "m", ""));
        let leader = first.peers[0];
        let sent = Regions {
            regions: vec![(first, Some(leader)), (second, None)],
            addresses: vec![(StoreId(1), "127.0.0.1:7".to_owned())],
        };
        assert_eq!(regions(message(&sent)), Ok(sent.clone()));
        let mut broken = message(&sent);
        broken.regions[1].region = None;
        assert!(regions(broken).is_err());
    }
}
