//! A data directory read from outside, for `ringkeep inspect`: what a start would find, and more, because every table is read.
//!
//! The questions are the very ones that a start asks, by the same code: IDENT, log and tree of every store, what the two vouch for, the
//! scheduler's state. Nothing on disk is changed, and one damaged part hides no other.

use std::path::{Path, PathBuf};

use engine::error::Fault;
use engine::log::{self, LogOptions};
use engine::lsm::{self, TreeOptions};
use engine::rt::Rt;
use scheduler::StoreId;

use super::contacts::{self, Contacts};
use super::core::SYSTEM_STORE;
use super::identity::{Holding, Ident, IdentState, Identity};
use crate::region::system::GROUP;
use crate::shard::vouch::vouch;
use crate::shard::{lineage, remembered};

/// What was found in a directory.
#[derive(Debug, Default)]
pub struct Examined {
    /// Its IDENT, if that can be read.
    pub ident: Option<Ident>,
    /// Per store that could be read at all.
    pub stores: Vec<StoreFound>,
    /// Remarks on what is no damage, such as a write that was cut short.
    pub notes: Vec<String>,
    /// What a start would refuse, or a read would meet.
    pub damage: Vec<Damage>,
}

/// Something that is wrong, with the place and what to do.
#[derive(Debug)]
pub struct Damage {
    /// The file or directory.
    pub path: PathBuf,
    /// One sentence, the remedy included.
    pub what: String,
}

/// What one store holds.
#[derive(Debug)]
pub struct StoreFound {
    /// The store's id.
    pub store: u64,
    /// Regions in its log; nothing if that cannot be read, which is a damage.
    pub regions: Option<usize>,
    /// Records and segments of its log, as far as it can be read.
    pub log: Option<(u64, usize)>,
    /// Tables of its tree, as far as that can be read.
    pub tables: Option<usize>,
}

/// Reads everything in `dir`.
pub async fn examine(rt: &Rt, dir: &Path) -> Examined {
    let mut examined = Examined::default();
    match Ident::read(rt, dir).await {
        Err(fault) => examined.damaged(&fault),
        Ok(None) => {
            let nothing = Fault::foreign(dir, "there is no ringkeep data directory here; name another one");
            examined.damaged(&nothing);
        }
        Ok(Some(ident)) => {
            let mut held = false;
            for (index, holding) in ident.holdings.iter().enumerate() {
                let holds_state = examined.store(rt, dir, ident.identity.store_id(index), holding).await;
                held |= index == SYSTEM_STORE && holds_state;
            }
            if ident.schedulers.is_empty() {
                examined.scheduler(rt, dir, &ident, held).await;
            }
            if ident.state == IdentState::Bootstrap {
                examined
                    .notes
                    .push("the directory is not bootstrapped yet; the next start finishes that".into());
            }
            examined.contacts(rt, dir).await;
            examined.ident = Some(ident);
        }
    }
    examined
}

/// The stores of `dir`, each with what keeps a start from opening it, if anything does. Logs and trees are read as a start reads them,
/// and no table. A directory that has none yet has nothing to open.
///
/// # Errors
/// IDENT is there and cannot be used.
pub async fn openings(rt: &Rt, dir: &Path) -> Result<Vec<(StoreId, Option<Fault>)>, Fault> {
    let Some(ident) = Ident::read(rt, dir).await? else { return Ok(Vec::new()) };
    let mut stores = Vec::new();
    if ident.state == IdentState::Bootstrap {
        return Ok(stores);
    }
    for (index, holding) in ident.holdings.iter().enumerate() {
        let store = ident.identity.store_id(index);
        let store_dir = Identity::store_dir(dir, store);
        let opened = match read(rt, &store_dir, holding).await {
            (Ok(log), Ok(tree)) => vouch(&store_dir, &log, &tree),
            (Err(fault), _) | (_, Err(fault)) => Err(fault),
        };
        stores.push((store, opened.err()));
    }
    Ok(stores)
}

/// The log and the tree of a store, as a start reads them.
async fn read(
    rt: &Rt,
    store_dir: &Path,
    holding: &Holding,
) -> (Result<log::Recovery, Fault>, Result<lsm::Recovery, Fault>) {
    let log_options = LogOptions { origin: holding.log_origin(), ..LogOptions::default() };
    let tree_options = TreeOptions { origin: holding.tree_origin(), ..TreeOptions::default() };
    let log = log::Recovery::read(rt, &store_dir.join("log"), log_options).await;
    (log, lsm::Recovery::read(rt, &store_dir.join("tree"), tree_options).await)
}

impl Examined {
    fn damaged(&mut self, fault: &Fault) {
        let remedy = fault.remedy().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        self.damage.push(Damage { path: fault.path.clone(), what: format!("{}{remedy}", fault.what) });
    }

    /// A list of addresses that cannot be used is made anew by the next start.
    async fn contacts(&mut self, rt: &Rt, dir: &Path) {
        let path = dir.join(contacts::FILE);
        let why = match rt.read_small(&path).await {
            Ok(bytes) => Contacts::parse(&bytes).err().map(str::to_owned),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => Some(error.to_string()),
        };
        if let Some(why) = why {
            let what = format!("{}: {why}; the addresses in it are asked for anew", path.display());
            self.notes.push(what);
        }
    }

    /// Examines one store. Whether it has the scheduler's state, or cannot say because its log is damaged.
    async fn store(&mut self, rt: &Rt, dir: &Path, store: StoreId, holding: &Holding) -> bool {
        let store_dir = Identity::store_dir(dir, store);
        let (log, tree) = read(rt, &store_dir, holding).await;
        if let (Ok(log), Ok(tree)) = (&log, &tree)
            && let Err(fault) = vouch(&store_dir, log, tree)
        {
            self.damaged(&fault);
        }
        let mut found = StoreFound { store: store.0, regions: None, log: None, tables: None };
        let mut holds_state = true;
        match &log {
            Err(fault) => self.damaged(fault),
            Ok(log) => {
                holds_state = log.last_index(GROUP.0).is_some();
                let regions = log.groups().iter().filter(|group| **group != GROUP.0).count();
                (found.regions, found.log) = (Some(regions), Some(log.size()));
                if let Some(cut) = log.torn() {
                    self.notes.push(format!("the next start does this: {cut}"));
                }
            }
        }
        match &tree {
            Err(fault) => self.damaged(fault),
            Ok(tree) => {
                let tables = tree.tables();
                found.tables = Some(tables.len());
                if let Some(torn) = tree.torn() {
                    self.notes.push(format!(
                        "{}: the edit at byte {} is not whole; it was never acknowledged, and the next start ignores it",
                        torn.path.display(),
                        torn.pos
                    ));
                }
                for (path, body_crc) in tables {
                    if let Err(fault) = lsm::inspect::table_of(&path, body_crc) {
                        self.damaged(&fault);
                    }
                }
            }
        }
        match remembered::examine(rt, &store_dir).await {
            Ok(faults) => faults.iter().for_each(|fault| self.damaged(fault)),
            Err(fault) => self.damaged(&fault),
        }
        match lineage::examine(rt, &store_dir).await {
            Ok(note) => self.notes.extend(note),
            Err(fault) => self.damaged(&fault),
        }
        self.stores.push(found);
        holds_state
    }

    async fn scheduler(&mut self, rt: &Rt, dir: &Path, ident: &Ident, held: bool) {
        let dir = dir.join("scheduler");
        if let Err(error) = crate::control::check(rt, &dir, ident.identity.cluster, ident.ids, held).await {
            self.damage.push(Damage { path: dir, what: error.to_string() });
        }
    }
}
