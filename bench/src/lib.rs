//! Load and judgement: what ringkeep does, how fast, and against what.
//!
//! | module | owns |
//! |---|---|
//! | [`workload`], [`distribution`], [`random`] | which operation comes next: the published YCSB mixes, from a seed |
//! | [`client`] | one connection to a server, RESP, TiKV's gRPC or etcd's, with many requests in flight |
//! | [`backlog`] | what a node says of its backlog meanwhile |
//! | [`load`] | connections, open and closed loop, latency from the moment a request was due |
//! | [`disk`] | the physical limit: synced writes, random reads, a loopback round trip |
//! | [`compare`] | the same load on Redis, etcd or another build and on ringkeep, in turn, with CPU per operation |
//! | [`latency`], [`idle`] | one client with one request; a node with none |
//! | [`regions`] | what regions at rest cost, by their number: memory, starts, CPU |
//! | [`timestamps`] | timestamps over the wire, and what they cost the node |
//! | [`protocols`] | what a request costs over gRPC and over RESP |
//! | [`pressure`] | whether a put is ever late for another reason than the disk |
//! | [`abuse`] | clients that ask for too much, ordinary writes and a start after them: the node's memory, and a bystander's latency |
//! | [`crash`] | writers, SIGKILL, restart, and whether everything acknowledged is still there |
//! | [`chaos`] | a cluster of processes that are killed, paused and cut off, and what its clients saw |
//! | [`cluster`] | a cluster of processes that a node joins, one leaves for good and one is drained of: how even and whole it ends |
//! | [`judge`] | histories of keys that clients share, and whether they can have happened |
//! | [`failover`], [`steady`] | what clients notice when a leader is killed, hands over or is drained |
//! | [`catchup`] | a follower that was away: what clients of the others notice, and the bytes that it is sent |
//! | [`scale`] | what a second core is worth to keys that begin alike; the gap in acknowledgements of a move and of a split |
//! | `sim` | a cluster in the simulated world: faults from a seed, histories judged (feature `sim`) |
//! | [`scheduler`] | the scheduler's policies at the size of a large cluster |
//! | [`report`] | what was found, as a table and as JSON |
//! | [`process`], [`clock`] | children and their CPU time; time outside the runtime seam |
//!
//! A figure counts when both sides ran on this machine in this run, in turn, as a ratio of medians, with the CPU time per
//! operation beside it and the disk's own limits under it. So every report carries those limits.
//!
//! # Not done here, on purpose
//! * Nothing prints: results are values, and the binary shows them.
//! * One core makes the load. A machine that saturates it starts several processes.
//! * A crash here is a process that dies. A power cut, which also takes the page cache, is the simulator's work.

pub mod abuse;
pub mod backlog;
pub mod catchup;
pub mod chaos;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod compare;
pub mod crash;
pub mod disk;
pub mod distribution;
pub mod failover;
pub mod idle;
pub mod judge;
#[cfg(test)]
mod judge_tests;
pub mod latency;
pub mod load;
pub mod pressure;
pub mod process;
pub mod protocols;
pub mod random;
pub mod regions;
pub mod report;
mod resp;
pub mod scale;
pub mod scheduler;
#[cfg(feature = "sim")]
pub mod sim;
pub mod steady;
pub mod timestamps;
pub mod workload;

/// Why a measurement ended early: one sentence that names the culprit.
#[derive(Debug)]
pub struct Failed(pub String);

impl Failed {
    /// A failure with its context.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}
