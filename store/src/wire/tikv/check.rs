//! Validation of requests, before anything is done.

use bytes::Bytes;

use crate::request::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::wire::proto::kvrpcpb::{Context, KvPair};

/// A sentence that names the culprit and the remedy.
pub(super) type Refused = String;

/// The fields that every raw request has.
pub(super) fn common(context: Option<&Context>, cf: &str) -> Result<(), Refused> {
    if !matches!(cf, "" | "default") {
        let cf: String = cf.chars().take(64).collect();
        return Err(format!(
            "column family {cf:?} is not served for raw keys; leave it out or say \"default\""
        ));
    }
    match context.map_or(0, |context| context.api_version) {
        0 => Ok(()),
        1 => Err("API version V1TTL is not served: keys have no time to live here; set the client to API version V1".to_owned()),
        2 => Err("API version V2 is not served: there are no keyspaces here; set the client to API version V1".to_owned()),
        version => Err(format!("API version number {version} is not known here; set the client to API version V1")),
    }
}

pub(super) fn key(key: &Bytes) -> Result<(), Refused> {
    if key.len() > KEY_BYTES_MAX {
        let length = key.len();
        return Err(format!(
            "a key of {length} bytes is over the bound of {KEY_BYTES_MAX}; use shorter keys"
        ));
    }
    Ok(())
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

pub(super) fn pairs(pairs: &[KvPair]) -> Result<(), Refused> {
    pairs.iter().try_for_each(|pair| {
        key(&pair.key)?;
        value(&pair.value)
    })
}

pub(super) fn no_ttl(ttl: u64) -> Result<(), Refused> {
    if ttl == 0 {
        return Ok(());
    }
    Err(format!("a time to live ({ttl} s) is not served; write without one and delete the key yourself"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_api_version_is_named_as_clients_name_it() {
        let refused = |api_version| common(Some(&Context { api_version, ..Context::default() }), "");
        assert_eq!(refused(0), Ok(()));
        for (number, name) in
            [(1, "V1TTL is not served"), (2, "V2 is not served"), (9, "number 9 is not known")]
        {
            let sentence = refused(number).unwrap_err();
            assert!(
                sentence.contains(name) && sentence.ends_with("set the client to API version V1"),
                "{sentence}"
            );
        }
    }
}
