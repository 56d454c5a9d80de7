//! Sending entries to one member: what goes out now, what has to be read first, and when a snapshot is needed instead.
//!
//! The state is [`Progress`]; what an answer changes in it is there. Here it is asked whether something may be sent, within
//! the bounds on what is in flight, and the requests to the driver are opened and closed.

use crate::core::Core;
use crate::entry::Entry;
use crate::id::{Index, LogId, Term};
use crate::message::Body;
use crate::planted;
use crate::progress::{Mode, Progress, Round};
use crate::ready::{Fetch, SnapshotWanted};

impl Progress {
    /// Sends what there is to send and what the bounds allow.
    pub(crate) fn flush(&mut self, core: &mut Core) {
        while self.may_send(core) {
            let prev = self.next.prev();
            let term = core.log.term(prev);
            if matches!(self.mode, Mode::Snapshot { .. }) {
                return self.ask_for_snapshot(core, term, prev);
            }
            let Some(term) = term else { return self.want_snapshot(core) };
            let prev = LogId { term, index: prev };
            let last = core.log.last();
            match core.log.copy(self.next, last, core.config.message_bytes_max) {
                Some(entries) => self.append(core, prev, entries),
                None => return self.fetch(core),
            }
        }
    }

    /// Whether [`flush`](Self::flush) would do something.
    pub(crate) fn wants_flush(&self, core: &Core) -> bool {
        self.may_send(core)
    }

    fn may_send(&self, core: &Core) -> bool {
        let has_entries = self.next <= core.log.last();
        match self.mode {
            Mode::Probe { sent } => !sent && self.request == 0 && (has_entries || self.nudge),
            Mode::Replicate => {
                let has_news = has_entries || self.nudge || self.owes_commit(core);
                has_news && self.request == 0 && !self.window_is_full(&core.config)
            }
            Mode::Snapshot { .. } => self.delivered && self.nudge,
            Mode::SnapshotWanted { .. } => false,
        }
    }

    /// Whether the commit index is worth a message of its own.
    fn owes_commit(&self, core: &Core) -> bool {
        (core.config.commits_at_once || self.commit_due) && self.commit_sent < core.log.committed()
    }

    /// Asks with an empty append whether the snapshot is in, unless its last entry has been cut off here.
    fn ask_for_snapshot(&mut self, core: &mut Core, term: Option<Term>, index: Index) {
        self.nudge = false;
        if let Some(term) = term {
            let (prev, commit) = (LogId { term, index }, core.log.committed());
            core.send(self.id, Body::Append { prev, entries: Vec::new(), commit });
        }
    }

    fn append(&mut self, core: &mut Core, prev: LogId, entries: Vec<Entry>) {
        self.nudge = false;
        self.commit_due = false;
        self.commit_sent = core.log.committed();
        match (&mut self.mode, entries.last()) {
            (Mode::Probe { sent }, _) => *sent = true,
            (_, Some(last)) => {
                self.next = last.index.next();
                self.inflight
                    .get_or_insert_default()
                    .push(last.index, entries.iter().map(Entry::bytes).sum());
            }
            (_, None) => {}
        }
        let commit = self.commit_sent;
        core.send(self.id, Body::Append { prev, entries, commit });
    }

    fn fetch(&mut self, core: &mut Core) {
        let id = core.next_request();
        self.request = id.seq;
        core.out.rare().fetch.push(Fetch {
            to: self.id,
            first: self.next,
            last: core.log.last_outside_memory(),
            bytes_max: core.config.message_bytes_max,
            id,
        });
    }

    /// The driver read entries for it, or could not.
    pub(crate) fn fetched(&mut self, core: &mut Core, fetch: &Fetch, entries: Option<Vec<Entry>>) {
        let is_current = self.expects(fetch.id) && !self.awaits_snapshot();
        if !is_current && !planted!(LateFetchBelieved) {
            return;
        }
        self.close_request();
        let Some(entries) = entries.filter(|entries| !entries.is_empty()) else {
            // Unless the flow has moved on meanwhile.
            if (self.next == fetch.first && self.may_send(core)) || !is_current {
                self.want_snapshot(core);
            }
            return;
        };
        let prev = fetch.first.prev();
        let Some(term) = core.log.term(prev) else { return };
        let prev = LogId { term, index: prev };
        let fits = crate::follower::validate(core.term, prev, &entries).is_ok()
            && entries.iter().all(|entry| core.log.holds(entry.id()));
        if fits && self.next == fetch.first && self.may_send(core) {
            self.append(core, prev, entries);
        }
    }

    pub(crate) fn want_snapshot(&mut self, core: &mut Core) {
        let id = core.next_request();
        self.close_request();
        self.mode = Mode::SnapshotWanted { ticks: 0 };
        self.inflight = None;
        self.request = id.seq;
        if core.membership.learners.contains(&self.id) {
            self.catching_up.get_or_insert_with(|| Box::new(Round { goal: core.log.last(), ticks: 0 }));
        }
        let at_least = core.log.base().index;
        core.out.rare().snapshots.push(SnapshotWanted { to: self.id, at_least, id });
    }
}
