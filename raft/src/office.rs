//! Changes of role. Nothing else in the crate assigns one.

use crate::candidate;
use crate::core::Promise;
use crate::error::Refusal;
use crate::id::{NodeId, Term};
use crate::leader::Leader;
use crate::planted;
use crate::quorum::Verdict;
use crate::raft::{Raft, Role};
use crate::read;

impl Raft {
    pub(crate) fn time_out(&mut self) {
        match self.core.may_campaign() {
            Err(Refusal::NotVoter) => self.core.say_it_lives(),
            // Look again next tick: what stands in the way passes.
            Err(Refusal::MayNotCampaign) => {}
            Err(other) => unreachable!("a campaign is not refused with {other:?}"),
            Ok(()) if self.core.is_bound() => {}
            Ok(()) => self.start_campaign(None),
        }
    }

    /// `forced` carries the fence of the leader that ordered the campaign, and skips the pre-vote.
    pub(crate) fn start_campaign(&mut self, forced: Option<u32>) {
        self.end_role();
        self.core.order = None;
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
            Role::Follower | Role::Leader(_) => return,
        };
        match (verdict, &self.role) {
            (Verdict::Open, _) => {}
            (Verdict::Lost, _) => self.become_follower(self.core.term, None),
            // An answer may have taught us that a membership change is committed: apply it before trying again.
            (Verdict::Won, _) if let Err(reason) = self.core.may_campaign() => {
                // What passes is waited for: the votes stay good, and `applied` looks again.
                if reason != Refusal::MayNotCampaign {
                    self.become_follower(self.core.term, None);
                }
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
        // Whoever votes for a leader was released by the one before, or has waited for it: nothing is owed to it now.
        core.promise = Promise::default();
        core.settle_awaited(core.me());
        self.role = Role::Leader(Box::new(Leader::new(core)));
    }

    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        // A candidate that raises the term proves nothing about the leader: a member that neither led nor hears a new
        // leader waits on as before. The timer restarts when a vote is given.
        let waits_on = term > self.core.term
            && leader.is_none()
            && !self.is_leader()
            && !planted!(HigherTermRestartsTimer);
        self.end_role();
        self.role = Role::Follower;
        let is_new_term = term > self.core.term;
        if !planted!(OrderSurvivesTerm) {
            self.core.order.take_if(|order| is_new_term || leader != Some(order.from));
        }
        self.core.enter_term(term);
        self.core.leader = leader;
        if !waits_on {
            self.core.reset_timer();
        }
    }

    /// Ends whatever this replica owed to others in its present role, or expected from its leader.
    pub(crate) fn end_role(&mut self) {
        if let Role::Leader(leader) = &mut self.role {
            if let Some(transfer) = leader.transfer.take() {
                self.core.await_transfer(transfer.target);
            }
            leader.reads.fail_own(&mut self.core);
        }
        read::fail_waiting(&mut self.core);
    }

    /// A leader that removed itself reports to the others how far things are committed, names the best voter its
    /// successor, and leaves.
    pub(crate) fn leave_office_if_removed(&mut self) {
        let Self { core, role: Role::Leader(leader) } = self else { return };
        if core.membership.is_voter(core.me()) || core.membership.is_joint() {
            return;
        }
        leader.name_successor(core);
        self.become_follower(self.core.term, None);
    }
}
