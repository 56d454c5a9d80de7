//! A store in memory: the real [`Table`] over a log and a tree whose durable parts survive a crash.
//!
//! Here are its state, how replicas come and go, and what a crash leaves. What it has to say goes into `said`, what it has to send into
//! `sent`.
//!
//! | file | what it owns |
//! |---|---|
//! | [`disk`] | the log and the tree |
//! | [`work`] | what it does for its regions |
//! | [`says`] | what it says |

mod disk;
mod says;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use raft::{Entry, Index, LogId, LogSummary, Membership, SnapshotWanted, Start, Term, Time};
use scheduler::{PeerId, Region, RegionId, StoreId};
use store::refusal::Refusal;
use store::region::apply::tombstone_batch;
use store::region::effects::LogWrite;
use store::region::merge::Merges;
use store::region::merging::AllAnswered;
use store::region::message::PeerMessage;
use store::region::record::{Descriptor, InForce, Kept, RegionRecord};
use store::region::replica::{Replica, Stored};
use store::region::split::SplitOrigin;
use store::shard::halves::Expected;
use store::shard::table::Table;

use disk::{Group, Tree};
pub(crate) use says::{show, show_message};

/// Waiters are names.
pub(crate) type Peer = Replica<String, String>;

/// Where groups begin, as on a real store.
pub(crate) const BASE: LogId = LogId::new(5, 5);

/// Committed entries that wait to be applied.
enum Pending {
    Entries(Vec<Entry>),
    FromLog(Index, Index),
}

/// What the snapshots of all regions hold, by region and last entry: it travels beside the messages.
pub(crate) type Shipped = BTreeMap<(RegionId, LogId), BTreeMap<Vec<u8>, Vec<u8>>>;

pub(crate) struct Store {
    pub(crate) id: StoreId,
    pub(crate) table: Table<String, String>,
    config: Arc<raft::Config>,
    groups: BTreeMap<RegionId, Group>,
    pub(crate) tree: Tree,
    flushed: Tree,
    pub(crate) incarnation: u64,
    /// When it was started last.
    started: Time,
    /// Replicas by splits of which the log knows nothing yet.
    unlogged: BTreeMap<RegionId, Option<SplitOrigin>>,
    pub(crate) hold: bool,
    pub(crate) lag: bool,
    /// Each with what the log learns of a replica by its first one.
    writes: VecDeque<(LogWrite, Option<Group>)>,
    pending: VecDeque<(RegionId, PeerId, Pending)>,
    pub(crate) wanted: Vec<(RegionId, SnapshotWanted)>,
    pub(crate) sent: Vec<PeerMessage>,
    pub(crate) said: Vec<String>,
    seen: BTreeMap<RegionId, String>,
}

impl Store {
    pub(crate) fn new(id: StoreId, config: Arc<raft::Config>) -> Self {
        Self {
            id,
            table: Table::default(),
            config,
            groups: BTreeMap::new(),
            tree: Tree::default(),
            flushed: Tree::default(),
            incarnation: 1,
            started: Time(0),
            unlogged: BTreeMap::new(),
            hold: false,
            lag: false,
            writes: VecDeque::new(),
            pending: VecDeque::new(),
            wanted: Vec::new(),
            sent: Vec::new(),
            said: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Begins with a replica of `region`.
    pub(crate) fn bootstrap(&mut self, region: &Region, now: Time) {
        let stored = self.begin(region);
        self.adopt(stored, now);
    }

    /// What a replica of `region` begins with, durable.
    fn begin(&mut self, region: &Region) -> Stored {
        let me = region.peer_on(self.id).expect("a peer on this store").id;
        let record = RegionRecord { region: region.clone(), me, tombstone: false, merges: Merges::default() };
        let start = Start::bootstrap(BASE, Membership::default());
        let hard = start.hard_state;
        let group = Group { first: record.encode(), hard, base: BASE, entries: Vec::new(), origin: None };
        self.groups.insert(region.id, group);
        Stored { record, in_tree: false, start }
    }

    /// Whether a start would bring something back of a peer that was removed here.
    pub(crate) fn is_unburied(&self, id: RegionId) -> bool {
        let Some(tombstone) = self.table.tombstone(id) else { return false };
        let kept =
            self.flushed.states.get(&id.0).map(|bytes| Descriptor::decode(bytes).expect("a descriptor"));
        !kept.is_some_and(|kept| kept.record.tombstone && kept.record.me == tombstone.me)
    }

    /// A replica that a message brings into being. The log learns of it with the first that it writes.
    pub(crate) fn create(&mut self, message: &PeerMessage, now: Time) {
        let range = message.range.clone().expect("a message that creates has the range");
        let record = Peer::blank_record(message, range);
        self.adopt(Stored { record, in_tree: false, start: Start::empty() }, now);
    }

    fn adopt(&mut self, stored: Stored, now: Time) {
        let replica = self.replica(stored, now);
        self.table.enter_region(replica).expect("a free range");
    }

    fn replica(&self, stored: Stored, now: Time) -> Peer {
        let replica = Replica::new(self.id, stored, self.config.clone(), self.incarnation, now);
        replica.expect("sound state")
    }

    /// Cuts the region `left` where `right` begins.
    pub(crate) fn cut(&mut self, left: RegionId, right: &Region, now: Time) {
        let stored = self.begin(right);
        let right = self.replica(stored, now);
        self.table.cut_region(left, right).expect("the end of a region that is here");
    }

    /// What waits at a replica that has left the table hears that it is gone.
    pub(crate) fn leave(&mut self, mut removed: Peer, at_prepare: bool) {
        let gone = Refusal::RegionNotFound { region_id: removed.id().0 };
        let AllAnswered { answers, reads } = removed.answer_all(&gone, at_prepare);
        self.answer(answers);
        self.answer(reads.into_iter().map(|waiter| (waiter, Err(gone.clone()))).collect());
    }

    /// Everything volatile is lost.
    pub(crate) fn crash(&mut self) -> usize {
        let lost = self.writes.len();
        self.table = Table::default();
        self.tree = self.flushed.clone();
        (self.hold, self.lag) = (false, false);
        (self.writes, self.pending, self.wanted) = (VecDeque::new(), VecDeque::new(), Vec::new());
        self.seen.clear();
        self.unlogged.clear();
        lost
    }

    /// Starts from what is durable; `suspect` is what this disk may once have vouched for.
    pub(crate) fn restart(&mut self, suspect: u64, now: Time) {
        self.incarnation += 1;
        self.started = now;
        let origins: Vec<SplitOrigin> = self.groups.values().filter_map(|group| group.origin).collect();
        for (id, mut group) in self.groups.clone() {
            let described =
                self.flushed.states.get(&id.0).map(|bytes| Descriptor::decode(bytes).expect("a descriptor"));
            let mark = self.flushed.marks.get(&id.0).copied();
            let splits = origins.iter().filter(|origin| origin.parent == id);
            let first = RegionRecord::decode(&group.first).expect("a record");
            if !first.region.peers.is_empty() {
                group.hard.commit = splits.map(|origin| origin.at.index).fold(group.hard.commit, Index::max);
            }
            if let Some(Descriptor { at, by_snapshot, .. }) = &described {
                let in_time = *at == BASE || Some(at.index.0) <= mark;
                assert!(in_time, "store {}: {id} is described ahead of its data", self.id);
                if *by_snapshot && group.last().index < at.index {
                    (group.base, group.entries) = (*at, Vec::new());
                    self.groups.insert(id, group.clone());
                }
            }
            let InForce { record, kept } =
                InForce::of(first, described.map(|described| described.record)).expect("sound state");
            if record.tombstone {
                if kept != Kept::Own {
                    // The tree had it in memory only.
                    let at = LogId { term: Term(0), index: Index(mark.unwrap_or_default()) };
                    self.tree.write(&tombstone_batch(&record, at));
                }
                self.table.bury_region(record);
                continue;
            }
            let mut log = LogSummary::after(group.base);
            group.entries.iter().for_each(|entry| log.push(entry.id(), entry.kind));
            let applied = mark.filter(|_| kept != Kept::Other).map_or(group.base.index, Index);
            let (hard_state, suspect_until) = (group.hard, Index(suspect));
            let start = Start { hard_state, log, applied, membership: Membership::default(), suspect_until };
            let stored = Stored { record, in_tree: kept == Kept::Own, start };
            match group.origin.filter(|_| kept == Kept::Nothing) {
                Some(origin) => self.table.expect(Expected { stored, origin }),
                None => self.adopt(stored, now),
            }
        }
        self.begin_described(now);
        for Expected { stored, origin } in self.table.expected() {
            let parent = self.table.get(origin.parent);
            let comes = parent.is_none_or(|parent| parent.applied_index() < origin.at.index);
            assert!(comes, "{} is lost", stored.record.region);
        }
    }

    /// Replicas that the tree has by a split and the log does not.
    fn begin_described(&mut self, now: Time) {
        for (id, bytes) in self.flushed.states.clone() {
            let id = RegionId(id);
            let Descriptor { record, at, by_snapshot } = Descriptor::decode(&bytes).expect("a descriptor");
            if self.groups.contains_key(&id) || record.tombstone || by_snapshot || at != BASE {
                continue;
            }
            let start = Start::bootstrap(BASE, Membership::default());
            self.adopt(Stored { record, in_tree: true, start }, now);
            self.unlogged.insert(id, None);
        }
    }

    /// The tail of a region's log is lost.
    pub(crate) fn lose_tail(&mut self, region: RegionId, after: u64) {
        let group = self.groups.get_mut(&region).expect("a log");
        group.entries.retain(|entry| entry.index.0 <= after);
        group.hard.commit = group.hard.commit.min(Index(after));
    }

    pub(crate) fn flush(&mut self) {
        self.flushed = self.tree.clone();
    }

    /// Cuts a region's log below what the flushed tree has.
    pub(crate) fn compact(&mut self, region: RegionId) {
        let Some(mark) = self.flushed.marks.get(&region.0).copied() else { return };
        let group = self.groups.get_mut(&region).expect("a log");
        let Some(at) = group.entries.iter().position(|entry| entry.index.0 == mark) else { return };
        group.base = group.entries[at].id();
        group.entries.drain(..=at);
        if let Some(replica) = self.table.get_mut(region) {
            replica.compacted(Index(mark));
        }
    }

    /// Whether what a region was split into rests on its log.
    pub(crate) fn is_needed_by_halves(&self, id: RegionId) -> bool {
        let mark = self.flushed.marks.get(&id.0).copied().unwrap_or_default();
        self.table.is_needed_by_halves(id, Index(mark))
    }
}
