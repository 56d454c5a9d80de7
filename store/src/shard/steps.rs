//! The steps of a transaction, run one after the other against values that are known already. No IO, and nothing of the store.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;
use engine::lsm::{TimedValue, Until, WallMs};

use super::modify::{Modified, edits, modify};
use crate::memory::{AnswerBytes, charged_bytes, is_short};
use crate::refusal::Refusal;
use crate::request::{Change, KeyExpiry, Op, Out, Outcome};

/// Values that one transaction looks at, answers with and makes, bytes.
pub(super) const VALUES_BYTES_MAX: usize = 64 << 20;
/// The keys of a transaction and what they hold, step by step.
#[derive(Debug)]
pub(super) struct Values {
    pub(super) by_key: BTreeMap<Bytes, Value>,
    /// The written keys in the order of their first write.
    pub(super) written: Vec<Bytes>,
    /// Keys whose values were edited in place, with what that made of them, if it is short.
    pub(super) appended: Vec<(Bytes, Bytes)>,
    /// Values looked at, answered and made, bytes.
    pub(super) bytes: usize,
    /// What the answer has come to: it copies a value as often as it is asked for.
    pub(super) answer: AnswerBytes,
    /// The moment by which it is decided what has expired, the same for all steps.
    pub(super) moment: WallMs,
}

#[derive(Debug)]
pub(super) struct Value {
    pub(super) now: Option<TimedValue>,
    pub(super) written: bool,
}

impl Values {
    pub(super) fn new(answer_bytes_max: usize, moment: WallMs) -> Self {
        let answer = AnswerBytes::new(answer_bytes_max, 0);
        Self { by_key: BTreeMap::new(), written: Vec::new(), appended: Vec::new(), bytes: 0, answer, moment }
    }

    pub(super) fn add(&mut self, key: &Bytes, now: Option<TimedValue>) {
        if let Entry::Vacant(place) = self.by_key.entry(key.clone()) {
            self.bytes += now.as_ref().map_or(0, TimedValue::len);
            place.insert(Value { now, written: false });
        }
    }

    pub(super) fn check_bytes(&self) -> Result<(), Refusal> {
        if self.bytes <= VALUES_BYTES_MAX {
            return Ok(());
        }
        Err(Refusal::Invalid(format!(
            "the transaction reads and makes more than {VALUES_BYTES_MAX} bytes of values, take fewer commands at a time"
        )))
    }

    /// Runs one step. The outer error refuses the whole transaction.
    pub(super) fn run(&mut self, step: Op) -> Result<Outcome, Refusal> {
        let out = match step {
            Op::Get { key } => Out::Value(self.answer(&key)?),
            Op::BatchGet { keys, .. } => {
                Out::Values(keys.iter().map(|key| self.answer(key)).collect::<Result<_, _>>()?)
            }
            Op::Lengths { keys, ahead: _ } => {
                let length = |key| self.timed(key).map(TimedValue::len);
                Out::Lengths(keys.iter().map(length).collect())
            }
            Op::Expiry { key } => {
                Out::Expiry(KeyExpiry::of(self.timed(&key).map(|timed| timed.until), self.moment))
            }
            Op::Put { key, value } => {
                self.write(key, Some(value.into()));
                Out::Done
            }
            Op::BatchPut { pairs } => {
                pairs.into_iter().for_each(|(key, value)| self.write(key, Some(value.into())));
                Out::Done
            }
            Op::PutTimed { puts } => {
                for (key, value, expiry) in puts {
                    let until = expiry.until(Until::NEVER, self.moment);
                    self.write(key, TimedValue { value, until }.live(self.moment));
                }
                Out::Done
            }
            Op::Delete { key, count: true } => Out::Existed(self.remove(key)),
            Op::Delete { key, count: false } => {
                self.write(key, None);
                Out::Done
            }
            Op::BatchDelete { keys } => {
                keys.into_iter().for_each(|key| self.write(key, None));
                Out::Done
            }
            Op::Modify { key, change } => return self.modify(key, change),
            Op::PutAbsent { pairs } => {
                let swapped = !pairs.iter().any(|(key, _)| self.has(key));
                if swapped {
                    pairs.into_iter().for_each(|(key, value)| self.write(key, Some(value.into())));
                }
                Out::Swapped { swapped, previous: None }
            }
            Op::Copy { from, to, remove, replace } => match self.copy(from, to, remove, replace) {
                Ok(swapped) => Out::Swapped { swapped, previous: None },
                Err(refusal) => return Ok(Err(refusal)),
            },
            Op::DeleteRange { .. } | Op::Scan(_) | Op::Atomic(_) | Op::Watch { .. } => {
                return Err(no_step());
            }
        };
        self.check_bytes()?;
        Ok(Ok(out))
    }

    /// The value of `key` as a part of the answer.
    fn answer(&mut self, key: &Bytes) -> Result<Option<Bytes>, Refusal> {
        Ok(self.answer_timed(key)?.map(|timed| timed.value))
    }

    fn answer_timed(&mut self, key: &Bytes) -> Result<Option<TimedValue>, Refusal> {
        let now = self.read(key);
        if let Some(timed) = &now {
            self.answer.add(charged_bytes(&timed.value))?;
        }
        Ok(now)
    }

    /// What there is of `key` at the moment of the transaction.
    fn timed(&self, key: &Bytes) -> Option<&TimedValue> {
        let now = self.by_key.get(key).and_then(|value| value.now.as_ref());
        now.filter(|timed| !timed.until.is_over(self.moment))
    }

    fn read(&mut self, key: &Bytes) -> Option<TimedValue> {
        let now = self.timed(key).cloned();
        self.bytes += now.as_ref().map_or(0, TimedValue::len);
        now
    }

    fn write(&mut self, key: Bytes, now: Option<TimedValue>) {
        self.bytes += now.as_ref().map_or(0, TimedValue::len);
        let value = self.by_key.entry(key.clone()).or_insert(Value { now: None, written: false });
        value.now = now;
        if !std::mem::replace(&mut value.written, true) {
            self.written.push(key);
        }
    }

    fn has(&self, key: &Bytes) -> bool {
        self.timed(key).is_some()
    }

    /// Whether `to` has got the value of `from`, or has had it before.
    fn copy(&mut self, from: Bytes, to: Bytes, remove: bool, replace: bool) -> Result<bool, Refusal> {
        let Some(value) = self.read(&from) else {
            return if remove { Err(Refusal::Invalid(NO_SUCH_KEY.to_owned())) } else { Ok(false) };
        };
        if !replace && self.has(&to) {
            return Ok(false);
        }
        if from != to {
            self.write(to, Some(value));
            if remove {
                self.write(from, None);
            }
        }
        Ok(true)
    }

    fn remove(&mut self, key: Bytes) -> bool {
        let existed = self.has(&key);
        if existed {
            self.write(key, None);
        }
        existed
    }

    fn modify(&mut self, key: Bytes, change: Change) -> Result<Outcome, Refusal> {
        let before = match &change {
            Change::SetIf { .. } | Change::SetTimed { .. } | Change::GetTimed { .. } | Change::Take => {
                self.answer_timed(&key)?
            }
            Change::Append { .. }
            | Change::SetRange { .. }
            | Change::SetBit { .. }
            | Change::Add { .. }
            | Change::AddFloat { .. }
            | Change::Expire { .. }
            | Change::Remove => self.read(&key),
        };
        let answers = matches!(&change, Change::AddFloat { .. });
        let edits = edits(before.as_ref().map(|timed| &timed.value), &change);
        let Modified { write, out } = match modify(before, change, self.moment) {
            Ok(modified) => modified,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Some(now) = write {
            if edits {
                let short = now.as_ref().filter(|timed| is_short(&timed.value));
                self.appended.extend(short.map(|timed| (key.clone(), timed.value.clone())));
            }
            self.write(key, now);
        }
        if let Out::Value(Some(made)) = &out
            && answers
        {
            self.answer.add(charged_bytes(made))?;
        }
        self.check_bytes()?;
        Ok(Ok(out))
    }
}

/// In the words of Redis.
const NO_SUCH_KEY: &str = "no such key";

/// Why an operation that is a step of a transaction alone is refused by itself.
pub(super) fn step_alone() -> Refusal {
    Refusal::Invalid("several keys are set or moved under a condition by a transaction alone".to_owned())
}

pub(super) fn no_step() -> Refusal {
    Refusal::Invalid("a range has no place in a transaction".to_owned())
}
