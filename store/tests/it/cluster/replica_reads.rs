//! Reads that a client sends to a replica which does not lead, saying so: they see every write that was acknowledged before, or are not
//! answered. The random runs of [`super`] judge them together with everything else.

use std::time::Duration;

use engine::rt::sim::{Options, World};

use super::Run;
use super::clients::{ask_node, read_replica};
use super::nodes::{NODES, regions};
use bench::sim::judge::{Action, Heard};

/// Longer than a follower waits for its leader's word.
const WAIT_MAX: Duration = Duration::from_secs(8);

/// A cluster at rest, and the node that leads the first region.
fn begin(seed: u64) -> Result<(Run, usize), String> {
    let mut run = Run::over(World::new(seed, Options::default()), Duration::ZERO);
    (0..NODES).for_each(|number| run.nodes.start(number));
    run.pass(Duration::from_secs(4))?;
    let (leader, _) = run.nodes.leader(regions()[0].id).ok_or("no leader")?;
    Ok((run, leader))
}

fn set(run: &Run, node: usize, value: &str) -> Result<(), String> {
    let (addrs, action) = (run.nodes.addrs(), Action::Set(value.to_owned()));
    let asking = run.world.node(NODES);
    let wrote = asking.start(0, move |rt| ask_node(rt, addrs, node, "a", action, false));
    match run.world.block_on(wrote) {
        Some(Some(Heard::Done)) => Ok(()),
        answer => Err(format!("a write was answered with {answer:?}")),
    }
}

fn get(run: &Run, node: usize) -> Option<Option<String>> {
    let (addrs, asking) = (run.nodes.addrs(), run.world.node(NODES));
    let reading = asking.start(0, move |rt| read_replica(rt, addrs, node, "a", WAIT_MAX));
    match run.world.block_on(reading) {
        Some(Some(Heard::Value(value))) => Some(value),
        Some(Some(Heard::Done | Heard::Existed(_) | Heard::Integer(_))) => panic!("a read has a value"),
        Some(None) | None => None,
    }
}

fn reads_of_replicas(run: &Run) -> u64 {
    run.nodes.serving().map(|(_, shard)| shard.snapshot().replica_reads).sum()
}

#[test]
fn every_replica_answers_what_was_acknowledged() {
    let (run, leader) = begin(1).unwrap();
    for round in 0..20 {
        let value = format!("{round}");
        set(&run, leader, &value).unwrap();
        for node in 0..NODES {
            assert_eq!(get(&run, node), Some(Some(value.clone())), "node {node}, which follows {leader}");
        }
    }
    assert_eq!(reads_of_replicas(&run), 20 * (NODES as u64 - 1), "those of the leader are none");
}

/// A follower whose disk is slow has the newest write last. It answers once it has it.
pub(super) fn ask_one_that_lags(seed: u64) -> Result<(), String> {
    let (run, leader) = begin(seed)?;
    set(&run, leader, "old")?;
    run.world.run_for(Duration::from_secs(1));
    let slow = (leader + 1) % NODES;
    run.nodes.node(slow).disk().slow(400);
    set(&run, leader, "new")?;
    match get(&run, slow) {
        Some(Some(value)) if value == "new" => Ok(()),
        answer => Err(format!("a replica that lags answered {answer:?}")),
    }
}

/// A follower that is cut off from the others cannot know what they have acknowledged.
pub(super) fn ask_one_that_is_cut_off(seed: u64) -> Result<(), String> {
    let (mut run, leader) = begin(seed)?;
    set(&run, leader, "old")?;
    run.pass(Duration::from_secs(1))?;
    let alone = (leader + 1) % NODES;
    for other in (0..NODES).filter(|other| *other != alone) {
        run.world.cut(run.nodes.node(alone), run.nodes.node(other));
    }
    set(&run, leader, "new")?;
    for _ in 0..3 {
        if let Some(answer) = get(&run, alone) {
            return Err(format!("a replica that is cut off answered {answer:?}"));
        }
    }
    run.world.heal_network();
    run.pass(Duration::from_secs(30))?;
    match get(&run, alone) {
        Some(Some(value)) if value == "new" => Ok(()),
        answer => Err(format!("a replica that is back answered {answer:?}")),
    }
}

#[test]
fn a_replica_that_lags_waits_for_what_was_acknowledged() {
    for seed in 0..10 {
        assert_eq!(ask_one_that_lags(seed), Ok(()), "seed {seed}");
    }
}

#[test]
fn a_replica_that_is_cut_off_does_not_answer() {
    for seed in 0..3 {
        assert_eq!(ask_one_that_is_cut_off(seed), Ok(()), "seed {seed}");
    }
}
