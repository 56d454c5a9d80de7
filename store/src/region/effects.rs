//! What a replica wants done: everything that its inputs came to since it was last asked.
//!
//! This is the one place that takes what the consensus core has ready, and it takes it apart by name: a field that is added to
//! [`raft::Ready`] does not compile until it is decided here what becomes of it.
//!
//! What may be done at once and in any order lies open; what rests on the disk comes out of [`Replica::durable`] alone, which wants
//! the [`LogWrite`] back, and what rests on the tree out of [`Replica::applied`], which wants the [`Applied`](super::apply::Applied).

use raft::{Apply, Entry, Event, Fetch, HardState, Index, LogId, ReadOutcome, Ready, SnapshotWanted};
use scheduler::{KeyRange, PeerId, RegionId};

use super::life::Life;
use super::message::{Body, PeerMessage};
use super::record::RegionRecord;
use super::replica::Replica;
use super::submit::TurnRoom;
use crate::refusal::Refusal;

/// What is to be done for one replica.
#[derive(Debug)]
pub struct Effects<W, R> {
    /// May leave at once.
    pub send: Vec<PeerMessage>,
    /// One atomic, durable write; writes of a region become durable in the order they were handed out.
    pub write: Option<LogWrite>,
    /// Committed entries to apply in order: [`Replica::apply`], the tree, [`Replica::applied`].
    pub apply: Option<Apply>,
    /// Entries wanted back from the log, for followers: [`Replica::fetched`] answers each.
    pub fetch: Vec<Fetch>,
    /// Followers that need a snapshot: [`Replica::send_snapshot`] or [`Replica::report_snapshot`] answers each.
    pub snapshots: Vec<SnapshotWanted>,
    /// Reads that may be served from the applied state now, or that are refused.
    pub reads: Vec<(R, Result<(), Refusal>)>,
    /// Writes and changes that are decided: done, or refused.
    pub answers: Vec<(W, Result<(), Refusal>)>,
    /// The replica is a tombstone: its range is to be deleted and the tombstone kept, in one batch, unless an apply brought it,
    /// whose batch has both.
    pub death: Option<Death>,
    /// What has come of transfers, and learners that keep up.
    pub events: Vec<Event>,
    /// Bytes of writes that are no longer in flight.
    pub released_bytes: usize,
}

/// What must reach the log in one piece.
#[derive(Debug)]
#[must_use = "a write that is dropped stalls the region"]
pub struct LogWrite {
    region: RegionId,
    peer: PeerId,
    pub(super) write: raft::Write,
    /// The snapshot that replaces the tree's range and the whole log, before the entries.
    install: Option<Install>,
}

/// A snapshot to be taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// The last entry that it contains; the log begins after it.
    pub last: LogId,
    /// The record as of that entry. The tree takes it in one batch with the data and the mark.
    pub record: RegionRecord,
    /// What of the old range lies outside of the new one is deleted, too; `None` if there was none.
    pub old_range: Option<KeyRange>,
}

/// The end of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// The tombstone.
    pub record: RegionRecord,
    /// Whether the batch of an apply has it already.
    pub applied: bool,
}

impl LogWrite {
    /// The region.
    pub const fn region(&self) -> RegionId {
        self.region
    }

    /// The peer whose write it is. A later one of the region, on the same store, does not hear of it.
    pub const fn peer(&self) -> PeerId {
        self.peer
    }

    /// Replaces the stored hard state.
    pub const fn hard_state(&self) -> HardState {
        self.write.hard_state
    }

    /// Appended to the log; an entry at or below the log's end first cuts everything from its index on.
    pub fn entries(&self) -> &[Entry] {
        &self.write.entries
    }

    /// The snapshot to take in first.
    pub const fn install(&self) -> Option<&Install> {
        self.install.as_ref()
    }
}

impl<W, R> Replica<W, R> {
    /// Whether [`Replica::effects`] would return anything.
    pub fn has_effects(&self) -> bool {
        !self.out.is_empty() || self.has_gathered() || self.raft.has_ready()
    }

    /// Proposes what has gathered, as far as the turn has `room`, and collects everything there is to do.
    pub fn effects(&mut self, room: &mut TurnRoom) -> Effects<W, R> {
        if self.life() != Life::Tombstone {
            self.propose_gathered(room);
        }
        let Ready { send, write, apply, fetch, snapshots, reads, events } = self.raft.ready();
        reads.into_iter().for_each(|outcome| self.read_outcome(outcome));
        self.notice();
        let write = write.map(|write| self.log_write(write));
        let mut messages = std::mem::take(&mut self.out.messages);
        messages.extend(self.addressed(send));
        let effects = Effects {
            send: messages,
            write,
            apply,
            fetch,
            snapshots,
            reads: std::mem::take(&mut self.out.reads),
            answers: std::mem::take(&mut self.out.answers),
            death: self.out.death.take(),
            events,
            released_bytes: std::mem::take(&mut self.out.released_bytes),
        };
        self.debug_check();
        effects
    }

    /// A write has become durable, and with it every earlier one of the region; the tree has the snapshot that came with it.
    /// Returns the messages that waited for it.
    pub fn durable(&mut self, write: LogWrite) -> Vec<PeerMessage> {
        let LogWrite { region, peer, write, install } = write;
        assert_eq!((region, peer), (self.region().id, self.me()), "the write of another replica");
        if let Some(Install { last, record, old_range: _ }) = install {
            self.enter(Life::Live);
            self.record = record;
            self.wait_or_go_on();
            // The tree has it, together with the data.
            self.describe = None;
            self.in_tree = self.in_tree.max(last.index);
            self.serve_reads();
        }
        let (ack, messages) = write.durable();
        self.raft.written(ack);
        self.notice();
        let messages = self.addressed(messages).collect();
        self.debug_check();
        messages
    }

    fn log_write(&mut self, write: raft::Write) -> LogWrite {
        let install = write.snapshot.as_ref().map(|snapshot| {
            let record = RegionRecord::decode(&snapshot.context)
                .expect("the context was checked before the message was stepped");
            let old_range = self.has_range().then(|| self.region().range.clone());
            self.enter(Life::Receiving);
            if self.region().peers.is_empty() {
                // The range is taken from now on, as it will be.
                self.record.region.range = record.region.range.clone();
            }
            let record = RegionRecord { me: self.me(), tombstone: false, ..record };
            Install { last: snapshot.last, record, old_range }
        });
        LogWrite { region: self.region().id, peer: self.me(), write, install }
    }

    /// Raft's messages in their envelopes. One for a peer whose store is not known here has no way there.
    fn addressed(&self, messages: Vec<raft::Message>) -> impl Iterator<Item = PeerMessage> + use<'_, W, R> {
        messages.into_iter().filter_map(|message| {
            let to = self.address(PeerId(message.to.0))?;
            let range = may_create(&message.body).then(|| self.region().range.clone());
            let (region, epoch) = (self.region().id, self.known_epoch());
            Some(PeerMessage {
                region,
                from: self.sender(),
                to,
                epoch,
                range,
                body: Body::Raft(Box::new(message)),
            })
        })
    }

    fn read_outcome(&mut self, outcome: ReadOutcome) {
        match outcome {
            ReadOutcome::Ready { id, index } => self.read_may_wait(id, index),
            ReadOutcome::Failed { id } => {
                let refusal = self.not_leader();
                self.out.reads.extend(self.reads.fail(id).map(|reader| (reader, Err(refusal))));
            }
        }
    }
}

/// Whether the message may be the first that its addressee gets.
fn may_create(body: &raft::Body) -> bool {
    match body {
        raft::Body::Heartbeat(beat) => beat.commit == Index(0),
        raft::Body::Append { entries, .. } => entries.is_empty(),
        raft::Body::Snapshot(_) => true,
        raft::Body::PreVote(_)
        | raft::Body::PreVoteReply(_)
        | raft::Body::Vote(_)
        | raft::Body::VoteReply(_)
        | raft::Body::AppendReply(_)
        | raft::Body::HeartbeatReply { .. }
        | raft::Body::TransferRequest { .. }
        | raft::Body::TimeoutNow { .. }
        | raft::Body::ReadIndex { .. }
        | raft::Body::ReadIndexReply { .. }
        | raft::Body::Stale => false,
    }
}
