//! The meaning of every operation, told by a `BTreeMap`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;

use super::Outcome;
use crate::refusal::Refusal;
use crate::request::{Change, Op, Out, Route, Scan, When};

type Map = BTreeMap<Bytes, Bytes>;

#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Rc<RefCell<Map>>);

impl Memory {
    pub(super) fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.0.borrow().get(key).cloned()
    }

    pub(super) fn execute(&self, _route: Option<Route>, op: Op) -> Outcome {
        let map = &mut *self.0.borrow_mut();
        Ok(match op {
            Op::Get { key } => Out::Value(map.get(&key).cloned()),
            Op::BatchGet { keys } => Out::Values(keys.iter().map(|key| map.get(key).cloned()).collect()),
            Op::Lengths { keys } => {
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
            Op::Modify { key, change } => return modify(map, key, change),
            Op::Scan(scan) => Out::Pairs(pairs(map, &scan)),
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

fn modify(map: &mut Map, key: Bytes, change: Change) -> Outcome {
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
            let mut value = previous.unwrap_or_default().to_vec();
            value.extend_from_slice(&suffix);
            let length = value.len();
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
