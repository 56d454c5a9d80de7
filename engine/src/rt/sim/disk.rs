//! A node's disk: contents and names with their durability, plus everything that goes wrong with disks.
//!
//! Operations take virtual time and finish in any order. A hung disk finishes nothing until it recovers. A stopped one has
//! reached the chosen crash point: from there on nothing finishes, so that a test can cut the power at every single operation.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::fault::{DiskFault, DiskOp};
use super::inode::Inode;
use super::names::{Names, SharedInode};
use super::options::{CrashMode, DiskOptions};
use super::sched::{Action, Sim};
use crate::rt::BLOCK_BYTES;
use crate::rt::local::{Pending, oneshot};
use crate::rt::rng::Rng;

/// One node's disk.
pub struct Disk {
    pub(crate) names: RefCell<Names>,
    options: RefCell<DiskOptions>,
    rng: Rng,
    faults: RefCell<Vec<DiskFault>>,
    hung: Cell<bool>,
    held: RefCell<Vec<Action>>,
    slowness: Cell<u64>,
    changes: Cell<u64>,
    stop_at: Cell<Option<u64>>,
    stats: Cell<DiskStats>,
    open_files: Cell<u64>,
}

/// An open file's place among those that the process may have.
#[derive(Debug)]
pub(crate) struct Descriptor(Rc<Disk>);

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.0.open_files.set(self.0.open_files.get() - 1);
    }
}

/// What a disk has been through, so that a test can assert that its faults happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Reads finished.
    pub reads: u64,
    /// Writes finished.
    pub writes: u64,
    /// File syncs finished.
    pub syncs: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Operations failed by script or by chance.
    pub faults: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// The most files that were open at once.
    pub open_files_peak: u64,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("files", &self.files()).finish_non_exhaustive()
    }
}

impl Disk {
    pub(crate) fn new(options: &DiskOptions, rng: Rng) -> Self {
        Self {
            names: RefCell::default(),
            options: RefCell::new(options.clone()),
            rng,
            faults: RefCell::default(),
            hung: Cell::new(false),
            held: RefCell::default(),
            slowness: Cell::new(1),
            changes: Cell::new(0),
            stop_at: Cell::new(None),
            stats: Cell::default(),
            open_files: Cell::default(),
        }
    }

    /// A descriptor for a file that is opened.
    ///
    /// # Errors
    /// EMFILE when there is none left.
    pub(crate) fn descriptor(self: &Rc<Self>) -> io::Result<Descriptor> {
        let open = self.open_files.get() + 1;
        if open > self.options.borrow().descriptors_max {
            self.count(|stats| stats.faults += 1);
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        self.open_files.set(open);
        self.count(|stats| stats.open_files_peak = stats.open_files_peak.max(open));
        Ok(Descriptor(self.clone()))
    }

    pub(crate) fn rng(&self) -> &Rng {
        &self.rng
    }

    pub(crate) fn count(&self, add: impl FnOnce(&mut DiskStats)) {
        let mut stats = self.stats.get();
        add(&mut stats);
        self.stats.set(stats);
    }

    /// Submits an operation. `begin` runs now and `finish` when the disk gets to it, with the verdict of the faults.
    pub(crate) fn submit<B, T: 'static>(
        self: &Rc<Self>,
        sim: &Rc<Sim>,
        op: DiskOp,
        path: &Path,
        begin: impl FnOnce() -> B,
        finish: impl FnOnce(B, io::Result<()>) -> io::Result<T> + 'static,
    ) -> Pending<io::Result<T>>
    where
        B: 'static,
    {
        let number = self.changes.get();
        let stopped = self.stop_at.get().is_some_and(|at| number >= at);
        self.changes.set(number + u64::from(op.changes()));
        let (answer, pending) = oneshot();
        let begun = begin();
        if stopped {
            self.held.borrow_mut().push(Box::new(move |_| drop((answer, begun))));
            return pending;
        }
        let verdict = self.verdict(op, path);
        let disk = self.clone();
        let words = format!("disk {op:?} {}", path.display());
        let done = move |sim: &Rc<Sim>| {
            sim.trace([5, op as u64, number], format_args!("{words}"));
            answer.send(finish(begun, verdict));
        };
        sim.after(self.latency(op), move |sim| {
            if disk.hung.get() || disk.has_stopped() {
                disk.held.borrow_mut().push(Box::new(done));
            } else {
                done(sim);
            }
        });
        pending
    }

    fn latency(&self, op: DiskOp) -> u64 {
        let options = self.options.borrow();
        let range = match op {
            DiskOp::Look | DiskOp::Read => options.read_ns,
            DiskOp::Write => options.write_ns,
            DiskOp::Sync | DiskOp::SetLen | DiskOp::Name | DiskOp::SyncDir => options.sync_ns,
        };
        self.rng.between(range).saturating_mul(self.slowness.get())
    }

    fn verdict(&self, op: DiskOp, path: &Path) -> io::Result<()> {
        let scripted = self.faults.borrow_mut().iter_mut().find_map(|fault| fault.hits(op, path));
        let options = self.options.borrow();
        let chance = match op {
            DiskOp::Read => options.read_error,
            DiskOp::Write => options.write_error,
            DiskOp::Sync => options.sync_error,
            _ => 0.0,
        };
        match scripted.or_else(|| self.rng.chance(chance).then_some(libc::EIO)) {
            None => Ok(()),
            Some(errno) => {
                self.count(|stats| stats.faults += 1);
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }

    /// One wrong bit, now and then.
    pub(crate) fn misread(&self, bytes: &mut [u8]) {
        if !bytes.is_empty() && self.rng.chance(self.options.borrow().misread) {
            let at = self.rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.rng.below(8);
            self.count(|stats| stats.faults += 1);
        }
    }

    /// How many of these blocks fit, counted from the first.
    ///
    /// # Errors
    /// ENOSPC if there are some and none fits.
    pub(crate) fn room_for(&self, inode: &Inode, first_block: u64, blocks: u64) -> io::Result<u64> {
        if self.options.borrow().capacity_bytes == u64::MAX {
            return Ok(blocks);
        }
        let free = self.free_bytes() / BLOCK_BYTES as u64;
        match inode.fitting_blocks(first_block, blocks, free) {
            0 if blocks > 0 => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            fitting => Ok(fitting),
        }
    }

    pub(crate) fn power_cut(&self) {
        self.count(|stats| stats.power_cuts += 1);
        let asked = self.options.borrow().crash;
        let mode = match asked {
            CrashMode::Any => match self.rng.below(10) {
                0 => CrashMode::Lose,
                1 => CrashMode::Keep,
                2..=4 => CrashMode::TearBlocks,
                _ => CrashMode::TearSectors,
            },
            asked => asked,
        };
        self.names.borrow_mut().power_cut(mode, &self.rng);
        for inode in self.inodes() {
            inode.borrow_mut().power_cut(mode, &self.rng);
        }
        self.recover();
    }

    pub(crate) fn process_died(&self) {
        for inode in self.inodes() {
            inode.borrow_mut().process_died(&self.rng);
        }
        self.recover();
    }

    fn recover(&self) {
        let held = std::mem::take(&mut *self.held.borrow_mut());
        drop(held);
        self.stop_at.set(None);
    }

    /// Every file once, whatever the number of its names.
    fn inodes(&self) -> Vec<SharedInode> {
        let names = self.names.borrow();
        let mut seen = BTreeSet::new();
        names
            .files()
            .filter(|(_, inode)| seen.insert(Rc::as_ptr(inode)))
            .map(|(_, inode)| inode.clone())
            .collect()
    }

    // The script.

    /// Adds a fault.
    pub fn fail(&self, fault: DiskFault) {
        self.faults.borrow_mut().push(fault);
    }

    /// The next write to a file whose path contains `path_part` fails with EIO and leaves its range unknown.
    pub fn fail_next_write(&self, path_part: &str) {
        self.fail(DiskFault::on(DiskOp::Write).path(path_part));
    }

    /// The next read of such a file fails with EIO.
    pub fn fail_next_read(&self, path_part: &str) {
        self.fail(DiskFault::on(DiskOp::Read).path(path_part));
    }

    /// The next sync of such a file fails with EIO; what it covered never becomes durable.
    pub fn fail_next_sync(&self, path_part: &str) {
        self.fail(DiskFault::on(DiskOp::Sync).path(path_part));
    }

    /// Changes what happens by chance.
    pub fn set_options(&self, change: impl FnOnce(&mut DiskOptions)) {
        change(&mut self.options.borrow_mut());
    }

    /// Bytes that fit on this disk.
    pub fn set_capacity(&self, bytes: u64) {
        self.set_options(|options| options.capacity_bytes = bytes);
    }

    /// Files that are open now.
    pub fn open_files(&self) -> u64 {
        self.open_files.get()
    }

    /// At most this many files may be open at once; opening another fails with EMFILE.
    pub fn set_descriptors(&self, files: u64) {
        self.set_options(|options| options.descriptors_max = files);
    }

    /// Leaves room for `bytes` more, whatever is stored.
    pub fn leave(&self, bytes: u64) {
        self.set_capacity(self.used_bytes() + bytes);
    }

    /// Every operation takes `factor` times as long.
    pub fn slow(&self, factor: u64) {
        self.slowness.set(factor.max(1));
    }

    /// Nothing finishes until [`Disk::unhang`].
    pub fn hang(&self) {
        self.hung.set(true);
    }

    /// What was held up finishes now.
    pub fn unhang(&self, world: &super::World) {
        self.hung.set(false);
        let held = std::mem::take(&mut *self.held.borrow_mut());
        for done in held {
            world.sim.after(self.rng.below(100_000), done);
        }
    }

    /// No more scripted faults and no more chance ones; normal speed. A hung disk stays hung.
    pub fn heal(&self) {
        self.faults.borrow_mut().clear();
        self.slowness.set(1);
        self.set_options(|options| {
            (options.read_error, options.write_error, options.sync_error, options.misread) =
                (0.0, 0.0, 0.0, 0.0);
        });
    }

    /// Changing operations (writes, syncs, names) asked for so far: the crash points of a run.
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// From changing operation number `change` on, nothing finishes any more. Cut the power then ([`Node::crash`](super::Node::crash)).
    pub fn stop_at(&self, change: u64) {
        self.stop_at.set(Some(change));
    }

    /// Whether the chosen crash point is reached.
    pub fn has_stopped(&self) -> bool {
        self.stop_at.get().is_some_and(|at| self.changes.get() > at)
    }

    /// Flips the bits `flip` of the byte at `pos` of a file.
    ///
    /// # Panics
    /// If there is no such file or byte.
    pub fn rot(&self, path: impl AsRef<Path>, pos: u64, flip: u8) {
        let inode = self.inode(path.as_ref());
        assert!(pos < inode.borrow().len(), "{} has no byte {pos}", path.as_ref().display());
        inode.borrow_mut().rot(pos, flip);
    }

    /// The files, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        self.names.borrow().files().map(|(path, _)| path.clone()).collect()
    }

    /// A file's bytes as a reader would see them now.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn read(&self, path: impl AsRef<Path>) -> Vec<u8> {
        let inode = self.inode(path.as_ref());
        let len = usize::try_from(inode.borrow().len()).unwrap_or(usize::MAX);
        inode.borrow().read(0, len)
    }

    /// Replaces a file's bytes, durably and at once.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn write(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        self.inode(path.as_ref()).borrow_mut().replace(bytes);
    }

    /// Every file with its bytes, as a reader would see them now.
    pub fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.files().into_iter().map(|path| (path.clone(), self.read(&path))).collect()
    }

    /// A new disk in the place of this one that holds these files, durably.
    ///
    /// # Panics
    /// If a file would lie below another file.
    pub fn set_contents(&self, contents: &BTreeMap<PathBuf, Vec<u8>>) {
        let mut names = self.names.borrow_mut();
        names.wipe();
        for (path, bytes) in contents {
            let dir = path.parent().unwrap_or(Path::new("/"));
            let made = names.create_dir_all(dir).and_then(|()| {
                let inode = names.create(path)?;
                inode.borrow_mut().replace(bytes);
                names.sync(dir)
            });
            made.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }

    fn inode(&self, path: &Path) -> SharedInode {
        match self.names.borrow().file(path) {
            Ok(inode) => inode,
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }

    /// A new disk in the place of this one.
    pub fn wipe(&self) {
        self.names.borrow_mut().wipe();
    }

    /// Bytes not taken by blocks of files.
    pub fn free_bytes(&self) -> u64 {
        self.options.borrow().capacity_bytes.saturating_sub(self.used_bytes())
    }

    fn used_bytes(&self) -> u64 {
        let blocks: u64 = self.inodes().iter().map(|inode| inode.borrow().allocated_blocks()).sum();
        blocks * BLOCK_BYTES as u64
    }

    /// What it has been through.
    pub fn stats(&self) -> DiskStats {
        self.stats.get()
    }
}
