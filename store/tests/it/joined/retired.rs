//! A node one of whose stores was taken out of use for good: the others serve, also after its next start. Without any it serves nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use engine::rt::sim::{Options, World};
use store::plant::{self, Bug};
use store::wire::board::Board;
use store::wire::proto::pdpb::{GetAllStoresRequest, GetAllStoresResponse};
use store::wire::proto::ringkeep::{RemoveStoreRequest, RemoveStoreResponse};

use super::nodes::{Member, call, serves, stores};

/// Longer than an empty store takes to be gone.
const GONE_MAX: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_secs(1);

/// Two nodes of two stores each; the second has joined the first. With the ids of all four.
fn two_of_two(seed: u64) -> (World, [Member; 2], Vec<u64>) {
    let world = World::new(seed, Options::default());
    let mut members = [Member::new(&world, 0, 2), Member::new(&world, 1, 2)];
    members[0].start(&world, &[]).expect("a cluster of one begins");
    let first = members[0].pd();
    members[1].start(&world, &[first]).expect("it joins");
    let ids: Vec<u64> = stores(&world, first).into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
    (world, members, ids)
}

/// The stores in use that the scheduler knows, each with when it was heard last.
fn heard(world: &World, asked: &Member) -> Vec<(u64, i64)> {
    let request = GetAllStoresRequest { exclude_tombstone_stores: true, ..GetAllStoresRequest::default() };
    let all: GetAllStoresResponse =
        call(world, asked.pd(), "/pdpb.PD/GetAllStores", request).expect("they are listed");
    all.stores.iter().map(|store| (store.id, store.last_heartbeat)).collect()
}

fn board(member: &Member) -> Board {
    member.said().expect("it was said").expect("it serves").board
}

/// Takes a store out of use, and waits until it is gone and its node knows.
fn take_out(world: &World, asked: &Member, (node, store): (&Member, u64)) {
    let remove = RemoveStoreRequest { store };
    call::<RemoveStoreResponse>(world, asked.pd(), "/ringkeep.Scheduler/RemoveStore", remove)
        .expect("another one takes its place");
    let until = world.now() + GONE_MAX;
    while heard(world, asked).iter().any(|(id, _)| *id == store) || !board(node).gone().contains(&store) {
        assert!(
            world.now() < until,
            "store {store} stays, or its node does not hear: {:?}",
            board(node).gone()
        );
        world.run_for(STEP);
    }
}

/// Whether the scheduler goes on to hear this store.
fn is_heard(world: &World, asked: &Member, store: u64) -> bool {
    let last = || heard(world, asked).into_iter().find(|(id, _)| *id == store).map(|(_, at)| at);
    let before = last();
    world.run_for(Duration::from_secs(5));
    before.is_some() && last() > before
}

#[test]
fn a_node_goes_on_with_the_stores_that_are_in_use() {
    let (world, [first, mut second], ids) = two_of_two(301);
    take_out(&world, &first, (&second, ids[3]));
    assert!(is_heard(&world, &first, ids[2]), "the other one is heard on");
    let ports = [second.node.addr(2001), second.node.addr(2002)];
    assert_eq!(
        ports.map(|port| serves(&world, port)),
        [true, false],
        "no client is to go to the one that is gone"
    );
    second.drain(&world);
    second.start(&world, &[]).expect("its other store is in use");
    assert_eq!(board(&second).gone(), [ids[3]].into(), "it is named");
    assert!(is_heard(&world, &first, ids[2]), "the other one serves");
    assert_eq!(ports.map(|port| serves(&world, port)), [true, false], "nor after the next start");
    // The last one goes, too: the node says so while it runs, and does not start again.
    take_out(&world, &first, (&second, ids[2]));
    assert_eq!(board(&second).gone(), [ids[2], ids[3]].into());
    second.drain(&world);
    let said = second.start(&world, &[]).expect_err("it has none to serve with");
    let words = "was taken out of use for good; start its node on an empty directory with --join";
    assert!(said.contains("does not take this node's stores") && said.contains(words), "{said}");
    assert!(is_heard(&world, &first, ids[0]) && is_heard(&world, &first, ids[1]), "the others are untouched");
}

#[test]
fn a_node_whose_first_store_kept_the_state_goes_on_without_it() {
    let (world, [mut first, second], ids) = two_of_two(302);
    take_out(&world, &second, (&first, ids[0]));
    first.drain(&world);
    first.start(&world, &[]).expect("its other store is in use");
    assert_eq!(board(&first).gone(), [ids[0]].into(), "it is named");
    assert!(is_heard(&world, &second, ids[1]), "the other one serves");
}

#[test]
fn a_node_that_starts_while_no_scheduler_answers_hears_it_later() {
    let (world, [mut first, mut second], ids) = two_of_two(303);
    take_out(&world, &first, (&second, ids[2]));
    [&mut first, &mut second].into_iter().for_each(|member| member.end(true));
    second.start(&world, &[]).expect("it does not wait for the others");
    assert_eq!(board(&second).gone(), [].into(), "it has not heard");
    first.start(&world, &[]).expect("it comes back");
    assert!(is_heard(&world, &first, ids[3]), "the other one is heard");
    assert_eq!(board(&second).gone(), [ids[2]].into(), "it is named");
}

/// Each of the bugs makes one of the tests above fail.
#[test]
fn bugs_of_a_node_without_one_of_its_stores_are_caught() {
    let scenarios: [(Bug, fn()); 5] = [
        (Bug::GoneServes, a_node_goes_on_with_the_stores_that_are_in_use),
        (Bug::OneGoneEndsStart, a_node_goes_on_with_the_stores_that_are_in_use),
        (Bug::OneGoneEndsStart, a_node_whose_first_store_kept_the_state_goes_on_without_it),
        (Bug::NoneLeftStarts, a_node_goes_on_with_the_stores_that_are_in_use),
        (Bug::GoneNotSaid, a_node_goes_on_with_the_stores_that_are_in_use),
    ];
    let mut unnoticed = Vec::new();
    for (bug, scenario) in scenarios {
        plant::plant(Some(bug));
        let caught = catch_unwind(AssertUnwindSafe(scenario)).is_err();
        plant::plant(None);
        if !caught {
            unnoticed.push(bug);
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?} went unnoticed");
}
