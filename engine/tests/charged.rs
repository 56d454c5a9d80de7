//! What a memtable is charged for deletes of ranges, beside what the heap has grown by meanwhile.
//!
//! A memtable is flushed, and writers are slowed down, by what it is charged. Where that is less than it holds, a store runs out of
//! memory while its limits say that nothing is the matter. The heap is counted by the allocator of this program, which has one
//! test for that reason: another one beside it would be counted, too.

use std::alloc::System;
use std::path::Path;

use cap::Cap;
use engine::lsm::{Cf, Snapshot, Tree, TreeOptions, WriteBatch};
use engine::rt::{Rt, sim};

/// Counts what is allocated; the cap itself is never reached.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// The charge may be this many times what the heap has grown by: it is made for nodes of a tree that are half empty.
const CHARGE_MAX_TIMES: usize = 2;

/// What the tree and the world around it allocate beside the memtable, at most: moments of readers, timers, counters.
const ASIDE_BYTES: usize = 64 << 10;

/// Start and end, both of them keys.
type Range = (Vec<u8>, Vec<u8>);

/// Deletes of ranges in some order.
struct Shape {
    name: &'static str,
    deletes: fn() -> Vec<Range>,
    /// A reader looks at the tree before each of them, and stays.
    readers: bool,
    /// The least that the heap must grow by; a shape that collapses has none.
    grows_bytes: usize,
}

/// A range within which no other of the same length begins.
fn small(n: usize, key_bytes: usize) -> Range {
    let mut key = format!("key{n:09}").into_bytes();
    key.resize(key_bytes, b'.');
    (key.clone(), [key.as_slice(), b"x"].concat())
}

fn large() -> Range {
    (b"a".to_vec(), b"z".to_vec())
}

static SHAPES: [Shape; 5] = [
    Shape {
        name: "small ones apart",
        deletes: || (0..20_000).map(|n| small(n, 12)).collect(),
        readers: false,
        grows_bytes: 3 << 20,
    },
    Shape {
        name: "small ones with long keys",
        deletes: || (0..5_000).map(|n| small(n, 1000)).collect(),
        readers: false,
        grows_bytes: 9 << 20,
    },
    Shape {
        name: "small ones in no order",
        deletes: || (0..20_000).map(|n| small(n * 7_919 % 20_000, 40)).collect(),
        readers: false,
        grows_bytes: 4 << 20,
    },
    Shape {
        name: "small and large ones in turn",
        deletes: || (0..2_000).flat_map(|n| [small(n, 12), large()]).collect(),
        readers: false,
        grows_bytes: 0,
    },
    Shape {
        name: "small ones, then large ones that readers tell apart",
        deletes: || (0..300).map(|n| small(n, 12)).chain((0..300).map(|_| large())).collect(),
        readers: true,
        grows_bytes: 1 << 20,
    },
];

/// What is charged for the deletes of a shape, and what the heap has grown by with them, bytes.
async fn measure(rt: Rt, shape: &'static Shape) -> (usize, usize) {
    let options = TreeOptions { memtable_bytes: 256 << 20, ..TreeOptions::default() };
    let tree = Tree::open(&rt, Path::new("/tree"), options).await.expect("an empty directory");
    let deletes = (shape.deletes)();
    let (mut batch, mut readers) = (WriteBatch::new(), Vec::<Snapshot>::with_capacity(deletes.len()));
    let before = ALLOCATOR.allocated();
    for (start, end) in &deletes {
        if shape.readers {
            readers.push(tree.snapshot());
        }
        batch.clear();
        batch.delete_range(Cf::Default, start, end);
        tree.write(&batch).expect("it has room");
    }
    let grown = ALLOCATOR.allocated().saturating_sub(before);
    let stats = tree.stats();
    assert_eq!((stats.flushes, stats.closed_memtables), (0, 0), "all of it is in one memtable");
    drop(readers);
    tree.close().await;
    (stats.memtable_bytes as usize, grown)
}

#[test]
fn deletes_of_ranges_are_charged_what_they_hold() {
    for shape in &SHAPES {
        let (charged, grown) = sim::run(1, move |rt| measure(rt, shape));
        let name = shape.name;
        assert!(grown >= shape.grows_bytes, "{name}: the heap grew by {grown} bytes: the test does not test");
        assert!(charged + ASIDE_BYTES >= grown, "{name}: {charged} bytes are charged, {grown} are held");
        let most = grown * CHARGE_MAX_TIMES + ASIDE_BYTES;
        assert!(charged <= most, "{name}: {charged} bytes are charged, only {grown} are held");
    }
}
