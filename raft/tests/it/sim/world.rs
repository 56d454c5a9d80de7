//! The run itself: time, network, faults, clients; first with everything going wrong, then with nothing.

use std::collections::{BTreeMap, BTreeSet};

use raft::{
    Body, Event, Fetch, Index, LogId, Membership, MembershipChange, Message, NodeId, ReadOutcome, Ready,
    RoleKind, SnapshotReport, SnapshotWanted, TransferOutcome,
};

use super::node::{Disk, Node, State};
use super::options::{Options, TICK};
use super::oracle::{Oracle, Verdict};
use crate::rng::Rng;

macro_rules! coverage {
    ($($name:ident),* $(,)?) => {
        /// How often each path ran. A path that no run takes proves nothing.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct Coverage { $(pub(crate) $name: u64),* }

        impl Coverage {
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            pub(crate) fn each(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}
coverage!(
    elections,
    acked,
    crashes,
    lost_writes,
    kept_writes,
    partitions,
    pauses,
    slow_disks,
    dropped,
    doubled,
    changes,
    joint_changes,
    transfers,
    orders,
    snapshots_sent,
    snapshots_installed,
    fetches,
    apply_from_log,
    index_reads,
    follower_reads,
    failed_reads,
    lease_reads,
    conflicts,
    sleeps,
    compactions,
    forced_votes,
    orders_remembered,
    overtaken_changes,
    late_reports,
    transfers_done,
    transfers_given_up,
    learners_caught_up,
    resignations,
    handovers,
);

pub(super) enum Chore {
    Fetch(Fetch),
    Snapshot(SnapshotWanted),
}

pub(super) struct World {
    pub(super) options: Options,
    pub(super) rng: Rng,
    pub(super) now: u64,
    pub(super) calm: bool,
    pub(super) nodes: Vec<Node>,
    pub(super) net: BTreeMap<(u64, u64), Message>,
    pub(super) sent: u64,
    pub(super) cut: BTreeSet<(NodeId, NodeId)>,
    pub(super) heal_at: u64,
    /// A node is cut off so that the others leave it behind.
    pub(super) outpacing: bool,
    pub(super) restarts: Vec<(u64, usize)>,
    pub(super) chores: Vec<(u64, usize, Chore)>,
    pub(super) doomed: Vec<usize>,
    pub(super) oracle: Oracle,
    pub(super) coverage: Coverage,
    pub(super) trace: u64,
    pub(super) proposed: u64,
    pub(super) failure: Verdict,
}

/// Runs one seed to the end.
///
/// # Errors
/// What was violated, and when.
pub(crate) fn run(options: &Options) -> Result<(Coverage, u64), String> {
    let mut world = World::new(options.clone());
    while world.now < options.fault_units {
        world.advance();
        if let Err(text) = &world.failure {
            return Err(format!("at {}: {text}", world.now));
        }
    }
    world.calm_down();
    let deadline = world.now + 20_000;
    let goal = loop {
        world.advance();
        if let Err(text) = &world.failure {
            return Err(format!("at {} (calm): {text}", world.now));
        }
        if world.now.is_multiple_of(50) && world.converged() {
            break Ok(());
        }
        if world.now > deadline {
            break Err(format!("no progress after the faults stopped: {}", world.describe()));
        }
    };
    goal?;
    world.hand_over().map_err(|text| format!("at {} (hand-over): {text}", world.now))?;
    world.oracle.finish()?;
    world.coverage.elections = world.oracle.elections;
    world.coverage.acked = world.oracle.acked_count() as u64;
    Ok((world.coverage, world.trace))
}

impl World {
    pub(super) fn new(options: Options) -> Self {
        let mut rng = Rng::new(options.seed ^ 0x5eed);
        let (voters, learners) = (options.voters, options.learners);
        let membership =
            Membership::with_learners((1..=voters).map(NodeId), (voters + 1..=voters + learners).map(NodeId));
        let nodes = (1..=voters + learners + options.spares)
            .map(|id| {
                let rate = rng.between(1000 - options.drift, 1000 + options.drift);
                let priority = if options.priorities { rng.between(0, 2) as u32 } else { 0 };
                let mut node = Node::new(id, rate, rng.between(0, 1 << 40), priority);
                if id <= voters + learners {
                    let state = State { membership: membership.clone(), ..State::default() };
                    node.disk = Disk { state, ..Disk::default() };
                }
                node.next_tick = rng.between(0, TICK);
                node.start(&options.config, 0);
                node
            })
            .collect();
        let mut oracle = Oracle::default();
        let begin = State { membership, ..State::default() };
        let failure = oracle.holds_state(NodeId(1), &begin);
        Self {
            options,
            rng,
            now: 0,
            calm: false,
            nodes,
            net: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            heal_at: 0,
            outpacing: false,
            restarts: Vec::new(),
            chores: Vec::new(),
            doomed: Vec::new(),
            oracle,
            coverage: Coverage::default(),
            trace: 0,
            proposed: 0,
            failure,
        }
    }

    pub(super) fn advance(&mut self) {
        self.now += 1;
        self.deliver();
        for at in 0..self.nodes.len() {
            self.run_node(at);
        }
        self.run_chores();
        self.clients();
        if !self.calm {
            self.faults();
        }
    }

    pub(super) fn mark(&mut self, what: u64, a: u64, b: u64) {
        let word = what ^ (a << 8) ^ (b << 24) ^ (self.now << 40);
        self.trace = (self.trace ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    }

    pub(super) fn judge(&mut self, verdict: Verdict) {
        if self.failure.is_ok() {
            self.failure = verdict;
        }
    }

    // ---- network ------------------------------------------------------------------------------------------------

    pub(super) fn post(&mut self, message: Message) {
        let verdict = self.oracle.sent(&message);
        self.judge(verdict);
        match &message.body {
            Body::Snapshot(_) => self.coverage.snapshots_sent += 1,
            Body::TimeoutNow { .. } => self.coverage.orders += 1,
            Body::Vote(ask) if ask.forced.is_some() => self.coverage.forced_votes += 1,
            Body::Append { .. } if !self.calm => {
                // The worst moment for a leader: entries are out, its own copy is not on disk.
                let at = message.from.0 as usize - 1;
                let doomed =
                    !self.nodes[at].writes.is_empty() && self.rng.chance(self.options.crash_after_vote / 8);
                self.doomed.extend(doomed.then_some(at));
            }
            Body::AppendReply(raft::AppendOutcome::Conflict { .. }) => self.coverage.conflicts += 1,
            _ => {}
        }
        if !self.calm && matches!(&message.body, Body::VoteReply(answer) if answer.granted) {
            // The worst moment to forget what was promised.
            let doomed = self.rng.chance(self.options.crash_after_vote);
            self.doomed.extend(doomed.then_some(message.from.0 as usize - 1));
        }
        let lost = !self.calm && self.rng.chance(self.options.loss);
        if lost || self.cut.contains(&(message.from, message.to)) {
            self.coverage.dropped += 1;
            if matches!(message.body, Body::Snapshot(_)) {
                let report =
                    *self.rng.pick(&[None, Some(SnapshotReport::Failed), Some(SnapshotReport::Sent)]);
                self.report_snapshot(&message, report);
            }
            return;
        }
        if matches!(message.body, Body::Snapshot(_)) {
            let report = *self.rng.pick(&[None, Some(SnapshotReport::Sent)]);
            self.report_snapshot(&message, report);
        }
        let copies = if !self.calm && self.rng.chance(self.options.duplicate) { 2 } else { 1 };
        self.coverage.doubled += copies - 1;
        // A receiver may have all of the data only long after the description was sent, and a late order to campaign
        // is the worst.
        let often_late = match message.body {
            Body::Snapshot(_) => 200,
            Body::TimeoutNow { .. } => 300,
            _ => 0,
        };
        if !self.calm && self.rng.chance(often_late) {
            self.sent += 1;
            self.net.insert((self.now + self.rng.between(50, 600), self.sent), message.clone());
        }
        for _ in 0..copies {
            let late = !self.calm && self.rng.chance(self.options.late);
            let delay_max = if late { self.options.late_max } else { self.options.delay_max };
            let due = self.now + self.rng.between(1, delay_max);
            self.sent += 1;
            self.net.insert((due, self.sent), message.clone());
        }
    }

    /// What the sender's driver says of the snapshot in this message.
    fn report_snapshot(&mut self, message: &Message, report: Option<SnapshotReport>) {
        let node = &mut self.nodes[message.from.0 as usize - 1];
        let wanted = node.wanted.iter().rfind(|wanted| wanted.to == message.to);
        if let (Some(raft), Some(wanted), Some(report)) = (node.raft.as_mut(), wanted, report) {
            raft.report_snapshot(wanted, report);
        }
    }

    pub(super) fn deliver(&mut self) {
        while let Some(((due, seq), message)) = self.net.pop_first() {
            if due > self.now {
                self.net.insert((due, seq), message);
                break;
            }
            let at = message.to.0 as usize - 1;
            let node = &mut self.nodes[at];
            if node.paused_until > self.now {
                self.net.insert((node.paused_until, seq), message);
                continue;
            }
            if !self.calm && matches!(message.body, Body::Snapshot(_)) && self.rng.chance(300) {
                // The old state is still being applied when the new one arrives, and goes on until that is durable.
                node.slow_until = self.now + 50;
                node.apply_soon(self.now + 1);
            }
            let clock = node.clock(self.now);
            let Some(raft) = node.raft.as_mut() else { continue };
            let (from, name, term) = (message.from.0, message.body.name().len() as u64, message.term.0);
            // A refusal is an outcome like any other.
            let is_order = matches!(message.body, Body::TimeoutNow { .. });
            let taken = raft.step(clock, message).is_ok();
            let waits = is_order && taken && raft.role() == RoleKind::Follower;
            self.coverage.orders_remembered += u64::from(waits);
            self.mark(name, from * 16 + at as u64, term * 2 + u64::from(taken));
            self.settle(at);
        }
    }

    // ---- one node -----------------------------------------------------------------------------------------------

    pub(super) fn run_node(&mut self, at: usize) {
        let now = self.now;
        while self.awake(at) && self.nodes[at].writes.front().is_some_and(|(due, _)| *due <= now) {
            let write = self.nodes[at].complete_write().expect("a due write");
            if write.snapshot.is_some() {
                self.coverage.snapshots_installed += 1;
                let verdict = self.oracle.holds_state(self.nodes[at].id, &self.nodes[at].state);
                self.judge(verdict);
            }
            let (ack, messages) = write.durable();
            messages.into_iter().for_each(|message| self.post(message));
            self.nodes[at].raft.as_mut().expect("a running node").written(ack);
            self.settle(at);
        }
        while self.awake(at) && self.nodes[at].applies.front().is_some_and(|(due, _)| *due <= now) {
            let done = self.nodes[at].apply();
            self.coverage.overtaken_changes += u64::from(self.nodes[at].was_overtaken);
            self.on_applied(at, &done);
            self.settle(at);
        }
        while self.awake(at) && self.nodes[at].next_tick <= now {
            self.tick(at);
            self.settle(at);
        }
    }

    pub(super) fn awake(&self, at: usize) -> bool {
        self.nodes[at].raft.is_some() && self.nodes[at].paused_until <= self.now
    }

    pub(super) fn tick(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.next_tick += TICK;
        if self.now > node.next_tick + 5 * TICK {
            // A driver does not make up for ticks it slept through.
            node.next_tick = self.now;
        }
        let clock = node.clock(self.now);
        let id = node.id;
        let Some(raft) = node.raft.as_mut() else { return };
        if raft.is_asleep() {
            self.look_for_the_leader_of(at, clock);
            return;
        }
        // Without pre-vote and check-quorum nothing keeps a removed member from disturbing the rest for ever.
        let tame = self.options.config.pre_vote && self.options.config.check_quorum;
        if self.calm && !tame && !self.latest_membership().contains(id) {
            return;
        }
        let raft = self.nodes[at].raft.as_mut().expect("a running node");
        raft.tick(clock);
    }

    pub(super) fn latest_membership(&self) -> &Membership {
        let latest = self
            .nodes
            .iter()
            .max_by_key(|node| (node.state.last.index, !node.state.membership.is_empty()))
            .expect("a node");
        &latest.state.membership
    }

    /// Does what the replica asks for, until it asks for nothing.
    pub(super) fn settle(&mut self, at: usize) {
        for _ in 0..100 {
            let Some(raft) = self.nodes[at].raft.as_mut() else { return };
            let slept = raft.is_asleep();
            if !raft.has_ready() {
                let node = &self.nodes[at];
                let verdict = self.oracle.look(node, &self.nodes);
                self.coverage.sleeps += u64::from(slept);
                return self.judge(verdict);
            }
            let ready = raft.ready();
            self.carry_out(at, ready);
        }
        self.judge(Err(format!("node {} never comes to rest", at + 1)));
    }

    pub(super) fn carry_out(&mut self, at: usize, ready: Ready) {
        let Ready { send, write, apply, fetch, snapshots, reads, events } = ready;
        if let Some(write) = write {
            let node = &self.nodes[at];
            let before = write.entries.first().map(|entry| entry.index.prev());
            let before = before.and_then(|index| node.raft.as_ref()?.term_at(index)).unwrap_or_default();
            let verdict = self.oracle.wrote(node, &write.entries, before);
            self.judge(verdict);
            let slow = !self.calm && self.nodes[at].slow_until > self.now;
            let longest = if slow { self.options.slow_write_max } else { self.options.write_max };
            let due = self.now + self.rng.between(0, longest);
            let writes = &mut self.nodes[at].writes;
            let due = writes.back().map_or(due, |(last, _)| due.max(*last));
            writes.push_back((due, write));
        }
        send.into_iter().for_each(|message| self.post(message));
        if let Some(apply) = apply {
            self.coverage.apply_from_log += u64::from(matches!(apply, raft::Apply::FromLog { .. }));
            let due = self.now + self.rng.between(0, self.options.apply_max);
            let due = due.max(self.nodes[at].hang_until);
            let applies = &mut self.nodes[at].applies;
            let due = applies.back().map_or(due, |(last, _)| due.max(*last));
            applies.push_back((due, apply));
        }
        for fetch in fetch {
            self.coverage.fetches += 1;
            self.chores.push((self.now + self.rng.between(0, 10), at, Chore::Fetch(fetch)));
        }
        for wanted in snapshots {
            let node = &mut self.nodes[at];
            let leader = node.raft.as_ref().expect("a running node");
            let verdict = self.oracle.wants_snapshot(leader, wanted.to, node.clock(self.now));
            node.wanted.push_back(wanted);
            if node.wanted.len() > 8 {
                node.wanted.pop_front();
            }
            self.judge(verdict);
            self.chores.push((self.now + self.rng.between(0, 20), at, Chore::Snapshot(wanted)));
        }
        for outcome in reads {
            self.on_read(at, outcome);
        }
        for event in events {
            self.on_event(at, event);
        }
    }

    pub(super) fn on_event(&mut self, at: usize, event: Event) {
        match event {
            Event::Transfer { target, outcome } => {
                let node = &mut self.nodes[at];
                match outcome {
                    TransferOutcome::Done => {
                        self.coverage.transfers_done += 1;
                        node.transfers.remove(&target);
                        let leads =
                            node.id == target && node.raft.as_ref().is_some_and(raft::Raft::is_leader);
                        let verdict = if leads { Ok(()) } else { self.oracle.has_led(target) };
                        self.judge(verdict);
                    }
                    TransferOutcome::GaveUp(_) => {
                        self.coverage.transfers_given_up += 1;
                        node.transfers.remove(&target);
                    }
                    // A follower's request, of which this driver knows nothing.
                    TransferOutcome::Refused(_) => {}
                }
            }
            Event::CaughtUp { learner, matched } => {
                self.coverage.learners_caught_up += 1;
                let leader = self.nodes[at].raft.as_ref().expect("a running node");
                let disk = &self.nodes[learner.0 as usize - 1].disk;
                // Later leaders may have replaced what it held when it answered this one.
                let held = disk.hard.term > leader.term()
                    || leader.term_at(matched).is_none_or(|term| disk.holds(LogId { term, index: matched }));
                let verdict = if held { Ok(()) } else { Err(format!("{learner} lacks {matched}")) };
                self.judge(verdict);
            }
        }
    }

    pub(super) fn on_read(&mut self, at: usize, outcome: ReadOutcome) {
        let (ReadOutcome::Ready { id, .. } | ReadOutcome::Failed { id }) = outcome;
        let node = &mut self.nodes[at];
        let Some(asked) = node.reads.iter().position(|(asked, _)| *asked == id) else {
            return self.judge(Err(format!("node {} answered the unasked read {id:?}", at + 1)));
        };
        let (_, floor) = node.reads.swap_remove(asked);
        match outcome {
            ReadOutcome::Ready { index, .. } => {
                self.coverage.index_reads += 1;
                self.coverage.follower_reads +=
                    u64::from(!node.raft.as_ref().is_some_and(raft::Raft::is_leader));
                let verdict = self.oracle.read(NodeId(at as u64 + 1), "index", floor, index);
                self.judge(verdict);
            }
            ReadOutcome::Failed { .. } => self.coverage.failed_reads += 1,
        }
    }

    pub(super) fn on_applied(&mut self, at: usize, done: &[(raft::Entry, State)]) {
        for (entry, state) in done {
            let node = &mut self.nodes[at];
            while node.proposals.front().is_some_and(|id| id.index < entry.index) {
                node.proposals.pop_front();
            }
            if node.proposals.front().is_some_and(|id| id.index == entry.index) {
                let id = node.proposals.pop_front().expect("a proposal");
                if id.term == entry.term {
                    self.oracle.acked(id);
                }
            }
            self.coverage.joint_changes += u64::from(state.membership.is_joint());
            let verdict = self.oracle.holds_state(self.nodes[at].id, state);
            self.judge(verdict);
        }
    }

    pub(super) fn run_chores(&mut self) {
        let now = self.now;
        let mut due = Vec::new();
        let mut at = 0;
        while at < self.chores.len() {
            if self.chores[at].0 <= now { due.push(self.chores.swap_remove(at)) } else { at += 1 }
        }
        for (_, at, chore) in due {
            if !self.awake(at) {
                // A crash has removed its chores; a pause only delays them.
                self.chores.push((self.nodes[at].paused_until, at, chore));
                continue;
            }
            let node = &mut self.nodes[at];
            let raft = node.raft.as_mut().expect("a running node");
            match chore {
                Chore::Fetch(fetch) => {
                    let found: Vec<_> = (fetch.first.0..=fetch.last.0)
                        .map_while(|index| node.disk.entry(Index(index)).cloned())
                        .take(3)
                        .collect();
                    raft.fetched(&fetch, (!found.is_empty()).then_some(found));
                }
                Chore::Snapshot(wanted) if self.rng.chance(900) => {
                    let snapshot = node.snapshot();
                    // Useless by now is fine: the core asks again.
                    let _useless = node.raft.as_mut().expect("running").send_snapshot(&wanted, snapshot);
                }
                Chore::Snapshot(wanted) => raft.report_snapshot(&wanted, SnapshotReport::Failed),
            }
            self.settle(at);
        }
    }

    // ---- the end ------------------------------------------------------------------------------------------------

    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        self.cut.clear();
        for at in 0..self.nodes.len() {
            self.nodes[at].paused_until = 0;
            self.nodes[at].apply_soon(self.now);
            self.restart(at);
            if let Some(raft) = self.nodes[at].raft.as_mut() {
                raft.wake();
            }
            self.settle(at);
        }
    }

    /// Whether there is one leader, a write of its term is acknowledged, and every member has applied it.
    pub(super) fn converged(&mut self) -> bool {
        let leaders = self.nodes.iter().filter_map(|node| node.raft.as_ref()).filter(|raft| raft.is_leader());
        let Some(raft) = leaders.max_by_key(|raft| raft.term()) else { return false };
        let (term, membership, last) = (raft.term(), raft.membership().clone(), raft.last().index);
        let at = raft.id().0 as usize - 1;
        if membership.is_joint() && !membership.leaves_by_itself() {
            let leave = MembershipChange::leave_joint();
            // Refused while another change is in flight; the next round asks again.
            let _busy = self.nodes[at].raft.as_mut().expect("a leader").propose_change(&leave);
            self.settle(at);
            return false;
        }
        let done = |node: &Node| node.state.last.index >= last && node.state.last.term == term;
        let settled = membership.members().iter().all(|id| done(&self.nodes[id.0 as usize - 1]));
        let acked = self.oracle.last_committed() >= last && !membership.is_joint();
        let reads = membership.members().iter().all(|id| self.nodes[id.0 as usize - 1].reads.is_empty());
        // Members that were removed may not be ticking any more.
        let ended = membership.members().iter().all(|id| self.nodes[id.0 as usize - 1].transfers.is_empty());
        if settled && acked && reads && ended && last.0 > 0 {
            return true;
        }
        self.propose(at);
        false
    }

    pub(super) fn describe(&self) -> String {
        let states = self.nodes.iter().map(|node| match &node.raft {
            Some(raft) => format!(
                "{}:{:?} t{} last {} committed {} applied {} of {} leader {:?}{}",
                node.id,
                raft.role(),
                raft.term(),
                raft.last(),
                raft.committed(),
                node.state.last,
                raft.membership(),
                raft.leader(),
                if raft.is_asleep() { " asleep" } else { "" }
            ),
            None => format!("{}: down", node.id),
        });
        states.collect::<Vec<_>>().join("; ")
    }
}
