//! The scheduler as a node calls it that does not host it: over gRPC, because the scheduler's port is the address that operators give and
//! clients know, and because its server has bounds, deadlines and counts already; messages between stores need a store on both sides, and
//! a node that joins has none.
//!
//! One connection is kept while it works. A call goes to the known [`Places`] in turn, wrapped so that only the node answers that hosts
//! the scheduler and no other sends it on; what that one refuses is final, what none answers is not. The node that has answered is asked
//! first the next time, and one that has not is asked last.

use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use scheduler::{NewRegion, NodeId, PeerId, Region, RegionId, StoreId};

use super::join::NODE_LABEL;
use super::tried::{Elsewhere, Tried, not_proved};
use super::{beats, locate, members};
use crate::control::locate::Regions;
use crate::control::{Beat, BeatAnswer};
use crate::secret::ClusterSecret;
use crate::wire::grpc::client::{Client, WINDOW_BYTES};
use crate::wire::grpc::{Code, Status};
use crate::wire::peer::hello::{VERSION, VERSION_MIN};
use crate::wire::proto::pdpb::{self, ErrorType};
use crate::wire::proto::{metapb, ringkeep};

pub use super::tried::{CallError, NOT_HOSTED};

/// The method by which calls are sent on.
pub(super) const FORWARD: &str = "/ringkeep.Scheduler/Forward";
/// The method by which nodes hear where the scheduler is.
pub(super) const HOSTED: &str = "/ringkeep.Scheduler/Hosted";
/// How long connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long an answer may take. A host whose machine is gone says nothing at all, and another one leads soon.
const ANSWER_MAX: Duration = Duration::from_millis(1500);
/// How long one may take for which a store is dialled back, or a region is cut.
const WAITED_MAX: Duration = Duration::from_secs(10);
/// The call that waits for a store.
const PUT_STORE: &str = "/pdpb.PD/PutStore";
/// Calls that are answered once something is done which takes a while.
const WAITED_FOR: [&str; 4] = [
    PUT_STORE,
    "/keyspacepb.Keyspace/LoadKeyspace",
    "/pdpb.PD/SplitRegions",
    "/pdpb.PD/SplitAndScatterRegions",
];
/// Places that are remembered.
const PLACES_MAX: usize = 64;
/// What stands before a message of a call: whether it is compressed, and its length.
const FRAME_BYTES: usize = 5;

/// What a node that joins is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The cluster.
    pub cluster: u64,
    /// The node's id; 0 if it only looked for the scheduler.
    pub node: u64,
    /// The id of its first store; the others have those that follow.
    pub first_store: u64,
    /// Where the scheduler is reached.
    pub schedulers: Vec<SocketAddr>,
}

/// What registering a store has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// The cluster has it as it describes itself.
    InUse,
    /// It was taken out of use for good: nothing is on it, and nothing comes back to it.
    OutOfUse,
}

/// Where the scheduler may be, the likeliest first: `HOST:PORT` of PD ports. Shared by the clients of a core.
#[derive(Clone, Debug, Default)]
pub struct Places(Rc<RefCell<Vec<String>>>);

impl Places {
    /// These, in this order.
    pub fn new(addresses: impl IntoIterator<Item = String>) -> Self {
        let places = Self::default();
        addresses.into_iter().for_each(|address| places.learn(&address));
        places
    }

    /// All of them, in the order in which they are asked.
    pub fn list(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    /// Whether it is asked first.
    fn is_first(&self, address: &str) -> bool {
        self.0.borrow().first().is_some_and(|first| first == address)
    }

    /// The scheduler may be there, too.
    pub fn learn(&self, address: &str) {
        let mut places = self.0.borrow_mut();
        if places.iter().any(|known| known == address) {
            return;
        }
        if places.len() >= PLACES_MAX {
            places.pop();
        }
        places.push(address.to_owned());
    }

    /// It is there.
    pub fn prefer(&self, address: &str) {
        self.move_to(address, 0);
    }

    /// It was not there, or nothing answers there.
    fn demote(&self, address: &str) {
        self.move_to(address, PLACES_MAX);
    }

    fn move_to(&self, address: &str, place: usize) {
        self.learn(address);
        let mut places = self.0.borrow_mut();
        if let Some(at) = places.iter().position(|known| known == address) {
            let address = places.remove(at);
            let place = place.min(places.len());
            places.insert(place, address);
        }
    }
}

/// Calls of one core.
pub struct SchedulerClient {
    rt: Rt,
    places: Places,
    /// Whether any member may be asked, which sends on what it does not host; else only the host answers.
    any_member: bool,
    /// What is proved to whoever is asked, and wanted of it; nothing where none is set.
    secret: Option<ClusterSecret>,
    /// With the place that it leads to.
    connection: RefCell<Option<(String, Client)>>,
}

impl fmt::Debug for SchedulerClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the scheduler at {:?}", self.places.list())
    }
}

impl SchedulerClient {
    /// For the scheduler at one of `places`.
    pub fn new(rt: &Rt, places: Places, secret: Option<ClusterSecret>) -> Self {
        Self { rt: rt.clone(), places, any_member: false, secret, connection: RefCell::default() }
    }

    /// By way of the members at `places`, each of which sends on what it does not host itself.
    pub fn by_way_of(
        rt: &Rt,
        members: impl IntoIterator<Item = SocketAddr>,
        secret: Option<ClusterSecret>,
    ) -> Self {
        let places = Places::new(members.into_iter().map(|member| member.to_string()));
        Self { any_member: true, ..Self::new(rt, places, secret) }
    }

    /// Asks any member for ids for a node with `stores` stores at `addresses`. A node that is of `cluster` already (not 0) only asks where
    /// the scheduler is.
    ///
    /// # Errors
    /// Why the node may not join, or that no member answers.
    pub async fn join(
        rt: &Rt,
        (members, secret): (&[SocketAddr], Option<ClusterSecret>),
        stores: usize,
        addresses: Vec<String>,
        cluster: u64,
    ) -> Result<Joined, CallError> {
        let request = ringkeep::JoinRequest {
            version: VERSION,
            version_min: VERSION_MIN,
            stores: u32::try_from(stores).unwrap_or(u32::MAX),
            addresses,
            cluster_id: cluster,
        };
        let client = Self::by_way_of(rt, members.iter().copied(), secret);
        let (answer, by) = client
            .call_any::<ringkeep::JoinResponse>("/ringkeep.Scheduler/Join", &request, WAITED_MAX)
            .await?;
        let ringkeep::JoinResponse { cluster_id, node, first_store, schedulers } = answer;
        let mut schedulers: Vec<SocketAddr> =
            schedulers.iter().filter_map(|address| address.parse().ok()).collect();
        if schedulers.is_empty() {
            // It is announced by a name; the member that was asked knows the way.
            schedulers.push(by);
        }
        Ok(Joined { cluster: cluster_id, node, first_store, schedulers })
    }

    /// Enters a store, or notes that it moved. The scheduler dials it back.
    ///
    /// # Errors
    /// Why it is not entered, other than that it was taken out of use for good.
    pub async fn put_store(
        &self,
        cluster_id: u64,
        store: StoreId,
        node: NodeId,
        address: String,
    ) -> Result<Registered, CallError> {
        let label = metapb::StoreLabel { key: NODE_LABEL.to_owned(), value: node.0.to_string() };
        let store = metapb::Store { id: store.0, address, labels: vec![label], ..metapb::Store::default() };
        let header = Some(pdpb::RequestHeader { cluster_id, sender_id: 0 });
        let request = pdpb::PutStoreRequest { header, store: Some(store) };
        let pdpb::PutStoreResponse { header } = self.call(PUT_STORE, &request).await?;
        match header.and_then(|header| header.error) {
            None => Ok(Registered::InUse),
            Some(error) if error.r#type() == ErrorType::StoreTombstone => Ok(Registered::OutOfUse),
            Some(error) => Err(CallError::Refused(Status::new(Code::FailedPrecondition, error.message))),
        }
    }

    /// Reports what a core of the node says whose PD port is at `place`, and returns what the scheduler answers.
    ///
    /// # Errors
    /// Nothing of the beat counts. [`Code::NotFound`] if a store of it has not joined.
    pub async fn report(
        &self,
        cluster: u64,
        node: NodeId,
        place: &str,
        beat: &Beat,
    ) -> Result<BeatAnswer, CallError> {
        let request = beats::report(cluster, node, place, beat);
        let response = self.call::<ringkeep::ReportResponse>("/ringkeep.Scheduler/Report", &request).await?;
        beats::beat_answer(response).map_err(|what| CallError::Refused(Status::new(Code::Internal, what)))
    }

    /// Asks where `key` is, and up to `limit` regions from there on.
    ///
    /// # Errors
    /// If the scheduler does not answer, or not as it should.
    pub async fn locate(&self, cluster_id: u64, key: Vec<u8>, limit: usize) -> Result<Regions, CallError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let request = ringkeep::LocateRequest { cluster_id, key: key.into(), limit };
        let response = self.call::<ringkeep::LocateResponse>("/ringkeep.Scheduler/Locate", &request).await?;
        locate::regions(response).map_err(|what| CallError::Refused(Status::new(Code::Internal, what)))
    }

    /// Asks for ids for `count` parts that are to be cut off a region.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn parts(
        &self,
        cluster_id: u64,
        region: &Region,
        count: u32,
    ) -> Result<Vec<NewRegion>, CallError> {
        let header = Some(pdpb::RequestHeader { cluster_id, sender_id: 0 });
        let region = Some(metapb::Region::from(region));
        let request = pdpb::AskBatchSplitRequest { header, region, split_count: count };
        let pdpb::AskBatchSplitResponse { header, ids } =
            self.call("/pdpb.PD/AskBatchSplit", &request).await?;
        if let Some(error) = header.and_then(|header| header.error) {
            return Err(CallError::Refused(Status::new(Code::FailedPrecondition, error.message)));
        }
        let part = |pdpb::SplitId { new_region_id, new_peer_ids }| NewRegion {
            region: RegionId(new_region_id),
            peers: new_peer_ids.into_iter().map(PeerId).collect(),
        };
        Ok(ids.into_iter().map(part).collect())
    }

    /// Sends a call on as a client has made it here, and returns the framed message that answers it.
    ///
    /// # Errors
    /// What the scheduler refuses it with; unavailable if it does not answer.
    pub async fn forward(&self, path: &str, message: Bytes) -> Result<Bytes, Status> {
        match self.send(path, message).await {
            Ok(message) => Ok(message),
            // It is this node that is refused, and not whoever has called it.
            Err(CallError::Refused(Status { code: Code::Unauthenticated, message: why })) => {
                let message =
                    format!("the host of the scheduler refuses this node, to which the call came: {why}");
                Err(Status::new(Code::Unavailable, message))
            }
            Err(CallError::Refused(status)) => Err(status),
            Err(CallError::NoHost(why) | CallError::Unreachable(why)) => {
                let message = format!("{NOT_HOSTED}, which does not answer: {why}");
                Err(Status::new(Code::Unavailable, message))
            }
        }
    }

    /// Says to the node that serves the PD API at `to` that the scheduler of `cluster` is hosted at `place`.
    ///
    /// # Errors
    /// Why it has not heard that.
    pub async fn announce(
        rt: &Rt,
        (cluster_id, secret): (u64, Option<ClusterSecret>),
        place: String,
        to: String,
    ) -> Result<(), CallError> {
        let client = Self::new(rt, Places::new([to]), secret);
        let request = ringkeep::HostedRequest { cluster_id, place };
        client.call_any::<ringkeep::HostedResponse>(HOSTED, &request, ANSWER_MAX).await.map(drop)
    }

    /// Any other call.
    ///
    /// # Errors
    /// Why it came to nothing.
    pub async fn call<A: prost::Message + Default>(
        &self,
        path: &str,
        request: &impl prost::Message,
    ) -> Result<A, CallError> {
        if self.any_member {
            return self.call_any(path, request, WAITED_MAX).await.map(|(answer, _)| answer);
        }
        let framed = self.send(path, request.encode_to_vec().into()).await?;
        let garbled = |what: String| CallError::Refused(Status::new(Code::Internal, what));
        let message =
            framed.get(FRAME_BYTES..).ok_or_else(|| garbled("the answer has no frame".to_owned()))?;
        A::decode(message).map_err(|error| garbled(format!("the answer cannot be decoded: {error}")))
    }

    async fn send(&self, path: &str, message: Bytes) -> Result<Bytes, CallError> {
        let most = if WAITED_FOR.contains(&path) { WAITED_MAX } else { ANSWER_MAX };
        let request = ringkeep::ForwardRequest { path: path.to_owned(), message };
        let (answer, _) = self.call_any::<ringkeep::ForwardResponse>(FORWARD, &request, most).await?;
        Ok(answer.message)
    }

    /// The answer, and who gave it.
    async fn call_any<A: prost::Message + Default>(
        &self,
        path: &str,
        request: &impl prost::Message,
        most: Duration,
    ) -> Result<(A, SocketAddr), CallError> {
        let mut tried = Tried::default();
        // Calls that are made at the same time share it. Where another client of this core has found the scheduler elsewhere, or has not
        // been answered, it is worth nothing: those who call here may leave before they have waited for as long.
        self.connection.borrow_mut().take_if(|(kept, _)| !self.places.is_first(kept));
        let kept = self.connection.borrow().clone();
        if let Some((place, client)) = kept {
            match self.ask(&client, path, request, most).await? {
                Ok(answer) => return Ok((answer, client.addr())),
                Err(why) => tried.note(&format!("{place}, over the connection in use"), why),
            }
            self.connection.borrow_mut().take_if(|(kept, _)| *kept == place);
            self.places.demote(&place);
        }
        for place in self.places.list() {
            match self.ask_at(&place, path, request, most).await? {
                Ok((answer, client)) => {
                    let addr = client.addr();
                    self.places.prefer(&place);
                    *self.connection.borrow_mut() = Some((place, client));
                    return Ok((answer, addr));
                }
                Err(why) => {
                    tried.note(&place, why);
                    self.places.demote(&place);
                }
            }
        }
        Err(tried.error())
    }

    /// Connects, and proves the secret, if there is one.
    async fn connect(&self, addr: SocketAddr) -> Result<Client, Elsewhere> {
        let Some(secret) = &self.secret else {
            return Client::connect(&self.rt, addr).await.map_err(Elsewhere::io);
        };
        let mut stream = self.rt.connect(addr).await.map_err(Elsewhere::io)?;
        let early = members::prove(&self.rt, &mut stream, secret).await.map_err(not_proved)?;
        Client::over(&self.rt, stream, early, (addr, WINDOW_BYTES)).await.map_err(Elsewhere::io)
    }

    /// One call over a new connection to a place, whose name is resolved first.
    async fn ask_at<A: prost::Message + Default>(
        &self,
        place: &str,
        path: &str,
        request: &impl prost::Message,
        most: Duration,
    ) -> Result<Result<(A, Client), Elsewhere>, CallError> {
        let addrs = match self.rt.timeout(CONNECT_MAX, self.rt.resolve(place)).await {
            Some(Ok(addrs)) => addrs,
            Some(Err(error)) => return Ok(Err(Elsewhere::io(error))),
            None => return Ok(Err(Elsewhere::Unreached("its name is not resolved in time".to_owned()))),
        };
        let mut why = Elsewhere::Unreached(String::new());
        for addr in addrs {
            match self.rt.timeout(CONNECT_MAX, self.connect(addr)).await {
                Some(Ok(client)) => match self.ask(&client, path, request, most).await? {
                    Ok(answer) => return Ok(Ok((answer, client))),
                    Err(reason) => why = reason,
                },
                Some(Err(reason)) => why = reason,
                None => {
                    let seconds = CONNECT_MAX.as_secs();
                    why = Elsewhere::Unreached(format!(
                        "it takes no connection, or does not answer on it, within {seconds} s"
                    ));
                }
            }
        }
        Ok(Err(why))
    }

    /// One call over one connection: the answer, or why another address may be tried.
    async fn ask<A: prost::Message + Default>(
        &self,
        client: &Client,
        path: &str,
        request: &impl prost::Message,
        most: Duration,
    ) -> Result<Result<A, Elsewhere>, CallError> {
        let Some(answered) = self.rt.timeout(most, client.unary(path, request)).await else {
            let why = format!("it does not answer within {} ms", most.as_millis());
            return Ok(Err(Elsewhere::Unreached(why)));
        };
        match answered {
            Ok(answer) => Ok(Ok(answer)),
            Err(status) => match status.code {
                Code::Unavailable if status.message.contains(NOT_HOSTED) => {
                    Ok(Err(Elsewhere::NotHost(status.message)))
                }
                Code::Unavailable
                | Code::Cancelled
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::Internal => Ok(Err(Elsewhere::Unreached(status.message))),
                Code::Unauthenticated => Ok(Err(Elsewhere::Unproven(status.message))),
                Code::Ok
                | Code::Unknown
                | Code::InvalidArgument
                | Code::NotFound
                | Code::PermissionDenied
                | Code::FailedPrecondition
                | Code::Unimplemented => Err(CallError::Refused(status)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_answered_is_asked_first_and_who_has_not_is_asked_last() {
        let places = Places::new(["a:1", "b:1", "c:1", "a:1"].map(str::to_owned));
        assert_eq!(places.list(), ["a:1", "b:1", "c:1"], "each once");
        places.demote("a:1");
        assert_eq!(places.list(), ["b:1", "c:1", "a:1"]);
        places.prefer("c:1");
        assert_eq!(places.list(), ["c:1", "b:1", "a:1"]);
        places.prefer("d:1");
        places.learn("b:1");
        assert_eq!(places.list(), ["d:1", "c:1", "b:1", "a:1"], "what is known keeps its place");
        (0..2 * PLACES_MAX).for_each(|port| places.learn(&format!("e:{port}")));
        assert_eq!(places.list().len(), PLACES_MAX);
        assert_eq!(places.list()[0], "d:1", "those that fail make room");
    }
}
