//! Structured logs to standard error, for people or as JSON lines, at a bounded cost to whoever logs.
//!
//! ```text
//! a core or a thread: filter by level ─► limit per call site ─► format ─► bounded queue ─► rk-log thread ─► stderr
//! ```
//!
//! A core never waits for standard error: where the queue is full the line is dropped, counted and reported by the next
//! lines ([`queue`]). A call site that repeats itself is rate-limited and the number of suppressed lines is reported ([`limit`]).
//!
//! What holds: whoever logs does no IO and takes no lock; memory for lines that wait is bounded; every line that is lost is in
//! one of two counters ([`Counts`]).
//!
//! Not done here, on purpose: no log files and no rotation; the supervisor keeps standard error.

mod limit;
mod queue;

use std::sync::Arc;
use std::time::Duration;

use store::config::{LogFormat, LoggingConfig};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use limit::Limit;
use queue::Lines;

/// How long the end of the process waits for lines that are still queued; standard error may be blocked.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// The logger of the process. Dropping it waits until what is queued has been written.
#[derive(Debug)]
pub(crate) struct Logging {
    lines: Lines,
    limit: Arc<Limit>,
}

/// Lines that were not written.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    lines: Lines,
    limit: Arc<Limit>,
}

impl Counts {
    /// Lines that found the queue full.
    pub(crate) fn dropped(&self) -> u64 {
        self.lines.dropped()
    }

    /// Lines left out because their call site repeats itself.
    pub(crate) fn suppressed(&self) -> u64 {
        self.limit.suppressed()
    }
}

/// Sets the process's logger.
///
/// # Errors
/// The level is not one, a logger is set already, or the writing thread cannot be started.
pub(crate) fn start(config: &LoggingConfig) -> Result<Logging, String> {
    let filter = EnvFilter::try_new(&config.level).map_err(|error| {
        format!("logging.level = \"{}\": {error}: write info, or info,store=debug", config.level)
    })?;
    let limit = Arc::new(Limit::default());
    let lines = queue::start(std::io::stderr(), limit.clone(), config.format)
        .map_err(|error| format!("the logging thread cannot be started: {error}"))?;
    let format = tracing_subscriber::fmt::layer().with_writer(lines.clone());
    let format = match config.format {
        LogFormat::Human => format.with_target(false).with_ansi(false).boxed(),
        LogFormat::Json => format.json().flatten_event(true).boxed(),
    };
    let set = tracing_subscriber::registry()
        .with(filter)
        .with(format)
        .with(limit::Limiter(limit.clone()))
        .try_init();
    set.map_err(|error| format!("the logger cannot be set: {error}"))?;
    write_before_panicking(lines.clone());
    Ok(Logging { lines, limit })
}

/// A bug ends the process; what was logged before it must be on standard error by then.
fn write_before_panicking(lines: Lines) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        lines.flush(FLUSH_MAX);
        report(info);
    }));
}

impl Logging {
    /// The counters of lines that were not written.
    pub(crate) fn counts(&self) -> Counts {
        Counts { lines: self.lines.clone(), limit: self.limit.clone() }
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.lines.flush(FLUSH_MAX);
    }
}
