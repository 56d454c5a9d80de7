//! Damage to a log's files: everything that is changed, cut off or gone is a fault that names the file, or nothing of it was needed, or
//! it is reported as being in doubt.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::error::{Fault, FaultKind};
use engine::log::plant::{Bug, plant};
use engine::log::{Batch, Claim, EntryRef, Log, LogOptions, PurgeLimits, SyncMethod};
use engine::origin::Origin;
use engine::rt::sim::{Options, World};

use crate::log_world::{DIR, End, filled, filled_until, open, options, process, reopened};

/// What is done to a byte that carries meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// One bit is flipped.
    Bit,
    /// It and the byte after it become something else.
    Bytes,
}

const RECORDS: u64 = 3;
const RECORD_END: u64 = 48 + 25 + 13 + 40;

/// Harms each byte that carries meaning in a small log, one at a time, and some of the padding. Every opening either is a fault
/// or finds everything. Only the last record of a log that was killed at once can be cut, if more than a bit of it is wrong, and then
/// it is reported.
fn sweep(end: End, harm: Harm) -> Result<(), String> {
    let world = World::new(1, Options::default());
    filled_until(&world, RECORDS, end);
    let disk = world.node(0).disk().files();
    let path = disk.iter().find(|path| path.ends_with("0000000000000001.seg")).expect("the first segment");
    let intact = world.node(0).disk().read(path);
    let witness = Path::new(DIR).join("END");
    let said = world.node(0).disk().read(&witness);
    // The header, the record of the opening, those of the batches, and perhaps one that vouches for them.
    let last_block = RECORDS + 1 + u64::from(end != End::Kill);
    for block in 0..=last_block {
        let meaning = match block {
            0 => 64,
            1 => 48,
            block if block > RECORDS + 1 => 48,
            _ => RECORD_END,
        };
        for within in (0..meaning).chain((meaning + 1..4096).step_by(997)) {
            let mut damaged = intact.clone();
            let place = (block * 4096 + within) as usize;
            match harm {
                Harm::Bit => damaged[place] ^= 1 << (within % 8),
                Harm::Bytes => damaged[place..place + 2].iter_mut().for_each(|byte| *byte ^= 0xa5),
            }
            world.node(0).disk().write(path, &damaged);
            // An opening that has found everything says so there.
            world.node(0).disk().write(&witness, &said);
            let found = reopened(&world).map_err(|fault| (fault.kind, fault.path));
            let cut = |claim| Ok((Some(RECORDS - 1), Some(claim)));
            let right = match (within < meaning, block) {
                (false, _) => found == Ok((Some(RECORDS), None)),
                (true, block) if block == last_block && harm == Harm::Bytes => match end {
                    // Of a header that is hit in both of its witnesses nothing is left.
                    End::Kill if (16..32).contains(&within) => {
                        matches!(found, Ok((Some(last), _)) if last == RECORDS - 1)
                    }
                    // Where the payload is hit, what is left still says whose entry it was.
                    End::Kill if within >= RECORD_END - 40 => {
                        found == cut(Some(Claim { first: RECORDS, last: RECORDS }))
                    }
                    End::Kill => matches!(found, Ok((Some(last), Some(_))) if last == RECORDS - 1),
                    End::Close | End::Idle => matches!(found, Ok((Some(RECORDS), None | Some(None)))),
                },
                (true, _) => found == Err((FaultKind::Corruption, path.clone())),
            };
            if !right {
                return Err(format!("byte {within} of block {block}: {found:?}"));
            }
        }
    }
    Ok(())
}

#[test]
fn damage_anywhere_is_a_fault_and_what_can_only_be_cut_is_reported() {
    for end in [End::Close, End::Idle, End::Kill] {
        for harm in [Harm::Bit, Harm::Bytes] {
            sweep(end, harm).unwrap_or_else(|what| panic!("{end:?} {harm:?}: {what}"));
        }
    }
}

/// Whether `run` fails with `bug` planted.
fn caught(bug: Bug, run: impl FnOnce() -> Result<(), String> + std::panic::UnwindSafe) -> bool {
    plant(Some(bug));
    let outcome = std::panic::catch_unwind(run);
    plant(None);
    !matches!(outcome, Ok(Ok(())))
}

#[test]
fn planted_bugs_are_caught_by_damage() {
    assert!(caught(Bug::SilentTruncation, || sweep(End::Close, Harm::Bit)));
    assert!(caught(Bug::FlipTakenForTorn, || sweep(End::Kill, Harm::Bit)));
    assert!(caught(Bug::NoVouching, || sweep(End::Close, Harm::Bit)));
    assert!(caught(Bug::NoVouching, || sweep(End::Idle, Harm::Bit)));
    assert!(caught(Bug::AnyLog, owned));
    assert!(caught(Bug::OlderCopy, owned));
    assert!(caught(Bug::ShortReplay, replayed));
}

/// What is cut is counted, and in doubt exactly if it may have held something.
#[test]
fn what_was_cut_is_counted_until_the_next_opening() {
    let world = World::new(3, Options::default());
    filled_until(&world, RECORDS, End::Kill);
    let path = Path::new(DIR).join("0000000000000001.seg");
    let mut damaged = world.node(0).disk().read(&path);
    let payload = ((RECORDS + 1) * 4096 + RECORD_END - 20) as usize;
    damaged[payload..payload + 8].fill(0xff);
    world.node(0).disk().write(&path, &damaged);
    let open = || {
        process(&world, |rt| async move {
            let (log, recovered) = open(&rt).await.unwrap();
            let (stats, said) = (log.stats(), log.cut().map(ToString::to_string));
            assert_eq!(said, recovered.cut.map(|cut| cut.to_string()));
            log.close().await.unwrap();
            ((stats.cut_bytes, stats.cut_entries, stats.cut_in_doubt), said)
        })
    };
    let (counted, said) = open();
    assert_eq!(counted, (4096, 1, true));
    let said = said.expect("something was cut");
    assert!(said.contains("claims entries 3..=3 of group 1") && said.contains("0001.seg"), "{said}");
    assert_eq!(open(), ((0, 0, false), None));
}

/// Damage that comes after the opening is met by the replay, which names it and does not end as if that were all.
fn replayed() -> Result<(), String> {
    let world = World::new(8, Options::default());
    filled(&world, 20);
    let node = world.node(0);
    let contents = node.disk().contents();
    let is_segment = |path: &Path| path.extension().is_some_and(|kind| kind == "seg");
    for (path, intact) in contents.iter().filter(|(path, _)| is_segment(path)) {
        let Some(last) = intact.chunks(4096).skip(1).rposition(|block| block.iter().any(|byte| *byte != 0))
        else {
            continue;
        };
        for block in 1..=last + 1 {
            let (disk, path) = (node.clone(), path.clone());
            let named = path.clone();
            let fault = process(&world, move |rt| async move {
                let (log, _) = open(&rt).await.unwrap();
                disk.disk().rot(&path, block as u64 * 4096 + 40, 0x77);
                let replayed = log.replay(async |_| Ok(())).await;
                replayed.err()
            });
            node.kill();
            node.disk().set_contents(&contents);
            let fault = fault.ok_or_else(|| format!("block {block} of {}: no word", named.display()))?;
            if fault.kind != FaultKind::Corruption || !fault.path.starts_with(DIR) {
                return Err(format!("block {block} of {}: {fault}", named.display()));
            }
        }
    }
    Ok(())
}

#[test]
fn a_replay_that_finds_less_than_there_was_is_a_fault() {
    replayed().unwrap();
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
                        assert_eq!(fault.path, *path, "{fault} at {eighths}/8");
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
    owned().unwrap();
}

fn owned() -> Result<(), String> {
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
    // A process that was killed between opening the log and reporting that to its owner.
    assert_eq!(opened(7, 1).unwrap(), 3);
    assert_eq!(opened(7, 2).unwrap(), 4);
    Ok(())
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

/// Where the segment with the newest records cannot be read, the ones before it ask for segments that were reused long ago.
#[test]
fn the_segment_that_is_wrong_is_named_and_not_one_that_left_long_ago() {
    let world = World::new(3, Options::default());
    process(&world, |rt| async move {
        let (log, _) = open(&rt).await.unwrap();
        for index in 1..=100 {
            let mut batch = Batch::new();
            batch.append(1, index, [EntryRef { term: 2, kind: 1, payload: &[index as u8; 40] }]);
            if index % 10 == 0 {
                batch.compact(1, index - 5, 2);
            }
            log.write(batch).await.unwrap();
            if index % 10 == 0 {
                log.purge(&PurgeLimits { segments_target: 2, ..PurgeLimits::default() }).await.unwrap();
            }
        }
        while log.stats().spare_segments < 2 {
            rt.sleep(Duration::from_millis(1)).await;
        }
    });
    world.node(0).kill();
    let contents = world.node(0).disk().contents();
    let segments: Vec<_> = contents.keys().cloned().collect();
    assert!(!segments[0].ends_with("0000000000000001.seg") && segments.len() >= 4, "{segments:?}");
    let mut named = 0;
    let mut try_with = |damaged: &std::collections::BTreeMap<PathBuf, Vec<u8>>, culprits: &[&PathBuf]| {
        world.node(0).disk().set_contents(damaged);
        match reopened(&world) {
            Ok((last, _)) => assert_eq!(last, Some(100), "{culprits:?}"),
            Err(fault) => {
                assert!(culprits.contains(&&fault.path), "{fault} where {culprits:?} are wrong");
                assert!(!fault.what.contains("missing") && !fault.what.contains("gone"), "{fault}");
                named += 1;
            }
        }
    };
    for (at, path) in segments.iter().enumerate() {
        for eighths in 0..8 {
            let mut damaged = contents.clone();
            damaged.insert(path.clone(), contents[path][..contents[path].len() * eighths / 8].to_vec());
            try_with(&damaged, &[path]);
        }
        for other in &segments[at + 1..] {
            let mut damaged = contents.clone();
            damaged.insert(path.clone(), contents[other].clone());
            damaged.insert(other.clone(), contents[path].clone());
            try_with(&damaged, &[path, other]);
        }
    }
    assert!(named >= 8 * segments.len(), "{named} cases were refused");
}
