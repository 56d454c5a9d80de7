//! Log entries and the bytes they carry.
//!
//! A group lives on one thread, but its entries travel: to the disk queue, to the network, to the apply task. So the
//! bytes are counted atomically ([`Payload`]), and everything else about an entry is a few plain numbers.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::id::{Index, LogId, Term};

/// Immutable bytes that are cheap to clone. The empty payload allocates nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Payload(Option<Arc<[u8]>>);

impl Payload {
    /// No bytes.
    pub const EMPTY: Self = Self(None);

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |bytes| bytes.len())
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<&[u8]> for Payload {
    fn from(bytes: &[u8]) -> Self {
        if bytes.is_empty() { Self(None) } else { Self(Some(Arc::from(bytes))) }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(bytes.as_slice())
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Self::from(text.as_bytes())
    }
}

impl From<Arc<[u8]>> for Payload {
    fn from(bytes: Arc<[u8]>) -> Self {
        if bytes.is_empty() { Self(None) } else { Self(Some(bytes)) }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(self) {
            Ok(text) if text.chars().all(|c| !c.is_control()) => write!(f, "{text:?}"),
            _ => write!(f, "{} bytes", self.len()),
        }
    }
}

/// What an entry's payload means to the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum EntryKind {
    /// The driver's own bytes; empty for the entry that opens a leader's term.
    #[default]
    Normal = 0,
    /// An encoded [`MembershipChange`](crate::MembershipChange).
    Membership = 1,
}

impl EntryKind {
    /// The inverse of `kind as u8`, for codecs.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Normal),
            1 => Some(Self::Membership),
            _ => None,
        }
    }
}

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Entry {
    /// Term of the leader that created it.
    pub term: Term,
    /// Its position.
    pub index: Index,
    /// Who reads the payload.
    pub kind: EntryKind,
    /// The bytes.
    pub payload: Payload,
}

impl Entry {
    /// Bytes that an entry is charged on top of its payload, in every limit that bounds memory or messages.
    pub const OVERHEAD_BYTES: u64 = 40;

    /// Its term and index.
    #[must_use]
    pub const fn id(&self) -> LogId {
        LogId { term: self.term, index: self.index }
    }

    /// What the entry is charged in memory and message limits.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.payload.len() as u64 + Self::OVERHEAD_BYTES
    }
}
