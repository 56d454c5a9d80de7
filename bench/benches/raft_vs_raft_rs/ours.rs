//! The Raft core of this project, driven in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use raft::{
    Apply, Beat, Body, Config, Entry, GroupId, Identity, Index, LogId, Membership, Message, NodeId, Payload,
    Raft, Start, Time, VoteAnswer,
};

struct Node {
    raft: Raft,
    log: VecDeque<Entry>,
    applied: u64,
}

impl Node {
    fn settle(&mut self, net: &mut VecDeque<Message>) {
        while self.raft.has_ready() {
            let ready = self.raft.ready();
            net.extend(ready.send);
            if let Some(mut write) = ready.write {
                self.log.extend(std::mem::take(&mut write.entries));
                let (ack, messages) = write.durable();
                self.raft.written(ack);
                net.extend(messages);
            }
            if let Some(Apply::Entries(entries)) = ready.apply {
                let last = entries.last().expect("entries").index;
                self.applied += entries.len() as u64;
                self.raft.applied(last);
                if self.log.len() > 10_000 {
                    let cut = self.raft.compact_hint();
                    while self.log.front().is_some_and(|entry| entry.index <= cut) {
                        self.log.pop_front();
                    }
                    self.raft.compacted(cut);
                }
            }
        }
    }
}

/// A group of three in memory.
pub(crate) struct Group {
    nodes: Vec<Node>,
    net: VecDeque<Message>,
}

fn config(quiet_after_ticks: u32) -> Arc<Config> {
    Arc::new(Config { quiet_after_ticks, ..Config::default() })
}

fn replica(config: &Arc<Config>, group: u64, id: u64) -> Raft {
    let identity = Identity { group: GroupId(group), id: NodeId(id), priority: 0, incarnation: group };
    let start = Start::bootstrap(LogId::new(5, 5), Membership::of([NodeId(1), NodeId(2), NodeId(3)]));
    Raft::new(Arc::clone(config), identity, start, Time(0)).expect("a sound start")
}

impl Group {
    pub(crate) fn new() -> Self {
        let config = config(0);
        let nodes = (1..=3)
            .map(|id| Node { raft: replica(&config, 1, id), log: VecDeque::new(), applied: 0 })
            .collect();
        let mut group = Self { nodes, net: VecDeque::new() };
        group.nodes[0].raft.campaign(Time(0)).expect("a voter");
        group.pump();
        assert!(group.nodes[0].raft.is_leader());
        group
    }

    fn pump(&mut self) {
        self.nodes[0].settle(&mut self.net);
        while let Some(message) = self.net.pop_front() {
            let node = &mut self.nodes[message.to.0 as usize - 1];
            // A vote that came too late to matter is fine.
            let _late = node.raft.step(Time(0), message);
            node.settle(&mut self.net);
        }
    }

    pub(crate) fn propose(&mut self, batch: usize, payload: &[u8]) {
        for _ in 0..batch {
            self.nodes[0].raft.propose(Payload::from(payload)).expect("the leader");
        }
        self.pump();
    }

    pub(crate) fn applied(&self) -> u64 {
        self.nodes.iter().map(|node| node.applied).min().expect("nodes")
    }
}

/// Replicas that lead idle groups; their followers are imitated.
pub(crate) struct Idle(Vec<Raft>);

impl Idle {
    pub(crate) fn new(count: u64, quiet: bool) -> Self {
        let config = config(if quiet { 11 } else { 0 });
        let mut idle = Self((0..count).map(|group| replica(&config, group, 1)).collect());
        for (group, raft) in idle.0.iter_mut().enumerate() {
            lead(raft, group as u64);
        }
        if quiet {
            (0..40).for_each(|_| idle.tick());
            idle.assert_asleep();
        }
        idle
    }

    /// Leaders that have worked before they went to sleep, one after the other.
    pub(crate) fn worked(count: u64) -> Self {
        let config = config(11);
        let mut idle = Self((0..count).map(|group| replica(&config, group, 1)).collect());
        for (group, raft) in idle.0.iter_mut().enumerate() {
            lead(raft, group as u64);
            for _ in 0..100 {
                raft.propose(Payload::from(&[7; 64][..])).expect("the leader");
                settle(raft, group as u64);
            }
            (0..40).for_each(|_| {
                raft.tick(Time(0));
                settle(raft, group as u64);
            });
        }
        idle.assert_asleep();
        idle
    }

    /// Replicas that follow; their leaders are imitated.
    pub(crate) fn followers(count: u64) -> Self {
        let config = config(11);
        let mut idle = Self((0..count).map(|group| replica(&config, group, 2)).collect());
        for (group, raft) in idle.0.iter_mut().enumerate() {
            let (opens, prev) = (LogId::new(6, 6), LogId::new(5, 5));
            let entries = vec![Entry { term: opens.term, index: opens.index, ..Entry::default() }];
            let beat = Beat { commit: opens.index, round: 1, fence: 0, quiet: true };
            let word = [
                Body::Append { prev, entries, commit: prev.index },
                Body::Append { prev: opens, entries: Vec::new(), commit: opens.index },
                Body::Heartbeat(beat),
            ];
            for body in word {
                let group = GroupId(group as u64);
                let message = Message { group, from: NodeId(1), to: NodeId(2), term: opens.term, body };
                raft.step(Time(0), message).expect("an honest leader");
                settle(raft, group.0);
            }
        }
        idle.assert_asleep();
        idle
    }

    fn assert_asleep(&self) {
        assert!(self.0.iter().all(Raft::is_asleep), "idle groups go to sleep");
    }

    /// One tick interval for all of them. A driver need not even look at sleepers; this one does.
    pub(crate) fn tick(&mut self) {
        for (group, raft) in self.0.iter_mut().enumerate() {
            if raft.is_asleep() {
                continue;
            }
            raft.tick(Time(0));
            if raft.has_ready() {
                settle(raft, group as u64);
            }
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.0.iter().map(Raft::memory_bytes).sum::<usize>() / self.0.len()
    }
}

fn lead(raft: &mut Raft, group: u64) {
    raft.campaign(Time(0)).expect("a voter");
    settle(raft, group);
    assert!(raft.is_leader());
}

/// Answers whatever it sends, as two healthy followers would.
fn settle(raft: &mut Raft, group: u64) {
    while raft.has_ready() {
        let ready = raft.ready();
        let mut messages = ready.send;
        if let Some(write) = ready.write {
            let (ack, after) = write.durable();
            raft.written(ack);
            messages.extend(after);
        }
        if let Some(Apply::Entries(entries)) = ready.apply {
            raft.applied(entries.last().expect("entries").index);
        }
        for message in messages {
            let yes = VoteAnswer { granted: true, commit: LogId::ZERO };
            let body = match message.body {
                Body::PreVote(_) => Body::PreVoteReply(yes),
                Body::Vote(_) => Body::VoteReply(yes),
                Body::Append { prev, entries, .. } => {
                    let last = entries.last().map_or(prev.index, |entry| entry.index);
                    Body::AppendReply(raft::AppendOutcome::Matched(Index(last.0)))
                }
                Body::Heartbeat(Beat { round, quiet, .. }) => Body::HeartbeatReply { round, quiet },
                _ => continue,
            };
            let answer =
                Message { group: GroupId(group), from: message.to, to: NodeId(1), term: message.term, body };
            // An answer that came too late to matter is fine.
            let _late = raft.step(Time(0), answer);
        }
    }
}
