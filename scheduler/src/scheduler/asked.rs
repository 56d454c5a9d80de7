//! Requests to the scheduler: an operator, ids for a split, a group of regions spread, splits ahead of a load.

use std::fmt;

use super::{Scheduler, Tick};
use crate::ask::{presplit, scatter};
use crate::balance::Round;
use crate::id::{PeerId, RegionId};
use crate::operator::{
    AddRefusal, BuildError, CancelReason, Instruction, NewRegion, Operator, Outcome, Progress, Proposal,
};
use crate::range::Key;
use crate::region::Region;
use crate::time::Time;

impl Scheduler {
    /// Makes an operator of a proposal, admits it, and answers its first step.
    ///
    /// # Errors
    /// [`AdmitError`] where it cannot be built or is not admitted.
    pub fn admit(&mut self, proposal: &Proposal, now: Time) -> Result<Option<Instruction>, AdmitError> {
        let mut ids = std::mem::replace(&mut self.ids, 0..0);
        let influence = self.no_influence();
        let built = proposal.build(&self.view(&influence, now), &mut || ids.next());
        self.ids = ids;
        self.add(built.map_err(AdmitError::Build)?, now)
    }

    /// What [`Scheduler::admit`] would come to now: the operator, and how it would end at once, if it would. Nothing is changed, and the ids
    /// of the operator are given to others, too.
    ///
    /// # Errors
    /// As for [`Scheduler::admit`].
    pub fn rehearse(
        &self,
        proposal: &Proposal,
        now: Time,
    ) -> Result<(Operator, Option<Outcome>), AdmitError> {
        let (influence, mut ids) = (self.no_influence(), self.ids.clone());
        let view = self.view(&influence, now);
        let built = proposal.build(&view, &mut || ids.next());
        let operator = built.map_err(AdmitError::Build)?;
        self.operators.may_add(&operator, &self.cluster, &self.config).map_err(AdmitError::Add)?;
        let info = self.cluster.region(proposal.region);
        let progress = info.map(|info| operator.clone().drive(info, &view));
        let outcome = match progress {
            Some(Progress::End(outcome)) => Some(outcome),
            Some(Progress::Send(_) | Progress::Wait(_)) | None => None,
        };
        Ok((operator, outcome))
    }

    /// Admits an operator from outside, and answers its first step.
    ///
    /// # Errors
    /// [`AdmitError::Add`] where it is not admitted.
    pub fn add(&mut self, operator: Operator, now: Time) -> Result<Option<Instruction>, AdmitError> {
        let region = operator.region;
        self.operators.add(operator, &self.cluster, &self.config, now).map_err(AdmitError::Add)?;
        Ok(self.drive(region, now))
    }

    /// Ends a region's operator. Whether there was one.
    pub fn cancel(&mut self, region: RegionId, now: Time) -> bool {
        let holder = self.operators.get(region).map(|operator| operator.region);
        let Some(operator) = holder.and_then(|holder| self.operators.take(holder)) else { return false };
        self.operators.end(operator, Outcome::Cancelled(CancelReason::Requested), now, &self.config);
        true
    }

    /// Ids for a split that the region's store has thought of.
    ///
    /// # Errors
    /// [`AskSplitError`] where the region is not known at its start key, the store's view of it is stale, or ids are
    /// used up.
    pub fn ask_split(&mut self, asked: &Region) -> Result<NewRegion, AskSplitError> {
        let known = self.cluster.region_at(asked.range.start()).filter(|info| info.id() == asked.id);
        let known = known.ok_or(AskSplitError::Unknown(asked.id))?;
        if asked.epoch.is_stale_against(known.region.epoch) {
            return Err(AskSplitError::Stale(asked.id));
        }
        let needed = asked.peers.len() as u64 + 1;
        if self.ids.end - self.ids.start < needed {
            return Err(AskSplitError::OutOfIds);
        }
        let region = RegionId(self.ids.start);
        let peers = (self.ids.start + 1..self.ids.start + needed).map(PeerId).collect();
        self.ids.start += needed;
        Ok(NewRegion { region, peers })
    }

    /// Spreads a group of regions by one step each; called again until nothing is admitted.
    pub fn scatter(&mut self, group: &[RegionId], now: Time) -> Tick {
        let influence = self.operators.influence(&self.cluster, &self.config);
        let round = scatter::propose(&self.view(&influence, now), group, group.len());
        let mut tick = Tick::default();
        self.admit_all(round, now, &mut tick);
        tick
    }

    /// Splits at these keys.
    pub fn presplit(&mut self, keys: &[Key], now: Time) -> Tick {
        let influence = self.no_influence();
        let round = presplit::propose(&self.view(&influence, now), keys);
        let mut tick = Tick::default();
        self.admit_all(round, now, &mut tick);
        tick
    }

    pub(super) fn admit_all(&mut self, round: Round, now: Time, tick: &mut Tick) {
        tick.refusals.extend(round.refusal);
        for proposal in round.proposals {
            match self.admit(&proposal, now) {
                Ok(instruction) => {
                    tick.admitted += 1;
                    tick.instructions.extend(instruction);
                }
                Err(error) => tick.declined.push((proposal, error)),
            }
        }
    }
}

/// Why a proposal or an operator is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmitError {
    /// No operator can be made of it.
    Build(BuildError),
    /// The operator is not admitted.
    Add(AddRefusal),
}

impl fmt::Display for AdmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Build(error) => write!(f, "{error}"),
            Self::Add(refusal) => write!(f, "{refusal}"),
        }
    }
}

impl std::error::Error for AdmitError {}

/// Why a store gets no ids for a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskSplitError {
    /// The region is not known at the start of its range.
    Unknown(RegionId),
    /// Something newer is known of the region.
    Stale(RegionId),
    /// No ids are left; ask again in a moment.
    OutOfIds,
}

impl fmt::Display for AskSplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(region) => write!(f, "{region} is not known at its start key; report it first"),
            Self::Stale(region) => write!(f, "something newer is known of {region}"),
            Self::OutOfIds => f.write_str("no ids are left; ask again in a moment"),
        }
    }
}

impl std::error::Error for AskSplitError {}
