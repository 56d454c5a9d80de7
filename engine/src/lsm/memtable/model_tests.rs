//! Random writes against a plain map of versions, with readers of the past that come and go, range deletes, and hashes that
//! collide. After every few operations everything that a reader could ask for is compared, and also what no reader may ask
//! for: exactly the versions are linked that some reader saw when their key was last written.

use super::*;
use crate::lsm::bound::WalkLimits;
use crate::lsm::chunk::EntryRef;
use crate::lsm::expiry::WallMs;
use crate::lsm::key::{entry_order, in_range};
use crate::lsm::retain::{Fate, Retention};
use crate::rt::rng::Rng;

const CF: Cf = Cf::Default;

type Key = Vec<u8>;
/// A value, and until when it is there.
type Timed = (Vec<u8>, Until);
/// Key, sequence number, and a value unless it is a delete.
type Row = (Key, SeqNo, Option<Timed>);
type Versions = BTreeMap<SeqNo, Option<Timed>>;

/// What expired by then, flushes drop.
const EXPIRED_BY: WallMs = WallMs(50);

/// What a seed decides.
struct Dice(Rng);

impl Dice {
    fn roll(&mut self, bound: u64) -> u64 {
        self.0.next() % bound
    }

    /// Few keys, some of them prefixes of others, some too long for a node, and one of them every third time.
    fn key(&mut self) -> Key {
        let n = if self.roll(3) == 0 { 1 } else { self.roll(14) as u8 };
        let len = [0, 1, 1, 2, 38, 39, 90][usize::from(n % 7)];
        (0..len).map(|at| if at == 0 { b'a' + n / 4 } else { b'0' + n % 4 }).collect()
    }

    fn value(&mut self) -> Vec<u8> {
        let len = if self.roll(30) == 0 { 20_000 } else { self.roll(30) };
        vec![self.roll(256) as u8; len as usize]
    }
}

/// What was ever written, and what should be linked of it.
#[derive(Default)]
struct Model {
    all: BTreeMap<Key, Versions>,
    linked: BTreeMap<Key, Versions>,
    erased: Vec<(Key, Key, SeqNo)>,
}

impl Model {
    fn put(&mut self, key: &Key, seq: SeqNo, value: Option<Timed>, readers: &Readers) {
        self.all.entry(key.clone()).or_default().insert(seq, value.clone());
        let linked = self.linked.entry(key.clone()).or_default();
        let seen: Vec<SeqNo> =
            readers.moments().filter_map(|at| linked.range(..=at).next_back()).map(|(seq, _)| *seq).collect();
        linked.retain(|seq, _| seen.contains(seq));
        linked.insert(seq, value);
    }

    /// What a read at `at` finds, by everything that was ever written.
    fn get(&self, key: &[u8], at: SeqNo) -> Option<Found> {
        let version = self.all.get(key).and_then(|versions| versions.range(..=at).next_back());
        let covering = self.erased.iter().filter(|(start, end, seq)| in_range(key, start, end) && *seq <= at);
        let erased = covering.map(|(.., seq)| *seq).max();
        let newest = version.map(|(seq, _)| *seq).max(erased)?;
        Some(match version {
            Some((seq, Some(timed))) if *seq == newest => found_of(timed),
            _ => Found::Deleted,
        })
    }

    /// Everything that is linked and lies in a range, in walking order.
    fn rows(&self, direction: Direction, start: &[u8], end: &[u8]) -> Vec<Row> {
        let inside = self.linked.iter().filter(|(key, _)| in_range(key, start, end));
        let mut rows: Vec<Row> = inside
            .flat_map(|(key, versions)| {
                versions.iter().rev().map(|(seq, value)| (key.clone(), *seq, value.clone()))
            })
            .collect();
        if direction == Direction::Reverse {
            rows.reverse();
        }
        rows
    }
}

fn found_of((value, until): &Timed) -> Found {
    Found::Value(TimedValue { value: value.clone().into(), until: *until })
}

/// As an entry has it.
fn stored((value, until): &Timed) -> (Kind, Vec<u8>) {
    match *until {
        Until::NEVER => (Kind::Put, value.clone()),
        Until(until) => (Kind::PutUntil, [&until.to_le_bytes(), value.as_slice()].concat()),
    }
}

fn rows_of(chunk: &Chunk) -> Vec<Row> {
    let entries = (0..chunk.len()).filter_map(|at| chunk.get(at));
    let row = |entry: EntryRef<'_>| {
        let (until, value) = split(entry.kind, entry.value);
        (entry.key.to_vec(), entry.seq, (entry.kind != Kind::Delete).then(|| (value.to_vec(), until)))
    };
    entries.map(row).collect()
}

/// An iterator as a client has it: at one moment, chunk after chunk, while others write.
struct Walk {
    direction: Direction,
    at: SeqNo,
    after: Option<(Key, SeqNo)>,
    seen: Vec<Row>,
    done: bool,
}

impl Walk {
    fn step(&mut self, memtable: &Memtable) {
        let after = self.after.as_ref().map(|(key, seq)| (key.as_slice(), *seq));
        let rows =
            rows_of(&memtable.chunk(CF, self.direction, (b"", b""), after, &Bound::new(WalkLimits::NONE)));
        match rows.last() {
            Some((key, seq, _)) => self.after = Some((key.clone(), *seq)),
            None => self.done = true,
        }
        self.seen.extend(rows);
    }

    /// The newest version that it met of every key, of those that it may see, is what was there when it began.
    fn check(&self, model: &Model, bottom: bool, seed: u64) {
        let mut newest: BTreeMap<&Key, &Row> = BTreeMap::new();
        for row in self.seen.iter().filter(|(_, seq, _)| *seq <= self.at) {
            let known = newest.entry(&row.0).or_insert(row);
            if known.1 < row.1 {
                *known = row;
            }
        }
        for (key, versions) in &model.all {
            let then = versions.range(..=self.at).next_back();
            let found = newest.get(key).map(|(_, seq, value)| (seq, value));
            // At the bottom no reader misses a delete.
            let is_shown = |row: &(&SeqNo, &Option<Timed>)| !bottom || row.1.is_some();
            let (found, then) = (found.filter(is_shown), then.filter(is_shown));
            assert_eq!(found, then, "seed {seed}: {:?} at {:?}", self.direction, self.at);
        }
    }
}

struct Run {
    seed: u64,
    dice: Dice,
    /// How many hashes there are.
    hashes: u64,
    /// Whether nothing older lies below, so that walks need not come by deletes.
    bottom: bool,
    /// How many versions walks did not come by, in all checks.
    left_out: usize,
    memtable: Memtable,
    model: Model,
    readers: Readers,
    last: SeqNo,
    walks: Vec<Walk>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(Rng::new(seed));
        let hashes = [1, 3, u64::MAX][dice.roll(3) as usize];
        Self {
            seed,
            dice,
            hashes,
            bottom: seed % 2 == 1,
            left_out: 0,
            memtable: Memtable::new(0),
            model: Model::default(),
            readers: Readers::default(),
            last: SeqNo(0),
            walks: Vec::new(),
        }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        key_hash(key) % self.hashes
    }

    fn operate(&mut self, readers_max: usize) {
        match self.dice.roll(10) {
            0..=4 => self.write(),
            5 | 6 => self.come_or_go(readers_max),
            7 => self.begin_walk(),
            _ => self.walks.iter_mut().for_each(|walk| walk.step(&self.memtable)),
        }
        for walk in self.walks.extract_if(.., |walk| walk.done) {
            walk.check(&self.model, self.bottom, self.seed);
            self.readers.leave(walk.at);
        }
    }

    /// A batch, whose operations no reader sees apart.
    fn write(&mut self) {
        let (mut batch, first) = (WriteBatch::new(), SeqNo(self.last.0 + 1));
        for _ in 0..=self.dice.roll(3) {
            let key = self.dice.key();
            self.last.0 += 1;
            match self.dice.roll(12) {
                0..=7 => {
                    let expires = self.dice.roll(3) == 0;
                    let until = if expires { Until(self.dice.roll(100)) } else { Until::NEVER };
                    let value = self.dice.value();
                    batch.put_until(CF, &key, &value, until);
                    self.model.put(&key, self.last, Some((value, until)), &self.readers);
                }
                8..=10 => {
                    batch.delete(CF, &key);
                    self.model.put(&key, self.last, None, &self.readers);
                }
                _ => {
                    let end = [key.as_slice(), b"~"].concat();
                    batch.delete_range(CF, &key, &end);
                    self.model.erased.push((key, end, self.last));
                }
            }
        }
        let (hashes, bottom) = (self.hashes, self.bottom);
        let hash = |key: &[u8]| key_hash(key) % hashes;
        let next = self.memtable.apply_hashed(&batch, first, &self.readers, |_, _, _| bottom, hash);
        assert_eq!(next.0, self.last.0 + 1);
    }

    /// A reader comes, at the last operation as all do, or one goes.
    fn come_or_go(&mut self, readers_max: usize) {
        let moments: Vec<SeqNo> = self.readers.moments().collect();
        if moments.len() < readers_max && self.dice.roll(5) > 0 {
            return self.readers.enter(self.last);
        }
        let walked = |at: &SeqNo| self.walks.iter().any(|walk| walk.at == *at);
        let free: Vec<SeqNo> = moments.into_iter().filter(|at| !walked(at)).collect();
        if !free.is_empty() {
            self.readers.leave(free[self.dice.roll(free.len() as u64) as usize]);
        }
    }

    fn begin_walk(&mut self) {
        if self.walks.len() < 3 {
            let direction = [Direction::Forward, Direction::Reverse][self.dice.roll(2) as usize];
            self.readers.enter(self.last);
            self.walks.push(Walk { direction, at: self.last, after: None, seen: Vec::new(), done: false });
        }
    }

    fn check(&mut self) {
        self.check_gets();
        self.check_flush(false);
        self.check_flush(true);
        for direction in [Direction::Forward, Direction::Reverse] {
            if self.bottom {
                self.check_walks(direction);
                continue;
            }
            self.check_range(direction, b"", b"");
            let (start, end) = (self.dice.key(), self.dice.key());
            self.check_range(direction, &start, &end);
            self.check_strange_resume(direction);
        }
        let hashes: usize = (0..self.memtable.hash_parts())
            .map(|part| {
                let mut count = 0;
                self.memtable.with_hashes(CF, part, |hashes| count = hashes.count());
                count
            })
            .sum();
        let known: std::collections::BTreeSet<u64> =
            self.model.all.keys().map(|key| self.hash(key)).collect();
        assert_eq!(hashes, known.len(), "seed {}", self.seed);
    }

    /// The lookups of every key at every moment that a reader has, with and without a copy of the value.
    fn check_gets(&self) {
        let length = |found: Found| match found {
            Found::Value(value) => Some(value.len()),
            Found::Deleted => None,
        };
        let keys = self.model.all.keys().cloned().chain([b"z".to_vec()]);
        for key in keys {
            for at in self.readers.moments().chain([self.last, SeqNo::MAX]) {
                let found = self.memtable.get_if(CF, &key, self.hash(&key), at, |_| true);
                let mut expected = self.model.get(&key, at);
                if self.bottom && found.is_none() && expected == Some(Found::Deleted) {
                    // Another key has its hash now. That nothing is known says the same here.
                    expected = None;
                }
                assert_eq!(
                    found,
                    expected.clone().map(Some),
                    "seed {}: {} at {at:?}",
                    self.seed,
                    key.escape_ascii()
                );
                let unwanted = self.memtable.get_if(CF, &key, self.hash(&key), at, |bytes| {
                    assert_eq!(Some(Some(bytes)), expected.clone().map(length));
                    false
                });
                let expected = expected.map(|found| (found == Found::Deleted).then_some(found));
                assert_eq!(unwanted, expected, "a value that is not wanted is not copied");
            }
        }
    }

    /// What a flush leaves still answers every reader. Only at the bottom, where nothing older has to be hidden, may it
    /// forget that something was deleted.
    fn check_flush(&self, bottom: bool) {
        let erased = self.memtable.erased(CF);
        let mut retention = Retention::new(self.readers.moments().collect(), erased, EXPIRED_BY);
        let erased = retention.keep_erased(|_, _| bottom);
        let rows = self.model.rows(Direction::Forward, b"", b"");
        let kept = rows.iter().filter_map(|(key, seq, timed)| {
            let (kind, value) = timed.as_ref().map_or((Kind::Delete, Vec::new()), stored);
            match retention.judge(&EntryRef { key, seq: *seq, kind, value: &value }, || bottom) {
                Fate::Goes => None,
                Fate::Stays => Some((key, *seq, timed.clone())),
                Fate::Deleted => Some((key, *seq, None)),
            }
        });
        let kept: Vec<(&Key, SeqNo, Option<Timed>)> = kept.collect();
        let is_over = |found: &Found| match found {
            Found::Value(timed) => timed.until.is_over(EXPIRED_BY),
            Found::Deleted => false,
        };
        for key in self.model.all.keys() {
            for at in self.readers.moments().chain([self.last]) {
                let seen = kept.iter().find(|(other, seq, _)| *other == key && *seq <= at);
                let eraser = erased.newest_covering(key, at);
                let found = match seen {
                    Some((_, seq, Some(timed))) if eraser.is_none_or(|eraser| eraser < *seq) => {
                        Some(found_of(timed))
                    }
                    _ => (seen.is_some() || eraser.is_some()).then_some(Found::Deleted),
                };
                let is_shown = |found: &Found| !bottom || *found != Found::Deleted;
                assert!(
                    !found.as_ref().is_some_and(is_over),
                    "seed {}: what expired is still there",
                    self.seed
                );
                let expected =
                    self.model.get(key, at).map(|it| if is_over(&it) { Found::Deleted } else { it });
                let (found, expected) = (found.filter(is_shown), expected.filter(is_shown));
                assert_eq!(found, expected, "seed {}: {} at {at:?}", self.seed, key.escape_ascii());
            }
        }
    }

    /// A walk of everything at each moment that is read.
    fn check_walks(&mut self, direction: Direction) {
        for at in self.readers.moments().chain([self.last]) {
            let mut walk = Walk { direction, at, after: None, seen: Vec::new(), done: false };
            while !walk.done {
                walk.step(&self.memtable);
            }
            walk.check(&self.model, true, self.seed);
            let linked: usize = self.model.linked.values().map(BTreeMap::len).sum();
            self.left_out += linked - walk.seen.len();
        }
    }

    /// A walk that is resumed at each of its entries.
    fn check_range(&self, direction: Direction, start: &[u8], end: &[u8]) {
        let rows = self.model.rows(direction, start, end);
        for from in 0..=rows.len() {
            let after = from.checked_sub(1).map(|at| (rows[at].0.as_slice(), rows[at].1));
            let found = rows_of(&self.memtable.chunk(
                CF,
                direction,
                (start, end),
                after,
                &Bound::new(WalkLimits::NONE),
            ));
            assert_eq!(found.is_empty(), from == rows.len(), "seed {}", self.seed);
            assert!(found.len() <= CHUNK_ENTRIES);
            let right = rows[from..].starts_with(&found);
            assert!(right, "seed {}: {direction:?} after {after:?}", self.seed);
        }
    }

    /// After a version that has been unlinked meanwhile a walk goes on as if it were there.
    fn check_strange_resume(&mut self, direction: Direction) {
        let written = self.model.all.len() as u64;
        if written == 0 {
            return;
        }
        let at = self.dice.roll(written) as usize;
        let seq = SeqNo(1 + self.dice.roll(self.last.0));
        let Some(key) = self.model.all.keys().nth(at) else { return };
        let ahead = |row: &Row| match direction {
            Direction::Forward => entry_order((key, seq), (&row.0, row.1)).is_lt(),
            Direction::Reverse => entry_order((key, seq), (&row.0, row.1)).is_gt(),
        };
        let rows: Vec<Row> = self.model.rows(direction, b"", b"").into_iter().filter(ahead).collect();
        let found = rows_of(&self.memtable.chunk(
            CF,
            direction,
            (b"", b""),
            Some((key, seq)),
            &Bound::new(WalkLimits::NONE),
        ));
        let right = rows.starts_with(&found) && found.is_empty() == rows.is_empty();
        assert!(right, "seed {}: {direction:?} after {key:?} {seq:?}", self.seed);
    }
}

#[test]
fn a_memtable_equals_the_model_for_every_reader() {
    let (mut longest, mut overwritten, mut left_out) = (0, 0, 0);
    for seed in 0..60 {
        let mut run = Run::new(seed);
        // With many readers a chain is longer than a chunk.
        let readers_max = [2, 8, 60][(seed % 3) as usize];
        for round in 0..400 {
            run.operate(readers_max);
            if round % 40 == 0 {
                run.check();
            }
        }
        run.check();
        left_out += run.left_out;
        longest = longest.max(run.model.linked.values().map(BTreeMap::len).max().unwrap_or(0));
        let count = |versions: &BTreeMap<Key, Versions>| versions.values().map(BTreeMap::len).sum::<usize>();
        overwritten += count(&run.model.all) - count(&run.model.linked);
    }
    // The test would say nothing if nothing were unlinked, or nothing kept.
    let said = longest > CHUNK_ENTRIES && overwritten > 5_000 && left_out > 20;
    assert!(said, "{longest} versions of a key, {overwritten} unlinked, {left_out} left out");
}
