//! Opening a tree: the manifest says what there is, the directory must agree.
//!
//! No table is read. A table that the manifest names and that the directory lacks, or has with another length, is a fault. Files that no edit names are left
//! over from a crash and removed, except after a torn manifest tail: then they may be all that is left of an edit that once
//! was durable, and stay until an opening without that doubt.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use super::cache::BlockCache;
use super::maintain;
use super::manifest::{self, CURRENT, Found, Manifest};
use super::memtable::Memtable;
use super::options::TreeOptions;
use super::pace::Pace;
use super::rows::RowCache;
use super::table::files::Files;
use super::table::read::{Table, file_name, file_number};
use super::version::{Edit, MarkRow, Version};
use super::{SeqNo, Shared};
use crate::error::{Fault, Result};
use crate::rt::Rt;

/// What the edits of a manifest add up to.
#[derive(Debug, Default)]
struct Recovered {
    version: Version,
    flushed: BTreeMap<u64, u64>,
    next_number: u64,
    last_seq: u64,
}

pub(super) async fn open(rt: &Rt, dir: &Path, options: TreeOptions) -> Result<Rc<Shared>> {
    make_dir(rt, dir).await?;
    let files = rt.file_lengths(dir).await.map_err(|e| Fault::io(dir, "listing", &e))?;
    let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
    let found = manifest::recover(rt, dir).await?;
    if found.is_none() && names.iter().any(|name| file_number(name).is_some()) {
        return Err(Fault::corruption(
            &dir.join(CURRENT),
            "there are tables and no file that names their manifest",
        ));
    }
    let tables = Rc::new(Files::new(options.open_tables_max));
    let mut recovered = Recovered { next_number: 1, ..Recovered::default() };
    let mut tail_was_torn = false;
    if let Some(Found { number, replayed, .. }) = &found {
        tail_was_torn = replayed.torn_at.is_some();
        let path = dir.join(manifest::file_name(*number));
        for edit in &replayed.edits {
            recovered.add(edit, dir, &tables).map_err(|what| Fault::corruption(&path, what))?;
        }
        recovered.next_number = recovered.next_number.max(number + 1);
    }
    require_tables(&recovered.version, &files, dir)?;
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
        files: tables,
        pace: Rc::new(Pace::new(options.compaction_bytes_per_second)),
        brake: Default::default(),
        l0_and_debt: Default::default(),
        flushing_bytes: Default::default(),
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

/// The first table, by number, that is not there as the manifest says.
fn require_tables(version: &Version, files: &[(String, u64)], dir: &Path) -> Result<()> {
    let present: BTreeMap<u64, u64> =
        files.iter().filter_map(|(name, len)| Some((file_number(name)?, *len))).collect();
    let wanted: BTreeMap<u64, u64> =
        version.tables().map(|table| (table.meta.file, table.meta.file_bytes)).collect();
    for (file, bytes) in wanted {
        let what = match present.get(&file) {
            Some(found) if *found == bytes => continue,
            Some(found) => format!("the table has {found} bytes and the manifest says {bytes}"),
            None => "the manifest names this table and it is not there".to_owned(),
        };
        let remedy = "put the file back, or restore the store from a copy";
        return Err(Fault::corruption(&dir.join(file_name(file)), format!("{what}: {remedy}")));
    }
    Ok(())
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
