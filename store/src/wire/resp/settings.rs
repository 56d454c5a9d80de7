//! `CONFIG GET` and `INFO`: what the server says about itself, in the words that Redis' tools read.
//!
//! Figures are those of the node: of the connection's own core as they are, of the other cores as they said at most a second
//! ago. The number of keys is exact when `INFO keyspace` asks for it and in a small node; else, or where damage keeps them from
//! being counted, it is what the trees estimate, old versions and deleted keys included. Settings are shown under Redis' names where they mean the same here.

use std::fmt::Write;

use super::command::SPECS;
use super::control::REDIS_VERSION;
use super::counters::RespNumbers;
use super::glob::Pattern;
use super::reply::Writer;
use super::request::{CommandLine, Error};
use super::server::Server;
use crate::request::VALUE_BYTES_MAX;
use crate::shard::health::{HealthReport, Standing};
use crate::wire::board::{Board, CoreReport};

/// Patterns of one `CONFIG GET`, and sections of one `INFO`.
const PATTERNS_MAX: usize = 64;

/// Answers `CONFIG GET pattern...`. The part has been checked.
pub fn config(request: &CommandLine<'_>, server: &Server, reply: &mut Writer<'_>) -> Result<(), Error> {
    if request.count() > PATTERNS_MAX + 2 {
        return Err(Error::new(format!("ERR CONFIG GET takes at most {PATTERNS_MAX} patterns")));
    }
    let lower = request.args_from(2).map(<[u8]>::to_ascii_lowercase);
    let patterns = lower.map(|pattern| Pattern::new(&pattern)).collect::<Result<Vec<_>, Error>>()?;
    let wanted = |name: &str| patterns.iter().any(|pattern| pattern.matches(name.as_bytes()));
    let shown: Vec<_> = settings(server).into_iter().filter(|(name, _)| wanted(name)).collect();
    reply.map(shown.len());
    for (name, value) in shown {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Ok(())
}

fn settings(server: &Server) -> Vec<(&'static str, String)> {
    let facts = &server.config.facts;
    vec![
        // Every write is in the log and synced before it is answered: what Redis calls appendonly with fsync always.
        ("appendfsync", "always".to_owned()),
        ("appendonly", "yes".to_owned()),
        ("databases", "1".to_owned()),
        ("dir", facts.data_dir.clone()),
        ("maxclients", server.config.connections_max.to_string()),
        ("maxmemory", facts.memory_bytes_max.to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("port", facts.port.to_string()),
        ("proto-max-bulk-len", VALUE_BYTES_MAX.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
    ]
}

/// A part of `INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The program and the host.
    Server,
    /// Connections.
    Clients,
    /// Memory.
    Memory,
    /// Durability.
    Persistence,
    /// Counts since the start.
    Stats,
    /// What Redis calls replication.
    Replication,
    /// Cores.
    Cpu,
    /// Counts by command.
    Commandstats,
    /// Cluster mode, which Redis' clients must not try.
    Cluster,
    /// Keys.
    Keyspace,
}

const SECTIONS: [(Section, &str); 10] = [
    (Section::Server, "Server"),
    (Section::Clients, "Clients"),
    (Section::Memory, "Memory"),
    (Section::Persistence, "Persistence"),
    (Section::Stats, "Stats"),
    (Section::Replication, "Replication"),
    (Section::Cpu, "CPU"),
    (Section::Commandstats, "Commandstats"),
    (Section::Cluster, "Cluster"),
    (Section::Keyspace, "Keyspace"),
];

/// Which sections `INFO section...` asks for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    sections: Vec<Section>,
    /// Keyspace was asked for by its name, so the keys are worth counting.
    pub count_keys: bool,
}

impl Wanted {
    /// Whether it asks for this section.
    pub fn has(&self, section: Section) -> bool {
        self.sections.contains(&section)
    }

    /// Reads the arguments of `INFO`. Unknown sections are empty, as in Redis.
    pub fn read(request: &CommandLine<'_>) -> Self {
        let mut wanted = Self::default();
        let every = || SECTIONS.iter().map(|(section, _)| *section);
        if request.count() == 1 {
            wanted.sections.extend(every().filter(|section| *section != Section::Commandstats));
        }
        for index in 1..request.count().min(PATTERNS_MAX) {
            match () {
                () if request.is(index, "ALL") || request.is(index, "EVERYTHING") => {
                    wanted.sections.extend(every())
                }
                () if request.is(index, "DEFAULT") => {
                    wanted.sections.extend(every().filter(|section| *section != Section::Commandstats));
                }
                () => {
                    let named = SECTIONS.iter().find(|(_, name)| request.is(index, name));
                    wanted.sections.extend(named.map(|(section, _)| *section));
                    wanted.count_keys |= named.is_some_and(|(section, _)| *section == Section::Keyspace);
                }
            }
        }
        wanted
    }
}

/// The text of `INFO`.
pub fn info(server: &Server, wanted: &Wanted, measured: Measured) -> String {
    let (mut text, node) = (String::new(), Node::of(server));
    for (section, title) in SECTIONS {
        if !wanted.sections.contains(&section) {
            continue;
        }
        let gap = if text.is_empty() { "" } else { "\r\n" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{gap}# {title}\r\n");
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            let _ = write!(text, "{name}:{value}\r\n");
        };
        write_section(section, server, &node, &measured, &mut line);
    }
    text
}

/// What has to be asked for before `INFO` is written; each is absent if it is not wanted or cannot be known.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Keys of the node.
    pub keys: Option<u64>,
    /// Why they are estimated although they were to be counted.
    pub uncounted: Option<Error>,
    /// Memory of the process, bytes.
    pub resident_bytes: Option<u64>,
}

/// The latest numbers of all cores.
struct Node {
    reports: Vec<CoreReport>,
}

impl Node {
    fn of(server: &Server) -> Self {
        let mut reports = server.config.board.as_ref().map(Board::read).unwrap_or_default();
        let (here, core) = (server.counters.snapshot(), server.rt.core());
        match reports.iter_mut().find(|report| report.core == core) {
            Some(report) => report.resp = here,
            None => reports.push(CoreReport { core, resp: here, ..CoreReport::default() }),
        }
        Self { reports }
    }

    fn sum(&self, of: impl Fn(&RespNumbers) -> u64) -> u64 {
        self.reports.iter().map(|report| of(&report.resp)).sum()
    }

    fn stores(&self) -> impl Iterator<Item = &HealthReport> {
        self.reports.iter().flat_map(|report| &report.stores).map(|store| &store.health)
    }
}

/// Bytes as Redis shows them to people.
fn human(bytes: u64) -> String {
    let units = [(1u64 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    let unit = units.into_iter().find(|(unit, _)| bytes >= *unit);
    unit.map_or(format!("{bytes}B"), |(unit, name)| format!("{:.2}{name}", bytes as f64 / unit as f64))
}

/// Where a section's lines go: a name and its value.
type Lines<'a> = dyn FnMut(&str, &dyn std::fmt::Display) + 'a;

fn write_server(server: &Server, line: &mut Lines<'_>) {
    let facts = &server.config.facts;
    let uptime = server.rt.now().since(server.began).as_secs();
    line("redis_version", &REDIS_VERSION);
    line("redis_mode", &"standalone");
    line("ringkeep_version", &facts.version);
    line("os", &"Linux");
    line("arch_bits", &usize::BITS);
    line("multiplexing_api", &"io_uring");
    line("process_id", &std::process::id());
    line("run_id", &facts.run_id);
    line("tcp_port", &facts.port);
    line("uptime_in_seconds", &uptime);
    line("uptime_in_days", &(uptime / 86_400));
    line("core", &server.rt.core());
}

fn write_persistence(node: &Node, line: &mut Lines<'_>) {
    line("loading", &u8::from(node.stores().any(|health| health.standing == Standing::Starting)));
    line("aof_enabled", &1);
    let fails = |health: &HealthReport| match health.standing {
        Standing::Starting | Standing::Serving => false,
        Standing::RefusingWrites | Standing::Damaged | Standing::Stopped => true,
    };
    let failing = node.stores().filter(|health| fails(health)).count();
    line("aof_last_write_status", if failing == 0 { &"ok" } else { &"err" });
    line("stores_not_well", &failing);
}

/// What has happened since the node started.
fn write_stats(node: &Node, line: &mut Lines<'_>) {
    line("total_connections_received", &node.sum(|core| core.accepted));
    line("total_commands_processed", &node.sum(|core| core.commands.iter().map(|(_, count)| count).sum()));
    line("total_net_input_bytes", &node.sum(|core| core.bytes_in));
    line("total_net_output_bytes", &node.sum(|core| core.bytes_out));
    line("total_reads_processed", &node.sum(|core| core.reads));
    line("total_writes_processed", &node.sum(|core| core.writes));
    line("rejected_connections", &node.sum(|core| core.refused));
    line("rejected_calls", &node.sum(|core| core.rejected));
    line("malformed_connections", &node.sum(|core| core.malformed));
    line("auth_failures", &node.sum(|core| core.wrong_passwords));
    line("keyspace_hits", &node.sum(|core| core.hits));
    line("keyspace_misses", &node.sum(|core| core.misses));
    line("expired_keys", &0);
    line("evicted_keys", &0);
    line("evicted_clients", &node.sum(|core| core.evicted));
}

fn write_section(section: Section, server: &Server, node: &Node, measured: &Measured, line: &mut Lines<'_>) {
    match section {
        Section::Server => write_server(server, line),
        Section::Clients => {
            line("connected_clients", &node.sum(|core| core.open));
            line("maxclients", &server.config.connections_max);
            line("blocked_clients", &0);
        }
        Section::Memory => {
            if let Some(bytes) = measured.resident_bytes {
                line("used_memory", &bytes);
                line("used_memory_human", &human(bytes));
                line("used_memory_rss", &bytes);
                line("used_memory_rss_human", &human(bytes));
            }
            line("maxmemory", &server.config.facts.memory_bytes_max);
            line("maxmemory_policy", &"noeviction");
        }
        Section::Persistence => write_persistence(node, line),
        Section::Stats => write_stats(node, line),
        Section::Replication => {
            line("role", &"master");
            line("connected_slaves", &0);
        }
        Section::Cpu => line("cores", &server.config.facts.cores),
        Section::Commandstats => {
            for spec in &SPECS {
                let calls =
                    node.sum(|core| core.commands.get(spec.command as usize).map_or(0, |(_, calls)| *calls));
                if calls > 0 {
                    line(&format!("cmdstat_{}", spec.name), &format_args!("calls={calls}"));
                }
            }
        }
        Section::Cluster => line("cluster_enabled", &0),
        Section::Keyspace => {
            if let Some(why) = &measured.uncounted {
                // A comment, which clients that read numbers pass over.
                line("# the keys are estimated, because they could not be counted", &why.text());
            }
            if let Some(keys @ 1..) = measured.keys {
                line("db0", &format_args!("keys={keys},expires=0,avg_ttl=0"));
            }
        }
    }
}
