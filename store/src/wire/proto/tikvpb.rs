//! Package `tikvpb`: many commands in one message.
//!
//! A command that is not listed here decodes as one without content, which is what an unknown command must look like. Those of
//! transactions are listed, because whoever sends them must be told in the answer's own shape that they are not served.

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
    #[prost(
        oneof = "Command",
        tags = "1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 33, 34, 35, 36, 37, 38, 39, 255"
    )]
    pub cmd: Option<Command>,
}

/// The answer to a command.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    #[prost(
        oneof = "Answer",
        tags = "1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 33, 34, 35, 36, 37, 38, 39, 255"
    )]
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

/// A command that is known and not served; what it asks for is not looked at.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Unserved {}

/// The answer to a command whose answer has an error of its keys.
#[derive(Clone, PartialEq, Message)]
pub struct KeyRefusal {
    #[prost(message, optional, tag = "2")]
    pub error: Option<kvrpcpb::KeyError>,
}

/// The answer to a command whose answer has an error per pair.
#[derive(Clone, PartialEq, Message)]
pub struct PairRefusal {
    #[prost(message, repeated, tag = "2")]
    pub pairs: Vec<kvrpcpb::KvPair>,
}

/// The answer to a command whose answer has a sentence.
#[derive(Clone, PartialEq, Message)]
pub struct TextRefusal {
    #[prost(string, tag = "2")]
    pub error: String,
}

/// The answer to a command of the coprocessor.
#[derive(Clone, PartialEq, Message)]
pub struct CoprocessorRefusal {
    #[prost(string, tag = "4")]
    pub other_error: String,
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
    // Known and not served: each is refused in the shape of its own answer.
    #[prost(message, tag = "1")]
    Get(Unserved),
    #[prost(message, tag = "2")]
    Scan(Unserved),
    #[prost(message, tag = "3")]
    Prewrite(Unserved),
    #[prost(message, tag = "4")]
    Commit(Unserved),
    #[prost(message, tag = "6")]
    Cleanup(Unserved),
    #[prost(message, tag = "7")]
    BatchGet(Unserved),
    #[prost(message, tag = "8")]
    BatchRollback(Unserved),
    #[prost(message, tag = "9")]
    ScanLock(Unserved),
    #[prost(message, tag = "10")]
    ResolveLock(Unserved),
    #[prost(message, tag = "11")]
    Gc(Unserved),
    #[prost(message, tag = "12")]
    DeleteRange(Unserved),
    #[prost(message, tag = "22")]
    Coprocessor(Unserved),
    #[prost(message, tag = "23")]
    PessimisticLock(Unserved),
    #[prost(message, tag = "24")]
    PessimisticRollback(Unserved),
    #[prost(message, tag = "25")]
    CheckTxnStatus(Unserved),
    #[prost(message, tag = "26")]
    TxnHeartBeat(Unserved),
    #[prost(message, tag = "33")]
    CheckSecondaryLocks(Unserved),
    #[prost(message, tag = "34")]
    RawCoprocessor(Unserved),
    #[prost(message, tag = "35")]
    FlashbackToVersion(Unserved),
    #[prost(message, tag = "36")]
    PrepareFlashbackToVersion(Unserved),
    #[prost(message, tag = "37")]
    Flush(Unserved),
    #[prost(message, tag = "38")]
    BufferBatchGet(Unserved),
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
    #[prost(message, tag = "1")]
    Get(KeyRefusal),
    #[prost(message, tag = "2")]
    Scan(PairRefusal),
    #[prost(message, tag = "3")]
    Prewrite(KeyRefusal),
    #[prost(message, tag = "4")]
    Commit(KeyRefusal),
    #[prost(message, tag = "6")]
    Cleanup(KeyRefusal),
    #[prost(message, tag = "7")]
    BatchGet(PairRefusal),
    #[prost(message, tag = "8")]
    BatchRollback(KeyRefusal),
    #[prost(message, tag = "9")]
    ScanLock(KeyRefusal),
    #[prost(message, tag = "10")]
    ResolveLock(KeyRefusal),
    #[prost(message, tag = "11")]
    Gc(KeyRefusal),
    #[prost(message, tag = "12")]
    DeleteRange(TextRefusal),
    #[prost(message, tag = "22")]
    Coprocessor(CoprocessorRefusal),
    #[prost(message, tag = "23")]
    PessimisticLock(KeyRefusal),
    #[prost(message, tag = "24")]
    PessimisticRollback(KeyRefusal),
    #[prost(message, tag = "25")]
    CheckTxnStatus(KeyRefusal),
    #[prost(message, tag = "26")]
    TxnHeartBeat(KeyRefusal),
    #[prost(message, tag = "33")]
    CheckSecondaryLocks(KeyRefusal),
    #[prost(message, tag = "34")]
    RawCoprocessor(TextRefusal),
    #[prost(message, tag = "35")]
    FlashbackToVersion(TextRefusal),
    #[prost(message, tag = "36")]
    PrepareFlashbackToVersion(TextRefusal),
    #[prost(message, tag = "37")]
    Flush(KeyRefusal),
    #[prost(message, tag = "38")]
    BufferBatchGet(KeyRefusal),
}
