//! What running operators are about to change, so that policies judge the cluster as it will be.
//!
//! Without it a policy would see a store as nearly empty until the first snapshot has arrived there, and send it a
//! hundred regions more. The map counts a peer as soon as the region lists it, so a step has influence only while the
//! map does not show its effect.

use std::collections::BTreeMap;

use super::build::Intent;
use crate::cluster::RegionInfo;
use crate::id::StoreId;

/// What is about to change in one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Regions it will lead more.
    pub leaders: i64,
    /// Peers it will hold more.
    pub regions: i64,
    /// Bytes it will hold more, in balancing weight.
    pub region_bytes: i64,
    /// Load it will bear more.
    pub load: i64,
    /// Peers on their way in, until they are caught up.
    pub moves_in: u64,
    /// Peers on their way out.
    pub moves_out: u64,
}

/// The deltas of all stores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Influence {
    deltas: BTreeMap<StoreId, Delta>,
}

impl Influence {
    /// No influence.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The delta of a store.
    #[must_use]
    pub fn of(&self, store: StoreId) -> Delta {
        self.deltas.get(&store).copied().unwrap_or_default()
    }

    /// The delta of a store, to change.
    pub fn of_mut(&mut self, store: StoreId) -> &mut Delta {
        self.deltas.entry(store).or_default()
    }
}

impl Influence {
    /// Adds what a proposal would change once it is carried out, for a policy that goes on thinking.
    pub fn add_intent(&mut self, info: &RegionInfo, weight_bytes: i64, intent: &Intent) {
        let write = i64::try_from(info.load.write_score()).unwrap_or(i64::MAX);
        let read = i64::try_from(info.load.read_score()).unwrap_or(i64::MAX);
        let mut arrive = |store: StoreId, bytes: i64, moves_in: u64| {
            let to = self.of_mut(store);
            to.regions += 1;
            to.region_bytes += bytes;
            to.load += write;
            to.moves_in += moves_in;
        };
        match intent {
            Intent::AddReplica { to } | Intent::MoveReplica { to, .. } | Intent::MoveLeader { to, .. } => {
                arrive(*to, weight_bytes, 1);
            }
            Intent::Relocate { to, .. } => arrive(*to, weight_bytes, 0),
            Intent::RemoveReplica { .. }
            | Intent::TransferLeader { .. }
            | Intent::Promote { .. }
            | Intent::LeaveJoint
            | Intent::Split { .. }
            | Intent::Merge { .. } => {}
        }
        if let Intent::RemoveReplica { from }
        | Intent::MoveReplica { from, .. }
        | Intent::MoveLeader { from, .. }
        | Intent::Relocate { from, .. } = intent
        {
            let delta = self.of_mut(*from);
            delta.regions -= 1;
            delta.region_bytes -= weight_bytes;
            delta.load -= write;
            delta.moves_out += u64::from(!matches!(intent, Intent::Relocate { .. }));
        }
        let leader = info.leader_store();
        match intent {
            Intent::TransferLeader { to } | Intent::MoveLeader { to, .. } => {
                self.hand_over(leader, *to, read);
            }
            Intent::Relocate { from, to } if leader == Some(*from) => self.hand_over(leader, *to, read),
            // Who takes over is decided when steps are made; until then only the loss is certain.
            Intent::MoveReplica { from, .. } | Intent::RemoveReplica { from } if leader == Some(*from) => {
                let delta = self.of_mut(*from);
                delta.leaders -= 1;
                delta.load -= read;
            }
            Intent::Relocate { .. }
            | Intent::MoveReplica { .. }
            | Intent::RemoveReplica { .. }
            | Intent::AddReplica { .. }
            | Intent::Promote { .. }
            | Intent::LeaveJoint
            | Intent::Split { .. }
            | Intent::Merge { .. } => {}
        }
    }

    fn hand_over(&mut self, from: Option<StoreId>, to: StoreId, read: i64) {
        if let Some(from) = from {
            let delta = self.of_mut(from);
            delta.leaders -= 1;
            delta.load -= read;
        }
        let delta = self.of_mut(to);
        delta.leaders += 1;
        delta.load += read;
    }
}
