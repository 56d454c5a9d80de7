//! What a turn gives to the log, in parts: each is one write of the log.
//!
//! A part names what the log has to write; the bytes are made right before it is written. A turn may have many parts of large entries, and
//! each entry would be in memory twice for as long as those before it take to become durable.
//!
//! Invariants: each region's write is in one part, whole; what was added first is first in the log.

use engine::log::Batch;

use super::created::Created;
use super::installing;
use super::open::{TAG_HARD_STATE, TAG_RECORD, encode_hard_state};
use crate::plant::{Bug, planted};
use crate::region::effects::LogWrite;
use crate::region::record::RegionRecord;

/// What the log has to write in a turn, in order.
#[derive(Default)]
pub(super) struct Parts(Vec<Part>);

/// What the log writes at once: the writes of some regions.
#[derive(Default)]
pub(super) struct Part {
    rows: Vec<Row>,
    /// Bytes of the entries.
    entry_bytes: usize,
}

/// What the log learns of one region.
enum Row {
    /// With the first that a replica has to write, how it was created, which is rare.
    Write { created: Option<Box<Created>>, write: LogWrite },
    /// That a replica is no more.
    Buried(RegionRecord),
}

impl Parts {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one region's write to the last part, or begins another if that would have more than `bytes_max` of entries then.
    pub(super) fn add(&mut self, write: LogWrite, created: Option<Created>, bytes_max: usize) {
        let bytes = write.entries().iter().map(|entry| entry.payload.len()).sum::<usize>();
        let last = self.0.pop_if(|last| last.entry_bytes + bytes <= bytes_max);
        let mut last = last.unwrap_or_default();
        last.entry_bytes += bytes;
        last.rows.push(Row::Write { created: created.map(Box::new), write });
        self.0.push(last);
    }

    /// Adds that a replica is no more to what the log writes last.
    pub(super) fn bury(&mut self, record: RegionRecord) {
        let mut last = self.0.pop().unwrap_or_default();
        last.rows.push(Row::Buried(record));
        self.0.push(last);
    }
}

impl IntoIterator for Parts {
    type Item = Part;
    type IntoIter = std::vec::IntoIter<Part>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Part {
    /// The bytes for the log, and the writes that are durable with them.
    pub(super) fn encode(self) -> (Batch, Vec<LogWrite>) {
        let (mut batch, mut writes) = (Batch::new(), Vec::with_capacity(self.rows.len()));
        let entries = self.rows.iter().map(Row::entries).sum();
        batch.reserve(entries, self.entry_bytes);
        for row in self.rows {
            match row {
                Row::Write { created, write } => {
                    if let Some(created) = created {
                        created.put(&mut batch);
                    }
                    fill(&mut batch, &write);
                    writes.push(write);
                }
                Row::Buried(record) => batch.put_state(record.region.id.0, TAG_RECORD, &record.encode()),
            }
        }
        (batch, writes)
    }
}

impl Row {
    fn entries(&self) -> usize {
        match self {
            Self::Write { write, created: _ } => write.entries().len(),
            Self::Buried(_) => 0,
        }
    }
}

/// Adds one region's write to the batch.
fn fill(batch: &mut Batch, write: &LogWrite) {
    let region = write.region();
    if let Some(install) = write.install() {
        installing::reset(batch, region, install.last);
    }
    let mut hard_state = write.hard_state();
    if planted(Bug::VoteNotStored) {
        hard_state.vote = None;
    }
    batch.put_state(region.0, TAG_HARD_STATE, &encode_hard_state(&hard_state));
    if let Some(first) = write.entries().first() {
        batch.append(region.0, first.index.0, write.entries().iter().map(super::open::to_log));
    }
}
