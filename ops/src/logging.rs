//! Structured logs to standard error, for people or as JSON lines.

use store::config::{LogFormat, LoggingConfig};
use tracing_subscriber::EnvFilter;

/// Sets the process's logger.
///
/// # Errors
/// The level is not one, or a logger is set already.
pub(crate) fn start(config: &LoggingConfig) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.level).map_err(|error| {
        format!("logging.level = \"{}\": {error}: write info, or info,store=debug", config.level)
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match config.format {
        LogFormat::Human => builder.with_target(false).with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    set.map_err(|error| format!("the logger cannot be set: {error}"))
}
