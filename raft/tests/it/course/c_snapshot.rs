//! Lab 2C: snapshots.

use raft::{Body, HardState, Index, LogId, Membership, Message, Mode, NodeId, Payload, Snapshot, Term};

use crate::kit::*;

fn snapshot(term: u64, index: u64, voters: &[u64]) -> Snapshot {
    let membership = Membership::of(voters.iter().map(|id| NodeId(*id)));
    Snapshot { last: LogId::new(term, index), membership, context: Payload::EMPTY }
}

fn snapshot_message(from: u64, to: u64, term: u64, snapshot: Snapshot) -> Message {
    message(from, to, term, Body::Snapshot(Box::new(snapshot)))
}

#[test]
fn restore_snapshot_2c() {
    let mut peer = Peer::new(1, &[1, 2]);
    peer.step(snapshot_message(2, 1, 11, snapshot(11, 11, &[1, 2, 3])));
    assert_eq!((peer.raft.last(), peer.base), (LogId::new(11, 11), LogId::new(11, 11)));
    assert_eq!(peer.raft.term_at(Index(11)), Some(Term(11)));
    assert_eq!(*peer.raft.membership(), Membership::of([NodeId(1), NodeId(2), NodeId(3)]));
    assert_eq!((peer.committed(), peer.raft.applied_index()), (11, Index(11)));
}

#[test]
fn restore_ignore_snapshot_2c() {
    let mut peer = Peer::with_log(&course(), 1, &[1, 2], &[1, 1, 1], (1, 3));
    peer.settle();
    let out = peer.step(snapshot_message(2, 1, 1, snapshot(1, 1, &[1, 2])));
    assert_eq!((peer.committed(), peer.raft.last().index), (3, Index(3)));
    assert_eq!(outcome(&out), raft::AppendOutcome::Matched(Index(3)), "it says how far it is");
}

/// A snapshot of what the log already holds only commits; entries above it stay.
#[test]
fn a_snapshot_inside_the_log_commits_and_cuts_nothing() {
    let mut peer = Peer::with_log(&course(), 1, &[1, 2], &[1, 1, 1], (1, 0));
    peer.step(snapshot_message(2, 1, 1, snapshot(1, 2, &[1, 2])));
    assert_eq!((peer.committed(), peer.raft.last().index), (2, Index(3)));
}

#[test]
fn provide_snap_2c() {
    let hard = HardState { term: Term(11), vote: None, commit: Index(11) };
    let membership = Membership::of([NodeId(1), NodeId(2)]);
    let mut peer = Peer::restart(&course(), 1, membership, LogId::new(11, 11), vec![], hard);
    peer.lead();
    // The follower misses what the leader has cut off.
    let conflict = raft::AppendOutcome::Conflict { refused: Index(11), hint: LogId::new(9, 9), lost: false };
    let out = peer.step(message(2, 1, 12, Body::AppendReply(conflict)));
    let names: Vec<_> = out.iter().map(|message| message.body.name()).collect();
    assert_eq!(names, ["snapshot"]);
    assert!(named(&peer.propose("x"), "append").is_empty(), "no entries while a snapshot is in flight");
}

#[test]
fn restore_from_snap_msg_2c() {
    let mut peer = Peer::new(2, &[1, 2]);
    peer.step(snapshot_message(1, 2, 2, snapshot(1, 11, &[1, 2])));
    assert_eq!(peer.raft.leader(), Some(NodeId(1)));
}

#[test]
fn restore_from_snap_with_overlapping_peers_msg_2c() {
    let mut peer = Peer::new(2, &[1, 2, 3]);
    peer.step(snapshot_message(1, 2, 2, snapshot(1, 11, &[2, 3, 4])));
    assert_eq!(peer.raft.leader(), Some(NodeId(1)));
    assert_eq!(*peer.raft.membership(), Membership::of([NodeId(2), NodeId(3), NodeId(4)]));
}

#[test]
fn slow_node_restore_2c() {
    let mut net = Net::new(3, &[]);
    net.campaign(1);
    net.isolate(3);
    (0..=100).for_each(|_| assert!(net.propose(1, "x")));
    net.peer(1).compact();
    net.recover();
    net.tick(1);
    net.propose(1, "y");
    net.propose(1, "z");
    assert_eq!(net.peer(3).committed(), net.peer(1).committed());
    assert!(net.seen.iter().any(|seen| seen == "snapshot 1>3"));
    let mode = net.peer(1).raft.status(raft::Time(0)).members[2].mode;
    assert_eq!(mode, Mode::Replicate);
}
