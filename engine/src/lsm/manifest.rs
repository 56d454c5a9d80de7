//! The manifest: which tables make up the tree, durably.
//!
//! ```text
//! CURRENT           the name of the manifest in force; replaced as a whole (write beside, sync, rename, sync directory)
//! MANIFEST-<n>      frame* zeros
//! frame  := magic:u32 crc:u32 len:u32 version:u32 manifest:u64 sequence:u64 tree:u64 edit zeros  little-endian
//! ```
//!
//! Every frame begins on a 4096-byte block, so no durable byte is ever written again. `edit` is an rkyv archive of `len`
//! bytes; the CRC (CRC-32, IEEE) covers everything after itself up to the end of the edit. `manifest` repeats the number in
//! the file's name, `sequence` counts frames from 0, `tree` is the id of the tree, the same in all of its manifests. Frame 0
//! holds the whole tree, each later one a step. Each frame says its own version: an older file that is gone on with has both.
//!
//! The zeros are written and synced before a frame goes there. So lack of space shows before anything of an edit is on disk, and
//! an edit is never in doubt for that reason alone.
//!
//! A frame of a later version, whose checksum is right, is refused by name wherever it is: it was acknowledged, and whoever ignored it
//! would lose it. So later versions keep the first sixteen bytes of a frame and what its checksum covers.
//!
//! Recovery: the first bad frame with no good one after it is a torn tail, the edit of a flush or compaction that was never
//! acknowledged, and is ignored. Whether it was one that had been acknowledged nothing in this file can say; the caller
//! can, because its log was cut only below what a durable edit says. A bad frame with a good one after it, or a bad frame 0, is damage: nothing is guessed.
//! Every opening begins a new manifest with the whole tree, which makes the cut durable before anything else is written. On a
//! full disk it goes on with the old one instead: the last good frame is written again, because its sync may have failed, and
//! what follows is zeroed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::in_place::InForce;
use super::table::{Damage, UNKNOWN_MANIFEST};
use super::version::{Edit, EditV3, EditV4};
use crate::error::{Fault, Result, Shortage};
use crate::rt::{BLOCK_BYTES, File, OpenMode, Rt};

const MAGIC: u32 = u32::from_le_bytes(*b"RKM\n");
/// The format drawn above. Version 4 repeated the range deletes of tables, version 3 kept no states of groups, too; both are still read.
/// Version 2 named no tree.
const FORMAT_VERSION: u32 = 5;
const FORMAT_WITH_RANGE_DELETES: u32 = 4;
const FORMAT_WITHOUT_STATES: u32 = 3;
const HEADER_BYTES: usize = 40;
/// A manifest that has outgrown its first frame this many times is begun anew.
const GROWTH_MAX: u64 = 4;
/// Below this length a manifest is not worth beginning anew.
const ROLL_BYTES_MIN: u64 = 1 << 20;

/// Zeros are written ahead in steps of this size.
const RESERVE_BYTES: u64 = 64 << 10;

/// When an edit is written again for which the kernel lacked something.
const WRITE_AGAIN: Duration = Duration::from_millis(10);

/// The name of the file that names the manifest.
pub(crate) const CURRENT: &str = "CURRENT";

/// The open manifest.
#[derive(Debug)]
pub(crate) struct Manifest {
    file: File,
    path: PathBuf,
    tree: u64,
    number: u64,
    sequence: u64,
    len_bytes: u64,
    /// Zeros reach to here.
    reserved_to: u64,
    first_frame_bytes: u64,
}

/// What a manifest file says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// The tree that it belongs to.
    pub(crate) tree: u64,
    pub(crate) edits: Vec<Edit>,
    /// Offset of a torn last frame.
    pub(crate) torn_at: Option<u64>,
}

impl Manifest {
    /// Begins manifest `number` of `tree` with `whole` as its first edit and puts it in force.
    ///
    /// # Errors
    /// After a passing shortage the manifest before is still in force, and there is no file of the new one.
    pub(crate) async fn begin(rt: &Rt, dir: &Path, tree: u64, number: u64, whole: &Edit) -> Result<Manifest> {
        let path = dir.join(file_name(number));
        let file = rt.open(&path, OpenMode::Create).await.map_err(|e| Fault::io(&path, "creating", &e))?;
        let mut manifest = Manifest {
            file,
            path: path.clone(),
            tree,
            number,
            sequence: 0,
            len_bytes: 0,
            reserved_to: 0,
            first_frame_bytes: 0,
        };
        match manifest.put_in_force(rt, dir, whole).await {
            Ok(()) => Ok(manifest),
            Err(fault) => {
                if fault.is_passing() {
                    manifest.close().await?;
                    rt.remove(&path).await.map_err(|e| Fault::io(&path, "removing", &e))?;
                }
                Err(fault)
            }
        }
    }

    async fn put_in_force(&mut self, rt: &Rt, dir: &Path, whole: &Edit) -> Result<()> {
        self.append(rt, whole).await?;
        self.first_frame_bytes = self.len_bytes;
        rt.sync_dir(dir).await.map_err(|e| Fault::unpromised(dir, "syncing the directory", &e))?;
        let current = dir.join(CURRENT);
        rt.replace_small(&current, named(self.number).as_bytes())
            .await
            .map_err(|e| Fault::io(&current, "switching to a new manifest", &e))
    }

    /// Goes on with the manifest in force, whose file holds `bytes`.
    pub(crate) async fn resume(
        rt: &Rt,
        dir: &Path,
        tree: u64,
        number: u64,
        bytes: &[u8],
    ) -> Result<Manifest> {
        // The process before may have been killed between putting it in force and making that durable.
        rt.sync_dir(dir).await.map_err(|e| Fault::io(dir, "syncing the directory", &e))?;
        let path = dir.join(file_name(number));
        let file = rt.open(&path, OpenMode::Write).await.map_err(|e| Fault::io(&path, "opening", &e))?;
        let frames = frame_ends(bytes, number);
        let last = frames.len().checked_sub(2).map_or(0, |before| frames[before]);
        let end = frames.last().copied().unwrap_or(0);
        let mut tail = rt.alloc(bytes.len().next_multiple_of(BLOCK_BYTES) - last);
        tail[..end - last].copy_from_slice(&bytes[last..end]);
        let reserved_to = (last + tail.len()) as u64;
        file.write_at(tail, last as u64).await.map_err(|e| Fault::io(&path, "going on with it", &e))?;
        file.sync().await.map_err(|e| Fault::doubt(&path, "syncing it", &e))?;
        Ok(Manifest {
            file,
            path,
            tree,
            number,
            sequence: frames.len() as u64,
            len_bytes: end as u64,
            reserved_to,
            first_frame_bytes: frames.first().copied().unwrap_or(0) as u64,
        })
    }

    /// Appends an edit; it is durable when this returns.
    ///
    /// # Errors
    /// After a passing shortage nothing of the edit is on disk and the manifest is as it was. After any other fault it must not be
    /// used again.
    pub(crate) async fn append(&mut self, rt: &Rt, edit: &Edit) -> Result<()> {
        let frame = encode_frame(edit, self.tree, self.number, self.sequence);
        self.reserve(rt, self.len_bytes + frame.len() as u64).await?;
        let doubt = |attempt: &str, e: &std::io::Error| Fault::doubt(&self.path, attempt, e);
        loop {
            let mut buf = rt.alloc(frame.len());
            buf.copy_from_slice(&frame);
            match self.file.write_at(buf, self.len_bytes).await {
                Ok(()) => break,
                // The space lies there already. For anything else the same edit goes to the same place once more.
                Err(e) => match Shortage::of(&e) {
                    Some(Shortage::Space | Shortage::FileLength) | None => {
                        return Err(doubt("appending an edit", &e));
                    }
                    Some(Shortage::Descriptors | Shortage::Memory | Shortage::Attempt) => {
                        rt.sleep(WRITE_AGAIN).await;
                    }
                },
            }
        }
        self.file.sync().await.map_err(|e| doubt("syncing an edit", &e))?;
        self.sequence += 1;
        self.len_bytes += frame.len() as u64;
        Ok(())
    }

    /// Sees to it that zeros reach at least to `to`.
    async fn reserve(&mut self, rt: &Rt, to: u64) -> Result<()> {
        if to <= self.reserved_to {
            return Ok(());
        }
        let to = to.next_multiple_of(RESERVE_BYTES);
        let zeros = rt.alloc((to - self.reserved_to) as usize);
        let ahead = self.file.write_at(zeros, self.reserved_to).await;
        ahead.map_err(|e| Fault::io(&self.path, "reserving space", &e))?;
        self.file.sync().await.map_err(|e| Fault::doubt(&self.path, "syncing reserved space", &e))?;
        self.reserved_to = to;
        Ok(())
    }

    /// Whether it is time to begin a new one.
    pub(crate) fn is_long(&self) -> bool {
        self.len_bytes > ROLL_BYTES_MIN.max(GROWTH_MAX * self.first_frame_bytes)
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// What is at its place as long as it is in force.
    pub(crate) fn in_force(&self) -> InForce {
        InForce { path: self.path.clone(), id: self.file.id(), named: named(self.number) }
    }

    pub(crate) fn tree(&self) -> u64 {
        self.tree
    }

    /// Closes the file.
    pub(crate) async fn close(self) -> Result<()> {
        let path = self.path;
        self.file.close().await.map_err(|e| Fault::io(&path, "closing", &e))
    }
}

/// What `CURRENT` says where manifest `number` is in force.
fn named(number: u64) -> String {
    format!("{}\n", file_name(number))
}

/// The manifest in force, as found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) number: u64,
    pub(crate) replayed: Replayed,
    pub(crate) bytes: Vec<u8>,
}

/// Reads the manifest in force; `None` in a directory that has none.
pub(crate) async fn recover(rt: &Rt, dir: &Path) -> Result<Option<Found>> {
    let current = dir.join(CURRENT);
    if !rt.exists(&current).await.map_err(|e| Fault::io(&current, "looking it up", &e))? {
        return Ok(None);
    }
    let name = rt.read_small(&current).await.map_err(|e| Fault::io(&current, "reading", &e))?;
    let number = std::str::from_utf8(&name).ok().and_then(|name| file_number(name.trim_end()));
    let number = number.ok_or_else(|| Fault::corruption(&current, "it does not name a manifest"))?;
    let path = dir.join(file_name(number));
    if !rt.exists(&path).await.map_err(|e| Fault::io(&path, "looking it up", &e))? {
        // Either may be the damaged one: the manifest that has gone, or a CURRENT that names another than it did.
        let what = format!("{} names this manifest and it is not there", current.display());
        return Err(Fault::corruption(&path, what));
    }
    let bytes = rt.read_small(&path).await.map_err(|e| Fault::io(&path, "reading", &e))?;
    let replayed = replay(&bytes, number)
        .map_err(|(offset, damage)| damage.fault(&path, format_args!("frame at offset {offset}")))?;
    Ok(Some(Found { number, replayed, bytes }))
}

/// Decodes a manifest file.
///
/// # Errors
/// The offset of the frame that is damaged and how.
pub(crate) fn replay(bytes: &[u8], number: u64) -> std::result::Result<Replayed, (u64, Damage)> {
    let mut edits = Vec::new();
    let (mut offset, mut tree) = (0, None);
    while offset < bytes.len() {
        match decode_frame(&bytes[offset..], number, edits.len() as u64, tree) {
            Ok((edit, frame)) => {
                edits.push(edit);
                offset += frame.bytes();
                tree = Some(frame.tree);
            }
            Err(damage) => {
                // What a later version has added to this manifest was acknowledged, and is not for this one to judge.
                let newer = damage == UNKNOWN_MANIFEST;
                let torn = !edits.is_empty() && !newer && !good_frame_after(bytes, offset, number);
                if !torn {
                    return Err((offset as u64, damage));
                }
                let written = bytes[offset..].iter().any(|&byte| byte != 0);
                let torn_at = written.then_some(offset as u64);
                return Ok(Replayed { tree: tree.unwrap_or_default(), edits, torn_at });
            }
        }
    }
    match tree {
        Some(tree) => Ok(Replayed { tree, edits, torn_at: None }),
        None => Err((0, Damage("an empty manifest"))),
    }
}

/// Where each good frame at the front of a manifest file ends.
fn frame_ends(bytes: &[u8], number: u64) -> Vec<usize> {
    let mut ends: Vec<usize> = Vec::new();
    loop {
        let begin = ends.last().copied().unwrap_or(0);
        match check_frame(bytes.get(begin..).unwrap_or_default(), number) {
            Ok(frame) => ends.push(begin + frame.bytes()),
            Err(_) => return ends,
        }
    }
}

/// A frame whose checksum is right.
struct Frame<'a> {
    archive: &'a [u8],
    version: u32,
    sequence: u64,
    tree: u64,
}

impl Frame<'_> {
    /// How far it is to the next.
    fn bytes(&self) -> usize {
        (HEADER_BYTES + self.archive.len()).next_multiple_of(BLOCK_BYTES)
    }
}

fn good_frame_after(bytes: &[u8], offset: usize, number: u64) -> bool {
    let blocks = (offset + BLOCK_BYTES..bytes.len()).step_by(BLOCK_BYTES);
    blocks.into_iter().any(|later| check_frame(&bytes[later..], number).is_ok())
}

fn encode_frame(edit: &Edit, tree: u64, number: u64, sequence: u64) -> Vec<u8> {
    let archive =
        rkyv::to_bytes::<rkyv::rancor::Error>(edit).expect("an edit in memory can always be archived");
    let mut frame = Vec::with_capacity((HEADER_BYTES + archive.len()).next_multiple_of(BLOCK_BYTES));
    frame.extend_from_slice(&MAGIC.to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&u32::try_from(archive.len()).expect("an edit is far below 4 GiB").to_le_bytes());
    frame.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    frame.extend_from_slice(&number.to_le_bytes());
    frame.extend_from_slice(&sequence.to_le_bytes());
    frame.extend_from_slice(&tree.to_le_bytes());
    frame.extend_from_slice(&archive);
    let crc = crc32fast::hash(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame.resize(frame.len().next_multiple_of(BLOCK_BYTES), 0);
    frame
}

/// The edit of the frame at the start of `bytes`, which belongs to `tree` if that is known.
fn decode_frame(
    bytes: &[u8],
    number: u64,
    sequence: u64,
    tree: Option<u64>,
) -> std::result::Result<(Edit, Frame<'_>), Damage> {
    let frame = check_frame(bytes, number)?;
    if frame.sequence != sequence {
        return Err(Damage("a frame out of sequence"));
    }
    if tree.is_some_and(|tree| tree != frame.tree) {
        return Err(Damage("a frame of another tree"));
    }
    let edit = match frame.version {
        FORMAT_WITHOUT_STATES => {
            rkyv::from_bytes::<EditV3, rkyv::rancor::Error>(frame.archive).map(Edit::from)
        }
        FORMAT_WITH_RANGE_DELETES => {
            rkyv::from_bytes::<EditV4, rkyv::rancor::Error>(frame.archive).map(Edit::from)
        }
        _ => rkyv::from_bytes::<Edit, rkyv::rancor::Error>(frame.archive),
    };
    let edit = edit.map_err(|_| Damage("a frame whose checksum is right and whose edit is not"))?;
    Ok((edit, frame))
}

/// The frame at the start of `bytes`.
fn check_frame(bytes: &[u8], number: u64) -> std::result::Result<Frame<'_>, Damage> {
    let header = bytes.get(..HEADER_BYTES).ok_or(Damage("a frame cut off in its header"))?;
    let word = |at: usize| header[at..].first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk));
    let long = |at: usize| header[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk));
    if word(0) != MAGIC {
        return Err(Damage("no manifest frame where one should be"));
    }
    // Before the checksum, because the first versions had another header. Later ones have the first sixteen bytes as they are here.
    let version = word(12);
    if version < FORMAT_WITHOUT_STATES {
        return Err(UNKNOWN_MANIFEST);
    }
    let len = word(8) as usize;
    let whole = bytes.get(..HEADER_BYTES.saturating_add(len)).ok_or(Damage("a frame cut off in its edit"))?;
    if word(4) != crc32fast::hash(&whole[8..]) {
        return Err(Damage("a frame's checksum does not match"));
    }
    if version > FORMAT_VERSION {
        return Err(UNKNOWN_MANIFEST);
    }
    if long(16) != number {
        return Err(Damage("a frame of another manifest"));
    }
    Ok(Frame { archive: &whole[HEADER_BYTES..], version, sequence: long(24), tree: long(32) })
}

/// The name of manifest `number`.
pub(crate) fn file_name(number: u64) -> String {
    format!("MANIFEST-{number:010}")
}

/// The number in a manifest's name.
pub(crate) fn file_number(name: &str) -> Option<u64> {
    name.strip_prefix("MANIFEST-")?.parse().ok()
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
