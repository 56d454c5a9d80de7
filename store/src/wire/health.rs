//! The standard health service. Clients ask it on a fresh connection, and a store that does not say SERVING within a second
//! counts as gone; or they watch it, and hear of every change until the server drains.
//!
//! Two things decide, and neither undoes the other: whether the server serves, and whether the cluster has the store behind it in use.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use prost::Message;

use super::grpc::{CallOutbox, Code, Inbox, Status, Waiters, answer};
use super::proto::health::health_check_response::ServingStatus;
use super::proto::health::{HealthCheckRequest, HealthCheckResponse};

/// Asks once.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";
/// Asks for the state now and for every change.
pub const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Whether a server wants calls. Clones share the answer; stays on its core.
#[derive(Clone, Debug)]
pub struct HealthService(Rc<State>);

#[derive(Debug)]
struct State {
    serving: Cell<bool>,
    in_use: Cell<bool>,
    watchers: Rc<Waiters>,
}

impl Default for HealthService {
    fn default() -> Self {
        Self(Rc::new(State { serving: Cell::new(true), in_use: Cell::new(true), watchers: Rc::default() }))
    }
}

impl HealthService {
    /// Says from now on whether the server wants calls, for example no more once it drains or its disk has failed.
    pub fn set_serving(&self, serving: bool) {
        if self.0.serving.replace(serving) != serving {
            self.0.watchers.wake_all();
        }
    }

    /// Says from now on whether the cluster has the store behind the server in use. One that is out of use, or that another one has taken
    /// the place of, is reached by its port, and no client should go there.
    pub fn set_in_use(&self, in_use: bool) {
        if self.0.in_use.replace(in_use) != in_use {
            self.0.watchers.wake_all();
        }
    }

    /// Whether the server wants calls.
    pub fn is_serving(&self) -> bool {
        self.0.serving.get() && self.0.in_use.get()
    }

    /// Answers a check of the whole server or of one of its `services`.
    pub(crate) fn check(&self, request: &HealthCheckRequest, services: &[&str]) -> HealthCheckResponse {
        let known = request.service.is_empty() || services.contains(&request.service.as_str());
        let status = match (known, self.is_serving()) {
            (false, _) => ServingStatus::ServiceUnknown,
            (true, true) => ServingStatus::Serving,
            (true, false) => ServingStatus::NotServing,
        };
        HealthCheckResponse { status: status.into() }
    }

    /// Answers a watch: the state now, then every change that is seen, until the server drains.
    pub(crate) async fn watch(
        &self,
        inbox: &mut Inbox,
        outbox: &mut CallOutbox,
        services: &[&str],
    ) -> Result<(), Status> {
        let Some(message) = inbox.next().await? else {
            return Err(Status::invalid("a watch begins with one request, and none came"));
        };
        let request = HealthCheckRequest::decode(message.bytes)
            .map_err(|error| Status::invalid(format!("the request cannot be decoded: {error}")))?;
        let watcher = self.0.watchers.join();
        let mut sent = None;
        loop {
            let now = self.check(&request, services);
            if sent.as_ref() != Some(&now) {
                outbox.send(answer(&now)?).await?;
                sent = Some(now);
                continue;
            }
            let drains = poll_fn(|cx| {
                if sent.as_ref() != Some(&self.check(&request, services)) {
                    return Poll::Ready(false);
                }
                watcher.wait(cx);
                inbox.poll_drains(cx).map(|()| true)
            });
            if drains.await {
                return Err(Status::new(Code::Unavailable, "the server is stopping; watch another one"));
            }
        }
    }
}
