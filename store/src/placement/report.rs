//! What stores tell placement. Plain values, so that they can cross from core to core.

use scheduler::{Peer, Region};

/// One piece of news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A store is there; the first one enters it.
    Store(StoreReport),
    /// A leader tells of its region.
    Region(RegionReport),
}

/// A store tells who it is and how full.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct StoreReport {
    /// Its id, given out by placement, never 0.
    pub id: u64,
    /// Where clients reach it, `host:port`.
    pub address: String,
    /// Where it stands; `node` names its process.
    pub labels: Vec<(String, String)>,
    /// How full it is, if it says.
    pub stats: Option<StoreStats>,
}

/// How full a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// Bytes it may fill.
    pub capacity_bytes: u64,
    /// Bytes it could still fill.
    pub available_bytes: u64,
    /// Bytes it has filled.
    pub used_bytes: u64,
    /// Regions it holds a peer of.
    pub regions: u32,
    /// When its process started, seconds since the Unix epoch.
    pub started_seconds: u32,
    /// When it was heard, nanoseconds since the Unix epoch.
    pub heard_ns: u64,
}

/// A leader tells of its region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionReport {
    /// The region.
    pub region: Region,
    /// Who leads it.
    pub leader: Option<Peer>,
    /// The term in which it leads.
    pub term: u64,
    /// Approximate size of its data, bytes.
    pub size_bytes: u64,
    /// Approximate number of its keys.
    pub keys: u64,
}
