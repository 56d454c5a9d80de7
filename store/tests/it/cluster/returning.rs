//! A member of a region is removed, and a peer with another id comes to the same store, again and again, while nodes crash: it gets the
//! region's state, and nothing of what was there before it.

use std::time::Duration;

use bench::sim::judge::{Action as Asked, Heard};
use engine::rt::sim::{Options, World};
use scheduler::{Action, Change, Instruction, PeerId, Region, StoreId, operator::OperatorId};
use store::refusal::Refusal;

use super::nodes::{NODES, regions};
use super::{Run, clients};

/// A step takes no longer than this, whatever happens to the node that it is about.
const STEP_MAX: Duration = Duration::from_secs(60);

/// A cluster and the node that a peer leaves and comes to.
struct Moves {
    run: Run,
    node: usize,
}

impl Moves {
    fn new(seed: u64) -> Result<Self, String> {
        let mut run = Run::over(World::new(seed, Options::default()), Duration::ZERO);
        (0..NODES).for_each(|number| run.nodes.start(number));
        run.pass(Duration::from_secs(4))?;
        let (leader, _) = run.nodes.leader(regions()[0].id).ok_or("no leader")?;
        let mut this = Self { run, node: (leader + 1) % NODES };
        this.put("first")?;
        Ok(this)
    }

    /// The region as its leader knows it.
    fn region(&self) -> Option<(Region, usize)> {
        let id = regions()[0].id;
        let (leader, shard) = self.run.nodes.leader(id)?;
        shard.regions().into_iter().find(|(region, ..)| region.id == id).map(|(region, ..)| (region, leader))
    }

    fn put(&mut self, text: &str) -> Result<(), String> {
        let until = self.run.world.now() + STEP_MAX;
        while self.run.world.now() < until {
            if let Some((_, leader)) = self.region() {
                let (addrs, asking) = (self.run.nodes.addrs(), self.run.world.node(NODES));
                let set = Asked::Set(text.to_owned());
                let ask = asking.start(0, move |rt| clients::ask_node(rt, addrs, leader, "a", set, false));
                if self.run.world.block_on(ask) == Some(Some(Heard::Done)) {
                    return Ok(());
                }
            }
            self.run.pass(Duration::from_millis(100))?;
        }
        Err(format!("{text} is never written"))
    }

    /// Asks the leader for a change until the region has it.
    fn change(&mut self, change: &Change, is_done: impl Fn(&Region) -> bool) -> Result<(), String> {
        let until = self.run.world.now() + STEP_MAX;
        let mut refused_with = None;
        while self.run.world.now() < until {
            if let Some((region, leader)) = self.region() {
                if is_done(&region) {
                    return Ok(());
                }
                let (_, shard) = self.run.nodes.leader(region.id).expect("it has one");
                let me = *region.peer_on(StoreId(leader as u64 + 1)).expect("the leader is a member");
                let step = Instruction {
                    region: region.id,
                    epoch: region.epoch,
                    leader: me,
                    operator: OperatorId(1),
                    action: Action::Change(change.clone()),
                };
                match shard.carry_out(&step) {
                    Ok(()) | Err(Refusal::Busy { .. } | Refusal::NotLeader { .. }) => {}
                    refused => refused_with = Some(refused),
                }
            }
            self.run.pass(Duration::from_millis(100))?;
        }
        Err(format!("{change:?} never comes: {refused_with:?}, {:?}", self.region()))
    }

    fn remove(&mut self) -> Result<(), String> {
        let store = StoreId(self.node as u64 + 1);
        let (region, _) = self.region().ok_or("no leader")?;
        let peer = region.peer_on(store).ok_or("it is no member")?.id;
        self.change(&Change::Remove { peer }, |region| region.peer_on(store).is_none())
    }

    fn add(&mut self, peer: u64) -> Result<(), String> {
        let (peer, store) = (PeerId(peer), StoreId(self.node as u64 + 1));
        self.change(&Change::AddLearner { peer, store }, |region| region.peer(peer).is_some())
    }

    /// Waits until the peer is there, with all that its region holds.
    fn arrive(&mut self, peer: u64) -> Result<(), String> {
        let until = self.run.world.now() + STEP_MAX;
        let id = regions()[0].id;
        let mut seen = String::new();
        while self.run.world.now() < until {
            self.run.pass(Duration::from_millis(100))?;
            let (Some((_, leader)), Some(there)) = (self.region(), self.run.nodes.shard(self.node)) else {
                continue;
            };
            let here = there.regions().into_iter().find(|(region, ..)| region.id == id);
            let range = regions().swap_remove(0).range;
            let all = self.run.nodes.shard(leader).ok_or("the leader is down")?;
            let expected = self.run.held(leader, all, range.clone())?;
            let held = self.run.held(self.node, there.clone(), range)?;
            let is_there = here.as_ref().is_some_and(|(region, ..)| region.peer(PeerId(peer)).is_some());
            if is_there && held == expected && !there.is_receiving(id) {
                return Ok(());
            }
            seen = format!("{here:?} with {} of {} keys", held.len(), expected.len());
        }
        Err(format!("peer {peer} never arrives: {seen}"))
    }

    fn crash(&mut self) {
        self.run.nodes.end(self.node, true);
        self.run.nodes.start(self.node);
    }
}

/// Peers come and go on one store, which loses power wherever `crashes` says.
fn come_and_go(seed: u64, crashes: bool) -> Result<(), String> {
    let mut moves = Moves::new(seed)?;
    for round in 0..3 {
        moves.remove()?;
        if crashes {
            moves.run.pass(Duration::from_millis(30 * round))?;
            moves.crash();
        }
        moves.put(&format!("while it is away, {round}"))?;
        moves.add(1000 + round)?;
        if crashes {
            moves.run.pass(Duration::from_millis(200 + 70 * round))?;
            moves.crash();
        }
        moves.arrive(1000 + round)?;
        moves.put(&format!("while it is there, {round}"))?;
        moves.arrive(1000 + round)?;
        if crashes {
            moves.crash();
            moves.arrive(1000 + round)?;
        }
    }
    Ok(())
}

#[test]
fn a_peer_returns_to_a_store_that_its_region_has_left() {
    for crashes in [false, true] {
        for seed in 0..3 {
            assert_eq!(come_and_go(seed, crashes), Ok(()), "seed {seed}, crashes: {crashes}");
        }
    }
}

/// Cuts the power of the store at a change of its disk while one peer leaves it and another comes.
fn cut_the_power(seed: u64, cut: u64) -> Result<bool, String> {
    let mut moves = Moves::new(seed)?;
    let disk = moves.run.nodes.node(moves.node).disk();
    disk.stop_at(disk.changes() + cut);
    moves.remove()?;
    moves.put("while it is away")?;
    moves.add(1000)?;
    moves.run.pass(Duration::from_secs(4))?;
    let was_cut = moves.run.nodes.node(moves.node).disk().has_stopped();
    moves.crash();
    moves.arrive(1000)?;
    moves.put("while it is there")?;
    moves.arrive(1000)?;
    Ok(was_cut)
}

#[test]
fn a_peer_returns_wherever_the_power_goes() {
    for cut in (0..).step_by(3) {
        match cut_the_power(3000 + cut, cut) {
            Ok(true) => {}
            Ok(false) => return assert!(cut > 20, "only {cut} changes"),
            Err(why) => panic!("cut {cut}: {why}"),
        }
    }
}
