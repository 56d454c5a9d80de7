//! Regions come, go and are found by their keys; what changed is published, and marks are taken once.

use super::*;
use crate::region::merge::Merges;
use crate::region::replica::Stored;
use raft::{LogId, Membership, Start, Time};
use scheduler::{Epoch, Peer, StoreId};
use std::sync::Arc;

fn replica(id: u64, start: &str, end: &str) -> Replica<(), ()> {
    let region = Region {
        id: RegionId(id),
        range: KeyRange::new(start, end).unwrap(),
        epoch: Epoch::FIRST,
        peers: vec![Peer::voter(PeerId(id + 100), StoreId(1))],
    };
    let start = Start::bootstrap(LogId::new(5, 5), Membership::default());
    let record = RegionRecord { region, me: PeerId(id + 100), tombstone: false, merges: Merges::default() };
    let stored = Stored { record, in_tree: false, start };
    Replica::new(StoreId(1), stored, Arc::new(raft::Config::default()), 7, Time(0)).unwrap()
}

fn table() -> Table<(), ()> {
    let mut table = Table::default();
    for (id, start, end) in [(1, "", "c"), (2, "c", "m"), (3, "m", "")] {
        table.enter_region(replica(id, start, end)).unwrap();
    }
    table
}

#[test]
fn a_region_is_found_by_its_keys_and_from_behind() {
    let table = table();
    for (key, id) in [("", 1), ("bz", 1), ("c", 2), ("m", 3), ("zz", 3)] {
        assert_eq!(table.region_of(key.as_bytes()), Some(RegionId(id)), "{key}");
    }
    for (end, start) in [("", "m"), ("c", ""), ("ca", "c")] {
        assert_eq!(table.start_before(end.as_bytes()), Some(start.as_bytes()), "below {end}");
    }
    table.check();
}

#[test]
fn what_overlaps_or_is_here_already_is_not_taken_in() {
    let mut table = table();
    let refused = table.enter_region(replica(4, "k", "n")).unwrap_err();
    assert_eq!((refused.by, refused.replica.id()), (RegionId(2), RegionId(4)));
    assert_eq!(table.enter_region(replica(1, "", "a")).unwrap_err().by, RegionId(1));
    table.check();
}

#[test]
fn marks_are_kept_once_and_taken_once() {
    let mut table = table();
    assert_eq!(table.take_dirty().len(), 3, "what comes in is marked");
    (0..5).for_each(|_| table.mark_dirty(RegionId(2)));
    table.mark_dirty(RegionId(99));
    table.check();
    assert_eq!(table.take_dirty(), [RegionId(2)]);
    assert!(table.take_dirty().is_empty());
    table.check();
}

#[test]
fn a_buried_region_leaves_its_range_and_changes_the_routes() {
    let mut table = table();
    let routes = table.routes();
    let mut record = table.get(RegionId(2)).unwrap().record().clone();
    record.tombstone = true;
    table.bury_region(record);
    assert!(table.routes() > routes && table.get(RegionId(2)).is_none());
    assert!(table.tombstone(RegionId(2)).is_some());
    assert_eq!(table.region_of(b"d"), Some(RegionId(1)), "which ends below it; the guard says so");
    table.enter_region(replica(4, "k", "m")).unwrap();
    table.check();
}

#[test]
fn a_region_is_cut_and_taken_out_and_all_is_published() {
    let mut table = table();
    table.take_changes();
    let before = table.routes();
    let versions = |table: &Table<(), ()>| -> Vec<(u64, u64)> {
        table.published().map(|region| (region.id.0, region.epoch.version)).collect()
    };
    let first = Epoch::FIRST.version;
    table.cut_region(RegionId(2), replica(4, "g", "m")).unwrap();
    assert!(table.routes() > before);
    assert_eq!(versions(&table), [(1, first), (2, first + 1), (4, first), (3, first)]);
    let changes = |table: &mut Table<(), ()>| -> Vec<(String, Option<u64>)> {
        let text = |start| String::from_utf8(start).unwrap();
        let changes = table.take_changes().into_iter();
        changes.map(|(start, region)| (text(start), region.map(|region| region.id.0))).collect()
    };
    assert_eq!(changes(&mut table), [("c".to_owned(), Some(2)), ("g".to_owned(), Some(4))]);
    assert_eq!((table.region_of(b"f"), table.region_of(b"g")), (Some(RegionId(2)), Some(RegionId(4))));
    table.check();
    let gone = table.take_in(RegionId(4), RegionId(2)).unwrap();
    assert_eq!(changes(&mut table), [("g".to_owned(), None)]);
    assert_eq!((gone.life(), gone.id()), (Life::Tombstone, RegionId(4)));
    assert_eq!(table.tombstone(RegionId(4)).unwrap().merges.into, Some(RegionId(2)));
    table.check();
}

/// Opening a store asks this once per region.
#[test]
fn of_many_regions_only_the_neighbours_are_looked_at() {
    const REGIONS: u64 = 10_000;
    let key = |n: u64| format!("{n:05}");
    let mut table: Table<(), ()> = Table::default();
    let mut looked = 0;
    for n in 0..REGIONS {
        // From the middle to both ends, with a gap after every third.
        let at = if n % 2 == 0 { (REGIONS + n) / 2 } else { (REGIONS - n) / 2 };
        if at % 3 < 2 {
            let replica = replica(at + 1, &key(at), &key(at + 1));
            looked += table.around(&replica.region().range).count() as u64;
            table.enter_region(replica).unwrap();
        }
    }
    assert!(looked <= REGIONS, "{looked} regions were looked at");
    let ranges = [("", "00001"), ("00002", "00003"), ("00002", "00004"), ("00003x", "00003y"), ("09998", "")];
    for (start, end) in ranges {
        let range = KeyRange::new(start, end).unwrap();
        let overlap = |region: &&Region| region.range.overlaps(&range);
        let first = table.published().find(overlap).map(|region| region.id);
        assert_eq!(table.overlapping(&range, RegionId(0)), first, "{range}");
        let other = table.published().filter(overlap).map(|region| region.id).nth(1);
        assert_eq!(table.overlapping(&range, first.unwrap_or(RegionId(0))), other, "{range} but {first:?}");
    }
}

/// What each replica takes of its store's table by itself, 2056 bytes: it is not to grow unseen.
#[test]
fn the_place_of_a_replica_does_not_grow_unseen() {
    type Whole = Entry<crate::shard::Due, crate::shard::Queued>;
    assert!(size_of::<Whole>() <= 2100, "{}", size_of::<Whole>());
}

#[test]
fn what_is_not_the_end_of_a_region_is_not_cut_off() {
    let mut table = table();
    let before = table.routes();
    for (id, start, end) in [(2, "c", "m"), (2, "g", "k"), (1, "g", "m"), (9, "g", "m")] {
        assert_eq!(table.cut_region(RegionId(id), replica(4, start, end)).unwrap_err().by, RegionId(id));
    }
    assert_eq!(table.cut_region(RegionId(2), replica(3, "g", "m")).unwrap_err().by, RegionId(2));
    assert_eq!(table.routes(), before, "nothing has changed");
    table.check();
}
