//! Package `kvrpcpb`, its raw part: requests to a store. Keys and values are slices of the receive buffer; whoever keeps one for
//! long copies it, or keeps the whole buffer.

use bytes::Bytes;
use prost::Message;

use super::{errorpb, metapb};

/// Where the client believes that its key lives, and how it wants to be served.
#[derive(Clone, PartialEq, Message)]
pub struct Context {
    #[prost(uint64, tag = "1")]
    pub region_id: u64,
    #[prost(message, optional, tag = "2")]
    pub region_epoch: Option<metapb::RegionEpoch>,
    #[prost(message, optional, tag = "3")]
    pub peer: Option<metapb::Peer>,
    #[prost(uint64, tag = "5")]
    pub term: u64,
    #[prost(bool, tag = "12")]
    pub replica_read: bool,
    #[prost(bool, tag = "17")]
    pub stale_read: bool,
    #[prost(int32, tag = "19")]
    pub disk_full_opt: i32,
    #[prost(bool, tag = "20")]
    pub is_retry_request: bool,
    #[prost(int32, tag = "21")]
    pub api_version: i32,
}

/// What is wrong with a key.
#[derive(Clone, PartialEq, Message)]
pub struct KeyError {
    #[prost(string, tag = "2")]
    pub retryable: String,
    #[prost(string, tag = "3")]
    pub abort: String,
}

/// A pair, or why there is none.
#[derive(Clone, PartialEq, Message)]
pub struct KvPair {
    #[prost(message, optional, boxed, tag = "1")]
    pub error: Option<Box<KeyError>>,
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub value: Bytes,
    #[prost(uint64, tag = "4")]
    pub commit_ts: u64,
}

/// A half-open range.
#[derive(Clone, PartialEq, Message)]
pub struct KeyRange {
    #[prost(bytes = "bytes", tag = "1")]
    pub start_key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub end_key: Bytes,
}

/// Reads a key.
#[derive(Clone, PartialEq, Message)]
pub struct RawGetRequest {
    #[prost(message, optional, tag = "1")]
    pub context: Option<Context>,
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    #[prost(string, tag = "3")]
    pub cf: String,
}

/// The value; an empty one is legal, so absence has its own field.
#[derive(Clone, PartialEq, Message)]
pub struct RawGetResponse {
    #[prost(message, optional, tag = "1")]
    pub region_error: Option<errorpb::Error>,
    #[prost(string, tag = "2")]
    pub error: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub value: Bytes,
    #[prost(bool, tag = "4")]
    pub not_found: bool,
}

/// Reads keys.
#[derive(Clone, PartialEq, Message)]
pub struct RawBatchGetRequest {
    #[prost(message, optional, tag = "1")]
    pub context: Option<Context>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub keys: Vec<Bytes>,
    #[prost(string, tag = "3")]
    pub cf: String,
}

/// The pairs that were found.
#[derive(Clone, PartialEq, Message)]
pub struct RawBatchGetResponse {
    #[prost(message, optional, tag = "1")]
    pub region_error: Option<errorpb::Error>,
    #[prost(message, repeated, tag = "2")]
    pub pairs: Vec<KvPair>,
}

/// Sets a key.
#[derive(Clone, PartialEq, Message)]
pub struct RawPutRequest {
    #[prost(message, optional, tag = "1")]
    pub context: Option<Context>,
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub value: Bytes,
    #[prost(string, tag = "4")]
    pub cf: String,
    #[prost(uint64, tag = "5")]
    pub ttl: u64,
    #[prost(bool, tag = "6")]
    pub for_cas: bool,
}

/// The outcome of a put.
#[derive(Clone, PartialEq, Message)]
pub struct RawPutResponse {
    #[prost(message, optional, tag = "1")]
    pub region_error: Option<errorpb::Error>,
    #[prost(string, tag = "2")]
    pub error: String,
}

/// Sets keys of one region.
#[derive(Clone, PartialEq, Message)]
pub struct RawBatchPutRequest {
    #[prost(message, optional, tag = "1")]
    pub context: Option<Context>,
    #[prost(message, repeated, tag = "2")]
    pub pairs: Vec<KvPair>,
    #[prost(string, tag = "3")]
    pub cf: String,
    #[prost(uint64, tag = "4")]
    pub ttl: u64,
    #[prost(bool, tag = "5")]
    pub for_cas: bool,
    #[prost(uint64, repeated, tag = "6")]
    pub ttls: Vec<u64>,
}

/// The outcome of a batch of puts.
#[derive(Clone, PartialEq, Message)]
pub struct RawBatchPutResponse {
    #[prost(message, optional, tag = "1")]
    pub region_error: Option<errorpb::Error>,
    #[prost(string, tag = "2")]
    pub error: String,
}

/// Deletes a key.
#[derive(Clone, PartialEq, Message)]
pub struct RawDeleteRequest {
    #[prost(message, optional, tag = "1")]
    pub context: Option<Context>,
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    #[prost(string, tag = "3")]
    pub cf: String,
    #[prost(bool, tag = "4")]
    pub for_cas: bool,
}

/// The outcome of a delete.
#[derive(Clone, PartialEq, Message)]
pub struct RawDeleteResponse {
    #[prost(message, optional, tag = "1")]
    pub region_error: Option<errorpb::Error>,
    #[prost(string, tag = "2")]
    pub error: String,
}

/// Deletes keys of one region.
#[derive(Clone, PartialEq, Message)]
pub struct RawBatchDeleteRequest {
    #[prost(message, optional, tag = "1")]
    pub context: Option<Context>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub keys: Vec<Bytes>,
    #[prost(string, tag = "3")]
    pub cf: String,
    #[prost(bool, tag = "4")]
    pub for_cas: bool,
}

/// The outcome of a batch of deletes.
#[derive(Clone, PartialEq, Message)]
pub struct RawBatchDeleteResponse {
    #[prost(message, optional, tag = "1")]
    pub region_error: Option<errorpb::Error>,
    #[prost(string, tag = "2")]
    pub error: String,
}

/// Reads a range: `[start, end)` upwards or, reversed, `[end, start)` downwards.
#[derive(Clone, PartialEq, Message)]
pub struct RawScanRequest {
    #[prost(message, optional, tag = "1")]
    pub context: Option<Context>,
    #[prost(bytes = "bytes", tag = "2")]
    pub start_key: Bytes,
    #[prost(uint32, tag = "3")]
    pub limit: u32,
    #[prost(bool, tag = "4")]
    pub key_only: bool,
    #[prost(string, tag = "5")]
    pub cf: String,
    #[prost(bool, tag = "6")]
    pub reverse: bool,
    #[prost(bytes = "bytes", tag = "7")]
    pub end_key: Bytes,
}

/// The pairs of a scan.
#[derive(Clone, PartialEq, Message)]
pub struct RawScanResponse {
    #[prost(message, optional, tag = "1")]
    pub region_error: Option<errorpb::Error>,
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KvPair>,
}

/// Deletes a range.
#[derive(Clone, PartialEq, Message)]
pub struct RawDeleteRangeRequest {
    #[prost(message, optional, tag = "1")]
    pub context: Option<Context>,
    #[prost(bytes = "bytes", tag = "2")]
    pub start_key: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub end_key: Bytes,
    #[prost(string, tag = "4")]
    pub cf: String,
}

/// The outcome of a range delete.
#[derive(Clone, PartialEq, Message)]
pub struct RawDeleteRangeResponse {
    #[prost(message, optional, tag = "1")]
    pub region_error: Option<errorpb::Error>,
    #[prost(string, tag = "2")]
    pub error: String,
}

/// Reads ranges of one region.
#[derive(Clone, PartialEq, Message)]
pub struct RawBatchScanRequest {
    #[prost(message, optional, tag = "1")]
    pub context: Option<Context>,
    #[prost(message, repeated, tag = "2")]
    pub ranges: Vec<KeyRange>,
    #[prost(uint32, tag = "3")]
    pub each_limit: u32,
    #[prost(bool, tag = "4")]
    pub key_only: bool,
    #[prost(string, tag = "5")]
    pub cf: String,
    #[prost(bool, tag = "6")]
    pub reverse: bool,
}

/// The pairs of all ranges, one after the other.
#[derive(Clone, PartialEq, Message)]
pub struct RawBatchScanResponse {
    #[prost(message, optional, tag = "1")]
    pub region_error: Option<errorpb::Error>,
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KvPair>,
}

/// Asks how long a key still lives.
#[derive(Clone, PartialEq, Message)]
pub struct RawGetKeyTtlRequest {
    #[prost(message, optional, tag = "1")]
    pub context: Option<Context>,
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    #[prost(string, tag = "3")]
    pub cf: String,
}

/// The time to live; 0 means for ever.
#[derive(Clone, PartialEq, Message)]
pub struct RawGetKeyTtlResponse {
    #[prost(message, optional, tag = "1")]
    pub region_error: Option<errorpb::Error>,
    #[prost(string, tag = "2")]
    pub error: String,
    #[prost(uint64, tag = "3")]
    pub ttl: u64,
    #[prost(bool, tag = "4")]
    pub not_found: bool,
}

/// Sets a key if it holds what is expected.
#[derive(Clone, PartialEq, Message)]
pub struct RawCasRequest {
    #[prost(message, optional, tag = "1")]
    pub context: Option<Context>,
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub value: Bytes,
    #[prost(bool, tag = "4")]
    pub previous_not_exist: bool,
    #[prost(bytes = "bytes", tag = "5")]
    pub previous_value: Bytes,
    #[prost(string, tag = "6")]
    pub cf: String,
    #[prost(uint64, tag = "7")]
    pub ttl: u64,
    #[prost(bool, tag = "8")]
    pub delete: bool,
}

/// Whether it was set, and what was there before.
#[derive(Clone, PartialEq, Message)]
pub struct RawCasResponse {
    #[prost(message, optional, tag = "1")]
    pub region_error: Option<errorpb::Error>,
    #[prost(string, tag = "2")]
    pub error: String,
    #[prost(bool, tag = "3")]
    pub succeed: bool,
    #[prost(bool, tag = "4")]
    pub previous_not_exist: bool,
    #[prost(bytes = "bytes", tag = "5")]
    pub previous_value: Bytes,
}

/// Asks how slow the store is.
#[derive(Clone, PartialEq, Message)]
pub struct GetHealthFeedbackRequest {
    #[prost(message, optional, tag = "1")]
    pub context: Option<Context>,
}

/// How slow the store is.
#[derive(Clone, PartialEq, Message)]
pub struct GetHealthFeedbackResponse {
    #[prost(message, optional, tag = "1")]
    pub region_error: Option<errorpb::Error>,
    #[prost(message, optional, tag = "2")]
    pub health_feedback: Option<HealthFeedback>,
}

/// How slow a store is: 1 is healthy, 100 is worst.
#[derive(Clone, PartialEq, Message)]
pub struct HealthFeedback {
    #[prost(uint64, tag = "1")]
    pub store_id: u64,
    #[prost(uint64, tag = "2")]
    pub feedback_seq_no: u64,
    #[prost(int32, tag = "3")]
    pub slow_score: i32,
}
