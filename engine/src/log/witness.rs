//! `END`: how far the log reached, said outside of its segments. It owns that file, its layout included.
//!
//! Each record proves the one before it, so nothing in the segments proves that the newest ones were ever there: without its last
//! segment, or with zeros where its last records were, a log looks like one that ends earlier. This file is the other witness. It
//! says in which segment the log goes on before a record is written there, and up to which record the log was durable whenever it was
//! idle for a moment, was closed or opened, and while it is busy once per second. What was written since the last of these moments has
//! no witness but the segment's name.
//!
//! ```text
//! END: two blocks of 4096 bytes with a slot at the start of each, written in place and in turn
//!
//! slot (the rest of its block is zero)
//! +----+----------------------------------------------------------------------------------+
//! |  0 | magic "RKLOGEND"                                                                 |
//! |  8 | version, u32                                                                     |
//! | 12 | crc32 of the other 60 bytes, u32                                                 |
//! | 16 | log id, u64                                                                      |
//! | 24 | round, u64, +1 per write, from 1; round n lies in slot n mod 2                    |
//! | 32 | segment, u64: the file was there, and records go there or went there             |
//! | 40 | end, u64: where the records in it ended, bytes; 4096 if it has none yet          |
//! | 48 | sequence, u64: this record and all before it were durable                        |
//! | 56 | zeros to 64                                                                      |
//! +----+----------------------------------------------------------------------------------+
//! ```
//!
//! All integers are little-endian. A write that is torn leaves the slot of the round before. The segments say that there must be such a
//! file: the header of each that was made beside one says so. A log of 0.1 has none; its first opening makes one.
//!
//! Invariant: `END` never says more than is durable, so that no crash makes it contradict a log that is whole.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::Shared;
use super::format::{SegmentNo, Sequence, u32_at, u64_at};
use crate::error::{Fault, Result, Shortage};
use crate::rt::local::Bell;
use crate::rt::{BLOCK_BYTES, File, FileId, Meanwhile, OpenMode, Rt};

const FILE: &str = "END";
const MAGIC: [u8; 8] = *b"RKLOGEND";
const VERSION: u32 = 1;
const SLOT_BYTES: usize = 64;
const FILE_BYTES: usize = 2 * BLOCK_BYTES;

/// When a slot is written again for which the kernel lacked something.
const WRITE_AGAIN: Duration = Duration::from_millis(10);

/// The same where a file system has no space for it, which lasts longer.
const SPACE_AGAIN: Duration = Duration::from_secs(1);

/// How far a log reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    /// A segment that is there. Records go there, or will.
    pub(crate) segment: SegmentNo,
    /// Where the records in it ended, bytes.
    pub(crate) end: u64,
    /// This record and all before it are durable.
    pub(crate) sequence: Sequence,
}

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) log_id: u64,
    pub(crate) round: u64,
    pub(crate) reached: Reached,
}

/// The file, open for writing.
#[derive(Debug)]
pub(crate) struct Witness {
    path: PathBuf,
    file: File,
    log_id: u64,
    /// The newest slot is of this round.
    round: Cell<u64>,
    /// What it says.
    said: Cell<Option<Reached>>,
    writing: Cell<bool>,
    /// Rings for the one who waits for the other's write.
    written: Bell,
}

/// Where the file is.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// What the file says; nothing if there is none.
///
/// # Errors
/// Corruption if there is one and neither slot is whole, Foreign for one of another version.
pub(crate) async fn read(rt: &Rt, dir: &Path, names: &[String]) -> Result<Option<Slot>> {
    if !names.iter().any(|name| name == FILE) {
        return Ok(None);
    }
    let path = path(dir);
    let failed = |e: io::Error| Fault::io(&path, "reading where the log ends", &e);
    let file = rt.open(&path, OpenMode::Read).await.map_err(failed)?;
    let bytes = file.read_at(0, FILE_BYTES).await.map_err(failed)?;
    let file_bytes = file.len().await.map_err(failed)?;
    file.close().await.map_err(failed)?;
    newest_of_file(&path, &bytes, file_bytes).map(Some)
}

/// The newest slot that is whole of a file that begins with `bytes`.
///
/// # Errors
/// As [`read`].
pub(crate) fn newest_of_file(path: &Path, bytes: &[u8], file_bytes: u64) -> Result<Slot> {
    if file_bytes != FILE_BYTES as u64 {
        let what = format!("the file that says where the log ends has {file_bytes} bytes, not {FILE_BYTES}");
        return Err(Fault::corruption(path, what));
    }
    newest(path, bytes)
}

fn newest(path: &Path, bytes: &[u8]) -> Result<Slot> {
    let slots: Vec<_> = bytes.chunks(BLOCK_BYTES).filter_map(Slot::decode).collect();
    if let Some(Err(version)) = slots.iter().find(|slot| slot.is_err()) {
        let what = format!(
            "log end format version {version}; this program reads version {VERSION}; start the version that wrote it"
        );
        return Err(Fault::foreign(path, what));
    }
    let newest = slots.into_iter().flatten().max_by_key(|slot| slot.round);
    newest.ok_or_else(|| Fault::corruption(path, "the file that says where the log ends is damaged"))
}

impl Slot {
    fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        slot[..8].copy_from_slice(&MAGIC);
        slot[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let Reached { segment, end, sequence } = self.reached;
        for (place, value) in (16..).step_by(8).zip([self.log_id, self.round, segment.0, end, sequence.0]) {
            slot[place..place + 8].copy_from_slice(&value.to_le_bytes());
        }
        let crc = checksum(&slot);
        slot[12..16].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    /// What a block says, if it is whole; the version, if that is another one.
    fn decode(block: &[u8]) -> Option<std::result::Result<Self, u32>> {
        let slot = block.get(..SLOT_BYTES)?;
        if slot[..8] != MAGIC || u32_at(slot, 12) != checksum(slot) {
            return None;
        }
        let version = u32_at(slot, 8);
        if version != VERSION {
            return Some(Err(version));
        }
        let reached = Reached {
            segment: SegmentNo(u64_at(slot, 32)),
            end: u64_at(slot, 40),
            sequence: Sequence(u64_at(slot, 48)),
        };
        Some(Ok(Self { log_id: u64_at(slot, 16), round: u64_at(slot, 24), reached }))
    }

    fn pos(&self) -> u64 {
        self.round % 2 * BLOCK_BYTES as u64
    }
}

fn checksum(slot: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&slot[..12]);
    crc.update(&slot[16..]);
    crc.finalize()
}

impl Witness {
    /// Makes the file of a log that has none. It is there whole or not at all.
    pub(crate) async fn create(rt: &Rt, dir: &Path, log_id: u64, reached: Reached) -> Result<Self> {
        let path = path(dir);
        let slot = Slot { log_id, round: 1, reached };
        let mut bytes = vec![0; FILE_BYTES];
        let pos = usize::try_from(slot.pos()).expect("in the file");
        bytes[pos..pos + SLOT_BYTES].copy_from_slice(&slot.encode());
        let made = rt.replace_small(&path, &bytes).await;
        made.map_err(|e| Fault::unpromised(&path, "making the file that says where the log ends", &e))?;
        Self::opened(rt, path, slot).await
    }

    /// Opens the file that says `before` and has it say `reached`. Without space it goes on saying `before`, which is as true.
    pub(crate) async fn open(rt: &Rt, dir: &Path, before: Slot, reached: Reached) -> Result<Self> {
        let witness = Self::opened(rt, path(dir), before).await?;
        // The slot of the process before may not be durable.
        witness.said.set(None);
        match witness.write(rt, reached).await {
            Err(short) if short.is_passing() => {}
            written => written?,
        }
        Ok(witness)
    }

    async fn opened(rt: &Rt, path: PathBuf, slot: Slot) -> Result<Self> {
        let file = rt.open(&path, OpenMode::Write).await;
        let file = file.map_err(|e| Fault::io(&path, "opening the file that says where the log ends", &e))?;
        let (round, said) = (Cell::new(slot.round), Cell::new(Some(slot.reached)));
        let (writing, written) = (Cell::new(false), Bell::default());
        Ok(Self { path, file, log_id: slot.log_id, round, said, writing, written })
    }

    /// Has the file say `reached`, durably, unless it says as much already. Two may call at a time.
    ///
    /// # Errors
    /// A passing shortage if there is no space, which only a file system lacks that overwrites nothing in place. Other shortages are
    /// waited out here. Nothing rests on a slot before it is durable, so after any shortage it is written anew.
    pub(crate) async fn write(&self, rt: &Rt, reached: Reached) -> Result<()> {
        while self.writing.replace(true) {
            self.written.wait().await;
        }
        let outcome = self.write_alone(rt, reached).await;
        self.writing.set(false);
        self.written.ring();
        outcome
    }

    async fn write_alone(&self, rt: &Rt, reached: Reached) -> Result<()> {
        let order = |reached: Reached| (reached.sequence, reached.segment);
        if self.said.get().is_some_and(|said| order(said) >= order(reached)) {
            return Ok(());
        }
        let slot = Slot { log_id: self.log_id, round: self.round.get() + 1, reached };
        loop {
            let mut block = rt.alloc(BLOCK_BYTES);
            block[..SLOT_BYTES].copy_from_slice(&slot.encode());
            let Err(error) = self.file.write_urgently(block, slot.pos(), true, Meanwhile::GoOn).await else {
                break;
            };
            let fault = Fault::unpromised(&self.path, "writing where the log ends", &error);
            match fault.shortage() {
                Some(Shortage::Descriptors | Shortage::Memory | Shortage::Attempt) => {
                    rt.sleep(WRITE_AGAIN).await;
                }
                Some(Shortage::Space | Shortage::FileLength) | None => return Err(fault),
            }
        }
        self.round.set(slot.round);
        self.said.set(Some(reached));
        Ok(())
    }

    /// Where it is, and which file.
    pub(crate) fn file(&self) -> (&Path, FileId) {
        (&self.path, self.file.id())
    }

    pub(crate) async fn close(self) -> Result<()> {
        self.file.close().await.map_err(|e| Fault::io(&self.path, "closing the file", &e))
    }
}

impl Shared {
    /// Has `END` say how far the log reached, if there is one.
    pub(super) async fn witness(&self, reached: Reached) -> Result<()> {
        match &self.witness {
            Some(witness) => witness.write(&self.rt, reached).await,
            None => Ok(()),
        }
    }

    /// Has `END` say that soon. No caller waits for it: if it fails, so does the log.
    pub(super) fn witness_soon(&self, reached: Reached) {
        self.reached.set(Some(reached));
        self.to_witness.ring();
    }
}

/// Writes what no caller waits for, until the writer has ended and nothing is left of it.
pub(crate) async fn run(shared: Rc<Shared>) {
    while !shared.failed() {
        let Some(reached) = shared.reached.take() else {
            if shared.writer_done.get() {
                break;
            }
            shared.to_witness.wait().await;
            continue;
        };
        match shared.witness(reached).await {
            Ok(()) => {}
            Err(short) if short.is_passing() => wait_out(&shared, reached).await,
            Err(fault) => shared.fail(&fault),
        }
    }
}

/// Has it said later, unless something newer is said by then. A log that closes says less, which is as true.
async fn wait_out(shared: &Shared, reached: Reached) {
    if shared.writer_done.get() {
        return;
    }
    let newer = shared.reached.take();
    shared.reached.set(newer.or(Some(reached)));
    futures_lite::future::or(shared.rt.sleep(SPACE_AGAIN), shared.to_witness.wait()).await;
}

#[cfg(test)]
#[path = "witness_tests.rs"]
mod tests;
