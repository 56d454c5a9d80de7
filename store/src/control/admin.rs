//! What operators ask for: a replica more or fewer, another leader, a store that is to go, another number of replicas.
//!
//! Nothing is decided here. What is asked of a region becomes an operator of the scheduler, which refuses what it refuses its own policies;
//! what is asked of a store or of the whole goes into the state first, and into the map once that is durable.

use std::fmt;

use scheduler::operator::{AddRefusal, BuildError, Cause, Intent, Outcome, Status};
use scheduler::scheduler::AdmitError;
use scheduler::{
    Config, ConfigChange, KeyRange, Lifecycle, Policy, Proposal, RegionId, Scheduler, Setting, State,
    StateCommand, StateRefusal, StoreId,
};

use super::denied::Denied;
use super::{Control, UNPROVEN, time, wall_ms};
use crate::keyspace;

/// An operator that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its id.
    pub operator: u64,
    /// Its steps, in order.
    pub steps: Vec<String>,
}

/// Why no operator does what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAsked {
    /// The region is not known.
    UnknownRegion(RegionId),
    /// A store that is named has not joined.
    UnknownStore(StoreId),
    /// The node of the store has no replica of the region that could move there.
    NoSibling(RegionId, StoreId),
    /// No part of the region would be on one side of the key.
    KeyOutside(RegionId, KeyRange),
    /// The scheduler does not take it.
    Refused(AdmitError),
    /// It ended at once: how.
    Ended(Outcome),
    /// There are no ids for it.
    Denied(Denied),
}

impl fmt::Display for NotAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownRegion(region) => {
                write!(
                    f,
                    "{region} is not known; list the regions, or try again once its leader has reported"
                )
            }
            Self::UnknownStore(store) => {
                write!(f, "{store} has not joined; list the stores to see those that have")
            }
            Self::NoSibling(region, store) => {
                write!(
                    f,
                    "no replica of {region} can move to {store}: the others are on other nodes, or it is there already; \
                     `ringkeep ctl region add-peer` and `remove-peer` move replicas between nodes"
                )
            }
            Self::KeyOutside(region, range) => {
                write!(f, "the key does not cut {region}, which is {range}; name one that lies inside")
            }
            Self::Refused(refusal @ AdmitError::Add(AddRefusal::Occupied { .. })) => {
                write!(f, "{refusal}; wait until that is over, or cancel it first")
            }
            Self::Refused(refusal) => write!(f, "the scheduler does not take it: {refusal}"),
            Self::Ended(Outcome::Cancelled(scheduler::operator::CancelReason::Unsafe(why))) => {
                write!(f, "the first step would do harm: {why}")
            }
            Self::Ended(Outcome::Success) => f.write_str("it is so already; nothing is to be done"),
            Self::Ended(outcome) => write!(f, "it cannot be done: {outcome}"),
            Self::Denied(denied) => write!(f, "{denied}"),
        }
    }
}

impl Control {
    /// Asks the scheduler for an operator that does `intent`. Its steps go out with the answers to the region's reports.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn operate(&self, region: RegionId, intent: Intent) -> Result<Asked, NotAsked> {
        match self.try_operate(region, &intent) {
            Err(NotAsked::Refused(AdmitError::Build(BuildError::OutOfIds))) => {
                let wanted = self.0.scheduler.borrow().ids_wanted();
                if let Some(count) = wanted {
                    self.grant_ids(count).await.map_err(NotAsked::Denied)?;
                }
                self.try_operate(region, &intent)
            }
            asked => asked,
        }
    }

    /// What would be done if `intent` was asked for now: its steps, and no operator.
    ///
    /// # Errors
    /// Why nothing would.
    pub fn rehearse(&self, region: RegionId, intent: Intent) -> Result<Asked, NotAsked> {
        let proposal = self.proposal(region, &intent)?;
        let rehearsed = self.0.scheduler.borrow().rehearse(&proposal, time(&self.0.rt));
        match rehearsed.map_err(NotAsked::Refused)? {
            (_, Some(outcome)) => Err(NotAsked::Ended(outcome)),
            (operator, None) => {
                Ok(Asked { operator: 0, steps: operator.steps.iter().map(ToString::to_string).collect() })
            }
        }
    }

    /// What is asked where the replica of a region is to move to `to` from another store of the same node.
    ///
    /// # Errors
    /// The region or the store is not known, or there is no such replica.
    pub fn relocation(&self, region: RegionId, to: StoreId) -> Result<Intent, NotAsked> {
        let scheduler = self.0.scheduler.borrow();
        let cluster = scheduler.cluster();
        let info = cluster.region(region).ok_or(NotAsked::UnknownRegion(region))?;
        let node = cluster.store(to).ok_or(NotAsked::UnknownStore(to))?.node();
        let stores = info.region.peers.iter().map(|peer| peer.store).filter(|store| *store != to);
        let from = stores.into_iter().find(|store| cluster.node_of(*store) == Some(node));
        let is_there = info.region.peer_on(to).is_some();
        match from.filter(|_| !is_there) {
            Some(from) => Ok(Intent::Relocate { from, to }),
            None => Err(NotAsked::NoSibling(region, to)),
        }
    }

    fn try_operate(&self, region: RegionId, intent: &Intent) -> Result<Asked, NotAsked> {
        let proposal = self.proposal(region, intent)?;
        let mut scheduler = self.0.scheduler.borrow_mut();
        // Its first step goes out with the answer to the region's next report.
        scheduler.admit(&proposal, time(&self.0.rt)).map_err(NotAsked::Refused)?;
        begun(&scheduler, region)
    }

    /// What is asked of a region, as the scheduler takes it.
    fn proposal(&self, region: RegionId, intent: &Intent) -> Result<Proposal, NotAsked> {
        let scheduler = self.0.scheduler.borrow();
        let info = scheduler.cluster().region(region).ok_or(NotAsked::UnknownRegion(region))?;
        if let Some(store) = intent.stores().find(|store| scheduler.cluster().store(*store).is_none()) {
            return Err(NotAsked::UnknownStore(store));
        }
        let range = &info.region.range;
        if let Intent::Merge { into } = intent
            && scheduler.cluster().region(*into).is_none()
        {
            return Err(NotAsked::UnknownRegion(*into));
        }
        if let Intent::Split { keys } = intent {
            if !keys.iter().all(|key| range.contains(key.as_bytes()) && range.start() != key) {
                return Err(NotAsked::KeyOutside(region, range.clone()));
            }
            if let Some(key) = keys.iter().find(|key| !keyspace::may_cut(key.as_bytes())) {
                return Err(NotAsked::Denied(Denied::InKeyspace(key.clone())));
            }
        }
        Ok(Proposal::new(info, Policy::Admin, Cause::Asked, intent.clone()))
    }

    /// Takes a store out of use: its replicas are moved away, and once nothing is on it any more, it is buried and its address is free.
    ///
    /// # Errors
    /// It is not known or gone, keeps the state for want of another, too few nodes would be left, or the state cannot be changed.
    pub async fn remove_store(&self, store: StoreId) -> Result<(), Denied> {
        self.may_remove(store).await?;
        self.set_lifecycle(store, Lifecycle::Offline).await
    }

    /// Whether a store may be taken out of use now. Nothing is changed. In this order it is asked whether there is such a store, whether it
    /// keeps the state for want of another, and whether enough nodes would be left.
    ///
    /// # Errors
    /// Why not, as [`Control::remove_store`] would say.
    pub async fn may_remove(&self, store: StoreId) -> Result<(), Denied> {
        let mut state = State::restore(self.image()?).map_err(Denied::Refused)?;
        let command = StateCommand::SetLifecycle { store, lifecycle: Lifecycle::Offline };
        let judged = state.apply(command).map_err(Denied::Refused);
        if let Err(Denied::Refused(StateRefusal::Store(_))) = &judged {
            return judged.map(drop);
        }
        if self.keeps_state(store).await? {
            return Err(Denied::KeepsState(store));
        }
        judged.map(drop)
    }

    /// Takes a store that is being taken out of use back into use. What was moved away meanwhile stays there until it is balanced.
    ///
    /// # Errors
    /// It is not known or gone, or the state cannot be changed.
    pub async fn keep_store(&self, store: StoreId) -> Result<(), Denied> {
        self.set_lifecycle(store, Lifecycle::Up).await
    }

    async fn set_lifecycle(&self, store: StoreId, lifecycle: Lifecycle) -> Result<(), Denied> {
        self.0.state.apply(StateCommand::SetLifecycle { store, lifecycle }).await?;
        let known = self.0.state.known(|image| image.stores.get(&store).cloned()).flatten();
        if let Some(descriptor) = known {
            let entered = self.0.scheduler.borrow_mut().put_store(descriptor, time(&self.0.rt));
            self.count(entered.map_err(|refusal| refusal.to_string()));
        }
        Ok(())
    }

    /// Buries stores that were taken out of use and hold nothing any more, no replica of the state either.
    pub(super) async fn bury_drained(&self) {
        let drained = self.0.scheduler.borrow().drained(time(&self.0.rt));
        for store in drained {
            if self.is_member(store) {
                continue;
            }
            match self.set_lifecycle(store, Lifecycle::Tombstone).await {
                Ok(()) => tracing::info!(store = store.0, "a store that was taken out of use is gone"),
                // The next round tries again.
                Err(denied) => {
                    tracing::warn!(store = store.0, why = %denied, "an empty store cannot be marked as gone")
                }
            }
        }
    }

    /// Sets how many replicas every region is to have.
    ///
    /// # Errors
    /// The number makes no sense, or the state cannot be changed.
    pub async fn set_replicas(&self, replicas: u64) -> Result<(), Denied> {
        self.change_config(|config| config.max_replicas = replicas).await
    }

    /// Sets the size beyond which a region is split in its middle, bytes; with 0 none is split, not for its load either.
    ///
    /// # Errors
    /// The state cannot be changed.
    pub async fn set_region_max(&self, bytes: u64) -> Result<(), Denied> {
        let change = |config: &mut Config| {
            config.disabled.retain(|policy| *policy != Policy::SplitCheck);
            if bytes == 0 {
                config.disabled.push(Policy::SplitCheck);
                return;
            }
            config.region_size_max_bytes = bytes;
            config.region_size_floor_bytes = config.region_size_floor_bytes.min(bytes);
        };
        self.change_config(change).await
    }

    /// Keeps leaders off a store, or no longer.
    ///
    /// # Errors
    /// It is not known or gone, or the state cannot be changed.
    pub async fn set_evicting(&self, store: StoreId, evicting: bool) -> Result<(), Denied> {
        self.0.state.apply(StateCommand::SetEvicting { store, evicting }).await?;
        if let Some(all) = self.0.state.known(|image| image.evicting.clone()) {
            self.0.scheduler.borrow_mut().set_evicting(all);
        }
        tracing::info!(store = store.0, evicting, "whether a store may lead is changed on request");
        self.hurry();
        Ok(())
    }

    /// The configuration by name, and the stores that are kept from leading.
    pub fn settings(&self) -> (Vec<Setting>, Vec<StoreId>) {
        let evicting = self.0.state.known(|image| image.evicting.iter().copied().collect());
        (self.0.scheduler.borrow().config().settings(), evicting.unwrap_or_default())
    }

    /// Every policy, and whether it is switched on.
    pub fn policies(&self) -> Vec<(Policy, bool)> {
        let scheduler = self.0.scheduler.borrow();
        Policy::ALL.into_iter().map(|policy| (policy, scheduler.config().is_enabled(policy))).collect()
    }

    /// Whether the scheduler runs without its state, because the store that has it is stopped.
    pub fn lacks_state(&self) -> bool {
        self.0.state.known(|_| ()).is_none()
    }

    /// What was changed last in the configuration, oldest first.
    pub fn config_changes(&self) -> Vec<ConfigChange> {
        self.0.state.known(|image| image.config_changes.list().cloned().collect()).unwrap_or_default()
    }

    /// Sets a value of the configuration by its name, at the request of `by`; returns what it was.
    ///
    /// # Errors
    /// There is no such setting, the value makes no sense, or the state cannot be changed.
    pub async fn set_by_name(&self, name: &str, value: &str, by: &str) -> Result<String, Denied> {
        let mut config = self.0.scheduler.borrow().config().clone();
        let before = config.set(name, value).map_err(Denied::Setting)?;
        self.replace_config(config, by).await?;
        tracing::info!(by, name, before = before.value, value, "a setting is changed on request");
        Ok(before.value)
    }

    /// Switches a policy on or off, at the request of `by`.
    ///
    /// # Errors
    /// There is no such policy, what it is worth is not measured yet, or the state cannot be changed.
    pub async fn set_policy(&self, name: &str, enabled: bool, by: &str) -> Result<(), Denied> {
        let policy = Policy::of(name).ok_or_else(|| Denied::UnknownPolicy(name.to_owned()))?;
        let mut config = self.0.scheduler.borrow().config().clone();
        config.disabled.retain(|off| *off != policy);
        if !enabled {
            config.disabled.push(policy);
        }
        self.replace_config(config, by).await?;
        tracing::info!(by, %policy, enabled, "a policy is switched on request");
        Ok(())
    }

    async fn change_config(&self, change: impl FnOnce(&mut Config)) -> Result<(), Denied> {
        let Some(known) = self.0.state.known(|image| image.config.clone()) else { return Ok(()) };
        let mut config = known.clone();
        change(&mut config);
        if config == known {
            return Ok(());
        }
        self.replace_config(config, &format!("settings of {}", self.0.member.name)).await
    }

    async fn replace_config(&self, config: Config, by: &str) -> Result<(), Denied> {
        let on = |policy: &&Policy| {
            config.is_enabled(**policy) && !self.0.scheduler.borrow().config().is_enabled(**policy)
        };
        if let Some(unproven) = UNPROVEN.iter().find(on) {
            return Err(Denied::Unproven(*unproven));
        }
        let changes = self.differences(&config, by);
        let command = StateCommand::ChangeConfig { config: Box::new(config.clone()), changes };
        self.0.state.apply(command).await?;
        // The state has found it good.
        if let Err(error) = self.0.scheduler.borrow_mut().set_config(config) {
            tracing::error!(%error, "the scheduler refuses a configuration that its state has taken");
        }
        self.hurry();
        Ok(())
    }

    /// Which values a configuration changes.
    fn differences(&self, config: &Config, by: &str) -> Vec<ConfigChange> {
        let at_ms = wall_ms(&self.0.rt);
        let known = self.0.scheduler.borrow().config().settings();
        let pairs = known.into_iter().zip(config.settings()).filter(|(before, after)| before != after);
        let change = |(before, after): (Setting, Setting)| ConfigChange {
            at_ms,
            by: by.to_owned(),
            name: after.name.to_owned(),
            before: before.value,
            after: after.value,
        };
        pairs.map(change).collect()
    }
}

/// The operator that was begun last on a region.
fn begun(scheduler: &Scheduler, region: RegionId) -> Result<Asked, NotAsked> {
    match scheduler.operators().status(region) {
        Some(Status::Running(operator)) => {
            let steps = operator.steps.iter().map(ToString::to_string).collect();
            Ok(Asked { operator: operator.id.0, steps })
        }
        Some(Status::Ended(ended)) => Err(NotAsked::Ended(ended.outcome)),
        None => Err(NotAsked::UnknownRegion(region)),
    }
}
