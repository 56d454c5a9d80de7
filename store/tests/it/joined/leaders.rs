//! The scheduler's state on several nodes: it spreads by itself, outlives nodes, and whoever leads it gives timestamps and ids that no
//! other has given.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::sim::{Options, World};
use store::plant::{self, Bug};
use store::wire::proto::pdpb::{GetAllStoresRequest, GetAllStoresResponse};
use store::wire::proto::ringkeep::{RemoveStoreRequest, RemoveStoreResponse};

use super::asking::{Loss, Run, SETTLED_MAX, TWO_ELECTIONS, voters};
use super::nodes::{Member, stores};

#[test]
fn the_state_spreads_with_the_cluster() {
    let run = Run::begin(101, 2).err().expect("two nodes are no reason for two members");
    assert!(run.contains("3 members"), "{run}");
    for (count, members) in [(3, 3), (4, 3), (5, 5)] {
        let run = Run::begin(102, count).expect("it spreads");
        run.pass(Duration::from_secs(10)).expect("nothing happens");
        let said: Vec<_> =
            (0..count).map(|number| run.members(run.members[number].pd()).expect("it says")).collect();
        assert!(said.iter().all(|other| *other == said[0]), "{said:?}");
        assert_eq!(said[0].members.len(), members);
        assert_eq!(run.host(0), Ok(0), "no other node takes over without need");
    }
}

/// The node that began the cluster is lost for ever, with everything on it.
fn outlives_its_first_node(seed: u64) -> Result<Duration, String> {
    let mut run = Run::begin(seed, 3)?;
    run.ask();
    let one = run.members[1].pd();
    run.wait_regions(one, |region| voters(region).len() == 3)?;
    run.pass(Duration::from_secs(3))?;
    let known = stores(&run.world, one);
    run.members[0].end(true);
    run.members[0].node.disk().wipe();
    let before = run.answered();
    let silence = run.pass_and_listen(2 * TWO_ELECTIONS)?;
    let answered = run.answered() - before;
    if answered < 200 {
        return Err(format!("without its first node the cluster answers {answered} calls"));
    }
    // What is known of the stores is what it was.
    let host = run.host(1)?;
    if host == 0 || stores(&run.world, run.members[host].pd()) != known {
        return Err(format!("node {host} hosts the scheduler"));
    }
    // A node joins by a member that does not host it, and takes the places of the one that is gone.
    let other = if host == 1 { 2 } else { 1 };
    let by = run.members[other].pd();
    run.members[3].start(&run.world, &[by])?;
    let gone = RemoveStoreRequest { store: 1 };
    run.call::<RemoveStoreResponse>(by, "/ringkeep.Scheduler/RemoveStore", gone)?;
    run.wait_regions(by, |region| voters(region).len() == 3 && !voters(region).contains(&1))?;
    let url = format!("http://{}", run.members[3].pd());
    let until = run.world.now() + 2 * SETTLED_MAX;
    while !run.wait_members(by, 3)?.members.iter().any(|member| member.client_urls.contains(&url)) {
        if run.world.now() > until {
            return Err(format!("the new node is no member: {:?}", run.members(by)?.members));
        }
        run.pass(Duration::from_millis(200))?;
    }
    // Again one is lost, and the new one counts.
    run.members[host].end(false);
    let before = run.answered();
    run.pass(2 * TWO_ELECTIONS)?;
    if run.answered() - before < 200 {
        return Err(format!("without node {host} the cluster answers {} calls", run.answered() - before));
    }
    run.done.set(true);
    Ok(silence)
}

#[test]
fn the_cluster_outlives_the_node_that_began_it() {
    for seed in [111, 112] {
        let silence = outlives_its_first_node(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(silence < TWO_ELECTIONS, "seed {seed}: no answer for {silence:?}");
    }
    for bug in [Bug::PlacesForgotten, Bug::GoneVotersKept, Bug::RowsNotLoaded] {
        plant::plant(Some(bug));
        let ended = outlives_its_first_node(111);
        plant::plant(None);
        assert!(ended.is_err(), "{bug:?} went unnoticed: {ended:?}");
    }
}

/// A node that hosted the scheduler comes back and has lost what it knew of the others' places.
fn a_host_forgets_the_others(seed: u64) -> Result<(), String> {
    let mut run = Run::begin(seed, 3)?;
    let host = run.agreed_host()?;
    run.pass(Duration::from_secs(2))?;
    run.members[host].end(true);
    let mut files = run.members[host].node.disk().contents();
    files.remove(Path::new("/data/CONTACTS")).ok_or("it knew of others")?;
    run.members[host].node.disk().set_contents(&files);
    run.pass(TWO_ELECTIONS)?;
    run.members[host].start(&run.world, &[])?;
    run.agreed_host().map(drop)
}

#[test]
fn a_node_that_knows_of_no_other_hears_where_the_scheduler_is() {
    a_host_forgets_the_others(132).expect("it hears of the host");
    plant::plant(Some(Bug::HostNotHeard));
    let ended = a_host_forgets_the_others(132);
    plant::plant(None);
    assert!(
        ended.is_err_and(|why| why.contains("does not answer")),
        "it pays no heed, and that went unnoticed"
    );
}

/// The only member goes, with everything that its store holds; `bug` is planted once that has been promised.
fn the_only_member_goes(bug: Option<Bug>) -> Result<(), String> {
    let world = World::new(131, Options::default());
    let mut members: Vec<Member> = (0..2).map(|number| Member::new(&world, number, 1)).collect();
    members[0].start(&world, &[])?;
    let first = members[0].pd();
    members[1].start(&world, &[first])?;
    let run = Run { world, members, oracle: Rc::default(), done: Rc::default() };
    run.ask();
    run.pass(Duration::from_secs(2))?;
    let gone = RemoveStoreRequest { store: 1 };
    run.call::<RemoveStoreResponse>(first, "/ringkeep.Scheduler/RemoveStore", gone)?;
    plant::plant(bug);
    let until = run.world.now() + 2 * SETTLED_MAX;
    let other = run.members[1].pd();
    let is_there = |run: &Run| {
        let all = GetAllStoresRequest { exclude_tombstone_stores: true, ..GetAllStoresRequest::default() };
        let known: GetAllStoresResponse = run.call(other, "/pdpb.PD/GetAllStores", all)?;
        Ok::<bool, String>(known.stores.iter().any(|store| store.id == 1))
    };
    while is_there(&run)? {
        if run.world.now() > until {
            return Err("store 1 stays".to_owned());
        }
        run.pass(Duration::from_millis(500))?;
    }
    let Run { world, mut members, oracle, done } = run;
    members[0].end(true);
    let run = Run { world, members, oracle, done };
    let before = run.answered();
    run.pass(2 * TWO_ELECTIONS)?;
    if run.answered() - before < 50 {
        return Err(format!("without the first node {} calls are answered", run.answered() - before));
    }
    run.wait_regions(other, |region| voters(region).len() == 1 && !voters(region).contains(&1))?;
    run.done.set(true);
    Ok(())
}

#[test]
fn a_store_that_leaves_hands_the_state_on_before_it_is_gone() {
    the_only_member_goes(None).expect("the other one takes everything");
    let stays = the_only_member_goes(Some(Bug::GoneVotersKept));
    plant::plant(None);
    assert_eq!(stays, Err("store 1 stays".to_owned()), "the state is still there");
}

const WAYS: [Option<Loss>; 5] =
    [Some(Loss::Killed), Some(Loss::WithoutPower), Some(Loss::CutOff), Some(Loss::Paused), None];

/// The leader is lost in these ways, or hands over where there is none, while every member is asked.
fn leaders_come_and_go(seed: u64, rounds: u64, ways: &[Option<Loss>]) -> Result<(u64, u64), String> {
    let mut run = Run::begin(seed, 3)?;
    run.ask();
    run.pass(Duration::from_secs(1))?;
    let mut changes = 0;
    for round in 0..rounds {
        let host = run.agreed_host()?;
        let before = run.answered();
        match ways[run.world.below(ways.len() as u64) as usize] {
            Some(loss) => {
                run.lose(host, loss);
                run.pass(TWO_ELECTIONS)?;
                run.bring_back(host, loss)?;
            }
            None => {
                run.members[host].drain(&run.world);
                run.pass(Duration::from_secs(1))?;
                run.members[host].start(&run.world, &[])?;
            }
        }
        if run.answered() - before < 50 {
            return Err(format!("round {round}: {} calls were answered", run.answered() - before));
        }
        run.pass(Duration::from_secs(1 + run.world.below(3)))?;
        changes += u64::from(run.agreed_host()? != host);
    }
    run.done.set(true);
    run.pass(Duration::from_secs(3))?;
    Ok((run.answered(), changes))
}

#[test]
fn nothing_is_given_out_twice_or_too_late_while_leaders_come_and_go() {
    for seed in 121..124 {
        let (answered, changes) =
            leaders_come_and_go(seed, 6, &WAYS).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(answered > 1000 && changes >= 4, "seed {seed}: {answered} answers, {changes} changes");
    }
}

#[test]
fn bugs_of_a_leader_that_was_deposed_are_caught() {
    // One that is cut off and has not heard of its successor is where the fence matters, for some hundred milliseconds.
    for (bug, ways, sign) in
        [(Bug::FenceOpen, &[Some(Loss::CutOff)][..], " after "), (Bug::OfficeKept, &WAYS, "")]
    {
        plant::plant(Some(bug));
        let caught =
            (121..141).any(|seed| leaders_come_and_go(seed, 8, ways).is_err_and(|why| why.contains(sign)));
        plant::plant(None);
        assert!(caught, "{bug:?} went unnoticed");
    }
}
