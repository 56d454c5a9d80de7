//! Who may not join, and the refusal: a sentence with culprit and remedy, and nothing is left of the attempt.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use engine::rt::sim::{Options, World};
use store::config::Config;
use store::plant::{self, Bug};
use store::wire::grpc::Code;
use store::wire::proto::pdpb::{GetMembersRequest, GetMembersResponse};
use store::wire::proto::ringkeep::{
    JoinRequest, JoinResponse, KeepStoreRequest, KeepStoreResponse, NodePlace, RemoveStoreRequest,
    RemoveStoreResponse, ReportRequest, ReportResponse, StoreReport,
};

use super::nodes::{Member, call, serves, stores};

/// A node of `cluster`, begun by node `first`, that has joined.
fn two(seed: u64) -> (World, Member, Member) {
    let world = World::new(seed, Options::default());
    let (mut host, mut other) = (Member::new(&world, 0, 1), Member::new(&world, 1, 1));
    host.start(&world, &[]).expect("a cluster of one begins");
    other.start(&world, &[host.pd()]).expect("it joins");
    (world, host, other)
}

fn assert_says(refused: Result<impl std::fmt::Debug, String>, words: &[&str]) {
    let said = refused.expect_err("it is refused");
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn a_directory_of_another_cluster_is_refused() {
    let (world, host, mut other) = two(81);
    let known = stores(&world, host.pd());
    let mut stranger = Member::new(&world, 2, 1);
    stranger.start(&world, &[]).expect("it begins a cluster of its own");
    stranger.end(true);
    let words = ["belongs to cluster", "here is cluster", "empty directory"];
    assert_says(stranger.start(&world, &[host.pd()]), &words);
    assert_says(stranger.start(&world, &[other.pd()]), &words);
    stranger.start(&world, &[]).expect("it is what it was");
    other.end(true);
    assert_says(other.start(&world, &[stranger.pd()]), &words);
    other.start(&world, &[]).expect("it is what it was");
    assert_eq!(stores(&world, host.pd()), known);
}

#[test]
fn a_copy_of_a_member_is_refused_while_the_member_is_there() {
    let (world, host, mut other) = two(82);
    let known = stores(&world, host.pd());
    let mut copy = Member::new(&world, 2, 1);
    other.end(true);
    let files = other.node.disk().contents();
    other.start(&world, &[]).expect("it comes back");
    copy.node.disk().set_contents(&files);
    let there = other.node.addr(2001).to_string();
    assert_says(copy.start(&world, &[]), &["identity of store", "in use", &there, "start the copy empty"]);
    assert_eq!(stores(&world, host.pd()), known);
    // The directory really moves: the old place falls silent first.
    other.end(true);
    copy.start(&world, &[]).expect("the store has moved");
    assert_eq!(stores(&world, host.pd())[1].2, copy.node.addr(2001).to_string());
}

/// Whoever is announced by another name or address of its host answers where it was, too, and is no copy for that.
#[test]
fn a_member_that_is_announced_by_another_name_of_its_host_has_moved() {
    let (world, host, mut other) = two(90);
    world.name("two.test", &other.node);
    other.drain(&world);
    let known = stores(&world, host.pd());
    other.change = |config: &mut Config| config.advertise = Some("two.test".to_owned());
    other.start(&world, &[]).expect("it is what it was");
    let named = stores(&world, host.pd());
    assert_eq!(named[1], (known[1].0, known[1].1, "two.test:2001".to_owned()));
    other.end(true);
    other.change = |_| {};
    other.start(&world, &[]).expect("and back");
    assert_eq!(stores(&world, host.pd()), known);
    world.run_for(Duration::from_secs(5));
    let board = other.said().expect("it was said").expect("it serves").board;
    assert!(board.refused().is_none() && serves(&world, other.node.addr(2001)));
}

/// The member hangs for so long that a copy of its directory takes its place; then it goes on.
#[test]
fn a_member_whose_identity_was_taken_is_not_ready_until_it_has_it_again() {
    let (world, host, other) = two(89);
    let (place, mut copy) = (other.node.addr(2001), Member::new(&world, 2, 1));
    let board = || other.said().expect("it was said").expect("it serves").board;
    assert!(board().refused().is_none() && serves(&world, place));
    other.node.pause();
    copy.node.disk().set_contents(&other.node.disk().contents());
    copy.start(&world, &[]).expect("the store seems to have moved");
    assert_eq!(stores(&world, host.pd())[1].2, copy.node.addr(2001).to_string());
    other.node.resume();
    world.run_for(Duration::from_secs(10));
    let said = board().refused().expect("it is not the one that the cluster means");
    assert!(said.contains("the identity of store") && said.contains("Stop one of the two"), "{said}");
    assert!(!serves(&world, place), "no client is to go there");
    assert!(serves(&world, copy.node.addr(2001)), "the other one has the place");
    copy.end(true);
    world.run_for(Duration::from_secs(10));
    assert_eq!(board().refused(), None);
    assert!(serves(&world, place));
    assert_eq!(stores(&world, host.pd())[1].2, place.to_string());
}

#[test]
fn a_member_whose_directory_was_wiped_is_refused() {
    let (world, host, mut other) = two(83);
    let known = stores(&world, host.pd());
    other.end(true);
    other.node.disk().wipe();
    let place = other.node.addr(2001).to_string();
    let words = [&place[..], "which has joined", "wiped", "put the directory back", "other ports"];
    assert_says(other.start(&world, &[host.pd()]), &words);
    assert!(!other.has_identity(), "nothing was begun");
    other.change = |config: &mut Config| config.base_port = 3000;
    other.start(&world, &[host.pd()]).expect("at other ports it is another node");
    let after = stores(&world, host.pd());
    assert_eq!((after.len(), &after[..2]), (3, &known[..]));
    // Or its store is taken out of use; nothing is on it, so it is gone soon, and its address is free.
    other.end(true);
    other.node.disk().wipe();
    let remove = RemoveStoreRequest { store: known[1].0 };
    call::<RemoveStoreResponse>(&world, host.pd(), "/ringkeep.Scheduler/RemoveStore", remove)
        .expect("it goes");
    world.run_for(Duration::from_secs(30));
    other.change = |_| {};
    other.start(&world, &[host.pd()]).expect("the address is free");
    assert_eq!(stores(&world, host.pd()).len(), 4);
}

#[test]
fn stores_that_are_needed_stay_and_one_that_leaves_is_taken_back() {
    a_store_that_leaves_is_taken_back(88, 5);
}

fn a_store_that_leaves_is_taken_back(seed: u64, attempts: u32) {
    let (world, host, mut other) = two(seed);
    let ids: Vec<u64> = stores(&world, host.pd()).into_iter().map(|(id, ..)| id).collect();
    let remove = |store| {
        let request = RemoveStoreRequest { store };
        call::<RemoveStoreResponse>(&world, host.pd(), "/ringkeep.Scheduler/RemoveStore", request)
    };
    let keep = |store| {
        let request = KeepStoreRequest { store };
        call::<KeepStoreResponse>(&world, host.pd(), "/ringkeep.Scheduler/KeepStore", request)
    };
    let rehearse = |store| {
        let request = RemoveStoreRequest { store };
        call::<RemoveStoreResponse>(&world, host.pd(), "/ringkeep.Scheduler/MayRemoveStore", request)
    };
    rehearse(ids[1]).expect("it would be taken out of use");
    rehearse(ids[1]).expect("and has not been");
    let unknown = rehearse(77).expect_err("there is none");
    assert!(unknown.message.contains("store 77 has not joined"), "{unknown}");
    assert_eq!(remove(77), Err(unknown), "the same is said of the real one");
    remove(ids[1]).expect("one node is enough for one replica");
    let refused = remove(ids[0]).expect_err("nothing would be left");
    assert_eq!(rehearse(ids[0]), Err(refused.clone()));
    assert_eq!(refused.code, Code::FailedPrecondition);
    assert!(refused.message.contains("store 1 stays in use: it keeps the scheduler's state"), "{refused}");
    let kept = keep(ids[1]);
    if attempts > 1 && kept.as_ref().is_err_and(|why| why.message.contains("was taken out of use for good")) {
        // It was empty, and was buried in the moment between the two calls.
        return a_store_that_leaves_is_taken_back(seed + 1, attempts - 1);
    }
    kept.expect("it is still there");
    // Long enough to bury what is empty.
    world.run_for(Duration::from_secs(30));
    other.end(true);
    other.start(&world, &[]).expect("it belongs to the cluster as before");
    let gone = keep(77).expect_err("there is none");
    assert!(gone.message.contains("store 77 has not joined"), "{gone}");
    remove(ids[1]).expect("it goes");
    world.run_for(Duration::from_secs(30));
    let gone = keep(ids[1]).expect_err("it is gone");
    assert!(gone.message.contains("was taken out of use for good"), "{gone}");
}

#[test]
fn a_node_that_cannot_be_dialled_back_is_refused() {
    let world = World::new(84, Options::default());
    let (mut host, mut other) = (Member::new(&world, 0, 1), Member::new(&world, 1, 1));
    host.start(&world, &[]).expect("a cluster of one begins");
    other.change = |config: &mut Config| config.advertise = Some("10.9.9.9".to_owned());
    let words = ["cannot be dialled back", "10.9.9.9:2001", "`advertise`"];
    assert_says(other.start(&world, &[host.pd()]), &words);
    assert_eq!(stores(&world, host.pd()).len(), 1);
    // Its ids are in its directory by now; with an address that can be reached they are good.
    other.change = |_| {};
    other.start(&world, &[]).expect("it joins");
    assert_eq!(stores(&world, host.pd()).len(), 2);
}

#[test]
fn a_cluster_that_does_not_answer_is_named_and_nothing_is_begun() {
    let world = World::new(85, Options::default());
    let mut alone = Member::new(&world, 1, 1);
    let nowhere = world.node(0).addr(2000);
    assert_says(alone.start(&world, &[nowhere]), &["no member of the cluster answers", &nowhere.to_string()]);
    assert!(!alone.has_identity(), "nothing was begun");
}

#[test]
fn versions_counts_and_reports_of_strangers_are_refused_by_name() {
    let (world, host, other) = two(86);
    let join = |request: JoinRequest| {
        let answer = call::<JoinResponse>(&world, host.pd(), "/ringkeep.Scheduler/Join", request);
        answer.expect_err("it is refused")
    };
    let newer = join(JoinRequest { version: 9, version_min: 8, stores: 1, ..JoinRequest::default() });
    assert_eq!(newer.code, Code::FailedPrecondition);
    assert!(
        newer.message.contains("versions 8 to 9") && newer.message.contains("update the older"),
        "{newer}"
    );
    let many = join(JoinRequest { version: 1, version_min: 1, stores: 1 << 20, ..JoinRequest::default() });
    assert_eq!(many.code, Code::InvalidArgument);
    let ids = stores(&world, host.pd());
    let sent_on =
        call::<JoinResponse>(&world, other.pd(), "/ringkeep.Scheduler/Join", JoinRequest::default());
    assert_eq!(sent_on.expect_err("a version of 0").code, Code::FailedPrecondition, "by whichever member");
    let asked =
        call::<GetMembersResponse>(&world, other.pd(), "/pdpb.PD/GetMembers", GetMembersRequest::default());
    let cluster_id = asked.expect("it sends on").header.expect("there is one").cluster_id;
    let report = |cluster_id, node, store, address: &str| {
        let store = StoreReport { store, address: address.to_owned(), ..StoreReport::default() };
        let request = ReportRequest { cluster_id, node, stores: vec![store], ..ReportRequest::default() };
        call::<ReportResponse>(&world, host.pd(), "/ringkeep.Scheduler/Report", request)
    };
    let (store, node, place) = ids[1].clone();
    let members = vec![NodePlace { node: ids[0].1, place: host.pd().to_string() }];
    assert_eq!(
        report(cluster_id, node, store, &place),
        Ok(ReportResponse { members, ..ReportResponse::default() })
    );
    let other_cluster = report(cluster_id + 1, node, store, &place).expect_err("another cluster");
    assert_eq!(other_cluster.code, Code::FailedPrecondition);
    let own = &ids[0];
    for (node, store, place) in
        [(node + 1, store, &place), (node, store + 70, &place), (node, store, &own.2), (own.1, own.0, &own.2)]
    {
        let stranger = report(cluster_id, node, store, place).expect_err("a stranger");
        assert_eq!(stranger.code, Code::NotFound, "{stranger}");
        assert!(stranger.message.contains("has not joined"), "{stranger}");
    }
}

/// Each of the bugs makes one of the tests above fail.
#[test]
fn bugs_of_those_who_let_in_are_caught() {
    let scenarios: [(Bug, fn()); 5] = [
        (Bug::RefusalNotShown, a_member_whose_identity_was_taken_is_not_ready_until_it_has_it_again),
        (Bug::StrangersBelieved, versions_counts_and_reports_of_strangers_are_refused_by_name),
        (Bug::AddressGivenAway, a_member_whose_directory_was_wiped_is_refused),
        (Bug::OldPlaceNotAsked, a_copy_of_a_member_is_refused_while_the_member_is_there),
        (Bug::ClusterNotCompared, a_directory_of_another_cluster_is_refused),
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
