//! Three nodes in the simulator, for some seeds with two stores each, two regions with a voter on every node, clients that follow the
//! leaders, and clients that ask whichever node.
//!
//! Each seed draws the weather, limits of the stores, whether leaders read by lease, and what befalls the nodes: power cuts, kills,
//! pauses, links cut one way and both ways, broken connections, clocks, disks that are slow, hung, full, failing, damaged or replaced,
//! splits, changes of membership, transfers of leadership, moves from one store of a node to the other. Judged are the histories of all keys (what was acknowledged is there, what was
//! refused never happened, no read is stale), that a term has one leader, that an index has one entry, that the regions cover the key
//! space once, that replicas hold the same data at the same index, and that the nodes come to rest once they are left alone.
//!
//! | module | owns |
//! |---|---|
//! | [`run`] | one seed, from its calm beginning to its judgement |
//! | `nemesis`, `disks` | what befalls the nodes, and their disks |
//! | `rest` | what befalls them while the clients rest and the groups sleep |
//! | [`nodes`] | the nodes: stores, ports and connections by the code of the real one, without a scheduler |
//! | `watch`, `map` | what is looked at while time passes: leaders, votes, entries, regions, data |
//! | `operators` | what a scheduler would ask of the leaders: splits, members that go and come, moves inside a node |
//! | [`callers`], [`clients`] | clients over gRPC and over RESP, and those that know the regions of this cluster |
//! | [`judge`](crate::judge) | histories of keys, and whether they can have happened |
//! | [`story`] | what happened, for people |
//! | `seeds` | many seeds on all CPUs, and what they came to |
//!
//! `ringkeep bench sim` runs this in a binary with the feature `sim`, `store/tests/it/cluster` runs its first seeds. Both have the
//! simulated world below the code of the store, which a binary for production does not.

pub mod callers;
pub mod clients;
mod disks;
mod map;
mod nemesis;
pub mod nodes;
mod operators;
mod rest;
pub mod run;
mod seeds;
pub mod story;
mod watch;

pub use crate::judge;
pub use seeds::{Options, SeedFailure, SimReport, run_seeds};

use serde::Serialize;

/// What runs have been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Calls that were answered.
    pub answered: u64,
    /// Calls whose outcome is not known.
    pub lost: u64,
    /// Terms that had a leader, over all regions.
    pub terms: u64,
    /// Nodes that were ended.
    pub ends: u64,
    /// Links that were cut.
    pub cuts: u64,
    /// Transfers of leadership that were begun.
    pub transfers: u64,
    /// Snapshots that stores took in.
    pub snapshots: u64,
    /// Splits that were begun.
    pub splits: u64,
    /// Merges that were begun.
    pub merges_begun: u64,
    /// Regions that others took in.
    pub merged: u64,
    /// Changes of membership that were begun.
    pub changes: u64,
    /// Moves from one store of a node to the other that were done.
    pub relocations: u64,
    /// Disks that were slow, hung, full, failing or damaged.
    pub bad_disks: u64,
    /// Disks that were replaced by empty ones.
    pub new_disks: u64,
    /// How often a replica's data was compared with another's of the same index.
    pub compared: u64,
    /// Entries that replicas applied, each counted once.
    pub entries: u64,
    /// Replicas that slept when the clients had rested.
    pub slept: u64,
    /// Calls over RESP at whichever node that were carried out.
    pub answered_anywhere: u64,
    /// Such calls that were refused.
    pub refused_anywhere: u64,
}

impl Tally {
    /// Every count with its name for people. What adds or prints a tally goes through this list, so that none is left out.
    pub fn counts(&mut self) -> [(&'static str, &mut u64); 19] {
        let Self {
            answered,
            lost,
            terms,
            ends,
            cuts,
            transfers,
            snapshots,
            splits,
            merges_begun,
            merged,
            changes,
            relocations,
            bad_disks,
            new_disks,
            compared,
            entries,
            slept,
            answered_anywhere,
            refused_anywhere,
        } = self;
        [
            ("calls answered", answered),
            ("over RESP", answered_anywhere),
            ("over RESP, refused", refused_anywhere),
            ("outcome not known", lost),
            ("terms with a leader", terms),
            ("nodes ended", ends),
            ("links cut", cuts),
            ("transfers of leadership", transfers),
            ("snapshots taken in", snapshots),
            ("regions split", splits),
            ("merges begun", merges_begun),
            ("regions merged", merged),
            ("members changed", changes),
            ("moved inside a node", relocations),
            ("disks bad", bad_disks),
            ("disks replaced", new_disks),
            ("replicas asleep", slept),
            ("entries", entries),
            ("replicas compared", compared),
        ]
    }

    /// Adds what another run has been through.
    pub fn add(&mut self, mut other: Self) {
        for ((_, sum), (_, count)) in self.counts().into_iter().zip(other.counts()) {
            *sum += *count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_of_every_run_is_in_the_sum() {
        let (mut sum, mut one) = (Tally::default(), Tally::default());
        one.counts().into_iter().enumerate().for_each(|(at, (_, count))| *count = at as u64 + 1);
        sum.add(one);
        sum.add(one);
        assert_eq!(sum.counts().map(|(_, count)| *count), std::array::from_fn(|at| 2 * (at as u64 + 1)));
    }
}
