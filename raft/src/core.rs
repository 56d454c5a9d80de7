//! What a replica keeps in every role: term, vote, log, membership, timers, and the outbox.
//!
//! Role files hold a `&mut Core` beside their own state. The outbox has three methods, and choosing one is choosing
//! what a message may rely on: [`Core::send`] for what is true without any disk, [`Core::reply`] for what only needs
//! the term on disk, [`Core::send_durable`] for what vouches for everything written so far.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::config::{Config, Identity};
use crate::error::Refusal;
use crate::id::{Index, LogId, NodeId, Term, Time};
use crate::log::Log;
use crate::membership::Membership;
use crate::message::{Body, Message};
use crate::planted;
use crate::read::FollowerReads;
use crate::ready::{Event, Fetch, ReadOutcome, RequestId, SnapshotWanted};
use crate::rng::SplitMix;
use crate::transfer::{Awaited, Order};

/// Election timeouts without a leader after which a member without a vote says that it is there.
const UNHEARD_TIMEOUTS: u32 = 10;

/// Messages and requests that wait for the next [`Ready`](crate::Ready).
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) send: Vec<Message>,
    /// Leave once the next write is durable.
    pub(crate) after: Vec<Message>,
    /// What most turns do not have; allocated on first use, so that idle groups stay small.
    rare: Option<Box<Rare>>,
}

#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// Had nothing of their own to write, but an earlier write (the number) was still in flight.
    pub(crate) held: VecDeque<(u64, Message)>,
    pub(crate) fetch: Vec<Fetch>,
    pub(crate) snapshots: Vec<SnapshotWanted>,
    pub(crate) reads: Vec<ReadOutcome>,
    pub(crate) events: Vec<Event>,
}

impl Outbox {
    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(crate) fn rare_if_any(&mut self) -> Option<&mut Rare> {
        self.rare.as_deref_mut()
    }

    /// Whether something waits, given how many writes are durable.
    pub(crate) fn is_due(&self, durable: u64) -> bool {
        let rare_is_due = |rare: &Rare| {
            rare.held.front().is_some_and(|(write, _)| *write <= durable)
                || !rare.fetch.is_empty()
                || !rare.snapshots.is_empty()
                || !rare.reads.is_empty()
                || !rare.events.is_empty()
        };
        !self.send.is_empty() || !self.after.is_empty() || self.rare.as_deref().is_some_and(rare_is_due)
    }

    /// Heap memory in use, payloads aside.
    pub(crate) fn heap_bytes(&self) -> usize {
        let messages = (self.send.capacity() + self.after.capacity()) * size_of::<Message>();
        messages + self.rare.as_deref().map_or(0, size_of_val)
    }

    /// Gives back spare memory.
    pub(crate) fn release(&mut self) {
        self.rare.take_if(|rare| {
            rare.held.is_empty()
                && rare.fetch.is_empty()
                && rare.snapshots.is_empty()
                && rare.reads.is_empty()
                && rare.events.is_empty()
        });
    }
}

/// How far the writes handed to the driver have got. They become durable in order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Writes {
    /// The number of the last one handed out.
    pub(crate) issued: u64,
    /// The number of the last one known durable.
    pub(crate) durable: u64,
    /// The number of the last one that carried a hard state or a snapshot.
    pub(crate) hard: u64,
    /// Ticks since there was news while a write was in flight.
    pub(crate) stalled_ticks: u32,
}

/// The promise of a voter to a leader: no vote for another member before `until`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Promise {
    pub(crate) until: Time,
    /// The leader's term, and the highest fence heard in it: what a forced election must present.
    pub(crate) term: Term,
    pub(crate) fence: u32,
    /// Before this reading a promise from before a restart may hold, whose fence was forgotten.
    pub(crate) unknown_until: Time,
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) identity: Identity,
    pub(crate) config: Arc<Config>,
    pub(crate) now: Time,
    pub(crate) term: Term,
    pub(crate) vote: Option<NodeId>,
    /// Term or vote differ from what was last handed to a write.
    pub(crate) hard_dirty: bool,
    /// A membership change was applied since the last write, so the commit index is to be written. No message waits for that.
    pub(crate) commit_dirty: bool,
    pub(crate) leader: Option<NodeId>,
    pub(crate) log: Log,
    pub(crate) membership: Membership,
    /// A snapshot on its way into the state machine; taken by the next write, done when that is durable.
    pub(crate) install: Install,
    pub(crate) elapsed: u32,
    pub(crate) timeout: u32,
    pub(crate) rng: SplitMix,
    pub(crate) promise: Promise,
    pub(crate) asleep: bool,
    pub(crate) writes: Writes,
    pub(crate) out: Outbox,
    pub(crate) reads: FollowerReads,
    /// Entries up to here may have been lost by this disk: no vote before they are back.
    pub(crate) suspect_until: Index,
    /// Counts the fetches and snapshots asked of the driver.
    pub(crate) requests: u32,
    /// The leader's order to campaign, for as long as something passing stands in its way.
    pub(crate) order: Option<Box<Order>>,
    /// A transfer that was accepted here and whose end others decide.
    pub(crate) awaited: Option<Box<Awaited>>,
}

/// The stages of a snapshot installation.
#[derive(Clone, Debug, Default)]
pub(crate) enum Install {
    #[default]
    None,
    Wanted(Box<crate::message::Snapshot>),
    /// Part of the write with this number.
    Writing(u64),
}

impl Core {
    pub(crate) const fn me(&self) -> NodeId {
        self.identity.id
    }

    fn message(&self, to: NodeId, body: Body) -> Message {
        Message { group: self.identity.group, from: self.me(), to, term: self.term, body }
    }

    /// Sends what is true without any disk.
    pub(crate) fn send(&mut self, to: NodeId, body: Body) {
        let message = self.message(to, body);
        self.out.send.push(message);
    }

    /// Sends at once under another term: for pre-votes, which do not raise the sender's own.
    pub(crate) fn send_in_term(&mut self, to: NodeId, term: Term, body: Body) {
        let message = Message { term, ..self.message(to, body) };
        self.out.send.push(message);
    }

    /// Sends what vouches for term, vote and log: leaves when all of it is on disk.
    pub(crate) fn send_durable(&mut self, to: NodeId, body: Body) {
        let message = self.message(to, body);
        if planted!(AckBeforeDurable) {
            self.out.send.push(message);
            return;
        }
        // Only the last of several progress reports to one leader matters.
        if let (Some(last), Body::AppendReply(crate::message::AppendOutcome::Matched(_))) =
            (self.out.after.last_mut(), &message.body)
            && last.to == message.to
            && last.term == message.term
            && matches!(last.body, Body::AppendReply(crate::message::AppendOutcome::Matched(_)))
        {
            *last = message;
            return;
        }
        self.out.after.push(message);
    }

    /// Sends what reveals the current term but vouches for nothing else.
    pub(crate) fn reply(&mut self, to: NodeId, body: Body) {
        if self.hard_dirty || self.writes.hard > self.writes.durable {
            let message = self.message(to, body);
            self.out.after.push(message);
        } else {
            self.send(to, body);
        }
    }

    /// The number the next write will have.
    pub(crate) const fn next_write(&self) -> u64 {
        self.writes.issued + 1
    }

    /// Moves to a later term. The vote in it is still free.
    pub(crate) fn enter_term(&mut self, term: Term) {
        debug_assert!(term >= self.term);
        if term > self.term {
            self.term = term;
            self.vote = None;
            self.hard_dirty = true;
        }
    }

    /// Votes in the current term.
    pub(crate) fn cast_vote(&mut self, candidate: NodeId) {
        if self.vote != Some(candidate) {
            self.vote = Some(candidate);
            self.hard_dirty |= !planted!(VoteNotPersisted);
        }
    }

    /// Restarts the election timer with a new random length.
    pub(crate) fn reset_timer(&mut self) {
        self.elapsed = 0;
        let ticks = self.config.election_ticks;
        self.timeout = ticks + self.rng.below(ticks);
    }

    /// The leader of this term was heard.
    pub(crate) fn heard_leader(&mut self, leader: NodeId) {
        self.elapsed = 0;
        self.leader = Some(leader);
        if self.config.lease_nanos > 0 {
            if self.promise.term != self.term {
                // Whoever was elected since has waited for the promises made before.
                self.promise = Promise { term: self.term, fence: 0, unknown_until: Time(0), ..self.promise };
            }
            self.promise.until = self.promise.until.max(self.now.after(self.config.promise_nanos()));
        }
        if self.awaited.is_some() {
            self.settle_awaited(leader);
        }
    }

    /// Whether this voter owes a living leader its silence towards a candidate.
    pub(crate) fn is_loyal(&self, candidate_term: Term, forced: Option<u32>) -> bool {
        let by_clock = self.is_bound();
        let released = forced.is_some_and(|fence| self.is_released(candidate_term, fence));
        let by_ticks =
            self.config.check_quorum && self.leader.is_some() && self.elapsed < self.config.election_ticks;
        (by_clock && !released) || (by_ticks && forced.is_none() && !planted!(VoterBreaksPromise))
    }

    /// Whether the leader that holds this voter's promise has itself asked for the election.
    pub(crate) fn is_released(&self, candidate_term: Term, fence: u32) -> bool {
        candidate_term == self.promise.term.next()
            && fence >= self.promise.fence
            && self.now >= self.promise.unknown_until
    }

    /// Whether a promise made for a leader's lease still holds.
    pub(crate) fn is_bound(&self) -> bool {
        self.now < self.promise.until && !planted!(VoterBreaksPromise)
    }

    /// Whether this member may ask for votes at all.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn may_campaign(&self) -> Result<(), Refusal> {
        if !self.membership.is_voter(self.me()) && !planted!(TimeoutNowToLearner) {
            return Err(Refusal::NotVoter);
        }
        let unapplied_change = self.log.has_committed_change() && !planted!(CampaignWithUnappliedChange);
        let installing = !matches!(self.install, Install::None);
        if unapplied_change || installing || self.withholds_vote() {
            return Err(Refusal::MayNotCampaign);
        }
        Ok(())
    }

    /// Whether this disk may have lost entries that it once vouched for.
    pub(crate) fn is_suspect(&self) -> bool {
        self.log.committed() < self.suspect_until
    }

    /// Whether this member must not take part in an election because of that: a leader without what it has lost could win. Where no half of
    /// the membership has a second voter, whoever wins has the vote of every voter, and none grants it to a shorter log than its own; what
    /// none of them has any more does not come back by waiting, and waiting for the others would never end.
    pub(crate) fn withholds_vote(&self) -> bool {
        let needs_everyone = self.membership.needs_everyone() && !planted!(DoubtEndsASwap);
        self.is_suspect() && !needs_everyone && !planted!(DoubtForgotten)
    }

    /// A member without a vote that has heard no leader for long is heard itself: it may have been removed, and then no leader knows it any
    /// more.
    pub(crate) fn say_it_lives(&mut self) {
        if !self.elapsed.is_multiple_of(UNHEARD_TIMEOUTS * self.config.election_ticks)
            || planted!(SilentLearner)
        {
            return;
        }
        for voter in self.membership.members() {
            if self.membership.is_voter(voter) {
                self.reply(voter, Body::Stale);
            }
        }
    }

    /// Another member vouches that the entry at `commit` is committed; if it is here too, so is everything before it. About
    /// the term it leads, no member knows better than the leader.
    pub(crate) fn learn_commit(&mut self, commit: LogId) {
        let is_own_term = self.leader == Some(self.me()) && commit.term == self.term;
        if commit.index > self.log.committed() && self.log.holds(commit) && !is_own_term {
            self.log.commit_to(commit.index);
        }
    }

    /// Whether nothing at all waits to be written, applied or answered here.
    pub(crate) fn is_at_rest(&self) -> bool {
        let log = &self.log;
        log.last() == log.applied()
            && log.last() == log.stable()
            && matches!(self.install, Install::None)
            && !self.hard_dirty
            && !self.commit_dirty
            && self.writes.durable == self.writes.issued
            && self.reads.is_empty()
            && self.order.is_none()
            && self.awaited.is_none()
    }

    /// A name for the next request to the driver.
    pub(crate) const fn next_request(&mut self) -> RequestId {
        self.requests = if self.requests == u32::MAX { 1 } else { self.requests + 1 };
        RequestId { incarnation: self.identity.incarnation, seq: self.requests }
    }
}
