//! The names of a tree's files through kills and power cuts: what a process goes on with has a name that lasts, whoever gave it that name.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use engine::lsm::{Cf, Tree, WriteBatch};
use engine::rt::Rt;
use engine::rt::sim::{CrashMode, DiskFault, DiskOp, Options, World};

use super::world::tiny;

/// Below a directory that the tree has to make, too.
const DIR: &str = "/data/store/tree";

/// What the second life does with what it finds.
#[derive(Clone, Copy, Debug)]
struct Second {
    /// It lacks the space for a manifest of its own, so it goes on with the one that it finds.
    is_short: bool,
    /// It writes entries, which need a table. Without them the manifest alone changes.
    writes_entries: bool,
}

async fn open(rt: &Rt) -> Result<Tree, String> {
    Tree::open(rt, Path::new(DIR), tiny()).await.map_err(|fault| fault.to_string())
}

/// Has the tree say durably that the log is applied up to `index`.
async fn advance(tree: &Tree, index: u64, with_entry: bool) {
    let mut batch = WriteBatch::new();
    batch.mark(1, index);
    if with_entry {
        batch.put(Cf::Default, &index.to_be_bytes(), b"value");
    }
    tree.write(&batch).unwrap();
    tree.flush().await.unwrap();
}

/// Which index a tree has, after a look for the entry of it.
async fn found(rt: Rt, has_entry: bool) -> Result<u64, String> {
    let tree = open(&rt).await?;
    let index = tree.flushed_index(1);
    let entry = tree.get(Cf::Default, &index.to_be_bytes()).await.map_err(|fault| fault.to_string())?;
    if has_entry && index > 0 && entry.is_none() {
        return Err(format!("index {index} without its entry"));
    }
    Ok(index)
}

/// A first life that is killed at change `point` of the disk, and one after it that goes on. Then the power goes, and every name is lost
/// that no sync made durable. Which index was durable at the end of the second life, if that could begin, and what is found; `None` once
/// the first life has ended before `point`.
fn killed_at(point: u64, second: Second) -> Option<(Option<u64>, Result<u64, String>)> {
    let world = World::new(700 + point, Options::default());
    let node = world.node(0);
    node.disk().set_options(|options| options.crash = CrashMode::Lose);
    let (ended, durable) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
    let (over, shown) = (ended.clone(), durable.clone());
    node.disk().stop_at(point);
    let first = node.start(0, move |rt| async move {
        for index in 1..=3 {
            let tree = open(&rt).await.unwrap();
            advance(&tree, index, true).await;
            shown.set(index);
            tree.close().await;
        }
        over.set(true);
    });
    world.run_until(Duration::from_secs(5), || ended.get() || node.disk().has_stopped());
    node.kill();
    drop(first);
    if ended.get() {
        return None;
    }
    if second.is_short {
        node.disk().fail(DiskFault::on(DiskOp::Name).path("MANIFEST").errno(libc::ENOSPC).always());
    }
    let process = node.start(0, move |rt| async move {
        let tree = open(&rt).await.ok()?;
        let index = tree.flushed_index(1) + 10;
        advance(&tree, index, second.writes_entries).await;
        Some(index)
    });
    let went_on = world.block_on(process).unwrap();
    node.crash();
    node.disk().heal();
    let has_entry = went_on.is_none() || second.writes_entries;
    let found = world.block_on(node.start(0, move |rt| found(rt, has_entry))).unwrap();
    if went_on.is_none() {
        assert!(found.as_ref().is_ok_and(|found| *found >= durable.get()), "{point} {second:?}: {found:?}");
    }
    Some((went_on, found))
}

#[test]
fn what_a_tree_goes_on_with_after_a_kill_outlives_a_power_cut() {
    for (is_short, writes_entries) in [(false, true), (true, true), (true, false)] {
        let second = Second { is_short, writes_entries };
        let (mut went_on, mut lost) = (0, Vec::new());
        for (point, (index, found)) in (0..).map_while(|point| Some((point, killed_at(point, second)?))) {
            if let Some(index) = index {
                went_on += 1;
                if found != Ok(index) {
                    lost.push(format!("killed at change {point}: {index} was durable, then {found:?}"));
                }
            }
        }
        assert!(lost.is_empty(), "{second:?}:\n{}", lost.join("\n"));
        assert!(went_on > 20, "{second:?}: only {went_on} lives went on");
    }
}
