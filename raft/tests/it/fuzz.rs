//! Anything at all may come from the network: no message may panic a replica or break what it believes of itself.
//!
//! [`fuzz`] turns bytes into a replica and inputs for it, so a coverage-guided fuzzer can call it as it is; the tests
//! feed it bytes from a seed and some crafted ones.

use raft::{
    AppendOutcome, Beat, Body, ChangeStep, Config, Dropped, Entry, EntryKind, GroupId, Index, Joint, LogId,
    Membership, MembershipChange, Message, NodeId, Payload, Raft, ReadId, Snapshot, SnapshotReport, Term,
    Time, VoteAnswer, VoteAsk,
};

use crate::kit::{Peer, course};
use crate::rng::Rng;

/// Reads numbers off the input; zeros when it is used up.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Mostly small, sometimes absurd.
    fn number(&mut self) -> u64 {
        match self.byte() {
            byte @ 0..=250 => u64::from(byte % 12),
            251 => u64::MAX,
            252 => 1 << 60,
            253 => (1 << 60) - 1,
            _ => (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte())),
        }
    }

    fn node(&mut self) -> NodeId {
        NodeId(self.number() % 7)
    }

    fn flag(&mut self) -> bool {
        self.byte().is_multiple_of(2)
    }

    fn log_id(&mut self) -> LogId {
        LogId::new(self.number(), self.number())
    }

    fn entry(&mut self, index: u64) -> Entry {
        let kind = if self.byte().is_multiple_of(5) { EntryKind::Membership } else { EntryKind::Normal };
        let payload = match kind {
            EntryKind::Membership if self.flag() => {
                MembershipChange::one(ChangeStep::AddVoter(self.node())).encode()
            }
            _ => Payload::from(&[self.byte(); 3][..]),
        };
        let index = if self.byte().is_multiple_of(8) { self.number() } else { index };
        Entry { term: Term(self.number()), index: Index(index), kind, payload }
    }

    fn membership(&mut self) -> Membership {
        let list = |bytes: &mut Self| {
            let count = bytes.byte() % 4;
            (0..count).map(|_| bytes.node()).collect::<Vec<_>>()
        };
        let mut membership = Membership { voters: list(self), ..Membership::default() };
        if self.flag() {
            membership.voters.sort_unstable();
            membership.voters.dedup();
        } else {
            let outgoing = list(self);
            membership.learners = list(self);
            let (learners_next, auto_leave) = (list(self), self.flag());
            membership.joint = Some(Box::new(Joint { outgoing, learners_next, auto_leave }));
        }
        membership
    }

    fn body(&mut self) -> Body {
        match self.byte() % 14 {
            0 => Body::PreVote(self.ask()),
            1 => Body::Vote(self.ask()),
            2 => Body::PreVoteReply(VoteAnswer { granted: self.flag(), commit: self.log_id() }),
            3 => Body::VoteReply(VoteAnswer { granted: self.flag(), commit: self.log_id() }),
            4 | 5 => {
                let prev = self.log_id();
                let count = u64::from(self.byte() % 5);
                let entries = (1..=count).map(|ahead| self.entry(prev.index.0.wrapping_add(ahead))).collect();
                Body::Append { prev, entries, commit: Index(self.number()) }
            }
            6 => Body::AppendReply(AppendOutcome::Matched(Index(self.number()))),
            7 => {
                let refused = Index(self.number());
                Body::AppendReply(AppendOutcome::Conflict { refused, hint: self.log_id(), lost: self.flag() })
            }
            8 => Body::Heartbeat(Beat {
                commit: Index(self.number()),
                round: self.number(),
                fence: self.number() as u32,
                quiet: self.flag(),
            }),
            9 => Body::HeartbeatReply { round: self.number(), quiet: self.flag() },
            10 => Body::Snapshot(Box::new(Snapshot {
                last: self.log_id(),
                membership: self.membership(),
                context: Payload::EMPTY,
            })),
            11 => match self.byte() % 4 {
                0 => Body::TransferRequest { target: self.node() },
                1 => Body::TimeoutNow { fence: self.number() as u32 },
                2 => Body::AppendReply(AppendOutcome::Blank { refused: Index(self.number()) }),
                _ => Body::Stale,
            },
            12 => Body::ReadIndex { id: self.read_id() },
            _ => {
                let id = self.read_id();
                let index = self.flag().then(|| Index(self.number()));
                Body::ReadIndexReply { id, index }
            }
        }
    }

    fn ask(&mut self) -> VoteAsk {
        let forced = self.flag().then(|| self.number() as u32);
        VoteAsk { last: self.log_id(), commit: self.log_id(), priority: self.number() as u32, forced }
    }

    fn read_id(&mut self) -> ReadId {
        ReadId { incarnation: self.number(), seq: self.number() }
    }
}

/// A replica's life as the bytes have it. Whatever they say, nothing panics and all invariants hold.
///
/// Committed terms and entries come from strangers here, so nothing is asserted about agreement.
pub(crate) fn fuzz(data: &[u8]) {
    let bytes = &mut Bytes(data);
    let config = Config {
        pre_vote: bytes.flag(),
        check_quorum: true,
        lease_nanos: u64::from(bytes.byte()),
        quiet_after_ticks: if bytes.flag() { 0 } else { 11 },
        cache_bytes_max: u64::from(bytes.byte()),
        ..course()
    };
    let voters: &[u64] = if bytes.flag() { &[1, 2, 3] } else { &[1] };
    let mut peer = Peer::with_log(&config, 1, voters, &[1, 1, 2], (2, 1));
    while !bytes.0.is_empty() {
        input(bytes, &mut peer);
        peer.raft.check();
        if !bytes.byte().is_multiple_of(3) {
            settle(&mut peer);
            peer.raft.check();
        }
    }
}

/// Takes whatever outcome there is: refusals are as good as any, as long as nothing breaks.
fn any<T>(_: T) {}

fn input(bytes: &mut Bytes<'_>, peer: &mut Peer) {
    let raft: &mut Raft = &mut peer.raft;
    match bytes.byte() % 16 {
        0 => raft.tick(Time(bytes.number() % 1000)),
        1 => any(raft.campaign(Time(bytes.number() % 1000))),
        2 => any(raft.propose(Payload::from(&[bytes.byte(); 5][..]))),
        3 => any(raft.propose_change(&MembershipChange::one(ChangeStep::AddVoter(bytes.node())))),
        4 => any(raft.transfer(bytes.node())),
        5 => any(raft.read_index()),
        6 => report(bytes, peer),
        7 => match bytes.byte() % 3 {
            0 => raft.forget_leader(Time(bytes.number() % 1000)),
            1 => any(raft.resign(Time(bytes.number() % 1000))),
            _ => raft.report_unreachable(bytes.node()),
        },
        8 => any(raft.lease_read(Time(bytes.number() % 1000))),
        kind => {
            let mut message = Message {
                group: GroupId(if bytes.byte().is_multiple_of(16) { bytes.number() } else { 1 }),
                from: bytes.node(),
                to: if bytes.byte().is_multiple_of(16) { bytes.node() } else { NodeId(1) },
                term: Term(bytes.number()),
                body: bytes.body(),
            };
            if kind > 11 {
                message.term = raft.term();
            }
            any(raft.step(Time(0), message));
        }
    }
}

/// Something about a snapshot that was asked for once, now or long ago.
fn report(bytes: &mut Bytes<'_>, peer: &mut Peer) {
    let Some(wanted) = peer.wanted.get(usize::from(bytes.byte()) % peer.wanted.len().max(1)).copied() else {
        return;
    };
    match bytes.byte() % 3 {
        0 => peer.raft.report_snapshot(&wanted, SnapshotReport::Failed),
        1 => peer.raft.report_snapshot(&wanted, SnapshotReport::Sent),
        _ => any(peer.raft.send_snapshot(&wanted, peer.snapshot())),
    }
}

/// Like the kit's, but a membership entry from a stranger may hold anything.
fn settle(peer: &mut Peer) {
    while peer.raft.has_ready() {
        let ready = peer.raft.ready();
        if let Some(write) = ready.write {
            peer.complete(write);
        }
        let entries = match ready.apply {
            Some(raft::Apply::Entries(entries)) => entries,
            Some(raft::Apply::FromLog { first, last }) => {
                peer.log.iter().filter(|entry| (first..=last).contains(&entry.index)).cloned().collect()
            }
            None => Vec::new(),
        };
        for entry in entries {
            if let Some(change) = MembershipChange::decode(&entry.payload)
                && entry.kind == EntryKind::Membership
            {
                any(peer.raft.apply_change(entry.index, &change).is_ok());
            }
            peer.state.last = entry.id();
            peer.raft.applied(entry.index);
        }
        for fetch in ready.fetch {
            peer.raft.fetched(&fetch, None);
        }
        for wanted in ready.snapshots {
            peer.wanted.push(wanted);
        }
    }
}

#[test]
fn arbitrary_messages_break_nothing() {
    let runs = std::env::var("RINGKEEP_SEEDS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(3000);
    for seed in 0..runs {
        let mut rng = Rng::new(seed);
        let data: Vec<u8> = (0..rng.between(10, 1500)).map(|_| rng.next() as u8).collect();
        let outcome = std::panic::catch_unwind(|| fuzz(&data));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

#[test]
fn refusals_have_reasons() {
    let member = || Peer::new(1, &[1, 2, 3]);
    let append = |prev, entries| Body::Append { prev, entries, commit: Index(0) };
    let entry = |term, index| Entry { term: Term(term), index: Index(index), ..Entry::default() };
    let message = |from, term, body| Message {
        group: GroupId(1),
        from: NodeId(from),
        to: NodeId(1),
        term: Term(term),
        body,
    };
    let ask = |last| Body::Vote(VoteAsk { last, commit: LogId::ZERO, priority: 0, forced: None });
    let cases = [
        (Message { group: GroupId(2), ..message(2, 1, Body::Stale) }, Dropped::WrongGroup),
        (Message { to: NodeId(2), ..message(2, 1, Body::Stale) }, Dropped::WrongRecipient),
        (message(1, 1, Body::Stale), Dropped::ImpossibleSender),
        (message(0, 1, Body::Stale), Dropped::ImpossibleSender),
        (
            message(9, 1, Body::AppendReply(AppendOutcome::Blank { refused: Index(0) })),
            Dropped::UnknownSender,
        ),
        (message(9, 1, Body::TransferRequest { target: NodeId(2) }), Dropped::UnknownSender),
        (message(2, u64::MAX, Body::Stale), Dropped::AbsurdNumber),
        (message(2, 1, ask(LogId::new(2, 1))), Dropped::AbsurdNumber),
        (message(2, 1, ask(LogId::new(1, u64::MAX))), Dropped::AbsurdNumber),
        (message(2, 1, append(LogId::new(1, u64::MAX), vec![])), Dropped::AbsurdNumber),
        (message(2, 1, append(LogId::ZERO, vec![entry(1, 2)])), Dropped::MalformedEntries),
        (message(2, 2, append(LogId::ZERO, vec![entry(2, 1), entry(1, 2)])), Dropped::MalformedEntries),
        (message(2, 1, append(LogId::ZERO, vec![entry(5, 1)])), Dropped::MalformedEntries),
        (message(2, 1, Body::Snapshot(Box::default())), Dropped::MalformedSnapshot),
        (message(2, 1, Body::TransferRequest { target: NodeId(1) }), Dropped::NotLeader),
        (
            message(2, 1, Body::VoteReply(VoteAnswer { granted: true, commit: LogId::ZERO })),
            Dropped::WrongRole,
        ),
    ];
    for (message, reason) in cases {
        let text = format!("{message:?}");
        assert_eq!(member().try_step(message).1, Err(reason), "{text}");
    }
}

/// A leader says why it does not do what a follower forwards, and what its own driver asks.
#[test]
fn a_leader_refuses_with_reasons() {
    let mut leader = Peer::new(1, &[1]);
    leader.raft.campaign(Time(0)).expect("a voter");
    leader.settle();
    let change = MembershipChange::one(ChangeStep::AddLearner(NodeId(2)));
    leader.raft.propose_change(&change).expect("settled ground");
    assert_eq!(leader.raft.propose_change(&change).map_err(|r| r.name()), Err("change_pending"));
    leader.settle();
    let body = Body::TransferRequest { target: NodeId(2) };
    let wish = Message { group: GroupId(1), from: NodeId(2), to: NodeId(1), term: leader.raft.term(), body };
    assert_eq!(leader.try_step(wish).1, Err(Dropped::TransferRefused));
    assert_eq!(leader.raft.transfer(NodeId(2)).map_err(|r| r.name()), Err("not_voter"));
    assert_eq!(leader.raft.lease_read(Time(1)).map_err(|r| r.name()), Err("no_lease"));
    let large = Payload::from(vec![0; (course().entry_bytes_max + 1) as usize]);
    assert_eq!(leader.raft.propose(large).map_err(|r| r.name()), Err("entry_too_large"));
}

/// What a leader of the same term contradicts is already committed: refused, not cut.
#[test]
fn committed_entries_are_never_cut() {
    let mut peer = Peer::with_log(&course(), 1, &[1, 2, 3], &[1, 1, 1], (1, 3));
    peer.settle();
    let entries = vec![
        Entry { term: Term(2), index: Index(2), ..Entry::default() },
        Entry { term: Term(2), index: Index(3), ..Entry::default() },
        Entry { term: Term(2), index: Index(4), ..Entry::default() },
    ];
    let body = Body::Append { prev: LogId::new(1, 1), entries, commit: Index(4) };
    let message = Message { group: GroupId(1), from: NodeId(2), to: NodeId(1), term: Term(2), body };
    assert_eq!(peer.try_step(message).1, Err(Dropped::AgainstCommitted { committed: Index(3) }));
    assert_eq!((peer.raft.last(), peer.committed()), (LogId::new(1, 3), 3));
}

/// Keeps the fuzzer's entry point in one piece with what it needs.
#[test]
fn no_bytes_are_a_life_too() {
    fuzz(&[]);
    fuzz(&[0; 64]);
    fuzz(&[255; 4096]);
}
