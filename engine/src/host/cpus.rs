//! Which CPUs the cores run on: those that the affinity mask allows, and no more than the cgroup quota pays for.
//!
//! A container sees all CPUs of its host. Pinning to one outside of its set fails, and starting more cores than the quota
//! pays for makes the kernel stop all of them for most of every period.

use std::fs;
use std::io;
use std::path::Path;

/// The CPUs to use, and why not more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuPlan {
    /// One CPU per core to start, ascending. Never empty.
    pub cpus: Vec<usize>,
    /// CPUs in the affinity mask.
    pub allowed: usize,
    /// CPU time that the cgroup quota pays for, in thousandths of a CPU; `None` without a quota.
    pub quota_milli: Option<u64>,
}

/// Reads the affinity mask and the quota of this process. At most `wanted` CPUs are planned (`None`: all that there are).
///
/// # Errors
/// If the kernel does not return the affinity mask.
pub fn plan_cpus(wanted: Option<usize>) -> io::Result<CpuPlan> {
    Ok(plan(&affinity()?, read_quota(Path::new("/")), wanted))
}

/// The plan for a given mask, quota and wish.
pub fn plan(allowed: &[usize], quota_milli: Option<u64>, wanted: Option<usize>) -> CpuPlan {
    // A quota below one CPU still has to run one core.
    let paid =
        quota_milli.map_or(usize::MAX, |milli| usize::try_from(milli / 1000).unwrap_or(usize::MAX).max(1));
    let count = allowed.len().min(paid).min(wanted.unwrap_or(usize::MAX)).max(1);
    let mut cpus: Vec<usize> = allowed.iter().copied().take(count).collect();
    if cpus.is_empty() {
        cpus.push(0);
    }
    CpuPlan { cpus, allowed: allowed.len(), quota_milli }
}

/// Whether a thread of this process may be pinned. Asks by setting the mask that the calling thread has already.
///
/// # Errors
/// What the kernel, or a seccomp filter in front of it, says.
pub fn can_pin() -> io::Result<()> {
    // SAFETY: a CPU set is plain data for which all zeros is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of `set`, which the kernel fills.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the size is that of `set`, which the kernel only reads.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The CPUs that this thread may run on, ascending.
///
/// # Errors
/// If the kernel does not say.
pub fn affinity() -> io::Result<Vec<usize>> {
    // SAFETY: a CPU set is plain data for which all zeros is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of `set`, which the kernel fills.
    let got = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    let all = 0..libc::CPU_SETSIZE as usize;
    // SAFETY: every index is below the size of the set.
    Ok(all.filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

/// The tightest CPU quota on this process's path through the cgroup tree below `root`, in thousandths of a CPU.
fn read_quota(root: &Path) -> Option<u64> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mounts = root.join("sys/fs/cgroup");
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let quotas = quota_dirs(&own).into_iter().map(|dir| match dir {
        QuotaDir::V2(dir) => parse_v2(&read(&mounts.join(dir).join("cpu.max"))),
        QuotaDir::V1(controller, dir) => {
            let dir = mounts.join(controller).join(dir);
            parse_v1(&read(&dir.join("cpu.cfs_quota_us")), &read(&dir.join("cpu.cfs_period_us")))
        }
    });
    quotas.flatten().min()
}

/// A directory below the cgroup mount that may hold a quota.
#[derive(Debug, PartialEq, Eq)]
enum QuotaDir {
    V2(String),
    V1(String, String),
}

/// Where to look, from the text of `/proc/self/cgroup`: the process's own group and all above it, because any may set a limit.
/// Inside a container the process's own path is often not mounted and only the root is.
fn quota_dirs(own: &str) -> Vec<QuotaDir> {
    let mut dirs = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let above =
            Path::new(path.trim_start_matches('/')).ancestors().map(|dir| dir.to_string_lossy().into_owned());
        if number == "0" && controllers.is_empty() {
            dirs.extend(above.map(QuotaDir::V2));
        } else if controllers.split(',').any(|name| name == "cpu") {
            dirs.extend(above.map(|dir| QuotaDir::V1(controllers.to_owned(), dir)));
        }
    }
    dirs
}

/// `cpu.max` of cgroup v2: a quota and a period in microseconds, or `max` for none.
fn parse_v2(text: &str) -> Option<u64> {
    let mut fields = text.split_whitespace();
    let quota: u64 = fields.next()?.parse().ok()?;
    milli(quota, fields.next().map_or(Some(100_000), |period| period.parse().ok())?)
}

/// The two files of cgroup v1, microseconds; a quota of -1 is none.
fn parse_v1(quota: &str, period: &str) -> Option<u64> {
    milli(quota.trim().parse().ok()?, period.trim().parse().ok()?)
}

fn milli(quota: u64, period: u64) -> Option<u64> {
    (period > 0).then(|| quota.saturating_mul(1000) / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_cores_as_are_allowed_paid_for_and_wanted() {
        type Row<'a> = (&'a [usize], Option<u64>, Option<usize>, &'a [usize]);
        let table: &[Row<'_>] = &[
            (&[0, 1, 2, 3], None, None, &[0, 1, 2, 3]),
            (&[2, 5, 7], None, None, &[2, 5, 7]),
            (&[0, 1, 2, 3], Some(2_000), None, &[0, 1]),
            (&[0, 1, 2, 3], Some(2_900), None, &[0, 1]),
            (&[0, 1, 2, 3], Some(500), None, &[0]),
            (&[0, 1], Some(64_000), None, &[0, 1]),
            (&[4, 5, 6, 7], None, Some(2), &[4, 5]),
            (&[4, 5, 6, 7], Some(1_000), Some(3), &[4]),
            (&[4, 5], None, Some(9), &[4, 5]),
            (&[], None, None, &[0]),
        ];
        for (allowed, quota, wanted, cpus) in table {
            assert_eq!(plan(allowed, *quota, *wanted).cpus, *cpus, "{allowed:?} {quota:?} {wanted:?}");
        }
    }

    #[test]
    fn quotas_are_read_as_the_kernel_writes_them() {
        for (text, milli) in [
            ("max 100000\n", None),
            ("200000 100000\n", Some(2_000)),
            ("50000 100000\n", Some(500)),
            ("150000\n", Some(1_500)),
            ("", None),
            ("100000 0\n", None),
            ("garbage 100000", None),
        ] {
            assert_eq!(parse_v2(text), milli, "{text:?}");
        }
        for (quota, period, milli) in [
            ("-1\n", "100000\n", None),
            ("400000\n", "100000\n", Some(4_000)),
            ("25000\n", "50000\n", Some(500)),
            ("", "", None),
        ] {
            assert_eq!(parse_v1(quota, period), milli, "{quota:?} {period:?}");
        }
    }

    #[test]
    fn every_group_above_may_set_the_limit() {
        let v2 = |dir: &str| QuotaDir::V2(dir.into());
        assert_eq!(quota_dirs("0::/a/b\n"), [v2("a/b"), v2("a"), v2("")]);
        assert_eq!(quota_dirs("0::/\n"), [v2("")]);
        let v1 = |dir: &str| QuotaDir::V1("cpu,cpuacct".into(), dir.into());
        assert_eq!(quota_dirs("3:memory:/x\n2:cpu,cpuacct:/docker\n"), [v1("docker"), v1("")]);
        assert_eq!(quota_dirs("nonsense\n"), []);
    }

    #[test]
    fn the_tightest_quota_of_the_path_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/self/cgroup", "0::/pod/box\n");
        write("sys/fs/cgroup/pod/box/cpu.max", "max 100000\n");
        write("sys/fs/cgroup/pod/cpu.max", "300000 100000\n");
        assert_eq!(read_quota(root.path()), Some(3_000));
        write("sys/fs/cgroup/pod/box/cpu.max", "100000 100000\n");
        assert_eq!(read_quota(root.path()), Some(1_000));
        assert_eq!(read_quota(&root.path().join("nowhere")), None);
    }

    #[test]
    fn this_machine_allows_at_least_one_cpu() {
        can_pin().unwrap();
        let plan = plan_cpus(None).unwrap();
        assert!(!plan.cpus.is_empty() && plan.cpus.len() <= plan.allowed.max(1));
        assert!(plan.cpus.is_sorted());
    }
}
