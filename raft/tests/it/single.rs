//! A group of one, driven by hand: the shortest way through the whole conversation.

use std::sync::Arc;

use raft::{
    Apply, Config, EntryKind, GroupId, Identity, Index, LogId, Membership, NodeId, Raft, Ready, Start, Time,
};

fn lone() -> Raft {
    let identity = Identity { group: GroupId(1), id: NodeId(1), priority: 0, incarnation: 1 };
    let start = Start::bootstrap(LogId::new(5, 5), Membership::of([NodeId(1)]));
    Raft::new(Arc::new(Config::default()), identity, start, Time(0)).expect("a sound start")
}

/// Its own vote must reach the disk before it leads.
fn elect(raft: &mut Raft) {
    raft.campaign(Time(0)).expect("a voter may campaign");
    assert!(!raft.is_leader());
    let write = raft.ready().write.expect("the term and the vote");
    assert_eq!((write.hard_state.term.0, write.hard_state.vote), (6, Some(NodeId(1))));
    raft.written(write.durable().0);
    assert!(raft.is_leader());
}

fn entries(ready: &Ready) -> Vec<(u64, String)> {
    let Some(Apply::Entries(entries)) = &ready.apply else { return Vec::new() };
    entries.iter().map(|e| (e.index.0, String::from_utf8_lossy(&e.payload).into_owned())).collect()
}

#[test]
fn a_lone_voter_commits_only_what_is_durable() {
    let mut raft = lone();
    elect(&mut raft);
    let id = raft.propose("foo".into()).expect("it leads");
    assert_eq!(id, LogId::new(6, 7));

    let mut ready = raft.ready();
    assert!(ready.apply.is_none(), "nothing is durable yet");
    let write = ready.write.take().expect("two entries");
    assert_eq!(write.entries.len(), 2);
    assert_eq!(raft.committed(), Index(5));
    assert!(!raft.has_ready());

    let (ack, messages) = write.durable();
    assert!(messages.is_empty());
    raft.written(ack);
    let ready = raft.ready();
    assert_eq!(entries(&ready), [(6, String::new()), (7, "foo".to_owned())]);
    assert!(ready.write.is_none(), "the commit index alone costs no write");
    raft.applied(Index(7));
    assert!(!raft.has_ready());
}

#[test]
fn writes_may_overlap() {
    let mut raft = lone();
    elect(&mut raft);
    let first = raft.ready().write.expect("the term");
    raft.propose("a".into()).expect("it leads");
    let second = raft.ready().write.expect("an entry");
    raft.propose("b".into()).expect("it leads");
    let third = raft.ready().write.expect("an entry");
    assert_eq!(third.entries.len(), 1, "only what no earlier write carries");
    assert_eq!(third.entries[0].kind, EntryKind::Normal);
    raft.written(first.durable().0);
    raft.written(second.durable().0);
    assert_eq!(raft.committed(), Index(7));
    raft.written(third.durable().0);
    assert_eq!(raft.committed(), Index(8));
    assert_eq!(entries(&raft.ready()).len(), 3);
}

/// What is known from elsewhere to be committed is applied by the driver: nothing is handed out for it, and nothing that is not on disk, or
/// is another entry, counts.
#[test]
fn a_member_is_brought_to_an_entry_that_is_known_to_be_committed() {
    let identity = Identity { group: GroupId(1), id: NodeId(1), priority: 0, incarnation: 1 };
    let mut start = Start::bootstrap(LogId::new(5, 5), Membership::of([NodeId(1), NodeId(2), NodeId(3)]));
    for index in 6..=9 {
        start.log.push(LogId::new(5, index), EntryKind::Normal);
    }
    let mut raft = Raft::new(Arc::new(Config::default()), identity, start, Time(0)).expect("a sound start");
    assert!(!raft.has_ready() && raft.committed() == Index(5), "it does not know what is committed");
    assert!(!raft.bring_to(LogId::new(4, 8)), "another entry");
    assert!(!raft.bring_to(LogId::new(5, 10)), "none");
    assert_eq!(raft.committed(), Index(5));
    assert!(raft.bring_to(LogId::new(5, 8)));
    assert_eq!((raft.committed(), raft.applied_index()), (Index(8), Index(5)));
    assert!(raft.ready().apply.is_none(), "the driver reads them itself");
    raft.applied(Index(7));
    raft.applied(Index(8));
    assert_eq!(raft.applied_index(), Index(8));
    assert!(raft.bring_to(LogId::new(5, 7)), "it is there already");
}
