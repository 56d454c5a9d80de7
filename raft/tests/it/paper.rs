//! The Raft paper (extended version) and Ongaro's thesis, section by section: what each demands, as a test.

use raft::RoleKind::{Candidate, Follower, Leader, PreCandidate};
use raft::{
    Body, ChangeStep, Config, Dropped, Index, LogId, Membership, MembershipChange, NodeId, ReadOutcome,
    Refusal, Term, Time, Transition,
};

use crate::kit::*;

fn lead_3() -> Net {
    let mut net = Net::new(3, &[]);
    net.campaign(1);
    net
}

#[test]
fn section_5_1_a_higher_term_is_adopted_in_every_role() {
    for role in [Follower, Candidate, Leader] {
        let mut peer = Peer::new(1, &[1, 2, 3]);
        match role {
            Candidate => drop(peer.campaign()),
            Leader => drop(peer.lead()),
            _ => {}
        }
        peer.step(heartbeat(2, 1, 7, 0));
        assert_eq!((peer.role(), peer.term(), peer.hard.term), (Follower, 7, Term(7)));
    }
}

#[test]
fn section_5_1_a_request_of_an_older_term_is_refused() {
    let mut peer = Peer::with_log(&course(), 1, &[1, 2, 3], &[], (5, 0));
    let (out, result) = peer.try_step(append(2, 1, 4, (0, 0), vec![entry(4, 1, "x")], 1));
    assert_eq!(result, Err(Dropped::StaleTerm));
    assert_eq!((out.len(), out[0].body.name(), out[0].term), (1, "stale", Term(5)));
    assert!(peer.log.is_empty());
}

#[test]
fn section_5_2_one_vote_per_term_even_after_a_restart() {
    let mut peer = Peer::new(1, &[1, 2, 3]);
    assert!(granted(&peer.step(vote(2, 1, 1, (0, 0)))));
    let membership = peer.raft.membership().clone();
    let mut again = Peer::restart(&course(), 1, membership, LogId::ZERO, vec![], peer.hard);
    assert!(!granted(&again.step(vote(3, 1, 1, (1, 9)))));
    assert!(granted(&again.step(vote(2, 1, 1, (0, 0)))), "the same candidate may ask again");
}

#[test]
fn section_5_2_heartbeats_keep_followers_from_campaigning() {
    let mut net = lead_3();
    for _ in 0..200 {
        net.tick_all();
    }
    assert_eq!((net.leaders(), net.peer(1).term()), (vec![1], 1));
}

#[test]
fn section_5_2_a_dead_leader_is_replaced() {
    let mut net = lead_3();
    net.isolate(1);
    for _ in 0..60 {
        net.tick_all();
    }
    assert_eq!(net.leaders().iter().filter(|id| **id != 1).count(), 1);
}

#[test]
fn section_5_3_the_log_matching_property() {
    let mut net = lead_3();
    (0..20).for_each(|i| assert!(net.propose(1, &i.to_string())));
    let text = net.peer(1).text();
    assert_eq!(text.len(), 21);
    for id in [2, 3] {
        assert_eq!(net.peer(id).text(), text);
    }
}

#[test]
fn section_5_3_a_leader_never_changes_its_own_log() {
    let mut peer = Peer::new(1, &[1, 2, 3]);
    peer.lead();
    peer.propose("mine");
    let before = peer.text();
    let (_, result) = peer.try_step(append(2, 1, peer.term(), (0, 0), vec![entry(1, 1, "yours")], 1));
    assert_eq!((result, peer.text()), (Err(Dropped::SecondLeader), before));
}

#[test]
fn section_5_4_1_only_a_complete_log_can_win() {
    let mut net = lead_3();
    net.isolate(3);
    net.propose(1, "x");
    net.recover();
    net.isolate(1);
    net.campaign(3);
    assert_eq!(net.peer(3).role(), Candidate);
    net.campaign(2);
    assert_eq!(net.peer(2).role(), Leader);
}

#[test]
fn section_5_4_2_old_entries_commit_only_along_with_a_new_one() {
    let mut peer = Peer::with_log(&course(), 1, &[1, 2, 3], &[1, 2], (2, 0));
    peer.lead();
    peer.step(matched(2, 1, 3, 2));
    assert_eq!(peer.committed(), 0);
    peer.step(matched(2, 1, 3, 3));
    assert_eq!(peer.committed(), 3);
}

#[test]
fn section_5_5_messages_are_idempotent() {
    let mut peer = Peer::new(1, &[1, 2, 3]);
    for _ in 0..3 {
        let out = peer.step(append(2, 1, 1, (0, 0), vec![entry(1, 1, "x")], 1));
        assert_eq!(outcome(&out), raft::AppendOutcome::Matched(Index(1)));
    }
    assert_eq!((peer.text(), peer.applied.len()), (vec![(1, "x".to_owned())], 1));
}

#[test]
fn section_6_a_joint_change_passes_through_both_memberships() {
    let mut net = lead_3();
    let steps =
        vec![ChangeStep::Remove(NodeId(2)), ChangeStep::AddVoter(NodeId(4)), ChangeStep::AddVoter(NodeId(5))];
    let change = MembershipChange::many(steps, Transition::JointExplicit);
    net.peer(1).raft.propose_change(&change).expect("settled");
    let out = net.peer(1).settle();
    net.send(out);
    let joint = net.peer(1).raft.membership().clone();
    assert_eq!((joint.is_joint(), joint.leaves_by_itself(), joint.outgoing().len()), (true, false, 3));
    let add = MembershipChange::one(ChangeStep::AddVoter(NodeId(6)));
    let refusal = net.peer(1).raft.propose_change(&add);
    assert_eq!(refusal, Err(Refusal::InvalidChange(raft::MembershipError::AlreadyJoint)));
    net.peers.extend([4, 5].map(|id| (id, Peer::new(id, &[]))));
    net.peer(1).raft.propose_change(&MembershipChange::leave_joint()).expect("joint");
    let out = net.peer(1).settle();
    net.send(out);
    (0..3).for_each(|_| net.tick(1));
    let end = Membership::of([NodeId(1), NodeId(3), NodeId(4), NodeId(5)]);
    for id in [1, 3, 4, 5] {
        assert_eq!(*net.peer(id).raft.membership(), end, "node {id}");
    }
}

#[test]
fn section_7_a_follower_far_behind_gets_a_snapshot_then_entries() {
    let mut net = lead_3();
    net.isolate(3);
    (0..50).for_each(|_| assert!(net.propose(1, "x")));
    net.peer(1).compact();
    net.propose(1, "y");
    net.recover();
    net.tick(1);
    net.tick(1);
    assert_eq!((net.peer(3).base.index, net.peer(3).committed()), (Index(52), 52));
    net.propose(1, "z");
    assert_eq!(net.peer(3).text(), [(1, "z".to_owned())]);
}

#[test]
fn section_8_a_read_needs_a_quorum_that_still_follows() {
    let mut net = lead_3();
    net.isolate(1);
    net.campaign(2);
    net.propose(2, "new");
    net.peer(1).raft.read_index().expect("it believes to lead");
    let out = net.peer(1).settle();
    net.send(out);
    assert!(net.peer(1).reads.is_empty(), "no member confirms a deposed leader");
    net.recover();
    net.tick(1);
    assert!(matches!(net.peer(1).reads[..], [ReadOutcome::Failed { .. }]));
}

#[test]
fn thesis_3_10_the_target_needs_no_timeout() {
    let mut net = lead_3();
    net.transfer(1, 3);
    assert_eq!(net.leaders(), [3]);
    assert!(net.seen.iter().any(|seen| seen == "timeout-now 1>3"));
}

#[test]
fn thesis_4_2_2_a_leader_may_remove_itself() {
    let mut net = lead_3();
    assert!(net.change(1, ChangeStep::Remove(NodeId(1))));
    assert_eq!(net.peer(1).role(), Follower);
    assert_eq!(net.leaders().len(), 1, "it names a successor");
    for _ in 0..60 {
        net.tick(1);
    }
    assert_eq!(net.peer(1).role(), Follower, "outside its membership it never campaigns");
}

#[test]
fn thesis_6_4_1_reads_of_one_turn_share_one_round() {
    let mut net = lead_3();
    net.seen.clear();
    for _ in 0..10 {
        net.peer(1).raft.read_index().expect("it leads");
    }
    let out = net.peer(1).settle();
    net.send(out);
    assert_eq!(net.peer(1).reads.len(), 10);
    assert_eq!(net.seen.iter().filter(|seen| seen.starts_with("heartbeat 1>")).count(), 2);
}

#[test]
fn thesis_6_4_2_a_lease_ends_by_the_clock() {
    let config = Config { check_quorum: true, lease_nanos: 100, ..course() };
    let mut net = Net::with(&config, 3, &[]);
    net.campaign(1);
    net.tick(1);
    let raft = &mut net.peer(1).raft;
    assert_eq!(raft.lease_read(Time(99)), Ok(Index(1)));
    assert_eq!(raft.lease_read(Time(100)), Err(Refusal::NoLease));
}

#[test]
fn thesis_9_6_a_returning_member_does_not_disturb() {
    let config = Config { pre_vote: true, check_quorum: true, ..course() };
    let mut net = Net::with(&config, 3, &[]);
    net.campaign(1);
    net.isolate(3);
    for _ in 0..100 {
        net.tick(3);
    }
    assert_eq!((net.peer(3).role(), net.peer(3).term()), (PreCandidate, 1));
    net.recover();
    for _ in 0..100 {
        net.tick_all();
    }
    assert_eq!((net.leaders(), net.peer(1).term()), (vec![1], 1));
}

#[test]
fn asymmetric_link_the_leader_that_hears_no_follower_steps_down() {
    let config = Config { pre_vote: true, check_quorum: true, ..course() };
    let mut net = Net::with(&config, 3, &[]);
    net.campaign(1);
    net.cut_one_way(2, 1);
    net.cut_one_way(3, 1);
    for _ in 0..100 {
        net.tick_all();
    }
    let leaders = net.leaders();
    assert!(leaders.len() == 1 && leaders[0] != 1, "{leaders:?}");
}

#[test]
fn proposals_of_one_turn_travel_together() {
    let mut net = lead_3();
    net.seen.clear();
    for _ in 0..100 {
        net.peer(1).raft.propose("x".into()).expect("it leads");
    }
    let out = net.peer(1).settle();
    let entries: Vec<_> = out
        .iter()
        .filter_map(|message| match &message.body {
            Body::Append { entries, .. } => Some(entries.len()),
            _ => None,
        })
        .collect();
    assert_eq!(entries, [100, 100]);
}
