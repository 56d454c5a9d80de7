//! The options of a tree, and the limits that follow.

use std::time::Duration;

use super::plan::Limits;
use super::table::build::TableShape;
use crate::origin::Origin;

/// Level 0 goes down in sets of up to this many times level 1: the more of it at once, the less level 1 is rewritten for it.
const SET_LEVELS: u64 = 4;

/// Settings of a tree. None of them is part of the format: a tree may be opened with others at any time.
#[derive(Debug, Clone)]
pub struct TreeOptions {
    /// A memtable of this size, bytes, is closed and flushed. Default 32 MiB.
    pub memtable_bytes: usize,
    /// Memory for blocks, indexes, filters and, a quarter of it, single rows, bytes. Default 64 MiB.
    pub cache_bytes: usize,
    /// Data blocks are cut at this size, bytes before packing. Default 8 KiB.
    pub block_bytes: usize,
    /// Tables of level 1 and deeper are cut at about this size, bytes. Default 32 MiB.
    pub table_bytes: u64,
    /// Level 0 is compacted at this number of tables. Writers are slowed down from twice as many on, and stopped at sixteen times as
    /// many. Default 4.
    pub l0_tables: usize,
    /// Entries that one compaction merges before it makes its result visible, bytes; at most twice as many. Default 64 MiB.
    pub compaction_bytes: u64,
    /// Bytes of level 1; each deeper level may hold [`TreeOptions::level_ratio`] times more. Default 256 MiB.
    pub level_base_bytes: u64,
    /// Ratio between the sizes of neighbouring levels. Default 10.
    pub level_ratio: u64,
    /// Filter bits per key. Default 10: about one absent key in eighty costs a block look-up.
    pub filter_bits_per_key: usize,
    /// Table files that may be open for reading at a time; beyond it those read least recently are closed. Default 256.
    pub open_tables_max: usize,
    /// Whether blocks are packed with LZ4 where that saves an eighth. Default true.
    pub compress: bool,
    /// Bytes per second that compaction may write; none means no limit. Flushes are never held back. Default none.
    pub compaction_bytes_per_second: Option<u64>,
    /// This many memtables' worth of unflushed data, but at least two, and writers are stopped. Default 3.
    pub closed_memtables: usize,
    /// A value that expired less than this long ago is not given back yet, though no read sees it: a clock that was ahead for a while, as by the
    /// hours that a time zone is, drops nothing before its time. Default a day.
    pub expired_kept: Duration,
    /// What is known about the tree that is opened. By default nothing: any tree is opened, or a new one created.
    pub origin: Origin,
}

/// What a merge may always have of its tables in memory, bytes, however small memtables are: with less it would take one at a time.
const OPEN_BYTES_LEAST: u64 = 8 << 20;

impl Default for TreeOptions {
    fn default() -> Self {
        Self {
            memtable_bytes: 32 << 20,
            cache_bytes: 64 << 20,
            block_bytes: 8 << 10,
            table_bytes: 32 << 20,
            l0_tables: 4,
            compaction_bytes: 64 << 20,
            level_base_bytes: 256 << 20,
            level_ratio: 10,
            filter_bits_per_key: 10,
            open_tables_max: 256,
            compress: true,
            compaction_bytes_per_second: None,
            closed_memtables: 3,
            expired_kept: Duration::from_secs(24 * 60 * 60),
            origin: Origin::default(),
        }
    }
}

impl TreeOptions {
    pub(crate) fn shape(&self) -> TableShape {
        TableShape {
            block_bytes: self.block_bytes,
            part_blocks: 64,
            filter_bits_per_key: self.filter_bits_per_key,
            compress: self.compress,
        }
    }

    /// How much unflushed data may lie in memory, bytes.
    pub(crate) fn unflushed_bytes_max(&self) -> u64 {
        (self.closed_memtables.max(2) * self.memtable_bytes) as u64
    }

    pub(crate) fn row_cache_bytes(&self) -> usize {
        self.cache_bytes / 4
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            l0_tables: self.l0_tables.max(1),
            level_base_bytes: self.level_base_bytes,
            level_ratio: self.level_ratio.max(2),
            set_bytes: self.level_base_bytes.saturating_mul(SET_LEVELS),
            open_bytes: (self.memtable_bytes as u64).max(OPEN_BYTES_LEAST),
        }
    }
}
