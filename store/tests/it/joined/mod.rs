//! Nodes that join a running cluster: whole nodes in the simulator, by the code of the real one.

mod alone;
mod asking;
mod audited;
pub(crate) mod clients;
mod crash;
mod elsewhere;
mod evicting;
mod hundred;
mod leaders;
mod lost;
mod merges;
mod named;
pub(crate) mod nodes;
mod numbers;
mod older;
mod places;
mod refused;
mod replaced;
mod replicated;
mod retired;
mod secrets;
mod sent_on;
mod shown;
mod splits;
mod strangers;
mod survives;
mod together;

use std::time::Duration;

use engine::rt::sim::{Options, World};
use store::wire::proto::pdpb::{GetAllStoresRequest, GetAllStoresResponse};

use self::nodes::{Member, call, stores};

/// A node that hosts the scheduler, and one of two stores and one of one that have joined, the second by asking the first.
fn three(seed: u64) -> (World, [Member; 3]) {
    let world = World::new(seed, Options::default());
    let mut members = [(0, 1), (1, 2), (2, 1)].map(|(number, stores)| Member::new(&world, number, stores));
    members[0].start(&world, &[]).expect("a cluster of one begins");
    let (first, second) = (members[0].pd(), members[1].pd());
    members[1].start(&world, &[first]).expect("the first one joins");
    members[2].start(&world, &[second]).expect("the second one joins by a member that hosts no scheduler");
    (world, members)
}

#[test]
fn nodes_join_by_any_member_and_come_back_by_themselves() {
    let (world, mut members) = three(71);
    let pd = members[0].pd();
    let known = stores(&world, pd);
    let places: Vec<String> = known.iter().map(|(.., address)| address.clone()).collect();
    let expected = [(0, 2001), (1, 2001), (1, 2002), (2, 2001)];
    assert_eq!(places, expected.map(|(number, port)| members[number].node.addr(port).to_string()));
    let mut ids: Vec<u64> = known.iter().flat_map(|(id, node, _)| [*id, *node]).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4 + 3, "an id names two things: {known:?}");
    // In any order, and without a word of where the cluster is: also before the node that hosts the scheduler.
    members[1].drain(&world);
    members[1].start(&world, &[]).expect("it needs no flag");
    members.iter_mut().for_each(|member| member.end(true));
    for number in [2, 1, 0] {
        members[number].start(&world, &[]).expect("they come back");
    }
    world.run_for(Duration::from_secs(5));
    assert_eq!(stores(&world, pd), known);
    // A flag that is not needed does no harm.
    members[2].end(false);
    members[2].start(&world, &[pd]).expect("it is of that cluster");
    assert_eq!(stores(&world, pd), known);
}

/// Whether the scheduler still hears every store.
#[test]
fn the_scheduler_hears_the_stores_of_all_nodes() {
    let (world, mut members) = three(73);
    let pd = members[0].pd();
    let heard = |world: &World| {
        let all: GetAllStoresResponse =
            call(world, pd, "/pdpb.PD/GetAllStores", GetAllStoresRequest::default())
                .expect("they are listed");
        let mut heard: Vec<(u64, i64)> =
            all.stores.iter().map(|store| (store.id, store.last_heartbeat)).collect();
        heard.sort_unstable();
        heard
    };
    world.run_for(Duration::from_secs(3));
    let before = heard(&world);
    members[2].end(false);
    world.run_for(Duration::from_secs(5));
    let after = heard(&world);
    let newer: Vec<bool> = before.iter().zip(&after).map(|(one, other)| other.1 > one.1).collect();
    assert_eq!(newer[..3], [true; 3], "{before:?} {after:?}");
    assert!(after[3].1 - before[3].1 < 2_000_000_000, "who is away is not heard: {before:?} {after:?}");
    members[2].start(&world, &[]).expect("it comes back");
    world.run_for(Duration::from_secs(3));
    assert!(heard(&world)[3].1 > after[3].1, "it is heard again");
}
