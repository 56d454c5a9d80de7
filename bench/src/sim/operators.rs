//! What a scheduler would have the leaders do: regions are split, members go and come back, and a region that lacks members, or has some
//! on disks that are gone, gets others.
//!
//! A step is thought out by what the stores show and asked of the leader's store, as the scheduler asks. It may be refused, and is then
//! thought out anew.

use std::time::Duration;

use scheduler::operator::OperatorId;
use scheduler::{Action, Change, Instruction, Key, NewRegion, PeerId, Region, RegionId, Role, StoreId};
use store::shard::Shard;

use super::nodes::{NODES, node_of};
use super::run::Run;

/// Where regions are cut: between the keys of the clients, and at some of them.
const BORDERS: [&str; 8] = ["0", "a", "b", "c5", "n", "o", "p5", "z"];
/// So many regions are enough.
const REGIONS_MAX: usize = 6;

/// Which steps are due, and ids that were not used.
#[derive(Debug)]
pub(super) struct Operators {
    next_id: u64,
    /// When steps are thought out again.
    due: Duration,
}

impl Default for Operators {
    fn default() -> Self {
        Self { next_id: 1000, due: Duration::ZERO }
    }
}

impl Run {
    fn new_id(&mut self) -> u64 {
        self.operators.next_id += 1;
        self.operators.next_id
    }

    /// The node that leads a region, its store, and the region as that store has it.
    fn led(&self, region: RegionId) -> Option<(usize, Shard, Region)> {
        let (number, shard) = self.nodes.leader(region)?;
        let known = shard.whole().into_iter().map(|(known, _)| known).find(|known| known.id == region)?;
        Some((number, shard, known))
    }

    /// Asks the leader of a region for a step. Whether it has begun.
    fn step(&mut self, region: &Region, action: Action) -> bool {
        let Some((number, shard, known)) = self.led(region.id) else { return false };
        let Some(leader) = known.peer_on(self.nodes.store(number)).copied() else { return false };
        let operator = OperatorId(self.new_id());
        let what = format!("node {number} is asked for {region_id}: {action:?}", region_id = region.id);
        let (region, epoch) = (region.id, region.epoch);
        let begun = shard.carry_out(&Instruction { region, epoch, leader, operator, action });
        if begun.is_ok() {
            self.record(what);
        }
        begun.is_ok()
    }

    /// Thinks out what regions lack, now and then.
    pub(super) fn operate(&mut self) {
        if self.world.now() < self.operators.due {
            return;
        }
        self.operators.due = self.world.now() + Duration::from_millis(100 + self.world.below(500));
        for region in self.seen.map.regions().cloned().collect::<Vec<_>>() {
            if let Some(change) = self.lacks(&region) {
                let begun = self.step(&region, Action::Change(change));
                self.tally.changes += u64::from(begun);
            }
        }
    }

    /// The change that a region needs next to have a voter on every node.
    fn lacks(&mut self, region: &Region) -> Option<Change> {
        if region.is_joint() {
            return Some(Change::LeaveJoint);
        }
        let is_gone = |store: StoreId| self.nodes.store(node_of(store)) != store;
        if let Some(gone) = region.peers.iter().find(|peer| is_gone(peer.store)) {
            return Some(Change::Remove { peer: gone.id });
        }
        if let Some(learner) = region.peers.iter().find(|peer| peer.role == Role::Learner) {
            let (_, shard, _) = self.led(region.id)?;
            if shard.behind(region.id).pending.contains(&learner.id) {
                return None;
            }
            let peer = learner.id;
            return Some(match self.world.below(3) {
                0 => Change::EnterJoint { promote: vec![peer], demote: Vec::new() },
                _ => Change::Promote { peer },
            });
        }
        let missing = (0..NODES).map(|number| self.nodes.store(number));
        let store = missing.into_iter().find(|store| region.peer_on(*store).is_none())?;
        Some(Change::AddLearner { peer: PeerId(self.new_id()), store })
    }

    /// Whether every region has a voter on the disk of every node, and nothing else.
    pub(super) fn is_whole(&self) -> bool {
        self.seen.map.regions().all(|region| self.has_all(region))
    }

    fn has_all(&self, region: &Region) -> bool {
        let on = |number: usize| region.peer_on(self.nodes.store(number)).map(|peer| peer.role);
        region.peers.len() == NODES && (0..NODES).all(|number| on(number) == Some(Role::Voter))
    }

    fn draw_region(&self) -> Region {
        let regions: Vec<_> = self.seen.map.regions().cloned().collect();
        regions[self.world.below(regions.len() as u64) as usize].clone()
    }

    /// A region is split at a border, or in its middle.
    pub(super) fn split_one(&mut self) {
        let border = BORDERS[self.world.below(BORDERS.len() as u64) as usize];
        let regions: Vec<_> = self.seen.map.regions().cloned().collect();
        let inside = |region: &&Region| {
            region.range.contains(border.as_bytes()) && region.range.start().as_bytes() != border.as_bytes()
        };
        let Some(region) = regions.iter().find(inside).filter(|_| regions.len() < REGIONS_MAX) else {
            return;
        };
        let id = RegionId(self.new_id());
        let peers = region.peers.iter().map(|_| PeerId(self.new_id())).collect();
        let keys = if self.world.below(4) == 0 { Vec::new() } else { vec![Key::from(border)] };
        let split = Action::Split { keys, new: vec![NewRegion { region: id, peers }] };
        self.tally.splits += u64::from(self.step(region, split));
    }

    /// A member of a region goes, or stops voting, at once or by way of a joint configuration; later another comes to the same store, or it
    /// votes again.
    pub(super) fn change_one(&mut self) -> Result<(), String> {
        let region = self.draw_region();
        if !self.has_all(&region) {
            return Ok(());
        }
        let peer = region.peers[self.world.below(NODES as u64) as usize].id;
        let change = match self.world.below(3) {
            0 => Change::Demote { peer },
            1 => Change::Remove { peer },
            _ => Change::EnterJoint { promote: Vec::new(), demote: vec![peer] },
        };
        // A leader that is to go hands over first.
        for _ in 0..4 {
            if self.step(&region, Action::Change(change.clone())) {
                self.tally.changes += 1;
                return Ok(());
            }
            self.pass(Duration::from_millis(300))?;
        }
        Ok(())
    }
}
