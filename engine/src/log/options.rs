//! How a log is set up.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::origin::Origin;

/// How a record is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMethod {
    /// One write that returns when it is durable (O_DSYNC): one step, but on a host whose cores all spin its completion can
    /// wait for a scheduler tick.
    DurableWrite,
    /// A write, then a separate sync (fdatasync): two steps.
    WriteThenSync,
}

impl fmt::Display for SyncMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DurableWrite => "durable-write",
            Self::WriteThenSync => "write-then-sync",
        })
    }
}

impl FromStr for SyncMethod {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "durable-write" => Ok(Self::DurableWrite),
            "write-then-sync" => Ok(Self::WriteThenSync),
            other => Err(format!("unknown sync method \"{other}\"; it is durable-write or write-then-sync")),
        }
    }
}

/// Settings of one log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Size of a segment file, bytes; a multiple of 4096 and at least 16384. Default 64 MiB.
    pub segment_bytes: u64,
    /// Segments that are kept ready, zeroed and named, beside the one that is written. Default 2.
    pub spare_segments: usize,
    /// How records are made durable. Default [`SyncMethod::DurableWrite`]; [`measure_sync`](super::measure_sync) says
    /// which one suits the host.
    pub sync: SyncMethod,
    /// Memory for recent records, bytes. Default 32 MiB.
    pub cache_bytes_max: usize,
    /// Batches that wait for a write share one record up to this size, bytes. Default 1 MiB.
    pub group_bytes_max: usize,
    /// How fast space is zeroed in the background, bytes per second. Default 64 MiB.
    pub zero_bytes_per_second: u64,
    /// How often a log that is never idle says outside of its segments how far it reaches, one block each time. Default 1 s.
    pub witness_every: Duration,
    /// What is known about the log that is opened. By default nothing: any log is opened, or a new one created.
    pub origin: Origin,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            spare_segments: 2,
            sync: SyncMethod::DurableWrite,
            cache_bytes_max: 32 << 20,
            group_bytes_max: 1 << 20,
            zero_bytes_per_second: 64 << 20,
            witness_every: Duration::from_secs(1),
            origin: Origin::default(),
        }
    }
}

impl LogOptions {
    /// A sentence about the first setting that makes no sense.
    pub fn validate(&self) -> Result<(), String> {
        if self.segment_bytes < 16 << 10 || !self.segment_bytes.is_multiple_of(4096) {
            let bytes = self.segment_bytes;
            return Err(format!(
                "segment_bytes is {bytes}; it must be a multiple of 4096 and at least 16384"
            ));
        }
        if self.segment_bytes > 4 << 30 {
            return Err(format!("segment_bytes is {}; at most 4 GiB", self.segment_bytes));
        }
        if self.spare_segments < 2 {
            let spares = self.spare_segments;
            return Err(format!(
                "spare_segments is {spares}; at least 2, one of them the reserve for a full disk"
            ));
        }
        if self.zero_bytes_per_second == 0 {
            return Err("zero_bytes_per_second is 0; space would never be prepared".into());
        }
        Ok(())
    }
}
