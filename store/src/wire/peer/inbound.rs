//! Incoming connections of one store: introduction, then frames, then silence.
//!
//! A connection of a store that is not known to the cluster is refused when it goes on after the introduction, and not before: the scheduler
//! dials a store that joins back, and is answered before that store knows of anybody else.
//!
//! The port has read the preface already, by which it knew the protocol. Messages are handed over batch by batch; while the
//! store takes none in, nothing more is read, so a peer that is faster than this store fills its own queue and drops there.
//!
//! Invariants: where a secret of the cluster is set, nothing that a peer says is looked at before it has proved it; before the introduction nothing but a short frame is read, and not for long; a batch for another store, or from
//! another one than was introduced, ends the connection; no frame after the introduction is looked at before its store is
//! [recognised](super::book); every connection that is refused is counted and its reason sent.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::local::Pending;
use engine::rt::{Rt, Stream};
use scheduler::StoreId;

use super::authenticate;
use super::book::AddressBook;
use super::counters::PeerCounters;
use super::frame::{self, Decoder, FRAME_BYTES_MAX, FrameKind};
use super::hello::{self, Hello, Rejection};
use super::link::LinkError;
use super::messages::MessageBatch;
use super::open::{HELLO_BYTES_MAX, Purpose, Speaker, read_frame};
use super::reading::Reading;
use super::requests::serving;
use crate::memory::Memory;
use crate::plant::{Bug, planted};
use crate::region::lineage::Opening;
use crate::request::{Op, Outcome, Route};
use crate::secret::Unproven;

/// How long the introduction may take.
pub(in crate::wire) const HELLO_MAX: Duration = Duration::from_secs(3);
/// Longer than a peer leaves a connection open without a message.
const SILENCE_MAX: Duration = Duration::from_secs(90);
const READ_BYTES: usize = 16 << 10;

/// The openings that other stores were seen with, the latest of each.
#[derive(Debug, Default)]
pub struct Incarnations(RefCell<BTreeMap<StoreId, Opening>>);

impl Incarnations {
    /// The highest incarnation that `store` was seen with; 0 if it was not.
    pub fn highest(&self, store: StoreId) -> u64 {
        self.latest(store).number
    }

    /// The latest opening that `store` was seen with; number 0 if it was not.
    pub fn latest(&self, store: StoreId) -> Opening {
        self.0.borrow().get(&store).copied().unwrap_or_default()
    }

    /// Notes an opening. What was drawn for one that was seen already is not forgotten.
    pub fn note(&self, store: StoreId, opening: Opening) {
        let mut seen = self.0.borrow_mut();
        let latest = seen.entry(store).or_default();
        if opening.number > latest.number || (opening.number == latest.number && latest.drawn == 0) {
            *latest = opening;
        }
    }
}

/// The accepting side of one store.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// The runtime.
    pub rt: Rt,
    /// This store.
    pub speaker: Speaker,
    /// Who was seen.
    pub seen: Rc<Incarnations>,
    /// Which other stores there are.
    pub book: Rc<AddressBook>,
    /// The counters.
    pub counters: Rc<PeerCounters>,
    /// The core's bounds: what is not read whole yet is charged to them.
    pub memory: Memory,
}

impl Inbound {
    /// Serves a connection whose preface has been read, until it ends. `early` is what arrived after the preface already, and `proved`
    /// is called once it has proved to be of the cluster.
    ///
    /// # Errors
    /// Why it ended, other than by the peer's closing it between frames.
    pub async fn serve(
        &self,
        mut stream: Stream,
        (early, proved): (&[u8], &dyn Fn()),
        deliver: impl AsyncFn(MessageBatch),
    ) -> Result<(), LinkError> {
        let begun = (Purpose::Messages, early, proved);
        let Some((mut decoder, from)) = self.welcome(&mut stream, begun).await? else {
            return Ok(());
        };
        self.count(self.receive(&mut stream, &mut decoder, from, deliver).await)
    }

    /// Serves a connection of [requests](super::requests), otherwise as [`Inbound::serve`]. `carry_out` starts an operation.
    ///
    /// # Errors
    /// Why it ended, other than by the peer's closing it between frames.
    pub async fn serve_requests(
        &self,
        mut stream: Stream,
        (early, proved): (&[u8], &dyn Fn()),
        carry_out: impl Fn(Route, Op) -> Pending<Outcome>,
    ) -> Result<(), LinkError> {
        let begun = (Purpose::Requests, early, proved);
        let Some((decoder, _)) = self.welcome(&mut stream, begun).await? else {
            return Ok(());
        };
        self.count(serving::serve(&self.rt, &self.memory, stream.split(), decoder, carry_out).await)
    }

    /// The introduction, and whether the store is one of the cluster once it goes on; returns who the peer is, and a decoder for what
    /// follows. Nothing if it only wanted to know who is here.
    pub(super) async fn welcome(
        &self,
        stream: &mut Stream,
        (purpose, early, proved): (Purpose, &[u8], &dyn Fn()),
    ) -> Result<Option<(Decoder, StoreId)>, LinkError> {
        let mut decoder = Decoder::new(HELLO_BYTES_MAX);
        decoder.feed(early);
        let introduce = self.introduce(stream, &mut decoder, (purpose, proved));
        let introduced = self.rt.timeout(HELLO_MAX, introduce).await;
        let theirs = match introduced.unwrap_or(Err(LinkError::Timeout)) {
            Ok(theirs) => theirs,
            Err(error) => {
                // What was refused with a reason is counted.
                self.counters.rejected.add(u64::from(!matches!(error, LinkError::Rejected(_))));
                return Err(error);
            }
        };
        if decoder.waiting_bytes() == 0 {
            let mut first = [0; 1024];
            let read = self.rt.timeout(SILENCE_MAX, stream.read(&mut first)).await;
            match read.ok_or(LinkError::Timeout)?? {
                0 => return Ok(None),
                n => decoder.feed(&first[..n]),
            }
        }
        if !self.book.recognises(&self.rt, theirs.store).await {
            let rejection = Rejection::Unknown(theirs.store);
            self.refuse(stream, &rejection).await;
            return Err(rejection.into());
        }
        // Where no secret is set, this is all that it can show.
        proved();
        let (number, drawn) = (theirs.incarnation, theirs.lineage.drawn_for(theirs.incarnation));
        self.seen.note(theirs.store, Opening { number, drawn });
        self.counters.accepted.add(1);
        decoder.allow(FRAME_BYTES_MAX);
        Ok(Some((decoder, theirs.store)))
    }

    /// Counts a peer that is not spoken with, and says why.
    async fn refuse(&self, stream: &mut Stream, rejection: &Rejection) {
        self.counters.rejected.add(1);
        if let Rejection::Unproven(why) = rejection {
            self.counters.unproven.add(*why);
        }
        authenticate::refuse(&self.rt, stream, rejection).await;
    }

    pub(super) fn count(&self, ended: Result<(), LinkError>) -> Result<(), LinkError> {
        if ended.as_ref().is_err_and(LinkError::is_breach) {
            self.counters.bad_frames.add(1);
        }
        ended
    }

    /// The first frame of the introduction, once the peer has proved the secret that is set here.
    async fn first_frame(
        &self,
        stream: &mut Stream,
        decoder: &mut Decoder,
        (purpose, proved): (Purpose, &dyn Fn()),
    ) -> Result<(FrameKind, Vec<u8>), LinkError> {
        let (kind, payload) = read_frame(stream, decoder).await?;
        match (&self.speaker.secret, kind == FrameKind::Challenge) {
            (None, false) => Ok((kind, payload)),
            (None, true) => Err(Rejection::Unproven(Unproven::Unset).into()),
            (Some(_), false) if planted(Bug::PeersBelieved) => Ok((kind, payload)),
            (Some(_), false) => Err(Rejection::Unproven(Unproven::Missing).into()),
            (Some(secret), true) => {
                let wanted = (secret, *purpose.preface(), self.speaker.store.0);
                authenticate::demand(&self.rt, stream, decoder, wanted, &payload).await?;
                proved();
                read_frame(stream, decoder).await
            }
        }
    }

    async fn introduce(
        &self,
        stream: &mut Stream,
        decoder: &mut Decoder,
        begun: (Purpose, &dyn Fn()),
    ) -> Result<Hello, LinkError> {
        let (kind, payload) = match self.first_frame(stream, decoder, begun).await {
            Ok(first) => first,
            Err(LinkError::Rejected(rejection)) => {
                self.refuse(stream, &rejection).await;
                return Err(rejection.into());
            }
            Err(error) => return Err(error),
        };
        let theirs = match kind {
            FrameKind::Hello => Hello::decode(&payload),
            FrameKind::Welcome
            | FrameKind::Refused
            | FrameKind::Messages
            | FrameKind::Requests
            | FrameKind::Answers
            | FrameKind::Challenge
            | FrameKind::Proof
            | FrameKind::Offer
            | FrameKind::Have
            | FrameKind::Piece
            | FrameKind::Chunk
            | FrameKind::Whole
            | FrameKind::Installed => Err(Rejection::NotAHello),
        };
        let judged = theirs.and_then(|theirs| {
            let ours = self.speaker.hello(theirs.store);
            hello::judge(&ours, &theirs, self.seen.latest(theirs.store))?;
            Ok((ours, theirs))
        });
        match judged {
            Ok((ours, theirs)) => {
                let mut bytes = Vec::new();
                frame::push(&mut bytes, FrameKind::Welcome, |out| ours.encode(out));
                stream.write_all(&bytes).await?;
                Ok(theirs)
            }
            Err(rejection) => {
                self.refuse(stream, &rejection).await;
                Err(rejection.into())
            }
        }
    }

    async fn receive(
        &self,
        stream: &mut Stream,
        decoder: &mut Decoder,
        from: StoreId,
        deliver: impl AsyncFn(MessageBatch),
    ) -> Result<(), LinkError> {
        let mut buffer = vec![0; READ_BYTES];
        let budget = self.rt.budget();
        let mut reading = Reading::new(&self.rt, &self.memory.peers, decoder);
        loop {
            while let Some(frame) = decoder.next_frame()? {
                // Until the store has taken it in.
                let _charge = reading.took(frame.payload.len());
                let batch = match frame.kind {
                    FrameKind::Messages => MessageBatch::decode_in_pieces(frame.payload, &budget).await,
                    FrameKind::Hello
                    | FrameKind::Welcome
                    | FrameKind::Refused
                    | FrameKind::Requests
                    | FrameKind::Answers
                    | FrameKind::Challenge
                    | FrameKind::Proof
                    | FrameKind::Offer
                    | FrameKind::Have
                    | FrameKind::Piece
                    | FrameKind::Chunk
                    | FrameKind::Whole
                    | FrameKind::Installed => return Err(LinkError::Unexpected(frame.kind)),
                };
                let batch = match batch {
                    Ok(batch) => batch,
                    Err(error) => {
                        tracing::warn!(store = self.speaker.store.0, peer = from.0, %error, "a peer's frame is not understood");
                        self.counters.bad_frames.add(1);
                        return Err(LinkError::Closed);
                    }
                };
                if batch.from != from || batch.to != self.speaker.store {
                    let here = self.speaker.store;
                    return Err(Rejection::OtherStore { meant: batch.to, here }.into());
                }
                self.counters.messages_received.add(&batch.messages);
                deliver(batch).await;
                budget.tick().await;
            }
            decoder.settle();
            reading.fed(decoder);
            let time_max = reading.room(SILENCE_MAX).await?;
            let read = self.rt.timeout(time_max, stream.read(&mut buffer)).await;
            match read.ok_or(LinkError::Timeout)?? {
                0 if decoder.waiting_bytes() == 0 => return Ok(()),
                0 => return Err(LinkError::Closed),
                n => {
                    self.counters.bytes_received.add(n as u64);
                    decoder.feed(&buffer[..n]);
                    reading.fed(decoder);
                    // A peer that is fast always has more.
                    budget.tick().await;
                }
            }
        }
    }
}
