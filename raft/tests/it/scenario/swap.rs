//! The only vote of a group goes from one member to another: whatever one of the two has lost, they elect again; and a member that
//! missed its removal asks.

use raft::{Body, HardState, Index, Joint, LogId, Membership, NodeId, RoleKind, Term};

use crate::kit::*;

/// Member 2 takes over from member 1.
fn swap() -> Membership {
    let joint = Joint { outgoing: vec![NodeId(1)], learners_next: vec![NodeId(1)], auto_leave: false };
    Membership { voters: vec![NodeId(2)], learners: Vec::new(), joint: Some(Box::new(joint)) }
}

/// A member of that membership after a start, with a log of this many entries; what it had up to `suspect` it may have lost.
fn started(id: u64, membership: &Membership, entries: u64, suspect: u64) -> Peer {
    let log = (1..=entries).map(|index| entry(1, index, "")).collect();
    let hard = HardState { term: Term(1), vote: None, commit: Index(1) };
    let state = State { last: LogId::ZERO, membership: membership.clone() };
    let begun = (&course(), raft::Time(0));
    Peer::restart_from(begun, id, state, LogId::ZERO, log, hard, Index(suspect))
}

/// The end of one log, or of both, is in doubt. Whoever has more leads, and waits for no other member.
pub(super) fn a_group_in_the_middle_of_a_swap_elects_although_an_end_is_in_doubt() {
    for (first, second) in [((2, 3), (3, 0)), ((3, 0), (2, 3)), ((2, 3), (2, 3)), ((2, 3), (3, 4))] {
        let mut net =
            Net::of([started(1, &swap(), first.0, first.1), started(2, &swap(), second.0, second.1)]);
        for id in [1, 2] {
            net.time_out(id);
        }
        let leaders = net.leaders();
        assert_eq!(leaders.len(), 1, "{first:?} and {second:?}");
        let most = first.0.max(second.0);
        for id in [1, 2] {
            assert!(net.peer(id).committed() > most, "what one of them has is lost by none");
        }
    }
}

/// Once others could vote without it, a member whose log is in doubt waits.
pub(super) fn a_doubt_is_waited_for_where_others_can_elect() {
    let three = Membership::of([1, 2, 3].map(NodeId));
    let mut doubts = started(1, &three, 2, 3);
    let out = doubts.step(vote(2, 1, 2, (1, 2)));
    assert!(!granted(&out), "it may have had more than that");
    for _ in 0..4 * course().election_ticks {
        assert!(doubts.tick().is_empty(), "it asks for votes");
    }
    assert_eq!(doubts.role(), RoleKind::Follower);
}

/// A learner that hears no leader says that it lives, time and again: who has removed it answers.
pub(super) fn a_member_without_a_vote_that_hears_no_leader_is_heard() {
    let learns = Membership::with_learners([NodeId(1)], [NodeId(2)]);
    let mut learner = started(2, &learns, 1, 0);
    let mut said = 0;
    for _ in 0..60 * course().election_ticks {
        let out = learner.tick();
        assert!(out.iter().all(|message| message.to == NodeId(1) && message.body == Body::Stale), "{out:?}");
        said += out.len();
    }
    assert!((3..=6).contains(&said), "{said} times");
    // As long as it hears a leader it says nothing of that kind.
    for round in 0..2 * course().election_ticks {
        learner.step(heartbeat(1, 2, 1, 1));
        assert_eq!(learner.tick(), [], "{round}");
    }
    // Who knows it takes no notice.
    let mut alone = started(1, &learns, 1, 0);
    alone.lead();
    let term = alone.term();
    assert_eq!(alone.step(message(2, 1, 1, Body::Stale)), []);
    assert_eq!((alone.term(), alone.role()), (term, RoleKind::Leader));
}
