//! Lab 3A: leader transfer and changes of membership, one at a time.

use raft::RoleKind::{Follower, Leader};
use raft::{
    ChangeEffect, ChangeStep, EntryKind, Index, Membership, MembershipChange, MembershipError, NodeId,
};

use crate::kit::*;

fn lead_3() -> Net {
    let mut net = Net::new(3, &[]);
    net.campaign(1);
    net
}

fn led(net: &mut Net, at: u64) -> (raft::RoleKind, Option<u64>) {
    (net.peer(at).role(), net.peer(at).raft.leader().map(|id| id.0))
}

/// Puts a change into effect outside the log, as the course's tests do.
fn force(peer: &mut Peer, step: ChangeStep) -> Result<Membership, MembershipError> {
    match peer.raft.apply_change(Index(1 << 50), &MembershipChange::one(step))? {
        ChangeEffect::Store(membership) => Ok(membership.clone()),
        ChangeEffect::Overtaken => panic!("no snapshot overtakes this"),
    }
}

#[test]
fn add_node_3a() {
    let mut peer = Peer::new(1, &[1]);
    assert_eq!(force(&mut peer, ChangeStep::AddVoter(NodeId(2))), Ok(Membership::of([NodeId(1), NodeId(2)])));
}

#[test]
fn remove_node_3a() {
    let mut peer = Peer::new(1, &[1, 2]);
    assert_eq!(force(&mut peer, ChangeStep::Remove(NodeId(2))), Ok(Membership::of([NodeId(1)])));
    // The course lets the last member go; here a group keeps a voter, so the change is refused and nothing breaks.
    assert_eq!(force(&mut peer, ChangeStep::Remove(NodeId(1))), Err(MembershipError::NoVoters));
    assert_eq!(*peer.raft.membership(), Membership::of([NodeId(1)]));
}

#[test]
fn commit_after_remove_node_3a() {
    let mut peer = Peer::new(1, &[1, 2]);
    peer.lead();
    peer.ack(2);
    peer.raft.propose_change(&MembershipChange::one(ChangeStep::Remove(NodeId(2)))).expect("settled");
    peer.settle();
    let change = peer.raft.last().index;
    peer.propose("hello");
    assert_eq!(peer.committed(), change.0 - 1);
    peer.step(matched(2, 1, 1, change.0));
    let kinds: Vec<_> = peer.applied.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [EntryKind::Normal, EntryKind::Membership, EntryKind::Normal]);
    assert_eq!(&*peer.applied[2].payload, b"hello", "the smaller quorum commits it at once");
}

#[test]
fn leader_transfer_to_up_to_date_node_3a() {
    let mut net = lead_3();
    net.transfer(1, 2);
    assert_eq!(led(&mut net, 1), (Follower, Some(2)));
    net.propose(2, "x");
    net.transfer(2, 1);
    assert_eq!(led(&mut net, 1), (Leader, Some(1)));
}

#[test]
fn leader_transfer_to_up_to_date_node_from_follower_3a() {
    let mut net = lead_3();
    net.transfer(2, 2);
    assert_eq!(led(&mut net, 1), (Follower, Some(2)));
    net.propose(2, "x");
    net.transfer(1, 1);
    assert_eq!(led(&mut net, 1), (Leader, Some(1)));
}

#[test]
fn leader_transfer_to_slow_follower_3a() {
    let mut net = lead_3();
    net.isolate(3);
    net.propose(1, "x");
    net.recover();
    net.transfer(1, 3);
    assert_eq!(led(&mut net, 1), (Follower, Some(3)));
}

#[test]
fn leader_transfer_after_snapshot_3a() {
    let mut net = lead_3();
    net.isolate(3);
    net.propose(1, "x");
    net.peer(1).compact();
    net.recover();
    net.transfer(1, 3);
    net.tick(1);
    assert!(net.seen.iter().any(|seen| seen == "snapshot 1>3"));
    assert_eq!(led(&mut net, 1), (Follower, Some(3)));
}

#[test]
fn leader_transfer_to_self_3a() {
    let mut net = lead_3();
    net.transfer(1, 1);
    assert_eq!(led(&mut net, 1), (Leader, Some(1)));
}

#[test]
fn leader_transfer_to_non_existing_node_3a() {
    let mut net = lead_3();
    net.transfer(1, 4);
    assert_eq!(led(&mut net, 1), (Leader, Some(1)));
    assert!(net.propose(1, "proposals go on"));
}

#[test]
fn leader_transfer_remove_node_3a() {
    let mut net = lead_3();
    net.ignore("timeout-now");
    net.transfer(1, 3);
    let step = ChangeStep::Remove(NodeId(3));
    force(net.peer(1), step).expect("three voters");
    assert_eq!(net.peer(1).raft.status(raft::Time(0)).transfer, None, "the target is gone");
    assert_eq!(led(&mut net, 1), (Leader, Some(1)));
    assert!(net.propose(1, "x"));
}

#[test]
fn leader_transfer_receive_higher_term_vote_3a() {
    let mut net = lead_3();
    net.isolate(3);
    net.transfer(1, 3);
    net.campaign(2);
    assert_eq!(led(&mut net, 1), (Follower, Some(2)));
}

#[test]
fn leader_transfer_back_3a() {
    let mut net = lead_3();
    net.isolate(3);
    net.transfer(1, 3);
    net.transfer(1, 1);
    assert_eq!(led(&mut net, 1), (Leader, Some(1)));
    assert!(net.propose(1, "x"));
}

#[test]
fn leader_transfer_second_transfer_to_another_node_3a() {
    let mut net = lead_3();
    net.isolate(3);
    net.transfer(1, 3);
    net.transfer(1, 2);
    assert_eq!(led(&mut net, 1), (Follower, Some(2)));
}

#[test]
fn transfer_non_member_3a() {
    let mut peer = Peer::new(1, &[2, 3, 4]);
    peer.step(timeout_now(2, 1, 1));
    peer.step(vote_reply(2, 1, 1, true));
    peer.step(vote_reply(3, 1, 1, true));
    assert_eq!(peer.role(), Follower);
}

#[test]
fn raw_node_propose_and_conf_change_3a() {
    let mut net = Net::new(1, &[]);
    net.campaign(1);
    net.propose(1, "somedata");
    let change = MembershipChange {
        steps: vec![ChangeStep::AddVoter(NodeId(1))],
        context: "context".into(),
        ..MembershipChange::default()
    };
    net.peer(1).raft.propose_change(&change).expect("settled");
    net.peer(1).settle();
    let last = &net.peer(1).log[1..];
    assert_eq!((last[0].kind, &*last[0].payload), (EntryKind::Normal, &b"somedata"[..]));
    assert_eq!(last[1].kind, EntryKind::Membership);
    assert_eq!(*last[1].payload, *b"\x01\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00context");
    assert_eq!(MembershipChange::decode(&last[1].payload), Some(change));
}

#[test]
fn raw_node_propose_add_duplicate_node_3a() {
    let mut net = Net::new(1, &[]);
    net.campaign(1);
    for id in [1, 1, 2] {
        assert!(net.change(1, ChangeStep::AddVoter(NodeId(id))));
    }
    let changes: Vec<_> =
        net.peer(1).log.iter().skip(1).map(|e| MembershipChange::decode(&e.payload)).collect();
    let add = |id| Some(MembershipChange::one(ChangeStep::AddVoter(NodeId(id))));
    assert_eq!(changes, [add(1), add(1), add(2)]);
    assert_eq!(*net.peer(1).raft.membership(), Membership::of([NodeId(1), NodeId(2)]));
}
