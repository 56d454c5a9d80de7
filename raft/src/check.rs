//! The stated invariants of a replica, asserted. Debug builds and the feature `checks` run them after every input; tests in other
//! builds call [`Raft::check`] themselves.

use crate::raft::{Raft, Role};

impl Raft {
    /// Asserts every invariant that one replica can see by itself.
    ///
    /// # Panics
    /// If one does not hold: that is a bug in this crate or a driver that broke its contract.
    pub fn check(&self) {
        let core = &self.core;
        core.log.check();
        assert!(core.term >= core.log.last_id().term, "the log is ahead of the term");
        assert!(core.writes.durable <= core.writes.issued, "more writes durable than issued");
        assert!(core.membership.validate().is_ok(), "malformed membership {}", core.membership);
        let is_follower = matches!(self.role, Role::Follower);
        assert!(core.order.is_none() || is_follower, "an order kept by {:?}", self.role());
        if let Some(order) = &core.order {
            assert!(core.leader.is_none_or(|leader| leader == order.from), "an order of another leader");
        }
        if let Some(awaited) = &core.awaited {
            assert!(awaited.term <= core.term, "a transfer of a term to come");
        }
        match &self.role {
            Role::Leader(leader) => {
                assert!(core.awaited.is_none(), "a leader that awaits another");
                assert_eq!(core.leader, Some(core.me()), "a leader that follows another");
                assert!(core.reads.is_empty(), "a leader that asks a leader");
                assert!(leader.term_start <= core.log.last(), "the term has no entry");
                let mut others = core.membership.members();
                others.retain(|id| *id != core.me());
                assert!(
                    leader.members.iter().map(|m| m.id).eq(others),
                    "a leader that lost sight of members"
                );
                for member in &leader.members {
                    member.check(core.log.last());
                }
                let log = &core.log;
                let uncommitted = log.payload_bytes(log.committed(), log.last(), core.term);
                assert_eq!(leader.uncommitted_bytes, uncommitted, "uncommitted bytes");
            }
            Role::Candidate(_) => {
                assert_eq!(core.leader, None, "a candidate with a leader");
                assert_eq!(core.vote, Some(core.me()), "a candidate that voted for another");
            }
            Role::PreCandidate(_) => assert_eq!(core.leader, None, "a pre-candidate with a leader"),
            Role::Follower => assert!(core.leader != Some(core.me()), "a follower of itself"),
        }
    }

    pub(crate) fn debug_check(&self) {
        if cfg!(any(debug_assertions, feature = "checks")) {
            self.check();
        }
    }
}
