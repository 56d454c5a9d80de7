//! What one write does, for any number of groups.

use super::format::{Encoder, EntryRef};

/// Changes that become durable together or not at all.
///
/// The calls are applied in order. Encoding happens here, so a batch costs one buffer whatever it holds.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    body: Vec<u8>,
    appends: bool,
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

    /// Appends consecutive entries to `group`, the first one at index `first`. Entries that the group already has from
    /// `first` on are replaced. It is a bug to leave a gap after the group's last index.
    pub fn append<'e>(&mut self, group: u64, first: u64, entries: impl IntoIterator<Item = EntryRef<'e>>) {
        self.appends = true;
        Encoder(&mut self.body).run(false, group, first, entries.into_iter());
    }

    /// Sets a small opaque value of `group`; the last one per tag counts.
    pub fn put_state(&mut self, group: u64, tag: u8, value: &[u8]) {
        Encoder(&mut self.body).state(group, tag, value);
    }

    /// Declares that entries of `group` up to and including `index` are not needed any more. `term` is the term at
    /// `index`; [`Log::term`](super::Log::term) keeps answering it.
    pub fn compact(&mut self, group: u64, index: u64, term: u64) {
        Encoder(&mut self.body).compact(group, index, term);
    }

    /// Drops all entries of `group`; its log continues after `index`. For an installed snapshot.
    pub fn reset(&mut self, group: u64, index: u64, term: u64) {
        Encoder(&mut self.body).reset(group, index, term);
    }

    /// Forgets `group` with everything it has.
    pub fn remove(&mut self, group: u64) {
        Encoder(&mut self.body).remove(group);
    }

    /// Moves live entries to the tail; only purge does this.
    pub(crate) fn moved<'e>(
        &mut self,
        group: u64,
        first: u64,
        entries: impl IntoIterator<Item = EntryRef<'e>>,
    ) {
        Encoder(&mut self.body).run(true, group, first, entries.into_iter());
    }

    /// Whether the batch holds new entries. Those are refused on a full disk; everything else may use the reserve,
    /// because it is what makes room again.
    pub(crate) fn appends(&self) -> bool {
        self.appends
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    pub(crate) fn into_body(self) -> Vec<u8> {
        self.body
    }
}
