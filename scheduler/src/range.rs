//! Keys and half-open key ranges.
//!
//! A [`KeyRange`] is `[start, end)` over byte strings in lexicographic order. The empty start is the beginning of the
//! key space; the empty *end* means "no upper bound". A range is never empty: `start < end` holds or `end` is open,
//! and the only way to build one checks this, so code that holds a range need not ask again.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;

/// A key: any byte string. Sixteen bytes plus its contents, without the spare capacity of a `Vec`, because the map
/// holds two of them for each of a million regions.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<[u8]>);

impl Key {
    /// The empty key: the smallest one as a start, "no bound" as an end.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key's bytes as an owned vector, without copying.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.0.into_vec()
    }
}

impl Deref for Key {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into_boxed_slice())
    }
}

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl<const N: usize> From<&[u8; N]> for Key {
    fn from(bytes: &[u8; N]) -> Self {
        Self(bytes.as_slice().into())
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// A non-empty half-open range of keys; see the module's invariant.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct KeyRange {
    start: Key,
    end: Key,
}

impl KeyRange {
    /// The range `[start, end)`; an empty `end` is open.
    ///
    /// # Errors
    /// [`RangeError::Inverted`] where `end` is neither empty nor greater than `start`.
    pub fn new(start: impl Into<Key>, end: impl Into<Key>) -> Result<Self, RangeError> {
        let (start, end) = (start.into(), end.into());
        if end.is_empty() || start < end {
            Ok(Self { start, end })
        } else {
            Err(RangeError::Inverted { start, end })
        }
    }

    /// The whole key space.
    #[must_use]
    pub fn full() -> Self {
        Self::default()
    }

    /// The first key of the range; empty means the beginning of the key space.
    #[must_use]
    pub fn start(&self) -> &Key {
        &self.start
    }

    /// Exclusive end key; empty means unbounded.
    #[must_use]
    pub fn end(&self) -> &Key {
        &self.end
    }

    /// Exclusive end key, or `None` for an unbounded range.
    #[must_use]
    pub fn end_bound(&self) -> Option<&[u8]> {
        (!self.end.is_empty()).then_some(&*self.end)
    }

    /// Whether `key` lies in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        *self.start <= *key && self.ends_after(key)
    }

    /// Whether every key of `other` lies in this range.
    #[must_use]
    pub fn contains_range(&self, other: &Self) -> bool {
        self.start <= other.start && cmp_end(&other.end, &self.end) != Ordering::Greater
    }

    /// Whether some key lies in both ranges.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.ends_after(&other.start) && other.ends_after(&self.start)
    }

    /// Whether one range ends exactly where the other begins.
    #[must_use]
    pub fn adjacent(&self, other: &Self) -> bool {
        let meets = |left: &Self, right: &Self| !left.end.is_empty() && left.end == right.start;
        meets(self, other) || meets(other, self)
    }

    /// Cuts the range in two at `key`, which becomes the first key of the right half.
    ///
    /// # Errors
    /// [`RangeError::SplitKeyOutside`] unless `start < key` and `key` is in the range: both halves hold a key.
    pub fn split(&self, key: &[u8]) -> Result<(Self, Self), RangeError> {
        if *self.start >= *key || !self.ends_after(key) {
            return Err(RangeError::SplitKeyOutside { key: key.into(), range: self.clone() });
        }
        let left = Self { start: self.start.clone(), end: key.into() };
        let right = Self { start: key.into(), end: self.end.clone() };
        Ok((left, right))
    }

    /// Whether the range reaches beyond `key`, wherever it begins.
    #[must_use]
    pub fn ends_after(&self, key: &[u8]) -> bool {
        self.end.is_empty() || *key < *self.end
    }
}

/// Orders two end keys, of which the empty one is the greatest.
#[must_use]
pub fn cmp_end(left: &[u8], right: &[u8]) -> Ordering {
    (left.is_empty(), left).cmp(&(right.is_empty(), right))
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}, ", self.start)?;
        if self.end.is_empty() { write!(f, "..)") } else { write!(f, "{:?})", self.end) }
    }
}

/// Why a range cannot be built or cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeError {
    /// The end is neither open nor greater than the start.
    Inverted {
        /// The start asked for.
        start: Key,
        /// The end asked for.
        end: Key,
    },
    /// The split key is not strictly inside the range, so one half would be empty.
    SplitKeyOutside {
        /// The split key asked for.
        key: Key,
        /// The range it should have cut.
        range: KeyRange,
    },
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inverted { start, end } => {
                write!(
                    f,
                    "range end {end:?} is not greater than its start {start:?}; give an empty end for no bound"
                )
            }
            Self::SplitKeyOutside { key, range } => {
                write!(
                    f,
                    "split key {key:?} is not strictly inside {range}; choose a key greater than its start"
                )
            }
        }
    }
}

impl std::error::Error for RangeError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &str, end: &str) -> KeyRange {
        KeyRange::new(start, end).expect("a valid range")
    }

    #[test]
    fn contains_is_half_open_and_an_empty_end_is_open() {
        let rows = [
            ("", "", "", true),
            ("", "", "z", true),
            ("a", "c", "a", true),
            ("a", "c", "b", true),
            ("a", "c", "c", false),
            ("a", "c", "", false),
            ("a", "", "a", true),
            ("a", "", "zz", true),
            ("", "c", "", true),
            ("", "c", "c", false),
        ];
        for (start, end, key, inside) in rows {
            assert_eq!(range(start, end).contains(key.as_bytes()), inside, "{key} in [{start}, {end})");
        }
    }

    #[test]
    fn inverted_and_empty_ranges_are_refused() {
        assert!(KeyRange::new("b", "a").is_err());
        assert!(KeyRange::new("a", "a").is_err());
        assert!(KeyRange::new("", "a").is_ok());
        assert!(KeyRange::new("a", "").is_ok());
    }

    #[test]
    fn overlap_and_adjacency_exclude_each_other() {
        let rows = [
            (range("a", "b"), range("b", "c"), false, true),
            (range("a", "c"), range("b", "d"), true, false),
            (range("a", "b"), range("c", "d"), false, false),
            (range("", ""), range("c", "d"), true, false),
            (range("a", ""), range("", "a"), false, true),
            (range("a", ""), range("z", ""), true, false),
        ];
        for (left, right, overlaps, adjacent) in rows {
            for (one, other) in [(&left, &right), (&right, &left)] {
                assert_eq!(one.overlaps(other), overlaps, "{one} overlaps {other}");
                assert_eq!(one.adjacent(other), adjacent, "{one} adjacent {other}");
            }
        }
    }

    #[test]
    fn split_needs_a_key_strictly_inside() {
        let (left, right) = range("a", "c").split(b"b").expect("b is inside");
        assert_eq!((left, right), (range("a", "b"), range("b", "c")));
        for outside in ["", "a", "c", "d"] {
            assert!(range("a", "c").split(outside.as_bytes()).is_err(), "{outside}");
        }
        assert!(KeyRange::full().split(b"").is_err());
        assert!(KeyRange::full().split(b"m").is_ok());
    }

    #[test]
    fn contains_range_knows_open_ends() {
        assert!(range("", "").contains_range(&range("a", "")));
        assert!(!range("a", "c").contains_range(&range("b", "")));
        assert!(range("a", "c").contains_range(&range("a", "c")));
    }
}
