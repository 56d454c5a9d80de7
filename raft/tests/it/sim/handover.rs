//! The last act of a run: a healthy group hands leadership on while its members still apply a change of membership.
//! Nothing fails any more, so the target has to lead, and soon.

use raft::{ChangeStep, MembershipChange, Raft};

use super::options::{TICK, UNIT};
use super::oracle::Verdict;
use super::world::World;

impl World {
    /// Runs the hand-over.
    ///
    /// # Errors
    /// What did not happen.
    pub(super) fn hand_over(&mut self) -> Verdict {
        // A quick network: the leader gives up after as little as five ticks.
        (self.options.delay_max, self.options.write_max, self.options.apply_max) = (2, 1, 2);
        // A voter that has restarted does not know which orders it may follow before its old promise ends.
        self.pass(2 * self.options.config.promise_nanos() / UNIT)?;
        // What was said while everything failed could still cancel a transfer or start an election.
        let fresh = self.now + 2 * self.options.delay_max;
        self.net.retain(|(due, _), _| *due <= fresh);
        self.pass(50)?;
        let deadline = self.now + 5000;
        while !self.converged() {
            if self.now > deadline {
                return Err(format!("no progress: {}", self.describe()));
            }
            self.pass(50)?;
        }
        let Some(leader) = self.leader() else { return Err("the leader is gone".to_owned()) };
        let members = self.nodes[leader].raft.as_ref().expect("a leader").membership().clone();
        let others: Vec<_> = members.members().into_iter().filter(|id| id.0 as usize - 1 != leader).collect();
        if others.is_empty() {
            return Ok(());
        }
        let target = *self.rng.pick(&others);
        let at = target.0 as usize - 1;
        let hangs = members.is_voter(target) && self.rng.chance(500);
        let slow = if hangs { leader } else { at };
        self.nodes[slow].hang_until = self.now + if hangs { 40 * TICK } else { 3 * TICK };
        // For a voter this changes nothing, but it is a change all the same.
        let change = MembershipChange::one(ChangeStep::AddVoter(target));
        let proposed = self.nodes[leader].raft.as_mut().expect("a leader").propose_change(&change);
        let index = proposed.map_err(|refusal| format!("the change: {refusal}"))?.index;
        self.settle(leader);
        // Either the leader's own apply hangs on the change, or it is ahead of the target's.
        self.advance_until(2 * TICK, |world| hangs || world.nodes[leader].state.last.index >= index)?;
        self.transfer(leader, target);
        self.settle(leader);
        self.nodes[at].hang_until = self.nodes[at].hang_until.min(self.now + 2 * TICK);
        let within = u64::from(self.options.config.election_ticks) * TICK;
        self.advance_until(within, |world| world.leads(at))?;
        self.advance_until(within, |world| world.nodes[leader].transfers.is_empty())?;
        self.coverage.handovers += 1;
        self.resign_at(at)
    }

    /// The new leader steps down, and names a successor that has yet to apply a change: it hears the order only once.
    fn resign_at(&mut self, at: usize) -> Verdict {
        for node in &mut self.nodes {
            node.apply_soon(self.now);
        }
        self.advance_until(50 * TICK, |world| {
            let status = world.nodes[at].raft.as_ref().map(|raft| raft.status(raft::Time(0)));
            status.is_some_and(|s| {
                s.applied == s.last.index && s.members.iter().all(|m| m.matched == s.applied)
            })
        })?;
        let id = self.nodes[at].id;
        let change = MembershipChange::one(ChangeStep::AddVoter(id));
        let proposed = self.nodes[at].raft.as_mut().expect("a leader").propose_change(&change);
        let index = proposed.map_err(|refusal| format!("the change: {refusal}"))?.index;
        for node in self.nodes.iter_mut().filter(|node| node.id != id) {
            node.hang_until = self.now + 2 * TICK;
        }
        self.settle(at);
        self.advance_until(2 * TICK, |world| world.nodes[at].state.last.index >= index)?;
        self.resign(at);
        self.settle(at);
        self.advance_until(3 * TICK, |world| {
            (0..world.nodes.len()).any(|other| other != at && world.leads(other))
        })
    }

    fn leads(&self, at: usize) -> bool {
        self.nodes[at].raft.as_ref().is_some_and(Raft::is_leader)
    }

    /// Lets time pass.
    fn pass(&mut self, units: u64) -> Verdict {
        for _ in 0..units {
            self.advance();
            self.failure.clone()?;
        }
        Ok(())
    }

    /// Lets time pass until something is so.
    fn advance_until(&mut self, within: u64, done: impl Fn(&Self) -> bool) -> Verdict {
        let deadline = self.now + within;
        while !done(self) {
            if self.now > deadline {
                return Err(format!("not within {within}: {}", self.describe()));
            }
            self.advance();
            self.failure.clone()?;
        }
        Ok(())
    }
}
