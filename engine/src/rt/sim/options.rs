//! What a simulated run is made of. Printed with the seed when a run fails, so that any failure can be replayed and shrunk.

use std::time::Duration;

use crate::rt::rng::Rng;

/// The expanded options of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Keep the trace as text. The hash is kept always.
    pub trace: bool,
    /// Virtual time after which [`World::block_on`](super::World::block_on) gives up, so that a hang is a failed test.
    pub time_max: Duration,
    /// CPU time of one poll of a task, nanoseconds, lowest and highest.
    pub poll_ns: (u64, u64),
    /// Chance that a task which another one spawns runs up to its first wait before that one goes on. It always does in the native world;
    /// here it is 0 unless a test asks for it, because some tests of the store and the engine still rely on the other order.
    pub spawned_at_once: f64,
    /// CPU time of reading the clock, nanoseconds. Not zero, or a loop that computes until its budget is spent would not end.
    pub clock_ns: u64,
    /// The disks.
    pub disk: DiskOptions,
    /// The network.
    pub net: NetOptions,
}

/// How disks behave when no script says otherwise.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Time of a read, nanoseconds, lowest and highest.
    pub read_ns: (u64, u64),
    /// Time of a write that need not be durable.
    pub write_ns: (u64, u64),
    /// Time of a sync, of a durable write and of a directory operation.
    pub sync_ns: (u64, u64),
    /// Bytes of file blocks that a disk holds.
    pub capacity_bytes: u64,
    /// Files that the process may have open at once.
    pub descriptors_max: u64,
    /// What happens at a power cut to what was not synced.
    pub crash: CrashMode,
    /// Chance that a read fails with EIO.
    pub read_error: f64,
    /// Chance that a write fails with EIO, leaving its range unknown.
    pub write_error: f64,
    /// Chance that a sync fails with EIO, after which what it covered never becomes durable.
    pub sync_error: f64,
    /// Chance that a read returns one wrong bit.
    pub misread: f64,
}

/// What a power cut leaves of un-synced writes and names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashMode {
    /// One of the others, drawn at each crash; mostly the tearing ones.
    Any,
    /// Nothing un-synced survives.
    Lose,
    /// Everything that returned survives.
    Keep,
    /// Each 4 KiB block is old or new; of names, each directory keeps a prefix of its changes.
    TearBlocks,
    /// Each 512-byte sector is old or new; names as above.
    TearSectors,
}

/// How the network behaves when no script says otherwise.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// One-way time between two nodes, nanoseconds.
    pub latency_ns: (u64, u64),
    /// One-way time inside a node.
    pub loopback_ns: (u64, u64),
    /// Chance that a segment is lost and sent again later.
    pub loss: f64,
    /// Chance that a segment arrives twice.
    pub duplicate: f64,
    /// Chance that a segment takes up to a hundred times as long, so that later ones overtake it.
    pub straggle: f64,
    /// Chance, per write, that the connection is reset.
    pub reset: f64,
    /// How long a sender waits for an acknowledgement before it sends again, nanoseconds.
    pub retransmit_ns: u64,
    /// How long a connection survives without any acknowledgement.
    pub broken_after: Duration,
    /// How long a connection attempt waits for an answer.
    pub connect_timeout: Duration,
    /// Bytes that may be on the way or unread in one direction.
    pub window_bytes: usize,
}

impl Default for Options {
    /// Calm weather: times vary, nothing fails by itself, a power cut does anything it may.
    fn default() -> Self {
        Self {
            trace: false,
            time_max: Duration::from_secs(3600),
            poll_ns: (100, 2_000),
            spawned_at_once: 0.0,
            clock_ns: 500,
            disk: DiskOptions {
                read_ns: (50_000, 200_000),
                write_ns: (20_000, 200_000),
                sync_ns: (100_000, 1_000_000),
                capacity_bytes: u64::MAX,
                descriptors_max: u64::MAX,
                crash: CrashMode::Any,
                read_error: 0.0,
                write_error: 0.0,
                sync_error: 0.0,
                misread: 0.0,
            },
            net: NetOptions {
                latency_ns: (50_000, 500_000),
                loopback_ns: (5_000, 30_000),
                loss: 0.0,
                duplicate: 0.0,
                straggle: 0.0,
                reset: 0.0,
                retransmit_ns: 200_000_000,
                broken_after: Duration::from_secs(15),
                connect_timeout: Duration::from_secs(5),
                window_bytes: 256 << 10,
            },
        }
    }
}

impl Options {
    /// Rough weather, its strength drawn from `seed`: a slow and lossy network with resets. Disks stay honest, because how many
    /// faulty disks a cluster survives is for the test to decide.
    pub fn rough(seed: u64) -> Self {
        let rng = Rng::new(seed ^ 0x0072_6F75_6768);
        let upto = |most: f64| most * (rng.below(1_000) as f64) / 1_000.0;
        let mut options = Self::default();
        options.net.latency_ns.1 = rng.between((100_000, 20_000_000));
        options.net.loss = upto(0.1);
        options.net.duplicate = upto(0.2);
        options.net.straggle = upto(0.05);
        options.net.reset = upto(0.002);
        options.disk.sync_ns.1 = rng.between((200_000, 20_000_000));
        options
    }
}
