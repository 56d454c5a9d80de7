//! Budgets, derived from one setting: the node's memory.
//!
//! ```text
//! a core's share     of 128 MiB   of 1 GiB   what
//! 32 MiB + 3/16          56 MiB     80 MiB   fixed, 80 MiB at most: buffers of direct IO, blocks of a merge, copies of large values, code
//! 3/16                   24        192       memtables: one that fills, two that wait for their flush or are being flushed
//! 1/2 - fixed             8        432       blocks and rows of tables
//! 1/16, at most 32 MiB    8         32       writes in flight; each exists about three times, as value, command and record
//! 1/16, at most 32 MiB    8         32       requests that are not answered
//! 1/8                    16        128       answers that are not sent
//! 1/32                    4         32       recent records of the log
//! ```
//!
//! The PD port may hold half of what one core may of requests, and a quarter of what it may of answers. The rest, and a quarter on top of
//! `memory_bytes`, is for this, copies in flight and the allocator's slack. Recovery reads the log in
//! pieces and lives on the same budgets. Every field is per core. A node has [`NODE_BYTES_MIN`] at least, because what a process needs
//! however few its cores does not fit into the quarter on top of less.

use engine::host::too_few_open_files;

use super::Config;
use crate::memory::MemoryLimits;

/// What the host offers to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Cores that the process may use.
    pub cores: usize,
    /// Memory that the process may use, bytes: the host's, or the cgroup's if that is less.
    pub memory_bytes: u64,
    /// Files and sockets that the process may have open.
    pub open_files: u64,
}

/// The bounds that the code works with, per core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Cores that serve, each with one store or more.
    pub cores: usize,
    /// This core's share of the memory budget, bytes.
    pub core_bytes: u64,
    /// Size at which a memtable is flushed, bytes. [`MEMTABLES`] may exist at a time.
    pub memtable_bytes: u64,
    /// Cache of table blocks, bytes.
    pub block_cache_bytes: u64,
    /// Recent records of the log, bytes.
    pub log_cache_bytes: u64,
    /// Keys and values of requests in flight, bytes; above it requests are refused as busy.
    pub inflight_bytes: u64,
    /// What clients may make the core hold: requests that are not answered, and answers that are not sent.
    pub memory: MemoryLimits,
    /// Open RESP connections of the node, and gRPC connections of one store.
    pub connections_max: usize,
    /// Descriptors of the node, all cores together, that are kept from clients.
    pub reserved_fds: u64,
    /// Client connections of the node, all cores together, that the other descriptors leave room for; those of its PD port not counted.
    pub node_connections_max: usize,
    /// Connections of other nodes to the ports of its stores, all together, that have a place whatever clients take.
    pub peer_connections_max: usize,
    /// Table files that a core's trees may have open.
    pub open_tables_max: usize,
    /// Connections to the PD port.
    pub pd_connections_max: usize,
    /// Requests that one connection may have in flight.
    pub pipeline_max: usize,
}

/// Below this the largest values that are allowed do not fit beside what a core needs anyway.
const CORE_BYTES_MIN: u64 = 128 << 20;
/// Below this a node of one core, which has what a process needs all for itself, was up to 1.6 times its memory where values of 8 MiB were
/// written and read.
const NODE_BYTES_MIN: u64 = 256 << 20;
/// Memtables of a tree: one that fills, and those that are closed.
pub(crate) const MEMTABLES: u64 = 3;
/// What a core has to have beside its budgets: buffers of direct IO, the blocks of a merge and of a flush, which are as large as the largest
/// values, stacks, the runtime.
/// The copies of large values that are in flight grow with the bounds of what clients may have, so this grows with the share at first.
const fn fixed_bytes(core_bytes: u64) -> u64 {
    const LEAST: u64 = 32 << 20;
    const MOST: u64 = 80 << 20;
    let bytes = LEAST + core_bytes / 16 * 3;
    if bytes < MOST { bytes } else { MOST }
}
/// Maximum size of a memtable, bytes; a larger one only makes restarts slower.
const MEMTABLE_BYTES_MAX: u64 = 64 << 20;
/// Maximum budget for answers, bytes; more does not speed up any client.
const OUTPUT_BYTES_MAX: usize = 256 << 20;
/// Maximum budget for requests that are not answered, and for writes in flight, bytes. A disk is as busy with this much as with more, and
/// a small write waits until what is in flight before it is durable: with 64 MiB that took 0.9 s where APPENDs made values of 8 MiB.
const INFLIGHT_BYTES_MAX: u64 = 32 << 20;
/// Maximum cache of recent log records, bytes: readers of the log are close to its end, or far from it.
const LOG_CACHE_BYTES_MAX: u64 = 32 << 20;
/// Minimum size of a memtable, bytes; a smaller one flushes all the time.
const MEMTABLE_BYTES_MIN: u64 = 4 << 20;
/// Minimum size of a memtable that is set by hand, bytes; below it flushes outrun the disk, and 0 would never take a write.
pub(super) const MEMTABLE_BYTES_LEAST: u64 = 64 << 10;
/// Above it no host is; sums of budgets stay far from the end of an integer.
pub(super) const MEMORY_BYTES_MAX: u64 = 1 << 50;

/// Descriptors of the process whatever its cores: standard streams, the scheduler shard, the status server.
const PROCESS_FDS: u64 = 96;
/// Descriptors of one core: its rings, its listeners, log segments, and the tables that it may hold open.
const CORE_FDS: u64 = 320;

/// The PD port has one in this many of the descriptors that are left for connections: a process that is a client has one connection there
/// for many to stores, and a node some.
const PD_PART: u64 = 8;
/// Maximum number of connections to the PD port: each takes some 23 KB, and no budget has them.
const PD_CONNECTIONS_MAX: u64 = 4096;

/// Descriptors of one core beside its tables: its rings, its listeners, log segments, connections to other nodes.
const CORE_FDS_BESIDE_TABLES: u64 = 64;
/// Minimum number of tables that a core may have open.
const OPEN_TABLES_MIN: u64 = 8;

/// How many tables a core may have open, so that where little is reserved its log and its connections to other nodes find descriptors, too.
fn open_tables(reserved: u64, cores: usize) -> usize {
    let of_core = reserved.saturating_sub(PROCESS_FDS) / cores as u64;
    of_core.saturating_sub(CORE_FDS_BESIDE_TABLES).max(OPEN_TABLES_MIN) as usize
}

/// The ports of stores have one in this many of them for other nodes alone, or what a core of a small cluster needs if that is more, but no more
/// than a part of them.
const PEER_PART: u64 = 8;
/// What the other nodes of a small cluster have open to a core: messages, requests and a snapshot of a few stores.
const CORE_PEERS: u64 = 8;
/// One in this many, at most.
const PEER_PART_LEAST: u64 = 4;
/// Maximum number of places for the peers of a core; its port takes no more of them.
const CORE_PEERS_MAX: u64 = 1088;

/// How many of the descriptors for `connections` are for other nodes.
fn peers_of(connections: u64, cores: usize) -> u64 {
    let cores = cores as u64;
    let wanted = (connections / PEER_PART).max(CORE_PEERS.saturating_mul(cores));
    wanted.min(connections / PEER_PART_LEAST).min(CORE_PEERS_MAX.saturating_mul(cores))
}

/// How `open_files` descriptors are shared between storage and clients: what is reserved, and the rest. Where the limit is small,
/// storage gets two thirds of it: without its files no request can be served.
fn share_fds(open_files: u64, cores: usize) -> (u64, u64) {
    let wanted = PROCESS_FDS + CORE_FDS * cores as u64;
    let reserved = wanted.min(open_files / 3 * 2);
    (reserved, open_files - reserved)
}

/// The budget where none is set: half of the memory that there is, or what the cores need at least, as long as that and the quarter on
/// top of it fit.
fn memory_of(machine: Machine, cores: usize) -> u64 {
    let needed = CORE_BYTES_MIN.saturating_mul(cores as u64).max(NODE_BYTES_MIN);
    let fits = needed <= machine.memory_bytes / 5 * 4;
    (machine.memory_bytes / 2).max(if fits { needed } else { 0 })
}

impl Limits {
    /// Derives the budgets.
    ///
    /// # Errors
    /// One sentence that names the key and a remedy.
    pub fn derive(config: &Config, machine: Machine) -> Result<Self, String> {
        let named = config.cpus.as_ref().map_or(machine.cores, |cpus| cpus.len().min(machine.cores));
        let cores = config.cores.unwrap_or(named).max(1);
        if let Some(cpus) = config.cpus.as_ref().filter(|cpus| cores > cpus.len()) {
            return Err(format!(
                "cores = {cores}, but cpus names {}: name more CPUs or lower cores",
                cpus.len()
            ));
        }
        if cores > machine.cores {
            return Err(format!(
                "cores = {cores}, but this process may use {}: lower it, or widen the CPU mask or quota",
                machine.cores
            ));
        }
        if let Some(too_few) = too_few_open_files(machine.open_files) {
            return Err(too_few);
        }
        let (reserved_fds, clients) = share_fds(machine.open_files, cores);
        let pd_connections = (clients / PD_PART).min(PD_CONNECTIONS_MAX);
        let peer_connections = peers_of(clients, cores);
        let of_clients = clients - pd_connections - peer_connections;
        let node_connections_max = usize::try_from(of_clients).unwrap_or(usize::MAX);
        let memory_bytes = config.memory_bytes.unwrap_or_else(|| memory_of(machine, cores));
        let core_bytes = memory_bytes / cores as u64;
        if memory_bytes < NODE_BYTES_MIN {
            return Err(format!(
                "memory_bytes = {memory_bytes} and a node needs {NODE_BYTES_MIN}: raise memory_bytes{}",
                match config.memory_bytes {
                    Some(_) => "",
                    None => ", or give this process more memory: that is half of what it may use",
                }
            ));
        }
        if core_bytes < CORE_BYTES_MIN {
            return Err(format!(
                "memory_bytes = {memory_bytes} leaves {core_bytes} bytes for each of {cores} cores, and a core needs \
                 {CORE_BYTES_MIN}: raise memory_bytes or lower cores"
            ));
        }
        let memtable_bytes = config
            .lsm
            .memtable_bytes
            .unwrap_or_else(|| (core_bytes / 16).clamp(MEMTABLE_BYTES_MIN, MEMTABLE_BYTES_MAX));
        let block_cache_bytes =
            config.lsm.block_cache_bytes.unwrap_or(core_bytes / 2 - fixed_bytes(core_bytes));
        if memtable_bytes.saturating_mul(MEMTABLES).saturating_add(block_cache_bytes) > core_bytes {
            return Err(format!(
                "{MEMTABLES} memtables of lsm.memtable_bytes = {memtable_bytes} and lsm.block_cache_bytes = {block_cache_bytes} \
                 exceed a core's share of {core_bytes} bytes: lower them or raise memory_bytes"
            ));
        }
        let inflight_bytes = (core_bytes / 16).min(INFLIGHT_BYTES_MAX);
        Ok(Self {
            cores,
            core_bytes,
            memtable_bytes,
            block_cache_bytes,
            log_cache_bytes: (core_bytes / 32).min(LOG_CACHE_BYTES_MAX),
            inflight_bytes,
            memory: MemoryLimits {
                input_bytes: usize::try_from(inflight_bytes).unwrap_or(usize::MAX),
                output_bytes: usize::try_from(core_bytes / 8).unwrap_or(usize::MAX).min(OUTPUT_BYTES_MAX),
            },
            connections_max: config.limits.connections_max.min(node_connections_max),
            reserved_fds,
            node_connections_max,
            peer_connections_max: peer_connections as usize,
            open_tables_max: open_tables(reserved_fds, cores),
            pd_connections_max: pd_connections as usize,
            pipeline_max: config.limits.pipeline_max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { cores: 4, memory_bytes: 16 << 30, open_files: 1 << 20 };

    #[test]
    fn a_default_node_takes_half_the_memory() {
        let limits = Limits::derive(&Config::default(), MACHINE).expect("a plain machine");
        assert_eq!(limits.cores, 4);
        assert_eq!(limits.core_bytes, 2 << 30);
        assert_eq!(limits.memtable_bytes, 64 << 20);
        assert_eq!(limits.block_cache_bytes, (1 << 30) - (80 << 20));
    }

    #[test]
    fn a_small_machine_gives_its_cores_what_they_need_if_it_can() {
        let memory = |memory_bytes, cores| {
            Limits::derive(&Config::default(), Machine { memory_bytes, cores, ..MACHINE })
                .map(|limits| limits.core_bytes)
        };
        assert_eq!(memory(400 << 20, 2), Ok(128 << 20), "a quarter on top is 320 MiB");
        assert_eq!(memory(320 << 20, 2), Ok(128 << 20));
        assert_eq!(memory(640 << 20, 4), Ok(128 << 20));
        let refused = memory(639 << 20, 4).expect_err("too small for four");
        assert!(refused.contains("lower cores"), "{refused}");
        assert_eq!(memory(320 << 20, 1), Ok(256 << 20), "and as much for one core");
        let refused = memory(319 << 20, 1).expect_err("too small for any");
        assert!(refused.contains("a node needs") && refused.contains("more memory"), "{refused}");
    }

    #[test]
    fn a_node_says_how_little_is_too_little() {
        let of = |memory_bytes| {
            let config = Config { memory_bytes: Some(memory_bytes), cores: Some(1), ..Config::default() };
            Limits::derive(&config, MACHINE)
        };
        assert_eq!(of(256 << 20).map(|limits| limits.block_cache_bytes), Ok(48 << 20));
        let refused = of((256 << 20) - 1).expect_err("too little");
        assert!(refused.contains("memory_bytes = 268435455") && refused.contains("268435456"), "{refused}");
    }

    #[test]
    fn budgets_never_exceed_the_share() {
        for memory in [512u64 << 20, 600 << 20, 1 << 30, 7 << 30, 1 << 40] {
            let config = Config { memory_bytes: Some(memory), ..Config::default() };
            let limits = Limits::derive(&config, MACHINE).expect("at least 128 MiB per core");
            let clients = limits.memory.input_bytes + limits.memory.output_bytes;
            let tree = MEMTABLES * limits.memtable_bytes + limits.block_cache_bytes;
            let log = limits.log_cache_bytes + limits.inflight_bytes;
            let spent = fixed_bytes(limits.core_bytes) + tree + log + clients as u64;
            assert!(spent <= limits.core_bytes, "{limits:?}");
        }
    }

    #[test]
    fn what_waits_for_the_disk_does_not_grow_with_the_memory() {
        for (memory, inflight) in [(1u64 << 30, 16 << 20), (2 << 30, 32 << 20), (1 << 40, 32 << 20)] {
            let config = Config { memory_bytes: Some(memory), ..Config::default() };
            let limits = Limits::derive(&config, MACHINE).expect("at least 128 MiB per core");
            assert_eq!((limits.inflight_bytes, limits.memory.input_bytes as u64), (inflight, inflight));
        }
    }

    #[test]
    fn connections_follow_the_descriptors_and_leave_storage_its_own() {
        let limits = |open_files| Limits::derive(&Config::default(), Machine { open_files, ..MACHINE });
        let plenty = limits(1 << 20).expect("plenty");
        assert_eq!((plenty.connections_max, plenty.reserved_fds), (16_384, 96 + 4 * 320));
        let tables = |open_files, cores| {
            let machine = Machine { open_files, cores, ..MACHINE };
            Limits::derive(&Config::default(), machine).expect("enough").open_tables_max
        };
        assert_eq!([tables(1 << 20, 4), tables(300, 1), tables(300, 4)], [256, 40, 8]);
        for open_files in [300, 1024, 4096, 65_536] {
            let limits = limits(open_files).expect("enough");
            let peers = limits.peer_connections_max as u64;
            let connections = (limits.node_connections_max + limits.pd_connections_max) as u64 + peers;
            assert!((connections / 8..=connections / 4).contains(&peers) || peers == 4 * 1088, "{limits:?}");
            assert_eq!(limits.reserved_fds + connections, open_files);
            assert_eq!(
                limits.pd_connections_max as u64,
                (connections / 8).min(4096),
                "the PD port has its own"
            );
            assert!(limits.connections_max <= limits.node_connections_max, "{limits:?}");
        }
        assert_eq!(limits(300).expect("little").reserved_fds, 200, "storage goes first");
        for open_files in [0, 20, 255] {
            let said = limits(open_files).expect_err("it is too little for a node");
            let parts = [&format!("is {open_files} "), "needs 256", "LimitNOFILE", "ulimit -n"];
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        }
        assert!(limits(256).is_ok());
        assert!(limits(u64::MAX).is_ok());
    }

    #[test]
    fn impossible_wishes_name_the_key() {
        let small = Config { memory_bytes: Some(100 << 20), ..Config::default() };
        assert!(Limits::derive(&small, MACHINE).expect_err("too small").contains("memory_bytes"));
        let many = Config { cores: Some(9), ..Config::default() };
        assert!(Limits::derive(&many, MACHINE).expect_err("too many").contains("cores = 9"));
        let pinned = Config { cpus: Some(vec![2, 3]), ..Config::default() };
        assert_eq!(Limits::derive(&pinned, MACHINE).expect("two of four").cores, 2);
        let too_many = Config { cores: Some(3), ..pinned };
        assert!(Limits::derive(&too_many, MACHINE).expect_err("three on two").contains("cpus names 2"));
        let mut greedy = Config::default();
        greedy.lsm.block_cache_bytes = Some(3 << 30);
        assert!(Limits::derive(&greedy, MACHINE).expect_err("greedy").contains("lsm.block_cache_bytes"));
    }
}
