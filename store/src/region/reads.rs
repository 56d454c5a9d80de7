//! Reads that wait: for a read index, then for the state to reach it.
//!
//! Invariants: every read that was taken in comes out once, due or refused; `asked` is in the order of the requests; no more than
//! [`READS_MAX`] wait.

use std::collections::VecDeque;

use raft::{Index, ReadId};

/// Reads of one region that may wait.
pub(super) const READS_MAX: usize = 16 << 10;

/// The reads that wait at one replica.
#[derive(Debug)]
pub(super) struct Reads<R> {
    asked: VecDeque<(ReadId, R)>,
    /// Those whose index is known and not applied.
    known: Vec<(Index, R)>,
}

impl<R> Default for Reads<R> {
    fn default() -> Self {
        Self { asked: VecDeque::new(), known: Vec::new() }
    }
}

impl<R> Reads<R> {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.asked.len() + self.known.len()
    }

    /// A read waits for the answer `id`.
    pub(super) fn ask(&mut self, id: ReadId, reader: R) {
        self.asked.push_back((id, reader));
    }

    /// The index of request `id` is known.
    pub(super) fn answered(&mut self, id: ReadId, index: Index) {
        if let Some(reader) = self.take(id) {
            self.known.push((index, reader));
        }
    }

    /// Request `id` failed; its reader comes back.
    pub(super) fn fail(&mut self, id: ReadId) -> Option<R> {
        self.take(id)
    }

    /// Those that a state with everything up to `applied` may serve.
    pub(super) fn due(&mut self, applied: Index) -> impl Iterator<Item = R> + use<'_, R> {
        self.known.extract_if(.., move |(index, _)| *index <= applied).map(|(_, reader)| reader)
    }

    /// All that wait, because the replica ends.
    pub(super) fn abandon(&mut self) -> Vec<R> {
        let known = self.known.drain(..).map(|(_, reader)| reader);
        self.asked.drain(..).map(|(_, reader)| reader).chain(known).collect()
    }

    fn take(&mut self, id: ReadId) -> Option<R> {
        let place = self.asked.iter().position(|(asked, _)| *asked == id)?;
        self.asked.remove(place).map(|(_, reader)| reader)
    }
}
