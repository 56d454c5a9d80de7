//! Child processes that do not outlive the one that started them, however that ends.
//!
//! Whoever ends in order ends its children first. Whoever is killed cannot, so the kernel is asked to: it sends SIGTERM to the child when
//! its parent is gone. It takes the *thread* that started the child for the parent, so a child is started on a thread that
//! lives as long as it is wanted.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Lets what `command` starts be sent SIGTERM when the thread that starts it ends, also by SIGKILL. A child whose parent is gone before
/// that is settled does not begin.
pub fn end_with_parent(command: &mut Command) {
    end_with(command, std::process::id());
}

fn end_with(command: &mut Command, parent: u32) {
    let settle = move || {
        // SAFETY: plain numbers; the call changes an attribute of the child.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // A parent that ended before the call sends nothing any more, and the child is another one's by now.
        match std::os::unix::process::parent_id() == parent {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    };
    // SAFETY: between fork and exec `settle` makes two system calls and allocates nothing, so it waits for no lock that another thread
    // of the parent held at the fork.
    unsafe { command.pre_exec(settle) };
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_child_ends_with_the_thread_that_started_it() {
        let start = || {
            let mut command = Command::new("sleep");
            command.arg("3600").stdout(Stdio::piped());
            end_with_parent(&mut command);
            command.spawn().unwrap()
        };
        let mut child = std::thread::spawn(start).join().unwrap();
        // Its end of the pipe is closed when it is gone.
        assert_eq!(child.stdout.take().unwrap().read(&mut [0]).unwrap(), 0);
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGTERM));
    }

    #[test]
    fn a_child_of_a_parent_that_is_gone_does_not_begin() {
        let mut command = Command::new("true");
        // As if the parent had been another process, which is gone.
        end_with(&mut command, std::process::id() + 1);
        let error = command.spawn().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
        let mut command = Command::new("true");
        end_with_parent(&mut command);
        assert!(command.status().unwrap().success());
    }
}
