//! Starting from what a disk holds, settings that cannot work, and the size of idle groups.

use std::sync::Arc;

use raft::{
    Config, EntryKind, GroupId, HardState, Identity, Index, LogId, LogSummary, Membership, NodeId, Raft,
    Start, StartError, Term, Time,
};

use crate::kit::{Net, course};

fn start(start: Start) -> Result<Raft, StartError> {
    let identity = Identity { group: GroupId(1), id: NodeId(1), priority: 0, incarnation: 1 };
    Raft::new(Arc::new(course()), identity, start, Time(0))
}

fn stored(terms: &[(u64, u64)], applied: u64, term: u64, commit: u64) -> Start {
    let mut log = LogSummary::after(LogId::new(1, 2));
    terms.iter().for_each(|(term, index)| log.push(LogId::new(*term, *index), EntryKind::Normal));
    Start {
        hard_state: HardState { term: Term(term), vote: None, commit: Index(commit) },
        log,
        applied: Index(applied),
        membership: Membership::of([NodeId(1)]),
        suspect_until: Index(0),
    }
}

#[test]
fn damaged_state_is_named() {
    let error = |state| start(state).err();
    assert_eq!(error(stored(&[(1, 3), (1, 5)], 2, 1, 2)), Some(StartError::LogDamaged));
    assert_eq!(error(stored(&[(3, 3), (2, 4)], 2, 3, 2)), Some(StartError::LogDamaged));
    let lost = StartError::AppliedBeyondLog { applied: Index(9), last: Index(3) };
    assert_eq!(error(stored(&[(1, 3)], 9, 1, 2)), Some(lost));
    let gone = StartError::AppliedBelowLog { applied: Index(1), base: Index(2) };
    assert_eq!(error(stored(&[(1, 3)], 1, 1, 2)), Some(gone));
    assert_eq!(error(stored(&[(4, 3)], 2, 3, 2)), Some(StartError::TermBelowLog));
}

/// The stored commit index is a lower bound: what was applied was committed, and a lost tail is no panic.
#[test]
fn commit_and_applied_need_not_agree() {
    let raft = start(stored(&[(1, 3), (1, 4)], 4, 1, 2)).expect("applied beyond the stored commit");
    assert_eq!((raft.committed(), raft.applied_index()), (Index(4), Index(4)));
    let raft = start(stored(&[(1, 3)], 2, 1, 9)).expect("a commit beyond the log");
    assert_eq!(raft.committed(), Index(3));
}

#[test]
fn overwritten_entries_are_summarised_as_the_disk_has_them() {
    let raft = start(stored(&[(1, 3), (1, 4), (1, 5), (3, 4)], 2, 3, 2)).expect("a sound log");
    assert_eq!(raft.last(), LogId::new(3, 4));
    assert_eq!(raft.term_at(Index(3)), Some(Term(1)));
}

#[test]
fn settings_that_cannot_work_are_refused_with_a_remedy() {
    let base = Config::default;
    let wrong = [
        Config { heartbeat_ticks: 0, ..base() },
        Config { election_ticks: 2, ..base() },
        Config { message_bytes_max: 0, ..base() },
        Config { inflight_messages_max: 0, ..base() },
        Config { inflight_bytes_max: 1, ..base() },
        Config { uncommitted_bytes_max: 1, ..base() },
        Config { snapshot_ticks_max: 1, ..base() },
        Config { quiet_after_ticks: 5, ..base() },
        Config { lease_nanos: 1, check_quorum: false, ..base() },
    ];
    for config in wrong {
        let error = config.validate().expect_err("a setting that cannot work");
        assert!(error.to_string().len() > 30, "{error}");
    }
    assert_eq!(base().validate(), Ok(()));
}

/// A sleeping leader of three fits into one KiB, members and log terms included; so does a follower. The limit leaves
/// room for what an allocator adds to its four pieces of memory.
#[test]
fn an_idle_group_is_small() {
    let config = Config { quiet_after_ticks: 11, ..course() };
    let mut net = Net::with(&config, 3, &[]);
    net.campaign(1);
    for _ in 0..30 {
        net.tick(1);
    }
    for id in 1..=3 {
        let raft = &net.peer(id).raft;
        assert!(raft.is_asleep());
        assert!(raft.memory_bytes() <= 900, "node {id}: {} bytes", raft.memory_bytes());
    }
}

/// What wakes a sleeping replica, one by one; a tick does not.
#[test]
fn what_wakes_a_sleeper() {
    let asleep = || {
        let config = Config { quiet_after_ticks: 11, ..course() };
        let mut net = Net::with(&config, 3, &[]);
        net.campaign(1);
        (0..30).for_each(|_| net.tick(1));
        assert!(net.peers.values().all(|peer| peer.raft.is_asleep()));
        net
    };
    type Nudge = fn(&mut Net) -> bool;
    let add = || raft::MembershipChange::one(raft::ChangeStep::AddVoter(NodeId(4)));
    let nudges: [(&str, Nudge); 8] = [
        ("propose", |net| net.peer(1).raft.propose("x".into()).is_ok()),
        ("read", |net| net.peer(1).raft.read_index().is_ok()),
        ("transfer", |net| net.peer(1).raft.transfer(NodeId(2)).is_ok()),
        ("driver", |net| net.peer(1).raft.wake()),
        ("forget", |net| {
            net.peer(2).raft.forget_leader(Time(0));
            !net.peer(2).raft.is_asleep() && net.peer(1).raft.wake()
        }),
        ("forwarded transfer", |net| {
            net.peer(2).raft.transfer(NodeId(3)).is_ok()
                && !net.peer(2).settle().is_empty()
                && net.peer(1).raft.wake()
        }),
        ("campaign", |net| {
            net.peer(2).raft.campaign(Time(0)).is_ok()
                && !net.peer(2).raft.is_asleep()
                && net.peer(1).raft.wake()
        }),
        ("message", |net| !net.peer(1).step(crate::kit::vote(2, 1, 9, (9, 9))).is_empty()),
    ];
    let mut net = asleep();
    net.peer(1).raft.propose_change(&add()).expect("settled");
    assert!(!net.peer(1).raft.is_asleep(), "change");
    for (name, nudge) in nudges {
        let mut net = asleep();
        net.tick_all();
        assert!(net.peer(1).raft.is_asleep(), "a tick is no work");
        assert!(nudge(&mut net), "{name} is accepted");
        assert!(!net.peer(1).raft.is_asleep(), "{name}");
    }
}
