//! The write batch: operations that become visible together, and the log positions they bring the tree to.
//!
//! A batch owns one contiguous buffer, so that building and applying it touches memory in order. It knows nothing of
//! sequence numbers; the tree assigns them.

use std::sync::Arc;

use super::expiry::{UNTIL_BYTES, Until};
use super::key::Cf;

/// Operations for one [`write`](super::Tree::write), applied in order.
#[derive(Debug, Default, Clone)]
pub struct WriteBatch {
    bytes: Vec<u8>,
    ops: Vec<OpHeader>,
    marks: Vec<Mark>,
}

#[derive(Debug, Clone, Copy)]
struct OpHeader {
    cf: Cf,
    kind: OpKind,
    first_len: u32,
    second_len: u32,
}

#[derive(Debug, Clone, Copy)]
enum OpKind {
    Put,
    PutUntil,
    Delete,
    DeleteRange,
}

/// One operation, borrowed from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// Sets a key.
    Put {
        /// The column family.
        cf: Cf,
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Sets a key to a value that expires.
    PutUntil {
        /// The column family.
        cf: Cf,
        /// The key.
        key: &'a [u8],
        /// When it expires, and the value, in one piece (see [`super::expiry`]).
        dated: &'a [u8],
    },
    /// Removes a key.
    Delete {
        /// The column family.
        cf: Cf,
        /// The key.
        key: &'a [u8],
    },
    /// Removes every key in `[start, end)`.
    DeleteRange {
        /// The column family.
        cf: Cf,
        /// The first key.
        start: &'a [u8],
        /// The first key that stays.
        end: &'a [u8],
    },
}

/// What a batch says about a group's position in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// Everything of `group` up to `applied` is in the tree once this batch is.
    Applied {
        /// The group.
        group: u64,
        /// The index.
        applied: u64,
    },
    /// From this batch on, `state` is what the caller keeps about `group`.
    Described {
        /// The group.
        group: u64,
        /// The bytes.
        state: Arc<[u8]>,
    },
    /// The tree need not remember the group any more.
    Forget {
        /// The group.
        group: u64,
    },
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, cf: Cf, key: &[u8], value: &[u8]) {
        self.push(cf, OpKind::Put, key, value);
    }

    /// Sets `key` to a value that is there until this moment; as [`WriteBatch::put`] if that never comes.
    ///
    /// # Panics
    /// For a key or value of 4 GiB and more; the protocols refuse such sizes long before.
    pub fn put_until(&mut self, cf: Cf, key: &[u8], value: &[u8], until: Until) {
        if until == Until::NEVER {
            return self.put(cf, key, value);
        }
        let second_len = u32::try_from(UNTIL_BYTES + value.len()).expect("a value is shorter than 4 GiB");
        let first_len = u32::try_from(key.len()).expect("a key is shorter than 4 GiB");
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(&until.0.to_le_bytes());
        self.bytes.extend_from_slice(value);
        self.ops.push(OpHeader { cf, kind: OpKind::PutUntil, first_len, second_len });
    }

    /// Removes `key`; it need not exist.
    pub fn delete(&mut self, cf: Cf, key: &[u8]) {
        self.push(cf, OpKind::Delete, key, &[]);
    }

    /// Removes every key in `[start, end)`. A range whose end is not above its start is empty and does nothing.
    pub fn delete_range(&mut self, cf: Cf, start: &[u8], end: &[u8]) {
        if start < end {
            self.push(cf, OpKind::DeleteRange, start, end);
        }
    }

    /// States that with this batch the tree contains everything of `group` up to and including log index `applied_index`.
    pub fn mark(&mut self, group: u64, applied_index: u64) {
        self.marks.push(Mark::Applied { group, applied: applied_index });
    }

    /// Replaces the caller's own bytes about `group`. They become durable together with the batch's marks and data, so they are never
    /// of another moment than the index that the tree says it contains.
    pub fn describe(&mut self, group: u64, state: &[u8]) {
        self.marks.push(Mark::Described { group, state: state.into() });
    }

    /// Drops what the tree remembers about `group`'s log position and state: the group is gone from this store.
    pub fn forget(&mut self, group: u64) {
        self.marks.push(Mark::Forget { group });
    }

    /// Bytes of keys and values.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Number of operations, marks left out.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether the batch changes nothing, marks included.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.marks.is_empty()
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ops.clear();
        self.marks.clear();
    }

    /// Appends the operations and marks of `other`.
    pub fn append(&mut self, other: &WriteBatch) {
        self.bytes.extend_from_slice(&other.bytes);
        self.ops.extend_from_slice(&other.ops);
        self.marks.extend_from_slice(&other.marks);
    }

    /// The operations, in order.
    pub fn ops(&self) -> impl Iterator<Item = Op<'_>> {
        let mut rest = self.bytes.as_slice();
        self.ops.iter().map(move |header| {
            let (first, after) = rest.split_at(header.first_len as usize);
            let (second, after) = after.split_at(header.second_len as usize);
            rest = after;
            match header.kind {
                OpKind::Put => Op::Put { cf: header.cf, key: first, value: second },
                OpKind::PutUntil => Op::PutUntil { cf: header.cf, key: first, dated: second },
                OpKind::Delete => Op::Delete { cf: header.cf, key: first },
                OpKind::DeleteRange => Op::DeleteRange { cf: header.cf, start: first, end: second },
            }
        })
    }

    /// What the batch says about groups, in order.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// # Panics
    /// For a key or value of 4 GiB and more; the protocols refuse such sizes long before.
    fn push(&mut self, cf: Cf, kind: OpKind, first: &[u8], second: &[u8]) {
        let first_len = u32::try_from(first.len()).expect("a key is shorter than 4 GiB");
        let second_len = u32::try_from(second.len()).expect("a value is shorter than 4 GiB");
        self.bytes.extend_from_slice(first);
        self.bytes.extend_from_slice(second);
        self.ops.push(OpHeader { cf, kind, first_len, second_len });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_come_back_in_order() {
        let mut batch = WriteBatch::new();
        batch.put(Cf::Default, b"k", b"value");
        batch.delete(Cf::Lock, b"gone");
        batch.delete_range(Cf::Write, b"a", b"c");
        batch.delete_range(Cf::Write, b"c", b"a");
        batch.put(Cf::Write, b"", b"");
        batch.put_until(Cf::Default, b"e", b"x", Until(9));
        batch.put_until(Cf::Default, b"e", b"x", Until::NEVER);
        batch.mark(7, 9);
        let ops: Vec<Op<'_>> = batch.ops().collect();
        assert_eq!(
            ops,
            vec![
                Op::Put { cf: Cf::Default, key: b"k", value: b"value" },
                Op::Delete { cf: Cf::Lock, key: b"gone" },
                Op::DeleteRange { cf: Cf::Write, start: b"a", end: b"c" },
                Op::Put { cf: Cf::Write, key: b"", value: b"" },
                Op::PutUntil { cf: Cf::Default, key: b"e", dated: b"\x09\0\0\0\0\0\0\0x" },
                Op::Put { cf: Cf::Default, key: b"e", value: b"x" },
            ]
        );
        assert_eq!(batch.marks(), [Mark::Applied { group: 7, applied: 9 }]);
        assert_eq!(batch.len_bytes(), 1 + 5 + 4 + 2 + 10 + 2);
        batch.clear();
        assert!(batch.is_empty());
    }
}
