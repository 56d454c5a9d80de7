//! Files that are removed or replaced under a running log or tree are missed; those that either renames or removes itself are not.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use engine::error::{Fault, FaultKind, Result};
use engine::log::{Batch, EntryRef, Log, PurgeLimits};
use engine::lsm::{Cf, Tree, TreeOptions, WriteBatch};
use engine::rt::sim::{DiskFault, DiskOp, Options, World};
use engine::rt::{OpenMode, Rt};

use crate::log_world::{self, process};

const TREE: &str = "/tree";

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Remove,
    /// A copy of it takes its place.
    Replace,
}

async fn harm(rt: &Rt, path: &Path, harm: Harm) {
    match harm {
        Harm::Remove => rt.remove(path).await.unwrap(),
        Harm::Replace => {
            let (copy, bytes) = (path.with_extension("copy"), rt.read_small(path).await.unwrap());
            let file = rt.open(&copy, OpenMode::Create).await.unwrap();
            let mut buf = rt.alloc(bytes.len());
            buf.copy_from_slice(&bytes);
            file.write_at(buf, 0).await.unwrap();
            file.close().await.unwrap();
            rt.rename(&copy, path).await.unwrap();
        }
    }
}

fn assert_names(found: Result<()>, path: &Path, harm: Harm) {
    let Fault { kind, path: named, what } = found.expect_err("it is not there any more");
    let why = match harm {
        Harm::Remove => "the file is no longer there",
        Harm::Replace => "another file is in its place",
    };
    assert_eq!((kind, named.as_path()), (FaultKind::Denied, path));
    assert!(what.starts_with(why) && what.contains("then start again"), "{harm:?}: {what}");
}

fn append(group: u64, index: u64) -> Batch {
    let mut batch = Batch::new();
    batch.append(group, index, [EntryRef { term: 1, kind: 1, payload: &[7; 5000] }]);
    batch
}

/// The files of the directory whose names end like this, in order.
async fn names(rt: &Rt, dir: &str, ending: &str) -> Vec<PathBuf> {
    let names = rt.read_dir(Path::new(dir)).await.unwrap().into_iter();
    names.filter(|name| name.ends_with(ending)).map(|name| Path::new(dir).join(name)).collect()
}

#[test]
fn a_log_misses_each_of_its_files() {
    let world = World::new(1, Options::default());
    // A segment that is full, the one that is written, the two that are prepared, and END.
    let files = process(&world, |rt| async move {
        let log = filled(&rt).await;
        let files = [names(&rt, log_world::DIR, ".seg").await, names(&rt, log_world::DIR, "END").await];
        log.close().await.unwrap();
        files.concat()
    });
    assert_eq!(files.len(), 5, "{files:?}");
    for (at, path) in files.into_iter().enumerate() {
        for how in [Harm::Remove, Harm::Replace] {
            let world = World::new(2 + at as u64, Options::default());
            let path = path.clone();
            process(&world, move |rt| async move {
                let log = filled(&rt).await;
                log.look_at_files().await.unwrap();
                harm(&rt, &path, how).await;
                assert_names(log.look_at_files().await, &path, how);
                log.close().await.unwrap();
            });
        }
    }
}

/// A log with a full segment, two spares, and nothing to do.
async fn filled(rt: &Rt) -> Log {
    let (log, _) = log_world::open(rt).await.unwrap();
    for index in 1..=4 {
        log.write(append(1, index)).await.unwrap();
    }
    while log.stats().spare_segments < 2 {
        rt.sleep(Duration::from_millis(1)).await;
    }
    log
}

/// A look may take so long that files go and come meanwhile.
fn with_slow_looks(seed: u64) -> World {
    let world = World::new(seed, Options::default());
    world.node(0).disk().set_options(|options| options.read_ns = (50_000, 20_000_000));
    world
}

/// Looks again and again until `over`. How often.
async fn keep_looking(rt: Rt, over: Rc<Cell<bool>>, look: impl AsyncFn() -> Result<()>) -> u64 {
    let mut looks = 0;
    while !over.get() {
        look().await.unwrap_or_else(|fault| panic!("look {looks}: {fault}"));
        looks += 1;
        rt.sleep(Duration::from_micros(10)).await;
    }
    looks
}

/// Shortages that pass, now and then, so that segments and manifests that were begun are taken back.
fn short_now_and_then(world: &World) {
    let ops = [(DiskOp::Name, libc::EMFILE), (DiskOp::SyncDir, libc::EMFILE), (DiskOp::Write, libc::ENOMEM)];
    let (op, errno) = ops[world.below(3) as usize];
    world.node(0).disk().fail(DiskFault::on(op).errno(errno).after(world.below(6)).times(1));
}

#[test]
fn a_log_that_goes_from_segment_to_segment_misses_none() {
    let (mut looked, mut gone) = (0, 0);
    for seed in 0..20 {
        let world = with_slow_looks(seed);
        let (opened, ended) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(None)));
        let (open, end) = (opened.clone(), ended.clone());
        let running = world.node(0).start(0, move |rt| async move {
            let (log, _) = log_world::open(&rt).await.unwrap();
            open.set(true);
            let over = Rc::new(Cell::new(false));
            let looking = rt.spawn({
                let (rt, log, over) = (rt.clone(), log.clone(), over.clone());
                async move { keep_looking(rt, over, async || log.look_at_files().await).await }
            });
            let mut gone = 0;
            let limits = PurgeLimits { segments_target: 2, ..PurgeLimits::default() };
            for index in 1..=400u64 {
                let mut batch = append(2, index);
                batch.compact(2, index.saturating_sub(3), 1);
                // What is short passes.
                while log.write(batch.clone()).await.is_err() {
                    rt.sleep(Duration::from_millis(1)).await;
                }
                gone += log.purge(&limits).await.map_or(0, |purged| purged.segments);
            }
            over.set(true);
            let looks = looking.await;
            log.close().await.unwrap();
            end.set(Some((looks, gone)));
        });
        // The opening is left alone.
        world.run_until(Duration::from_secs(5), || opened.get());
        for _ in 0..200 {
            short_now_and_then(&world);
            world.run_for(Duration::from_micros(world.below(3_000)));
        }
        world.node(0).disk().heal();
        world.block_on(running).unwrap();
        let (looks, segments) = ended.get().unwrap();
        looked += looks;
        gone += segments;
    }
    assert!(looked > 500 && gone > 1_000, "{looked} looks, {gone} segments went");
}

fn tiny() -> TreeOptions {
    TreeOptions {
        memtable_bytes: 9 << 10,
        cache_bytes: 16 << 10,
        block_bytes: 256,
        table_bytes: 8 << 10,
        l0_tables: 2,
        compaction_bytes: 6 << 10,
        open_tables_max: 8,
        level_base_bytes: 24 << 10,
        level_ratio: 2,
        ..TreeOptions::default()
    }
}

async fn put(tree: &Tree, from: u64, to: u64, round: u64) {
    for n in from..to {
        let mut batch = WriteBatch::new();
        batch.put(Cf::Default, format!("key{n:05}").as_bytes(), format!("value {round} of {n}").as_bytes());
        tree.write(&batch).unwrap();
    }
    tree.flush().await.unwrap();
}

#[test]
fn a_tree_misses_its_manifest_and_its_tables() {
    for (at, ending) in ["MANIFEST", "CURRENT", ".table"].into_iter().enumerate() {
        for how in [Harm::Remove, Harm::Replace] {
            let world = World::new(at as u64, Options::default());
            process(&world, move |rt| async move {
                let tree = Tree::open(&rt, Path::new(TREE), tiny()).await.unwrap();
                put(&tree, 0, 200, 1).await;
                tree.compact().await.unwrap();
                // They are open then.
                for n in 0..200 {
                    tree.get(Cf::Default, format!("key{n:05}").as_bytes()).await.unwrap().unwrap();
                }
                tree.look_at_files().await.unwrap();
                let all = names(&rt, TREE, "").await;
                let meant: Vec<_> =
                    all.into_iter().filter(|path| path.to_string_lossy().contains(ending)).collect();
                let path = meant.first().unwrap();
                match (ending, how) {
                    ("CURRENT", Harm::Replace) => {
                        rt.replace_small(path, b"MANIFEST-0000000000000001\n").await.unwrap();
                        let fault = tree.look_at_files().await.expect_err("it names another manifest");
                        assert!(fault.path == *path && fault.what.contains("and not \"MANIFEST-"), "{fault}");
                    }
                    (_, how) => {
                        harm(&rt, path, how).await;
                        assert_names(tree.look_at_files().await, path, how);
                    }
                }
                tree.close().await;
            });
        }
    }
}

/// Of many tables some are looked at at a time, and each in its turn.
#[test]
fn every_table_is_looked_at_in_turn() {
    let world = World::new(7, Options::default());
    process(&world, |rt| async move {
        let tree = Tree::open(&rt, Path::new(TREE), tiny()).await.unwrap();
        put(&tree, 0, 20_000, 1).await;
        tree.compact().await.unwrap();
        let tables = names(&rt, TREE, ".table").await;
        assert!(tables.len() > 40, "{} tables", tables.len());
        for table in &tables {
            let away = table.with_extension("away");
            rt.rename(table, &away).await.unwrap();
            let mut looks = 0;
            while tree.look_at_files().await.is_ok() {
                looks += 1;
                assert!(looks <= tables.len() / 32 + 1, "{} is not missed", table.display());
            }
            rt.rename(&away, table).await.unwrap();
        }
        tree.close().await;
    });
}

#[test]
fn a_tree_that_flushes_compacts_and_begins_new_manifests_misses_nothing() {
    let (mut looked, mut manifests) = (0, 0);
    for seed in 0..6 {
        let world = with_slow_looks(seed);
        let node = world.node(0);
        let (opened, ended) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(None)));
        let (open, end) = (opened.clone(), ended.clone());
        let running = node.start(0, move |rt| async move {
            let tree = Tree::open(&rt, Path::new(TREE), tiny()).await.unwrap();
            open.set(true);
            let over = Rc::new(Cell::new(false));
            let looking = rt.spawn({
                let (rt, tree, over) = (rt.clone(), tree.clone(), over.clone());
                async move { keep_looking(rt, over, async || tree.look_at_files().await).await }
            });
            let (mut last, mut manifests) = (Vec::new(), 0);
            for round in 0..300 {
                put(&tree, round % 5 * 20, round % 5 * 20 + 60, round).await;
                // The name of a manifest is gone where the next one is in force.
                let all = names(&rt, TREE, "").await;
                let now: Vec<_> =
                    all.into_iter().filter(|path| path.to_string_lossy().contains("MANIFEST")).collect();
                manifests += u64::from(now != last);
                last = now;
            }
            over.set(true);
            end.set(Some((looking.await, manifests)));
            tree.close().await;
        });
        // The opening is left alone.
        world.run_until(Duration::from_secs(5), || opened.get());
        for _ in 0..200 {
            short_now_and_then(&world);
            world.run_for(Duration::from_micros(world.below(20_000)));
        }
        node.disk().heal();
        world.block_on(running).unwrap();
        let (looks, begun) = ended.get().unwrap();
        looked += looks;
        manifests += begun;
    }
    assert!(looked > 500 && manifests > 12, "{looked} looks, {manifests} manifests");
}

/// A manifest that could not be begun leaves the one before in force, which is looked after as before.
#[test]
fn a_tree_that_cannot_begin_a_new_manifest_misses_the_one_in_force() {
    let world = World::new(9, Options::default());
    let disk = world.node(0);
    process(&world, move |rt| async move {
        let tree = Tree::open(&rt, Path::new(TREE), tiny()).await.unwrap();
        disk.disk().fail(DiskFault::on(DiskOp::Name).path("CURRENT.tmp").errno(libc::EMFILE).always());
        let mut round = 0;
        while tree.shortage().is_none() {
            put(&tree, 0, 60, round).await;
            round += 1;
            // A manifest that has become too long is begun anew after the flush.
            rt.sleep(Duration::from_millis(20)).await;
        }
        tree.look_at_files().await.unwrap();
        let named = rt.read_small(&Path::new(TREE).join("CURRENT")).await.unwrap();
        let in_force = Path::new(TREE).join(std::str::from_utf8(&named).unwrap().trim_end());
        rt.remove(&in_force).await.unwrap();
        assert_names(tree.look_at_files().await, &in_force, Harm::Remove);
        disk.disk().heal();
        tree.close().await;
    });
}
