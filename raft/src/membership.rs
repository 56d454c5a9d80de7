//! Who belongs to a group, and how that changes.
//!
//! A [`Membership`] is a value. A [`MembershipChange`] travels in an entry of kind
//! [`EntryKind::Membership`](crate::EntryKind::Membership) and becomes effective on each member *when it is applied*,
//! never when it is appended. That is safe because of three rules kept elsewhere in this crate: a leader appends a
//! change only after it has applied every earlier one and committed an entry of its own term; no member campaigns while
//! a committed change waits to be applied; and an entry reaches the disk together with the commit index its sender
//! vouched for, so that a restart cannot forget that the change before it was committed.
//!
//! Invariants of a membership, kept by [`Membership::validate`]:
//! - every list is sorted and free of duplicates and of the reserved id zero;
//! - voters and learners are disjoint; a joint membership has outgoing voters;
//! - `learners_next` are outgoing voters that become learners when the joint state ends;
//! - there is at least one voter, or nothing at all (a replica that does not know its group yet).

use std::fmt;

use crate::entry::Payload;
use crate::id::NodeId;
use crate::quorum::{self, Verdict};

/// The members of a group.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Membership {
    /// The voters (in a joint membership: the coming ones).
    pub voters: Vec<NodeId>,
    /// Members that receive the log but count in no quorum.
    pub learners: Vec<NodeId>,
    /// What is being left, while the membership is joint.
    pub joint: Option<Box<Joint>>,
}

/// The other half of a joint membership.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Joint {
    /// The voters of the membership being left; quorums need a majority here as well.
    pub outgoing: Vec<NodeId>,
    /// Outgoing voters that stay as learners.
    pub learners_next: Vec<NodeId>,
    /// Whether the leader ends the joint state by itself, as soon as it is applied.
    pub auto_leave: bool,
}

/// What a driver stores for an applied change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it says whether anything may be stored"]
pub enum ChangeEffect<'a> {
    /// The membership as of this entry: stored atomically with the entry's index as the applied index.
    Store(&'a Membership),
    /// A snapshot that is on its way into the state machine contains this entry. Nothing is stored for this entry or
    /// any later one of the same [`Apply`](crate::Apply), neither a membership nor an applied index: what the core
    /// knows is the membership at the snapshot's index, and it reaches the disk with the snapshot.
    Overtaken,
}

/// One step of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeStep {
    /// Adds a voter, or promotes a learner. Adding a voter again changes nothing.
    AddVoter(NodeId),
    /// Adds a learner, or demotes a voter.
    AddLearner(NodeId),
    /// Removes a member. Removing a stranger changes nothing.
    Remove(NodeId),
}

/// How a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Transition {
    /// In one step if at most one voter changes, else through a joint state that ends by itself.
    #[default]
    Auto,
    /// Through a joint state that ends by itself.
    Joint,
    /// Through a joint state that lasts until [`MembershipChange::leave_joint`] is proposed.
    JointExplicit,
}

/// A change of membership, as carried by the log.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MembershipChange {
    /// The steps; empty means "leave the joint state".
    pub steps: Vec<ChangeStep>,
    /// How to go there.
    pub transition: Transition,
    /// The driver's own bytes, for example the command that asked for the change.
    pub context: Payload,
}

impl MembershipChange {
    /// A change of one step.
    #[must_use]
    pub fn one(step: ChangeStep) -> Self {
        Self { steps: vec![step], ..Self::default() }
    }

    /// Several steps at once.
    #[must_use]
    pub fn many(steps: Vec<ChangeStep>, transition: Transition) -> Self {
        Self { steps, transition, context: Payload::EMPTY }
    }

    /// The end of a joint state.
    #[must_use]
    pub fn leave_joint() -> Self {
        Self::default()
    }

    /// Encodes for an entry's payload: version (1 byte, value 1), transition (1), number of steps (2, little
    /// endian), per step its kind (1) and node (8, little endian), then the context to the end.
    #[must_use]
    pub fn encode(&self) -> Payload {
        let mut bytes = Vec::with_capacity(4 + 9 * self.steps.len() + self.context.len());
        bytes.push(1);
        bytes.push(self.transition as u8);
        bytes.extend_from_slice(&u16::try_from(self.steps.len()).unwrap_or(u16::MAX).to_le_bytes());
        for step in &self.steps {
            let (kind, node) = match step {
                ChangeStep::AddVoter(node) => (0, node),
                ChangeStep::AddLearner(node) => (1, node),
                ChangeStep::Remove(node) => (2, node),
            };
            bytes.push(kind);
            bytes.extend_from_slice(&node.0.to_le_bytes());
        }
        bytes.extend_from_slice(&self.context);
        Payload::from(bytes)
    }

    /// The inverse of [`encode`](Self::encode); `None` if the bytes are not a change.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_at_checked(4)?;
        let transition = match (head[0], head[1]) {
            (1, 0) => Transition::Auto,
            (1, 1) => Transition::Joint,
            (1, 2) => Transition::JointExplicit,
            _ => return None,
        };
        let count = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let mut steps = Vec::new();
        for _ in 0..count {
            let (step, tail) = rest.split_at_checked(9)?;
            let node = NodeId(u64::from_le_bytes(step[1..].try_into().ok()?));
            steps.push(match step[0] {
                0 => ChangeStep::AddVoter(node),
                1 => ChangeStep::AddLearner(node),
                2 => ChangeStep::Remove(node),
                _ => return None,
            });
            rest = tail;
        }
        Some(Self { steps, transition, context: Payload::from(rest) })
    }
}

/// Why a membership or a change makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipError {
    /// No voter would be left.
    NoVoters,
    /// Node id zero is reserved.
    ReservedId,
    /// A list is unsorted, or lists overlap that must not.
    Malformed,
    /// The membership is joint already: leave it first.
    AlreadyJoint,
    /// There is no joint state to leave.
    NotJoint,
    /// More than 1024 steps.
    TooManySteps,
}

impl fmt::Display for MembershipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoVoters => "no voter would be left: keep at least one",
            Self::ReservedId => "node id 0 is reserved: use another",
            Self::Malformed => "member lists are unsorted or overlap",
            Self::AlreadyJoint => "the membership is joint: leave the joint state first",
            Self::NotJoint => "the membership is not joint: there is nothing to leave",
            Self::TooManySteps => "more than 1024 steps: split the change",
        })
    }
}

impl std::error::Error for MembershipError {}

impl Membership {
    /// A membership of voters only.
    #[must_use]
    pub fn of(voters: impl IntoIterator<Item = NodeId>) -> Self {
        Self::with_learners(voters, [])
    }

    /// A membership of voters and learners.
    #[must_use]
    pub fn with_learners(
        voters: impl IntoIterator<Item = NodeId>,
        learners: impl IntoIterator<Item = NodeId>,
    ) -> Self {
        let mut membership = Self::default();
        voters.into_iter().for_each(|id| insert(&mut membership.voters, id));
        learners.into_iter().for_each(|id| insert(&mut membership.learners, id));
        membership.compacted()
    }

    /// Whether two majorities are needed.
    #[must_use]
    pub const fn is_joint(&self) -> bool {
        self.joint.is_some()
    }

    /// The voters being left; none unless the membership is joint.
    #[must_use]
    pub fn outgoing(&self) -> &[NodeId] {
        self.joint.as_ref().map_or(&[], |joint| &joint.outgoing)
    }

    /// The outgoing voters that stay as learners; none unless the membership is joint.
    #[must_use]
    pub fn learners_next(&self) -> &[NodeId] {
        self.joint.as_ref().map_or(&[], |joint| &joint.learners_next)
    }

    /// Whether the leader is to end a joint state by itself.
    #[must_use]
    pub fn leaves_by_itself(&self) -> bool {
        self.joint.as_ref().is_some_and(|joint| joint.auto_leave)
    }

    /// Whether `id` counts in a quorum.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing().contains(&id)
    }

    /// Whether each half has one voter at most, so that every quorum is all voters.
    #[must_use]
    pub fn needs_everyone(&self) -> bool {
        self.voters.len() <= 1 && self.outgoing().len() <= 1
    }

    /// Whether `id` receives the log.
    #[must_use]
    pub fn contains(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.learners.contains(&id) || self.learners_next().contains(&id)
    }

    /// Whether nothing is known about the group yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty()
    }

    /// Every member once, ascending.
    pub fn members(&self) -> Vec<NodeId> {
        let mut all = self.voters.clone();
        all.extend(self.outgoing().iter().chain(&self.learners).chain(self.learners_next()));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The highest value that a quorum has reached.
    pub fn reached(&self, mut value: impl FnMut(NodeId) -> u64) -> u64 {
        if self.voters.is_empty() {
            return 0;
        }
        let coming = quorum::reached(&self.voters, &mut value);
        match &self.joint {
            None => coming,
            Some(joint) => coming.min(quorum::reached(&joint.outgoing, value)),
        }
    }

    /// The state of a vote.
    pub fn verdict(&self, mut vote: impl FnMut(NodeId) -> Option<bool>) -> Verdict {
        let coming = quorum::verdict(&self.voters, &mut vote);
        match (coming, quorum::verdict(self.outgoing(), vote)) {
            _ if self.voters.is_empty() => Verdict::Lost,
            (Verdict::Lost, _) | (_, Verdict::Lost) => Verdict::Lost,
            (Verdict::Won, Verdict::Won) => Verdict::Won,
            _ => Verdict::Open,
        }
    }

    /// Checks the invariants in the module docs.
    ///
    /// # Errors
    /// The first one that does not hold.
    pub fn validate(&self) -> Result<(), MembershipError> {
        let lists = [&self.voters, self.outgoing(), &self.learners, self.learners_next()];
        if lists.iter().any(|list| list.contains(&NodeId(0))) {
            return Err(MembershipError::ReservedId);
        }
        if lists.iter().any(|list| !list.is_sorted_by(|a, b| a < b)) {
            return Err(MembershipError::Malformed);
        }
        if self.voters.is_empty() && lists.iter().any(|list| !list.is_empty()) {
            return Err(MembershipError::NoVoters);
        }
        let learner_votes = self.learners.iter().any(|id| self.is_voter(*id));
        let is_odd = |id| !self.outgoing().contains(id) || self.voters.contains(id);
        let nothing_to_leave = self.is_joint() && self.outgoing().is_empty();
        if learner_votes || nothing_to_leave || self.learners_next().iter().any(is_odd) {
            return Err(MembershipError::Malformed);
        }
        Ok(())
    }

    /// The membership after `change`.
    ///
    /// # Errors
    /// If the change makes no sense here; then nothing changes, on any member alike.
    pub fn after(&self, change: &MembershipChange) -> Result<Self, MembershipError> {
        if change.steps.is_empty() {
            return self.left();
        }
        if change.steps.len() > 1024 {
            return Err(MembershipError::TooManySteps);
        }
        if self.is_joint() {
            return Err(MembershipError::AlreadyJoint);
        }
        let mut next = self.clone();
        let mut learners_next = Vec::new();
        for step in &change.steps {
            next.take(*step, &self.voters, &mut learners_next)?;
        }
        if next.voters.is_empty() {
            return Err(MembershipError::NoVoters);
        }
        let moved = difference(&self.voters, &next.voters);
        if change.transition == Transition::Auto && moved <= 1 {
            // One majority overlaps the other, so no joint state is needed: demoted voters are learners at once.
            learners_next.into_iter().for_each(|id| insert(&mut next.learners, id));
        } else {
            let auto_leave = change.transition != Transition::JointExplicit;
            next.joint = Some(Box::new(Joint { outgoing: self.voters.clone(), learners_next, auto_leave }));
        }
        next.validate()?;
        Ok(next.compacted())
    }

    fn take(
        &mut self,
        step: ChangeStep,
        current: &[NodeId],
        learners_next: &mut Vec<NodeId>,
    ) -> Result<(), MembershipError> {
        let (ChangeStep::AddVoter(id) | ChangeStep::AddLearner(id) | ChangeStep::Remove(id)) = step;
        if id.0 == 0 {
            return Err(MembershipError::ReservedId);
        }
        for list in [&mut self.voters, &mut self.learners, learners_next] {
            list.retain(|member| *member != id);
        }
        match step {
            ChangeStep::AddVoter(_) => insert(&mut self.voters, id),
            // A voter of the outgoing half cannot be a learner at the same time; it becomes one on leaving.
            ChangeStep::AddLearner(_) if current.contains(&id) => insert(learners_next, id),
            ChangeStep::AddLearner(_) => insert(&mut self.learners, id),
            ChangeStep::Remove(_) => {}
        }
        Ok(())
    }

    fn left(&self) -> Result<Self, MembershipError> {
        let Some(joint) = &self.joint else { return Err(MembershipError::NotJoint) };
        let mut next = Self { voters: self.voters.clone(), learners: self.learners.clone(), joint: None };
        joint.learners_next.iter().for_each(|id| insert(&mut next.learners, *id));
        next.validate()?;
        Ok(next.compacted())
    }

    /// The same without spare memory: memberships live as long as their groups.
    fn compacted(mut self) -> Self {
        self.voters.shrink_to_fit();
        self.learners.shrink_to_fit();
        self
    }

    /// Heap memory in use.
    pub(crate) fn heap_bytes(&self) -> usize {
        let joint = self.joint.as_ref().map_or(0, |joint| {
            size_of::<Joint>()
                + (joint.outgoing.capacity() + joint.learners_next.capacity()) * size_of::<NodeId>()
        });
        joint + (self.voters.capacity() + self.learners.capacity()) * size_of::<NodeId>()
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ids: &[NodeId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        write!(f, "{{{}", list(&self.voters))?;
        for (sign, ids) in
            [("<-", self.outgoing()), ("learn ", &self.learners), ("learn next ", self.learners_next())]
        {
            if !ids.is_empty() {
                write!(f, " {sign}{}", list(ids))?;
            }
        }
        write!(f, "{}}}", if self.leaves_by_itself() { " auto" } else { "" })
    }
}

fn insert(list: &mut Vec<NodeId>, id: NodeId) {
    if let Err(at) = list.binary_search(&id) {
        list.insert(at, id);
    }
}

/// How many ids are in one list and not in the other.
fn difference(a: &[NodeId], b: &[NodeId]) -> usize {
    a.iter().filter(|id| !b.contains(id)).count() + b.iter().filter(|id| !a.contains(id)).count()
}
