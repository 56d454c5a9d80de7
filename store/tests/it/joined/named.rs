//! Nodes that are announced by names: they join, replicate and forward by them, and are found again when a name leads elsewhere.

use std::time::Duration;

use engine::rt::sim::{Options, World};
use store::config::Config;

use super::clients::KEYS;
use super::nodes::{beside, stores};
use super::replicated::Run;
use bench::sim::callers::anywhere;

const RESP_PORT: u16 = 6380;

/// The first node has an address, the others have names, and no client asks.
fn named(seed: u64) -> Run {
    let mut run = Run::new(World::new(seed, Options::default()));
    let change: [fn(&mut Config); 2] = [
        |config| config.advertise = Some("one.test".to_owned()),
        |config| config.advertise = Some("two.test".to_owned()),
    ];
    run.members[1].change = change[0];
    run.members[2].change = change[1];
    run.world.name("one.test", &run.members[1].node);
    run.world.name("two.test", &run.members[2].node);
    run.shared.done.set(true);
    run
}

/// Every key can be written and read at every node.
fn serves(run: &Run) -> bool {
    let addrs = run.members.iter().map(|member| member.node.addr(RESP_PORT)).collect();
    beside(&run.world, move |rt| anywhere::ask_everywhere(rt, addrs, &KEYS)) == 2 * 3 * KEYS.len()
}

#[test]
fn nodes_with_names_join_replicate_and_forward() {
    let mut run = named(91);
    run.begin().expect("they join and replicate");
    let known: Vec<String> =
        stores(&run.world, run.members[0].pd()).into_iter().map(|(.., address)| address).collect();
    assert_eq!(known[1..], ["one.test:2001", "two.test:2001"]);
    assert!(serves(&run));
    run.members[1].end(true);
    run.pass(Duration::from_secs(20)).expect("nothing happens");
    run.members[1].start(&run.world, &[]).expect("it comes back");
    run.pass(Duration::from_secs(10)).expect("nothing happens");
    assert!(serves(&run));
}

#[test]
fn a_name_that_leads_elsewhere_is_resolved_again() {
    let mut run = named(92);
    let nowhere = run.world.node(30);
    run.world.name("two.test", &nowhere);
    let pd = run.members[0].pd();
    run.members[0].start(&run.world, &[]).expect("it begins");
    let refused = run.members[2].start(&run.world, &[pd]).expect_err("it is not where its name leads");
    assert!(refused.contains("two.test:2001") && refused.contains("advertise"), "{refused}");
    run.world.name("two.test", &run.members[2].node);
    run.members[2].start(&run.world, &[]).expect("its name leads to it");
    run.members[1].start(&run.world, &[pd]).expect("it joins");
    run.replicated().expect("they replicate");
    // The name leads elsewhere while all connections break, and back.
    run.world.name("two.test", &nowhere);
    for other in [0, 1] {
        run.world.reset(&run.members[2].node, &run.members[other].node);
    }
    run.pass(Duration::from_secs(10)).expect("nothing happens");
    run.world.name("two.test", &run.members[2].node);
    run.pass(Duration::from_secs(10)).expect("nothing happens");
    assert!(serves(&run));
}
