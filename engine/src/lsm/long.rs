//! Values of long blocks, which a walk reads when it comes to them.
//!
//! ```text
//! source 1   keys of its block ──┐
//! source 2   keys of its block ──┼─ merge ─► a value is wanted ─► kept blocks, cache, or the file again
//! source 3   keys of its block ──┘
//! ```
//!
//! A walk has a block of each source open, and where values are long a block is as long as they are: with 34 tables of level 0 and values
//! of 8 MiB it had 272 MiB in memory. So of a block longer than [`BLOCK_BYTES_KEPT`] a source keeps the keys alone. The blocks that were
//! read last stay with the walk ([`KeptBlocks`]), so a walk over one table reads each of them once; a walk that goes to and fro between
//! tables reads one for its keys and once more for a value that it returns, from the cache if that has it.
//!
//! A compaction does the same with blocks that are longer than the pieces in which it reads, so it may merge any number of tables.
//!
//! Invariant: whatever the number of sources, a walk keeps blocks of [`KeptBlocks::bytes_max`] bytes, or one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

use super::cache::BlockCache;
use super::key::SeqNo;
use super::table::block::BlockView;
use super::table::read::{Table, Window};
use super::table::{Damage, Handle};
use crate::error::Result;
use crate::rt::Rt;

/// Of a longer block a source keeps the keys alone, and no walk of a client keeps a longer piece of a file, bytes.
pub(crate) const BLOCK_BYTES_KEPT: usize = 64 << 10;
/// What a walk keeps of long blocks, however much it may hold, bytes.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// What a compaction keeps of them, bytes.
const COMPACTION_BYTES_MAX: usize = 8 << 20;

/// A block longer than [`BLOCK_BYTES_KEPT`] that a look-up is about to have in memory, as it lies in the file and opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongBlock {
    /// Bytes in the file.
    pub packed_bytes: usize,
    /// Bytes that it opens to, as the file says; those in the file as long as it has not been read.
    pub opened_bytes: usize,
}

/// Where the values of a chunk are whose source has let go of them.
#[derive(Clone, Debug)]
pub(crate) struct Elsewhere {
    pub(crate) table: Rc<Table>,
    pub(crate) block: Handle,
    /// Which restart interval of the block.
    pub(crate) interval: usize,
}

/// A value as a walk has it.
#[derive(Debug)]
pub(crate) enum Value {
    Here(Bytes),
    Elsewhere(Elsewhere),
}

/// Long blocks that a walk has read last, the newest at the end.
#[derive(Debug)]
pub(crate) struct KeptBlocks {
    bytes_max: usize,
    blocks: RefCell<VecDeque<(u64, u64, Bytes)>>,
}

impl KeptBlocks {
    /// None yet; for a compaction.
    pub(crate) fn of_compaction() -> Self {
        Self::new(COMPACTION_BYTES_MAX)
    }

    /// None yet; for a walk that may hold `block_bytes_max` at once.
    pub(crate) fn new(block_bytes_max: usize) -> Self {
        Self { bytes_max: block_bytes_max.min(KEPT_BYTES_MAX), blocks: RefCell::default() }
    }

    /// Keeps a block of the file with this number, and lets older ones go.
    pub(crate) fn keep(&self, file: u64, block: Handle, bytes: &Bytes) {
        let mut blocks = self.blocks.borrow_mut();
        blocks.retain(|(of, offset, _)| (*of, *offset) != (file, block.offset));
        let mut kept_bytes: usize = blocks.iter().map(|(.., bytes)| bytes.len()).sum();
        while kept_bytes + bytes.len() > self.bytes_max
            && let Some((.., oldest)) = blocks.pop_front()
        {
            kept_bytes -= oldest.len();
        }
        blocks.push_back((file, block.offset, bytes.clone()));
    }

    fn get(&self, file: u64, block: Handle) -> Option<Bytes> {
        let blocks = self.blocks.borrow();
        let kept = blocks.iter().find(|(of, offset, _)| (*of, *offset) == (file, block.offset));
        kept.map(|(.., bytes)| bytes.clone())
    }

    /// What is kept, bytes.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.blocks.borrow().iter().map(|(.., bytes)| bytes.len()).sum()
    }
}

impl Elsewhere {
    /// The value of the version of `key` at `seq`, which the chunk had; past the cache if there is none.
    ///
    /// # Errors
    /// A fault of the file.
    pub(crate) async fn read(
        &self,
        rt: &Rt,
        cache: Option<&BlockCache>,
        kept: &KeptBlocks,
        (key, seq): (&[u8], SeqNo),
    ) -> Result<Bytes> {
        let (table, handle) = (&self.table, self.block);
        let block = match kept.get(table.meta.file, handle) {
            Some(block) => block,
            None => {
                let block = match cache {
                    Some(cache) => table.cached(rt, cache, handle).await?,
                    None => table.read_frame(rt, handle, &mut Window::default(), 0).await?,
                };
                kept.keep(table.meta.file, handle, &block);
                block
            }
        };
        let found = BlockView::parse(&block).and_then(|view| {
            let chunk = view.decode(self.interval, &block)?;
            let at = (0..chunk.len())
                .find(|at| chunk.get(*at).is_some_and(|entry| (entry.key, entry.seq) == (key, seq)));
            at.map(|at| chunk.value(at)).ok_or(Damage("a block that was read again has other keys"))
        });
        found.map_err(|damage| table.damaged_at(damage, handle))
    }
}
