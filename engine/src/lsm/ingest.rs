//! Taking in a range that another tree has exported ([`super::export`]): its files become tables of this tree as they are.
//!
//! ```text
//! the caller's files ─► every checksum, and what was said of them ─► second names in the tree's directory ─┐
//!                        memtables are flushed ────────────────────────────────────────────────────────────┴─► one edit
//! ```
//!
//! One edit of the manifest empties the ranges, shows the files there, and says how far in the log the group is with that. So a crash
//! leaves all of the old state or all of the new. Nothing is rewritten: tables that reach over a border of the ranges go on with the
//! parts outside, under rows of their own.
//!
//! The files get second names and keep their first, so the same ingest can be asked for again, after a crash, too; names that no edit
//! knows are removed at the next opening. The caller removes its own.
//!
//! The tables of a [share](super::share) come in the same way, at the levels and with the sequence numbers that they had: the tree
//! numbers what it writes from then on behind them, and nothing older of the range is left that they could be mistaken against.
//!
//! What the caller sees to: nothing is written in the ranges and nothing for the group while this goes on, and no snapshot from before
//! reads the ranges afterwards. Entries that are taken in are older than every moment that can be read at, so such a reader would
//! see them instead of what it began with. An iterator keeps what it began with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::export::{EXPORTED_SEQ, Piece};
use super::key::{Cf, in_range, lower_end, ranges_overlap};
use super::maintain::Maintenance;
use super::share::SharedTable;
use super::table::read::{Table, file_name};
use super::table::{FOOTER_BYTES, Footer};
use super::version::{LEVELS, MarkRow, StateRow, TableMeta};
use super::{Shared, Tree};
use crate::error::{Fault, Result};
use crate::rt::local::{Answer, oneshot};
use crate::rt::{BLOCK_BYTES, OpenMode, Rt};

/// What is read of a file at once.
const READ_BYTES: u64 = 256 << 10;
/// Ingested tables lie below everything that is written later.
const BOTTOM: usize = LEVELS - 1;

/// A range to be taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingest {
    /// Whose mark and state are replaced.
    pub group: u64,
    /// The log index up to which the pieces contain the group.
    pub applied: u64,
    /// What the caller keeps about the group from then on.
    pub state: Option<Vec<u8>>,
    /// Other groups whose marks and states are replaced with it.
    pub others: Vec<(u64, u64, Vec<u8>)>,
    /// The families that it is about. All others stay as they are, and no piece is of one.
    pub families: &'static [Cf],
    /// What is emptied first, in each of the families: `[start, end)` each, an empty end for "to the last key". All pieces lie inside.
    pub ranges: Vec<(Vec<u8>, Vec<u8>)>,
    /// The files, on the file system of the tree, in any order.
    pub pieces: Vec<(PathBuf, Piece)>,
}

/// Pieces of which every byte has been read and compared with what was said of them.
#[derive(Debug)]
pub struct Verified {
    pieces: Vec<(PathBuf, Piece)>,
}

/// An ingest whose files were verified, and who waits for it.
#[derive(Debug)]
pub(super) struct Waiting {
    ingest: Rc<Ingest>,
    /// Tables that another tree shows as well.
    tables: Rc<Vec<SharedTable>>,
    answer: Answer<Result<()>>,
}

impl Tree {
    /// Replaces the contents of the ranges by those of the pieces, and the mark and the state of the group with them; durable when this
    /// returns. On a full disk it waits until there is space.
    ///
    /// # Errors
    /// Corruption or Foreign for a piece that is not what was said of it, or that does not fit the ranges, and the
    /// fault of a file that cannot be read or linked: then nothing has happened. Otherwise the fault that poisoned the tree.
    pub async fn ingest(&self, ingest: Ingest) -> Result<()> {
        let verified = self.verify(ingest.pieces.clone()).await?;
        self.ingest_verified(ingest, verified).await
    }

    /// Reads all of `pieces` and compares it with what was said of them. That takes its time and changes nothing, so it can be done before
    /// it is certain that they are taken in.
    ///
    /// # Errors
    /// Corruption or Foreign for a piece that is not what was said of it, and the fault of a file that cannot be read.
    pub async fn verify(&self, pieces: Vec<(PathBuf, Piece)>) -> Result<Verified> {
        for (path, piece) in &pieces {
            verify(&self.shared.rt, path, piece).await?;
        }
        Ok(Verified { pieces })
    }

    /// As [`Tree::ingest`], with pieces that have been read before.
    ///
    /// # Errors
    /// As [`Tree::ingest`].
    ///
    /// # Panics
    /// If other pieces were verified.
    pub async fn ingest_verified(&self, ingest: Ingest, verified: Verified) -> Result<()> {
        assert_eq!(ingest.pieces, verified.pieces, "what is taken in was verified");
        check_places(&ingest)?;
        self.enqueue(ingest, Vec::new()).await
    }

    /// As [`Tree::ingest`], with tables that another tree on this file system shows, too, and no pieces. Their files are not read.
    ///
    /// # Errors
    /// As [`Tree::ingest`].
    pub async fn ingest_shared(&self, ingest: Ingest, tables: Vec<SharedTable>) -> Result<()> {
        assert!(ingest.pieces.is_empty(), "a range comes in one way");
        check_tables(&ingest, &tables)?;
        self.enqueue(ingest, tables).await
    }

    async fn enqueue(&self, ingest: Ingest, tables: Vec<SharedTable>) -> Result<()> {
        let shared = &self.shared;
        if shared.fault.borrow().is_some() || shared.stopping.get() {
            return Err(shared.refusal());
        }
        let (answer, done) = oneshot();
        let (ingest, tables) = (Rc::new(ingest), Rc::new(tables));
        shared.ingests.borrow_mut().push_back(Waiting { ingest, tables, answer });
        shared.work.ring();
        done.await.unwrap_or_else(|| Err(shared.refusal()))
    }
}

impl Maintenance {
    /// Takes in the range that has waited longest; `false` if none waits.
    pub(super) async fn ingest_next(&mut self) -> Result<bool> {
        let shared = self.shared.clone();
        let waiting =
            shared.ingests.borrow().front().map(|waiting| (waiting.ingest.clone(), waiting.tables.clone()));
        let Some((ingest, tables)) = waiting else { return Ok(false) };
        // What memory holds of the ranges is from before; as a table it can be cut.
        if !shared.active.borrow().is_empty() {
            shared.rotate();
        }
        self.flush_closed().await?;
        self.begin_step();
        let (removed, mut added) = self.cut_out(&ingest).await;
        match self.name_all(&ingest, &tables).await {
            Ok(rows) => added.extend(rows),
            Err(fault) if fault.is_passing() => return Err(fault),
            Err(fault) => {
                // The caller's file, not the tree: nothing has happened to it yet.
                self.remove_leftovers().await?;
                self.answer_ingest(Err(fault));
                return Ok(true);
            }
        }
        // What is written from now on is newer than all that came.
        let newest = tables.iter().map(|table| table.meta.largest_seq()).max().unwrap_or(EXPORTED_SEQ);
        shared.last_seq.set(shared.last_seq.get().max(newest));
        let others = ingest.others.iter().map(|(group, applied, _)| (*group, *applied));
        let marks = std::iter::once((ingest.group, ingest.applied))
            .chain(others)
            .flat_map(|(group, applied)| [None, Some(applied)].map(|applied| MarkRow { group, applied }));
        let state = ingest.state.clone().map(|state| StateRow { group: ingest.group, state });
        let others = ingest.others.iter();
        let states = others.map(|(group, _, state)| StateRow { group: *group, state: state.clone() });
        self.install(&removed, added, marks.collect(), state.into_iter().chain(states).collect()).await?;
        // Nothing ran since the version changed, so no row of the old one can be put back.
        shared.rows.forget_all();
        self.answer_ingest(Ok(()));
        Ok(true)
    }

    /// The range that has waited longest waits no more.
    fn answer_ingest(&self, outcome: Result<()>) {
        let first = self.shared.ingests.borrow_mut().pop_front();
        if let Some(Waiting { ingest: _, tables: _, answer }) = first {
            answer.send(outcome);
        }
    }

    /// The tables that show something of the ranges, and the rows for what they show outside of them.
    async fn cut_out(&self, ingest: &Ingest) -> (Vec<u64>, Vec<TableMeta>) {
        let version = self.shared.version.borrow().clone();
        let (mut removed, mut rests) = (Vec::new(), Vec::new());
        for table in version.tables() {
            let meta = &table.meta;
            if !ingest.families.iter().any(|cf| cf.index() == usize::from(meta.cf)) {
                continue;
            }
            let outside = left_over((&meta.start, &meta.end), &ingest.ranges);
            if outside.as_slice() == [(meta.start.clone(), meta.end.clone())] {
                continue;
            }
            removed.push(meta.table);
            for (start, end) in outside {
                let bytes = self.shown_bytes(table, &start, &end).await;
                rests.push(meta.part(self.next_number(), (&start, &end), bytes));
            }
        }
        (removed, rests)
    }

    /// About how many bytes a part of a table has. Damage in it is met by those who read it; here it must not keep the range that
    /// replaces it away.
    async fn shown_bytes(&self, table: &Table, start: &[u8], end: &[u8]) -> u64 {
        let rt = &self.shared.rt;
        match (table.bytes_from(rt, start).await, table.bytes_from(rt, end).await) {
            (Ok(from_start), Ok(from_end)) => from_start.saturating_sub(from_end).min(table.meta.bytes),
            (Ok(_) | Err(_), Ok(_) | Err(_)) => table.meta.bytes / 2,
        }
    }

    /// Gives the files names in the tree, and returns the rows of the tables.
    async fn name_all(&self, ingest: &Ingest, tables: &[SharedTable]) -> Result<Vec<TableMeta>> {
        let (mut rows, mut named) = (Vec::new(), BTreeMap::new());
        for (path, piece) in &ingest.pieces {
            rows.push(self.name(path, piece).await?);
        }
        for table in tables {
            let file = match named.get(&table.file()) {
                Some(file) => *file,
                None => self.link(table.path()).await?,
            };
            named.insert(table.file(), file);
            rows.push(TableMeta { table: self.next_number(), file, ..table.meta.clone() });
        }
        Ok(rows)
    }

    /// Gives a file a name in the tree, and returns its number.
    async fn link(&self, path: &Path) -> Result<u64> {
        let shared = &self.shared;
        let number = self.next_number();
        let named = shared.dir.join(file_name(number));
        let attempt = format!("giving it the second name {}", named.display());
        shared.rt.link(path, &named).await.map_err(|e| Fault::io(path, &attempt, &e))?;
        Ok(number)
    }

    /// Gives the file of a piece a name in the tree, and returns its row.
    async fn name(&self, path: &Path, piece: &Piece) -> Result<TableMeta> {
        let number = self.link(path).await?;
        Ok(TableMeta {
            table: number,
            file: number,
            cf: piece.cf.index() as u8,
            level: BOTTOM as u8,
            start: piece.start.clone(),
            end: piece.end.clone(),
            file_bytes: piece.file_bytes,
            bytes: piece.file_bytes,
            identity: piece.identity,
            file_crc: piece.body_crc,
            entries: piece.entries,
            deletes: 0,
            smallest_seq: EXPORTED_SEQ.0,
            largest_seq: EXPORTED_SEQ.0,
            // Of each level a merge has one table at a time, and these lie in the last.
            block_bytes_max: 0,
            erasures: 0,
            erased: Arc::default(),
        })
    }
}

impl Shared {
    /// Whoever waits for an ingest hears that it will not come.
    pub(super) fn refuse_ingests(&self) {
        self.ingests.borrow_mut().clear();
    }
}

/// Whether every piece lies in one of the ranges, and no two share a key.
fn check_places(ingest: &Ingest) -> Result<()> {
    for (path, piece) in &ingest.pieces {
        let inside = |(start, end): &(Vec<u8>, Vec<u8>)| {
            in_range(&piece.start, start, end) && lower_end(&piece.end, end) == piece.end.as_slice()
        };
        if !ingest.families.contains(&piece.cf) {
            return Err(Fault::foreign(
                path,
                "the piece is of a family that no range of another tree may replace",
            ));
        }
        if piece.start >= piece.end || !ingest.ranges.iter().any(inside) {
            return Err(Fault::foreign(path, "the piece does not lie in the range that it is meant for"));
        }
    }
    let mut pieces: Vec<&(PathBuf, Piece)> = ingest.pieces.iter().collect();
    pieces.sort_by(|(_, a), (_, b)| (a.cf, &a.start).cmp(&(b.cf, &b.start)));
    for pair in pieces.windows(2) {
        let ((_, before), (path, piece)) = (pair[0], pair[1]);
        if before.cf == piece.cf && !before.ends_before(&piece.start) {
            return Err(Fault::foreign(path, "the piece shares keys with another one of the same range"));
        }
    }
    Ok(())
}

/// Whether every table lies in one of the ranges.
fn check_tables(ingest: &Ingest, tables: &[SharedTable]) -> Result<()> {
    for table in tables {
        let meta = &table.meta;
        let inside = |(start, end): &(Vec<u8>, Vec<u8>)| {
            in_range(&meta.start, start, end) && lower_end(&meta.end, end) == meta.end.as_slice()
        };
        let is_of_family = ingest.families.iter().any(|cf| cf.index() == usize::from(meta.cf));
        if !is_of_family || !ingest.ranges.iter().any(inside) {
            return Err(Fault::foreign(
                table.path(),
                "the table does not lie in the range that it is meant for",
            ));
        }
    }
    Ok(())
}

/// Reads all of a file and compares it with what was said of it.
async fn verify(rt: &Rt, path: &Path, piece: &Piece) -> Result<()> {
    let file = rt.open(path, OpenMode::Read).await.map_err(|e| Fault::io(path, "opening", &e))?;
    let len = file.len().await.map_err(|e| Fault::io(path, "looking up its length", &e))?;
    let body_bytes = len.saturating_sub(FOOTER_BYTES as u64);
    if len != piece.file_bytes || len % BLOCK_BYTES as u64 != 0 || len < FOOTER_BYTES as u64 {
        let what = format!("the piece has {len} bytes, and was sent as one of {}", piece.file_bytes);
        return Err(Fault::corruption(path, what));
    }
    let (mut crc, mut footer, mut pos) = (crc32fast::Hasher::new(), Vec::new(), 0);
    let budget = rt.budget();
    while pos < len {
        let wanted = READ_BYTES.min(len - pos) as usize;
        let read = file.read_at(pos, wanted).await.map_err(|e| Fault::io(path, "reading", &e))?;
        if read.len() < wanted {
            return Err(Fault::corruption(
                path,
                format!("the piece ends at byte {}", pos + read.len() as u64),
            ));
        }
        let of_body = body_bytes.saturating_sub(pos).min(wanted as u64) as usize;
        crc.update(&read[..of_body]);
        footer.extend_from_slice(&read[of_body..wanted]);
        pos += wanted as u64;
        budget.tick().await;
    }
    file.close().await.map_err(|e| Fault::io(path, "closing", &e))?;
    if crc.finalize() != piece.body_crc {
        return Err(Fault::corruption(path, "the piece's checksum is not the one that it was sent with"));
    }
    let footer = Footer::decode(&footer).map_err(|damage| Fault::corruption(path, damage.0))?;
    let said = (piece.cf, piece.entries, piece.identity, piece.body_crc);
    if (footer.cf, footer.entries, footer.identity, footer.body_crc) != said {
        return Err(Fault::foreign(path, "the piece is another table than the one that was announced"));
    }
    if (footer.smallest_seq, footer.largest_seq) != (EXPORTED_SEQ, EXPORTED_SEQ) {
        return Err(Fault::foreign(path, "the piece is a table that no export has made"));
    }
    Ok(())
}

/// What is left of `[start, end)` without `ranges`, in order.
fn left_over((start, end): (&[u8], &[u8]), ranges: &[(Vec<u8>, Vec<u8>)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut left = vec![(start.to_vec(), end.to_vec())];
    for (from, to) in ranges {
        let mut next = Vec::new();
        for (start, end) in left {
            if !ranges_overlap(&start, &end, from, to) {
                next.push((start, end));
                continue;
            }
            if start < *from {
                next.push((start, from.clone()));
            }
            if !to.is_empty() && *to < end {
                next.push((to.clone(), end));
            }
        }
        left = next;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_range_lies_outside_of_all_others() {
        let pair = |(a, b): (&str, &str)| (a.as_bytes().to_vec(), b.as_bytes().to_vec());
        let left = |of: (&str, &str), ranges: &[(&str, &str)]| {
            let ranges: Vec<_> = ranges.iter().copied().map(pair).collect();
            let left = left_over((of.0.as_bytes(), of.1.as_bytes()), &ranges);
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            left.into_iter().map(|(a, b)| format!("{}-{}", text(a), text(b))).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(left(("c", "k"), &[("m", "p")]), "c-k");
        assert_eq!(left(("c", "k"), &[("a", "c"), ("k", "")]), "c-k");
        assert_eq!(left(("c", "k"), &[("a", "e")]), "e-k");
        assert_eq!(left(("c", "k"), &[("e", "")]), "c-e");
        assert_eq!(left(("c", "k"), &[("e", "g")]), "c-e g-k");
        assert_eq!(left(("c", "k"), &[("e", "g"), ("d", "f"), ("i", "z")]), "c-d g-i");
        assert_eq!(left(("c", "k"), &[("", "")]), "");
        assert_eq!(left(("c", "k"), &[("c", "f"), ("f", "k")]), "");
    }
}
