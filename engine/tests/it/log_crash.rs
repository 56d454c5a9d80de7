//! The log against a map, through power cuts, kills and disk errors at random moments of a simulated disk that loses, keeps and
//! tears what was not synced.
//!
//! `RINGKEEP_SEEDS=2000 cargo test -p ringkeep-engine --test it log_crash` runs more seeds, `RINGKEEP_SEED=47` one, and
//! `RINGKEEP_FIRST_SEED=250` begins elsewhere.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use engine::error::FaultKind;
use engine::log::plant::{Bug, plant};
use engine::log::{Batch, Log, LogOptions, PurgeLimits, SyncMethod};
use engine::origin::Origin;
use engine::rt::Rt;
use engine::rt::sim::{DiskFault, DiskOp, Options, World};

use crate::log_model::{Change, Oracle, groups_of};
use crate::log_world::{DIR, options};

type Shared = Rc<RefCell<Oracle>>;

/// How many seeds run unless the environment says otherwise.
const SEEDS: u64 = 250;

/// As an owner opens it who remembers the log's id and how often it was opened.
fn owned(sync: SyncMethod, oracle: &Shared) -> LogOptions {
    let origin = Origin { id: Some(77), opened_min: oracle.borrow().opened };
    LogOptions { origin, ..options(sync) }
}

/// One process: opens, checks, then writes from three tasks until it dies.
async fn life(rt: Rt, oracle: Shared, sync: SyncMethod) -> Result<(), String> {
    let opened = Log::open(&rt, Path::new(DIR), owned(sync, &oracle)).await;
    let (log, recovered) = match opened {
        Ok(opened) => opened,
        // The disk error of this life came that early, perhaps to a spare before the first record; the next one finds everything.
        Err(fault) if matches!(fault.kind, FaultKind::Io | FaultKind::Poisoned) => return Ok(()),
        Err(fault) => return Err(format!("the log does not open: {fault}")),
    };
    let found = groups_of(&log, &recovered).await?;
    oracle.borrow_mut().reopened(&recovered, found)?;
    check_reads(&log, &oracle).await?;
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let (rt_of_task, log, oracle) = (rt.clone(), log.clone(), oracle.clone());
            rt.spawn(async move { while write_one(&rt_of_task, &log, &oracle).await {} })
        })
        .collect();
    let limits =
        PurgeLimits { segments_target: 2, rewrite_group_bytes_max: 8 << 10, rewrite_bytes_max: 16 << 10 };
    while log.failure().is_none() {
        rt.sleep(Duration::from_micros(rt.random() % 4_000)).await;
        log.vouch_if_due();
        log.check();
        if let Ok(purged) = log.purge(&limits).await {
            let mut oracle = oracle.borrow_mut();
            oracle.count("segments gone", purged.segments as u64);
            oracle.count("bytes moved", purged.rewritten_bytes);
            oracle.count("stragglers", purged.stragglers.len() as u64);
        }
    }
    for writer in writers {
        writer.await;
    }
    oracle.borrow_mut().count("logs ended by a fault", 1);
    Ok(())
}

/// What is read must be what was found.
async fn check_reads(log: &Log, oracle: &Shared) -> Result<(), String> {
    let groups = oracle.borrow().base.clone();
    for (id, group) in &groups {
        let Some((first, _)) = group.entries.first_key_value() else { continue };
        let read = log.entries(*id, *first..u64::MAX, usize::MAX).await.map_err(|fault| fault.to_string())?;
        let read: BTreeMap<_, _> =
            read.into_iter().map(|entry| (entry.index, (entry.term, entry.payload.to_vec()))).collect();
        if read != group.entries {
            return Err(format!("group {id} reads other entries than were found"));
        }
    }
    Ok(())
}

/// Writes one random batch; `false` when the log has ended.
async fn write_one(rt: &Rt, log: &Log, oracle: &Shared) -> bool {
    let mut below = |n: u64| rt.random() % n;
    let mut batch = Batch::new();
    let place = {
        let oracle = &mut *oracle.borrow_mut();
        let mut changes = Vec::new();
        for _ in 0..=below(3) {
            let change = Change::draw(&mut below, &oracle.latest);
            change.encode(&mut batch);
            change.apply(&mut oracle.latest);
            changes.push(change);
        }
        oracle.since.push((changes, false));
        oracle.since.len() - 1
    };
    // Nothing runs between the line above and the first poll of the write, so the order is that of `since`.
    let written = log.write(batch).await;
    if written.is_ok() {
        oracle.borrow_mut().since[place].1 = true;
        oracle.borrow_mut().count("answered", 1);
    }
    if below(3) == 0 {
        rt.sleep(Duration::from_micros(below(2_000))).await;
    }
    written.is_ok()
}

/// Several lives on one disk. What happened, or what was wrong.
fn lives(seed: u64) -> Result<BTreeMap<&'static str, u64>, String> {
    let world = World::new(seed, Options::default());
    let node = world.node(0);
    let oracle = Shared::default();
    let sync = [SyncMethod::DurableWrite, SyncMethod::WriteThenSync][world.below(2) as usize];
    for _ in 0..8 {
        let running = node.start(0, |rt| life(rt, oracle.clone(), sync));
        let ended = Rc::new(RefCell::new(None));
        if world.below(3) == 0 {
            let op = [DiskOp::Write, DiskOp::Sync][world.below(2) as usize];
            node.disk().fail(DiskFault::on(op).after(world.below(120)));
        }
        let result = {
            let mut running = std::pin::pin!(running);
            let (ended, length) = (ended.clone(), Duration::from_micros(world.below(60_000)));
            world.run_until(length, || {
                let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                if ended.borrow().is_none()
                    && let std::task::Poll::Ready(result) = running.as_mut().poll(&mut cx)
                {
                    *ended.borrow_mut() = result;
                }
                ended.borrow().is_some()
            });
            ended.take()
        };
        result.unwrap_or(Ok(()))?;
        if world.below(3) == 0 {
            node.kill()
        } else {
            node.crash()
        }
        node.disk().heal();
    }
    let last = oracle.clone();
    let running = node.start(0, move |rt| async move {
        let opened = Log::open(&rt, Path::new(DIR), owned(sync, &last)).await;
        let (log, recovered) =
            opened.map_err(|fault| format!("the log does not open at the end: {fault}"))?;
        let found = groups_of(&log, &recovered).await?;
        last.borrow_mut().reopened(&recovered, found)?;
        log.close().await.map_err(|fault| fault.to_string())
    });
    world.block_on(running).expect("it is not crashed")?;
    Ok(oracle.take().seen)
}

fn seeds() -> std::ops::Range<u64> {
    let number = |variable| Some(std::env::var(variable).ok()?.parse::<u64>().expect("a number"));
    let first = number("RINGKEEP_SEED").or_else(|| number("RINGKEEP_FIRST_SEED")).unwrap_or(0);
    let count = match number("RINGKEEP_SEED") {
        Some(_) => 1,
        None => number("RINGKEEP_SEEDS").unwrap_or(SEEDS),
    };
    first..first + count
}

#[test]
fn what_was_answered_survives_every_crash() {
    let mut seen = BTreeMap::<&str, u64>::new();
    let seeds = seeds();
    for seed in seeds.clone() {
        match lives(seed) {
            Ok(counts) => {
                counts.into_iter().for_each(|(what, times)| *seen.entry(what).or_default() += times)
            }
            Err(what) => panic!("seed {seed}: {what}"),
        }
    }
    if seeds.end - seeds.start < SEEDS {
        return;
    }
    // A path that no seed takes is a hole in the generator.
    let expected = [
        "answered",
        "bytes moved",
        "cuts",
        "logs ended by a fault",
        "openings",
        "segments gone",
        "stragglers",
    ];
    for what in expected {
        assert!(seen.get(what).is_some_and(|times| *times > 20), "{what} happened too rarely: {seen:?}");
    }
}

/// Whether some seed out of `seeds` notices the bug. A panic notices, too.
fn caught(bug: Bug, seeds: u64) -> bool {
    plant(Some(bug));
    let caught = (0..seeds).any(|seed| !matches!(std::panic::catch_unwind(|| lives(seed)), Ok(Ok(_))));
    plant(None);
    caught
}

#[test]
fn planted_bugs_are_caught() {
    for bug in
        [Bug::NoSalt, Bug::NoSync, Bug::TornAccepted, Bug::EarlyReuse, Bug::NoDirSync, Bug::UnsyncedTail]
    {
        assert!(caught(bug, 150), "{bug:?} went unnoticed");
    }
}
