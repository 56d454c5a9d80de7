//! What each number of a core is called on the page. One row per metric; a number without a row is not published.

use engine::log::LogStats;
use engine::lsm::TreeStats;

use super::{Labels, Metric, MetricKind, Sample, Value, cluster, scheduler};
use crate::memory::PoolUse;
use crate::metrics::HistogramNumbers;
use crate::shard::counters::StoreNumbers;
use crate::wire::board::CoreReport;
use crate::wire::resp;

use MetricKind::{Counter, Gauge, Histogram};

/// A row: the metric, and how its number is read from `R`.
pub(super) struct Row<R>(pub(super) Metric, pub(super) fn(&R) -> u64);

pub(super) const fn metric(name: &'static str, kind: MetricKind, help: &'static str) -> Metric {
    Metric { name, help, kind }
}

const COMMANDS: Metric = metric("ringkeep_resp_commands_total", Counter, "RESP commands answered, by name.");
const RESP_LATENCY: Metric = metric(
    "ringkeep_resp_command_seconds",
    Histogram,
    "Time from having read a RESP command to having its answer, in seconds, by kind.",
);
const WRITE_LATENCY: Metric = metric(
    "ringkeep_store_write_seconds",
    Histogram,
    "Time from the arrival of a write at its store to its answer, in seconds.",
);
const LOG_WRITE: Metric =
    metric("ringkeep_log_write_seconds", Histogram, "Duration of one durable write of the log, in seconds.");
const REFUSED: Metric = metric(
    "ringkeep_store_refused_total",
    Counter,
    "Operations refused, by reason; invalid_request is the client's own mistake.",
);
const WRITE_DELAY: Metric = metric(
    "ringkeep_lsm_write_delay_seconds_total",
    Counter,
    "Time that writers were delayed so that flushes and compactions keep up.",
);
const WRITE_STOP: Metric = metric(
    "ringkeep_lsm_write_stop_seconds_total",
    Counter,
    "Time during which nothing could be written because flushes or compactions were too far behind.",
);
const GRPC_REQUESTS: Metric = metric(
    "ringkeep_grpc_requests_total",
    Counter,
    "gRPC requests ended, by method and status; a command of a batch counts under the status that it would have alone.",
);
const BUSY: Metric = metric(
    "ringkeep_core_busy_seconds_total",
    Counter,
    "CPU time of the core's thread in seconds; its rate is the share of the core that is used.",
);
const POOL: Metric = metric(
    "ringkeep_memory_pool_bytes",
    Gauge,
    "Memory that requests, answers, frames of other stores, handles of many keys and reads from disk take now, in bytes, by pool.",
);
const POOL_MAX: Metric = metric(
    "ringkeep_memory_pool_max_bytes",
    Gauge,
    "What a pool of ringkeep_memory_pool_bytes may take before connections are not read from and values not read, in bytes.",
);
const LEVEL_TABLES: Metric = metric("ringkeep_lsm_tables", Gauge, "Tables of the tree, by level.");
const LEVEL_BYTES: Metric =
    metric("ringkeep_lsm_table_bytes", Gauge, "Bytes of the tree's tables, by level.");

const RESP_MAX: Metric = metric(
    "ringkeep_resp_connections_max",
    Gauge,
    "RESP connections that the node accepts at most, over all cores.",
);

const RESP: &[Row<resp::RespNumbers>] = &[
    Row(metric("ringkeep_resp_connections", Gauge, "Open RESP connections."), |s| s.open),
    Row(metric("ringkeep_resp_connections_accepted_total", Counter, "RESP connections accepted."), |s| {
        s.accepted
    }),
    Row(
        metric("ringkeep_resp_connections_refused_total", Counter, "RESP connections refused at the bound."),
        |s| s.refused,
    ),
    Row(
        metric(
            "ringkeep_resp_connections_moved_total",
            Counter,
            "RESP connections that have come from another core, because their keys are here.",
        ),
        |s| s.moved_in,
    ),
    Row(
        metric("ringkeep_resp_accept_faults_total", Counter, "Failed attempts to accept a RESP connection."),
        |s| s.accept_faults,
    ),
    Row(metric("ringkeep_resp_rejected_total", Counter, "Requests that no RESP command fits."), |s| {
        s.rejected
    }),
    Row(
        metric(
            "ringkeep_resp_malformed_total",
            Counter,
            "Connections closed because they did not speak RESP.",
        ),
        |s| s.malformed,
    ),
    Row(
        metric(
            "ringkeep_resp_overdue_total",
            Counter,
            "RESP connections closed because what their clients had begun did not end in time.",
        ),
        |s| s.overdue,
    ),
    Row(
        metric(
            "ringkeep_resp_evicted_total",
            Counter,
            "RESP connections closed because their clients were too slow with memory that others, or the end of the node, waited for.",
        ),
        |s| s.evicted,
    ),
    Row(metric("ringkeep_resp_wrong_passwords_total", Counter, "Wrong RESP passwords."), |s| {
        s.wrong_passwords
    }),
    Row(metric("ringkeep_resp_received_bytes_total", Counter, "Bytes read from RESP clients."), |s| {
        s.bytes_in
    }),
    Row(metric("ringkeep_resp_sent_bytes_total", Counter, "Bytes written to RESP clients."), |s| s.bytes_out),
];

const CORE: &[Row<CoreReport>] = &[
    Row(metric("ringkeep_grpc_connections", Gauge, "Open gRPC connections."), |c| c.grpc.connections as u64),
    Row(
        metric("ringkeep_grpc_connections_max", Gauge, "gRPC connections that the core accepts at most."),
        |c| c.grpc_connections_max,
    ),
    Row(metric("ringkeep_grpc_connections_accepted_total", Counter, "gRPC connections accepted."), |c| {
        c.grpc.accepted
    }),
    Row(
        metric(
            "ringkeep_grpc_connections_refused_total",
            Counter,
            "gRPC connections refused at the bound, or closed there for new ones before they had asked for anything.",
        ),
        |c| c.grpc.turned_away,
    ),
    Row(
        metric(
            "ringkeep_grpc_accept_faults_total",
            Counter,
            "Failed attempts to accept a gRPC or peer connection.",
        ),
        |c| c.grpc.accept_faults,
    ),
    Row(
        metric(
            "ringkeep_grpc_evicted_total",
            Counter,
            "gRPC calls and connections ended because their clients were too slow with memory that others, or the end of the node, waited for.",
        ),
        |c| c.grpc.evicted,
    ),
    Row(metric("ringkeep_grpc_calls_total", Counter, "gRPC calls started; a stream is one call."), |c| {
        c.grpc.calls
    }),
    Row(metric("ringkeep_grpc_calls_running", Gauge, "gRPC calls that run; a stream is one call."), |c| {
        c.grpc.running as u64
    }),
    Row(metric("ringkeep_grpc_calls_running_max", Gauge, "gRPC calls that the core runs at most."), |c| {
        c.grpc.running_max as u64
    }),
    Row(metric("ringkeep_grpc_broken_total", Counter, "gRPC connections ended by an error."), |c| {
        c.grpc.broken
    }),
    Row(
        metric(
            "ringkeep_forwarded_operations",
            Gauge,
            "Operations sent to other cores and not answered yet.",
        ),
        |c| c.forwarded,
    ),
];

const STORE: &[Row<StoreNumbers>] = &[
    Row(metric("ringkeep_store_reads_total", Counter, "Keys read one by one or in batches."), |s| s.reads),
    Row(metric("ringkeep_store_scans_total", Counter, "Range reads."), |s| s.scans),
    Row(
        metric(
            "ringkeep_store_reads_abandoned_total",
            Counter,
            "Reads stopped because the client had canceled them.",
        ),
        |s| s.reads_abandoned,
    ),
    Row(metric("ringkeep_store_applied_entries_total", Counter, "Log entries applied."), |s| s.applied),
    Row(metric("ringkeep_store_regions", Gauge, "Regions on the store."), |s| s.groups.regions),
    Row(metric("ringkeep_store_inflight_bytes", Gauge, "Bytes of writes in flight."), |s| s.inflight_bytes),
    Row(
        metric(
            "ringkeep_store_inflight_max_bytes",
            Gauge,
            "Bytes of writes in flight beyond which writes are refused as busy, small ones somewhat later.",
        ),
        |s| s.inflight_bytes_max,
    ),
    Row(metric("ringkeep_store_disk_free_bytes", Gauge, "Bytes free on the store's disk."), |s| {
        s.disk_free_bytes
    }),
    Row(
        metric(
            "ringkeep_store_stopped",
            Gauge,
            "1 once the store has stopped after a fault, or could not be opened.",
        ),
        |s| u64::from(s.health.failed),
    ),
    Row(
        metric(
            "ringkeep_store_damaged",
            Gauge,
            "Files of the store that are damaged; the rest of it is served.",
        ),
        |s| s.health.damaged_files,
    ),
    Row(
        metric(
            "ringkeep_store_incomplete_replicas",
            Gauge,
            "Replicas that lack what was acknowledged: the directory is an older copy, or its disk has lost data.",
        ),
        |s| s.health.incomplete_replicas,
    ),
    Row(
        metric(
            "ringkeep_log_in_doubt",
            Gauge,
            "1 if what this start cut off at the end of the log may have been acknowledged.",
        ),
        |s| u64::from(s.health.in_doubt.is_some()),
    ),
    Row(metric("ringkeep_store_refuses_writes", Gauge, "1 while the store refuses writes."), |s| {
        u64::from(s.health.refuses_writes)
    }),
    Row(metric("ringkeep_log_writes_total", Counter, "Durable writes of the log."), |s| s.log_writes),
    Row(
        metric("ringkeep_log_bytes_total", Counter, "Bytes written as log records, padding left out."),
        |s| s.log_bytes,
    ),
    Row(
        metric(
            "ringkeep_log_groups_total",
            Counter,
            "Groups over all log writes; per write, the group commit's width.",
        ),
        |s| s.log_groups,
    ),
    Row(
        metric(
            "ringkeep_log_operations_total",
            Counter,
            "Operations over all log writes; per write, the batch size.",
        ),
        |s| s.log_operations,
    ),
];

const LOG: &[Row<LogStats>] = &[
    Row(
        metric("ringkeep_log_padded_bytes_total", Counter, "Bytes written as log records, padding included."),
        |l| l.record_bytes,
    ),
    Row(metric("ringkeep_log_segments", Gauge, "Log segments that hold records."), |l| l.segments as u64),
    Row(metric("ringkeep_log_spare_segments", Gauge, "Log segments that are ready for use."), |l| {
        l.spare_segments as u64
    }),
    Row(metric("ringkeep_log_live_bytes", Gauge, "Bytes of the log that a region still needs."), |l| {
        l.live_bytes
    }),
    Row(metric("ringkeep_log_cache_bytes", Gauge, "Bytes of recent log records in memory."), |l| {
        l.cache_bytes as u64
    }),
    Row(metric("ringkeep_log_cache_max_bytes", Gauge, "Bytes of log records that memory may hold."), |l| {
        l.cache_bytes_max as u64
    }),
    Row(metric("ringkeep_log_queued_batches", Gauge, "Batches that wait for a log write."), |l| {
        l.queued_batches as u64
    }),
    Row(metric("ringkeep_log_disk_full", Gauge, "1 while the disk has no room for the log."), |l| {
        u64::from(l.disk_full)
    }),
    Row(
        metric(
            "ringkeep_log_waits",
            Gauge,
            "1 while the log waits for space, descriptors or memory of the kernel.",
        ),
        |l| u64::from(l.waits),
    ),
    Row(
        metric("ringkeep_log_cut_bytes", Gauge, "Bytes that this start cut off at the end of the log."),
        |l| l.cut_bytes,
    ),
    Row(
        metric(
            "ringkeep_log_cut_entries",
            Gauge,
            "Entries in what this start cut off at the end of the log, as far as they could be made out.",
        ),
        |l| l.cut_entries,
    ),
];

const TREE: &[Row<TreeStats>] = &[
    Row(
        metric("ringkeep_lsm_memtable_bytes", Gauge, "Memory of memtables, those being flushed included."),
        |t| t.memtable_bytes,
    ),
    Row(
        metric(
            "ringkeep_lsm_memtable_max_bytes",
            Gauge,
            "Memory that memtables may fill before writers are stopped.",
        ),
        |t| t.memtable_bytes_max,
    ),
    Row(metric("ringkeep_lsm_closed_memtables", Gauge, "Memtables that wait to be flushed."), |t| {
        t.closed_memtables
    }),
    Row(metric("ringkeep_lsm_cache_bytes", Gauge, "Memory of the block cache."), |t| t.cache_bytes),
    Row(metric("ringkeep_lsm_cache_max_bytes", Gauge, "Memory that the block cache may have."), |t| {
        t.cache_bytes_max
    }),
    Row(metric("ringkeep_lsm_cache_hits_total", Counter, "Blocks found in the block cache."), |t| {
        t.cache_hits
    }),
    Row(metric("ringkeep_lsm_cache_misses_total", Counter, "Blocks not found in the block cache."), |t| {
        t.cache_misses
    }),
    Row(
        metric(
            "ringkeep_lsm_range_delete_bytes",
            Gauge,
            "Memory of the range deletes of tables, for which the block cache leaves room.",
        ),
        |t| t.range_delete_bytes,
    ),
    Row(metric("ringkeep_lsm_row_cache_bytes", Gauge, "Memory of the row cache."), |t| t.row_cache_bytes),
    Row(metric("ringkeep_lsm_row_cache_max_bytes", Gauge, "Memory that the row cache may have."), |t| {
        t.row_cache_bytes_max
    }),
    Row(metric("ringkeep_lsm_row_cache_hits_total", Counter, "Reads answered by the row cache."), |t| {
        t.row_cache_hits
    }),
    Row(metric("ringkeep_lsm_disk_full", Gauge, "1 while a flush or compaction waits for space."), |t| {
        u64::from(t.disk_full)
    }),
    Row(
        metric(
            "ringkeep_lsm_waits",
            Gauge,
            "1 while a flush or compaction waits for space, descriptors or memory of the kernel.",
        ),
        |t| u64::from(t.waits),
    ),
    Row(metric("ringkeep_lsm_open_tables", Gauge, "Table files open for reading."), |t| t.open_tables),
    Row(metric("ringkeep_lsm_open_tables_max", Gauge, "Table files that may be open for reading."), |t| {
        t.open_tables_max
    }),
    Row(
        metric(
            "ringkeep_lsm_pending_compaction_bytes",
            Gauge,
            "About how many bytes compactions have to rewrite until none is due.",
        ),
        |t| t.pending_compaction_bytes,
    ),
    Row(
        metric(
            "ringkeep_lsm_write_rate_max_bytes",
            Gauge,
            "Rate to which writers are slowed down, bytes per second; 0 without a limit.",
        ),
        |t| t.write_bytes_per_second_max,
    ),
    Row(metric("ringkeep_lsm_flushes_total", Counter, "Memtables flushed."), |t| t.flushes),
    Row(metric("ringkeep_lsm_flushed_bytes_total", Counter, "Bytes of tables written by flushes."), |t| {
        t.flushed_bytes
    }),
    Row(
        metric(
            "ringkeep_lsm_compactions_total",
            Counter,
            "Compactions finished, without those that only moved a table.",
        ),
        |t| t.compactions,
    ),
    Row(
        metric("ringkeep_lsm_compacted_bytes_total", Counter, "Bytes of tables written by compactions."),
        |t| t.compacted_bytes,
    ),
    Row(
        metric(
            "ringkeep_lsm_expired_total",
            Counter,
            "Values that flushes and compactions have dropped because they expired a day ago or earlier.",
        ),
        |t| t.expired,
    ),
];

/// Everything that a core says.
pub(super) fn samples(core: &CoreReport) -> impl Iterator<Item = Sample> {
    let labels: Labels = vec![("core", core.core.to_string())];
    let mut samples = Vec::new();
    rows(CORE, core, &labels, &mut samples);
    // The scheduler shard serves no RESP.
    if core.resp_connections_max > 0 {
        cluster::of_core(&core.gateway, &labels, &mut samples);
        rows(RESP, &core.resp, &labels, &mut samples);
        samples.push(sample(&RESP_MAX, &labels, None, Value::Number(core.resp_connections_max)));
        for (command, count) in core.resp.commands.iter().filter(|(_, count)| *count > 0) {
            samples.push(sample(&COMMANDS, &labels, Some(("command", command)), Value::Number(*count)));
        }
        for (kind, latency) in &core.resp.latency {
            histogram(&RESP_LATENCY, &labels, Some(("kind", kind)), latency, &mut samples);
        }
    }
    samples.push(sample(&BUSY, &labels, None, Value::Seconds(core.busy.as_secs_f64())));
    for PoolUse { pool, used_bytes, max_bytes } in &core.memory {
        let pool = Some(("pool", *pool));
        samples.push(sample(&POOL, &labels, pool, Value::Number(*used_bytes)));
        samples.push(sample(&POOL_MAX, &labels, pool, Value::Number(*max_bytes)));
    }
    if core.resp_connections_max == 0 {
        cluster::unproven("pd", &core.unproven, &labels, &mut samples);
    }
    for ended in &core.grpc_requests {
        let mut labels = labels.clone();
        labels.push(("method", ended.method.clone()));
        let status = Some(("status", ended.code.name()));
        samples.push(sample(&GRPC_REQUESTS, &labels, status, Value::Number(ended.count)));
    }
    if let Some(numbers) = &core.scheduler {
        scheduler::samples(numbers, &mut samples);
    }
    for store in &core.stores {
        let mut labels = labels.clone();
        labels.push(("store", store.store.to_string()));
        rows(STORE, store, &labels, &mut samples);
        for (reason, count) in &store.refused {
            samples.push(sample(&REFUSED, &labels, Some(("reason", reason)), Value::Number(*count)));
        }
        rows(LOG, &store.log, &labels, &mut samples);
        rows(TREE, &store.tree, &labels, &mut samples);
        for (wait, duration) in [(&WRITE_DELAY, store.tree.write_delay), (&WRITE_STOP, store.tree.write_stop)]
        {
            samples.push(sample(wait, &labels, None, Value::Seconds(duration.as_secs_f64())));
        }
        for (level, (tables, bytes)) in store.tree.levels.iter().enumerate() {
            let level = level.to_string();
            samples.push(sample(&LEVEL_TABLES, &labels, Some(("level", &level)), Value::Number(*tables)));
            samples.push(sample(&LEVEL_BYTES, &labels, Some(("level", &level)), Value::Number(*bytes)));
        }
        cluster::samples(store, &labels, &mut samples);
        histogram(&WRITE_LATENCY, &labels, None, &store.write_latency, &mut samples);
        histogram(&LOG_WRITE, &labels, None, &store.log_write, &mut samples);
    }
    samples.into_iter()
}

pub(super) fn rows<R>(rows: &'static [Row<R>], from: &R, labels: &Labels, into: &mut Vec<Sample>) {
    into.extend(rows.iter().map(|Row(metric, read)| sample(metric, labels, None, Value::Number(read(from)))));
}

pub(super) fn histogram(
    metric: &'static Metric,
    labels: &Labels,
    further: Option<(&'static str, &str)>,
    snapshot: &HistogramNumbers,
    into: &mut Vec<Sample>,
) {
    into.push(sample(metric, labels, further, Value::Histogram(snapshot.clone())));
}

pub(super) fn sample(
    metric: &'static Metric,
    labels: &Labels,
    further: Option<(&'static str, &str)>,
    value: Value,
) -> Sample {
    let mut labels = labels.clone();
    labels.extend(further.map(|(name, value)| (name, value.to_owned())));
    Sample { metric, labels, value }
}
