//! The answers of several regions put together as one.

use super::retry::Routed;
use crate::memory::{AnswerBytes, charged_bytes};
use crate::refusal::Refusal;
use crate::request::{Out, Outcome};

/// The values of all parts, or [`Out::NoRoom`] if one has none.
pub(super) async fn join_values(parts: Vec<(Routed, Vec<usize>)>, len: usize, bytes_max: usize) -> Outcome {
    let (mut values, mut answer) = (vec![None; len], AnswerBytes::new(bytes_max, 0));
    for (pending, positions) in parts {
        let part = match pending.await? {
            Out::Values(part) => part,
            Out::NoRoom => return Ok(Out::NoRoom),
            other => unreachable!("a batch read was answered with {other:?}"),
        };
        part.iter().flatten().try_for_each(|value| answer.add(charged_bytes(value)))?;
        positions.into_iter().zip(part).for_each(|(position, value)| values[position] = value);
    }
    Ok(Out::Values(values))
}

pub(super) async fn join_lengths(parts: Vec<(Routed, Vec<usize>)>, len: usize) -> Outcome {
    let mut lengths = vec![None; len];
    for (pending, positions) in parts {
        let Out::Lengths(part) = pending.await? else {
            unreachable!("a read of lengths was answered with something else");
        };
        positions.into_iter().zip(part).for_each(|(position, length)| lengths[position] = length);
    }
    Ok(Out::Lengths(lengths))
}

/// What a write in several parts came to. One that was carried out in part is neither done nor refused.
pub(super) async fn join_done(parts: Vec<(Routed, ())>) -> Outcome {
    let (mut may_have_happened, mut first_refusal) = (false, None);
    for (pending, ()) in parts {
        match pending.await {
            Ok(_) => may_have_happened = true,
            Err(Refusal::Unknown) => {
                may_have_happened = true;
                first_refusal.get_or_insert(Refusal::Unknown);
            }
            Err(refusal) => {
                first_refusal.get_or_insert(refusal);
            }
        }
    }
    match first_refusal {
        None => Ok(Out::Done),
        Some(_) if may_have_happened => Err(Refusal::Unknown),
        Some(refusal) => Err(refusal),
    }
}
