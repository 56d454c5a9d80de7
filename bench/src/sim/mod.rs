//! Three nodes with one store each in the simulator, two regions with a voter on every node, clients that follow the leaders, and
//! clients that ask whichever node.
//!
//! Each seed draws the weather, whether leaders read by lease, and what befalls the nodes: power cuts, kills, pauses, links cut one way and
//! both ways, broken connections, transfers of leadership. Judged are the histories of all keys (what was acknowledged is there, what was
//! refused never happened, no read is stale), that a term has one leader, that the nodes agree once they are left alone, and that the
//! replicas hold the same data at the same index.
//!
//! | module | owns |
//! |---|---|
//! | [`run`] | one seed, from its calm beginning to its judgement |
//! | `nemesis` | what befalls the nodes |
//! | [`nodes`] | the nodes: stores, ports and connections by the code of the real one, without a scheduler |
//! | [`callers`], [`clients`] | clients over gRPC and over RESP, and those that know the regions of this cluster |
//! | [`judge`] | histories of keys, and whether they can have happened |
//! | [`story`] | what happened, for people |
//! | `seeds` | many seeds on all CPUs, and what they came to |
//!
//! `ringkeep bench sim` runs this in a binary with the feature `sim`, `store/tests/it/cluster` runs its first seeds. Both have the
//! simulated world below the code of the store, which a binary for production does not.

pub mod callers;
pub mod clients;
pub mod judge;
mod nemesis;
pub mod nodes;
pub mod run;
mod seeds;
pub mod story;

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
    /// Calls over RESP at whichever node that were carried out.
    pub answered_anywhere: u64,
    /// Such calls that were refused.
    pub refused_anywhere: u64,
}

impl Tally {
    /// Adds what another run has been through.
    pub fn add(&mut self, other: &Self) {
        let Self {
            answered,
            lost,
            terms,
            ends,
            cuts,
            transfers,
            snapshots,
            answered_anywhere,
            refused_anywhere,
        } = other;
        self.answered += answered;
        self.lost += lost;
        self.terms += terms;
        self.ends += ends;
        self.cuts += cuts;
        self.transfers += transfers;
        self.snapshots += snapshots;
        self.answered_anywhere += answered_anywhere;
        self.refused_anywhere += refused_anywhere;
    }
}
