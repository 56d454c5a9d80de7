//! Entries and snapshots on their way to one member: lost, late, repeated or overtaken.

use raft::{
    Body, ChangeEffect, ChangeStep, Config, EntryKind, Event, Index, LogId, Membership, MembershipChange,
    Message, Mode, NodeId, Payload, Refusal, Snapshot, SnapshotReport, Time, Transition,
};

use super::{lead_3, mode};
use crate::kit::*;

fn change(steps: Vec<ChangeStep>, transition: Transition) -> MembershipChange {
    MembershipChange::many(steps, transition)
}

/// Leads three; the third misses what the leader has cut off, and needs a snapshot whose message is lost.
fn lead_with_a_snapshot_lost(config: &Config) -> Net {
    let mut net = lead_3(config);
    net.isolate(3);
    assert!(net.propose(1, "x"));
    net.peer(1).compact();
    net.recover();
    net.ignore("snapshot");
    net.tick(1);
    assert!(matches!(mode(&mut net, 3), Mode::Snapshot { .. }));
    net
}

/// All bytes were delivered, and the member crashed before it could use them.
pub(super) fn a_snapshot_that_was_sent_and_lost_is_sent_again() {
    let config = course();
    let mut net = lead_with_a_snapshot_lost(&config);
    let wanted = *net.peer(1).wanted.last().expect("a request");
    net.peer(1).raft.report_snapshot(&wanted, SnapshotReport::Sent);
    net.recover();
    (0..config.election_ticks / 2).for_each(|_| net.tick(1));
    assert_eq!(net.peer(1).wanted.len(), 1, "it may still be on its way into the state machine");
    (0..config.election_ticks).for_each(|_| net.tick(1));
    assert_eq!((net.peer(1).wanted.len(), mode(&mut net, 3)), (2, Mode::Replicate));
    assert_eq!(net.peer(3).committed(), 2);
}

/// A snapshot that takes its time is not asked for twice: the member says nothing before it is installed.
#[test]
fn a_snapshot_that_is_being_installed_is_waited_for() {
    let mut net = lead_with_a_snapshot_lost(&course());
    let wanted = *net.peer(1).wanted.last().expect("a request");
    let snapshot = net.peer(1).snapshot();
    net.recover();
    // Stepped at the member, and not durable there.
    let announced = message(1, 3, 1, Body::Snapshot(Box::new(snapshot)));
    net.peer(3).raft.step(Time(0), announced).expect("a snapshot of its leader");
    let write = net.peer(3).raft.ready().write.expect("the snapshot");
    net.peer(1).raft.report_snapshot(&wanted, SnapshotReport::Sent);
    for _ in 0..30 {
        let out: Vec<_> = net.peer(1).tick().into_iter().filter(|message| message.to == NodeId(2)).collect();
        net.send(out);
    }
    assert_eq!(net.peer(1).wanted.len(), 1);
    let out = net.peer(3).complete(write);
    net.send(out);
    assert_eq!(mode(&mut net, 3), Mode::Replicate);
}

/// The first snapshot failed, the second is being shipped; then the driver reports the first one again.
pub(super) fn a_report_about_an_earlier_snapshot_changes_nothing() {
    let mut net = lead_with_a_snapshot_lost(&course());
    let first = *net.peer(1).wanted.last().expect("a request");
    net.peer(1).raft.report_snapshot(&first, SnapshotReport::Failed);
    net.tick(1);
    assert_eq!(net.peer(1).wanted.len(), 2);
    let before = mode(&mut net, 3);
    assert!(matches!(before, Mode::Snapshot { .. }));
    let snapshot = net.peer(1).snapshot();
    net.peer(1).raft.report_snapshot(&first, SnapshotReport::Failed);
    assert_eq!(net.peer(1).raft.send_snapshot(&first, snapshot), Err(Refusal::OutOfPlace));
    assert_eq!(mode(&mut net, 3), before);
}

/// A read of entries is answered when the member has long been removed, has come back and is well.
pub(super) fn a_late_answer_to_a_fetch_changes_nothing() {
    let config = Config { cache_bytes_max: 0, ..course() };
    let mut net = lead_3(&config);
    net.isolate(3);
    assert!(net.propose(1, "x") && net.propose(1, "y"));
    net.recover();
    net.peer(1).raft.tick(Time(0));
    let beat = net.peer(1).raft.ready().send;
    let answers: Vec<_> = beat
        .into_iter()
        .filter(|message| message.to == NodeId(3))
        .flat_map(|message| net.peer(3).step(message))
        .collect();
    // The nudge that follows is refused, and the leader reads from disk.
    let mut fetch = None;
    let mut queue: Vec<Message> = answers;
    while let Some(message) = queue.pop() {
        if message.to == NodeId(3) {
            queue.extend(net.peer(3).step(message));
            continue;
        }
        let _late = net.peer(1).raft.step(Time(0), message);
        let ready = net.peer(1).raft.ready();
        queue.extend(ready.send.into_iter().filter(|message| message.to == NodeId(3)));
        fetch = ready.fetch.first().copied().or(fetch);
    }
    let fetch = fetch.expect("entries that have left memory");
    for step in [ChangeStep::Remove(NodeId(3)), ChangeStep::AddVoter(NodeId(3))] {
        assert!(net.change(1, step));
    }
    net.tick(1);
    net.tick(1);
    assert_eq!(mode(&mut net, 3), Mode::Replicate);
    net.peer(1).raft.fetched(&fetch, None);
    assert_eq!(mode(&mut net, 3), Mode::Replicate);
}

/// A blank member answers twice; the second answer arrives when it has long got its snapshot.
pub(super) fn a_late_blank_answer_changes_nothing() {
    let mut net = lead_3(&course());
    net.peers.insert(4, Peer::new(4, &[]));
    assert!(net.change(1, ChangeStep::AddLearner(NodeId(4))));
    (0..3).for_each(|_| net.tick(1));
    assert_eq!(mode(&mut net, 4), Mode::Replicate);
    assert!(net.seen.iter().any(|seen| seen == "snapshot 1>4"));
    let refused = Index(1);
    let late = message(4, 1, 1, Body::AppendReply(raft::AppendOutcome::Blank { refused }));
    let out = net.peer(1).step(late);
    net.send(out);
    assert_eq!((mode(&mut net, 4), net.peer(1).wanted.len()), (Mode::Replicate, 1));
}

/// A new learner keeps up when it has got through a round within an election timeout, and not before.
pub(super) fn a_learner_that_keeps_up_is_reported_once() {
    let mut net = lead_3(&course());
    assert!(net.propose(1, "x"));
    net.peers.insert(4, Peer::with_log(&course(), 4, &[1, 2, 3], &[1], (1, 0)));
    net.ignore("append-reply");
    let change = MembershipChange::one(ChangeStep::AddLearner(NodeId(4)));
    net.peer(1).raft.propose_change(&change).expect("settled");
    net.peer(1).settle();
    for voter in [2, 3] {
        let last = net.peer(1).raft.last().index.0;
        net.peer(1).step(matched(voter, 1, 1, last));
    }
    net.peer(1).step(matched(4, 1, 1, 1));
    assert!(net.peer(1).events.is_empty(), "it holds one of three entries");
    net.recover();
    (0..3).for_each(|_| net.tick(1));
    assert!(net.propose(1, "y"));
    let last = net.peer(1).raft.last().index;
    assert!(last > Index(3));
    assert_eq!(net.peer(1).events, [Event::CaughtUp { learner: NodeId(4), matched: Index(3) }]);
}

/// Entries in flight to a node that cannot be reached are lost: they are sent again once it is heard.
#[test]
fn an_unreachable_member_is_probed() {
    let mut net = lead_3(&course());
    net.isolate(3);
    assert!(net.propose(1, "x"));
    net.peer(1).raft.report_unreachable(NodeId(3));
    assert_eq!(mode(&mut net, 3), Mode::Probe { sent: true });
    let out = net.peer(1).propose("y");
    assert!(out.iter().all(|message| message.to != NodeId(3)), "{out:?}");
    net.send(out);
    net.recover();
    net.tick(1);
    assert_eq!((mode(&mut net, 3), net.peer(3).committed()), (Mode::Replicate, 3));
}

/// Voters 1 2 3, learners 4 5. Entry 3 learns 6, 5 is an explicit joint change (+4 -3), 6 leaves it, 7 is another one
/// (+5 -2). A snapshot of 7 is stepped while entry 3 is being applied; a crash forgets it.
pub(super) fn nothing_is_stored_for_a_change_that_a_snapshot_has_overtaken() {
    let ids = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<Vec<_>>();
    let begin = Membership::with_learners(ids(&[1, 2, 3]), ids(&[4, 5]));
    let add = ChangeStep::AddVoter;
    let changes = [
        (3, MembershipChange::one(ChangeStep::AddLearner(NodeId(6)))),
        (5, change(vec![add(NodeId(4)), ChangeStep::Remove(NodeId(3))], Transition::JointExplicit)),
        (6, MembershipChange::leave_joint()),
        (7, change(vec![add(NodeId(5)), ChangeStep::Remove(NodeId(2))], Transition::JointExplicit)),
    ];
    let log: Vec<_> = (1..=7)
        .map(|index| {
            let mut entry = entry(1, index, "");
            if let Some((_, change)) = changes.iter().find(|(at, _)| *at == index) {
                (entry.kind, entry.payload) = (EntryKind::Membership, change.encode());
            }
            entry
        })
        .collect();
    let at_7 = changes.iter().fold(begin.clone(), |now, (_, change)| now.after(change).expect("a change"));

    // It holds three entries, and has applied two.
    let hard = raft::HardState { term: raft::Term(1), vote: None, commit: Index(3) };
    let mut peer = Peer::restart(&course(), 1, begin, LogId::ZERO, log[..3].to_vec(), hard);
    peer.lags = true;
    peer.settle();
    assert!(peer.apply_one() && peer.apply_one());
    peer.flush();
    let snapshot = Snapshot { last: LogId::new(1, 7), membership: at_7.clone(), context: Payload::EMPTY };
    let step = peer.raft.step(Time(0), message(2, 1, 1, Body::Snapshot(Box::new(snapshot))));
    step.expect("a snapshot of its leader");
    let write = peer.raft.ready().write.expect("the snapshot");
    let effect = peer.raft.apply_change(Index(3), &changes[0].1).expect("a change that makes sense");
    if let ChangeEffect::Store(membership) = effect {
        let membership = membership.clone();
        peer.stored = State { last: LogId::new(1, 3), membership };
    }
    drop(write);

    // The crash; afterwards it gets the entries instead of the snapshot.
    let stored = peer.stored.clone();
    let mut again =
        Peer::restart_from((&course(), Time(0)), 1, stored, LogId::ZERO, peer.log, peer.hard, Index(0));
    again.settle();
    again.step(append(2, 1, 1, (1, 3), log[3..].to_vec(), 7));
    assert_eq!(again.state.last, LogId::new(1, 7));
    assert_eq!(again.state.membership, at_7);
    assert_eq!(again.state.membership.outgoing(), ids(&[1, 2, 4]));
}

/// Leads three whose leader says nothing of a commit by itself.
fn lead_with_commits_along() -> Net {
    let mut net = lead_3(&Config { commits_at_once: false, ..course() });
    net.tick(1);
    net.seen.clear();
    net
}

fn committed(net: &mut Net) -> [u64; 3] {
    [1, 2, 3].map(|id| net.peer(id).committed())
}

/// An entry costs one message to each follower and one back; what became of it goes along with the next one.
#[test]
fn a_commit_goes_along_with_the_next_entries_or_the_next_heartbeat() {
    let mut net = lead_with_commits_along();
    assert!(net.propose(1, "x"));
    assert_eq!(committed(&mut net), [2, 1, 1]);
    net.seen.sort();
    assert_eq!(net.seen, ["append 1>2", "append 1>3", "append-reply 2>1", "append-reply 3>1"]);
    assert!(net.propose(1, "y"));
    assert_eq!(committed(&mut net), [3, 2, 2]);
    net.tick(1);
    assert_eq!(committed(&mut net), [3, 3, 3]);
    assert_eq!(net.seen.iter().filter(|seen| seen.starts_with("append 1")).count(), 4);
}

/// A member that is removed would never hear of it otherwise.
#[test]
fn a_change_of_the_membership_is_sent_at_once() {
    let mut net = lead_with_commits_along();
    assert!(net.change(1, ChangeStep::Remove(NodeId(3))));
    assert_eq!(committed(&mut net), [2, 2, 2]);
}

/// The heartbeats that ask for it left before the follower's answer came, so they did not say it.
#[test]
fn a_follower_that_reads_hears_at_once_what_is_committed() {
    let mut net = lead_with_commits_along();
    net.peer(1).raft.propose("x".into()).expect("it leads");
    let (to_2, to_3): (Vec<_>, Vec<_>) =
        net.peer(1).settle().into_iter().partition(|message| message.to == NodeId(2));
    net.send(to_3);
    let answers: Vec<_> = to_2.into_iter().flat_map(|message| net.peer(2).step(message)).collect();
    net.peer(2).raft.read_index().expect("it knows the leader");
    let asked = net.peer(2).settle();
    let beats: Vec<_> = asked.into_iter().flat_map(|message| net.peer(1).step(message)).collect();
    net.send(answers);
    assert_eq!(committed(&mut net), [2, 1, 1]);
    net.send(beats);
    assert_eq!(net.peer(2).committed(), 2);
}

/// What the driver announces is sent at once, and nothing after it.
#[test]
fn an_announced_commit_is_sent_at_once() {
    let mut net = lead_with_commits_along();
    assert!(net.propose(1, "x"));
    net.peer(1).raft.announce_commit();
    assert!(net.peer(1).raft.has_ready());
    let out = net.peer(1).settle();
    net.send(out);
    assert_eq!(committed(&mut net), [2, 2, 2]);
    assert!(net.propose(1, "y"));
    assert_eq!(committed(&mut net), [3, 2, 2]);
}
