//! The scheduler's state on three nodes: it grows from one member by the steps that regions know, travels as a snapshot, and goes on when
//! the node that began it is gone.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use engine::rt::sim::{Options, World};
use scheduler::operator::OperatorId;
use scheduler::{
    Action, Change, Config, Epoch, Instruction, Peer, PeerId, Role, StateAnswer, StateCommand, StateImage,
    StoreId,
};
use store::plant::{self, Bug};
use store::region::system::{Decided, GROUP, SystemCommand};
use store::shard::Shard;

use super::nodes::{NODES, Nodes};

/// Within this time an election is over, or a follower has caught up.
const SETTLED_MAX: Duration = Duration::from_secs(60);
/// Ids that one command takes.
const IDS: u64 = 10;

fn beginning() -> StateImage {
    StateImage {
        cluster: Some(7),
        next_id: 1000,
        stores: BTreeMap::new(),
        evicting: std::collections::BTreeSet::new(),
        config: Config::default(),
        timestamp_end_ms: 0,
        gc_safe_point: 0,
        services: scheduler::Services::default(),
        config_changes: scheduler::ConfigChanges::default(),
    }
}

/// The peer of the group on a node.
fn peer(number: usize) -> PeerId {
    // The first one bears the number of its store.
    PeerId(if number == 0 { 1 } else { 900 + number as u64 })
}

fn epoch_of(shard: &Shard) -> Epoch {
    shard.system_standing().expect("it has a replica").region.epoch
}

struct Run {
    world: World,
    nodes: Nodes,
    /// The first id that was not given out.
    next_id: u64,
    window_ms: u64,
}

impl Run {
    /// Three nodes; the state begins on the first.
    fn begin(seed: u64) -> Result<Self, String> {
        let world = World::new(seed, Options::default());
        let mut nodes = Nodes::new(&world, Duration::from_millis(800));
        nodes.setup.system_on_first = true;
        (0..NODES).for_each(|number| nodes.start(number));
        world.run_for(Duration::from_secs(4));
        let run = Self { world, nodes, next_id: 1000, window_ms: 0 };
        run.command(SystemCommand::Begin(Box::new(beginning())))?;
        Ok(run)
    }

    /// Waits for what `look` finds.
    fn wait<T>(&self, what: &str, look: impl Fn(&Nodes) -> Option<T>) -> Result<T, String> {
        let until = self.world.now() + SETTLED_MAX;
        loop {
            match look(&self.nodes) {
                Some(found) => return Ok(found),
                None if self.world.now() > until => return Err(format!("{what} does not come")),
                None => self.world.run_for(Duration::from_millis(20)),
            }
        }
    }

    fn leader(&self) -> Result<(usize, Shard), String> {
        self.wait("a leader", |nodes| nodes.leader(GROUP))
    }

    /// Has the leader carry a command out, asking again while none takes it.
    fn command(&self, command: SystemCommand) -> Result<Decided, String> {
        let until = self.world.now() + SETTLED_MAX;
        loop {
            let (number, shard) = self.leader()?;
            let asked = command.clone();
            let asking = self
                .nodes
                .node(number)
                .start(1, move |_| async move { shard.system_command(asked, None).await });
            match self.world.block_on(asking) {
                Some(Ok(decided)) => return Ok(decided),
                Some(Err(_)) | None if self.world.now() < until => {
                    self.world.run_for(Duration::from_millis(50));
                }
                refused => return Err(format!("{command:?} is not carried out: {refused:?}")),
            }
        }
    }

    /// Takes ids and a higher window, and sees that neither was given out before.
    fn take(&mut self) -> Result<(), String> {
        let ids = self.command(SystemCommand::Change(StateCommand::AllocateIds { count: IDS }))?;
        match ids.answer {
            // What a lost answer has taken is never given out.
            Ok(StateAnswer::Ids(block)) if block.start >= self.next_id => self.next_id = block.end,
            other => return Err(format!("ids from {} on were expected: {other:?}", self.next_id)),
        }
        let end_ms = self.window_ms + 1000;
        let window = self.command(SystemCommand::Change(StateCommand::SaveTimestampWindow { end_ms }))?;
        let before = self.window_ms;
        self.window_ms = window.state.map_or(0, |state| state.timestamp_end_ms);
        if self.window_ms <= before { Err(format!("the window fell to {}", self.window_ms)) } else { Ok(()) }
    }

    /// Has the leader carry a step out, and waits until it is applied there.
    fn change(&self, change: Change) -> Result<(), String> {
        let (number, shard) = self.leader()?;
        let leader = Peer::voter(peer(number), StoreId(number as u64 + 1));
        let epoch = epoch_of(&shard);
        let action = Action::Change(change);
        let step = Instruction { region: GROUP, epoch, leader, operator: OperatorId(1), action };
        shard.carry_out(&step).map_err(|refusal| format!("{step:?}: {refusal:?}"))?;
        self.wait("the change", |_| (epoch_of(&shard) != epoch).then_some(()))
    }

    /// Two more members: learners first, then both vote at once, by a joint change.
    fn grow(&self) -> Result<(), String> {
        for number in [1, 2] {
            self.change(Change::AddLearner { peer: peer(number), store: StoreId(number as u64 + 1) })?;
            self.agree(number + 1)?;
        }
        self.change(Change::EnterJoint { promote: vec![peer(1), peer(2)], demote: Vec::new() })?;
        self.change(Change::LeaveJoint)?;
        self.wait("the end of the joint change", |nodes| {
            let all_vote = |shard: Shard| {
                let region = shard.system_standing()?.region;
                (region.peers.len() == NODES && region.peers.iter().all(|peer| peer.role == Role::Voter))
                    .then_some(())
            };
            nodes.serving().all(|(_, shard)| all_vote(shard).is_some()).then_some(())
        })?;
        self.agree(NODES)
    }

    /// Waits until the state is the same on `count` nodes.
    fn agree(&self, count: usize) -> Result<(), String> {
        self.wait("agreement", |nodes| {
            let states: Vec<_> = nodes.serving().filter_map(|(_, shard)| shard.applied_state()).collect();
            (states.len() == count && states.iter().all(|state| *state == states[0])).then_some(())
        })
        .map_err(|why| {
            let states = self.nodes.serving().map(|(number, shard)| (number, shard.applied_state()));
            format!("{why}: {:?}", states.collect::<Vec<_>>())
        })
    }
}

/// Grows, loses the first node, and takes it back after its log was cut.
fn outlives_its_first_node(seed: u64) -> Result<(), String> {
    let mut run = Run::begin(seed)?;
    (0..30).try_for_each(|_| run.take())?;
    run.grow()?;
    for power in [true, false] {
        let (number, _) = run.leader()?;
        run.nodes.end(number, power);
        // More than is kept for whoever is away, so that it needs a snapshot.
        for _ in 0..120 {
            run.take()?;
        }
        run.agree(NODES - 1)?;
        run.nodes.start(number);
        run.agree(NODES)?;
    }
    // All at once, and each from its own disk.
    (0..NODES).for_each(|number| run.nodes.end(number, true));
    (0..NODES).for_each(|number| run.nodes.start(number));
    run.take()?;
    run.agree(NODES)
}

#[test]
fn the_state_outlives_the_node_that_began_it() {
    for seed in [51, 52] {
        outlives_its_first_node(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
    plant::plant(Some(Bug::RowsNotLoaded));
    let caught = catch_unwind(AssertUnwindSafe(|| outlives_its_first_node(51)));
    plant::plant(None);
    assert!(caught.map_or(true, |verdict| verdict.is_err()), "the planted bug went unnoticed");
}

#[test]
fn no_id_is_given_out_twice_over_a_hundred_changes_of_the_leader() {
    let mut run = Run::begin(53).expect("the state begins");
    run.grow().expect("it grows");
    let mut terms = std::collections::BTreeSet::new();
    for change in 0..100 {
        let (number, shard) = run.leader().expect("a leader");
        terms.insert(shard.status(GROUP).expect("it leads").term);
        run.take().unwrap_or_else(|why| panic!("change {change}: {why}"));
        match change % 10 {
            // The old leader has no time to hand over.
            0 => {
                run.nodes.end(number, change % 20 == 0);
                run.take().unwrap_or_else(|why| panic!("change {change}, without node {number}: {why}"));
                run.nodes.start(number);
                run.agree(NODES).unwrap_or_else(|why| panic!("change {change}: {why}"));
            }
            _ => {
                let to = peer((number + 1) % NODES);
                // Another may lead by now.
                if shard.transfer(GROUP, to, epoch_of(&shard)).is_ok() {
                    run.world.run_for(Duration::from_millis(300));
                }
            }
        }
    }
    assert!(terms.len() > 90, "only {} leaders", terms.len());
    run.agree(NODES).expect("they agree at the end");
}
