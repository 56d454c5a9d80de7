//! One replica with its driver: a disk, a state machine, an apply queue and a clock.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use raft::{
    Apply, ChangeEffect, Config, Entry, EntryKind, GroupId, HardState, Identity, Index, LogId, LogSummary,
    Membership, MembershipChange, NodeId, Payload, Raft, Snapshot, SnapshotWanted, Start, Term, Time, Write,
};

use super::options::UNIT;

/// What the state machine contains: a running hash of everything applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) last: LogId,
    pub(crate) hash: u64,
    pub(crate) membership: Membership,
}

impl State {
    pub(crate) fn absorb(&mut self, entry: &Entry) {
        let mut hash =
            self.hash ^ entry.index.0.wrapping_mul(0x9e37_79b9) ^ entry.term.0.wrapping_mul(0x85eb_ca6b);
        for byte in entry.payload.iter() {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.hash = hash.rotate_left(17).wrapping_mul(0xc2b2_ae35);
        self.last = entry.id();
    }
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) hard: HardState,
    pub(crate) base: LogId,
    pub(crate) entries: Vec<Entry>,
    pub(crate) state: State,
}

impl Disk {
    pub(crate) fn entry(&self, index: Index) -> Option<&Entry> {
        self.entries.get((index.0.checked_sub(self.base.index.0 + 1)?) as usize)
    }

    /// Whether the entry is here, or covered by what was cut off.
    pub(crate) fn holds(&self, id: LogId) -> bool {
        id.index <= self.base.index || self.entry(id.index).is_some_and(|entry| entry.term == id.term)
    }

    pub(crate) fn term(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            Some(self.base.term)
        } else {
            self.entry(index).map(|entry| entry.term)
        }
    }

    fn take(&mut self, write: &Write) {
        self.hard = write.hard_state;
        if let Some(snapshot) = &write.snapshot {
            self.base = snapshot.last;
            self.entries.clear();
            self.state = State {
                last: snapshot.last,
                hash: u64::from_le_bytes(snapshot.context[..].try_into().expect("a hash")),
                membership: snapshot.membership.clone(),
            };
        }
        if let Some(first) = write.entries.first() {
            self.entries.truncate((first.index.0 - self.base.index.0 - 1) as usize);
            self.entries.extend(write.entries.iter().cloned());
        }
    }

    /// Cuts the log up to the durable state.
    pub(crate) fn compact(&mut self, upto: Index) {
        let upto = upto.min(self.state.last.index);
        if let Some(term) = self.term(upto) {
            self.entries.drain(..(upto.0 - self.base.index.0) as usize);
            self.base = LogId { term, index: upto };
        }
    }
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) raft: Option<Raft>,
    pub(crate) disk: Disk,
    /// Writes in flight, oldest first, with the time each will be durable.
    pub(crate) writes: VecDeque<(u64, Write)>,
    pub(crate) state: State,
    pub(crate) applies: VecDeque<(u64, Apply)>,
    incarnation: u64,
    pub(crate) paused_until: u64,
    pub(crate) slow_until: u64,
    pub(crate) next_tick: u64,
    /// Clock rate in per mille, and its origin.
    pub(crate) rate: u64,
    pub(crate) offset: u64,
    pub(crate) priority: u32,
    /// Reads asked here: the name and what they must see.
    pub(crate) reads: Vec<(raft::ReadId, Index)>,
    /// Proposals made here and not decided.
    pub(crate) proposals: VecDeque<LogId>,
    /// Targets of the transfers accepted here whose end was not reported yet.
    pub(crate) transfers: BTreeSet<NodeId>,
    /// The latest snapshots asked for here, over restarts.
    pub(crate) wanted: VecDeque<SnapshotWanted>,
    /// Nothing is applied before.
    pub(crate) hang_until: u64,
    /// The last batch ended because a snapshot had overtaken it.
    pub(crate) was_overtaken: bool,
}

impl Node {
    pub(crate) fn new(id: u64, rate: u64, offset: u64, priority: u32) -> Self {
        Self {
            id: NodeId(id),
            raft: None,
            disk: Disk::default(),
            writes: VecDeque::new(),
            state: State::default(),
            applies: VecDeque::new(),
            incarnation: 0,
            paused_until: 0,
            slow_until: 0,
            next_tick: 0,
            rate,
            offset,
            priority,
            reads: Vec::new(),
            proposals: VecDeque::new(),
            transfers: BTreeSet::new(),
            wanted: VecDeque::new(),
            hang_until: 0,
            was_overtaken: false,
        }
    }

    pub(crate) fn clock(&self, now: u64) -> Time {
        Time(self.offset + now * UNIT * self.rate / 1000)
    }

    pub(crate) fn start(&mut self, config: &Arc<Config>, now: u64) {
        self.incarnation += 1;
        self.state = self.disk.state.clone();
        let mut log = LogSummary::after(self.disk.base);
        self.disk.entries.iter().for_each(|entry| log.push(entry.id(), entry.kind));
        let start = Start {
            hard_state: self.disk.hard,
            log,
            applied: self.state.last.index,
            membership: self.state.membership.clone(),
            suspect_until: Index(0),
        };
        let identity = Identity {
            group: GroupId(1),
            id: self.id,
            priority: self.priority,
            incarnation: self.incarnation,
        };
        let raft = Raft::new(Arc::clone(config), identity, start, self.clock(now)).expect("a sound disk");
        self.raft = Some(raft);
    }

    /// Stops at once. Of the writes in flight the first `kept` had reached the disk without anybody knowing.
    pub(crate) fn crash(&mut self, kept: usize) {
        self.raft = None;
        for (_, write) in self.writes.drain(..).take(kept) {
            self.disk.take(&write);
        }
        self.writes.clear();
        self.applies.clear();
        self.reads.clear();
        self.proposals.clear();
        self.transfers.clear();
    }

    /// Ends a hang of the state machine.
    pub(crate) fn apply_soon(&mut self, now: u64) {
        self.hang_until = 0;
        self.applies.iter_mut().for_each(|(due, _)| *due = now);
    }

    /// The oldest write is on disk.
    pub(crate) fn complete_write(&mut self) -> Option<Write> {
        let (_, write) = self.writes.pop_front()?;
        self.disk.take(&write);
        if write.snapshot.is_some() {
            self.state = self.disk.state.clone();
            self.applies.clear();
        }
        Some(write)
    }

    /// Applies the oldest batch; returns what was applied, with the state after each entry. A snapshot that has
    /// overtaken a change ends it early.
    pub(crate) fn apply(&mut self) -> Vec<(Entry, State)> {
        self.was_overtaken = false;
        let Some((_, batch)) = self.applies.pop_front() else { return Vec::new() };
        let entries = match batch {
            Apply::Entries(entries) => entries,
            Apply::FromLog { first, last } => (first.0..=last.0)
                .map(|index| self.disk.entry(Index(index)).expect("applied entries are on disk").clone())
                .collect(),
        };
        let mut done = Vec::new();
        for entry in entries {
            assert_eq!(entry.index, self.state.last.index.next(), "apply out of order");
            let raft = self.raft.as_mut().expect("a running node");
            if entry.kind == EntryKind::Membership {
                let change = MembershipChange::decode(&entry.payload).expect("a change");
                match raft.apply_change(entry.index, &change) {
                    Ok(ChangeEffect::Store(membership)) => self.state.membership = membership.clone(),
                    Ok(ChangeEffect::Overtaken) => {
                        self.was_overtaken = true;
                        self.applies.clear();
                        return done;
                    }
                    // All members decide alike that nothing changes.
                    Err(_) => {}
                }
            }
            raft.applied(entry.index);
            self.state.absorb(&entry);
            done.push((entry, self.state.clone()));
        }
        done
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            last: self.state.last,
            membership: self.state.membership.clone(),
            context: Payload::from(&self.state.hash.to_le_bytes()[..]),
        }
    }
}
