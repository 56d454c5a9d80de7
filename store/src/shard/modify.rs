//! What a read-modify-write does to a value. Pure.

use bytes::Bytes;

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

/// Whether `change` appends to a value that is there. Redis sets one that is not.
pub fn appends(previous: Option<&Bytes>, change: &Change) -> bool {
    previous.is_some() && matches!(change, Change::Append { .. })
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
        Change::Add { delta } => add(previous.as_deref(), delta),
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
