//! Which of the scheduler's instructions a store can carry out.
//!
//! An instruction asks a region's leader to take one step of an operator. Transfers of leadership, changes of membership and splits go to
//! the leader with the answer to its report ([`reports`](super::reports)). Relocations do not exist in `store` yet, so each is
//! refused here: it is counted, said once, and its operator ends instead of waiting for its timeout. The policies
//! whose every step would be refused are disabled in [`super::initial_config`], and so is the one that splits regions by itself; what
//! arrives here comes from the others.

use std::cell::Cell;

use scheduler::{Action, Change, Instruction, Policy};

/// Policies that propose steps which no store can take yet, and the one that splits regions by itself, which `region_max_bytes` enables.
pub(super) const UNSERVED: [Policy; 4] =
    [Policy::BalanceRegion, Policy::BalanceCore, Policy::HotRegion, Policy::SplitCheck];

/// Instructions that were refused, by kind.
#[derive(Debug, Default)]
pub(super) struct Orders {
    relocations: Cell<u64>,
}

impl Orders {
    /// Whether a store can carry an instruction out. The operator of one that is refused should be cancelled.
    pub(super) fn is_served(&self, instruction: &Instruction) -> bool {
        match &instruction.action {
            Action::Change(Change::Relocate { peer: _, to: _ }) => {}
            Action::TransferLeader(_)
            | Action::Split { keys: _, new: _ }
            | Action::Change(
                Change::AddVoter { .. }
                | Change::AddLearner { .. }
                | Change::Promote { .. }
                | Change::Demote { .. }
                | Change::Remove { .. }
                | Change::EnterJoint { .. }
                | Change::LeaveJoint,
            ) => return true,
        }
        if self.relocations.replace(self.relocations.get() + 1) == 0 {
            tracing::info!(
                kind = "relocation",
                region = instruction.region.0,
                "the scheduler proposed a step that is not implemented yet"
            );
        }
        false
    }

    /// How many instructions were refused.
    pub(super) fn refused(&self) -> u64 {
        self.relocations.get()
    }
}
