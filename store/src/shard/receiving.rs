//! Snapshots that arrive: what is offered is judged, what comes is written beside the tree, what is whole is verified, judged again,
//! and handed to its region, which has it taken in ([`super::installing`]).
//!
//! ```text
//! offered ─► judged ─► reserved ─► pieces, each written and synced ─► verified ─► judged ─► stepped ─► installed
//!    │          │          │                  │                           │          │
//!    └──────────┴──────────┴──── refused, with a reason, counted ─────────┴──────────┘
//! ```
//!
//! | state of a reception | ends with | next |
//! |---|---|---|
//! | served: a connection brings its pieces | the connection | left |
//! | served, left | another offer for the region | gone: the newest offer wins |
//! | left | the same offer again | served, from the first piece that is missing |
//! | left | [`RESUME_MAX`] | gone |
//! | served | all pieces are there and fit | installing |
//! | installing | tree and log have it | gone: the sender hears of it |
//!
//! Invariants:
//! * a reception reserves its range: no other snapshot for a part of it is taken in meanwhile;
//! * memory holds one chunk per connection, and nothing is read while it is written;
//! * files are synced before they are verified, and verified before the region hears of them;
//! * what is refused has changed nothing but files that no edit of the tree knows.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use engine::error::Fault;
use engine::lsm::{Piece, SharedTable, Verified};
use engine::rt::local::{Answer, oneshot};
use engine::rt::{File, Mono, OpenMode};
use raft::LogId;
use scheduler::{KeyRange, RegionId};

use super::staging::{self, Way};
use super::turn::SHORTAGE_PAUSE;
pub use super::unwanted::Unwanted;
use super::{Inner, Shard, State};
use crate::plant::{Bug, planted};
use crate::region::apply::carried;
use crate::region::message::{PeerMessage, Stray, Verdict};
use crate::region::shipping::Useless;
use crate::region::system::{GROUP, named};

/// Snapshots that a store receives at a time.
const RECEPTIONS_MAX: usize = 4;
/// Files of one snapshot.
const PIECES_MAX: u64 = 65_536;
/// How long what has arrived is kept for a sender that went away.
const RESUME_MAX: Duration = Duration::from_secs(30);

/// A snapshot that another store offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Drawn by the sender: the same offer again goes on where it was interrupted.
    pub identity: u64,
    /// About how many bytes it has.
    pub bytes: u64,
    /// The message that announces it.
    pub message: PeerMessage,
}

/// What a store receives.
#[derive(Debug, Default)]
pub(super) struct Receptions {
    open: RefCell<BTreeMap<RegionId, Rc<Reception>>>,
    /// Counts the connections that brought something, for names.
    connections: Cell<u64>,
    /// Files that have served.
    garbage: RefCell<Vec<PathBuf>>,
}

/// A snapshot that is on its way in.
#[derive(Debug)]
pub(super) struct Reception {
    offer: Offer,
    last: LogId,
    range: KeyRange,
    /// Those that are there, whole and synced.
    pieces: RefCell<Vec<(PathBuf, Piece)>>,
    /// The connection that serves it.
    connection: Cell<u64>,
    /// Since when none does.
    left: Cell<Option<Mono>>,
    /// What is there fits; it is handed to the region, and the tree takes it.
    content: RefCell<Option<Content>>,
    installing: Cell<bool>,
    done: RefCell<Option<Answer<()>>>,
}

/// A snapshot that is there and fits.
#[derive(Debug)]
pub(super) enum Content {
    /// Files that were sent, and have been read since.
    Sent(Vec<(PathBuf, Piece)>, Verified),
    /// Tables that a [sibling](super::handing) shows, too.
    Handed(Vec<SharedTable>),
}

impl Receptions {
    fn get(&self, region: RegionId) -> Option<Rc<Reception>> {
        self.open.borrow().get(&region).cloned()
    }

    /// Whether the region's snapshot has been handed to it and is not in the tree yet.
    pub(super) fn is_installing(&self, region: RegionId) -> bool {
        self.get(region).is_some_and(|reception| reception.installing.get())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// The region's snapshot, once.
    pub(super) fn take_content(&self, region: RegionId) -> Option<Content> {
        self.get(region)?.content.borrow_mut().take()
    }

    /// Tree and log have the region's snapshot: its sender hears of it.
    pub(super) fn installed(&self, region: RegionId) {
        if let Some(reception) = self.forget(region)
            && let Some(done) = reception.done.borrow_mut().take()
        {
            done.send(());
        }
    }

    fn forget(&self, region: RegionId) -> Option<Rc<Reception>> {
        let reception = self.open.borrow_mut().remove(&region)?;
        let files = reception.pieces.borrow().iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
        self.garbage.borrow_mut().extend(files);
        Some(reception)
    }

    /// Forgets those whose sender has been away for too long. Returns all files that have served.
    pub(super) fn expire(&self, now: Mono) -> Vec<PathBuf> {
        let is_late =
            |reception: &Reception| reception.left.get().is_some_and(|left| now.since(left) >= RESUME_MAX);
        let late: Vec<RegionId> = {
            let open = self.open.borrow();
            let late = open.iter().filter(|(_, it)| !it.installing.get() && is_late(it));
            late.map(|(region, _)| *region).collect()
        };
        late.into_iter().for_each(|region| drop(self.forget(region)));
        self.garbage.take()
    }

    /// A region other than `but` whose snapshot is for a part of `range`.
    fn overlapping(&self, range: &KeyRange, but: RegionId) -> Option<RegionId> {
        let open = self.open.borrow();
        open.iter()
            .find(|(region, it)| **region != but && **region != GROUP && it.range.overlaps(range))
            .map(|(region, _)| *region)
    }
}

impl Shard {
    /// Another store offers a snapshot.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn offered(&self, offer: Offer) -> Result<Incoming, Unwanted> {
        let offered = self.judge_offer(offer).await;
        self.count_unwanted(offered)
    }

    fn count_unwanted<T>(&self, outcome: Result<T, Unwanted>) -> Result<T, Unwanted> {
        outcome.inspect_err(|unwanted| self.inner.counters.snapshots.refused[unwanted.place()].add_one())
    }

    async fn judge_offer(&self, offer: Offer) -> Result<Incoming, Unwanted> {
        let inner = &*self.inner;
        if inner.health.has_stopped() {
            return Err(Unwanted::Stopped);
        }
        // Not knowing how much is left is no reason to refuse; the write itself will show it.
        let seen = inner.rt.look_at_dir(&inner.dir).await.ok();
        let free = seen.and_then(|seen| seen.free_bytes()).unwrap_or(u64::MAX);
        let counted = inner.openings.is_counted();
        if !counted || free < inner.limits.reserve_bytes.saturating_add(offer.bytes) {
            return Err(Unwanted::DiskFull);
        }
        staging::prepare(&inner.rt, &inner.dir, Way::In).await.map_err(|fault| unwritten(&fault))?;
        let region = offer.message.region;
        let judged = inner.judge(&inner.state.borrow(), &offer.message);
        if judged == Err(Unwanted::Known) {
            // The core says so to the sender, which goes on from there. What it says here is the same.
            if let Err(dropped) = inner.step_peer(&mut inner.state.borrow_mut(), offer.message) {
                let (number, group) = named(region);
                tracing::debug!(store = inner.store.0, region = number, group, %dropped, "a snapshot is not needed");
            }
            return Err(Unwanted::Known);
        }
        let (last, range) = judged?;
        let known = inner.receptions.get(region);
        let reception = match known {
            Some(known) if known.installing.get() => return Err(Unwanted::Busy),
            Some(known) if known.offer == offer => known,
            known => {
                if known.is_some() {
                    inner.receptions.forget(region);
                }
                inner.begin_reception(offer, last, range)?
            }
        };
        let connection = inner.receptions.connections.get() + 1;
        inner.receptions.connections.set(connection);
        reception.connection.set(connection);
        reception.left.set(None);
        Ok(Incoming { shard: self.clone(), reception, connection, file: None })
    }
}

impl Inner {
    /// Whether a snapshot may be taken in here, as things are now.
    fn judge(&self, state: &State, message: &PeerMessage) -> Result<(LogId, KeyRange), Unwanted> {
        let region = message.region;
        if message.to.store != self.store {
            return Err(Unwanted::OtherTarget);
        }
        let replica = state.table.get(region).ok_or(Unwanted::NotHere)?;
        match state.table.admit(message) {
            Verdict::Step => {}
            Verdict::Create | Verdict::Drop(Stray::Tombstone | Stray::Absent) => {
                return Err(Unwanted::NotHere);
            }
            Verdict::Destroy | Verdict::Drop(Stray::OldPeer) => return Err(Unwanted::OtherTarget),
            // The region was taken in by another: there is nothing to be received, and nothing to be said by a snapshot.
            Verdict::TellMerged(_) | Verdict::HearMerged(_) => return Err(Unwanted::NotHere),
            Verdict::TellRemoved => {
                self.outbox.send(vec![replica.tell_removed(message)]);
                return Err(Unwanted::SenderRemoved);
            }
            Verdict::Drop(Stray::RangeTaken) if planted(Bug::SnapshotOverNeighbour) => {}
            Verdict::Drop(Stray::RangeTaken) if self.in_the_way(state, message).is_none() => {}
            Verdict::Drop(Stray::RangeTaken) => return Err(self.overlap(state, message)),
        }
        if state.table.is_awaited(region) {
            // The entries up to a split are applied once more, and must not be overtaken.
            return Err(Unwanted::Busy);
        }
        // A replica that the log does not know yet begins with what it has to write first.
        if self.logged_peer(region) != Some(replica.me()) {
            return Err(Unwanted::NotHere);
        }
        let (last, range) = replica.judge_snapshot(message).map_err(|useless| match useless {
            Useless::Malformed => Unwanted::Malformed,
            Useless::OtherPeer => Unwanted::OtherTarget,
            Useless::OldTerm => Unwanted::OldTerm,
            Useless::OldEpoch => Unwanted::OldEpoch,
            Useless::Known => Unwanted::Known,
            Useless::NotNow => Unwanted::Busy,
        })?;
        let (_, carried) = carried(region, &range);
        if region == GROUP {
            // It has no keys of users, so no neighbour.
            return Ok((last, carried));
        }
        if self.is_busy_in_the_way(state, message) {
            return Err(Unwanted::Busy);
        }
        let live = self.in_the_way(state, message);
        match live.or_else(|| self.receptions.overlapping(&range, region)) {
            Some(by) if !planted(Bug::SnapshotOverNeighbour) => Err(Unwanted::Overlap(by)),
            Some(_) | None => Ok((last, range)),
        }
    }

    fn overlap(&self, state: &State, message: &PeerMessage) -> Unwanted {
        let by = message.range.as_ref().and_then(|range| state.table.overlapping(range, message.region));
        Unwanted::Overlap(by.unwrap_or(message.region))
    }

    fn begin_reception(&self, offer: Offer, last: LogId, range: KeyRange) -> Result<Rc<Reception>, Unwanted> {
        if self.receptions.len() >= RECEPTIONS_MAX {
            return Err(Unwanted::Busy);
        }
        let region = offer.message.region;
        let (number, group) = named(region);
        tracing::info!(store = self.store.0, region = number, group, %last, bytes = offer.bytes, "a snapshot arrives");
        let reception = Rc::new(Reception {
            offer,
            last,
            range,
            pieces: RefCell::default(),
            connection: Cell::default(),
            left: Cell::default(),
            content: RefCell::default(),
            installing: Cell::default(),
            done: RefCell::default(),
        });
        self.receptions.open.borrow_mut().insert(region, reception.clone());
        Ok(reception)
    }
}

/// One connection's part in a snapshot that arrives.
#[derive(Debug)]
pub struct Incoming {
    shard: Shard,
    reception: Rc<Reception>,
    connection: u64,
    /// The piece that is arriving.
    file: Option<Arriving>,
}

#[derive(Debug)]
struct Arriving {
    file: File,
    path: PathBuf,
    piece: Piece,
    written: u64,
}

impl Incoming {
    /// How many pieces are there, whole and synced.
    pub fn have(&self) -> u64 {
        self.reception.pieces.borrow().len() as u64
    }

    /// The next piece begins.
    ///
    /// # Errors
    /// Why the snapshot is refused now.
    pub async fn begin(&mut self, number: u64, piece: Piece) -> Result<(), Unwanted> {
        let begun = self.open(number, piece).await;
        self.shard.count_unwanted(begun)
    }

    async fn open(&mut self, number: u64, piece: Piece) -> Result<(), Unwanted> {
        self.check()?;
        if self.file.is_some() || number != self.have() || number >= PIECES_MAX {
            return Err(Unwanted::OutOfStep);
        }
        let place = KeyRange::new(&piece.start[..], &piece.end[..]).map_err(|_| Unwanted::Malformed)?;
        let is_inside = !piece.end.is_empty() && self.reception.range.contains_range(&place);
        let (families, _) = carried(self.reception.offer.message.region, &self.reception.range);
        if !is_inside || !families.contains(&piece.cf) {
            return Err(Unwanted::Malformed);
        }
        let inner = self.shard.inner.clone();
        let (region, last) = (self.reception.offer.message.region, self.reception.last);
        let path = staging::piece_path(&inner.dir, Way::In, region, last, self.connection, number);
        let file = loop {
            match inner.rt.open(&path, OpenMode::Create).await {
                Ok(file) => break file,
                Err(error) => self.wait_or_fail(&Fault::io(&path, "creating", &error)).await?,
            }
        };
        self.file = Some(Arriving { file, path, piece, written: 0 });
        Ok(())
    }

    /// Bytes of the piece, which are whole blocks. Returns whether it is complete, and synced.
    ///
    /// # Errors
    /// Why the snapshot is refused now.
    pub async fn chunk(&mut self, position: u64, bytes: &[u8]) -> Result<bool, Unwanted> {
        let written = self.write(position, bytes).await;
        self.shard.count_unwanted(written)
    }

    async fn write(&mut self, position: u64, bytes: &[u8]) -> Result<bool, Unwanted> {
        self.check()?;
        let Some(arriving) = &self.file else { return Err(Unwanted::OutOfStep) };
        let end = arriving.written + bytes.len() as u64;
        if position != arriving.written || end > arriving.piece.file_bytes {
            return Err(Unwanted::OutOfStep);
        }
        let inner = self.shard.inner.clone();
        loop {
            let mut buf = inner.rt.alloc(bytes.len());
            buf.copy_from_slice(bytes);
            match arriving.file.write_at(buf, position).await {
                Ok(()) => break,
                Err(error) => self.wait_or_fail(&Fault::io(&arriving.path, "writing", &error)).await?,
            }
        }
        inner.counters.snapshots.bytes_received.add(bytes.len() as u64);
        let arriving = self.file.as_mut().expect("it was there");
        arriving.written = end;
        if end < arriving.piece.file_bytes {
            return Ok(false);
        }
        let Arriving { file, path, piece, written: _ } = self.file.take().expect("it was there");
        if !planted(Bug::UnsyncedPieces) {
            file.sync().await.map_err(|error| unwritten(&Fault::io(&path, "syncing", &error)))?;
        }
        file.close().await.map_err(|error| unwritten(&Fault::io(&path, "closing", &error)))?;
        // Another connection may have taken over while this one wrote.
        if let Err(unwanted) = self.check() {
            inner.receptions.garbage.borrow_mut().push(path);
            return Err(unwanted);
        }
        self.reception.pieces.borrow_mut().push((path, piece));
        Ok(true)
    }

    /// All pieces are said to be there. Returns once tree and log have the snapshot.
    ///
    /// # Errors
    /// Why it is refused; the region has not heard of it then.
    pub async fn whole(&mut self, pieces: u64) -> Result<(), Unwanted> {
        let taken = self.take_in(pieces).await;
        self.settle(taken)
    }

    /// Tables are there instead of pieces. Returns once tree and log have the snapshot.
    ///
    /// # Errors
    /// As [`Incoming::whole`].
    pub(super) async fn take_tables(&self, tables: Vec<SharedTable>) -> Result<(), Unwanted> {
        let taken = self.install(Content::Handed(tables)).await;
        self.settle(taken)
    }

    fn settle(&self, taken: Result<(), Unwanted>) -> Result<(), Unwanted> {
        let taken = self.shard.count_unwanted(taken);
        match &taken {
            Ok(()) => self.shard.inner.counters.snapshots.received.add_one(),
            // Whoever sends it again makes it anew.
            Err(_) if !self.reception.installing.get() && self.check().is_ok() => {
                self.shard.inner.receptions.forget(self.reception.offer.message.region);
            }
            Err(_) => {}
        }
        taken
    }

    async fn take_in(&mut self, pieces: u64) -> Result<(), Unwanted> {
        self.check()?;
        if self.file.is_some() || pieces != self.have() {
            return Err(Unwanted::OutOfStep);
        }
        let inner = self.shard.inner.clone();
        let verified = loop {
            let there = self.reception.pieces.borrow().clone();
            match inner.tree.verify(there).await {
                Ok(verified) => break verified,
                Err(fault) if fault.is_passing() => self.wait_or_fail(&fault).await?,
                Err(fault) => return Err(Unwanted::Damaged(fault.what)),
            }
        };
        let pieces = self.reception.pieces.borrow().clone();
        self.install(Content::Sent(pieces, verified)).await
    }

    /// Judged again, and handed to the region.
    async fn install(&self, content: Content) -> Result<(), Unwanted> {
        self.check()?;
        let inner = self.shard.inner.clone();
        let (answer, done) = oneshot();
        {
            let state = &mut *inner.state.borrow_mut();
            let message = self.reception.offer.message.clone();
            inner.judge(state, &message)?;
            *self.reception.content.borrow_mut() = Some(content);
            *self.reception.done.borrow_mut() = Some(answer);
            self.reception.installing.set(true);
            if let Err(dropped) = inner.step_peer(state, message) {
                self.reception.installing.set(false);
                return Err(Unwanted::Core(dropped));
            }
        }
        done.await.ok_or(Unwanted::Stopped)
    }

    /// Whether this connection still serves the reception, and the store still runs.
    fn check(&self) -> Result<(), Unwanted> {
        let inner = &*self.shard.inner;
        if inner.health.has_stopped() {
            return Err(Unwanted::Stopped);
        }
        let current = inner.receptions.get(self.reception.offer.message.region);
        let is_current = current.is_some_and(|current| Rc::ptr_eq(&current, &self.reception));
        if !is_current || self.reception.connection.get() != self.connection {
            return Err(Unwanted::Replaced);
        }
        Ok(())
    }

    /// Waits a moment if something was short; the sender waits meanwhile, because nothing is read from it.
    async fn wait_or_fail(&self, fault: &Fault) -> Result<(), Unwanted> {
        if !fault.is_passing() {
            return Err(unwritten(fault));
        }
        self.shard.inner.rt.sleep(SHORTAGE_PAUSE).await;
        self.check()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let inner = &*self.shard.inner;
        if self.reception.connection.get() == self.connection {
            self.reception.left.set(Some(inner.rt.now()));
        }
        if let Some(arriving) = self.file.take() {
            inner.receptions.garbage.borrow_mut().push(arriving.path);
        }
    }
}

fn unwritten(fault: &Fault) -> Unwanted {
    match fault.is_of_room() {
        true => Unwanted::DiskFull,
        false => Unwanted::Unwritten(fault.to_string()),
    }
}
