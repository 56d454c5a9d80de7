//! The Raft core beside the `raft` crate (raft-rs 0.7), in one process and one run.
//!
//! `cargo bench -p ringkeep-bench --features peers-raft-rs --bench raft_vs_raft_rs`
//!
//! Both sides get the same work: a group of three whose disks and network are memory, pre-vote and check-quorum on,
//! 64-byte commands, the log cut every ten thousand entries; then 100,000 replicas that lead idle groups of three.
//! Rounds are interleaved and medians compared, so that a slow moment of the machine hits both.

use std::time::{Duration, Instant};

mod ours {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use raft::{
        Apply, Beat, Body, Config, Entry, GroupId, Identity, Index, LogId, Membership, Message, NodeId,
        Payload, Raft, Start, Time, VoteAnswer,
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
    pub(super) struct Group {
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
        pub(super) fn new() -> Self {
            let config = config(0);
            let nodes = (1..=3)
                .map(|id| Node { raft: replica(&config, 1, id), log: VecDeque::new(), applied: 0 })
                .collect();
            let mut group = Self { nodes, net: VecDeque::new() };
            group.nodes[0].raft.campaign().expect("a voter");
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

        pub(super) fn propose(&mut self, batch: usize, payload: &[u8]) {
            for _ in 0..batch {
                self.nodes[0].raft.propose(Payload::from(payload)).expect("the leader");
            }
            self.pump();
        }

        pub(super) fn applied(&self) -> u64 {
            self.nodes.iter().map(|node| node.applied).min().expect("nodes")
        }
    }

    /// Replicas that lead idle groups; their followers are imitated.
    pub(super) struct Idle(Vec<Raft>);

    impl Idle {
        pub(super) fn new(count: u64, quiet: bool) -> Self {
            let config = config(if quiet { 11 } else { 0 });
            let mut idle = Self((0..count).map(|group| replica(&config, group, 1)).collect());
            for (group, raft) in idle.0.iter_mut().enumerate() {
                lead(raft, group as u64);
            }
            if quiet {
                (0..40).for_each(|_| idle.tick());
                assert!(idle.0.iter().all(Raft::is_asleep), "idle groups go to sleep");
            }
            idle
        }

        /// One tick interval for all of them. A driver need not even look at sleepers; this one does.
        pub(super) fn tick(&mut self) {
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

        pub(super) fn memory_bytes(&self) -> usize {
            self.0.iter().map(Raft::memory_bytes).sum::<usize>() / self.0.len()
        }
    }

    fn lead(raft: &mut Raft, group: u64) {
        raft.campaign().expect("a voter");
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
                let answer = Message {
                    group: GroupId(group),
                    from: message.to,
                    to: NodeId(1),
                    term: message.term,
                    body,
                };
                // An answer that came too late to matter is fine.
                let _late = raft.step(Time(0), answer);
            }
        }
    }
}

mod theirs {
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
    pub(super) struct Group {
        nodes: Vec<Node>,
        net: VecDeque<Message>,
    }

    impl Group {
        pub(super) fn new() -> Self {
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

        pub(super) fn propose(&mut self, batch: usize, payload: &[u8]) {
            for _ in 0..batch {
                self.nodes[0].raw.propose(Vec::new(), payload.to_vec()).expect("the leader");
            }
            self.pump();
        }

        pub(super) fn applied(&self) -> u64 {
            self.nodes.iter().map(|node| node.applied).min().expect("nodes")
        }
    }

    /// Replicas that lead idle groups; their followers are imitated.
    pub(super) struct Idle(Vec<Node>);

    impl Idle {
        pub(super) fn new(count: u64) -> Self {
            let mut idle = Self((0..count).map(|_| replica(1)).collect());
            for node in &mut idle.0 {
                node.raw.campaign().expect("a voter");
                answer(node);
                assert_eq!(node.raw.raft.state, StateRole::Leader);
            }
            idle
        }

        /// One tick interval for all of them.
        pub(super) fn tick(&mut self) {
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
}

const ROUNDS: usize = 7;

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4096
}

#[expect(clippy::print_stdout, reason = "a benchmark reports")]
fn proposals(batch: usize, total: usize) {
    let payload = [7_u8; 64];
    let (mut ours, mut theirs) = (ours::Group::new(), theirs::Group::new());
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (before_ours, before_theirs) = (ours.applied(), theirs.applied());
        our_times.push(time(|| (0..total / batch).for_each(|_| ours.propose(batch, &payload))).as_secs_f64());
        their_times
            .push(time(|| (0..total / batch).for_each(|_| theirs.propose(batch, &payload))).as_secs_f64());
        let done = (total / batch * batch) as u64;
        assert_eq!((ours.applied() - before_ours, theirs.applied() - before_theirs), (done, done));
    }
    let (ours, theirs) = (median(our_times), median(their_times));
    let per_second = |seconds: f64| total as f64 / seconds;
    println!(
        "3 nodes, batch {batch:>2}: ringkeep {:>10.0}/s   raft-rs {:>10.0}/s   ratio {:.2}",
        per_second(ours),
        per_second(theirs),
        theirs / ours
    );
}

#[expect(clippy::print_stdout, reason = "a benchmark reports")]
fn idle(count: u64) {
    let start = resident();
    let mut quiet = ours::Idle::new(count, true);
    let after_quiet = resident();
    let mut awake = ours::Idle::new(count, false);
    let after_awake = resident();
    let mut theirs = theirs::Idle::new(count);
    let after_theirs = resident();
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        // Two intervals each, so that every group has sent its heartbeats once.
        times[0].push(time(|| (0..2).for_each(|_| quiet.tick())).as_secs_f64() / 2.0);
        times[1].push(time(|| (0..2).for_each(|_| awake.tick())).as_secs_f64() / 2.0);
        times[2].push(time(|| (0..2).for_each(|_| theirs.tick())).as_secs_f64() / 2.0);
    }
    let [quiet_time, awake_time, their_time] = times.map(median);
    println!(
        "{count} idle groups, per tick interval: ringkeep asleep {:.3} ms, awake {:.1} ms   raft-rs {:.1} ms   asleep/raft-rs 1/{:.0}, awake/raft-rs {:.2}",
        quiet_time * 1e3,
        awake_time * 1e3,
        their_time * 1e3,
        their_time / quiet_time,
        awake_time / their_time,
    );
    println!(
        "memory per idle group: ringkeep asleep {} B resident ({} B by its own count), awake {} B   raft-rs {} B",
        (after_quiet - start) / count,
        quiet.memory_bytes(),
        (after_awake - after_quiet) / count,
        (after_theirs - after_awake) / count,
    );
}

fn main() {
    proposals(1, 100_000);
    proposals(64, 640_000);
    idle(100_000);
}
