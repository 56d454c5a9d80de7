//! A range out of one tree and into another: what is shown afterwards, what is refused, what a crash leaves.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use engine::error::{FaultKind, Shortage};
use engine::lsm::{Cf, Direction, ExportOptions, Ingest, Piece, Tree, TreeOptions, WriteBatch};
use engine::rt::Rt;
use engine::rt::sim::{self, Node, Options, World};

use super::world::{DIR, fill, key, open, tiny};

pub(super) const OTHER: &str = "/other";
const PIECES: &str = "/pieces";
/// The range that travels is `[key(FROM), key(TO))`.
pub(super) const FROM: u64 = 100;
pub(super) const TO: u64 = 300;

/// What travels; the caller's own family stays.
pub(super) const FAMILIES: &[Cf] = &[Cf::Default, Cf::Lock, Cf::Write];
const SMALL: ExportOptions = ExportOptions { families: FAMILIES, piece_bytes: 700, bytes_per_second: None };

type Pieces = Vec<(PathBuf, Piece)>;

async fn export(rt: &Rt, tree: &Tree, dir: &str) -> Pieces {
    rt.create_dir_all(Path::new(dir)).await.unwrap();
    let mut export = tree.export(&key(FROM), &key(TO), SMALL);
    let mut pieces = Vec::new();
    loop {
        let path = Path::new(dir).join(format!("{:03}", pieces.len()));
        let Some(piece) = export.next_piece(&path).await.unwrap() else { break };
        pieces.push((path, piece));
    }
    assert!(!rt.exists(&Path::new(dir).join(format!("{:03}", pieces.len()))).await.unwrap());
    rt.sync_dir(Path::new(dir)).await.unwrap();
    pieces
}

pub(super) fn ingest(pieces: Pieces) -> Ingest {
    Ingest {
        group: 7,
        applied: 50,
        state: Some(b"state".to_vec()),
        others: Vec::new(),
        families: FAMILIES,
        ranges: vec![(key(FROM), key(TO))],
        pieces,
    }
}

/// Another tree with `round` 2 of the range, in every family, exported.
async fn elsewhere(rt: &Rt) -> Pieces {
    let tree = other_tree(rt).await;
    let pieces = export(rt, &tree, PIECES).await;
    tree.close().await;
    assert!(pieces.len() > 4, "{} pieces", pieces.len());
    pieces
}

/// Another tree with `round` 2 of the range, in every family.
pub(super) async fn other_tree(rt: &Rt) -> Tree {
    let tree = Tree::open(rt, Path::new(OTHER), tiny()).await.unwrap();
    fill(&tree, 50, 400, 1);
    fill(&tree, FROM, TO, 2);
    let mut batch = WriteBatch::new();
    for n in (FROM..TO).step_by(2) {
        batch.put(Cf::Write, &key(n), b"committed");
    }
    for n in (FROM..TO).step_by(5) {
        batch.delete(Cf::Default, &key(n));
    }
    batch.put(Cf::Lock, &key(FROM), b"locked");
    batch.put(Cf::System, &key(FROM + 1), b"of the other tree's owner");
    batch.delete_range(Cf::Default, &key(TO - 10), &key(TO - 5));
    tree.write(&batch).unwrap();
    tree
}

/// What the range of [`elsewhere`] shows of a key.
pub(super) fn travelled(n: u64) -> Option<String> {
    let erased = n.is_multiple_of(5) || (TO - 10..TO - 5).contains(&n);
    (!erased).then(|| format!("value of {n} in round 2"))
}

pub(super) async fn shown(tree: &Tree) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    for cf in Cf::ALL {
        let mut iter = tree.iter(cf, b"", b"", Direction::Forward);
        while let Some((key, value)) = iter.next().await.unwrap() {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            rows.push((format!("{} {}", cf.name(), text(&key)), text(&value)));
        }
    }
    rows
}

/// What a tree shows that had `fill(0, 500, 1)` and took the range in.
pub(super) fn expected() -> Vec<(String, String)> {
    let text = |n: u64| String::from_utf8(key(n)).unwrap();
    let mut rows = Vec::new();
    for n in 0..500 {
        let value = match (FROM..TO).contains(&n) {
            true => travelled(n),
            false => Some(format!("value of {n} in round 1")),
        };
        rows.extend(value.map(|value| (format!("default {}", text(n)), value)));
    }
    rows.push((format!("lock {}", text(FROM)), "locked".into()));
    rows.extend((FROM..TO).step_by(2).map(|n| (format!("write {}", text(n)), "committed".into())));
    rows
}

/// A tree with other contents in the range, on all levels and in memory, range deletes among them.
pub(super) async fn inhabited(rt: &Rt) -> Tree {
    let tree = open(rt).await;
    fill(&tree, 0, 500, 0);
    tree.compact().await.unwrap();
    fill(&tree, 0, 500, 1);
    let mut batch = WriteBatch::new();
    batch.put(Cf::Lock, &key(FROM + 7), b"stays behind");
    batch.delete_range(Cf::Default, &key(FROM - 1), &key(TO + 1));
    batch.mark(7, 900);
    batch.describe(7, b"old state");
    tree.write(&batch).unwrap();
    tree.flush().await.unwrap();
    fill(&tree, FROM - 1, FROM, 1);
    fill(&tree, TO, TO + 1, 1);
    fill(&tree, FROM + 20, FROM + 40, 9);
    tree
}

#[test]
fn a_range_replaces_what_was_there_on_all_levels() {
    sim::run(1, move |rt| async move {
        let pieces = elsewhere(&rt).await;
        let tree = inhabited(&rt).await;
        let mut before = tree.iter(Cf::Default, &key(FROM + 20), &key(FROM + 30), Direction::Forward);
        before.next().await.unwrap().unwrap();
        assert_eq!(tree.flushed_index(7), 900);

        let mut batch = WriteBatch::new();
        batch.mark(8, 900);
        batch.describe(8, b"what it was");
        tree.write(&batch).unwrap();
        let others = vec![(8, 30, b"ended".to_vec())];
        tree.ingest(Ingest { others, ..ingest(pieces.clone()) }).await.unwrap();
        assert_eq!(shown(&tree).await, expected());
        assert_eq!((tree.flushed_index(8), tree.state(8).as_deref()), (30, Some(&b"ended"[..])), "the other");
        assert_eq!(tree.flushed_index(7), 50, "the mark is replaced, not kept because it is larger");
        assert_eq!(tree.state(7).as_deref(), Some(&b"state"[..]));
        let (key_before, value) = before.next().await.unwrap().unwrap();
        assert_eq!((&key_before[..], &value[..]), (&key(FROM + 21)[..], &b"value of 121 in round 9"[..]));
        drop(before);
        for n in 0..500 {
            let value = tree.get(Cf::Default, &key(n)).await.unwrap().map(|value| value.to_vec());
            let wanted =
                if (FROM..TO).contains(&n) { travelled(n) } else { Some(format!("value of {n} in round 1")) };
            assert_eq!(value, wanted.map(String::into_bytes), "{n}");
        }
        // The caller's files are its own, and later writes are newer.
        for (path, _) in &pieces {
            rt.remove(path).await.unwrap();
        }
        fill(&tree, FROM, FROM + 10, 3);
        let mut batch = WriteBatch::new();
        batch.delete_range(Cf::Default, &key(FROM + 10), &key(FROM + 20));
        tree.write(&batch).unwrap();
        let after = shown(&tree).await;
        assert!(after.iter().any(|(_, value)| value == "value of 101 in round 3"));
        for n in FROM + 10..FROM + 20 {
            assert_eq!(tree.get(Cf::Default, &key(n)).await.unwrap(), None, "{n}");
        }
        tree.compact().await.unwrap();
        assert_eq!(shown(&tree).await, after);
        tree.close().await;
        let tree = open(&rt).await;
        assert_eq!(shown(&tree).await, after);
        assert_eq!((tree.flushed_index(7), tree.state(7).as_deref()), (50, Some(&b"state"[..])));
        assert_eq!((tree.flushed_index(8), tree.state(8).as_deref()), (30, Some(&b"ended"[..])));
        tree.close().await;
    });
}

/// The owner's own rows lie in a family beside those that travel, under whatever keys.
#[test]
fn a_range_leaves_the_owners_family_alone() {
    sim::run(10, move |rt| async move {
        let pieces = elsewhere(&rt).await;
        assert!(
            pieces.iter().all(|(_, piece)| piece.cf != Cf::System),
            "what is its owner's does not travel"
        );
        let tree = inhabited(&rt).await;
        let mut batch = WriteBatch::new();
        batch.put(Cf::System, &key(FROM + 3), b"mine");
        tree.write(&batch).unwrap();
        tree.flush().await.unwrap();
        tree.ingest(ingest(pieces)).await.unwrap();
        assert_eq!(tree.get(Cf::System, &key(FROM + 3)).await.unwrap().as_deref(), Some(&b"mine"[..]));
        assert_eq!(tree.get(Cf::System, &key(FROM + 1)).await.unwrap(), None);
        tree.close().await;
    });
}

#[test]
fn an_empty_export_empties_the_range() {
    sim::run(2, move |rt| async move {
        let other = Tree::open(&rt, Path::new(OTHER), tiny()).await.unwrap();
        assert_eq!(export(&rt, &other, PIECES).await, []);
        let tree = inhabited(&rt).await;
        tree.ingest(ingest(Vec::new())).await.unwrap();
        let rows = shown(&tree).await;
        assert_eq!(rows.len() as u64, 500 - (TO - FROM));
        tree.check();
        other.close().await;
        tree.close().await;
    });
}

#[test]
fn the_old_range_of_a_region_may_be_another_one() {
    sim::run(3, move |rt| async move {
        let pieces = elsewhere(&rt).await;
        let tree = inhabited(&rt).await;
        let ranges = vec![(key(FROM), key(TO)), (key(450), Vec::new())];
        tree.ingest(Ingest { ranges, ..ingest(pieces) }).await.unwrap();
        let below =
            |(row, _): &(String, String)| row.as_str() < "default key000450" || !row.starts_with("default");
        assert_eq!(shown(&tree).await, expected().into_iter().filter(below).collect::<Vec<_>>());
        tree.close().await;
    });
}

/// Damages what is announced or what arrived, and sees it refused by name, with the tree as it was.
#[test]
fn a_piece_that_is_not_what_was_announced_is_refused() {
    let world = World::new(4, Options::default());
    let node = world.node(0);
    let on = node.clone();
    let running = node.start(0, move |rt| async move {
        let pieces = elsewhere(&rt).await;
        let tree = inhabited(&rt).await;
        tree.flush().await.unwrap();
        // Files that nothing shows any more are removed in the background.
        rt.sleep(Duration::from_secs(2)).await;
        let (before, files) = (shown(&tree).await, tables(&on));
        let (path, first) = pieces[0].clone();
        let bytes = on.disk().read(&path);
        let mut refused = 0;
        let mut check = async |ingest: Ingest, kind: FaultKind, what: &str| {
            let fault = tree.ingest(ingest).await.unwrap_err();
            assert_eq!((fault.kind, fault.path.starts_with(PIECES)), (kind, true), "{what}: {fault}");
            assert!(tree.fault().is_none(), "{what}: the tree goes on");
            refused += 1;
        };
        for at in (0..bytes.len() as u64).step_by(97) {
            on.disk().rot(&path, at, 0x20);
            let kind = FaultKind::Corruption;
            check(ingest(pieces.clone()), kind, &format!("a flipped bit at {at}")).await;
            on.disk().rot(&path, at, 0x20);
        }
        let said = |change: &dyn Fn(&mut Piece)| {
            let mut changed = pieces.clone();
            change(&mut changed[0].1);
            ingest(changed)
        };
        let (foreign, corrupt) = (FaultKind::Foreign, FaultKind::Corruption);
        check(said(&|piece| piece.file_bytes += 4096), corrupt, "another length").await;
        check(said(&|piece| piece.body_crc ^= 1), corrupt, "another checksum").await;
        check(said(&|piece| piece.entries += 1), foreign, "other entries").await;
        check(said(&|piece| piece.identity ^= 1), foreign, "another identity").await;
        check(said(&|piece| piece.cf = Cf::Lock), foreign, "another family").await;
        check(said(&|piece| piece.cf = Cf::System), foreign, "a family of the owner's").await;
        check(said(&|piece| piece.start = key(FROM - 1)), foreign, "before the range").await;
        check(said(&|piece| piece.end.clear()), foreign, "to the last key").await;
        check(said(&|piece| piece.end = key(TO)), foreign, "over its neighbours").await;
        let twice = pieces.iter().cloned().chain([(path.clone(), first)]).collect();
        check(ingest(twice), foreign, "a piece twice").await;
        on.disk().write(&path, &bytes[..bytes.len() - 4096]);
        check(ingest(pieces.clone()), corrupt, "cut off").await;
        rt.remove(&path).await.unwrap();
        check(ingest(pieces.clone()), FaultKind::Denied, "gone").await;
        assert!(refused > 30, "{refused}");
        assert_eq!((shown(&tree).await, tables(&on)), (before, files));
        assert_eq!(tree.flushed_index(7), 900);
        tree.close().await;
    });
    world.block_on(running).unwrap();
}

/// A table of a running tree has sequence numbers of its own, which mean nothing elsewhere.
#[test]
fn a_table_that_was_not_exported_is_refused() {
    let world = World::new(5, Options::default());
    let node = world.node(0);
    let on = node.clone();
    let running = node.start(0, move |rt| async move {
        let other = Tree::open(&rt, Path::new(OTHER), tiny()).await.unwrap();
        fill(&other, FROM, FROM + 20, 2);
        other.flush().await.unwrap();
        let in_other =
            |path: &PathBuf| path.starts_with(OTHER) && path.extension().is_some_and(|e| e == "table");
        let path = on.disk().files().into_iter().find(in_other).unwrap();
        let report = footer_of(&on.disk().read(&path));
        let piece = Piece { start: key(FROM), end: key(FROM + 20), ..report };
        let tree = inhabited(&rt).await;
        let fault = tree.ingest(ingest(vec![(path, piece)])).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Foreign, "{fault}");
        assert!(fault.what.contains("no export"), "{fault}");
        other.close().await;
        tree.close().await;
    });
    world.block_on(running).unwrap();
}

/// What the footer of a table says, by its drawing.
fn footer_of(bytes: &[u8]) -> Piece {
    let footer = &bytes[bytes.len() - 80..];
    let long = |at: usize| u64::from_le_bytes(*footer[at..].first_chunk().unwrap());
    Piece {
        cf: Cf::Default,
        start: Vec::new(),
        end: Vec::new(),
        file_bytes: bytes.len() as u64,
        entries: long(24),
        identity: long(48),
        body_crc: u32::from_le_bytes(*footer[60..].first_chunk().unwrap()),
    }
}

fn tables(node: &Node) -> Vec<PathBuf> {
    let files = node.disk().files();
    files
        .into_iter()
        .filter(|path| path.starts_with(DIR) && path.extension().is_some_and(|e| e == "table"))
        .collect()
}

/// Cuts the power at every change on the disk while a range is taken in: it is as before or as after, and opening again and asking
/// again works in both cases.
#[test]
fn a_power_cut_leaves_the_old_range_or_the_new_one() {
    let (mut old, mut new) = (0, 0);
    for cut in 0.. {
        let world = World::new(600 + cut, Options::default());
        let node = world.node(0);
        let (on, answered) = (node.clone(), Rc::new(Cell::new(false)));
        let (kept, done) = (Rc::new(RefCell::new(Pieces::new())), answered.clone());
        let pieces = kept.clone();
        let running = node.start(0, move |rt| async move {
            let exported = elsewhere(&rt).await;
            pieces.borrow_mut().clone_from(&exported);
            let tree = inhabited(&rt).await;
            tree.flush().await.unwrap();
            on.disk().stop_at(on.disk().changes() + cut);
            tree.ingest(ingest(exported)).await.unwrap();
            done.set(true);
        });
        world.run_for(Duration::from_secs(2));
        node.crash();
        drop(running);
        let pieces = kept.borrow().clone();
        let (on, was_answered) = (node.clone(), answered.get());
        let after = node.start(0, move |rt| async move {
            let tree = open(&rt).await;
            let rows = shown(&tree).await;
            let is_new = tree.flushed_index(7) == 50;
            assert_eq!(rows == expected(), is_new, "mark and data belong together");
            assert!(is_new || (!was_answered && tree.flushed_index(7) == 900), "what was answered is there");
            if !is_new {
                let in_range = |(row, _): &(String, String)| {
                    row.as_str() >= "default key000100" && row.as_str() < "default key000300"
                };
                assert_eq!(rows.iter().filter(|row| in_range(row)).count(), 20, "all of the old state");
            }
            rt.sleep(Duration::from_secs(2)).await;
            let shown_files = tables(&on).len() as u64;
            let levels: u64 = tree.stats().levels.iter().map(|(tables, _)| tables).sum();
            assert!(shown_files <= levels, "names that no edit knows are gone");
            tree.ingest(ingest(pieces)).await.unwrap();
            assert_eq!(shown(&tree).await, expected());
            tree.close().await;
            is_new
        });
        match world.block_on(after).unwrap() {
            true => new += 1,
            false => old += 1,
        }
        if answered.get() {
            break;
        }
    }
    assert!(old > 5 && new > 0, "{old} old, {new} new");
}

#[test]
fn on_a_full_disk_it_waits_and_then_happens() {
    let world = World::new(7, Options::default());
    let node = world.node(0);
    let on = node.clone();
    let running = node.start(0, move |rt| async move {
        let pieces = elsewhere(&rt).await;
        let tree = inhabited(&rt).await;
        tree.compact().await.unwrap();
        rt.sleep(Duration::from_secs(2)).await;
        fill(&tree, FROM + 20, FROM + 40, 9);
        // What is in memory has to be flushed for it.
        on.disk().leave(0);
        let into = tree.clone();
        let ingesting = rt.spawn(async move { into.ingest(ingest(pieces)).await });
        rt.sleep(Duration::from_secs(30)).await;
        assert_eq!((tree.shortage(), tree.flushed_index(7)), (Some(Shortage::Space), 900));
        on.disk().set_capacity(u64::MAX);
        ingesting.await.unwrap();
        assert_eq!(shown(&tree).await, expected());
        tree.close().await;
    });
    world.block_on(running).unwrap();
}

#[test]
fn an_export_that_lacks_space_can_go_on() {
    let world = World::new(8, Options::default());
    let node = world.node(0);
    let on = node.clone();
    let running = node.start(0, move |rt| async move {
        let tree =
            Tree::open(&rt, Path::new(OTHER), TreeOptions { compress: false, ..tiny() }).await.unwrap();
        fill(&tree, FROM, TO, 2);
        tree.flush().await.unwrap();
        rt.create_dir_all(Path::new(PIECES)).await.unwrap();
        let mut export = tree.export(&key(FROM), &key(TO), SMALL);
        let (mut entries, mut failed, mut files) = (0, 0, 0);
        loop {
            let path = Path::new(PIECES).join(files.to_string());
            if files % 2 == 1 && failed < files {
                on.disk().leave(0);
            }
            match export.next_piece(&path).await {
                Ok(Some(piece)) => (entries, files) = (entries + piece.entries, files + 1),
                Ok(None) => break,
                Err(fault) => {
                    assert!(fault.is_of_room() && !rt.exists(&path).await.unwrap(), "{fault}");
                    on.disk().set_capacity(u64::MAX);
                    failed = files;
                }
            }
        }
        assert!(failed > 0 && files > 3, "{failed} {files}");
        assert_eq!(entries, TO - FROM, "nothing twice and nothing left out");
        tree.close().await;
    });
    world.block_on(running).unwrap();
}

#[test]
fn a_closed_tree_takes_nothing_in() {
    sim::run(9, move |rt| async move {
        let pieces = elsewhere(&rt).await;
        let tree = inhabited(&rt).await;
        let closed = tree.clone();
        tree.close().await;
        assert_eq!(closed.ingest(ingest(pieces)).await.unwrap_err().kind, FaultKind::Poisoned);
    });
}
