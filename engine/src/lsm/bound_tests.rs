//! What walks hold of large values: none over keys, and none that there is no room for.

use std::path::Path;

use super::bound::{Bound, WalkLimits};
use super::key::Kind;
use super::table::block::{BlockBuilder, BlockView, without_values};
use super::*;
use crate::rt::rng::Rng;
use crate::rt::sim;

const BIG_BYTES: usize = 1 << 20;
const KEYS: u32 = 12;

fn key(n: u32) -> Vec<u8> {
    format!("k{n:04}").into_bytes()
}

/// A value that does not compress.
fn big(n: u32) -> Vec<u8> {
    let rng = Rng::new(u64::from(n));
    std::iter::repeat_with(|| rng.next().to_le_bytes()).take(BIG_BYTES / 8).flatten().collect()
}

fn large_values() -> WriteBatch {
    let mut batch = WriteBatch::new();
    (0..KEYS).for_each(|n| batch.put(Cf::Default, &key(n), &big(n)));
    batch
}

fn limits(keys_only: bool, block_bytes_max: usize) -> WalkLimits {
    WalkLimits { keys_only, block_bytes_max }
}

#[test]
fn a_chunk_of_a_memtable_has_no_value_that_is_not_wanted_or_too_long() {
    let memtable = Memtable::new(0);
    memtable.apply(&large_values(), SeqNo(1), &Readers::default(), |_, _, _| false);
    let chunk = |limits| {
        let bound = Bound::new(limits);
        let chunk = memtable.chunk(Cf::Default, Direction::Forward, (b"", b""), None, &bound);
        (chunk.len(), chunk.held_bytes(), bound.met())
    };
    let (keys, held_bytes, met) = chunk(limits(true, 0));
    assert_eq!((keys, met), (KEYS as usize, None));
    assert!(held_bytes < 1 << 10, "{held_bytes} bytes are held for {keys} keys");
    assert_eq!(chunk(limits(false, BIG_BYTES - 1)), (0, 0, Some(BIG_BYTES)));
    let (keys, held_bytes, met) = chunk(limits(false, BIG_BYTES));
    assert_eq!((keys, met), (1, None));
    assert!(held_bytes >= BIG_BYTES);
}

#[test]
fn a_block_without_its_values_has_the_same_keys() {
    let mut builder = BlockBuilder::default();
    for n in 0..40 {
        let (kind, value): (Kind, &[u8]) = match n % 3 {
            0 => (Kind::Delete, b""),
            1 => (Kind::Put, b"value"),
            _ => (Kind::PutUntil, b"moment: value"),
        };
        builder.add(&key(n), SeqNo(u64::from(n) + 5), kind, value);
    }
    let (block, entries) = (Bytes::copy_from_slice(builder.finish()), |block: &Bytes| {
        let view = BlockView::parse(block).unwrap();
        let chunks = (0..view.intervals()).map(|interval| view.decode(interval, block).unwrap());
        chunks
            .flat_map(|chunk| {
                let entries = (0..chunk.len()).filter_map(|at| chunk.get(at));
                entries
                    .map(|entry| (entry.key.to_vec(), entry.seq, entry.kind, entry.value.len()))
                    .collect::<Vec<_>>()
            })
            .collect::<Vec<_>>()
    });
    let left = |kind| if kind == Kind::PutUntil { 8 } else { 0 };
    let stripped = entries(&without_values(&block).unwrap());
    let expected: Vec<_> =
        entries(&block).into_iter().map(|(key, seq, kind, _)| (key, seq, kind, left(kind))).collect();
    assert_eq!((stripped.len(), &stripped), (40, &expected));
    assert!(without_values(&Bytes::from_static(b"xyz")).is_err());
}

#[test]
fn a_walk_ends_before_it_holds_what_it_has_no_room_for_and_over_keys_it_needs_little() {
    for on_disk in [false, true] {
        sim::run(1, move |rt| async move {
            let options = TreeOptions { memtable_bytes: 64 << 20, cache_bytes: 0, ..TreeOptions::default() };
            let tree = Tree::open(&rt, Path::new("/t"), options).await.unwrap();
            tree.write(&large_values()).unwrap();
            if on_disk {
                tree.flush().await.unwrap();
            }
            for direction in [Direction::Forward, Direction::Reverse] {
                let walk = async |limits| {
                    let mut iter = tree.snapshot().walk(Cf::Default, b"", b"", direction, limits);
                    let mut found = Vec::new();
                    while let Some((key, value)) = iter.next().await.unwrap() {
                        found.push((key, value));
                    }
                    (found, iter.too_large())
                };
                let (found, too_large) = walk(limits(false, 64 << 10)).await;
                assert!(found.is_empty(), "on disk: {on_disk}: {} pairs", found.len());
                assert!(too_large >= Some(BIG_BYTES) && too_large < Some(2 * BIG_BYTES), "{too_large:?}");
                let (found, too_large) = walk(limits(false, 2 * BIG_BYTES)).await;
                assert_eq!((found.len(), too_large), (KEYS as usize, None));
                let mut expected: Vec<u32> = (0..KEYS).collect();
                if direction == Direction::Reverse {
                    expected.reverse();
                }
                for (n, (name, value)) in expected.iter().zip(&found) {
                    assert_eq!((name.to_vec(), value.len()), (key(*n), BIG_BYTES));
                }
                // What is in memory is not copied; a block on disk is read, one at a time.
                let block_bytes_max = if on_disk { 2 * BIG_BYTES } else { 0 };
                let (keys, too_large) = walk(limits(true, block_bytes_max)).await;
                assert_eq!(too_large, None);
                assert!(keys.iter().all(|(_, value)| value.is_empty()));
                assert!(keys.iter().map(|(key, _)| key).eq(found.iter().map(|(key, _)| key)));
            }
            tree.close().await;
        });
    }
}

/// Values of many tables, each with a few versions of the same keys, whatever the cache has of them.
#[test]
fn a_look_up_asks_before_it_reads_a_long_block_and_before_it_opens_one() {
    sim::run(4, move |rt| async move {
        let options = TreeOptions { memtable_bytes: 64 << 20, cache_bytes: 0, ..TreeOptions::default() };
        let tree = Tree::open(&rt, Path::new("/t"), options).await.unwrap();
        let (random, packs) = (big(1), vec![7; BIG_BYTES]);
        let mut batch = WriteBatch::new();
        batch.put(Cf::Default, b"long", &random);
        batch.put(Cf::Default, b"packs", &packs);
        batch.put(Cf::Default, b"short", b"value");
        tree.write(&batch).unwrap();
        tree.flush().await.unwrap();
        let get = async |key: &[u8], admits: &dyn Fn(LongBlock) -> bool| {
            let asked = RefCell::new(Vec::new());
            let admits = |block: LongBlock| {
                asked.borrow_mut().push((block.packed_bytes > BIG_BYTES, block.opened_bytes > BIG_BYTES));
                admits(block)
            };
            let fetched = tree.timed_within(Cf::Default, key, &admits).await.unwrap();
            let snapshot = tree.snapshot().timed_within(Cf::Default, key, &|_| true).await.unwrap();
            if let Fetched::Value(value) = &fetched {
                assert_eq!(snapshot, Fetched::Value(value.clone()), "a snapshot finds the same");
            }
            let value = match fetched {
                Fetched::Value(found) => Some(found.expect("the key is there").value),
                Fetched::TooLong(_) => None,
            };
            (value, asked.into_inner())
        };
        let (both, opened) = ((true, true), (false, true));
        assert_eq!(get(b"long", &|_| false).await, (None, vec![both]), "it is not read");
        assert_eq!(get(b"long", &|_| true).await, (Some(random.into()), vec![both, both]));
        assert_eq!(get(b"packs", &|_| false).await, (None, vec![opened]), "it is not opened");
        assert_eq!(get(b"packs", &|_| true).await, (Some(packs.into()), vec![opened]));
        assert_eq!(get(b"short", &|_| false).await, (Some(Bytes::from_static(b"value")), Vec::new()));
        tree.close().await;
    });
}

#[test]
fn a_walk_over_many_tables_of_long_values_finds_the_same_as_look_ups_and_keeps_few() {
    for (cache_bytes, seed) in [(0, 1), (64 << 20, 2), (3 << 20, 3)] {
        sim::run(seed, move |rt| async move {
            let options = TreeOptions { cache_bytes, l0_tables: 64, ..TreeOptions::default() };
            let tree = Tree::open(&rt, Path::new("/t"), options).await.unwrap();
            let rng = Rng::new(seed);
            let mut snapshots = Vec::new();
            for _ in 0..20 {
                let mut batch = WriteBatch::new();
                for _ in 0..3 {
                    let n = rng.below(u64::from(KEYS)) as u32;
                    match rng.below(8) {
                        0 => batch.delete(Cf::Default, &key(n)),
                        1 => batch.delete_range(Cf::Default, &key(n), &key(n + 2)),
                        2 => batch.put(Cf::Default, &key(n), b"short"),
                        _ => batch.put(Cf::Default, &key(n), &big(rng.below(1000) as u32)[..BIG_BYTES / 4]),
                    }
                }
                tree.write(&batch).unwrap();
                snapshots.push(tree.snapshot());
                tree.flush().await.unwrap();
            }
            assert!(tree.stats().levels[0].0 > 10, "{:?}", tree.stats().levels);
            for snapshot in snapshots {
                let mut expected = Vec::new();
                for n in 0..KEYS {
                    let value = snapshot.get(Cf::Default, &key(n)).await.unwrap();
                    expected.extend(value.map(|value| (Bytes::from(key(n)), value)));
                }
                for direction in [Direction::Forward, Direction::Reverse] {
                    let limits = limits(false, BIG_BYTES / 2);
                    let mut iter = snapshot.walk(Cf::Default, b"", b"", direction, limits);
                    let mut found = Vec::new();
                    while let Some(pair) = iter.next().await.unwrap() {
                        found.push(pair);
                        assert!(iter.kept_bytes() <= BIG_BYTES / 2, "{}", iter.kept_bytes());
                    }
                    assert_eq!(iter.too_large(), None);
                    if direction == Direction::Reverse {
                        found.reverse();
                    }
                    assert!(found == expected, "{direction:?}, {} of {}", found.len(), expected.len());
                }
            }
            tree.close().await;
        });
    }
}

/// A compaction has only the keys of long blocks from its sources, and reads the values that stay.
#[test]
fn a_compaction_of_many_tables_of_long_values_keeps_what_every_snapshot_sees() {
    for seed in 1..6 {
        sim::run(seed, move |rt| async move {
            let options = TreeOptions { l0_tables: 64, ..TreeOptions::default() };
            let tree = Tree::open(&rt, Path::new("/t"), options).await.unwrap();
            let rng = Rng::new(seed);
            let mut seen = Vec::new();
            for _ in 0..20 {
                let mut batch = WriteBatch::new();
                for _ in 0..3 {
                    let n = rng.below(u64::from(KEYS)) as u32;
                    let (packs, noise) = (vec![n as u8; BIG_BYTES], big(rng.below(1000) as u32));
                    match rng.below(10) {
                        0 => batch.delete(Cf::Default, &key(n)),
                        1 => batch.delete_range(Cf::Default, &key(n), &key(n + 2)),
                        2 => batch.put(Cf::Default, &key(n), b"short"),
                        3 => batch.put(Cf::Default, &key(n), &noise[..100 << 10]),
                        4 => batch.put_until(Cf::Default, &key(n), &noise[..600 << 10], Until(u64::MAX - 1)),
                        5 | 6 => batch.put(Cf::Default, &key(n), &packs),
                        _ => batch.put(Cf::Default, &key(n), &noise[..300 << 10]),
                    }
                }
                tree.write(&batch).unwrap();
                let snapshot = tree.snapshot();
                let mut values = Vec::new();
                for n in 0..KEYS {
                    values.push(snapshot.timed(Cf::Default, &key(n)).await.unwrap());
                }
                // Of some moments nothing is kept, so that versions go.
                if rng.below(3) == 0 {
                    seen.push((snapshot, values));
                }
                tree.flush().await.unwrap();
            }
            let last = tree.snapshot();
            let tables = tree.stats().levels[0].0;
            assert!(tables > 10, "{tables} tables of level 0");
            tree.compact().await.unwrap();
            assert_eq!(tree.stats().levels[0].0, 0);
            for (snapshot, values) in seen {
                for (n, value) in (0..KEYS).zip(values) {
                    let found = snapshot.timed(Cf::Default, &key(n)).await.unwrap();
                    assert!(found == value, "seed {seed}, key {n}: another value");
                }
            }
            drop(last);
            tree.close().await;
        });
    }
}
