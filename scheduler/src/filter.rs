//! May this store give or take, and if not, why.
//!
//! A [`View`] is everything that a policy may look at: the map, the configuration, what running operators are about to
//! change, and the time. Policies are functions of a view and a generator of random numbers, nothing else. Each "no" is
//! a [`Reason`], so that "why does this region not move" has an answer.

use std::collections::BTreeSet;
use std::fmt;

use crate::cluster::Cluster;
use crate::config::{Config, Limits};
use crate::id::{NodeId, RegionId, StoreId};
use crate::operator::{Influence, Operators, Policy};
use crate::region::Region;
use crate::store::{Health, Store};
use crate::time::Time;

/// Everything that a decision may depend on.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Regions and stores.
    pub cluster: &'a Cluster,
    /// What is aimed at.
    pub config: &'a Config,
    /// What follows from the configuration.
    pub limits: Limits,
    /// What is in flight, by region.
    pub operators: &'a Operators,
    /// What is in flight, by store.
    pub influence: &'a Influence,
    /// Stores that are not to lead.
    pub evicting: &'a BTreeSet<StoreId>,
    /// The moment.
    pub now: Time,
}

impl<'a> View<'a> {
    /// The same view with another influence: a policy that makes several proposals counts its own ones in.
    #[must_use]
    pub const fn with_influence(self, influence: &'a Influence) -> Self {
        View { influence, ..self }
    }

    /// The health of a store; unknown ones have none.
    #[must_use]
    pub fn health(&self, store: StoreId) -> Option<Health> {
        Some(self.cluster.store(store)?.health(self.now, self.config))
    }

    /// Whether the store can be presumed to answer.
    #[must_use]
    pub fn is_live(&self, store: StoreId) -> bool {
        self.cluster.store(store).is_some_and(|store| store.is_live(self.now, self.config))
    }

    /// Regions that a store leads, counting those in flight.
    #[must_use]
    pub fn leaders(&self, store: StoreId) -> i64 {
        signed(self.cluster.counters(store).leaders).saturating_add(self.influence.of(store).leaders)
    }

    /// Bytes of the regions of a store, small ones counted as [`Config::region_size_floor_bytes`], and counting those
    /// in flight.
    #[must_use]
    pub fn region_bytes(&self, store: StoreId) -> i64 {
        signed(self.cluster.counters(store).weight_bytes)
            .saturating_add(self.influence.of(store).region_bytes)
    }

    /// The load of a store, counting what is in flight.
    #[must_use]
    pub fn load(&self, store: StoreId) -> i64 {
        signed(self.cluster.counters(store).load()).saturating_add(self.influence.of(store).load)
    }

    /// Whether the store may hold a new peer at all: it has joined, is in use and answers.
    ///
    /// # Errors
    /// The reason why not.
    pub fn may_hold(&self, store: StoreId) -> Result<&'a Store, Reason> {
        let store = self.cluster.store(store).ok_or(Reason::Unknown)?;
        match store.health(self.now, self.config) {
            Health::Up => Ok(store),
            health @ (Health::Disconnected
            | Health::Unhealthy
            | Health::Down
            | Health::Offline
            | Health::Tombstone) => Err(Reason::Health(health)),
        }
    }

    /// Whether the store may take one more peer now.
    ///
    /// # Errors
    /// The reason why not.
    pub fn may_take(&self, store: StoreId) -> Result<(), Reason> {
        let known = self.may_hold(store)?;
        if known.is_busy() {
            return Err(Reason::Busy);
        }
        if known.is_low_on_space(self.config) {
            return Err(Reason::LowSpace);
        }
        if self.influence.of(store).moves_in >= self.config.store_moves_in_max {
            return Err(Reason::MovesIn(self.config.store_moves_in_max));
        }
        Ok(())
    }

    /// Whether the store may give a peer away now. Draining stores may, silent ones until they count as down: then
    /// the replica checker is in charge.
    ///
    /// # Errors
    /// The reason why not.
    pub fn may_give(&self, store: StoreId) -> Result<(), Reason> {
        let health = self.health(store).ok_or(Reason::Unknown)?;
        if matches!(health, Health::Down | Health::Tombstone) {
            return Err(Reason::Health(health));
        }
        if self.influence.of(store).moves_out >= self.config.store_moves_out_max {
            return Err(Reason::MovesOut(self.config.store_moves_out_max));
        }
        Ok(())
    }

    /// Whether a peer on this store may be made leader.
    ///
    /// # Errors
    /// The reason why not.
    pub fn may_lead_on(&self, store: StoreId) -> Result<(), Reason> {
        let known = self.may_hold(store)?;
        if known.is_busy() {
            Err(Reason::Busy)
        } else if self.evicting.contains(&store) {
            Err(Reason::Evicting)
        } else {
            Ok(())
        }
    }

    /// Whether the region has a peer on this store or on another store of its node, not counting the one on
    /// `leaving`.
    #[must_use]
    pub fn node_is_taken(&self, region: &Region, store: StoreId, leaving: Option<StoreId>) -> bool {
        let node = self.cluster.node_of(store);
        let others = region.peers.iter().filter(|peer| Some(peer.store) != leaving);
        others
            .map(|peer| peer.store)
            .any(|other| other == store || (node.is_some() && self.cluster.node_of(other) == node))
    }

    /// Whether both stores belong to the same node.
    #[must_use]
    pub fn same_node(&self, one: StoreId, other: StoreId) -> bool {
        let node: Option<NodeId> = self.cluster.node_of(one);
        node.is_some() && node == self.cluster.node_of(other)
    }

    /// Stores that are neither gone nor down, draining ones included: those whose sizes and leaders are compared.
    pub fn sources(&self) -> impl Iterator<Item = &'a Store> {
        let (now, config) = (self.now, self.config);
        self.cluster
            .stores()
            .filter(move |store| !matches!(store.health(now, config), Health::Down | Health::Tombstone))
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Why a store may not give or take, or a region may not move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The store has not joined.
    Unknown,
    /// The store is not up.
    Health(Health),
    /// The store asks to be spared.
    Busy,
    /// The store has little space left.
    LowSpace,
    /// As many peers are on their way into the store as may be.
    MovesIn(u64),
    /// As many peers are on their way out of the store as may be.
    MovesOut(u64),
    /// The store is not to lead.
    Evicting,
    /// The region has a peer on that store's node.
    NodeTaken,
    /// The region's replicas would be less far apart, or closer than the isolation level allows.
    Isolation,
    /// The store is the best one there is already.
    NoBetterStore,
    /// The difference between the stores is too small for a move to make it smaller.
    WithinTolerance {
        /// The difference: bytes, leaders or load.
        difference: i64,
        /// What it would have to exceed.
        needed: i64,
    },
    /// It would even out load, and make sizes less even.
    SizesWouldSpread,
    /// It would even out load, and make leader counts less even.
    LeadersWouldSpread,
    /// The region has too few or too many replicas; that is repaired first.
    ReplicasOff {
        /// How many it has.
        has: u64,
        /// How many it is to have.
        wanted: u64,
    },
    /// The region has peers that lag or are silent.
    Unhealthy,
    /// A replica of the region is on a store that is to be emptied or is down, and moves first.
    Leaves,
    /// The region's leader is not known.
    NoLeader,
    /// The region is in a joint configuration.
    InJoint,
    /// The region is not led on that store, so its tables would come from another node.
    Follows,
    /// Something is being moved between the stores of the node, or was a moment ago.
    Moving,
    /// The region has an operator.
    Occupied,
    /// A person has placed the region a while ago; for so long, milliseconds, it is not moved for balance yet.
    Placed(u64),
    /// The store has no region that could be drawn.
    NothingToGive,
    /// No store is fit.
    NoStore,
    /// As many operators of the policy run as may.
    LimitReached(u64),
    /// As many operators were begun in this round as may; the next one goes on.
    RoundFull(u64),
    /// The policy is switched off.
    Disabled,
    /// The policy has nothing against this region.
    Content,
    /// The split key is not strictly inside a known region.
    KeyOutside,
    /// No key to split the region at was found a moment ago.
    TooLittleData,
    /// The region has been too busy for a short time only, milliseconds.
    BusyLately {
        /// For how long.
        busy_ms: u64,
        /// For how long it has to be before it is split.
        needed_ms: u64,
    },
    /// The region is too busy, and too few of its requests were sampled to say where to split it.
    Unsampled,
    /// The region is too busy, and no split would help: one key bears this share of the load, percent.
    OneKey(u64),
    /// The region is too busy, and no split would help: at best the lesser part would bear this share of the load, percent.
    Lopsided(u64),
    /// It would make sizes even, and load uneven.
    LoadsWouldSpread,
    /// Too few regions have reported since the scheduler began.
    Preparing,
    /// The region is small and stays as it is.
    Unmerged(Unmerged),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("has not joined"),
            Self::Health(health) => write!(f, "is {health}"),
            Self::Busy => f.write_str("asks to be spared"),
            Self::LowSpace => f.write_str("is low on space"),
            Self::MovesIn(max) => write!(f, "has {max} peers on their way in, its limit"),
            Self::MovesOut(max) => write!(f, "has {max} peers on their way out, its limit"),
            Self::Evicting => f.write_str("is not to lead"),
            Self::NodeTaken => f.write_str("is on a node that holds the region already"),
            Self::Isolation => f.write_str("would bring replicas too close together"),
            Self::NoBetterStore => f.write_str("no other store is better"),
            Self::WithinTolerance { difference, needed } => {
                write!(f, "the difference is {difference} and would have to exceed {needed}")
            }
            Self::SizesWouldSpread => f.write_str("would make sizes less even"),
            Self::LeadersWouldSpread => f.write_str("would make leader counts less even"),
            Self::ReplicasOff { has, wanted } => write!(f, "has {has} replicas instead of {wanted}"),
            Self::Unhealthy => f.write_str("has peers that lag or are silent"),
            Self::Leaves => {
                f.write_str("has a replica on a store that is to be emptied or down; that one moves first")
            }
            Self::NoLeader => f.write_str("has no known leader"),
            Self::InJoint => f.write_str("is in a joint configuration"),
            Self::Follows => f.write_str("is not led there, so its tables would come from another node"),
            Self::Moving => {
                f.write_str("something moves between the stores of its node, or did a moment ago")
            }
            Self::Occupied => f.write_str("has an operator already"),
            Self::Placed(left_ms) => {
                write!(
                    f,
                    "was placed by a person, and is left there for another {} s",
                    left_ms.div_ceil(1000)
                )
            }
            Self::NothingToGive => f.write_str("has no region that could be moved"),
            Self::NoStore => f.write_str("no store is fit"),
            Self::LimitReached(limit) => write!(f, "{limit} operators run, the limit"),
            Self::RoundFull(max) => write!(f, "{max} operators were begun in this round, its limit"),
            Self::Disabled => f.write_str("is switched off"),
            Self::TooLittleData => f.write_str("has too little data to be split"),
            Self::Content => f.write_str("is as it should be"),
            Self::KeyOutside => f.write_str("split key is not strictly inside a known region"),
            Self::BusyLately { busy_ms, needed_ms } => write!(
                f,
                "has been too busy for {} s; it is split once that has lasted {} s",
                busy_ms / 1000,
                needed_ms / 1000
            ),
            Self::Unsampled => f.write_str("is too busy, and no key to split it at is known yet"),
            Self::OneKey(percent) => {
                write!(f, "is too busy, and no split helps: one key has {percent} % of its load")
            }
            Self::Lopsided(percent) => {
                write!(
                    f,
                    "is too busy, and no split helps: the lesser part would bear {percent} % of its load"
                )
            }
            Self::LoadsWouldSpread => f.write_str("would make loads less even"),
            Self::Preparing => f.write_str("too few regions have reported yet"),
            Self::Unmerged(why) => write!(f, "{why}"),
        }
    }
}

/// Why a region that is small is not merged with a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmerged {
    /// The region was split a while ago, or is known for less; for so long, milliseconds, it is not merged yet.
    CutLately(u64),
    /// A merge of the region came to nothing a while ago; for so long, milliseconds, none is begun again.
    InVain(u64),
    /// No neighbour of the region is known.
    NoNeighbour,
    /// There are no more regions than stores in use, of which each is to have one.
    FewRegions(u64),
    /// The region is the only one of the store.
    OnlyRegion,
    /// Clients rely on the border to this neighbour.
    BorderKept(RegionId),
    /// The region and its neighbour together would be too large.
    LargeTogether {
        /// The neighbour.
        with: RegionId,
        /// The size of the two, bytes.
        bytes: u64,
        /// The most that they may have, bytes.
        max: u64,
    },
    /// The region and this neighbour together would be too busy.
    BusyTogether(RegionId),
}

impl fmt::Display for Unmerged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutLately(left_ms) => write!(
                f,
                "was split lately, or is not known for long; it is not merged for another {} s",
                left_ms.div_ceil(1000)
            ),
            Self::InVain(left_ms) => write!(
                f,
                "could not be merged a while ago; that is tried again in {} s",
                left_ms.div_ceil(1000)
            ),
            Self::NoNeighbour => f.write_str("is small, and has no neighbour that is known"),
            Self::FewRegions(stores) => {
                write!(f, "is small, and stays: there are {stores} stores, and no more regions than that")
            }
            Self::OnlyRegion => f.write_str("would be left without a region"),
            Self::BorderKept(other) => {
                write!(f, "ends where the keyspace does, and is not merged with {other}")
            }
            Self::LargeTogether { with, bytes, max } => write!(
                f,
                "is small, and would have {bytes} bytes together with {with}, more than {max}, half of what is split"
            ),
            Self::BusyTogether(other) => {
                write!(f, "is small, and would be too busy together with {other}")
            }
        }
    }
}

/// A policy's "no", with what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Who refuses.
    pub policy: Policy,
    /// The region it is about, if one.
    pub region: Option<RegionId>,
    /// The store it is about, if one.
    pub store: Option<StoreId>,
    /// Why.
    pub reason: Reason,
}

impl Refusal {
    /// A refusal that is about no region or store in particular.
    #[must_use]
    pub const fn new(policy: Policy, reason: Reason) -> Self {
        Self { policy, region: None, store: None, reason }
    }

    /// The same, about this region.
    #[must_use]
    pub const fn of_region(self, region: RegionId) -> Self {
        Self { region: Some(region), ..self }
    }

    /// The same, about this store.
    #[must_use]
    pub const fn of_store(self, store: StoreId) -> Self {
        Self { store: Some(store), ..self }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.policy)?;
        if let Some(region) = self.region {
            write!(f, " {region}")?;
        }
        if let Some(store) = self.store {
            write!(f, " {store}")?;
        }
        write!(f, " {}", self.reason)
    }
}
