//! What a log lacks for a while is waited out, and what failed for good ends it.

use std::path::Path;
use std::time::Duration;

use engine::error::{FaultKind, Shortage};
use engine::log::{Batch, EntryRef, Log, PurgeLimits, SyncMethod};
use engine::rt::sim::{DiskFault, DiskOp, Options, World};

use crate::log_world::{DIR, filled, open, options, process, reopened};

/// No space in any step of making a segment is waited for.
#[test]
fn lack_of_space_in_any_step_of_a_new_segment_ends_nothing() {
    let mut hit = 0;
    for op in [DiskOp::Name, DiskOp::Write, DiskOp::Sync, DiskOp::SetLen, DiskOp::SyncDir] {
        for after in 0..12 {
            let world = World::new(30 + after, Options::default());
            filled(&world, 3);
            // No file of the log that is written to, only those that are being made.
            let path = if op == DiskOp::SyncDir { DIR } else { ".new" };
            let fault = DiskFault::on(op).path(path).errno(libc::ENOSPC).after(after).times(2);
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
            // Not in the next life, if this one has ended before it.
            world.node(0).disk().heal();
            assert_eq!(reopened(&world).unwrap(), (Some(59), None), "{op:?} {after}");
        }
    }
    assert!(hit > 40, "only {hit} steps failed");
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

/// What lacks for the file that says where the log ends is waited out, too: at the opening, when the log is idle and when it goes on in
/// a new segment, which is refused only for want of space. A log that was killed meanwhile is whole.
#[test]
fn what_lacks_for_the_end_of_the_log_ends_nothing() {
    for (op, errno) in [
        (DiskOp::Write, libc::ENOSPC),
        (DiskOp::Sync, libc::ENOSPC),
        (DiskOp::Write, libc::ENOMEM),
        (DiskOp::Write, libc::EAGAIN),
        (DiskOp::Sync, libc::EMFILE),
    ] {
        for lasts in [Duration::from_millis(500), Duration::MAX] {
            let world = World::new(16, Options::default());
            filled(&world, 3);
            let node = world.node(0);
            node.disk().fail(DiskFault::on(op).path("/END").errno(errno).always());
            // Without space an opening goes on, anything else is too short to be noticed.
            let refuses = errno == libc::ENOSPC;
            if !refuses && lasts == Duration::MAX {
                continue;
            }
            let healed = node.clone();
            let acknowledged = process(&world, move |rt| async move {
                let waiting = rt.clone();
                let heals = rt.spawn(async move {
                    waiting.sleep(lasts.min(Duration::from_secs(3000))).await;
                    healed.disk().heal();
                });
                let (log, _) = open(&rt).await.unwrap();
                for _ in 0..2 {
                    log.vouch_if_due();
                    rt.sleep(Duration::from_millis(10)).await;
                }
                let (mut index, mut refused) = (4, 0);
                while index < 60 && refused < 1000 {
                    let mut batch = Batch::new();
                    batch.append(1, index, [EntryRef { term: 2, kind: 1, payload: &[9; 3000] }]);
                    match log.write(batch).await {
                        Ok(()) => index += 1,
                        Err(fault) => {
                            assert!(refuses && fault.is_of_room(), "{op:?} {errno}: {fault}");
                            refused += 1;
                            rt.sleep(Duration::from_millis(10)).await;
                        }
                    }
                    assert!(log.failure().is_none(), "{op:?} {errno}: {:?}", log.failure());
                }
                assert_eq!(refused > 0, refuses, "{op:?} {errno}");
                if lasts != Duration::MAX {
                    assert_eq!(index, 60);
                    heals.await;
                    log.close().await.unwrap();
                }
                index - 1
            });
            assert!(node.disk().stats().faults > 0, "{op:?} {errno}");
            node.crash();
            node.disk().heal();
            assert_eq!(reopened(&world).unwrap(), (Some(acknowledged), None), "{op:?} {errno}");
        }
    }
}

/// A log that is new, and one of a process that could make nothing but the first segment.
#[test]
fn a_new_log_waits_for_the_file_that_says_where_it_ends() {
    for op in [DiskOp::Name, DiskOp::Write, DiskOp::Sync] {
        let world = World::new(17, Options::default());
        let node = world.node(0);
        node.disk().fail(DiskFault::on(op).path("/END").errno(libc::ENOSPC).always());
        for _ in 0..2 {
            let fault = process(&world, |rt| async move { open(&rt).await.unwrap_err() });
            assert!(fault.is_of_room() && fault.path.ends_with("END"), "{op:?}: {fault}");
        }
        node.disk().heal();
        filled(&world, 3);
        assert_eq!(reopened(&world).unwrap().0, Some(3));
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
        assert!(fault.is_of_room(), "{fault}");
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

/// The limit on the length of files is lowered below a segment that is there: what is one block long is refused, what is longer waits, and
/// both go on once the limit is raised.
#[test]
fn records_beyond_the_length_that_files_may_have_end_nothing() {
    for method in [SyncMethod::DurableWrite, SyncMethod::WriteThenSync] {
        let world = World::new(15, Options::default());
        let node = world.node(0);
        process(&world, move |rt| async move {
            let (log, _) = Log::open(&rt, Path::new(DIR), options(method)).await.unwrap();
            let append = |index: u64, bytes: usize| {
                let mut batch = Batch::new();
                batch.append(1, index, [EntryRef { term: 2, kind: 1, payload: &vec![9; bytes] }]);
                batch
            };
            log.write(append(1, 10)).await.unwrap();
            node.disk().fail(DiskFault::on(DiskOp::Write).errno(libc::EFBIG).always());
            let fault = log.write(append(2, 10)).await.unwrap_err();
            assert_eq!(fault.shortage(), Some(Shortage::FileLength), "{fault}");
            assert!(fault.to_string().contains("ulimit -f"), "{fault}");
            assert!(log.append_waits() && log.stats().disk_full && log.failure().is_none());
            let began = rt.now();
            let (later, free) = (rt.clone(), node.clone());
            rt.spawn(async move {
                later.sleep(Duration::from_secs(2)).await;
                free.disk().heal();
            });
            log.write(append(2, 9000)).await.unwrap();
            assert!(rt.now().since(began) >= Duration::from_secs(2), "it was written beyond the limit");
            assert!(!log.append_waits() && log.lacks().is_none() && log.failure().is_none());
            log.write(append(3, 10)).await.unwrap();
            log.close().await.unwrap();
        });
        assert_eq!(reopened(&world).unwrap().0, Some(3));
    }
}
