//! One client with one durable put in flight: what a write costs above the minimum of the machine.
//!
//! The floor is one synced write of 4 KiB (the better of the two kinds) and one blocking round trip over loopback. All three
//! are sampled in turns within one run, because a disk drifts within minutes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::Failed;
use crate::clock::now;
use crate::disk::{Probe, machine, round_trips};
use crate::process::{Node, NodeOptions};
use crate::report::median;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start the node.
    pub node: NodeOptions,
    /// Where its data is, for the disk's floor.
    pub directory: PathBuf,
    /// Rounds, at least 1.
    pub rounds: usize,
    /// Puts per round.
    pub puts: usize,
    /// Length of a value, bytes.
    pub value_bytes: usize,
}

/// What was found, microseconds.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "each is the median of that name")]
pub struct LatencyFloorReport {
    pub machine: String,
    pub puts: usize,
    pub put_p50_us: f64,
    pub put_p99_us: f64,
    pub write_dsync_p50_us: f64,
    pub write_fdatasync_p50_us: f64,
    pub round_trip_p50_us: f64,
    pub floor_us: f64,
    pub ratio: f64,
}

/// Measures.
///
/// # Errors
/// The node does not start, or refuses a put.
pub fn measure(options: &Options, say: &mut dyn FnMut(&str)) -> Result<LatencyFloorReport, Failed> {
    let mut probe = Probe::new(&options.directory)?;
    let node = Node::start(&options.node)?;
    let mut client = TcpStream::connect(node.resp)?;
    client.set_nodelay(true)?;
    let (mut puts, mut dsync, mut fdatasync, mut trips) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // The first puts meet segments that are still being prepared.
    put_many(&mut client, options.puts.min(200), options.value_bytes)?;
    for round in 0..options.rounds {
        say(&format!("round {} of {}", round + 1, options.rounds));
        let (by_dsync, by_fdatasync) = probe.writes(options.puts)?;
        dsync.extend(by_dsync);
        fdatasync.extend(by_fdatasync);
        trips.push(round_trips(Duration::from_millis(300))?.p50);
        puts.extend(put_many(&mut client, options.puts, options.value_bytes)?);
    }
    let (write_dsync_p50_us, write_fdatasync_p50_us) = (median(&dsync), median(&fdatasync));
    let round_trip_p50_us = median(&trips);
    let floor_us = write_dsync_p50_us.min(write_fdatasync_p50_us) + round_trip_p50_us;
    let put_p50_us = median(&puts);
    puts.sort_by(f64::total_cmp);
    Ok(LatencyFloorReport {
        machine: machine(),
        puts: puts.len(),
        put_p50_us,
        put_p99_us: puts[puts.len() * 99 / 100],
        write_dsync_p50_us,
        write_fdatasync_p50_us,
        round_trip_p50_us,
        floor_us,
        ratio: put_p50_us / floor_us,
    })
}

/// Latency of each put, microseconds.
fn put_many(client: &mut TcpStream, count: usize, value_bytes: usize) -> Result<Vec<f64>, Failed> {
    let value = "v".repeat(value_bytes);
    let mut latencies = Vec::with_capacity(count);
    for n in 0..count {
        let key = format!("latency:{:08}", n % 4096);
        let request = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${value_bytes}\r\n{value}\r\n", key.len());
        let started = now();
        client.write_all(request.as_bytes())?;
        let mut answer = [0u8; 5];
        client.read_exact(&mut answer)?;
        latencies.push(started.elapsed().as_secs_f64() * 1e6);
        if &answer != b"+OK\r\n" {
            return Err(Failed::new(format!(
                "a put was answered with {:?}",
                String::from_utf8_lossy(&answer)
            )));
        }
    }
    Ok(latencies)
}

impl LatencyFloorReport {
    /// A table for people.
    pub fn table(&self) -> String {
        format!(
            "one client, one durable put in flight, {} puts, on {}\n\
             \x20 put                             p50 {:>6.0} us   p99 {:.0} us\n\
             \x20 4 KiB write, O_DSYNC            p50 {:>6.0} us\n\
             \x20 4 KiB write, then fdatasync     p50 {:>6.0} us\n\
             \x20 loopback round trip, blocking   p50 {:>6.0} us\n\
             \x20 put / (better write + trip)     {:.2}\n",
            self.puts,
            self.machine,
            self.put_p50_us,
            self.put_p99_us,
            self.write_dsync_p50_us,
            self.write_fdatasync_p50_us,
            self.round_trip_p50_us,
            self.ratio
        )
    }
}
