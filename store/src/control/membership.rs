//! The members of the system group as the scheduler that is hosted here sees to them: more of them while the cluster grows, another one for
//! one that is gone, and where each is reached.
//!
//! [`voters`] decides; what it wants done goes to the store of this member, whose replica leads, and the members show what has
//! become of it. A store that does not catch up in time is passed over for as long as this member leads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use scheduler::operator::OperatorId;
use scheduler::{Action, Change, Health, Instruction, NodeId, PeerId, Role, Store, StoreId};

use super::denied::Denied;
use super::voters::{self, Fitness, Step};
use super::{Control, time};
use crate::region::system::{GROUP, Members};

/// How often it is looked whether the members are who they should be.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a store may take to catch up before another one is asked.
const LAG_MAX_MS: u64 = 60_000;
/// How long the stores of a node may say nothing before it is notified where the scheduler is.
const SILENT_MS: u64 = 3000;
/// Nodes whose places are remembered.
const PLACES_MAX: usize = 4096;

impl Control {
    /// Sees to the members until another one leads.
    pub(super) async fn membership_loop(&self) {
        while !self.0.retired.get() {
            if let Err(why) = self.see_to_members().await {
                // The members, and whoever leads by then, show what has become of it.
                tracing::debug!(%why, "the members of the system group are not changed now");
            }
            self.0.rt.sleep(LOOK_EVERY).await;
        }
    }

    async fn see_to_members(&self) -> Result<(), Denied> {
        let members = self.0.state.members().await?;
        *self.0.group.borrow_mut() = Some(members.region.clone());
        let Some(step) = voters::next(&members, &self.fitness(&members)) else { return Ok(()) };
        let action = match step {
            Step::Take(action) => action,
            Step::Add(store) => {
                let peer = PeerId(self.alloc_ids(1).await?);
                Action::Change(Change::AddLearner { peer, store })
            }
        };
        tracing::info!(%action, "a step of the system group");
        let Members { region, leader, pending: _, down: _ } = members;
        let operator = OperatorId(0);
        self.0.state.step(Instruction { region: GROUP, epoch: region.epoch, leader, operator, action }).await
    }

    /// How the first store of each node does.
    fn fitness(&self, members: &Members) -> BTreeMap<StoreId, Fitness> {
        let now = time(&self.0.rt);
        let scheduler = self.0.scheduler.borrow();
        let mut first: BTreeMap<NodeId, StoreId> = BTreeMap::new();
        for store in scheduler.cluster().stores() {
            let known = first.entry(store.node()).or_insert(store.id());
            *known = (*known).min(store.id());
        }
        let mut lagging = self.0.lagging.borrow_mut();
        let learners = members.region.peers.iter().filter(|peer| peer.role == Role::Learner);
        for learner in learners {
            let lags = members.pending.contains(&learner.id) || members.down.contains(&learner.id);
            if lags {
                lagging.entry(learner.store).or_insert(now);
            } else {
                lagging.remove(&learner.store);
            }
        }
        let is_too_late =
            |store: &StoreId| lagging.get(store).is_some_and(|since| now.ms_since(*since) > LAG_MAX_MS);
        let config = scheduler.config();
        let judged = |store: StoreId| {
            let known = scheduler.cluster().store(store)?;
            let fitness = match known.health(now, config) {
                Health::Up if is_too_late(&store) => Fitness::Silent,
                Health::Up => Fitness::Fit,
                Health::Disconnected | Health::Unhealthy => Fitness::Silent,
                Health::Down | Health::Offline | Health::Tombstone => Fitness::Gone,
            };
            Some((store, fitness))
        };
        first.into_values().filter_map(judged).collect()
    }

    /// Whether a store has a replica of the state, as far as the members are known; where they are not, none is given away.
    pub(super) fn is_member(&self, store: StoreId) -> bool {
        let group = self.0.group.borrow();
        match (&*group, &self.0.office) {
            (Some(region), _) => region.peer_on(store).is_some(),
            (None, office) => office.is_some(),
        }
    }

    /// Whether a store would keep its replica of the state even if it were to go, because no other can take its place.
    pub(super) async fn keeps_state(&self, store: StoreId) -> Result<bool, Denied> {
        let members = self.0.state.members().await?;
        let mut fitness = self.fitness(&members);
        fitness.insert(store, Fitness::Gone);
        Ok(members.region.peer_on(store).is_some() && voters::wanted(&members, &fitness).contains(&store))
    }

    /// Notes where a node serves the PD API.
    pub fn learn_place(&self, node: NodeId, address: &str) {
        let mut places = self.0.places.borrow_mut();
        if places.len() < PLACES_MAX || places.contains_key(&node) {
            places.insert(node, address.to_owned());
        }
    }

    /// Where nodes serve the PD API of which no store was heard lately. They may not know where the scheduler is.
    pub fn silent_places(&self) -> Vec<String> {
        let now = time(&self.0.rt);
        let scheduler = self.0.scheduler.borrow();
        let heard = scheduler.cluster().stores().filter(|store| now.ms_since(store.last_heard) < SILENT_MS);
        let heard: BTreeSet<NodeId> = heard.map(Store::node).collect();
        let own = NodeId(self.0.member.member_id);
        let places = self.0.places.borrow();
        let silent = places.iter().filter(|(node, _)| **node != own && !heard.contains(node));
        silent.map(|(_, place)| place.clone()).collect()
    }

    /// The other members of the system group that vote, with where each serves the PD API, as far as that is known.
    pub fn others(&self) -> Vec<(NodeId, String)> {
        let (group, places) = (self.0.group.borrow(), self.0.places.borrow());
        let Some(region) = &*group else { return Vec::new() };
        let scheduler = self.0.scheduler.borrow();
        let own = NodeId(self.0.member.member_id);
        let place = |store: StoreId| {
            let node = scheduler.cluster().node_of(store).filter(|node| *node != own)?;
            Some((node, places.get(&node)?.clone()))
        };
        let voters = region.peers.iter().filter(|peer| peer.role != Role::Learner);
        voters.filter_map(|peer| place(peer.store)).collect()
    }
}
