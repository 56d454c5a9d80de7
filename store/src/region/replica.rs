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

use raft::{Dropped, Identity, Index, LogId, NodeId, Raft, Start, StartError, Term, Time};
use scheduler::{Epoch, KeyRange, Peer, PeerId, Region, RegionId, StoreId};

use super::change::membership;
use super::doubt::Doubt;
use super::effects::Death;
use super::elections;
use super::guard::PeerFacts;
use super::inflight::{InFlight, Known};
use super::invitation::Invitation;
use super::life::Life;
use super::merge::Merges;
use super::message::{Body, PeerMessage};
use super::reads::Reads;
use super::record::{Descriptor, RegionRecord};
use super::stages::Stages;
use super::submit::{Gathered, Waiting};
use super::system::{self, SystemState};
use crate::refusal::Refusal;

/// One region's replica.
#[derive(Debug)]
pub struct Replica<W, R> {
    pub(super) raft: Raft,
    pub(super) record: RegionRecord,
    pub(super) store: StoreId,
    pub(super) life: Life,
    /// Whether the tree may not have the descriptor yet.
    pub(super) describe: Option<LogId>,
    /// The largest command that the group takes, bytes.
    pub(super) command_bytes_max: usize,
    pub(super) gathering: VecDeque<Gathered<W>>,
    pub(super) waiting: VecDeque<Waiting<W>>,
    /// What was proposed in earlier leaderships.
    pub(super) doubt: Doubt<W>,
    pub(super) inflight: InFlight,
    /// What the entries of the system group are applied to; nothing in a region.
    pub(super) system: Option<SystemState>,
    pub(super) reads: Reads<R>,
    /// Everything up to here is in the tree.
    pub(super) in_tree: Index,
    /// The term in which we lead, as far as it has been acted upon.
    pub(super) office: Option<Term>,
    pub(super) elections: elections::Watch,
    /// Proposals that are timed.
    pub(super) stages: Stages,
    /// Where peers live that the descriptor does not name (yet, or any more), the latest last.
    pub(super) strangers: VecDeque<Peer>,
    /// Who brought it into being, if a message did.
    pub(super) invitation: Option<Invitation>,
    /// Ticks since another member has spoken to it, while it waits for its first snapshot.
    pub(super) unheard_ticks: u32,
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
        let applied = start.applied;
        let describe = (!in_tree).then_some(LogId { term: Term(0), index: applied });
        let identity = Identity {
            group: raft::GroupId(record.region.id.0),
            id: NodeId(record.me.0),
            priority: 0,
            incarnation,
        };
        let config = if record.region.id == system::GROUP {
            // Whoever asks for an id or a timestamp finds it awake, and its lease in force.
            Arc::new(raft::Config { quiet_after_ticks: 0, ..(*config).clone() })
        } else {
            config
        };
        let command_bytes_max = usize::try_from(config.entry_bytes_max).unwrap_or(usize::MAX);
        let doubt = Doubt::new(config.election_ticks);
        let raft = Raft::new(config, identity, start, now)?;
        let mut replica = Self {
            raft,
            store,
            life: Life::Absent,
            describe,
            command_bytes_max,
            gathering: VecDeque::new(),
            waiting: VecDeque::new(),
            doubt,
            inflight: InFlight::default(),
            system: (record.region.id == system::GROUP).then(SystemState::default),
            reads: Reads::default(),
            in_tree: applied,
            office: None,
            elections: elections::Watch::default(),
            stages: Stages::default(),
            strangers: VecDeque::new(),
            invitation: None,
            unheard_ticks: 0,
            out: Outbox::default(),
            record,
        };
        let life = if replica.record.region.peers.is_empty() { Life::Initialising } else { Life::Live };
        replica.enter(life);
        replica.wait_or_go_on();
        replica.debug_check();
        Ok(replica)
    }

    /// The record of a replica that a message brings into being: its id and no more.
    pub fn blank_record(message: &PeerMessage, range: KeyRange) -> RegionRecord {
        let region = Region { id: message.region, range, epoch: Epoch::new(0, 0), peers: Vec::new() };
        RegionRecord { region, me: message.to.id, tombstone: false, merges: Merges::default() }
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
    pub fn here(&self) -> PeerFacts<'_> {
        let region = &self.record.region;
        let leader = self.raft.leader().and_then(|id| region.peer(PeerId(id.0))).copied();
        PeerFacts { store: self.store, region, me: self.record.me, term: self.raft.term().0, leader }
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

    /// What the tree contains: the core's applied index, but for a snapshot that is on its way into the tree.
    pub const fn in_tree(&self) -> Index {
        self.in_tree
    }

    /// The other members as this leader sees them; none if it does not lead.
    pub fn followers(&self) -> impl Iterator<Item = raft::MemberStatus> {
        self.raft.followers()
    }

    /// The last entry of the log, durable or not.
    pub fn last_index(&self) -> Index {
        self.raft.last().index
    }

    /// Whether a leader is known here.
    pub const fn knows_leader(&self) -> bool {
        self.raft.leader().is_some()
    }

    /// What the core knows, for operators and tests.
    pub fn status(&self, now: Time) -> raft::Status {
        self.raft.status(now)
    }

    /// Whether our peer leads and its state contains everything that was acknowledged before it was elected. Nothing is read or
    /// computed from the state before that: after a restart or an election, what is committed may still wait to be applied.
    pub fn is_current(&self) -> bool {
        self.raft.has_applied_in_term() && !self.is_stopped()
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
        self.record.is_sole_voter()
    }

    /// The largest command that the group takes, bytes.
    pub const fn command_bytes_max(&self) -> usize {
        self.command_bytes_max
    }

    /// What the writes in flight say about `key`.
    pub fn known(&mut self, key: &[u8]) -> Known {
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

    /// A message has arrived whose envelope was admitted.
    ///
    /// # Errors
    /// Why the core did not act upon it.
    pub fn step(&mut self, now: Time, message: PeerMessage) -> Result<(), Dropped> {
        self.hear_word(&message);
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

    /// A split leaves it this range: the version grows by one, and what was admitted under the old one is refused.
    pub fn cover(&mut self, range: KeyRange) {
        self.enter(Life::Splitting);
        let applied = self.raft.applied_index();
        self.describe = Some(LogId { term: self.raft.term_at(applied).unwrap_or_default(), index: applied });
        let region = &mut self.record.region;
        region.epoch.version += 1;
        region.range = range;
        self.end_version();
        self.enter(Life::Live);
        self.debug_check();
    }

    /// Gives back what its queues keep for the next writes. One that rests may never have any, and there may be a hundred thousand of it.
    pub fn release(&mut self) {
        self.gathering.shrink_to_fit();
        self.waiting.shrink_to_fit();
        self.inflight.release();
        self.stages.release();
        self.strangers.shrink_to_fit();
    }

    /// Memory that it takes, keys, payloads and what is in its queues aside.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() - size_of::<Raft>()
            + self.raft.memory_bytes()
            + self.record.region.peers.capacity() * size_of::<Peer>()
            + self.queue_bytes()
    }

    /// Memory of its queues, what is in them aside.
    pub fn queue_bytes(&self) -> usize {
        self.gathering.capacity() * size_of::<Gathered<W>>()
            + self.waiting.capacity() * size_of::<Waiting<W>>()
            + self.inflight.queue_bytes()
            + self.stages.queue_bytes()
            + self.strangers.capacity() * size_of::<Peer>()
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
