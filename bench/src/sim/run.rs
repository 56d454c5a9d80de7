//! One seed: the cluster, its clients, what is watched while time passes, and what is judged at the end.
//!
//! First everything may fail, and nothing that is seen may be wrong. Then nothing fails any more, and the cluster must come to rest with
//! every region whole, every key readable and all replicas alike, each within a time of its own.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use engine::rt::local::Pending;
use engine::rt::sim::{Options, World};
use scheduler::Region;
use store::plant::remember;
use store::shard::Shard;
use store::witness;

use super::Tally;
use super::callers::{Shared, anywhere};
use super::clients;
use super::nodes::{NODES, Nodes, regions, regions_on};
use super::operators::Operators;
use super::story::Story;
use super::watch::{Seen, differ};

/// Clients over gRPC.
pub(super) const CLIENTS: usize = 5;
/// Clients over RESP, which ask whichever node.
const ANYWHERE: usize = 3;

/// How often the cluster is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Within this time three nodes that are left alone agree, and every region has its members.
const AGREE_MAX: Duration = Duration::from_secs(60);
/// Within this time a client that is asked to end does so, and every key is read once nothing fails any more.
const END_MAX: Duration = Duration::from_secs(120);

/// What a replica holds, in the order of its keys.
pub type Pairs = Vec<(Bytes, Bytes)>;

/// A cluster in its world, its clients, and what has been seen of it.
pub struct Run {
    /// The world.
    pub world: World,
    /// The nodes.
    pub nodes: Nodes,
    /// What the clients share.
    pub shared: Rc<Shared>,
    /// What was seen so far.
    pub(super) seen: Seen,
    /// What regions lack is asked of their leaders.
    pub(super) operators: Operators,
    /// Disks are slow, or a node is paused.
    pub(super) slow: bool,
    /// What was asked of a disk while it was slow is done by then.
    pub(super) slow_until: Duration,
    /// A node whose disk is bad: its store may stop.
    pub(super) faulty: Option<usize>,
    pub(super) lease: Duration,
    lives: bool,
    pub(super) tally: Tally,
    /// What has happened so far.
    pub story: Story,
    /// Ends the run without a verdict once it is set.
    pub(super) stop: Arc<AtomicBool>,
    pub(super) was_stopped: bool,
}

impl Run {
    /// The run of a seed, which draws the weather, whether leaders read by lease, and whether nodes have two stores.
    pub fn new(seed: u64) -> Self {
        Self::drawn(seed, None)
    }

    /// The run of a seed whose nodes have this number of stores, one or two.
    pub fn on_stores(seed: u64, stores_each: usize) -> Self {
        Self::drawn(seed, Some(stores_each))
    }

    /// The run of a seed in which regions are merged, too.
    pub fn merging(seed: u64) -> Self {
        let mut this = Self::drawn(seed, None);
        this.nodes.setup.merges = true;
        // So few that most runs forget some.
        this.nodes.setup.remembered = Some(1 + this.world.below(3) as usize);
        let remembered = this.nodes.setup.remembered;
        this.record(format!("regions are merged, too, of which {remembered:?} are remembered"));
        this
    }

    fn drawn(seed: u64, stores_each: Option<usize>) -> Self {
        let options = Options::rough(seed);
        let described = format!("{options:#?}");
        let world = World::new(seed, options);
        let lease = Duration::from_millis(if world.below(2) == 0 { 800 } else { 0 });
        let mut this = Self::over(world, lease);
        let below = |bound| this.world.below(bound);
        // For one of three seeds, because what has two stores takes longer.
        let drawn = if below(3) == 0 { 2 } else { 1 };
        let stores_each = stores_each.unwrap_or(drawn);
        let setup = &mut this.nodes.setup;
        setup.stores_each = stores_each;
        setup.kept_entries = 4 << below(5);
        setup.kept_bytes_max = 64 << (10 + below(5));
        setup.memtable_bytes = 4 << (10 + below(4));
        setup.reserve_bytes = 128 << 10;
        this.seen = Seen::of(regions_on(stores_each));
        *this.shared.regions.borrow_mut() = regions_on(stores_each);
        let setup = &this.nodes.setup;
        let clients = format!("{CLIENTS} clients over gRPC, {ANYWHERE} over RESP");
        let setup = format!("{setup:#?}");
        this.story.begins(format!("seed {seed}: {clients}, the nodes {setup}, the world {described}"));
        this
    }

    /// A run in a world of the caller's; leaders read by a lease of so long, or ask the others for every read.
    pub fn over(world: World, lease: Duration) -> Self {
        let nodes = Nodes::new(&world, lease);
        witness::begin(true);
        Self {
            world,
            nodes,
            shared: Rc::default(),
            seen: Seen::of(regions()),
            operators: Operators::default(),
            slow: false,
            slow_until: Duration::ZERO,
            faulty: None,
            lease,
            lives: false,
            tally: Tally::default(),
            story: Story::default(),
            stop: Arc::default(),
            was_stopped: false,
        }
    }

    /// Lets time pass under watch.
    ///
    /// # Errors
    /// What was seen that must not be, or that the run was stopped.
    pub fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = self.world.now() + time;
        while self.world.now() < until {
            if self.stop.load(Ordering::Relaxed) {
                self.was_stopped = true;
                return Err("the run was stopped".to_owned());
            }
            self.world.run_for(LOOK);
            self.look()?;
            if self.lives {
                self.operate();
            }
        }
        Ok(())
    }

    pub(super) fn record(&mut self, event: String) {
        self.story.add(self.world.now(), event);
    }

    /// Everything: calm, faults, the end of the faults, and judgement.
    ///
    /// # Errors
    /// What is wrong.
    pub fn live(&mut self) -> Result<Tally, String> {
        self.lives = true;
        remember(self.nodes.setup.remembered);
        (0..NODES).for_each(|number| self.nodes.start(number));
        let asking = self.begin_clients();
        self.pass(Duration::from_secs(3))?;
        for _ in 0..5 + self.world.below(6) {
            self.befall()?;
            self.compare()?;
        }
        self.record("the faults are over".to_owned());
        self.world.heal_network();
        self.pass(Duration::from_secs(1))?;
        self.shared.done.set(true);
        for client in asking {
            self.finish("a client that was asked to end", client)?;
        }
        let (addrs, shared) = (self.nodes.addrs(), self.shared.clone());
        let reading =
            self.world.node(NODES + CLIENTS).start(0, move |rt| clients::read_all(rt, addrs, shared));
        self.finish("a client that reads every key", reading)?;
        self.record("every key has been read; the replicas are compared".to_owned());
        self.agree()?;
        self.compare()?;
        self.shared.history.borrow().judge()?;
        self.sum_up();
        Ok(self.tally)
    }

    fn begin_clients(&self) -> Vec<Pending<()>> {
        let over_grpc = (0..CLIENTS).map(|number| {
            let (addrs, shared) = (self.nodes.addrs(), self.shared.clone());
            let client = self.world.node(NODES + number);
            client.start(0, move |rt| clients::ask_on(rt, number as u64, addrs, shared))
        });
        let over_resp = (0..ANYWHERE).map(|number| {
            let (addrs, shared) = (self.nodes.resp_addrs(), self.shared.clone());
            let client = self.world.node(NODES + CLIENTS + 1 + number);
            let what = (addrs, &clients::KEYS[..], &clients::COUNTERS[..]);
            client.start(0, move |rt| anywhere::ask_more_on(rt, number as u64, what, shared))
        });
        over_grpc.chain(over_resp).collect()
    }

    /// Waits for the end of a client, under watch.
    fn finish(&mut self, what: &str, client: Pending<()>) -> Result<(), String> {
        let (ended, until) = (Rc::new(std::cell::Cell::new(false)), self.world.now() + END_MAX);
        let flag = ended.clone();
        // A core of its own waits for it.
        let waiting = self.world.node(NODES + CLIENTS + 1 + ANYWHERE).start(0, move |_| async move {
            client.await;
            flag.set(true);
        });
        while !ended.get() {
            if self.world.now() > until {
                return Err(format!("stuck: {what} has not ended within {END_MAX:?}: {}", self.told()));
            }
            self.pass(LOOK)?;
        }
        self.world.block_on(waiting).ok_or_else(|| "a client ended by itself".to_owned())
    }

    /// What each store says of each of its replicas, for a run that is stuck.
    fn told(&self) -> String {
        let mut text = String::new();
        for (number, shard) in self.nodes.serving() {
            for said in shard.replicas_in_words() {
                text.push_str(&format!("\n  node {number}, {}: {said}", shard.store()));
            }
        }
        text
    }

    fn sum_up(&mut self) {
        let history = self.shared.history.borrow();
        (self.tally.answered, self.tally.lost) = (history.answered, history.lost());
        self.tally.terms = self.seen.leaders.len() as u64;
        self.tally.answered_anywhere = self.shared.answered_anywhere.get();
        self.tally.refused_anywhere = self.shared.refused_anywhere.get();
        self.tally.compared = self.seen.compared;
        self.tally.merged = self.seen.map.taken;
        self.tally.entries = witness::entries() as u64;
    }

    /// Three nodes that are left alone come to the same index and hold the same data there.
    ///
    /// # Errors
    /// They do not.
    pub fn agree(&mut self) -> Result<(), String> {
        let until = self.world.now() + AGREE_MAX;
        while self.lives && !self.is_whole() {
            if self.world.now() > until {
                let regions: Vec<_> = self.seen.map.regions().collect();
                return Err(format!("stuck: regions lack members: {regions:?}"));
            }
            self.pass(Duration::from_millis(50))?;
        }
        for region in self.seen.map.regions().cloned().collect::<Vec<_>>() {
            self.agree_on(&region, self.world.now() + AGREE_MAX)?;
        }
        Ok(())
    }

    fn agree_on(&mut self, region: &Region, until: Duration) -> Result<(), String> {
        let applied = |run: &Self| -> Vec<_> {
            let of = |shard: Shard| {
                let status = shard.status(region.id).filter(|_| !shard.is_receiving(region.id));
                status.map(|it| (it.applied, it.last))
            };
            run.nodes.serving().filter_map(|(_, shard)| of(shard)).collect()
        };
        while !is_one(&applied(self)) {
            if self.world.now() > until {
                return Err(format!("stuck: the replicas of {region:?} never agree: {}", self.told()));
            }
            self.pass(Duration::from_millis(50))?;
        }
        let mut held = Vec::new();
        for (number, shard) in self.nodes.serving() {
            let (store, is_member) = (shard.store(), shard.status(region.id).is_some());
            let pairs = self.held(number, shard, region.range.clone())?;
            match is_member {
                true => held.push(pairs),
                false if pairs.is_empty() => {}
                false => {
                    return Err(format!("{store} holds data of {}, which it has no replica of", region.id));
                }
            }
        }
        match held.windows(2).all(|pair| pair[0] == pair[1]) {
            true => Ok(()),
            false => {
                Err(format!("the replicas of {} differ at the same index: {}", region.id, differ(&held)))
            }
        }
    }
}

/// All nodes, and all at the same place, with nothing left to apply.
fn is_one(applied: &[(raft::Index, raft::LogId)]) -> bool {
    applied.len() == NODES
        && applied.iter().all(|(index, last)| (*index, *last) == (applied[0].1.index, applied[0].1))
}
