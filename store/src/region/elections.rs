//! What a replica has seen of elections since its effects were last taken: those that it began, those that it won, and how often the
//! leader that it knows became another one.
//!
//! An election begins when the replica asks for votes in a term of its own; asking whether there would be votes (a pre-vote) is none. A
//! leader that is elected again in a later term is another leader. The first leader that a replica hears of after its start is none.

use raft::{NodeId, RoleKind, Term};

use super::replica::Replica;

/// Counts of one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Elections {
    /// Campaigns begun here.
    pub started: u64,
    /// Campaigns won here.
    pub won: u64,
    /// Times that another leader took the place of one that was known.
    pub leader_changes: u64,
}

impl Elections {
    /// Whether there is nothing to count.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What a replica remembers to distinguish one election from another.
#[derive(Debug, Default)]
pub(super) struct Watch {
    counts: Elections,
    campaigned: Option<Term>,
    won: Option<Term>,
    leader: Option<(Term, NodeId)>,
}

impl Watch {
    fn see(&mut self, role: RoleKind, term: Term, leader: Option<NodeId>) {
        match role {
            RoleKind::Follower | RoleKind::PreCandidate => {}
            RoleKind::Candidate | RoleKind::Leader => {
                self.counts.started += u64::from(self.campaigned.replace(term) != Some(term));
            }
        }
        if role == RoleKind::Leader {
            self.counts.won += u64::from(self.won.replace(term) != Some(term));
        }
        if let Some(leader) = leader {
            let known = self.leader.replace((term, leader));
            self.counts.leader_changes += u64::from(known.is_some_and(|known| known != (term, leader)));
        }
    }
}

impl<W, R> Replica<W, R> {
    /// Looks at the core after an input that may have moved it.
    pub(super) fn watch_elections(&mut self) {
        self.elections.see(self.raft.role(), self.raft.term(), self.raft.leader());
    }

    /// What was counted since this was last called.
    pub fn take_elections(&mut self) -> Elections {
        std::mem::take(&mut self.elections.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_election_counts_once_however_often_it_is_seen() {
        let mut watch = Watch::default();
        let (me, other) = (NodeId(1), NodeId(2));
        watch.see(RoleKind::PreCandidate, Term(1), None);
        assert!(watch.counts.is_none(), "a pre-vote begins nothing");
        for _ in 0..3 {
            watch.see(RoleKind::Candidate, Term(2), None);
        }
        watch.see(RoleKind::Follower, Term(3), Some(other));
        watch.see(RoleKind::Candidate, Term(4), None);
        for _ in 0..3 {
            watch.see(RoleKind::Leader, Term(4), Some(me));
        }
        assert_eq!(watch.counts, Elections { started: 2, won: 1, leader_changes: 1 });
        // A sole voter is elected within one call.
        watch.see(RoleKind::Leader, Term(5), Some(me));
        assert_eq!(watch.counts, Elections { started: 3, won: 2, leader_changes: 2 });
    }
}
