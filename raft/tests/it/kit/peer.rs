//! One replica whose disk is always done, with a list for a state machine.

use std::collections::VecDeque;
use std::sync::Arc;

use raft::{
    Apply, ChangeEffect, Config, Dropped, Entry, EntryKind, Event, GroupId, HardState, Identity, Index,
    LogId, LogSummary, Membership, MembershipChange, Message, NodeId, Payload, Raft, ReadOutcome, Ready,
    RoleKind, Snapshot, SnapshotWanted, Start, Term, Time, Write,
};

use super::{course, entry, matched, vote_reply};

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
        Self::restart_from(
            (config, Time(0)),
            id,
            State { last: base, membership },
            base,
            log,
            hard_state,
            Index(0),
        )
    }

    pub(crate) fn restart_from(
        (config, now): (&Config, Time),
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
        let raft = Raft::new(Arc::new(config.clone()), identity, start, now).expect("a sound start");
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

    /// Makes it leader by votes of all others, in the next term; what it sends meanwhile is lost.
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
