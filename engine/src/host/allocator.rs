//! What the allocator of the process does with memory that is free again.

use std::io;
use std::time::Duration;

/// The number of the option in the allocator's table. A test holds it against the default that belongs to it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Lets the allocator keep freed memory for this long before the kernel gets it back, unless the environment says something else
/// (`MIMALLOC_PURGE_DELAY`, milliseconds).
///
/// A memtable is freed after its flush and the next one needs the same memory a moment later. What the kernel has taken back it hands out
/// again page by page, and clears each. The node's budget counts the memory either way.
pub fn keep_freed_memory(time: Duration) {
    let delay_ms = libc::c_long::try_from(time.as_millis()).unwrap_or(libc::c_long::MAX);
    // SAFETY: the call stores a number in a table of the allocator, and takes any option and value.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, delay_ms) };
}

/// Returns to the kernel what is free now, however short a time it has been. For a plain thread: where much is free, that takes milliseconds.
pub fn release_freed_memory() {
    // SAFETY: the call changes nothing but the allocator's own tables, which it guards against other threads.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Has the kernel hand out memory page by page from now on, never in huge pages of 2 MiB, of which a piece that is in use keeps the whole.
///
/// # Errors
/// Of the kernel.
pub fn avoid_huge_pages() -> io::Result<()> {
    // SAFETY: the call sets a flag of this process and takes no pointer.
    match unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_can_be_avoided() {
        avoid_huge_pages().expect("the kernel takes the flag");
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
        assert!(
            status.lines().any(|line| line.starts_with("THP_enabled:") && line.ends_with('0')),
            "{status}"
        );
    }

    #[test]
    fn the_delay_is_the_option_that_is_set() {
        // SAFETY: the call reads a number from a table of the allocator.
        let delay_ms = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(delay_ms(), 1000, "another option has this number now, or its default has changed");
        keep_freed_memory(Duration::from_secs(10));
        assert_eq!(delay_ms(), 10_000);
    }
}
