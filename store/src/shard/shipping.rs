//! Snapshots for followers that the log does not reach any more: cut from the tree as table files, one at a time, for the transport to
//! carry.
//!
//! ```text
//! wanted ─► begun: a moment of the tree, its applied index, its descriptor ─► announced by the core ─► carried ─► reported
//! ```
//! A shipment holds one moment of the tree, in which writers do not notice it, and one file on disk. The message by which the core
//! announces the snapshot travels with the data: the receiver's core must not hear of it before everything is there.
//!
//! Every request of the core is answered: with `Sent` once the receiver has installed the snapshot, with `Failed` a moment after
//! anything else, because the core asks again at once.
//!
//! Invariants: at most [`SHIPMENTS_MAX`] at a time per store, further ones wait in order; none outlives the leadership that it began
//! under, because only then nothing but entries that it applied has changed its state; its files are removed when it ends.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use engine::error::Fault;
use engine::lsm::{BegunShare, Estimate, Export, ExportOptions, Piece};
use engine::rt::local::{Answer, oneshot};
use engine::rt::{Buf, File, OpenMode};
use raft::{LogId, SnapshotReport, SnapshotWanted, Term};
use scheduler::{PeerId, Region, RegionId, StoreId};

use super::outbox::Transport;
use super::receiving::Offer;
use super::staging::{self, Way};
use super::turn::SHORTAGE_PAUSE;
use super::{Inner, Shard};
use crate::region::apply::carried;
use crate::region::message::PeerMessage;
use crate::region::system::named;

/// Snapshots that a store sends at a time.
const SHIPMENTS_MAX: usize = 2;
/// How long the core may take to announce what it has accepted.
const ANNOUNCE_MAX: Duration = Duration::from_secs(5);
/// How long a request waits for its answer after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// What followers of a store's regions want.
#[derive(Debug, Default)]
pub(super) struct Shipments {
    waiting: RefCell<VecDeque<(RegionId, SnapshotWanted)>>,
    running: Cell<usize>,
    /// Who waits for the message that announces a snapshot, by region and addressee.
    announced: RefCell<BTreeMap<(RegionId, PeerId), Answer<PeerMessage>>>,
    begun: Cell<u64>,
}

impl Shipments {
    /// Adds a region's requests.
    pub(super) fn add(&self, region: RegionId, wanted: Vec<SnapshotWanted>) {
        self.waiting.borrow_mut().extend(wanted.into_iter().map(|wanted| (region, wanted)));
    }

    /// Takes out the messages that travel with their data.
    pub(super) fn take_announced(&self, messages: Vec<PeerMessage>) -> Vec<PeerMessage> {
        let (announced, others): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(PeerMessage::brings_snapshot);
        for message in announced {
            let waiting = self.announced.borrow_mut().remove(&(message.region, message.to.id));
            if let Some(waiting) = waiting {
                waiting.send(message);
            }
        }
        others
    }

    /// How many are in progress.
    pub(super) fn running(&self) -> u64 {
        self.running.get() as u64
    }
}

/// Why a snapshot did not get to its follower.
#[derive(Debug)]
pub enum Failed {
    /// It is of no use any more: the follower has caught up, or another leads.
    Useless,
    /// No store can be reached from here.
    NoTransport,
    /// A file could not be read or written.
    Fault(Fault),
    /// The receiver asks for a piece that is not there any more.
    OutOfStep,
    /// The receiver refuses it, with its reason.
    Refused(String),
    /// The connection broke again and again.
    Broken(String),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Useless => f.write_str("it is of no use any more"),
            Self::NoTransport => f.write_str("this store is not connected to others"),
            Self::Fault(fault) => write!(f, "{fault}"),
            Self::OutOfStep => f.write_str("the receiver asks for a piece that is not there any more"),
            Self::Refused(reason) => write!(f, "the receiver refuses it: {reason}"),
            Self::Broken(why) => write!(f, "the connection broke: {why}"),
        }
    }
}

impl std::error::Error for Failed {}

/// A snapshot on its way to a follower.
#[derive(Debug)]
pub struct Shipment {
    shard: Shard,
    offer: Offer,
    term: Term,
    last: LogId,
    number: u64,
    export: Export,
    /// The piece that is being sent.
    current: Option<Current>,
    /// The number of the piece after it.
    next: u64,
    /// There is none after it.
    ended: bool,
}

#[derive(Debug)]
struct Current {
    piece: Piece,
    path: PathBuf,
    file: File,
}

/// The tree as it was when a shipment began.
enum Source {
    /// To be cut into files that travel.
    Cut(Export),
    /// Tables for a store of this node, as they are ([`super::handing`]).
    Shared(BegunShare),
}

/// What a shipment begins with.
struct Begun {
    term: Term,
    last: LogId,
    region: Region,
    source: Source,
    announced: engine::rt::local::Pending<PeerMessage>,
}

impl Shard {
    /// Begins to ship what is wanted, as far as the bound allows.
    pub(super) fn start_shipments(&self) {
        let shipments = &self.inner.shipments;
        while shipments.running.get() < SHIPMENTS_MAX {
            let next = shipments.waiting.borrow_mut().pop_front();
            let Some((region, wanted)) = next else { return };
            shipments.running.set(shipments.running.get() + 1);
            let shard = self.clone();
            self.inner.rt.spawn(async move { shard.ship(region, wanted).await });
        }
    }

    async fn ship(&self, region: RegionId, wanted: SnapshotWanted) {
        let inner = &*self.inner;
        let shipped = self.carry(region, &wanted).await;
        let running = &inner.shipments.running;
        running.set(running.get() - 1);
        self.start_shipments();
        let (store, peer) = (inner.store.0, wanted.to.0);
        let (number, group) = named(region);
        let report = match &shipped {
            Ok(()) => {
                tracing::info!(store, region = number, group, peer, "a snapshot is installed at a follower");
                inner.counters.snapshots.sent.add_one();
                SnapshotReport::Sent
            }
            Err(why) => {
                let sentence = format!("{peer}: {why}");
                if let Some(unsaid) = inner.repeats.may_say(region, sentence, inner.rt.now()) {
                    tracing::info!(store, region = number, group, peer, %why, unsaid, "a snapshot did not get to a follower");
                }
                inner.counters.snapshots.failed.add_one();
                inner.rt.sleep(PAUSE).await;
                SnapshotReport::Failed
            }
        };
        if inner.health.has_stopped() {
            return;
        }
        let state = &mut *inner.state.borrow_mut();
        if let Some(replica) = state.table.get_mut(region) {
            replica.report_snapshot(&wanted, report);
            state.table.mark_dirty(region);
            inner.bell.ring();
        }
    }

    /// Makes the snapshot and has it carried to the follower.
    async fn carry(&self, region: RegionId, wanted: &SnapshotWanted) -> Result<(), Failed> {
        let inner = &*self.inner;
        let transport = inner.outbox.transport().ok_or(Failed::NoTransport)?;
        staging::prepare(&inner.rt, &inner.dir, Way::Out).await.map_err(Failed::Fault)?;
        let begun = inner.begin_shipment(region, wanted, &*transport)?;
        let Begun { term, last, region: descriptor, source, announced } = begun;
        let announced = inner.rt.timeout(ANNOUNCE_MAX, announced).await;
        let message = announced.flatten().ok_or(Failed::Useless)?;
        let export = match source {
            Source::Cut(export) => export,
            Source::Shared(share) => {
                return self.hand_over(&*transport, message, (term, last), share).await;
            }
        };
        let bytes = self.estimate_all(&descriptor).await.map_err(Failed::Fault)?.bytes;
        let number = inner.shipments.begun.get() + 1;
        inner.shipments.begun.set(number);
        let mut shipment = Shipment {
            shard: self.clone(),
            offer: Offer { identity: inner.rt.random(), bytes, message },
            term,
            last,
            number,
            export,
            current: None,
            next: 0,
            ended: false,
        };
        let carried = transport.carry(&mut shipment).await;
        shipment.end().await;
        carried
    }

    /// Whether a snapshot that was made in `term` is still of use.
    pub(super) fn check_leads(&self, region: RegionId, term: Term) -> Result<(), Failed> {
        let state = self.inner.state.borrow();
        let leads = state.table.get(region).is_some_and(|it| it.is_leader() && it.term() == term);
        if leads && !self.inner.health.has_stopped() { Ok(()) } else { Err(Failed::Useless) }
    }

    async fn estimate_all(&self, region: &Region) -> engine::error::Result<Estimate> {
        let (mut sum, (families, range)) = (Estimate::default(), carried(region.id, &region.range));
        for cf in families {
            let part =
                self.inner.tree.estimate(*cf, range.start().as_bytes(), range.end().as_bytes()).await?;
            sum.bytes += part.bytes;
            sum.keys += part.keys;
        }
        Ok(sum)
    }
}

impl Inner {
    /// The tree as it is now, with the applied index and the descriptor that belong to it, announced to the core.
    fn begin_shipment(
        &self,
        region: RegionId,
        wanted: &SnapshotWanted,
        transport: &dyn Transport,
    ) -> Result<Begun, Failed> {
        let state = &mut *self.state.borrow_mut();
        let replica = state.table.get_mut(region).filter(|it| it.is_leader()).ok_or(Failed::Useless)?;
        let index = replica.applied_index();
        let last = LogId { term: replica.term_at(index).ok_or(Failed::Useless)?, index };
        let (descriptor, term) = (replica.region().clone(), replica.term());
        replica.send_snapshot(wanted, last, &descriptor).map_err(|_| Failed::Useless)?;
        let (families, range) = carried(region, &descriptor.range);
        let (start, end) = (range.start().as_bytes(), range.end().as_bytes());
        let options = ExportOptions {
            families,
            piece_bytes: self.limits.snapshot_piece_bytes,
            bytes_per_second: Some(self.limits.snapshot_bytes_per_second),
        };
        let to = descriptor.peer(PeerId(wanted.to.0)).map(|peer| peer.store);
        let source = match to.and_then(|to| transport.sibling_dir(to)) {
            Some(_) => Source::Shared(self.tree.share(start, end, families)),
            None => Source::Cut(self.tree.export(start, end, options)),
        };
        let (answer, announced) = oneshot();
        self.shipments.announced.borrow_mut().insert((region, PeerId(wanted.to.0)), answer);
        state.table.mark_dirty(region);
        self.bell.ring();
        Ok(Begun { term, last, region: descriptor, source, announced })
    }
}

impl Shipment {
    /// What is offered.
    pub const fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The store of the follower.
    pub const fn to(&self) -> StoreId {
        self.offer.message.to.store
    }

    /// Whether the snapshot is still of use: its maker leads in the same term, and the store runs.
    ///
    /// # Errors
    /// [`Failed::Useless`] if not.
    pub fn check(&self) -> Result<(), Failed> {
        self.shard.check_leads(self.offer.message.region, self.term)
    }

    /// Piece `number`, which is the one that was asked for before or the next one; nothing after the last one.
    ///
    /// # Errors
    /// Why there is no such piece.
    pub async fn piece(&mut self, number: u64) -> Result<Option<Piece>, Failed> {
        self.check()?;
        if let Some(current) = self.current.as_ref().filter(|_| number + 1 == self.next) {
            return Ok(Some(current.piece.clone()));
        }
        if number != self.next {
            return Err(Failed::OutOfStep);
        }
        self.drop_current().await;
        if self.ended {
            return Ok(None);
        }
        let inner = self.shard.inner.clone();
        let region = self.offer.message.region;
        let path = staging::piece_path(&inner.dir, Way::Out, region, self.last, self.number, number);
        let made = loop {
            match self.export.next_piece(&path).await {
                Err(fault) if fault.is_passing() => {
                    inner.rt.sleep(SHORTAGE_PAUSE).await;
                    self.check()?;
                }
                made => break made,
            }
        };
        let Some(piece) = made.map_err(|fault| self.failed(fault))? else {
            self.ended = true;
            return Ok(None);
        };
        // What was read of the tree after the end of the leadership may be of another history.
        let opened = inner.rt.open(&path, OpenMode::Read).await;
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                staging::remove(&inner.rt, vec![path.clone()]).await;
                return Err(Failed::Fault(Fault::io(&path, "opening", &error)));
            }
        };
        self.current = Some(Current { piece: piece.clone(), path, file });
        self.next += 1;
        self.check()?;
        Ok(Some(piece))
    }

    /// Bytes of the current piece, whole blocks.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn read(&self, position: u64, bytes: usize) -> Result<Buf, Failed> {
        self.check()?;
        let Current { piece: _, path, file } = self.current.as_ref().ok_or(Failed::OutOfStep)?;
        let read = file.read_at(position, bytes).await;
        let read = read.map_err(|error| Failed::Fault(Fault::io(path, "reading", &error)))?;
        if read.len() < bytes {
            return Err(Failed::Fault(Fault::corruption(path, "the piece is shorter than it was made")));
        }
        self.shard.inner.counters.snapshots.bytes_sent.add(bytes as u64);
        Ok(read)
    }

    /// A file that cannot be read fails the snapshot and is said; the store goes on.
    fn failed(&self, fault: Fault) -> Failed {
        drop(self.shard.inner.unreadable(&fault));
        Failed::Fault(fault)
    }

    async fn drop_current(&mut self) {
        if let Some(Current { piece: _, path, file }) = self.current.take() {
            drop(file);
            staging::remove(&self.shard.inner.rt, vec![path]).await;
        }
    }

    async fn end(mut self) {
        self.drop_current().await;
    }
}
