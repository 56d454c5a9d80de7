//! A store as the scheduler sees it: where it stands, how full and how busy it is, and when it was last heard.
//!
//! A *node* is one process and groups the stores of its cores. They share a process and a disk, so no two replicas of a region
//! may live on stores of one node, and each store reports its share of the node's capacity. What a store holds is not
//! kept here but counted by the map ([`crate::cluster::Counters`]), because only region reports know it.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::Config;
use crate::id::{NodeId, StoreId};
use crate::load::Load;
use crate::time::Time;

/// What the cluster has decided about a store. Replicated; changed by command, never by the passing of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Lifecycle {
    /// In use.
    #[default]
    Up,
    /// Being drained: everything on it is moved away, nothing is moved to it.
    Offline,
    /// Gone for ever. Its id and its address stay known, so that neither comes back under the old identity.
    Tombstone,
}

/// What is known about a store when it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreDescriptor {
    /// Its identity.
    pub id: StoreId,
    /// The process it belongs to.
    pub node: NodeId,
    /// Where clients reach it, `host:port`. No two stores that are in use share one; one that is taken out of use and silent may have lost it.
    pub address: String,
    /// Where it stands, for example `zone` and `rack`; see [`Config::location_labels`].
    pub labels: BTreeMap<String, String>,
    /// What the cluster has decided about it.
    pub lifecycle: Lifecycle,
}

impl StoreDescriptor {
    /// A store in use on this node, reached at `address`, without labels.
    #[must_use]
    pub fn new(id: StoreId, node: NodeId, address: impl Into<String>) -> Self {
        Self { id, node, address: address.into(), labels: BTreeMap::new(), lifecycle: Lifecycle::Up }
    }

    /// The same store with one label more.
    #[must_use]
    pub fn with_label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }
}

/// What a store says of itself, every few seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreReport {
    /// Who reports.
    pub store: StoreId,
    /// Bytes it may fill: its share of the node's disk. Zero means unknown, and then space is not judged.
    pub capacity_bytes: u64,
    /// Bytes it has filled.
    pub used_bytes: u64,
    /// Bytes it could still fill.
    pub available_bytes: u64,
    /// How busy it is.
    pub load: Load,
    /// How many regions it holds a peer of, by its own count.
    pub region_count: u64,
    /// When its process started, in seconds of its own wall clock; a change means a restart.
    pub start_time_seconds: u64,
    /// It asks to be spared: its queues or its disk are full.
    pub busy: bool,
}

impl StoreReport {
    /// A report of an idle, empty store of unknown capacity.
    #[must_use]
    pub const fn empty(store: StoreId) -> Self {
        Self {
            store,
            capacity_bytes: 0,
            used_bytes: 0,
            available_bytes: 0,
            load: Load { read_bytes: 0, write_bytes: 0, read_ops: 0, write_ops: 0 },
            region_count: 0,
            start_time_seconds: 0,
            busy: false,
        }
    }

    /// Whether more than `ratio_percent` of the capacity is gone.
    #[must_use]
    pub fn is_low_on_space(&self, ratio_percent: u64) -> bool {
        let used = u128::from(self.capacity_bytes.saturating_sub(self.available_bytes));
        self.capacity_bytes > 0 && used * 100 > u128::from(self.capacity_bytes) * u128::from(ratio_percent)
    }
}

/// A store: its descriptor, its last report, and when it was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// What it is.
    pub descriptor: StoreDescriptor,
    /// What it said last, if it has said anything since this map was begun.
    pub report: Option<StoreReport>,
    /// When it was last heard; when it was entered here, if it has not been heard since.
    pub last_heard: Time,
    /// How often its process has been seen to start anew.
    pub restarts: u64,
}

/// How a store does, judged by its lifecycle and its silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// In use and heard recently.
    Up,
    /// In use and silent for a moment; nothing new is given to it.
    Disconnected,
    /// In use and silent for minutes.
    Unhealthy,
    /// In use and silent for so long that its replicas are made up elsewhere.
    Down,
    /// Being drained.
    Offline,
    /// Gone for ever.
    Tombstone,
}

impl Health {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Up, Self::Disconnected, Self::Unhealthy, Self::Down, Self::Offline, Self::Tombstone];
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Disconnected => "disconnected",
            Self::Unhealthy => "unhealthy",
            Self::Down => "down",
            Self::Offline => "offline",
            Self::Tombstone => "tombstone",
        })
    }
}

impl Store {
    /// A store that was entered at `now` and not yet heard.
    #[must_use]
    pub const fn new(descriptor: StoreDescriptor, now: Time) -> Self {
        Self { descriptor, report: None, last_heard: now, restarts: 0 }
    }

    /// Its identity.
    #[must_use]
    pub const fn id(&self) -> StoreId {
        self.descriptor.id
    }

    /// The process it belongs to.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.descriptor.node
    }

    /// How it does at `now`.
    #[must_use]
    pub fn health(&self, now: Time, config: &Config) -> Health {
        match self.descriptor.lifecycle {
            Lifecycle::Tombstone => return Health::Tombstone,
            Lifecycle::Offline => return Health::Offline,
            Lifecycle::Up => {}
        }
        let silent_ms = now.ms_since(self.last_heard);
        if silent_ms > config.store_down_ms {
            Health::Down
        } else if silent_ms > config.store_unhealthy_ms {
            Health::Unhealthy
        } else if silent_ms > config.store_disconnected_ms || self.report.is_none() {
            Health::Disconnected
        } else {
            Health::Up
        }
    }

    /// Whether it can be presumed to answer at `now`, whatever the cluster has decided about it.
    #[must_use]
    pub fn is_live(&self, now: Time, config: &Config) -> bool {
        self.descriptor.lifecycle != Lifecycle::Tombstone
            && self.report.is_some()
            && now.ms_since(self.last_heard) <= config.store_disconnected_ms
    }

    /// Whether it has asked to be spared.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.busy)
    }

    /// Whether its space is used up to the configured ratio.
    #[must_use]
    pub fn is_low_on_space(&self, config: &Config) -> bool {
        self.report.as_ref().is_some_and(|report| report.is_low_on_space(config.low_space_percent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_follows_silence_and_lifecycle() {
        let config = Config::default();
        let mut store = Store::new(StoreDescriptor::new(StoreId(1), NodeId(1), "a:1"), Time(0));
        assert_eq!(store.health(Time(0), &config), Health::Disconnected, "never heard");
        store.report = Some(StoreReport::empty(StoreId(1)));
        let rows = [
            (0, Health::Up),
            (20_000, Health::Up),
            (20_001, Health::Disconnected),
            (600_001, Health::Unhealthy),
            (1_800_000, Health::Unhealthy),
            (1_800_001, Health::Down),
        ];
        for (now, health) in rows {
            assert_eq!(store.health(Time(now), &config), health, "after {now} ms");
        }
        store.descriptor.lifecycle = Lifecycle::Offline;
        assert_eq!(store.health(Time(9_000_000), &config), Health::Offline);
        assert!(store.is_live(Time(20_000), &config));
        assert!(!store.is_live(Time(20_001), &config));
    }

    #[test]
    fn space_is_judged_only_where_the_capacity_is_known() {
        let mut report = StoreReport::empty(StoreId(1));
        assert!(!report.is_low_on_space(80));
        report.capacity_bytes = u64::MAX;
        report.available_bytes = 0;
        assert!(report.is_low_on_space(80));
        report.available_bytes = u64::MAX;
        assert!(!report.is_low_on_space(80));
    }
}
