//! Random operations against plain maps, with snapshots, flushes, compactions, reopening, and power cuts that lose what was
//! not synced.
//!
//! Some values expire within a few milliseconds, of which a life has hundreds. What a snapshot sees is decided by its own moment of the
//! wall clock.
//!
//! Ranges are exported, and taken in again later in the place of what has become of them; in a power cut either all of that has
//! happened or nothing.
//!
//! The log is played by a list of batches. Batch `i` carries the mark (group, i) for one of three groups; after a restart
//! every batch above its group's flushed index is written again, as the store would.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use engine::error::{Fault, Result};
use engine::lsm::{
    Cf, Direction, ExportOptions, Ingest, Lookup, Piece, Snapshot, Tree, TreeOptions, Until, WallMs,
    WriteBatch,
};
use engine::rt::Rt;
use engine::rt::rng::Rng;
use engine::rt::sim::{Options, World};

use super::world::{DIR, tiny};

/// Values, and until when they are there.
type Family = BTreeMap<Vec<u8>, (Vec<u8>, Until)>;
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

    /// One of four values expires, some of them before they are written.
    fn until(&mut self, now: WallMs) -> Until {
        match self.roll(12) {
            0..=8 => Until::NEVER,
            // So long ago that it is dropped, and what it hides with it.
            9 => Until(now.0 - 2_000),
            _ => Until(now.0 + self.roll(40) - 3),
        }
    }

    /// A batch of group `group`, whose keys no other group touches, and its effect on the model.
    fn batch(&mut self, now: WallMs, group: u64, index: u64, model: &mut Model) -> WriteBatch {
        let mut batch = WriteBatch::new();
        for _ in 0..self.roll(12) {
            let cf = self.family();
            let family = &mut model[cf.index()];
            let key = self.key(group);
            match self.roll(12) {
                0..=7 => {
                    let (value, until) = (self.value(), self.until(now));
                    batch.put_until(cf, &key, &value, until);
                    family.insert(key, (value, until));
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
    /// An ingest that was asked for and not answered: the group, its index, and the group's keys afterwards.
    pending: Option<(u64, u64, Model)>,
    /// Ranges taken in.
    pub(super) ingested: u64,
    /// Of those, how many were found after a power cut that came before the answer.
    pub(super) found: u64,
    /// Exports made, for names.
    exported: u64,
    /// Values that were dropped because they had expired.
    expired: u64,
}

impl Past {
    /// What was asked for has happened: the group has these keys now.
    fn take_in(&mut self, group: u64, part: Model) {
        for (family, part) in self.model.iter_mut().zip(part) {
            family.retain(|key, _| !is_of(key, group));
            family.extend(part);
        }
        self.pending = None;
        self.ingested += 1;
    }
}

/// The range of a group.
fn range_of(group: u64) -> (Vec<u8>, Vec<u8>) {
    (format!("{group}-").into_bytes(), format!("{group}.").into_bytes())
}

fn is_of(key: &[u8], group: u64) -> bool {
    let (start, end) = range_of(group);
    key >= start.as_slice() && key < end.as_slice()
}

/// An exported range: the group, its keys at that moment, the files.
type Exported = (u64, Model, Vec<(PathBuf, Piece)>);

struct Run {
    dice: Dice,
    past: Rc<RefCell<Past>>,
    snapshots: Vec<(Snapshot, Model)>,
    exports: Vec<Exported>,
}

impl Run {
    async fn operate(&mut self, rt: &Rt, tree: &Tree, operations: u64) {
        for _ in 0..operations {
            match self.dice.roll(100) {
                0..=69 => self.write(rt, tree),
                70..=79 => self.look_up(rt, tree).await,
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
                94 => {
                    self.export(rt, tree).await;
                    if self.dice.roll(2) == 0 {
                        self.ingest(rt, tree).await;
                    }
                }
                95 => self.ingest(rt, tree).await,
                _ => rt.sleep(Duration::from_micros(self.dice.roll(2_000))).await,
            }
        }
    }

    fn model(&self) -> Model {
        self.past.borrow().model.clone()
    }

    fn write(&mut self, rt: &Rt, tree: &Tree) {
        let group = self.dice.roll(GROUPS);
        self.write_to(rt, tree, group);
    }

    /// Writes go on while pieces are written, and are not in them.
    async fn export(&mut self, rt: &Rt, tree: &Tree) {
        let (group, model) = (self.dice.roll(GROUPS), self.model());
        let part = model.map(|family| family.into_iter().filter(|(key, _)| is_of(key, group)).collect());
        let number = {
            let mut past = self.past.borrow_mut();
            past.exported += 1;
            past.exported
        };
        let dir = PathBuf::from(format!("/export-{number}"));
        again(rt, async || rt.create_dir_all(&dir).await.map_err(|e| Fault::io(&dir, "creating", &e))).await;
        let (start, end) = range_of(group);
        let piece_bytes = [300, 2_000, 50_000][self.dice.roll(3) as usize];
        let options = ExportOptions { families: &Cf::ALL, piece_bytes, bytes_per_second: None };
        let mut export = tree.export(&start, &end, options);
        let mut pieces = Vec::new();
        loop {
            let path = dir.join(pieces.len().to_string());
            let Some(piece) = again(rt, async || export.next_piece(&path).await).await else { break };
            pieces.push((path, piece));
            self.write(rt, tree);
        }
        self.exports.push((group, part, pieces));
    }

    /// Takes in a range as it once was. The other groups are written meanwhile.
    async fn ingest(&mut self, rt: &Rt, tree: &Tree) {
        if self.exports.is_empty() {
            return;
        }
        let at = self.dice.roll(self.exports.len() as u64) as usize;
        let (group, part, pieces) = self.exports.swap_remove(at);
        // No snapshot may read the range afterwards.
        self.snapshots.clear();
        let index = {
            let mut past = self.past.borrow_mut();
            past.journal.push((group, WriteBatch::new()));
            let index = past.journal.len() as u64;
            past.pending = Some((group, index, part.clone()));
            index
        };
        let (families, ranges) = (&Cf::ALL, vec![range_of(group)]);
        let ingest =
            Ingest { group, applied: index, state: None, others: Vec::new(), families, ranges, pieces };
        let (into, on) = (tree.clone(), rt.clone());
        let ingesting = rt.spawn(async move { again(&on, async || into.ingest(ingest.clone()).await).await });
        for _ in 0..self.dice.roll(10) {
            self.write_to(rt, tree, (group + 1) % GROUPS);
            rt.sleep(Duration::from_micros(self.dice.roll(300))).await;
        }
        ingesting.await;
        self.past.borrow_mut().take_in(group, part);
        assert!(tree.flushed_index(group) >= index);
    }

    fn write_to(&mut self, rt: &Rt, tree: &Tree, group: u64) {
        let mut past = self.past.borrow_mut();
        let index = past.journal.len() as u64 + 1;
        let batch = self.dice.batch(rt.wall().into(), group, index, &mut past.model);
        tree.write(&batch).unwrap();
        past.journal.push((group, batch));
    }

    async fn look_up(&mut self, rt: &Rt, tree: &Tree) {
        let model = self.model();
        for _ in 0..10 {
            let (cf, group) = (self.dice.family(), self.dice.roll(GROUPS));
            let key = self.dice.key(group);
            let written = model[cf.index()].get(&key);
            // The moment of the read lies between two looks at the clock.
            let before = WallMs::from(rt.wall());
            let now = tree.get_now(cf, &key);
            let timed = tree.timed(cf, &key).await.unwrap();
            let after = WallMs::from(rt.wall());
            let Some((value, until)) = written.filter(|(_, until)| !until.is_over(before)) else {
                assert!(matches!(now, Lookup::Absent | Lookup::NeedsIo), "{}", key.escape_ascii());
                assert_eq!(timed, None, "{}", key.escape_ascii());
                continue;
            };
            let expired = until.is_over(after);
            match now {
                Lookup::Found(found) => assert_eq!(&found[..], value.as_slice()),
                Lookup::Absent => assert!(expired, "{}", key.escape_ascii()),
                Lookup::NeedsIo => {}
            }
            match timed {
                Some(timed) => assert_eq!((&timed.value[..], timed.until), (value.as_slice(), *until)),
                None => assert!(expired, "{}", key.escape_ascii()),
            }
        }
    }

    async fn walk(&mut self, tree: &Tree) {
        let (cf, group) = (self.dice.family(), self.dice.roll(GROUPS));
        let start = if self.dice.roll(4) == 0 { Vec::new() } else { self.dice.key(group) };
        let end = if self.dice.roll(4) == 0 { Vec::new() } else { self.dice.key(group) };
        check_range(&tree.snapshot(), cf, &self.model(), &start, &end).await;
    }
}

/// Does it until nothing is short.
async fn again<T>(rt: &Rt, mut attempt: impl AsyncFnMut() -> Result<T>) -> T {
    loop {
        match attempt().await {
            Err(fault) if fault.is_passing() => rt.sleep(Duration::from_millis(5)).await,
            done => return done.unwrap(),
        }
    }
}

async fn check_snapshot(snapshot: &Snapshot, model: &Model) {
    for cf in Cf::ALL {
        check_range(snapshot, cf, model, b"", b"").await;
        for (key, (value, until)) in model[cf.index()].iter().step_by(5) {
            let expected = (!until.is_over(snapshot.now())).then_some(value.as_slice());
            assert_eq!(snapshot.get(cf, key).await.unwrap().as_deref(), expected);
            assert_eq!(snapshot.length(cf, key).await.unwrap(), expected.map(<[u8]>::len));
        }
    }
}

async fn check_range(snapshot: &Snapshot, cf: Cf, model: &Model, start: &[u8], end: &[u8]) {
    let inside = |key: &[u8]| key >= start && (end.is_empty() || key < end);
    let is_there = |until: Until| !until.is_over(snapshot.now());
    let there = model[cf.index()].iter().filter(|(key, (_, until))| inside(key) && is_there(*until));
    let mut expected: Vec<_> = there.collect();
    for direction in [Direction::Forward, Direction::Reverse] {
        let mut iter = snapshot.iter(cf, start, end, direction);
        for (key, (value, _)) in &expected {
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
        // Longer than any check of a snapshot takes.
        expired_kept: Duration::from_secs([1, 24 * 60 * 60][dice.roll(2) as usize]),
        ..tiny()
    }
}

async fn open_and_replay(rt: &Rt, options: TreeOptions, past: &RefCell<Past>) -> Tree {
    let tree = Tree::open(rt, Path::new(DIR), options).await.unwrap();
    {
        let mut past = past.borrow_mut();
        if let Some((group, index, part)) = past.pending.take()
            && tree.flushed_index(group) >= index
        {
            past.take_in(group, part);
            past.found += 1;
        }
    }
    for (at, (group, batch)) in past.borrow().journal.iter().enumerate() {
        if at as u64 + 1 > tree.flushed_index(*group) {
            tree.write(batch).unwrap();
        }
    }
    tree
}

/// Opens, replays, checks, operates, checks and closes.
pub(super) async fn live(rt: Rt, past: Rc<RefCell<Past>>, dice: u64, operations: u64) {
    let mut run = Run { dice: Dice(Rng::new(dice)), past, snapshots: Vec::new(), exports: Vec::new() };
    let options = limits(&mut run.dice);
    let tree = open_and_replay(&rt, options, &run.past).await;
    check_all(&tree, &run.model()).await;
    run.operate(&rt, &tree, operations).await;
    check_all(&tree, &run.model()).await;
    run.snapshots.clear();
    run.exports.clear();
    run.past.borrow_mut().expired += tree.stats().expired;
    tree.close().await;
}

#[test]
fn the_tree_equals_the_model_over_reopenings() {
    let (mut ingested, mut expired) = (0, 0);
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
        ingested += past.borrow().ingested;
        expired += past.borrow().expired;
    }
    assert!(ingested > 40 && expired > 40, "{ingested} ranges taken in, {expired} values dropped");
}

#[test]
fn after_a_power_cut_tables_and_log_give_everything_back() {
    let (mut cut, mut written, mut ingested, mut found) = (0, 0, 0, 0);
    for seed in 100..130 {
        let world = World::new(seed, Options::default());
        let past = Rc::new(RefCell::new(Past::default()));
        for _ in 0..5 {
            let (past, dice) = (past.clone(), world.random());
            let running = world.node(0).start(0, move |rt| live(rt, past, dice, 400));
            world.run_for(Duration::from_micros(world.below(110_000)));
            world.node(0).crash();
            cut += u64::from(world.block_on(running).is_none());
        }
        let (last, dice) = (past.clone(), world.random());
        let running = world.node(0).start(0, move |rt| live(rt, last, dice, 20));
        world.block_on(running).unwrap();
        written += past.borrow().journal.len();
        ingested += past.borrow().ingested;
        found += past.borrow().found;
    }
    // The test would say nothing if the cuts came too late or too early.
    assert!(cut > 75 && written > 5_000, "{cut} of 150 lives cut, {written} batches");
    assert!(ingested > 10, "{ingested} ranges taken in, {found} of them found after a cut");
}
