//! Regions that are led on another node: what is asked of them here is sent there.
//!
//! A replica of this node that does not lead says which store does, and so does a store that was asked and leads no more; of regions
//! without a replica here the scheduler says where they are ([`super::locate`]). What was heard last is part of the routes, and makes
//! another place, so a write that goes another way than those before it waits for them as it does when a region moves
//! ([`super::order`]). Where no leader is known a replica of this node is asked again, or each replica elsewhere in turn, until one is known or
//! the deadline is over.
//!
//! Invariants: a request that was refused was not carried out, so it may be sent again; one whose outcome is unknown never is.

use std::fmt;
use std::rc::Rc;

use engine::rt::local::Answer;
use scheduler::{Peer, StoreId};

use super::dispatch::Dispatch;
use super::locate::{Locates, Questions};
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::request::{Op, Outcome, Route};
use crate::shard::routes::{Place, Source};

/// The way to stores of other nodes.
pub trait Asks: fmt::Debug {
    /// Sends a request to the store `to`; its outcome goes to `answer`, once.
    fn send(&self, to: StoreId, route: Route, op: Op, answer: Answer<Outcome>);

    /// What has become of requests.
    fn numbers(&self) -> RemoteNumbers;
}

/// What has become of requests to stores of other nodes, as plain numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteNumbers {
    /// With another node and not answered yet.
    pub in_flight: u64,
    /// Carried out there.
    pub done: u64,
    /// Refused there, because the region is another one now or is led elsewhere: they may be sent again.
    pub moved: u64,
    /// Refused there for another reason.
    pub refused: u64,
    /// Not sent, or without effect: the node was not reached or had too many of them.
    pub unreached: u64,
    /// Their outcome is not known.
    pub unknown: u64,
    /// Connections opened.
    pub connected: u64,
    /// Attempts to open one that failed.
    pub connect_failed: u64,
    /// Connections that broke.
    pub broken: u64,
}

/// One core's ways to other nodes.
#[derive(Debug)]
pub struct Remote {
    requests: Box<dyn Asks>,
    /// The stores of this node, over all cores, by number.
    ours: Vec<StoreId>,
    questions: Option<Rc<Questions>>,
}

impl Remote {
    /// For a node with the stores `ours`, of which the others are asked by `requests`.
    pub fn new(requests: Box<dyn Asks>, ours: Vec<StoreId>) -> Self {
        Self { requests, ours, questions: None }
    }

    /// With the scheduler to ask about regions of which the node has no replica.
    #[must_use]
    pub fn asking(self, scheduler: Box<dyn Locates>) -> Self {
        Self { questions: Some(Rc::new(Questions::new(scheduler))), ..self }
    }

    /// What has become of requests to other nodes.
    pub(super) fn numbers(&self) -> RemoteNumbers {
        self.requests.numbers()
    }

    /// The number of the store of a peer on this node, if it is of this node.
    pub(super) fn number_of(&self, peer: &Peer) -> Option<usize> {
        self.ours.iter().position(|store| *store == peer.store)
    }

    pub(super) fn is_ours(&self, peer: &Peer) -> bool {
        self.ours.contains(&peer.store)
    }

    pub(super) fn questions(&self) -> Option<&Rc<Questions>> {
        self.questions.as_ref()
    }
}

impl Dispatch {
    /// A refusal of what was sent to a region says what is different: who leads it, or that it is another one.
    pub(super) fn heard(&self, region_id: u64, refusal: &Refusal) {
        let Some(remote) = self.remote().filter(|_| !planted(Bug::OldOwnerKept)) else { return };
        match refusal {
            Refusal::NotLeader { region_id, leader } => {
                self.routes_mut().lead(*region_id, leader.filter(|leader| !remote.is_ours(leader)));
                let here = leader.and_then(|leader| remote.number_of(&leader));
                self.routes_mut().lead_here(*region_id, here);
                if leader.is_some_and(|leader| remote.is_ours(&leader)) {
                    // A store of this node has come to have a replica.
                    self.forget_located(*region_id);
                }
            }
            Refusal::EpochNotMatch { .. } | Refusal::KeyNotInRegion { .. } => self.forget_located(region_id),
            Refusal::RegionNotFound { .. } | Refusal::StoreNotMatch { .. } | Refusal::PeerNotMatch { .. } => {
                self.forget_located(region_id);
                self.routes_mut().lead(region_id, None);
            }
            Refusal::StaleCommand
            | Refusal::Busy { .. }
            | Refusal::DiskFull { .. }
            | Refusal::SpansRegions { .. }
            | Refusal::TooLarge { .. }
            | Refusal::Damaged { .. }
            | Refusal::Invalid(_)
            | Refusal::AnswerTooLarge { .. }
            | Refusal::NotAnInteger
            | Refusal::Overflow
            | Refusal::Stopped(_)
            | Refusal::Unknown => {}
        }
    }

    /// Hands an operation to whoever has the region: a store of this node, or the leader on another one.
    pub(super) fn deliver_to(&self, place: &Place, op: Op, answer: Answer<Outcome>) {
        match (place.leader, self.remote(), place.source) {
            (Some(leader), Some(remote), _) => {
                self.goes_elsewhere();
                let route = Route { peer_id: leader.id.0, store_id: leader.store.0, ..place.route() };
                remote.requests.send(leader.store, route, op, answer);
            }
            (None, _, Source::Store(store)) | (Some(_), None, Source::Store(store)) => {
                self.deliver(store, Some(place.route()), op, answer);
            }
            (None, _, Source::Scheduler) | (Some(_), None, Source::Scheduler) => {
                unreachable!("a place that only the scheduler has named says who is asked")
            }
        }
    }
}
