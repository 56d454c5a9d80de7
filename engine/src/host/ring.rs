//! Asks the kernel for an io_uring, the way the runtime will.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::check::Finding;

const SUBJECT: &str = "io_uring";

/// Bytes of `struct io_uring_params`.
const PARAMS_BYTES: usize = 120;

/// `IORING_REGISTER_PROBE`.
const REGISTER_PROBE: libc::c_uint = 8;

/// Maximum number of operations that a probe asks about.
const OPS_MAX: usize = 256;

/// The operations that the runtime cannot do without, by their number in `io_uring.h`.
const NEEDED_OPS: &[(usize, &str)] = &[
    (0, "NOP"),
    (1, "READV"),
    (2, "WRITEV"),
    (3, "FSYNC"),
    (4, "READ_FIXED"),
    (5, "WRITE_FIXED"),
    (6, "POLL_ADD"),
    (7, "POLL_REMOVE"),
    (9, "SENDMSG"),
    (10, "RECVMSG"),
    (11, "TIMEOUT"),
    (12, "TIMEOUT_REMOVE"),
    (13, "ACCEPT"),
    (14, "ASYNC_CANCEL"),
    (15, "LINK_TIMEOUT"),
    (16, "CONNECT"),
    (17, "FALLOCATE"),
    (18, "OPENAT"),
    (19, "CLOSE"),
    (21, "STATX"),
    (22, "READ"),
    (23, "WRITE"),
    (26, "SEND"),
    (27, "RECV"),
];

/// Why there is no ring to work with.
#[derive(Debug)]
enum Trouble {
    Setup(io::Error),
    Probe(io::Error),
    /// A ring can be made and not entered.
    Enter(io::Error),
    Missing(Vec<&'static str>),
}

pub(super) fn io_uring() -> Finding {
    judge(try_ring(), disabled_by_sysctl())
}

fn judge(ring: Result<(), Trouble>, sysctl: Option<u8>) -> Finding {
    let nothing_runs = "no core can start";
    let (cause, fix) = match ring {
        Ok(()) => return Finding::good(SUBJECT, "available with every operation that is needed"),
        Err(Trouble::Missing(ops)) => (
            format!("this kernel lacks the operations {}", ops.join(", ")),
            "run a kernel of version 5.8 or newer, best 6.6 or newer",
        ),
        Err(Trouble::Enter(error)) => (
            format!("a ring can be made but not entered: io_uring_enter is forbidden ({error})"),
            "allow io_uring_enter in the seccomp profile, beside io_uring_setup and io_uring_register",
        ),
        Err(Trouble::Setup(error) | Trouble::Probe(error)) => match (error.raw_os_error(), sysctl) {
            (Some(libc::EPERM | libc::EACCES), Some(1)) => (
                "kernel.io_uring_disabled is 1, which leaves io_uring to privileged processes".to_owned(),
                "set kernel.io_uring_disabled to 0 with sysctl, or put this user into kernel.io_uring_group",
            ),
            (Some(libc::EPERM | libc::EACCES), Some(2..)) => (
                "kernel.io_uring_disabled is 2, which forbids io_uring to all users".to_owned(),
                "set kernel.io_uring_disabled to 0 with sysctl",
            ),
            (Some(libc::EPERM | libc::EACCES), _) => (
                "a seccomp filter forbids io_uring (EPERM)".to_owned(),
                "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile",
            ),
            (Some(libc::ENOSYS), _) => (
                "the kernel has no io_uring, or a seccomp filter hides it (ENOSYS)".to_owned(),
                "run a kernel of version 5.8 or newer, or allow the three io_uring calls in the seccomp profile",
            ),
            (Some(libc::ENOMEM), _) => (
                "the locked-memory limit leaves no room for a ring (ENOMEM)".to_owned(),
                "raise it: ulimit -l unlimited, or LimitMEMLOCK=infinity in the systemd unit",
            ),
            _ => (format!("no ring could be made ({error})"), "look for the cause in the kernel's log"),
        },
    };
    Finding::failure(SUBJECT, cause, nothing_runs, fix)
}

fn disabled_by_sysctl() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

fn try_ring() -> Result<(), Trouble> {
    let mut params = [0u64; PARAMS_BYTES / 8];
    // SAFETY: the kernel reads and fills `params`, which has the size and alignment of its structure and outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4u32, params.as_mut_ptr()) };
    let Ok(fd @ 0..) = i32::try_from(fd) else { return Err(Trouble::Setup(io::Error::last_os_error())) };
    // SAFETY: the kernel has just returned this descriptor, and no other owner exists.
    let ring = unsafe { OwnedFd::from_raw_fd(fd) };
    enter(&ring).map_err(Trouble::Enter)?;
    let supported = supported_ops(&ring).map_err(Trouble::Probe)?;
    let missing: Vec<_> =
        NEEDED_OPS.iter().filter(|(number, _)| !supported[*number]).map(|(_, name)| *name).collect();
    if missing.is_empty() { Ok(()) } else { Err(Trouble::Missing(missing)) }
}

/// Submits nothing and waits for nothing, which only shows whether the call is allowed.
fn enter(ring: &OwnedFd) -> io::Result<()> {
    let nothing = std::ptr::null::<libc::sigset_t>();
    // SAFETY: no entry is submitted, so the kernel reads no memory of ours; without a signal set its size does not matter.
    match unsafe {
        libc::syscall(libc::SYS_io_uring_enter, ring.as_raw_fd(), 0u32, 0u32, 0u32, nothing, 0usize)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn supported_ops(ring: &OwnedFd) -> io::Result<[bool; OPS_MAX]> {
    // A header of two words, then one word for each operation whose bit 16 says that it is supported.
    let mut answer = [0u64; 2 + OPS_MAX];
    let buffer = answer.as_mut_ptr();
    // SAFETY: the kernel fills at most `OPS_MAX` entries after the header, which is the size of `answer`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            REGISTER_PROBE,
            buffer,
            OPS_MAX as libc::c_uint,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut supported = [false; OPS_MAX];
    for (slot, entry) in supported.iter_mut().zip(&answer[2..]) {
        // struct io_uring_probe_op: u8 op, u8 reserved, u16 flags, u32 reserved.
        let [_, _, flags, ..] = entry.to_ne_bytes();
        *slot = flags & 1 != 0;
    }
    Ok(supported)
}

#[cfg(test)]
mod tests {
    use super::super::check::Level;
    use super::*;

    #[test]
    fn each_trouble_has_its_cause_and_its_fix() {
        let errno = |number| Err(Trouble::Setup(io::Error::from_raw_os_error(number)));
        for (ring, sysctl, cause, fix) in [
            (errno(libc::EPERM), Some(0), "seccomp", "seccomp profile"),
            (errno(libc::EPERM), None, "seccomp", "seccomp profile"),
            (errno(libc::EPERM), Some(1), "io_uring_disabled is 1", "sysctl"),
            (errno(libc::EPERM), Some(2), "io_uring_disabled is 2", "sysctl"),
            (errno(libc::ENOSYS), Some(0), "no io_uring", "5.8"),
            (errno(libc::ENOMEM), None, "locked-memory", "LimitMEMLOCK"),
            (errno(libc::EINVAL), None, "no ring", "log"),
            (Err(Trouble::Missing(vec!["STATX", "SEND"])), None, "STATX, SEND", "kernel"),
            (
                Err(Trouble::Enter(io::Error::from_raw_os_error(libc::EPERM))),
                Some(0),
                "io_uring_enter is forbidden",
                "allow io_uring_enter",
            ),
        ] {
            let finding = judge(ring, sysctl);
            assert_eq!(finding.level, Level::Failure);
            assert!(finding.cause.contains(cause) && finding.fix.contains(fix), "{finding}");
        }
        assert_eq!(judge(Ok(()), None).level, Level::Good);
    }
}
