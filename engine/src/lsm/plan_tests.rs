//! What is chosen for hand-made versions, and what random flushes come to when every job is done.

use bytes::Bytes;

use super::*;
use crate::lsm::erased::RangeTombstones;
use crate::lsm::version::tests::{meta, row, version};
use crate::lsm::version::{Edit, TableMeta};
use crate::rt::rng::Rng;

const LIMITS: Limits = Limits {
    l0_tables: 4,
    level_base_bytes: 64 << 20,
    level_ratio: 10,
    set_bytes: 64 << 20,
    open_bytes: 24 << 20,
};

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

fn chosen(tables: Vec<TableMeta>) -> String {
    describe(choose(&version(tables), &LIMITS, SeqNo::MAX))
}

fn chosen_within(open_bytes: u64, tables: Vec<TableMeta>) -> String {
    describe(choose(&version(tables), &Limits { open_bytes, ..LIMITS }, SeqNo::MAX))
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
    let mut erased = RangeTombstones::default();
    erased.insert(&"b".into(), &"m".into(), SeqNo(95));
    (eraser.erasures, eraser.erased) = (1, std::sync::Arc::new(erased));
    let tables = vec![eraser, meta(1, 1, "b", "d", 10), meta(2, 1, "d", "n", 10), meta(3, 2, "c", "m", 10)];
    let v = version(tables);
    assert_eq!(describe(choose(&v, &LIMITS, SeqNo::MAX)), "discard [1, 3]");
    assert_eq!(describe(choose(&v, &LIMITS, SeqNo(95))), "discard [1, 3]");
    assert_eq!(describe(choose(&v, &LIMITS, SeqNo(94))), "idle");
}

#[test]
fn a_full_compaction_ends() {
    assert_eq!(describe(choose_full(&version(vec![meta(1, 3, "a", "f", 1)]), &LIMITS)), "idle");
    let two = vec![meta(1, 3, "a", "f", 1), meta(2, 1, "b", "c", 1)];
    assert_eq!(describe(choose_full(&version(two), &LIMITS)), "merge [2] and [] into 2");
}

#[test]
fn of_level_zero_only_the_oldest_go_down_in_one_go() {
    let tables: Vec<_> = (1..9).map(|id| meta(id, 0, "c", "k", 20)).collect();
    assert_eq!(chosen(tables), "merge [3, 2, 1] and [] into 1");
    let large = vec![meta(1, 0, "c", "k", 200), meta(2, 0, "a", "d", 9), meta(3, 0, "a", "d", 9)];
    let large = large.into_iter().chain([meta(4, 0, "a", "d", 9)]).collect();
    assert_eq!(chosen(large), "move [1] to 1", "one, however large it is");
}

/// A merge has a block of each table in memory, and a block has whole values.
#[test]
fn tables_with_large_values_go_down_a_few_at_a_time() {
    let with = |block_bytes_max| {
        let tables = (1..9).map(|id| TableMeta { block_bytes_max, ..meta(id, 0, "c", "k", 5) });
        chosen_within(1 << 20, tables.collect())
    };
    assert_eq!(with(8 << 10), "merge [8, 7, 6, 5, 4, 3, 2, 1] and [] into 1");
    assert_eq!(with(200 << 10), "merge [5, 4, 3, 2, 1] and [] into 1");
    assert_eq!(with(8 << 20), "merge [4, 3, 2, 1] and [] into 1", "of longer ones it has the keys");
}

#[test]
fn what_was_begun_is_finished_first() {
    let rest = |id: u64| meta(id, 0, "c", "k", 10).rest(id + 100, b"f", 4 << 20);
    let tables = vec![rest(1), rest(2), meta(3, 0, "a", "z", 10), meta(4, 1, "a", "f", 10)];
    assert_eq!(chosen(tables), "merge [102, 101] and [] into 1", "although level 0 is not full");
}

/// Parts of files that another tree has handed over look as if they were begun, and so do those that were begun above what is older.
#[test]
fn what_was_begun_is_within_the_bounds_of_one_go() {
    let part = |id, block_bytes_max, mebibytes: u64| {
        let whole = TableMeta { block_bytes_max, ..meta(id, 0, "c", "k", 40) };
        whole.part(id + 100, (b"d", b"f"), mebibytes << 20)
    };
    let parts = |block_bytes_max, mebibytes| {
        let older = (1..3).map(|id| TableMeta { block_bytes_max, ..meta(id, 0, "c", "k", 5) });
        let parts = (3..9).map(|id| part(id, block_bytes_max, mebibytes));
        chosen_within(1 << 20, older.chain(parts).collect())
    };
    assert_eq!(parts(8 << 10, 5), "merge [108, 107, 106, 105, 104, 103, 2, 1] and [] into 1");
    assert_eq!(parts(8 << 20, 5), "merge [104, 103, 2, 1] and [] into 1", "by what a merge has open");
    assert_eq!(parts(8 << 10, 20), "merge [104, 103, 2, 1] and [] into 1", "by their bytes");
}

/// Few range deletes with long bounds among many entries: they cost memory for as long as they lie there.
#[test]
fn tables_with_long_range_deletes_are_due_by_themselves() {
    let with = |count: usize, bound_bytes: usize| {
        let mut erased = RangeTombstones::default();
        let bound =
            |n: usize| Bytes::from([b"b".repeat(bound_bytes), format!("{n:06}").into_bytes()].concat());
        (0..count).for_each(|n| erased.insert(&bound(2 * n), &bound(2 * n + 1), SeqNo(15)));
        let mut holds = meta(1, 1, "a", "c", 1);
        (holds.entries, holds.erasures, holds.erased) =
            (1 << 20, erased.count(), std::sync::Arc::new(erased));
        version(vec![holds, meta(2, 1, "c", "f", 1), meta(3, 2, "b", "d", 1)])
    };
    assert_eq!(describe(choose(&with(100, 8000), &LIMITS, SeqNo::MAX)), "merge [1] and [3] into 2");
    assert_eq!(describe(choose(&with(100, 8000), &LIMITS, SeqNo(14))), "idle", "a reader does not see them");
    assert_eq!(describe(choose(&with(100, 8), &LIMITS, SeqNo::MAX)), "idle");
}

#[test]
fn tables_full_of_deletes_are_due_by_themselves() {
    let mut dense = meta(1, 1, "a", "c", 1);
    (dense.entries, dense.deletes) = (3000, 2000);
    let tables = vec![dense.clone(), meta(2, 1, "c", "f", 1), meta(3, 2, "b", "d", 1)];
    assert_eq!(chosen(tables.clone()), "merge [1] and [3] into 2");
    let read_before = SeqNo(dense.largest_seq - 1);
    assert_eq!(describe(choose(&version(tables), &LIMITS, read_before)), "idle", "a reader needs them");
    assert_eq!(chosen(vec![dense]), "merge [1] and [] into 2", "a move would keep them");
}

/// Does a job as the executor would: at most `step_bytes` of it, and what is left stays.
fn work(v: &Version, job: &Job, numbers: &mut u64, rng: &Rng, step_bytes: u64) -> (Version, u64) {
    let mut edit = Edit::default();
    let mut number = || {
        *numbers += 1;
        *numbers
    };
    let mut merged = 0;
    match job {
        Job::Idle => {}
        Job::Discard { tables } => edit.removed = tables.iter().map(|table| table.meta.table).collect(),
        Job::Move { tables, to_level } => {
            for table in tables {
                edit.removed.push(table.meta.table);
                edit.added.push(TableMeta { table: number(), level: *to_level as u8, ..table.meta.clone() });
            }
        }
        Job::Merge { upper, lower, to_level, .. } => {
            let inputs: Vec<&TableMeta> = upper.iter().chain(lower).map(|table| &table.meta).collect();
            let all: u64 = inputs.iter().map(|meta| meta.bytes).sum();
            let (first, last) = hull(&upper.iter().chain(lower).cloned().collect::<Vec<_>>()).unwrap();
            // Keys are two bytes; a step that is too large ends at a key in proportion.
            let place = |key: &[u8]| u64::from(key[0]) * 256 + u64::from(*key.get(1).unwrap_or(&0));
            let (from, to) = (place(&first), place(&last));
            let cut = if all > step_bytes { from + ((to - from) * step_bytes / all).max(1) } else { to };
            let cut_key = (cut as u16).to_be_bytes().to_vec();
            let cut_key = if cut >= to { last.clone() } else { cut_key };
            for meta in inputs.iter().filter(|meta| meta.start < cut_key) {
                edit.removed.push(meta.table);
                let (begin, end) = (place(&meta.start), place(&meta.end));
                let left = end.saturating_sub(cut.max(begin));
                let rest = meta.bytes * left / (end - begin).max(1);
                if meta.end > cut_key {
                    edit.added.push(meta.rest(number(), &cut_key, rest));
                }
                merged += meta.bytes - rest.min(meta.bytes);
            }
            let mut at = from;
            let pieces = (merged >> 25).max(1);
            for piece in 1..=pieces {
                let end =
                    if piece == pieces { cut.min(to) } else { from + (cut.min(to) - from) * piece / pieces };
                if end > at {
                    let table = number();
                    let key = |place: u64| (place as u16).to_be_bytes().to_vec();
                    let bytes = (merged * (rng.below(20) + 80) / 100 / pieces).max(1);
                    edit.added.push(TableMeta {
                        table,
                        file: table,
                        level: *to_level as u8,
                        start: if at == from { first.clone() } else { key(at) },
                        end: if end == to { last.clone() } else { key(end) },
                        bytes,
                        file_bytes: bytes,
                        ..meta(table, 0, "", "", 1)
                    });
                    at = end;
                }
            }
        }
    }
    (v.apply(&edit, row).unwrap(), merged)
}

/// Random flushes, in order and out of order: every version is sound (`apply` checks it), no job takes more than a step, level
/// 0 stays small although only one step is done per flush or two, and without flushes the debt falls to nothing.
#[test]
fn jobs_are_bounded_levels_stay_sound_and_debt_is_worked_off() {
    const STEP: u64 = 64 << 20;
    for seed in 0..60u64 {
        let (mut v, rng, mut numbers) = (Version::default(), Rng::new(seed), 0u64);
        let (mut worst, mut most) = (0, 0.0f64);
        for round in 0..300u64 {
            numbers += 1;
            let (start, end) = match seed % 3 {
                0 => (0, 0xFFFF),
                1 => (round * 200, round * 200 + 300),
                _ => {
                    let start = rng.below(0xFF00);
                    (start, start + 1 + rng.below(0xFFFF - start))
                }
            };
            let bytes = (8 + rng.below(24)) << 20;
            let flushed = TableMeta {
                start: (start as u16).to_be_bytes().into(),
                end: (end.min(0xFFFF) as u16).to_be_bytes().into(),
                bytes,
                file_bytes: bytes,
                ..meta(numbers, 0, "", "", 1)
            };
            v = v.apply(&Edit { added: vec![flushed], ..Edit::default() }, row).unwrap();
            for _ in 0..4 {
                let job = choose(&v, &LIMITS, SeqNo::MAX);
                let (next, merged) = work(&v, &job, &mut numbers, &rng, STEP);
                (v, worst) = (next, worst.max(merged));
            }
            most = most.max(level_zero_tables(v.family(Cf::Default)));
        }
        assert!(worst <= 3 * STEP, "seed {seed}: {worst} bytes in one job");
        assert!(most < 40.0, "seed {seed}: {most} tables in level 0");
        let mut steps = 0;
        while !matches!(choose(&v, &LIMITS, SeqNo::MAX), Job::Idle) {
            let job = choose(&v, &LIMITS, SeqNo::MAX);
            v = work(&v, &job, &mut numbers, &rng, STEP).0;
            steps += 1;
            assert!(steps < 10_000, "seed {seed}: compaction does not end");
        }
        assert_eq!(debt(&v, &LIMITS), 0, "seed {seed}");
    }
}

#[test]
fn debt_grows_with_what_is_due_and_counts_what_it_drags_along() {
    let owed = |tables| debt(&version(tables), &LIMITS) >> 20;
    assert_eq!(owed((1..4).map(|id| meta(id, 0, "a", "z", 60)).collect()), 0, "nothing is due");
    let due: Vec<_> = (5..9).map(|id| meta(id, 0, "a", "z", 10)).collect();
    assert_eq!(owed(due.clone()), 40);
    let mut above = due;
    above.push(meta(1, 1, "a", "z", 64));
    assert_eq!(owed(above.clone()), 40 + 40, "level 1 overflows by as much");
    above.push(meta(2, 2, "a", "z", 520));
    assert_eq!(owed(above), 40 + 40 + 200, "and each byte drags five along");
}
