//! What a tree holds at once while it flushes, compacts and opens deletes of ranges whose bounds are long.
//!
//! Clients choose how long the bounds are, so 2,000 deletes can be 32 MB. Whoever has all of them in one piece, packed or not, has
//! that much beside what the memtable is charged, and the budget of a node is not kept. The heap is counted by the
//! allocator of this program, which has one test for that reason; the disk is simulated and counts as well, so the bounds are such
//! that a block of them packs well.

use std::alloc::System;
use std::path::Path;

use cap::Cap;
use engine::lsm::{Cf, Tree, TreeOptions, WriteBatch};
use engine::rt::{Rt, sim};

/// Counts what is allocated; the cap itself is never reached.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const RANGES: usize = 2_000;
const BOUND_BYTES: usize = 8_000;
/// Of a flush, a compaction or a start, beside the deletes: blocks, buffers of reads and writes, handles of the deletes, the disk.
const ASIDE_BYTES: usize = 12 << 20;

fn key(n: usize) -> Vec<u8> {
    let mut key = vec![b'r'; BOUND_BYTES];
    key.extend_from_slice(format!("{n:06}").as_bytes());
    key
}

fn options() -> TreeOptions {
    TreeOptions { memtable_bytes: 256 << 20, cache_bytes: 1 << 20, ..TreeOptions::default() }
}

/// The most that the heap had beyond `held` bytes, as far as it is known since the program began.
fn beyond(held: usize) -> usize {
    ALLOCATOR.max_allocated().saturating_sub(held)
}

async fn deletes_in_a_range(rt: Rt) {
    let dir = Path::new("/tree");
    let tree = Tree::open(&rt, dir, options()).await.expect("an empty directory");
    let mut batch = WriteBatch::new();
    // Something older, or the deletes would have nothing to delete and go at once.
    for n in (0..RANGES).step_by(100) {
        batch.put(Cf::Default, &key(n), b"older");
    }
    tree.write(&batch).expect("it has room");
    tree.flush().await.expect("a good disk");
    for n in 0..RANGES {
        batch.clear();
        batch.delete_range(Cf::Default, &key(n), &[key(n).as_slice(), b"x"].concat());
        tree.write(&batch).expect("it has room");
    }
    let held = ALLOCATOR.allocated();
    assert!(tree.stats().memtable_bytes as usize > RANGES * 2 * BOUND_BYTES, "all of it is in memory");

    tree.flush().await.expect("a good disk");
    let flush = beyond(held);
    assert!(flush < ASIDE_BYTES, "a flush had {flush} bytes beside the memtable");
    tree.close().await;

    // Every delete is known after a start, from its table's file.
    let tree = Tree::open(&rt, dir, options()).await.expect("it was closed");
    for n in (0..RANGES).step_by(100) {
        assert_eq!(tree.get(Cf::Default, &key(n)).await.expect("a good disk"), None, "{n}");
    }
    let start = beyond(held);
    assert!(start < ASIDE_BYTES, "a start had {start} bytes beside the deletes");

    tree.compact().await.expect("a good disk");
    let compaction = beyond(held);
    assert!(compaction < ASIDE_BYTES, "a compaction had {compaction} bytes beside the deletes");
    assert_eq!(tree.get(Cf::Default, &key(100)).await.expect("a good disk"), None);
    tree.close().await;
}

#[test]
fn deletes_with_long_bounds_are_never_in_one_piece() {
    sim::run(1, deletes_in_a_range);
}
