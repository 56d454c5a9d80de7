//! The time without writes after a leader was killed, seen by clients at the nodes that stay.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{HEARD, REST};
use crate::Failed;
use crate::clock::{now, pause};
use crate::process::Cluster;
use crate::random::Random;
use crate::resp::{command, line};

/// The longest gap that is waited for.
const GAP_MAX: Duration = Duration::from_secs(30);
/// Writers have written by then.
const WARM: Duration = Duration::from_millis(300);
/// The pause between two writes of a writer.
const APART: Duration = Duration::from_millis(2);

/// What writers and the one who kills share.
struct Shared {
    stop: AtomicBool,
    /// The leader is dead.
    killed: AtomicBool,
    /// Writers that had a write answered that they had begun after that.
    served: AtomicUsize,
}

/// Kills a node that leads something, starts it again, and returns how long each writer waited, milliseconds. Writers begin before that, or
/// after it where all is to be at rest.
pub(super) fn after_a_kill(
    cluster: &mut Cluster,
    random: &mut Random,
    at_rest: bool,
) -> Result<Vec<f64>, Failed> {
    cluster.wait_until_replicated()?;
    pause(if at_rest { REST } else { HEARD });
    let (regions, stores) = (cluster.regions()?, cluster.stores()?);
    let led_by = |region: &store::wire::proto::pdpb::Region| {
        let leader = region.leader.as_ref()?.store_id;
        stores.iter().position(|stores| stores.contains(&leader))
    };
    let drawn = random.below(regions.len() as u64) as usize;
    let victim = led_by(&regions[drawn]).ok_or_else(|| Failed::new("a region has no leader"))?;
    let keys: Vec<Vec<u8>> = regions
        .iter()
        .filter(|region| led_by(region) == Some(victim))
        .filter_map(|region| Some(key_of(&region.region.as_ref()?.start_key)))
        .collect();
    let others = cluster.nodes.iter().enumerate().filter(|(n, _)| *n != victim);
    let addrs: Vec<SocketAddr> = others.filter_map(|(_, node)| Some(node.as_ref()?.resp)).collect();
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        killed: AtomicBool::new(false),
        served: AtomicUsize::new(0),
    });
    let begin = || -> Vec<_> {
        let pairs = keys.iter().flat_map(|key| addrs.iter().map(move |addr| (key.clone(), *addr)));
        let begin = |(key, addr): (Vec<u8>, SocketAddr)| {
            let shared = shared.clone();
            std::thread::spawn(move || write_on(addr, &key, &shared))
        };
        pairs.map(begin).collect()
    };
    let mut writers = Vec::new();
    if !at_rest {
        writers = begin();
        pause(WARM);
    }
    let node = cluster.nodes[victim].as_mut().ok_or_else(|| Failed::new("the node does not run"))?;
    node.process.kill();
    let killed = now();
    shared.killed.store(true, Ordering::Release);
    if at_rest {
        writers = begin();
    }
    while shared.served.load(Ordering::Acquire) < writers.len() && killed.elapsed() < GAP_MAX {
        pause(Duration::from_millis(5));
    }
    shared.stop.store(true, Ordering::Release);
    let mut gaps = Vec::new();
    for writer in writers {
        let served = writer.join().map_err(|_| Failed::new("a writer panicked"))?;
        let served = served.ok_or_else(|| {
            Failed::new(format!(
                "after node {} was killed a write was not answered in {GAP_MAX:?}",
                victim + 1
            ))
        })?;
        gaps.push(served.saturating_duration_since(killed).as_secs_f64() * 1e3);
    }
    cluster.restart(victim)?;
    Ok(gaps)
}

/// A key of a region.
fn key_of(start: &[u8]) -> Vec<u8> {
    // A region ends above its start and a zero byte, unless it is the empty one that ends there.
    if start.is_empty() { vec![0] } else { start.to_vec() }
}

/// Writes until it is asked to stop. When the first write was answered that was begun after the kill, if one was.
fn write_on(addr: SocketAddr, key: &[u8], shared: &Shared) -> Option<Instant> {
    let (mut connection, mut served) = (None, None);
    while !shared.stop.load(Ordering::Acquire) {
        let after = shared.killed.load(Ordering::Acquire);
        connection = connection.or_else(|| open(addr));
        match connection.as_mut().map(|open| write(open, key)) {
            Some(Ok(true)) if after && served.is_none() => {
                served = Some(now());
                shared.served.fetch_add(1, Ordering::AcqRel);
            }
            // Refused, or its outcome is unknown: the next one may go through.
            Some(Ok(_)) => {}
            Some(Err(_)) | None => connection = None,
        }
        pause(APART);
    }
    served
}

fn open(addr: SocketAddr) -> Option<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(1)).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(GAP_MAX)).ok()?;
    Some(BufReader::new(stream))
}

/// Whether a write was acknowledged.
fn write(connection: &mut BufReader<TcpStream>, key: &[u8]) -> std::io::Result<bool> {
    let mut request = Vec::new();
    command(&mut request, &[b"SET", key, b"v"]);
    connection.get_mut().write_all(&request)?;
    let acknowledged = connection.fill_buf()?.first() == Some(&b'+');
    line(connection)?;
    Ok(acknowledged)
}
