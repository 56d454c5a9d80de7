//! When a map that was just begun is full enough to act on.
//!
//! A new scheduler leader knows no region. If it acted at once, the first region reported would look like the only one,
//! every store would look empty, and replicas whose leaders have not reported yet would look missing. So nothing is
//! scheduled until the regions that were reported cover every key, or enough of them were, over all and on each store in use, or until
//! waiting longer would be worse. A store that is gone reports nothing, and keeps no new leader from repairing what was on it.

use crate::cluster::Cluster;
use crate::config::Config;
use crate::store::Lifecycle;
use crate::time::Time;

/// Whether enough regions have been reported with their leader: all keys, or the configured share of the regions known, and on each
/// store in use the share of the regions that the store itself counts, or that the map knows there, if that is more.
/// A region counts once, however often it reports.
#[must_use]
pub fn is_prepared(cluster: &Cluster, config: &Config, began: Time, now: Time) -> bool {
    if now.ms_since(began) > config.prepare_timeout_ms {
        return true;
    }
    if cluster.is_whole() {
        return true;
    }
    let enough =
        |has: u64, all: u64| u128::from(has) * 100 >= u128::from(all) * u128::from(config.prepare_percent);
    let mut in_use = cluster.stores().filter(|store| store.descriptor.lifecycle == Lifecycle::Up).peekable();
    in_use.peek().is_some()
        && enough(cluster.led() as u64, cluster.len() as u64)
        && in_use.all(|store| {
            let Some(report) = &store.report else { return false };
            let counters = cluster.counters(store.id());
            enough(counters.led, counters.regions().max(report.region_count))
        })
}
