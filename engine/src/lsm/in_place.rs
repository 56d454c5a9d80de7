//! Whether the tree's files are where the next start looks for them.

use std::path::PathBuf;

use super::manifest::{CURRENT, Manifest};
use super::{Shared, Tree};
use crate::error::Result;
use crate::in_place::{Wanted, look};
use crate::rt::FileId;

/// At most this many tables are looked at at a time.
const TABLES_AT_ONCE: usize = 32;

/// The manifest in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InForce {
    pub(super) path: PathBuf,
    pub(super) id: FileId,
    /// What `CURRENT` says for it.
    pub(super) named: String,
}

/// A part of the tree with a file of its own.
enum Part {
    Manifest(InForce),
    Table(u64),
}

impl Tree {
    /// Looks whether the files that a start would read are where it looks for them: the manifest, `CURRENT`, and some of the tables, in
    /// turn. Call it now and then, and stop where it fails, because what is acknowledged from then on may be lost.
    ///
    /// # Errors
    /// Denied, with the file and what to do.
    pub async fn look_at_files(&self) -> Result<()> {
        let shared = &self.shared;
        if shared.fault.borrow().is_some() || shared.stopping.get() {
            return Ok(());
        }
        look(&shared.rt, shared.parts(), |part| shared.has_still(part)).await
    }
}

impl Shared {
    /// From now on this manifest is in force; nothing as long as that is being changed.
    pub(super) fn puts_in_force(&self, manifest: Option<&Manifest>) {
        *self.in_force.borrow_mut() = manifest.map(Manifest::in_force);
    }

    fn parts(&self) -> Vec<(Part, PathBuf, Wanted)> {
        let mut parts = Vec::new();
        if let Some(in_force) = &*self.in_force.borrow() {
            let InForce { path, id, named } = in_force;
            parts.push((Part::Manifest(in_force.clone()), path.clone(), Wanted::Open(*id)));
            let text = named.clone().into_bytes();
            parts.push((Part::Manifest(in_force.clone()), self.dir.join(CURRENT), Wanted::Text(text)));
        }
        let version = self.version.borrow().clone();
        let from = self.looked_to.get();
        let before = parts.len();
        for table in version.tables().skip(from).take(TABLES_AT_ONCE) {
            let (file, bytes) = (table.meta.file, table.meta.file_bytes);
            let wanted = Wanted::Table(bytes, self.files.id(file));
            parts.push((Part::Table(file), table.path().to_owned(), wanted));
        }
        let is_last = parts.len() - before < TABLES_AT_ONCE;
        self.looked_to.set(if is_last { 0 } else { from + TABLES_AT_ONCE });
        parts
    }

    /// A table's file is removed after no version shows it, and a manifest after another one is in force.
    fn has_still(&self, part: &Part) -> bool {
        match part {
            Part::Manifest(in_force) => self.in_force.borrow().as_ref() == Some(in_force),
            Part::Table(file) => self.version.borrow().shows_file(*file),
        }
    }
}
