//! Files of a tree that is not running, for `ringkeep inspect`: the same decoders, over a mapped file.

use std::fmt;
use std::path::Path;

use super::key::{Cf, SeqNo};
use super::manifest;
use super::table::block::BlockView;
use super::table::{Damage, ErasedAt, FOOTER_BYTES, Footer, Handle, PartView, Place, open_frame, walk_index};
use crate::error::{Fault, Result};
use crate::rt::mapped::Mapped;

/// What a table file holds. Every checksum in it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableReport {
    /// Column family.
    pub cf: Cf,
    /// Length of the file, bytes.
    pub file_bytes: u64,
    /// The checksum over everything before the footer, which the manifest repeats.
    pub body_crc: u32,
    /// Entries, as the footer says.
    pub entries: u64,
    /// Entries found in the data blocks, deletes among them, and range deletes.
    pub found: Found,
    /// Smallest and largest sequence number.
    pub seqs: (SeqNo, SeqNo),
    /// First and last key, if there are any.
    pub keys: Option<(Vec<u8>, Vec<u8>)>,
    /// Parts and data blocks.
    pub parts: u64,
    /// Data blocks.
    pub blocks: u64,
    /// Bytes of the data blocks, packed and unpacked.
    pub data_bytes: (u64, u64),
}

/// What was counted in a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Entries of data blocks.
    pub entries: u64,
    /// Those of them that are deletes.
    pub deletes: u64,
    /// Values that expire.
    pub expiring: u64,
    /// Range deletes.
    pub range_deletes: u64,
}

/// What a manifest holds: one line per edit, and the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestReport {
    /// The number in the file's name.
    pub number: u64,
    /// What each edit says.
    pub edits: Vec<String>,
    /// Offset of a torn last frame.
    pub torn_at: Option<u64>,
}

/// Reads and verifies a whole table file.
///
/// # Errors
/// An IO fault, or the first damage with its offset.
pub fn table(path: &Path) -> Result<TableReport> {
    let file = Mapped::open(path).map_err(|e| Fault::io(path, "mapping", &e))?;
    report_table(&file)
        .map_err(|(offset, damage)| Fault::corruption(path, format!("{} (at offset {offset})", damage.0)))
}

/// Reads and verifies a table file that a manifest names with this checksum.
///
/// # Errors
/// As [`table`], and corruption if it is an intact table, but another one.
pub fn table_of(path: &Path, body_crc: u32) -> Result<TableReport> {
    let report = table(path)?;
    match report.body_crc == body_crc {
        true => Ok(report),
        false => {
            Err(Fault::corruption(path, "it is an intact table, but not the one that the manifest names"))
        }
    }
}

/// Reads and verifies a manifest.
///
/// # Errors
/// An IO fault, or the first damage with its offset.
pub fn manifest(path: &Path) -> Result<ManifestReport> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = manifest::file_number(name)
        .ok_or_else(|| Fault::foreign(path, "a manifest is named MANIFEST- and its number"))?;
    let file = Mapped::open(path).map_err(|e| Fault::io(path, "mapping", &e))?;
    let replayed = manifest::replay(&file, number)
        .map_err(|(offset, damage)| Fault::corruption(path, format!("{} (at offset {offset})", damage.0)))?;
    let edits = replayed.edits.iter().map(describe_edit).collect();
    Ok(ManifestReport { number, edits, torn_at: replayed.torn_at })
}

type Placed<T> = std::result::Result<T, (u64, Damage)>;

fn report_table(file: &[u8]) -> Placed<TableReport> {
    let body_end = file.len().saturating_sub(FOOTER_BYTES);
    let footer = Footer::decode(file).map_err(|damage| (body_end as u64, damage))?;
    if crc32fast::hash(&file[..body_end]) != footer.body_crc {
        // The blocks say more exactly where; if they are all well, the damage lies between them.
        walk_blocks(file, &footer)?;
        return Err((0, Damage("the file's checksum does not match, though all blocks do")));
    }
    walk_blocks(file, &footer)
}

fn walk_blocks(file: &[u8], footer: &Footer) -> Placed<TableReport> {
    let mut report = TableReport {
        cf: footer.cf,
        file_bytes: file.len() as u64,
        body_crc: footer.body_crc,
        entries: footer.entries,
        found: Found::default(),
        seqs: (footer.smallest_seq, footer.largest_seq),
        keys: None,
        parts: 0,
        blocks: 0,
        data_bytes: (0, 0),
    };
    let frame = |handle| frame(file, footer.identity, handle);
    for part_handle in handles(&frame(footer.root)?, footer.root)? {
        report.parts += 1;
        let part = frame(part_handle)?;
        let view = PartView::parse(&part).map_err(|damage| (part_handle.offset, damage))?;
        for block_handle in handles(&view.index_bytes(&part), part_handle)? {
            let block = frame(block_handle)?;
            report.blocks += 1;
            report.data_bytes.0 += u64::from(block_handle.len);
            report.data_bytes.1 += block.len() as u64;
            count(&block, &mut report).map_err(|damage| (block_handle.offset, damage))?;
        }
    }
    let erased_blocks = match footer.erased {
        ErasedAt::Index(index) => handles(&frame(index)?, index)?,
        ErasedAt::Block(block) => vec![block],
    };
    for handle in erased_blocks {
        let erased = frame(handle)?;
        let view = BlockView::parse(&erased).map_err(|damage| (handle.offset, damage))?;
        for interval in 0..view.intervals() {
            let chunk = view.decode(interval, &erased).map_err(|damage| (handle.offset, damage))?;
            report.found.range_deletes += chunk.len() as u64;
        }
    }
    Ok(report)
}

fn count(block: &bytes::Bytes, report: &mut TableReport) -> std::result::Result<(), Damage> {
    let view = BlockView::parse(block)?;
    for interval in 0..view.intervals() {
        let chunk = view.decode(interval, block)?;
        let mut at = 0;
        while let Some(entry) = chunk.get(at) {
            at += 1;
            report.found.entries += 1;
            report.found.deletes += u64::from(entry.kind == super::key::Kind::Delete);
            report.found.expiring += u64::from(entry.kind == super::key::Kind::PutUntil);
            let keys = report.keys.get_or_insert_with(|| (entry.key.to_vec(), Vec::new()));
            if entry.key < keys.1.as_slice() {
                return Err(Damage("keys out of order"));
            }
            keys.1 = entry.key.to_vec();
        }
    }
    Ok(())
}

fn frame(file: &[u8], identity: u64, handle: Handle) -> Placed<bytes::Bytes> {
    let inside = usize::try_from(handle.offset).ok().and_then(|start| {
        let end = start.checked_add(handle.len as usize)?;
        file.get(start..end)
    });
    let bytes = inside.ok_or((handle.offset, Damage("an index entry points beyond the file")))?;
    open_frame(bytes, Place { identity, offset: handle.offset }).map_err(|damage| (handle.offset, damage))
}

fn handles(index: &bytes::Bytes, place: Handle) -> Placed<Vec<Handle>> {
    let mut handles = Vec::new();
    let walked = walk_index(index, b"", |_, handle| {
        handles.push(handle);
        true
    });
    walked.map_err(|damage| (place.offset, damage))?;
    Ok(handles)
}

fn describe_edit(edit: &super::version::Edit) -> String {
    let mut words = Vec::new();
    for meta in &edit.added {
        let cf = Cf::from_byte(meta.cf).map_or("unknown", Cf::name);
        words.push(format!(
            "+{} file {} {cf} L{} [{}, {}) {} entries {} bytes",
            meta.table,
            meta.file,
            meta.level,
            Hex(&meta.start),
            Hex(&meta.end),
            meta.entries,
            meta.file_bytes
        ));
    }
    words.extend(edit.removed.iter().map(|table| format!("-{table}")));
    let described = |row: &super::version::StateRow| {
        format!("group {} described in {} bytes", row.group, row.state.len())
    };
    words.extend(edit.states.iter().map(described));
    words.extend(edit.marks.iter().map(|mark| match mark.applied {
        Some(applied) => format!("group {} at {applied}", mark.group),
        None => format!("group {} gone", mark.group),
    }));
    words.push(format!("next number {}, last sequence {}", edit.next_number, edit.last_seq));
    words.join("; ")
}

/// Bytes as text where they are text.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}
