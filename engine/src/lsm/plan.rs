//! What to compact next, and how much is left to do: pure functions of the version.
//!
//! Levelled compaction: level 0 is due by its number of tables, because every read looks at all of them; each deeper level
//! by its bytes, ten times what the level above may hold. Among due levels the most overdue is served; within a level the
//! table that drags along the fewest bytes of the next one. (P. O'Neil et al.: "The Log-Structured Merge-Tree", 1996;
//! levels as in LevelDB.)
//!
//! A job never takes all that is due. From level 0 it takes the oldest tables, up to [`Limits::set_bytes`]; what it merges of them
//! at a time is bounded again where it is done (see [`super::compact`]), and what is left of its inputs then shows as *begun*
//! ([`super::version::TableMeta::is_begun`]). What was begun of level 0 is due until it is finished. So is a part of a file that another
//! tree has handed over, however many of them there are: the bounds hold for these as well.
//!
//! Tables full of deletes are due by themselves: whoever walks over them finds nothing for long.

use std::rc::Rc;

use super::key::{Cf, SeqNo};
use super::maintain::READ_AHEAD_BYTES;
use super::table::read::Table;
use super::version::{LEVELS, Levels, Version};

/// When a level is due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) l0_tables: usize,
    pub(crate) level_base_bytes: u64,
    pub(crate) level_ratio: u64,
    /// Maximum of level 0 that goes down in one go, unless a single table is larger.
    pub(crate) set_bytes: u64,
    /// Maximum of its longest blocks together: a merge has a block of each table in memory, of one longer than [`READ_AHEAD_BYTES`] the keys.
    pub(crate) open_bytes: u64,
}

/// A table with at least this many deletes, ...
const DENSE_DELETES_MIN: u64 = 1024;
/// ... and with at most this many other entries per delete, is due by itself.
const DENSE_ENTRIES_PER_DELETE: u64 = 2;
/// A table with as much memory for its range deletes is due as well, whatever else is in it: they stay in memory until a compaction at the
/// bottom drops them. Clients choose how long their bounds are.
const DENSE_ERASED_BYTES: usize = 1 << 20;
/// How overdue such a table is: before levels that are just full, after those that are far beyond it.
const DENSE_URGENCY: f64 = 1.5;

/// The next piece of work.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    /// Nothing is due.
    Idle,
    /// Tables that a newer range delete covers whole: they leave without being read.
    Discard { tables: Vec<Rc<Table>> },
    /// Tables that overlap nothing below: they change level without being rewritten.
    Move { tables: Vec<Rc<Table>>, to_level: usize },
    /// Merge `upper` (newest first) and `lower` into `to_level`, from the front, as far as one job goes.
    Merge { cf: Cf, upper: Vec<Rc<Table>>, lower: Vec<Rc<Table>>, to_level: usize },
}

/// Chooses the next job. `oldest_read` is the smallest sequence number that a snapshot still reads at.
pub(crate) fn choose(version: &Version, limits: &Limits, oldest_read: SeqNo) -> Job {
    for cf in Cf::ALL {
        let covered = covered_tables(version.family(cf), oldest_read);
        if !covered.is_empty() {
            return Job::Discard { tables: covered };
        }
    }
    let due = Cf::ALL.into_iter().flat_map(|cf| {
        let urgency = move |level| urgency(version.family(cf), level, limits, oldest_read);
        (0..LEVELS - 1).map(move |level| (urgency(level), cf, level))
    });
    match due.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((urgency, cf, level)) if urgency >= 1.0 => {
            compact_level(version.family(cf), cf, level, limits, oldest_read)
        }
        _ => Job::Idle,
    }
}

/// A job that merges everything into as few levels as possible, for tests and operators: the topmost level with tables goes
/// down, until one level holds all.
pub(crate) fn choose_full(version: &Version, limits: &Limits) -> Job {
    for cf in Cf::ALL {
        let levels = version.family(cf);
        let top = (0..LEVELS - 1).find(|&level| !levels.level(level).is_empty());
        if let Some(level) = top
            && (level == 0 || levels.anything_below(level))
        {
            let upper = if level == 0 { oldest(levels, limits) } else { levels.level(level).to_vec() };
            let Some((start, end)) = hull(&upper) else { continue };
            let lower = levels.overlapping(level + 1, &start, &end);
            return Job::Merge { cf, upper, lower, to_level: level + 1 };
        }
    }
    Job::Idle
}

/// About how many bytes have to be rewritten until nothing is due any more; 0 when that is so already, up to tables full of
/// deletes.
pub(crate) fn debt(version: &Version, limits: &Limits) -> u64 {
    Cf::ALL.into_iter().map(|cf| debt_of(version.family(cf), limits)).sum()
}

fn debt_of(levels: &Levels, limits: &Limits) -> u64 {
    // What a level has too much of goes through all levels below that it overfills.
    let mut down = if level_zero_urgency(levels, limits) >= 1.0 { levels.level_bytes(0) } else { 0 };
    let mut debt = down;
    for level in 1..LEVELS - 1 {
        let bytes = levels.level_bytes(level);
        let over = (bytes + down).saturating_sub(limit_bytes(level, limits));
        // Each byte drags along its share of the level below.
        let share =
            u128::from(over) * u128::from(levels.level_bytes(level + 1)) / u128::from((bytes + down).max(1));
        let dragged = u64::try_from(share).unwrap_or(u64::MAX).min(over.saturating_mul(limits.level_ratio));
        down = over;
        debt += over + dragged;
    }
    debt
}

/// How many tables level 0 has, where what is left of one counts as that.
pub(crate) fn level_zero_tables(levels: &Levels) -> f64 {
    let share = |table: &Rc<Table>| table.meta.bytes as f64 / table.meta.file_bytes.max(1) as f64;
    levels.level(0).iter().map(share).sum()
}

fn level_zero_urgency(levels: &Levels, limits: &Limits) -> f64 {
    let full = level_zero_tables(levels) / limits.l0_tables as f64;
    if levels.level(0).iter().any(|table| table.meta.is_begun()) { full.max(1.0) } else { full }
}

/// What a level below level 0 may hold.
fn limit_bytes(level: usize, limits: &Limits) -> u64 {
    let ratio = limits.level_ratio.saturating_pow(level as u32 - 1);
    limits.level_base_bytes.saturating_mul(ratio)
}

/// How far a level is beyond its limit; 1 and more is due.
fn urgency(levels: &Levels, level: usize, limits: &Limits, oldest_read: SeqNo) -> f64 {
    let full = match level {
        0 => level_zero_urgency(levels, limits),
        // "More than", so that a level at its limit rests.
        _ => levels.level_bytes(level) as f64 / (limit_bytes(level, limits) as f64 + 1.0),
    };
    let dense = levels.level(level).iter().any(|table| is_dense(table, oldest_read));
    if dense { full.max(DENSE_URGENCY) } else { full }
}

/// Whether a table consists of deletes for the most part, or holds much memory for them, and all readers see them, so that a merge gets
/// rid of some.
fn is_dense(table: &Table, oldest_read: SeqNo) -> bool {
    let meta = &table.meta;
    let deletes = meta.deletes + meta.erasures;
    let mostly_deletes =
        deletes >= DENSE_DELETES_MIN && deletes.saturating_mul(DENSE_ENTRIES_PER_DELETE) >= meta.entries;
    (mostly_deletes || meta.erased.size_bytes() >= DENSE_ERASED_BYTES) && meta.largest_seq() <= oldest_read
}

fn compact_level(levels: &Levels, cf: Cf, level: usize, limits: &Limits, oldest_read: SeqNo) -> Job {
    let to_level = level + 1;
    let upper = match level {
        0 => oldest(levels, limits),
        _ => one_of(levels, level, oldest_read),
    };
    let Some((start, end)) = hull(&upper) else { return Job::Idle };
    let lower = levels.overlapping(to_level, &start, &end);
    // At the bottom a rewrite gets rid of deletes, which a move would keep for ever.
    let worth_rewriting = !levels.anything_below(to_level)
        && upper.iter().any(|t| t.meta.deletes > 0 || !t.meta.erased.is_empty());
    let dense = upper.iter().any(|table| is_dense(table, oldest_read));
    if lower.is_empty() && disjoint(&upper) && !worth_rewriting && !dense {
        return Job::Move { tables: upper, to_level };
    }
    Job::Merge { cf, upper, lower, to_level }
}

/// The oldest tables of level 0, newest of them first: up to the newest that was begun if there is one, and no more than fit into one go,
/// by their bytes and by what a merge has of them in memory.
fn oldest(levels: &Levels, limits: &Limits) -> Vec<Rc<Table>> {
    let tables = levels.level(0);
    let newest = tables.iter().position(|table| table.meta.is_begun()).unwrap_or(0);
    let (mut from, mut bytes, mut open_bytes) = (tables.len(), 0, 0);
    for (at, next) in tables.iter().enumerate().skip(newest).rev() {
        let next_open = next.meta.block_bytes_max.min(READ_AHEAD_BYTES as u64);
        let (all_bytes, all_open) = (bytes + next.meta.bytes, open_bytes + next_open);
        if from < tables.len() && (all_bytes > limits.set_bytes || all_open > limits.open_bytes) {
            break;
        }
        (from, bytes, open_bytes) = (at, all_bytes, all_open);
    }
    tables[from..].to_vec()
}

/// The table of a level that goes down next: one that was begun, one that is full of deletes, or the one whose compaction
/// rewrites the least for what it moves.
fn one_of(levels: &Levels, level: usize, oldest_read: SeqNo) -> Vec<Rc<Table>> {
    let tables = levels.level(level);
    let begun = tables.iter().find(|table| table.meta.is_begun());
    let first = begun.or_else(|| tables.iter().find(|table| is_dense(table, oldest_read)));
    if let Some(table) = first {
        return vec![table.clone()];
    }
    let cost = |table: &Rc<Table>| {
        let below = levels.overlapping(level + 1, &table.meta.start, &table.meta.end);
        let dragged: u64 = below.iter().map(|table| table.meta.bytes).sum();
        dragged as f64 / table.meta.bytes.max(1) as f64
    };
    tables.iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).cloned().into_iter().collect()
}

fn hull(tables: &[Rc<Table>]) -> Option<(Vec<u8>, Vec<u8>)> {
    let start = tables.iter().map(|table| &table.meta.start).min()?;
    let end = tables.iter().map(|table| &table.meta.end).max()?;
    Some((start.clone(), end.clone()))
}

fn disjoint(tables: &[Rc<Table>]) -> bool {
    let mut ranges: Vec<_> = tables.iter().map(|table| (&table.meta.start, &table.meta.end)).collect();
    ranges.sort();
    ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0)
}

/// Tables of which no entry can be seen any more: one newer range delete covers all of it, and every reader sees that delete.
fn covered_tables(levels: &Levels, oldest_read: SeqNo) -> Vec<Rc<Table>> {
    let erasers: Vec<&Rc<Table>> = levels.tables().filter(|table| !table.meta.erased.is_empty()).collect();
    if erasers.is_empty() {
        return Vec::new();
    }
    let covers = |eraser: &Table, table: &Table| {
        eraser.meta.table != table.meta.table
            && eraser.meta.erased.iter().any(|(start, end, seqs)| {
                let newest = seqs.iter().copied().find(|&seq| seq <= oldest_read);
                start <= table.meta.start.as_slice()
                    && table.meta.end.as_slice() <= end
                    && newest.is_some_and(|seq| seq > table.meta.largest_seq())
            })
    };
    levels.tables().filter(|table| erasers.iter().any(|eraser| covers(eraser, table))).cloned().collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
