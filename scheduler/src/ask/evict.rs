//! Keeping leaders off a store: before a restart, or because it is slow.

use crate::balance::{Round, may_touch};
use crate::cluster::Kind;
use crate::filter::{Reason, Refusal, View};
use crate::operator::{Cause, Intent, Policy, Proposal};

/// Up to `max` transfers away from stores that are not to lead, each to the follower with the fewest leaders.
#[must_use]
pub fn propose(view: &View<'_>, max: usize) -> Round {
    let mut influence = view.influence.clone();
    let mut round = Round::default();
    for store in view.evicting {
        for info in view.cluster.peers_of(*store, Kind::Leader) {
            if round.proposals.len() >= max {
                return round;
            }
            let seen = view.with_influence(&influence);
            let refuse =
                |reason| Refusal::new(Policy::EvictLeader, reason).of_store(*store).of_region(info.id());
            if let Err(reason) = may_touch(view, info, None) {
                round.refusal = Some(refuse(reason));
                continue;
            }
            let fit = info.follower_stores().filter(|store| view.may_lead_on(*store).is_ok());
            let Some(to) = fit.min_by_key(|store| (seen.leaders(*store), *store)) else {
                round.refusal = Some(refuse(Reason::NoStore));
                continue;
            };
            let intent = Intent::TransferLeader { to };
            influence.add_intent(info, 0, &intent);
            round.proposals.push(Proposal::new(info, Policy::EvictLeader, Cause::Evicted, intent));
        }
    }
    round
}
