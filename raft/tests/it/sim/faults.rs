//! Clients that want something, administrators who change things, and everything that goes wrong meanwhile.

use raft::{
    ChangeStep, EntryKind, Index, MembershipChange, NodeId, Payload, SnapshotReport, Time, Transition,
};

use super::world::World;

impl World {
    pub(super) fn odds(&mut self, per_100_mille: u64) -> bool {
        self.rng.between(0, 99_999) < per_100_mille
    }

    pub(super) fn any(&mut self) -> usize {
        self.rng.between(0, self.nodes.len() as u64 - 1) as usize
    }

    /// What node-level liveness would report to the driver of a member that sleeps.
    pub(super) fn look_for_the_leader_of(&mut self, at: usize, clock: Time) {
        let node = &self.nodes[at];
        let Some(raft) = node.raft.as_ref() else { return };
        let lost = raft.leader().is_none_or(|leader| {
            self.cut.contains(&(leader, node.id)) || self.nodes[leader.0 as usize - 1].raft.is_none()
        });
        if lost && self.rng.chance(100) {
            let suspects = self.rng.chance(500);
            let raft = self.nodes[at].raft.as_mut().expect("a running node");
            if suspects {
                raft.suspect_leader(clock);
            } else {
                raft.wake();
            }
        }
    }

    pub(super) fn clients(&mut self) {
        // For half of the time nothing is asked but of leaders that sleep, whose leases must end.
        let quiet_spell = self.options.config.quiet_after_ticks > 0 && self.now % 1000 > 500;
        for at in 0..self.nodes.len() {
            let clock = self.nodes[at].clock(self.now);
            if self.awake(at)
                && let Some(raft) = self.nodes[at].raft.as_mut()
                && raft.is_leader()
                && (raft.is_asleep() || !quiet_spell)
            {
                let asleep = raft.is_asleep();
                if let Ok(index) = raft.lease_read(clock) {
                    self.coverage.lease_reads += 1;
                    let leader = self.nodes[at].raft.as_ref().expect("a running node");
                    let verdict = self.oracle.lease(leader, &self.nodes);
                    self.judge(verdict);
                    let verdict = self.oracle.read(NodeId(at as u64 + 1), "lease", self.oracle.floor, index);
                    self.judge(verdict);
                }
                if !self.calm && !asleep && self.odds(self.options.propose) {
                    self.propose(at);
                }
            }
        }
        if !quiet_spell && self.odds(self.options.read) {
            let at = self.any();
            self.ask_read(at);
        }
    }

    pub(super) fn propose(&mut self, at: usize) {
        self.proposed += 1;
        let node = &mut self.nodes[at];
        let mut bytes = self.proposed.to_le_bytes().to_vec();
        bytes.resize(8 + self.rng.between(0, 60) as usize, 7);
        if let Ok(id) = node.raft.as_mut().expect("a running node").propose(Payload::from(bytes)) {
            node.proposals.retain(|old| old.index < id.index);
            node.proposals.push_back(id);
        }
        self.settle(at);
    }

    pub(super) fn ask_read(&mut self, at: usize) {
        if !self.awake(at) {
            return;
        }
        let floor = self.oracle.floor;
        let node = &mut self.nodes[at];
        if let Ok(id) = node.raft.as_mut().expect("a running node").read_index() {
            node.reads.push((id, floor));
        }
        self.settle(at);
    }

    pub(super) fn faults(&mut self) {
        if self.heal_at == self.now {
            self.cut.clear();
            if std::mem::take(&mut self.outpacing) {
                (0..self.nodes.len()).for_each(|at| self.flush(at));
            }
        }
        if self.odds(self.options.flush) {
            self.outpace();
        }
        if self.odds(self.options.partition) {
            self.partition();
        }
        if self.odds(self.options.crash) {
            let at = self.any();
            self.crash(at);
        }
        for at in std::mem::take(&mut self.doomed) {
            self.crash(at);
            self.restarts.iter_mut().filter(|(_, node)| *node == at).for_each(|(due, _)| *due = self.now + 2);
        }
        if self.odds(self.options.duel) {
            for _ in 0..3 {
                let at = self.any();
                if self.awake(at) {
                    self.campaign(at);
                    self.settle(at);
                }
            }
        }
        while let Some(due) = self.restarts.iter().position(|(due, _)| *due <= self.now) {
            let (_, at) = self.restarts.swap_remove(due);
            self.restart(at);
        }
        if self.odds(self.options.pause) {
            self.pause();
        }
        if self.odds(self.options.crash) {
            let at = self.any();
            self.nodes[at].slow_until = self.now + self.rng.between(50, 600);
            self.coverage.slow_disks += 1;
            let at = self.any();
            self.nodes[at].hang_until = self.now + self.rng.between(20, 300);
        }
        if self.odds(self.options.flush) {
            let at = self.any();
            self.flush(at);
        }
        let at = self.any();
        if self.awake(at) {
            self.administrate(at);
        }
    }

    pub(super) fn administrate(&mut self, at: usize) {
        let other = NodeId(self.any() as u64 + 1);
        let (change, transfer, campaign) =
            (self.options.change, self.options.transfer, self.options.campaign);
        let members = self.nodes.len() as u64;
        if self.odds(change * members) {
            self.change(at);
        } else if self.odds(transfer * members) {
            self.transfer(at, other);
            if self.rng.chance(400) {
                self.deafen(at);
            }
        } else if self.odds(campaign) {
            self.campaign(at);
        } else if self.odds(campaign) {
            let clock = self.nodes[at].clock(self.now);
            self.nodes[at].raft.as_mut().expect("a running node").forget_leader(clock);
        } else if self.odds(transfer) {
            self.coverage.resignations += u64::from(self.resign(at));
        } else if self.odds(transfer) {
            self.nodes[at].raft.as_mut().expect("a running node").report_unreachable(other);
        } else if self.odds(transfer * members) {
            self.report_late(at);
        } else {
            return;
        }
        self.settle(at);
    }

    pub(super) fn campaign(&mut self, at: usize) {
        let clock = self.nodes[at].clock(self.now);
        // A refusal to campaign is as good as any outcome.
        let _refused = self.nodes[at].raft.as_mut().expect("a running node").campaign(clock);
    }

    /// Asks for a transfer; what is accepted has to end, and to be reported once.
    pub(super) fn transfer(&mut self, at: usize, target: NodeId) {
        let node = &mut self.nodes[at];
        let raft = node.raft.as_mut().expect("a running node");
        let cancels = raft.leader() == Some(target);
        if raft.transfer(target).is_ok() {
            self.coverage.transfers += 1;
            if !cancels {
                node.transfers.insert(target);
            }
        }
    }

    pub(super) fn resign(&mut self, at: usize) -> bool {
        let clock = self.nodes[at].clock(self.now);
        self.nodes[at].raft.as_mut().expect("a running node").resign(clock).is_ok()
    }

    /// Says something about a snapshot that was asked for here some time ago, true or not.
    pub(super) fn report_late(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(count) = (node.wanted.len() as u64).checked_sub(1) else { return };
        let wanted = node.wanted[self.rng.between(0, count) as usize];
        let report = if self.rng.chance(500) { SnapshotReport::Failed } else { SnapshotReport::Sent };
        node.raft.as_mut().expect("a running node").report_snapshot(&wanted, report);
        self.coverage.late_reports += 1;
    }

    pub(super) fn step(&mut self) -> ChangeStep {
        let id = NodeId(self.any() as u64 + 1);
        match self.rng.between(0, 3) {
            0 => ChangeStep::AddLearner(id),
            1 => ChangeStep::Remove(id),
            _ => ChangeStep::AddVoter(id),
        }
    }

    pub(super) fn change(&mut self, at: usize) {
        let change = match self.rng.between(0, 9) {
            0 => MembershipChange::leave_joint(),
            1..=3 => {
                let steps = (0..self.rng.between(1, 3)).map(|_| self.step()).collect();
                let transition =
                    *self.rng.pick(&[Transition::Auto, Transition::Joint, Transition::JointExplicit]);
                MembershipChange::many(steps, transition)
            }
            _ => MembershipChange::one(self.step()),
        };
        let raft = self.nodes[at].raft.as_mut().expect("a running node");
        self.coverage.changes += u64::from(raft.propose_change(&change).is_ok());
    }

    pub(super) fn partition(&mut self) {
        self.coverage.partitions += 1;
        self.cut.clear();
        self.heal_at = self.now + self.rng.between(20, 600);
        let sides: Vec<bool> = self.nodes.iter().map(|_| self.rng.chance(500)).collect();
        let kind = self.rng.between(0, 5);
        let leader = self.leader();
        if let (4.., Some(leader)) = (kind, leader) {
            return self.deafen(leader);
        }
        for from in 1..=self.nodes.len() {
            for to in 1..=self.nodes.len() {
                let severed = match kind {
                    // Two sides, both ways; one way; single links at random.
                    0 | 1 => sides[from - 1] != sides[to - 1],
                    2 => sides[from - 1] && !sides[to - 1],
                    _ => self.rng.chance(300),
                };
                if severed {
                    self.cut.insert((NodeId(from as u64), NodeId(to as u64)));
                }
            }
        }
    }

    /// Stops a node for a while; perhaps the leader, and perhaps the world moves on without it: when it wakes
    /// it finds only the answers that were in flight.
    pub(super) fn pause(&mut self) {
        self.coverage.pauses += 1;
        let length = self.rng.between(10, 400);
        let leader = if self.rng.chance(600) { self.leader() } else { None };
        let at = leader.unwrap_or_else(|| self.any());
        self.nodes[at].paused_until = self.now + length;
        if leader.is_some() && self.rng.chance(500) {
            self.deafen(at);
            self.heal_at = self.now + length + 200;
        }
    }

    /// Cuts off a node whose state machine has a change before it and hangs. The others go on, and cut their logs.
    pub(super) fn outpace(&mut self) {
        let behind = self.nodes.iter().position(|node| {
            let first = node.state.last.index.0 + 1;
            let committed = node.raft.as_ref().map_or(0, |raft| raft.committed().0);
            let waiting = (first..=committed).filter_map(|index| node.disk.entry(Index(index)));
            waiting.into_iter().any(|entry| entry.kind == EntryKind::Membership)
        });
        let Some(at) = behind.filter(|_| !self.outpacing) else { return };
        let until = self.now + 500;
        self.nodes[at].hang_until = until;
        self.nodes[at].applies.iter_mut().for_each(|(due, _)| *due = until);
        let id = self.nodes[at].id;
        let others: Vec<_> = self.nodes.iter().map(|node| node.id).filter(|other| *other != id).collect();
        self.cut = others.iter().flat_map(|other| [(id, *other), (*other, id)]).collect();
        self.heal_at = self.now + self.rng.between(50, 200);
        self.outpacing = true;
    }

    pub(super) fn leader(&mut self) -> Option<usize> {
        self.nodes.iter().position(|node| node.raft.as_ref().is_some_and(raft::Raft::is_leader))
    }

    /// Nothing reaches this node any more, while what it sends may still arrive: it learns last that it is deposed.
    pub(super) fn deafen(&mut self, at: usize) {
        self.heal_at = self.now + self.rng.between(30, 400);
        let (to, mute) = (self.nodes[at].id, self.rng.chance(500));
        let others: Vec<_> = self.nodes.iter().map(|node| node.id).filter(|id| *id != to).collect();
        self.cut.extend(others.iter().map(|from| (*from, to)));
        if mute {
            self.cut.extend(others.iter().map(|from| (to, *from)));
        }
    }

    pub(super) fn crash(&mut self, at: usize) {
        if self.nodes[at].raft.is_none() {
            return;
        }
        let pending = self.nodes[at].writes.len();
        let kept = if self.rng.chance(800) { 0 } else { self.rng.between(0, pending as u64) as usize };
        self.nodes[at].crash(kept);
        self.coverage.crashes += 1;
        self.coverage.lost_writes += (pending - kept) as u64;
        self.coverage.kept_writes += kept as u64;
        self.restarts.push((self.now + self.rng.between(1, 500), at));
        self.chores.retain(|(_, owner, _)| *owner != at);
    }

    pub(super) fn restart(&mut self, at: usize) {
        if self.nodes[at].raft.is_none() {
            self.nodes[at].start(&self.options.config, self.now);
            self.nodes[at].next_tick = self.now;
            self.nodes[at].paused_until = 0;
            let verdict = self.oracle.holds_state(self.nodes[at].id, &self.nodes[at].state);
            self.judge(verdict);
            self.settle(at);
        }
    }

    /// Makes the state durable, and perhaps cuts the log below it.
    pub(super) fn flush(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.raft.is_none() || node.state.last.index < node.disk.state.last.index {
            return;
        }
        node.disk.state = node.state.clone();
        if self.rng.chance(500) {
            let upto = Index(self.rng.between(node.disk.base.index.0, node.state.last.index.0));
            node.disk.compact(upto);
            node.raft.as_mut().expect("a running node").compacted(node.disk.base.index);
            self.coverage.compactions += 1;
        }
    }
}
