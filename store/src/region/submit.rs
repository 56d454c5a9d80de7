//! Writes on their way into the log: gathered until the next turn, then proposed.
//!
//! What is gathered together travels as one command, so that a hundred small writes cost one entry. A command never grows beyond
//! what the group takes, so nothing is refused because of what else came.

use bytes::Bytes;
use engine::lsm::{TimedValue, Until};
use raft::{LogId, Payload};

use super::command::{Cf, Write, Writes, encoded_bytes};
use super::guard;
use super::inflight::CommandNo;
use super::replica::Replica;
use super::system::{self, SystemCommand};
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;

/// A command is closed and the next one begun when it has gathered this much, or so many writes: a store pauses between two commands
/// that it applies, and not within one.
const COMMAND_BYTES_MAX: usize = 512 << 10;
const COMMAND_WRITES_MAX: usize = 1024;

/// Writes that are submitted together, take effect together, and are known while they are in flight. All are of the default
/// family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Nothing: the answer alone waits until everything before it is applied.
    Nothing,
    /// Sets a key.
    Put(Bytes, TimedValue),
    /// Deletes a key.
    Delete(Bytes),
    /// Sets keys, or deletes those without a value.
    Many(Vec<(Bytes, Option<TimedValue>)>),
    /// Deletes the keys in `[start, end)`; an empty end means that of the region.
    DeleteRange(Bytes, Bytes),
}

/// What one turn may still propose, of all groups of a store together. What it proposes exists as command, as batch and as record of the log
/// until it is durable; what has no room yet exists once, and is proposed in the next turn.
#[derive(Debug)]
pub struct TurnRoom {
    bytes_max: usize,
    left_bytes: usize,
}

impl TurnRoom {
    /// Room for commands of `bytes_max` bytes, or for one that is longer.
    pub const fn new(bytes_max: usize) -> Self {
        Self { bytes_max, left_bytes: bytes_max }
    }

    /// Room for everything.
    pub const fn unlimited() -> Self {
        Self::new(usize::MAX)
    }

    /// Whether there is room for a command of `bytes`.
    const fn has(&self, bytes: usize) -> bool {
        bytes <= self.left_bytes || self.is_whole()
    }

    /// Whether nothing was proposed yet.
    pub const fn is_whole(&self) -> bool {
        self.left_bytes == self.bytes_max
    }

    const fn take(&mut self, bytes: usize) {
        self.left_bytes = self.left_bytes.saturating_sub(bytes);
    }
}

/// One command before it is proposed.
#[derive(Debug)]
pub(super) struct Gathered<W> {
    content: Content,
    /// Who waits, in order.
    pub(super) answers: Vec<W>,
}

/// What a command is made of.
#[derive(Debug)]
enum Content {
    /// Writes of keys, which are in flight as this command.
    Writes(Writes, CommandNo),
    /// A command of the system group, as its payload.
    System(Payload),
}

impl Content {
    /// At most this long is its payload, bytes.
    fn encoded_bytes(&self) -> usize {
        match self {
            Self::Writes(writes, _) => writes.encoded_bytes(),
            Self::System(payload) => payload.len(),
        }
    }

    fn payload(&self) -> Payload {
        match self {
            Self::Writes(writes, _) => Payload::from(writes.encode()),
            Self::System(payload) => payload.clone(),
        }
    }
}

/// A proposed command or change.
#[derive(Debug)]
pub(super) struct Waiting<W> {
    /// Where it stands in the log.
    pub(super) id: LogId,
    /// The version of the epoch that it was admitted under.
    pub(super) version: u64,
    /// As what its writes are in flight, if it is made of writes.
    pub(super) command: Option<CommandNo>,
    /// Who waits, in order.
    pub(super) answers: Vec<W>,
}

impl Edit {
    /// Of all keys and values.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Put(key, value) => key.len() + value.stored_bytes(),
            Self::DeleteRange(start, end) => start.len() + end.len(),
            Self::Delete(key) => key.len(),
            Self::Many(pairs) => {
                let bytes = |value: &TimedValue| value.stored_bytes();
                pairs.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, bytes)).sum()
            }
        }
    }

    /// How many writes: keys, and deletions of a range.
    pub fn count(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Put(..) | Self::Delete(_) | Self::DeleteRange(..) => 1,
            Self::Many(pairs) => pairs.len(),
        }
    }
}

fn write_of<'a>(key: &'a Bytes, value: Option<&'a TimedValue>) -> Write<'a> {
    match value {
        Some(TimedValue { value, until: Until::NEVER }) => Write::Put { cf: Cf::Default, key, value },
        Some(TimedValue { value, until }) => Write::PutUntil { cf: Cf::Default, key, value, until: *until },
        None => Write::Delete { cf: Cf::Default, key },
    }
}

impl<W, R> Replica<W, R> {
    /// Adds writes to the command that the next turn proposes; `waiter` hears once they are applied. Returns the bytes that are now
    /// in flight for them.
    ///
    /// # Errors
    /// If this replica does not lead, the writes reach out of the region, or they alone are more than the group takes; the waiter
    /// comes back.
    pub fn submit(&mut self, edit: Edit, waiter: W) -> Result<usize, (W, Refusal)> {
        if let Err(refusal) = self.may_submit(&edit) {
            return Err((waiter, refusal));
        }
        let bytes = edit.bytes();
        let (writes, answers) = self.open_command(edit.count(), bytes);
        match &edit {
            Edit::Nothing => {}
            Edit::Put(key, value) => writes.push(write_of(key, Some(value))),
            Edit::Delete(key) => writes.push(write_of(key, None)),
            Edit::Many(pairs) => {
                pairs.iter().for_each(|(key, value)| writes.push(write_of(key, value.as_ref())));
            }
            Edit::DeleteRange(start, end) => {
                writes.push(Write::DeleteRange { cf: Cf::Default, start, end });
            }
        }
        answers.push(waiter);
        match edit {
            Edit::Nothing => {}
            Edit::Put(key, value) => self.inflight.begin_write(key, Some(value)),
            Edit::Delete(key) => self.inflight.begin_write(key, None),
            Edit::Many(pairs) => {
                pairs.into_iter().for_each(|(key, value)| self.inflight.begin_write(key, value));
            }
            Edit::DeleteRange(start, end) => self.inflight.begin_range(start, end),
        }
        Ok(bytes)
    }

    /// Adds a command of the system group, which the next turn proposes; what it came to is in
    /// [`Applied::take_decided`](super::apply::Applied::take_decided) once it is applied.
    ///
    /// # Errors
    /// If this replica is not one of the system group or does not lead it, or too many commands wait; the waiter comes back.
    pub fn submit_command(&mut self, command: &SystemCommand, waiter: W) -> Result<(), (W, Refusal)> {
        if !self.is_system() {
            return Err((waiter, Refusal::RegionNotFound { region_id: self.region().id.0 }));
        }
        if !self.is_leader() {
            return Err((waiter, self.not_leader()));
        }
        if self.commands_waiting() >= system::COMMANDS_MAX {
            let reason = "too many changes of the scheduler's state wait";
            return Err((waiter, Refusal::Busy { reason, backoff_ms: 20 }));
        }
        let content = Content::System(Payload::from(system::codec::encode(command)));
        self.gathering.push_back(Gathered { content, answers: vec![waiter] });
        self.debug_check();
        Ok(())
    }

    /// Commands that are not applied yet.
    pub fn commands_waiting(&self) -> usize {
        self.gathering.len() + self.waiting.len() + self.doubt.len()
    }

    fn may_submit(&self, edit: &Edit) -> Result<(), Refusal> {
        if self.is_system() {
            return Err(Refusal::RegionNotFound { region_id: self.region().id.0 });
        }
        if !self.is_leader() {
            return Err(self.not_leader());
        }
        if self.is_stopped() {
            return Err(Refusal::not_current());
        }
        let region = self.region();
        match edit {
            Edit::Nothing => {}
            Edit::Put(key, _) | Edit::Delete(key) => guard::covers(region, key)?,
            Edit::Many(pairs) => pairs.iter().try_for_each(|(key, _)| guard::covers(region, key))?,
            Edit::DeleteRange(start, end) => guard::covers_range(region, start, end)?,
        }
        let alone = encoded_bytes(edit.count(), edit.bytes());
        if alone > self.command_bytes_max {
            let (region_id, bytes_max) = (region.id.0, self.command_bytes_max);
            return Err(Refusal::TooLarge { region_id, bytes: alone, bytes_max });
        }
        Ok(())
    }

    /// The command that `count` more writes of `bytes` are to be added to, and who waits for it.
    fn open_command(&mut self, count: usize, bytes: usize) -> (&mut Writes, &mut Vec<W>) {
        let (version, bytes_max) = (self.region().epoch.version, self.command_bytes_max);
        let fits = |writes: &Writes| {
            let together = encoded_bytes(writes.len() + count, writes.bytes() + bytes);
            let is_open = writes.bytes() < COMMAND_BYTES_MAX && writes.len() < COMMAND_WRITES_MAX;
            writes.version() == version && is_open && together <= bytes_max
        };
        let open = self.gathering.back().is_some_and(|last| match &last.content {
            Content::Writes(writes, _) => fits(writes),
            Content::System(_) => false,
        });
        if !open {
            let content = Content::Writes(Writes::new(version), self.inflight.begin_command());
            self.gathering.push_back(Gathered { content, answers: Vec::new() });
        }
        match self.gathering.back_mut() {
            Some(Gathered { content: Content::Writes(writes, _), answers }) => (writes, answers),
            Some(Gathered { content: Content::System(_), .. }) | None => {
                unreachable!("writes were pushed if there were none")
            }
        }
    }

    /// Whether writes have gathered that no turn has proposed yet.
    pub fn has_gathered(&self) -> bool {
        !self.gathering.is_empty()
    }

    /// Proposes what has gathered, as far as the turn has room and the group accepts it now. What can never be proposed here is refused, each
    /// command for its own reason.
    pub(super) fn propose_gathered(&mut self, room: &mut TurnRoom) {
        while let Some(next) = self.gathering.pop_front_if(|next| room.has(next.content.encoded_bytes())) {
            let payload = next.content.payload();
            match self.raft.propose(payload.clone()) {
                Ok(id) => {
                    room.take(payload.len());
                    let (command, version) = match &next.content {
                        Content::Writes(writes, command) => (Some(*command), writes.version()),
                        Content::System(_) => (None, self.region().epoch.version),
                    };
                    self.waiting.push_back(Waiting { id, version, command, answers: next.answers });
                }
                Err(raft::Refusal::UncommittedFull | raft::Refusal::TransferPending { .. }) => {
                    self.gathering.push_front(next);
                    break;
                }
                Err(
                    why @ (raft::Refusal::NotLeader { .. }
                    | raft::Refusal::EntryTooLarge
                    | raft::Refusal::TermNotCommitted
                    | raft::Refusal::ChangePending
                    | raft::Refusal::InvalidChange(_)
                    | raft::Refusal::NotVoter
                    | raft::Refusal::MayNotCampaign
                    | raft::Refusal::NoLease
                    | raft::Refusal::OutOfPlace),
                ) => self.give_up(next, payload.len(), why),
            }
        }
    }

    /// Lets `waiter` hear once an entry of its own is applied; it comes back where that could not be proposed.
    pub(super) fn wait_for(
        &mut self,
        proposed: Result<LogId, Refusal>,
        waiter: W,
    ) -> Result<(), (W, Refusal)> {
        let id = match proposed {
            Ok(id) => id,
            Err(refusal) => return Err((waiter, refusal)),
        };
        let version = self.region().epoch.version;
        self.waiting.push_back(Waiting { id, version, command: None, answers: vec![waiter] });
        self.debug_check();
        Ok(())
    }

    fn give_up(&mut self, gathered: Gathered<W>, bytes: usize, why: raft::Refusal) {
        if let Content::Writes(_, command) = &gathered.content {
            self.out.released_bytes += self.inflight.give_up(*command);
        }
        let refusal = self.refusal_of(why, bytes);
        let refused = gathered.answers.into_iter().map(|waiter| (waiter, Err(refusal.clone())));
        self.out.answers.extend(refused);
    }

    /// The version of the epoch has moved: what was admitted under the old one is refused at apply, so nothing may be computed
    /// from it, and what is not proposed yet never is.
    pub(super) fn end_version(&mut self) {
        if !planted(Bug::InflightSurvives) {
            self.forget_inflight();
        }
        let refusal = Refusal::EpochNotMatch { current: vec![self.region().clone()] };
        let gathered = self.gathering.drain(..).flat_map(|gathered| gathered.answers);
        self.out.answers.extend(gathered.map(|waiter| (waiter, Err(refusal.clone()))));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raft::{Apply, LogId, Membership, Start, Time};
    use scheduler::{Epoch, KeyRange, Peer, PeerId, Region, RegionId, StoreId};

    use super::*;
    use crate::region::merge::Merges;
    use crate::region::record::RegionRecord;
    use crate::region::replica::{Abandoned, Stored};

    const ENTRY_BYTES_MAX: usize = 16 << 20;

    /// A sole voter that leads.
    fn leader() -> Replica<u32, u32> {
        let config = raft::Config { entry_bytes_max: ENTRY_BYTES_MAX as u64, ..raft::Config::default() };
        let me = PeerId(3);
        let region = Region {
            id: RegionId(7),
            range: KeyRange::new("", "").unwrap(),
            epoch: Epoch::FIRST,
            peers: vec![Peer::voter(me, StoreId(1))],
        };
        let record = RegionRecord { region, me, tombstone: false, merges: Merges::default() };
        let start = Start::bootstrap(LogId::new(5, 5), Membership::default());
        let stored = Stored { record, in_tree: false, start };
        let mut replica = Replica::new(StoreId(1), stored, Arc::new(config), 1, Time(0)).unwrap();
        replica.campaign(Time(0)).unwrap();
        while replica.has_effects() {
            let effects = replica.effects(&mut TurnRoom::unlimited());
            if let Some(write) = effects.write {
                replica.durable(write);
            }
            if let Some(Apply::Entries(entries)) = effects.apply {
                let applied = replica.apply(&entries, &mut engine::lsm::WriteBatch::new()).unwrap();
                replica.applied(applied);
            }
        }
        assert!(replica.is_current());
        replica
    }

    fn put(value: &[u8]) -> (Bytes, Option<TimedValue>) {
        (Bytes::from_static(b"k"), Some(Bytes::copy_from_slice(value).into()))
    }

    /// What is large enough to fill a command alone is not put to what has gathered already, or the group would refuse both.
    #[test]
    fn a_command_never_grows_beyond_what_the_group_takes() {
        let (few, most, rest) = (vec![0; 400 << 10], vec![0; 8 << 20], vec![0; (79 << 20) / 10]);
        let mut replica = leader();
        replica.submit(Edit::Many(vec![put(&few)]), 1).unwrap();
        assert!(few.len() < COMMAND_BYTES_MAX, "the first command is still open");
        replica.submit(Edit::Many(vec![put(&most), put(&rest)]), 2).unwrap();
        replica.submit(Edit::Many(vec![put(&few)]), 3).unwrap();
        let sizes: Vec<usize> = replica.gathering.iter().map(|next| next.content.payload().len()).collect();
        assert!(sizes.iter().all(|bytes| *bytes <= ENTRY_BYTES_MAX), "{sizes:?}");
        replica.propose_gathered(&mut TurnRoom::unlimited());
        assert_eq!(replica.out.answers, [], "commands of {sizes:?} bytes are refused");
        let answers: Vec<&[u32]> = replica.waiting.iter().map(|waiting| &waiting.answers[..]).collect();
        assert_eq!(answers, [[1], [2], [3]]);
    }

    /// However small the writes are, a store that applies them can pause between two commands.
    #[test]
    fn a_command_has_no_more_than_so_many_writes_but_what_is_submitted_together_stays_so() {
        let mut replica = leader();
        let put = |n: usize| Edit::Put(Bytes::from(format!("{n}")), Bytes::from_static(b"v").into());
        for n in 0..=2 * COMMAND_WRITES_MAX {
            replica.submit(put(n), 1).unwrap();
        }
        let many = (0..3 * COMMAND_WRITES_MAX).map(|n| (Bytes::from(format!("{n}")), None)).collect();
        replica.submit(Edit::Many(many), 2).unwrap();
        let counts = |replica: &Replica<u32, u32>| -> Vec<usize> {
            let count = |next: &Gathered<u32>| match &next.content {
                Content::Writes(writes, _) => writes.len(),
                Content::System(_) => 0,
            };
            replica.gathering.iter().map(count).collect()
        };
        let most = COMMAND_WRITES_MAX;
        assert_eq!(counts(&replica), [most, most, 1 + 3 * most]);
    }

    /// What finds no room waits for the next turn, in order; what no turn has room for is proposed alone.
    #[test]
    fn a_turn_proposes_as_much_as_it_has_room_for() {
        let mut replica = leader();
        for (waiter, bytes) in [(1, 520 << 10), (2, 520 << 10), (3, 520 << 10), (4, 2 << 20), (5, 100)] {
            replica.submit(Edit::Many(vec![put(&vec![0; bytes])]), waiter).unwrap();
        }
        let turns: Vec<Vec<u32>> = std::iter::from_fn(|| {
            let known = replica.waiting.len();
            replica.propose_gathered(&mut TurnRoom::new(1200 << 10));
            let new: Vec<u32> =
                replica.waiting.iter().skip(known).flat_map(|waiting| waiting.answers.clone()).collect();
            (!new.is_empty()).then_some(new)
        })
        .collect();
        assert_eq!(turns, [vec![1, 2], vec![3], vec![4], vec![5]]);
        assert!(!replica.has_gathered());
    }

    /// A client acts on what it hears: some refusals are worth a retry, some name what has to change, and no two are mistaken for each other.
    #[test]
    fn every_refusal_of_a_group_has_an_answer_of_its_own() {
        use raft::{MembershipError, NodeId, Refusal as Raft};
        let replica = leader();
        let is_busy = |refusal: &Refusal| matches!(refusal, Refusal::Busy { .. });
        let is_invalid = |refusal: &Refusal| matches!(refusal, Refusal::Invalid(_));
        type IsRight<'a> = &'a dyn Fn(&Refusal) -> bool;
        let rows: [(Raft, IsRight<'_>); 11] = [
            (Raft::NotLeader { leader: None }, &|it| matches!(it, Refusal::NotLeader { .. })),
            (Raft::TransferPending { to: NodeId(9) }, &is_busy),
            (Raft::TermNotCommitted, &|it| *it == Refusal::not_current()),
            (Raft::UncommittedFull, &is_busy),
            (Raft::EntryTooLarge, &|it| {
                matches!(it, Refusal::TooLarge { region_id: 7, bytes: 17, bytes_max: ENTRY_BYTES_MAX })
            }),
            (Raft::ChangePending, &is_busy),
            (Raft::InvalidChange(MembershipError::NoVoters), &is_invalid),
            (Raft::NotVoter, &is_invalid),
            (Raft::MayNotCampaign, &is_busy),
            (Raft::NoLease, &is_busy),
            (Raft::OutOfPlace, &is_busy),
        ];
        let mut answers = std::collections::BTreeSet::new();
        for (refusal, is_right) in rows {
            let answer = replica.refusal_of(refusal, 17);
            assert!(is_right(&answer), "{refusal:?} is answered {answer:?}");
            assert!(answers.insert(format!("{answer:?}")), "{answer:?} is said of two refusals");
        }
    }

    /// What a group does not accept takes no room from others.
    #[test]
    fn what_is_not_proposed_leaves_the_room_of_a_turn_whole() {
        let mut replica = leader();
        replica.submit(Edit::Many(vec![put(&[0; 100])]), 1).unwrap();
        replica.resign(Time(0)).unwrap();
        let mut room = TurnRoom::new(1 << 20);
        replica.propose_gathered(&mut room);
        assert!(room.is_whole() && replica.waiting.is_empty());
    }

    /// What may be in the log is distinguished from what no turn has proposed, and what was decided is not lost.
    #[test]
    fn a_store_that_ends_gets_back_all_that_wait() {
        let mut replica = leader();
        let put = || Edit::Put(Bytes::from_static(b"k"), Bytes::from_static(b"v").into());
        replica.submit(put(), 1).unwrap();
        replica.propose_gathered(&mut TurnRoom::unlimited());
        replica.submit(put(), 2).unwrap();
        replica.ask(3).unwrap();
        let Abandoned { proposed, gathered, reads, decided } = replica.abandon();
        assert_eq!((proposed, gathered, reads, decided), (vec![1], vec![2], vec![3], Vec::new()));
        assert_eq!(replica.charged_bytes(), 0);
        replica.submit(put(), 4).unwrap();
        replica.propose_gathered(&mut TurnRoom::unlimited());
        replica.submit(put(), 5).unwrap();
        replica.resign(Time(0)).unwrap();
        let Abandoned { proposed, gathered, reads, decided } = replica.abandon();
        assert_eq!((proposed, gathered, reads), (vec![4], Vec::new(), Vec::new()));
        let [(5, Err(Refusal::NotLeader { .. }))] = &decided[..] else { panic!("{decided:?}") };
    }

    /// The bound is exact: the largest write that is let in is one that the group takes.
    #[test]
    fn what_is_let_in_alone_is_taken_and_one_byte_more_is_not() {
        let mut replica = leader();
        // A moment counts as a part of the value.
        let soon =
            TimedValue { value: vec![0; ENTRY_BYTES_MAX - encoded_bytes(1, 1) - 7].into(), until: Until(7) };
        let refused = replica.submit(Edit::Put(Bytes::from_static(b"k"), soon), 0).unwrap_err();
        assert!(matches!(refused, (0, Refusal::TooLarge { .. })), "{refused:?}");
        let fits = vec![0; ENTRY_BYTES_MAX - encoded_bytes(1, 1)];
        replica.submit(Edit::Many(vec![put(&fits)]), 1).unwrap();
        replica.propose_gathered(&mut TurnRoom::unlimited());
        assert_eq!((replica.out.answers.len(), replica.waiting.len()), (0, 1));
        let (waiter, refusal) =
            replica.submit(Edit::Many(vec![put(&[fits, vec![0]].concat())]), 2).unwrap_err();
        let (bytes, bytes_max) = (ENTRY_BYTES_MAX + 1, ENTRY_BYTES_MAX);
        assert_eq!((waiter, refusal), (2, Refusal::TooLarge { region_id: 7, bytes, bytes_max }));
    }
}
