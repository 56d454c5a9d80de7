//! The gateway over real stores means the same as the gateway over a map.

use std::path::Path;

use bytes::Bytes;
use engine::rt::Rt;
use store::gateway::Gateway;
use store::refusal::Refusal;
use store::request::{Change, ExpireWhen, Expiry, KeyExpiry, Op, Out, Outcome, Scan, When};

use crate::node::with_node;

/// A change of when a value goes, or one that says it. Moments are so far away, or so long ago, that it does not matter when the two
/// worlds look at their clocks.
pub(super) fn change_of_expiry(below: &mut dyn FnMut(u64) -> u64, value: Bytes) -> Change {
    let when = [
        ExpireWhen::Always,
        ExpireWhen::Stays,
        ExpireWhen::Expires,
        ExpireWhen::Later,
        ExpireWhen::Earlier,
        ExpireWhen::ExpiresEarlier,
    ][below(6) as usize];
    match below(6) {
        0 => Change::GetTimed { expiry: expiry(below) },
        1 | 2 => {
            let when = [When::Always, When::Absent, When::Present][below(3) as usize].clone();
            Change::SetTimed { value, when, expiry: expiry(below) }
        }
        3 => Change::Expire { expiry: Expiry::Never, when: ExpireWhen::Expires },
        _ => {
            // Of two that count from now neither is certain to be the later one.
            let expiry = match (expiry(below), when) {
                (expiry, ExpireWhen::Always | ExpireWhen::Stays | ExpireWhen::Expires) => expiry,
                (Expiry::After(ms), _) => Expiry::At(ms + 33_177_117_420_000),
                (expiry, _) => expiry,
            };
            Change::Expire { expiry, when }
        }
    }
}

pub(super) fn expiry(below: &mut dyn FnMut(u64) -> u64) -> Expiry {
    match below(7) {
        0 => Expiry::Never,
        1 => Expiry::Keep,
        2 => Expiry::At(1 + below(1000)),
        3 => Expiry::After(0),
        4 => Expiry::After(1_000_000_000 + below(1000)),
        _ => Expiry::At(33_177_117_420_000 + below(5)),
    }
}

/// An outcome without what depends on when exactly a clock was looked at.
pub(super) fn plain(outcome: Outcome) -> Outcome {
    outcome.map(|out| match out {
        Out::Expiry(KeyExpiry::At { until_ms, left_ms: _ }) => {
            // The moments that count from now are rounded.
            let is_far = until_ms >= 33_177_117_420_000;
            let until_ms = if is_far { until_ms } else { until_ms / 100_000_000 };
            Out::Expiry(KeyExpiry::At { until_ms, left_ms: 0 })
        }
        Out::Atomic(Some(steps)) => Out::Atomic(Some(steps.into_iter().map(plain).collect())),
        other => other,
    })
}

/// What a seed decides.
struct Rng(engine::rt::rng::Rng);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0.next()
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Few keys, over several regions, the one behind all others included, so that operations meet.
    fn key(&mut self) -> Bytes {
        let first = b"05AKUaz\xff\xff"[self.below(9) as usize];
        let length = if first == 0xff { [1, 20][self.below(2) as usize] } else { 1 };
        let mut key = vec![first; length];
        key.push(b'0' + self.below(4) as u8);
        Bytes::from(key)
    }

    fn value(&mut self) -> Bytes {
        if self.below(4) == 0 {
            return Bytes::from(self.below(100).to_string());
        }
        Bytes::from(vec![b'v'; self.below(40) as usize])
    }

    fn keys(&mut self) -> Vec<Bytes> {
        (0..self.below(6)).map(|_| self.key()).collect()
    }

    fn range(&mut self) -> (Bytes, Bytes) {
        let (one, two) = (self.key(), self.key());
        let (start, end) = if one < two { (one, two) } else { (two, one) };
        match self.below(5) {
            0 => (Bytes::new(), end),
            1 => (start, Bytes::new()),
            _ => (start, end),
        }
    }

    fn op(&mut self) -> Op {
        let key = self.key();
        match self.below(16) {
            0 => Op::Get { key },
            13 => Op::Expiry { key },
            14 => {
                let puts = self.keys().into_iter();
                let puts =
                    puts.map(|key| (key, self.value(), expiry(&mut |bound| self.below(bound)))).collect();
                Op::PutTimed { puts }
            }
            15 => {
                let value = self.value();
                let change = change_of_expiry(&mut |bound| self.below(bound), value);
                Op::Modify { key, change }
            }
            1 => Op::BatchGet { keys: self.keys(), at_once: false },
            2 | 3 => Op::Put { key, value: self.value() },
            4 => Op::BatchPut { pairs: self.keys().into_iter().map(|key| (key, self.value())).collect() },
            5 => Op::Delete { key, count: self.below(2) == 0 },
            6 => Op::BatchDelete { keys: self.keys() },
            7 if self.below(4) == 0 => {
                let (start, end) = self.range();
                Op::DeleteRange { start, end }
            }
            7 | 8 => {
                let (start, end) = self.range();
                let limit = self.below(20) as usize + 1;
                Op::Scan(Scan {
                    start,
                    end,
                    limit,
                    reverse: self.below(2) == 0,
                    key_only: self.below(3) == 0,
                    held_bytes: 0,
                    at_once: false,
                })
            }
            _ => Op::Modify { key, change: self.change() },
        }
    }

    fn change(&mut self) -> Change {
        match self.below(10) {
            0 => Change::Take,
            1 => Change::Remove,
            2 => Change::Append { suffix: self.value() },
            3 => Change::Add { delta: self.below(50) as i64 - 25 },
            4 | 5 => Change::SetRange { offset: self.below(30) as usize, value: self.value() },
            6 => Change::SetBit { offset: self.below(300) as usize, on: self.below(2) == 0 },
            7 => Change::AddFloat { delta: format!("{}.5", self.below(50) as i64 - 25).into() },
            _ => {
                let when = match self.below(4) {
                    0 => When::Always,
                    1 => When::Absent,
                    2 => When::Present,
                    _ => When::Equals((self.below(2) == 0).then(|| self.value())),
                };
                Change::SetIf { value: self.value(), when }
            }
        }
    }
}

fn is_read(op: &Op) -> bool {
    matches!(op, Op::Get { .. } | Op::Expiry { .. } | Op::BatchGet { .. } | Op::Scan(_))
}

/// Submits operations in bursts, as a pipeline does: writes of a burst are not awaited before the next is submitted. Reads wait
/// for what was submitted before them, and what comes after waits for them, because a scan over several regions sees each of
/// them at its own moment.
pub(super) async fn compare(seed: u64, steps: usize, real: &Gateway, model: &Gateway) {
    let mut rng = Rng(engine::rt::rng::Rng::new(seed));
    let mut in_flight: Vec<(Op, store::gateway::Submitted, Outcome)> = Vec::new();
    for _ in 0..steps {
        let op = rng.op();
        if is_read(&op) || rng.below(8) == 0 {
            settle(seed, &mut in_flight).await;
        }
        let expected = model.submit(None, op.clone()).await;
        let read = is_read(&op);
        in_flight.push((op.clone(), real.submit(None, op), expected));
        if read {
            settle(seed, &mut in_flight).await;
        }
    }
    settle(seed, &mut in_flight).await;
}

async fn settle(seed: u64, in_flight: &mut Vec<(Op, store::gateway::Submitted, Outcome)>) {
    for (op, submitted, expected) in in_flight.drain(..) {
        assert_eq!(plain(submitted.await), plain(expected), "seed {seed}: {op:?}");
    }
}

pub(super) async fn everything(gateway: &Gateway) -> Vec<(Bytes, Bytes)> {
    let scan = Scan { limit: 100_000, ..Scan::default() };
    match gateway.submit(None, Op::Scan(scan)).await {
        Ok(Out::Pairs(pairs)) => pairs,
        other => panic!("{other:?}"),
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn run(dir: &Path, stores: usize, cores: usize, seed: u64, steps: usize) -> Vec<(Bytes, Bytes)> {
    with_node(dir, stores, cores, move |rt: Rt, gateway| async move {
        let model = Gateway::in_memory().with_clock(&rt);
        compare(seed, steps, &gateway, &model).await;
        let found = everything(&gateway).await;
        assert_eq!(found, everything(&model).await, "seed {seed}");
        found
    })
}

#[test]
fn one_store_means_the_same_as_a_map() {
    let dir = folder();
    run(dir.path(), 1, 1, 1, 3000);
}

#[test]
fn stores_on_two_cores_mean_the_same_as_a_map() {
    let dir = folder();
    run(dir.path(), 4, 2, 2, 3000);
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart_with_fewer_cores() {
    let dir = folder();
    let before = run(dir.path(), 4, 2, 3, 1500);
    assert!(!before.is_empty(), "the test wrote nothing that stayed");
    let after = with_node(dir.path(), 4, 1, |_, gateway| async move { everything(&gateway).await });
    assert_eq!(after, before);
}

#[test]
fn sizes_above_the_limits_are_refused_and_the_limits_themselves_are_not() {
    let dir = folder();
    with_node(dir.path(), 1, 1, |_, gateway| async move {
        let put = |key: usize, value: usize| {
            gateway.submit(None, Op::Put { key: vec![b'k'; key].into(), value: vec![b'v'; value].into() })
        };
        assert_eq!(put(8 << 10, 8 << 20).await, Ok(Out::Done));
        assert!(matches!(put((8 << 10) + 1, 1).await, Err(Refusal::Invalid(_))));
        assert!(matches!(put(1, (8 << 20) + 1).await, Err(Refusal::Invalid(_))));
        let modify = |change| gateway.submit(None, Op::Modify { key: "part".into(), change });
        let set_range =
            |offset, value: &'static str| modify(Change::SetRange { offset, value: value.into() });
        assert_eq!(set_range((8 << 20) - 2, "xy").await, Ok(Out::Length(8 << 20)));
        assert!(matches!(set_range((8 << 20) - 1, "xy").await, Err(Refusal::Invalid(_))));
        assert!(matches!(set_range(usize::MAX, "xy").await, Err(Refusal::Invalid(_))));
        assert_eq!(set_range(usize::MAX, "").await, Ok(Out::Length(8 << 20)), "it writes nothing");
        let set_bit = |offset| modify(Change::SetBit { offset, on: true });
        assert_eq!(set_bit((64 << 20) - 1).await, Ok(Out::Integer(1)));
        assert!(matches!(set_bit(64 << 20).await, Err(Refusal::Invalid(_))));
        let add = |delta: usize| modify(Change::AddFloat { delta: vec![b'1'; delta].into() });
        assert!(matches!(add(1 << 20).await, Err(Refusal::Invalid(_))));
    });
}
