//! Splits by load: when a region is cut, when it is not, and that a node with a hot region comes to rest with even cores.

use std::collections::{BTreeMap, VecDeque};

use scheduler::check::split::{BUSY_MS, check};
use scheduler::config::MIB;
use scheduler::operator::{Cause, Intent, Step};
use scheduler::{
    Config, Epoch, Key, KeyRange, Load, LoadCut, NodeId, Peer, PeerId, Policy, Reason, Region, RegionId,
    RegionReport, Rng, Scheduler, StoreDescriptor, StoreId, StoreReport, Time, Verdict,
};

use crate::kit::{Mock, NOW, key};

const STORES: [StoreId; 2] = [StoreId(10), StoreId(11)];

/// A node of `stores` stores with a busy region on the first.
fn mock(stores: u64) -> Mock {
    let mut mock = Mock::new(1);
    mock.config.region_split_ops = 3000;
    for store in 10..10 + stores {
        mock.put(StoreDescriptor::new(StoreId(store), NodeId(1), format!("store{store}")));
    }
    let middle = LoadCut::At(Key::from(format!("{:020}5", 1).as_str()));
    let load = Load { read_ops: 5_000, ..Load::default() };
    let report = RegionReport { load, cut: middle, ..mock.region(1, &[10]) };
    mock.report(report);
    mock
}

/// What becomes of the region that has been busy for so long.
fn asked(mock: &mut Mock, busy_ms: u64) -> Result<(Cause, usize), Reason> {
    let since = Time(NOW.0 - busy_ms);
    mock.cluster.set_busy_since(RegionId(1), Some(since));
    let influence = mock.influence();
    let info = mock.cluster.region(RegionId(1)).expect("known");
    let proposal = check(&mock.view(&influence), info).map_err(|refusal| refusal.reason)?;
    let Intent::Split { keys } = proposal.intent else { panic!("{proposal:?}") };
    Ok((proposal.cause, keys.len()))
}

fn reported(mock: &mut Mock, load: Load, cut: LoadCut) {
    let report = RegionReport { load, cut, ..mock.region(1, &[10]) };
    mock.report(report);
}

#[test]
fn a_region_is_split_once_it_was_busy_for_long_enough_and_where_another_store_could_take_a_part() {
    let mut mock = mock(2);
    assert_eq!(asked(&mut mock, BUSY_MS), Ok((Cause::Busy, 1)));
    let lately = Reason::BusyLately { busy_ms: BUSY_MS - 1, needed_ms: BUSY_MS };
    assert_eq!(asked(&mut mock, BUSY_MS - 1), Err(lately));
    assert_eq!(asked(&mut self::mock(1), BUSY_MS), Err(Reason::Content), "a single store");
    // A region that is too large is cut in its middle, however busy it is.
    let load = Load { read_ops: 5_000, ..Load::default() };
    let report = RegionReport { load, size_bytes: 145 * MIB, ..mock.region(1, &[10]) };
    mock.report(report);
    assert_eq!(asked(&mut mock, 0), Ok((Cause::Oversized, 0)));
}

#[test]
fn bytes_count_as_operations_and_zero_never_splits() {
    let mut mock = mock(2);
    let cut = mock.cluster.region(RegionId(1)).expect("known").cut().clone();
    let bytes = Load { write_bytes: 4_000 * 1024, write_ops: 10, ..Load::default() };
    reported(&mut mock, bytes, cut.clone());
    assert_eq!(asked(&mut mock, BUSY_MS), Ok((Cause::Busy, 1)));
    reported(&mut mock, Load { write_bytes: 2_900 * 1024, write_ops: 10, ..Load::default() }, cut.clone());
    assert_eq!(asked(&mut mock, BUSY_MS), Err(Reason::Content));
    reported(&mut mock, bytes, cut);
    mock.config.region_split_ops = 0;
    assert_eq!(asked(&mut mock, BUSY_MS), Err(Reason::Content));
}

#[test]
fn a_region_that_bears_little_of_what_its_stores_bear_is_not_split() {
    let mut mock = mock(2);
    let report = |mock: &mut Mock, id, ops| {
        let load = Load { read_ops: ops, ..Load::default() };
        let report = RegionReport { load, ..mock.region(id, &[10 + id % 2]) };
        mock.report(report);
    };
    // With its 5,000 that is 19,000, so half of what a store bears is 4,750.
    report(&mut mock, 2, 7_000);
    report(&mut mock, 3, 7_000);
    assert_eq!(asked(&mut mock, BUSY_MS), Ok((Cause::Busy, 1)));
    report(&mut mock, 3, 8_100);
    assert_eq!(asked(&mut mock, BUSY_MS), Err(Reason::Content), "half of 20,100 is 10,050");
}

#[test]
fn where_no_key_helps_nothing_is_split_and_the_reason_is_said() {
    let mut mock = mock(2);
    let load = Load { read_ops: 5_000, ..Load::default() };
    for (cut, reason, says) in [
        (LoadCut::Unknown, Reason::Unsampled, "no key to split it at is known yet"),
        (LoadCut::OneKey(93), Reason::OneKey(93), "one key has 93 % of its load"),
        (LoadCut::Lopsided(4), Reason::Lopsided(4), "the lesser part would bear 4 % of its load"),
        // Left over from before the region became another one, and its first key.
        (LoadCut::At(key(7)), Reason::Unsampled, "is too busy"),
        (LoadCut::At(key(1)), Reason::Unsampled, "is too busy"),
    ] {
        reported(&mut mock, load, cut);
        assert_eq!(asked(&mut mock, BUSY_MS), Err(reason));
        let influence = mock.influence();
        let view = mock.view(&influence);
        let info = mock.cluster.region(RegionId(1)).expect("known");
        let verdict = scheduler::verdict::of_region(&view, info, true);
        assert!(matches!(verdict, Verdict::Stuck(_)) && verdict.to_string().contains(says), "{verdict}");
    }
}

/// A part of the keys, which are numbers, as it is served.
#[derive(Clone, Debug)]
struct Part {
    keys: std::ops::Range<u64>,
    store: StoreId,
    peer: u64,
    epoch: Epoch,
}

/// A node with two stores. Loads are reported as stores do it: by region, over five seconds, and only from where it is now.
struct Life {
    scheduler: Scheduler,
    now: Time,
    parts: BTreeMap<u64, Part>,
    /// Operations per second of each key.
    rates: Vec<u64>,
    /// Bytes of each key.
    sizes: Vec<u64>,
    windows: VecDeque<BTreeMap<(u64, StoreId), u64>>,
    rng: Rng,
    splits: usize,
    moves: usize,
}

/// Keys of the region that clients ask for, and the bytes of each.
const KEYS: u64 = 1_000;
const KEY_BYTES: u64 = 4 << 10;

impl Life {
    /// The first region has keys with these rates, on the first store. No client asks for the `quiet` others, which have this number of bytes each and are
    /// dealt out to both.
    fn new(rates: impl Fn(u64) -> u64, quiet: u64, quiet_bytes: u64) -> Self {
        let disabled = vec![Policy::BalanceRegion, Policy::HotRegion];
        let config = Config { max_replicas: 1, region_split_ops: 3000, disabled, ..Config::default() };
        let now = Time(1_000_000);
        let mut scheduler = Scheduler::new(config, 1, now).expect("valid");
        scheduler.grant_ids(10_000..1_000_000);
        for store in STORES {
            let descriptor = StoreDescriptor::new(store, NodeId(1), format!("store{}", store.0));
            scheduler.put_store(descriptor, now).expect("joins");
        }
        let part =
            |keys, n: u64| Part { keys, store: STORES[n as usize % 2], peer: n + 100, epoch: Epoch::FIRST };
        let mut parts = BTreeMap::from([(2, part(0..KEYS, 0))]);
        parts.extend((1..=quiet).map(|n| (n + 10, part(KEYS + n - 1..KEYS + n, n))));
        let (mut rates, mut sizes): (Vec<u64>, Vec<u64>) =
            (0..KEYS).map(|key| (rates(key), KEY_BYTES)).unzip();
        rates.resize((KEYS + quiet) as usize, 0);
        sizes.resize((KEYS + quiet) as usize, quiet_bytes);
        let (windows, rng) = (VecDeque::new(), Rng::new(5));
        Self { scheduler, now, parts, rates, sizes, windows, rng, splits: 0, moves: 0 }
    }

    fn load_of(&self, part: &Part) -> u64 {
        self.rates[part.keys.start as usize..part.keys.end as usize].iter().sum()
    }

    /// Where the keys of a part would best be cut.
    fn cut(&self, part: &Part) -> LoadCut {
        let all = self.load_of(part);
        let (mut below, mut best) = (0, (0, part.keys.start));
        for border in part.keys.start + 1..part.keys.end {
            below += self.rates[border as usize - 1];
            best = best.max((below.min(all - below), border));
        }
        match best {
            (lesser, border) if lesser > 0 && lesser * 5 >= all => LoadCut::At(key(border)),
            _ => LoadCut::OneKey(100),
        }
    }

    fn second(&mut self) {
        self.now = self.now.plus_ms(1_000);
        let mut window = BTreeMap::new();
        for (id, part) in &self.parts {
            // Clients do not ask evenly.
            let noise = 90 + self.rng.next() % 21;
            window.insert((*id, part.store), self.load_of(part) * noise / 100);
        }
        self.windows.push_back(window);
        if self.windows.len() > 5 {
            self.windows.pop_front();
        }
        for store in STORES {
            self.scheduler.report_store(StoreReport::empty(store), self.now).expect("plausible");
        }
        let last = self.parts.values().map(|part| part.keys.end).max();
        // In any order.
        let turn = self.now.0 / 1_000 % self.parts.len() as u64;
        let mut parts: Vec<(u64, Part)> = self.parts.clone().into_iter().collect();
        parts.rotate_left(turn as usize);
        for (id, part) in parts {
            let counted = self.windows.iter().filter_map(|window| window.get(&(id, part.store))).sum::<u64>();
            let load = Load { read_ops: (counted / 5) as u32, ..Load::default() };
            let bound = |n: u64| if n == 0 || Some(n) == last { Key::empty() } else { key(n) };
            let range = KeyRange::new(bound(part.keys.start), bound(part.keys.end)).expect("rising");
            let peers = vec![Peer::voter(PeerId(part.peer), part.store)];
            let region = Region { id: RegionId(id), range, epoch: part.epoch, peers };
            let size_bytes = self.sizes[part.keys.start as usize..part.keys.end as usize].iter().sum();
            let report = RegionReport {
                size_bytes,
                load,
                cut: self.cut(&part),
                ..RegionReport::new(region, Some(PeerId(part.peer)))
            };
            self.scheduler.report_region(report, self.now).expect("honest");
        }
        drop(self.scheduler.tick(self.now));
        self.carry_out();
    }

    /// What was begun is done with the next second.
    fn carry_out(&mut self) {
        let begun: Vec<_> = self.scheduler.operators().iter().cloned().collect();
        for operator in begun {
            let id = operator.region.0;
            let part = self.parts.get_mut(&id).expect("it is here");
            match &operator.steps[0] {
                Step::Split { keys, new } => {
                    let [border] = &keys[..] else { panic!("{operator:?}") };
                    let border: u64 =
                        std::str::from_utf8(border.as_bytes()).expect("digits").parse().expect("a number");
                    part.epoch.version += 1;
                    let mut right = part.clone();
                    (part.keys.end, right.keys.start, right.peer) = (border, border, new[0].peers[0].0);
                    self.parts.insert(new[0].region.0, right);
                    self.splits += 1;
                }
                Step::AddSibling { store, .. } => {
                    (part.store, part.peer) = (*store, part.peer + 10_000_000);
                    part.epoch.conf_ver += 5;
                    self.moves += 1;
                    assert!(self.scheduler.cancel(operator.region, self.now), "it runs");
                }
                step => panic!("{step:?}"),
            }
        }
    }

    /// How much each store bears.
    fn loads(&self) -> [u64; 2] {
        let of = |store| {
            self.parts.values().filter(move |part| part.store == store).map(|part| self.load_of(part))
        };
        STORES.map(|store| of(store).sum())
    }
}

/// How a life ends: with even cores, or as it was.
fn lived(mut life: Life) -> Life {
    (0..300).for_each(|_| life.second());
    let (splits, moves) = (life.splits, life.moves);
    (0..600).for_each(|_| life.second());
    assert_eq!(life.scheduler.operators().load_splits(), splits as u64, "{:?}", life.parts);
    assert_eq!((life.splits, life.moves), (splits, moves), "it goes on and on: {:?}", life.parts);
    life
}

#[test]
fn a_hot_region_is_cut_and_both_stores_bear_its_load_whatever_sizes_say() {
    let even: fn(u64) -> u64 = |_| 20;
    // A tenth of the keys has four fifths of the load.
    let skewed: fn(u64) -> u64 = |key| if key < 100 { 160 } else { 4 };
    // Nothing else, many empty regions, and large ones beside which the hot region is next to nothing.
    for (quiet, quiet_bytes) in [(0, 0), (20, 0), (10, 100 * MIB)] {
        for rates in [even, skewed] {
            let life = lived(Life::new(rates, quiet, quiet_bytes));
            let [one, other] = life.loads();
            let percent = 100 * one.min(other) / (one + other);
            assert!(percent >= 40, "{quiet} others of {quiet_bytes}: {percent} per cent of {:?}", life.parts);
            assert!((1..=8).contains(&life.splits), "{} splits", life.splits);
            assert!((1..=10).contains(&life.moves), "{} moves", life.moves);
        }
    }
}

#[test]
fn one_hot_key_is_never_cut_and_nothing_moves_for_it() {
    let life = lived(Life::new(|key| if key == 500 { 20_000 } else { 1 }, 0, 0));
    assert_eq!((life.splits, life.moves), (0, 0), "{:?}", life.parts);
    let life = lived(Life::new(|_| 2, 0, 0));
    assert_eq!((life.splits, life.moves), (0, 0), "2,000 operations are not much");
}

#[test]
fn a_load_that_comes_and_goes_is_no_reason_to_cut() {
    let mut life = Life::new(|_| 0, 0, 0);
    for second in 0..600 {
        // Four seconds of ten.
        life.rates[..KEYS as usize].fill(if second % 10 < 4 { 10 } else { 0 });
        life.second();
    }
    assert_eq!((life.splits, life.moves), (0, 0), "4,000 a second for 4 s");
}
