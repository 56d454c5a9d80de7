//! The course's lab 3C on region heartbeats, under the names of its tests.
#![expect(non_snake_case, reason = "the tests keep the names under which the course knows them")]

use std::collections::BTreeMap;

use scheduler::cluster::Kind;
use scheduler::{
    Cluster, Config, Epoch, KeyRange, NodeId, Peer, PeerId, Region, RegionId, RegionInfo, RegionRefusal,
    RegionReport, Rng, Scheduler, StoreDescriptor, StoreId, StoreReport, Time,
};

use crate::kit::NOW;

/// Fixture F: three regions of three peers; stores 1, 2 and 3 have joined, peers live on stores 0, 1 and 2.
fn fixture() -> (Cluster, Vec<RegionReport>) {
    let mut cluster = Cluster::new();
    for id in 1..=3 {
        cluster
            .put_store(StoreDescriptor::new(StoreId(id), NodeId(id), format!("store{id}")), NOW)
            .expect("joins");
        cluster.report_store(StoreReport::empty(StoreId(id)), NOW).expect("reports");
    }
    let regions: Vec<RegionReport> = (0..3).map(fixture_region).collect();
    for (count, report) in regions.iter().enumerate() {
        cluster.report_region(report.clone()).expect("accepted");
        check_regions(&cluster, &regions[..=count]);
    }
    (cluster, regions)
}

fn fixture_region(n: u64) -> RegionReport {
    let bound = |n: u64| format!("{n:02}");
    let peers = (0..3).map(|i| Peer::voter(PeerId(3 * n + i), StoreId((n + i) % 3))).collect();
    let range = KeyRange::new(bound(n).as_str(), bound(n + 1).as_str()).expect("rising");
    let region = Region { id: RegionId(n), range, epoch: Epoch::new(2, 2), peers };
    RegionReport::new(region, Some(PeerId(3 * n)))
}

/// What the course's checkRegions compares after every step: the cached regions, and every count of every store.
fn check_regions(cluster: &Cluster, expected: &[RegionReport]) {
    cluster.check().expect("the map's invariants");
    assert_eq!(cluster.len(), expected.len());
    let mut leaders: BTreeMap<StoreId, Vec<RegionId>> = BTreeMap::new();
    let mut followers: BTreeMap<StoreId, Vec<RegionId>> = BTreeMap::new();
    for report in expected {
        assert_cached(cluster, report);
        for peer in &report.region.peers {
            let list = if report.leader == Some(peer.id) { &mut leaders } else { &mut followers };
            list.entry(peer.store).or_default().push(report.region.id);
        }
    }
    for store in (0..4).map(StoreId) {
        let ids = |kind| {
            let mut ids: Vec<RegionId> = cluster.peers_of(store, kind).map(RegionInfo::id).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(ids(Kind::Leader), leaders.get(&store).cloned().unwrap_or_default());
        assert_eq!(ids(Kind::Follower), followers.get(&store).cloned().unwrap_or_default());
        let counters = cluster.counters(store);
        assert_eq!(counters.leaders as usize, leaders.get(&store).map_or(0, Vec::len));
        assert_eq!(counters.followers as usize, followers.get(&store).map_or(0, Vec::len));
    }
}

fn assert_cached(cluster: &Cluster, report: &RegionReport) {
    let info = cluster.region(report.region.id).expect("cached");
    assert_eq!(
        (&info.region, info.leader, info.size_bytes),
        (&report.region, report.leader, report.size_bytes)
    );
    assert_eq!((info.pending(), info.down()), (&report.pending[..], &report.down[..]));
}

/// Applies `change` to each region of F in turn, expects it to be accepted and cached.
fn accepts(change: impl Fn(&mut RegionReport)) {
    let (mut cluster, mut regions) = fixture();
    for n in 0..regions.len() {
        change(&mut regions[n]);
        cluster.report_region(regions[n].clone()).expect("accepted");
        check_regions(&cluster, &regions);
    }
}

#[test]
fn TestRegionNotUpdate3C() {
    accepts(|_| {});
}

#[test]
fn TestRegionUpdateVersion3C() {
    accepts(|report| report.region.epoch.version += 1);
}

#[test]
fn TestRegionUpdateVersionAndConfver3C() {
    accepts(|report| report.region.epoch = Epoch::new(3, 3));
}

fn refuses_second(first: Epoch, second: Epoch) {
    let (mut cluster, mut regions) = fixture();
    for n in 0..regions.len() {
        regions[n].region.epoch = first;
        cluster.report_region(regions[n].clone()).expect("accepted");
        let mut stale = regions[n].clone();
        stale.region.epoch = second;
        let (region, known_region) = (RegionId(n as u64), RegionId(n as u64));
        let refusal = RegionRefusal::Stale { region, reported: second, known_region, known: first };
        assert_eq!(cluster.report_region(stale), Err(refusal), "refused with the stale pair");
        check_regions(&cluster, &regions);
    }
}

#[test]
fn TestRegionWithStaleVersion3C() {
    refuses_second(Epoch::new(2, 3), Epoch::new(3, 2));
}

#[test]
fn TestRegionWithStaleConfVer3C() {
    refuses_second(Epoch::new(3, 2), Epoch::new(2, 2));
}

#[test]
fn TestRegionAddPendingPeer3C() {
    let mut rng = Rng::new(1);
    let picks: Vec<usize> = (0..3).map(|_| rng.below(3).expect("three")).collect();
    accepts(|report| report.pending = vec![report.region.peers[picks[report.region.id.0 as usize]].id]);
}

#[test]
fn TestRegionRemovePendingPeer3C() {
    for pick in 0..3 {
        let (mut cluster, mut regions) = fixture();
        for n in 0..regions.len() {
            let whole = regions[n].clone();
            regions[n].pending = vec![regions[n].region.peers[pick].id];
            cluster.report_region(regions[n].clone()).expect("accepted");
            check_regions(&cluster, &regions);
            regions[n] = whole;
            cluster.report_region(regions[n].clone()).expect("accepted");
            check_regions(&cluster, &regions);
        }
        for store in (1..=3).map(StoreId) {
            assert_eq!(cluster.counters(store).pending, 0);
            assert_eq!(cluster.pending_of(store).count(), 0);
        }
    }
}

#[test]
fn TestRegionRemovePeers3C() {
    accepts(|report| report.region.peers.truncate(1));
}

#[test]
fn TestRegionAddBackPeers3C() {
    let (mut cluster, mut regions) = fixture();
    for n in 0..regions.len() {
        let whole = regions[n].clone();
        regions[n].region.peers.truncate(1);
        cluster.report_region(regions[n].clone()).expect("accepted");
        check_regions(&cluster, &regions);
        regions[n] = whole;
        cluster.report_region(regions[n].clone()).expect("accepted");
        check_regions(&cluster, &regions);
    }
    check_regions(&cluster, &fixture().1);
}

#[test]
fn TestRegionChangeLeader3C() {
    accepts(|report| report.leader = Some(report.region.peers[1].id));
}

#[test]
fn TestRegionChangeApproximateSize3C() {
    accepts(|report| report.size_bytes = 144);
}

#[test]
fn TestRegionCounts3C() {
    let (cluster, _) = fixture();
    for store in (0..3).map(StoreId) {
        assert_eq!(cluster.counters(store).regions(), 3);
    }
}

#[test]
fn TestRegionGetRegions3C() {
    let (cluster, regions) = fixture();
    let cached: Vec<&Region> = cluster.regions().map(|info| &info.region).collect();
    assert_eq!(cached, regions.iter().map(|report| &report.region).collect::<Vec<_>>());
}

#[test]
fn TestRegionGetStores3C() {
    let (cluster, _) = fixture();
    for info in cluster.regions() {
        let stores: Vec<StoreId> = info.region.peers.iter().map(|peer| peer.store).collect();
        assert!(stores.iter().all(|store| info.region.peer_on(*store).is_some()));
        let leader = info.leader_store().expect("led");
        let followers: Vec<StoreId> = info.follower_stores().collect();
        assert!(followers.len() == 2 && !followers.contains(&leader));
    }
}

#[test]
fn TestRegionGetStoresInfo3C() {
    let (mut cluster, mut regions) = fixture();
    for (n, report) in regions.iter_mut().enumerate() {
        report.size_bytes = 1 << n;
        cluster.report_region(report.clone()).expect("accepted");
    }
    let recount = cluster.recount();
    for store in (1..=3).map(StoreId) {
        assert_eq!(cluster.counters(store), recount.get(&store).copied().unwrap_or_default());
    }
    // Store 1 leads region 1 (2 bytes) and follows regions 0 and 2.
    let one = cluster.counters(StoreId(1));
    assert_eq!((one.leaders, one.regions(), one.leader_bytes, one.region_bytes), (1, 3, 2, 7));
}

fn bare(id: u64, start: &str, end: &str, version: u64) -> RegionReport {
    let range = KeyRange::new(start, end).expect("rising");
    let region = Region { id: RegionId(id), range, epoch: Epoch::new(1, version), peers: Vec::new() };
    RegionReport::new(region, None)
}

#[test]
fn TestHeartbeatSplit3C() {
    let mut cluster = Cluster::new();
    let at = |cluster: &Cluster, key: &str| cluster.region_at(key.as_bytes()).map(|info| info.id().0);
    cluster.report_region(bare(1, "", "", 1)).expect("accepted");
    assert_eq!(at(&cluster, "foo"), Some(1));
    let accepted = cluster.report_region(bare(2, "", "m", 1)).expect("equal epoch");
    assert_eq!(accepted.displaced, [RegionId(1)]);
    assert_eq!((at(&cluster, "a"), at(&cluster, "z")), (Some(2), None));
    cluster.report_region(bare(1, "m", "", 2)).expect("accepted");
    assert_eq!(at(&cluster, "z"), Some(1));
    cluster.report_region(bare(1, "q", "", 3)).expect("accepted");
    assert_eq!((at(&cluster, "z"), at(&cluster, "a"), at(&cluster, "n")), (Some(1), Some(2), None));
    cluster.report_region(bare(3, "m", "q", 1)).expect("no overlap");
    assert_eq!(at(&cluster, "n"), Some(3));
    cluster.check().expect("the map's invariants");
}

#[test]
fn TestRegionSplitAndMerge3C() {
    let mut regions = vec![Region { epoch: Epoch::new(0, 0), ..bare(0, "", "", 0).region }];
    let mut cluster = Cluster::new();
    let mut next_id = 1;
    for round in 0..7 {
        regions = split_all(regions, &mut next_id);
        report_all(&mut cluster, &regions);
        assert_eq!(regions.len(), 2 << round);
    }
    assert_eq!(cluster.len(), 128);
    for _ in 0..7 {
        regions = merge_all(regions, &mut next_id);
        report_all(&mut cluster, &regions);
    }
    assert_eq!(cluster.len(), 1);
    for round in 0..14 {
        regions =
            if round % 3 == 0 { merge_all(regions, &mut next_id) } else { split_all(regions, &mut next_id) };
        report_all(&mut cluster, &regions);
    }
    // The first merge of the last fourteen rounds has a single region and does nothing, so 9 splits and 4 merges count.
    assert_eq!(cluster.len(), 32.max(regions.len()));
}

fn middle(range: &KeyRange) -> Vec<u8> {
    let low = range.start().first().copied().map_or(0, u32::from) * 256
        + range.start().get(1).copied().map_or(0, u32::from);
    let end = range.end();
    let high = if end.is_empty() {
        65_536
    } else {
        u32::from(end[0]) * 256 + end.get(1).copied().map_or(0, u32::from)
    };
    ((low + high) / 2).to_be_bytes()[2..].to_vec()
}

fn split_all(regions: Vec<Region>, next_id: &mut u64) -> Vec<Region> {
    let mut halves = Vec::new();
    for region in regions {
        let (left, right) = region.range.split(&middle(&region.range)).expect("two bytes are enough");
        for range in [left, right] {
            let epoch = Epoch::new(region.epoch.conf_ver, region.epoch.version + 1);
            halves.push(Region { id: RegionId(*next_id), range, epoch, peers: Vec::new() });
            *next_id += 1;
        }
    }
    halves
}

fn merge_all(regions: Vec<Region>, next_id: &mut u64) -> Vec<Region> {
    let merge = |pair: &[Region], next_id: &mut u64| {
        let (first, last) = (&pair[0], &pair[pair.len() - 1]);
        let range = KeyRange::new(first.range.start().clone(), last.range.end().clone()).expect("neighbours");
        let version = pair.iter().map(|region| region.epoch.version).max().expect("a pair") + 1;
        *next_id += 1;
        Region {
            id: RegionId(*next_id),
            range,
            epoch: Epoch::new(first.epoch.conf_ver, version),
            peers: Vec::new(),
        }
    };
    regions.chunks(2).map(|pair| merge(pair, next_id)).collect()
}

fn report_all(cluster: &mut Cluster, regions: &[Region]) {
    for region in regions {
        cluster.report_region(RegionReport::new(region.clone(), None)).expect("newer than what it overlaps");
        let found = |key: &[u8]| cluster.region_at(key).map(|info| info.region.clone());
        assert_eq!(cluster.region(region.id).map(|info| &info.region), Some(region));
        assert_eq!(found(region.range.start()).as_ref(), Some(region));
        if !region.range.end().is_empty() {
            let mut last = region.range.end().to_vec();
            match last.iter().rposition(|byte| *byte > 0) {
                Some(place) => {
                    last[place] -= 1;
                    last[place + 1..].fill(0xff);
                    assert_eq!(found(&last).as_ref(), Some(region), "the key before the end");
                }
                None => unreachable!("an end key is never zero"),
            }
        }
    }
    for region in regions.iter().filter(|region| !region.range.end().is_empty()) {
        let beyond = cluster.region_at(region.range.end()).expect("no gaps");
        assert_ne!(beyond.id(), region.id);
        let before = cluster.region_before(region.range.end()).expect("no gaps");
        assert_eq!(before.id(), region.id);
    }
    cluster.check().expect("the map's invariants");
}

#[test]
fn TestConcurrentHandleRegion3C() {
    let mut scheduler =
        Scheduler::new(Config { prepare_percent: 0, ..Config::default() }, 1, Time(0)).expect("valid");
    for id in 1..=4 {
        scheduler
            .put_store(StoreDescriptor::new(StoreId(id), NodeId(id), format!("s{id}")), Time(0))
            .expect("joins");
        scheduler.report_store(StoreReport::empty(StoreId(id)), Time(0)).expect("reports");
    }
    scheduler.grant_ids(100_000..200_000);
    let report = |id: u64, start: String, end: String, epoch| {
        let range = KeyRange::new(start.as_str(), end.as_str()).expect("rising");
        let peers = vec![Peer::voter(PeerId(id + 50_000), StoreId(1))];
        RegionReport::new(Region { id: RegionId(id), range, epoch, peers }, Some(PeerId(id + 50_000)))
    };
    for id in 1..=4 {
        let first = report(9_000 + id, String::new(), String::new(), Epoch::default());
        scheduler.report_region(first, Time(0)).expect("a region without range and epoch is legal");
    }
    let mut order: Vec<u64> = (0..2000).collect();
    let mut rng = Rng::new(1);
    for n in (1..order.len()).rev() {
        order.swap(n, rng.below(n + 1).expect("not empty"));
    }
    for n in order {
        let start = if n == 0 { String::new() } else { format!("{n:5}") };
        let end = if n == 1999 { String::new() } else { format!("{:5}", n + 1) };
        scheduler.report_region(report(n, start, end, Epoch::FIRST), Time(0)).expect("adjacent");
    }
    assert_eq!(scheduler.cluster().len(), 2000);
    scheduler.cluster().check().expect("the map's invariants");
    let tick = scheduler.tick(Time(1));
    assert!(
        tick.instructions.iter().any(|instruction| instruction.leader.store == StoreId(1)),
        "make up replicas"
    );
}

#[test]
fn a_deposed_leader_cannot_make_leadership_flap() {
    let (mut cluster, mut regions) = fixture();
    let mut report = regions.remove(0);
    report.term = Some(7);
    cluster.report_region(report.clone()).expect("accepted");
    let mut newer = report.clone();
    (newer.term, newer.leader) = (Some(8), Some(PeerId(1)));
    cluster.report_region(newer.clone()).expect("a later term");
    let refusal = cluster.report_region(report);
    assert_eq!(refusal, Err(RegionRefusal::StaleTerm { region: RegionId(0), reported: 7, known: 8 }));
    newer.leader = Some(PeerId(2));
    assert!(matches!(cluster.report_region(newer), Err(RegionRefusal::TwoLeaders { term: 8, .. })));
    assert_eq!(cluster.region(RegionId(0)).expect("cached").leader, Some(PeerId(1)));
}

/// The course's staleness matrix: an unknown region against two that it overlaps.
#[test]
fn TestCheckStaleRegion() {
    for (conf_ver, version, accepted) in
        [(5, 5, true), (6, 5, true), (5, 6, true), (4, 5, false), (5, 4, false), (6, 4, false), (4, 6, false)]
    {
        let mut cluster = Cluster::new();
        let with = |mut report: RegionReport, epoch| {
            report.region.epoch = epoch;
            report
        };
        cluster.report_region(with(bare(1, "a", "c", 1), Epoch::new(1, 1))).expect("accepted");
        cluster.report_region(with(bare(2, "c", "e", 1), Epoch::new(5, 5))).expect("accepted");
        let report = with(bare(3, "b", "d", 1), Epoch::new(conf_ver, version));
        assert_eq!(cluster.report_region(report).is_ok(), accepted, "({conf_ver}, {version})");
    }
}
