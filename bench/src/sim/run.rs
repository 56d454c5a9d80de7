//! One seed: the cluster, its clients, what is watched while time passes, and what is judged at the end.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::sim::{Options, World};
use raft::{NodeId, RoleKind, Status, Term};
use scheduler::{KeyRange, RegionId};
use store::shard::Shard;

use super::Tally;
use super::callers::{Shared, anywhere};
use super::clients;
use super::nodes::{NODES, Nodes, regions};
use super::story::Story;

/// Clients over gRPC.
pub(super) const CLIENTS: usize = 5;
/// Clients over RESP, which ask whichever node.
const ANYWHERE: usize = 3;

/// How often the cluster is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// A vote is on disk by then, unless the disk is slow.
const ON_DISK: Duration = Duration::from_millis(600);
/// Within this time three nodes that are left alone agree.
const AGREE_MAX: Duration = Duration::from_secs(60);

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
    leaders: BTreeMap<(RegionId, Term), usize>,
    /// Votes that have been cast for long enough to be on disk, by node and region: the term, the vote, and since when.
    pub votes: BTreeMap<(usize, RegionId), (Term, Option<NodeId>, Duration)>,
    /// Disks are slow, or a node stands still.
    pub(super) slow: bool,
    pub(super) lease: Duration,
    /// Snapshots that each node's store had taken in when it was last looked at.
    received: BTreeMap<usize, u64>,
    pub(super) tally: Tally,
    /// What has happened so far.
    pub story: Story,
}

impl Run {
    /// The run of a seed, which draws the weather and whether leaders read by lease.
    pub fn new(seed: u64) -> Self {
        let options = Options::rough(seed);
        let described = format!("{options:#?}");
        let world = World::new(seed, options);
        let lease = Duration::from_millis(if world.below(2) == 0 { 800 } else { 0 });
        let this = Self::over(world, lease);
        let clients = format!("{CLIENTS} clients over gRPC, {ANYWHERE} over RESP");
        this.story.begins(format!("seed {seed}: leases of {lease:?}, {clients}, the world {described}"));
        this
    }

    /// A run in a world of the caller's; leaders read by a lease of so long, or ask the others for every read.
    pub fn over(world: World, lease: Duration) -> Self {
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
            story: Story::default(),
        }
    }

    /// Lets time pass under watch.
    ///
    /// # Errors
    /// What was seen that must not be.
    pub fn pass(&mut self, time: Duration) -> Result<(), String> {
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

    pub(super) fn tell(&mut self, event: String) {
        self.story.add(self.world.now(), event);
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
                let at = self.world.now();
                let leader = *self.leaders.entry((region.id, status.term)).or_insert_with(|| {
                    self.story.add(at, format!("node {number} leads {} in term {}", region.id, status.term));
                    number
                });
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

    /// Snapshots that the stores have taken in since they were opened.
    fn count_snapshots(&mut self) {
        for (number, shard) in self.nodes.serving() {
            let received = shard.counters().snapshots.received.get();
            let before = self.received.insert(number, received).unwrap_or(0);
            // A store that was opened again begins to count anew.
            self.tally.snapshots += if received >= before { received - before } else { received };
        }
    }

    /// Everything: calm, faults, the end of the faults, and judgement.
    ///
    /// # Errors
    /// What is wrong.
    pub fn live(&mut self) -> Result<Tally, String> {
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
        self.tell("the faults are over".to_owned());
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
        self.tell("every key has been read; the replicas are compared".to_owned());
        self.agree()?;
        self.shared.history.borrow().judge()?;
        let history = self.shared.history.borrow();
        (self.tally.answered, self.tally.lost) = (history.answered, history.lost());
        self.tally.terms = self.leaders.len() as u64;
        self.tally.answered_anywhere = self.shared.answered_anywhere.get();
        self.tally.refused_anywhere = self.shared.refused_anywhere.get();
        Ok(self.tally)
    }

    /// What a node's applied state has in a range.
    ///
    /// # Errors
    /// The tree cannot be read, or the node ended.
    pub fn held(&self, number: usize, shard: Shard, range: KeyRange) -> Result<Pairs, String> {
        let reading = self.nodes.node(number).start(1, move |_| async move {
            shard.applied_pairs(&range).await.map_err(|fault| fault.to_string())
        });
        self.world.block_on(reading).ok_or("a node ended by itself")?
    }

    /// Three nodes that are left alone come to the same index and hold the same data there.
    ///
    /// # Errors
    /// They do not.
    pub fn agree(&mut self) -> Result<(), String> {
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
