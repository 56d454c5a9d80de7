//! A cluster in the simulator ([`bench::sim`]): its first seeds, what planted bugs do there, and scenarios of their own.
//!
//! `RINGKEEP_SEEDS=500 cargo test -p ringkeep-store --test it cluster` runs more than the usual seeds, `RINGKEEP_SEED=n` runs one; so does
//! `ringkeep bench sim` in a release build with the feature `sim`, on all CPUs.

mod blank;
mod computed;
mod expiry;
mod members;
mod merges;
mod moves;
mod numbers;
mod quiet;
mod replica_reads;
mod returning;
mod snapshots;
mod system;
mod tails;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bench::sim::callers::anywhere;
use bench::sim::judge::{Action, Heard};
use bench::sim::nodes::{NODES, regions};
use bench::sim::run::{Pairs, Run};
use bench::sim::{Options as SimOptions, Tally, clients, nodes, run_seeds};
use engine::rt::sim::{Options, World};
use scheduler::Epoch;
use store::plant::{self, Bug};
use store::region::message::{Body, PeerMessage};

use crate::whole_node::seeds;

fn live(seed: u64) -> Result<Tally, String> {
    Run::new(seed).live()
}

#[test]
fn a_cluster_keeps_what_it_acknowledged() {
    let seeds = seeds(50);
    let count = seeds.end - seeds.start;
    let stop = std::sync::Arc::default();
    let options = SimOptions { seeds, threads: 1, keep_going: false, progress: false, stop, plant: None };
    let report = run_seeds(&options, &mut |_| {});
    assert!(report.passed() && report.seeds == count, "{}", report.table());
    let all = report.tally;
    assert!(all.answered > 100 * count, "too little was asked for the test to test: {all:?}");
    assert!(
        all.refused_anywhere * 50 < all.answered_anywhere,
        "too many calls over RESP were refused: {all:?}"
    );
    if count >= 20 {
        let enough = all.ends > count && all.cuts > 10 && all.transfers > 10 && all.terms > 3 * count;
        assert!(enough && all.lost > 0, "{all:?}");
        let faults = [
            all.snapshots,
            all.splits,
            all.changes,
            all.relocations,
            all.bad_disks,
            all.new_disks,
            all.compared,
        ];
        assert!(faults.iter().all(|count| *count > 5), "something befalls the nodes too rarely: {all:?}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed: u64| {
        let mut run = Run::new(seed);
        let tally = run.live().expect("nothing is wrong with it");
        (tally, run.world.hash(), run.world.events(), run.story.text())
    };
    let first = run(3);
    assert!(first.3.contains("the faults are over"), "{}", first.3);
    assert_eq!(first, run(3));
    assert_ne!(first.1, run(4).1);
}

/// A leader whose clock has nearly stopped is cut off from the others, and does not hear that another one leads. Whatever it is asked
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
fn a_replica_that_heard_of_its_removal_stays_away() {
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
    let message = PeerMessage {
        region: gone.id,
        from: gone.peers[leader],
        to: gone.peers[number],
        epoch: Epoch::new(gone.epoch.conf_ver + 1, gone.epoch.version),
        range: None,
        body: Body::Removed,
    };
    let telling = run.nodes.node(number).start(1, move |_| async move { shard.receive(vec![message]).await });
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
                Bug::ReplicaUnasked => replica_reads::ask_one_that_lags(*seed),
                Bug::ComparedUnasked => ask_a_deposed_leader(true),
                Bug::ComputedEarly => computed::COMMANDS
                    .iter()
                    .try_for_each(|command| computed::ask_a_leader_that_lags(*seed, command)),
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
