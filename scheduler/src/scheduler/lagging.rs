//! Replicas that lag for long although no store is away: nothing else would say so, because a region with one has its leader and its majority.
//!
//! Invariant: only peers that their leader has named in its last report are remembered, each with when it was named first.

use super::Scheduler;
use crate::cluster::RegionInfo;
use crate::id::{PeerId, RegionId};
use crate::region::Peer;
use crate::store::Health;
use crate::time::Time;

/// A replica that is not caught up for longer than this is an ailment of the cluster; before, it may be on its way.
const LAGS_LONG_MS: u64 = 600_000;

impl Scheduler {
    /// Remembers since when which peers of a region are not caught up.
    pub(super) fn note_lagging(&mut self, id: RegionId, now: Time) {
        let before = self.lagging.remove(&id).unwrap_or_default();
        let Some(info) = self.cluster.region(id).filter(|info| !info.pending().is_empty()) else { return };
        let since = |peer: PeerId| before.iter().find(|(known, _)| *known == peer).map_or(now, |(_, at)| *at);
        let lags = info.pending().iter().map(|peer| (*peer, since(*peer))).collect();
        self.lagging.insert(id, lags);
    }

    /// Whether a replica of the region has not been caught up for ten minutes, although it and its store are heard.
    #[must_use]
    pub fn lags_long(&self, info: &RegionInfo, now: Time) -> bool {
        let is_heard = |peer: &Peer| {
            let health = self.cluster.store(peer.store).map(|store| store.health(now, &self.config));
            !info.is_down(peer.id) && matches!(health, Some(Health::Up | Health::Offline))
        };
        let lags = self.lagging.get(&info.id()).map_or(&[][..], Vec::as_slice);
        let long = lags.iter().filter(|(_, since)| now.ms_since(*since) > LAGS_LONG_MS);
        long.filter_map(|(peer, _)| info.region.peer(*peer)).any(is_heard)
    }
}
