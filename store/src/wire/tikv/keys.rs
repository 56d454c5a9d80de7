//! Keys of requests: how they are stored, by the API version that the client says it speaks.
//!
//! | version | the client sends | what is stored | the borders of regions, as it hears of them |
//! |---|---|---|---|
//! | V1, V1TTL | the user's key | that | as they are |
//! | V2 | `r`, three bytes for the keyspace, the user's key | that, [encoded](crate::keyspace) | decoded by it |
//!
//! What holds: every key of a request is checked before anything is done; a key of an answer is the one that the client would send.

use bytes::Bytes;

use super::check::Refused;
use crate::keyspace;
use crate::request::KEY_BYTES_MAX;
use crate::wire::proto::kvrpcpb::{ApiVersion, Context};

/// How the keys of a request are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// As they are sent.
    AsSent,
    /// Encoded, as raw keys of the only keyspace.
    OfKeyspace,
}

impl Keys {
    /// By the version that a request says.
    ///
    /// # Errors
    /// It is one that is not served.
    pub(super) fn of(context: Option<&Context>) -> Result<Self, Refused> {
        let number = context.map_or(0, |context| context.api_version);
        match ApiVersion::try_from(number) {
            // Every key may have a time to live, so the version that is about that differs in nothing.
            Ok(ApiVersion::V1 | ApiVersion::V1ttl) => Ok(Self::AsSent),
            Ok(ApiVersion::V2) => Ok(Self::OfKeyspace),
            Ok(version @ ApiVersion::V3) => Err(format!(
                "API version {} is not served: there is one keyspace; set the client to API version V1 or V2",
                version.as_str_name()
            )),
            Err(_) => Err(format!(
                "API version number {number} is not known here; set the client to API version V1 or V2"
            )),
        }
    }

    /// A key as it is stored.
    ///
    /// # Errors
    /// It is too long, or not one of the keyspace.
    pub(super) fn stored(self, key: Bytes) -> Result<Bytes, Refused> {
        match self {
            Self::AsSent => bounded(key, 0),
            Self::OfKeyspace if key.starts_with(&keyspace::PREFIX) => encoded(&key),
            Self::OfKeyspace => Err(outside(&key)),
        }
    }

    /// Keys as they are stored.
    ///
    /// # Errors
    /// As for one.
    pub(super) fn all_stored(self, keys: Vec<Bytes>) -> Result<Vec<Bytes>, Refused> {
        keys.into_iter().map(|key| self.stored(key)).collect()
    }

    /// The exclusive end of a range as it is stored; it may be that of the keyspace.
    ///
    /// # Errors
    /// As for a key.
    pub(super) fn stored_end(self, key: Bytes) -> Result<Bytes, Refused> {
        match self {
            Self::OfKeyspace if *key == keyspace::END => encoded(&key),
            Self::AsSent | Self::OfKeyspace => self.stored(key),
        }
    }

    /// A key as the client would send it.
    pub(super) fn sent(self, stored: Bytes) -> Bytes {
        match self {
            Self::AsSent => stored,
            // What others have written between the keys of the keyspace is shown as it is.
            Self::OfKeyspace => keyspace::decode(&stored).map_or(stored, Bytes::from),
        }
    }
}

fn encoded(key: &[u8]) -> Result<Bytes, Refused> {
    bounded(keyspace::encode(key).into(), keyspace::encode(key).len() - key.len())
}

/// `added` bytes of it are not the client's.
fn bounded(key: Bytes, added: usize) -> Result<Bytes, Refused> {
    if key.len() <= KEY_BYTES_MAX {
        return Ok(key);
    }
    let length = key.len() - added;
    let encoded = if added > 0 { format!(" ({} as it is stored)", key.len()) } else { String::new() };
    Err(format!("a key of {length} bytes{encoded} is over the bound of {KEY_BYTES_MAX}; use shorter keys"))
}

fn outside(key: &[u8]) -> Refused {
    let begin = &key[..key.len().min(keyspace::PREFIX.len())];
    format!(
        "a key of API version V2 that begins with \"{}\" is not served: raw keys of the keyspace {} are, which begin with \"{}\"",
        begin.escape_ascii(),
        keyspace::DEFAULT,
        keyspace::PREFIX.escape_ascii()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(api_version: i32) -> Result<Keys, Refused> {
        Keys::of(Some(&Context { api_version, ..Context::default() }))
    }

    #[test]
    fn a_refused_api_version_is_named_as_clients_name_it() {
        assert_eq!(
            (Keys::of(None), of(0), of(1), of(2)),
            (Ok(Keys::AsSent), Ok(Keys::AsSent), Ok(Keys::AsSent), Ok(Keys::OfKeyspace))
        );
        for (number, name) in [(3, "V3 is not served"), (9, "number 9 is not known")] {
            let sentence = of(number).unwrap_err();
            assert!(
                sentence.contains(name) && sentence.ends_with("set the client to API version V1 or V2"),
                "{sentence}"
            );
        }
    }

    #[test]
    fn a_key_of_the_keyspace_is_stored_encoded_and_comes_back_as_it_was_sent() {
        let sent = Bytes::from_static(b"r\0\0\0user:1");
        assert_eq!(Keys::AsSent.stored(sent.clone()), Ok(sent.clone()));
        let stored = Keys::OfKeyspace.stored(sent.clone()).unwrap();
        assert_eq!(stored, keyspace::encode(&sent));
        assert_eq!((Keys::OfKeyspace.sent(stored), Keys::AsSent.sent(sent.clone())), (sent.clone(), sent));
        for key in [&b"user:1"[..], b"", b"r\0\0", b"r\0\0\x01", b"x\0\0\0k"] {
            let refused = Keys::OfKeyspace.stored(Bytes::from_static(key)).unwrap_err();
            assert!(
                refused.contains("keyspace DEFAULT") && refused.contains("r\\x00\\x00\\x00"),
                "{refused}"
            );
        }
    }

    #[test]
    fn the_end_of_the_keyspace_is_an_end_and_no_key() {
        let end = Bytes::from_static(&keyspace::END);
        assert_eq!(Keys::OfKeyspace.stored_end(end.clone()).unwrap(), keyspace::borders().end);
        assert!(Keys::OfKeyspace.stored_end(Bytes::from_static(b"r\0\0\x01k")).is_err());
        assert!(Keys::OfKeyspace.stored_end(Bytes::new()).is_err(), "a range ends in the keyspace");
        assert_eq!(Keys::AsSent.stored_end(Bytes::new()), Ok(Bytes::new()));
    }

    #[test]
    fn the_bound_is_on_what_is_stored() {
        let long = |bytes: usize| Bytes::from([&keyspace::PREFIX[..], &vec![b'k'; bytes]].concat());
        assert!(Keys::AsSent.stored(Bytes::from(vec![b'k'; KEY_BYTES_MAX])).is_ok());
        let refused = Keys::AsSent.stored(Bytes::from(vec![b'k'; KEY_BYTES_MAX + 1])).unwrap_err();
        assert!(refused.starts_with("a key of 8193 bytes is over the bound of 8192"), "{refused}");
        assert!(Keys::OfKeyspace.stored(long(7270)).is_ok());
        let refused = Keys::OfKeyspace.stored(long(8000)).unwrap_err();
        assert!(refused.starts_with("a key of 8004 bytes (9009 as it is stored)"), "{refused}");
    }
}
