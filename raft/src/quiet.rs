//! Quiet groups: an idle group neither ticks nor sends.
//!
//! A leader that has had no work for `quiet_after_ticks`, and whose members all are heard, hold, have committed and
//! applied everything, marks its heartbeats *quiet*. A member that agrees goes to sleep with its answer; when all
//! members have answered one such round, so does the leader. A member that is not heard keeps the group awake: only a
//! leader that is awake notices how long it has been silent, and brings it what it lacks when it returns.
//!
//! What wakes a sleeping replica:
//! - any message except its leader's quiet heartbeat;
//! - any local request: a proposal, a membership change, a read index, a transfer, a campaign, forgetting the leader;
//! - [`Raft::suspect_leader`](crate::Raft::suspect_leader), which the driver calls on the members of every group led from a node that
//!   its node-level liveness check has lost;
//! - [`Raft::wake`](crate::Raft::wake), which it calls on the leader of every group with a member on such a node, on both where a
//!   connection to a node was lost and with it whatever was in flight, and on all groups after a gap in time.
//!
//! A driver that wants to be sure now and then that nothing was missed has the leader [speak up](crate::Raft::speak_up): one round of quiet
//! heartbeats, which no member that has nothing to do wakes for.
//!
//! Sleep is about liveness alone. What keeps a group safe needs no tick: terms, votes, and the promises that leases rest on, which end
//! by the clock. While asleep no lease is renewed: the first read after a rest costs a round of heartbeats.

use crate::core::Core;
use crate::leader::Leader;
use crate::progress::{Mode, Progress};

impl Leader {
    /// Whether nothing is going on anywhere this leader can see.
    pub(crate) fn may_sleep(&self, core: &Core) -> bool {
        let after = core.config.quiet_after_ticks;
        if after == 0 || self.idle_ticks < after || !core.is_at_rest() {
            return false;
        }
        let last = core.log.last();
        let window = core.config.election_ticks;
        let is_complete = |member: &Progress| {
            let heard = self.is_heard(core, member.id, window);
            heard && member.matched == last && member.mode == Mode::Replicate
        };
        self.members.iter().all(is_complete)
            && self.transfer.is_none()
            && self.reads.is_empty()
            && !core.membership.is_joint()
            && core.membership.contains(core.me())
    }

    /// Goes to sleep if every member sleeps since the current round.
    pub(crate) fn try_to_sleep(&mut self, core: &mut Core) {
        if self.members.iter().all(|member| member.quiet) && self.may_sleep(core) {
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
