//! What is looked at while time passes: leaders, votes, regions, entries, and at quiet moments the data of replicas at the same index.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use raft::{Index, NodeId, RoleKind, Status, Term};
use scheduler::{Region, RegionId, StoreId};
use store::shard::Shard;
use store::witness;

use super::map::Map;
use super::run::{Pairs, Run};

/// A vote is on disk by then, unless the disk is slow.
const ON_DISK: Duration = Duration::from_millis(600);

/// A vote, and since when it has been cast.
type Vote = (Term, Option<NodeId>, Duration);

/// What has been seen of a cluster.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) map: Map,
    /// Who led, by region and term.
    pub(super) leaders: BTreeMap<(RegionId, Term), StoreId>,
    /// Votes by node, region and peer.
    votes: BTreeMap<(usize, RegionId, NodeId), Vote>,
    /// The first data that was seen of a region at an index and version, and where.
    data: BTreeMap<(RegionId, u64, Index), (StoreId, Pairs)>,
    /// How often a replica's data was the same as another's at the same index.
    pub(super) compared: u64,
    /// Snapshots that each store had taken in when it was last looked at.
    received: BTreeMap<StoreId, u64>,
}

impl Seen {
    /// Of a cluster that begins with these regions.
    pub(super) fn of(regions: Vec<Region>) -> Self {
        Self { map: Map::of(regions), ..Self::default() }
    }
}

impl Run {
    /// Everything that can be seen without waiting.
    ///
    /// # Errors
    /// What must not be.
    pub(super) fn look(&mut self) -> Result<(), String> {
        self.count_snapshots();
        for (number, shard) in self.nodes.serving().collect::<Vec<_>>() {
            if let Some(why) = shard.stopped() {
                if self.faulty == Some(number) {
                    continue;
                }
                return Err(format!("{} of node {number} stopped: {why}", shard.store()));
            }
            let regions: Vec<_> = shard.whole().into_iter().map(|(region, _)| region).collect();
            if self.seen.map.show(number, regions)? {
                *self.shared.regions.borrow_mut() = self.seen.map.regions().cloned().collect();
            }
            for (region, ..) in shard.regions() {
                let Some(status) = shard.status(region.id) else { continue };
                self.remember_vote(number, region.id, &status)?;
                self.one_leads((number, shard.store()), region.id, &status)?;
            }
        }
        if let Some(what) = witness::contradiction() {
            return Err(what);
        }
        match self.shared.failures.borrow().first() {
            Some(why) => Err(format!("a client was refused: {why}")),
            None => Ok(()),
        }
    }

    fn one_leads(
        &mut self,
        (number, store): (usize, StoreId),
        region: RegionId,
        status: &Status,
    ) -> Result<(), String> {
        if status.role != RoleKind::Leader {
            return Ok(());
        }
        let (at, term) = (self.world.now(), status.term);
        let leader = *self.seen.leaders.entry((region, term)).or_insert_with(|| {
            self.story.add(at, format!("{store} of node {number} leads {region} in term {term}"));
            store
        });
        match leader == store {
            true => Ok(()),
            false => Err(format!("{leader} and {store} both led {region} in term {term}")),
        }
    }

    /// A vote that was cast is never taken back, and no term ends before its time.
    fn remember_vote(&mut self, number: usize, region: RegionId, status: &Status) -> Result<(), String> {
        let (now, cast, place) = (self.world.now(), (status.term, status.vote), (number, region, status.id));
        if self.slow || now < self.slow_until {
            self.seen.votes.insert(place, (cast.0, cast.1, now));
        }
        let (term, vote, since) = *self.seen.votes.entry(place).or_insert((cast.0, cast.1, now));
        if (term, vote) == cast {
            return Ok(());
        }
        let on_disk = now.saturating_sub(since) > ON_DISK;
        if on_disk && (cast.0 < term || (cast.0 == term && vote.is_some())) {
            return Err(format!(
                "node {number} was in term {term} of {region} with the vote {vote:?} for {:?}, and is in {} with {:?}",
                now.saturating_sub(since),
                cast.0,
                cast.1
            ));
        }
        self.seen.votes.insert(place, (cast.0, cast.1, now));
        Ok(())
    }

    /// A node has ended: votes that it had cast just now need not have reached its disk.
    pub(super) fn forget_young_votes(&mut self, number: usize) {
        let now = self.world.now();
        let is_young = |since: Duration| now.saturating_sub(since) < ON_DISK;
        self.seen.votes.retain(|(node, ..), (_, _, since)| *node != number || !is_young(*since));
    }

    /// A disk had stopped before its node ended: none of the node's votes need have reached it.
    pub fn forget_votes(&mut self, number: usize) {
        self.seen.votes.retain(|(node, ..), _| *node != number);
    }

    /// Snapshots that the stores have taken in since they were opened.
    fn count_snapshots(&mut self) {
        for (_, shard) in self.nodes.serving() {
            let received = shard.counters().snapshots.received.get();
            let before = self.seen.received.insert(shard.store(), received).unwrap_or(0);
            // A store that was opened again begins to count anew.
            self.tally.snapshots += if received >= before { received - before } else { received };
        }
    }

    /// Replicas hold the same data at the same index, whenever they were there. No node may be paused.
    ///
    /// # Errors
    /// They do not, or a tree cannot be read.
    pub(super) fn compare(&mut self) -> Result<(), String> {
        for (number, shard) in self.nodes.serving().collect::<Vec<_>>() {
            if shard.stopped().is_some() {
                continue;
            }
            let store = shard.store();
            let reading = self.nodes.node(number).start(1, move |_| async move {
                shard.applied_of_all().await.map_err(|fault| fault.to_string())
            });
            let held = self.world.block_on(reading).ok_or("a node ended by itself")??;
            for (region, index, pairs) in held {
                let place = (region.id, region.epoch.version, index);
                let (other, first) = self.seen.data.entry(place).or_insert_with(|| (store, pairs.clone()));
                if *first != pairs {
                    return Err(format!(
                        "{other} and {store} differ in {} at index {index}: {}",
                        region.id,
                        differ(&[first.clone(), pairs])
                    ));
                }
                self.seen.compared += u64::from(*other != store);
            }
        }
        Ok(())
    }

    /// What a node's applied state has in a range.
    ///
    /// # Errors
    /// The tree cannot be read, or the node ended.
    pub fn held(&self, number: usize, shard: Shard, range: scheduler::KeyRange) -> Result<Pairs, String> {
        let reading = self.nodes.node(number).start(1, move |_| async move {
            shard.applied_pairs(&range).await.map_err(|fault| fault.to_string())
        });
        self.world.block_on(reading).ok_or("a node ended by itself")?
    }
}

/// Where replicas differ: per key what each of them holds, cut short.
pub(super) fn differ(held: &[Pairs]) -> String {
    let short = |bytes: &Bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(24)]).into_owned();
    let mut by_key: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
    for (number, pairs) in held.iter().enumerate() {
        for (key, value) in pairs {
            by_key.entry(short(key)).or_insert_with(|| vec![None; held.len()])[number] = Some(short(value));
        }
    }
    by_key.retain(|_, values| values.windows(2).any(|pair| pair[0] != pair[1]));
    format!("{by_key:?}")
}
