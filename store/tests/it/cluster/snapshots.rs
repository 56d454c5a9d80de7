//! Followers that lack more than is kept get a snapshot while the others serve: over connections that break, through crashes at every
//! change of a disk, onto full disks. What does not belong is refused. Planted bugs are caught.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use engine::rt::rng::Rng;
use engine::rt::sim::{NetOptions, Options, World};
use raft::{GroupId, LogId, Membership, Message, NodeId, Payload, Snapshot, Term};
use scheduler::{Epoch, KeyRange, PeerId, Region, RegionId, StoreId};
use store::plant::{self, Bug};
use store::region::merge::Merges;
use store::region::message::{Body, PeerMessage};
use store::region::record::RegionRecord;
use store::shard::Shard;
use store::shard::counters::SnapshotNumbers;
use store::shard::receiving::{Offer, Unwanted};
use store::wire::grpc::client::Client;
use store::wire::proto::kvrpcpb::{RawDeleteRequest, RawDeleteResponse, RawPutRequest, RawPutResponse};

use super::nodes::{NODES, regions};
use super::{Pairs, Run, clients};
use crate::logged::{Lines, number};

/// Keys of the first region that are written.
const KEYS: u64 = 60;
/// A follower has caught up by then, once it can.
const CATCH_UP_MAX: Duration = Duration::from_secs(120);

type Rows = BTreeMap<String, String>;

/// What a round writes: every key, but the outermost, which it deletes.
pub(super) fn round(number: u64) -> Vec<(String, Option<String>)> {
    // What cannot be compressed needs several pieces.
    let noise = |seed: u64| {
        let rng = Rng::new(seed);
        (0..20).map(|_| format!("{:016x}", rng.next())).collect::<String>()
    };
    let value = |n: u64| format!("{n} in round {number} {}", noise(n * 100 + number));
    let is_there = |n: u64| number == 1 || (10..KEYS - 10).contains(&n);
    (0..KEYS).map(|n| (format!("k{n:03}"), is_there(n).then(|| value(n)))).collect()
}

fn shown(round: &[(String, Option<String>)]) -> Rows {
    round.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect()
}

fn rows(pairs: &Pairs) -> Rows {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    pairs.iter().map(|(key, value)| (text(key), text(value))).collect()
}

/// Writes to the node that leads, over one connection. Whether all of it was done.
async fn write(
    rt: Rt,
    addr: std::net::SocketAddr,
    place: usize,
    node: usize,
    writes: Vec<(String, Option<String>)>,
) -> bool {
    let Ok(client) = Client::connect(&rt, addr).await else { return false };
    for (key, value) in writes {
        let (context, key) = (clients::context(place, node), key.into_bytes().into());
        let failed = match value {
            Some(value) => {
                let value = value.into_bytes().into();
                let ask = RawPutRequest { context, key, value, ..RawPutRequest::default() };
                let done = client.unary::<RawPutResponse>("/tikvpb.Tikv/RawPut", &ask).await;
                done.map_or(true, |done| done.region_error.is_some() || !done.error.is_empty())
            }
            None => {
                let ask = RawDeleteRequest { context, key, ..RawDeleteRequest::default() };
                let done = client.unary::<RawDeleteResponse>("/tikvpb.Tikv/RawDelete", &ask).await;
                done.map_or(true, |done| done.region_error.is_some() || !done.error.is_empty())
            }
        };
        if failed {
            return false;
        }
    }
    true
}

/// A cluster of which one follower lacks a round that the others have cut from their logs.
pub(super) struct Lag {
    pub(super) run: Run,
    pub(super) leader: usize,
    pub(super) follower: usize,
}

impl Lag {
    pub(super) fn new(world: World, regions_written: usize) -> Result<Self, String> {
        Self::with(world, regions_written, |_| {})
    }

    fn with(world: World, regions_written: usize, change: impl FnOnce(&mut Run)) -> Result<Self, String> {
        let mut run = Run::over(world, Duration::ZERO);
        change(&mut run);
        (0..NODES).for_each(|number| run.nodes.start(number));
        run.pass(Duration::from_secs(4))?;
        let (leader, _) = run.nodes.leader(regions()[0].id).ok_or("no leader")?;
        let mut lag = Self { run, leader, follower: (leader + 1) % NODES };
        (0..regions_written).try_for_each(|place| lag.write_at(place, round(1)))?;
        lag.run.pass(Duration::from_secs(2))?;
        lag.cut_off();
        // Until they break, connections hold what is sent, and deliver it when the link is back.
        lag.run.world.run_for(Duration::from_secs(20));
        (0..regions_written).try_for_each(|place| lag.write_at(place, round(2)))?;
        lag.forget(regions_written)?;
        lag.run.world.run_for(Duration::from_secs(20));
        Ok(lag)
    }

    pub(super) fn cut_off(&self) {
        for other in (0..NODES).filter(|other| *other != self.follower) {
            self.run.world.cut(self.run.nodes.node(self.follower), self.run.nodes.node(other));
        }
    }

    /// Waits until the leaders' logs begin behind the follower's.
    pub(super) fn forget(&mut self, regions_written: usize) -> Result<(), String> {
        for region in regions().into_iter().take(regions_written) {
            let lacking = |run: &Run, follower: usize| {
                let last = run.nodes.shard(follower)?.status(region.id)?.last.index;
                let (_, shard) = run.nodes.leader(region.id)?;
                Some(shard.status(region.id)?.base.index > last)
            };
            let until = self.run.world.now() + Duration::from_secs(60);
            while lacking(&self.run, self.follower) != Some(true) {
                if self.run.world.now() > until {
                    return Err(format!("the log of {} is not cut", region.id));
                }
                self.run.pass(Duration::from_millis(200))?;
            }
        }
        Ok(())
    }

    /// Writes to a region, whoever leads it. Keys of the second one begin with another letter.
    pub(super) fn write_at(
        &mut self,
        place: usize,
        mut writes: Vec<(String, Option<String>)>,
    ) -> Result<(), String> {
        if place == 1 {
            writes.iter_mut().for_each(|(key, _)| key.replace_range(..1, "n"));
        }
        let region = regions().swap_remove(place);
        let (node, _) = self.run.nodes.leader(region.id).ok_or("no leader")?;
        let addr = self.run.nodes.addrs()[node];
        let client = self.run.world.node(NODES);
        let wrote = client.start(0, move |rt| write(rt, addr, place, node, writes));
        match self.run.world.block_on(wrote) {
            Some(true) => Ok(()),
            Some(false) | None => Err("a write failed".to_owned()),
        }
    }

    pub(super) fn numbers(&self, node: usize) -> SnapshotNumbers {
        self.run.nodes.shard(node).map(|shard| shard.snapshot().snapshots).unwrap_or_default()
    }

    /// Lets time pass until a condition holds.
    pub(super) fn wait(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Result<(), String> {
        let until = self.run.world.now() + CATCH_UP_MAX;
        while !holds(self) {
            if self.run.world.now() > until {
                let status =
                    |node: usize| self.run.nodes.shard(node).and_then(|it| it.status(regions()[0].id));
                let (leader, follower) = (self.leader, self.follower);
                return Err(format!(
                    "{what}: not within {CATCH_UP_MAX:?}: the leader {:?} {:?}, the follower {:?} {:?}",
                    self.numbers(leader),
                    status(leader),
                    self.numbers(follower),
                    status(follower)
                ));
            }
            self.run.pass(Duration::from_millis(20))?;
        }
        Ok(())
    }

    pub(super) fn held(&self, place: usize) -> Result<Rows, String> {
        let shard = self.run.nodes.shard(self.follower).ok_or("the follower is down")?;
        let region = regions().swap_remove(place);
        Ok(rows(&self.run.held(self.follower, shard, region.range)?))
    }

    /// The follower has what the others have, came by it by snapshot, and nothing is left of it beside the trees.
    pub(super) fn catch_up(&mut self, snapshots: u64) -> Result<(), String> {
        self.wait("the snapshot", |lag| lag.numbers(lag.follower).received >= snapshots)?;
        self.run.agree()?;
        self.run.world.run_for(Duration::from_secs(40));
        self.no_garbage()
    }

    fn no_garbage(&self) -> Result<(), String> {
        for number in 0..NODES {
            let files = self.run.nodes.node(number).disk().files();
            let staged = |path: &&std::path::PathBuf| {
                path.components().any(|part| part.as_os_str() == "incoming" || part.as_os_str() == "outgoing")
            };
            let left: Vec<_> = files.iter().filter(staged).collect();
            if !left.is_empty() {
                return Err(format!("node {number} keeps {left:?}"));
            }
        }
        Ok(())
    }
}

fn refused(numbers: &SnapshotNumbers) -> Vec<(&'static str, u64)> {
    numbers.refused.iter().copied().filter(|(_, count)| *count > 0).collect()
}

fn catch_up_while_writes_go_on(seed: u64) -> Result<(), String> {
    let mut lag = Lag::new(World::new(seed, Options::default()), 1)?;
    assert_eq!(lag.held(0)?, shown(&round(1)), "it was cut off before the second round");
    lag.run.world.heal_network();
    let mut last = round(2);
    for number in 3..8 {
        last = round(number);
        lag.write_at(0, last.clone())?;
    }
    lag.catch_up(1)?;
    assert_eq!(lag.held(0)?, shown(&last));
    let (sent, received) = (lag.numbers(lag.leader), lag.numbers(lag.follower));
    assert_eq!((sent.sent, received.received), (1, 1));
    assert_eq!((sent.bytes_sent, sent.failed), (received.bytes_received, 0));
    assert!(sent.bytes_sent > 8 << 10, "{} bytes: it has several pieces", sent.bytes_sent);
    Ok(())
}

#[test]
fn a_follower_that_lacks_more_than_is_kept_catches_up_while_writes_go_on() {
    for seed in 0..5 {
        assert_eq!(catch_up_while_writes_go_on(seed), Ok(()), "seed {seed}");
    }
}

#[test]
fn what_came_by_snapshot_is_there_after_a_power_cut() {
    let mut lag = Lag::new(World::new(1, Options::default()), 1).unwrap();
    lag.run.world.heal_network();
    lag.catch_up(1).unwrap();
    for power in [true, false] {
        lag.run.nodes.end(lag.follower, power);
        lag.run.nodes.start(lag.follower);
        lag.run.pass(Duration::from_secs(1)).unwrap();
        assert_eq!(lag.held(0).unwrap(), shown(&round(2)));
        lag.run.agree().unwrap();
    }
}

#[test]
fn a_region_that_a_first_message_created_gets_its_data_by_snapshot() {
    let world = World::new(3, Options::default());
    let mut run = Run::over(world, Duration::ZERO);
    run.nodes.setup.without_first = Some(2);
    (0..NODES).for_each(|number| run.nodes.start(number));
    run.pass(Duration::from_secs(5)).unwrap();
    let (leader, _) = run.nodes.leader(regions()[0].id).unwrap();
    assert!(leader != 2, "one that knows nothing does not lead");
    let mut lag = Lag { run, leader, follower: 2 };
    lag.write_at(0, round(1)).unwrap();
    lag.catch_up(1).unwrap();
    assert_eq!(lag.held(0).unwrap(), shown(&round(1)));
    lag.run.nodes.end(2, true);
    lag.run.nodes.start(2);
    lag.run.pass(Duration::from_secs(2)).unwrap();
    lag.write_at(0, round(2)).unwrap();
    lag.run.agree().unwrap();
    assert_eq!(lag.held(0).unwrap(), shown(&round(2)));
}

#[test]
fn two_regions_catch_up_at_once() {
    let mut lag = Lag::new(World::new(4, Options::default()), 2).unwrap();
    lag.run.world.heal_network();
    lag.catch_up(2).unwrap();
    assert_eq!(lag.held(0).unwrap(), shown(&round(2)));
    assert_eq!(lag.held(1).unwrap().len(), shown(&round(2)).len());
}

#[test]
fn connections_that_break_lose_no_piece_and_repeat_none() {
    for seed in 0..6 {
        let net = NetOptions { loss: 0.02, duplicate: 0.05, straggle: 0.05, ..Options::default().net };
        let options = Options { net, ..Options::default() };
        let slow = |run: &mut Run| run.nodes.setup.snapshot_bytes_per_second = 4 << 10;
        let mut lag = Lag::with(World::new(seed, options), 1, slow).unwrap();
        lag.run.world.heal_network();
        for _ in 0..3 {
            let before = lag.numbers(lag.follower).bytes_received;
            let went_on = |numbers: SnapshotNumbers| numbers.bytes_received > before || numbers.received > 0;
            lag.wait("a piece", |lag| went_on(lag.numbers(lag.follower))).unwrap();
            let (leader, follower) = (lag.run.nodes.node(lag.leader), lag.run.nodes.node(lag.follower));
            lag.run.world.reset(leader, follower);
        }
        lag.catch_up(1).unwrap();
        let (sent, received) = (lag.numbers(lag.leader), lag.numbers(lag.follower));
        assert_eq!((sent.sent, sent.failed, received.received), (1, 0, 1), "seed {seed}: it went on");
        assert_eq!(lag.held(0).unwrap(), shown(&round(2)));
    }
}

#[test]
fn a_link_that_is_cut_one_way_or_both_ways_delays_a_snapshot() {
    for (seed, one_way) in [(0, false), (1, true), (2, false), (3, true)] {
        let slow = |run: &mut Run| run.nodes.setup.snapshot_bytes_per_second = 8 << 10;
        let mut lag = Lag::with(World::new(seed, Options::default()), 1, slow).unwrap();
        lag.run.world.heal_network();
        lag.wait("a piece", |lag| lag.numbers(lag.follower).bytes_received > 0).unwrap();
        let (leader, follower) = (lag.run.nodes.node(lag.leader), lag.run.nodes.node(lag.follower));
        match (one_way, seed) {
            (true, 1) => lag.run.world.cut_one_way(leader, follower),
            (true, _) => lag.run.world.cut_one_way(follower, leader),
            (false, _) => lag.run.world.cut(leader, follower),
        }
        lag.run.pass(Duration::from_secs(45)).unwrap();
        lag.run.world.heal_network();
        lag.catch_up(1).unwrap();
        assert_eq!(lag.held(0).unwrap(), shown(&round(2)), "seed {seed}");
    }
}

/// What has arrived and rots before it is taken in is refused, and comes again.
#[test]
fn a_piece_that_is_damaged_is_refused_and_comes_again() {
    let slow = |run: &mut Run| run.nodes.setup.snapshot_bytes_per_second = 8 << 10;
    let mut lag = Lag::with(World::new(5, Options::default()), 1, slow).unwrap();
    lag.run.world.heal_network();
    let arrived = |lag: &Lag| {
        let files = lag.run.nodes.node(lag.follower).disk().files();
        let is_in = |path: &std::path::PathBuf| path.components().any(|part| part.as_os_str() == "incoming");
        files.into_iter().filter(is_in).collect::<Vec<_>>()
    };
    let mut rotten = BTreeSet::new();
    // A piece is synced when the next one begins. One may be left of a connection that another took over from, so each of them rots, once.
    lag.wait("the refusal", |lag| {
        let disk = lag.run.nodes.node(lag.follower).disk();
        let mut pieces = arrived(lag);
        pieces.sort();
        pieces.pop();
        pieces.retain(|piece| disk.read(piece).len() > 100);
        pieces
            .into_iter()
            .filter(|piece| rotten.insert(piece.clone()))
            .for_each(|piece| disk.rot(&piece, 100, 0x40));
        !refused(&lag.numbers(lag.follower)).is_empty()
    })
    .unwrap();
    assert_eq!(refused(&lag.numbers(lag.follower)), [("damaged", 1)]);
    assert_eq!(lag.held(0).unwrap(), shown(&round(1)), "nothing has changed");
    lag.catch_up(1).unwrap();
    assert_eq!(lag.numbers(lag.leader).failed, 1);
}

#[test]
fn a_full_disk_at_the_receiver_waits() {
    let slow = |run: &mut Run| run.nodes.setup.snapshot_bytes_per_second = 8 << 10;
    // Before it is offered, and while it arrives.
    for early in [true, false] {
        let mut lag = Lag::with(World::new(6, Options::default()), 1, slow).unwrap();
        if early {
            lag.run.nodes.node(lag.follower).disk().leave(0);
        }
        lag.run.world.heal_network();
        if !early {
            lag.wait("a piece", |lag| lag.numbers(lag.follower).bytes_received > 0).unwrap();
            lag.run.nodes.node(lag.follower).disk().leave(0);
        }
        lag.run.pass(Duration::from_secs(20)).unwrap();
        let numbers = lag.numbers(lag.follower);
        assert_eq!(numbers.received, 0);
        assert_eq!(refused(&numbers).iter().any(|(why, _)| *why == "disk_full"), early, "{numbers:?}");
        lag.run.nodes.node(lag.follower).disk().set_capacity(u64::MAX);
        lag.catch_up(1).unwrap();
        assert_eq!(lag.held(0).unwrap(), shown(&round(2)));
    }
}

/// It is tried on each second, for as long as that lasts.
#[test]
fn a_snapshot_that_fails_again_and_again_is_said_once_a_minute_with_its_number() {
    Lines::of(|lines| {
        let mut lag = Lag::new(World::new(6, Options::default()), 1).unwrap();
        lag.run.nodes.node(lag.follower).disk().leave(0);
        lag.run.world.heal_network();
        lag.run.pass(Duration::from_secs(150)).unwrap();
        let said = lines.with("a snapshot did not get to a follower");
        assert!((2..=4).contains(&said.len()), "{} lines: {said:#?}", said.len());
        let unsaid: u64 = said.iter().map(|line| number(line, "unsaid")).sum();
        assert!(unsaid > 30, "{said:#?}");
        lag.run.nodes.node(lag.follower).disk().set_capacity(u64::MAX);
        lag.catch_up(1).unwrap();
    });
}

/// Cuts the power of one node at every change of its disk while a snapshot travels. The follower has the old state or the new one, and
/// the new one if the leader has heard of it.
fn cut_the_power(of_leader: bool, seed: u64) -> Result<(), String> {
    let (mut old, mut new) = (0, 0);
    for cut in (0..).step_by(if of_leader { 3 } else { 1 }) {
        let mut lag = Lag::new(World::new(seed + cut, Options::default()), 1)?;
        let number = if of_leader { lag.leader } else { lag.follower };
        let disk = lag.run.nodes.node(number).disk();
        disk.stop_at(disk.changes() + cut);
        lag.run.world.heal_network();
        lag.run.world.run_for(Duration::from_secs(6));
        let was_done = lag.numbers(lag.follower).received > 0;
        let region = regions().swap_remove(0);
        let follower = NodeId(region.peers[lag.follower].id.0);
        let status = lag.run.nodes.shard(lag.leader).and_then(|shard| shard.status(region.id));
        let status = status.ok_or("the leader is down")?;
        let heard = status.members.iter().any(|it| it.id == follower && it.matched >= status.base.index);
        lag.run.nodes.end(number, true);
        lag.cut_off();
        lag.run.forget_votes(number);
        lag.run.nodes.start(number);
        lag.run.pass(Duration::from_secs(1))?;
        let held = lag.held(0)?;
        let is_new = held == shown(&round(2));
        // What it had as the last may not be known to be committed before it hears of the others again.
        let is_old = shown(&round(1)[..held.len().min(KEYS as usize)]) == held;
        if !(is_new || is_old && held.len() > 50) {
            return Err(format!("cut {cut}: neither the old state nor the new one: {:?}", held.keys()));
        }
        if !is_new && (heard || was_done) {
            return Err(format!("cut {cut}: the leader has heard of what is not there"));
        }
        if is_new {
            new += 1
        } else {
            old += 1
        };
        lag.run.world.heal_network();
        lag.run.agree().map_err(|why| format!("cut {cut}: {why}"))?;
        if cut.is_multiple_of(5) {
            lag.run.world.run_for(Duration::from_secs(40));
            lag.no_garbage().map_err(|why| format!("cut {cut}: {why}"))?;
        }
        if was_done && (of_leader || !lag.run.nodes.node(number).disk().has_stopped()) {
            break;
        }
        if cut > 400 {
            return Err("it never ends".to_owned());
        }
    }
    if old > 3 && new > 0 { Ok(()) } else { Err(format!("{old} old, {new} new")) }
}

#[test]
fn a_power_cut_of_the_follower_leaves_the_old_state_or_the_new_one() {
    assert_eq!(cut_the_power(false, 1000), Ok(()));
}

#[test]
fn a_power_cut_of_the_leader_leaves_the_old_state_or_the_new_one() {
    assert_eq!(cut_the_power(true, 2000), Ok(()));
}

/// The snapshot that the leader of the first region might announce to the follower, changed.
pub(super) fn offer(follower: usize, change: impl FnOnce(&mut Crafted)) -> Offer {
    let region = regions().swap_remove(0);
    let mut crafted = Crafted {
        region: Region { epoch: Epoch::new(9, 9), ..region.clone() },
        last: LogId::new(90, 9000),
        term: Term(90),
        to: region.peers[follower],
        membership: None,
    };
    change(&mut crafted);
    let Crafted { region: described, last, term, to, membership } = crafted;
    let record =
        RegionRecord { region: described.clone(), me: to.id, tombstone: false, merges: Merges::default() };
    let membership =
        membership.unwrap_or_else(|| Membership::of(described.peers.iter().map(|peer| NodeId(peer.id.0))));
    let from = region.peers[(follower + 1) % NODES];
    let snapshot = Snapshot { last, membership, context: Payload::from(record.encode()) };
    let raft = Message {
        group: GroupId(region.id.0),
        from: NodeId(from.id.0),
        to: NodeId(to.id.0),
        term,
        body: raft::Body::Snapshot(Box::new(snapshot)),
    };
    let message = PeerMessage {
        region: region.id,
        from,
        to,
        epoch: described.epoch,
        range: Some(described.range.clone()),
        body: Body::Raft(Box::new(raft)),
    };
    Offer { identity: 1, bytes: 0, message }
}

pub(super) struct Crafted {
    region: Region,
    last: LogId,
    term: Term,
    pub(super) to: scheduler::Peer,
    membership: Option<Membership>,
}

pub(super) fn offered(lag: &Lag, offer: Offer) -> Result<(), Unwanted> {
    let shard: Shard = lag.run.nodes.shard(lag.follower).unwrap();
    let asking = lag
        .run
        .nodes
        .node(lag.follower)
        .start(1, move |_| async move { shard.offered(offer).await.map(drop) });
    lag.run.world.block_on(asking).unwrap()
}

/// A snapshot whose range reaches over a neighbour's is refused when it is offered.
fn offer_over_a_neighbour() -> Result<(), String> {
    let lag = Lag::new(World::new(7, Options::default()), 0)?;
    let wide = |it: &mut Crafted| it.region.range = KeyRange::new("", "p").unwrap();
    match offered(&lag, offer(lag.follower, wide)) {
        Err(Unwanted::Overlap(RegionId(200))) => Ok(()),
        outcome => Err(format!("{outcome:?}")),
    }
}

#[test]
fn a_snapshot_that_does_not_belong_is_refused_with_a_reason_and_counted() {
    assert_eq!(offer_over_a_neighbour(), Ok(()));
    let lag = Lag::new(World::new(8, Options::default()), 1).unwrap();
    let ask = |change: &dyn Fn(&mut Crafted)| offered(&lag, offer(lag.follower, change));
    assert_eq!(ask(&|it| it.to.store = StoreId(77)), Err(Unwanted::OtherTarget), "another store");
    assert_eq!(ask(&|it| it.to.id = PeerId(1)), Err(Unwanted::OtherTarget), "an older peer");
    assert_eq!(ask(&|it| it.to.id = PeerId(999)), Err(Unwanted::OtherTarget), "a peer that is to come");
    let not_me = |it: &mut Crafted| it.region.peers.retain(|peer| peer.id != it.to.id);
    assert_eq!(ask(&not_me), Err(Unwanted::OtherTarget), "not a member of what it brings");
    let other = |it: &mut Crafted| it.region.id = RegionId(300);
    assert_eq!(ask(&other), Err(Unwanted::Malformed), "another region inside");
    let none = |it: &mut Crafted| it.membership = Some(Membership::of([NodeId(1)]));
    assert_eq!(ask(&none), Err(Unwanted::Malformed), "a membership that is not the region's");
    assert_eq!(ask(&|it| it.region.epoch = Epoch::new(0, 1)), Err(Unwanted::OldEpoch));
    assert_eq!(ask(&|it| it.term = Term(1)), Err(Unwanted::OldTerm));
    assert_eq!(ask(&|it| it.last = LogId::new(5, 6)), Err(Unwanted::Known));
    let counted = refused(&lag.numbers(lag.follower));
    assert_eq!(
        counted,
        [("other_target", 4), ("old_term", 1), ("old_epoch", 1), ("known", 1), ("malformed", 2)]
    );
    let shard = lag.run.nodes.shard(lag.follower).unwrap();
    assert!(shard.stopped().is_none() && shard.snapshot().snapshots_receiving == 0);
    assert_eq!(lag.held(0).unwrap(), shown(&round(1)), "nothing has changed");
}

/// Within how many seeds each planted bug is caught.
const CAUGHT_WITHIN: u64 = 3;

#[test]
fn bugs_of_snapshots_are_caught() {
    let mut unnoticed = Vec::new();
    for bug in Bug::SNAPSHOTS {
        plant::plant(Some(bug));
        let caught = (0..CAUGHT_WITHIN).find(|seed| {
            let run = AssertUnwindSafe(|| match bug {
                Bug::SnapshotOverNeighbour => offer_over_a_neighbour(),
                Bug::UnsyncedPieces | Bug::LogBeforeTree => cut_the_power(false, 5000 + 1000 * seed),
                _ => catch_up_while_writes_go_on(*seed),
            });
            catch_unwind(run).map_or(true, |verdict| verdict.is_err())
        });
        plant::plant(None);
        if caught.is_none() {
            unnoticed.push(bug);
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?} went unnoticed");
}
