//! What the kernel reports about this process, from the text of `/proc`.
//!
//! Reading blocks, so it is for plain threads and for helper threads of a core.

use std::path::Path;

/// The kernel reports CPU time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;
/// Every architecture that ringkeep runs on is configured with pages of 4 KiB.
const PAGE_BYTES: u64 = 4096;

/// Memory of this process that is resident, bytes. Reads `/proc`.
pub fn resident_bytes() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    Stat::read(&stat).map(|stat| stat.resident_bytes)
}

/// Descriptors in use. The kernel reports their number as the size of the directory since 6.2; before, the entries are counted,
/// one of which is the one that reads them.
pub(crate) fn open_fds(dir: &Path) -> Option<u64> {
    match std::fs::metadata(dir).ok()?.len() {
        0 => Some((std::fs::read_dir(dir).ok()?.count() as u64).saturating_sub(1)),
        open => Some(open),
    }
}

/// The soft limit of open files in /proc/self/limits.
pub(crate) fn max_fds(limits: &str) -> Option<u64> {
    let row = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match row.split_ascii_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// `btime` of /proc/stat, seconds since the Unix epoch.
pub(crate) fn boot_time_seconds(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// What is used of /proc/self/stat.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stat {
    pub(crate) cpu_seconds: f64,
    pub(crate) threads: u64,
    pub(crate) started_seconds_after_boot: f64,
    pub(crate) virtual_bytes: u64,
    pub(crate) resident_bytes: u64,
}

impl Stat {
    /// Fields are counted after the process's name, which may hold anything.
    pub(crate) fn read(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            cpu_seconds: (number(11)? + number(12)?) as f64 / TICKS_PER_SECOND,
            threads: number(17)?,
            started_seconds_after_boot: number(19)? as f64 / TICKS_PER_SECOND,
            virtual_bytes: number(20)?,
            resident_bytes: number(21)? * PAGE_BYTES,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_descriptors_are_counted() {
        let open = || open_fds(Path::new("/proc/self/fd")).expect("this process has descriptors");
        let before = open();
        // Other tests of this process open and close files meanwhile, so many are opened here.
        let held: Vec<std::fs::File> =
            (0..200).map(|_| std::fs::File::open("/dev/null").expect("a file")).collect();
        assert!(open() >= before.saturating_sub(60) + 200);
        drop(held);
    }
}
