//! What operators and the scheduler ask of a region's group, and what its replicas say of themselves.

use raft::{Status, Time};
use scheduler::{Epoch, PeerId, RegionId};

use super::Shard;
use crate::refusal::Refusal;

impl Shard {
    /// Hands the leadership of a region to another of its peers. Success means that the hand-over has begun.
    ///
    /// # Errors
    /// If the region is not led from here, `asked` is not its epoch, or the peer cannot lead.
    pub fn transfer(&self, region: RegionId, to: PeerId, asked: Epoch) -> Result<(), Refusal> {
        let inner = &*self.inner;
        inner.health.check_running()?;
        let mut state = inner.state.borrow_mut();
        let replica = state.table.get_mut(region).ok_or(Refusal::RegionNotFound { region_id: region.0 })?;
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
    use engine::lsm::{Cf, Direction};
    use scheduler::KeyRange;

    use super::Shard;

    impl Shard {
        /// What the applied state holds in a range, whoever leads there. For tests that compare replicas.
        ///
        /// # Errors
        /// Those of the tree.
        pub async fn applied_pairs(&self, range: &KeyRange) -> Result<Vec<(Bytes, Bytes)>, Fault> {
            let snapshot = self.inner.tree.snapshot();
            let mut iter = snapshot.iter(
                Cf::Default,
                range.start().as_bytes(),
                range.end().as_bytes(),
                Direction::Forward,
            );
            let mut pairs = Vec::new();
            while let Some(pair) = iter.next().await? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }
}
