//! What the host gives to this process: cores and memory.

use std::fs::read_to_string;

use store::config::Machine;

/// The cores that the CPU mask and the quota allow, and the memory that the host or the cgroup has.
pub(crate) fn machine() -> Machine {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let read = |path: &str| read_to_string(path).unwrap_or_default();
    let host = total_memory(&read("/proc/meminfo"));
    let group = cgroup_limit(&read("/sys/fs/cgroup/memory.max"));
    let memory_bytes = [host, group].into_iter().flatten().min().unwrap_or(1 << 30);
    Machine { cores, memory_bytes }
}

/// `MemTotal` of /proc/meminfo, bytes.
fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// `memory.max` of the cgroup, bytes; `max` is no limit.
fn cgroup_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_host_and_group_counts() {
        assert_eq!(total_memory("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(total_memory(""), None);
        assert_eq!(cgroup_limit("max\n"), None);
        assert_eq!(cgroup_limit("1048576\n"), Some(1 << 20));
        let machine = machine();
        assert!(machine.cores >= 1 && machine.memory_bytes > 64 << 20);
    }
}
