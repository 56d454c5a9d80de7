//! Every number on the page moves when what it counts happens, or is named here with the reason why it does not change in this test.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use bench::process::Node;

use crate::host::{ask_members, directory, get, resp, start};
use crate::tidy::sources;

/// Pages compared before a number counts as unchanged; several have been made anew by then.
const ROUNDS: usize = 12;

/// Numbers that do not change in this test: why not, and the test that sees them change on the page.
const STANDS_STILL: &[(&str, &str, &str)] = &[
    (
        "ringkeep_core_stalls_total",
        "no core hangs here",
        "a_core_that_one_task_holds_is_on_the_page_while_it_is_held_and_afterwards",
    ),
    (
        "ringkeep_core_still_seconds",
        "no core hangs here",
        "a_core_that_one_task_holds_is_on_the_page_while_it_is_held_and_afterwards",
    ),
    (
        "ringkeep_forwarded_operations",
        "one core has no other core to forward to",
        "operations_that_wait_on_another_core_are_on_the_page",
    ),
    (
        "ringkeep_grpc_broken_total",
        "no connection breaks here",
        "malformed_frames_close_their_own_connection_only",
    ),
    (
        "ringkeep_grpc_accept_faults_total",
        "descriptors are left",
        "a_grpc_listener_without_descriptors_pauses_and_serves_afterwards",
    ),
    (
        "ringkeep_grpc_calls_running",
        "a call is over when the page is read",
        "a_call_ends_with_its_stream_or_its_connection",
    ),
    (
        "ringkeep_grpc_connections",
        "the test closes its connections at once",
        "one_connection_too_many_is_turned_away",
    ),
    (
        "ringkeep_grpc_connections_refused_total",
        "nowhere near the bound",
        "one_connection_too_many_is_turned_away",
    ),
    (
        "ringkeep_grpc_evicted_total",
        "nothing waits for memory here",
        "calls_that_stall_half_way_give_back_memory_and_their_connection",
    ),
    (
        "ringkeep_lsm_expired_total",
        "nothing expires here, let alone a day ago",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_log_cut_bytes",
        "nothing is damaged here",
        "a_cut_that_is_in_doubt_is_shown_until_the_next_start",
    ),
    (
        "ringkeep_log_cut_entries",
        "nothing is damaged here",
        "a_cut_that_is_in_doubt_is_shown_until_the_next_start",
    ),
    ("ringkeep_log_disk_full", "the disk has space", "numbers_of_a_full_disk_rise_and_fall_with_it"),
    (
        "ringkeep_log_in_doubt",
        "nothing is damaged here",
        "a_cut_that_is_in_doubt_is_shown_until_the_next_start",
    ),
    (
        "ringkeep_log_lines_dropped_total",
        "standard error is not blocked",
        "lines_that_a_slow_reader_of_standard_error_costs_are_counted_on_the_page",
    ),
    (
        "ringkeep_log_lines_suppressed_total",
        "no call site repeats itself",
        "lines_of_a_statement_that_repeats_itself_are_counted_on_the_page",
    ),
    (
        "ringkeep_log_queued_batches",
        "a queue that is empty without writers",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_log_waits",
        "nothing is short",
        "what_log_and_tree_wait_for_is_said_when_it_begins_and_when_it_ends",
    ),
    (
        "ringkeep_log_write_age_seconds",
        "the disk does not hang",
        "a_log_write_that_hangs_is_seen_from_outside",
    ),
    (
        "ringkeep_lsm_cache_bytes",
        "everything is read from memtables here",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_lsm_cache_hits_total",
        "everything is read from memtables here",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_lsm_cache_misses_total",
        "everything is read from memtables here",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_lsm_closed_memtables",
        "nothing fills a memtable here",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_lsm_compacted_bytes_total",
        "nothing fills a level here",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_lsm_compactions_total",
        "nothing fills a level here",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    ("ringkeep_lsm_disk_full", "the disk has space", "numbers_of_a_full_disk_rise_and_fall_with_it"),
    (
        "ringkeep_lsm_flushed_bytes_total",
        "the second life begins with what the first one has flushed",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_lsm_flushes_total",
        "the second life begins with what the first one has flushed",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_lsm_open_tables",
        "nothing is read from tables here",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_lsm_pending_compaction_bytes",
        "nothing fills a level here",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_lsm_range_delete_bytes",
        "nothing is deleted by ranges here",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_lsm_row_cache_bytes",
        "everything is read from memtables here",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_lsm_row_cache_hits_total",
        "everything is read from memtables here",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_lsm_waits",
        "nothing is short",
        "what_log_and_tree_wait_for_is_said_when_it_begins_and_when_it_ends",
    ),
    (
        "ringkeep_lsm_write_delay_seconds_total",
        "nothing fills a level here",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_lsm_write_rate_max_bytes",
        "nothing fills a level here",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_lsm_write_stop_seconds_total",
        "nothing fills a level here",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_resp_accept_faults_total",
        "descriptors are left",
        "a_resp_listener_without_descriptors_pauses_and_serves_afterwards",
    ),
    (
        "ringkeep_resp_connections_moved_total",
        "one core has no other to migrate connections to",
        "connections_migrate_to_the_core_of_their_keys_and_lose_nothing",
    ),
    (
        "ringkeep_resp_connections_refused_total",
        "nowhere near the bound",
        "wrong_passwords_and_refused_connections_are_logged_and_counted",
    ),
    (
        "ringkeep_resp_evicted_total",
        "nothing waits for memory here",
        "who_drips_does_not_keep_memory_that_others_wait_for",
    ),
    (
        "ringkeep_resp_overdue_total",
        "every request ends here",
        "a_request_that_begins_and_does_not_end_is_counted",
    ),
    (
        "ringkeep_scheduler_operators_running",
        "nothing to do for a scheduler here",
        "every_number_of_the_scheduler_moves",
    ),
    (
        "ringkeep_scheduler_operators_total",
        "nothing to do for a scheduler here",
        "every_number_of_the_scheduler_moves",
    ),
    (
        "ringkeep_merges_refused_total",
        "no merge is asked for here",
        "regions_are_merged_on_request_and_every_number_of_merges_moves",
    ),
    (
        "ringkeep_merges_total",
        "no merge is asked for here",
        "regions_are_merged_on_request_and_every_number_of_merges_moves",
    ),
    (
        "ringkeep_relocated_bytes_total",
        "one core has no other core to move a region to",
        "regions_move_between_stores_of_a_node_under_load_and_power_cuts",
    ),
    (
        "ringkeep_scheduler_load_splits_total",
        "one store has no other to share a load with",
        "a_hot_region_of_a_few_mib_is_cut_and_both_stores_serve_it",
    ),
    (
        "ringkeep_scheduler_regions_busy",
        "no region is hot here",
        "a_hot_region_of_a_few_mib_is_cut_and_both_stores_serve_it",
    ),
    (
        "ringkeep_scheduler_regions_lagging",
        "no replica lags here",
        "a_replica_that_lags_for_long_is_an_ailment_and_a_number",
    ),
    (
        "ringkeep_scheduler_regions_under_replicated",
        "one replica is all that is wanted",
        "every_number_of_the_scheduler_moves",
    ),
    (
        "ringkeep_scheduler_reports_refused_total",
        "no report is stale here",
        "a_beat_builds_the_map_and_a_split_is_seen_in_it",
    ),
    (
        "ringkeep_store_damaged",
        "nothing is damaged here",
        "damage_that_a_read_meets_is_named_and_the_rest_is_served",
    ),
    (
        "ringkeep_store_incomplete_replicas",
        "nothing is missing here",
        "a_copy_that_is_not_recognised_says_what_it_lacks",
    ),
    (
        "ringkeep_store_inflight_bytes",
        "zero without writers",
        "numbers_of_a_tree_and_its_log_move_under_writes_and_reads",
    ),
    (
        "ringkeep_store_reads_abandoned_total",
        "every read is waited for",
        "a_read_that_no_client_waits_for_stops",
    ),
    ("ringkeep_store_refuses_writes", "the disk has space", "numbers_of_a_full_disk_rise_and_fall_with_it"),
    (
        "ringkeep_store_stopped",
        "the disk does not fail",
        "a_store_that_stops_answers_what_waits_and_takes_no_more_turns",
    ),
    (
        "ringkeep_unauthenticated_total",
        "no node or operator calls here",
        "every_connection_between_stores_needs_the_secret",
    ),
];

/// The test that sees each number of [`OF_A_CLUSTER`] move.
const IN_A_CLUSTER: &str = "every_number_of_a_cluster_moves";

/// Numbers of what a node does with others, of which this one has none.
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
    "ringkeep_store_replicas_asleep",
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
        STANDS_STILL.iter().map(|(name, ..)| *name).chain(OF_A_CLUSTER.iter().copied()).collect();
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

/// An excuse is as good as its test: there is one of that name, and its file spells out the number, or the beginning of its name where
/// the test goes through all that begin so.
#[test]
fn every_excuse_names_a_test_that_looks_at_the_number() {
    let sources = sources();
    let in_a_cluster = OF_A_CLUSTER.iter().map(|name| (*name, IN_A_CLUSTER));
    let excuses = STANDS_STILL.iter().map(|(name, _, test)| (*name, *test)).chain(in_a_cluster);
    let mut bad = Vec::new();
    for (name, test) in excuses {
        let begins = format!("fn {test}(");
        let file = sources.iter().find(|(path, text)| {
            text.find(&begins).is_some_and(|at| text[..at].trim_end().ends_with("#[test]"))
                && path != Path::new("ops/tests/it/metrics.rs")
        });
        match file {
            None => bad.push(format!("{name}: there is no test {test}")),
            Some((path, text)) if !spells_out(text, name) => {
                bad.push(format!("{name}: {} does not look at it", path.display()));
            }
            Some(_) => {}
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

/// Whether `text` has a string that is this name, with labels or without, or the beginning of it.
fn spells_out(text: &str, name: &str) -> bool {
    text.match_indices("\"ringkeep_").any(|(at, _)| {
        let word: &str = text[at + 1..].split(['"', '{']).next().unwrap_or_default();
        word == name || word.ends_with('_') && name.starts_with(word)
    })
}
