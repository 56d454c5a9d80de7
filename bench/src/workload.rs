//! Which operation comes next: YCSB's core workloads (Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", 2010).
//!
//! | workload | mix | records asked for |
//! |---|---|---|
//! | A | 50 % read, 50 % update | zipfian |
//! | B | 95 % read, 5 % update | zipfian |
//! | C | 100 % read | zipfian |
//! | D | 95 % read, 5 % insert | latest |
//! | E | 95 % scan of 1 to 100 records, 5 % insert | zipfian |
//! | F | 50 % read, 50 % read-modify-write | zipfian |
//!
//! A record is one key and one value. Keys are `user` and a number that is hashed, so that records inserted one after the
//! other lie apart, as in YCSB. Pure: a generator draws only from its seed.

use std::collections::BTreeSet;

use crate::distribution::{Distribution, Zipfian};
use crate::random::{Random, mix};

/// One of the published mixes, or one kind of operation alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Half reads, half updates.
    A,
    /// Mostly reads.
    B,
    /// Only reads.
    C,
    /// Reads of what was just inserted.
    D,
    /// Short scans.
    E,
    /// Read-modify-write.
    F,
    /// Nothing but updates: the price of a durable write.
    Update,
}

/// Operations of a mix in per cent, in the order read, update, insert, scan, read-modify-write.
type Shares = [u8; 5];

impl Mix {
    /// The mix of that name (`a` to `f`, `update`), in any case.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "a" => Mix::A,
            "b" => Mix::B,
            "c" => Mix::C,
            "d" => Mix::D,
            "e" => Mix::E,
            "f" => Mix::F,
            "update" => Mix::Update,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Mix::A => "A",
            Mix::B => "B",
            Mix::C => "C",
            Mix::D => "D",
            Mix::E => "E",
            Mix::F => "F",
            Mix::Update => "update",
        }
    }

    fn shares(self) -> Shares {
        match self {
            Mix::A => [50, 50, 0, 0, 0],
            Mix::B => [95, 5, 0, 0, 0],
            Mix::C => [100, 0, 0, 0, 0],
            Mix::D => [95, 0, 5, 0, 0],
            Mix::E => [0, 0, 5, 95, 0],
            Mix::F => [50, 0, 0, 0, 50],
            Mix::Update => [0, 100, 0, 0, 0],
        }
    }
}

/// How requests spread over records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// What the mix's definition says.
    Published,
    /// Every record alike.
    Uniform,
}

/// A workload: a mix over records of one shape.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The mix.
    pub mix: Mix,
    /// How requests spread over records.
    pub spread: Spread,
    /// Records that the load phase writes; at least 1.
    pub records: u64,
    /// Length of a key, bytes; at least [`KEY_BYTES_MIN`].
    pub key_bytes: usize,
    /// Length of a value, bytes.
    pub value_bytes: usize,
    /// Maximum length of a scan, records.
    pub scan_records_max: u64,
}

/// `user` and 20 digits.
pub const KEY_BYTES_MIN: usize = 24;

/// What an operation is, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Reads one record.
    Read,
    /// Overwrites one record.
    Update,
    /// Writes a record that did not exist.
    Insert,
    /// Reads records in order.
    Scan,
    /// Reads one record, then overwrites it.
    ReadModifyWrite,
}

impl Kind {
    /// Every kind, in the order of a mix's shares.
    pub const ALL: [Kind; 5] = [Kind::Read, Kind::Update, Kind::Insert, Kind::Scan, Kind::ReadModifyWrite];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Update => "update",
            Kind::Insert => "insert",
            Kind::Scan => "scan",
            Kind::ReadModifyWrite => "read-modify-write",
        }
    }
}

/// The next operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What to do.
    pub kind: Kind,
    /// To which record.
    pub record: u64,
    /// How many records, for a scan.
    pub records: u64,
}

/// Draws operations. One per client core.
#[derive(Debug)]
pub struct Generator {
    workload: Workload,
    shares: Shares,
    distribution: Distribution,
    random: Random,
    inserted: Inserted,
    values: Vec<u8>,
}

/// Random bytes that values are cut from; making fresh ones for each request would cost more than sending it.
const VALUE_POOL_BYTES: usize = 1 << 20;

impl Generator {
    /// A generator over records that the load phase has written.
    pub fn new(workload: &Workload, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut values = vec![0; VALUE_POOL_BYTES + workload.value_bytes];
        random.fill(&mut values);
        let distribution = match (workload.spread, workload.mix) {
            (Spread::Uniform, _) => Distribution::Uniform,
            (Spread::Published, Mix::D) => Distribution::Latest(Zipfian::new(workload.records)),
            (Spread::Published, _) => Distribution::Zipfian(Zipfian::new(workload.records)),
        };
        Self {
            workload: workload.clone(),
            shares: workload.mix.shares(),
            distribution,
            random,
            inserted: Inserted::new(workload.records),
            values,
        }
    }

    /// The next operation.
    pub fn draw(&mut self) -> Operation {
        let kind = self.draw_kind();
        let record = match kind {
            Kind::Insert => self.inserted.reserve(),
            _ => self.distribution.next(&mut self.random, self.inserted.readable),
        };
        let records = match kind {
            Kind::Scan => 1 + self.random.below(self.workload.scan_records_max),
            _ => 1,
        };
        Operation { kind, record, records }
    }

    fn draw_kind(&mut self) -> Kind {
        let mut point = self.random.below(100) as u8;
        for (kind, share) in Kind::ALL.into_iter().zip(self.shares) {
            if point < share {
                return kind;
            }
            point -= share;
        }
        unreachable!("the shares of every mix add up to 100")
    }

    /// Says that an insert was acknowledged, so that reads may ask for it.
    pub fn acknowledge(&mut self, record: u64) {
        self.inserted.acknowledge(record);
    }

    /// A fresh value.
    pub fn value(&mut self) -> &[u8] {
        let at = self.random.below(VALUE_POOL_BYTES as u64) as usize;
        &self.values[at..at + self.workload.value_bytes]
    }

    /// Appends the key of a record to `into`.
    pub fn key(&self, record: u64, into: &mut Vec<u8>) {
        key(record, self.workload.key_bytes, into);
    }
}

/// Appends the key of a record to `into`: `user`, the hashed number in 20 digits, and padding.
pub fn key(record: u64, key_bytes: usize, into: &mut Vec<u8>) {
    let start = into.len();
    into.extend_from_slice(b"user00000000000000000000");
    let mut rest = mix(record);
    for digit in into[start + 4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    into.resize(start + key_bytes.max(KEY_BYTES_MIN), b'.');
}

/// Which records exist: every one below `readable`, and some beyond whose inserts overtook an earlier one.
#[derive(Debug)]
struct Inserted {
    readable: u64,
    reserved: u64,
    early: BTreeSet<u64>,
}

impl Inserted {
    fn new(records: u64) -> Self {
        Self { readable: records, reserved: records, early: BTreeSet::new() }
    }

    fn reserve(&mut self) -> u64 {
        self.reserved += 1;
        self.reserved - 1
    }

    fn acknowledge(&mut self, record: u64) {
        self.early.insert(record);
        while self.early.remove(&self.readable) {
            self.readable += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(mix: Mix) -> Workload {
        let (key_bytes, value_bytes) = (KEY_BYTES_MIN, 100);
        Workload {
            mix,
            spread: Spread::Published,
            records: 1000,
            key_bytes,
            value_bytes,
            scan_records_max: 100,
        }
    }

    #[test]
    fn every_mix_keeps_its_shares() {
        for mix in [Mix::A, Mix::B, Mix::C, Mix::D, Mix::E, Mix::F, Mix::Update] {
            assert_eq!(mix.shares().iter().map(|share| u32::from(*share)).sum::<u32>(), 100, "{mix:?}");
            assert_eq!(Mix::parse(mix.name()), Some(mix));
            let mut generator = Generator::new(&workload(mix), 1);
            let mut seen = [0u32; 5];
            for _ in 0..20_000 {
                let operation = generator.draw();
                seen[Kind::ALL.iter().position(|kind| *kind == operation.kind).expect("a kind")] += 1;
                assert!((1..=100).contains(&operation.records));
            }
            for (count, share) in seen.iter().zip(mix.shares()) {
                let per_cent = f64::from(*count) / 200.0;
                assert!((per_cent - f64::from(share)).abs() < 2.0, "{mix:?}: {seen:?}");
                assert_eq!(*count == 0, share == 0, "{mix:?}: {seen:?}");
            }
        }
    }

    #[test]
    fn reads_ask_only_for_what_was_acknowledged() {
        let mut generator = Generator::new(&workload(Mix::D), 2);
        let mut pending = Vec::new();
        for step in 0..50_000u64 {
            let operation = generator.draw();
            match operation.kind {
                Kind::Insert => pending.push(operation.record),
                _ => assert!(operation.record < 1000 || !pending.contains(&operation.record)),
            }
            if step % 7 == 0 && !pending.is_empty() {
                let which = (step as usize / 7) % pending.len();
                generator.acknowledge(pending.swap_remove(which));
            }
        }
        assert!(generator.inserted.readable > 1000);
    }

    #[test]
    fn keys_are_distinct_and_of_the_asked_length() {
        let mut seen = BTreeSet::new();
        for record in 0..10_000 {
            let mut bytes = Vec::new();
            key(record, 40, &mut bytes);
            assert_eq!(bytes.len(), 40);
            assert!(bytes.starts_with(b"user"));
            assert!(seen.insert(bytes), "record {record}");
        }
    }
}
