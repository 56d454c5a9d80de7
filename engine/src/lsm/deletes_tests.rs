//! What deletes leave for those who walk over them, counted in steps: nothing where a key was written and deleted in one memtable,
//! little once a walk has come by many, and all that is needed where something older lies below.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::rt::sim;

const CF: Cf = Cf::Default;

fn key(n: usize) -> Vec<u8> {
    format!("queue:{n:06}").into_bytes()
}

/// Writes one operation per key, a hundred to a batch.
fn write(tree: &Tree, keys: std::ops::Range<usize>, operate: impl Fn(&mut WriteBatch, &[u8])) {
    let mut batch = WriteBatch::new();
    for n in keys {
        operate(&mut batch, &key(n));
        if n % 100 == 99 {
            tree.write(&batch).unwrap();
            batch.clear();
        }
    }
    tree.write(&batch).unwrap();
}

fn put(batch: &mut WriteBatch, key: &[u8]) {
    batch.put(CF, key, b"value");
}

fn delete(batch: &mut WriteBatch, key: &[u8]) {
    batch.delete(CF, key);
}

/// The first key in a direction, and how many entries were passed for it.
async fn head(tree: &Tree, direction: Direction) -> (Option<Vec<u8>>, u32) {
    let mut iter = tree.iter(CF, b"queue:", b"queue:~~", direction);
    let first = iter.next().await.unwrap();
    (first.map(|(key, _)| key.to_vec()), iter.passed())
}

#[test]
fn the_head_of_a_queue_is_not_behind_what_was_taken_from_it() {
    sim::run(1, |rt| async move {
        let tree = Tree::open(&rt, Path::new("/t"), TreeOptions::default()).await.unwrap();
        let last = key(100_000);
        for begin in (0..100_000).step_by(1000) {
            write(&tree, begin..begin + 1000, put);
            write(&tree, begin..begin + 1000, delete);
        }
        assert_eq!(tree.stats().flushes + tree.stats().closed_memtables, 0, "all of it is in one memtable");
        write(&tree, 100_000..100_001, put);
        for direction in [Direction::Forward, Direction::Reverse] {
            let (first, passed) = head(&tree, direction).await;
            assert_eq!(first, Some(last.clone()));
            assert!(passed <= 1, "{passed} entries were passed");
        }
        // What comes back is found again, and may go again.
        for _ in 0..2 {
            write(&tree, 7..8, put);
            assert_eq!(head(&tree, Direction::Forward).await, (Some(key(7)), 0));
            assert_eq!(tree.get(CF, &key(7)).await.unwrap().as_deref(), Some(&b"value"[..]));
            write(&tree, 7..8, delete);
            let (first, passed) = head(&tree, Direction::Forward).await;
            assert_eq!((first, passed), (Some(last.clone()), 0));
            assert_eq!(tree.get(CF, &key(7)).await.unwrap(), None);
        }
        tree.flush().await.unwrap();
        assert_eq!(tree.estimate(CF, b"", b"").await.unwrap().keys, 1, "a flush has nothing else to write");
        tree.close().await;
    });
}

#[test]
fn a_snapshot_sees_what_was_taken_after_it() {
    sim::run(2, |rt| async move {
        let tree = Tree::open(&rt, Path::new("/t"), TreeOptions::default()).await.unwrap();
        write(&tree, 0..300, put);
        let snapshot = tree.snapshot();
        write(&tree, 0..300, delete);
        write(&tree, 300..400, put);
        write(&tree, 300..400, delete);
        let (mut iter, mut seen) = (snapshot.iter(CF, b"", b"", Direction::Forward), 0);
        while let Some((found, _)) = iter.next().await.unwrap() {
            assert_eq!(found, key(seen));
            seen += 1;
        }
        assert_eq!(seen, 300);
        assert_eq!(head(&tree, Direction::Forward).await.0, None);
        tree.close().await;
    });
}

/// Below lies, in turn: an older memtable that waits for its flush, a table that memory knows, one that it does not.
#[test]
fn a_delete_stays_while_something_older_lies_below() {
    sim::run(3, |rt| async move {
        let dir = Path::new("/t");
        let mut tree = Tree::open(&rt, dir, TreeOptions::default()).await.unwrap();
        write(&tree, 0..100, put);
        for round in 0..3 {
            match round {
                0 => tree.start_flush(),
                1 => tree.flush().await.unwrap(),
                _ => {
                    tree.close().await;
                    tree = Tree::open(&rt, dir, TreeOptions::default()).await.unwrap();
                }
            }
            write(&tree, 0..50, put);
            write(&tree, 0..50, delete);
            assert_eq!(head(&tree, Direction::Forward).await.0, Some(key(50)), "round {round}");
            tree.flush().await.unwrap();
            assert_eq!(head(&tree, Direction::Forward).await.0, Some(key(50)), "round {round}");
            assert_eq!(tree.get(CF, &key(7)).await.unwrap(), None);
            write(&tree, 0..50, put);
        }
        tree.close().await;
    });
}

/// The keys lie in a table and the deletes in memory, so both have to be walked over, but not for as long as nothing else is written.
#[test]
fn what_a_walk_came_by_in_vain_is_flushed_and_merged_away() {
    for direction in [Direction::Forward, Direction::Reverse] {
        sim::run(4, move |rt| async move {
            let tree = Tree::open(&rt, Path::new("/t"), TreeOptions::default()).await.unwrap();
            let live = if direction == Direction::Forward { 20_000 } else { 0 };
            write(&tree, 0..20_001, put);
            tree.compact().await.unwrap();
            write(&tree, 0..live, delete);
            write(&tree, live + 1..20_001, delete);
            let (first, passed) = head(&tree, direction).await;
            assert_eq!(first, Some(key(live)));
            assert!(passed > 20_000, "{passed}");
            let mut rounds = 0;
            while head(&tree, direction).await.1 > 100 {
                assert!(rounds < 1000, "the deletes stay: {:?}", tree.stats());
                rounds += 1;
                rt.sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(head(&tree, direction).await.0, Some(key(live)));
            tree.close().await;
        });
    }
}

/// Few deletes among much else are no reason to flush, however often a walk comes by.
#[test]
fn a_walk_over_few_deletes_flushes_nothing() {
    sim::run(5, |rt| async move {
        let tree = Tree::open(&rt, Path::new("/t"), TreeOptions::default()).await.unwrap();
        write(&tree, 0..4000, delete);
        write(&tree, 4000..40_000, put);
        for _ in 0..3 {
            assert_eq!(head(&tree, Direction::Forward).await, (Some(key(4000)), 4000));
        }
        assert_eq!(tree.stats().closed_memtables + tree.stats().flushes, 0);
        tree.close().await;
    });
}

/// Where deletes of ranges are most of what a job has, they cut tables and end jobs by their bytes, as entries do.
#[test]
fn deletes_of_ranges_fill_tables_and_jobs() {
    const TABLE_BYTES: u64 = 16 << 10;
    const JOB_BYTES: u64 = 64 << 10;
    const BOUND_BYTES: usize = 1000;
    const KEY_EVERY: usize = 250;
    sim::run(6, |rt| async move {
        let dir = Path::new("/t");
        let options = || TreeOptions {
            table_bytes: TABLE_BYTES,
            compaction_bytes: JOB_BYTES,
            level_base_bytes: 1 << 20,
            ..TreeOptions::default()
        };
        let bound = |n: usize| [vec![b'.'; BOUND_BYTES], key(n)].concat();
        let tree = Tree::open(&rt, dir, options()).await.unwrap();
        let mut batch = WriteBatch::new();
        for n in (0..500).step_by(KEY_EVERY) {
            batch.put(CF, &bound(n), b"older");
        }
        batch.put(CF, &bound(499), b"older");
        tree.write(&batch).unwrap();
        tree.compact().await.unwrap();
        // A reader of the older keys keeps keys and deletes apart.
        let before = tree.snapshot();
        let jobs = tree.stats().compactions;
        for n in 0..499 {
            batch.clear();
            batch.delete_range(CF, &bound(n), &bound(n + 1));
            tree.write(&batch).unwrap();
        }
        tree.compact().await.unwrap();
        let version = tree.shared.version.borrow().clone();
        let largest = 2 * (BOUND_BYTES as u64 + 20);
        for table in version.tables() {
            let bytes: usize = table.meta.erased.iter().map(|(start, end, _)| start.len() + end.len()).sum();
            assert!((bytes as u64) < TABLE_BYTES + largest, "{bytes} bytes of range deletes in one table");
        }
        let erasures: u64 = version.tables().map(|table| table.meta.erasures).sum();
        assert!(erasures >= 499, "{erasures}");
        let jobs = tree.stats().compactions - jobs;
        assert!(jobs >= 6, "a megabyte of deletes went through {jobs} jobs");
        for n in (0..499).step_by(KEY_EVERY) {
            assert_eq!(before.get(CF, &bound(n)).await.unwrap().as_deref(), Some(&b"older"[..]));
            assert_eq!(tree.get(CF, &bound(n)).await.unwrap(), None);
        }
        drop((before, version));
        tree.close().await;
        let tree = Tree::open(&rt, dir, options()).await.unwrap();
        for n in (0..499).step_by(KEY_EVERY) {
            assert_eq!(tree.get(CF, &bound(n)).await.unwrap(), None);
        }
        assert_eq!(tree.get(CF, &bound(499)).await.unwrap().as_deref(), Some(&b"older"[..]));
        tree.close().await;
    });
}
