//! What to compact next: a pure function of the version.
//!
//! Levelled compaction: level 0 is due by its number of tables, because every read looks at all of them; each deeper level
//! by its bytes, ten times what the level above may hold. Among due levels the most overdue is served; within a level the
//! table that drags along the fewest bytes of the next one. (P. O'Neil et al.: "The Log-Structured Merge-Tree", 1996;
//! levels as in LevelDB.)

use std::rc::Rc;

use super::key::{Cf, SeqNo};
use super::table::read::Table;
use super::version::{LEVELS, Levels, Version};

/// When a level is due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) l0_tables: usize,
    pub(crate) level_base_bytes: u64,
    pub(crate) level_ratio: u64,
}

/// The next piece of work.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    /// Nothing is due.
    Idle,
    /// Tables that a newer range delete covers whole: they leave without being read.
    Discard { tables: Vec<Rc<Table>> },
    /// Tables that overlap nothing below: they change level without being rewritten.
    Move { tables: Vec<Rc<Table>>, to_level: usize },
    /// Merge `upper` (newest first) and `lower` into `to_level`.
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
        (0..LEVELS - 1).map(move |level| (urgency(version.family(cf), level, limits), cf, level))
    });
    match due.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((urgency, cf, level)) if urgency >= 1.0 => compact_level(version.family(cf), cf, level),
        _ => Job::Idle,
    }
}

/// A job that merges everything into as few levels as possible, for tests and operators: the topmost level with tables goes
/// down, until one level holds all.
pub(crate) fn choose_full(version: &Version) -> Job {
    for cf in Cf::ALL {
        let levels = version.family(cf);
        let top = (0..LEVELS - 1).find(|&level| !levels.level(level).is_empty());
        if let Some(level) = top
            && (level == 0 || levels.anything_below(level))
        {
            let upper = levels.level(level).to_vec();
            let Some((start, end)) = hull(&upper) else { continue };
            let lower = levels.overlapping(level + 1, &start, &end);
            return Job::Merge { cf, upper, lower, to_level: level + 1 };
        }
    }
    Job::Idle
}

/// How far a level is beyond its limit; 1 and more is due.
fn urgency(levels: &Levels, level: usize, limits: &Limits) -> f64 {
    match level {
        0 => levels.level(0).len() as f64 / limits.l0_tables as f64,
        _ => {
            let limit = limits.level_base_bytes as f64 * (limits.level_ratio as f64).powi(level as i32 - 1);
            // "More than", so that a level at its limit rests.
            levels.level_bytes(level) as f64 / (limit + 1.0)
        }
    }
}

fn compact_level(levels: &Levels, cf: Cf, level: usize) -> Job {
    let to_level = level + 1;
    let upper = if level == 0 { levels.level(0).to_vec() } else { cheapest(levels, level) };
    let Some((start, end)) = hull(&upper) else { return Job::Idle };
    let lower = levels.overlapping(to_level, &start, &end);
    // At the bottom a rewrite gets rid of deletes, which a move would keep for ever.
    let worth_rewriting =
        !levels.anything_below(to_level) && upper.iter().any(|t| t.meta.deletes > 0 || !t.erased.is_empty());
    if lower.is_empty() && disjoint(&upper) && !worth_rewriting {
        return Job::Move { tables: upper, to_level };
    }
    Job::Merge { cf, upper, lower, to_level }
}

/// The table whose compaction rewrites the least for what it moves.
fn cheapest(levels: &Levels, level: usize) -> Vec<Rc<Table>> {
    let cost = |table: &Rc<Table>| {
        let below = levels.overlapping(level + 1, &table.meta.start, &table.meta.end);
        let dragged: u64 = below.iter().map(|table| table.meta.file_bytes).sum();
        dragged as f64 / table.meta.file_bytes.max(1) as f64
    };
    levels.level(level).iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).cloned().into_iter().collect()
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
    let erasers: Vec<&Rc<Table>> = levels.tables().filter(|table| !table.erased.is_empty()).collect();
    if erasers.is_empty() {
        return Vec::new();
    }
    let covers = |eraser: &Table, table: &Table| {
        eraser.meta.table != table.meta.table
            && eraser.erased.iter().any(|(start, end, seqs)| {
                let newest = seqs.iter().copied().find(|&seq| seq <= oldest_read);
                start <= table.meta.start.as_slice()
                    && table.meta.end.as_slice() <= end
                    && newest.is_some_and(|seq| seq > table.meta.largest_seq())
            })
    };
    levels.tables().filter(|table| erasers.iter().any(|eraser| covers(eraser, table))).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsm::version::ErasedRow;
    use crate::lsm::version::tests::{meta, version};

    const LIMITS: Limits = Limits { l0_tables: 4, level_base_bytes: 64 << 20, level_ratio: 10 };

    fn describe(job: Job) -> String {
        let ids = |tables: &[Rc<Table>]| tables.iter().map(|t| t.meta.table).collect::<Vec<_>>();
        match job {
            Job::Idle => "idle".into(),
            Job::Discard { tables } => format!("discard {:?}", ids(&tables)),
            Job::Move { tables, to_level } => format!("move {:?} to {to_level}", ids(&tables)),
            Job::Merge { upper, lower, to_level, .. } => {
                format!("merge {:?} and {:?} into {to_level}", ids(&upper), ids(&lower))
            }
        }
    }

    fn chosen(tables: Vec<crate::lsm::version::TableMeta>) -> String {
        describe(choose(&version(tables), &LIMITS, SeqNo::MAX))
    }

    #[test]
    fn nothing_is_due_in_a_small_tree() {
        assert_eq!(chosen(vec![]), "idle");
        assert_eq!(chosen((1..4).map(|id| meta(id, 0, "a", "z", 60)).collect()), "idle");
    }

    #[test]
    fn level_zero_goes_down_with_all_it_overlaps() {
        let mut tables: Vec<_> = (5..9).map(|id| meta(id, 0, "c", "k", 10)).collect();
        tables.push(meta(1, 1, "a", "c", 10));
        tables.push(meta(2, 1, "c", "f", 10));
        tables.push(meta(3, 1, "g", "z", 10));
        assert_eq!(chosen(tables), "merge [8, 7, 6, 5] and [2, 3] into 1");
    }

    #[test]
    fn tables_in_sequence_are_only_moved() {
        let tables = vec![
            meta(1, 0, "a", "b", 10),
            meta(2, 0, "b", "c", 10),
            meta(3, 0, "c", "d", 10),
            meta(4, 0, "d", "e", 10),
        ];
        assert_eq!(chosen(tables.clone()), "move [4, 3, 2, 1] to 1");
        let mut with_deletes = tables;
        with_deletes[0].deletes = 3;
        assert_eq!(chosen(with_deletes), "merge [4, 3, 2, 1] and [] into 1");
    }

    #[test]
    fn a_full_level_gives_up_its_cheapest_table() {
        let tables = vec![
            meta(1, 1, "a", "f", 40),
            meta(2, 1, "f", "p", 40),
            meta(3, 2, "a", "c", 60),
            meta(4, 2, "c", "h", 60),
            meta(5, 2, "h", "j", 60),
            meta(6, 2, "j", "z", 60),
        ];
        assert_eq!(chosen(tables), "merge [1] and [3, 4] into 2");
    }

    #[test]
    fn covered_tables_leave_once_every_reader_sees_the_delete() {
        let mut eraser = meta(9, 0, "a", "z", 1);
        eraser.erased.push(ErasedRow { start: b"b".into(), end: b"m".into(), seq: 95 });
        let tables =
            vec![eraser, meta(1, 1, "b", "d", 10), meta(2, 1, "d", "n", 10), meta(3, 2, "c", "m", 10)];
        let v = version(tables);
        assert_eq!(describe(choose(&v, &LIMITS, SeqNo::MAX)), "discard [1, 3]");
        assert_eq!(describe(choose(&v, &LIMITS, SeqNo(95))), "discard [1, 3]");
        assert_eq!(describe(choose(&v, &LIMITS, SeqNo(94))), "idle");
    }

    #[test]
    fn a_full_compaction_ends() {
        assert_eq!(describe(choose_full(&version(vec![meta(1, 3, "a", "f", 1)]))), "idle");
        let two = vec![meta(1, 3, "a", "f", 1), meta(2, 1, "b", "c", 1)];
        assert_eq!(describe(choose_full(&version(two))), "merge [2] and [] into 2");
    }
}
