//! When a value goes: the words for it, and how it lies beside its value.
//!
//! ```text
//! dated value := until:u64 value          little-endian; milliseconds since the Unix epoch
//! ```
//!
//! A value that expires is an entry of a kind of its own ([`Kind::PutUntil`]), whose bytes are a dated value, in batches, memtables, blocks
//! and rows alike; one that does not costs no byte for it. Whoever writes decides the moment, once and as a moment of the wall clock, so
//! that all trees which take the same batch say the same.
//!
//! From its moment on a value is not there, for every read at once; nothing has to be deleted for that. A read compares with the wall clock
//! of its own machine, as it was when it first came to a value that expires: one moment for the whole snapshot. What expired
//! [some time](super::TreeOptions::expired_kept) ago is given back when a flush or a compaction comes by it ([`super::retain`]). It hides
//! what is older than itself until then and afterwards, as a delete does.
//!
//! Exports and shares carry what has expired as well: which values there are is no matter of the clock of whoever copies them.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use super::chunk::part_of;
use super::key::Kind;

/// What a dated value has before the value itself.
pub const UNTIL_BYTES: usize = 8;

/// From when on a value is not there any more: milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Until(pub u64);

impl Until {
    /// The value stays.
    pub const NEVER: Until = Until(u64::MAX);

    /// Whether a value is gone at this moment.
    pub fn is_over(self, now: WallMs) -> bool {
        self != Self::NEVER && self.0 <= now.0
    }
}

/// A moment of the wall clock: milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallMs(pub u64);

impl WallMs {
    /// Before everything.
    pub const EPOCH: WallMs = WallMs(0);

    /// The moment that is this long before.
    #[must_use]
    pub fn before(self, duration: Duration) -> WallMs {
        WallMs(self.0.saturating_sub(millis(duration)))
    }
}

impl From<Duration> for WallMs {
    fn from(since_epoch: Duration) -> Self {
        WallMs(millis(since_epoch))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A value, and until when it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimedValue {
    /// The value.
    pub value: Bytes,
    /// When it goes.
    pub until: Until,
}

impl TimedValue {
    /// It, unless it is gone at this moment.
    pub fn live(self, now: WallMs) -> Option<Self> {
        (!self.until.is_over(now)).then_some(self)
    }

    /// Bytes of the value.
    pub fn len(&self) -> usize {
        self.value.len()
    }

    /// Bytes of the value as it is stored: one that expires has its moment beside it.
    pub fn stored_bytes(&self) -> usize {
        self.value.len() + if self.until == Until::NEVER { 0 } else { UNTIL_BYTES }
    }

    /// Whether the value has no bytes.
    pub fn is_empty(&self) -> bool {
        self.value.is_empty()
    }
}

impl From<Bytes> for TimedValue {
    fn from(value: Bytes) -> Self {
        Self { value, until: Until::NEVER }
    }
}

/// The bytes of an entry of this kind, taken apart. A decoder lets no [`Kind::PutUntil`] pass that has less than its moment.
pub(crate) fn split(kind: Kind, stored: &[u8]) -> (Until, &[u8]) {
    match (kind, stored.split_first_chunk()) {
        (Kind::PutUntil, Some((until, value))) => (Until(u64::from_le_bytes(*until)), value),
        (Kind::PutUntil, None) | (Kind::Put | Kind::Delete, _) => (Until::NEVER, stored),
    }
}

/// What is left of an entry of this kind where values are left out: the moment.
pub(crate) fn without_value(kind: Kind, stored: &[u8]) -> &[u8] {
    match kind {
        Kind::PutUntil => &stored[..UNTIL_BYTES.min(stored.len())],
        Kind::Put | Kind::Delete => &[],
    }
}

/// The same for a part of a buffer, shared as [`part_of`] does it.
pub(crate) fn timed_part(kind: Kind, buffer: &Bytes, stored: Range<usize>) -> TimedValue {
    let (until, value) = split(kind, &buffer[stored.clone()]);
    TimedValue { value: part_of(buffer, stored.end - value.len()..stored.end), until }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_gone_from_its_moment_on() {
        assert!(!Until(7).is_over(WallMs(6)));
        assert!(Until(7).is_over(WallMs(7)));
        assert!(!Until::NEVER.is_over(WallMs(u64::MAX)), "however late it is");
        assert_eq!(WallMs(5).before(Duration::from_secs(1)), WallMs::EPOCH);
    }

    #[test]
    fn only_what_expires_has_a_moment_before_its_value() {
        let stored = Bytes::from_static(b"\x07\0\0\0\0\0\0\0value");
        assert_eq!(split(Kind::PutUntil, &stored), (Until(7), &b"value"[..]));
        assert_eq!(split(Kind::Put, &stored), (Until::NEVER, &stored[..]));
        assert_eq!(without_value(Kind::PutUntil, &stored), &stored[..UNTIL_BYTES]);
        assert_eq!(without_value(Kind::Put, &stored), b"");
        let timed = TimedValue { value: Bytes::from_static(b"value"), until: Until(7) };
        assert_eq!(timed_part(Kind::PutUntil, &stored, 0..stored.len()), timed);
        assert_eq!(timed_part(Kind::Put, &stored, 8..13), TimedValue::from(timed.value));
    }
}
