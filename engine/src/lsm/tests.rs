//! Tests that need the inside of the tree: virtual bounds, moves, and the fuzz functions with seeded bytes.

use std::path::Path;
use std::rc::Rc;

use super::manifest::{self, Manifest};
use super::version::TableMeta;
use super::*;
use crate::rt::sim;

fn key(n: u32) -> Vec<u8> {
    format!("k{n:04}").into_bytes()
}

fn fill(tree: &Tree, keys: std::ops::Range<u32>) {
    let mut batch = WriteBatch::new();
    for n in keys {
        batch.put(Cf::Default, &key(n), &n.to_be_bytes());
    }
    tree.write(&batch).unwrap();
}

async fn keys(tree: &Tree, direction: Direction) -> Vec<Vec<u8>> {
    let mut iter = tree.iter(Cf::Default, b"", b"", direction);
    let mut keys = Vec::new();
    while let Some((key, _)) = iter.next().await.unwrap() {
        keys.push(key.to_vec());
    }
    keys
}

fn small() -> TreeOptions {
    TreeOptions { block_bytes: 128, l0_tables: 100, ..TreeOptions::default() }
}

/// Two tables may show two parts of one file; what lies between is not there, and the file goes with the last of them.
#[test]
fn virtual_bounds_hide_the_rest_of_a_file() {
    let dir = Path::new("/t");
    sim::run(1, move |rt| async move {
        let tree = Tree::open(&rt, dir, small()).await.unwrap();
        fill(&tree, 0..300);
        tree.flush().await.unwrap();
        let mut whole = tree.shared.whole();
        let number = tree.shared.numbers.get() + 1;
        tree.close().await;
        let tree_id = manifest::recover(&rt, dir).await.unwrap().unwrap().replayed.tree;

        let real = whole.added.remove(0);
        let shown = |table, start: u32, end: u32| TableMeta {
            table,
            level: 1,
            start: key(start),
            end: key(end),
            ..real.clone()
        };
        whole.added = vec![shown(number + 1, 0, 100), shown(number + 2, 200, 250)];
        whole.next_number = number + 3;
        Manifest::begin(&rt, dir, tree_id, number, &whole).await.unwrap().close().await.unwrap();

        let tree = Tree::open(&rt, dir, small()).await.unwrap();
        let expected: Vec<_> = (0..100).chain(200..250).map(key).collect();
        for compacted in [false, true] {
            assert_eq!(keys(&tree, Direction::Forward).await, expected);
            let mut reverse = keys(&tree, Direction::Reverse).await;
            reverse.reverse();
            assert_eq!(reverse, expected);
            for n in [0, 99, 100, 150, 199, 200, 249, 250, 299] {
                let there = tree.get(Cf::Default, &key(n)).await.unwrap().is_some();
                assert_eq!(there, expected.contains(&key(n)), "{n}");
            }
            if !compacted {
                // A range delete over everything, then a merge, leaves nothing of the shared file.
                assert!(rt.exists(&dir.join(table::read::file_name(real.file))).await.unwrap());
                fill(&tree, 0..1);
                tree.compact().await.unwrap();
            }
        }
        let estimate = tree.estimate(Cf::Default, b"", b"").await.unwrap();
        assert!(estimate.keys >= 100, "{estimate:?}");
        tree.close().await;
    });
}

#[test]
fn a_range_delete_over_everything_discards_tables_unread() {
    let dir = Path::new("/t");
    sim::run(2, move |rt| async move {
        let tree = Tree::open(&rt, dir, small()).await.unwrap();
        fill(&tree, 0..300);
        tree.flush().await.unwrap();
        let snapshot = tree.snapshot();
        let mut batch = WriteBatch::new();
        batch.delete_range(Cf::Default, b"k", b"l");
        tree.write(&batch).unwrap();
        tree.flush().await.unwrap();
        assert!(keys(&tree, Direction::Forward).await.is_empty());
        assert!(snapshot.get(Cf::Default, &key(7)).await.unwrap().is_some());
        assert_eq!(tree.stats().levels[0].0, 2);
        drop(snapshot);
        tree.compact().await.unwrap();
        let tables: u64 = tree.stats().levels.iter().map(|(tables, _)| tables).sum();
        assert!(tables <= 1, "{:?}", tree.stats().levels);
        assert_eq!(tree.get(Cf::Default, &key(7)).await.unwrap(), None);
        tree.close().await;
    });
}

/// As long as there is always one to flush, nothing else is done, and what is flushed has to go all the same.
#[test]
fn memtables_that_are_flushed_go_while_writers_fill_the_next_ones() {
    const MEMTABLE_BYTES: usize = 32 << 10;
    sim::run(4, |rt| async move {
        let options = TreeOptions { memtable_bytes: MEMTABLE_BYTES, closed_memtables: 2, ..small() };
        let tree = Tree::open(&rt, Path::new("/t"), options).await.unwrap();
        let mut most = 0;
        while tree.stats().flushes < 60 {
            if tree.pressure() == Pressure::Stop {
                rt.sleep(Duration::from_micros(50)).await;
            } else {
                fill(&tree, 0..50);
                rt.yield_to_reactor().await;
            }
            most = most.max(tree.stats().memtable_bytes);
        }
        // The active one, two that wait, and one that is freed; each may be fuller by a batch.
        assert!(most >= 2 * MEMTABLE_BYTES as u64, "{most} bytes: the test does not test");
        assert!(most <= 5 * MEMTABLE_BYTES as u64, "{most} bytes of memtables");
        tree.close().await;
    });
}

#[test]
fn a_split_key_lies_near_the_middle() {
    let dir = Path::new("/t");
    sim::run(3, move |rt| async move {
        let tree = Tree::open(&rt, dir, small()).await.unwrap();
        fill(&tree, 0..4000);
        for flushed in [false, true] {
            let middle = tree.split_key(Cf::Default, &key(1000), &key(3000)).await.unwrap().unwrap();
            assert!(middle > key(1500) && middle < key(2500), "{middle:?} flushed {flushed}");
            let half = tree.estimate(Cf::Default, &key(1000), &key(3000)).await.unwrap();
            assert!((1500..2500).contains(&half.keys), "{half:?} flushed {flushed}");
            tree.flush().await.unwrap();
        }
        assert_eq!(tree.split_key(Cf::Default, b"x", b"y").await.unwrap(), None);
        tree.close().await;
    });
}

#[test]
fn marks_advance_with_their_data_and_can_be_forgotten() {
    let dir = Path::new("/t");
    sim::run(4, move |rt| async move {
        let tree = Tree::open(&rt, dir, small()).await.unwrap();
        let mut batch = WriteBatch::new();
        batch.mark(5, 10);
        batch.mark(6, 3);
        tree.write(&batch).unwrap();
        assert_eq!(tree.flushed_index(5), 0);
        tree.flush().await.unwrap();
        assert_eq!(tree.flushed().await, [(5, 10), (6, 3)]);
        batch.clear();
        batch.mark(5, 12);
        batch.forget(6);
        tree.write(&batch).unwrap();
        tree.flush().await.unwrap();
        assert_eq!(tree.flushed().await, [(5, 12)]);
        tree.close().await;
        let tree = Tree::open(&rt, dir, small()).await.unwrap();
        assert_eq!(tree.flushed_indexes(), [(5, 12)]);
        tree.close().await;
    });
}

/// Whoever cuts logs by what was flushed must not hear of a group that is gone, even if it asks late.
#[test]
fn an_advance_that_was_not_taken_is_forgotten_with_its_group() {
    let dir = Path::new("/t");
    sim::run(6, move |rt| async move {
        let tree = Tree::open(&rt, dir, small()).await.unwrap();
        let mut batch = WriteBatch::new();
        batch.mark(5, 10);
        batch.mark(6, 30);
        tree.write(&batch).unwrap();
        tree.flush().await.unwrap();
        batch.clear();
        batch.mark(5, 12);
        batch.forget(6);
        batch.mark(6, 2);
        tree.write(&batch).unwrap();
        tree.flush().await.unwrap();
        let of_the_returned: Vec<_> = tree.flushed().await.into_iter().filter(|it| it.0 == 6).collect();
        assert_eq!(of_the_returned, [(6, 2)]);
        tree.close().await;
    });
}

#[test]
fn a_long_manifest_is_begun_anew() {
    let dir = Path::new("/t");
    sim::run(5, move |rt| async move {
        let tree = Tree::open(&rt, dir, small()).await.unwrap();
        let mut batch = WriteBatch::new();
        for index in 1..=300 {
            batch.clear();
            batch.mark(1, index);
            tree.write(&batch).unwrap();
            tree.flush().await.unwrap();
        }
        let names = rt.read_dir(dir).await.unwrap();
        let manifests: Vec<_> = names.iter().filter_map(|name| manifest::file_number(name)).collect();
        assert_eq!(manifests.len(), 1);
        assert!(manifests[0] > 1, "256 edits of a block each are too long");
        tree.close().await;
        let tree = Tree::open(&rt, dir, small()).await.unwrap();
        assert_eq!(tree.flushed_index(1), 300);
        tree.close().await;
    });
}

#[test]
fn every_decoder_answers_seeded_bytes() {
    let mut seeds: Vec<Vec<u8>> = vec![Vec::new(), vec![0; 100], vec![0xFF; 100]];
    for version in ["lsm-v3", "lsm-v4", "lsm-v5"] {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures").join(version);
        for entry in std::fs::read_dir(fixture).unwrap() {
            seeds.push(std::fs::read(entry.unwrap().path()).unwrap());
        }
    }
    let shared = Rc::new(seeds);
    let rng = crate::rt::rng::Rng::new(77);
    let next = |bound: usize| rng.below(bound.max(1) as u64) as usize;
    for _ in 0..4000 {
        let mut bytes = shared[next(shared.len())].clone();
        let from = next(bytes.len());
        bytes.drain(..from);
        bytes.truncate(next(600));
        for _ in 0..next(4) {
            let at = next(bytes.len());
            if let Some(byte) = bytes.get_mut(at) {
                *byte = next(256) as u8;
            }
        }
        fuzz::block(&bytes);
        fuzz::index(&bytes);
        fuzz::footer(&bytes);
        fuzz::manifest(&bytes);
    }
}
