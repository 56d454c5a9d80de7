//! The PD service: what clients ask to find regions and stores, and the timestamps.
//!
//! [`Pd`] names the methods; `answers` holds the unary ones, `join` the one by which stores join, `nodes` what other nodes say, `locate` what
//! they ask about regions, `admin` what operators ask for, `overview` what they are shown, `splits` what those ask who cut regions and spread them, `collection` what bounds garbage
//! collection, `keyspaces` the one there is, `streams` the streams, `etcd` what clients ask of the store below PD. [`client`] is the other side, [`port`]
//! the port of every node, wherever the scheduler is, [`ask`] its entrance for threads of the same process, and [`members`] says which calls need the secret of the cluster, and lets in who has it.
//!
//! What holds: every answer has a header with the cluster's id; lists that clients index by position are as long as what was asked;
//! a wrong cluster id is an error of the call. Nothing here decides anything: it shapes what [`Control`](crate::control) knows.
//!
//! Not done here, on purpose: more than one keyspace, global configuration, the resource manager; what asks for those is answered as
//! unimplemented, which clients take for "an older server".

mod admin;
mod answers;
pub mod ask;
mod beats;
pub mod client;
mod collection;
mod etcd;
mod forward;
mod join;
mod keyspaces;
mod locate;
pub mod members;
mod nodes;
mod overview;
pub mod port;
mod scan;
mod splits;
mod streams;
mod tried;

use bytes::Bytes;
use engine::rt::Mono;
use prost::{Message, Name};
use scheduler::{DownPeer, PeerId, RegionInfo};

pub use self::join::{Dialer, NOT_AUTHENTICATED};
use super::grpc::{self, CallOutbox, CallShape, Code, Inbox, Service, Status};
use super::health::{self, HealthService};
use super::proto::metapb;
use super::proto::pdpb::{self, ErrorType, RequestHeader, ResponseHeader};
use super::reflection;
use crate::control::{Control, Denied};

const SERVICE: &str = "pdpb.PD";
/// What reflection lists: the service, and what clients ask of the store below it.
const SERVICES: [&str; 6] = [
    SERVICE,
    "etcdserverpb.Cluster",
    "etcdserverpb.KV",
    "keyspacepb.Keyspace",
    "meta_storagepb.MetaStorage",
    "ringkeep.Scheduler",
];

/// The service, on the scheduler shard's core.
#[derive(Clone, Debug)]
pub struct Pd {
    control: Control,
    health: HealthService,
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
    AskBatchSplit,
    ReportBatchSplit,
    ScatterRegion,
    SplitRegions,
    SplitAndScatterRegions,
    GetOperator,
    GetGcSafePoint,
    UpdateGcSafePoint,
    UpdateServiceGcSafePoint,
    GetGcState,
    LoadKeyspace,
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
    Operators,
    CancelOperator,
    Stores,
    RemoveStore,
    MayRemoveStore,
    KeepStore,
    Hosted,
    Evict,
    Config,
    SetConfig,
    SetPolicy,
    Regions,
    Why,
    Cluster,
    RegionMap,
    Heat,
    Forward,
}

impl Pd {
    /// Speaks for `control`.
    pub fn new(control: Control, health: HealthService) -> Self {
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

/// Every method by its path. Where one has two, the first is the one by which it is called from here.
const METHODS: [(&str, Method, CallShape); 58] = [
    ("/pdpb.PD/GetMembers", Method::GetMembers, CallShape::Unary),
    ("/pdpb.PD/GetClusterInfo", Method::GetClusterInfo, CallShape::Unary),
    ("/pdpb.PD/GetClusterConfig", Method::GetClusterConfig, CallShape::Unary),
    ("/pdpb.PD/Tso", Method::Tso, CallShape::Bidi),
    ("/pdpb.PD/GetRegion", Method::GetRegion, CallShape::Unary),
    ("/pdpb.PD/GetPrevRegion", Method::GetPrevRegion, CallShape::Unary),
    ("/pdpb.PD/GetRegionByID", Method::GetRegionById, CallShape::Unary),
    ("/pdpb.PD/ScanRegions", Method::ScanRegions, CallShape::Unary),
    ("/pdpb.PD/BatchScanRegions", Method::BatchScanRegions, CallShape::Unary),
    ("/pdpb.PD/QueryRegion", Method::QueryRegion, CallShape::Bidi),
    ("/pdpb.PD/GetStore", Method::GetStore, CallShape::Unary),
    ("/pdpb.PD/GetAllStores", Method::GetAllStores, CallShape::Unary),
    ("/pdpb.PD/IsBootstrapped", Method::IsBootstrapped, CallShape::Unary),
    ("/pdpb.PD/Bootstrap", Method::Bootstrap, CallShape::Unary),
    ("/pdpb.PD/AllocID", Method::AllocId, CallShape::Unary),
    ("/pdpb.PD/PutStore", Method::PutStore, CallShape::Unary),
    ("/pdpb.PD/StoreHeartbeat", Method::StoreHeartbeat, CallShape::Unary),
    ("/pdpb.PD/RegionHeartbeat", Method::RegionHeartbeat, CallShape::Bidi),
    ("/pdpb.PD/AskSplit", Method::AskSplit, CallShape::Unary),
    ("/pdpb.PD/AskBatchSplit", Method::AskBatchSplit, CallShape::Unary),
    ("/pdpb.PD/ReportBatchSplit", Method::ReportBatchSplit, CallShape::Unary),
    ("/pdpb.PD/ScatterRegion", Method::ScatterRegion, CallShape::Unary),
    ("/pdpb.PD/SplitRegions", Method::SplitRegions, CallShape::Unary),
    ("/pdpb.PD/SplitAndScatterRegions", Method::SplitAndScatterRegions, CallShape::Unary),
    ("/pdpb.PD/GetOperator", Method::GetOperator, CallShape::Unary),
    ("/pdpb.PD/GetGCSafePoint", Method::GetGcSafePoint, CallShape::Unary),
    ("/pdpb.PD/UpdateGCSafePoint", Method::UpdateGcSafePoint, CallShape::Unary),
    ("/pdpb.PD/UpdateServiceGCSafePoint", Method::UpdateServiceGcSafePoint, CallShape::Unary),
    ("/pdpb.PD/GetGCState", Method::GetGcState, CallShape::Unary),
    ("/keyspacepb.Keyspace/LoadKeyspace", Method::LoadKeyspace, CallShape::Unary),
    (health::CHECK, Method::HealthCheck, CallShape::Unary),
    (health::WATCH, Method::HealthWatch, CallShape::Bidi),
    (reflection::V1, Method::Reflection, CallShape::Bidi),
    (reflection::V1_ALPHA, Method::Reflection, CallShape::Bidi),
    ("/meta_storagepb.MetaStorage/Get", Method::MetaStorageGet, CallShape::Unary),
    ("/etcdserverpb.Cluster/MemberList", Method::MemberList, CallShape::Unary),
    ("/etcdserverpb.KV/Range", Method::Range, CallShape::Unary),
    ("/ringkeep.Scheduler/Join", Method::Join, CallShape::Unary),
    ("/ringkeep.Scheduler/Report", Method::Report, CallShape::Unary),
    ("/ringkeep.Scheduler/Locate", Method::Locate, CallShape::Unary),
    ("/ringkeep.Scheduler/Operate", Method::Operate, CallShape::Unary),
    ("/ringkeep.Scheduler/Operators", Method::Operators, CallShape::Unary),
    ("/ringkeep.Scheduler/CancelOperator", Method::CancelOperator, CallShape::Unary),
    ("/ringkeep.Scheduler/Stores", Method::Stores, CallShape::Unary),
    ("/ringkeep.Scheduler/RemoveStore", Method::RemoveStore, CallShape::Unary),
    ("/ringkeep.Scheduler/MayRemoveStore", Method::MayRemoveStore, CallShape::Unary),
    ("/ringkeep.Scheduler/KeepStore", Method::KeepStore, CallShape::Unary),
    (client::HOSTED, Method::Hosted, CallShape::Unary),
    ("/ringkeep.Scheduler/Evict", Method::Evict, CallShape::Unary),
    ("/ringkeep.Scheduler/Config", Method::Config, CallShape::Unary),
    ("/ringkeep.Scheduler/SetConfig", Method::SetConfig, CallShape::Unary),
    ("/ringkeep.Scheduler/SetPolicy", Method::SetPolicy, CallShape::Unary),
    ("/ringkeep.Scheduler/Regions", Method::Regions, CallShape::Unary),
    ("/ringkeep.Scheduler/Why", Method::Why, CallShape::Unary),
    ("/ringkeep.Scheduler/Cluster", Method::Cluster, CallShape::Unary),
    ("/ringkeep.Scheduler/RegionMap", Method::RegionMap, CallShape::Unary),
    ("/ringkeep.Scheduler/Heat", Method::Heat, CallShape::Unary),
    (client::FORWARD, Method::Forward, CallShape::Unary),
];

impl Method {
    /// The method of a path, and the shape of its calls.
    fn of(path: &str) -> Option<(Self, CallShape)> {
        METHODS.iter().find(|(of, ..)| *of == path).map(|(_, method, shape)| (*method, *shape))
    }

    /// Maximum length of its message, bytes; none where it names any number of keys, ids or reports, which the server bounds.
    fn message_bytes_max(self) -> Option<usize> {
        match self {
            Method::Reflection => Some(reflection::MESSAGE_BYTES_MAX),
            Method::GetMembers
            | Method::GetClusterInfo
            | Method::GetClusterConfig
            | Method::Tso
            | Method::GetRegion
            | Method::GetPrevRegion
            | Method::GetRegionById
            | Method::ScanRegions
            | Method::GetStore
            | Method::GetAllStores
            | Method::IsBootstrapped
            | Method::AllocId
            | Method::GetOperator
            | Method::GetGcSafePoint
            | Method::UpdateGcSafePoint
            | Method::UpdateServiceGcSafePoint
            | Method::GetGcState
            | Method::LoadKeyspace
            | Method::HealthCheck
            | Method::HealthWatch
            | Method::MetaStorageGet
            | Method::MemberList
            | Method::Range
            | Method::RemoveStore
            | Method::MayRemoveStore
            | Method::KeepStore
            | Method::Operators
            | Method::CancelOperator
            | Method::Stores
            | Method::Hosted
            | Method::Evict
            | Method::Config
            | Method::SetConfig
            | Method::SetPolicy
            | Method::Regions
            | Method::Why
            | Method::Cluster
            | Method::RegionMap
            | Method::Heat => Some(MESSAGE_BYTES_MAX),
            Method::BatchScanRegions
            | Method::QueryRegion
            | Method::Bootstrap
            | Method::PutStore
            | Method::StoreHeartbeat
            | Method::RegionHeartbeat
            | Method::AskSplit
            | Method::AskBatchSplit
            | Method::ReportBatchSplit
            | Method::ScatterRegion
            | Method::SplitRegions
            | Method::SplitAndScatterRegions
            | Method::Join
            | Method::Report
            | Method::Locate
            | Method::Operate
            | Method::Forward => None,
        }
    }

    /// The path by which it is called.
    fn path(self) -> &'static str {
        let known = METHODS.iter().find(|(_, method, _)| *method == self);
        known.map(|(path, ..)| *path).expect("every method is in the list")
    }
}

impl Service for Pd {
    type Method = Method;

    fn method(&self, path: &str) -> Option<(Method, CallShape)> {
        Method::of(path)
    }

    fn message_bytes_max(&self, method: Method) -> Option<usize> {
        method.message_bytes_max()
    }

    fn is_for_members(&self, method: Method) -> bool {
        method.is_for_members()
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
            Method::StoreHeartbeat | Method::ReportBatchSplit => Err(self.report_of_a_stranger()),
            Method::AskSplit => grpc::answer(&self.ask_split(decode(message)?).await?),
            Method::AskBatchSplit => grpc::answer(&self.ask_batch_split(decode(message)?).await?),
            Method::ScatterRegion => grpc::answer(&self.scatter_region(decode(message)?).await?),
            Method::SplitRegions => grpc::answer(&self.split_regions(decode(message)?).await?),
            Method::SplitAndScatterRegions => {
                grpc::answer(&self.split_and_scatter_regions(decode(message)?).await?)
            }
            Method::GetOperator => self.answer(message, Self::get_operator),
            Method::GetGcSafePoint => self.answer(message, Self::get_gc_safe_point),
            Method::UpdateGcSafePoint => grpc::answer(&self.update_gc_safe_point(decode(message)?).await?),
            Method::UpdateServiceGcSafePoint => {
                grpc::answer(&self.update_service_gc_safe_point(decode(message)?).await?)
            }
            Method::GetGcState => self.answer(message, Self::get_gc_state),
            Method::LoadKeyspace => grpc::answer(&self.load_keyspace(decode(message)?).await?),
            Method::HealthCheck => grpc::answer(&self.health.check(&decode(message)?, &[SERVICE])),
            Method::MetaStorageGet => grpc::answer(&self.meta_storage_get()),
            Method::MemberList => grpc::answer(&self.member_list()),
            Method::Range => grpc::answer(&self.range(&decode(message)?)),
            Method::Join => grpc::answer(&self.join(decode(message)?).await?),
            Method::Report => grpc::answer(&self.report(decode(message)?).await?),
            Method::Locate => self.answer(message, Self::locate),
            Method::Operate => grpc::answer(&self.operate(decode(message)?).await?),
            Method::Operators => self.answer(message, Self::operators),
            Method::CancelOperator => self.answer(message, Self::cancel_operator),
            Method::Stores => self.answer(message, Self::stores),
            Method::RemoveStore => grpc::answer(&self.remove_store(&decode(message)?).await?),
            Method::MayRemoveStore => grpc::answer(&self.may_remove_store(&decode(message)?).await?),
            Method::KeepStore => grpc::answer(&self.keep_store(&decode(message)?).await?),
            Method::Hosted => {
                Err(Status::new(Code::Unimplemented, "this is said to a port, which answers itself"))
            }
            Method::Evict => grpc::answer(&self.evict(&decode(message)?).await?),
            Method::Config => self.answer(message, Self::config),
            Method::SetConfig => grpc::answer(&self.set_config(&decode(message)?).await?),
            Method::SetPolicy => grpc::answer(&self.set_policy(&decode(message)?).await?),
            Method::Regions => grpc::answer(&self.regions(decode(message)?).await?),
            Method::Why => self.answer(message, Self::why),
            Method::Cluster => grpc::answer(&self.cluster().await),
            Method::RegionMap => grpc::answer(&self.region_map(decode(message)?).await),
            Method::Heat => self.answer(message, Self::heat),
            Method::Forward => grpc::answer(&self.forwarded(decode(message)?).await?),
            Method::Tso
            | Method::QueryRegion
            | Method::RegionHeartbeat
            | Method::HealthWatch
            | Method::Reflection => Err(Status::new(Code::Internal, "this method is a stream")),
        }
    }

    async fn bidi(&self, method: Method, inbox: &mut Inbox, outbox: &mut CallOutbox) -> Result<(), Status> {
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
            Method::GetMembers
            | Method::GetClusterInfo
            | Method::GetClusterConfig
            | Method::GetRegion
            | Method::GetPrevRegion
            | Method::GetRegionById
            | Method::ScanRegions
            | Method::BatchScanRegions
            | Method::GetStore
            | Method::GetAllStores
            | Method::IsBootstrapped
            | Method::Bootstrap
            | Method::AllocId
            | Method::PutStore
            | Method::StoreHeartbeat
            | Method::AskSplit
            | Method::AskBatchSplit
            | Method::ReportBatchSplit
            | Method::ScatterRegion
            | Method::SplitRegions
            | Method::SplitAndScatterRegions
            | Method::GetOperator
            | Method::GetGcSafePoint
            | Method::UpdateGcSafePoint
            | Method::UpdateServiceGcSafePoint
            | Method::GetGcState
            | Method::LoadKeyspace
            | Method::HealthCheck
            | Method::MetaStorageGet
            | Method::MemberList
            | Method::Range
            | Method::Join
            | Method::Report
            | Method::Locate
            | Method::Operate
            | Method::Operators
            | Method::CancelOperator
            | Method::Stores
            | Method::RemoveStore
            | Method::MayRemoveStore
            | Method::KeepStore
            | Method::Hosted
            | Method::Evict
            | Method::Config
            | Method::SetConfig
            | Method::SetPolicy
            | Method::Regions
            | Method::Why
            | Method::Cluster
            | Method::RegionMap
            | Method::Heat
            | Method::Forward => Err(Status::new(Code::Internal, "this method is not a stream")),
        }
    }
}

impl Pd {
    /// A unary call that needs no other node: decode, ask, frame.
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

/// Maximum length of a message that names no more than a range of keys, bytes. Keys have up to 8 KiB.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Keys, ids or reports of one request.
const ITEMS_MAX: usize = 64 << 10;

fn decode<Q: Message + Name + Default>(message: Bytes) -> Result<Q, Status> {
    grpc::bound_items::<Q>(&message, ITEMS_MAX)?;
    Q::decode(message).map_err(|error| Status::invalid(format!("the request cannot be decoded: {error}")))
}

fn denied(denied: Denied) -> Status {
    let code = match denied {
        Denied::Unavailable(_) => Code::Unavailable,
        Denied::BadCount { .. } | Denied::Setting(_) | Denied::UnknownPolicy(_) | Denied::InKeyspace(_) => {
            Code::InvalidArgument
        }
        Denied::Refused(_) | Denied::KeepsState(_) | Denied::Unproven(_) | Denied::NotAdmitted(_) => {
            Code::FailedPrecondition
        }
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
