//! What must hold over all replicas, whatever happens. Draws no numbers, so switching it off changes no run.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use raft::{Body, Entry, EntryKind, Index, LogId, Message, NodeId, Raft, RoleKind, Term, Time};

use super::node::{Node, State};

pub(crate) type Verdict = Result<(), String>;

#[derive(Default)]
pub(crate) struct Oracle {
    leaders: BTreeMap<Term, NodeId>,
    votes: HashMap<(Term, NodeId), NodeId>,
    /// Everything ever committed, from index 1: the entry's term, and a term by whose end it was committed.
    committed: Vec<(Term, Term)>,
    /// How far each node's commit index has been compared.
    compared: HashMap<NodeId, Index>,
    /// Every entry that ever existed: what came before it, and its content.
    entries: HashMap<LogId, (Term, u64)>,
    /// The state after each applied index, from index 0.
    states: Vec<State>,
    /// The highest index a client has seen the effect of.
    pub(crate) floor: Index,
    acked: BTreeSet<LogId>,
    /// Where membership changes are.
    changes: BTreeSet<Index>,
    kinds: HashSet<LogId>,
    campaigned: HashSet<(NodeId, Term)>,
    pub(crate) elections: u64,
}

macro_rules! ensure {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(format!($($text)*));
        }
    };
}

impl Oracle {
    /// Looks at one node after something happened to it.
    pub(crate) fn look(&mut self, node: &Node, nodes: &[Node]) -> Verdict {
        let Some(raft) = &node.raft else { return Ok(()) };
        raft.check();
        ensure!(raft.hard_state().term >= node.disk.hard.term, "{}: the term went back", node.id);
        if raft.role() == RoleKind::Leader {
            self.look_at_leader(node)?;
        }
        if raft.role() == RoleKind::Candidate && self.campaigned.insert((node.id, raft.term())) {
            let unapplied = raft.applied_index().next()..=raft.committed();
            ensure!(
                unapplied.is_empty() || self.change_within(raft, unapplied.clone()).is_none(),
                "{} campaigns although a committed change in {unapplied:?} is not applied",
                node.id
            );
        }
        let stable = raft.stable();
        if let (Some(term), Some(_)) = (raft.term_at(stable), raft.term_at(Index(stable.0.wrapping_sub(1)))) {
            let id = LogId { term, index: stable };
            ensure!(node.disk.holds(id), "{} believes that {id} is on its disk", node.id);
        }
        let compared = self.compared.entry(node.id).or_default();
        let committed = raft.committed();
        let from = (*compared).min(committed);
        *compared = committed;
        for index in from.0 + 1..=committed.0 {
            let Some(term) = raft.term_at(Index(index)) else { continue };
            match self.committed.get(index as usize - 1) {
                Some((known, _)) => ensure!(
                    *known == term,
                    "committed twice: {index} in term {known} and, by node {}, in term {term}",
                    node.id
                ),
                None => {
                    ensure!(self.committed.len() as u64 + 1 == index, "a hole before {index}");
                    self.committed.push((term, raft.term()));
                    if raft.is_leader() {
                        durable_on_quorum(node, nodes, LogId { term, index: Index(index) })?;
                    }
                }
            }
        }
        Ok(())
    }

    fn look_at_leader(&mut self, node: &Node) -> Verdict {
        let Some(raft) = &node.raft else { return Ok(()) };
        if let Some(other) = self.leaders.get(&raft.term()) {
            ensure!(*other == node.id, "two leaders in term {}: {} and {other}", raft.term(), node.id);
            return Ok(());
        }
        self.elections += 1;
        ensure!(raft.membership().is_voter(node.id), "{} leads although it is no voter", node.id);
        self.leaders.insert(raft.term(), node.id);
        // Leader completeness: all that was committed in earlier terms is in its log.
        for (at, (term, by)) in self.committed.iter().enumerate() {
            let index = Index(at as u64 + 1);
            let here = raft.term_at(index);
            let below = index <= node.disk.base.index;
            ensure!(
                below || *by >= raft.term() || here == Some(*term),
                "leader {} of term {} lacks committed entry {index} of term {term}",
                node.id,
                raft.term()
            );
        }
        Ok(())
    }

    /// A vote for another candidate in the same term breaks every election.
    pub(crate) fn sent(&mut self, message: &Message) -> Verdict {
        let vote = match &message.body {
            Body::VoteReply(answer) if answer.granted => (message.from, message.to),
            Body::Vote(_) => (message.from, message.from),
            _ => return Ok(()),
        };
        let first = *self.votes.entry((message.term, vote.0)).or_insert(vote.1);
        ensure!(first == vote.1, "{} voted for {first} and {} in term {}", vote.0, vote.1, message.term);
        Ok(())
    }

    /// Log matching, by induction: one entry has one content and one predecessor.
    pub(crate) fn wrote(&mut self, node: &Node, entries: &[Entry], mut before: Term) -> Verdict {
        for entry in entries {
            let content = hash(entry);
            let known = *self.entries.entry(entry.id()).or_insert((before, content));
            ensure!(
                known == (before, content),
                "{}: entry {} has two pasts or two contents: {known:?} and {:?}",
                node.id,
                entry.id(),
                (before, content)
            );
            before = entry.term;
            if entry.kind == EntryKind::Membership {
                self.wrote_change(node, entry)?;
            }
        }
        Ok(())
    }

    /// One change at a time, and on settled ground.
    fn wrote_change(&mut self, node: &Node, entry: &Entry) -> Verdict {
        self.changes.insert(entry.index);
        self.kinds.insert(entry.id());
        let Some(raft) = node.raft.as_ref().filter(|raft| raft.is_leader() && raft.term() == entry.term)
        else {
            return Ok(());
        };
        let earlier = raft.applied_index().next()..=entry.index.prev();
        let pending = if earlier.is_empty() { None } else { self.change_within(raft, earlier) };
        ensure!(
            pending.is_none(),
            "{} appended a change at {} while {pending:?} is pending",
            node.id,
            entry.index
        );
        ensure!(
            raft.term_at(raft.committed()) == Some(raft.term()),
            "{} appended a change at {} before it committed in its term",
            node.id,
            entry.index
        );
        Ok(())
    }

    /// A change in the node's own log within a range of indexes.
    fn change_within(&self, raft: &Raft, range: std::ops::RangeInclusive<Index>) -> Option<Index> {
        let is_change = |index: &Index| {
            let term = raft.term_at(*index)?;
            self.kinds.contains(&LogId { term, index: *index }).then_some(*index)
        };
        self.changes.range(range).find_map(is_change)
    }

    /// State machine safety: all that ever applied an index, here or before a crash, agree on the data and on the
    /// membership.
    pub(crate) fn holds_state(&mut self, id: NodeId, state: &State) -> Verdict {
        if state.membership.is_empty() {
            // A replica that knows nothing of its group yet.
            return Ok(());
        }
        let at = state.last.index.0 as usize;
        match self.states.get(at) {
            Some(known) => ensure!(
                known == state,
                "{id} has another state at {} than others: {state:?} instead of {known:?}",
                state.last
            ),
            None => {
                ensure!(self.states.len() == at, "{id} applied {} too early", state.last);
                self.states.push(state.clone());
            }
        }
        Ok(())
    }

    /// A request for a snapshot costs a copy of everything: only for a member that the log cannot serve.
    pub(crate) fn wants_snapshot(&self, leader: &Raft, to: NodeId, now: Time) -> Verdict {
        let status = leader.status(now);
        let member = status.members.iter().find(|member| member.id == to);
        let served = member.is_some_and(|m| m.matched > Index(0) && m.matched >= status.base.index);
        ensure!(!served, "{} wants a needless snapshot for {to}: {member:?} base {}", status.id, status.base);
        Ok(())
    }

    /// A client was answered that its write is done.
    pub(crate) fn acked(&mut self, id: LogId) {
        self.acked.insert(id);
        self.floor = self.floor.max(id.index);
    }

    /// A read is served: it must see what anybody saw before it was asked.
    pub(crate) fn read(&mut self, node: NodeId, kind: &str, floor: Index, index: Index) -> Verdict {
        ensure!(
            index >= floor,
            "stale {kind} read at node {node}: index {index}, but {floor} was seen before"
        );
        self.floor = self.floor.max(index);
        Ok(())
    }

    /// While a lease holds no other member can have been elected.
    pub(crate) fn lease(&self, leader: &Raft, nodes: &[Node]) -> Verdict {
        let rival = nodes
            .iter()
            .filter_map(|node| node.raft.as_ref())
            .find(|other| other.is_leader() && other.term() > leader.term());
        ensure!(
            rival.is_none(),
            "{} holds a lease in term {} although another leads term {:?}",
            leader.id(),
            leader.term(),
            rival.map(Raft::term)
        );
        Ok(())
    }

    /// At the end nothing acknowledged is missing.
    pub(crate) fn finish(&self) -> Verdict {
        for id in &self.acked {
            let found = self.states.get(id.index.0 as usize).map(|state| state.last.term);
            ensure!(found == Some(id.term), "the acknowledged write {id} is lost: {found:?} is there");
        }
        Ok(())
    }

    /// A transfer is reported as done only if its target was elected.
    pub(crate) fn has_led(&self, target: NodeId) -> Verdict {
        ensure!(self.leaders.values().any(|leader| *leader == target), "{target} never led");
        Ok(())
    }

    pub(crate) fn acked_count(&self) -> usize {
        self.acked.len()
    }

    pub(crate) fn last_committed(&self) -> Index {
        Index(self.committed.len() as u64)
    }
}

/// A leader may call committed only what a quorum of its voters could not lose.
fn durable_on_quorum(leader: &Node, nodes: &[Node], id: LogId) -> Verdict {
    let Some(raft) = &leader.raft else { return Ok(()) };
    let membership = raft.membership();
    for half in [&membership.voters[..], membership.outgoing()] {
        let on_disk = half.iter().filter(|voter| {
            nodes.iter().any(|node| node.id == **voter && node.disk.holds(id))
                || (leader.id == **voter && leader.disk.holds(id))
        });
        let count = on_disk.count();
        ensure!(
            half.is_empty() || count >= raft::majority(half.len()),
            "leader {} committed {id} that only {count} of {} voters have on disk",
            leader.id,
            half.len()
        );
    }
    Ok(())
}

fn hash(entry: &Entry) -> u64 {
    let mut hash = entry.kind as u64 ^ 0xcbf2_9ce4_8422_2325;
    for byte in entry.payload.iter() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}
