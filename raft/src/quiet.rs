//! Quiet groups: an idle group neither ticks nor sends.
//!
//! A leader that has had no work for `quiet_after_ticks`, and whose living members all hold, have committed and
//! applied everything, marks its heartbeats *quiet*. A member that agrees goes to sleep with its answer; when all
//! living members have answered one such round, so does the leader. Members that are not heard do not keep the rest
//! awake as long as a quorum is complete; their first message after they return wakes the group.
//!
//! What wakes a sleeping replica:
//! - any message except its leader's quiet heartbeat;
//! - any local request: a proposal, a membership change, a read index, a transfer, a campaign, forgetting the leader;
//! - [`Raft::wake`](crate::Raft::wake), which the driver calls on every group led from a node that its node-level
//!   liveness check has lost, and on all groups after a gap in wall time.
//!
//! While asleep no lease is renewed: the first read after a rest costs a round of heartbeats.

use crate::core::Core;
use crate::leader::Leader;
use crate::progress::Mode;

impl Leader {
    /// Whether nothing is going on anywhere this leader can see.
    pub(crate) fn may_sleep(&self, core: &Core) -> bool {
        let after = core.config.quiet_after_ticks;
        if after == 0 || self.idle_ticks < after || !core.is_at_rest() {
            return false;
        }
        let last = core.log.last();
        let window = core.config.election_ticks;
        let complete = core.membership.reached(|id| self.matched(core, id).0);
        let living_are_complete = self
            .members
            .iter()
            .filter(|member| self.is_heard(core, member.id, window))
            .all(|member| member.matched == last && member.mode == Mode::Replicate);
        complete == last.0
            && living_are_complete
            && self.transfer.is_none()
            && self.reads.is_empty()
            && !core.membership.is_joint()
            && core.membership.contains(core.me())
    }

    /// Goes to sleep if every living member sleeps since the current round.
    pub(crate) fn try_to_sleep(&mut self, core: &mut Core) {
        let (me, window) = (core.me(), core.config.election_ticks);
        let asleep = |id| id == me || self.member(id).is_some_and(|member| member.quiet);
        let living_sleep = self
            .members
            .iter()
            .filter(|member| self.is_heard(core, member.id, window))
            .all(|member| asleep(member.id));
        let quorum_sleeps = core.membership.reached(|id| u64::from(asleep(id))) == 1;
        if living_sleep && quorum_sleeps && self.may_sleep(core) {
            core.asleep = true;
        }
    }
}

/// Gives back the memory that an idle group does not need.
pub(crate) fn release(core: &mut Core, leader: Option<&mut Leader>) {
    core.log.trim(0);
    core.out.release();
    if let Some(leader) = leader {
        leader.reads.release();
    }
}

/// Wakes up with a full wait ahead. Whether it slept.
pub(crate) fn wake(core: &mut Core) -> bool {
    let slept = std::mem::take(&mut core.asleep);
    if slept {
        core.elapsed = 0;
    }
    slept
}
