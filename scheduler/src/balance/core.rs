//! Even load over the stores of a node, that is, over its cores.
//!
//! A relocation moves no bytes over the network and none on the disk, so it is the cheapest answer to a busy core. For
//! each node the busiest store gives a region to the idlest one, if [`super::shift`] permits it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Round;
use super::shift::{Judge, Move, load_on, mean};
use crate::filter::{Reason, Refusal, View};
use crate::id::{NodeId, StoreId};
use crate::operator::{Cause, Policy, Proposal};
use crate::rng::Rng;

/// At most one relocation, or one exchange, for each node, and no more than `max` proposals.
#[must_use]
pub fn propose(view: &View<'_>, rng: &mut Rng, max: usize) -> Round {
    let mut by_node: BTreeMap<NodeId, Vec<StoreId>> = BTreeMap::new();
    for store in view.sources().filter(|store| view.may_hold(store.id()).is_ok()) {
        by_node.entry(store.node()).or_default().push(store.id());
    }
    let mut judge = Judge::new(view);
    let mut round = Round::default();
    for stores in by_node.values() {
        match even_out(&judge, rng, stores) {
            // Half an exchange would undo what the other half is for.
            Ok(moves) if round.proposals.len() + moves.len() > max => break,
            Ok(moves) => {
                for (info, intent) in moves {
                    judge.count(info, &intent);
                    round.proposals.push(Proposal::new(info, Policy::BalanceCore, Cause::Hot, intent));
                }
            }
            Err(refusal) => round.refusal = Some(refusal),
        }
    }
    round
}

fn even_out<'a>(judge: &Judge<'a>, rng: &mut Rng, stores: &[StoreId]) -> Result<Vec<Move<'a>>, Refusal> {
    let refuse = |reason| Refusal::new(Policy::BalanceCore, reason);
    let view = judge.seen();
    let loads = || stores.iter().map(|store| (view.load(*store), *store));
    let mean = mean(loads().map(|(load, _)| load));
    let (Some((most, from)), Some((least, to)), Some(mean)) = (loads().max(), loads().min(), mean) else {
        return Err(refuse(Reason::NoStore));
    };
    let difference = most - least;
    let needed = view.config.tolerated_load(mean, view.config.core_tolerance_percent);
    if difference <= needed {
        return Err(refuse(Reason::WithinTolerance { difference, needed }).of_store(from));
    }
    let mut busy = judge.drawn(rng, from);
    busy.retain(|info| (1..difference / 2).contains(&load_on(info, from)));
    busy.sort_unstable_by_key(|info| (Reverse(load_on(info, from)), info.id()));
    judge.find(rng, &busy, from, to).map_err(|reason| refuse(reason).of_store(from))
}
