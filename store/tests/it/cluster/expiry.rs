//! Values that expire, in a cluster: the moment is that of the leader that took the write, and stays the same through power cuts, other
//! leaders and snapshots; at it the key is gone on every node whose clock says so.

use std::time::Duration;

use engine::rt::sim::{Options, World};

use super::Run;
use super::computed::ask;
use super::nodes::{NODES, regions};
use super::snapshots::{Lag, round};

const HOUR_NS: i64 = 3_600_000_000_000;

/// What the leader of the region of `a` answers over RESP, and which node that is.
fn ask_leader(run: &mut Run, said: &'static str, lines: usize) -> Result<(usize, String), String> {
    for _ in 0..100 {
        let (leader, _) = run.nodes.leader(regions()[0].id).ok_or("no leader")?;
        let addr = run.nodes.resp_addrs()[leader];
        let asked = run.world.node(NODES).start(0, move |rt| ask(rt, addr, said, lines));
        let answer = run.world.block_on(asked).ok_or("the client does not end")?;
        // A leader that is new may have to find out first.
        if !answer.contains("-CLUSTERDOWN") && !answer.contains("-TRYAGAIN") {
            return Ok((leader, answer));
        }
        run.pass(Duration::from_millis(200))?;
    }
    Err(format!("{said:?} is refused for good"))
}

fn expect(run: &mut Run, said: &'static str, expected: &str) -> Result<usize, String> {
    let (leader, answer) = ask_leader(run, said, expected.lines().count())?;
    if answer == expected {
        Ok(leader)
    } else {
        Err(format!("{said:?} was answered {answer:?}, not {expected:?}"))
    }
}

fn started(seed: u64) -> Result<Run, String> {
    let mut run = Run::over(World::new(seed, Options::default()), Duration::ZERO);
    (0..NODES).for_each(|number| run.nodes.start(number));
    run.pass(Duration::from_secs(4))?;
    Ok(run)
}

fn outlive(seed: u64) -> Result<(), String> {
    let mut run = started(seed)?;
    expect(
        &mut run,
        "SET a v EX 3600\r\nSETEX b 3600 1\r\nSET c stays\r\nINCR b\r\n",
        "+OK\r\n+OK\r\n+OK\r\n:2\r\n",
    )?;
    let said = "PEXPIRETIME a\r\nPEXPIRETIME b\r\n";
    let (first, moments) = ask_leader(&mut run, said, 2)?;
    if moments.contains('-') {
        return Err(format!("{moments:?} are no moments"));
    }
    // Through the logs.
    (0..NODES).for_each(|number| run.nodes.end(number, true));
    (0..NODES).for_each(|number| run.nodes.start(number));
    run.pass(Duration::from_secs(8))?;
    expect(&mut run, said, &moments)?;
    // Another leader, whose clock is another one.
    let (old, _) = run.nodes.leader(regions()[0].id).ok_or("no leader")?;
    (0..NODES)
        .filter(|number| *number != old)
        .for_each(|number| run.nodes.node(number).jump_wall(HOUR_NS / 10));
    run.nodes.end(old, false);
    run.pass(Duration::from_secs(8))?;
    let new = expect(&mut run, said, &moments)?;
    if new == old {
        return Err(format!("no other leader took over: {first} {old} {new}"));
    }
    expect(&mut run, "MGET a b c\r\nDBSIZE\r\n", "*3\r\n$1\r\nv\r\n$1\r\n2\r\n$5\r\nstays\r\n:3\r\n")?;
    run.nodes.start(old);
    run.pass(Duration::from_secs(8))?;
    (0..NODES).for_each(|number| run.nodes.node(number).jump_wall(HOUR_NS));
    let gone = "MGET a b c\r\nDBSIZE\r\nTTL a\r\nKEYS *\r\nSETNX a w\r\nINCR b\r\nTTL b\r\nMULTI\r\nGET a\r\nEXEC\r\n";
    let answers = "*3\r\n$-1\r\n$-1\r\n$5\r\nstays\r\n:1\r\n:-2\r\n*1\r\n$1\r\nc\r\n:1\r\n:1\r\n:-1\r\n+OK\r\n+QUEUED\r\n*1\r\n$1\r\nw\r\n";
    expect(&mut run, gone, answers)?;
    run.agree()
}

#[test]
fn a_moment_outlives_power_and_leaders_and_comes_everywhere() {
    for seed in 0..4 {
        assert_eq!(outlive(seed), Ok(()), "seed {seed}");
    }
}

/// What is in flight has expired when it is asked for: a comparison must not take it for there.
#[test]
fn a_value_in_flight_is_gone_at_its_moment() {
    let run = started(1).unwrap();
    let (leader, _) = run.nodes.leader(regions()[0].id).unwrap();
    let addr = run.nodes.resp_addrs()[leader];
    (0..NODES).filter(|number| *number != leader).for_each(|number| run.nodes.node(number).disk().slow(300));
    let said = "PSETEX a 5 v\r\nPSETEX b 5 v\r\n";
    let later = "SETNX a w\r\nMULTI\r\nGET b\r\nTTL b\r\nSETNX b w\r\nEXEC\r\nGET a\r\nTTL a\r\n";
    let first = run.world.node(NODES).start(0, move |rt| ask(rt, addr, said, 2));
    run.world.run_for(Duration::from_millis(3));
    run.nodes.node(leader).jump_wall(HOUR_NS);
    let second = run.world.node(NODES).start(1, move |rt| ask(rt, addr, later, 12));
    run.world.run_for(Duration::from_millis(3));
    let status = run.nodes.shard(leader).unwrap().status(regions()[0].id).unwrap();
    assert!(status.applied < status.last.index, "nothing is in flight: {status:?}");
    (0..NODES).for_each(|number| run.nodes.node(number).disk().slow(1));
    assert_eq!(run.world.block_on(first).unwrap(), "+OK\r\n+OK\r\n");
    let queued = "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n";
    let expected = format!(":1\r\n{queued}*3\r\n$-1\r\n:-2\r\n:1\r\n$1\r\nw\r\n:-1\r\n");
    assert_eq!(run.world.block_on(second).unwrap(), expected);
}

/// The follower gets the moments with the tables, and goes by its own clock.
#[test]
fn a_snapshot_carries_the_moments() {
    let mut lag = Lag::new(World::new(1, Options::default()), 1).unwrap();
    expect(&mut lag.run, "SETEX k010 3600 soon\r\nSETEX k011 9000 later\r\n", "+OK\r\n+OK\r\n").unwrap();
    // What is over already travels as well, and no reader sees it.
    expect(&mut lag.run, "PSETEX k012 1 over\r\n", "+OK\r\n").unwrap();
    lag.forget(1).unwrap();
    lag.run.world.heal_network();
    lag.catch_up(1).unwrap();
    let held = |lag: &Lag| lag.held(0).unwrap().get("k010").cloned();
    let others = lag.held(0).unwrap().len();
    assert_eq!((held(&lag).as_deref(), lag.held(0).unwrap().get("k012")), (Some("soon"), None));
    assert_eq!(others, round(2).iter().filter(|(_, value)| value.is_some()).count() - 1);
    lag.run.nodes.node(lag.follower).jump_wall(HOUR_NS);
    assert_eq!(held(&lag), None);
    assert_eq!(lag.held(0).unwrap().len(), others - 1);
    lag.run.nodes.node(lag.follower).jump_wall(-HOUR_NS);
    assert_eq!(held(&lag).as_deref(), Some("soon"), "the clock is what was wrong, not the value");
}
