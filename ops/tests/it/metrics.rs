//! Every number on the page moves when what it counts happens, or is named here with the reason why it does not change in this test.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use bench::process::Node;

use crate::host::{ask_members, directory, get, resp, start};

/// Pages compared before a number counts as unchanged; several have been made anew by then.
const ROUNDS: usize = 12;

/// Numbers that do not change in this test, and the test that sees them change.
const STANDS_STILL: &[(&str, &str)] = &[
    (
        "ringkeep_core_still_seconds",
        "no core hangs here; engine: a_stalled_core_is_reported_once_until_it_moves",
    ),
    ("ringkeep_core_stalls_total", "no core hangs here; store: a_stall_is_counted_for_its_core"),
    ("ringkeep_forwarded_operations", "one core has no other core to forward to"),
    ("ringkeep_grpc_calls_running", "store/tests/it/grpc.rs calls"),
    ("ringkeep_store_reads_abandoned_total", "store/tests/it/grpc_ends.rs ends streams"),
    ("ringkeep_grpc_broken_total", "store/tests/it/grpc_faults.rs breaks connections"),
    ("ringkeep_grpc_connections", "the test closes its connections at once"),
    ("ringkeep_grpc_connections_refused_total", "store/tests/it/grpc_faults.rs fills a server"),
    ("ringkeep_log_cut_bytes", "server.rs: a_cut_that_is_in_doubt_is_shown_until_the_next_start"),
    ("ringkeep_log_cut_entries", "server.rs: a_cut_that_is_in_doubt_is_shown_until_the_next_start"),
    ("ringkeep_log_in_doubt", "server.rs: a_cut_that_is_in_doubt_is_shown_until_the_next_start"),
    ("ringkeep_log_disk_full", "store/tests/it/full.rs and .ci/full-disk fill disks"),
    (
        "ringkeep_log_lines_dropped_total",
        "ops: a_blocked_standard_error_costs_lines_and_no_time_and_the_loss_is_said",
    ),
    (
        "ringkeep_log_lines_suppressed_total",
        "ops: a_call_site_that_repeats_itself_is_cut_off_and_the_rest_counted",
    ),
    ("ringkeep_log_queued_batches", "a queue that is empty without writers"),
    ("ringkeep_lsm_cache_hits_total", "everything is read from memtables here; engine/tests/it/lsm"),
    ("ringkeep_lsm_cache_misses_total", "everything is read from memtables here; engine/tests/it/lsm"),
    ("ringkeep_lsm_closed_memtables", "nothing fills a memtable here; engine/tests/it/lsm"),
    ("ringkeep_lsm_compacted_bytes_total", "nothing fills a level here; engine/tests/it/lsm"),
    ("ringkeep_lsm_compactions_total", "nothing fills a level here; engine/tests/it/lsm"),
    ("ringkeep_lsm_disk_full", "store/tests/it/full.rs and .ci/full-disk fill disks"),
    ("ringkeep_lsm_flushed_bytes_total", "the second life begins with what the first one has flushed"),
    ("ringkeep_lsm_flushes_total", "the second life begins with what the first one has flushed"),
    ("ringkeep_lsm_open_tables", "nothing is read from tables here; engine/tests/it/lsm"),
    ("ringkeep_lsm_pending_compaction_bytes", "nothing fills a level here; engine/tests/it/lsm"),
    ("ringkeep_lsm_write_delay_seconds_total", "nothing fills a level here; engine/tests/it/lsm"),
    ("ringkeep_lsm_write_rate_max_bytes", "nothing fills a level here; engine/tests/it/lsm"),
    ("ringkeep_lsm_write_stop_seconds_total", "nothing fills a level here; engine/tests/it/lsm"),
    ("ringkeep_lsm_row_cache_bytes", "everything is read from memtables here; engine/tests/it/lsm"),
    ("ringkeep_lsm_row_cache_hits_total", "everything is read from memtables here; engine/tests/it/lsm"),
    ("ringkeep_lsm_cache_bytes", "everything is read from memtables here; engine/tests/it/lsm"),
    ("ringkeep_resp_accept_faults_total", "needs a process without descriptors"),
    (
        "ringkeep_resp_connections_refused_total",
        "server.rs: wrong_passwords_and_refused_connections_are_logged_and_counted",
    ),
    (
        "ringkeep_resp_connections_moved_total",
        "one core has no other to migrate connections to; store/tests/it/migration.rs",
    ),
    ("ringkeep_resp_evicted_total", "store/tests/it/stalls.rs keeps memory from others"),
    ("ringkeep_grpc_evicted_total", "store/tests/it/stalls.rs keeps memory from others"),
    ("ringkeep_store_inflight_bytes", "zero without writers"),
    ("ringkeep_log_write_age_seconds", "store: a_write_ages_until_it_ends"),
    ("ringkeep_store_damaged", "store/tests/it damages files"),
    ("ringkeep_store_refuses_writes", "store/tests/it/full.rs and .ci/full-disk fill disks"),
    ("ringkeep_resp_overdue_total", "store/tests/it: requests that begin and do not end"),
    ("ringkeep_store_stopped", "store/tests/it/crash.rs breaks disks"),
    ("ringkeep_scheduler_reports_refused_total", "store/tests/it/grpc_pd.rs reports what is stale"),
    ("ringkeep_scheduler_operators_running", "nothing to do for a scheduler here; store: joined::numbers"),
    ("ringkeep_scheduler_operators_total", "nothing to do for a scheduler here; store: joined::numbers"),
    (
        "ringkeep_scheduler_regions_under_replicated",
        "one replica is all that is wanted; store: joined::numbers",
    ),
];

/// Numbers of what a node does with others, of which this one has none; store/tests/it/cluster/numbers.rs sees each of them move.
const OF_A_CLUSTER: &[&str] = &[
    "ringkeep_peer_bad_frames_total",
    "ringkeep_peer_connections",
    "ringkeep_peer_connections_accepted_total",
    "ringkeep_peer_connections_failed_total",
    "ringkeep_peer_connections_lost_total",
    "ringkeep_peer_connections_opened_total",
    "ringkeep_peer_connections_refused_total",
    "ringkeep_peer_messages_dropped_total",
    "ringkeep_peer_messages_received_total",
    "ringkeep_peer_messages_refused_total",
    "ringkeep_peer_messages_sent_total",
    "ringkeep_peer_messages_taken_total",
    "ringkeep_peer_queued_bytes",
    "ringkeep_peer_queued_messages",
    "ringkeep_peer_received_bytes_total",
    "ringkeep_peer_sent_bytes_total",
    "ringkeep_peer_stores_unreachable",
    "ringkeep_raft_leader_changes_total",
    "ringkeep_raft_transfers_total",
    "ringkeep_remote_connections_failed_total",
    "ringkeep_remote_connections_lost_total",
    "ringkeep_remote_connections_opened_total",
    "ringkeep_remote_requests_in_flight",
    "ringkeep_remote_requests_total",
    "ringkeep_replication_lag_bytes",
    "ringkeep_replication_lag_entries",
    "ringkeep_replication_lag_max_bytes",
    "ringkeep_replication_lag_max_entries",
    "ringkeep_retries_expired_total",
    "ringkeep_retries_total",
    "ringkeep_retries_waiting",
    "ringkeep_snapshot_received_bytes_total",
    "ringkeep_snapshot_sent_bytes_total",
    "ringkeep_snapshots_failed_total",
    "ringkeep_snapshots_received_total",
    "ringkeep_snapshots_receiving",
    "ringkeep_snapshots_refused_total",
    "ringkeep_snapshots_sending",
    "ringkeep_snapshots_sent_total",
    "ringkeep_store_down_peers",
    "ringkeep_store_pending_peers",
    "ringkeep_store_regions_without_leader",
    "ringkeep_store_replica_reads_total",
];

/// The largest value of every metric, over its labels. A histogram counts as its count.
fn values(page: &str) -> BTreeMap<String, f64> {
    let mut values = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or(series);
        if name.ends_with("_bucket") || name.ends_with("_sum") {
            continue;
        }
        let name = name.strip_suffix("_count").unwrap_or(name);
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line} has no number"));
        let largest = values.entry(name.to_owned()).or_insert(value);
        *largest = value.max(*largest);
    }
    values
}

/// One of everything that a client can do right and wrong.
fn live(node: &Node) {
    resp(node.resp, "SET a 1", "+OK\r\n");
    resp(node.resp, "GET a", "$1\r\n1\r\n");
    resp(node.resp, "RANGE a b", "*");
    resp(node.resp, "AUTH guest wrong", "-WRONGPASS");
    resp(node.resp, "NOSUCH", "-ERR");
    resp(node.resp, "SET text word", "+OK\r\n");
    resp(node.resp, "INCR text", "-ERR");
    let mut broken = TcpStream::connect(node.resp).expect("it listens");
    broken.write_all(b"*1\r\n!1\r\n").expect("a socket");
    let status: serde_json::Value = serde_json::from_str(&get(node.status, "/status").1).expect("JSON");
    TcpStream::connect(status["stores"][0].as_str().expect("an address")).expect("the store listens");
    ask_members(node.status);
}

#[test]
fn every_number_moves_or_is_explained() {
    let directory = directory();
    // The first life leaves a table behind.
    let first = start(&directory);
    live(&first);
    first.process.terminate(Duration::from_secs(60)).expect("it drains");
    let node = start(&directory);
    let mut held = TcpStream::connect(node.resp).expect("it listens");
    held.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\nthe beginning of a value").expect("a socket");
    let explained: BTreeSet<&str> =
        STANDS_STILL.iter().map(|(name, _)| *name).chain(OF_A_CLUSTER.iter().copied()).collect();
    let mut still = Vec::new();
    for _ in 0..ROUNDS {
        live(&node);
        let seen = values(&get(node.status, "/metrics").1);
        let unknown: Vec<&&str> = explained.iter().filter(|name| !seen.contains_key(**name)).collect();
        assert!(unknown.is_empty(), "explained and not on the page: {unknown:?}");
        let moves = |name: &String, value: f64| value != 0.0 || explained.contains(name.as_str());
        still = seen.into_iter().filter(|(name, value)| !moves(name, *value)).map(|(name, _)| name).collect();
        if still.is_empty() {
            return;
        }
        // The page is a copy that is at most a second old, so what was done just now may show in the next one.
        bench::clock::pause(Duration::from_millis(250));
    }
    panic!("neither moved nor explained: {still:?}");
}
