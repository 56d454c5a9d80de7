//! What befalls the nodes of a run: one thing at a time, drawn from the seed, recorded in the story, and mended again.

use std::time::Duration;

use super::nodes::{NODES, regions};
use super::run::{CLIENTS, Run};

impl Run {
    fn draw_node(&self) -> usize {
        self.world.below(NODES as u64) as usize
    }

    pub(super) fn draw_ms(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.world.below(most - least))
    }

    /// The node that leads a region, or any.
    fn a_leader(&self) -> usize {
        let region = regions()[self.world.below(2) as usize].id;
        self.nodes.leader(region).map_or_else(|| self.draw_node(), |(number, _)| number)
    }

    pub(super) fn end_one(&mut self, number: usize, power: bool) {
        self.record(format!("node {number} {}", if power { "loses its power" } else { "is killed" }));
        self.nodes.end(number, power);
        self.forget_young_votes(number);
        self.tally.ends += 1;
    }

    pub(super) fn start_one(&mut self, number: usize) {
        self.record(format!("node {number} is started"));
        self.nodes.start(number);
    }

    pub(super) fn end(&mut self, number: usize, away: Duration) -> Result<(), String> {
        let power = self.world.below(3) != 0;
        self.end_one(number, power);
        self.pass(away)?;
        self.start_one(number);
        Ok(())
    }

    fn heal(&mut self) {
        self.record("the links are whole again".to_owned());
        self.world.heal_network();
    }

    /// Something goes wrong, and is mended.
    pub(super) fn befall(&mut self) -> Result<(), String> {
        let (one, other) = (self.draw_node(), self.draw_node());
        // Regions move inside nodes that have two stores.
        let moves = if self.nodes.setup.stores_each > 1 { 6 } else { 0 };
        if self.nodes.setup.merges {
            // Behind a merge that has just begun, something else befalls the nodes at once.
            self.merge_one()?;
        }
        match self.world.below(33 + moves) {
            0 => self.end(one, self.draw_ms(100, 3000))?,
            1 | 2 => self.end(self.a_leader(), self.draw_ms(20, 3000))?,
            3 => self.end_two(one)?,
            4 => self.cut_one_way(one)?,
            5 => self.cut_off()?,
            6 => {
                if one != other {
                    self.record(format!("connections between the nodes {one} and {other} break"));
                    self.world.reset(self.nodes.node(one), self.nodes.node(other));
                }
            }
            7 => self.pause_leader()?,
            8 | 32 => self.transfer(one),
            9 => self.dark()?,
            10 | 11 => self.stay_away(one)?,
            12 => self.slow_disks(one, other)?,
            13 => self.slow_disks(self.a_leader(), other)?,
            14 => self.hang_disk(one)?,
            15 => self.fill_disk(one)?,
            16 => self.fail_disk(one)?,
            17 => self.damage_disk(one)?,
            18 => self.lose_disk(one)?,
            19 => self.slow_processor(one)?,
            20 => self.jump_clock(one)?,
            21 => self.one_by_one()?,
            22 => self.slow_link(one, other)?,
            23 | 24 => self.split_one(),
            25..=27 => self.change_one()?,
            28 => {
                self.rest()?;
                self.end_rest();
            }
            29 | 30 => {
                let power = self.world.below(3) != 0;
                self.end_at_rest(self.a_leader(), power)?;
            }
            31 => {
                // The leader sleeps, and does not hear that there is another one when it is asked.
                self.rest()?;
                self.end_rest();
                self.cut_off()?;
            }
            33..=38 => self.relocate_one()?,
            _ => unreachable!("it is below thirty-nine"),
        }
        self.pass(self.draw_ms(100, 2500))
    }

    /// A leader loses its power, and before it is back another node ends.
    fn end_two(&mut self, second: usize) -> Result<(), String> {
        let first = self.a_leader();
        self.end_one(first, true);
        self.pass(self.draw_ms(1, 2500))?;
        if second != first {
            self.end(second, self.draw_ms(1, 500))?;
        }
        self.start_one(first);
        Ok(())
    }

    /// What a leader says does not reach another node.
    fn cut_one_way(&mut self, to: usize) -> Result<(), String> {
        let from = self.a_leader();
        if from == to {
            return Ok(());
        }
        self.record(format!("what node {from} says does not reach node {to}"));
        self.world.cut_one_way(self.nodes.node(from), self.nodes.node(to));
        self.tally.cuts += 1;
        self.pass(self.draw_ms(500, 5000))?;
        self.heal();
        Ok(())
    }

    /// A leader whose clock is slow is cut off from the other nodes, and not from its clients.
    fn cut_off(&mut self) -> Result<(), String> {
        let alone = self.a_leader();
        // Where leaders ask for every read, no clock matters; where they do not, voters allow for some drift.
        let drift_ppm = if self.lease.is_zero() { -500_000 } else { -50_000 };
        self.record(format!("node {alone} is cut off from the others, its clock drifts by {drift_ppm} ppm"));
        self.nodes.node(alone).drift(drift_ppm);
        self.world.partition(&[self.nodes.node(alone)]);
        // Its clients stay with it.
        for client in 0..CLIENTS {
            self.world.join(self.nodes.node(alone), &self.world.node(NODES + client));
        }
        self.tally.cuts += 1;
        self.pass(self.draw_ms(500, 5000))?;
        self.heal();
        self.nodes.node(alone).drift(0);
        Ok(())
    }

    fn pause_leader(&mut self) -> Result<(), String> {
        let asleep = self.a_leader();
        self.record(format!("node {asleep} is paused"));
        self.nodes.node(asleep).pause();
        self.slow = true;
        self.pass(self.draw_ms(200, 4000))?;
        self.record(format!("node {asleep} goes on"));
        self.nodes.node(asleep).resume();
        self.slow = false;
        Ok(())
    }

    fn transfer(&mut self, to: usize) {
        let region = regions().swap_remove(self.world.below(2) as usize);
        let known = |shard: &store::shard::Shard| {
            let mut all = shard.whole().into_iter().map(|(known, _)| known);
            all.find(|known| known.id == region.id)
        };
        if let Some((from, leader)) = self.nodes.leader(region.id)
            && let Some(region) = known(&leader)
            && let Some(peer) = self.nodes.stores(to).iter().find_map(|store| region.peer_on(*store))
            && leader.transfer(region.id, peer.id, region.epoch).is_ok()
        {
            self.record(format!("node {from} hands {} to node {to}", region.id));
            self.tally.transfers += 1;
        }
    }

    /// A node computes slowly for a while.
    fn slow_processor(&mut self, number: usize) -> Result<(), String> {
        let factor = 2 + self.world.below(60);
        self.record(format!("node {number} computes {factor} times slower"));
        self.slow = true;
        self.nodes.node(number).slow_cpu(factor);
        self.pass(self.draw_ms(500, 4000))?;
        self.nodes.node(number).slow_cpu(1);
        self.record(format!("node {number} computes as before"));
        self.slow = false;
        Ok(())
    }

    /// A node's wall clock jumps, and its monotonic one drifts by what leases allow for until the next such event.
    fn jump_clock(&mut self, number: usize) -> Result<(), String> {
        let hour = 3_600_000_000_000_i64;
        let nanos = i64::try_from(self.world.below(2 * hour as u64)).expect("two hours are few") - hour;
        let drift_ppm = i64::try_from(self.world.below(100_000)).expect("it is small") - 50_000;
        self.record(format!(
            "the wall clock of node {number} jumps by {nanos} ns, its clock drifts by {drift_ppm} ppm"
        ));
        self.nodes.node(number).jump_wall(nanos);
        self.nodes.node(number).drift(drift_ppm);
        self.pass(self.draw_ms(500, 3000))
    }

    /// The links of all nodes are cut one by one and joined again in another order.
    fn one_by_one(&mut self) -> Result<(), String> {
        let first = self.draw_node();
        for step in 0..NODES {
            let (one, other) = ((first + step) % NODES, (first + step + 1) % NODES);
            self.record(format!("the link between the nodes {one} and {other} is cut"));
            self.world.cut(self.nodes.node(one), self.nodes.node(other));
            self.tally.cuts += 1;
            self.pass(self.draw_ms(50, 1500))?;
        }
        let first = self.draw_node();
        for step in 0..NODES {
            let (one, other) = ((first + step) % NODES, (first + step + 1) % NODES);
            self.record(format!("the nodes {one} and {other} are joined again"));
            self.world.join(self.nodes.node(one), self.nodes.node(other));
            self.pass(self.draw_ms(50, 1500))?;
        }
        self.heal();
        Ok(())
    }

    /// What one node says takes long to reach another.
    fn slow_link(&mut self, from: usize, to: usize) -> Result<(), String> {
        let extra = self.draw_ms(20, 1500);
        self.record(format!("what node {from} says takes {extra:?} longer to reach node {to}"));
        self.world.slow_link(self.nodes.node(from), self.nodes.node(to), extra);
        self.pass(self.draw_ms(500, 4000))?;
        self.heal();
        Ok(())
    }

    /// A node is away until the others have cut from their logs what it lacks. A link that is cut for so long would cost the simulated
    /// network more than the rest of the run.
    fn stay_away(&mut self, away: usize) -> Result<(), String> {
        let power = self.world.below(2) == 0;
        self.end_one(away, power);
        self.pass(self.draw_ms(6000, 15_000))?;
        self.start_one(away);
        // While it catches up others may fail, too.
        self.pass(self.draw_ms(10, 3000))
    }

    /// The disks of those that follow are slow, then all nodes lose their power at once, and the leader comes back last.
    fn dark(&mut self) -> Result<(), String> {
        let leader = self.a_leader();
        let factor = 20 + self.world.below(300);
        let slow = |run: &mut Self, factor: u64| {
            (0..NODES)
                .filter(|number| *number != leader)
                .for_each(|number| run.nodes.node(number).disk().slow(factor));
            run.slow = factor > 1;
        };
        self.record(format!("all disks but that of node {leader} are {factor} times slower"));
        slow(self, factor);
        self.pass(self.draw_ms(100, 800))?;
        (0..NODES).for_each(|number| self.end_one(number, true));
        slow(self, 1);
        self.pass(self.draw_ms(1, 500))?;
        (0..NODES).filter(|number| *number != leader).for_each(|number| self.start_one(number));
        self.pass(self.draw_ms(1, 4000))?;
        self.start_one(leader);
        Ok(())
    }
}
