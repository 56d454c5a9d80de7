//! What operators and the scheduler ask of a region's group, and what its replicas say of themselves.

use engine::rt::local::oneshot;
use raft::{Status, Time};
use scheduler::{Action, Change, Epoch, Instruction, PeerId, RegionId};

use super::reply::Reply;
use super::upkeep::TICK;
use super::{Due, Shard};
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::region::guard;
use crate::region::peers::Behind;
use crate::region::split::Cut;
use crate::request::Out;

/// A peer that was silent for more ticks than this counts as down: two election timeouts.
pub(super) const SILENT_TICKS_MAX: u32 = 40;

/// What changes a region by an entry of its log.
pub(super) enum Entry {
    Members(Change),
    Split(Vec<Cut>),
}

impl Shard {
    /// Takes one step of an operator of the scheduler. Success means that it has begun; what it came to is in the region's next report.
    ///
    /// # Errors
    /// If the region is not led from here, the step was thought out against another epoch, it makes no sense, or it would leave the
    /// region without a quorum that is heard.
    pub fn carry_out(&self, instruction: &Instruction) -> Result<(), Refusal> {
        let Instruction { region, epoch, leader: _, operator, action } = instruction;
        match action {
            Action::TransferLeader(to) => self.transfer(*region, to.id, *epoch),
            Action::Change(change) => self.change_members(*region, change.clone(), *epoch),
            Action::Split { keys, new } => self.split(*region, *epoch, *operator, keys, new),
            Action::Merge(into) => self.merge(*region, *epoch, into),
        }
    }

    /// Proposes a change of a region's membership. Success means that it is proposed.
    fn change_members(&self, region: RegionId, change: Change, asked: Epoch) -> Result<(), Refusal> {
        self.propose(region, asked, Entry::Members(change))
    }

    /// Proposes an entry that changes a region. Success means that it is proposed: whoever asked sees what becomes of it in the region's
    /// reports.
    pub(super) fn propose(&self, region: RegionId, asked: Epoch, entry: Entry) -> Result<(), Refusal> {
        let inner = &*self.inner;
        inner.health.check_running()?;
        let proposed = {
            let mut state = inner.state.borrow_mut();
            // Else its members could all be where none of those of that one is, which would never learn what has become of it.
            let is_awaited = state.table.waiting_for(region).next().is_some();
            let replica =
                state.table.get_mut(region).ok_or(Refusal::RegionNotFound { region_id: region.0 })?;
            let due = Due { reply: Reply::local(oneshot().0), out: Out::Done, since: inner.rt.now() };
            let proposed = match entry {
                Entry::Members(_) if is_awaited => {
                    let reason = "a neighbour waits to be taken in, or to hear that it is not";
                    return Err(Refusal::Busy { reason, backoff_ms: 1000 });
                }
                Entry::Members(change) => {
                    if !replica.keeps_quorum(&change, SILENT_TICKS_MAX) && !planted(Bug::QuorumNotAsked) {
                        let reason = "too few voters would be heard after the change";
                        return Err(Refusal::Busy { reason, backoff_ms: 1000 });
                    }
                    replica.propose_change(change, asked, due)
                }
                Entry::Split(cuts) => replica.propose_split(cuts, asked, due),
            };
            state.table.mark_dirty(region);
            proposed
        };
        inner.bell.ring();
        proposed.map_err(|(due, refusal)| {
            due.reply.send(Err(refusal.clone()));
            refusal
        })
    }

    /// The peers of a region that its leader cannot rely on; none if it is not led from here.
    pub fn behind(&self, region: RegionId) -> Behind {
        let tick_ms = u64::try_from(TICK.as_millis()).expect("a tick is short");
        let state = self.inner.state.borrow();
        state
            .table
            .get(region)
            .map_or_else(Behind::default, |replica| replica.behind(SILENT_TICKS_MAX, tick_ms))
    }

    /// Hands the leadership of a region to another of its peers. Success means that the hand-over has begun.
    ///
    /// # Errors
    /// If the region is not led from here, `asked` is not its epoch, or the peer cannot lead.
    pub fn transfer(&self, region: RegionId, to: PeerId, asked: Epoch) -> Result<(), Refusal> {
        let inner = &*self.inner;
        inner.health.check_running()?;
        let mut state = inner.state.borrow_mut();
        let replica = state.table.get_mut(region).ok_or(Refusal::RegionNotFound { region_id: region.0 })?;
        guard::lead(replica.here())?;
        replica.transfer(to, asked)?;
        state.table.mark_dirty(region);
        inner.bell.ring();
        Ok(())
    }

    /// What the replica of a region knows, if there is one.
    pub fn status(&self, region: RegionId) -> Option<Status> {
        let now = Time(self.inner.rt.boot_time().0);
        self.inner.state.borrow().table.get(region).map(|replica| replica.status(now))
    }
}

#[cfg(any(test, feature = "sim"))]
mod inspect {
    use bytes::Bytes;
    use engine::error::Fault;
    use engine::lsm::{Cf, Direction, Snapshot};
    use raft::Index;
    use scheduler::{KeyRange, Region, RegionId, StateImage};

    use super::{Shard, Time};
    use crate::region::life::Life;
    use crate::region::system::{GROUP, SystemState};

    impl Shard {
        /// The scheduler's state as applied here, whoever leads, with the index that it is of.
        pub fn applied_state(&self) -> Option<(u64, StateImage)> {
            let state = self.inner.state.borrow();
            let replica = state.table.get(GROUP).filter(|replica| replica.life() == Life::Live)?;
            let image = replica.system().and_then(SystemState::image)?;
            Some((replica.applied_index().0, image.clone()))
        }

        /// Whether a snapshot of the region is on its way into the tree, which the applied index of the core is ahead of then.
        pub fn is_receiving(&self, region: RegionId) -> bool {
            let state = self.inner.state.borrow();
            state.table.get(region).is_some_and(|replica| replica.life() == Life::Receiving)
        }

        /// Each replica in a line: life, region, and what its Raft core says. For a run that is stuck.
        pub fn replicas_in_words(&self) -> Vec<String> {
            let now = Time(self.inner.rt.boot_time().0);
            let state = self.inner.state.borrow();
            let replicas = state.table.iter();
            let lines = replicas.map(|it| format!("{:?} {:?} {:?}", it.life(), it.region(), it.status(now)));
            lines.collect()
        }

        /// What the applied state holds in a range, whoever leads there. For tests that compare replicas.
        ///
        /// # Errors
        /// Those of the tree.
        pub async fn applied_pairs(&self, range: &KeyRange) -> Result<Vec<(Bytes, Bytes)>, Fault> {
            pairs(&self.inner.tree.snapshot(), range).await
        }

        /// The descriptors of the replicas that have the data of their range, each with the index that the data is as of.
        pub fn whole(&self) -> Vec<(Region, Index)> {
            let state = self.inner.state.borrow();
            let replicas = state.table.iter().filter(|replica| {
                !replica.is_system() && matches!(replica.life(), Life::Live | Life::Splitting | Life::Merging)
            });
            replicas.map(|replica| (replica.region().clone(), replica.in_tree())).collect()
        }

        /// What every replica that is whole holds, all as of one moment, with the index that it is as of.
        ///
        /// # Errors
        /// Those of the tree.
        pub async fn applied_of_all(&self) -> Result<Vec<(Region, Index, Vec<(Bytes, Bytes)>)>, Fault> {
            let (whole, snapshot) = (self.whole(), self.inner.tree.snapshot());
            let mut all = Vec::new();
            for (region, index) in whole {
                let held = pairs(&snapshot, &region.range).await?;
                all.push((region, index, held));
            }
            Ok(all)
        }
    }

    async fn pairs(snapshot: &Snapshot, range: &KeyRange) -> Result<Vec<(Bytes, Bytes)>, Fault> {
        let (start, end) = (range.start().as_bytes(), range.end().as_bytes());
        let mut iter = snapshot.iter(Cf::Default, start, end, Direction::Forward);
        let mut pairs = Vec::new();
        while let Some(pair) = iter.next().await? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}
