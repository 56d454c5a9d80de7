//! A range of the tree for another tree on the same file system, which shows the same files: nothing is read, and nothing is written.
//!
//! ```text
//! this tree: memory is closed ─► flushed ─► its tables, as they are then ─┐ held until they have second names
//! other tree:                         second names, rows with the bounds of the range ─► one edit ([`super::ingest`])
//! ```
//!
//! A share is the tree of one moment, that of [`Tree::share`]: what is written afterwards lies in memory that is flushed later, and a
//! compaction in between changes where entries lie and not which there are. The tables keep their levels, their order and their sequence
//! numbers; the tree that takes them in goes on behind the highest of these.
//!
//! Invariant: the files of a share are there as long as it lives.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::key::{Cf, lower_end};
use super::maintain::Maintenance;
use super::table::read::Table;
use super::version::TableMeta;
use super::{Shared, Tree};
use crate::error::Result;
use crate::rt::local::{Answer, Pending, oneshot};

/// A part of a table file that another tree may show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedTable {
    path: PathBuf,
    pub(super) meta: TableMeta,
}

impl SharedTable {
    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells files apart: several tables may show parts of one.
    pub fn file(&self) -> u64 {
        self.meta.file
    }

    /// About how many bytes of the file it shows.
    pub fn bytes(&self) -> u64 {
        self.meta.bytes
    }

    /// The same file by another name.
    #[must_use]
    pub fn named(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }
}

/// The tables of a range at one moment. Their files stay while it lives.
#[derive(Debug)]
pub struct Share {
    tables: Vec<SharedTable>,
    _held: Vec<Rc<Table>>,
}

impl Share {
    /// The tables, those of level 0 oldest first.
    pub fn tables(&self) -> &[SharedTable] {
        &self.tables
    }
}

/// Who waits until a memtable is flushed, for the tables as they are then.
#[derive(Debug)]
pub(super) struct Sharing {
    generation: u64,
    start: Vec<u8>,
    end: Vec<u8>,
    families: &'static [Cf],
    answer: Answer<Vec<Rc<Table>>>,
}

/// A share that has begun, as of the moment of its begin.
#[derive(Debug)]
pub struct BegunShare {
    shared: Rc<Shared>,
    start: Vec<u8>,
    end: Vec<u8>,
    tables: Pending<Vec<Rc<Table>>>,
}

impl Tree {
    /// Begins to share `[start, end)` of these families as it is now; an empty `end` means "to the last key". What memory holds is flushed
    /// for that.
    pub fn share(&self, start: &[u8], end: &[u8], families: &'static [Cf]) -> BegunShare {
        let shared = &self.shared;
        if !shared.active.borrow().is_empty() {
            shared.rotate();
        }
        let (answer, tables) = oneshot();
        let (start, end) = (start.to_vec(), end.to_vec());
        let newest = shared.closed.borrow().back().map(|memtable| memtable.generation);
        let generation = newest.unwrap_or_default();
        let sharing = Sharing { generation, start: start.clone(), end: end.clone(), families, answer };
        match newest {
            Some(_) => shared.sharings.borrow_mut().push(sharing),
            None => sharing.settle(shared.version.borrow().tables()),
        }
        shared.work.ring();
        BegunShare { shared: shared.clone(), start, end, tables }
    }
}

impl BegunShare {
    /// Waits until what memory held is on disk; on a full disk until there is space.
    ///
    /// # Errors
    /// The fault that poisoned the tree, or that of an index that has to be read.
    pub async fn tables(self) -> Result<Share> {
        let Self { shared, start, end, tables } = self;
        let held = tables.await.ok_or_else(|| shared.refusal())?;
        let rt = &shared.rt;
        let mut shown = Vec::with_capacity(held.len());
        for table in &held {
            let meta = &table.meta;
            let (from, upto) = (meta.start.as_slice().max(start.as_slice()), lower_end(&meta.end, &end));
            let meta = if (from, upto) == (meta.start.as_slice(), meta.end.as_slice()) {
                meta.clone()
            } else {
                let bytes =
                    table.bytes_from(rt, from).await?.saturating_sub(table.bytes_from(rt, upto).await?);
                meta.part(meta.table, (from, upto), bytes.min(meta.bytes))
            };
            shown.push(SharedTable { path: table.path().to_owned(), meta });
        }
        // In level 0 the order of the files is that of the tables, and all others lie apart.
        shown.sort_by_key(|table| table.meta.file);
        Ok(Share { tables: shown, _held: held })
    }
}

impl Sharing {
    fn settle<'a>(self, tables: impl Iterator<Item = &'a Rc<Table>>) {
        let Self { generation: _, start, end, families, answer } = self;
        let is_meant = |table: &&Rc<Table>| {
            let meta = &table.meta;
            families.iter().any(|cf| cf.index() == usize::from(meta.cf)) && meta.overlaps(&start, &end)
        };
        answer.send(tables.filter(is_meant).cloned().collect());
    }
}

impl Maintenance {
    /// The memtable of this generation is in the tables, and no later one is.
    pub(super) fn settle_shares(&self, generation: u64) {
        let due = |sharing: &mut Sharing| sharing.generation <= generation;
        let due: Vec<Sharing> = self.shared.sharings.borrow_mut().extract_if(.., due).collect();
        let version = self.shared.version.borrow();
        due.into_iter().for_each(|sharing| sharing.settle(version.tables()));
    }
}
