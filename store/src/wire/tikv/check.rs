//! Validation of requests, before anything is done.

use bytes::Bytes;

use super::keys::Keys;
use crate::request::{Expiry, KeyExpiry, VALUE_BYTES_MAX};
use crate::wire::proto::kvrpcpb::Context;

/// A sentence that names the culprit and the remedy.
pub(super) type Refused = String;

/// The fields that every raw request has; says how its keys are stored.
pub(super) fn common(context: Option<&Context>, cf: &str) -> Result<Keys, Refused> {
    if !matches!(cf, "" | "default") {
        let cf: String = cf.chars().take(64).collect();
        return Err(format!(
            "column family {cf:?} is not served for raw keys; leave it out or say \"default\""
        ));
    }
    Keys::of(context)
}

pub(super) fn value(value: &Bytes) -> Result<(), Refused> {
    if value.len() > VALUE_BYTES_MAX {
        let length = value.len();
        return Err(format!(
            "a value of {length} bytes is over the bound of {VALUE_BYTES_MAX}; store it in parts"
        ));
    }
    Ok(())
}

/// A time to live in seconds, of which 0 means none.
pub(super) fn expiry(ttl: u64) -> Expiry {
    match ttl {
        0 => Expiry::Never,
        seconds => Expiry::After(seconds.saturating_mul(1000)),
    }
}

/// What is left of a time to live, in seconds: 0 means that a key stays, so one that goes has at least one.
pub(super) fn ttl(expiry: KeyExpiry) -> u64 {
    match expiry {
        KeyExpiry::Absent | KeyExpiry::Never => 0,
        KeyExpiry::At { until_ms: _, left_ms } => left_ms.div_ceil(1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_goes_within_a_second_is_not_said_to_stay() {
        let left = |left_ms| ttl(KeyExpiry::At { until_ms: 5_000, left_ms });
        assert_eq!((left(1), left(1000), left(1001), ttl(KeyExpiry::Never)), (1, 1, 2, 0));
        assert_eq!((expiry(0), expiry(2)), (Expiry::Never, Expiry::After(2000)));
    }
}
