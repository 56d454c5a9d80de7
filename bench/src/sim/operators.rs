//! What a scheduler would have the leaders do: regions are split, members go and come back, move to the other store of their node, and a
//! region that lacks members, or has some on disks that are gone, gets others.
//!
//! A step is thought out by what the stores show and asked of the leader's store, as the scheduler asks. It may be refused, and is then
//! thought out anew. So a move needs no memory: of two peers on a node the one with the higher id has come, and the other one is to go.
//!
//! ```text
//!   a learner beside a voter ──▶ joint: one votes, the other one stops ──▶ leadership goes along ──▶ joint is left ──▶ the older one goes
//!            └── now and then it is given up: the newer one goes
//! ```

use std::time::Duration;

use scheduler::operator::OperatorId;
use scheduler::{Action, Change, Instruction, Key, NewRegion, Peer, PeerId, Region, RegionId, Role, StoreId};
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
        let Some(leader) = known.peer_on(shard.store()).copied() else { return false };
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
            let Some(action) = self.lacks(&region) else { continue };
            let leaves =
                matches!(&action, Action::Change(Change::Remove { peer }) if self.has_moved(&region, *peer));
            let is_change = matches!(action, Action::Change(_));
            if self.step(&region, action) {
                self.tally.changes += u64::from(is_change);
                self.tally.relocations += u64::from(leaves);
            }
        }
    }

    /// What a region needs next to have one peer on every node, a voter.
    fn lacks(&mut self, region: &Region) -> Option<Action> {
        if region.is_joint() {
            return Some(self.leaves_joint(region));
        }
        let is_gone = |store: StoreId| !self.nodes.stores(node_of(store)).contains(&store);
        if let Some(gone) = region.peers.iter().find(|peer| is_gone(peer.store)) {
            return Some(Action::Change(Change::Remove { peer: gone.id }));
        }
        if let Some((older, newer)) = (0..NODES).find_map(|number| two_on(region, number)) {
            return self.moves_on(region, older, newer).map(Action::Change);
        }
        if let Some(learner) = region.peers.iter().find(|peer| peer.role == Role::Learner) {
            let peer = learner.id;
            if self.lags(region, peer) {
                return None;
            }
            return Some(Action::Change(match self.world.below(3) {
                0 => Change::EnterJoint { promote: vec![peer], demote: Vec::new() },
                _ => Change::Promote { peer },
            }));
        }
        let missing =
            (0..NODES).find(|number| region.peers.iter().all(|peer| node_of(peer.store) != *number))?;
        let stores = self.nodes.stores(missing);
        let which = if stores.len() > 1 { self.world.below(stores.len() as u64) as usize } else { 0 };
        let (peer, store) = (PeerId(self.new_id()), stores[which]);
        Some(Action::Change(Change::AddLearner { peer, store }))
    }

    /// A region leaves a joint configuration once it is not led by who stops voting, as far as its node has another one who votes.
    fn leaves_joint(&self, region: &Region) -> Action {
        let led_by = self.led(region.id).and_then(|(_, shard, _)| region.peer_on(shard.store()).copied());
        let leaving = led_by.filter(|leader| leader.role == Role::Outgoing);
        let heir = leaving.and_then(|leader| {
            let beside = |peer: &&Peer| node_of(peer.store) == node_of(leader.store) && peer.id != leader.id;
            region.peers.iter().find(beside).copied()
        });
        heir.map_or(Action::Change(Change::LeaveJoint), Action::TransferLeader)
    }

    /// The next step of a move from the older one of two peers on a node to the newer one.
    fn moves_on(&mut self, region: &Region, older: Peer, newer: Peer) -> Option<Change> {
        match (older.role, newer.role) {
            (_, Role::Voter) => Some(Change::Remove { peer: older.id }),
            (Role::Voter, _) if self.world.below(12) == 0 => Some(Change::Remove { peer: newer.id }),
            (Role::Voter, _) if self.lags(region, newer.id) => None,
            (Role::Voter, _) => Some(Change::EnterJoint { promote: vec![newer.id], demote: vec![older.id] }),
            // Its node has no vote: it was demoted while the newer one came.
            (_, _) => Some(Change::Remove { peer: older.id }),
        }
    }

    fn lags(&self, region: &Region, peer: PeerId) -> bool {
        let led = self.led(region.id);
        led.is_none_or(|(_, shard, _)| shard.behind(region.id).pending.contains(&peer))
    }

    /// Whether a peer is the older one of two on its node, of which the newer one votes.
    fn has_moved(&self, region: &Region, peer: PeerId) -> bool {
        let two = (0..NODES).filter_map(|number| two_on(region, number));
        two.into_iter().any(|(older, newer)| older.id == peer && newer.role == Role::Voter)
    }

    /// A region begins to move to the other store of a node, of its leader's half of the time: what is led there is handed over, all else
    /// comes from another node.
    pub(super) fn relocate_one(&mut self) -> Result<(), String> {
        let region = self.draw_region();
        if !self.has_all(&region) {
            return Ok(());
        }
        let led = self.led(region.id).map(|(number, ..)| number);
        let number =
            led.filter(|_| self.world.below(2) == 0).unwrap_or(self.world.below(NODES as u64) as usize);
        let from =
            region.peers.iter().find(|peer| node_of(peer.store) == number).expect("it has one everywhere");
        let Some(store) = self.nodes.sibling(from.store) else { return Ok(()) };
        let change = Change::AddLearner { peer: PeerId(self.new_id()), store };
        self.tally.changes += u64::from(self.step(&region, Action::Change(change)));
        // What befalls the nodes next befalls them in the middle of the move, sooner or later.
        self.pass(self.draw_ms(1, 1500))
    }

    /// Whether every region has one peer on every node, on the disk that it has now and with a vote.
    pub(super) fn is_whole(&self) -> bool {
        self.seen.map.regions().all(|region| self.has_all(region))
    }

    fn has_all(&self, region: &Region) -> bool {
        let on = |number: usize| {
            self.nodes.stores(number).iter().find_map(|store| region.peer_on(*store)).map(|peer| peer.role)
        };
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

    /// A region is taken in by a neighbour, as far as both are whole. The leader of the one hands over to where the other is led first.
    pub(super) fn merge_one(&mut self) -> Result<(), String> {
        if self.seen.map.regions().count() < 3 {
            self.split_one();
            self.pass(self.draw_ms(50, 500))?;
        }
        let source = self.draw_region();
        let mut touching: Vec<Region> = self.seen.map.regions().cloned().collect();
        touching.retain(|other| scheduler::merge::may_merge(&source, other).is_ok());
        if touching.is_empty() {
            return Ok(());
        }
        let into = touching[self.world.below(touching.len() as u64) as usize].id;
        for _ in 0..8 {
            // As the scheduler does: what both show, and the leader of the one is asked.
            let known = |id| self.seen.map.regions().find(|known| known.id == id).cloned();
            let (Some(source), Some(target)) = (known(source.id), known(into)) else { return Ok(()) };
            if self.step(&source, Action::Merge(Box::new(target))) {
                self.tally.merges_begun += 1;
                // What befalls the nodes next befalls them in the middle of it, sooner or later.
                let now = self.world.below(3) == 0;
                return self.pass(if now { Duration::from_millis(1) } else { self.draw_ms(1, 400) });
            }
            self.pass(Duration::from_millis(200))?;
        }
        Ok(())
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

/// The peers of a region on a node that has two of them, the older one first.
fn two_on(region: &Region, number: usize) -> Option<(Peer, Peer)> {
    let mut there: Vec<Peer> =
        region.peers.iter().copied().filter(|peer| node_of(peer.store) == number).collect();
    there.sort_unstable_by_key(|peer| peer.id);
    match there[..] {
        [older, newer] => Some((older, newer)),
        _ => None,
    }
}
