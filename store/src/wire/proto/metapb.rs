//! Package `metapb`: regions, peers, stores.

use bytes::Bytes;
use prost::Message;

/// The version of a region.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RegionEpoch {
    #[prost(uint64, tag = "1")]
    pub conf_ver: u64,
    #[prost(uint64, tag = "2")]
    pub version: u64,
}

/// A replica. `role`: 0 voter, 1 learner, 2 incoming voter, 3 demoting voter.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Peer {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint64, tag = "2")]
    pub store_id: u64,
    #[prost(int32, tag = "3")]
    pub role: i32,
}

/// A key range and who holds it.
#[derive(Clone, PartialEq, Message)]
pub struct Region {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub start_key: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub end_key: Bytes,
    #[prost(message, optional, tag = "4")]
    pub region_epoch: Option<RegionEpoch>,
    #[prost(message, repeated, tag = "5")]
    pub peers: Vec<Peer>,
}

/// Where a store stands.
#[derive(Clone, PartialEq, Message)]
pub struct StoreLabel {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// A store. `state`: 0 up, 1 offline, 2 tombstone; `node_state`: 0 preparing, 1 serving, 2 removing, 3 removed.
#[derive(Clone, PartialEq, Message)]
pub struct Store {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub address: String,
    #[prost(int32, tag = "3")]
    pub state: i32,
    #[prost(message, repeated, tag = "4")]
    pub labels: Vec<StoreLabel>,
    #[prost(string, tag = "5")]
    pub version: String,
    #[prost(string, tag = "6")]
    pub peer_address: String,
    #[prost(string, tag = "7")]
    pub status_address: String,
    #[prost(int64, tag = "9")]
    pub start_timestamp: i64,
    #[prost(int64, tag = "11")]
    pub last_heartbeat: i64,
    #[prost(int32, tag = "13")]
    pub node_state: i32,
}

/// The cluster.
#[derive(Clone, PartialEq, Message)]
pub struct Cluster {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint32, tag = "2")]
    pub max_peer_count: u32,
}
