//! The regions of a new node.
//!
//! The key space is cut so that every store has several regions from the start. Nothing is known about the keys yet, except that
//! most begin with a printable character, so the cuts divide those. Each boundary is written in the memory-comparable encoding
//! (eight bytes, then a marker), because transactional clients decode the boundaries they get; to raw keys it is a byte
//! string like any other.
//!
//! The last region begins above every sensible key and stays empty: a TiKV raw client that scans into a region without an end
//! before its limit is filled starts over at the first key.

use scheduler::{Epoch, KeyRange, Peer, PeerId, Region, RegionId};

use super::identity::Identity;
use crate::keyspace;

/// Regions per store on a fresh node, the sentinel aside.
const REGIONS_PER_STORE: usize = 4;

/// Most regions are cut within these first bytes: '0' to 'z'.
const FIRST_BYTE: usize = b'0' as usize;
const LAST_BYTE: usize = b'z' as usize;

/// The regions of a fresh directory, in key order, each with one voter.
pub fn regions(identity: &Identity) -> Vec<Region> {
    let bounds = boundaries(identity.stores);
    let count = bounds.len() + 1;
    let first_region = identity.first_free_id();
    let first_peer = first_region + count as u64;
    let bound = |place: Option<usize>| place.and_then(|place| bounds.get(place)).cloned().unwrap_or_default();
    let region = |place: usize| {
        let store = identity.store_id(place % identity.stores);
        let range = KeyRange::new(bound(place.checked_sub(1)), bound(Some(place)));
        Region {
            id: RegionId(first_region + place as u64),
            range: range.expect("the boundaries ascend"),
            epoch: Epoch::FIRST,
            peers: vec![Peer::voter(PeerId(first_peer + place as u64), store)],
        }
    };
    (0..count).map(region).collect()
}

/// The first id that neither the directory nor its first regions use.
pub fn first_free_id(identity: &Identity) -> u64 {
    identity.first_free_id() + 2 * (boundaries(identity.stores).len() as u64 + 1)
}

fn boundaries(stores: usize) -> Vec<Vec<u8>> {
    let wanted = stores * REGIONS_PER_STORE;
    let mut bounds: Vec<Vec<u8>> = (1..wanted)
        .map(|place| {
            // Two bytes of resolution, so that a node with many stores still gets distinct boundaries.
            let width = (LAST_BYTE - FIRST_BYTE) << 8;
            let point = (FIRST_BYTE << 8) + width * place / wanted;
            keyspace::encode(&[(point >> 8) as u8, (point & 0xff) as u8])
        })
        .collect();
    bounds.push(keyspace::encode(&[0xff; 16]));
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_regions_cover_the_key_space_without_gaps_and_every_store_has_some() {
        for stores in [1, 2, 3, 16, 200] {
            let identity = Identity { cluster: 1, node: stores as u64 + 1, stores, first_store: 1 };
            let regions = regions(&identity);
            assert!(regions.first().unwrap().range.start().is_empty());
            assert!(regions.last().unwrap().range.end().is_empty());
            for pair in regions.windows(2) {
                assert_eq!(pair[0].range.end(), pair[1].range.start());
            }
            for index in 0..stores {
                let held = regions.iter().filter(|region| region.peer_on(identity.store_id(index)).is_some());
                assert!(held.count() >= REGIONS_PER_STORE);
            }
        }
    }

    #[test]
    fn no_id_names_two_things() {
        let identity = Identity { cluster: 1, node: 3, stores: 2, first_store: 1 };
        let regions = regions(&identity);
        let mut ids: Vec<u64> = vec![1, 2, identity.node, first_free_id(&identity)];
        ids.extend(regions.iter().flat_map(|region| [region.id.0, region.peers[0].id.0]));
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert_eq!(ids.last(), Some(&first_free_id(&identity)));
    }
}
