//! Emptying stores that are offline, and making up for those that are down.
//!
//! The replica checker knows what to do with a region that has a peer on such a store; this policy finds the regions
//! by the store instead of waiting until a patrol comes by. A drained store is buried by command once nothing is on it.

use crate::balance::Round;
use crate::check::replica;
use crate::cluster::{Kind, RegionInfo};
use crate::filter::{Reason, Refusal, View};
use crate::id::StoreId;
use crate::operator::{Policy, Proposal};
use crate::placement::Board;
use crate::store::Health;

/// Proposals for up to `max` regions on stores that are offline or down, looking at no more than `patrol` regions of
/// each. What is found is counted into `board`.
#[must_use]
pub fn propose(view: &View<'_>, board: &mut Board, patrol: usize, max: usize) -> Round {
    let mut round = Round::default();
    let leaving: Vec<StoreId> = leaving(view).collect();
    let mut seen = std::collections::BTreeSet::new();
    for store in leaving {
        for info in regions_on(view, store).take(patrol) {
            if round.proposals.len() >= max {
                return round;
            }
            match check(view, board, info, store) {
                Ok(proposal) if seen.insert(proposal.region) => {
                    board.count(view, info, &proposal.intent);
                    round.proposals.push(proposal);
                }
                Ok(_) => {}
                Err(refusal) => round.refusal = Some(refusal.of_store(store)),
            }
        }
    }
    round
}

fn check(view: &View<'_>, board: &Board, info: &RegionInfo, store: StoreId) -> Result<Proposal, Refusal> {
    let gives = view.with_influence(board.influence()).influence.of(store).moves_out;
    let max = view.config.store_moves_out_max;
    // A store that is down costs nothing to leave; one that is drained still serves, and is read from.
    if view.health(store) == Some(Health::Offline) && gives >= max {
        return Err(Refusal::new(Policy::Drain, Reason::MovesOut(max)).of_region(info.id()));
    }
    replica::check(view, board, info, Policy::Drain)
}

/// Stores that are to be emptied: offline or down.
pub fn leaving(view: &View<'_>) -> impl Iterator<Item = StoreId> {
    let stores = view.cluster.stores().map(crate::store::Store::id);
    stores.filter(|store| matches!(view.health(*store), Some(Health::Offline | Health::Down)))
}

/// Whether an offline store holds nothing any more and may be buried.
#[must_use]
pub fn is_drained(view: &View<'_>, store: StoreId) -> bool {
    view.health(store) == Some(Health::Offline)
        && view.cluster.counters(store).regions() == 0
        && view.influence.of(store).moves_in == 0
}

fn regions_on<'a>(view: &View<'a>, store: StoreId) -> impl Iterator<Item = &'a RegionInfo> {
    let cluster = view.cluster;
    let kinds = [Kind::Leader, Kind::Follower, Kind::Learner];
    kinds.into_iter().flat_map(move |kind| cluster.peers_of(store, kind))
}
