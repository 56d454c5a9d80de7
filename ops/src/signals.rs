//! SIGTERM, SIGINT and SIGHUP, turned into messages on a plain thread; SIGUSR1 and SIGUSR2, which mean nothing here, turned into a line of
//! the log, because by default they end a process that acknowledges writes.
//!
//! A terminal that closes sends SIGHUP, which ends a process as it stands unless it is handled. Under `nohup` it is ignored from the
//! start, and stays so.
//!
//! A node that has not served yet has acknowledged nothing, so the first signal ends it at once, whatever its start waits for.
//!
//! A measurement that has something to say before its end looks at a flag ([`noted`]).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
#[cfg(test)]
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use store::wire::admin::{Phase, SharedPhase};

use crate::output::remark;

/// Signals that other programs give a meaning.
const MEANINGLESS: [i32; 2] = [SIGUSR1, SIGUSR2];

/// The signals that ask this process to end.
///
/// # Errors
/// The kernel does not say which ones are ignored.
pub(crate) fn that_end() -> std::io::Result<Vec<i32>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mut signals = vec![SIGTERM, SIGINT];
    if !ignores(&status, SIGHUP) {
        signals.push(SIGHUP);
    }
    Ok(signals)
}

/// Whether a process with this `/proc/PID/status` ignores `signal`. Bit n of the mask is signal n + 1.
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

fn name(signal: i32) -> &'static str {
    match signal {
        SIGTERM => "SIGTERM",
        SIGINT => "SIGINT",
        SIGHUP => "SIGHUP",
        SIGUSR1 => "SIGUSR1",
        SIGUSR2 => "SIGUSR2",
        other => unreachable!("signal {other} was not asked for"),
    }
}

/// Sends the name of each signal that asks the process to end. The second one ends it at once, and during the start the first.
///
/// # Errors
/// The handlers cannot be installed.
pub(crate) fn forward(to: Sender<&'static str>, life: SharedPhase) -> std::io::Result<()> {
    let mut signals = Signals::new(that_end()?.iter().chain(&MEANINGLESS))?;
    std::thread::Builder::new().name("rk-signals".into()).spawn(move || {
        let mut asked = false;
        for signal in signals.forever() {
            let name = name(signal);
            if MEANINGLESS.contains(&signal) {
                tracing::warn!(
                    signal = name,
                    "ignored: this signal means nothing here; SIGTERM drains and ends the node"
                );
                continue;
            }
            if life.phase() == Phase::Starting {
                remark(&format!("ringkeep: {name} during the start: stopped before anything was served"));
                std::process::exit(0);
            }
            if std::mem::replace(&mut asked, true) || to.send(name).is_err() {
                // Whoever asks twice does not want to wait, and everything acknowledged is durable already.
                std::process::exit(130);
            }
        }
    })?;
    Ok(())
}

/// Is set by the first signal that asks this process to end; the second one ends it at once.
///
/// # Errors
/// The handlers cannot be installed.
pub(crate) fn noted() -> std::io::Result<Arc<AtomicBool>> {
    let noted = Arc::new(AtomicBool::new(false));
    for signal in that_end()? {
        flag::register_conditional_shutdown(signal, 130, noted.clone())?;
        flag::register(signal, noted.clone())?;
    }
    Ok(noted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_is_noted_and_ends_nothing() {
        let noted = noted().expect("handlers are installed");
        assert!(!noted.load(Ordering::SeqCst));
        signal_hook::low_level::raise(SIGINT).expect("a process may signal itself");
        assert!(noted.load(Ordering::SeqCst));
    }

    #[test]
    fn what_the_kernel_lists_as_ignored_is_ignored() {
        let status = "Name:\tringkeep\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n";
        assert!(ignores(status, SIGHUP) && !ignores(status, SIGINT));
        assert!(!ignores("SigIgn:\t0000000000001000\n", SIGHUP));
        assert!(!ignores("", SIGHUP), "nothing is known");
    }
}
