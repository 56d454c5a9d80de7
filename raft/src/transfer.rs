//! Handing leadership to a chosen voter (thesis, 3.10).
//!
//! From the request on the leader refuses proposals and suspends its lease; it brings the target up to date by
//! whatever the target needs and waits until nothing is undecided, then orders it to campaign at once, and repeats the
//! order with its heartbeats in case it was lost. A target that may not campaign yet, because a committed change of membership or a snapshot is still
//! being applied, remembers the order and follows it as soon as it may.
//!
//! The leader gives up after an election timeout, counted from the request. The order to campaign overrides what
//! voters promised to this leader, so an abandoned transfer raises the *fence*: voters, the target among them, that
//! have since promised to the resumed leader refuse the late order.
//!
//! An order is forgotten in a later term, when its leader is heard with a higher fence, and after an election
//! timeout without a repetition.
//!
//! Who asked hears how it ended: by the leader while it leads, and by [`Awaited`] once others decide.

use crate::core::Core;
use crate::error::{Dropped, Refusal};
use crate::id::{NodeId, Term};
use crate::leader::Leader;
use crate::message::Body;
use crate::planted;
use crate::raft::{Raft, Role};
use crate::ready::{Event, GaveUp, TransferOutcome};

/// A transfer in progress, at the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) target: NodeId,
    pub(crate) ticks: u32,
    /// The order to campaign is out.
    pub(crate) ordered: bool,
}

/// An order to campaign that cannot be followed yet. It belongs to the current term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) from: NodeId,
    pub(crate) fence: u32,
    /// Since it was last given.
    ticks: u32,
}

/// A transfer whose end shows in who leads next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Awaited {
    pub(crate) target: NodeId,
    /// The term of the leadership that is to end.
    pub(crate) term: Term,
    ticks: u32,
}

impl Leader {
    /// Starts, replaces or (with this node itself as the target) cancels a transfer.
    pub(crate) fn transfer_to(&mut self, core: &mut Core, target: NodeId) -> Result<(), Refusal> {
        if target == core.me() {
            self.abandon_transfer(core, GaveUp::Cancelled);
            return Ok(());
        }
        let eligible = core.membership.voters.contains(&target)
            || (planted!(TimeoutNowToLearner) && core.membership.learners.contains(&target));
        if !eligible {
            return Err(Refusal::NotVoter);
        }
        if self.transfer.is_some_and(|transfer| transfer.target == target) {
            return Ok(());
        }
        self.abandon_transfer(core, GaveUp::Replaced { by: target });
        self.transfer = Some(Transfer { target, ticks: 0, ordered: false });
        self.idle_ticks = 0;
        let last = core.log.last();
        if let Some(member) = self.member_mut(target)
            && !planted!(TransferWaitsForHeartbeat)
        {
            // A target whose flow has paused is not left waiting for the next heartbeat.
            member.try_again(last, &core.config);
        }
        self.advance_transfer(core);
        Ok(())
    }

    fn target_is_complete(&self, core: &Core, target: NodeId) -> bool {
        self.member(target).is_some_and(|member| member.matched == core.log.last())
    }

    fn order(&self, core: &mut Core, target: NodeId) {
        core.send(target, Body::TimeoutNow { fence: self.reads.fence() });
    }

    /// Orders the campaign as soon as the target holds everything, and everything is committed: who waits for an entry hears then what
    /// has become of it, instead of that another leader decides. Called whenever that may have become true.
    pub(crate) fn advance_transfer(&mut self, core: &mut Core) {
        let Some(transfer) = self.transfer else { return };
        let held_up = planted!(TransferNeedsOwnApply) && core.log.has_change();
        let undecided = core.log.committed() < core.log.last();
        if self.target_is_complete(core, transfer.target) && !transfer.ordered && !held_up && !undecided {
            self.transfer = Some(Transfer { ordered: true, ..transfer });
            self.order(core, transfer.target);
        }
    }

    /// Repeats the order at the pace of heartbeats, and gives up after an election timeout.
    pub(crate) fn tick_transfer(&mut self, core: &mut Core) {
        let Some(transfer) = &mut self.transfer else { return };
        transfer.ticks += 1;
        let transfer = *transfer;
        if transfer.ticks >= core.config.election_ticks {
            let reason = if transfer.ordered { GaveUp::NotElected } else { GaveUp::TargetBehind };
            self.abandon_transfer(core, reason);
        } else if transfer.ordered
            && transfer.ticks.is_multiple_of(core.config.heartbeat_ticks)
            && self.target_is_complete(core, transfer.target)
        {
            self.order(core, transfer.target);
        }
    }

    /// Takes leadership back.
    pub(crate) fn abandon_transfer(&mut self, core: &mut Core, reason: GaveUp) {
        if let Some(transfer) = self.transfer.take() {
            self.reads.raise_fence();
            core.end_transfer(transfer.target, TransferOutcome::GaveUp(reason));
        }
    }

    /// The last words of a leader that goes: what is in flight, the commit index, and an order to campaign for the
    /// target of a transfer, or else for the living voter that holds most.
    pub(crate) fn name_successor(&mut self, core: &mut Core) {
        self.flush(core);
        let chosen = self.transfer.map(|transfer| transfer.target);
        let window = core.config.election_ticks;
        let best = self
            .members
            .iter()
            .filter(|member| core.membership.voters.contains(&member.id))
            .max_by_key(|m| (Some(m.id) == chosen, self.is_heard(core, m.id, window), m.matched))
            .map(|member| member.id);
        if let Some(best) = best {
            self.order(core, best);
        }
    }
}

impl Core {
    /// Says how a transfer ended.
    pub(crate) fn end_transfer(&mut self, target: NodeId, outcome: TransferOutcome) {
        self.out.rare().events.push(Event::Transfer { target, outcome });
    }

    /// From now on others decide how the transfer to `target` ends.
    pub(crate) fn await_transfer(&mut self, target: NodeId) {
        let fresh = Awaited { target, term: self.term, ticks: 0 };
        match &mut self.awaited {
            Some(before) if before.target == target => before.term = self.term,
            Some(before) => {
                let old = std::mem::replace(&mut **before, fresh).target;
                self.end_transfer(old, TransferOutcome::GaveUp(GaveUp::Replaced { by: target }));
            }
            None => self.awaited = Some(Box::new(fresh)),
        }
    }

    /// A leader of this term is known.
    pub(crate) fn settle_awaited(&mut self, leader: NodeId) {
        let term = self.term;
        if let Some(awaited) = self.awaited.take_if(|awaited| awaited.term < term) {
            let outcome = if awaited.target == leader {
                TransferOutcome::Done
            } else {
                TransferOutcome::GaveUp(GaveUp::OtherLeader { leader })
            };
            self.end_transfer(awaited.target, outcome);
        }
    }

    /// Time passes for what is remembered about transfers.
    pub(crate) fn tick_transfer(&mut self) {
        let timeout = self.config.election_ticks;
        self.order.take_if(|order| {
            order.ticks += 1;
            order.ticks >= timeout
        });
        let over = |awaited: &mut Box<Awaited>| {
            awaited.ticks += 1;
            awaited.ticks >= 2 * timeout
        };
        if let Some(awaited) = self.awaited.take_if(over) {
            self.end_transfer(awaited.target, TransferOutcome::GaveUp(GaveUp::NoNewLeader));
        }
    }

    /// The leader is heard with this fence: an order with a lower one belongs to a transfer that it has abandoned.
    pub(crate) fn heard_fence(&mut self, fence: u32) {
        self.order.take_if(|order| order.fence < fence);
    }

    /// Whether an order to campaign may be followed now: as any campaign, and unless this voter has promised its vote
    /// to the leader anew since the order was given.
    fn may_follow(&self, fence: u32) -> bool {
        let promised = self.is_bound() && !self.is_released(self.term.next(), fence);
        self.may_campaign().is_ok() && (!promised || planted!(LateOrderFollowed))
    }

    /// Whether nothing that passes stands between this member and a campaign.
    fn can_never_follow(&self, fence: u32) -> bool {
        let waits = self.log.has_change() || !matches!(self.install, crate::core::Install::None);
        let is_abandoned = self.promise.term == self.term && fence < self.promise.fence;
        is_abandoned || (!self.membership.is_voter(self.me()) && !waits)
    }
}

impl Raft {
    /// "Campaign at once", says the leader of this term.
    pub(crate) fn on_timeout_now(&mut self, from: NodeId, fence: u32) -> Result<(), Dropped> {
        let core = &mut self.core;
        if core.leader.is_some_and(|leader| leader != from) {
            return Err(Dropped::MayNotCampaign);
        }
        let refused = core.can_never_follow(fence) || (planted!(OrderForgotten) && !core.may_follow(fence));
        if refused && !core.may_follow(fence) {
            return Err(Dropped::MayNotCampaign);
        }
        core.order = Some(Box::new(Order { from, fence, ticks: 0 }));
        self.follow_order();
        Ok(())
    }

    /// Campaigns if an order says so and nothing stands in its way any more. Called whenever something may have
    /// gone out of the way.
    pub(crate) fn follow_order(&mut self) {
        if let Some(order) = self.core.order.as_deref()
            && matches!(self.role, Role::Follower)
            && self.core.may_follow(order.fence)
        {
            let fence = order.fence;
            self.start_campaign(Some(fence));
        }
    }
}
