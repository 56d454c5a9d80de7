//! Members of a region that go, and leadership that moves, at the scheduler's word: the steps that a leader's store carries out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use engine::rt::sim::{Options, World};
use scheduler::operator::OperatorId;
use scheduler::{Action, Change, Epoch, Instruction, Region};
use store::plant::{self, Bug};
use store::refusal::Refusal;
use store::shard::Shard;

use super::Run;
use super::clients;
use super::nodes::{NODES, regions};
use bench::sim::judge::{Action as Asked, Heard};

/// The region that the tests change.
fn region() -> Region {
    regions().swap_remove(0)
}

/// A step for the leader of the region, as a scheduler that knows it at `epoch` would send it.
fn step(leader: usize, epoch: Epoch, action: Action) -> Instruction {
    let region = region();
    Instruction { region: region.id, epoch, leader: region.peers[leader], operator: OperatorId(1), action }
}

/// The region as a store has it.
fn known(shard: &Shard) -> Region {
    let mut all = shard.regions().into_iter().map(|(known, ..)| known);
    all.find(|known| known.id == region().id).expect("the store has a replica")
}

fn put(run: &Run, node: usize, text: &str) -> Option<Option<Heard>> {
    let (addrs, asking) = (run.nodes.addrs(), run.world.node(NODES));
    let set = Asked::Set(text.to_owned());
    run.world.block_on(asking.start(0, move |rt| clients::ask_node(rt, addrs, node, "a", set, false)))
}

/// A running cluster and who leads the region.
fn begun(seed: u64) -> (Run, usize, Shard) {
    let mut run = Run::over(World::new(seed, Options::default()), Duration::ZERO);
    (0..NODES).for_each(|number| run.nodes.start(number));
    run.pass(Duration::from_secs(4)).unwrap();
    let (leader, shard) = run.nodes.leader(region().id).expect("a leader");
    assert_eq!(put(&run, leader, "here"), Some(Some(Heard::Done)));
    run.pass(Duration::from_secs(2)).unwrap();
    (run, leader, shard)
}

/// A removed replica leaves with its data, whether it hears of its removal at once or comes back later, and stays away.
#[test]
fn a_removed_member_is_gone_with_its_data() {
    for away in [false, true] {
        let (mut run, leader, shard) = begun(31);
        let gone = (leader + 1) % NODES;
        if away {
            run.nodes.end(gone, true);
        }
        let remove = Change::Remove { peer: region().peers[gone].id };
        shard.carry_out(&step(leader, Epoch::FIRST, Action::Change(remove.clone()))).unwrap();
        run.pass(Duration::from_secs(2)).unwrap();
        let after = known(&shard);
        assert_eq!((after.epoch, after.peers.len()), (Epoch::new(2, 1), 2), "away: {away}");
        let again = shard.carry_out(&step(leader, Epoch::FIRST, Action::Change(remove)));
        assert!(matches!(again, Err(Refusal::EpochNotMatch { .. })), "{again:?}");
        for life in 0..3 {
            if away || life > 0 {
                if run.nodes.is_up(gone) {
                    run.nodes.end(gone, true);
                }
                run.nodes.start(gone);
            }
            run.pass(Duration::from_secs(6)).unwrap();
            let there = run.nodes.shard(gone).unwrap();
            assert!(there.status(region().id).is_none(), "away: {away}, life {life}");
            assert_eq!(run.held(gone, there, region().range).unwrap(), [], "away: {away}, life {life}");
        }
        let (leader, _) = run.nodes.leader(region().id).expect("a leader");
        assert_eq!(put(&run, leader, "still"), Some(Some(Heard::Done)), "two members go on");
    }
}

#[test]
fn leadership_moves_where_the_scheduler_wants_it() {
    let (mut run, leader, shard) = begun(32);
    let to = (leader + 1) % NODES;
    shard.carry_out(&step(leader, Epoch::FIRST, Action::TransferLeader(region().peers[to]))).unwrap();
    run.pass(Duration::from_secs(2)).unwrap();
    assert_eq!(run.nodes.leader(region().id).map(|(number, _)| number), Some(to));
    let late = shard.carry_out(&step(leader, Epoch::FIRST, Action::TransferLeader(region().peers[leader])));
    assert!(matches!(late, Err(Refusal::NotLeader { .. })), "{late:?}");
}

/// A leader that is to be removed hands over first; asked again, the next one removes it.
#[test]
fn a_leader_that_is_to_go_hands_over_first() {
    let (mut run, leader, shard) = begun(33);
    let remove = || Action::Change(Change::Remove { peer: region().peers[leader].id });
    let busy = shard.carry_out(&step(leader, Epoch::FIRST, remove()));
    assert!(matches!(busy, Err(Refusal::Busy { .. })), "{busy:?}");
    run.pass(Duration::from_secs(3)).unwrap();
    let (next, heir) = run.nodes.leader(region().id).expect("a leader");
    assert_ne!(next, leader);
    heir.carry_out(&step(next, Epoch::FIRST, remove())).unwrap();
    run.pass(Duration::from_secs(6)).unwrap();
    assert!(shard.status(region().id).is_none(), "it is still there");
    assert_eq!(known(&heir).peers.len(), 2);
}

/// One of three members is silent. Without the one that is not, the leader would be alone among two.
fn remove_the_last_that_is_heard() -> Result<(), String> {
    let (mut run, leader, shard) = begun(34);
    let (silent, heard) = ((leader + 1) % NODES, (leader + 2) % NODES);
    run.nodes.end(silent, true);
    run.pass(Duration::from_secs(8))?;
    let behind = shard.behind(region().id);
    if behind.down.iter().map(|down| down.peer).collect::<Vec<_>>() != [region().peers[silent].id] {
        return Err(format!("who is silent is not seen: {behind:?}"));
    }
    let remove = |number: usize| {
        let change = Change::Remove { peer: region().peers[number].id };
        step(leader, Epoch::FIRST, Action::Change(change))
    };
    let refused = shard.carry_out(&remove(heard));
    run.pass(Duration::from_secs(3))?;
    if put(&run, leader, "more") != Some(Some(Heard::Done)) {
        return Err(format!("the region takes no writes any more; the step came to {refused:?}"));
    }
    shard.carry_out(&remove(silent)).map_err(|refusal| format!("the silent one stays: {refusal:?}"))?;
    run.pass(Duration::from_secs(2))?;
    match known(&shard).peers.len() {
        2 => Ok(()),
        count => Err(format!("the region has {count} members")),
    }
}

#[test]
fn no_change_takes_a_region_below_its_quorum() {
    remove_the_last_that_is_heard().unwrap();
    plant::plant(Some(Bug::QuorumNotAsked));
    let caught = catch_unwind(AssertUnwindSafe(remove_the_last_that_is_heard));
    plant::plant(None);
    assert!(caught.map_or(true, |verdict| verdict.is_err()), "the planted bug went unnoticed");
}
