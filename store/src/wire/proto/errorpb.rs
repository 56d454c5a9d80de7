//! Package `errorpb`: why a store refuses a request. Exactly one typed member is set, beside the message.

use bytes::Bytes;
use prost::Message;

use super::metapb;

/// A region error.
#[derive(Clone, PartialEq, Message)]
pub struct Error {
    #[prost(string, tag = "1")]
    pub message: String,
    #[prost(message, optional, tag = "2")]
    pub not_leader: Option<NotLeader>,
    #[prost(message, optional, tag = "3")]
    pub region_not_found: Option<RegionNotFound>,
    #[prost(message, optional, tag = "4")]
    pub key_not_in_region: Option<KeyNotInRegion>,
    #[prost(message, optional, tag = "5")]
    pub epoch_not_match: Option<EpochNotMatch>,
    #[prost(message, optional, tag = "6")]
    pub server_is_busy: Option<ServerIsBusy>,
    #[prost(message, optional, tag = "7")]
    pub stale_command: Option<StaleCommand>,
    #[prost(message, optional, tag = "8")]
    pub store_not_match: Option<StoreNotMatch>,
    #[prost(message, optional, tag = "9")]
    pub raft_entry_too_large: Option<RaftEntryTooLarge>,
    #[prost(message, optional, tag = "15")]
    pub disk_full: Option<DiskFull>,
    #[prost(message, optional, tag = "20")]
    pub mismatch_peer_id: Option<MismatchPeerId>,
    #[prost(message, optional, tag = "22")]
    pub undetermined_result: Option<UndeterminedResult>,
}

/// Another peer leads.
#[derive(Clone, PartialEq, Message)]
pub struct NotLeader {
    #[prost(uint64, tag = "1")]
    pub region_id: u64,
    #[prost(message, optional, tag = "2")]
    pub leader: Option<metapb::Peer>,
}

/// The store has no such region.
#[derive(Clone, PartialEq, Message)]
pub struct RegionNotFound {
    #[prost(uint64, tag = "1")]
    pub region_id: u64,
}

/// The key lies elsewhere.
#[derive(Clone, PartialEq, Message)]
pub struct KeyNotInRegion {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(uint64, tag = "2")]
    pub region_id: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub start_key: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub end_key: Bytes,
}

/// The regions have changed; these are the current ones.
#[derive(Clone, PartialEq, Message)]
pub struct EpochNotMatch {
    #[prost(message, repeated, tag = "1")]
    pub current_regions: Vec<metapb::Region>,
}

/// Try again later.
#[derive(Clone, PartialEq, Message)]
pub struct ServerIsBusy {
    #[prost(string, tag = "1")]
    pub reason: String,
    #[prost(uint64, tag = "2")]
    pub backoff_ms: u64,
    #[prost(uint32, tag = "3")]
    pub estimated_wait_ms: u32,
}

/// The request belongs to an earlier term.
#[derive(Clone, PartialEq, Message)]
pub struct StaleCommand {}

/// The request names another store.
#[derive(Clone, PartialEq, Message)]
pub struct StoreNotMatch {
    #[prost(uint64, tag = "1")]
    pub request_store_id: u64,
    #[prost(uint64, tag = "2")]
    pub actual_store_id: u64,
}

/// The write is too big.
#[derive(Clone, PartialEq, Message)]
pub struct RaftEntryTooLarge {
    #[prost(uint64, tag = "1")]
    pub region_id: u64,
    #[prost(uint64, tag = "2")]
    pub entry_size: u64,
}

/// There is no space for writes.
#[derive(Clone, PartialEq, Message)]
pub struct DiskFull {
    #[prost(uint64, repeated, tag = "1")]
    pub store_id: Vec<u64>,
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// The request names another peer.
#[derive(Clone, PartialEq, Message)]
pub struct MismatchPeerId {
    #[prost(uint64, tag = "1")]
    pub request_peer_id: u64,
    #[prost(uint64, tag = "2")]
    pub store_peer_id: u64,
}

/// Nobody knows whether the write happens.
#[derive(Clone, PartialEq, Message)]
pub struct UndeterminedResult {
    #[prost(string, tag = "1")]
    pub message: String,
}
