//! Operations taken apart along the borders of regions.
//!
//! Each part names the place that the routes of this moment have for it, which the store checks when the part arrives.

use std::rc::Rc;

use bytes::Bytes;
use engine::lsm::UNTIL_BYTES;

use crate::refusal::Refusal;
use crate::region::command::encoded_bytes;
use crate::request::{Expiry, Op, Scan};
use crate::shard::placed::Placed;
use crate::shard::routes::Routes;

/// A place and what to do there.
pub(super) type Part = (Rc<Placed>, Op);

/// A place, what to read there, and the positions of the keys in the whole answer.
pub(super) type Read = (Rc<Placed>, Op, Vec<usize>);

/// An operation taken apart.
pub(super) enum Parts {
    One(Rc<Placed>, Op),
    /// It is not known where this key, one of those of the operation, is now.
    Nowhere(Op, Bytes),
    Refused(Refusal),
    Scan(Scan),
    /// Reads with the positions of their keys in the answer, and all keys.
    Get(Vec<Read>, Vec<Bytes>),
    /// The same for lengths, and how many.
    Lengths(Vec<Read>, usize),
    Write(Vec<Part>),
}

impl Parts {
    fn write(parts: Result<Vec<Part>, Bytes>, op: Op) -> Self {
        match parts {
            Err(key) => Parts::Nowhere(op, key),
            Ok(mut parts) if parts.len() == 1 => {
                let (place, op) = parts.remove(0);
                Parts::One(place, op)
            }
            Ok(parts) => Parts::Write(parts),
        }
    }

    /// Takes `op` apart.
    pub(super) fn of(routes: &Routes, op: Op) -> Self {
        match op {
            Op::Get { ref key }
            | Op::Expiry { ref key }
            | Op::Put { ref key, .. }
            | Op::Delete { ref key, .. }
            | Op::Modify { ref key, .. } => match routes.find(key) {
                Some(place) => Parts::One(place.clone(), op),
                None => {
                    let key = key.clone();
                    Parts::Nowhere(op, key)
                }
            },
            Op::BatchGet { keys, at_once } => {
                match split_reads(routes, &keys, |keys| Op::BatchGet { keys, at_once }) {
                    Ok(parts) => Parts::Get(parts, keys),
                    Err(key) => Parts::Nowhere(Op::BatchGet { keys, at_once }, key),
                }
            }
            Op::Lengths { keys, ahead } => {
                match split_reads(routes, &keys, |keys| Op::Lengths { keys, ahead }) {
                    Ok(parts) => Parts::Lengths(parts, keys.len()),
                    Err(key) => Parts::Nowhere(Op::Lengths { keys, ahead }, key),
                }
            }
            Op::BatchPut { ref pairs } => {
                let parts = by_region(routes, pairs, |(key, _)| key);
                let put = |(place, pairs)| (place, Op::BatchPut { pairs });
                Parts::write(parts.map(|parts| parts.into_iter().map(put).collect()), op)
            }
            Op::PutTimed { ref puts } => {
                let parts = by_region(routes, puts, |(key, ..)| key);
                let put = |(place, puts)| (place, Op::PutTimed { puts });
                Parts::write(parts.map(|parts| parts.into_iter().map(put).collect()), op)
            }
            Op::BatchDelete { ref keys } => {
                let parts = by_region(routes, keys, |key| key);
                let delete = |(place, keys)| (place, Op::BatchDelete { keys });
                Parts::write(parts.map(|parts| parts.into_iter().map(delete).collect()), op)
            }
            Op::DeleteRange { ref start, ref end } => Parts::write(ranges(routes, start.clone(), end), op),
            Op::Scan(scan) => Parts::Scan(scan),
            Op::Atomic(ref atomic) => Self::of_one_region(routes, &atomic.keys(), op),
            Op::Watch { ref keys } => Self::of_one_region(routes, &keys.clone(), op),
            Op::PutAbsent { ref pairs } => {
                let keys: Vec<Bytes> = pairs.iter().map(|(key, _)| key.clone()).collect();
                Self::of_one_region(routes, &keys, op)
            }
            Op::Copy { ref from, ref to, remove: _, replace: _ } => {
                Self::of_one_region(routes, &[from.clone(), to.clone()], op)
            }
        }
    }

    /// To the one region that has all of `keys`.
    fn of_one_region(routes: &Routes, keys: &[Bytes], op: Op) -> Self {
        let Some((first, rest)) = keys.split_first() else {
            return Parts::Refused(Refusal::Invalid("a transaction without keys".to_owned()));
        };
        let Some(place) = routes.find(first) else { return Parts::Nowhere(op, first.clone()) };
        match rest.iter().find(|key| !place.contains(key)) {
            None => Parts::One(place.clone(), op),
            Some(other) => Parts::Refused(Refusal::SpansRegions { one: first.clone(), other: other.clone() }),
        }
    }
}

/// Has a read answered with [`Out::NoRoom`](crate::request::Out::NoRoom) rather than wait.
pub(super) fn ask_at_once(op: &mut Op) {
    match op {
        Op::BatchGet { keys: _, at_once } => *at_once = true,
        other => unreachable!("{other:?} is no part of a read of values"),
    }
}

/// The size of a batch of writes as one command, bytes.
pub(super) fn command_bytes(op: &Op) -> usize {
    match op {
        Op::BatchPut { pairs } => {
            encoded_bytes(pairs.len(), pairs.iter().map(|(key, value)| key.len() + value.len()).sum())
        }
        Op::PutTimed { puts } => {
            let bytes = |(key, value, _): &(Bytes, Bytes, Expiry)| key.len() + UNTIL_BYTES + value.len();
            encoded_bytes(puts.len(), puts.iter().map(bytes).sum())
        }
        Op::BatchDelete { keys } => encoded_bytes(keys.len(), keys.iter().map(Bytes::len).sum()),
        // Of one region, which checks it when it is admitted.
        Op::Get { .. }
        | Op::Expiry { .. }
        | Op::BatchGet { .. }
        | Op::Lengths { .. }
        | Op::Put { .. }
        | Op::Delete { .. }
        | Op::DeleteRange { .. }
        | Op::Modify { .. }
        | Op::Atomic(_)
        | Op::Watch { .. }
        | Op::PutAbsent { .. }
        | Op::Copy { .. }
        | Op::Scan(_) => 0,
    }
}

fn split_reads(routes: &Routes, keys: &[Bytes], read: impl Fn(Vec<Bytes>) -> Op) -> Result<Vec<Read>, Bytes> {
    let places: Vec<(usize, Bytes)> = keys.iter().cloned().enumerate().collect();
    let parts = by_region(routes, &places, |(_, key)| key)?;
    let parts = parts.into_iter().map(|(place, places)| {
        let (positions, keys) = places.into_iter().unzip();
        (place, read(keys), positions)
    });
    Ok(parts.collect())
}

/// A place and what belongs there.
type Grouped<T> = (Rc<Placed>, Vec<T>);

/// Groups `items` by the region of their key, in the order of each region's first item; the first key of which it is not known where it
/// is, if there is one.
fn by_region<T: Clone>(
    routes: &Routes,
    items: &[T],
    key: impl Fn(&T) -> &Bytes,
) -> Result<Vec<Grouped<T>>, Bytes> {
    let mut parts: Vec<Grouped<T>> = Vec::new();
    // Keys of one command mostly lie together, so the region of the one before is looked at first.
    let mut latest: Option<(&Rc<Placed>, usize)> = None;
    for item in items {
        if let Some((_, at)) = latest.filter(|(place, _)| place.contains(key(item))) {
            parts[at].1.push(item.clone());
            continue;
        }
        let place = routes.find(key(item)).ok_or_else(|| key(item).clone())?;
        let at = parts.iter().position(|(other, _)| Rc::ptr_eq(other, place)).unwrap_or_else(|| {
            parts.push((place.clone(), Vec::new()));
            parts.len() - 1
        });
        parts[at].1.push(item.clone());
        latest = Some((place, at));
    }
    Ok(parts)
}

/// One range deletion per region that `[start, end)` touches.
fn ranges(routes: &Routes, mut start: Bytes, end: &Bytes) -> Result<Vec<Part>, Bytes> {
    let mut parts = Vec::new();
    while end.is_empty() || start < *end {
        let place = routes.find(&start).ok_or_else(|| start.clone())?;
        let last = place.end.is_empty() || (!end.is_empty() && *end <= place.end);
        let upto = if last { end.clone() } else { place.end.clone() };
        parts.push((place.clone(), Op::DeleteRange { start, end: upto }));
        if last {
            break;
        }
        start = place.end.clone();
    }
    Ok(parts)
}
