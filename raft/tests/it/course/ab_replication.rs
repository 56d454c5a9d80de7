//! Lab 2AB: log replication.

use raft::RoleKind::{Candidate, Follower, Leader};
use raft::{Body, Index, NodeId};

use crate::kit::*;

fn stored(id: u64, voters: &[u64], terms: &[u64], term: u64, commit: u64) -> Peer {
    Peer::with_log(&course(), id, voters, terms, (term, commit))
}

/// A leader of {1, 2, 3} whose empty entry is committed, and the index of that entry.
fn settled_leader(n: u64) -> (Peer, u64) {
    let mut peer = Peer::new(1, &(1..=n).collect::<Vec<_>>());
    peer.lead();
    (2..=n).for_each(|id| drop(peer.ack(id)));
    let last = peer.raft.last().index.0;
    assert_eq!(peer.committed(), last);
    (peer, last)
}

#[test]
fn progress_leader_2ab() {
    let mut peer = Peer::new(1, &[1, 2]);
    peer.lead();
    peer.ack(2);
    for i in 0..5 {
        let own = peer.raft.status(peer.now).members[0];
        assert_eq!((own.id, own.matched, own.next), (NodeId(1), Index(i + 1), Index(i + 2)));
        peer.propose("foo");
    }
}

#[test]
fn leader_election_overwrite_newer_logs_2ab() {
    let all = [1, 2, 3, 4, 5];
    let voted = |id| {
        let mut peer = stored(id, &all, &[], 1, 0);
        peer.step(vote(3, id, 2, (2, 1)));
        peer
    };
    let mut net = Net::of([
        stored(1, &all, &[1], 1, 0),
        stored(2, &all, &[1], 1, 0),
        stored(3, &all, &[2], 2, 0),
        voted(4),
        voted(5),
    ]);
    net.campaign(1);
    assert_eq!((net.peer(1).role(), net.peer(1).term()), (Follower, 2));
    net.campaign(1);
    assert_eq!((net.peer(1).role(), net.peer(1).term()), (Leader, 3));
    // A member that was rejected once is reached again with the next heartbeat at the latest.
    net.tick(1);
    for id in all {
        assert_eq!(net.peer(id).terms(), [1, 3], "node {id}");
    }
}

#[test]
fn log_replication_2ab() {
    let mut net = Net::new(3, &[]);
    net.campaign(1);
    net.propose(1, "a");
    for id in 1..=3 {
        assert_eq!(net.peer(id).committed(), 2);
    }
    net.campaign(2);
    net.propose(2, "b");
    for id in 1..=3 {
        assert_eq!(net.peer(id).committed(), 4);
        let data: Vec<_> =
            net.peer(id).applied.iter().map(|e| String::from_utf8_lossy(&e.payload).into_owned()).collect();
        assert_eq!(data, ["", "a", "", "b"]);
    }
}

#[test]
fn single_node_commit_2ab() {
    let mut net = Net::new(1, &[]);
    net.campaign(1);
    net.propose(1, "a");
    net.propose(1, "b");
    assert_eq!(net.peer(1).committed(), 3);
}

#[test]
fn commit_without_new_term_entry_2ab() {
    let mut net = Net::new(5, &[]);
    net.campaign(1);
    [3, 4, 5].into_iter().for_each(|id| net.cut(1, id));
    net.propose(1, "a");
    net.propose(1, "b");
    assert_eq!(net.peer(1).committed(), 1);
    net.recover();
    net.campaign(2);
    assert_eq!(net.peer(1).committed(), 4);
}

#[test]
fn commit_with_heartbeat_2ab() {
    let mut net = Net::new(5, &[]);
    net.campaign(1);
    net.isolate(5);
    net.propose(1, "a");
    net.propose(1, "b");
    net.recover();
    net.tick(1);
    assert_eq!(net.peer(5).committed(), 3);
}

#[test]
fn dueling_candidates_2ab() {
    let mut net = Net::new(3, &[]);
    net.cut(1, 3);
    net.campaign(1);
    net.campaign(3);
    assert_eq!((net.peer(1).role(), net.peer(3).role()), (Leader, Candidate));
    net.recover();
    net.campaign(3);
    assert_eq!(net.roles(), [Follower; 3]);
    for id in 1..=3 {
        assert_eq!(net.peer(id).term(), 2);
    }
    assert_eq!(net.peer(1).terms(), [1]);
    assert_eq!((net.peer(2).terms(), net.peer(2).committed()), (vec![1], 1));
    assert!(net.peer(3).terms().is_empty());
}

#[test]
fn candidate_concede_2ab() {
    let mut net = Net::new(3, &[]);
    net.isolate(1);
    net.campaign(1);
    net.campaign(3);
    net.recover();
    net.tick(3);
    net.propose(3, "data");
    net.tick(3);
    assert_eq!((net.peer(1).role(), net.peer(1).term()), (Follower, 1));
    for id in 1..=3 {
        assert_eq!(net.peer(id).text(), [(1, String::new()), (1, "data".to_owned())]);
        assert_eq!(net.peer(id).committed(), 2);
    }
}

#[test]
fn old_messages_2ab() {
    let mut net = Net::new(3, &[]);
    net.campaign(1);
    net.campaign(2);
    net.campaign(1);
    net.send(vec![append(2, 1, 2, (1, 1), vec![entry(2, 3, "")], 0)]);
    assert_eq!(net.dropped["stale_term"], 1);
    net.propose(1, "data");
    for id in 1..=3 {
        assert_eq!((net.peer(id).terms(), net.peer(id).committed()), (vec![1, 2, 3, 3], 4));
    }
}

#[test]
fn proposal_2ab() {
    let cases: [(u64, &[u64], bool); 5] =
        [(3, &[], true), (3, &[2], true), (3, &[2, 3], false), (4, &[2, 3], false), (5, &[2, 3], true)];
    for (n, dead, success) in cases {
        let mut net = Net::new(n, dead);
        net.campaign(1);
        assert_eq!(net.propose(1, "data"), success);
        for id in (1..=n).filter(|id| !dead.contains(id)) {
            let (len, commit) = if success { (2, 2) } else { (0, 0) };
            assert_eq!((net.peer(id).log.len(), net.peer(id).committed()), (len, commit), "{n} {dead:?}");
        }
        assert_eq!(net.peer(1).term(), 1);
    }
}

#[test]
fn handle_message_type_append_2ab() {
    // term, previous (term, index), commit, terms of the entries; last, commit, rejected
    type Case = (u64, (u64, u64), u64, &'static [u64], u64, u64, bool);
    let cases: [Case; 11] = [
        (3, (3, 2), 3, &[], 2, 0, true),
        (3, (3, 3), 3, &[], 2, 0, true),
        (2, (1, 1), 1, &[], 2, 1, false),
        (2, (0, 0), 1, &[2], 1, 1, false),
        (2, (2, 2), 3, &[2, 2], 4, 3, false),
        (2, (2, 2), 4, &[2], 3, 3, false),
        (2, (1, 1), 4, &[2], 2, 2, false),
        (2, (1, 1), 3, &[], 2, 1, false),
        (2, (1, 1), 3, &[2], 2, 2, false),
        (2, (2, 2), 3, &[], 2, 2, false),
        (2, (2, 2), 4, &[], 2, 2, false),
    ];
    for (term, prev, commit, terms, last, committed, refused) in cases {
        let mut peer = stored(1, &[1, 2], &[1, 2], 2, 0);
        let entries = (prev.1 + 1..).zip(terms).map(|(index, term)| entry(*term, index, "")).collect();
        let out = peer.step(append(2, 1, term, prev, entries, commit));
        let got = (peer.raft.last().index.0, peer.committed(), rejected(&out));
        assert_eq!(got, (last, committed, refused), "{term} {prev:?} {commit} {terms:?}");
    }
}

#[test]
fn recv_message_type_request_vote_2ab() {
    for log_term in 0..=3 {
        for index in 0..=3 {
            let mut peer = stored(1, &[1, 2], &[2, 2], log_term.max(2), 0);
            let yes = granted(&peer.step(vote(2, 1, log_term.max(2), (log_term, index))));
            let expected = log_term == 3 || (log_term == 2 && index >= 2);
            assert_eq!(yes, expected, "candidate ({log_term}, {index})");
        }
    }
    for (voted, yes) in [(2, true), (1, false)] {
        let mut peer = stored(3, &[1, 2, 3], &[2, 2], 2, 0);
        assert!(granted(&peer.step(vote(voted, 3, 2, (2, 2)))));
        assert_eq!(granted(&peer.step(vote(2, 3, 2, (2, 3)))), yes);
    }
    for leads in [false, true] {
        let mut peer = stored(1, &[1, 2], &[2, 2], 2, 0);
        if leads {
            drop(peer.lead())
        } else {
            drop(peer.campaign())
        }
        assert!(!granted(&peer.step(vote(2, 1, 3, (3, 3)))), "it voted for itself");
    }
}

#[test]
fn all_server_stepdown_2ab() {
    for (role, last) in [(Follower, 0), (Candidate, 0), (Leader, 1)] {
        for by_vote in [true, false] {
            let mut peer = Peer::new(1, &[1, 2, 3]);
            match role {
                Candidate => drop(peer.campaign()),
                Leader => drop(peer.lead()),
                _ => {}
            }
            let message = if by_vote { vote(2, 1, 3, (3, 9)) } else { append(2, 1, 3, (0, 0), vec![], 0) };
            peer.step(message);
            assert_eq!((peer.role(), peer.term()), (Follower, 3));
            assert_eq!((peer.raft.last().index.0, peer.log.len() as u64), (last, last));
            assert_eq!(peer.raft.leader(), (!by_vote).then_some(NodeId(2)));
        }
    }
}

#[test]
fn heartbeat_update_commit_2ab() {
    for (failed, succeeded) in [(1, 1), (5, 3), (5, 10)] {
        let mut net = Net::new(3, &[]);
        net.campaign(1);
        net.isolate(1);
        (0..failed).for_each(|_| assert!(net.propose(1, "lost")));
        net.campaign(2);
        (0..succeeded).for_each(|_| assert!(net.propose(2, "kept")));
        for id in [2, 3] {
            assert_eq!(net.peer(id).committed(), 2 + succeeded);
        }
        net.recover();
        net.ignore("append");
        net.tick(2);
        assert!(net.peer(1).committed() <= 1, "it must not commit what is not the leader's");
    }
}

#[test]
fn leader_increase_next_2ab() {
    let mut peer = stored(1, &[1, 2], &[1, 2, 3], 3, 0);
    peer.lead();
    peer.ack(2);
    peer.propose("x");
    let other = peer.raft.status(peer.now).members[1];
    assert_eq!((other.id, other.next), (NodeId(2), Index(6)));
}

#[test]
fn leader_start_replication_2ab() {
    let (mut peer, li) = settled_leader(3);
    peer.raft.propose("x".into()).expect("it leads");
    assert_eq!((peer.raft.last().index.0, peer.committed()), (li + 1, li));
    let ready = peer.raft.ready();
    let write = ready.write.expect("the entry is not durable yet");
    assert_eq!(write.entries.len(), 1);
    assert!(peer.raft.stable() < Index(li + 1));
    for (message, to) in ready.send.iter().zip([2, 3]) {
        let Body::Append { prev, entries, commit } = &message.body else { panic!("{message:?}") };
        assert_eq!((message.to, prev.index.0, prev.term.0), (NodeId(to), li, 1));
        assert_eq!((entries.len(), &*entries[0].payload, commit.0), (1, &b"x"[..], li));
    }
    assert_eq!(ready.send.len(), 2);
}

#[test]
fn leader_commit_entry_2ab() {
    let (mut peer, li) = settled_leader(3);
    peer.propose("x");
    let out = peer.ack(2);
    assert_eq!(peer.committed(), li + 1);
    assert_eq!(&*peer.applied.last().expect("applied").payload, b"x");
    let notified: Vec<_> = out
        .iter()
        .filter(|m| matches!(&m.body, Body::Append { commit, .. } if commit.0 == li + 1))
        .map(|m| m.to.0)
        .collect();
    assert_eq!(notified, [2, 3]);
}

#[test]
fn leader_acknowledge_commit_2ab() {
    let cases: [(u64, &[u64], bool); 9] = [
        (1, &[], true),
        (3, &[], false),
        (3, &[2], true),
        (3, &[2, 3], true),
        (5, &[], false),
        (5, &[2], false),
        (5, &[2, 3], true),
        (5, &[2, 3, 4], true),
        (5, &[2, 3, 4, 5], true),
    ];
    for (n, ackers, committed) in cases {
        let (mut peer, li) = settled_leader(n);
        peer.propose("x");
        ackers.iter().for_each(|id| drop(peer.ack(*id)));
        assert_eq!(peer.committed() > li, committed, "{n} {ackers:?}");
    }
}

#[test]
fn leader_commit_preceding_entries_2ab() {
    for prior in [&[][..], &[2], &[1, 2], &[1]] {
        let mut peer = stored(1, &[1, 2, 3], prior, 2, 0);
        peer.lead();
        peer.propose("x");
        peer.ack(2);
        let terms: Vec<_> = peer.applied.iter().map(|entry| entry.term.0).collect();
        assert_eq!(terms, [prior, &[3, 3]].concat());
        assert_eq!(&*peer.applied.last().expect("applied").payload, b"x");
    }
}

#[test]
fn follower_commit_entry_2ab() {
    for (count, commit) in [(1, 1), (2, 2), (2, 1)] {
        let mut peer = stored(1, &[1, 2, 3], &[], 1, 0);
        let entries = (1..=count).map(|index| entry(1, index, "data")).collect();
        peer.step(append(2, 1, 1, (0, 0), entries, commit));
        assert_eq!((peer.committed(), peer.applied.len() as u64), (commit, commit));
    }
}

#[test]
fn follower_check_message_type_append_2ab() {
    for (prev, refused) in [((0, 0), false), ((1, 1), false), ((2, 2), false), ((1, 2), true), ((3, 3), true)]
    {
        let term = 3;
        let mut peer = stored(1, &[1, 2, 3], &[1, 2], 2, 1);
        let out = peer.step(append(2, 1, term, prev, vec![], 0));
        assert_eq!((rejected(&out), out[0].term.0), (refused, term), "{prev:?}");
    }
}

#[test]
fn follower_append_entries_2ab() {
    type Case = ((u64, u64), &'static [(u64, u64)], &'static [u64], &'static [u64]);
    let cases: [Case; 4] = [
        ((2, 2), &[(3, 3)], &[1, 2, 3], &[3]),
        ((1, 1), &[(3, 2), (4, 3)], &[1, 3, 4], &[2, 3]),
        ((0, 0), &[(1, 1)], &[1, 2], &[]),
        ((0, 0), &[(3, 1)], &[3], &[1]),
    ];
    for (prev, entries, terms, unstable) in cases {
        let mut peer = stored(1, &[1, 2, 3], &[1, 2], 4, 0);
        let entries = entries.iter().map(|(term, index)| entry(*term, *index, "")).collect();
        peer.raft.step(peer.now, append(2, 1, 4, prev, entries, 0)).expect("taken");
        let written: Vec<_> = peer
            .raft
            .ready()
            .write
            .map_or_else(Vec::new, |write| write.entries.iter().map(|entry| entry.index.0).collect());
        assert_eq!(written, unstable);
        let held: Vec<_> =
            (1..=peer.raft.last().index.0).filter_map(|i| peer.raft.term_at(Index(i))).map(|t| t.0).collect();
        assert_eq!(held, terms);
    }
}

/// The paper's figure 7: a leader and six ways to differ from it.
#[test]
fn leader_sync_follower_log_2ab() {
    let leader = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [&[u64]; 6] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    for follower in followers {
        let all = [1, 2, 3];
        let mut net = Net::of([stored(1, &all, &leader, 8, 10), stored(2, &all, follower, 7, 0)]);
        net.campaign(1);
        let term = net.peer(1).term();
        net.send(vec![vote_reply(3, 1, term, true)]);
        net.propose(1, "x");
        net.tick(1);
        let (expected, got) = (net.peer(1).text(), net.peer(2).text());
        assert_eq!(got, expected, "{follower:?}");
    }
}

#[test]
fn vote_request_2ab() {
    for (terms, last) in [(&[1][..], (1, 1)), (&[1, 2], (2, 2))] {
        let mut peer = stored(1, &[1, 2, 3], terms, last.0, 0);
        let mut out = Vec::new();
        while peer.role() != Candidate {
            out.extend(peer.tick());
        }
        let asked: Vec<_> = out
            .iter()
            .map(|m| {
                let Body::Vote(ask) = &m.body else { panic!("{m:?}") };
                (m.to.0, m.term.0, ask.last.term.0, ask.last.index.0)
            })
            .collect();
        assert_eq!(asked, [(2, last.0 + 1, last.0, last.1), (3, last.0 + 1, last.0, last.1)]);
    }
}

#[test]
fn voter_2ab() {
    let cases: [(&[u64], (u64, u64), bool); 9] = [
        (&[1], (1, 1), false),
        (&[1], (1, 2), false),
        (&[1, 1], (1, 1), true),
        (&[1], (2, 1), false),
        (&[1], (2, 2), false),
        (&[1, 1], (2, 1), false),
        (&[2], (1, 1), true),
        (&[2], (1, 2), true),
        (&[1, 2], (1, 1), true),
    ];
    for (terms, last, refused) in cases {
        let mut peer = stored(1, &[1, 2], terms, *terms.last().expect("a log"), 0);
        assert_eq!(!granted(&peer.step(vote(2, 1, 3, last))), refused, "{terms:?} {last:?}");
    }
}

#[test]
fn leader_only_commits_log_from_current_term_2ab() {
    for (acked, commit) in [(1, 0), (2, 0), (3, 3)] {
        let mut peer = stored(1, &[1, 2], &[1, 2], 2, 0);
        peer.lead();
        assert_eq!(peer.term(), 3);
        peer.step(matched(2, 1, 3, acked));
        assert_eq!(peer.committed(), commit);
    }
}
