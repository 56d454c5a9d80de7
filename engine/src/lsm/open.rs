//! Opening a tree: the manifest says what there is, the directory must agree.
//!
//! No table is read. A table that the manifest names and the directory lacks is a fault. Files that no edit names are left
//! over from a crash and removed, except after a torn manifest tail: then they may be all that is left of an edit that once
//! was durable, and stay until an opening without that doubt.

use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;

use super::cache::BlockCache;
use super::maintain;
use super::manifest::{self, CURRENT, Found, Manifest};
use super::memtable::Memtable;
use super::options::TreeOptions;
use super::pace::Pace;
use super::rows::RowCache;
use super::table::read::{Table, Waste, file_name, file_number};
use super::version::{Edit, MarkRow, Version};
use super::{SeqNo, Shared};
use crate::error::{Fault, Result};
use crate::rt::Rt;

/// What the edits of a manifest add up to.
#[derive(Debug, Default)]
struct Recovered {
    version: Version,
    flushed: std::collections::BTreeMap<u64, u64>,
    next_number: u64,
    last_seq: u64,
}

pub(super) async fn open(rt: &Rt, dir: &Path, options: TreeOptions) -> Result<Rc<Shared>> {
    make_dir(rt, dir).await?;
    let names = rt.read_dir(dir).await.map_err(|e| Fault::io(dir, "listing", &e))?;
    let found = manifest::recover(rt, dir).await?;
    if found.is_none() && names.iter().any(|name| file_number(name).is_some()) {
        return Err(Fault::corruption(
            &dir.join(CURRENT),
            "there are tables and no file that names their manifest",
        ));
    }
    let waste = Rc::new(Waste::default());
    let mut recovered = Recovered { next_number: 1, ..Recovered::default() };
    let mut tail_was_torn = false;
    if let Some(Found { number, replayed, .. }) = &found {
        tail_was_torn = replayed.torn_at.is_some();
        let path = dir.join(manifest::file_name(*number));
        for edit in &replayed.edits {
            recovered.add(edit, dir, &waste).map_err(|what| Fault::corruption(&path, what))?;
        }
        recovered.next_number = recovered.next_number.max(number + 1);
    }
    require_tables(&recovered.version, &names, dir)?;
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
        advances: Default::default(),
        advanced: Default::default(),
        flush_waiters: Default::default(),
        compact_waiters: Default::default(),
        spent: Default::default(),
        waste,
        pace: Rc::new(Pace::new(options.compaction_bytes_per_second)),
        work: Default::default(),
        stopping: false.into(),
        stopped: Default::default(),
        fault: Default::default(),
        stats: Default::default(),
        short_of: None.into(),
        tail_was_torn,
        options,
    });
    let manifest = match (Manifest::begin(rt, dir, next_number, &shared.whole()).await, found) {
        (Err(fault), Some(Found { number, bytes, .. })) if fault.is_passing() => {
            Manifest::resume(rt, dir, number, &bytes).await?
        }
        (begun, _) => begun?,
    };
    remove_orphans(&shared, &names, manifest.number()).await?;
    rt.spawn(maintain::run(shared.clone(), manifest));
    shared.work.ring();
    Ok(shared)
}

impl Recovered {
    fn add(&mut self, edit: &Edit, dir: &Path, waste: &Rc<Waste>) -> std::result::Result<(), String> {
        let make = |meta: &_| Rc::new(Table::new(Clone::clone(meta), dir, waste.clone()));
        self.version = self.version.apply(edit, make)?;
        for MarkRow { group, applied } in &edit.marks {
            match applied {
                Some(applied) => {
                    let known = self.flushed.entry(*group).or_insert(0);
                    *known = (*known).max(*applied);
                }
                None => {
                    self.flushed.remove(group);
                }
            }
        }
        self.next_number = self.next_number.max(edit.next_number);
        self.last_seq = self.last_seq.max(edit.last_seq);
        Ok(())
    }
}

/// The directory, durably there.
async fn make_dir(rt: &Rt, dir: &Path) -> Result<()> {
    if rt.exists(dir).await.map_err(|e| Fault::io(dir, "looking it up", &e))? {
        return Ok(());
    }
    rt.create_dir_all(dir).await.map_err(|e| Fault::io(dir, "creating", &e))?;
    match dir.parent() {
        Some(parent) => rt.sync_dir(parent).await.map_err(|e| Fault::io(parent, "syncing the directory", &e)),
        None => Ok(()),
    }
}

fn require_tables(version: &Version, names: &[String], dir: &Path) -> Result<()> {
    let present: BTreeSet<u64> = names.iter().filter_map(|name| file_number(name)).collect();
    match version.tables().find(|table| !present.contains(&table.meta.file)) {
        Some(missing) => {
            let path = dir.join(file_name(missing.meta.file));
            Err(Fault::corruption(&path, "the manifest names this table and it is not there"))
        }
        None => Ok(()),
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
                // It harms nobody, and the next opening tries again.
                Err(fault) if fault.is_passing() => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}
