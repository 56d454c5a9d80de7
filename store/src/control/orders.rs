//! What becomes of the scheduler's instructions on this node.
//!
//! An instruction asks a region's leader to take one step of an operator. None of the steps exists in `store` yet, so each is
//! refused here: it is counted, said once per kind, and its operator ends instead of waiting for its timeout. The policies
//! whose every step would be refused are disabled in [`super::initial_config`]; what arrives here comes from the others.

use std::cell::Cell;

use scheduler::{Action, Change, Instruction, Policy};

/// Policies that can propose nothing but steps which no store can take yet.
pub(super) const UNSERVED: [Policy; 4] =
    [Policy::BalanceRegion, Policy::BalanceCore, Policy::HotRegion, Policy::SplitCheck];

/// Instructions that were refused, by kind.
#[derive(Debug, Default)]
pub(super) struct Orders {
    transfers: Cell<u64>,
    changes: Cell<u64>,
    relocations: Cell<u64>,
    splits: Cell<u64>,
}

impl Orders {
    /// Refuses an instruction. Its operator should be cancelled.
    pub(super) fn refuse(&self, instruction: &Instruction) {
        let (counter, kind) = match &instruction.action {
            Action::TransferLeader(_) => (&self.transfers, "leader transfer"),
            Action::Change(Change::Relocate { .. }) => (&self.relocations, "relocation"),
            Action::Change(
                Change::AddVoter { .. }
                | Change::AddLearner { .. }
                | Change::Promote { .. }
                | Change::Demote { .. }
                | Change::Remove { .. }
                | Change::EnterJoint { .. }
                | Change::LeaveJoint,
            ) => (&self.changes, "membership change"),
            Action::Split { .. } => (&self.splits, "split"),
        };
        if counter.replace(counter.get() + 1) == 0 {
            tracing::info!(
                kind,
                region = instruction.region.0,
                "the scheduler proposed a step that is not implemented yet"
            );
        }
    }

    /// How many instructions were refused.
    pub(super) fn refused(&self) -> u64 {
        self.transfers.get() + self.changes.get() + self.relocations.get() + self.splits.get()
    }
}
