//! Carrying a request out: check it, submit it, shape the answer.

use std::time::Duration;

use bytes::Bytes;
use engine::rt::Mono;

use super::unserved::Unserved;
use super::{Core, check, refusal};
use crate::memory::charged_pair_bytes;
use crate::refusal::Refusal;
use crate::request::{Change, Op, Out, Route, Scan, When};
use crate::wire::grpc::{Code, Status};
use crate::wire::proto::errorpb;
use crate::wire::proto::kvrpcpb::*;
use crate::wire::proto::tikvpb::{Answer, Command, EmptyResponse};

/// Longest answer to a scan or a batch of reads, bytes. An answer is never cut short, because clients take a short answer for the
/// end of the region.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What a pair costs beside its key and its value, bytes.
const PAIR_BYTES: usize = 16;
/// How long a caller without a deadline waits for a busy store. Shorter than the shortest default timeout of the known clients.
const PATIENCE: Duration = Duration::from_millis(1500);
/// What is left of a caller's deadline for the answer to travel.
const TRAVEL: Duration = Duration::from_millis(50);

/// Why a request has no result.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failure {
    /// The client shall look again where the region is, or wait.
    Region(Box<errorpb::Error>),
    /// The request can never be carried out.
    Text(String),
    /// Its answer would be over a bound; a smaller request can be carried out.
    TooLarge(String),
}

impl From<String> for Failure {
    fn from(sentence: String) -> Self {
        Failure::Text(sentence)
    }
}

/// A response that can say why it has no result.
pub(super) trait Refusable: Sized {
    /// Within a batch, where the response is all that there is.
    fn refused(failure: Failure) -> Self;

    /// Alone, where the call has a status, too. Clients of a response without a place for a sentence look there.
    ///
    /// # Errors
    /// The status that says it.
    fn refused_alone(failure: Failure) -> Result<Self, Status> {
        Ok(Self::refused(failure))
    }
}

/// The response to whatever came out of a call of its own.
pub(super) fn settle_alone<A: Refusable>(result: Result<A, Failure>) -> Result<A, Status> {
    result.or_else(A::refused_alone)
}

impl Failure {
    /// As a region error, which is what clients look at in every response. One without a typed member makes them look the region
    /// up again and end with the sentence; that an answer is too large is final, and the member for it ends the request at once.
    fn into_region_error(self) -> errorpb::Error {
        match self {
            Failure::Region(error) => *error,
            Failure::Text(message) => errorpb::Error { message, ..errorpb::Error::default() },
            Failure::TooLarge(message) => errorpb::Error {
                message,
                raft_entry_too_large: Some(errorpb::RaftEntryTooLarge::default()),
                ..errorpb::Error::default()
            },
        }
    }

    /// The status that a call would end with if it had no response to say more.
    fn code(&self) -> Code {
        match self {
            Failure::Region(_) => Code::Unavailable,
            Failure::Text(_) => Code::InvalidArgument,
            Failure::TooLarge(_) => Code::ResourceExhausted,
        }
    }

    fn into_status(self) -> Result<Box<errorpb::Error>, Status> {
        match self {
            Failure::Region(error) => Ok(error),
            Failure::Text(sentence) => Err(Status::invalid(sentence)),
            Failure::TooLarge(sentence) => Err(Status::new(Code::ResourceExhausted, sentence)),
        }
    }
}

macro_rules! refusable {
    (error in $($response:ident),*) => {$(
        impl Refusable for $response {
            fn refused(failure: Failure) -> Self {
                match failure {
                    Failure::Region(error) => Self { region_error: Some(*error), ..Self::default() },
                    Failure::Text(error) | Failure::TooLarge(error) => Self { error, ..Self::default() },
                }
            }
        }
    )*};
    // These have no place for a sentence. What clients look at is the region error, and the status of a call of its own.
    (region_error in $($response:ident),*) => {$(
        impl Refusable for $response {
            fn refused(failure: Failure) -> Self {
                Self { region_error: Some(failure.into_region_error()), ..Self::default() }
            }

            fn refused_alone(failure: Failure) -> Result<Self, Status> {
                Ok(Self { region_error: Some(*failure.into_status()?), ..Self::default() })
            }
        }
    )*};
}

refusable!(error in RawGetResponse, RawPutResponse, RawBatchPutResponse, RawDeleteResponse, RawBatchDeleteResponse);
refusable!(error in RawDeleteRangeResponse, RawGetKeyTtlResponse, RawCasResponse);
refusable!(region_error in RawBatchGetResponse, RawScanResponse, RawBatchScanResponse, GetHealthFeedbackResponse);

/// One request's way through the store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session<'a> {
    core: &'a Core,
    /// Until when a busy store is waited for; without it the caller is told that the store is busy.
    wait_until: Option<Mono>,
}

impl<'a> Session<'a> {
    /// For callers that give up when they are told "busy".
    pub(super) fn patient(core: &'a Core, deadline: Option<Mono>) -> Self {
        let wait_until = deadline.map_or_else(|| core.rt.now() + PATIENCE, |deadline| deadline - TRAVEL);
        Self { core, wait_until: Some(wait_until) }
    }

    /// For callers that know what to do when they are told "busy".
    pub(super) fn frank(core: &'a Core) -> Self {
        Self { core, wait_until: None }
    }

    /// Any command of a batch.
    pub(super) async fn execute(self, command: Command) -> Answer {
        match command {
            Command::RawGet(request) => {
                Answer::RawGet(self.settled("BatchCommands/RawGet", self.get(request).await))
            }
            Command::RawBatchGet(request) => {
                Answer::RawBatchGet(self.settled("BatchCommands/RawBatchGet", self.batch_get(request).await))
            }
            Command::RawPut(request) => {
                Answer::RawPut(self.settled("BatchCommands/RawPut", self.put(request).await))
            }
            Command::RawBatchPut(request) => {
                Answer::RawBatchPut(self.settled("BatchCommands/RawBatchPut", self.batch_put(request).await))
            }
            Command::RawDelete(request) => {
                Answer::RawDelete(self.settled("BatchCommands/RawDelete", self.delete(request).await))
            }
            Command::RawBatchDelete(request) => Answer::RawBatchDelete(
                self.settled("BatchCommands/RawBatchDelete", self.batch_delete(request).await),
            ),
            Command::RawScan(request) => {
                Answer::RawScan(self.settled("BatchCommands/RawScan", self.scan(request).await))
            }
            Command::RawDeleteRange(request) => Answer::RawDeleteRange(
                self.settled("BatchCommands/RawDeleteRange", self.delete_range(request).await),
            ),
            Command::RawBatchScan(request) => Answer::RawBatchScan(
                self.settled("BatchCommands/RawBatchScan", self.batch_scan(request).await),
            ),
            Command::GetHealthFeedback(request) => Answer::GetHealthFeedback(
                self.settled("BatchCommands/GetHealthFeedback", Ok(self.health_feedback(request))),
            ),
            Command::Empty(request) => Answer::Empty(EmptyResponse { test_id: request.test_id }),
            Command::Get(_) => Answer::Get(self.unserved("BatchCommands/Get")),
            Command::Scan(_) => Answer::Scan(self.unserved("BatchCommands/Scan")),
            Command::Prewrite(_) => Answer::Prewrite(self.unserved("BatchCommands/Prewrite")),
            Command::Commit(_) => Answer::Commit(self.unserved("BatchCommands/Commit")),
            Command::Cleanup(_) => Answer::Cleanup(self.unserved("BatchCommands/Cleanup")),
            Command::BatchGet(_) => Answer::BatchGet(self.unserved("BatchCommands/BatchGet")),
            Command::BatchRollback(_) => Answer::BatchRollback(self.unserved("BatchCommands/BatchRollback")),
            Command::ScanLock(_) => Answer::ScanLock(self.unserved("BatchCommands/ScanLock")),
            Command::ResolveLock(_) => Answer::ResolveLock(self.unserved("BatchCommands/ResolveLock")),
            Command::Gc(_) => Answer::Gc(self.unserved("BatchCommands/Gc")),
            Command::DeleteRange(_) => Answer::DeleteRange(self.unserved("BatchCommands/DeleteRange")),
            Command::Coprocessor(_) => Answer::Coprocessor(self.unserved("BatchCommands/Coprocessor")),
            Command::PessimisticLock(_) => {
                Answer::PessimisticLock(self.unserved("BatchCommands/PessimisticLock"))
            }
            Command::PessimisticRollback(_) => {
                Answer::PessimisticRollback(self.unserved("BatchCommands/PessimisticRollback"))
            }
            Command::CheckTxnStatus(_) => {
                Answer::CheckTxnStatus(self.unserved("BatchCommands/CheckTxnStatus"))
            }
            Command::TxnHeartBeat(_) => Answer::TxnHeartBeat(self.unserved("BatchCommands/TxnHeartBeat")),
            Command::CheckSecondaryLocks(_) => {
                Answer::CheckSecondaryLocks(self.unserved("BatchCommands/CheckSecondaryLocks"))
            }
            Command::RawCoprocessor(_) => {
                Answer::RawCoprocessor(self.unserved("BatchCommands/RawCoprocessor"))
            }
            Command::FlashbackToVersion(_) => {
                Answer::FlashbackToVersion(self.unserved("BatchCommands/FlashbackToVersion"))
            }
            Command::PrepareFlashbackToVersion(_) => {
                Answer::PrepareFlashbackToVersion(self.unserved("BatchCommands/PrepareFlashbackToVersion"))
            }
            Command::Flush(_) => Answer::Flush(self.unserved("BatchCommands/Flush")),
            Command::BufferBatchGet(_) => {
                Answer::BufferBatchGet(self.unserved("BatchCommands/BufferBatchGet"))
            }
        }
    }

    /// The response to whatever came out of a command of a batch, counted.
    fn settled<A: Refusable>(&self, name: &'static str, result: Result<A, Failure>) -> A {
        let code = result.as_ref().err().map_or(Code::Ok, Failure::code);
        self.core.tally.count(name, code);
        result.unwrap_or_else(A::refused)
    }

    /// The answer to a command that is not served, counted.
    fn unserved<A: Unserved>(&self, name: &'static str) -> A {
        self.core.tally.count(name, Code::Unimplemented);
        A::unserved(name.rsplit('/').next().unwrap_or(name))
    }

    pub(super) async fn get(&self, request: RawGetRequest) -> Result<RawGetResponse, Failure> {
        check::common(request.context.as_ref(), &request.cf)?;
        check::key(&request.key)?;
        let found = self.value(request.context.as_ref(), &request.key).await?;
        let not_found = found.is_none();
        Ok(RawGetResponse { value: found.unwrap_or_default(), not_found, ..Default::default() })
    }

    pub(super) async fn key_ttl(
        &self,
        request: RawGetKeyTtlRequest,
    ) -> Result<RawGetKeyTtlResponse, Failure> {
        check::common(request.context.as_ref(), &request.cf)?;
        check::key(&request.key)?;
        let not_found = self.value(request.context.as_ref(), &request.key).await?.is_none();
        Ok(RawGetKeyTtlResponse { not_found, ..Default::default() })
    }

    pub(super) async fn batch_get(
        &self,
        request: RawBatchGetRequest,
    ) -> Result<RawBatchGetResponse, Failure> {
        check::common(request.context.as_ref(), &request.cf)?;
        request.keys.iter().try_for_each(check::key)?;
        let op = || Op::BatchGet { keys: request.keys.clone(), at_once: false };
        let values = match self.submit(request.context.as_ref(), op).await? {
            Out::Values(values) => values,
            other => return Err(unexpected(&other)),
        };
        let found = request.keys.iter().zip(values);
        let pairs: Vec<KvPair> = found.filter_map(|(key, value)| Some(pair(key.clone(), value?))).collect();
        Size::default().add(&pairs)?;
        Ok(RawBatchGetResponse { pairs, ..Default::default() })
    }

    pub(super) async fn put(&self, request: RawPutRequest) -> Result<RawPutResponse, Failure> {
        check::common(request.context.as_ref(), &request.cf)?;
        check::key(&request.key)?;
        check::value(&request.value)?;
        check::no_ttl(request.ttl)?;
        let op = || Op::Put { key: request.key.clone(), value: request.value.clone() };
        self.submit(request.context.as_ref(), op).await?;
        Ok(RawPutResponse::default())
    }

    pub(super) async fn batch_put(
        &self,
        request: RawBatchPutRequest,
    ) -> Result<RawBatchPutResponse, Failure> {
        check::common(request.context.as_ref(), &request.cf)?;
        check::pairs(&request.pairs)?;
        check::no_ttl(request.ttl)?;
        request.ttls.iter().copied().try_for_each(check::no_ttl)?;
        if !matches!(request.ttls.len(), 0 | 1) && request.ttls.len() != request.pairs.len() {
            return Err(Failure::Text("ttls must be empty, one, or one per pair".to_owned()));
        }
        let op = || {
            let pairs = request.pairs.iter().map(|pair| (pair.key.clone(), pair.value.clone()));
            Op::BatchPut { pairs: pairs.collect() }
        };
        self.submit(request.context.as_ref(), op).await?;
        Ok(RawBatchPutResponse::default())
    }

    pub(super) async fn delete(&self, request: RawDeleteRequest) -> Result<RawDeleteResponse, Failure> {
        check::common(request.context.as_ref(), &request.cf)?;
        check::key(&request.key)?;
        let op = || Op::Delete { key: request.key.clone(), count: false };
        self.submit(request.context.as_ref(), op).await?;
        Ok(RawDeleteResponse::default())
    }

    pub(super) async fn batch_delete(
        &self,
        request: RawBatchDeleteRequest,
    ) -> Result<RawBatchDeleteResponse, Failure> {
        check::common(request.context.as_ref(), &request.cf)?;
        request.keys.iter().try_for_each(check::key)?;
        let op = || Op::BatchDelete { keys: request.keys.clone() };
        self.submit(request.context.as_ref(), op).await?;
        Ok(RawBatchDeleteResponse::default())
    }

    pub(super) async fn delete_range(
        &self,
        request: RawDeleteRangeRequest,
    ) -> Result<RawDeleteRangeResponse, Failure> {
        check::common(request.context.as_ref(), &request.cf)?;
        check::key(&request.start_key)?;
        check::key(&request.end_key)?;
        let op = || Op::DeleteRange { start: request.start_key.clone(), end: request.end_key.clone() };
        self.submit(request.context.as_ref(), op).await?;
        Ok(RawDeleteRangeResponse::default())
    }

    pub(super) async fn scan(&self, request: RawScanRequest) -> Result<RawScanResponse, Failure> {
        let context = request.context.as_ref();
        check::common(context, &request.cf)?;
        let range = KeyRange { start_key: request.start_key, end_key: request.end_key };
        let scan = Scan {
            limit: request.limit as usize,
            key_only: request.key_only,
            reverse: request.reverse,
            ..Scan::default()
        };
        let kvs = self.range(context, range, scan).await?;
        Size::default().add(&kvs)?;
        Ok(RawScanResponse { kvs, ..Default::default() })
    }

    pub(super) async fn batch_scan(
        &self,
        request: RawBatchScanRequest,
    ) -> Result<RawBatchScanResponse, Failure> {
        let context = request.context.as_ref();
        check::common(context, &request.cf)?;
        let (mut kvs, mut size) = (Vec::<KvPair>::new(), Size::default());
        let mut held = 0;
        let budget = self.core.rt.budget();
        for range in request.ranges {
            let scan = Scan {
                limit: request.each_limit as usize,
                key_only: request.key_only,
                reverse: request.reverse,
                held_bytes: held,
                ..Scan::default()
            };
            let found = self.range(context, range, scan).await?;
            size.add(&found)?;
            held += found.iter().map(|pair| charged_pair_bytes(&pair.key, &pair.value)).sum::<usize>();
            kvs.extend(found);
            budget.tick().await;
        }
        Ok(RawBatchScanResponse { kvs, ..Default::default() })
    }

    pub(super) async fn compare_and_swap(&self, request: RawCasRequest) -> Result<RawCasResponse, Failure> {
        check::common(request.context.as_ref(), &request.cf)?;
        check::key(&request.key)?;
        check::value(&request.value)?;
        check::no_ttl(request.ttl)?;
        if request.delete {
            let sentence = "compare-and-delete is not served; swap in a value that means deleted";
            return Err(Failure::Text(sentence.to_owned()));
        }
        let op = || {
            let expected = (!request.previous_not_exist).then(|| request.previous_value.clone());
            let change = Change::SetIf { value: request.value.clone(), when: When::Equals(expected) };
            Op::Modify { key: request.key.clone(), change }
        };
        match self.submit(request.context.as_ref(), op).await? {
            Out::Swapped { swapped, previous } => Ok(RawCasResponse {
                succeed: swapped,
                previous_not_exist: previous.is_none(),
                previous_value: previous.unwrap_or_default(),
                ..Default::default()
            }),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) fn health_feedback(&self, _: GetHealthFeedbackRequest) -> GetHealthFeedbackResponse {
        let feedback = HealthFeedback { store_id: self.core.store_id, feedback_seq_no: 0, slow_score: 1 };
        GetHealthFeedbackResponse { health_feedback: Some(feedback), ..Default::default() }
    }

    async fn value(&self, context: Option<&Context>, key: &Bytes) -> Result<Option<Bytes>, Failure> {
        match self.submit(context, || Op::Get { key: key.clone() }).await? {
            Out::Value(value) => Ok(value),
            other => Err(unexpected(&other)),
        }
    }

    /// One range of a scan. It has to begin in the region (downwards: end there); the part of it that lies in the region is what is
    /// answered, because clients walk from region to region.
    async fn range(
        &self,
        context: Option<&Context>,
        range: KeyRange,
        scan: Scan,
    ) -> Result<Vec<KvPair>, Failure> {
        check::key(&range.start_key)?;
        check::key(&range.end_key)?;
        let (start, end) =
            if scan.reverse { (range.end_key, range.start_key) } else { (range.start_key, range.end_key) };
        let whole = Scan { start, end, ..scan };
        match self.submit(context, || Op::Scan(whole.clone())).await? {
            Out::Pairs(pairs) => Ok(pairs.into_iter().map(|(key, value)| pair(key, value)).collect()),
            other => Err(unexpected(&other)),
        }
    }

    async fn submit(&self, context: Option<&Context>, op: impl Fn() -> Op) -> Result<Out, Failure> {
        self.outcome(context, op).await.map_err(|refusal| self.failure(context, refusal))
    }

    async fn outcome(&self, context: Option<&Context>, op: impl Fn() -> Op) -> Result<Out, Refusal> {
        let route = route(context);
        loop {
            let outcome = self.core.gateway.submit(Some(route), op()).await;
            let Err(Refusal::Busy { backoff_ms, .. }) = outcome else { return outcome };
            let backoff = Duration::from_millis(backoff_ms.max(1));
            let resume = self.core.rt.now() + backoff;
            if self.wait_until.is_none_or(|until| resume > until) {
                return outcome;
            }
            self.core.rt.sleep(backoff).await;
        }
    }

    fn failure(&self, context: Option<&Context>, refused: Refusal) -> Failure {
        let region_id = context.map_or(0, |context| context.region_id);
        refusal::failure(refused, region_id, self.core.store_id)
    }
}

fn route(context: Option<&Context>) -> Route {
    let Some(context) = context else {
        // Nothing has this id, so the client is told that its region does not exist.
        return Route { region_id: 0, conf_ver: 0, version: 0, peer_id: 0, store_id: 0, term: 0 };
    };
    let epoch = context.region_epoch.unwrap_or_default();
    let peer = context.peer.unwrap_or_default();
    Route {
        region_id: context.region_id,
        conf_ver: epoch.conf_ver,
        version: epoch.version,
        peer_id: peer.id,
        store_id: peer.store_id,
        term: context.term,
    }
}

fn pair(key: Bytes, value: Bytes) -> KvPair {
    KvPair { key, value, ..KvPair::default() }
}

/// What an answer has come to, kept within the bound.
#[derive(Default)]
struct Size(usize);

impl Size {
    fn add(&mut self, pairs: &[KvPair]) -> Result<(), Failure> {
        self.0 += pairs.iter().map(|pair| pair.key.len() + pair.value.len() + PAIR_BYTES).sum::<usize>();
        if self.0 <= ANSWER_BYTES_MAX {
            return Ok(());
        }
        Err(refusal::answer_too_large(ANSWER_BYTES_MAX))
    }
}

fn unexpected(out: &Out) -> Failure {
    debug_assert!(false, "the gateway answered {out:?}");
    Failure::Text("the store answered in an unexpected form".to_owned())
}
