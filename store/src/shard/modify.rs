//! What a read-modify-write does to a value. Pure: what has expired is decided by a moment that is handed in.

use bytes::Bytes;
use engine::lsm::{TimedValue, Until, WallMs};

use super::long_double::{LongDouble, TEXT_BYTES_MAX};
use crate::refusal::Refusal;
use crate::request::{Change, Expiry, Out, VALUE_BYTES_MAX, When};

/// The outcome of a change before it is durable.
#[derive(Debug, PartialEq, Eq)]
pub struct Modified {
    /// What to write; `None` changes nothing, `Some(None)` deletes.
    pub write: Option<Option<TimedValue>>,
    /// The answer, once the write is durable.
    pub out: Out,
}

/// The same before it is known until when the value is there.
struct Made {
    write: Option<Option<Bytes>>,
    out: Out,
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
        | Change::SetTimed { .. }
        | Change::Expire { .. }
        | Change::GetTimed { .. }
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
        | Change::SetTimed { .. }
        | Change::Expire { .. }
        | Change::GetTimed { .. }
        | Change::Take
        | Change::Remove
        | Change::Append { .. }
        | Change::Add { .. } => Ok(()),
    }
}

/// Applies `change` to the value that the key has `now`.
pub fn modify(previous: Option<TimedValue>, change: Change, now: WallMs) -> Result<Modified, Refusal> {
    let (previous, was) = match previous.and_then(|timed| timed.live(now)) {
        Some(TimedValue { value, until }) => (Some(value), until),
        None => (None, Until::NEVER),
    };
    let until = match &change {
        Change::SetIf { .. } => Until::NEVER,
        Change::SetTimed { expiry, .. } | Change::Expire { expiry, .. } | Change::GetTimed { expiry } => {
            expiry.until(was, now)
        }
        Change::Append { .. }
        | Change::SetRange { .. }
        | Change::SetBit { .. }
        | Change::Add { .. }
        | Change::AddFloat { .. }
        | Change::Take
        | Change::Remove => was,
    };
    let Made { write, out } = make(previous, change, (was, until))?;
    // What would be over at once is a delete.
    let timed = |value| TimedValue { value, until }.live(now);
    Ok(Modified { write: write.map(|value| value.and_then(timed)), out })
}

fn make(previous: Option<Bytes>, change: Change, (was, until): (Until, Until)) -> Result<Made, Refusal> {
    match change {
        Change::SetIf { value, when } | Change::SetTimed { value, when, expiry: _ } => {
            Ok(set_if(previous, value, &when))
        }
        Change::Expire { expiry: _, when } => {
            let changed = previous.filter(|_| when.holds(was, until));
            let out = Out::Integer(changed.is_some().into());
            Ok(Made { write: changed.map(Some), out })
        }
        Change::GetTimed { expiry } => {
            let changes = expiry != Expiry::Never || was != Until::NEVER;
            let write = previous.clone().filter(|_| changes).map(Some);
            Ok(Made { write, out: Out::Value(previous) })
        }
        Change::Take => {
            let write = previous.is_some().then_some(None);
            Ok(Made { write, out: Out::Value(previous) })
        }
        Change::Remove => {
            let existed = previous.is_some();
            Ok(Made { write: existed.then_some(None), out: Out::Existed(existed) })
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

fn set_if(previous: Option<Bytes>, value: Bytes, when: &When) -> Made {
    let swapped = match when {
        When::Always => true,
        When::Absent => previous.is_none(),
        When::Present => previous.is_some(),
        When::Equals(expected) => previous == *expected,
    };
    Made { write: swapped.then_some(Some(value)), out: Out::Swapped { swapped, previous } }
}

fn append(previous: Bytes, suffix: &[u8]) -> Result<Made, Refusal> {
    let length = previous.len() + suffix.len();
    if length > VALUE_BYTES_MAX {
        return Err(Refusal::Invalid(format!(
            "value would have {length} bytes, more than {VALUE_BYTES_MAX}"
        )));
    }
    let mut value = Vec::with_capacity(length);
    value.extend_from_slice(&previous);
    value.extend_from_slice(suffix);
    Ok(Made { write: Some(Some(value.into())), out: Out::Length(length) })
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

fn set_range(previous: Option<Bytes>, offset: usize, part: &[u8]) -> Made {
    let previous = previous.unwrap_or_default();
    if part.is_empty() {
        return Made { write: None, out: Out::Length(previous.len()) };
    }
    let value = overwritten(&previous, offset, part);
    let length = value.len();
    Made { write: Some(Some(value.into())), out: Out::Length(length) }
}

/// A bit that is what it is to be already changes nothing, unless the value is shorter: so a watched key has not changed.
fn set_bit(previous: Option<Bytes>, offset: usize, on: bool) -> Made {
    let (place, bit) = (offset / 8, 0x80 >> (offset % 8));
    let before = previous.as_deref().and_then(|value| value.get(place)).copied();
    let was = before.unwrap_or(0) & bit != 0;
    let out = Out::Integer(was.into());
    if before.is_some() && was == on {
        return Made { write: None, out };
    }
    let byte = if on { before.unwrap_or(0) | bit } else { before.unwrap_or(0) & !bit };
    let value = overwritten(previous.as_deref().unwrap_or_default(), place, &[byte]);
    Made { write: Some(Some(value.into())), out }
}

fn add_float(previous: Option<&[u8]>, delta: &[u8]) -> Result<Made, Refusal> {
    let read = |text| LongDouble::read(text).ok_or_else(|| Refusal::Invalid(NOT_A_FLOAT.to_owned()));
    let (value, delta) = (read(previous.unwrap_or(b"0"))?, read(delta)?);
    let sum = value.plus(delta).ok_or_else(|| Refusal::Invalid(NOT_FINITE.to_owned()))?;
    let text = Bytes::from(sum.to_string());
    Ok(Made { write: Some(Some(text.clone())), out: Out::Value(Some(text)) })
}

fn add(previous: Option<&[u8]>, delta: i64) -> Result<Made, Refusal> {
    let value = integer(previous.unwrap_or(b"0")).ok_or(Refusal::NotAnInteger)?;
    let sum = value.checked_add(delta).ok_or(Refusal::Overflow)?;
    Ok(Made { write: Some(Some(sum.to_string().into())), out: Out::Integer(sum) })
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
    use crate::request::ExpireWhen;

    const NOW: WallMs = WallMs(100);

    fn timed(value: &str, until: Until) -> TimedValue {
        TimedValue { value: Bytes::copy_from_slice(value.as_bytes()), until }
    }

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
            let before = before.map(|text| timed(text, Until::NEVER));
            let out = modify(before.clone(), Change::Add { delta }, NOW).map(|modified| modified.out);
            assert_eq!(out, expected.map(Out::Integer), "{before:?} + {delta}");
        }
    }

    #[test]
    fn a_condition_that_does_not_hold_writes_nothing() {
        let value = || Bytes::from_static(b"new");
        let before = timed("old", Until(101));
        let set = || Change::SetIf { value: value(), when: When::Absent };
        let modified = modify(Some(before.clone()), set(), NOW).unwrap();
        let out = Out::Swapped { swapped: false, previous: Some(before.value.clone()) };
        assert_eq!(modified, Modified { write: None, out });
        for absent in [None, Some(TimedValue { until: Until(100), ..before })] {
            let modified = modify(absent, set(), NOW).unwrap();
            assert_eq!(modified.write, Some(Some(value().into())));
            assert_eq!(modified.out, Out::Swapped { swapped: true, previous: None });
        }
    }

    /// Each change of a value that goes at 150, and of one that stays.
    #[test]
    fn what_is_made_of_a_value_goes_when_it_did_unless_it_is_said() {
        let moment = |before: Until, change: Change| {
            let write = modify(Some(timed("7", before)), change, NOW).unwrap().write;
            write.map(|value| value.map(|timed| timed.until))
        };
        let part = || Bytes::from_static(b"1");
        let (soon, later) = (Until(150), Until(160));
        let keeping: [fn(Bytes) -> Change; 5] = [
            |suffix| Change::Append { suffix },
            |value| Change::SetRange { offset: 3, value },
            |_| Change::SetBit { offset: 0, on: true },
            |_| Change::Add { delta: 1 },
            |delta| Change::AddFloat { delta },
        ];
        for change in keeping {
            for before in [soon, Until::NEVER] {
                assert_eq!(moment(before, change(part())), Some(Some(before)), "{:?}", change(part()));
            }
        }
        assert_eq!(
            moment(soon, Change::SetIf { value: part(), when: When::Present }),
            Some(Some(Until::NEVER))
        );
        for (expiry, after) in [
            (Expiry::Never, Some(Until::NEVER)),
            (Expiry::Keep, Some(soon)),
            (Expiry::After(60), Some(later)),
            (Expiry::At(160), Some(later)),
            (Expiry::At(100), None),
            (Expiry::After(u64::MAX), Some(Until(u64::MAX - 1))),
        ] {
            let set = Change::SetTimed { value: part(), when: When::Always, expiry };
            assert_eq!(moment(soon, set), Some(after), "{expiry:?}");
            assert_eq!(moment(soon, Change::Expire { expiry, when: ExpireWhen::Always }), Some(after));
            assert_eq!(moment(soon, Change::GetTimed { expiry }), Some(after));
        }
        assert_eq!(moment(Until::NEVER, Change::GetTimed { expiry: Expiry::Never }), None, "nothing changes");
    }

    #[test]
    fn an_expiry_changes_only_under_its_condition() {
        use ExpireWhen::{Always, Earlier, Expires, ExpiresEarlier, Later, Stays};
        let (early, soon, late) = (Expiry::At(120), Until(150), Expiry::At(180));
        for (when, before, expiry, changes) in [
            (Always, soon, early, true),
            (Stays, soon, early, false),
            (Stays, Until::NEVER, early, true),
            (Expires, soon, early, true),
            (Expires, Until::NEVER, early, false),
            (Later, soon, late, true),
            (Later, soon, Expiry::At(150), false),
            (Later, soon, early, false),
            (Later, Until::NEVER, late, false),
            (Earlier, soon, early, true),
            (Earlier, soon, Expiry::At(150), false),
            (Earlier, Until::NEVER, late, true),
            (ExpiresEarlier, Until::NEVER, late, false),
            (ExpiresEarlier, soon, early, true),
        ] {
            let Modified { write, out } =
                modify(Some(timed("v", before)), Change::Expire { expiry, when }, NOW).unwrap();
            assert_eq!(
                (write.is_some(), out),
                (changes, Out::Integer(changes.into())),
                "{when:?} {before:?} {expiry:?}"
            );
        }
        let absent = modify(None, Change::Expire { expiry: late, when: Always }, NOW).unwrap();
        assert_eq!(absent, Modified { write: None, out: Out::Integer(0) });
    }

    #[test]
    fn an_append_past_the_limit_is_refused() {
        let before = TimedValue::from(Bytes::from(vec![0; VALUE_BYTES_MAX]));
        assert!(modify(Some(before), Change::Append { suffix: Bytes::from_static(b"x") }, NOW).is_err());
    }
}
