//! What clients may make one core hold: a bound for requests and one for answers, both part of the setting `memory_bytes`.
//!
//! ```text
//! socket ─► input ─► request ─► store ─► value ─► reply buffer ─► socket
//!           └──────── input ────────┘    └────────── output ─────────┘
//! ```
//!
//! Bytes are charged when they come into being and released when they are gone: a request from the first byte that is kept
//! until it is answered, a value from the read that made it until its reply has left. A [`Charge`] is the guard: dropping it
//! releases, and it may travel, also to another core, inside the value that it stands for ([`Charge::wrap`]).
//!
//! At its bound a core first waits: connections are not read from ([`Intake`]), values are not read ([`Pool::wait`]). What has
//! waited for [`WAIT_MAX`] is refused as busy, and in a drain that clients hold up what finds no room at all.
//!
//! Invariants:
//! * what is charged exceeds a bound by at most one request per core that has to be completed ([`Intake`]), by one value where
//!   nothing else is charged, and by what already exists and only changes hands;
//! * what is read from disk has room before it is read ([`Memory::room_to_read`]), and whoever has that room waits for no other;
//! * small values have a reserve that large ones cannot take, so large ones never shut them out;
//! * large values are served in the order in which they asked;
//! * an answer of several values that finds no room lets go of what it has and waits for room for all of them at once, so of
//!   those that wait none holds what another waits for ([`AnswerBytes`] bounds what it may ask for);
//! * an answer from several regions, which may lie on several cores, waits with room in hand only while it has the one turn of the
//!   node ([`Memory::spread`]).
//!
//! A request of many keys costs more than its bytes: each key has handles in the request, in its parts, in what may be sent again and in
//! the answer ([`items_bytes`]). RESP, which reads such requests whole, counts them as input; others wait for room before they are taken
//! apart ([`Memory::room_for_items`]).
//!
//! This module owns no bytes itself and looks at none, but for short values that were appended to ([`Appended`]).

mod appended;
mod intake;
mod pool;
mod reads;
pub mod stalls;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use engine::rt::{Mono, Rt};

use crate::refusal::Refusal;

pub use appended::{Appended, is_short, key_hash};
pub use intake::Intake;
pub use pool::{Charge, Pool};
pub use reads::RunningRead;
use reads::{COMMANDS_WAITING_MAX, Reads};

/// How long a read waits for room before it is refused as busy.
pub const WAIT_MAX: Duration = Duration::from_secs(1);
/// Values up to this size are small, bytes.
pub const SMALL_BYTES: usize = 64 << 10;
/// What a connection may keep of an incomplete request however short memory is, bytes.
pub const INTAKE_BYTES_MIN: usize = 4 << 10;

/// What a core expects of its first reads from disk, bytes: the longest value.
const READ_BYTES_AT_FIRST: usize = 8 << 20;
/// Reads from disk that one core has in flight at most.
const READS_AT_ONCE: usize = 32;
/// Scans of one core that walk at a time, at most.
const SCANS_AT_ONCE: usize = 16;
/// Blocks of the longest kind that a scan has open at a time, about: one of each table and memtable that it walks over, and the one that is
/// read.
const SCAN_BLOCKS: usize = 4;
/// What a read from disk brings at least, bytes: a block.
const READ_BYTES_MIN: usize = 16 << 10;

const BUSY_WITH_ITEMS: Refusal =
    Refusal::Busy { reason: "requests of many keys hold all memory", backoff_ms: 100 };

/// What frames of other stores may take: this part of what requests may.
const PEERS_SHARE: usize = 4;

/// What a value costs beside its bytes until it is sent.
const VALUE_OVERHEAD_BYTES: usize = 128;

/// What a key or a pair of a request costs beside its bytes until it is answered: the handles of all copies, at their peak.
pub const ITEM_BYTES: usize = 256;
/// Requests of no more than this many keys are taken for their bytes alone.
const ITEMS_FREE: usize = 16;

/// What a request of `items` keys or pairs costs beside its bytes, bytes.
pub fn items_bytes(items: usize) -> usize {
    if items <= ITEMS_FREE { 0 } else { items * ITEM_BYTES }
}

/// What a value takes on its way to the client, its handle included.
pub fn charged_bytes(value: &Bytes) -> usize {
    charged_length(value.len())
}

/// The same of a value of this many bytes.
pub fn charged_length(bytes: usize) -> usize {
    bytes + VALUE_OVERHEAD_BYTES
}

/// What a pair of a scan takes on its way to the client.
pub fn charged_pair_bytes(key: &Bytes, value: &Bytes) -> usize {
    key.len() + charged_bytes(value)
}

/// The bounds of one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Requests that are not answered yet, complete or not, bytes.
    pub input_bytes: usize,
    /// Values that were read and are not sent yet, bytes.
    pub output_bytes: usize,
}

/// One core's bounds. A clone is the same bounds.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Requests.
    pub input: Pool,
    /// Answers.
    pub output: Pool,
    /// Frames of other stores that have not arrived whole, or that are taken in. Apart from requests, because what clients wait for may
    /// need a message of another store.
    pub peers: Pool,
    /// Handles of the keys of requests that name many.
    pub items: Pool,
    /// The one turn, of all cores, to wait for room in one region while room is held for others.
    pub spread: Pool,
    /// Values on their way from the disk, whose sizes are known only once they are there.
    pub reading: Pool,
    /// Short values that were appended to. No bound, but handed around with them: stores write it, and RESP connections look.
    pub appended: Appended,
    /// Reads that have a task, of all cores.
    reads: Reads,
    /// What the next read from disk may bring, bytes.
    expected_bytes: Arc<AtomicUsize>,
    limits: MemoryLimits,
}

/// How much of one of a core's bounds is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// Which one, as a label.
    pub pool: &'static str,
    /// Bytes charged.
    pub used_bytes: u64,
    /// The bound, bytes.
    pub max_bytes: u64,
}

impl Memory {
    /// Bounds of which nothing is used.
    pub fn new(limits: MemoryLimits) -> Self {
        Self {
            input: Pool::new(limits.input_bytes),
            output: Pool::new(limits.output_bytes),
            peers: Pool::new(limits.input_bytes / PEERS_SHARE),
            items: Pool::new(limits.input_bytes),
            spread: Pool::new(1),
            reading: Pool::new(limits.output_bytes / 2),
            appended: Appended::default(),
            reads: Reads::default(),
            expected_bytes: Arc::new(AtomicUsize::new(READ_BYTES_AT_FIRST)),
            limits,
        }
    }

    /// Bounds of the PD port, which lies on no core that has any: parts of those of one core, because what is asked there is small, and
    /// apart from them, because nodes report there, however busy clients keep a core.
    #[must_use]
    pub fn of_pd_port(&self) -> Self {
        let MemoryLimits { input_bytes, output_bytes } = self.limits;
        Self::new(MemoryLimits { input_bytes: input_bytes / 2, output_bytes: output_bytes / 4 })
    }

    /// No bound, for tests of other things.
    pub fn unbounded() -> Self {
        Self::new(MemoryLimits { input_bytes: usize::MAX / 2, output_bytes: usize::MAX / 2 })
    }

    /// The same bounds for another core, with nothing used. The cores share one turn to wait with room in hand, and what was appended to.
    #[must_use]
    pub fn fresh(&self) -> Self {
        let (output, reading) = (self.output.fresh(), self.reading.fresh());
        Self {
            output,
            reading,
            spread: self.spread.clone(),
            appended: self.appended.clone(),
            reads: self.reads.clone(),
            ..Self::new(self.limits)
        }
    }

    /// A client was ended in a drain because it took nothing. From [`WAIT_MAX`] later on no answer of any core waits for room: whoever has it
    /// by then may keep it as long as it takes something, and the node does not wait for one client that takes nothing after the other.
    pub fn is_jammed_in_drain(&self, now: Mono) {
        self.output.end_waits(now + WAIT_MAX);
    }

    /// Room for the handles of a request of `items` keys or pairs until it is answered.
    ///
    /// # Errors
    /// Busy after [`WAIT_MAX`].
    pub async fn room_for_items(&self, rt: &Rt, items: usize) -> Result<Charge, Refusal> {
        match items_bytes(items) {
            0 => Ok(Charge::default()),
            bytes => self.items.wait(rt, bytes).await.map_err(|_| BUSY_WITH_ITEMS),
        }
    }

    /// Room for what a read from disk brings until it is charged as an answer. Its size is not known before, so as much is taken as
    /// the largest of the latest reads had, and never so little that more than [`READS_AT_ONCE`] have room: however small the latest
    /// were, the next ones may all be as long as values may be.
    ///
    /// # Errors
    /// Busy after [`WAIT_MAX`].
    pub async fn room_to_read(&self, rt: &Rt) -> Result<Charge, Refusal> {
        // The frame as it lies on disk, and what it is opened to.
        let expected = self.expected_bytes.load(Relaxed).saturating_mul(2);
        self.reading.wait(rt, expected.max(self.reading.bytes_max() * 3 / 4 / READS_AT_ONCE)).await
    }

    /// Room for a scan that holds no block longer than `block_bytes_max`. What others read lately says nothing of it: a scan that comes to
    /// a longer block ends and asks for more room. Where the longest values lie one has room at a time.
    ///
    /// # Errors
    /// Busy after [`WAIT_MAX`].
    pub async fn room_to_scan(&self, rt: &Rt, block_bytes_max: usize) -> Result<Charge, Refusal> {
        let most = self.reading.bytes_max() / 4 * 3;
        let blocks = block_bytes_max.saturating_mul(SCAN_BLOCKS).min(most);
        self.reading.wait(rt, blocks.max(most / SCANS_AT_ONCE)).await
    }

    /// A read that memory alone cannot answer, as long as the result lives.
    pub fn begin_read(&self) -> RunningRead {
        self.reads.begin()
    }

    /// How many such reads of all cores run.
    pub fn running_reads(&self) -> usize {
        self.reads.running()
    }

    /// How many commands one connection may have in flight, of the `most` that it may have otherwise. One that waits has a task of some
    /// kilobytes, whatever it asks for, so there are few while answers or reads from disk wait for room, and where many run, which may all
    /// come before the first has to wait: 100 connections that asked for a value of 8 MiB on disk, 1,024 times each, took 360 MiB for those.
    pub fn commands_max(&self, most: usize) -> usize {
        // The store that is asked may lie on another core than the connection.
        let waits = self.reading.waits_anywhere() || self.output.waits_anywhere();
        let most = most.min(self.reads.commands_max());
        if waits { most.min(COMMANDS_WAITING_MAX) } else { most }
    }

    /// A read from disk has brought this many bytes.
    pub fn has_read(&self, bytes: usize) {
        let expected = self.expected_bytes.load(Relaxed);
        self.expected_bytes.store((expected - expected / 8).max(bytes).max(READ_BYTES_MIN), Relaxed);
    }

    /// How much of each bound is used now.
    pub fn uses(&self) -> Vec<PoolUse> {
        let Self {
            input,
            output,
            peers,
            items,
            spread: _,
            reading,
            appended: _,
            reads: _,
            expected_bytes: _,
            limits: _,
        } = self;
        let pools =
            [("input", input), ("output", output), ("peers", peers), ("items", items), ("reading", reading)];
        let of = |(pool, of): (&'static str, &Pool)| PoolUse {
            pool,
            used_bytes: of.used() as u64,
            max_bytes: of.bytes_max() as u64,
        };
        pools.map(of).to_vec()
    }

    /// The largest answer that one request may have made, bytes: a value and its copy in a reply exist at the same time.
    pub fn answer_bytes_max(&self) -> usize {
        self.limits.output_bytes / 2
    }

    /// The largest request, bytes.
    pub fn request_bytes_max(&self) -> usize {
        self.limits.input_bytes
    }
}

/// What the answer to one request has come to so far, kept within [`Memory::answer_bytes_max`] before anything is charged for it:
/// who waited for room that can never be there would be asked to try again for ever.
///
/// A single item is always allowed, or the longest values could be written and not read.
#[derive(Clone, Copy, Debug)]
pub struct AnswerBytes {
    bytes: usize,
    bytes_max: usize,
}

impl AnswerBytes {
    /// An answer of which `bytes` are held already.
    pub fn new(bytes_max: usize, bytes: usize) -> Self {
        Self { bytes, bytes_max }
    }

    /// Takes in one more item.
    ///
    /// # Errors
    /// The answer would be too large.
    pub fn add(&mut self, bytes: usize) -> Result<(), Refusal> {
        let alone = self.bytes == 0;
        self.bytes += bytes;
        if alone || self.bytes <= self.bytes_max {
            return Ok(());
        }
        Err(Refusal::AnswerTooLarge { bytes_max: self.bytes_max })
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A value together with its charge.
struct Charged {
    value: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.value
    }
}

impl Charge {
    /// The value, which releases this charge when its last copy is dropped, on whatever core that is.
    #[must_use]
    pub fn wrap(self, value: Bytes) -> Bytes {
        if self.bytes() == 0 {
            return value;
        }
        Bytes::from_owner(Charged { value, _charge: self })
    }
}

#[cfg(test)]
mod tests {
    use engine::rt::sim::{Options, World};
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn where_any_read_of_the_node_waits_connections_of_all_cores_have_few_commands() {
        let world = World::new(4, Options::default());
        let running = world.node(0).start(0, |rt| async move {
            let one = Memory::new(MemoryLimits { input_bytes: 1 << 20, output_bytes: 1 << 20 });
            let (other, all) = (one.fresh(), one.reading.charge(1 << 20));
            assert_eq!([&one, &other].map(|memory| memory.commands_max(1024)), [1024; 2]);
            let waiting = rt.spawn({
                let (rt, one) = (rt.clone(), one.clone());
                async move { one.room_to_read(&rt).await.map(drop) }
            });
            rt.sleep(Duration::from_millis(10)).await;
            assert_eq!([&one, &other].map(|memory| memory.commands_max(1024)), [COMMANDS_WAITING_MAX; 2]);
            assert_eq!(other.commands_max(7), 7);
            drop(all);
            waiting.await.expect("there is room");
            assert_eq!([&one, &other].map(|memory| memory.commands_max(1024)), [1024; 2]);
        });
        world.block_on(running).expect("nothing crashes the node");
    }

    #[test]
    fn however_small_the_latest_reads_were_few_have_room_at_once() {
        let world = World::new(3, Options::default());
        let running = world.node(0).start(0, |rt| async move {
            let limits = MemoryLimits { input_bytes: 32 << 20, output_bytes: 32 << 20 };
            let (reads, scans) = (Memory::new(limits), Memory::new(limits));
            (0..200).for_each(|_| [&reads, &scans].into_iter().for_each(|memory| memory.has_read(5)));
            let mut held = (Vec::new(), Vec::new());
            for _ in 0..100 {
                held.0.extend(reads.room_to_read(&rt).now_or_never());
                held.1.extend(scans.room_to_scan(&rt, SMALL_BYTES).now_or_never());
            }
            assert_eq!((held.0.len(), held.1.len()), (READS_AT_ONCE, SCANS_AT_ONCE));
            drop(held);
            let large: Vec<_> =
                (0..3).filter_map(|_| scans.room_to_scan(&rt, 8 << 20).now_or_never()).collect();
            assert_eq!(large.len(), 1, "one that may hold the longest values");
            drop(large);
            reads.has_read(8 << 20);
            let one = reads.room_to_read(&rt).await.expect("nothing is read");
            assert_eq!(one.bytes(), 16 << 20, "as it lies on disk, and as it is opened");
            assert!(reads.room_to_read(&rt).now_or_never().is_none());
        });
        world.block_on(running).expect("nothing crashes the node");
    }
}
