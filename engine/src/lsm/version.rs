//! Which tables make up the tree: an immutable value, and the edits that lead from one to the next.
//!
//! * Level 0 holds flushed memtables, newest first; they may overlap.
//! * In level 1 and above tables are sorted and share no key.
//! * For one key, whatever lies in a lower level (or earlier in level 0) is newer.
//! * A table's bounds are *virtual*: the part of its file that this tree sees. Reads never look outside them. A compaction that
//!   ends in the middle of its inputs leaves rows for what is still ahead of it.
//! * In level 0 files are ordered by their numbers, which grow with the flushes that made them.
//! * Table ids and file numbers come from one counter and are never used twice.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

use super::erased::RangeTombstones;
use super::key::{Cf, SeqNo, in_range, ranges_overlap};
use super::table::read::Table;

/// Levels of a family, level 0 included.
pub(crate) const LEVELS: usize = 7;

/// A row of the manifest: one table and how much of its file it shows.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableMeta {
    /// Names this row; unique for ever.
    pub(crate) table: u64,
    /// The file behind it. Several tables may show parts of one file.
    pub(crate) file: u64,
    pub(crate) cf: u8,
    pub(crate) level: u8,
    /// Virtual bounds: `[start, end)`.
    pub(crate) start: Vec<u8>,
    pub(crate) end: Vec<u8>,
    pub(crate) file_bytes: u64,
    /// About how many of them lie within the bounds.
    pub(crate) bytes: u64,
    /// Drawn for the file; every checksum in it is salted with it.
    pub(crate) identity: u64,
    /// CRC over the whole file before its footer.
    pub(crate) file_crc: u32,
    pub(crate) entries: u64,
    pub(crate) deletes: u64,
    pub(crate) smallest_seq: u64,
    pub(crate) largest_seq: u64,
    /// The longest data block, bytes before packing: what a merge has of the table at once. A block has the whole values of its keys.
    pub(crate) block_bytes_max: u64,
    /// How many range deletes the file has within the bounds; so an opening knows which files to read them from.
    pub(crate) erasures: u64,
    /// These range deletes. They are not in the manifest: clients choose how long their bounds are, and a manifest is held in memory as
    /// a whole more than once. They are shared with other trees of the node, on other cores.
    #[rkyv(with = rkyv::with::Skip)]
    pub(crate) erased: Arc<RangeTombstones>,
}

/// A row of manifests up to format version 4, which repeat the range deletes.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableMetaV4 {
    table: u64,
    file: u64,
    cf: u8,
    level: u8,
    start: Vec<u8>,
    end: Vec<u8>,
    file_bytes: u64,
    bytes: u64,
    identity: u64,
    file_crc: u32,
    entries: u64,
    deletes: u64,
    smallest_seq: u64,
    largest_seq: u64,
    erased: Vec<ErasedRow>,
}

/// A range delete, as manifests up to format version 4 keep it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct ErasedRow {
    pub(crate) start: Bytes,
    pub(crate) end: Bytes,
    pub(crate) seq: u64,
}

/// A group and the log index up to which the tables contain it; none if the group is gone. Rows are taken in their order: that a
/// group is gone comes before where its next life has got to.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct MarkRow {
    pub(crate) group: u64,
    pub(crate) applied: Option<u64>,
}

/// What the caller keeps about a group, as of the mark in the same edit or the latest before it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateRow {
    pub(crate) group: u64,
    pub(crate) state: Vec<u8>,
}

/// An edit as manifests of format version 3 keep it: without states.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EditV3 {
    added: Vec<TableMetaV4>,
    removed: Vec<u64>,
    marks: Vec<MarkRow>,
    next_number: u64,
    last_seq: u64,
}

impl From<EditV3> for Edit {
    fn from(EditV3 { added, removed, marks, next_number, last_seq }: EditV3) -> Self {
        EditV4 { added, removed, marks, states: Vec::new(), next_number, last_seq }.into()
    }
}

/// An edit as manifests of format version 4 keep it: with the range deletes of the tables.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EditV4 {
    added: Vec<TableMetaV4>,
    removed: Vec<u64>,
    marks: Vec<MarkRow>,
    states: Vec<StateRow>,
    next_number: u64,
    last_seq: u64,
}

impl From<EditV4> for Edit {
    fn from(EditV4 { added, removed, marks, states, next_number, last_seq }: EditV4) -> Self {
        let added = added.into_iter().map(TableMeta::from).collect();
        Self { added, removed, marks, states, next_number, last_seq }
    }
}

impl From<TableMetaV4> for TableMeta {
    fn from(row: TableMetaV4) -> Self {
        let mut erased = RangeTombstones::default();
        for ErasedRow { start, end, seq } in &row.erased {
            erased.insert_within(start, end, SeqNo(*seq), (&row.start, &row.end));
        }
        // What was not counted then is guessed at: the blocks have a length beyond which none begins, and values are of all sizes.
        let mean_bytes = row.file_bytes / row.entries.max(1);
        Self {
            table: row.table,
            file: row.file,
            block_bytes_max: 2 * mean_bytes,
            cf: row.cf,
            level: row.level,
            start: row.start,
            end: row.end,
            file_bytes: row.file_bytes,
            bytes: row.bytes,
            identity: row.identity,
            file_crc: row.file_crc,
            entries: row.entries,
            deletes: row.deletes,
            smallest_seq: row.smallest_seq,
            largest_seq: row.largest_seq,
            erasures: erased.count(),
            erased: Arc::new(erased),
        }
    }
}

/// A step from one version to the next, as the manifest keeps it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edit {
    /// In level 0, oldest first.
    pub(crate) added: Vec<TableMeta>,
    /// Ids of tables that are no longer part of the tree.
    pub(crate) removed: Vec<u64>,
    pub(crate) marks: Vec<MarkRow>,
    /// Taken after the marks.
    pub(crate) states: Vec<StateRow>,
    /// Every number below has been used.
    pub(crate) next_number: u64,
    /// No table holds a sequence number above it.
    pub(crate) last_seq: u64,
}

/// The tables of the tree at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Version {
    families: [Levels; Cf::ALL.len()],
}

/// The tables of one family.
#[derive(Debug, Clone, Default)]
pub(crate) struct Levels {
    levels: [Vec<Rc<Table>>; LEVELS],
}

impl Version {
    pub(crate) fn family(&self, cf: Cf) -> &Levels {
        &self.families[cf.index()]
    }

    /// Every table.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Rc<Table>> {
        self.families.iter().flat_map(Levels::tables)
    }

    /// Memory of the range deletes of all tables, bytes.
    pub(crate) fn erased_bytes(&self) -> usize {
        self.tables().map(|table| table.meta.erased.size_bytes()).sum()
    }

    /// The tables whose range deletes are still to be read from their files.
    pub(crate) fn unread_erasers(&self) -> Vec<Rc<Table>> {
        let unread = |table: &&Rc<Table>| table.meta.erasures > 0 && table.meta.erased.is_empty();
        self.tables().filter(unread).cloned().collect()
    }

    /// Tells `table` its range deletes.
    pub(crate) fn learn_erased(&mut self, table: &Rc<Table>, erased: RangeTombstones) {
        let known = TableMeta { erasures: erased.count(), erased: Arc::new(erased), ..table.meta.clone() };
        let known = Rc::new(Table::sharing(known, table));
        let tables = self.families.iter_mut().flat_map(|levels| levels.levels.iter_mut().flatten());
        for place in tables.filter(|place| Rc::ptr_eq(place, table)) {
            *place = known.clone();
        }
    }

    /// Whether any table shows a part of this file.
    pub(crate) fn shows_file(&self, file: u64) -> bool {
        self.tables().any(|table| table.meta.file == file)
    }

    /// The version after `edit`; `make` turns a row into a table over a file that no other row shows. Rows of one file share it, whether
    /// they come with this edit or were there, so that it is closed and removed once.
    ///
    /// # Errors
    /// What in the edit contradicts this version.
    pub(crate) fn apply(
        &self,
        edit: &Edit,
        make: impl Fn(&TableMeta) -> Rc<Table>,
    ) -> Result<Version, String> {
        let (mut next, mut made) = (self.clone(), BTreeMap::new());
        for &removed in &edit.removed {
            if !next.families.iter_mut().any(|levels| levels.remove(removed)) {
                return Err(format!("table {removed} is removed and was not there"));
            }
        }
        for meta in &edit.added {
            let cf =
                Cf::from_byte(meta.cf).ok_or_else(|| format!("table {} of an unknown family", meta.table))?;
            if usize::from(meta.level) >= LEVELS || meta.start >= meta.end {
                return Err(format!("table {} has an impossible level or range", meta.table));
            }
            let shown =
                made.get(&meta.file).or_else(|| self.tables().find(|table| table.meta.file == meta.file));
            let table =
                shown.map_or_else(|| make(meta), |other| Rc::new(Table::sharing(meta.clone(), other)));
            made.insert(meta.file, table.clone());
            next.families[cf.index()].insert(table);
        }
        for levels in &next.families {
            levels.check()?;
        }
        Ok(next)
    }
}

impl Levels {
    pub(crate) fn level(&self, level: usize) -> &[Rc<Table>] {
        &self.levels[level]
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = &Rc<Table>> {
        self.levels.iter().flatten()
    }

    /// About the bytes that the tables of a level show.
    pub(crate) fn level_bytes(&self, level: usize) -> u64 {
        self.levels[level].iter().map(|table| table.meta.bytes).sum()
    }

    /// The tables that may hold `key`, newest first.
    pub(crate) fn holding<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = &'a Rc<Table>> + 'a {
        let first = self.levels[0].iter().filter(move |table| table.meta.contains(key));
        first.chain(self.levels[1..].iter().filter_map(move |level| table_for(level, key)))
    }

    /// The tables of a level that share a key with `[start, end)`, in the level's order.
    pub(crate) fn overlapping(&self, level: usize, start: &[u8], end: &[u8]) -> Vec<Rc<Table>> {
        let tables = &self.levels[level];
        if level == 0 {
            return tables.iter().filter(|table| table.meta.overlaps(start, end)).cloned().collect();
        }
        let from = tables.partition_point(|table| table.meta.end.as_slice() <= start);
        tables[from..].iter().take_while(|table| table.meta.overlaps(start, end)).cloned().collect()
    }

    /// Whether any table at `level` or deeper shares a key with `[start, end)`.
    pub(crate) fn overlaps_from(&self, level: usize, start: &[u8], end: &[u8]) -> bool {
        (level..LEVELS).any(|level| !self.overlapping(level, start, end).is_empty())
    }

    /// Whether any table at `level` or deeper may hold `key`.
    pub(crate) fn holds_from(&self, level: usize, key: &[u8]) -> bool {
        (level.max(1)..LEVELS).any(|level| table_for(&self.levels[level], key).is_some())
    }

    /// Whether anything lies below `level`.
    pub(crate) fn anything_below(&self, level: usize) -> bool {
        self.levels[level + 1..].iter().any(|tables| !tables.is_empty())
    }

    fn remove(&mut self, table: u64) -> bool {
        for level in &mut self.levels {
            if let Some(place) = level.iter().position(|present| present.meta.table == table) {
                level.remove(place);
                return true;
            }
        }
        false
    }

    fn insert(&mut self, table: Rc<Table>) {
        let level = &mut self.levels[usize::from(table.meta.level)];
        let place = match table.meta.level {
            // Newest first. Numbers grow, also over restarts.
            0 => level.partition_point(|present| present.meta.file > table.meta.file),
            _ => level.partition_point(|present| present.meta.start < table.meta.start),
        };
        level.insert(place, table);
    }

    fn check(&self) -> Result<(), String> {
        for level in &self.levels[1..] {
            for pair in level.windows(2) {
                if pair[0].meta.end > pair[1].meta.start {
                    let (a, b) = (pair[0].meta.table, pair[1].meta.table);
                    return Err(format!("tables {a} and {b} of one level overlap"));
                }
            }
        }
        Ok(())
    }
}

impl TableMeta {
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        in_range(key, &self.start, &self.end)
    }

    pub(crate) fn overlaps(&self, start: &[u8], end: &[u8]) -> bool {
        ranges_overlap(&self.start, &self.end, start, end)
    }

    pub(crate) fn largest_seq(&self) -> SeqNo {
        SeqNo(self.largest_seq)
    }

    /// Whether a compaction has already taken a part of the file.
    pub(crate) fn is_begun(&self) -> bool {
        self.bytes < self.file_bytes
    }

    /// The row for what is left of this table from `start` on, which lies inside; about `bytes` of its file.
    pub(crate) fn rest(&self, table: u64, start: &[u8], bytes: u64) -> TableMeta {
        self.part(table, (start, &self.end), bytes)
    }

    /// The row for the part `[start, end)` of this table, which lies inside; about `bytes` of its file.
    pub(crate) fn part(&self, table: u64, (start, end): (&[u8], &[u8]), bytes: u64) -> TableMeta {
        let mut erased = RangeTombstones::default();
        erased.merge(&self.erased, start, end);
        TableMeta {
            table,
            start: start.to_vec(),
            end: end.to_vec(),
            // Less than the whole, so that it shows as begun.
            bytes: bytes.clamp(1, self.bytes.saturating_sub(1).max(1)),
            erasures: erased.count(),
            erased: Arc::new(erased),
            ..self.clone()
        }
    }
}

fn table_for<'a>(level: &'a [Rc<Table>], key: &[u8]) -> Option<&'a Rc<Table>> {
    let place = level.partition_point(|table| table.meta.end.as_slice() <= key);
    level.get(place).filter(|table| table.meta.contains(key))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;
    use crate::lsm::table::files::Files;

    /// A table that exists only as a row.
    pub(crate) fn meta(table: u64, level: u8, start: &str, end: &str, mib: u64) -> TableMeta {
        TableMeta {
            table,
            file: table,
            cf: 0,
            level,
            start: start.into(),
            end: end.into(),
            file_bytes: mib << 20,
            bytes: mib << 20,
            identity: table,
            file_crc: 0,
            entries: 10,
            deletes: 0,
            smallest_seq: table * 10,
            largest_seq: table * 10 + 9,
            block_bytes_max: 8 << 10,
            erasures: 0,
            erased: Arc::default(),
        }
    }

    pub(crate) fn version(added: Vec<TableMeta>) -> Version {
        let edit = Edit { added, ..Edit::default() };
        Version::default().apply(&edit, row).unwrap()
    }

    pub(crate) fn row(meta: &TableMeta) -> Rc<Table> {
        Rc::new(Table::new(meta.clone(), Path::new("t"), Rc::new(Files::new(1))))
    }

    fn ids<'a>(tables: impl Iterator<Item = &'a Rc<Table>>) -> Vec<u64> {
        tables.map(|table| table.meta.table).collect()
    }

    #[test]
    fn a_key_is_looked_up_newest_first() {
        let v = version(vec![
            meta(1, 2, "a", "m", 1),
            meta(2, 1, "c", "f", 1),
            meta(3, 0, "a", "z", 1),
            meta(4, 0, "b", "e", 1),
            meta(5, 2, "m", "z", 1),
        ]);
        assert_eq!(ids(v.family(Cf::Default).holding(b"d")), [4, 3, 2, 1]);
        assert_eq!(ids(v.family(Cf::Default).holding(b"m")), [3, 5]);
        assert!(ids(v.family(Cf::Lock).holding(b"d")).is_empty());
        assert_eq!(ids(v.family(Cf::Default).overlapping(2, b"f", b"m").iter()), [1]);
        assert_eq!(ids(v.family(Cf::Default).overlapping(2, b"f", b"").iter()), [1, 5]);
        assert!(v.family(Cf::Default).holds_from(2, b"d"));
        assert!(!v.family(Cf::Default).holds_from(3, b"d"));
        assert!(v.family(Cf::Default).overlaps_from(1, b"e", b"f"));
    }

    #[test]
    fn an_edit_that_contradicts_the_version_is_refused() {
        let v = version(vec![meta(1, 1, "a", "m", 1)]);
        let gone = Edit { removed: vec![9], ..Edit::default() };
        assert!(v.apply(&gone, row).is_err());
        let overlapping = Edit { added: vec![meta(2, 1, "c", "z", 1)], ..Edit::default() };
        assert!(v.apply(&overlapping, row).is_err());
        let inverted = Edit { added: vec![meta(2, 1, "z", "n", 1)], ..Edit::default() };
        assert!(v.apply(&inverted, row).is_err());
    }
}
