//! How busy a region or a store is, and where the load of a region lies.

use crate::range::Key;

/// Rates over the last reporting interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes read per second.
    pub read_bytes: u64,
    /// Bytes written per second, by clients, not counting replication.
    pub write_bytes: u64,
    /// Read operations per second.
    pub read_ops: u32,
    /// Write operations per second.
    pub write_ops: u32,
}

/// What one operation weighs beside its bytes: a small read costs a core about as much as moving a kibibyte.
const OPERATION_BYTES: u64 = 1024;

impl Load {
    /// Reads as one number, which only the region's leader bears: bytes per second, operations included at 1 KiB each.
    #[must_use]
    pub const fn read_score(&self) -> u64 {
        self.read_bytes.saturating_add(self.read_ops as u64 * OPERATION_BYTES)
    }

    /// Writes as one number, which every replica bears: bytes per second, operations included at 1 KiB each.
    #[must_use]
    pub const fn write_score(&self) -> u64 {
        self.write_bytes.saturating_add(self.write_ops as u64 * OPERATION_BYTES)
    }

    /// Operations per second of both kinds.
    #[must_use]
    pub const fn ops(&self) -> u64 {
        self.read_ops as u64 + self.write_ops as u64
    }

    /// What the leader bears, as operations per second: each KiB that they move counts as one more.
    #[must_use]
    pub const fn weighted_ops(&self) -> u64 {
        self.read_score().saturating_add(self.write_score()) / OPERATION_BYTES
    }
}

/// What samples of the requests to a region say about where to cut it, so that both parts bear load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LoadCut {
    /// There are too few samples to say.
    #[default]
    Unknown,
    /// At this key, which lies strictly inside the region.
    At(Key),
    /// Nowhere: a single key bears this share of the load, percent.
    OneKey(u64),
    /// Nowhere: at best the lesser part would bear this share of the load, percent. Ranges may reach across every border.
    Lopsided(u64),
}
