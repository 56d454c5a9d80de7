//! One file's contents, with everything that a power cut could leave of them.
//!
//! A block has a durable version and, in order, the versions written since. Reads see the newest. A sync moves the versions
//! that were there when it was asked for into the durable state; a power cut picks among all of them, block by block or
//! sector by sector. Blocks of zeros are stored as marks, so that preallocated files cost nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::options::CrashMode;
use crate::rt::BLOCK_BYTES;
use crate::rt::rng::Rng;

/// What the smallest disks write atomically.
const SECTOR_BYTES: usize = 512;

/// A block; `None` is one of zeros.
pub(crate) type Block = Option<Rc<[u8]>>;

/// When, in the order of this file's changes.
pub(crate) type Stamp = u64;

#[derive(Debug, Default)]
pub(crate) struct Inode {
    number: u64,
    durable: BTreeMap<u64, Block>,
    durable_len: u64,
    /// Finished writes since the last sync, oldest first.
    unsynced: BTreeMap<u64, Vec<(Stamp, Block)>>,
    unsynced_lens: Vec<(Stamp, u64)>,
    /// What reads still see although a failed sync has given up on it.
    phantom: BTreeMap<u64, Block>,
    /// Writes on their way; a power cut may leave any part of them.
    in_flight: BTreeMap<Stamp, (u64, Vec<Block>)>,
    /// Blocks that take up space.
    allocated: BTreeSet<u64>,
    stamp: Stamp,
}

impl Inode {
    /// An empty file. No other of its disk has its number.
    pub(crate) fn new(number: u64) -> Self {
        Self { number, ..Self::default() }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn len(&self) -> u64 {
        self.unsynced_lens.last().map_or(self.durable_len, |(_, len)| *len)
    }

    pub(crate) fn allocated_blocks(&self) -> u64 {
        self.allocated.len() as u64
    }

    /// How many of these blocks can be written, counted from the first, while `free` more can be allocated.
    pub(crate) fn fitting_blocks(&self, first: u64, count: u64, free: u64) -> u64 {
        let mut missing = (first..first + count).filter(|number| !self.allocated.contains(number));
        let first_without = missing.nth(usize::try_from(free).unwrap_or(usize::MAX));
        first_without.map_or(count, |number| number - first)
    }

    fn block(&self, number: u64) -> Block {
        let newest = self.unsynced.get(&number).and_then(|versions| versions.last()).map(|(_, block)| block);
        newest.or_else(|| self.phantom.get(&number)).or_else(|| self.durable.get(&number)).cloned().flatten()
    }

    /// Bytes from `pos`, whole blocks; short only at the end of the file.
    pub(crate) fn read(&self, pos: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for (number, chunk) in (pos / BLOCK_BYTES as u64..).zip(bytes.chunks_mut(BLOCK_BYTES)) {
            if let Some(block) = self.block(number) {
                chunk.copy_from_slice(&block[..chunk.len()]);
            }
        }
        bytes.truncate(usize::try_from(self.len().saturating_sub(pos)).unwrap_or(usize::MAX));
        bytes
    }

    /// A write begins. The stamp names it until [`Inode::finish_write`].
    pub(crate) fn begin_write(&mut self, pos: u64, bytes: &[u8]) -> Stamp {
        self.stamp += 1;
        let blocks = bytes.chunks(BLOCK_BYTES).map(to_block).collect();
        self.in_flight.insert(self.stamp, (pos / BLOCK_BYTES as u64, blocks));
        self.stamp
    }

    /// A write ends: the first of its blocks, so many, are readable and, if it was a durable one, safe.
    pub(crate) fn finish_write(&mut self, write: Stamp, count: usize, durable: bool) {
        let Some((first, mut blocks)) = self.in_flight.remove(&write) else { return };
        blocks.truncate(count);
        self.stamp += 1;
        let end = (first + blocks.len() as u64) * BLOCK_BYTES as u64;
        if end > self.len() {
            self.unsynced_lens.push((self.stamp, end));
        }
        for (number, block) in (first..).zip(blocks) {
            self.put(number, block);
            if durable {
                self.settle_block(number, self.stamp);
            }
        }
        if durable {
            self.settle_len(self.stamp);
        }
    }

    /// A write fails: each of its blocks has arrived or not, and which is unknown.
    pub(crate) fn fail_write(&mut self, write: Stamp, rng: &Rng) {
        let Some((first, blocks)) = self.in_flight.remove(&write) else { return };
        self.stamp += 1;
        let len = self.len();
        for (number, block) in (first..).zip(blocks) {
            if (number + 1) * BLOCK_BYTES as u64 <= len && rng.chance(0.5) {
                self.put(number, block);
            }
        }
    }

    fn put(&mut self, number: u64, block: Block) {
        self.phantom.remove(&number);
        self.allocated.insert(number);
        self.unsynced.entry(number).or_default().push((self.stamp, block));
    }

    pub(crate) fn set_len(&mut self, len: u64) {
        self.stamp += 1;
        let first_gone = len.div_ceil(BLOCK_BYTES as u64);
        let gone: Vec<u64> = self.allocated.split_off(&first_gone).into_iter().collect();
        for number in gone {
            self.put(number, None);
            self.allocated.remove(&number);
        }
        let kept = (len % BLOCK_BYTES as u64) as usize;
        let edge = len / BLOCK_BYTES as u64;
        if kept > 0 && len < self.len() && self.allocated.contains(&edge) {
            let mut bytes = self.block(edge).map_or_else(|| vec![0; BLOCK_BYTES], |block| block.to_vec());
            bytes[kept..].fill(0);
            self.put(edge, to_block(&bytes));
        }
        self.unsynced_lens.push((self.stamp, len));
    }

    /// What a sync that is asked for now covers.
    pub(crate) fn sync_point(&self) -> Stamp {
        self.stamp
    }

    /// A sync ends well: what it covers is durable.
    pub(crate) fn settle(&mut self, upto: Stamp) {
        let touched: Vec<u64> = self.unsynced.keys().copied().collect();
        for number in touched {
            self.settle_block(number, upto);
        }
        self.settle_len(upto);
    }

    /// A sync fails: what it covers stays readable, and no later sync will save it, as kernels have it.
    pub(crate) fn give_up(&mut self, upto: Stamp) {
        for (number, versions) in &mut self.unsynced {
            let covered = versions.partition_point(|(stamp, _)| *stamp <= upto);
            if let Some((_, block)) = versions.drain(..covered).next_back() {
                self.phantom.insert(*number, block);
            }
        }
        self.unsynced.retain(|_, versions| !versions.is_empty());
    }

    fn settle_block(&mut self, number: u64, upto: Stamp) {
        let Some(versions) = self.unsynced.get_mut(&number) else { return };
        let covered = versions.partition_point(|(stamp, _)| *stamp <= upto);
        if let Some((_, block)) = versions.drain(..covered).next_back() {
            self.durable.insert(number, block);
        }
        if versions.is_empty() {
            self.unsynced.remove(&number);
        }
    }

    fn settle_len(&mut self, upto: Stamp) {
        let covered = self.unsynced_lens.partition_point(|(stamp, _)| *stamp <= upto);
        if let Some((_, len)) = self.unsynced_lens.drain(..covered).next_back() {
            self.durable_len = len;
        }
    }

    /// The process dies: the kernel finishes what was on its way, or not. The rest is in the kernel's hands and stays.
    pub(crate) fn process_died(&mut self, rng: &Rng) {
        let on_their_way: Vec<Stamp> = self.in_flight.keys().copied().collect();
        for write in on_their_way {
            if rng.chance(0.5) {
                self.finish_write(write, usize::MAX, false)
            } else {
                self.fail_write(write, rng)
            }
        }
    }

    /// The power goes.
    pub(crate) fn power_cut(&mut self, mode: CrashMode, rng: &Rng) {
        let mut candidates: BTreeMap<u64, Vec<Block>> = BTreeMap::new();
        for (number, versions) in std::mem::take(&mut self.unsynced) {
            candidates.entry(number).or_default().extend(versions.into_iter().map(|(_, block)| block));
        }
        let mut lens: Vec<u64> =
            std::mem::take(&mut self.unsynced_lens).into_iter().map(|(_, len)| len).collect();
        let finished = lens.len();
        for (first, blocks) in std::mem::take(&mut self.in_flight).into_values() {
            let end = (first + blocks.len() as u64) * BLOCK_BYTES as u64;
            lens.extend((end > self.durable_len).then_some(end));
            if mode != CrashMode::Keep {
                for (number, block) in (first..).zip(blocks) {
                    candidates.entry(number).or_default().push(block);
                }
            }
        }
        self.durable_len = match mode {
            CrashMode::Lose => self.durable_len,
            CrashMode::Keep => lens[..finished].last().copied().unwrap_or(self.durable_len),
            _ => pick(&lens, self.durable_len, rng),
        };
        for (number, versions) in candidates {
            let old = self.durable.get(&number).cloned().flatten();
            let block = survivor(&old, &versions, mode, rng);
            self.durable.insert(number, block);
        }
        self.phantom.clear();
        let end = self.durable_len.div_ceil(BLOCK_BYTES as u64);
        self.durable.split_off(&end);
        self.allocated = self.durable.keys().copied().collect();
    }

    /// Changes one byte everywhere it is kept.
    pub(crate) fn rot(&mut self, pos: u64, flip: u8) {
        let (number, offset) = (pos / BLOCK_BYTES as u64, (pos % BLOCK_BYTES as u64) as usize);
        let newest =
            self.unsynced.get_mut(&number).and_then(|versions| versions.last_mut()).map(|(_, block)| block);
        let block = match newest {
            Some(block) => block,
            None => self.durable.entry(number).or_default(),
        };
        let mut bytes = block.as_ref().map_or_else(|| vec![0; BLOCK_BYTES], |block| block.to_vec());
        bytes[offset] ^= flip;
        *block = to_block(&bytes);
    }

    /// Replaces the whole content, durably: the tool of tests, not of the system under test.
    pub(crate) fn replace(&mut self, bytes: &[u8]) {
        let stamp = self.stamp;
        *self = Self { stamp, ..Self::default() };
        self.durable = (0..).zip(bytes.chunks(BLOCK_BYTES).map(to_block)).collect();
        self.durable_len = bytes.len() as u64;
        self.allocated = self.durable.keys().copied().collect();
    }
}

fn to_block(bytes: &[u8]) -> Block {
    if bytes.iter().all(|byte| *byte == 0) {
        return None;
    }
    let mut block = bytes.to_vec();
    block.resize(BLOCK_BYTES, 0);
    Some(block.into())
}

fn pick<T: Clone>(newer: &[T], old: T, rng: &Rng) -> T {
    match rng.below(newer.len() as u64 + 1) as usize {
        0 => old,
        chosen => newer[chosen - 1].clone(),
    }
}

/// What is found on the disk afterwards where `old` was durable and `versions` were written since.
fn survivor(old: &Block, versions: &[Block], mode: CrashMode, rng: &Rng) -> Block {
    match mode {
        CrashMode::Lose => old.clone(),
        CrashMode::Keep => versions.last().cloned().unwrap_or_else(|| old.clone()),
        CrashMode::TearBlocks | CrashMode::Any => pick(versions, old.clone(), rng),
        CrashMode::TearSectors => {
            let mut bytes = vec![0; BLOCK_BYTES];
            for at in (0..BLOCK_BYTES).step_by(SECTOR_BYTES) {
                if let Some(block) = pick(versions, old.clone(), rng) {
                    bytes[at..at + SECTOR_BYTES].copy_from_slice(&block[at..at + SECTOR_BYTES]);
                }
            }
            to_block(&bytes)
        }
    }
}
