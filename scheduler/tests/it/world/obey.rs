//! What stores do with an instruction. Whatever gets past the epoch is judged here: it must be harmless, however late.

use std::collections::BTreeSet;

use scheduler::change::keeps_quorum;
use scheduler::merge::{may_merge, merged};
use scheduler::{Action, Change, Command, Instruction, Peer, Region, RegionId, Role};

use super::{DELAY_MAX_MS, DISCONNECTED_MS, Real, STEP_MS, World};

impl World {
    /// A store obeys. Whatever is of the right epoch and for the right leader must be harmless, however late it comes.
    pub(super) fn execute(&mut self, instruction: &Instruction) {
        let Some(real) = self.regions.get(&instruction.region) else { return };
        let command = instruction.action.command();
        let leads = real.leader == Some(instruction.leader.id) && self.is_live(instruction.leader.store);
        if !leads || real.region.epoch.admit(command, instruction.epoch).is_err() {
            self.tally.refused_by_epoch += 1;
            return;
        }
        self.tally.executed += 1;
        match &instruction.action {
            Action::TransferLeader(peer) => self.transfer(instruction.region, *peer),
            Action::Change(change) => self.change(instruction, change),
            Action::Split { new, .. } => {
                let (id, new) = (instruction.region, new[0].clone());
                self.split_at(id, new.region, &new.peers);
            }
            Action::Merge(into) => self.merge(instruction.region, into),
        }
    }

    /// The stores take a region in, or begin with it and give it up; whatever they do they do by themselves.
    fn merge(&mut self, id: RegionId, into: &Region) {
        let (Some(source), Some(target)) = (self.regions.get(&id), self.regions.get(&into.id)) else {
            return;
        };
        let is_whole = |real: &Real| {
            real.lagging.is_empty() && real.region.peers.iter().all(|peer| self.is_live(peer.store))
        };
        let is_meant = target.region.epoch == into.epoch && target.leader.is_some();
        if !is_meant
            || may_merge(&source.region, &target.region).is_err()
            || !is_whole(source)
            || !is_whole(target)
        {
            return;
        }
        let mut waits = source.region.clone();
        waits.epoch = waits.epoch.after(Command::PrepareMerge);
        let (size_bytes, load) = (source.size_bytes, source.load);
        if self.rng.one_in(4) {
            waits.epoch = waits.epoch.after(Command::RollbackMerge);
            let target = self.regions.get_mut(&into.id).expect("known");
            target.region.epoch = target.region.epoch.after(Command::RefuseMerge);
            self.regions.get_mut(&id).expect("known").region = waits;
            self.tally.merges_in_vain += 1;
            return;
        }
        self.regions.remove(&id);
        let target = self.regions.get_mut(&into.id).expect("known");
        target.region = merged(&waits, &target.region).expect("they touch");
        target.size_bytes += size_bytes;
        target.load.read_bytes += load.read_bytes;
        target.load.write_bytes += load.write_bytes;
        self.tally.merges += 1;
    }

    fn transfer(&mut self, region: RegionId, to: Peer) {
        let real = &self.regions[&region];
        let listed = real.region.peer(to.id).expect("a transfer under this epoch is to a member");
        assert!(listed.will_vote(), "seed {}: {to} of {} does not vote", self.seed, real.region);
        if self.is_live(to.store) && !real.lagging.contains_key(&to.id) {
            let real = self.regions.get_mut(&region).expect("known");
            (real.leader, real.term) = (Some(to.id), real.term + 1);
        }
    }

    fn change(&mut self, instruction: &Instruction, change: &Change) {
        let seed = self.seed;
        let real = &self.regions[&instruction.region];
        let after = change.apply(&real.region);
        let after =
            after.unwrap_or_else(|error| panic!("seed {seed}: {change:?} under its own epoch: {error}"));
        if let Change::Remove { peer } | Change::Demote { peer } = change {
            assert_ne!(
                *peer, instruction.leader.id,
                "seed {seed}: {change:?} takes the leader of {}",
                real.region
            );
        }
        let leader_was_dropped =
            real.leader.and_then(|leader| after.peer(leader)).is_none_or(|peer| !peer.votes());
        assert!(!leader_was_dropped, "seed {seed}: {change:?} leaves {} without its leader", real.region);
        let shares = self.assert_nodes_distinct(&real.region, &after, change);
        if !keeps_quorum(&after, |store| self.is_live(store)) {
            // The leader refuses; but the scheduler may only have sent it because the death was not yet visible.
            let window = DISCONNECTED_MS + 2 * DELAY_MAX_MS + 2 * STEP_MS;
            let recent = |peer: &Peer| {
                self.node_of(peer.store).dead_since.is_some_and(|since| self.now.ms_since(since) <= window)
            };
            assert!(
                after.peers.iter().any(recent),
                "seed {seed}: {change:?} costs {} its quorum",
                real.region
            );
            return;
        }
        let caught_up = self.now.plus_ms(self.rng.next() % 15_000);
        let real = self.regions.get_mut(&instruction.region).expect("known");
        if let Change::AddVoter { peer, .. } | Change::AddLearner { peer, .. } = change {
            assert!(self.used_peers.insert(*peer), "seed {seed}: {peer} was used before");
            real.lagging.insert(*peer, caught_up);
            self.tally.moves += 1;
            self.tally.relocations += u64::from(shares);
        }
        real.region = after;
    }

    /// In each half of its configuration a region has one vote on a node at most, and beside that a learner which came as such or has lost its
    /// vote. Whether two peers share a node.
    fn assert_nodes_distinct(&self, before: &Region, after: &Region, change: &Change) -> bool {
        let apart = |region: &Region, counts: &dyn Fn(&Peer) -> bool| {
            let peers = region.peers.iter().filter(|peer| counts(peer));
            let nodes: BTreeSet<u64> = peers.clone().map(|peer| peer.store.0 / 10).collect();
            nodes.len() == peers.count()
        };
        let halves: [&dyn Fn(&Peer) -> bool; 2] =
            [&Peer::will_vote, &|peer| matches!(peer.role, Role::Voter | Role::Outgoing)];
        for half in halves {
            let seed = self.seed;
            assert!(!apart(before, half) || apart(after, half), "seed {seed}: {change:?} of {before}");
        }
        !apart(after, &|_| true)
    }
}
