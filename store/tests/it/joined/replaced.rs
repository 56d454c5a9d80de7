//! A node is lost with its disk, and an empty one starts in its place, at the same address: it takes the place of the old one, once that one is
//! silent, and everything is whole again.

use std::collections::BTreeSet;
use std::time::Duration;

use engine::rt::sim::{Options, World};
use store::wire::proto::ringkeep::{StoresRequest, StoresResponse};

use super::asking::{Run, voters};
use super::nodes::{Member, call, stores};

/// Silence after which a store counts as disconnected, and a little more.
const SILENT: Duration = Duration::from_secs(22);
/// Within this time everything is as it should be again.
const WHOLE_MAX: Duration = Duration::from_secs(120);

/// Loses the member with its disk, and starts an empty one in its place before it is silent and after.
fn replace(run: &mut Run, lost: usize, asked: usize) -> Result<(), String> {
    let pd = run.members[asked].pd();
    run.members[lost].end(true);
    run.members[lost].node.disk().wipe();
    let early = run.members[lost].start(&run.world, &[pd]);
    let early = early.expect_err("the old one was heard a moment ago");
    assert!(early.contains("was heard") && early.contains("silent for 20 s"), "{early}");
    assert!(!run.members[lost].has_identity(), "nothing was begun");
    run.pass(SILENT)?;
    run.members[lost].start(&run.world, &[pd]).map(drop)
}

/// How the scheduler sees a store.
fn health(run: &Run, asked: usize, store: u64) -> String {
    let pd = run.members[asked].pd();
    let all: StoresResponse =
        run.call(pd, "/ringkeep.Scheduler/Stores", StoresRequest::default()).expect("it says");
    all.stores.into_iter().find(|it| it.store == store).expect("it is known").health
}

#[test]
fn an_empty_node_takes_the_place_of_one_that_is_gone() {
    let mut run = Run::begin(171, 3).expect("three nodes");
    let pd = run.members[0].pd();
    run.wait_regions(pd, |region| voters(region).len() == 3).expect("they spread");
    run.ask();
    let host = run.agreed_host().expect("one hosts it");
    let lost = (host + 1) % 3;
    let pd = run.members[host].pd();
    let before = stores(&run.world, pd);
    let place = run.members[lost].node.addr(2001).to_string();
    let old = before.iter().find(|(.., address)| *address == place).expect("it has joined").0;
    replace(&mut run, lost, host).expect("it takes the place of the old one");
    let there: BTreeSet<u64> = stores(&run.world, pd)
        .into_iter()
        .filter(|(.., address)| *address == place)
        .map(|(id, ..)| id)
        .collect();
    let new = *there.last().expect("it has joined");
    assert_eq!(there, BTreeSet::from([old, new]), "one more");
    // Replicas of regions and of the scheduler's state are made up on the new one, and then nothing of the old one is left.
    let whole = |region: &_| voters(region).len() == 3 && voters(region).contains(&new);
    run.wait_regions(pd, whole).expect("every region has a voter there");
    let until = run.world.now() + WHOLE_MAX;
    while health(&run, host, old) != "tombstone" {
        assert!(run.world.now() < until, "it is {}", health(&run, host, old));
        run.pass(Duration::from_millis(500)).expect("nothing is wrong");
    }
    assert_eq!(health(&run, host, new), "up");
    run.wait_members(pd, 3).expect("three keep the scheduler's state");
    // So the next one may be lost.
    let asked = (host + 2) % 3;
    run.members[host].end(true);
    run.pass(Duration::from_secs(10)).expect("nothing is wrong");
    let heir = run.host(asked).expect("another one hosts it");
    assert_ne!(heir, host);
}

/// A machine with fewer cores takes the place of the one that is gone: no store of that one stays in use.
#[test]
fn a_node_with_fewer_stores_takes_the_place_of_all_of_those_that_are_gone() {
    let world = World::new(172, Options::default());
    let (mut host, mut lost) = (Member::new(&world, 0, 1), Member::new(&world, 1, 3));
    host.start(&world, &[]).expect("a cluster of one begins");
    let pd = host.pd();
    lost.start(&world, &[pd]).expect("it joins");
    let before = stores(&world, pd);
    assert_eq!(before.len(), 4, "{before:?}");
    lost.end(true);
    lost.node.disk().wipe();
    world.run_for(SILENT);
    let mut new = Member::new(&world, 1, 2);
    new.start(&world, &[pd]).expect("it takes the place of the old one");
    world.run_for(Duration::from_secs(3));
    let all: StoresResponse =
        call(&world, pd, "/ringkeep.Scheduler/Stores", StoresRequest::default()).expect("it says");
    let old: BTreeSet<u64> = before[1..].iter().map(|(id, ..)| *id).collect();
    for store in &all.stores {
        let gone = ["offline", "tombstone"].contains(&&store.health[..]);
        assert_eq!(gone, old.contains(&store.store), "{store:?}");
    }
    assert_eq!(all.stores.len(), 6, "two are new: {:?}", all.stores);
}
