//! What one write does, for any number of groups.

use std::sync::Arc;

use bytes::Bytes;

use super::format::{Encoder, EntryRef};

/// From here on room is made for as much as is announced, and not for twice as much.
const LARGE_BYTES: usize = 1 << 20;

/// What an entry takes beside its payload, at most, and so does the head of a run.
const ENTRY_ROOM_BYTES: usize = 64;

/// Changes that become durable together or not at all.
///
/// The calls are applied in order. Encoding happens here, so a batch costs one buffer whatever it holds, and a clone shares it.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    body: Arc<Vec<u8>>,
    appends: bool,
}

/// The buffer of a batch that another clone has, too.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing was put in.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Encoded size, bytes.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Makes room for entries with `payload_bytes` of payload, each with a header. Without it the buffer grows by doubling.
    pub fn reserve(&mut self, entries: usize, payload_bytes: usize) {
        if payload_bytes >= LARGE_BYTES {
            let body = self.body_mut();
            let wanted = payload_bytes + (entries + 1) * ENTRY_ROOM_BYTES;
            body.reserve_exact(wanted.max(body.len() / 4));
        }
    }

    /// Appends consecutive entries to `group`, the first one at index `first`. Entries that the group already has from
    /// `first` on are replaced. It is a bug to leave a gap after the group's last index.
    pub fn append<'e>(&mut self, group: u64, first: u64, entries: impl IntoIterator<Item = EntryRef<'e>>) {
        self.appends = true;
        Encoder(self.body_mut()).run(false, group, first, entries.into_iter());
    }

    /// Sets a small opaque value of `group`; the last one per tag counts.
    pub fn put_state(&mut self, group: u64, tag: u8, value: &[u8]) {
        Encoder(self.body_mut()).state(group, tag, value);
    }

    /// Declares that entries of `group` up to and including `index` are not needed any more. `term` is the term at
    /// `index`; [`Log::term`](super::Log::term) keeps answering it.
    pub fn compact(&mut self, group: u64, index: u64, term: u64) {
        Encoder(self.body_mut()).compact(group, index, term);
    }

    /// Drops all entries of `group`; its log continues after `index`. For an installed snapshot.
    pub fn reset(&mut self, group: u64, index: u64, term: u64) {
        Encoder(self.body_mut()).reset(group, index, term);
    }

    /// Forgets `group` with everything it has.
    pub fn remove(&mut self, group: u64) {
        Encoder(self.body_mut()).remove(group);
    }

    /// Moves live entries to the tail; only purge does this.
    pub(crate) fn moved<'e>(
        &mut self,
        group: u64,
        first: u64,
        entries: impl IntoIterator<Item = EntryRef<'e>>,
    ) {
        Encoder(self.body_mut()).run(true, group, first, entries.into_iter());
    }

    /// Whether the batch holds new entries. Those are refused on a full disk; everything else may use the reserve,
    /// because it is what makes room again.
    pub(crate) fn appends(&self) -> bool {
        self.appends
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    pub(crate) fn into_body(self) -> Bytes {
        match Arc::try_unwrap(self.body) {
            Ok(body) => Bytes::from(body),
            Err(body) => Bytes::from_owner(Shared(body)),
        }
    }

    fn body_mut(&mut self) -> &mut Vec<u8> {
        Arc::make_mut(&mut self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_batch_is_one_buffer_whoever_has_it() {
        let payload = vec![7; 3 * LARGE_BYTES];
        let mut batch = Batch::new();
        for index in 1..4 {
            batch.reserve(1, payload.len());
            let entry = EntryRef { term: 1, kind: 0, payload: &payload };
            batch.append(1, index, [entry]);
        }
        assert!(batch.body.capacity() < batch.len() + batch.len() / 4 + 1024, "{}", batch.body.capacity());
        let kept = batch.clone();
        let body = batch.into_body();
        assert_eq!(body.as_ptr(), kept.body().as_ptr(), "a clone is no copy");
        drop(body);
        let address = kept.body().as_ptr();
        assert_eq!(kept.into_body().as_ptr(), address, "nor is the end of it");
    }
}
