//! Asking for votes: first without raising the term (thesis, 9.6), then for real (paper, 5.2).
//!
//! A vote request leaves only when the candidate's own term, vote and log are durable: answers to a campaign that a
//! crash erased would otherwise elect the next one, whose log may be shorter.

use crate::core::Core;
use crate::id::NodeId;
use crate::message::{Body, VoteAsk};
use crate::quorum::Verdict;

/// The answers so far. A candidate's own vote counts like any other: once it is durable. A lone voter that led on an
/// unwritten term could, after a crash, lead the same term again with other entries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    votes: Vec<(NodeId, bool)>,
    /// The write that makes its own vote durable; zero for a pre-vote, which needs none.
    own_write: u64,
}

impl Tally {
    /// Notes an answer; the first one of each voter counts.
    pub(crate) fn record(&mut self, from: NodeId, granted: bool) {
        if self.votes.iter().all(|(id, _)| *id != from) {
            self.votes.push((from, granted));
        }
    }

    /// Counts its own vote if it is durable. Returns whether that is news.
    pub(crate) fn record_own(&mut self, core: &Core) -> bool {
        let news =
            core.writes.durable >= self.own_write && !self.votes.iter().any(|(id, _)| *id == core.me());
        if news {
            self.record(core.me(), true);
        }
        news
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
pub(crate) fn ask_pre_votes(core: &mut Core) -> Box<Tally> {
    core.leader = None;
    core.reset_timer();
    let ask = ask(core, None);
    for voter in other_voters(core) {
        core.send_in_term(voter, core.term.next(), Body::PreVote(ask));
    }
    let mut tally = Box::<Tally>::default();
    tally.record(core.me(), true);
    tally
}

/// Raises the term, votes for itself and asks for votes; `forced` carries the old leader's fence.
pub(crate) fn ask_votes(core: &mut Core, forced: Option<u32>) -> Box<Tally> {
    core.leader = None;
    core.reset_timer();
    core.enter_term(core.term.next());
    core.cast_vote(core.me());
    let ask = ask(core, forced);
    for voter in other_voters(core) {
        core.send_durable(voter, Body::Vote(ask));
    }
    Box::new(Tally { votes: Vec::new(), own_write: core.next_write() })
}
