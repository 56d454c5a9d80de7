//! Replicas in one thread with a synchronous network: a message is stepped, what it causes is sent, until all is
//! quiet. Disks are instant, state machines are lists that may lag: a [`Net`] applies what its messages committed
//! sometimes at once and sometimes later, as long as nobody waits for it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use raft::{
    AppendOutcome, Apply, Beat, Body, ChangeEffect, ChangeStep, Config, Dropped, Entry, EntryKind, Event,
    GroupId, HardState, Identity, Index, LogId, LogSummary, Membership, MembershipChange, Message, NodeId,
    Payload, Raft, ReadOutcome, Ready, RoleKind, Snapshot, SnapshotWanted, Start, Term, Time, VoteAnswer,
    VoteAsk, Write,
};

use crate::rng::Rng;

/// The course's settings: neither pre-vote nor check-quorum.
pub(crate) fn course() -> Config {
    Config { heartbeat_ticks: 1, pre_vote: false, check_quorum: false, ..Config::default() }
}

/// What a state machine contains.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) last: LogId,
    pub(crate) membership: Membership,
}

/// A replica whose disk is always done.
pub(crate) struct Peer {
    pub(crate) raft: Raft,
    pub(crate) base: LogId,
    pub(crate) log: Vec<Entry>,
    pub(crate) hard: HardState,
    /// Everything applied, in order.
    pub(crate) applied: Vec<Entry>,
    /// Handed out for apply and not applied yet.
    pub(crate) pending: VecDeque<Entry>,
    /// Applies nothing for now.
    pub(crate) lags: bool,
    /// What the state machine contains, and what of it would survive a crash.
    pub(crate) state: State,
    pub(crate) stored: State,
    pub(crate) reads: Vec<ReadOutcome>,
    pub(crate) events: Vec<Event>,
    /// Every snapshot ever asked for.
    pub(crate) wanted: Vec<SnapshotWanted>,
    pub(crate) now: Time,
}

impl Peer {
    /// A replica with a stored log of these terms, starting at index 1.
    pub(crate) fn with_log(
        config: &Config,
        id: u64,
        voters: &[u64],
        terms: &[u64],
        hard: (u64, u64),
    ) -> Self {
        let log: Vec<_> = (1..).zip(terms).map(|(index, term)| entry(*term, index, "")).collect();
        let membership = Membership::of(voters.iter().map(|id| NodeId(*id)));
        let hard_state = HardState { term: Term(hard.0), vote: None, commit: Index(hard.1) };
        Self::restart(config, id, membership, LogId::ZERO, log, hard_state)
    }

    pub(crate) fn restart(
        config: &Config,
        id: u64,
        membership: Membership,
        base: LogId,
        log: Vec<Entry>,
        hard_state: HardState,
    ) -> Self {
        Self::restart_from(config, id, State { last: base, membership }, base, log, hard_state, Index(0))
    }

    pub(crate) fn restart_from(
        config: &Config,
        id: u64,
        stored: State,
        base: LogId,
        log: Vec<Entry>,
        hard_state: HardState,
        suspect_until: Index,
    ) -> Self {
        let mut summary = LogSummary::after(base);
        log.iter().for_each(|entry| summary.push(entry.id(), entry.kind));
        let start = Start {
            hard_state,
            log: summary,
            applied: stored.last.index,
            membership: stored.membership.clone(),
            suspect_until,
        };
        let identity = Identity { group: GroupId(1), id: NodeId(id), priority: 0, incarnation: 7 };
        let raft = Raft::new(Arc::new(config.clone()), identity, start, Time(0)).expect("a sound start");
        Self {
            raft,
            base,
            log,
            hard: hard_state,
            applied: Vec::new(),
            pending: VecDeque::new(),
            lags: false,
            state: stored.clone(),
            stored,
            reads: Vec::new(),
            events: Vec::new(),
            wanted: Vec::new(),
            now: Time(0),
        }
    }

    pub(crate) fn new(id: u64, voters: &[u64]) -> Self {
        Self::with_log(&course(), id, voters, &[], (0, 0))
    }

    /// Does all there is to do; returns what it sends.
    pub(crate) fn settle(&mut self) -> Vec<Message> {
        let mut out = Vec::new();
        loop {
            if self.raft.has_ready() {
                let (sent, write) = self.take_ready();
                out.extend(sent);
                out.extend(write.into_iter().flat_map(|write| self.complete(write)));
            } else if self.lags || !self.apply_one() {
                return out;
            }
        }
    }

    /// Takes one ready and does what there is to do, except that messages and the write are left to the caller.
    pub(crate) fn take_ready(&mut self) -> (Vec<Message>, Option<Write>) {
        let Ready { send, write, apply, fetch, snapshots, reads, events } = self.raft.ready();
        let handed_out = apply.map(|apply| self.entries(apply)).unwrap_or_default();
        self.pending.extend(handed_out);
        for fetch in fetch {
            let found = self.on_disk(fetch.first, fetch.last);
            self.raft.fetched(&fetch, (!found.is_empty()).then_some(found));
        }
        for wanted in snapshots {
            self.wanted.push(wanted);
            // Refused if it is of no use by now.
            let _useless = self.raft.send_snapshot(&wanted, self.snapshot());
        }
        self.reads.extend(reads);
        self.events.extend(events);
        (send, write)
    }

    /// Applies what is pending, and does what follows from it.
    pub(crate) fn catch_up(&mut self) -> Vec<Message> {
        self.lags = false;
        self.settle()
    }

    /// The write is on disk.
    pub(crate) fn complete(&mut self, write: Write) -> Vec<Message> {
        self.hard = write.hard_state;
        if let Some(snapshot) = &write.snapshot {
            self.base = snapshot.last;
            self.log.clear();
            self.state = State { last: snapshot.last, membership: snapshot.membership.clone() };
            self.stored = self.state.clone();
            self.pending.clear();
        }
        if let Some(first) = write.entries.first() {
            self.log.truncate((first.index.0 - self.base.index.0 - 1) as usize);
            self.log.extend(write.entries.iter().cloned());
        }
        let (ack, messages) = write.durable();
        self.raft.written(ack);
        messages
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let State { last, membership } = self.state.clone();
        Snapshot { last, membership, context: Payload::EMPTY }
    }

    fn on_disk(&self, first: Index, last: Index) -> Vec<Entry> {
        self.log.iter().filter(|entry| (first..=last).contains(&entry.index)).cloned().collect()
    }

    fn entries(&self, apply: Apply) -> Vec<Entry> {
        match apply {
            Apply::Entries(entries) => entries,
            Apply::FromLog { first, last } => self.on_disk(first, last),
        }
    }

    /// Applies the next entry. Whether there was one.
    pub(crate) fn apply_one(&mut self) -> bool {
        let Some(entry) = self.pending.pop_front() else { return false };
        if entry.kind == EntryKind::Membership {
            let change = MembershipChange::decode(&entry.payload).expect("a change");
            match self.raft.apply_change(entry.index, &change) {
                Ok(ChangeEffect::Store(membership)) => self.state.membership = membership.clone(),
                Ok(ChangeEffect::Overtaken) => {
                    self.pending.clear();
                    return true;
                }
                // A change that makes no sense changes nothing.
                Err(_) => {}
            }
        }
        self.state.last = entry.id();
        self.raft.applied(entry.index);
        self.applied.push(entry);
        true
    }

    /// Makes what is applied durable.
    pub(crate) fn flush(&mut self) {
        self.stored = self.state.clone();
    }

    /// Cuts the log up to what is applied.
    pub(crate) fn compact(&mut self) {
        self.flush();
        self.base = self.stored.last;
        self.log.retain(|entry| entry.index > self.base.index);
        self.raft.compacted(self.base.index);
    }

    /// Steps a message that the test expects to be taken or refused; returns what it causes.
    pub(crate) fn step(&mut self, message: Message) -> Vec<Message> {
        self.try_step(message).0
    }

    pub(crate) fn try_step(&mut self, message: Message) -> (Vec<Message>, Result<(), Dropped>) {
        let result = self.raft.step(self.now, message);
        (self.settle(), result)
    }

    pub(crate) fn tick(&mut self) -> Vec<Message> {
        self.raft.tick(self.now);
        self.settle()
    }

    pub(crate) fn campaign(&mut self) -> Vec<Message> {
        // Refused where the scenario says so; the state shows it.
        let _refused = self.raft.campaign(self.now);
        self.settle()
    }

    pub(crate) fn propose(&mut self, text: &str) -> Vec<Message> {
        self.raft.propose(text.into()).expect("a leader that takes proposals");
        self.settle()
    }

    /// Makes it leader by votes of everybody else, in the next term; what it sends meanwhile is lost.
    pub(crate) fn lead(&mut self) -> Vec<Message> {
        let mut out = self.campaign();
        let me = self.raft.id();
        for voter in self.raft.membership().voters.clone().into_iter().filter(|id| *id != me) {
            if !self.raft.is_leader() {
                out = self.step(vote_reply(voter.0, me.0, self.term(), true));
            }
        }
        assert!(self.raft.is_leader());
        out
    }

    /// Steps the acknowledgement of everything by `from`.
    pub(crate) fn ack(&mut self, from: u64) -> Vec<Message> {
        let (me, term, last) = (self.raft.id().0, self.term(), self.raft.last().index);
        self.step(matched(from, me, term, last.0))
    }

    pub(crate) fn term(&self) -> u64 {
        self.raft.term().0
    }

    pub(crate) fn role(&self) -> RoleKind {
        self.raft.role()
    }

    pub(crate) fn committed(&self) -> u64 {
        self.raft.committed().0
    }

    pub(crate) fn terms(&self) -> Vec<u64> {
        self.log.iter().map(|entry| entry.term.0).collect()
    }

    /// (term, payload) of every entry.
    pub(crate) fn text(&self) -> Vec<(u64, String)> {
        self.log.iter().map(|e| (e.term.0, String::from_utf8_lossy(&e.payload).into_owned())).collect()
    }
}

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Runs a scenario many times, with state machines that lag each time in another way.
pub(crate) fn with_every_lag(scenario: impl Fn()) {
    for seed in 0..100 {
        SEED.set(seed);
        scenario();
    }
    SEED.set(0);
}

/// Several peers and what lies between them.
pub(crate) struct Net {
    pub(crate) peers: BTreeMap<u64, Peer>,
    cut: BTreeSet<(u64, u64)>,
    ignored: BTreeSet<&'static str>,
    /// Everything delivered so far, as "name from>to".
    pub(crate) seen: Vec<String>,
    pub(crate) dropped: BTreeMap<&'static str, usize>,
    rng: Rng,
    /// State machines lag at random; otherwise each as its peer says.
    pub(crate) random_lag: bool,
}

impl Net {
    /// Voters `1..=n`; those in `dead` are black holes.
    pub(crate) fn new(n: u64, dead: &[u64]) -> Self {
        Self::with(&course(), n, dead)
    }

    pub(crate) fn with(config: &Config, n: u64, dead: &[u64]) -> Self {
        let voters: Vec<u64> = (1..=n).collect();
        let live = voters.iter().filter(|id| !dead.contains(id));
        Self::of(live.map(|id| Peer::with_log(config, *id, &voters, &[], (0, 0))))
    }

    pub(crate) fn of(peers: impl IntoIterator<Item = Peer>) -> Self {
        Self {
            peers: peers.into_iter().map(|peer| (peer.raft.id().0, peer)).collect(),
            cut: BTreeSet::new(),
            ignored: BTreeSet::new(),
            seen: Vec::new(),
            dropped: BTreeMap::new(),
            rng: Rng::new(SEED.get()),
            random_lag: true,
        }
    }

    pub(crate) fn peer(&mut self, id: u64) -> &mut Peer {
        self.peers.get_mut(&id).expect("a live peer")
    }

    /// Delivers, first in first out, until nobody has anything to say. State machines lag behind at random, but have
    /// caught up in the end.
    pub(crate) fn send(&mut self, messages: Vec<Message>) {
        let mut queue = VecDeque::from(messages);
        let mut budget = 100_000;
        loop {
            let Some(message) = queue.pop_front() else {
                if self.random_lag {
                    queue.extend(self.peers.values_mut().flat_map(Peer::catch_up));
                }
                if queue.is_empty() { return } else { continue }
            };
            for peer in self.peers.values_mut() {
                if self.random_lag && peer.lags && self.rng.chance(200) {
                    queue.extend(peer.catch_up());
                }
            }
            budget -= 1;
            assert!(budget > 0, "the peers talk for ever");
            let (from, to, name) = (message.from.0, message.to.0, message.body.name());
            if self.cut.contains(&(from, to)) || self.ignored.contains(name) {
                continue;
            }
            let Some(peer) = self.peers.get_mut(&to) else { continue };
            self.seen.push(format!("{name} {from}>{to}"));
            peer.lags |= self.random_lag && self.rng.chance(500);
            let (out, result) = peer.try_step(message);
            if let Err(dropped) = result {
                *self.dropped.entry(dropped.name()).or_default() += 1;
            }
            queue.extend(out);
        }
    }

    pub(crate) fn campaign(&mut self, id: u64) {
        let out = self.peer(id).campaign();
        self.send(out);
    }

    /// Ticks one peer: with a heartbeat interval of one tick, a leader's heartbeat.
    pub(crate) fn tick(&mut self, id: u64) {
        let out = self.peer(id).tick();
        self.send(out);
    }

    /// Ticks everybody at once.
    pub(crate) fn tick_all(&mut self) {
        let out = self.peers.values_mut().flat_map(Peer::tick).collect();
        self.send(out);
    }

    /// Ticks until it campaigns.
    pub(crate) fn time_out(&mut self, id: u64) {
        let term = self.peer(id).term();
        for _ in 0..20 {
            if self.peer(id).term() == term {
                self.tick(id);
            }
        }
    }

    pub(crate) fn propose(&mut self, id: u64, text: &str) -> bool {
        let accepted = self.peer(id).raft.propose(text.into()).is_ok();
        let out = self.peer(id).settle();
        self.send(out);
        accepted
    }

    pub(crate) fn transfer(&mut self, at: u64, target: u64) {
        // Some scenarios ask for what is refused; the outcome shows.
        let _refused = self.peer(at).raft.transfer(NodeId(target));
        let out = self.peer(at).settle();
        self.send(out);
    }

    pub(crate) fn change(&mut self, at: u64, step: ChangeStep) -> bool {
        let accepted = self.peer(at).raft.propose_change(&MembershipChange::one(step)).is_ok();
        let out = self.peer(at).settle();
        self.send(out);
        accepted
    }

    pub(crate) fn cut(&mut self, a: u64, b: u64) {
        self.cut.extend([(a, b), (b, a)]);
    }

    pub(crate) fn cut_one_way(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    pub(crate) fn isolate(&mut self, id: u64) {
        let others: Vec<u64> = self.peers.keys().copied().filter(|other| *other != id).collect();
        others.into_iter().for_each(|other| self.cut(id, other));
    }

    pub(crate) fn ignore(&mut self, name: &'static str) {
        self.ignored.insert(name);
    }

    pub(crate) fn recover(&mut self) {
        self.cut.clear();
        self.ignored.clear();
    }

    pub(crate) fn roles(&self) -> Vec<RoleKind> {
        self.peers.values().map(Peer::role).collect()
    }

    pub(crate) fn leaders(&self) -> Vec<u64> {
        self.peers.iter().filter(|(_, peer)| peer.raft.is_leader()).map(|(id, _)| *id).collect()
    }
}

pub(crate) fn entry(term: u64, index: u64, text: &str) -> Entry {
    Entry { term: Term(term), index: Index(index), kind: EntryKind::Normal, payload: text.into() }
}

pub(crate) fn message(from: u64, to: u64, term: u64, body: Body) -> Message {
    Message { group: GroupId(1), from: NodeId(from), to: NodeId(to), term: Term(term), body }
}

/// `prev` is (term, index), as everywhere in these tests.
pub(crate) fn append(
    from: u64,
    to: u64,
    term: u64,
    prev: (u64, u64),
    entries: Vec<Entry>,
    commit: u64,
) -> Message {
    let body = Body::Append { prev: LogId::new(prev.0, prev.1), entries, commit: Index(commit) };
    message(from, to, term, body)
}

pub(crate) fn matched(from: u64, to: u64, term: u64, index: u64) -> Message {
    message(from, to, term, Body::AppendReply(AppendOutcome::Matched(Index(index))))
}

pub(crate) fn heartbeat(from: u64, to: u64, term: u64, commit: u64) -> Message {
    message(from, to, term, Body::Heartbeat(Beat { commit: Index(commit), round: 1, fence: 0, quiet: false }))
}

pub(crate) fn vote(from: u64, to: u64, term: u64, last: (u64, u64)) -> Message {
    let ask = VoteAsk { last: LogId::new(last.0, last.1), commit: LogId::ZERO, priority: 0, forced: None };
    message(from, to, term, Body::Vote(ask))
}

pub(crate) fn vote_reply(from: u64, to: u64, term: u64, granted: bool) -> Message {
    message(from, to, term, Body::VoteReply(VoteAnswer { granted, commit: LogId::ZERO }))
}

pub(crate) fn timeout_now(from: u64, to: u64, term: u64) -> Message {
    message(from, to, term, Body::TimeoutNow { fence: 0 })
}

/// Whether the vote in these messages was granted.
pub(crate) fn granted(messages: &[Message]) -> bool {
    let answers: Vec<_> = messages
        .iter()
        .filter_map(|message| match &message.body {
            Body::VoteReply(answer) => Some(answer.granted),
            _ => None,
        })
        .collect();
    assert_eq!(answers.len(), 1, "one answer: {messages:?}");
    answers[0]
}

/// The outcome of the append in these messages.
pub(crate) fn outcome(messages: &[Message]) -> AppendOutcome {
    let found = messages.iter().find_map(|message| match &message.body {
        Body::AppendReply(outcome) => Some(*outcome),
        _ => None,
    });
    found.expect("an append reply")
}

pub(crate) fn rejected(messages: &[Message]) -> bool {
    matches!(outcome(messages), AppendOutcome::Conflict { .. })
}

/// The messages of one name.
pub(crate) fn named<'a>(messages: &'a [Message], name: &str) -> Vec<&'a Message> {
    messages.iter().filter(|message| message.body.name() == name).collect()
}
