//! The self-check where it matters: in a process that really is not allowed what it needs.
//!
//! Each test starts its own binary again, which takes something away from itself, checks itself and reports.

use std::io::Write;
use std::process::Command;

use super::check::{Level, Request, check, passes};
use crate::rt::{CoreOptions, start_core};

/// Set in the child: what to take away.
const ROLE: &str = "RINGKEEP_PROBE_ROLE";

fn request() -> Request {
    Request { cores: 1, io_memory_bytes: 1 << 20, open_files: 256, dir: None, in_use: false }
}

/// What the child reports: the failures as sentences, and how starting a core ended.
fn report() -> ! {
    let findings = check(&request());
    let failures = findings.iter().filter(|finding| finding.level == Level::Failure);
    let mut text: String = failures.map(|finding| format!("{finding}\n")).collect();
    let options = CoreOptions { io_memory_bytes: 1 << 20, ..CoreOptions::default() };
    let started = start_core(&options, |_| async {});
    text += &format!(
        "core: {}\n",
        started.map_or_else(|error| format!("refused, {error}"), |()| "started".into())
    );
    std::io::stdout().write_all(text.as_bytes()).unwrap();
    std::process::exit(i32::from(!passes(&findings)));
}

/// Runs `test` again in a child with `role`, and returns its exit code and report.
fn child(test: &str, role: &str) -> (Option<i32>, String) {
    let name = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", &name, "--nocapture"]).env(ROLE, role).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Lets the kernel answer every io_uring call of this thread and its children with `errno`.
fn deny_io_uring(errno: i32) {
    deny(libc::SYS_io_uring_setup, libc::SYS_io_uring_register, errno);
}

/// Lets the kernel answer the calls `first` to `last` of this thread and its children with `errno`.
fn deny(first: libc::c_long, last: libc::c_long, errno: i32) {
    const LOAD_CALL_NUMBER: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const JUMP_IF_ABOVE: u16 = 0x25;
    const RETURN: u16 = 0x06;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(LOAD_CALL_NUMBER, 0, 0, 0),
        step(JUMP_IF_AT_LEAST, first as u32, 0, 2),
        step(JUMP_IF_ABOVE, last as u32, 1, 0),
        step(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: plain numbers; the call changes a flag of this thread.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the kernel copies the program, which is as long as the filter says and outlives the call.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) }, 0);
}

/// Takes the right to lock memory away, and the privilege to have it anyway.
fn deny_locked_memory() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel reads `none`, which outlives the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &none) }, 0);
    // SAFETY: plain numbers. Without the privilege to change it, the user is an unprivileged one already.
    let _ = unsafe { libc::setuid(65_534) };
}

#[test]
fn a_filter_that_forbids_io_uring_is_explained() {
    if std::env::var(ROLE).is_ok() {
        deny_io_uring(libc::EPERM);
        report();
    }
    let (code, said) = child("a_filter_that_forbids_io_uring_is_explained", "EPERM");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("io_uring: a seccomp filter forbids io_uring (EPERM), so no core can start; allow"),
        "{said}"
    );
    assert!(said.contains("core: refused"), "{said}");
}

#[test]
fn a_filter_that_hides_io_uring_is_explained() {
    if std::env::var(ROLE).is_ok() {
        deny_io_uring(libc::ENOSYS);
        report();
    }
    let (code, said) = child("a_filter_that_hides_io_uring_is_explained", "ENOSYS");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("io_uring: the kernel has no io_uring, or a seccomp filter hides it (ENOSYS)"),
        "{said}"
    );
    assert!(said.contains("core: refused"), "{said}");
}

#[test]
fn a_filter_that_forbids_entering_a_ring_is_explained_before_anything_starts() {
    if std::env::var(ROLE).is_ok() {
        deny(libc::SYS_io_uring_enter, libc::SYS_io_uring_enter, libc::EPERM);
        let findings = check(&request());
        let failures = findings.iter().filter(|finding| finding.level == Level::Failure);
        let text: String = failures.map(|finding| format!("{finding}\n")).collect();
        std::io::stdout().write_all(text.as_bytes()).unwrap();
        std::process::exit(i32::from(!passes(&findings)));
    }
    let (code, said) =
        child("a_filter_that_forbids_entering_a_ring_is_explained_before_anything_starts", "ENTER");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("io_uring_enter is forbidden") && said.contains("allow io_uring_enter"), "{said}");
}

#[test]
fn a_filter_that_forbids_pinning_is_said_and_an_unpinned_core_starts() {
    if std::env::var(ROLE).is_ok() {
        deny(libc::SYS_sched_setaffinity, libc::SYS_sched_setaffinity, libc::EPERM);
        let pinned = CoreOptions { io_memory_bytes: 1 << 20, cpu: Some(0), ..CoreOptions::default() };
        // A pinned core is an error and no wait without end.
        let refused = start_core(&pinned, |_| async {}).is_err();
        let said =
            check(&request()).iter().any(|found| found.subject == "pinning" && found.level == Level::Warning);
        std::io::stdout().write_all(format!("pinned refused {refused}, said {said}\n").as_bytes()).unwrap();
        report();
    }
    let (code, said) = child("a_filter_that_forbids_pinning_is_said_and_an_unpinned_core_starts", "PINNING");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("pinned refused true, said true") && said.contains("core: started"), "{said}");
}

#[test]
fn a_locked_memory_limit_of_nothing_is_explained() {
    if std::env::var(ROLE).is_ok() {
        deny_locked_memory();
        report();
    }
    let (code, said) = child("a_locked_memory_limit_of_nothing_is_explained", "MEMLOCK");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("locked memory: its limit is 0 KiB and each core needs 512 KiB"), "{said}");
    assert!(said.contains("LimitMEMLOCK"), "{said}");
    assert!(said.contains("core: refused"), "{said}");
}

#[test]
fn this_host_passes_and_a_core_starts() {
    if std::env::var(ROLE).is_ok() {
        report();
    }
    let (code, said) = child("this_host_passes_and_a_core_starts", "NOTHING");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("core: started"), "{said}");
}
