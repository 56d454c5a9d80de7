//! What the checks read: small files under /proc and /sys, empty where a host has none.

/// A file's text without the white space around it.
pub(super) fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The soft limit of that name for this process, as /proc/self/limits spells it.
pub(super) fn limit(name: &str) -> String {
    soft_limit(&read("/proc/self/limits"), name)
}

fn soft_limit(limits: &str, name: &str) -> String {
    let row = limits.lines().find_map(|line| line.strip_prefix(name));
    row.and_then(|row| row.split_whitespace().next()).unwrap_or_default().to_owned()
}

/// Whether this process has CAP_IPC_LOCK, bit 14 of the effective set.
pub(super) fn may_lock_memory() -> bool {
    let status = read("/proc/self/status");
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set >> 14 & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_by_name() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 1048576              files     \n\
                    Max locked memory         unlimited            unlimited            bytes     \n";
        assert_eq!(soft_limit(text, "Max open files"), "1024");
        assert_eq!(soft_limit(text, "Max locked memory"), "unlimited");
        assert_eq!(soft_limit(text, "Max wishes"), "");
        assert!(!limit("Max open files").is_empty());
    }
}
