//! Package `tikvpb`: many commands in one message.
//!
//! A command that is not listed here decodes as one without content, which is what an unknown command must look like.

use prost::{Message, Oneof};

use super::kvrpcpb;

/// Commands, each with the id that its answer carries.
#[derive(Clone, PartialEq, Message)]
pub struct BatchCommandsRequest {
    #[prost(message, repeated, tag = "1")]
    pub requests: Vec<Request>,
    #[prost(uint64, repeated, tag = "2")]
    pub request_ids: Vec<u64>,
    #[prost(uint64, tag = "3")]
    pub client_send_time_ns: u64,
}

/// Answers, each with the id of its command.
#[derive(Clone, PartialEq, Message)]
pub struct BatchCommandsResponse {
    #[prost(message, repeated, tag = "1")]
    pub responses: Vec<Response>,
    #[prost(uint64, repeated, tag = "2")]
    pub request_ids: Vec<u64>,
    #[prost(uint64, tag = "3")]
    pub transport_layer_load: u64,
}

/// A command.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(oneof = "Command", tags = "13, 14, 15, 16, 17, 18, 19, 20, 21, 39, 255")]
    pub cmd: Option<Command>,
}

/// The answer to a command.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    #[prost(oneof = "Answer", tags = "13, 14, 15, 16, 17, 18, 19, 20, 21, 39, 255")]
    pub cmd: Option<Answer>,
}

/// A command that does nothing, to measure the way.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct EmptyRequest {
    #[prost(uint64, tag = "1")]
    pub test_id: u64,
    #[prost(uint64, tag = "2")]
    pub delay_time: u64,
}

/// The answer to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct EmptyResponse {
    #[prost(uint64, tag = "1")]
    pub test_id: u64,
}

/// What is to be done.
#[derive(Clone, PartialEq, Oneof)]
pub enum Command {
    #[prost(message, tag = "13")]
    RawGet(kvrpcpb::RawGetRequest),
    #[prost(message, tag = "14")]
    RawBatchGet(kvrpcpb::RawBatchGetRequest),
    #[prost(message, tag = "15")]
    RawPut(kvrpcpb::RawPutRequest),
    #[prost(message, tag = "16")]
    RawBatchPut(kvrpcpb::RawBatchPutRequest),
    #[prost(message, tag = "17")]
    RawDelete(kvrpcpb::RawDeleteRequest),
    #[prost(message, tag = "18")]
    RawBatchDelete(kvrpcpb::RawBatchDeleteRequest),
    #[prost(message, tag = "19")]
    RawScan(kvrpcpb::RawScanRequest),
    #[prost(message, tag = "20")]
    RawDeleteRange(kvrpcpb::RawDeleteRangeRequest),
    #[prost(message, tag = "21")]
    RawBatchScan(kvrpcpb::RawBatchScanRequest),
    #[prost(message, tag = "39")]
    GetHealthFeedback(kvrpcpb::GetHealthFeedbackRequest),
    #[prost(message, tag = "255")]
    Empty(EmptyRequest),
}

/// What came of it.
#[derive(Clone, PartialEq, Oneof)]
pub enum Answer {
    #[prost(message, tag = "13")]
    RawGet(kvrpcpb::RawGetResponse),
    #[prost(message, tag = "14")]
    RawBatchGet(kvrpcpb::RawBatchGetResponse),
    #[prost(message, tag = "15")]
    RawPut(kvrpcpb::RawPutResponse),
    #[prost(message, tag = "16")]
    RawBatchPut(kvrpcpb::RawBatchPutResponse),
    #[prost(message, tag = "17")]
    RawDelete(kvrpcpb::RawDeleteResponse),
    #[prost(message, tag = "18")]
    RawBatchDelete(kvrpcpb::RawBatchDeleteResponse),
    #[prost(message, tag = "19")]
    RawScan(kvrpcpb::RawScanResponse),
    #[prost(message, tag = "20")]
    RawDeleteRange(kvrpcpb::RawDeleteRangeResponse),
    #[prost(message, tag = "21")]
    RawBatchScan(kvrpcpb::RawBatchScanResponse),
    #[prost(message, tag = "39")]
    GetHealthFeedback(kvrpcpb::GetHealthFeedbackResponse),
    #[prost(message, tag = "255")]
    Empty(EmptyResponse),
}
