//! The raw key-value service of TiKV, level L1, on a store's own port: what unmodified clients call.
//!
//! * [`command`] carries one request out: check, route, submit, answer. [`check`] and [`size`] hold the bounds, [`keys`] says how keys are
//!   stored, [`failure`] how each response reports that there is no result, [`refusal`] has the region errors.
//! * `batch` serves the stream in which Go clients send everything; `envelope` takes its messages apart, `execute` hands each
//!   command to its method, `unserved` refuses what is known and not served.
//!
//! What holds: an answer is one of the protocol's own shapes, never a guess; what is not served is refused by name; a caller that
//! cannot handle "busy" is made to wait instead (unary calls), one that can is answered so (batched commands).
//!
//! Not done here, on purpose: transactions (`Kv*`, answered as unimplemented, or in a batch with an error of their own), TTL, keyspaces other than `DEFAULT`, column families
//! other than `default`: each is refused with a sentence that says so.

mod batch;
mod check;
mod command;
mod envelope;
mod execute;
mod failure;
mod keys;
mod refusal;
mod size;
mod splits;
mod unserved;

use std::rc::Rc;

use bytes::Bytes;
use engine::rt::{Mono, Rt};
use prost::{Message, Name};

use self::command::Session;
use self::failure::{Failure, Refusable, settle_alone};
use super::grpc::{self, CallOutbox, CallShape, Inbox, Service, Status};
use super::health::{self, HealthService};
use super::proto::health::HealthCheckRequest;
use super::reflection;
use crate::gateway::Gateway;

const SERVICE: &str = "tikvpb.Tikv";
/// Keys, pairs or ranges of one request. In memory each takes many times the two bytes that it may take in the request.
const ITEMS_MAX: usize = 128 << 10;
/// A shorter request has too few keys to be worth counting, bytes.
const ITEMS_BYTES_MIN: usize = 256;

/// The service of one store, on the core that owns it.
#[derive(Clone, Debug)]
pub struct Tikv {
    core: Rc<Core>,
    health: HealthService,
}

#[derive(Debug)]
struct Core {
    rt: Rt,
    gateway: Gateway,
    store_id: u64,
    /// Commands of batches, which are no calls of their own.
    tally: grpc::Tally<&'static str>,
}

impl Tikv {
    /// Serves `gateway` under the name of `store_id`.
    pub fn new(rt: &Rt, gateway: Gateway, store_id: u64, health: HealthService) -> Self {
        Self {
            core: Rc::new(Core { rt: rt.clone(), gateway, store_id, tally: grpc::Tally::default() }),
            health,
        }
    }
}

/// The methods of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Reads a key.
    RawGet,
    /// Reads keys.
    RawBatchGet,
    /// Sets a key.
    RawPut,
    /// Sets keys.
    RawBatchPut,
    /// Deletes a key.
    RawDelete,
    /// Deletes keys.
    RawBatchDelete,
    /// Reads a range.
    RawScan,
    /// Reads ranges.
    RawBatchScan,
    /// Deletes a range.
    RawDeleteRange,
    /// Asks for a key's time to live.
    RawGetKeyTtl,
    /// Sets a key on a condition.
    RawCompareAndSwap,
    /// Cuts a region.
    SplitRegion,
    /// Asks how slow the store is.
    GetHealthFeedback,
    /// Any of the above, many at a time.
    BatchCommands,
    /// Asks whether the store serves.
    HealthCheck,
    /// Asks for that and for every change.
    HealthWatch,
    /// Asks what the port serves.
    Reflection,
}

impl Service for Tikv {
    type Method = Method;

    fn method(&self, path: &str) -> Option<(Method, CallShape)> {
        let method = match path {
            "/tikvpb.Tikv/RawGet" => Method::RawGet,
            "/tikvpb.Tikv/RawBatchGet" => Method::RawBatchGet,
            "/tikvpb.Tikv/RawPut" => Method::RawPut,
            "/tikvpb.Tikv/RawBatchPut" => Method::RawBatchPut,
            "/tikvpb.Tikv/RawDelete" => Method::RawDelete,
            "/tikvpb.Tikv/RawBatchDelete" => Method::RawBatchDelete,
            "/tikvpb.Tikv/RawScan" => Method::RawScan,
            "/tikvpb.Tikv/RawBatchScan" => Method::RawBatchScan,
            "/tikvpb.Tikv/RawDeleteRange" => Method::RawDeleteRange,
            "/tikvpb.Tikv/RawGetKeyTTL" => Method::RawGetKeyTtl,
            "/tikvpb.Tikv/RawCompareAndSwap" => Method::RawCompareAndSwap,
            "/tikvpb.Tikv/SplitRegion" => Method::SplitRegion,
            "/tikvpb.Tikv/GetHealthFeedback" => Method::GetHealthFeedback,
            "/tikvpb.Tikv/BatchCommands" => return Some((Method::BatchCommands, CallShape::Bidi)),
            health::CHECK => Method::HealthCheck,
            health::WATCH => return Some((Method::HealthWatch, CallShape::Bidi)),
            reflection::V1 | reflection::V1_ALPHA => return Some((Method::Reflection, CallShape::Bidi)),
            _ => return None,
        };
        Some((method, CallShape::Unary))
    }

    fn message_bytes_max(&self, method: Method) -> Option<usize> {
        match method {
            Method::BatchCommands => Some(batch::MESSAGE_BYTES_MAX),
            Method::Reflection => Some(reflection::MESSAGE_BYTES_MAX),
            Method::RawGet
            | Method::RawBatchGet
            | Method::RawPut
            | Method::RawBatchPut
            | Method::RawDelete
            | Method::RawBatchDelete
            | Method::RawScan
            | Method::RawBatchScan
            | Method::RawDeleteRange
            | Method::RawGetKeyTtl
            | Method::RawCompareAndSwap
            | Method::SplitRegion
            | Method::GetHealthFeedback
            | Method::HealthCheck
            | Method::HealthWatch => None,
        }
    }

    fn ended(&self) -> Vec<grpc::Ended> {
        self.core.tally.ended(|name| (*name).to_owned())
    }

    async fn unary(&self, method: Method, message: Bytes, deadline: Option<Mono>) -> Result<Bytes, Status> {
        let session = Session::patient(&self.core, deadline);
        match method {
            Method::RawGet => answer(message, async |request| session.get(request).await).await,
            Method::RawBatchGet => {
                answer_many(session, message, async |session, request| session.batch_get(request).await).await
            }
            Method::RawPut => answer(message, async |request| session.put(request).await).await,
            Method::RawBatchPut => {
                answer_many(session, message, async |session, request| session.batch_put(request).await).await
            }
            Method::RawDelete => answer(message, async |request| session.delete(request).await).await,
            Method::RawBatchDelete => {
                answer_many(session, message, async |session, request| session.batch_delete(request).await)
                    .await
            }
            Method::RawScan => answer(message, async |request| session.scan(request).await).await,
            Method::RawBatchScan => {
                answer_many(session, message, async |session, request| session.batch_scan(request).await)
                    .await
            }
            Method::RawDeleteRange => {
                answer(message, async |request| session.delete_range(request).await).await
            }
            Method::RawGetKeyTtl => answer(message, async |request| session.key_ttl(request).await).await,
            Method::RawCompareAndSwap => {
                answer(message, async |request| session.compare_and_swap(request).await).await
            }
            Method::SplitRegion => answer(message, async |request| session.cut(request).await).await,
            Method::GetHealthFeedback => {
                answer(message, async |request| Ok(session.health_feedback(request))).await
            }
            Method::HealthCheck => {
                let request = decode::<HealthCheckRequest>(message)?;
                grpc::answer(&self.health.check(&request, &[SERVICE]))
            }
            Method::BatchCommands | Method::HealthWatch | Method::Reflection => {
                Err(Status::new(grpc::Code::Internal, "this method is a stream"))
            }
        }
    }

    async fn bidi(&self, method: Method, inbox: &mut Inbox, outbox: &mut CallOutbox) -> Result<(), Status> {
        match method {
            Method::BatchCommands => batch::serve(&self.core, inbox, outbox).await,
            Method::HealthWatch => self.health.watch(inbox, outbox, &[SERVICE]).await,
            Method::Reflection => reflection::serve(inbox, outbox, &[SERVICE]).await,
            Method::RawGet
            | Method::RawBatchGet
            | Method::RawPut
            | Method::RawBatchPut
            | Method::RawDelete
            | Method::RawBatchDelete
            | Method::RawScan
            | Method::RawBatchScan
            | Method::RawDeleteRange
            | Method::RawGetKeyTtl
            | Method::RawCompareAndSwap
            | Method::SplitRegion
            | Method::GetHealthFeedback
            | Method::HealthCheck => Err(Status::new(grpc::Code::Internal, "this method is not a stream")),
        }
    }
}

async fn answer<Q, A>(
    message: Bytes,
    serve: impl AsyncFnOnce(Q) -> Result<A, Failure>,
) -> Result<Bytes, Status>
where
    Q: Message + Name + Default,
    A: Message + Default + Refusable,
{
    let request = decode::<Q>(message)?;
    grpc::answer(&settle_alone(serve(request).await)?)
}

/// As [`answer`], for requests of as many keys as their callers like. Their room is there before they are decoded.
async fn answer_many<'a, Q, A>(
    session: Session<'a>,
    message: Bytes,
    serve: impl AsyncFnOnce(Session<'a>, Q) -> Result<A, Failure>,
) -> Result<Bytes, Status>
where
    Q: Message + Name + Default,
    A: Message + Default + Refusable,
{
    let core = session.core;
    let room = core.gateway.memory().room_for_items(&core.rt, items::<Q>(&message)?).await;
    let request = decode::<Q>(message)?;
    grpc::answer(&settle_alone(serve(session.within(&room), request).await)?)
}

/// About how many keys a request names. A key alone is a field, and a pair is three.
fn items<Q: Name>(message: &Bytes) -> Result<usize, Status> {
    match message.len() {
        0..ITEMS_BYTES_MIN => Ok(0),
        _ => grpc::count_items::<Q>(message, ITEMS_MAX).map(|fields| fields / 2),
    }
}

/// Decodes a request.
pub(super) fn decode<Q: Message + Name + Default>(message: Bytes) -> Result<Q, Status> {
    grpc::bound_items::<Q>(&message, ITEMS_MAX)?;
    Q::decode(message).map_err(|error| Status::invalid(format!("the request cannot be decoded: {error}")))
}
