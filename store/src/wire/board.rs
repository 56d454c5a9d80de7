//! Where cores leave copies of their numbers for whoever publishes them.
//!
//! One slot per core, written once a second by its core and read by a plain thread; the lock is never contended on a request
//! path, because no request takes it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{grpc, resp};
use crate::control::SchedulerNumbers;
use crate::gateway::GatewayNumbers;
use crate::memory::PoolUse;
use crate::secret::Unproven;
use crate::shard::counters::StoreNumbers;

/// What one core says about itself.
#[derive(Clone, Debug, Default)]
pub struct CoreReport {
    /// The core.
    pub core: usize,
    /// Its stores.
    pub stores: Vec<StoreNumbers>,
    /// Keys that the trees of its stores estimate in the regions that are led here, some seconds old.
    pub keys: u64,
    /// Its RESP server.
    pub resp: resp::RespNumbers,
    /// Its gRPC servers, summed.
    pub grpc: grpc::Stats,
    /// How its gRPC requests ended, by method and status.
    pub grpc_requests: Vec<grpc::Ended>,
    /// Connections and calls of nodes that its PD port has refused because of the cluster's secret, in the order of [`Unproven::NAMES`].
    pub unproven: [u64; Unproven::COUNT],
    /// Operations forwarded to other cores and not answered yet.
    pub forwarded: u64,
    /// What it has sent on and again.
    pub gateway: GatewayNumbers,
    /// RESP connections that the node takes at most, over all cores.
    pub resp_connections_max: u64,
    /// gRPC connections that it takes at most, over its stores.
    pub grpc_connections_max: u64,
    /// What clients and other stores make it hold, by bound.
    pub memory: Vec<PoolUse>,
    /// What the scheduler says of the cluster, on the core that hosts it.
    pub scheduler: Option<SchedulerNumbers>,
    /// CPU time that its thread has used.
    pub busy: Duration,
}

/// The slots of all cores, and what the node knows of its stores beside what their cores say.
#[derive(Clone, Debug)]
pub struct Board {
    slots: Arc<Vec<Mutex<CoreReport>>>,
    gone: Arc<Mutex<BTreeSet<u64>>>,
    refused: Arc<Mutex<Option<String>>>,
}

impl Board {
    /// A board for `cores` cores.
    pub fn new(cores: usize) -> Self {
        let slot = |core| Mutex::new(CoreReport { core, ..CoreReport::default() });
        Self {
            slots: Arc::new((0..cores).map(slot).collect()),
            gone: Arc::default(),
            refused: Arc::default(),
        }
    }

    /// Replaces a core's report.
    pub fn post(&self, report: CoreReport) {
        let core = report.core;
        *self.slots[core].lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// Notes that the cluster took a store of this node out of use for good. Whether that is new.
    pub fn note_gone(&self, store: u64) -> bool {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).insert(store)
    }

    /// The stores of this node that the cluster took out of use for good.
    pub fn gone(&self) -> BTreeSet<u64> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes why the cluster does not take this node's stores, or that it does. Whether that is new.
    pub fn note_refused(&self, why: Option<String>) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = refused.is_some() != why.is_some();
        *refused = why;
        is_new
    }

    /// Why the cluster does not take this node's stores, if it does not.
    pub fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the cluster has a store of this node in use, as far as the node has heard.
    pub fn is_in_use(&self, store: u64) -> bool {
        self.refused().is_none() && !self.gone().contains(&store)
    }

    /// The latest report of every core.
    pub fn read(&self) -> Vec<CoreReport> {
        self.slots.iter().map(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }
}
