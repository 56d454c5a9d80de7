//! Regions that are led on another node: what is asked of them here is sent there.
//!
//! A replica of this node that does not lead says which store does, and so does a store that was asked and leads no more. What was
//! heard last becomes part of the next version of the routes, so a write that goes another way than those before it waits for them as
//! it does when a region moves ([`super::retry`]). Where no leader is known the replica of this node is asked again, until it knows
//! one or the deadline is over.
//!
//! Invariants: a request that was refused was not carried out, so it may be sent again; one whose outcome is unknown never is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use engine::rt::local::Answer;
use scheduler::{Peer, StoreId};

use super::dispatch::Dispatch;
use crate::refusal::Refusal;
use crate::request::{Op, Outcome, Route};
use crate::shard::routes::Place;

/// The way to stores of other nodes.
pub trait Asks: fmt::Debug {
    /// Sends a request to the store `to`; its outcome goes to `answer`, once.
    fn send(&self, to: StoreId, route: Route, op: Op, answer: Answer<Outcome>);
}

/// What a core knows of leaders on other nodes.
#[derive(Debug)]
pub struct Remote {
    requests: Box<dyn Asks>,
    /// The stores of this node, over all cores.
    ours: Vec<StoreId>,
    /// By region: the leader, if it is on another node.
    leaders: RefCell<BTreeMap<u64, Peer>>,
}

impl Remote {
    /// For a node with the stores `ours`; nothing is known of any leader.
    pub fn new(requests: Box<dyn Asks>, ours: Vec<StoreId>) -> Self {
        Self { requests, ours, leaders: RefCell::default() }
    }

    /// Notes who leads a region. Whether that is news.
    fn hear(&self, region_id: u64, leader: Option<&Peer>) -> bool {
        let leader = leader.filter(|peer| !self.ours.contains(&peer.store));
        let mut leaders = self.leaders.borrow_mut();
        if leaders.get(&region_id) == leader {
            return false;
        }
        match leader {
            Some(leader) => leaders.insert(region_id, *leader),
            None => leaders.remove(&region_id),
        };
        true
    }

    /// Says of each place whether another node leads it.
    pub(super) fn mark(&self, places: &mut [Place]) {
        let leaders = self.leaders.borrow();
        if !leaders.is_empty() {
            places.iter_mut().for_each(|place| place.leader = leaders.get(&place.region_id).copied());
        }
    }
}

impl Dispatch {
    /// A refusal may say who leads its region now.
    pub(super) fn heard(&self, refusal: &Refusal) {
        if let Refusal::NotLeader { region_id, leader } = refusal
            && let Some(remote) = self.remote()
            && remote.hear(*region_id, leader.as_ref())
        {
            self.renew_routes();
        }
    }

    /// Hands an operation to whoever has the region: a store of this node, or the leader on another one.
    pub(super) fn deliver_to(&self, place: &Place, op: Op, answer: Answer<Outcome>) {
        match (place.leader, self.remote()) {
            (Some(leader), Some(remote)) => {
                self.goes_elsewhere();
                let route = Route { peer_id: leader.id.0, store_id: leader.store.0, ..place.route() };
                remote.requests.send(leader.store, route, op, answer);
            }
            (Some(_) | None, _) => self.deliver(place.store, Some(place.route()), op, answer),
        }
    }
}
