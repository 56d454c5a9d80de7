//! A cluster that replicates its regions by itself: one node begins, two join under load, every region gets three replicas, nodes die and
//! come back, and the histories of all keys are judged.
//!
//! Each seed draws the weather and what befalls the nodes. `RINGKEEP_SEEDS=200 cargo test -p ringkeep-store --test it replicated` runs
//! more than the usual seeds, `RINGKEEP_SEED=n` runs one.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use engine::rt::sim::{Options, World};
use store::config::Config;
use store::plant::{self, Bug};
use store::wire::proto::metapb::{PeerRole, Region};
use store::wire::proto::pdpb::{ScanRegionsRequest, ScanRegionsResponse};

use super::clients;
use super::nodes::{Member, call, stores};
use crate::whole_node::seeds;
use bench::sim::callers::Shared;

const CLIENTS: usize = 3;
/// Within this time every region has its replicas.
const REPLICATED_MAX: Duration = Duration::from_secs(180);

/// Three nodes that replicate everything, and clients.
pub(super) struct Run {
    pub(super) world: World,
    pub(super) members: [Member; 3],
    pub(super) shared: Rc<Shared>,
}

impl Run {
    pub(super) fn new(world: World) -> Self {
        let mut members = [0, 1, 2].map(|number| Member::new(&world, number, 1));
        members[0].change = |config: &mut Config| config.replicas = Some(3);
        Self { world, members, shared: Rc::default() }
    }

    /// All nodes run, clients ask, and every region has three replicas.
    pub(super) fn begin(&mut self) -> Result<(), String> {
        self.members[0].start(&self.world, &[])?;
        let pd = self.members[0].pd();
        for number in 0..CLIENTS {
            let shared = self.shared.clone();
            let client = self.world.node(10 + number);
            drop(client.start(0, move |rt| clients::ask_on(rt, number as u64, pd, shared)));
        }
        self.pass(Duration::from_secs(2))?;
        for number in [1, 2] {
            // In rough weather a connection may break before the answer, and an operator tries again.
            let joined = (0..5).any(|_| self.members[number].start(&self.world, &[pd]).is_ok());
            assert!(joined, "node {number} does not join");
        }
        self.replicated()?;
        // Clients hear of the new replicas before they need them: the scheduler may be away then.
        self.pass(Duration::from_secs(10))
    }

    pub(super) fn pass(&self, time: Duration) -> Result<(), String> {
        self.world.run_for(time);
        match self.shared.failures.borrow().first() {
            Some(why) => Err(format!("a client was refused: {why}")),
            None => Ok(()),
        }
    }

    pub(super) fn regions(&self) -> Vec<Region> {
        let scan = ScanRegionsRequest::default();
        let all =
            call::<ScanRegionsResponse>(&self.world, self.members[0].pd(), "/pdpb.PD/ScanRegions", scan);
        all.expect("the scheduler answers").regions.into_iter().filter_map(|known| known.region).collect()
    }

    /// Waits until every region has a voter on each node and nothing else.
    pub(super) fn replicated(&self) -> Result<(), String> {
        let until = self.world.now() + REPLICATED_MAX;
        loop {
            let regions = self.regions();
            let whole = |region: &Region| {
                let on: BTreeSet<u64> = region.peers.iter().map(|peer| peer.store_id).collect();
                region.peers.iter().all(|peer| peer.role() == PeerRole::Voter) && on.len() == 3
            };
            if regions.len() >= 5 && regions.iter().all(whole) {
                return Ok(());
            }
            if self.world.now() > until {
                return Err(format!("regions are not replicated: {regions:?}"));
            }
            self.pass(Duration::from_millis(50))?;
        }
    }

    /// A node is away for a while, and the others serve.
    fn lose(&mut self, number: usize, power: bool, away: Duration) -> Result<(), String> {
        self.members[number].end(power);
        // Connections break, and another leader is elected.
        self.pass(Duration::from_secs(25))?;
        let before = self.shared.history.borrow().answered;
        self.pass(Duration::from_secs(5) + away)?;
        let answered = self.shared.history.borrow().answered - before;
        if answered < 20 {
            return Err(format!("without node {number} only {answered} calls were answered"));
        }
        self.members[number].start(&self.world, &[])?;
        self.pass(Duration::from_secs(5))
    }

    fn live(&mut self) -> Result<u64, String> {
        self.begin()?;
        for _ in 0..1 + self.world.below(3) {
            let number = self.world.below(3) as usize;
            let away = Duration::from_millis(self.world.below(8000));
            self.lose(number, self.world.below(2) == 0, away)?;
        }
        self.replicated()?;
        self.shared.done.set(true);
        self.pass(Duration::from_secs(5))?;
        // Each node in turn is not needed for what was acknowledged.
        let pd = self.members[0].pd();
        for number in [1, 2] {
            self.members[number].end(true);
            self.pass(Duration::from_secs(5))?;
            let shared = self.shared.clone();
            self.world.block_on(self.world.node(14).start(0, move |rt| clients::read_all(rt, pd, shared)));
            self.members[number].start(&self.world, &[])?;
            self.pass(Duration::from_secs(5))?;
        }
        self.shared.history.borrow().judge()?;
        if stores(&self.world, pd).len() != 3 {
            return Err("a store was entered twice".to_owned());
        }
        Ok(self.shared.history.borrow().answered)
    }
}

fn live(seed: u64) -> Result<u64, String> {
    Run::new(World::new(seed, Options::rough(seed))).live()
}

#[test]
fn a_cluster_replicates_itself_and_keeps_what_it_acknowledged() {
    let (mut answered, seeds) = (0, seeds(3));
    for seed in seeds.clone() {
        answered += live(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
    assert!(answered > 300 * (seeds.end - seeds.start), "too little was asked: {answered}");
}

/// How long three nodes take from their starts until every region has three replicas, when all is well.
fn time_to_replicas(seed: u64) -> Result<Duration, String> {
    let mut run = Run::new(World::new(seed, Options::default()));
    run.members[0].start(&run.world, &[])?;
    let (pd, began) = (run.members[0].pd(), run.world.now());
    for number in [1, 2] {
        run.members[number].start(&run.world, &[pd])?;
    }
    run.replicated()?;
    Ok(run.world.now() - began)
}

/// A replica is added in several steps, and a step is seen to be done in a report only. None of them waits for the next second.
#[test]
fn replicas_are_there_soon_after_their_nodes() {
    for seed in 0..5 {
        let took = time_to_replicas(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(took < Duration::from_millis(2500), "seed {seed}: {took:?}");
    }
}

/// The node that began the cluster leads and is drained under load. The longest time without an answer to any client.
fn longest_silence_in_a_drain(seed: u64) -> Result<Duration, String> {
    let mut run = Run::new(World::new(seed, Options::default()));
    run.begin()?;
    run.pass(Duration::from_secs(3))?;
    run.members[0].begin_drain();
    let mut silence = (Duration::ZERO, run.shared.history.borrow().answered, run.world.now());
    for _ in 0..400 {
        run.pass(Duration::from_millis(10))?;
        let (answered, now) = (run.shared.history.borrow().answered, run.world.now());
        let (longest, before, since) = silence;
        silence = match answered > before {
            true => (longest, answered, now),
            false => (longest.max(now - since), before, since),
        };
    }
    run.shared.history.borrow().judge()?;
    Ok(silence.0)
}

/// Followers wait at least a second before they elect another leader.
#[test]
fn a_node_that_drains_hands_over_and_no_client_waits_for_an_election() {
    for seed in 0..3 {
        let silence = longest_silence_in_a_drain(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(silence < Duration::from_millis(700), "seed {seed}: no answer for {silence:?}");
    }
    plant::plant(Some(Bug::NothingHandedOver));
    let silence = longest_silence_in_a_drain(0).expect("it is slow only");
    plant::plant(None);
    assert!(silence > Duration::from_millis(900), "the planted bug went unnoticed: {silence:?}");
}

#[test]
fn bugs_on_the_way_to_the_scheduler_are_caught() {
    let mut unnoticed = Vec::new();
    for bug in [Bug::AnswersLost, Bug::AddressesLost] {
        plant::plant(Some(bug));
        let run = AssertUnwindSafe(|| Run::new(World::new(3, Options::default())).begin());
        let caught = catch_unwind(run).map_or(true, |verdict| verdict.is_err());
        plant::plant(None);
        if !caught {
            unnoticed.push(bug);
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?} went unnoticed");
}
