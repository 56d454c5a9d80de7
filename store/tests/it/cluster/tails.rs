//! A follower whose log has lost its end to damage may have vouched for what is gone. It votes for none who lacks it, and leads only once
//! the group has given it back; so what was acknowledged stays, also where it and one that never had it are all that is up.

use std::time::Duration;

use bench::sim::judge::{Action, Heard};
use engine::rt::sim::{Options, World};

use super::nodes::{NODES, regions};
use super::{Run, clients};

/// Long enough for many elections.
const ELECTIONS: Duration = Duration::from_secs(20);
const BLOCK_BYTES: usize = 4096;

fn ask(run: &Run, node: usize, action: Action) -> Option<Option<Heard>> {
    let (addrs, asking) = (run.nodes.addrs(), run.world.node(NODES));
    run.world.block_on(asking.start(0, move |rt| clients::ask_node(rt, addrs, node, "a", action, false)))
}

/// Damages the record of a node's log that has `mark`, and what follows it, in more than a bit. How many records it found.
fn damage_tail(run: &Run, node: usize, mark: &str) -> usize {
    let (disk, mut found) = (run.nodes.node(node).disk(), 0);
    for (path, mut bytes) in disk.contents() {
        let place = bytes.windows(mark.len()).rposition(|window| window == mark.as_bytes());
        let Some(place) = place.filter(|_| path.to_string_lossy().contains("/log/")) else { continue };
        bytes[place / BLOCK_BYTES * BLOCK_BYTES + BLOCK_BYTES..].fill(0);
        bytes[place..place + 8].fill(0);
        disk.write(&path, &bytes);
        found += 1;
    }
    found
}

/// One member is down while a write is acknowledged by the two others; then these lose their power, and the tail of the follower is
/// damaged.
fn lose_a_vouched_tail(seed: u64) {
    let mut run = Run::over(World::new(seed, Options::default()), Duration::ZERO);
    (0..NODES).for_each(|number| run.nodes.start(number));
    let region = regions()[0].id;
    run.pass(Duration::from_secs(4)).expect("it is left alone");
    let (leader, _) = run.nodes.leader(region).expect("it is led");
    let (behind, witness) = ((leader + 1) % NODES, (leader + 2) % NODES);
    run.nodes.end(behind, true);
    let kept = "acknowledged by two of three";
    assert_eq!(ask(&run, leader, Action::Set(kept.to_owned())), Some(Some(Heard::Done)), "seed {seed}");
    [leader, witness].into_iter().for_each(|number| run.nodes.end(number, true));
    assert_eq!(damage_tail(&run, witness, kept), 1, "seed {seed}: the follower has it once");
    [behind, witness].into_iter().for_each(|number| run.nodes.start(number));
    run.pass(ELECTIONS).expect("nothing wrong is found");
    let cut = run.nodes.shard(witness).expect("it is up").snapshot().health.in_doubt;
    assert!(cut.is_some_and(|cut| cut.contains("claims entries")), "seed {seed}: nothing was cut");
    assert!(run.nodes.leader(region).is_none(), "seed {seed}: led by one who lacks what was acknowledged");
    run.nodes.start(leader);
    run.pass(ELECTIONS).expect("nothing wrong is found");
    let (new, _) = run.nodes.leader(region).expect("who has it can lead");
    let found = ask(&run, new, Action::Get);
    assert_eq!(found, Some(Some(Heard::Value(Some(kept.to_owned())))), "seed {seed}");
}

#[test]
fn a_follower_with_a_damaged_tail_elects_none_who_lacks_what_it_vouched_for() {
    (0..5).for_each(lose_a_vouched_tail);
}
