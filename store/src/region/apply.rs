//! Committed entries become one batch for the tree, the next descriptor, and what those hear who wait.
//!
//! All replicas decide alike, by the descriptor as of the entry before. Where an entry changes the descriptor, the new one travels
//! in the same batch as the applied index, so that the tree never has one without the other.

use std::fmt;

use engine::lsm::{Cf, WriteBatch};
use raft::{ChangeEffect, Entry, EntryKind, Index, LogId, MembershipChange};
use scheduler::change::Change;
use scheduler::{KeyRange, Region, RegionId};

use super::change::Proposed;
use super::command::{Command, Write, WritesView};
use super::doubt::Settled;
use super::life::Life;
use super::merge::{Commit, MergeStep, MergeWhat};
use super::record::{Descriptor, RegionRecord};
use super::replica::Replica;
use super::split::{FIRST_BASE, Half, Split, SplitOrigin};
use super::submit::Waiting;
use super::system::{self, Decided, codec, image};
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::request::KEY_BYTES_MAX;
use crate::witness;

/// Above every key that is accepted.
static ABOVE_EVERY_KEY: [u8; KEY_BYTES_MAX + 1] = [0xff; KEY_BYTES_MAX + 1];

/// The families that hold keys of users.
pub const FAMILIES: [Cf; 3] = [Cf::Default, Cf::Lock, Cf::Write];

/// Entries whose effects are in a batch. The tree takes the batch, then [`Replica::applied`] takes this.
#[derive(Debug)]
#[must_use = "what waits for these entries is never answered otherwise"]
pub struct Applied<W> {
    upto: Index,
    /// Entries applied.
    pub entries: usize,
    answers: Vec<(W, Result<(), Refusal>)>,
    decided: Vec<(W, Decided)>,
    halves: Vec<Half>,
    taken: Vec<Commit>,
    dies: bool,
}

impl<W> Applied<W> {
    /// What splits bring into being on this store, in order. The batch has to say what becomes of each
    /// ([`describe_half`] or [`erase`]) before the tree takes it, and once the tree has it they are to be published
    /// together with the region.
    pub fn take_halves(&mut self) -> Vec<Half> {
        std::mem::take(&mut self.halves)
    }

    /// The sources that the region has taken in, in order. The batch has to say that each has ended ([`describe_end`]) before
    /// the tree takes it, and they are to leave the table before the region is published with their ranges.
    pub fn take_taken(&mut self) -> Vec<Commit> {
        std::mem::take(&mut self.taken)
    }

    /// What commands of the system group came to, for those who waited for them. They hear of it once the tree has the batch.
    pub fn take_decided(&mut self) -> Vec<(W, Decided)> {
        std::mem::take(&mut self.decided)
    }
}

/// An entry that no version up to this one can have written: damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedEntry(pub String);

impl fmt::Display for DamagedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<W, R> Replica<W, R> {
    /// Adds the effects of committed entries to `batch`, with the index that they bring the tree to. Those that a snapshot has
    /// overtaken, and those after our own removal, add nothing.
    ///
    /// # Errors
    /// [`DamagedEntry`] for an entry that cannot be read; nothing of the batch may be used then.
    pub fn apply(&mut self, entries: &[Entry], batch: &mut WriteBatch) -> Result<Applied<W>, DamagedEntry> {
        let from = self.raft.applied_index();
        let mut applied = Applied {
            upto: from,
            entries: 0,
            answers: Vec::new(),
            decided: Vec::new(),
            halves: Vec::new(),
            taken: Vec::new(),
            dies: false,
        };
        let is_new = |entry: &&Entry| entry.index > from || planted(Bug::AppliedAfterSnapshot);
        for entry in entries.iter().filter(is_new) {
            if applied.dies {
                break;
            }
            if !self.is_system() {
                witness::applies(self.region().id, entry);
            }
            let mine = self.settle(entry.id());
            let outcome = match entry.kind {
                EntryKind::Normal if self.is_system() && !entry.payload.is_empty() => {
                    self.apply_system(entry, mine, batch, &mut applied)?;
                    continue;
                }
                EntryKind::Normal => self.apply_command(entry, mine.as_ref(), batch, &mut applied)?,
                EntryKind::Membership => match self.apply_change(entry, batch, &mut applied)? {
                    Some(outcome) => outcome,
                    None => break,
                },
            };
            let waiters = mine.into_iter().flat_map(|waiting| waiting.answers);
            applied.answers.extend(waiters.map(|waiter| (waiter, outcome.clone())));
            (applied.upto, applied.entries) = (entry.index, applied.entries + 1);
        }
        if applied.entries > 0 {
            let changed = self.describe.filter(|at| at.index == applied.upto);
            if changed.is_none() || !planted(Bug::DescribedEarly) {
                batch.mark(self.region().id.0, applied.upto.0);
            }
            if let Some(at) = self.describe.filter(|_| changed.is_none() || !planted(Bug::DescribedLate)) {
                batch.describe(self.region().id.0, &self.descriptor(at).encode());
            }
        }
        Ok(applied)
    }

    /// The tree has the batch. Returns what those hear who waited.
    pub fn applied(&mut self, applied: Applied<W>) -> Vec<(W, Result<(), Refusal>)> {
        let Applied { upto, entries, answers, decided, halves, taken, dies } = applied;
        debug_assert!(taken.is_empty(), "{} sources of merges have not ended", taken.len());
        debug_assert!(decided.is_empty(), "{} commands are never answered", decided.len());
        debug_assert!(halves.is_empty(), "{} halves of a split are never published", halves.len());
        if self.life() == Life::Splitting {
            self.enter(Life::Live);
        }
        self.wait_or_go_on();
        if !planted(Bug::DescribedLate) {
            self.describe = None;
        }
        if upto > self.raft.applied_index() {
            self.raft.applied(upto);
        }
        if entries > 0 {
            self.in_tree = self.in_tree.max(upto);
        }
        if dies {
            self.die(true);
        } else {
            self.serve_reads();
        }
        self.notice();
        self.debug_check();
        answers
    }

    /// Who waits for the entry `id`, which is being applied.
    fn settle(&mut self, id: LogId) -> Option<Waiting<W>> {
        if !self.doubt.is_empty() {
            let Settled { mine, lost } = self.doubt.settle(id);
            let refusal = self.not_leader();
            self.out.answers.extend(lost.into_iter().map(|waiter| (waiter, Err(refusal.clone()))));
            if let Some(answers) = mine {
                // Its writes are in flight no more since the leadership ended.
                return Some(Waiting { id, version: self.region().epoch.version, command: None, answers });
            }
        }
        let front = self.waiting.pop_front_if(|front| front.id.index <= id.index)?;
        assert_eq!(front.id, id, "an entry was overtaken although its leader still leads");
        Some(front)
    }

    fn apply_command(
        &mut self,
        entry: &Entry,
        mine: Option<&Waiting<W>>,
        batch: &mut WriteBatch,
        applied: &mut Applied<W>,
    ) -> Result<Result<(), Refusal>, DamagedEntry> {
        if entry.payload.is_empty() {
            return Ok(Ok(()));
        }
        let writes = match Command::decode(&entry.payload).map_err(|error| self.damaged(entry, &error))? {
            Command::Writes(writes) => writes,
            Command::Split(body) => {
                let split = Split::decode(body).map_err(|error| self.damaged(entry, &error))?;
                return Ok(self.apply_split(entry.id(), &split, applied));
            }
            Command::Merge(body) => {
                let step = MergeStep::decode(body).map_err(|error| self.damaged(entry, &error))?;
                return Ok(self.apply_merge(entry.id(), step, applied));
            }
            Command::System(_) => return Err(self.damaged(entry, &"it is a command of the system group")),
        };
        let version = self.region().epoch.version;
        // What was admitted under another version is no longer in flight.
        let command = mine.filter(|mine| mine.version == version).and_then(|mine| mine.command);
        if let Some(command) = command {
            self.out.released_bytes += self.inflight.end(command);
        }
        if writes.version() != version {
            return Ok(Err(Refusal::EpochNotMatch { current: vec![self.region().clone()] }));
        }
        fill(batch, self.region(), &writes);
        Ok(Ok(()))
    }

    fn apply_system(
        &mut self,
        entry: &Entry,
        mine: Option<Waiting<W>>,
        batch: &mut WriteBatch,
        applied: &mut Applied<W>,
    ) -> Result<(), DamagedEntry> {
        let command = match Command::decode(&entry.payload).map_err(|error| self.damaged(entry, &error))? {
            Command::System(body) => {
                codec::decode(body).map_err(|image::DamagedState(what)| self.damaged(entry, &what))?
            }
            Command::Writes(_) | Command::Split(_) | Command::Merge(_) => {
                return Err(self.damaged(entry, &"it is about keys, which are no business here"));
            }
        };
        assert_ne!(self.life(), Life::Receiving, "the rows of a snapshot are not loaded yet");
        let system = self.system.as_mut().expect("only a replica of the system group comes here");
        let answer = system.apply(command, batch);
        let index = entry.index.0;
        let waiters = mine.into_iter().flat_map(|waiting| waiting.answers);
        applied.decided.extend(waiters.map(|waiter| {
            let decided = Decided { index, answer: answer.clone(), state: system.image().cloned() };
            (waiter, decided)
        }));
        (applied.upto, applied.entries) = (entry.index, applied.entries + 1);
        Ok(())
    }

    /// The region keeps what lies below the first key; what was admitted under the old version is refused from now on.
    fn apply_split(&mut self, at: LogId, split: &Split, applied: &mut Applied<W>) -> Result<(), Refusal> {
        let (left, halves) = split.judge(self.region())?;
        let origin = SplitOrigin { parent: left.id, at };
        applied.halves.extend(
            halves.into_iter().filter_map(|half| Half::of(half, self.store, (origin, &self.record.merges))),
        );
        if self.life() == Life::Live {
            self.enter(Life::Splitting);
        }
        self.record.region = left;
        self.describe = Some(at);
        self.end_version();
        // The new regions need their other members, which are there once this is applied.
        self.raft.announce_commit();
        Ok(())
    }

    /// A step of a merge: what was admitted before it is refused from now on, and whoever else has to apply it hears of it soon.
    fn apply_merge(&mut self, at: LogId, step: MergeStep, applied: &mut Applied<W>) -> Result<(), Refusal> {
        let mut after = step.judge(&self.record)?;
        match step.what {
            MergeWhat::Prepare { .. } => {
                let waits = after.merges.waits.iter_mut();
                waits.for_each(|waits| waits.prepare = at);
            }
            MergeWhat::Commit(commit) => applied.taken.push(commit),
            MergeWhat::Rollback { prepare: _ } | MergeWhat::Refuse => {}
        }
        self.record = after;
        self.describe = Some(at);
        self.end_version();
        self.raft.announce_commit();
        Ok(())
    }

    /// Nothing if a snapshot has overtaken the entry.
    fn apply_change(
        &mut self,
        entry: &Entry,
        batch: &mut WriteBatch,
        applied: &mut Applied<W>,
    ) -> Result<Option<Result<(), Refusal>>, DamagedEntry> {
        let unreadable = || self.damaged(entry, &"it is no change of membership");
        let raft = MembershipChange::decode(&entry.payload).ok_or_else(unreadable)?;
        let by_itself = raft.steps.is_empty() && raft.context.is_empty();
        let proposed = match Proposed::from_raft(&raft) {
            Some(proposed) => proposed,
            None if by_itself => Proposed { epoch: self.region().epoch, change: Change::LeaveJoint },
            None => return Err(unreadable()),
        };
        let Proposed { epoch, change } = proposed;
        if self.region().epoch.admit(change.command(), epoch).is_err() {
            return Ok(Some(Err(Refusal::EpochNotMatch { current: vec![self.region().clone()] })));
        }
        let after = match change.apply(self.region()) {
            Ok(after) => after,
            Err(error) => return Ok(Some(Err(Refusal::Invalid(error.to_string())))),
        };
        match self.raft.apply_change(entry.index, &raft) {
            Ok(ChangeEffect::Store(stored)) => {
                assert_eq!(
                    stored,
                    &super::change::membership(&after),
                    "descriptor and core changed differently"
                );
            }
            Ok(ChangeEffect::Overtaken) => return Ok(None),
            Err(error) => panic!("the descriptor of {after} took a change that the core refused: {error}"),
        }
        self.remember_leavers(&after);
        let version = self.record.region.epoch.version;
        self.record.region = after;
        self.describe = Some(entry.id());
        if self.record.region.epoch.version != version {
            self.end_version();
        }
        // The core resigns before the rest is applied, so those who wait hear of it first.
        self.notice();
        if self.region().peer(self.me()).is_none() {
            self.bury(batch);
            applied.dies = true;
        }
        Ok(Some(Ok(())))
    }

    /// The data goes in the batch that has the tombstone.
    fn bury(&mut self, batch: &mut WriteBatch) {
        self.record.tombstone = true;
        erase(batch, self.region());
    }

    fn damaged(&self, entry: &Entry, error: &dyn fmt::Display) -> DamagedEntry {
        DamagedEntry(format!("entry {} of {}: {error}", entry.index, self.region().id))
    }

    /// The batch that puts the tombstone of a replica that heard of its removal in the place of its data.
    pub fn tombstone_batch(&self) -> WriteBatch {
        assert_eq!(self.life(), Life::Tombstone, "{} is not dead", self.region());
        let applied = self.raft.applied_index();
        let at = LogId { term: self.raft.term_at(applied).unwrap_or_default(), index: applied };
        tombstone_batch(self.record(), at)
    }
}

/// The batch that puts a tombstone in the place of the data that its replica had applied up to `at`.
pub fn tombstone_batch(record: &RegionRecord, at: LogId) -> WriteBatch {
    let region = &record.region;
    let mut batch = WriteBatch::new();
    if !region.peers.is_empty() {
        erase(&mut batch, region);
    }
    // A peer that was removed before it had anything ends below where the one before it was.
    if !planted(Bug::OldMarkKept) {
        batch.forget(region.id.0);
    }
    batch.mark(region.id.0, at.index.0);
    let descriptor = Descriptor { record: record.clone(), at, by_snapshot: false };
    batch.describe(region.id.0, &descriptor.encode());
    batch
}

/// Adds to `batch` that a replica has ended, of which another region has taken the range over. Its data stay.
pub fn describe_end(batch: &mut WriteBatch, record: &RegionRecord, at: LogId) {
    let group = record.region.id.0;
    batch.mark(group, at.index.0);
    let descriptor = Descriptor { record: record.clone(), at, by_snapshot: false };
    batch.describe(group, &descriptor.encode());
}

/// Adds what the tree is to keep of a replica that a split brings into being: its record, and no applied index, for its log has
/// nothing.
pub fn describe_half(batch: &mut WriteBatch, half: &Half) {
    let descriptor = Descriptor { record: half.record.clone(), at: FIRST_BASE, by_snapshot: false };
    batch.describe(half.record.region.id.0, &descriptor.encode());
}

/// What a snapshot of a region carries: the families, and the keys in them. The range of the system group counts for nothing; what it has
/// are its rows.
pub fn carried(id: RegionId, range: &KeyRange) -> (&'static [Cf], KeyRange) {
    match id == system::GROUP {
        true => (&[Cf::System], system::rows()),
        false => (&FAMILIES, range.clone()),
    }
}

/// Deletes everything in the region's range, and nothing outside.
pub fn erase(batch: &mut WriteBatch, region: &Region) {
    if region.id == system::GROUP {
        return system::erase(batch);
    }
    let (start, end) = (region.range.start().as_bytes(), end_of(region));
    FAMILIES.into_iter().for_each(|cf| batch.delete_range(cf, start, end));
}

fn fill(batch: &mut WriteBatch, region: &Region, writes: &WritesView<'_>) {
    for write in writes.iter() {
        match write {
            Write::Put { cf, key, value } => batch.put(cf, key, value),
            Write::PutUntil { cf, key, value, until } => batch.put_until(cf, key, value, until),
            Write::Delete { cf, key } => batch.delete(cf, key),
            // An open end means the end of the region, never that of the tree: other regions live there, too.
            Write::DeleteRange { cf, start, end: [] } => batch.delete_range(cf, start, end_of(region)),
            Write::DeleteRange { cf, start, end } => batch.delete_range(cf, start, end),
        }
    }
}

/// The first key after the region. Where it has none, one above every key that is accepted.
fn end_of(region: &Region) -> &[u8] {
    match region.range.end().as_bytes() {
        [] => &ABOVE_EVERY_KEY,
        end => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use bytes::Bytes;
    use engine::lsm::{BatchOp, Mark, TimedValue, Until};
    use raft::{Apply, Membership, Start, Time};
    use scheduler::{Epoch, KeyRange, Peer, PeerId, RegionId, StoreId};

    use crate::region::inflight::Known;
    use crate::region::merge::Merges;
    use crate::region::record::{Descriptor, RegionRecord};
    use crate::region::replica::Stored;
    use crate::region::submit::{Edit, TurnRoom};

    type Leader = Replica<&'static str, ()>;

    /// A sole voter that leads and has applied its first entry.
    fn leader() -> Leader {
        let region = Region {
            id: RegionId(1),
            range: KeyRange::new("a", "m").unwrap(),
            epoch: Epoch::FIRST,
            peers: vec![Peer::voter(PeerId(11), StoreId(1))],
        };
        let record = RegionRecord { region, me: PeerId(11), tombstone: false, merges: Merges::default() };
        let start = Start::bootstrap(LogId::new(5, 5), Membership::default());
        let stored = Stored { record, in_tree: false, start };
        let mut replica =
            Leader::new(StoreId(1), stored, Arc::new(raft::Config::default()), 1, Time(0)).unwrap();
        replica.campaign(Time(0)).unwrap();
        for _ in 0..3 {
            for entries in commit(&mut replica) {
                let applied = replica.apply(&entries, &mut WriteBatch::new()).unwrap();
                assert!(replica.applied(applied).is_empty());
            }
        }
        assert!(replica.is_current());
        replica
    }

    /// Makes what there is to write durable; returns what is committed.
    fn commit(replica: &mut Leader) -> Vec<Vec<Entry>> {
        let mut committed = Vec::new();
        for _ in 0..3 {
            let effects = replica.effects(&mut TurnRoom::unlimited());
            if let Some(write) = effects.write {
                replica.durable(write);
            }
            match effects.apply {
                Some(Apply::Entries(entries)) => committed.push(entries),
                Some(Apply::FromLog { .. }) => panic!("the entries are in memory"),
                None => {}
            }
        }
        committed
    }

    fn put(key: &'static str) -> Edit {
        Edit::Put(Bytes::from_static(key.as_bytes()), Bytes::from_static(b"v").into())
    }

    #[test]
    fn a_write_of_an_older_version_has_no_effect_and_its_value_is_forgotten() {
        let mut replica = leader();
        replica.submit(put("b"), "proposed").unwrap();
        let committed = commit(&mut replica);
        replica.submit(put("c"), "gathered").unwrap();
        assert_eq!(replica.known(b"b"), Known::Value(Bytes::from_static(b"v").into()));
        // As a split that is applied between proposal and apply does it.
        replica.record.region.epoch.version += 1;
        replica.end_version();
        assert_eq!((replica.known(b"b"), replica.known(b"c")), (Known::Nothing, Known::Nothing));
        let mut batch = WriteBatch::new();
        let applied = replica.apply(&committed[0], &mut batch).unwrap();
        assert_eq!(batch.ops().count(), 0);
        assert_eq!(batch.marks(), [Mark::Applied { group: 1, applied: 7 }]);
        let current = vec![replica.region().clone()];
        let refused = Err(Refusal::EpochNotMatch { current });
        assert_eq!(replica.applied(applied), [("proposed", refused.clone())]);
        let effects = replica.effects(&mut TurnRoom::unlimited());
        assert_eq!((effects.answers, effects.released_bytes), (vec![("gathered", refused)], 4));
        replica.check();
    }

    /// All replicas have the same bytes of the entry, so their trees say the same, whatever their clocks do.
    #[test]
    fn a_value_that_expires_is_applied_with_the_moment_that_the_leader_has_said() {
        let mut replica = leader();
        let timed = TimedValue { value: Bytes::from_static(b"v"), until: Until(7) };
        replica.submit(Edit::Put(Bytes::from_static(b"b"), timed.clone()), "write").unwrap();
        assert_eq!(replica.known(b"b"), Known::Value(timed), "also after its moment: who asks has a clock");
        let committed = commit(&mut replica);
        let mut batch = WriteBatch::new();
        let applied = replica.apply(&committed[0], &mut batch).unwrap();
        let dated = b"\x07\0\0\0\0\0\0\0v";
        let ops: Vec<BatchOp<'_>> = batch.ops().collect();
        assert_eq!(ops, [BatchOp::PutUntil { cf: Cf::Default, key: b"b", dated }]);
        assert_eq!(replica.applied(applied), [("write", Ok(()))]);
        assert_eq!(
            (replica.known(b"b"), replica.effects(&mut TurnRoom::unlimited()).released_bytes),
            (Known::Nothing, 1 + 8 + 1)
        );
    }

    /// The first batch after a start from the log's record brings the tree its own.
    #[test]
    fn a_changed_descriptor_travels_in_the_batch_that_has_the_mark() {
        let mut replica = leader();
        let change = Change::AddLearner { peer: PeerId(12), store: StoreId(2) };
        replica.propose_change(change, Epoch::FIRST, "change").unwrap();
        let committed = commit(&mut replica);
        let mut batch = WriteBatch::new();
        let applied = replica.apply(&committed[0], &mut batch).unwrap();
        let [Mark::Applied { group: 1, applied: 7 }, Mark::Described { group: 1, state }] = batch.marks()
        else {
            panic!("{:?}", batch.marks())
        };
        let Descriptor { record, at, by_snapshot } = Descriptor::decode(state).unwrap();
        assert_eq!((record.region.epoch, at.index.0, by_snapshot), (Epoch::new(2, 1), 7, false));
        assert_eq!(replica.applied(applied), [("change", Ok(()))]);
        replica.submit(put("b"), "write").unwrap();
        // The promised learner does not vote, so the write is committed; and nothing is described without need.
        let committed = commit(&mut replica);
        let mut batch = WriteBatch::new();
        let applied = replica.apply(&committed[0], &mut batch).unwrap();
        assert_eq!(batch.marks(), [Mark::Applied { group: 1, applied: 8 }]);
        assert_eq!(replica.applied(applied), [("write", Ok(()))]);
    }
}
