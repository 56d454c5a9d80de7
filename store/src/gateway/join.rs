//! The answers of several regions put together as one.

use super::retry::Routed;
use crate::memory::{AnswerBytes, charged_bytes};
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

pub(super) async fn join_done(parts: Vec<(Routed, ())>) -> Outcome {
    let mut first_refusal = None;
    for (pending, ()) in parts {
        if let Err(refusal) = pending.await {
            first_refusal.get_or_insert(refusal);
        }
    }
    // Another region's part may be durable although this one was refused: only the caller can tell what that means.
    first_refusal.map_or(Ok(Out::Done), Err)
}
