//! From requests and answers to their [stored](super::codec) form: lengths in the archive, bytes apart from it.

use bytes::Bytes;
use scheduler::Peer;

use super::codec::{
    EXPIRY_BYTES, StoredOp, StoredOut, StoredOutcome, StoredRefusal, StoredStep, StoredStepOutcome,
    StoredWhen,
};
use crate::refusal::Refusal;
use crate::request::{Atomic, Change, ExpireWhen, Expiry, KeyExpiry, Op, Out, Outcome, Scan, Seen, When};
use crate::wire::peer::messages::role_byte;

/// Keys and values that were put together.
#[derive(Default)]
pub(super) struct Blob {
    pub(super) bytes: Vec<u8>,
    /// Whether something of it is about expiry.
    pub(super) expires: bool,
}

impl Blob {
    fn put(&mut self, bytes: &[u8]) -> u32 {
        self.bytes.extend_from_slice(bytes);
        u32::try_from(bytes.len()).expect("keys, values and texts are far below 4 GiB")
    }

    fn all(&mut self, many: &[Bytes]) -> Vec<u32> {
        many.iter().map(|bytes| self.put(bytes)).collect()
    }

    fn pairs(&mut self, pairs: &[(Bytes, Bytes)]) -> Vec<(u32, u32)> {
        pairs.iter().map(|(key, value)| (self.put(key), self.put(value))).collect()
    }

    pub(super) fn op(&mut self, op: &Op) -> StoredOp {
        match op {
            Op::DeleteRange { start, end } => {
                StoredOp::DeleteRange { start: self.put(start), end: self.put(end) }
            }
            Op::Scan(Scan { start, end, limit, reverse, key_only, held_bytes, at_once }) => StoredOp::Scan {
                start: self.put(start),
                end: self.put(end),
                limit: *limit as u64,
                reverse: *reverse,
                key_only: *key_only,
                held_bytes: *held_bytes as u64,
                at_once: *at_once,
            },
            Op::Atomic(Atomic { watched, steps }) => StoredOp::Atomic {
                watched: watched
                    .iter()
                    .map(|(key, Seen { term, number })| (self.put(key), *term, *number))
                    .collect(),
                steps: steps.iter().map(|step| self.step(step)).collect(),
            },
            Op::Get { .. }
            | Op::Expiry { .. }
            | Op::PutTimed { .. }
            | Op::BatchGet { .. }
            | Op::Lengths { .. }
            | Op::Put { .. }
            | Op::BatchPut { .. }
            | Op::PutAbsent { .. }
            | Op::Copy { .. }
            | Op::Delete { .. }
            | Op::BatchDelete { .. }
            | Op::Modify { .. }
            | Op::Watch { .. } => StoredOp::Step(self.step(op)),
        }
    }

    fn step(&mut self, op: &Op) -> StoredStep {
        match op {
            Op::Get { key } => StoredStep::Get { key: self.put(key) },
            Op::BatchGet { keys, at_once } => {
                StoredStep::BatchGet { keys: self.all(keys), at_once: *at_once }
            }
            Op::Lengths { keys, ahead: _ } => StoredStep::Lengths { keys: self.all(keys) },
            Op::Put { key, value } => StoredStep::Put { key: self.put(key), value: self.put(value) },
            Op::Expiry { key } => {
                self.expires = true;
                StoredStep::Expiry { key: self.put(key) }
            }
            Op::PutTimed { puts } => {
                let put = |(key, value, expiry): &(Bytes, Bytes, Expiry)| {
                    (self.put(key), self.expiry(*expiry) + self.put(value))
                };
                StoredStep::PutTimed { puts: puts.iter().map(put).collect() }
            }
            Op::BatchPut { pairs } => StoredStep::BatchPut { pairs: self.pairs(pairs) },
            Op::PutAbsent { pairs } => StoredStep::PutAbsent { pairs: self.pairs(pairs) },
            Op::Copy { from, to, remove, replace } => StoredStep::Copy {
                from: self.put(from),
                to: self.put(to),
                remove: *remove,
                replace: *replace,
            },
            Op::Delete { key, count } => StoredStep::Delete { key: self.put(key), count: *count },
            Op::BatchDelete { keys } => StoredStep::BatchDelete { keys: self.all(keys) },
            Op::Watch { keys } => StoredStep::Watch { keys: self.all(keys) },
            Op::Modify { key, change } => {
                let key = self.put(key);
                match change {
                    Change::SetIf { value, when } => {
                        StoredStep::Set { key, value: self.put(value), when: self.when(when) }
                    }
                    Change::SetTimed { value, when, expiry } => StoredStep::SetTimed {
                        key,
                        value: self.expiry(*expiry) + self.put(value),
                        when: self.when(when),
                    },
                    Change::Expire { expiry, when } => {
                        let when = match when {
                            ExpireWhen::Always => 0,
                            ExpireWhen::Stays => 1,
                            ExpireWhen::Expires => 2,
                            ExpireWhen::Later => 3,
                            ExpireWhen::Earlier => 4,
                            ExpireWhen::ExpiresEarlier => 5,
                        };
                        StoredStep::Expire { key, expiry: self.expiry(*expiry), when }
                    }
                    Change::GetTimed { expiry } => StoredStep::GetTimed { key, expiry: self.expiry(*expiry) },
                    Change::Take => StoredStep::Take { key },
                    Change::Remove => StoredStep::Remove { key },
                    Change::Append { suffix } => StoredStep::Append { key, suffix: self.put(suffix) },
                    Change::Add { delta } => StoredStep::Add { key, delta: *delta },
                    Change::SetRange { offset, value } => {
                        StoredStep::SetRange { key, offset: place(*offset), value: self.put(value) }
                    }
                    Change::SetBit { offset, on } => {
                        StoredStep::SetBit { key, offset: place(*offset), on: *on }
                    }
                    Change::AddFloat { delta } => StoredStep::AddFloat { key, delta: self.put(delta) },
                }
            }
            Op::DeleteRange { .. } | Op::Scan(_) | Op::Atomic(_) => {
                unreachable!("a transaction with this step is refused where it is made")
            }
        }
    }

    /// Puts an expiry, before the value if it has one.
    fn expiry(&mut self, expiry: Expiry) -> u32 {
        self.expires = true;
        let (kind, ms) = match expiry {
            Expiry::Never => (0, 0),
            Expiry::Keep => (1, 0),
            Expiry::After(ms) => (2, ms),
            Expiry::At(ms) => (3, ms),
        };
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&ms.to_le_bytes());
        EXPIRY_BYTES as u32
    }

    fn key_expiry(&mut self, expiry: KeyExpiry) -> u32 {
        self.expires = true;
        match expiry {
            KeyExpiry::Absent => 0,
            KeyExpiry::Never => self.expiry(Expiry::Never),
            KeyExpiry::At { until_ms, left_ms } => {
                self.expiry(Expiry::At(until_ms)) + self.put(&left_ms.to_le_bytes())
            }
        }
    }

    fn when(&mut self, when: &When) -> StoredWhen {
        match when {
            When::Always => StoredWhen::Always,
            When::Absent => StoredWhen::Absent,
            When::Present => StoredWhen::Present,
            When::Equals(None) => StoredWhen::EqualsAbsent,
            When::Equals(Some(value)) => StoredWhen::Equals(self.put(value)),
        }
    }

    pub(super) fn outcome(&mut self, outcome: &Outcome) -> StoredOutcome {
        match outcome {
            Ok(Out::Atomic(steps)) => StoredOutcome::Atomic(steps.as_ref().map(|steps| {
                steps
                    .iter()
                    .map(|step| match step {
                        Ok(out) => StoredStepOutcome::Out(self.out(out)),
                        Err(refusal) => StoredStepOutcome::Refused(self.refusal(refusal)),
                    })
                    .collect()
            })),
            Ok(out) => StoredOutcome::Out(self.out(out)),
            Err(refusal) => StoredOutcome::Refused(self.refusal(refusal)),
        }
    }

    fn out(&mut self, out: &Out) -> StoredOut {
        match out {
            Out::Done => StoredOut::Done,
            Out::Value(value) => StoredOut::Value(value.as_ref().map(|value| self.put(value))),
            Out::Values(values) => StoredOut::Values(
                values.iter().map(|value| value.as_ref().map(|value| self.put(value))).collect(),
            ),
            Out::Lengths(lengths) => {
                StoredOut::Lengths(lengths.iter().map(|length| length.map(|length| length as u64)).collect())
            }
            Out::Existed(existed) => StoredOut::Existed(*existed),
            Out::Swapped { swapped, previous } => StoredOut::Swapped {
                swapped: *swapped,
                previous: previous.as_ref().map(|value| self.put(value)),
            },
            Out::Length(length) => StoredOut::Length(*length as u64),
            Out::Integer(integer) => StoredOut::Integer(*integer),
            Out::Pairs(pairs) => StoredOut::Pairs(self.pairs(pairs)),
            Out::NoRoom => StoredOut::NoRoom,
            Out::Expiry(expiry) => StoredOut::Expiry(self.key_expiry(*expiry)),
            Out::Seen(seen) => {
                StoredOut::Seen(seen.iter().map(|Seen { term, number }| (*term, *number)).collect())
            }
            Out::Atomic(_) => unreachable!("a step of a transaction is none itself"),
        }
    }

    fn refusal(&mut self, refusal: &Refusal) -> StoredRefusal {
        match refusal {
            Refusal::NotLeader { region_id, leader } => StoredRefusal::NotLeader {
                region: *region_id,
                leader: leader.as_ref().map(|Peer { id, store, role }| (id.0, store.0, role_byte(*role))),
            },
            Refusal::RegionNotFound { region_id } => StoredRefusal::RegionNotFound { region: *region_id },
            Refusal::KeyNotInRegion { .. } | Refusal::EpochNotMatch { .. } => StoredRefusal::Moved,
            Refusal::StoreNotMatch { asked, actual } => {
                StoredRefusal::StoreNotMatch { asked: *asked, actual: *actual }
            }
            Refusal::PeerNotMatch { asked, actual } => {
                StoredRefusal::PeerNotMatch { asked: *asked, actual: *actual }
            }
            Refusal::StaleCommand => StoredRefusal::StaleCommand,
            Refusal::Busy { reason: _, backoff_ms } => StoredRefusal::Busy { backoff_ms: *backoff_ms },
            Refusal::DiskFull { store_ids, reason: _ } => {
                StoredRefusal::DiskFull { stores: store_ids.clone() }
            }
            Refusal::SpansRegions { one, other } => {
                StoredRefusal::SpansRegions { one: self.put(one), other: self.put(other) }
            }
            Refusal::TooLarge { region_id, bytes, bytes_max } => StoredRefusal::TooLarge {
                region: *region_id,
                bytes: *bytes as u64,
                bytes_max: *bytes_max as u64,
            },
            Refusal::Damaged { file, what } => {
                StoredRefusal::Damaged { file: self.put(file.as_bytes()), what: self.put(what.as_bytes()) }
            }
            Refusal::Invalid(why) => StoredRefusal::Invalid(self.put(why.as_bytes())),
            Refusal::AnswerTooLarge { bytes_max } => {
                StoredRefusal::AnswerTooLarge { bytes_max: *bytes_max as u64 }
            }
            Refusal::NotAnInteger => StoredRefusal::NotAnInteger,
            Refusal::Overflow => StoredRefusal::Overflow,
            Refusal::Stopped(why) => StoredRefusal::Stopped(self.put(why.as_bytes())),
            Refusal::Unknown => StoredRefusal::Unknown,
        }
    }
}

/// A place in a value. One that lies beyond what a value may have is refused there as well as here.
fn place(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}
