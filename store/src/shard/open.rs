//! Opening a store: a fresh one gets its regions, an old one gets back what it acknowledged.
//!
//! Recovery is: the tree's manifest says, per region, up to which entry the tables contain the data; the log has everything
//! above. A sole voter elects itself at once, and the core hands the entries above the applied index back for apply, by the
//! same path that applied them the first time.
//!
//! ```text
//! metadata per region in the log
//!   tag 1  hard state    term u64, vote u64 (0 = none), commit u64, little-endian
//!   tag 2  first record  the region record that the replica began with, see region/record; or its tombstone, if another store
//!                        said that it was removed
//!   tag 3  base          term u64, index u64 of the last entry cut off
//!   tag 4  origin        of a replica that a split brought into being, see region/split
//!   tag 5  invitation    of a replica that a message brought into being, see region/invitation; 0.1 did not write it
//! state per region in the tree
//!                        the record as of the applied index, see region/record
//! ```
//!
//! The record in force is the tree's, because it travels with the data. The first record counts until entries have been applied and
//! flushed; what 0.1 wrote has no other. Where the first record is of a newer peer than the tree's, which is a tombstone then, neither
//! that nor the applied index beside it counts: the log forgot the older peer in the batch that brought the record of the newer one.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use engine::error::{Fault, Result};
use engine::log::{BODY_BYTES_MAX, Batch, Cut, EntryRef, Log, LogOptions, Recovered};
use engine::lsm::{Tree, TreeOptions};
use engine::rt::local::Bell;
use engine::rt::{LockFile, Rt};
use engine::{log, lsm};
use futures_util::future::join;
use raft::{
    Entry, EntryKind, HardState, Index, LogId, LogSummary, Membership, NodeId, Payload, Start, Term, Time,
};
use scheduler::{Region, RegionId, StoreId};

use super::counters::StoreCounters;
use super::fetch::Fetches;
use super::halves::Expected;
use super::health::{Event, Health};
use super::inbox::InboxCounters;
use super::incomplete::Incomplete;
use super::installing;
use super::installing::Installs;
use super::load::RegionCounts;
use super::loading::Loads;
use super::merging::Driven;
use super::openings::Openings;
use super::origins::Origins;
use super::outbox::Outbox;
use super::receiving::Receptions;
use super::remembered::check_opens;
use super::repeats::Repeats;
use super::shipping::Shipments;
use super::staging;
use super::stalls::Stalls;
use super::startup::wait_out;
use super::table::{Refused, Table};
use super::vouch::vouch;
use super::watch::LogWatch;
use super::watched::Watched;
use super::{Inner, Shard, ShardLimits, State};
use crate::memory::Memory;
use crate::region::apply::tombstone_batch;
use crate::region::invitation::Invitation;
use crate::region::life::Life;
use crate::region::merge::Merges;
use crate::region::record::{Descriptor, InForce, Kept, RegionRecord};
use crate::region::replica::{Replica, Stored};
use crate::region::split::{FIRST_BASE, SplitOrigin};
use crate::region::system::{GROUP, first_region};

/// Metadata tag of the hard state.
pub const TAG_HARD_STATE: u8 = 1;
/// Metadata tag of the record that the replica began with.
pub const TAG_RECORD: u8 = 2;
/// Metadata tag of the base: the last entry that was cut off.
pub const TAG_BASE: u8 = 3;
/// Metadata tag of the [`SplitOrigin`] of a replica that a split brought into being.
pub const TAG_ORIGIN: u8 = 4;
/// Metadata tag of the [`Invitation`] of a replica that a message brought into being.
pub const TAG_INVITATION: u8 = 5;

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Its id.
    pub store: StoreId,
    /// Whether it is the first member of the system group: if it has no replica of it, the group begins here.
    pub system: bool,
    /// Whether it may have no region although it was opened before: one of a node that has joined begins so.
    pub may_be_empty: bool,
    /// What keeps other processes out of its directory. Tests have nothing.
    pub lock: Option<LockFile>,
    /// Its log.
    pub log: LogOptions,
    /// Its tree.
    pub tree: TreeOptions,
    /// Its bounds.
    pub limits: ShardLimits,
    /// The bounds on what clients make the core hold, which all stores of the core share.
    pub memory: Memory,
    /// The consensus settings of its groups.
    pub raft: Arc<raft::Config>,
    /// Which openings `IDENT` counts.
    pub openings: Openings,
}

impl Inner {
    /// A store with an opened log and tree and without regions.
    fn new(rt: &Rt, dir: &Path, options: &ShardOptions, opened: u64, (log, tree): (Log, Tree)) -> Self {
        let health = Rc::new(Health::new(options.store));
        Self {
            rt: rt.clone(),
            store: options.store,
            dir: dir.to_owned(),
            log,
            tree,
            opened,
            lineage: Cell::default(),
            opened_at: Time(rt.boot_time().0),
            limits: options.limits,
            raft: options.raft.clone(),
            memory: options.memory.clone(),
            openings: options.openings.clone(),
            disk_free: Cell::new(None),
            dir_id: Cell::new(None),
            lock: options.lock.clone(),
            state: RefCell::new(State {
                table: Table::default(),
                unlogged: BTreeMap::new(),
                loads: Loads::default(),
                // The log's id was drawn for `IDENT`, and no client sees it. Only tests open a store without one.
                watched: Watched::new(options.log.origin.id.unwrap_or_default()),
                inflight_bytes: 0,
                gate: VecDeque::new(),
                waiting_bytes: 0,
                health: health.clone(),
            }),
            bell: Bell::default(),
            counters: Rc::new(StoreCounters::default()),
            counts: RegionCounts::default(),
            outbox: Outbox::default(),
            incomplete: Incomplete::default(),
            inbox: InboxCounters::default(),
            fetches: Fetches::default(),
            shipments: Shipments::default(),
            receptions: Receptions::default(),
            installs: Installs::default(),
            repeats: Repeats::default(),
            driven: Driven::default(),
            health,
            log_watch: LogWatch::default(),
            stalls: Stalls::default(),
            reads_seen: Cell::new(0),
            quiet_turns: Cell::new(0),
            log_waits: Cell::new(false),
            waits_long: Cell::new(false),
            beyond_bytes: Cell::new(0),
            turn_since: Cell::new(None),
            recovering: Cell::new(false),
            searches: RefCell::default(),
            uncut: RefCell::default(),
            fence: RefCell::default(),
            system_moved: Bell::default(),
        }
    }
}

impl Shard {
    /// Opens the store in `dir`, and waits for what is short meanwhile. One that may be new, and is, is given the regions of `initial`.
    ///
    /// # Errors
    /// A fault that names what is damaged, missing, foreign or an older copy; nothing on disk has been changed then. A shortage that
    /// has not passed within [`SHORTAGE_MAX`](super::startup::SHORTAGE_MAX).
    pub async fn open(rt: &Rt, dir: &Path, options: ShardOptions, initial: Vec<Region>) -> Result<Self> {
        let cut = RefCell::new(None);
        wait_out(rt, || Self::try_open(rt, dir, &options, &initial, &cut)).await
    }

    /// One try. What it cuts off the log is left in `cut`, because the next try finds the log whole.
    async fn try_open(
        rt: &Rt,
        dir: &Path,
        options: &ShardOptions,
        initial: &[Region],
        cut: &RefCell<Option<Cut>>,
    ) -> Result<Self> {
        let group_bytes_max = options.raft.uncommitted_bytes_max;
        assert!(
            group_bytes_max <= BODY_BYTES_MAX as u64 / 2,
            "one group's entries fit one record of the log"
        );
        let (log_dir, tree_dir) = (dir.join("log"), dir.join("tree"));
        let known = options.log.origin.opened_min > 0;
        // Two directories that are read at once take as long as the slower one.
        let tree = pin!(lsm::Recovery::read(rt, &tree_dir, options.tree.clone()));
        let log = pin!(log::Recovery::read(rt, &log_dir, options.log.clone()));
        let (tree, log) = join(tree, log).await;
        let (tree, log) = (tree?, log?);
        vouch(dir, &log, &tree)?;
        check_opens(rt, dir).await?;
        if known && log.groups().is_empty() && !options.may_be_empty {
            return Err(Fault::corruption(
                &log_dir,
                "the log holds no region, although the store was opened before",
            ));
        }
        if let Some(torn) = log.torn() {
            *cut.borrow_mut() = Some(torn);
        }
        let (tree, (log, recovered)) = open_both(tree, log).await?;
        let shard = Shard { inner: Rc::new(Inner::new(rt, dir, options, recovered.opened, (log, tree))) };
        let cut = cut.borrow().clone();
        match shard.bring_back(recovered, initial, options, cut.as_ref()).await {
            Ok(()) => {
                shard.inner.say_opened();
                Ok(shard)
            }
            Err(fault) => {
                shard.inner.tree.clone().close().await;
                close_after(&fault, shard.inner.log.clone()).await;
                Err(fault)
            }
        }
    }

    /// The regions and what is known of the store's health, from what log and tree hold. `cut` is what this start has cut off the log.
    async fn bring_back(
        &self,
        mut recovered: Recovered,
        initial: &[Region],
        options: &ShardOptions,
        cut: Option<&Cut>,
    ) -> Result<()> {
        super::remembered::recall(&self.inner.rt, &self.inner.dir, &self.inner.health).await?;
        self.inner
            .lineage
            .set(super::lineage::count(&self.inner.rt, &self.inner.dir, self.inner.opened).await?);
        staging::clear(&self.inner.rt, &self.inner.dir).await?;
        let groups: Vec<u64> = recovered.groups.keys().copied().collect();
        for group in installing::finish(&self.inner.log, &self.inner.tree, &groups).await? {
            recovered.groups.get_mut(&group).expect("the log has it").entries.clear();
        }
        if let Some(cut) = cut.filter(|cut| cut.is_in_doubt()) {
            self.inner.health.enter(Event::InDoubt(cut));
        }
        let mut system = Vec::new();
        if options.system && !recovered.groups.iter().any(|(group, _)| *group == GROUP.0) {
            system.push(first_region(options.store));
        }
        if recovered.groups.is_empty() {
            let all = initial.iter().cloned().chain(system).collect();
            self.bootstrap(all, options).await?;
        } else {
            self.recover(recovered, options, cut)?;
            self.load_system().await?;
            // A store of 0.1 has none yet.
            self.bootstrap(system, options).await?;
        }
        self.campaign_alone();
        Ok(())
    }

    /// Creates the first regions of an empty store, durably, before a request for them can arrive.
    pub(super) async fn bootstrap(&self, regions: Vec<Region>, options: &ShardOptions) -> Result<()> {
        if regions.is_empty() {
            return Ok(());
        }
        let starts = self.prepare(regions, options).await?;
        starts.into_iter().try_for_each(|stored| self.adopt(stored, options))
    }

    /// What the groups of new regions start from, durably.
    pub(super) async fn prepare(&self, regions: Vec<Region>, options: &ShardOptions) -> Result<Vec<Stored>> {
        let mut batch = Batch::new();
        let mut starts = Vec::new();
        for region in regions {
            let me = region.peer_on(options.store).map(|peer| peer.id);
            let me = me.expect("a store is bootstrapped with regions that have a peer on it");
            let start = Start::bootstrap(FIRST_BASE, Membership::default());
            let record = RegionRecord { region, me, tombstone: false, merges: Merges::default() };
            let group = record.region.id.0;
            batch.put_state(group, TAG_HARD_STATE, &encode_hard_state(&start.hard_state));
            batch.put_state(group, TAG_RECORD, &record.encode());
            batch.put_state(group, TAG_BASE, &encode_base(FIRST_BASE));
            starts.push(Stored { record, in_tree: false, start });
        }
        self.inner.log.write(batch).await?;
        Ok(starts)
    }

    /// Builds the peers that the log knows. What this start has cut off the log may have been acknowledged.
    fn recover(&self, recovered: Recovered, options: &ShardOptions, cut: Option<&Cut>) -> Result<()> {
        let origins = self.origins(recovered.groups.keys().copied())?;
        let known: BTreeSet<u64> = recovered.groups.keys().copied().collect();
        for (id, group) in recovered.groups {
            let damaged =
                |what: &str| Fault::corruption(&self.inner.dir, format!("metadata of region {}: {what}", id));
            let state = |tag| self.inner.log.state(id, tag);
            let first = state(TAG_RECORD).ok_or_else(|| damaged("there is no region record"))?;
            let in_tree = self.inner.tree.state(id);
            let InForce { record, kept } =
                record_in_force(&first, in_tree.as_deref()).map_err(|what| damaged(&what))?;
            if record.tombstone {
                if kept != Kept::Own {
                    // The tree had it in memory only. Whoever has the range now was flushed no earlier.
                    let at = LogId { term: Term(0), index: Index(self.inner.tree.flushed_index(id)) };
                    self.inner.tree.write(&tombstone_batch(&record, at))?;
                }
                self.inner.state.borrow_mut().table.bury_region(record);
                continue;
            }
            let base = state(TAG_BASE).and_then(|bytes| decode_base(&bytes));
            let base = base.ok_or_else(|| damaged("there is no base"))?;
            let hard_state = state(TAG_HARD_STATE).and_then(|bytes| decode_hard_state(&bytes));
            let mut log = LogSummary::after(base);
            for entry in &group.entries {
                let kind = kind_of(&self.inner.dir, id, entry.index, entry.kind)?;
                log.push(LogId::new(entry.term, entry.index), kind);
            }
            let flushed = self.inner.tree.flushed_index(id);
            // What was cut may have been acknowledged if it was damaged later. A sole voter has no other to ask; there the store's
            // health says how much was cut.
            let alone = record.is_sole_voter();
            let claimed = cut.and_then(|cut| cut.claims.get(&id)).filter(|_| !alone);
            let mut hard_state = hard_state.ok_or_else(|| damaged("there is no hard state"))?;
            // Whoever wrote the origin of another replica had applied the entry that it names. A peer that came later has its state by
            // a snapshot.
            let is_blank = record.region.peers.is_empty();
            let split = origins.last_split(RegionId(id)).filter(|_| !is_blank);
            hard_state.commit = hard_state.commit.max(split.unwrap_or_default());
            let start = Start {
                hard_state,
                log,
                // Before anything is flushed the tables know nothing of the region, and of the rest `vouch` has seen to it.
                applied: if flushed == 0 || kept == Kept::Other { base.index } else { Index(flushed) },
                membership: Membership::default(),
                suspect_until: Index(claimed.map_or(0, |claim| claim.last)),
            };
            let stored = Stored { record, in_tree: kept == Kept::Own, start };
            match origins.of(RegionId(id)).filter(|_| kept == Kept::Nothing) {
                Some(origin) => self.inner.state.borrow_mut().table.expect(Expected { stored, origin }),
                None => {
                    self.adopt(stored, options)?;
                    self.invite_again(RegionId(id));
                }
            }
        }
        self.begin_described(&known, options)?;
        self.check_expected()?;
        self.inner.recovering.set(true);
        Ok(())
    }

    /// Who invited a replica that still waits for its first snapshot.
    fn invite_again(&self, region: RegionId) {
        let known = self.inner.log.state(region.0, TAG_INVITATION);
        let Some(invitation) = known.and_then(|bytes| Invitation::decode(&bytes)) else { return };
        let mut state = self.inner.state.borrow_mut();
        if let Some(replica) = state.table.get_mut(region).filter(|it| it.life() == Life::Initialising) {
            replica.invite(invitation);
        }
    }

    /// Where replicas come from that splits brought into being, as far as the log knows.
    fn origins(&self, groups: impl Iterator<Item = u64>) -> Result<Origins> {
        let origin = |id: u64| {
            let bytes = self.inner.log.state(id, TAG_ORIGIN)?;
            let what = format!("metadata of region {id}: its origin is none");
            let decoded = SplitOrigin::decode(&bytes).ok_or_else(|| Fault::corruption(&self.inner.dir, what));
            Some(decoded.map(|origin| (RegionId(id), origin)))
        };
        groups.filter_map(origin).collect()
    }

    /// Begins with the replicas that the tree has by a split and that had nothing to write in the log.
    fn begin_described(&self, known: &BTreeSet<u64>, options: &ShardOptions) -> Result<()> {
        let inner = &*self.inner;
        for id in inner.tree.described().into_iter().filter(|id| !known.contains(id)) {
            let bytes = inner.tree.state(id).expect("it is described");
            let Ok(Descriptor { record, at, by_snapshot: false }) = Descriptor::decode(&bytes) else {
                continue;
            };
            if record.tombstone || at != FIRST_BASE || inner.tree.flushed_index(id) != 0 {
                continue;
            }
            let start = Start::bootstrap(FIRST_BASE, Membership::default());
            self.adopt(Stored { record, in_tree: true, start }, options)?;
            inner.state.borrow_mut().unlogged.insert(RegionId(id), None);
        }
        Ok(())
    }

    /// What waits for a split waits for one that will be applied again.
    fn check_expected(&self) -> Result<()> {
        let inner = &*self.inner;
        let state = inner.state.borrow();
        for Expected { stored, origin } in state.table.expected() {
            let SplitOrigin { parent, at } = *origin;
            let comes = state.table.get(parent).is_some_and(|it| it.applied_index() < at.index);
            if !comes && !state.table.expects(parent) {
                let id = stored.record.region.id;
                let what = format!(
                    "the log has {id}, which entry {} of {parent} made, but the tables have no {id} and do not lack that entry",
                    at.index
                );
                return Err(Fault::corruption(&inner.dir.join("tree"), what));
            }
        }
        Ok(())
    }

    fn adopt(&self, stored: Stored, options: &ShardOptions) -> Result<()> {
        let inner = &*self.inner;
        let (id, replica) = (stored.record.region.id, self.replica(stored, options)?);
        let inserted = inner.state.borrow_mut().table.enter_region(replica);
        inserted.map_err(|Refused { replica: _, by }| {
            Fault::corruption(&inner.dir, format!("stored state of region {id}: it overlaps region {}", by.0))
        })?;
        inner.bell.ring();
        Ok(())
    }

    pub(super) fn replica(
        &self,
        stored: Stored,
        options: &ShardOptions,
    ) -> Result<Replica<super::Due, super::Queued>> {
        let inner = &*self.inner;
        let (id, now) = (stored.record.region.id, Time(inner.rt.boot_time().0));
        let replica = Replica::new(options.store, stored, options.raft.clone(), inner.rt.random(), now);
        let mut replica = replica.map_err(|error| {
            Fault::corruption(&inner.dir, format!("stored state of region {}: {error}", id.0))
        })?;
        replica.forget_promise_alone();
        Ok(replica)
    }

    /// A sole voter need not wait for an election timeout that no other voter could use. Where it may not campaign at once, the
    /// election timer decides.
    pub(super) fn campaign_alone(&self) {
        let (now, store) = (Time(self.inner.rt.boot_time().0), self.inner.store.0);
        let mut state = self.inner.state.borrow_mut();
        for replica in state.table.iter_mut().filter(|replica| replica.is_sole_voter()) {
            let region = replica.id().0;
            match replica.campaign(now) {
                Ok(()) => {}
                Err(why @ raft::Refusal::MayNotCampaign) => {
                    tracing::info!(store, region, %why, "a region waits for its election timer");
                }
                Err(
                    why @ (raft::Refusal::NotVoter
                    | raft::Refusal::NotLeader { .. }
                    | raft::Refusal::TransferPending { .. }
                    | raft::Refusal::TermNotCommitted
                    | raft::Refusal::UncommittedFull
                    | raft::Refusal::EntryTooLarge
                    | raft::Refusal::ChangePending
                    | raft::Refusal::InvalidChange(_)
                    | raft::Refusal::NoLease
                    | raft::Refusal::OutOfPlace),
                ) => tracing::error!(store, region, %why, "a sole voter is refused its election"),
            }
        }
    }
}

/// Makes both ready to be written, or neither: whoever tries again must not meet the tasks of what did open.
async fn open_both(tree: lsm::Recovery, log: log::Recovery) -> Result<(Tree, (Log, Recovered))> {
    match join(pin!(tree.open()), pin!(log.open())).await {
        (Ok(tree), Ok(log)) => Ok((tree, log)),
        (Err(fault), Ok((log, _))) => {
            close_after(&fault, log).await;
            Err(fault)
        }
        (Ok(tree), Err(fault)) => {
            tree.close().await;
            Err(fault)
        }
        (Err(fault), Err(_)) => Err(fault),
    }
}

/// Closes the log of a store that does not open because of `fault`, which is what is reported.
async fn close_after(fault: &Fault, log: Log) {
    if let Err(second) = log.close().await {
        let file = second.path.display();
        tracing::warn!(%file, what = second.what, first = fault.what, "the log does not close after a fault");
    }
}

/// The record as of the applied index: the tree's, or the one that the replica began with.
pub(super) fn record_in_force(first: &[u8], in_tree: Option<&[u8]>) -> std::result::Result<InForce, String> {
    let first = RegionRecord::decode(first).map_err(|error| error.to_string())?;
    let in_tree = in_tree.map(Descriptor::decode).transpose();
    let in_tree = in_tree.map_err(|error| format!("in the tree: {error}"))?;
    InForce::of(first, in_tree.map(|descriptor| descriptor.record))
}

/// The hard state as bytes.
pub fn encode_hard_state(state: &HardState) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&state.term.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&state.vote.map_or(0, |vote| vote.0).to_le_bytes());
    bytes[16..].copy_from_slice(&state.commit.0.to_le_bytes());
    bytes
}

pub(super) fn decode_hard_state(bytes: &[u8]) -> Option<HardState> {
    let [term, vote, commit] = numbers(bytes)?;
    Some(HardState { term: Term(term), vote: (vote != 0).then_some(NodeId(vote)), commit: Index(commit) })
}

/// A base as bytes.
pub fn encode_base(base: LogId) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&base.term.0.to_le_bytes());
    bytes[8..].copy_from_slice(&base.index.0.to_le_bytes());
    bytes
}

pub(super) fn decode_base(bytes: &[u8]) -> Option<LogId> {
    let [term, index] = numbers(bytes)?;
    Some(LogId::new(term, index))
}

fn numbers<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let (chunks, rest) = bytes.as_chunks::<8>();
    let numbers: Vec<u64> = chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
    rest.is_empty().then_some(numbers)?.try_into().ok()
}

/// The kind of an entry in the log of the store in `dir`. One that this version does not know must not be taken for a command.
fn kind_of(dir: &Path, group: u64, index: u64, kind: u8) -> Result<EntryKind> {
    EntryKind::from_u8(kind).ok_or_else(|| {
        let what = format!("entry {index} of region {group} is of the unknown kind {kind}; was it written by a newer version?");
        Fault::corruption(&dir.join("log"), what)
    })
}

/// A Raft entry as the log keeps it.
pub fn to_log(entry: &Entry) -> EntryRef<'_> {
    EntryRef { term: entry.term.0, kind: entry.kind as u8, payload: &entry.payload }
}

/// An entry of `group` in the log of the store in `dir`, as Raft wants it.
///
/// # Errors
/// Corruption if its kind is unknown.
pub fn to_raft(dir: &Path, group: u64, entry: log::Entry) -> Result<Entry> {
    Ok(Entry {
        term: Term(entry.term),
        index: Index(entry.index),
        kind: kind_of(dir, group, entry.index, entry.kind)?,
        payload: Payload::from(&entry.payload[..]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_an_unknown_kind_is_a_fault_and_not_a_command() {
        let entry = |kind| log::Entry { index: 9, term: 6, kind, payload: bytes::Bytes::from_static(b"p") };
        let normal = Entry {
            term: Term(6),
            index: Index(9),
            kind: EntryKind::Normal,
            payload: Payload::from(&b"p"[..]),
        };
        assert_eq!(to_raft(Path::new("store-1"), 7, entry(0)).unwrap(), normal);
        let fault = to_raft(Path::new("store-1"), 7, entry(9)).unwrap_err().to_string();
        assert!(fault.contains("store-1/log") && fault.contains("entry 9 of region 7"), "{fault}");
    }
}
