//! What a read-modify-write does to a value. Pure.

use bytes::Bytes;

use super::long_double::{LongDouble, TEXT_BYTES_MAX};
use crate::refusal::Refusal;
use crate::request::{Change, Out, VALUE_BYTES_MAX, When};

/// The outcome of a change before it is durable.
#[derive(Debug, PartialEq, Eq)]
pub struct Modified {
    /// What to write; `None` changes nothing, `Some(None)` deletes.
    pub write: Option<Option<Bytes>>,
    /// The answer, once the write is durable.
    pub out: Out,
}

/// A value would become longer than values may be, in the words of Redis.
pub const TOO_LONG: &str = "string exceeds maximum allowed size (proto-max-bulk-len)";
/// A bit lies beyond what values may have, or is none, in the words of Redis.
pub const NO_BIT_OFFSET: &str = "bit offset is not an integer or out of range";
/// In the words of Redis.
pub const NOT_A_FLOAT: &str = "value is not a valid float";
/// In the words of Redis.
pub const NOT_FINITE: &str = "increment would produce NaN or Infinity";

/// Whether what `change` makes of a value is what Redis calls raw, however it looks: it was edited in place. An append to nothing sets it.
pub fn edits(previous: Option<&Bytes>, change: &Change) -> bool {
    match change {
        Change::Append { .. } => previous.is_some(),
        Change::SetRange { .. } | Change::SetBit { .. } => true,
        Change::SetIf { .. }
        | Change::Take
        | Change::Remove
        | Change::Add { .. }
        | Change::AddFloat { .. } => false,
    }
}

/// Refuses a change that makes a value longer than values may be, whatever it was before.
pub fn check_change(change: &Change) -> Result<(), Refusal> {
    let invalid = |why: &str| Err(Refusal::Invalid(why.to_owned()));
    match change {
        Change::SetRange { offset, value }
            if !value.is_empty() && offset.saturating_add(value.len()) > VALUE_BYTES_MAX =>
        {
            invalid(TOO_LONG)
        }
        Change::SetBit { offset, on: _ } if offset / 8 >= VALUE_BYTES_MAX => invalid(NO_BIT_OFFSET),
        Change::AddFloat { delta } if delta.len() > TEXT_BYTES_MAX => invalid(NOT_A_FLOAT),
        Change::SetRange { .. }
        | Change::SetBit { .. }
        | Change::AddFloat { .. }
        | Change::SetIf { .. }
        | Change::Take
        | Change::Remove
        | Change::Append { .. }
        | Change::Add { .. } => Ok(()),
    }
}

/// Applies `change` to the value that the key has now.
pub fn modify(previous: Option<Bytes>, change: Change) -> Result<Modified, Refusal> {
    match change {
        Change::SetIf { value, when } => Ok(set_if(previous, value, &when)),
        Change::Take => {
            let write = previous.is_some().then_some(None);
            Ok(Modified { write, out: Out::Value(previous) })
        }
        Change::Remove => {
            let existed = previous.is_some();
            Ok(Modified { write: existed.then_some(None), out: Out::Existed(existed) })
        }
        Change::Append { suffix } => append(previous.unwrap_or_default(), &suffix),
        Change::SetRange { offset, value } => {
            check_change(&Change::SetRange { offset, value: value.clone() })?;
            Ok(set_range(previous, offset, &value))
        }
        Change::SetBit { offset, on } => {
            check_change(&Change::SetBit { offset, on })?;
            Ok(set_bit(previous, offset, on))
        }
        Change::Add { delta } => add(previous.as_deref(), delta),
        Change::AddFloat { delta } => add_float(previous.as_deref(), &delta),
    }
}

fn set_if(previous: Option<Bytes>, value: Bytes, when: &When) -> Modified {
    let swapped = match when {
        When::Always => true,
        When::Absent => previous.is_none(),
        When::Present => previous.is_some(),
        When::Equals(expected) => previous == *expected,
    };
    Modified { write: swapped.then_some(Some(value)), out: Out::Swapped { swapped, previous } }
}

fn append(previous: Bytes, suffix: &[u8]) -> Result<Modified, Refusal> {
    let length = previous.len() + suffix.len();
    if length > VALUE_BYTES_MAX {
        return Err(Refusal::Invalid(format!(
            "value would have {length} bytes, more than {VALUE_BYTES_MAX}"
        )));
    }
    let mut value = Vec::with_capacity(length);
    value.extend_from_slice(&previous);
    value.extend_from_slice(suffix);
    Ok(Modified { write: Some(Some(value.into())), out: Out::Length(length) })
}

/// `previous` with `part` at `offset`.
fn overwritten(previous: &[u8], offset: usize, part: &[u8]) -> Vec<u8> {
    let end = offset + part.len();
    let mut value = Vec::with_capacity(end.max(previous.len()));
    value.extend_from_slice(previous);
    if value.len() < end {
        value.resize(end, 0);
    }
    value[offset..end].copy_from_slice(part);
    value
}

fn set_range(previous: Option<Bytes>, offset: usize, part: &[u8]) -> Modified {
    let previous = previous.unwrap_or_default();
    if part.is_empty() {
        return Modified { write: None, out: Out::Length(previous.len()) };
    }
    let value = overwritten(&previous, offset, part);
    let length = value.len();
    Modified { write: Some(Some(value.into())), out: Out::Length(length) }
}

/// A bit that is what it is to be already changes nothing, unless the value is shorter: so a watched key has not changed.
fn set_bit(previous: Option<Bytes>, offset: usize, on: bool) -> Modified {
    let (place, bit) = (offset / 8, 0x80 >> (offset % 8));
    let before = previous.as_deref().and_then(|value| value.get(place)).copied();
    let was = before.unwrap_or(0) & bit != 0;
    let out = Out::Integer(was.into());
    if before.is_some() && was == on {
        return Modified { write: None, out };
    }
    let byte = if on { before.unwrap_or(0) | bit } else { before.unwrap_or(0) & !bit };
    let value = overwritten(previous.as_deref().unwrap_or_default(), place, &[byte]);
    Modified { write: Some(Some(value.into())), out }
}

fn add_float(previous: Option<&[u8]>, delta: &[u8]) -> Result<Modified, Refusal> {
    let read = |text| LongDouble::read(text).ok_or_else(|| Refusal::Invalid(NOT_A_FLOAT.to_owned()));
    let (value, delta) = (read(previous.unwrap_or(b"0"))?, read(delta)?);
    let sum = value.plus(delta).ok_or_else(|| Refusal::Invalid(NOT_FINITE.to_owned()))?;
    let text = Bytes::from(sum.to_string());
    Ok(Modified { write: Some(Some(text.clone())), out: Out::Value(Some(text)) })
}

fn add(previous: Option<&[u8]>, delta: i64) -> Result<Modified, Refusal> {
    let value = integer(previous.unwrap_or(b"0")).ok_or(Refusal::NotAnInteger)?;
    let sum = value.checked_add(delta).ok_or(Refusal::Overflow)?;
    Ok(Modified { write: Some(Some(sum.to_string().into())), out: Out::Integer(sum) })
}

/// Reads a decimal integer in the one form that printing it gives back: no sign but a minus, no leading zeros, no spaces.
fn integer(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let value: i64 = text.parse().ok()?;
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !text.starts_with('+') && (digits == "0" && text == "0" || !digits.starts_with('0'));
    plain.then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_integers_can_be_added_to() {
        let cases = [
            (None, 5, Ok(5)),
            (Some("41"), 1, Ok(42)),
            (Some("-1"), -1, Ok(-2)),
            (Some("+1"), 1, Err(Refusal::NotAnInteger)),
            (Some("01"), 1, Err(Refusal::NotAnInteger)),
            (Some("-0"), 1, Err(Refusal::NotAnInteger)),
            (Some(" 1"), 1, Err(Refusal::NotAnInteger)),
            (Some(""), 1, Err(Refusal::NotAnInteger)),
            (Some("9223372036854775808"), -1, Err(Refusal::NotAnInteger)),
            (Some("9223372036854775807"), 1, Err(Refusal::Overflow)),
            (Some("-9223372036854775808"), -1, Err(Refusal::Overflow)),
            (Some("9223372036854775806"), 1, Ok(i64::MAX)),
        ];
        for (before, delta, expected) in cases {
            let before = before.map(|text| Bytes::from_static(text.as_bytes()));
            let out = modify(before.clone(), Change::Add { delta }).map(|modified| modified.out);
            assert_eq!(out, expected.map(Out::Integer), "{before:?} + {delta}");
        }
    }

    #[test]
    fn a_condition_that_does_not_hold_writes_nothing() {
        let value = || Bytes::from_static(b"new");
        let before = Some(Bytes::from_static(b"old"));
        let modified = modify(before.clone(), Change::SetIf { value: value(), when: When::Absent }).unwrap();
        assert_eq!(
            modified,
            Modified { write: None, out: Out::Swapped { swapped: false, previous: before } }
        );
        let modified = modify(None, Change::SetIf { value: value(), when: When::Absent }).unwrap();
        assert_eq!(modified.write, Some(Some(value())));
    }

    #[test]
    fn an_append_past_the_limit_is_refused() {
        let before = Some(Bytes::from(vec![0; VALUE_BYTES_MAX]));
        assert!(modify(before, Change::Append { suffix: Bytes::from_static(b"x") }).is_err());
    }
}
