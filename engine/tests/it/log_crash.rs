//! The log against a map, through power cuts, kills and disk errors at random moments of a simulated disk that loses, keeps and
//! tears what was not synced. Whatever was answered must be there; of the rest a prefix, whole batch by whole batch.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use engine::error::{Fault, FaultKind, Shortage};
use engine::log::plant::{Bug, plant};
use engine::log::{
    Batch, EntryRef, Log, LogOptions, Position, PurgeLimits, Recovered, RecoveredGroup, SyncMethod,
};
use engine::origin::Origin;
use engine::rt::Rt;
use engine::rt::sim::{DiskFault, DiskOp, Options, World};

const DIR: &str = "/data/log";

/// What one group should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    mark: Option<Position>,
    entries: BTreeMap<u64, (u64, Vec<u8>)>,
    states: BTreeMap<u8, Vec<u8>>,
}

type Groups = BTreeMap<u64, Group>;

/// One change, for the log and for the model.
#[derive(Clone, Debug)]
enum Change {
    Append { group: u64, first: u64, entries: Vec<(u64, Vec<u8>)> },
    State { group: u64, tag: u8, value: Vec<u8> },
    Compact { group: u64, to: Position },
    Reset { group: u64, to: Position },
    Remove { group: u64 },
}

impl Change {
    /// A change that makes sense for `groups`.
    fn draw(below: &mut impl FnMut(u64) -> u64, groups: &Groups) -> Self {
        let group = below(5);
        let known = groups.get(&group).cloned().unwrap_or_default();
        let mark = known.mark.map(|mark| mark.index);
        let first = known.entries.first_key_value().map(|(first, _)| *first);
        let last = known.entries.last_key_value().map(|(last, _)| *last).or(mark);
        match below(20) {
            0 => Self::Remove { group },
            1 => Self::Reset { group, to: Position { index: below(100), term: below(9) } },
            2..=5 => {
                let value = vec![below(256) as u8; below(60) as usize];
                Self::State { group, tag: below(3) as u8, value }
            }
            6..=8 if last.is_some() => {
                let floor = first.map(|first| first - 1).or(mark).unwrap_or(0);
                let index = floor + below(last.unwrap() - floor + 1);
                Self::Compact { group, to: Position { index, term: below(9) } }
            }
            _ => {
                let floor = mark.map_or(1, |mark| mark + 1);
                let next = last.map_or(1 + below(10), |last| last + 1);
                let first = next.saturating_sub(below(3)).max(floor.min(next));
                let size = if below(10) == 0 { 9_000 } else { 300 };
                let mut entry = |_| (below(9), vec![below(256) as u8; below(size) as usize]);
                let entries = (0..3).map(&mut entry).collect();
                Self::Append { group, first, entries }
            }
        }
    }

    fn encode(&self, batch: &mut Batch) {
        match self {
            Self::Append { group, first, entries } => {
                let refs = entries.iter().map(|(term, payload)| EntryRef { term: *term, kind: 1, payload });
                batch.append(*group, *first, refs);
            }
            Self::State { group, tag, value } => batch.put_state(*group, *tag, value),
            Self::Compact { group, to } => batch.compact(*group, to.index, to.term),
            Self::Reset { group, to } => batch.reset(*group, to.index, to.term),
            Self::Remove { group } => batch.remove(*group),
        }
    }

    fn apply(&self, groups: &mut Groups) {
        let (Self::Append { group, .. }
        | Self::State { group, .. }
        | Self::Compact { group, .. }
        | Self::Reset { group, .. }
        | Self::Remove { group }) = self;
        let known = groups.entry(*group).or_default();
        match self {
            Self::Append { first, entries, .. } => {
                known.entries.retain(|index, _| index < first);
                known.entries.extend((*first..).zip(entries.iter().cloned()));
            }
            Self::State { tag, value, .. } => {
                known.states.insert(*tag, value.clone());
            }
            Self::Compact { to, .. } => {
                known.entries.retain(|index, _| *index > to.index);
                known.mark = known.mark.filter(|mark| mark.index > to.index).or(Some(*to));
            }
            Self::Reset { to, .. } => {
                known.entries.clear();
                known.mark = Some(*to);
            }
            Self::Remove { group } => {
                groups.remove(group);
            }
        }
    }
}

/// What was answered and what was asked for.
#[derive(Debug, Default)]
struct Oracle {
    /// The state that the last opening found.
    base: Groups,
    /// Batches since, in the order of the calls, and whether they were answered.
    since: Vec<(Vec<Change>, bool)>,
    /// `base` with all of `since`.
    latest: Groups,
    /// How often the log has been opened.
    opened: u64,
    /// How often each thing happened.
    seen: BTreeMap<&'static str, u64>,
}

impl Oracle {
    fn count(&mut self, what: &'static str, times: u64) {
        *self.seen.entry(what).or_default() += times;
    }

    /// Checks what an opening found and goes on from there.
    fn reopened(&mut self, recovered: &Recovered, found: Groups) -> Result<(), String> {
        if recovered.opened <= self.opened {
            return Err(format!("opening {} after {}", recovered.opened, self.opened));
        }
        self.opened = recovered.opened;
        let answered = self.since.iter().rposition(|(_, answered)| *answered).map_or(0, |last| last + 1);
        let mut state = self.base.clone();
        for (count, (batch, _)) in self.since.iter().enumerate() {
            if count >= answered && without_empty(&state) == found {
                break;
            }
            batch.iter().for_each(|change| change.apply(&mut state));
        }
        if without_empty(&state) != found {
            let lost = self.since.len() - answered;
            let other = |id: &u64| found.get(id) != state.get(id);
            let differs: Vec<_> =
                (0..5).filter(other).map(|id| (id, found.get(&id), state.get(&id))).collect();
            return Err(format!(
                "neither {answered} answered batches nor up to {lost} more are what was found; found and expected: \
                 {differs:?}"
            ));
        }
        self.count("cuts", u64::from(recovered.cut.is_some()));
        self.count("openings", 1);
        (self.base, self.latest) = (state.clone(), state);
        self.since.clear();
        Ok(())
    }
}

/// What an opening found, with the payloads that a replay shows.
async fn groups_of(log: &Log, recovered: &Recovered) -> Result<Groups, String> {
    let mut payloads = BTreeMap::new();
    let replayed = log.replay(async |piece| {
        let shown = piece.into_iter();
        payloads.extend(shown.map(|(group, entry)| ((group, entry.index), entry.payload.to_vec())));
        Ok(())
    });
    replayed.await.map_err(|fault| fault.to_string())?;
    let group = |id: u64, group: &RecoveredGroup| Group {
        mark: group.compacted,
        entries: group
            .entries
            .iter()
            .filter_map(|e| Some((e.index, (e.term, payloads.get(&(id, e.index))?.clone()))))
            .collect(),
        states: group.states.iter().map(|(tag, value)| (*tag, value.to_vec())).collect(),
    };
    Ok(without_empty(&recovered.groups.iter().map(|(id, found)| (*id, group(*id, found))).collect()))
}

fn without_empty(groups: &Groups) -> Groups {
    groups.clone().into_iter().filter(|(_, group)| *group != Group::default()).collect()
}

fn options(sync: SyncMethod) -> LogOptions {
    LogOptions {
        segment_bytes: 32 << 10,
        cache_bytes_max: 4 << 10,
        group_bytes_max: 12 << 10,
        sync,
        ..LogOptions::default()
    }
}

type Shared = Rc<RefCell<Oracle>>;

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
        // The disk error of this life came that early; the next one finds everything.
        Err(fault) if fault.kind == FaultKind::Io => return Ok(()),
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
        log.vouch_if_idle();
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
    world.block_on(running).expect("nobody crashes it")?;
    Ok(oracle.take().seen)
}

#[test]
fn what_was_answered_survives_every_crash() {
    let mut seen = BTreeMap::<&str, u64>::new();
    for seed in 0..250 {
        match lives(seed) {
            Ok(counts) => {
                counts.into_iter().for_each(|(what, times)| *seen.entry(what).or_default() += times)
            }
            Err(what) => panic!("seed {seed}: {what}"),
        }
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

/// Runs `main` as a process of its own on the node's disk.
fn process<T: 'static, F: Future<Output = T> + 'static>(world: &World, main: impl FnOnce(Rt) -> F) -> T {
    world.block_on(world.node(0).start(0, main)).expect("nobody crashes it")
}

async fn open(rt: &Rt) -> Result<(Log, Recovered), Fault> {
    Log::open(rt, Path::new(DIR), options(SyncMethod::DurableWrite)).await
}

/// How a process ends that has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Close,
    /// Killed after it was idle for a moment.
    Idle,
    /// Killed at once.
    Kill,
}

/// Writes `count` small records and closes.
fn filled(world: &World, count: u64) {
    filled_until(world, count, End::Close);
}

fn filled_until(world: &World, count: u64, end: End) {
    process(world, move |rt| async move {
        let (log, _) = open(&rt).await.unwrap();
        for index in 1..=count {
            let mut batch = Batch::new();
            batch.append(1, index, [EntryRef { term: 2, kind: 1, payload: &[index as u8; 40] }]);
            log.write(batch).await.unwrap();
        }
        while log.stats().spare_segments < 2 {
            rt.sleep(Duration::from_millis(1)).await;
        }
        match end {
            End::Close => log.close().await.unwrap(),
            End::Idle => {
                let before = log.stats().records;
                for _ in 0..10 {
                    log.vouch_if_idle();
                    rt.sleep(Duration::from_millis(100)).await;
                }
                assert_eq!(log.stats().records, before + 1, "an idle log writes once and then nothing");
            }
            End::Kill => {}
        }
    });
    world.node(0).kill();
}

/// What an opening gives: the last index, and where something was cut, the index that it claims.
fn reopened(world: &World) -> Result<(Option<u64>, Option<Option<u64>>), Fault> {
    process(world, |rt| async move {
        let (log, recovered) = open(&rt).await?;
        let last = log.last_index(1);
        log.close().await?;
        Ok((last, recovered.cut.map(|cut| cut.claims.get(&1).copied())))
    })
}

/// Flips each byte that carries meaning in a small log, one at a time, and some of the padding. Every opening either is a fault
/// or finds everything. Only of the last record of a log that was killed at once nothing proves that it had been durable.
fn sweep(end: End) -> Result<(), String> {
    const RECORDS: u64 = 3;
    let world = World::new(1, Options::default());
    filled_until(&world, RECORDS, end);
    let disk = world.node(0).disk().files();
    let path = disk.iter().find(|path| path.ends_with("0000000000000001.seg")).expect("the first segment");
    let intact = world.node(0).disk().read(path);
    let record_end = 48 + 25 + 13 + 40;
    // The header, the record of the opening, those of the batches, and perhaps one that vouches for them.
    let last_block = RECORDS + 1 + u64::from(end != End::Kill);
    for block in 0..=last_block {
        let meaning = match block {
            0 => 64,
            1 => 48,
            block if block > RECORDS + 1 => 48,
            _ => record_end,
        };
        for within in (0..meaning).chain((meaning..4096).step_by(997)) {
            let mut damaged = intact.clone();
            damaged[(block * 4096 + within) as usize] ^= 1 << (within % 8);
            world.node(0).disk().write(path, &damaged);
            let found = reopened(&world).map_err(|fault| fault.kind);
            let right = match (within < meaning, block) {
                (false, _) => found == Ok((Some(RECORDS), None)),
                (true, block) if block == last_block && end == End::Kill => {
                    // Where the payload is hit, what is left still says whose entry it was.
                    let payload = within >= record_end - 40;
                    matches!(found, Ok((Some(last), claim)) if last == RECORDS - 1
                        && (!payload || claim == Some(Some(RECORDS))))
                }
                (true, block) if block == last_block => {
                    matches!(found, Ok((Some(RECORDS), None | Some(None))))
                }
                (true, _) => found == Err(FaultKind::Corruption),
            };
            if !right {
                return Err(format!("byte {within} of block {block}: {found:?}"));
            }
        }
    }
    Ok(())
}

#[test]
fn damage_anywhere_is_a_fault_and_only_an_unanswered_record_can_be_cut() {
    for end in [End::Close, End::Idle, End::Kill] {
        sweep(end).unwrap_or_else(|what| panic!("{end:?}: {what}"));
    }
}

#[test]
fn a_log_that_truncates_silently_is_caught_by_the_sweep() {
    plant(Some(Bug::SilentTruncation));
    let swept = sweep(End::Close);
    plant(None);
    assert!(swept.is_err());
}

/// A file that was cut off, or is gone, is named, or nothing of it was needed.
#[test]
fn a_file_that_lacks_its_end_or_is_gone_is_named() {
    for end in [End::Close, End::Kill] {
        let world = World::new(6, Options::default());
        filled_until(&world, 20, end);
        let node = world.node(0);
        let contents = node.disk().contents();
        let mut refused = 0;
        for (path, intact) in &contents {
            for eighths in 0..9 {
                let mut damaged = contents.clone();
                match eighths {
                    8 => damaged.remove(path),
                    _ => damaged.insert(path.clone(), intact[..intact.len() * eighths / 8].to_vec()),
                };
                node.disk().set_contents(&damaged);
                let origin = Origin { id: None, opened_min: 1 };
                let options = LogOptions { origin, ..options(SyncMethod::DurableWrite) };
                let found = process(&world, move |rt| async move {
                    let (log, _) = Log::open(&rt, Path::new(DIR), options).await?;
                    let last = log.last_index(1);
                    log.close().await.map(|()| last)
                });
                match found {
                    Ok(last) => assert_eq!(last, Some(20), "{} at {eighths}/8", path.display()),
                    Err(fault) => {
                        assert!(
                            fault.path == *path || fault.path == Path::new(DIR),
                            "{fault}, not {}",
                            path.display()
                        );
                        refused += 1;
                    }
                }
            }
        }
        // All but those whose last file is gone, which was not used yet.
        assert!(refused >= contents.len() * 8, "{refused} of {} cases", contents.len() * 9);
    }
}

/// What its owner knows decides whether a log is the one that belongs there.
#[test]
fn a_log_that_is_gone_or_another_or_an_older_copy_is_refused() {
    let world = World::new(5, Options::default());
    let opened = |id, opened_min| {
        process(&world, move |rt| async move {
            let origin = Origin { id: Some(id), opened_min };
            let options = LogOptions { origin, ..options(SyncMethod::DurableWrite) };
            let (log, recovered) = Log::open(&rt, Path::new(DIR), options).await?;
            log.close().await.map(|()| recovered.opened)
        })
    };
    let refused =
        |outcome: Result<u64, Fault>| outcome.map_err(|fault| (fault.kind, fault.path)).unwrap_err();
    let dir = Path::new(DIR).to_owned();
    assert_eq!(refused(opened(7, 1)), (FaultKind::Corruption, dir.clone()), "gone");
    assert!(world.node(0).disk().files().is_empty(), "what is refused is not created");
    assert_eq!(opened(7, 0).unwrap(), 1);
    assert_eq!(opened(7, 1).unwrap(), 2);
    assert_eq!(refused(opened(8, 1)), (FaultKind::Foreign, dir.clone()), "another");
    assert_eq!(refused(opened(7, 3)), (FaultKind::Foreign, dir), "an older copy");
    // A process that was killed between opening the log and telling its owner.
    assert_eq!(opened(7, 1).unwrap(), 3);
    assert_eq!(opened(7, 2).unwrap(), 4);
}

/// No space in any step of making a segment is waited for.
#[test]
fn lack_of_space_in_any_step_of_a_new_segment_ends_nothing() {
    let mut hit = 0;
    for op in [DiskOp::Name, DiskOp::Write, DiskOp::Sync, DiskOp::SetLen] {
        for after in 0..12 {
            let world = World::new(30 + after, Options::default());
            filled(&world, 3);
            // No file of the log that is written to, only those that are being made.
            let fault = DiskFault::on(op).path(".new").errno(libc::ENOSPC).after(after).times(2);
            let node = world.node(0);
            process(&world, move |rt| async move {
                let (log, _) = open(&rt).await.unwrap();
                node.disk().fail(fault);
                let mut index = 4;
                while index < 60 {
                    let mut batch = Batch::new();
                    batch.append(1, index, [EntryRef { term: 2, kind: 1, payload: &[9; 3000] }]);
                    match log.write(batch).await {
                        Ok(()) => index += 1,
                        Err(fault) => {
                            assert!(fault.is_passing(), "{op:?} {after}: {fault}");
                            rt.sleep(Duration::from_millis(100)).await;
                        }
                    }
                    assert!(log.failure().is_none(), "{op:?} {after}: {:?}", log.failure());
                }
                log.close().await.unwrap();
            });
            hit += world.node(0).disk().stats().faults;
            assert_eq!(reopened(&world).unwrap(), (Some(59), None), "{op:?} {after}");
        }
    }
    assert!(hit > 40, "only {hit} steps failed");
}

#[test]
fn damage_in_any_segment_but_the_last_is_a_fault_that_names_the_file() {
    let world = World::new(2, Options::default());
    filled(&world, 30);
    let files: BTreeSet<_> = world.node(0).disk().files().into_iter().collect();
    let segments: Vec<_> = files.iter().filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
    assert!(segments.len() >= 6, "{segments:?}");
    for path in &segments[..4] {
        let intact = world.node(0).disk().read(path);
        for block in 1..8 {
            let mut damaged = intact.clone();
            damaged[block * 4096..(block + 1) * 4096].fill(0);
            world.node(0).disk().write(path, &damaged);
            let fault = reopened(&world).unwrap_err();
            assert_eq!(fault.kind, FaultKind::Corruption, "{} block {block}", path.display());
        }
        world.node(0).disk().write(path, &intact);
    }
    assert_eq!(reopened(&world).unwrap(), (Some(30), None));
}

#[test]
fn a_failed_write_or_sync_ends_the_log_until_a_restart() {
    for op in [DiskOp::Write, DiskOp::Sync] {
        let world = World::new(3, Options::default());
        filled(&world, 3);
        world.node(0).disk().fail(DiskFault::on(op).path("0001.seg").after(2));
        let kinds = process(&world, |rt| async move {
            let options = options(SyncMethod::WriteThenSync);
            let (log, _) = Log::open(&rt, Path::new(DIR), options).await.unwrap();
            let mut kinds = Vec::new();
            for index in 4..6 {
                let mut batch = Batch::new();
                batch.append(1, index, [EntryRef { term: 2, kind: 1, payload: b"x" }]);
                kinds.push(log.write(batch).await.unwrap_err().kind);
            }
            kinds.push(log.close().await.unwrap_err().kind);
            kinds
        });
        assert_eq!(kinds, [FaultKind::Io, FaultKind::Poisoned, FaultKind::Io]);
        world.node(0).crash();
        let (last, _) = reopened(&world).unwrap();
        assert!((3..=4).contains(&last.unwrap()), "the failed write is unknown, the one after it never was");
    }
}

/// Without descriptors no segment can be made: entries are refused, and go on once there are some. The kernel's other passing
/// shortages are not noticed at all.
#[test]
fn a_passing_shortage_never_ends_the_log() {
    for method in [SyncMethod::DurableWrite, SyncMethod::WriteThenSync] {
        let world = World::new(14, Options::default());
        let node = world.node(0);
        process(&world, move |rt| async move {
            let (log, _) = Log::open(&rt, Path::new(DIR), options(method)).await.unwrap();
            let append = |index: u64| {
                let mut batch = Batch::new();
                batch.append(1, index, [EntryRef { term: 2, kind: 1, payload: &[9; 3000] }]);
                batch
            };
            let disk = node.disk();
            disk.set_descriptors(disk.open_files());
            let mut index = 1;
            let fault = loop {
                match log.write(append(index)).await {
                    Ok(()) => index += 1,
                    Err(fault) => break fault,
                }
            };
            assert_eq!(fault.shortage(), Some(Shortage::Descriptors), "{fault}");
            assert!(!log.stats().disk_full && log.failure().is_none());
            disk.set_descriptors(u64::MAX);
            for (op, errno) in [
                (DiskOp::Name, libc::EMFILE),
                (DiskOp::Look, libc::ENFILE),
                (DiskOp::SyncDir, libc::EMFILE),
                (DiskOp::Write, libc::EAGAIN),
                (DiskOp::Write, libc::ENOMEM),
                (DiskOp::Read, libc::EINTR),
            ] {
                disk.fail(DiskFault::on(op).errno(errno).after(2).times(3));
            }
            let upto = index + 60;
            while index < upto {
                match log.write(append(index)).await {
                    Ok(()) => index += 1,
                    Err(fault) => {
                        assert!(fault.is_passing(), "{fault}");
                        rt.sleep(Duration::from_millis(100)).await;
                    }
                }
            }
            assert_eq!(log.entries(1, 1..index, usize::MAX).await.unwrap().len() as u64, index - 1);
            disk.heal();
            log.close().await.unwrap();
        });
        assert!(reopened(&world).unwrap().0.is_some_and(|last| last > 60));
    }
}

#[test]
fn a_full_disk_refuses_entries_but_compaction_makes_room_again() {
    let world = World::new(4, Options::default());
    world.node(0).disk().set_capacity(6 * (32 << 10));
    process(&world, |rt| async move {
        let (log, _) = open(&rt).await.unwrap();
        let append = |index: u64| {
            let mut batch = Batch::new();
            batch.append(1, index, [EntryRef { term: 2, kind: 1, payload: &[9; 3000] }]);
            batch
        };
        let mut index = 1;
        let fault = loop {
            match log.write(append(index)).await {
                Ok(()) => index += 1,
                Err(fault) => break fault,
            }
        };
        assert!(fault.is_disk_full(), "{fault}");
        assert!(index > 20, "only {index} entries fit");
        assert_eq!(log.failure().map(|fault| fault.kind), None, "a refusal does not end the log");
        let mut batch = Batch::new();
        batch.put_state(1, 1, b"a vote is still possible");
        log.write(batch).await.unwrap();
        let mut batch = Batch::new();
        batch.compact(1, index - 1, 2);
        log.write(batch).await.unwrap();
        assert!(log.purge(&PurgeLimits::default()).await.unwrap().segments > 2);
        while log.stats().disk_full {
            rt.sleep(Duration::from_millis(10)).await;
        }
        log.write(append(index)).await.unwrap();
        log.close().await.unwrap();
    });
    assert!(reopened(&world).unwrap().0.is_some());
}
