//! An older copy of a node's directory that is put back: other stores refuse it, and that it was refused is not forgotten by another start,
//! neither where it has counted as many openings by then nor where those who know better have been started again themselves.

use std::path::Path;
use std::time::Duration;

use super::asking::{Run, voters};

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
    let said = remembered(&run, member).expect("it was told");
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
