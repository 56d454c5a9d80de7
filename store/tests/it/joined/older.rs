//! An older copy of a node's directory that is put back: other stores refuse it, and that it was refused is not forgotten by another start,
//! neither where it has counted as many openings by then nor where those who know better have been started again themselves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use store::plant::{self, Bug};

use super::asking::{Run, voters};
use crate::page::{page, sum};

/// Long enough for each store to hear of each other.
const MET: Duration = Duration::from_secs(5);

/// What the directory of a member remembers of damage.
fn remembered(run: &Run, member: usize) -> Option<String> {
    let files = run.members[member].node.disk().contents();
    let is_damage = |path: &Path| path.file_name().is_some_and(|name| name == "DAMAGE");
    let found = files.into_iter().find(|(path, _)| is_damage(path));
    found.map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned())
}

fn is_refused(run: &mut Run, member: usize) {
    let why = run.members[member].start(&run.world, &[]).expect_err("it has one store, which is fenced");
    assert!(why.contains("older copy") && why.contains("ringkeep ctl store remove"), "{why}");
}

/// Puts a copy back that is this many starts old.
fn put_back(seed: u64, age: usize) {
    let mut run = Run::begin(seed, 3).expect("three nodes");
    run.wait_regions(run.members[0].pd(), |region| voters(region).len() == 3).expect("they spread");
    let host = run.agreed_host().expect("one hosts it");
    let member = (host + 1) % 3;
    run.members[member].end(true);
    let files = run.members[member].node.disk().contents();
    for start in 0..age {
        run.members[member].start(&run.world, &[]).expect("it comes back");
        run.pass(MET).expect("nothing is wrong");
        assert_eq!(remembered(&run, member), None, "start {start} is what follows the one before");
        run.members[member].end(true);
    }
    run.members[member].node.disk().set_contents(&files);
    run.members[member].start(&run.world, &[]).expect("nothing in it says that it is older");
    run.pass(MET).expect("nothing is wrong");
    let said = remembered(&run, member).expect("it has heard");
    assert!(said.contains("older copy of store"), "{said}");
    run.members[member].end(true);
    is_refused(&mut run, member);
    is_refused(&mut run, member);
    // The others have forgotten what they had seen.
    for other in [(member + 1) % 3, (member + 2) % 3] {
        run.members[other].end(true);
        run.members[other].start(&run.world, &[]).expect("it comes back");
    }
    is_refused(&mut run, member);
}

#[test]
fn a_copy_that_is_one_start_old_is_refused() {
    put_back(171, 1);
}

#[test]
fn a_copy_that_is_two_starts_old_is_refused_and_stays_so() {
    put_back(172, 2);
}

/// What the store of a member says of itself, and how many of its replicas lack something.
fn incomplete(run: &Run, member: usize) -> (f64, Vec<String>) {
    let started = run.members[member].said().expect("it is up").expect("it has started");
    let numbers = started.board.read();
    let problems = numbers.iter().flat_map(|core| &core.stores).filter_map(|store| store.health.problem());
    let metric = "ringkeep_store_incomplete_replicas";
    (sum(&page(&numbers, &[metric]), metric, ""), problems.collect())
}

/// Where the files that tell it from the store are removed, an older copy is let in. Then its replicas say what they lack.
#[test]
fn a_copy_that_is_not_recognised_says_what_it_lacks() {
    let mut run = Run::begin(173, 3).expect("three nodes");
    run.wait_regions(run.members[0].pd(), |region| voters(region).len() == 3).expect("they spread");
    let member = (run.agreed_host().expect("one hosts it") + 1) % 3;
    run.ask();
    run.pass(MET).expect("nothing is wrong");
    run.members[member].end(true);
    let files = run.members[member].node.disk().contents();
    run.members[member].start(&run.world, &[]).expect("it comes back");
    run.pass(4 * MET).expect("nothing is wrong");
    assert_eq!(incomplete(&run, member), (0.0, Vec::new()));
    run.members[member].end(true);
    run.members[member].node.disk().set_contents(&files);
    // A start that ends at once draws for the opening that was seen, and the next one knows nothing of that again.
    run.members[member].start(&run.world, &[]).expect("it starts");
    run.members[member].end(true);
    let mut files = run.members[member].node.disk().contents();
    files.retain(|path, _| path.file_name().is_none_or(|name| name != "LINEAGE" && name != "DAMAGE"));
    run.members[member].node.disk().set_contents(&files);
    run.members[member].start(&run.world, &[]).expect("it starts");
    run.pass(2 * MET).expect("nothing is wrong");
    let (replicas, problems) = incomplete(&run, member);
    assert!(replicas > 0.0, "it lacks what it has acknowledged: {problems:?}");
    let said = problems.iter().find(|problem| problem.contains("lacks what it has acknowledged"));
    assert!(said.is_some_and(|said| said.contains("ringkeep ctl store remove")), "{problems:?}");
}

/// Each of the bugs makes one of the tests above fail.
#[test]
fn bugs_of_those_who_take_a_copy_for_the_store_are_caught() {
    let scenarios: [(Bug, fn()); 2] = [
        (Bug::CopyCounted, a_copy_that_is_one_start_old_is_refused),
        (Bug::RefusalForgotten, a_copy_that_is_two_starts_old_is_refused_and_stays_so),
    ];
    for (bug, scenario) in scenarios {
        plant::plant(Some(bug));
        let caught = catch_unwind(AssertUnwindSafe(scenario)).is_err();
        plant::plant(None);
        assert!(caught, "{bug:?} went unnoticed");
    }
}
