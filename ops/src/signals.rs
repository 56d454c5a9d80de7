//! SIGTERM and SIGINT, turned into messages on a plain thread.
//!
//! A node that has not served yet has acknowledged nothing, so the first signal ends it at once, whatever its start waits for.

use std::sync::mpsc::Sender;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use store::wire::admin::{Life, Phase};

use crate::output::remark;

/// Sends the name of each signal that asks the process to end. The second one ends it at once, and during the start the first.
///
/// # Errors
/// The handlers cannot be installed.
pub(crate) fn forward(to: Sender<&'static str>, life: Life) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("rk-signals".into()).spawn(move || {
        for (count, signal) in signals.forever().enumerate() {
            let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
            if life.phase() == Phase::Starting {
                remark(&format!("ringkeep: {name} during the start: stopped before anything was served"));
                std::process::exit(0);
            }
            if count > 0 || to.send(name).is_err() {
                // Whoever asks twice does not want to wait, and everything acknowledged is durable already.
                std::process::exit(130);
            }
        }
    })?;
    Ok(())
}
