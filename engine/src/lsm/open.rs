//! Opening a tree: the manifest says what there is, the directory must agree.
//!
//! [`Recovery::read`] reads and judges and changes nothing, so that its caller can judge, too, before anything is lost;
//! [`Recovery::open`] makes the tree ready to be written. What must be there is said by [`Origin`](crate::origin::Origin).
//!
//! Of the tables only their range deletes are read, because a read of any key has to know them. A table that the manifest names and that the directory lacks, or has with another length, is a fault. Files
//! that no edit names are left over from a crash and removed, except after a torn manifest tail: then they may be all that is left
//! of an edit that once was durable, and stay until an opening without that doubt.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::cache::BlockCache;
use super::maintain;
use super::manifest::{self, CURRENT, Found, Manifest};
use super::memtable::Memtable;
use super::options::TreeOptions;
use super::pace::Pace;
use super::rows::RowCache;
use super::table::files::Files;
use super::table::read::{Table, file_name, file_number};
use super::version::{Edit, MarkRow, StateRow, Version};
use super::{Handle, SeqNo, Shared, Tree};
use crate::error::{Fault, Result};
use crate::rt::Rt;

/// A tree as it lies on disk: read, and nothing changed.
#[derive(Debug)]
pub struct Recovery {
    rt: Rt,
    dir: PathBuf,
    options: TreeOptions,
    names: Vec<String>,
    found: Option<Found>,
    recovered: Recovered,
    tables: Rc<Files>,
}

/// The end of a manifest that is no whole edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The manifest.
    pub path: PathBuf,
    /// Where the last whole edit ends, bytes.
    pub pos: u64,
}

/// What the edits of a manifest add up to.
#[derive(Debug, Default)]
struct Recovered {
    version: Version,
    flushed: BTreeMap<u64, u64>,
    states: BTreeMap<u64, Arc<[u8]>>,
    next_number: u64,
    last_seq: u64,
}

impl Recovery {
    /// Reads the manifest of the tree in `dir`. Nothing on disk is changed.
    ///
    /// # Errors
    /// Corruption for a damaged manifest, a table that is missing or has another length or damaged range deletes, or a tree that is
    /// gone; Foreign for files of another version or tree.
    pub async fn read(rt: &Rt, dir: &Path, options: TreeOptions) -> Result<Self> {
        let there = rt.exists(dir).await.map_err(|e| Fault::io(dir, "looking it up", &e))?;
        let files = match there {
            true => rt.file_lengths(dir).await.map_err(|e| Fault::io(dir, "listing", &e))?,
            false => Vec::new(),
        };
        let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
        let found = if there { manifest::recover(rt, dir).await? } else { None };
        let tables = Rc::new(Files::new(options.open_tables_max));
        let mut recovered = Recovered { next_number: 1, ..Recovered::default() };
        match &found {
            Some(Found { number, replayed, .. }) => {
                let path = dir.join(manifest::file_name(*number));
                options.origin.is_its_own(&path, "tree", replayed.tree)?;
                for edit in &replayed.edits {
                    recovered.add(edit, dir, &tables).map_err(|what| Fault::corruption(&path, what))?;
                }
                recovered.next_number = recovered.next_number.max(number + 1);
            }
            None if names.iter().any(|name| file_number(name).is_some()) => {
                let what = "there are tables and no file that names their manifest";
                return Err(Fault::corruption(&dir.join(CURRENT), what));
            }
            None => options.origin.may_be_absent(dir, "tree")?,
        }
        let mut recovery =
            Self { rt: rt.clone(), dir: dir.to_owned(), options, names, found, recovered, tables };
        recovery.require_tables(&files).await?;
        recovery.read_erased().await?;
        Ok(recovery)
    }

    /// The log index up to which the durable tables contain `group`; 0 for a group they do not know.
    pub fn flushed_index(&self, group: u64) -> u64 {
        self.recovered.flushed.get(&group).copied().unwrap_or(0)
    }

    /// Every group that the durable tables know, with its flushed index, by group.
    pub fn flushed_indexes(&self) -> Vec<(u64, u64)> {
        self.recovered.flushed.iter().map(|(group, index)| (*group, *index)).collect()
    }

    /// The caller's bytes about `group`, as of its flushed index.
    pub fn state(&self, group: u64) -> Option<Arc<[u8]>> {
        self.recovered.states.get(&group).cloned()
    }

    /// The manifest in force; the directory, if there is none yet.
    pub fn manifest(&self) -> PathBuf {
        match &self.found {
            Some(found) => self.dir.join(manifest::file_name(found.number)),
            None => self.dir.clone(),
        }
    }

    /// What opening leaves behind at the end of the manifest: an edit that was never acknowledged, or a damaged one.
    pub fn torn(&self) -> Option<TornTail> {
        let pos = self.found.as_ref()?.replayed.torn_at?;
        Some(TornTail { path: self.manifest(), pos })
    }

    /// The files of the tables, each once, with the checksum that the manifest has of it.
    pub fn tables(&self) -> Vec<(PathBuf, u32)> {
        let tables = self.recovered.version.tables();
        let files: BTreeMap<u64, u32> = tables.map(|table| (table.meta.file, table.meta.file_crc)).collect();
        files.into_iter().map(|(file, crc)| (self.dir.join(file_name(file)), crc)).collect()
    }

    /// Makes the tree ready to be written, creating what may be new.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn open(self) -> Result<Tree> {
        let shared = open(self).await?;
        Ok(Tree { _handle: Rc::new(Handle(shared.clone())), shared })
    }

    /// Reads the range deletes of the tables that have some.
    async fn read_erased(&mut self) -> Result<()> {
        for table in self.recovered.version.unread_erasers() {
            let erased = table.read_erased(&self.rt).await?;
            self.recovered.version.learn_erased(&table, erased);
        }
        Ok(())
    }

    /// The first table, by number, that is not there as the manifest says.
    async fn require_tables(&self, files: &[(String, u64)]) -> Result<()> {
        let present: BTreeMap<u64, u64> =
            files.iter().filter_map(|(name, len)| Some((file_number(name)?, *len))).collect();
        let tables = self.recovered.version.tables();
        let wanted: BTreeMap<u64, u64> =
            tables.map(|table| (table.meta.file, table.meta.file_bytes)).collect();
        for (file, bytes) in wanted {
            let path = self.dir.join(file_name(file));
            let what = match present.get(&file) {
                Some(found) if *found == bytes => continue,
                Some(found) => format!("the table has {found} bytes and the manifest says {bytes}"),
                None if self.rt.exists(&path).await.map_err(|e| Fault::io(&path, "looking it up", &e))? => {
                    "the manifest names this table, and what is there is not a regular file".to_owned()
                }
                None => "the manifest names this table and it is not there".to_owned(),
            };
            let tail = self.torn().map_or(String::new(), |TornTail { path, pos }| {
                format!(" (the last edit of {}, at byte {pos}, is damaged)", path.display())
            });
            return Err(Fault::corruption(&path, format!("{what}{tail}")));
        }
        Ok(())
    }
}

async fn open(recovery: Recovery) -> Result<Rc<Shared>> {
    let torn = recovery.torn();
    let Recovery { rt, dir, options, names, found, recovered, tables } = recovery;
    let (rt, dir) = (&rt, dir.as_path());
    if let Some(TornTail { path, pos }) = &torn {
        tracing::warn!(
            file = %path.display(),
            pos,
            "the manifest ends in an edit that is not whole; it was never acknowledged and is ignored"
        );
    }
    rt.create_dir_all(dir).await.map_err(|e| Fault::io(dir, "creating", &e))?;
    let tree = match (&found, options.origin.id) {
        (Some(found), _) => found.replayed.tree,
        (None, Some(id)) => id,
        (None, None) => rt.random(),
    };
    let used = names.iter().filter_map(|name| file_number(name).or_else(|| manifest::file_number(name)));
    let next_number = used.max().map_or(recovered.next_number, |most| recovered.next_number.max(most + 1));

    let shared = Rc::new(Shared {
        rt: rt.clone(),
        dir: dir.to_owned(),
        cache: Rc::new(BlockCache::new(options.cache_bytes - options.row_cache_bytes())),
        rows: RowCache::new(options.row_cache_bytes()),
        active: Rc::new(Memtable::new(0)).into(),
        closed: Default::default(),
        version: Rc::new(recovered.version).into(),
        last_seq: SeqNo(recovered.last_seq).into(),
        numbers: Rc::new((next_number + 1).into()),
        generations: 0.into(),
        readers: Default::default(),
        flushed: recovered.flushed.into(),
        states: recovered.states.into(),
        advances: Default::default(),
        advanced: Default::default(),
        flush_waiters: Default::default(),
        compact_waiters: Default::default(),
        ingests: Default::default(),
        sharings: Default::default(),
        spent: Default::default(),
        files: tables,
        in_force: Default::default(),
        looked_to: Default::default(),
        pace: Rc::new(Pace::new(options.compaction_bytes_per_second)),
        brake: Default::default(),
        l0_and_debt: Default::default(),
        erased_bytes: Default::default(),
        flushing_bytes: Default::default(),
        work: Default::default(),
        stopping: false.into(),
        stopped: Default::default(),
        fault: Default::default(),
        stats: Default::default(),
        short_of: Default::default(),
        tail_was_torn: torn.is_some(),
        options,
    });
    let manifest = match (Manifest::begin(rt, dir, tree, next_number, &shared.whole()).await, found) {
        (Err(fault), Some(Found { number, bytes, .. })) if fault.is_passing() => {
            Manifest::resume(rt, dir, tree, number, &bytes).await?
        }
        (begun, _) => begun?,
    };
    shared.puts_in_force(Some(&manifest));
    shared.measure_backlog();
    remove_orphans(&shared, &names, manifest.number()).await?;
    rt.spawn(maintain::run(shared.clone(), manifest));
    shared.work.ring();
    Ok(shared)
}

impl Recovered {
    fn add(&mut self, edit: &Edit, dir: &Path, files: &Rc<Files>) -> std::result::Result<(), String> {
        let make = |meta: &_| Rc::new(Table::new(Clone::clone(meta), dir, files.clone()));
        self.version = self.version.apply(edit, make)?;
        for MarkRow { group, applied } in &edit.marks {
            match applied {
                Some(applied) => {
                    let known = self.flushed.entry(*group).or_insert(0);
                    *known = (*known).max(*applied);
                }
                None => {
                    self.flushed.remove(group);
                    self.states.remove(group);
                }
            }
        }
        for StateRow { group, state } in &edit.states {
            self.states.insert(*group, Arc::from(&state[..]));
        }
        self.next_number = self.next_number.max(edit.next_number);
        self.last_seq = self.last_seq.max(edit.last_seq);
        Ok(())
    }
}

/// Removes what is neither the manifest in force nor a table of the version.
async fn remove_orphans(shared: &Shared, names: &[String], manifest_number: u64) -> Result<()> {
    if shared.tail_was_torn {
        return Ok(());
    }
    let version = shared.version.borrow().clone();
    for name in names {
        let orphan = match (file_number(name), manifest::file_number(name)) {
            (Some(table), _) => !version.shows_file(table),
            (_, Some(manifest)) => manifest != manifest_number,
            _ => false,
        };
        if orphan {
            let path = shared.dir.join(name);
            match shared.rt.remove(&path).await.map_err(|e| Fault::io(&path, "removing", &e)) {
                // It does no harm, and the next opening tries again.
                Err(fault) if fault.is_passing() => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}
