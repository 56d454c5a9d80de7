//! Signals that tell a process of what the call that caused them reports as well, and end it unless it says otherwise.
//!
//! A write beyond the limit on the length of files (`ulimit -f`) raises SIGXFSZ and fails with EFBIG; one into a pipe that has no reader
//! raises SIGPIPE and fails with EPIPE. Whoever looks at what the call returns needs no signal.

use std::io;

/// Ignores what a write may raise beside the error that it returns. Child processes inherit that.
///
/// # Errors
/// The kernel refuses.
pub fn ignore_signals_of_writes() -> io::Result<()> {
    for signal in [libc::SIGXFSZ, libc::SIGPIPE] {
        // SAFETY: no handler is installed, so none can run where it must not; the call takes plain numbers.
        if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
