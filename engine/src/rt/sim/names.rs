//! The names on a disk. A change is seen at once and survives a power cut only after its directory was synced.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::inode::Inode;
use super::options::CrashMode;
use crate::rt::rng::Rng;

pub(crate) type SharedInode = Rc<RefCell<Inode>>;

#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Dir,
    File(SharedInode),
}

type Table = BTreeMap<PathBuf, Entry>;

/// One atomic change: each name and what it stands for from then on.
#[derive(Debug)]
struct Change {
    dirs: Vec<PathBuf>,
    sets: Vec<(PathBuf, Option<Entry>)>,
}

#[derive(Debug, Default)]
pub(crate) struct Names {
    current: Table,
    durable: Table,
    unsynced: Vec<Change>,
    /// How many files have been made.
    made: u64,
}

impl Names {
    pub(crate) fn file(&self, path: &Path) -> io::Result<SharedInode> {
        match self.current.get(path) {
            Some(Entry::File(inode)) => Ok(inode.clone()),
            Some(Entry::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None if is_root(path) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(crate) fn exists(&self, path: &Path) -> bool {
        is_root(path) || self.current.contains_key(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        is_root(path) || matches!(self.current.get(path), Some(Entry::Dir))
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = (&PathBuf, &SharedInode)> {
        self.current.iter().filter_map(|(path, entry)| match entry {
            Entry::File(inode) => Some((path, inode)),
            Entry::Dir => None,
        })
    }

    pub(crate) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.is_dir(dir) {
            let kind = if self.exists(dir) { io::ErrorKind::NotADirectory } else { io::ErrorKind::NotFound };
            return Err(kind.into());
        }
        let children = self.current.keys().filter(|path| path.parent() == Some(dir));
        Ok(children.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    pub(crate) fn create(&mut self, path: &Path) -> io::Result<SharedInode> {
        if self.exists(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.made += 1;
        let inode = SharedInode::new(Inode::new(self.made).into());
        self.change(vec![(path.to_owned(), Some(Entry::File(inode.clone())))])?;
        Ok(inode)
    }

    /// The directory and those above it that are not there, the uppermost first.
    pub(crate) fn missing(&self, path: &Path) -> Vec<PathBuf> {
        let mut missing: Vec<PathBuf> =
            path.ancestors().take_while(|dir| !self.is_dir(dir)).map(Path::to_owned).collect();
        missing.reverse();
        missing
    }

    /// Creates a directory; it is fine if it exists.
    pub(crate) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        match self.exists(path) {
            true if self.is_dir(path) => Ok(()),
            true => Err(io::ErrorKind::NotADirectory.into()),
            false => self.change(vec![(path.to_owned(), Some(Entry::Dir))]),
        }
    }

    /// Creates a directory and its parents, and makes them durable.
    pub(crate) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        for dir in self.missing(path) {
            self.create_dir(&dir)?;
            self.sync(dir.parent().unwrap_or(Path::new("")))?;
        }
        Ok(())
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.file(from)?;
        if self.is_dir(to) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if from == to {
            return Ok(());
        }
        self.change(vec![(to.to_owned(), Some(Entry::File(inode))), (from.to_owned(), None)])
    }

    pub(crate) fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.file(from)?;
        if self.exists(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(vec![(to.to_owned(), Some(Entry::File(inode)))])
    }

    pub(crate) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.change(vec![(path.to_owned(), None)])
    }

    fn change(&mut self, sets: Vec<(PathBuf, Option<Entry>)>) -> io::Result<()> {
        let mut dirs: Vec<PathBuf> = Vec::new();
        for (path, _) in &sets {
            let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
            if !self.is_dir(dir) {
                return Err(io::ErrorKind::NotFound.into());
            }
            dirs.push(dir.to_owned());
        }
        let change = Change { dirs, sets };
        change.apply(&mut self.current);
        self.unsynced.push(change);
        Ok(())
    }

    pub(crate) fn sync(&mut self, dir: &Path) -> io::Result<()> {
        if !self.is_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        for change in self.unsynced.extract_if(.., |change| change.dirs.iter().any(|other| other == dir)) {
            change.apply(&mut self.durable);
        }
        Ok(())
    }

    /// The power goes: each directory keeps some prefix of its un-synced changes.
    pub(crate) fn power_cut(&mut self, mode: CrashMode, rng: &Rng) {
        let mut broken_off: Vec<PathBuf> = Vec::new();
        for change in std::mem::take(&mut self.unsynced) {
            let behind_a_lost_one = change.dirs.iter().any(|dir| broken_off.contains(dir));
            let lost = match mode {
                CrashMode::Lose => true,
                CrashMode::Keep => false,
                _ => behind_a_lost_one || rng.chance(0.5),
            };
            if lost {
                broken_off.extend(change.dirs);
            } else {
                change.apply(&mut self.durable);
            }
        }
        self.current = self.durable.clone();
        // A name below a directory that did not survive is unreachable.
        let reachable = |path: &PathBuf| {
            let mut above = path.ancestors().skip(1).filter(|dir| !is_root(dir));
            above.all(|dir| matches!(self.durable.get(dir), Some(Entry::Dir)))
        };
        self.current.retain(|path, _| reachable(path));
        self.durable = self.current.clone();
    }

    pub(crate) fn wipe(&mut self) {
        *self = Self { made: self.made, ..Self::default() };
    }
}

impl Change {
    fn apply(&self, table: &mut Table) {
        for (path, entry) in &self.sets {
            match entry {
                Some(entry) => table.insert(path.clone(), entry.clone()),
                None => table.remove(path),
            };
        }
    }
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.parent().is_none()
}
