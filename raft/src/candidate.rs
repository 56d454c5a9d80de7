//! Asking for votes: first without raising the term (thesis, 9.6), then for real (paper, 5.2).
//!
//! A vote request leaves only when the candidate's own term, vote and log are durable: answers to a campaign that a
//! crash erased would otherwise elect the next one, whose log may be shorter.

use crate::core::Core;
use crate::id::NodeId;
use crate::message::{Body, VoteAsk};
use crate::quorum::Verdict;

/// The answers so far. The candidate's own is among them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    votes: Vec<(NodeId, bool)>,
}

impl Tally {
    /// Notes an answer; the first one of each voter counts.
    pub(crate) fn record(&mut self, from: NodeId, granted: bool) {
        if self.votes.iter().all(|(id, _)| *id != from) {
            self.votes.push((from, granted));
        }
    }

    pub(crate) fn verdict(&self, core: &Core) -> Verdict {
        core.membership
            .verdict(|id| self.votes.iter().find(|(from, _)| *from == id).map(|(_, granted)| *granted))
    }
}

fn ask(core: &Core, forced: Option<u32>) -> VoteAsk {
    VoteAsk {
        last: core.log.last_id(),
        commit: core.log.committed_id(),
        priority: core.identity.priority,
        forced,
    }
}

fn other_voters(core: &Core) -> Vec<NodeId> {
    let mut voters = core.membership.members();
    voters.retain(|id| *id != core.me() && core.membership.is_voter(*id));
    voters
}

/// Asks who would vote, in the term after this one.
pub(crate) fn ask_pre_votes(core: &mut Core) -> Tally {
    core.leader = None;
    core.reset_timer();
    let ask = ask(core, None);
    for voter in other_voters(core) {
        core.send_in_term(voter, core.term.next(), Body::PreVote(ask));
    }
    own_vote(core)
}

/// Raises the term, votes for itself and asks for votes; `forced` carries the old leader's fence.
pub(crate) fn ask_votes(core: &mut Core, forced: Option<u32>) -> Tally {
    core.leader = None;
    core.reset_timer();
    core.enter_term(core.term.next());
    core.cast_vote(core.me());
    let ask = ask(core, forced);
    for voter in other_voters(core) {
        core.send_durable(voter, Body::Vote(ask));
    }
    own_vote(core)
}

fn own_vote(core: &Core) -> Tally {
    let mut tally = Tally::default();
    tally.record(core.me(), true);
    tally
}
