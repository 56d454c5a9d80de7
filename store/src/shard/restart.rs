//! What keeps starts short: a store that is closed in peace leaves nothing to apply, and one that was killed is read once.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::pin;
use std::time::Duration;

use engine::log::Entry;
use futures_util::future::select;
use scheduler::RegionId;

use super::turn::REPLAY_BYTES_MAX;
use super::{Inner, Shard};

/// How long the last flush of a store that is being closed may take.
const LAST_FLUSH_MAX: Duration = Duration::from_secs(10);

impl Shard {
    /// Flushes the memtable and cuts the log behind it, so that the next start has little to read back. Nothing rests on it:
    /// the log has everything, so it may fail, and it may not take long.
    pub(super) async fn shorten_restart(&self) {
        let inner = &*self.inner;
        if inner.health.has_stopped() || inner.health.refuses_writes() {
            return;
        }
        let flush_and_cut = async {
            if inner.tree.flush().await.is_ok() {
                let _ = self.cut_log().await;
            }
        };
        let (flush_and_cut, enough) = (pin!(flush_and_cut), pin!(inner.rt.sleep(LAST_FLUSH_MAX)));
        select(flush_and_cut, enough).await;
    }
}

impl Inner {
    /// The next entries of `range` that opening has read, as long as they are what the log has.
    pub(super) fn take_known(
        &self,
        backlog: &mut VecDeque<Entry>,
        region: RegionId,
        range: Range<u64>,
    ) -> Vec<Entry> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while backlog.pop_front_if(|entry| entry.index < range.start).is_some() {}
        for index in range {
            let is_next = |entry: &mut Entry| {
                entry.index == index && self.log.term(region.0, index) == Some(entry.term)
            };
            let Some(entry) = backlog.pop_front_if(is_next) else { break };
            bytes += entry.payload.len();
            taken.push(entry);
            if bytes >= REPLAY_BYTES_MAX {
                break;
            }
        }
        taken
    }
}
