//! How much lies in a range, and where its middle is, without reading data.
//!
//! Memtables answer from sampled keys, tables from their indexes: whole parts where the range covers them, single data
//! blocks at its ends. The answer counts versions and deleted data that compaction has not removed yet; of a key in a memtable
//! it counts the version that was written there first.

use std::rc::Rc;

use bytes::Bytes;

use super::Shared;
use super::key::{Cf, in_range};
use super::table::PartView;
use super::table::read::Table;
use super::table::walk_index;
use crate::error::Result;

/// Above this many parts in a range, single blocks say nothing more about its middle.
const FINE_PARTS_MAX: usize = 8;

/// About how much lies in a range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Bytes: as stored for tables, of keys and values for memtables.
    pub bytes: u64,
    /// Entries; in tables old versions included.
    pub keys: u64,
}

/// A key and how many bytes lie between it and the one before.
#[derive(Debug)]
struct Weight {
    key: Bytes,
    bytes: u64,
}

pub(super) async fn estimate(shared: &Shared, cf: Cf, start: &[u8], end: &[u8]) -> Result<Estimate> {
    let mut sum = Estimate::default();
    for memtable in shared.memtables() {
        let (bytes, keys) = memtable.estimate(cf, start, end);
        sum.bytes += bytes;
        sum.keys += keys;
    }
    for table in tables_in(shared, cf, start, end) {
        let bytes = if covers(&table, start, end) {
            table.meta.bytes
        } else {
            weights(shared, &table, start, end, false).await?.iter().map(|weight| weight.bytes).sum()
        };
        sum.bytes += bytes;
        let share =
            u128::from(table.meta.entries) * u128::from(bytes) / u128::from(table.meta.file_bytes.max(1));
        sum.keys += u64::try_from(share).unwrap_or(u64::MAX);
    }
    Ok(sum)
}

pub(super) async fn split_key(shared: &Shared, cf: Cf, start: &[u8], end: &[u8]) -> Result<Option<Bytes>> {
    let mut all = Vec::new();
    for memtable in shared.memtables() {
        all.extend(memtable.samples(cf, start, end).into_iter().map(|(key, bytes)| Weight { key, bytes }));
    }
    for table in tables_in(shared, cf, start, end) {
        all.extend(weights(shared, &table, start, end, true).await?);
    }
    all.retain(|weight| &weight.key[..] > start && in_range(&weight.key, start, end));
    all.sort_by(|a, b| a.key.cmp(&b.key));
    let half = all.iter().map(|weight| weight.bytes).sum::<u64>() / 2;
    let mut seen = 0;
    let middle = all.into_iter().find(|weight| {
        seen += weight.bytes;
        seen >= half
    });
    Ok(middle.map(|weight| weight.key))
}

fn tables_in(shared: &Shared, cf: Cf, start: &[u8], end: &[u8]) -> Vec<Rc<Table>> {
    let version = shared.version.borrow();
    version.family(cf).tables().filter(|table| table.meta.overlaps(start, end)).cloned().collect()
}

fn covers(table: &Table, start: &[u8], end: &[u8]) -> bool {
    table.meta.start.as_slice() >= start && (end.is_empty() || table.meta.end.as_slice() <= end)
}

/// The last keys of the parts (or blocks) of `table` in the range, and their bytes.
async fn weights(
    shared: &Shared,
    table: &Table,
    start: &[u8],
    end: &[u8],
    fine: bool,
) -> Result<Vec<Weight>> {
    let parts = table.part_keys(&shared.rt, b"", b"").await?;
    let mut wanted = Vec::new();
    let mut before: (Bytes, u64) = (Bytes::new(), 0);
    for (last, handle) in parts {
        let part_end = handle.offset + u64::from(handle.len);
        // The keys of a part lie above the last key of the part before it.
        let outside = &last[..] < start || (!end.is_empty() && &before.0[..] >= end);
        if !outside {
            let inside = &before.0[..] >= start && (end.is_empty() || &last[..] < end);
            wanted.push((last.clone(), handle, part_end - before.1, inside));
        }
        before = (last, part_end);
    }
    let fine = fine && wanted.len() <= FINE_PARTS_MAX;
    let mut all = Vec::new();
    for (last, handle, bytes, inside) in wanted {
        if inside && !fine {
            all.push(Weight { key: last, bytes });
            continue;
        }
        let part = table.cached(&shared.rt, &shared.cache, handle).await?;
        let index = PartView::parse(&part).map(|view| view.index_bytes(&part));
        let walked = index.and_then(|index| {
            walk_index(&index, start, |key, block| {
                all.push(Weight { key: Bytes::copy_from_slice(key), bytes: u64::from(block.len) });
                end.is_empty() || key < end
            })
        });
        walked.map_err(|damage| table.damaged_at(damage, handle))?;
    }
    Ok(all)
}
