//! What happens before any data core starts: the ports are tried, the directory is locked and recognised, the log's sync method is
//! settled, and the plan that all cores follow is made.
//!
//! Invariant: a start that is refused because of a port or of a foreign directory has changed nothing on disk.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::error::{Fault, FaultKind, Shortage};
use engine::log::{LogOptions, SyncMethod as Method, measure_sync};
use engine::lsm::TreeOptions;
use engine::rt::{DirLock, Rt, SharedPort};
use scheduler::StoreId;

use super::contacts::Contacts;
use super::core::Plan;
use super::identity::Ident;
use super::join;
use super::listen::CannotListen;
use super::{StartError, bootstrap};
use crate::config::limits::MEMTABLES;
use crate::config::{Config, Limits, SyncMethod};
use crate::memory::Memory;
use crate::plant::{Bug, planted};
use crate::region::neighbours::SILENT_TICKS;
use crate::shard::ShardLimits;
use crate::shard::open::ShardOptions;
use crate::shard::openings::Openings;
use crate::shard::startup::wait_out;
use crate::shard::upkeep::TICK;
use crate::wire::resp::Cursors;

/// A process that was just killed can hold its lock until its last disk operation ends.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Where the measured sync method is kept.
const SYNC_FILE: &str = "SYNC";

/// A directory that is ours.
pub(super) struct Opened {
    pub(super) dir: PathBuf,
    pub(super) ident: Ident,
    pub(super) sync: Method,
    pub(super) lock: Rc<DirLock>,
    pub(super) cursors: Cursors,
    /// Where other nodes were before the restart.
    pub(super) contacts: Contacts,
}

/// Locks and recognises the data directory. It is created if it does not exist, but not the directory that it lies in: that one
/// is missing where a path is mistyped or a disk is not mounted.
///
/// One without an identity begins a cluster, or joins that of `members`, if members are named there.
pub(super) async fn open_directory(
    rt: &Rt,
    config: &Config,
    limits: &Limits,
    members: &[SocketAddr],
) -> Result<Opened, StartError> {
    let dir = config.data_dir.clone();
    let locked = || wait_out(rt, || lock(rt, &dir));
    let found = wait_out(rt, || recognise(rt, &dir)).await?;
    // The lock of a directory that is ours changes nothing there, and who holds it has its ports, too.
    let held = if found.is_some() { Some(locked().await?) } else { None };
    let stores = found.map_or(limits.cores, |ident| ident.identity.stores);
    wait_out(rt, async || ports_are_free(rt, config, stores)).await??;
    wait_out(rt, || create(rt, &dir)).await?;
    let lock = match held {
        Some(lock) => lock,
        None => locked().await?,
    };
    let ident = identify(rt, config, limits, (&dir, members)).await?;
    let sync = wait_out(rt, || sync_method(rt, &dir, config.log.sync)).await?;
    let contacts = Contacts::read(rt, &dir).await;
    Ok(Opened { dir, ident, sync, lock: Rc::new(lock), cursors: Cursors::new(rt.random()), contacts })
}

/// Who the directory belongs to; one without an identity is given one.
async fn identify(
    rt: &Rt,
    config: &Config,
    limits: &Limits,
    (dir, members): (&Path, &[SocketAddr]),
) -> Result<Ident, StartError> {
    let found = wait_out(rt, || Ident::read(rt, dir)).await?;
    match (found, members) {
        (Some(ident), []) => Ok(ident),
        (Some(mut ident), members) => {
            if !planted(Bug::ClusterNotCompared) {
                join::check_identity(rt, &mut ident, (members, config.cluster_secret)).await?;
            }
            Ok(ident)
        }
        (None, []) => Ok(wait_out(rt, || Ident::open(rt, dir, limits.cores)).await?),
        (None, members) => {
            let (identity, schedulers) = join::identity(rt, config, limits, members).await?;
            let begin = || Ident::begin(rt, dir, identity.clone(), schedulers.clone());
            Ok(wait_out(rt, begin).await?)
        }
    }
}

/// The `IDENT` in `dir`; `None` if the directory is empty or does not exist.
async fn recognise(rt: &Rt, dir: &Path) -> Result<Option<Ident>, Fault> {
    if !rt.exists(dir).await.map_err(|error| Fault::io(dir, "looking for it", &error))? {
        return Ok(None);
    }
    Ident::read(rt, dir).await
}

/// Binds every port once. They are bound for good only when all stores can answer, which may be long after.
fn ports_are_free(rt: &Rt, config: &Config, stores: usize) -> Result<Result<(), StartError>, Fault> {
    let store = (0..stores).map(|index| ("store", config.store_addr(index), "base_port"));
    let fixed = [("PD", config.pd_addr(), "base_port"), ("RESP", config.resp_addr(), "resp_port")];
    for (what, addr, port_key) in fixed.into_iter().chain(store) {
        match rt.reserve_port(addr) {
            Ok(SharedPort { .. }) => {}
            Err(error) if Shortage::of(&error).is_some() => {
                return Err(Fault::io(
                    &config.data_dir,
                    &format!("trying the {what} address {addr}"),
                    &error,
                ));
            }
            Err(error) => {
                return Ok(Err(StartError(CannotListen { what, addr, port_key, error: &error }.to_string())));
            }
        }
    }
    Ok(Ok(()))
}

async fn create(rt: &Rt, dir: &Path) -> Result<(), Fault> {
    let exists = |path: PathBuf| async move {
        rt.exists(&path).await.map_err(|error| Fault::io(&path, "looking for it", &error))
    };
    let parent = dir.parent().map(Path::to_path_buf).filter(|parent| !parent.as_os_str().is_empty());
    if exists(dir.to_owned()).await? {
        return Ok(());
    }
    if let Some(parent) = parent
        && !exists(parent.clone()).await?
    {
        let what = format!(
            "this directory does not exist, so the data directory {} is not created in it: is the path right, is the disk \
             mounted? If so, create it first",
            dir.display()
        );
        return Err(Fault::foreign(&parent, what));
    }
    rt.create_dir_all(dir).await.map_err(|error| Fault::io(dir, "creating the data directory", &error))
}

async fn lock(rt: &Rt, dir: &Path) -> Result<DirLock, Fault> {
    for _ in 1..LOCK_TRIES {
        if let Ok(lock) = rt.lock_dir(dir).await {
            return Ok(lock);
        }
        rt.sleep(LOCK_PAUSE).await;
    }
    rt.lock_dir(dir).await.map_err(|error| {
        // "Try again" is how a lock that is held answers; whatever else it is, no other process is to be looked for.
        if error.kind() != std::io::ErrorKind::WouldBlock {
            return Fault::io(&dir.join("LOCK"), "locking the data directory", &error);
        }
        let what = format!(
            "another process holds the data directory ({error}): stop it, or give this node a directory of its own"
        );
        Fault { kind: FaultKind::Locked, path: dir.to_owned(), what }
    })
}

/// The configured method, or the one that was measured when the directory was new.
async fn sync_method(rt: &Rt, dir: &Path, wanted: SyncMethod) -> Result<Method, Fault> {
    match wanted {
        SyncMethod::Dsync => return Ok(Method::DurableWrite),
        SyncMethod::Fdatasync => return Ok(Method::WriteThenSync),
        SyncMethod::Auto => {}
    }
    let path = dir.join(SYNC_FILE);
    match rt.read_small(&path).await.as_deref() {
        Ok(b"dsync\n") => return Ok(Method::DurableWrite),
        Ok(b"fdatasync\n") => return Ok(Method::WriteThenSync),
        // Missing or unreadable: it is only a measurement, so it is taken again.
        _ => {}
    }
    let method = measure_sync(rt, dir).await?.recommended();
    let name: &[u8] = match method {
        Method::DurableWrite => b"dsync\n",
        Method::WriteThenSync => b"fdatasync\n",
    };
    rt.replace_small(&path, name).await.map_err(|error| Fault::io(&path, "writing it", &error))?;
    Ok(method)
}

/// What a turn writes to the log at a time, bytes: on a core with little memory less, because a turn has it up to three times, as entries, as a
/// batch and as the record that is written.
fn turn_bytes(core_bytes: u64) -> usize {
    const MIN: u64 = 4 << 20;
    const MAX: u64 = 16 << 20;
    (core_bytes / 32).clamp(MIN, MAX) as usize
}

/// What all cores follow.
pub(super) fn plan(config: &Config, limits: &Limits, opened: &Opened) -> Plan {
    let stores_per_core = opened.ident.identity.stores.div_ceil(limits.cores);
    // A node that joins starts with nothing, and is given its replicas by the scheduler.
    let first_regions = match opened.ident.schedulers.is_empty() {
        true => bootstrap::regions(&opened.ident.identity),
        false => Vec::new(),
    };
    let share = |bytes: u64| usize::try_from(bytes / stores_per_core as u64).unwrap_or(usize::MAX);
    Plan {
        dir: opened.dir.clone(),
        identity: opened.ident.identity.clone(),
        secret: config.cluster_secret,
        ids: opened.ident.ids,
        holdings: opened.ident.holdings.clone(),
        cores: limits.cores.min(opened.ident.identity.stores),
        pd_connections_max: limits.pd_connections_max,
        first_regions,
        schedulers: opened.ident.schedulers.clone(),
        peers: opened.contacts.stores.iter().map(|(store, address)| (*store, address.clone())).collect(),
        shard: ShardOptions {
            store: StoreId(0),
            system: false,
            may_be_empty: false,
            lock: Some(opened.lock.locked().clone()),
            log: LogOptions {
                segment_bytes: config.log.segment_bytes,
                sync: opened.sync,
                cache_bytes_max: share(limits.log_cache_bytes),
                ..LogOptions::default()
            },
            tree: TreeOptions {
                memtable_bytes: share(limits.memtable_bytes),
                cache_bytes: share(limits.block_cache_bytes),
                closed_memtables: MEMTABLES as usize - 1,
                open_tables_max: share(limits.open_tables_max as u64).max(1),
                ..TreeOptions::default()
            },
            limits: ShardLimits {
                inflight_bytes_max: share(limits.inflight_bytes),
                log_bytes_max: 8 * limits.memtable_bytes.max(config.log.segment_bytes),
                turn_bytes_max: turn_bytes(limits.core_bytes),
                segment_bytes: config.log.segment_bytes,
                reserve_bytes: 256 << 20,
                kept_entries: 1024,
                kept_bytes_max: 64 << 20,
                snapshot_piece_bytes: 64 << 20,
                snapshot_bytes_per_second: 64 << 20,
            },
            memory: Memory::new(limits.memory),
            raft: Arc::new(raft_config(config.quiet_after)),
            openings: Openings::of_node(opened.ident.identity.stores),
        },
    }
}

/// Binds the RESP port that the cores will share.
pub(super) fn reserve_resp(rt: &Rt, config: &Config) -> Result<SharedPort, StartError> {
    let wanted = config.resp_addr();
    rt.reserve_port(wanted).map_err(|error| {
        StartError(
            CannotListen { what: "RESP", addr: wanted, port_key: "resp_port", error: &error }.to_string(),
        )
    })
}

/// How long a leader may read without asking after a quorum has heard it. With the drift that voters allow for, it ends before the
/// shortest election timeout.
const LEASE: Duration = Duration::from_millis(800);

/// The consensus settings of all groups: an election timeout of ten to twenty ticks, a heartbeat every second tick, and sleep after
/// `quiet_after` without work, never if that is zero.
pub(super) fn raft_config(quiet_after: Duration) -> raft::Config {
    let ticks = quiet_after.as_millis().div_ceil(TICK.as_millis());
    let config = raft::Config {
        quiet_after_ticks: u32::try_from(ticks).unwrap_or(u32::MAX),
        entry_bytes_max: 16 << 20,
        // The end of a shipment is reported, whatever it is. This is for reports that never come.
        snapshot_ticks_max: 36_000,
        lease_nanos: u64::try_from(LEASE.as_nanos()).expect("less than a second"),
        // What a follower has applied is read only after it has asked the leader, which answers with the index then.
        commits_at_once: false,
        ..raft::Config::default()
    };
    let shortest = TICK * config.election_ticks;
    assert!(
        Duration::from_nanos(config.promise_nanos()) < shortest,
        "a promise outlives an election timeout"
    );
    assert_eq!(config.election_ticks, SILENT_TICKS, "a store is given up when a group would be");
    if let Err(wrong) = config.validate() {
        panic!("{wrong}: the settings of a node are checked when they are read");
    }
    config
}
