//! Writes that depend on the value before them, asked of a leader that has just been elected and has not applied what its predecessor
//! committed: they are computed from that, and not from the state that the leader happens to have.

use std::time::Duration;

use engine::rt::Rt;
use engine::rt::sim::{Options, World};

use super::Run;
use super::nodes::{NODES, regions};

/// What is written and acknowledged before.
const BEFORE: &str = "SET a first\r\nSET b 41\r\nSET c 7\r\n";

/// A command, and what it is answered after [`BEFORE`].
#[derive(Debug)]
pub(super) struct Command {
    said: &'static str,
    answer: &'static str,
}

pub(super) const COMMANDS: [Command; 4] = [
    Command { said: "SETNX a second\r\n", answer: ":0\r\n" },
    Command { said: "INCR b\r\n", answer: ":42\r\n" },
    Command { said: "APPEND a !\r\n", answer: ":6\r\n" },
    Command { said: "MULTI\r\nINCR c\r\nEXEC\r\n", answer: "+OK\r\n+QUEUED\r\n*1\r\n:8\r\n" },
];

/// What a node answers over RESP, once it has answered with as many lines as are expected or with an error.
pub(super) async fn ask(rt: Rt, addr: std::net::SocketAddr, said: &str, lines: usize) -> String {
    let mut stream = rt.connect(addr).await.expect("it listens");
    stream.write_all(said.as_bytes()).await.expect("a socket");
    let (mut answer, mut buffer) = (String::new(), [0; 256]);
    let is_whole =
        |answer: &str| answer.ends_with("\r\n") && (answer.lines().count() >= lines || has_error(answer));
    while !is_whole(&answer) {
        match stream.read(&mut buffer).await {
            Ok(bytes @ 1..) => answer.push_str(&String::from_utf8_lossy(&buffer[..bytes])),
            Ok(0) | Err(_) => break,
        }
    }
    answer
}

fn has_error(answer: &str) -> bool {
    answer.lines().any(|line| line.starts_with('-'))
}

/// All members lose their power, and of the two that come back one is elected. What was acknowledged lies in its log and not in its tree
/// yet: the other one's disk is slow, and before it has the first entry of the new term nothing is known to be committed.
pub(super) fn ask_a_leader_that_lags(seed: u64, command: &'static Command) -> Result<(), String> {
    let mut run = Run::over(World::new(seed, Options::default()), Duration::ZERO);
    (0..NODES).for_each(|number| run.nodes.start(number));
    let region = regions()[0].id;
    run.pass(Duration::from_secs(4))?;
    let (old, _) = run.nodes.leader(region).ok_or("no leader")?;
    let resp = run.nodes.resp_addrs();
    let at_old = resp[old];
    let written = run.world.node(NODES).start(0, move |rt| ask(rt, at_old, BEFORE, 3));
    match run.world.block_on(written) {
        Some(done) if done == "+OK\r\n+OK\r\n+OK\r\n" => {}
        answer => return Err(format!("the writes before were answered {answer:?}")),
    }
    (0..NODES).for_each(|number| run.nodes.end(number, true));
    let followers: Vec<usize> = (0..NODES).filter(|number| *number != old).collect();
    followers.iter().for_each(|number| run.nodes.start(*number));
    let is_led = || run.nodes.leader(region).is_some();
    if !run.world.run_until(Duration::from_secs(20), is_led) {
        return Err("no other leader took over".to_owned());
    }
    let (new, shard) = run.nodes.leader(region).ok_or("no leader")?;
    followers
        .iter()
        .filter(|number| **number != new)
        .for_each(|number| run.nodes.node(*number).disk().slow(20_000));
    let status = shard.status(region).ok_or("the leader has no replica")?;
    assert!(status.applied < status.last.index, "seed {seed}: the test does not test: {status:?}");
    let at_new = resp[new];
    let lines = command.answer.lines().count();
    let asked = run.world.node(NODES).start(0, move |rt| ask(rt, at_new, command.said, lines));
    run.world.run_for(Duration::from_millis(50));
    followers.iter().for_each(|number| run.nodes.node(*number).disk().slow(1));
    let mut answer = run.world.block_on(asked).ok_or("the client does not end")?;
    // It may be refused until the leader knows, and is asked again then.
    for _ in 0..100 {
        if !has_error(&answer) {
            break;
        }
        run.world.run_for(Duration::from_millis(100));
        let asked = run.world.node(NODES).start(0, move |rt| ask(rt, at_new, command.said, lines));
        answer = run.world.block_on(asked).ok_or("the client does not end")?;
    }
    match answer == command.answer {
        true => Ok(()),
        false => Err(format!("{:?} was answered {answer:?}", command.said)),
    }
}

#[test]
fn a_new_leader_computes_from_what_was_acknowledged_before_it() {
    for command in &COMMANDS {
        for seed in 0..10 {
            assert_eq!(ask_a_leader_that_lags(seed, command), Ok(()), "seed {seed}");
        }
    }
}
