//! The PD service: what clients ask to find regions and stores, and the timestamps.
//!
//! [`Pd`] names the methods; `answers` holds the unary ones, `join` the one by which stores join, `nodes` what other nodes say, `locate` what
//! they ask about regions, `admin` what operators ask for, `streams` the streams, `etcd` what clients ask of the store below PD. [`client`] is the other side, and [`elsewhere`]
//! the port of a node that does not host the scheduler.
//!
//! What holds: every answer has a header with the cluster's id; lists that clients index by position are as long as what was asked;
//! a wrong cluster id is an error of the call. Nothing here decides anything: it shapes what [`Control`](crate::control) knows.
//!
//! Not done here, on purpose: keyspaces, service safe points, global configuration, the resource manager; they are answered as
//! unimplemented, which clients take for "an older server".

mod admin;
mod answers;
mod beats;
pub mod client;
pub mod elsewhere;
mod etcd;
mod join;
mod locate;
mod nodes;
mod scan;
mod streams;

use bytes::Bytes;
use engine::rt::Mono;
use prost::{Message, Name};
use scheduler::{DownPeer, PeerId, RegionInfo};

pub use self::join::Dialer;
use super::grpc::{self, Code, Inbox, Outbox, Service, Shape, Status};
use super::health::{self, Health};
use super::proto::metapb;
use super::proto::pdpb::{self, ErrorType, RequestHeader, ResponseHeader};
use super::reflection;
use crate::control::{Control, Denied};

const SERVICE: &str = "pdpb.PD";
/// What reflection lists: the service, and what clients ask of the store below it.
const SERVICES: [&str; 5] =
    [SERVICE, "etcdserverpb.Cluster", "etcdserverpb.KV", "meta_storagepb.MetaStorage", "ringkeep.Scheduler"];

/// The service, on the scheduler shard's core.
#[derive(Clone, Debug)]
pub struct Pd {
    control: Control,
    health: Health,
    /// Without one no store can join.
    dialer: Option<Dialer>,
}

/// The methods of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named as in the protocol")]
pub enum Method {
    GetMembers,
    GetClusterInfo,
    GetClusterConfig,
    Tso,
    GetRegion,
    GetPrevRegion,
    GetRegionById,
    ScanRegions,
    BatchScanRegions,
    QueryRegion,
    GetStore,
    GetAllStores,
    IsBootstrapped,
    Bootstrap,
    AllocId,
    PutStore,
    StoreHeartbeat,
    RegionHeartbeat,
    AskSplit,
    GetGcSafePoint,
    UpdateGcSafePoint,
    HealthCheck,
    HealthWatch,
    Reflection,
    MetaStorageGet,
    MemberList,
    Range,
    Join,
    Report,
    Locate,
    Operate,
    RemoveStore,
}

impl Pd {
    /// Speaks for `control`.
    pub fn new(control: Control, health: Health) -> Self {
        Self { control, health, dialer: None }
    }

    /// Lets stores of other nodes join, which are dialled back first.
    #[must_use]
    pub fn admitting(self, dialer: Dialer) -> Self {
        Self { dialer: Some(dialer), ..self }
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { cluster_id: self.control.cluster_id(), error: None })
    }

    fn failed(&self, r#type: ErrorType, message: impl Into<String>) -> Option<ResponseHeader> {
        let error = Some(pdpb::Error { r#type: r#type.into(), message: message.into() });
        Some(ResponseHeader { cluster_id: self.control.cluster_id(), error })
    }

    fn not_bootstrapped(&self) -> Option<ResponseHeader> {
        self.failed(ErrorType::NotBootstrapped, "no region has been reported yet; try again in a moment")
    }

    fn is_bootstrapped(&self) -> bool {
        self.control.map(|map| !map.is_empty())
    }

    /// A caller that names another cluster is talking to the wrong server.
    fn check_cluster(&self, header: Option<&RequestHeader>) -> Result<(), Status> {
        let (asked, ours) = (header.map_or(0, |header| header.cluster_id), self.control.cluster_id());
        if asked == 0 || asked == ours {
            return Ok(());
        }
        let message = format!("mismatch cluster id, need {ours} but got {asked}");
        Err(Status::new(Code::FailedPrecondition, message))
    }
}

impl Service for Pd {
    type Method = Method;

    fn method(&self, path: &str) -> Option<(Method, Shape)> {
        let method = match path {
            "/pdpb.PD/GetMembers" => Method::GetMembers,
            "/pdpb.PD/GetClusterInfo" => Method::GetClusterInfo,
            "/pdpb.PD/GetClusterConfig" => Method::GetClusterConfig,
            "/pdpb.PD/Tso" => return Some((Method::Tso, Shape::Bidi)),
            "/pdpb.PD/GetRegion" => Method::GetRegion,
            "/pdpb.PD/GetPrevRegion" => Method::GetPrevRegion,
            "/pdpb.PD/GetRegionByID" => Method::GetRegionById,
            "/pdpb.PD/ScanRegions" => Method::ScanRegions,
            "/pdpb.PD/BatchScanRegions" => Method::BatchScanRegions,
            "/pdpb.PD/QueryRegion" => return Some((Method::QueryRegion, Shape::Bidi)),
            "/pdpb.PD/GetStore" => Method::GetStore,
            "/pdpb.PD/GetAllStores" => Method::GetAllStores,
            "/pdpb.PD/IsBootstrapped" => Method::IsBootstrapped,
            "/pdpb.PD/Bootstrap" => Method::Bootstrap,
            "/pdpb.PD/AllocID" => Method::AllocId,
            "/pdpb.PD/PutStore" => Method::PutStore,
            "/pdpb.PD/StoreHeartbeat" => Method::StoreHeartbeat,
            "/pdpb.PD/RegionHeartbeat" => return Some((Method::RegionHeartbeat, Shape::Bidi)),
            "/pdpb.PD/AskSplit" => Method::AskSplit,
            "/pdpb.PD/GetGCSafePoint" => Method::GetGcSafePoint,
            "/pdpb.PD/UpdateGCSafePoint" => Method::UpdateGcSafePoint,
            health::CHECK => Method::HealthCheck,
            health::WATCH => return Some((Method::HealthWatch, Shape::Bidi)),
            reflection::V1 | reflection::V1_ALPHA => return Some((Method::Reflection, Shape::Bidi)),
            "/meta_storagepb.MetaStorage/Get" => Method::MetaStorageGet,
            "/etcdserverpb.Cluster/MemberList" => Method::MemberList,
            "/etcdserverpb.KV/Range" => Method::Range,
            "/ringkeep.Scheduler/Join" => Method::Join,
            "/ringkeep.Scheduler/Report" => Method::Report,
            "/ringkeep.Scheduler/Locate" => Method::Locate,
            "/ringkeep.Scheduler/Operate" => Method::Operate,
            "/ringkeep.Scheduler/RemoveStore" => Method::RemoveStore,
            _ => return None,
        };
        Some((method, Shape::Unary))
    }

    fn message_bytes_max(&self, method: Method) -> Option<usize> {
        (method == Method::Reflection).then_some(reflection::MESSAGE_BYTES_MAX)
    }

    async fn unary(&self, method: Method, message: Bytes, _: Option<Mono>) -> Result<Bytes, Status> {
        match method {
            Method::GetMembers => grpc::answer(&self.get_members()),
            Method::GetClusterInfo => grpc::answer(&self.get_cluster_info()),
            Method::GetClusterConfig => self.answer(message, Self::get_cluster_config),
            Method::GetRegion => self.answer(message, Self::get_region),
            Method::GetPrevRegion => self.answer(message, Self::get_prev_region),
            Method::GetRegionById => self.answer(message, Self::get_region_by_id),
            Method::ScanRegions => grpc::answer(&self.scan_regions(decode(message)?).await?),
            Method::BatchScanRegions => grpc::answer(&self.batch_scan_regions(decode(message)?).await?),
            Method::GetStore => self.answer(message, Self::get_store),
            Method::GetAllStores => self.answer(message, Self::get_all_stores),
            Method::IsBootstrapped => self.answer(message, Self::is_bootstrapped_answer),
            Method::Bootstrap => self.answer(message, Self::bootstrap),
            Method::AllocId => grpc::answer(&self.alloc_id(decode(message)?).await?),
            Method::PutStore => grpc::answer(&self.put_store(decode(message)?).await?),
            Method::StoreHeartbeat => Err(self.report_of_a_stranger()),
            Method::AskSplit => grpc::answer(&self.ask_split(decode(message)?).await?),
            Method::GetGcSafePoint => self.answer(message, Self::get_gc_safe_point),
            Method::UpdateGcSafePoint => grpc::answer(&self.update_gc_safe_point(decode(message)?).await?),
            Method::HealthCheck => grpc::answer(&self.health.check(&decode(message)?, &[SERVICE])),
            Method::MetaStorageGet => grpc::answer(&self.meta_storage_get()),
            Method::MemberList => grpc::answer(&self.member_list()),
            Method::Range => grpc::answer(&self.range()),
            Method::Join => grpc::answer(&self.join(decode(message)?).await?),
            Method::Report => grpc::answer(&self.report(decode(message)?).await?),
            Method::Locate => self.answer(message, Self::locate),
            Method::Operate => grpc::answer(&self.operate(decode(message)?).await?),
            Method::RemoveStore => grpc::answer(&self.remove_store(&decode(message)?).await?),
            Method::Tso
            | Method::QueryRegion
            | Method::RegionHeartbeat
            | Method::HealthWatch
            | Method::Reflection => Err(Status::new(Code::Internal, "this method is a stream")),
        }
    }

    async fn bidi(&self, method: Method, inbox: &mut Inbox, outbox: &mut Outbox) -> Result<(), Status> {
        match method {
            Method::Tso => self.tso(inbox, outbox).await,
            Method::QueryRegion => self.query_regions(inbox, outbox).await,
            Method::HealthWatch => self.health.watch(inbox, outbox, &[SERVICE]).await,
            Method::Reflection => reflection::serve(inbox, outbox, &SERVICES).await,
            Method::RegionHeartbeat => {
                // A caller whose first message is not read may miss the status that ends the stream.
                inbox.next().await?;
                Err(self.report_of_a_stranger())
            }
            _ => Err(Status::new(Code::Internal, "this method is not a stream")),
        }
    }
}

impl Pd {
    /// A unary call that needs nobody else: decode, ask, frame.
    fn answer<Q, A>(
        &self,
        message: Bytes,
        serve: impl FnOnce(&Self, Q) -> Result<A, Status>,
    ) -> Result<Bytes, Status>
    where
        Q: Message + Name + Default,
        A: Message,
    {
        grpc::answer(&serve(self, decode(message)?)?)
    }
}

/// Keys, ids or reports of one request.
const ITEMS_MAX: usize = 64 << 10;

fn decode<Q: Message + Name + Default>(message: Bytes) -> Result<Q, Status> {
    grpc::bound_items::<Q>(&message, ITEMS_MAX)?;
    Q::decode(message).map_err(|error| Status::invalid(format!("the request cannot be decoded: {error}")))
}

fn denied(denied: Denied) -> Status {
    let code = match denied {
        Denied::Unavailable(_) => Code::Unavailable,
        Denied::BadCount { .. } => Code::InvalidArgument,
        Denied::Refused(_) | Denied::NotAdmitted(_) => Code::FailedPrecondition,
        Denied::AheadOfPresent { .. } => Code::InvalidArgument,
    };
    Status::new(code, denied.to_string())
}

fn shape(known: &RegionInfo) -> pdpb::Region {
    let peer = |id: &PeerId| known.region.peer(*id).map(metapb::Peer::from);
    let down =
        |down: &DownPeer| Some(pdpb::PeerStats { peer: peer(&down.peer), down_seconds: down.down_ms / 1000 });
    pdpb::Region {
        region: Some(metapb::Region::from(&known.region)),
        leader: known.leader.as_ref().and_then(peer),
        down_peers: known.down().iter().filter_map(down).collect(),
        pending_peers: known.pending().iter().filter_map(peer).collect(),
    }
}
