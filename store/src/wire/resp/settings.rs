//! `CONFIG GET` and `INFO`: what the server says about itself, in the words that Redis' tools read.
//!
//! Figures are those of the core that the connection belongs to, because cores do not look into each other; `/metrics` has
//! all of them. Settings are shown under Redis' names where they mean the same here.

use std::fmt::Write;

use super::command::{Command, SPECS};
use super::control::REDIS_VERSION;
use super::glob::Pattern;
use super::help::help;
use super::reply::Writer;
use super::request::{Error, Request};
use super::server::Server;
use crate::request::VALUE_BYTES_MAX;

/// Patterns of one `CONFIG GET`, and sections of one `INFO`.
const PATTERNS_MAX: usize = 64;

/// Answers `CONFIG GET pattern...`.
pub fn config(request: &Request<'_>, server: &Server, reply: &mut Writer<'_>) -> Result<(), Error> {
    let sub = request.arg(1);
    if request.is(1, "SET") {
        return Err(Error::constant(
            "ERR CONFIG SET is not supported: change the node's configuration file, flags or environment",
        ));
    }
    if request.is(1, "HELP") {
        return help(Command::Config, request, reply);
    }
    if !request.is(1, "GET") {
        return Err(Error::unknown_subcommand(Command::Config, sub));
    }
    if request.count() == 2 {
        return Err(Error::subcommand_arity(Command::Config, sub));
    }
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
    /// Reads the arguments of `INFO`. Unknown sections are empty, as in Redis.
    pub fn read(request: &Request<'_>) -> Self {
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

/// The text of `INFO`. `keys` is known if they were counted.
pub fn info(server: &Server, wanted: &Wanted, keys: Option<u64>) -> String {
    let mut text = String::new();
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
        write_section(section, server, keys, &mut line);
    }
    text
}

fn write_section(
    section: Section,
    server: &Server,
    keys: Option<u64>,
    line: &mut dyn FnMut(&str, &dyn std::fmt::Display),
) {
    let (facts, counters) = (&server.config.facts, &server.counters);
    let uptime = server.rt.now().since(server.began).as_secs();
    match section {
        Section::Server => {
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
        Section::Clients => {
            line("connected_clients", &counters.open());
            line("maxclients", &server.config.connections_max);
            line("blocked_clients", &0);
        }
        Section::Memory => {
            line("maxmemory", &facts.memory_bytes_max);
            line("maxmemory_policy", &"noeviction");
        }
        Section::Persistence => {
            line("loading", &0);
            line("aof_enabled", &1);
            line("aof_last_write_status", &"ok");
        }
        Section::Stats => {
            line("total_connections_received", &counters.accepted.get());
            line("total_commands_processed", &counters.answered());
            line("total_net_input_bytes", &counters.bytes_in.get());
            line("total_net_output_bytes", &counters.bytes_out.get());
            line("total_reads_processed", &counters.reads.get());
            line("total_writes_processed", &counters.writes.get());
            line("rejected_connections", &counters.refused.get());
            line("rejected_calls", &counters.rejected.get());
            line("malformed_connections", &counters.malformed.get());
            line("auth_failures", &counters.wrong_passwords.get());
            line("expired_keys", &0);
            line("evicted_keys", &0);
        }
        Section::Replication => {
            line("role", &"master");
            line("connected_slaves", &0);
        }
        Section::Cpu => line("cores", &facts.cores),
        Section::Commandstats => {
            for spec in &SPECS {
                let calls = counters.of(spec.command);
                if calls > 0 {
                    line(&format!("cmdstat_{}", spec.name), &format_args!("calls={calls}"));
                }
            }
        }
        Section::Cluster => line("cluster_enabled", &0),
        Section::Keyspace => {
            if let Some(keys @ 1..) = keys {
                line("db0", &format_args!("keys={keys},expires=0,avg_ttl=0"));
            }
        }
    }
}
