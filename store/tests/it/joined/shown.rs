//! What threads of a node ask the scheduler, which is on this node, on another one, or away.

use std::cell::RefCell;
use std::time::Duration;

use engine::rt::sim::{Options, World};
use store::wire::pd::ask::{NoAnswer, SchedulerPlace, SchedulerQuestion};
use store::wire::proto::ringkeep::{
    ClusterResponse, HeatOf, HeatResponse, OperatorsResponse, RegionMapResponse, RegionsRequest,
    RegionsResponse, StoresResponse,
};

use super::nodes::Member;
use super::secrets::with_secret;
use super::three;

/// Asks as a thread does, which the simulator has none of.
fn ask<A: prost::Message + Default>(
    world: &World,
    member: &Member,
    question: SchedulerQuestion,
) -> Result<(A, SchedulerPlace), NoAnswer> {
    let asker = member.said().expect("it serves").expect("it has started").asker;
    let waiting = asker.begin(question)?;
    let answer = RefCell::new(None);
    let has_come = || {
        let mut answer = answer.borrow_mut();
        *answer = answer.take().or_else(|| waiting.try_take());
        answer.is_some()
    };
    assert!(world.run_until(Duration::from_secs(4), has_come), "every question is answered in time");
    answer.into_inner().expect("it has come")
}

#[test]
fn any_node_is_answered_what_the_scheduler_knows() {
    let (world, members) = three(81);
    world.run_for(Duration::from_secs(15));
    let host = members[0].pd().to_string();
    let mut seen = Vec::new();
    for member in &members {
        let (stores, place) =
            ask::<StoresResponse>(&world, member, SchedulerQuestion::Stores).expect("stores");
        match (place, member.pd().to_string() == host) {
            (SchedulerPlace::Here, true) => {}
            (SchedulerPlace::Elsewhere(places), false) => assert_eq!(places.first(), Some(&host)),
            (place, _) => panic!("{host} hosts it, and not {place:?}"),
        }
        assert_eq!(stores.stores.len(), 4);
        let (cluster, _) =
            ask::<ClusterResponse>(&world, member, SchedulerQuestion::Cluster).expect("a standing");
        ask::<OperatorsResponse>(&world, member, SchedulerQuestion::Operators).expect("operators");
        let (map, _) =
            ask::<RegionMapResponse>(&world, member, SchedulerQuestion::RegionMap(3)).expect("a map");
        assert!(map.cells.len() <= 3 && map.regions == cluster.regions && map.regions > 3, "{map:?}");
        let limit = RegionsRequest { limit: 3, ..RegionsRequest::default() };
        let (page, _) =
            ask::<RegionsResponse>(&world, member, SchedulerQuestion::Regions(limit)).expect("a page");
        assert!(page.regions.len() == 3 && page.more);
        let (heat, _) =
            ask::<HeatResponse>(&world, member, SchedulerQuestion::Heat(HeatOf::Ops)).expect("a history");
        assert_eq!(heat.borders.len() as u64, map.regions, "each has a range of its own");
        assert!(!heat.columns.is_empty());
        seen.push(map);
    }
    assert!(seen.windows(2).all(|pair| pair[0].regions == pair[1].regions));
    let bad = ask::<HeatResponse>(&world, &members[1], SchedulerQuestion::Heat(HeatOf::Unknown))
        .expect_err("a refusal");
    assert!(bad.why.contains("not counted"), "{bad:?}");
}

/// After a kill it takes 20 s until a store counts as disconnected. What it has missed shows long before.
#[test]
fn a_store_that_misses_reports_is_shown_before_it_counts_as_disconnected() {
    let (world, mut members) = three(85);
    world.run_for(Duration::from_secs(15));
    let stores = |world: &World, members: &[Member]| {
        let (all, _) = ask::<StoresResponse>(world, &members[0], SchedulerQuestion::Stores).expect("stores");
        all.stores
    };
    let before = stores(&world, &members);
    assert!(before.iter().all(|store| !store.misses_reports && store.heard && store.silent_ms < 3000));
    let dead = before.iter().map(|store| store.node).max().expect("nodes");
    members[2].end(false);
    world.run_for(Duration::from_secs(5));
    for store in stores(&world, &members) {
        let is_dead = store.node == dead;
        assert_eq!((&store.health[..], store.misses_reports), ("up", is_dead), "{store:?}");
        assert_eq!(store.silent_ms > 3000, is_dead, "{store:?}");
    }
    world.run_for(Duration::from_secs(20));
    for store in stores(&world, &members).iter().filter(|store| store.node == dead) {
        assert_eq!((&store.health[..], store.misses_reports), ("disconnected", false), "{store:?}");
    }
    // A scheduler that begins anew has not heard it at all.
    members[0].end(false);
    members[0].start(&world, &[]).expect("it comes back");
    world.run_for(Duration::from_secs(10));
    for store in stores(&world, &members) {
        assert_eq!(store.heard, store.node != dead, "{store:?}");
    }
}

#[test]
fn a_scheduler_that_is_away_is_said_in_words_and_in_time() {
    let (world, mut members) = three(82);
    let host = members[0].pd().to_string();
    members[0].end(false);
    let away =
        ask::<StoresResponse>(&world, &members[1], SchedulerQuestion::Stores).expect_err("no node hosts it");
    let Some(SchedulerPlace::Elsewhere(places)) = &away.place else { panic!("{away:?}") };
    assert!(places.contains(&host), "{places:?}");
    assert!(!away.why.is_empty());
    members[0].start(&world, &[]).expect("it comes back");
    world.run_for(Duration::from_secs(5));
    ask::<StoresResponse>(&world, &members[1], SchedulerQuestion::Stores).expect("it is asked again");
}

#[test]
fn a_node_asks_as_a_member_where_there_is_a_secret() {
    let world = World::new(83, Options::default());
    let mut members = [(0, 1), (1, 1)].map(|(number, stores)| Member::new(&world, number, stores));
    for member in &mut members {
        member.change = with_secret;
    }
    members[0].start(&world, &[]).expect("a cluster of one begins");
    let first = members[0].pd();
    members[1].start(&world, &[first]).expect("it joins");
    let (stores, place) =
        ask::<StoresResponse>(&world, &members[1], SchedulerQuestion::Stores).expect("stores");
    assert!(stores.stores.len() == 2 && matches!(place, SchedulerPlace::Elsewhere(_)), "{place:?}");
}

#[test]
fn more_than_may_wait_is_refused_at_once() {
    let (world, members) = three(84);
    let asker = members[1].said().expect("it serves").expect("it has started").asker;
    // The root core does nothing while the world is not run.
    let begun: Vec<_> = (0..20).map(|_| asker.begin(SchedulerQuestion::Cluster)).collect();
    let refused = begun.iter().filter(|begun| begun.is_err()).count();
    assert_eq!(refused, 12);
    world.run_for(Duration::from_secs(5));
    let answered = begun.iter().flatten().filter(|it| it.try_take::<ClusterResponse>().is_some()).count();
    assert_eq!(answered, 8);
}
