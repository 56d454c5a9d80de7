//! Before a node drains, what its stores lead goes to replicas on other nodes, so that no client waits for an election.
//!
//! ```text
//!   led here ──▶ asked of a voter elsewhere that is caught up ──▶ led there
//!       ▲                        │ not taken in time
//!       └──── the next voter ────┘
//! ```
//!
//! Clients are served meanwhile: what they ask for a region that has gone is brought to its leader, as always. A region that no other node
//! else can lead stays, and so does everything that is not taken in time: its clients wait for an election then.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::rt::Rt;
use scheduler::{Peer, Region, RegionId, Role};

use crate::plant::{Bug, planted};
use crate::region::peers::Behind;
use crate::shard::Shard;

/// The longest time that a drain spends here, several attempts per region.
pub(super) const HAND_OVER_MAX: Duration = Duration::from_secs(5);
/// How often it is looked what is still led here.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Hands over what can be led elsewhere, within `most`.
pub(super) async fn hand_over(rt: &Rt, shards: &BTreeMap<usize, Shard>, most: Duration) {
    if planted(Bug::NothingHandedOver) {
        return;
    }
    let (began, budget) = (rt.now(), rt.budget());
    let mut attempts: BTreeMap<RegionId, usize> = BTreeMap::new();
    loop {
        let mut left = 0u64;
        for shard in shards.values() {
            for (region, _, leads) in shard.groups() {
                budget.tick().await;
                if !leads {
                    continue;
                }
                let attempt = attempts.entry(region.id).or_default();
                let Some(to) = successor(shard, &region, *attempt) else { continue };
                left += 1;
                // While one attempt goes on, or before the region can hand over, another one is refused.
                if shard.transfer(region.id, to.id, region.epoch).is_ok() {
                    *attempt += 1;
                }
            }
        }
        if left == 0 {
            return;
        }
        if rt.now().since(began) >= most {
            tracing::warn!(core = rt.core(), regions = left, "regions are not handed over in time");
            return;
        }
        rt.sleep(LOOK_EVERY).await;
    }
}

/// Whom a region is handed to at an attempt: the voters on other stores in turn, as far as their leader hears them and they lack nothing.
fn successor(shard: &Shard, region: &Region, attempt: usize) -> Option<Peer> {
    let Behind { pending, down } = shard.behind(region.id);
    let could = |peer: &&Peer| {
        peer.store != shard.store()
            && peer.role == Role::Voter
            && !pending.contains(&peer.id)
            && down.iter().all(|silent| silent.peer != peer.id)
    };
    let voters: Vec<Peer> = region.peers.iter().filter(could).copied().collect();
    voters.get(attempt % voters.len().max(1)).copied()
}
