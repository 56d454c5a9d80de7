//! A key as the ordered tree holds it: inside the node if it is short, so that a walk down the tree follows no pointer to
//! compare, and most keys need no allocation. It is ordered as its bytes are.

use std::borrow::Borrow;
use std::cmp::Ordering;

/// Keys up to this length need no allocation.
const INLINE_BYTES: usize = 38;
/// What the allocator adds to an allocation.
const ALLOCATION_BYTES: usize = 16;

#[derive(Clone, Debug)]
pub(super) enum SmallKey {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Long(Box<[u8]>),
}

impl SmallKey {
    pub(super) fn new(key: &[u8]) -> Self {
        if key.len() > INLINE_BYTES {
            return SmallKey::Long(key.into());
        }
        let mut bytes = [0; INLINE_BYTES];
        bytes[..key.len()].copy_from_slice(key);
        SmallKey::Inline { len: key.len() as u8, bytes }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            SmallKey::Inline { len, bytes } => &bytes[..usize::from(*len)],
            SmallKey::Long(bytes) => bytes,
        }
    }

    /// Memory outside of the node.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            SmallKey::Inline { .. } => 0,
            SmallKey::Long(bytes) => bytes.len() + ALLOCATION_BYTES,
        }
    }
}

impl Borrow<[u8]> for SmallKey {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Ord for SmallKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl PartialOrd for SmallKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for SmallKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for SmallKey {}
