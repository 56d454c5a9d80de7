//! Groups that sleep in a simulated cluster: what wakes them although nothing is asked, and what a leader that sleeps must not answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bench::sim::clients;
use bench::sim::judge::{Action, Heard};
use bench::sim::nodes::{NODES, regions};
use bench::sim::run::Run;
use engine::rt::sim::{Options, World};
use store::plant::{self, Bug};

/// What one seed showed.
type Scenario = fn(u64) -> Result<(), String>;

/// Nodes with leases of so long whose groups sleep.
fn asleep(seed: u64, lease: Duration) -> Result<Run, String> {
    let mut run = Run::over(World::new(seed, Options::default()), lease);
    (0..NODES).for_each(|number| run.nodes.start(number));
    run.pass(Duration::from_secs(4))?;
    run.rest()?;
    let replicas = (NODES * regions().len()) as u64;
    match run.asleep() {
        count if count == replicas => Ok(run),
        count => Err(format!("{count} of {replicas} replicas sleep")),
    }
}

fn ask(run: &Run, node: usize, action: Action) -> Option<Option<Heard>> {
    let (addrs, asking) = (run.nodes.addrs(), run.world.node(NODES));
    run.world.block_on(asking.start(0, move |rt| clients::ask_node(rt, addrs, node, "a", action, false)))
}

fn set(text: &str) -> Action {
    Action::Set(text.to_owned())
}

/// The node of a leader ends while all sleep, and no client asks anything until there is another one.
fn end_the_leader(seed: u64) -> Result<(), String> {
    let mut run = asleep(seed, Duration::from_millis(800))?;
    let region = regions()[0].id;
    let (old, _) = run.nodes.leader(region).ok_or("no leader")?;
    run.end_at_rest(old, seed.is_multiple_of(2))?;
    let (new, _) = run.nodes.leader(region).ok_or("no leader")?;
    if new == old || ask(&run, new, set("new")) != Some(Some(Heard::Done)) {
        return Err("the next leader takes no write".to_owned());
    }
    run.pass(Duration::from_secs(10))?;
    match run.asleep() {
        6 => run.agree(),
        count => Err(format!("{count} of 6 replicas sleep again")),
    }
}

/// A leader that sleeps, and whose clock has nearly stopped, is cut off. What it answers once there is another one.
fn ask_a_sleeper_that_was_deposed(seed: u64) -> Result<(), String> {
    let mut run = asleep(seed, Duration::ZERO)?;
    let region = regions()[0].id;
    let (old, shard) = run.nodes.leader(region).ok_or("no leader")?;
    run.nodes.node(old).drift(-999_000);
    for other in (0..NODES).filter(|other| *other != old) {
        run.world.cut(run.nodes.node(old), run.nodes.node(other));
    }
    run.pass(Duration::from_secs(6))?;
    let (new, _) = run.nodes.leader(region).ok_or("no leader")?;
    if new == old || ask(&run, new, set("new")) != Some(Some(Heard::Done)) {
        return Err("no other leader took over".to_owned());
    }
    if shard.snapshot().groups.asleep == 0 {
        return Err("the old leader does not sleep: the test does not test".to_owned());
    }
    match ask(&run, old, Action::Get) {
        Some(None) => Ok(()),
        answer => Err(format!("the deposed leader answered {answer:?}")),
    }
}

/// A leader falls asleep with its lease in force and is cut off at once, and its clock is off by `drift` from then on. What it answers from
/// the moment on at which another one has taken a write.
fn ask_a_sleeper_with_a_lease(seed: u64, drift: i64) -> Result<(), String> {
    let mut run = asleep(seed, Duration::from_millis(800))?;
    let region = regions()[0].id;
    let (old, shard) = run.nodes.leader(region).ok_or("no leader")?;
    if ask(&run, old, set("old")) != Some(Some(Heard::Done)) {
        return Err("the leader takes no write".to_owned());
    }
    while !shard.status(region).is_some_and(|it| it.asleep) {
        run.pass(Duration::from_millis(5))?;
    }
    run.nodes.node(old).drift(drift);
    for other in (0..NODES).filter(|other| *other != old) {
        run.world.cut(run.nodes.node(old), run.nodes.node(other));
    }
    if ask(&run, old, Action::Get) != Some(Some(Heard::Value(Some("old".to_owned())))) {
        return Err("it has no lease: the test does not test".to_owned());
    }
    let until = run.world.now() + Duration::from_secs(6);
    while run.world.now() < until && run.nodes.leader(region).is_none_or(|(leader, _)| leader == old) {
        run.pass(Duration::from_millis(5))?;
    }
    let (new, _) = run.nodes.leader(region).ok_or("no leader")?;
    if new == old || ask(&run, new, set("new")) != Some(Some(Heard::Done)) {
        return Err("no other leader took over".to_owned());
    }
    match ask(&run, old, Action::Get) {
        Some(None) => Ok(()),
        answer => Err(format!("the deposed leader answered {answer:?}")),
    }
}

/// The disk of a leader hangs while all sleep, and a write of the other region is the first to notice. Its core goes on, and so would its
/// signs of life; the region that sleeps on it is led elsewhere all the same.
fn hang_the_disk_of_the_leader(seed: u64) -> Result<(), String> {
    let mut run = asleep(seed, Duration::from_millis(800))?;
    let region = regions()[0].id;
    let (old, _) = run.nodes.leader(region).ok_or("no leader")?;
    run.nodes.node(old).disk().hang();
    let (other, _) = run.nodes.leader(regions()[1].id).ok_or("no leader")?;
    let (addrs, asking) = (run.nodes.addrs(), run.world.node(NODES + 1));
    drop(asking.start(0, move |rt| clients::ask_node(rt, addrs, other, "z", set("noticed"), false)));
    // Half a second until it sends no more signs of life, one until it is missed, and up to two election timeouts, or twice that where two
    // candidates meet.
    run.pass(Duration::from_secs(6))?;
    let (new, _) = run.nodes.leader(region).ok_or("no leader")?;
    if new == old || ask(&run, new, set("new")) != Some(Some(Heard::Done)) {
        return Err("a store that can write nothing is trusted".to_owned());
    }
    let stuck = |run: &Run| -> Vec<usize> {
        run.nodes.serving().filter(|(_, shard)| shard.is_stuck()).map(|it| it.0).collect()
    };
    assert_eq!(stuck(&run), vec![old], "who says so to the scheduler");
    run.nodes.node(old).disk().unhang(&run.world);
    run.pass(Duration::from_secs(10))?;
    assert!(stuck(&run).is_empty(), "its disk goes on");
    run.agree()
}

#[test]
fn groups_that_sleep_on_a_disk_that_hangs_are_led_elsewhere() {
    for seed in 0..10 {
        assert_eq!(hang_the_disk_of_the_leader(seed), Ok(()), "seed {seed}");
    }
}

#[test]
fn groups_that_sleep_replace_a_leader_that_is_gone() {
    for seed in 0..10 {
        assert_eq!(end_the_leader(seed), Ok(()), "seed {seed}");
    }
}

#[test]
fn a_leader_that_sleeps_answers_nothing_after_its_lease() {
    for seed in 0..5 {
        assert_eq!(ask_a_sleeper_that_was_deposed(seed), Ok(()), "seed {seed}");
    }
}

/// By the tenth that voters allow for, a clock may be slow. One that has nearly stopped shows that the test would see it.
#[test]
fn a_lease_that_a_leader_sleeps_with_ends_by_its_clock() {
    for seed in 0..5 {
        assert_eq!(ask_a_sleeper_with_a_lease(seed, -90_000), Ok(()), "seed {seed}");
    }
    let stopped = ask_a_sleeper_with_a_lease(0, -999_000).expect_err("no lease can bear that");
    assert!(stopped.starts_with("the deposed leader answered"), "{stopped}");
}

#[test]
fn a_write_and_a_read_wake_a_group_wherever_they_come() {
    let run = asleep(3, Duration::from_millis(800)).expect("it is left alone");
    let (leader, _) = run.nodes.leader(regions()[0].id).expect("it is led");
    assert_eq!(ask(&run, leader, set("kept")), Some(Some(Heard::Done)));
    let mut run = run;
    run.pass(Duration::from_secs(5)).expect("it is left alone");
    assert_eq!(run.asleep(), 6);
    let (addrs, asking) = (run.nodes.addrs(), run.world.node(NODES));
    let follower = (leader + 1) % NODES;
    let read =
        asking.start(0, move |rt| clients::read_replica(rt, addrs, follower, "a", Duration::from_secs(2)));
    let kept = Some(Some(Heard::Value(Some("kept".to_owned()))));
    assert_eq!(run.world.block_on(read), kept, "of a follower that sleeps");
    run.pass(Duration::from_secs(5)).expect("it is left alone");
    assert_eq!(run.asleep(), 6, "they sleep again");
}

#[test]
fn bugs_of_sleep_are_caught() {
    let scenarios: [(Bug, Scenario); 3] = [
        (Bug::DeadStoreIgnored, end_the_leader),
        (Bug::LeaseKeptAsleep, ask_a_sleeper_that_was_deposed),
        (Bug::StuckStoreGreets, hang_the_disk_of_the_leader),
    ];
    for (bug, scenario) in scenarios {
        plant::plant(Some(bug));
        let caught = catch_unwind(AssertUnwindSafe(|| scenario(0)));
        plant::plant(None);
        assert!(caught.map_or(true, |verdict| verdict.is_err()), "{bug:?} went unnoticed");
    }
}
