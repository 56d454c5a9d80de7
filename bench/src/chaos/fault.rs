//! One fault after the other, drawn from a seed, and mended before the next.

use std::time::Duration;

use super::{ChaosReport, DRAIN_MAX};
use crate::Failed;
use crate::clock::pause;
use crate::process::Cluster;
use crate::random::Random;

/// The longest time between two faults.
const CALM_MAX: Duration = Duration::from_millis(2500);
/// The longest time that a node is down, paused or cut off. Longer than two elections take.
const DOWN_MAX: Duration = Duration::from_millis(6000);

/// The time before the next fault.
pub(super) fn calm(random: &mut Random) -> Duration {
    some_of(random, CALM_MAX)
}

fn some_of(random: &mut Random, most: Duration) -> Duration {
    Duration::from_millis(random.below(most.as_millis() as u64 + 1))
}

/// One fault, and its end.
pub(super) fn disturb(
    cluster: &mut Cluster,
    random: &mut Random,
    report: &mut ChaosReport,
    say: &mut dyn FnMut(&str),
) -> Result<(), Failed> {
    if let Some((n, how)) = cluster.ended() {
        return Err(Failed::new(format!("node {} ended by itself: {how}", n + 1)));
    }
    let n = random.below(cluster.nodes.len() as u64) as usize;
    let down = some_of(random, DOWN_MAX);
    let node = cluster.nodes[n].as_mut().expect("every node runs between two faults");
    match random.below(16) {
        0..4 => {
            say(&format!("node {} is killed for {} ms", n + 1, down.as_millis()));
            report.kills += 1;
            node.process.kill();
            pause(down);
            cluster.restart(n)?;
        }
        4..7 => {
            say(&format!("node {} is paused for {} ms", n + 1, down.as_millis()));
            report.pauses += 1;
            node.process.pause();
            pause(down);
            node.process.resume();
        }
        7..9 => {
            say(&format!("node {} is drained", n + 1));
            report.drains += 1;
            node.process.ask_to_end();
            node.process.wait(DRAIN_MAX)?;
            cluster.restart(n)?;
        }
        9..15 => cut(cluster, n, down, random, report, say),
        _ => {
            say("all nodes are killed");
            report.blackouts += 1;
            cluster.nodes.iter_mut().flatten().for_each(|node| node.process.kill());
            (0..cluster.nodes.len()).try_for_each(|n| cluster.restart(n).map(drop))?;
        }
    }
    Ok(())
}

/// Links of a node are cut for a while: to all others or to one, in both directions or in one.
fn cut(
    cluster: &Cluster,
    n: usize,
    down: Duration,
    random: &mut Random,
    report: &mut ChaosReport,
    say: &mut dyn FnMut(&str),
) {
    let others: Vec<usize> = (0..cluster.nodes.len()).filter(|other| *other != n).collect();
    let Some(one) = others.get(random.below(others.len().max(1) as u64) as usize).copied() else { return };
    let (whom, name) = match random.below(2) {
        0 => (others, "the others".to_owned()),
        _ => (vec![one], format!("node {}", one + 1)),
    };
    let (to, from, what) = match random.below(3) {
        0 => (true, true, "and back"),
        1 => (true, false, "and not back"),
        _ => (false, true, "in the other direction only"),
    };
    say(&format!("node {} is cut off from {name} {what} for {} ms", n + 1, down.as_millis()));
    if to && from {
        report.cuts += 1
    } else {
        report.one_way_cuts += 1
    }
    for other in whom {
        if to {
            cluster.network().cut(n, other);
        }
        if from {
            cluster.network().cut(other, n);
        }
    }
    pause(down);
    cluster.network().heal();
}
