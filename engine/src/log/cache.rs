//! Recent record bodies in memory, oldest out first. Pure.
//!
//! The unit is the record, as it was written: one allocation for all of its entries, and a budget that counts what is really
//! held. Reads of old records do not push out new ones; only the last of them is kept, for readers that go on from there.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::format::{RecordAt, SegmentNo};

/// Bodies by place.
#[derive(Debug)]
pub(crate) struct RecordCache {
    recent: BTreeMap<RecordAt, Bytes>,
    bytes: usize,
    bytes_max: usize,
    last_read: Option<(RecordAt, Bytes)>,
}

impl RecordCache {
    /// A cache that holds up to `bytes_max` bytes of recent records.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { recent: BTreeMap::new(), bytes: 0, bytes_max, last_read: None }
    }

    /// Keeps a record that was just written.
    pub(crate) fn wrote(&mut self, at: RecordAt, body: Bytes) {
        self.bytes += body.len();
        self.recent.insert(at, body);
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.recent.pop_first() else { break };
            self.bytes -= oldest.len();
        }
    }

    /// Keeps a record that was just read from disk.
    pub(crate) fn read(&mut self, at: RecordAt, body: Bytes) {
        self.last_read = Some((at, body));
    }

    /// The body of the record at `at`, if it is here.
    pub(crate) fn get(&self, at: RecordAt) -> Option<Bytes> {
        let last_read = || self.last_read.as_ref().filter(|(of, _)| *of == at).map(|(_, body)| body);
        self.recent.get(&at).or_else(last_read).cloned()
    }

    /// Forgets everything before `segment`.
    pub(crate) fn forget_before(&mut self, segment: SegmentNo) {
        let kept = self.recent.split_off(&RecordAt { segment, block: 0 });
        for body in std::mem::replace(&mut self.recent, kept).into_values() {
            self.bytes -= body.len();
        }
        self.last_read.take_if(|(at, _)| at.segment < segment);
    }

    /// Bytes of recent records, which have a bound.
    pub(crate) fn bytes_recent(&self) -> usize {
        self.bytes
    }
}
