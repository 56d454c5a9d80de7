//! One member as the leader sees it, and how fast entries may flow to it.
//!
//! ```text
//!              conflict, failure                     first match
//!   Replicate ───────────────────► Probe ──────────────────────► Replicate
//!       │                            │ ▲                            ▲
//!       │ entries are gone           │ │ failed, or waited too long │ match at or above
//!       └──────────► Snapshot ◄──────┘ │                            │ the snapshot
//!                        └─────────────┴────────────────────────────┘
//! ```
//!
//! *Probe*: one message, then wait for an answer or a heartbeat. *Replicate*: pipelined, up to the in-flight bounds,
//! `next` runs ahead. *Snapshot*: no entries until the snapshot is in. Once the driver says that all bytes were
//! delivered, every sign of life is answered with an empty append after the snapshot's index: a member that has the
//! snapshot agrees, and one that still refuses an election timeout later has lost it.
//!
//! What was asked of the driver (a fetch, a snapshot) is known by the request's number; answers to other requests are
//! late, and change nothing.
//!
//! Invariants: matched < next; matched goes back only for a member that says it lost entries; the in-flight list is
//! empty outside *Replicate*; a snapshot's request is open exactly while one is awaited.

use crate::config::Config;
use crate::core::Core;
use crate::id::{Index, NodeId};
use crate::inflight::Inflight;
use crate::planted;
use crate::ready::{RequestId, SnapshotReport, SnapshotWanted};

/// How entries flow to one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The match is unknown.
    Probe {
        /// A message is out; wait.
        sent: bool,
    },
    /// The match is known and entries are pipelined.
    Replicate,
    /// The member needs a snapshot, which the driver has yet to make.
    SnapshotWanted {
        /// Ticks spent waiting.
        ticks: u32,
    },
    /// A snapshot is on its way to the member.
    Snapshot {
        /// The index it will bring.
        index: Index,
        /// Ticks spent waiting.
        ticks: u32,
    },
}

/// One round of catching up (thesis, 4.2.1): getting everything that existed when the round began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) goal: Index,
    pub(crate) ticks: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) id: NodeId,
    pub(crate) matched: Index,
    pub(crate) next: Index,
    pub(crate) mode: Mode,
    /// The highest heartbeat round it has answered.
    pub(crate) round: u64,
    /// Ticks since it was heard.
    pub(crate) silent_ticks: u32,
    /// It has gone to sleep with the current round's heartbeat.
    pub(crate) quiet: bool,
    pub(crate) commit_sent: Index,
    /// The number of the request to the driver that is open for it, or zero: for a snapshot while one is awaited, for
    /// entries otherwise.
    pub(crate) request: u32,
    /// The driver says that all of the snapshot was delivered.
    pub(crate) delivered: bool,
    /// A learner that has yet to show that it keeps up.
    pub(crate) catching_up: Option<Box<Round>>,
    /// Send something even without news: its answer shows what was lost.
    pub(crate) nudge: bool,
    /// Something waits for it to hear what is committed.
    pub(crate) commit_due: bool,
    /// Absent while nothing is in flight.
    pub(crate) inflight: Option<Box<Inflight>>,
}

impl Progress {
    pub(crate) fn new(id: NodeId, last: Index, learner: bool) -> Self {
        Self {
            id,
            matched: Index(0),
            next: last.next(),
            mode: Mode::Probe { sent: false },
            round: 0,
            silent_ticks: 0,
            quiet: false,
            commit_sent: Index(0),
            request: 0,
            delivered: false,
            catching_up: learner.then(|| Box::new(Round { goal: last, ticks: 0 })),
            nudge: true,
            commit_due: false,
            inflight: None,
        }
    }

    /// It is to hear soon that everything up to `index` is committed.
    pub(crate) fn announce_commit(&mut self, index: Index) {
        self.commit_due |= self.commit_sent < index;
    }

    /// The same in a new membership.
    pub(crate) fn continued_as(mut self, learner: bool) -> Self {
        self.catching_up.take_if(|_| !learner);
        self
    }

    pub(crate) fn inflight_len(&self) -> usize {
        self.inflight.as_ref().map_or(0, |inflight| inflight.len())
    }

    pub(crate) fn window_is_full(&self, config: &Config) -> bool {
        self.inflight.as_ref().is_some_and(|inflight| inflight.is_full(config))
    }

    fn probe(&mut self) {
        self.next = match self.mode {
            Mode::Snapshot { index, .. } => self.matched.max(index).next(),
            Mode::Probe { .. } | Mode::Replicate | Mode::SnapshotWanted { .. } => self.matched.next(),
        };
        self.mode = Mode::Probe { sent: false };
        self.nudge = true;
        self.inflight = None;
        self.close_request();
    }

    pub(crate) const fn close_request(&mut self) {
        self.request = 0;
        self.delivered = false;
    }

    /// Whether a request of this number is still open.
    pub(crate) const fn expects(&self, id: RequestId) -> bool {
        self.request == id.seq
    }

    fn replicate(&mut self) {
        self.mode = Mode::Replicate;
        self.next = self.next.max(self.matched.next());
        self.close_request();
    }

    /// The member holds everything up to `index`. Whether that was news.
    pub(crate) fn on_match(&mut self, index: Index, base: Index) -> bool {
        let news = index > self.matched;
        self.matched = self.matched.max(index);
        self.next = self.next.max(self.matched.next());
        match self.mode {
            // A probe's `next` was a guess, possibly far beyond the match.
            Mode::Probe { .. } if news || index == self.matched => {
                self.next = self.matched.next();
                self.replicate();
            }
            Mode::Probe { .. } => {}
            Mode::Replicate => {
                if let Some(inflight) = &mut self.inflight {
                    inflight.free_to(index);
                }
            }
            Mode::SnapshotWanted { .. } | Mode::Snapshot { .. } => {
                let arrived = matches!(self.mode, Mode::Snapshot { index, .. } if self.matched >= index);
                if arrived || self.matched >= base {
                    self.next = self.matched.next();
                    self.replicate();
                }
            }
        }
        news
    }

    /// The member refused the entry before the new ones; `agree` is the last point where the logs may agree.
    ///
    /// A refusal of what was matched is late, or comes from a member that lost entries without knowing it. Sending
    /// them at once would be answered the same way for ever, so it waits for the next sign of life.
    pub(crate) fn on_conflict(&mut self, refused: Index, agree: Index, wait_ticks_max: u32) {
        match self.mode {
            _ if refused <= self.matched => {}
            Mode::Replicate => {
                self.probe();
                self.next = agree.max(self.matched).next();
            }
            Mode::Probe { .. } if refused.next() == self.next => {
                self.next = agree.min(refused.prev()).max(self.matched).next();
                self.mode = Mode::Probe { sent: false };
                self.nudge = true;
            }
            Mode::Snapshot { .. } if self.has_lost_snapshot(refused, wait_ticks_max) => {
                self.probe();
                self.next = agree.min(refused.prev()).max(self.matched).next();
            }
            Mode::Probe { .. } | Mode::SnapshotWanted { .. } | Mode::Snapshot { .. } => {}
        }
    }

    /// Whether the member, which refuses what follows `refused`, would have the snapshot by now if it had not lost it.
    fn has_lost_snapshot(&self, refused: Index, wait_ticks_max: u32) -> bool {
        let has_it_since = |index, ticks| self.delivered && index == refused && ticks >= wait_ticks_max;
        matches!(self.mode, Mode::Snapshot { index, ticks } if has_it_since(index, ticks))
            && !planted!(SentSnapshotTrusted)
    }

    /// The member knows that its disk lost entries, and holds at most those up to `agree`.
    pub(crate) fn on_lost(&mut self, refused: Index, agree: Index, wait_ticks_max: u32) {
        let agree = agree.min(refused.prev());
        self.matched = self.matched.min(agree);
        if !self.awaits_snapshot() || self.has_lost_snapshot(refused, wait_ticks_max) {
            self.probe();
            self.next = agree.next();
        }
    }

    /// The member has nothing to attach the entries after `refused` to. From one that has vouched for entries this is
    /// late, or it lost its disk without knowing it, which a snapshot does not heal: it may have voted, too.
    pub(crate) fn on_blank(&mut self, core: &mut Core, refused: Index) {
        let is_current = match self.mode {
            Mode::Probe { .. } => refused.next() == self.next,
            Mode::Snapshot { .. } => self.has_lost_snapshot(refused, core.config.election_ticks),
            Mode::Replicate | Mode::SnapshotWanted { .. } => false,
        };
        let believed = planted!(LateBlankBelieved) && !self.awaits_snapshot();
        if (is_current && self.matched == Index(0)) || believed {
            self.want_snapshot(core);
        }
    }

    /// Whether this learner has just shown that it keeps up: it got through a round within `window_ticks`, or holds
    /// everything there is.
    pub(crate) fn has_caught_up(&mut self, last: Index, window_ticks: u32) -> bool {
        let Some(round) = &mut self.catching_up else { return false };
        if self.matched < round.goal && !planted!(CaughtUpTooEarly) {
            return false;
        }
        if round.ticks >= window_ticks && self.matched < last {
            **round = Round { goal: last, ticks: 0 };
            return false;
        }
        self.catching_up = None;
        true
    }

    /// Its node cannot be reached: what is in flight is lost, and the flow waits for a sign of life.
    pub(crate) fn on_unreachable(&mut self) {
        if self.mode == Mode::Replicate {
            self.probe();
            self.mode = Mode::Probe { sent: true };
        }
    }

    /// A paused flow gets another try: the member answered a heartbeat, or is wanted as the next leader.
    pub(crate) fn try_again(&mut self, last: Index, config: &Config) {
        match &mut self.mode {
            Mode::Probe { sent } => {
                *sent = false;
                self.nudge = true;
            }
            Mode::Replicate => {
                if let Some(inflight) = self.inflight.as_mut().filter(|inflight| inflight.is_full(config)) {
                    inflight.free_oldest();
                }
                self.nudge |= self.matched < last;
            }
            Mode::Snapshot { .. } => self.nudge |= self.delivered,
            Mode::SnapshotWanted { .. } => {}
        }
    }

    /// Whether `wanted` is the request for a snapshot that is still to be made.
    pub(crate) fn waits_for(&self, wanted: &SnapshotWanted) -> bool {
        matches!(self.mode, Mode::SnapshotWanted { .. }) && self.expects(wanted.id)
    }

    /// The driver made a snapshot for it.
    pub(crate) fn on_snapshot_made(&mut self, index: Index) {
        self.mode = Mode::Snapshot { index, ticks: 0 };
        self.next = index.next();
        self.inflight = None;
        self.nudge = false;
    }

    /// The driver says what became of a snapshot.
    pub(crate) fn on_snapshot_report(&mut self, wanted: &SnapshotWanted, report: SnapshotReport) {
        if !self.expects(wanted.id) && !planted!(LateReportBelieved) {
            return;
        }
        match (report, &mut self.mode) {
            (SnapshotReport::Failed, _) => self.on_snapshot_failed(),
            (SnapshotReport::Sent, Mode::Snapshot { ticks, .. }) => {
                if !std::mem::replace(&mut self.delivered, true) {
                    *ticks = 0;
                }
            }
            (SnapshotReport::Sent, Mode::Probe { .. } | Mode::Replicate | Mode::SnapshotWanted { .. }) => {}
        }
    }

    /// The snapshot did not get through: wait for a sign of life, then look again.
    pub(crate) fn on_snapshot_failed(&mut self) {
        if self.awaits_snapshot() {
            self.mode = Mode::Probe { sent: true };
            self.next = self.matched.next();
            self.close_request();
        }
    }

    /// Time passes: for a snapshot in flight, and for memory that the last burst needed.
    pub(crate) fn tick(&mut self, snapshot_ticks_max: u32) {
        self.silent_ticks = self.silent_ticks.saturating_add(1);
        self.inflight.take_if(|inflight| inflight.is_empty());
        if let Some(round) = &mut self.catching_up {
            round.ticks = round.ticks.saturating_add(1);
        }
        if let Mode::SnapshotWanted { ticks } | Mode::Snapshot { ticks, .. } = &mut self.mode {
            *ticks += 1;
            if *ticks >= snapshot_ticks_max {
                self.on_snapshot_failed();
            }
        }
    }

    /// Asserts the invariants in the module docs.
    pub(crate) fn check(&self, last: Index) {
        assert!(self.matched < self.next, "matched and next: {self:?}");
        assert!(self.matched <= last, "matched what does not exist: {self:?}");
        assert!(self.mode == Mode::Replicate || self.inflight_len() == 0, "in flight: {self:?}");
        assert!(self.request > 0 || !self.awaits_snapshot(), "the snapshot's request: {self:?}");
        let shipped = matches!(self.mode, Mode::Snapshot { .. });
        assert!(shipped || !self.delivered, "delivered without a snapshot: {self:?}");
    }

    pub(crate) const fn awaits_snapshot(&self) -> bool {
        matches!(self.mode, Mode::SnapshotWanted { .. } | Mode::Snapshot { .. })
    }
}
