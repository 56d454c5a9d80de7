//! Purge, carried out: move what is small, name what is large, retire what is empty.

use std::rc::Rc;

use super::format::{EntryRef, SegmentNo};
use super::group::Live;
use super::plant::{Bug, planted};
use super::purge::{GroupUse, PurgeLimits, Straggler, needed_from, plan};
use super::spares::Retired;
use super::writer::Guard;
use super::{Batch, Shared, read};
use crate::error::Result;

/// What a purge did.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Purged {
    /// Segments that went.
    pub segments: usize,
    /// Bytes that were written again at the tail.
    pub rewritten_bytes: u64,
    /// Groups that keep old segments alive, largest first. Flush and compact them, then purge again.
    pub stragglers: Vec<Straggler>,
}

pub(crate) async fn purge(shared: &Shared, limits: &PurgeLimits) -> Result<Purged> {
    if shared.purging.replace(true) {
        return Ok(Purged::default());
    }
    let purged = purge_alone(shared, limits).await;
    shared.purging.set(false);
    purged
}

async fn purge_alone(shared: &Shared, limits: &PurgeLimits) -> Result<Purged> {
    if shared.segments.borrow().len() <= 1 {
        // The one in use stays, whatever the groups have in it.
        return Ok(Purged::default());
    }
    let (rewrite, stragglers) = {
        let index = shared.index.borrow();
        let groups: Vec<_> =
            index.groups().map(|(id, group)| GroupUse { group: id, uses: group.uses() }).collect();
        let active = shared.active().number;
        let plan = plan(&groups, needed_from(&index.uses(), active), active, limits);
        (plan.rewrite, plan.stragglers)
    };
    let mut purged = Purged { stragglers, ..Purged::default() };
    for (group, segment) in rewrite {
        purged.rewritten_bytes += move_to_tail(shared, group, segment).await?;
    }
    purged.segments = retire(shared).await?;
    Ok(purged)
}

/// Writes what `group` has live in `segment` again. Skipped by the writer if that changes in the meantime, which is fine: a
/// group that moves is not idle.
async fn move_to_tail(shared: &Shared, group: u64, segment: SegmentNo) -> Result<u64> {
    let live = {
        let index = shared.index.borrow();
        let Some(group) = index.group(group) else { return Ok(0) };
        group.live_in(segment)
    };
    let mut batch = Batch::new();
    if let Some(mark) = live.mark {
        batch.compact(group, mark.index, mark.term);
    }
    for (tag, value) in &live.states {
        batch.put_state(group, *tag, value);
    }
    for run in runs(&live) {
        let (first, count) = (run[0].0, run.len() as u64);
        let entries = read::entries(shared, group, first..first + count, usize::MAX).await?;
        if entries.len() != run.len() {
            return Ok(0);
        }
        let borrowed = entries.iter().map(|e| EntryRef { term: e.term, kind: e.kind, payload: &e.payload });
        batch.moved(group, first, borrowed);
    }
    let bytes = batch.len() as u64;
    shared.submit(batch, Some(Guard { group, segment, live }), false).await?;
    Ok(bytes)
}

/// The stretches of consecutive indexes.
fn runs(live: &Live) -> impl Iterator<Item = &[(u64, super::group::Slot)]> {
    live.entries.chunk_by(|(before, _), (after, _)| before + 1 == *after)
}

/// Retires every segment below the first that is needed, once a durable record says which that is.
async fn retire(shared: &Shared) -> Result<usize> {
    let needed = needed_from(&shared.index.borrow().uses(), shared.active().number);
    if needed <= shared.needed_from.get() {
        return Ok(0);
    }
    if !planted(Bug::EarlyReuse) {
        shared.needed_from.set(needed);
        shared.submit(Batch::new(), None, false).await?;
    }
    let gone: Vec<_> = {
        let mut segments = shared.segments.borrow_mut();
        let kept = segments.split_off(&needed);
        std::mem::replace(&mut *segments, kept).into_values().collect()
    };
    shared.cache.borrow_mut().forget_before(needed);
    let count = gone.len();
    shared.retired.borrow_mut().extend(gone.into_iter().map(|segment: Rc<_>| Retired::Open(segment)));
    shared.wanted.ring();
    Ok(count)
}
