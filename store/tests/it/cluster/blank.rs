//! A newcomer to a region that is removed before it had any data hears of it, also if it was away meanwhile and its store was started again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bench::sim::judge::{Action as Asked, Heard};
use engine::rt::sim::{Options, World};
use scheduler::operator::OperatorId;
use scheduler::{Action, Change, Instruction, Region, StoreId};
use store::plant::{self, Bug};
use store::shard::Shard;

use super::Run;
use super::clients;
use super::nodes::{NODES, regions};

/// The node that is not given the first region, although the region names it.
const NEWCOMER: usize = 2;

fn region() -> Region {
    regions().swap_remove(0)
}

/// The region as a store has it.
fn known(shard: &Shard) -> Region {
    let mut all = shard.regions().into_iter().map(|(known, ..)| known);
    all.find(|known| known.id == region().id).expect("the store has a replica")
}

/// Has the leader carry out a step.
fn change(run: &mut Run, action: Action) -> Result<(), String> {
    let (number, shard) = run.nodes.leader(region().id).ok_or("no leader")?;
    let known = known(&shard);
    let leader = *known.peer_on(StoreId(number as u64 + 1)).ok_or("its leader is no member")?;
    let step = Instruction { region: known.id, epoch: known.epoch, leader, operator: OperatorId(1), action };
    shard.carry_out(&step).map_err(|refusal| format!("{step:?}: {refusal:?}"))?;
    run.pass(Duration::from_secs(2))
}

/// A newcomer waits for its first snapshot, which takes long, and its node ends. It is removed meanwhile. Where its inviter `leaves`, that
/// one is removed, too, after it has handed over.
fn removed_while_away(seed: u64, leaves: bool) -> Result<(), String> {
    let mut run = Run::over(World::new(seed, Options::default()), Duration::ZERO);
    run.nodes.setup.without_first = Some(NEWCOMER);
    run.nodes.setup.snapshot_bytes_per_second = 16;
    (0..NODES).filter(|number| *number != NEWCOMER).for_each(|number| run.nodes.start(number));
    run.pass(Duration::from_secs(4))?;
    let (leader, _) = run.nodes.leader(region().id).ok_or("no leader")?;
    let (addrs, asking) = (run.nodes.addrs(), run.world.node(NODES));
    // What does not pack takes a minute to arrive.
    let set = Asked::Set((0..500).map(|_| char::from(33 + run.world.below(90) as u8)).collect());
    let put = asking.start(0, move |rt| clients::ask_node(rt, addrs, leader, "a", set, false));
    if run.world.block_on(put) != Some(Some(Heard::Done)) {
        return Err("nothing could be written".to_owned());
    }
    run.nodes.start(NEWCOMER);
    run.pass(Duration::from_secs(3))?;
    let is_blank = |shard: Shard| {
        shard.status(region().id).is_some() && shard.whole().iter().all(|(known, _)| known.id != region().id)
    };
    let waits = run.nodes.shard(NEWCOMER).is_some_and(is_blank);
    assert!(waits, "seed {seed}: the newcomer does not wait for a snapshot, so this tests nothing");
    run.nodes.end(NEWCOMER, true);
    run.pass(Duration::from_secs(1))?;
    change(&mut run, Action::Change(Change::Remove { peer: region().peers[NEWCOMER].id }))?;
    if leaves {
        let (inviter, heir) = (region().peers[leader], region().peers[1 - leader]);
        change(&mut run, Action::TransferLeader(heir))?;
        change(&mut run, Action::Change(Change::Remove { peer: inviter.id }))?;
    }
    for life in 0..2 {
        run.nodes.start(NEWCOMER);
        // It has not been without a word for long yet.
        run.pass(Duration::from_secs(3))?;
        if life == 0 && !run.nodes.shard(NEWCOMER).is_some_and(is_blank) {
            return Err("it is not there after a start, so this tests nothing".to_owned());
        }
        run.pass(Duration::from_secs(20))?;
        let there = run.nodes.shard(NEWCOMER).ok_or("the node does not serve")?;
        if there.status(region().id).is_some() {
            return Err(format!("life {life}, inviter leaves: {leaves}: the empty replica stays for ever"));
        }
        run.nodes.end(NEWCOMER, true);
    }
    Ok(())
}

#[test]
fn a_newcomer_that_is_removed_before_it_had_data_goes() {
    for leaves in [false, true] {
        removed_while_away(41, leaves).unwrap();
    }
    for bug in Bug::BLANK {
        plant::plant(Some(bug));
        let caught = catch_unwind(AssertUnwindSafe(|| removed_while_away(41, false)));
        plant::plant(None);
        assert!(caught.map_or(true, |verdict| verdict.is_err()), "{bug:?} went unnoticed");
    }
}
