//! A merge as the logs of its two regions carry it, what of it is kept, and how it ends whatever happens in the middle.
//!
//! The *source* is taken in by its neighbour, the *target*. Every store that has a replica of the one has one of the other, in the same
//! tree, so no data are moved. There are two logs, and each decides what is its own: the source's that it stops, and whether it goes on
//! after all; the target's whether the source is taken in. The order of the target's log is what settles a merge.
//!
//! | entry | log | when it is applied | may be proposed by the region's leader |
//! |---|---|---|---|
//! | prepare | source | `conf_ver` + 1 and `version` + 1, so what was thought out before is refused; nothing is read, written, split or changed any more | where its store has the target at the epoch named, on the same stores |
//! | commit | target | only at the epoch that the prepare has named: the range grows by the source's, the version is above both; the source ends | where the source's leader is on the same store, and **every** replica of the source has the prepare on disk ([`Replica::merge_ready`](super::replica::Replica::merge_ready)) |
//! | refuse | target | only at that epoch: `version` + 1, so no commit of this merge counts any more | when that takes too long |
//! | rollback | source | only while it waits since that prepare: `version` + 1, and it goes on | where the store *knows* that the target has left that epoch without taking the source in |
//!
//! # What is in which batch
//!
//! | batch of the tree | has | a crash before it | a crash after it |
//! |---|---|---|---|
//! | prepare, of the source | its applied index, its record with [`AwaitsMerge`] | it is applied again | the source waits, and its leader goes on |
//! | commit, of the target | the target's applied index and record; the source's applied index, and its tombstone that names the target | the target applies it again, which brings the source there first | both are done |
//! | refuse, of the target | its applied index and record | it is applied again | the source's leader sees it |
//! | rollback, of the source | its applied index and record without [`AwaitsMerge`] | it is applied again | done |
//! | snapshot of the target (one edit of the manifest) | data, applied index and record of the target; the tombstones of all sources that it has taken in | nothing has happened | done; the log is reset by the start |
//!
//! One batch is in one memtable, so a flush parts none of these pairs. What lies in the log alone is applied again, and the order
//! between the two logs is restored by the commit itself: whoever applies it first brings the source to its prepare
//! ([`merging`](crate::shard)), from the log of this store, in which it lies on disk, because the commit was proposed only when that was so on all. So
//! nothing that the source had written is applied after what the target writes to the same keys.
//!
//! # Why nothing is served twice
//!
//! A source that waits refuses reads and writes, by lease, by read index and on followers. The commit is proposed by a store whose replica leads
//! the source and waits: an older leader's lease is over by then, and a follower that reads by an index from this leader has to apply
//! the prepare first. Whoever knows the merge only from before is refused by the version, and sends its request again. What was proposed
//! to the source and is not applied at its prepare never will be, so it may be sent again; where a snapshot ends a source that is not there
//! yet, some of it may have been done, and whoever waits hears that the outcome is unknown.
//!
//! # Why a rollback is safe
//!
//! What the target has taken in is part of its record ([`Taken`]), and so of its snapshots and of what is split off from it. A target that
//! is here, beyond the epoch named, and has no such source among those, has not taken it in; and as it has left that epoch, it never
//! will. Whoever does not know hands the source's leadership on. No region id is used twice, so one merge is never mistaken for another.
//!
//! # What is forgotten
//!
//! A record remembers the last [`TAKEN_MAX`] regions that were taken in. A store that has a replica of an older one needs it to be named by
//! the snapshot with which that one ends. So nothing is taken in for which one would be forgotten while a replica of the target has not all
//! that is committed on its disk ([`Replica::may_take`](super::replica::Replica::may_take)): what it has there it applies, and needs no snapshot for. And
//! no second source waits for a target, so that what the first one needs to know of it is not forgotten either.
//!
//! # Replicas that were away
//!
//! | on a store there is | and comes | then |
//! |---|---|---|
//! | the source, behind | the target's commit | the source is brought to its prepare first |
//! | the source | a snapshot of a region that has taken it in | it ends with it |
//! | the source, and the target behind | a snapshot of the target, which was split since, beside the source | the source ends with it: what was split off comes by a snapshot of its own |
//! | the source | a snapshot of another region for a part of its range | refused, as ever |
//! | the source, the target's replica was removed | word from a store that has the tombstone | it ends as if it had been removed |
//! | the source, which was removed from it before the merge | word from a store that has the tombstone, and so the last members | it ends, as it was removed |
//! | the source, the target is here or to come | the same word | nothing: the target's log settles it |

use raft::LogId;
use scheduler::{Command, Epoch, RegionId};

use super::record::RegionRecord;
use crate::refusal::Refusal;

mod codec;

/// The first byte of the payload, see [`command`](super::command).
pub const KIND: u8 = 5;
const FORMAT: u8 = 1;

/// Regions that a record remembers as taken in; the oldest are forgotten first.
pub const TAKEN_MAX: usize = 32;

/// The same, or what a test has set.
fn taken_max() -> usize {
    crate::plant::remembered().unwrap_or(TAKEN_MAX)
}

/// One entry of a merge, and the epoch that it was thought out against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeStep {
    /// The region whose log it is in.
    pub region: RegionId,
    /// Its epoch.
    pub epoch: Epoch,
    /// What it says.
    pub what: MergeWhat,
}

/// What an entry of a merge says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergeWhat {
    /// To the source: it stops.
    Prepare {
        /// Who is to take it in.
        target: RegionId,
        /// The epoch at which that one does so, or never.
        epoch: Epoch,
    },
    /// To the target: it takes the source in.
    Commit(Commit),
    /// To the source: it goes on.
    Rollback {
        /// Its prepare.
        prepare: LogId,
    },
    /// To the target: it takes nothing in at this epoch.
    Refuse,
}

/// The source that a commit takes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// As it is since its prepare, with what it has taken in itself.
    pub source: RegionRecord,
    /// The entry of its log up to which it counts.
    pub prepare: LogId,
}

/// What a record has of merges beside the region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merges {
    /// The region waits to be taken in.
    pub waits: Option<AwaitsMerge>,
    /// What the region has taken in, it or one that it was split off from or has taken in; by rising version.
    pub taken: Vec<Taken>,
    /// Of a tombstone: who took it in.
    pub into: Option<RegionId>,
}

/// A region that waits to be taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AwaitsMerge {
    /// By whom.
    pub target: RegionId,
    /// The target's epoch.
    pub epoch: Epoch,
    /// The entry that made it wait.
    pub prepare: LogId,
}

/// A region that another has taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The region that is no more.
    pub region: RegionId,
    /// The version of the other one since.
    pub version: u64,
}

/// What a store knows of a merge that its source waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The target is here at the epoch named.
    Open,
    /// The target has left that epoch and has not taken the source in.
    Refused,
    /// What is here does not say.
    Unknown,
}

impl Merges {
    /// Whether there is nothing to be kept.
    pub fn is_none(&self) -> bool {
        self.waits.is_none() && self.taken.is_empty() && self.into.is_none()
    }

    /// What is split off keeps of the region's.
    pub fn of_half(&self) -> Self {
        Self { waits: None, taken: self.taken.clone(), into: None }
    }

    /// Whether the region, or one that it comes from, has taken `region` in, as far as is remembered.
    pub fn has_taken(&self, region: RegionId) -> bool {
        self.taken.iter().any(|taken| taken.region == region)
    }

    /// The region has taken `source` in, and is of `version` since.
    fn take(&mut self, source: &RegionRecord, version: u64) {
        for taken in &source.merges.taken {
            if !self.has_taken(taken.region) {
                self.taken.push(*taken);
            }
        }
        self.taken.push(Taken { region: source.region.id, version });
        self.taken.sort_unstable_by_key(|taken| (taken.version, taken.region));
        self.taken.drain(..self.taken.len().saturating_sub(taken_max()));
    }

    /// Whether the region forgets one that it has taken in if it takes in `source`.
    pub fn forgets_for(&self, source: &Self) -> bool {
        self.taken.len() + source.taken.len() + 1 > taken_max()
    }

    /// Whether everything is remembered that was taken in above `version`.
    fn remembers_since(&self, version: u64) -> bool {
        self.taken.len() < taken_max() || self.taken.first().is_some_and(|oldest| oldest.version <= version)
    }
}

impl AwaitsMerge {
    /// What `other`, a region here, says of the fate of `source`, which waits.
    pub fn fate_by(&self, source: RegionId, other: &RegionRecord) -> Fate {
        let (region, merges) = (&other.region, &other.merges);
        let is_target = region.id == self.target;
        if is_target && region.epoch == self.epoch && !other.tombstone {
            return Fate::Open;
        }
        // A tombstone may be of one that missed its end.
        let has_left = is_target && self.epoch < region.epoch && !other.tombstone;
        let follows = has_left || merges.has_taken(self.target);
        match follows && !merges.has_taken(source) && merges.remembers_since(self.epoch.version) {
            true => Fate::Refused,
            false => Fate::Unknown,
        }
    }
}

impl MergeStep {
    /// Whether it counts in `region` as that is. All replicas decide alike.
    ///
    /// # Errors
    /// Why it does not.
    pub fn judge(&self, record: &RegionRecord) -> Result<RegionRecord, Refusal> {
        let region = &record.region;
        if self.region != region.id {
            return Err(Refusal::Invalid(format!("a merge of {} is none of {region}", self.region)));
        }
        if region.epoch.admit(self.command(), self.epoch).is_err() {
            return Err(Refusal::EpochNotMatch { current: vec![region.clone()] });
        }
        let waits = record.merges.waits;
        let mut after = record.clone();
        after.region.epoch = region.epoch.after(self.command());
        match &self.what {
            MergeWhat::Prepare { .. } if region.is_joint() || waits.is_some() => {
                Err(Refusal::Invalid(format!("{region} is in the middle of another change")))
            }
            // Where it stands in the log is known to whoever applies it.
            MergeWhat::Prepare { target, epoch } => {
                after.merges.waits =
                    Some(AwaitsMerge { target: *target, epoch: *epoch, prepare: LogId::ZERO });
                Ok(after)
            }
            MergeWhat::Commit(Commit { source, prepare: _ }) => {
                let merged = scheduler::merge::merged(&source.region, region);
                after.region = merged.map_err(|why| Refusal::Invalid(why.to_string()))?;
                after.merges.take(source, after.region.epoch.version);
                Ok(after)
            }
            MergeWhat::Rollback { prepare } if waits.is_some_and(|waits| waits.prepare == *prepare) => {
                after.merges.waits = None;
                Ok(after)
            }
            MergeWhat::Rollback { prepare: _ } => {
                Err(Refusal::Invalid(format!("{region} does not wait for this merge")))
            }
            MergeWhat::Refuse => Ok(after),
        }
    }

    const fn command(&self) -> Command {
        match self.what {
            MergeWhat::Prepare { .. } => Command::PrepareMerge,
            MergeWhat::Commit(_) => Command::CommitMerge,
            MergeWhat::Rollback { .. } => Command::RollbackMerge,
            MergeWhat::Refuse => Command::RefuseMerge,
        }
    }

    /// The commit that an entry's payload is, if it is one that can be read.
    pub fn commit_of(payload: &[u8]) -> Option<(Epoch, Commit)> {
        let (kind, body) = payload.split_first()?;
        let step = (*kind == KIND).then(|| Self::decode(body).ok()).flatten()?;
        match step.what {
            MergeWhat::Commit(commit) => Some((step.epoch, commit)),
            MergeWhat::Prepare { .. } | MergeWhat::Rollback { .. } | MergeWhat::Refuse => None,
        }
    }
}

#[cfg(test)]
mod tests;
