//! A store in memory: the real [`Table`] over a log and a tree whose durable parts survive a crash.
//!
//! The log is durable when a write is carried out, the tree when it is flushed; a snapshot that is taken in flushes. What the store has
//! to say goes into `told`, what it has to send into `sent`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use engine::lsm::{BatchOp, Cf, Mark, WriteBatch};
use raft::{
    Apply, Entry, HardState, Index, LogId, LogSummary, Membership, SnapshotReport, SnapshotWanted, Start,
    Term, Time,
};
use scheduler::{PeerId, Region, RegionId, StoreId};
use store::refusal::Refusal;
use store::region::apply::{erase, tombstone_batch};
use store::region::effects::{Effects, Install, LogWrite};
use store::region::life::Life;
use store::region::message::PeerMessage;
use store::region::message::Verdict;
use store::region::record::{Descriptor, InForce, Kept, RegionRecord};
use store::region::replica::{Abandoned, Replica, Stored};
use store::region::split::{Half, SplitOrigin};
use store::shard::halves::{Begun, Expected};
use store::shard::table::Table;

/// Waiters are names.
pub(crate) type Peer = Replica<String, String>;

/// Where groups begin, as on a real store.
pub(crate) const BASE: LogId = LogId::new(5, 5);

/// One group's log, durable.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    first: Vec<u8>,
    hard: HardState,
    base: LogId,
    entries: Vec<Entry>,
    origin: Option<SplitOrigin>,
}

impl Group {
    /// What the log has of a replica that comes into being with this record.
    fn blank(first: Vec<u8>) -> Self {
        Self { first, hard: HardState::default(), base: LogId::ZERO, entries: Vec::new(), origin: None }
    }

    fn peer(&self) -> PeerId {
        RegionRecord::decode(&self.first).expect("a record").me
    }
}

/// One store's tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) data: BTreeMap<Vec<u8>, Vec<u8>>,
    marks: BTreeMap<u64, u64>,
    states: BTreeMap<u64, Vec<u8>>,
}

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
    incarnation: u64,
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
    pub(crate) told: Vec<String>,
    seen: BTreeMap<RegionId, String>,
}

impl Tree {
    fn write(&mut self, batch: &WriteBatch) {
        for op in batch.ops() {
            match op {
                BatchOp::Put { cf: Cf::Default, key, value } => {
                    self.data.insert(key.to_vec(), value.to_vec());
                }
                BatchOp::Delete { cf: Cf::Default, key } => drop(self.data.remove(key)),
                BatchOp::DeleteRange { cf: Cf::Default, start, end } => {
                    self.data.retain(|key, _| &key[..] < start || &key[..] >= end);
                }
                BatchOp::Put { .. } | BatchOp::Delete { .. } | BatchOp::DeleteRange { .. } => {}
            }
        }
        for mark in batch.marks() {
            match mark {
                Mark::Applied { group, applied } => {
                    let known = self.marks.entry(*group).or_default();
                    *known = (*known).max(*applied);
                }
                Mark::Described { group, state } => drop(self.states.insert(*group, state.to_vec())),
                Mark::Forget { group } => {
                    self.marks.remove(group);
                    self.states.remove(group);
                }
            }
        }
    }

    /// What lies in a region's range.
    pub(crate) fn of(&self, region: &Region) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let inside = self.data.iter().filter(|(key, _)| region.range.contains(key));
        inside.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
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
            told: Vec::new(),
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
        let record = RegionRecord { region: region.clone(), me, tombstone: false };
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
        self.table.insert(replica).expect("a free range");
    }

    fn replica(&self, stored: Stored, now: Time) -> Peer {
        let replica = Replica::new(self.id, stored, self.config.clone(), self.incarnation, now);
        replica.expect("sound state")
    }

    /// Cuts the region `left` where `right` begins.
    pub(crate) fn cut(&mut self, left: RegionId, right: &Region, now: Time) {
        let stored = self.begin(right);
        let right = self.replica(stored, now);
        self.table.cut(left, right).expect("the end of a region that is here");
    }

    /// What waits at a replica that has left the table hears that it is gone.
    pub(crate) fn leave(&mut self, mut removed: Peer) {
        let gone = Refusal::RegionNotFound { region_id: removed.id().0 };
        let Abandoned { proposed, gathered, reads, decided } = removed.abandon();
        self.answer(decided);
        let all = proposed.into_iter().chain(gathered).chain(reads);
        self.answer(all.map(|waiter| (waiter, Err(gone.clone()))).collect());
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
                self.table.bury(record);
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

    /// Carries out what the regions want until nothing moves.
    pub(crate) fn settle(&mut self, shipped: &Shipped, now: Time) {
        self.table.mark_moved(|replica| replica.has_effects());
        for _ in 0..1000 {
            while !self.hold && !self.writes.is_empty() {
                self.write_one(shipped);
            }
            while !self.lag && !self.pending.is_empty() {
                self.apply_one(now);
            }
            let mut dirty = self.table.take_dirty();
            dirty.sort();
            if dirty.is_empty() {
                return self.table.check();
            }
            for id in dirty {
                let Some(replica) = self.table.get_mut(id) else { continue };
                let (peer, effects) = (replica.me(), replica.effects());
                self.table.refresh(id);
                self.carry_out((id, peer), effects);
                self.notice(id);
            }
        }
        panic!("{} never rests", self.id);
    }

    fn carry_out(&mut self, (id, peer): (RegionId, PeerId), effects: Effects<String, String>) {
        let Effects {
            send,
            write,
            apply,
            fetch,
            snapshots,
            reads,
            answers,
            death,
            events,
            released_bytes: _,
        } = effects;
        self.sent.extend(send);
        let blank = self.table.get(id).filter(|replica| replica.life() == Life::Initialising);
        let created = blank.filter(|it| self.groups.get(&id).is_none_or(|group| group.peer() != it.me()));
        let created = created.map(|it| Group::blank(it.record().encode()));
        self.writes.extend(write.map(|write| (write, created)));
        self.answer(answers);
        for (reader, outcome) in reads {
            let told = match outcome {
                Ok(()) => format!(
                    "{reader} is due at {}",
                    self.table.get(id).map_or(0, |one| one.applied_index().0)
                ),
                Err(refusal) => format!("{reader}: {}", show(&refusal)),
            };
            self.say(told);
        }
        let pending = apply.map(|apply| match apply {
            Apply::Entries(entries) => Pending::Entries(entries),
            Apply::FromLog { first, last } => Pending::FromLog(first, last),
        });
        self.pending.extend(pending.map(|pending| (id, peer, pending)));
        for wanted in fetch {
            let entries = self.entries(id, wanted.first, wanted.last);
            let replica = self.table.get_mut(id).expect("its effects were taken just now");
            replica.fetched(&wanted, entries);
            self.table.mark_dirty(id);
        }
        for wanted in snapshots {
            self.say(format!("{id} wants a snapshot for {}", wanted.to));
            self.wanted.push((id, wanted));
        }
        for event in events {
            self.say(format!("{id} {event:?}"));
        }
        if let Some(death) = death {
            if !death.applied {
                let first = death.record.encode();
                self.groups.entry(id).or_insert_with(|| Group::blank(Vec::new())).first = first;
                let batch = self.table.get(id).expect("its effects were taken just now").tombstone_batch();
                self.tree.write(&batch);
            }
            self.say(format!("{id} is a tombstone of {}", death.record.region.epoch));
            // One that was applied and is lost comes back when the removal is applied again.
            self.table.bury(death.record);
        }
    }

    /// Nothing if they have been cut off.
    fn entries(&self, id: RegionId, first: Index, last: Index) -> Option<Vec<Entry>> {
        let group = &self.groups[&id];
        let there = first > group.base.index;
        let range = group.entries.iter().filter(|entry| entry.index >= first && entry.index <= last);
        there.then(|| range.cloned().collect())
    }

    pub(crate) fn write_one(&mut self, shipped: &Shipped) {
        let (write, created) = self.writes.pop_front().expect("a write in flight");
        let id = write.region();
        if self.table.peer_mut(id, write.peer()).is_none() {
            return;
        }
        if let Some(group) = created {
            self.groups.insert(id, group);
        }
        if let Some(install) = write.install() {
            self.install(id, &install.clone(), shipped);
        }
        if let Some(origin) = self.unlogged.remove(&id) {
            let first = self.table.get(id).expect("it is here").record().encode();
            let group = Group { first, hard: HardState::default(), base: BASE, entries: Vec::new(), origin };
            self.groups.insert(id, group);
        }
        let group = self.groups.get_mut(&id).expect("a log");
        group.hard = write.hard_state();
        if let Some(first) = write.entries().first() {
            group.entries.retain(|entry| entry.index < first.index);
            group.entries.extend_from_slice(write.entries());
        }
        let replica = self.table.peer_mut(id, write.peer()).unwrap_or_else(|| panic!("{id} is gone"));
        self.sent.extend(replica.durable(write));
        self.table.refresh(id);
        self.table.mark_dirty(id);
        self.notice(id);
    }

    /// The tree first, in one batch; then the log.
    fn install(&mut self, id: RegionId, install: &Install, shipped: &Shipped) {
        let mut batch = WriteBatch::new();
        if let Some(old_range) = &install.old_range {
            erase(&mut batch, &Region { range: old_range.clone(), ..install.record.region.clone() });
        }
        erase(&mut batch, &install.record.region);
        let data = shipped.get(&(id, install.last)).expect("the data came with the message");
        data.iter().for_each(|(key, value)| batch.put(Cf::Default, key, value));
        batch.mark(id.0, install.last.index.0);
        let descriptor = Descriptor { record: install.record.clone(), at: install.last, by_snapshot: true };
        batch.describe(id.0, &descriptor.encode());
        self.tree.write(&batch);
        self.flush();
        let group = self.groups.get_mut(&id).expect("a log");
        (group.base, group.entries) = (install.last, Vec::new());
        self.say(format!("{id} takes in the snapshot at {} {}", install.last, install.record.region));
    }

    pub(crate) fn apply_one(&mut self, now: Time) {
        let (id, peer, pending) = self.pending.pop_front().expect("something to apply");
        if self.table.peer_mut(id, peer).is_none() {
            return;
        }
        let entries = match pending {
            Pending::Entries(entries) => entries,
            Pending::FromLog(first, last) => self.entries(id, first, last).expect("the log has them"),
        };
        let replica = self.table.get_mut(id).expect("it is here");
        let mut batch = WriteBatch::new();
        let mut applied = replica.apply(&entries, &mut batch).expect("readable entries");
        let halves = applied.take_halves();
        self.table.describe_halves(&halves, &mut batch);
        self.tree.write(&batch);
        let answers = self.table.get_mut(id).expect("it is here").applied(applied);
        self.answer(answers);
        self.table.refresh(id);
        self.table.mark_dirty(id);
        self.notice(id);
        self.publish(id, halves, now);
    }

    /// What a region was split into comes into the table; where the region is led, its replicas campaign at once.
    fn publish(&mut self, parent: RegionId, halves: Vec<Half>, now: Time) {
        if halves.is_empty() {
            return;
        }
        let leads = self.table.get(parent).is_some_and(Peer::is_leader);
        let (id, config, incarnation, started) =
            (self.id, self.config.clone(), self.incarnation, self.started);
        let begun = self
            .table
            .split(parent, halves, |stored| Replica::new(id, stored, config.clone(), incarnation, started));
        for Begun { region, unlogged, votes } in begun.expect("sound state") {
            if let Some(origin) = unlogged {
                self.unlogged.insert(region, Some(origin));
            }
            self.notice(region);
            let replica = self.table.get_mut(region).expect("it has begun");
            let told = format!("{parent} was split, and here is {}", replica.region());
            if leads && let Err(why) = replica.campaign(now) {
                self.say(format!("{region}: {why}"));
            }
            self.say(told);
            for message in votes {
                if self.table.admit(&message) == Verdict::Step {
                    let replica = self.table.get_mut(region).expect("it has begun");
                    let what = replica.step(now, message).map_or_else(|why| why.name(), |()| "taken");
                    self.say(format!("{region}: an early vote is {what}"));
                }
            }
        }
    }

    /// Whether what a region was split into rests on its log.
    pub(crate) fn is_needed_by_halves(&self, id: RegionId) -> bool {
        let mark = self.flushed.marks.get(&id.0).copied().unwrap_or_default();
        self.table.is_needed_by_halves(id, Index(mark))
    }

    fn answer(&mut self, answers: Vec<(String, Result<(), Refusal>)>) {
        for (waiter, outcome) in answers {
            let told = outcome.map_or_else(|refusal| show(&refusal), |()| "done".to_owned());
            self.say(format!("{waiter}: {told}"));
        }
    }

    /// Says what is new about a region's role, life and descriptor.
    fn notice(&mut self, id: RegionId) {
        let Some(replica) = self.table.get(id) else { return };
        let role = match (replica.life(), replica.is_leader()) {
            (Life::Live, true) => format!("leads in term {}", replica.term()),
            (Life::Live, false) => "follows".to_owned(),
            (life, _) => life.to_string(),
        };
        let region = replica.region();
        let peers: Vec<String> = region.peers.iter().map(ToString::to_string).collect();
        let now = format!("{role} {} {}", region.epoch, peers.join(" "));
        let before = self.seen.insert(id, now.clone());
        if before.is_some_and(|before| before != now) {
            self.say(format!("{id} {now}"));
        }
    }

    pub(crate) fn say(&mut self, text: impl AsRef<str>) {
        self.told.push(format!("{}: {}", self.id.0, text.as_ref()));
    }

    /// Makes a snapshot for every follower of a region that wants one.
    pub(crate) fn snapshot(&mut self, id: RegionId, shipped: &mut Shipped) {
        let wanted: Vec<_> = self.wanted.extract_if(.., |(region, _)| *region == id).collect();
        for (_, wanted) in wanted {
            let Some(replica) = self.table.get_mut(id) else { return };
            let index = replica.applied_index();
            let last = LogId { term: replica.term_at(index).unwrap_or(Term(0)), index };
            let region = replica.region().clone();
            shipped.insert((id, last), self.tree.of(&region));
            if let Err(refusal) = replica.send_snapshot(&wanted, last, &region) {
                self.say(refusal.to_string());
            }
        }
    }

    pub(crate) fn fail_snapshots(&mut self, id: RegionId) {
        for (region, wanted) in std::mem::take(&mut self.wanted) {
            if let Some(replica) = self.table.get_mut(region)
                && region == id
            {
                replica.report_snapshot(&wanted, SnapshotReport::Failed);
            }
        }
    }

    pub(crate) fn status(&self, id: RegionId, now: Time) -> String {
        if let Some(record) = self.table.tombstone(id) {
            return format!("{id} tombstone of peer {} {}", record.me, record.region.epoch);
        }
        let Some(replica) = self.table.get(id) else { return format!("{id} absent") };
        let status = replica.status(now);
        format!(
            "{id} {} {:?} t{} last {} durable {} commit {} applied {} {} in flight {} bytes",
            replica.life(),
            status.role,
            status.term,
            status.last,
            status.stable,
            status.committed,
            status.applied,
            replica.region(),
            replica.inflight_bytes()
        )
    }
}

impl Group {
    fn last(&self) -> LogId {
        self.entries.last().map_or(self.base, Entry::id)
    }
}

/// A refusal in a word or two.
pub(crate) fn show(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NotLeader { leader, .. } => {
            leader.map_or_else(|| "NotLeader".to_owned(), |leader| format!("NotLeader, {leader} is"))
        }
        Refusal::EpochNotMatch { current } => {
            let epochs: Vec<String> = current.iter().map(|region| region.epoch.to_string()).collect();
            format!("EpochNotMatch, now {}", epochs.join(" "))
        }
        Refusal::Busy { reason, .. } => format!("Busy, {reason}"),
        Refusal::KeyNotInRegion { .. } => "KeyNotInRegion".to_owned(),
        other => format!("{other:?}"),
    }
}
