//! Reads of the applied state: whether one may be served at once, and those that wait, for a read index, then for the state to reach it.
//!
//! A replica that does not lead asks its leader for the index, and what a leader's read waits for it waits for, too: its own state has to
//! reach the index. It answers what was committed when it asked, or later, never less.
//!
//! Invariants: every read that was taken in comes out once, due or refused; `asked` is in the order of the requests; no more than
//! [`READS_MAX`] wait.

use std::collections::VecDeque;

use raft::{Index, ReadId, Time};

use super::guard;
use super::life::Life;
use super::replica::Replica;
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::request::Route;

/// Reads of one region that may wait.
pub(super) const READS_MAX: usize = 16 << 10;

/// Whether a read may be served from the applied state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// At once.
    Now,
    /// After [`Replica::ask`].
    Ask,
}

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
        let is_due = move |index: Index| index <= applied || planted(Bug::ReadBeforeApplied);
        self.known.extract_if(.., move |(index, _)| is_due(*index)).map(|(_, reader)| reader)
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

impl<W, R> Replica<W, R> {
    /// Checks the route of a read. A replica that does not lead may answer if the client says so; [`Replica::access`] then has it ask the
    /// leader. One that waits for its first snapshot has nothing to answer from, and one that takes a snapshot in is about to be
    /// another one.
    ///
    /// # Errors
    /// Those of the guard.
    pub fn admit_read(&self, route: &Route) -> Result<(), Refusal> {
        match self.life() {
            Life::Live | Life::Splitting | Life::Merging => guard::admit_read(self.here(), route),
            Life::Absent | Life::Initialising | Life::Receiving | Life::Tombstone => {
                guard::admit(self.here(), route)
            }
        }
    }

    /// Whether and how a read may be served from the applied state. A sole voter needs no lease, nor the time: no other can be
    /// elected.
    ///
    /// # Errors
    /// If a sole voter has not applied what was acknowledged before the start, which takes a moment, or the region waits to be taken in.
    pub fn access(&mut self, now: impl FnOnce() -> Time) -> Result<Access, Refusal> {
        if self.is_stopped() {
            return Err(Refusal::not_current());
        }
        if self.is_sole_voter() {
            return if self.is_current() { Ok(Access::Now) } else { Err(Refusal::not_current()) };
        }
        let applied = self.raft.applied_index();
        if planted(Bug::LeaseKeptAsleep) && self.is_asleep() && self.is_current() {
            return Ok(Access::Now);
        }
        let leased = self.is_current() && self.raft.lease_read(now()).is_ok_and(|index| index <= applied);
        Ok(if leased { Access::Now } else { Access::Ask })
    }

    /// Asks for a read index; `reader` is due in the effects once the state has reached it.
    ///
    /// # Errors
    /// If no leader is known, or too many reads wait; the reader comes back.
    pub fn ask(&mut self, reader: R) -> Result<(), (R, Refusal)> {
        if self.reads.len() >= READS_MAX {
            return Err((
                reader,
                Refusal::Busy { reason: "too many reads wait for the region", backoff_ms: 20 },
            ));
        }
        match self.raft.read_index() {
            Ok(id) => self.reads.ask(id, reader),
            Err(refusal) => return Err((reader, self.refusal_of(refusal, 0))),
        }
        self.debug_check();
        Ok(())
    }

    pub(super) fn read_may_wait(&mut self, id: ReadId, index: Index) {
        self.reads.answered(id, index);
        self.serve_reads();
    }

    pub(super) fn serve_reads(&mut self) {
        // Not what the core has applied: of a snapshot it says so before the tree has it.
        self.out.reads.extend(self.reads.due(self.in_tree).map(|reader| (reader, Ok(()))));
    }
}
