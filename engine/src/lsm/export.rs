//! A range of the tree as table files that another tree can take in ([`super::ingest`]).
//!
//! An export shows one moment: it reads through a snapshot, and writers go on meanwhile. What it writes are ordinary tables, clipped to
//! the range: one version per key, no deletes, every entry with sequence number 0, because in the tree that takes them in they are
//! older than all that is written there afterwards. What has expired and was not dropped yet is among them: only a read takes it for
//! absent. It comes piece by piece, so that whoever sends it decides how much lies on disk at
//! a time; nothing of the tree is held between two pieces but the moment.
//!
//! The exporter never touches the tree's own directory, and no manifest knows its files: what a crash leaves of them is the caller's to
//! remove.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::compact::GIVE_WAY;
use super::iter::Entry;
use super::key::{Cf, Direction, SeqNo};
use super::pace::Pace;
use super::read::Snapshot;
use super::source::KeyRange;
use super::table::build::TableBuilder;
use super::table::write::{WRITE_BYTES, Writer};
use super::{Iter, Shared, Tree};
use crate::error::{Fault, Result};

/// What every entry of an exported table has for a sequence number: it is older than all that its new tree will write.
pub(super) const EXPORTED_SEQ: SeqNo = SeqNo(0);
/// Entries between two looks at the time.
const CHECK_EVERY: u32 = 32;

/// One file of an exported range: what its receiver has to know in order to judge it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The family that its entries belong to.
    pub cf: Cf,
    /// Its first key.
    pub start: Vec<u8>,
    /// Exclusive end, above its last key.
    pub end: Vec<u8>,
    /// Length of the file.
    pub file_bytes: u64,
    /// Keys in it.
    pub entries: u64,
    /// Drawn for the file; every checksum in it is salted with it.
    pub identity: u64,
    /// CRC-32 (IEEE) over the whole file before its footer.
    pub body_crc: u32,
}

/// How an export goes about it.
#[derive(Clone, Copy, Debug)]
pub struct ExportOptions {
    /// The families that travel. What the caller keeps for itself may lie in others, under keys of the same range.
    pub families: &'static [Cf],
    /// A piece ends with the key that brings it to this size, bytes.
    pub piece_bytes: u64,
    /// Bytes per second that are read and written; none means no limit.
    pub bytes_per_second: Option<u64>,
}

/// An export that has begun. While it lives, the versions that it still has to read are kept.
#[derive(Debug)]
pub struct Export {
    snapshot: Snapshot,
    range: KeyRange,
    options: ExportOptions,
    pace: Pace,
    /// What is left: the families, and where the next piece of the first of them begins.
    families: VecDeque<Cf>,
    from: Vec<u8>,
    /// What a piece that failed has left, because it could not be removed.
    leftover: Option<PathBuf>,
}

impl Tree {
    /// Begins to export `[start, end)` as it is now; an empty `end` means "to the last key".
    pub fn export(&self, start: &[u8], end: &[u8], options: ExportOptions) -> Export {
        Export {
            snapshot: self.snapshot(),
            range: KeyRange { start: start.to_vec(), end: end.to_vec() },
            options,
            pace: Pace::new(options.bytes_per_second),
            families: options.families.iter().copied().collect(),
            from: start.to_vec(),
            leftover: None,
        }
    }
}

impl Export {
    /// Writes the next piece to `path`, where no file may be, and syncs it; the name becomes durable with the directory. `None` after the
    /// last piece, and then there is no file.
    ///
    /// # Errors
    /// The fault of a file that had to be read or written. After a passing shortage the same piece can be asked for again.
    /// What was written of it is removed, at the latest when the next piece is asked for.
    pub async fn next_piece(&mut self, path: &Path) -> Result<Option<Piece>> {
        self.remove_leftover().await?;
        while let Some(&cf) = self.families.front() {
            let (start, end) = (self.from.clone(), self.range.end.clone());
            let mut iter = self.snapshot.iter(cf, &start, &end, Direction::Forward);
            if let Some(first) = iter.next_stored().await? {
                let shared = self.snapshot.shared();
                let mut writer = create(shared, path).await?;
                match self.fill(cf, iter, first, &mut writer).await {
                    Ok((builder, is_last)) => {
                        return self.end_piece(builder, writer, path, is_last).await.map(Some);
                    }
                    Err(fault) => {
                        drop(writer);
                        return Err(self.take_back(path, fault).await);
                    }
                }
            }
            self.next_family();
        }
        Ok(None)
    }

    /// Adds entries until the piece is full; says whether the family is at its end.
    async fn fill(
        &self,
        cf: Cf,
        mut iter: Iter,
        first: Entry,
        writer: &mut Writer,
    ) -> Result<(TableBuilder, bool)> {
        let shared = self.snapshot.shared();
        let mut builder = TableBuilder::new(cf, shared.options.shape(), shared.rt.random());
        let (budget, mut entries, mut next) = (shared.rt.budget(), 0, Some(first));
        while let Some(Entry { key, kind, stored }) = next {
            builder.add(&key, EXPORTED_SEQ, kind, &stored);
            if builder.output().len() >= WRITE_BYTES {
                let bytes = builder.output().len() as u64;
                writer.feed(&shared.rt, builder.output()).await?;
                self.pace.spend(&shared.rt, bytes).await;
            }
            entries += 1;
            if entries % CHECK_EVERY == 0 {
                budget.tick().await;
            }
            if builder.size_bytes() >= self.options.piece_bytes {
                return Ok((builder, false));
            }
            next = iter.next_stored().await?;
        }
        Ok((builder, true))
    }

    /// Makes the piece durable and goes on behind it.
    async fn end_piece(
        &mut self,
        mut builder: TableBuilder,
        writer: Writer,
        path: &Path,
        is_last: bool,
    ) -> Result<Piece> {
        let (cf, rt) = (builder.cf(), self.snapshot.shared().rt.clone());
        let built = builder.finish();
        // What is left of a piece costs as much as what was written before it, or small pieces would be free.
        let rest_bytes = builder.output().len() as u64;
        if let Err(fault) = writer.finish(&rt, builder.output()).await {
            return Err(self.take_back(path, fault).await);
        }
        self.pace.spend(&rt, rest_bytes).await;
        match is_last {
            true => self.next_family(),
            false => self.from.clone_from(&built.end),
        }
        debug_assert_eq!(built.deletes, 0, "an export has no deletes");
        Ok(Piece {
            cf,
            start: built.start,
            end: built.end,
            file_bytes: built.file_bytes,
            entries: built.entries,
            identity: built.identity,
            body_crc: built.body_crc,
        })
    }

    /// Removes what was written of a piece that failed with `fault`, now or before the next piece.
    async fn take_back(&mut self, path: &Path, fault: Fault) -> Fault {
        self.leftover = Some(path.to_owned());
        match self.remove_leftover().await {
            Ok(()) => fault,
            Err(second) => {
                let left = format!("{}; what was written of it is still there: {}", fault.what, second.what);
                Fault { what: left, ..fault }
            }
        }
    }

    async fn remove_leftover(&mut self) -> Result<()> {
        if let Some(path) = &self.leftover {
            let removed = self.snapshot.shared().rt.remove(path).await;
            removed.map_err(|e| Fault::io(path, "removing", &e))?;
            self.leftover = None;
        }
        Ok(())
    }

    fn next_family(&mut self) {
        self.families.pop_front();
        self.from.clone_from(&self.range.start);
    }
}

/// The file of a piece. Table files that are only open in case they are read again give way to it.
async fn create(shared: &Shared, path: &Path) -> Result<Writer> {
    loop {
        match Writer::create(&shared.rt, path.to_owned()).await {
            Err(fault) if shared.files.make_room_after(&fault) => shared.rt.sleep(GIVE_WAY).await,
            created => return created,
        }
    }
}

impl Piece {
    /// Whether `key` is above all keys of the piece, so that another may begin with it.
    pub(super) fn ends_before(&self, key: &[u8]) -> bool {
        self.end.as_slice() <= key
    }
}
