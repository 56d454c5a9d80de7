//! Random operations against plain maps, with snapshots, flushes, compactions, reopening, and power cuts that lose what was
//! not synced.
//!
//! The log is played by a list of batches. Batch `i` carries the mark (group, i) for one of three groups; after a restart
//! every batch above its group's flushed index is written again, as the store would.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use engine::lsm::{Cf, Direction, Lookup, Snapshot, Tree, TreeOptions, WriteBatch};
use engine::rt::Rt;
use engine::rt::rng::Rng;
use engine::rt::sim::{Options, World};

use super::world::{DIR, tiny};

type Family = BTreeMap<Vec<u8>, Vec<u8>>;
type Model = [Family; Cf::ALL.len()];

const GROUPS: u64 = 3;

/// Draws from a seed.
pub(super) struct Dice(pub(super) Rng);

impl Dice {
    pub(super) fn roll(&mut self, bound: u64) -> u64 {
        self.0.next() % bound
    }

    fn family(&mut self) -> Cf {
        Cf::ALL[[0, 0, 0, 1, 2, 3][self.roll(6) as usize]]
    }

    /// Few keys, some of them prefixes of others, some long.
    fn key(&mut self, group: u64) -> Vec<u8> {
        let n = self.roll(120);
        let mut key = format!("{group}-{:03}", n / 2).into_bytes();
        if n % 2 == 1 {
            key.extend_from_slice(&b"suffix"[..self.roll(6) as usize]);
        }
        if n.is_multiple_of(17) {
            key.resize(90, b'x');
        }
        key
    }

    fn value(&mut self) -> Vec<u8> {
        let len = if self.roll(40) == 0 { 3000 } else { self.roll(60) };
        let byte = self.roll(256) as u8;
        (0..len).map(|n| byte.wrapping_add((n / 7) as u8)).collect()
    }

    /// A batch of group `group`, whose keys no other group touches, and its effect on the model.
    fn batch(&mut self, group: u64, index: u64, model: &mut Model) -> WriteBatch {
        let mut batch = WriteBatch::new();
        for _ in 0..self.roll(12) {
            let cf = self.family();
            let family = &mut model[cf.index()];
            let key = self.key(group);
            match self.roll(12) {
                0..=7 => {
                    let value = self.value();
                    batch.put(cf, &key, &value);
                    family.insert(key, value);
                }
                8..=10 => {
                    batch.delete(cf, &key);
                    family.remove(&key);
                }
                _ => {
                    let mut end = self.key(group);
                    if self.roll(8) == 0 {
                        end = format!("{group}.").into_bytes();
                    }
                    batch.delete_range(cf, &key, &end);
                    family.retain(|present, _| *present < key || *present >= end);
                }
            }
        }
        batch.mark(group, index);
        batch
    }
}

/// What the log would hold: the group and the batch of each index from 1.
pub(super) type Journal = Vec<(u64, WriteBatch)>;

/// What the log holds and what follows from it. It survives a power cut, as the log does.
#[derive(Default)]
pub(super) struct Past {
    model: Model,
    pub(super) journal: Journal,
}

struct Run {
    dice: Dice,
    past: Rc<RefCell<Past>>,
    snapshots: Vec<(Snapshot, Model)>,
}

impl Run {
    async fn operate(&mut self, rt: &Rt, tree: &Tree, operations: u64) {
        for _ in 0..operations {
            match self.dice.roll(100) {
                0..=69 => self.write(tree),
                70..=79 => self.look_up(tree).await,
                80..=84 => self.walk(tree).await,
                85..=88 => self.snapshots.push((tree.snapshot(), self.model())),
                89..=91 => {
                    if !self.snapshots.is_empty() {
                        let at = self.dice.roll(self.snapshots.len() as u64) as usize;
                        let (snapshot, then) = self.snapshots.swap_remove(at);
                        check_snapshot(&snapshot, &then).await;
                    }
                }
                92 => {
                    tree.flush().await.unwrap();
                    tree.check();
                }
                93 => {
                    if self.dice.roll(6) == 0 {
                        tree.compact().await.unwrap();
                    }
                }
                _ => rt.sleep(Duration::from_micros(self.dice.roll(2_000))).await,
            }
        }
    }

    fn model(&self) -> Model {
        self.past.borrow().model.clone()
    }

    fn write(&mut self, tree: &Tree) {
        let mut past = self.past.borrow_mut();
        let index = past.journal.len() as u64 + 1;
        let group = self.dice.roll(GROUPS);
        let batch = self.dice.batch(group, index, &mut past.model);
        tree.write(&batch).unwrap();
        past.journal.push((group, batch));
    }

    async fn look_up(&mut self, tree: &Tree) {
        let model = self.model();
        for _ in 0..10 {
            let (cf, group) = (self.dice.family(), self.dice.roll(GROUPS));
            let key = self.dice.key(group);
            let expected = model[cf.index()].get(&key);
            match tree.get_now(cf, &key) {
                Lookup::Found(value) => assert_eq!(Some(&value.to_vec()), expected),
                Lookup::Absent => assert_eq!(None, expected),
                Lookup::NeedsIo => {}
            }
            let value = tree.get(cf, &key).await.unwrap();
            assert_eq!(value.as_deref(), expected.map(Vec::as_slice), "{}", key.escape_ascii());
        }
    }

    async fn walk(&mut self, tree: &Tree) {
        let (cf, group) = (self.dice.family(), self.dice.roll(GROUPS));
        let start = if self.dice.roll(4) == 0 { Vec::new() } else { self.dice.key(group) };
        let end = if self.dice.roll(4) == 0 { Vec::new() } else { self.dice.key(group) };
        check_range(&tree.snapshot(), cf, &self.model(), &start, &end).await;
    }
}

async fn check_snapshot(snapshot: &Snapshot, model: &Model) {
    for cf in Cf::ALL {
        check_range(snapshot, cf, model, b"", b"").await;
        for (key, value) in model[cf.index()].iter().step_by(5) {
            assert_eq!(snapshot.get(cf, key).await.unwrap().as_deref(), Some(value.as_slice()));
        }
    }
}

async fn check_range(snapshot: &Snapshot, cf: Cf, model: &Model, start: &[u8], end: &[u8]) {
    let inside = |key: &[u8]| key >= start && (end.is_empty() || key < end);
    let mut expected: Vec<_> = model[cf.index()].iter().filter(|(key, _)| inside(key)).collect();
    for direction in [Direction::Forward, Direction::Reverse] {
        let mut iter = snapshot.iter(cf, start, end, direction);
        for (key, value) in &expected {
            let (found_key, found) = iter.next().await.unwrap().unwrap_or_else(|| {
                panic!("{direction:?}: {} is missing", key.escape_ascii());
            });
            assert_eq!(found_key.escape_ascii().to_string(), key.escape_ascii().to_string(), "{direction:?}");
            assert_eq!(&found[..], value.as_slice());
        }
        assert_eq!(iter.next().await.unwrap(), None, "{direction:?}");
        expected.reverse();
    }
}

async fn check_all(tree: &Tree, model: &Model) {
    check_snapshot(&tree.snapshot(), model).await;
}

/// Random limits, so that files written under one set are read under another.
fn limits(dice: &mut Dice) -> TreeOptions {
    TreeOptions {
        memtable_bytes: [2 << 10, 6 << 10, 40 << 10][dice.roll(3) as usize],
        cache_bytes: [0, 4 << 10, 1 << 20][dice.roll(3) as usize],
        block_bytes: [64, 256, 2048][dice.roll(3) as usize],
        table_bytes: [2 << 10, 16 << 10][dice.roll(2) as usize],
        compress: dice.roll(2) == 0,
        compaction_bytes: [1 << 10, 6 << 10, 64 << 10][dice.roll(3) as usize],
        open_tables_max: [1, 3, 100][dice.roll(3) as usize],
        ..tiny()
    }
}

async fn open_and_replay(rt: &Rt, options: TreeOptions, past: &RefCell<Past>) -> Tree {
    let tree = Tree::open(rt, Path::new(DIR), options).await.unwrap();
    for (at, (group, batch)) in past.borrow().journal.iter().enumerate() {
        if at as u64 + 1 > tree.flushed_index(*group) {
            tree.write(batch).unwrap();
        }
    }
    tree
}

/// Opens, replays, checks, operates, checks and closes.
pub(super) async fn live(rt: Rt, past: Rc<RefCell<Past>>, dice: u64, operations: u64) {
    let mut run = Run { dice: Dice(Rng::new(dice)), past, snapshots: Vec::new() };
    let options = limits(&mut run.dice);
    let tree = open_and_replay(&rt, options, &run.past).await;
    check_all(&tree, &run.model()).await;
    run.operate(&rt, &tree, operations).await;
    check_all(&tree, &run.model()).await;
    run.snapshots.clear();
    tree.close().await;
}

#[test]
fn the_tree_equals_the_model_over_reopenings() {
    for seed in 0..12 {
        let world = World::new(seed, Options::default());
        let past = Rc::new(RefCell::new(Past::default()));
        for _ in 0..3 {
            let (past, dice) = (past.clone(), world.random());
            let running = world.node(0).start(0, move |rt| live(rt, past, dice, 300));
            world.block_on(running).unwrap();
            // The next life starts a process of its own.
            world.node(0).kill();
        }
        assert!(world.node(0).disk().files().len() > 2, "seed {seed}: nothing was ever flushed");
    }
}

#[test]
fn after_a_power_cut_tables_and_log_give_everything_back() {
    let (mut cut, mut written) = (0, 0);
    for seed in 100..130 {
        let world = World::new(seed, Options::default());
        let past = Rc::new(RefCell::new(Past::default()));
        for _ in 0..5 {
            let (past, dice) = (past.clone(), world.random());
            let running = world.node(0).start(0, move |rt| live(rt, past, dice, 400));
            world.run_for(Duration::from_micros(world.below(80_000)));
            world.node(0).crash();
            cut += u64::from(world.block_on(running).is_none());
        }
        let (last, dice) = (past.clone(), world.random());
        let running = world.node(0).start(0, move |rt| live(rt, last, dice, 20));
        world.block_on(running).unwrap();
        written += past.borrow().journal.len();
    }
    // The test would say nothing if the cuts came too late or too early.
    assert!(cut > 75 && written > 5_000, "{cut} of 150 lives cut, {written} batches");
}
