//! The map beside a list: random reports go to both, and every question gets the same answer. Below it the course's own
//! rows on the region tree.
#![expect(non_snake_case, reason = "the tests keep the names under which the course knows them")]

use scheduler::{Cluster, Epoch, Key, KeyRange, Peer, PeerId, Region, RegionId, RegionReport, Rng, StoreId};

fn key(rng: &mut Rng) -> Key {
    match rng.next() % 8 {
        0 => Key::empty(),
        _ => Key::from(&[(rng.next() % 40) as u8]),
    }
}

fn range(rng: &mut Rng) -> KeyRange {
    loop {
        // Narrow ranges most of the time, so that many regions coexist.
        let start = key(rng);
        let end = match start.first() {
            Some(byte) if !rng.one_in(6) => Key::from(&[byte + 1 + (rng.next() % 3) as u8]),
            _ => key(rng),
        };
        if let Ok(range) = KeyRange::new(start, end) {
            return range;
        }
    }
}

fn report(rng: &mut Rng, clock: u64) -> RegionReport {
    let peers = (0..3).map(|n| Peer::voter(PeerId(n), StoreId((rng.next() % 3) + 3 * n))).collect();
    // Epochs rise with time, with some jitter to make stale ones.
    let part = |rng: &mut Rng| (clock / 8).saturating_sub(rng.next() % 4);
    let epoch = Epoch::new(part(rng), part(rng));
    let region = Region { id: RegionId(rng.next() % 60), range: range(rng), epoch, peers };
    RegionReport::new(region, Some(PeerId(rng.next() % 3)))
}

/// The rule for reports, in the plainest words.
fn enter(list: &mut Vec<RegionReport>, report: &RegionReport) -> bool {
    let stale = |known: &RegionReport| {
        let (new, old) = (report.region.epoch, known.region.epoch);
        new.conf_ver < old.conf_ver || new.version < old.version
    };
    let same = list.iter().find(|known| known.region.id == report.region.id);
    let overlaps = |known: &&RegionReport| known.region.range.overlaps(&report.region.range);
    let refused = match same {
        Some(known) => stale(known),
        None => list.iter().filter(overlaps).any(stale),
    };
    if refused {
        return false;
    }
    list.retain(|known| {
        known.region.id != report.region.id && !known.region.range.overlaps(&report.region.range)
    });
    list.push(report.clone());
    list.sort_by(|one, other| one.region.range.start().cmp(other.region.range.start()));
    true
}

#[test]
fn the_map_agrees_with_a_list_under_random_reports() {
    let mut refusals = 0;
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let (mut cluster, mut list) = (Cluster::new(), Vec::new());
        for clock in 0..600 {
            let report = report(&mut rng, clock);
            let accepted = enter(&mut list, &report);
            assert_eq!(cluster.report_region(report).is_ok(), accepted, "seed {seed}");
            refusals += usize::from(!accepted);
            if rng.one_in(40) {
                let id = RegionId(rng.next() % 60);
                assert_eq!(
                    cluster.remove_region(id).is_some(),
                    list.iter().any(|known| known.region.id == id)
                );
                list.retain(|known| known.region.id != id);
            }
            compare(&cluster, &list, &mut rng);
        }
        cluster.check().expect("the map's invariants");
    }
    assert!(refusals > 1_000, "{refusals} refusals only");
}

fn compare(cluster: &Cluster, list: &[RegionReport], rng: &mut Rng) {
    let ids =
        |found: Vec<&scheduler::RegionInfo>| found.into_iter().map(|info| info.id()).collect::<Vec<_>>();
    let (key, range) = (key(rng), range(rng));
    let at = list.iter().position(|known| known.region.range.contains(&key));
    assert_eq!(cluster.region_at(&key).map(|info| info.id()), at.map(|n| list[n].region.id));
    let before = at
        .and_then(|n| n.checked_sub(1))
        .filter(|n| list[*n].region.range.adjacent(&list[n + 1].region.range));
    assert_eq!(cluster.region_before(&key).map(|info| info.id()), before.map(|n| list[n].region.id));
    let overlapping: Vec<RegionId> = list
        .iter()
        .filter(|known| known.region.range.overlaps(&range))
        .map(|known| known.region.id)
        .collect();
    assert_eq!(ids(cluster.scan(&range, None)), overlapping);
    assert_eq!(ids(cluster.scan(&range, Some(2))), overlapping[..overlapping.len().min(2)]);
    let inside = |known: &&RegionReport| range.contains_range(&known.region.range);
    let inside: Vec<RegionId> = list.iter().filter(inside).map(|known| known.region.id).collect();
    match cluster.random_in(&range, rng) {
        Some(drawn) => assert!(inside.contains(&drawn.id())),
        None => assert!(inside.is_empty(), "{range}: {inside:?}"),
    }
}

#[test]
fn random_in_draws_every_region_of_a_range_and_none_outside() {
    let mut cluster = Cluster::new();
    for n in 0..40_u8 {
        let range = KeyRange::new(&[n], &[n + 1]).expect("rising");
        let region = Region { id: RegionId(u64::from(n)), range, epoch: Epoch::FIRST, peers: Vec::new() };
        cluster.report_region(RegionReport::new(region, None)).expect("accepted");
    }
    let mut rng = Rng::new(5);
    for (range, expected) in [
        (KeyRange::full(), 0..40),
        (KeyRange::new(&[10], &[20]).expect("rising"), 10..20),
        (KeyRange::new(&[10, 0], &[20]).expect("rising"), 11..20),
        (KeyRange::new(&[30], "").expect("open"), 30..40),
        (KeyRange::new("", &[3, 9]).expect("rising"), 0..3),
        (KeyRange::new(&[5, 1], &[6]).expect("rising"), 0..0),
    ] {
        let drawn: std::collections::BTreeSet<u64> =
            (0..2_000).filter_map(|_| cluster.random_in(&range, &mut rng)).map(|info| info.id().0).collect();
        assert_eq!(drawn, expected.collect(), "{range}");
    }
}

/// Regions `[a, b)`, `[b, c)` and `[d, e)`, named 1, 2 and 4, with a gap between the last two.
fn with_a_gap() -> Cluster {
    let mut cluster = Cluster::new();
    for (id, start, end) in [(1, "a", "b"), (2, "b", "c"), (4, "d", "e")] {
        let range = KeyRange::new(start, end).expect("rising");
        let region = Region { id: RegionId(id), range, epoch: Epoch::FIRST, peers: Vec::new() };
        cluster.report_region(RegionReport::new(region, None)).expect("accepted");
    }
    cluster
}

#[test]
fn TestRegionTree() {
    let empty = Cluster::new();
    assert!(empty.region_at(b"a").is_none() && empty.region_before(b"a").is_none());
    let mut cluster = with_a_gap();
    let at = |cluster: &Cluster, key: &str| cluster.region_at(key.as_bytes()).map(|info| info.id().0);
    let before = |cluster: &Cluster, key: &str| cluster.region_before(key.as_bytes()).map(|info| info.id().0);
    let found = ["", "a", "a1", "b", "c", "d", "dz", "e"].map(|key| at(&cluster, key));
    assert_eq!(found, [None, Some(1), Some(1), Some(2), None, Some(4), Some(4), None]);
    assert_eq!(
        ["a", "b", "bz", "c", "d"].map(|key| before(&cluster, key)),
        [None, Some(1), Some(1), None, None]
    );
    let overlapped = |cluster: &Cluster, start: &str, end: &str| -> Vec<u64> {
        let range = KeyRange::new(start, end).expect("rising");
        cluster.overlapping(&range).map(|info| info.id().0).collect()
    };
    assert_eq!(overlapped(&cluster, "a", "c"), [1, 2]);
    assert_eq!(overlapped(&cluster, "a1", "b"), [1], "an end is not inside");
    assert_eq!(overlapped(&cluster, "c", "d"), []);
    assert_eq!(overlapped(&cluster, "", ""), [1, 2, 4]);
    // A region that covers 2 and the gap displaces 2 and leaves its neighbours.
    let range = KeyRange::new("b", "d").expect("rising");
    let region = Region { id: RegionId(3), range, epoch: Epoch::new(1, 2), peers: Vec::new() };
    let accepted = cluster.report_region(RegionReport::new(region, None)).expect("accepted");
    assert_eq!(accepted.displaced, [RegionId(2)]);
    assert_eq!(["b", "c", "d"].map(|key| before(&cluster, key)), [Some(1), Some(1), Some(3)]);
}

#[test]
fn TestRandomRegionDiscontinuous() {
    let cluster = with_a_gap();
    let mut rng = Rng::new(3);
    for (start, end, inside) in [
        ("a", "b", &[1][..]),
        ("a", "c", &[1, 2]),
        ("c", "d", &[]),
        ("b", "", &[2, 4]),
        ("", "d1", &[1, 2]),
        ("d", "e", &[4]),
        ("e", "", &[]),
    ] {
        let range = KeyRange::new(start, end).expect("rising");
        let drawn: std::collections::BTreeSet<u64> =
            (0..200).filter_map(|_| cluster.random_in(&range, &mut rng)).map(|info| info.id().0).collect();
        assert_eq!(drawn, inside.iter().copied().collect(), "{range}");
    }
}

/// A split that is reported: two ranges belong together if the one ends where the other begins.
#[test]
fn TestReportSplit() {
    let range = |start: &str, end: &str| KeyRange::new(start, end).expect("rising");
    let (left, right) = (range("a", "b"), range("b", "c"));
    assert!(left.adjacent(&right) && right.adjacent(&left));
    assert!(!left.adjacent(&range("b1", "c")));
    assert!(!range("b", "").adjacent(&range("", "a")), "the two ends of the key space do not meet");
    assert!(range("", "b").adjacent(&range("b", "")));
}
