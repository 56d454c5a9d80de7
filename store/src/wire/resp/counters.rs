//! What one core's RESP side counts.

use super::command::{COMMANDS, KINDS, RespCommand, SPECS};
use super::data::Lookups;
use crate::metrics::{Counter, Histogram, HistogramNumbers};

/// One core's numbers. Stays on its core; [`Counters::snapshot`] makes a copy that may leave it.
#[derive(Debug)]
pub struct Counters {
    /// Commands by [`RespCommand`], counted when they are answered.
    pub commands: [Counter; COMMANDS],
    /// Time from having read a command to having its answer, by [`super::command::CommandKind`].
    pub latency: [Histogram; KINDS.len()],
    /// Keys that reads found.
    pub hits: Counter,
    /// Keys that reads did not find.
    pub misses: Counter,
    /// Requests that no command's name fits, or with the wrong number of arguments.
    pub rejected: Counter,
    /// Connections closed because their bytes were not RESP.
    pub malformed: Counter,
    /// Connections closed because what they had begun did not end in time.
    pub overdue: Counter,
    /// Connections closed because their clients were too slow with memory, or with the end of the node.
    pub evicted: Counter,
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections refused because there were too many.
    pub refused: Counter,
    /// Connections that have ended.
    pub closed: Counter,
    /// Connections that have come from another core.
    pub moved_in: Counter,
    /// Connections that have gone to another core.
    pub moved_out: Counter,
    /// Failed attempts to accept a connection.
    pub accept_faults: Counter,
    /// Wrong passwords.
    pub wrong_passwords: Counter,
    /// Bytes read.
    pub bytes_in: Counter,
    /// Bytes written.
    pub bytes_out: Counter,
    /// Reads from sockets that brought something.
    pub reads: Counter,
    /// Writes to sockets.
    pub writes: Counter,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            commands: std::array::from_fn(|_| Counter::default()),
            latency: std::array::from_fn(|_| Histogram::default()),
            hits: Counter::default(),
            misses: Counter::default(),
            rejected: Counter::default(),
            malformed: Counter::default(),
            overdue: Counter::default(),
            evicted: Counter::default(),
            accepted: Counter::default(),
            refused: Counter::default(),
            closed: Counter::default(),
            moved_in: Counter::default(),
            moved_out: Counter::default(),
            accept_faults: Counter::default(),
            wrong_passwords: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            reads: Counter::default(),
            writes: Counter::default(),
        }
    }
}

/// A copy of [`Counters`].
#[derive(Clone, Debug, Default)]
pub struct RespNumbers {
    /// Commands answered, by name.
    pub commands: Vec<(&'static str, u64)>,
    /// Latency by kind: `read`, `write`, `walk`, `control`.
    pub latency: Vec<(&'static str, HistogramNumbers)>,
    /// See [`Counters::hits`].
    pub hits: u64,
    /// See [`Counters::misses`].
    pub misses: u64,
    /// See [`Counters::rejected`].
    pub rejected: u64,
    /// See [`Counters::malformed`].
    pub malformed: u64,
    /// See [`Counters::overdue`].
    pub overdue: u64,
    /// See [`Counters::evicted`].
    pub evicted: u64,
    /// See [`Counters::accepted`].
    pub accepted: u64,
    /// See [`Counters::refused`].
    pub refused: u64,
    /// Connections open now.
    pub open: u64,
    /// See [`Counters::moved_in`].
    pub moved_in: u64,
    /// See [`Counters::accept_faults`].
    pub accept_faults: u64,
    /// See [`Counters::wrong_passwords`].
    pub wrong_passwords: u64,
    /// See [`Counters::bytes_in`].
    pub bytes_in: u64,
    /// See [`Counters::bytes_out`].
    pub bytes_out: u64,
    /// See [`Counters::reads`].
    pub reads: u64,
    /// See [`Counters::writes`].
    pub writes: u64,
}

impl Counters {
    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.accepted.get() + self.moved_in.get() - self.closed.get() - self.moved_out.get()
    }

    /// Counts keys that were looked up.
    pub fn looked_up(&self, Lookups { hits, misses }: Lookups) {
        self.hits.add(hits);
        self.misses.add(misses);
    }

    /// Commands answered so far.
    pub fn answered(&self) -> u64 {
        self.commands.iter().map(Counter::get).sum()
    }

    /// How often `command` was answered.
    pub fn of(&self, command: RespCommand) -> u64 {
        self.commands[command as usize].get()
    }

    /// A copy that may leave the core.
    pub fn snapshot(&self) -> RespNumbers {
        let names = SPECS.iter().map(|spec| spec.name);
        let kinds = KINDS.iter().map(|kind| kind.name());
        RespNumbers {
            commands: names.zip(self.commands.iter().map(Counter::get)).collect(),
            latency: kinds.zip(self.latency.iter().map(Histogram::snapshot)).collect(),
            hits: self.hits.get(),
            misses: self.misses.get(),
            rejected: self.rejected.get(),
            malformed: self.malformed.get(),
            overdue: self.overdue.get(),
            evicted: self.evicted.get(),
            accepted: self.accepted.get(),
            refused: self.refused.get(),
            open: self.open(),
            moved_in: self.moved_in.get(),
            accept_faults: self.accept_faults.get(),
            wrong_passwords: self.wrong_passwords.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            reads: self.reads.get(),
            writes: self.writes.get(),
        }
    }
}
