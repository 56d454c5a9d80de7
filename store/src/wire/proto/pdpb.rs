//! Package `pdpb`, the part that clients and tools of the raw key space use.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;

use super::metapb;

/// Which cluster the caller means.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RequestHeader {
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    #[prost(uint64, tag = "2")]
    pub sender_id: u64,
}

/// Present in every answer; `error` only on failure.
#[derive(Clone, PartialEq, Message)]
pub struct ResponseHeader {
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    #[prost(message, optional, tag = "2")]
    pub error: Option<Error>,
}

/// Why a call failed, by the numbers of [`super::super::pd`].
#[derive(Clone, PartialEq, Message)]
pub struct Error {
    #[prost(int32, tag = "1")]
    pub r#type: i32,
    #[prost(string, tag = "2")]
    pub message: String,
}

/// The request of GetMembers, IsBootstrapped, GetClusterConfig, GetGCSafePoint and GetClusterInfo.
#[derive(Clone, PartialEq, Message)]
pub struct HeaderOnlyRequest {
    #[prost(message, optional, tag = "1")]
    pub header: Option<RequestHeader>,
}

/// A placement server.
#[derive(Clone, PartialEq, Message)]
pub struct Member {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    #[prost(string, repeated, tag = "3")]
    pub peer_urls: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub client_urls: Vec<String>,
}

/// Who serves placement.
#[derive(Clone, PartialEq, Message)]
pub struct GetMembersResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<Member>,
    #[prost(message, optional, tag = "3")]
    pub leader: Option<Member>,
    #[prost(message, optional, tag = "4")]
    pub etcd_leader: Option<Member>,
}

/// Which services are split off; `service_modes` 1 says none.
#[derive(Clone, PartialEq, Message)]
pub struct GetClusterInfoResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(int32, repeated, tag = "2")]
    pub service_modes: Vec<i32>,
    #[prost(string, repeated, tag = "3")]
    pub tso_urls: Vec<String>,
}

/// Milliseconds and a counter within them.
#[derive(Clone, PartialEq, Message)]
pub struct Timestamp {
    #[prost(int64, tag = "1")]
    pub physical: i64,
    #[prost(int64, tag = "2")]
    pub logical: i64,
    #[prost(uint32, tag = "3")]
    pub suffix_bits: u32,
}

/// Asks for timestamps.
#[derive(Clone, PartialEq, Message)]
pub struct TsoRequest {
    #[prost(message, optional, tag = "1")]
    pub header: Option<RequestHeader>,
    #[prost(uint32, tag = "2")]
    pub count: u32,
    #[prost(string, tag = "3")]
    pub dc_location: String,
}

/// `count` timestamps, of which this is the largest.
#[derive(Clone, PartialEq, Message)]
pub struct TsoResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(uint32, tag = "2")]
    pub count: u32,
    #[prost(message, optional, tag = "3")]
    pub timestamp: Option<Timestamp>,
}

/// Asks by key.
#[derive(Clone, PartialEq, Message)]
pub struct GetRegionRequest {
    #[prost(message, optional, tag = "1")]
    pub header: Option<RequestHeader>,
    #[prost(bytes = "bytes", tag = "2")]
    pub region_key: Bytes,
    #[prost(bool, tag = "3")]
    pub need_buckets: bool,
}

/// Asks by id.
#[derive(Clone, PartialEq, Message)]
pub struct GetRegionByIdRequest {
    #[prost(message, optional, tag = "1")]
    pub header: Option<RequestHeader>,
    #[prost(uint64, tag = "2")]
    pub region_id: u64,
    #[prost(bool, tag = "3")]
    pub need_buckets: bool,
}

/// A silent peer.
#[derive(Clone, PartialEq, Message)]
pub struct PeerStats {
    #[prost(message, optional, tag = "1")]
    pub peer: Option<metapb::Peer>,
    #[prost(uint64, tag = "2")]
    pub down_seconds: u64,
}

/// A region, or nothing but the header.
#[derive(Clone, PartialEq, Message)]
pub struct GetRegionResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(message, optional, tag = "2")]
    pub region: Option<metapb::Region>,
    #[prost(message, optional, tag = "3")]
    pub leader: Option<metapb::Peer>,
    #[prost(message, repeated, tag = "5")]
    pub down_peers: Vec<PeerStats>,
    #[prost(message, repeated, tag = "6")]
    pub pending_peers: Vec<metapb::Peer>,
}

/// A half-open range.
#[derive(Clone, PartialEq, Message)]
pub struct KeyRange {
    #[prost(bytes = "bytes", tag = "1")]
    pub start_key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub end_key: Bytes,
}

/// Asks for the regions of a range; a limit of 0 or less is none.
#[derive(Clone, PartialEq, Message)]
pub struct ScanRegionsRequest {
    #[prost(message, optional, tag = "1")]
    pub header: Option<RequestHeader>,
    #[prost(bytes = "bytes", tag = "2")]
    pub start_key: Bytes,
    #[prost(int32, tag = "3")]
    pub limit: i32,
    #[prost(bytes = "bytes", tag = "4")]
    pub end_key: Bytes,
}

/// A region with what is known about its peers. Also the answer per region of QueryRegion.
#[derive(Clone, PartialEq, Message)]
pub struct Region {
    #[prost(message, optional, tag = "1")]
    pub region: Option<metapb::Region>,
    #[prost(message, optional, tag = "2")]
    pub leader: Option<metapb::Peer>,
    #[prost(message, repeated, tag = "3")]
    pub down_peers: Vec<PeerStats>,
    #[prost(message, repeated, tag = "4")]
    pub pending_peers: Vec<metapb::Peer>,
}

/// Three parallel lists, the first two for older clients.
#[derive(Clone, PartialEq, Message)]
pub struct ScanRegionsResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    pub region_metas: Vec<metapb::Region>,
    #[prost(message, repeated, tag = "3")]
    pub leaders: Vec<metapb::Peer>,
    #[prost(message, repeated, tag = "4")]
    pub regions: Vec<Region>,
}

/// Asks for the regions of several ranges, in order.
#[derive(Clone, PartialEq, Message)]
pub struct BatchScanRegionsRequest {
    #[prost(message, optional, tag = "1")]
    pub header: Option<RequestHeader>,
    #[prost(bool, tag = "2")]
    pub need_buckets: bool,
    #[prost(message, repeated, tag = "3")]
    pub ranges: Vec<KeyRange>,
    #[prost(int32, tag = "4")]
    pub limit: i32,
    #[prost(bool, tag = "5")]
    pub contain_all_key_range: bool,
}

/// The regions, each once.
#[derive(Clone, PartialEq, Message)]
pub struct BatchScanRegionsResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    pub regions: Vec<Region>,
}

/// Asks for many regions at once.
#[derive(Clone, PartialEq, Message)]
pub struct QueryRegionRequest {
    #[prost(message, optional, tag = "1")]
    pub header: Option<RequestHeader>,
    #[prost(bool, tag = "2")]
    pub need_buckets: bool,
    #[prost(uint64, repeated, tag = "3")]
    pub ids: Vec<u64>,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub keys: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub prev_keys: Vec<Bytes>,
}

/// One id per key asked for, 0 where there is none; each region once.
#[derive(Clone, PartialEq, Message)]
pub struct QueryRegionResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(uint64, repeated, tag = "2")]
    pub key_id_map: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    pub prev_key_id_map: Vec<u64>,
    #[prost(map = "uint64, message", tag = "4")]
    pub regions_by_id: HashMap<u64, Region>,
}

/// Asks for a store.
#[derive(Clone, PartialEq, Message)]
pub struct GetStoreRequest {
    #[prost(message, optional, tag = "1")]
    pub header: Option<RequestHeader>,
    #[prost(uint64, tag = "2")]
    pub store_id: u64,
}

/// What a store says of itself.
#[derive(Clone, PartialEq, Message)]
pub struct StoreStats {
    #[prost(uint64, tag = "1")]
    pub store_id: u64,
    #[prost(uint64, tag = "2")]
    pub capacity: u64,
    #[prost(uint64, tag = "3")]
    pub available: u64,
    #[prost(uint32, tag = "4")]
    pub region_count: u32,
    #[prost(uint32, tag = "7")]
    pub start_time: u32,
    #[prost(bool, tag = "9")]
    pub is_busy: bool,
    #[prost(uint64, tag = "10")]
    pub used_size: u64,
}

/// A store.
#[derive(Clone, PartialEq, Message)]
pub struct GetStoreResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(message, optional, tag = "2")]
    pub store: Option<metapb::Store>,
    #[prost(message, optional, tag = "3")]
    pub stats: Option<StoreStats>,
}

/// Asks for all stores.
#[derive(Clone, PartialEq, Message)]
pub struct GetAllStoresRequest {
    #[prost(message, optional, tag = "1")]
    pub header: Option<RequestHeader>,
    #[prost(bool, tag = "2")]
    pub exclude_tombstone_stores: bool,
}

/// All stores.
#[derive(Clone, PartialEq, Message)]
pub struct GetAllStoresResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    pub stores: Vec<metapb::Store>,
}

/// Whether the cluster has begun.
#[derive(Clone, PartialEq, Message)]
pub struct IsBootstrappedResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(bool, tag = "2")]
    pub bootstrapped: bool,
}

/// Begins the cluster.
#[derive(Clone, PartialEq, Message)]
pub struct BootstrapRequest {
    #[prost(message, optional, tag = "1")]
    pub header: Option<RequestHeader>,
    #[prost(message, optional, tag = "2")]
    pub store: Option<metapb::Store>,
    #[prost(message, optional, tag = "3")]
    pub region: Option<metapb::Region>,
}

/// The answer of Bootstrap, PutStore and StoreHeartbeat.
#[derive(Clone, PartialEq, Message)]
pub struct HeaderOnlyResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Asks for ids.
#[derive(Clone, PartialEq, Message)]
pub struct AllocIdRequest {
    #[prost(message, optional, tag = "1")]
    pub header: Option<RequestHeader>,
    #[prost(uint32, tag = "2")]
    pub count: u32,
}

/// The largest of `count` consecutive ids.
#[derive(Clone, PartialEq, Message)]
pub struct AllocIdResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(uint64, tag = "2")]
    pub id: u64,
    #[prost(uint32, tag = "3")]
    pub count: u32,
}

/// Enters or changes a store.
#[derive(Clone, PartialEq, Message)]
pub struct PutStoreRequest {
    #[prost(message, optional, tag = "1")]
    pub header: Option<RequestHeader>,
    #[prost(message, optional, tag = "2")]
    pub store: Option<metapb::Store>,
}

/// A store's report of itself.
#[derive(Clone, PartialEq, Message)]
pub struct StoreHeartbeatRequest {
    #[prost(message, optional, tag = "1")]
    pub header: Option<RequestHeader>,
    #[prost(message, optional, tag = "2")]
    pub stats: Option<StoreStats>,
}

/// A leader's report of its region.
#[derive(Clone, PartialEq, Message)]
pub struct RegionHeartbeatRequest {
    #[prost(message, optional, tag = "1")]
    pub header: Option<RequestHeader>,
    #[prost(message, optional, tag = "2")]
    pub region: Option<metapb::Region>,
    #[prost(message, optional, tag = "3")]
    pub leader: Option<metapb::Peer>,
    #[prost(message, repeated, tag = "4")]
    pub down_peers: Vec<PeerStats>,
    #[prost(message, repeated, tag = "5")]
    pub pending_peers: Vec<metapb::Peer>,
    #[prost(uint64, tag = "10")]
    pub approximate_size: u64,
    #[prost(uint64, tag = "13")]
    pub approximate_keys: u64,
    #[prost(uint64, tag = "14")]
    pub term: u64,
}

/// An order to a leader, or an error.
#[derive(Clone, PartialEq, Message)]
pub struct RegionHeartbeatResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    pub region_id: u64,
    #[prost(message, optional, tag = "5")]
    pub region_epoch: Option<metapb::RegionEpoch>,
    #[prost(message, optional, tag = "6")]
    pub target_peer: Option<metapb::Peer>,
}

/// Asks for the ids of a right half.
#[derive(Clone, PartialEq, Message)]
pub struct AskSplitRequest {
    #[prost(message, optional, tag = "1")]
    pub header: Option<RequestHeader>,
    #[prost(message, optional, tag = "2")]
    pub region: Option<metapb::Region>,
}

/// A region id and a peer id per peer.
#[derive(Clone, PartialEq, Message)]
pub struct AskSplitResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(uint64, tag = "2")]
    pub new_region_id: u64,
    #[prost(uint64, repeated, tag = "3")]
    pub new_peer_ids: Vec<u64>,
}

/// The cluster.
#[derive(Clone, PartialEq, Message)]
pub struct GetClusterConfigResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(message, optional, tag = "2")]
    pub cluster: Option<metapb::Cluster>,
}

/// The safe point.
#[derive(Clone, PartialEq, Message)]
pub struct GetGcSafePointResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(uint64, tag = "2")]
    pub safe_point: u64,
}

/// Raises the safe point.
#[derive(Clone, PartialEq, Message)]
pub struct UpdateGcSafePointRequest {
    #[prost(message, optional, tag = "1")]
    pub header: Option<RequestHeader>,
    #[prost(uint64, tag = "2")]
    pub safe_point: u64,
}

/// The safe point as it is now.
#[derive(Clone, PartialEq, Message)]
pub struct UpdateGcSafePointResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(uint64, tag = "2")]
    pub new_safe_point: u64,
}
