//! Entries for followers that lag behind memory, read back from the log beside the turns.
//!
//! Requests wait in order and one task of the store works them off, one at a time, so a follower that was away costs the others neither a
//! turn nor more than one answer's memory. A group has at most one request per follower open, so the queue is bounded by the peers.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use engine::error::Fault;
use raft::{Entry, Fetch};
use scheduler::RegionId;

use super::Shard;
use super::open::to_raft;
use super::turn::SHORTAGE_PAUSE;

/// Maximum bytes of entries that are read for one request; a single larger entry is read whole.
const FETCH_BYTES_MAX: usize = 4 << 20;

/// What is to be read.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    waiting: RefCell<VecDeque<(RegionId, Fetch)>>,
    /// The task runs.
    running: Cell<bool>,
}

impl Fetches {
    /// Adds a region's requests.
    pub(super) fn add(&self, region: RegionId, fetches: Vec<Fetch>) {
        if !fetches.is_empty() {
            self.waiting.borrow_mut().extend(fetches.into_iter().map(|fetch| (region, fetch)));
        }
    }
}

impl Shard {
    /// Begins to read what is wanted, unless that goes on already.
    pub(super) fn start_fetches(&self) {
        let fetches = &self.inner.fetches;
        if fetches.waiting.borrow().is_empty() || fetches.running.replace(true) {
            return;
        }
        let shard = self.clone();
        self.inner.rt.spawn(async move {
            let fetches = &shard.inner.fetches;
            loop {
                let next = fetches.waiting.borrow_mut().pop_front();
                let Some((region, fetch)) = next.filter(|_| !shard.inner.health.has_stopped()) else { break };
                match shard.fetch(region, fetch).await {
                    Ok(()) => {}
                    Err(fault) if fault.is_passing() => {
                        fetches.waiting.borrow_mut().push_front((region, fetch));
                        shard.inner.rt.sleep(SHORTAGE_PAUSE).await;
                    }
                    Err(fault) => shard.stop_after(&fault).await,
                }
            }
            fetches.running.set(false);
        });
    }

    /// Reads entries and hands them to their region; none if they have been cut off.
    async fn fetch(&self, region: RegionId, fetch: Fetch) -> Result<(), Fault> {
        let inner = &*self.inner;
        let is_there = || inner.log.first_index(region.0).is_some_and(|first| first <= fetch.first.0);
        let mut entries = None;
        if is_there() {
            let bytes_max = usize::try_from(fetch.bytes_max).unwrap_or(usize::MAX).min(FETCH_BYTES_MAX);
            let read = inner.log.entries(region.0, fetch.first.0..fetch.last.0 + 1, bytes_max).await?;
            if inner.health.has_stopped() {
                return Ok(());
            }
            let read = read.into_iter().map(|entry| to_raft(&inner.dir, region.0, entry));
            let read = read.collect::<Result<Vec<Entry>, Fault>>()?;
            // They may have been cut off meanwhile.
            entries = Some(read).filter(|read| !read.is_empty());
        }
        let mut state = inner.state.borrow_mut();
        if let Some(replica) = state.table.get_mut(region) {
            replica.fetched(&fetch, entries);
            state.table.mark_dirty(region);
            inner.bell.ring();
        }
        Ok(())
    }
}
