//! The other half of the conversation: what there is to do, and what the driver says has been done.

use crate::core::{Core, Install};
use crate::entry::Entry;
use crate::error::Refusal;
use crate::id::{Index, LogId};
use crate::membership::{ChangeEffect, MembershipChange, MembershipError};
use crate::message::{Message, Snapshot};
use crate::planted;
use crate::raft::{Raft, Role};
use crate::ready::{Apply, Fetch, HardState, Ready, SnapshotReport, SnapshotWanted, Write, WriteAck};

impl Raft {
    /// Whether [`ready`](Self::ready) would return something to do.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        let core = &self.core;
        core.out.is_due(core.writes.durable)
            || core.hard_dirty
            || core.commit_dirty
            || core.log.has_unsubmitted()
            || matches!(core.install, Install::Wanted(_))
            || self.appliable().is_some()
            || matches!(&self.role, Role::Leader(leader) if leader.wants_flush(core))
    }

    /// Collects everything there is to do since the last call.
    pub fn ready(&mut self) -> Ready {
        if let Role::Leader(leader) = &mut self.role {
            leader.flush(&mut self.core);
        }
        let apply = self.take_apply();
        let core = &mut self.core;
        let write = take_write(core);
        let mut ready = Ready { write, apply, ..Ready::default() };
        if let Some(rare) = core.out.rare_if_any() {
            let durable = core.writes.durable;
            while let Some((_, message)) = rare.held.pop_front_if(|(write, _)| *write <= durable) {
                ready.send.push(message);
            }
            ready.fetch = std::mem::take(&mut rare.fetch);
            ready.snapshots = std::mem::take(&mut rare.snapshots);
            ready.reads = std::mem::take(&mut rare.reads);
            ready.events = std::mem::take(&mut rare.events);
        }
        join(&mut ready.send, std::mem::take(&mut core.out.send));
        core.log.trim(core.config.cache_bytes_max);
        self.release_if_asleep();
        self.debug_check();
        ready
    }

    /// A write has become durable, and with it every earlier one of this group.
    pub fn written(&mut self, ack: WriteAck) {
        let core = &mut self.core;
        if ack.seq <= core.writes.durable || ack.seq > core.writes.issued {
            return;
        }
        core.writes.durable = ack.seq;
        core.writes.stalled_ticks = 0;
        if let Some(last) = ack.last {
            core.log.written(ack.seq, last);
        }
        if matches!(core.install, Install::Writing(write) if write <= ack.seq) {
            core.install = Install::None;
        }
        let own_vote = match &mut self.role {
            Role::Leader(leader) => {
                leader.on_written(core);
                false
            }
            Role::Candidate(tally) => tally.record_own(core),
            Role::Follower | Role::PreCandidate(_) => false,
        };
        if own_vote {
            self.settle_election();
        }
        if self.core.order.is_some() {
            self.follow_order();
        }
        self.debug_check();
    }

    /// The state machine contains everything up to `index`.
    pub fn applied(&mut self, index: Index) {
        self.core.log.applied_to(index);
        if let Role::Leader(leader) = &mut self.role {
            leader.leave_joint(&mut self.core);
            leader.advance_transfer(&mut self.core);
        } else {
            // Votes that were won, or an order to campaign, may have waited for this.
            self.settle_election();
            self.follow_order();
        }
        self.debug_check();
    }

    /// The driver knows from elsewhere that the entry `id` is committed, and applies up to it by itself, from its log, without being
    /// handed the entries. `false`, and nothing changes, where the log here does not have that very entry on disk.
    pub fn bring_to(&mut self, id: LogId) -> bool {
        let log = &mut self.core.log;
        if id.index <= log.applied() {
            return true;
        }
        if !log.holds(id) || id.index > log.stable() {
            return false;
        }
        log.commit_to(id.index);
        if log.handed() < id.index {
            log.hand_out(id.index, 0);
        }
        self.debug_check();
        true
    }

    /// Puts the membership change of the entry at `index` into effect. Called for each applied entry of kind
    /// [`EntryKind::Membership`](crate::EntryKind::Membership), in log order, before [`applied`](Self::applied)
    /// covers its index. A driver whose state machine rejects the change (all members decide alike) does not call
    /// this, only `applied`.
    ///
    /// Returns the membership to be stored along with the applied index, or that a snapshot has overtaken `index` and
    /// nothing may be stored for it.
    ///
    /// # Errors
    /// If the change makes no sense; then the membership stays, on every member alike.
    pub fn apply_change(
        &mut self,
        index: Index,
        change: &MembershipChange,
    ) -> Result<ChangeEffect<'_>, MembershipError> {
        if index <= self.core.log.applied() {
            return Ok(if planted!(OvertakenChangeStored) {
                ChangeEffect::Store(&self.core.membership)
            } else {
                ChangeEffect::Overtaken
            });
        }
        self.core.membership = self.core.membership.after(change)?;
        // A restart has to know that the change is committed: by the old membership alone those who are left may never elect.
        self.core.commit_dirty = true;
        if let Role::Leader(leader) = &mut self.role {
            leader.on_membership(&mut self.core);
        }
        self.leave_office_if_removed();
        self.debug_check();
        Ok(ChangeEffect::Store(&self.core.membership))
    }

    /// The driver has cut its log up to and including `index`, which must be applied durably.
    pub fn compacted(&mut self, index: Index) {
        self.core.log.compact(index);
        self.debug_check();
    }

    /// Answers a [`Fetch`] with entries from the driver's log, or with `None` if they have been cut off.
    pub fn fetched(&mut self, fetch: &Fetch, entries: Option<Vec<Entry>>) {
        if let Role::Leader(leader) = &mut self.role
            && fetch.id.incarnation == self.core.identity.incarnation
            && let Some(member) = leader.member_mut(fetch.to)
        {
            member.fetched(&mut self.core, fetch, entries);
        }
        self.debug_check();
    }

    /// Answers a [`SnapshotWanted`]: the message that announces the snapshot will be in the next [`Ready::send`]; the
    /// data travels by the driver's own means.
    ///
    /// # Errors
    /// If it is of no use any more; the core will ask again if need be.
    pub fn send_snapshot(&mut self, wanted: &SnapshotWanted, snapshot: Snapshot) -> Result<(), Refusal> {
        let (leader, core) = self.leading()?;
        let result = leader.send_snapshot(core, wanted, snapshot);
        self.debug_check();
        result
    }

    /// Says what became of a snapshot that was wanted or being shipped. Late reports are ignored.
    pub fn report_snapshot(&mut self, wanted: &SnapshotWanted, report: SnapshotReport) {
        if let Role::Leader(leader) = &mut self.role
            && wanted.id.incarnation == self.core.identity.incarnation
            && let Some(member) = leader.member_mut(wanted.to)
        {
            member.on_snapshot_report(wanted, report);
        }
        self.debug_check();
    }

    fn appliable(&self) -> Option<(Index, Index)> {
        match self.core.install {
            Install::None => self.core.log.appliable(self.core.config.apply_bytes_max),
            Install::Wanted(_) | Install::Writing(_) => None,
        }
    }

    fn take_apply(&mut self) -> Option<Apply> {
        let (first, upto) = self.appliable()?;
        let log = &mut self.core.log;
        let Some(entries) = log.copy(first, upto, self.core.config.apply_bytes_max) else {
            let last = log.last_outside_memory().min(upto);
            log.hand_out(last, self.core.config.apply_bytes_max);
            return Some(Apply::FromLog { first, last });
        };
        let last = entries.last()?.index;
        log.hand_out(last, entries.iter().map(Entry::bytes).sum());
        Some(Apply::Entries(entries))
    }
}

fn take_write(core: &mut Core) -> Option<Write> {
    let snapshot = match std::mem::take(&mut core.install) {
        Install::Wanted(snapshot) => {
            core.install = Install::Writing(core.next_write());
            Some(snapshot)
        }
        other @ (Install::None | Install::Writing(_)) => {
            core.install = other;
            None
        }
    };
    let entries = core.log.submit();
    if !core.hard_dirty && !core.commit_dirty && snapshot.is_none() && entries.is_empty() {
        hold(core);
        return None;
    }
    core.writes.issued += 1;
    core.writes.hard =
        if core.hard_dirty || snapshot.is_some() { core.writes.issued } else { core.writes.hard };
    core.hard_dirty = false;
    core.commit_dirty = false;
    // The commit index goes along with entries: a restart must not forget that the membership change before a
    // later one was committed.
    let vote = if planted!(VoteNotPersisted) { None } else { core.vote };
    let hard_state = HardState { term: core.term, vote, commit: core.log.committed() };
    Some(Write {
        hard_state,
        ack: WriteAck { seq: core.writes.issued, last: entries.last().map(Entry::id) },
        snapshot,
        entries,
        after: std::mem::take(&mut core.out.after),
    })
}

/// Messages that wait for the disk while this turn has nothing to write: for the write in flight, or not at all.
fn hold(core: &mut Core) {
    let after = std::mem::take(&mut core.out.after);
    if core.writes.durable == core.writes.issued {
        join(&mut core.out.send, after);
    } else if !after.is_empty() {
        let issued = core.writes.issued;
        core.out.rare().held.extend(after.into_iter().map(|message| (issued, message)));
    }
}

/// Adds messages; moves nothing if there are none yet.
fn join(messages: &mut Vec<Message>, more: Vec<Message>) {
    if messages.is_empty() {
        *messages = more;
    } else {
        messages.extend(more);
    }
}
