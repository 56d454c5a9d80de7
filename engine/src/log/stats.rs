//! What a log has done and what it holds, as numbers for its owner. Pure reading: nothing here changes the log.

use super::Shared;
use super::recover::Cut;
use crate::error::Fault;

/// What the log has done and holds; counters run from the opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LogStats {
    /// Records written, which is writes issued.
    pub records: u64,
    /// Batches written.
    pub batches: u64,
    /// Bytes written as records, padding included.
    pub record_bytes: u64,
    /// Bytes of bodies in those records.
    pub body_bytes: u64,
    /// Segments that hold records, the one in use included.
    pub segments: usize,
    /// Segments that are ready for use.
    pub spare_segments: usize,
    /// Live bytes over all groups.
    pub live_bytes: u64,
    /// Bytes of recent records in memory. The last one that was read from disk is kept beside them.
    pub cache_bytes: usize,
    /// How many there may be.
    pub cache_bytes_max: usize,
    /// Batches that wait for a write.
    pub queued_batches: usize,
    /// Whether there was no room when some was last asked for: a full disk, or a limit on the length of files.
    pub disk_full: bool,
    /// Whether that or anything else was short when the log last asked for it.
    pub waits: bool,
    /// Bytes that the opening cut off at the end.
    pub cut_bytes: u64,
    /// Entries that would have been in them, as far as that could be made out.
    pub cut_entries: u64,
    /// Whether what was cut off may have been acknowledged.
    pub cut_in_doubt: bool,
}

impl Shared {
    /// Counters and sizes as they are now.
    pub(super) fn stats(&self) -> LogStats {
        let written = self.written.get();
        LogStats {
            records: written.records,
            batches: written.batches,
            record_bytes: written.record_bytes,
            body_bytes: written.body_bytes,
            segments: self.segments.borrow().len(),
            spare_segments: self.ready.borrow().len(),
            live_bytes: self.index.borrow().uses().values().map(|used| used.bytes).sum(),
            cache_bytes: self.cache.borrow().bytes_recent(),
            cache_bytes_max: self.options.cache_bytes_max,
            queued_batches: self.queue.borrow().len(),
            disk_full: self.short.borrow().as_ref().is_some_and(Fault::is_of_room),
            waits: self.short.borrow().is_some(),
            cut_bytes: self.cut.as_ref().map_or(0, |cut| cut.bytes),
            cut_entries: self.cut.as_ref().map_or(0, Cut::entries),
            cut_in_doubt: self.cut.as_ref().is_some_and(Cut::is_in_doubt),
        }
    }
}
