//! The port of a node that does not host the scheduler: whoever asks here is sent on.
//!
//! So any member may be named to a node that joins and to a client. Clients ask first who the members are and go where the answer says;
//! that answer is the scheduler's own, fetched from it. Everything else is refused with the place where it is served.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use engine::rt::Mono;

use super::client::SchedulerClient;
use super::decode;
use crate::wire::grpc::{self, Code, Inbox, Outbox, Service, Shape, Status};
use crate::wire::health::{self, Health};
use crate::wire::proto::ringkeep;

/// The service, on the root core.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    cluster: u64,
    schedulers: Vec<SocketAddr>,
    client: Rc<SchedulerClient>,
    health: Health,
}

/// The methods that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Who the members are.
    GetMembers,
    /// A node wants to join.
    Join,
    /// Health.
    HealthCheck,
    /// Health, as a stream.
    HealthWatch,
    /// What only the scheduler answers.
    Elsewhere,
}

impl Elsewhere {
    /// For a member of `cluster`, whose scheduler is at one of `schedulers`.
    pub fn new(
        cluster: u64,
        schedulers: Vec<SocketAddr>,
        client: Rc<SchedulerClient>,
        health: Health,
    ) -> Self {
        Self { cluster, schedulers, client, health }
    }

    fn join(&self, request: &ringkeep::JoinRequest) -> Result<ringkeep::JoinResponse, Status> {
        if request.cluster_id != 0 && request.cluster_id != self.cluster {
            return Err(super::nodes::other_cluster(request.cluster_id, self.cluster));
        }
        let schedulers = self.schedulers.iter().map(SocketAddr::to_string).collect();
        Ok(ringkeep::JoinResponse { cluster_id: self.cluster, node: 0, first_store: 0, schedulers })
    }

    fn elsewhere(&self) -> Status {
        let places: Vec<String> = self.schedulers.iter().map(SocketAddr::to_string).collect();
        let message = format!("this node does not host the scheduler; ask {}", places.join(" or "));
        Status::new(Code::Unavailable, message)
    }
}

impl Service for Elsewhere {
    type Method = Method;

    fn method(&self, path: &str) -> Option<(Method, Shape)> {
        match path {
            "/pdpb.PD/GetMembers" => Some((Method::GetMembers, Shape::Unary)),
            "/ringkeep.Scheduler/Join" => Some((Method::Join, Shape::Unary)),
            health::CHECK => Some((Method::HealthCheck, Shape::Unary)),
            health::WATCH => Some((Method::HealthWatch, Shape::Bidi)),
            "/pdpb.PD/Tso" | "/pdpb.PD/QueryRegion" | "/pdpb.PD/RegionHeartbeat" => {
                Some((Method::Elsewhere, Shape::Bidi))
            }
            path if path.starts_with("/pdpb.PD/") || path.starts_with("/ringkeep.Scheduler/") => {
                Some((Method::Elsewhere, Shape::Unary))
            }
            _ => None,
        }
    }

    async fn unary(&self, method: Method, message: Bytes, _: Option<Mono>) -> Result<Bytes, Status> {
        match method {
            Method::GetMembers => {
                let members = self.client.members().await;
                grpc::answer(&members.map_err(|error| Status::new(Code::Unavailable, error.to_string()))?)
            }
            Method::Join => grpc::answer(&self.join(&decode(message)?)?),
            Method::HealthCheck => grpc::answer(&self.health.check(&decode(message)?, &[super::SERVICE])),
            Method::Elsewhere => Err(self.elsewhere()),
            Method::HealthWatch => Err(Status::new(Code::Internal, "this method is a stream")),
        }
    }

    async fn bidi(&self, method: Method, inbox: &mut Inbox, outbox: &mut Outbox) -> Result<(), Status> {
        match method {
            Method::HealthWatch => self.health.watch(inbox, outbox, &[super::SERVICE]).await,
            Method::Elsewhere => {
                // A caller whose first message is not read may miss the status that ends the stream.
                inbox.next().await?;
                Err(self.elsewhere())
            }
            Method::GetMembers | Method::Join | Method::HealthCheck => {
                Err(Status::new(Code::Internal, "this method is not a stream"))
            }
        }
    }
}
