//! Carrying a raw request out: check it, submit it, shape the answer.

use std::time::Duration;

use bytes::Bytes;
use engine::rt::Mono;

use super::failure::Failure;
use super::keys::Keys;
use super::size::Size;
use super::{Core, check, refusal};
use crate::memory::charged_pair_bytes;
use crate::refusal::Refusal;
use crate::request::{Change, Expiry, KeyExpiry, Op, Out, Route, Scan, When};
use crate::wire::proto::kvrpcpb::*;

/// How long a caller without a deadline waits for a busy store. Shorter than the shortest default timeout of the known clients.
const BUSY_WAIT_MAX: Duration = Duration::from_millis(1500);
/// What is left of a caller's deadline for the answer to travel.
const TRAVEL: Duration = Duration::from_millis(50);

const SHORT_OF_MEMORY: Refusal =
    Refusal::Busy { reason: "requests of many keys hold all memory", backoff_ms: 100 };

/// One request's way through the store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session<'a> {
    pub(super) core: &'a Core,
    /// Until when a busy store is waited for; without it the caller hears that the store is busy.
    wait_until: Option<Mono>,
    /// There was no room for its keys, so nothing is asked of the store.
    is_short: bool,
}

impl<'a> Session<'a> {
    /// For callers that give up when they hear "busy".
    pub(super) fn patient(core: &'a Core, deadline: Option<Mono>) -> Self {
        let wait_until = deadline.map_or_else(|| core.rt.now() + BUSY_WAIT_MAX, |deadline| deadline - TRAVEL);
        Self { core, wait_until: Some(wait_until), is_short: false }
    }

    /// For callers that know what to do when they hear "busy".
    pub(super) fn frank(core: &'a Core) -> Self {
        Self { core, wait_until: None, is_short: false }
    }

    /// For a request whose keys have `room`, or have none.
    pub(super) fn within<T>(self, room: &Result<T, Refusal>) -> Self {
        Self { is_short: room.is_err(), ..self }
    }

    pub(super) async fn get(&self, request: RawGetRequest) -> Result<RawGetResponse, Failure> {
        let key = check::common(request.context.as_ref(), &request.cf)?.stored(request.key)?;
        let found = self.value(request.context.as_ref(), &key).await?;
        let not_found = found.is_none();
        Ok(RawGetResponse { value: found.unwrap_or_default(), not_found, ..Default::default() })
    }

    pub(super) async fn key_ttl(
        &self,
        request: RawGetKeyTtlRequest,
    ) -> Result<RawGetKeyTtlResponse, Failure> {
        let key = check::common(request.context.as_ref(), &request.cf)?.stored(request.key)?;
        let expiry = match self.submit(request.context.as_ref(), || Op::Expiry { key: key.clone() }).await? {
            Out::Expiry(expiry) => expiry,
            other => return Err(unexpected(&other)),
        };
        let not_found = expiry == KeyExpiry::Absent;
        Ok(RawGetKeyTtlResponse { ttl: check::ttl(expiry), not_found, ..Default::default() })
    }

    pub(super) async fn batch_get(
        &self,
        request: RawBatchGetRequest,
    ) -> Result<RawBatchGetResponse, Failure> {
        let keys = check::common(request.context.as_ref(), &request.cf)?;
        let wanted = keys.all_stored(request.keys)?;
        let op = || Op::BatchGet { keys: wanted.clone(), at_once: false };
        let values = match self.submit(request.context.as_ref(), op).await? {
            Out::Values(values) => values,
            other => return Err(unexpected(&other)),
        };
        let found = wanted.into_iter().zip(values);
        let pairs: Vec<KvPair> =
            found.filter_map(|(key, value)| Some(pair(keys.sent(key), value?))).collect();
        Size::default().add(&pairs)?;
        Ok(RawBatchGetResponse { pairs, ..Default::default() })
    }

    pub(super) async fn put(&self, request: RawPutRequest) -> Result<RawPutResponse, Failure> {
        let key = check::common(request.context.as_ref(), &request.cf)?.stored(request.key)?;
        check::value(&request.value)?;
        let op = || match check::expiry(request.ttl) {
            Expiry::Never => Op::Put { key: key.clone(), value: request.value.clone() },
            expiry => Op::PutTimed { puts: vec![(key.clone(), request.value.clone(), expiry)] },
        };
        self.submit(request.context.as_ref(), op).await?;
        Ok(RawPutResponse::default())
    }

    pub(super) async fn batch_put(
        &self,
        request: RawBatchPutRequest,
    ) -> Result<RawBatchPutResponse, Failure> {
        let keys = check::common(request.context.as_ref(), &request.cf)?;
        if !matches!(request.ttls.len(), 0 | 1) && request.ttls.len() != request.pairs.len() {
            return Err(Failure::Text("ttls must be empty, one, or one per pair".to_owned()));
        }
        let stored = |KvPair { error: _, key, value, commit_ts: _ }: KvPair| -> Result<_, check::Refused> {
            check::value(&value)?;
            Ok((keys.stored(key)?, value))
        };
        let pairs: Vec<(Bytes, Bytes)> = request.pairs.into_iter().map(stored).collect::<Result<_, _>>()?;
        // The one of all is that of older clients.
        let ttls = match &request.ttls[..] {
            [] => std::iter::repeat_n(request.ttl, pairs.len()).collect(),
            [ttl] => std::iter::repeat_n(*ttl, pairs.len()).collect(),
            [_, _, ..] => request.ttls,
        };
        if ttls.iter().all(|ttl| *ttl == 0) {
            self.submit(request.context.as_ref(), || Op::BatchPut { pairs: pairs.clone() }).await?;
            return Ok(RawBatchPutResponse::default());
        }
        let timed = |((key, value), ttl)| (key, value, check::expiry(ttl));
        let puts: Vec<(Bytes, Bytes, Expiry)> = pairs.into_iter().zip(ttls).map(timed).collect();
        let op = || Op::PutTimed { puts: puts.clone() };
        self.submit(request.context.as_ref(), op).await?;
        Ok(RawBatchPutResponse::default())
    }

    pub(super) async fn delete(&self, request: RawDeleteRequest) -> Result<RawDeleteResponse, Failure> {
        let key = check::common(request.context.as_ref(), &request.cf)?.stored(request.key)?;
        let op = || Op::Delete { key: key.clone(), count: false };
        self.submit(request.context.as_ref(), op).await?;
        Ok(RawDeleteResponse::default())
    }

    pub(super) async fn batch_delete(
        &self,
        request: RawBatchDeleteRequest,
    ) -> Result<RawBatchDeleteResponse, Failure> {
        let keys = check::common(request.context.as_ref(), &request.cf)?.all_stored(request.keys)?;
        let op = || Op::BatchDelete { keys: keys.clone() };
        self.submit(request.context.as_ref(), op).await?;
        Ok(RawBatchDeleteResponse::default())
    }

    pub(super) async fn delete_range(
        &self,
        request: RawDeleteRangeRequest,
    ) -> Result<RawDeleteRangeResponse, Failure> {
        let keys = check::common(request.context.as_ref(), &request.cf)?;
        let (start, end) = (keys.stored(request.start_key)?, keys.stored_end(request.end_key)?);
        let op = || Op::DeleteRange { start: start.clone(), end: end.clone() };
        self.submit(request.context.as_ref(), op).await?;
        Ok(RawDeleteRangeResponse::default())
    }

    pub(super) async fn scan(&self, request: RawScanRequest) -> Result<RawScanResponse, Failure> {
        let context = request.context.as_ref();
        let keys = check::common(context, &request.cf)?;
        let range = KeyRange { start_key: request.start_key, end_key: request.end_key };
        let scan = Scan {
            limit: request.limit as usize,
            key_only: request.key_only,
            reverse: request.reverse,
            ..Scan::default()
        };
        let kvs = self.range(context, keys, range, scan).await?;
        Size::default().add(&kvs)?;
        Ok(RawScanResponse { kvs, ..Default::default() })
    }

    pub(super) async fn batch_scan(
        &self,
        request: RawBatchScanRequest,
    ) -> Result<RawBatchScanResponse, Failure> {
        let context = request.context.as_ref();
        let keys = check::common(context, &request.cf)?;
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
            let found = self.range(context, keys, range, scan).await?;
            size.add(&found)?;
            held += found.iter().map(|pair| charged_pair_bytes(&pair.key, &pair.value)).sum::<usize>();
            kvs.extend(found);
            budget.tick().await;
        }
        Ok(RawBatchScanResponse { kvs, ..Default::default() })
    }

    pub(super) async fn compare_and_swap(&self, request: RawCasRequest) -> Result<RawCasResponse, Failure> {
        let key = check::common(request.context.as_ref(), &request.cf)?.stored(request.key)?;
        check::value(&request.value)?;
        if request.delete {
            let sentence = "compare-and-delete is not served; swap in a value that means deleted";
            return Err(Failure::Text(sentence.to_owned()));
        }
        let op = || {
            let expected = (!request.previous_not_exist).then(|| request.previous_value.clone());
            let (value, when) = (request.value.clone(), When::Equals(expected));
            let change = match check::expiry(request.ttl) {
                Expiry::Never => Change::SetIf { value, when },
                expiry => Change::SetTimed { value, when, expiry },
            };
            Op::Modify { key: key.clone(), change }
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
        keys: Keys,
        range: KeyRange,
        scan: Scan,
    ) -> Result<Vec<KvPair>, Failure> {
        let (start, end) =
            if scan.reverse { (range.end_key, range.start_key) } else { (range.start_key, range.end_key) };
        let whole = Scan { start: keys.stored(start)?, end: keys.stored_end(end)?, ..scan };
        match self.submit(context, || Op::Scan(whole.clone())).await? {
            Out::Pairs(pairs) => {
                Ok(pairs.into_iter().map(|(key, value)| pair(keys.sent(key), value)).collect())
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn submit(&self, context: Option<&Context>, op: impl Fn() -> Op) -> Result<Out, Failure> {
        self.outcome(context, op).await.map_err(|refusal| self.failure(context, refusal))
    }

    async fn outcome(&self, context: Option<&Context>, op: impl Fn() -> Op) -> Result<Out, Refusal> {
        if self.is_short {
            return Err(SHORT_OF_MEMORY);
        }
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

    pub(super) fn failure(&self, context: Option<&Context>, refused: Refusal) -> Failure {
        let region_id = context.map_or(0, |context| context.region_id);
        let refused = match (refused, Keys::of(context)) {
            (Refusal::KeyNotInRegion { key, region }, Ok(keys)) => {
                Refusal::KeyNotInRegion { key: keys.sent(key), region }
            }
            (refused, _) => refused,
        };
        refusal::failure(refused, region_id, self.core.store_id)
    }
}

/// What a request says of where its region is.
pub(super) fn route(context: Option<&Context>) -> Route {
    let Some(context) = context else {
        // Nothing has this id, so the client hears that its region does not exist.
        return Route {
            region_id: 0,
            conf_ver: 0,
            version: 0,
            peer_id: 0,
            store_id: 0,
            term: 0,
            replica_read: false,
        };
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
        replica_read: context.replica_read,
    }
}

fn pair(key: Bytes, value: Bytes) -> KvPair {
    KvPair { key, value, ..KvPair::default() }
}

fn unexpected(out: &Out) -> Failure {
    debug_assert!(false, "the gateway answered {out:?}");
    Failure::Text("the store answered in an unexpected form".to_owned())
}
