//! What clients ask of the store that a placement server is usually built on: who the members are, and a few keys that are never
//! there. Packages `etcdserverpb` and `meta_storagepb`.

use prost::Message;

use super::pdpb;

/// Where the answer comes from.
#[derive(Clone, PartialEq, Message)]
pub struct ResponseHeader {
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    #[prost(int64, tag = "3")]
    pub revision: i64,
    #[prost(uint64, tag = "4")]
    pub raft_term: u64,
}

/// A member.
#[derive(Clone, PartialEq, Message)]
pub struct Member {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, repeated, tag = "3")]
    pub peer_urls: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub client_urls: Vec<String>,
}

/// The members.
#[derive(Clone, PartialEq, Message)]
pub struct MemberListResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<Member>,
}

/// No keys.
#[derive(Clone, PartialEq, Message)]
pub struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(bool, tag = "3")]
    pub more: bool,
    #[prost(int64, tag = "4")]
    pub count: i64,
}

/// No keys.
#[derive(Clone, PartialEq, Message)]
pub struct MetaStorageResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<pdpb::ResponseHeader>,
    #[prost(int64, tag = "2")]
    pub count: i64,
    #[prost(bool, tag = "3")]
    pub more: bool,
}
