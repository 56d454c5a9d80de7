//! Three nodes with one store each in the simulator, two regions with a voter on every node, clients that follow the leaders, and
//! clients that ask whichever node.
//!
//! Each seed draws the weather, whether leaders read by lease, and what befalls the nodes: power cuts, kills, pauses, links cut one way and
//! both ways, broken connections, transfers of leadership. Judged are the histories of all keys (what was acknowledged is there, what was
//! refused never happened, no read is stale), that a term has one leader, that the nodes agree once they are left alone, and that the
//! replicas hold the same data at the same index. `RINGKEEP_SEEDS=500 cargo test -p ringkeep-store --test it cluster` runs more than
//! the usual seeds, `RINGKEEP_SEED=n` runs one.

mod clients;
mod members;
mod nodes;
mod numbers;
mod replica_reads;
mod snapshots;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::sim::{Options, World};
use raft::{NodeId, RoleKind, Status, Term};
use scheduler::{Epoch, KeyRange, RegionId};
use store::plant::{self, Bug};
use store::region::message::{Body, PeerMessage};
use store::shard::Shard;

use self::nodes::{NODES, Nodes, regions};
use crate::callers::{Shared, anywhere};
use crate::whole_node::judge::{Action, Heard};
use crate::whole_node::seeds;

const CLIENTS: usize = 5;
/// Clients over RESP, which ask whichever node.
const ANYWHERE: usize = 3;

/// How often the cluster is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// A vote is on disk by then, unless the disk is slow.
const ON_DISK: Duration = Duration::from_millis(600);
/// Within this time three nodes that are left alone agree.
const AGREE_MAX: Duration = Duration::from_secs(60);

/// What a run has been through.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    answered: u64,
    lost: u64,
    terms: usize,
    ends: u64,
    cuts: u64,
    transfers: u64,
    snapshots: u64,
    /// Calls over RESP that were answered, and that were refused.
    anywhere: (u64, u64),
}

type Pairs = Vec<(Bytes, Bytes)>;

struct Run {
    world: World,
    nodes: Nodes,
    shared: Rc<Shared>,
    leaders: BTreeMap<(RegionId, Term), usize>,
    /// Votes that have been cast for long enough to be on disk, by node and region: the term, the vote, and since when.
    votes: BTreeMap<(usize, RegionId), (Term, Option<NodeId>, Duration)>,
    /// Disks are slow, or a node stands still.
    slow: bool,
    lease: Duration,
    /// Snapshots that each node's store had taken in when it was last looked at.
    received: BTreeMap<usize, u64>,
    tally: Tally,
}

impl Run {
    fn new(seed: u64) -> Self {
        let world = World::new(seed, Options::rough(seed));
        let lease = Duration::from_millis(if world.below(2) == 0 { 800 } else { 0 });
        Self::over(world, lease)
    }

    fn over(world: World, lease: Duration) -> Self {
        let nodes = Nodes::new(&world, lease);
        Self {
            world,
            nodes,
            shared: Rc::default(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            slow: false,
            lease,
            received: BTreeMap::new(),
            tally: Tally::default(),
        }
    }

    /// Lets time pass under watch.
    fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = self.world.now() + time;
        while self.world.now() < until {
            self.world.run_for(LOOK);
            self.look()?;
        }
        Ok(())
    }

    /// A vote that was cast is never taken back, and no term ends before its time.
    fn remember_vote(&mut self, number: usize, region: RegionId, status: &Status) -> Result<(), String> {
        let (now, cast) = (self.world.now(), (status.term, status.vote));
        if self.slow {
            self.votes.insert((number, region), (cast.0, cast.1, now));
        }
        let (term, vote, since) = *self.votes.entry((number, region)).or_insert((cast.0, cast.1, now));
        if (term, vote) == cast {
            return Ok(());
        }
        let on_disk = now.saturating_sub(since) > ON_DISK;
        if on_disk && (cast.0 < term || (cast.0 == term && vote.is_some())) {
            return Err(format!(
                "node {number} was in term {term} of {region} with the vote {vote:?} for {:?}, and is in {} with {:?}",
                now.saturating_sub(since),
                cast.0,
                cast.1
            ));
        }
        self.votes.insert((number, region), (cast.0, cast.1, now));
        Ok(())
    }

    /// One leader per term.
    fn look(&mut self) -> Result<(), String> {
        self.count_snapshots();
        for (number, shard) in self.nodes.serving().collect::<Vec<_>>() {
            if let Some(why) = shard.stopped() {
                return Err(format!("the store of node {number} stopped: {why}"));
            }
            for region in regions() {
                let Some(status) = shard.status(region.id) else { continue };
                self.remember_vote(number, region.id, &status)?;
                if status.role != RoleKind::Leader {
                    continue;
                }
                let leader = *self.leaders.entry((region.id, status.term)).or_insert(number);
                if leader != number {
                    let (id, term) = (region.id, status.term);
                    return Err(format!("nodes {leader} and {number} both led {id} in term {term}"));
                }
            }
        }
        match self.shared.failures.borrow().first() {
            Some(why) => Err(format!("a client was refused: {why}")),
            None => Ok(()),
        }
    }

    fn draw_node(&self) -> usize {
        self.world.below(NODES as u64) as usize
    }

    fn draw_ms(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.world.below(most - least))
    }

    /// The node that leads a region, or any.
    fn a_leader(&self) -> usize {
        let region = regions()[self.world.below(2) as usize].id;
        self.nodes.leader(region).map_or_else(|| self.draw_node(), |(number, _)| number)
    }

    fn end(&mut self, number: usize, away: Duration) -> Result<(), String> {
        self.nodes.end(number, self.world.below(3) != 0);
        self.tally.ends += 1;
        self.pass(away)?;
        self.nodes.start(number);
        Ok(())
    }

    /// Something goes wrong, and is mended.
    fn befall(&mut self) -> Result<(), String> {
        let (one, other) = (self.draw_node(), self.draw_node());
        match self.world.below(12) {
            0 => self.end(one, self.draw_ms(100, 3000))?,
            1 | 2 => self.end(self.a_leader(), self.draw_ms(20, 3000))?,
            3 => {
                let (first, second) = (self.a_leader(), one);
                self.nodes.end(first, true);
                self.tally.ends += 1;
                self.pass(self.draw_ms(1, 2500))?;
                if second != first {
                    self.end(second, self.draw_ms(1, 500))?;
                }
                self.nodes.start(first);
            }
            4 => {
                let (from, to) = (self.a_leader(), one);
                if from != to {
                    self.world.cut_one_way(self.nodes.node(from), self.nodes.node(to));
                    self.tally.cuts += 1;
                    self.pass(self.draw_ms(500, 5000))?;
                    self.world.heal_network();
                }
            }
            5 => {
                let alone = self.a_leader();
                // Where leaders ask for every read, no clock matters; where they do not, voters allow for some drift.
                self.nodes.node(alone).drift(if self.lease.is_zero() { -500_000 } else { -50_000 });
                self.world.partition(&[self.nodes.node(alone)]);
                // Its clients stay with it.
                for client in 0..CLIENTS {
                    self.world.join(self.nodes.node(alone), &self.world.node(NODES + client));
                }
                self.tally.cuts += 1;
                self.pass(self.draw_ms(500, 5000))?;
                self.world.heal_network();
                self.nodes.node(alone).drift(0);
            }
            6 => {
                if one != other {
                    self.world.reset(self.nodes.node(one), self.nodes.node(other));
                }
            }
            7 => {
                let asleep = self.a_leader();
                self.nodes.node(asleep).pause();
                self.slow = true;
                self.pass(self.draw_ms(200, 4000))?;
                self.nodes.node(asleep).resume();
                self.slow = false;
            }
            8 => {
                let region = regions().swap_remove(self.world.below(2) as usize);
                if let Some((_, leader)) = self.nodes.leader(region.id)
                    && leader.transfer(region.id, region.peers[one].id, region.epoch).is_ok()
                {
                    self.tally.transfers += 1;
                }
            }
            9 => self.dark()?,
            10 | 11 => self.stay_away(one)?,
            _ => unreachable!("it is below twelve"),
        }
        self.pass(self.draw_ms(100, 2500))
    }

    /// A node is away until the others have cut from their logs what it lacks. A link that is cut for so long would cost the simulated
    /// network more than the rest of the run.
    fn stay_away(&mut self, away: usize) -> Result<(), String> {
        self.nodes.end(away, self.world.below(2) == 0);
        self.tally.ends += 1;
        self.pass(self.draw_ms(6000, 15_000))?;
        self.nodes.start(away);
        // While it catches up others may fail, too.
        self.pass(self.draw_ms(10, 3000))
    }

    /// Snapshots that the stores have taken in since they were opened.
    fn count_snapshots(&mut self) {
        for (number, shard) in self.nodes.serving() {
            let received = shard.counters().snapshots.received.get();
            let before = self.received.insert(number, received).unwrap_or(0);
            // A store that was opened again begins to count anew.
            self.tally.snapshots += if received >= before { received - before } else { received };
        }
    }

    /// The disks of those that follow are slow, then all nodes lose their power at once, and the leader comes back last.
    fn dark(&mut self) -> Result<(), String> {
        let leader = self.a_leader();
        let factor = 20 + self.world.below(300);
        let slow = |run: &mut Self, factor: u64| {
            (0..NODES)
                .filter(|number| *number != leader)
                .for_each(|number| run.nodes.node(number).disk().slow(factor));
            run.slow = factor > 1;
        };
        slow(self, factor);
        self.pass(self.draw_ms(100, 800))?;
        for number in 0..NODES {
            self.nodes.end(number, true);
            self.tally.ends += 1;
        }
        slow(self, 1);
        self.pass(self.draw_ms(1, 500))?;
        (0..NODES).filter(|number| *number != leader).for_each(|number| self.nodes.start(number));
        self.pass(self.draw_ms(1, 4000))?;
        self.nodes.start(leader);
        Ok(())
    }

    fn live(&mut self) -> Result<Tally, String> {
        (0..NODES).for_each(|number| self.nodes.start(number));
        let asking: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (addrs, shared) = (self.nodes.addrs(), self.shared.clone());
                let client = self.world.node(NODES + number);
                client.start(0, move |rt| clients::ask_on(rt, number as u64, addrs, shared))
            })
            .collect();
        let anywhere: Vec<_> = (0..ANYWHERE)
            .map(|number| {
                let (addrs, shared) = (self.nodes.resp_addrs(), self.shared.clone());
                let client = self.world.node(NODES + CLIENTS + 1 + number);
                client
                    .start(0, move |rt| anywhere::ask_on(rt, number as u64, (addrs, &clients::KEYS), shared))
            })
            .collect();
        self.pass(Duration::from_secs(3))?;
        for _ in 0..4 + self.world.below(4) {
            self.befall()?;
        }
        self.world.heal_network();
        self.pass(Duration::from_secs(1))?;
        self.shared.done.set(true);
        for client in asking.into_iter().chain(anywhere) {
            self.world.block_on(client).ok_or("a client ended by itself")?;
        }
        let (addrs, shared) = (self.nodes.addrs(), self.shared.clone());
        let reading =
            self.world.node(NODES + CLIENTS).start(0, move |rt| clients::read_all(rt, addrs, shared));
        self.world.block_on(reading);
        self.agree()?;
        self.shared.history.borrow().judge()?;
        let history = self.shared.history.borrow();
        (self.tally.answered, self.tally.lost) = (history.answered, history.lost());
        self.tally.terms = self.leaders.len();
        self.tally.anywhere = (self.shared.answered_anywhere.get(), self.shared.refused_anywhere.get());
        Ok(self.tally)
    }

    /// What a node's applied state has in a range.
    fn held(&self, number: usize, shard: Shard, range: KeyRange) -> Result<Pairs, String> {
        let reading = self.nodes.node(number).start(1, move |_| async move {
            shard.applied_pairs(&range).await.map_err(|fault| fault.to_string())
        });
        self.world.block_on(reading).ok_or("a node ended by itself")?
    }

    /// Three nodes that are left alone come to the same index and hold the same data there.
    fn agree(&mut self) -> Result<(), String> {
        for region in regions() {
            let until = self.world.now() + AGREE_MAX;
            let applied = |run: &Self| -> Vec<_> {
                let of = |shard: Shard| {
                    let status = shard.status(region.id).filter(|_| !shard.is_receiving(region.id));
                    status.map(|it| (it.applied, it.last))
                };
                run.nodes.serving().filter_map(|(_, shard)| of(shard)).collect()
            };
            while !is_one(&applied(self)) {
                if self.world.now() > until {
                    return Err(format!("the replicas of {} never agree: {:?}", region.id, applied(self)));
                }
                self.pass(Duration::from_millis(50))?;
            }
            let mut held = Vec::new();
            for (number, shard) in self.nodes.serving() {
                held.push(self.held(number, shard, region.range.clone())?);
            }
            if !held.windows(2).all(|pair| pair[0] == pair[1]) {
                return Err(format!(
                    "the replicas of {} differ at the same index: {}",
                    region.id,
                    differ(&held)
                ));
            }
        }
        Ok(())
    }
}

/// Where replicas differ: per key what each of them holds, cut short.
fn differ(held: &[Pairs]) -> String {
    let short = |bytes: &Bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(24)]).into_owned();
    let mut by_key: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
    for (number, pairs) in held.iter().enumerate() {
        for (key, value) in pairs {
            by_key.entry(short(key)).or_insert_with(|| vec![None; held.len()])[number] = Some(short(value));
        }
    }
    by_key.retain(|_, values| values.windows(2).any(|pair| pair[0] != pair[1]));
    format!("{by_key:?}")
}

/// All nodes, and all at the same place, with nothing left to apply.
fn is_one(applied: &[(raft::Index, raft::LogId)]) -> bool {
    applied.len() == NODES
        && applied.iter().all(|(index, last)| (*index, *last) == (applied[0].1.index, applied[0].1))
}

fn live(seed: u64) -> Result<Tally, String> {
    Run::new(seed).live()
}

#[test]
fn a_cluster_keeps_what_it_acknowledged() {
    let mut all = Tally::default();
    let seeds = seeds(50);
    for seed in seeds.clone() {
        let tally = live(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        all.answered += tally.answered;
        all.lost += tally.lost;
        all.terms += tally.terms;
        all.ends += tally.ends;
        all.cuts += tally.cuts;
        all.transfers += tally.transfers;
        all.snapshots += tally.snapshots;
        all.anywhere = (all.anywhere.0 + tally.anywhere.0, all.anywhere.1 + tally.anywhere.1);
    }
    let count = seeds.end - seeds.start;
    assert!(all.answered > 100 * count, "too little was asked for the test to test: {all:?}");
    let (answered, refused) = all.anywhere;
    assert!(refused * 50 < answered, "too many calls over RESP were refused: {all:?}");
    if count >= 20 {
        let enough = all.ends > count && all.cuts > 10 && all.transfers > 10 && all.terms as u64 > 3 * count;
        assert!(enough && all.lost > 0, "{all:?}");
        assert!(all.snapshots > 10, "too few snapshots: {all:?}");
    }
}

/// A leader whose clock nearly stands still is cut off from the others, and does not hear that another one leads. Whatever it is asked
/// then it must not answer from its state: neither a read nor a comparison that fails.
fn ask_a_deposed_leader(by_swap: bool) -> Result<(), String> {
    let mut run = Run::over(World::new(5, Options::default()), Duration::ZERO);
    (0..NODES).for_each(|number| run.nodes.start(number));
    let region = regions()[0].id;
    let ask = |run: &Run, node: usize, action: Action, by_swap: bool| {
        let (addrs, asking) = (run.nodes.addrs(), run.world.node(NODES));
        run.world
            .block_on(asking.start(0, move |rt| clients::ask_node(rt, addrs, node, "a", action, by_swap)))
    };
    run.pass(Duration::from_secs(4))?;
    let (old, _) = run.nodes.leader(region).ok_or("no leader")?;
    let set = |text: &str| Action::Set(text.to_owned());
    let done = Some(Some(Heard::Done));
    if ask(&run, old, set("old"), false) != done {
        return Err("a write was not answered".to_owned());
    }
    run.nodes.node(old).drift(-999_000);
    for other in (0..NODES).filter(|other| *other != old) {
        run.world.cut(run.nodes.node(old), run.nodes.node(other));
    }
    run.pass(Duration::from_secs(5))?;
    let (new, _) = run.nodes.leader(region).ok_or("no leader")?;
    if new == old || ask(&run, new, set("new"), false) != done {
        return Err("no other leader took over".to_owned());
    }
    match ask(&run, old, Action::Get, by_swap) {
        Some(None) => Ok(()),
        answer => Err(format!("the deposed leader answered {answer:?}")),
    }
}

/// A write is acknowledged while the disks of the followers take long; then all power goes, and the leader does not come back.
fn lose_the_leader_after_an_acknowledgement(seed: u64) -> Result<(), String> {
    let mut run = Run::over(World::new(seed, Options::default()), Duration::ZERO);
    (0..NODES).for_each(|number| run.nodes.start(number));
    let region = regions()[0].id;
    let ask = |run: &Run, node: usize, action: Action| {
        let (addrs, asking) = (run.nodes.addrs(), run.world.node(NODES));
        run.world.block_on(asking.start(0, move |rt| clients::ask_node(rt, addrs, node, "a", action, false)))
    };
    run.pass(Duration::from_secs(4))?;
    let (old, _) = run.nodes.leader(region).ok_or("no leader")?;
    let followers = || (0..NODES).filter(|number| *number != old);
    followers().for_each(|number| run.nodes.node(number).disk().slow(500));
    if ask(&run, old, Action::Set("kept".to_owned())) != Some(Some(Heard::Done)) {
        return Err("a write was not answered".to_owned());
    }
    (0..NODES).for_each(|number| run.nodes.end(number, true));
    followers().for_each(|number| run.nodes.node(number).disk().slow(1));
    followers().for_each(|number| run.nodes.start(number));
    run.pass(Duration::from_secs(6))?;
    let (new, _) = run.nodes.leader(region).ok_or("no other leader took over")?;
    match ask(&run, new, Action::Get) {
        Some(Some(Heard::Value(Some(kept)))) if kept == "kept" => Ok(()),
        answer => Err(format!("the write that was acknowledged is not there: {answer:?}")),
    }
}

#[test]
fn an_acknowledged_write_outlives_its_leader() {
    for seed in 0..10 {
        assert_eq!(lose_the_leader_after_an_acknowledgement(seed), Ok(()), "seed {seed}");
    }
}

/// A replica that hears from another store that it was removed is gone with its data, also after a power cut that the memory of the
/// tree does not survive, and messages for it do not bring it back.
#[test]
fn a_replica_that_was_told_of_its_removal_stays_away() {
    let mut run = Run::over(World::new(9, Options::default()), Duration::ZERO);
    (0..NODES).for_each(|number| run.nodes.start(number));
    run.pass(Duration::from_secs(4)).unwrap();
    let (gone, other) = (regions().swap_remove(0), regions().swap_remove(1));
    let (addrs, asking) = (run.nodes.addrs(), run.world.node(NODES));
    let (leader, _) = run.nodes.leader(gone.id).unwrap();
    let set = Action::Set("here".to_owned());
    let wrote = asking.start(0, move |rt| clients::ask_node(rt, addrs, leader, "a", set, false));
    assert_eq!(run.world.block_on(wrote), Some(Some(Heard::Done)));
    run.pass(Duration::from_secs(2)).unwrap();
    let number = (leader + 1) % NODES;
    let shard = run.nodes.shard(number).unwrap();
    assert_eq!(run.held(number, shard.clone(), gone.range.clone()).unwrap().len(), 1);
    let told = PeerMessage {
        region: gone.id,
        from: gone.peers[leader],
        to: gone.peers[number],
        epoch: Epoch::new(gone.epoch.conf_ver + 1, gone.epoch.version),
        range: None,
        body: Body::Removed,
    };
    let telling = run.nodes.node(number).start(1, move |_| async move { shard.receive(vec![told]).await });
    run.world.block_on(telling).unwrap();
    for life in 0..3 {
        run.pass(Duration::from_secs(3)).unwrap();
        let shard = run.nodes.shard(number).unwrap();
        assert!(shard.status(gone.id).is_none() && shard.status(other.id).is_some(), "life {life}");
        assert_eq!(run.held(number, shard, gone.range.clone()).unwrap(), [], "life {life}");
        run.nodes.end(number, true);
        run.nodes.start(number);
    }
}

#[test]
fn whichever_node_is_asked_the_leader_answers() {
    for seed in 0..5 {
        let mut run = Run::over(World::new(seed, Options::default()), Duration::from_millis(800));
        (0..NODES).for_each(|number| run.nodes.start(number));
        run.pass(Duration::from_secs(5)).expect("it is left alone");
        let addrs = run.nodes.resp_addrs();
        let asking =
            run.world.node(NODES).start(0, move |rt| anywhere::ask_everywhere(rt, addrs, &clients::KEYS));
        let answered = run.world.block_on(asking).expect("the client ends by itself");
        assert_eq!(answered, 2 * NODES * clients::KEYS.len(), "seed {seed}");
    }
}

#[test]
fn a_deposed_leader_answers_nothing_from_its_state() {
    for by_swap in [false, true] {
        assert_eq!(ask_a_deposed_leader(by_swap), Ok(()), "by a comparison: {by_swap}");
    }
}

/// Within how many seeds each planted bug is caught.
const CAUGHT_WITHIN: u64 = 50;

#[test]
fn bugs_between_nodes_are_caught() {
    let mut unnoticed = Vec::new();
    for bug in Bug::BETWEEN_NODES {
        plant::plant(Some(bug));
        let caught = (0..CAUGHT_WITHIN).find(|seed| {
            let run = AssertUnwindSafe(|| match bug {
                Bug::SaidBeforeWrite => lose_the_leader_after_an_acknowledgement(*seed),
                Bug::ReadUnasked => ask_a_deposed_leader(false),
                Bug::ReplicaUnasked if *seed == 0 => replica_reads::ask_one_that_is_cut_off(*seed),
                Bug::ReplicaUnasked | Bug::ReadBeforeApplied => replica_reads::ask_one_that_lags(*seed),
                Bug::ComparedUnasked => ask_a_deposed_leader(true),
                _ => live(*seed).map(drop),
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
