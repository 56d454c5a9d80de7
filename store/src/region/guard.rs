//! May this request run here? The checks of a client's route against the region as it is, in the order that clients expect:
//! store, region, leader, peer, term, epoch, keys.

use scheduler::epoch::Command;
use scheduler::{Epoch, Peer, PeerId, Region, StoreId};

use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::request::Route;

/// What the guard has to know about the peer here.
#[derive(Clone, Copy, Debug)]
pub struct PeerFacts<'a> {
    /// This store.
    pub store: StoreId,
    /// The region as it is.
    pub region: &'a Region,
    /// Our peer.
    pub me: PeerId,
    /// Our term.
    pub term: u64,
    /// Who leads, if known.
    pub leader: Option<Peer>,
}

/// Checks a client's route. Reads and writes of keys check the range part of the epoch, as [`Command::Data`] says.
pub fn admit(here: PeerFacts<'_>, route: &Route) -> Result<(), Refusal> {
    check(here, route, lead)
}

/// The same for a read, which a replica that does not lead may answer if the client says so: it asks the leader first.
pub fn admit_read(here: PeerFacts<'_>, route: &Route) -> Result<(), Refusal> {
    check(here, route, |here| if route.replica_read { Ok(()) } else { lead(here) })
}

fn check(
    here: PeerFacts<'_>,
    route: &Route,
    may_answer: impl FnOnce(PeerFacts<'_>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    if route.store_id != 0 && route.store_id != here.store.0 {
        return Err(Refusal::StoreNotMatch { asked: route.store_id, actual: here.store.0 });
    }
    may_answer(here)?;
    if route.peer_id != 0 && route.peer_id != here.me.0 {
        return Err(Refusal::PeerNotMatch { asked: route.peer_id, actual: here.me.0 });
    }
    // A term one behind is what a client sees right after an election; two behind is another leadership.
    if route.term != 0 && route.term + 1 < here.term {
        return Err(Refusal::StaleCommand);
    }
    let asked = Epoch::new(route.conf_ver, route.version);
    if here.region.epoch.admit(Command::Data, asked).is_err() && !planted(Bug::StaleRoute) {
        return Err(Refusal::EpochNotMatch { current: vec![here.region.clone()] });
    }
    Ok(())
}

/// Checks that our peer leads.
pub fn lead(here: PeerFacts<'_>) -> Result<(), Refusal> {
    match here.leader {
        Some(leader) if leader.id == here.me => Ok(()),
        leader => Err(Refusal::NotLeader { region_id: here.region.id.0, leader }),
    }
}

/// Checks that a key belongs to the region.
pub fn covers(region: &Region, key: &[u8]) -> Result<(), Refusal> {
    if region.range.contains(key) {
        return Ok(());
    }
    Err(Refusal::KeyNotInRegion { key: key.to_vec().into(), region: Box::new(region.clone()) })
}

/// Checks that the keys just below `end` belong to the region; an empty `end` means no bound.
pub fn covers_before(region: &Region, end: &[u8]) -> Result<(), Refusal> {
    let (first, last) = (region.range.start().as_bytes(), region.range.end().as_bytes());
    let inside = last.is_empty() || (!end.is_empty() && end <= last);
    if inside && (end.is_empty() || end > first) {
        return Ok(());
    }
    Err(Refusal::KeyNotInRegion { key: end.to_vec().into(), region: Box::new(region.clone()) })
}

/// Checks that `[start, end)` lies inside the region; an empty `end` means no bound.
pub fn covers_range(region: &Region, start: &[u8], end: &[u8]) -> Result<(), Refusal> {
    covers(region, start)?;
    let last = region.range.end().as_bytes();
    let inside = last.is_empty() || (!end.is_empty() && end <= last);
    if inside {
        return Ok(());
    }
    Err(Refusal::KeyNotInRegion { key: end.to_vec().into(), region: Box::new(region.clone()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use scheduler::{KeyRange, RegionId};

    fn region() -> Region {
        Region {
            id: RegionId(9),
            range: KeyRange::new("b", "m").unwrap(),
            epoch: Epoch::new(2, 3),
            peers: vec![Peer::voter(PeerId(11), StoreId(1)), Peer::voter(PeerId(12), StoreId(2))],
        }
    }

    fn check(change: impl FnOnce(&mut Route), leader: Option<u64>) -> Result<(), Refusal> {
        let region = region();
        let mut route = Route {
            region_id: 9,
            conf_ver: 2,
            version: 3,
            peer_id: 11,
            store_id: 1,
            term: 6,
            replica_read: false,
        };
        change(&mut route);
        let leader = leader.and_then(|id| region.peer(PeerId(id))).copied();
        admit(PeerFacts { store: StoreId(1), region: &region, me: PeerId(11), term: 6, leader }, &route)
    }

    #[test]
    fn each_wrong_part_of_a_route_gets_its_own_refusal() {
        assert_eq!(check(|_| {}, Some(11)), Ok(()));
        let store = check(|route| route.store_id = 2, Some(11));
        assert_eq!(store, Err(Refusal::StoreNotMatch { asked: 2, actual: 1 }));
        let peer = check(|route| route.peer_id = 12, Some(11));
        assert_eq!(peer, Err(Refusal::PeerNotMatch { asked: 12, actual: 11 }));
        assert_eq!(check(|route| route.term = 4, Some(11)), Err(Refusal::StaleCommand));
        assert_eq!(
            check(|route| route.term = 5, Some(11)),
            Ok(()),
            "one term behind is an election just over"
        );
        for version in [2, 4] {
            let epoch = check(|route| route.version = version, Some(11));
            assert_eq!(epoch, Err(Refusal::EpochNotMatch { current: vec![region()] }));
        }
        assert_eq!(check(|route| route.conf_ver = 9, Some(11)), Ok(()), "data depends on the range alone");
    }

    #[test]
    fn a_follower_names_the_leader_and_says_so_before_anything_else() {
        let leader = region().peers[1];
        let refused = check(|route| route.version = 99, Some(12));
        assert_eq!(refused, Err(Refusal::NotLeader { region_id: 9, leader: Some(leader) }));
        assert_eq!(check(|_| {}, None), Err(Refusal::NotLeader { region_id: 9, leader: None }));
    }

    #[test]
    fn a_read_of_a_replica_needs_no_leader_and_everything_else() {
        let region = region();
        let route = |replica_read| Route {
            region_id: 9,
            conf_ver: 2,
            version: 3,
            peer_id: 11,
            store_id: 1,
            term: 6,
            replica_read,
        };
        let here = PeerFacts { store: StoreId(1), region: &region, me: PeerId(11), term: 6, leader: None };
        assert_eq!(admit_read(here, &route(true)), Ok(()));
        let not_leader = Err(Refusal::NotLeader { region_id: 9, leader: None });
        assert_eq!(
            (admit_read(here, &route(false)), admit(here, &route(true))),
            (not_leader.clone(), not_leader)
        );
        let stale = Route { version: 2, ..route(true) };
        assert_eq!(admit_read(here, &stale), Err(Refusal::EpochNotMatch { current: vec![region.clone()] }));
        let other = Route { peer_id: 12, ..route(true) };
        assert_eq!(admit_read(here, &other), Err(Refusal::PeerNotMatch { asked: 12, actual: 11 }));
    }

    #[test]
    fn a_store_or_peer_that_is_not_named_is_not_checked() {
        assert_eq!(check(|route| (route.store_id, route.peer_id, route.term) = (0, 0, 0), Some(11)), Ok(()));
    }

    #[test]
    fn a_scan_downwards_begins_in_the_region() {
        let region = region();
        for (end, inside) in
            [("m", true), ("bb", true), ("b", false), ("a", false), ("ma", false), ("", false)]
        {
            assert_eq!(covers_before(&region, end.as_bytes()).is_ok(), inside, "below {end}");
        }
        let whole = Region { range: KeyRange::new("", "").unwrap(), ..region };
        assert!(["", "x"].iter().all(|end| covers_before(&whole, end.as_bytes()).is_ok()));
    }

    #[test]
    fn ranges_end_where_the_region_ends() {
        let region = region();
        for (start, end, inside) in
            [("b", "m", true), ("c", "d", true), ("b", "", false), ("a", "c", false), ("c", "n", false)]
        {
            assert_eq!(
                covers_range(&region, start.as_bytes(), end.as_bytes()).is_ok(),
                inside,
                "[{start}, {end})"
            );
        }
    }
}
