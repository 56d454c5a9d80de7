//! Handing leadership to a chosen voter (thesis, 3.10).
//!
//! From the request on the leader refuses proposals and suspends its lease; it brings the target up to date by
//! whatever the target needs, then tells it to campaign at once. It gives up after an election timeout, counted from
//! the request. The order to campaign overrides what voters promised to this leader, so an abandoned transfer raises
//! the *fence*: voters that have since promised to the resumed leader refuse the late order.

use crate::core::Core;
use crate::error::Refusal;
use crate::id::NodeId;
use crate::leader::Leader;
use crate::message::Body;
use crate::planted;

/// A transfer under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) target: NodeId,
    pub(crate) ticks: u32,
    /// The order to campaign is out.
    pub(crate) ordered: bool,
}

impl Leader {
    /// Starts, replaces or (with this node itself as the target) cancels a transfer.
    pub(crate) fn transfer_to(&mut self, core: &mut Core, target: NodeId) -> Result<(), Refusal> {
        if target == core.me() {
            self.abandon_transfer();
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
        self.abandon_transfer();
        self.transfer = Some(Transfer { target, ticks: 0, ordered: false });
        self.idle_ticks = 0;
        self.advance_transfer(core);
        Ok(())
    }

    /// Orders the campaign as soon as the target holds everything. Called whenever that may have become true.
    pub(crate) fn advance_transfer(&mut self, core: &mut Core) {
        let Some(transfer) = self.transfer else { return };
        let complete = self.member(transfer.target).is_some_and(|member| member.matched == core.log.last());
        // A target that still has to apply a membership change would refuse the order.
        if complete && !transfer.ordered && !core.log.has_change() {
            self.transfer = Some(Transfer { ordered: true, ..transfer });
            core.send(transfer.target, Body::TimeoutNow { fence: self.reads.fence() });
        }
    }

    /// Gives up after an election timeout.
    pub(crate) fn tick_transfer(&mut self, core: &mut Core) {
        let Some(transfer) = &mut self.transfer else { return };
        transfer.ticks += 1;
        if transfer.ticks >= core.config.election_ticks {
            self.abandon_transfer();
        }
    }

    /// Takes leadership back.
    pub(crate) fn abandon_transfer(&mut self) {
        if self.transfer.take().is_some() {
            self.reads.raise_fence();
        }
    }
}
