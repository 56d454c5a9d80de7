//! One region's replica on this store: descriptor, consensus core, the writes that gather for the next turn, the values in flight,
//! and who waits for what.
//!
//! Pure: inputs in, [`Effects`](super::effects::Effects) out. `W` is whoever waits for a write or a change, `R` whoever waits for a
//! read; this module only keeps them in order and says what came of them.
//!
//! Invariants, asserted by [`Replica::check`]:
//! * the descriptor is the one as of the applied index, and the core's membership is the one that it describes;
//! * what waits is ordered by index and was proposed in the term in which this replica leads; when it leads no more, nothing waits;
//! * an answer leaves once: when its entry is applied, or when it is certain or unknowable that it will not be.

use std::collections::VecDeque;
use std::sync::Arc;

use raft::{
    Dropped, Entry, Fetch, Identity, Index, LogId, NodeId, Payload, Raft, Snapshot, SnapshotReport,
    SnapshotWanted, Start, StartError, Term, Time,
};
use scheduler::change::Change;
use scheduler::epoch::Command;
use scheduler::{Epoch, KeyRange, Peer, PeerId, Region, RegionId, Role, StoreId};

use super::change::{Proposed, membership};
use super::effects::Death;
use super::guard::Here;
use super::inflight::{InFlight, Known};
use super::life::Life;
use super::message::{Body, PeerMessage};
use super::reads::{READS_MAX, Reads};
use super::record::{Descriptor, RegionRecord};
use super::submit::{Gathered, Waiting};
use super::system::{self, SystemState};
use crate::refusal::Refusal;

/// One region's replica.
#[derive(Debug)]
pub struct Replica<W, R> {
    pub(super) raft: Raft,
    pub(super) record: RegionRecord,
    store: StoreId,
    life: Life,
    /// Whether the tree may not have the descriptor yet.
    pub(super) describe: Option<LogId>,
    /// The largest command that the group takes, bytes.
    pub(super) command_bytes_max: usize,
    pub(super) gathering: VecDeque<Gathered<W>>,
    pub(super) waiting: VecDeque<Waiting<W>>,
    pub(super) inflight: InFlight,
    /// What the entries of the system group are applied to; nothing in a region.
    pub(super) system: Option<SystemState>,
    pub(super) reads: Reads<R>,
    /// The term in which we lead, as far as it has been acted upon.
    office: Option<Term>,
    /// Where peers live that the descriptor does not name (yet, or any more), the latest last.
    strangers: VecDeque<Peer>,
    pub(super) out: Outbox<W, R>,
}

/// What inputs came to since the effects were last taken.
#[derive(Debug)]
pub(super) struct Outbox<W, R> {
    pub(super) messages: Vec<PeerMessage>,
    pub(super) answers: Vec<(W, Result<(), Refusal>)>,
    pub(super) reads: Vec<(R, Result<(), Refusal>)>,
    pub(super) death: Option<Death>,
    pub(super) released_bytes: usize,
}

/// All that waited at a replica when its store ended.
#[derive(Debug)]
pub struct Abandoned<W, R> {
    /// Writes and changes whose entries may be in the log.
    pub proposed: Vec<W>,
    /// Writes that no turn had proposed.
    pub gathered: Vec<W>,
    /// Reads, also those that a turn was about to serve or to refuse.
    pub reads: Vec<R>,
    /// Writes and changes that were decided, and what they were to hear.
    pub decided: Vec<(W, Result<(), Refusal>)>,
}

/// Strangers whose stores are remembered.
const STRANGERS_MAX: usize = 16;

/// Whether a read may be served from the applied state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// At once.
    Now,
    /// After [`Replica::ask`].
    Ask,
}

impl<W, R> Default for Outbox<W, R> {
    fn default() -> Self {
        Self { messages: Vec::new(), answers: Vec::new(), reads: Vec::new(), death: None, released_bytes: 0 }
    }
}

impl<W, R> Outbox<W, R> {
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.answers.is_empty()
            && self.reads.is_empty()
            && self.death.is_none()
            && self.released_bytes == 0
    }
}

/// What a replica starts from.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The record as of the applied index.
    pub record: RegionRecord,
    /// Whether the tree has it; else it is written with the next entries that are applied.
    pub in_tree: bool,
    /// What the core starts from; its membership is filled in from the record.
    pub start: Start,
}

impl<W, R> Replica<W, R> {
    /// A replica from its stored state. One whose descriptor names no peer waits for a snapshot.
    ///
    /// # Errors
    /// If the stored state contradicts itself.
    pub fn new(
        store: StoreId,
        stored: Stored,
        config: Arc<raft::Config>,
        incarnation: u64,
        now: Time,
    ) -> Result<Self, StartError> {
        let Stored { record, in_tree, start } = stored;
        let start = Start { membership: membership(&record.region), ..start };
        let describe = (!in_tree).then_some(LogId { term: Term(0), index: start.applied });
        let identity = Identity {
            group: raft::GroupId(record.region.id.0),
            id: NodeId(record.me.0),
            priority: 0,
            incarnation,
        };
        let command_bytes_max = usize::try_from(config.entry_bytes_max).unwrap_or(usize::MAX);
        let raft = Raft::new(config, identity, start, now)?;
        let mut replica = Self {
            raft,
            store,
            life: Life::Absent,
            describe,
            command_bytes_max,
            gathering: VecDeque::new(),
            waiting: VecDeque::new(),
            inflight: InFlight::default(),
            system: (record.region.id == system::GROUP).then(SystemState::default),
            reads: Reads::default(),
            office: None,
            strangers: VecDeque::new(),
            out: Outbox::default(),
            record,
        };
        let life = if replica.record.region.peers.is_empty() { Life::Initialising } else { Life::Live };
        replica.enter(life);
        replica.debug_check();
        Ok(replica)
    }

    /// The record of a replica that a message brings into being: its id and no more.
    pub fn blank_record(message: &PeerMessage, range: KeyRange) -> RegionRecord {
        let region = Region { id: message.region, range, epoch: Epoch::new(0, 0), peers: Vec::new() };
        RegionRecord { region, me: message.to.id, tombstone: false }
    }

    /// The region as of the applied index.
    pub const fn region(&self) -> &Region {
        &self.record.region
    }

    /// What is to be remembered of the replica.
    pub const fn record(&self) -> &RegionRecord {
        &self.record
    }

    /// Our peer.
    pub const fn me(&self) -> PeerId {
        self.record.me
    }

    /// Where in its life the replica is.
    pub const fn life(&self) -> Life {
        self.life
    }

    /// Whether this is a replica of the system group, which no request of a user may reach.
    pub const fn is_system(&self) -> bool {
        self.system.is_some()
    }

    /// Whether keys of users are this replica's, so that its range is taken and routes lead to it.
    pub const fn has_range(&self) -> bool {
        !self.is_system() && self.life.has_range()
    }

    /// The state of the system group as of the applied index; nothing in a region.
    pub const fn system(&self) -> Option<&SystemState> {
        self.system.as_ref()
    }

    /// Takes over what the tree has of the system group's state, as of the index that the replica was created with.
    pub fn load_system(&mut self, state: SystemState) {
        assert!(self.is_system(), "{} keeps no state of the scheduler", self.region());
        self.system = Some(state);
    }

    /// The one function that moves between states of life.
    pub(super) fn enter(&mut self, next: Life) {
        assert!(
            self.life.may_become(next),
            "region {} on store {}: {} became {next}",
            self.record.region.id,
            self.store,
            self.life
        );
        self.life = next;
    }

    /// What the guard needs to know.
    pub fn here(&self) -> Here<'_> {
        let region = &self.record.region;
        let leader = self.raft.leader().and_then(|id| region.peer(PeerId(id.0))).copied();
        Here { store: self.store, region, me: self.record.me, term: self.raft.term().0, leader }
    }

    /// Our term.
    pub const fn term(&self) -> Term {
        self.raft.term()
    }

    /// Whether our peer leads.
    pub const fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    /// What the state contains.
    pub const fn applied_index(&self) -> Index {
        self.raft.applied_index()
    }

    /// What the core knows, for operators and tests.
    pub fn status(&self, now: Time) -> raft::Status {
        self.raft.status(now)
    }

    /// Whether our peer leads and its state contains everything that was acknowledged before it was elected. Nothing is read or
    /// computed from the state before that: after a restart or an election, what is committed may still wait to be applied.
    pub fn is_current(&self) -> bool {
        self.raft.has_applied_in_term()
    }

    /// Whether our peer leads and has committed an entry of its term which its state does not contain yet.
    pub fn is_catching_up(&self) -> bool {
        self.raft.has_committed_in_term() && !self.raft.has_applied_in_term()
    }

    /// Up to where the log is committed, as far as we know.
    pub const fn committed_index(&self) -> Index {
        self.raft.committed()
    }

    /// Whether our own durable entry is already a quorum.
    pub fn is_sole_voter(&self) -> bool {
        let mut voters = self.record.region.voters();
        voters.next().is_some_and(|voter| voter.id == self.record.me) && voters.next().is_none()
    }

    /// The largest command that the group takes, bytes.
    pub const fn command_bytes_max(&self) -> usize {
        self.command_bytes_max
    }

    /// What the writes in flight say about `key`.
    pub fn known(&self, key: &[u8]) -> Known {
        self.inflight.known(key)
    }

    /// Keys and values of the writes in flight.
    pub fn inflight_bytes(&self) -> usize {
        self.inflight.bytes()
    }

    /// Those, and what has been released since the effects were last taken.
    pub fn charged_bytes(&self) -> usize {
        self.inflight.bytes() + self.out.released_bytes
    }

    /// Whether and how a read may be served from the applied state. A sole voter needs no lease, nor the time: no other can be
    /// elected.
    ///
    /// # Errors
    /// If a sole voter has not applied what was acknowledged before the start; that takes a moment.
    pub fn access(&mut self, now: impl FnOnce() -> Time) -> Result<Access, Refusal> {
        if self.is_sole_voter() {
            return if self.is_current() { Ok(Access::Now) } else { Err(Refusal::not_current()) };
        }
        let applied = self.raft.applied_index();
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

    pub(super) fn read_may_wait(&mut self, id: raft::ReadId, index: Index) {
        self.reads.answered(id, index);
        self.serve_reads();
    }

    pub(super) fn serve_reads(&mut self) {
        let applied = self.raft.applied_index();
        self.out.reads.extend(self.reads.due(applied).map(|reader| (reader, Ok(()))));
    }

    /// A message has arrived whose envelope was admitted.
    ///
    /// # Errors
    /// Why the core did not act upon it.
    pub fn step(&mut self, now: Time, message: PeerMessage) -> Result<(), Dropped> {
        self.remember(message.from);
        let Body::Raft(inner) = message.body else {
            unreachable!("only a message of the core is handed to a replica")
        };
        if let raft::Body::Snapshot(snapshot) = &inner.body {
            let named = RegionRecord::decode(&snapshot.context).ok().map(|record| record.region);
            let fits =
                |region: &Region| region.id == self.region().id && membership(region) == snapshot.membership;
            if !named.as_ref().is_some_and(fits) {
                return Err(Dropped::MalformedSnapshot);
            }
        }
        let stepped = self.raft.step(now, *inner);
        self.notice();
        self.debug_check();
        stepped
    }

    /// Lets one tick pass.
    pub fn tick(&mut self, now: Time) {
        self.raft.tick(now);
        self.notice();
    }

    /// Campaigns without waiting for the election timer.
    ///
    /// # Errors
    /// Why this replica may not.
    pub fn campaign(&mut self, now: Time) -> Result<(), raft::Refusal> {
        let campaigned = self.raft.campaign(now);
        self.notice();
        campaigned
    }

    /// Steps down although nothing forces this leader to.
    ///
    /// # Errors
    /// If this replica does not lead.
    pub fn resign(&mut self, now: Time) -> Result<(), raft::Refusal> {
        let resigned = self.raft.resign(now);
        self.notice();
        self.debug_check();
        resigned
    }

    /// Hands leadership to a peer; how it ends comes as an event.
    ///
    /// # Errors
    /// Why the request went nowhere.
    pub fn transfer(&mut self, target: PeerId, asked: Epoch) -> Result<(), Refusal> {
        self.check_epoch(Command::TransferLeader, asked)?;
        match self.raft.transfer(NodeId(target.0)) {
            Ok(()) => Ok(()),
            Err(refusal) => Err(self.refusal_of(refusal, 0)),
        }
    }

    /// Proposes a change of membership; `waiter` hears once it is applied.
    ///
    /// # Errors
    /// If it cannot be proposed now or makes no sense; the waiter comes back. A leader that is asked to remove itself hands over
    /// leadership first and answers that it is busy.
    pub fn propose_change(&mut self, change: Change, asked: Epoch, waiter: W) -> Result<(), (W, Refusal)> {
        match self.try_change(change, asked) {
            Ok(id) => {
                let version = self.region().epoch.version;
                self.waiting.push_back(Waiting { id, version, writes: false, answers: vec![waiter] });
                self.debug_check();
                Ok(())
            }
            Err(refusal) => Err((waiter, refusal)),
        }
    }

    fn try_change(&mut self, change: Change, asked: Epoch) -> Result<LogId, Refusal> {
        super::guard::lead(self.here())?;
        self.check_epoch(change.command(), asked)?;
        let after = change.apply(self.region()).map_err(|error| Refusal::Invalid(error.to_string()))?;
        if !after.peer(self.me()).is_some_and(Peer::will_vote) {
            let heir = after.peers.iter().find(|peer| peer.will_vote()).map(|peer| NodeId(peer.id.0));
            if let Some(heir) = heir
                && self.raft.status(Time(0)).transfer.is_none()
                && let Err(refusal) = self.raft.transfer(heir)
            {
                return Err(self.refusal_of(refusal, 0));
            }
            return Err(Refusal::Busy {
                reason: "the leader hands over before it is removed",
                backoff_ms: 100,
            });
        }
        let invalid = || Refusal::Invalid(format!("{change:?} is no change of membership"));
        let raft = Proposed { epoch: asked, change: change.clone() }.to_raft().ok_or_else(invalid)?;
        self.raft.propose_change(&raft).map_err(|refusal| self.refusal_of(refusal, 0))
    }

    fn check_epoch(&self, command: Command, asked: Epoch) -> Result<(), Refusal> {
        let current = || Refusal::EpochNotMatch { current: vec![self.region().clone()] };
        self.region().epoch.admit(command, asked).map_err(|_| current())
    }

    /// Answers a [`Fetch`] with entries from the log, or with `None` if they have been cut off.
    pub fn fetched(&mut self, fetch: &Fetch, entries: Option<Vec<Entry>>) {
        self.raft.fetched(fetch, entries);
    }

    /// The log has been cut up to and including `index`.
    pub fn compacted(&mut self, index: Index) {
        self.raft.compacted(index);
    }

    /// How far the log may be cut without sending a living follower a snapshot.
    pub fn compact_hint(&self) -> Index {
        self.raft.compact_hint()
    }

    /// The term of the entry at `index`, unless it was cut off or does not exist.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.raft.term_at(index)
    }

    /// Announces the snapshot that was wanted: the state as of `last`, at which the descriptor was `region`.
    ///
    /// # Errors
    /// If it is of no use any more; the core will ask again if need be.
    pub fn send_snapshot(
        &mut self,
        wanted: &SnapshotWanted,
        last: LogId,
        region: &Region,
    ) -> Result<(), raft::Refusal> {
        let record = RegionRecord { region: region.clone(), me: PeerId(wanted.to.0), tombstone: false };
        let context = Payload::from(record.encode());
        let sent =
            self.raft.send_snapshot(wanted, Snapshot { last, membership: membership(region), context });
        self.debug_check();
        sent
    }

    /// Says what became of a snapshot that was wanted or being shipped.
    pub fn report_snapshot(&mut self, wanted: &SnapshotWanted, report: SnapshotReport) {
        self.raft.report_snapshot(wanted, report);
    }

    /// The replica was removed, as its store heard from another: it becomes a tombstone, of no older epoch than `epoch`.
    pub fn destroy(&mut self, epoch: Epoch) {
        let known = self.record.region.epoch;
        self.record.region.epoch =
            Epoch::new(known.conf_ver.max(epoch.conf_ver), known.version.max(epoch.version));
        self.die(false);
    }

    pub(super) fn die(&mut self, applied: bool) {
        self.enter(Life::Tombstone);
        self.record.tombstone = true;
        self.end_leadership();
        self.office = None;
        let region_id = self.region().id.0;
        let readers = self.reads.abandon();
        let refused = |reader| (reader, Err(Refusal::RegionNotFound { region_id }));
        self.out.reads.extend(readers.into_iter().map(refused));
        self.out.death = Some(Death { record: self.record.clone(), applied });
    }

    /// Takes out all that wait, because the store ends.
    pub fn abandon(&mut self) -> Abandoned<W, R> {
        self.inflight.clear();
        self.out.released_bytes = 0;
        let decided_reads = self.out.reads.drain(..).map(|(reader, _)| reader);
        Abandoned {
            proposed: self.waiting.drain(..).flat_map(|waiting| waiting.answers).collect(),
            gathered: self.gathering.drain(..).flat_map(|gathered| gathered.answers).collect(),
            reads: self.reads.abandon().into_iter().chain(decided_reads).collect(),
            decided: self.out.answers.drain(..).collect(),
        }
    }

    /// Acts upon the begin and the end of our own leadership. Called after every input that may have moved it.
    pub(super) fn notice(&mut self) {
        let office = if self.life == Life::Tombstone || !self.raft.is_leader() {
            None
        } else {
            Some(self.raft.term())
        };
        if office != self.office {
            if self.office.is_some() {
                self.end_leadership();
            }
            self.office = office;
        }
    }

    /// Another leader decides about what was proposed, and no value in flight can be relied on.
    fn end_leadership(&mut self) {
        let refusal = self.not_leader();
        let waiting = self.waiting.drain(..).flat_map(|waiting| waiting.answers);
        self.out.answers.extend(waiting.map(|waiter| (waiter, Err(Refusal::Unknown))));
        let gathered = self.gathering.drain(..).flat_map(|gathered| gathered.answers);
        self.out.answers.extend(gathered.map(|waiter| (waiter, Err(refusal.clone()))));
        self.forget_inflight();
    }

    pub(super) fn forget_inflight(&mut self) {
        self.out.released_bytes += self.inflight.bytes();
        self.inflight.clear();
    }

    pub(super) fn not_leader(&self) -> Refusal {
        Refusal::NotLeader { region_id: self.region().id.0, leader: self.here().leader }
    }

    pub(super) fn refusal_of(&self, refusal: raft::Refusal, bytes: usize) -> Refusal {
        let region_id = self.region().id.0;
        let busy = |reason| Refusal::Busy { reason, backoff_ms: 100 };
        match refusal {
            raft::Refusal::NotLeader { .. } => self.not_leader(),
            raft::Refusal::EntryTooLarge => {
                Refusal::TooLarge { region_id, bytes, bytes_max: self.command_bytes_max }
            }
            raft::Refusal::InvalidChange(error) => Refusal::Invalid(error.to_string()),
            raft::Refusal::NotVoter => Refusal::Invalid("the peer is no voter of the region".to_owned()),
            raft::Refusal::TransferPending { .. } => busy("the region is handing over its leadership"),
            raft::Refusal::TermNotCommitted => Refusal::not_current(),
            raft::Refusal::ChangePending => busy("an earlier change of membership is not applied yet"),
            raft::Refusal::UncommittedFull
            | raft::Refusal::MayNotCampaign
            | raft::Refusal::NoLease
            | raft::Refusal::OutOfPlace => busy("the group takes no commands now"),
        }
    }

    pub(super) fn sender(&self) -> Peer {
        let stranger = Peer { id: self.me(), store: self.store, role: Role::Learner };
        self.region().peer(self.me()).copied().unwrap_or(stranger)
    }

    /// The peer of this id, and its store, as far as it is known here.
    pub(super) fn address(&self, id: PeerId) -> Option<Peer> {
        let stranger = || self.strangers.iter().rev().find(|peer| peer.id == id);
        self.region().peer(id).or_else(stranger).copied()
    }

    fn remember(&mut self, peer: Peer) {
        if self.region().peer(peer.id).is_some() || self.strangers.back() == Some(&peer) {
            return;
        }
        self.strangers.retain(|known| known.id != peer.id);
        if self.strangers.len() == STRANGERS_MAX {
            self.strangers.pop_front();
        }
        self.strangers.push_back(peer);
    }

    /// Remembers those whom a change takes out of the descriptor: they hear of it from us.
    pub(super) fn remember_leavers(&mut self, after: &Region) {
        let leavers: Vec<Peer> =
            self.region().peers.iter().filter(|peer| after.peer(peer.id).is_none()).copied().collect();
        leavers.into_iter().for_each(|peer| self.strangers.push_back(peer));
        while self.strangers.len() > STRANGERS_MAX {
            self.strangers.pop_front();
        }
    }

    /// Asserts the stated invariants.
    ///
    /// # Panics
    /// If one does not hold: that is a bug here, or in a driver that broke its contract.
    pub fn check(&self) {
        let region = self.region();
        assert!(region.check().is_ok(), "{region} contradicts itself");
        assert_eq!(
            self.life == Life::Tombstone,
            self.record.tombstone,
            "a tombstone of {region} in two minds"
        );
        let (blank, life) = (region.peers.is_empty(), self.life);
        assert!(blank || life != Life::Initialising, "{region} has members and waits for its first snapshot");
        assert!(
            !blank || !matches!(life, Life::Live | Life::Splitting | Life::Merging),
            "{region} is {life}"
        );
        // The core takes the membership of a snapshot at once, the descriptor follows with the effects.
        if self.life == Life::Live && !self.raft.has_ready() {
            assert_eq!(self.raft.membership(), &membership(region), "the core and {region} differ");
        }
        let leads = self.raft.is_leader() && self.life != Life::Tombstone;
        assert_eq!(self.office, leads.then(|| self.raft.term()), "{region}: a leadership went unnoticed");
        if self.office.is_none() {
            assert!(
                self.waiting.is_empty() && self.gathering.is_empty(),
                "{region}: waiters without a leader"
            );
            assert!(self.inflight.is_empty(), "{region}: values in flight without a leader");
        }
        let indexes = || self.waiting.iter().map(|waiting| waiting.id.index);
        assert!(indexes().is_sorted_by(|one, next| one < next), "{region}: waiters out of order");
        let term = self.raft.term();
        assert!(
            self.waiting.iter().all(|waiting| waiting.id.term == term),
            "{region}: a waiter of an old term"
        );
        assert!(indexes().all(|index| index > self.raft.applied_index()), "{region}: a waiter was forgotten");
        assert!(self.reads.len() <= READS_MAX, "{region}: too many reads wait");
        self.inflight.check();
    }

    pub(super) fn debug_check(&self) {
        if cfg!(debug_assertions) {
            self.check();
        }
    }

    /// The descriptor as the tree keeps it.
    pub(super) fn descriptor(&self, at: LogId) -> Descriptor {
        Descriptor { record: self.record.clone(), at, by_snapshot: false }
    }

    /// The id of the region.
    pub fn id(&self) -> RegionId {
        self.record.region.id
    }
}
