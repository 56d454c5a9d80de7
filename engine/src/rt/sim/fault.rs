//! Disk faults by script: which operation fails, on which file, when, and how often.

use std::path::Path;

/// The operations that can fail or be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// Opening an existing file, listing a directory, asking for a length.
    Look,
    /// Reading bytes.
    Read,
    /// Writing bytes, durably or not.
    Write,
    /// Syncing a file.
    Sync,
    /// Changing a file's length.
    SetLen,
    /// Creating, renaming or removing a name.
    Name,
    /// Syncing a directory.
    SyncDir,
}

impl DiskOp {
    /// Whether a power cut during it matters.
    pub(crate) fn changes(self) -> bool {
        !matches!(self, DiskOp::Look | DiskOp::Read)
    }
}

/// One scripted fault. Unless set otherwise it hits the next such operation on any file, once, with EIO.
#[derive(Clone, Debug)]
pub struct DiskFault {
    op: DiskOp,
    path_part: String,
    skip: u64,
    times: u64,
    errno: i32,
}

impl DiskFault {
    /// The next operation of this kind fails.
    pub fn on(op: DiskOp) -> Self {
        Self { op, path_part: String::new(), skip: 0, times: 1, errno: libc::EIO }
    }

    /// Only on files whose path contains this.
    pub fn path(mut self, part: &str) -> Self {
        self.path_part = part.into();
        self
    }

    /// Lets this many matching operations pass first.
    pub fn after(mut self, operations: u64) -> Self {
        self.skip = operations;
        self
    }

    /// Fails this many times.
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Fails every time until [`Disk::heal`](super::Disk::heal).
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    /// With this error number.
    pub fn errno(mut self, errno: i32) -> Self {
        self.errno = errno;
        self
    }

    /// The error number if this fault hits the operation.
    pub(crate) fn hits(&mut self, op: DiskOp, path: &Path) -> Option<i32> {
        if self.times == 0 || op != self.op || !path.to_string_lossy().contains(&self.path_part) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times -= 1;
        Some(self.errno)
    }
}
