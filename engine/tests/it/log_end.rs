//! `END`, the witness of a log's end outside of its segments: what it misses, what it never refuses, and how a log of 0.1 gets one.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use engine::error::{Fault, FaultKind};
use engine::log::plant::{Bug, plant};
use engine::log::{Batch, EntryRef, Log, LogOptions, PurgeLimits, SyncMethod};
use engine::rt::Rt;
use engine::rt::sim::{DiskFault, DiskOp, Options, World};

use crate::log_world::{DIR, End, filled_until, open, options, process, reopened};

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Records that fill two segments and part of a third.
const RECORDS: u64 = 17;

fn segment(number: u64) -> PathBuf {
    Path::new(DIR).join(format!("{number:016}.seg"))
}

fn end() -> PathBuf {
    Path::new(DIR).join("END")
}

/// A log of these records, and its newest segment that has some.
fn written(end: End) -> (World, Files, u64) {
    let world = World::new(11, Options::default());
    filled_until(&world, RECORDS, end);
    let files = world.node(0).disk().contents();
    let used = |number: &u64| files.get(&segment(*number)).is_some_and(|bytes| bytes[4096..4100] != [0; 4]);
    let last = (1..10).filter(used).max().expect("something was written");
    assert!(last >= 3 && files.contains_key(&segment(last + 2)), "two segments, one in use, two spares");
    (world, files, last)
}

fn opened_with(world: &World, files: &Files) -> Result<Option<u64>, Fault> {
    world.node(0).disk().set_contents(files);
    reopened(world).map(|(last, _)| last)
}

fn refused(outcome: Result<Option<u64>, Fault>) -> (FaultKind, PathBuf) {
    outcome.map_err(|fault| (fault.kind, fault.path)).unwrap_err()
}

/// Every segment after the first ones is gone: if one of them had records, the newest is missed, however the process ended.
fn without_the_last_segments() {
    for ended in [End::Close, End::Idle, End::Kill] {
        let (world, files, last) = written(ended);
        for kept in 0..=last {
            let mut rest = files.clone();
            rest.retain(|path, _| *path == end() || (1..=kept).any(|number| *path == segment(number)));
            match opened_with(&world, &rest) {
                Ok(found) => assert_eq!((found, kept), (Some(RECORDS), last), "{ended:?}"),
                Err(fault) => {
                    assert_eq!((fault.kind, &fault.path), (FaultKind::Corruption, &segment(last)), "{fault}");
                    assert!(kept < last, "{ended:?} {kept}: {fault}");
                }
            }
        }
    }
}

#[test]
fn a_log_without_its_last_segments_is_refused() {
    without_the_last_segments();
}

/// The last blocks with records, as many as `blocks`, are zero.
fn zeroed(files: &Files, last: u64, blocks: usize) -> Files {
    let mut files = files.clone();
    let bytes = files.get_mut(&segment(last)).expect("it is there");
    let ends = 4096 * (1 + bytes.chunks(4096).rposition(|block| block[..4] != [0; 4]).expect("records"));
    bytes[ends.saturating_sub(4096 * blocks).max(4096)..ends].fill(0);
    files
}

/// A log that was idle or closed lacks its last records. Only the very last of them, which changed nothing, is not missed.
fn without_the_last_records() {
    for ended in [End::Close, End::Idle] {
        let (world, files, last) = written(ended);
        assert_eq!(opened_with(&world, &zeroed(&files, last, 1)).unwrap(), Some(RECORDS), "{ended:?}");
        for blocks in 2..8 {
            let outcome = opened_with(&world, &zeroed(&files, last, blocks));
            assert_eq!(refused(outcome), (FaultKind::Corruption, segment(last)), "{ended:?} {blocks}");
        }
    }
}

#[test]
fn a_log_without_its_last_records_is_refused() {
    without_the_last_records();
}

/// Killed at once: what was there at the last opening is missed, what came after it may never have been written.
#[test]
fn what_was_there_at_an_opening_is_missed() {
    let (world, files, last) = written(End::Kill);
    let records = files[&segment(last)].chunks(4096).skip(1).filter(|block| block[..4] != [0; 4]).count();
    world.node(0).disk().set_contents(&files);
    process(&world, |rt| async move {
        open(&rt).await.unwrap();
    });
    world.node(0).kill();
    let files = world.node(0).disk().contents();
    let outcome = opened_with(&world, &zeroed(&files, last, 2));
    assert!(records > 2, "{records}");
    assert_eq!(refused(outcome), (FaultKind::Corruption, segment(last)));
}

/// `END` itself: gone, of another length, another's, with one slot damaged and with both.
#[test]
fn the_witness_itself_is_missed() {
    let (world, files, _) = written(End::Idle);
    let with = |bytes: Option<Vec<u8>>| {
        let mut files = files.clone();
        match bytes {
            Some(bytes) => files.insert(end(), bytes),
            None => files.remove(&end()),
        };
        opened_with(&world, &files)
    };
    let whole = files[&end()].clone();
    let harmed = |blocks: &[usize]| {
        let mut bytes = whole.clone();
        blocks.iter().for_each(|block| bytes[block * 4096 + 40] ^= 1);
        Some(bytes)
    };
    let mut others = whole.clone();
    for slot in others.chunks_mut(4096) {
        slot[16] ^= 1;
        let sum = crc32fast::hash(&[&slot[..12], &slot[16..64]].concat());
        slot[12..16].copy_from_slice(&sum.to_le_bytes());
    }
    assert_eq!(refused(with(None)), (FaultKind::Corruption, end()), "gone");
    assert_eq!(refused(with(Some(Vec::new()))), (FaultKind::Corruption, end()), "empty");
    assert_eq!(refused(with(Some(whole[..4096].to_vec()))), (FaultKind::Corruption, end()), "half of it");
    assert_eq!(refused(with(harmed(&[0, 1]))), (FaultKind::Corruption, end()), "both slots");
    assert_eq!(refused(with(Some(others))), (FaultKind::Foreign, end()), "another's");
    for block in [0, 1] {
        assert_eq!(with(harmed(&[block])).unwrap(), Some(RECORDS), "slot {block}");
    }
}

/// As 0.1 wrote it: no `END`, and no segment that knows of one.
fn of_0_1(files: &Files) -> Files {
    let mut files = files.clone();
    files.remove(&end());
    for bytes in files.values_mut() {
        bytes[48] = 0;
        let sum = crc32fast::hash(&[&bytes[..12], &bytes[16..64]].concat());
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    }
    files
}

/// Its first opening makes the witness, which counts from then on; from the first new segment on it is itself missed.
#[test]
fn a_log_of_0_1_is_taken_over() {
    let (world, files, last) = written(End::Kill);
    assert_eq!(opened_with(&world, &of_0_1(&files)).unwrap(), Some(RECORDS));
    let files = world.node(0).disk().contents();
    assert_eq!(refused(opened_with(&world, &zeroed(&files, last, 3))).1, segment(last));
    world.node(0).disk().set_contents(&files);
    process(&world, |rt| async move {
        let (log, _) = open(&rt).await.unwrap();
        append(&log, RECORDS + 1..=2 * RECORDS).await.unwrap();
        while log.stats().spare_segments < 2 {
            rt.sleep(Duration::from_millis(1)).await;
        }
        log.close().await.unwrap();
    });
    let mut files = world.node(0).disk().contents();
    files.remove(&end());
    assert_eq!(refused(opened_with(&world, &files)), (FaultKind::Corruption, end()));
}

/// Without space for the witness the log opens as before, marks no segment, and is taken over once there is some.
#[test]
fn a_log_of_0_1_is_taken_over_when_there_is_space() {
    let (world, files, _) = written(End::Kill);
    world.node(0).disk().set_contents(&of_0_1(&files));
    world.node(0).disk().fail(DiskFault::on(DiskOp::Write).path("/END").errno(libc::ENOSPC).always());
    process(&world, |rt| async move {
        let (log, _) = open(&rt).await.unwrap();
        append(&log, RECORDS + 1..=2 * RECORDS).await.unwrap();
        log.close().await.unwrap();
    });
    assert!(!world.node(0).disk().files().contains(&end()));
    world.node(0).disk().heal();
    assert_eq!(reopened(&world).unwrap().0, Some(2 * RECORDS));
    assert!(world.node(0).disk().files().contains(&end()));
}

async fn append(log: &Log, range: std::ops::RangeInclusive<u64>) -> Result<(), Fault> {
    for index in range {
        let mut batch = Batch::new();
        batch.append(1, index, [EntryRef { term: 2, kind: 1, payload: &[index as u8; 40] }]);
        log.write(batch).await?;
    }
    Ok(())
}

/// How often the witness was written.
fn rounds(files: &Files) -> u64 {
    let round = |slot: &[u8]| u64::from_le_bytes(slot[24..32].try_into().expect("eight bytes"));
    files[&end()].chunks(4096).map(round).max().expect("two slots")
}

/// Within a second the witness costs a write per segment, however often the log is asked whether it is idle.
#[test]
fn a_busy_log_writes_its_witness_once_per_segment() {
    let world = World::new(12, Options::default());
    process(&world, |rt| async move {
        let options = LogOptions {
            witness_every: LogOptions::default().witness_every,
            ..options(SyncMethod::DurableWrite)
        };
        let (log, _) = Log::open(&rt, Path::new(DIR), options).await.unwrap();
        let began = rt.now();
        for index in 1..=700 {
            append(&log, index..=index).await.unwrap();
            log.vouch_if_due();
        }
        assert!(rt.now().since(began) < Duration::from_secs(1), "it is not asked for that");
    });
    world.node(0).kill();
    let files = world.node(0).disk().contents();
    let segments =
        files.keys().filter(|path| path.extension().is_some_and(|kind| kind == "seg")).count() as u64;
    let writes = rounds(&files);
    assert!(
        segments >= 100 && (segments - 3..=segments).contains(&writes),
        "{writes} for {segments} segments"
    );
}

/// How often an owner asks whether the log is idle.
const TICK: Duration = Duration::from_millis(100);

/// A log that is written all the time, in one segment, and killed in the middle of it. How many records there are, and how many of them
/// are older than a second and a tick.
fn killed_under_load() -> (World, Files, u64, u64) {
    let world = World::new(13, Options::default());
    let (records, older) = process(&world, |rt| async move {
        let options = LogOptions { segment_bytes: 4 << 20, ..LogOptions::default() };
        let (log, _) = Log::open(&rt, Path::new(DIR), options).await.unwrap();
        let (asking, asked, began) = (rt.clone(), log.clone(), rt.now());
        rt.spawn(async move {
            loop {
                asking.sleep(TICK).await;
                asked.vouch_if_due();
            }
        });
        let mut written = Vec::new();
        while rt.now().since(began) < Duration::from_millis(9500) {
            let index = written.len() as u64 + 1;
            append(&log, index..=index).await.unwrap();
            written.push(rt.now());
            rt.sleep(Duration::from_millis(20)).await;
        }
        let is_old = |at: &&engine::rt::Mono| rt.now().since(**at) > Duration::from_secs(1) + TICK;
        (written.len() as u64, written.iter().filter(is_old).count() as u64)
    });
    world.node(0).kill();
    let files = world.node(0).disk().contents();
    (world, files, records, older)
}

/// All but the last second of a log that was never idle is missed. What is younger may never have been written.
fn the_last_second_alone_has_no_witness() {
    let (world, files, records, older) = killed_under_load();
    assert!(records > 300 && (records - 80..records - 40).contains(&older), "{older} of {records}");
    for lost in [records - older + 1, records - older + 100, records] {
        let outcome = opened_with(&world, &zeroed(&files, 1, lost as usize));
        assert_eq!(refused(outcome), (FaultKind::Corruption, segment(1)), "{lost} of {records}");
    }
    assert_eq!(opened_with(&world, &zeroed(&files, 1, 5)).unwrap(), Some(records - 5));
    let writes = rounds(&files);
    assert!((9..=12).contains(&writes), "{writes} in nine seconds and a half");
}

#[test]
fn a_log_that_was_never_idle_is_missed_up_to_its_last_second() {
    the_last_second_alone_has_no_witness();
}

/// After its last record has been vouched for, a log writes nothing, however often it is asked.
#[test]
fn an_idle_log_leaves_its_witness_alone() {
    let world = World::new(14, Options::default());
    let disk = world.node(0);
    process(&world, |rt| async move {
        let (log, _) = open(&rt).await.unwrap();
        append(&log, 1..=3).await.unwrap();
        while log.stats().spare_segments < 2 {
            rt.sleep(Duration::from_millis(1)).await;
        }
        for _ in 0..3 {
            log.vouch_if_due();
            rt.sleep(TICK).await;
        }
        let before = (disk.disk().changes(), rounds(&disk.disk().contents()));
        for _ in 0..100 {
            log.vouch_if_due();
            rt.sleep(TICK).await;
        }
        assert_eq!((disk.disk().changes(), rounds(&disk.disk().contents())), before);
    });
}

/// A life with everything that `END` is written for: creation or take-over, new segments, a busy time, idle moments, segments that go,
/// the close.
async fn life(rt: Rt, acknowledged: Rc<Cell<u64>>) -> Result<(), Fault> {
    let (log, _) = Log::open(&rt, Path::new(DIR), options(SyncMethod::DurableWrite)).await?;
    for _ in 0..3 {
        for _ in 0..RECORDS {
            let index = acknowledged.get() + 1;
            append(&log, index..=index).await?;
            acknowledged.set(index);
            log.vouch_if_due();
        }
        for _ in 0..2 {
            log.vouch_if_due();
            rt.sleep(Duration::from_millis(5)).await;
        }
        let mut batch = Batch::new();
        batch.compact(1, acknowledged.get() - 3, 2);
        log.write(batch).await?;
        log.purge(&PurgeLimits { segments_target: 2, ..PurgeLimits::default() }).await?;
    }
    log.close().await
}

/// Cuts the power at every change on the disk. What was acknowledged is there, so nothing is refused.
fn cut_at_every_change(take_over: bool) -> Result<u64, String> {
    let old = take_over.then(|| of_0_1(&written(End::Kill).1));
    for point in 0.. {
        let world = World::new(900 + point, Options::default());
        let node = world.node(0);
        let acknowledged = Rc::new(Cell::new(0));
        if let Some(old) = &old {
            node.disk().set_contents(old);
            acknowledged.set(RECORDS);
        }
        let (shown, ended) = (acknowledged.clone(), Rc::new(Cell::new(false)));
        let over = ended.clone();
        node.disk().stop_at(node.disk().changes() + point);
        let running = node.start(0, move |rt| async move {
            life(rt, shown).await.unwrap();
            over.set(true);
        });
        world.run_until(Duration::from_secs(5), || ended.get() || node.disk().has_stopped());
        world.run_for(Duration::from_millis(50));
        node.crash();
        drop(running);
        let (last, _) = reopened(&world).map_err(|fault| format!("cut at {point}: {fault}"))?;
        if last.unwrap_or(0) < acknowledged.get() {
            return Err(format!("cut at {point}: {last:?} of {}", acknowledged.get()));
        }
        if ended.get() {
            return Ok(point);
        }
    }
    unreachable!("there is always a next point")
}

#[test]
fn no_power_cut_makes_the_witness_refuse_a_log() {
    for take_over in [false, true] {
        let points = cut_at_every_change(take_over).unwrap();
        assert!(points > 100, "only {points} changes");
    }
}

/// Whether `run` fails with `bug` planted.
fn caught(bug: Bug, run: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    plant(Some(bug));
    let outcome = std::panic::catch_unwind(run);
    plant(None);
    outcome.is_err()
}

#[test]
fn planted_bugs_are_caught_by_the_witness() {
    assert!(caught(Bug::NoWitness, without_the_last_segments));
    assert!(caught(Bug::NoWitness, without_the_last_records));
    assert!(caught(Bug::OnlyIdleWitness, the_last_second_alone_has_no_witness));
    assert!(caught(Bug::WitnessAhead, || assert!(cut_at_every_change(false).is_ok())));
}
