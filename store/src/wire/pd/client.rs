//! The scheduler as a node calls it that does not host it: over gRPC, because the scheduler's port is the address that operators give and
//! clients know, and because its server has bounds, deadlines and counts already; messages between stores need a store on both sides, and
//! a node that joins has none.
//!
//! One connection is kept while it works. A call goes to the known addresses in turn; what one of them refuses is final, what none
//! answers is not.

use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use scheduler::{NodeId, StoreId};

use super::join::NODE_LABEL;
use super::{beats, locate};
use crate::control::locate::Regions;
use crate::control::{Beat, BeatAnswer};
use crate::wire::grpc::client::Client;
use crate::wire::grpc::{Code, Status};
use crate::wire::peer::hello::{VERSION, VERSION_MIN};
use crate::wire::proto::{metapb, pdpb, ringkeep};

/// The method by which calls are sent on.
pub(super) const FORWARD: &str = "/ringkeep.Scheduler/Forward";
/// How long connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How long an answer may take: one that dials a store back waits for it.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How often a node that joins is sent on to another one.
const HOPS_MAX: usize = 3;

/// Why a call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The scheduler refuses it; the same call is refused again.
    Refused(Status),
    /// Nothing that was asked answers now; each address with its reason.
    Unreachable(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status) => f.write_str(&status.message),
            Self::Unreachable(why) => write!(f, "no member of the cluster answers: {why}"),
        }
    }
}

impl std::error::Error for CallError {}

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

/// Calls of one core.
pub struct SchedulerClient {
    rt: Rt,
    addrs: Vec<SocketAddr>,
    connection: RefCell<Option<Client>>,
}

impl fmt::Debug for SchedulerClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the scheduler at {:?}", self.addrs)
    }
}

impl SchedulerClient {
    /// For the scheduler at one of `addrs`.
    pub fn new(rt: &Rt, addrs: Vec<SocketAddr>) -> Self {
        Self { rt: rt.clone(), addrs, connection: RefCell::default() }
    }

    /// Asks any member for ids for a node with `stores` stores at `addresses`, and follows where it is sent. A node that is of `cluster`
    /// already (not 0) only asks where the scheduler is.
    ///
    /// # Errors
    /// Why the node may not join, or that no member answers.
    pub async fn join(
        rt: &Rt,
        members: &[SocketAddr],
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
        let mut asked = members.to_vec();
        for _ in 0..HOPS_MAX {
            let client = Self::new(rt, asked.clone());
            let (answer, by) =
                client.call_any::<ringkeep::JoinResponse>("/ringkeep.Scheduler/Join", &request).await?;
            let ringkeep::JoinResponse { cluster_id, node, first_store, schedulers } = answer;
            let mut schedulers: Vec<SocketAddr> =
                schedulers.iter().filter_map(|address| address.parse().ok()).collect();
            if node != 0 || cluster != 0 {
                if schedulers.is_empty() {
                    // It is announced by a name, and was reached here.
                    schedulers.push(by);
                }
                return Ok(Joined { cluster: cluster_id, node, first_store, schedulers });
            }
            asked = schedulers;
        }
        Err(CallError::Unreachable(format!(
            "{members:?} send on to each other, and none hosts the scheduler"
        )))
    }

    /// Enters a store, or notes that it moved. The scheduler dials it back.
    ///
    /// # Errors
    /// Why it is not entered.
    pub async fn put_store(
        &self,
        cluster_id: u64,
        store: StoreId,
        node: NodeId,
        address: String,
    ) -> Result<(), CallError> {
        let label = metapb::StoreLabel { key: NODE_LABEL.to_owned(), value: node.0.to_string() };
        let store = metapb::Store { id: store.0, address, labels: vec![label], ..metapb::Store::default() };
        let header = Some(pdpb::RequestHeader { cluster_id, sender_id: 0 });
        let request = pdpb::PutStoreRequest { header, store: Some(store) };
        self.call::<pdpb::PutStoreResponse>("/pdpb.PD/PutStore", &request).await.map(drop)
    }

    /// Reports what a core says, and returns what the scheduler answers.
    ///
    /// # Errors
    /// Nothing of the beat counts. [`Code::NotFound`] if a store of it has not joined.
    pub async fn report(&self, cluster: u64, node: NodeId, beat: &Beat) -> Result<BeatAnswer, CallError> {
        let request = beats::report(cluster, node, beat);
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

    /// Who the members are, as the scheduler says it.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn members(&self) -> Result<pdpb::GetMembersResponse, CallError> {
        self.call("/pdpb.PD/GetMembers", &pdpb::GetMembersRequest::default()).await
    }

    /// Sends a call on as a client has made it here, and returns the framed message that answers it.
    ///
    /// # Errors
    /// What the scheduler refuses it with; unavailable if it does not answer.
    pub async fn forward(&self, path: &str, message: Bytes) -> Result<Bytes, Status> {
        let request = ringkeep::ForwardRequest { path: path.to_owned(), message };
        match self.call::<ringkeep::ForwardResponse>(FORWARD, &request).await {
            Ok(ringkeep::ForwardResponse { message }) => Ok(message),
            Err(CallError::Refused(status)) => Err(status),
            Err(CallError::Unreachable(why)) => {
                let message = format!("this node does not host the scheduler, which does not answer: {why}");
                Err(Status::new(Code::Unavailable, message))
            }
        }
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
        self.call_any(path, request).await.map(|(answer, _)| answer)
    }

    /// The answer, and who gave it.
    async fn call_any<A: prost::Message + Default>(
        &self,
        path: &str,
        request: &impl prost::Message,
    ) -> Result<(A, SocketAddr), CallError> {
        let mut reasons = Vec::new();
        // Calls that are made at the same time share it.
        let kept = self.connection.borrow().clone();
        if let Some(client) = kept {
            match self.ask(&client, path, request).await? {
                Ok(answer) => return Ok((answer, client.addr())),
                Err(why) => reasons.push(format!("the connection in use: {why}")),
            }
            self.connection.borrow_mut().take();
        }
        for addr in &self.addrs {
            let client = match self.rt.timeout(CONNECT_MAX, Client::connect(&self.rt, *addr)).await {
                Some(Ok(client)) => client,
                Some(Err(error)) => {
                    reasons.push(format!("{addr}: {error}"));
                    continue;
                }
                None => {
                    reasons
                        .push(format!("{addr}: it takes no connection within {} s", CONNECT_MAX.as_secs()));
                    continue;
                }
            };
            match self.ask(&client, path, request).await? {
                Ok(answer) => return Ok((answer, self.keep(client))),
                Err(why) => reasons.push(format!("{addr}: {why}")),
            }
        }
        Err(CallError::Unreachable(reasons.join("; ")))
    }

    fn keep(&self, client: Client) -> SocketAddr {
        let addr = client.addr();
        *self.connection.borrow_mut() = Some(client);
        addr
    }

    /// One call over one connection: the answer, or why another address may be tried.
    async fn ask<A: prost::Message + Default>(
        &self,
        client: &Client,
        path: &str,
        request: &impl prost::Message,
    ) -> Result<Result<A, String>, CallError> {
        let Some(answered) = self.rt.timeout(ANSWER_MAX, client.unary(path, request)).await else {
            return Ok(Err(format!("it does not answer within {} s", ANSWER_MAX.as_secs())));
        };
        match answered {
            Ok(answer) => Ok(Ok(answer)),
            Err(status) => match status.code {
                Code::Unavailable
                | Code::Cancelled
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::Internal => Ok(Err(status.message)),
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
