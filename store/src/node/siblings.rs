//! A store's way to the others: to its siblings, the stores of the same node, over the links between cores, to all else over the network.
//!
//! Two stores of a node have replicas of one region while it moves from the one to the other. What they say to each other needs no address,
//! no connection and no answer of the scheduler, so it goes on at once after a start, and a snapshot is handed over instead of being sent
//! ([`crate::shard::handing`]).
//!
//! | to a sibling | becomes of it |
//! |---|---|
//! | whose core runs | it gathers with what else goes to that core |
//! | whose core has ended, or does not take anything in | it is dropped and counted, as where a store of another node cannot be reached |
//!
//! Invariant: messages to one store arrive in the order in which they were sent.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;

use engine::rt::local::oneshot;
use scheduler::StoreId;

use super::core::Plan;
use super::identity::Identity;
use crate::plant::{Bug, planted};
use crate::region::message::PeerMessage;
use crate::region::neighbours::Sign;
use crate::shard::handing::Handed;
use crate::shard::links::CoreLinks;
use crate::shard::outbox::{Carrying, PeerNumbers, Transport};
use crate::shard::shipping::{Failed, Shipment};
use crate::wire::peer::link::PeerLinks;

/// A store of the same node.
#[derive(Clone, Debug)]
struct Sibling {
    /// Its number on the node.
    index: usize,
    core: usize,
    dir: PathBuf,
}

/// One store's ways to the others.
#[derive(Debug)]
pub(super) struct Siblings {
    store: StoreId,
    incarnation: u64,
    siblings: BTreeMap<StoreId, Sibling>,
    /// Those that have heard of this life of the store.
    greeted: RefCell<BTreeSet<StoreId>>,
    unreachable: RefCell<BTreeSet<StoreId>>,
    /// Those to which something was said since that was last asked.
    spoken_to: RefCell<BTreeSet<StoreId>>,
    links: Rc<CoreLinks>,
    others: Rc<PeerLinks>,
}

impl Siblings {
    /// The ways of `store`, whose log was opened this many times; `others` leads to stores of other nodes.
    pub(super) fn new(
        plan: &Plan,
        (store, incarnation): (StoreId, u64),
        links: Rc<CoreLinks>,
        others: Rc<PeerLinks>,
    ) -> Self {
        let sibling = |index: usize| {
            let id = plan.identity.store_id(index);
            let dir = Identity::store_dir(&plan.dir, id);
            (id, Sibling { index, core: plan.core_of(index), dir })
        };
        let siblings = (0..plan.identity.stores).map(sibling).filter(|(id, _)| *id != store).collect();
        let (greeted, unreachable, spoken_to) = (RefCell::default(), RefCell::default(), RefCell::default());
        Self { store, incarnation, siblings, greeted, unreachable, spoken_to, links, others }
    }

    fn say(&self, to: StoreId, sibling: &Sibling, message: Option<PeerMessage>) {
        if self.links.may_say(sibling.core) {
            let is_first = self.greeted.borrow_mut().insert(to);
            self.spoken_to.borrow_mut().insert(to);
            let sign = Sign { store: self.store, incarnation: self.incarnation, is_first };
            return self.links.say(sibling.core, sibling.index, sign, message);
        }
        let counters = self.others.counters();
        match self.links.has_ended(sibling.core) {
            true => {
                counters.dropped_unreachable.add(&message);
                self.unreachable.borrow_mut().insert(to);
            }
            false => counters.dropped_full.add(&message),
        }
    }
}

impl Transport for Siblings {
    fn send(&self, message: PeerMessage) {
        let to = message.to.store;
        match self.siblings.get(&to) {
            Some(sibling) => self.say(to, sibling, Some(message)),
            None => self.others.send(message),
        }
    }

    fn send_sign(&self, to: StoreId) {
        match self.siblings.get(&to) {
            Some(sibling) => self.say(to, sibling, None),
            None => self.others.send_sign(to),
        }
    }

    fn is_busy(&self) -> bool {
        self.links.is_busy() || self.others.is_busy()
    }

    fn numbers(&self) -> PeerNumbers {
        self.others.numbers()
    }

    fn carry<'a>(&'a self, shipment: &'a mut Shipment) -> Carrying<'a> {
        self.others.carry(shipment)
    }

    fn take_unreachable(&self) -> BTreeSet<StoreId> {
        let mut all = self.others.take_unreachable();
        all.append(&mut self.unreachable.borrow_mut());
        all
    }

    fn take_disowned(&self) -> Option<String> {
        self.others.take_disowned()
    }

    fn take_spoken_to(&self) -> Vec<StoreId> {
        let mut all = self.others.take_spoken_to();
        all.extend(self.spoken_to.take());
        all
    }

    fn sibling_dir(&self, to: StoreId) -> Option<PathBuf> {
        let sibling = self.siblings.get(&to).filter(|_| !planted(Bug::SiblingsSentTo));
        sibling.map(|sibling| sibling.dir.clone())
    }

    fn hand_over(&self, to: StoreId, handed: Handed) -> Carrying<'_> {
        Box::pin(async move {
            let Sibling { index, core, dir: _ } = self.siblings.get(&to).ok_or(Failed::NoTransport)?;
            let (answer, taken) = oneshot();
            self.links.hand_over(*core, *index, handed, answer);
            match taken.await {
                Some(Ok(())) => Ok(()),
                Some(Err(unwanted)) => Err(Failed::Refused(unwanted.to_string())),
                None => Err(Failed::Broken("its core has ended".to_owned())),
            }
        })
    }
}
