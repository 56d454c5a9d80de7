//! raft-rs, driven in memory the way its documentation shows.

use std::collections::VecDeque;

use raft_rs::prelude::{ConfState, Message, MessageType};
use raft_rs::storage::MemStorage;
use raft_rs::{Config, RawNode, StateRole};

struct Node {
    raw: RawNode<MemStorage>,
    applied: u64,
    cut: u64,
}

fn replica(id: u64) -> Node {
    let config = Config {
        id,
        election_tick: 10,
        heartbeat_tick: 2,
        pre_vote: true,
        check_quorum: true,
        max_size_per_msg: 1 << 20,
        max_inflight_msgs: 256,
        ..Config::default()
    };
    let storage = MemStorage::new_with_conf_state(ConfState::from((vec![1, 2, 3], vec![])));
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let raw = RawNode::new(&config, storage, &logger).expect("a sound configuration");
    Node { raw, applied: 0, cut: 0 }
}

impl Node {
    fn settle(&mut self, net: &mut VecDeque<Message>) {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            net.extend(ready.take_messages());
            let committed = ready.take_committed_entries();
            self.apply(committed.len(), committed.last().map(|entry| entry.index));
            {
                let mut store = self.raw.store().wl();
                store.append(ready.entries()).expect("memory");
                if let Some(hard) = ready.hs() {
                    store.set_hardstate(hard.clone());
                }
            }
            net.extend(ready.take_persisted_messages());
            let mut light = self.raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.raw.store().wl().mut_hard_state().commit = commit;
            }
            net.extend(light.take_messages());
            let committed = light.take_committed_entries();
            self.apply(committed.len(), committed.last().map(|entry| entry.index));
            self.raw.advance_apply();
        }
    }

    fn apply(&mut self, count: usize, last: Option<u64>) {
        self.applied += count as u64;
        // The same rule as on the other side, less what the slower follower may still need.
        if let Some(last) = last
            && last > self.cut + 11_000
        {
            self.cut = last - 1_000;
            self.raw.store().wl().compact(self.cut).expect("memory");
        }
    }
}

/// A group of three in memory.
pub(crate) struct Group {
    nodes: Vec<Node>,
    net: VecDeque<Message>,
}

impl Group {
    pub(crate) fn new() -> Self {
        let mut group = Self { nodes: (1..=3).map(replica).collect(), net: VecDeque::new() };
        group.nodes[0].raw.campaign().expect("a voter");
        group.pump();
        assert_eq!(group.nodes[0].raw.raft.state, StateRole::Leader);
        group
    }

    fn pump(&mut self) {
        self.nodes[0].settle(&mut self.net);
        while let Some(message) = self.net.pop_front() {
            let node = &mut self.nodes[message.to as usize - 1];
            node.raw.step(message).expect("an honest message");
            node.settle(&mut self.net);
        }
    }

    pub(crate) fn propose(&mut self, batch: usize, payload: &[u8]) {
        for _ in 0..batch {
            self.nodes[0].raw.propose(Vec::new(), payload.to_vec()).expect("the leader");
        }
        self.pump();
    }

    pub(crate) fn applied(&self) -> u64 {
        self.nodes.iter().map(|node| node.applied).min().expect("nodes")
    }
}

/// Replicas that lead idle groups; their followers are imitated.
pub(crate) struct Idle(Vec<Node>);

impl Idle {
    pub(crate) fn new(count: u64) -> Self {
        let mut idle = Self((0..count).map(|_| replica(1)).collect());
        for node in &mut idle.0 {
            node.raw.campaign().expect("a voter");
            answer(node);
            assert_eq!(node.raw.raft.state, StateRole::Leader);
        }
        idle
    }

    /// One tick interval for all of them.
    pub(crate) fn tick(&mut self) {
        for node in &mut self.0 {
            node.raw.tick();
            if node.raw.has_ready() {
                answer(node);
            }
        }
    }
}

/// Answers whatever it sends, as two healthy followers would.
fn answer(node: &mut Node) {
    let mut net = VecDeque::new();
    node.settle(&mut net);
    while let Some(message) = net.pop_front() {
        let kind = match message.get_msg_type() {
            MessageType::MsgRequestPreVote => MessageType::MsgRequestPreVoteResponse,
            MessageType::MsgRequestVote => MessageType::MsgRequestVoteResponse,
            MessageType::MsgAppend => MessageType::MsgAppendResponse,
            MessageType::MsgHeartbeat => MessageType::MsgHeartbeatResponse,
            _ => continue,
        };
        let last = message.entries.last().map_or(message.index, |entry| entry.index);
        let mut reply =
            Message { from: message.to, to: 1, term: message.term, index: last, ..Message::default() };
        reply.set_msg_type(kind);
        node.raw.step(reply).expect("an honest answer");
        node.settle(&mut net);
    }
}
