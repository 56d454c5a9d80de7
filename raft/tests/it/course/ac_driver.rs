//! Labs 2AC and part of 2C: the conversation with the driver.

use raft::{Apply, HardState, Index, LogId, Membership, NodeId, Ready, Term};

use crate::kit::*;

fn handed_out(ready: &Ready) -> Vec<u64> {
    match &ready.apply {
        Some(Apply::Entries(entries)) => entries.iter().map(|entry| entry.index.0).collect(),
        Some(Apply::FromLog { first, last }) => (first.0..=last.0).collect(),
        None => Vec::new(),
    }
}

/// The course wants the entry committed in the `Ready` that asks to store it. Here it commits in the one after the
/// disk has answered.
#[test]
fn raw_node_start_2ac() {
    let mut peer = Peer::new(1, &[1]);
    peer.campaign();
    assert!(!peer.raft.has_ready());
    peer.raft.propose("foo".into()).expect("it leads");
    let ready = peer.raft.ready();
    assert!(handed_out(&ready).is_empty());
    let write = ready.write.expect("the entry");
    assert_eq!(&*write.entries[0].payload, b"foo");
    peer.raft.written(write.durable().0);
    assert_eq!(handed_out(&peer.raft.ready()), [2]);
    peer.raft.applied(Index(2));
    assert!(!peer.raft.has_ready());
}

fn restarted(base: LogId, terms: &[u64], commit: u64) -> Peer {
    let log = (base.index.0 + 1..).zip(terms).map(|(index, term)| entry(*term, index, "")).collect();
    let hard = HardState { term: Term(1), vote: None, commit: Index(commit) };
    Peer::restart(&course(), 1, Membership::of([NodeId(1), NodeId(2)]), base, log, hard)
}

#[test]
fn raw_node_restart_2ac() {
    let mut peer = restarted(LogId::ZERO, &[1, 1], 1);
    let ready = peer.raft.ready();
    assert!(ready.write.is_none() && ready.send.is_empty());
    assert_eq!(handed_out(&ready), [1]);
    peer.raft.applied(Index(1));
    assert!(!peer.raft.has_ready());
}

#[test]
fn raw_node_restart_from_snapshot_2c() {
    let mut peer = restarted(LogId::new(1, 2), &[1], 3);
    let ready = peer.raft.ready();
    assert!(ready.write.is_none() && ready.send.is_empty());
    assert_eq!(handed_out(&ready), [3]);
    peer.raft.applied(Index(3));
    assert!(!peer.raft.has_ready());
}
