//! Flipped bits, lost files, failing disks: a clear fault for what is damaged, and everything else goes on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use engine::error::FaultKind;
use engine::lsm::{Cf, Direction, Pressure, Tree, WriteBatch, inspect};
use engine::rt::OpenMode;
use engine::rt::sim::{DiskFault, DiskOp, Node, Options, World};

use super::world::{DIR, fill, key, open, tiny};

const KEYS: u64 = 400;

/// A tree of a few tables, closed. Gives the world and the paths of its tables.
pub(super) fn prepared(seed: u64) -> (World, Vec<PathBuf>) {
    prepared_with(seed, KEYS)
}

fn prepared_with(seed: u64, keys: u64) -> (World, Vec<PathBuf>) {
    let world = World::new(seed, Options::default());
    let running = world.node(0).start(0, move |rt| async move {
        let tree = open(&rt).await;
        fill(&tree, 0, keys, 1);
        tree.compact().await.unwrap();
        tree.close().await;
    });
    world.block_on(running).unwrap();
    world.node(0).kill();
    let tables = files(&world.node(0), ".table");
    assert!(tables.len() > 1);
    (world, tables)
}

pub(super) fn files(node: &Node, ending: &str) -> Vec<PathBuf> {
    node.disk().files().into_iter().filter(|path| path.to_string_lossy().ends_with(ending)).collect()
}

/// Every key is right or a fault that names the damaged file; says how many were faults.
pub(super) async fn read_around(tree: &Tree, damaged: &Path) -> u64 {
    let mut faults = 0;
    for n in 0..KEYS {
        match tree.get(Cf::Default, &key(n)).await {
            Ok(value) => {
                let value = value.unwrap_or_else(|| panic!("key {n} vanished"));
                assert_eq!(&value[..], format!("value of {n} in round 1").as_bytes());
            }
            Err(fault) => {
                assert_eq!((fault.kind, fault.path.as_path()), (FaultKind::Corruption, damaged));
                assert!(fault.what.contains("offset") || fault.what.contains('('), "{}", fault.what);
                faults += 1;
            }
        }
    }
    faults
}

/// One flipped bit anywhere in a table costs at most reads of that table, and never a wrong answer.
#[test]
fn a_flipped_bit_never_changes_an_answer() {
    let mut noticed = 0;
    for round in 0..40u64 {
        let (world, tables) = prepared(7);
        let node = world.node(0);
        let victim = tables[(round % tables.len() as u64) as usize].clone();
        let len = node.disk().read(&victim).len() as u64;
        node.disk().rot(&victim, round * 997 % len, 1 << (round % 8));
        let path = victim.clone();
        let running = node.start(0, move |rt| async move {
            let tree = open(&rt).await;
            let faults = read_around(&tree, &path).await;
            assert!(faults < KEYS, "the other tables are well");
            tree.close().await;
            faults
        });
        noticed += u64::from(world.block_on(running).unwrap() > 0);
    }
    // The rest hit padding, filters that still say "maybe", or range deletes that the manifest repeats.
    assert!(noticed > 20, "{noticed} of 40 flips were noticed");
}

#[test]
fn a_scan_over_damage_fails_and_a_scan_beside_it_does_not() {
    let (world, tables) = prepared(8);
    let node = world.node(0);
    node.disk().rot(&tables[0], 100, 1);
    let running = node.start(0, move |rt| async move {
        let tree = open(&rt).await;
        let mut all = tree.iter(Cf::Default, b"", b"", Direction::Forward);
        let mut faults = 0;
        loop {
            match all.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    faults += 1;
                    break;
                }
            }
        }
        assert_eq!(faults, 1);
        let mut last = tree.iter(Cf::Default, &key(KEYS - 5), b"", Direction::Reverse);
        assert_eq!(last.next().await.unwrap().unwrap().0, key(KEYS - 1));
        tree.close().await;
    });
    world.block_on(running).unwrap();
}

#[test]
fn a_lost_table_is_named_at_opening() {
    let (world, tables) = prepared(9);
    let lost = tables[1].clone();
    let running = world.node(0).start(0, move |rt| async move {
        rt.remove(&lost).await.unwrap();
        let fault = Tree::open(&rt, Path::new(DIR), tiny()).await.unwrap_err();
        assert_eq!((fault.kind, fault.path), (FaultKind::Corruption, lost));
    });
    world.block_on(running).unwrap();
}

#[test]
fn a_table_of_another_length_is_named_at_opening() {
    for grow in [false, true] {
        let (world, tables) = prepared(9);
        let victim = tables[1].clone();
        let mut bytes = world.node(0).disk().read(&victim);
        if grow {
            bytes.extend([0; 4096])
        } else {
            bytes.truncate(bytes.len() - 4096)
        }
        world.node(0).disk().write(&victim, &bytes);
        let running = world.node(0).start(0, move |rt| async move {
            let fault = Tree::open(&rt, Path::new(DIR), tiny()).await.unwrap_err();
            assert_eq!((fault.kind, fault.path), (FaultKind::Corruption, victim));
            assert!(fault.what.contains("bytes and the manifest says"), "{}", fault.what);
        });
        world.block_on(running).unwrap();
    }
}

/// A sound table of another store, of the same name, length, keys and values: every read of it is a fault that names it.
#[test]
fn a_table_of_another_store_is_noticed() {
    let ((world, tables), (other, _)) = (prepared(15), prepared(16));
    let (victim, node) = (tables[0].clone(), world.node(0));
    let (own, foreign) = (node.disk().read(&victim), other.node(0).disk().read(&victim));
    assert!(own.len() == foreign.len() && own != foreign);
    node.disk().write(&victim, &foreign);
    let running = node.start(0, move |rt| async move {
        let tree = open(&rt).await;
        assert!(read_around(&tree, &victim).await > 0);
        tree.close().await;
    });
    world.block_on(running).unwrap();
}

/// Two sound tables of one tree under each other's names. Where their lengths differ the opening names one of them; where these are the
/// same, every read of either is a fault that names it.
#[test]
fn two_tables_of_a_tree_that_are_exchanged_are_noticed() {
    const MANY: u64 = 2000;
    let (world, tables) = prepared_with(17, MANY);
    let node = world.node(0);
    let content: Vec<Vec<u8>> = tables.iter().map(|table| node.disk().read(table)).collect();
    let (mut by_length, mut by_reads) = (0, 0);
    for (one, other) in (0..tables.len()).flat_map(|other| (0..other).map(move |one| (one, other))) {
        node.disk().write(&tables[one], &content[other]);
        node.disk().write(&tables[other], &content[one]);
        let (first, second) = (tables[one].clone(), tables[other].clone());
        let same_length = content[one].len() == content[other].len();
        let running = node.start(0, move |rt| async move {
            let tree = match Tree::open(&rt, Path::new(DIR), tiny()).await {
                Ok(tree) => tree,
                Err(fault) => {
                    assert!(!same_length && (fault.path == first || fault.path == second), "{fault}");
                    assert_eq!(fault.kind, FaultKind::Corruption);
                    return false;
                }
            };
            assert!(same_length, "a table of another length is opened");
            let named: BTreeSet<_> = tree.check_tables().await.into_iter().map(|fault| fault.path).collect();
            assert_eq!(named, BTreeSet::from([first.clone(), second.clone()]));
            let mut faults = BTreeSet::new();
            for n in 0..MANY {
                match tree.get(Cf::Default, &key(n)).await {
                    Ok(value) => assert_eq!(value.unwrap(), format!("value of {n} in round 1").as_bytes()),
                    Err(fault) => _ = faults.insert(fault.path),
                }
            }
            assert_eq!(faults, BTreeSet::from([first, second]));
            tree.close().await;
            true
        });
        match world.block_on(running).unwrap() {
            true => by_reads += 1,
            false => by_length += 1,
        }
        node.kill();
        node.disk().write(&tables[one], &content[one]);
        node.disk().write(&tables[other], &content[other]);
    }
    assert!(by_reads > 0, "{by_reads} pairs of one length, {by_length} of two");
}

#[test]
fn a_damaged_manifest_is_never_guessed_at() {
    let (world, _) = prepared(10);
    let node = world.node(0);
    let manifest = node.disk().files().into_iter().find(|path| path.to_string_lossy().contains("MANIFEST"));
    let manifest = manifest.unwrap();
    node.disk().rot(&manifest, 60, 4);
    let running = node.start(0, move |rt| async move {
        let fault = Tree::open(&rt, Path::new(DIR), tiny()).await.unwrap_err();
        assert_eq!((fault.kind, fault.path), (FaultKind::Corruption, manifest));
    });
    world.block_on(running).unwrap();
}

#[test]
fn tables_without_a_manifest_are_not_an_empty_tree() {
    let (world, _) = prepared(11);
    let running = world.node(0).start(0, |rt| async move {
        rt.remove(&Path::new(DIR).join("CURRENT")).await.unwrap();
        let fault = Tree::open(&rt, Path::new(DIR), tiny()).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Corruption);
    });
    world.block_on(running).unwrap();
}

/// A failed write or sync below a flush: nothing more is accepted, reads go on, and the log loses nothing. It does not help
/// that a sync or the write of an edit says that there is no space, because what it has left on disk is unknown.
#[test]
fn a_failed_flush_poisons_and_reads_go_on() {
    for (case, seed) in [("write", 20), ("sync", 21), ("manifest", 22), ("full", 23), ("edit", 24)] {
        let (world, _) = prepared(seed);
        let node = world.node(0);
        let disk_of = node.clone();
        let running = node.start(0, move |rt| async move {
            let tree = open(&rt).await;
            let mut batch = WriteBatch::new();
            batch.put(Cf::Default, b"new", b"value");
            batch.mark(1, 77);
            tree.write(&batch).unwrap();
            match case {
                "write" => disk_of.disk().fail_next_write(".table"),
                "sync" => disk_of.disk().fail_next_sync(".table"),
                "manifest" => disk_of.disk().fail_next_sync("MANIFEST"),
                "full" => disk_of.disk().fail(DiskFault::on(DiskOp::Sync).path(".table").errno(libc::ENOSPC)),
                _ => disk_of.disk().fail(DiskFault::on(DiskOp::Write).path("MANIFEST").errno(libc::ENOSPC)),
            }
            let fault = tree.flush().await.unwrap_err();
            assert_eq!(fault.kind, FaultKind::Io, "{case}: {fault}");
            assert_eq!(tree.fault().unwrap().kind, FaultKind::Io);
            assert_eq!(tree.pressure(), Pressure::Stop);
            assert!(tree.write(&batch).is_err());
            assert_eq!(tree.flushed_index(1), 0);
            assert_eq!(&tree.get(Cf::Default, b"new").await.unwrap().unwrap()[..], b"value");
            assert_eq!(read_around(&tree, Path::new("")).await, 0);
            tree.close().await;
        });
        world.block_on(running).unwrap();
        node.kill();
        node.disk().heal();
        let running = node.start(0, move |rt| async move {
            let tree = open(&rt).await;
            // The edit may have reached the disk although its sync failed; never the mark without the data.
            let known = tree.flushed_index(1) == 77;
            assert_eq!(tree.get(Cf::Default, b"new").await.unwrap().is_some(), known, "{case}");
            assert_eq!(read_around(&tree, Path::new("")).await, 0);
            tree.close().await;
        });
        world.block_on(running).unwrap();
    }
}

#[test]
fn files_that_no_manifest_names_are_removed_at_opening() {
    let (world, tables) = prepared(12);
    let node = world.node(0);
    let running = node.start(0, |rt| async move {
        let orphan = Path::new(DIR).join("0000009999.table");
        rt.open(&orphan, OpenMode::Create).await.unwrap().close().await.unwrap();
        open(&rt).await.close().await;
    });
    world.block_on(running).unwrap();
    assert_eq!(files(&node, ".table"), tables);
}

/// The offline reader says what is wrong with a table, for every byte that can be wrong.
#[test]
fn inspecting_finds_every_flipped_byte() {
    let (world, tables) = prepared(13);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("0000000001.table");
    let good = world.node(0).disk().read(&tables[0]);
    std::fs::write(&path, &good).unwrap();
    let report = inspect::table(&path).unwrap();
    assert_eq!(report.entries, report.found.entries);
    assert!(report.entries > 10 && report.blocks > 1);
    for at in (0..good.len()).step_by(37) {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        std::fs::write(&path, &bad).unwrap();
        let fault = inspect::table(&path).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Corruption, "byte {at}");
    }
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    assert!(inspect::table(&path).is_err());
}
