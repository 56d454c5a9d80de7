//! When a new map is full enough to act on, under the names of the course's tests.
#![expect(non_snake_case, reason = "the tests keep the names under which the course knows them")]

use scheduler::prepare::is_prepared;
use scheduler::{
    Cluster, Config, Epoch, KeyRange, NodeId, Peer, PeerId, Region, RegionId, RegionReport, StoreDescriptor,
    StoreId, StoreReport,
};

use crate::kit::NOW;

fn loaded(regions: &[(u64, [u64; 3])]) -> Cluster {
    let mut cluster = Cluster::new();
    for id in 1..=4 {
        cluster
            .put_store(StoreDescriptor::new(StoreId(id), NodeId(id), format!("s{id}")), NOW)
            .expect("joins");
        cluster.report_store(StoreReport::empty(StoreId(id)), NOW).expect("reports");
    }
    for (id, stores) in regions {
        cluster.report_region(loaded_region(*id, stores, false)).expect("accepted");
    }
    cluster
}

fn loaded_region(id: u64, stores: &[u64; 3], led: bool) -> RegionReport {
    let range =
        KeyRange::new(format!("{id:03}").as_str(), format!("{:03}", id + 1).as_str()).expect("rising");
    let peers =
        stores.iter().enumerate().map(|(n, store)| Peer::voter(PeerId(id * 10 + n as u64), StoreId(*store)));
    let region = Region { id: RegionId(id), range, epoch: Epoch::FIRST, peers: peers.collect() };
    RegionReport::new(region, led.then_some(PeerId(id * 10)))
}

fn prepared_at(regions: &[(u64, [u64; 3])]) -> Option<usize> {
    let mut cluster = loaded(regions);
    let config = Config::default();
    for (count, (id, stores)) in (1..).zip(regions) {
        for _ in 0..2 {
            cluster.report_region(loaded_region(*id, stores, true)).expect("accepted");
        }
        let mut stale = loaded_region(*id, stores, true);
        stale.region.epoch = Epoch::default();
        assert!(cluster.report_region(stale).is_err(), "a report without epoch counts for nothing");
        if is_prepared(&cluster, &config, NOW, NOW) {
            return Some(count);
        }
    }
    None
}

#[test]
fn TestShouldRun() {
    let mut regions: Vec<(u64, [u64; 3])> = (1..=5).map(|id| (id, [1, 2, 3])).collect();
    regions.extend([(6, [2, 1, 4]), (7, [2, 1, 4])]);
    assert_eq!(prepared_at(&regions), Some(7), "store 4 has two regions only, and needs both");
}

#[test]
fn TestShouldRunWithNonLeaderRegions() {
    let regions: Vec<(u64, [u64; 3])> = (1..=10).map(|id| (id, [1, 2, 3])).collect();
    assert_eq!(prepared_at(&regions), Some(8));
}

#[test]
fn preparing_ends_in_time_and_needs_stores_that_speak() {
    let config = Config::default();
    let mut cluster = Cluster::new();
    assert!(!is_prepared(&cluster, &config, NOW, NOW), "no store");
    cluster.put_store(StoreDescriptor::new(StoreId(1), NodeId(1), "a"), NOW).expect("joins");
    assert!(!is_prepared(&cluster, &config, NOW, NOW), "a silent store");
    let report = StoreReport { region_count: 10, ..StoreReport::empty(StoreId(1)) };
    cluster.report_store(report, NOW).expect("reports");
    assert!(!is_prepared(&cluster, &config, NOW, NOW), "ten regions to come");
    assert!(is_prepared(&cluster, &config, NOW, NOW.plus_ms(config.prepare_timeout_ms + 1)));
}

/// A node that is gone for good reports to no new leader. What leads its regions by now does.
#[test]
fn regions_that_cover_every_key_are_enough_whoever_is_silent() {
    let config = Config::default();
    let mut cluster = Cluster::new();
    for id in 1..=3 {
        cluster
            .put_store(StoreDescriptor::new(StoreId(id), NodeId(id), format!("s{id}")), NOW)
            .expect("joins");
    }
    let region = |id: u64, range: KeyRange, led: bool| {
        let peers =
            vec![Peer::voter(PeerId(id * 10), StoreId(1)), Peer::voter(PeerId(id * 10 + 1), StoreId(2))];
        let region = Region { id: RegionId(id), range, epoch: Epoch::FIRST, peers };
        RegionReport::new(region, led.then_some(PeerId(id * 10)))
    };
    let range = |start: &str, end: &str| KeyRange::new(start, end).expect("rising");
    assert!(!is_prepared(&cluster, &config, NOW, NOW), "nothing is known");
    for (id, start, end, led) in [(1, "", "g", true), (3, "m", "", true), (2, "g", "m", false)] {
        cluster.report_region(region(id, range(start, end), led)).expect("accepted");
        assert!(!is_prepared(&cluster, &config, NOW, NOW), "region {id} leaves a hole or has no leader");
    }
    cluster.report_region(region(2, range("g", "m"), true)).expect("accepted");
    assert!(is_prepared(&cluster, &config, NOW, NOW));
}
