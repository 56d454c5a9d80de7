//! What the tests of the tree share.

use std::path::Path;
use std::time::Duration;

use engine::lsm::{Cf, Tree, TreeOptions, WriteBatch};
use engine::rt::Rt;

pub(super) const DIR: &str = "/tree";

/// Limits so small that every path runs within a few hundred operations.
pub(super) fn tiny() -> TreeOptions {
    TreeOptions {
        memtable_bytes: 9 << 10,
        cache_bytes: 16 << 10,
        block_bytes: 256,
        table_bytes: 8 << 10,
        l0_tables: 2,
        compaction_bytes: 6 << 10,
        open_tables_max: 8,
        level_base_bytes: 24 << 10,
        level_ratio: 2,
        filter_bits_per_key: 10,
        compress: true,
        compaction_bytes_per_second: None,
        closed_memtables: 3,
        expired_kept: Duration::from_secs(24 * 60 * 60),
        origin: engine::origin::Origin::default(),
    }
}

pub(super) async fn open(rt: &Rt) -> Tree {
    Tree::open(rt, Path::new(DIR), tiny()).await.unwrap()
}

pub(super) fn key(n: u64) -> Vec<u8> {
    format!("key{n:06}").into_bytes()
}

/// Writes keys `from..to` with values that name key and round, in batches of ten.
pub(super) fn fill(tree: &Tree, from: u64, to: u64, round: u64) {
    let mut batch = WriteBatch::new();
    for n in from..to {
        batch.put(Cf::Default, &key(n), format!("value of {n} in round {round}").as_bytes());
        if batch.len() == 10 {
            tree.write(&batch).unwrap();
            batch.clear();
        }
    }
    tree.write(&batch).unwrap();
}
