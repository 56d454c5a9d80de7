//! The power goes at every change that a join makes on the disk: what is left is an empty directory or a member, and ids that were lost
//! on the way are never used again.

use std::time::Duration;

use engine::rt::sim::{Options, World};

use super::nodes::{Member, stores};

/// What a join says where the simulated network was too slow for it.
const WEATHER: &str = "no member of the cluster answers";

/// Joins with a power cut at change `point`, then again until it is a member, and once more. Whether the cut came.
fn join_with_a_cut(point: u64) -> bool {
    let world = World::new(900 + point, Options::rough(900 + point));
    let (mut host, mut other) = (Member::new(&world, 0, 1), Member::new(&world, 1, 1));
    host.start(&world, &[]).expect("a cluster of one begins");
    let mut tries = 0;
    let ended = loop {
        tries += 1;
        let disk = other.node.disk();
        disk.stop_at(disk.changes() + point);
        other.begin(&[host.pd()]);
        // A disk that has stopped finishes no read, either.
        let over = || other.said().is_some() || other.node.disk().has_stopped();
        let ended = world.run_until(Duration::from_secs(40), over);
        let cut = other.node.disk().has_stopped();
        match other.said() {
            // The weather is rough: the join has not come to its end, so it is made once more.
            Some(Err(why)) if tries < 5 && !cut && why.contains(WEATHER) => {
                other.end(false);
            }
            Some(Err(why)) if !cut => panic!("cut at {point}: {why}"),
            Some(Ok(_) | Err(_)) | None => break ended,
        }
    };
    if ended && !other.node.disk().has_stopped() {
        return false;
    }
    // What else is on its way may arrive, or not.
    world.run_for(Duration::from_millis(world.below(2000)));
    other.end(true);
    let before = stores(&world, host.pd());
    let has_identity = other.has_identity();
    // With an identity it needs no flag; without one it would begin a cluster of its own.
    let members = if has_identity { Vec::new() } else { vec![host.pd()] };
    let mut tries = 0;
    let started = loop {
        tries += 1;
        match other.start(&world, &members) {
            Ok(started) => break started,
            // The start has left nothing behind and is made once more.
            Err(why) if tries < 5 && why.contains(WEATHER) => {}
            Err(why) => panic!("cut at {point}: {why}"),
        }
    };
    let joined = stores(&world, host.pd());
    assert_eq!(joined.len(), 2, "cut at {point}: {joined:?}");
    assert!(before.iter().all(|known| joined.contains(known)), "cut at {point}: {before:?}, then {joined:?}");
    assert_eq!(joined[1].1, started.identity.node, "cut at {point}");
    other.end(true);
    host.end(true);
    host.start(&world, &[]).expect("it comes back");
    other.start(&world, &[]).unwrap_or_else(|why| panic!("cut at {point}: {why}"));
    assert_eq!(stores(&world, host.pd()), joined, "cut at {point}");
    true
}

#[test]
fn a_join_that_is_cut_anywhere_leaves_nothing_or_a_member() {
    let points = (0..).find(|point| !join_with_a_cut(*point)).expect("a join ends");
    assert!(points > 10, "only {points} changes");
}
