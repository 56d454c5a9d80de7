//! The meaning of every operation, as defined by a `BTreeMap`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;

use crate::memory::Appended;
use crate::refusal::Refusal;
use crate::request::{Atomic, Change, Op, Out, Outcome, Scan, Seen, When};

type Map = BTreeMap<Bytes, Bytes>;

#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    map: Rc<RefCell<Map>>,
    writes: Rc<RefCell<Writes>>,
    appended: Appended,
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
            Op::BatchPut { pairs } => pairs.iter().map(|(key, _)| key).collect(),
            Op::BatchDelete { keys } => keys.iter().collect(),
            Op::DeleteRange { .. } => {
                self.last_range = self.so_far;
                return;
            }
            Op::Get { .. }
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

    pub(super) fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.map.borrow().get(key).cloned()
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
                let outcome = self.plain(op.clone());
                self.writes.borrow_mut().note(&op, &outcome);
                outcome
            }
        }
    }

    fn plain(&self, op: Op) -> Outcome {
        let map = &mut *self.map.borrow_mut();
        Ok(match op {
            Op::Get { key } => Out::Value(map.get(&key).cloned()),
            Op::BatchGet { keys, .. } => Out::Values(keys.iter().map(|key| map.get(key).cloned()).collect()),
            Op::Lengths { keys, ahead: _ } => {
                Out::Lengths(keys.iter().map(|key| map.get(key).map(Bytes::len)).collect())
            }
            Op::Put { key, value } => {
                map.insert(key, value);
                Out::Done
            }
            Op::BatchPut { pairs } => {
                map.extend(pairs);
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
            Op::Modify { key, change } => return modify(map, key, change, &self.appended),
            Op::Scan(scan) => Out::Pairs(pairs(map, &scan)),
            Op::Watch { .. } | Op::Atomic(_) => unreachable!("these are made of others"),
        })
    }
}

fn pairs(map: &Map, scan: &Scan) -> Vec<(Bytes, Bytes)> {
    let inside = |key: &Bytes| *key >= scan.start && (scan.end.is_empty() || *key < scan.end);
    let pair = |(key, value): (&Bytes, &Bytes)| {
        (key.clone(), if scan.key_only { Bytes::new() } else { value.clone() })
    };
    let found = map.iter().filter(|(key, _)| inside(key));
    if scan.reverse {
        found.rev().take(scan.limit).map(pair).collect()
    } else {
        found.take(scan.limit).map(pair).collect()
    }
}

fn modify(map: &mut Map, key: Bytes, change: Change, appended: &Appended) -> Outcome {
    let previous = map.get(&key).cloned();
    Ok(match change {
        Change::SetIf { value, when } => {
            let swapped = match when {
                When::Always => true,
                When::Absent => previous.is_none(),
                When::Present => previous.is_some(),
                When::Equals(expected) => previous == expected,
            };
            if swapped {
                map.insert(key, value);
            }
            Out::Swapped { swapped, previous }
        }
        Change::Take => Out::Value(map.remove(&key)),
        Change::Remove => Out::Existed(map.remove(&key).is_some()),
        Change::Append { suffix } => {
            let existed = previous.is_some();
            let mut value = previous.unwrap_or_default().to_vec();
            value.extend_from_slice(&suffix);
            let length = value.len();
            if existed {
                appended.note(&key, &value);
            }
            map.insert(key, value.into());
            Out::Length(length)
        }
        Change::Add { delta } => {
            let text = previous.unwrap_or_else(|| Bytes::from_static(b"0"));
            let read = std::str::from_utf8(&text).ok().and_then(|text| text.parse::<i64>().ok());
            let current = read.filter(|value| value.to_string().as_bytes() == text);
            let sum = current.ok_or(Refusal::NotAnInteger)?.checked_add(delta).ok_or(Refusal::Overflow)?;
            map.insert(key, sum.to_string().into());
            Out::Integer(sum)
        }
    })
}
