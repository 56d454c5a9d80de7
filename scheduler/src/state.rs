//! What the scheduler must not forget: a state machine for its own Raft group.
//!
//! Regions are soft and come back by reports. This does not: which ids are used up, which stores have joined and what
//! was decided about them, the configuration, how far timestamps may have got, and below which timestamp versions may
//! be collected. Commands come out of the log in the same order on every replica and give the same answers; a refusal
//! is an answer, too, and changes nothing. A snapshot is the whole state as plain values, which the host encodes as it
//! likes.
//!
//! Invariants: `next_id` never falls, so no id is handed out twice; the timestamp bound and the safe point never fall;
//! a tombstone stays one; no two stores in use share an address, and none is given that of a store which leaves, unless it takes the place
//! of that one; no command that takes a store out of use leaves fewer nodes than a region has replicas, unless another takes its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use crate::audit::{ConfigChange, ConfigChanges};
use crate::cluster::{StoreRefusal, admit_store};
use crate::config::{Config, ConfigError};
use crate::id::{NodeId, StoreId};
use crate::services::{ServiceRefusal, ServiceSafePoint, Services};
use crate::store::{Lifecycle, StoreDescriptor};

/// Ids that one command may take.
pub const ID_BLOCK_MAX: u64 = 1 << 20;

/// A command out of the scheduler's own log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateCommand {
    /// Names the cluster, once.
    Bootstrap {
        /// The cluster's id.
        cluster: u64,
    },
    /// Takes this many ids out of the one space of stores, regions and peers.
    AllocateIds {
        /// How many; 1 to [`ID_BLOCK_MAX`].
        count: u64,
    },
    /// Enters a store, or changes its address and labels. Its lifecycle is left as it is.
    PutStore(StoreDescriptor),
    /// Enters a new store at the address of one that is silent, and takes that one out of use. Who proposes it has seen that the one is
    /// silent, and that the new one answers there.
    ReplaceStore {
        /// The new store.
        store: StoreDescriptor,
        /// Whose place it takes.
        gone: StoreId,
    },
    /// The same, where the node of the one that is gone has other stores in use: they are taken out of use with it, because a new node may
    /// have fewer stores. Who proposes it has seen that all of them are silent.
    ReplaceNode {
        /// The new store.
        store: StoreDescriptor,
        /// Whose place it takes.
        gone: StoreId,
    },
    /// Drains a store, takes it back, or buries it.
    SetLifecycle {
        /// The store.
        store: StoreId,
        /// What it is to be.
        lifecycle: Lifecycle,
    },
    /// Keeps leaders off a store, or no longer.
    SetEvicting {
        /// The store.
        store: StoreId,
        /// Whether it is not to lead.
        evicting: bool,
    },
    /// Replaces the configuration, as earlier versions did it: without a word of who did.
    SetConfig(Box<Config>),
    /// Replaces the configuration, and says what that changes.
    ChangeConfig {
        /// What it is from then on.
        config: Box<Config>,
        /// Which values that changes, by whom and when.
        changes: Vec<ConfigChange>,
    },
    /// Allows timestamps up to this bound.
    SaveTimestampWindow {
        /// The bound, in milliseconds.
        end_ms: u64,
    },
    /// Allows versions below this timestamp to be collected.
    AdvanceGcSafePoint {
        /// The timestamp, in its 64-bit form.
        timestamp: u64,
    },
    /// Enters the safe point of a service, or removes one that has expired.
    SetServiceSafePoint {
        /// The safe point.
        point: ServiceSafePoint,
        /// The time, milliseconds since the Unix epoch.
        now_ms: u64,
    },
}

/// What a command has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateAnswer {
    /// It is done.
    Done,
    /// These ids are the caller's.
    Ids(Range<u64>),
    /// Timestamps are allowed up to this bound, in milliseconds.
    TimestampWindow(u64),
    /// The safe point, which may be above the one asked for.
    GcSafePoint(u64),
    /// The least safe point of all services.
    ServiceSafePoint(ServiceSafePoint),
}

/// The state; its fields are a snapshot of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateImage {
    /// The cluster's id, once it is bootstrapped.
    pub cluster: Option<u64>,
    /// The first id that has not been handed out.
    pub next_id: u64,
    /// Every store that ever joined.
    pub stores: BTreeMap<StoreId, StoreDescriptor>,
    /// Stores that are not to lead.
    pub evicting: BTreeSet<StoreId>,
    /// What is aimed at.
    pub config: Config,
    /// No timestamp at or above this bound has been handed out, in milliseconds.
    pub timestamp_end_ms: u64,
    /// Versions below this timestamp may be collected.
    pub gc_safe_point: u64,
    /// What services still need.
    pub services: Services,
    /// What was changed last in the configuration.
    pub config_changes: ConfigChanges,
}

/// The replicated state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    image: StateImage,
}

impl StateImage {
    /// The other stores in use of the node of `store`.
    #[must_use]
    pub fn beside(&self, store: StoreId) -> Vec<StoreId> {
        let node = self.stores.get(&store).map(|known| known.node);
        let beside = |known: &&StoreDescriptor| {
            known.id != store && Some(known.node) == node && known.lifecycle == Lifecycle::Up
        };
        self.stores.values().filter(beside).map(|known| known.id).collect()
    }
}

impl State {
    /// The state of a cluster that has not begun.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let (stores, evicting) = (BTreeMap::new(), BTreeSet::new());
        // The first id is 1: zero is legal everywhere inside, but on the wire it often means "none".
        let image = StateImage {
            cluster: None,
            next_id: 1,
            stores,
            evicting,
            config,
            timestamp_end_ms: 0,
            gc_safe_point: 0,
            services: Services::default(),
            config_changes: ConfigChanges::default(),
        };
        Self { image }
    }

    /// The whole state, to read or to encode.
    #[must_use]
    pub const fn image(&self) -> &StateImage {
        &self.image
    }

    /// The state of a snapshot.
    ///
    /// # Errors
    /// [`StateRefusal`] where the image breaks an invariant, so that damage is found where it enters.
    pub fn restore(image: StateImage) -> Result<Self, StateRefusal> {
        image.config.validate().map_err(StateRefusal::Config)?;
        for (id, store) in &image.stores {
            if *id != store.id || id.0 >= image.next_id {
                return Err(StateRefusal::IdNotAllocated(*id));
            }
            admit_store(Some(store), image.stores.values(), store).map_err(StateRefusal::Store)?;
        }
        match image.evicting.iter().find(|store| !image.stores.contains_key(store)) {
            Some(store) => Err(StateRefusal::Store(StoreRefusal::Unknown(*store))),
            None => Ok(Self { image }),
        }
    }

    /// Carries a command out.
    ///
    /// # Errors
    /// [`StateRefusal`] where it makes no sense; the state is then as it was.
    pub fn apply(&mut self, command: StateCommand) -> Result<StateAnswer, StateRefusal> {
        let image = &mut self.image;
        match command {
            StateCommand::Bootstrap { cluster } => match image.cluster {
                Some(known) => return Err(StateRefusal::Bootstrapped { cluster: known }),
                None => image.cluster = Some(cluster),
            },
            StateCommand::AllocateIds { count } => return self.allocate(count).map(StateAnswer::Ids),
            StateCommand::PutStore(store) => self.put_store(store, None)?,
            StateCommand::ReplaceStore { store, gone } => self.replace_store(store, gone)?,
            StateCommand::ReplaceNode { store, gone } => {
                let is_new = !self.image.stores.contains_key(&store.id);
                let others = if is_new { self.image.beside(gone) } else { Vec::new() };
                self.replace_store(store, gone)?;
                others.into_iter().for_each(|other| self.change_lifecycle(other, Lifecycle::Offline));
            }
            StateCommand::SetLifecycle { store, lifecycle } => self.set_lifecycle(store, lifecycle)?,
            StateCommand::SetEvicting { store, evicting } => {
                self.known(store)?;
                if evicting {
                    self.image.evicting.insert(store)
                } else {
                    self.image.evicting.remove(&store)
                };
            }
            StateCommand::SetConfig(config) => {
                config.validate().map_err(StateRefusal::Config)?;
                image.config = *config;
            }
            StateCommand::ChangeConfig { config, changes } => {
                config.validate().map_err(StateRefusal::Config)?;
                image.config = *config;
                image.config_changes.add(changes);
            }
            StateCommand::SaveTimestampWindow { end_ms } => {
                image.timestamp_end_ms = image.timestamp_end_ms.max(end_ms);
                return Ok(StateAnswer::TimestampWindow(image.timestamp_end_ms));
            }
            StateCommand::AdvanceGcSafePoint { timestamp } => {
                image.gc_safe_point = image.gc_safe_point.max(timestamp);
                return Ok(StateAnswer::GcSafePoint(image.gc_safe_point));
            }
            StateCommand::SetServiceSafePoint { point, now_ms } => {
                let least = image.services.set(point, now_ms).map_err(StateRefusal::Service)?;
                return Ok(StateAnswer::ServiceSafePoint(least));
            }
        }
        Ok(StateAnswer::Done)
    }

    fn allocate(&mut self, count: u64) -> Result<Range<u64>, StateRefusal> {
        if count == 0 || count > ID_BLOCK_MAX {
            return Err(StateRefusal::IdCount { count });
        }
        let start = self.image.next_id;
        let end = start.checked_add(count).ok_or(StateRefusal::IdsUsedUp)?;
        self.image.next_id = end;
        Ok(start..end)
    }

    fn known(&self, store: StoreId) -> Result<&StoreDescriptor, StateRefusal> {
        self.image.stores.get(&store).ok_or(StateRefusal::Store(StoreRefusal::Unknown(store)))
    }

    /// Enters a store or changes one, whose address may be that of `gone`.
    fn put_store(&mut self, mut store: StoreDescriptor, gone: Option<StoreId>) -> Result<(), StateRefusal> {
        let id = store.id;
        if id.0 >= self.image.next_id {
            return Err(StateRefusal::IdNotAllocated(id));
        }
        let known = self.image.stores.get(&id);
        store.lifecycle = known.map_or(Lifecycle::Up, |known| known.lifecycle);
        if store.lifecycle == Lifecycle::Tombstone {
            return Err(StateRefusal::Store(StoreRefusal::Tombstone(id)));
        }
        admit_store(known, self.image.stores.values(), &store).map_err(StateRefusal::Store)?;
        // A store that leaves still answers there, as far as anyone has said; where one takes its place, those before it have lost it, too.
        let holds = |other: &&StoreDescriptor| {
            other.lifecycle != Lifecycle::Tombstone && other.id != id && other.address == store.address
        };
        if gone.is_none()
            && known.is_none_or(|known| known.address != store.address)
            && let Some(holder) = self.image.stores.values().find(holds)
        {
            return Err(StateRefusal::Store(StoreRefusal::AddressTaken { store: id, holder: holder.id }));
        }
        self.image.stores.insert(id, store);
        Ok(())
    }

    fn replace_store(&mut self, store: StoreDescriptor, gone: StoreId) -> Result<(), StateRefusal> {
        let leaving = self.known(gone)?;
        let before = leaving.lifecycle;
        if before == Lifecycle::Tombstone {
            return Err(StateRefusal::Store(StoreRefusal::Tombstone(gone)));
        }
        if let Some(known) = self.image.stores.get(&store.id) {
            // Whoever does not hear the answer says it again.
            let is_done =
                before == Lifecycle::Offline && (known.node, &known.address) == (store.node, &store.address);
            return if is_done { Ok(()) } else { Err(StateRefusal::NotNew(store.id)) };
        }
        if leaving.address != store.address {
            return Err(StateRefusal::Moved { store: gone, address: leaving.address.clone() });
        }
        self.change_lifecycle(gone, Lifecycle::Offline);
        let entered = self.put_store(store, Some(gone));
        if entered.is_err() {
            self.change_lifecycle(gone, before);
        }
        entered
    }

    fn change_lifecycle(&mut self, id: StoreId, lifecycle: Lifecycle) {
        if let Some(store) = self.image.stores.get_mut(&id) {
            store.lifecycle = lifecycle;
        }
    }

    /// Whether what is on a store has somewhere to go: the replicas of a region are on different nodes. Where there are too few nodes
    /// anyway, a store may go as long as its node stays.
    fn keeps_enough_nodes(&self, store: StoreId) -> Result<(), StateRefusal> {
        let in_use = || self.image.stores.values().filter(|known| known.lifecycle == Lifecycle::Up);
        let nodes: BTreeSet<NodeId> = in_use().map(|known| known.node).collect();
        let left: BTreeSet<NodeId> =
            in_use().filter(|known| known.id != store).map(|known| known.node).collect();
        let (left, replicas) = (left.len() as u64, self.image.config.max_replicas);
        match left < replicas && left < nodes.len() as u64 {
            true => Err(StateRefusal::TooFewNodes { store, left, replicas }),
            false => Ok(()),
        }
    }

    fn set_lifecycle(&mut self, id: StoreId, wanted: Lifecycle) -> Result<(), StateRefusal> {
        let refuse = |refusal| Err(StateRefusal::Store(refusal));
        match (self.known(id)?.lifecycle, wanted) {
            (Lifecycle::Tombstone, Lifecycle::Up | Lifecycle::Offline) => {
                return refuse(StoreRefusal::Tombstone(id));
            }
            // Whoever proposes a burial has seen that the store is empty; that it was drained is checked here.
            (Lifecycle::Up, Lifecycle::Tombstone) => return refuse(StoreRefusal::NotOffline(id)),
            (Lifecycle::Up, Lifecycle::Offline) => self.keeps_enough_nodes(id)?,
            (Lifecycle::Offline, Lifecycle::Up) => {
                let known = self.known(id)?;
                let back = StoreDescriptor { lifecycle: Lifecycle::Up, ..known.clone() };
                let all = self.image.stores.values();
                admit_store(Some(known), all, &back).map_err(StateRefusal::Store)?;
            }
            // Buried, or as it is.
            (Lifecycle::Up, Lifecycle::Up)
            | (Lifecycle::Offline, Lifecycle::Offline | Lifecycle::Tombstone)
            | (Lifecycle::Tombstone, Lifecycle::Tombstone) => {}
        }
        if wanted == Lifecycle::Tombstone {
            self.image.evicting.remove(&id);
        }
        self.change_lifecycle(id, wanted);
        Ok(())
    }
}

/// Why a command is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateRefusal {
    /// The cluster has a name.
    Bootstrapped {
        /// Its id.
        cluster: u64,
    },
    /// Zero ids, or more than one command may take.
    IdCount {
        /// How many were asked for.
        count: u64,
    },
    /// All 2^64 ids are used up.
    IdsUsedUp,
    /// The store's id did not come from here.
    IdNotAllocated(StoreId),
    /// What is on the store would have nowhere to go.
    TooFewNodes {
        /// The store that was to be taken out of use.
        store: StoreId,
        /// How many nodes would have a store in use then.
        left: u64,
        /// How many replicas each region is to have.
        replicas: u64,
    },
    /// Only a new store takes the place of another one.
    NotNew(StoreId),
    /// The store whose place was to be taken is elsewhere by now.
    Moved {
        /// The store.
        store: StoreId,
        /// Where it is.
        address: String,
    },
    /// The store cannot be entered or changed so.
    Store(StoreRefusal),
    /// The configuration cannot work.
    Config(ConfigError),
    /// The safe point of a service is none.
    Service(ServiceRefusal),
}

impl fmt::Display for StateRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bootstrapped { cluster } => {
                write!(f, "the cluster is bootstrapped already, as {cluster:016x}")
            }
            Self::IdCount { count } => write!(f, "{count} ids asked for; ask for 1 to {ID_BLOCK_MAX}"),
            Self::IdsUsedUp => f.write_str("all ids are used up"),
            Self::IdNotAllocated(store) => {
                write!(f, "the id of {store} was not handed out by this cluster; let the store ask for one")
            }
            Self::TooFewNodes { store, left, replicas } => write!(
                f,
                "{store} stays in use: without it {left} nodes would have a store in use, and the replicas of each region, {replicas} \
                 by the setting, are on different nodes; let another node join first, or lower `replicas`"
            ),
            Self::NotNew(store) => {
                write!(f, "{store} has joined already, and takes the place of no other store")
            }
            Self::Moved { store, address } => {
                write!(f, "{store}, whose place was to be taken, is at {address} by now; try again")
            }
            Self::Store(refusal) => write!(f, "{refusal}"),
            Self::Config(error) => write!(f, "{error}"),
            Self::Service(refusal) => write!(f, "{refusal}"),
        }
    }
}

impl std::error::Error for StateRefusal {}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
