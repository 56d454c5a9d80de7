//! What each number of a store is called on the page that is about its part in a cluster: its groups, what it says and hears of other
//! stores, snapshots. One row per metric; none has a series per region.

use super::table::{Row, histogram, metric, rows, sample};
use super::{Labels, Metric, MetricKind, Sample, Value};
use crate::gateway::GatewayNumbers;
use crate::region::message::MessageKind;
use crate::secret::Unproven;
use crate::shard::counters::StoreNumbers;
use crate::shard::outbox::ByKind;

use MetricKind::{Counter, Gauge, Histogram};

/// What the replicas of a store are, and what elections came to.
const GROUPS: &[Row<StoreNumbers>] = &[
    Row(metric("ringkeep_store_leaders", Gauge, "Regions that the store leads."), |s| s.groups.leaders),
    Row(
        metric(
            "ringkeep_store_replicas_asleep",
            Gauge,
            "Replicas on the store that sleep because their groups have no work.",
        ),
        |s| s.groups.asleep,
    ),
    Row(
        metric(
            "ringkeep_store_regions_without_leader",
            Gauge,
            "Groups on the store that know no leader, that of the scheduler's state included.",
        ),
        |s| s.groups.without_leader,
    ),
    Row(
        metric(
            "ringkeep_store_replica_reads_total",
            Counter,
            "Reads that were answered here although another store led, after it had been asked (replica_read).",
        ),
        |s| s.replica_reads,
    ),
    Row(
        metric(
            "ringkeep_store_pending_peers",
            Gauge,
            "Followers of groups that the store leads that are not caught up.",
        ),
        |s| s.groups.pending_peers,
    ),
    Row(
        metric(
            "ringkeep_store_down_peers",
            Gauge,
            "Followers of groups that the store leads that have been silent for two election timeouts.",
        ),
        |s| s.groups.down_peers,
    ),
    Row(
        metric(
            "ringkeep_replication_lag_entries",
            Gauge,
            "Entries that followers are not known to have, over all groups that the store leads.",
        ),
        |s| s.groups.lag.entries,
    ),
    Row(
        metric(
            "ringkeep_replication_lag_max_entries",
            Gauge,
            "Entries that the follower is not known to have that lacks most.",
        ),
        |s| s.groups.lag.max_entries,
    ),
    Row(
        metric(
            "ringkeep_replication_lag_bytes",
            Gauge,
            "About how many bytes of this store's log followers are not known to have, over all groups that the store leads.",
        ),
        |s| s.groups.lag.bytes,
    ),
    Row(
        metric(
            "ringkeep_replication_lag_max_bytes",
            Gauge,
            "About how many bytes of this store's log the follower is not known to have that lacks most.",
        ),
        |s| s.groups.lag.max_bytes,
    ),
    Row(
        metric("ringkeep_raft_elections_started_total", Counter, "Elections started by replicas here."),
        |s| s.elections.started,
    ),
    Row(metric("ringkeep_raft_elections_won_total", Counter, "Elections won by replicas here."), |s| {
        s.elections.won
    }),
    Row(
        metric(
            "ringkeep_raft_leader_changes_total",
            Counter,
            "Times that a replica here heard of another leader, or of another term of the same one.",
        ),
        |s| s.elections.leader_changes,
    ),
];

/// What a store says to others and hears of them.
const PEERS: &[Row<StoreNumbers>] = &[
    Row(
        metric(
            "ringkeep_peer_messages_taken_total",
            Counter,
            "Messages of other stores that a replica accepted.",
        ),
        |s| s.messages_stepped,
    ),
    Row(
        metric(
            "ringkeep_peer_sent_bytes_total",
            Counter,
            "Bytes written to connections of other stores, snapshots included.",
        ),
        |s| s.peers.bytes_sent,
    ),
    Row(
        metric(
            "ringkeep_peer_received_bytes_total",
            Counter,
            "Bytes that arrived from other stores, snapshots included.",
        ),
        |s| s.peers.bytes_received,
    ),
    Row(
        metric(
            "ringkeep_peer_queued_bytes",
            Gauge,
            "Bytes of messages that wait to be sent to other stores.",
        ),
        |s| s.peers.queued_bytes,
    ),
    Row(
        metric("ringkeep_peer_connections", Gauge, "Connections for messages that are open to other stores."),
        |s| s.peers.open,
    ),
    Row(
        metric("ringkeep_peer_connections_opened_total", Counter, "Connections opened to other stores."),
        |s| s.peers.connected,
    ),
    Row(
        metric(
            "ringkeep_peer_connections_failed_total",
            Counter,
            "Attempts to connect to another store that failed.",
        ),
        |s| s.peers.connect_failed,
    ),
    Row(
        metric("ringkeep_peer_connections_lost_total", Counter, "Connections to other stores that broke."),
        |s| s.peers.broken,
    ),
    Row(
        metric(
            "ringkeep_peer_connections_accepted_total",
            Counter,
            "Connections of other stores that were accepted.",
        ),
        |s| s.peers.accepted,
    ),
    Row(
        metric(
            "ringkeep_peer_connections_refused_total",
            Counter,
            "Connections for peers that were refused, or did not introduce themselves.",
        ),
        |s| s.peers.rejected,
    ),
    Row(
        metric(
            "ringkeep_peer_bad_frames_total",
            Counter,
            "Connections of other stores that were closed because of an invalid frame.",
        ),
        |s| s.peers.bad_frames,
    ),
    Row(
        metric(
            "ringkeep_peer_stores_unreachable",
            Gauge,
            "Other stores that there are messages for and that were not reached.",
        ),
        |s| s.peers.unreachable,
    ),
];

/// Snapshots.
const SNAPSHOTS: &[Row<StoreNumbers>] = &[
    Row(metric("ringkeep_snapshots_sent_total", Counter, "Snapshots that followers have installed."), |s| {
        s.snapshots.sent
    }),
    Row(
        metric(
            "ringkeep_snapshots_failed_total",
            Counter,
            "Snapshots that were not installed by their followers.",
        ),
        |s| s.snapshots.failed,
    ),
    Row(
        metric("ringkeep_snapshots_received_total", Counter, "Snapshots that this store has installed."),
        |s| s.snapshots.received,
    ),
    Row(metric("ringkeep_snapshot_sent_bytes_total", Counter, "Bytes of snapshots sent."), |s| {
        s.snapshots.bytes_sent
    }),
    Row(metric("ringkeep_snapshot_received_bytes_total", Counter, "Bytes of snapshots that arrived."), |s| {
        s.snapshots.bytes_received
    }),
    Row(
        metric(
            "ringkeep_relocated_bytes_total",
            Counter,
            "Bytes of tables handed over to other stores of the node by second names; none of them was read, written or sent.",
        ),
        |s| s.snapshots.relocated_bytes,
    ),
    Row(metric("ringkeep_snapshots_sending", Gauge, "Snapshots that are being sent."), |s| {
        s.snapshots_sending
    }),
    Row(
        metric(
            "ringkeep_snapshots_receiving",
            Gauge,
            "Snapshots that are being received, or whose sender may come back.",
        ),
        |s| s.snapshots_receiving,
    ),
];

const TRANSFERS: Metric = metric(
    "ringkeep_raft_transfers_total",
    Counter,
    "Transfers of leadership that replicas here were asked for, by outcome.",
);
const STAGES: Metric = metric(
    "ringkeep_proposal_seconds",
    Histogram,
    "Time that proposals of this store spent in a stage, in seconds: queue until they are proposed, log until they are durable here, replicate until they are committed, apply until they are applied.",
);
const SENT: Metric = metric(
    "ringkeep_peer_messages_sent_total",
    Counter,
    "Messages written to connections of other stores, by kind.",
);
const RECEIVED: Metric = metric(
    "ringkeep_peer_messages_received_total",
    Counter,
    "Messages of other stores that arrived, by kind.",
);
const DROPPED: Metric = metric(
    "ringkeep_peer_messages_dropped_total",
    Counter,
    "Messages to other stores that were dropped, by kind and reason; consensus repeats what matters.",
);
const QUEUED: Metric =
    metric("ringkeep_peer_queued_messages", Gauge, "Messages that wait to be sent to other stores, by kind.");
const REFUSED: Metric = metric(
    "ringkeep_peer_messages_refused_total",
    Counter,
    "Messages of other stores that no replica accepted, by reason.",
);
const SNAPSHOTS_REFUSED: Metric = metric(
    "ringkeep_snapshots_refused_total",
    Counter,
    "Snapshots of other stores that were refused, by reason.",
);

const MERGES: Metric = metric(
    "ringkeep_merges_total",
    Counter,
    "Merges of regions, by outcome, on the store that leads them: begun (a region stopped, to be taken in), done, rolled_back (it went on, because its neighbour could not).",
);
const MERGES_REFUSED: Metric = metric(
    "ringkeep_merges_refused_total",
    Counter,
    "Merges that were asked of this store and not begun, by reason; the scheduler asks again.",
);

const UNPROVEN: Metric = metric(
    "ringkeep_unauthenticated_total",
    Counter,
    "Connections and calls of nodes and operators that were refused because of the cluster_secret, by entrance (peer, pd) and reason: missing, wrong, unset (proved, and none is set here).",
);

/// What a core has sent to other nodes, and again.
const GATEWAY: &[Row<GatewayNumbers>] = &[
    Row(
        metric(
            "ringkeep_remote_requests_in_flight",
            Gauge,
            "Operations that were sent to stores of other nodes and are not answered yet.",
        ),
        |g| g.remote.in_flight,
    ),
    Row(
        metric(
            "ringkeep_remote_connections_opened_total",
            Counter,
            "Connections for operations that were opened to stores of other nodes.",
        ),
        |g| g.remote.connected,
    ),
    Row(
        metric(
            "ringkeep_remote_connections_failed_total",
            Counter,
            "Attempts to open a connection for operations that failed.",
        ),
        |g| g.remote.connect_failed,
    ),
    Row(
        metric("ringkeep_remote_connections_lost_total", Counter, "Connections for operations that broke."),
        |g| g.remote.broken,
    ),
    Row(
        metric(
            "ringkeep_retries_waiting",
            Gauge,
            "Operations that wait to be sent again, for newer routes or for a leader.",
        ),
        |g| g.waiting,
    ),
    Row(
        metric(
            "ringkeep_retries_total",
            Counter,
            "Times that an operation was sent again, because its region had moved or had no leader.",
        ),
        |g| g.retried,
    ),
    Row(
        metric(
            "ringkeep_retries_expired_total",
            Counter,
            "Operations that were refused in the end, because their region was not found in time.",
        ),
        |g| g.expired,
    ),
];

const REMOTE: Metric = metric(
    "ringkeep_remote_requests_total",
    Counter,
    "Operations that were sent to stores of other nodes, by outcome: done, moved (refused and to be sent again), refused, unreached (not carried out), unknown.",
);

/// What a core says of operations that it sent to other nodes, or again.
pub(super) fn of_core(gateway: &GatewayNumbers, labels: &Labels, into: &mut Vec<Sample>) {
    rows(GATEWAY, gateway, labels, into);
    let remote = &gateway.remote;
    let outcomes = [
        ("done", remote.done),
        ("moved", remote.moved),
        ("refused", remote.refused),
        ("unreached", remote.unreached),
        ("unknown", remote.unknown),
    ];
    by(&REMOTE, "outcome", &outcomes, labels, into);
}

/// Who was refused at an entrance because of the cluster's secret.
pub(super) fn unproven(
    entrance: &str,
    counts: &[u64; Unproven::COUNT],
    labels: &Labels,
    into: &mut Vec<Sample>,
) {
    let mut labels = labels.clone();
    labels.push(("entrance", entrance.to_owned()));
    let counts: Vec<(&str, u64)> = Unproven::NAMES.into_iter().zip(counts.iter().copied()).collect();
    by(&UNPROVEN, "reason", &counts, &labels, into);
}

/// What a store says of its part in a cluster.
pub(super) fn samples(store: &StoreNumbers, labels: &Labels, into: &mut Vec<Sample>) {
    rows(GROUPS, store, labels, into);
    rows(PEERS, store, labels, into);
    rows(SNAPSHOTS, store, labels, into);
    let elections = &store.elections;
    let transfers = [("done", elections.transfers_done), ("failed", elections.transfers_failed)];
    by(&TRANSFERS, "outcome", &transfers, labels, into);
    let merges = &store.merges;
    let outcomes = [("begun", merges.begun), ("done", merges.done), ("rolled_back", merges.rolled_back)];
    by(&MERGES, "outcome", &outcomes, labels, into);
    by(&MERGES_REFUSED, "reason", &merges.refused, labels, into);
    for (stage, times) in &store.stages {
        histogram(&STAGES, labels, Some(("stage", stage)), times, into);
    }
    let peers = &store.peers;
    unproven("peer", &peers.unproven, labels, into);
    by_kind(&SENT, &peers.messages_sent, labels, into);
    by_kind(&RECEIVED, &peers.messages_received, labels, into);
    by_kind(&QUEUED, &peers.queued_messages, labels, into);
    for (reason, counts) in [("full", &peers.dropped_full), ("unreachable", &peers.dropped_unreachable)] {
        let mut labels = labels.clone();
        labels.push(("reason", reason.to_owned()));
        by_kind(&DROPPED, counts, &labels, into);
    }
    by(&REFUSED, "reason", &store.messages_lost, labels, into);
    by(&SNAPSHOTS_REFUSED, "reason", &store.snapshots.refused, labels, into);
}

/// A sample per value of a label.
fn by(
    metric: &'static Metric,
    label: &'static str,
    counts: &[(&str, u64)],
    labels: &Labels,
    into: &mut Vec<Sample>,
) {
    let one =
        |(value, count): &(&str, u64)| sample(metric, labels, Some((label, value)), Value::Number(*count));
    into.extend(counts.iter().map(one));
}

fn by_kind(metric: &'static Metric, counts: &ByKind, labels: &Labels, into: &mut Vec<Sample>) {
    let counts: Vec<(&str, u64)> = MessageKind::NAMES.into_iter().zip(counts.iter().copied()).collect();
    by(metric, "kind", &counts, labels, into);
}
