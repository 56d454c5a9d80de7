//! Changes of role. Nothing else in the crate assigns one.

use crate::candidate;
use crate::id::{NodeId, Term};
use crate::leader::Leader;
use crate::message::Body;
use crate::quorum::Verdict;
use crate::raft::{Raft, Role};
use crate::read;

impl Raft {
    pub(crate) fn time_out(&mut self) {
        if self.core.may_campaign().is_err() || self.core.is_bound() {
            // Look again next tick: what stands in the way passes.
            return;
        }
        self.start_campaign(None);
    }

    /// `forced` carries the fence of the leader that ordered the campaign, and skips the pre-vote.
    pub(crate) fn start_campaign(&mut self, forced: Option<u32>) {
        self.resign();
        self.role = if self.core.config.pre_vote && forced.is_none() {
            Role::PreCandidate(candidate::ask_pre_votes(&mut self.core))
        } else {
            Role::Candidate(candidate::ask_votes(&mut self.core, forced))
        };
        self.settle_election();
    }

    /// Sees whether the votes so far decide anything.
    pub(crate) fn settle_election(&mut self) {
        let verdict = match &self.role {
            Role::PreCandidate(tally) | Role::Candidate(tally) => tally.verdict(&self.core),
            _ => return,
        };
        match (verdict, &self.role) {
            (Verdict::Open, _) => {}
            (Verdict::Lost, _) => self.become_follower(self.core.term, None),
            // An answer may have taught us that a membership change is committed: apply it before trying again.
            (Verdict::Won, _) if self.core.may_campaign().is_err() => {
                self.become_follower(self.core.term, None)
            }
            (Verdict::Won, Role::PreCandidate(_)) => {
                self.role = Role::Candidate(candidate::ask_votes(&mut self.core, None));
                self.settle_election();
            }
            (Verdict::Won, _) => self.become_leader(),
        }
    }

    pub(crate) fn become_leader(&mut self) {
        let core = &mut self.core;
        core.leader = Some(core.me());
        core.elapsed = 0;
        core.writes.stalled_ticks = 0;
        self.role = Role::Leader(Box::new(Leader::new(core)));
    }

    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        self.resign();
        self.role = Role::Follower;
        self.core.enter_term(term);
        self.core.leader = leader;
        self.core.reset_timer();
    }

    /// Ends whatever this replica owed to others in its present role, or expected from its leader.
    pub(crate) fn resign(&mut self) {
        if let Role::Leader(leader) = &mut self.role {
            leader.reads.fail_own(&mut self.core);
        }
        read::fail_waiting(&mut self.core);
    }

    /// A leader that removed itself tells the others how far things are committed, names the best voter its
    /// successor, and leaves.
    pub(crate) fn leave_office_if_removed(&mut self) {
        let Self { core, role: Role::Leader(leader) } = self else { return };
        if core.membership.is_voter(core.me()) || core.membership.is_joint() {
            return;
        }
        leader.flush(core);
        let best = leader.members.iter().filter(|m| core.membership.voters.contains(&m.id));
        if let Some(best) = best.max_by_key(|member| member.matched) {
            core.send(best.id, Body::TimeoutNow { fence: leader.reads.fence() });
        }
        self.become_follower(self.core.term, None);
    }
}
