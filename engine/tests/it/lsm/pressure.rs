//! Writers that outrun flushes and compactions are slowed down, never stopped, and what is left is worked off by itself.

use std::path::Path;
use std::time::Duration;

use engine::lsm::{Cf, Direction, Pressure, Tree, TreeOptions, WriteBatch};
use engine::rt::Rt;
use engine::rt::sim::{Options, World};

use super::world::{DIR, fill, key, tiny};

/// On a disk that is eight times slower than usual, writers could outrun it many times over.
fn slow() -> TreeOptions {
    TreeOptions {
        memtable_bytes: 512 << 10,
        block_bytes: 4 << 10,
        table_bytes: 512 << 10,
        level_base_bytes: 2 << 20,
        level_ratio: 4,
        compaction_bytes: 512 << 10,
        compress: false,
        open_tables_max: 100,
        ..tiny()
    }
}

/// Writes 100 random keys of 200 bytes each time, keeping to what the tree says. Gives the longest pause.
async fn write_under_pressure(rt: &Rt, tree: &Tree, batches: u64) -> Duration {
    let mut worst = Duration::ZERO;
    for _ in 0..batches {
        match tree.pressure() {
            Pressure::None => {}
            Pressure::Delay(pause) => {
                worst = worst.max(pause);
                rt.sleep(pause).await;
            }
            Pressure::Stop => panic!("writers were stopped: {:?}", tree.stats()),
        }
        let mut batch = WriteBatch::new();
        for _ in 0..100 {
            batch.put(Cf::Default, &key(rt.random() % 100_000), &[7; 200]);
        }
        tree.write(&batch).unwrap();
        rt.yield_to_reactor().await;
    }
    worst
}

#[test]
fn writers_are_slowed_down_and_never_stopped() {
    for seed in 71..75 {
        let world = World::new(seed, Options::default());
        world.node(0).disk().slow(8);
        let running = world.node(0).start(0, |rt| async move {
            let tree = Tree::open(&rt, Path::new(DIR), slow()).await.unwrap();
            assert_eq!(tree.pressure(), Pressure::None);
            let worst = write_under_pressure(&rt, &tree, 1_500).await;
            let stats = tree.stats();
            assert!(worst > Duration::ZERO && worst <= Duration::from_millis(150), "{worst:?}");
            assert!(stats.write_delay > Duration::from_secs(1), "{stats:?}");
            assert_eq!(stats.write_stop, Duration::ZERO);
            assert!(stats.pending_compaction_bytes > 0 && stats.write_bytes_per_second_max > 0, "{stats:?}");
            // Those that a compaction has begun count as what is left of them.
            assert!(stats.levels[0].0 < 32, "{stats:?}");

            let mut waited = 0;
            while tree.stats().pending_compaction_bytes > 0 {
                rt.sleep(Duration::from_secs(1)).await;
                waited += 1;
                assert!(waited < 600, "the debt is not worked off: {:?}", tree.stats());
            }
            assert_eq!((tree.pressure(), tree.stats().write_bytes_per_second_max), (Pressure::None, 0));
            tree.close().await;
        });
        world.block_on(running).unwrap();
    }
}

/// A scan over a range that was deleted does not read what lies there.
#[test]
fn a_scan_passes_over_a_deleted_range_without_reading_it() {
    const KEYS: u64 = 6_000;
    let world = World::new(76, Options::default());
    let node = world.node(0);
    let with = node.clone();
    let running = node.start(0, move |rt| async move {
        let options = TreeOptions { cache_bytes: 0, table_bytes: 1 << 20, ..tiny() };
        let tree = Tree::open(&rt, Path::new(DIR), options).await.unwrap();
        fill(&tree, 0, KEYS, 1);
        tree.compact().await.unwrap();
        // A reader of the past keeps everything in its place.
        let past = tree.snapshot();
        let mut batch = WriteBatch::new();
        batch.delete_range(Cf::Default, &key(10), &key(KEYS - 10));
        tree.write(&batch).unwrap();
        for flushed in [false, true] {
            for direction in [Direction::Forward, Direction::Reverse] {
                let before = with.disk().stats().reads;
                let mut iter = tree.iter(Cf::Default, b"", b"", direction);
                let mut found = Vec::new();
                while let Some((key, _)) = iter.next().await.unwrap() {
                    found.push(key.to_vec());
                }
                if direction == Direction::Reverse {
                    found.reverse();
                }
                let expected: Vec<_> = (0..10).chain(KEYS - 10..KEYS).map(key).collect();
                assert_eq!(found, expected, "{direction:?}, flushed {flushed}");
                let reads = with.disk().stats().reads - before;
                assert!(reads < 60, "{reads} reads, {direction:?}, flushed {flushed}");
            }
            tree.flush().await.unwrap();
        }
        let mut iter = past.iter(Cf::Default, b"", b"", Direction::Forward);
        let mut count = 0;
        while iter.next().await.unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, KEYS, "the past is whole");
        tree.close().await;
    });
    world.block_on(running).unwrap();
}
