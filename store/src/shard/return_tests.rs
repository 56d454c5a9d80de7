//! Peers of one region come to a store and are removed, one after the other, and the power goes at every single change of the disk: a
//! peer that was acknowledged is there, one that was removed stays away with its data, and no peer has anything of the one before it.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use engine::lsm::{Cf, Direction, TreeOptions};
use engine::rt::Rt;
use engine::rt::sim::{Options, World};
use raft::{Beat, Entry, EntryKind, GroupId, Index, LogId, Message, NodeId, Payload, Snapshot, Term};
use scheduler::{Epoch, KeyRange, Peer, PeerId, Region, RegionId, StoreId};

use super::Shard;
use super::descriptor_tests::{DIR, cut_at_every_change, options};
use super::open::{ShardOptions, TAG_RECORD};
use super::openings::Openings;
use super::receiving::{Offer, Unwanted};
use crate::plant::{Bug, plant};
use crate::region::change::membership;
use crate::region::command::{Write, Writes};
use crate::region::life::Life;
use crate::region::merge::Merges;
use crate::region::message::{Body, PeerMessage};
use crate::region::record::RegionRecord;

const REGION: RegionId = RegionId(10);
const TERM: Term = Term(7);

/// What was acknowledged to the leader, over all lives, and what it does next.
#[derive(Debug)]
struct Seen {
    /// The latest peer that has written something, and whether it has its snapshot and the entry after it.
    peer: u64,
    has_state: bool,
    /// The latest peer whose tombstone was durable.
    removed: u64,
    /// Peers are numbered without a gap, and with them epochs and entries.
    next: u64,
}

impl Default for Seen {
    fn default() -> Self {
        Self { peer: 0, has_state: false, removed: 0, next: 1 }
    }
}

/// The region while `peer` is the learner on the store.
fn region(peer: u64) -> Region {
    Region {
        id: REGION,
        range: KeyRange::new("", "").unwrap(),
        epoch: Epoch::new(2 * peer, 1),
        peers: vec![Peer::voter(PeerId(1), StoreId(2)), Peer::learner(PeerId(100 + peer), StoreId(1))],
    }
}

/// The last entry that the snapshot for `peer` has; one more follows it, and the next peer's snapshot has that, too.
fn last(peer: u64) -> LogId {
    LogId { term: TERM, index: Index(10 * peer) }
}

fn from_leader(peer: u64, body: Body) -> PeerMessage {
    let region = region(peer);
    let (from, to) = (region.peers[0], region.peers[1]);
    PeerMessage { region: REGION, from, to, epoch: region.epoch, range: Some(region.range), body }
}

fn raft(peer: u64, body: raft::Body) -> Body {
    let (from, to) = (NodeId(1), NodeId(100 + peer));
    Body::Raft(Box::new(Message { group: GroupId(REGION.0), from, to, term: TERM, body }))
}

fn beat(peer: u64, commit: Index) -> PeerMessage {
    let beat = Beat { commit, round: 1, fence: 0, quiet: false };
    from_leader(peer, raft(peer, raft::Body::Heartbeat(beat)))
}

fn offer(peer: u64) -> Offer {
    let region = region(peer);
    let record = RegionRecord {
        region: region.clone(),
        me: PeerId(100 + peer),
        tombstone: false,
        merges: Merges::default(),
    };
    let context = Payload::from(record.encode());
    let snapshot = Snapshot { last: last(peer), membership: membership(&region), context };
    let message = from_leader(peer, raft(peer, raft::Body::Snapshot(Box::new(snapshot))));
    Offer { identity: peer, bytes: 0, message }
}

/// The entry after the snapshot, which writes a key that says for whom.
fn append(peer: u64) -> PeerMessage {
    let key = format!("of {peer}");
    let mut writes = Writes::new(1);
    writes.push(Write::Put { cf: Cf::Default, key: key.as_bytes(), value: b"here" });
    let payload = Payload::from(writes.encode());
    let index = last(peer).index.next();
    let entries = vec![Entry { term: TERM, index, kind: EntryKind::Normal, payload }];
    let append = raft::Body::Append { prev: last(peer), entries, commit: index };
    from_leader(peer, raft(peer, append))
}

/// The record that the log has of the region.
fn logged(shard: &Shard) -> Option<RegionRecord> {
    shard.inner.log.state(REGION.0, TAG_RECORD).map(|bytes| RegionRecord::decode(&bytes).unwrap())
}

/// The peer whose tombstone is here.
fn tombstone(shard: &Shard) -> Option<u64> {
    shard.inner.state.borrow().table.tombstone(REGION).map(|record| record.me.0 - 100)
}

fn replica(shard: &Shard) -> Option<(u64, Life)> {
    let state = shard.inner.state.borrow();
    state.table.get(REGION).map(|replica| (replica.me().0 - 100, replica.life()))
}

async fn keys(shard: &Shard) -> Vec<String> {
    let mut iter = shard.inner.tree.iter(Cf::Default, b"", b"", Direction::Forward);
    let mut keys = Vec::new();
    while let Some((key, _)) = iter.next().await.unwrap() {
        keys.push(String::from_utf8(key.to_vec()).unwrap());
    }
    keys
}

async fn until(rt: &Rt, shard: &Shard, what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if is_so() {
            return;
        }
        assert_eq!(shard.stopped(), None);
        rt.sleep(Duration::from_millis(1)).await;
    }
    panic!("{what} never comes: {:?}, tombstone {:?}", replica(shard), tombstone(shard));
}

/// What a start finds is no older than what was acknowledged.
async fn check_start(rt: &Rt, shard: &Shard, seen: &Seen) {
    shard.check_state();
    let (found, dead) = (replica(shard), tombstone(shard));
    let peer = found.map_or(0, |(peer, _)| peer).max(dead.unwrap_or(0));
    assert!(peer >= seen.peer.max(seen.removed), "{found:?} and {dead:?} are here after {seen:?}");
    let Some((peer, life)) = found else {
        assert_eq!(keys(shard).await, Vec::<String>::new(), "a removed peer has left data");
        return;
    };
    assert!(peer > seen.removed, "{peer} was removed: {seen:?}");
    let had_state = seen.has_state && peer == seen.peer;
    assert!(life == Life::Live || !had_state, "{peer} has lost its state");
    if life == Life::Initialising {
        assert_eq!(keys(shard).await, Vec::<String>::new(), "{peer} has data of another");
        return;
    }
    if had_state {
        let commit = last(peer).index.next();
        shard.receive(vec![beat(peer, commit)]).await;
        until(rt, shard, "the entry", || shard.status(REGION).is_some_and(|it| it.applied == commit)).await;
    }
    let (now, own) = (keys(shard).await, vec![format!("of {peer}")]);
    assert!(now == own || now.is_empty() && !had_state, "{peer} has {now:?}");
}

/// A peer comes, gets its state, and is removed.
async fn pass_through(rt: &Rt, shard: &Shard, seen: &RefCell<Seen>) {
    let peer = seen.borrow().next;
    seen.borrow_mut().next += 1;
    while logged(shard).is_none_or(|record| record.me.0 != 100 + peer) {
        shard.receive(vec![beat(peer, Index(0))]).await;
        rt.sleep(Duration::from_millis(1)).await;
        assert_eq!(shard.stopped(), None);
    }
    {
        let mut seen = seen.borrow_mut();
        (seen.peer, seen.has_state) = (peer, false);
        assert_eq!(replica(shard), Some((peer, Life::Initialising)));
    }
    assert_eq!(keys(shard).await, Vec::<String>::new(), "{peer} begins with data");
    if peer > 1 {
        let late = [append(peer - 1), beat(peer - 1, last(peer - 1).index)];
        shard.receive(late.into()).await;
        assert!(matches!(shard.offered(offer(peer - 1)).await.map(drop), Err(Unwanted::OtherTarget)));
    }
    shard.offered(offer(peer)).await.expect("it waits for one").whole(0).await.expect("it is whole");
    shard.receive(vec![append(peer)]).await;
    let index = last(peer).index.next();
    until(rt, shard, "the entry", || shard.status(REGION).is_some_and(|it| it.applied == index)).await;
    seen.borrow_mut().has_state = true;
    assert_eq!(keys(shard).await, [format!("of {peer}")]);
    let removed = Epoch::new(2 * peer + 1, 1);
    shard.receive(vec![PeerMessage { epoch: removed, ..from_leader(peer, Body::Removed) }]).await;
    until(rt, shard, "the end", || logged(shard).is_some_and(|it| it.tombstone && it.me.0 == 100 + peer))
        .await;
    seen.borrow_mut().removed = peer;
    // Late messages bring nothing back.
    shard.receive(vec![beat(peer, index), append(peer)]).await;
    assert_eq!((replica(shard), tombstone(shard)), (None, Some(peer)));
}

async fn live(rt: Rt, seen: Rc<RefCell<Seen>>) {
    rt.create_dir_all(Path::new("/data")).await.unwrap();
    // Nothing is flushed unless something asks for it.
    let tree = TreeOptions { memtable_bytes: 1 << 20, ..TreeOptions::default() };
    let options = ShardOptions { may_be_empty: true, tree, ..options() };
    let shard = Shard::open(&rt, Path::new(DIR), options, Vec::new()).await.unwrap();
    let (turns, ticks, upkeep) = (shard.clone(), shard.clone(), shard.clone());
    rt.spawn(async move { turns.run().await });
    rt.spawn(async move { ticks.tick_loop().await });
    rt.spawn(async move { upkeep.upkeep_loop().await });
    let known = Seen { ..*seen.borrow() };
    check_start(&rt, &shard, &known).await;
    for _ in 0..2 {
        pass_through(&rt, &shard, &seen).await;
    }
    // Every other life ends by a kill, with whatever the tree has in memory.
    if seen.borrow().next.is_multiple_of(4) {
        shard.close(Duration::from_secs(1)).await.unwrap();
    }
}

fn cut_around_returns() -> u64 {
    cut_at_every_change(1500, Seen::default, live)
}

#[test]
fn a_peer_that_follows_another_survives_wherever_the_power_goes() {
    let points = cut_around_returns();
    assert!(points > 30, "only {points} changes");
}

#[test]
fn what_is_left_of_an_old_peer_is_caught() {
    let mut unnoticed = Vec::new();
    for bug in Bug::RETURN {
        let planted = move || {
            plant(Some(bug));
            cut_around_returns()
        };
        if std::thread::spawn(planted).join().is_ok() {
            unnoticed.push(bug);
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?} went unnoticed");
}

/// Removed before it had anything, a peer leaves nothing that its log could be held against: a start would miss entries that were the earlier
/// peer's, and the store would be fenced for good.
#[test]
fn a_peer_that_is_removed_before_its_snapshot_leaves_no_mark_of_the_one_before_it() {
    for of_an_earlier_version in [false, true] {
        let world = World::new(3, Options::default());
        let living = world.node(0).start(0, move |rt| async move {
            rt.create_dir_all(Path::new("/data")).await.unwrap();
            let tree = TreeOptions { memtable_bytes: 1 << 20, ..TreeOptions::default() };
            let options = || ShardOptions { may_be_empty: true, tree: tree.clone(), ..options() };
            let shard = Shard::open(&rt, Path::new(DIR), options(), Vec::new()).await.unwrap();
            let (turns, upkeep) = (shard.clone(), shard.clone());
            rt.spawn(async move { turns.run().await });
            rt.spawn(async move { upkeep.upkeep_loop().await });
            pass_through(&rt, &shard, &RefCell::default()).await;
            let buried = |peer: u64| {
                let state = shard.inner.state.borrow();
                let tombstone = state.table.tombstone(REGION);
                tombstone.is_some_and(|it| it.me.0 == 100 + peer && shard.inner.is_buried(it))
            };
            shard.inner.tree.start_flush();
            until(&rt, &shard, "the first tombstone", || buried(1)).await;
            let before = shard.inner.tree.flushed_index(REGION.0);
            assert!(before > 0, "the tables have nothing of the first peer");
            while logged(&shard).is_none_or(|record| record.me.0 != 102) {
                shard.receive(vec![beat(2, Index(0))]).await;
                rt.sleep(Duration::from_millis(1)).await;
            }
            plant(of_an_earlier_version.then_some(Bug::OldMarkKept));
            let removed = PeerMessage { epoch: Epoch::new(5, 1), ..from_leader(2, Body::Removed) };
            shard.receive(vec![removed]).await;
            until(&rt, &shard, "the end", || logged(&shard).is_some_and(|it| it.tombstone)).await;
            plant(None);
            shard.inner.tree.start_flush();
            until(&rt, &shard, "the second tombstone", || buried(2)).await;
            let left = if of_an_earlier_version { before } else { 0 };
            assert_eq!(shard.inner.tree.flushed_index(REGION.0), left);
            shard.close(Duration::from_secs(1)).await.unwrap();
            drop(shard);
            let again = Shard::open(&rt, Path::new(DIR), options(), Vec::new()).await.unwrap();
            assert_eq!((replica(&again), tombstone(&again)), (None, Some(2)));
        });
        world.block_on(living).expect("it ends");
    }
}

/// Its entries would keep their segments for ever, and be moved from one to the next.
#[test]
fn the_log_keeps_no_entry_of_a_removed_peer_once_the_tables_have_its_tombstone() {
    let world = World::new(2, Options::default());
    let living = world.node(0).start(0, |rt| async move {
        rt.create_dir_all(Path::new("/data")).await.unwrap();
        let seen = Seen::default();
        let tree = TreeOptions { memtable_bytes: 1 << 20, ..TreeOptions::default() };
        let options = || ShardOptions { may_be_empty: true, tree: tree.clone(), ..options() };
        let shard = Shard::open(&rt, Path::new(DIR), options(), Vec::new()).await.unwrap();
        let (turns, upkeep) = (shard.clone(), shard.clone());
        rt.spawn(async move { turns.run().await });
        rt.spawn(async move { upkeep.upkeep_loop().await });
        let seen = RefCell::new(seen);
        pass_through(&rt, &shard, &seen).await;
        rt.sleep(Duration::from_secs(10)).await;
        assert!(shard.inner.log.first_index(REGION.0).is_some(), "a start would need it");
        shard.inner.tree.start_flush();
        until(&rt, &shard, "an empty log", || shard.inner.log.first_index(REGION.0).is_none()).await;
        shard.close(Duration::from_secs(1)).await.unwrap();
        drop(shard);
        let again = Shard::open(&rt, Path::new(DIR), options(), Vec::new()).await.unwrap();
        assert_eq!((replica(&again), tombstone(&again)), (None, Some(1)));
        assert_eq!(keys(&again).await, Vec::<String>::new());
    });
    world.block_on(living).expect("it ends");
}

/// A replica that has heard of its removal has no range any more, so no route leads to it, not even before the next turn.
#[test]
fn no_route_leads_to_a_replica_that_heard_of_its_removal() {
    fn is_published_after_its_end() -> bool {
        let world = World::new(1, Options::default());
        let living = world.node(0).start(0, |rt| async move {
            rt.create_dir_all(Path::new("/data")).await.unwrap();
            let first = region(1);
            let me = Region { peers: vec![first.peers[0], Peer::voter(PeerId(101), StoreId(1))], ..first };
            let shard = Shard::open(&rt, Path::new(DIR), options(), vec![me]).await.unwrap();
            assert_eq!(shard.published().len(), 1);
            let removed = PeerMessage { epoch: Epoch::new(3, 1), ..from_leader(1, Body::Removed) };
            // No turn is taken here.
            shard.receive(vec![removed]).await;
            assert_eq!(replica(&shard), Some((1, Life::Tombstone)));
            !shard.published().is_empty()
        });
        world.block_on(living).expect("it ends")
    }
    assert!(!is_published_after_its_end());
    plant(Some(Bug::RouteOfTheDead));
    let caught = is_published_after_its_end();
    plant(None);
    assert!(caught, "the planted bug went unnoticed");
}

/// An older copy of such a store would pass for it, and know nothing of what it has acknowledged.
#[test]
fn a_store_whose_start_is_not_counted_takes_nothing_of_other_stores() {
    let world = World::new(1, Options::default());
    let judged = world.node(0).start(0, |rt| async move {
        rt.create_dir_all(Path::new("/data")).await.unwrap();
        let openings = Openings::of_node(1);
        let options = ShardOptions { may_be_empty: true, openings: openings.clone(), ..options() };
        let shard = Shard::open(&rt, Path::new(DIR), options, Vec::new()).await.unwrap();
        openings.confirmed([0].into_iter());
        shard.receive(vec![beat(1, Index(0))]).await;
        assert_eq!(replica(&shard), None);
        assert!(matches!(shard.offered(offer(1)).await.map(drop), Err(Unwanted::DiskFull)));
        let lost = shard.inbox().lost();
        assert!(lost.contains(&("uncounted", 1)), "{lost:?}");
        openings.confirmed([1].into_iter());
        shard.receive(vec![beat(1, Index(0))]).await;
        assert_eq!(replica(&shard), Some((1, Life::Initialising)));
    });
    world.block_on(judged).unwrap();
}
