//! The PD port of a node: it is served alike wherever the scheduler is.
//!
//! While this node hosts the scheduler, calls are answered by [`Pd`]; else each is sent on to the node that does. Which of the two it is
//! may change between two messages of a stream. So any member may be named to a node that joins and to a client. Clients that ask who the
//! members are hear the scheduler's own answer, and go there; those that do not are served all the same, one hop later. What is about this
//! node is answered here: its health, and what its port serves.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use engine::rt::Mono;
use prost::Message as _;

use super::client::{NOT_HOSTED, Places, SchedulerClient};
use super::{Method, Pd, SERVICE, SERVICES, decode};
use crate::plant::{Bug, planted};
use crate::wire::grpc::{CallOutbox, CallShape, Code, Inbox, Service, Status};
use crate::wire::health::HealthService;
use crate::wire::peer::book::is_address;
use crate::wire::proto::ringkeep;
use crate::wire::reflection;

/// Knows whether this node hosts the scheduler.
pub trait Hosts: fmt::Debug {
    /// The scheduler, if it is hosted here now.
    fn hosted(&self) -> Option<Pd>;
}

/// The service, on the root core.
#[derive(Clone, Debug)]
pub struct Port {
    cluster: u64,
    here: Rc<dyn Hosts>,
    places: Places,
    client: Rc<SchedulerClient>,
    health: HealthService,
}

impl Port {
    /// For a member of `cluster`; where `here` does not host the scheduler, it is at one of `places`, which `client` asks.
    pub fn new(
        cluster: u64,
        here: Rc<dyn Hosts>,
        places: Places,
        client: Rc<SchedulerClient>,
        health: HealthService,
    ) -> Self {
        Self { cluster, here, places, client, health }
    }

    /// Where the scheduler is thought to be, if it is not hosted here.
    pub(super) fn elsewhere(&self) -> Option<Vec<String>> {
        self.here.hosted().is_none().then(|| self.places.list())
    }

    /// A call that was sent here by a node that takes this one for the scheduler's.
    fn not_here(&self) -> Status {
        let message = format!("{NOT_HOSTED}; ask {}", self.places.list().join(" or "));
        Status::new(Code::Unavailable, message)
    }

    /// Another node hosts the scheduler and has not heard this one, which may know of no place where it is.
    fn hosted_elsewhere(&self, message: Bytes) -> Result<Bytes, Status> {
        let ringkeep::HostedRequest { cluster_id, place } = decode(message)?;
        if cluster_id != self.cluster {
            return Err(super::nodes::other_cluster(cluster_id, self.cluster));
        }
        if !is_address(&place) {
            return Err(Status::invalid(format!("\"{place}\" is not an address; give HOST:PORT")));
        }
        if !planted(Bug::HostNotHeard) {
            self.places.prefer(&place);
        }
        super::grpc::answer(&ringkeep::HostedResponse {})
    }

    /// A node of another cluster is refused whether the scheduler answers or not.
    fn check_join(&self, message: &Bytes) -> Result<(), Status> {
        let asked: ringkeep::JoinRequest = decode(message.clone())?;
        match asked.cluster_id != 0 && asked.cluster_id != self.cluster {
            true => Err(super::nodes::other_cluster(asked.cluster_id, self.cluster)),
            false => Ok(()),
        }
    }
}

impl Service for Port {
    type Method = Method;

    fn method(&self, path: &str) -> Option<(Method, CallShape)> {
        Method::of(path)
    }

    fn message_bytes_max(&self, method: Method) -> Option<usize> {
        method.message_bytes_max()
    }

    fn is_for_members(&self, method: Method) -> bool {
        method.is_for_members() && !(planted(Bug::MethodOpen) && method == Method::Hosted)
    }

    /// What changes the configuration is kept with who asked for it. A call that is sent on has that from the port that it came to first.
    fn called(&self, method: Method, message: Bytes, from: SocketAddr) -> Bytes {
        if !matches!(method, Method::SetConfig | Method::SetPolicy) {
            return message;
        }
        let by = ringkeep::Called { by: from.to_string() }.encode_to_vec();
        // Of a field that is there twice the last one counts.
        [&message[..], &by].concat().into()
    }

    async fn unary(&self, method: Method, message: Bytes, deadline: Option<Mono>) -> Result<Bytes, Status> {
        if method == Method::HealthCheck {
            return super::grpc::answer(&self.health.check(&decode(message)?, &[SERVICE]));
        }
        if method == Method::Hosted {
            return self.hosted_elsewhere(message);
        }
        if method == Method::Join {
            self.check_join(&message)?;
        }
        match self.here.hosted() {
            Some(pd) => pd.unary(method, message, deadline).await,
            None if method == Method::Forward => Err(self.not_here()),
            None => self.client.forward(method.path(), message).await,
        }
    }

    async fn bidi(&self, method: Method, inbox: &mut Inbox, outbox: &mut CallOutbox) -> Result<(), Status> {
        match method {
            Method::HealthWatch => self.health.watch(inbox, outbox, &[SERVICE]).await,
            Method::Reflection => reflection::serve(inbox, outbox, &SERVICES).await,
            method => {
                while let Some(message) = inbox.next().await? {
                    let answer = match self.here.hosted() {
                        Some(pd) => pd.once(method, message.bytes).await?,
                        None => self.client.forward(method.path(), message.bytes).await?,
                    };
                    outbox.send(answer).await?;
                }
                Ok(())
            }
        }
    }
}
