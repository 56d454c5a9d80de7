//! A message arrives: whether it can be honest, which term it is to be read in, and who handles it.

use crate::error::Dropped;
use crate::id::{Index, Term, Time};
use crate::message::{Body, Message, VoteAsk};
use crate::raft::{Raft, Role};
use crate::ready::TransferOutcome;
use crate::{follower, read};

impl Raft {
    /// Takes a message that arrived before `now` was read.
    ///
    /// # Errors
    /// If the message was not acted upon, why: count it and go on.
    pub fn step(&mut self, now: Time, message: Message) -> Result<(), Dropped> {
        self.advance_clock(now);
        self.admit(&message)?;
        self.wake_for(&message);
        self.meet_term(&message)?;
        let result = self.dispatch(message);
        if self.core.order.is_some() {
            self.follow_order();
        }
        self.release_if_asleep();
        self.debug_check();
        result
    }

    /// Refuses what no honest member of this group can have sent to this replica.
    fn admit(&self, message: &Message) -> Result<(), Dropped> {
        let core = &self.core;
        if message.group != core.identity.group {
            return Err(Dropped::WrongGroup);
        }
        if message.to != core.me() {
            return Err(Dropped::WrongRecipient);
        }
        if message.from == core.me() || message.from.0 == 0 {
            return Err(Dropped::ImpossibleSender);
        }
        if message.term >= Term::LIMIT || message.term.0 == 0 && !matches!(message.body, Body::Stale) {
            return Err(Dropped::AbsurdNumber);
        }
        let asks_absurdly = |ask: &VoteAsk| ask.last.term > message.term || ask.last.index >= Index::LIMIT;
        let for_members_only = match &message.body {
            Body::Vote(ask) | Body::PreVote(ask) if asks_absurdly(ask) => return Err(Dropped::AbsurdNumber),
            Body::TransferRequest { .. }
            | Body::PreVoteReply(_)
            | Body::VoteReply(_)
            | Body::AppendReply(_)
            | Body::HeartbeatReply { .. }
            | Body::ReadIndexReply { .. } => true,
            Body::Vote(_)
            | Body::PreVote(_)
            | Body::Append { .. }
            | Body::Heartbeat(_)
            | Body::Snapshot(_)
            | Body::TimeoutNow { .. }
            | Body::ReadIndex { .. }
            | Body::Stale => false,
        };
        if for_members_only && !core.membership.contains(message.from) {
            return Err(Dropped::UnknownSender);
        }
        Ok(())
    }

    fn wake_for(&mut self, message: &Message) {
        let sleepy = match &message.body {
            Body::Heartbeat(beat) => beat.quiet && Some(message.from) == self.core.leader,
            Body::HeartbeatReply { quiet, .. } => *quiet && self.is_leader(),
            Body::PreVote(_)
            | Body::PreVoteReply(_)
            | Body::Vote(_)
            | Body::VoteReply(_)
            | Body::Append { .. }
            | Body::AppendReply(_)
            | Body::Snapshot(_)
            | Body::TransferRequest { .. }
            | Body::TimeoutNow { .. }
            | Body::ReadIndex { .. }
            | Body::ReadIndexReply { .. }
            | Body::Stale => false,
        };
        if self.core.asleep && !(sleepy && message.term == self.core.term) {
            self.wake();
        }
    }

    /// Settles which term the message is to be read in.
    fn meet_term(&mut self, message: &Message) -> Result<(), Dropped> {
        let (term, from) = (message.term, message.from);
        // A voter that hears its leader, or owes it a promise, is deaf to candidates (thesis, 6.2).
        let forced = match &message.body {
            Body::Vote(ask) | Body::PreVote(ask) => (term >= self.core.term).then_some(ask.forced),
            Body::PreVoteReply(_)
            | Body::VoteReply(_)
            | Body::Append { .. }
            | Body::AppendReply(_)
            | Body::Heartbeat(_)
            | Body::HeartbeatReply { .. }
            | Body::Snapshot(_)
            | Body::TransferRequest { .. }
            | Body::TimeoutNow { .. }
            | Body::ReadIndex { .. }
            | Body::ReadIndexReply { .. }
            | Body::Stale => None,
        };
        if let Some(forced) = forced
            && (term > self.core.term || self.core.vote.is_none())
            && self.core.is_loyal(term, forced)
        {
            return Err(Dropped::LeaderAlive);
        }
        if term < self.core.term {
            return self.meet_older_term(message);
        }
        if term > self.core.term {
            let leader = match &message.body {
                Body::PreVote(_) => return Ok(()),
                Body::PreVoteReply(answer) if answer.granted => return Ok(()),
                Body::Append { .. } | Body::Heartbeat(_) | Body::Snapshot(_) => Some(from),
                Body::PreVoteReply(_)
                | Body::Vote(_)
                | Body::VoteReply(_)
                | Body::AppendReply(_)
                | Body::HeartbeatReply { .. }
                | Body::TransferRequest { .. }
                | Body::TimeoutNow { .. }
                | Body::ReadIndex { .. }
                | Body::ReadIndexReply { .. }
                | Body::Stale => None,
            };
            self.become_follower(term, leader);
        } else if message.body.is_from_leader() {
            match (&self.role, self.core.leader) {
                (Role::Leader(_), _) => return Err(Dropped::SecondLeader),
                (_, Some(leader)) if leader != from => return Err(Dropped::SecondLeader),
                (Role::Follower, Some(_)) => {}
                _ => self.become_follower(term, Some(from)),
            }
        }
        Ok(())
    }

    fn meet_older_term(&mut self, message: &Message) -> Result<(), Dropped> {
        match &message.body {
            // Answered as a refusal, so that it counts in the sender's tally.
            Body::PreVote(ask) => {
                let ask = *ask;
                follower::on_pre_vote(&mut self.core, message.from, message.term, ask);
            }
            // What is committed stays committed, whoever says so and however old the term: a removed leader with a
            // longer log refuses every vote, but its refusal is how the last member left learns that it is alone.
            Body::PreVoteReply(answer) | Body::VoteReply(answer) => self.core.learn_commit(answer.commit),
            Body::AppendReply(_)
            | Body::HeartbeatReply { .. }
            | Body::ReadIndexReply { .. }
            | Body::Stale => {}
            // The sender cannot know that the world moved on: a leader of an old term would stay one, a candidate
            // would raise its term one by one.
            Body::Vote(_)
            | Body::Append { .. }
            | Body::Heartbeat(_)
            | Body::Snapshot(_)
            | Body::TransferRequest { .. }
            | Body::TimeoutNow { .. }
            | Body::ReadIndex { .. } => self.core.reply(message.from, Body::Stale),
        }
        Err(Dropped::StaleTerm)
    }

    fn dispatch(&mut self, message: Message) -> Result<(), Dropped> {
        let Message { from, term, body, .. } = message;
        if body.is_from_leader() && !matches!(body, Body::TimeoutNow { .. }) {
            self.core.heard_leader(from);
        }
        let Self { core, role } = self;
        match (body, role) {
            (Body::PreVote(ask), _) => follower::on_pre_vote(core, from, term, ask),
            (Body::Vote(ask), _) => follower::on_vote(core, from, ask),
            (Body::Append { prev, entries, commit }, _) => {
                return follower::on_append(core, from, prev, entries, commit);
            }
            (Body::Heartbeat(beat), _) => return follower::on_heartbeat(core, from, beat),
            (Body::Snapshot(snapshot), _) => return follower::on_snapshot(core, from, snapshot),
            (Body::TimeoutNow { fence }, _) => return self.on_timeout_now(from, fence),
            (Body::PreVoteReply(answer), Role::PreCandidate(tally)) => {
                // A grant speaks about the term we asked for; a refusal about the voter's own.
                if answer.granted && term != core.term.next() {
                    return Err(Dropped::StaleTerm);
                }
                tally.record(from, answer.granted);
                core.learn_commit(answer.commit);
                self.settle_election();
            }
            (Body::VoteReply(answer), Role::Candidate(tally)) => {
                tally.record(from, answer.granted);
                core.learn_commit(answer.commit);
                self.settle_election();
            }
            (Body::AppendReply(outcome), Role::Leader(leader)) => {
                return leader.on_append_reply(core, from, outcome);
            }
            (Body::HeartbeatReply { round, quiet }, Role::Leader(leader)) => {
                return leader.on_heartbeat_reply(core, from, round, quiet);
            }
            (Body::TransferRequest { target }, Role::Leader(leader)) => {
                if let Err(refusal) = leader.transfer_to(core, target) {
                    core.end_transfer(target, TransferOutcome::Refused(refusal));
                    return Err(Dropped::TransferRefused);
                }
            }
            (Body::ReadIndex { id }, Role::Leader(leader)) => leader.read_index(core, from, id),
            (Body::ReadIndex { id }, _) => {
                core.reply(from, Body::ReadIndexReply { id, index: None });
                return Err(Dropped::NotLeader);
            }
            (Body::TransferRequest { .. }, _) => return Err(Dropped::NotLeader),
            (Body::ReadIndexReply { id, index }, _) => return read::on_reply(core, id, index),
            (Body::Stale, _) => {}
            (_, _) => return Err(Dropped::WrongRole),
        }
        Ok(())
    }
}
