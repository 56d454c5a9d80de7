//! Validation of requests, before anything is done.

use bytes::Bytes;

use super::keys::Keys;
use crate::request::VALUE_BYTES_MAX;
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

pub(super) fn no_ttl(ttl: u64) -> Result<(), Refused> {
    if ttl == 0 {
        return Ok(());
    }
    Err(format!("a time to live ({ttl} s) is not served; write without one and delete the key yourself"))
}
