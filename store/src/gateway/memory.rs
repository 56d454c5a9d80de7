//! The meaning of every operation, as defined by a `BTreeMap`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use engine::lsm::{TimedValue, Until, WallMs};
use engine::rt::Rt;

use crate::memory::Appended;
use crate::refusal::Refusal;
use crate::request::{
    Atomic, Change, ExpireWhen, Expiry, KeyExpiry, Op, Out, Outcome, Scan, Seen, VALUE_BYTES_MAX, When,
};
use crate::shard::long_double::LongDouble;

type Map = BTreeMap<Bytes, TimedValue>;

/// What the clock says where there is none: 2024-01-01.
const STILL: WallMs = WallMs(1_704_067_200_000);

#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    map: Rc<RefCell<Map>>,
    writes: Rc<RefCell<Writes>>,
    appended: Appended,
    clock: Option<Rt>,
    /// Whether anything was ever to expire.
    expires: Rc<Cell<bool>>,
}

/// Which write of all was the last of each key, for those who watch keys.
#[derive(Debug, Default)]
struct Writes {
    so_far: u64,
    last: BTreeMap<Bytes, u64>,
    last_range: u64,
}

impl Writes {
    fn seen(&self, key: &[u8]) -> Seen {
        Seen { term: self.last_range, number: self.last.get(key).copied().unwrap_or(0) }
    }

    fn note(&mut self, op: &Op, outcome: &Outcome) {
        self.so_far += 1;
        let Ok(out) = outcome else { return };
        let wrote = match out {
            Out::Swapped { swapped, .. } => *swapped,
            Out::Existed(existed) => *existed,
            Out::Value(value) => value.is_some(),
            Out::Done
            | Out::Values(_)
            | Out::Lengths(_)
            | Out::Length(_)
            | Out::Integer(_)
            | Out::Expiry(_)
            | Out::Pairs(_)
            | Out::Atomic(_)
            | Out::Seen(_)
            | Out::NoRoom => true,
        };
        let keys: Vec<&Bytes> = match op {
            Op::Put { key, .. } | Op::Delete { key, .. } | Op::Modify { key, .. } => match wrote {
                true => vec![key],
                false => return,
            },
            Op::PutAbsent { pairs } if wrote => pairs.iter().map(|(key, _)| key).collect(),
            Op::Copy { from, to, remove, replace: _ } if wrote && from != to => match remove {
                true => vec![from, to],
                false => vec![to],
            },
            Op::PutAbsent { .. } | Op::Copy { .. } => return,
            Op::BatchPut { pairs } => pairs.iter().map(|(key, _)| key).collect(),
            Op::PutTimed { puts } => puts.iter().map(|(key, ..)| key).collect(),
            Op::BatchDelete { keys } => keys.iter().collect(),
            Op::DeleteRange { .. } => {
                self.last_range = self.so_far;
                return;
            }
            Op::Get { .. }
            | Op::Expiry { .. }
            | Op::BatchGet { .. }
            | Op::Lengths { .. }
            | Op::Scan(_)
            | Op::Atomic(_)
            | Op::Watch { .. } => return,
        };
        self.last.extend(keys.into_iter().map(|key| (key.clone(), self.so_far)));
    }
}

impl Memory {
    /// Nothing, and where to note what was appended to.
    pub(super) fn new(appended: &Appended) -> Self {
        Self { appended: appended.clone(), ..Self::default() }
    }

    /// With a clock, by which values expire.
    pub(super) fn with_clock(self, rt: &Rt) -> Self {
        Self { clock: Some(rt.clone()), ..self }
    }

    fn now(&self) -> WallMs {
        self.clock.as_ref().map_or(STILL, |rt| rt.wall().into())
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.timed(key).map(|timed| timed.value)
    }

    fn timed(&self, key: &[u8]) -> Option<TimedValue> {
        self.map.borrow().get(key).cloned().and_then(|timed| timed.live(self.now()))
    }

    pub(super) fn execute(&self, op: Op) -> Outcome {
        match op {
            Op::Watch { keys } => {
                let writes = self.writes.borrow();
                Ok(Out::Seen(keys.iter().map(|key| writes.seen(key)).collect()))
            }
            Op::Atomic(Atomic { watched, steps }) => {
                let holds = |(key, seen): &(Bytes, Seen)| self.writes.borrow().seen(key) == *seen;
                if !watched.iter().all(holds) {
                    return Ok(Out::Atomic(None));
                }
                Ok(Out::Atomic(Some(steps.into_iter().map(|step| self.execute(step)).collect())))
            }
            op => {
                let before = if let Op::Modify { key, .. } = &op { self.timed(key) } else { None };
                let outcome = self.plain(op.clone());
                let writes_nothing = match &op {
                    Op::Modify { change: Change::SetRange { offset: _, value }, key: _ } => value.is_empty(),
                    Op::Modify { key, change: Change::SetBit { .. } } => {
                        before.is_some() && self.timed(key) == before
                    }
                    Op::Modify { change: Change::Expire { .. }, .. } => outcome == Ok(Out::Integer(0)),
                    Op::Modify { change: Change::GetTimed { expiry }, .. } => match &before {
                        Some(timed) => *expiry == Expiry::Never && timed.until == Until::NEVER,
                        None => true,
                    },
                    _as_its_outcome_says => false,
                };
                if !writes_nothing {
                    self.writes.borrow_mut().note(&op, &outcome);
                }
                outcome
            }
        }
    }

    fn plain(&self, op: Op) -> Outcome {
        let (map, now) = (&mut *self.map.borrow_mut(), self.now());
        let timed = |change: &Change| {
            matches!(change, Change::SetTimed { .. } | Change::Expire { .. } | Change::GetTimed { .. })
        };
        let about_expiry = match &op {
            Op::PutTimed { .. } => true,
            Op::Modify { change, .. } => timed(change),
            _others_keep_it => false,
        };
        self.expires.set(self.expires.get() || about_expiry);
        if self.expires.get() {
            map.retain(|_, timed| !timed.until.is_over(now));
        }
        let get = |map: &Map, key: &Bytes| map.get(key).map(|timed| timed.value.clone());
        Ok(match op {
            Op::Get { key } => Out::Value(get(map, &key)),
            Op::Expiry { key } => Out::Expiry(KeyExpiry::of(map.get(&key).map(|timed| timed.until), now)),
            Op::BatchGet { keys, .. } => Out::Values(keys.iter().map(|key| get(map, key)).collect()),
            Op::Lengths { keys, ahead: _ } => {
                Out::Lengths(keys.iter().map(|key| map.get(key).map(TimedValue::len)).collect())
            }
            Op::Put { key, value } => {
                map.insert(key, value.into());
                Out::Done
            }
            Op::BatchPut { pairs } => {
                map.extend(pairs.into_iter().map(|(key, value)| (key, value.into())));
                Out::Done
            }
            Op::PutTimed { puts } => {
                for (key, value, expiry) in puts {
                    let until = moment(expiry, Until::NEVER, now);
                    map.insert(key, TimedValue { value, until });
                }
                Out::Done
            }
            Op::Delete { key, count } => {
                let existed = map.remove(&key).is_some();
                if count { Out::Existed(existed) } else { Out::Done }
            }
            Op::BatchDelete { keys } => {
                map.retain(|key, _| !keys.contains(key));
                Out::Done
            }
            Op::DeleteRange { start, end } => {
                map.retain(|key, _| *key < start || (!end.is_empty() && *key >= end));
                Out::Done
            }
            Op::Modify { key, change } => return modify(map, key, change, &self.appended, now),
            Op::Scan(scan) => Out::Pairs(pairs(map, &scan)),
            Op::PutAbsent { pairs } => {
                let swapped = pairs.iter().all(|(key, _)| !map.contains_key(key));
                if swapped {
                    map.extend(pairs.into_iter().map(|(key, value)| (key, value.into())));
                }
                Out::Swapped { swapped, previous: None }
            }
            Op::Copy { from, to, remove, replace } => {
                let Some(value) = map.get(&from).cloned() else {
                    let refused = Err(Refusal::Invalid("no such key".to_owned()));
                    return if remove {
                        refused
                    } else {
                        Ok(Out::Swapped { swapped: false, previous: None })
                    };
                };
                let swapped = replace || !map.contains_key(&to);
                if swapped && remove {
                    map.remove(&from);
                }
                if swapped {
                    map.insert(to, value);
                }
                Out::Swapped { swapped, previous: None }
            }
            Op::Watch { .. } | Op::Atomic(_) => unreachable!("these are made of others"),
        })
    }
}

fn pairs(map: &Map, scan: &Scan) -> Vec<(Bytes, Bytes)> {
    let inside = |key: &Bytes| *key >= scan.start && (scan.end.is_empty() || *key < scan.end);
    let pair = |(key, timed): (&Bytes, &TimedValue)| {
        (key.clone(), if scan.key_only { Bytes::new() } else { timed.value.clone() })
    };
    let found = map.iter().filter(|(key, _)| inside(key));
    if scan.reverse {
        found.rev().take(scan.limit).map(pair).collect()
    } else {
        found.take(scan.limit).map(pair).collect()
    }
}

fn moment(expiry: Expiry, before: Until, now: WallMs) -> Until {
    match expiry {
        Expiry::Never => Until::NEVER,
        Expiry::Keep => before,
        Expiry::After(ms) => Until(now.0.saturating_add(ms).min(u64::MAX - 1)),
        Expiry::At(ms) => Until(ms.min(u64::MAX - 1)),
    }
}

/// Changes when the value of a key goes; says whether that was done.
fn expire(map: &mut Map, key: &Bytes, expiry: Expiry, when: ExpireWhen, now: WallMs) -> bool {
    let Some(timed) = map.get_mut(key) else { return false };
    let after = moment(expiry, timed.until, now);
    let (stays, before) = (timed.until == Until::NEVER, timed.until);
    let may = match when {
        ExpireWhen::Always => true,
        ExpireWhen::Stays => stays,
        ExpireWhen::Expires => !stays,
        ExpireWhen::Later => !stays && after > before,
        ExpireWhen::Earlier => after < before,
        ExpireWhen::ExpiresEarlier => !stays && after < before,
    };
    if may {
        timed.until = after;
    }
    may
}

fn modify(map: &mut Map, key: Bytes, change: Change, appended: &Appended, now: WallMs) -> Outcome {
    let (previous, until) = match map.get(&key) {
        Some(timed) => (Some(timed.value.clone()), timed.until),
        None => (None, Until::NEVER),
    };
    let timed = |value: Bytes| TimedValue { value, until };
    Ok(match change {
        Change::SetTimed { value, when, expiry } => {
            let out = modify(map, key.clone(), Change::SetIf { value, when }, appended, now)?;
            if let (Out::Swapped { swapped: true, .. }, Some(set)) = (&out, map.get_mut(&key)) {
                set.until = moment(expiry, until, now);
            }
            out
        }
        Change::Expire { expiry, when } => Out::Integer(expire(map, &key, expiry, when, now).into()),
        Change::GetTimed { expiry } => {
            expire(map, &key, expiry, ExpireWhen::Always, now);
            Out::Value(previous)
        }
        Change::SetIf { value, when } => {
            let swapped = match when {
                When::Always => true,
                When::Absent => previous.is_none(),
                When::Present => previous.is_some(),
                When::Equals(expected) => previous == expected,
            };
            if swapped {
                map.insert(key, value.into());
            }
            Out::Swapped { swapped, previous }
        }
        Change::Take => Out::Value(map.remove(&key).map(|timed| timed.value)),
        Change::Remove => Out::Existed(map.remove(&key).is_some()),
        Change::Append { suffix } => {
            let existed = previous.is_some();
            let mut value = previous.unwrap_or_default().to_vec();
            value.extend_from_slice(&suffix);
            let length = value.len();
            if existed {
                appended.note(&key, &value);
            }
            map.insert(key, timed(value.into()));
            Out::Length(length)
        }
        Change::SetRange { offset, value } => return set_range(map, key, offset, value, appended, until),
        Change::SetBit { offset, on } => {
            let mut value = previous.unwrap_or_default().to_vec();
            if value.len() <= offset / 8 {
                value.resize(offset / 8 + 1, 0);
            }
            let (byte, bit) = (&mut value[offset / 8], 7 - offset % 8);
            let was = *byte >> bit & 1;
            *byte = *byte & !(1 << bit) | u8::from(on) << bit;
            appended.note(&key, &value);
            map.insert(key, timed(value.into()));
            Out::Integer(was.into())
        }
        Change::AddFloat { delta } => {
            let read = |text: &[u8]| LongDouble::read(text);
            let value = previous.as_deref().map_or(read(b"0"), read);
            let (Some(value), Some(delta)) = (value, read(&delta)) else {
                return Err(Refusal::Invalid("value is not a valid float".to_owned()));
            };
            let Some(sum) = value.plus(delta) else {
                return Err(Refusal::Invalid("increment would produce NaN or Infinity".to_owned()));
            };
            let text = Bytes::from(sum.to_string());
            map.insert(key, timed(text.clone()));
            Out::Value(Some(text))
        }
        Change::Add { delta } => {
            let text = previous.unwrap_or_else(|| Bytes::from_static(b"0"));
            let read = std::str::from_utf8(&text).ok().and_then(|text| text.parse::<i64>().ok());
            let current = read.filter(|value| value.to_string().as_bytes() == text);
            let sum = current.ok_or(Refusal::NotAnInteger)?.checked_add(delta).ok_or(Refusal::Overflow)?;
            map.insert(key, timed(sum.to_string().into()));
            Out::Integer(sum)
        }
    })
}

fn set_range(
    map: &mut Map,
    key: Bytes,
    offset: usize,
    part: Bytes,
    appended: &Appended,
    until: Until,
) -> Outcome {
    let mut value = map.get(&key).map_or(Vec::new(), |timed| timed.value.to_vec());
    if part.is_empty() {
        return Ok(Out::Length(value.len()));
    }
    if offset + part.len() > VALUE_BYTES_MAX {
        return Err(Refusal::Invalid("string exceeds maximum allowed size (proto-max-bulk-len)".to_owned()));
    }
    (value.len()..offset).for_each(|_| value.push(0));
    let end = value.len().min(offset + part.len());
    value.splice(offset..end, part);
    appended.note(&key, &value);
    let length = value.len();
    map.insert(key, TimedValue { value: value.into(), until });
    Ok(Out::Length(length))
}
