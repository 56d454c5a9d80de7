//! Every number of the metrics page that is about a store's part in a cluster moves when what it counts happens, and what goes up and
//! down comes back. What is looked at is the page itself.

use std::collections::BTreeSet;
use std::time::Duration;

use engine::rt::Rt;
use engine::rt::sim::{Options, World};
use scheduler::{Epoch, PeerId, StoreId};
use store::region::lineage::Lineage;
use store::region::message::{Body, PeerMessage};
use store::shard::Shard;
use store::wire::board::CoreReport;
use store::wire::peer::open::{Purpose, Speaker, introduce};

use super::nodes::{NODES, regions};
use super::snapshots::{Lag, offer, offered, round};
use super::{Run, anywhere, clients};
use crate::page::{self, Page, Seen, sum};

/// What the names of these numbers begin with.
const OURS: [&str; 14] = [
    "ringkeep_peer_",
    "ringkeep_proposal_",
    "ringkeep_raft_",
    "ringkeep_remote_",
    "ringkeep_retries_",
    "ringkeep_replication_",
    "ringkeep_snapshot_",
    "ringkeep_snapshots_",
    "ringkeep_store_leaders",
    "ringkeep_store_regions_without_leader",
    "ringkeep_store_pending_peers",
    "ringkeep_store_down_peers",
    "ringkeep_store_replica_reads_total",
    "ringkeep_store_replicas_asleep",
];

/// How often the page is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What a cluster that is left alone comes to, it does within this time.
const WAIT_MAX: Duration = Duration::from_secs(180);

fn page(run: &Run) -> Page {
    let report = |(core, shard): (usize, Shard)| CoreReport {
        core,
        stores: vec![shard.snapshot()],
        gateway: run.nodes.gateway(core),
        resp_connections_max: 1,
        ..CoreReport::default()
    };
    let reports: Vec<CoreReport> = run.nodes.serving().map(report).collect();
    page::page(&reports, &OURS)
}

/// Lets time pass and looks now and then.
fn pass(seen: &mut Seen, run: &mut Run, time: Duration) {
    let until = run.world.now() + time;
    while run.world.now() < until {
        run.world.run_for(LOOK);
        seen.look(page(run));
    }
}

/// Lets time pass and looks until a condition holds.
fn wait(seen: &mut Seen, lag: &mut Lag, look: Duration, what: &str, holds: impl Fn(&Lag) -> bool) {
    let until = lag.run.world.now() + WAIT_MAX;
    while !holds(lag) {
        let numbers: Vec<_> = (0..NODES).map(|node| lag.numbers(node)).collect();
        assert!(lag.run.world.now() < until, "{what}: not within {WAIT_MAX:?}: {numbers:?}");
        lag.run.world.run_for(look);
        seen.look(page(&lag.run));
    }
}

/// Connects to a store as another one, then sends what no store can read; and once more without an introduction.
async fn talk_nonsense(
    rt: Rt,
    addr: std::net::SocketAddr,
    to: StoreId,
    (store, incarnation): (StoreId, u64),
) {
    let speaker = Speaker { secret: None, cluster: 7, store, incarnation, lineage: Lineage::default() };
    let mut stream =
        introduce(&rt, Purpose::Messages, &speaker, &addr.to_string(), to).await.expect("it is welcome");
    stream.write_all(&[0xff; 64]).await.expect("it is connected");
    let mut stranger = rt.connect(addr).await.expect("it listens");
    stranger.write_all(Purpose::Messages.preface()).await.expect("it is connected");
    stranger.write_all(&[0xff; 64]).await.expect("it is connected");
    rt.sleep(Duration::from_secs(5)).await;
}

/// A message for a peer that lived on the follower's store before.
fn stray(follower: usize) -> PeerMessage {
    let region = regions().swap_remove(0);
    let (from, mut to) = (region.peers[(follower + 1) % NODES], region.peers[follower]);
    to.id = PeerId(1);
    PeerMessage { region: region.id, from, to, epoch: Epoch::FIRST, range: None, body: Body::Removed }
}

/// Hands over the leadership of the first region: to one that is there, or to the follower that is not.
fn transfer(lag: &Lag, to: usize) {
    let region = regions().swap_remove(0);
    let (_, leader) = lag.run.nodes.leader(region.id).expect("it is led");
    leader.transfer(region.id, region.peers[to].id, region.epoch).expect("it begins");
}

/// Clients ask all nodes while the leaders are there, while one is gone, and while so many are that there is none.
fn ask_anywhere(seen: &mut Seen, lag: &mut Lag) {
    let run = &mut lag.run;
    for node in 0..NODES {
        let addrs = run.nodes.addrs();
        let reads = run
            .world
            .node(NODES)
            .start(0, move |rt| clients::read_replica(rt, addrs, node, "a", Duration::from_secs(30)));
        run.world.block_on(reads).expect("it ends by itself").expect("it is answered");
    }
    let asking: Vec<_> = (0..3)
        .map(|number| {
            let (addrs, shared) = (run.nodes.resp_addrs(), run.shared.clone());
            let client = run.world.node(NODES + 1 + number);
            client.start(0, move |rt| anywhere::ask_on(rt, number as u64, (addrs, &clients::KEYS), shared))
        })
        .collect();
    pass(seen, run, Duration::from_secs(3));
    let gone = run.nodes.leader(regions()[0].id).expect("it is led").0;
    let second = (gone + 1) % NODES;
    // To a node that lost its power nothing can be sent, where only the process ended connections are refused at once.
    for (node, power) in [(gone, true), (second, false)] {
        run.nodes.end(node, power);
        pass(seen, run, Duration::from_secs(12));
    }
    [gone, second].into_iter().for_each(|node| run.nodes.start(node));
    run.shared.done.set(true);
    for client in asking {
        run.world.block_on(client).expect("it ends by itself");
    }
    run.agree().expect("they are left alone");
}

#[test]
fn every_number_of_a_cluster_moves() {
    let mut seen = Seen::default();
    let mut run = Run::over(World::new(21, Options::default()), Duration::ZERO);
    run.nodes.setup.snapshot_bytes_per_second = 1 << 10;
    (0..NODES).for_each(|number| run.nodes.start(number));
    pass(&mut seen, &mut run, Duration::from_secs(4));
    let quiet = page(&run);
    let follower = (run.nodes.leader(regions()[0].id).expect("it is led").0 + 1) % NODES;
    let mut lag = Lag { leader: (follower + NODES - 1) % NODES, follower, run };
    lag.write_at(0, round(1)).expect("it is led");
    pass(&mut seen, &mut lag.run, Duration::from_secs(2));
    transfer(&lag, (lag.leader + 2) % NODES);
    pass(&mut seen, &mut lag.run, Duration::from_secs(2));

    // One that is cut off lacks what the others write, and does not lead when it is asked to.
    lag.cut_off();
    pass(&mut seen, &mut lag.run, Duration::from_secs(1));
    lag.write_at(0, round(2)).expect("two of three are there");
    transfer(&lag, lag.follower);
    pass(&mut seen, &mut lag.run, Duration::from_secs(20));
    let behind = page(&lag.run);
    lag.forget(1).expect("the log is cut");

    // It gets a snapshot, for which it has no room at first.
    lag.run.nodes.node(follower).disk().leave(0);
    lag.run.world.heal_network();
    wait(&mut seen, &mut lag, LOOK, "a failure", |lag| (0..NODES).any(|node| lag.numbers(node).failed > 0));
    lag.run.nodes.node(follower).disk().set_capacity(u64::MAX);
    wait(&mut seen, &mut lag, LOOK / 50, "a snapshot", |lag| lag.numbers(lag.follower).received > 0);

    // What has no place there.
    offered(&lag, offer(lag.follower, |it| it.to.store = StoreId(77))).expect_err("it is for another store");
    let (shard, message) = (lag.run.nodes.shard(follower).expect("it is up"), stray(follower));
    let hears =
        lag.run.nodes.node(follower).start(1, move |_| async move { shard.receive(vec![message]).await });
    lag.run.world.block_on(hears).expect("it does not end by itself");
    let (addr, to) = (lag.run.nodes.addrs()[follower], StoreId(follower as u64 + 1));
    let another = lag.run.nodes.shard((follower + 1) % NODES).expect("it is up");
    let another = (another.store(), another.opened());
    let talks = lag.run.world.node(NODES).start(0, move |rt| talk_nonsense(rt, addr, to, another));
    lag.run.world.block_on(talks).expect("it does not end by itself");
    lag.run.agree().expect("they are left alone");
    ask_anywhere(&mut seen, &mut lag);
    pass(&mut seen, &mut lag.run, Duration::from_secs(40));

    assert!(seen.0.len() > 100, "the page is not looked at: {:?}", seen.0.keys());
    assert_eq!(seen.still(), BTreeSet::new(), "numbers that did not move");
    let led = regions().len() as f64;
    assert_eq!(sum(&quiet, "ringkeep_store_leaders", ""), led, "one leader each");
    let regions_here = NODES as f64 * led;
    let led_without = |page: &Page| sum(page, "ringkeep_store_regions_without_leader", "");
    assert_eq!((led_without(&quiet), led_without(&behind)), (0.0, led), "the one that is cut off knows none");
    assert!(led_without(&behind) < regions_here);
    assert!(sum(&behind, "ringkeep_replication_lag_entries", "") >= 60.0, "a round was missed");
    assert!(sum(&behind, "ringkeep_replication_lag_bytes", "") > 1000.0, "of which the log keeps some");
    let still_there = page(&lag.run);
    for name in [
        "ringkeep_replication_lag_entries",
        "ringkeep_replication_lag_max_entries",
        "ringkeep_replication_lag_bytes",
        "ringkeep_replication_lag_max_bytes",
        "ringkeep_store_regions_without_leader",
        "ringkeep_store_pending_peers",
        "ringkeep_store_down_peers",
        "ringkeep_peer_queued_messages",
        "ringkeep_peer_queued_bytes",
        "ringkeep_peer_stores_unreachable",
        "ringkeep_snapshots_sending",
        "ringkeep_snapshots_receiving",
    ] {
        assert_eq!(sum(&still_there, name, ""), 0.0, "{name} does not come back");
    }
}

/// Each stage takes the time of what it waits for: a slow disk is in the log's, a slow one of the followers in that of replication.
#[test]
fn a_slow_disk_shows_in_its_stage() {
    let times = |slow: fn(usize, usize) -> bool| {
        let mut run = Run::over(World::new(5, Options::default()), Duration::ZERO);
        (0..NODES).for_each(|number| run.nodes.start(number));
        run.pass(Duration::from_secs(4)).expect("nothing happens to it");
        let (leader, shard) = run.nodes.leader(regions()[0].id).expect("it is led");
        (0..NODES).filter(|node| slow(*node, leader)).for_each(|node| run.nodes.node(node).disk().slow(40));
        let before = shard.snapshot().stages;
        let mut lag = Lag { leader, follower: (leader + 1) % NODES, run };
        lag.write_at(0, round(1)).expect("it is led");
        let after = shard.snapshot().stages;
        let mean = |stage: usize| {
            let (before, after) = (&before[stage].1, &after[stage].1);
            (after.sum - before.sum) / u32::try_from(after.count() - before.count()).expect("few writes")
        };
        (mean(1), mean(2))
    };
    let (log, replicate) = times(|node, leader| node == leader);
    assert!(log > replicate * 4, "the leader's disk is slow: log {log:?}, replicate {replicate:?}");
    let (log, replicate) = times(|node, leader| node != leader);
    assert!(replicate > log * 4, "the followers' disks are slow: log {log:?}, replicate {replicate:?}");
}
