//! Messages of other stores on their way into the regions.
//!
//! Each is judged by its envelope ([`Table::admit`](super::table::Table::admit)) and stepped at once; what that comes to is done by the
//! next turn. So nothing waits here, and what the regions hold for a peer is bounded by Raft's own flow control.
//!
//! | the store or the table says | what becomes of the message |
//! |---|---|
//! | stopped, or waiting for space in the log | dropped: a store that can write nothing must neither vote nor acknowledge |
//! | its start is not counted | dropped: an older copy of it would pass, and know nothing of the vote or of the entry |
//! | step | the replica takes it |
//! | create | a replica comes into being, which the log learns with the first that it has to write |
//! | create, where the tombstone of an older peer is in the memory of the tree only | dropped, and the tree flushes |
//! | destroy | the replica becomes a tombstone in the next turn; the message is dropped, and its sender repeats it |
//! | tell removed | the sender hears that it is no member any more |
//! | send on | copies go to the peers that stayed when the one here was removed |
//! | tell merged | the sender hears who has taken its region in |
//! | hear merged | see [`merging`](super::merging) |
//! | drop | dropped |
//! | a snapshot | dropped: it travels with its data ([`super::receiving`]), and no honest store sends one alone |
//! | destroy, while a snapshot is on its way into the tree | dropped: what is destroyed is whole |
//! | destroy, while the tree has regions that it was split into in memory only | dropped, and the tree flushes: they rest on its log |
//! | drop, a vote for a region that is not here | kept, in case a split brings the region; counted as dropped |
//!
//! Everything that is dropped is counted by its reason.

use raft::{Dropped, Start, Time};
use scheduler::{PeerId, RegionId};

use super::incomplete::is_beat;
use super::open::TAG_RECORD;
use super::{Inner, Shard, State};
use crate::metrics::Counter;
use crate::plant::{Bug, planted};
use crate::region::life::Life;
use crate::region::message::{Body, PeerMessage, Stray, Verdict};
use crate::region::record::{Descriptor, RegionRecord};
use crate::region::replica::{Replica, Stored};

/// Maximum number of replicas of a store that wait for their first snapshot.
const BLANK_MAX: usize = 256;

/// Why a message that arrived was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The store has stopped.
    Stopped,
    /// The log waits for space, so nothing could be acknowledged.
    LogWaits,
    /// This start of the store is not counted, so nothing may be acknowledged.
    Uncounted,
    /// It is for a peer that lived here before.
    OldPeer,
    /// It is for a peer whose tombstone is here.
    Tombstone,
    /// Nothing is here, and it creates nothing.
    Absent,
    /// Nothing is here, and the range belongs to another region.
    RangeTaken,
    /// Its sender was removed, and was notified.
    SenderRemoved,
    /// The replica here is at its end.
    Dying,
    /// It announces a snapshot without its data.
    Snapshot,
    /// It destroys a replica whose snapshot is on its way into the tree.
    Installing,
    /// It destroys a replica whose log is still needed for the regions that it was split into.
    Splitting,
    /// It would create one replica too many.
    NotCreated,
    /// It creates a replica after one that was removed, of which a start would bring something back as things are.
    Unburied,
    /// The consensus core did not act upon it.
    Core(Dropped),
}

impl Lost {
    /// All reasons.
    pub const REASONS: [&'static str; 15] = [
        "stopped",
        "log_waits",
        "uncounted",
        "old_peer",
        "tombstone",
        "absent",
        "range_taken",
        "sender_removed",
        "dying",
        "snapshot",
        "installing",
        "splitting",
        "not_created",
        "unburied",
        "core",
    ];

    /// A label for a metric: the place in [`Lost::REASONS`].
    const fn place(self) -> usize {
        match self {
            Self::Stopped => 0,
            Self::LogWaits => 1,
            Self::Uncounted => 2,
            Self::OldPeer => 3,
            Self::Tombstone => 4,
            Self::Absent => 5,
            Self::RangeTaken => 6,
            Self::SenderRemoved => 7,
            Self::Dying => 8,
            Self::Snapshot => 9,
            Self::Installing => 10,
            Self::Splitting => 11,
            Self::NotCreated => 12,
            Self::Unburied => 13,
            Self::Core(_) => 14,
        }
    }
}

/// What has become of messages that arrived.
#[derive(Debug, Default)]
pub struct InboxCounters {
    stepped: Counter,
    lost: [Counter; Lost::REASONS.len()],
}

impl InboxCounters {
    /// Messages that a replica has taken.
    pub fn stepped(&self) -> u64 {
        self.stepped.get()
    }

    /// Messages that were dropped, by reason.
    pub fn lost(&self) -> Vec<(&'static str, u64)> {
        Lost::REASONS.iter().copied().zip(self.lost.iter().map(Counter::get)).collect()
    }
}

impl Shard {
    /// Takes messages of another store, in their order.
    pub async fn receive(&self, messages: Vec<PeerMessage>) {
        let inner = &*self.inner;
        let budget = inner.rt.budget();
        for message in messages {
            let (region, is_beat) = (message.region, is_beat(&message));
            match inner.take(message) {
                Ok(()) => {
                    inner.inbox.stepped.add_one();
                    if is_beat {
                        inner.note_beat(region);
                    }
                }
                Err(lost) => {
                    inner.inbox.lost[lost.place()].add_one();
                    if let Lost::Core(dropped) = lost {
                        inner.note_loss(region, dropped);
                    }
                }
            }
            budget.tick().await;
        }
    }

    /// What has become of messages that arrived.
    pub fn inbox(&self) -> &InboxCounters {
        &self.inner.inbox
    }
}

type PeerReplica = Replica<super::Due, super::Queued>;

impl Inner {
    fn take(&self, message: PeerMessage) -> Result<(), Lost> {
        if self.health.has_stopped() {
            return Err(Lost::Stopped);
        }
        if self.log_waits.get() {
            return Err(Lost::LogWaits);
        }
        if !self.openings.is_counted() {
            return Err(Lost::Uncounted);
        }
        if message.brings_snapshot() {
            return Err(Lost::Snapshot);
        }
        let region = message.region;
        let state = &mut *self.state.borrow_mut();
        if state.table.get(region).is_some_and(|replica| replica.life() == Life::Tombstone) {
            return Err(Lost::Dying);
        }
        match state.table.admit(&message) {
            Verdict::Step => self.step_peer(state, message).map_err(Lost::Core),
            Verdict::Create => {
                self.create(state, &message)?;
                self.step_peer(state, message).map_err(Lost::Core)
            }
            Verdict::Destroy => self.destroy(state, &message),
            Verdict::TellRemoved => {
                let told = match (state.table.get(region), state.table.tombstone(region)) {
                    (Some(replica), _) => Some(replica.tell_removed(&message)),
                    (None, Some(record)) => Some(PeerReplica::tell_removed_before(&message, record)),
                    (None, None) => None,
                };
                self.outbox.send(told.into_iter().collect());
                Err(Lost::SenderRemoved)
            }
            Verdict::TellMerged(into) => {
                let record = state.table.tombstone(region).expect("the verdict says so");
                self.outbox.send(vec![PeerReplica::tell_merged(&message, record, into)]);
                Err(Lost::Tombstone)
            }
            Verdict::HearMerged(into) => self.hear_merged(state, &message, into),
            Verdict::Drop(Stray::OldPeer) => Err(Lost::OldPeer),
            Verdict::Drop(Stray::Tombstone) => Err(Lost::Tombstone),
            Verdict::Drop(Stray::Absent) => {
                state.table.keep_vote(&message);
                Err(Lost::Absent)
            }
            Verdict::Drop(Stray::RangeTaken) => Err(Lost::RangeTaken),
        }
    }

    /// Ends a replica at the word of another store, if it is whole and nothing rests on it.
    pub(super) fn destroy(&self, state: &mut State, message: &PeerMessage) -> Result<(), Lost> {
        let region = message.region;
        if self.is_installing(state, region) {
            return Err(Lost::Installing);
        }
        if self.is_needed_by_halves(state, region) {
            self.tree.start_flush();
            return Err(Lost::Splitting);
        }
        let replica = state.table.get_mut(region).expect("the verdict says so");
        replica.destroy(message.epoch);
        // It has no range any more: no route may lead to it, also before the next turn buries it.
        if !planted(Bug::RouteOfTheDead) {
            state.table.publish_region(region);
        }
        self.moved(state, region);
        Err(Lost::Dying)
    }

    /// Whether a snapshot of the region has been handed to it and is not in tree and log.
    pub(super) fn is_installing(&self, state: &State, region: RegionId) -> bool {
        let is_receiving = |it: &Replica<super::Due, super::Queued>| it.life() == Life::Receiving;
        self.receptions.is_installing(region) || state.table.get(region).is_some_and(is_receiving)
    }

    /// Hands a message to its replica, whose envelope was admitted.
    pub(super) fn step_peer(&self, state: &mut State, message: PeerMessage) -> Result<(), Dropped> {
        let (region, now) = (message.region, Time(self.rt.boot_time().0));
        let replica = state.table.get_mut(region).expect("its envelope was admitted");
        if planted(Bug::CountedForAnother) {
            count_for_another(replica, now, &message);
        }
        let stepped = replica.step(now, message);
        self.time_progress(replica);
        self.moved(state, region);
        stepped
    }

    fn moved(&self, state: &mut State, region: RegionId) {
        state.table.mark_dirty(region);
        self.bell.ring();
    }

    /// Whose record the log has of a region.
    pub(super) fn logged_peer(&self, region: RegionId) -> Option<PeerId> {
        let record = self.log.state(region.0, TAG_RECORD)?;
        RegionRecord::decode(&record).ok().map(|record| record.me)
    }

    /// Whether the durable tables have this tombstone, and so nothing of what its replica had.
    pub(super) fn is_buried(&self, tombstone: &RegionRecord) -> bool {
        let kept = self.tree.state(tombstone.region.id.0);
        let kept = kept.and_then(|bytes| Descriptor::decode(&bytes).ok());
        kept.is_some_and(|kept| kept.record.tombstone && kept.record.me == tombstone.me)
    }

    /// Brings a replica into being that waits for its first snapshot. Where another peer of the region was removed before, the tables
    /// have its tombstone by then: from the first write of this one on the log knows nothing of it, so a start would not delete its
    /// data again.
    fn create(&self, state: &mut State, message: &PeerMessage) -> Result<(), Lost> {
        let blank = state.table.iter().filter(|replica| replica.life() == Life::Initialising).count();
        let range = message.range.clone().filter(|_| blank < BLANK_MAX).ok_or(Lost::NotCreated)?;
        let unburied = |tombstone: &RegionRecord| !self.is_buried(tombstone) && !planted(Bug::BuriedInMemory);
        if state.table.tombstone(message.region).is_some_and(unburied) {
            self.tree.start_flush();
            return Err(Lost::Unburied);
        }
        let record = Replica::<(), ()>::blank_record(message, range);
        let stored = Stored { record, in_tree: false, start: Start::empty() };
        let now = Time(self.rt.boot_time().0);
        let replica = Replica::new(self.store, stored, self.raft.clone(), self.rt.random(), now)
            .map_err(|_| Lost::NotCreated)?;
        state.table.enter_region(replica).map_err(|_| Lost::RangeTaken)
    }
}

/// The planted bug: an acknowledgement is stepped a second time, as if another peer had sent it.
fn count_for_another(replica: &mut Replica<super::Due, super::Queued>, now: Time, message: &PeerMessage) {
    let mut copy = message.clone();
    let other =
        replica.region().peers.iter().find(|peer| peer.id != message.from.id && peer.id != message.to.id);
    if let (Body::Raft(raft), Some(other)) = (&mut copy.body, other)
        && matches!(raft.body, raft::Body::AppendReply(_))
    {
        raft.from = raft::NodeId(other.id.0);
        copy.from = *other;
        if let Err(dropped) = replica.step(now, copy) {
            tracing::debug!(%dropped, "the planted message is not acted upon");
        }
    }
}
