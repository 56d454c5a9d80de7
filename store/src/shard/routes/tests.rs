//! Lookups in routes, changes of them, and what these cost.

use engine::rt::local::oneshot;
use scheduler::{KeyRange, PeerId, RegionId, StoreId};

use super::*;
use crate::shard::placed::StreamId;

fn routes() -> Routes {
    let place = |start: &'static str, end: &'static str, region_id| Place {
        start: Bytes::from_static(start.as_bytes()),
        end: Bytes::from_static(end.as_bytes()),
        region_id,
        epoch: Epoch::FIRST,
        source: Source::Store(0),
        leader: None,
    };
    Routes::new(vec![place("m", "", 3), place("", "c", 1), place("c", "m", 2)])
}

#[test]
fn a_key_is_found_in_the_region_that_contains_it() {
    let routes = routes();
    for (key, region) in [("", 1), ("b", 1), ("c", 2), ("lz", 2), ("m", 3), ("zz", 3)] {
        assert_eq!(routes.find(key.as_bytes()).unwrap().region_id, region, "{key}");
        let containing = routes.places.iter().filter(|place| place.contains(key.as_bytes()));
        let containing: Vec<u64> = containing.map(|place| place.region_id).collect();
        assert_eq!(containing, [region], "{key}");
    }
}

#[test]
fn the_region_before_a_boundary_is_the_one_that_ends_there() {
    let routes = routes();
    for (key, region) in [("", 3), ("c", 1), ("cc", 2), ("m", 2), ("n", 3)] {
        assert_eq!(routes.find_before(key.as_bytes()).unwrap().region_id, region, "{key}");
    }
}

fn place(start: &'static str, end: &'static str, region_id: u64, version: u64) -> Place {
    let (start, end) = (Bytes::from_static(start.as_bytes()), Bytes::from_static(end.as_bytes()));
    Place { start, end, region_id, epoch: Epoch::new(1, version), source: Source::Store(0), leader: None }
}

#[test]
fn keys_that_no_store_has_are_found_nowhere_from_neither_side() {
    let routes = Routes::new(vec![place("", "c", 1, 1), place("m", "p", 2, 1)]);
    for key in ["c", "lz", "p", "z"] {
        assert!(routes.find(key.as_bytes()).is_none(), "{key}");
    }
    for key in ["", "cc", "m", "q"] {
        assert!(routes.find_before(key.as_bytes()).is_none(), "below {key}");
    }
    assert_eq!(routes.find_before(b"c").unwrap().region_id, 1);
}

fn of_store(store: usize, place: Place) -> Place {
    Place { source: Source::Store(store), ..place }
}

#[test]
fn of_two_that_claim_the_same_keys_the_newer_is_right() {
    let newer = of_store(1, place("c", "", 2, 2));
    let mut routes = Routes::new(vec![place("", "m", 1, 1), newer, place("m", "", 3, 1)]);
    assert_eq!(routes.find(b"d").unwrap().region_id, 2);
    assert_eq!(routes.find(b"x").unwrap().region_id, 2);
    assert!(routes.find(b"a").is_none(), "what overlaps a newer region is not there as it says");
    // Once it has left, what it covered is there again.
    assert!(routes.publish(1, vec![("c".into(), None)]));
    let regions = ["a", "d", "x"].map(|key| routes.find(key.as_bytes()).unwrap().region_id);
    assert_eq!(regions, [1, 1, 3]);
    routes.check();
}

/// While a region moves from one store of the node to another, both have a replica.
#[test]
fn of_two_replicas_here_the_one_that_leads_is_asked() {
    let (here, there) = (place("", "m", 1, 1), of_store(1, place("", "m", 1, 1)));
    let mut routes = Routes::new(vec![here.clone(), there.clone(), place("m", "", 2, 1)]);
    let asked = |routes: &Routes| routes.find(b"d").unwrap().source;
    assert_eq!(asked(&routes), Source::Store(0));
    routes.lead_here(1, Some(1));
    assert_eq!(asked(&routes), Source::Store(1));
    // The other one has applied a change of membership first.
    let ahead = Place { epoch: Epoch::new(2, 1), ..here.clone() };
    routes.publish(0, vec![("".into(), Some(ahead))]);
    assert_eq!(asked(&routes), Source::Store(1));
    // It has been split, and the one that leads has not heard of it.
    routes
        .publish(0, vec![("".into(), Some(place("", "g", 1, 2))), ("g".into(), Some(place("g", "m", 3, 2)))]);
    assert_eq!(asked(&routes), Source::Store(0));
    routes.publish(0, vec![("g".into(), None), ("".into(), Some(here))]);
    assert_eq!(asked(&routes), Source::Store(1));
    routes.lead_here(1, Some(0));
    assert_eq!(asked(&routes), Source::Store(0));
    routes.lead_here(1, Some(1));
    routes.lead_here(1, None);
    assert_eq!(asked(&routes), Source::Store(0), "no leader is known");
    // Who has left is not preferred when it comes back.
    routes.lead_here(1, Some(1));
    routes.publish(1, vec![("".into(), None)]);
    assert_eq!(asked(&routes), Source::Store(0));
    routes.publish(1, vec![("".into(), Some(there))]);
    assert_eq!(asked(&routes), Source::Store(0));
    // Where there is one replica nothing is noted.
    routes.lead_here(2, Some(1));
    assert_eq!(routes.find(b"x").unwrap().source, Source::Store(0));
    routes.check();
}

#[test]
fn a_place_that_did_not_change_is_the_same_and_every_other_one_is_new() {
    let mut routes = Routes::new(vec![place("", "m", 1, 1), place("m", "", 2, 1)]);
    let place_of = |routes: &Routes, key: &str| routes.find(key.as_bytes()).unwrap().clone();
    let (left, right) = (place_of(&routes, "d"), place_of(&routes, "x"));
    let cut = [place("", "c", 1, 2), place("c", "m", 3, 2)].map(|place| (place.start.clone(), Some(place)));
    assert!(routes.publish(0, cut.to_vec()) && !routes.publish(0, cut.to_vec()));
    assert!(Rc::ptr_eq(&place_of(&routes, "x"), &right));
    assert!(!Rc::ptr_eq(&place_of(&routes, "d"), &left));
    // Joined again, it is another place than before.
    let joined = place("", "m", 1, 3);
    assert!(routes.publish(0, vec![("".into(), Some(joined)), ("c".into(), None)]));
    assert!(!Rc::ptr_eq(&place_of(&routes, "d"), &left));
    assert_eq!(routes.find(b"d").unwrap().region_id, 1);
}

fn region(start: &str, end: &str, id: u64, version: u64) -> Region {
    Region {
        id: RegionId(id),
        range: KeyRange::new(start, end).unwrap(),
        epoch: Epoch::new(1, version),
        peers: (1..=3).map(|store| Peer::voter(PeerId(10 * id + store), StoreId(store))).collect(),
    }
}

#[test]
fn what_the_scheduler_says_fills_what_no_store_has_and_yields_to_what_is_newer() {
    let mut routes = Routes::new(vec![place("", "c", 1, 5)]);
    let elsewhere = region("c", "m", 2, 1);
    assert!(routes.locate(&elsewhere, elsewhere.peers[0]));
    assert_eq!(routes.find(b"d").unwrap().leader, Some(elsewhere.peers[0]));
    assert_eq!(
        (routes.around(b"d"), routes.around(b"x")),
        (("c".into(), "m".into()), ("m".into(), "".into()))
    );
    // A region that was split is known anew as a whole; what is older is refused.
    let (left, right) = (region("c", "g", 2, 2), region("g", "m", 4, 2));
    assert!(routes.locate(&left, left.peers[0]) && routes.locate(&right, right.peers[0]));
    assert!(!routes.locate(&elsewhere, elsewhere.peers[0]));
    assert_eq!((routes.find(b"d").unwrap().region_id, routes.find(b"h").unwrap().region_id), (2, 4));
    // A replica here is asked before one elsewhere, unless that knows of a newer version.
    assert!(routes.publish(0, vec![("c".into(), Some(place("c", "m", 2, 1)))]));
    assert_eq!(routes.find(b"d").unwrap().source, Source::Scheduler);
    assert!(routes.publish(0, vec![("c".into(), Some(place("c", "g", 2, 2)))]));
    assert_eq!(routes.find(b"d").unwrap().source, Source::Store(0));
    assert!(routes.forget(2) && routes.forget(4) && !routes.forget(4));
    assert!(routes.find(b"h").is_none() && routes.find(b"d").is_some());
    assert_eq!(routes.located(), 0);
}

#[test]
fn where_no_leader_is_known_a_replica_here_is_asked_or_the_next_one_elsewhere() {
    let mut routes = Routes::new(vec![place("", "c", 1, 1)]);
    let elsewhere = region("c", "", 2, 1);
    routes.locate(&elsewhere, elsewhere.peers[1]);
    let leader = |routes: &Routes, key: &str| routes.find(key.as_bytes()).unwrap().leader.map(|peer| peer.id);
    let asked: Vec<_> = (0..3)
        .map(|_| {
            assert!(routes.lead(2, None));
            leader(&routes, "d").unwrap().0
        })
        .collect();
    assert_eq!(asked, [23, 21, 22]);
    let other = Peer::voter(PeerId(77), StoreId(7));
    assert!(routes.lead(1, Some(other)) && !routes.lead(1, Some(other)));
    assert_eq!(leader(&routes, "a"), Some(PeerId(77)));
    // A change of the region does not forget who leads it.
    routes.publish(0, vec![("".into(), Some(place("", "b", 1, 2)))]);
    assert_eq!(leader(&routes, "a"), Some(PeerId(77)));
    assert!(routes.lead(1, None) && leader(&routes, "a").is_none());
}

/// A change looks at the regions that it touches and at those beside it, however many there are.
#[test]
fn a_change_costs_by_what_changed() {
    let keys: Vec<Bytes> = (0..=5000).map(|n| Bytes::from(format!("{n:05}"))).collect();
    let of = |n: usize, version: u64| Place {
        start: keys[n].clone(),
        end: keys[n + 1].clone(),
        region_id: 1 + n as u64,
        epoch: Epoch::new(1, version),
        source: Source::Store(n % 4),
        leader: None,
    };
    let mut routes = Routes::new((0..5000).map(|n| of(n, 1)).collect());
    let mut cost = |change: &mut dyn FnMut(&mut Routes)| {
        let before = routes.looked_at();
        change(&mut routes);
        routes.looked_at() - before
    };
    let leader = Peer::voter(PeerId(9), StoreId(9));
    assert_eq!(cost(&mut |routes| assert!(routes.lead(2500, Some(leader)))), 1);
    let newer = of(2500, 2);
    let published = cost(&mut |routes| {
        assert!(routes.publish(0, vec![(newer.start.clone(), Some(newer.clone()))]));
    });
    let left = cost(&mut |routes| assert!(routes.publish(0, vec![(newer.start.clone(), None)])));
    assert!(published <= 8 && left <= 8, "{published} and {left} claims of 5000 were looked at");
}

/// What is in flight to a place is known behind any number of changes.
#[test]
fn writes_in_flight_to_former_places_are_seen_behind_later_changes() {
    let mut routes = Routes::new(vec![place("", "m", 1, 1), place("m", "", 2, 1)]);
    let ((_answer, pending), keys) = (oneshot(), KeyHash::of(b"d"));
    let moving = routes.find(b"d").unwrap().hold((StreamId(1), 5), keys, &pending);
    let cut = |start: &'static str, end, id, version| (start.into(), Some(place(start, end, id, version)));
    assert!(routes.publish(0, vec![cut("", "c", 1, 2), cut("c", "m", 3, 2)]));
    assert!(routes.publish(0, vec![cut("", "m", 1, 3), ("c".into(), None)]));
    let before = |routes: &Routes, number, key: &str| {
        routes.is_before(number, KeyHash::of(key.as_bytes()), routes.find(key.as_bytes()).unwrap())
    };
    assert!(!before(&routes, 4, "d"), "what was submitted earlier does not wait");
    assert!(before(&routes, 6, "d"), "a write is in flight under the first version");
    assert!(!before(&routes, 6, "e") && !before(&routes, 6, "x"), "others do not wait");
    drop(moving);
    assert!(!before(&routes, 6, "d") && routes.has_left_behind());
    routes.forget_answered();
    assert!(!routes.has_left_behind());
}

/// Else the parts of one region, and the regions of a store that starts, would cost the square of their number.
#[test]
fn what_lies_together_is_decided_at_once() {
    const PARTS: u64 = 2_000;
    let key = |n: u64| if n == 0 || n == PARTS { Bytes::new() } else { Bytes::from(format!("{n:05}")) };
    let part = |n: u64| Place { start: key(n), end: key(n + 1), ..place("", "", n + 1, 2) };
    let mut routes = Routes::new(vec![place("", "", 1, 1)]);
    let before = routes.decided();
    // Each of them comes from another place of the list than it has in key order.
    let parts: Vec<PlaceChange> =
        (0..PARTS).map(|n| part(n * 777 % PARTS)).map(|it| (it.start.clone(), Some(it))).collect();
    assert!(routes.publish(0, parts));
    assert_eq!((routes.decided() - before, routes.find(b"01234").unwrap().region_id), (1, 1235));
    let two_stores = (0..PARTS).map(|n| of_store(n as usize % 2, part(n * 777 % PARTS)));
    let again = Routes::new(two_stores.collect());
    again.check();
    assert_eq!((again.decided(), again.find(b"01234").unwrap().region_id), (1, 1235));
    // What lies apart is decided apart.
    let newer = |n: u64| (key(n), Some(Place { epoch: Epoch::new(2, 2), ..part(n) }));
    assert!(routes.publish(0, vec![newer(5), newer(900), newer(6)]));
    assert_eq!(routes.decided() - before, 3);
}
