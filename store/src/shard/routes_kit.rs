//! What a test does to the regions of an open store: they are cut, joined, taken away and brought back through the table's own ways in and
//! out, as the entries that will do so later.

use engine::error::Result;
use engine::lsm::{Cf, Direction, WriteBatch};
use scheduler::{KeyRange, Region, RegionId};

use super::open::ShardOptions;
use super::{Due, Queued, Shard};
use crate::refusal::Refusal;
use crate::region::replica::{Abandoned, Replica};

impl Shard {
    /// What the table publishes.
    pub(crate) fn published(&self) -> Vec<Region> {
        self.inner.state.borrow().table.published().cloned().collect()
    }

    /// Asserts the invariants of the store's state.
    pub(crate) fn check_state(&self) {
        self.inner.state.borrow().check();
    }

    /// Cuts the region `left` where `right` begins.
    pub(crate) async fn cut(&self, left: RegionId, right: Region, options: &ShardOptions) -> Result<()> {
        let stored = self.prepare(vec![right], options).await?.remove(0);
        let right = self.replica(stored, options)?;
        self.inner
            .state
            .borrow_mut()
            .table
            .cut_region(left, right)
            .expect("the end of a region that is here");
        self.campaign_alone();
        self.inner.bell.ring();
        Ok(())
    }

    /// Joins two regions that touch.
    pub(crate) fn join(&self, left: RegionId, right: RegionId) {
        let removed = {
            let table = &mut self.inner.state.borrow_mut().table;
            let range = |id: RegionId| table.get(id).expect("it is here").region().range.clone();
            let range =
                scheduler::merge::joined(&range(left), &range(right)).expect("two regions that touch");
            let removed = table.take_in(right, left).expect("it is here");
            table.get_mut(left).expect("it is here").cover(range);
            table.publish_region(left);
            table.mark_dirty(left);
            removed
        };
        self.let_go(removed);
        self.inner.bell.ring();
    }

    /// Takes a region away. Its data stays.
    pub(crate) fn take_away(&self, region: RegionId) {
        let removed = {
            let mut state = self.inner.state.borrow_mut();
            let mut record = state.table.get(region).expect("a region that is here").record().clone();
            record.tombstone = true;
            state.table.bury_region(record).expect("a region that is here")
        };
        self.let_go(removed);
    }

    /// Begins with a region.
    pub(crate) async fn bring(&self, region: Region, options: &ShardOptions) -> Result<()> {
        self.bootstrap(vec![region], options).await?;
        self.campaign_alone();
        self.inner.bell.ring();
        Ok(())
    }

    /// Has the data of `range` here what it is on `other`.
    pub(crate) async fn copy_from(&self, other: &Self, range: &KeyRange) -> Result<()> {
        let (start, end) = (range.start().as_bytes(), range.end().as_bytes());
        let mut batch = WriteBatch::new();
        let beyond: &[u8] = if end.is_empty() { &[0xff; 9] } else { end };
        batch.delete_range(Cf::Default, start, beyond);
        let mut iter = other.inner.tree.iter(Cf::Default, start, end, Direction::Forward);
        while let Some((key, value)) = iter.next().await? {
            batch.put(Cf::Default, &key, &value);
        }
        self.inner.tree.write(&batch)?;
        Ok(())
    }

    /// Nothing that was proposed to a region that is gone is applied any more, so all that wait may hear that.
    fn let_go(&self, mut removed: Replica<Due, Queued>) {
        let inner = &*self.inner;
        let (charged, region_id) = (removed.charged_bytes(), removed.id().0);
        let Abandoned { proposed, gathered, reads, decided } = removed.abandon();
        inner.state.borrow_mut().inflight_bytes -= charged;
        let gone = || Refusal::RegionNotFound { region_id };
        proposed.into_iter().chain(gathered).for_each(|due| inner.refuse(due.reply, gone()));
        reads.into_iter().for_each(|queued| inner.refuse(queued.reply, gone()));
        inner.settle(decided);
    }
}
