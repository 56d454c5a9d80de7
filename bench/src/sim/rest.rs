//! What befalls nodes whose clients rest: the groups sleep, and nothing that a client asks wakes those that must wake by themselves.

use std::time::Duration;

use scheduler::{Region, RegionId, Role, StoreId};

use super::nodes::NODES;
use super::run::Run;

/// Groups whose clients rest sleep within this time, unless something has befallen them just before.
const SLEEP_MAX: Duration = Duration::from_secs(4);
/// Within this time nodes that can hear each other have a leader for every region, however often votes are split.
const LEADER_MAX: Duration = Duration::from_secs(30);

impl Run {
    /// The clients rest, until the replicas sleep or for a while.
    ///
    /// # Errors
    /// What was seen that must not be.
    pub fn rest(&mut self) -> Result<(), String> {
        self.record("the clients rest".to_owned());
        self.shared.rests.set(true);
        self.pass(SLEEP_MAX)?;
        self.tally.slept += self.asleep();
        Ok(())
    }

    /// The clients ask again.
    pub fn end_rest(&mut self) {
        self.record("the clients ask again".to_owned());
        self.shared.rests.set(false);
    }

    /// How many replicas sleep on the nodes that are up.
    pub fn asleep(&self) -> u64 {
        self.nodes.serving().map(|(_, shard)| shard.snapshot().groups.asleep).sum()
    }

    /// A node ends while the groups sleep. The others are not asked anything, and still choose leaders for what it led.
    ///
    /// # Errors
    /// They do not.
    pub fn end_at_rest(&mut self, number: usize, power: bool) -> Result<(), String> {
        self.rest()?;
        let sleeping = if self.faulty.is_none() { self.sleeping() } else { Vec::new() };
        self.end_one(number, power);
        let until = self.world.now() + LEADER_MAX;
        while let Some(region) = sleeping.iter().find(|region| self.nodes.leader(**region).is_none()) {
            if self.world.now() > until {
                return Err(format!("stuck: {region} has no leader while its clients rest"));
            }
            self.pass(Duration::from_millis(50))?;
        }
        self.end_rest();
        self.start_one(number);
        Ok(())
    }

    /// The regions of which every replica sleeps, is a voter and may vote: any two of three can go on without the third.
    fn sleeping(&self) -> Vec<RegionId> {
        let sleeps = |region: &Region, store: StoreId| {
            let shard =
                self.nodes.serving().find(|(_, shard)| shard.store() == store).map(|(_, shard)| shard);
            shard.and_then(|shard| shard.status(region.id)).is_some_and(|it| it.asleep && !it.suspect)
        };
        let whole = |region: &&Region| {
            region.peers.len() == NODES
                && region.peers.iter().all(|peer| peer.role == Role::Voter && sleeps(region, peer.store))
        };
        self.seen.map.regions().filter(whole).map(|region| region.id).collect()
    }
}
