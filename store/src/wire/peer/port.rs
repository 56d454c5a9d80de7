//! Connections of other stores as the port of a store takes them in, beside those of gRPC.
//!
//! A connection lives as long as the store: longer than a drain of gRPC, because what clients still wait for may need a quorum. What is
//! refused is counted, and said with its reason, but not more often than [`Notice`] allows.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;

use engine::rt::Stream;
use engine::rt::local::{Bell, Pending, oneshot};
use futures_util::future::{Either, select};

use super::inbound::Inbound;
use super::link::LinkError;
use super::messages::MessageBatch;
use super::notice::Notice;
use super::open::{Begins, PREFACE_BYTES, Purpose};
use super::take;
use crate::request::{Op, Outcome, Route};
use crate::shard::Shard;
use crate::shard::reply::Reply;
use crate::wire::grpc::Guest;

/// Connections at a time; one more is closed at once. Each store of the cluster that shares regions has one of each kind, and each core of
/// the other nodes one for requests.
const CONNECTIONS_MAX: usize = 1024;

/// The accepting side of a store on its port.
#[derive(Debug)]
pub struct PeerPort {
    inbound: Inbound,
    shard: Shard,
    /// Each rings when its connection has to end.
    open: RefCell<BTreeMap<u64, Rc<Bell>>>,
    accepted: Cell<u64>,
    notice: Notice,
}

impl PeerPort {
    /// For a store; its connections end with it.
    pub fn new(inbound: Inbound, shard: Shard) -> Rc<Self> {
        let (open, accepted, notice) = (RefCell::default(), Cell::default(), Notice::default());
        let port = Rc::new(Self { inbound, shard, open, accepted, notice });
        let stopping = Rc::downgrade(&port);
        port.shard.on_stop(move || {
            if let Some(port) = stopping.upgrade() {
                port.open.borrow().values().for_each(|bell| bell.ring());
            }
        });
        port
    }

    /// Serves a connection, for as long as the store runs.
    async fn run(&self, stream: Stream, purpose: Purpose, early: &[u8]) {
        if self.open.borrow().len() >= CONNECTIONS_MAX || self.shard.stopped().is_some() {
            return self.inbound.counters.rejected.add(1);
        }
        let (number, bell) = (self.accepted.get(), Rc::new(Bell::default()));
        self.accepted.set(number + 1);
        self.open.borrow_mut().insert(number, bell.clone());
        let serving = async {
            match purpose {
                Purpose::Messages => {
                    let deliver = async |batch: MessageBatch| self.shard.receive(batch.messages).await;
                    self.inbound.serve(stream, early, deliver).await
                }
                Purpose::Requests => {
                    self.inbound.serve_requests(stream, early, |route, op| self.carry_out(route, op)).await
                }
                Purpose::Snapshot => take::serve(&self.inbound, &self.shard, stream, early).await,
            }
        };
        if let Either::Left((Err(error), _)) = select(pin!(serving), pin!(bell.wait())).await {
            self.say(&error);
        }
        self.open.borrow_mut().remove(&number);
    }

    /// Starts what another node asks of this store, with the checks that a client with a map passes.
    fn carry_out(&self, route: Route, op: Op) -> Pending<Outcome> {
        let (answer, pending) = oneshot();
        self.shard.submit(Some(route), op, Reply::local(answer));
        pending
    }

    fn say(&self, error: &LinkError) {
        let store = self.inbound.speaker.store.0;
        match error {
            // The other side went away, and comes again if it has something to say.
            LinkError::Io(_) | LinkError::Closed | LinkError::NoAddress => {
                tracing::debug!(store, %error, "a connection of a peer ended");
            }
            LinkError::Timeout
            | LinkError::BadFrame(_)
            | LinkError::Unexpected(_)
            | LinkError::BadRequests(_)
            | LinkError::Rejected(_)
            | LinkError::Refused(_)
            | LinkError::Unwanted(_) => {
                if let Some(unsaid) = self.notice.may_say(self.inbound.rt.now()) {
                    tracing::warn!(store, %error, unsaid, "a connection of a peer is refused");
                }
            }
        }
    }
}

impl Guest for PeerPort {
    fn is_meant(&self, first: &[u8]) -> Option<bool> {
        match Purpose::of(first) {
            Begins::With(_) => Some(true),
            Begins::Otherwise => Some(false),
            Begins::Unknown => None,
        }
    }

    fn serve(self: Rc<Self>, stream: Stream, early: Vec<u8>) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            let Begins::With(purpose) = Purpose::of(&early) else {
                unreachable!("the port hands over what is meant for it")
            };
            self.run(stream, purpose, &early[PREFACE_BYTES..]).await;
        })
    }
}
