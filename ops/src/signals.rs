//! SIGTERM and SIGINT, turned into messages on a plain thread.

use std::sync::mpsc::Sender;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Sends the name of each signal that asks the process to end. The second one ends it at once.
///
/// # Errors
/// The handlers cannot be installed.
pub(crate) fn forward(to: Sender<&'static str>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("rk-signals".into()).spawn(move || {
        for (count, signal) in signals.forever().enumerate() {
            let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
            if count > 0 || to.send(name).is_err() {
                // Whoever asks twice does not want to wait, and everything acknowledged is durable already.
                std::process::exit(130);
            }
        }
    })?;
    Ok(())
}
