//! Operators: what is being done to a region, step by step.
//!
//! An operator belongs to one region and was thought out against one epoch of it. Each report of the region drives it:
//! finished steps are skipped, the next one is sent if it is still safe, and the operator ends when no step is left,
//! when the region has changed in a way that its own steps do not explain, or when its time is over. The same report
//! and the same operator always give the same answer.
//!
//! Invariant: an operator never sends a step that it has not found safe against the very report it answers.

mod build;
mod influence;
pub mod placed;
mod running;
mod safe;
mod step;

use std::fmt;
use std::ops::BitOr;

use crate::change::Change;
use crate::cluster::RegionInfo;
use crate::epoch::Epoch;
use crate::filter::View;
use crate::id::{RegionId, StoreId};
use crate::region::Peer;
use crate::time::Time;

pub(crate) use build::moves;
pub use build::{BuildError, Cause, Ids, Intent, Proposal};
pub use influence::{Delta, Influence};
pub use running::{AddRefusal, Ended, Operators, Status};
pub use safe::Unsafe;
pub use step::{Action, NewRegion, Step};

/// Who had the idea.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// Missing, extra, down, offline and misplaced replicas.
    ReplicaCheck,
    /// Emptying stores that are offline.
    Drain,
    /// Even sizes over stores.
    BalanceRegion,
    /// Even leaders over stores.
    BalanceLeader,
    /// Even load over the stores of a node.
    BalanceCore,
    /// Even load over stores, one hot region at a time.
    HotRegion,
    /// Splitting regions that are too large or too busy.
    SplitCheck,
    /// Moving leaders away from stores that are not to lead.
    EvictLeader,
    /// Spreading a group of regions.
    Scatter,
    /// Splitting at given keys ahead of a load.
    PreSplit,
    /// A person.
    Admin,
    /// Merging small regions with their neighbours.
    MergeCheck,
}

impl Policy {
    /// Every policy. Their places are on disk, so a new one comes last.
    pub const ALL: [Self; 12] = [
        Self::ReplicaCheck,
        Self::Drain,
        Self::BalanceRegion,
        Self::BalanceLeader,
        Self::BalanceCore,
        Self::HotRegion,
        Self::SplitCheck,
        Self::EvictLeader,
        Self::Scatter,
        Self::PreSplit,
        Self::Admin,
        Self::MergeCheck,
    ];

    /// Which operators its own may replace: those of lower priority.
    #[must_use]
    pub const fn priority(self) -> Priority {
        match self {
            Self::BalanceRegion
            | Self::BalanceLeader
            | Self::BalanceCore
            | Self::HotRegion
            | Self::MergeCheck => Priority::Low,
            Self::ReplicaCheck | Self::Drain | Self::SplitCheck | Self::EvictLeader => Priority::Normal,
            Self::Scatter | Self::PreSplit | Self::Admin => Priority::High,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReplicaCheck => "replica-check",
            Self::Drain => "drain",
            Self::BalanceRegion => "balance-region",
            Self::BalanceLeader => "balance-leader",
            Self::BalanceCore => "balance-core",
            Self::HotRegion => "hot-region",
            Self::SplitCheck => "split-check",
            Self::EvictLeader => "evict-leader",
            Self::Scatter => "scatter",
            Self::PreSplit => "pre-split",
            Self::Admin => "admin",
            Self::MergeCheck => "merge-check",
        })
    }
}

/// An operator replaces another one of the same region only if its priority is higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// What would be nicer.
    Low,
    /// What should be repaired.
    Normal,
    /// What a person asked for.
    High,
}

/// What an operator moves; a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kinds(u8);

impl Kinds {
    /// Leadership moves.
    pub const LEADER: Self = Self(1);
    /// Membership changes.
    pub const REGION: Self = Self(2);
    /// It is done for balance.
    pub const BALANCE: Self = Self(4);
    /// It is done to repair replicas.
    pub const REPLICA: Self = Self(8);
    /// The range changes.
    pub const SPLIT: Self = Self(16);
    /// A person asked for it.
    pub const ADMIN: Self = Self(32);
    /// Two regions become one.
    pub const MERGE: Self = Self(64);

    /// Whether all of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn of(policy: Policy, steps: &[Step]) -> Self {
        let mut kinds = match policy {
            Policy::ReplicaCheck | Policy::Drain => Self::REPLICA,
            Policy::BalanceRegion | Policy::BalanceLeader | Policy::BalanceCore | Policy::HotRegion => {
                Self::BALANCE
            }
            Policy::EvictLeader | Policy::SplitCheck | Policy::MergeCheck => Self::default(),
            Policy::Scatter | Policy::PreSplit | Policy::Admin => Self::ADMIN,
        };
        for step in steps {
            kinds = kinds
                | match step {
                    Step::TransferLeader { .. } => Self::LEADER,
                    Step::Split { .. } => Self::SPLIT,
                    Step::Merge { .. } => Self::MERGE,
                    Step::AddPeer { .. }
                    | Step::AddLearner { .. }
                    | Step::AddSibling { .. }
                    | Step::Promote { .. }
                    | Step::Demote { .. }
                    | Step::RemovePeer { .. }
                    | Step::EnterJoint { .. }
                    | Step::LeaveJoint => Self::REGION,
                };
        }
        kinds
    }
}

impl BitOr for Kinds {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Names one operator of one run of the scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperatorId(pub u64);

/// What is being done to a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Its name; given when it is admitted.
    pub id: OperatorId,
    /// The region.
    pub region: RegionId,
    /// The region's epoch when this was thought out.
    pub origin: Epoch,
    /// Who had the idea.
    pub policy: Policy,
    /// What gave rise to it.
    pub cause: Cause,
    /// What it moves.
    pub kinds: Kinds,
    /// What is to be done, in order.
    pub steps: Vec<Step>,
    /// How many steps are finished.
    pub finished: usize,
    /// When it was made.
    pub created: Time,
}

/// What comes of an operator when its region reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// This is to be sent.
    Send(Action),
    /// Nothing to send: the region is at it, or the step must wait for this to pass.
    Wait(Option<Unsafe>),
    /// The operator is over.
    End(Outcome),
}

/// How an operator ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every step is finished.
    Success,
    /// Its time was over.
    Timeout,
    /// It was given up.
    Cancelled(CancelReason),
    /// Another one of higher priority took its place.
    Replaced(OperatorId),
}

impl Outcome {
    /// All names.
    pub const NAMES: [&'static str; 4] = ["success", "timeout", "cancelled", "replaced"];

    /// Its name, for counting.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => Self::NAMES[0],
            Self::Timeout => Self::NAMES[1],
            Self::Cancelled(_) => Self::NAMES[2],
            Self::Replaced(_) => Self::NAMES[3],
        }
    }
}

/// Why an operator was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// The region's membership changed more than the operator's own steps explain.
    Outdated,
    /// The next step would do harm, and waiting does not help.
    Unsafe(Unsafe),
    /// The region is no longer known.
    RegionGone,
    /// The store of the region's leader is silent, and no other leader has reported.
    LeaderSilent(StoreId),
    /// It was asked for.
    Requested,
    /// The leader found no key to split the region at.
    TooLittleData,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("done"),
            Self::Timeout => f.write_str("its time was over"),
            Self::Cancelled(reason) => write!(f, "given up: {reason}"),
            Self::Replaced(by) => write!(f, "operator {} took its place", by.0),
        }
    }
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outdated => f.write_str("the replicas of the region have changed meanwhile"),
            Self::Unsafe(reason) => write!(f, "{reason}"),
            Self::RegionGone => f.write_str("the region is no longer known"),
            Self::LeaderSilent(store) => {
                write!(f, "{store}, which led the region, is silent, and no other leader has reported")
            }
            Self::Requested => f.write_str("it was cancelled"),
            Self::TooLittleData => {
                f.write_str("the region has too little data to find its middle; name the key to split at")
            }
        }
    }
}

impl Operator {
    /// An operator of these steps; [`Operators::add`] names it.
    #[must_use]
    pub fn new(info: &RegionInfo, policy: Policy, cause: Cause, steps: Vec<Step>, now: Time) -> Self {
        let kinds = Kinds::of(policy, &steps);
        let (region, origin) = (info.id(), info.region.epoch);
        Self { id: OperatorId(0), region, origin, policy, cause, kinds, steps, finished: 0, created: now }
    }

    /// The step that is next, if one is left.
    #[must_use]
    pub fn current(&self) -> Option<&Step> {
        self.steps.get(self.finished)
    }

    /// Whether it moves replicas or leadership, and does more than split.
    #[must_use]
    pub fn places(&self) -> bool {
        self.steps.iter().any(|step| !matches!(step, Step::Split { .. }))
    }

    /// Whether the last step that is left is a split which brings this region into being.
    #[must_use]
    pub fn makes(&self, region: RegionId) -> bool {
        let is_last = self.finished + 1 == self.steps.len();
        let Some(Step::Split { keys: _, new }) = self.current().filter(|_| is_last) else { return false };
        new.iter().any(|new| new.region == region)
    }

    /// The region that takes this one in, if that is the last step.
    #[must_use]
    pub fn merges_into(&self) -> Option<RegionId> {
        match self.steps.last() {
            Some(Step::Merge { into, epoch: _ }) => Some(into.id),
            Some(
                Step::TransferLeader { .. }
                | Step::AddPeer { .. }
                | Step::AddLearner { .. }
                | Step::AddSibling { .. }
                | Step::Promote { .. }
                | Step::Demote { .. }
                | Step::RemovePeer { .. }
                | Step::EnterJoint { .. }
                | Step::LeaveJoint
                | Step::Split { .. },
            )
            | None => None,
        }
    }

    /// The regions that it keeps from others.
    pub fn regions(&self) -> impl Iterator<Item = RegionId> {
        std::iter::once(self.region).chain(self.merges_into())
    }

    /// Whether the last step that is left is a merge into this region.
    #[must_use]
    pub fn ends_in(&self, region: RegionId) -> bool {
        self.finished + 1 == self.steps.len() && self.merges_into() == Some(region)
    }

    /// Takes note of what the region shows and answers what comes of it.
    pub fn drive(&mut self, info: &RegionInfo, view: &View<'_>) -> Progress {
        while self.current().is_some_and(|step| step.is_finished(info, self.origin)) {
            self.finished += 1;
        }
        let Some(step) = self.current() else { return Progress::End(Outcome::Success) };
        if self.is_outdated(info) {
            return Progress::End(Outcome::Cancelled(CancelReason::Outdated));
        }
        if self.is_over(view) {
            return Progress::End(Outcome::Timeout);
        }
        if let Some(store) = self.lost_target(info, view) {
            return Progress::End(Outcome::Cancelled(CancelReason::Unsafe(safe::unfit(store, view))));
        }
        match step.check(info, view) {
            Err(reason) if reason.is_passing() => Progress::Wait(Some(reason)),
            Err(reason) => Progress::End(Outcome::Cancelled(CancelReason::Unsafe(reason))),
            Ok(()) => step.action(info).map_or(Progress::Wait(None), Progress::Send),
        }
    }

    /// Whether the time for it is over.
    #[must_use]
    pub fn is_over(&self, view: &View<'_>) -> bool {
        let leader_only = self.steps.iter().all(Step::is_leader_only);
        let config = view.config;
        let limit_ms =
            if leader_only { config.leader_operator_timeout_ms } else { config.region_operator_timeout_ms };
        view.now.ms_since(self.created) > limit_ms
    }

    /// A store that is to have a replica or leadership by this operator and answers no more. Whatever step it is at, it then ends, so that the
    /// policies choose another: what waits for a store that has died waits in vain, and what goes on without it takes a
    /// living replica away for a dead one. A joint configuration is left first, as every operator that finds one would.
    fn lost_target(&self, info: &RegionInfo, view: &View<'_>) -> Option<StoreId> {
        if info.region.is_joint() && self.current() == Some(&Step::LeaveJoint) {
            return None;
        }
        let newcomers = self.steps.iter().filter_map(Step::brings_peer_to);
        let unfit = newcomers.filter(|store| view.may_hold(*store).is_err());
        let open = self.steps.iter().skip(self.finished);
        let heirs = open.filter_map(Step::leads_on).filter(|store| !view.is_live(*store));
        unfit.chain(heirs).next()
    }

    /// How it ends without a report of its region, if it does: its time is over, whom it needs is silent, or where it leads to is.
    #[must_use]
    pub fn ends_unheard(&self, view: &View<'_>) -> Option<Outcome> {
        if self.is_over(view) {
            return Some(Outcome::Timeout);
        }
        let info = view.cluster.region(self.region)?;
        let silent = info.leader_store().filter(|store| !view.is_live(*store));
        let reason = match (silent, self.lost_target(info, view)) {
            (_, Some(store)) => CancelReason::Unsafe(safe::unfit(store, view)),
            (Some(leader), None) => CancelReason::LeaderSilent(leader),
            (None, None) => return None,
        };
        Some(Outcome::Cancelled(reason))
    }

    /// Whether membership has changed more often than finished steps and the current one explain.
    fn is_outdated(&self, info: &RegionInfo) -> bool {
        let begun = self.steps.iter().take(self.finished + 1);
        let own: u64 = begun.map(|step| step.conf_ver_raised(info, self.origin)).sum();
        info.region.epoch.conf_ver > self.origin.conf_ver.saturating_add(own)
    }

    /// Adds what its open steps will still change.
    pub fn add_influence(&self, info: &RegionInfo, weight_bytes: i64, influence: &mut Influence) {
        for step in self.steps.iter().skip(self.finished) {
            step.add_influence(info, weight_bytes, influence);
        }
    }
}

/// A message to the leader of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The region.
    pub region: RegionId,
    /// The epoch that this was thought out against; the region refuses it under another one, per [`crate::epoch`].
    pub epoch: Epoch,
    /// Whom it is for.
    pub leader: Peer,
    /// The operator that it comes from.
    pub operator: OperatorId,
    /// What to do.
    pub action: Action,
}

impl Action {
    /// The line of the epoch table that the action is under.
    #[must_use]
    pub const fn command(&self) -> crate::epoch::Command {
        match self {
            Self::TransferLeader(_) => crate::epoch::Command::TransferLeader,
            Self::Change(change) => Change::command(change),
            Self::Split { .. } => crate::epoch::Command::Split,
            Self::Merge(_) => crate::epoch::Command::PrepareMerge,
        }
    }
}
