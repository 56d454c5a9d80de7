//! Lab 2AA: leader election.

use std::collections::BTreeSet;

use raft::RoleKind::{Candidate, Follower, Leader};
use raft::{Body, NodeId};

use crate::kit::*;

#[test]
fn leader_election_2aa() {
    let cases: [(u64, &[u64], _); 5] = [
        (3, &[], Leader),
        (3, &[2], Leader),
        (3, &[2, 3], Candidate),
        (4, &[2, 3], Candidate),
        (5, &[2, 3], Leader),
    ];
    for (n, dead, role) in cases {
        let mut net = Net::new(n, dead);
        net.campaign(1);
        assert_eq!((net.peer(1).role(), net.peer(1).term()), (role, 1), "{n} nodes without {dead:?}");
    }
}

#[test]
fn leader_cycle_2aa() {
    let mut net = Net::new(3, &[]);
    for campaigner in 1..=3 {
        net.campaign(campaigner);
        assert_eq!(net.leaders(), [campaigner]);
        assert_eq!(net.roles().iter().filter(|role| **role == Follower).count(), 2);
    }
}

#[test]
fn vote_from_any_state_2aa() {
    for role in [Follower, Candidate, Leader] {
        let mut peer = Peer::new(1, &[1, 2, 3]);
        match role {
            Candidate => drop(peer.campaign()),
            Leader => drop(peer.lead()),
            _ => {}
        }
        assert_eq!(peer.role(), role);
        let term = peer.term() + 1;
        let out = peer.step(vote(2, 1, term, (term, 42)));
        assert!(granted(&out), "{role:?}");
        assert_eq!((peer.role(), peer.term(), peer.hard.vote), (Follower, term, Some(NodeId(2))));
    }
}

fn candidate_reset_term(by_heartbeat: bool) {
    let mut net = Net::new(3, &[]);
    net.campaign(1);
    net.isolate(3);
    net.campaign(2);
    net.campaign(1);
    assert_eq!(net.leaders(), [1]);
    net.time_out(3);
    assert_eq!(net.peer(3).role(), Candidate);
    net.recover();
    if by_heartbeat {
        net.tick(1);
    } else {
        // The leader probes a silent member only after it was heard again, so the append is made by hand.
        let term = net.peer(1).term();
        net.send(vec![append(1, 3, term, (1, 1), vec![], 0)]);
    }
    let (one, three) = (net.peer(1).term(), net.peer(3).term());
    assert_eq!((net.peer(3).role(), one), (Follower, three));
}

#[test]
fn candidate_reset_term_heartbeat_2aa() {
    candidate_reset_term(true);
}

#[test]
fn candidate_reset_term_append_2aa() {
    candidate_reset_term(false);
}

#[test]
fn disruptive_follower_2aa() {
    let voters = [1, 2, 3];
    let mut net = Net::of((1..=3).map(|id| Peer::with_log(&course(), id, &voters, &[], (1, 0))));
    net.campaign(1);
    assert_eq!(net.peer(1).term(), 2);
    net.isolate(3);
    net.time_out(3);
    assert_eq!((net.peer(3).role(), net.peer(3).term()), (Candidate, 3));
    net.recover();
    net.send(vec![heartbeat(1, 3, 2, 0)]);
    assert_eq!((net.peer(1).role(), net.peer(1).term()), (Follower, 3));
    assert_eq!(net.peer(3).role(), Candidate);
}

#[test]
fn recv_message_type_msg_beat_2aa() {
    let mut leader = Peer::new(1, &[1, 2, 3]);
    leader.lead();
    assert_eq!(named(&leader.tick(), "heartbeat").len(), 2);
    let mut follower = Peer::new(1, &[1, 2, 3]);
    assert!(follower.tick().is_empty());
    let mut candidate = Peer::new(1, &[1, 2, 3]);
    candidate.campaign();
    assert!(candidate.tick().is_empty());
}

#[test]
fn campaign_while_leader_2aa() {
    let mut net = Net::new(1, &[]);
    net.campaign(1);
    assert_eq!((net.peer(1).role(), net.peer(1).term()), (Leader, 1));
    net.campaign(1);
    assert_eq!((net.peer(1).role(), net.peer(1).term()), (Leader, 1));
}

#[test]
fn split_vote_2aa() {
    let voters = [1, 2, 3];
    let mut net = Net::of((1..=3).map(|id| Peer::with_log(&course(), id, &voters, &[], (1, 0))));
    net.campaign(1);
    net.isolate(1);
    let mut batch = net.peer(2).campaign();
    batch.extend(net.peer(3).campaign());
    net.send(batch);
    for id in [2, 3] {
        assert_eq!((net.peer(id).role(), net.peer(id).term()), (Candidate, 3));
    }
    net.campaign(2);
    assert_eq!((net.peer(2).role(), net.peer(2).term()), (Leader, 4));
    assert_eq!((net.peer(3).role(), net.peer(3).term()), (Follower, 4));
}

#[test]
fn single_node_candidate_2aa() {
    let mut net = Net::new(1, &[]);
    net.campaign(1);
    assert_eq!(net.peer(1).role(), Leader);
}

fn update_term_from_message(mut peer: Peer) {
    peer.step(append(2, 1, 2, (0, 0), vec![], 0));
    assert_eq!((peer.term(), peer.role()), (2, Follower));
}

#[test]
fn follower_update_term_from_message_2aa() {
    update_term_from_message(Peer::with_log(&course(), 1, &[1, 2, 3], &[], (1, 0)));
}

#[test]
fn candidate_update_term_from_message_2aa() {
    let mut peer = Peer::new(1, &[1, 2, 3]);
    peer.campaign();
    update_term_from_message(peer);
}

#[test]
fn leader_update_term_from_message_2aa() {
    let mut peer = Peer::new(1, &[1, 2, 3]);
    peer.lead();
    update_term_from_message(peer);
}

#[test]
fn start_as_follower_2aa() {
    assert_eq!(Peer::new(1, &[1, 2, 3]).role(), Follower);
}

#[test]
fn leader_bcast_beat_2aa() {
    let mut peer = Peer::new(1, &[1, 2, 3]);
    peer.lead();
    for text in ["a", "b"] {
        peer.propose(text);
    }
    let out = peer.tick();
    assert_eq!(out.len(), 2);
    for (message, to) in out.iter().zip([2, 3]) {
        assert_eq!((message.to, message.term.0), (NodeId(to), 1));
        let Body::Heartbeat(beat) = &message.body else { panic!("{message:?}") };
        assert_eq!(beat.commit.0, 0, "a member of whom nothing is known commits nothing");
    }
}

fn start_election(mut peer: Peer) {
    let term = peer.term();
    let mut out = Vec::new();
    for _ in 0..19 {
        out.extend(peer.tick());
    }
    assert_eq!((peer.role(), peer.term()), (Candidate, term + 1));
    assert_eq!(peer.hard.vote, Some(NodeId(1)));
    let asked: Vec<_> =
        out.iter().map(|message| (message.body.name(), message.to.0, message.term.0)).collect();
    assert_eq!(asked, [("vote", 2, term + 1), ("vote", 3, term + 1)]);
}

#[test]
fn follower_start_election_2aa() {
    start_election(Peer::with_log(&course(), 1, &[1, 2, 3], &[], (1, 0)));
}

#[test]
fn candidate_start_new_election_2aa() {
    let mut peer = Peer::new(1, &[1, 2, 3]);
    peer.campaign();
    start_election(peer);
}

#[test]
fn leader_election_in_one_round_rpc_2aa() {
    let cases: [(u64, &[(u64, bool)], _); 10] = [
        (1, &[], Leader),
        (3, &[(2, true), (3, true)], Leader),
        (3, &[(2, true)], Leader),
        (5, &[(2, true), (3, true), (4, true), (5, true)], Leader),
        (5, &[(2, true), (3, true), (4, true)], Leader),
        (5, &[(2, true), (3, true)], Leader),
        (3, &[], Candidate),
        (5, &[(2, true)], Candidate),
        (5, &[(2, false), (3, false)], Candidate),
        (5, &[], Candidate),
    ];
    for (n, votes, role) in cases {
        let mut peer = Peer::new(1, &(1..=n).collect::<Vec<_>>());
        peer.campaign();
        for (voter, yes) in votes {
            peer.step(vote_reply(*voter, 1, 1, *yes));
        }
        assert_eq!((peer.role(), peer.term()), (role, 1), "{n} nodes, votes {votes:?}");
    }
}

#[test]
fn follower_vote_2aa() {
    let cases = [
        (None, 1, true),
        (None, 2, true),
        (Some(1), 1, true),
        (Some(2), 2, true),
        (Some(1), 2, false),
        (Some(2), 1, false),
    ];
    for (voted, asker, yes) in cases {
        let mut peer = Peer::with_log(&course(), 3, &[1, 2, 3], &[], (1, 0));
        if let Some(voted) = voted {
            assert!(granted(&peer.step(vote(voted, 3, 1, (0, 0)))));
        }
        let out = peer.step(vote(asker, 3, 1, (0, 0)));
        assert_eq!(granted(&out), yes, "voted {voted:?}, asked by {asker}");
        assert_eq!(out[0].term.0, 1);
    }
}

#[test]
fn candidate_fallback_2aa() {
    for term in [1, 2] {
        let mut peer = Peer::new(1, &[1, 2, 3]);
        peer.campaign();
        peer.step(append(2, 1, term, (0, 0), vec![], 0));
        assert_eq!((peer.role(), peer.term()), (Follower, term));
    }
}

/// Ticks until it campaigns (again): how many it took.
fn ticks_to_campaign(peer: &mut Peer) -> u32 {
    let term = peer.term();
    (1..)
        .find(|_| {
            peer.tick();
            peer.term() > term
        })
        .expect("a timeout")
}

fn fall_back(peer: &mut Peer) {
    let term = peer.term() + 1;
    peer.step(append(2, peer.raft.id().0, term, (0, 0), vec![], 0));
}

#[test]
fn follower_election_timeout_randomized_2aa() {
    let mut peer = Peer::new(1, &[1, 2, 3]);
    let mut seen = BTreeSet::new();
    for _ in 0..500 {
        fall_back(&mut peer);
        seen.insert(ticks_to_campaign(&mut peer));
    }
    assert!((11..=19).all(|ticks| seen.contains(&ticks)), "{seen:?}");
}

#[test]
fn candidate_election_timeout_randomized_2aa() {
    let mut peer = Peer::new(1, &[1, 2, 3]);
    peer.campaign();
    let seen: BTreeSet<_> = (0..500).map(|_| ticks_to_campaign(&mut peer)).collect();
    assert!((11..=19).all(|ticks| seen.contains(&ticks)), "{seen:?}");
}

/// The share of rounds in which more than one of five nodes times out in the first tick that anybody does.
fn conflicts(candidates: bool) -> f64 {
    let mut peers: Vec<_> = (1..=5).map(|id| Peer::new(id, &[1, 2, 3, 4, 5])).collect();
    let mut conflicts = 0;
    for _ in 0..1000 {
        for peer in &mut peers {
            if candidates {
                drop(peer.campaign())
            } else {
                peer.step(append(9, peer.raft.id().0, peer.term() + 1, (0, 0), vec![], 0));
            }
        }
        let first = loop {
            let count = peers
                .iter_mut()
                .filter_map(|peer| {
                    let term = peer.term();
                    peer.tick();
                    (peer.term() > term).then_some(())
                })
                .count();
            if count > 0 {
                break count;
            }
        };
        conflicts += u32::from(first > 1);
    }
    f64::from(conflicts) / 1000.0
}

#[test]
fn followers_election_timeout_nonconflict_2aa() {
    let share = conflicts(false);
    assert!(share <= 0.3, "{share}");
}

#[test]
fn candidates_election_timeout_nonconflict_2aa() {
    let share = conflicts(true);
    assert!(share <= 0.3, "{share}");
}
