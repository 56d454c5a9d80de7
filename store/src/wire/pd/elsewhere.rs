//! The port of a node that does not host the scheduler: it is served as by the one that does, because every call is sent on.
//!
//! So any member may be named to a node that joins and to a client. Clients that ask who the members are hear the scheduler's own answer,
//! and go there; those that do not are served all the same, one hop later. Each message of a stream is sent on by itself, in order. What
//! is about this node is answered here: its health, what its port serves, and to a node that joins where the scheduler is.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use engine::rt::Mono;

use super::client::SchedulerClient;
use super::{Method, SERVICE, SERVICES, decode};
use crate::wire::grpc::{self, Code, Inbox, Outbox, Service, Shape, Status};
use crate::wire::health::Health;
use crate::wire::proto::ringkeep;
use crate::wire::reflection;

/// The service, on the root core.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    cluster: u64,
    schedulers: Vec<SocketAddr>,
    client: Rc<SchedulerClient>,
    health: Health,
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

    /// A call that was sent here by a node that takes this one for the scheduler's.
    fn not_here(&self) -> Status {
        let places: Vec<String> = self.schedulers.iter().map(SocketAddr::to_string).collect();
        let message = format!("this node does not host the scheduler; ask {}", places.join(" or "));
        Status::new(Code::Unavailable, message)
    }
}

impl Service for Elsewhere {
    type Method = Method;

    fn method(&self, path: &str) -> Option<(Method, Shape)> {
        Method::of(path)
    }

    fn message_bytes_max(&self, method: Method) -> Option<usize> {
        (method == Method::Reflection).then_some(reflection::MESSAGE_BYTES_MAX)
    }

    async fn unary(&self, method: Method, message: Bytes, _: Option<Mono>) -> Result<Bytes, Status> {
        match method {
            Method::Join => grpc::answer(&self.join(&decode(message)?)?),
            Method::HealthCheck => grpc::answer(&self.health.check(&decode(message)?, &[SERVICE])),
            Method::Forward => Err(self.not_here()),
            method => self.client.forward(method.path(), message).await,
        }
    }

    async fn bidi(&self, method: Method, inbox: &mut Inbox, outbox: &mut Outbox) -> Result<(), Status> {
        match method {
            Method::HealthWatch => self.health.watch(inbox, outbox, &[SERVICE]).await,
            Method::Reflection => reflection::serve(inbox, outbox, &SERVICES).await,
            method => {
                while let Some(message) = inbox.next().await? {
                    outbox.send(self.client.forward(method.path(), message.bytes).await?).await?;
                }
                Ok(())
            }
        }
    }
}
